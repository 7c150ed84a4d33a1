//! The order of one slot's messages on their way to wherever the slot is.
//!
//! Messages are sent one after the other without waiting for answers. When one comes back, because
//! the slot has moved, so do those behind it; they go again in the order in which they came, and a
//! node that refused one refuses those of the same attempt behind it ([`Refused`]), even if it has
//! become the owner meanwhile. When the slot is elsewhere by then, what is under way to where it was
//! may come back yet: a message waits for it, for a while, before it goes there.

use crate::{limits, names::SlotId};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// A slot's messages that are not answered yet.
#[derive(Default)]
pub struct Lane {
    state: Mutex<State>,
    changed: Notify,
    /// Counts attempts: those sent under one count come back together.
    attempt: AtomicU64,
}

/// Where messages are sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    Here,
    Peer(Arc<str>),
}

#[derive(Default)]
struct State {
    next: u64,
    /// Where the last one went.
    to: Option<To>,
    /// By ticket: the attempt that it was sent under; `None`: it waits to be sent (again).
    open: BTreeMap<u64, Option<u64>>,
    waiting: usize,
}

/// A message's place in its lane; leaves it when dropped.
pub struct Ticket {
    lane: Arc<Lane>,
    number: u64,
}

impl Lane {
    /// Takes a place, to be sent. `None`: `max` messages wait already.
    pub fn enter(self: &Arc<Self>, max: usize) -> Option<Ticket> {
        let mut state = self.state.lock();
        if state.waiting >= max {
            return None;
        }
        let number = state.next;
        state.next += 1;
        state.waiting += 1;
        state.open.insert(number, None);
        drop(state);
        Some(Ticket { lane: self.clone(), number })
    }

    /// The attempt that what is sent now belongs to.
    pub fn attempt(&self) -> u64 {
        self.attempt.load(Ordering::Relaxed)
    }
}

impl Ticket {
    /// Waits until all that came before is on its way or answered. What went under an attempt that
    /// others came back from is not on its way: it will come back too, or be answered.
    pub async fn turn(&self) {
        loop {
            let changed = self.lane.changed.notified();
            {
                let state = self.lane.state.lock();
                let now = self.lane.attempt();
                let mut before = state.open.range(..self.number);
                if before.all(|(_, sent)| sent.is_some_and(|attempt| attempt >= now)) {
                    return;
                }
            }
            changed.await;
        }
    }

    /// Whether it would go where all of those went that came before and are not answered.
    pub fn follows(&self, to: &To) -> bool {
        let state = self.lane.state.lock();
        state.to.as_ref() == Some(to) || state.open.range(..self.number).next().is_none()
    }

    /// Waits until that is so: until what came before is answered, or has gone there too.
    pub async fn follow(&self, to: &To) {
        loop {
            let changed = self.lane.changed.notified();
            if self.follows(to) {
                return;
            }
            changed.await;
        }
    }

    /// It is on its way, under `attempt`.
    pub fn sent(&self, attempt: u64, to: To) {
        self.lane.state.lock().to = Some(to);
        self.set(Some(attempt));
    }

    /// It came back, sent under `attempt`.
    pub fn returned(&self, attempt: u64) {
        // Once for all that come back together.
        let next = attempt + 1;
        let _ = self.lane.attempt.fetch_max(next, Ordering::Relaxed);
        self.set(None);
    }

    fn set(&self, sent: Option<u64>) {
        let mut state = self.lane.state.lock();
        if let Some(open) = state.open.get_mut(&self.number) {
            let before = std::mem::replace(open, sent);
            match (before, sent) {
                (Some(_), None) => state.waiting += 1,
                (None, Some(_)) => state.waiting -= 1,
                _ => {}
            }
        }
        drop(state);
        if sent.is_some() {
            self.lane.changed.notify_waiters();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.lane.state.lock();
        if state.open.remove(&self.number) == Some(None) {
            state.waiting -= 1;
        }
        drop(state);
        self.lane.changed.notify_waiters();
    }
}

/// The attempts that this node has refused, per peer and slot.
#[derive(Default)]
pub struct Refused(Mutex<HashMap<Arc<str>, RefusedOf>>);

/// Those of one peer.
struct RefusedOf {
    /// By slot: the attempts below it.
    below: HashMap<SlotId, u64>,
    /// When the last one was refused.
    last: Instant,
}

impl Refused {
    pub fn add(&self, peer: &Arc<str>, slot: SlotId, attempt: u64) {
        let mut refused = self.0.lock();
        let now = crate::clock::timer_now();
        let of_peer = refused.entry(peer.clone());
        let of_peer = of_peer.or_insert_with(|| RefusedOf { below: HashMap::new(), last: now });
        of_peer.last = now;
        // 0 stands for none.
        let below = of_peer.below.entry(slot).or_default();
        *below = (*below).max(attempt + 1);
    }

    /// Whether a message of that attempt must go back too.
    pub fn has(&self, peer: &Arc<str>, slot: SlotId, attempt: u64) -> bool {
        let refused = self.0.lock();
        let below = refused.get(peer).and_then(|of_peer| of_peer.below.get(&slot));
        below.is_some_and(|below| attempt < *below)
    }

    /// A peer that starts again counts from 0.
    pub fn forget(&self, peer: &str) {
        self.0.lock().remove(peer);
    }

    /// Forgets peers that are gone, once nothing of theirs can be under way any more.
    pub fn sweep(&self, is_member: impl Fn(&str) -> bool) {
        self.sweep_older(limits::REFUSED_KEPT, is_member);
    }

    fn sweep_older(&self, age: Duration, is_member: impl Fn(&str) -> bool) {
        let is_kept =
            |name: &str, of_peer: &RefusedOf| is_member(name) || of_peer.last.elapsed() < age;
        self.0.lock().retain(|name, of_peer| is_kept(name, of_peer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::poll;
    use std::pin::pin;

    /// Without it every name that a node of the cluster ever had would stay, with its slots.
    #[test]
    fn refusals_of_peers_that_are_gone_are_forgotten() {
        let refused = Refused::default();
        let (gone, here): (Arc<str>, Arc<str>) = ("gone".into(), "here".into());
        refused.add(&gone, 1, 7);
        refused.add(&here, 1, 7);
        refused.add(&here, 1, 3);
        let is_member = |name: &str| name == "here";
        refused.sweep(is_member);
        assert!(refused.has(&gone, 1, 7), "what it sent may be under way still");
        refused.sweep_older(Duration::ZERO, is_member);
        assert!(!refused.has(&gone, 1, 7) && refused.has(&here, 1, 7));
        assert!(!refused.has(&here, 1, 8) && !refused.has(&here, 2, 7));
        refused.forget("here");
        assert!(refused.0.lock().is_empty());
    }

    /// A message that went to the slot's new owner while one before it was still to come back from
    /// the old one would be applied first.
    #[tokio::test]
    async fn what_is_under_way_elsewhere_comes_first() {
        let lane = Arc::new(Lane::default());
        let (old, new) = (To::Peer("old".into()), To::Peer("new".into()));
        let (one, two) = (lane.enter(9).unwrap(), lane.enter(9).unwrap());
        one.turn().await;
        assert!(one.follows(&old), "nothing is before it");
        one.sent(lane.attempt(), old.clone());
        two.turn().await;
        assert!(two.follows(&old) && !two.follows(&new) && !two.follows(&To::Here));
        let mut follow = pin!(two.follow(&new));
        assert!(poll!(&mut follow).is_pending());
        // Come back, it goes again, and what is behind it goes the same way.
        one.returned(lane.attempt());
        let mut turn = pin!(two.turn());
        assert!(poll!(&mut turn).is_pending() && poll!(&mut follow).is_pending());
        one.sent(lane.attempt(), new.clone());
        turn.await;
        follow.await;
        assert!(!two.follows(&old));
        drop(one);
        assert!(two.follows(&old), "nothing is before it any more");
    }
}
