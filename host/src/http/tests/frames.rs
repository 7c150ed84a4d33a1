//! HTTP/2 by hand: floods, and whatever else no client sends.

use super::{
    http2::{Client, until},
    *,
};
use crate::{buffers::Kind, http::PlaceLimits};
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};
use std::time::Instant;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ENHANCE_YOUR_CALM: u32 = 11;
const PROTOCOL_ERROR: u32 = 1;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Fields without compression.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            match text.len() {
                short @ 0..127 => bytes.push(short as u8),
                mut long => {
                    bytes.push(127);
                    long -= 127;
                    while long >= 128 {
                        bytes.push((long % 128) as u8 | 128);
                        long /= 128;
                    }
                    bytes.push(long as u8);
                }
            }
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

fn head<'a>(method: &'a str, path: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![(":method", method), (":scheme", "http"), (":path", path), (":authority", "localhost")]
}

fn message() -> Vec<u8> {
    block(&head("POST", &format!("{ROOM}/messages")))
}

fn opening() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

/// A connection's frames, by hand.
struct Raw {
    stream: TcpStream,
    read: Vec<u8>,
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Raw {
    async fn open(node: &Running) -> Self {
        let mut stream = TcpStream::connect(node.address).await.expect("connected");
        stream.set_nodelay(true).expect("set");
        stream.write_all(&opening()).await.expect("written");
        Self { stream, read: Vec::new() }
    }
    /// The peer may have ended the connection by now.
    async fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }
    /// `None` at the end of the connection.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some((head, rest)) = self.read.split_at_checked(9) {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                if rest.len() >= length {
                    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                    let (kind, flags) = (head[3], head[4]);
                    let payload = rest[..length].to_vec();
                    self.read.drain(..9 + length);
                    return Some(Frame { kind, flags, stream, payload });
                }
            }
            let read = tokio::time::timeout(SOON, self.stream.read_buf(&mut self.read)).await;
            if !matches!(read.expect("frames, or the end"), Ok(1..)) {
                return None;
            }
        }
    }
    /// The reason of the GOAWAY that ends the connection; `None`: there was none.
    async fn end(mut self) -> Option<u32> {
        let mut why = None;
        while let Some(frame) = self.next().await {
            if frame.kind == GOAWAY {
                why = frame.payload[4..8].try_into().ok().map(u32::from_be_bytes);
            }
        }
        why
    }
    /// The status of the answer on a stream, or the reason of its reset, or the connection's end.
    async fn status(&mut self, stream: u32) -> u32 {
        loop {
            let Some(frame) = self.next().await else { panic!("no answer on stream {stream}") };
            match frame.kind {
                GOAWAY => {
                    return u32::from_be_bytes(frame.payload[4..8].try_into().expect("a reason"));
                }
                HEADERS if frame.stream == stream => {
                    let mut decoded = hpack_status(&frame.payload);
                    if frame.flags & END_STREAM == 0 {
                        while let Some(next) = self.next().await {
                            if next.stream == stream && next.flags & END_STREAM != 0 {
                                break;
                            }
                        }
                    }
                    return decoded.take().unwrap_or(0);
                }
                RST_STREAM if frame.stream == stream => {
                    return u32::from_be_bytes(frame.payload.try_into().expect("a reason"));
                }
                _ => {}
            }
        }
    }
}

const SOON: Duration = Duration::from_secs(20);

/// Of a block that begins with the status: one of the static table, or with three digits.
fn hpack_status(block: &[u8]) -> Option<u32> {
    match *block.first()? {
        indexed @ 0x88..=0x8e => {
            [200, 204, 206, 304, 400, 404, 500].get(usize::from(indexed - 0x88)).copied()
        }
        _ => {
            let coded = block.get(2..)?;
            let huffman = block.get(1)? & 0x80 != 0;
            match huffman {
                false => std::str::from_utf8(coded.get(..3)?).ok()?.parse().ok(),
                // Digits have codes of five bits (0, 1, 2) and six.
                true => Some(huffman_digits(coded)),
            }
        }
    }
}

fn huffman_digits(coded: &[u8]) -> u32 {
    let bits: Vec<u8> =
        coded.iter().flat_map(|b| (0..8).rev().map(move |at| b >> at & 1)).collect();
    let number = |at: usize, len: usize| {
        bits[at..at + len].iter().fold(0u32, |sum, bit| sum * 2 + u32::from(*bit))
    };
    let (mut at, mut value) = (0, 0);
    for _ in 0..3 {
        let (digit, length) = match number(at, 5) {
            short @ 0..=2 => (short, 5),
            _ => (number(at, 6) - 0x19 + 3, 6),
        };
        at += length;
        value = value * 10 + digit;
    }
    value
}

/// Without it a client could make the node work for requests that it gives up at once
/// (CVE-2023-44487).
#[tokio::test]
async fn rapid_resets_end_the_connection() {
    let node = start(options()).await;
    let mut raw = Raw::open(&node).await;
    let bystander = Client::connect(&node).await;
    let (block, cancel) = (message(), 8u32.to_be_bytes());
    for request in 0..20_000 {
        let stream = 2 * request + 1;
        let mut bytes = frame(HEADERS, END_HEADERS | END_STREAM, stream, &block);
        bytes.extend(frame(RST_STREAM, 0, stream, &cancel));
        if !raw.send(&bytes).await {
            break;
        }
        if request % 100 == 0 {
            // So that they are accepted first, as those of a patient attacker are.
            tokio::task::yield_now().await;
        }
    }
    // It may be reset with what it still sends in the way of its reason.
    assert!(matches!(raw.end().await, Some(ENHANCE_YOUR_CALM) | None));
    let got = bystander.call(&format!("GET {ROOM}/messages"), &[], "").await.answer;
    let page = got.json();
    let applied = page["last_seq"].as_u64().expect("a number");
    assert!(applied < 4_000, "{applied} were applied");
}

/// The same where each is accepted, and read, before it is given up.
#[tokio::test]
async fn resets_of_requests_under_way_are_bounded() {
    let node = start(options()).await;
    let mut raw = Raw::open(&node).await;
    let block = block(&head("GET", &format!("{ROOM}/events")));
    let mut given_up = 0;
    'connection: for request in 0..5_000u32 {
        let stream = 2 * request + 1;
        if !raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)).await {
            break;
        }
        loop {
            match raw.next().await {
                None => break 'connection,
                Some(frame) if frame.kind == GOAWAY => {
                    assert_eq!(frame.payload[4..8], ENHANCE_YOUR_CALM.to_be_bytes());
                    break 'connection;
                }
                Some(frame) if frame.kind == HEADERS && frame.stream == stream => break,
                Some(_) => {}
            }
        }
        raw.send(&frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())).await;
        given_up += 1;
    }
    let most = limits::HTTP2_RESETS_MAX as u32;
    assert!((most..most * 2).contains(&given_up), "{given_up}");
}

/// Without it a header block that never ends, or is huge, would take the node's memory.
#[tokio::test]
async fn header_blocks_are_bounded() {
    let node = start(options()).await;
    // Without an end.
    let mut raw = Raw::open(&node).await;
    raw.send(&frame(HEADERS, 0, 1, &message())).await;
    for _ in 0..10_000 {
        if !raw.send(&frame(CONTINUATION, 0, 1, &block(&[("a", "b")]))).await {
            break;
        }
    }
    assert!(matches!(raw.end().await, Some(ENHANCE_YOUR_CALM) | None));
    // A little too large: the request is refused, and the connection goes on.
    let mut raw = Raw::open(&node).await;
    let large = "x".repeat(10_000);
    let fields = |count| {
        let mut fields = head("GET", ROOM);
        fields.extend((0..count).map(|_| ("large", &*large)));
        fields
    };
    let frames = |stream, count| {
        let block = block(&fields(count));
        let parts: Vec<_> = block.chunks(16_000).collect();
        let frames = parts.iter().enumerate().flat_map(|(at, part)| {
            let kind = if at == 0 { HEADERS } else { CONTINUATION };
            let first = if at == 0 { END_STREAM } else { 0 };
            let last = if at + 1 == parts.len() { END_HEADERS } else { 0 };
            frame(kind, first | last, stream, part)
        });
        frames.collect::<Vec<u8>>()
    };
    for (stream, fields, status) in [(1, 5, 404), (3, 7, 431)] {
        raw.send(&frames(stream, fields)).await;
        assert_eq!(raw.status(stream).await, status);
    }
    raw.send(&frames(5, 40)).await;
    assert!(matches!(raw.end().await, Some(ENHANCE_YOUR_CALM) | None), "it is over the top");
}

/// Without it heads that are small on the wire and large in memory would be held by the hundred on
/// each connection, uncharged.
#[tokio::test]
async fn heads_of_requests_under_way_are_charged() {
    let buffers = Arc::new(Buffers::new(1 << 20));
    let node = start(HttpOptions { buffers: buffers.clone(), ..options() }).await;
    let mut raw = Raw::open(&node).await;
    // The first one puts a field of 3,000 bytes into the peer's table; the others name it.
    let mut first = message();
    first.push(0x40);
    first.extend(&block(&[("large", &"x".repeat(3_000))])[1..]);
    raw.send(&frame(HEADERS, END_HEADERS, 1, &first)).await;
    let mut many = message();
    many.extend([0x80 | 62; 20]);
    for stream in 1..100 {
        raw.send(&frame(HEADERS, END_HEADERS, 2 * stream + 1, &many)).await;
    }
    let mut refused = 0;
    while refused == 0 {
        let frame = raw.next().await.expect("an answer");
        if frame.kind == HEADERS {
            assert_eq!(hpack_status(&frame.payload), Some(503));
            refused += 1;
        }
    }
    assert!(buffers.held(Kind::Frames) > 500_000);
    drop(raw);
    until("they are given back", || buffers.held(Kind::Frames) == 0).await;
}

/// Without it frames that must be answered would pile up for a peer that floods and reads nothing.
#[tokio::test]
async fn frames_that_ask_for_an_answer_wait_for_the_reader() {
    let node = start(options()).await;
    let bystander = Client::connect(&node).await;
    for flood in [frame(PING, 0, 0, &[0; 8]), frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])] {
        let mut raw = Raw::open(&node).await;
        let flood = flood.repeat(1_000);
        let mut sent = 0;
        // Until the node reads no more, as nobody reads what it says.
        let write = Duration::from_millis(500);
        while let Ok(true) = tokio::time::timeout(write, raw.send(&flood)).await {
            sent += flood.len();
            assert!(sent < 1 << 30, "it is never full");
        }
        let got = bystander.call("GET /healthz", &[], "").await.answer;
        assert_eq!(got.status, 200);
    }
}

/// Without it other frames that say nothing would keep the node busy for as long as somebody sends
/// them.
#[tokio::test]
async fn floods_do_not_keep_others_waiting() {
    let node = start(options()).await;
    let flooded = async |flood: Vec<u8>| {
        let mut raw = Raw::open(&node).await;
        let open = frame(HEADERS, END_HEADERS, 1, &message());
        raw.send(&open).await;
        let flood = flood.repeat(2_000);
        let until = Instant::now() + Duration::from_millis(300);
        let (mut from, mut to) = raw.stream.split();
        let mut buf = [0; 4_096];
        while Instant::now() < until {
            tokio::select! {
                sent = to.write_all(&flood) => if sent.is_err() { break },
                read = from.read(&mut buf) => if !matches!(read, Ok(1..)) { break },
            }
        }
    };
    let bystander = async {
        let client = Client::connect(&node).await;
        for _ in 0..20 {
            let got = tokio::time::timeout(SOON, client.call("GET /healthz", &[], ""));
            assert_eq!(got.await.expect("in time").answer.status, 200);
        }
    };
    tokio::join!(
        flooded(frame(PING, 0, 0, &[0; 8])),
        flooded(frame(SETTINGS, 0, 0, &[])),
        flooded(frame(DATA, 0, 1, &[])),
        flooded(frame(DATA, 0, 1, b"x")),
        flooded(frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        flooded(frame(2, 0, 1, &[0, 0, 0, 3, 1])),
        flooded(frame(0xfa, 0, 1, b"unknown")),
        bystander
    );
}

/// Without it a client that sends HTTP/2 badly would get an answer to what it did not mean.
#[tokio::test]
async fn what_breaks_the_protocol_is_reset() {
    let node = start(options()).await;
    let bad_heads: Vec<Vec<(&str, &str)>> = vec![
        head("POST", ROOM)[..3].to_vec(),
        head("POST", ROOM)[1..].to_vec(),
        [head("POST", ROOM), vec![("Upper", "x")]].concat(),
        [head("POST", ROOM), vec![("connection", "close")]].concat(),
        [head("POST", ROOM), vec![("transfer-encoding", "chunked")]].concat(),
        [head("POST", ROOM), vec![("upgrade", "websocket")]].concat(),
        [head("POST", ROOM), vec![("content-length", "x")]].concat(),
        [head("POST", ROOM), vec![("content-length", "1"), ("content-length", "2")]].concat(),
        [head("CONNECT", ROOM), vec![(":protocol", "websocket")]].concat(),
        [head("POST", ROOM), vec![(":status", "200")]].concat(),
    ];
    for bad in &bad_heads {
        let mut raw = Raw::open(&node).await;
        raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(bad))).await;
        let got = raw.status(1).await;
        assert!(got == PROTOCOL_ERROR || got == 400, "{bad:?}: {got}");
    }
    let mut raw = Raw::open(&node).await;
    // More than was announced, and less.
    let line = format!("{ROOM}/messages");
    let announced = block(&[head("POST", &line), vec![("content-length", "3")]].concat());
    for (stream, body) in [(101, "four"), (103, "to")] {
        raw.send(&frame(HEADERS, END_HEADERS, stream, &announced)).await;
        raw.send(&frame(DATA, END_STREAM, stream, body.as_bytes())).await;
        let got = raw.status(stream).await;
        assert!(got == PROTOCOL_ERROR || got == 400, "{body}: {got}");
    }
    let get = block(&head("GET", &format!("{ROOM}/messages")));
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 105, &get)).await;
    assert_eq!(raw.status(105).await, 404, "the connection goes on");
    let left = call(node.address, &format!("GET {ROOM}"), "", "").await;
    assert_eq!(left.code(), (404, "session-not-found".into()), "something was applied");
}

/// Without it a preface in pieces would be taken for HTTP/1.1.
#[tokio::test]
async fn a_preface_may_come_in_pieces() {
    let node = start(options()).await;
    let get = block(&head("GET", "/healthz"));
    let whole = [opening(), frame(HEADERS, END_HEADERS | END_STREAM, 1, &get)].concat();
    for cut in 1..PREFACE.len() + 2 {
        let mut stream = TcpStream::connect(node.address).await.expect("connected");
        stream.set_nodelay(true).expect("set");
        stream.write_all(&whole[..cut]).await.expect("written");
        tokio::time::sleep(Duration::from_millis(2)).await;
        stream.write_all(&whole[cut..]).await.expect("written");
        let mut raw = Raw { stream, read: Vec::new() };
        assert_eq!(raw.status(1).await, 200, "cut at {cut}");
    }
}

/// A part of a session: a frame that a client could send, or nearly.
#[derive(Clone, Debug)]
enum Part {
    Frame { kind: u8, flags: u8, stream: u32, payload: Vec<u8> },
    Message { stream: u32, ends: bool },
    Get { stream: u32, events: bool },
    Body { stream: u32, bytes: Vec<u8>, ends: bool },
    Bytes(Vec<u8>),
}

impl Part {
    fn bytes(&self) -> Vec<u8> {
        let ends = |ends: bool| if ends { END_STREAM } else { 0 };
        match self {
            Self::Frame { kind, flags, stream, payload } => frame(*kind, *flags, *stream, payload),
            Self::Message { stream, ends: end } => {
                frame(HEADERS, END_HEADERS | ends(*end), *stream, &message())
            }
            Self::Get { stream, events } => {
                let path = if *events { "/events" } else { "" };
                let block = block(&head("GET", &format!("{ROOM}{path}")));
                frame(HEADERS, END_HEADERS | END_STREAM, *stream, &block)
            }
            Self::Body { stream, bytes, ends: end } => frame(DATA, ends(*end), *stream, bytes),
            Self::Bytes(bytes) => bytes.clone(),
        }
    }
}

fn part() -> impl Strategy<Value = Part> {
    let stream = || prop_oneof![8 => (0u32..8).prop_map(|n| 2 * n + 1), 1 => any::<u32>()];
    prop_oneof![
        4 => (stream(), any::<bool>()).prop_map(|(stream, ends)| Part::Message { stream, ends }),
        2 => (stream(), any::<bool>()).prop_map(|(stream, events)| Part::Get { stream, events }),
        4 => (stream(), vec(any::<u8>(), 0..40), any::<bool>())
            .prop_map(|(stream, bytes, ends)| Part::Body { stream, bytes, ends }),
        3 => (0u8..12, any::<u8>(), stream(), vec(any::<u8>(), 0..40))
            .prop_map(|(kind, flags, stream, payload)| Part::Frame { kind, flags, stream, payload }),
        1 => (stream(), prop_oneof![Just(0u32), Just(8), any::<u32>()]).prop_map(|(stream, why)| {
            let payload = why.to_be_bytes().to_vec();
            Part::Frame { kind: RST_STREAM, flags: 0, stream, payload }
        }),
        1 => vec(any::<u8>(), 0..60).prop_map(Part::Bytes),
    ]
}

/// A session: its parts, changes of its bytes, and where it is cut in two.
type Session = (Vec<Part>, Vec<(prop::sample::Index, u8)>, usize);

/// Sessions that are nearly good.
fn session() -> impl Strategy<Value = Session> {
    let changes = prop_oneof![
        2 => Just(Vec::new()),
        1 => vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)
    ];
    (vec(part(), 0..14), changes, 0usize..400)
}

/// Whatever a peer sends: the node must not fail, hang, or keep anything of it, and others are
/// answered meanwhile.
#[test]
fn whatever_a_peer_sends_harms_nobody() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let buffers = Arc::new(Buffers::new(1 << 26));
    let node = runtime.block_on(async {
        // If places were kept, the fifth session would find none.
        let connections = PlaceLimits { max: 4, per_address: 4, probes: 0, ending: 0 };
        start(HttpOptions { connections, buffers: buffers.clone(), ..options() }).await
    });
    let bystander = runtime.block_on(Client::connect(&node));
    let cases = proptest::test_runner::Config { cases: 300, ..Default::default() };
    let mut runner = TestRunner::new(cases);
    let run = |(parts, changes, cut): Session| {
        let mut bytes = opening();
        let begins = if cut % 7 == 0 { 0 } else { bytes.len() };
        parts.iter().for_each(|part| bytes.extend(part.bytes()));
        for (at, byte) in &changes {
            if begins < bytes.len() {
                let at = begins + at.index(bytes.len() - begins);
                bytes[at] = *byte;
            }
        }
        runtime.block_on(async {
            let mut stream = TcpStream::connect(node.address).await.expect("connected");
            let (first, rest) = bytes.split_at(cut.min(bytes.len()));
            // The node may have ended it.
            let _ = stream.write_all(first).await;
            let got = bystander.call(&format!("POST {ROOM}/messages"), &[], "{}").await.answer;
            assert_eq!(got.status, 200);
            let _ = stream.write_all(rest).await;
            let _ = stream.shutdown().await;
            let mut read = Vec::new();
            // The end, or a reset, in time: the node closes what its peer has closed.
            let end = tokio::time::timeout(SOON, stream.read_to_end(&mut read)).await;
            assert!(end.is_ok(), "it hangs");
            drop(stream);
            until("it is given back", || Kind::ALL.iter().all(|k| buffers.held(*k) == 0)).await;
        });
        Ok(())
    };
    runner.run(&session(), run).unwrap_or_else(|error| panic!("{error}"));
    runtime.block_on(async {
        // A fresh connection finds a place.
        let fresh = Client::connect(&node).await;
        assert_eq!(fresh.call("GET /healthz", &[], "").await.answer.status, 200);
        node.shutdown.trigger();
        tokio::time::timeout(SOON, node.task).await.expect("in time").expect("ended");
    });
}
