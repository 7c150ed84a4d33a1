//! The state store on the node's own database.

mod durable;
mod garbage;
mod history;
pub(super) mod keys;
mod rows;
mod sums;

pub use garbage::collect_garbage;
#[cfg(test)]
pub use garbage::rows_by_session;

use crate::{
    clock,
    database::{
        db::{Bodies, Db, VALUE_FORMAT},
        engine::{Engine, OnDamage},
        rows::{Keyspace, Slice, WriteBatch},
    },
    error::StateError,
    limits,
    log::{
        Position,
        record::{DeploymentId, Entry, Head},
    },
    names::{ServiceName, SessionId, SessionKey, SlotId},
    state::{
        Remembered, SessionCount, SlotMeta, StateStore,
        changes::Changes,
        hash::Map,
        rows::{SlotView, WholeSlots, Wiping},
        stored::{Maker, StoredByService},
    },
};
use bytes::Bytes;
use durable::Durable;
use parking_lot::MutexGuard;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

/// The materialised state of all slots of a node.
pub struct DiskState {
    engine: Arc<Engine>,
    durable: Durable,
    counts: sums::Counts,
}

impl DiskState {
    pub fn new(engine: Arc<Engine>) -> Self {
        let slots = engine.identity.slot_count;
        Self { engine, durable: Durable::new(slots), counts: sums::Counts::new(slots) }
    }

    /// The position at which the slot would be found after a crash, at least. Behind what is applied
    /// until that is durable; 0 until something is known. Does not block.
    pub fn durable_up_to(&self, db: &Db, slot: SlotId) -> Position {
        self.durable.up_to(slot, db.opened, db.synced())
    }

    fn db(&self) -> Result<impl std::ops::Deref<Target = Db> + '_, StateError> {
        self.engine.open_db().map_err(StateError::Unavailable)
    }

    fn row(&self, keyspace: &Keyspace, key: &[u8]) -> Result<Option<Slice>, StateError> {
        keyspace.get(key).map_err(|e| self.engine.read_error(keyspace, &e))
    }

    fn decode<T: DeserializeOwned>(&self, from: &Keyspace, value: &[u8]) -> Result<T, StateError> {
        decode(value).map_err(|why| self.engine.value_error(from, why))
    }

    /// Pieces of a session's history from `start` on, in order, as they are at one moment.
    fn pieces<'a>(
        &'a self,
        db: &'a Db,
        prefix: &[u8],
        start: Bound<Vec<u8>>,
    ) -> impl DoubleEndedIterator<Item = Result<Vec<Arc<Entry>>, StateError>> + 'a {
        let end = keys::after_prefix(prefix).map_or(Bound::Unbounded, Bound::Excluded);
        let snapshot = db.snapshot();
        let range = snapshot.range(&db.history, (start, end));
        range.map(move |row| {
            let (_, row) = row.map_err(|e| self.engine.read_error(&db.history, &e))?;
            history::read(OnDamage::End(&self.engine), db, &snapshot, &row)
        })
    }

    /// Rows from `start` on whose key starts with `prefix`, in order.
    fn rows<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        prefix: &[u8],
        start: Bound<Vec<u8>>,
    ) -> impl DoubleEndedIterator<Item = Result<(Slice, Slice), StateError>> + 'a {
        let end = keys::after_prefix(prefix).map_or(Bound::Unbounded, Bound::Excluded);
        let range = keyspace.range((start, end));
        range.map(|row| row.map_err(|e| self.engine.read_error(keyspace, &e)))
    }
}

/// The start of a listing: after `after`, or at the first of `prefix`.
fn start(base: &[u8], prefix: &[u8], after: Option<&[u8]>) -> Bound<Vec<u8>> {
    match after {
        Some(after) if after >= prefix => Bound::Excluded([base, after].concat()),
        _ => Bound::Included([base, prefix].concat()),
    }
}

impl StateStore for DiskState {
    fn slot(&self, slot: SlotId) -> Result<SlotMeta, StateError> {
        let db = self.db()?;
        let Some(value) = self.row(&db.slots, &keys::slot(slot))? else {
            return Ok(SlotMeta::default());
        };
        decode_slot(&db, &value).map_err(|why| self.engine.value_error(&db.slots, why))
    }

    fn is_writable(&self) -> bool {
        self.engine.check_upkeep().is_ok()
    }

    fn has_room(&self) -> bool {
        self.engine.has_room()
    }

    fn head(&self, slot: SlotId, key: &SessionKey) -> Result<Option<Head>, StateError> {
        let db = self.db()?;
        let value = self.row(&db.heads, &keys::session(slot, key))?;
        value.map(|value| self.decode(&db.heads, &value)).transpose()
    }

    fn get(&self, slot: SlotId, session: u64, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        let db = self.db()?;
        let value = self.row(&db.state, &keys::of_session(slot, session, key))?;
        value
            .map(|value| plain(&value).map(Bytes::copy_from_slice))
            .transpose()
            .map_err(|why| self.engine.value_error(&db.state, why))
    }

    fn scan(
        &self,
        slot: SlotId,
        session: u64,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StateError> {
        let db = self.db()?;
        let base = keys::number(slot, session);
        let (mut out, mut bytes) = (Vec::new(), 0);
        let rows = self.rows(&db.state, &[&base, prefix].concat(), start(&base, prefix, after));
        for row in rows.take(limit) {
            let (key, value) = row?;
            let value = plain(&value).map_err(|why| self.engine.value_error(&db.state, why))?;
            out.push((Bytes::copy_from_slice(&key[base.len()..]), Bytes::copy_from_slice(value)));
            bytes += key.len() - base.len() + value.len();
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(out)
    }

    fn history(
        &self,
        slot: SlotId,
        session: u64,
        after: u64,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<Arc<Entry>>, StateError> {
        let Some(first) = after.checked_add(1).filter(|_| limit > 0) else { return Ok(Vec::new()) };
        let db = self.db()?;
        let from = Bound::Included(keys::history(slot, session, first).to_vec());
        gather(self.pieces(&db, &keys::number(slot, session), from), after, limit, bytes_max)
    }

    fn history_back(
        &self,
        slot: SlotId,
        session: u64,
        before: u64,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<Arc<Entry>>, StateError> {
        let mut out = Vec::new();
        let db = self.db()?;
        let prefix = keys::number(slot, session);
        let (mut bytes, mut reached) = (0, before);
        for piece in self.pieces(&db, &prefix, Bound::Included(prefix.to_vec())).rev() {
            for entry in piece?.into_iter().rev().filter(|entry| entry.seq < before) {
                if out.len() >= limit || bytes >= bytes_max {
                    return Ok(out);
                }
                if entry.seq < reached {
                    reached = entry.seq;
                    bytes += entry_bytes(&entry);
                    out.push(entry);
                }
            }
        }
        Ok(out)
    }

    fn remembered(
        &self,
        slot: SlotId,
        session: u64,
        id: &str,
    ) -> Result<Option<Remembered>, StateError> {
        let db = self.db()?;
        let value = self.row(&db.remembered, &keys::of_session(slot, session, id.as_bytes()))?;
        value.map(|value| self.decode(&db.remembered, &value)).transpose()
    }

    fn sessions(
        &self,
        slot: SlotId,
        service: &ServiceName,
        prefix: &str,
        after: Option<&SessionId>,
        limit: usize,
    ) -> Result<Vec<(SessionId, Head)>, StateError> {
        let db = self.db()?;
        let base = keys::service(slot, service);
        let after = after.map(|after| after.as_str().as_bytes());
        let from = start(&base, prefix.as_bytes(), after);
        let mut out = Vec::new();
        let rows = self.rows(&db.heads, &[&base, prefix.as_bytes()].concat(), from);
        for row in rows.take(limit) {
            let (key, value) = row?;
            let session = keys::session_of(&key, base.len());
            let session =
                session.ok_or_else(|| self.engine.value_error(&db.heads, "a key is no session"))?;
            out.push((session, self.decode(&db.heads, &value)?));
        }
        Ok(out)
    }

    fn pinned(
        &self,
        slot: SlotId,
        service: &ServiceName,
        after: Option<&SessionId>,
        limit: usize,
    ) -> Result<Vec<(SessionId, Head)>, StateError> {
        let db = self.db()?;
        let base = keys::service(slot, service);
        let from = start(&base, b"", after.map(|after| after.as_str().as_bytes()));
        let mut out = Vec::new();
        for row in self.rows(&db.pinned, &base, from).take(limit) {
            let (key, _) = row?;
            let session = keys::session_of(&key, base.len());
            let session = session
                .ok_or_else(|| self.engine.value_error(&db.pinned, "a key is no session"))?;
            if let Some(head) = self.row(&db.heads, &key)? {
                out.push((session, self.decode(&db.heads, &head)?));
            }
        }
        Ok(out)
    }

    fn count_sessions(
        &self,
        slot: SlotId,
        service: &ServiceName,
    ) -> Result<BTreeMap<DeploymentId, SessionCount>, StateError> {
        let db = self.db()?;
        let base = keys::service(slot, service);
        let mut counts: BTreeMap<DeploymentId, SessionCount> = BTreeMap::new();
        for row in self.rows(&db.heads, &base, Bound::Included(base.clone())) {
            let head: Head = self.decode(&db.heads, &row?.1)?;
            let count = counts.entry(head.deployment).or_default();
            count.sessions += 1;
            count.pinned += u64::from(head.pinned.is_some());
        }
        Ok(counts)
    }

    fn stored(&self, slot: SlotId) -> Result<Option<StoredByService>, StateError> {
        let db = self.db()?;
        sums::read(&db, slot)
    }

    fn maker(&self, slot: SlotId, key: &SessionKey) -> Result<Option<Maker>, StateError> {
        let db = self.db()?;
        let value = self.row(&db.heads, &keys::session(slot, key))?;
        let maker = value.map(|value| sums::maker_of(&value)).transpose();
        Ok(maker.map_err(|why| self.engine.value_error(&db.heads, why))?.flatten())
    }

    fn count_stored(&self, slot: SlotId, until: Instant) -> Result<bool, StateError> {
        loop {
            let db = self.db()?;
            self.engine.check_upkeep().map_err(StateError::Unavailable)?;
            // A write of the slot waits for a step, and not for the count.
            let step = until.min(clock::now() + limits::STORED_COUNT_STEP_TIME);
            let mut counted = self.counts.of(slot);
            if sums::count(&self.engine, &db, slot, &mut counted, step)? {
                return Ok(true);
            }
            drop(counted);
            if clock::now() >= until {
                return Ok(false);
            }
        }
    }

    fn apply(&self, slot: SlotId, changes: &Changes, meta: &SlotMeta) -> Result<(), StateError> {
        let db = self.db()?;
        self.engine.check_upkeep().map_err(StateError::Unavailable)?;
        write_counted(&self.engine, &db, slot, changes, meta, &mut self.counts.of(slot))?;
        self.durable.wrote(slot, db.opened, db.written(), meta.applied);
        Ok(())
    }
}

impl WholeSlots for DiskState {
    fn view(&self, slot: SlotId) -> Result<Box<dyn SlotView>, StateError> {
        self.view_of(slot, true)
    }

    fn look(&self, slot: SlotId) -> Result<Box<dyn SlotView>, StateError> {
        self.view_of(slot, false)
    }

    fn wipe(&self, slot: SlotId, from: Wiping) -> Result<Option<Wiping>, StateError> {
        self.wipe_some(slot, from)
    }

    fn load(&self, slot: SlotId, changes: &Changes) -> Result<(), StateError> {
        let db = self.db()?;
        self.engine.check_upkeep().map_err(StateError::Unavailable)?;
        let nothing = SlotMeta::default();
        let mut counted = self.counts.of(slot);
        *counted = None;
        // What it stores is counted when all of it is there.
        write_by(Writer::piecemeal(&self.engine, &db), slot, changes, &nothing, None)
    }
}

/// Writes changes and the slot's new meta in one atomic batch that is not synced: the next group
/// commit, which goes through the same journal, makes it durable.
pub fn write(
    engine: &Engine,
    db: &Db,
    slot: SlotId,
    changes: &Changes,
    meta: &SlotMeta,
) -> Result<(), StateError> {
    write_counted(engine, db, slot, changes, meta, &mut None)
}

/// As [`write`], beside a count that goes on after it.
fn write_counted(
    engine: &Engine,
    db: &Db,
    slot: SlotId,
    changes: &Changes,
    meta: &SlotMeta,
    counted: &mut Option<sums::Counted>,
) -> Result<(), StateError> {
    // If it fails, the count begins anew.
    let mut sums = sums::Sums::before(db, slot, changes, counted.take())?;
    let writer = Writer::atomic(engine, db, changes.rows() + 2);
    write_by(writer, slot, changes, meta, Some(&mut sums))?;
    *counted = sums.counted(meta.applied);
    Ok(())
}

/// A batch that is committed when it is large enough, if it need not be atomic.
struct Writer<'a> {
    engine: &'a Engine,
    db: &'a Db,
    batch: WriteBatch,
    /// Held from the first number taken until they are all committed: so what is written later
    /// has greater ones.
    bodies: Option<MutexGuard<'a, u64>>,
    bytes: usize,
    rows_max: usize,
    bytes_max: usize,
}

impl<'a> Writer<'a> {
    fn atomic(engine: &'a Engine, db: &'a Db, rows: usize) -> Self {
        let batch = db.batch(rows, false);
        let (rows_max, bytes_max) = (usize::MAX, usize::MAX);
        Self { engine, db, batch, bodies: None, bytes: 0, rows_max, bytes_max }
    }

    fn piecemeal(engine: &'a Engine, db: &'a Db) -> Self {
        let (rows_max, bytes_max) = (limits::LOAD_WRITE_ROWS_MAX, limits::LOAD_WRITE_BYTES_MAX);
        let batch = db.batch(rows_max, false);
        Self { engine, db, batch, bodies: None, bytes: 0, rows_max, bytes_max }
    }

    /// The number of the next body that is written apart.
    fn next_body(&mut self, bodies: &'a Bodies) -> u64 {
        let next = self.bodies.get_or_insert_with(|| bodies.next.lock());
        **next += 1;
        **next - 1
    }

    /// Two rows of which never one is there alone.
    fn insert_both(
        &mut self,
        one: (&Keyspace, &[u8], &[u8]),
        other: (&Keyspace, &[u8], &[u8]),
    ) -> Result<(), StateError> {
        for (keyspace, key, value) in [one, other] {
            self.bytes += value.len();
            self.batch.insert(keyspace, key, value);
        }
        self.commit_full()
    }

    /// The store copies key and value.
    fn insert(&mut self, keyspace: &Keyspace, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        self.bytes += value.len();
        self.batch.insert(keyspace, key, value);
        self.commit_full()
    }

    fn remove(&mut self, keyspace: &Keyspace, key: &[u8]) -> Result<(), StateError> {
        self.batch.remove(keyspace, key);
        self.commit_full()
    }

    fn commit_full(&mut self) -> Result<(), StateError> {
        if self.batch.len() < self.rows_max && self.bytes < self.bytes_max {
            return Ok(());
        }
        self.bytes = 0;
        let next = self.db.batch(self.rows_max, false);
        self.engine.commit(self.db, std::mem::replace(&mut self.batch, next))?;
        self.bodies = None;
        Ok(())
    }
}

/// Writes changes, and the meta last. Rows of a keyspace come one after the other, those of
/// sessions in order of their numbers, from buffers that are used again for each.
fn write_by(
    mut to: Writer<'_>,
    slot: SlotId,
    changes: &Changes,
    meta: &SlotMeta,
    mut sums: Option<&mut sums::Sums<'_>>,
) -> Result<(), StateError> {
    let (engine, db) = (to.engine, to.db);
    let (mut row, mut value) = (Vec::with_capacity(64), Vec::with_capacity(256));
    let mut sessions: Vec<_> = changes.sessions.iter().collect();
    sessions.sort_unstable_by_key(|(number, _)| **number);
    for (number, session) in &sessions {
        for (key, written) in &session.state {
            keys::of_session_into(&mut row, slot, **number, key);
            match written {
                Some(written) => {
                    encode_plain(written, &mut value);
                    to.insert(&db.state, &row, &value)?;
                }
                None => to.remove(&db.state, &row)?,
            }
        }
    }
    // Bytes of rows by session, besides its state.
    let mut written: Map<u64, u64> = Map::default();
    for (number, session) in &sessions {
        for (id, remembered) in &session.remembered {
            keys::of_session_into(&mut row, slot, **number, id.text().as_bytes());
            encode(remembered, &mut value)?;
            to.insert(&db.remembered, &row, &value)?;
            let bytes = (row.len() + value.len()) as u64;
            *written.entry(**number).or_default() += bytes;
            if let Some(sums) = &mut sums {
                sums.remembered(**number, &row, bytes);
            }
        }
    }
    for (number, session) in &sessions {
        let bytes = history::write(&mut to, slot, **number, &session.history, &mut value)?;
        *written.entry(**number).or_default() += bytes;
    }
    for (key, head) in &changes.heads {
        keys::session_into(&mut row, slot, key);
        if head.as_ref().is_some_and(|head| head.pinned.is_some()) {
            // First, so that whoever writes the slot next looks.
            db.has_pins.store(true, Ordering::Release);
            to.insert(&db.pinned, &row, &[])?;
        } else if db.has_pins.load(Ordering::Acquire) {
            // Asking is much cheaper than a tombstone for every head.
            let was = db.pinned.contains_key(&row);
            if was.map_err(|e| engine.read_error(&db.pinned, &e))? {
                to.remove(&db.pinned, &row)?;
            }
        }
        let behind = match &mut sums {
            Some(sums) => {
                let (number, head) = (head.as_ref().map(|head| head.session_number), head.as_ref());
                let new = number.and_then(|number| changes.sessions.get(&number));
                let first = new.and_then(|session| session.history.first());
                let first = first.map(|entry| &**entry).filter(|entry| entry.begins());
                let bytes = number.and_then(|number| written.get(&number).copied());
                let bytes = bytes.unwrap_or_default();
                sums.session(key, &row, head, sums::Added { first, bytes })?
            }
            None => None,
        };
        match head {
            Some(head) => {
                encode(head, &mut value)?;
                if let Some(behind) = &behind {
                    sums::put_behind(&mut value, behind)?;
                }
                to.insert(&db.heads, &row, &value)?;
            }
            None => to.remove(&db.heads, &row)?,
        }
    }
    for delete in &changes.deleted {
        to.insert(&db.garbage, &keys::number(slot, delete.session_number), &[])?;
    }
    if let Some(row) = sums.map(|sums| sums.row(meta.applied)).transpose()?.flatten() {
        to.batch.insert(&db.slots, &sums::key(slot), &row);
    }
    let meta = postcard::to_allocvec(meta).map_err(broken)?;
    to.batch.insert(&db.slots, &keys::slot(slot), &db.value(&meta));
    Ok(engine.commit(db, to.batch)?)
}

/// The entries behind `after` of a history's pieces, which may have some twice: up to `limit`, at least 1, or to about so many
/// bytes.
fn gather(
    pieces: impl Iterator<Item = Result<Vec<Arc<Entry>>, StateError>>,
    after: u64,
    limit: usize,
    bytes_max: usize,
) -> Result<Vec<Arc<Entry>>, StateError> {
    let (mut out, mut bytes, mut reached) = (Vec::new(), 0, after);
    for piece in pieces {
        for entry in piece? {
            if entry.seq <= reached {
                continue;
            }
            reached = entry.seq;
            bytes += entry_bytes(&entry);
            out.push(entry);
            if out.len() >= limit || bytes >= bytes_max {
                return Ok(out);
            }
        }
    }
    Ok(out)
}

/// Bytes of an entry, about: what was sent and what was answered.
fn entry_bytes(entry: &Entry) -> usize {
    let events = entry.events.iter().map(|event| event.body.len() + event.kind.len());
    entry.page_bytes() + events.sum::<usize>() + 64
}

pub fn read_slot(db: &Db, slot: SlotId) -> Result<SlotMeta, String> {
    let value = db.slots.get(&keys::slot(slot)).map_err(|e| e.to_string())?;
    value.map_or(Ok(SlotMeta::default()), |value| decode_slot(db, &value))
}

fn decode_slot(db: &Db, value: &[u8]) -> Result<SlotMeta, String> {
    let body = db.body(value)?;
    postcard::from_bytes(body).map_err(|e| format!("a slot's row does not decode: {e}"))
}

/// A value's row, in place of what `out` held.
fn encode<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), StateError> {
    let mut row = std::mem::take(out);
    row.clear();
    row.push(VALUE_FORMAT);
    *out = postcard::to_extend(value, row).map_err(broken)?;
    Ok(())
}

fn encode_plain(value: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.push(VALUE_FORMAT);
    out.extend_from_slice(value);
}

fn broken(error: postcard::Error) -> StateError {
    StateError::Unavailable(format!("cannot encode: {error}"))
}

fn plain(value: &[u8]) -> Result<&[u8], String> {
    match value.split_first() {
        Some((&VALUE_FORMAT, rest)) => Ok(rest),
        first => Err(format!("a value has format {:?}", first.map(|(format, _)| format))),
    }
}

fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    postcard::from_bytes(plain(value)?).map_err(|e| format!("a value does not decode: {e}"))
}
