//! Limits log lines that guests, clients, peers or a broken disk can cause endlessly.
//!
//! Of similar lines (the same statement, about the same thing), the first few are logged, and one
//! line at the end of each [`limits::REPEATS_INTERVAL`] gives the number of the others. So a client
//! whose every call fails costs a few lines per second, however fast it is.

use crate::limits;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    fmt::Display,
    hash::Hash,
    sync::LazyLock,
    time::{Duration, Instant},
};

/// A number of lines per interval.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    pub lines: u32,
    pub interval: Duration,
}

const RATE: Rate = Rate { lines: limits::REPEATS_LOGGED_MAX, interval: limits::REPEATS_INTERVAL };

/// The lines of one kind in the current interval.
#[derive(Clone, Debug)]
pub struct Window {
    began: Instant,
    lines: u32,
    suppressed: u64,
}

impl Window {
    pub fn new(now: Instant) -> Self {
        Self { began: now, lines: 0, suppressed: 0 }
    }

    fn is_over(&self, rate: Rate, now: Instant) -> bool {
        now.saturating_duration_since(self.began) >= rate.interval
    }

    /// How many lines of a finished interval were suppressed; starts a new one.
    pub fn turn(&mut self, rate: Rate, now: Instant) -> u64 {
        match self.is_over(rate, now) {
            true => std::mem::replace(self, Self::new(now)).suppressed,
            false => 0,
        }
    }

    /// Whether one more line should be logged.
    pub fn admit(&mut self, rate: Rate) -> bool {
        let admitted = self.lines < rate.lines;
        match admitted {
            true => self.lines += 1,
            false => self.suppressed += 1,
        }
        admitted
    }
}

/// Rate-limits something per key, for a bounded number of keys.
pub struct Limiter<K> {
    rate: Rate,
    keys_max: usize,
    windows: HashMap<K, Window>,
}

impl<K: Hash + Eq> Limiter<K> {
    pub fn new(every: Duration, keys_max: usize) -> Self {
        let rate = Rate { lines: 1, interval: every };
        Self { rate, keys_max, windows: HashMap::new() }
    }

    /// `None`: not now. Otherwise how often it was asked for the key since it was last admitted.
    pub fn admit(&mut self, key: K, now: Instant) -> Option<u64> {
        let rate = self.rate;
        if self.windows.len() >= self.keys_max && !self.windows.contains_key(&key) {
            self.windows.retain(|_, window| !window.is_over(rate, now));
            if self.windows.len() >= self.keys_max {
                return None;
            }
        }
        let window = self.windows.entry(key).or_insert_with(|| Window::new(now));
        let suppressed = window.turn(rate, now);
        window.admit(rate).then_some(suppressed)
    }

    #[cfg(any(test, feature = "testing"))]
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.windows.keys()
    }
}

#[derive(Default)]
struct Repeats(HashMap<(&'static str, String), Window>);

static REPEATS: LazyLock<Mutex<Repeats>> = LazyLock::new(Mutex::default);

/// What was suppressed.
type Suppressed = Vec<(&'static str, String, u64)>;

impl Repeats {
    fn admit(&mut self, what: &'static str, about: String, now: Instant) -> (bool, Suppressed) {
        let mut key = (what, about);
        if !self.0.contains_key(&key) && self.0.len() >= limits::REPEATS_KEPT_MAX {
            // Too many kinds at once to distinguish.
            key.1 = "others".to_owned();
        }
        let window = self.0.entry(key.clone()).or_insert_with(|| Window::new(now));
        let before = window.turn(RATE, now);
        let before = if before > 0 { vec![(key.0, key.1, before)] } else { Vec::new() };
        (window.admit(RATE), before)
    }

    /// Forgets keys that were not used recently.
    fn sweep(&mut self, now: Instant) -> Suppressed {
        let mut suppressed = Vec::new();
        self.0.retain(|(what, about), window| {
            let over = window.is_over(RATE, now);
            if over && window.suppressed > 0 {
                suppressed.push((*what, about.clone(), window.suppressed));
            }
            !over
        });
        suppressed
    }
}

/// Whether a line with `what` about something should be logged now. If not, counts it.
pub fn admit(what: &'static str, about: impl Display) -> bool {
    let (admitted, before) = REPEATS.lock().admit(what, about.to_string(), crate::clock::now());
    report(before);
    admitted
}

/// Logs how many lines were suppressed in finished intervals. Called periodically.
pub fn sweep() {
    let suppressed = REPEATS.lock().sweep(crate::clock::now());
    report(suppressed);
}

fn report(suppressed: Suppressed) {
    for (what, about, lines) in suppressed {
        tracing::warn!(about, "{lines} similar lines suppressed: {what}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One client with failing calls filled 50 GB of log a day.
    #[test]
    fn what_repeats_is_counted_and_said_once_an_interval() {
        let mut repeats = Repeats::default();
        let start = Instant::now();
        let mut logged = 0;
        for number in 0..100_000 {
            let now = start + RATE.interval.mul_f64(f64::from(number) / 100_000.0);
            let (admitted, before) = repeats.admit("a call failed", "counter".into(), now);
            logged += u32::from(admitted);
            assert!(before.is_empty());
        }
        assert_eq!(logged, RATE.lines);
        assert!(repeats.admit("a call failed", "chat".into(), start).0, "another thing");
        let over = start + RATE.interval;
        let (admitted, before) =
            repeats.clone_for_test().admit("a call failed", "counter".into(), over);
        assert!(admitted, "it is said again that it goes on");
        assert_eq!(before, [("a call failed", "counter".to_owned(), 100_000 - u64::from(logged))]);
        assert_eq!(repeats.sweep(over).len(), 1);
        assert!(repeats.0.is_empty() && repeats.sweep(over).is_empty());
    }

    /// Names that a client makes up would otherwise fill the memory, and the log as before.
    #[test]
    fn names_that_are_made_up_are_one_in_the_end() {
        let mut repeats = Repeats::default();
        let now = Instant::now();
        let lines = (0..10_000).filter(|n| repeats.admit("x", n.to_string(), now).0).count();
        assert!(repeats.0.len() <= limits::REPEATS_KEPT_MAX + 1);
        assert!(lines <= limits::REPEATS_KEPT_MAX + RATE.lines as usize, "{lines}");
    }

    /// This alone limits log lines about unauthenticated peers, and answers to them.
    #[test]
    fn a_limiter_bounds_each_key_and_all_keys() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut limiter = Limiter::new(Duration::from_millis(100), 3);
        let admitted = [0, 50, 99, 100].map(|ms| limiter.admit(1, at(ms)));
        assert_eq!(admitted, [Some(0), None, None, Some(2)]);
        let admitted = [2, 3, 4].map(|key| limiter.admit(key, at(110)));
        assert_eq!(admitted, [Some(0), Some(0), None]);
        assert_eq!(limiter.admit(4, at(210)), Some(0));
        assert!((0..100).filter(|key| limiter.admit(*key, at(211)).is_some()).count() <= 3);
    }

    impl Repeats {
        fn clone_for_test(&self) -> Self {
            Self(self.0.clone())
        }
    }
}
