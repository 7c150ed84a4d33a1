//! Timers, and messages that were given up.

use super::{Inline, Shown, requests::OutcomeView, sends};
use crate::{
    effects::{
        Dead, Effect, Expiry, GivenUp, Outcome, Outgoing, Timer, When, http::Answer, rows::Name,
        send::Place,
    },
    names::{SessionId, SessionKey},
    operation::{EffectAction, EffectsPage, Found},
};
use bytes::Bytes;
use serde::Serialize;
use utoipa::ToSchema;

/// Timers of a service, or of a session.
#[derive(Serialize, ToSchema)]
pub struct TimersPage<'a> {
    /// Of a service by the time at which they are tried next, of a session by name.
    pub timers: Vec<TimerView<'a>>,
    /// Sessions that are deleted at a time, unless a message says otherwise.
    pub expiring: Vec<ExpiringView<'a>>,
    /// Give it as `after` for the next page; absent when this is the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_after: Option<String>,
}

/// A session that expires.
#[derive(Serialize, ToSchema)]
pub struct ExpiringView<'a> {
    pub session: &'a str,
    /// When it is deleted, in milliseconds since the Unix epoch.
    pub due_ms: u64,
    /// The message that said so.
    pub set_by: u64,
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

/// What the message of a timer has, or one to another session.
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

/// Messages that were given up: of timers, to other sessions, and answers to requests over HTTP.
#[derive(Serialize, ToSchema)]
pub struct DeadPage<'a> {
    /// By session.
    pub dead: Vec<DeadView<'a>>,
    /// Give it as `after` for the next page; absent when this is the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_after: Option<String>,
}

/// A message that was given up: its handler failed it too often, or rejected it for good.
#[derive(Serialize, ToSchema)]
pub struct DeadView<'a> {
    pub session: &'a str,
    /// `timer`: a message of a timer of the session. `send`: one that the session has sent to another. `outcome`: what
    /// came of one, which the session's own handler failed. `answer`: what came of a request over HTTP, which the handler
    /// failed.
    pub kind: &'static str,
    /// Of a timer's message: the timer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timer: Option<&'a str>,
    /// Of a timer's message: the time that it was for, in milliseconds since the Unix epoch: with the timer its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due_ms: Option<u64>,
    /// Of others: its name among those of the session. Of an answer, the request's id, which several may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Of an answer: with the id its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_ms: Option<u64>,
    /// Of an answer: what it is.
    #[serde(flatten)]
    pub outcome: OutcomeView<'a>,
    /// Of one that was sent: the session that it is for, as `service/session`. Of an outcome, the session that was
    /// asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Of one that was sent: it is the reply to a message of the other session, which waits for it under this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<&'a str>,
    /// Of an outcome: the name that it comes back under.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<&'a str>,
    /// Of an outcome: why the message was not handled. Absent: it was, and the body is the reply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<sends::RefusalView<'a>>,
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
    /// Of a timer's message: the message that set the timer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_by: Option<u64>,
    /// Of others: the message of the session that sent it, or that asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_by: Option<u64>,
    #[serde(flatten)]
    pub content: ContentView<'a>,
}

/// What was done with a timer, a request over HTTP or a dead message.
#[derive(Serialize, ToSchema)]
pub struct EffectChanged {
    #[schema(value_type = String)]
    pub session: SessionId,
    /// The timer, or the one whose message it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timer: Option<String>,
    /// Of a dead message of a timer: the time that it was for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due_ms: Option<u64>,
    /// Of a dead message that is no timer's: its id. Of a request, or an answer to one: the request's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Of a dead answer: with the id its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_ms: Option<u64>,
    /// `cancelled`, `retried` or `dropped`.
    pub done: &'static str,
}

impl<'a> ContentView<'a> {
    pub(super) fn new(
        found: &'a Found,
        content_type: &'a str,
        body: &'a Bytes,
        with_body: bool,
    ) -> Self {
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
            (Name::Timer(name), Effect::Timer(timer)) => {
                Some(TimerView::new(found, name, timer, with_body))
            }
            _ => None,
        });
        let expiring = page.found.iter().filter_map(|found| match &found.effect {
            Effect::Expiry(Expiry { at_ms, set_by }) => {
                let session = found.session.as_str();
                Some(ExpiringView { session, due_ms: *at_ms, set_by: *set_by })
            }
            _ => None,
        });
        Self { timers: timers.collect(), expiring: expiring.collect(), next_after }
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
    /// Timers are left out, and what is in the outbox.
    pub(in crate::http) fn new(
        page: &'a EffectsPage,
        next_after: Option<String>,
        with_body: bool,
    ) -> Self {
        let dead = page.found.iter().filter_map(|found| match (&found.name, &found.effect) {
            (Name::Dead(name, due_ms), Effect::Dead(dead)) => {
                Some(DeadView::dead(found, name, *due_ms, dead, with_body))
            }
            (Name::Retried(name, due_ms), Effect::Timer(timer)) => {
                Some(DeadView::retried(found, name, *due_ms, timer, with_body))
            }
            (Name::DeadOutgoing(place), Effect::DeadOutgoing(dead)) => {
                Some(DeadView::send(found, *place, dead, with_body))
            }
            (Name::DeadOutcome(place), Effect::DeadOutcome(dead)) => {
                Some(DeadView::outcome(found, *place, dead, with_body))
            }
            (Name::DeadAnswer(id, time), Effect::DeadAnswer(dead)) => {
                Some(DeadView::answer(found, id, *time, dead, with_body))
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
        let content = ContentView::new(found, &dead.content_type, &dead.body, with_body);
        Self {
            timer: Some(timer),
            due_ms: Some(due_ms),
            attempts: dead.firing.attempt,
            died_ms: Some(dead.died_ms),
            code: Some(&dead.code),
            reason: &dead.reason,
            set_by: Some(dead.set_by),
            ..Self::new(found, "timer", content)
        }
    }

    fn retried(
        found: &'a Found,
        name: &'a str,
        due_ms: u64,
        timer: &'a Timer,
        with_body: bool,
    ) -> Self {
        let content = ContentView::new(found, &timer.content_type, &timer.body, with_body);
        Self {
            timer: Some(name),
            due_ms: Some(due_ms),
            attempts: timer.failures,
            next_ms: Some(timer.next_ms),
            reason: &timer.reason,
            set_by: Some(timer.set_by),
            ..Self::new(found, "timer", content)
        }
    }

    fn send(found: &'a Found, place: Place, dead: &'a GivenUp<Outgoing>, with_body: bool) -> Self {
        let sent = &dead.what;
        let content = ContentView::new(found, &sent.content_type, &sent.body, with_body);
        Self {
            id: Some(place.to_string()),
            to: Some(sent.to.to_string()),
            reply_to: sends::names(&sent.content).0,
            attempts: sent.failures,
            died_ms: Some(dead.died_ms),
            code: Some(&dead.code),
            reason: &dead.reason,
            sent_by: Some(sent.sent_by),
            ..Self::new(found, "send", content)
        }
    }

    fn outcome(
        found: &'a Found,
        place: Place,
        dead: &'a GivenUp<Outcome>,
        with_body: bool,
    ) -> Self {
        let outcome = &dead.what;
        let content = ContentView::new(found, &outcome.content_type, &outcome.body, with_body);
        Self {
            id: Some(place.to_string()),
            to: Some(outcome.of.to_string()),
            reply: Some(&outcome.name),
            refusal: outcome.refusal.as_ref().map(sends::RefusalView::new),
            attempts: outcome.failures,
            died_ms: Some(dead.died_ms),
            code: Some(&dead.code),
            reason: &dead.reason,
            sent_by: Some(outcome.sent_by),
            ..Self::new(found, "outcome", content)
        }
    }

    fn answer(
        found: &'a Found,
        id: &str,
        time: u64,
        dead: &'a GivenUp<Answer>,
        with_body: bool,
    ) -> Self {
        let answer = &dead.what;
        let content = ContentView::new(found, &answer.content_type, &answer.body, with_body);
        Self {
            id: Some(id.to_owned()),
            time_ms: Some(time),
            outcome: OutcomeView::new(&answer.outcome),
            attempts: answer.failures,
            died_ms: Some(dead.died_ms),
            code: Some(&dead.code),
            reason: &dead.reason,
            sent_by: Some(answer.asked_by),
            ..Self::new(found, "answer", content)
        }
    }

    fn new(found: &'a Found, kind: &'static str, content: ContentView<'a>) -> Self {
        Self {
            session: found.session.as_str(),
            kind,
            timer: None,
            due_ms: None,
            id: None,
            time_ms: None,
            outcome: OutcomeView::default(),
            to: None,
            reply_to: None,
            reply: None,
            refusal: None,
            attempts: 0,
            died_ms: None,
            next_ms: None,
            code: None,
            reason: "",
            set_by: None,
            sent_by: None,
            content,
        }
    }
}

impl EffectChanged {
    pub(in crate::http) fn new(key: &SessionKey, action: EffectAction) -> Self {
        let session = key.session.clone();
        let done =
            |done| Self { session, timer: None, due_ms: None, id: None, time_ms: None, done };
        match action {
            EffectAction::CancelTimer { timer } => Self { timer: Some(timer), ..done("cancelled") },
            EffectAction::RetryDead { timer, due_ms } => {
                Self { timer: Some(timer), due_ms: Some(due_ms), ..done("retried") }
            }
            EffectAction::DropDead { timer, due_ms } => {
                Self { timer: Some(timer), due_ms: Some(due_ms), ..done("dropped") }
            }
            EffectAction::RetryDeadSend(place) => {
                Self { id: Some(place.to_string()), ..done("retried") }
            }
            EffectAction::DropDeadSend(place) => {
                Self { id: Some(place.to_string()), ..done("dropped") }
            }
            EffectAction::CancelRequest { id } => Self { id: Some(id), ..done("cancelled") },
            EffectAction::RetryDeadAnswer { id, time } => {
                Self { id: Some(id), time_ms: Some(time), ..done("retried") }
            }
            EffectAction::DropDeadAnswer { id, time } => {
                Self { id: Some(id), time_ms: Some(time), ..done("dropped") }
            }
        }
    }
}
