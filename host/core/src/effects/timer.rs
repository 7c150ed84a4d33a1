//! Timers: messages that a session sends itself later.

use super::cron;
use crate::limits;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A timer that is set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timer {
    pub when: When,
    /// The time that it is for next, in milliseconds since the Unix epoch.
    pub due_ms: u64,
    /// When that is tried: at `due_ms`, or later when it has failed.
    pub next_ms: u64,
    /// How often that has failed.
    pub failures: u32,
    /// Why it failed last; empty if it did not.
    pub reason: String,
    pub content_type: String,
    pub body: Bytes,
    /// The message that set it.
    pub set_by: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum When {
    Once,
    /// Again and again, so many milliseconds apart, however late each one is.
    Every {
        period_ms: u64,
    },
    /// At the times that a cron expression names in a time zone.
    Cron {
        expression: String,
        zone: String,
    },
}

/// When a session is deleted, unless a later message says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expiry {
    /// In milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The message that said so.
    pub set_by: u64,
}

/// What a handler asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moment {
    /// At this time, in milliseconds since the Unix epoch.
    At(u64),
    /// So many milliseconds after the message's time.
    After(u64),
    /// Each so many milliseconds, the first time so long after the message's time.
    Every(u64),
    Cron {
        expression: String,
        zone: String,
    },
}

/// A timer's message: which of its times it is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firing {
    pub name: String,
    /// The time that it was set for, in milliseconds since the Unix epoch.
    pub due_ms: u64,
    /// Later times of a period, which are past too and have no message of their own.
    pub missed: u64,
    /// From 1: how often it was tried.
    pub attempt: u32,
}

/// A timer's message that was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dead {
    pub firing: Firing,
    pub content_type: String,
    pub body: Bytes,
    /// The code of the error that it ended with, as a client would have got it.
    pub code: String,
    pub reason: String,
    /// When it was given up, in milliseconds since the Unix epoch.
    pub died_ms: u64,
    /// The message that set the timer.
    pub set_by: u64,
}

impl Moment {
    /// What it comes to for a message of the time `now_ms`: how it goes on, and its first time, which is not
    /// before `earliest_ms`: a time of long ago would be due before what is due now.
    ///
    /// # Errors
    /// What is wrong with it, for who wrote the handler.
    pub fn first(self, now_ms: u64, earliest_ms: u64) -> Result<(When, u64), String> {
        let (when, first) = match self {
            Self::At(at) => (When::Once, at),
            Self::After(delay) => (When::Once, now_ms.saturating_add(delay)),
            Self::Every(period) if period < limits::TIMER_PERIOD_MIN_MS => {
                return Err(format!(
                    "a period has {} ms at least, not {period}",
                    limits::TIMER_PERIOD_MIN_MS
                ));
            }
            Self::Every(period_ms) => (When::Every { period_ms }, now_ms.saturating_add(period_ms)),
            Self::Cron { expression, zone } => {
                if expression.len().max(zone.len()) > limits::TIMER_CRON_BYTES_MAX {
                    return Err(format!(
                        "a cron expression and a time zone may have {} bytes each",
                        limits::TIMER_CRON_BYTES_MAX
                    ));
                }
                let first = cron::next(&expression, &zone, now_ms)?;
                (When::Cron { expression, zone }, first)
            }
        };
        if first > limits::TIMER_MS_MAX {
            return Err(format!(
                "{first} is no time that a timer can be set for: the last is {} ms since the Unix \
                 epoch",
                limits::TIMER_MS_MAX
            ));
        }
        Ok((when, first.max(earliest_ms)))
    }
}

impl When {
    /// What comes after `due_ms` at the time `now_ms`: how many times are past, too, and when the next
    /// one is. Pure, but for a cron expression, which may mean something else under another version.
    ///
    /// # Errors
    /// A cron expression or its time zone is not known to this node.
    pub fn advance(&self, due_ms: u64, now_ms: u64) -> Result<(u64, Option<u64>), String> {
        let (missed, next) = match self {
            Self::Once => (0, None),
            Self::Every { period_ms } => {
                let period = (*period_ms).max(limits::TIMER_PERIOD_MIN_MS);
                let missed = now_ms.saturating_sub(due_ms) / period;
                let next = due_ms.saturating_add(period.saturating_mul(missed + 1));
                (missed, Some(next))
            }
            Self::Cron { expression, zone } => {
                let mut next = cron::next(expression, zone, due_ms)?;
                let mut missed = 0;
                while next <= now_ms {
                    missed += 1;
                    // They are counted one by one: where they are very many, no longer.
                    let from =
                        if missed < limits::TIMER_MISSED_COUNTED_MAX { next } else { now_ms };
                    next = cron::next(expression, zone, from)?;
                }
                (missed, Some(next))
            }
        };
        Ok((missed, next.filter(|next| *next <= limits::TIMER_MS_MAX)))
    }
}

impl Timer {
    /// The message for its next time, when that is sent at `now_ms`; and the timer that is left.
    ///
    /// # Errors
    /// When the next time is can't be said: as [`When::advance`].
    pub fn fire(&self, name: &str, now_ms: u64) -> Result<(Firing, Option<Self>), String> {
        let (missed, next) = self.when.advance(self.due_ms, now_ms)?;
        let attempt = self.failures.saturating_add(1);
        let firing = Firing { name: name.to_owned(), due_ms: self.due_ms, missed, attempt };
        let left = next.map(|next| Self {
            due_ms: next,
            next_ms: next,
            failures: 0,
            reason: String::new(),
            ..self.clone()
        });
        Ok((firing, left))
    }

    /// As it is once its message has failed at `now_ms`; `None`: that was the last attempt.
    pub fn failed(&self, reason: &str, now_ms: u64) -> Option<Self> {
        let failed = self.failed_last(reason, now_ms);
        (failed.failures < limits::EFFECT_ATTEMPTS_MAX).then_some(failed)
    }

    /// As [`Self::failed`], where it can't be given up.
    pub fn failed_last(&self, reason: &str, now_ms: u64) -> Self {
        let failures = self.failures.saturating_add(1);
        Self {
            next_ms: now_ms.saturating_add(super::wait_ms(failures)),
            failures,
            reason: crate::text::cut(reason, limits::TIMER_REASON_BYTES_MAX).to_owned(),
            ..self.clone()
        }
    }

    /// Memory that it takes, about, beside its name.
    pub fn memory(&self) -> usize {
        let when = match &self.when {
            When::Cron { expression, zone } => expression.len() + zone.len(),
            When::Once | When::Every { .. } => 0,
        };
        size_of::<Self>() + self.content_type.len() + self.body.len() + self.reason.len() + when
    }
}

impl Dead {
    /// Memory that it takes, about, beside its name.
    pub fn memory(&self) -> usize {
        let texts = self.code.len() + self.reason.len() + self.firing.name.len();
        size_of::<Self>() + self.content_type.len() + self.body.len() + texts
    }
}

/// Why it can't be the name of a timer, if it can't.
pub fn name_problem(name: &str) -> Option<String> {
    super::name_problem("the name of a timer", name, limits::TIMER_NAME_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn timer(when: When, due_ms: u64) -> Timer {
        Timer {
            when,
            due_ms,
            next_ms: due_ms,
            failures: 0,
            reason: String::new(),
            content_type: "text/plain".into(),
            body: Bytes::new(),
            set_by: 1,
        }
    }

    proptest! {
        /// A period that drifts, or a time that is neither sent nor counted as missed, or counted twice.
        #[test]
        fn a_period_keeps_its_times_however_late_it_is_sent(
            period_ms in 1_000u64..100_000,
            late in proptest::collection::vec(0u64..1_000_000, 1..20),
        ) {
            let (mut due, mut times) = (10_000_000, 0);
            for late in late {
                let now = due + late;
                let (firing, left) = timer(When::Every { period_ms }, due).fire("tick", now).unwrap();
                let left = left.unwrap();
                prop_assert_eq!(firing.due_ms, due);
                times += 1 + firing.missed;
                prop_assert_eq!(left.due_ms, 10_000_000 + times * period_ms);
                prop_assert!(left.due_ms > now && left.due_ms <= now + period_ms);
                due = left.due_ms;
            }
        }
    }

    /// As a period, where the calendar says when.
    #[test]
    fn a_cron_timer_counts_what_it_missed() {
        let when = When::Cron { expression: "0 * * * *".into(), zone: "UTC".into() };
        let hour = 60 * 60 * 1_000;
        assert_eq!(when.advance(hour, hour + 1), Ok((0, Some(2 * hour))));
        assert_eq!(when.advance(hour, 4 * hour + 1), Ok((3, Some(5 * hour))));
        let (missed, next) = when.advance(hour, 100_000 * hour).unwrap();
        assert!(missed >= limits::TIMER_MISSED_COUNTED_MAX, "{missed}");
        assert_eq!(next, Some(100_001 * hour));
    }

    /// A handler that fails would be called without a pause, or for ever.
    #[test]
    fn what_fails_is_tried_less_and_less_often_and_not_for_ever() {
        let (mut timer, mut now, mut waits) = (timer(When::Once, 0), 0, Vec::new());
        while let Some(next) = timer.failed("it trapped", now) {
            waits.push(next.next_ms - now);
            assert_eq!((next.due_ms, next.failures), (0, waits.len() as u32));
            (now, timer) = (next.next_ms, next);
        }
        assert_eq!(waits.len() as u32, limits::EFFECT_ATTEMPTS_MAX - 1);
        assert!(waits.is_sorted() && waits[0] == limits::EFFECT_RETRY_MIN_MS, "{waits:?}");
        assert_eq!(waits.last(), Some(&limits::EFFECT_RETRY_MAX_MS));
    }

    #[test]
    fn moments_that_cannot_be_are_refused() {
        assert_eq!(Moment::After(5).first(10, 10), Ok((When::Once, 15)));
        assert_eq!(Moment::At(5).first(10, 10), Ok((When::Once, 10)), "what is past is due now");
        assert_eq!(Moment::At(5).first(10, 110), Ok((When::Once, 110)), "but not before others");
        for wrong in [
            Moment::Every(0),
            Moment::After(u64::MAX),
            Moment::At(limits::TIMER_MS_MAX + 1),
            Moment::Cron { expression: "x".repeat(1_000), zone: "UTC".into() },
        ] {
            assert!(wrong.clone().first(10, 10).is_err(), "{wrong:?}");
        }
    }
}
