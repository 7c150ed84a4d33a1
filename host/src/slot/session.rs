//! A session as its slot holds it in memory: the latest of everything, committed or not.

use crate::{
    log::record::{Entry, Head},
    names::SessionKey,
    state::Remembered,
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

/// A cached session. Includes what is not committed yet: when a commit fails the slot drops all of
/// its cache and opens again from the log.
#[derive(Debug)]
pub struct Session {
    pub key: SessionKey,
    /// `seq == 0`: the session does not exist (yet, or any more).
    pub head: Head,
    /// Known values; `None` is known to be absent. What is not here is in the state store.
    pub values: BTreeMap<String, Option<Bytes>>,
    /// The entries that the state store does not have yet, in order; all before are there.
    pub recent: VecDeque<Arc<Entry>>,
    /// The idempotency keys that the state store does not have yet.
    pub remembered: HashMap<String, Remembered>,
    /// The last batch that changed it (a number of the task's own); 0: none.
    pub changed_in: u64,
    /// For eviction: the slot's message count when it was last used.
    pub used: u64,
    /// About how much memory it takes beyond the struct and what waits for the next flush. Changes
    /// only while the session is out of the cache, whose sum of bytes it is part of.
    pub bytes: usize,
}

impl Session {
    pub fn new(key: SessionKey, head: Head) -> Self {
        let bytes = key.service.as_str().len() + key.session.as_str().len();
        Self {
            key,
            head,
            values: BTreeMap::new(),
            recent: VecDeque::new(),
            remembered: HashMap::new(),
            changed_in: 0,
            used: 0,
            bytes,
        }
    }

    pub fn exists(&self) -> bool {
        self.head.seq > 0
    }

    /// About how much memory it takes in all.
    pub fn footprint(&self) -> usize {
        size_of::<Self>() + self.bytes
    }

    pub fn cache_value(&mut self, key: String, value: Option<Bytes>) {
        const NODE_BYTES: usize = 64;
        let added = key.len() + value.as_ref().map_or(0, Bytes::len) + NODE_BYTES;
        let replaced = self.values.insert(key, value);
        self.bytes += added;
        if let Some(old) = replaced {
            self.bytes = self.bytes.saturating_sub(old.map_or(0, |v| v.len()) + NODE_BYTES);
        }
    }

    /// Forgets what the state store has, up to and including message `seq`.
    pub fn flushed_to(&mut self, seq: u64) {
        while self.recent.front().is_some_and(|entry| entry.seq <= seq) {
            self.recent.pop_front();
        }
        self.remembered.retain(|_, remembered| remembered.seq > seq);
    }
}
