//! What is due first, against a plain map.

use crate::{
    effects::rows::{Due, Name},
    limits,
    names::SessionKey,
    slot::core::DueRows,
};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

#[derive(Clone, Debug)]
enum Step {
    Comes(u64),
    Goes(usize),
    /// The store gets all that is known.
    Stored,
    /// Whoever works looks for what is due.
    Look,
    /// What is due first can't be carried out.
    Hold,
    /// What is due first is carried out elsewhere.
    Begin,
    /// That has ended, and what it was for is still there.
    End(usize),
    /// What is due first is looked at again later.
    Park,
    /// All that came is durable.
    Durable,
    /// The store can't be read.
    Pause,
    Later,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u64..2_000).prop_map(Step::Comes),
        3 => any::<usize>().prop_map(Step::Goes),
        1 => Just(Step::Stored),
        3 => Just(Step::Look),
        1 => Just(Step::Hold),
        3 => Just(Step::Begin),
        1 => any::<usize>().prop_map(Step::End),
        1 => Just(Step::Park),
        2 => Just(Step::Durable),
        1 => Just(Step::Pause),
        1 => Just(Step::Later),
    ]
}

/// Has all that is wanted of the store.
fn look(rows: &mut DueRows, store: &BTreeMap<Due, SessionKey>, now: Instant) {
    while let Some(wanted) = rows.wants(u64::MAX, now) {
        let from = store.iter().filter(|(row, _)| wanted.after.as_ref().is_none_or(|it| *row > it));
        let page = from.take(wanted.limit).map(|(row, key)| (row.clone(), key.clone()));
        rows.add(&wanted, page.collect());
    }
}

proptest! {
    /// What is due first would be forgotten, or found again when it has gone: whatever part of it is in
    /// memory, in the store, or in both.
    #[test]
    fn what_is_due_first_is_known(
        filled in 0usize..3 * limits::DUE_HELD_MAX,
        steps in proptest::collection::vec(step(), 1..400),
    ) {
        let keys = ["s", "t"].map(|service| SessionKey::parse(service, "x").unwrap());
        // One of them has most.
        let key = |n: u64| keys[usize::from(n.is_multiple_of(16))].clone();
        let request = Name::Request("r".into()).row();
        let row = |n: u64| {
            let row = if n.is_multiple_of(3) { request.clone() } else { "r".into() };
            Due { due_ms: n % 500, session_number: n, row }
        };
        let (mut rows, mut now) = (DueRows::new(), Instant::now());
        let (mut elsewhere, mut parked) = (BTreeSet::new(), BTreeMap::<Due, Instant>::new());
        let mut fresh = BTreeSet::new();
        let filled = (0..filled as u64).map(|n| (row(n + 10_000), key(n)));
        let mut store: BTreeMap<_, _> = filled.collect();
        let (mut all, mut batch) = (store.clone(), 1);
        let (mut held, mut tried, mut paused) = (BTreeSet::new(), BTreeSet::new(), false);
        for step in steps {
            batch += 1;
            match step {
                Step::Comes(n) => {
                    if all.insert(row(n), key(n)).is_some() {
                        rows.stays(&row(n), &key(n), batch);
                    } else {
                        rows.comes(row(n), &key(n), batch);
                    }
                    if row(n).waits_until_durable() {
                        fresh.insert(row(n));
                    }
                }
                Step::Begin => {
                    look(&mut rows, &store, now);
                    if let Some((row, key)) = rows.first(u64::MAX, now) {
                        rows.begins(&row, &key);
                        tried.remove(&row);
                        elsewhere.insert(row);
                    }
                }
                Step::End(which) if !elsewhere.is_empty() => {
                    let row = elsewhere.iter().nth(which % elsewhere.len()).unwrap().clone();
                    rows.ended(&row);
                    elsewhere.remove(&row);
                }
                Step::End(_) => {}
                Step::Park => {
                    look(&mut rows, &store, now);
                    if let Some((row, key)) = rows.first(u64::MAX, now) {
                        let until = now + limits::EFFECT_HOLD_MAX;
                        rows.park(&row, &key, until);
                        tried.remove(&row);
                        parked.insert(row, until);
                    }
                }
                Step::Durable => {
                    rows.is_durable(batch);
                    fresh.clear();
                    for gone in rows.take_cancelled() {
                        prop_assert!(!elsewhere.contains(&gone));
                    }
                }
                Step::Goes(which) if !all.is_empty() => {
                    // What goes is among the first as a rule.
                    let gone = all.keys().nth(which % all.len().min(8)).unwrap().clone();
                    rows.goes(gone.clone(), batch);
                    all.remove(&gone);
                    tried.remove(&gone);
                    fresh.remove(&gone);
                    parked.remove(&gone);
                    elsewhere.remove(&gone);
                }
                Step::Goes(_) => {}
                Step::Stored => {
                    // What is stored is durable.
                    rows.is_durable(batch);
                    fresh.clear();
                    store = all.clone();
                    rows.stored(batch);
                }
                Step::Look => look(&mut rows, &store, now),
                Step::Hold => {
                    look(&mut rows, &store, now);
                    if let Some((row, key)) = rows.first(u64::MAX, now) {
                        rows.hold(row.clone(), &key.service, now);
                        tried.insert(row);
                        held.insert(key.service);
                    }
                }
                Step::Pause => {
                    rows.pause(now);
                    paused = true;
                }
                Step::Later => {
                    now += 2 * limits::EFFECT_HOLD_MAX;
                    held.clear();
                    tried.extend(std::mem::take(&mut parked).into_keys());
                    paused = false;
                }
            }
            // Whatever is due is looked at some time.
            let next = rows.next_ms(0, now);
            let waits = |row: &Due| elsewhere.contains(row) || fresh.contains(row);
            prop_assert!(next.is_some() || all.keys().all(waits));
            if paused {
                prop_assert_eq!(rows.first(u64::MAX, now), None);
            } else if rows.wants(u64::MAX, now).is_none() {
                // Of a service that is not held; after all else what was tried in vain.
                let is_free = |row: &Due| !waits(row) && !parked.contains_key(row);
                let free = || {
                    all.iter().filter(|(row, key)| is_free(row) && !held.contains(&key.service))
                };
                let first = rows.first(u64::MAX, now);
                prop_assert_eq!(first.is_some(), free().next().is_some());
                if let Some((first, _)) = &first {
                    prop_assert!(free().any(|(row, _)| row == first));
                    let before = free().find(|(row, _)| !tried.contains(*row));
                    prop_assert!(before.is_none_or(|(row, _)| first <= row), "{before:?} is first");
                }
            }
            prop_assert!(rows.in_memory() <= limits::DUE_HELD_MAX + limits::DUE_ROWS_MAX);
        }
    }
}

/// Some sessions whose calls can't be made would be tried in turns for ever, and all others of their service wait.
#[test]
fn what_was_tried_in_vain_comes_after_all_else() {
    let key = |n: u64| SessionKey::parse("s", &n.to_string()).unwrap();
    let row = |n: u64| Due { due_ms: 1, session_number: n, row: "r".into() };
    let (mut rows, mut now) = (DueRows::new(), Instant::now());
    for n in 0..2_000 {
        rows.comes(row(n), &key(n), 1);
    }
    let store: BTreeMap<_, _> = (0..2_000).map(|n| (row(n), key(n))).collect();
    let next = |rows: &mut DueRows, now: &mut Instant| {
        *now += 2 * limits::EFFECT_HOLD_MAX;
        look(rows, &store, *now);
        rows.first(1, *now).unwrap().0
    };
    for n in 0..300 {
        let first = next(&mut rows, &mut now);
        assert_eq!(first, row(n));
        rows.hold(first, &key(n).service, now);
    }
    for n in 300..2_000 {
        let first = next(&mut rows, &mut now);
        assert_eq!(first, row(n));
        rows.went(&key(n).service);
        rows.goes(first, 2);
    }
    assert_eq!(next(&mut rows, &mut now), row(0), "and then once more");
}
