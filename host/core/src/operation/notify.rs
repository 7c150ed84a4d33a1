//! An ephemeral event from a client, for whoever is subscribed to a session. The session need not exist; the
//! service must.

use super::{
    Forwarded, Operation,
    wire::{Parts, detached, parts, value},
};
use crate::{
    error::Error,
    log::record::Event,
    message::Purpose,
    names::{ServiceName, SessionKey, SlotId},
};
use bytes::Bytes;

#[derive(Clone, Debug)]
pub struct Notify {
    pub key: SessionKey,
    pub sender: Option<String>,
    pub event: Event,
}

impl Operation for Notify {
    type Answer = ();
    /// It changes nothing. One whose answer is lost may be sent twice.
    const PURPOSE: Purpose = Purpose::Read;
    const FROM_COPY: bool = false;
    const AT_ONCE: bool = true;
    const CALLS_HANDLER: bool = false;

    fn service(&self) -> Option<&ServiceName> {
        Some(&self.key.service)
    }
}

impl Forwarded for Notify {
    const TAGS: &[u32] = &[12];

    fn slot(&self, slot_count: u16) -> SlotId {
        self.key.slot(slot_count)
    }
    fn encode(self) -> Result<Parts, Error> {
        let Self { key, sender, event: Event { kind, content_type, body } } = self;
        parts(Self::TAGS[0], &(key, sender, kind, content_type), body)
    }
    fn decode(_: u32, fields: &[u8], body: Bytes) -> Result<Self, String> {
        let (key, sender, kind, content_type) = value(fields)?;
        let event = Event { kind, content_type, body: detached(body) };
        Ok(Self { key, sender, event })
    }
}
