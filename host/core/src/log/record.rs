//! What a slot's log holds, behind one byte that names the format: 1 is postcard's, of the batch as
//! a whole; 2 has framed records ([`framed`]), and is written from feature level 2 on. How an [`Entry`]
//! is written, here and wherever else, is said in `entry`.

mod entry;
mod framed;

use crate::{
    client::Client,
    effects::{Caused, Change, Origin, send::Mark},
    level::{EFFECTS_FROM, HTTP_FROM, Level, NEWEST, OLDEST, OWN_KEYS_FROM, SENDS_FROM},
    log::{LogError, Term},
    names::{ServiceName, SessionKey, SlotId},
    seal::Keyring,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The first byte of batches that every version reads. Claims are always written so: whoever is too
/// old for the rest of a log still reads who has it.
pub const BATCH_FORMAT: u8 = 1;
/// The feature level from which on batches are framed.
const FRAMED_FROM: Level = 2;

/// What one commit of one slot makes durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    pub slot: SlotId,
    pub term: Term,
    /// Unique to this batch: distinguishes a writer's own attempt from another's after a lost answer.
    pub attempt: u128,
    pub records: Vec<Record>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// A node took the slot; opens the batch's term.
    Claim {
        node: String,
    },
    /// The owner gave the slot up in an orderly way.
    Release {
        node: String,
    },
    /// From here on the slot runs this deployment of the service.
    Activate(Activate),
    Message(Box<Message>),
    Delete(Delete),
    /// Effects of a session change, and it has no message of that. Only from
    /// [`crate::level::EFFECTS_FROM`] on.
    Effects(Box<Effects>),
    /// Messages have come from another slot. Only from [`crate::level::SENDS_FROM`] on.
    Received(Received),
}

/// A slot's change to a deployment, at a message boundary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activate {
    pub service: ServiceName,
    /// Rises with each deploy or rollback of the service; an older one never replaces a newer.
    pub generation: u64,
    /// The deployment's number in the service's catalogue.
    pub deployment: DeploymentId,
}

/// A deployment's number in its service's catalogue, from 1 up. Names a digest and a version.
pub type DeploymentId = u32;

/// A message that was applied, with all that it did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub key: SessionKey,
    /// The session's number within its slot, given at its first message and never reused: the
    /// prefix of everything that is stored of it, so that a deleted session's data cannot show
    /// in a new one of the same name.
    pub session_number: u64,
    /// Shared with the session's cache and its readers.
    pub entry: Arc<Entry>,
    /// Hash of what an idempotent repeat must have in common with the first (content type, body).
    pub fingerprint: u128,
    /// Changes of the session's state; `None` deletes.
    pub writes: Vec<Write>,
    /// The session's head after this message.
    pub head: Head,
    /// Effects of the session that change. Only from [`crate::level::EFFECTS_FROM`] on, and not in
    /// format 1.
    #[serde(skip)]
    pub effects: Vec<Change>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    pub key: Bytes,
    pub value: Option<Bytes>,
}

/// A message and its reply as history keeps them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// From 1, without a gap, within the session.
    pub seq: u64,
    /// The idempotency key, if there is one, as it is remembered: see [`kept_key`].
    pub id: Option<String>,
    pub sender: Option<String>,
    /// Milliseconds since the Unix epoch, never less than the entry before; the guest's clock.
    pub time_ms: u64,
    pub content_type: String,
    pub body: Bytes,
    pub reply_content_type: String,
    pub reply: Bytes,
    /// The deployment that handled it.
    pub deployment: DeploymentId,
    pub events: Vec<Event>,
    /// What it comes from; `None`: a client of whom nothing is known.
    pub origin: Option<Box<Origin>>,
    /// What it has led to. From [`HTTP_FROM`] on.
    pub caused: Vec<Caused>,
}

impl Entry {
    /// Memory that it takes, about.
    pub fn memory(&self) -> usize {
        let events = self.events.iter().map(Event::memory).sum::<usize>();
        let caused = self.caused.iter().map(|it| size_of::<Caused>() + it.memory());
        let client = self.client().map_or(0, |client| client.memory());
        let caused = caused.sum::<usize>();
        let bodies = self.body.len() + self.reply.len() + self.entered_bytes();
        size_of::<Self>() + bodies + events + caused + client
    }

    /// What a page of a history has of it, but for its events.
    pub fn page_bytes(&self) -> usize {
        let client = self.client().map_or(0, |client| client.bytes());
        self.body.len() + self.reply.len() + client + self.entered_bytes()
    }

    /// What it has of what an operator has written.
    fn entered_bytes(&self) -> usize {
        match self.origin.as_deref() {
            Some(Origin::Operator(entered)) => entered.bytes(),
            Some(Origin::Inherited(inherited)) => inherited.bytes(),
            _ => 0,
        }
    }

    /// Whether it is the first that its session has itself.
    pub fn begins(&self) -> bool {
        match self.origin.as_deref() {
            Some(Origin::Inherited(inherited)) => inherited.forked.first == self.seq,
            _ => self.seq == 1,
        }
    }

    /// The client that sent it, if one did that was shown to be somebody.
    pub fn client(&self) -> Option<&Arc<Client>> {
        self.origin.as_deref().and_then(Origin::client)
    }

    /// The idempotency key as the client gave it, unless a node of the cluster made it.
    pub fn client_key(&self) -> Option<&str> {
        self.sent_key().filter(|id| !id.starts_with(INTERNAL_KEY))
    }

    /// The idempotency key that the message came with.
    pub fn sent_key(&self) -> Option<&str> {
        let id = self.id.as_deref()?;
        let own = id.strip_prefix(CLIENT_KEY).and_then(|id| id.get(SCOPE_DIGITS..));
        Some(own.unwrap_or(id))
    }
}

/// What an idempotency key becomes with its message, and is remembered by, at a feature level. From [`OWN_KEYS_FROM`] on each client
/// who was shown to be somebody has keys of its own, so that nobody can use up another's. What is kept says it itself: so
/// whoever folds a log remembers the same, whatever the level is by then.
pub fn kept_key(id: String, client: Option<&Client>, level: Level) -> String {
    match client.filter(|_| level >= OWN_KEYS_FROM) {
        Some(client) => own_key(&id, client).unwrap_or(id),
        None => id,
    }
}

/// An idempotency key as it is remembered for one client; `None` for one that a node has made: nobody else has it.
pub fn own_key(id: &str, client: &Client) -> Option<String> {
    (!id.starts_with(INTERNAL_KEY))
        .then(|| format!("{CLIENT_KEY}{:0SCOPE_DIGITS$x}{id}", client.scope()))
}

/// What an idempotency key begins with that a node gave to a message of its own accord. No client
/// can send it, and neither clients nor plugins are shown one.
pub const INTERNAL_KEY: char = '\u{1}';
/// What a key begins with that is remembered for one client: this, and [`Client::scope`]. No client can send it, nor is shown it.
const CLIENT_KEY: char = '\u{2}';
const SCOPE_DIGITS: usize = 32;

/// An event that a handler emitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// A short name, for SSE's `event:`.
    pub kind: String,
    pub content_type: String,
    pub body: Bytes,
}

impl Event {
    /// Memory that it takes, about.
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.kind.len() + self.content_type.len() + self.body.len()
    }
}

/// What is known of a session without its state and history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub session_number: u64,
    /// The last message's sequence number.
    pub seq: u64,
    pub created_ms: u64,
    pub updated_ms: u64,
    /// The deployment whose shape the session's state has.
    pub deployment: DeploymentId,
    /// Set when a newer deployment's `migrate` refused this session.
    pub pinned: Option<Pin>,
    /// Keys and bytes (keys + values) of the session's state.
    pub state_keys: u64,
    pub state_bytes: u64,
}

/// Why a session stays on an older deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The deployment that refused it; another one is tried afresh.
    pub against: DeploymentId,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delete {
    pub key: SessionKey,
    pub session_number: u64,
    /// The effects that the session still has, as they go with it; as for a [`Message`].
    #[serde(skip)]
    pub effects: Vec<Change>,
}

/// Effects of a session that change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effects {
    pub key: SessionKey,
    pub session_number: u64,
    pub changes: Vec<Change>,
}

/// Messages have come from sessions of another slot, or of this one. What came of them is in the same batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    pub from: SlotId,
    pub mark: Mark,
}

impl Delete {
    /// Of a session without effects.
    pub fn new(key: SessionKey, session_number: u64) -> Self {
        Self { key, session_number, effects: Vec::new() }
    }
}

impl Record {
    /// Bytes that it takes when encoded, about: so that a batch is encoded without growing.
    fn about_bytes(&self) -> usize {
        const FIXED: usize = 192;
        let changes = |of: &[Change]| of.iter().map(Change::bytes).sum::<usize>();
        let message = match self {
            Self::Message(message) => message,
            Self::Delete(delete) => return FIXED + changes(&delete.effects),
            Self::Effects(effects) => return FIXED + changes(&effects.changes),
            _ => return FIXED,
        };
        let entry = &message.entry;
        let writes = message.writes.iter();
        let events = entry.events.iter();
        FIXED
            + message.key.session.as_str().len()
            + entry.page_bytes()
            + writes.map(|w| w.key.len() + w.value.as_ref().map_or(0, Bytes::len)).sum::<usize>()
            + events.map(|e| e.kind.len() + e.content_type.len() + e.body.len()).sum::<usize>()
            + entry.caused.iter().map(|it| 16 + it.memory()).sum::<usize>()
            + changes(&message.effects)
    }

    /// The feature level from which on it is written.
    fn level(&self) -> Level {
        let of = |changes: &[Change]| changes.iter().map(Change::level).max().unwrap_or(OLDEST);
        match self {
            Self::Message(message) => {
                let Entry { id, origin, caused, .. } = &*message.entry;
                let is_own = id.as_ref().is_some_and(|id| id.starts_with(CLIENT_KEY));
                let id = if is_own { OWN_KEYS_FROM } else { OLDEST };
                let origin = origin.as_ref().map_or(OLDEST, |origin| origin.level());
                let caused = if caused.is_empty() { OLDEST } else { HTTP_FROM };
                origin.max(of(&message.effects)).max(caused).max(id)
            }
            Self::Delete(delete) => of(&delete.effects),
            Self::Effects(effects) => of(&effects.changes).max(EFFECTS_FROM),
            Self::Received(_) => SENDS_FROM,
            Self::Claim { .. } | Self::Release { .. } | Self::Activate(_) => OLDEST,
        }
    }
}

impl Batch {
    /// As every version reads it.
    ///
    /// # Errors
    /// [`LogError::Unavailable`]: a bug; nothing may be appended in its place.
    pub fn encode(&self) -> Result<Bytes, LogError> {
        self.encode_at(crate::level::OLDEST)
    }

    /// As it is written at a feature level.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_at(&self, level: Level) -> Result<Bytes, LogError> {
        let mut out =
            Vec::with_capacity(64 + self.records.iter().map(Record::about_bytes).sum::<usize>());
        // What was never asked for at a lower level need not be looked for at the newest.
        let needs = match level < NEWEST {
            true => self.records.iter().map(Record::level).max().unwrap_or(OLDEST),
            false => OLDEST,
        };
        let encoded = if level < needs {
            Err(format!("it has effects that are written from feature level {needs} on"))
        } else if level >= FRAMED_FROM {
            framed::encode(self, out)
        } else {
            out.push(BATCH_FORMAT);
            postcard::to_extend(self, out).map_err(|e| e.to_string())
        };
        encoded
            .map(Bytes::from)
            .map_err(|e| LogError::Unavailable(format!("a bug: the batch can't be encoded: {e}")))
    }

    /// Slot, term and attempt of an encoded batch, without its records.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn peek(bytes: &[u8]) -> Result<(SlotId, Term, u128), LogError> {
        match bytes.split_first() {
            // The first fields of a struct are encoded as a tuple is.
            Some((&BATCH_FORMAT, rest)) => postcard::take_from_bytes(rest)
                .map(|(head, _)| head)
                .map_err(|e| broken(e.to_string())),
            Some((&(framed::FORMAT | SEALED), rest)) => framed::peek(rest).map_err(broken),
            _ => Self::decode(bytes).map(|batch| (batch.slot, batch.term, batch.attempt)),
        }
    }

    /// # Errors
    /// [`LogError::Corrupt`] when the bytes are not a batch of a known format.
    pub fn decode(bytes: &[u8]) -> Result<Self, LogError> {
        match bytes.split_first() {
            Some((&BATCH_FORMAT, rest)) => {
                postcard::from_bytes(rest).map_err(|e| broken(e.to_string()))
            }
            Some((&framed::FORMAT, rest)) => framed::decode(rest).map_err(broken),
            Some((&SEALED, _)) => Err(LogError::Corrupt(
                "a batch is sealed, and this node has no key: set seal.key_file".into(),
            )),
            Some((format, _)) => Err(LogError::Corrupt(format!(
                "a batch has format {format}; this slotd reads {BATCH_FORMAT} to {SEALED}"
            ))),
            None => Err(LogError::Corrupt("an empty batch".into())),
        }
    }
}

/// A batch that is sealed: see [`super::sealed`].
const SEALED: u8 = 3;

/// An encoded batch, sealed if there is a key that seals.
///
/// # Errors
/// [`LogError::Unavailable`]: a bug; nothing may be appended in its place.
pub(super) fn sealed(batch: &Bytes, keys: &Keyring) -> Result<Bytes, LogError> {
    if keys.sealing().is_none() {
        return Ok(batch.clone());
    }
    let unsealed = |why: String| LogError::Unavailable(format!("a batch can't be sealed: {why}"));
    let place = Batch::peek(batch)?;
    let mut out = Vec::with_capacity(64 + batch.len());
    out.push(SEALED);
    out = postcard::to_extend(&place, out).map_err(|e| unsealed(e.to_string()))?;
    let place = out.clone();
    keys.seal(&[b"batch", &place], batch, &mut out).map_err(unsealed)?;
    Ok(out.into())
}

/// What a batch was before it was sealed; `None`: it is not sealed.
///
/// # Errors
/// [`LogError::Corrupt`].
pub fn opened(batch: &[u8], keys: &Keyring) -> Result<Option<Bytes>, LogError> {
    let Some(rest) = batch.strip_prefix(&[SEALED]) else { return Ok(None) };
    let place = postcard::take_from_bytes::<(SlotId, Term, u128)>(rest);
    let (_, sealed) = place.map_err(|e| broken(e.to_string()))?;
    let place = &batch[..batch.len() - sealed.len()];
    let opened = keys.open(&[b"batch", place], sealed);
    opened.map(|batch| Some(batch.into())).map_err(|e| broken(e.to_string()))
}

fn broken(why: String) -> LogError {
    LogError::Corrupt(format!("a batch can't be decoded: {why}"))
}

#[cfg(test)]
mod tests;
