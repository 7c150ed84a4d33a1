//! A data directory: opened, checked, recovered, opened again after a failure, closed.

use super::{
    housekeeping::{Housekeeper, Stop},
    log::{EmbeddedLog, Shared},
    recovery,
    reseal::{Progress, Reseal, Resealing},
    state::DiskState,
};
use crate::{
    database::{
        Health, OpenError, StorageOptions,
        db::{self, Db},
        engine::{Engine, WriteError},
        identity::{self, Identity, Mark},
        journal,
        reclaim::Reclaim,
        tables::{self, TableFile},
    },
    error::StateError,
    level::{FeatureLevel, Level},
    limits,
    log::LogError,
    modes,
    seal::Keyring,
    state::rows::WholeSlots,
};
use bytes::Bytes;
use parking_lot::Mutex;
use slotd_quota::writes::Disk;
use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
};
use tokio::sync::watch;

/// An open data directory. Dropping it closes it.
pub struct DataDir {
    path: PathBuf,
    level: Arc<FeatureLevel>,
    resealing: Arc<Resealing>,
    engine: Arc<Engine>,
    shared: Arc<Shared>,
    log: Arc<EmbeddedLog>,
    state: Arc<DiskState>,
    mark: Arc<Mutex<Mark>>,
    stop: Arc<Stop>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Held as long as the directory is open, also between failure and [`DataDir::reopen`].
    _lock: File,
}

impl DataDir {
    /// Opens the directory, or makes it. Checks every file, then brings the state of every slot
    /// up to the end of the log. Blocks, for a second or so when there is much to replay.
    ///
    /// # Errors
    /// [`OpenError`]: in use, made with other settings, damaged (with the file's name), or the
    /// disk refuses.
    pub fn open(path: &Path, options: StorageOptions) -> Result<Self, OpenError> {
        make_private(path).map_err(|e| unavailable(path, &e))?;
        let lock = lock(path)?;
        let (mut identity, create) = identity_of(path, &options)?;
        let sealed = identity.sealed(&options.keys);
        let sealed =
            sealed.map_err(|why| OpenError::Mismatch(format!("{} {why}", path.display())))?;
        // Before anything in it is sealed. A node of a cluster asks the others first ([`DataDir::seal`]).
        if let Some(sealed) = sealed.filter(|_| !identity.clustered) {
            sealed.write(path).map_err(|e| unavailable(path, &e))?;
            identity = sealed;
        }
        let db_path = path.join(identity::DATABASE);
        if create {
            let made = Db::open(&db_path, &options, identity.has_bodies(), true)?;
            drop(made);
            fs::remove_file(path.join(identity::CREATING)).map_err(|e| unavailable(path, &e))?;
            identity::sync_dir(path).map_err(|e| unavailable(path, &e))?;
        }
        let mark = Arc::new(Mutex::new(Mark::open(path)?));
        let resealing = Arc::new(Resealing::new(path, options.keys.clone(), &identity));
        if !identity.clustered {
            resealing.begin();
        }
        let level = Arc::new(FeatureLevel::new(identity.level()));
        let engine = Arc::new(Engine::new(options, identity, db_path));
        let shared = Shared::new(engine.clone());
        let unchecked = open_database(&engine, &shared, mark.lock().number())?;
        let stop = Arc::<Stop>::default();
        let state = Arc::new(DiskState::new(engine.clone()));
        let housekeeper = Housekeeper {
            engine: engine.clone(),
            log: shared.clone(),
            state: state.clone(),
            mark: mark.clone(),
            stop: stop.clone(),
            unchecked,
            removed_rows: 0,
            removed_bytes: 0,
            reclaim: Reclaim::default(),
            reseal: Reseal::new(resealing.clone()),
        };
        let this = Self {
            path: path.to_owned(),
            level,
            resealing,
            log: Arc::new(EmbeddedLog::new(shared.clone())),
            state,
            engine,
            shared,
            mark,
            stop,
            threads: Mutex::default(),
            _lock: lock,
        };
        let committer = this.shared.start().map_err(|e| unavailable(path, &e))?;
        this.threads.lock().push(committer);
        let housekeeper = housekeeper.start().map_err(|e| unavailable(path, &e))?;
        this.threads.lock().push(housekeeper);
        Ok(this)
    }

    pub fn log(&self) -> Arc<EmbeddedLog> {
        self.log.clone()
    }
    /// What is written here is sealed with, if anything.
    pub fn keys(&self) -> &Keyring {
        &self.engine.options.keys
    }
    pub fn state(&self) -> Arc<dyn WholeSlots> {
        self.state.clone()
    }
    /// The node's id, made with the directory: 32 hexadecimal digits.
    pub fn node_id(&self) -> &str {
        &self.engine.identity.node
    }
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the log in it may hold. Of a node of a cluster the cluster's level counts, not this one.
    pub fn level(&self) -> Arc<FeatureLevel> {
        self.level.clone()
    }

    /// Raises the level for good: from then on versions of slotd that can't read it refuse the
    /// directory. Blocks on the disk.
    ///
    /// # Errors
    /// The identity can't be written; then nothing is written at the new level.
    pub fn raise_level(&self, to: Level) -> io::Result<()> {
        self.resealing
            .change(|identity| Ok((self.level.get() < to).then(|| identity.raised(to))))?;
        self.level.raise(to);
        Ok(())
    }

    /// Notes, in the directory of a node of a cluster, that its keys are the cluster's: before anything in it is sealed. Blocks
    /// on the disk.
    ///
    /// # Errors
    /// The identity can't be written.
    pub fn seal(&self) -> io::Result<()> {
        let keys = self.keys();
        self.resealing.change(|identity| identity.sealed(keys).map_err(io::Error::other))?;
        self.resealing.begin();
        Ok(())
    }

    /// How far the directory is in sealing all of it with the key in use.
    pub fn reseal_progress(&self) -> Progress {
        self.resealing.progress()
    }

    /// What the store can do; changes are seen through the receiver.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.engine.health()
    }

    /// After [`Health::Failed`], with all slots stopped: closes the database, checks it, opens it
    /// and replays. Log and state go on behind the same handles; slots claim and start afresh.
    /// Blocks like [`DataDir::open`].
    ///
    /// # Errors
    /// [`OpenError::Unavailable`] while the disk has no room or fails: try again later.
    /// [`OpenError::Corrupt`]: the node must stop.
    pub fn reopen(&self) -> Result<(), OpenError> {
        self.engine.check_reopen().map_err(OpenError::Unavailable)?;
        let mark = self.mark.lock().number().max(self.shared.last());
        // Taken out first, so that it shuts down without holding up those who read.
        let old = self.engine.db.write().take();
        drop(old);
        let opened = open_database(&self.engine, &self.shared, mark);
        if let Err(OpenError::Corrupt { .. }) = &opened {
            self.engine.corrupt(opened.as_ref().err().map(ToString::to_string).unwrap_or_default());
        }
        opened?;
        // A sync that failed may have left pages that look written and are not. Written again
        // from memory into tables, they are.
        let flushed = self.engine.open_db().map(|db| db.flush());
        match flushed {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => {
                return Err(OpenError::Unavailable(
                    "not everything could be written to the reopened store".into(),
                ));
            }
            Ok(Err(e)) => {
                self.engine.fail(e.to_string());
                return Err(OpenError::Unavailable(e.to_string()));
            }
            Err(why) => return Err(OpenError::Unavailable(why)),
        }
        self.engine.recovered();
        tracing::info!("the store is open again");
        Ok(())
    }

    /// A value of the node's own, such as the catalogue of deployments.
    ///
    /// # Errors
    /// As any read of the state store.
    pub fn meta_get(&self, key: &str) -> Result<Option<Bytes>, StateError> {
        let db = self.engine.open_db().map_err(StateError::Unavailable)?;
        let value = db.meta.get(meta_key(key).as_bytes());
        let Some(value) = value.map_err(|e| self.engine.read_error(&db.meta, &e))? else {
            return Ok(None);
        };
        let body = db.body(&value).map_err(|why| self.engine.value_error(&db.meta, why))?;
        Ok(Some(Bytes::copy_from_slice(body)))
    }

    /// Stores such a value; it is durable when this returns. Blocks on one fsync.
    ///
    /// # Errors
    /// [`LogError::Unavailable`]: not stored. [`LogError::Undecided`]: open.
    pub fn meta_put_durable(&self, key: &str, value: &[u8]) -> Result<(), LogError> {
        let db = self.engine.open_db().map_err(LogError::Unavailable)?;
        self.engine.check_writable().map_err(LogError::Unavailable)?;
        let mut batch = db.batch(1, true);
        batch.insert(&db.meta, meta_key(key).as_bytes(), &db.value(value));
        self.engine.commit(&db, batch).map_err(|e| match e {
            WriteError::Refused(why) => LogError::Unavailable(why),
            WriteError::Undecided(why) => LogError::Undecided(why),
        })
    }

    /// Bytes that the directory takes on disk, journals and tables.
    ///
    /// # Errors
    /// When the database is closed or the disk fails.
    pub fn disk_bytes(&self) -> Result<u64, StateError> {
        let db = self.engine.open_db().map_err(StateError::Unavailable)?;
        db.disk_bytes().map_err(|e| StateError::Unavailable(e.to_string()))
    }

    /// How fast the log is, and whether the store keeps up with what is written.
    pub fn disk(&self) -> Disk {
        let (bytes, time) = self.shared.large();
        Disk { bytes, time, behind: self.engine.open_db().is_ok_and(|db| db.is_behind()) }
    }

    /// Closes in order: what is queued is answered, what is in memory is written to tables, so
    /// that the next start has nothing to replay. Later calls do nothing.
    pub fn close(&self) {
        self.end_threads();
        let Some(db) = self.engine.db.write().take() else { return };
        let flushed =
            self.engine.check_upkeep().is_ok() && db.flush().is_ok_and(|all_written| all_written);
        drop(db);
        let last = self.shared.last();
        let marked = self.mark.lock().advance(last, true);
        // The mark first: it shows when the tables do not hold what the journals did.
        let emptied = marked.map_err(|e| OpenError::io(&self.path.join(identity::MARK), e));
        let emptied = emptied.and_then(|()| match flushed {
            true => journal::empty(&self.engine.db_path),
            false => Err(OpenError::Unavailable("not everything could be written".into())),
        });
        if let Err(e) = emptied {
            tracing::warn!("the next start replays the journals (nothing is lost): {e}");
        }
    }

    #[cfg(test)]
    pub(super) fn engine_for_test(&self) -> &Engine {
        &self.engine
    }

    /// Writes over a session's history what does not decode.
    ///
    /// # Errors
    /// As any write.
    #[cfg(any(test, feature = "testing"))]
    pub fn damage_history(
        &self,
        slot: crate::names::SlotId,
        session: u64,
    ) -> Result<(), StateError> {
        let db = self.engine.open_db().map_err(StateError::Unavailable)?;
        let mut batch = db.batch(1, false);
        for row in db.history.prefix(&super::state::keys::number(slot, session)) {
            let (key, _) = row.map_err(|e| self.engine.read_error(&db.history, &e))?;
            batch.insert(&db.history, &key, &[1, 0xff, 0xff]);
        }
        Ok(self.engine.commit(&db, batch)?)
    }

    /// Puts what does not decode in place of a session's head, as damage does.
    ///
    /// # Errors
    /// As any write.
    #[cfg(any(test, feature = "testing"))]
    pub fn damage_head(
        &self,
        slot: crate::names::SlotId,
        key: &crate::names::SessionKey,
    ) -> Result<(), StateError> {
        let db = self.engine.open_db().map_err(StateError::Unavailable)?;
        let mut batch = db.batch(1, false);
        batch.insert(&db.heads, &super::state::keys::session(slot, key), &[1, 0xff]);
        Ok(self.engine.commit(&db, batch)?)
    }

    /// The session numbers of a slot's rows, without those that are removed.
    #[cfg(test)]
    pub fn rows_by_session(&self, slot: crate::names::SlotId) -> Vec<u64> {
        super::state::rows_by_session(&self.engine, slot)
    }

    fn end_threads(&self) {
        self.shared.stop();
        self.stop.stop();
        for thread in self.threads.lock().drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        self.end_threads();
        drop(self.engine.db.write().take());
    }
}

/// Creates the directory for this user alone, with its parents. Warns if it exists and is open to
/// every user; open to a group is taken as intended.
fn make_private(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    if let Some(warning) = modes::open_to_all(path, "data directory")? {
        tracing::warn!("{warning}");
    }
    Ok(())
}

/// The node's own keys, apart from the log's.
fn meta_key(key: &str) -> String {
    format!("node/{key}")
}

/// Checks the files, opens the database and recovers. Gives the tables still to be checked.
fn open_database(engine: &Engine, shared: &Shared, mark: u64) -> Result<Vec<TableFile>, OpenError> {
    let bodies = engine.identity.has_bodies();
    let mut files = tables::check_manifests(&engine.db_path, db::last_keyspace(bodies))?;
    if files.iter().map(|file| file.bytes).sum::<u64>() <= engine.options.verify_bytes_max {
        files.iter().try_for_each(TableFile::check)?;
        files.clear();
    }
    journal::check(&engine.db_path, engine.identity.salt)?;
    let db = Db::open(&engine.db_path, &engine.options, bodies, false)?;
    let tables = recovery::run(engine, &db, mark)?;
    let mut place = engine.db.write();
    shared.set_tables(tables);
    *place = Some(db);
    Ok(files)
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let file =
        File::options().create(true).truncate(false).write(true).open(path.join(identity::LOCK));
    let file = file.map_err(|e| unavailable(path, &e))?;
    let started = crate::clock::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // A predecessor that is just ending, or a child that it has forked and that has not
            // yet become another program, holds the lock for a moment more.
            Err(TryLockError::WouldBlock) if started.elapsed() < limits::DATA_DIR_LOCK_WAIT => {
                std::thread::sleep(limits::DATA_DIR_LOCK_RETRY);
            }
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::Locked(path.display().to_string()));
            }
            Err(TryLockError::Error(e)) => return Err(unavailable(path, &e)),
        }
    }
}

/// The directory's identity, and whether the database is still to be made.
fn identity_of(path: &Path, options: &StorageOptions) -> Result<(Identity, bool), OpenError> {
    let creating = path.join(identity::CREATING);
    let failed = |e: io::Error| unavailable(path, &e);
    let unfinished = creating.try_exists().map_err(failed)?;
    let known = Identity::read(path)?;
    let identity = match known {
        Some(identity) if identity.slot_count != options.slot_count => {
            return Err(OpenError::Mismatch(format!(
                "{} has slot_count {}, but the configuration says {}. It can't be changed: set \
                 slot_count = {}, or use another data directory",
                path.display(),
                identity.slot_count,
                options.slot_count,
                identity.slot_count
            )));
        }
        Some(identity) if identity.clustered != options.clustered => {
            let (has, wants) = match identity.clustered {
                true => ("a copy of a cluster's state", "a single node"),
                false => ("the log of a single node", "a node of a cluster"),
            };
            return Err(OpenError::Mismatch(format!(
                "{} contains {has}, but this is {wants}: use another data directory",
                path.display()
            )));
        }
        Some(identity) if !unfinished => return Ok((identity, false)),
        Some(identity) => identity,
        None => {
            if !unfinished && path.join(identity::DATABASE).try_exists().map_err(failed)? {
                return Err(OpenError::corrupt(&path.join(identity::FILE), "it is missing"));
            }
            identity::write_synced(&creating, b"").map_err(failed)?;
            let identity = Identity::new(options.slot_count, options.clustered).map_err(failed)?;
            Mark::create(path).map_err(failed)?;
            identity.write(path).map_err(failed)?;
            identity
        }
    };
    // Nothing was ever written to a database that was not finished.
    let db = path.join(identity::DATABASE);
    if db.try_exists().map_err(failed)? {
        fs::remove_dir_all(&db).map_err(failed)?;
    }
    Ok((identity, true))
}

fn unavailable(path: &Path, error: &io::Error) -> OpenError {
    OpenError::Unavailable(format!("{}: {error}", path.display()))
}
