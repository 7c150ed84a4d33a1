//! Subscriptions over a link.

use super::*;
use crate::{
    limits,
    message::{Ephemeral, Live, Origin},
};

async fn next_seq(live: &mut LiveReceiver) -> Option<u64> {
    match within(live.recv()).await {
        Some(Live::Published(published)) => Some(published.seq),
        Some(Live::Deleted) => Some(u64::MAX),
        Some(Live::Ephemeral(_)) => Some(0),
        None => None,
    }
}

fn take_sender(node: &Node) -> LiveSender {
    node.script.live.lock().remove(0)
}

/// Events that are lost or change their order would be seen so by every follower of a session
/// that lives on another node.
#[tokio::test]
async fn live_items_arrive_in_order_and_end() {
    let (a, b) = (node("a").await, node("b").await);
    linked(&a, [&b]).await;
    let mut live = a.subscribe("b").await;
    let sender = take_sender(&b);
    for seq in 2..2_000 {
        // Some are larger than a frame, or than the credit.
        let bytes = match seq {
            100 => 200_000,
            200 => 5_000_000,
            _ => 10,
        };
        assert!(sender.offer(Live::Published(published(seq, bytes))));
        assert_eq!(next_seq(&mut live).await, Some(seq));
    }
    assert!(sender.offer(Live::Deleted));
    assert_eq!(next_seq(&mut live).await, Some(u64::MAX));
    drop(sender);
    assert_eq!(next_seq(&mut live).await, None);
    assert!(!live.lagged());
    assert_eq!(a.in_flight(), 0);
}

/// A burst that fits the subscriber's own bound must not depend on how fast it reads.
#[tokio::test]
async fn a_burst_waits_for_its_reader() {
    let (a, b) = (node("a").await, node("b").await);
    linked(&a, [&b]).await;
    let mut live = a.subscribe("b").await;
    let sender = take_sender(&b);
    for seq in 2..limits::SUBSCRIBER_MESSAGES_MAX as u64 {
        assert!(sender.offer(Live::Published(published(seq, 10))));
    }
    drop(sender);
    for seq in 2..limits::SUBSCRIBER_MESSAGES_MAX as u64 {
        assert_eq!(next_seq(&mut live).await, Some(seq));
    }
    assert_eq!(next_seq(&mut live).await, None);
}

/// One browser that sleeps must not stop the events, or the answers, of all others.
#[tokio::test]
async fn a_slow_subscriber_is_given_up_alone() {
    let (a, b) = (node("a").await, node("b").await);
    linked(&a, [&b]).await;
    let mut slow = a.subscribe("b").await;
    let to_slow = take_sender(&b);
    let mut good = a.subscribe("b").await;
    let to_good = take_sender(&b);
    let most = limits::SUBSCRIBER_MESSAGES_MAX as u64;
    let mut sent = 0;
    for seq in 2..20 * most {
        if to_slow.offer(Live::Published(published(seq, 1_000))) {
            sent += 1;
        }
        assert!(to_good.offer(Live::Published(published(seq, 1_000))));
        assert_eq!(next_seq(&mut good).await, Some(seq));
        if seq % 1_000 == 0 {
            within(a.echo("b")).await;
        }
    }
    assert!(sent < 5 * most);
    // It still gets what it was in time for, without a gap, and then learns what happened.
    let mut seq = 2;
    while let Some(next) = next_seq(&mut slow).await {
        assert_eq!(next, seq);
        seq += 1;
    }
    assert!(seq >= most && slow.lagged());
    eventually("the end at the peer", || to_slow.is_closed()).await;
    assert!(!to_good.is_closed());
}

/// A subscription whose slot gave it up as too slow must say so to its reader, or the reader would
/// believe that nothing is missing.
#[tokio::test]
async fn lag_at_the_source_is_told() {
    let (a, b) = (node("a").await, node("b").await);
    linked(&a, [&b]).await;
    let mut live = a.subscribe("b").await;
    let sender = take_sender(&b);
    // Faster than the link: this test's thread is the link's too.
    let mut seq = 2;
    while sender.offer(Live::Published(published(seq, 10))) {
        seq += 1;
    }
    drop(sender);
    while next_seq(&mut live).await.is_some() {}
    assert!(live.lagged());
}

/// Subscribers that left must not be sent events for ever.
#[tokio::test]
async fn a_dropped_subscription_ends_at_the_peer() {
    let (a, b) = (node("a").await, node("b").await);
    linked(&a, [&b]).await;
    let live = a.subscribe("b").await;
    let sender = take_sender(&b);
    drop(live);
    eventually("the end at the peer", || sender.is_closed()).await;
    // One whose caller did not even wait for the answer.
    drop(a.links.call("b", subscribe()).unwrap());
    within(a.echo("b")).await;
    eventually("its end too", || b.script.live.lock().iter().all(LiveSender::is_closed)).await;
}

/// When the link breaks the reader has to subscribe again, and the slot's end must not stay.
#[tokio::test]
async fn a_broken_link_closes_its_subscriptions() {
    let (a, b) = (node("a").await, node("b").await);
    linked(&a, [&b]).await;
    let mut live = a.subscribe("b").await;
    let sender = take_sender(&b);
    a.see(&[]);
    assert_eq!(next_seq(&mut live).await, None);
    assert!(!live.lagged());
    eventually("the end at the peer", || sender.is_closed()).await;
}

fn ephemeral(kind: &str) -> Live {
    let (kind, content_type) = (kind.to_owned(), "t".to_owned());
    let event = crate::log::record::Event { kind, content_type, body: "b".into() };
    let origin = Origin::Client(Some("ann".into()));
    Live::Ephemeral(Arc::new(Ephemeral { origin, time_ms: 7, event }))
}

/// A peer that does not know them would break the link over them; one that does is to get them in order.
#[tokio::test]
async fn ephemeral_events_go_to_peers_that_know_them() {
    for (level, kinds) in [(level::OLDEST, &[][..]), (level::EPHEMERAL_FROM, &["one", "two"])] {
        let at = |options: &mut RpcOptions| options.level = Arc::new(FeatureLevel::new(level));
        let (a, b) = (node_with("a", at).await, node_with("b", at).await);
        linked(&a, [&b]).await;
        let mut live = a.subscribe("b").await;
        let sender = take_sender(&b);
        for kind in ["one", "two"] {
            assert!(sender.offer(ephemeral(kind)));
        }
        assert!(sender.offer(Live::Published(published(2, 10))));
        for kind in kinds {
            match within(live.recv()).await {
                Some(Live::Ephemeral(got)) => {
                    assert_eq!((&*got.event.kind, got.origin.sender()), (*kind, Some("ann")));
                }
                other => panic!("{other:?} instead of {kind}"),
            }
        }
        assert_eq!(next_seq(&mut live).await, Some(2));
    }
}

/// Messages that wait behind ephemeral events for a slow link would cost the reader its subscription.
#[tokio::test]
async fn ephemeral_events_leave_credit_for_messages() {
    let (a, b) = (node("a").await, node("b").await);
    linked(&a, [&b]).await;
    let mut live = a.subscribe("b").await;
    let sender = take_sender(&b);
    let most = limits::SUBSCRIBER_MESSAGES_MAX as u64;
    for seq in 2..most {
        assert!(
            sender.offer(ephemeral("many")) && sender.offer(Live::Published(published(seq, 10)))
        );
    }
    drop(sender);
    let mut seq = 2;
    while let Some(next) = next_seq(&mut live).await {
        if next > 0 {
            assert_eq!(next, seq);
            seq += 1;
        }
    }
    assert!(seq == most && !live.lagged());
}
