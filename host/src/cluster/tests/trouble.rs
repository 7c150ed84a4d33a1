//! Nodes that can't do what is theirs, and moves that do not come to their end.

use super::*;
use crate::{
    operation::{Describe, Operate},
    operator::{Action, Entered, Operation},
    rpc::{Request, Response},
    service::catalogue::Service,
    slot::Loaded,
};
use std::sync::atomic::{AtomicUsize, Ordering};

impl World {
    fn owned(&self, name: &str) -> usize {
        self.cluster(name).here().count()
    }

    /// A session whose slot a node has.
    pub(super) fn session_of(&self, name: &str) -> String {
        let here: HashSet<SlotId> = self.cluster(name).here().collect();
        let mut names = (0..).map(|number| format!("x{number}"));
        names.find(|session| here.contains(&key(session).slot(SLOTS))).unwrap()
    }

    fn unfit(&self, name: &str) -> Option<Unfit> {
        self.cluster(name).members().get(name).unwrap().unfit
    }

    fn moves(&self) -> usize {
        self.nodes.iter().map(|node| node.node.cluster().unwrap().moves.list().len()).sum()
    }
}

/// A node that can't reach the engine, and is alive to its peers, would keep its slots from them
/// for as long as that lasts; and one that comes back at each chance would have them moved all day.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_the_engine_is_left_out_until_it_has_it_again() {
    let world = World::with_nodes(&["a", "b"]).await;
    let session = world.session_of("a");
    world.send("a", &session, "sone").await.unwrap();
    let before = world.owned("a");
    world.node("a").engine.send_replace(false);
    // Requests that come in meanwhile, at either, are late and not refused.
    let (at_a, at_b) = tokio::join!(world.send_under(Some("k"), "a", &session, "stwo"), async {
        until("b has all", || world.owned("b") == usize::from(SLOTS)).await;
        world.send("b", &session, "sthree").await
    });
    let mut seqs = [at_a.unwrap(), at_b.unwrap()];
    seqs.sort_unstable();
    assert_eq!(seqs, [2, 3]);
    assert_eq!(world.unfit("a"), Some(Unfit::Engine));
    assert_eq!(world.bodies("a", &session).await.len(), 3, "asked at a, answered by b");
    world.node("a").engine.send_replace(true);
    until("a has its own again", || world.owned("a") == before).await;
    world.settled().await;
    assert_eq!(world.unfit("a"), None);
    assert_eq!(world.bodies("b", &session).await.len(), 3);
}

/// When nobody has the engine nothing is gained by moving, and all slots would move twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_moves_when_all_lose_the_engine() {
    let world = World::with_nodes(&["a", "b", "c"]).await;
    let names = ["a", "b", "c"];
    let before = (world.moves(), names.map(|name| world.owned(name)));
    for name in names {
        world.node(name).engine.send_replace(false);
    }
    for name in names {
        until("it says so", || world.unfit(name).is_some()).await;
    }
    for name in names {
        world.node(name).engine.send_replace(true);
    }
    assert_eq!(world.send("a", "x", "sone").await.unwrap(), 1);
    for name in names {
        until("it is well again", || world.unfit(name).is_none()).await;
    }
    until("they believe each other again", || {
        names.iter().all(|name| *world.cluster(name).steady.borrow())
    })
    .await;
    world.settled().await;
    assert_eq!((world.moves(), names.map(|name| world.owned(name))), before);
}

/// A slot whose old owner woke up from a pause would be taken from its new owner, which has had it
/// for long: nobody has told yet, but that is the pause's doing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_is_taken_back_unless_this_process_was_paused() {
    let world = World::with_nodes(&["a"]).await;
    // A node that asks, and then says nothing more.
    world.sees("a", &["a", "b"], &[]);
    for paused in [true, false] {
        let a = world.cluster("a").clone();
        until("a sees b", || a.table().slots_of("b").len() > 1).await;
        let slot = a
            .table()
            .slots_of("b")
            .into_iter()
            .find(|slot| world.cluster("a").here().any(|here| here == *slot));
        let slot = slot.unwrap();
        a.release(slot, &"b".into(), None).await.unwrap();
        assert_eq!(a.router.place(slot), Place::Moving);
        if paused {
            let woken = Instant::now() + limits::HANDOFF_DEADLINE + Duration::from_millis(500);
            // As if the coordinator had not had its turn until shortly before the time is over.
            until("the time is over", || {
                a.trust.turn(Instant::now() - Duration::from_secs(5));
                a.trust.turn(Instant::now());
                Instant::now() >= woken
            })
            .await;
            assert_eq!(a.router.place(slot), Place::Moving);
            a.taken(slot, &"b".into(), u64::MAX);
            assert!(matches!(a.router.place(slot), Place::Away { owner: Some(_), .. }));
        } else {
            until("a has it again", || a.router.place(slot) == Place::Here).await;
        }
    }
}

/// A slot that missed a swap would run the old version until it moves or the node ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_that_missed_a_swap_switch_all_the_same() {
    let world = World::with_nodes(&["a", "b"]).await;
    let name = ServiceName::parse("s").unwrap();
    // A section of no meaning: the same code under another digest.
    let component = [&testkit::guest()[..], &[0, 2, 1, b'v']].concat();
    for node in &world.nodes {
        let context = &node.node.cluster().unwrap().context;
        let plugin = context.plugins.add(component.clone().into()).await.unwrap();
        let known = context.catalogue.get(&name).unwrap();
        let next = Service::deployed(
            Some(&known),
            &name,
            Some("2"),
            plugin.digest(),
            &crate::service::Change::default(),
        )
        .unwrap();
        // Every order is lost.
        assert!(context.catalogue.learn(next.unwrap()));
    }
    until("all slots run it", || {
        world.nodes.iter().all(|node| {
            let cluster = node.node.cluster().unwrap();
            cluster.here().all(|slot| {
                let running = cluster.router.running(slot).unwrap();
                running.is_some_and(|running| {
                    running
                        .stats
                        .active
                        .lock()
                        .get(&name)
                        .is_some_and(|(generation, _)| *generation == 2)
                })
            })
        })
    })
    .await;
}

/// A slot whose service was swapped while it was on its way to a node that had not compiled the new
/// version yet would answer 503 there until that is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_is_not_given_to_who_has_not_loaded_what_it_runs() {
    let world = World::with_nodes(&["a"]).await;
    world.sees("a", &["a", "b"], &[]);
    let a = world.cluster("a").clone();
    let name = ServiceName::parse("s").unwrap();
    until("a sees b", || a.table().slots_of("b").len() > 1).await;
    let here = |slot: &u16| a.here().any(|here| here == *slot);
    let slot = a.table().slots_of("b").into_iter().find(here).unwrap();
    let running = a.router.running(slot).unwrap().unwrap();
    let generation = a.context.catalogue.get(&name).unwrap().generation;
    let active = || running.stats.active.lock().get(&name).map(|(at, _)| *at);
    until("the slot runs it", || active() == Some(generation)).await;
    for loaded in [Loaded::new(), Loaded::from([(name.clone(), generation - 1)])] {
        let refused = a.release(slot, &"b".into(), Some(loaded)).await.unwrap_err();
        assert_eq!(refused.code, Code::Unavailable, "{refused}");
        assert!(refused.to_string().contains("has not loaded"), "{refused}");
        assert_eq!(a.router.place(slot), Place::Here);
        assert!(!running.is_closed(), "it goes on under the same task");
        // What the newcomer forwarded meanwhile was turned away; told that nobody has the slot, it would
        // take it by force.
        let turned_away = a.not_owner(slot);
        let term = a.router.held(slot).unwrap();
        let named = matches!(&turned_away, Response::NotOwner { owner: Some(owner), term: at, .. }
            if &**owner == "a" && *at == term);
        assert!(named, "it says that it has the slot");
    }
    let loaded = Loaded::from([(name.clone(), generation)]);
    a.release(slot, &"b".into(), Some(loaded)).await.unwrap();
    assert_eq!(a.router.place(slot), Place::Moving);
}

/// A move that is given up while its slot is opened would leave a task that nobody knows of: the
/// slot could not be opened, or even moved here, ever again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_opening_that_is_given_up_leaves_nothing() {
    let world = World::with_nodes(&["a", "b"]).await;
    let slot = world.cluster("a").here().next().unwrap();
    let router = world.cluster("b").router.clone();
    world.node("b").engine.send_replace(false);
    // For the moment: b is not to be found unfit.
    let opening = timeout(Duration::from_millis(100), router.open(slot, None)).await;
    assert!(opening.is_err(), "{opening:?}");
    world.node("b").engine.send_replace(true);
    drop(timeout(Duration::from_secs(20), router.hold(slot)).await.unwrap().unwrap());
    until("it has ended", || router.running(slot).unwrap().is_none()).await;
    // And the next one is not held up.
    assert!(timeout(Duration::from_secs(20), router.open(slot, None)).await.unwrap().is_ok());
}

/// Owns nothing, and names another.
#[derive(Default)]
struct Misleading(AtomicUsize);

impl Handler for Misleading {
    fn handle(&self, from: &Arc<str>, _: Request) -> BoxFuture<'static, Result<Response, Error>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let owner = Some(from.clone());
        Box::pin(std::future::ready(Ok(Response::NotOwner { owner, term: 0, position: 0 })))
    }
}

/// While a slot has no owner, each message for it would go to and fro between those that are
/// thought to have it, as fast as the machine can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_sent_on_and_on_pauses() {
    let mut world = World::new();
    let elsewhere = Arc::new(Misleading::default());
    world.wires.handlers.lock().insert("x".into(), elsewhere.clone());
    world.start("a", &["a", "x"]).await;
    let owner = |session: &str| world.cluster("a").table().owner(key(session).slot(SLOTS)).cloned();
    let mut names = (0..).map(|number| format!("x{number}"));
    let session = names.find(|session| owner(session).as_deref() == Some("x")).unwrap();
    let asked = || elsewhere.0.load(Ordering::Relaxed);
    let sent = world.send("a", &session, "sone");
    let sent = tokio::time::timeout(Duration::from_millis(500), sent).await;
    assert!(sent.is_err(), "nobody has the slot");
    // By the back-off some ten; without it tens of thousands.
    assert!((2..200).contains(&asked()), "asked {} times", asked());
}

/// Takes the first request, and breaks before it answers; then it can't be reached any more.
#[derive(Default)]
struct Breaks(AtomicUsize);

impl Peers for Breaks {
    fn call(
        &self,
        peer: &str,
        _: Request,
    ) -> Result<BoxFuture<'static, Result<Response, PeerError>>, PeerError> {
        let (peer, why) = (peer.into(), "says the test".into());
        match self.0.fetch_add(1, Ordering::Relaxed) {
            0 => Ok(Box::pin(std::future::ready(Err(PeerError::Broken { peer, why })))),
            _ => Err(PeerError::Unreachable { peer, why }),
        }
    }
}

/// The operator would be told that nothing was done, and do something else where it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_whose_answer_is_lost_may_have_been_done() {
    let world = World::with_nodes(&["a", "b"]).await;
    let key = key(&world.session_of("b"));
    let router = world.cluster("a").router.clone();
    until("a knows that it is b's", || {
        matches!(router.place(router.slot_of(&key)), Place::Away { owner: Some(_), .. })
    })
    .await;
    let forwarder = || {
        let deadline = Duration::from_millis(300);
        Forwarder::new(router.clone(), Arc::new(Breaks::default()), "a".into(), deadline, 10, 1)
    };
    let set = Action::Set(Entered { changes: Vec::new(), note: Bytes::new() });
    let operation = Operation::new(None, "ann".into(), None, set);
    let (operates, reads) = (forwarder(), forwarder());
    let done = operates.call(Operate { key: key.clone(), operation });
    assert_eq!(done.await.unwrap_err().code, Code::OutcomeUnknown);
    // A read that is lost is asked for again, and nothing is in doubt.
    let read = reads.call(Describe { key, consistency: Consistency::Current });
    assert_eq!(read.await.unwrap_err().code, Code::Unavailable);
}
