//! How an [`Entry`] is written, in logs, stores and snapshots and between nodes: its fields, one after
//! the other. The first is its sequence number, which begins at 1. One that does not come from a client,
//! or from one that was shown to be somebody, begins with a 0 instead, a byte for the form of what was added, and its
//! origin; the fields follow. One
//! that has led to something has a form of its own: its origin, if any, and what that is.
//!
//! Versions from before that are never given one: they are written from feature levels 4 and 6 on, and which origins
//! there may be is said in [`Origin::level`].

use super::{DeploymentId, Entry, Event};
use crate::effects::Origin;
use bytes::Bytes;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, SeqAccess, Visitor},
    ser::SerializeTuple,
};
use std::fmt;

/// Its own fields.
const FIELDS: usize = 10;
/// And what goes before them where it has an origin.
const WITH_ORIGIN: usize = FIELDS + 3;
const ORIGIN: u8 = 1;
/// And what it has led to.
const WITH_CAUSED: usize = FIELDS + 4;
const CAUSED: u8 = 2;

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = match &self.origin {
            _ if !self.caused.is_empty() => WITH_CAUSED,
            Some(_) => WITH_ORIGIN,
            None => FIELDS,
        };
        let mut tuple = serializer.serialize_tuple(fields)?;
        if !self.caused.is_empty() {
            tuple.serialize_element(&0u64)?;
            tuple.serialize_element(&CAUSED)?;
            tuple.serialize_element(&self.origin)?;
            tuple.serialize_element(&self.caused)?;
        } else if let Some(origin) = &self.origin {
            tuple.serialize_element(&0u64)?;
            tuple.serialize_element(&ORIGIN)?;
            tuple.serialize_element(origin)?;
        }
        tuple.serialize_element(&self.seq)?;
        tuple.serialize_element(&self.id)?;
        tuple.serialize_element(&self.sender)?;
        tuple.serialize_element(&self.time_ms)?;
        tuple.serialize_element(&self.content_type)?;
        tuple.serialize_element(&self.body)?;
        tuple.serialize_element(&self.reply_content_type)?;
        tuple.serialize_element(&self.reply)?;
        tuple.serialize_element(&self.deployment)?;
        tuple.serialize_element(&self.events)?;
        tuple.end()
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_tuple(WITH_CAUSED, Fields)
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an entry of a session's history")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Entry, A::Error> {
        fn next<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(from: &mut A) -> Result<T, A::Error> {
            from.next_element()?.ok_or_else(|| A::Error::custom("an entry is truncated"))
        }
        let (mut seq, mut origin): (u64, Option<Box<Origin>>) = (next(&mut from)?, None);
        let mut caused = Vec::new();
        if seq == 0 {
            match next::<u8, A>(&mut from)? {
                ORIGIN => origin = Some(next(&mut from)?),
                CAUSED => (origin, caused) = (next(&mut from)?, next(&mut from)?),
                form => {
                    return Err(A::Error::custom(format!(
                        "an entry of form {form} is from a later slotd"
                    )));
                }
            }
            seq = next(&mut from)?;
        }
        let (id, sender, time_ms) = (next(&mut from)?, next(&mut from)?, next(&mut from)?);
        let (content_type, body): (String, Bytes) = (next(&mut from)?, next(&mut from)?);
        let (reply_content_type, reply): (String, Bytes) = (next(&mut from)?, next(&mut from)?);
        let deployment: DeploymentId = next(&mut from)?;
        let events: Vec<Event> = next(&mut from)?;
        Ok(Entry {
            seq,
            id,
            sender,
            time_ms,
            content_type,
            body,
            reply_content_type,
            reply,
            deployment,
            events,
            origin,
            caused,
        })
    }
}
