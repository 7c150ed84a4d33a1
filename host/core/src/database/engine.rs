//! What happens when the database fails, and what may be written.

use super::{
    StorageOptions,
    db::{Db, is_damage},
    identity::Identity,
    rows::{DbError, Keyspace, WriteBatch},
    tables,
};
use crate::{error::StateError, limits};
use parking_lot::{MappedRwLockReadGuard, Mutex, MutexGuard, RwLock, RwLockReadGuard};
use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
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

/// Shared by log, state and background work. `db` is empty while it is being opened again.
pub struct Engine {
    pub options: StorageOptions,
    pub identity: Identity,
    pub db_path: PathBuf,
    pub db: RwLock<Option<Db>>,
    /// Held for a step of removing what deleted sessions left, or of wiping a slot.
    pub garbage: Mutex<()>,
    /// Held by each write to rows that are sealed, and alone by who reads such rows and writes them anew: what it has read
    /// must not be older than what another one writes meanwhile.
    rewriting: RwLock<()>,
    health: watch::Sender<Health>,
    space: Mutex<Space>,
    /// What the last look at the free space found: read for each message.
    has_room: AtomicBool,
}

struct Space {
    checked: Option<Instant>,
    /// Why there is no room for messages.
    full: Option<String>,
    /// Why there is no room for upkeep either.
    exhausted: Option<String>,
}

impl Engine {
    pub fn new(options: StorageOptions, identity: Identity, db_path: PathBuf) -> Self {
        Self {
            options,
            identity,
            db_path,
            db: RwLock::new(None),
            garbage: Mutex::new(()),
            rewriting: RwLock::new(()),
            health: watch::Sender::new(Health::Ready),
            space: Mutex::new(Space { checked: None, full: None, exhausted: None }),
            has_room: AtomicBool::new(true),
        }
    }

    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// The database, or why it is not open. Not to be called twice on one thread at a time.
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
    pub fn commit(&self, db: &Db, batch: WriteBatch) -> Result<(), WriteError> {
        // Never for a commit of the log alone.
        let _turn = batch.sealed.then(|| self.rewriting.read());
        self.commit_in_turn(db, batch)
    }

    /// Has `rewrite` read rows and commits what it gives, while nobody else writes rows that are sealed. Keep it short.
    ///
    /// # Errors
    /// Those of `rewrite`, and of [`Engine::commit`].
    pub fn rewrite<E: From<WriteError>>(
        &self,
        db: &Db,
        rewrite: impl FnOnce() -> Result<WriteBatch, E>,
    ) -> Result<(), E> {
        let _turn = self.rewriting.write();
        Ok(self.commit_in_turn(db, rewrite()?)?)
    }

    fn commit_in_turn(&self, db: &Db, batch: WriteBatch) -> Result<(), WriteError> {
        let WriteBatch { batch, sync, touched, unsealed, .. } = batch;
        if let Some(why) = unsealed {
            return Err(WriteError::Refused(why));
        }
        let before = db.written();
        match batch.commit() {
            Ok(()) => {
                db.count(before, sync);
                // What is written stands, whatever becomes of the tables.
                if let Err(e) = db.rotate_full(touched) {
                    self.fail(format!("a memtable can't be rotated: {e}"));
                }
                Ok(())
            }
            // Returned before anything is written.
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
    pub fn read_error(&self, keyspace: &Keyspace, error: &DbError) -> StateError {
        match error {
            DbError::Store(error) if !is_damage(error) => {
                return StateError::Unavailable(error.to_string());
            }
            DbError::Store(_) => {}
            // No file is damaged, as far as files go.
            DbError::Sealed(_) => return self.value_error(keyspace, error),
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

/// What a failed read means to whoever can do without it: damage is only said, and the node goes on.
pub fn read_fault(keyspace: &Keyspace, error: &DbError) -> StateError {
    match error {
        DbError::Store(error) if !is_damage(error) => StateError::Unavailable(error.to_string()),
        DbError::Store(_) | DbError::Sealed(_) => value_fault(keyspace, error),
    }
}

/// As [`read_fault`], of a value that does not decode.
pub fn value_fault(keyspace: &Keyspace, what: impl std::fmt::Display) -> StateError {
    StateError::Corrupt(format!("{}: {what}", keyspace.path().display()))
}

/// What a read of a row does about damage that it meets.
#[derive(Clone, Copy)]
pub enum OnDamage<'a> {
    /// It ends the node: what is served can't be trusted.
    End(&'a Engine),
    /// It is only said, to whoever looks for damage.
    Say,
}

impl OnDamage<'_> {
    /// What a failed read means.
    pub fn read_error(self, keyspace: &Keyspace, error: &DbError) -> StateError {
        match self {
            Self::End(engine) => engine.read_error(keyspace, error),
            Self::Say => read_fault(keyspace, error),
        }
    }

    /// What a value that does not decode means.
    pub fn value_error(self, keyspace: &Keyspace, what: impl std::fmt::Display) -> StateError {
        match self {
            Self::End(engine) => engine.value_error(keyspace, what),
            Self::Say => value_fault(keyspace, what),
        }
    }
}
