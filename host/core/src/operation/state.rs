//! A part of a session's state, for an operator.

use super::{
    Forwarded, Operation,
    wire::{
        Answered, Beside, Parts, Session, body as in_body, fields_and, parts, parts_and, value,
    },
};
use crate::{
    error::Error,
    message::{Purpose, SessionInfo},
    names::{ServiceName, SessionKey, SlotId},
    operator::{StatePage, StateRange},
};
use bytes::Bytes;

#[derive(Clone, Debug)]
pub struct ReadState {
    pub key: SessionKey,
    pub range: StateRange,
}

impl Operation for ReadState {
    type Answer = StatePage;
    const PURPOSE: Purpose = Purpose::Read;
    const FROM_COPY: bool = true;
    const AT_ONCE: bool = false;
    const CALLS_HANDLER: bool = false;

    fn service(&self) -> Option<&ServiceName> {
        Some(&self.key.service)
    }
}

/// The body is the [`StateRange`].
impl Forwarded for ReadState {
    const TAGS: &[u32] = &[10];

    fn slot(&self, slot_count: u16) -> SlotId {
        self.key.slot(slot_count)
    }
    fn encode(self) -> Result<Parts, Error> {
        parts(Self::TAGS[0], &self.key, in_body(&self.range)?)
    }
    fn decode(_: u32, fields: &[u8], body: Bytes) -> Result<Self, String> {
        Ok(Self { key: value(fields)?, range: value(&body)? })
    }
}

/// The body has the [`Session`] and the state.
impl Answered for StatePage {
    const TAG: u32 = 11;

    fn encode(self) -> Result<Parts, Error> {
        let Self { info, pairs, more } = self;
        let beside = Beside::of(info.incarnation);
        parts_and(Self::TAG, &(), &beside, in_body(&(Session::from(info), pairs, more))?)
    }
    fn decode(fields: &[u8], body: Bytes) -> Result<Self, String> {
        let ((), beside) = fields_and(fields)?;
        let (session, pairs, more) = value::<(Session, _, _)>(&body)?;
        let info = SessionInfo { incarnation: beside.incarnation(), ..session.into() };
        Ok(Self { info, pairs, more })
    }
}
