//! Detects pauses of this process. After a pause, every node that did not answer in the meantime
//! looks dead, and everything that it waited for looks late, so the process must not act on its
//! view at once.

use crate::limits;
use parking_lot::Mutex;
use std::time::{Duration, Instant};

pub struct Trust(Mutex<State>);

struct State {
    /// When the coordinator last had its turn.
    last: Instant,
    distrust_until: Option<Instant>,
}

/// A longer gap is not jitter: the process was paused.
const SUSPECT: Duration = limits::RECONCILE_INTERVAL.saturating_add(limits::PAUSE_SUSPECT);

impl Trust {
    pub fn new(now: Instant) -> Self {
        Self(Mutex::new(State { last: now, distrust_until: None }))
    }

    /// The coordinator has its turn. Gives how long there was none, if that is too long.
    pub fn turn(&self, now: Instant) -> Option<Duration> {
        let mut state = self.0.lock();
        let since = now.saturating_duration_since(std::mem::replace(&mut state.last, now));
        if since <= SUSPECT {
            return None;
        }
        state.distrust_until = Some(now + limits::PAUSE_DISTRUST);
        Some(since)
    }

    /// Whether what is believed may be acted on. Also right for those who wake up from a pause
    /// before the coordinator does.
    pub fn is_good(&self, now: Instant) -> bool {
        let state = self.0.lock();
        now.saturating_duration_since(state.last) <= SUSPECT
            && state.distrust_until.is_none_or(|until| until <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without it a process that was stopped would take slots from nodes that are well.
    #[test]
    fn a_pause_is_seen_by_whoever_wakes_first() {
        let start = Instant::now();
        let trust = Trust::new(start);
        let mut now = start;
        for _ in 0..8 {
            now += limits::RECONCILE_INTERVAL;
            assert_eq!(trust.turn(now), None);
            assert!(trust.is_good(now));
        }
        now += SUSPECT + Duration::from_millis(1);
        assert!(!trust.is_good(now), "before the coordinator's turn");
        assert!(trust.turn(now).is_some());
        for _ in 0..100 {
            if now >= start + Duration::from_secs(60) {
                break;
            }
            assert_eq!(trust.is_good(now), trust.0.lock().distrust_until.unwrap() <= now);
            now += limits::RECONCILE_INTERVAL;
            assert_eq!(trust.turn(now), None);
        }
        assert!(trust.is_good(now));
    }
}
