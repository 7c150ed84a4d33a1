//! Sessions of a service in one slot, in order of their ids.

use super::{
    Forwarded, Operation,
    wire::{Answered, Parts, Session, body as in_body, fields_and, parts, size, value},
};
use crate::{
    error::Error,
    message::{Purpose, SessionInfo},
    names::{ServiceName, SessionId, SlotId},
};
use bytes::Bytes;

#[derive(Clone, Debug)]
pub struct List {
    pub slot: SlotId,
    pub service: ServiceName,
    pub prefix: String,
    pub after: Option<SessionId>,
    pub limit: usize,
    /// Only those that a newer plugin's `migrate` refused.
    pub pinned: bool,
}

impl Operation for List {
    type Answer = Vec<SessionInfo>;
    const PURPOSE: Purpose = Purpose::Read;
    const FROM_COPY: bool = true;
    const AT_ONCE: bool = false;
    const CALLS_HANDLER: bool = false;

    fn service(&self) -> Option<&ServiceName> {
        Some(&self.service)
    }
}

/// The body has the fields. The slot is a list of one.
impl Forwarded for List {
    const TAGS: &[u32] = &[6];

    fn slot(&self, _: u16) -> SlotId {
        self.slot
    }
    fn encode(self) -> Result<Parts, Error> {
        let Self { slot, service, prefix, after, limit, pinned } = self;
        let listing = (vec![slot], service, prefix, after, limit as u64, pinned);
        parts(Self::TAGS[0], &(), in_body(&listing)?)
    }
    fn decode(_: u32, _: &[u8], body: Bytes) -> Result<Self, String> {
        let (slots, service, prefix, after, limit, pinned) =
            value::<(Vec<_>, _, _, _, _, _)>(&body)?;
        let slot = *slots.first().ok_or("a listing of no slot")?;
        Ok(Self { slot, service, prefix, after, limit: size(limit), pinned })
    }
}

/// The body is a list of [`Session`].
impl Answered for Vec<SessionInfo> {
    const TAG: u32 = 5;

    fn encode(self) -> Result<Parts, Error> {
        let list: Vec<Session> = self.into_iter().map(Session::from).collect();
        parts(Self::TAG, &(), in_body(&list)?)
    }
    fn decode(fields: &[u8], body: Bytes) -> Result<Self, String> {
        fields_and::<()>(fields)?;
        let list: Vec<Session> = value(&body)?;
        Ok(list.into_iter().map(SessionInfo::from).collect())
    }
}
