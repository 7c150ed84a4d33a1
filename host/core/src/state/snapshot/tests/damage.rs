//! Damaged, truncated and missing objects.

use super::*;
use std::path::PathBuf;

fn files(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(&path, out),
            false => out.push(path),
        }
    }
    out.sort();
}

/// A slot with a base, deltas and history, and two snapshots.
async fn populate(
    home: &Path,
    log: &Arc<MemoryLog>,
) -> (Owner, Snapshots, Vec<super::super::Taken>) {
    let snapshots = Snapshots::new(directory(&home.join("objects")).await, small());
    let mut owner = Owner::start(log, &open(&home.join("a"))).await;
    let mut taken = Vec::new();
    for round in 0..60u32 {
        owner.send(&format!("{}", round % 5), &[b'x'; 150], vec![write("k", "v")]).await;
        if round % 12 == 11 {
            taken.push(owner.take(&snapshots).await.unwrap());
            owner.commit(Vec::new()).await.unwrap();
            snapshots.collect(SLOT, owner.claim.term).await.unwrap();
        }
    }
    owner.flush();
    (owner, snapshots, taken)
}

/// A slot that comes back wrong, or with an error that does not say what is damaged, is worse than
/// one that does not come back.
#[tokio::test]
async fn damage_of_any_object_is_said_and_got_around_where_the_log_reaches() {
    let home = scratch();
    let log = Arc::new(MemoryLog::default());
    let (owner, _, taken) = populate(home.path(), &log).await;
    let objects = directory(&home.path().join("objects")).await;
    let mut all = Vec::new();
    files(&home.path().join("objects"), &mut all);
    assert!(all.len() > 5, "{all:?}");
    let last = *taken.last().unwrap();
    log.trim(SLOT, last.before).await.unwrap();
    let (mut lost, mut older) = (0, 0);
    for trimmed in [last.before, last.position] {
        log.trim(SLOT, trimmed).await.unwrap();
        for path in &all {
            let good = std::fs::read(path).unwrap();
            let mut flipped = good.clone();
            flipped[good.len() / 2] ^= 0x10;
            for bad in [Some(flipped), Some(good[..good.len() - 1].to_vec()), None] {
                match &bad {
                    Some(bad) => std::fs::write(path, bad).unwrap(),
                    None => std::fs::remove_file(path).unwrap(),
                }
                let there = scratch();
                let dir = open(there.path());
                let store = dir.state();
                let snapshots = Snapshots::new(objects.clone(), small());
                match snapshots.restore(SLOT, &*log, &store).await {
                    Ok(meta) => {
                        older += u32::from(meta.applied < last.position);
                        let mut node = Owner {
                            log: log.clone(),
                            store: store.clone(),
                            claim: owner.claim,
                            last: 0,
                            meta,
                            changes: Changes::default(),
                            heads: BTreeMap::new(),
                            dir,
                        };
                        node.replay().await;
                        node.flush();
                        assert_eq!(dump(&store), dump(&owner.store), "{path:?}");
                    }
                    Err(error) => {
                        lost += 1;
                        let name = path.file_name().unwrap().to_string_lossy().into_owned();
                        let message = error.to_string();
                        // A manifest that is gone shows by what it leaves.
                        let gone = bad.is_none() && name.starts_with('m');
                        assert!(message.contains(&name) || gone, "{path:?}: {error}");
                        assert!(matches!(error, SnapshotError::Lost { .. }), "{error}");
                        assert_eq!(store.slot(SLOT).unwrap(), SlotMeta::default());
                    }
                }
                std::fs::write(path, &good).unwrap();
            }
        }
    }
    assert!(lost > 0 && older > 0, "lost {lost}, older {older}");
}

/// The owner has everything: it must notice and make good what its object store lost.
#[tokio::test]
async fn an_owner_that_finds_damage_takes_a_whole_snapshot() {
    let home = scratch();
    let log = Arc::new(MemoryLog::default());
    let (mut owner, snapshots, taken) = populate(home.path(), &log).await;
    let term = owner.claim.term;
    log.trim(SLOT, taken.last().unwrap().position).await.unwrap();
    snapshots.verify(SLOT, term).await.unwrap();
    let mut all = Vec::new();
    files(&home.path().join("objects"), &mut all);
    let history = all.iter().find(|p| p.file_name().unwrap().to_string_lossy().starts_with('h'));
    std::fs::write(history.unwrap(), b"something else").unwrap();
    let error = snapshots.verify(SLOT, term).await.unwrap_err().to_string();
    assert!(error.contains(&*history.unwrap().to_string_lossy()), "{error}");
    let whole = owner.take(&snapshots).await.unwrap();
    assert!(whole.new);
    owner.commit(Vec::new()).await.unwrap();
    snapshots.collect(SLOT, term).await.unwrap();
    owner.flush();
    let there = scratch();
    let dir = open(there.path());
    let restored = snapshots.restore(SLOT, &*log, &dir.state()).await.unwrap();
    assert_eq!(restored.applied, whole.position);
    // A process that finds it damaged when it starts does the same.
    let mut all = Vec::new();
    files(&home.path().join("objects"), &mut all);
    let base = all.iter().find(|p| p.file_name().unwrap().to_string_lossy().starts_with('b'));
    std::fs::remove_file(base.unwrap()).unwrap();
    let mut next = Owner::start(&log, &dir).await;
    let snapshots = Snapshots::new(directory(&home.path().join("objects")).await, small());
    let taken = next.take(&snapshots).await.unwrap();
    check_restore(&snapshots, &next, taken).await;
}

/// A slot that needs nothing is not touched; one that nothing leads to is refused, not emptied.
#[tokio::test]
async fn a_restore_happens_only_where_it_must() {
    let home = scratch();
    let log = Arc::new(MemoryLog::default());
    let (owner, snapshots, taken) = populate(home.path(), &log).await;
    let at = owner.store.slot(SLOT).unwrap();
    let same = snapshots.restore(SLOT, &*log, &owner.store).await.unwrap();
    assert_eq!(same, at);
    // Behind the trimmed start: brought up.
    let there = scratch();
    let dir = open(there.path());
    snapshots.restore(SLOT, &*log, &dir.state()).await.unwrap();
    let stale = SlotMeta { applied: 1, ..dir.state().slot(SLOT).unwrap() };
    dir.state().apply(SLOT, &Changes::default(), &stale).unwrap();
    log.trim(SLOT, taken.last().unwrap().position).await.unwrap();
    let meta = snapshots.restore(SLOT, &*log, &dir.state()).await.unwrap();
    assert_eq!(meta.applied, taken.last().unwrap().position);
    // No snapshot, and the log's beginning is gone.
    let empty = Snapshots::new(directory(&home.path().join("elsewhere")).await, small());
    let there = scratch();
    let dir = open(there.path());
    let error = empty.restore(SLOT, &*log, &dir.state()).await.unwrap_err();
    assert!(matches!(error, SnapshotError::Lost { slot: SLOT, .. }), "{error}");
    // No snapshot, and a log that has everything.
    let meta = empty.restore(SLOT, &MemoryLog::default(), &dir.state()).await.unwrap();
    assert_eq!(meta, SlotMeta::default());
}
