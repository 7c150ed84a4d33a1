//! A query to a session's handler.

use super::{
    Forwarded, Operation,
    wire::{Answered, Parts, detached, fields_and, parts, value},
};
use crate::{
    error::Error,
    message::{Answer, Consistency, Purpose},
    names::{ServiceName, SessionKey, SlotId},
};
use bytes::Bytes;
use std::sync::Arc;

#[derive(Clone, Debug)]
pub struct Query {
    pub key: SessionKey,
    pub content_type: String,
    pub body: Bytes,
    pub consistency: Consistency,
}

impl Operation for Query {
    type Answer = Answer;
    const PURPOSE: Purpose = Purpose::Read;
    const FROM_COPY: bool = true;
    const AT_ONCE: bool = true;
    const CALLS_HANDLER: bool = true;

    fn service(&self) -> Option<&ServiceName> {
        Some(&self.key.service)
    }
    fn may_be_stale(&self) -> bool {
        self.consistency.is_local()
    }
}

impl Forwarded for Query {
    const TAGS: &[u32] = &[1];

    fn slot(&self, slot_count: u16) -> SlotId {
        self.key.slot(slot_count)
    }
    fn encode(self) -> Result<Parts, Error> {
        parts(Self::TAGS[0], &(self.key, self.content_type, self.consistency.is_local()), self.body)
    }
    fn decode(_: u32, fields: &[u8], body: Bytes) -> Result<Self, String> {
        let (key, content_type, local) = value(fields)?;
        let (body, consistency) = (detached(body), Consistency::local(local));
        Ok(Self { key, content_type, body, consistency })
    }
}

impl Answered for Answer {
    const TAG: u32 = 1;

    fn encode(self) -> Result<Parts, Error> {
        let Self { slot, plugin, seq, content_type, body } = self;
        parts(Self::TAG, &(slot, plugin, seq, content_type), body)
    }
    fn decode(fields: &[u8], body: Bytes) -> Result<Self, String> {
        let (fields, _) = fields_and::<(SlotId, Arc<str>, u64, String)>(fields)?;
        let (slot, plugin, seq, content_type) = fields;
        Ok(Self { slot, plugin, seq, content_type, body: detached(body) })
    }
}
