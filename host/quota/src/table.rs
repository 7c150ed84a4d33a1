//! Buckets by name, of which there are only so many.
//!
//! Sessions and subjects are named by clients, so a table of them has a fixed size: a name has [`limits::WAYS`] places.
//! Are all of them taken, the bucket that is full again first is forgotten, which a bucket that nobody draws
//! from is anyway. What is lost if it was not full is one thing: that name has a whole burst again. Nobody gains by
//! it: who can name so many has a whole burst for each new name already, and what bounds all names together, the
//! bucket above them (a session's service, a subject's service), is never forgotten.
//!
//! A name is known by a hash of 64 bits under a key of the process's own, so a bucket has 32 bytes, and nobody can look for
//! names that meet.

use crate::{limits, policy::Rates, rate::Bucket};
use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// The buckets of one name.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Taps {
    pub messages: Bucket,
    pub bytes: Bucket,
    pub guest_time: Bucket,
}

impl Taps {
    /// Where a rate is another one than before, no bucket has less than nothing of it.
    pub fn clamp(&mut self, before: &Rates, rates: &Rates, now_ns: u64) {
        for (bucket, before, quota) in [
            (&mut self.messages, before.messages, rates.messages),
            (&mut self.bytes, before.bytes, rates.bytes),
            (&mut self.guest_time, before.guest_time, rates.guest_time),
        ] {
            if let Some(quota) = quota.filter(|_| before != quota) {
                bucket.clamp(quota, now_ns);
            }
        }
    }

    fn full_in(&self, now_ns: u64) -> u64 {
        let all = [self.messages, self.bytes, self.guest_time];
        all.into_iter().map(|bucket| bucket.full_in(now_ns)).max().unwrap_or(0)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// 0: free.
    tag: u64,
    taps: Taps,
}

#[derive(Debug)]
pub(crate) struct Table {
    hasher: RandomState,
    sets_per_shard: usize,
    /// Memory for a shard is taken when it is first used.
    shards: Box<[Mutex<Box<[Entry]>>]>,
    /// Names that were forgotten before their buckets were full.
    forgotten: AtomicU64,
}

impl Table {
    pub fn new(names_max: usize) -> Self {
        let sets = names_max.div_ceil(limits::WAYS * limits::TABLE_SHARDS);
        Self {
            hasher: RandomState::new(),
            sets_per_shard: sets.max(1),
            shards: (0..limits::TABLE_SHARDS).map(|_| Mutex::default()).collect(),
            forgotten: AtomicU64::new(0),
        }
    }

    pub fn forgotten(&self) -> u64 {
        self.forgotten.load(Relaxed)
    }

    /// The buckets of a name, locked with its shard.
    pub fn of(&self, name: &str, now_ns: u64) -> MappedMutexGuard<'_, Taps> {
        let hash = self.hasher.hash_one(name);
        let (shard, set, tag) = self.place(hash);
        let mut entries = self.shards[shard].lock();
        if entries.is_empty() {
            *entries = vec![Entry::default(); self.sets_per_shard * limits::WAYS].into();
        }
        let way = {
            let ways = &mut entries[set..set + limits::WAYS];
            match ways.iter().position(|entry| entry.tag == tag) {
                Some(way) => way,
                None => {
                    let way = Self::least_used(ways, now_ns);
                    if ways[way].tag != 0 && ways[way].taps.full_in(now_ns) > 0 {
                        self.forgotten.fetch_add(1, Relaxed);
                    }
                    ways[way] = Entry { tag, taps: Taps::default() };
                    way
                }
            }
        };
        MutexGuard::map(entries, |entries| &mut entries[set + way].taps)
    }

    /// All that have buckets, a shard at a time.
    pub fn each(&self, mut work: impl FnMut(&mut Taps)) {
        for shard in &self.shards {
            let mut entries = shard.lock();
            entries.iter_mut().filter(|entry| entry.tag != 0).for_each(|e| work(&mut e.taps));
        }
    }

    fn place(&self, hash: u64) -> (usize, usize, u64) {
        let shard = hash as usize % limits::TABLE_SHARDS;
        let set = (hash >> 32) as usize % self.sets_per_shard * limits::WAYS;
        (shard, set, hash.max(1))
    }

    /// One that is free, else the one that is full first.
    fn least_used(ways: &[Entry], now_ns: u64) -> usize {
        let used = |entry: &Entry| match entry.tag {
            0 => (false, 0),
            _ => (true, entry.taps.full_in(now_ns)),
        };
        let least = ways.iter().enumerate().min_by_key(|(_, entry)| used(entry));
        least.map_or(0, |(way, _)| way)
    }

    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| size_of_val(&**shard.lock())).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate::{Messages, Quota, Rate};
    use std::time::Duration;

    /// Whoever names a million sessions would fill the memory, or have the ones in use forgotten.
    #[test]
    fn a_million_names_take_no_more_memory_and_the_most_used_stay() {
        let table = Table::new(1_024);
        let quota = Quota::new(Rate::<Messages>::parse("1/m").unwrap(), Duration::from_secs(3600));
        table.of("in use", 1).messages.draw(quota, 50, 1);
        for name in 0..1_000_000 {
            table.of(&name.to_string(), 1).messages.draw(quota, 1, 1);
        }
        assert!(table.bytes() <= 1_024 * size_of::<Entry>());
        assert_eq!(size_of::<Entry>(), 32);
        assert!(table.forgotten() >= 990_000);
        let at = table.of("in use", 1).messages.ready_at(quota, 11);
        assert!(at > 1, "it had drawn 50 of 60");
    }

    #[test]
    fn a_bucket_that_is_full_again_is_forgotten_before_one_in_use() {
        let table = Table::new(1);
        let quota = Quota::new(Rate::<Messages>::parse("1/s").unwrap(), Duration::from_secs(10));
        let now = 1_000_000_000_000;
        // Of one shard and set, of which there is one here: more names than it has places.
        let place = |name: &str| table.place(table.hasher.hash_one(name)).0;
        let mut names = (0..).map(|n: u32| n.to_string()).filter(|name| place(name) == 0);
        let kept: Vec<_> = names.by_ref().take(limits::WAYS).collect();
        for (name, drawn) in kept.iter().zip(1..) {
            table.of(name, now).messages.draw(quota, drawn, now);
        }
        // By now the first one is full, and it alone.
        let later = now + 1_000_000_000;
        table.of(&names.next().unwrap(), later).messages.draw(quota, 5, later);
        assert_eq!(table.forgotten(), 0);
        for (name, drawn) in kept.iter().zip(1..).skip(1) {
            let left = table.of(name, later).messages.left(quota, later).0;
            assert_eq!(left, 10 - drawn + 1, "{name}");
        }
    }
}
