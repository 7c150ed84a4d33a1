//! A session as its slot holds it in memory: the latest of everything, committed or not.

use crate::{
    log::record::{DeploymentId, Entry, Head},
    names::SessionKey,
    state::Remembered,
};
use bytes::Bytes;
use std::{
    collections::{HashMap, VecDeque},
    ops::Bound,
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
    pub values: Values,
    /// The entries that the state store does not have yet, in order; all before are there.
    pub recent: VecDeque<Arc<Entry>>,
    /// The idempotency keys that the state store does not have yet.
    pub remembered: HashMap<String, Remembered>,
    /// The last batch that changed it (a number of the task's own); 0: none.
    pub changed_in: u64,
    /// The deployment whose `migrate` passed its deadline for this session, once.
    pub late_to: Option<DeploymentId>,
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
            values: Values::default(),
            recent: VecDeque::new(),
            remembered: HashMap::new(),
            changed_in: 0,
            late_to: None,
            used: 0,
            bytes,
        }
    }

    pub fn exists(&self) -> bool {
        self.head.seq > 0
    }

    /// About how much memory it takes in all: its box, its place in the map, its names.
    pub fn footprint(&self) -> usize {
        const AROUND_BYTES: usize = 240;
        size_of::<Self>() + AROUND_BYTES + self.bytes
    }

    pub fn cache_value(&mut self, key: String, value: Option<Bytes>) {
        // The pair itself, and what the allocator adds to two small allocations.
        const PAIR_BYTES: usize = size_of::<(Box<str>, Option<Bytes>)>() + 64;
        let key_bytes = key.len();
        self.bytes += key_bytes + value.as_ref().map_or(0, Bytes::len) + PAIR_BYTES;
        if let Some(old) = self.values.insert(key, value) {
            self.bytes -= key_bytes + old.map_or(0, |v| v.len()) + PAIR_BYTES;
        }
    }

    /// Forgets what the state store has, up to and including message `seq`.
    pub fn flushed_to(&mut self, seq: u64) {
        while self.recent.front().is_some_and(|entry| entry.seq <= seq) {
            self.recent.pop_front();
        }
        if self.recent.is_empty() {
            self.recent = VecDeque::new();
        }
        self.remembered.retain(|_, remembered| remembered.seq > seq);
    }
}

/// A few values by key, in the order of the keys: a sorted vector, because most sessions have one
/// or a handful, and a tree's smallest node takes 640 bytes.
#[derive(Debug, Default)]
pub struct Values(Vec<(Box<str>, Option<Bytes>)>);

impl Values {
    fn find(&self, key: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| (**known).cmp(key))
    }

    pub fn get(&self, key: &str) -> Option<&Option<Bytes>> {
        self.find(key).ok().map(|at| &self.0[at].1)
    }

    /// What was there before.
    pub fn insert(&mut self, key: String, value: Option<Bytes>) -> Option<Option<Bytes>> {
        match self.find(&key) {
            Ok(at) => Some(std::mem::replace(&mut self.0[at].1, value)),
            Err(at) => {
                if self.0.is_empty() {
                    self.0.reserve_exact(1);
                }
                self.0.insert(at, (key.into(), value));
                None
            }
        }
    }

    /// From the first key that `from` allows, in order.
    pub fn starting(&self, from: Bound<&str>) -> impl Iterator<Item = (&str, &Option<Bytes>)> {
        let at = match from {
            Bound::Unbounded => 0,
            Bound::Included(key) => self.find(key).unwrap_or_else(|at| at),
            Bound::Excluded(key) => self.find(key).map_or_else(|at| at, |at| at + 1),
        };
        self.0[at..].iter().map(|(key, value)| (&**key, value))
    }
}
