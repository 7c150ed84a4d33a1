//! A message. Between nodes it has its own path, which keeps the order: see
//! `router::forward`.

use super::{
    Operation,
    wire::{Answered, Beside, Parts, detached, fields_and, parts_and},
};
use crate::{
    error::Error,
    loads::Admitted,
    message::{Incoming, Purpose, Sent},
    names::{ServiceName, SessionKey, SlotId},
};
use bytes::Bytes;
use std::{sync::Arc, time::Instant};

#[derive(Clone, Debug)]
pub struct Message {
    pub key: SessionKey,
    pub message: Incoming,
    /// Of its service's work on this node, from when it is let through.
    pub admitted: Admitted,
    /// When it came to its slot's node.
    pub came: Instant,
}

impl Message {
    pub fn new(key: SessionKey, message: Incoming) -> Self {
        Self { key, message, admitted: Admitted::default(), came: crate::clock::now() }
    }
}

impl Operation for Message {
    type Answer = Sent;
    const PURPOSE: Purpose = Purpose::Message;
    const FROM_COPY: bool = false;
    const AT_ONCE: bool = true;
    const CALLS_HANDLER: bool = true;

    fn service(&self) -> Option<&ServiceName> {
        Some(&self.key.service)
    }
}

impl Answered for Sent {
    const TAG: u32 = 0;

    fn encode(self) -> Result<Parts, Error> {
        let Self { seq, incarnation, slot, plugin, replayed, content_type, body, guest_time } =
            self;
        let fields = (seq, slot, plugin, replayed, content_type);
        parts_and(Self::TAG, &fields, &Beside::of(incarnation).after(guest_time), body)
    }
    fn decode(fields: &[u8], body: Bytes) -> Result<Self, String> {
        type Fields = (u64, SlotId, Arc<str>, bool, String);
        let (fields, beside) = fields_and::<Fields>(fields)?;
        let (seq, slot, plugin, replayed, content_type) = fields;
        let (incarnation, guest_time) = (beside.incarnation(), beside.guest_time());
        let body = detached(body);
        Ok(Self { seq, incarnation, slot, plugin, replayed, content_type, body, guest_time })
    }
}
