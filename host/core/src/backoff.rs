//! How long to wait before the next try. [`Backoff`] is pure: its caller sleeps, and says what time has
//! passed. [`Retry`] does both.

use crate::random;
use std::{ops::Range, time::Duration};

/// Waits that double from one try to the next.
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    step: Duration,
    share: Option<Range<f64>>,
}

impl Backoff {
    pub const fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, step: min, share: None }
    }

    /// Each wait is such a share of its step, at random.
    pub fn spread(self, share: Range<f64>) -> Self {
        Self { share: Some(share), ..self }
    }

    /// The wait before the next try; the one after it is longer.
    #[allow(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> Duration {
        let step = self.step;
        self.step = (step * 2).min(self.max);
        match &self.share {
            Some(share) => random::spread(step, share.clone()),
            None => step,
        }
    }

    /// As [`Backoff::next`]; `None` when, with it, more than `total` would have `passed`.
    pub fn next_within(&mut self, total: Duration, passed: Duration) -> Option<Duration> {
        (passed + self.step <= total).then(|| self.next())
    }

    /// It worked, or there is reason to hope again: the next wait is the shortest.
    pub fn reset(&mut self) {
        self.step = self.min;
    }
}

/// The step after so many doublings.
pub fn step(min: Duration, max: Duration, doublings: u32) -> Duration {
    min.saturating_mul(2_u32.saturating_pow(doublings)).min(max)
}

/// Tries with back-off for a time.
pub struct Retry {
    backoff: Backoff,
    total: Duration,
    started: tokio::time::Instant,
}

impl Retry {
    pub fn new(backoff: Backoff, total: Duration) -> Self {
        Self { backoff, total, started: crate::clock::timer_now() }
    }

    /// Waits; `false` when there is no time left for another try.
    pub async fn again(&mut self) -> bool {
        match self.backoff.next_within(self.total, self.started.elapsed()) {
            Some(wait) => tokio::time::sleep(wait).await,
            None => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A wait that grew without end, or not at all, would leave what came back alone for long, or
    /// ask what is down all the time.
    #[test]
    fn waits_double_up_to_the_longest_and_start_anew() {
        let mut backoff = Backoff::new(2 * MS, 9 * MS);
        assert_eq!([(); 5].map(|()| backoff.next()), [2, 4, 8, 9, 9].map(|ms| ms * MS));
        backoff.reset();
        assert_eq!(backoff.next_within(10 * MS, 8 * MS), Some(2 * MS));
        assert_eq!(backoff.next_within(10 * MS, 8 * MS), None);
        assert_eq!(backoff.next_within(10 * MS, 6 * MS), Some(4 * MS));
        let mut spread = Backoff::new(8 * MS, 8 * MS).spread(0.5..1.0);
        assert!((0..100).map(|_| spread.next()).all(|wait| wait >= 4 * MS && wait <= 8 * MS));
        assert_eq!(
            [0, 1, 2, 3, 99].map(|n| step(2 * MS, 9 * MS, n)),
            [2, 4, 8, 9, 9].map(|ms| ms * MS)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn tries_end_with_their_time() {
        let mut retry = Retry::new(Backoff::new(10 * MS, 20 * MS), 60 * MS);
        let mut tries = 0;
        while retry.again().await {
            tries += 1;
        }
        assert_eq!(tries, 3);
    }
}
