//! Messages that sessions of one slot have sent to sessions of another. Only from
//! [`SENDS_FROM`](crate::level::SENDS_FROM) on: before, there are none, and not every node knows these.

use super::{
    Forwarded, Operation,
    wire::{Answered, Parts, body as in_body, fields_and, parts, value},
};
use crate::{
    effects::send::{Number, Refusal},
    error::Error,
    message::Purpose,
    names::{ServiceName, SessionKey, SlotId},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Messages from one slot to another, in the order of their numbers. Those that are there already are passed
/// over.
#[derive(Clone, Debug)]
pub struct Deliver {
    pub from: SlotId,
    pub to: SlotId,
    /// Greater than that of all pieces that were sent from that slot before.
    pub round: Number,
    pub messages: Vec<Delivery>,
}

/// One of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Delivery {
    pub number: Number,
    /// Who has sent it, and its number in its slot.
    pub from: SessionKey,
    pub session_number: u64,
    /// [`crate::effects::Outgoing`], as it is stored.
    pub outgoing: Bytes,
}

/// How far messages were delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// All up to this one are there for good.
    pub last: Number,
    /// What became of the first behind it: it was refused and left no trace, and those after it were not looked
    /// at.
    pub refused: Option<Refused>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    pub number: Number,
    pub refusal: Refusal,
    /// It was an attempt: the handler was called. Else the node lacked something.
    pub counts: bool,
}

impl Operation for Deliver {
    type Answer = Delivered;
    /// It is carried out once: repeated, it is refused.
    const PURPOSE: Purpose = Purpose::Step;
    const FROM_COPY: bool = false;
    const AT_ONCE: bool = false;
    const CALLS_HANDLER: bool = true;

    fn service(&self) -> Option<&ServiceName> {
        None
    }
}

/// The body has the messages.
impl Forwarded for Deliver {
    const TAGS: &[u32] = &[15];

    fn slot(&self, _: u16) -> SlotId {
        self.to
    }
    fn encode(self) -> Result<Parts, Error> {
        let Self { from, to, round, messages } = self;
        parts(Self::TAGS[0], &(from, to, round), in_body(&messages)?)
    }
    fn decode(_: u32, fields: &[u8], body: Bytes) -> Result<Self, String> {
        let (from, to, round) = value(fields)?;
        Ok(Self { from, to, round, messages: value(&body)? })
    }
}

impl Answered for Delivered {
    const TAG: u32 = 13;

    fn encode(self) -> Result<Parts, Error> {
        parts(Self::TAG, &(self.last, self.refused), Bytes::new())
    }
    fn decode(fields: &[u8], _: Bytes) -> Result<Self, String> {
        let ((last, refused), _) = fields_and(fields)?;
        Ok(Self { last, refused })
    }
}
