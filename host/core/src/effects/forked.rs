//! A session that was made of another one's history: where it comes from, and how its own begins.
//!
//! What it has itself begins with the messages [`Forked::first`] to [`Forked::at`], which the other session handled; those
//! before are read there. From the next one on it is a session like any other.

use super::{Entered, Origin};
use crate::{client::Client, names::SessionId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Where a session comes from: another one of its service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forked {
    pub from: SessionId,
    /// Which one of that name, as [`crate::position::Incarnation::to_wire`].
    pub of: u64,
    /// The last message that the other one handled.
    pub at: u64,
    /// The first one that this session has itself.
    pub first: u64,
    /// The first session in the line. Random bytes are made of its name, so that the same message has the same ones in all.
    pub root: SessionId,
    /// Sessions before this one in the line.
    pub depth: u32,
}

/// What an entry comes from that a session has of the one that it was forked off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inherited {
    /// As the other session has it.
    pub origin: Option<Box<Origin>>,
    pub forked: Arc<Forked>,
    /// The state behind it, of the last one: where the history can be run from. `None`: it is too large.
    pub state: Option<Entered>,
    /// Who forked it, of the first one: whom the new session counts for.
    pub by: Option<Arc<Client>>,
}

impl Forked {
    /// Memory that it takes, about.
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.from.as_str().len() + self.root.as_str().len()
    }
}

impl Inherited {
    /// What it takes of an entry, beside what the other session has.
    pub fn bytes(&self) -> usize {
        let by = self.by.as_ref().map_or(0, |by| by.bytes());
        self.forked.memory() + self.state.as_ref().map_or(0, Entered::bytes) + by
    }
}
