//! The log: conformance, group commits, restarts, and what it leaves on the disk.

use super::*;
use crate::{log::conformance, storage::log::EmbeddedLog};
use std::sync::Arc;

/// The embedded log is one of the logs that slots run on; all must fence alike.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_log_conforms() {
    let home = scratch();
    let dir = DataDir::open(home.path(), options(conformance::SLOTS)).unwrap();
    conformance::all(dir.log(), 0).await;
    let before: Vec<_> = claim_all(&dir.log()).await;
    drop(dir);
    // Terms go on after a restart, also those of slots whose batches are trimmed.
    let dir = DataDir::open(home.path(), options(conformance::SLOTS)).unwrap();
    let after = claim_all(&dir.log()).await;
    for (before, after) in before.iter().zip(after) {
        assert_eq!(after.term, before.term + 1);
    }
    conformance::all(dir.log(), 0).await;
}

async fn claim_all(log: &EmbeddedLog) -> Vec<Claim> {
    let mut claims = Vec::new();
    for slot in 0..conformance::SLOTS {
        claims.push(log.claim(slot, "all").await.unwrap());
    }
    claims
}

/// One fsync for each append would cost an order of magnitude of throughput.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_that_are_ready_share_a_commit() {
    let home = scratch();
    let dir = DataDir::open(home.path(), options(64)).unwrap();
    let log = dir.log();
    let claims: Vec<_> = (0..64).map(|slot| log.claim(slot, "a")).collect();
    let mut positions = std::collections::BTreeSet::new();
    for claim in claims {
        positions.insert(claim.await.unwrap().position);
    }
    assert!(positions.len() < 32, "64 claims took {} commits", positions.len());
}

/// Disk that only grows ends in a full disk. Writes and trims many times what may stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trimmed_batches_leave_the_disk() {
    const BATCH: usize = 256 * 1024;
    let home = scratch();
    let dir = open(home.path());
    let log = dir.log();
    let claim = log.claim(0, "a").await.unwrap();
    let filler = Bytes::from(vec![b'x'; BATCH]);
    let (mut last, mut written, mut most) = (claim.position, 0, 0);
    while written < 1200 * 1024 * 1024 {
        let key = session("big");
        let write = Write { key: "k".into(), value: Some(filler.clone()) };
        let head = Head { seq: 1, ..Head::default() };
        let message = Message {
            key,
            session_number: 0,
            entry: entry(1, b"").into(),
            fingerprint: 0,
            writes: vec![write],
            head,
            effects: Vec::new(),
        };
        let records = vec![Record::Message(Box::new(message))];
        let batch = Batch { slot: 0, term: claim.term, attempt: 0, records }.encode().unwrap();
        written += batch.len();
        last = log.commit(Append { slot: 0, term: claim.term, after: last, batch }).await.unwrap();
        // As the slot does: applied up to here, then trimmed.
        let meta = SlotMeta { applied: last, term: claim.term, ..SlotMeta::default() };
        dir.state().apply(0, &Changes::default(), &meta).unwrap();
        log.trim(0, last).await.unwrap();
        most = most.max(dir.disk_bytes().unwrap());
    }
    assert!(most < 512 * 1024 * 1024, "{most} bytes on the disk for {written} written");
    drop(dir);
    let dir = open(home.path());
    assert_eq!(dir.log().claim(0, "b").await.unwrap().term, claim.term + 1);
    assert_eq!(dir.state().slot(0).unwrap().applied, last);
}

/// A batch that does not fit must be refused, not cut.
#[tokio::test]
async fn a_batch_over_the_limit_is_refused() {
    let home = scratch();
    let dir = open(home.path());
    let claim = dir.log().claim(0, "a").await.unwrap();
    let batch = Bytes::from(vec![0; crate::limits::LOG_BATCH_BYTES_MAX + 1]);
    let append = Append { slot: 0, term: claim.term, after: claim.position, batch };
    let refused = dir.log().commit(append).await;
    assert!(matches!(refused, Err(LogError::Unavailable(_))), "{refused:?}");
    let append = Append { slot: 99, term: 1, after: 0, batch: Bytes::new() };
    assert!(matches!(dir.log().commit(append).await, Err(LogError::Unavailable(_))));
}

/// Closed under a writer: everyone gets an answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_answers_everyone() {
    let home = scratch();
    let dir = Arc::new(open(home.path()));
    let log = dir.log();
    let waiting: Vec<_> = (0..8).map(|slot| log.claim(slot, "a")).collect();
    let closer = dir.clone();
    tokio::task::spawn_blocking(move || closer.close()).await.unwrap();
    for claim in waiting {
        claim.await.unwrap();
    }
    assert!(matches!(log.claim(0, "b").await, Err(LogError::Unavailable(_))));
    assert!(matches!(log.read(0, 0, 1).await, Err(LogError::Unavailable(_))));
}

/// Two processes on one directory would both be its writer.
#[tokio::test]
async fn a_directory_in_use_or_of_other_settings_is_refused() {
    let home = scratch();
    let dir = open(home.path());
    let node = dir.node_id().to_owned();
    let again = DataDir::open(home.path(), options(8)).err().unwrap().to_string();
    assert!(again.contains("in use by another slotd"), "{again}");
    assert!(again.contains(&home.path().display().to_string()), "{again}");
    drop(dir);
    let other = DataDir::open(home.path(), options(16)).err().unwrap().to_string();
    assert!(other.contains("slot_count 8, but the configuration says 16"), "{other}");
    let dir = open(home.path());
    assert_eq!(dir.node_id(), node);
    dir.meta_put_durable("a", b"1").unwrap();
    drop(dir);
    let dir = open(home.path());
    assert_eq!(dir.meta_get("a").unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(dir.meta_get("b").unwrap(), None);
}

/// A crash while a directory is being made must not leave one that never opens.
#[test]
fn an_unfinished_directory_is_made_again() {
    let home = scratch();
    drop(open(home.path()));
    std::fs::write(home.path().join("creating"), b"").unwrap();
    std::fs::remove_file(home.path().join("db/version")).unwrap();
    drop(open(home.path()));
    std::fs::write(home.path().join("creating"), b"").unwrap();
    std::fs::remove_file(home.path().join("slotd.json")).unwrap();
    drop(open(home.path()));
}

/// In a cluster the state's positions are another log's: held against this directory's own, empty
/// one they would pass for damage, and a node could not start a second time.
#[test]
fn a_copy_of_a_clusters_state_opens_again() {
    let home = scratch();
    let clustered = || StorageOptions { clustered: true, ..options(8) };
    let dir = DataDir::open(home.path(), clustered()).unwrap();
    let meta = SlotMeta { applied: 77_000, term: 9, next_session: 4, ..SlotMeta::default() };
    dir.state().apply(3, &Changes::default(), &meta).unwrap();
    dir.close();
    drop(dir);
    let dir = DataDir::open(home.path(), clustered()).unwrap();
    assert_eq!(dir.state().slot(3).unwrap(), meta);
    drop(dir);
    // A node that stands alone would take it for its own log's, and give the positions again.
    let refused = DataDir::open(home.path(), options(8)).err().unwrap();
    assert!(refused.to_string().contains("copy of a cluster's state"), "{refused}");
}
