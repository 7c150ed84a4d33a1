//! Which sessions are run.

use crate::{
    error::{Code, Error},
    limits,
    names::{ServiceName, SessionId, SlotId},
};
use serde::{Deserialize, Serialize};
use std::{cmp::Ordering, collections::BinaryHeap, time::Duration};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What an audit is to run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditSpec {
    /// `None`: all of the service, or a sample.
    pub session: Option<SessionId>,
    /// Of one session: the messages that are compared. Those before are run all the same.
    #[serde(default)]
    pub from: Option<u64>,
    #[serde(default)]
    pub to: Option<u64>,
    /// So many sessions.
    #[serde(default)]
    pub sample: Option<u64>,
    /// What a sample follows from.
    #[serde(default)]
    pub seed: u64,
    /// Of each node; `None`: [`limits::AUDIT_THREADS_DEFAULT`].
    #[serde(default)]
    pub threads: Option<usize>,
    /// `None`: [`limits::AUDIT_TIME_DEFAULT`].
    #[serde(default)]
    pub time_ms: Option<u64>,
}

impl AuditSpec {
    /// # Errors
    /// `request-invalid`: what it asks for can't be done.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |why: String| Err(Error::new(Code::RequestInvalid, why));
        if self.session.is_none() && (self.from.is_some() || self.to.is_some()) {
            return wrong("a range of messages is of one session".into());
        }
        if self.session.is_some() && self.sample.is_some() {
            return wrong("a sample is of all sessions of a service".into());
        }
        if self.from.zip(self.to).is_some_and(|(from, to)| from > to) {
            return wrong("the range of messages is empty".into());
        }
        if self.sample.is_some_and(|sample| !(1..=limits::AUDIT_SAMPLE_MAX).contains(&sample)) {
            return wrong(format!("a sample has 1 to {} sessions", limits::AUDIT_SAMPLE_MAX));
        }
        let threads = 1..=limits::REPLAY_THREADS_MAX;
        if self.threads.is_some_and(|given| !threads.contains(&given)) {
            return wrong(format!("an audit has 1 to {} threads", limits::REPLAY_THREADS_MAX));
        }
        let time = self.time();
        if time.is_zero() || time > limits::AUDIT_TIME_MAX {
            return wrong(format!("an audit runs for up to {:?}", limits::AUDIT_TIME_MAX));
        }
        Ok(())
    }

    pub fn threads(&self) -> usize {
        self.threads.unwrap_or(limits::AUDIT_THREADS_DEFAULT).clamp(1, limits::REPLAY_THREADS_MAX)
    }

    pub fn time(&self) -> Duration {
        self.time_ms.map_or(limits::AUDIT_TIME_DEFAULT, Duration::from_millis)
    }

    /// Whether a message is compared.
    pub fn covers(&self, seq: u64) -> bool {
        self.from.is_none_or(|from| seq >= from) && self.to.is_none_or(|to| seq <= to)
    }
}

/// A node's share of a sample: in proportion to its sessions, rounded up, so that those who are asked for all of them
/// together give as many as are wanted, or a few more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    pub wanted: u64,
    /// Of all nodes.
    pub of: u64,
}

impl Share {
    pub fn of_own(self, own: u64) -> u64 {
        let of = u128::from(self.of.max(own).max(1));
        let share = (u128::from(self.wanted) * u128::from(own)).div_ceil(of);
        u64::try_from(share).unwrap_or(u64::MAX).min(own).min(limits::AUDIT_SAMPLE_MAX)
    }
}

/// Where a session is in the order that a seed gives all of them.
fn rank(seed: u64, service: &ServiceName, session: &SessionId) -> u64 {
    let name = [service.as_str(), session.as_str()].join("\0");
    xxh3_64_with_seed(name.as_bytes(), seed)
}

/// The sessions that come first in the order of a seed, of those that it is given: the same ones in whatever order
/// they come.
pub struct Sample {
    seed: u64,
    size: usize,
    /// The last one on top.
    chosen: BinaryHeap<Ranked>,
    /// Sessions that it was given.
    pub seen: u64,
}

#[derive(Debug, PartialEq, Eq)]
struct Ranked {
    rank: u64,
    slot: SlotId,
    session: SessionId,
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |it: &Self| (it.rank, it.slot);
        key(self).cmp(&key(other)).then_with(|| self.session.as_str().cmp(other.session.as_str()))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Sample {
    /// Of `size` sessions at most.
    pub fn new(seed: u64, size: u64) -> Self {
        let size = size.min(limits::AUDIT_SAMPLE_MAX) as usize;
        Self { seed, size, chosen: BinaryHeap::new(), seen: 0 }
    }

    pub fn add(&mut self, service: &ServiceName, slot: SlotId, session: SessionId) {
        self.seen += 1;
        let rank = rank(self.seed, service, &session);
        let one = Ranked { rank, slot, session };
        if self.chosen.len() < self.size {
            self.chosen.push(one);
        } else if self.chosen.peek().is_some_and(|last| one < *last) {
            self.chosen.pop();
            self.chosen.push(one);
        }
    }

    /// The first `size` of them, by slot.
    pub fn finish(self, size: u64) -> Vec<(SlotId, Vec<SessionId>)> {
        let mut chosen = self.chosen.into_sorted_vec();
        chosen.truncate(usize::try_from(size).unwrap_or(usize::MAX));
        chosen.sort_by(|a, b| (a.slot, a.session.as_str()).cmp(&(b.slot, b.session.as_str())));
        let mut slots: Vec<(SlotId, Vec<SessionId>)> = Vec::new();
        for Ranked { slot, session, .. } in chosen {
            match slots.last_mut() {
                Some((last, sessions)) if *last == slot => sessions.push(session),
                _ => slots.push((slot, vec![session])),
            }
        }
        slots
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions(count: u64) -> Vec<(SlotId, SessionId)> {
        let id = |n| SessionId::parse(&format!("session-{n}")).unwrap();
        (0..count).map(|n| ((n % 7) as SlotId, id(n))).collect()
    }

    fn sample(seed: u64, size: u64, of: Vec<(SlotId, SessionId)>) -> Vec<(SlotId, Vec<SessionId>)> {
        let service = ServiceName::parse("s").unwrap();
        let mut sample = Sample::new(seed, size);
        for (slot, session) in of {
            sample.add(&service, slot, session);
        }
        sample.finish(size)
    }

    /// A report names its seed: who runs it again is to see the same sessions, though the store may give them in
    /// another order, and there may be more by then.
    #[test]
    fn a_seed_gives_the_same_sample_again() {
        let all = sessions(500);
        let mut turned = all.clone();
        turned.reverse();
        let chosen = sample(7, 20, all.clone());
        assert_eq!(chosen, sample(7, 20, turned));
        assert_ne!(chosen, sample(8, 20, all.clone()));
        let count =
            |of: &[(SlotId, Vec<SessionId>)]| of.iter().map(|(_, s)| s.len()).sum::<usize>();
        assert_eq!(count(&chosen), 20);
        assert_eq!(count(&sample(7, 1_000, all)), 500);
    }

    /// Nodes that round down would leave a small sample empty.
    #[test]
    fn shares_of_a_sample_add_up() {
        for (wanted, own) in [(1, [3, 5, 0]), (10, [100, 1, 1]), (1_000, [10, 20, 30])] {
            let of = own.iter().sum();
            let shares = own.map(|own| Share { wanted, of }.of_own(own));
            let total: u64 = shares.iter().sum();
            assert!((wanted.min(of)..=wanted + 2).contains(&total), "{shares:?}");
            assert!(shares.iter().zip(own).all(|(share, own)| *share <= own));
        }
    }

    #[test]
    fn what_can_not_be_done_is_refused() {
        let session = SessionId::parse("x").ok();
        let good = AuditSpec::default();
        assert!(good.check().is_ok());
        let bad = [
            AuditSpec { from: Some(1), ..good.clone() },
            AuditSpec { session: session.clone(), sample: Some(1), ..good.clone() },
            AuditSpec { session: session.clone(), from: Some(3), to: Some(2), ..good.clone() },
            AuditSpec { sample: Some(0), ..good.clone() },
            AuditSpec { threads: Some(0), ..good.clone() },
            AuditSpec { time_ms: Some(0), ..good.clone() },
        ];
        for spec in bad {
            assert!(spec.check().is_err(), "{spec:?}");
        }
        let range = AuditSpec { session, from: Some(3), to: Some(4), ..good };
        assert!(range.check().is_ok());
        let covered: Vec<_> = (1..=6).filter(|seq| range.covers(*seq)).collect();
        assert_eq!(covered, [3, 4]);
    }
}
