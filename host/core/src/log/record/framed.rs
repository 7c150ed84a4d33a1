//! Batches of format 2: `2 | slot, term, attempt | number of records`, then each record as
//! `kind u8 | length u32 (little-endian) | fields`. Numbers and fields are postcard's.
//!
//! A kind keeps its number for ever. A reader refuses a batch that has a kind, or fields behind those
//! that it knows: a log that is replayed with something left out is another history. What is written
//! in addition one day needs a feature level of its own ([`crate::level`]).

use super::{
    Activate, Batch, Delete, DeploymentId, Effects, Entry, Head, Message, Pin, Received, Record,
    Write,
};
use crate::{
    effects::Change,
    log::Term,
    names::{SessionKey, SlotId},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{borrow::Cow, sync::Arc};

pub(super) const FORMAT: u8 = 2;

const CLAIM: u8 = 1;
const RELEASE: u8 = 2;
const ACTIVATE: u8 = 3;
const MESSAGE: u8 = 4;
const DELETE: u8 = 5;
/// As [`MESSAGE`] and [`DELETE`], with the effects that change behind it. As [`EFFECTS`], from feature
/// level 4 on.
const MESSAGE_WITH_EFFECTS: u8 = 6;
const DELETE_WITH_EFFECTS: u8 = 7;
const EFFECTS: u8 = 8;
/// From feature level 5 on.
const RECEIVED: u8 = 9;
/// Kind and length.
const RECORD_HEAD_BYTES: usize = 5;

/// A message's fields. What the head repeats of the entry is written once.
#[derive(Serialize, Deserialize)]
struct Fields<'a> {
    key: Cow<'a, SessionKey>,
    session_number: u64,
    entry: Cow<'a, Arc<Entry>>,
    fingerprint: u128,
    writes: Cow<'a, [Write]>,
    created_ms: u64,
    updated_ms: u64,
    deployment: DeploymentId,
    pinned: Cow<'a, Option<Pin>>,
    state_keys: u64,
    state_bytes: u64,
}

impl<'a> Fields<'a> {
    fn of(message: &'a Message) -> Self {
        let head = &message.head;
        Self {
            key: Cow::Borrowed(&message.key),
            session_number: message.session_number,
            entry: Cow::Borrowed(&message.entry),
            fingerprint: message.fingerprint,
            writes: Cow::Borrowed(&message.writes),
            created_ms: head.created_ms,
            updated_ms: head.updated_ms,
            deployment: head.deployment,
            pinned: Cow::Borrowed(&head.pinned),
            state_keys: head.state_keys,
            state_bytes: head.state_bytes,
        }
    }

    fn message(self, effects: Vec<Change>) -> Message {
        let entry = self.entry.into_owned();
        let head = Head {
            session_number: self.session_number,
            seq: entry.seq,
            created_ms: self.created_ms,
            updated_ms: self.updated_ms,
            deployment: self.deployment,
            pinned: self.pinned.into_owned(),
            state_keys: self.state_keys,
            state_bytes: self.state_bytes,
        };
        Message {
            key: self.key.into_owned(),
            session_number: self.session_number,
            entry,
            fingerprint: self.fingerprint,
            writes: self.writes.into_owned(),
            head,
            effects,
        }
    }
}

/// # Errors
/// Why it can't be encoded: a bug.
pub(super) fn encode(batch: &Batch, mut out: Vec<u8>) -> Result<Vec<u8>, String> {
    out.push(FORMAT);
    out = put(&(batch.slot, batch.term, batch.attempt, batch.records.len()), out)?;
    for record in &batch.records {
        let at = out.len();
        out.extend_from_slice(&[0; RECORD_HEAD_BYTES]);
        let kind;
        (kind, out) = match record {
            Record::Claim { node } => (CLAIM, put(node, out)?),
            Record::Release { node } => (RELEASE, put(node, out)?),
            Record::Activate(activate) => (ACTIVATE, put(activate, out)?),
            Record::Message(message) => {
                let (head, entry) = (&message.head, &message.entry);
                if (head.session_number, head.seq) != (message.session_number, entry.seq) {
                    return Err("a message and its head have different positions".into());
                }
                out = put(&Fields::of(message), out)?;
                match message.effects.is_empty() {
                    true => (MESSAGE, out),
                    false => (MESSAGE_WITH_EFFECTS, put(&message.effects, out)?),
                }
            }
            Record::Delete(delete) => {
                out = put(delete, out)?;
                match delete.effects.is_empty() {
                    true => (DELETE, out),
                    false => (DELETE_WITH_EFFECTS, put(&delete.effects, out)?),
                }
            }
            Record::Effects(effects) => (EFFECTS, put(effects, out)?),
            Record::Received(received) => (RECEIVED, put(received, out)?),
        };
        let length = u32::try_from(out.len() - at - RECORD_HEAD_BYTES);
        let length = length.map_err(|_| "a record is too long".to_owned())?;
        out[at] = kind;
        out[at + 1..at + RECORD_HEAD_BYTES].copy_from_slice(&length.to_le_bytes());
    }
    Ok(out)
}

fn put(value: &impl Serialize, out: Vec<u8>) -> Result<Vec<u8>, String> {
    postcard::to_extend(value, out).map_err(|e| e.to_string())
}

type Place = (SlotId, Term, u128);

/// Slot, term and attempt, of what follows the format.
///
/// # Errors
/// Why it does not decode.
pub(super) fn peek(rest: &[u8]) -> Result<Place, String> {
    postcard::take_from_bytes(rest).map(|(place, _)| place).map_err(|e| e.to_string())
}

/// # Errors
/// Why what follows the format does not decode.
pub(super) fn decode(rest: &[u8]) -> Result<Batch, String> {
    let ((slot, term, attempt, count), mut rest): ((SlotId, Term, u128, usize), _) =
        postcard::take_from_bytes(rest).map_err(|e| e.to_string())?;
    // Bounded by the bytes that are there, whatever the count is.
    let mut records = Vec::with_capacity(count.min(rest.len() / RECORD_HEAD_BYTES));
    for _ in 0..count {
        let short = || "a record is truncated".to_owned();
        let (head, tail) = rest.split_first_chunk::<RECORD_HEAD_BYTES>().ok_or_else(short)?;
        let [kind, length @ ..] = *head;
        let (fields, tail) =
            tail.split_at_checked(u32::from_le_bytes(length) as usize).ok_or_else(short)?;
        records.push(match kind {
            CLAIM => Record::Claim { node: get(fields)? },
            RELEASE => Record::Release { node: get(fields)? },
            ACTIVATE => Record::Activate(get::<Activate>(fields)?),
            MESSAGE => Record::Message(Box::new(get::<Fields<'_>>(fields)?.message(Vec::new()))),
            MESSAGE_WITH_EFFECTS => {
                let (message, effects) = get::<(Fields<'_>, _)>(fields)?;
                Record::Message(Box::new(message.message(effects)))
            }
            DELETE => Record::Delete(get::<Delete>(fields)?),
            DELETE_WITH_EFFECTS => {
                let (delete, effects) = get::<(Delete, _)>(fields)?;
                Record::Delete(Delete { effects, ..delete })
            }
            EFFECTS => Record::Effects(Box::new(get::<Effects>(fields)?)),
            RECEIVED => Record::Received(get::<Received>(fields)?),
            other => return Err(format!("a record of kind {other} is from a later slotd")),
        });
        rest = tail;
    }
    match rest.len() {
        0 => Ok(Batch { slot, term, attempt, records }),
        left => Err(format!("{left} bytes follow its last record")),
    }
}

fn get<T: DeserializeOwned>(fields: &[u8]) -> Result<T, String> {
    let (value, rest) = postcard::take_from_bytes(fields).map_err(|e| e.to_string())?;
    match rest.len() {
        0 => Ok(value),
        left => Err(format!("{left} bytes of a record are fields from a later slotd")),
    }
}
