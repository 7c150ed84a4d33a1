//! Messages to other sessions: what a session sends, until it is where it is to go, and what comes of it.

use crate::{
    clock::milliseconds,
    limits,
    names::{SessionKey, SlotId},
    trace::Trace,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Which message of its sender's slot it is. In the order in which they are sent: a later term of the slot has
/// a greater number, and so has what is sent later in a term. The slot that it goes to has to remember the
/// last one only.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Number {
    /// Of the slot, as its log has it.
    pub term: u64,
    /// From 1; 0: before the first.
    pub index: u64,
}

/// What a slot remembers of what has come from another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mark {
    /// All up to this message are here, or were refused and taken back.
    pub last: Number,
    /// The piece that has brought something, or was refused, last. An earlier one that comes late changes nothing:
    /// what it has may have been taken back.
    pub round: Number,
}

/// What a slot that has a [`Mark`] makes of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    New,
    /// It has come before, or a later one has.
    Void,
    /// The slot that sends it was at a later term before.
    OfEarlierTerm,
}

impl Mark {
    /// What a piece of this round is.
    pub fn arrival(&self, round: Number) -> Arrival {
        match round {
            round if round.term < self.round.term => Arrival::OfEarlierTerm,
            round if round <= self.round => Arrival::Void,
            _ => Arrival::New,
        }
    }

    /// Whether a message is here, or was taken back.
    pub fn has(&self, number: Number) -> bool {
        number <= self.last
    }
}

/// A message on its way, and where to: its place among what the sender's slot sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The slot of the session that it goes to.
    pub to: SlotId,
    pub number: Number,
}

/// A message to another session that is not there yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outgoing {
    pub to: SessionKey,
    pub content: Content,
    pub content_type: String,
    pub body: Bytes,
    /// How many sends led to it, one after the other, without a message of a client or a timer in between.
    pub hops: u32,
    /// How often it was refused.
    pub failures: u32,
    /// How often it was refused for what the node lacked, since the last time that counted.
    pub held: u32,
    /// When it is tried again, in milliseconds since the Unix epoch.
    pub next_ms: u64,
    /// Why it was refused last; empty if it was not.
    pub reason: String,
    /// The message that sent it.
    pub sent_by: u64,
    /// What it is a part of. From [`crate::level::HTTP_FROM`] on: before, nobody knows that form.
    #[serde(skip)]
    pub trace: Option<Trace>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// A message. `reply`: its outcome comes back, under this name.
    Message { reply: Option<String> },
    /// The reply to one, for the session that asked.
    Reply(Asked),
}

/// What was asked for a reply, as its sender knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    pub name: String,
    pub place: Place,
    /// The session's number in its slot: one of the same name may have come after it.
    pub session_number: u64,
    /// The message that asked.
    pub sent_by: u64,
}

/// What came of a message that asked for it, until the handler has heard of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The session that was asked.
    pub of: SessionKey,
    pub name: String,
    /// `None`: it has replied. Else the message was not handled.
    pub refusal: Option<Refusal>,
    pub content_type: String,
    pub body: Bytes,
    pub hops: u32,
    /// How often the handler has failed it.
    pub failures: u32,
    /// When it is tried, in milliseconds since the Unix epoch.
    pub next_ms: u64,
    pub reason: String,
    pub sent_by: u64,
}

/// Why a message was not handled where it was sent to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// As a client would have got it: of a rejection, the handler's own.
    pub code: String,
    pub reason: String,
    /// The same may work later.
    pub retriable: bool,
}

/// A message, or an outcome, that was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenUp<T> {
    pub what: T,
    /// The code of the error that it ended with, as a client would have got it.
    pub code: String,
    pub reason: String,
    /// In milliseconds since the Unix epoch.
    pub died_ms: u64,
}

impl<T> GivenUp<T> {
    pub fn new(what: T, why: &Refusal, now_ms: u64) -> Self {
        let (code_max, reason_max) =
            (limits::REJECTION_CODE_BYTES_MAX, limits::EFFECT_REASON_BYTES_MAX);
        Self {
            what,
            code: crate::text::cut(&why.code, code_max).to_owned(),
            reason: crate::text::cut(&why.reason, reason_max).to_owned(),
            died_ms: now_ms,
        }
    }
}

/// A message that a session has sent, for who handles it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    pub from: SessionKey,
    /// The message of that session that sent it.
    pub sent_by: u64,
    /// From 1: how often it was tried.
    pub attempt: u32,
    pub hops: u32,
    /// The sender waits for a reply.
    pub reply: bool,
}

/// The outcome of a message that the session has sent, for its handler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// The session that was asked.
    pub of: SessionKey,
    pub name: String,
    /// The message that asked.
    pub sent_by: u64,
    pub attempt: u32,
    pub hops: u32,
    pub refusal: Option<Refusal>,
}

/// As an operator sees it: the slot that it goes to, the term and the index.
impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { to, number: Number { term, index } } = self;
        write!(f, "{to}-{term}-{index}")
    }
}

impl std::str::FromStr for Place {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = || {
            let mut parts = text.split('-');
            let (to, term, index) = (parts.next()?, parts.next()?, parts.next()?);
            let number = Number { term: term.parse().ok()?, index: index.parse().ok()? };
            parts.next().is_none().then_some(Self { to: to.parse().ok()?, number })
        };
        parsed().ok_or_else(|| {
            format!("{text:?} is no message's id: use one that `slotd dead list` shows")
        })
    }
}

impl Outgoing {
    /// As it is once it was refused at `now_ms`. `counts`: it is an attempt, and not that the node lacked
    /// something.
    #[must_use]
    pub fn refused(&self, reason: &str, counts: bool, now_ms: u64) -> Self {
        // What the node lacks may be there soon, and does not count: it must not be asked for all the time.
        let (failures, held) = match counts {
            true => (self.failures.saturating_add(1), 0),
            false => (self.failures, self.held.saturating_add(1)),
        };
        let wait_ms = match counts {
            true => super::wait_ms(failures),
            false => super::wait_ms(held).min(milliseconds(limits::EFFECT_HOLD_MAX)),
        };
        Self {
            failures,
            held,
            next_ms: now_ms.saturating_add(wait_ms),
            reason: crate::text::cut(reason, limits::TIMER_REASON_BYTES_MAX).to_owned(),
            ..self.clone()
        }
    }

    /// As it is while it waits behind another, which is to be tried again.
    #[must_use]
    pub fn behind(&self) -> Self {
        Self { next_ms: limits::TIMER_MS_MAX, ..self.clone() }
    }

    /// It waits behind another.
    pub fn is_behind(&self) -> bool {
        self.next_ms == limits::TIMER_MS_MAX
    }

    /// It has not waited for anything so far.
    pub fn is_fresh(&self) -> bool {
        self.next_ms == 0
    }

    /// That was the last attempt.
    pub fn is_exhausted(&self) -> bool {
        self.failures >= limits::EFFECT_ATTEMPTS_MAX
    }

    /// What came of it, for a sender that waits for it.
    pub fn outcome(&self, refusal: Refusal, now_ms: u64) -> Option<Outcome> {
        let Content::Message { reply: Some(name) } = &self.content else { return None };
        Some(Outcome {
            of: self.to.clone(),
            name: name.clone(),
            refusal: Some(refusal),
            content_type: super::http::NO_TYPE.to_owned(),
            body: Bytes::new(),
            hops: self.hops.saturating_add(1),
            failures: 0,
            next_ms: now_ms,
            reason: String::new(),
            sent_by: self.sent_by,
        })
    }

    /// Memory that it takes, about.
    pub fn memory(&self) -> usize {
        let name = match &self.content {
            Content::Message { reply } => reply.as_ref().map_or(0, String::len),
            Content::Reply(asked) => asked.name.len(),
        };
        size_of::<Self>() + self.content_type.len() + self.body.len() + self.reason.len() + name
    }
}

impl Outcome {
    /// What the handler is told that it is.
    pub fn answered(&self) -> Answered {
        Answered {
            of: self.of.clone(),
            name: self.name.clone(),
            sent_by: self.sent_by,
            attempt: self.failures.saturating_add(1),
            hops: self.hops,
            refusal: self.refusal.clone(),
        }
    }

    /// As it is once the handler has failed it at `now_ms`.
    #[must_use]
    pub fn failed(&self, reason: &str, now_ms: u64) -> Self {
        let failures = self.failures.saturating_add(1);
        Self {
            failures,
            next_ms: now_ms.saturating_add(super::wait_ms(failures)),
            reason: crate::text::cut(reason, limits::TIMER_REASON_BYTES_MAX).to_owned(),
            ..self.clone()
        }
    }

    pub fn is_exhausted(&self) -> bool {
        self.failures >= limits::EFFECT_ATTEMPTS_MAX
    }

    /// Memory that it takes, about.
    pub fn memory(&self) -> usize {
        let refusal = self.refusal.as_ref().map_or(0, |it| it.code.len() + it.reason.len());
        let texts = self.name.len() + self.content_type.len() + self.reason.len();
        size_of::<Self>() + self.body.len() + texts + refusal
    }
}

/// Why it can't be the name that a reply comes back under, if it can't.
pub fn name_problem(name: &str) -> Option<String> {
    super::name_problem("the name of a reply", name, limits::SEND_NAME_BYTES_MAX)
}
