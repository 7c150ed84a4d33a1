//! Reclaims the disk space of removed rows.
//!
//! Removing a row writes a tombstone, which takes the row's space back only when compaction brings
//! both together in the last level. fjall compacts a level when it is too large, and tombstones are
//! small: what was deleted would stay for as long as nothing else is written. So the background
//! thread looks at how many tombstones the tables hold, and merges the levels above the last one
//! into it when they stand for much. One step at a time, each a compaction of fjall's own.

use super::{
    db::{Db, TABLE_TARGET_BYTES},
    rows::Result,
};
use crate::limits;
use fjall::{AbstractTree, Keyspace, compaction::Leveled};
use std::{collections::BTreeSet, sync::Arc};

/// What is being merged, by the keyspace's id.
#[derive(Default)]
pub struct Reclaim {
    merging: BTreeSet<u64>,
}

/// What the tables of a keyspace hold.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Held {
    bytes: u64,
    rows: u64,
    tombstones: u64,
    /// Those in levels above the last: in the last one fjall drops them when it merges.
    movable: u64,
}

impl Held {
    /// About how many bytes of rows the movable tombstones stand for.
    fn dead_bytes(self) -> u64 {
        let live = self.rows.saturating_sub(self.tombstones).max(1);
        let a_row = self.bytes / live;
        self.movable.saturating_mul(a_row).min(self.bytes)
    }

    fn is_worth_it(self) -> bool {
        let dead = self.dead_bytes();
        dead >= limits::RECLAIM_BYTES_MIN && dead >= self.bytes / limits::RECLAIM_SHARE
    }
}

impl Reclaim {
    /// Whether there is more to do at once.
    pub fn is_busy(&self) -> bool {
        !self.merging.is_empty()
    }

    /// Takes one step in each keyspace that needs it. Blocks on the disk for as long as fjall
    /// merges a few tables.
    ///
    /// # Errors
    /// fjall's error of a compaction that failed.
    pub fn step(&mut self, db: &Db) -> Result<()> {
        for keyspace in db.compacted() {
            let held = held(keyspace);
            let goes_on = self.merging.contains(&keyspace.id()) && held.movable > 0;
            if !goes_on && !held.is_worth_it() {
                self.merging.remove(&keyspace.id());
                continue;
            }
            let before = keyspace.tree.current_version().id();
            if !goes_on {
                db.advance_gc_watermark();
            }
            let watermark = db.database.supervisor.snapshot_tracker.get_seqno_safe_to_gc();
            keyspace.tree.compact(everything_down(), watermark).map_err(fjall::Error::from)?;
            if keyspace.tree.current_version().id() == before {
                // fjall's own compactions are in the way, or there is nothing to merge.
                self.merging.remove(&keyspace.id());
            } else {
                self.merging.insert(keyspace.id());
            }
        }
        Ok(())
    }
}

/// Has all keyspaces whose values are sealed merged, so that what newer rows have replaced goes from the files: a small one
/// whole, a large one a step at a time, as far as fjall merges it.
pub struct Settling {
    /// The keyspaces that are not done, with how many steps each has left.
    left: Vec<(u64, usize)>,
}

impl Settling {
    pub fn new(db: &Db) -> Self {
        let left = db.sealed().map(|keyspace| (keyspace.id(), limits::RESEAL_MERGES_MAX));
        Self { left: left.collect() }
    }

    /// Takes one step. Gives whether it was the last one.
    ///
    /// # Errors
    /// As [`Reclaim::step`].
    pub fn step(&mut self, db: &Db) -> Result<bool> {
        let Some((id, steps)) = self.left.last_mut() else { return Ok(true) };
        let id = *id;
        let Some(keyspace) = db.compacted().find(|keyspace| keyspace.id() == id) else {
            self.left.pop();
            return Ok(self.left.is_empty());
        };
        let bytes = held(keyspace).bytes;
        db.advance_gc_watermark();
        let watermark = db.database.supervisor.snapshot_tracker.get_seqno_safe_to_gc();
        if bytes <= limits::RESEAL_MERGE_BYTES_MAX {
            if bytes > 0 {
                let merged = keyspace.tree.major_compact(TABLE_TARGET_BYTES, watermark);
                merged.map_err(fjall::Error::from)?;
            }
            self.left.pop();
            return Ok(self.left.is_empty());
        }
        let before = keyspace.tree.current_version().id();
        keyspace.tree.compact(everything_down(), watermark).map_err(fjall::Error::from)?;
        *steps = steps.saturating_sub(1);
        if *steps == 0 || keyspace.tree.current_version().id() == before {
            self.left.pop();
        }
        Ok(self.left.is_empty())
    }
}

/// fjall's leveled compaction with levels that may hold nothing: each step merges what is cheapest
/// to merge into the next level, until all is in the last.
fn everything_down() -> Arc<Leveled> {
    Arc::new(Leveled::default().with_table_target_size(TABLE_TARGET_BYTES).with_l0_threshold(0))
}

fn held(keyspace: &Keyspace) -> Held {
    let version = keyspace.tree.current_version();
    let last = version.level_count().saturating_sub(1);
    let mut held = Held::default();
    for (at, level) in version.iter_levels().enumerate() {
        for table in level.iter().flat_map(|run| run.iter()) {
            held.bytes += table.metadata.file_size;
            held.rows += table.metadata.item_count;
            held.tombstones += table.metadata.tombstone_count;
            if at < last {
                held.movable += table.metadata.tombstone_count;
            }
        }
    }
    held
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Merging for little would write a store again and again for a few deletes.
    #[test]
    fn only_what_is_much_is_merged() {
        let mib = 1024 * 1024;
        let held = |bytes, rows, tombstones| Held { bytes, rows, tombstones, movable: tombstones };
        assert!(!held(1000 * mib, 1_000_000, 0).is_worth_it());
        assert!(!held(8 * mib, 20_000, 10_000).is_worth_it(), "less than the least");
        assert!(!held(1000 * mib, 1_001_000, 1_000).is_worth_it(), "a small share");
        assert!(held(1000 * mib, 1_500_000, 500_000).is_worth_it());
        assert_eq!(held(10, 5, 5).dead_bytes(), 10, "never more than there is");
    }
}
