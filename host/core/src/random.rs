//! Random numbers: ids, secrets, and the spread of waits. Nothing else in the crate makes them, but
//! for generators that start from a seed.

#![expect(clippy::disallowed_methods, reason = "this is their home")]

use std::{
    fs::File,
    hash::{BuildHasher, RandomState},
    io::{self, Read},
    ops::Range,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// An id that lasts longer than the process: of a node, a salt, an attempt at shared storage.
///
/// # Errors
/// `/dev/urandom` can't be read.
pub fn lasting_id() -> io::Result<u128> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u128::from_le_bytes(bytes))
}

/// An id that nobody else has, nor can guess.
pub fn id() -> u128 {
    u128::from_le_bytes(bytes())
}

/// Such an id as text.
pub fn hex_id() -> String {
    hex(id())
}

/// An id as 32 hexadecimal digits.
pub fn hex(id: u128) -> String {
    format!("{id:032x}")
}

/// The id of an appended batch: unique, and cheap, but not secret.
pub fn batch_id() -> u128 {
    static NODE: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0));
    static NEXT: AtomicU64 = AtomicU64::new(0);
    (u128::from(*NODE) << 64) | u128::from(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Bytes for nonces and secrets.
pub fn bytes<const N: usize>() -> [u8; N] {
    rand::random()
}

/// What a generator of its own starts with.
pub fn seed() -> u64 {
    rand::random()
}

/// A number below `end`, which is not 0.
pub fn below(end: usize) -> usize {
    rand::random_range(0..end)
}

/// A share of `wait`, so that those who wait for one thing do not all come back at once.
pub fn spread(wait: Duration, share: Range<f64>) -> Duration {
    wait.mul_f64(rand::random_range(share))
}
