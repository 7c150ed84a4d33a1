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
    let mut found = 0;
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        found += match path.is_dir() {
            true => files_with(&path, text),
            false => {
                let bytes = fs::read(&path).unwrap();
                usize::from(bytes.windows(text.len()).any(|it| it == text.as_bytes()))
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
        for text in ["text/plain", "id-1", "ada", "line 5 "] {
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
    for (had, missing) in [(Keyring::default(), &old), (old.clone(), &new), (new.clone(), &old)] {
        let why = refused(had);
        let missing = missing.ids().next().unwrap().to_string();
        assert!(why.contains(&missing) && why.contains("seal.key_file"), "{why}");
    }
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
