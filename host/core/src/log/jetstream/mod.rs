//! The slots' log on NATS JetStream: one stream for a group of slots, one subject for a slot, one
//! message for a batch.
//!
//! Every append carries the sequence number of the slot's last message as its expectation, and the
//! server stores it only if that holds: this compare-and-swap *is* the fence. A position is a
//! message's sequence number in its stream.
//!
//! Only an acknowledgement decides. After any other answer, or none, the append may be stored now,
//! later or never, and `append` keeps publishing the same batch with the same expectation until
//! some message stands after it. See docs/cluster-log.md.

mod append;
mod claim;
mod get;
mod read;
mod streams;

#[cfg(test)]
mod tests;

use super::{Append, Claim, Last, LogError, Logged, Position, SlotLog, Term, record};
use crate::{
    backoff::Backoff,
    limits,
    names::SlotId,
    nats::{Nats, NatsError},
    telemetry::metrics::metrics,
};
use append::{Attempt, Settled};
use async_nats::Subject;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

/// The largest batch of a node whose messages have bodies up to `body_bytes_max`: what one message
/// may pass a full batch by.
pub const fn batch_bytes_max(body_bytes_max: usize) -> usize {
    limits::BATCH_BYTES_MAX
        + body_bytes_max
        + limits::STATE_WRITE_BYTES_MAX
        + limits::REPLY_BYTES_MAX
        + limits::EVENT_BYTES_MAX
        + limits::LOG_BATCH_BYTES_BESIDE
}

/// The log of a cluster's slots. Cheap to clone.
#[derive(Clone)]
pub struct JetStreamLog {
    shared: Arc<Shared>,
}

struct Shared {
    nats: Nats,
    slots: Vec<Slot>,
    waits: Waits,
}

/// How long to wait for what; tests wait less.
#[derive(Clone, Copy, Debug)]
struct Waits {
    append: Duration,
    request: Duration,
    behind: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            append: limits::LOG_APPEND_TIMEOUT,
            request: limits::NATS_REQUEST_TIMEOUT,
            behind: limits::LOG_BEHIND_MAX,
        }
    }
}

struct Slot {
    subject: Subject,
    stream: String,
    /// Subjects of the stream's API.
    get: Subject,
    direct: Subject,
    purge: Subject,
    chain: Mutex<Chain>,
    /// Others report that the log reaches this far.
    reported: AtomicU64,
}

/// What this process has appended to a slot under a claim of its own. Its end is the only place
/// where it appends: the server can't detect a stale term, but a stale term's chain ends before the
/// claim that made it stale.
#[derive(Clone, Copy, Debug, Default)]
struct Chain {
    /// 0: no claim was won.
    term: Term,
    last: Position,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Free,
    InFlight,
    /// An append was given up undecided, or was fenced: only a claim goes on from here.
    Ended,
}

impl JetStreamLog {
    /// Opens the log of `slot_count` slots, which takes batches up to `batch_bytes_max` (see
    /// [`batch_bytes_max`]). Creates the streams that are missing and checks those that are there.
    ///
    /// # Errors
    /// [`NatsError::Refused`] when a stream is set up otherwise, or batches do not fit the servers'
    /// `max_payload`; [`NatsError::Unavailable`] when the servers can't answer or do so within
    /// [`NatsOptions::boot_wait`](crate::nats::NatsOptions::boot_wait).
    pub async fn open(
        nats: Nats,
        slot_count: u16,
        batch_bytes_max: usize,
    ) -> Result<Self, NatsError> {
        Self::open_with(nats, slot_count, batch_bytes_max, Waits::default()).await
    }

    async fn open_with(
        nats: Nats,
        slot_count: u16,
        batch_bytes_max: usize,
        waits: Waits,
    ) -> Result<Self, NatsError> {
        let have = nats.max_payload;
        if have < batch_bytes_max {
            return Err(NatsError::Refused(format!(
                "log batches can have {batch_bytes_max} bytes, but the NATS servers accept \
                 messages of {have}: set `max_payload: {}MB` on every server, or lower \
                 api.body_max",
                batch_bytes_max.div_ceil(1024 * 1024)
            )));
        }
        let started = crate::clock::now();
        let mut backoff = Backoff::new(limits::NATS_BOOT_RETRY_MIN, limits::NATS_BOOT_RETRY_MAX);
        while let Err(e) = streams::open(&nats, slot_count).await {
            // A stream that another node is just making has no leader yet.
            let pause = backoff.next_within(nats.options.boot_wait, started.elapsed());
            let Some(pause) = pause.filter(|_| !matches!(e, NatsError::Refused(_))) else {
                return Err(e);
            };
            tracing::warn!(why = %e, next_try_ms = pause.as_millis(), "waiting for the log's streams");
            tokio::time::sleep(pause).await;
        }
        let slots = (0..slot_count).map(|slot| {
            let names = streams::Names::of(&nats.options, slot);
            Slot {
                subject: names.subject.into(),
                get: format!("$JS.API.STREAM.MSG.GET.{}", names.stream).into(),
                direct: format!("$JS.API.DIRECT.GET.{}", names.stream).into(),
                purge: format!("$JS.API.STREAM.PURGE.{}", names.stream).into(),
                stream: names.stream,
                chain: Mutex::default(),
                reported: AtomicU64::new(0),
            }
        });
        let slots = slots.collect();
        Ok(Self { shared: Arc::new(Shared { nats, slots, waits }) })
    }
}

impl Shared {
    fn slot(&self, slot: SlotId) -> Result<&Slot, LogError> {
        let known = self.slots.get(usize::from(slot));
        known.ok_or_else(|| LogError::Unavailable(format!("there is no slot {slot}")))
    }

    async fn commit(&self, append: Append, in_flight: InFlight) -> Result<Position, LogError> {
        let Append { slot, term, after, batch } = append;
        let (of, at, attempt) = record::Batch::peek(&batch)?;
        if (of, at) != (slot, term) {
            let why = format!("a batch of slot {of}, term {at} to be appended as {slot}, {term}");
            return Err(LogError::Corrupt(why));
        }
        match self.append(Attempt { slot, term, attempt, after, batch }).await {
            Ok(Settled::Stored(position)) => {
                in_flight.ends_at(position);
                Ok(position)
            }
            Ok(Settled::Lost(other)) => {
                metrics().log_fenced.increment(1);
                Err(LogError::Fenced { slot, term: other.term, position: other.position })
            }
            Err(e) => {
                // Nothing was sent.
                if matches!(e, LogError::Unavailable(_)) {
                    in_flight.ends_at(after);
                }
                Err(e)
            }
        }
    }

    /// The error for a writer that may not append: where the slot is, as far as that can be learnt.
    async fn fenced(&self, slot: SlotId) -> LogError {
        metrics().log_fenced.increment(1);
        let known = match self.slot(slot) {
            Ok(slot) => *slot.chain.lock(),
            Err(e) => return e,
        };
        match self.last_once(slot).await {
            Ok(Some(last)) if last.position >= known.last => {
                LogError::Fenced { slot, term: last.term, position: last.position }
            }
            _ => LogError::Fenced { slot, term: known.term, position: known.last },
        }
    }

    async fn trim(&self, slot: SlotId, up_to: Position) -> Result<(), LogError> {
        let names = self.slot(slot)?;
        let known = names.chain.lock().last;
        // The last message must stay: it is the term, and what the next append expects.
        let up_to = if up_to <= known {
            up_to
        } else {
            self.last(slot).await?.map_or(0, |last| last.position.min(up_to))
        };
        if up_to == 0 {
            return Ok(());
        }
        // Removes what is before `seq`.
        let order = serde_json::json!({ "filter": names.subject.as_str(), "seq": up_to });
        self.api(&names.purge, order).await.map(drop)
    }
}

/// The right to append to a chain. Dropped without [`Self::ends_at`], the chain can't be gone on with.
struct InFlight {
    shared: Arc<Shared>,
    slot: SlotId,
    term: Term,
    end: Option<Position>,
}

impl InFlight {
    /// `None`: this append is not the next one of this process's chain.
    fn take(shared: &Arc<Shared>, append: &Append) -> Option<Self> {
        let mut chain = shared.slots.get(usize::from(append.slot))?.chain.lock();
        let own = chain.term == append.term && chain.last == append.after && chain.term > 0;
        if !own || chain.state != State::Free {
            return None;
        }
        chain.state = State::InFlight;
        Some(Self { shared: shared.clone(), slot: append.slot, term: append.term, end: None })
    }

    fn ends_at(mut self, position: Position) {
        self.end = Some(position);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(slot) = self.shared.slots.get(usize::from(self.slot)) {
            let mut chain = slot.chain.lock();
            if chain.term == self.term {
                (chain.last, chain.state) = match self.end {
                    Some(position) => (position, State::Free),
                    None => (chain.last, State::Ended),
                };
            }
        }
    }
}

impl SlotLog for JetStreamLog {
    fn claim(&self, slot: SlotId, claimant: &str) -> BoxFuture<'static, Result<Claim, LogError>> {
        let (shared, claimant) = (self.shared.clone(), claimant.to_owned());
        Box::pin(async move { shared.claim(slot, &claimant, None).await.map(|(claim, _)| claim) })
    }

    fn claim_after(
        &self,
        slot: SlotId,
        claimant: &str,
        last: Last,
    ) -> BoxFuture<'static, Result<(Claim, bool), LogError>> {
        let (shared, claimant) = (self.shared.clone(), claimant.to_owned());
        if let Ok(slot) = shared.slot(slot) {
            slot.reported.fetch_max(last.position, Ordering::Relaxed);
        }
        Box::pin(async move {
            let (claim, after) = shared.claim(slot, &claimant, Some(last)).await?;
            Ok((claim, after == last.position))
        })
    }

    fn commit(&self, append: Append) -> BoxFuture<'static, Result<Position, LogError>> {
        let shared = self.shared.clone();
        match InFlight::take(&shared, &append) {
            Some(in_flight) => eager(async move { shared.commit(append, in_flight).await }),
            None => Box::pin(async move { Err(shared.fenced(append.slot).await) }),
        }
    }

    fn read(
        &self,
        slot: SlotId,
        after: Position,
        bytes_max: usize,
    ) -> BoxFuture<'static, Result<Vec<Logged>, LogError>> {
        let shared = self.shared.clone();
        Box::pin(async move { shared.read(slot, after, bytes_max).await })
    }

    fn trim(&self, slot: SlotId, up_to: Position) -> BoxFuture<'static, Result<(), LogError>> {
        let shared = self.shared.clone();
        Box::pin(async move { shared.trim(slot, up_to).await })
    }
}

/// A future that has begun: it has published when this returns, unless the client's queue is full.
fn eager<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> BoxFuture<'static, T> {
    // Not to be held up because the caller has used up its turn.
    let mut future: Pin<Box<_>> = Box::pin(tokio::task::unconstrained(future));
    // Whoever polls it next is woken; until then there is no one to wake.
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Box::pin(std::future::ready(done)),
        Poll::Pending => future,
    }
}

/// What stands in the log, as far as it matters for an append.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    position: Position,
    term: Term,
    attempt: u128,
}

impl Found {
    fn new(slot: SlotId, position: Position, batch: &[u8]) -> Result<Self, LogError> {
        let at =
            |why: String| LogError::Corrupt(format!("slot {slot}, position {position}: {why}"));
        let (of, term, attempt) = record::Batch::peek(batch).map_err(|e| at(e.to_string()))?;
        if of == slot {
            Ok(Self { position, term, attempt })
        } else {
            Err(at(format!("a batch of slot {of}")))
        }
    }
}

fn encoded(value: &serde_json::Value) -> Bytes {
    value.to_string().into()
}
