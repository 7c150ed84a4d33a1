//! The sums of what services have stored, against the rows that they are sums of.

use super::*;
use crate::{
    client::Client,
    database::Health,
    effects::{Forked, Inherited, Origin},
    error::StateError,
    limits,
    names::ServiceName,
    state::{
        rows::Rows,
        stored::{Maker, StoredByService, StoredNow, StoredOf, maker},
    },
    storage::state::keys,
};

const SLOTS: SlotId = 4;

fn stored(dir: &DataDir, slot: SlotId) -> Option<StoredByService> {
    dir.state().stored(slot).unwrap()
}

/// Counts a slot to the end.
fn count(dir: &DataDir, slot: SlotId) {
    let until = crate::clock::now() + std::time::Duration::from_secs(60);
    assert!(dir.state().count_stored(slot, until).unwrap());
}

/// Counts a slot, by one step.
fn step(dir: &DataDir, slot: SlotId) -> bool {
    dir.state().count_stored(slot, crate::clock::now()).unwrap()
}

/// Row by row.
fn counted(dir: &DataDir, slot: SlotId) -> (u64, u64) {
    let all = counted_by(dir, slot).all;
    (all.sessions, all.bytes)
}

/// Row by row, and by whom each session was made.
fn counted_by(dir: &DataDir, slot: SlotId) -> StoredOf {
    let mut of = StoredOf::default();
    let service = session("x").service;
    let db = dir.engine_for_test().open_db().unwrap();
    for (_, head) in dir.state().sessions(slot, &service, "", None, usize::MAX).unwrap() {
        let mut bytes = head.state_bytes;
        for keyspace in [&db.history, &db.remembered] {
            for row in keyspace.prefix(&keys::number(slot, head.session_number)) {
                let (key, value) = row.unwrap();
                bytes += (key.len() + value.len()) as u64;
                if value.len() == 13 && value[0] == 2 {
                    bytes += u64::from(u32::from_le_bytes(value[9..].try_into().unwrap()));
                }
            }
        }
        let first = dir.state().history(slot, head.session_number, 0, 1, 0).unwrap().remove(0);
        of.add_session(maker(&first), bytes);
    }
    of
}

/// A message that was sent by a subject.
fn by(who: &str, mut record: Record) -> Record {
    let client = Client { kind: "token".into(), subject: Some(who.into()), claims: Vec::new() };
    let Record::Message(message) = &mut record else { panic!() };
    Arc::make_mut(&mut message.entry).origin = Some(Box::new(Origin::Client(client.into())));
    record
}

/// The first message of a fork, at that place, which another session had as this record has it.
fn forked_by(who: Option<&str>, at: u64, mut record: Record) -> Record {
    let client =
        |who: &str| Client { kind: "token".into(), subject: Some(who.into()), claims: Vec::new() };
    let Record::Message(message) = &mut record else { panic!() };
    let (from, root) = (message.key.session.clone(), message.key.session.clone());
    let forked = Arc::new(Forked { from, of: 1, at, first: at, root, depth: 1 });
    let entry = Arc::make_mut(&mut message.entry);
    let (origin, by) = (entry.origin.take(), who.map(|who| client(who).into()));
    let inherited = Inherited { origin, forked, state: None, by };
    entry.origin = Some(Box::new(Origin::Inherited(inherited.into())));
    entry.seq = at;
    message.head.seq = at;
    record
}

fn subjects(dir: &DataDir, slot: SlotId) -> Vec<(Maker, StoredNow)> {
    let of = stored(dir, slot).unwrap().into_values().flat_map(|of| of.subjects);
    of.collect()
}

pub(super) fn check(dir: &DataDir, slot: SlotId) {
    let sums = stored(dir, slot).expect("they are known");
    let sums: Vec<_> = sums.into_values().collect();
    let counted = counted_by(dir, slot);
    match counted.all.sessions {
        0 => assert!(sums.is_empty(), "{sums:?}"),
        _ => assert_eq!(sums, [counted]),
    }
}

/// Whoever has made a session would not be limited by it, or be for ever after it is gone; and another who sends to it would pay.
#[tokio::test]
async fn a_session_counts_for_the_subject_that_made_it() {
    let home = scratch();
    let dir = open(home.path());
    let mut slot = Slot::start(&dir, 0).await;
    let mut records = Vec::new();
    for (name, who) in [("a", "ann"), ("b", "ann"), ("c", "bob")] {
        records.push(by(who, slot.message(&dir, name, b"x", vec![])));
    }
    records.push(slot.message(&dir, "nobodys", b"x", vec![]));
    // Others send to them.
    records.push(by("bob", slot.message(&dir, "a", b"more", vec![write("k", "v")])));
    records.push(by("bob", slot.message(&dir, "nobodys", b"more", vec![])));
    slot.commit(&dir, records).await;
    slot.flush(&dir).await;
    check(&dir, 0);
    let sessions = |dir: &DataDir| -> Vec<_> {
        subjects(dir, 0).into_iter().map(|(who, sum)| (who, sum.sessions)).collect()
    };
    assert_eq!(sessions(&dir), [("token:ann".into(), 2), ("token:bob".into(), 1)]);
    let maker = |dir: &DataDir, name| dir.state().maker(0, &session(name)).unwrap();
    assert_eq!(maker(&dir, "a").as_deref(), Some("token:ann"));
    assert_eq!(maker(&dir, "nobodys"), None);
    assert_eq!(maker(&dir, "none"), None);
    // In a later write, and made again by another in the same.
    let more = by("bob", slot.message(&dir, "b", b"more", vec![]));
    let gone = slot.delete(&dir, "a").unwrap();
    let again = by("bob", slot.message(&dir, "a", b"y", vec![]));
    slot.commit(&dir, vec![more, gone, again]).await;
    slot.flush(&dir).await;
    check(&dir, 0);
    assert_eq!(sessions(&dir), [("token:ann".into(), 1), ("token:bob".into(), 2)]);
    // The directory of the version before has it in the histories alone.
    let sums = subjects(&dir, 0);
    as_before(&dir);
    assert_eq!((stored(&dir, 0), maker(&dir, "b")), (None, None));
    count(&dir, 0);
    check(&dir, 0);
    assert_eq!(subjects(&dir, 0), sums);
    assert_eq!(maker(&dir, "b").as_deref(), Some("token:ann"));
    for name in ["b", "a", "c"] {
        let gone = slot.delete(&dir, name).unwrap();
        slot.commit(&dir, vec![gone]).await;
        slot.flush(&dir).await;
        check(&dir, 0);
    }
    assert_eq!(subjects(&dir, 0), []);
}

/// Whoever forks would make as many sessions as he likes; and whoever wrote to the other one would pay for them.
#[tokio::test]
async fn a_fork_counts_for_the_subject_that_forked_it() {
    let home = scratch();
    let dir = open(home.path());
    let mut slot = Slot::start(&dir, 0).await;
    let mut records = Vec::new();
    for (name, who, at) in [("a", Some("bob"), 5), ("b", Some("bob"), 1), ("c", None, 1)] {
        let of_ann = by("ann", slot.message(&dir, name, b"x", vec![]));
        records.push(forked_by(who, at, of_ann));
    }
    slot.commit(&dir, records).await;
    slot.flush(&dir).await;
    check(&dir, 0);
    let sums = subjects(&dir, 0);
    let sessions: Vec<_> = sums.iter().map(|(who, sum)| (&**who, sum.sessions)).collect();
    assert_eq!(sessions, [("token:bob", 2)]);
    as_before(&dir);
    count(&dir, 0);
    check(&dir, 0);
    assert_eq!(subjects(&dir, 0), sums);
    let maker = |name| dir.state().maker(0, &session(name)).unwrap();
    assert_eq!((maker("a").as_deref(), maker("c")), (Some("token:bob"), None));
}

/// As the version before last has the sums of a slot.
type RowBefore = (u64, Vec<(ServiceName, StoredNow)>);

/// The version before last moved sums on that say nothing of subjects: they would be taken for sums of nobody's sessions.
#[tokio::test]
async fn sums_without_subjects_are_made_anew() {
    let home = scratch();
    let dir = open(home.path());
    let mut slot = Slot::start(&dir, 0).await;
    let record = by("ann", slot.message(&dir, "a", b"x", vec![]));
    slot.commit(&dir, vec![record]).await;
    slot.flush(&dir).await;
    let sums = subjects(&dir, 0);
    {
        let db = dir.engine_for_test().open_db().unwrap();
        // As that version wrote them: behind the head a number, and the row of sums without what is behind it.
        let row = keys::session(0, &session("a"));
        let value = db.heads.get(&row).unwrap().unwrap();
        let (_, behind) = postcard::take_from_bytes::<Head>(&value[1..]).unwrap();
        let (_, after) = postcard::take_from_bytes::<u64>(&behind[1..]).unwrap();
        assert!(!after.is_empty());
        db.heads.put_raw(&row, &value[..value.len() - after.len()]);
        let key = [keys::slot(0).as_slice(), b"s"].concat();
        let value = db.slots.get(&key).unwrap().unwrap();
        let body = db.body(&value).unwrap().to_vec();
        let (_, after) = postcard::take_from_bytes::<RowBefore>(&body[1..]).unwrap();
        assert!(!after.is_empty());
        db.slots.put_raw(&key, &db.value(&body[..body.len() - after.len()]));
    }
    assert_eq!(stored(&dir, 0), None);
    count(&dir, 0);
    check(&dir, 0);
    assert_eq!(subjects(&dir, 0), sums);
}

/// Clients name subjects: the row of sums would grow with each, and each flush write all of it.
#[tokio::test]
async fn of_too_many_subjects_the_sessions_count_for_nobody() {
    let home = scratch();
    let dir = open(home.path());
    let mut slot = Slot::start(&dir, 0).await;
    let most = limits::STORED_SUBJECTS_MAX;
    let mut records = Vec::new();
    for n in 0..=most {
        let record = slot.message(&dir, &format!("s{n:05}"), b"x", vec![]);
        records.push(by(&format!("u{n:05}"), record));
    }
    slot.commit(&dir, records).await;
    slot.flush(&dir).await;
    assert_eq!(subjects(&dir, 0).len(), most);
    let all = stored(&dir, 0).unwrap().into_values().next().unwrap();
    assert_eq!((all.all.sessions, all.all.bytes), counted(&dir, 0));
    // Whoever has no place gives none back, and takes nothing of another's.
    let without: Vec<_> = (0..=most)
        .filter(|n| dir.state().maker(0, &session(&format!("s{n:05}"))).unwrap().is_none())
        .collect();
    assert_eq!(without.len(), 1);
    let records = [without[0], (without[0] + 1) % most]
        .map(|n| slot.delete(&dir, &format!("s{n:05}")).unwrap());
    slot.commit(&dir, records.into()).await;
    slot.flush(&dir).await;
    assert_eq!(subjects(&dir, 0).len(), most - 1);
    let all = stored(&dir, 0).unwrap().into_values().next().unwrap();
    assert_eq!((all.all.sessions, all.all.bytes), counted(&dir, 0));
}

/// What the version before wrote: heads with nothing behind them, and no sums.
fn as_before(dir: &DataDir) {
    let db = dir.engine_for_test().open_db().unwrap();
    let heads: Vec<_> = db.heads.iter().map(|row| row.unwrap()).collect();
    for (key, value) in heads {
        let (head, behind) = postcard::take_from_bytes::<Head>(&value[1..]).unwrap();
        assert!(!behind.is_empty());
        let mut before = vec![value[0]];
        before.extend(postcard::to_allocvec(&head).unwrap());
        assert_eq!(before.len() + behind.len(), value.len());
        db.heads.put_raw(&key, &before);
    }
    let mut batch = db.batch(1, false);
    for slot in 0..SLOTS {
        batch.remove(&db.slots, &[keys::slot(slot).as_slice(), b"s"].concat());
    }
    dir.engine_for_test().commit(&db, batch).unwrap();
}

/// Limits of what is stored, and bills, would be wrong.
#[tokio::test]
async fn sums_are_kept_by_each_write_and_by_recovery() {
    let home = scratch();
    populate(home.path(), 60, false).await;
    let dir = open(home.path());
    (0..SLOTS).for_each(|slot| check(&dir, slot));
    let service = session("x").service;
    assert!(stored(&dir, 0).unwrap()[&service].all.bytes > 20_000, "what lies apart counts");
    assert_eq!(stored(&dir, SLOTS), Some(StoredByService::new()), "nothing was ever there");
    let mut slot = Slot::start(&dir, 0).await;
    let mut record = slot.message(&dir, "state", b"x", vec![write("key", "value")]);
    let Record::Message(message) = &mut record else { panic!() };
    message.head.state_bytes = 8_000;
    slot.commit(&dir, vec![record]).await;
    let before = stored(&dir, 0).unwrap()[&service].all;
    slot.flush(&dir).await;
    check(&dir, 0);
    let after = stored(&dir, 0).unwrap()[&service].all;
    assert_eq!(after.sessions, before.sessions + 1);
    assert!((before.bytes + 8_000..before.bytes + 8_500).contains(&after.bytes), "{after:?}");
    // Deleted and made again between two flushes.
    let delete = slot.delete(&dir, "state").unwrap();
    let again = slot.message(&dir, "state", b"y", vec![]);
    slot.commit(&dir, vec![delete, again]).await;
    slot.flush(&dir).await;
    check(&dir, 0);
    let delete = slot.delete(&dir, "state").unwrap();
    slot.commit(&dir, vec![delete]).await;
    slot.flush(&dir).await;
    check(&dir, 0);
    assert_eq!(stored(&dir, 0).unwrap()[&service].all, before);
}

/// After an upgrade, old sessions would not count, and would be subtracted when they are deleted.
#[tokio::test]
async fn a_directory_of_the_version_before_is_counted() {
    let home = scratch();
    populate(home.path(), 60, true).await;
    let dir = open(home.path());
    let sums: Vec<_> = (0..SLOTS).map(|slot| stored(&dir, slot).unwrap()).collect();
    as_before(&dir);
    let mut slot = Slot::start(&dir, 0).await;
    for n in 0..SLOTS {
        assert_eq!(stored(&dir, n), None);
        count(&dir, n);
        check(&dir, n);
        assert_eq!(stored(&dir, n).as_ref(), Some(&sums[usize::from(n)]));
    }
    // Sessions that have nothing behind their heads: one goes on, one goes.
    let listed = dir.state().sessions(0, &session("x").service, "", None, 2).unwrap();
    let [goes_on, goes] = [0, 1].map(|n| listed[n].0.as_str().to_owned());
    let on = slot.message(&dir, &goes_on, b"more", vec![]);
    let gone = slot.delete(&dir, &goes).unwrap();
    slot.commit(&dir, vec![on, gone]).await;
    slot.flush(&dir).await;
    check(&dir, 0);
    assert_eq!(counted(&dir, 0).0, sums[0].values().next().unwrap().all.sessions - 1);
    // The version before moves the slot on, and knows no sums.
    let key = keys::slot(0);
    let meta = SlotMeta { applied: slot.meta.applied + 1, ..slot.meta.clone() };
    let db = dir.engine_for_test().open_db().unwrap();
    db.slots.put_raw(&key, &db.value(&postcard::to_allocvec(&meta).unwrap()));
    drop(db);
    assert_eq!(stored(&dir, 0), None);
    count(&dir, 0);
    check(&dir, 0);
}

/// A node that has restored a slot would know of none of its sessions.
#[tokio::test]
async fn a_slot_that_was_loaded_whole_is_counted() {
    let (home, other) = (scratch(), scratch());
    populate(home.path(), 60, true).await;
    let (dir, copy) = (open(home.path()), open(other.path()));
    let view = dir.state().view(1).unwrap();
    for rows in [Rows::Heads, Rows::State, Rows::Remembered, Rows::History] {
        let page = view.page(rows, None, usize::MAX).unwrap();
        copy.state().load(1, &page.rows).unwrap();
    }
    assert_eq!(stored(&copy, 1), None, "it is not whole");
    copy.state().apply(1, &Changes::default(), view.meta()).unwrap();
    assert_eq!(stored(&copy, 1), None);
    count(&copy, 1);
    check(&copy, 1);
    assert_eq!(counted(&copy, 1).0, counted(&dir, 1).0);
}

/// A slot that is written to all the time would never be counted, or wrongly.
#[tokio::test]
async fn a_count_goes_on_beside_writes() {
    let home = scratch();
    populate(home.path(), 60, true).await;
    let dir = open(home.path());
    as_before(&dir);
    let mut slot = Slot::start(&dir, 0).await;
    let names: Vec<_> = dir.state().sessions(0, &session("x").service, "", None, 9).unwrap();
    let names: Vec<_> = names.iter().map(|(id, _)| id.as_str().to_owned()).collect();
    assert!(names.len() > 3);
    // Every step looks at a row, and something is written behind each.
    let mut steps = 0;
    while !step(&dir, 0) {
        steps += 1;
        assert!(steps < 10_000);
        assert_eq!(stored(&dir, 0), None, "it is not whole");
        if steps > 40 {
            continue;
        }
        let name = &names[steps % names.len()];
        let mut records = vec![slot.message(&dir, name, b"more", vec![write("k", "v")])];
        if steps % 7 == 3 {
            records.extend(slot.delete(&dir, &names[steps % 2]));
        }
        if steps % 5 == 0 {
            let record = slot.message(&dir, &format!("new-{steps}"), b"new", vec![]);
            records.push(by(["ann", "bob"][steps % 2], record));
        }
        slot.commit(&dir, records).await;
        slot.flush(&dir).await;
    }
    assert!(steps > 40, "{steps}");
    check(&dir, 0);
    // What came to each is known, too.
    for name in &names {
        let Some(delete) = slot.delete(&dir, name) else { continue };
        slot.commit(&dir, vec![delete]).await;
        slot.flush(&dir).await;
        check(&dir, 0);
    }
}

/// A node would end at each start, for the sake of a number.
#[tokio::test]
async fn damage_is_left_out_of_a_count_and_does_not_end_the_node() {
    let home = scratch();
    populate(home.path(), 60, true).await;
    let dir = open(home.path());
    as_before(&dir);
    let service = session("x").service;
    let heads = dir.state().sessions(0, &service, "", None, 9).unwrap();
    let (bad, head) = heads[1].clone();
    let key = SessionKey { service: service.clone(), session: bad.clone() };
    let row = keys::session(0, &key);
    dir.engine_for_test().open_db().unwrap().heads.put_raw(&row, &[1, 0xff]);
    count(&dir, 0);
    assert_eq!(stored(&dir, 0).unwrap()[&service].all.sessions, heads.len() as u64 - 1);
    // It is written over by one who has it in memory.
    let mut slot = Slot::start(&dir, 0).await;
    slot.heads.insert(key.clone(), head);
    let record = slot.message(&dir, bad.as_str(), b"more", vec![]);
    slot.commit(&dir, vec![record]).await;
    slot.flush(&dir).await;
    assert_eq!(stored(&dir, 0), None);
    count(&dir, 0);
    check(&dir, 0);
    assert_eq!(*dir.health().borrow(), Health::Ready);
}

/// Who looks for damage must be able to say where it is.
#[tokio::test]
async fn a_look_says_what_does_not_decode_and_does_not_end_the_node() {
    let home = scratch();
    populate(home.path(), 60, true).await;
    let dir = open(home.path());
    let service = session("x").service;
    let heads = dir.state().sessions(0, &service, "", None, 9).unwrap();
    let [history, values, bad] = [0, 1, 2].map(|n| heads[n].1.session_number);
    {
        let db = dir.engine_for_test().open_db().unwrap();
        let first = |rows: crate::database::rows::Rows| rows.map(Result::unwrap).next().unwrap().0;
        let key = first(db.history.prefix(&keys::number(0, history)));
        db.history.put_raw(&key, &[1, 0xff, 0xff]);
        let key = first(db.state.prefix(&keys::number(0, values)));
        db.state.put_raw(&key, &[77]);
        let key = SessionKey { service: service.clone(), session: heads[2].0.clone() };
        db.heads.put_raw(&keys::session(0, &key), &[]);
    }
    let view = dir.state().look(0).unwrap();
    let key = SessionKey { service: service.clone(), session: heads[2].0.clone() };
    let damage = [
        view.history(history, 0, 9, 99).map(drop),
        view.values(values, None, 9, 99).map(drop),
        view.head(&key).map(drop),
        view.sessions(&service, None, 9).map(drop),
        view.page(Rows::History, None, usize::MAX).map(drop),
    ];
    for read in damage {
        assert!(matches!(read, Err(StateError::Corrupt(_))), "{read:?}");
    }
    // Where it is: those beside it can be looked at.
    let found = view.heads(&service, None, 9).unwrap();
    let sound: Vec<_> = found.iter().map(|(_, head)| head.is_ok()).collect();
    assert_eq!((sound.len(), sound[..4].to_vec()), (heads.len(), vec![true, true, false, true]));
    assert!(view.history(bad, 0, 9, usize::MAX).is_ok());
    assert_eq!(*dir.health().borrow(), Health::Ready);
    // Whoever serves it does not go on.
    let view = dir.state().view(0).unwrap();
    assert!(view.history(history, 0, 9, 99).is_err());
    assert!(matches!(*dir.health().borrow(), Health::Corrupt(_)));
}
