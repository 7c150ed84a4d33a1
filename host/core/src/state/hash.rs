//! A quick hash for the maps of a fold, which are asked for each message. Seeded, so that no
//! client can choose names that collide.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::OnceLock,
};

/// [`std::collections::HashMap`] with this hash.
pub type Map<K, V> = std::collections::HashMap<K, V, Seed>;

/// The seed of this process.
#[derive(Clone, Copy, Debug)]
pub struct Seed(u64, u64);

impl Default for Seed {
    fn default() -> Self {
        static SEED: OnceLock<Seed> = OnceLock::new();
        *SEED.get_or_init(|| {
            let random = RandomState::new();
            // Odd: it is multiplied by.
            Self(random.hash_one(0), random.hash_one(1) | 1)
        })
    }
}

impl BuildHasher for Seed {
    type Hasher = Quick;

    fn build_hasher(&self) -> Quick {
        Quick { state: self.0, by: self.1 }
    }
}

/// Multiplies eight bytes at a time into 128 bits and folds them.
pub struct Quick {
    state: u64,
    by: u64,
}

impl Quick {
    fn mix(&mut self, word: u64) {
        let product = u128::from(self.state ^ word) * u128::from(self.by);
        self.state = (product as u64) ^ ((product >> 64) as u64);
        // Else a state of zero would stay one whatever comes.
        self.state = self.state.wrapping_add(self.by);
    }
}

impl Hasher for Quick {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            // The length tells what ends in zeros from what is shorter.
            word[7] = rest.len() as u8;
            self.mix(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.mix(u64::from(byte));
    }

    fn write_u64(&mut self, number: u64) {
        self.mix(number);
    }

    fn finish(&self) -> u64 {
        self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// Names and numbers that differ a little are what a slot has.
    #[test]
    fn what_is_alike_does_not_collide() {
        let seed = Seed(0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93);
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
