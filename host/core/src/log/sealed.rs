//! A log whose batches are sealed: around any other, which sees slot, term and attempt of a batch alone.
//!
//! A sealed batch is `3 | slot, term, attempt | sealed` (see [`crate::seal`]), where what is sealed is the
//! batch in another format. It is bound to the three before it. Claims, which name a node, are the log's
//! own and stay as they are.

use super::{Append, Claim, Last, LogError, Logged, Position, SlotLog, Then, record};
use crate::{names::SlotId, seal::Keyring};
use futures_util::future::BoxFuture;
use std::sync::Arc;

/// Seals what is appended, and opens what is read.
pub struct SealedLog {
    inner: Arc<dyn SlotLog>,
    keys: Keyring,
}

impl SealedLog {
    /// The log itself where there is nothing to seal or open with: then a batch that is sealed is not read, and named
    /// as such.
    pub fn over(inner: Arc<dyn SlotLog>, keys: &Keyring) -> Arc<dyn SlotLog> {
        match keys.is_empty() {
            true => inner,
            false => Arc::new(Self { inner, keys: keys.clone() }),
        }
    }
}

impl SlotLog for SealedLog {
    fn claim(&self, slot: SlotId, claimant: &str) -> BoxFuture<'static, Result<Claim, LogError>> {
        self.inner.claim(slot, claimant)
    }

    fn claim_after(
        &self,
        slot: SlotId,
        claimant: &str,
        last: Last,
    ) -> BoxFuture<'static, Result<(Claim, bool), LogError>> {
        self.inner.claim_after(slot, claimant, last)
    }

    fn commit(&self, append: Append) -> BoxFuture<'static, Result<Position, LogError>> {
        match record::sealed(&append.batch, &self.keys) {
            Ok(batch) => self.inner.commit(Append { batch, ..append }),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn commit_then(
        &self,
        append: Append,
        then: Then,
    ) -> Option<BoxFuture<'static, Result<Position, LogError>>> {
        match record::sealed(&append.batch, &self.keys) {
            Ok(batch) => self.inner.commit_then(Append { batch, ..append }, then),
            Err(error) => Some(Box::pin(std::future::ready(Err(error)))),
        }
    }

    fn read(
        &self,
        slot: SlotId,
        after: Position,
        bytes_max: usize,
    ) -> BoxFuture<'static, Result<Vec<Logged>, LogError>> {
        let (read, keys) = (self.inner.read(slot, after, bytes_max), self.keys.clone());
        Box::pin(async move {
            let mut read = read.await?;
            for logged in &mut read {
                if let Some(opened) = record::opened(&logged.batch, &keys)? {
                    logged.batch = opened;
                }
            }
            Ok(read)
        })
    }

    fn trim(&self, slot: SlotId, up_to: Position) -> BoxFuture<'static, Result<(), LogError>> {
        self.inner.trim(slot, up_to)
    }
}
