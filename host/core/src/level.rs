//! The feature level: what nodes may write while others, or an earlier version, have to read it.
//!
//! A version of slotd reads everything that the levels from [`OLDEST`] to [`NEWEST`] write. What it
//! writes is decided by the level in force: of a cluster, which keeps it in its registry, or of a
//! data directory. A level is raised when everything that has to read it can, and never lowered.
//!
//! | level | since | what it allows |
//! |---|---|---|
//! | 1 | 25 November 2026 | batches of format 1 in the log |
//! | 2 | 29 November 2026 | batches of format 2 |
//! | 3 | 30 November 2026 | nodes encrypt all that they send each other, and accept nothing else |
//! | 3 | 30 November 2026 | ephemeral events between nodes ([`EPHEMERAL_FROM`]) |
//! | 4 | 30 November 2026 | timers: records and rows of effects, messages with an origin ([`EFFECTS_FROM`]) |
//! | 5 | 30 November 2026 | messages between sessions: their records, rows and origins; sessions that expire ([`SENDS_FROM`]) |
//! | 6 | 30 November 2026 | requests over HTTP: their rows and origins; sessions that close, and that are told of their subscribers ([`HTTP_FROM`]) |
//! | 7 | 30 November 2026 | messages and queries with the identity of their client ([`IDENTITY_FROM`]); logs and snapshots of a cluster that are sealed ([`SEALED_FROM`]) |
//! | 8 | 30 November 2026 | what operators have written, in histories ([`ENTERED_FROM`]); idempotency keys that are each client's own ([`OWN_KEYS_FROM`]); deploys through the gate ([`GATE_FROM`]); services with a canary ([`CANARY_FROM`]); sessions that are forked off others ([`FORKED_FROM`]) |
//!
//! A level is also the version of the protocol (`peer::protocol`) between nodes: a cluster
//! at level 2 has no node that speaks only version 1.
//!
//! To change what is written: add a level and its line here, write the new form only at that level,
//! read both, and keep bytes of the old form in a test.

use std::sync::atomic::{AtomicU16, Ordering};
use tokio::sync::watch;

pub type Level = u16;

/// The first one; without a record of a level, this is it.
pub const OLDEST: Level = 1;
/// [`OLDEST`], for records without a level.
pub fn oldest() -> Level {
    OLDEST
}

/// What this build can read, and writes where it is allowed.
pub const NEWEST: Level = 8;

/// From here on nodes send each other nothing in clear text, over TCP or UDP.
pub const ENCRYPTED: Level = 3;
/// Nodes that can read this level write again, every day, what they can read.
pub const WRITTEN_DAILY: Level = 3;
/// From here on, nodes send each other ephemeral events of subscriptions: before, not every node knows them.
pub const EPHEMERAL_FROM: Level = 3;

/// From here on, handlers may set timers: before, not everyone can read what that writes.
pub const EFFECTS_FROM: Level = 4;

/// From here on, handlers may send messages to other sessions.
pub const SENDS_FROM: Level = 5;

/// From here on, handlers may make requests over HTTP, close their session and hear of its subscribers.
pub const HTTP_FROM: Level = 6;

/// From here on, the identity of a client is kept with its message, and goes from node to node.
pub const IDENTITY_FROM: Level = 7;

/// From here on, what a cluster keeps may be sealed: before, not every node could tell what it is.
pub const SEALED_FROM: Level = 7;

/// From here on, an operator's entry has what was written with it: before, a history could not be run past it.
pub const ENTERED_FROM: Level = 8;

/// From here on, each client who was shown to be somebody has idempotency keys of its own: before, a node that takes the slot over
/// would not find them, and apply a repeat.
pub const OWN_KEYS_FROM: Level = 8;

/// From here on, deploys go through the gate: before, not every node does its part of it, or goes on with it.
pub const GATE_FROM: Level = 8;

/// From here on, a service may have a canary: before, not every node would run its version in its slots.
pub const CANARY_FROM: Level = 8;

/// From here on, a session may begin with another one's history.
pub const FORKED_FROM: Level = 8;

/// Fields of a stored JSON value that this version does not know. They are kept when it changes the
/// value: what a later version has put there is not lost by chance.
pub type Unknown = serde_json::Map<String, serde_json::Value>;

/// The level in force, shared by all that write.
#[derive(Debug)]
pub struct FeatureLevel {
    /// Asked for each message and batch: a channel's lock would be in the way of all threads.
    now: AtomicU16,
    raised: watch::Sender<Level>,
}

impl FeatureLevel {
    pub fn new(level: Level) -> Self {
        Self { now: AtomicU16::new(level), raised: watch::Sender::new(level) }
    }

    pub fn get(&self) -> Level {
        self.now.load(Ordering::Acquire)
    }

    /// Takes in that it was raised. A lower level is news of the past, and dropped.
    pub fn raise(&self, to: Level) {
        self.raised.send_if_modified(|now| {
            let higher = to > *now;
            *now = to.max(*now);
            // Before anybody is told.
            self.now.store(*now, Ordering::Release);
            higher
        });
    }

    /// Resolves when it is above `level`, with what it is then.
    pub async fn above(&self, level: Level) -> Level {
        let raised = self.watch().wait_for(|now| *now > level).await.map(|now| *now);
        match raised {
            Ok(now) => now,
            // Not while this is there.
            Err(_) => std::future::pending().await,
        }
    }

    pub fn watch(&self) -> watch::Receiver<Level> {
        self.raised.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A level that goes down again would let a node write what was forbidden, or take in an old
    /// node that can't read what is there.
    #[test]
    fn a_level_never_goes_down() {
        let level = FeatureLevel::new(OLDEST);
        let mut seen = level.watch();
        level.raise(2);
        assert!(seen.has_changed().is_ok_and(|changed| changed));
        seen.mark_unchanged();
        level.raise(1);
        assert!(seen.has_changed().is_ok_and(|changed| !changed) && level.get() == 2);
    }
}
