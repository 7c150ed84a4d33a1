//! A session as its slot holds it in memory: the latest of everything, committed or not.

use crate::{
    effects::Forked,
    error::StateError,
    log::record::{DeploymentId, Entry, Head},
    names::{SessionKey, SlotId},
    slot::effects::Effects,
    state::{Remembered, StateStore, hash::Map},
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

/// A cached session. Includes what is not committed yet: when a commit fails the slot drops all of
/// its cache and opens again from the log.
#[derive(Clone, Debug)]
pub struct Session {
    pub key: SessionKey,
    /// `seq == 0`: the session does not exist (yet, or any more).
    pub head: Head,
    /// Known values; `None` is known to be absent. What is not here is in the state store.
    pub values: Values,
    /// The entries that the state store does not have yet, in order; all before are there.
    pub recent: VecDeque<Arc<Entry>>,
    /// The idempotency keys that the state store does not have yet.
    pub remembered: Map<String, Remembered>,
    /// Its effects; `None`: they are not loaded. Changed by [`Session::change_effects`] alone.
    pub effects: Option<Box<Effects>>,
    /// Whether it was closed when it was read from the store; `None`: that was not looked at. Its effects know better.
    pub was_closed: Option<bool>,
    /// Where it comes from, if it was forked off another one; `None`: that was not looked at.
    pub forked: Option<Option<Arc<Forked>>>,
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
            remembered: Map::default(),
            effects: None,
            was_closed: None,
            forked: None,
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

    /// Has its effects loaded.
    ///
    /// # Errors
    /// The store's.
    pub fn load_effects(
        &mut self,
        store: &dyn StateStore,
        slot: SlotId,
    ) -> Result<&mut Effects, StateError> {
        let effects = match self.effects.take() {
            Some(effects) => effects,
            None => {
                let loaded = match self.exists() {
                    true => Effects::load(store, slot, self.head.session_number)?,
                    false => Effects::default(),
                };
                self.bytes += size_of::<Effects>() + loaded.memory();
                Box::new(loaded)
            }
        };
        Ok(self.effects.insert(effects))
    }

    /// Changes its effects, which are loaded.
    ///
    /// # Errors
    /// What `change` gives.
    pub fn change_effects<T>(
        &mut self,
        change: impl FnOnce(&mut Effects) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        let bug = || StateError::Corrupt("a bug: effects change that are not loaded".into());
        let effects = self.effects.as_mut().ok_or_else(bug)?;
        let before = effects.memory();
        let changed = change(effects);
        self.bytes = (self.bytes + effects.memory()).saturating_sub(before);
        changed
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

/// Values by key, in the order of the keys. Most sessions have one or a handful, for which a tree's
/// smallest node (640 bytes) is too much: they are a sorted vector, and a tree from
/// [`FEW_VALUES_MAX`] on, since each insertion moves what comes after it.
#[derive(Clone, Debug)]
pub enum Values {
    Few(Vec<(Box<str>, Option<Bytes>)>),
    Many(BTreeMap<Box<str>, Option<Bytes>>),
}

const FEW_VALUES_MAX: usize = 64;

impl Default for Values {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

/// Where `key` stands, or would.
fn find(few: &[(Box<str>, Option<Bytes>)], key: &str) -> Result<usize, usize> {
    few.binary_search_by(|(known, _)| (**known).cmp(key))
}

impl Values {
    pub fn get(&self, key: &str) -> Option<&Option<Bytes>> {
        match self {
            Self::Few(few) => find(few, key).ok().map(|at| &few[at].1),
            Self::Many(many) => many.get(key),
        }
    }

    /// What was there before.
    pub fn insert(&mut self, key: String, value: Option<Bytes>) -> Option<Option<Bytes>> {
        match self {
            Self::Few(few) => match find(few, &key) {
                Ok(at) => Some(std::mem::replace(&mut few[at].1, value)),
                Err(at) => {
                    if few.is_empty() {
                        few.reserve_exact(1);
                    }
                    few.insert(at, (key.into(), value));
                    if few.len() > FEW_VALUES_MAX {
                        *self = Self::Many(std::mem::take(few).into_iter().collect());
                    }
                    None
                }
            },
            Self::Many(many) => many.insert(key.into(), value),
        }
    }

    /// From the first key that `from` allows, in order.
    pub fn starting(
        &self,
        from: Bound<&str>,
    ) -> Box<dyn Iterator<Item = (&str, &Option<Bytes>)> + '_> {
        match self {
            Self::Few(few) => {
                let at = match from {
                    Bound::Unbounded => 0,
                    Bound::Included(key) => find(few, key).unwrap_or_else(|at| at),
                    Bound::Excluded(key) => find(few, key).map_or_else(|at| at, |at| at + 1),
                };
                Box::new(few[at..].iter().map(|(key, value)| (&**key, value)))
            }
            Self::Many(many) => {
                let range = many.range::<str, _>((from, Bound::Unbounded));
                Box::new(range.map(|(key, value)| (&**key, value)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A session with many keys must be the same map as one with few, also where it grows from
        /// the one form into the other.
        #[test]
        fn values_are_a_map_however_many(
            steps in proptest::collection::vec(("[a-c]{1,5}", any::<Option<u8>>()), 0..300),
            from in "[a-c]{0,3}",
        ) {
            let (mut values, mut map) = (Values::default(), BTreeMap::new());
            for (key, value) in steps {
                let value = value.map(|byte| Bytes::from(vec![byte]));
                let was = map.insert(key.clone(), value.clone());
                prop_assert_eq!(values.insert(key.clone(), value.clone()), was);
                prop_assert_eq!(values.get(&key), Some(&value));
            }
            for bound in [Bound::Included(&*from), Bound::Excluded(&*from), Bound::Unbounded] {
                let found: Vec<_> = values.starting(bound).collect();
                let range = map.range::<str, _>((bound, Bound::Unbounded));
                let wanted: Vec<_> = range.map(|(key, value)| (key.as_str(), value)).collect();
                prop_assert_eq!(found, wanted);
            }
        }
    }
}
