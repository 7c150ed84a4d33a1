//! Requests over HTTP: those that are open, and answers that their handler has failed.

use super::timers::ContentView;
use crate::{
    effects::{
        Effect,
        http::{Answer, Outcome, Request},
        rows::Name,
    },
    operation::Found,
};
use serde::Serialize;
use utoipa::ToSchema;

/// A request over HTTP that a session has made and is not done with.
#[derive(Serialize, ToSchema)]
pub struct RequestView<'a> {
    /// The name that the session gave to it.
    pub id: &'a str,
    pub session: &'a str,
    /// `open`: it has not been made, or is under way. `waiting`: it was made in vain, and is made again at `next_ms`; after
    /// that, it is under way. `answer`: it is answered, but the session's handler has failed that; it is called with it
    /// at `next_ms`.
    pub state: &'static str,
    /// Of one that is not answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<&'a str>,
    /// The same; with the names of secrets, not their values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<&'a str>,
    /// How often it was made in vain. Of an answer, how often the request was made.
    pub attempts: u32,
    /// Of one that is not answered: how often it is made at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts_max: Option<u32>,
    /// Of an answer: how often the handler has failed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures: Option<u32>,
    /// When it is made, or the handler called, in milliseconds since the Unix epoch.
    pub next_ms: u64,
    /// Of one that is not answered: when its time is over, in milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Why it failed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    #[serde(flatten)]
    pub outcome: OutcomeView<'a>,
    /// The message of the session that asked for it.
    pub asked_by: u64,
    /// The body is that of the request, or of the answer.
    #[serde(flatten)]
    pub content: ContentView<'a>,
}

/// What came of a request.
#[derive(Default, Serialize, ToSchema)]
pub struct OutcomeView<'a> {
    /// The status of the answer, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The code of the failure, if there is no whole answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<&'a str>,
}

impl<'a> OutcomeView<'a> {
    pub(super) fn new(outcome: &'a Outcome) -> Self {
        match outcome {
            Outcome::Response(response) => Self { status: Some(response.status), failure: None },
            Outcome::Failure(failure) => Self {
                status: failure.response.as_ref().map(|response| response.status),
                failure: Some(&failure.code),
            },
        }
    }
}

impl<'a> RequestView<'a> {
    /// `None`: it is something else.
    pub(super) fn new(found: &'a Found, with_body: bool) -> Option<Self> {
        match (&found.name, &found.effect) {
            (Name::Request(id), Effect::Request(request)) => {
                Some(Self::open(found, id, request, with_body))
            }
            (Name::Answer(id), Effect::Answer(answer)) => {
                Some(Self::answer(found, id, answer, with_body))
            }
            _ => None,
        }
    }

    fn open(found: &'a Found, id: &'a str, request: &'a Request, with_body: bool) -> Self {
        let content_type = request.headers.iter();
        let mut content_type =
            content_type.filter(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        let content_type = content_type.next().map_or("", |(_, value)| value.as_str());
        Self {
            id,
            session: found.session.as_str(),
            state: if request.failures == 0 { "open" } else { "waiting" },
            method: Some(&request.method),
            url: Some(&request.url),
            attempts: request.failures,
            attempts_max: Some(request.attempts_max),
            failures: None,
            next_ms: request.next_ms,
            deadline_ms: Some(request.deadline_ms),
            reason: Some(&*request.reason).filter(|reason| !reason.is_empty()),
            outcome: OutcomeView::default(),
            asked_by: request.asked_by,
            content: ContentView::new(found, content_type, &request.body, with_body),
        }
    }

    fn answer(found: &'a Found, id: &'a str, answer: &'a Answer, with_body: bool) -> Self {
        Self {
            id,
            session: found.session.as_str(),
            state: "answer",
            method: None,
            url: None,
            attempts: answer.attempts,
            attempts_max: None,
            failures: Some(answer.failures),
            next_ms: answer.next_ms,
            deadline_ms: None,
            reason: Some(&*answer.reason).filter(|reason| !reason.is_empty()),
            outcome: OutcomeView::new(&answer.outcome),
            asked_by: answer.asked_by,
            content: ContentView::new(found, &answer.content_type, &answer.body, with_body),
        }
    }
}
