//! What the model's world consists of.

use crate::Bounds;
use std::collections::BTreeSet;

/// An index into [`State::nodes`].
pub type NodeId = u8;
/// An index into [`State::clients`].
pub type MessageId = u8;
/// An index into [`State::reads`].
pub type ReadId = u8;
pub type Term = u8;
/// The number of records up to and including one; 0: before the first.
pub type Position = u8;
/// Unique to an append, over all nodes and crashes.
pub type Attempt = u8;
/// A set of small numbers: messages, reads or sequence numbers.
pub type Set = u8;

pub fn set(number: u8) -> Set {
    1 << number
}

pub fn has(set: Set, number: u8) -> bool {
    set & (1 << number) != 0
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Record {
    Claim,
    Release,
    Message { message: MessageId, seq: u8 },
    Barrier,
}

/// A record as the log holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Entry {
    pub term: Term,
    pub node: NodeId,
    pub attempt: Attempt,
    pub record: Record,
}

/// An append on its way to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Request {
    pub after: Position,
    pub entry: Entry,
}

/// An append as its writer sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Flight {
    pub entry: Entry,
    pub after: Position,
    /// The engine has stored it, and its answer is on its way.
    pub answer: Option<Position>,
    /// The reads that wait for it.
    pub readers: Set,
}

/// A node that believes to own the slot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    pub term: Term,
    /// The slot's last position as far as this node knows.
    pub tail: Position,
    /// The messages it has applied, in order: committed, then the one in flight, then the one
    /// that fills the next batch. Sequence number = place, from 1.
    pub memory: Vec<MessageId>,
    pub flight: Option<Flight>,
    pub filling: Option<MessageId>,
    /// The reads that wait for the next batch.
    pub readers: Set,
    /// It takes nothing new and releases the slot as soon as it can.
    pub sealed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    Idle,
    Claiming(Flight),
    Owner(Owner),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    pub role: Role,
    /// Messages that came and were not looked at yet.
    pub mailbox: Set,
    /// What an earlier ownership left in memory, with its position; always `None` as long as
    /// [`crate::Guard::ForgetOnFailure`] holds.
    pub left_over: Option<(Position, Vec<MessageId>)>,
}

/// What the sender of a message has done and heard.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    pub sends: u8,
    /// What was acknowledged before it was first sent.
    pub preceded_by: Set,
    /// The sequence numbers that acknowledgements gave.
    pub acknowledged_as: Set,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Read {
    NotBegun,
    /// It must show these.
    Waiting {
        must_show: Set,
    },
    /// Answered or failed.
    Over,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub log: Vec<Entry>,
    /// Sorted; as often as it was sent.
    pub network: Vec<Request>,
    pub nodes: Vec<Node>,
    pub clients: Vec<Client>,
    pub reads: Vec<Read>,
    /// Attempts whose clients were told that the message was not kept.
    pub refused: BTreeSet<Attempt>,
    /// The messages that answered reads have shown.
    pub shown: Set,
    /// A read was answered without what it had to show.
    pub stale_read: bool,
    /// A message was stored after its writer was gone.
    pub landed_late: bool,
    pub next_attempt: Attempt,
    pub claims_left: u8,
    pub crashes_left: u8,
    pub seals_left: u8,
    pub losses_left: u8,
}

impl State {
    /// Node 0 owns the slot under term 1; nothing has happened yet.
    pub fn new(bounds: &Bounds) -> Self {
        let claim = Entry { term: 1, node: 0, attempt: 0, record: Record::Claim };
        let idle = Node { role: Role::Idle, mailbox: 0, left_over: None };
        let mut nodes = vec![idle; usize::from(bounds.nodes)];
        nodes[0].role = Role::Owner(Owner::after_claim(1, 1, Vec::new()));
        let client = Client { sends: 0, preceded_by: 0, acknowledged_as: 0 };
        Self {
            log: vec![claim],
            network: Vec::new(),
            nodes,
            clients: vec![client; usize::from(bounds.messages)],
            reads: vec![Read::NotBegun; usize::from(bounds.reads)],
            refused: BTreeSet::new(),
            shown: 0,
            stale_read: false,
            landed_late: false,
            next_attempt: 1,
            claims_left: bounds.claims,
            crashes_left: bounds.crashes,
            seals_left: bounds.seals,
            losses_left: bounds.losses,
        }
    }

    /// The log's last position.
    pub fn end(&self) -> Position {
        self.log.len() as Position
    }

    /// The first record after a position.
    pub fn first_after(&self, position: Position) -> Option<Entry> {
        self.log.get(usize::from(position)).copied()
    }

    /// The term of the log's first `upto` records.
    pub fn term_at(&self, upto: Position) -> Term {
        let claims = self.log[..usize::from(upto)].iter().rev();
        claims.clone().find(|entry| entry.record == Record::Claim).map_or(0, |entry| entry.term)
    }

    /// The messages after `after`, up to and including `upto`, in order.
    pub fn messages(&self, after: Position, upto: Position) -> Vec<MessageId> {
        let range = usize::from(after.min(upto))..usize::from(upto);
        let message = |entry: &Entry| match entry.record {
            Record::Message { message, .. } => Some(message),
            _ => None,
        };
        self.log[range].iter().filter_map(message).collect()
    }

    /// The messages that were acknowledged.
    pub fn acknowledged(&self) -> Set {
        let clients = (0_u8..).zip(&self.clients);
        clients
            .filter(|(_, client)| client.acknowledged_as != 0)
            .fold(0, |all, (i, _)| all | set(i))
    }
}

impl Owner {
    pub fn after_claim(term: Term, position: Position, memory: Vec<MessageId>) -> Self {
        let tail = position;
        Self { term, tail, memory, flight: None, filling: None, readers: 0, sealed: false }
    }

    /// How many of the messages in memory are committed.
    pub fn committed(&self) -> usize {
        let flying = self.flight.as_ref().is_some_and(Flight::has_message);
        self.memory.len() - usize::from(flying) - usize::from(self.filling.is_some())
    }
}

impl Flight {
    pub fn has_message(&self) -> bool {
        matches!(self.entry.record, Record::Message { .. })
    }
}

impl Role {
    pub fn flight(&self) -> Option<&Flight> {
        match self {
            Self::Idle => None,
            Self::Claiming(flight) => Some(flight),
            Self::Owner(owner) => owner.flight.as_ref(),
        }
    }
    pub fn flight_mut(&mut self) -> Option<&mut Flight> {
        match self {
            Self::Idle => None,
            Self::Claiming(flight) => Some(flight),
            Self::Owner(owner) => owner.flight.as_mut(),
        }
    }
}
