//! When a slot may be tried again that could not be opened, or that another node took. Pure but for
//! its lock: the caller passes the time.

use crate::{backoff::step, limits, names::SlotId, random};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

#[derive(Default)]
pub struct Backoffs(Mutex<HashMap<SlotId, Backoff>>);

struct Backoff {
    /// Tries in a row that failed.
    failures: u32,
    /// Times that another node took it. An opening does not make up for them: two nodes that do
    /// not see each other both succeed, in turns.
    losses: u32,
    until: Instant,
}

impl Backoffs {
    /// The slot could not be opened, or ended by itself.
    pub fn failed(&self, slot: SlotId, now: Instant) {
        self.add(slot, now, |backoff| backoff.failures += 1);
    }

    /// Another node has it.
    pub fn lost(&self, slot: SlotId, now: Instant) {
        self.add(slot, now, |backoff| backoff.losses += 1);
    }

    fn add(&self, slot: SlotId, now: Instant, count: impl FnOnce(&mut Backoff)) {
        let mut backoffs = self.0.lock();
        let fresh = Backoff { failures: 0, losses: 0, until: now };
        let backoff = backoffs.entry(slot).or_insert(fresh);
        if now.saturating_duration_since(backoff.until) >= limits::CLAIM_DAMPING {
            (backoff.failures, backoff.losses) = (0, 0);
        }
        count(backoff);
        let doublings = (backoff.failures + backoff.losses).saturating_sub(1);
        let step = step(limits::MOVE_RETRY_MIN, limits::MOVE_RETRY_MAX, doublings);
        backoff.until = now + random::spread(step, 0.5..1.0);
    }

    /// The slot was opened: earlier failures no longer count.
    pub fn opened(&self, slot: SlotId) {
        self.reset_failures_if(|other, _| *other == slot);
    }

    /// The others, or the engine, are not what they were: what failed may work now.
    pub fn reset_failures(&self) {
        self.reset_failures_if(|_, _| true);
    }

    fn reset_failures_if(&self, which: impl Fn(&SlotId, &Backoff) -> bool) {
        self.0.lock().retain(|slot, backoff| {
            if which(slot, backoff) {
                backoff.failures = 0;
            }
            backoff.losses > 0 || backoff.failures > 0
        });
    }

    /// How long the slot must be left alone yet.
    pub fn wait(&self, slot: SlotId, now: Instant) -> Option<Duration> {
        let until = self.0.lock().get(&slot)?.until;
        until.checked_duration_since(now).filter(|wait| !wait.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: SlotId = 3;

    /// Steps that doubled for each failure twice, or were kept over a success, would leave a slot
    /// unserved for half a minute after a short trouble.
    #[test]
    fn each_failure_doubles_once_and_a_success_ends_it() {
        let (backoffs, mut now) = (Backoffs::default(), Instant::now());
        let mut most = limits::MOVE_RETRY_MIN;
        for _ in 0..5 {
            backoffs.failed(SLOT, now);
            let wait = backoffs.wait(SLOT, now).unwrap();
            assert!(wait >= most / 2 && wait <= most, "{wait:?}, {most:?}");
            assert_eq!(backoffs.wait(SLOT + 1, now), None);
            now += wait;
            assert_eq!(backoffs.wait(SLOT, now), None);
            most *= 2;
        }
        backoffs.opened(SLOT);
        backoffs.failed(SLOT, now);
        assert!(backoffs.wait(SLOT, now).unwrap() <= limits::MOVE_RETRY_MIN);
    }

    /// Two nodes that both succeed to claim a slot would claim it in turns, ever as fast.
    #[test]
    fn a_loss_is_not_forgotten_by_a_success() {
        let (backoffs, mut now) = (Backoffs::default(), Instant::now());
        for _ in 0..10 {
            backoffs.lost(SLOT, now);
            now += backoffs.wait(SLOT, now).unwrap();
            backoffs.opened(SLOT);
            backoffs.reset_failures();
        }
        backoffs.lost(SLOT, now);
        assert!(backoffs.wait(SLOT, now).unwrap() >= limits::MOVE_RETRY_MAX / 2);
        // It has been quiet for long.
        now += limits::MOVE_RETRY_MAX + limits::CLAIM_DAMPING;
        backoffs.lost(SLOT, now);
        assert!(backoffs.wait(SLOT, now).unwrap() <= limits::MOVE_RETRY_MIN);
    }
}
