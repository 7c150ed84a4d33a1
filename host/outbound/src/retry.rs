//! Whether a request is tried again, and when: pure functions. Who keeps the request counts its attempts and looks at
//! the clock.

use crate::{limits, outcome::Outcome};
use std::time::{Duration, SystemTime};

/// How often, and how long after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// Attempts, the first included.
    pub attempts: u32,
    /// After the first failure; doubled with each.
    pub min: Duration,
    pub max: Duration,
}

/// What comes after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The outcome is the one: an answer, or a failure that no attempt mends.
    Done,
    /// Another attempt, after this.
    Again(Duration),
    /// Another attempt might help, but there is none: the outcome stands.
    GiveUp(Why),
}

/// Why there is no further attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Attempts,
    /// The next one would begin after the request's deadline.
    Deadline,
}

/// Whether a status may be another one the next time.
pub const fn is_retriable(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502..=504)
}

impl Retries {
    pub const fn new(attempts: u32) -> Self {
        Self { attempts, min: limits::RETRY_MIN, max: limits::RETRY_MAX }
    }

    /// What comes after `made` attempts of which the last had this outcome, with `left` until the deadline.
    ///
    /// `spread`, from 0 to 1, is random: without it, all requests that failed together would come back together.
    pub fn next(&self, outcome: &Outcome, made: u32, left: Duration, spread: f64) -> Next {
        let (may_retry, asked) = match outcome {
            Ok(answer) => (is_retriable(answer.status), answer.retry_after),
            Err(failure) => (failure.may_retry, failure.retry_after),
        };
        if !may_retry {
            return Next::Done;
        }
        if made >= self.attempts {
            return Next::GiveUp(Why::Attempts);
        }
        let spread = if spread.is_finite() { spread.clamp(0.0, 1.0) } else { 0.0 };
        let full = self.min.saturating_mul(1 << made.saturating_sub(1).min(30)).min(self.max);
        let wait = match asked {
            // The server knows better when it has room. It has told others the same.
            Some(asked) => {
                let asked = asked.min(limits::RETRY_AFTER_MAX).max(self.min / 2);
                asked + asked.min(full).mul_f64(spread / 2.0)
            }
            // Half of it is sure.
            None => full / 2 + (full / 2).mul_f64(spread),
        };
        if wait >= left { Next::GiveUp(Why::Deadline) } else { Next::Again(wait) }
    }
}

/// What `Retry-After` says: seconds, or a date.
pub(crate) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let asked = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
            Duration::MAX
        }
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(asked.min(limits::RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Answer, Failure, Kind};
    use bytes::Bytes;
    use proptest::prelude::*;
    use std::time::UNIX_EPOCH;

    const RETRIES: Retries = Retries::new(20);
    const LONG: Duration = Duration::from_secs(1_000_000);

    fn answer(status: u16, retry_after: Option<Duration>) -> Outcome {
        Ok(Answer { status, headers: Vec::new(), body: Bytes::new(), retry_after })
    }

    #[test]
    fn only_what_may_be_otherwise_the_next_time_is_tried_again() {
        let retried: Vec<u16> = (100..600)
            .filter(|status| {
                matches!(RETRIES.next(&answer(*status, None), 1, LONG, 0.5), Next::Again(_))
            })
            .collect();
        assert_eq!(retried, [408, 425, 429, 500, 502, 503, 504]);
        let retried: Vec<Kind> = Kind::ALL
            .into_iter()
            .filter(|kind| {
                let outcome = Err(Failure::new(*kind, ""));
                matches!(RETRIES.next(&outcome, 1, LONG, 0.5), Next::Again(_))
            })
            .collect();
        let expected =
            [Kind::Busy, Kind::Dns, Kind::Connect, Kind::Tls, Kind::Timeout, Kind::Protocol];
        assert_eq!(retried, expected);
    }

    #[test]
    fn waits_double_up_to_the_longest_and_attempts_end() {
        let retries = Retries::new(6);
        let waits: Vec<_> =
            (1..=6).map(|made| retries.next(&answer(503, None), made, LONG, 1.0)).collect();
        let again = |seconds| Next::Again(Duration::from_secs(seconds));
        assert_eq!(
            waits,
            [again(1), again(2), again(4), again(8), again(16), Next::GiveUp(Why::Attempts)]
        );
        let late = Retries { attempts: u32::MAX, ..retries }.next(
            &answer(503, None),
            4_000_000,
            LONG,
            1.0,
        );
        assert_eq!(late, Next::Again(limits::RETRY_MAX));
    }

    #[test]
    fn what_the_server_asks_for_is_waited_for_within_the_deadline() {
        let asked = answer(429, Some(Duration::from_secs(90)));
        let next = |left, spread| RETRIES.next(&asked, 1, Duration::from_secs(left), spread);
        assert_eq!(next(100, 0.0), Next::Again(Duration::from_secs(90)));
        assert_eq!(next(90, 0.0), Next::GiveUp(Why::Deadline));
        // It asks for less than is usual: it knows.
        let next = |asked, spread| {
            let soon = answer(429, Some(Duration::from_secs(asked)));
            RETRIES.next(&soon, 5, LONG, spread)
        };
        assert_eq!(next(0, 0.0), Next::Again(Duration::from_millis(500)));
        assert_eq!(next(2, 1.0), Next::Again(Duration::from_secs(3)));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        let after = |value: &str| retry_after(value, now).map(|asked| asked.as_secs());
        assert_eq!(after("7"), Some(7));
        assert_eq!(after(" 0 "), Some(0));
        assert_eq!(after("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60));
        assert_eq!(after("Sun, 06 Nov 1994 08:00:00 GMT"), Some(0));
        assert_eq!(after("Sat, 06 Nov 2094 08:00:00 GMT"), Some(3_600));
        assert_eq!(after("99999999999999999999999999"), Some(3_600));
        for none in ["", "-1", "1.5", "soon"] {
            assert_eq!(after(none), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn a_wait_is_never_past_the_deadline_nor_shorter_than_asked(
            made in 1..100_u32,
            left in 0..10_000_000_u64,
            asked in prop::option::of(0..10_000_000_u64),
            spread in any::<f64>(),
        ) {
            let left = Duration::from_millis(left);
            let asked = asked.map(Duration::from_millis);
            if let Next::Again(wait) = RETRIES.next(&answer(503, asked), made, left, spread) {
                prop_assert!(wait < left && wait <= limits::RETRY_AFTER_MAX + limits::RETRY_MAX);
                prop_assert!(wait >= asked.unwrap_or_default().min(limits::RETRY_AFTER_MAX));
                prop_assert!(wait >= limits::RETRY_MIN / 2);
            }
        }
    }
}
