//! What services have stored: how many sessions, and how many bytes.

use crate::names::ServiceName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a service has stored, in a slot or in more of them, as of the last flush.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredNow {
    pub sessions: u64,
    /// Keys and values of states, histories and idempotency keys, before they are compressed. Not what is due or on its way, nor
    /// what is not collected yet of sessions that are deleted.
    pub bytes: u64,
}

impl StoredNow {
    pub fn add(&mut self, other: Self) {
        self.sessions = self.sessions.saturating_add(other.sessions);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// By service; one that has nothing is not there.
pub type StoredByService = BTreeMap<ServiceName, StoredNow>;

/// What services have stored now, over all slots of all nodes, as far as that is known: half a minute late as a rule.
pub trait Stored: Send + Sync + 'static {
    fn of(&self, service: &ServiceName) -> StoredNow;
}
