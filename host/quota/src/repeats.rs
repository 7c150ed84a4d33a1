//! Idempotency keys of messages that were let through, so that a repeat is not refused for want of rate: its message was
//! decided already, or was on its way, and its client has to find out which.
//!
//! Each key that was let through has one repeat without drawing, so what passes is at most twice what the limits
//! say, whatever clients repeat. Keys are kept as hashes under a key of the process's own, in a table of a fixed size
//! in which a new one takes the place of an older one.

use crate::limits;
use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

#[derive(Debug, Default)]
pub(crate) struct Repeats {
    hasher: RandomState,
    /// Memory is taken with the first one.
    places: OnceLock<Box<[AtomicU64]>>,
}

/// Who may repeat what.
pub(crate) type Key<'a> = (&'a str, Option<&'a str>, &'a str, &'a str);

impl Repeats {
    fn place(&self, key: Key<'_>) -> (&AtomicU64, u64) {
        let places = self
            .places
            .get_or_init(|| (0..limits::REPEATS_KNOWN_MAX).map(|_| AtomicU64::default()).collect());
        let hash = self.hasher.hash_one(key).max(1);
        (&places[hash as usize % places.len()], hash)
    }

    /// A message was let through.
    pub fn note(&self, key: Key<'_>) {
        let (place, hash) = self.place(key);
        place.store(hash, Relaxed);
    }

    /// Whether one is a repeat, for which there was none yet.
    pub fn take(&self, key: Key<'_>) -> bool {
        let (place, hash) = self.place(key);
        place.compare_exchange(hash, 0, Relaxed, Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client that repeats a message for ever would pass for ever; and one client could use up another's repeat.
    #[test]
    fn a_key_has_one_repeat_of_its_own() {
        let repeats = Repeats::default();
        let key = ("chat", Some("ann"), "room", "k1");
        assert!(!repeats.take(key));
        repeats.note(key);
        for other in [
            ("chat", Some("bob"), "room", "k1"),
            ("chat", None, "room", "k1"),
            ("chat", Some("ann"), "hall", "k1"),
            ("chat", Some("ann"), "room", "k2"),
        ] {
            assert!(!repeats.take(other), "{other:?}");
        }
        assert!(repeats.take(key) && !repeats.take(key));
    }
}
