//! What slotd leans on of fjall beyond its interface. A new version of it needs all of this looked
//! at: it may change in any.
#![allow(clippy::unwrap_used)]

use super::{
    StorageOptions,
    db::{Db, LOG_ID, META_ID, SLOTS_ID, last_keyspace},
    journal, tables,
};
use std::{fs, path::Path};

/// The versions whose files and inner workings `journal.rs`, `tables.rs`, `db.rs` and
/// `reclaim.rs` were written against.
const VERSIONS: [(&str, &str); 3] = [("fjall", "3.1.13"), ("lsm-tree", "3.1.10"), ("sfa", "1.0.0")];

/// A version that changes the journal's format would make each start refuse its data, or worse,
/// take damage for an unfinished write.
#[test]
fn the_store_is_of_the_version_that_was_looked_at() {
    let lock = include_str!("../../../../Cargo.lock");
    for (name, version) in VERSIONS {
        let entry = format!("name = \"{name}\"\nversion = \"{version}\"\n");
        assert!(
            lock.contains(&entry) && lock.matches(&format!("name = \"{name}\"\n")).count() == 1,
            "{name} is no longer {version}: compare its files with what `database/tests.rs` says, \
             and its commit, rotation and recovery with `database/db.rs`"
        );
    }
}

fn create(path: &Path) -> Db {
    Db::open(path, &StorageOptions::default(), true, true).unwrap()
}

/// A journal's bytes without the zeros that are preallocated.
fn journal_of(path: &Path) -> Vec<u8> {
    let mut bytes = fs::read(path).unwrap();
    bytes.truncate(bytes.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1));
    bytes
}

fn item(kind: u8, keyspace: u64, key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = vec![2, kind, 0];
    out.extend(keyspace.to_le_bytes());
    out.extend((key.len() as u16).to_le_bytes());
    out.extend((value.len() as u32).to_le_bytes());
    out.extend((value.len() as u32).to_le_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(value);
    out
}

/// What `journal.rs` reads: a journal's name, a batch's bytes, and that its sequence number is the
/// one that was next.
#[test]
fn a_batch_stands_in_the_journal_as_it_is_checked() {
    let home = tempfile::tempdir().unwrap();
    let db = create(home.path());
    assert_eq!(
        [&db.meta, &db.log, &db.slots, &db.heads].map(|keyspace| keyspace.id()),
        [META_ID, LOG_ID, SLOTS_ID, 4]
    );
    let floor = db.seqno_floor();
    let mut batch = db.batch(2, true);
    batch.insert(&db.heads, b"key", b"value");
    batch.remove(&db.state, b"gone");
    assert_eq!(batch.touched, 1 << 4 | 1 << 5);
    batch.batch.commit().unwrap();
    assert!(db.seqno_floor() > floor);
    let names = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().path());
    let journals: Vec<_> =
        names.filter(|path| path.extension().is_some_and(|ext| ext == "jnl")).collect();
    assert_eq!(journals, [home.path().join("0.jnl")]);
    let bytes = journal_of(&journals[0]);
    let items = [item(0, 4, b"key", b"value"), item(1, 5, b"gone", b"")].concat();
    let mut want = vec![1];
    want.extend(2_u32.to_le_bytes());
    want.extend(floor.to_le_bytes());
    want.extend_from_slice(&items);
    want.push(3);
    want.extend(xxhash_rust::xxh3::xxh3_64(&items).to_le_bytes());
    want.extend_from_slice(b"FJL\x03");
    assert!(bytes.ends_with(&want), "{bytes:?} does not end with {want:?}");
    drop(db);
    journal::check(home.path(), 0).unwrap();
    // What was cut off in the middle of a write is cut off before the store sees it.
    fs::write(&journals[0], &bytes[..bytes.len() - 1]).unwrap();
    journal::check(home.path(), 0).unwrap();
    assert_eq!(fs::metadata(&journals[0]).unwrap().len(), (bytes.len() - want.len()) as u64);
}

/// What `tables.rs` reads: the marker of the format, where a keyspace's manifest and tables are,
/// and their checksums. And that journals may be emptied once tables hold everything.
#[test]
fn tables_and_manifests_stand_where_they_are_checked() {
    let home = tempfile::tempdir().unwrap();
    let db = create(home.path());
    assert_eq!(fs::read(home.path().join("version")).unwrap(), b"FJL\x03");
    let mut batch = db.batch(1, true);
    batch.insert(&db.heads, b"key", b"value");
    batch.batch.commit().unwrap();
    assert!(db.flush().unwrap());
    drop(db);
    let found = tables::check_manifests(home.path(), last_keyspace(true)).unwrap();
    let folder = home.path().join("keyspaces/4/tables");
    let of_heads: Vec<_> = found.iter().filter(|table| table.path.starts_with(&folder)).collect();
    assert_eq!(of_heads.len(), 1);
    of_heads[0].check().unwrap();
    journal::empty(home.path()).unwrap();
    let db = Db::open(home.path(), &StorageOptions::default(), true, false).unwrap();
    assert_eq!(db.heads.get(b"key").unwrap().as_deref(), Some(&b"value"[..]));
    // What is written from now on comes after it.
    let mut batch = db.batch(1, false);
    batch.insert(&db.heads, b"key", b"later");
    batch.batch.commit().unwrap();
    assert_eq!(db.heads.get(b"key").unwrap().as_deref(), Some(&b"later"[..]));
}
