//! The state store against plain maps, and what becomes of deleted sessions.

use super::*;
use crate::{
    database::{db::Db, identity},
    names::SessionId,
};

/// Listings are what clients page through: an entry skipped or given twice is lost or doubled.
#[tokio::test]
async fn listings_page_in_order() {
    let home = scratch();
    let dir = open(home.path());
    let mut slot = Slot::start(&dir, 3).await;
    let names = ["a", "aa", "ab", "b", "b\u{ff}", "ba", "é"];
    for name in names {
        let writes = ["", "k", "k1", "k2", "l"].map(|key| write(key, name));
        let record = slot.message(&dir, name, b"x", writes.to_vec());
        slot.commit(&dir, vec![record]).await;
    }
    slot.flush(&dir).await;
    let state = dir.state();
    let service = session("x").service;
    let ids = |prefix: &str, after: Option<&str>, limit| -> Vec<String> {
        let after = after.map(|after| SessionId::parse(after).unwrap());
        let page = state.sessions(3, &service, prefix, after.as_ref(), limit).unwrap();
        page.into_iter().map(|(id, _)| id.as_str().to_owned()).collect()
    };
    let mut sorted = names.map(str::to_owned);
    sorted.sort();
    assert_eq!(ids("", None, 100), sorted);
    assert_eq!(ids("a", None, 100), ["a", "aa", "ab"]);
    assert_eq!(ids("a", Some("a"), 1), ["aa"]);
    assert_eq!(ids("b", Some("a"), 100), ["b", "ba", "b\u{ff}"]);
    assert_eq!(ids("a", Some("b"), 100), [""; 0]);
    assert_eq!(ids("", Some("é"), 100), [""; 0]);
    let other = crate::names::ServiceName::parse("cha").unwrap();
    assert!(state.sessions(3, &other, "", None, 100).unwrap().is_empty());
    assert!(state.sessions(2, &service, "", None, 100).unwrap().is_empty());
    let number = state.head(3, &session("ab")).unwrap().unwrap().session_number;
    let keys = |prefix: &[u8], after: Option<&[u8]>, limit| -> Vec<Bytes> {
        let page = state.scan(3, number, prefix, after, limit, usize::MAX).unwrap();
        page.into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(keys(b"", None, 100), [&b""[..], b"k", b"k1", b"k2", b"l"]);
    assert_eq!(keys(b"k", None, 100), [&b"k"[..], b"k1", b"k2"]);
    assert_eq!(keys(b"k", Some(b"k1"), 100), [&b"k2"[..]]);
    assert_eq!(keys(b"", Some(b"k"), 2), [&b"k1"[..], b"k2"]);
    assert_eq!(state.get(3, number, b"k1").unwrap().as_deref(), Some(&b"ab"[..]));
    assert_eq!(state.get(3, number, b"none").unwrap(), None);
}

/// History is stored in pieces; a page must not depend on where they end.
#[tokio::test]
async fn history_pages_across_its_pieces() {
    let home = scratch();
    let dir = open(home.path());
    let mut slot = Slot::start(&dir, 0).await;
    for round in 0..700u64 {
        let body = vec![b'x'; if round % 100 == 0 { 40_000 } else { 10 }];
        let record = slot.message(&dir, "a", &body, vec![]);
        slot.commit(&dir, vec![record]).await;
        if round % 300 == 299 {
            slot.flush(&dir).await;
        }
    }
    slot.flush(&dir).await;
    let state = dir.state();
    for (after, limit) in [(0, 1), (0, 1_000), (255, 3), (256, 400), (299, 2), (699, 5), (700, 5)] {
        let page = state.history(0, 0, after, limit, usize::MAX).unwrap();
        let seqs: Vec<_> = page.iter().map(|entry| entry.seq).collect();
        let end = 700.min(after + limit as u64);
        assert_eq!(seqs, (after + 1..=end).collect::<Vec<_>>());
    }
    assert_eq!(state.history(0, 0, 0, 100, 1).unwrap().len(), 1, "one at least");
    assert_eq!(state.history(0, 0, 0, 0, 1).unwrap().len(), 0);
    assert_eq!(state.history(0, 0, u64::MAX, 1, 1).unwrap().len(), 0);
    for (before, limit) in [(701, 1), (701, 1_000), (u64::MAX, 3), (301, 2), (257, 400), (2, 9)] {
        let page = state.history_back(0, 0, before, limit, usize::MAX).unwrap();
        let seqs: Vec<_> = page.iter().map(|entry| entry.seq).collect();
        let last = before.min(701);
        let first = last.saturating_sub(limit as u64).max(1);
        assert_eq!(seqs, (first..last).rev().collect::<Vec<_>>());
    }
    assert_eq!(state.history_back(0, 0, 701, 100, 1).unwrap().len(), 1, "one at least");
    assert_eq!(state.history_back(0, 0, 701, 0, 1).unwrap().len(), 0);
    assert_eq!(state.history_back(0, 0, 1, 10, 1).unwrap().len(), 0);
    assert_eq!(state.remembered(0, 0, "id-700").unwrap().unwrap().seq, 700);
    assert_eq!(state.remembered(0, 0, "id-701").unwrap(), None);
}

/// A deleted session's rows must neither show nor stay for ever, across restarts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deleted_goes_away() {
    let home = scratch();
    let dir = open(home.path());
    let mut slot = Slot::start(&dir, 0).await;
    for round in 0..50 {
        let writes = (0..40).map(|key| write(&format!("{round}-{key}"), "v")).collect();
        let record = slot.message(&dir, "old", b"old", writes);
        slot.commit(&dir, vec![record]).await;
    }
    slot.flush(&dir).await;
    let delete = slot.delete(&dir, "old").unwrap();
    let again = slot.message(&dir, "old", b"new", vec![write("k", "new")]);
    slot.commit(&dir, vec![delete, again]).await;
    slot.flush(&dir).await;
    let head = dir.state().head(0, &session("old")).unwrap().unwrap();
    assert_eq!((head.seq, head.session_number), (1, 1));
    assert_eq!(dir.state().slot(0).unwrap().sessions, 1);
    drop(dir);
    let dir = open(home.path());
    let rows = |dir: &DataDir| {
        let state = dir.state();
        state.scan(0, 0, b"", None, 10_000, usize::MAX).unwrap().len()
            + state.history(0, 0, 0, 10_000, usize::MAX).unwrap().len()
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let empty = {
            let db = dir.engine_for_test().open_db().unwrap();
            db.garbage.is_empty().unwrap()
        };
        if empty {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{} rows left", rows(&dir));
        tokio::task::yield_now().await;
    }
    assert_eq!(rows(&dir), 0);
    assert_eq!(dir.state().remembered(0, 0, "id-1").unwrap(), None);
    assert_eq!(dir.state().get(0, 1, b"k").unwrap().as_deref(), Some(&b"new"[..]));
}

/// Pins are listed until a newer deployment takes the session, or it is deleted.
#[tokio::test]
async fn pins_come_and_go() {
    let home = scratch();
    let dir = open(home.path());
    let mut slot = Slot::start(&dir, 0).await;
    let service = session("x").service;
    let pinned = |dir: &DataDir| -> Vec<String> {
        let page = dir.state().pinned(0, &service, None, 100).unwrap();
        page.into_iter().map(|(id, head)| format!("{id} {}", head.pinned.unwrap().reason)).collect()
    };
    for name in ["a", "b", "c"] {
        let mut record = slot.message(&dir, name, b"x", vec![]);
        if let Record::Message(message) = &mut record {
            message.head.pinned = pin(name);
        }
        slot.commit(&dir, vec![record]).await;
    }
    slot.flush(&dir).await;
    assert_eq!(pinned(&dir), ["a a", "b b", "c c"]);
    let migrated = slot.message(&dir, "b", b"x", vec![]);
    let Record::Message(mut message) = migrated else { unreachable!() };
    message.head.pinned = None;
    let delete = slot.delete(&dir, "c").unwrap();
    slot.commit(&dir, vec![Record::Message(message), delete]).await;
    slot.flush(&dir).await;
    assert_eq!(pinned(&dir), ["a a"]);
}

/// Deleted sessions would keep their disk space for as long as nothing else is written, and it is
/// often want of space for which they are deleted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_sessions_give_their_disk_space_back() {
    let home = scratch();
    let dir = open(home.path());
    let mut slot = Slot::start(&dir, 0).await;
    let names: Vec<_> = (0..600).map(|n| format!("room-{n}")).collect();
    // Bodies that nothing could compress, each with enough rows for the removal to count.
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = |bytes: usize| -> Vec<u8> {
        let next = |_| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random as u8
        };
        (0..bytes).map(next).collect()
    };
    for name in &names {
        let body = noise(64 * 1024);
        let writes = (0..10).map(|key| write(&format!("k{key}"), "v")).collect();
        let record = slot.message(&dir, name, &body, writes);
        slot.commit(&dir, vec![record]).await;
        slot.flush(&dir).await;
    }
    assert!(dir.engine_for_test().open_db().unwrap().flush().unwrap());
    let full = history_bytes(&dir);
    assert!(full > 600 * 64 * 1024, "{full}");
    for name in &names[10..] {
        let record = slot.delete(&dir, name).unwrap();
        slot.commit(&dir, vec![record]).await;
    }
    slot.flush(&dir).await;
    let mut left = full;
    for _ in 0..600 {
        left = history_bytes(&dir);
        if left < full / 10 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(left < full / 10, "{left} of {full} bytes are still there");
    // What was not deleted is.
    for (number, name) in names.iter().enumerate().take(10) {
        let head = slot.head(&dir, &session(name)).unwrap();
        let history = dir.state().history(0, head.session_number, 0, 10, usize::MAX).unwrap();
        assert_eq!(history.len(), 1, "{number}");
        assert_eq!(
            dir.state().get(0, head.session_number, b"k3").unwrap().as_deref(),
            Some(&b"v"[..])
        );
    }
    let db = dir.engine_for_test().open_db().unwrap();
    assert_eq!(db.bodies.as_ref().unwrap().keyspace.iter().count(), 10, "no body stays behind");
    drop(db);
    let want = dump(&dir, 8);
    dir.close();
    drop(dir);
    assert_eq!(dump(&open(home.path()), 8), want);
}

/// Bytes that the tables of the history take.
fn history_bytes(dir: &DataDir) -> u64 {
    let db = dir.engine_for_test().open_db().unwrap();
    db.history.disk_bytes() + db.bodies.as_ref().unwrap().keyspace.disk_bytes()
}

/// A body that each merge of tables writes again costs the disk many times what was sent: bodies of
/// all slots come one after the other, also when slots are flushed at the same time, so no two
/// tables of them overlap.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn large_bodies_are_not_merged() {
    let home = scratch();
    let dir = std::sync::Arc::new(open(home.path()));
    let mut writers = tokio::task::JoinSet::new();
    for slot in 0..4 {
        let dir = dir.clone();
        writers.spawn(async move {
            let mut slot = Slot::start(&dir, slot).await;
            let body = vec![b'x'; 128 * 1024];
            for round in 0..160 {
                let record = slot.message(&dir, &format!("room-{}", round % 7), &body, vec![]);
                slot.commit(&dir, vec![record]).await;
                slot.flush(&dir).await;
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    let db = dir.engine_for_test().open_db().unwrap();
    assert!(db.flush().unwrap());
    let mut ranges = db.bodies.as_ref().unwrap().keyspace.table_ranges();
    ranges.sort();
    assert!(ranges.len() > 3, "{} tables", ranges.len());
    assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0), "{ranges:?}");
}

/// A directory that was made before large bodies lay apart (format 1) is used as it is, and stays
/// readable by the slotd that made it.
#[tokio::test]
async fn a_directory_of_the_first_format_stays_one() {
    let home = scratch();
    let path = home.path();
    let identity = identity::Identity::of_format(1, 8).unwrap();
    identity.write(path).unwrap();
    identity::Mark::create(path).unwrap();
    drop(Db::open(&path.join(identity::DATABASE), &options(8), false, true).unwrap());
    let mut want = Vec::new();
    for _ in 0..2 {
        let dir = open(path);
        assert!(want.is_empty() || dump(&dir, 8) == want);
        let mut slot = Slot::start(&dir, 0).await;
        let record = slot.message(&dir, "a", &vec![b'x'; 200_000], vec![write("k", "v")]);
        slot.commit(&dir, vec![record]).await;
        slot.flush(&dir).await;
        assert!(dir.engine_for_test().open_db().unwrap().bodies.is_none());
        want = dump(&dir, 8);
        dir.close();
    }
    assert_eq!(identity::Identity::read(path).unwrap().unwrap().format, 1);
}
