//! A directory whose log and rows are sealed.

use super::*;
use crate::{
    log::conformance,
    seal::{self, Keyring},
};
use std::fs;

fn keys(texts: &[&str]) -> Keyring {
    seal::parse(&texts.join("\n")).unwrap()
}

fn sealed_with(keys: &Keyring, slot_count: u16) -> StorageOptions {
    StorageOptions { keys: keys.clone(), ..options(slot_count) }
}

/// How many of a directory's files have a text in them.
fn files_with(path: &Path, text: &str) -> usize {
    files_with_bytes(path, text.as_bytes())
}

fn files_with_bytes(path: &Path, text: &[u8]) -> usize {
    let mut found = 0;
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        found += match path.is_dir() {
            true => files_with_bytes(&path, text),
            false => {
                let bytes = fs::read(&path).unwrap();
                let has = bytes.windows(text.len()).any(|it| it == text);
                if has {
                    println!("{} has {}", path.display(), text.escape_ascii());
                }
                usize::from(has)
            }
        };
    }
    found
}

/// A sealed log is one of the logs that slots run on; all must fence alike.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_log_conforms() {
    let home = scratch();
    let keys = keys(&[&seal::generate().unwrap()]);
    let dir = DataDir::open(home.path(), sealed_with(&keys, conformance::SLOTS)).unwrap();
    conformance::all(log_of(&dir), 0).await;
}

/// Whoever gets the disk, and not the key, would read what clients have sent.
#[tokio::test]
async fn what_is_sealed_shows_nothing_and_is_all_there() {
    let (plain, home) = (scratch(), scratch());
    let keys = keys(&[&seal::generate().unwrap()]);
    for close in [false, true] {
        let [plain, home] = [&plain, &home].map(|dir| dir.path().join(format!("{close}")));
        let expected = populate(&plain, 60, close).await;
        assert!(files_with(&plain, "of slot") > 0 && files_with(&plain, "text/plain") > 0);
        let options = sealed_with(&keys, 8);
        assert_eq!(populate_with(&home, options.clone(), 60, close).await, expected);
        assert_eq!(dump(&DataDir::open(&home, options).unwrap(), 8), expected, "also once more");
        for text in ["text/plain", "id-1", "ada-lovelace", "line 5 "] {
            // Keys of rows are not sealed: names of sessions, of state and of repeated messages.
            let of_keys = matches!(text, "id-1" | "line 5 ");
            assert!(of_keys || files_with(&home, text) == 0, "{text}");
        }
    }
}

/// A start with the wrong key would take what it can't open for damage, or write what nobody can open.
#[tokio::test]
async fn a_directory_opens_with_its_keys_alone() {
    let home = scratch();
    let [old, new] = [(); 2].map(|()| seal::generate().unwrap());
    let path = home.path();
    // What is there before the first key stays readable.
    let expected = populate(path, 20, true).await;
    let refused = |keys: Keyring| match DataDir::open(path, sealed_with(&keys, 8)) {
        Err(OpenError::Mismatch(why)) => why,
        other => panic!("{:?}", other.map(|_| ())),
    };
    let both = keys(&[&new, &old]);
    for keys in [keys(&[&old]), keys(&[&old, &new]), both.clone()] {
        let dir = DataDir::open(path, sealed_with(&keys, 8)).unwrap();
        let mut slot = Slot::start(&dir, 7).await;
        let record = slot.message(&dir, "room-0", b"sealed", vec![write("k", "v")]);
        slot.commit(&dir, vec![record]).await;
        slot.flush(&dir).await;
        assert_eq!(dump(&dir, 4), expected[..dump(&dir, 4).len()]);
    }
    let [old, new] = [keys(&[&old]), keys(&[&new])];
    // Whether the old one is needed still depends on how far the background has come.
    assert!(refused(Keyring::default()).contains("seal.key_file"));
    let why = refused(old.clone());
    let missing = new.ids().next().unwrap().to_string();
    assert!(why.contains(&missing) && why.contains("seal.key_file"), "{why}");
    let dir = DataDir::open(path, sealed_with(&both, 8)).unwrap();
    let head = dir.state().head(7, &session("room-0")).unwrap().unwrap();
    assert_eq!(head.seq, 3);
}

/// A slot's rows, put in place of each other by somebody who has the disk, would pass for what was written.
#[tokio::test]
async fn a_row_opens_in_its_place_alone() {
    let home = scratch();
    let keys = keys(&[&seal::generate().unwrap()]);
    let dir = DataDir::open(home.path(), sealed_with(&keys, 8)).unwrap();
    let mut slot = Slot::start(&dir, 0).await;
    let record = slot.message(&dir, "a", b"x", vec![write("one", "1"), write("two", "2")]);
    slot.commit(&dir, vec![record]).await;
    slot.flush(&dir).await;
    let number = dir.state().head(0, &session("a")).unwrap().unwrap().session_number;
    let engine = dir.engine_for_test();
    {
        let db = engine.open_db().unwrap();
        let key = |name: &[u8]| crate::storage::state::keys::of_session(0, number, name);
        db.state.put_raw(&key(b"two"), &db.state.raw(&key(b"one")));
    }
    assert_eq!(dir.state().get(0, number, b"one").unwrap().as_deref(), Some(&b"1"[..]));
    let told = dir.state().get(0, number, b"two").unwrap_err().to_string();
    assert!(told.contains("not what was sealed"), "{told}");
}

/// How many files have the id of a key in them.
fn files_of_key(path: &Path, keys: &Keyring) -> usize {
    let id = keys.ids().next().unwrap().to_string();
    let id = u32::from_str_radix(&id, 16).unwrap();
    files_with_bytes(path, &id.to_be_bytes())
}

/// Waits until all of the directory is kept as new data is.
fn until_resealed(dir: &DataDir) {
    while !dir.reseal_progress().done {
        assert_eq!(dir.reseal_progress().unopened, 0);
        std::thread::yield_now();
    }
}

/// A key that leaked, or that somebody had who is gone, would be needed for ever; or, taken away too early, all be lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_rows_are_sealed_with_the_key_in_use() {
    let home = scratch();
    let [first, second] = [(); 2].map(|()| seal::generate().unwrap());
    let [one, two] = [keys(&[&first]), keys(&[&second])];
    let mut number = 0;
    for close in [false, true] {
        number += 1;
        let path = home.path().join(number.to_string());
        // In clear text, sealed, sealed with another key, back in clear text.
        let expected = populate(&path, 60, close).await;
        let clear = keys(&[&format!("open:{second}")]);
        let both = keys(&[&second, &first]);
        for (with, alone, gone) in [
            (one.clone(), one.clone(), None),
            (both, two.clone(), Some(&one)),
            (clear, Keyring::default(), Some(&two)),
        ] {
            let dir = DataDir::open(&path, sealed_with(&with, 8)).unwrap();
            until_resealed(&dir);
            let progress = dir.reseal_progress();
            assert!(progress.rewritten > 100, "{progress:?}");
            assert_eq!(dump(&dir, 8), expected);
            dir.close();
            drop(dir);
            if alone.is_empty() {
                assert!(files_with(&path, "text/plain") > 0);
            } else {
                assert_eq!(files_with(&path, "text/plain"), 0, "something is in clear text");
                assert!(files_of_key(&path, &alone) > 0);
            }
            if let Some(gone) = gone {
                assert_eq!(files_of_key(&path, gone), 0, "something is sealed with the old key");
            }
            let dir = DataDir::open(&path, sealed_with(&alone, 8)).unwrap();
            assert!(dir.reseal_progress().done, "once is enough");
            assert_eq!(dump(&dir, 8), expected);
            dir.close();
        }
    }
}

/// After a crash in between, rows that need the old key would be left while nobody knows of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_in_between_leaves_a_directory_that_needs_both_keys() {
    let home = scratch();
    let [first, second] = [(); 2].map(|()| seal::generate().unwrap());
    let (path, both) = (home.path(), keys(&[&second, &first]));
    let expected = populate_with(path, sealed_with(&keys(&[&first]), 8), 400, false).await;
    let mut rounds = 0;
    loop {
        let dir = DataDir::open(path, sealed_with(&both, 8)).unwrap();
        // Ever further.
        while !dir.reseal_progress().done && dir.reseal_progress().looked_at < 100 << rounds {
            std::thread::yield_now();
        }
        let done = dir.reseal_progress().done;
        assert_eq!(dump(&dir, 8), expected);
        // As after a kill: nothing more is written, and the journal is not emptied.
        drop(dir);
        let alone = DataDir::open(path, sealed_with(&keys(&[&second]), 8));
        match alone {
            Ok(dir) => {
                assert_eq!(dump(&dir, 8), expected);
                // It may have come to its end since it was looked at.
                break;
            }
            Err(OpenError::Mismatch(why)) => {
                assert!(!done && why.contains("slotd seal status"), "{why}");
            }
            Err(e) => panic!("{e}"),
        }
        rounds += 1;
    }
    assert!(rounds > 0, "it was never in between");
}

/// A value that was just acknowledged would be replaced by the one before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_meanwhile_stays() {
    let home = scratch();
    let [first, second] = [(); 2].map(|()| seal::generate().unwrap());
    let path = home.path();
    let value = |round: u64| format!("{round:0100}");
    let writes = |round: u64| {
        (0..2_000).map(|key| write(&format!("key-{key}"), &value(round))).collect::<Vec<_>>()
    };
    let dir = DataDir::open(path, sealed_with(&keys(&[&first]), 8)).unwrap();
    let mut slot = Slot::start(&dir, 0).await;
    let record = slot.message(&dir, "room", b"x", writes(0));
    slot.commit(&dir, vec![record]).await;
    slot.flush(&dir).await;
    drop((slot, dir));
    let dir = DataDir::open(path, sealed_with(&keys(&[&second, &first]), 8)).unwrap();
    let mut slot = Slot::start(&dir, 0).await;
    let mut round = 0;
    while !dir.reseal_progress().done || round == 0 {
        round += 1;
        let record = slot.message(&dir, "room", b"x", writes(round));
        slot.commit(&dir, vec![record]).await;
        slot.flush(&dir).await;
    }
    drop((slot, dir));
    let dir = DataDir::open(path, sealed_with(&keys(&[&second]), 8)).unwrap();
    let number = dir.state().head(0, &session("room")).unwrap().unwrap().session_number;
    for key in 0..2_000 {
        let found = dir.state().get(0, number, format!("key-{key}").as_bytes()).unwrap().unwrap();
        assert_eq!(found, value(round).as_bytes(), "key-{key}");
    }
}
