//! Unauthenticated and invalid peers are refused, with a reason.

use super::super::{
    handshake::{Hellos, Reason, Refusal, Role, word},
    outbox::Outbox,
    proto::{self, Codec, Frame, Hello, Item, kind},
};
use super::*;
use crate::limits;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::{Status, Streaming, client::Grpc};

/// A client that sends arbitrary items: its outbox and the answers.
async fn raw(address: SocketAddr) -> (Arc<Outbox>, Streaming<Frame>) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let uri = format!("http://{address}").parse().unwrap();
    let service = tower::service_fn(move |request| sender.clone().send_request(request));
    let outbox = Outbox::new();
    let request = tonic::Request::new(outbox.stream());
    let mut grpc = Grpc::with_origin(service, uri);
    let path = proto::PATH.parse().unwrap();
    let frames = grpc.streaming(request, path, Codec::new().0).await.unwrap().into_inner();
    (outbox, frames)
}

/// The go-away item that arrives at last.
async fn go_away(frames: &mut Streaming<Frame>) -> Result<Refusal, Status> {
    loop {
        let Some(frame) = within(frames.message()).await? else {
            return Err(Status::cancelled("closed"));
        };
        if let Some(item) = frame.items.iter().find(|item| item.kind == kind::GO_AWAY) {
            return Ok(Refusal::read(item));
        }
    }
}

/// Each of these would compute another ring, mix two clusters or admit an unauthenticated peer. Both
/// sides must report why, and a link that works must not be disturbed.
#[tokio::test]
async fn peers_that_do_not_fit_are_refused() {
    let (a, friend) = (node("a").await, node("friend").await);
    linked(&friend, [&a]).await;
    type Change = fn(&mut RpcOptions);
    let cases: [(Reason, &str, Change); 4] = [
        (Reason::Cluster, "other-cluster", |o| o.cluster = "other-cluster".into()),
        (Reason::Secret, "this node's secret or", |o| o.secret = b"another".as_slice().into()),
        (Reason::Ring, "other-ring", |o| o.ring_scheme = "other-ring".into()),
        (Reason::SlotCount, "\"1024\"", |o| o.slot_count = 1024),
    ];
    for (reason, part, change) in cases {
        let other = node_with("other", change).await;
        other.see(&[a.member()]);
        other.refused("a", part).await;
        assert!(a.links.own.reasons().contains(&reason), "{reason:?} at the called");
        assert!(other.links.own.reasons().contains(&reason), "{reason:?} at the caller");
        assert!(other.message("a", 0, "echo", "x").is_err());
        // The same when it is the one that is called.
        let b = node("b").await;
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

/// An upgrade in the wrong order must be told, not guessed at; and at a raised feature level a node
/// that can't read what the others write must not be let in.
#[tokio::test]
async fn another_version_is_refused() {
    let a = node("a").await;
    // The feature level, then: a build of later that still speaks this version, one from before
    // ranges, and one from before levels.
    let cases = [
        (1, 0, 0, "older"),
        (1, 99, 0, "newer"),
        (1, 99, u32::from(level::NEWEST) + 1, "newer"),
        (1, 99, 2, ""),
        (1, 99, 1, ""),
        (1, 1, 0, ""),
        (1, 1, 1, ""),
        (2, 1, 0, "older"),
        (2, 1, 1, "older"),
        (2, 2, 1, ""),
    ];
    for (level, version, oldest, word_for_it) in cases {
        a.options.level.raise(level);
        let (outbox, mut frames) = raw(a.member().peer).await;
        let old = node("old").await;
        let mut hello = Hello::decode(&*old.links.own.hello()).unwrap();
        (hello.protocol, hello.protocol_oldest) = (version, oldest);
        hello.protocol_newest = 0;
        let hello = hello.encode_to_vec();
        outbox.urgent(word(kind::HELLO, &hello));
        let called = within(frames.message()).await.unwrap().unwrap().items[0].head.clone();
        let hellos = Hellos { caller: &hello, called: &called };
        outbox.urgent(word(kind::PROOF, old.links.own.proof(Role::Caller, &hellos)));
        if word_for_it.is_empty() {
            let answer = within(frames.message()).await.unwrap().unwrap();
            assert_eq!(answer.items[0].kind, kind::PROOF);
            continue;
        }
        let refusal = go_away(&mut frames).await.unwrap();
        assert_eq!(refusal.reason, Reason::Protocol);
        assert!(refusal.detail.contains(word_for_it), "{refusal}");
    }
    assert!(a.links.own.reasons().contains(&Reason::Protocol));
}

/// A proof that is heard must be of no use to who heard it, and none is no proof.
#[tokio::test]
async fn proofs_can_not_be_made_up_or_used_again() {
    let (a, b) = (node("a").await, node("b").await);
    for proof in [Vec::new(), vec![0; 32], b.links.own.hello()] {
        let (outbox, mut frames) = raw(a.member().peer).await;
        outbox.urgent(word(kind::HELLO, b.links.own.hello()));
        outbox.urgent(word(kind::PROOF, proof));
        let refusal = go_away(&mut frames).await.unwrap();
        // Both items in one frame are refused for that.
        assert!(matches!(refusal.reason, Reason::Secret | Reason::Malformed));
    }
    let (outbox, mut frames) = raw(a.member().peer).await;
    outbox.urgent(word(kind::HELLO, b.links.own.hello()));
    let theirs = within(frames.message()).await.unwrap().unwrap();
    assert_eq!(theirs.items.len(), 1);
    assert_eq!(theirs.items[0].kind, kind::HELLO);
    outbox.urgent(word(kind::PROOF, [1; 32]));
    assert_eq!(go_away(&mut frames).await.unwrap().reason, Reason::Secret);
    // A request instead of a proof.
    let (outbox, mut frames) = raw(a.member().peer).await;
    outbox.urgent(word(kind::HELLO, b.links.own.hello()));
    let _ = within(frames.message()).await.unwrap().unwrap();
    outbox.urgent(Item::new(kind::REQUEST, 1));
    assert_eq!(go_away(&mut frames).await.unwrap().reason, Reason::Malformed);
    assert!(a.script.order.lock().is_empty());
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
    // A preface and nothing more, and not even that: closed after a while.
    let (preface, nothing) = tokio::join!(say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), say(b""));
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

/// An endless frame must not be read to its end, from an unauthenticated peer or a faulty one.
#[tokio::test]
async fn frames_over_the_limit_are_refused() {
    let (a, b, friend) = (node("a").await, node("b").await, node("friend").await);
    linked(&friend, [&a]).await;
    let large = vec![0; limits::PEER_FRAME_BYTES_MAX + 1];
    for size in [limits::PEER_HELLO_BYTES_MAX, limits::PEER_FRAME_BYTES_MAX] {
        let (outbox, mut frames) = raw(a.member().peer).await;
        outbox.urgent(word(kind::HELLO, &large[..size]));
        let refusal = go_away(&mut frames).await.unwrap();
        assert_eq!(refusal.reason, Reason::Malformed);
        assert!(refusal.detail.contains("too large"), "{refusal}");
    }
    // The same from one that proved that it knows the secret.
    let (outbox, mut frames) = raw(a.member().peer).await;
    let hello = b.links.own.hello();
    outbox.urgent(word(kind::HELLO, &hello));
    b.links.own.introduce("a", &mut frames, &outbox, &hello).await.unwrap();
    outbox.urgent(word(kind::REQUEST, &large));
    let refusal = go_away(&mut frames).await.unwrap();
    assert!(refusal.detail.contains("too large"), "{refusal}");
    // A peer that says something unheard of.
    let (outbox, mut frames) = raw(a.member().peer).await;
    let hello = b.links.own.hello();
    outbox.urgent(word(kind::HELLO, &hello));
    b.links.own.introduce("a", &mut frames, &outbox, &hello).await.unwrap();
    outbox.urgent(Item::new(77, 1));
    let refusal = go_away(&mut frames).await.unwrap();
    assert!(refusal.detail.contains("unknown kind 77"), "{refusal}");
    // And a request that does not decode: refused alone.
    let (outbox, mut frames) = raw(a.member().peer).await;
    let hello = b.links.own.hello();
    outbox.urgent(word(kind::HELLO, &hello));
    b.links.own.introduce("a", &mut frames, &outbox, &hello).await.unwrap();
    outbox.ordered(Item { head: "?".into(), ..Item::new(kind::REQUEST, 5) });
    let answer = within(frames.message()).await.unwrap().unwrap();
    assert_eq!((answer.items[0].kind, answer.items[0].id), (kind::RESPONSE, 5));
    friend.echo("a").await;
}

/// Whoever asks must not learn the cluster's name, and must get nothing that a guessed secret could
/// be tried against.
#[tokio::test]
async fn who_has_not_proven_anything_is_told_the_same_whatever_he_says() {
    let (a, b) = (node("a").await, node("b").await);
    let mut told = Vec::new();
    for (cluster, ring, slots) in [("test", "r", 512), ("guess", "r", 512), ("guess", "s", 7)] {
        let (outbox, mut frames) = raw(a.member().peer).await;
        let mut hello = Hello::decode(&*b.links.own.hello()).unwrap();
        (hello.cluster, hello.ring_scheme) = (cluster.into(), ring.into());
        hello.slot_count = slots;
        outbox.urgent(word(kind::HELLO, hello.encode_to_vec()));
        let answer = within(frames.message()).await.unwrap().unwrap();
        let [item] = &answer.items[..] else { panic!("{answer:?}") };
        let mut theirs = Hello::decode(&*item.head).unwrap();
        assert_eq!((item.kind, &*theirs.cluster), (kind::HELLO, cluster), "its own words");
        (theirs.cluster, theirs.nonce) = Default::default();
        outbox.urgent(word(kind::PROOF, [0; 32]));
        let refusal = go_away(&mut frames).await.unwrap();
        told.push((theirs, refusal.reason, refusal.detail));
    }
    assert!(told.windows(2).all(|two| two[0] == two[1]), "{told:?}");
    // The log of the node that refused says more.
    assert!(a.links.own.reasons().contains(&Reason::Secret));
}

/// 64 connections that say nothing, made anew as they are closed, kept a cluster's own nodes from
/// linking for as long as somebody liked.
#[tokio::test]
async fn connections_that_say_nothing_do_not_keep_a_peer_out() {
    for known in [true, false] {
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
