//! Links that break, stall and move.

use super::{proxy::*, *};
use crate::limits;

async fn through_proxy(a: &Node, b: &Node) -> Proxy {
    let proxy = Proxy::to(b.member().peer).await;
    a.see(&[&Member { peer: proxy.address, ..b.member().clone() }]);
    a.linked("b").await;
    proxy
}

/// A caller must learn that its message may have been carried out, and the link must heal.
#[tokio::test]
async fn a_cut_link_breaks_what_is_in_flight_and_heals() {
    let (a, b) = (node("a").await, node("b").await);
    let proxy = through_proxy(&a, &b).await;
    for round in 1..=5 {
        let answers: Vec<_> = (0..50).map(|n| a.message("b", n, "wait", "x").unwrap()).collect();
        eventually("messages", || b.script.order.lock().len() == 50 * round).await;
        proxy.cut();
        for answer in answers {
            assert!(matches!(within(answer).await, Err(PeerError::Broken { .. })));
        }
        assert_eq!(a.in_flight(), 0);
        a.linked("b").await;
    }
    a.echo("b").await;
}

/// Membership would take a peer for dead whose connection was cut, or would not be told of one whose
/// process has ended.
#[tokio::test]
async fn a_peer_refuses_connections_only_once_nothing_listens() {
    let refused = watch::Sender::new(Vec::new());
    let told = refused.clone();
    let note = move |peer: &Member| told.send_modify(|all| all.push(peer.instance));
    let a = node_with("a", |options| options.refused = Arc::new(note)).await;
    let b = node("b").await;
    let proxy = through_proxy(&a, &b).await;
    proxy.cut();
    a.linked("b").await;
    a.see(&[b.member()]);
    eventually("a link past the proxy", || a.links.status()[0].connected == Ok(b.member().peer))
        .await;
    assert!(refused.borrow().is_empty());
    let instance = b.member().instance;
    b.links.stop().await;
    eventually("refusals", || refused.borrow().len() >= 3).await;
    assert!(refused.borrow().iter().all(|&of| of == instance));
}

/// A peer that was paused or cut off sends no reset: callers would wait until their deadlines.
#[tokio::test]
async fn a_stalled_link_is_given_up() {
    for way in [
        Way { stall_to: true, stall_back: true, ..Way::default() },
        Way { stall_back: true, ..Way::default() },
        Way { stall_to: true, ..Way::default() },
    ] {
        let (a, b, c) = (node("a").await, node("b").await, node("c").await);
        let proxy = Proxy::to(b.member().peer).await;
        a.see(&[&Member { peer: proxy.address, ..b.member().clone() }, c.member()]);
        a.linked("b").await;
        a.linked("c").await;
        proxy.way.send_replace(way);
        let begun = Instant::now();
        // More than all buffers on the way hold, so that some are never written.
        let answers: Vec<_> =
            (0..60).map(|n| a.message("b", n, "wait", vec![0; 250_000]).unwrap()).collect();
        within(a.echo("c")).await;
        let mut kinds = Vec::new();
        for answer in answers {
            kinds.push(match within(answer).await {
                Err(PeerError::Broken { .. }) => "broken",
                Err(PeerError::Unreachable { .. }) => "unreachable",
                _ => panic!("another answer"),
            });
        }
        assert!(begun.elapsed() > Duration::from_secs(2));
        assert_eq!(kinds[0], "broken");
        assert!(kinds.is_sorted(), "{kinds:?}");
        if way.stall_to {
            assert_eq!(kinds[59], "unreachable");
        }
        assert_eq!(a.in_flight(), 0);
        proxy.way.send_replace(Way::default());
        a.linked("b").await;
        within(a.echo("b")).await;
    }
}

/// A node that was itself paused, or starved on a busy machine, must not blame its peers: all its
/// links would break at once.
#[tokio::test]
async fn a_pause_of_this_node_breaks_no_link() {
    let (a, b) = (node("a").await, node("b").await);
    linked(&a, [&b]).await;
    linked(&b, [&a]).await;
    let answer = a.message("b", 0, "wait", "x").unwrap();
    eventually("the message", || b.script.order.lock().len() == 1).await;
    let before = (a.status("b").frames, b.status("a").frames);
    // The runtime of this test has this one thread.
    std::thread::sleep(limits::PEER_PING_INTERVAL * (limits::PEER_SILENT_PINGS_MAX + 4));
    // Pings on both sides, and each counts its frames from the start of its connection.
    eventually("pings", || {
        a.status("b").frames >= before.0 + 3 && b.status("a").frames >= before.1 + 3
    })
    .await;
    b.script.gate.send_replace(true);
    assert!(matches!(within(answer).await, Ok(Response::Sent(_))));
}

/// A caller must not wait, nor memory grow, behind a peer that takes nothing.
#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let (a, b) = (node("a").await, node("b").await);
    let proxy = through_proxy(&a, &b).await;
    proxy.way.send_replace(Way { stall_to: true, ..Way::default() });
    let (mut answers, mut refused) = (Vec::new(), None);
    for n in 0..200 {
        match a.message("b", n, "wait", vec![0; 1024 * 1024]) {
            Ok(answer) => answers.push(answer),
            Err(e) => {
                refused = Some(e);
                break;
            }
        }
        tokio::task::yield_now().await;
    }
    match refused {
        Some(PeerError::Unreachable { why, .. }) => assert!(why.contains("queue"), "{why}"),
        _ => panic!("no bound"),
    }
    let queued = a.status("b").queued;
    assert!(queued <= limits::PEER_QUEUE_BYTES_MAX / (1024 * 1024) + 1, "{queued}");
    // What was given up makes room again at once.
    answers.truncate(1);
    assert_eq!(a.in_flight(), 1);
    assert!(a.message("b", 0, "wait", vec![0; 1024 * 1024]).is_ok());
}

/// Requests that the peer took and does not answer fill its memory, not this node's queue.
#[tokio::test]
async fn bytes_in_flight_are_bounded() {
    let (a, b) = (node("a").await, node("b").await);
    linked(&a, [&b]).await;
    let mut answers = Vec::new();
    let refused = loop {
        match a.message("b", 0, "wait", vec![0; 1024 * 1024]) {
            Ok(answer) => answers.push(answer),
            Err(PeerError::Unreachable { why, .. }) if why.contains("queue") => {
                tokio::task::yield_now().await;
            }
            Err(e) => break e,
        }
    };
    assert!(refused.to_string().contains("waiting for an answer"), "{refused}");
    assert_eq!(answers.len(), limits::PEER_IN_FLIGHT_BYTES_MAX / (1024 * 1024) - 1);
    b.script.gate.send_replace(true);
    for answer in answers {
        assert!(matches!(within(answer).await, Ok(Response::Sent(_))));
    }
    a.echo("b").await;
}

/// A node that comes back under another port and instance must be reached as soon as it is seen.
#[tokio::test]
async fn a_restarted_peer_is_found() {
    let (a, old) = (node("a").await, node("b").await);
    linked(&a, [&old]).await;
    let answer = a.message("b", 0, "wait", "x").unwrap();
    eventually("the message", || old.script.order.lock().len() == 1).await;
    let new = node_with("b", |options| options.member.boot = 2).await;
    // The old one is still there, and alive: it is the view that decides.
    a.see(&[new.member()]);
    assert!(matches!(within(answer).await, Err(PeerError::Broken { .. })));
    eventually("the new address", || a.status("b").connected == Ok(new.member().peer)).await;
    within(a.echo("b")).await;
    assert_eq!((old.script.order.lock().len(), new.script.order.lock().len()), (1, 1));
}

/// A peer that leaves the view must not be called, or retried, any more.
#[tokio::test]
async fn a_peer_that_left_is_dropped() {
    let (a, b) = (node("a").await, node("b").await);
    linked(&a, [&b]).await;
    let answer = a.message("b", 0, "wait", "x").unwrap();
    eventually("the message", || b.script.order.lock().len() == 1).await;
    a.see(&[]);
    assert!(matches!(within(answer).await, Err(PeerError::Broken { .. })));
    assert!(a.links.status().is_empty());
    assert!(matches!(a.message("b", 0, "echo", "x"), Err(PeerError::Unreachable { .. })));
}

/// What the peer took before a link broke must not be worked on beside what comes over the next.
#[tokio::test]
async fn a_new_link_replaces_the_old_one() {
    let (a, b) = (node("a").await, node("b").await);
    let proxy = through_proxy(&a, &b).await;
    let _stuck = a.query("b", "hang", String::new());
    eventually("work", || b.script.hanging.load(Ordering::SeqCst) == 1).await;
    // The peer does not see that this connection is gone.
    proxy.way.send_replace(Way { stall_to: true, stall_back: true, ..Way::default() });
    a.see(&[b.member()]);
    eventually("the straight link", || a.status("b").connected == Ok(b.member().peer)).await;
    eventually("no work", || b.script.hanging.load(Ordering::SeqCst) == 0).await;
}
