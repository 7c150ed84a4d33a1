//! How many requests the HTTP/2 connections of a listener may have together.

use super::super::places::PlaceLimits;
use crate::limits;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// The requests of a listener's HTTP/2 connections. When there are as many as there may be, each
/// connection may still have its share of them: one that has opened many streams does not keep
/// others out.
pub(in super::super) struct Share {
    max: usize,
    requests: AtomicUsize,
    connections: AtomicUsize,
}

/// A request's turn, until it is dropped.
pub(super) struct Turn(Arc<Share>);

/// Counts a connection.
pub(super) struct Sharing(Arc<Share>);

impl Share {
    pub(in super::super) fn new(connections: PlaceLimits) -> Arc<Self> {
        Self::of(connections.max.saturating_mul(limits::HTTP2_REQUESTS_PER_CONNECTION))
    }
    fn of(max: usize) -> Arc<Self> {
        Arc::new(Self { max, requests: 0.into(), connections: 0.into() })
    }
    pub(super) fn join(self: &Arc<Self>) -> Sharing {
        self.connections.fetch_add(1, Relaxed);
        Sharing(self.clone())
    }
    /// A turn for a connection that has `own` requests, this one included.
    pub(super) fn take(self: &Arc<Self>, own: u64) -> Option<Turn> {
        let all = self.requests.fetch_add(1, Relaxed) + 1;
        let turn = Turn(self.clone());
        let share = (self.max / self.connections.load(Relaxed).max(1)).max(1);
        (all <= self.max || own <= share as u64).then_some(turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Relaxed);
    }
}
impl Drop for Sharing {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without it a few clients could take all requests that a node handles at a time, or many could
    /// have more of them than it has memory for.
    #[test]
    fn a_connection_with_many_requests_keeps_no_other_out() {
        let share = Share::of(8);
        let connections = [share.join(), share.join()];
        let mut greedy: Vec<_> = (1..=8).map(|own| share.take(own).expect("a turn")).collect();
        assert!(share.take(9).is_none(), "all are taken");
        let modest: Vec<_> = (1..=4).map(|own| share.take(own).expect("its share")).collect();
        assert!(share.take(5).is_none(), "its share is four");
        assert!(share.take(9).is_none());
        drop(modest);
        greedy.pop();
        assert!(share.take(8).is_some(), "there is room again");
        drop((greedy, connections));
        assert_eq!((share.requests.load(Relaxed), share.connections.load(Relaxed)), (0, 0));
    }
}
