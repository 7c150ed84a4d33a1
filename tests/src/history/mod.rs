//! What clients saw of a cluster, and whether it is consistent.
//!
//! Clients record every call with the times at which it began and ended, on one monotonic clock. At
//! the end, the sessions are read once more ([`Kept`]), and [`check`] checks: what was acknowledged
//! is stored, once, in an order that agrees with real time; what was refused is not; reads saw what
//! was acknowledged before they began, and nothing that disappeared later; event streams have
//! neither gap nor repeat.
//!
//! The final reading counts as the truth: by the log's rules it can only be longer than earlier
//! readings.

mod check;
#[cfg(test)]
mod generate;
#[cfg(test)]
mod tests;

pub use check::check;

use std::fmt;

/// Nanoseconds on the recorder's clock.
pub type Nanos = u64;
/// A session, numbered by the recorder.
pub type SessionId = u32;
/// A message, numbered by the recorder: the number is in the body, so that it is recognized
/// anywhere.
pub type MessageId = u64;

/// One attempt to send a message. Several of one message carry the same idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Send {
    pub session: SessionId,
    pub message: MessageId,
    pub begun: Nanos,
    /// When the client had its answer or stopped waiting for it.
    pub ended: Nanos,
    pub outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Acknowledged {
        seq: u64,
        /// The answer says that the message had been applied before.
        replayed: bool,
        /// A hash of the reply.
        reply: u64,
        /// How many messages the plugin has counted, if the reply says so.
        counted: Option<u64>,
    },
    /// The answer says that this attempt was not stored.
    Refused,
    /// Anything else, for instance a broken connection or no answer.
    Unknown,
}

/// A query, a page of history or a description of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    pub session: SessionId,
    pub begun: Nanos,
    pub ended: Nanos,
    /// The caller allowed a stale answer.
    pub stale_allowed: bool,
    /// The last message that the answer reflects; 0: none.
    pub last_seq: u64,
    /// The messages in the answer, with their numbers.
    pub entries: Vec<(u64, MessageId)>,
}

/// What one subscriber saw, over its reconnects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    pub session: SessionId,
    /// It subscribed after this message.
    pub after: u64,
    pub events: Vec<Seen>,
    /// It had the time to see everything.
    pub to_the_end: bool,
}

/// An event as a subscriber saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub at: Nanos,
    pub seq: u64,
    /// Its index among the events of its message, from 0.
    pub index: u32,
    pub message: MessageId,
}

/// A message in the final reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    pub seq: u64,
    pub message: MessageId,
    /// A hash of the reply.
    pub reply: u64,
    /// How many events it emitted.
    pub events: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    pub sends: Vec<Send>,
    pub reads: Vec<Read>,
    pub streams: Vec<Stream>,
    /// By session.
    pub kept: Vec<Vec<Kept>>,
}

/// A violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// An acknowledged message is missing.
    Lost,
    /// It is stored under another number than acknowledged.
    Moved,
    /// A message is stored more than once.
    Doubled,
    /// A message is stored although every attempt to send it was refused.
    Resurrected,
    /// A stored message was never sent.
    Foreign,
    /// The numbers of the final reading are not 1, 2, 3 ...
    Gap,
    /// A message has a lower number than one that was known before it was sent.
    OutOfOrder,
    /// Two answers claim that they applied one message first.
    AppliedTwice,
    /// Two answers to one message give different numbers or replies.
    RepeatDiffers,
    /// A reply differs from the final reading's.
    ReplyDiffers,
    /// The plugin's state does not reflect exactly the messages up to its reply.
    Miscounted,
    /// A read lacks something known before it began.
    StaleRead,
    /// A read or an event shows something that was not sent yet, or is missing in the end.
    Ahead,
    /// The entries of a read are not consecutive, or exceed its own end.
    TornRead,
    /// A read or an event shows another message than the final reading under that number.
    Changed,
    /// A subscriber missed an event between two others.
    EventGap,
    /// A subscriber saw an event twice, or after a later one.
    EventRepeat,
    /// A subscriber that had the time did not see the last events.
    EventsMissing,
}

/// One violation, with its details.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub kind: Kind,
    pub session: SessionId,
    pub detail: String,
}

/// What was checked, and what was wrong with it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub messages: u64,
    pub acknowledged: u64,
    /// Attempts that were refused, and attempts with unknown outcome.
    pub refused: u64,
    pub unknown: u64,
    /// Stored messages whose every outcome was unknown.
    pub unknown_kept: u64,
    pub reads: u64,
    pub events: u64,
    /// The first ones.
    pub violations: Vec<Violation>,
    pub violations_total: u64,
}

impl Report {
    pub fn good(&self) -> bool {
        self.violations_total == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} messages, {} acknowledged, {} attempts refused, {} open ({} messages of them \
             kept), {} reads, {} events: {} violations",
            self.messages,
            self.acknowledged,
            self.refused,
            self.unknown,
            self.unknown_kept,
            self.reads,
            self.events,
            self.violations_total
        )?;
        for violation in &self.violations {
            write!(f, "\n  {:?} in session {}: ", violation.kind, violation.session)?;
            f.write_str(&violation.detail)?;
        }
        Ok(())
    }
}
