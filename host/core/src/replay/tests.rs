//! Entries of a history by hand, run on guests by hand.

#![allow(clippy::unwrap_used)]
use super::*;
use crate::{
    effects::{Caused, Effect, Entered, Firing, Origin, rows::Name},
    log::record::{Entry, Event},
    names::SessionKey,
    operator,
    plugin::{Isolation, Plugin, PluginHost, testkit},
};
use bytes::Bytes;
use std::sync::Arc;

struct Fixture {
    host: PluginHost,
    instances: Instances,
    _dir: tempfile::TempDir,
}

fn key() -> SessionKey {
    SessionKey::parse("s", "x").unwrap()
}

fn entry(seq: u64, body: &[u8], reply: &[u8]) -> Entry {
    Entry {
        seq,
        id: Some(format!("id-{seq}")),
        sender: Some("ann".into()),
        time_ms: 1_700_000_000_000 + seq,
        content_type: "text/plain".into(),
        body: Bytes::copy_from_slice(body),
        reply_content_type: "text/plain".into(),
        reply: Bytes::copy_from_slice(reply),
        deployment: 1,
        events: Vec::new(),
        origin: None,
        caused: Vec::new(),
    }
}

impl Fixture {
    fn new(isolation: Isolation) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = testkit::host(dir.path());
        Self { host, instances: Instances::new(isolation), _dir: dir }
    }

    async fn version(&self, id: u32, version: &str, component: Vec<u8>) -> Version {
        let plugin: Arc<Plugin> = self.host.add(component.into()).await.unwrap();
        let label = format!("{version}+{}", plugin.digest().short()).into();
        Version { id, plugin, version: version.into(), label, same_state: false }
    }

    /// What a history differs in, by sequence number.
    async fn run(
        &mut self,
        replay: &mut Replay,
        on: &Version,
        entries: &[Entry],
    ) -> Vec<(u64, What)> {
        let mut found = Vec::new();
        for entry in entries {
            let handled = self.step(replay, on, None, entry).await;
            let differing = differences(Seen::stored(entry, true), Seen::from(&handled.outcome));
            found.extend(differing.into_iter().map(|difference| (entry.seq, difference.what)));
        }
        found
    }

    async fn step(
        &mut self,
        replay: &mut Replay,
        on: &Version,
        from: Option<&str>,
        entry: &Entry,
    ) -> Handled {
        let runs = Runs { on, from };
        match replay.step(entry, runs, &mut self.instances).await.unwrap() {
            Step::Handled(handled) => *handled,
            other => panic!("{other:?}"),
        }
    }
}

fn begin() -> Replay {
    Replay::new(key(), Base::default()).unwrap()
}

fn state(replay: &Replay) -> Vec<(String, Bytes)> {
    replay.state().map(|(key, value)| (key.to_owned(), value.clone())).collect()
}

/// The whole promise: state, replies and events follow from the messages. And whatever is changed of them shows.
#[tokio::test]
async fn a_history_comes_out_again_and_whatever_differs_shows() {
    let mut fixture = Fixture::new(Isolation::Shared);
    let on = fixture.version(1, "1.0.0", testkit::guest()).await;
    let mut with_event = entry(3, b"mhello", b"");
    with_event.events = vec![Event {
        kind: "note".into(),
        content_type: "text/plain".into(),
        body: "hello".into(),
    }];
    let entries = [entry(1, b"sone", b""), entry(2, b"g", b"one"), with_event, entry(4, b"d", b"")];
    let mut replay = begin();
    assert_eq!(fixture.run(&mut replay, &on, &entries[..3]).await, []);
    assert_eq!(state(&replay), [("k".to_owned(), Bytes::from_static(b"one"))]);
    assert_eq!(fixture.run(&mut replay, &on, &entries[3..]).await, []);
    assert_eq!((state(&replay), replay.seq()), (Vec::new(), 4));

    let mut changed = entries.clone();
    changed[0].body = "stwo".into();
    changed[2].events[0].body = "other".into();
    changed[3].reply_content_type = "text/html".into();
    let found = fixture.run(&mut begin(), &on, &changed).await;
    assert_eq!(found, [(2, What::Reply), (3, What::Events), (4, What::ContentType)]);
}

/// A message that was answered, and fails now: the gate stops what does that, and an audit says it.
#[tokio::test]
async fn what_fails_leaves_no_trace_and_is_a_difference() {
    let mut fixture = Fixture::new(Isolation::Shared);
    let on = fixture.version(1, "1.0.0", testkit::guest()).await;
    let entries = [
        entry(1, b"sone", b""),
        entry(2, b"ttwo", b""),
        entry(3, b"x", b""),
        entry(4, b"g", b"one"),
    ];
    let mut replay = begin();
    let found = fixture.run(&mut replay, &on, &entries).await;
    assert_eq!(found, [(2, What::Result), (3, What::Result)]);
    let trapped = fixture.step(&mut replay, &on, None, &entry(5, b"ttwo", b"")).await;
    assert!(matches!(trapped.outcome, Outcome::Failed { kind: "trap", .. }), "{trapped:?}");
    let rejected = fixture.step(&mut replay, &on, None, &entry(6, b"x", b"")).await;
    assert!(matches!(&rejected.outcome, Outcome::Rejected(it) if it.code == "bad-luck"));
}

/// A state in the form of one version is none of another's: `migrate` has to run where it did.
#[tokio::test]
async fn migrate_runs_where_it_did() {
    let mut fixture = Fixture::new(Isolation::Shared);
    let (first, second) = (
        fixture.version(1, "1.0.0", testkit::guest()).await,
        fixture.version(2, "2.0.0", testkit::guest_with("bad-luck", "badluck2")).await,
    );
    let mut replay = begin();
    fixture.run(&mut replay, &first, &[entry(1, b"sone", b"")]).await;
    assert_eq!(replay.deployment(), Some(1));
    let handled = fixture.step(&mut replay, &second, Some("1.0.0"), &entry(2, b"g", b"one")).await;
    assert!(handled.migrated && matches!(handled.outcome, Outcome::Replied(_)), "{handled:?}");
    assert_eq!(replay.deployment(), Some(2));
    let from = state(&replay).into_iter().find(|(key, _)| key == "from");
    assert_eq!(from.map(|(_, value)| value), Some(Bytes::from_static(b"1.0.0")));
    // One that does nothing takes no state of a later version.
    let plain = fixture.version(3, "1.5.0", testkit::guest_without_migrate()).await;
    let handled = fixture.step(&mut replay, &plain, Some("2.0.0"), &entry(3, b"g", b"one")).await;
    assert!(matches!(handled.outcome, Outcome::Failed { kind: "migrate", .. }), "{handled:?}");
}

/// What a component keeps in memory is in no history. It shows by what instances are used for.
#[tokio::test]
async fn what_is_kept_in_memory_shows_by_another_instance() {
    let entries = [entry(1, b"w", &1_u32.to_le_bytes()), entry(2, b"w", &2_u32.to_le_bytes())];
    let (mut shared, mut fresh) = (Fixture::new(Isolation::Shared), Fixture::new(Isolation::Call));
    let on = shared.version(1, "1.0.0", testkit::guest()).await;
    assert_eq!(shared.run(&mut begin(), &on, &entries).await, []);
    assert_eq!(shared.run(&mut begin(), &on, &entries).await, [(1, What::Reply), (2, What::Reply)]);
    let on = fresh.version(1, "1.0.0", testkit::guest()).await;
    assert_eq!(fresh.run(&mut begin(), &on, &entries).await, [(2, What::Reply)]);
}

/// A replay that begins in the middle is as good as one from the beginning: captures and forks do.
#[tokio::test]
async fn a_replay_goes_on_from_any_place() {
    let mut fixture = Fixture::new(Isolation::Shared);
    let on = fixture.version(1, "1.0.0", testkit::timing_guest()).await;
    let set = [b"St+".as_slice(), &5_000_u64.to_le_bytes(), b"e-tick"].concat();
    let mut first = begin();
    let entries = [entry(1, b"sone", b""), entry(2, &set, &[1])];
    for entry in &entries {
        fixture.step(&mut first, &on, None, entry).await;
    }
    let base = first.base();
    assert_eq!((base.seq, base.state.len(), base.effects.len()), (2, 1, 1));
    let mut second = Replay::new(key(), base.clone()).unwrap();
    assert_eq!(second.base(), base);
    for (seq, body) in [(3, b"g".as_slice()), (4, b"Ct"), (5, b"Ct")] {
        let entry = entry(seq, body, b"");
        let one = fixture.step(&mut first, &on, None, &entry).await;
        let other = fixture.step(&mut second, &on, None, &entry).await;
        assert_eq!(one.outcome, other.outcome, "message {seq}");
        assert_eq!(one.outcome.digest(), other.outcome.digest());
    }
    assert_eq!(first.base(), second.base());
}

/// A timer goes on by its messages, as far as they say: how many of its times were missed is in them.
#[tokio::test]
async fn timers_go_on_by_their_messages() {
    let mut fixture = Fixture::new(Isolation::Shared);
    let on = fixture.version(1, "1.0.0", testkit::timing_guest()).await;
    let set = [b"St*".as_slice(), &60_000_u64.to_le_bytes(), b"e-tick"].concat();
    let mut replay = begin();
    let handled = fixture.step(&mut replay, &on, None, &entry(1, &set, &[1])).await;
    let due_ms = entry(1, b"", b"").time_ms + 60_000;
    let caused = vec![Caused::Timer { name: "t".into(), due_ms }];
    assert!(matches!(&handled.outcome, Outcome::Replied(it) if it.caused == caused), "{handled:?}");
    let firing = Firing { name: "t".into(), due_ms, missed: 2, attempt: 1 };
    let tick = Entry {
        id: None,
        sender: None,
        time_ms: due_ms + 150_000,
        origin: Some(Box::new(Origin::Timer(firing))),
        ..entry(2, b"e-tick", b"-tick")
    };
    assert_eq!(fixture.run(&mut replay, &on, &[tick]).await, []);
    let Some((Name::Timer(_), Effect::Timer(timer))) = replay.base().effects.into_iter().next()
    else {
        panic!("no timer")
    };
    assert_eq!((timer.due_ms, timer.failures), (due_ms + 180_000, 0));
}

/// A replay that took an operator's entry for a message would call the handler with a note.
#[tokio::test]
async fn what_an_operator_did_is_no_message() {
    let mut fixture = Fixture::new(Isolation::Shared);
    let on = fixture.version(1, "1.0.0", testkit::guest()).await;
    let operation = operator::Operation::new(None, "ann".into(), None, operator::Action::Discard);
    let note = |seq, action: &str| Entry {
        id: Some(operation.id.clone()),
        content_type: operator::CONTENT_TYPE.into(),
        ..entry(seq, format!("{{\"action\":\"{action}\"}}").as_bytes(), b"")
    };
    let mut replay = begin();
    let runs = Runs { on: &on, from: None };
    for (seq, action, is_import) in [(1, "set", false), (2, "import", true)] {
        let entry = note(seq, action);
        let step = replay.step(&entry, runs, &mut fixture.instances).await.unwrap();
        let Step::Entered { import, is_known } = step else { panic!("{step:?}") };
        assert_eq!((import, is_known), (is_import, false));
    }
    // Where it is known what was written, the history goes on.
    let written = |pairs: &[(&str, Option<&'static str>)]| {
        let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), value.map(Bytes::from)));
        Some(Box::new(Origin::Operator(Arc::new(Entered { writes: pairs.collect() }))))
    };
    let import = "{\"action\":\"import\",\"keys\":2,\"whole\":true}";
    for (entry, is_known, left) in [
        (
            Entry { origin: written(&[("k", Some("one")), ("old", Some("1"))]), ..note(3, "set") },
            true,
            2,
        ),
        (Entry { origin: written(&[("old", None)]), ..note(4, "set") }, true, 1),
        (
            Entry { origin: written(&[("k", Some("x"))]), body: import.into(), ..note(5, "") },
            false,
            1,
        ),
        (
            Entry {
                origin: written(&[("k", Some("two")), ("n", Some("2"))]),
                body: import.into(),
                ..note(6, "")
            },
            true,
            2,
        ),
    ] {
        let seq = entry.seq;
        let step = replay.step(&entry, runs, &mut fixture.instances).await.unwrap();
        assert!(
            matches!(step, Step::Entered { is_known: known, .. } if known == is_known),
            "{seq}"
        );
        assert_eq!((state(&replay).len(), replay.seq()), (left, seq));
    }
    assert_eq!(fixture.run(&mut replay, &on, &[entry(7, b"g", b"two")]).await, []);
}
