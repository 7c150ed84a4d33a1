//! What the world of two slots consists of.

use super::Bounds;
use slotd_core::{
    effects::send::{Mark, Number, Place},
    names::{SessionKey, SlotId},
    slot::Outbox,
};
use std::collections::{BTreeMap, BTreeSet};

/// The slot that sends.
pub const FROM: SlotId = 0;
/// The slot that receives.
pub const TO: SlotId = 1;

/// In the order in which they are sent.
pub type MessageId = u8;

/// A record of the slot that sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// A message is on its way: for the first time, or again.
    Sent { message: MessageId, number: Number },
    /// It has arrived: nothing is left of it.
    Arrived { message: MessageId, number: Number },
    /// It was refused, and does not go any more under this number.
    TakenBack { message: MessageId, number: Number, refusal: Refusal },
}

/// A record of the slot that receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Took {
    Handled { message: MessageId, number: Number },
    Marked(Mark),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// The message is tried again, with another number.
    Again,
    /// It is given up.
    ForGood,
}

/// A slot's log, as it is durable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Log<R> {
    pub term: u64,
    pub records: Vec<R>,
}

/// What an owner has appended, or is about to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Batches<R> {
    /// How many are durable.
    pub durable: u64,
    pub pending: Vec<Vec<R>>,
}

/// Who believes to own the slot that sends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sender {
    pub term: u64,
    pub outbox: Outbox,
    pub batches: Batches<Change>,
    /// The index of the last number.
    pub index: u64,
    /// How many of the messages were sent, as far as it knows.
    pub sent: u8,
    /// What is on its way.
    pub rows: BTreeMap<Number, MessageId>,
    /// What was refused and is to be sent again.
    pub waiting: BTreeSet<MessageId>,
    /// Its pieces that it waits for, by their indices.
    pub asked: BTreeSet<u64>,
}

/// Who believes to own the slot that receives.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Receiver {
    pub term: u64,
    pub outbox: Outbox,
    pub batches: Batches<Took>,
    /// Answers that wait until a batch is durable.
    pub held: Vec<(u64, Answer)>,
}

/// A piece that was sent. It may come at any time, and as often as it likes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Piece {
    /// Who waits for its answer.
    pub asked: Number,
    pub round: Number,
    pub messages: Vec<(Number, MessageId)>,
}

/// An answer that has left. It may come at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Answer {
    pub asked: Number,
    pub last: Number,
    pub refused: Option<(Number, Refusal)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub sent: Log<Change>,
    pub received: Log<Took>,
    /// The last of them owns the slot.
    pub senders: Vec<Sender>,
    pub receivers: Vec<Receiver>,
    pub pieces: BTreeSet<Piece>,
    pub answers: BTreeSet<Answer>,
    pub pieces_left: u8,
    pub refusals_left: u8,
    pub senders_left: u8,
    pub receivers_left: u8,
}

impl State {
    /// Each slot has an owner; nothing has happened yet.
    pub fn new(bounds: &Bounds) -> Self {
        let mut state = Self {
            sent: Log { term: 0, records: Vec::new() },
            received: Log { term: 0, records: Vec::new() },
            senders: Vec::new(),
            receivers: Vec::new(),
            pieces: BTreeSet::new(),
            answers: BTreeSet::new(),
            pieces_left: bounds.pieces,
            refusals_left: bounds.refusals,
            senders_left: bounds.senders,
            receivers_left: bounds.receivers,
        };
        state.claim_sender();
        state.claim_receiver();
        state
    }

    /// The slot that sends has a new owner, who knows what is durable.
    pub fn claim_sender(&mut self) {
        self.sent.term += 1;
        let mut owner = Sender {
            term: self.sent.term,
            outbox: Outbox::default(),
            batches: Batches::new(),
            index: 0,
            sent: 0,
            rows: BTreeMap::new(),
            waiting: BTreeSet::new(),
            asked: BTreeSet::new(),
        };
        self.sent.records.iter().for_each(|record| owner.fold(record));
        let row = |number: &Number| (Place { to: TO, number: *number }, 1, key());
        owner.outbox.load(owner.rows.keys().map(row));
        self.senders.push(owner);
    }

    pub fn claim_receiver(&mut self) {
        self.received.term += 1;
        let mut outbox = Outbox::default();
        let marks = self.received.records.iter().filter_map(|record| match record {
            Took::Marked(mark) => Some((FROM, *mark)),
            Took::Handled { .. } => None,
        });
        outbox.load_received(marks);
        let (term, batches) = (self.received.term, Batches::new());
        self.receivers.push(Receiver { term, outbox, batches, held: Vec::new() });
    }
}

impl Sender {
    /// What a record makes of what is in the store, or in memory.
    pub fn fold(&mut self, record: &Change) {
        match *record {
            Change::Sent { message, number } => {
                self.sent = self.sent.max(message + 1);
                self.waiting.remove(&message);
                self.rows.insert(number, message);
            }
            Change::Arrived { number, .. } => drop(self.rows.remove(&number)),
            Change::TakenBack { message, number, refusal } => {
                self.rows.remove(&number);
                if refusal == Refusal::Again {
                    self.waiting.insert(message);
                }
            }
        }
    }
}

impl<R> Batches<R> {
    fn new() -> Self {
        Self { durable: 0, pending: Vec::new() }
    }

    /// Appends a batch, and returns its number.
    pub fn push(&mut self, batch: Vec<R>) -> u64 {
        self.pending.push(batch);
        self.last_change()
    }

    /// The number of the last one.
    pub fn last_change(&self) -> u64 {
        self.durable + self.pending.len() as u64
    }
}

/// Whose the messages are.
pub fn key() -> SessionKey {
    SessionKey::parse("s", "x").unwrap_or_else(|e| unreachable!("{e}"))
}
