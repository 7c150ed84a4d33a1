//! Effects: what a handler asks for in a call and what slotd does later, as durable as the message
//! that asked for it: timers, messages to other sessions, requests over HTTP, and the session's own end.
//!
//! An effect is a row beside its session's state ([`rows`]). The record of the message that asks for
//! it has the rows that change ([`Change`]), finished: whoever folds a record into the store need not
//! know what they mean. The slot's owner carries out what is due; what comes of it is a message of the
//! session like any other, with an [`Origin`].

mod caused;
mod cron;
mod effect;
mod forked;
pub mod http;
pub mod lines;
pub mod rows;
pub mod rules;
pub mod send;
pub mod timer;

pub use caused::Caused;
pub use effect::Effect;
pub use forked::{Forked, Inherited};
pub use rows::Change;
pub use send::{Answered, GivenUp, Outcome, Outgoing, Received};
pub use timer::{Dead, Expiry, Firing, Timer, When};

use crate::{
    client::Client,
    level::{EFFECTS_FROM, ENTERED_FROM, FORKED_FROM, HTTP_FROM, IDENTITY_FROM, Level, SENDS_FROM},
    limits,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What a message comes from, if not from a client of whom nothing is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// A timer of the session's own.
    Timer(Firing),
    /// Another session, or itself. From [`crate::level::SENDS_FROM`] on, as the next.
    Session(Received),
    /// A session that it has sent something to.
    Answer(Answered),
    /// A request that it has made. From [`HTTP_FROM`] on, as the next two.
    Http(http::Answered),
    /// A part of the answer to one, shown while it came. No handler was called.
    Part(http::Part),
    /// Its subscribers: whether there are any now.
    Presence(bool),
    /// A client that was shown to be somebody. From [`IDENTITY_FROM`] on.
    Client(Arc<Client>),
    /// An operator. From [`ENTERED_FROM`] on, and only where what was written is small.
    Operator(Arc<Entered>),
    /// What the session that this one was forked off has handled. From [`FORKED_FROM`] on.
    Inherited(Box<Inherited>),
}

/// What an operator has written into a session's state, so that its history can be run past it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entered {
    /// `None` deletes.
    pub writes: Vec<(String, Option<Bytes>)>,
}

impl Entered {
    /// What it takes of an entry.
    pub fn bytes(&self) -> usize {
        let of = |(key, value): &(String, Option<Bytes>)| {
            key.len() + value.as_ref().map_or(0, Bytes::len) + 8
        };
        self.writes.iter().map(of).sum()
    }
}

/// How long after so many failures something is tried again, in milliseconds.
fn wait_ms(failures: u32) -> u64 {
    let doubled =
        limits::EFFECT_RETRY_MIN_MS.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(limits::EFFECT_RETRY_MAX_MS)
}

/// Why a text can't be what names something of a session's, if it can't. `what` it is to be, with its article.
fn name_problem(what: &str, name: &str, bytes_max: usize) -> Option<String> {
    if name.is_empty() || name.len() > bytes_max {
        return Some(format!(
            "{what} must have 1 to {bytes_max} bytes; this one has {}",
            name.len()
        ));
    }
    let control = name.chars().any(char::is_control);
    control.then(|| format!("{what} has no control characters, and {name:?} has"))
}

impl Origin {
    /// What it was in the session that handled its message.
    pub fn shown(&self) -> Option<&Self> {
        match self {
            Self::Inherited(inherited) => inherited.origin.as_deref(),
            other => Some(other),
        }
    }

    /// The feature level from which on it is written.
    pub fn level(&self) -> Level {
        match self {
            Self::Timer(_) => EFFECTS_FROM,
            Self::Session(_) | Self::Answer(_) => SENDS_FROM,
            Self::Http(_) | Self::Part(_) | Self::Presence(_) => HTTP_FROM,
            Self::Client(_) => IDENTITY_FROM,
            Self::Operator(_) => ENTERED_FROM,
            Self::Inherited(_) => FORKED_FROM,
        }
    }

    /// The client that it is, if it is one.
    pub fn client(&self) -> Option<&Arc<Client>> {
        match self {
            Self::Client(client) => Some(client),
            Self::Inherited(inherited) => inherited.origin.as_deref().and_then(Self::client),
            Self::Timer(_)
            | Self::Session(_)
            | Self::Answer(_)
            | Self::Http(_)
            | Self::Part(_)
            | Self::Presence(_)
            | Self::Operator(_) => None,
        }
    }

    /// How many sends led to the message, one after the other.
    pub fn hops(&self) -> u32 {
        match self {
            Self::Timer(_)
            | Self::Http(_)
            | Self::Part(_)
            | Self::Presence(_)
            | Self::Client(_)
            | Self::Inherited(_)
            | Self::Operator(_) => 0,
            Self::Session(received) => received.hops,
            Self::Answer(answered) => answered.hops,
        }
    }
}
