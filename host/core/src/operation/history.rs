//! A page of a session's history.

use super::{
    Forwarded, Operation,
    wire::{Answered, Beside, Parts, body as in_body, fields_and, parts, parts_and, size, value},
};
use crate::{
    buffers::Held,
    error::Error,
    message::{Consistency, History, Purpose, Range, ReadBy},
    names::{ServiceName, SessionKey, SlotId},
};
use bytes::Bytes;

const AFTER: u32 = 2;
const TAIL: u32 = 3;

#[derive(Clone, Debug)]
pub struct ReadHistory {
    pub key: SessionKey,
    pub range: Range,
    pub reader: ReadBy,
    pub consistency: Consistency,
}

impl Operation for ReadHistory {
    type Answer = History;
    const PURPOSE: Purpose = Purpose::Read;
    const FROM_COPY: bool = true;
    const AT_ONCE: bool = false;
    const CALLS_HANDLER: bool = false;

    fn service(&self) -> Option<&ServiceName> {
        Some(&self.key.service)
    }
    fn may_be_stale(&self) -> bool {
        self.consistency.is_local()
    }
}

impl Forwarded for ReadHistory {
    const TAGS: &[u32] = &[AFTER, TAIL];

    fn slot(&self, slot_count: u16) -> SlotId {
        self.key.slot(slot_count)
    }
    fn encode(self) -> Result<Parts, Error> {
        let Self { key, range, reader: _, consistency } = self;
        let local = consistency.is_local();
        match range {
            Range::After { seq, limit } => {
                parts(AFTER, &(key, seq, limit as u64, local), Bytes::new())
            }
            Range::Tail { limit } => parts(TAIL, &(key, limit as u64, local), Bytes::new()),
        }
    }
    fn decode(tag: u32, fields: &[u8], _: Bytes) -> Result<Self, String> {
        let (key, range, local) = match tag {
            AFTER => {
                let (key, seq, limit, local) = value(fields)?;
                (key, Range::After { seq, limit: size(limit) }, local)
            }
            _ => {
                let (key, limit, local) = value(fields)?;
                (key, Range::Tail { limit: size(limit) }, local)
            }
        };
        // Wherever it was read: the queue for a peer is bounded here.
        let (reader, consistency) = (ReadBy::Client, Consistency::local(local));
        Ok(Self { key, range, reader, consistency })
    }
}

/// The body has the entries with their labels.
impl Answered for History {
    const TAG: u32 = 2;

    fn encode(self) -> Result<Parts, Error> {
        let Self { slot, entries, last_seq, incarnation, made_again, forked, .. } = self;
        let beside = Beside { made_again, forked, ..Beside::of(incarnation) };
        parts_and(Self::TAG, &(slot, last_seq), &beside, in_body(&entries)?)
    }
    fn decode(fields: &[u8], body: Bytes) -> Result<Self, String> {
        let ((slot, last_seq), beside) = fields_and(fields)?;
        let (incarnation, made_again) = (beside.incarnation(), beside.made_again);
        let (entries, held) = (value(&body)?, Held::default());
        let (forked, begins) = (beside.forked, None);
        Ok(Self { slot, entries, last_seq, incarnation, made_again, forked, begins, held })
    }
}
