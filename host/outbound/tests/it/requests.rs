//! What is sent, and what comes back.

use crate::kit::{LONG, Names, Server, client, get, post, says};
use slotd_outbound::{Kind, Next, Options, Request, Retries};
use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::Notify;

#[tokio::test]
async fn a_request_is_sent_as_it_was_asked_for_and_answered() {
    let server = Server::http(|_| {
        says(201, &[("content-type", "text/plain"), ("x-mine", "1"), ("server", "s")], "made")
    });
    let server = server.await;
    let client = client(&[&server.rule("a.test")]);
    let headers = vec![("X-Twice".into(), "1".into()), ("content-type".into(), "text/x".into())];
    let keep_headers = vec!["X-Mine".to_owned()];
    let request = post(server.url("a.test", "/p?q=1#gone"), "body");
    let options = Options { keep_headers, ..request.options.clone() };
    let request = Request { headers, options, ..request };
    let answer = client.attempt(&request, None).await.expect("an answer");
    assert_eq!((answer.status, &answer.body[..]), (201, &b"made"[..]));
    let header = |name: &str| {
        answer.headers.iter().find(|(has, _)| has == name).map(|(_, value)| &value[..])
    };
    assert_eq!((header("x-mine"), header("content-type")), (Some("1"), Some("text/plain")));
    assert_eq!(header("server"), None);

    let [seen] = &server.seen()[..] else { panic!("{:?}", server.seen()) };
    assert_eq!((&seen.method[..], &seen.uri[..], &seen.body[..]), ("POST", "/p?q=1", &b"body"[..]));
    assert_eq!(seen.headers["idempotency-key"], "key-1");
    assert_eq!(seen.headers["content-type"], "text/x");
    assert_eq!(seen.headers["host"], format!("a.test:{}", server.port));
    let mut encodings: Vec<_> = seen.headers["accept-encoding"].split(',').map(str::trim).collect();
    encodings.sort_unstable();
    assert_eq!(encodings, ["br", "deflate", "gzip"]);
    assert!(seen.headers["user-agent"].starts_with("slotd/"));
}

#[tokio::test]
async fn each_attempt_has_the_same_key_and_waits_as_the_server_asks() {
    let count = AtomicUsize::new(0);
    let server = Server::http(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => says(503, &[], "busy"),
        1 => says(429, &[("retry-after", "7")], "too often"),
        _ => says(200, &[], "done"),
    })
    .await;
    let client = client(&[&server.rule("a.test")]);
    let request = post(server.url("a.test", "/"), "x");
    let mut waits = Vec::new();
    for made in 1.. {
        let outcome = client.attempt(&request, None).await;
        match Retries::new(20).next(&outcome, made, LONG, 0.0) {
            Next::Again(wait) => waits.push(wait),
            Next::Done => break,
            Next::GiveUp(why) => panic!("{why:?}"),
        }
    }
    assert_eq!(waits, [Duration::from_millis(500), Duration::from_secs(7)]);
    let keys: Vec<_> =
        server.seen().iter().map(|seen| seen.headers["idempotency-key"].clone()).collect();
    assert_eq!(keys, ["key-1"; 3]);
}

#[tokio::test]
async fn a_request_that_is_wrong_is_not_sent() {
    let server = Server::http(|_| says(200, &[], "")).await;
    let client = client(&[&server.rule("a.test")]);
    let good = get(server.url("a.test", "/"));
    assert_eq!(client.check(&good), Ok(()));
    let header = |name: &str, value: &str| Request {
        headers: vec![(name.to_owned(), value.to_owned())],
        ..good.clone()
    };
    let wrong = [
        (Kind::Invalid, Request { method: "G ET".into(), ..good.clone() }),
        (Kind::Invalid, Request { method: "CONNECT".into(), ..good.clone() }),
        (Kind::Invalid, Request { method: "X".repeat(100), ..good.clone() }),
        (Kind::Invalid, Request { url: "/relative".into(), ..good.clone() }),
        (
            Kind::Invalid,
            Request { url: format!("{}{}", good.url, "x".repeat(9_000)), ..good.clone() },
        ),
        (Kind::Invalid, Request { idempotency_key: String::new(), ..good.clone() }),
        (Kind::Invalid, Request { idempotency_key: "a\r\nb: c".into(), ..good.clone() }),
        (Kind::Invalid, header("x", "a\r\nb: c")),
        (Kind::Invalid, header("x\r\ny", "a")),
        (Kind::Invalid, header("host", "other.test")),
        (Kind::Invalid, header("transfer-encoding", "chunked")),
        (Kind::Invalid, Request { headers: vec![("x".into(), "y".into()); 65], ..good.clone() }),
        (Kind::TooLarge, header("x", &"y".repeat(20_000))),
        (Kind::TooLarge, Request { body: vec![0; 9_000_000].into(), ..good.clone() }),
    ];
    for (kind, request) in wrong {
        let failure = client.attempt(&request, None).await.expect_err("wrong");
        assert_eq!((failure.kind, failure.may_retry), (kind, false), "{failure}");
        assert_eq!(client.check(&request), Err(failure));
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn connections_are_used_again() {
    let server = Server::http(|_| says(200, &[], "x")).await;
    let client = client(&[&server.rule("a.test")]);
    for _ in 0..5 {
        client.attempt(&get(server.url("a.test", "/")), None).await.expect("an answer");
    }
    assert_eq!((server.seen().len(), server.connections()), (5, 1));
}

#[tokio::test]
async fn nobody_there_and_no_such_name_may_be_otherwise_later() {
    let port = Server::http(|_| says(200, &[], "")).await.port;
    let rule = format!("http://a.test:{port}!private");
    let failure = client(&[&rule]).attempt(&get(format!("http://a.test:{port}/")), None).await;
    let failure = failure.expect_err("nobody there");
    assert_eq!((failure.kind, failure.may_retry), (Kind::Connect, true), "{failure}");

    let may = crate::kit::May { rules: &["a.test"], ..Default::default() };
    let failure =
        may.client(Names::new(|_, _| vec![])).attempt(&get("https://a.test/"), None).await;
    let failure = failure.expect_err("no such name");
    assert_eq!((failure.kind, failure.may_retry), (Kind::Dns, true), "{failure}");
}

#[tokio::test]
async fn a_future_that_is_dropped_ends_the_request() {
    let (arrived, ended) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, end) = (Arc::clone(&arrived), Arc::clone(&ended));
    let server = Server::says(move |mut stream| {
        let (tell, end) = (Arc::clone(&tell), Arc::clone(&end));
        async move {
            tell.notify_one();
            let read = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 8]).await;
            assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
            end.notify_one();
        }
    })
    .await;
    let client = client(&[&server.rule("a.test")]);
    let request = get(server.url("a.test", "/"));
    tokio::select! {
        outcome = client.attempt(&request, None) => panic!("{outcome:?}"),
        () = arrived.notified() => {}
    }
    tokio::time::timeout(LONG, ended.notified()).await.expect("the connection ends");
}

/// The environment is another process's: variables can't be set in this one while other tests run.
#[tokio::test]
async fn proxies_of_the_environment_see_nothing() {
    let proxy = Server::http(|_| says(200, &[], "of the proxy")).await;
    let url = format!("http://127.0.0.1:{}", proxy.port);
    let output = tokio::task::spawn_blocking(move || {
        Command::new(std::env::current_exe().expect("a path"))
            .args(["--exact", "requests::a_request_is_sent_as_it_was_asked_for_and_answered"])
            .envs(["http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"].map(|name| (name, &url)))
            .output()
            .expect("the tests themselves")
    })
    .await
    .expect("no panic");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    assert_eq!(proxy.connections(), 0);
}
