//! What every [`SlotLog`] must do, as functions that take one. Each uses one slot, which no one
//! else touches, and panics when the log is wrong. `docs/invariants.md` refers to them.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

use super::{
    Append, Claim, Last, LogError, Logged, Position, SlotLog, Term,
    record::{Activate, Batch, Record},
};
use crate::names::{ServiceName, SlotId};
use bytes::Bytes;
use std::{collections::BTreeSet, sync::Arc};

/// A batch that is distinguished from others by `number`.
pub fn batch(slot: SlotId, term: Term, number: u64) -> Bytes {
    let service = ServiceName::parse("conformance").unwrap();
    let activate = Activate { service, generation: number, deployment: 1 };
    let records = vec![Record::Activate(activate)];
    Batch { slot, term, attempt: u128::from(number), records }.encode().unwrap()
}

fn append(slot: SlotId, claim: Claim, after: Position, number: u64) -> Append {
    Append { slot, term: claim.term, after, batch: batch(slot, claim.term, number) }
}

/// Everything after `after`, page by page.
pub async fn read_all(log: &dyn SlotLog, slot: SlotId, after: Position) -> Vec<Logged> {
    try_read_all(log, slot, after).await.unwrap()
}

/// A page may be short: whoever gave it need not have the newest yet.
async fn try_read_all(
    log: &dyn SlotLog,
    slot: SlotId,
    mut after: Position,
) -> Result<Vec<Logged>, LogError> {
    let mut all = Vec::new();
    loop {
        let page = log.read(slot, after, 1_000).await?;
        let Some(last) = page.last() else { return Ok(all) };
        after = last.position;
        all.extend(page);
    }
}

fn assert_fenced<T: std::fmt::Debug>(result: Result<T, LogError>, term: Term) {
    match result {
        Err(LogError::Fenced { term: at, .. }) => assert_eq!(at, term),
        other => panic!("expected to be fenced at term {term}: {other:?}"),
    }
}

/// Slots that [`all`] and [`between`] use each.
pub const SLOTS: SlotId = 11;

/// Runs all of them by one node, on slots `first..first + SLOTS`.
pub async fn all(log: Arc<dyn SlotLog>, first: SlotId) {
    between(log.clone(), log, first).await;
}

/// Runs all of them, on slots `first..first + SLOTS`: what takes two nodes by `log` and `other`,
/// which write to the same slots.
pub async fn between(log: Arc<dyn SlotLog>, other: Arc<dyn SlotLog>, first: SlotId) {
    appends_are_read_back_in_order(&*log, first).await;
    a_stale_term_is_refused(&*log, &*other, first + 1).await;
    a_wrong_expectation_is_refused(&*log, first + 2).await;
    claims_race(&[log.clone(), other.clone()], first + 3).await;
    a_paused_writer_is_refused(&*log, &*other, first + 4).await;
    a_claimant_reads_everything_before_it(log.clone(), other.clone(), first + 5).await;
    trim_keeps_the_term(&*log, &*other, first + 6).await;
    what_is_trimmed_is_said(&*log, first + 7).await;
    an_abandoned_append_is_before_the_claim_or_nowhere(&*log, &*other, first + 8).await;
    batches_are_seen_whole_and_in_order(log.clone(), other.clone(), first + 9).await;
    a_claim_where_it_was_told_is_as_good_as_any(&*log, &*other, first + 10).await;
}

/// Order lost here is order lost in every session's history.
pub async fn appends_are_read_back_in_order(log: &dyn SlotLog, slot: SlotId) {
    let claim = log.claim(slot, "a").await.unwrap();
    let mut after = claim.position;
    let mut written = Vec::new();
    for number in 0..20 {
        let append = append(slot, claim, after, number);
        let batch = append.batch.clone();
        let position = log.commit(append).await.unwrap();
        assert!(position > after, "positions rise");
        after = position;
        written.push(Logged { position, batch });
    }
    assert_eq!(read_all(log, slot, claim.position).await, written);
    assert_eq!(read_all(log, slot, written[4].position).await, written[5..]);
    assert_eq!(log.read(slot, after, 1_000).await.unwrap(), []);
    let one = log.read(slot, claim.position, 1).await.unwrap();
    assert_eq!(one, written[..1], "one batch at least, however small the limit");
}

/// Invariant 1: after a claim of term t+1 no batch of term t is accepted.
pub async fn a_stale_term_is_refused(log: &dyn SlotLog, other: &dyn SlotLog, slot: SlotId) {
    let old = log.claim(slot, "old").await.unwrap();
    let at = log.commit(append(slot, old, old.position, 1)).await.unwrap();
    let new = other.claim(slot, "new").await.unwrap();
    assert!(new.term > old.term && new.position > at);
    // Whatever it believes to be the end: its own last position, or the true one.
    assert_fenced(log.commit(append(slot, old, at, 2)).await, new.term);
    assert_fenced(log.commit(append(slot, old, new.position, 2)).await, new.term);
    other.commit(append(slot, new, new.position, 3)).await.unwrap();
    assert_eq!(read_all(other, slot, at).await.len(), 2, "the claim and the new owner's batch");
}

/// A writer that lost an answer must not append twice, nor one that is behind at all.
pub async fn a_wrong_expectation_is_refused(log: &dyn SlotLog, slot: SlotId) {
    let claim = log.claim(slot, "a").await.unwrap();
    let first = log.commit(append(slot, claim, claim.position, 1)).await.unwrap();
    assert_fenced(log.commit(append(slot, claim, claim.position, 2)).await, claim.term);
    assert_fenced(log.commit(append(slot, claim, first + 1, 2)).await, claim.term);
    assert_fenced(log.commit(append(slot, claim, 0, 2)).await, claim.term);
    let unknown = Claim { term: claim.term + 1, ..claim };
    assert_fenced(log.commit(append(slot, unknown, first, 2)).await, claim.term);
    log.commit(append(slot, claim, first, 2)).await.unwrap();
    assert_eq!(read_all(log, slot, claim.position).await.len(), 2);
}

/// Two owners of one term would both be accepted.
pub async fn claims_race(nodes: &[Arc<dyn SlotLog>], slot: SlotId) {
    let tasks: Vec<_> = (0..32)
        .map(|i| {
            let log = nodes[i % nodes.len()].clone();
            tokio::spawn(async move { (i, log.claim(slot, &format!("node-{i}")).await) })
        })
        .collect();
    let mut won = Vec::new();
    for task in tasks {
        // A log may refuse some of them; it must not give a term twice.
        if let (i, Ok(claim)) = task.await.unwrap() {
            won.push((claim, &*nodes[i % nodes.len()]));
        }
    }
    let terms: BTreeSet<_> = won.iter().map(|(claim, _)| claim.term).collect();
    assert!(!won.is_empty() && terms.len() == won.len(), "a term was given twice");
    won.sort_by_key(|(claim, _)| claim.term);
    assert!(won.is_sorted_by(|a, b| a.0.position < b.0.position), "terms rise along the log");
    let (&(last, winner), earlier) = won.split_last().unwrap();
    for &(claim, node) in earlier {
        for after in [claim.position, last.position] {
            let stale = node.commit(append(slot, claim, after, 1)).await;
            assert!(matches!(stale, Err(LogError::Fenced { .. })), "{stale:?}");
        }
    }
    winner.commit(append(slot, last, last.position, 1)).await.unwrap();
}

/// A claim that relies on a report must not follow less than there is, nor report that it follows it.
pub async fn a_claim_where_it_was_told_is_as_good_as_any(
    log: &dyn SlotLog,
    other: &dyn SlotLog,
    slot: SlotId,
) {
    let old = log.claim(slot, "old").await.unwrap();
    let released = log.commit(append(slot, old, old.position, 1)).await.unwrap();
    let last = Last { term: old.term, position: released };
    let (new, _) = other.claim_after(slot, "new", last).await.unwrap();
    assert_eq!(new.term, old.term + 1);
    let seen = read_all(other, slot, released).await;
    assert_eq!(seen.iter().map(|logged| logged.position).collect::<Vec<_>>(), [new.position]);
    assert_fenced(log.commit(append(slot, old, released, 2)).await, new.term);
    // What was reported no longer holds.
    let at = other.commit(append(slot, new, new.position, 3)).await.unwrap();
    match log.claim_after(slot, "late", last).await {
        Ok((late, follows)) => {
            assert!(late.term == new.term + 1 && late.position > at && !follows);
        }
        other => assert_fenced(other, new.term),
    }
}

/// A process that stopped for a minute must find out, not write.
pub async fn a_paused_writer_is_refused(log: &dyn SlotLog, other: &dyn SlotLog, slot: SlotId) {
    let paused = log.claim(slot, "paused").await.unwrap();
    let at = log.commit(append(slot, paused, paused.position, 1)).await.unwrap();
    // What it was about to append when it was stopped.
    let pending = append(slot, paused, at, 2);
    let owner = other.claim(slot, "owner").await.unwrap();
    let mut after = owner.position;
    for number in 3..6 {
        after = other.commit(append(slot, owner, after, number)).await.unwrap();
    }
    assert_fenced(log.commit(pending).await, owner.term);
    let batches = read_all(other, slot, paused.position).await;
    assert!(batches.iter().all(|logged| logged.batch != batch(slot, paused.term, 2)));
}

/// A batch that was acknowledged to the old owner and is not seen by the new one is lost.
pub async fn a_claimant_reads_everything_before_it(
    log: Arc<dyn SlotLog>,
    other: Arc<dyn SlotLog>,
    slot: SlotId,
) {
    let first = log.claim(slot, "a").await.unwrap();
    let writer = {
        let log = log.clone();
        tokio::spawn(async move {
            let (mut after, mut acknowledged) = (first.position, Vec::new());
            for number in 0.. {
                match log.commit(append(slot, first, after, number)).await {
                    Ok(position) => after = position,
                    Err(LogError::Fenced { .. }) => break,
                    Err(other) => panic!("{other}"),
                }
                acknowledged.push(after);
            }
            acknowledged
        })
    };
    while read_all(&*log, slot, first.position).await.len() < 10 {
        tokio::task::yield_now().await;
    }
    let second = other.claim(slot, "b").await.unwrap();
    let seen = read_all(&*other, slot, first.position).await;
    let acknowledged = writer.await.unwrap();
    let before: Vec<_> = seen.iter().map(|logged| logged.position).collect();
    assert_eq!(before.last(), Some(&second.position), "nothing stands after the claim");
    assert_eq!(before[..before.len() - 1], acknowledged);
}

/// A term that is given again fences nobody.
pub async fn trim_keeps_the_term(log: &dyn SlotLog, other: &dyn SlotLog, slot: SlotId) {
    let claim = log.claim(slot, "a").await.unwrap();
    let first = log.commit(append(slot, claim, claim.position, 1)).await.unwrap();
    let second = log.commit(append(slot, claim, first, 2)).await.unwrap();
    log.trim(slot, first).await.unwrap();
    let rest = read_all(log, slot, first).await;
    assert_eq!(rest.iter().map(|logged| logged.position).collect::<Vec<_>>(), [second]);
    log.trim(slot, second).await.unwrap();
    let third = log.commit(append(slot, claim, second, 3)).await.unwrap();
    assert_fenced(log.commit(append(slot, claim, 0, 3)).await, claim.term);
    let fourth = log.commit(append(slot, claim, third, 4)).await.unwrap();
    // More than there is: what is there.
    log.trim(slot, fourth + 1_000).await.unwrap();
    let next = other.claim(slot, "b").await.unwrap();
    assert_eq!(next.term, claim.term + 1);
    other.trim(slot, next.position).await.unwrap();
    assert_fenced(log.commit(append(slot, claim, fourth, 5)).await, next.term);
}

/// A page with a hole would be replayed into a state that never was. A log may keep what it was
/// allowed to forget; what it gives must then be everything.
pub async fn what_is_trimmed_is_said(log: &dyn SlotLog, slot: SlotId) {
    let claim = log.claim(slot, "a").await.unwrap();
    let mut positions = vec![claim.position];
    for number in 0..10 {
        let after = positions[positions.len() - 1];
        positions.push(log.commit(append(slot, claim, after, number)).await.unwrap());
    }
    log.trim(slot, positions[5]).await.unwrap();
    for (i, &after) in positions.iter().enumerate() {
        match try_read_all(log, slot, after).await {
            Ok(all) => {
                let read: Vec<_> = all.iter().map(|logged| logged.position).collect();
                assert_eq!(read, positions[i + 1..], "after {after}");
            }
            Err(LogError::Trimmed { .. }) => assert!(i < 5, "position {i} was not to be trimmed"),
            Err(other) => panic!("{other}"),
        }
    }
}

/// An append whose writer gave up may be stored or not; once a claim stands, that is settled.
pub async fn an_abandoned_append_is_before_the_claim_or_nowhere(
    log: &dyn SlotLog,
    other: &dyn SlotLog,
    slot: SlotId,
) {
    for number in 0..20 {
        let claim = log.claim(slot, "a").await.unwrap();
        let abandoned = append(slot, claim, claim.position, number);
        let batch = abandoned.batch.clone();
        drop(log.commit(abandoned));
        let next = other.claim(slot, "b").await.unwrap();
        let at = other.commit(append(slot, next, next.position, number)).await.unwrap();
        let after: Vec<_> = read_all(other, slot, claim.position).await;
        let stored = usize::from(after[0].batch == batch);
        assert_eq!(after[stored].position, next.position, "nothing else before the claim");
        assert_eq!(after[stored + 1].position, at);
        assert_eq!(after.len(), stored + 2);
    }
}

/// Readers run beside the writer; what they see is a beginning of what it wrote, batch for batch.
pub async fn batches_are_seen_whole_and_in_order(
    log: Arc<dyn SlotLog>,
    other: Arc<dyn SlotLog>,
    slot: SlotId,
) {
    const BATCHES: u64 = 60;
    let claim = log.claim(slot, "a").await.unwrap();
    let many = move |number: u64| {
        let record = |i| Record::Release { node: format!("{number}-{i}") };
        let records = (0..200).map(record).collect();
        Batch { slot, term: claim.term, attempt: u128::from(number), records }
    };
    let reader = tokio::spawn(async move {
        let mut after = claim.position;
        let mut seen = 0;
        while seen < BATCHES {
            for logged in other.read(slot, after, 20_000).await.unwrap() {
                let batch = Batch::decode(&logged.batch).unwrap();
                assert_eq!(batch, many(seen), "a part of a batch, or out of order");
                (after, seen) = (logged.position, seen + 1);
            }
            tokio::task::yield_now().await;
        }
    });
    let mut after = claim.position;
    for number in 0..BATCHES {
        let batch = many(number).encode().unwrap();
        after = log.commit(Append { slot, term: claim.term, after, batch }).await.unwrap();
    }
    reader.await.unwrap();
}
