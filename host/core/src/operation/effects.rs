//! The effects of sessions, as an operator sees and changes them. Only from
//! [`EFFECTS_FROM`](crate::level::EFFECTS_FROM) on: before, there are none, and not every node knows these.

use super::{
    Forwarded, Operation,
    wire::{Answered, Parts, body as in_body, fields_and, parts, size, value},
};
use crate::{
    effects::{Effect, rows::Name, send::Place},
    error::Error,
    message::Purpose,
    names::{ServiceName, SessionId, SessionKey, SlotId},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Effects that a slot has.
#[derive(Clone, Debug)]
pub struct ListEffects {
    pub slot: SlotId,
    pub which: Which,
    /// Of those of a service: about how many.
    pub limit: usize,
}

/// Which effects. The places are [`Found::place`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Which {
    /// All of a session, with their bodies.
    Session(SessionKey),
    /// Timers of a service, and what is tried again of them, the first first.
    Due { service: ServiceName, after: Option<Bytes> },
    /// Messages of a service that were given up, by session.
    Dead { service: ServiceName, after: Option<Bytes> },
    /// Messages of a service to other sessions that are on their way, then those that wait to be tried again and
    /// outcomes, the first first. From [`crate::level::SENDS_FROM`] on.
    Outbox { service: ServiceName, after: Option<Bytes> },
}

/// A part of what was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EffectsPage {
    /// In order of their places.
    pub found: Vec<Found>,
    /// It was looked up to here, and there may be more behind it. `None`: that is all.
    pub reached: Option<Bytes>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Of what is due: its key among what is due. Of what is dead: the session's id. Of an outbox: a byte, and its key
    /// among what is on its way (0) or what is due (1).
    pub place: Bytes,
    pub session: SessionId,
    pub name: Name,
    pub effect: Effect,
    /// Of its body, which is left out where a whole service is listed.
    pub body_bytes: u64,
}

/// Something to be done with an effect of a session.
#[derive(Clone, Debug)]
pub struct ChangeEffect {
    pub key: SessionKey,
    pub action: EffectAction,
}

/// What is dead is named by its timer and the time that it was for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EffectAction {
    CancelTimer {
        timer: String,
    },
    /// It is tried again at once.
    RetryDead {
        timer: String,
        due_ms: u64,
    },
    /// It is never tried again.
    DropDead {
        timer: String,
        due_ms: u64,
    },
    /// A message to another session, or the outcome of one, that was given up is tried again at once. From
    /// [`crate::level::SENDS_FROM`] on, as the next.
    RetryDeadSend(Place),
    DropDeadSend(Place),
    /// A request over HTTP is made no more, and its answer does not come. From [`crate::level::HTTP_FROM`] on, as the next.
    CancelRequest {
        id: String,
    },
    /// The answer to one that was given up is tried again at once. It is named by the request's id and its own time.
    RetryDeadAnswer {
        id: String,
        time: u64,
    },
    DropDeadAnswer {
        id: String,
        time: u64,
    },
}

impl Which {
    pub fn service(&self) -> &ServiceName {
        match self {
            Self::Session(key) => &key.service,
            Self::Due { service, .. }
            | Self::Dead { service, .. }
            | Self::Outbox { service, .. } => service,
        }
    }
}

impl Found {
    pub fn new(place: Bytes, session: SessionId, name: Name, effect: Effect) -> Self {
        let body_bytes = effect.body().len() as u64;
        Self { place, session, name, effect, body_bytes }
    }

    /// Without what may be large.
    #[must_use]
    pub fn without_body(mut self) -> Self {
        self.effect = self.effect.without_body();
        self
    }
}

impl Operation for ListEffects {
    type Answer = EffectsPage;
    const PURPOSE: Purpose = Purpose::Read;
    const FROM_COPY: bool = true;
    const AT_ONCE: bool = false;
    const CALLS_HANDLER: bool = false;

    fn service(&self) -> Option<&ServiceName> {
        Some(self.which.service())
    }
}

/// The body has the fields.
impl Forwarded for ListEffects {
    const TAGS: &[u32] = &[13];

    fn slot(&self, _: u16) -> SlotId {
        self.slot
    }
    fn encode(self) -> Result<Parts, Error> {
        let Self { slot, which, limit } = self;
        parts(Self::TAGS[0], &(), in_body(&(slot, which, limit as u64))?)
    }
    fn decode(_: u32, _: &[u8], body: Bytes) -> Result<Self, String> {
        let (slot, which, limit) = value(&body)?;
        Ok(Self { slot, which, limit: size(limit) })
    }
}

impl Operation for ChangeEffect {
    type Answer = ();
    /// Not tried twice: the second time it would not be found.
    const PURPOSE: Purpose = Purpose::Delete;
    const FROM_COPY: bool = false;
    const AT_ONCE: bool = false;
    const CALLS_HANDLER: bool = false;

    fn service(&self) -> Option<&ServiceName> {
        Some(&self.key.service)
    }
}

impl Forwarded for ChangeEffect {
    const TAGS: &[u32] = &[14];

    fn slot(&self, slot_count: u16) -> SlotId {
        self.key.slot(slot_count)
    }
    fn encode(self) -> Result<Parts, Error> {
        let Self { key, action } = self;
        parts(Self::TAGS[0], &(key, action), Bytes::new())
    }
    fn decode(_: u32, fields: &[u8], _: Bytes) -> Result<Self, String> {
        let (key, action) = value(fields)?;
        Ok(Self { key, action })
    }
}

/// [`Found`], with its row and value as they are stored.
type Row = (Bytes, SessionId, Bytes, Bytes, u64);

/// The body is a list of [`Row`].
impl Answered for EffectsPage {
    const TAG: u32 = 12;

    fn encode(self) -> Result<Parts, Error> {
        let row = |found: Found| {
            let value = found.effect.encode().map_err(Error::internal)?;
            Ok((found.place, found.session, found.name.row(), value, found.body_bytes))
        };
        let rows: Vec<Row> = self.found.into_iter().map(row).collect::<Result<_, Error>>()?;
        parts(Self::TAG, &self.reached, in_body(&rows)?)
    }
    fn decode(fields: &[u8], body: Bytes) -> Result<Self, String> {
        let (reached, _) = fields_and(fields)?;
        let rows: Vec<Row> = value(&body)?;
        let found = |(place, session, row, value, body_bytes): Row| {
            let name = Name::of_row(&row).ok_or("an effect of no known kind")?;
            let effect = Effect::decode(&name, &value)?;
            Ok(Found { place, session, name, effect, body_bytes })
        };
        let found = rows.into_iter().map(found).collect::<Result<_, String>>()?;
        Ok(Self { found, reached })
    }
}
