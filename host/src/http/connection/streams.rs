//! What the streams of an HTTP/2 connection share.

use super::ConnShared;
use crate::error::Error;
use std::sync::{Arc, atomic::Ordering::Relaxed};

impl ConnShared {
    /// It speaks HTTP/2 from now on: many requests at a time, each with an accounting of its own.
    pub(super) fn multiplex(&self) {
        self.multiplexed.store(true, Relaxed);
    }
    /// Whether it has other requests beside the one that asks, and goes on after it.
    pub(in super::super) fn is_multiplexed(&self) -> bool {
        self.multiplexed.load(Relaxed)
    }
    /// Requests whose answer's body has not been handed over.
    pub(in super::super) fn in_flight(&self) -> u64 {
        self.in_flight.load(Relaxed)
    }
    /// Bytes that the peer has sent since it began.
    pub(in super::super) fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }
    pub(super) fn receives(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Relaxed);
    }
    /// A stream could send a piece of its answer.
    pub(in super::super) fn stream_sends(&self) {
        self.sent.fetch_add(1, Relaxed);
    }
    /// How many pieces its streams could send so far.
    pub(in super::super) fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }
    /// Holds a request's head of this size.
    ///
    /// # Errors
    /// `buffers-full`.
    pub(in super::super) fn holds_head(self: &Arc<Self>, bytes: usize) -> Result<HeldHead, Error> {
        let held = HeldHead { connection: self.clone(), bytes };
        self.heads.add(bytes).map(|()| held)
    }
}

/// A request's head, until the request is answered.
pub(in super::super) struct HeldHead {
    connection: Arc<ConnShared>,
    bytes: usize,
}

impl Drop for HeldHead {
    fn drop(&mut self) {
        self.connection.heads.sub(self.bytes);
    }
}
