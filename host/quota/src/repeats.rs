//! Idempotency keys of messages that were let through, so that a repeat is not refused for want of rate: its message was
//! decided already, or was on its way, and its client has to find out which.
//!
//! Each key that was let through has one repeat without drawing, within [`limits::REPEAT_WITHIN`] and with no more bytes.
//! So repeats in any time are no more than what was let through in that time and the minute before it: keys can't be
//! saved up. Keys are kept as hashes under a key of the process's own, in a table of a fixed size in which a new one takes the
//! place of an older one.

use crate::{limits, rate::SECOND_NS};
use parking_lot::Mutex;
use std::hash::{BuildHasher, RandomState};

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// 0: free.
    hash: u64,
    /// In which it was let through. 32 bits are 136 years from the start.
    second: u32,
    /// That it had. One that had more is known with fewer, so that a repeat of it passes less often, not more.
    bytes: u32,
}

#[derive(Debug)]
pub(crate) struct Repeats {
    hasher: RandomState,
    /// Memory for a shard is taken when it is first used.
    shards: Box<[Mutex<Box<[Entry]>>]>,
}

impl Default for Repeats {
    fn default() -> Self {
        Self {
            hasher: RandomState::default(),
            shards: (0..limits::TABLE_SHARDS).map(|_| Mutex::default()).collect(),
        }
    }
}

/// Who may repeat what.
pub(crate) type Key<'a> = (&'a str, Option<&'a str>, &'a str, &'a str);

fn second_of(ns: u64) -> u32 {
    u32::try_from(ns / SECOND_NS).unwrap_or(u32::MAX)
}

impl Repeats {
    fn with<T>(&self, key: Key<'_>, work: impl FnOnce(&mut Entry, u64) -> T) -> T {
        const PLACES: usize = limits::REPEATS_KNOWN_MAX / limits::TABLE_SHARDS;
        let hash = self.hasher.hash_one(key).max(1);
        let mut entries = self.shards[hash as usize % limits::TABLE_SHARDS].lock();
        if entries.is_empty() {
            *entries = vec![Entry::default(); PLACES].into();
        }
        work(&mut entries[(hash >> 32) as usize % PLACES], hash)
    }

    /// A message with so many bytes was let through.
    pub fn note(&self, key: Key<'_>, bytes: u64, now_ns: u64) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let second = second_of(now_ns);
        self.with(key, |entry, hash| *entry = Entry { hash, second, bytes });
    }

    /// Whether one is a repeat, for which there was none yet.
    pub fn take(&self, key: Key<'_>, bytes: u64, now_ns: u64) -> bool {
        self.with(key, |entry, hash| {
            let age = u64::from(second_of(now_ns).saturating_sub(entry.second));
            let is_repeat = entry.hash == hash
                && age <= limits::REPEAT_WITHIN.as_secs()
                && bytes <= u64::from(entry.bytes);
            if is_repeat {
                *entry = Entry::default();
            }
            is_repeat
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000 * SECOND_NS;

    /// A client that repeats a message for ever would pass for ever; and one client could use up another's repeat.
    #[test]
    fn a_key_has_one_repeat_of_its_own() {
        let repeats = Repeats::default();
        let key = ("chat", Some("ann"), "room", "k1");
        assert!(!repeats.take(key, 1, NOW));
        repeats.note(key, 1, NOW);
        for other in [
            ("chat", Some("bob"), "room", "k1"),
            ("chat", None, "room", "k1"),
            ("chat", Some("ann"), "hall", "k1"),
            ("chat", Some("ann"), "room", "k2"),
        ] {
            assert!(!repeats.take(other, 1, NOW), "{other:?}");
        }
        assert!(repeats.take(key, 1, NOW) && !repeats.take(key, 1, NOW));
    }

    /// Keys of a small message would be saved up, and let large ones through when the limit is reached.
    #[test]
    fn a_repeat_is_no_larger_and_no_later() {
        let repeats = Repeats::default();
        let key = ("chat", None, "room", "k1");
        let within = limits::REPEAT_WITHIN.as_secs() * SECOND_NS;
        repeats.note(key, 10, NOW);
        assert!(!repeats.take(key, 11, NOW));
        assert!(!repeats.take(key, 10, NOW + within + SECOND_NS));
        // A thread may have looked at the clock before the other one.
        assert!(repeats.take(key, 10, NOW - SECOND_NS));
        repeats.note(key, u64::MAX, NOW);
        assert!(!repeats.take(key, u64::MAX, NOW));
        assert!(repeats.take(key, 10, NOW + within));
    }
}
