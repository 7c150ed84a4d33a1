//! The rows of effects in a slot's state, under session numbers that no session has: what stores,
//! flushes and snapshots do with the rows of sessions they do with these.
//!
//! | session number | row | value |
//! |---|---|---|
//! | [`of_session`] | `1`, name | a timer that is set: [`Timer`] |
//! | | `2`, name, `0`, time | a timer's message that was given up: [`Dead`] |
//! | | `3`, name, `0`, time | one that an operator has tried again: [`Timer`] |
//! | | `4`, place | a message on its way to another session: [`Outgoing`] |
//! | | `5`, place | one that waits to be tried again: [`Outgoing`] |
//! | | `6`, place | what came of one, for the handler: [`Outcome`] |
//! | | `7`, place | a message to another session that was given up: [`GivenUp`] |
//! | | `8`, place | an outcome that was given up: [`GivenUp`] |
//! | | `9` | when the session is deleted: [`Expiry`] |
//! | | `10`, id | a request over HTTP that is open: [`Request`] |
//! | | `11`, id | an answer to one that the handler has failed: [`Answer`] |
//! | | `12`, id, `0`, time | an answer that was given up: [`GivenUp`] |
//! | | `13` | the session takes no more messages: [`Closed`] |
//! | | `14` | the handler is told of subscribers: [`Watch`] |
//! | | `15` | the session was forked off another one: [`Forked`] |
//! | [`DUE`] | time, session number, row above | whose it is: [`Owner`] |
//! | [`OUTBOX`] | place, session number | whose message it is that is on its way there: [`Owner`] |
//! | [`RECEIVED`] | slot | what has come from that slot: [`Mark`] |
//!
//! A place is the slot that it goes to, and its [`Number`]: term, index.
//! Times and numbers are big-endian, so that what is due first, or sent first, comes first. A value has a byte for its
//! form, and is postcard's behind it.

use super::{
    Dead, Expiry, Forked, GivenUp, Outcome, Outgoing, Timer,
    http::{Answer, Closed, Request, Watch},
    send::{Mark, Number, Place},
};
use crate::{
    level::{EFFECTS_FROM, FORKED_FROM, HTTP_FROM, Level, SENDS_FROM},
    names::{SessionKey, SlotId},
    trace::Trace,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Session numbers are below this.
const RESERVED: u64 = 1 << 62;
/// Where it is written what is due when.
pub const DUE: u64 = (1 << 63) - 1;
/// Where it is written what is on its way to which slot.
pub const OUTBOX: u64 = (1 << 63) - 2;
/// Where it is written what has come from other slots.
pub const RECEIVED: u64 = (1 << 63) - 3;
/// The form of a value. A later one needs a feature level of its own.
const FORM: u8 = 1;
/// Of a message to another session that is part of a trace, which comes behind it. From [`HTTP_FROM`] on.
const TRACED_FORM: u8 = 2;

const TIMER: u8 = 1;
const DEAD: u8 = 2;
const RETRIED: u8 = 3;
const OUTGOING: u8 = 4;
const WAITING: u8 = 5;
const OUTCOME: u8 = 6;
const DEAD_OUTGOING: u8 = 7;
const DEAD_OUTCOME: u8 = 8;
const EXPIRY: u8 = 9;
const REQUEST: u8 = 10;
const ANSWER: u8 = 11;
const DEAD_ANSWER: u8 = 12;
const CLOSED: u8 = 13;
const WATCH: u8 = 14;
const FORKED: u8 = 15;
/// Of a row with a place.
const PLACED_BYTES: usize = 1 + PLACE_BYTES;
const PLACE_BYTES: usize = 2 + 8 + 8;

/// Where the effects of a session are.
pub fn of_session(session_number: u64) -> u64 {
    RESERVED | session_number
}

/// A row of effects that changes, with the message that asks for it or that comes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub row: Bytes,
    /// `None`: it goes.
    pub value: Option<Bytes>,
    /// When it was due, if it was there; and when it is now. In milliseconds since the Unix epoch.
    pub was_due: Option<u64>,
    pub due: Option<u64>,
}

/// What a row stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Name {
    /// A timer, by name.
    Timer(String),
    /// A timer's message that was given up: its name, and the time that it was for.
    Dead(String, u64),
    Retried(String, u64),
    /// A message on its way to another session.
    Outgoing(Place),
    /// One that was refused, and is tried again later.
    Waiting(Place),
    /// What came of a message, for the handler.
    Outcome(Place),
    DeadOutgoing(Place),
    DeadOutcome(Place),
    /// When the session is deleted.
    Expiry,
    /// A request over HTTP, by its id.
    Request(String),
    /// The answer to one that the handler has failed.
    Answer(String),
    /// One that was given up: the request's id, and a time that tells several apart.
    DeadAnswer(String, u64),
    Closed,
    Watch,
    /// Where the session comes from.
    Forked,
}

/// The session that something due is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner(pub SessionKey);

/// A row of what is due: the time, the session's number and its row. In that order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Due {
    pub due_ms: u64,
    pub session_number: u64,
    pub row: Bytes,
}

impl Name {
    /// The name of the timer, or the id of the request, that it is of; empty if it is of none.
    pub fn text(&self) -> &str {
        match self {
            Self::Timer(name)
            | Self::Dead(name, _)
            | Self::Retried(name, _)
            | Self::Request(name)
            | Self::Answer(name)
            | Self::DeadAnswer(name, _) => name,
            _ => "",
        }
    }

    /// The place that it is of; `None`: it is of none.
    pub fn place(&self) -> Option<Place> {
        match self {
            Self::Timer(_)
            | Self::Dead(..)
            | Self::Retried(..)
            | Self::Expiry
            | Self::Request(_)
            | Self::Answer(_)
            | Self::DeadAnswer(..)
            | Self::Closed
            | Self::Watch
            | Self::Forked => None,
            Self::Outgoing(place)
            | Self::Waiting(place)
            | Self::Outcome(place)
            | Self::DeadOutgoing(place)
            | Self::DeadOutcome(place) => Some(*place),
        }
    }

    /// It is shown among timers.
    pub fn is_timers(&self) -> bool {
        matches!(self, Self::Timer(_) | Self::Retried(..) | Self::Expiry)
    }

    /// It is shown among what is on its way: it goes out of the session, or comes back.
    pub fn is_outbox(&self) -> bool {
        match self {
            Self::Outgoing(_)
            | Self::Waiting(_)
            | Self::Outcome(_)
            | Self::Request(_)
            | Self::Answer(_) => true,
            Self::Timer(_)
            | Self::Dead(..)
            | Self::Retried(..)
            | Self::DeadOutgoing(_)
            | Self::DeadOutcome(_)
            | Self::Expiry
            | Self::DeadAnswer(..)
            | Self::Closed
            | Self::Watch
            | Self::Forked => false,
        }
    }

    /// It was given up, or an operator has it tried again.
    pub fn is_dead(&self) -> bool {
        match self {
            Self::Dead(..)
            | Self::Retried(..)
            | Self::DeadOutgoing(_)
            | Self::DeadOutcome(_)
            | Self::DeadAnswer(..) => true,
            Self::Timer(_)
            | Self::Outgoing(_)
            | Self::Waiting(_)
            | Self::Outcome(_)
            | Self::Expiry
            | Self::Request(_)
            | Self::Answer(_)
            | Self::Closed
            | Self::Watch
            | Self::Forked => false,
        }
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Timer(_) => TIMER,
            Self::Dead(..) => DEAD,
            Self::Retried(..) => RETRIED,
            Self::Outgoing(_) => OUTGOING,
            Self::Waiting(_) => WAITING,
            Self::Outcome(_) => OUTCOME,
            Self::DeadOutgoing(_) => DEAD_OUTGOING,
            Self::DeadOutcome(_) => DEAD_OUTCOME,
            Self::Expiry => EXPIRY,
            Self::Request(_) => REQUEST,
            Self::Answer(_) => ANSWER,
            Self::DeadAnswer(..) => DEAD_ANSWER,
            Self::Closed => CLOSED,
            Self::Watch => WATCH,
            Self::Forked => FORKED,
        }
    }

    pub fn row(&self) -> Bytes {
        let mut row = Vec::with_capacity(PLACED_BYTES.max(10 + self.text().len()));
        row.push(self.kind());
        match self {
            Self::Timer(name) | Self::Request(name) | Self::Answer(name) => {
                row.extend_from_slice(name.as_bytes());
            }
            Self::Dead(name, time) | Self::Retried(name, time) | Self::DeadAnswer(name, time) => {
                row.extend_from_slice(name.as_bytes());
                row.push(0);
                row.extend_from_slice(&time.to_be_bytes());
            }
            Self::Outgoing(place)
            | Self::Waiting(place)
            | Self::Outcome(place)
            | Self::DeadOutgoing(place)
            | Self::DeadOutcome(place) => row.extend_from_slice(&place.key()),
            Self::Expiry | Self::Closed | Self::Watch | Self::Forked => {}
        }
        row.into()
    }

    /// `None`: it is no row that this version knows.
    pub fn of_row(row: &[u8]) -> Option<Self> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        let named = |rest: &[u8]| {
            let (name, time) = rest.split_last_chunk::<8>()?;
            Some((text(name.strip_suffix(&[0])?)?, u64::from_be_bytes(*time)))
        };
        let (kind, rest) = row.split_first()?;
        Some(match *kind {
            TIMER => Self::Timer(text(rest)?),
            DEAD => named(rest).map(|(name, time)| Self::Dead(name, time))?,
            RETRIED => named(rest).map(|(name, time)| Self::Retried(name, time))?,
            OUTGOING => Self::Outgoing(Place::of_key(rest)?),
            WAITING => Self::Waiting(Place::of_key(rest)?),
            OUTCOME => Self::Outcome(Place::of_key(rest)?),
            DEAD_OUTGOING => Self::DeadOutgoing(Place::of_key(rest)?),
            DEAD_OUTCOME => Self::DeadOutcome(Place::of_key(rest)?),
            EXPIRY if rest.is_empty() => Self::Expiry,
            REQUEST => Self::Request(text(rest)?),
            ANSWER => Self::Answer(text(rest)?),
            DEAD_ANSWER => named(rest).map(|(id, time)| Self::DeadAnswer(id, time))?,
            CLOSED if rest.is_empty() => Self::Closed,
            WATCH if rest.is_empty() => Self::Watch,
            FORKED if rest.is_empty() => Self::Forked,
            _ => return None,
        })
    }
}

impl Place {
    pub fn key(&self) -> [u8; PLACE_BYTES] {
        let mut key = [0; PLACE_BYTES];
        key[..2].copy_from_slice(&self.to.to_be_bytes());
        key[2..10].copy_from_slice(&self.number.term.to_be_bytes());
        key[10..].copy_from_slice(&self.number.index.to_be_bytes());
        key
    }

    /// `None`: it is no such key.
    pub fn of_key(key: &[u8]) -> Option<Self> {
        let (to, rest) = key.split_first_chunk::<2>()?;
        let (term, rest) = rest.split_first_chunk::<8>()?;
        let number = Number {
            term: u64::from_be_bytes(*term),
            index: u64::from_be_bytes(rest.try_into().ok()?),
        };
        Some(Self { to: SlotId::from_be_bytes(*to), number })
    }
}

/// A row of what is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OnItsWay {
    pub place: Place,
    pub session_number: u64,
}

impl OnItsWay {
    pub fn key(&self) -> Bytes {
        [&self.place.key()[..], &self.session_number.to_be_bytes()].concat().into()
    }

    /// It, and whose message it is, by its row.
    ///
    /// # Errors
    /// It is damaged, or from a later version.
    pub fn of_row(key: &[u8], owner: &[u8]) -> Result<(Self, SessionKey), String> {
        let row = Self::of_key(key).ok_or("a row of what is on its way is too short")?;
        Ok((row, Owner::decode(owner)?.0))
    }

    /// `None`: it is no such key.
    pub fn of_key(key: &[u8]) -> Option<Self> {
        let (place, number) = key.split_last_chunk::<8>()?;
        let session_number = u64::from_be_bytes(*number);
        Some(Self { place: Place::of_key(place)?, session_number })
    }
}

/// The row of what has come from a slot.
pub fn received_key(from: SlotId) -> Bytes {
    Bytes::copy_from_slice(&from.to_be_bytes())
}

/// Behind all rows of timers, and before all that is dead: names are UTF-8.
pub const BEFORE_DEAD: &[u8] = &[TIMER, 0xff];
/// Behind a row of a session, among those that are dead: what is on its way, and what is open, are passed over.
pub fn behind_among_dead(row: &[u8]) -> Bytes {
    match row.first() {
        Some(&(OUTGOING | WAITING | OUTCOME)) => Bytes::from_static(&[OUTCOME, 0xff, 0xff, 0xff]),
        Some(&(EXPIRY | REQUEST | ANSWER)) => Bytes::from_static(&[ANSWER, 0xff]),
        _ => Bytes::copy_from_slice(row),
    }
}

impl Due {
    /// It leads to something outside of the slot: what asks for it has to be durable.
    pub fn waits_until_durable(&self) -> bool {
        self.row.first() == Some(&REQUEST)
    }

    pub fn key(&self) -> Bytes {
        let mut key = Vec::with_capacity(16 + self.row.len());
        key.extend_from_slice(&self.due_ms.to_be_bytes());
        key.extend_from_slice(&self.session_number.to_be_bytes());
        key.extend_from_slice(&self.row);
        key.into()
    }

    /// `None`: it is no such key.
    pub fn of_key(key: &Bytes) -> Option<Self> {
        let (due, rest) = key.split_first_chunk::<8>()?;
        let (number, _) = rest.split_first_chunk::<8>()?;
        Some(Self {
            due_ms: u64::from_be_bytes(*due),
            session_number: u64::from_be_bytes(*number),
            row: key.slice(16..),
        })
    }
}

/// A row's value.
pub trait Value: Serialize + DeserializeOwned {
    /// # Errors
    /// It can't be encoded: a bug.
    fn encode(&self) -> Result<Bytes, String> {
        postcard::to_extend(self, vec![FORM]).map(Bytes::from).map_err(|e| e.to_string())
    }

    /// # Errors
    /// It is damaged, or from a later version.
    fn decode(value: &[u8]) -> Result<Self, String> {
        of_form(value)
    }
}

fn of_form<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    match value.split_first() {
        Some((&FORM, rest)) => postcard::from_bytes(rest).map_err(|e| e.to_string()),
        first => Err(format!("an effect has form {:?}", first.map(|(form, _)| form))),
    }
}

impl Value for Timer {}
impl Value for Dead {}
impl Value for Owner {}
impl Value for Outgoing {
    fn encode(&self) -> Result<Bytes, String> {
        let encoded = match &self.trace {
            None => postcard::to_extend(self, vec![FORM]),
            Some(trace) => postcard::to_extend(&(self, trace), vec![TRACED_FORM]),
        };
        encoded.map(Bytes::from).map_err(|e| e.to_string())
    }

    fn decode(value: &[u8]) -> Result<Self, String> {
        match value.split_first() {
            Some((&TRACED_FORM, rest)) => {
                let (outgoing, trace): (Self, Trace) =
                    postcard::from_bytes(rest).map_err(|e| e.to_string())?;
                Ok(Self { trace: Some(trace), ..outgoing })
            }
            _ => of_form(value),
        }
    }
}
impl Value for Outcome {}
impl<T: Serialize + DeserializeOwned> Value for GivenUp<T> {}
impl Value for Mark {}
impl Value for Expiry {}
impl Value for Request {}
impl Value for Answer {}
impl Value for Closed {}
impl Value for Watch {}
impl Value for Forked {}

impl Change {
    /// A row goes that was due then, if it was at all.
    pub fn gone(row: Bytes, was_due: Option<u64>) -> Self {
        Self { row, value: None, was_due, due: None }
    }

    /// The feature level from which on it is written.
    pub fn level(&self) -> Level {
        match self.row.first() {
            Some(TIMER..=RETRIED) => EFFECTS_FROM,
            Some(&(OUTGOING | WAITING))
                if self.value.as_ref().and_then(|value| value.first()) == Some(&TRACED_FORM) =>
            {
                HTTP_FROM
            }
            Some(OUTGOING..=EXPIRY) => SENDS_FROM,
            Some(&FORKED) => FORKED_FROM,
            _ => HTTP_FROM,
        }
    }

    /// Bytes that it takes, about.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.row.len() + self.value.as_ref().map_or(0, Bytes::len)
    }

    /// The row of what is on its way that comes or goes with it.
    pub fn on_its_way(&self, session_number: u64) -> Option<OnItsWay> {
        match Name::of_row(&self.row).filter(|_| self.row.first() == Some(&OUTGOING))? {
            Name::Outgoing(place) => Some(OnItsWay { place, session_number }),
            _ => None,
        }
    }

    /// The row of what is due that goes with it, and the one that comes.
    pub fn due_rows(&self, session_number: u64) -> (Option<Due>, Option<Due>) {
        let row = |due: Option<u64>| {
            due.map(|due_ms| Due { due_ms, session_number, row: self.row.clone() })
        };
        (row(self.was_due), row(self.due))
    }
}

#[cfg(test)]
mod tests;
