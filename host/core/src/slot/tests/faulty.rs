//! A store whose reads of values fail when a test says so.

use crate::{
    error::StateError,
    log::record::{DeploymentId, Entry, Head},
    names::{ServiceName, SessionId, SessionKey, SlotId},
    state::{
        Remembered, SessionCount, SlotMeta, StateStore,
        changes::Changes,
        stored::{Maker, StoredByService},
    },
};
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// A session whose head can't be read without a panic.
pub(super) const PANICS: &str = "panics";

/// A session whose head is read once what a test wants has happened.
pub(super) const WAITS: &str = "waits";

/// What a read of [`WAITS`] does first.
pub(super) type AtRead = Arc<parking_lot::Mutex<Option<Box<dyn FnOnce() + Send>>>>;

pub(super) struct Faulty {
    pub store: Arc<dyn StateStore>,
    pub fails: Arc<AtomicBool>,
    pub at_read: AtRead,
}

type Sessions = Result<Vec<(SessionId, Head)>, StateError>;
type Entries = Result<Vec<Arc<Entry>>, StateError>;

impl StateStore for Faulty {
    fn get(&self, slot: SlotId, session: u64, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        match self.fails.load(Ordering::Relaxed) {
            true => Err(StateError::Unavailable("says the test".into())),
            false => self.store.get(slot, session, key),
        }
    }
    fn slot(&self, slot: SlotId) -> Result<SlotMeta, StateError> {
        self.store.slot(slot)
    }
    fn is_writable(&self) -> bool {
        self.store.is_writable()
    }
    fn has_room(&self) -> bool {
        self.store.has_room()
    }
    fn head(&self, slot: SlotId, key: &SessionKey) -> Result<Option<Head>, StateError> {
        assert_ne!(key.session.as_str(), PANICS, "as the test wants it");
        if key.session.as_str() == WAITS
            && let Some(first) = self.at_read.lock().take()
        {
            first();
        }
        self.store.head(slot, key)
    }
    fn scan(
        &self,
        slot: SlotId,
        session: u64,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StateError> {
        self.store.scan(slot, session, prefix, after, limit, bytes_max)
    }
    fn history(&self, slot: SlotId, session: u64, after: u64, limit: usize, max: usize) -> Entries {
        self.store.history(slot, session, after, limit, max)
    }
    fn history_back(
        &self,
        slot: SlotId,
        session: u64,
        before: u64,
        limit: usize,
        max: usize,
    ) -> Entries {
        self.store.history_back(slot, session, before, limit, max)
    }
    fn remembered(
        &self,
        slot: SlotId,
        session: u64,
        id: &str,
    ) -> Result<Option<Remembered>, StateError> {
        self.store.remembered(slot, session, id)
    }
    fn sessions(
        &self,
        slot: SlotId,
        service: &ServiceName,
        prefix: &str,
        after: Option<&SessionId>,
        limit: usize,
    ) -> Sessions {
        self.store.sessions(slot, service, prefix, after, limit)
    }
    fn pinned(
        &self,
        slot: SlotId,
        service: &ServiceName,
        after: Option<&SessionId>,
        limit: usize,
    ) -> Sessions {
        self.store.pinned(slot, service, after, limit)
    }
    fn count_sessions(
        &self,
        slot: SlotId,
        service: &ServiceName,
    ) -> Result<BTreeMap<DeploymentId, SessionCount>, StateError> {
        self.store.count_sessions(slot, service)
    }
    fn stored(&self, slot: SlotId) -> Result<Option<StoredByService>, StateError> {
        self.store.stored(slot)
    }

    fn maker(&self, slot: SlotId, key: &SessionKey) -> Result<Option<Maker>, StateError> {
        self.store.maker(slot, key)
    }

    fn count_stored(&self, slot: SlotId, until: std::time::Instant) -> Result<bool, StateError> {
        self.store.count_stored(slot, until)
    }

    fn apply(&self, slot: SlotId, changes: &Changes, meta: &SlotMeta) -> Result<(), StateError> {
        self.store.apply(slot, changes, meta)
    }
}
