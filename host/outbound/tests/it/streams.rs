//! Bodies that are handed over as they come.

use crate::kit::{LONG, Server, client, get, says};
use slotd_outbound::{Chunk, JsonPath, Kind, Request, Stream, chunks, limits, sse::Event};
use std::{sync::Arc, time::Duration};
use tokio::{io::AsyncWriteExt, sync::Notify, time::timeout};

fn streamed(server: &Server, stream: Stream) -> Request {
    let mut request = get(server.url("a.test", "/"));
    request.options.stream = stream;
    request
}

/// A server that says the first part, and the second when it is told to.
async fn in_two(
    head: &'static str,
    first: &'static [u8],
    second: &'static [u8],
) -> (Server, Arc<Notify>) {
    let go = Arc::new(Notify::new());
    let wait = Arc::clone(&go);
    let server = Server::says(move |mut stream| {
        let wait = Arc::clone(&wait);
        async move {
            let _gone = stream.write_all(format!("HTTP/1.1 {head}\r\n\r\n").as_bytes()).await;
            let _gone = stream.write_all(first).await;
            wait.notified().await;
            let _gone = stream.write_all(second).await;
        }
    })
    .await;
    (server, go)
}

#[tokio::test]
async fn text_is_handed_over_before_the_answer_ends() {
    let (server, go) = in_two("200 OK", b"hello \xe2\x82", b"\xac!").await;
    let client = client(&[&server.rule("a.test")]);
    let (sender, mut receiver) = chunks();
    let attempt = tokio::spawn({
        let (client, request) = (client.clone(), streamed(&server, Stream::Text));
        async move { client.attempt(&request, Some(sender)).await }
    });
    let first = timeout(LONG, receiver.recv()).await.expect("a chunk");
    assert_eq!(first, Some(Chunk::Text("hello ".into())));
    assert!(!attempt.is_finished());
    go.notify_one();
    let mut rest = String::new();
    while let Some(Chunk::Text(text)) = receiver.recv().await {
        rest.push_str(&text);
    }
    assert_eq!(rest, "€!");
    let answer = attempt.await.expect("no panic").expect("an answer");
    assert_eq!(answer.body, "hello €!".as_bytes());
}

#[tokio::test]
async fn events_are_handed_over_before_the_answer_ends_and_joined_after() {
    let head = "200 OK\r\ncontent-type: Text/Event-Stream; charset=utf-8";
    let first = b"data: {\"d\":[{\"t\":\"Hel\"}]}\n\ndata: {\"d\":[{\"t\":";
    let (server, go) = in_two(head, first, b"\"lo\"}]}\n\nevent: end\ndata: [DONE]\n\n").await;
    let client = client(&[&server.rule("a.test")]);
    let (sender, mut receiver) = chunks();
    let attempt = tokio::spawn({
        let (client, request) = (client.clone(), streamed(&server, Stream::Events));
        async move { client.attempt(&request, Some(sender)).await }
    });
    let Some(Chunk::Event(first)) = timeout(LONG, receiver.recv()).await.expect("a chunk") else {
        panic!("no event")
    };
    assert_eq!(first.data, "{\"d\":[{\"t\":\"Hel\"}]}");
    go.notify_one();
    let mut events = vec![first];
    while let Some(Chunk::Event(event)) = receiver.recv().await {
        events.push(event);
    }
    let end = Event { name: "end".into(), data: "[DONE]".into(), id: String::new() };
    assert_eq!((events.len(), events.last()), (3, Some(&end)));
    let path: JsonPath = "d.0.t".parse().expect("a path");
    assert_eq!(path.join(&events), "Hello");
    let answer = attempt.await.expect("no panic").expect("an answer");
    assert_eq!(path.join_body(&answer.body), Ok("Hello".into()));
}

#[tokio::test]
async fn what_is_no_stream_of_events_or_no_success_is_not_handed_over() {
    for (status, media_type, stream) in [
        (200, "application/json", Stream::Events),
        (500, "text/event-stream", Stream::Events),
        (404, "text/plain", Stream::Text),
        (200, "text/event-stream", Stream::No),
    ] {
        let server =
            Server::http(move |_| says(status, &[("content-type", media_type)], "data: x\n\n"))
                .await;
        let (sender, mut receiver) = chunks();
        let client = client(&[&server.rule("a.test")]);
        let answer =
            client.attempt(&streamed(&server, stream), Some(sender)).await.expect("an answer");
        assert_eq!((answer.status, &answer.body[..]), (status, &b"data: x\n\n"[..]));
        assert_eq!(receiver.recv().await, None, "{status} {media_type}");
    }
}

#[tokio::test]
async fn a_stream_that_nobody_reads_any_more_is_collected_all_the_same() {
    let server = Server::http(|_| says(200, &[], vec![b'x'; 1_000_000])).await;
    let (sender, receiver) = chunks();
    drop(receiver);
    let client = client(&[&server.rule("a.test")]);
    let answer = client.attempt(&streamed(&server, Stream::Text), Some(sender)).await;
    assert_eq!(answer.expect("an answer").body.len(), 1_000_000);
}

/// A reader that is slow does not make the node hold what it has not read.
#[tokio::test]
async fn a_stream_waits_for_who_reads_it() {
    let server = Server::http(|_| {
        says(200, &[("content-type", "text/event-stream")], "data: x\n\n".repeat(1_000))
    })
    .await;
    let (sender, mut receiver) = chunks();
    let client = client(&[&server.rule("a.test")]);
    let mut request = streamed(&server, Stream::Events);
    let attempt = client.attempt(&request, Some(sender));
    // It has all that it needs but room.
    let mut attempt = Box::pin(attempt);
    let is_full = async {
        while receiver.len() < limits::CHUNKS_WAITING_MAX {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        outcome = &mut attempt => panic!("{outcome:?}"),
        () = is_full => {}
    }
    let read = async {
        let mut count = 0;
        while receiver.recv().await.is_some() {
            count += 1;
        }
        count
    };
    let (answer, count) = tokio::join!(attempt, read);
    assert_eq!((answer.expect("an answer").body.len(), count), (9_000, 1_000));
    // And its time ends all the same.
    request.options.timeout = Duration::from_millis(100);
    let (sender, _receiver) = chunks();
    let failure = client.attempt(&request, Some(sender)).await.expect_err("no time");
    assert_eq!(failure.kind, Kind::Timeout);
}

#[tokio::test]
async fn an_event_without_an_end_is_too_large() {
    let server = Server::http(|_| {
        says(200, &[("content-type", "text/event-stream")], "x".repeat(1_000_000))
    })
    .await;
    let (sender, _receiver) = chunks();
    let client = client(&[&server.rule("a.test")]);
    let failure = client.attempt(&streamed(&server, Stream::Events), Some(sender)).await;
    let failure = failure.expect_err("too large");
    assert_eq!((failure.kind, failure.may_retry), (Kind::TooLarge, false));
    assert!(failure.so_far.is_some());
}
