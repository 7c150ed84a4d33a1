//! A session's description.

use super::{
    Forwarded, Operation,
    wire::{
        Answered, Beside, Parts, Session, body as in_body, fields_and, parts, parts_and, value,
    },
};
use crate::{
    error::Error,
    message::{Consistency, Purpose, SessionInfo},
    names::{ServiceName, SessionKey, SlotId},
};
use bytes::Bytes;

#[derive(Clone, Debug)]
pub struct Describe {
    pub key: SessionKey,
    pub consistency: Consistency,
}

impl Operation for Describe {
    type Answer = SessionInfo;
    const PURPOSE: Purpose = Purpose::Read;
    const FROM_COPY: bool = true;
    const AT_ONCE: bool = true;
    const CALLS_HANDLER: bool = false;

    fn service(&self) -> Option<&ServiceName> {
        Some(&self.key.service)
    }
    fn may_be_stale(&self) -> bool {
        self.consistency.is_local()
    }
}

impl Forwarded for Describe {
    const TAGS: &[u32] = &[4];

    fn slot(&self, slot_count: u16) -> SlotId {
        self.key.slot(slot_count)
    }
    fn encode(self) -> Result<Parts, Error> {
        parts(Self::TAGS[0], &(self.key, self.consistency.is_local()), Bytes::new())
    }
    fn decode(_: u32, fields: &[u8], _: Bytes) -> Result<Self, String> {
        let (key, local) = value(fields)?;
        Ok(Self { key, consistency: Consistency::local(local) })
    }
}

/// The body is a [`Session`].
impl Answered for SessionInfo {
    const TAG: u32 = 3;

    fn encode(self) -> Result<Parts, Error> {
        let (made_again, closed) = (self.made_again, self.closed);
        let forked = self.forked.clone();
        let beside = Beside { made_again, closed, forked, ..Beside::of(self.incarnation) };
        parts_and(Self::TAG, &(), &beside, in_body(&Session::from(self))?)
    }
    fn decode(fields: &[u8], body: Bytes) -> Result<Self, String> {
        let ((), beside) = fields_and(fields)?;
        let (incarnation, made_again) = (beside.incarnation(), beside.made_again);
        let (closed, forked) = (beside.closed, beside.forked);
        Ok(Self { incarnation, made_again, closed, forked, ..value::<Session>(&body)?.into() })
    }
}
