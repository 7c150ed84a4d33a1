//! One step of a subscription to a session's events. A session need not exist yet; the service must.

use super::{
    Forwarded, Operation,
    wire::{Answered, Beside, Parts, Step, body as in_body, fields_and, parts, parts_and, value},
};
use crate::{
    buffers::{self, Held, Kind},
    error::Error,
    limits,
    message::{Purpose, Subscribed},
    names::{ServiceName, SessionKey, SlotId},
};
use bytes::Bytes;

#[derive(Clone, Debug)]
pub struct Subscribe {
    pub key: SessionKey,
    pub after: u64,
}

impl Operation for Subscribe {
    type Answer = Subscribed;
    const PURPOSE: Purpose = Purpose::Read;
    const FROM_COPY: bool = false;
    const AT_ONCE: bool = false;
    const CALLS_HANDLER: bool = false;

    fn service(&self) -> Option<&ServiceName> {
        Some(&self.key.service)
    }
    fn accept(subscribed: Subscribed) -> Result<Subscribed, Error> {
        // This node is not the one that read it, if that is another node.
        if subscribed.held.bytes() > limits::SUBSCRIBER_BYTES_FREE {
            buffers::shared().check(Kind::Events, 0)?;
        }
        Ok(subscribed)
    }
}

impl Forwarded for Subscribe {
    const TAGS: &[u32] = &[7];

    fn slot(&self, slot_count: u16) -> SlotId {
        self.key.slot(slot_count)
    }
    fn encode(self) -> Result<Parts, Error> {
        parts(Self::TAGS[0], &(self.key, self.after), Bytes::new())
    }
    fn decode(_: u32, fields: &[u8], _: Bytes) -> Result<Self, String> {
        let (key, after) = value(fields)?;
        Ok(Self { key, after })
    }
}

/// The body is a list of [`Step`]. The live end is not sent.
impl Answered for Subscribed {
    const TAG: u32 = 6;

    fn encode(self) -> Result<Parts, Error> {
        let Self { backlog, live: _, incarnation, held: _held } = self;
        let steps: Vec<Step> = backlog.into_iter().map(Step::from).collect();
        parts_and(Self::TAG, &(), &Beside::of(incarnation), in_body(&steps)?)
    }
    fn decode(fields: &[u8], body: Bytes) -> Result<Self, String> {
        let ((), beside) = fields_and(fields)?;
        let incarnation = beside.incarnation();
        let steps: Vec<Step> = value(&body)?;
        let backlog = steps.into_iter().map(|step| step.published(incarnation)).collect();
        Ok(Self { backlog, live: None, incarnation, held: Held::default() })
    }
}
