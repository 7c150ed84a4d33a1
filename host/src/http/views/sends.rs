//! Messages between sessions: those that are not done with, and what a history says of them.

use super::{requests::RequestView, timers::ContentView};
use crate::{
    effects::{
        Answered, Effect, Outcome, Outgoing, Received,
        rows::Name,
        send::{Content, Place, Refusal},
    },
    operation::{EffectsPage, Found},
};
use serde::Serialize;
use utoipa::ToSchema;

/// What a service's sessions, or one session, have sent and are not done with.
#[derive(Serialize, ToSchema)]
pub struct OutboxPage<'a> {
    /// Messages to other sessions. Of a service: first those on their way, then those that wait, by the time at which they
    /// are tried next.
    pub messages: Vec<OutboxView<'a>>,
    /// Requests over HTTP, in the same order.
    pub requests: Vec<RequestView<'a>>,
    /// Give it as `after` for the next page; absent when this is the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_after: Option<String>,
}

/// A message to another session, or the outcome of one.
#[derive(Serialize, ToSchema)]
pub struct OutboxView<'a> {
    /// Its name among those of the session. One that is sent again has another.
    pub id: String,
    /// The session that has sent it.
    pub session: &'a str,
    /// The session that it goes to, as `service/session`. Of an outcome, the one that was asked.
    pub to: String,
    /// `sending`: it is on its way. `waiting`: it was refused, and is sent again at `next_ms`. `behind`: it is sent once a
    /// message before it, to the same session, no longer waits. `outcome`: what came of it has come back, and the
    /// session's handler is called with that at `next_ms`.
    pub state: &'static str,
    /// It is what the session replied to a message of the other, which waits for it under this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<&'a str>,
    /// Its outcome comes back to the session, under this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<&'a str>,
    /// How often it was tried in vain.
    pub attempts: u32,
    /// When it is tried, in milliseconds since the Unix epoch; absent if it is on its way, or behind another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_ms: Option<u64>,
    /// Why it failed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    /// Of an outcome: why the message was not handled. Absent: it was, and the body is the reply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<RefusalView<'a>>,
    /// The message of the session that sent it.
    pub sent_by: u64,
    #[serde(flatten)]
    pub content: ContentView<'a>,
}

/// Why a message was not handled by the session that it was sent to.
#[derive(Serialize, ToSchema)]
pub struct RefusalView<'a> {
    /// Of a rejection, the handler's own.
    pub code: &'a str,
    pub message: &'a str,
    /// The same may work later.
    pub retriable: bool,
}

/// Which session has sent a message.
#[derive(Serialize, ToSchema)]
pub struct DeliveryView {
    /// As `service/session`.
    pub sender: String,
    /// The message of that session that sent it.
    pub sent_by: u64,
    /// From 1: how often it was tried.
    pub attempt: u32,
    /// The sender waits for the reply.
    pub reply_wanted: bool,
}

/// Which message of the session's own has this outcome.
#[derive(Serialize, ToSchema)]
pub struct AnswerView<'a> {
    /// The name that the session gave to it.
    pub name: &'a str,
    /// The session that was asked, as `service/session`.
    pub sender: String,
    /// The message of this session that asked.
    pub sent_by: u64,
    /// From 1: how often this was tried.
    pub attempt: u32,
    /// Why the message was not handled there. Absent: it was, and the body is the reply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<RefusalView<'a>>,
}

impl<'a> OutboxPage<'a> {
    /// Timers, and what is dead, are left out.
    pub(in crate::http) fn new(
        page: &'a EffectsPage,
        next_after: Option<String>,
        with_body: bool,
    ) -> Self {
        let messages = page.found.iter().filter_map(|found| match (&found.name, &found.effect) {
            (Name::Outgoing(place), Effect::Outgoing(outgoing)) => {
                let view = OutboxView::outgoing(found, *place, outgoing, with_body);
                Some(OutboxView { state: "sending", next_ms: None, ..view })
            }
            (Name::Waiting(place), Effect::Outgoing(outgoing)) => {
                Some(OutboxView::outgoing(found, *place, outgoing, with_body))
            }
            (Name::Outcome(place), Effect::Outcome(outcome)) => {
                Some(OutboxView::outcome(found, *place, outcome, with_body))
            }
            _ => None,
        });
        let requests = page.found.iter().filter_map(|found| RequestView::new(found, with_body));
        Self { messages: messages.collect(), requests: requests.collect(), next_after }
    }
}

impl<'a> OutboxView<'a> {
    fn outgoing(found: &'a Found, place: Place, outgoing: &'a Outgoing, with_body: bool) -> Self {
        let (reply_to, reply) = names(&outgoing.content);
        Self {
            id: place.to_string(),
            session: found.session.as_str(),
            to: outgoing.to.to_string(),
            state: if outgoing.is_behind() { "behind" } else { "waiting" },
            reply_to,
            reply,
            attempts: outgoing.failures,
            next_ms: Some(outgoing.next_ms).filter(|_| !outgoing.is_behind()),
            reason: Some(&*outgoing.reason).filter(|reason| !reason.is_empty()),
            refusal: None,
            sent_by: outgoing.sent_by,
            content: ContentView::new(found, &outgoing.content_type, &outgoing.body, with_body),
        }
    }

    fn outcome(found: &'a Found, place: Place, outcome: &'a Outcome, with_body: bool) -> Self {
        Self {
            id: place.to_string(),
            session: found.session.as_str(),
            to: outcome.of.to_string(),
            state: "outcome",
            reply_to: None,
            reply: Some(&outcome.name),
            attempts: outcome.failures,
            next_ms: Some(outcome.next_ms),
            reason: Some(&*outcome.reason).filter(|reason| !reason.is_empty()),
            refusal: outcome.refusal.as_ref().map(RefusalView::new),
            sent_by: outcome.sent_by,
            content: ContentView::new(found, &outcome.content_type, &outcome.body, with_body),
        }
    }
}

/// Under which name who asked waits for it, and under which name its outcome comes back.
pub(super) fn names(content: &Content) -> (Option<&str>, Option<&str>) {
    match content {
        Content::Message { reply } => (None, reply.as_deref()),
        Content::Reply(asked) => (Some(&asked.name), None),
    }
}

impl<'a> RefusalView<'a> {
    pub(super) fn new(Refusal { code, reason, retriable }: &'a Refusal) -> Self {
        Self { code, message: reason, retriable: *retriable }
    }
}

impl DeliveryView {
    pub(super) fn new(received: &Received) -> Self {
        Self {
            sender: received.from.to_string(),
            sent_by: received.sent_by,
            attempt: received.attempt,
            reply_wanted: received.reply,
        }
    }
}

impl<'a> AnswerView<'a> {
    pub(super) fn new(answered: &'a Answered) -> Self {
        Self {
            name: &answered.name,
            sender: answered.of.to_string(),
            sent_by: answered.sent_by,
            attempt: answered.attempt,
            refusal: answered.refusal.as_ref().map(RefusalView::new),
        }
    }
}
