//! Brings the state store up to the end of the log, by the same fold that a running slot uses,
//! and builds what the log keeps in memory.

use super::{
    log::{FENCE_KEY, FenceRow, SlotState, Tables},
    state as store,
};
use crate::{
    database::{OpenError, db::Db, engine::Engine, record},
    limits,
    log::record::{Batch, opened},
    names::SlotId,
    state::{SlotMeta, changes::Changes},
};
use std::collections::BTreeMap;

/// Replays the log in `db` into its state. `mark`: the group commit that the log had at least.
/// When it returns, every slot's state is current and durable, and all of the log is trimmed.
pub fn run(engine: &Engine, db: &Db, mark: u64) -> Result<Tables, OpenError> {
    let damaged = |why: String| OpenError::corrupt(db.log.path(), why);
    let slot_count = engine.identity.slot_count;
    let fence = read_fence(db)?;
    let mut slots = Vec::with_capacity(usize::from(slot_count));
    for slot in 0..slot_count {
        let meta =
            store::read_slot(db, slot).map_err(|why| OpenError::corrupt(db.slots.path(), why))?;
        let fenced = fence.slots.get(usize::from(slot)).copied().unwrap_or_default();
        slots.push((meta, fenced));
    }
    if engine.identity.clustered {
        // There is no log here to hold the state against: it is a copy, behind its cluster's log.
        let slots = slots.iter().map(|_| SlotState::default()).collect();
        return Ok(Tables { slots, chain: engine.identity.salt, ..Tables::default() });
    }
    let mut pending: BTreeMap<SlotId, Changes> = BTreeMap::new();
    let mut pending_bytes = 0;
    let mut last: Option<(u64, u64)> = None;
    for item in db.log.iter() {
        let (key, value) = item.map_err(|e| damaged(e.to_string()))?;
        let record = record::read(&key, &value, engine.identity.salt).map_err(damaged)?;
        let number = record.number;
        let after = match last {
            Some((last, chain)) => {
                number == last + 1 && record::expected_chain(chain, &record) == record.chain
            }
            None if number == 1 => {
                record::expected_chain(engine.identity.salt, &record) == record.chain
            }
            None => number <= fence.dropped_through + 1,
        };
        if !after {
            return Err(damaged(format!("the log has a hole before record {number}")));
        }
        last = Some((number, record.chain));
        for entry in record.entries {
            let Some((meta, fenced)) = slots.get_mut(usize::from(entry.slot)) else {
                return Err(damaged(format!("log record {number} names slot {}", entry.slot)));
            };
            if number > fenced.1 {
                if entry.term < fenced.0 {
                    return Err(damaged(format!("log record {number} goes back to an older term")));
                }
                *fenced = (entry.term, number);
            }
            if number > meta.applied {
                let batch = opened(entry.batch, &engine.options.keys)
                    .and_then(|opened| Batch::decode(opened.as_deref().unwrap_or(entry.batch)));
                let batch = batch.map_err(|e| damaged(e.to_string()))?;
                pending.entry(entry.slot).or_default().fold(meta, number, batch);
                pending_bytes += entry.batch.len();
            }
        }
        if pending_bytes > limits::REPLAY_BYTES_MAX {
            apply(engine, db, &mut pending, &slots)?;
            pending_bytes = 0;
        }
    }
    let (last, chain) = last.unwrap_or((0, engine.identity.salt));
    let known = slots.iter().map(|(meta, fenced)| meta.applied.max(fenced.1)).max();
    let known = known.unwrap_or_default().max(mark).max(fence.dropped_through);
    if last < known {
        return Err(damaged(format!(
            "the log ends at record {last}, but record {known} was acknowledged: the end of the \
             log is lost"
        )));
    }
    apply(engine, db, &mut pending, &slots)?;
    db.sync().map_err(|e| OpenError::Unavailable(e.to_string()))?;
    let slots = slots.into_iter().map(|(meta, (term, last))| SlotState {
        term: term.max(meta.term),
        last: last.max(meta.applied),
        live: Default::default(),
        trimmed: meta.applied,
    });
    Ok(Tables { slots: slots.collect(), last, chain, ..Tables::default() })
}

type Known = (SlotMeta, (u64, u64));

fn apply(
    engine: &Engine,
    db: &Db,
    pending: &mut BTreeMap<SlotId, Changes>,
    slots: &[Known],
) -> Result<(), OpenError> {
    for (slot, changes) in std::mem::take(pending) {
        let Some((meta, _)) = slots.get(usize::from(slot)) else { continue };
        store::write(engine, db, slot, &changes, meta)
            .map_err(|e| OpenError::Unavailable(e.to_string()))?;
    }
    Ok(())
}

fn read_fence(db: &Db) -> Result<FenceRow, OpenError> {
    let damaged = |why: String| OpenError::corrupt(db.meta.path(), why);
    match db.meta.get(FENCE_KEY.as_bytes()).map_err(|e| damaged(e.to_string()))? {
        Some(value) => {
            let body = db.body(&value).map_err(damaged)?;
            postcard::from_bytes(body).map_err(|e| damaged(e.to_string()))
        }
        None => Ok(FenceRow::default()),
    }
}
