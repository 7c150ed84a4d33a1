//! Reads of sessions and slots.

use crate::{
    buffers::{self, Charge, Held, Kind},
    effects::Forked,
    error::Error,
    limits,
    log::record::Entry,
    names::{ServiceName, SessionId, SessionKey, SlotId},
    position::Incarnation,
};
use std::sync::Arc;

/// Which part of a session's history.
#[derive(Clone, Copy, Debug)]
pub enum Range {
    /// Entries with a greater sequence number, up to `limit`.
    After { seq: u64, limit: usize },
    /// The last `limit` entries.
    Tail { limit: usize },
}

/// Who reads a page. Its memory is charged to the connections' budget while it is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadBy {
    /// Refused when the budget is exhausted.
    Client,
    /// Not limited by what clients hold.
    Operator,
}

impl ReadBy {
    /// Whether a page may be read: checked before reading, which costs more than refusing.
    ///
    /// # Errors
    /// `buffers-full`.
    pub(crate) fn check(self) -> Result<(), Error> {
        match self {
            Self::Client => buffers::shared().check(Kind::Answers, limits::PAGE_BYTES_MAX),
            Self::Operator => Ok(()),
        }
    }
    /// Charges a page of this many bytes, and the answer made from it while it is held: base64
    /// needs a third more.
    ///
    /// # Errors
    /// `buffers-full`.
    pub(crate) fn hold(self, bytes: usize) -> Result<Held, Error> {
        let mut charge = Charge::new(buffers::shared().clone(), Kind::Answers);
        let with_answer = bytes.saturating_add(bytes / 3 * 4);
        match (charge.set(with_answer), self) {
            (Err(full), Self::Client) => Err(full),
            _ => Ok(charge.into()),
        }
    }
}

/// A page of history.
#[derive(Clone, Debug)]
pub struct History {
    pub slot: SlotId,
    /// In order. Each with its plugin's label.
    pub entries: Vec<(Arc<Entry>, Arc<str>)>,
    /// The session's last sequence number as of this read.
    pub last_seq: u64,
    /// As in [`super::Sent`].
    pub incarnation: Option<Incarnation>,
    /// The slot remembers an earlier session of that name.
    pub made_again: bool,
    /// Where the session comes from, if it was forked off another one: that has the entries before its first one.
    pub forked: Option<Arc<Forked>>,
    /// The first entry that there is, if those before have gone with the session that had them. Not between nodes.
    pub begins: Option<u64>,
    /// Memory of the page, until it has become an answer.
    pub held: Held,
}

#[derive(Clone, Debug)]
pub struct SessionInfo {
    pub service: ServiceName,
    pub session: SessionId,
    pub slot: SlotId,
    /// The last message's sequence number.
    pub seq: u64,
    /// Milliseconds since the Unix epoch.
    pub created_ms: u64,
    pub updated_ms: u64,
    /// The label of the plugin version that wrote the state.
    pub plugin: String,
    /// Keys of the session's state, and bytes of keys and values.
    pub state_keys: u64,
    pub state_bytes: u64,
    /// Why the session stays on an older plugin, if it does.
    pub pinned: Option<PinInfo>,
    /// As in [`super::Sent`]; not in listings.
    pub incarnation: Option<Incarnation>,
    /// The slot remembers an earlier session of that name.
    pub made_again: bool,
    /// It takes no more messages; not in listings.
    pub closed: bool,
    /// Where it comes from, if it was forked off another one; not in listings.
    pub forked: Option<Arc<Forked>>,
}

impl SessionInfo {
    pub fn key(&self) -> SessionKey {
        SessionKey { service: self.service.clone(), session: self.session.clone() }
    }
}

#[derive(Clone, Debug)]
pub struct PinInfo {
    /// The label of the plugin whose `migrate` refused the session.
    pub against: String,
    pub reason: String,
}

/// What a slot has done of a purge or a reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    pub deleted: u64,
    /// There are more.
    pub left: bool,
}
