//! Unauthenticated connections to the peer port, and which of them is closed when there are too many.
//!
//! Anybody can open connections, so unauthenticated peers must not displace a peer whose handshake is
//! one round trip from its end. Addresses of members and from discovery have one quota, all others
//! another, of which each address has a small share. When a quota is full, the connection that has
//! sent least is closed, and of several the oldest: a peer sends its handshake at once.

use crate::limits;
use parking_lot::Mutex;
use std::{net::IpAddr, sync::Arc};
use tokio::sync::oneshot;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Progress {
    Silent,
    /// It began as a peer's does.
    Speaks,
    /// It has sent its hello.
    Named,
}

#[derive(Default)]
pub(super) struct Waiting(Mutex<State>);

#[derive(Default)]
struct State {
    /// In the order in which they came: [`limits::PEER_UNPROVEN_MAX`] twice at most.
    all: Vec<Entry>,
    next: u64,
}

struct Entry {
    id: u64,
    from: IpAddr,
    known: bool,
    progress: Progress,
    cut: oneshot::Sender<()>,
}

/// A connection's place, until it is dropped.
pub(super) struct Place {
    waiting: Arc<Waiting>,
    id: u64,
}

/// Resolves to `Ok` when the connection must give way.
pub(super) type Cut = oneshot::Receiver<()>;

impl Waiting {
    /// A place for a connection from `from`, which is `known` as a peer's address. There always is
    /// one, if need be another's.
    pub fn enter(self: &Arc<Self>, from: IpAddr, known: bool) -> (Place, Cut) {
        let state = &mut *self.0.lock();
        let same = |entry: &Entry| entry.known == known;
        // An address may have become a peer's, or ceased to be one, since it was met before.
        let own = |entry: &Entry| same(entry) && entry.from == from;
        if !known && state.count(own) >= limits::PEER_UNPROVEN_PER_ADDRESS_MAX {
            state.cut_one(own);
        } else if state.count(same) >= limits::PEER_UNPROVEN_MAX {
            state.cut_one(same);
        }
        let (cut, is_cut) = oneshot::channel();
        let id = state.next;
        state.next += 1;
        state.all.push(Entry { id, from, known, progress: Progress::Silent, cut });
        (Place { waiting: self.clone(), id }, is_cut)
    }
}

impl State {
    fn count(&self, of: impl Fn(&Entry) -> bool) -> usize {
        self.all.iter().filter(|entry| of(entry)).count()
    }

    fn cut_one(&mut self, of: impl Fn(&Entry) -> bool) {
        let candidates = self.all.iter().enumerate().filter(|(_, entry)| of(entry));
        // Of equal ones the first.
        let least = candidates.min_by_key(|(_, entry)| entry.progress).map(|(at, _)| at);
        if let Some(at) = least {
            // It may have ended by itself.
            let _ = self.all.remove(at).cut.send(());
        }
    }
}

impl Place {
    pub fn reached(&self, progress: Progress) {
        let state = &mut *self.waiting.0.lock();
        if let Some(entry) = state.all.iter_mut().find(|entry| entry.id == self.id) {
            entry.progress = progress;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waiting.0.lock().all.retain(|entry| entry.id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    fn is_cut(cut: &mut Cut) -> bool {
        cut.try_recv().is_ok()
    }

    /// A flood of silent connections kept the links of the cluster's own nodes out.
    #[test]
    fn silent_connections_give_way_to_those_that_speak_and_the_oldest_first() {
        let waiting = Arc::new(Waiting::default());
        let (_peer, mut peer_cut) = waiting.enter(address(1), true);
        _peer.reached(Progress::Speaks);
        let mut silent: Vec<_> =
            (1..limits::PEER_UNPROVEN_MAX).map(|_| waiting.enter(address(1), true)).collect();
        for n in 0..200 {
            assert!(!is_cut(&mut silent[n].1), "one gives way for one");
            silent.push(waiting.enter(address(1), true));
            assert!(is_cut(&mut silent[n].1), "the oldest");
            assert!(!is_cut(&mut peer_cut));
        }
    }

    /// Connections from unknown addresses must not displace those from peers' addresses, nor those
    /// of one unknown address another's.
    #[test]
    fn each_address_has_its_share() {
        let waiting = Arc::new(Waiting::default());
        let (_other, mut other_cut) = waiting.enter(address(9), false);
        let (_peer, mut peer_cut) = waiting.enter(address(1), true);
        let flood: Vec<_> = (0..500).map(|_| waiting.enter(address(7), false)).collect();
        assert!(!is_cut(&mut other_cut) && !is_cut(&mut peer_cut));
        drop(flood);
        let flood: Vec<_> =
            (0..500).map(|n| waiting.enter(address(10 + (n % 200) as u8), false)).collect();
        assert!(is_cut(&mut other_cut) && !is_cut(&mut peer_cut));
        drop(flood);
        assert_eq!(waiting.0.lock().all.len(), 1, "what ended has no place");
    }

    proptest! {
        /// Without a bound whoever likes takes all descriptors.
        #[test]
        fn places_are_bounded_and_a_newcomer_has_one(
            steps in prop::collection::vec((0..40_u8, any::<bool>(), 0..3_u8), 0..400)
        ) {
            let waiting = Arc::new(Waiting::default());
            let mut places = Vec::new();
            for (n, known, progress) in steps {
                let (place, mut cut) = waiting.enter(address(n), known);
                prop_assert!(!is_cut(&mut cut));
                place.reached([Progress::Silent, Progress::Speaks, Progress::Named][usize::from(progress)]);
                places.push((place, cut));
                let state = waiting.0.lock();
                let strangers = state.count(|entry| !entry.known);
                prop_assert!(strangers <= limits::PEER_UNPROVEN_MAX);
                prop_assert!(state.all.len() - strangers <= limits::PEER_UNPROVEN_MAX);
                prop_assert!(state.count(|e| !e.known && e.from == address(n)) <= limits::PEER_UNPROVEN_PER_ADDRESS_MAX);
            }
        }
    }
}
