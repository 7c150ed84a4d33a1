//! Bytes that a connection makes the node hold.

use crate::{
    buffers::{Buffers, Charge, Kind},
    error::Error,
    limits,
};
use parking_lot::Mutex;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Bytes of one kind. The free amount per connection is not charged, so that small messages cost no
/// shared counter.
pub(super) struct Held {
    bytes: AtomicUsize,
    charge: Mutex<Charge>,
}

impl Held {
    pub(super) fn new(buffers: &Arc<Buffers>, kind: Kind) -> Self {
        Self { bytes: 0.into(), charge: Mutex::new(Charge::new(buffers.clone(), kind)) }
    }

    /// # Errors
    /// `buffers-full`. Then the bytes are counted all the same.
    pub(super) fn add(&self, bytes: usize) -> Result<(), Error> {
        let held = self.bytes.fetch_add(bytes, Relaxed) + bytes;
        if held <= limits::CONNECTION_BYTES_FREE {
            return Ok(());
        }
        let mut charge = self.charge.lock();
        self.settle(&mut charge);
        charge.check(0)
    }

    /// This many fewer.
    pub(super) fn sub(&self, bytes: usize) {
        if self.bytes.load(Relaxed) == 0 {
            return;
        }
        let less = |held: usize| Some(held.saturating_sub(bytes));
        let before = self.bytes.fetch_update(Relaxed, Relaxed, less).unwrap_or_default();
        if before > limits::CONNECTION_BYTES_FREE {
            self.settle(&mut self.charge.lock());
        }
    }

    /// None at all.
    pub(super) fn clear(&self) {
        if self.bytes.swap(0, Relaxed) > limits::CONNECTION_BYTES_FREE {
            self.settle(&mut self.charge.lock());
        }
    }

    /// Reads the bytes under the lock: of several streams that change them at once, the last one to
    /// come here charges what all of them have left.
    fn settle(&self, charge: &mut Charge) {
        let held = self.bytes.load(Relaxed);
        charge.hold(if held > limits::CONNECTION_BYTES_FREE { held } else { 0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without it streams of one connection that add and release at the same time would leave a
    /// charge behind that nobody gives back.
    #[test]
    fn what_is_charged_is_what_is_held_whoever_changes_it() {
        let buffers = Arc::new(Buffers::new(1 << 30));
        let held = Held::new(&buffers, Kind::Answers);
        std::thread::scope(|threads| {
            for step in 1..5 {
                let held = &held;
                threads.spawn(move || {
                    for _ in 0..20_000 {
                        let bytes = step * limits::CONNECTION_BYTES_FREE / 3;
                        held.add(bytes).expect("there is room");
                        held.sub(bytes);
                    }
                });
            }
        });
        assert_eq!((held.bytes.load(Relaxed), buffers.held(Kind::Answers)), (0, 0));
    }

    /// Without it a connection's small answers would each touch a counter that all share, or its
    /// large ones would be charged for nothing.
    #[test]
    fn above_the_free_amount_all_of_it_is_charged() {
        const FREE: usize = limits::CONNECTION_BYTES_FREE;
        let buffers = Arc::new(Buffers::new(4 * FREE));
        let held = Held::new(&buffers, Kind::Answers);
        assert!(held.add(FREE).is_ok());
        assert_eq!(buffers.held(Kind::Answers), 0);
        assert!(held.add(1).is_ok());
        assert_eq!(buffers.held(Kind::Answers), FREE + 1);
        assert!(held.add(3 * FREE).is_err(), "three quarters of it are for answers");
        assert_eq!(buffers.held(Kind::Answers), 4 * FREE + 1);
        held.sub(3 * FREE + 1);
        assert_eq!(buffers.held(Kind::Answers), 0);
    }
}
