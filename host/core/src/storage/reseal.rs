//! Keeps old rows as new ones are: what was sealed with an earlier key is sealed with the one in use, what was in clear text
//! is sealed, and, where a key only opens, what was sealed is written in clear text.
//!
//! One pass over the rows of each keyspace, in the background, a part each time that the housekeeper comes round. New rows
//! are written by this process with the key in use, wherever they are; so when a pass has come to the end, no row
//! needs another key. That is synced, and only then are the other keys' ids taken out of the directory's identity.
//! A crash leaves rows of either kind and an identity with both keys: the next start begins a new pass, which writes
//! only what the last one has not.
//!
//! Log records need no rewriting: a start applies them all before anything new is written, and none is opened again.
//!
//! Between the pass and the end, tables are merged and the log's old tables dropped, so that old bytes go from the files,
//! too. Nothing reads them any more; so it is tried, and not waited for.

use super::log::Shared as Log;
use crate::{
    database::{
        db::{self, Db},
        engine::{Engine, WriteError},
        identity::Identity,
        reclaim::Settling,
        rows::{Keyspace, Slice},
    },
    error::StateError,
    limits,
    seal::Keyring,
    telemetry::{metrics, repeats},
};
use parking_lot::Mutex;
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// How far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The ids of the keys that something in the directory may be sealed with.
    pub sealed_with: Vec<String>,
    /// Everything is kept as what is written now.
    pub done: bool,
    /// What is being done, if something is.
    pub doing: Option<String>,
    /// Rows that this pass has looked at, and written anew.
    pub looked_at: u64,
    pub rewritten: u64,
    /// Rows that can't be opened with any of the keys: the end is not reached while there are some.
    pub unopened: u64,
}

/// What the directory's identity says of keys, and what is shown of the work.
pub struct Resealing {
    path: PathBuf,
    keys: Keyring,
    /// As it was when the directory was opened: stands in for one that is not written.
    first: Identity,
    shown: Mutex<Progress>,
    /// The directory may be worked on.
    begun: Mutex<bool>,
    /// The identity file is written by one at a time.
    turn: Mutex<()>,
}

impl Resealing {
    pub fn new(path: &Path, keys: Keyring, identity: &Identity) -> Self {
        let shown = Progress {
            sealed_with: identity.sealed_with().to_vec(),
            done: identity.is_resealed(&keys),
            ..Progress::default()
        };
        Self {
            path: path.to_owned(),
            keys,
            first: identity.clone(),
            shown: Mutex::new(shown),
            begun: Mutex::new(false),
            turn: Mutex::default(),
        }
    }

    pub fn progress(&self) -> Progress {
        self.shown.lock().clone()
    }

    /// Changes the identity; `None`: it is as it should be.
    ///
    /// # Errors
    /// Those of `change`, and of the disk.
    pub fn change(
        &self,
        change: impl FnOnce(&Identity) -> io::Result<Option<Identity>>,
    ) -> io::Result<()> {
        let _turn = self.turn.lock();
        let read = Identity::read(&self.path).map_err(io::Error::other)?;
        let identity = read.unwrap_or_else(|| self.first.clone());
        let next = change(&identity)?;
        if let Some(next) = &next {
            next.write(&self.path)?;
        }
        let identity = next.unwrap_or(identity);
        let mut shown = self.shown.lock();
        shown.sealed_with = identity.sealed_with().to_vec();
        shown.done = identity.is_resealed(&self.keys);
        Ok(())
    }

    /// The identity names the key in use: the housekeeper may begin.
    pub fn begin(&self) {
        *self.begun.lock() = true;
    }

    fn show(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.shown.lock());
    }
}

/// The housekeeper's part.
pub struct Reseal {
    pub shared: Arc<Resealing>,
    at: Option<At>,
}

/// Where a pass is.
struct At {
    /// The opening of the database that it is about.
    opened: u64,
    step: Step,
}

enum Step {
    /// Rows of the keyspace with this number after this key.
    Rows {
        keyspace: usize,
        after: Option<Vec<u8>>,
    },
    /// What is in memory is being written to tables.
    Tables,
    Merge(Settling),
    /// The log's tables up to this record are to go.
    Log {
        up_to: u64,
        tries: usize,
    },
    End,
}

impl Reseal {
    pub fn new(shared: Arc<Resealing>) -> Self {
        Self { shared, at: None }
    }

    /// Does a part. Blocks on the disk.
    pub fn step(&mut self, engine: &Engine, log: &Log) {
        if self.shared.shown.lock().done || !*self.shared.begun.lock() {
            return;
        }
        let Ok(db) = engine.open_db() else { return };
        // It takes space before it gives some back.
        if let Err(why) = engine.check_writable() {
            return self.shared.show(|shown| shown.doing = Some(format!("waiting: {why}")));
        }
        let at = self.at.take().filter(|at| at.opened == db.opened);
        let at = at.unwrap_or_else(|| {
            self.shared.show(|shown| {
                (shown.looked_at, shown.rewritten, shown.unopened) = (0, 0, 0);
            });
            At { opened: db.opened, step: Step::Rows { keyspace: 0, after: None } }
        });
        match self.part(engine, log, &db, at.step) {
            Ok(step) => self.at = step.map(|step| At { opened: at.opened, step }),
            // The next part begins anew.
            Err(error) if repeats::admit("rows were not sealed anew", "rows") => {
                tracing::warn!(%error, "old rows can't be sealed anew now; trying again");
            }
            Err(_) => {}
        }
    }

    /// `None`: nothing is left.
    fn part(
        &self,
        engine: &Engine,
        log: &Log,
        db: &Db,
        step: Step,
    ) -> Result<Option<Step>, StateError> {
        let failed = |what: &str, e: &dyn std::fmt::Display| {
            engine.fail(format!("{what} failed: {e}"));
            StateError::Unavailable(format!("{what} failed"))
        };
        let show = |doing: &str| {
            self.shared.show(|shown| shown.doing = Some(doing.to_owned()));
        };
        Ok(Some(match step {
            Step::Rows { keyspace, after } => match db.sealed().nth(keyspace) {
                Some(rows) => {
                    show(&format!("rows of {}", rows.name()));
                    match self.rows(engine, db, rows, after)? {
                        after @ Some(_) => Step::Rows { keyspace, after },
                        None => Step::Rows { keyspace: keyspace + 1, after: None },
                    }
                }
                None => {
                    // Before anything is said to be so.
                    db.sync().map_err(|e| failed("a sync", &e))?;
                    let unopened = self.shared.progress().unopened;
                    if unopened > 0 {
                        self.end_unopened(unopened);
                        return Ok(None);
                    }
                    show("merging tables");
                    // So that of each row its last version alone goes into a table.
                    db.advance_gc_watermark();
                    db.rotate_all().map_err(|e| failed("rotating memtables", &e))?;
                    Step::Tables
                }
            },
            Step::Tables if db.is_writing_tables() => Step::Tables,
            Step::Tables => Step::Merge(Settling::new(db)),
            Step::Merge(mut settling) => {
                let settled = settling.step(db).map_err(|e| failed("merging tables", &e))?;
                match settled {
                    true if engine.identity.clustered => Step::End,
                    true => {
                        show("dropping tables of the log");
                        let up_to = db::table_ends(&db.log).last().copied().unwrap_or_default();
                        Step::Log { up_to, tries: 0 }
                    }
                    false => Step::Merge(settling),
                }
            }
            Step::Log { up_to, tries } => {
                let oldest = db::table_ends(&db.log).first().copied();
                let gone = oldest.is_none_or(|oldest| oldest > up_to);
                if gone || tries >= limits::RESEAL_LOG_TRIES_MAX {
                    Step::End
                } else {
                    // The last table stays, and what was dropped is noted in a record: both need newer records. While
                    // slots are at work, a table is dropped only when they were flushed past it. The first mark is in by now.
                    log.mark();
                    if tries % limits::RESEAL_LOG_ROTATE_EVERY == 1 {
                        db.rotate_log().map_err(|e| failed("rotating a memtable", &e))?;
                    }
                    Step::Log { up_to, tries: tries + 1 }
                }
            }
            Step::End => {
                let keys = &self.shared.keys;
                let written = self.shared.change(|identity| Ok(Some(identity.resealed(keys))));
                written.map_err(|e| StateError::Unavailable(e.to_string()))?;
                self.shared.show(|shown| shown.doing = None);
                let rows = self.shared.progress().rewritten;
                let now = keys.kept_as();
                tracing::info!(
                    rows,
                    now,
                    "all of the data directory is kept alike; it needs no other key"
                );
                return Ok(None);
            }
        }))
    }

    fn end_unopened(&self, rows: u64) {
        let doing = format!("nothing: {rows} rows can't be opened with any of the keys");
        self.shared.show(|shown| shown.doing = Some(doing));
        // Once more at the next start.
        *self.shared.begun.lock() = false;
        tracing::error!(
            rows,
            "rows can't be opened with any of the keys, so the keys' ids stay in the data directory"
        );
    }

    /// Rows of one keyspace. Gives where to go on; `None`: there are no more.
    fn rows(
        &self,
        engine: &Engine,
        db: &Db,
        rows: &Keyspace,
        mut after: Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>, StateError> {
        let began = crate::clock::now();
        loop {
            let (rows_max, bytes_max) = (limits::RESEAL_ROWS_MAX, limits::RESEAL_BYTES_MAX);
            let found = rows.outdated(after, rows_max, bytes_max);
            let found = found.map_err(|e| engine.read_error(rows, &e))?;
            let (mut rewritten, mut unopened) = (0, 0);
            if !found.keys.is_empty() {
                (rewritten, unopened) = rewrite(engine, db, rows, &found.keys)?;
            }
            metrics().rows_resealed.increment(rewritten);
            self.shared.show(|shown| {
                shown.looked_at += found.rows as u64;
                shown.rewritten += rewritten;
                shown.unopened += unopened;
            });
            after = found.next;
            if after.is_none() || began.elapsed() >= limits::RESEAL_TURN {
                return Ok(after);
            }
        }
    }
}

/// Writes rows anew that are outdated still. Gives how many, and how many can't be opened.
fn rewrite(
    engine: &Engine,
    db: &Db,
    rows: &Keyspace,
    keys: &[Slice],
) -> Result<(u64, u64), StateError> {
    let (mut rewritten, mut unopened) = (0, 0);
    engine.rewrite::<Failed>(db, || {
        let mut batch = db.batch(keys.len(), false);
        for key in keys {
            match rows.get_outdated(key) {
                Ok(Some(value)) => {
                    batch.insert(rows, key, &value);
                    rewritten += 1;
                }
                Ok(None) => {}
                Err(crate::database::rows::DbError::Sealed(_)) => unopened += 1,
                Err(error) => return Err(Failed(engine.read_error(rows, &error))),
            }
        }
        Ok(batch)
    })?;
    Ok((rewritten, unopened))
}

struct Failed(StateError);

impl From<WriteError> for Failed {
    fn from(error: WriteError) -> Self {
        Self(error.into())
    }
}

impl From<Failed> for StateError {
    fn from(error: Failed) -> Self {
        error.0
    }
}
