//! Timers in a session's virtual time.

use super::{Came, Event, Failure, Harness, Session, limits};
use crate::{
    RawHandler, Reply, Timer, When,
    context::Source,
    timers::{Firing, millis},
};
use std::time::Duration;

/// A timer of a [`Session`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetTimer {
    pub when: When,
    /// The time that it is for next, milliseconds since the Unix epoch. Of a cron timer it is not
    /// known: see [`Harness::fire`].
    pub due_ms: u64,
    /// When that is tried: at `due_ms`, or later when it has failed.
    pub next_ms: u64,
    pub failures: u32,
    pub content_type: String,
    pub body: Vec<u8>,
}

/// A timer's message that was given up: after 20 attempts, or a rejection that is not retriable. On a
/// node it is kept for an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dead {
    pub name: String,
    pub due_ms: u64,
    /// How often it was tried.
    pub attempts: u32,
    pub content_type: String,
    pub body: Vec<u8>,
    /// What the last attempt ended with.
    pub failure: Failure,
}

/// What became of a timer's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fired {
    pub name: String,
    /// The time that the timer was set for.
    pub due_ms: u64,
    pub missed: u64,
    pub attempt: u32,
    /// When it was tried: the session's clock.
    pub time_ms: u64,
    /// The reply, which nobody gets.
    pub result: Result<Reply, Failure>,
    pub events: Vec<Event>,
    pub notified: Vec<Event>,
}

impl SetTimer {
    /// Its first time is not before `earliest_ms`.
    pub(super) fn new(
        when: When,
        now_ms: u64,
        earliest_ms: u64,
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<Self, String> {
        let due_ms = match &when {
            When::At(time_ms) => *time_ms,
            When::After(delay) => now_ms.saturating_add(millis(*delay)),
            When::Every(period) => {
                let (period, min) = (millis(*period), limits::TIMER_PERIOD_MIN_MS);
                if period < min {
                    return Err(format!("a period has {min} ms at least, not {period}"));
                }
                now_ms.saturating_add(period)
            }
            When::Cron { expression, zone } => {
                check_cron(expression, zone)?;
                now_ms
            }
        };
        if due_ms > limits::TIMER_MS_MAX {
            return Err(format!(
                "{due_ms} is no time that a timer can be set for: the last is {} ms since the Unix \
                 epoch",
                limits::TIMER_MS_MAX
            ));
        }
        let due_ms = due_ms.max(earliest_ms);
        let (next_ms, content_type) = (due_ms, content_type.to_owned());
        Ok(Self { when, due_ms, next_ms, failures: 0, content_type, body })
    }

    pub(super) fn shown(&self, name: &str) -> Timer {
        Timer {
            name: name.to_owned(),
            due_ms: self.due_ms,
            content_type: self.content_type.clone(),
            body: self.body.clone(),
            failures: self.failures,
        }
    }

    pub(super) fn bytes(&self, name: &str) -> usize {
        name.len() + self.content_type.len() + self.body.len()
    }

    fn is_cron(&self) -> bool {
        matches!(self.when, When::Cron { .. })
    }

    /// Which of its times its message is for at `now_ms`, and the timer that is left.
    fn fire(&self, now_ms: u64) -> (Firing, Option<Self>) {
        let (due_ms, missed, next) = match &self.when {
            When::At(_) | When::After(_) => (self.due_ms, 0, None),
            When::Every(period) => {
                let period = millis(*period).max(limits::TIMER_PERIOD_MIN_MS);
                let missed = now_ms.saturating_sub(self.due_ms) / period;
                (self.due_ms, missed, Some(self.due_ms + period * (missed + 1)))
            }
            // Its times are the test's.
            When::Cron { .. } if self.failures == 0 => (now_ms, 0, Some(now_ms)),
            When::Cron { .. } => (self.due_ms, 0, Some(now_ms)),
        };
        let left = next.filter(|next| *next <= limits::TIMER_MS_MAX).map(|next| Self {
            due_ms: next,
            next_ms: next,
            failures: 0,
            ..self.clone()
        });
        (Firing { due_ms, missed, attempt: self.failures + 1 }, left)
    }

    /// As it is once its message has failed; `None`: that was the last attempt.
    fn failed(&self, due_ms: u64, now_ms: u64) -> Option<Self> {
        let failures = self.failures + 1;
        let wait = limits::TIMER_RETRY_MAX_MS.min(1_000 << (failures - 1).min(16));
        let next_ms = now_ms.saturating_add(wait);
        let failed = Self { due_ms, next_ms, failures, ..self.clone() };
        (failures < limits::ATTEMPTS_MAX).then_some(failed)
    }
}

/// Why it can't be the name of a timer, if it can't.
pub(super) fn name_problem(name: &str) -> Option<String> {
    let max = limits::TIMER_NAME_BYTES_MAX;
    if name.is_empty() || name.len() > max {
        let bytes = name.len();
        return Some(format!(
            "the name of a timer must have 1 to {max} bytes; this one has {bytes}"
        ));
    }
    let control = name.chars().any(char::is_control);
    control.then(|| format!("the name of a timer has no control characters, and {name:?} has"))
}

/// The least and the greatest number of each field.
const CRON_FIELDS: [(u32, u32); 5] = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)];

/// The number of fields, and each number in them; the rest is the node's to say.
fn check_cron(expression: &str, zone: &str) -> Result<(), String> {
    let max = limits::TIMER_CRON_BYTES_MAX;
    if expression.len().max(zone.len()) > max {
        return Err(format!("a cron expression and a time zone may have {max} bytes each"));
    }
    let fields: Vec<&str> = expression.split_whitespace().collect();
    if fields.len() != CRON_FIELDS.len() {
        return Err(format!(
            "a cron expression has five fields (minute, hour, day of the month, month, day of the \
             week); {expression:?} has {}",
            fields.len()
        ));
    }
    let zone_is_right = |c: char| c.is_ascii_alphanumeric() || "_+-/".contains(c);
    if zone.is_empty() || !zone.chars().all(zone_is_right) {
        return Err(format!("there is no time zone {zone:?}; an example is \"Europe/Berlin\""));
    }
    let fits = |field: &str, (least, most): (u32, u32)| {
        field.split(',').all(|part| {
            let base = part.split(['/', '#']).next().unwrap_or_default();
            let digits = |end: &str| !end.is_empty() && end.bytes().all(|b| b.is_ascii_digit());
            !base.is_empty()
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "*/#-?".contains(c))
                && base.split('-').filter(|end| digits(end)).all(|end| {
                    end.parse().is_ok_and(|number: u32| (least..=most).contains(&number))
                })
        })
    };
    let right = fields.iter().zip(CRON_FIELDS).all(|(field, range)| fits(field, range));
    if right { Ok(()) } else { Err(format!("{expression:?} is no cron expression")) }
}

impl<H: RawHandler> Harness<H> {
    /// Moves the session's clock on, and has the timers fire that are due meanwhile, in the order of
    /// their times, each at its time; also those that are tried again after a failure, and those that
    /// a timer's message sets. Gives what became of each.
    ///
    /// A session that is to expire meanwhile is deleted at that time, after what is due by then: nothing is left of it
    /// but its name and the clock, and the next message is its first.
    ///
    /// Between two calls, and when a test changes the clock itself, nothing fires: what is overdue then
    /// fires first at the next call, and what it missed is counted.
    ///
    /// # Panics
    /// When a cron timer is set, since its times are not known here (see [`Self::fire`]), and when
    /// timers that set each other fire without an end.
    pub fn advance(&mut self, by: Duration) -> Vec<Fired> {
        let end = self.session.time_ms.saturating_add(millis(by));
        let mut all = Vec::new();
        loop {
            if let Some((name, _)) = self.session.timers.iter().find(|(_, timer)| timer.is_cron()) {
                panic!(
                    "the timer {name:?} is a cron expression's: the harness does not compute its \
                     times, so `advance` can't say when it fires. Use `fire({name:?})` at its time \
                     (`session_mut().time_ms`), and cancel it before `advance`"
                );
            }
            let due = self.session.timers.iter().filter(|(_, timer)| timer.next_ms <= end);
            let first = due.min_by_key(|(name, timer)| (timer.next_ms, *name));
            let expires = self.session.expires_ms.filter(|at_ms| *at_ms <= end);
            if let Some(at_ms) = expires
                && first.is_none_or(|(_, timer)| at_ms < timer.next_ms)
            {
                self.expire(at_ms);
                continue;
            }
            let Some(name) = first.map(|(name, _)| name.clone()) else { break };
            all.push(self.fire(&name));
            assert!(
                all.len() < limits::FIRED_MAX,
                "{} timers fired, and the time is not over: the last was {name:?}",
                limits::FIRED_MAX
            );
        }
        self.session.time_ms = end.max(self.session.time_ms);
        all
    }

    /// Has one timer fire, and none before it: at its time, to which the clock moves on, or now if that
    /// has passed. A cron timer fires now.
    ///
    /// # Panics
    /// When there is no such timer.
    pub fn fire(&mut self, name: &str) -> Fired {
        let Some(timer) = self.session.timers.get(name).cloned() else {
            panic!("no timer {name:?} is set; there are {:?}", self.session.timers.keys())
        };
        let Session { time_ms, events, notified, .. } = &mut self.session;
        if !timer.is_cron() || timer.failures > 0 {
            *time_ms = timer.next_ms.max(*time_ms);
        }
        let (time_ms, events, notified) = (*time_ms, events.len(), notified.len());
        let (firing, left) = timer.fire(time_ms);
        self.put(name, left.clone());
        let source = Source::Timer(name.to_owned());
        let body = timer.body.clone();
        let result = self.handle(source, Came::from_timer(firing), &timer.content_type, body);
        if let Err(failure) = &result {
            let is_final = matches!(failure, Failure::Rejected(it) if !it.is_retriable());
            let again = timer.failed(firing.due_ms, time_ms).filter(|_| !is_final);
            if again.is_none() {
                self.session.dead.push(Dead {
                    name: name.to_owned(),
                    due_ms: firing.due_ms,
                    attempts: firing.attempt,
                    content_type: timer.content_type.clone(),
                    body: timer.body.clone(),
                    failure: failure.clone(),
                });
            }
            self.put(name, again.or(left));
        }
        Fired {
            name: name.to_owned(),
            due_ms: firing.due_ms,
            missed: firing.missed,
            attempt: firing.attempt,
            time_ms,
            result,
            events: self.session.events[events..].to_vec(),
            notified: self.session.notified[notified..].to_vec(),
        }
    }

    /// The timers that are set, in order of their names.
    pub fn timers(&self) -> Vec<Timer> {
        self.session.timers.iter().map(|(name, timer)| timer.shown(name)).collect()
    }

    /// When the session is deleted, milliseconds since the Unix epoch, if it is to be
    /// ([`Context::expire_at`](crate::Context::expire_at)).
    pub fn expires(&self) -> Option<u64> {
        self.session.expires_ms
    }

    /// Every timer's message that was given up, in order.
    pub fn dead(&self) -> &[Dead] {
        &self.session.dead
    }

    fn expire(&mut self, at_ms: u64) {
        let Session { name, time_ms, .. } = std::mem::take(&mut self.session);
        self.session = Session { name, time_ms: time_ms.max(at_ms), ..Session::default() };
    }

    fn put(&mut self, name: &str, timer: Option<SetTimer>) {
        match timer {
            Some(timer) => self.session.timers.insert(name.to_owned(), timer),
            None => self.session.timers.remove(name),
        };
    }
}
