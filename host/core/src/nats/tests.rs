//! Connecting: what is refused, what is waited for, and what comes back.

#![allow(clippy::unwrap_used)]

use super::{
    local::{LocalOptions, LocalServers},
    *,
};
use tokio::{io::AsyncWriteExt, net::TcpListener};

fn options(servers: Vec<String>) -> NatsOptions {
    NatsOptions {
        servers,
        credentials: None,
        tls: Default::default(),
        cluster: format!("t{:016x}", crate::random::seed()),
        replicas: 1,
        streams: 1,
        boot_wait: Duration::from_secs(60),
    }
}

async fn refused(options: NatsOptions) -> String {
    match Nats::connect(options).await {
        Err(NatsError::Refused(message)) => message,
        Err(other) => panic!("not refused: {other}"),
        Ok(_) => panic!("not refused"),
    }
}

/// Servers that accept several writers for one append must not be used, whatever else they can do.
#[tokio::test]
async fn old_servers_are_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://someone:secret@{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let info = r#"INFO {"server_id":"X","version":"2.10.24","max_payload":1048576}"#;
        stream.write_all(format!("{info}\r\n").as_bytes()).await.unwrap();
    });
    let message = refused(options(vec![url])).await;
    assert!(message.contains("2.10.24") && message.contains("2.10.25"), "{message}");
    assert!(!message.contains("secret"), "{message}");
    server.await.unwrap();
}

/// In a cluster a node often starts before the servers; an endless wait hides a typing error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_waits_for_the_servers_and_no_longer_than_it_may() {
    let dir = tempfile::tempdir().unwrap();
    let servers = LocalServers::start(LocalOptions::new(1, dir.path())).await.unwrap();
    servers.kill(0);
    let mut late = options(servers.urls());
    late.servers[0] = late.servers[0].replace("nats://", "nats://me:secret@");
    let bounded = NatsOptions { boot_wait: Duration::from_millis(300), ..late.clone() };
    let message = Nats::connect(bounded).await.err().unwrap();
    assert!(matches!(message, NatsError::Unavailable(_)));
    let message = message.to_string();
    assert!(
        message.contains(servers.urls()[0].as_str()) && !message.contains("secret"),
        "{message}"
    );
    let waiting = tokio::spawn(Nats::connect(late));
    servers.start_server(0).await.unwrap();
    let nats = waiting.await.unwrap().unwrap();
    assert_eq!(nats.max_payload, limits::NATS_LOCAL_PAYLOAD_BYTES);

    // It disconnects and reconnects: this is noticed, and requests meanwhile are not queued
    // forever.
    let mut connected = nats.connected.clone();
    assert!(*connected.borrow());
    servers.kill(0);
    connected.wait_for(|connected| !connected).await.unwrap();
    let asked = nats.inbox.request("nobody", Default::default(), Duration::from_millis(50)).await;
    assert!(matches!(asked, Err(inbox::NoAnswer::Timeout | inbox::NoAnswer::Lost)), "{asked:?}");
    assert_eq!(nats.inbox.waiting(), 0);
    servers.start_server(0).await.unwrap();
    nats.wait_connected().await;
    let wait = Duration::from_secs(30);
    let asked = nats.inbox.request("nobody", Default::default(), wait).await;
    assert_eq!(asked.err(), Some(inbox::NoAnswer::NoResponders));
}

/// The server distinguishes users; slotd must authenticate, and report when it is refused
/// everywhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_taken_from_the_url() {
    let dir = tempfile::tempdir().unwrap();
    let mut local = LocalOptions::new(1, dir.path());
    local.config =
        "accounts {\n  a { jetstream: enabled, users: [{ user: me, password: \"p@:w\" }] }\n  \
                    b { users: [{ user: poor, password: x }] }\n}"
            .into();
    let servers = LocalServers::start(local).await.unwrap();
    let with = |user: &str| options(vec![servers.urls()[0].replace("//", &format!("//{user}@"))]);
    Nats::connect(with("me:p%40%3Aw")).await.unwrap();
    let message = refused(with("me:wrong")).await;
    assert!(message.contains("refused the credentials"), "{message}");
    let message = refused(with("poor:x")).await;
    assert!(message.contains("not enabled"), "{message}");
    let mut both = with("me:p%40%3Aw");
    both.servers.push("nats://you@127.0.0.1:1".into());
    let message = refused(both).await;
    assert!(message.contains("different users"), "{message}");
}

/// As a token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_taken_from_the_url() {
    let dir = tempfile::tempdir().unwrap();
    let mut local = LocalOptions::new(1, dir.path());
    local.config = "authorization { token: t0ken }".into();
    let servers = LocalServers::start(local).await.unwrap();
    let with = |user: &str| options(vec![servers.urls()[0].replace("//", &format!("//{user}"))]);
    Nats::connect(with("t0ken@")).await.unwrap();
    refused(with("")).await;
}

/// Servers that can't keep what they acknowledge must be reported at the start, not after the power
/// loss.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_acknowledge_before_they_sync_are_found() {
    let (lazy, eager) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut local = LocalOptions::new(1, lazy.path());
    local.sync_always = false;
    let lazy = LocalServers::start(local).await.unwrap();
    let eager = LocalServers::start(LocalOptions::new(1, eager.path())).await.unwrap();
    Nats::check_sync(&eager.monitor_urls(), &ClientFiles::default()).await.unwrap();
    let both = [eager.monitor_urls(), lazy.monitor_urls()].concat();
    let message = Nats::check_sync(&both, &ClientFiles::default()).await.unwrap_err();
    assert!(matches!(message, NatsError::Refused(_)));
    assert!(message.to_string().contains("sync_interval: always"), "{message}");
    let nobody = Nats::check_sync(&["http://127.0.0.1:1".into()], &ClientFiles::default())
        .await
        .unwrap_err();
    assert!(matches!(nobody, NatsError::Unavailable(_)), "{nobody}");
    // And three replicas on one server are none.
    let message = refused(NatsOptions { replicas: 3, ..options(eager.urls()) }).await;
    assert!(message.contains("nats.replicas"), "{message}");
}

/// Names become parts of subjects; a dot or a star in one would match another cluster's.
#[tokio::test]
async fn options_that_make_no_sense_are_refused() {
    let good = || options(vec!["nats://127.0.0.1:1".into()]);
    for cluster in ["", "a.b", "a*", "a b", "ä"] {
        refused(NatsOptions { cluster: cluster.into(), ..good() }).await;
    }
    refused(NatsOptions { replicas: 2, ..good() }).await;
    refused(NatsOptions { streams: 0, ..good() }).await;
    refused(NatsOptions { servers: vec![], ..good() }).await;
    let credentials = Some("/nowhere/slotd.creds".into());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let info = b"INFO {\"version\":\"2.15.1\",\"max_payload\":1048576}\r\n";
        listener.accept().await.unwrap().0.write_all(info).await.unwrap();
    });
    let message = refused(NatsOptions { credentials, ..options(vec![url]) }).await;
    assert!(message.contains("/nowhere/slotd.creds"), "{message}");
}

/// Nodes that lost a server together must not reconnect in step, nor ever give up.
#[test]
fn reconnects_back_off_within_bounds() {
    assert_eq!(reconnect_delay(0), Duration::ZERO);
    assert_eq!(reconnect_delay(1), Duration::ZERO);
    for attempt in 2..200 {
        let delay = reconnect_delay(attempt);
        assert!(delay >= limits::NATS_RECONNECT_MIN / 2 && delay <= limits::NATS_RECONNECT_MAX);
    }
    assert!(reconnect_delay(60) >= limits::NATS_RECONNECT_MAX / 2);
}

/// An authority, a server's certificate for 127.0.0.1, and a client's, as files.
fn certificates(dir: &std::path::Path) -> ClientFiles {
    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose as Purpose, IsCa, Issuer,
        KeyPair, SanType,
    };
    std::fs::create_dir_all(dir).unwrap();
    let write = |name: &str, text: String| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = write("ca.pem", params.self_signed(&key).unwrap().pem());
    let issuer = Issuer::new(params, key);
    let issue = |name: &str, purpose: Purpose| {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
        params.extended_key_usages = vec![purpose];
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap().pem();
        let certificate = write(&format!("{name}.pem"), certificate);
        (certificate, write(&format!("{name}.key"), key.serialize_pem()))
    };
    issue("server", Purpose::ServerAuth);
    let certificate = Some(issue("client", Purpose::ClientAuth));
    ClientFiles { authority: Some(authority), certificate }
}

fn tls_of_server(dir: &std::path::Path) -> String {
    let file = |name: &str| dir.join(name).display().to_string();
    format!(
        "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}\n",
        file("server.pem"),
        file("server.key"),
        file("ca.pem")
    )
}

/// Without it messages would go to NATS in clear, or to a server that only says it is one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_verify_are_spoken_to_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("own");
    let tls = certificates(&own);
    let config = tls_of_server(&own);
    let options_of = LocalOptions { config, ..LocalOptions::new(1, dir.path()) };
    let servers = LocalServers::start(options_of).await.unwrap();
    let with = |tls: ClientFiles| NatsOptions {
        tls,
        boot_wait: Duration::from_millis(300),
        ..options(servers.urls())
    };
    let nats =
        Nats::connect(NatsOptions { boot_wait: Duration::from_secs(60), ..with(tls.clone()) });
    assert!(nats.await.unwrap().answers(Duration::from_secs(20)).await);

    let elsewhere = certificates(&dir.path().join("other"));
    let nobody = ClientFiles { certificate: None, ..tls.clone() };
    let of_others = ClientFiles { authority: elsewhere.authority.clone(), ..tls.clone() };
    for wrong in [nobody, of_others] {
        let error = Nats::connect(with(wrong.clone())).await.err().unwrap();
        assert!(matches!(error, NatsError::Unavailable(_)), "{wrong:?}: {error}");
    }
    // What is wrong with the files is no reason to wait.
    let (certificate, _) = tls.certificate.clone().unwrap();
    let (_, key) = elsewhere.certificate.unwrap();
    let unfit = ClientFiles { certificate: Some((certificate, key)), ..tls.clone() };
    let message = refused(with(unfit)).await;
    assert!(message.contains("is not that of the certificate"), "{message}");
    let gone = ClientFiles { authority: Some(dir.path().join("none")), ..tls };
    assert!(refused(with(gone)).await.contains("can't be read"));
}

/// Without it servers whose monitoring port speaks TLS could not be checked for what a power loss would
/// cost.
#[tokio::test]
async fn monitoring_ports_may_speak_tls() {
    struct Killed(std::process::Child);
    impl Drop for Killed {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let tls = certificates(dir.path());
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let config = format!(
        "port: -1\nhttps: \"127.0.0.1:{port}\"\n{}jetstream {{ store_dir: {:?}, sync_interval: always }}\n",
        tls_of_server(dir.path()),
        dir.path().join("data"),
    );
    let file = dir.path().join("nats.conf");
    std::fs::write(&file, config).unwrap();
    let mut command = std::process::Command::new(find::find().unwrap().path);
    command.arg("--config").arg(file).stderr(std::process::Stdio::null());
    let _server = Killed(command.spawn().unwrap());
    let url = [format!("https://127.0.0.1:{port}/")];
    let started = crate::clock::now();
    while let Err(error) = Nats::check_sync(&url, &tls).await {
        assert!(matches!(error, NatsError::Unavailable(_)), "{error}");
        assert!(started.elapsed() < Duration::from_secs(20), "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let others = certificates(&dir.path().join("other"));
    assert!(matches!(Nats::check_sync(&url, &others).await, Err(NatsError::Unavailable(_))));
}
