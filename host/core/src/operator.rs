//! What an operator does to a session beside its handler: look at its state, correct it, bring a
//! session in from a file. A correction is a message like any other to the slot's single writer: it
//! has a number in the session's history, in which it stands who did it and why, and it commits
//! with what it changes. The handler is not asked: it must work where a handler can't read the state.

use crate::{
    effects::{Forked, Origin},
    error::{Code, Error},
    log::record::{DeploymentId, Entry, Event, INTERNAL_KEY, Pin},
    message::SessionInfo,
    names::SessionKey,
    position::Cursor,
    random,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What the idempotency key of an operator's entry begins with. No client can send it
/// ([`INTERNAL_KEY`]), and versions that don't know of operators read the entry as a message without
/// a key: its number, its writes and the sender are right.
const KEY: &str = "\u{1}operator ";

/// The content type of an operator's entry: what was done, in JSON.
pub const CONTENT_TYPE: &str = "application/vnd.slotd.operator+json";

/// An idempotency key as whoever sent it knows it.
pub fn shown_key(id: &str) -> &str {
    id.strip_prefix(KEY).unwrap_or(id)
}

impl Entry {
    /// Whether an operator made it, rather than a message.
    pub fn is_operators(&self) -> bool {
        self.id.as_deref().is_some_and(|id| id.starts_with(KEY))
    }
}

/// Something to be done to a session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Operation {
    /// The same one is carried out once.
    pub id: String,
    /// The operator's name: shown as the entry's sender.
    pub who: String,
    /// The session must be exactly there, or nothing is done.
    pub expected: Option<Cursor>,
    pub action: Action,
}

impl Operation {
    /// `key` names it, as an idempotency key does; without one nobody else has it.
    pub fn new(key: Option<&str>, who: String, expected: Option<Cursor>, action: Action) -> Self {
        let key = key.map_or_else(random::hex_id, str::to_owned);
        debug_assert!(KEY.starts_with(INTERNAL_KEY));
        Self { id: format!("{KEY}{key}"), who, expected, action }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Action {
    /// Corrects values of a session that exists.
    Set(Entered),
    /// Brings a session in, or the next part of one.
    Import(Import),
    // From here on: a node of the version before answers that it does not decode.
    /// Deletes a session that is exactly where it is expected to be: what a failed import has left.
    /// Does nothing if it is gone.
    Discard,
    /// Begins a session with another one's history, or goes on with that.
    Fork(Box<Fork>),
}

/// What an operator's entry does and records.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entered {
    /// By key; `None` deletes.
    pub changes: Vec<(String, Option<Bytes>)>,
    /// Of [`CONTENT_TYPE`].
    pub note: Bytes,
}

/// A part of a session that is brought in. The parts come in order; the first makes the session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Import {
    /// Of the first part: what is there goes.
    pub replace: bool,
    /// The session's last message before this part; 0: it is the first.
    pub after: u64,
    pub created_ms: u64,
    /// Whose shape the state has.
    pub deployment: DeploymentId,
    /// With the sequence numbers that follow `after`.
    pub history: Vec<Imported>,
    /// Comes behind the history.
    pub entered: Option<Entered>,
}

impl Import {
    /// Whether it is the last part, according to its entry.
    pub fn is_whole(&self) -> bool {
        let Some(entered) = &self.entered else { return false };
        let note: Result<serde_json::Value, _> = serde_json::from_slice(&entered.note);
        note.map_or(true, |note| note["whole"] != false)
    }
}

/// A part of what a session has of the one that it is forked off: mostly all of it. The parts come in order; the first makes
/// the session, and the last has message [`Forked::at`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fork {
    pub forked: Forked,
    pub created_ms: u64,
    /// Whose shape the state has.
    pub deployment: DeploymentId,
    /// It stays on that.
    pub pinned: Option<Pin>,
    /// The last message of the part before; 0: it is the first.
    pub after: u64,
    /// As they are kept.
    pub history: Vec<Entry>,
    /// Of the state behind them.
    pub values: Vec<(String, Bytes)>,
}

/// An entry that is brought in. As [`Entry`] is now, and stays: this is sent between nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    pub id: Option<String>,
    /// An operator's, of then.
    pub is_operators: bool,
    pub sender: Option<String>,
    pub time_ms: u64,
    pub content_type: String,
    pub body: Bytes,
    pub reply_content_type: String,
    pub reply: Bytes,
    pub deployment: DeploymentId,
    pub events: Vec<Event>,
    /// What it comes from. Between nodes it is sent beside the rest (`operation::Operate`).
    #[serde(skip)]
    pub origin: Option<Box<Origin>>,
}

impl Imported {
    /// The entry, as number `seq`. An operator's has a key that no operation can have.
    pub fn entry(self, seq: u64) -> Entry {
        Entry {
            seq,
            id: if self.is_operators { Some(format!("{KEY}{INTERNAL_KEY}{seq}")) } else { self.id },
            sender: self.sender,
            time_ms: self.time_ms,
            content_type: self.content_type,
            body: self.body,
            reply_content_type: self.reply_content_type,
            reply: self.reply,
            deployment: self.deployment,
            events: self.events,
            origin: self.origin,
            caused: Vec::new(),
        }
    }

    /// What it takes of a batch at most.
    pub fn bytes(&self) -> usize {
        let texts = [&self.id, &self.sender].into_iter().flatten().map(String::len).sum::<usize>()
            + self.content_type.len()
            + self.reply_content_type.len();
        // With their three lengths.
        let of = |e: &Event| e.kind.len() + e.content_type.len() + e.body.len() + 12;
        let events: usize = self.events.iter().map(of).sum();
        let names = |key: &SessionKey| key.service.as_str().len() + key.session.as_str().len();
        let origin = match self.origin.as_deref() {
            Some(Origin::Timer(firing)) => firing.name.len(),
            Some(Origin::Session(received)) => names(&received.from),
            Some(Origin::Answer(answered)) => {
                let refusal = answered.refusal.as_ref();
                let refusal = refusal.map_or(0, |it| it.code.len() + it.reason.len());
                names(&answered.of) + answered.name.len() + refusal
            }
            Some(Origin::Http(answered)) => answered.memory(),
            Some(Origin::Part(part)) => part.id.len(),
            Some(Origin::Client(client)) => client.bytes() + 4 * client.claims.len(),
            Some(Origin::Operator(entered)) => entered.bytes(),
            // A file has what it was.
            Some(Origin::Inherited(inherited)) => inherited.bytes(),
            Some(Origin::Presence(_)) | None => 0,
        };
        self.body.len() + self.reply.len() + events + texts + origin + BYTES_BESIDE
    }
}

/// What a record has beside its entry's texts and bytes: its session's name and head, and numbers.
const BYTES_BESIDE: usize = 512;

/// Which part of a session's state.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StateRange {
    pub prefix: String,
    pub after: Option<String>,
    pub limit: u32,
}

/// A part of a session's state, in order of the keys.
#[derive(Clone, Debug)]
pub struct StatePage {
    /// As of this page.
    pub info: SessionInfo,
    pub pairs: Vec<(String, Bytes)>,
    /// There is something behind it.
    pub more: bool,
}

/// An import would replace a session, and `replace` is not set.
pub fn session_exists(key: &SessionKey) -> Error {
    Error::new(Code::SessionExists, format!("{key} already exists; to replace it, ask for that"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::log::record::BATCH_FORMAT;

    /// In a cluster that is upgraded, and after a step back, nodes of the version before read what an
    /// operator did. They must take it for a message: nothing of the format may have changed.
    #[test]
    fn an_operators_entry_is_a_message_to_those_who_do_not_know() {
        let set = Action::Set(Entered { changes: Vec::new(), note: Bytes::new() });
        let operation = Operation::new(None, "ann".into(), None, set.clone());
        let message = Imported {
            id: Some(operation.id),
            is_operators: false,
            sender: Some(operation.who),
            time_ms: 5,
            content_type: CONTENT_TYPE.into(),
            body: "{}".into(),
            reply_content_type: String::new(),
            reply: Bytes::new(),
            deployment: 1,
            events: Vec::new(),
            origin: None,
        };
        let entry = message.entry(3);
        assert!(entry.is_operators());
        assert_eq!(entry.client_key(), None, "shown to clients and plugins");
        assert_eq!(BATCH_FORMAT, 1);
        let named = Operation::new(Some("fix-17"), "ann".into(), None, set);
        assert_eq!(named.id, "\u{1}operator fix-17");
        // A key that a node makes for a message is not an operator's.
        let own = Entry { id: Some(format!("\u{1}{:032x}-1", 7)), ..entry };
        assert!(!own.is_operators());
    }
}
