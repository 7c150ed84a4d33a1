//! A slot's rows in the database: read at one moment, or removed.

use super::{DiskState, decode, decode_slot, gather, history, keys, plain};
use crate::{
    database::{
        db::Db,
        engine::{Engine, OnDamage},
        rows::{DbError, Keyspace, Range, Snapshot},
    },
    error::StateError,
    limits,
    log::record::{Entry, Head},
    names::{ServiceName, SessionId, SessionKey, SlotId},
    state::{
        SlotMeta,
        changes::{Changes, UsedKey},
        rows::{FoundHead, Page, Rows, SlotView, Wiping},
    },
};
use bytes::Bytes;
use std::{ops::Bound, sync::Arc};

/// A slot at one moment.
struct View {
    engine: Arc<Engine>,
    /// Whether damage that it meets ends the node; else it is only said.
    ends: bool,
    snapshot: Snapshot,
    opened: u64,
    slot: SlotId,
    meta: SlotMeta,
}

impl DiskState {
    pub(super) fn view_of(
        &self,
        slot: SlotId,
        ends: bool,
    ) -> Result<Box<dyn SlotView>, StateError> {
        let on = if ends { OnDamage::End(&self.engine) } else { OnDamage::Say };
        let db = self.db()?;
        let snapshot = db.snapshot();
        let row = snapshot.get(&db.slots, &keys::slot(slot));
        let meta = match row.map_err(|e| on.read_error(&db.slots, &e))? {
            Some(row) => decode_slot(&db, &row).map_err(|why| on.value_error(&db.slots, why))?,
            None => SlotMeta::default(),
        };
        let engine = self.engine.clone();
        Ok(Box::new(View { engine, ends, snapshot, opened: db.opened, slot, meta }))
    }

    pub(super) fn wipe_some(
        &self,
        slot: SlotId,
        mut from: Wiping,
    ) -> Result<Option<Wiping>, StateError> {
        let db = self.db()?;
        self.engine.check_upkeep().map_err(StateError::Unavailable)?;
        let _turn = self.engine.garbage.lock();
        self.durable.forget(slot);
        // A step of a count would bring heads back.
        let mut counted = self.counts.of(slot);
        *counted = None;
        // In this order: what a later start looks at first goes first.
        let all =
            [&db.slots, &db.garbage, &db.heads, &db.pinned, &db.state, &db.remembered, &db.history];
        let prefix = keys::slot(slot);
        let mut batch = db.batch(limits::GARBAGE_ROWS_PER_STEP, false);
        while let Some(keyspace) = all.get(from.keyspace) {
            for row in keyspace.range(range(&prefix, from.after.take())) {
                let (key, value) = row.map_err(|e| self.engine.read_error(keyspace, &e))?;
                if keyspace.id() == db.history.id() {
                    history::remove_apart(&db, &mut batch, &value);
                }
                batch.remove(keyspace, &key);
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
fn range(prefix: &[u8], after: Option<Vec<u8>>) -> Range {
    let end = keys::after_prefix(prefix).map_or(Bound::Unbounded, Bound::Excluded);
    (after.map_or_else(|| Bound::Included(prefix.to_vec()), Bound::Excluded), end)
}

impl SlotView for View {
    fn meta(&self) -> &SlotMeta {
        &self.meta
    }

    fn page(
        &self,
        rows: Rows,
        after: Option<Vec<u8>>,
        bytes_max: usize,
    ) -> Result<Page, StateError> {
        let db = self.db()?;
        let keyspace = keyspace_of(rows, &db);
        let on = self.on();
        let mut page = Changes::default();
        let (mut bytes, mut last, mut more) = (0, None, false);
        // The session of the row before, and whether it is live.
        let mut session = None;
        for row in self.snapshot.range(keyspace, range(&keys::slot(self.slot), after)) {
            let (key, value) = row.map_err(|e| on.read_error(keyspace, &e))?;
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
                                let piece = history::read(on, &db, &self.snapshot, &value)?;
                                page.sessions.entry(number).or_default().history.extend(piece);
                                Ok(())
                            }
                            _ => of_session(&mut page, rows, number, &key, &value),
                        }
                    }
                    None => Err("a key is too short".into()),
                },
            };
            put.map_err(|why| on.value_error(keyspace, why))?;
            last = Some(key);
        }
        let next = last.filter(|_| more).map(|key| key.to_vec());
        Ok(Page { rows: page, bytes, next })
    }

    fn head(&self, key: &SessionKey) -> Result<Option<Head>, StateError> {
        let db = self.db()?;
        let row = self.snapshot.get(&db.heads, &keys::session(self.slot, key));
        let row = row.map_err(|e| self.on().read_error(&db.heads, &e))?;
        let head = row.map(|row| decode(&row)).transpose();
        head.map_err(|why| self.on().value_error(&db.heads, why))
    }

    fn sessions(
        &self,
        service: &ServiceName,
        after: Option<&SessionId>,
        limit: usize,
    ) -> Result<Vec<(SessionId, Head)>, StateError> {
        let heads = self.heads(service, after, limit)?.into_iter();
        heads.map(|(id, head)| Ok((id, head?))).collect()
    }

    fn heads(
        &self,
        service: &ServiceName,
        after: Option<&SessionId>,
        limit: usize,
    ) -> Result<Vec<FoundHead>, StateError> {
        let db = self.db()?;
        let base = keys::service(self.slot, service);
        let after = after.map(|after| [&base, after.as_str().as_bytes()].concat());
        let unread = |e: DbError| self.on().read_error(&db.heads, &e);
        let bad = |why: String| self.on().value_error(&db.heads, why);
        let mut found = Vec::new();
        let rows = self.snapshot.range(&db.heads, range(&base, after)).by_key();
        for row in rows.take(limit) {
            let (key, value) = row.map_err(unread)?;
            let id = keys::session_of(&key, base.len());
            let id = id.ok_or_else(|| bad("a key is no session".into()))?;
            let head = value.map_err(unread).and_then(|value| decode(&value).map_err(bad));
            found.push((id, head));
        }
        Ok(found)
    }

    fn history(
        &self,
        session: u64,
        after: u64,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<Arc<Entry>>, StateError> {
        let Some(first) = after.checked_add(1).filter(|_| limit > 0) else { return Ok(Vec::new()) };
        let db = self.db()?;
        let end = keys::after_prefix(&keys::number(self.slot, session));
        let start = Bound::Included(keys::history(self.slot, session, first).to_vec());
        let rows = (start, end.map_or(Bound::Unbounded, Bound::Excluded));
        let pieces = self.snapshot.range(&db.history, rows).map(|row| {
            let (_, row) = row.map_err(|e| self.on().read_error(&db.history, &e))?;
            history::read(self.on(), &db, &self.snapshot, &row)
        });
        gather(pieces, after, limit, bytes_max)
    }

    fn values(
        &self,
        session: u64,
        after: Option<&[u8]>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StateError> {
        let db = self.db()?;
        let base = keys::number(self.slot, session);
        let after = after.map(|after| [&base, after].concat());
        let (mut out, mut bytes) = (Vec::new(), 0);
        for row in self.snapshot.range(&db.state, range(&base, after)).take(limit) {
            let (key, value) = row.map_err(|e| self.on().read_error(&db.state, &e))?;
            let value = plain(&value).map_err(|why| self.on().value_error(&db.state, why))?;
            bytes += key.len() + value.len();
            out.push((Bytes::copy_from_slice(&key[base.len()..]), Bytes::copy_from_slice(value)));
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(out)
    }
}

impl View {
    fn on(&self) -> OnDamage<'_> {
        if self.ends { OnDamage::End(&self.engine) } else { OnDamage::Say }
    }

    fn db(&self) -> Result<impl std::ops::Deref<Target = Db> + '_, StateError> {
        let db = self.engine.open_db().map_err(StateError::Unavailable)?;
        match db.opened == self.opened {
            true => Ok(db),
            false => Err(StateError::Unavailable("the store was opened again".into())),
        }
    }

    /// Rows of a deleted session stay until they are collected.
    fn is_deleted(&self, db: &Db, number: u64) -> Result<bool, StateError> {
        let key = keys::number(self.slot, number);
        let found = self.snapshot.contains_key(&db.garbage, &key);
        found.map_err(|e| self.on().read_error(&db.garbage, &e))
    }
}

fn keyspace_of(rows: Rows, db: &Db) -> &Keyspace {
    match rows {
        Rows::Heads => &db.heads,
        Rows::State => &db.state,
        Rows::Remembered => &db.remembered,
        Rows::History => &db.history,
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
