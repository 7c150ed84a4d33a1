//! The slot's log: the ordered, durable batches that decide everything.
//!
//! [`SlotLog`] is the seam between a slot and what makes its batches durable. Ownership is part of
//! it: a *term* is minted by a claim in the log, and a batch is accepted only under the term and
//! after the position that the log itself has last (a compare-and-swap). The ring proposes, the
//! log decides.

#[cfg(test)]
pub(crate) mod conformance;
pub mod jetstream;
pub mod record;
pub mod sealed;

use crate::names::SlotId;
use bytes::Bytes;
use futures_util::future::BoxFuture;

/// A slot's generation of ownership, from 1 up; minted by [`SlotLog::claim`]. 0: never claimed.
pub type Term = u64;
/// A place in a slot's log. Rises along the log, not necessarily by one. 0: before the first.
pub type Position = u64;

/// What a claim won.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    pub term: Term,
    /// The position of the claim record itself: replay up to here, append after here.
    pub position: Position,
}

/// The last entry of a slot's log, as its writer reported it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last {
    pub term: Term,
    pub position: Position,
}

/// One batch to append.
#[derive(Clone, Debug)]
pub struct Append {
    pub slot: SlotId,
    pub term: Term,
    /// The position of the slot's last batch as the writer knows it: the expectation.
    pub after: Position,
    /// An encoded [`record::Batch`].
    pub batch: Bytes,
}

/// A batch that was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    pub position: Position,
    /// An encoded [`record::Batch`].
    pub batch: Bytes,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// Another term was claimed, or the expectation does not hold: this writer is done for good.
    #[error("fenced: slot {slot} is at term {term}, position {position}")]
    Fenced { slot: SlotId, term: Term, position: Position },
    /// Refused before anything was written: not stored, and never will be.
    #[error("log unavailable: {0}")]
    Unavailable(String),
    /// The write failed in a way that leaves open whether it is stored. The writer must stop and
    /// learn the truth by opening the slot again.
    #[error("append undecided: {0}")]
    Undecided(String),
    /// Batches right after `after` are trimmed: a snapshot has them.
    #[error("the log of slot {slot} is trimmed after position {after}")]
    Trimmed { slot: SlotId, after: Position },
    /// What was read does not decode or fails its checksum.
    #[error("log corrupt: {0}")]
    Corrupt(String),
}

/// What is done with the end of a commit. Must not block.
pub type Then = Box<dyn FnOnce(Result<Position, LogError>) + Send>;

/// The ordered, durable, fenced log of every slot. One append of a slot is in flight at a time.
///
/// Futures are eager where it matters: `commit` has queued the batch when it returns its future.
pub trait SlotLog: Send + Sync + 'static {
    /// Mints the next term of `slot` for `claimant` and makes it durable. After it succeeds no
    /// batch of an earlier term is ever accepted.
    fn claim(&self, slot: SlotId, claimant: &str) -> BoxFuture<'static, Result<Claim, LogError>>;

    /// As [`SlotLog::claim`], right after `last`, without looking first whether that is what the log
    /// has last; if it is not, the claim is made, or lost, as any other. Returns whether it is
    /// certain that nothing stands between `last` and the claim.
    fn claim_after(
        &self,
        slot: SlotId,
        claimant: &str,
        _last: Last,
    ) -> BoxFuture<'static, Result<(Claim, bool), LogError>> {
        let claim = self.claim(slot, claimant);
        Box::pin(async move { Ok((claim.await?, false)) })
    }

    /// Appends a batch; resolves when it is durable.
    fn commit(&self, append: Append) -> BoxFuture<'static, Result<Position, LogError>>;

    /// As [`SlotLog::commit`], for who need not be woken to learn how it ended: a log may call `then`
    /// where it knows, in the context of a runtime, and gives no future then.
    fn commit_then(
        &self,
        append: Append,
        then: Then,
    ) -> Option<BoxFuture<'static, Result<Position, LogError>>> {
        drop(then);
        Some(self.commit(append))
    }

    /// The batches of `slot` after `after`, in order, claims included; at least one if there is
    /// any, then up to about `bytes_max`. Empty: `after` is the end, as far as this reader sees. A
    /// log that is kept on several servers may answer from one that lacks the newest batches.
    ///
    /// # Errors
    /// [`LogError::Trimmed`] rather than a page with a gap.
    fn read(
        &self,
        slot: SlotId,
        after: Position,
        bytes_max: usize,
    ) -> BoxFuture<'static, Result<Vec<Logged>, LogError>>;

    /// Allows the log to forget `slot`'s batches up to and including `up_to`, which nobody will read
    /// again: a snapshot has them. Never forgets the term. A log that is on the state store's own
    /// disk forgets by itself what the store has durably (`storage/housekeeping.rs`).
    fn trim(&self, slot: SlotId, up_to: Position) -> BoxFuture<'static, Result<(), LogError>>;
}
