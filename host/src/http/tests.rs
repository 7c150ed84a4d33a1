//! The whole surface over real sockets, with a stand-in for the node.

use super::{
    Admin, Api, App, HttpOptions, Notifiers, Server, Shutdown,
    backend::Backend,
    fake::FakeNode,
    route::{admin_router, api_router},
};
use crate::{access::of_test, buffers::Buffers, limits, names::SessionKey, tls::ListenerTls};
use axum::body::Body;
use futures_util::{SinkExt, StreamExt};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_tungstenite::tungstenite::{self, Message};
use tower::ServiceExt;

mod access;
mod frames;
mod full;
mod http2;
mod quota;
mod raw;
mod streams;
mod tls;
mod unread;

use streams::{Events, close_code, frame, say, socket};

const ROOM: &str = "/v1/services/chat/sessions/room%2F1";

struct Running {
    fake: Arc<FakeNode>,
    address: SocketAddr,
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

fn room() -> SessionKey {
    SessionKey::parse("chat", "room/1").expect("a key")
}

fn options() -> HttpOptions {
    HttpOptions { body_bytes_max: 64 * 1024, ..HttpOptions::default() }
}

async fn start(options: HttpOptions) -> Running {
    start_with(options, Shutdown::new()).await
}

async fn start_with(options: HttpOptions, shutdown: Shutdown) -> Running {
    start_over(options, shutdown, None).await
}

async fn start_over(options: HttpOptions, shutdown: Shutdown, tls: Option<ListenerTls>) -> Running {
    let fake = Arc::new(FakeNode::default());
    let api = Api::over(Backend::Fake(fake.clone()), options, shutdown.clone());
    let server = Server::bind(([127, 0, 0, 1], 0).into()).await.expect("bound");
    let address = server.local_addr();
    let server = server.with_tls(tls);
    let task = tokio::spawn(server.serve(App::api(api), Duration::from_secs(10)));
    Running { fake, address, shutdown, task }
}

struct Answer {
    status: u16,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    fn parse(raw: &[u8]) -> Self {
        let end = raw.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
        let head = std::str::from_utf8(&raw[..end]).expect("UTF-8");
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|l| l.split(' ').nth(1)).and_then(|s| s.parse().ok());
        let headers = lines.filter_map(|l| l.split_once(": "));
        Self {
            status: status.expect("a status"),
            headers: headers.map(|(k, v)| (k.to_lowercase(), v.to_owned())).collect(),
            body: raw[end + 4..].to_vec(),
        }
    }
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
    fn code(&self) -> (u16, String) {
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        (self.status, problem["code"].as_str().unwrap_or_default().to_owned())
    }
}

async fn call(address: SocketAddr, line: &str, headers: &str, body: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let length = body.len();
    let request = format!(
        "{line} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n\
         {headers}\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw).await.expect("read");
    Answer::parse(&raw)
}

const JSON: &str = "Content-Type: application/json\r\n";

/// Without it a user's first attempt would fail, or a repeat would be applied twice without the
/// client knowing.
#[tokio::test]
async fn a_message_is_answered_with_its_reply() {
    let node = start(options()).await;
    let post = format!("POST {ROOM}/messages");
    let key = format!("{JSON}Idempotency-Key: k1\r\nSlotd-Sender: zoe\r\n");
    let first = call(node.address, &post, &key, "{\"a\": 1}").await;
    assert_eq!((first.status, &first.body[..]), (200, &b"{\"a\": 1}"[..]));
    assert_eq!(first.header("slotd-seq"), Some("1"));
    assert_eq!(first.header("slotd-slot"), Some(room().slot(512).to_string().as_str()));
    assert_eq!(first.header("slotd-plugin"), Some(super::fake::PLUGIN));
    assert_eq!(first.header("content-type"), Some("application/json"));
    assert_eq!(first.header("slotd-replayed"), None);

    let again = call(node.address, &post, &key, "{\"a\": 1}").await;
    assert_eq!((again.status, again.body.clone()), (200, first.body.clone()));
    assert_eq!(again.header("slotd-seq"), Some("1"));
    assert_eq!(again.header("slotd-replayed"), Some("true"));
    let other = call(node.address, &post, &key, "{\"a\": 2}").await;
    assert_eq!(other.code(), (409, "idempotency-conflict".into()));
    let rejected = call(node.address, &post, JSON, "{\"reject\":\"no-way\"}").await;
    assert_eq!(rejected.code(), (422, "rejected".into()));
    assert_eq!(rejected.json()["rejection"]["code"], "no-way");

    call(node.address, &post, "Content-Type: text/plain\r\n", "hi").await;
    call(node.address, &post, "", "\u{1}").await;
    let page = call(node.address, &format!("GET {ROOM}/messages?limit=2"), "", "").await.json();
    assert_eq!((&page["last_seq"], &page["next_after"]), (&json!(3), &json!(2)));
    assert_eq!(page["entries"][0]["body"], json!({"a": 1}));
    assert_eq!(page["entries"][0]["sender"], "zoe");
    assert_eq!(page["entries"][0]["id"], "k1");
    assert_eq!(page["entries"][0]["events"][0]["body"], json!({"n": 0}));
    assert_eq!(page["entries"][1]["body"], "hi");
    let tail = call(node.address, &format!("GET {ROOM}/messages?tail=1"), "", "").await.json();
    assert_eq!(tail["entries"][0]["body_base64"], "AQ==");
    assert_eq!(tail["entries"][0]["content_type"], "application/octet-stream");
    assert_eq!(tail.get("next_after"), None);

    let query = call(node.address, &format!("POST {ROOM}/query"), JSON, "{}").await;
    assert_eq!((query.status, query.header("slotd-seq")), (200, Some("3")));
    let info = call(node.address, &format!("GET {ROOM}"), "", "").await.json();
    assert_eq!((&info["session"], &info["seq"]), (&json!("room/1"), &json!(3)));
    let other = "POST /v1/services/chat/sessions/room%2F2/messages";
    assert_eq!(call(node.address, other, JSON, "{}").await.status, 200);
    for (query, next) in
        [("limit=1", Some("room/1")), ("limit=2", None), ("after=room/1&limit=1", None)]
    {
        let list = format!("GET /v1/services/chat/sessions?prefix=ro&{query}");
        let page = call(node.address, &list, "", "").await.json();
        assert_eq!(page.get("next_after").and_then(Value::as_str), next, "{query}");
    }
    assert_eq!(call(node.address, &format!("DELETE {ROOM}"), "", "").await.status, 204);
    let gone = call(node.address, &format!("GET {ROOM}"), "", "").await;
    assert_eq!(gone.code(), (404, "session-not-found".into()));
}

/// Without it an invalid request would get an answer that a program can't parse.
#[tokio::test]
async fn bad_requests_get_problems() {
    let node = start(options()).await;
    let long = "k".repeat(200);
    for (line, headers, status, code) in [
        ("POST /v1/services/nope/sessions/a/messages", "", 404, "service-not-found"),
        ("POST /v1/services/Nope/sessions/a/messages", "", 400, "name-invalid"),
        ("POST /v1/services/chat/sessions/a%0Ab/messages", "", 400, "name-invalid"),
        ("POST /v1/services/chat/sessions/%FF/messages", "", 400, "request-invalid"),
        ("POST /v1/services/chat/sessions//messages", "", 400, "name-invalid"),
        (
            &format!("POST {ROOM}/messages"),
            &format!("Idempotency-Key: {long}\r\n"),
            400,
            "name-invalid",
        ),
        (&format!("GET {ROOM}/messages?aftr=1"), "", 400, "request-invalid"),
        (&format!("POST {ROOM}/messages?id=1"), "", 400, "request-invalid"),
        (&format!("GET {ROOM}/messages?tail=1&limit=1"), "", 400, "request-invalid"),
        (&format!("GET {ROOM}/events?after=x"), "", 400, "request-invalid"),
        (&format!("GET {ROOM}/events?after=1"), "", 400, "request-invalid"),
        (&format!("GET {ROOM}/socket"), "", 400, "request-invalid"),
        (&format!("PUT {ROOM}/messages"), "", 405, "method-not-allowed"),
        ("GET /v2/x", "", 404, "route-not-found"),
        ("GET /", "", 404, "route-not-found"),
        ("GET /admin/v1/services", "", 404, "route-not-found"),
        (
            &format!("POST {ROOM}/messages"),
            "Origin: http://evil.example\r\n",
            403,
            "origin-refused",
        ),
        (&format!("GET {ROOM}"), "Origin: http://evil.example\r\n", 403, "origin-refused"),
    ] {
        let answer = call(node.address, line, headers, "").await;
        assert_eq!(answer.code(), (status, code.into()), "{line}");
    }
    let mut stream = TcpStream::connect(node.address).await.expect("connected");
    let request = format!("GET {ROOM} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw).await.expect("read");
    assert_eq!(Answer::parse(&raw).code(), (403, "origin-refused".into()));
    let wrong = call(node.address, &format!("PUT {ROOM}/messages"), "", "").await;
    let mut allow: Vec<_> = wrong.header("allow").expect("Allow").split(',').collect();
    allow.sort_unstable();
    assert_eq!(allow, ["GET", "HEAD", "POST"]);
}

/// Without it a large body would be read to its end, or its sender would see a broken connection
/// instead of the reason.
#[tokio::test]
async fn a_body_over_the_limit_is_refused_unread() {
    let node = start(options()).await;
    for head in ["Content-Length: 10000000", "Transfer-Encoding: chunked"] {
        for path in ["messages", "query"] {
            let (mut read, mut write) =
                TcpStream::connect(node.address).await.expect("connected").into_split();
            let head = format!("POST {ROOM}/{path} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n");
            write.write_all(head.as_bytes()).await.expect("written");
            let upload = tokio::spawn(async move {
                let chunk = format!("2000\r\n{}\r\n", "x".repeat(0x2000));
                // Until the server, which reads a bounded amount of it, closes the connection.
                while write.write_all(chunk.as_bytes()).await.is_ok() {}
            });
            let mut raw = Vec::new();
            let end = loop {
                let n = read.read_buf(&mut raw).await.expect("no reset before the answer");
                let whole = raw.windows(4).position(|w| w == b"\r\n\r\n").is_some_and(|end| {
                    let answer = Answer::parse(&raw);
                    let length = answer.header("content-length").and_then(|l| l.parse().ok());
                    length == Some(raw.len() - end - 4)
                });
                if n == 0 || whole {
                    break Answer::parse(&raw);
                }
            };
            assert_eq!(end.code(), (413, "body-too-large".into()), "{head}");
            assert_eq!(end.header("connection"), Some("close"));
            upload.await.expect("the upload ends");
        }
    }
    let fits = "x".repeat(64 * 1024);
    let answer = call(node.address, &format!("POST {ROOM}/messages"), "", &fits).await;
    assert_eq!((answer.status, answer.body.len()), (200, fits.len()));
}

/// Without it the bodies of waiting messages could use all memory: mailboxes count messages.
#[tokio::test]
async fn bodies_that_wait_are_bounded_together() {
    let node =
        start(HttpOptions { buffers: Arc::new(Buffers::new(130 * 1024)), ..options() }).await;
    let line = format!("POST {ROOM}/messages");
    let large = |rest: &str| format!("{{{rest}\"x\":\"{}\"}}", "x".repeat(60 * 1024));
    let hanging = {
        let (address, line, body) = (node.address, line.clone(), large("\"hang\":true,"));
        tokio::spawn(async move { call(address, &line, JSON, &body).await })
    };
    while node.fake.hanging() == 0 {
        tokio::task::yield_now().await;
    }
    let refused = call(node.address, &line, JSON, &large("")).await;
    assert_eq!(refused.code(), (503, "buffers-full".into()));
    assert_eq!(refused.header("retry-after"), Some("1"));
    let query = call(node.address, &format!("POST {ROOM}/query"), JSON, &large("")).await;
    assert_eq!(query.code(), (503, "buffers-full".into()));
    let mut stream = TcpStream::connect(node.address).await.expect("connected");
    let body = large("");
    let chunked = format!(
        "{line} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
         {:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    stream.write_all(chunked.as_bytes()).await.expect("written");
    stream.shutdown().await.expect("shut");
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw).await.expect("read");
    assert_eq!(Answer::parse(&raw).code(), (503, "buffers-full".into()));
    let mut ws = socket(&node, "?subscribe=false").await;
    say(&mut ws, json!({"type": "send", "id": "a", "body": "x".repeat(60 * 1024)})).await;
    assert_eq!(close_code(&mut ws).await, 1013);
    // Small bodies find room, and refused ones use none.
    assert_eq!(call(node.address, &line, JSON, "{}").await.status, 200);
    node.fake.decide_hanging();
    assert_eq!(hanging.await.expect("an answer").status, 503);
    for _ in 0..3 {
        assert_eq!(call(node.address, &line, JSON, &large("")).await.status, 200);
    }
    let mut ws = socket(&node, "?subscribe=false").await;
    say(&mut ws, json!({"type": "send", "id": "b", "body": "x".repeat(20 * 1024)})).await;
    assert_eq!(frame(&mut ws).await["type"], "ack");
}

/// Without it chunks could be lost, duplicated or swapped in a body.
#[tokio::test]
async fn a_body_in_pieces_is_put_together() {
    let node = start(options()).await;
    let mut stream = TcpStream::connect(node.address).await.expect("connected");
    stream.set_nodelay(true).expect("set");
    let head = format!(
        "POST {ROOM}/messages HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("written");
    let mut whole = String::new();
    for i in 0..50 {
        let piece = format!("{i:03}").repeat(1 + i * 7);
        stream.write_all(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes()).await.expect("w");
        stream.flush().await.expect("flushed");
        tokio::task::yield_now().await;
        whole.push_str(&piece);
    }
    stream.write_all(b"0\r\n\r\n").await.expect("written");
    stream.shutdown().await.expect("shut");
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw).await.expect("read");
    let answer = Answer::parse(&raw);
    assert_eq!((answer.status, String::from_utf8(answer.body).ok()), (200, Some(whole)));
}

/// Without it a client would wait forever for a message that is never decided, or assume that it
/// was not applied.
#[tokio::test]
async fn an_undecided_message_is_told_so_at_its_deadline() {
    let late = HttpOptions { request_deadline: Duration::from_millis(50), ..options() };
    let node = start(late.clone()).await;
    let answer =
        call(node.address, &format!("POST {ROOM}/messages"), JSON, "{\"hang\":true}").await;
    assert_eq!(answer.code(), (504, "outcome-unknown".into()));
    assert_eq!(answer.json()["retriable"], true);

    // The same through the router, and with a body that never arrives.
    let api = Api::over(Backend::Fake(node.fake.clone()), late, Shutdown::new());
    let request = Request::post(format!("{ROOM}/messages")).body(Body::from("{\"hang\":true}"));
    let answer = api_router(api).oneshot(request.expect("a request")).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
    let mut stream = TcpStream::connect(node.address).await.expect("connected");
    let head =
        format!("POST {ROOM}/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx");
    stream.write_all(head.as_bytes()).await.expect("written");
    let mut raw = Vec::new();
    let read = async {
        while !raw.ends_with(b"}") {
            stream.read_buf(&mut raw).await.expect("read");
        }
    };
    read.await;
    assert_eq!(Answer::parse(&raw).code(), (408, "request-timeout".into()));
}

/// Without it a client that half-closes after its last message would get no answer, and the event
/// stream of one that disconnected would be kept.
#[tokio::test]
async fn a_peer_that_ends_its_side_gets_its_answer_and_loses_its_stream() {
    let node = start(options()).await;
    let post = format!("POST {ROOM}/messages HTTP/1.1\r\nHost: localhost\r\n");
    let body = "{\"hang\":true}";
    let mut stream = TcpStream::connect(node.address).await.expect("connected");
    let request = format!("{post}Content-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.expect("written");
    stream.shutdown().await.expect("shut");
    while node.fake.hanging() == 0 {
        tokio::task::yield_now().await;
    }
    // Its end has arrived by now: both ends are on this machine.
    node.fake.decide_hanging();
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw).await.expect("read");
    assert_eq!(Answer::parse(&raw).code(), (503, "unavailable".into()));

    let mut live = Events::open(&node, "", "").await;
    self::post(&node, "{\"events\":1}").await;
    assert_eq!(live.ids(1).await, ["1.0"]);
    live.stream.shutdown().await.expect("shut");
    let ended = async { while live.next().await.is_some() {} };
    // Long before a keep-alive write could fail.
    let within = tokio::time::timeout(limits::EVENTS_KEEP_ALIVE / 2, ended).await;
    assert!(within.is_ok(), "the stream goes on for a client that is gone");
}

/// Without it pipelined requests could be answered out of order or not at all.
#[tokio::test]
async fn requests_of_one_connection_are_answered_in_order() {
    let node = start(options()).await;
    let mut stream = TcpStream::connect(node.address).await.expect("connected");
    let mut all = String::new();
    for i in 0..100 {
        let body = format!("{{\"i\":{i}}}");
        let length = body.len();
        all += &format!(
            "POST {ROOM}/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"
        );
    }
    stream.write_all(all.as_bytes()).await.expect("written");
    stream.shutdown().await.expect("shut");
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw).await.expect("read");
    let text = String::from_utf8(raw).expect("UTF-8");
    let seqs: Vec<_> = text
        .lines()
        .filter_map(|l| l.strip_prefix("slotd-seq: "))
        .map(|s| s.parse::<u64>().expect("a number"))
        .collect();
    assert_eq!(seqs, (1..=100).collect::<Vec<_>>());
}

/// Without it a token would protect only some routes, or lock probes out.
#[tokio::test]
async fn every_route_asks_for_the_token() {
    let node = start(HttpOptions { access: of_test(Some("api-s"), Some("adm-s")), ..options() });
    let node = node.await;
    let good = "Authorization: Bearer api-s\r\n";
    for line in [
        format!("POST {ROOM}/messages"),
        format!("POST {ROOM}/query"),
        format!("GET {ROOM}/messages"),
        format!("GET {ROOM}"),
        format!("DELETE {ROOM}"),
        format!("GET {ROOM}/events"),
        format!("GET {ROOM}/socket"),
        "GET /v1/services/chat/sessions".into(),
        "GET /nothing".into(),
    ] {
        for bad in ["", "Authorization: Bearer adm-s\r\n", "Authorization: Basic api-s\r\n"] {
            let answer = call(node.address, &line, bad, "").await;
            assert_eq!(answer.code(), (401, "unauthorized".into()), "{line} {bad}");
            assert!(answer.header("www-authenticate").is_some_and(|h| h.starts_with("Bearer")));
        }
    }
    assert_eq!(call(node.address, &format!("POST {ROOM}/messages"), good, "x").await.status, 200);
    assert_eq!(call(node.address, &format!("GET {ROOM}"), good, "").await.status, 200);
    let in_query = call(node.address, &format!("GET {ROOM}?access_token=api-s"), "", "").await;
    assert_eq!(in_query.status, 401);
    for public in ["GET /healthz", "GET /readyz", "GET /openapi.json"] {
        assert_eq!(call(node.address, public, "", "").await.status, 200, "{public}");
    }
    let mut events = Events::open(&node, "?access_token=api-s", "").await;
    assert_eq!(events.next().await, Some("retry: 1000".into()));
}

/// Without it an admin route would be open, or its errors have another form.
#[tokio::test]
async fn the_admin_api_guards_itself() {
    let options = HttpOptions { access: of_test(None, Some("adm-s")), ..options() };
    let render = Arc::new(|| "slotd_x 1\n".to_owned());
    let router = admin_router(Admin::over(None, options, Shutdown::new(), render));
    let call = async |method: &str, path: &str, token: &str| {
        let request = Request::builder().method(method).uri(path);
        let request = request.header("authorization", format!("Bearer {token}"));
        let request = request.body(Body::empty()).expect("a request");
        let answer = router.clone().oneshot(request).await.expect("an answer");
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        (status, String::from_utf8(body.to_vec()).expect("UTF-8"))
    };
    for (method, path, status) in [
        ("GET", "/metrics", 200),
        ("GET", "/healthz", 200),
        ("GET", "/readyz", 503),
        ("GET", "/admin/v1/slots/600000", 404),
        ("POST", "/admin/v1/services/Bad/deploy", 400),
        ("POST", "/admin/v1/services/chat/deploy?version=a%20b", 400),
        ("GET", "/admin/v1/services/chat/pinned?limit=0", 400),
        ("GET", "/admin/v1/ring?x=1", 400),
        ("GET", "/admin/v1/nodes?x=1", 400),
        ("GET", "/admin/v1/level?x=1", 400),
        ("GET", "/admin/v1/seal?x=1", 400),
        ("POST", "/admin/v1/level?to=x", 400),
        ("GET", "/admin/v1/moves?limit=0", 400),
        ("DELETE", "/admin/v1/moves/a/x", 404),
        ("GET", "/admin/v1/nodes/a/drain", 405),
        ("GET", "/admin/v1/rebalance", 405),
        ("GET", "/v1/services/chat/sessions", 404),
    ] {
        let (got, body) = call(method, path, "adm-s").await;
        assert_eq!(got, status, "{path}: {body}");
        if path.len() > 8 {
            assert_eq!(call(method, path, "wrong").await.0, 401, "{path}");
        }
    }
    assert_eq!(call("GET", "/metrics", "wrong").await.0, 401);
    assert_eq!(call("GET", "/metrics", "adm-s").await.1, "slotd_x 1\n");
}

async fn post(node: &Running, body: &str) {
    let answer = call(node.address, &format!("POST {ROOM}/messages"), JSON, body).await;
    assert_eq!(answer.status, 200);
}

/// Without it a stop would cut requests, leave sockets without a reason, or never end.
#[tokio::test]
async fn shutdown_finishes_what_is_in_flight() {
    let node = start(options()).await;
    let mut ws = socket(&node, "").await;
    say(&mut ws, json!({"type": "send", "id": "h", "body": {"hang": true}})).await;
    let mut events = Events::open(&node, "", "").await;
    assert_eq!(events.next().await, Some("retry: 1000".into()));
    let mut idle = TcpStream::connect(node.address).await.expect("connected");
    let address = node.address;
    let in_flight = tokio::spawn(async move {
        call(address, &format!("POST {ROOM}/messages"), JSON, "{\"hang\":true}").await
    });
    while node.fake.hanging() < 2 {
        tokio::task::yield_now().await;
    }
    node.shutdown.trigger();
    assert_eq!(events.next().await, None);
    assert_eq!(idle.read(&mut [0]).await.ok(), Some(0));
    drop((idle, events));
    // The server has the order, and waits for what hangs: no one else is accepted meanwhile.
    assert!(TcpStream::connect(address).await.is_err(), "it still listens");
    assert_eq!(node.fake.hanging(), 2);
    node.fake.decide_hanging();
    let answer = in_flight.await.expect("an answer");
    assert_eq!(answer.code(), (503, "unavailable".into()));
    assert_eq!(frame(&mut ws).await["id"], "h");
    assert_eq!(close_code(&mut ws).await, 1012);
    drop(ws);
    node.task.await.expect("the server ends");
}
