//! A quick hash for the maps of a fold, which are asked for each message. Seeded anew in each process,
//! so that names which collide in one do not in another.

use foldhash::fast::RandomState;

/// [`std::collections::HashMap`] with this hash.
pub type Map<K, V> = std::collections::HashMap<K, V, RandomState>;

#[cfg(test)]
mod tests {
    use foldhash::fast::FixedState;
    use std::{collections::HashSet, hash::BuildHasher};

    /// Names and numbers that differ a little are what a slot has.
    #[test]
    fn what_is_alike_does_not_collide() {
        // Not by chance: of a thousand random ones, one part in 128 may be missing.
        let seed = FixedState::with_seed(17);
        let mut hashes = HashSet::new();
        for number in 0..10_000_u64 {
            assert!(hashes.insert(seed.hash_one(number)));
            assert!(hashes.insert(seed.hash_one(format!("room-{number}"))));
        }
        for zeros in 1..20 {
            assert!(hashes.insert(seed.hash_one(vec![0_u8; zeros])));
        }
        // What a table of a thousand places uses of it.
        let low: HashSet<_> = (0..1_000_u64).map(|n| seed.hash_one(n) % 1_024).collect();
        let high: HashSet<_> = (0..1_000_u64).map(|n| seed.hash_one(n) >> 57).collect();
        assert!(low.len() > 500 && high.len() == 128, "{} {}", low.len(), high.len());
    }
}
