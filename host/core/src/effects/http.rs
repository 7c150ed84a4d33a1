//! Requests over HTTP that a session makes: what is asked for, until it is answered and the handler has handled that.

use crate::{limits, trace::Trace};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Of a body that has none.
pub const NO_TYPE: &str = "application/octet-stream";
/// Of text that was shown, or joined.
pub const TEXT_TYPE: &str = "text/plain; charset=utf-8";

/// The code of a request whose deadline has passed before it was made, or once more.
pub const DEADLINE: &str = "deadline";

/// A request that is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub method: String,
    /// It, and the values of headers, have `{{secret:NAME}}` where a secret goes in.
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    /// How long an attempt takes at most.
    pub timeout_ms: u32,
    /// When all attempts are over, in milliseconds since the Unix epoch.
    pub deadline_ms: u64,
    /// How often it is made at most.
    pub attempts_max: u32,
    pub redirects: u8,
    pub answer_bytes_max: u32,
    pub keep_headers: Vec<String>,
    pub stream: Option<Stream>,
    /// The message that asked for it, and that message's time.
    pub asked_by: u64,
    pub asked_ms: u64,
    /// How often it was made in vain.
    pub failures: u32,
    /// The attempt, from 1, of which something was shown; 0: nothing was. It may be above `failures`: then it is the
    /// attempt that is under way, or was when its node failed.
    pub shown: u32,
    /// When it is made next, in milliseconds since the Unix epoch.
    pub next_ms: u64,
    /// Why the last attempt was in vain; empty if none was.
    pub reason: String,
    /// What the message that asked for it is a part of.
    pub trace: Option<Trace>,
}

/// How an answer is shown to subscribers while it comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// Of the events.
    pub kind: String,
    pub form: Form,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Form {
    /// As text.
    Text,
    /// The data of each server-sent event, one event each.
    Data,
    /// The text at this path of each server-sent event's data. The answer's body is all of it.
    Joined(String),
}

/// What came of a request, until the handler has handled it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub outcome: Outcome,
    pub content_type: String,
    pub body: Bytes,
    /// How often the request was made.
    pub attempts: u32,
    pub asked_by: u64,
    /// How often the handler has failed it.
    pub failures: u32,
    /// When it is tried, in milliseconds since the Unix epoch.
    pub next_ms: u64,
    pub reason: String,
    pub trace: Option<Trace>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// An answer, whatever its status.
    Response(Response),
    Failure(Failure),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Kebab-case.
    pub code: String,
    pub reason: String,
    /// Of an answer that did not come to its end.
    pub response: Option<Response>,
}

/// The answer to a request, as its handler and histories have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    pub id: String,
    pub outcome: Outcome,
    pub attempts: u32,
    /// The message that asked.
    pub asked_by: u64,
    /// From 1: how often the handler has been given it.
    pub attempt: u32,
}

/// A part of an answer that was shown while it came: an entry of the history without a call of the handler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub id: String,
    /// Of the request, from 1.
    pub attempt: u32,
    pub asked_by: u64,
}

/// Whether a handler is told of its session's subscribers, and what it was told last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    pub present: bool,
    /// When it is looked at next, in milliseconds since the Unix epoch; `None`: when a subscriber comes.
    pub next_ms: Option<u64>,
    pub set_by: u64,
}

/// That a session takes no more messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// The message that closed it.
    pub by: u64,
}

impl Request {
    /// As it is once it was made in vain at `now_ms` and is made again after `wait_ms`.
    #[must_use]
    pub fn again(&self, reason: &str, now_ms: u64, wait_ms: u64) -> Self {
        Self {
            failures: self.failures.saturating_add(1),
            next_ms: now_ms.saturating_add(wait_ms),
            reason: crate::text::cut(reason, limits::TIMER_REASON_BYTES_MAX).to_owned(),
            ..self.clone()
        }
    }

    /// What came of it.
    pub fn answer(&self, got: Got, now_ms: u64) -> Answer {
        let Got { outcome, content_type, body, was_made } = got;
        Answer {
            outcome,
            content_type,
            body,
            attempts: self.failures.saturating_add(u32::from(was_made)),
            asked_by: self.asked_by,
            failures: 0,
            next_ms: now_ms,
            reason: String::new(),
            trace: self.trace,
        }
    }

    /// Its deadline has passed before it was made once more.
    pub fn too_late(&self, now_ms: u64) -> Answer {
        let reason = match self.reason.as_str() {
            "" => "it was not made before its deadline".to_owned(),
            reason => format!("its deadline has passed; the last attempt: {reason}"),
        };
        let outcome =
            Outcome::Failure(Failure { code: DEADLINE.to_owned(), reason, response: None });
        let content_type = NO_TYPE.to_owned();
        let got = Got { outcome, content_type, body: Bytes::new(), was_made: false };
        self.answer(got, now_ms)
    }

    /// Memory that it takes, about.
    pub fn memory(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.len() + 48);
        let stream = self.stream.as_ref().map_or(0, |stream| stream.kind.len() + 64);
        let keep = self.keep_headers.iter().map(|name| name.len() + 24).sum::<usize>();
        let texts = self.method.len() + self.url.len() + self.reason.len();
        size_of::<Self>() + self.body.len() + headers.sum::<usize>() + stream + keep + texts
    }
}

/// An answer as it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    pub outcome: Outcome,
    pub content_type: String,
    pub body: Bytes,
    /// It is of an attempt that counts, and not of one that was none.
    pub was_made: bool,
}

impl Answer {
    /// What the handler is told that it is.
    pub fn answered(&self, id: &str) -> Answered {
        Answered {
            id: id.to_owned(),
            outcome: self.outcome.clone(),
            attempts: self.attempts,
            asked_by: self.asked_by,
            attempt: self.failures.saturating_add(1),
        }
    }

    /// As it is once the handler has failed it at `now_ms`.
    #[must_use]
    pub fn failed(&self, reason: &str, now_ms: u64) -> Self {
        let failures = self.failures.saturating_add(1);
        Self {
            failures,
            next_ms: now_ms.saturating_add(super::wait_ms(failures)),
            reason: crate::text::cut(reason, limits::TIMER_REASON_BYTES_MAX).to_owned(),
            ..self.clone()
        }
    }

    /// As it is where its session has no room for its body: the handler has failed too many others.
    #[must_use]
    pub fn without_room(self) -> Self {
        let response = match self.outcome {
            Outcome::Response(response) => Some(response),
            Outcome::Failure(failure) => failure.response,
        };
        let reason = "the answer had no room: the handler has failed those of other requests";
        let failure = Failure { code: "too-large".to_owned(), reason: reason.to_owned(), response };
        let outcome = Outcome::Failure(failure);
        Self { outcome, content_type: NO_TYPE.to_owned(), body: Bytes::new(), ..self }
    }

    pub fn is_exhausted(&self) -> bool {
        self.failures >= limits::EFFECT_ATTEMPTS_MAX
    }

    /// Memory that it takes, about.
    pub fn memory(&self) -> usize {
        let texts = self.content_type.len() + self.reason.len();
        size_of::<Self>() + self.body.len() + texts + self.outcome.memory()
    }
}

impl Outcome {
    /// Memory that it takes beside itself, about.
    fn memory(&self) -> usize {
        let headers = |response: &Response| {
            let headers = response.headers.iter();
            headers.map(|(name, value)| name.len() + value.len() + 48).sum::<usize>()
        };
        match self {
            Self::Response(response) => headers(response),
            Self::Failure(failure) => {
                failure.code.len()
                    + failure.reason.len()
                    + failure.response.as_ref().map_or(0, headers)
            }
        }
    }
}

impl Answered {
    /// Memory that it takes beside itself, about.
    pub fn memory(&self) -> usize {
        self.id.len() + self.outcome.memory()
    }
}

/// Why it can't be the id of a request, if it can't.
pub fn id_problem(id: &str) -> Option<String> {
    super::name_problem("the id of a request", id, limits::REQUEST_ID_BYTES_MAX)
}
