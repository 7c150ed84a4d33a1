//! A slot's rows as a whole: read at one moment, or removed. What snapshots need of the store.

use super::{
    SlotMeta, StateError,
    changes::{Changes, UsedKey},
    fjall::{FjallState, decode, decode_slot, plain},
    history, keys,
};
use crate::{
    database::engine::Db,
    limits,
    log::record::Head,
    names::{ServiceName, SessionKey, SlotId},
};
use bytes::Bytes;
use fjall::{Keyspace, Readable as _, Snapshot};
use std::{ops::Bound, sync::Arc};

/// A kind of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    Heads,
    State,
    Remembered,
    History,
}

/// A slot's rows at one moment. What is written later does not show.
pub struct SlotView {
    store: Arc<FjallState>,
    snapshot: Snapshot,
    opened: u64,
    slot: SlotId,
    meta: SlotMeta,
}

/// Some rows of a [`SlotView`].
pub struct Page {
    pub rows: Changes,
    /// How many bytes of keys and values they are.
    pub bytes: usize,
    /// What to give for the next page; `None`: there is none.
    pub next: Option<Vec<u8>>,
}

/// How far a slot is wiped.
#[derive(Clone, Debug, Default)]
pub struct Wiping {
    keyspace: usize,
    after: Option<Vec<u8>>,
}

impl FjallState {
    /// Looks at a slot as it is now. Blocks on the disk.
    ///
    /// # Errors
    /// As any read.
    pub fn view(self: &Arc<Self>, slot: SlotId) -> Result<SlotView, StateError> {
        let db = self.db()?;
        let snapshot = db.database.snapshot();
        let row = snapshot.get(&db.slots, keys::slot(slot));
        let meta = match row.map_err(|e| self.engine.read_error(&db.slots, &e))? {
            Some(row) => {
                decode_slot(&db, &row).map_err(|why| self.engine.value_error(&db.slots, why))?
            }
            None => SlotMeta::default(),
        };
        Ok(SlotView { store: self.clone(), snapshot, opened: db.opened, slot, meta })
    }

    /// Removes some rows of a slot, its meta first: from then on the slot is at nothing, however
    /// far the rest gets. Gives what to go on with, or `None` when nothing is left. Call it for a
    /// slot that nobody uses, until it gives `None`, before the slot is used again. Blocks on the
    /// disk.
    ///
    /// # Errors
    /// As [`super::StateStore::apply`].
    pub fn wipe(&self, slot: SlotId, mut from: Wiping) -> Result<Option<Wiping>, StateError> {
        let db = self.db()?;
        self.engine.check_upkeep().map_err(StateError::Unavailable)?;
        let _turn = self.engine.garbage.lock();
        // In this order: what a later start looks at first goes first.
        let all =
            [&db.slots, &db.garbage, &db.heads, &db.pinned, &db.state, &db.remembered, &db.history];
        let prefix = keys::slot(slot);
        let mut batch = db.batch(limits::GARBAGE_ROWS_PER_STEP, false);
        while let Some(keyspace) = all.get(from.keyspace) {
            for row in keyspace.range(range(&prefix, from.after.take())) {
                let row = row.into_inner().map_err(|e| self.engine.read_error(keyspace, &e))?;
                let (key, value) = row;
                if keyspace.id() == db.history.id() {
                    history::remove_apart(&db, &mut batch, &value);
                }
                batch.remove(keyspace, key.clone());
                if batch.len() >= limits::GARBAGE_ROWS_PER_STEP {
                    from.after = Some(key.to_vec());
                    break;
                }
            }
            if from.after.is_some() {
                break;
            }
            from.keyspace += 1;
        }
        let more = from.keyspace < all.len();
        if !batch.is_empty() {
            self.engine.commit(&db, batch)?;
        }
        Ok(more.then_some(from))
    }
}

/// The keys that start with `prefix`, after `after`.
fn range(prefix: &[u8], after: Option<Vec<u8>>) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    let end = keys::after_prefix(prefix).map_or(Bound::Unbounded, Bound::Excluded);
    (after.map_or_else(|| Bound::Included(prefix.to_vec()), Bound::Excluded), end)
}

impl SlotView {
    pub fn meta(&self) -> &SlotMeta {
        &self.meta
    }

    /// Rows of a kind after `after`, in order, up to about `bytes_max` and at least one. Of
    /// deleted sessions nothing shows. Blocks on the disk.
    ///
    /// # Errors
    /// As any read; [`StateError::Unavailable`] when the store was opened again meanwhile.
    pub fn page(
        &self,
        rows: Rows,
        after: Option<Vec<u8>>,
        bytes_max: usize,
    ) -> Result<Page, StateError> {
        let db = self.store.db()?;
        if db.opened != self.opened {
            return Err(StateError::Unavailable("the store was opened again".into()));
        }
        let keyspace = rows.keyspace(&db);
        let engine = &self.store.engine;
        let mut page = Changes::default();
        let (mut bytes, mut last, mut more) = (0, None, false);
        // The session of the row before, and whether it is live.
        let mut session = None;
        for row in self.snapshot.range(keyspace, range(&keys::slot(self.slot), after)) {
            let (key, value) = row.into_inner().map_err(|e| engine.read_error(keyspace, &e))?;
            if bytes >= bytes_max {
                more = true;
                break;
            }
            bytes += key.len() + value.len();
            let put = match rows {
                Rows::Heads => head(&mut page, &key, &value),
                _ => match keys::number_of(key.get(..10).unwrap_or_default()) {
                    Some((_, number)) => {
                        let live = match session {
                            Some((same, live)) if same == number => live,
                            _ => !self.is_deleted(&db, number)?,
                        };
                        session = Some((number, live));
                        match rows {
                            _ if !live => Ok(()),
                            Rows::History => {
                                bytes += history::bytes(&value) - value.len();
                                let piece = history::read(engine, &db, &self.snapshot, &value)?;
                                page.sessions.entry(number).or_default().history.extend(piece);
                                Ok(())
                            }
                            _ => of_session(&mut page, rows, number, &key, &value),
                        }
                    }
                    None => Err("a key is too short".into()),
                },
            };
            put.map_err(|why| engine.value_error(keyspace, why))?;
            last = Some(key);
        }
        let next = last.filter(|_| more).map(|key| key.to_vec());
        Ok(Page { rows: page, bytes, next })
    }

    /// Rows of a deleted session stay until they are collected.
    fn is_deleted(&self, db: &Db, number: u64) -> Result<bool, StateError> {
        let key = keys::number(self.slot, number);
        let found = self.snapshot.contains_key(&db.garbage, key);
        found.map_err(|e| self.store.engine.read_error(&db.garbage, &e))
    }
}

impl Rows {
    fn keyspace(self, db: &Db) -> &Keyspace {
        match self {
            Rows::Heads => &db.heads,
            Rows::State => &db.state,
            Rows::Remembered => &db.remembered,
            Rows::History => &db.history,
        }
    }
}

fn head(page: &mut Changes, key: &[u8], value: &[u8]) -> Result<(), String> {
    let name = key.get(2..).unwrap_or_default();
    let zero = name.iter().position(|&b| b == 0).ok_or("a key has no service")?;
    let service = std::str::from_utf8(&name[..zero]).ok();
    let service = service.and_then(|name| ServiceName::parse(name).ok());
    let (service, session) =
        service.zip(keys::session_of(name, zero + 1)).ok_or("a key is no session")?;
    page.heads.insert(SessionKey { service, session }, Some(decode::<Head>(value)?));
    Ok(())
}

fn of_session(
    page: &mut Changes,
    rows: Rows,
    number: u64,
    key: &[u8],
    value: &[u8],
) -> Result<(), String> {
    let session = page.sessions.entry(number).or_default();
    let rest = key.get(10..).unwrap_or_default();
    match rows {
        Rows::Heads | Rows::History => {}
        Rows::State => {
            let value = Bytes::copy_from_slice(plain(value)?);
            session.state.insert(Bytes::copy_from_slice(rest), Some(value));
        }
        Rows::Remembered => {
            let id = std::str::from_utf8(rest).map_err(|_| "a key is no idempotency key")?;
            session.remembered.push((UsedKey::Text(id.to_owned()), decode(value)?));
        }
    }
    Ok(())
}
