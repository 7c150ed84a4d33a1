//! What a history says of requests over HTTP, and of subscribers.

use crate::effects::http::{Answered, Failure, Outcome, Part};
use serde::Serialize;
use utoipa::ToSchema;

/// Which request over HTTP a message is the answer to, and what came of it: the message has the answer's body.
#[derive(Serialize, ToSchema)]
pub struct HttpAnswerView<'a> {
    /// The request's id, the session's own.
    pub id: &'a str,
    /// The message of this session that asked.
    pub asked_by: u64,
    /// The answer's; absent if none came. With `failure`: of an answer that did not come to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why there is no whole answer: a code, as `timeout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<&'a str>,
    /// The same as a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    /// How often the request was made.
    pub attempts: u32,
    /// From 1: how often this message was tried.
    pub attempt: u32,
}

/// Of which request's answer an entry has a part. No handler was called for it.
#[derive(Serialize, ToSchema)]
pub struct HttpPartView<'a> {
    /// The request's id, the session's own.
    pub id: &'a str,
    /// The message of this session that asked.
    pub asked_by: u64,
    /// From 1: which attempt at the request it came of.
    pub attempt: u32,
}

/// Whether the session has subscribers now.
#[derive(Serialize, ToSchema)]
pub struct PresenceView {
    /// The first one has come; else the last one has gone.
    pub present: bool,
}

impl<'a> HttpAnswerView<'a> {
    pub(super) fn new(answered: &'a Answered) -> Self {
        let Answered { id, outcome, attempts, asked_by, attempt } = answered;
        let (status, failure, reason) = match outcome {
            Outcome::Response(response) => (Some(response.status), None, None),
            Outcome::Failure(Failure { code, reason, response }) => {
                let status = response.as_ref().map(|response| response.status);
                (status, Some(&**code), Some(&**reason))
            }
        };
        let (asked_by, attempts, attempt) = (*asked_by, *attempts, *attempt);
        Self { id, asked_by, status, failure, reason, attempts, attempt }
    }
}

impl<'a> HttpPartView<'a> {
    pub(super) fn new(part: &'a Part) -> Self {
        let Part { id, attempt, asked_by } = part;
        Self { id, asked_by: *asked_by, attempt: *attempt }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effects::http::Response;
    use serde_json::{Value, json};

    fn shown(outcome: Outcome) -> Value {
        let (id, attempts, asked_by, attempt) = ("llm".into(), 3, 7, 1);
        let answered = Answered { id, outcome, attempts, asked_by, attempt };
        serde_json::to_value(HttpAnswerView::new(&answered)).unwrap()
    }

    /// An answer that broke off would pass for a whole one, or a failure for an answer.
    #[test]
    fn an_answer_has_a_status_a_failure_says_why() {
        let response = Response { status: 201, headers: vec![("etag".into(), "x".into())] };
        assert_eq!(
            shown(Outcome::Response(response.clone())),
            json!({"id": "llm", "asked_by": 7, "status": 201, "attempts": 3, "attempt": 1})
        );
        let failure = |response| {
            let (code, reason) = ("timeout".into(), "It took too long.".into());
            Outcome::Failure(Failure { code, reason, response })
        };
        let failed = json!({"id": "llm", "asked_by": 7, "failure": "timeout",
            "reason": "It took too long.", "attempts": 3, "attempt": 1});
        assert_eq!(shown(failure(None)), failed);
        let mut broken_off = failed;
        broken_off["status"] = 201.into();
        assert_eq!(shown(failure(Some(response))), broken_off);
    }
}
