//! Whose turn it is: so many attempts at once at one target, and so many a second; and so many of all, with so much
//! memory.
//!
//! Who asks for attempts keeps one [`Turns`] for all of them, and has a [`Turn`] for each. A target that is slow fills its own
//! places: others' attempts do not wait for it. The wait is no part of the attempt's own time.

use crate::{
    clock, limits,
    outcome::{Failure, Kind},
};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until, timeout_at},
};

/// How fast one target may be asked on behalf of one scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Attempts at once.
    pub at_once: usize,
    /// Attempts a second. So many may also come at once after a quiet time.
    pub per_second: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self { at_once: limits::AT_ONCE, per_second: limits::PER_SECOND }
    }
}

/// The turns of all attempts. Clones are the same ones.
#[derive(Clone)]
pub struct Turns(Arc<Shared>);

struct Shared {
    pace: Pace,
    all: Arc<Semaphore>,
    /// How many wait, for whatever.
    waiting: AtomicUsize,
    /// Of what has come of answers.
    bytes: AtomicUsize,
    lines: Mutex<Lines>,
}

/// A line for each target that somebody is at, or was at within the last second.
struct Lines {
    of: HashMap<(String, String), Arc<Line>>,
    /// With so many, those that nobody needs go.
    sweep_at: usize,
}

struct Line {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    /// When the last attempt would have come if all came evenly.
    last: Mutex<Option<Instant>>,
}

/// A turn: it lasts until it is dropped, with the memory that was charged.
pub struct Turn {
    shared: Arc<Shared>,
    _line: Arc<Line>,
    _place: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
    bytes: AtomicUsize,
}

/// Of those who wait.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize, max: usize) -> Option<Self> {
        let waiting = Self(count);
        (count.fetch_add(1, Ordering::Relaxed) < max).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.shared.bytes.fetch_sub(*self.bytes.get_mut(), Ordering::Relaxed);
    }
}

impl Turn {
    /// Charges memory until the turn ends. `false`: there is none.
    pub(crate) fn charge(&self, bytes: usize) -> bool {
        let before = self.shared.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > limits::BYTES_MAX {
            self.shared.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        true
    }
}

impl Turns {
    /// With this pace for each scope and target.
    pub fn new(pace: Pace) -> Self {
        let at_once = pace.at_once.clamp(1, limits::AT_ONCE_MAX);
        let per_second = pace.per_second.clamp(1, limits::PER_SECOND_MAX);
        Self(Arc::new(Shared {
            pace: Pace { at_once, per_second },
            all: Arc::new(Semaphore::new(limits::ALL_AT_ONCE_MAX)),
            waiting: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            lines: Mutex::new(Lines { of: HashMap::new(), sweep_at: limits::LINES_MIN }),
        }))
    }

    /// How many attempts have their turn, and how many wait for one.
    #[cfg(test)]
    fn counts(&self) -> (usize, usize) {
        let under_way = limits::ALL_AT_ONCE_MAX.saturating_sub(self.0.all.available_permits());
        (under_way, self.0.waiting.load(Ordering::Relaxed))
    }

    /// Waits for a turn at a target on behalf of a scope, not past `end`.
    ///
    /// # Errors
    /// [`Kind::Busy`] if there is none in time, or too many wait.
    pub async fn take(&self, scope: &str, target: &str, end: Instant) -> Result<Turn, Failure> {
        let shared = &self.0;
        let line = shared.line(scope, target);
        let (place, all) = shared.wait(&line, target, end).await?;
        let shared = Arc::clone(shared);
        Ok(Turn { shared, _line: line, _place: place, _all: all, bytes: AtomicUsize::new(0) })
    }
}

impl fmt::Debug for Turns {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Turns").field("pace", &self.0.pace).finish_non_exhaustive()
    }
}

impl Shared {
    async fn wait(
        &self,
        line: &Line,
        target: &str,
        end: Instant,
    ) -> Result<(OwnedSemaphorePermit, OwnedSemaphorePermit), Failure> {
        let waiting = Waiting::begin(&line.waiting, limits::WAITING_MAX)
            .zip(Waiting::begin(&self.waiting, limits::ALL_WAITING_MAX));
        let Some(_waiting) = waiting else {
            let reason = format!("too many requests to {target} wait for their turn");
            return Err(busy(reason, limits::BUSY_WAIT));
        };
        let Ok(Ok(place)) = timeout_at(end, Arc::clone(&line.places).acquire_owned()).await else {
            let reason = format!("too many requests to {target} were under way");
            return Err(busy(reason, limits::RETRY_MIN));
        };
        let at = line.reserve(self.pace.per_second, target, end)?;
        sleep_until(at).await;
        let Ok(Ok(all)) = timeout_at(end, Arc::clone(&self.all).acquire_owned()).await else {
            return Err(busy("too many requests of the node were under way", limits::RETRY_MIN));
        };
        Ok((place, all))
    }

    fn line(&self, scope: &str, target: &str) -> Arc<Line> {
        let mut lines = self.lines.lock();
        let key = (scope.to_owned(), target.to_owned());
        if let Some(line) = lines.of.get(&key) {
            return Arc::clone(line);
        }
        if lines.of.len() >= lines.sweep_at {
            let now = clock::now();
            lines.of.retain(|_, line| !line.is_idle(now));
            lines.sweep_at = (2 * lines.of.len()).max(limits::LINES_MIN);
        }
        let line = Arc::new(Line {
            places: Arc::new(Semaphore::new(self.pace.at_once)),
            waiting: AtomicUsize::new(0),
            last: Mutex::new(None),
        });
        lines.of.insert(key, Arc::clone(&line));
        line
    }
}

impl Line {
    /// Nobody has it or waits, and a new one would let through no more. Called under the lock that hands it out.
    fn is_idle(self: &Arc<Self>, now: Instant) -> bool {
        Arc::strong_count(self) == 1
            && self.last.lock().is_none_or(|last| last + Duration::from_secs(1) <= now)
    }

    /// When the next attempt may begin: at once if those of the last second were few enough.
    fn reserve(&self, per_second: u32, target: &str, end: Instant) -> Result<Instant, Failure> {
        let interval = Duration::from_secs(1) / per_second;
        let now = clock::now();
        let mut last = self.last.lock();
        let even = last.map_or(now, |last| (last + interval).max(now));
        // A second's worth may come at once.
        let burst = Duration::from_secs(1).saturating_sub(interval);
        let at = even.checked_sub(burst).map_or(now, |at| at.max(now));
        if at > end {
            return Err(busy(format!("too many requests to {target} in a short time"), at - now));
        }
        *last = Some(even);
        Ok(at)
    }
}

fn busy(reason: impl Into<String>, retry_after: Duration) -> Failure {
    Failure { retry_after: Some(retry_after), ..Failure::new(Kind::Busy, reason) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt, future::join_all};

    fn turns(at_once: usize, per_second: u32) -> Turns {
        Turns::new(Pace { at_once, per_second })
    }

    fn in_a_minute() -> Instant {
        clock::now() + Duration::from_secs(60)
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_a_second_and_a_seconds_worth_at_once() {
        let turns = turns(1_000, 10);
        let begun = clock::now();
        let times = join_all((0..30).map(|_| async {
            drop(turns.take("a", "b", in_a_minute()).await.expect("a turn"));
            (clock::now() - begun).as_millis()
        }));
        let times = times.await;
        assert_eq!(times[..10], [0; 10]);
        assert!((1_999..=2_010).contains(&times[29]), "{times:?}");
        // After a quiet time, no more than a second's worth.
        tokio::time::sleep(Duration::from_secs(100)).await;
        let at_once = (0..30).filter_map(|_| turns.take("a", "b", in_a_minute()).now_or_never());
        assert_eq!(at_once.filter(Result::is_ok).count(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_target_holds_up_its_own_attempts_only_and_not_past_their_end() {
        let turns = turns(2, 1_000);
        let one = turns.take("a", "slow", in_a_minute()).await.expect("a turn");
        let _other = turns.take("a", "slow", in_a_minute()).await.expect("a turn");
        for (scope, target) in [("a", "fast"), ("b", "slow")] {
            let turn = turns.take(scope, target, in_a_minute()).now_or_never();
            assert!(turn.is_some_and(|turn| turn.is_ok()), "{scope} {target}");
        }
        let begun = clock::now();
        let end = begun + Duration::from_secs(7);
        let failure = turns.take("a", "slow", end).await.err().expect("no turn");
        assert_eq!((failure.kind, failure.may_retry), (Kind::Busy, true));
        assert!(clock::now() - begun < Duration::from_secs(8));
        assert_eq!(turns.counts(), (2, 0));
        drop(one);
        let turn = turns.take("a", "slow", in_a_minute()).now_or_never();
        assert!(turn.is_some_and(|turn| turn.is_ok()));
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_are_bounded_and_who_gives_up_waits_no_more() {
        let turns = turns(1, 1_000);
        let end = in_a_minute();
        let held = turns.take("a", "b", end).await.expect("a turn");
        let mut waiting: Vec<_> =
            (0..limits::WAITING_MAX).map(|_| Box::pin(turns.take("a", "b", end))).collect();
        assert!(waiting.iter_mut().all(|wait| wait.now_or_never().is_none()));
        let failure = turns.take("a", "b", end).now_or_never().expect("at once").err();
        assert_eq!(failure.expect("no turn").kind, Kind::Busy);
        drop(waiting);
        drop(held);
        let turn = turns.take("a", "b", end).now_or_never();
        assert!(turn.is_some_and(|turn| turn.is_ok()));
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_charged_until_the_turn_ends() {
        let turns = turns(2, 1_000);
        let one = turns.take("a", "b", in_a_minute()).await.expect("a turn");
        let other = turns.take("a", "b", in_a_minute()).await.expect("a turn");
        assert!(one.charge(limits::BYTES_MAX - 1));
        assert!(!other.charge(2) && other.charge(1) && !one.charge(1));
        drop(one);
        assert!(other.charge(limits::BYTES_MAX - 1) && !other.charge(1));
    }

    /// A handler that asks another host each time would fill the node's memory with lines.
    #[tokio::test(start_paused = true)]
    async fn lines_that_nobody_needs_go_and_the_pace_stays() {
        let turns = turns(1, 1);
        let kept = turns.take("a", "kept", in_a_minute()).await.expect("a turn");
        for target in 0..10 * limits::LINES_MIN {
            drop(turns.take("a", &target.to_string(), in_a_minute()).await.expect("a turn"));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!(turns.0.lines.lock().of.len() <= limits::LINES_MIN + 1);
        assert!(turns.take("a", "kept", clock::now()).await.is_err());
        drop(kept);
    }
}
