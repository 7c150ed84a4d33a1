//! Requests over HTTP that a guest makes. It never sees the network: a request is data until its message is durable.

use super::super::{Failure, bindings::slotd::slot::http as wit, instance::HostState};
use super::check_event_kind;
use crate::{
    effects::{
        Origin,
        http::{Form, Outcome, Request, Response, Stream, id_problem},
    },
    limits,
    names::is_reserved_kind,
};
use bytes::Bytes;

impl wit::Host for HostState {
    fn request(
        &mut self,
        id: String,
        request: wit::Details,
    ) -> wasmtime::Result<Result<(), String>> {
        let current = self.count()?;
        current.may_send("make requests over HTTP")?;
        if let Err(failure) = check(&request) {
            return Err(current.fail(failure));
        }
        if let Some(problem) = id_problem(&id) {
            return Ok(Err(problem));
        }
        let request = match asked(request, current.seq, current.time_ms) {
            Ok(request) => request,
            Err(problem) => return Ok(Err(problem)),
        };
        current.state.request(&id, request).map(Ok).map_err(|fault| current.fault(fault))
    }

    fn cancel(&mut self, id: String) -> wasmtime::Result<bool> {
        let current = self.count()?;
        current.may_send("cancel requests")?;
        current.state.cancel_request(&id).map_err(|fault| current.fault(fault))
    }

    fn open(&mut self) -> wasmtime::Result<Vec<String>> {
        let current = self.count()?;
        current.state.open_requests().map_err(|fault| current.fault(fault))
    }

    fn current(&mut self) -> wasmtime::Result<Option<wit::Answer>> {
        let Some(Origin::Http(answered)) = self.count()?.origin.as_deref() else { return Ok(None) };
        let outcome = match &answered.outcome {
            Outcome::Response(response) => wit::Outcome::Response(response.into()),
            Outcome::Failure(failure) => wit::Outcome::Failure(wit::Failure {
                code: failure.code.clone(),
                reason: failure.reason.clone(),
                response: failure.response.as_ref().map(wit::Response::from),
            }),
        };
        Ok(Some(wit::Answer {
            id: answered.id.clone(),
            outcome,
            attempts: answered.attempts,
            attempt: answered.attempt,
        }))
    }
}

impl From<&Response> for wit::Response {
    fn from(response: &Response) -> Self {
        Self { status: response.status, headers: response.headers.clone() }
    }
}

/// What passes a limit ends the call.
fn check(request: &wit::Details) -> Result<(), Failure> {
    let body = request.body.len();
    if body > limits::REQUEST_BODY_BYTES_MAX {
        return Err(Failure::Limit(format!(
            "requests: a body may have {} bytes; this one has {body}",
            limits::REQUEST_BODY_BYTES_MAX
        )));
    }
    let headers = request.headers.iter().map(|(name, value)| name.len() + value.len());
    let head = request.method.len() + request.url.len() + headers.sum::<usize>();
    if head > limits::REQUEST_HEAD_BYTES_MAX {
        return Err(Failure::Limit(format!(
            "requests: the method, URL and headers of one may have {} bytes; these have {head}",
            limits::REQUEST_HEAD_BYTES_MAX
        )));
    }
    let keep = &request.options.keep_headers;
    if keep.len() > limits::ANSWER_HEADERS_KEPT_MAX
        || keep.iter().any(|name| name.len() > limits::ANSWER_HEADER_NAME_BYTES_MAX)
    {
        return Err(Failure::Limit(format!(
            "requests: an answer may be asked to keep {} headers more, with {} bytes in a name",
            limits::ANSWER_HEADERS_KEPT_MAX,
            limits::ANSWER_HEADER_NAME_BYTES_MAX
        )));
    }
    let Some(stream) = &request.options.stream else { return Ok(()) };
    check_event_kind(&stream.kind)?;
    if is_reserved_kind(&stream.kind) {
        let what = format!("the event kind {:?} is reserved; choose another", stream.kind);
        return Err(Failure::Trapped(what));
    }
    Ok(())
}

/// A request with what was left out.
///
/// # Errors
/// What is wrong with its options.
fn asked(request: wit::Details, asked_by: u64, asked_ms: u64) -> Result<Request, String> {
    let wit::Details { method, url, headers, body, options } = request;
    let timeout_ms = within(
        "the timeout of an attempt, in milliseconds,",
        options.timeout_ms,
        limits::REQUEST_TIMEOUT_MS,
        limits::REQUEST_TIMEOUT_MS_MAX,
    )?;
    let deadline_ms = within(
        "the deadline, in milliseconds,",
        options.deadline_ms,
        limits::REQUEST_DEADLINE_MS,
        limits::REQUEST_DEADLINE_MS_MAX,
    )?;
    let attempts_max = within(
        "the number of attempts",
        options.attempts,
        limits::REQUEST_ATTEMPTS,
        limits::REQUEST_ATTEMPTS_MAX,
    )?;
    let answer_bytes_max = within(
        "the size of the answer's body",
        options.answer_bytes,
        limits::ANSWER_BYTES_MAX,
        limits::ANSWER_BYTES_MAX,
    )?;
    let redirects = options.redirects.unwrap_or(limits::REQUEST_REDIRECTS);
    if redirects > limits::REQUEST_REDIRECTS_MAX {
        return Err(format!("at most {} redirects are followed", limits::REQUEST_REDIRECTS_MAX));
    }
    let stream = match options.stream {
        None => None,
        Some(stream) => {
            let form = match stream.form {
                wit::StreamForm::Text => Form::Text,
                wit::StreamForm::Data => Form::Data,
                wit::StreamForm::Joined(path) => Form::Joined(checked_path(path)?),
            };
            Some(Stream { kind: stream.kind, form })
        }
    };
    Ok(Request {
        method,
        url,
        headers,
        body: Bytes::from(body),
        timeout_ms,
        deadline_ms: asked_ms.saturating_add(deadline_ms.into()),
        attempts_max,
        redirects,
        answer_bytes_max,
        keep_headers: options.keep_headers,
        stream,
        asked_by,
        asked_ms,
        failures: 0,
        shown: 0,
        next_ms: asked_ms,
        reason: String::new(),
        trace: None,
    })
}

fn within(what: &str, given: Option<u32>, otherwise: u32, max: u32) -> Result<u32, String> {
    match given.unwrap_or(otherwise) {
        given if (1..=max).contains(&given) => Ok(given),
        given => Err(format!("{what} is 1 to {max}, not {given}")),
    }
}

fn checked_path(path: String) -> Result<String, String> {
    let is_path =
        path.len() <= limits::STREAM_PATH_BYTES_MAX && path.split('.').all(|step| !step.is_empty());
    match is_path {
        true => Ok(path),
        false => Err(format!(
            "a path has keys and numbers with dots between them, and {} bytes at most: \
             `choices.0.delta.content`",
            limits::STREAM_PATH_BYTES_MAX
        )),
    }
}
