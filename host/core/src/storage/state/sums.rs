//! What the services of a slot have stored, as sums that each write keeps.
//!
//! The sums of a slot are a row beside its meta, in the same atomic write. The row names the position that it is of. A version
//! that does not know it, or a snapshot that is restored, moves the slot on without it: then it is of another position and does
//! not count, and [`count`] makes it anew from the slot's rows. So does a directory from before.
//!
//! What a session has is behind its head in the row of `heads`, where earlier versions do not look: they read a head and
//! ignore what follows, and write it without. Where it is not there, it is counted from the session's rows once it changes.

use super::{broken, decode_slot, history, keys, plain};
use crate::{
    database::{
        db::Db,
        engine::Engine,
        rows::{Keyspace, Range, Slice, Snapshot},
    },
    error::StateError,
    log::{Position, record::Head},
    names::{ServiceName, SessionKey, SlotId},
    state::{
        changes::Changes,
        stored::{StoredByService, StoredNow},
    },
};
use serde::{Deserialize, Serialize};
use std::{collections::HashSet, ops::Bound};

/// The first byte of the row of sums, and of what is behind a head.
const FORMAT: u8 = 1;

#[derive(Serialize, Deserialize)]
struct Row {
    applied: Position,
    services: Vec<(ServiceName, StoredNow)>,
}

/// `slot | s`: the key in `slots`, where the slot's meta is under its number alone.
fn key(slot: SlotId) -> [u8; 3] {
    let [high, low] = slot.to_be_bytes();
    [high, low, b's']
}

/// A slot's sums while a write is made.
pub(super) struct Sums<'a> {
    engine: &'a Engine,
    db: &'a Db,
    snapshot: Snapshot,
    slot: SlotId,
    /// `None`: they are not known, and not written.
    services: Option<StoredByService>,
    /// Names of which a session was deleted.
    deleted: HashSet<&'a SessionKey>,
}

impl<'a> Sums<'a> {
    /// As they are before `changes`.
    pub fn before(
        engine: &'a Engine,
        db: &'a Db,
        slot: SlotId,
        changes: &'a Changes,
    ) -> Result<Self, StateError> {
        let snapshot = db.snapshot();
        let services = known(engine, db, &snapshot, slot)?;
        let deleted = changes.deleted.iter().map(|delete| &delete.key).collect();
        Ok(Self { engine, db, snapshot, slot, services, deleted })
    }

    /// A session changes to `head`, and rows of so many bytes were `written` of it, besides its state. Its first message is among
    /// them if it `begins`. Gives what is behind its head from now on. `row`: its key in `heads`.
    pub fn session(
        &mut self,
        key: &SessionKey,
        row: &[u8],
        head: Option<&Head>,
        (begins, written): (bool, u64),
    ) -> Result<u64, StateError> {
        // One that begins has nothing in the store, unless there was another of its name.
        let was = match begins && !self.deleted.contains(key) {
            true => None,
            false => self.was(row)?,
        };
        let goes_on = matches!((&was, head), (Some((old, _)), Some(new))
            if old.session_number == new.session_number);
        let kept = match &was {
            Some((_, Some(kept))) => *kept,
            Some((old, None)) if goes_on || self.services.is_some() => {
                kept_rows(self.engine, self.db, &self.snapshot, self.slot, old.session_number)?
            }
            _ => 0,
        };
        let now = if goes_on { kept.saturating_add(written) } else { written };
        if let Some(services) = &mut self.services {
            let sum = services.entry(key.service.clone()).or_default();
            if let Some((old, _)) = was {
                sum.sessions = sum.sessions.saturating_sub(1);
                sum.bytes = sum.bytes.saturating_sub(old.state_bytes.saturating_add(kept));
            }
            if let Some(head) = head {
                sum.add(StoredNow { sessions: 1, bytes: head.state_bytes.saturating_add(now) });
            }
            if sum.sessions == 0 {
                services.remove(&key.service);
            }
        }
        Ok(now)
    }

    fn was(&self, row: &[u8]) -> Result<Option<(Head, Option<u64>)>, StateError> {
        let heads = &self.db.heads;
        let value = self.snapshot.get(heads, row).map_err(|e| self.engine.read_error(heads, &e))?;
        let read = value.map(|value| read_head(&value)).transpose();
        read.map_err(|why| self.engine.value_error(heads, why))
    }

    /// The row of sums for a slot that is at `applied` now, if they are known.
    pub fn row(&self, applied: Position) -> Result<Option<([u8; 3], Vec<u8>)>, StateError> {
        let Some(services) = &self.services else { return Ok(None) };
        let row = encode(applied, services)?;
        Ok(Some((key(self.slot), self.db.value(&row))))
    }
}

fn encode(applied: Position, services: &StoredByService) -> Result<Vec<u8>, StateError> {
    let services = services.iter().map(|(name, sum)| (name.clone(), *sum)).collect();
    postcard::to_extend(&Row { applied, services }, vec![FORMAT]).map_err(broken)
}

/// What a slot's services have; `None`: it has to be counted.
pub(super) fn read(
    engine: &Engine,
    db: &Db,
    slot: SlotId,
) -> Result<Option<StoredByService>, StateError> {
    known(engine, db, &db.snapshot(), slot)
}

fn known(
    engine: &Engine,
    db: &Db,
    snapshot: &Snapshot,
    slot: SlotId,
) -> Result<Option<StoredByService>, StateError> {
    let applied = applied(engine, db, snapshot, slot)?;
    let value = snapshot.get(&db.slots, &key(slot));
    let value = value.map_err(|e| engine.read_error(&db.slots, &e))?;
    // One that does not decode is made anew as one of another version is.
    let row = value.and_then(|value| match db.body(&value).ok()?.split_first()? {
        (&FORMAT, row) => postcard::from_bytes::<Row>(row).ok(),
        _ => None,
    });
    if let Some(row) = row.filter(|row| row.applied == applied) {
        return Ok(Some(row.services.into_iter().collect()));
    }
    // A slot that nothing was written of yet. While a snapshot is loaded it is at nothing, too.
    let mut heads = snapshot.range(&db.heads, with_prefix(&keys::slot(slot)));
    let is_new = applied == 0 && heads.next().is_none();
    Ok(is_new.then(StoredByService::new))
}

fn applied(
    engine: &Engine,
    db: &Db,
    snapshot: &Snapshot,
    slot: SlotId,
) -> Result<Position, StateError> {
    let value = snapshot.get(&db.slots, &keys::slot(slot));
    let Some(value) = value.map_err(|e| engine.read_error(&db.slots, &e))? else { return Ok(0) };
    let meta = decode_slot(db, &value).map_err(|why| engine.value_error(&db.slots, why))?;
    Ok(meta.applied)
}

/// Counts what a slot's services have, unless that is known, and writes it. It reads every head, and the rows of sessions that
/// were not counted before, one after the other. Beside a flush of the same slot it may be of no use; nothing is wrong then.
pub(super) fn count(engine: &Engine, db: &Db, slot: SlotId) -> Result<(), StateError> {
    let snapshot = db.snapshot();
    if known(engine, db, &snapshot, slot)?.is_some() {
        return Ok(());
    }
    let mut services = StoredByService::new();
    for row in snapshot.range(&db.heads, with_prefix(&keys::slot(slot))) {
        let (row, value) = row.map_err(|e| engine.read_error(&db.heads, &e))?;
        let wrong = |why: String| engine.value_error(&db.heads, why);
        let service = keys::service_of(&row).ok_or_else(|| wrong("a key is no session".into()))?;
        let (head, kept) = read_head(&value).map_err(wrong)?;
        let kept = match kept {
            Some(kept) => kept,
            None => kept_rows(engine, db, &snapshot, slot, head.session_number)?,
        };
        let one = StoredNow { sessions: 1, bytes: head.state_bytes.saturating_add(kept) };
        services.entry(service).or_default().add(one);
    }
    let applied = applied(engine, db, &snapshot, slot)?;
    let mut batch = db.batch(1, false);
    batch.insert(&db.slots, &key(slot), &db.value(&encode(applied, &services)?));
    Ok(engine.commit(db, batch)?)
}

/// Bytes of a session's rows, besides its state.
fn kept_rows(
    engine: &Engine,
    db: &Db,
    snapshot: &Snapshot,
    slot: SlotId,
    session: u64,
) -> Result<u64, StateError> {
    let prefix = keys::number(slot, session);
    let sum = |keyspace: &Keyspace, bytes: fn(&Slice) -> usize| {
        let mut sum = 0;
        for row in snapshot.range(keyspace, with_prefix(&prefix)) {
            let (key, value) = row.map_err(|e| engine.read_error(keyspace, &e))?;
            sum += (key.len() + bytes(&value)) as u64;
        }
        Ok::<_, StateError>(sum)
    };
    Ok(sum(&db.history, |row| history::bytes(row))? + sum(&db.remembered, |row| row.len())?)
}

fn with_prefix(prefix: &[u8]) -> Range {
    let end = keys::after_prefix(prefix).map_or(Bound::Unbounded, Bound::Excluded);
    (Bound::Included(prefix.to_vec()), end)
}

/// Puts behind a head what its session has.
pub(super) fn put_behind(head: &mut Vec<u8>, kept: u64) -> Result<(), StateError> {
    head.push(FORMAT);
    *head = postcard::to_extend(&kept, std::mem::take(head)).map_err(broken)?;
    Ok(())
}

/// A head with what is behind it.
fn read_head(value: &[u8]) -> Result<(Head, Option<u64>), String> {
    let read = postcard::take_from_bytes(plain(value)?);
    let (head, behind) = read.map_err(|e| format!("a value does not decode: {e}"))?;
    let kept = match behind.split_first() {
        Some((&FORMAT, kept)) => postcard::from_bytes(kept).ok(),
        _ => None,
    };
    Ok((head, kept))
}
