//! The ownership protocol of one slot as a model that [stateright] explores completely: every
//! order of every step within [`Bounds`], not a sample of them.
//!
//! What is in it: a log engine that stores an append if its expectation holds and nothing else; a
//! network that loses and delays appends and answers without limit; reads of the log that give any
//! prefix of it; nodes that claim, serve, hand over, are fenced and crash; clients that repeat
//! messages at another node under the same idempotency key; readers that wait for a barrier. A
//! pause needs no step of its own: a paused node is one that takes no step for a while, and every
//! node may do that at any time. Nor do views and liveness: any node may claim at any time,
//! whoever it believes to be alive.
//!
//! What is not in it: trimming and snapshots, plugins, more than one slot, and time.
//!
//! Every rule that the protocol rests on is a [`Guard`] that can be taken away; for each of them
//! the tests find a run in which something then goes wrong.
//!
//! What two slots send to each other is a model of its own: [`outbox`].

mod node;
pub mod outbox;
mod properties;
mod state;

pub use node::Action;
pub use state::{Client, Entry, Flight, Node, Owner, Read, Record, Request, Role, State};

use stateright::{Model, Property};

/// How much may happen in a run. Everything else is unbounded.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub nodes: u8,
    /// Different messages, at most 8.
    pub messages: u8,
    /// How often a client sends one message, its repeats included.
    pub sends: u8,
    /// Claims that are started beside the first owner's.
    pub claims: u8,
    pub crashes: u8,
    /// Handoffs that are begun.
    pub seals: u8,
    pub reads: u8,
    /// Appends that are lost on their way.
    pub losses: u8,
    /// How many requests of one append may be under way at once.
    pub copies: u8,
}

/// A rule of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Guard {
    /// The engine stores an append only right after the position that it expects.
    Expectation,
    /// A node serves a slot only after its own claim is in the log.
    ClaimFirst,
    /// A claim takes a term that is greater than the one before.
    NewTerm,
    /// A claimant replays the log up to its own claim, whatever a reader of the log shows.
    ReplayToClaim,
    /// A writer that finds another's record where its own should be stops for good.
    Fence,
    /// An append without an answer is published again until some record sits after it.
    Republish,
    /// What became of an append is decided by the first record after its expectation: the last
    /// record may be another's claim on top of it.
    SettleByFirst,
    /// A writer that stops forgets what it has in memory, and begins with the log the next time.
    ForgetOnFailure,
    /// A message is acknowledged after its commit.
    OutputGate,
    /// A repeat of a message that is under way waits for the commit, too.
    RepeatGate,
    /// A message whose key was applied is not applied again.
    IdempotencyKey,
    /// A release is appended after what was under way is settled.
    SettleBeforeRelease,
    /// A node that has released the slot writes no more.
    StopAtRelease,
    /// A read waits for a commit.
    Barrier,
    /// ... for one that was sent after the read began.
    FreshBarrier,
    /// A read shows only what is committed.
    ShowCommitted,
}

/// All guards; does not compile when one is left out.
macro_rules! guards {
    ($($guard:ident),+ $(,)?) => {{
        const fn _all(guard: Guard) {
            match guard { $(Guard::$guard)|+ => {} }
        }
        [$(Guard::$guard),+]
    }};
}

pub(crate) use guards;

impl Guard {
    pub const ALL: [Self; 16] = guards![
        Expectation,
        ClaimFirst,
        NewTerm,
        ReplayToClaim,
        Fence,
        Republish,
        SettleByFirst,
        ForgetOnFailure,
        OutputGate,
        RepeatGate,
        IdempotencyKey,
        SettleBeforeRelease,
        StopAtRelease,
        Barrier,
        FreshBarrier,
        ShowCommitted,
    ];
}

/// The protocol within bounds, with all its guards or with one taken away.
#[derive(Clone, Debug)]
pub struct Ownership {
    pub bounds: Bounds,
    pub without: Option<Guard>,
}

impl Ownership {
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

impl Model for Ownership {
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
