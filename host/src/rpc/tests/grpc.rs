//! Links with nodes from before feature level 3. To be deleted with `rpc::grpc`.

use super::{
    super::{
        grpc::{
            self,
            proof::{self, Hellos, Role},
        },
        handshake::{Reason, word},
        proto::{Hello, Item},
        transport::{Form, Trust},
    },
    proxy::Proxy,
    *,
};
use crate::limits;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::net::TcpStream;

/// A client that sends arbitrary items: its outbox and the answers.
async fn raw(address: SocketAddr) -> (Arc<Outbox>, FramesIn) {
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
    let mut grpc = tonic::client::Grpc::with_origin(service, uri);
    let (path, trust) = (grpc::PATH.parse().unwrap(), Trust::default());
    trust.grant();
    let frames = grpc.streaming(request, path, grpc::Codec(trust)).await.unwrap();
    (outbox, grpc::incoming(frames.into_inner()))
}

fn hello_of(node: &Node) -> Vec<u8> {
    proof::hello(&node.links.own, &node.options.cluster)
}

/// A client that has proven to be this node.
async fn introduced(by: &Node, to: &Node) -> (Arc<Outbox>, FramesIn) {
    let (outbox, mut frames) = raw(to.member().peer).await;
    let hello = hello_of(by);
    outbox.urgent(word(kind::HELLO, &hello));
    let name = &to.member().name;
    proof::introduce(&by.links.own, name, &mut frames, &outbox, &hello).await.unwrap();
    (outbox, frames)
}

/// An upgrade in the wrong order must be told, not guessed at; and at a raised feature level a node
/// that can't read what the others write must not be let in.
#[tokio::test]
async fn another_version_is_refused() {
    let a = node_with("a", below).await;
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
        (3, 2, 1, "older"),
        (3, 3, 1, ""),
    ];
    for (level, version, oldest, word_for_it) in cases {
        a.options.level.raise(level);
        let (outbox, mut frames) = raw(a.member().peer).await;
        let old = node_with("old", below).await;
        let mut hello = Hello::decode(&*hello_of(&old)).unwrap();
        (hello.protocol, hello.protocol_oldest) = (version, oldest);
        hello.protocol_newest = 0;
        let hello = hello.encode_to_vec();
        outbox.urgent(word(kind::HELLO, &hello));
        let called = next(&mut frames).await.items[0].head.clone();
        let hellos = Hellos { caller: &hello, called: &called };
        outbox.urgent(word(kind::PROOF, proof::proof(&old.links.own, Role::Caller, &hellos)));
        if word_for_it.is_empty() {
            let answer = next(&mut frames).await;
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
    let (a, b) = (node_with("a", below).await, node_with("b", old).await);
    for proof in [Vec::new(), vec![0; 32], hello_of(&b)] {
        let (outbox, mut frames) = raw(a.member().peer).await;
        outbox.urgent(word(kind::HELLO, hello_of(&b)));
        outbox.urgent(word(kind::PROOF, proof));
        let refusal = go_away(&mut frames).await.unwrap();
        // Both items in one frame are refused for that.
        assert!(matches!(refusal.reason, Reason::Secret | Reason::Malformed));
    }
    let (outbox, mut frames) = raw(a.member().peer).await;
    outbox.urgent(word(kind::HELLO, hello_of(&b)));
    let theirs = next(&mut frames).await;
    assert_eq!(theirs.items.len(), 1);
    assert_eq!(theirs.items[0].kind, kind::HELLO);
    outbox.urgent(word(kind::PROOF, [1; 32]));
    assert_eq!(go_away(&mut frames).await.unwrap().reason, Reason::Secret);
    // A request instead of a proof.
    let (outbox, mut frames) = raw(a.member().peer).await;
    outbox.urgent(word(kind::HELLO, hello_of(&b)));
    let _ = next(&mut frames).await;
    outbox.urgent(Item::new(kind::REQUEST, 1));
    assert_eq!(go_away(&mut frames).await.unwrap().reason, Reason::Malformed);
    assert!(a.script.order.lock().is_empty());
}

/// An endless frame must not be read to its end, from an unauthenticated peer or a faulty one.
#[tokio::test]
async fn frames_over_the_limit_are_refused() {
    let (a, b, friend) =
        (node_with("a", below).await, node_with("b", old).await, node_with("friend", old).await);
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
    let (outbox, mut frames) = introduced(&b, &a).await;
    outbox.urgent(word(kind::REQUEST, &large));
    let refusal = go_away(&mut frames).await.unwrap();
    assert!(refusal.detail.contains("too large"), "{refusal}");
    // A peer that says something unheard of.
    let (outbox, mut frames) = introduced(&b, &a).await;
    outbox.urgent(Item::new(77, 1));
    let refusal = go_away(&mut frames).await.unwrap();
    assert!(refusal.detail.contains("unknown kind 77"), "{refusal}");
    // And a request that does not decode: refused alone.
    let (outbox, mut frames) = introduced(&b, &a).await;
    outbox.ordered(Item { head: "?".into(), ..Item::new(kind::REQUEST, 5) });
    let answer = next(&mut frames).await;
    assert_eq!((answer.items[0].kind, answer.items[0].id), (kind::RESPONSE, 5));
    friend.echo("a").await;
}

/// Whoever asks must not learn the cluster's name, and must get nothing that a guessed secret could
/// be tried against.
#[tokio::test]
async fn who_has_not_proven_anything_is_told_the_same_whatever_he_says() {
    let (a, b) = (node_with("a", below).await, node_with("b", old).await);
    let mut told = Vec::new();
    for (cluster, ring, slots) in [("test", "r", 512), ("guess", "r", 512), ("guess", "s", 7)] {
        let (outbox, mut frames) = raw(a.member().peer).await;
        let mut hello = Hello::decode(&*hello_of(&b)).unwrap();
        (hello.cluster, hello.ring_scheme) = (cluster.into(), ring.into());
        hello.slot_count = slots;
        outbox.urgent(word(kind::HELLO, hello.encode_to_vec()));
        let answer = next(&mut frames).await;
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

/// A cluster is upgraded node by node: nodes of both versions must talk, in both directions.
#[tokio::test]
async fn a_node_of_before_level_3_and_a_new_one_work_together() {
    let (new, old) = (node_with("new", below).await, node_with("old", old).await);
    linked(&new, [&old]).await;
    linked(&old, [&new]).await;
    new.echo("old").await;
    old.echo("new").await;
    assert_eq!(new.status("old").form, Some(Form::Grpc));
    assert_eq!(old.status("new").form, Some(Form::Grpc));
    // Two new ones encrypt, at the old level too, and say so only to each other.
    let other = node_with("other", below).await;
    linked(&new, [&other]).await;
    assert_eq!(new.status("other").form, Some(Form::Tls));
    new.echo("other").await;
}

/// At level 3 nothing may be sent in clear, and who can't encrypt must learn why it is refused.
#[tokio::test]
async fn at_level_3_unencrypted_links_end_and_are_refused() {
    let (new, old) = (node_with("new", below).await, node_with("old", old).await);
    linked(&new, [&old]).await;
    linked(&old, [&new]).await;
    let waiting = old.message("new", 0, "wait", "x").unwrap();
    eventually("the message", || new.script.order.lock().len() == 1).await;
    new.options.level.raise(level::ENCRYPTED);
    assert!(matches!(within(waiting).await, Err(PeerError::Broken { .. })));
    // Each in its own words: the old one is told, and the new one calls with TLS only.
    let newest = level::NEWEST;
    let refused = format!("speaks the older protocol 1 to 2, this node 3 to {newest}");
    old.refused("new", &refused).await;
    assert!(new.links.own.reasons().contains(&Reason::Protocol));
    assert!(old.links.own.reasons().contains(&Reason::Protocol));
    new.refused("old", "").await;
    eventually("TLS", || old.links.own.reasons().contains(&Reason::Malformed)).await;
    assert_eq!(new.script.order.lock().len(), 1);
}

/// Nodes learn one after the other that the level was raised.
#[tokio::test]
async fn a_node_that_does_not_know_of_the_raise_yet_is_linked() {
    let (ahead, behind) = (node("ahead").await, node_with("behind", below).await);
    linked(&ahead, [&behind]).await;
    linked(&behind, [&ahead]).await;
    assert_eq!(behind.status("ahead").form, Some(Form::Tls));
    ahead.echo("behind").await;
    behind.echo("ahead").await;
}

/// A raise must not break the links between nodes that encrypt already: all messages on their way
/// would have to be sent again.
#[tokio::test]
async fn a_raise_breaks_no_encrypted_link() {
    let (a, b) = (node_with("a", below).await, node_with("b", below).await);
    linked(&a, [&b]).await;
    let waiting = a.message("b", 0, "wait", "x").unwrap();
    eventually("the message", || b.script.order.lock().len() == 1).await;
    for node in [&a, &b] {
        node.options.level.raise(level::ENCRYPTED);
    }
    a.echo("b").await;
    b.script.gate.send_replace(true);
    assert!(matches!(within(waiting).await, Ok(Response::Sent(_))));
}

/// Who is in the way must not be able to have two nodes talk in clear that can do better: a process
/// that has shown that it encrypts is never called without.
#[tokio::test]
async fn a_peer_that_encrypts_is_never_called_without() {
    let (a, b) = (node_with("a", below).await, node_with("b", below).await);
    let proxy = Proxy::to(b.member().peer).await;
    a.see(&[&Member { peer: proxy.address, ..b.member().clone() }]);
    a.linked("b").await;
    // Its next connections meet something that only speaks the old form.
    proxy.to.send_replace(node_with("b", old).await.member().peer);
    proxy.cut();
    a.refused("b", "TLS").await;
    assert!(a.message("b", 0, "echo", "x").is_err());
    proxy.to.send_replace(b.member().peer);
    a.linked("b").await;
    assert_eq!(a.status("b").form, Some(Form::Tls));
}
