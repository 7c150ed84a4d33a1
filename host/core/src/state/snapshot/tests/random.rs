//! Random histories, snapshots at random points, crashes in the middle of takes and restores.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Message {
        name: usize,
        key: u8,
        value: Option<u8>,
        pinned: bool,
        large: bool,
    },
    Delete {
        name: usize,
    },
    Activate {
        generation: u64,
    },
    Flush,
    /// A take that is cut short after so many requests (whole: 100), its last put landing or not.
    Take {
        requests: i64,
        lands: bool,
    },
    /// Another node takes over: a restore cut short after so many requests, then a whole one.
    Move {
        requests: i64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        10 => (0..4usize, 0..6u8, proptest::option::of(0..9u8), 0..10u8)
            .prop_map(|(name, key, value, kind)| Step::Message {
                name, key, value, pinned: kind == 0, large: kind > 7,
            }),
        3 => (0..4usize).prop_map(|name| Step::Delete { name }),
        1 => (1..5u64).prop_map(|generation| Step::Activate { generation }),
        2 => Just(Step::Flush),
        4 => Just(Step::Take { requests: 100, lands: false }),
        2 => (0..8i64, any::<bool>())
            .prop_map(|(requests, lands)| Step::Take { requests, lands }),
        2 => (0..12i64).prop_map(|requests| Step::Move { requests }),
    ];
    proptest::collection::vec(step, 1..60)
}

async fn run(steps: Vec<Step>) {
    let home = scratch();
    let objects = directory(&home.path().join("objects")).await;
    let (mut nodes, log) = (0, Arc::new(MemoryLog::default()));
    let mut next_dir = || {
        nodes += 1;
        open(&home.path().join(format!("node-{nodes}")))
    };
    let forever = Faults::after(i64::MAX, false);
    let mut snapshots = counted(objects.clone(), &forever);
    let mut owner = Owner::start(&log, &next_dir()).await;
    for (i, step) in steps.into_iter().enumerate() {
        match step {
            Step::Message { name, key, value, pinned, large } => {
                let body = vec![b'x'; if large { 1_500 } else { 20 }];
                let value = value.map(|value| Bytes::from(vec![value; 30]));
                let writes = vec![Write { key: Bytes::from(vec![key]), value }];
                let record = owner.message(&format!("{name}"), &body, writes, pinned);
                owner.commit(vec![record]).await.unwrap();
            }
            Step::Delete { name } => owner.delete(&format!("{name}")).await,
            Step::Activate { generation } => {
                let activate = Activate { service: service(), generation, deployment: 1 };
                owner.commit(vec![Record::Activate(activate)]).await.unwrap();
            }
            Step::Flush => owner.flush(),
            Step::Take { requests: 100, .. } => {
                let taken = owner.take(&snapshots).await.unwrap();
                check_restore(&snapshots, &owner, taken).await;
                owner.commit(Vec::new()).await.unwrap();
                // Either is allowed.
                let up_to = if i % 2 == 0 { taken.position } else { taken.before };
                log.trim(SLOT, up_to).await.unwrap();
                snapshots.collect(SLOT, owner.claim.term).await.unwrap();
                check_restore(&snapshots, &owner, taken).await;
            }
            Step::Take { requests, lands } => {
                // The same process goes on: it knows what it does not know.
                let faults = Faults::after(requests, lands);
                let failing = Objects::Failing(objects.clone().into(), faults);
                let broken = snapshots.with_objects(failing);
                let _ = owner.take(&broken).await;
                owner.commit(Vec::new()).await.unwrap();
                snapshots.collect(SLOT, owner.claim.term).await.unwrap();
            }
            Step::Move { requests } => {
                let dir = next_dir();
                let store = dir.state();
                // What is left of an older time is not in the way.
                store.apply(SLOT, &junk(), &SlotMeta::default()).unwrap();
                let broken = counted(objects.clone(), &Faults::after(requests, false));
                if broken.restore(SLOT, &*log, &store).await.is_err() {
                    let found = store.slot(SLOT).unwrap();
                    assert_eq!(found.applied, 0, "half a slot shows");
                }
                snapshots = counted(objects.clone(), &forever);
                snapshots.restore(SLOT, &*log, &store).await.unwrap();
                let next = Owner::start(&log, &dir).await;
                owner.replay().await;
                owner.flush();
                // The claim, and whatever the old owner had not seen.
                assert_eq!(dump(&next.store), dump(&owner.store));
                assert_eq!(leftovers(&next.dir), 0);
                owner = next;
            }
        }
    }
}

/// Rows of sessions that never were.
fn junk() -> Changes {
    let mut changes = Changes::default();
    changes.heads.insert(session("0"), Some(Head { seq: 9, ..Head::default() }));
    let history = vec![entry(1, b"junk").into()];
    let rows = changes.sessions.entry(0).or_default();
    rows.history = history;
    rows.state.insert(Bytes::from_static(b"junk"), Some(Bytes::new()));
    changes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// A restored slot that is not the slot as it was loses or doubles acknowledged messages.
    #[test]
    fn any_history_comes_back_from_its_snapshots(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps));
    }
}
