//! Unauthenticated and invalid peers are refused, with a reason.

use super::{super::handshake::Reason, *};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Each of these would compute another ring, mix two clusters or admit an unauthenticated peer. Both
/// sides must report why, and a link that works must not be disturbed.
#[tokio::test]
async fn peers_that_do_not_fit_are_refused() {
    peers_are_refused(|_| {}).await;
}

/// The same for nodes from before level 3.
#[tokio::test]
async fn unencrypted_peers_that_do_not_fit_are_refused() {
    peers_are_refused(old).await;
}

type Change = fn(&mut RpcOptions);

async fn peers_are_refused(form: Change) {
    let (a, friend) = (node_with("a", form).await, node_with("friend", form).await);
    linked(&friend, [&a]).await;
    let cases: [(Reason, &str, Change); 4] = [
        (Reason::Cluster, "other-cluster", |o| o.cluster = "other-cluster".into()),
        (Reason::Secret, "this node's secret", |o| with_secret(o, b"another")),
        (Reason::Ring, "other-ring", |o| o.ring_scheme = "other-ring".into()),
        (Reason::SlotCount, "\"1024\"", |o| o.slot_count = 1024),
    ];
    for (reason, part, change) in cases {
        let other = node_with("other", |options| {
            form(options);
            change(options);
        });
        let other = other.await;
        other.see(&[a.member()]);
        other.refused("a", part).await;
        assert!(a.links.own.reasons().contains(&reason), "{reason:?} at the called");
        assert!(other.links.own.reasons().contains(&reason), "{reason:?} at the caller");
        assert!(other.message("a", 0, "echo", "x").is_err());
        // The same when it is the one that is called.
        let b = node_with("b", form).await;
        b.see(&[other.member()]);
        b.refused("other", reason.as_str()).await;
        assert!(b.links.own.reasons().contains(&reason));
        friend.echo("a").await;
    }
    assert!(a.script.order.lock().iter().all(|lane| *lane == 0));
    assert_eq!(a.script.order.lock().len(), 4);
}

/// A node that answers in another's name would be sent its messages.
#[tokio::test]
async fn nodes_that_are_not_who_they_should_be_are_refused() {
    let a = node_with("a", |options| options.member.boot = 5).await;
    let b = node("b").await;
    // Another node listens where b should be.
    let c = node("c").await;
    a.see(&[&Member { peer: c.member().peer, ..b.member().clone() }]);
    a.refused("b", "expected node \"b\" at this address, found \"c\"").await;
    eventually("the reason", || c.links.own.reasons().contains(&Reason::Identity)).await;
    // A second process with the same name.
    let twin = node("a").await;
    twin.see(&[&Member { name: "x".into(), ..a.member().clone() }]);
    twin.refused("x", "identity").await;
    assert!(a.links.own.reasons().contains(&Reason::Identity));
    // An older process of a node than the one that is known.
    let old = node_with("n", |options| options.member.boot = 3).await;
    let other = node("other").await;
    other.see(&[&Member { boot: 4, ..old.member().clone() }]);
    other.refused("n", "older process").await;
    // One that is newer than the view, or not in it, is welcome.
    let other = node("other").await;
    let (boot, instance) = (2, crate::random::id());
    other.see(&[&Member { boot, instance, ..old.member().clone() }]);
    other.linked("n").await;
    other.echo("n").await;
}

/// Anything may come to an open port; it must cost nothing but its own connection.
#[tokio::test]
async fn garbage_is_refused() {
    let (a, friend) = (node("a").await, node("friend").await);
    linked(&friend, [&a]).await;
    let say = async |bytes: &[u8]| {
        let mut stream = TcpStream::connect(a.member().peer).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // Until it closes, also with a reset.
        let _ = within(stream.read_to_end(&mut answer)).await;
        answer
    };
    let answer = say(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.starts_with(b"HTTP/1.1 400 "));
    assert!(String::from_utf8_lossy(&answer).contains("API is on another"));
    eventually("it is counted", || a.links.own.reasons().contains(&Reason::Malformed)).await;
    say(&[0xff; 5_000]).await;
    say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nno frames at all, but long enough to be one").await;
    // A record of TLS that is none, or too long.
    let alert = say(&[0x16, 3, 1, 0, 4, 2, 0, 0, 0]).await;
    assert_eq!(alert.first(), Some(&0x15), "{alert:?}");
    say(&[&[0x16, 3, 1, 0xff, 0xff], &[1; 70_000][..]].concat()).await;
    // A preface and nothing more, half of a record, and not even that: closed after a while.
    let (preface, half, nothing) = tokio::join!(
        say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        say(&[0x16, 3, 1, 1, 0, 1]),
        say(b"")
    );
    assert!(half.is_empty());
    assert!(!preface.is_empty() && nothing.is_empty());
    eventually("it is counted", || a.links.own.reasons().contains(&Reason::Timeout)).await;
    // HTTP/2 for something else.
    let stream = TcpStream::connect(a.member().peer).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let request = http::Request::post(format!("http://{}/x", a.member().peer));
    let answer = within(sender.send_request(request.body(String::new()).unwrap())).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "12");
    friend.echo("a").await;
}

/// 64 connections that say nothing, made anew as they are closed, kept a cluster's own nodes from
/// linking for as long as somebody liked. Nor may such that begin TLS and don't go on.
#[tokio::test]
async fn connections_that_say_nothing_do_not_keep_a_peer_out() {
    for (known, said) in [(true, &b""[..]), (false, b""), (true, &[0x16, 3, 1])] {
        let (a, b) = (node("a").await, node("b").await);
        if known {
            a.found.send_modify(|found| {
                found.addresses = [b.member().peer].into();
            });
        }
        let address = a.member().peer;
        let flood = tokio::spawn(async move {
            let one = |_| async move {
                loop {
                    let Ok(mut stream) = TcpStream::connect(address).await else { continue };
                    let _ = stream.write_all(said).await;
                    // Until the other side closes it.
                    let _ = stream.read(&mut [0; 16]).await;
                }
            };
            futures_util::future::join_all((0..100).map(one)).await;
        });
        eventually("it is crowded", || a.links.own.reasons().contains(&Reason::Crowded)).await;
        b.see(&[a.member()]);
        b.linked("a").await;
        b.echo("a").await;
        flood.abort();
    }
}
