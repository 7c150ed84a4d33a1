//! Whose turn it is: so many requests of a rule set at once, and so many a second.

use crate::{
    clock, limits,
    outcome::{Failure, Kind},
    policy::Limits,
};
use parking_lot::Mutex;
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep_until, timeout_at},
};

pub(crate) struct Turns {
    places: Semaphore,
    waiting: AtomicUsize,
    /// How far apart requests are in the long run.
    interval: Duration,
    /// When the last request would have come if all came evenly.
    last: Mutex<Option<Instant>>,
}

/// Of those who wait.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Turns {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            places: Semaphore::new(limits.at_once),
            waiting: AtomicUsize::new(0),
            interval: Duration::from_secs(1) / limits.per_second.max(1),
            last: Mutex::new(None),
        }
    }

    /// Waits for a turn, not past `end`. It lasts until what is returned is dropped.
    ///
    /// # Errors
    /// [`Kind::Busy`] if there is none in time, or too many wait.
    pub(crate) async fn take(&self, end: Instant) -> Result<SemaphorePermit<'_>, Failure> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= limits::WAITING_MAX {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(busy("too many requests wait for their turn", limits::TURN_WAIT_MAX));
        }
        let _waiting = Waiting(&self.waiting);
        let end = end.min(clock::now() + limits::TURN_WAIT_MAX);
        let place = timeout_at(end, self.places.acquire()).await;
        let Ok(Ok(place)) = place else {
            return Err(busy("too many requests are under way", limits::RETRY_MIN));
        };
        let at = self.reserve(end)?;
        sleep_until(at).await;
        Ok(place)
    }

    /// When the next request may begin: at once if those of the last second were few enough.
    fn reserve(&self, end: Instant) -> Result<Instant, Failure> {
        let now = clock::now();
        let mut last = self.last.lock();
        let even = last.map_or(now, |last| (last + self.interval).max(now));
        // A second's worth may come at once.
        let burst = Duration::from_secs(1).saturating_sub(self.interval);
        let at = even.checked_sub(burst).map_or(now, |at| at.max(now));
        if at > end {
            return Err(busy("too many requests in a short time", at - now));
        }
        *last = Some(even);
        Ok(at)
    }
}

fn busy(reason: &str, retry_after: Duration) -> Failure {
    Failure { retry_after: Some(retry_after), ..Failure::new(Kind::Busy, reason) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt, future::join_all};

    fn turns(at_once: usize, per_second: u32) -> Turns {
        Turns::new(Limits { at_once, per_second, ..Limits::default() })
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_a_second_and_a_seconds_worth_at_once() {
        let turns = turns(1_000, 10);
        let begun = clock::now();
        let end = begun + Duration::from_secs(60);
        let times = join_all((0..30).map(|_| async {
            drop(turns.take(end).await.expect("a turn"));
            (clock::now() - begun).as_millis()
        }));
        let times = times.await;
        assert_eq!(times[..10], [0; 10]);
        assert!((1_999..=2_010).contains(&times[29]), "{times:?}");
        // After a quiet time, no more than a second's worth.
        tokio::time::sleep(Duration::from_secs(100)).await;
        let at_once = (0..30)
            .filter_map(|_| turns.take(clock::now() + Duration::from_secs(9)).now_or_never());
        assert_eq!(at_once.filter(Result::is_ok).count(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_at_once_and_who_waits_too_long_is_told_to_come_back() {
        let turns = turns(2, 1_000);
        let end = clock::now() + Duration::from_secs(60);
        let one = turns.take(end).await.expect("a turn");
        let _other = turns.take(end).await.expect("a turn");
        let begun = clock::now();
        let failure = turns.take(end).await.expect_err("no turn");
        assert_eq!((failure.kind, failure.may_retry), (Kind::Busy, true));
        assert!(clock::now() - begun < limits::TURN_WAIT_MAX + Duration::from_secs(1));
        drop(one);
        assert!(turns.take(end).now_or_never().is_some_and(|turn| turn.is_ok()));
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_are_bounded_and_who_gives_up_waits_no_more() {
        let turns = turns(1, 1_000);
        let end = clock::now() + Duration::from_secs(60);
        let held = turns.take(end).await.expect("a turn");
        let mut waiting: Vec<_> =
            (0..limits::WAITING_MAX).map(|_| Box::pin(turns.take(end))).collect();
        assert!(waiting.iter_mut().all(|wait| wait.now_or_never().is_none()));
        let failure = turns.take(end).now_or_never().expect("at once").expect_err("no turn");
        assert_eq!(failure.kind, Kind::Busy);
        drop(waiting);
        drop(held);
        assert!(turns.take(end).now_or_never().is_some_and(|turn| turn.is_ok()));
    }
}
