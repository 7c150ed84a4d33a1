#![allow(clippy::unwrap_used)]
use super::*;
use crate::{
    database::StorageOptions,
    effects::{
        Dead, Firing, When,
        rows::{Due, OnItsWay},
    },
    log::record::{self, Batch, Delete, Head, Record},
    slot::session::Session,
    state::{SlotMeta, changes::Changes},
    storage::DataDir,
};
use proptest::prelude::*;

mod requests;

fn timer(next_ms: u64, body: usize) -> Timer {
    Timer {
        when: When::Once,
        due_ms: next_ms,
        next_ms,
        failures: 0,
        reason: String::new(),
        content_type: "t".into(),
        body: vec![7; body].into(),
        set_by: 1,
    }
}

fn dead(name: &str, due_ms: u64) -> Dead {
    Dead {
        firing: Firing { name: name.into(), due_ms, missed: 0, attempt: 1 },
        content_type: "t".into(),
        body: Bytes::new(),
        code: "c".into(),
        reason: "r".into(),
        died_ms: 1,
        set_by: 1,
    }
}

fn message(to: &SessionKey) -> Outgoing {
    Outgoing {
        to: to.clone(),
        content: crate::effects::send::Content::Message { reply: None },
        content_type: "t".into(),
        body: Bytes::from_static(b"b"),
        hops: 1,
        failures: 0,
        held: 0,
        next_ms: 0,
        reason: String::new(),
        sent_by: 1,
        trace: None,
    }
}

/// No two sessions of a slot have one of the same place.
fn outgoing(of: usize, to: u8, index: u64) -> Name {
    let number = Number { term: of as u64, index };
    Name::Outgoing(Place { to: to.into(), number })
}

#[derive(Clone, Debug)]
enum Step {
    Set(usize, u8, u64),
    Die(usize, u8, u64),
    Gone(usize, u8, u64),
    Send(usize, u8, u64),
    Arrived(usize, u8, u64),
    Delete(usize),
    Store,
}

fn step() -> impl Strategy<Value = Step> {
    let which = (0usize..2, 0u8..3, 0u64..4);
    prop_oneof![
        4 => which.clone().prop_map(|(of, name, at)| Step::Set(of, name, at)),
        2 => which.clone().prop_map(|(of, name, at)| Step::Die(of, name, at)),
        2 => which.clone().prop_map(|(of, name, at)| Step::Gone(of, name, at)),
        2 => which.clone().prop_map(|(of, name, at)| Step::Send(of, name, at)),
        1 => which.prop_map(|(of, name, at)| Step::Arrived(of, name, at)),
        1 => (0usize..2).prop_map(Step::Delete),
        2 => Just(Step::Store),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A timer that the store forgets, keeps, or lists as due when it is not: whatever was folded together
    /// into one write.
    #[test]
    fn the_store_has_what_the_sessions_have(steps in proptest::collection::vec(step(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path(), StorageOptions::default()).unwrap();
        let store = data.state();
        let key = |of: usize| SessionKey::parse("s", &of.to_string()).unwrap();
        let (mut effects, mut numbers) = ([Effects::default(), Effects::default()], [1u64, 2]);
        let (mut changes, mut meta) = (Changes::default(), SlotMeta::default());
        for (at, step) in steps.into_iter().chain([Step::Store]).enumerate() {
            let (of, name, effect) = match step {
                Step::Set(of, name, at) => {
                    let timer = timer(at + 1, usize::from(name));
                    (of, Name::Timer(name.to_string()), Some(Effect::Timer(timer.into())))
                }
                Step::Die(of, name, at) => {
                    let dead = dead(&name.to_string(), at);
                    (of, Name::Dead(name.to_string(), at), Some(Effect::Dead(dead.into())))
                }
                Step::Send(of, name, at) => {
                    (of, outgoing(of, name, at), Some(Effect::Outgoing(message(&key(of)).into())))
                }
                Step::Arrived(of, name, at) => (of, outgoing(of, name, at), None),
                Step::Gone(of, name, at) if at % 2 == 0 => (of, Name::Timer(name.to_string()), None),
                Step::Gone(of, name, at) => (of, Name::Dead(name.to_string(), at), None),
                Step::Delete(of) => {
                    let gone = std::mem::take(&mut effects[of]).removal();
                    let delete = Delete { key: key(of), session_number: numbers[of], effects: gone };
                    let records = vec![Record::Delete(delete)];
                    let batch = Batch { slot: 0, term: 1, attempt: 1, records };
                    changes.fold(&mut meta, at as u64 + 1, batch);
                    numbers[of] += 2;
                    continue;
                }
                Step::Store => {
                    store.apply(0, &changes, &meta).unwrap();
                    changes = Changes::default();
                    let (mut due, mut sent) = (Vec::new(), Vec::new());
                    for of in 0..2 {
                        let loaded = Effects::load(&*store, 0, numbers[of]).unwrap();
                        prop_assert_eq!(&loaded.all, &effects[of].all);
                        prop_assert_eq!(
                            (loaded.timers, loaded.dead),
                            (effects[of].timers, effects[of].dead)
                        );
                        sent.extend(loaded.iter().filter_map(|(name, _)| match name {
                            Name::Outgoing(place) => {
                                let session_number = numbers[of];
                                Some(OnItsWay { place: *place, session_number })
                            }
                            _ => None,
                        }));
                        due.extend(loaded.iter().filter_map(|(name, effect)| Some(Due {
                            due_ms: effect.next_ms(name)?,
                            session_number: numbers[of],
                            row: name.row(),
                        })));
                    }
                    due.sort_unstable();
                    sent.sort_unstable();
                    let rows = store.scan(0, rows::DUE, b"", None, 1_000, usize::MAX).unwrap();
                    let rows: Vec<_> = rows.iter().filter_map(|(key, _)| Due::of_key(key)).collect();
                    prop_assert_eq!(rows, due);
                    let rows = store.scan(0, rows::OUTBOX, b"", None, 1_000, usize::MAX).unwrap();
                    let rows: Vec<_> =
                        rows.iter().filter_map(|(key, _)| OnItsWay::of_key(key)).collect();
                    prop_assert_eq!(rows, sent);
                    continue;
                }
            };
            let change = effects[of].change(name, effect).unwrap();
            let (key, session_number) = (key(of), numbers[of]);
            let record = record::Effects { key, session_number, changes: vec![change] };
            let records = vec![Record::Effects(Box::new(record))];
            changes.fold(&mut meta, at as u64 + 1, Batch { slot: 0, term: 1, attempt: 1, records });
        }
    }
}

fn session() -> Session {
    let head = Head { session_number: 1, seq: 1, ..Head::default() };
    Session::new(SessionKey::parse("s", "x").unwrap(), head)
}

/// Without its limits a session's timers take any memory, and its record may not fit the log.
#[test]
fn timers_have_limits() {
    let mut committed = Effects::default();
    for n in 0..limits::TIMERS_MAX {
        let timer = Effect::Timer(timer(1, 0).into());
        committed.change(Name::Timer(n.to_string()), Some(timer)).unwrap();
    }
    let mut changes = EffectChanges::default();
    let mut timers = OwnEffects { committed: &committed, changes: &mut changes };
    timers.schedule("0", timer(2, 0)).unwrap();
    assert!(matches!(timers.schedule("new", timer(2, 0)), Err(StateFault::Limit(_))));
    let mut changes = EffectChanges::default();
    let mut timers = OwnEffects { committed: &committed, changes: &mut changes };
    assert!(timers.cancel("0").unwrap() && !timers.cancel("0").unwrap());
    timers.schedule("new", timer(2, 0)).unwrap();
    let large = timer(2, limits::TIMER_BYTES_MAX);
    assert!(matches!(timers.schedule("new", large), Err(StateFault::Limit(_))));
    let names = |after: Option<&str>| -> Vec<String> {
        let mut changes = EffectChanges::default();
        let mut timers = OwnEffects { committed: &committed, changes: &mut changes };
        timers.cancel("998").unwrap();
        timers.schedule("997", timer(9, 0)).unwrap();
        timers.list(after, 3).into_iter().map(|(name, _)| name).collect()
    };
    assert_eq!(names(Some("996")), ["997", "999"]);
    let mut changes = EffectChanges::default();
    let committed = Effects::default();
    let mut timers = OwnEffects { committed: &committed, changes: &mut changes };
    for _ in 0..limits::TIMER_CHANGES_MAX {
        timers.schedule("same", timer(2, 0)).unwrap();
    }
    assert!(matches!(timers.schedule("same", timer(2, 0)), Err(StateFault::Limit(_))));
}

/// The cache's sum of bytes would go wrong with each timer, and with it what the node may keep.
#[test]
fn effects_count_as_their_sessions_memory() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path(), StorageOptions::default()).unwrap();
    let mut session = session();
    let before = session.bytes;
    session.load_effects(&*data.state(), 0).unwrap();
    let empty = session.bytes;
    assert!(empty > before);
    let set = |session: &mut Session, effect: Option<Effect>| {
        let name = Name::Timer("a".into());
        session.change_effects(|effects| effects.change(name, effect)).unwrap();
    };
    set(&mut session, Some(Effect::Timer(timer(1, 500).into())));
    assert!(session.bytes >= empty + 500);
    set(&mut session, Some(Effect::Timer(timer(1, 100).into())));
    assert!((empty + 100..empty + 500).contains(&session.bytes));
    set(&mut session, None);
    assert_eq!(session.bytes, empty);
}
