//! What a message has led to, as its session's history says.

use super::{Effect, rows::Name, send::Content};
use crate::{limits, names::SessionKey};
use serde::{Deserialize, Serialize};

/// One effect that a message has asked for. What came of it is another message of this session, or of another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Caused {
    /// A timer was set, for this time.
    Timer {
        name: String,
        due_ms: u64,
    },
    /// A message was sent to a session. `reply`: its outcome comes back under this name.
    Sent {
        to: SessionKey,
        reply: Option<String>,
    },
    /// A request over HTTP was asked for.
    Request {
        id: String,
    },
    /// The session is deleted at this time.
    Expires {
        at_ms: u64,
    },
    Closed,
    /// So many more.
    More(u32),
}

impl Caused {
    /// What an effect that a message has changed says of it; `None`: nothing.
    pub fn of(name: &Name, effect: &Effect) -> Option<Self> {
        Some(match (name, effect) {
            (Name::Timer(name), Effect::Timer(timer)) => {
                Self::Timer { name: name.clone(), due_ms: timer.due_ms }
            }
            (Name::Outgoing(_), Effect::Outgoing(outgoing)) => match &outgoing.content {
                Content::Message { reply } => {
                    Self::Sent { to: outgoing.to.clone(), reply: reply.clone() }
                }
                // It is the entry's own.
                Content::Reply(_) => return None,
            },
            (Name::Request(id), Effect::Request(_)) => Self::Request { id: id.clone() },
            (Name::Expiry, Effect::Expiry(expiry)) => Self::Expires { at_ms: expiry.at_ms },
            (Name::Closed, Effect::Closed(_)) => Self::Closed,
            _ => return None,
        })
    }

    /// The first of them, and how many more there are.
    pub fn listed(mut all: Vec<Self>) -> Vec<Self> {
        let more = all.len().saturating_sub(limits::CAUSED_MAX);
        if more > 0 {
            all.truncate(limits::CAUSED_MAX);
            all.push(Self::More(u32::try_from(more).unwrap_or(u32::MAX)));
        }
        all
    }

    /// Memory that it takes beside itself, about.
    pub fn memory(&self) -> usize {
        match self {
            Self::Timer { name, .. } => name.len(),
            Self::Sent { to, reply } => {
                to.service.as_str().len()
                    + to.session.as_str().len()
                    + reply.as_ref().map_or(0, String::len)
            }
            Self::Request { id } => id.len(),
            Self::Expires { .. } | Self::Closed | Self::More(_) => 0,
        }
    }
}
