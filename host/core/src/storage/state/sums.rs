//! What the services of a slot have stored, as sums that each write keeps.
//!
//! The sums of a slot are a row beside its meta, in the same atomic write. The row names the position that it is of. A version
//! that does not know it, or a snapshot that is restored, moves the slot on without it: then it is of another position and does
//! not count, and [`count`] makes it anew from the slot's rows. So does a directory from before.
//!
//! What a session has, and the subject that made it, is behind its head in the row of `heads`, where earlier versions do not look:
//! they read a head and ignore what follows, and write it without. Where it is not there, [`count`] puts it there; who made a session
//! is said by its first message.
//!
//! A count goes through the heads in order, in short steps, each of which has the slot's [`Counts`] for itself, as each write has.
//! What is written between two steps changes the sums of the sessions that were counted, and no others; so it goes on after it.
//!
//! Nothing of this is worth a node: damage that it meets is warned of, and what can be read is counted.

use super::{broken, decode_slot, history, keys, plain};
use crate::{
    clock,
    database::{
        db::Db,
        engine::{Engine, OnDamage, read_fault, value_fault},
        rows::{DbError, Keyspace, Range, Slice, Snapshot},
    },
    error::StateError,
    limits,
    log::{
        Position,
        record::{Entry, Head},
    },
    names::{ServiceName, SessionKey, SlotId},
    state::{
        changes::Changes,
        stored::{Maker, StoredByService, StoredNow, StoredOf, maker},
    },
    telemetry::repeats,
};
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use std::{collections::HashSet, ops::Bound, time::Instant};

/// The first byte of the row of sums, and of what is behind a head.
const FORMAT: u8 = 1;

/// Behind it is what subjects have of each, in the same order: [`Subjects`].
#[derive(Serialize, Deserialize)]
struct Row {
    applied: Position,
    services: Vec<(ServiceName, StoredNow)>,
}

/// Versions from before do not look for it, and write none: then the row does not count.
type Subjects = Vec<Vec<(Maker, StoredNow)>>;

/// What is behind a head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Behind {
    /// Bytes of the session's rows, besides its state.
    kept: u64,
    /// Whom it counts for.
    maker: Option<Maker>,
}

/// What a write adds to a session.
pub(super) struct Added<'a> {
    /// Its first message, if it begins.
    pub first: Option<&'a Entry>,
    /// Bytes of rows, besides its state.
    pub bytes: u64,
}

/// `slot | s`: the key in `slots`, where the slot's meta is under its number alone.
pub(super) fn key(slot: SlotId) -> [u8; 3] {
    let [high, low] = slot.to_be_bytes();
    [high, low, b's']
}

/// How far slots are counted of which the sums are not known. Whoever writes heads of a slot has it meanwhile.
pub(super) struct Counts {
    slots: Vec<Mutex<Option<Counted>>>,
    other: Mutex<Option<Counted>>,
}

impl Counts {
    pub fn new(slots: u16) -> Self {
        Self { slots: (0..slots).map(|_| Mutex::default()).collect(), other: Mutex::default() }
    }

    pub fn of(&self, slot: SlotId) -> MutexGuard<'_, Option<Counted>> {
        self.slots.get(usize::from(slot)).unwrap_or(&self.other).lock()
    }
}

/// A count that has begun.
pub(super) struct Counted {
    slot: SlotId,
    /// The opening of the database, and the position, at which it is right.
    opened: u64,
    applied: Position,
    /// The key of the last head that was looked at; empty before the first.
    up_to: Vec<u8>,
    /// What the sessions up to there have.
    services: StoredByService,
    /// How far the next one is counted.
    next: Option<Session>,
}

/// A session whose rows are being counted: first those of `remembered`, then those of `history`, to which later writes add at
/// the end only.
struct Session {
    number: u64,
    in_history: bool,
    /// The last row that was looked at there.
    after: Option<Vec<u8>>,
    bytes: u64,
}

impl Counted {
    fn is_at(&self, db: &Db, slot: SlotId, applied: Position) -> bool {
        (self.slot, self.opened, self.applied) == (slot, db.opened, applied)
    }
}

/// What is known of a slot while a write is made.
enum Known {
    All(StoredByService),
    /// Of the sessions up to a key.
    Some(Counted),
    /// It is to be counted, from the start.
    Nothing,
}

/// A slot's sums while a write is made.
pub(super) struct Sums<'a> {
    db: &'a Db,
    snapshot: Snapshot,
    slot: SlotId,
    known: Known,
    /// Names of which a session was deleted.
    deleted: HashSet<&'a SessionKey>,
}

impl<'a> Sums<'a> {
    /// As they are before `changes`; `counted` if they are not known.
    pub fn before(
        db: &'a Db,
        slot: SlotId,
        changes: &'a Changes,
        counted: Option<Counted>,
    ) -> Result<Self, StateError> {
        let snapshot = db.snapshot();
        let known = || -> Result<_, StateError> {
            if let Some(services) = known(db, &snapshot, slot)? {
                return Ok(Known::All(services));
            }
            let applied = applied(db, &snapshot, slot)?;
            let counted = counted.filter(|counted| counted.is_at(db, slot, applied));
            Ok(counted.map_or(Known::Nothing, Known::Some))
        };
        let known = known().or_else(|error| warn(slot, error).map(|()| Known::Nothing))?;
        let deleted = changes.deleted.iter().map(|delete| &delete.key).collect();
        Ok(Self { db, snapshot, slot, known, deleted })
    }

    /// A row of so many bytes is written to `remembered`.
    pub fn remembered(&mut self, session: u64, row: &[u8], bytes: u64) {
        if let Known::Some(Counted { next: Some(next), .. }) = &mut self.known
            && next.number == session
            && (next.in_history || next.after.as_deref().is_some_and(|after| row <= after))
        {
            next.bytes = next.bytes.saturating_add(bytes);
        }
    }

    /// A session changes to `head`, and there is more of it. Gives what is behind its head from now on, if that is known. `row`: its
    /// key in `heads`.
    pub fn session(
        &mut self,
        key: &SessionKey,
        row: &[u8],
        head: Option<&Head>,
        added: Added<'_>,
    ) -> Result<Option<Behind>, StateError> {
        // One that begins has nothing in the store, unless there was another of its name.
        let was = match added.first.is_some() && !self.deleted.contains(key) {
            true => Ok(None),
            false => self.was(row),
        };
        let was = match was {
            Ok(was) => was,
            Err(error) => {
                warn(self.slot, error)?;
                self.known = Known::Nothing;
                return Ok(None);
            }
        };
        let goes_on = matches!((&was, head), (Some((old, _)), Some(new))
            if old.session_number == new.session_number);
        let mut now = match &was {
            Some((_, behind)) if goes_on => behind.clone().map(|behind| {
                let kept = behind.kept.saturating_add(added.bytes);
                Behind { kept, ..behind }
            }),
            _ => Some(Behind { kept: added.bytes, maker: added.first.and_then(maker) }),
        };
        let services = match &mut self.known {
            Known::All(services) => services,
            Known::Some(counted) if row <= counted.up_to.as_slice() => &mut counted.services,
            Known::Some(_) | Known::Nothing => return Ok(now),
        };
        let was = match was {
            Some((old, Some(behind))) => Some((old, behind)),
            // What was added of it is not known.
            Some((_, None)) => {
                self.known = Known::Nothing;
                return Ok(now);
            }
            None => None,
        };
        let sum = services.entry(key.service.clone()).or_default();
        if let Some((old, behind)) = was {
            let bytes = old.state_bytes.saturating_add(behind.kept);
            sum.remove_session(behind.maker.as_deref(), bytes);
        }
        if let (Some(head), Some(now)) = (head, &mut now) {
            let bytes = head.state_bytes.saturating_add(now.kept);
            now.maker = sum.add_session(now.maker.take(), bytes);
        }
        if sum.all.sessions == 0 {
            services.remove(&key.service);
        }
        Ok(now)
    }

    fn was(&self, row: &[u8]) -> Result<Option<(Head, Option<Behind>)>, StateError> {
        let heads = &self.db.heads;
        let value = self.snapshot.get(heads, row).map_err(|e| read_fault(heads, &e))?;
        let read = value.map(|value| read_head(&value)).transpose();
        let read = read.map_err(|why| value_fault(heads, why))?;
        Ok(read.map(|(head, behind, _)| (head, behind)))
    }

    /// The value of the slot's row of sums, which [`key`] names, if it is at `applied` now and they are known.
    pub fn row(&self, applied: Position) -> Result<Option<Vec<u8>>, StateError> {
        let Known::All(services) = &self.known else { return Ok(None) };
        Ok(Some(self.db.value(&encode(applied, services)?)))
    }

    /// The count that goes on when the write is made.
    pub fn counted(self, applied: Position) -> Option<Counted> {
        let Known::Some(counted) = self.known else { return None };
        Some(Counted { applied, ..counted })
    }
}

/// Damage is warned of; what may pass is an error.
fn warn(slot: SlotId, error: StateError) -> Result<(), StateError> {
    let StateError::Corrupt(why) = error else { return Err(error) };
    if repeats::admit("what is stored can't be counted", slot) {
        tracing::warn!(
            slot,
            why,
            "a row is damaged, or its key is missing: what its session stores is counted as far as it is known"
        );
    }
    Ok(())
}

fn encode(applied: Position, services: &StoredByService) -> Result<Vec<u8>, StateError> {
    // As [`Subjects`].
    let subjects = services.values().map(|of| of.subjects.iter().collect());
    let subjects: Vec<Vec<(&Maker, &StoredNow)>> = subjects.collect();
    let services = services.iter().map(|(name, sum)| (name.clone(), sum.all)).collect();
    postcard::to_extend(&(Row { applied, services }, subjects), vec![FORMAT]).map_err(broken)
}

/// What a slot's services have; `None`: it has to be counted.
pub(super) fn read(db: &Db, slot: SlotId) -> Result<Option<StoredByService>, StateError> {
    known(db, &db.snapshot(), slot)
}

fn known(
    db: &Db,
    snapshot: &Snapshot,
    slot: SlotId,
) -> Result<Option<StoredByService>, StateError> {
    let applied = applied(db, snapshot, slot)?;
    let value = snapshot.get(&db.slots, &key(slot));
    let value = value.map_err(|e| read_fault(&db.slots, &e))?;
    // One that does not decode is made anew as one of another version is.
    let row = value.and_then(|value| match db.body(&value).ok()?.split_first()? {
        (&FORMAT, row) => postcard::from_bytes::<(Row, Subjects)>(row).ok(),
        _ => None,
    });
    let row = row.filter(|(row, of)| row.applied == applied && row.services.len() == of.len());
    if let Some((row, subjects)) = row {
        let of = |((service, all), subjects): (_, Vec<_>)| {
            (service, StoredOf { all, subjects: subjects.into_iter().collect() })
        };
        return Ok(Some(row.services.into_iter().zip(subjects).map(of).collect()));
    }
    // A slot that nothing was written of yet. While a snapshot is loaded it is at nothing, too.
    let mut heads = snapshot.range(&db.heads, with_prefix(&keys::slot(slot)));
    let is_new = applied == 0 && heads.next().is_none();
    Ok(is_new.then(StoredByService::new))
}

fn applied(db: &Db, snapshot: &Snapshot, slot: SlotId) -> Result<Position, StateError> {
    let value = snapshot.get(&db.slots, &keys::slot(slot));
    let Some(value) = value.map_err(|e| read_fault(&db.slots, &e))? else { return Ok(0) };
    let meta = decode_slot(db, &value).map_err(|why| value_fault(&db.slots, why))?;
    Ok(meta.applied)
}

/// Counts what a slot's services have, unless that is known, and writes it when all is counted. Goes on from `counted` until a
/// moment, at least by a row. `true`: there is nothing to go on with. A head that can't be read is left out; damage that hides
/// what is behind it is an error, and the count stays there.
pub(super) fn count(
    engine: &Engine,
    db: &Db,
    slot: SlotId,
    counted: &mut Option<Counted>,
    until: Instant,
) -> Result<bool, StateError> {
    let snapshot = db.snapshot();
    let begun = counted.take();
    if known(db, &snapshot, slot)?.is_some() {
        return Ok(true);
    }
    let applied = applied(db, &snapshot, slot)?;
    // It is being loaded.
    if applied == 0 {
        return Ok(true);
    }
    let mut at = begun.filter(|begun| begun.is_at(db, slot, applied)).unwrap_or_else(|| Counted {
        slot,
        opened: db.opened,
        applied,
        up_to: Vec::new(),
        services: StoredByService::new(),
        next: None,
    });
    let mut batch = db.batch(0, false);
    let counting = Counting { db, snapshot: &snapshot, slot, until };
    let mut failed = None;
    let mut all = true;
    let after = (!at.up_to.is_empty()).then_some(at.up_to.as_slice());
    for found in snapshot.range(&db.heads, behind(&keys::slot(slot), after)).by_key() {
        let (row, value) = match found {
            Ok(found) => found,
            Err(error) => {
                failed = Some(read_fault(&db.heads, &error));
                break;
            }
        };
        let read = value.map_err(|e| read_fault(&db.heads, &e)).and_then(|value| {
            let wrong = |why: String| value_fault(&db.heads, why);
            let service = keys::service_of(&row);
            let service = service.ok_or_else(|| wrong("a key is no session".into()))?;
            let (head, behind, length) = read_head(&value).map_err(wrong)?;
            Ok((service, head, behind, value[..length].to_vec()))
        });
        match read {
            Ok((service, head, behind, mut value)) => {
                let was = behind.clone();
                let mut behind = match behind {
                    Some(behind) => behind,
                    None => {
                        let number = head.session_number;
                        let Some(kept) = counting.kept(number, &mut at.next)? else {
                            all = false;
                            break;
                        };
                        Behind { kept, maker: counting.maker(number)? }
                    }
                };
                let sum = at.services.entry(service).or_default();
                let bytes = head.state_bytes.saturating_add(behind.kept);
                behind.maker = sum.add_session(behind.maker.take(), bytes);
                // Whoever changes the session next has to know what was added of it.
                if was.as_ref() != Some(&behind) {
                    put_behind(&mut value, &behind)?;
                    batch.insert(&db.heads, &row, &value);
                }
            }
            Err(error) => warn(slot, error)?,
        }
        at.next = None;
        at.up_to = row.to_vec();
        if clock::now() >= until || batch.len() >= limits::STORED_COUNT_STEP_ROWS {
            all = false;
            break;
        }
    }
    let all = all && failed.is_none();
    if all {
        batch.insert(&db.slots, &key(slot), &db.value(&encode(applied, &at.services)?));
    }
    if !batch.is_empty() {
        engine.commit(db, batch)?;
    }
    *counted = (!all).then_some(at);
    failed.map_or(Ok(all), Err)
}

/// A step of a count.
struct Counting<'a> {
    db: &'a Db,
    snapshot: &'a Snapshot,
    slot: SlotId,
    until: Instant,
}

impl Counting<'_> {
    /// Bytes of a session's rows, besides its state, as far as they can be read; `None`: it goes on from `next`.
    fn kept(&self, number: u64, next: &mut Option<Session>) -> Result<Option<u64>, StateError> {
        let begun = next.take().filter(|begun| begun.number == number);
        let new = || Session { number, in_history: false, after: None, bytes: 0 };
        let mut at = begun.unwrap_or_else(new);
        if !at.in_history {
            if !self.rows(&self.db.remembered, |row| row.len(), &mut at)? {
                *next = Some(at);
                return Ok(None);
            }
            (at.in_history, at.after) = (true, None);
        }
        let all = self.rows(&self.db.history, |row| history::bytes(row), &mut at)?;
        let bytes = at.bytes;
        *next = (!all).then_some(at);
        Ok(all.then_some(bytes))
    }

    /// Who made a session, as far as it can be read.
    fn maker(&self, number: u64) -> Result<Option<Maker>, StateError> {
        let history = &self.db.history;
        let range = with_prefix(&keys::number(self.slot, number));
        let Some(first) = self.snapshot.range(history, range).next() else { return Ok(None) };
        let read = first
            .map_err(|e| read_fault(history, &e))
            .and_then(|(_, row)| history::read(OnDamage::Say, self.db, self.snapshot, &row));
        match read {
            Ok(entries) => Ok(entries.first().and_then(|first| maker(first))),
            Err(error) => warn(self.slot, error).map(|()| None),
        }
    }

    /// Whether these were all.
    fn rows(
        &self,
        keyspace: &Keyspace,
        bytes: fn(&Slice) -> usize,
        at: &mut Session,
    ) -> Result<bool, StateError> {
        let prefix = keys::number(self.slot, at.number);
        let range = behind(&prefix, at.after.as_deref());
        for row in self.snapshot.range(keyspace, range).by_key() {
            let fault = |e: DbError| warn(self.slot, read_fault(keyspace, &e));
            match row {
                Ok((key, value)) => {
                    match value {
                        Ok(value) => at.bytes += (key.len() + bytes(&value)) as u64,
                        Err(error) => fault(error)?,
                    }
                    at.after = Some(key.to_vec());
                }
                // What comes after it can't be found.
                Err(error) => {
                    fault(error)?;
                    return Ok(true);
                }
            }
            if clock::now() >= self.until {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn with_prefix(prefix: &[u8]) -> Range {
    behind(prefix, None)
}

/// The keys that start with `prefix`, after `after`.
fn behind(prefix: &[u8], after: Option<&[u8]>) -> Range {
    let end = keys::after_prefix(prefix).map_or(Bound::Unbounded, Bound::Excluded);
    let included = || Bound::Included(prefix.to_vec());
    (after.map_or_else(included, |after| Bound::Excluded(after.to_vec())), end)
}

/// Puts behind a head what its session has.
pub(super) fn put_behind(head: &mut Vec<u8>, behind: &Behind) -> Result<(), StateError> {
    head.push(FORMAT);
    *head = postcard::to_extend(behind, std::mem::take(head)).map_err(broken)?;
    Ok(())
}

/// Whom the session of a head counts for.
pub(super) fn maker_of(value: &[u8]) -> Result<Option<Maker>, String> {
    read_head(value).map(|(_, behind, _)| behind.and_then(|behind| behind.maker))
}

/// A head with what is behind it, and how long the value is without.
fn read_head(value: &[u8]) -> Result<(Head, Option<Behind>, usize), String> {
    let read = postcard::take_from_bytes(plain(value)?);
    let (head, rest) = read.map_err(|e| format!("a value does not decode: {e}"))?;
    let behind = match rest.split_first() {
        // A version from before has put no maker there: that does not decode.
        Some((&FORMAT, behind)) => postcard::from_bytes(behind).ok(),
        _ => None,
    };
    Ok((head, behind, value.len() - rest.len()))
}
