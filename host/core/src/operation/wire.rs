//! The encoding of operations and their answers: a small head (postcard after a version byte) and a
//! body that may be large and is not copied if it is contiguous.
//!
//! A head is a tag and fields identified by their order: changing any type here, or a type of
//! `log::record` used here, is a new version of the protocol (`peer::protocol`). Optional
//! data follows the fields, as [`Beside`]: a version that does not know it stops reading before it.

use crate::{
    effects::Forked,
    error::Error,
    limits,
    log::record::Event,
    message::{PinInfo, Published, SessionInfo},
    names::{ServiceName, SessionId, SlotId},
    position::Incarnation,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{sync::Arc, time::Duration};

/// The first byte of every head.
const WIRE_FORMAT: u8 = 1;

/// An encoded request or answer.
pub struct Parts {
    pub head: Bytes,
    pub body: Bytes,
}

/// An answer's encoding between nodes.
pub trait Answered: Sized {
    /// As [`super::Forwarded::TAGS`]; 7 to 10 are of `rpc`.
    const TAG: u32;

    /// # Errors
    /// `internal`: a bug; the caller must get another error.
    fn encode(self) -> Result<Parts, Error>;

    /// # Errors
    /// What is wrong with the bytes.
    fn decode(fields: &[u8], body: Bytes) -> Result<Self, String>;
}

/// Extra fields of an answer or live item, from versions that know them. Later versions append more
/// after them.
#[derive(Default)]
pub struct Beside {
    /// [`Incarnation`].
    pub incarnation: Option<u64>,
    pub made_again: bool,
    /// Of a session. Left out where it is `false`: versions from before do not write it.
    pub closed: bool,
    /// What a handler has used, in nanoseconds. Left out where it is nothing, as above.
    pub guest_time_ns: u64,
    /// Of a session that was forked off another one. Left out where it was not, as above.
    pub forked: Option<Arc<Forked>>,
}

impl Beside {
    pub fn of(incarnation: Option<Incarnation>) -> Self {
        Self { incarnation: incarnation.map(Incarnation::to_wire), ..Self::default() }
    }
    #[must_use]
    pub fn after(self, guest_time: Duration) -> Self {
        Self { guest_time_ns: u64::try_from(guest_time.as_nanos()).unwrap_or(u64::MAX), ..self }
    }
    pub fn guest_time(&self) -> Duration {
        Duration::from_nanos(self.guest_time_ns)
    }
    pub fn incarnation(&self) -> Option<Incarnation> {
        self.incarnation.map(Incarnation::from_wire)
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let ((incarnation, made_again), rest) = take(bytes)?;
        let (closed, rest) = if rest.is_empty() { (false, rest) } else { take(rest)? };
        let (guest_time_ns, rest) = if rest.is_empty() { (0, rest) } else { take(rest)? };
        let forked = if rest.is_empty() { None } else { Some(value(rest)?) };
        Ok(Self { incarnation, made_again, closed, guest_time_ns, forked })
    }
}

/// [`SessionInfo`] without what JSON leaves out.
#[derive(Serialize, Deserialize)]
pub struct Session {
    service: ServiceName,
    session: SessionId,
    slot: SlotId,
    seq: u64,
    created_ms: u64,
    updated_ms: u64,
    plugin: String,
    state_keys: u64,
    state_bytes: u64,
    pinned: Option<(String, String)>,
}

/// [`Published`].
#[derive(Serialize, Deserialize)]
pub struct Step {
    pub seq: u64,
    pub time_ms: u64,
    pub events: Arc<[Event]>,
}

/// # Errors
/// `internal`: a bug.
pub fn parts(tag: u32, fields: &impl Serialize, body: Bytes) -> Result<Parts, Error> {
    Ok(Parts { head: bytes(vec![WIRE_FORMAT], &(tag, fields))?, body })
}

/// # Errors
/// `internal`: a bug.
pub fn parts_and(
    tag: u32,
    fields: &impl Serialize,
    beside: &Beside,
    body: Bytes,
) -> Result<Parts, Error> {
    let Beside { incarnation, made_again, closed, guest_time_ns, forked } = beside;
    let fields = (tag, fields, incarnation, made_again);
    let start = vec![WIRE_FORMAT];
    let head = match (closed, guest_time_ns, forked) {
        (_, _, Some(forked)) => bytes(start, &(fields, closed, guest_time_ns, forked))?,
        (false, 0, None) => bytes(start, &fields)?,
        (true, 0, None) => bytes(start, &(fields, closed))?,
        _ => bytes(start, &(fields, closed, guest_time_ns))?,
    };
    Ok(Parts { head, body })
}

/// A value as a body.
///
/// # Errors
/// `internal`: a bug.
pub fn body(value: &impl Serialize) -> Result<Bytes, Error> {
    bytes(Vec::new(), value)
}

fn bytes(start: Vec<u8>, value: &impl Serialize) -> Result<Bytes, Error> {
    postcard::to_extend(value, start)
        .map(Bytes::from)
        .map_err(|e| Error::internal(format!("bug: can't encode a message for a peer: {e}")))
}

/// A head's tag, and the bytes after it.
///
/// # Errors
/// What is wrong with the bytes.
pub fn split(head: &[u8]) -> Result<(u32, &[u8]), String> {
    match head.split_first() {
        Some((&WIRE_FORMAT, rest)) => postcard::take_from_bytes(rest).map_err(|e| e.to_string()),
        Some((format, _)) => Err(format!("its format is {format}; this slotd reads {WIRE_FORMAT}")),
        None => Err("it is empty".into()),
    }
}

/// A tag unknown to this version.
pub fn unknown_tag() -> String {
    postcard::Error::SerdeDeCustom.to_string()
}

/// Fields, and their extra fields: none, from a version that does not know them.
///
/// # Errors
/// What is wrong with the bytes.
pub fn fields_and<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, Beside), String> {
    let (fields, rest) = postcard::take_from_bytes(bytes).map_err(|e| e.to_string())?;
    let beside = if rest.is_empty() { Beside::default() } else { Beside::decode(rest)? };
    Ok((fields, beside))
}

/// A value, and the bytes after it.
///
/// # Errors
/// What is wrong with the bytes.
pub fn take<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), String> {
    postcard::take_from_bytes(bytes).map_err(|e| e.to_string())
}

/// Bytes after it, from a later version, are ignored.
///
/// # Errors
/// What is wrong with the bytes.
pub fn value<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    postcard::from_bytes(bytes).map_err(|e| e.to_string())
}

/// A small body would keep its whole frame in memory for as long as it is held.
pub fn detached(body: Bytes) -> Bytes {
    if body.len() <= limits::BODY_COPY_BYTES_MAX { Bytes::copy_from_slice(&body) } else { body }
}

/// A limit as received.
pub fn size(limit: u64) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

impl From<SessionInfo> for Session {
    fn from(info: SessionInfo) -> Self {
        Self {
            service: info.service,
            session: info.session,
            slot: info.slot,
            seq: info.seq,
            created_ms: info.created_ms,
            updated_ms: info.updated_ms,
            plugin: info.plugin,
            state_keys: info.state_keys,
            state_bytes: info.state_bytes,
            pinned: info.pinned.map(|pin| (pin.against, pin.reason)),
        }
    }
}

impl From<Session> for SessionInfo {
    fn from(session: Session) -> Self {
        Self {
            service: session.service,
            session: session.session,
            slot: session.slot,
            seq: session.seq,
            created_ms: session.created_ms,
            updated_ms: session.updated_ms,
            plugin: session.plugin,
            state_keys: session.state_keys,
            state_bytes: session.state_bytes,
            pinned: session.pinned.map(|(against, reason)| PinInfo { against, reason }),
            incarnation: None,
            made_again: false,
            closed: false,
            forked: None,
        }
    }
}

impl From<Published> for Step {
    fn from(Published { seq, incarnation: _, time_ms, events }: Published) -> Self {
        Self { seq, time_ms, events }
    }
}

impl Step {
    pub fn published(self, incarnation: Option<Incarnation>) -> Published {
        let Self { seq, time_ms, events } = self;
        Published { seq, incarnation, time_ms, events }
    }
}
