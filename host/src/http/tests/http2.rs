//! HTTP/2: what a client of it sees, many requests at a time.

use super::*;
use crate::{
    buffers::Kind,
    tls::{
        ListenerFiles, ListenerTls,
        authority::{Host, ListenerAuthority},
    },
};
use h2::{Reason, RecvStream, client};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};

mod driver;

use driver::{Asked, Got};
pub(super) use driver::{Client, until};

/// A request: its line, fields and body.
type Case<'a> = (String, Vec<(&'a str, &'a str)>, &'a str);

/// Without it a client would get another answer, or another refusal, by HTTP/2 than by HTTP/1.1.
#[tokio::test]
async fn requests_are_answered_as_by_http_1() {
    let (old, new) = (start(options()).await, start(options()).await);
    let client = Client::connect(&new).await;
    let messages = format!("POST {ROOM}/messages");
    let json = ("content-type", "application/json");
    let too_large = "x".repeat(64 * 1024 + 1);
    let cases: Vec<Case<'_>> = vec![
        (messages.clone(), vec![json, ("idempotency-key", "k1"), ("slotd-sender", "zoe")], "{}"),
        (messages.clone(), vec![json, ("idempotency-key", "k1"), ("slotd-sender", "zoe")], "{}"),
        (messages.clone(), vec![json, ("idempotency-key", "k1")], "{\"a\":1}"),
        (messages.clone(), vec![json], "{\"reject\":\"no-way\"}"),
        (messages.clone(), vec![("content-type", "text/plain")], "hi"),
        (messages.clone(), vec![], ""),
        (messages.clone(), vec![], &too_large),
        (messages.clone(), vec![("content-encoding", "gzip")], "{}"),
        (messages.clone(), vec![("if-match", "\"3\"")], "{}"),
        (messages.clone(), vec![("slotd-sender", "a"), ("slotd-sender", "b")], "{}"),
        (messages.clone(), vec![("origin", "http://evil.example")], "{}"),
        (messages.clone(), vec![("expect", "200-maybe")], "{}"),
        ("POST /v1/services/nope/sessions/a/messages".into(), vec![], "{}"),
        (format!("POST {ROOM}/query"), vec![json], "{}"),
        (format!("GET {ROOM}"), vec![], ""),
        (format!("GET {ROOM}/messages?limit=2"), vec![], ""),
        (format!("GET {ROOM}/messages?nope=2"), vec![], ""),
        (format!("GET {ROOM}"), vec![], "a body"),
        (format!("PUT {ROOM}"), vec![], ""),
        ("GET /v2/x".into(), vec![], ""),
        ("GET /healthz".into(), vec![], ""),
        ("GET /openapi.json".into(), vec![], ""),
        (format!("DELETE {ROOM}"), vec![], ""),
        (format!("DELETE {ROOM}"), vec![], ""),
    ];
    for (line, headers, body) in &cases {
        let fields: String = headers.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
        let expected = call(old.address, line, &fields, body).await;
        let Got { answer, version } = client.call(line, headers, body).await;
        let what = format!("{line} {headers:?}: {}", String::from_utf8_lossy(&answer.body));
        assert_eq!(version, http::Version::HTTP_2);
        assert_eq!(answer.status, expected.status, "{what}");
        assert_eq!(answer.body, expected.body, "{what}");
        let fields = |answer: &Answer| {
            let mut fields = answer.headers.clone();
            assert!(fields.remove("date").is_some_and(|date| date.ends_with("GMT")), "{what}");
            fields.remove("connection");
            // Of nothing: HTTP/2 has no need to say it.
            fields.retain(|name, value| name != "content-length" || value != "0");
            fields
        };
        assert_eq!(fields(&answer), fields(&expected), "{what}");
        assert!(answer.header("connection").is_none(), "{what}");
    }
    let head = client.call("HEAD /openapi.json", &[], "").await.answer;
    assert!(head.status == 200 && head.body.is_empty() && head.header("content-length").is_some());
    let refused = client.call("HEAD /openapi.json?x", &[], "").await.answer;
    assert_eq!((refused.status, refused.body.len()), (400, 0));
    let socket = client.call(&format!("GET {ROOM}/socket"), &[], "").await.answer;
    assert_eq!(socket.code(), (400, "request-invalid".into()));
    assert!(socket.json()["detail"].as_str().is_some_and(|d| d.contains("HTTP/1.1")));
}

/// Without it a page whose name resolves to loopback could use HTTP/2 to be of the node's origin, or
/// two readers of a request could see different hosts.
#[tokio::test]
async fn the_authority_is_the_host() {
    let node = start(options()).await;
    let mut client = Client::connect(&node).await;
    for (authority, host, status) in [
        ("localhost:1", None, 200),
        ("localhost:1", Some("LocalHost:1"), 200),
        ("localhost:1", Some("evil.example"), 400),
        ("evil.example", Some("localhost"), 400),
        ("evil.example", None, 403),
        ("a@localhost", None, 400),
    ] {
        client.authority = authority.into();
        let headers: Vec<_> = host.iter().map(|host| ("host", *host)).collect();
        let got = client.call("GET /healthz", &headers, "").await.answer;
        assert_eq!(got.status, status, "{authority} {host:?}: {:?}", got.body);
    }
    client.authority = "localhost:1".into();
    let mine = [("origin", "http://localhost:1")];
    assert_eq!(client.call(&format!("POST {ROOM}/messages"), &mine, "{}").await.answer.status, 200);
}

/// Without it a client would not learn that it can use HTTP/2, or be spoken to in what it has not
/// agreed on.
#[tokio::test]
async fn what_is_agreed_on_in_tls_is_spoken() {
    let dir = tempfile::tempdir().expect("a folder");
    let (authority, root) = ListenerAuthority::generate().expect("an authority");
    let pair = authority.server(&[Host::parse("localhost").expect("a name")]).expect("a pair");
    let path = |name: &str, pem: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, pem).expect("written");
        path
    };
    let (certificate, key) = (path("api.pem", &pair.certificate), path("api.key", &pair.key));
    let files = ListenerFiles { certificate, key, client_authority: None };
    let tls = ListenerTls::open("api", files).expect("good files");
    let node = start_over(options(), Shutdown::new(), Some(tls)).await;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root.certificate.as_bytes()).expect("PEM")).unwrap();
    for (offered, agreed) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&["h2"], Some("h2")),
        (&[], None),
    ] {
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots.clone());
        let mut config = config.with_no_client_auth();
        config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(node.address).await.expect("connected");
        let name = ServerName::try_from("localhost").expect("a name");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(name, stream).await.expect("a handshake");
        let protocol = stream.get_ref().1.alpn_protocol();
        assert_eq!(protocol, agreed.map(str::as_bytes), "{offered:?}");
        if agreed == Some("h2") {
            let client = Client::over(stream, &client::Builder::new(), "localhost".into()).await;
            let large = format!("\"{}\"", "x".repeat(60_000));
            let streams = (0..20).map(|_| client.post(&large));
            for got in futures_util::future::join_all(streams).await {
                assert_eq!((got.answer.status, got.answer.body.len()), (200, large.len()));
            }
        } else {
            let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            stream.write_all(request.as_bytes()).await.expect("written");
            let mut raw = Vec::new();
            stream.read_to_end(&mut raw).await.expect("read");
            assert_eq!(Answer::parse(&raw).status, 200);
        }
    }
}

/// Without it a message that takes its time would hold up the others of its connection.
#[tokio::test]
async fn streams_do_not_wait_for_each_other() {
    let node = start(options()).await;
    let client = Client::connect(&node).await;
    let line = format!("POST {ROOM}/messages");
    let hanging = client.ask(&line, &[], "{\"hang\":true}").await;
    let half = client.begin(&line, &[]).await;
    until("it hangs", || node.fake.hanging() == 1).await;
    let mut seqs = Vec::new();
    let asked: Vec<_> = futures_util::future::join_all(
        (0..100).map(|n| client.ask(&line, &[], if n % 2 == 0 { "{}" } else { "[1]" })),
    )
    .await;
    for asked in asked {
        let got = asked.got().await.expect("an answer").answer;
        assert_eq!(got.status, 200);
        seqs.push(got.header("slotd-seq").and_then(|seq| seq.parse().ok()).unwrap_or(0));
    }
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=100).collect::<Vec<u64>>(), "each is decided, once");
    node.fake.decide_hanging();
    assert_eq!(hanging.got().await.expect("an answer").answer.status, 503);
    let Asked { answer, mut body } = half;
    body.send_data("{".into(), false).expect("sent");
    body.send_data("}".into(), true).expect("sent");
    let got = Asked { answer, body }.got().await.expect("an answer").answer;
    assert_eq!((got.status, got.header("slotd-seq")), (200, Some("101")));
}

/// Without it a client that gives up a request would harm its other ones, keep what the request
/// holds, or have its message half applied.
#[tokio::test]
async fn a_stream_that_is_reset_harms_no_other() {
    let buffers = Arc::new(Buffers::new(1 << 30));
    let node = start(HttpOptions { buffers: buffers.clone(), ..options() }).await;
    let client = Client::connect(&node).await;
    let line = format!("POST {ROOM}/messages");
    let large = format!("{{\"hang\":true,\"of\":\"{}\"}}", "x".repeat(30_000));
    let hanging = client.ask(&line, &[], &large).await;
    let half = client.begin(&line, &[("content-length", "9")]).await;
    let events = client.ask(&format!("GET {ROOM}/events"), &[], "").await;
    until("they are there", || node.fake.hanging() == 1 && node.fake.subscribers(&room()) == 1)
        .await;
    assert!(buffers.held(Kind::Bodies) > 30_000);
    hanging.reset();
    half.reset();
    events.reset();
    assert_eq!(client.post("{}").await.answer.header("slotd-seq"), Some("1"));
    // It was read, and is decided, though nobody waits for it.
    assert_eq!(node.fake.hanging(), 1);
    node.fake.decide_hanging();
    until("all is given back", || Kind::ALL.iter().all(|kind| buffers.held(*kind) == 0)).await;
    assert_eq!(client.post("{}").await.answer.status, 200);
    // The fake finds that its reader is gone when it has something for it.
    until("the stream is over", || node.fake.subscribers(&room()) == 0).await;
}

/// Without it one client could open as many requests as it likes, or lose the connection for one too
/// many.
#[tokio::test]
async fn streams_of_a_connection_are_bounded() {
    let node = start(options()).await;
    let client = Client::connect(&node).await;
    let line = format!("POST {ROOM}/messages");
    assert_eq!(client.post("{}").await.answer.status, 200, "its settings have come");
    let max = limits::HTTP2_STREAMS_MAX as usize;
    assert_eq!(client.send.current_max_send_streams(), max);
    let mut open = Vec::new();
    for _ in 0..max {
        open.push(client.ask(&line, &[], "{\"hang\":true}").await);
    }
    until("all hang", || node.fake.hanging() == max).await;
    // Requests that are given up are still under way.
    open.drain(..10).for_each(Asked::reset);
    let refused = client.ask(&line, &[], "{}").await.got().await.err();
    assert_eq!(refused.and_then(|e| e.reason()), Some(Reason::REFUSED_STREAM));
    node.fake.decide_hanging();
    for asked in open {
        assert_eq!(asked.got().await.expect("an answer").answer.status, 503);
    }
    assert_eq!(client.post("{}").await.answer.status, 200);
}

/// Events as they come, by line.
struct Lines {
    body: RecvStream,
    text: String,
}

impl Lines {
    async fn open(client: &Client, query: &str, headers: &[(&str, &str)]) -> Self {
        let asked = client.ask(&format!("GET {ROOM}/events{query}"), headers, "").await;
        let (head, body) = asked.answer.await.expect("an answer").into_parts();
        assert_eq!((head.status.as_u16(), head.version), (200, http::Version::HTTP_2));
        assert_eq!(head.headers["content-type"], "text/event-stream");
        assert!(!head.headers.contains_key("content-length"), "{head:?}");
        Self { body, text: String::new() }
    }
    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.text.find('\n') {
                let line = self.text.drain(..=end).collect::<String>();
                return Some(line.trim_end().to_owned());
            }
            let data = self.body.data().await?.expect("data");
            self.body.flow_control().release_capacity(data.len()).expect("open");
            self.text += std::str::from_utf8(&data).expect("UTF-8");
        }
    }
    async fn ids(&mut self, count: usize) -> Vec<String> {
        let mut ids = Vec::new();
        while ids.len() < count {
            let line = self.line().await.expect("more events");
            let id = line.strip_prefix("id: ").map(|id| id.split('-').next().unwrap_or(id));
            ids.extend(id.map(str::to_owned));
        }
        ids
    }
}

/// Without it a page with several streams would miss events, or a browser would run out of
/// connections.
#[tokio::test]
async fn event_streams_share_a_connection() {
    let node = start(options()).await;
    let client = Client::connect(&node).await;
    let mut live = Vec::new();
    for _ in 0..30 {
        live.push(Lines::open(&client, "", &[]).await);
    }
    for _ in 0..3 {
        assert_eq!(client.post("{\"events\":2}").await.answer.status, 200);
    }
    let all = ["1.0", "1.1", "2.0", "2.1", "3.0", "3.1"];
    for stream in &mut live {
        assert_eq!(stream.ids(6).await, all);
    }
    let mut resumed = Lines::open(&client, "?after=0", &[("last-event-id", "2.0")]).await;
    assert_eq!(resumed.ids(3).await, all[3..]);
    node.fake.restart_slot();
    assert_eq!(client.post("{}").await.answer.status, 200);
    for stream in &mut live {
        assert_eq!(stream.ids(1).await, ["4.0"]);
    }
    let deleted = client.call(&format!("DELETE {ROOM}"), &[], "").await.answer;
    assert_eq!(deleted.status, 204);
    for stream in &mut live {
        let mut last = Vec::new();
        while let Some(line) = stream.line().await {
            last.push(line);
        }
        assert_eq!(last[last.len() - 3..], ["event: slotd.deleted", "data: {}", ""]);
    }
    assert_eq!(client.post("{}").await.answer.status, 200, "the connection goes on");
}

/// Without it a reader of events that does not read would cost the node unlimited memory, or would
/// miss events without notice.
#[tokio::test]
async fn a_stream_that_is_read_slowly_gets_its_gap() {
    let node = start(options()).await;
    let mut builder = client::Builder::new();
    // It does not read this stream, and reads the others.
    builder.initial_connection_window_size(1 << 20);
    let client = Client::connect_with(&node, &builder).await;
    let asked = client.ask(&format!("GET {ROOM}/events"), &[], "").await;
    let body = asked.answer.await.expect("an answer").into_body();
    let mut sent = 0;
    while sent < 5 || node.fake.subscribers(&room()) > 0 {
        assert_eq!(client.post("{\"events\":256}").await.answer.status, 200);
        sent += 1;
        assert!(sent < 5_000, "it was never given up");
    }
    let mut lines = Lines { body, text: String::new() };
    let (mut events, mut last) = (0, String::new());
    while let Some(line) = lines.line().await {
        events += usize::from(line.starts_with("id: "));
        if line.starts_with("event: ") {
            last = line;
        }
    }
    assert_eq!(last, "event: slotd.gap");
    assert!(events > 0 && events < sent * 256);
}

/// Without it a stopping node would cut requests under way, or wait for clients that have none.
#[tokio::test]
async fn a_stopping_node_takes_no_more_and_answers_what_it_has() {
    let node = start(options()).await;
    let (client, idle) = (Client::connect(&node).await, Client::connect(&node).await);
    assert_eq!(idle.post("{}").await.answer.status, 200);
    let line = format!("POST {ROOM}/messages");
    let hanging = client.ask(&line, &[], "{\"hang\":true}").await;
    let mut events = Lines::open(&client, "", &[]).await;
    until("it hangs", || node.fake.hanging() == 1).await;
    node.shutdown.trigger();
    while events.line().await.is_some() {}
    assert!(idle.task.await.expect("ended").is_ok(), "it was told to go");
    assert!(!node.task.is_finished(), "a message is under way");
    // Whatever is sent from now on was not handled.
    let send = client.send.clone();
    let late = async {
        let mut send = send.ready().await?;
        let request = client.request(&line, &[]);
        send.send_request(request, true)?.0.await
    };
    assert!(late.await.is_err_and(|e| e.is_go_away() || e.is_reset()), "it was accepted");
    node.fake.decide_hanging();
    assert_eq!(hanging.got().await.expect("an answer").answer.status, 503);
    tokio::time::timeout(Duration::from_secs(9), node.task).await.expect("in time").expect("ended");
    assert!(client.task.await.expect("ended").is_ok());
}

/// Without it a client that hangs keeps a stopping node until somebody kills it.
#[tokio::test]
async fn at_the_end_of_the_grace_a_connection_is_cut() {
    let node = start(options()).await;
    let client = Client::connect(&node).await;
    let line = format!("POST {ROOM}/messages");
    let hanging = client.ask(&line, &[], "{\"hang\":true}").await;
    until("it hangs", || node.fake.hanging() == 1).await;
    node.shutdown.trigger_within(Duration::from_millis(50));
    tokio::time::timeout(Duration::from_secs(5), node.task).await.expect("in time").expect("ended");
    assert!(hanging.got().await.is_err());
}

/// Without it clients that don't read their answers would use up the node's memory; with HTTP/2 they
/// need no connection for each.
#[tokio::test]
async fn answers_on_streams_that_nobody_reads_are_bounded_together() {
    const MIB: usize = 1 << 20;
    let buffers = Arc::new(Buffers::new(64 * MIB));
    let options = HttpOptions { buffers: buffers.clone(), body_bytes_max: 4 * MIB, ..options() };
    let node = start(options).await;
    let large = format!("\"{}\"", "x".repeat(4 * MIB - 2));
    let client = Client::connect(&node).await;
    for _ in 0..2 {
        assert_eq!(client.post(&large).await.answer.status, 200);
    }
    // A page of 16 MiB, several times: what fits of them is held, and no more.
    let page = format!("GET {ROOM}/messages");
    let mut unread = Vec::new();
    for _ in 0..8 {
        unread.push(client.ask(&page, &[], "").await.answer.await.expect("an answer"));
    }
    let served = unread.iter().filter(|answer| answer.status() == 200).count();
    assert!((1..=3).contains(&served), "{served} were served");
    assert!(unread.iter().all(|answer| matches!(answer.status().as_u16(), 200 | 503)));
    assert!(buffers.held(Kind::Answers) <= 48 * MIB);
    // Messages of others still find room; so do reads, once the streams are gone.
    let other = Client::connect(&node).await;
    assert_eq!(other.post("{}").await.answer.status, 200);
    drop(unread);
    until("it is given back", || buffers.held(Kind::Answers) == 0).await;
    let read = client.call(&page, &[], "").await.answer;
    assert!(read.status == 200 && read.body.len() > 16 * MIB);
    until("it is given back", || buffers.held(Kind::Answers) == 0).await;
}

/// Lets the test's clock go by hand only: otherwise it jumps whenever nothing is to be done.
async fn stop_the_clock() -> JoinHandle<()> {
    let busy = tokio::spawn(async {
        loop {
            tokio::task::yield_now().await;
        }
    });
    tokio::time::pause();
    busy
}

/// Runs what is to be done, and what comes over the network because of it.
async fn settle(mut is: impl FnMut() -> bool) {
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while !is() {
        assert!(std::time::Instant::now() < until, "it did not happen");
        tokio::task::yield_now().await;
    }
}

/// Without it a stream that is not read would hold its answer for as long as its client likes, or
/// take the other streams of its connection with it.
#[tokio::test]
async fn a_stream_that_is_not_read_is_reset_and_its_connection_goes_on() {
    let buffers = Arc::new(Buffers::new(1 << 30));
    let node = start(HttpOptions { buffers: buffers.clone(), ..options() }).await;
    let mut builder = client::Builder::new();
    builder.initial_window_size(20_000).initial_connection_window_size(1 << 20);
    let client = Client::connect_with(&node, &builder).await;
    let large = format!("\"{}\"", "x".repeat(50_000));
    let asked = client.ask(&format!("POST {ROOM}/messages"), &[], &large).await;
    let mut unread = asked.answer.await.expect("a head").into_body();
    until("it waits", || unread.flow_control().used_capacity() == 20_000).await;
    assert!(buffers.held(Kind::Answers) > 50_000);
    let busy = stop_the_clock().await;
    tokio::time::advance(limits::WRITE_STALL / 2).await;
    assert_eq!(client.post("{}").await.answer.status, 200);
    tokio::time::advance(limits::WRITE_STALL).await;
    settle(|| buffers.held(Kind::Answers) == 0).await;
    let end = loop {
        if let Err(error) = unread.data().await.expect("not the whole answer") {
            break error;
        }
    };
    assert_eq!(end.reason(), Some(Reason::CANCEL));
    assert_eq!(client.post("{}").await.answer.status, 200, "the connection goes on");
    busy.abort();
}

/// Without it a client that reads nothing at all would keep its connection by sending now and then.
#[tokio::test]
async fn a_connection_of_which_nothing_is_read_is_cut() {
    let buffers = Arc::new(Buffers::new(1 << 30));
    let node = start(HttpOptions { buffers: buffers.clone(), ..options() }).await;
    let mut builder = client::Builder::new();
    builder.initial_window_size(0);
    let client = Client::connect_with(&node, &builder).await;
    let line = format!("POST {ROOM}/messages");
    let mut unread = Vec::new();
    for _ in 0..20 {
        let asked = client.ask(&line, &[], "\"abc\"").await;
        unread.push(asked.answer.await.expect("a head").into_body());
    }
    let busy = stop_the_clock().await;
    tokio::time::advance(limits::WRITE_STALL + Duration::from_secs(1)).await;
    settle(|| client.task.is_finished()).await;
    busy.abort();
}

/// Without it idle connections would stay for ever, and a peer whose machine is gone would keep its
/// event streams.
#[tokio::test]
async fn idle_connections_are_closed_and_silent_ones_found_out() {
    let node = start(options()).await;
    let idle = Client::connect(&node).await;
    assert_eq!(idle.post("{}").await.answer.status, 200);
    let live = Client::connect(&node).await;
    let mut events = Lines::open(&live, "", &[]).await;
    assert!(events.line().await.is_some());
    // Of this one nothing comes any more: nobody runs its connection.
    let stream = TcpStream::connect(node.address).await.expect("connected");
    let (send, mut gone) = client::handshake(stream).await.expect("a handshake");
    let request = Request::get(format!("http://localhost{ROOM}/events")).body(()).expect("good");
    let (answer, _) = send.clone().send_request(request, true).expect("sent");
    tokio::select! {
        _ = &mut gone => panic!("it has ended"),
        answer = answer => assert_eq!(answer.expect("an answer").status(), 200),
    }
    assert_eq!(node.fake.subscribers(&room()), 2);
    let busy = stop_the_clock().await;
    for _ in 0..=limits::HTTP2_PINGS_MAX + 1 {
        tokio::time::advance(limits::HTTP2_PING + Duration::from_millis(1)).await;
        // The one that is live answers its ping, or reads what keeps its stream alive.
        while events.line().await.expect("it is kept alive") != ": keep-alive" {}
    }
    tokio::time::advance(limits::CONNECTION_IDLE).await;
    settle(|| idle.task.is_finished()).await;
    assert!(!live.task.is_finished());
    let posted = live.post("{}").await.answer;
    assert_eq!(posted.status, 200);
    settle(|| node.fake.subscribers(&room()) == 1).await;
    busy.abort();
}
