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
    Nats::check_sync(&eager.monitor_urls()).await.unwrap();
    let both = [eager.monitor_urls(), lazy.monitor_urls()].concat();
    let message = Nats::check_sync(&both).await.unwrap_err();
    assert!(matches!(message, NatsError::Refused(_)));
    assert!(message.to_string().contains("sync_interval: always"), "{message}");
    let nobody = Nats::check_sync(&["http://127.0.0.1:1".into()]).await.unwrap_err();
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
