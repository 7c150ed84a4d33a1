//! The same listener over TLS: handshakes, the ends of connections, and what they hold.

use super::*;
use crate::{
    buffers::Kind,
    http::PlaceLimits,
    tls::{
        ClientFiles, ListenerFiles, ListenerTls,
        authority::{Host, ListenerAuthority, Pair},
    },
};
use rustls::{
    ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    version::{TLS12, TLS13},
};
use slotd_access::{Access, Listener, Policy};
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tokio::io::AsyncRead;
use tokio_rustls::{TlsConnector, client::TlsStream};

type Tls = TlsStream<TcpStream>;

/// Files of a listener, and an authority that clients trust.
struct Certificates {
    dir: TempDir,
    authority: ListenerAuthority,
}

impl Certificates {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let (authority, own) = ListenerAuthority::generate().expect("an authority");
        std::fs::write(dir.path().join("ca.pem"), own.certificate).expect("written");
        let this = Self { dir, authority };
        this.renew();
        this
    }
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    fn write(&self, name: &str, pair: &Pair) {
        let key = self.path(&format!("{name}.key"));
        std::fs::write(key, &pair.key).expect("written");
        std::fs::write(self.path(&format!("{name}.pem")), &pair.certificate).expect("written");
    }
    /// Gives the listener another certificate.
    fn renew(&self) {
        let hosts = [Host::parse("localhost").expect("a name")];
        self.write("api", &self.authority.server(&hosts).expect("a certificate"));
    }
    fn files(&self) -> ListenerFiles {
        ListenerFiles {
            certificate: self.path("api.pem"),
            key: self.path("api.key"),
            client_authority: None,
        }
    }
    fn listener(&self) -> ListenerTls {
        ListenerTls::open("api", self.files()).expect("a listener's TLS")
    }
    /// A client that shows this.
    fn client_with(&self, certificate: Option<(PathBuf, PathBuf)>) -> TlsConnector {
        let files = ClientFiles { authority: Some(self.path("ca.pem")), certificate };
        TlsConnector::from(Arc::new(files.config().expect("a client")))
    }
    /// A client of one version.
    fn client(&self, version: &'static SupportedProtocolVersion) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_file(self.path("ca.pem")).expect("an authority");
        roots.add(authority).expect("a root");
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let config = config.with_protocol_versions(&[version]).expect("a version");
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config).into()
    }
}

async fn connect(client: &TlsConnector, address: SocketAddr) -> std::io::Result<Tls> {
    let stream = TcpStream::connect(address).await?;
    client.connect(ServerName::try_from("localhost").expect("a name"), stream).await
}

async fn start_over(tls: &ListenerTls, options: HttpOptions) -> Running {
    super::start_over(options, Shutdown::new(), Some(tls.clone())).await
}

/// An admin listener that accepts the certificates of clients of an authority.
struct AdminListener {
    address: SocketAddr,
    tls: ListenerTls,
    shutdown: Shutdown,
    task: tokio::task::JoinHandle<()>,
}

impl AdminListener {
    async fn start(certificates: &Certificates, clients: PathBuf, access: Access) -> Self {
        let files = ListenerFiles { client_authority: Some(clients), ..certificates.files() };
        let tls = ListenerTls::open("admin", files).expect("a listener's TLS");
        let shutdown = Shutdown::new();
        let options = HttpOptions { access, client_certificates: true, ..options() };
        let render = Arc::new(|| "slotd_x 1\n".to_owned());
        let admin = Admin::over(None, options, shutdown.clone(), render);
        let server = Server::bind(([127, 0, 0, 1], 0).into()).await.expect("bound");
        let address = server.local_addr();
        let server = server.with_tls(Some(tls.clone()));
        let task = tokio::spawn(server.serve(App::admin(admin), Duration::from_secs(10)));
        Self { address, tls, shutdown, task }
    }
    /// # Errors
    /// The handshake fails.
    async fn ask(&self, client: &TlsConnector, line: &str, more: &str) -> std::io::Result<Answer> {
        let mut stream = connect(client, self.address).await?;
        let request =
            format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut raw = Vec::new();
        stream.read_to_end(&mut raw).await?;
        Ok(Answer::parse(&raw))
    }
    async fn stop(self) {
        self.shutdown.trigger();
        self.task.await.expect("ended");
    }
}

/// Asks on a connection that stays open; the whole answer.
async fn ask(stream: &mut Tls, line: &str, body: &str) -> Answer {
    let length = body.len();
    let request = format!(
        "{line} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{JSON}\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.expect("written");
    stream.flush().await.expect("flushed");
    let mut raw = Vec::new();
    loop {
        assert!(stream.read_buf(&mut raw).await.expect("read") > 0, "{raw:?}");
        if raw.windows(4).any(|w| w == b"\r\n\r\n") {
            let answer = Answer::parse(&raw);
            let length = answer.header("content-length").map_or(Ok(0), str::parse);
            if answer.body.len() >= length.expect("a length") {
                return answer;
            }
        }
    }
}

async fn until(stream: &mut (impl AsyncRead + Unpin), text: &str) -> String {
    let mut raw = Vec::new();
    while !String::from_utf8_lossy(&raw).contains(text) {
        assert!(stream.read_buf(&mut raw).await.expect("read") > 0, "no {text} in {raw:?}");
    }
    String::from_utf8_lossy(&raw).into_owned()
}

const MESSAGE: &str = "POST /v1/services/chat/sessions/room%2F1/messages";

/// Without it clients of one version would be locked out, or each of their connections cost a whole
/// handshake, the renewal of a certificate one of every client at once.
#[tokio::test]
async fn both_versions_are_spoken_and_resumed() {
    let certificates = Certificates::new();
    let tls = certificates.listener();
    let node = start_over(&tls, options()).await;
    for version in [&TLS12, &TLS13] {
        let client = certificates.client(version);
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let mut stream = connect(&client, node.address).await.expect("a handshake");
            for _ in 0..3 {
                assert_eq!(ask(&mut stream, MESSAGE, "{}").await.status, 200);
            }
            kinds.push(stream.get_ref().1.handshake_kind());
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        }
        certificates.renew();
        tls.look(true);
        let mut stream = connect(&client, node.address).await.expect("a handshake");
        assert_eq!(ask(&mut stream, MESSAGE, "{}").await.status, 200);
        kinds.push(stream.get_ref().1.handshake_kind());
        let resumed = Some(HandshakeKind::Resumed);
        assert_eq!(kinds, [Some(HandshakeKind::Full), resumed, resumed], "{version:?}");
    }
}

/// Without it `http://` on a port of TLS would look like a broken server, and a client that is cut
/// while it sends would not see the answer.
#[tokio::test]
async fn a_request_in_clear_is_told_so() {
    let certificates = Certificates::new();
    let node = start_over(&certificates.listener(), options()).await;
    let body = "x".repeat(100_000);
    for body in ["", &body] {
        let answer = call(node.address, MESSAGE, "", body).await;
        assert_eq!(answer.status, 400);
        let said = String::from_utf8(answer.body).expect("UTF-8");
        assert!(said.starts_with("This port speaks TLS: use https://"), "{said}");
    }
    // Neither TLS nor HTTP: ended, with TLS's own word for it.
    let mut stream = TcpStream::connect(node.address).await.expect("connected");
    stream.write_all(&[0; 64]).await.expect("written");
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw).await.expect("an end");
    assert_eq!(raw.first(), Some(&0x15), "{raw:?}");
}

/// Without it connections that begin a handshake and go no further would keep others out.
#[tokio::test]
async fn a_slow_handshake_holds_its_own_place_alone() {
    let certificates = Certificates::new();
    let connections = PlaceLimits { max: 8, per_address: 8, probes: 4, ending: 4 };
    let node = start_over(&certificates.listener(), HttpOptions { connections, ..options() }).await;
    let client = certificates.client(&TLS13);
    let mut works = connect(&client, node.address).await.expect("a handshake");
    assert_eq!(ask(&mut works, MESSAGE, "{}").await.status, 200);
    let mut silent = Vec::new();
    for number in 0..40 {
        let mut stream = TcpStream::connect(node.address).await.expect("connected");
        // A record of a handshake, and some of its first message.
        let hello = [0x16, 3, 1, 0x3f, 0xff, 1, 0, 0x3f, 0xfb, 3, 3, 0];
        stream.write_all(&hello[..number % hello.len()]).await.expect("written");
        silent.push(stream);
        let mut other = connect(&client, node.address).await.expect("a handshake");
        assert_eq!(ask(&mut other, MESSAGE, "{}").await.status, 200, "behind {number}");
    }
    assert_eq!(ask(&mut works, MESSAGE, "{}").await.status, 200, "it was ended for a silent one");
    node.shutdown.trigger();
    drop(works);
    // Handshakes are no work to wait for.
    tokio::time::timeout(Duration::from_secs(5), node.task).await.expect("in time").expect("ended");
}

/// Without it an answer that nobody waits for would hold its request until the end of its time, or a
/// message lose its answer because its sender has said all that it has to say.
#[tokio::test]
async fn the_end_of_a_peer_ends_its_stream_and_not_its_message() {
    let certificates = Certificates::new();
    let node = start_over(&certificates.listener(), options()).await;
    for version in [&TLS12, &TLS13] {
        let client = certificates.client(version);
        for clean in [true, false] {
            let mut live = connect(&client, node.address).await.expect("a handshake");
            let request = format!("GET {ROOM}/events HTTP/1.1\r\nHost: localhost\r\n\r\n");
            live.write_all(request.as_bytes()).await.expect("written");
            until(&mut live, "retry: ").await;
            match clean {
                true => live.shutdown().await.expect("shut"),
                // TCP's end without TLS's.
                false => live.get_mut().0.shutdown().await.expect("shut"),
            }
            let mut rest = Vec::new();
            // Long before a keep-alive write could fail.
            let ended = live.read_to_end(&mut rest);
            let within = tokio::time::timeout(limits::EVENTS_KEEP_ALIVE / 2, ended).await;
            assert!(within.is_ok(), "the stream goes on for a client that is gone");
        }
        let mut last = connect(&client, node.address).await.expect("a handshake");
        let request = format!(
            "{MESSAGE} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}"
        );
        last.write_all(request.as_bytes()).await.expect("written");
        last.shutdown().await.expect("shut");
        let mut raw = Vec::new();
        last.read_to_end(&mut raw).await.expect("TLS's own end");
        assert_eq!(Answer::parse(&raw).status, 200);
    }
}

/// Without it events and answers that TLS took would stay in it, and a socket or stream hang.
#[tokio::test]
async fn sockets_and_streams_get_all_that_is_written() {
    let certificates = Certificates::new();
    let node = start_over(&certificates.listener(), options()).await;
    let client = certificates.client(&TLS13);
    let mut events = connect(&client, node.address).await.expect("a handshake");
    let request = format!("GET {ROOM}/events HTTP/1.1\r\nHost: localhost\r\n\r\n");
    events.write_all(request.as_bytes()).await.expect("written");
    until(&mut events, "retry: ").await;

    let stream = connect(&client, node.address).await.expect("a handshake");
    let url = format!("ws://localhost{ROOM}/socket");
    let (mut ws, _) = tokio_tungstenite::client_async(url, stream).await.expect("a socket");
    // More than TLS, the kernel and the peer hold together.
    let body = "x".repeat(48 * 1024);
    for number in 0..64 {
        let frame = json!({"type": "send", "id": format!("m{number}"), "body": body});
        ws.send(Message::text(frame.to_string())).await.expect("sent");
    }
    let (mut acks, mut told) = (0, 0);
    while acks < 64 || told < 64 {
        match ws.next().await.expect("more").expect("a frame") {
            Message::Text(text) => {
                let frame: Value = serde_json::from_str(&text).expect("JSON");
                match frame["type"].as_str() {
                    Some("ack") => acks += 1,
                    Some("event") => told += 1,
                    other => panic!("{other:?}"),
                }
            }
            other => panic!("{other:?}"),
        }
    }
    let seen = until(&mut events, "id: 64.0").await;
    assert_eq!(seen.matches("\nid: ").count(), 64);
    ws.close(None).await.expect("closed");
    while let Some(Ok(_)) = ws.next().await {}
}

/// Without it clients of TLS that read nothing, or send half a record, would use up the node's memory
/// unnoticed.
#[tokio::test]
async fn what_tls_holds_is_charged() {
    const MIB: usize = 1 << 20;
    let certificates = Certificates::new();
    let buffers = Arc::new(Buffers::new(64 * MIB));
    let options = HttpOptions { buffers: buffers.clone(), body_bytes_max: 4 * MIB, ..options() };
    let node = start_over(&certificates.listener(), options).await;
    let client = certificates.client(&TLS13);
    let large = format!("\"{}\"", "x".repeat(4 * MIB - 2));
    let mut stream = connect(&client, node.address).await.expect("a handshake");
    for _ in 0..4 {
        assert_eq!(ask(&mut stream, MESSAGE, &large).await.status, 200);
    }
    let page = format!("GET {ROOM}/messages HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut unread = connect(&client, node.address).await.expect("a handshake");
    unread.write_all(page.as_bytes()).await.expect("written");
    while buffers.held(Kind::Answers) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let refused = ask(&mut stream, &format!("GET {ROOM}/messages"), "").await;
    assert_eq!(refused.code(), (503, "buffers-full".into()));
    // All of it, once it is read.
    let mut left = 32 * MIB;
    let mut piece = vec![0; 64 * 1024];
    while left > 0 {
        left = left.saturating_sub(unread.read(&mut piece).await.expect("read"));
    }
    while buffers.held(Kind::Answers) > 0 {
        let read = tokio::time::timeout(Duration::from_millis(5), unread.read(&mut piece)).await;
        assert!(read.is_err() || read.is_ok_and(|read| read.is_ok_and(|len| len > 0)));
    }
    // A record of 16 KiB that is not whole.
    let (socket, _) = unread.get_mut();
    socket.write_all(&[0x17, 3, 3, 0x40, 0]).await.expect("written");
    socket.write_all(&vec![0; 15 * 1024]).await.expect("written");
    while buffers.held(Kind::Frames) < 15 * 1024 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(unread);
    while buffers.held(Kind::Frames) > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // As much of a handshake.
    let mut hello = TcpStream::connect(node.address).await.expect("connected");
    hello.write_all(&[0x16, 3, 1, 0x3f, 0xff, 1, 0, 0x3f, 0xfb]).await.expect("written");
    hello.write_all(&vec![3; 12 * 1024]).await.expect("written");
    while buffers.held(Kind::Frames) < 12 * 1024 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(hello);
    while buffers.held(Kind::Frames) > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Without it a renewed certificate would take a restart, or half of a renewal the listener down.
#[tokio::test]
async fn a_certificate_is_replaced_while_connections_go_on() {
    let certificates = Certificates::new();
    let tls = certificates.listener();
    let node = start_over(&tls, options()).await;
    let client = || certificates.client(&TLS13);
    let mut before = connect(&client(), node.address).await.expect("a handshake");
    let shown = |stream: &Tls| {
        let chain = stream.get_ref().1.peer_certificates();
        chain.and_then(|chain| chain.first()).expect("a certificate").to_vec()
    };
    let first = shown(&before);
    // A key that is not the certificate's, then none at all.
    let other = certificates.authority.server(&[]).expect("a certificate");
    std::fs::write(certificates.path("api.key"), &other.key).expect("written");
    tls.look(true);
    std::fs::remove_file(certificates.path("api.key")).expect("removed");
    tls.look(true);
    let same = connect(&client(), node.address).await.expect("a handshake");
    assert_eq!(shown(&same), first);

    certificates.renew();
    tls.look(false);
    let mut after = connect(&client(), node.address).await.expect("a handshake");
    assert_ne!(shown(&after), first);
    assert_eq!(ask(&mut before, MESSAGE, "{}").await.status, 200);
    assert_eq!(ask(&mut after, MESSAGE, "{}").await.status, 200);
}

/// Without it a mounted secret, whose files are links that never change themselves, would never be
/// read again.
#[test]
fn a_link_to_other_files_is_a_change() {
    let (one, two) = (Certificates::new(), Certificates::new());
    let home = tempfile::tempdir().expect("a folder");
    let at = |name: &str| home.path().join(name);
    let link = |to: &Path| {
        let next = at("..next");
        std::os::unix::fs::symlink(to, &next).expect("a link");
        std::fs::rename(next, at("..data")).expect("renamed");
    };
    link(one.dir.path());
    let files = ListenerFiles {
        certificate: at("..data/api.pem"),
        key: at("..data/api.key"),
        client_authority: None,
    };
    let tls = ListenerTls::open("api", files).expect("a listener's TLS");
    let first = tls.config();
    tls.look(false);
    assert!(Arc::ptr_eq(&first, &tls.config()), "nothing has changed");
    link(two.dir.path());
    tls.look(false);
    assert!(!Arc::ptr_eq(&first, &tls.config()));
}

/// Without it an operator's certificate would be good for nothing, or anyone's good for everything; and a
/// page in his browser could use it.
#[tokio::test]
async fn a_clients_certificate_counts_as_the_admin_token() {
    let certificates = Certificates::new();
    let (ann, bob) = (certificates.path("ann"), Certificates::new());
    certificates.write("ann", &certificates.authority.client("ann").expect("a certificate"));
    bob.write("bob", &bob.authority.client("bob").expect("a certificate"));
    let clients = certificates.path("clients.pem");
    std::fs::copy(certificates.path("ca.pem"), &clients).expect("copied");
    let access = crate::access::of_test(None, Some("adm-s"));
    let node = AdminListener::start(&certificates, clients.clone(), access).await;
    let client = |certificate| certificates.client_with(certificate);
    let status = async |client: &TlsConnector, headers: &str| {
        node.ask(client, "GET /metrics", headers).await.map(|answer| answer.status)
    };
    let nobody = client(None);
    let told = node.ask(&nobody, "GET /metrics", "").await.expect("an answer").json();
    let told = told["detail"].as_str().expect("a text");
    assert!(told.ends_with("or a client certificate"), "{told}");
    let token = "Authorization: Bearer adm-s\r\n";
    assert_eq!(status(&nobody, "").await.expect("an answer"), 401);
    assert_eq!(status(&nobody, token).await.expect("an answer"), 200);
    let known = client(Some((ann.with_extension("pem"), ann.with_extension("key"))));
    // Each time it is shown anew: nothing is resumed.
    for _ in 0..2 {
        assert_eq!(status(&known, "").await.expect("an answer"), 200);
    }
    let wrong = "Authorization: Bearer wrong\r\n";
    assert_eq!(status(&known, wrong).await.expect("an answer"), 401);
    let page = "Origin: https://evil.example\r\n";
    assert_eq!(status(&known, page).await.expect("an answer"), 403);
    // Of another authority, or a listener's own.
    for (certificate, key) in [
        (bob.path("bob.pem"), bob.path("bob.key")),
        (certificates.path("api.pem"), certificates.path("api.key")),
    ] {
        assert!(status(&client(Some((certificate, key))), "").await.is_err());
    }
    // Who was shut out is so on a connection that is open, too.
    let mut kept = connect(&known, node.address).await.expect("a connection");
    for (is_in, expected) in [(true, "HTTP/1.1 200"), (false, "HTTP/1.1 401")] {
        if !is_in {
            std::fs::copy(bob.path("ca.pem"), &clients).expect("copied");
            node.tls.look(true);
        }
        kept.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("sent");
        let mut answer = String::new();
        while !(answer.ends_with("slotd_x 1\n") || answer.ends_with('}')) {
            let mut piece = [0; 4096];
            let read = kept.read(&mut piece).await.expect("an answer");
            assert!(read > 0, "{answer}");
            answer += &String::from_utf8_lossy(&piece[..read]);
        }
        assert!(answer.starts_with(expected), "{answer}");
    }
    node.stop().await;
}

/// The name comes from the certificate: if it were lost on the way to the rules, everybody with a certificate would have
/// the rights of all, or nobody would.
#[tokio::test]
async fn a_certificate_has_the_rights_of_the_rules_for_its_name() {
    let certificates = Certificates::new();
    let access = crate::access::of_test(None, None);
    access.never_open(Listener::Admin);
    let rules = "[[rule]]\nwho = 'certificate:ann'\nallow = 'admin-*'\non = '*'\n\
        [[rule]]\nwho = 'certificate:reader-*'\nallow = 'admin-read'\non = 'chat'\n";
    let policy = Policy::parse(rules, Path::new(".")).expect("a policy");
    access.set_policy(policy);
    let node = AdminListener::start(&certificates, certificates.path("ca.pem"), access).await;
    let (read, deploy) =
        ("GET /admin/v1/services/chat/swap", "POST /admin/v1/services/chat/deploy");
    let other = "GET /admin/v1/services/carts/swap";
    // Past the check there is no node: 503.
    for (name, expected) in
        [("ann", [503, 503, 503]), ("reader-1", [503, 403, 403]), ("bob", [403, 403, 403])]
    {
        certificates.write(name, &certificates.authority.client(name).expect("a certificate"));
        let files = ["pem", "key"].map(|kind| certificates.path(&format!("{name}.{kind}")));
        let [certificate, key] = files;
        let client = certificates.client_with(Some((certificate, key)));
        for (line, expected) in [read, deploy, other].into_iter().zip(expected) {
            let answer = node.ask(&client, line, "").await.expect("an answer");
            assert_eq!(answer.status, expected, "{name}: {line}");
        }
    }
    let nobody = certificates.client_with(None);
    assert_eq!(node.ask(&nobody, read, "").await.expect("an answer").status, 401);
    node.stop().await;
}
