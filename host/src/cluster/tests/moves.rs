//! Moves that are cancelled, what waits for one, and slots that are claimed in turns or by nobody.

use super::*;
use crate::{
    operation::{Describe, Query},
    slot::Order,
};
use futures_util::{StreamExt, poll, stream::FuturesUnordered};

fn describe(key: &SessionKey, consistency: Consistency) -> Describe {
    Describe { key: key.clone(), consistency }
}

impl World {
    /// Has a slot leave a node, as an operator's drain does.
    fn avoid(&self, slot: SlotId, name: &str) {
        self.placement.send_modify(|placement| {
            Arc::make_mut(placement).avoid.insert(slot, name.into());
        });
    }

    fn hold(&self, name: &str, held: Held) {
        self.node(name).held.send_replace(held);
    }

    fn has(&self, name: &str, slot: SlotId) -> bool {
        self.cluster(name).router.place(slot) == Place::Here
    }
}

/// A move that is cancelled would begin again within half a second; or would be heard of only when
/// its replay, which may be long, has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_move_stays_so_until_somebody_wants_it() {
    let world = World::with_nodes(&["a", "b"]).await;
    let session = world.session_of("b");
    let slot = key(&session).slot(SLOTS);
    let b = world.cluster("b").clone();
    for (round, wanted) in ["rebalance", "view", "drain"].into_iter().enumerate() {
        assert_eq!(world.send("a", &session, "sone").await.unwrap(), 2 * round as u64 + 1);
        world.node("a").node.drain_slot(slot).await.unwrap();
        // It goes back to b, and b can't replay it.
        world.hold("b", Held::Reads);
        world.placement.send_modify(|placement| Arc::make_mut(placement).avoid.clear());
        until("b prepares", || b.moves.is_running(slot)).await;
        let id = b.moves.list().iter().find(|info| info.slot == slot).unwrap().id;
        world.node("a").node.cancel_move("b", id).await.unwrap();
        until("it has ended", || !b.moves.is_running(slot)).await;
        assert_eq!(b.backoffs.wait(slot, Instant::now()), None, "nothing else keeps it");
        for _ in 0..3 {
            b.reconcile();
            assert!(!b.moves.is_running(slot), "it began again");
        }
        until("b asks for no more", || b.is_settled()).await;
        let moves = world.node("a").node.moves(100).await.moves;
        let of_it = moves.iter().find(|info| info.id == id && info.to == "b").unwrap();
        assert_eq!((of_it.slot, of_it.state), (slot, MoveState::Cancelled));
        assert!(world.has("a", slot));
        assert_eq!(world.send("b", &session, "stwo").await.unwrap(), 2 * round as u64 + 2);

        world.hold("b", Held::Nothing);
        match wanted {
            "rebalance" => drop(world.node("a").node.rebalance().await.unwrap()),
            "view" => world.sees("b", &["a", "b"], &[]),
            _ => drop(world.node("a").node.drain_slot(slot).await.unwrap()),
        }
        until(wanted, || world.has("b", slot)).await;
        assert_eq!(world.bodies("a", &session).await.len(), 2 * round + 2);
    }
}

/// A stopping node would have slots sealed that it can't claim any more: nobody would serve them until
/// their owner takes them back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_takes_nothing_more() {
    let world = World::with_nodes(&["a", "b"]).await;
    let (a, b) = (world.cluster("a").clone(), world.cluster("b").clone());
    for name in ["a", "b"] {
        world.sees(name, &["a", "b"], &["a"]);
    }
    until("b has all", || b.here().count() == usize::from(SLOTS)).await;
    // Moves that are not far yet when the node stops.
    let known = a.moves.list().len();
    world.hold("a", Held::Reads);
    for name in ["a", "b"] {
        world.sees(name, &["a", "b"], &[]);
    }
    until("a prepares", || a.moves.running().1 > 0).await;
    assert_eq!(world.node("a").node.stop(Duration::from_secs(20)).await, 0);
    until("its moves have ended", || a.moves.running() == (0, 0)).await;
    world.hold("a", Held::Nothing);
    let before = a.moves.list();
    let begun = &before[..before.len() - known];
    assert!(!begun.is_empty() && begun.iter().all(|info| info.state == MoveState::Failed));
    // Its view still gives it slots, of a node that lives and then of one that does not.
    for names in [&["a", "b"][..], &["a"]] {
        world.sees("a", names, &[]);
        let number = world.node("a").members.borrow().number;
        until("it has looked", || a.table().view().number == number).await;
        assert!(!a.table().slots_of("a").is_empty());
        a.backoffs.reset_failures();
        a.reconcile();
        assert_eq!(a.moves.running(), (0, 0));
    }
    assert_eq!(a.moves.list().len(), before.len());
    assert_eq!(b.here().count(), usize::from(SLOTS), "b serves all the time");
    let session = world.session_of("b");
    assert_eq!(world.send("b", &session, "sone").await.unwrap(), 1);
}

/// A snapshot that goes on without its slot would hold a turn that others wait for, and read a store that is
/// being closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_ends_with_its_slot() {
    let world = World::with_nodes(&["a"]).await;
    let turns = world.cluster("a").context.cluster.as_ref().unwrap().snapshot_turns.clone();
    // None is made while the test has all turns.
    let all = u32::try_from(limits::SNAPSHOTS_AT_A_TIME).unwrap();
    let _held = turns.clone().acquire_many_owned(all).await.unwrap();
    let users = Arc::strong_count(&turns);
    let body = format!("s{}", "x".repeat(64 * 1024));
    for _ in 0..=limits::SNAPSHOT_LOG_BYTES / body.len() {
        world.send("a", "x", &body).await.unwrap();
    }
    until("a snapshot waits for its turn", || Arc::strong_count(&turns) > users).await;
    assert_eq!(world.node("a").node.stop(Duration::from_secs(20)).await, 0);
    until("it was given up", || Arc::strong_count(&turns) == users).await;
}

/// A slot is to be claimed as nobody's, and its owner turns up before: it would be fenced in the middle
/// of its work. So where a slot that was given away is taken back at the moment that it is taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_whose_owner_turns_up_is_not_claimed() {
    let world = World::with_nodes(&["a", "b"]).await;
    let (a, b) = (world.cluster("a").clone(), world.cluster("b").clone());
    let (slot, term) = a.router.here()[0];
    let job = b.moves.begin(slot, None, "b").unwrap();
    b.learn(&"a".into(), &[(slot, term)]);
    let error = b.carry_out(&job, None).await.unwrap_err();
    assert!(error.is(Cause::ViewsDiffer), "{error}");
    b.moves.end(&job, &Err(error.detail.into_owned()));
    assert!(world.has("a", slot) && a.router.here().contains(&(slot, term)));
    // One that is gone does not come in the way.
    let job = b.moves.begin(slot, None, "b").unwrap();
    world.sees("b", &["b"], &[]);
    b.carry_out(&job, None).await.unwrap();
    assert!(world.has("b", slot));
}

/// What comes while a slot is on its way would be held without end: memory would grow, and whoever
/// waits would better have been told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_move_is_bounded() {
    let world = World { held_max: 4, ..World::new() }.and_nodes(&["a", "b"]).await;
    let session = world.session_of("b");
    let slot = key(&session).slot(SLOTS);
    world.hold("a", Held::Claims);
    world.avoid(slot, "b");
    until("it is sealed", || world.cluster("b").router.place(slot) == Place::Moving).await;
    let bodies: Vec<String> = (0..10).map(|number| format!("s{number}")).collect();
    let mut messages: FuturesUnordered<_> =
        bodies.iter().map(|body| world.send("b", &session, body)).collect();
    for _ in 0..6 {
        let refused = messages.next().await.unwrap().unwrap_err();
        assert_eq!(refused.code, Code::MailboxFull, "{refused}");
    }
    assert!(poll!(messages.next()).is_pending(), "four wait");

    let (node, of) = (&world.node("b").node, key(&session));
    let reads = 0..limits::WAITING_READS_MAX + 6;
    let mut reads: FuturesUnordered<_> =
        reads.map(|_| node.call(describe(&of, Consistency::Current))).collect();
    for _ in 0..6 {
        let refused = reads.next().await.unwrap().unwrap_err();
        assert_eq!(refused.code, Code::MailboxFull, "{refused}");
    }
    assert!(poll!(reads.next()).is_pending(), "the others wait");
    drop(reads);

    world.hold("a", Held::Nothing);
    let mut seqs = Vec::new();
    while let Some(answer) = messages.next().await {
        seqs.push(answer.unwrap());
    }
    seqs.sort_unstable();
    assert_eq!(seqs, [1, 2, 3, 4]);
    assert!(world.has("a", slot), "b has answered them itself");
    // Reads have room again, and the first to come were held, in their order.
    assert_eq!(world.bodies("b", &session).await, bodies[..4]);
}

/// Two nodes that do not see each other would claim a slot as fast as they can: neither would serve
/// it, and its log would be all claims.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_that_differ_do_not_claim_in_turns_for_long() {
    let world = World::with_nodes(&["a", "b"]).await;
    let names = ["a", "b"];
    let claims = |name: &str| -> BTreeMap<SlotId, u64> {
        world.node(name).node.snapshot().claims.into_iter().collect()
    };
    let before = names.map(claims);
    let split = Instant::now();
    world.cut("a", "b");
    for name in names {
        world.sees(name, &[name], &[]);
    }
    // Both write to the same sessions, so that each finds out at once that it lost a slot.
    let stop = Arc::new(AtomicBool::new(false));
    let writers = (0..8).map(|writer| {
        let (node, stop) = (world.node(names[writer % 2]).node.clone(), stop.clone());
        tokio::spawn(async move {
            let (key, mut kept) = (key(&format!("x{}", writer / 2)), Vec::new());
            for number in 0.. {
                let body = Bytes::from(format!("s{writer}-{number}"));
                let message = Incoming {
                    id: None,
                    sender: None,
                    content_type: "text/plain".into(),
                    body: body.clone(),
                    trace: None,
                    client: None,
                };
                if node.send(&key, message).await.is_ok() {
                    kept.push(body);
                }
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
            kept
        })
    });
    let writers: Vec<_> = writers.collect();
    until("each has lost a slot to the other twice", || {
        let since = names.map(|name| {
            let before = &before[usize::from(name == "b")];
            let won = claims(name).into_iter();
            let won = won.map(|(slot, won)| (slot, won - before.get(&slot).unwrap_or(&0)));
            won.collect::<BTreeMap<SlotId, u64>>()
        });
        // The first is free. Then each wait is twice the one before; with all of the jitter the
        // first `n` take this many seconds.
        let waits =
            |n: u64| limits::MOVE_RETRY_MIN.as_secs_f64() / 2.0 * ((1_u64 << n) as f64 - 1.0);
        let took = split.elapsed().as_secs_f64();
        for (slot, won) in since.iter().flatten() {
            let waited = waits(won.saturating_sub(1).min(30));
            assert!(waited <= took, "slot {slot} was claimed {won} times in {took:.3} s");
        }
        let [a, b] = &since;
        a.iter().any(|(slot, won)| *won >= 2 && b.get(slot).is_some_and(|other| *other >= 2))
    })
    .await;
    world.wires.cut.lock().clear();
    for name in names {
        world.sees(name, &names, &[]);
    }
    world.settled().await;
    stop.store(true, Ordering::Relaxed);
    for (writer, task) in writers.into_iter().enumerate() {
        let kept = task.await.unwrap();
        let bodies = world.bodies("a", &format!("x{}", writer / 2)).await;
        for body in kept {
            assert_eq!(bodies.iter().filter(|other| **other == body).count(), 1, "{body:?}");
        }
    }
}

/// Without it nobody could read a slot that was written to when the engine lost its quorum: its
/// task gives up, and until there is a quorum no node is known to have it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_read_is_answered_while_the_log_is_silent() {
    let world = World::with_nodes(&["a", "b"]).await;
    let session = world.session_of("a");
    let (of, slot) = (key(&session), key(&session).slot(SLOTS));
    world.send("b", &session, "sone").await.unwrap();
    let router = world.cluster("a").router.clone();
    let running = router.running(slot).unwrap().unwrap();
    running.try_order(Order::Flush);
    let (applied, position) = (&running.stats.applied, &running.stats.position);
    until("the store has it", || {
        applied.load(Ordering::Relaxed) == position.load(Ordering::Relaxed)
    })
    .await;
    for name in ["a", "b"] {
        world.node(name).engine.send_replace(false);
    }
    world.hold("a", Held::Commits);
    let refused = world.send("b", &session, "stwo").await.unwrap_err();
    assert_eq!(refused.code, Code::StorageUnavailable, "{refused}");
    let nowhere = || matches!(router.place(slot), Place::Away { owner: None, .. });
    until("a has it no more", nowhere).await;

    let range = Range::After { seq: 0, limit: 10 };
    let mut current =
        std::pin::pin!(world.node("a").node.call(history(&of, range, Consistency::Current)));
    for name in ["a", "b"] {
        let node = &world.node(name).node;
        let stale = async {
            let history = node.call(history(&of, range, Consistency::Local)).await.unwrap();
            assert_eq!((history.last_seq, &history.entries[0].0.body[..]), (1, &b"sone"[..]));
            assert_eq!(node.call(describe(&of, Consistency::Local)).await.unwrap().seq, 1);
            let body = Bytes::from_static(b"g");
            let (content_type, consistency) = ("text/plain".into(), Consistency::Local);
            let query = Query { key: of.clone(), content_type, body, consistency, client: None };
            let answer = node.call(query).await;
            assert_eq!(answer.unwrap().body, "one");
        };
        tokio::select! {
            biased;
            read = &mut current => panic!("not current: {:?}", read.map(|read| read.last_seq)),
            () = stale => {}
        }
    }
    // It never was there: what a copy has may be of long ago.
    assert!(!world.cluster("b").router.read_copy(slot, || unreachable!()));

    world.hold("a", Held::Nothing);
    for name in ["a", "b"] {
        world.node(name).engine.send_replace(true);
    }
    assert_eq!(current.await.unwrap().last_seq, 1);
    assert_eq!(world.send("b", &session, "sthree").await.unwrap(), 2);
    let history = world.node("a").node.call(history(&of, range, Consistency::Local)).await.unwrap();
    assert_eq!(history.last_seq, 2, "from the slot itself again");
}
