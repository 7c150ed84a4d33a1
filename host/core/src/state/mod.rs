//! A slot's materialised state, with the log position that it reflects.
//!
//! The state store is behind the log by a known position, never ahead. Committed batches are
//! folded into [`changes::Changes`] and applied in one atomic write with their position; after a
//! crash the same fold replays the log's tail. So a flush, a recovery and (in a cluster) a
//! take-over are one operation.

pub mod changes;
pub(crate) mod deleted;
pub(crate) mod hash;
pub mod rows;
pub mod snapshot;
pub mod stored;

use crate::{
    error::StateError,
    log::{
        Position, Term,
        record::{Activate, DeploymentId, Entry, Head},
    },
    names::{ServiceName, SessionId, SessionKey, SlotId},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc, time::Instant};

/// What is known of a slot without its sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotMeta {
    /// The state reflects the log up to here.
    pub applied: Position,
    /// The last term seen up to there.
    pub term: Term,
    /// The next session number to give.
    pub next_session: u64,
    /// Live sessions.
    pub sessions: u64,
    /// What the slot runs, per service: the last activate record.
    pub active: BTreeMap<ServiceName, Activate>,
}

/// What is remembered of an idempotency key: as long as its session lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The message that it was used for; its entry holds the reply.
    pub seq: u64,
    pub fingerprint: u128,
}

/// Sessions that run on one deployment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionCount {
    pub sessions: u64,
    /// Those of them that stay there because a later deployment did not take them over.
    pub pinned: u64,
}

impl SessionCount {
    pub fn add(&mut self, other: Self) {
        self.sessions += other.sessions;
        self.pinned += other.pinned;
    }
}

/// Sessions of a service, by the deployment that they run on.
pub type SessionCounts = BTreeMap<DeploymentId, SessionCount>;

/// The materialised state of slots. All reads see the last applied changes. Methods block on the
/// disk at worst; whoever has the slot's state calls them.
pub trait StateStore: Send + Sync + 'static {
    fn slot(&self, slot: SlotId) -> Result<SlotMeta, StateError>;
    /// Whether [`StateStore::apply`] would be tried now: not after a failure, nor when even what
    /// is kept free for upkeep is used up.
    fn is_writable(&self) -> bool;
    /// Whether there is room for more messages. Cheap: asked for each of them.
    fn has_room(&self) -> bool;
    fn head(&self, slot: SlotId, key: &SessionKey) -> Result<Option<Head>, StateError>;
    /// One value of a session's state.
    fn get(&self, slot: SlotId, session: u64, key: &[u8]) -> Result<Option<Bytes>, StateError>;
    /// Pairs whose key starts with `prefix` and is greater than `after`, in order; ends at `limit`
    /// pairs or when `bytes_max` is reached (but has one pair at least, if there is one).
    fn scan(
        &self,
        slot: SlotId,
        session: u64,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StateError>;
    /// Entries with a sequence number greater than `after`, in order; ends at `limit` entries or
    /// when `bytes_max` is passed (but has one entry at least, if there is one).
    fn history(
        &self,
        slot: SlotId,
        session: u64,
        after: u64,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<Arc<Entry>>, StateError>;
    /// The last entries with a sequence number less than `before`, the last one first; ends as
    /// [`StateStore::history`] does.
    fn history_back(
        &self,
        slot: SlotId,
        session: u64,
        before: u64,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<Arc<Entry>>, StateError>;
    fn remembered(
        &self,
        slot: SlotId,
        session: u64,
        id: &str,
    ) -> Result<Option<Remembered>, StateError>;
    /// Sessions of a service whose id starts with `prefix` and is greater than `after`, in order.
    fn sessions(
        &self,
        slot: SlotId,
        service: &ServiceName,
        prefix: &str,
        after: Option<&SessionId>,
        limit: usize,
    ) -> Result<Vec<(SessionId, Head)>, StateError>;
    /// Sessions of a service that are pinned to an older deployment, in order, greater than `after`.
    fn pinned(
        &self,
        slot: SlotId,
        service: &ServiceName,
        after: Option<&SessionId>,
        limit: usize,
    ) -> Result<Vec<(SessionId, Head)>, StateError>;
    /// How many sessions of a service there are on each deployment. Reads every head.
    fn count_sessions(
        &self,
        slot: SlotId,
        service: &ServiceName,
    ) -> Result<BTreeMap<DeploymentId, SessionCount>, StateError>;
    /// What services have stored of a slot; `None`: it has to be counted.
    fn stored(&self, slot: SlotId) -> Result<Option<stored::StoredByService>, StateError>;
    /// The subject that a session counts for; `None`: nobody, or it is not counted yet.
    fn maker(&self, slot: SlotId, key: &SessionKey) -> Result<Option<stored::Maker>, StateError>;
    /// Counts what services have stored, unless it is known, and goes on with it in the next call if there is no time for all. After an upgrade, and
    /// after a snapshot was restored, it reads every head of the slot once. `true`: there is nothing to go on with.
    fn count_stored(&self, slot: SlotId, until: Instant) -> Result<bool, StateError>;
    /// Applies changes and moves the slot to `meta`, atomically and in order. Not necessarily durable
    /// when it returns: what is not in the store after a crash is in the log.
    fn apply(
        &self,
        slot: SlotId,
        changes: &changes::Changes,
        meta: &SlotMeta,
    ) -> Result<(), StateError>;
}
