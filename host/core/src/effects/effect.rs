//! One effect, whatever it is.

use super::{
    Change, Dead, Expiry, Forked, GivenUp, Outcome, Outgoing, Timer,
    http::{Answer, Closed, Request, Watch},
    rows::{Name, Value as _},
};
use bytes::Bytes;
use std::sync::Arc;

static NOTHING: Bytes = Bytes::new();

/// An effect of a session. Which it is goes with its [`Name`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    Timer(Arc<Timer>),
    Dead(Arc<Dead>),
    /// On its way, or waiting to be tried again.
    Outgoing(Arc<Outgoing>),
    Outcome(Arc<Outcome>),
    DeadOutgoing(Arc<GivenUp<Outgoing>>),
    DeadOutcome(Arc<GivenUp<Outcome>>),
    Expiry(Expiry),
    /// Open, and not answered.
    Request(Arc<Request>),
    Answer(Arc<Answer>),
    DeadAnswer(Arc<GivenUp<Answer>>),
    Closed(Closed),
    Watch(Watch),
    Forked(Arc<Forked>),
}

impl Effect {
    /// Memory that it takes, about, beside its name.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Timer(timer) => timer.memory(),
            Self::Dead(dead) => dead.memory(),
            Self::Outgoing(outgoing) => outgoing.memory(),
            Self::Outcome(outcome) => outcome.memory(),
            Self::DeadOutgoing(dead) => dead.what.memory() + dead.reason.len() + dead.code.len(),
            Self::DeadOutcome(dead) => dead.what.memory() + dead.reason.len() + dead.code.len(),
            Self::Request(request) => request.memory(),
            Self::Answer(answer) => answer.memory(),
            Self::DeadAnswer(dead) => dead.what.memory() + dead.reason.len() + dead.code.len(),
            Self::Expiry(_) => size_of::<Expiry>(),
            Self::Closed(_) => size_of::<Closed>(),
            Self::Watch(_) => size_of::<Watch>(),
            Self::Forked(forked) => forked.memory(),
        }
    }

    /// When it is due, under this name.
    pub fn next_ms(&self, name: &Name) -> Option<u64> {
        match self {
            Self::Timer(timer) => Some(timer.next_ms),
            Self::Outgoing(outgoing) => {
                matches!(name, Name::Waiting(_)).then_some(outgoing.next_ms)
            }
            Self::Outcome(outcome) => Some(outcome.next_ms),
            Self::Expiry(expiry) => Some(expiry.at_ms),
            Self::Request(request) => Some(request.next_ms),
            Self::Answer(answer) => Some(answer.next_ms),
            Self::Watch(watch) => watch.next_ms,
            Self::Dead(_)
            | Self::DeadOutgoing(_)
            | Self::DeadOutcome(_)
            | Self::DeadAnswer(_)
            | Self::Forked(_)
            | Self::Closed(_) => None,
        }
    }

    /// # Errors
    /// It is damaged, or from a later version.
    pub fn decode(name: &Name, value: &[u8]) -> Result<Self, String> {
        Ok(match name {
            Name::Timer(_) | Name::Retried(..) => Self::Timer(Timer::decode(value)?.into()),
            Name::Dead(..) => Self::Dead(Dead::decode(value)?.into()),
            Name::Outgoing(_) | Name::Waiting(_) => Self::Outgoing(Outgoing::decode(value)?.into()),
            Name::Outcome(_) => Self::Outcome(Outcome::decode(value)?.into()),
            Name::DeadOutgoing(_) => Self::DeadOutgoing(GivenUp::decode(value)?.into()),
            Name::DeadOutcome(_) => Self::DeadOutcome(GivenUp::decode(value)?.into()),
            Name::Expiry => Self::Expiry(Expiry::decode(value)?),
            Name::Request(_) => Self::Request(Request::decode(value)?.into()),
            Name::Answer(_) => Self::Answer(Answer::decode(value)?.into()),
            Name::DeadAnswer(..) => Self::DeadAnswer(GivenUp::decode(value)?.into()),
            Name::Closed => Self::Closed(Closed::decode(value)?),
            Name::Watch => Self::Watch(Watch::decode(value)?),
            Name::Forked => Self::Forked(Forked::decode(value)?.into()),
        })
    }

    /// The row that it becomes.
    ///
    /// # Errors
    /// It can't be encoded: a bug.
    pub fn put(&self, name: &Name, was_due: Option<u64>) -> Result<Change, String> {
        Ok(Change {
            row: name.row(),
            value: Some(self.encode()?),
            was_due,
            due: self.next_ms(name),
        })
    }

    /// Of the message that it is of.
    pub fn body(&self) -> &Bytes {
        match self {
            Self::Timer(timer) => &timer.body,
            Self::Dead(dead) => &dead.body,
            Self::Outgoing(outgoing) => &outgoing.body,
            Self::Outcome(outcome) => &outcome.body,
            Self::DeadOutgoing(dead) => &dead.what.body,
            Self::DeadOutcome(dead) => &dead.what.body,
            Self::Request(request) => &request.body,
            Self::Answer(answer) => &answer.body,
            Self::DeadAnswer(dead) => &dead.what.body,
            Self::Expiry(_) | Self::Closed(_) | Self::Watch(_) | Self::Forked(_) => &NOTHING,
        }
    }

    /// Without what may be large.
    #[must_use]
    pub fn without_body(mut self) -> Self {
        match &mut self {
            Self::Timer(timer) => Arc::make_mut(timer).body = Bytes::new(),
            Self::Dead(dead) => Arc::make_mut(dead).body = Bytes::new(),
            Self::Outgoing(outgoing) => Arc::make_mut(outgoing).body = Bytes::new(),
            Self::Outcome(outcome) => Arc::make_mut(outcome).body = Bytes::new(),
            Self::DeadOutgoing(dead) => Arc::make_mut(dead).what.body = Bytes::new(),
            Self::DeadOutcome(dead) => Arc::make_mut(dead).what.body = Bytes::new(),
            Self::Request(request) => Arc::make_mut(request).body = Bytes::new(),
            Self::Answer(answer) => Arc::make_mut(answer).body = Bytes::new(),
            Self::DeadAnswer(dead) => Arc::make_mut(dead).what.body = Bytes::new(),
            Self::Expiry(_) | Self::Closed(_) | Self::Watch(_) | Self::Forked(_) => {}
        }
        self
    }

    /// As it is stored.
    ///
    /// # Errors
    /// It can't be encoded: a bug.
    pub fn encode(&self) -> Result<Bytes, String> {
        match self {
            Self::Timer(timer) => timer.encode(),
            Self::Dead(dead) => dead.encode(),
            Self::Outgoing(outgoing) => outgoing.encode(),
            Self::Outcome(outcome) => outcome.encode(),
            Self::DeadOutgoing(dead) => dead.encode(),
            Self::DeadOutcome(dead) => dead.encode(),
            Self::Expiry(expiry) => expiry.encode(),
            Self::Request(request) => request.encode(),
            Self::Answer(answer) => answer.encode(),
            Self::DeadAnswer(dead) => dead.encode(),
            Self::Closed(closed) => closed.encode(),
            Self::Watch(watch) => watch.encode(),
            Self::Forked(forked) => forked.encode(),
        }
    }
}
