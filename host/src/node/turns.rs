//! Turns of a service's deploys and rollbacks: one at a time, until it is durable.

use crate::names::ServiceName;
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc};

type Lock = Arc<tokio::sync::Mutex<()>>;

/// The turns that are taken or waited for; services without changes have no entry.
#[derive(Default)]
pub(super) struct Turns(Arc<Mutex<HashMap<ServiceName, Lock>>>);

/// Ends when dropped.
pub(super) struct Turn {
    _held: tokio::sync::OwnedMutexGuard<()>,
    // Dropped after the lock.
    _place: Place,
}

struct Place {
    turns: Arc<Mutex<HashMap<ServiceName, Lock>>>,
    service: ServiceName,
}

impl Turns {
    /// Waits for the others. If dropped before it resolves, it leaves nothing behind.
    pub(super) async fn take(&self, service: &ServiceName) -> Turn {
        let place = Place { turns: self.0.clone(), service: service.clone() };
        let lock = self.0.lock().entry(service.clone()).or_default().clone();
        let held = lock.lock_owned().await;
        Turn { _held: held, _place: place }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut turns = self.turns.lock();
        // One reference is the map's own: each holder of and waiter for the turn has another.
        if turns.get(&self.service).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            turns.remove(&self.service);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::poll;
    use std::pin::pin;

    /// Without it the name of every service that a deploy ever named would stay in memory.
    #[tokio::test]
    async fn nothing_is_kept_of_turns_that_are_over() {
        let turns = Turns::default();
        let service = ServiceName::parse("chat").unwrap();
        let first = turns.take(&service).await;
        let mut second = Box::pin(turns.take(&service));
        let mut given_up = Box::pin(turns.take(&service));
        assert!(poll!(&mut second).is_pending() && poll!(&mut given_up).is_pending());
        drop(given_up);
        drop(first);
        let second = second.await;
        assert_eq!(turns.0.lock().len(), 1);
        assert!(poll!(pin!(turns.take(&service))).is_pending(), "one at a time");
        drop(second);
        assert_eq!(turns.0.lock().len(), 0);
        drop(turns.take(&service).await);
        assert_eq!(turns.0.lock().len(), 0);
    }
}
