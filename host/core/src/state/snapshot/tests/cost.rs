//! What snapshots write, and what they keep.

use super::*;

fn stored(path: &Path) -> u64 {
    let mut sum = 0;
    for entry in std::fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        sum += match entry.file_type().unwrap().is_dir() {
            true => stored(&entry.path()),
            false => entry.metadata().unwrap().len(),
        };
    }
    sum
}

fn options() -> SnapshotOptions {
    SnapshotOptions {
        tail_bytes_min: 16 * 1024,
        piece_bytes: 64 * 1024,
        deltas_bytes_min: 64 * 1024,
        delta_small_bytes: 32 * 1024,
        deltas_small_max: 16,
        dead_entries_slack: 50,
    }
}

struct Run {
    home: tempfile::TempDir,
    owner: Owner,
    snapshots: Snapshots,
    faults: Arc<Faults>,
    takes: u64,
}

impl Run {
    async fn new() -> Self {
        let home = scratch();
        let faults = Faults::after(i64::MAX, false);
        let objects = directory(&home.path().join("objects")).await;
        let objects = Objects::Failing(objects.into(), faults.clone());
        let log = Arc::new(MemoryLog::default());
        let owner = Owner::start(&log, &open(&home.path().join("a"))).await;
        Self { home, owner, snapshots: Snapshots::new(objects, options()), faults, takes: 0 }
    }

    fn logged(&self) -> u64 {
        self.owner.log.slots.lock()[&SLOT].bytes
    }

    async fn take(&mut self) {
        self.takes += u64::from(self.owner.take_and_trim(&self.snapshots).await.new);
    }

    async fn check(&mut self) {
        let taken = self.owner.take(&self.snapshots).await.unwrap();
        if taken.position == self.owner.meta.applied {
            check_restore(&self.snapshots, &self.owner, taken).await;
        }
    }
}

/// The bound that the module promises: without it a large slot would be copied for each snapshot,
/// and a busy one would write the object store full.
#[tokio::test]
async fn what_is_written_is_bounded_by_what_changed() {
    // Appends only; the same keys again and again; new keys; and deletes.
    for kind in ["history", "overwrites", "keys", "deletes"] {
        let mut run = Run::new().await;
        for round in 0..6_000u32 {
            let name = format!("{}", round % 40);
            let (body, writes) = match kind {
                "history" => (vec![b'x'; 300], vec![]),
                "overwrites" => (vec![], vec![write(&format!("{}", round % 7), &"v".repeat(300))]),
                _ => (vec![], vec![write(&format!("{round}"), &"v".repeat(300))]),
            };
            run.owner.send(&name, &body, writes).await;
            if kind == "deletes" && round % 9 == 0 {
                run.owner.delete(&format!("{}", (round / 9 * 7) % 40)).await;
            }
            if round % 25 == 0 {
                run.take().await;
            }
        }
        let (written, logged) = (run.faults.put_bytes(), run.logged());
        let kept = stored(&run.home.path().join("objects"));
        let puts = run.faults.puts.load(Ordering::Relaxed);
        println!(
            "{kind}: {logged} bytes of log, {} takes, {puts} objects, {written} bytes put ({:.2} \
             a byte), {kept} kept",
            run.takes,
            written as f64 / logged as f64
        );
        assert!(run.takes > 20);
        // Each manifest names about 60 bytes an object, of which there are about 64 KiB each.
        assert!(written < 7 * logged + run.takes * 8 * 1024, "{kind}: {written} of {logged}");
        run.check().await;
    }
}

/// A slot with much in it must not be read or written whole for a few messages.
#[tokio::test]
async fn a_large_slot_costs_what_changes() {
    let mut run = Run::new().await;
    for round in 0..4_000u32 {
        let writes = vec![write(&format!("{round}"), &"v".repeat(500))];
        run.owner.send(&format!("{}", round % 100), &[b'x'; 500], writes).await;
    }
    run.take().await;
    let whole = run.faults.put_bytes();
    for round in 0..20u32 {
        for i in 0..40 {
            let writes = vec![write(&format!("{i}"), &"w".repeat(500))];
            run.owner.send(&format!("{round}"), &[b'y'; 500], writes).await;
        }
        let before = (run.faults.put_bytes(), run.logged());
        run.take().await;
        let (written, logged) = (run.faults.put_bytes() - before.0, 40 * 1_400);
        assert!(written < logged * 3 / 2, "{written} bytes for {logged}, the slot has {whole}");
    }
    assert_eq!(run.takes, 21);
    run.check().await;
}

/// What deleted sessions leave in history would otherwise stay for ever, and be carried to every
/// node.
#[tokio::test]
async fn history_of_deleted_sessions_goes_away() {
    let mut run = Run::new().await;
    for round in 0..1_500u32 {
        run.owner.send(if round % 10 == 0 { "stays" } else { "goes" }, &[b'x'; 500], vec![]).await;
        if round % 100 == 99 {
            run.take().await;
        }
    }
    let before = stored(&run.home.path().join("objects"));
    assert!(before > 1_500 * 500, "{before}");
    run.owner.delete("goes").await;
    // Enough for two takes: the one before stays too.
    for _ in 0..2 {
        for _ in 0..40 {
            run.owner.send("stays", &[b'y'; 500], vec![]).await;
        }
        run.take().await;
    }
    let after = stored(&run.home.path().join("objects"));
    assert!(after < before / 3, "{after} of {before} bytes are left");
    run.check().await;
}
