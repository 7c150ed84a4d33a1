//! The keyspaces of the database and their tuning; what it writes, syncs and keeps small.

use super::{
    OpenError, StorageOptions,
    rows::{Keyspace, Result as DbResult, Snapshot, WriteBatch, bit},
};
use crate::{limits, telemetry::panics};
use fjall::{
    AbstractTree, Database, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode,
    compaction::{Fifo, Leveled},
    config::{BlockSizePolicy, PinningPolicy},
};
use parking_lot::Mutex;
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// The keyspaces' numbers, in the order in which they are made.
pub const META_ID: u64 = 1;
pub const LOG_ID: u64 = 2;
pub const SLOTS_ID: u64 = 3;
const LAST_ID: u64 = 9;
/// The keyspace that directories have from format 2 on.
const BODIES: &str = "bodies";
const BODIES_ID: u64 = 10;
const NAMES: [&str; 9] =
    ["meta", "log", "slots", "heads", "state", "history", "remembered", "pinned", "garbage"];

/// The first byte of every stored value.
pub const VALUE_FORMAT: u8 = 1;
const MIB: u64 = 1024 * 1024;
/// Small tables: one compaction is short, and one worker does all.
pub const TABLE_TARGET_BYTES: u64 = 16 * MIB;

/// An open database.
pub struct Db {
    pub(super) database: Database,
    pub meta: Keyspace,
    pub log: Keyspace,
    pub slots: Keyspace,
    pub heads: Keyspace,
    pub state: Keyspace,
    pub history: Keyspace,
    pub remembered: Keyspace,
    pub pinned: Keyspace,
    pub garbage: Keyspace,
    /// Large pieces of history. `None`: the directory is older than that.
    pub bodies: Option<Bodies>,
    /// Whether `pinned` may have rows. Set before one is written, and never taken back.
    pub has_pins: AtomicBool,
    /// Distinguishes this opening of the database from others of this process.
    pub opened: u64,
    /// Batches that were written, and how many of them are durable at least.
    written: AtomicU64,
    synced: AtomicU64,
    rotating: Mutex<()>,
}

/// Large pieces of history, by a number that only rises (see `storage/state/history.rs`).
pub struct Bodies {
    pub keyspace: Keyspace,
    /// The next number.
    pub next: Mutex<u64>,
}

impl Bodies {
    fn open(keyspace: Keyspace) -> fjall::Result<Self> {
        let last = match keyspace.inner.last_key_value() {
            Some(row) => Some(<[u8; 8]>::try_from(&*row.key()?)),
            None => None,
        };
        let last = last.transpose().map_err(|_| fjall::Error::Unrecoverable)?;
        let next = last.map_or(0, |last| u64::from_be_bytes(last).saturating_add(1));
        Ok(Self { keyspace, next: Mutex::new(next) })
    }
}

/// The last of the keyspaces that a directory has, with large bodies apart or without.
pub fn last_keyspace(bodies: bool) -> u64 {
    if bodies { BODIES_ID } else { LAST_ID }
}

static OPENED: AtomicU64 = AtomicU64::new(0);

/// Values of `meta`, `log` and `slots` begin with the format and the least sequence number that
/// the write of them can have got: what the journal check holds against damaged ones.
pub fn seqno_floor(keyspace: u64, value: &[u8]) -> Option<u64> {
    if !matches!(keyspace, META_ID | LOG_ID | SLOTS_ID) {
        return None;
    }
    value.get(1..9).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes)
}

/// Every keyspace is small in memory; what is read often is in the shared block cache.
fn keyspace_options(name: &str) -> KeyspaceCreateOptions {
    // Full memtables are ours to find: see `Db::rotate_full`.
    let options = || KeyspaceCreateOptions::default().max_memtable_size(u64::MAX);
    let leveled = || {
        options()
            .compaction_strategy(Arc::new(
                Leveled::default().with_table_target_size(TABLE_TARGET_BYTES),
            ))
            // Filters and indexes of the first level only; the rest goes through the cache.
            .filter_block_pinning_policy(PinningPolicy::new([true, false]))
            .index_block_pinning_policy(PinningPolicy::new([true, false]))
    };
    match name {
        // Never merged: keys only rise, and whole tables are dropped once all in them is trimmed.
        "log" => options()
            .compaction_strategy(Arc::new(Fifo::new(u64::MAX, None)))
            .data_block_size_policy(BlockSizePolicy::all(64 * 1024))
            .index_block_pinning_policy(PinningPolicy::all(false))
            .filter_block_pinning_policy(PinningPolicy::all(false)),
        "history" => leveled().data_block_size_policy(BlockSizePolicy::all(16 * 1024)),
        _ => leveled(),
    }
}

/// The size at which a keyspace's memtable is written to a table.
fn memtable_bytes(name: &str) -> u64 {
    match name {
        "log" => 8 * MIB,
        // Hold every message: the larger what is written at once, the less is merged.
        "history" | BODIES => 16 * MIB,
        "heads" | "state" | "remembered" => 4 * MIB,
        _ => 2 * MIB,
    }
}

impl Db {
    /// Opens the database at `path`, which has been checked, or makes it when `create`. `bodies`: large
    /// pieces of history lie apart.
    pub fn open(
        path: &Path,
        options: &StorageOptions,
        bodies: bool,
        create: bool,
    ) -> Result<Self, OpenError> {
        let names = NAMES.iter().chain(bodies.then_some(&BODIES));
        let names: Vec<&'static str> = names.copied().collect();
        let run = || -> fjall::Result<Self> {
            let database = Database::builder(path)
                .cache_size(options.block_cache_bytes)
                // With two, one spins while the other compacts (3.1.13).
                .worker_threads(1)
                .max_journaling_size(limits::JOURNAL_BYTES_MAX)
                .max_cached_files(Some(128))
                .open()?;
            if create {
                for name in &names {
                    database.keyspace(name, || keyspace_options(name))?;
                }
            }
            let open = |i: usize| {
                let keyspace = database.keyspace(names[i], || keyspace_options(names[i]))?;
                if keyspace.id() == i as u64 + 1 {
                    // What says where the log and the slots are is no client's, and is checked as it is.
                    Ok(match names[i] {
                        "meta" | "log" | "slots" | "garbage" => Keyspace::plain(keyspace),
                        name => Keyspace::sealed(keyspace, name, &options.keys),
                    })
                } else {
                    Err(fjall::Error::Unrecoverable)
                }
            };
            let pinned = open(7)?;
            let has_pins = AtomicBool::new(!pinned.inner.is_empty()?);
            Ok(Self {
                has_pins,
                meta: open(0)?,
                log: open(1)?,
                slots: open(2)?,
                heads: open(3)?,
                state: open(4)?,
                history: open(5)?,
                remembered: open(6)?,
                pinned,
                garbage: open(8)?,
                bodies: match names.len() {
                    10.. => Some(Bodies::open(open(9)?)?),
                    _ => None,
                },
                opened: OPENED.fetch_add(1, Ordering::Relaxed),
                written: AtomicU64::new(0),
                synced: AtomicU64::new(0),
                rotating: Mutex::new(()),
                database,
            })
        };
        // What fjall cannot make sense of it sometimes answers with a panic.
        match panics::contain_sync("opening the store", run) {
            Ok(Ok(db)) => Ok(db),
            Ok(Err(fjall::Error::Locked)) => Err(OpenError::Locked(path.display().to_string())),
            Ok(Err(e)) if !is_damage(&e) => {
                Err(OpenError::Unavailable(format!("{}: {e}", path.display())))
            }
            Ok(Err(e)) => Err(OpenError::corrupt(path, e.to_string())),
            Err(_) => Err(OpenError::corrupt(path, "the store cannot read it")),
        }
    }

    fn all(&self) -> impl Iterator<Item = &fjall::Keyspace> {
        [
            &self.meta,
            &self.log,
            &self.slots,
            &self.heads,
            &self.state,
            &self.history,
            &self.remembered,
            &self.pinned,
            &self.garbage,
        ]
        .into_iter()
        .chain(self.bodies.as_ref().map(|bodies| &bodies.keyspace))
        .map(|keyspace| &keyspace.inner)
    }

    /// The keyspaces whose values are sealed where there are keys.
    pub fn sealed(&self) -> impl Iterator<Item = &Keyspace> {
        let bodies = self.bodies.as_ref().map(|bodies| &bodies.keyspace);
        [&self.heads, &self.state, &self.history, &self.remembered, &self.pinned]
            .into_iter()
            .chain(bodies)
    }

    /// Has everything that is in memory written to tables, without waiting for it.
    ///
    /// # Errors
    /// fjall's error of a rotation that failed.
    pub fn rotate_all(&self) -> DbResult<()> {
        for keyspace in self.all() {
            keyspace.rotate_memtable()?;
        }
        Ok(())
    }

    /// Has the log's records that are in memory written to a table, without waiting for it.
    ///
    /// # Errors
    /// As [`Db::rotate_all`].
    pub fn rotate_log(&self) -> DbResult<()> {
        self.log.inner.rotate_memtable()?;
        Ok(())
    }

    /// Whether memtables are still to be written to tables.
    pub fn is_writing_tables(&self) -> bool {
        self.all().any(|keyspace| keyspace.sealed_memtable_count() > 0)
    }

    /// Whether memtables come faster than they are written to tables: soon the store keeps waiting whoever writes.
    pub fn is_behind(&self) -> bool {
        self.all().any(|keyspace| keyspace.sealed_memtable_count() >= limits::TABLES_BEHIND)
    }

    /// As [`Db::is_behind`], of the log, and as far as it may go.
    pub fn log_is_behind(&self) -> bool {
        self.log.inner.sealed_memtable_count() >= limits::LOG_TABLES_BEHIND
    }

    /// The keyspaces whose levels are merged: all but the log.
    pub(super) fn compacted(&self) -> impl Iterator<Item = &fjall::Keyspace> {
        self.all().filter(|keyspace| keyspace.id() != LOG_ID)
    }

    /// Has fjall (3.1.13) find out how far back the oldest open snapshot reaches, which it does
    /// with every 10,000th one that is closed: what is older is dropped by compactions.
    pub fn advance_gc_watermark(&self) {
        for _ in 0..10_000 {
            drop(self.database.snapshot());
        }
    }

    /// Has what was removed written to tables, where it counts.
    ///
    /// # Errors
    /// fjall's error of a rotation that failed.
    pub fn rotate_removed(&self) -> DbResult<()> {
        let bodies = self.bodies.as_ref().map(|bodies| &bodies.keyspace);
        for keyspace in [&self.state, &self.history, &self.remembered].into_iter().chain(bodies) {
            keyspace.inner.rotate_memtable()?;
        }
        Ok(())
    }

    /// The least sequence number that a write from now on can get.
    pub fn seqno_floor(&self) -> u64 {
        self.database.supervisor.seqno.get()
    }

    /// A batch; `sync`: it is durable when it is committed.
    pub fn batch(&self, capacity: usize, sync: bool) -> WriteBatch {
        let mode = if sync { PersistMode::SyncData } else { PersistMode::Buffer };
        let batch = OwnedWriteBatch::with_capacity(self.database.clone(), capacity);
        WriteBatch {
            batch: batch.durability(Some(mode)),
            sync,
            touched: 0,
            sealed: false,
            unsealed: None,
        }
    }

    /// Everything as it is now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.database.snapshot())
    }

    /// Makes durable what is written.
    ///
    /// # Errors
    /// The store's error of a sync that failed.
    pub fn sync(&self) -> DbResult<()> {
        let written = self.written();
        self.database.persist(PersistMode::SyncData)?;
        self.synced.fetch_max(written, Ordering::AcqRel);
        Ok(())
    }

    /// Fails when the store was turned off by a flush or a compaction that failed, which is
    /// not reported.
    ///
    /// # Errors
    /// The store's error then.
    pub fn look(&self) -> DbResult<()> {
        Ok(self.database.persist(PersistMode::Buffer)?)
    }

    /// Bytes on the disk, journals and tables.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn disk_bytes(&self) -> DbResult<u64> {
        Ok(self.database.disk_space()?)
    }

    /// How many batches were committed since the database was opened. A batch that is not synced
    /// is durable once [`Db::synced`] has reached what this was after it.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// A batch was committed, begun when `before` were written; synced or not.
    pub(super) fn count(&self, before: u64, synced: bool) {
        if synced {
            self.synced.fetch_max(before, Ordering::AcqRel);
        }
        self.written.fetch_add(1, Ordering::AcqRel);
    }

    /// How many of [`Db::written`] are durable at least. All keyspaces share one journal: what is
    /// synced makes what was written before it durable too.
    pub fn synced(&self) -> u64 {
        self.synced.load(Ordering::Acquire)
    }

    /// A value of `meta` or `slots` with its head.
    pub fn value(&self, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(9 + body.len());
        out.push(VALUE_FORMAT);
        out.extend_from_slice(&self.seqno_floor().to_le_bytes());
        out.extend_from_slice(body);
        out
    }

    /// The body of a value of `meta` or `slots`.
    pub fn body<'a>(&self, value: &'a [u8]) -> Result<&'a [u8], String> {
        match value.first() {
            Some(&VALUE_FORMAT) if value.len() >= 9 => Ok(&value[9..]),
            first => Err(format!("a value has format {first:?}")),
        }
    }

    /// Whether everything is in tables, which are synced, and nothing in the journals only.
    fn is_flushed(&self) -> bool {
        self.all().all(|keyspace| {
            keyspace.tree.active_memtable().is_empty() && keyspace.sealed_memtable_count() == 0
        })
    }

    /// Has memtables that are full written to tables, of the keyspaces that were written to.
    ///
    /// fjall (3.1.13) would do it, but asks its worker for it again with every commit until it is
    /// done, through a queue of 1,000 that the worker itself waits on to write to: a worker that
    /// is busy for that many commits never moves again, and the store with it.
    pub(super) fn rotate_full(&self, touched: u16) -> fjall::Result<()> {
        for keyspace in self.all().filter(|keyspace| touched & bit(keyspace) != 0) {
            let full = memtable_bytes(keyspace.name());
            if keyspace.tree.active_memtable().size() > full
                // Whoever has it rotates this one too, now or at the next commit.
                && let Some(_turn) = self.rotating.try_lock()
                && keyspace.tree.active_memtable().size() > full
            {
                keyspace.rotate_memtable()?;
            }
        }
        Ok(())
    }

    /// Has memtables written to tables when they keep a journal alive that is finished: fjall
    /// waits for each of them to fill, and replays all that is left at the next start.
    pub fn release_journals(&self) -> DbResult<()> {
        if self.database.journal_count() > 1 {
            for keyspace in self.all() {
                // One that is being written already will release what it holds.
                if keyspace.sealed_memtable_count() == 0 {
                    keyspace.rotate_memtable()?;
                }
            }
        }
        Ok(())
    }

    /// Writes every memtable to tables. Blocks until it is done, and [`limits::FLUSH_WAIT_MAX`] at
    /// the most; `false`: not everything was written by then.
    pub fn flush(&self) -> DbResult<bool> {
        for keyspace in self.all() {
            keyspace.rotate_memtable()?;
        }
        let started = crate::clock::now();
        // A worker that died never gets there; the write path reports that.
        while self.all().any(|k| k.sealed_memtable_count() > 0) {
            self.database.persist(PersistMode::Buffer)?;
            if started.elapsed() > limits::FLUSH_WAIT_MAX {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        Ok(self.is_flushed())
    }
}

/// Whether an error of fjall's means that bytes are not what was written.
pub(super) fn is_damage(error: &fjall::Error) -> bool {
    match error {
        fjall::Error::Storage(fjall::LsmError::Io(e)) | fjall::Error::Io(e) => matches!(
            e.kind(),
            std::io::ErrorKind::UnexpectedEof
                | std::io::ErrorKind::NotFound
                | std::io::ErrorKind::InvalidData
        ),
        fjall::Error::Poisoned | fjall::Error::Locked | fjall::Error::KeyspaceDeleted => false,
        _ => true,
    }
}

/// The largest key of each of a keyspace's tables, and whether it is the newest of them.
pub fn table_ends(keyspace: &Keyspace) -> Vec<u64> {
    let version = keyspace.inner.tree.current_version();
    let mut ends: Vec<u64> = version
        .iter_tables()
        .filter_map(|table| (**table.metadata.key_range.max()).try_into().ok())
        .map(u64::from_be_bytes)
        .collect();
    ends.sort_unstable();
    ends
}

/// Drops the tables of `log` whose records are all numbered up to `number`.
pub fn drop_log_tables(log: &Keyspace, number: u64) -> Result<(), String> {
    log.inner.tree.drop_range(..=number.to_be_bytes()).map_err(|e| e.to_string())
}
