//! Damage: a changed byte anywhere, and a write that a crash cut short. Whatever happens, a store
//! that opens has everything that was acknowledged; else it names the file and refuses.

use super::*;
use crate::database::tables;
use std::path::PathBuf;

fn files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, out);
        } else {
            out.push(path);
        }
    }
    out.sort();
}

/// Copies a store that is open: its worker may put a table and its manifest there in the middle of
/// it, and a manifest without its table is no store.
fn copy_open(from: &Path, to: &Path) {
    let names = || {
        let mut names = Vec::new();
        files(from, &mut names);
        names
    };
    for _ in 0..100 {
        let before = names();
        if try_copy(from, to).is_ok() && names() == before {
            return;
        }
        std::fs::remove_dir_all(to).unwrap();
    }
    panic!("{} never rests", from.display());
}

/// Whether a file is left over: an older manifest, or a table that no manifest names any more.
fn stale(file: &Path) -> bool {
    let name = file.file_name().unwrap().to_str().unwrap();
    let folder = file.parent().unwrap();
    if let Some(version) = name.strip_prefix('v').and_then(|v| v.parse::<u64>().ok()) {
        let current = std::fs::read(folder.join("current")).unwrap();
        return current[..8] != version.to_le_bytes();
    }
    let mut live = Vec::new();
    folder.ends_with("tables") && {
        tables::list_tables(folder.parent().unwrap(), &mut live).unwrap();
        live.iter().all(|table| table.path != file)
    }
}

/// Offsets to damage in a file of `len` bytes: both ends closely, the rest in steps.
fn offsets(len: usize, seed: usize) -> Vec<usize> {
    let mut out: Vec<_> = (0..len.min(3)).chain(len.saturating_sub(14)..len).collect();
    let steps = 24.min(len);
    out.extend((0..steps).map(|step| (len * step / steps + seed * 7919 % len.max(1)) % len));
    out.sort_unstable();
    out.dedup();
    out
}

/// Flips a byte of a copy and opens it. `None`: it opened and all was there.
fn flip(from: &Path, file: &Path, offset: usize, bits: u8, want: &[String]) -> Option<String> {
    let home = scratch();
    copy(from, home.path());
    let path = home.path().join(file.strip_prefix(from).unwrap());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[offset] ^= bits;
    std::fs::write(&path, &bytes).unwrap();
    let context = format!("{} byte {offset} of {} ^ {bits:#x}", path.display(), bytes.len());
    match DataDir::open(home.path(), options(8)) {
        Ok(dir) => {
            let got = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| dump(&dir, 8)));
            let got = got.unwrap_or_else(|_| panic!("unreadable: {context}"));
            assert!(got == want, "wrong or missing data: {context}");
            let catalogue = dir.meta_get("catalogue").unwrap();
            assert_eq!(catalogue.as_deref(), Some(&b"what is deployed"[..]), "{context}");
            None
        }
        Err(OpenError::Corrupt { file, detail }) => {
            let named = Path::new(&file);
            assert!(named.starts_with(home.path()), "{file} is not named: {context}");
            Some(detail)
        }
        Err(other) => panic!("{other}: {context}"),
    }
}

fn flip_everywhere(home: &Path, want: &[String]) {
    let mut all = Vec::new();
    files(home, &mut all);
    let (mut refused, mut harmless) = (0, Vec::new());
    for (seed, file) in all.iter().enumerate() {
        let len = std::fs::metadata(file).unwrap().len() as usize;
        for offset in offsets(len, seed) {
            let bits = [0x01, 0x80, 0xff][(offset + seed) % 3];
            match flip(home, file, offset, bits, want) {
                Some(_) => refused += 1,
                None => harmless.push((file.clone(), offset)),
            }
        }
    }
    assert!(refused > 200, "{refused} refused");
    // What may change without a difference: nothing is stored there that cannot be told.
    for (file, offset) in harmless {
        let name = file.file_name().unwrap().to_str().unwrap();
        let ok = matches!(name, "lock" | "slotd.lock") || stale(&file);
        assert!(ok, "byte {offset} of {} may change unseen", file.display());
    }
}

/// Invariant: never wrong or missing data. All of it in tables, after an orderly stop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_byte_after_an_orderly_stop_is_refused_or_harmless() {
    let home = scratch();
    let want = populate(home.path(), 40, true).await;
    let compact = scratch();
    copy(home.path(), compact.path());
    tokio::task::spawn_blocking(move || flip_everywhere(compact.path(), &want)).await.unwrap();
}

/// The same with most of it in the journal only, as a crash leaves it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_byte_after_a_crash_is_refused_or_harmless() {
    let home = scratch();
    let want = populate(home.path(), 40, false).await;
    let compact = scratch();
    copy(home.path(), compact.path());
    tokio::task::spawn_blocking(move || flip_everywhere(compact.path(), &want)).await.unwrap();
}

/// The journal is where acknowledged data lives longest without a second copy: every byte of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_byte_of_a_journal_is_watched() {
    let home = scratch();
    let want = populate(home.path(), 3, false).await;
    let compact = scratch();
    copy(home.path(), compact.path());
    tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        files(compact.path(), &mut all);
        let journal = all.iter().rfind(|f| f.extension().is_some_and(|e| e == "jnl")).unwrap();
        let len = std::fs::metadata(journal).unwrap().len() as usize;
        assert!(len > 500);
        // Dense at the end, where a crash is the other explanation.
        for offset in (0..len).filter(|at| at % 23 == 0 || at + 120 > len) {
            flip(compact.path(), journal, offset, 0x10, &want);
        }
    })
    .await
    .unwrap();
}

/// A file that is gone must not read as an empty one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_file_is_refused() {
    let home = scratch();
    populate(home.path(), 40, true).await;
    let mut all = Vec::new();
    files(home.path(), &mut all);
    for file in all {
        let other = scratch();
        copy(home.path(), other.path());
        let name = file.strip_prefix(home.path()).unwrap();
        std::fs::remove_file(other.path().join(name)).unwrap();
        let opened = DataDir::open(other.path(), options(8));
        let lock = name.ends_with("slotd.lock");
        match opened {
            Ok(_) => assert!(lock || stale(&file), "opened without {}", name.display()),
            Err(OpenError::Corrupt { .. }) => {}
            // fjall's own lock file.
            Err(other) => assert!(name.ends_with("lock"), "{}: {other}", name.display()),
        }
    }
}

/// A write cut at any byte was never acknowledged: the store opens without it, whole otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_cut_at_every_byte_of_its_last_batch_opens() {
    let home = scratch();
    populate(home.path(), 6, false).await;
    let before = scratch();
    copy(home.path(), before.path());
    let journal = |dir: &Path| {
        let mut all = Vec::new();
        files(dir, &mut all);
        all.into_iter().rfind(|f| f.extension().is_some_and(|e| e == "jnl")).unwrap()
    };
    let start = std::fs::metadata(journal(before.path())).unwrap().len() as usize;
    let (without, with) = {
        let dir = open(home.path());
        let mut slot = Slot::start(&dir, 0).await;
        let without = dump(&dir, 8);
        let record = slot.message(&dir, "room-1", b"the last", vec![write("last", "one")]);
        slot.commit(&dir, vec![record]).await;
        drop(dir);
        let dir = open(home.path());
        (without, dump(&dir, 8))
    };
    assert!(without != with);
    // Only the claim and the message were written, before the second open replayed them.
    let after = scratch();
    {
        let dir = open(before.path());
        let mut slot = Slot::start(&dir, 0).await;
        let record = slot.message(&dir, "room-1", b"the last", vec![write("last", "one")]);
        slot.commit(&dir, vec![record]).await;
        let other = after.path().to_owned();
        copy_open(before.path(), &other);
    }
    let whole = std::fs::read(journal(after.path())).unwrap();
    assert!(whole.len() > start + 100);
    tokio::task::spawn_blocking(move || {
        let mut seen = (0, 0);
        for cut in start..=whole.len() {
            for zeros in [0, 5000] {
                let other = scratch();
                copy(after.path(), other.path());
                let mut bytes = whole[..cut].to_vec();
                bytes.resize(cut + zeros, 0);
                std::fs::write(journal(other.path()), bytes).unwrap();
                let got = dump(&open(other.path()), 8);
                match (got == without, got == with) {
                    (true, _) => seen.0 += 1,
                    (_, true) => seen.1 += 1,
                    _ => panic!("half of it, cut at {cut} of {}", whole.len()),
                }
                assert!(cut < whole.len() || got == with, "acknowledged and lost");
            }
        }
        assert!(seen.0 > 100 && seen.1 >= 2, "{seen:?}");
    })
    .await
    .unwrap();
}

/// A power failure loses pages that were not synced, in any order: the last write may have a hole
/// of zeros with its end intact. A hole further back was synced once, and is damage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_page_is_accepted_in_the_last_write_only() {
    let home = scratch();
    populate(home.path(), 3, false).await;
    let mut lens = Vec::new();
    {
        let dir = open(home.path());
        let mut slot = Slot::start(&dir, 0).await;
        let journal = |dir: &Path| {
            let small = scratch();
            copy(dir, small.path());
            let mut all = Vec::new();
            files(small.path(), &mut all);
            let path = all.into_iter().rfind(|f| f.extension().is_some_and(|e| e == "jnl"));
            std::fs::read(path.unwrap()).unwrap().len()
        };
        for _ in 0..2 {
            lens.push(journal(home.path()));
            let record = slot.message(&dir, "room-1", &[b'x'; 20_000], vec![]);
            slot.commit(&dir, vec![record]).await;
        }
    }
    let history = |hole: Option<usize>| {
        let other = scratch();
        copy(home.path(), other.path());
        let mut all = Vec::new();
        files(other.path(), &mut all);
        let path = all.into_iter().rfind(|f| f.extension().is_some_and(|e| e == "jnl")).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        if let Some(after) = hole {
            let page = after.next_multiple_of(4096);
            bytes[page..page + 4096].fill(0);
            std::fs::write(&path, bytes).unwrap();
        }
        let dir = DataDir::open(other.path(), options(8))?;
        Ok::<_, OpenError>(dir.state().head(0, &session("room-1")).unwrap().unwrap().seq)
    };
    let whole = history(None).unwrap();
    assert_eq!(history(Some(lens[1])).unwrap(), whole - 1);
    assert!(matches!(history(Some(lens[0])), Err(OpenError::Corrupt { .. })));
}

/// Journals that an orderly stop emptied must not let numbers start anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orderly_stops_leave_nothing_to_replay() {
    let home = scratch();
    let mut want = populate(home.path(), 20, true).await;
    for round in 0..3 {
        let dir = open(home.path());
        assert_eq!(dump(&dir, 8), want);
        let mut slot = Slot::start(&dir, 0).await;
        let value = format!("{round}");
        let record = slot.message(&dir, "room-1", b"more", vec![write("count", &value)]);
        slot.commit(&dir, vec![record]).await;
        slot.flush(&dir).await;
        want = dump(&dir, 8);
        let number = dir.state().head(0, &session("room-1")).unwrap().unwrap().session_number;
        let count = dir.state().get(0, number, b"count").unwrap();
        assert_eq!(count.as_deref(), Some(value.as_bytes()));
        dir.close();
        let mut all = Vec::new();
        files(home.path(), &mut all);
        let journals = all.iter().filter(|f| f.extension().is_some_and(|e| e == "jnl"));
        let bytes: u64 = journals.map(|path| std::fs::metadata(path).unwrap().len()).sum();
        assert_eq!(bytes, 0);
    }
}
