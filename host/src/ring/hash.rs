//! The ring's hash, over bytes that are spelled out here: `derive(Hash)` and the standard
//! library's hashers may change between compilers, and a changed hash moves slots.

use crate::names::SlotId;
use std::hash::{BuildHasher, Hash, Hasher};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// One point on the ring: a node's `index`-th, or a slot's.
#[derive(Clone, Debug)]
pub(super) struct Point {
    /// Index of the node in its view; no part of the hash. Not used for a slot's point.
    pub node: u16,
    pub index: u32,
    bytes: Box<[u8]>,
}

impl Point {
    /// `n`, the name, a zero byte (which no name contains), the index in little endian.
    pub fn of_node(node: u16, name: &str, index: u32) -> Self {
        let mut bytes = Vec::with_capacity(name.len() + 6);
        bytes.push(b'n');
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(&index.to_le_bytes());
        Self { node, index, bytes: bytes.into() }
    }
    /// `s` and the slot in little endian.
    pub fn of_slot(slot: SlotId) -> Self {
        let [low, high] = slot.to_le_bytes();
        Self { node: 0, index: 0, bytes: [b's', low, high].into() }
    }
}

impl Hash for Point {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // One write of exactly the canonical bytes: slices' own `Hash` would add a length.
        state.write(&self.bytes);
    }
}

/// Which of the slots that prefer a full node it keeps: the lowest.
pub(super) fn affinity(slot: SlotId, name: &str) -> u64 {
    let mut bytes = Vec::with_capacity(name.len() + 3);
    bytes.push(b'a');
    bytes.extend_from_slice(&slot.to_le_bytes());
    bytes.extend_from_slice(name.as_bytes());
    xxh3_64(&bytes)
}

/// The order in which slots without a node look for one: the same in every view.
pub(super) fn priority(slot: SlotId) -> u64 {
    let [low, high] = slot.to_le_bytes();
    xxh3_64(&[b'p', low, high])
}

/// XXH3-64, chained over writes.
#[derive(Clone, Copy)]
pub(super) struct PinnedHash;
pub(super) struct PinnedHasher(u64);

impl BuildHasher for PinnedHash {
    type Hasher = PinnedHasher;
    fn build_hasher(&self) -> PinnedHasher {
        PinnedHasher(0)
    }
}
impl Hasher for PinnedHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }
    fn finish(&self) -> u64 {
        self.0
    }
}
