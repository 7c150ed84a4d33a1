//! What the sessions of a slot send to those of another, as a model that stateright explores completely: every order
//! of every step within [`Bounds`].
//!
//! What is in it: two slots, of which each has a log and owners. An owner may be replaced at any step, and goes on
//! until it finds out; the log takes nothing from it. So a crash needs no step of its own: it is an owner that takes
//! no further step. Messages that the first slot sends; pieces that are lost, late, or come twice, at an owner or at
//! one that was; answers that are lost or late; refusals for good, or to be tried again.
//!
//! What is on its way is the host's own [`Outbox`](slotd_core::slot::Outbox), and what a slot makes of a piece its
//! [`Mark`](slotd_core::effects::send::Mark). The model has what is around them (`host/core/src/slot/outbox.rs`,
//! `receive.rs`): when they are asked, and what is written into one batch.
//!
//! What is not in it: the way to who owns a slot, which may only lose or double pieces; replies, which are messages
//! back; more than two slots; messages that wait behind another (`effects.in_order`); and time. Who owns a slot is
//! [the other model](crate)'s: here its log takes batches of its last term only.
//!
//! Every rule that it rests on is a [`Guard`] that can be taken away.

mod properties;
mod state;
mod steps;

pub use state::{Answer, Change, Piece, Receiver, Refusal, Sender, State, Took};
pub use steps::{Action, Then};

use crate::guards;
use stateright::{Model, Property};

/// How much may happen in a run. Everything else is unbounded.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub messages: u8,
    /// Pieces that are sent, over all owners.
    pub pieces: u8,
    pub refusals: u8,
    /// Owners of the slot that sends after its first.
    pub senders: u8,
    /// ... of the one that receives.
    pub receivers: u8,
    /// Batches of an owner that are not durable at once.
    pub batches: u8,
}

/// A rule of what slots send to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Guard {
    /// A log takes batches of its last term only.
    Fence,
    /// Only what is durable is sent.
    OutputGate,
    /// The mark is in the batch of the message that moves it.
    MarkWithMessage,
    /// What the mark has is not handled.
    PassOver,
    /// A piece changes nothing if its round is not greater than the mark's.
    Rounds,
    /// A refusal moves the mark's round, too.
    RoundOfRefusal,
    /// ... but not its last message.
    MarkStaysAtRefusal,
    /// What is behind a refused message is not looked at.
    StopAtRefusal,
    /// A slot answers when what it has taken is durable.
    AnswerGate,
    /// Nothing more is sent until it is durable that what was refused is taken back.
    TakeBackFirst,
    /// One piece at a time is on its way to a slot.
    OnePiece,
    /// Only the answer to the piece that is on its way is heard.
    OnlyItsAnswer,
    /// The numbers of messages have the term of their slot.
    TermInNumber,
    /// The rounds of pieces have it.
    TermInRound,
}

impl Guard {
    pub const ALL: [Self; 14] = guards![
        Fence,
        OutputGate,
        MarkWithMessage,
        PassOver,
        Rounds,
        RoundOfRefusal,
        MarkStaysAtRefusal,
        StopAtRefusal,
        AnswerGate,
        TakeBackFirst,
        OnePiece,
        OnlyItsAnswer,
        TermInNumber,
        TermInRound,
    ];
}

/// Two slots within bounds, with all guards or with one taken away.
#[derive(Clone, Debug)]
pub struct Sending {
    pub bounds: Bounds,
    pub without: Option<Guard>,
}

impl Sending {
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, without: None }
    }

    #[must_use]
    pub fn without(mut self, guard: Guard) -> Self {
        self.without = Some(guard);
        self
    }

    pub(crate) fn has(&self, guard: Guard) -> bool {
        self.without != Some(guard)
    }
}

impl Model for Sending {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(&self.bounds)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.possible(state, actions);
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        self.take(&mut state, action);
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}
