//! Requests as bytes: what the listener takes, and what it refuses before any route sees it.

use super::*;

/// Sends bytes, half-closes, and returns the answers.
async fn talk(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(bytes).await.expect("written");
    stream.shutdown().await.expect("shut");
    let mut raw = Vec::new();
    // A reset is also an end.
    let _ = stream.read_to_end(&mut raw).await;
    raw
}

/// The status of each answer.
fn statuses(raw: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(raw);
    let lines = text.match_indices("HTTP/1.").filter_map(|(at, _)| text.get(at + 9..at + 12));
    // A sentence may contain the version, too.
    lines.filter_map(|status| status.parse().ok()).collect()
}

/// The code of the only answer, a problem document; empty if the parser answered.
fn code(raw: &[u8]) -> Option<String> {
    let answer = Answer::parse(raw);
    answer.header("content-type").map(|_| answer.code().1)
}

/// A message whose head has `fields`.
fn message(fields: &str) -> String {
    format!("POST {ROOM}/messages HTTP/1.1\r\n{fields}\r\n")
}

const HOST: &str = "Host: localhost\r\n";
const TWO: &str = "Content-Length: 2\r\n";

/// Without it, requests that other readers interpret differently, or that slotd does not
/// understand, would be applied all the same.
#[tokio::test]
async fn what_is_not_understood_is_refused() {
    let node = start(options()).await;
    let invalid = Some("request-invalid");
    let origin = Some("origin-refused");
    let (encoding, transfer) = (Some("encoding-unsupported"), Some("transfer-unsupported"));
    let with = |fields: &str| message(&format!("{HOST}{TWO}{fields}")) + "{}";
    let host = |host: &str| message(&format!("Host: {host}\r\n{TWO}")) + "{}";
    let framed = |fields: &str| message(&format!("{HOST}{fields}\r\n"));
    let get = |fields: &str| format!("GET {ROOM} HTTP/1.1\r\n{HOST}{fields}\r\n");
    let bare = |line: &str| format!("{line} HTTP/1.1\r\n{HOST}\r\n");
    let cases: Vec<(String, u16, Option<&str>)> = vec![
        // Invalid hosts.
        (message(TWO) + "{}", 400, invalid),
        (with(HOST), 400, invalid),
        (host("localhost:x.evil.example"), 400, invalid),
        (host("[::1].evil.example"), 400, invalid),
        (host("a@localhost"), 400, invalid),
        (host("evil.example"), 403, origin),
        (host("evil."), 403, origin),
        (host(""), 403, origin),
        (bare(&format!("GET http://evil.example{ROOM}")), 400, invalid),
        (
            format!("GET http://evil.example{ROOM} HTTP/1.1\r\nHost: evil.example\r\n\r\n"),
            403,
            origin,
        ),
        // Ambiguous origin, sender or message.
        (with("Origin: http://localhost\r\nOrigin: http://evil.example\r\n"), 400, invalid),
        (with("Authorization: Bearer a\r\nAuthorization: Bearer b\r\n"), 400, invalid),
        (with("Content-Type: text/plain\r\nContent-Type: text/html\r\n"), 400, invalid),
        (with("Idempotency-Key: a\r\nIdempotency-Key: b\r\n"), 400, invalid),
        (with("Slotd-Sender: a\r\nSlotd-Sender: a\r\n"), 400, invalid),
        (get("Last-Event-ID: 1\r\nLast-Event-ID: 2\r\n"), 400, invalid),
        // Ambiguous bodies.
        (with("Content-Encoding: gzip\r\n"), 415, encoding),
        (with("Content-Encoding: identity, br\r\n"), 415, encoding),
        (framed("Transfer-Encoding: gzip, chunked\r\n") + "0\r\n\r\n", 501, transfer),
        (
            framed("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n",
            501,
            transfer,
        ),
        (framed("Transfer-Encoding: gzip\r\n"), 400, None),
        (framed("Transfer-Encoding: chunked\r\n") + "x\r\n\r\n", 400, invalid),
        (framed("Content-Length: 2\r\nContent-Length: 3\r\n") + "{}", 400, None),
        (framed("Content-Length: +2\r\n") + "{}", 400, None),
        (framed("Content-Length: 2, 2\r\n") + "{}", 400, None),
        (framed("Content-Length: 65537\r\n"), 413, Some("body-too-large")),
        (framed("Content-Length: 18446744073709551613\r\n"), 413, Some("body-too-large")),
        (framed("Content-Length: 18446744073709551614\r\n"), 413, Some("body-too-large")),
        (framed("Content-Length: 18446744073709551615\r\n"), 413, Some("body-too-large")),
        (framed("Content-Length: 18446744073709551616\r\n"), 400, None),
        (get(TWO) + "{}", 400, invalid),
        (format!("DELETE {ROOM} HTTP/1.1\r\n{HOST}{TWO}\r\n{{}}"), 400, invalid),
        // Unsupported requirements.
        (with("Expect: 200-maybe\r\n"), 400, invalid),
        (with("If-Match: \"3\"\r\n"), 400, invalid),
        (with("If-None-Match: *\r\n"), 400, invalid),
        (with("Content-Range: bytes 0-1/9\r\n"), 400, invalid),
        // Not valid HTTP/1.1.
        (with("Folded: a\r\n b\r\n"), 400, None),
        (with("Spaced : a\r\n"), 400, None),
        (with("Nul: \0\r\n"), 400, None),
        (format!("GET {ROOM} HTTP/2.0\r\n{HOST}\r\n"), 400, None),
        (format!("GET {ROOM}\r\n\r\n"), 400, None),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\t".into(), 400, None),
        ("PRI * HTTP/2.0\r\n\r\n".into(), 400, None),
        ("PRI / HTTP/2.0\r\n\r\n".into(), 400, None),
        ("\x16\x03\x01\x02\0\x01\0\x01".into(), 400, None),
        // Unknown routes.
        (bare("OPTIONS *"), 404, Some("route-not-found")),
        (bare(&format!("OPTIONS {ROOM}")), 405, Some("method-not-allowed")),
        (bare(&format!("TRACE {ROOM}")), 405, Some("method-not-allowed")),
        (bare(&format!("get {ROOM}")), 405, Some("method-not-allowed")),
        (bare("CONNECT localhost:1"), 404, Some("route-not-found")),
        // Invalid parameters.
        (bare("GET /openapi.json?x"), 400, invalid),
        (bare(&format!("GET {ROOM}?access_token=a&access_token=b")), 400, invalid),
    ];
    for (request, status, expected) in &cases {
        let raw = talk(node.address, request.as_bytes()).await;
        assert!(!raw.is_empty(), "no answer to {request:?}");
        assert_eq!(statuses(&raw), [*status], "{request:?}: {}", String::from_utf8_lossy(&raw));
        assert_eq!(code(&raw).as_deref(), *expected, "{request:?}");
    }
    let left = call(node.address, &format!("GET {ROOM}"), "", "").await;
    assert_eq!(left.code(), (404, "session-not-found".into()), "something was applied");
}

/// Without it a valid request would be refused.
#[tokio::test]
async fn what_is_within_the_rules_is_taken() {
    let node = start(options()).await;
    let with = |fields: &str| message(&format!("{HOST}{TWO}{fields}")) + "{}";
    let chunks = "1;x=y;z=\"1\"\r\n{\r\n1\r\n}\r\n0\r\nTrailer: ignored\r\n\r\n";
    let absolute = format!("POST http://localhost:7070{ROOM}/messages HTTP/1.1");
    let cases: Vec<String> = vec![
        with("Content-Encoding: identity\r\n"),
        with("Upgrade: h2c\r\nConnection: upgrade\r\n"),
        with("Expect: 100-Continue\r\n"),
        with("Content-Type:\r\n"),
        message(&format!("{HOST}Transfer-Encoding: Chunked\r\n")) + chunks,
        format!("POST {ROOM}/messages HTTP/1.0\r\n{TWO}\r\n{{}}"),
        format!("{absolute}\r\nHost: LocalHost:7070\r\n{TWO}\r\n{{}}"),
        message(&format!("Host: localhost.\r\n{TWO}")) + "{}",
        message(&format!("Host: LOCALHOST.:1\r\nOrigin: http://localhost.:1\r\n{TWO}")) + "{}",
        format!("HEAD {ROOM} HTTP/1.1\r\n{HOST}\r\n"),
        format!("GET /healthz?probe=1 HTTP/1.1\r\n{HOST}\r\n"),
        format!("GET /readyz HTTP/1.1\r\n{HOST}If-None-Match: \"x\"\r\n\r\n"),
    ];
    for request in &cases {
        let raw = talk(node.address, request.as_bytes()).await;
        let text = String::from_utf8_lossy(&raw);
        let last = statuses(&raw).last().copied();
        assert_eq!(last, Some(200), "{request:?}: {text}");
    }
    let page = call(node.address, &format!("GET {ROOM}/messages"), "", "").await.json();
    assert_eq!(page["last_seq"], 9);
    let bodies = page["entries"].as_array().expect("entries");
    assert!(bodies.iter().all(|entry| entry["body_base64"] == "e30="), "{page}");
}

/// Without it bytes that one side reads as a body would be the next request for the other.
#[tokio::test]
async fn nothing_is_read_behind_a_request_of_doubtful_length() {
    let node = start(options()).await;
    let second = format!("GET {ROOM} HTTP/1.1\r\n{HOST}\r\n");
    for first in [
        message(&format!("{HOST}{TWO}Transfer-Encoding: chunked\r\n")) + "0\r\n\r\n",
        message(&format!("{HOST}Transfer-Encoding: chunked\r\n{TWO}")) + "0\r\n\r\n",
        message(&format!("{HOST}Transfer-Encoding: gzip, chunked\r\n")) + "0\r\n\r\n",
        message(&format!("{HOST}{HOST}{TWO}")) + "{}",
    ] {
        let raw = talk(node.address, (first.clone() + &second).as_bytes()).await;
        assert_eq!(statuses(&raw).len(), 1, "{first:?}: {}", String::from_utf8_lossy(&raw));
    }
    let fine = message(&format!("{HOST}{TWO}")) + "{}";
    let raw = talk(node.address, (fine.clone() + &second).as_bytes()).await;
    assert_eq!(statuses(&raw), [200, 200], "{}", String::from_utf8_lossy(&raw));
}
