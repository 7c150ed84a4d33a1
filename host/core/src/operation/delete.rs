//! Deletes a session with everything it has, and notifies its subscribers.

use super::{
    Forwarded, Operation,
    wire::{Answered, Parts, fields_and, parts, value},
};
use crate::{
    error::Error,
    message::Purpose,
    names::{ServiceName, SessionKey, SlotId},
};
use bytes::Bytes;

#[derive(Clone, Debug)]
pub struct Delete {
    pub key: SessionKey,
}

impl Operation for Delete {
    type Answer = ();
    const PURPOSE: Purpose = Purpose::Delete;
    const FROM_COPY: bool = false;
    const AT_ONCE: bool = true;
    const CALLS_HANDLER: bool = false;

    fn service(&self) -> Option<&ServiceName> {
        Some(&self.key.service)
    }
}

impl Forwarded for Delete {
    const TAGS: &[u32] = &[5];

    fn slot(&self, slot_count: u16) -> SlotId {
        self.key.slot(slot_count)
    }
    fn encode(self) -> Result<Parts, Error> {
        parts(Self::TAGS[0], &self.key, Bytes::new())
    }
    fn decode(_: u32, fields: &[u8], _: Bytes) -> Result<Self, String> {
        Ok(Self { key: value(fields)? })
    }
}

impl Answered for () {
    const TAG: u32 = 4;

    fn encode(self) -> Result<Parts, Error> {
        parts(Self::TAG, &(), Bytes::new())
    }
    fn decode(fields: &[u8], _: Bytes) -> Result<Self, String> {
        fields_and(fields).map(|((), _)| ())
    }
}
