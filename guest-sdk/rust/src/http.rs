//! Requests over HTTP: what a handler asks for, and what comes of it.

use crate::{Error, encode::to_json, host::Host};
use serde::{Serialize, de::DeserializeOwned};
use std::{borrow::Cow, ops::Deref, time::Duration};

/// What stands for the operator's secret of this name, in a URL or the value of a header:
/// `.header("authorization", format!("Bearer {}", http::secret("API_KEY")))`. The handler never sees the secret.
pub fn secret(name: &str) -> String {
    format!("{{{{secret:{name}}}}}")
}

/// The session's requests over HTTP, to read.
#[derive(Clone)]
pub struct HttpView {
    host: Host,
}

/// The session's requests over HTTP: see [`crate::Context::http`].
#[derive(Clone)]
pub struct Http {
    view: HttpView,
}

impl HttpView {
    pub(crate) fn new(host: Host) -> Self {
        Self { host }
    }
    /// The ids of the requests that are open, in order of their bytes: those whose answer the handler has not handled.
    pub fn open(&self) -> Vec<String> {
        self.host.open_requests()
    }
}

impl Http {
    pub(crate) fn new(host: Host) -> Self {
        Self { view: HttpView::new(host) }
    }
    pub fn get(&mut self, url: impl Into<String>) -> Request {
        self.request("GET", url)
    }
    pub fn post(&mut self, url: impl Into<String>) -> Request {
        self.request("POST", url)
    }
    pub fn put(&mut self, url: impl Into<String>) -> Request {
        self.request("PUT", url)
    }
    pub fn patch(&mut self, url: impl Into<String>) -> Request {
        self.request("PATCH", url)
    }
    pub fn delete(&mut self, url: impl Into<String>) -> Request {
        self.request("DELETE", url)
    }
    /// With any method.
    pub fn request(&mut self, method: impl Into<String>, url: impl Into<String>) -> Request {
        let parts = Parts {
            method: method.into(),
            url: url.into(),
            headers: Vec::new(),
            body: Vec::new(),
            options: Options::default(),
        };
        Request { host: self.host.clone(), parts, problem: None }
    }
    /// Ends a request: its answer will not come. What was sent may have its effect. Whether there was one.
    pub fn cancel(&mut self, id: &str) -> bool {
        self.host.cancel_request(id)
    }
}

/// Reading is the same with and without the right to write.
impl Deref for Http {
    type Target = HttpView;
    fn deref(&self) -> &HttpView {
        &self.view
    }
}

/// How an answer is shown to the session's subscribers while it comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// As text, as it comes.
    Text,
    /// The `data` of each server-sent event, one event each.
    Data,
    /// The text at this path of each server-sent event's data, which is JSON: `choices.0.delta.content`. The answer has
    /// all of it joined as its body.
    Joined(String),
}

impl Form {
    /// [`Form::Joined`], of a path.
    pub fn joined(path: impl Into<String>) -> Self {
        Self::Joined(path.into())
    }
}

/// A request that is being put together: see [`crate::Context::http`].
#[must_use = "nothing is asked for before `send`"]
pub struct Request {
    host: Host,
    parts: Parts,
    /// What was wrong before it was sent.
    problem: Option<Error>,
}

/// What a request is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    pub method: String,
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub options: Options,
}

/// How a request is to be carried out. What is not said is as the host has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub timeout_ms: Option<u32>,
    pub deadline_ms: Option<u32>,
    pub attempts: Option<u32>,
    pub redirects: Option<u8>,
    pub answer_bytes: Option<u32>,
    pub keep_headers: Vec<String>,
    /// The kind of the events, and what they show.
    pub stream: Option<(String, Form)>,
}

impl Request {
    /// Adds a header. The value may have [`secret`]s.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.parts.headers.push((name.into(), value.into()));
        self
    }
    /// The body, as it is. Its content type is for [`Self::header`] to say.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.parts.body = body.into();
        self
    }
    /// The body, as JSON, with the header `content-type`. A value that has no form in JSON is an error of
    /// [`Self::send`].
    pub fn json<T: Serialize + ?Sized>(mut self, body: &T) -> Self {
        match to_json(body) {
            Ok(body) => self.header("content-type", "application/json").body(body),
            Err(error) => {
                let what = "the body of a request".into();
                self.problem.get_or_insert(Error::Encode { what, error });
                self
            }
        }
    }
    /// How long one attempt may take, with all of its answer: 60 s if nothing is said, 10 minutes at most.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.parts.options.timeout_ms = Some(millis(timeout));
        self
    }
    /// How long all attempts together may take, from this message's time on: 10 minutes if nothing is said, a day at
    /// most.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.parts.options.deadline_ms = Some(millis(deadline));
        self
    }
    /// How often it is tried: 5 times if nothing is said, 20 at most.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.parts.options.attempts = Some(attempts);
        self
    }
    /// How many redirects are followed: 5 if nothing is said, 10 at most. With 0 a redirect is an answer.
    pub fn redirects(mut self, redirects: u8) -> Self {
        self.parts.options.redirects = Some(redirects);
        self
    }
    /// Bytes that the answer's body may have: 1 MiB if nothing is said, which is the most.
    pub fn answer_bytes(mut self, bytes: u32) -> Self {
        self.parts.options.answer_bytes = Some(bytes);
        self
    }
    /// A header of the answer, by name or by `prefix*`, that it keeps beside those that it always does.
    pub fn keep_header(mut self, name: impl Into<String>) -> Self {
        self.parts.options.keep_headers.push(name.into());
        self
    }
    /// Shows the answer to the session's subscribers while it comes, by events of this kind.
    pub fn stream(mut self, kind: impl Into<String>, form: Form) -> Self {
        self.parts.options.stream = Some((kind.into(), form));
        self
    }
    /// Has the request made once this message is durable, in place of one of this id that is open. Its answer comes
    /// under the id: 1 to 128 bytes without control characters.
    ///
    /// # Errors
    /// [`Error::Request`], with what is wrong with its id or its options, which `?` turns into the rejection `bad-request`; and
    /// when the body has no form in JSON that comes back as it was. Nothing is asked for then.
    pub fn send(self, id: &str) -> Result<(), Error> {
        let Self { host, parts, problem } = self;
        match problem {
            Some(problem) => Err(problem),
            None => host.request(id, parts).map_err(|why| Error::Request { why }),
        }
    }
}

/// More than the host takes stays more.
fn millis(duration: Duration) -> u32 {
    crate::timers::millis(duration).try_into().unwrap_or(u32::MAX)
}

/// What came of a request. The body and its type are the answer's, or, where that did not come to its end, of what had
/// come of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The id that the request was sent with.
    pub id: String,
    /// The answer, whatever its status; or why there is none.
    pub outcome: Result<Response, Failure>,
    pub content_type: String,
    pub body: Vec<u8>,
    /// How often the request was made.
    pub attempts: u32,
    /// How often this is tried, this time included: 1 the first time.
    pub attempt: u32,
}

impl Answer {
    /// The status, where there is an answer that came to its end.
    pub fn status(&self) -> Option<u16> {
        self.outcome.as_ref().ok().map(|response| response.status)
    }
    /// Whether there is an answer with a status from 200 to 299.
    pub fn is_success(&self) -> bool {
        self.outcome.as_ref().is_ok_and(Response::is_success)
    }
    /// The body as JSON.
    ///
    /// # Errors
    /// When the body is not the JSON of a `T`.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }
    /// The body as text; what is no UTF-8 is replaced.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }
}

/// The head of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// With names in lower case; of those that are kept ([`Request::keep_header`]).
    pub headers: Vec<(String, String)>,
}

impl Response {
    /// Whether the status is from 200 to 299.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
    /// The first header of this name, in whatever case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(it, _)| it.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// Why there is no answer to a request, and will be none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Kebab-case, for programs: `refused`, `invalid`, `secret-unknown`, `busy`, `dns`, `connect`, `tls`, `timeout`,
    /// `too-large`, `redirect`, `protocol`, `deadline`.
    pub code: String,
    /// One sentence, for people.
    pub reason: String,
    /// Of an answer that did not come to its end.
    pub response: Option<Response>,
}

/// As [`Answer`], without the body, which a [`RawHandler`](crate::RawHandler) has by itself: see
/// [`Context::http_answer`](crate::Context::http_answer).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    pub id: String,
    pub outcome: Result<Response, Failure>,
    pub attempts: u32,
    pub attempt: u32,
}
