//! What a session asks for over HTTP, and what comes of it; and its subscribers.

use super::{Came, Event, Failure, Harness, limits, to_json};
use crate::{
    RawHandler, Reply,
    context::Source,
    http::{self, Answered, Form, Options, Parts, Response},
};
use serde::{Serialize, de::DeserializeOwned};

/// A request that a session has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requested {
    /// The number of the message that asked for it.
    pub seq: u64,
    pub id: String,
    pub method: String,
    /// As the handler has written it, and so are the headers: with [`secret`](http::secret)s' names.
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub options: Options,
    /// Whether its answer has not come, or is not done with: it was handled, or given up. A request that was cancelled or
    /// replaced is not open, either.
    pub open: bool,
    /// How often it was made: one more with each [`Harness::restart`].
    pub attempts: u32,
    /// What was shown of the answer since it was made last.
    pub shown: Vec<String>,
    /// How often the handler has failed its answer.
    pub failures: u32,
    /// Something was shown of an attempt that came to nothing.
    void: bool,
}

impl Requested {
    pub(super) fn new(seq: u64, id: &str, parts: Parts) -> Self {
        let Parts { method, url, headers, body, options } = parts;
        Self {
            seq,
            id: id.to_owned(),
            method,
            url,
            headers,
            body,
            options,
            open: true,
            attempts: 1,
            shown: Vec::new(),
            failures: 0,
            void: false,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.len());
        self.id.len() + self.url.len() + self.body.len() + headers.sum::<usize>()
    }

    /// The first header of this name, in whatever case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(it, _)| it.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When the body is not the JSON of a `T`.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }
}

/// Headers that slotd writes itself, or that concern one connection.
const NOT_THE_CALLERS: [&str; 13] = [
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "host",
    "idempotency-key",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Why it can't be the id of a request, if it can't.
pub(super) fn id_problem(id: &str) -> Option<String> {
    let (bytes, max) = (id.len(), limits::REQUEST_ID_BYTES_MAX);
    if id.is_empty() || bytes > max {
        return Some(format!(
            "the id of a request must have 1 to {max} bytes; this one has {bytes}"
        ));
    }
    let control = id.chars().any(char::is_control);
    control.then(|| format!("the id of a request has no control characters, and {id:?} has"))
}

fn is_token(text: &str) -> bool {
    let symbol = |b: u8| b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || symbol(b))
}

/// What of the request itself ends the call, if anything does.
pub(super) fn request_problem(parts: &Parts) -> Option<String> {
    let Parts { method, url, headers, body, options } = parts;
    let (bytes, max) = (body.len(), limits::REQUEST_BODY_BYTES_MAX);
    if bytes > max {
        return Some(format!("limit: requests: a body may have {max} bytes; this one has {bytes}"));
    }
    let in_headers = headers.iter().map(|(name, value)| name.len() + value.len());
    let head = method.len() + url.len() + in_headers.sum::<usize>();
    let max = limits::REQUEST_HEAD_BYTES_MAX;
    if head > max {
        return Some(format!(
            "limit: requests: the method, URL and headers of one may have {max} bytes; these have {head}"
        ));
    }
    let (count, bytes) = (limits::KEPT_HEADERS_MAX, limits::KEPT_HEADER_NAME_BYTES_MAX);
    let keep = &options.keep_headers;
    if keep.len() > count || keep.iter().any(|name| name.len() > bytes) {
        return Some(format!(
            "limit: requests: an answer may be asked to keep {count} headers more, with {bytes} bytes in a name"
        ));
    }
    let kind = options.stream.as_ref().map(|(kind, _)| kind);
    if let Some(problem) = kind.and_then(|kind| super::host::kind_problem(kind)) {
        return Some(problem);
    }
    let no_method = !is_token(method) || method.len() > limits::REQUEST_METHOD_BYTES_MAX;
    if no_method || ["CONNECT", "TRACE"].contains(&method.as_str()) {
        return Some(format!("invalid method {method:?}"));
    }
    let rest = url.split_once("://").filter(|(scheme, _)| ["http", "https"].contains(scheme));
    let starts_well = rest.is_some_and(|(_, rest)| !rest.is_empty() && !rest.starts_with('/'));
    if !starts_well || url.chars().any(|c| c.is_control() || c == ' ') {
        return Some(format!(
            "invalid URL {url:?}: it must begin with https:// or http:// and a host"
        ));
    }
    let most = limits::REQUEST_HEADERS_MAX;
    if headers.len() > most {
        return Some(format!("limit: requests: one may have {most} headers"));
    }
    for (name, value) in headers {
        if !is_token(name) {
            return Some(format!("invalid header name {name:?}"));
        }
        if NOT_THE_CALLERS.contains(&name.to_ascii_lowercase().as_str()) {
            return Some(format!("slotd sets the header {name} itself"));
        }
        if value.chars().any(|c| c.is_control() && c != '\t') {
            return Some(format!("the value of the header {name:?} has a control character"));
        }
    }
    None
}

/// What is wrong with the options, if anything is.
pub(super) fn options_problem(options: &Options) -> Option<String> {
    let Options { timeout_ms, deadline_ms, attempts, redirects, answer_bytes, stream, .. } =
        options;
    for (what, given, most) in [
        (
            "the timeout of an attempt, in milliseconds,",
            *timeout_ms,
            limits::REQUEST_TIMEOUT_MAX_MS,
        ),
        ("the deadline, in milliseconds,", *deadline_ms, limits::REQUEST_DEADLINE_MAX_MS),
        ("the number of attempts", *attempts, limits::ATTEMPTS_MAX),
        ("the size of the answer's body", *answer_bytes, limits::ANSWER_BYTES_MAX),
    ] {
        if let Some(given) = given.filter(|given| !(1..=most).contains(given)) {
            return Some(format!("{what} is 1 to {most}, not {given}"));
        }
    }
    let most = limits::REDIRECTS_MAX;
    if redirects.is_some_and(|redirects| redirects > most) {
        return Some(format!("at most {most} redirects are followed"));
    }
    let Some((_, Form::Joined(path))) = stream else { return None };
    let most = limits::STREAM_PATH_BYTES_MAX;
    let is_path = path.len() <= most && path.split('.').all(|step| !step.is_empty());
    (!is_path).then(|| {
        format!(
            "a path has keys and numbers with dots between them, and {most} bytes at most: \
             `choices.0.delta.content`"
        )
    })
}

const TEXT: &str = "text/plain; charset=utf-8";
const OCTETS: &str = "application/octet-stream";

/// An answer that is being put together: see [`Harness::answer_to`].
#[must_use = "nothing comes before `respond`, `respond_bytes`, `end` or `fail`"]
pub struct AnswerTo<'a, H> {
    harness: &'a mut Harness<H>,
    at: usize,
    headers: Vec<(String, String)>,
}

impl<H: RawHandler> AnswerTo<'_, H> {
    /// Adds a header, of those that the answer keeps; `content-type` is said by the others.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_ascii_lowercase(), value.into()));
        self
    }
    /// Has it come, with a body of JSON.
    ///
    /// # Errors
    /// A [`Failure`]; the session is then as it was.
    ///
    /// # Panics
    /// When `body` has no form in JSON.
    pub fn respond<T: Serialize + ?Sized>(self, status: u16, body: &T) -> Result<Reply, Failure> {
        self.respond_bytes(status, "application/json", to_json(body))
    }
    /// As [`Self::respond`], with any body.
    ///
    /// # Errors
    /// As [`Self::respond`].
    pub fn respond_bytes(
        mut self,
        status: u16,
        content_type: &str,
        body: impl Into<Vec<u8>>,
    ) -> Result<Reply, Failure> {
        self.headers.push(("content-type".into(), content_type.into()));
        let response = Response { status, headers: self.headers };
        self.harness.told(self.at, Ok(response), content_type, body.into())
    }
    /// As [`Self::respond`], with the status 200 and what was shown as the body: as the request's stream has it.
    ///
    /// # Errors
    /// As [`Self::respond`].
    ///
    /// # Panics
    /// When the request has no stream.
    pub fn end(self) -> Result<Reply, Failure> {
        let request = &self.harness.session.requests[self.at];
        let (_, form) = streamed(request);
        let (content_type, body) = match form {
            Form::Text | Form::Joined(_) => (TEXT, request.shown.concat()),
            Form::Data => {
                let events = request.shown.iter().map(|data| {
                    let lines: Vec<_> =
                        data.split('\n').map(|line| format!("data: {line}\n")).collect();
                    lines.concat() + "\n"
                });
                ("text/event-stream", events.collect())
            }
        };
        self.respond_bytes(200, content_type, body)
    }
    /// There is no answer, and will be none. `code` is one of [`http::Failure`]'s.
    ///
    /// # Errors
    /// As [`Self::respond`].
    pub fn fail(self, code: &str, reason: &str) -> Result<Reply, Failure> {
        let (code, reason) = (code.to_owned(), reason.to_owned());
        let failure = http::Failure { code, reason, response: None };
        self.harness.told(self.at, Err(failure), OCTETS, Vec::new())
    }
}

/// How the request is shown.
fn streamed(request: &Requested) -> (String, Form) {
    let Some(stream) = &request.options.stream else {
        panic!("the request {:?} is not shown while its answer comes: it has no stream", request.id)
    };
    stream.clone()
}

impl<H: RawHandler> Harness<H> {
    /// Every request over HTTP so far ([`Context::http`](crate::Context::http)), in order. The harness has no network:
    /// what comes of them is the test's, by [`Self::respond`], [`Self::fail`] and [`Self::part`].
    pub fn requests(&self) -> &[Requested] {
        &self.session.requests
    }

    /// Has the answer of the open request of this id come, with a body of JSON: `respond("pay", 200, &paid)`.
    ///
    /// A handler that fails it, unless by a rejection that is not retriable, gets it again as the next attempt
    /// when the test calls this again: 20 times in all.
    ///
    /// # Errors
    /// A [`Failure`]; the session is then as it was.
    ///
    /// # Panics
    /// When there is no such request, or `body` has no form in JSON.
    pub fn respond<T: Serialize + ?Sized>(
        &mut self,
        id: &str,
        status: u16,
        body: &T,
    ) -> Result<Reply, Failure> {
        self.answer_to(id).respond(status, body)
    }

    /// As [`Self::respond`]: there is no answer, and will be none. `code` is one of [`http::Failure`]'s.
    ///
    /// # Errors
    /// As [`Self::respond`].
    ///
    /// # Panics
    /// When there is no such request.
    pub fn fail(&mut self, id: &str, code: &str, reason: &str) -> Result<Reply, Failure> {
        self.answer_to(id).fail(code, reason)
    }

    /// As [`Self::respond`], piece by piece: `answer_to("pay").header("retry-after", "5").respond(429, &no)`.
    ///
    /// # Panics
    /// When there is no such request.
    pub fn answer_to(&mut self, id: &str) -> AnswerTo<'_, H> {
        let at = self.open_request(id);
        AnswerTo { harness: self, at, headers: Vec::new() }
    }

    /// A part of the answer comes, and is shown to subscribers: an event, which has a number of its own, without a call
    /// of the handler. Of [`Form::Joined`] it is the text at the path, of [`Form::Data`] the data of one server-sent
    /// event. [`Self::end`] is the end of such an answer.
    ///
    /// # Panics
    /// When there is no such request, or it has no stream.
    pub fn part(&mut self, id: &str, text: &str) {
        let at = self.open_request(id);
        let (kind, _) = streamed(&self.session.requests[at]);
        self.session.seq += 1;
        let seq = self.session.seq;
        let request = &mut self.session.requests[at];
        if std::mem::take(&mut request.void) {
            let body = to_json(&serde_json::json!({"id": id, "attempt": request.attempts}));
            let (kind, content_type) = ("slotd.restarted".into(), "application/json".into());
            self.session.events.push(Event { seq, kind, content_type, body });
        }
        request.shown.push(text.to_owned());
        let (content_type, body) = (TEXT.into(), text.into());
        self.session.events.push(Event { seq, kind, content_type, body });
    }

    /// The request has to be made again, since the connection broke, or the node: what was shown of it is void, which the
    /// next [`part`](Self::part) says first.
    ///
    /// # Panics
    /// When there is no such request.
    pub fn restart(&mut self, id: &str) {
        let at = self.open_request(id);
        let request = &mut self.session.requests[at];
        request.attempts += 1;
        request.void |= !request.shown.is_empty();
        request.shown.clear();
    }

    /// The answer whose parts were shown comes to its end: [`AnswerTo::end`].
    ///
    /// # Errors
    /// As [`Self::respond`].
    ///
    /// # Panics
    /// When there is no such request, or it has no stream.
    pub fn end(&mut self, id: &str) -> Result<Reply, Failure> {
        self.answer_to(id).end()
    }

    /// The session's first subscriber has come (`true`), or the last one has been gone for some seconds, and the handler
    /// is told.
    ///
    /// # Errors
    /// A [`Failure`]; the session is then as it was. On a node it is not tried again.
    ///
    /// # Panics
    /// When the session does not watch its subscribers.
    pub fn presence(&mut self, present: bool) -> Result<Reply, Failure> {
        assert!(
            self.session.watches,
            "the session does not watch its subscribers: no message has called `watch_subscribers(true)`"
        );
        let came = Came { presence: Some(present), ..Came::default() };
        self.handle(Source::Session, came, OCTETS, Vec::new())
    }

    /// Whether the handler is told of subscribers ([`Context::watch_subscribers`](crate::Context::watch_subscribers)).
    pub fn watches_subscribers(&self) -> bool {
        self.session.watches
    }

    /// Whether the session is closed ([`Context::close`](crate::Context::close)): all messages are then rejected as
    /// `session-closed`, as by a node.
    pub fn is_closed(&self) -> bool {
        self.session.closed
    }

    fn open_request(&self, id: &str) -> usize {
        let open = |request: &&Requested| request.open;
        let requests = &self.session.requests;
        match requests.iter().position(|request| request.open && request.id == id) {
            Some(at) => at,
            None => {
                let ids: Vec<_> =
                    requests.iter().filter(open).map(|request| request.id.as_str()).collect();
                panic!("no request {id:?} is open; there are {ids:?}")
            }
        }
    }

    fn told(
        &mut self,
        at: usize,
        outcome: Result<Response, http::Failure>,
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<Reply, Failure> {
        let Requested { id, seq, attempts, failures, .. } = self.session.requests[at].clone();
        let attempt = failures + 1;
        let told = Answered { id: id.clone(), outcome, attempts, attempt };
        // The row goes with the message: its handler may ask under the same id again.
        self.session.requests[at].open = false;
        let came = Came { told: Some(told), ..Came::default() };
        let result = self.handle(Source::Http(id), came, content_type, body);
        // Others may have been added, and none is taken away.
        let request = &mut self.session.requests[at];
        debug_assert_eq!(request.seq, seq);
        if let Err(failure) = &result {
            let is_final = matches!(failure, Failure::Rejected(it) if !it.is_retriable());
            request.failures = attempt;
            request.open = !is_final && attempt < limits::ATTEMPTS_MAX;
        }
        result
    }
}
