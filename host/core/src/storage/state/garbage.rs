//! Rows of deleted sessions, which are removed in the background.

use super::history;
#[cfg(test)]
use super::keys;
#[cfg(test)]
use crate::names::SlotId;
use crate::{database::engine::Engine, error::StateError, limits};

/// What a step of [`collect_garbage`] did.
pub struct Collected {
    /// Rows that were removed, and the bytes of their keys and values.
    pub rows: usize,
    pub bytes: usize,
    /// There may be more.
    pub more: bool,
}

/// Removes some rows of deleted sessions.
///
/// # Errors
/// As any write of the store.
pub fn collect_garbage(engine: &Engine) -> Result<Collected, StateError> {
    let db = engine.open_db().map_err(StateError::Unavailable)?;
    engine.check_upkeep().map_err(StateError::Unavailable)?;
    // Between the look at what is garbage and its removal no slot is wiped and loaded anew.
    let _turn = engine.garbage.lock();
    let first = || db.garbage.first().map_err(|e| engine.read_error(&db.garbage, &e));
    let Some(key) = first()? else {
        return Ok(Collected { rows: 0, bytes: 0, more: false });
    };
    let mut batch = db.batch(limits::GARBAGE_ROWS_PER_STEP, false);
    let mut bytes = 0;
    for keyspace in [&db.state, &db.history, &db.remembered] {
        for row in keyspace.prefix(&key) {
            if batch.len() >= limits::GARBAGE_ROWS_PER_STEP {
                break;
            }
            let (row, value) = row.map_err(|e| engine.read_error(keyspace, &e))?;
            bytes += row.len() + value.len();
            if keyspace.id() == db.history.id() {
                bytes += history::bytes(&value) - value.len();
                history::remove_apart(&db, &mut batch, &value);
            }
            batch.remove(keyspace, &row);
        }
    }
    if batch.len() < limits::GARBAGE_ROWS_PER_STEP {
        batch.remove(&db.garbage, &key);
    }
    let rows = batch.len();
    engine.commit(&db, batch)?;
    Ok(Collected { rows, bytes, more: first()?.is_some() })
}

/// The session numbers that a slot's rows stand under, one a row, once what is garbage was removed.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub fn rows_by_session(engine: &Engine, slot: SlotId) -> Vec<u64> {
    while collect_garbage(engine).unwrap().more {}
    let db = engine.open_db().unwrap();
    let mut numbers = Vec::new();
    for keyspace in [&db.state, &db.history, &db.remembered] {
        for row in keyspace.prefix(&keys::slot(slot)) {
            numbers.push(keys::number_of(&row.unwrap().0[..10]).unwrap().1);
        }
    }
    numbers
}
