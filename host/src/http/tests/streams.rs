//! Event streams and WebSockets.

use super::*;

/// Without it an HTTP/1.0 client, which knows no chunks, would read their sizes as events, and one
/// that pipelines another request would lose that one's answer.
#[tokio::test]
async fn an_event_stream_has_the_connection_that_it_was_asked_on() {
    let node = start(options()).await;
    post(&node, "{}").await;
    for (version, chunked) in [("1.0", false), ("1.1", true)] {
        let mut stream = TcpStream::connect(node.address).await.expect("connected");
        let ask = |path: &str, keep: &str| {
            format!("GET {ROOM}{path} HTTP/{version}\r\nHost: localhost\r\n{keep}\r\n")
        };
        let first = ask("", "Connection: keep-alive\r\n");
        let both = first + &ask("/events?after=0", "");
        stream.write_all(both.as_bytes()).await.expect("written");
        let mut raw = Vec::new();
        while !raw.windows(7).any(|w| w == b"id: 1.0") {
            assert!(stream.read_buf(&mut raw).await.expect("read") > 0, "{raw:?}");
        }
        let text = String::from_utf8(raw).expect("UTF-8");
        let (info, events) = text.split_at(text.rfind("HTTP/1.").expect("two answers"));
        assert!(info.contains("\"seq\":1") && events.contains("text/event-stream"), "{text}");
        assert_eq!(events.to_lowercase().contains("transfer-encoding"), chunked, "{text}");
        assert!(!events.to_lowercase().contains("content-length"), "{text}");
        assert!(events.contains("date: "), "{text}");
    }
}

/// A stream of server-sent events, by line.
pub(super) struct Events {
    pub(super) stream: TcpStream,
    raw: Vec<u8>,
}

impl Events {
    pub(super) async fn open(node: &Running, query: &str, headers: &str) -> Self {
        let mut stream = TcpStream::connect(node.address).await.expect("connected");
        let request = format!(
            "GET {ROOM}/events{query} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}\r\n",
            node.address
        );
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut events = Self { stream, raw: Vec::new() };
        let mut head = String::new();
        while let Some(line) = events.line().await {
            if line.is_empty() {
                break;
            }
            head += &line;
        }
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/event-stream"), "{head}");
        // Only one framing header, or a proxy could misinterpret the next answer.
        let head = head.to_lowercase();
        assert!(head.contains("transfer-encoding: chunked"), "{head}");
        assert!(!head.contains("content-length"), "{head}");
        events
    }
    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.raw.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.raw.drain(..=end).collect();
                return Some(String::from_utf8(line).expect("UTF-8").trim_end().to_owned());
            }
            if self.stream.read_buf(&mut self.raw).await.expect("read") == 0 {
                return None;
            }
        }
    }
    /// The next non-empty line of the stream; chunk sizes are skipped.
    pub(super) async fn next(&mut self) -> Option<String> {
        loop {
            let line = self.line().await?;
            if line.contains(": ") {
                return Some(line);
            }
        }
    }
    pub(super) async fn ids(&mut self, n: usize) -> Vec<String> {
        let mut ids = Vec::new();
        while ids.len() < n {
            let line = self.next().await.expect("more events");
            let id = line.strip_prefix("id: ").map(|id| id.split('-').next().unwrap_or(id));
            ids.extend(id.map(str::to_owned));
        }
        ids
    }
}

/// Without it a browser that reconnects would miss events or show some twice.
#[tokio::test]
async fn event_streams_are_live_and_resume() {
    let node = start(options()).await;
    let mut live = Events::open(&node, "", "").await;
    let mut from_start = Events::open(&node, "?after=0", "").await;
    for _ in 0..3 {
        post(&node, "{\"events\":2}").await;
    }
    let all = ["1.0", "1.1", "2.0", "2.1", "3.0", "3.1"];
    assert_eq!(live.ids(6).await, all);
    assert_eq!(from_start.ids(6).await, all);
    for (i, id) in all.iter().enumerate() {
        // The header wins: the page's URL still has the first position.
        let header = format!("Last-Event-ID: {id}\r\n");
        let mut resumed = Events::open(&node, "?after=0", &header).await;
        assert_eq!(resumed.ids(5 - i).await, all[i + 1..]);
    }
    node.fake.restart_slot();
    post(&node, "{}").await;
    assert_eq!(live.ids(1).await, ["4.0"]);
    node.fake.delete(&room()).await.expect("deleted");
    let mut last = Vec::new();
    while let Some(line) = live.next().await {
        last.push(line);
    }
    assert_eq!(last[last.len() - 2..], ["event: slotd.deleted", "data: {}"]);
}

pub(super) type Ws =
    tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<TcpStream>>;

pub(super) async fn socket(node: &Running, query: &str) -> Ws {
    let url = format!("ws://{}{ROOM}/socket{query}", node.address);
    tokio_tungstenite::connect_async(url).await.expect("a socket").0
}

pub(super) async fn frame(ws: &mut Ws) -> Value {
    loop {
        match ws.next().await.expect("more frames").expect("a frame") {
            Message::Text(text) => return serde_json::from_str(&text).expect("JSON"),
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

pub(super) async fn close_code(ws: &mut Ws) -> u16 {
    loop {
        match ws.next().await.expect("a close frame").expect("a frame") {
            Message::Close(Some(close)) => return close.code.into(),
            Message::Close(None) => panic!("no code"),
            _ => {}
        }
    }
}

pub(super) async fn say(ws: &mut Ws, frame: Value) {
    ws.send(Message::text(frame.to_string())).await.expect("sent");
}

/// Without it a socket would lose messages, acknowledge the wrong ones, or not survive a
/// reconnect.
#[tokio::test]
async fn a_socket_sends_hears_and_resumes() {
    let node = start(options()).await;
    let mut ws = socket(&node, "?subscribe=false&sender=zoe").await;
    // More than may be in flight at once.
    for i in 0..200 {
        say(&mut ws, json!({"type": "send", "id": format!("m{i}"), "body": {"i": i}})).await;
    }
    let mut seqs = HashMap::new();
    for _ in 0..200 {
        let ack = frame(&mut ws).await;
        assert_eq!(ack["type"], "ack", "{ack}");
        seqs.insert(ack["id"].as_str().expect("an id").to_owned(), ack["seq"].as_u64());
    }
    for i in 0..200u64 {
        assert_eq!(seqs[&format!("m{i}")], Some(i + 1), "the order of frames is kept");
    }
    say(&mut ws, json!({"type": "send", "id": "m7", "body": {"i": 7}})).await;
    let again = frame(&mut ws).await;
    assert_eq!((&again["seq"], &again["replayed"]), (&json!(8), &json!(true)));
    for (bad, code, id) in [
        (json!({"type": "send", "id": "m7", "body": 8}), "idempotency-conflict", json!("m7")),
        (json!({"type": "send", "id": "x", "body": {"reject": "no"}}), "rejected", json!("x")),
        (
            json!({"type": "send", "id": "x", "body": "y".repeat(70_000)}),
            "body-too-large",
            json!("x"),
        ),
        (json!({"type": "nonsense"}), "request-invalid", json!(null)),
    ] {
        say(&mut ws, bad).await;
        let error = frame(&mut ws).await;
        assert_eq!(
            (&error["type"], &error["code"], &error["id"]),
            (&json!("error"), &json!(code), &id)
        );
    }
    ws.send(Message::binary(vec![1u8])).await.expect("sent");
    assert_eq!(frame(&mut ws).await["code"], "request-invalid");

    let mut resumed = socket(&node, "?after=195").await;
    for seq in 196..=200 {
        let event = frame(&mut resumed).await;
        assert_eq!(
            (&event["type"], &event["seq"], &event["index"]),
            (&json!("event"), &json!(seq), &json!(0))
        );
    }
    let mut live = socket(&node, "").await;
    node.fake.restart_slot();
    say(&mut ws, json!({"type": "send", "id": "last", "body": 1})).await;
    assert_eq!(frame(&mut ws).await["seq"], 201);
    assert_eq!(frame(&mut live).await["seq"], 201);
    assert_eq!(frame(&mut resumed).await["seq"], 201);
    let history = call(node.address, &format!("GET {ROOM}/messages?tail=1"), "", "").await.json();
    assert_eq!(history["entries"][0]["sender"], "zoe");

    node.fake.delete(&room()).await.expect("deleted");
    assert_eq!(frame(&mut live).await, json!({"type": "deleted"}));
    assert_eq!(close_code(&mut live).await, 1000);
    ws.close(None).await.expect("closed");
}

/// Messages whose frames arrive together are taken together: one behind a frame of another kind would be lost,
/// or overtake it.
#[tokio::test]
async fn frames_that_arrive_together_are_taken_in_order() {
    let node = start(options()).await;
    let mut ws = socket(&node, "?subscribe=false").await;
    let send = |i: u64| json!({"type": "send", "id": format!("m{i}"), "body": i}).to_string();
    for part in 0..3 {
        for i in 0..20 {
            ws.feed(Message::text(send(20 * part + i))).await.expect("written");
        }
        ws.feed(Message::text("{}")).await.expect("written");
        ws.feed(Message::binary(vec![1u8])).await.expect("written");
    }
    ws.flush().await.expect("sent");
    let (mut refused, mut seqs) = (0, Vec::new());
    while refused + seqs.len() < 66 {
        let answer = frame(&mut ws).await;
        match answer["type"].as_str() {
            Some("ack") => seqs.push((answer["seq"].clone(), answer["id"].clone())),
            _ => refused += 1,
        }
    }
    let all: Vec<_> = (0..60).map(|i| (json!(i + 1), json!(format!("m{i}")))).collect();
    assert_eq!(seqs, all);
}

/// Without it one reader that does not read would cost the node unlimited memory, or would miss
/// events without notice.
#[tokio::test]
async fn a_slow_socket_is_told_of_its_gap_and_closed() {
    let node = start(options()).await;
    let mut ws = socket(&node, "?after=0").await;
    let backend = Backend::Fake(node.fake.clone());
    // Until its buffers, including the kernel's, and its queue are full.
    let body = bytes::Bytes::from("{\"events\":256}");
    let mut sent = 0;
    while sent < 5 || node.fake.subscribers(&room()) > 0 {
        let message = crate::node::Incoming {
            id: None,
            sender: None,
            content_type: "application/json".into(),
            body: body.clone(),
            trace: None,
            client: None,
        };
        backend.enqueue(&room(), message).await.expect("queued").await.expect("sent");
        sent += 1;
        assert!(sent < 50_000, "it was never given up");
        tokio::task::yield_now().await;
    }
    let mut expected = (1, 0);
    let after = loop {
        let frame = frame(&mut ws).await;
        if frame["type"] == "gap" {
            break frame["after"].as_str().expect("a cursor").to_owned();
        }
        assert_eq!(
            (frame["seq"].as_u64(), frame["index"].as_u64()),
            (Some(expected.0), Some(expected.1))
        );
        expected =
            if expected.1 == 255 { (expected.0 + 1, 0) } else { (expected.0, expected.1 + 1) };
    };
    let behind = format!("{}-", expected.0 - 1);
    assert!(after.starts_with(&behind), "{after} is not {behind}");
    assert_eq!(close_code(&mut ws).await, 1013);
    let mut back = socket(&node, &format!("?after={after}")).await;
    assert_eq!(frame(&mut back).await["seq"], expected.0);
}

/// Without it a frame of any size would be buffered.
#[tokio::test]
async fn a_frame_over_the_limit_closes_the_socket() {
    let node = start(options()).await;
    let mut ws = socket(&node, "").await;
    let _ = ws.send(Message::text("x".repeat(1_000_000))).await;
    // A client that is still uploading may see a reset before the close frame.
    match ws.next().await {
        Some(Ok(Message::Close(Some(close)))) => assert_eq!(u16::from(close.code), 1009),
        Some(Err(tungstenite::Error::Io(_) | tungstenite::Error::Protocol(_))) | None => {}
        other => panic!("{other:?}"),
    }
}

/// Without it a reader that comes back would resume after what is nowhere.
#[tokio::test]
async fn an_ephemeral_event_has_no_place_on_a_stream() {
    let notify = format!("POST {ROOM}/notify?kind=typing");
    let closed = start(options()).await;
    let refused = call(closed.address, &notify, "", "").await;
    assert_eq!(refused.code(), (403, "notify-refused".into()));
    let node = start(HttpOptions { notify: Notifiers::parse("chat"), ..options() }).await;
    let mut events = Events::open(&node, "", "").await;
    assert!(events.next().await.is_some_and(|line| line.starts_with("retry: ")));
    let headers = format!("{JSON}Slotd-Sender: zoe\r\n");
    let sent = call(node.address, &notify, &headers, "{\"on\":true}").await;
    assert_eq!((sent.status, sent.body.len()), (202, 0));
    post(&node, "{}").await;
    assert_eq!(events.next().await.as_deref(), Some("event: typing"));
    let data = events.next().await.expect("data");
    let data: Value =
        serde_json::from_str(data.strip_prefix("data: ").expect("data")).expect("JSON");
    assert_eq!(
        data,
        json!({"ephemeral": true, "kind": "typing", "origin": "client", "sender": "zoe",
               "time_ms": 5, "content_type": "application/json", "body": {"on": true}})
    );
    assert!(events.next().await.is_some_and(|line| line.starts_with("id: 1.0")));
}
