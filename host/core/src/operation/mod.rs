//! The operations on sessions: requests, answers, and the encoding of both between nodes. One file
//! each.
//!
//! An operation goes unchanged from the gateway to the slot's mailbox, here or on another node. The
//! layers between are generic over [`Operation`]; where one of them needs an enum, it makes it from
//! [`operations`].

mod delete;
mod deliver;
mod describe;
mod effects;
mod history;
mod list;
mod message;
mod notify;
mod operate;
mod query;
mod slot;
mod state;
mod subscribe;
pub mod wire;

pub use delete::Delete;
pub use deliver::{Deliver, Delivered, Delivery, Refused};
pub use describe::Describe;
pub use effects::{ChangeEffect, EffectAction, EffectsPage, Found, ListEffects, Which};
pub use history::ReadHistory;
pub use list::List;
pub use message::Message;
pub use notify::Notify;
pub use operate::Operate;
pub use query::Query;
pub use slot::{Purge, Reset};
pub use state::ReadState;
pub use subscribe::Subscribe;

use crate::{
    error::Error,
    level::Level,
    message::{Client, Purpose},
    names::{ServiceName, SessionKey, SlotId},
};
use bytes::Bytes;
use std::sync::Arc;
use wire::Parts;

/// A request to a slot.
pub trait Operation: Clone + Send + Sync + 'static {
    type Answer: Send + 'static;

    /// Whether it changes something: decides the error when no answer arrives, and whether it is
    /// retried.
    const PURPOSE: Purpose;
    /// The state store is enough to answer it if the slot can't be opened.
    const FROM_COPY: bool;
    /// The receiving task may perform it: it needs one session, and no page of it.
    const AT_ONCE: bool;
    /// It calls the session's handler.
    const CALLS_HANDLER: bool;

    /// `None`: it concerns sessions of every service.
    fn service(&self) -> Option<&ServiceName>;

    /// It need not reflect everything acknowledged before.
    fn may_be_stale(&self) -> bool {
        false
    }

    /// Without what not every node knows at this feature level.
    #[must_use]
    fn at_level(self, _: Level) -> Self {
        self
    }

    /// The session whose handler it calls for a client, and that client: for limits of guest time.
    fn asker(&self) -> Option<(SessionKey, Option<Arc<Client>>)> {
        None
    }

    /// Checks an answer on the node that sent the request for a client.
    ///
    /// # Errors
    /// Why the client can't have it.
    fn accept(answer: Self::Answer) -> Result<Self::Answer, Error> {
        Ok(answer)
    }
}

/// An operation that a node sends to the slot's owner.
pub trait Forwarded: Operation {
    /// The tags of its encoding, which never change. A node that does not know one answers that the
    /// request does not decode. 0, 8 and 9 belong to `rpc`.
    const TAGS: &[u32];

    fn slot(&self, slot_count: u16) -> SlotId;

    /// # Errors
    /// `internal`: a bug; it must not be sent.
    fn encode(self) -> Result<Parts, Error>;

    /// Decodes the fields after one of its tags, and the body.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    fn decode(tag: u32, fields: &[u8], body: Bytes) -> Result<Self, String>;
}

/// Passes the table of operations to the macro `$then`, whose module names `message`, `operation`
/// and `operator`.
#[macro_export]
macro_rules! operations {
    ($then:ident) => {
        $then! {
            // Operations that nodes send each other.
            forwarded {
                Query, ReadHistory, Describe, Delete, List, Subscribe, ReadState, Operate, Notify,
                ListEffects, ChangeEffect, Deliver,
            }
            // Operations with another path to their slot, or that never leave their node.
            other { Message, Reset, Purge, }
            // Answers to operations of the first kind.
            answers {
                Sent(message::Sent),
                Answer(message::Answer),
                History(message::History),
                Deleted(()),
                Sessions(Vec<message::SessionInfo>),
                Subscribed(message::Subscribed),
                Effects(operation::EffectsPage),
                Delivered(operation::Delivered),
            }
            // As above; large, therefore boxed: a message's answer takes the same path.
            boxed {
                Session(message::SessionInfo),
                State(operator::StatePage),
            }
        }
    };
}
pub use operations;
