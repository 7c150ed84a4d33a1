//! Links in TLS: what who is in the way sees, and who is let in.

use super::{
    super::{
        handshake::{Reason, word},
        proto::Item,
        tls,
        transport::Form,
    },
    proxy::Proxy,
    *,
};
use crate::{
    limits,
    peer::{
        authority::{Authority, lasting_key},
        identity::{CertificateFiles, PROTOCOL, server_name},
    },
};
use rustls::ClientConnection;
use std::path::Path;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const MARK: &str = "a body that nobody but the two nodes may read: 8f1e77c0";

/// Whoever is on the way between two nodes read every message.
#[tokio::test]
async fn what_goes_over_the_wire_can_not_be_read() {
    type Change = fn(&mut RpcOptions);
    let forms: [(Form, Change); 2] = [(Form::Tls, |_| {}), (Form::Grpc, old)];
    for (form, change) in forms {
        let (a, b) = (node_with("a", change).await, node_with("b", change).await);
        let proxy = Proxy::to(b.member().peer).await;
        *proxy.heard.lock() = Some(Vec::new());
        a.see(&[&Member { peer: proxy.address, ..b.member().clone() }]);
        a.linked("b").await;
        assert_eq!(a.status("b").form, Some(form));
        let answer = a.message("b", 0, "echo", MARK).unwrap();
        assert!(matches!(within(answer).await, Ok(Response::Sent(sent)) if sent.body == MARK));
        let heard = proxy.heard.lock().take().unwrap();
        let has = |what: &[u8]| heard.windows(what.len()).any(|part| part == what);
        // In the old form it is there: this test would see it.
        assert_eq!(has(MARK.as_bytes()), form == Form::Grpc);
        assert_eq!(has(b"room"), form == Form::Grpc, "the session's name");
        assert_eq!(has(b"0.0.0"), form == Form::Grpc, "the hello");
    }
}

/// A client that sends arbitrary frames inside TLS, as `by`.
async fn raw(by: &Node, to: &Node) -> (Arc<Outbox>, FramesIn) {
    let stream = TcpStream::connect(to.member().peer).await.unwrap();
    let outbox = Outbox::new();
    let transport = tls::connect(&by.links.own, stream, &outbox).await.unwrap();
    transport.trust.grant();
    tokio::spawn(transport.pump);
    (outbox, transport.frames)
}

/// Such a client that has introduced itself.
async fn introduced(by: &Node, to: &Node) -> (Arc<Outbox>, FramesIn) {
    let (outbox, mut frames) = raw(by, to).await;
    let own = &by.links.own;
    own.introduce(&to.member().name, &mut frames, &outbox, &[]).await.unwrap();
    (outbox, frames)
}

/// An endless frame must not be read to its end, from a peer that has not said who it is or a faulty
/// one.
#[tokio::test]
async fn frames_over_the_limit_are_refused() {
    let (a, b, friend) = (node("a").await, node("b").await, node("friend").await);
    linked(&friend, [&a]).await;
    let large = vec![0; limits::PEER_FRAME_BYTES_MAX + 1];
    let (outbox, mut frames) = raw(&b, &a).await;
    outbox.urgent(word(kind::HELLO, &large[..limits::PEER_HELLO_BYTES_MAX]));
    let refusal = go_away(&mut frames).await.unwrap();
    assert_eq!(refusal.reason, Reason::Malformed);
    assert!(refusal.detail.contains("too large"), "{refusal}");
    let (outbox, mut frames) = introduced(&b, &a).await;
    outbox.urgent(word(kind::REQUEST, &large));
    let refusal = go_away(&mut frames).await.unwrap();
    assert!(refusal.detail.contains("too large"), "{refusal}");
    // A peer that says something unheard of, or asks before it has said who it is.
    let (outbox, mut frames) = introduced(&b, &a).await;
    outbox.urgent(Item::new(77, 1));
    let refusal = go_away(&mut frames).await.unwrap();
    assert!(refusal.detail.contains("unknown kind 77"), "{refusal}");
    let (outbox, mut frames) = raw(&b, &a).await;
    outbox.urgent(Item::new(kind::REQUEST, 1));
    assert_eq!(go_away(&mut frames).await.unwrap().reason, Reason::Malformed);
    // And a request that does not decode: refused alone.
    let (outbox, mut frames) = introduced(&b, &a).await;
    outbox.ordered(Item { head: "?".into(), ..Item::new(kind::REQUEST, 5) });
    let answer = next(&mut frames).await;
    assert_eq!((answer.items[0].kind, answer.items[0].id), (kind::RESPONSE, 5));
    friend.echo("a").await;
}

/// Who does not know the secret must get nothing that a guessed one could be tried against: not even
/// the certificate, which the secret's authority has signed.
#[tokio::test]
async fn who_does_not_know_the_secret_is_told_the_same_whatever_he_says() {
    let a = node("a").await;
    let (right, wrong) = (&a.options.identity, Identity::new("n", b"a guess", None).unwrap());
    let mut changed = right.knock();
    *changed.last_mut().unwrap() ^= 1;
    let offers = [
        vec![],
        vec![PROTOCOL.to_vec()],
        vec![PROTOCOL.to_vec(), wrong.knock()],
        vec![PROTOCOL.to_vec(), changed],
        vec![b"h2".to_vec(), b"slotd-knock:".to_vec()],
    ];
    for offered in offers {
        let mut config = (*wrong.client).clone();
        config.alpn_protocols = offered.clone();
        let mut client = ClientConnection::new(Arc::new(config), server_name().unwrap()).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        let mut stream = TcpStream::connect(a.member().peer).await.unwrap();
        stream.write_all(&hello).await.unwrap();
        let mut answer = Vec::new();
        within(stream.read_to_end(&mut answer)).await.unwrap();
        assert_eq!(answer, [0x15, 3, 3, 0, 2, 2, 49], "{offered:?}");
    }
    let reasons = a.links.own.reasons();
    assert!(reasons.contains(&Reason::Secret) && reasons.contains(&Reason::Malformed));
}

/// Files as `slotd tls init` makes them.
fn certify(dir: &Path, authority: &Authority, node: Option<&str>) -> CertificateFiles {
    let file = |name: &str| dir.join(format!("{}-{name}", node.unwrap_or("any")));
    let files = CertificateFiles {
        authority: file("authority.pem"),
        certificate: file("node.pem"),
        key: file("node.key"),
    };
    let issued = authority.issue(node, lasting_key().unwrap()).unwrap();
    std::fs::write(&files.authority, authority.certificate().pem()).unwrap();
    std::fs::write(&files.certificate, issued.certificate.pem()).unwrap();
    std::fs::write(&files.key, issued.key.serialize_pem()).unwrap();
    files
}

fn certified(options: &mut RpcOptions, files: &CertificateFiles) {
    options.identity = Arc::new(Identity::unchecked(&options.secret, Some(files)).unwrap());
}

/// With an authority of its own a cluster lets in who has a certificate of it, under the name that is
/// in it, and nobody else, also with the right secret.
#[tokio::test]
async fn a_clusters_own_authority_decides() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::generate().unwrap().0;
    let files = |node| certify(dir.path(), &authority, node);
    let a = node_with("a", |options| certified(options, &files(Some("a")))).await;
    let b = node_with("b", |options| certified(options, &files(Some("b")))).await;
    let any = node_with("any", |options| certified(options, &files(None))).await;
    linked(&a, [&b, &any]).await;
    linked(&any, [&a]).await;
    a.echo("b").await;
    any.echo("a").await;
    // A node's certificate under another node's name.
    let thief = node_with("c", |options| certified(options, &files(Some("b")))).await;
    thief.see(&[a.member()]);
    thief.refused("a", "node \"c\" has a certificate of node b").await;
    a.see(&[thief.member()]);
    a.refused("c", "node \"c\" has a certificate of node b").await;
    for node in [&a, &thief] {
        assert!(node.links.own.reasons().contains(&Reason::Certificate));
    }
    // Another authority, and the one that follows from the secret.
    let foreign = certify(dir.path(), &Authority::generate().unwrap().0, Some("d"));
    let d = node_with("d", |options| certified(options, &foreign)).await;
    let e = node("e").await;
    for (name, other) in [("d", &d), ("e", &e)] {
        other.see(&[b.member()]);
        other.refused("b", "authority").await;
        b.see(&[other.member()]);
        b.refused(name, "authority").await;
        assert!(other.links.own.reasons().contains(&Reason::Certificate));
    }
    assert!(b.links.own.reasons().contains(&Reason::Certificate));
    // One that knows the authority, and has another's certificate: the called node is the first to
    // see that, and the caller is told.
    let half = CertificateFiles { authority: files(Some("f")).authority, ..foreign };
    let f = node_with("f", |options| certified(options, &half)).await;
    f.see(&[a.member()]);
    f.refused("a", "it refused the link: the certificate is not of this node's authority").await;
    assert!(f.links.own.reasons().contains(&Reason::Certificate));
    assert!(b.script.order.lock().len() == 1 && a.script.order.lock().len() == 1);
}
