//! Effects: what a handler asks for in a call and what slotd does later, as durable as the message
//! that asked for it. So far: timers.
//!
//! An effect is a row beside its session's state ([`rows`]). The record of the message that asks for
//! it has the rows that change ([`Change`]), finished: whoever folds a record into the store need not
//! know what they mean. The slot's owner carries out what is due; what comes of it is a message of the
//! session like any other, with an [`Origin`].

mod cron;
pub mod rows;
pub mod timer;

pub use rows::Change;
pub use timer::{Dead, Firing, Timer, When};

use serde::{Deserialize, Serialize};

/// What a message comes from, if not from a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// A timer of the session's own.
    Timer(Firing),
}
