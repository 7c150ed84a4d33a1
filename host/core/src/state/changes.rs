//! The fold of log records into what must change in the state store. Pure: used by the flush of a
//! running slot and by recovery alike.

use crate::{
    effects::{
        Change,
        rows::{self, Owner, Value as _},
    },
    log::{
        Position,
        record::{Batch, Delete, Effects, Entry, Head, Message, Received, Record},
    },
    names::SessionKey,
    state::{Remembered, SlotMeta, deleted, hash::Map},
};
use bytes::Bytes;
use std::{collections::BTreeMap, sync::Arc};

/// Coalesced changes of one slot: each key once, with its last value.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// By session number. A session that was deleted and made again appears under both numbers.
    pub sessions: Map<u64, SessionChanges>,
    /// Sessions that are gone, by number, with their key.
    pub deleted: Vec<Delete>,
    /// The heads that change; `None`: the name is free (deleted, and not made again).
    pub heads: Map<SessionKey, Option<Head>>,
}

#[derive(Clone, Debug, Default)]
pub struct SessionChanges {
    pub state: BTreeMap<Bytes, Option<Bytes>>,
    /// In order of `seq`.
    pub history: Vec<Arc<Entry>>,
    pub remembered: Vec<(UsedKey, Remembered)>,
}

/// An idempotency key that was used.
#[derive(Clone, Debug)]
pub enum UsedKey {
    Text(String),
    /// That of a message whose entry is here anyway.
    Of(Arc<Entry>),
}

impl UsedKey {
    pub fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Of(entry) => entry.id.as_deref().unwrap_or_default(),
        }
    }
}

impl From<UsedKey> for String {
    fn from(key: UsedKey) -> Self {
        match key {
            UsedKey::Text(text) => text,
            UsedKey::Of(_) => key.text().to_owned(),
        }
    }
}

impl Changes {
    /// With room for the changes of so many sessions.
    pub fn with_capacity(sessions: usize) -> Self {
        let mut changes = Self::default();
        changes.sessions.reserve(sessions);
        changes.heads.reserve(sessions);
        changes
    }

    /// About how many rows they are in a store, and not many less.
    pub fn rows(&self) -> usize {
        let of_session = |session: &SessionChanges| {
            session.state.len()
                + session.remembered.len()
                + usize::from(!session.history.is_empty())
        };
        let sessions = self.sessions.values().map(of_session).sum::<usize>();
        self.heads.len() + sessions + self.deleted.len()
    }

    pub fn is_empty(&self) -> bool {
        self.heads.is_empty() && self.deleted.is_empty() && self.sessions.is_empty()
    }

    /// Folds one batch in, at `position`, and moves `meta` along.
    pub fn fold(&mut self, meta: &mut SlotMeta, position: Position, batch: Batch) {
        meta.applied = position;
        meta.term = meta.term.max(batch.term);
        for record in batch.records {
            match record {
                Record::Claim { .. } | Record::Release { .. } => {}
                Record::Activate(activate) => {
                    let newer = meta
                        .active
                        .get(&activate.service)
                        .is_none_or(|current| activate.generation > current.generation);
                    if newer {
                        meta.active.insert(activate.service.clone(), activate);
                    }
                }
                Record::Message(message) => self.fold_message(meta, *message),
                Record::Delete(delete) => self.fold_delete(meta, delete),
                Record::Effects(effects) => {
                    let Effects { key, session_number, changes } = *effects;
                    self.fold_effects(&key, session_number, changes);
                }
                Record::Received(received) => self.fold_received(&received),
            }
        }
    }

    /// Adds changes that come after these.
    pub fn then(&mut self, later: Changes) {
        for delete in &later.deleted {
            self.sessions.remove(&delete.session_number);
        }
        for (number, session) in later.sessions {
            let own = self.sessions.entry(number).or_default();
            own.state.extend(session.state);
            own.history.extend(session.history);
            own.remembered.extend(session.remembered);
        }
        self.deleted.extend(later.deleted);
        self.heads.extend(later.heads);
    }

    fn fold_message(&mut self, meta: &mut SlotMeta, message: Message) {
        if message.entry.begins() {
            meta.sessions += 1;
        }
        let next = meta.next_session.max(message.session_number.saturating_add(1));
        self.forget_deleted(meta.next_session, next, &message.key);
        meta.next_session = next;
        let session = self.sessions.entry(message.session_number).or_default();
        for write in message.writes {
            session.state.insert(write.key, write.value);
        }
        if message.entry.id.is_some() {
            let remembered =
                Remembered { seq: message.entry.seq, fingerprint: message.fingerprint };
            session.remembered.push((UsedKey::Of(message.entry.clone()), remembered));
        }
        session.history.push(message.entry);
        self.fold_effects(&message.key, message.session_number, message.effects);
        self.heads.insert(message.key, Some(message.head));
    }

    fn fold_effects(&mut self, key: &SessionKey, session_number: u64, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        for change in &changes {
            let (gone, due) = change.due_rows(session_number);
            let rows = &mut self.sessions.entry(rows::DUE).or_default().state;
            if let Some(gone) = gone {
                rows.insert(gone.key(), None);
            }
            if let Some(due) = due {
                // It has the names of a session, which can always be encoded.
                let owner = Owner(key.clone()).encode().unwrap_or_default();
                rows.insert(due.key(), Some(owner));
            }
        }
        for change in &changes {
            let Some(row) = change.on_its_way(session_number) else { continue };
            let owner =
                change.value.as_ref().map(|_| Owner(key.clone()).encode().unwrap_or_default());
            self.sessions.entry(rows::OUTBOX).or_default().state.insert(row.key(), owner);
        }
        let own = &mut self.sessions.entry(rows::of_session(session_number)).or_default().state;
        own.extend(changes.into_iter().map(|change| (change.row, change.value)));
    }

    fn fold_received(&mut self, received: &Received) {
        let rows = &mut self.sessions.entry(rows::RECEIVED).or_default().state;
        // Numbers, which can always be encoded.
        let mark = received.mark.encode().unwrap_or_default();
        rows.insert(rows::received_key(received.from), Some(mark));
    }

    fn fold_delete(&mut self, meta: &mut SlotMeta, mut delete: Delete) {
        if deleted::is_of_names(&delete) {
            self.sessions.remove(&delete.session_number);
            return self.deleted.push(delete);
        }
        meta.sessions = meta.sessions.saturating_sub(1);
        self.sessions.remove(&delete.session_number);
        let effects = std::mem::take(&mut delete.effects);
        if !effects.is_empty() {
            // What is due goes row by row, since others' rows are among them; the rest as a whole.
            self.fold_effects(&delete.key, delete.session_number, effects);
            let number = rows::of_session(delete.session_number);
            self.sessions.remove(&number);
            self.deleted.push(Delete::new(delete.key.clone(), number));
        }
        self.heads.insert(delete.key.clone(), None);
        self.remember_deleted(meta.next_session, &delete.key);
        self.deleted.push(delete);
    }
}
