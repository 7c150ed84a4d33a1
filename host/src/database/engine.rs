//! The fjall database, its keyspaces and their tuning, and what happens when it fails.

use super::{OpenError, StorageOptions, identity::Identity, tables};
use crate::{error::StateError, limits};
use fjall::{
    AbstractTree, Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode,
    compaction::{Fifo, Leveled},
    config::{BlockSizePolicy, PinningPolicy},
};
use parking_lot::{MappedRwLockReadGuard, Mutex, MutexGuard, RwLock, RwLockReadGuard};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};
use tokio::sync::watch;

/// What the store can do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Everything works.
    Ready,
    /// Less room is left on the disk than the reserve: messages are refused, reads work. What
    /// reads and a slot's own upkeep need is still written, down to a quarter of the reserve. Goes
    /// back to `Ready` by itself.
    Full(String),
    /// A write failed: everything is refused until [`crate::storage::DataDir::reopen`]. Stop all slots
    /// first; they start afresh after it.
    Failed(String),
    /// A data file is damaged; the message names it. The node must stop.
    Corrupt(String),
}

/// Why a write was not done.
#[derive(Clone, Debug)]
pub enum WriteError {
    /// Nothing was written, and nothing will be.
    Refused(String),
    /// It may be stored or not.
    Undecided(String),
}

impl From<WriteError> for StateError {
    fn from(error: WriteError) -> Self {
        let (WriteError::Refused(why) | WriteError::Undecided(why)) = error;
        Self::Unavailable(why)
    }
}

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
    pub database: Database,
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
    /// Tells this opening of the database from others of this process.
    pub opened: u64,
    rotating: Mutex<()>,
}

/// Large pieces of history, by a number that only rises (see `state/history.rs`).
pub struct Bodies {
    pub keyspace: Keyspace,
    /// The next number.
    pub next: Mutex<u64>,
}

impl Bodies {
    fn open(keyspace: Keyspace) -> fjall::Result<Self> {
        let last = match keyspace.last_key_value() {
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

/// Shared by log, state and background work. `db` is empty while it is being opened again.
pub struct Engine {
    pub options: StorageOptions,
    pub identity: Identity,
    pub db_path: PathBuf,
    pub db: RwLock<Option<Db>>,
    /// Held for a step of removing what deleted sessions left, or of wiping a slot.
    pub garbage: Mutex<()>,
    health: watch::Sender<Health>,
    space: Mutex<Space>,
    /// What the last look at the free space found: read for each message.
    has_room: AtomicBool,
}

struct Space {
    checked: Option<Instant>,
    /// Why there is no room for messages.
    full: Option<String>,
    /// Why there is none for upkeep either.
    exhausted: Option<String>,
}

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
        let names: Vec<&str> = names.copied().collect();
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
                    Ok(keyspace)
                } else {
                    Err(fjall::Error::Unrecoverable)
                }
            };
            let pinned = open(7)?;
            let has_pins = AtomicBool::new(!pinned.is_empty()?);
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
                rotating: Mutex::new(()),
                database,
            })
        };
        // What fjall cannot make sense of it sometimes answers with a panic.
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(db)) => Ok(db),
            Ok(Err(fjall::Error::Locked)) => Err(OpenError::Locked(path.display().to_string())),
            Ok(Err(e)) if !is_damage(&e) => {
                Err(OpenError::Unavailable(format!("{}: {e}", path.display())))
            }
            Ok(Err(e)) => Err(OpenError::corrupt(path, e.to_string())),
            Err(_) => Err(OpenError::corrupt(path, "the store cannot read it")),
        }
    }

    pub fn all(&self) -> impl Iterator<Item = &Keyspace> {
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
    }

    /// The keyspaces whose levels are merged: all but the log.
    pub fn compacted(&self) -> impl Iterator<Item = &Keyspace> {
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
    /// What fjall says of a rotation that failed.
    pub fn rotate_removed(&self) -> fjall::Result<()> {
        let bodies = self.bodies.as_ref().map(|bodies| &bodies.keyspace);
        for keyspace in [&self.state, &self.history, &self.remembered].into_iter().chain(bodies) {
            keyspace.rotate_memtable()?;
        }
        Ok(())
    }

    /// The least sequence number that a write from now on can get.
    pub fn seqno_floor(&self) -> u64 {
        self.database.supervisor.seqno.get()
    }

    /// A batch that is as durable as `sync` says when it is committed.
    pub fn batch(&self, capacity: usize, sync: bool) -> OwnedWriteBatch {
        let mode = if sync { PersistMode::SyncData } else { PersistMode::Buffer };
        OwnedWriteBatch::with_capacity(self.database.clone(), capacity).durability(Some(mode))
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

    /// Has memtables that are full written to tables.
    ///
    /// fjall (3.1.13) would do it, but asks its worker for it again with every commit until it is
    /// done, through a queue of 1,000 that the worker itself waits on to write to: a worker that
    /// is busy for that many commits never moves again, and the store with it.
    fn rotate_full(&self) -> fjall::Result<()> {
        for keyspace in self.all() {
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
    pub fn release_journals(&self) -> fjall::Result<()> {
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
    pub fn flush(&self) -> fjall::Result<bool> {
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

impl Engine {
    pub fn new(options: StorageOptions, identity: Identity, db_path: PathBuf) -> Self {
        Self {
            options,
            identity,
            db_path,
            db: RwLock::new(None),
            garbage: Mutex::new(()),
            health: watch::Sender::new(Health::Ready),
            space: Mutex::new(Space { checked: None, full: None, exhausted: None }),
            has_room: AtomicBool::new(true),
        }
    }

    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// The database, or why there is none. Not to be called twice on one thread at a time.
    pub fn open_db(&self) -> Result<MappedRwLockReadGuard<'_, Db>, String> {
        RwLockReadGuard::try_map(self.db.read(), Option::as_ref)
            .map_err(|_| "the store is closed".to_owned())
    }

    /// Whether a write that makes the store larger for good may be tried: refuses after a failure,
    /// and while less than the reserve is free.
    ///
    /// # Errors
    /// The reason.
    pub fn check_writable(&self) -> Result<(), String> {
        self.check_health()?;
        self.check_space()
    }

    /// As [`Engine::check_writable`], for what slots need to be read, to be flushed and to become
    /// smaller: goes on down to [`limits::DISK_RESERVE_UPKEEP_SHARE`] of the reserve.
    ///
    /// # Errors
    /// The reason.
    pub fn check_upkeep(&self) -> Result<(), String> {
        self.check_health()?;
        self.check_reopen()
    }

    /// Whether the store may be opened again after a failure: as [`Engine::check_upkeep`], whatever
    /// failed.
    ///
    /// # Errors
    /// The reason.
    pub fn check_reopen(&self) -> Result<(), String> {
        self.look_at_space().exhausted.clone().map_or(Ok(()), Err)
    }

    /// Whether there was room for messages when somebody looked last; the background thread does
    /// so all the time.
    pub fn has_room(&self) -> bool {
        self.has_room.load(Ordering::Relaxed)
    }

    fn check_health(&self) -> Result<(), String> {
        match &*self.health.borrow() {
            Health::Failed(why) => Err(format!("a write failed ({why})")),
            Health::Corrupt(why) => Err(why.clone()),
            Health::Ready | Health::Full(_) => Ok(()),
        }
    }

    /// Looks at the free space, at most every [`limits::DISK_CHECK_INTERVAL`].
    ///
    /// # Errors
    /// When it is less than the reserve.
    pub fn check_space(&self) -> Result<(), String> {
        self.look_at_space().full.clone().map_or(Ok(()), Err)
    }

    fn look_at_space(&self) -> MutexGuard<'_, Space> {
        let mut space = self.space.lock();
        let now = crate::clock::now();
        let fresh = |at: Instant| now.duration_since(at) < limits::DISK_CHECK_INTERVAL;
        if space.checked.is_some_and(fresh) {
            return space;
        }
        space.checked = Some(now);
        let reserve = self.options.reserve_bytes;
        let free = self.free_bytes();
        space.full = self.less_than(&free, reserve);
        space.exhausted = self.less_than(&free, reserve / limits::DISK_RESERVE_UPKEEP_SHARE);
        self.has_room.store(space.full.is_none(), Ordering::Relaxed);
        let full = space.full.clone();
        self.health.send_if_modified(|health| match (&*health, full) {
            (Health::Ready, Some(why)) => {
                tracing::warn!("{why}: refusing messages until there is space; reads still work");
                *health = Health::Full(why);
                true
            }
            (Health::Full(_), None) => {
                tracing::info!("the disk has space again: accepting messages");
                *health = Health::Ready;
                true
            }
            _ => false,
        });
        space
    }

    fn free_bytes(&self) -> Result<u64, String> {
        let stat = rustix::fs::statvfs(&self.db_path);
        stat.map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize))
            .map_err(|e| format!("{}: {e}", self.db_path.display()))
    }

    /// Why `free` is not `least`.
    fn less_than(&self, free: &Result<u64, String>, least: u64) -> Option<String> {
        match free {
            Ok(free) if *free >= least => None,
            Ok(free) => Some(format!(
                "{free} bytes are free on the disk of {}, less than the {least} of \
                 store.disk_reserve",
                self.db_path.display(),
            )),
            Err(why) => Some(why.clone()),
        }
    }

    /// Commits a batch, and turns the store off when that fails.
    pub fn commit(&self, db: &Db, batch: OwnedWriteBatch) -> Result<(), WriteError> {
        match batch.commit() {
            Ok(()) => {
                // What is written stands, whatever becomes of the tables.
                if let Err(e) = db.rotate_full() {
                    self.fail(format!("a memtable can't be rotated: {e}"));
                }
                Ok(())
            }
            // Said before anything is written.
            Err(e @ fjall::Error::Poisoned) => {
                self.fail(format!("{e}"));
                Err(WriteError::Refused("the store failed in a background task".into()))
            }
            Err(e) => {
                self.fail(format!("{e}"));
                Err(WriteError::Undecided(format!("{e}")))
            }
        }
    }

    pub fn fail(&self, why: String) {
        self.health.send_if_modified(|health| match health {
            Health::Ready | Health::Full(_) => {
                tracing::error!("the store failed and must be opened again: {why}");
                *health = Health::Failed(why);
                true
            }
            Health::Failed(_) | Health::Corrupt(_) => false,
        });
    }

    pub fn corrupt(&self, why: String) {
        tracing::error!("{why}");
        self.health.send_replace(Health::Corrupt(why));
    }

    pub fn recovered(&self) {
        self.health.send_if_modified(|health| {
            matches!(health, Health::Failed(_)).then(|| *health = Health::Ready).is_some()
        });
    }

    /// What a failed read means. Damage is looked for, so that the message names the file.
    pub fn read_error(&self, keyspace: &Keyspace, error: &fjall::Error) -> StateError {
        if !is_damage(error) {
            return StateError::Unavailable(error.to_string());
        }
        let mut files = Vec::new();
        let found = tables::list_tables(keyspace.path(), &mut files)
            .and_then(|()| files.iter().try_for_each(tables::TableFile::check));
        let why = match found {
            Err(named) => named.to_string(),
            Ok(()) => format!("{}: {error}", keyspace.path().display()),
        };
        self.corrupt(why.clone());
        StateError::Corrupt(why)
    }

    /// What a value that does not decode means.
    pub fn value_error(&self, keyspace: &Keyspace, what: impl std::fmt::Display) -> StateError {
        let why = format!("{}: {what}", keyspace.path().display());
        self.corrupt(why.clone());
        StateError::Corrupt(why)
    }
}

/// Whether an error of fjall's says that bytes are not what was written.
fn is_damage(error: &fjall::Error) -> bool {
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
    let version = keyspace.tree.current_version();
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
    log.tree.drop_range(..=number.to_be_bytes()).map_err(|e| e.to_string())
}
