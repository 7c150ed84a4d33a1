//! What the shell of a slot reports to its core, and what the core has it do.

use crate::{
    error::Error,
    log::{Position, Term, record::Record},
    slot::Loaded,
};
use std::time::Duration;

/// What the shell reports.
#[derive(Debug)]
pub enum Event<S> {
    /// The log has decided on the batch in flight.
    Committed(Result<Position, Error>),
    /// The flush has ended.
    Flushed(Result<(), Error>),
    /// The snapshot has ended: the position up to which the log can be trimmed, 0 for none. `None`: it
    /// was not made.
    Snapshot(Option<Position>),
    /// What is in memory can't be trusted any more.
    Broken(Error),
    /// Another node owns the slot, under this term.
    Abandon { term: Term },
    /// Time has passed.
    Look,
    /// Stop, or rest, if nothing has happened for `idle`.
    IfIdle {
        idle: Duration,
        /// Somebody is subscribed.
        watched: bool,
        /// Mail waits.
        waiting: bool,
        /// Something is due within that time.
        due: bool,
    },
    /// Find out whether the slot is still this node's.
    Prove { watched: bool },
    Stop {
        release: Option<Record>,
        /// What the next owner has loaded.
        loaded: Option<Loaded>,
        asked: Option<S>,
    },
    /// The mailbox is closed and empty.
    Drained,
}

/// What the shell has to do.
#[derive(Debug)]
pub enum Effect<H, S> {
    Nothing,
    Durable(Durable<H>),
    /// Their batch failed.
    Refuse(Vec<H>, Error),
    Stored(Stored),
    /// Give memory back.
    Rest,
    /// Take no more mail, finish what waits, report [`Event::Drained`].
    Close,
    /// The slot does not stop.
    Refused(S, Error),
}

/// A batch is durable. Its records are [`Core::newest`](super::Core::newest).
#[derive(Debug)]
pub struct Durable<H> {
    pub batch: u64,
    /// To be answered, in order.
    pub held: Vec<H>,
    pub took: Duration,
    /// Trim the log up to here.
    pub trim: Option<Position>,
    /// Start a flush.
    pub flush: bool,
    /// Something may be carried out that had to wait for it.
    pub due: bool,
}

/// A flush has ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Stored {
    /// The store has the changes of the batches up to this one.
    pub up_to: u64,
    /// Start a snapshot.
    pub snapshot: bool,
    /// Start another flush.
    pub flush: bool,
}

/// What is next for a slot that stops.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<S> {
    /// For mail, a commit or a flush.
    Wait,
    /// All is durable, and the release with it: tell who asked.
    Released(S),
    /// Start a flush.
    Flush,
    /// It has ended.
    Over(Option<S>),
    /// It has ended, and the store refuses what it does not have yet.
    Unflushed(Option<S>),
}

/// All that waited in a slot that ended by itself.
#[derive(Debug)]
pub struct End<H, S> {
    /// Why, for whose message was not written.
    pub error: Error,
    /// Of the batch in flight: it may or may not be durable.
    pub undecided: Vec<H>,
    /// Of the batch that filled: it was never sent.
    pub kept_out: Vec<H>,
    pub asked: Option<S>,
}

/// What to do about a cache that is full.
#[derive(Debug, PartialEq, Eq)]
pub enum Room {
    /// The store has everything.
    Evict,
    /// A flush makes room.
    Flush,
    /// The last flush was a moment ago.
    Wait,
}
