//! What is durable and not yet in the state store, and what the log has beyond the last snapshot.

use crate::{
    limits,
    log::{
        Position,
        record::{Batch, Record},
    },
};
use std::time::{Duration, Instant};

pub(super) struct Behind {
    /// Durable batches that no flush has taken.
    waiting: Vec<(Position, Batch)>,
    /// Of these, and of those that a flush writes.
    bytes: usize,
    /// The last batch whose changes the store has.
    stored: u64,
    flush: Option<Flush>,
    last_flush: Instant,
    /// What went into the log since the last snapshot was begun.
    log_bytes: usize,
    snapshotting: bool,
    /// A snapshot reaches to this position; trim once this batch is durable.
    trim_after: Option<(Position, u64)>,
}

/// A flush that runs.
struct Flush {
    /// The last batch that it covers.
    up_to: u64,
    bytes: usize,
}

impl Behind {
    pub fn new(waiting: Vec<(Position, Batch)>, log_bytes: usize, now: Instant) -> Self {
        Self {
            waiting,
            bytes: 0,
            stored: 0,
            flush: None,
            last_flush: now,
            log_bytes,
            snapshotting: false,
            trim_after: None,
        }
    }

    /// A batch is durable, and waits for the next flush.
    pub fn add(&mut self, position: Position, batch: Batch, bytes: usize) {
        self.log_bytes += bytes;
        match self.waiting.last_mut() {
            // Barriers say nothing: one stands for a row of them.
            Some((last, kept)) if kept.records.is_empty() && batch.records.is_empty() => {
                *last = position;
            }
            _ => {
                self.waiting.push((position, batch));
                self.bytes += bytes;
            }
        }
    }

    /// The records of the batch that was added last.
    pub fn newest(&self) -> &[Record] {
        self.waiting.last().map_or(&[], |(_, batch)| &batch.records)
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Less should wait, and no flush sees to it.
    pub fn is_late(&self) -> bool {
        self.bytes >= limits::UNFLUSHED_BYTES_MAX && self.flush.is_none()
    }

    /// More waits than may.
    pub fn is_too_much(&self) -> bool {
        self.bytes >= limits::BEHIND_BYTES_MAX
    }

    pub fn is_flushing(&self) -> bool {
        self.flush.is_some()
    }

    pub fn stored(&self) -> u64 {
        self.stored
    }

    pub fn flushed_before(&self, now: Instant, ago: Duration) -> bool {
        now.saturating_duration_since(self.last_flush) >= ago
    }

    /// `durable`: the last batch that is.
    pub fn flush(&mut self, durable: u64, now: Instant) -> Option<Vec<(Position, Batch)>> {
        if self.flush.is_some() || self.waiting.is_empty() {
            return None;
        }
        self.last_flush = now;
        self.flush = Some(Flush { up_to: durable, bytes: self.bytes });
        Some(std::mem::take(&mut self.waiting))
    }

    /// The flush has ended: up to which batch.
    pub fn flushed(&mut self, written: bool) -> Option<u64> {
        let Flush { up_to, bytes } = self.flush.take()?;
        if written {
            self.stored = up_to;
            self.bytes = self.bytes.saturating_sub(bytes);
        }
        Some(up_to)
    }

    // ---- snapshots: the store is on this disk only, and the log is needed until one has it --------

    /// Begins a snapshot if the log has grown enough since the last.
    pub fn begin_snapshot(&mut self) -> bool {
        let begins = !self.snapshotting && self.log_bytes >= limits::SNAPSHOT_LOG_BYTES;
        if begins {
            (self.snapshotting, self.log_bytes) = (true, 0);
        }
        begins
    }

    pub fn has_snapshot(&mut self, trim_after: Option<(Position, u64)>) {
        self.snapshotting = false;
        self.trim_after = trim_after.or(self.trim_after);
    }

    /// It was not made: the next flush tries again.
    pub fn lacks_snapshot(&mut self) {
        (self.snapshotting, self.log_bytes) = (false, limits::SNAPSHOT_LOG_BYTES);
    }

    /// Up to where the log can be trimmed, now that `durable` is.
    pub fn trim(&mut self, durable: u64) -> Option<Position> {
        self.trim_after.take_if(|(_, batch)| *batch <= durable).map(|(position, _)| position)
    }
}
