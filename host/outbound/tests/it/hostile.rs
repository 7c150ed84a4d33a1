//! Servers that mean no good, or are broken: an attempt ends, and is bounded.

use crate::kit::{Server, client, get, says};
use async_compression::tokio::write::{BrotliEncoder, GzipEncoder, ZlibEncoder};
use slotd_outbound::{Failure, Kind, Options, Request};
use std::time::Duration;
use tokio::{io::AsyncWriteExt, net::TcpStream};

const SOON: Duration = Duration::from_millis(200);

/// What comes of a request to such a server, whose answer may have 10,000 bytes.
async fn failure(server: &Server, change: impl Fn(&mut Options)) -> Failure {
    let mut request = get(server.url("a.test", "/"));
    request.options.answer_bytes_max = 10_000;
    change(&mut request.options);
    let client = client(&[&server.rule("a.test")]);
    client.attempt(&request, None).await.expect_err("a failure")
}

async fn says_bytes(text: impl Into<Vec<u8>>) -> Server {
    let text = text.into();
    Server::says(move |mut stream| {
        let text = text.clone();
        async move {
            let _gone = stream.write_all(&text).await;
        }
    })
    .await
}

/// Writes this until nobody reads it any more.
async fn for_ever(mut stream: TcpStream, first: &[u8], again: &[u8]) {
    let _gone = stream.write_all(first).await;
    while stream.write_all(again).await.is_ok() {}
}

#[tokio::test]
async fn headers_that_do_not_come_end_by_the_timeout() {
    let server = Server::says(|mut stream| async move {
        let _gone = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
        while stream.write_all(b"x: y\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let failure = failure(&server, |options| options.timeout = SOON).await;
    assert_eq!((failure.kind, failure.may_retry, failure.so_far), (Kind::Timeout, true, None));
}

#[tokio::test]
async fn a_body_that_does_not_go_on_ends_by_the_timeout() {
    let server = Server::says(|mut stream| async move {
        let _gone = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello").await;
        let _gone = tokio::io::AsyncReadExt::read(&mut stream, &mut [0]).await;
    })
    .await;
    let failure = failure(&server, |options| options.timeout = 10 * SOON).await;
    assert!(failure.reason.contains("no complete answer"), "{failure}");
    assert_eq!((failure.kind, failure.may_retry), (Kind::Timeout, true));
    let so_far = failure.so_far.expect("what came");
    assert_eq!((so_far.status, &so_far.body[..]), (200, &b"hello"[..]));
}

#[tokio::test]
async fn a_body_that_drips_for_ever_ends_by_the_timeout() {
    let server = Server::says(|mut stream| async move {
        let _gone = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while stream.write_all(b".").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(failure(&server, |options| options.timeout = SOON).await.kind, Kind::Timeout);
}

#[tokio::test]
async fn a_body_without_an_end_is_too_large() {
    let server =
        Server::says(|stream| for_ever(stream, b"HTTP/1.1 200 OK\r\n\r\n", &[b'x'; 4_096])).await;
    let failure = failure(&server, |_| {}).await;
    assert_eq!((failure.kind, failure.may_retry), (Kind::TooLarge, false));
    assert_eq!(failure.so_far.expect("what came").body.len(), 10_000);
}

#[tokio::test]
async fn a_body_that_says_that_it_is_too_large_is_not_read() {
    let server = says_bytes("HTTP/1.1 200 OK\r\ncontent-length: 10001\r\n\r\n").await;
    let failure = failure(&server, |_| {}).await;
    assert_eq!(failure.kind, Kind::TooLarge);
    assert_eq!(failure.so_far.expect("what came").body.len(), 0);
    // One that has just as much as is allowed is read.
    let server = Server::http(|_| says(200, &[], vec![b'x'; 10_000])).await;
    let mut request = get(server.url("a.test", "/"));
    request.options.answer_bytes_max = 10_000;
    let answer =
        client(&[&server.rule("a.test")]).attempt(&request, None).await.expect("an answer");
    assert_eq!(answer.body.len(), 10_000);
}

#[tokio::test]
async fn headers_without_an_end_are_too_large() {
    let server =
        Server::says(|stream| for_ever(stream, b"HTTP/1.1 200 OK\r\nx: ", &[b'x'; 4_096])).await;
    assert_eq!(failure(&server, |_| {}).await.kind, Kind::TooLarge);
    let server = Server::says(|stream| for_ever(stream, b"HTTP/1.1 200 OK\r\n", b"x: y\r\n")).await;
    let many = failure(&server, |_| {}).await;
    assert_eq!(many.kind, Kind::TooLarge, "{many}");
    // What the client has room for, and the limit has not.
    let text = format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "y".repeat(40_000));
    assert_eq!(failure(&says_bytes(text).await, |_| {}).await.kind, Kind::TooLarge);
}

#[tokio::test]
async fn interim_answers_without_an_end_end_by_the_timeout() {
    let server = Server::says(|stream| {
        for_ever(stream, b"", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
    })
    .await;
    let failure = failure(&server, |options| options.timeout = SOON).await;
    assert!([Kind::Timeout, Kind::Protocol].contains(&failure.kind), "{failure}");
}

#[tokio::test]
async fn what_is_not_http_is_said() {
    for text in [
        "SSH-2.0-OpenSSH\r\n",
        "",
        "HTTP/1.1 999999 x\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
    ] {
        let failure = failure(&says_bytes(text).await, |_| {}).await;
        assert_eq!((failure.kind, failure.may_retry), (Kind::Protocol, true), "{text} {failure}");
    }
}

async fn compressed(encoding: &str, text: &[u8]) -> Vec<u8> {
    macro_rules! with {
        ($encoder:ident) => {{
            let mut encoder = $encoder::new(Vec::new());
            encoder.write_all(text).await.expect("memory");
            encoder.shutdown().await.expect("memory");
            encoder.into_inner()
        }};
    }
    match encoding {
        "gzip" => with!(GzipEncoder),
        "deflate" => with!(ZlibEncoder),
        _ => with!(BrotliEncoder),
    }
}

#[tokio::test]
async fn what_is_compressed_is_decompressed() {
    for encoding in ["gzip", "deflate", "br"] {
        let body = compressed(encoding, &b"hello ".repeat(1_000)).await;
        assert!(body.len() < 1_000);
        let server =
            Server::http(move |_| says(200, &[("content-encoding", encoding)], body.clone())).await;
        let client = client(&[&server.rule("a.test")]);
        let answer =
            client.attempt(&get(server.url("a.test", "/")), None).await.expect("an answer");
        assert_eq!(answer.body, b"hello ".repeat(1_000), "{encoding}");
    }
}

/// 64 MiB of nothing have some kilobytes when they are compressed.
#[tokio::test]
async fn a_bomb_is_too_large_when_it_is_decompressed_so_far() {
    for encoding in ["gzip", "deflate", "br"] {
        let body = compressed(encoding, &vec![0; 64 * 1024 * 1024]).await;
        assert!(body.len() < 100_000);
        let server =
            Server::http(move |_| says(200, &[("content-encoding", encoding)], body.clone())).await;
        let failure = failure(&server, |options| options.answer_bytes_max = 100_000).await;
        assert_eq!(failure.kind, Kind::TooLarge, "{encoding} {failure}");
        assert_eq!(failure.so_far.expect("what came").body.len(), 100_000);
    }
}

#[tokio::test]
async fn what_can_not_be_decompressed_is_said() {
    let cut = compressed("gzip", &b"hello ".repeat(1_000)).await;
    let cut = cut[..cut.len() / 2].to_vec();
    for body in [b"no gzip at all".to_vec(), cut] {
        let server =
            Server::http(move |_| says(200, &[("content-encoding", "gzip")], body.clone())).await;
        let failure = failure(&server, |_| {}).await;
        assert_eq!(failure.kind, Kind::Protocol, "{failure}");
    }
}

#[tokio::test]
async fn the_limit_of_the_rule_set_is_above_the_requests() {
    let server = Server::http(|_| says(200, &[], vec![b'x'; 2_000])).await;
    let limits = slotd_outbound::Limits { answer_bytes: 1_000, request_bytes: 10 };
    let may = crate::kit::May { rules: &[&server.rule("a.test")], limits, ..Default::default() };
    let client = may.client(crate::kit::Names::loopback());
    let request = get(server.url("a.test", "/"));
    assert_eq!(client.attempt(&request, None).await.expect_err("large").kind, Kind::TooLarge);
    let request = Request { body: vec![0; 11].into(), ..request };
    assert_eq!(client.attempt(&request, None).await.expect_err("large").kind, Kind::TooLarge);
    assert_eq!(server.connections(), 1);
}
