//! The store's background thread: the mark, dropping what is trimmed, removing what is deleted,
//! and checking tables that were too large to check at start. Never on a message's path.

use super::{
    log::Shared,
    reseal::Reseal,
    state::{DiskState, collect_garbage},
};
use crate::{
    database::{
        db,
        engine::Engine,
        identity::{self, Mark},
        reclaim::Reclaim,
        tables::TableFile,
    },
    limits,
};
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;

/// Stops the thread.
#[derive(Default)]
pub struct Stop {
    stopped: Mutex<bool>,
    wake: Condvar,
}

impl Stop {
    pub fn stop(&self) {
        *self.stopped.lock() = true;
        self.wake.notify_all();
    }

    /// Waits for the next round; `true` when there is none.
    fn wait(&self) -> bool {
        let mut stopped = self.stopped.lock();
        if !*stopped {
            self.wake.wait_for(&mut stopped, limits::HOUSEKEEPING_INTERVAL);
        }
        *stopped
    }

    fn now(&self) -> bool {
        *self.stopped.lock()
    }
}

pub struct Housekeeper {
    pub engine: Arc<Engine>,
    pub log: Arc<Shared>,
    pub state: Arc<DiskState>,
    pub mark: Arc<Mutex<Mark>>,
    pub stop: Arc<Stop>,
    /// Tables that are still to be checked.
    pub unchecked: Vec<TableFile>,
    /// Rows of deleted sessions that were removed and may not be in tables yet.
    pub removed_rows: usize,
    pub removed_bytes: u64,
    pub reclaim: Reclaim,
    pub reseal: Reseal,
}

impl Housekeeper {
    pub fn start(self) -> std::io::Result<std::thread::JoinHandle<()>> {
        crate::thread::start("housekeeping", move || self.run())
    }

    fn run(mut self) {
        let mut marked = crate::clock::now();
        while !self.stop.wait() {
            // Notices room that is free again, also when nobody asks.
            let _ = self.engine.check_space();
            let now_and_then = marked.elapsed() >= limits::FLUSH_INTERVAL;
            self.look_at_database(now_and_then);
            if now_and_then {
                marked = crate::clock::now();
                if let Err(e) = self.mark.lock().advance(self.log.last(), false) {
                    tracing::warn!("cannot write {}: {e}", identity::MARK);
                }
            }
            self.trim();
            self.drop_trimmed();
            self.collect_garbage();
            if now_and_then || self.reclaim.is_busy() {
                self.reclaim();
            }
            self.reseal.step(&self.engine, &self.log);
            self.check_tables();
        }
    }

    /// Keeps replay short. And: a flush or compaction that fails turns the database off without a
    /// report.
    fn look_at_database(&self, now_and_then: bool) {
        let Ok(db) = self.engine.open_db() else { return };
        let mut looked = db.look();
        if now_and_then {
            looked = looked.and_then(|()| db.release_journals());
        }
        if let Err(e) = looked {
            self.engine.fail(format!("a flush or compaction failed: {e}"));
        }
    }

    /// Trims the log where the store has durably what it led to.
    fn trim(&self) {
        let Ok(db) = self.engine.open_db() else { return };
        self.log.trim_durable(|slot| self.state.durable_up_to(&db, slot));
    }

    /// Drops whole tables of the log. The newest one stays: it shows the store which of the journals'
    /// records are in tables.
    fn drop_trimmed(&self) {
        let Ok(db) = self.engine.open_db() else { return };
        if self.engine.check_upkeep().is_err() {
            return;
        }
        let mut ends = db::table_ends(&db.log);
        ends.pop();
        let Some(&newest) = ends.last() else { return };
        let Some(&oldest) = ends.first() else { return };
        let droppable = self.log.droppable(newest);
        let through = droppable.min(newest);
        if through >= oldest
            && let Err(e) = db::drop_log_tables(&db.log, through)
        {
            self.engine.fail(format!("dropping tables of the log failed: {e}"));
        }
    }

    fn collect_garbage(&mut self) {
        while let Ok(collected) = collect_garbage(&self.engine) {
            self.removed_rows += collected.rows;
            self.removed_bytes += collected.bytes as u64;
            if self.stop.now() {
                return;
            }
            if !collected.more {
                break;
            }
        }
        let enough = self.removed_rows >= limits::RECLAIM_ROWS_MIN
            || self.removed_bytes >= limits::RECLAIM_BYTES_MIN;
        if !enough || self.engine.check_upkeep().is_err() {
            return;
        }
        (self.removed_rows, self.removed_bytes) = (0, 0);
        let Ok(db) = self.engine.open_db() else { return };
        if let Err(e) = db.rotate_removed() {
            self.engine.fail(format!("a memtable can't be rotated: {e}"));
        }
    }

    fn reclaim(&mut self) {
        let Ok(db) = self.engine.open_db() else { return };
        if self.engine.check_upkeep().is_err() {
            return;
        }
        if let Err(e) = self.reclaim.step(&db) {
            self.engine.fail(format!("merging tables to give disk space back failed: {e}"));
        }
    }

    fn check_tables(&mut self) {
        while let Some(table) = self.unchecked.pop() {
            if let Err(e) = table.check() {
                self.engine.corrupt(e.to_string());
            }
            if self.stop.now() {
                return;
            }
        }
    }
}
