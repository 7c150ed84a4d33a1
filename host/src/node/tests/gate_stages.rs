//! The stages of a gate over a node's own store: new versions with one fault each.

use super::*;
use crate::{
    gate::{Part, Parts},
    gate_report::{GateShare, GateSpec, Group, Kind, Mode, Stage, Standing},
    plugin::PluginOptions,
    replay_engine::Version,
};

/// A service that runs the guest, and a host of the gate's own: its calls have another deadline than the node's.
struct Gate {
    fixture: Fixture,
    host: Arc<PluginHost>,
    _dir: tempfile::TempDir,
}

/// What a part is begun with, beside its stage and its candidate.
#[derive(Clone, Default)]
struct With {
    spec: GateSpec,
    before: Option<GateShare>,
    first: Vec<(SlotId, SessionId)>,
}

impl From<GateSpec> for With {
    fn from(spec: GateSpec) -> Self {
        Self { spec, ..Self::default() }
    }
}

impl Gate {
    async fn new(component: Vec<u8>) -> Self {
        let fixture = Fixture::new().await;
        fixture.deploy("1.0.0", component.clone().into()).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let deadline = Duration::from_millis(300);
        let options = PluginOptions { deadline, ..testkit::options(dir.path()) };
        let host = Arc::new(PluginHost::new(options).unwrap());
        host.add(component.into()).await.unwrap();
        Self { fixture, host, _dir: dir }
    }

    async fn send(&self, session: &str, content_type: &str, body: &'static [u8]) {
        let key = SessionKey::parse("s", session).unwrap();
        let message = Incoming { content_type: content_type.into(), ..message(body) };
        self.fixture.node.send(&key, message).await.unwrap();
    }

    async fn send_all(&self, sessions: u64, bodies: &[&'static [u8]]) {
        for session in 0..sessions {
            for body in bodies {
                self.send(&format!("session-{session}"), "text/plain", body).await;
            }
        }
    }

    async fn begin(&self, stage: Stage, candidate: &[u8], with: With) -> Arc<Part> {
        let node = &self.fixture.node;
        let slots: Vec<SlotId> = (0..SLOTS).collect();
        session_check::flush(&node.router, &slots).await;
        let plugin = self.host.add(candidate.to_vec().into()).await.unwrap();
        let parts = Parts {
            node: "n".into(),
            service: self.fixture.service.clone(),
            catalogue: node.context.catalogue.clone(),
            plugins: self.host.clone(),
            store: node.data_dir.state(),
            slots,
            sessions_of_all: 0,
            threads: Arc::new(Semaphore::new(1)),
            current: 1,
            candidate: Version {
                id: 99,
                plugin,
                version: "2.0.0".into(),
                label: "2.0.0+x".into(),
                same_state: false,
            },
            stage,
            before: with.before,
            first: with.first,
        };
        Part::start("a".into(), with.spec, parts)
    }

    async fn stage(&self, stage: Stage, candidate: &[u8], with: impl Into<With>) -> GateShare {
        let part = self.begin(stage, candidate, with.into()).await;
        ended(&part).await
    }
}

async fn ended(part: &Part) -> GateShare {
    let until = crate::clock::now() + TIMEOUT;
    while !part.share().result.standing.is_over() {
        assert!(crate::clock::now() < until, "{:?}", part.share());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    part.share()
}

fn strict() -> GateSpec {
    GateSpec { mode: Mode::Strict, ..GateSpec::default() }
}

/// What an echo does instead.
fn instead_of_echo(then: &str) -> Vec<u8> {
    let echo = "(then (return (call $reply (local.get $at) (local.get $len)))))";
    testkit::guest_with(echo, &format!("(then {then}))"))
}

fn good() -> Vec<u8> {
    testkit::guest_with("it was not to be", "it was NOT to be")
}

fn names(groups: &[Group]) -> Vec<(Kind, &str, u64, bool)> {
    groups.iter().map(|it| (it.kind, &*it.path, it.count, it.stops)).collect()
}

/// A gate that stopped what is good would be turned off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_version_passes_every_stage() {
    let gate = Gate::new(testkit::guest()).await;
    gate.send_all(6, &[b"sone", b"g", b"mhello", b"ehello"]).await;
    for stage in Stage::ALL {
        let share = gate.stage(stage, &good(), strict()).await;
        let result = &share.result;
        assert_eq!(result.standing, Standing::Passed, "{share:?}");
        assert_eq!((names(&result.groups), result.unseen()), (vec![], 0), "{stage:?}");
        if stage.is_of_sessions() {
            assert_eq!((result.seen, result.of, share.done.len()), (6, 6, usize::from(SLOTS)));
        }
        let messages = if stage >= Stage::Replay { 24 } else { 0 };
        assert_eq!(result.messages, messages, "{stage:?}");
    }
}

/// One session in many, whose state is as nobody remembered: it would be left behind, on the old version.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_fails_on_one_session_stops() {
    let gate = Gate::new(testkit::guest()).await;
    gate.send_all(40, &[b"sone"]).await;
    gate.send("old-shape", "text/plain", b"s#old").await;
    let refuse = "(if (i32.eq (i32.load8_u (local.get $from)) (i32.const 0x21)) ;; !: refuse";
    let is_old = "(call $get (i32.const 16) (i32.const 1) (i32.const 320))
      (if (i32.and (i32.load8_u (i32.const 320))
          (i32.eq (i32.load8_u (i32.load (i32.const 324))) (i32.const 0x23)))";
    let refuses = testkit::guest_with(refuse, is_old);
    let share = gate.stage(Stage::Migrate, &refuses, GateSpec::default()).await;
    let result = &share.result;
    assert_eq!((result.standing, result.seen, result.of), (Standing::Stopped, 41, 41));
    assert_eq!(names(&result.groups), [(Kind::Migrate, "it was not to be", 1, true)]);
    assert_eq!(result.groups[0].example.session, "old-shape");
    assert!(result.why[0].why.contains("migrate fails on 1 sessions"), "{:?}", result.why);
    let traps = format!("{is_old} (then unreachable))\n{refuse}");
    let traps = testkit::guest_with(refuse, &traps);
    let share = gate.stage(Stage::Migrate, &traps, GateSpec::default()).await;
    assert_eq!(share.result.standing, Standing::Stopped);
    assert!(share.result.groups[0].path.starts_with("trap: "), "{share:?}");
    // It was the old one's before: whoever mends it sees at once whether that helped.
    let slot = gate.fixture.node.router.slot_of(&SessionKey::parse("s", "old-shape").unwrap());
    let first = vec![(slot, SessionId::parse("old-shape").unwrap())];
    let with = With { first, ..With::default() };
    let share = gate.stage(Stage::Migrate, &refuses, with.clone()).await;
    assert_eq!((share.result.standing, share.result.seen), (Standing::Stopped, 1));
    assert!(share.result.unseen[0].why.contains("fail again"), "{:?}", share.result.unseen);
    let share = gate.stage(Stage::Migrate, &good(), with).await;
    assert_eq!((share.result.standing, share.result.seen), (Standing::Passed, 41));
}

/// Each of these is what a deploy would have shown to clients.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_shows_in_the_replay_as_what_it_is() {
    let gate = Gate::new(testkit::guest()).await;
    gate.send_all(3, &[b"mhello", b"ehello", b"sone", b"g", b"uagain"]).await;
    let event = ";; m: emit
        (then
          (call $emit (i32.const 64) (i32.const 4) (i32.const 96) (i32.const 10)
            (local.get $at) (local.get $len))";
    let without_event = testkit::guest_with(event, ";; m: nothing\n        (then");
    let twice = format!("{event}{}", &event[event.find("(call").unwrap()..]);
    let one_more = testkit::guest_with(event, &twice);
    let keeps = "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
          (i32.store (i32.const 340) (global.get $calls))
          (return (call $reply (i32.const 340) (i32.const 4)))";
    let forgets = testkit::guest_with(
        "(call $set (i32.const 16) (i32.const 1) (local.get $at) (local.get $len))
          (return (call $reply (local.get $at) (i32.const 0)))))
      (if (i32.eq (local.get $op) (i32.const 0x75))",
        "(call $set (i32.const 160) (i32.const 1) (local.get $at) (local.get $len))
          (return (call $reply (local.get $at) (i32.const 0)))))
      (if (i32.eq (local.get $op) (i32.const 0x75))",
    );
    let writes_elsewhere = testkit::guest_with(
        "(i32.const 320))
          (call $set (i32.const 16)",
        "(i32.const 320))
          (call $set (i32.const 160)",
    );
    let endless = "(loop $l (call $get (i32.const 16) (i32.const 1) (i32.const 320)) (br $l))
          unreachable";
    for (candidate, expected) in [
        (
            instead_of_echo("(return (call $reply (local.get $at) (i32.const 1)))"),
            vec![(Kind::Reply, false)],
        ),
        (without_event, vec![(Kind::Event, false)]),
        (one_more, vec![(Kind::Event, false)]),
        (forgets, vec![(Kind::Rejection, true)]),
        (writes_elsewhere, vec![(Kind::State, false), (Kind::State, false)]),
        (instead_of_echo("unreachable"), vec![(Kind::Trap, true)]),
        (
            instead_of_echo("(return (call $reject (i32.const 128) (i32.const 16)))"),
            vec![(Kind::Rejection, true)],
        ),
        (instead_of_echo(endless), vec![(Kind::Limit, true)]),
        (instead_of_echo(keeps), vec![(Kind::Reply, false), (Kind::KeepsMemory, true)]),
    ] {
        let share = gate.stage(Stage::Replay, &candidate, GateSpec::default()).await;
        let result = &share.result;
        let mut found: Vec<_> = result.groups.iter().map(|it| (it.kind, it.stops)).collect();
        found.sort_unstable();
        assert_eq!(found, expected, "{result:?}");
        let stops = expected.iter().any(|(_, stops)| *stops);
        let standing = if stops { Standing::Stopped } else { Standing::Passed };
        assert_eq!((result.standing, result.seen), (standing, 3), "{result:?}");
        assert!(result.groups.iter().all(|it| it.example.session.starts_with("session-")));
        let share = gate.stage(Stage::Replay, &candidate, strict()).await;
        assert_eq!(share.result.standing, Standing::Stopped, "strict: {share:?}");
    }
    // What it is deployed for.
    let ignore = vec!["reply".parse().unwrap()];
    let differs = instead_of_echo("(return (call $reply (local.get $at) (i32.const 1)))");
    let share = gate.stage(Stage::Replay, &differs, GateSpec { ignore, ..strict() }).await;
    assert_eq!((share.result.standing, share.result.groups.len()), (Standing::Passed, 0));
}

/// A handler that gets slower with its history is late one day, for the sessions that matter most.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_late_shows_in_the_replay() {
    let gate = Gate::new(testkit::guest()).await;
    gate.send_all(1, &[b"sone", b"ehello", b"g"]).await;
    let late = instead_of_echo("(loop $l (br $l)) unreachable");
    let share = gate.stage(Stage::Replay, &late, GateSpec::default()).await;
    let groups = &share.result.groups;
    assert_eq!((groups[0].kind, groups[0].example.seq, groups.len()), (Kind::Late, 2, 1));
    assert_eq!(share.result.standing, Standing::Stopped);
}

/// The last messages begin at the state of the version before: what is before them is not looked at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_last_messages_run_on_the_new_version() {
    let gate = Gate::new(testkit::guest()).await;
    gate.send_all(2, &[b"sone", b"ehello", b"g", b"utwo", b"g"]).await;
    let traps = instead_of_echo("unreachable");
    let spec = GateSpec { messages: Some(3), ..strict() };
    let share = gate.stage(Stage::Replay, &traps, spec).await;
    assert_eq!((share.result.standing, share.result.messages), (Standing::Passed, 6));
    let spec = GateSpec { messages: Some(4), ..strict() };
    let share = gate.stage(Stage::Replay, &traps, spec).await;
    assert_eq!(share.result.standing, Standing::Stopped, "{share:?}");
}

/// Three times the fuel on one kind of message is little of all, and much for whoever sends it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kind_of_message_that_costs_more_stops() {
    let gate = Gate::new(testkit::guest()).await;
    for session in ["one", "two", "three"] {
        for _ in 0..4 {
            gate.send(session, "kind/set", b"sone").await;
            gate.send(session, "kind/echo", b"ehello").await;
        }
    }
    let loops = "(local.set $n (i32.const 40000))
          (loop $l (local.set $n (i32.sub (local.get $n) (i32.const 1)))
            (br_if $l (local.get $n)))
          (return (call $reply (local.get $at) (local.get $len)))";
    let share = gate.stage(Stage::Cost, &instead_of_echo(loops), GateSpec::default()).await;
    let result = &share.result;
    assert_eq!(names(&result.groups), [(Kind::Cost, "kind/echo", 12, true)], "{result:?}");
    assert_eq!(result.standing, Standing::Stopped);
    let set = result.costs.iter().find(|cost| cost.of == "kind/set").unwrap();
    assert_eq!(set.before, set.after, "the same messages cost the same");
    assert!(set.before.total > 0 && result.memory_before > 0, "{result:?}");
    let again = gate.stage(Stage::Cost, &instead_of_echo(loops), GateSpec::default()).await;
    assert_eq!(again.result.costs, result.costs, "on every machine, at every time");
    // The other one's memory grows with every call.
    let leaks = "(drop (memory.grow (i32.const 16)))
          (return (call $reply (local.get $at) (local.get $len)))";
    let share = gate.stage(Stage::Cost, &instead_of_echo(leaks), GateSpec::default()).await;
    let groups = names(&share.result.groups);
    assert!(groups.iter().any(|it| (it.0, it.1) == (Kind::Cost, "memory")), "{share:?}");
}

/// Compiling two components for three messages would make each deploy of a new service slow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_messages_are_not_counted() {
    let gate = Gate::new(testkit::guest()).await;
    gate.send_all(1, &[b"sone", b"g"]).await;
    let share = gate.stage(Stage::Cost, &good(), strict()).await;
    assert_eq!((share.result.standing, share.result.of), (Standing::Skipped, 0), "{share:?}");
    assert_eq!(share.done.len(), usize::from(SLOTS));
    assert!(share.result.why[0].why.contains("2 messages"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_wants_stop_until_they_are_accepted() {
    let gate = Gate::new(testkit::guest()).await;
    let wants = testkit::timing_guest();
    let share = gate.stage(Stage::Interface, &wants, GateSpec::default()).await;
    assert_eq!(share.result.standing, Standing::Stopped);
    let stops: Vec<_> = share.result.groups.iter().filter(|it| it.stops).collect();
    assert!(stops.iter().any(|it| it.path == "effect:timers.schedule"), "{stops:?}");
    let accept: Vec<_> = stops.iter().map(|it| it.path.parse().unwrap()).collect();
    let spec = GateSpec { accept, ..GateSpec::default() };
    let share = gate.stage(Stage::Interface, &wants, spec).await;
    assert_eq!(share.result.standing, Standing::Passed, "{share:?}");
    let grows = "(func $start (drop (memory.grow (i32.const 256)))) (start $start)";
    let large = testkit::guest_with(";;START", grows);
    let share = gate.stage(Stage::Interface, &large, GateSpec::default()).await;
    assert_eq!(names(&share.result.groups), [(Kind::Want, "memory", 1, true)]);
}

/// Which hosts a version asks is in no component: it shows where it asks one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_host_stops_until_it_is_accepted() {
    let echo = "(i32.const 0x65)) ;; e: echo";
    let gate = Gate::new(testkit::guest_with(echo, "(i32.const 0x51)) ;; Q: echo")).await;
    gate.send_all(2, &[b"Qa-body", b"sone"]).await;
    let asks = testkit::requesting_guest();
    let share = gate.stage(Stage::Replay, &asks, GateSpec::default()).await;
    let result = &share.result;
    let mut found: Vec<_> = result.groups.iter().map(|it| (it.kind, &*it.path, it.stops)).collect();
    found.sort_unstable();
    let expected =
        [(Kind::Reply, "", false), (Kind::Effect, "request", false), (Kind::Want, "http:t", true)];
    assert_eq!((found.as_slice(), result.standing), (&expected[..], Standing::Stopped));
    assert!(result.why[0].why.contains("--accept http:t"), "{:?}", result.why);
    let spec = GateSpec { accept: vec!["http:t".parse().unwrap()], ..GateSpec::default() };
    let share = gate.stage(Stage::Replay, &asks, spec).await;
    assert_eq!(share.result.standing, Standing::Passed, "{share:?}");
}

/// A node that dies in the middle, or a driver: what is done is not done again, and counts once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_goes_on_where_it_was() {
    let gate = Gate::new(testkit::guest()).await;
    gate.send_all(200, &[b"sone"]).await;
    let part = gate.begin(Stage::Migrate, &good(), With::default()).await;
    assert_eq!(part.id, "a");
    let until = crate::clock::now() + TIMEOUT;
    let before = loop {
        let share = part.share();
        if !share.done.is_empty() {
            break share;
        }
        assert!(crate::clock::now() < until, "{share:?}");
        tokio::task::yield_now().await;
    };
    assert!(before.result.of >= before.result.seen, "{before:?}");
    part.cancel();
    ended(&part).await;
    let with = With { before: Some(before), ..With::default() };
    let share = gate.stage(Stage::Migrate, &good(), with).await;
    assert_eq!((share.result.standing, share.result.seen), (Standing::Passed, 200));
    assert_eq!((share.result.of, share.done.len()), (200, usize::from(SLOTS)), "{share:?}");
}

/// Ten million sessions are not all seen. Who reads the report has to know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_there_was_no_time_for_is_said() {
    let gate = Gate::new(testkit::guest()).await;
    gate.send_all(30, &[b"sone"]).await;
    let slow = testkit::guest_with(
        "(if (i32.eq (i32.load8_u (local.get $from)) (i32.const 0x6d)) ;; m: emit",
        "(global.set $calls (i32.const 50000000))
      (loop $l (global.set $calls (i32.sub (global.get $calls) (i32.const 1)))
        (br_if $l (global.get $calls)))
      (if (i32.const 0)",
    );
    let spec = GateSpec { time_ms: Some(150), ..GateSpec::default() };
    let share = gate.stage(Stage::Migrate, &slow, spec.clone()).await;
    let result = &share.result;
    assert!(result.unseen() > 0 && result.seen + result.unseen() == result.of, "{share:?}");
    assert!(result.unseen.iter().any(|it| it.why.contains("no time")), "{share:?}");
    let share = gate.stage(Stage::Migrate, &slow, GateSpec { mode: Mode::Strict, ..spec }).await;
    assert_eq!(share.result.standing, Standing::Stopped, "{share:?}");
}
