//! Timers, and messages of timers that were given up.

use super::{Inline, Shown};
use crate::{
    effects::{Dead, Timer, When, rows::Name},
    names::{SessionId, SessionKey},
    operation::{EffectAction, EffectsPage, Found, Listed},
};
use bytes::Bytes;
use serde::Serialize;
use utoipa::ToSchema;

/// Timers of a service, or of a session.
#[derive(Serialize, ToSchema)]
pub struct TimersPage<'a> {
    /// Of a service by the time at which they are tried next, of a session by name.
    pub timers: Vec<TimerView<'a>>,
    /// Give it as `after` for the next page; absent when this is the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_after: Option<String>,
}

/// A timer that is set.
#[derive(Serialize, ToSchema)]
pub struct TimerView<'a> {
    pub session: &'a str,
    /// The timer's name.
    pub name: &'a str,
    /// The time that it is for next, in milliseconds since the Unix epoch.
    pub due_ms: u64,
    /// When that is tried: later than `due_ms` if it has failed.
    pub next_ms: u64,
    /// Its period, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every_ms: Option<u64>,
    /// The cron expression that it follows, in this time zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cron: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<&'a str>,
    /// How often the message for `due_ms` has failed.
    pub failures: u32,
    /// Why it failed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    /// The message that set it.
    pub set_by: u64,
    #[serde(flatten)]
    pub content: ContentView<'a>,
}

/// What the message of a timer has.
#[derive(Serialize, ToSchema)]
pub struct ContentView<'a> {
    pub content_type: &'a str,
    pub body_bytes: u64,
    /// The value itself if the content type is JSON, a string if it is text. Not in listings of a service.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = serde_json::Value)]
    pub body: Option<Inline<'a>>,
    /// Every other body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
}

/// Messages of timers that were given up.
#[derive(Serialize, ToSchema)]
pub struct DeadPage<'a> {
    /// By session and timer.
    pub dead: Vec<DeadView<'a>>,
    /// Give it as `after` for the next page; absent when this is the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_after: Option<String>,
}

/// A message of a timer that was given up: its handler failed it too often, or rejected it for good.
#[derive(Serialize, ToSchema)]
pub struct DeadView<'a> {
    pub session: &'a str,
    pub timer: &'a str,
    /// The time that it was for, in milliseconds since the Unix epoch: with the timer its name.
    pub due_ms: u64,
    /// How often it was tried; since an operator tries it again, if one does.
    pub attempts: u32,
    /// When it was given up, in milliseconds since the Unix epoch; absent if it is being tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub died_ms: Option<u64>,
    /// If it is being tried again: when next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_ms: Option<u64>,
    /// The code of the error that it was given up for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'a str>,
    /// Why it failed last.
    pub reason: &'a str,
    /// The message that set the timer.
    pub set_by: u64,
    #[serde(flatten)]
    pub content: ContentView<'a>,
}

/// What was done with a timer or a dead message.
#[derive(Serialize, ToSchema)]
pub struct EffectChanged {
    #[schema(value_type = String)]
    pub session: SessionId,
    pub timer: String,
    /// Of a dead message: the time that it was for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due_ms: Option<u64>,
    /// `cancelled`, `retried` or `dropped`.
    pub done: &'static str,
}

impl<'a> ContentView<'a> {
    fn new(found: &'a Found, content_type: &'a str, body: &'a Bytes, with_body: bool) -> Self {
        let shown = with_body.then(|| Shown::new(content_type, body));
        Self {
            content_type,
            body_bytes: found.body_bytes,
            body: shown.as_ref().and_then(Shown::inline),
            body_base64: shown.as_ref().and_then(Shown::base64),
        }
    }
}

impl<'a> TimersPage<'a> {
    /// What is dead, or tried again, is left out.
    pub(in crate::http) fn new(
        page: &'a EffectsPage,
        next_after: Option<String>,
        with_body: bool,
    ) -> Self {
        let timers = page.found.iter().filter_map(|found| match (&found.name, &found.effect) {
            (Name::Timer(name), Listed::Timer(timer)) => {
                Some(TimerView::new(found, name, timer, with_body))
            }
            _ => None,
        });
        Self { timers: timers.collect(), next_after }
    }
}

impl<'a> TimerView<'a> {
    fn new(found: &'a Found, name: &'a str, timer: &'a Timer, with_body: bool) -> Self {
        let (every_ms, cron, zone) = match &timer.when {
            When::Once => (None, None, None),
            When::Every { period_ms } => (Some(*period_ms), None, None),
            When::Cron { expression, zone } => (None, Some(&**expression), Some(&**zone)),
        };
        Self {
            session: found.session.as_str(),
            name,
            due_ms: timer.due_ms,
            next_ms: timer.next_ms,
            every_ms,
            cron,
            zone,
            failures: timer.failures,
            reason: Some(&*timer.reason).filter(|reason| !reason.is_empty()),
            set_by: timer.set_by,
            content: ContentView::new(found, &timer.content_type, &timer.body, with_body),
        }
    }
}

impl<'a> DeadPage<'a> {
    /// Timers are left out.
    pub(in crate::http) fn new(
        page: &'a EffectsPage,
        next_after: Option<String>,
        with_body: bool,
    ) -> Self {
        let dead = page.found.iter().filter_map(|found| match (&found.name, &found.effect) {
            (Name::Dead(name, due_ms), Listed::Dead(dead)) => {
                Some(DeadView::dead(found, name, *due_ms, dead, with_body))
            }
            (Name::Retried(name, due_ms), Listed::Timer(timer)) => {
                Some(DeadView::retried(found, name, *due_ms, timer, with_body))
            }
            _ => None,
        });
        Self { dead: dead.collect(), next_after }
    }
}

impl<'a> DeadView<'a> {
    fn dead(
        found: &'a Found,
        timer: &'a str,
        due_ms: u64,
        dead: &'a Dead,
        with_body: bool,
    ) -> Self {
        Self {
            session: found.session.as_str(),
            timer,
            due_ms,
            attempts: dead.firing.attempt,
            died_ms: Some(dead.died_ms),
            next_ms: None,
            code: Some(&dead.code),
            reason: &dead.reason,
            set_by: dead.set_by,
            content: ContentView::new(found, &dead.content_type, &dead.body, with_body),
        }
    }

    fn retried(
        found: &'a Found,
        name: &'a str,
        due_ms: u64,
        timer: &'a Timer,
        with_body: bool,
    ) -> Self {
        Self {
            session: found.session.as_str(),
            timer: name,
            due_ms,
            attempts: timer.failures,
            died_ms: None,
            next_ms: Some(timer.next_ms),
            code: None,
            reason: &timer.reason,
            set_by: timer.set_by,
            content: ContentView::new(found, &timer.content_type, &timer.body, with_body),
        }
    }
}

impl EffectChanged {
    pub(in crate::http) fn new(key: &SessionKey, action: EffectAction) -> Self {
        let (timer, due_ms, done) = match action {
            EffectAction::CancelTimer { timer } => (timer, None, "cancelled"),
            EffectAction::RetryDead { timer, due_ms } => (timer, Some(due_ms), "retried"),
            EffectAction::DropDead { timer, due_ms } => (timer, Some(due_ms), "dropped"),
        };
        Self { session: key.session.clone(), timer, due_ms, done }
    }
}
