//! Minting a term.

use super::{
    Chain, Found, Shared, State,
    append::{Attempt, Settled},
    get::expected_in,
};
use crate::{
    limits,
    log::{
        Claim, Last, LogError, Position, Term,
        record::{Batch, Record},
    },
    names::SlotId,
    telemetry::metrics::metrics,
};
use async_nats::jetstream::consumer::{DeliverPolicy, push};
use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::timeout;

impl Shared {
    /// Puts a claim of the next term right after what the slot has last. Should the owner append
    /// in between, tries again; should another claim, it has won. The first try is right after
    /// `said`, if the caller knows what is last. Also returns the position that it follows.
    pub(super) async fn claim(
        &self,
        slot: SlotId,
        claimant: &str,
        mut expected: Option<Last>,
    ) -> Result<(Claim, Position), LogError> {
        let started = crate::clock::now();
        let mut tries = 0;
        // One for all tries: whichever comes to stand is known as ours.
        let attempt = crate::random::id();
        loop {
            // May be stale, and then the claim is refused.
            let (after, term) = match expected.take() {
                Some(last) => (last.position, last.term),
                None => {
                    let last = self.last(slot).await?;
                    last.map_or((0, 0), |last| (last.position, last.term))
                }
            };
            let term = term + 1;
            let batch = claim_batch(slot, term, attempt, claimant)?;
            let other = match self.append(Attempt { slot, term, attempt, after, batch }).await? {
                Settled::Stored(position) => {
                    return self.won(slot, term, position).map(|claim| (claim, after));
                }
                Settled::Lost(other) => other,
            };
            if other.term >= term || started.elapsed() > limits::LOG_WAIT {
                return Err(lost(slot, &other));
            }
            // The owner lives, and appends. Whoever claims has its reasons; but reading before
            // each claim is too slow to get between the appends of a busy one.
            tries += 1;
            if tries >= limits::LOG_CLAIM_TRIES {
                tries = 0;
                if let Some(claim) = self.chase(slot, claimant, term, attempt).await? {
                    return Ok(claim);
                }
            }
        }
    }

    fn won(&self, slot: SlotId, term: Term, position: Position) -> Result<Claim, LogError> {
        let mut chain = self.slot(slot)?.chain.lock();
        // Of two claims of one process the later term is the one that counts.
        if chain.term < term {
            *chain = Chain { term, last: position, state: State::Free };
        }
        Ok(Claim { term, position })
    }

    /// Claims against an owner who always has an append in progress: receives each of its batches
    /// as it is stored, when the owner receives the acknowledgement, and puts the claim right after.
    ///
    /// All of these claims are one batch, with different expectations: only one can come to stand.
    /// Their results are seen in what is received. `None`: nothing is received any more.
    async fn chase(
        &self,
        slot: SlotId,
        claimant: &str,
        term: Term,
        attempt: u128,
    ) -> Result<Option<(Claim, Position)>, LogError> {
        let unavailable = |e: &dyn std::fmt::Display| LogError::Unavailable(e.to_string());
        let names = self.slot(slot)?;
        let stream = self.nats.jetstream.get_stream_no_info(&names.stream).await;
        let stream = stream.map_err(|e| unavailable(&e))?;
        let consumer = stream.create_consumer(push::OrderedConfig {
            deliver_subject: self.nats.client.new_inbox(),
            filter_subject: names.subject.to_string(),
            deliver_policy: DeliverPolicy::LastPerSubject,
            ..Default::default()
        });
        let consumer = consumer.await.map_err(|e| unavailable(&e))?;
        let mut heard = consumer.messages().await.map_err(|e| unavailable(&e))?;
        let started = crate::clock::now();
        let batch = claim_batch(slot, term, attempt, claimant)?;
        let mut asked = FuturesUnordered::new();
        while started.elapsed() < limits::LOG_WAIT {
            let next = async {
                loop {
                    tokio::select! {
                        message = heard.next() => return message,
                        Some(()) = asked.next() => {}
                    }
                }
            };
            let Ok(Some(Ok(message))) = timeout(limits::LOG_CHASE_SILENCE, next).await else {
                return Ok(None);
            };
            let position = message.info().map_err(|e| unavailable(&e))?.stream_sequence;
            let found = Found::new(slot, position, &message.payload)?;
            if found.term == term && found.attempt == attempt {
                let after = message.headers.as_ref().and_then(expected_in).unwrap_or_default();
                return self.won(slot, term, position).map(|claim| Some((claim, after)));
            }
            if found.term >= term {
                return Err(lost(slot, &found));
            }
            // Answered or not: nothing is learnt from that. One at a time is of use.
            asked.clear();
            asked.push(self.throw(slot, position, batch.clone()));
        }
        Ok(None)
    }

    /// Publishes, and does not care for the answer.
    async fn throw(&self, slot: SlotId, after: Position, batch: Bytes) {
        if let Ok(names) = self.slot(slot) {
            let expected = self.nats.inbox.one();
            let headers = super::append::headers(after);
            let _ = expected.token.publish(names.subject.clone(), Some(headers), batch).await;
        }
    }
}

fn lost(slot: SlotId, other: &Found) -> LogError {
    metrics().log_claims_lost.increment(1);
    LogError::Fenced { slot, term: other.term, position: other.position }
}

fn claim_batch(slot: SlotId, term: Term, attempt: u128, claimant: &str) -> Result<Bytes, LogError> {
    let records = vec![Record::Claim { node: claimant.to_owned() }];
    Batch { slot, term, attempt, records }.encode()
}
