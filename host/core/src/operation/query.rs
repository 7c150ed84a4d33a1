//! A query to a session's handler.

use super::{
    Forwarded, Operation,
    wire::{Answered, Beside, Parts, detached, fields_and, parts, parts_and, value},
};
use crate::{
    error::Error,
    level::{IDENTITY_FROM, Level},
    message::{Answer, Client, Consistency, Purpose},
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
    /// As a message's.
    pub client: Option<Arc<Client>>,
}

const QUERY: u32 = 1;
/// One of a client that was shown to be somebody. Only at a feature level at which all nodes know it.
const OF_CLIENT: u32 = 18;

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
    fn at_level(self, level: Level) -> Self {
        Self { client: self.client.filter(|_| level >= IDENTITY_FROM), ..self }
    }
    fn asker(&self) -> Option<(SessionKey, Option<Arc<Client>>)> {
        Some((self.key.clone(), self.client.clone()))
    }
}

impl Forwarded for Query {
    const TAGS: &[u32] = &[QUERY, OF_CLIENT];

    fn slot(&self, slot_count: u16) -> SlotId {
        self.key.slot(slot_count)
    }
    fn encode(self) -> Result<Parts, Error> {
        let fields = (self.key, self.content_type, self.consistency.is_local());
        match self.client {
            None => parts(QUERY, &fields, self.body),
            Some(client) => parts(OF_CLIENT, &(fields, client), self.body),
        }
    }
    fn decode(tag: u32, fields: &[u8], body: Bytes) -> Result<Self, String> {
        let (fields, client): ((SessionKey, String, bool), _) = match tag {
            QUERY => (value(fields)?, None),
            _ => value(fields).map(|(fields, client)| (fields, Some(client)))?,
        };
        let (key, content_type, local) = fields;
        let (body, consistency) = (detached(body), Consistency::local(local));
        Ok(Self { key, content_type, body, consistency, client })
    }
}

impl Answered for Answer {
    const TAG: u32 = 1;

    fn encode(self) -> Result<Parts, Error> {
        let Self { slot, plugin, seq, content_type, body, guest_time } = self;
        let fields = (slot, plugin, seq, content_type);
        match guest_time.is_zero() {
            true => parts(Self::TAG, &fields, body),
            false => parts_and(Self::TAG, &fields, &Beside::default().after(guest_time), body),
        }
    }
    fn decode(fields: &[u8], body: Bytes) -> Result<Self, String> {
        let (fields, beside) = fields_and::<(SlotId, Arc<str>, u64, String)>(fields)?;
        let (slot, plugin, seq, content_type) = fields;
        let (body, guest_time) = (detached(body), beside.guest_time());
        Ok(Self { slot, plugin, seq, content_type, body, guest_time })
    }
}
