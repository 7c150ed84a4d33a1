//! First slices on the worker threads; a service with long calls gets a few per second.

use crate::{limits, names::ServiceName};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

#[derive(Default)]
pub(super) struct Ration {
    /// Services that lately had calls which were long.
    slices: Mutex<HashMap<ServiceName, Slices>>,
    /// How many there are: none, nearly always.
    watched: AtomicUsize,
}

/// First slices that a service may still use up on the threads that serve.
struct Slices {
    left: f64,
    at: Instant,
}

impl Ration {
    /// Whether a call of a service may begin on a thread that serves.
    pub fn may_begin_here(&self, service: &ServiceName) -> bool {
        if self.watched.load(Ordering::Relaxed) == 0 {
            return true;
        }
        let mut slices = self.slices.lock();
        // Those of all services: one that is not called again would have all the others come here for good.
        let now = crate::clock::now();
        slices.retain(|_, known| {
            known.refill(now);
            known.left < limits::LONG_SLICES_MAX
        });
        self.watched.store(slices.len(), Ordering::Relaxed);
        slices.get(service).is_none_or(|known| known.left >= 1.0)
    }

    pub fn used_a_slice(&self, service: &ServiceName) {
        let (mut slices, now) = (self.slices.lock(), crate::clock::now());
        let known = slices
            .entry(service.clone())
            .or_insert_with(|| Slices { left: limits::LONG_SLICES_MAX, at: now });
        known.refill(now);
        known.left = (known.left - 1.0).max(0.0);
        self.watched.store(slices.len(), Ordering::Relaxed);
    }
}

impl Slices {
    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left =
            (self.left + passed * limits::LONG_SLICES_PER_SECOND).min(limits::LONG_SLICES_MAX);
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn service(name: &str) -> ServiceName {
        ServiceName::parse(name).unwrap()
    }

    /// A service whose calls are long may have a few first slices of the threads that serve, and again
    /// when some time has passed; another has all of its own.
    #[test]
    fn first_slices_are_rationed_by_service() {
        let ration = Ration::default();
        let (long, other) = (service("long"), service("other"));
        let mut used = 0;
        while ration.may_begin_here(&long) {
            ration.used_a_slice(&long);
            used += 1;
            assert!(used < 1_000, "there is no end to them");
        }
        assert!(used >= limits::LONG_SLICES_MAX as usize);
        assert!(ration.may_begin_here(&other));
        ration.slices.lock().get_mut(&long).unwrap().at -= Duration::from_secs(10);
        // Another's call finds out: the first may never be called again.
        assert!(ration.may_begin_here(&other));
        assert_eq!(ration.watched.load(Ordering::Relaxed), 0, "it is watched for ever");
        assert!(ration.may_begin_here(&long));
    }
}
