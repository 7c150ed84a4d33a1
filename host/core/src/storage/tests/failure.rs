//! A disk that fills up: refused, nothing lost, and on again without a new process.

use super::*;
use crate::{database::Health, testing::skipped::not_tested};
use std::process::Command;

/// A small file system of its own, unmounted when dropped.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new(mib: u32) -> Option<Self> {
        let home = scratch();
        let size = format!("size={mib}m");
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "slotd-test"])
            .arg(home.path())
            .output();
        match done {
            Ok(output) if output.status.success() => Some(Self(home)),
            other => {
                let why = other.map_or_else(|e| e.to_string(), |output| output.status.to_string());
                not_tested(&format!("a full disk: mounting a tmpfs is not allowed: {why}"));
                None
            }
        }
    }
    fn path(&self) -> &Path {
        self.0.path()
    }
    fn fill(&self, leave: u64) {
        let stat = rustix::fs::statvfs(self.path()).unwrap();
        let bytes = (stat.f_bavail * stat.f_frsize).saturating_sub(leave);
        std::fs::write(self.path().join("filler"), vec![1; bytes as usize]).unwrap();
    }
    fn empty(&self) {
        std::fs::remove_file(self.path().join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

async fn until(dir: &DataDir, wanted: impl Fn(&Health) -> bool) {
    let mut health = dir.health();
    let waited = health.wait_for(|health| wanted(health));
    tokio::time::timeout(std::time::Duration::from_secs(20), waited).await.unwrap().unwrap();
}

/// With the reserve: refused before anything is written, and on again by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_and_recovers_by_itself() {
    let Some(disk) = Disk::new(192) else { return };
    let data = disk.path().join("data");
    let dir = open(&data);
    let mut slot = Slot::start(&dir, 0).await;
    let record = slot.message(&dir, "a", b"before", vec![write("k", "1")]);
    slot.commit(&dir, vec![record]).await;
    disk.fill(8 * 1024 * 1024);
    until(&dir, |health| matches!(health, Health::Full(_))).await;
    let heads = slot.heads.clone();
    let record = slot.message(&dir, "a", b"refused", vec![write("k", "2")]);
    let refused = slot.try_commit(&dir, vec![record]).await;
    assert!(matches!(refused, Err(LogError::Unavailable(_))), "{refused:?}");
    let applied = dir.state().apply(0, &slot.changes, &slot.meta);
    assert!(applied.is_err_and(|e| e.to_string().contains("free")));
    disk.empty();
    until(&dir, |health| *health == Health::Ready).await;
    // Nothing was written, so the same expectation still holds.
    slot.heads = heads;
    let record = slot.message(&dir, "a", b"after", vec![write("k", "3")]);
    slot.commit(&dir, vec![record]).await;
    slot.flush(&dir).await;
    let history = dir.state().history(0, 0, 0, 10, usize::MAX).unwrap();
    let bodies: Vec<_> = history.iter().map(|entry| &entry.body[..]).collect();
    assert_eq!(bodies, [&b"before"[..], b"after"]);
}

/// Without one, the disk fails in the middle of a write: undecided or refused, never lost, and
/// opened again within the process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_write_is_survived_without_a_restart() {
    let Some(disk) = Disk::new(160) else { return };
    let data = disk.path().join("data");
    let options = StorageOptions { reserve_bytes: 0, ..options(8) };
    let dir = DataDir::open(&data, options).unwrap();
    let mut slot = Slot::start(&dir, 0).await;
    disk.fill(3 * 1024 * 1024);
    let body = vec![b'x'; 100_000];
    let mut acknowledged = 0;
    let failed = loop {
        let record = slot.message(&dir, "a", &body, vec![]);
        match slot.try_commit(&dir, vec![record]).await {
            Ok(()) => acknowledged += 1,
            Err(e) => break e,
        }
        assert!(acknowledged < 1_000, "the disk never filled");
    };
    assert!(matches!(failed, LogError::Undecided(_) | LogError::Unavailable(_)), "{failed}");
    assert!(acknowledged > 0);
    until(&dir, |health| matches!(health, Health::Failed(_))).await;
    // Until it is opened again everything is refused, by either handle.
    let refused = dir.log().claim(1, "x").await;
    assert!(matches!(refused, Err(LogError::Unavailable(_))), "{refused:?}");
    assert!(dir.state().apply(0, &slot.changes, &slot.meta).is_err());
    assert!(dir.meta_put_durable("a", b"b").is_err());
    disk.empty();
    dir.reopen().unwrap();
    assert_eq!(*dir.health().borrow(), Health::Ready);
    // The writer from before is fenced by what it does not know, or goes on; a new claim does.
    let mut slot = Slot::start(&dir, 0).await;
    let history = dir.state().history(0, 0, 0, usize::MAX, usize::MAX).unwrap();
    let kept = history.len();
    assert!(kept == acknowledged || kept == acknowledged + 1, "{kept} of {acknowledged}");
    let record = slot.message(&dir, "a", b"on it goes", vec![]);
    slot.commit(&dir, vec![record]).await;
    slot.flush(&dir).await;
    let want = dump(&dir, 8);
    drop(dir);
    assert_eq!(dump(&open(&data), 8), want);
}

/// A failure that goes on: opening again fails too, and works when the disk does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reopening_waits_for_room() {
    let Some(disk) = Disk::new(192) else { return };
    let data = disk.path().join("data");
    let dir = open(&data);
    let mut slot = Slot::start(&dir, 0).await;
    let record = slot.message(&dir, "a", b"one", vec![]);
    slot.commit(&dir, vec![record]).await;
    dir.engine_for_test().fail("as a test says".into());
    disk.fill(1024 * 1024);
    let again = dir.reopen();
    // The last look at the free space may be a moment old.
    assert!(again.is_ok() || matches!(again, Err(OpenError::Unavailable(_))), "{again:?}");
    disk.empty();
    until(&dir, |health| !matches!(health, Health::Full(_))).await;
    while let Err(e) = dir.reopen() {
        assert!(matches!(e, OpenError::Unavailable(_)), "{e}");
        tokio::task::yield_now().await;
    }
    assert_eq!(dir.state().history(0, 0, 0, 10, 1_000).unwrap().len(), 1);
}

/// Damage that shows while the node runs: the read says which file, and so does the health.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_found_by_a_read_names_the_file() {
    let home = scratch();
    populate(home.path(), 40, true).await;
    // Opened as a large directory is: tables are checked later.
    let dir = open(home.path());
    let folder = home.path().join("db/keyspaces/6/tables");
    let table = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&table).unwrap();
    for byte in bytes.iter_mut().take(2_000) {
        *byte ^= 0x55;
    }
    // In place: the file is open.
    std::fs::write(&table, &bytes).unwrap();
    let service = session("x").service;
    let mut found = None;
    for slot in 0..4 {
        for (_, head) in dir.state().sessions(slot, &service, "", None, 100).unwrap() {
            let read = dir.state().history(slot, head.session_number, 0, 100, usize::MAX);
            found = read.err().or(found);
        }
    }
    let found = found.unwrap().to_string();
    assert!(found.contains(&table.display().to_string()), "{found}");
    assert!(matches!(&*dir.health().borrow(), Health::Corrupt(why) if found.contains(why)));
    assert!(matches!(dir.log().claim(0, "x").await, Err(LogError::Unavailable(_))));
}

/// Above the limit tables are checked in the background; damage must still stop the node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_found_in_the_background_stops_the_store() {
    let home = scratch();
    populate(home.path(), 40, true).await;
    let folder = home.path().join("db/keyspaces/6/tables");
    let table = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&table).unwrap();
    bytes[10] ^= 1;
    std::fs::write(&table, &bytes).unwrap();
    let options = StorageOptions { verify_bytes_max: 0, ..options(8) };
    let dir = DataDir::open(home.path(), options).unwrap();
    let name = table.display().to_string();
    until(&dir, |health| matches!(health, Health::Corrupt(why) if why.contains(&name))).await;
}

/// The database's own way to a full memtable stops for ever when its worker is busy for a thousand
/// commits: nothing is flushed from then on, memory grows, and the node does not end.
#[test]
fn a_busy_worker_gets_going_again() {
    use std::sync::atomic::{AtomicU64, Ordering};
    let home = scratch();
    let dir = open(home.path());
    let engine = dir.engine_for_test();
    let (written, stop) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            // The first fills the memtable, the others come while the worker can't write it.
            let mut value = vec![7; 9 << 20];
            while stop.load(Ordering::Relaxed) == 0 {
                let db = engine.open_db().unwrap();
                let number = written.fetch_add(1, Ordering::Relaxed);
                let mut batch = db.batch(1, false);
                batch.insert(&db.history, &number.to_be_bytes(), &std::mem::take(&mut value));
                engine.commit(&db, batch).unwrap();
                value = vec![7; 5_000];
            }
        });
        let db = engine.open_db().unwrap();
        let held = db.history.hold_flushes();
        let until = |reached: &dyn Fn() -> bool| {
            let started = std::time::Instant::now();
            while !reached() && started.elapsed().as_secs() < 20 {
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        };
        until(&|| written.load(Ordering::Relaxed) > 5_000 || db.history.sealed_memtables() >= 4);
        drop(held);
        let before = written.load(Ordering::Relaxed);
        until(&|| written.load(Ordering::Relaxed) > before + 5_000);
        let after = written.load(Ordering::Relaxed);
        stop.store(1, Ordering::Relaxed);
        until(&|| writer.is_finished() && db.history.sealed_memtables() == 0);
        assert!(after > before + 5_000, "writes stopped at {after}");
        assert_eq!(db.history.sealed_memtables(), 0, "the worker does not move");
    });
}
