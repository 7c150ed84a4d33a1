//! An operator's change to a session. A repeat is applied once.

use super::{
    Forwarded, Operation,
    wire::{Parts, body as in_body, parts, value},
};
use crate::{
    error::Error,
    message::{Purpose, Sent},
    names::{ServiceName, SessionKey, SlotId},
    operator,
};
use bytes::Bytes;

#[derive(Clone, Debug)]
pub struct Operate {
    pub key: SessionKey,
    pub operation: operator::Operation,
}

impl Operation for Operate {
    type Answer = Sent;
    const PURPOSE: Purpose = Purpose::Operation;
    const FROM_COPY: bool = false;
    const AT_ONCE: bool = false;
    const CALLS_HANDLER: bool = false;

    fn service(&self) -> Option<&ServiceName> {
        Some(&self.key.service)
    }
}

/// The body is the [`operator::Operation`].
impl Forwarded for Operate {
    const TAGS: &[u32] = &[11];

    fn slot(&self, slot_count: u16) -> SlotId {
        self.key.slot(slot_count)
    }
    fn encode(self) -> Result<Parts, Error> {
        parts(Self::TAGS[0], &self.key, in_body(&self.operation)?)
    }
    fn decode(_: u32, fields: &[u8], body: Bytes) -> Result<Self, String> {
        Ok(Self { key: value(fields)?, operation: value(&body)? })
    }
}
