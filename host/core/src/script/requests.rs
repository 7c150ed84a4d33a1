//! Requests over HTTP, as a script says and expects them: there is no network.

use super::{
    Kind, Line,
    compare::{content, shown},
    expect::Content,
    present,
};
use crate::{
    effects::http::{Failure, Outcome, Response, Stream, id_problem},
    limits,
};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use std::{collections::BTreeMap, fmt};

/// What came of a request.
#[derive(Clone, Debug)]
pub struct HttpAnswer {
    pub id: String,
    pub outcome: Outcome,
    /// `None`: what was shown says it.
    pub body: Option<Bytes>,
    pub content_type: Option<String>,
    /// How often the request was made.
    pub attempts: u32,
    /// How often the handler has been given the answer.
    pub attempt: u32,
    /// What was shown while it came, of each attempt that is known.
    pub parts: Vec<Vec<String>>,
}

/// A request that a message made or cancelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestChange {
    pub id: String,
    /// `None`: it was cancelled.
    pub made: Option<MadeRequest>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeRequest {
    pub method: String,
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    pub stream: Option<Stream>,
}

/// What was shown of an answer: of its only attempt, or of each.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Parts {
    Once(Vec<String>),
    Attempts(Vec<Vec<String>>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpectedRequest {
    id: String,
    #[serde(default)]
    cancelled: bool,
    method: Option<String>,
    url: Option<String>,
    /// Some of them; names in any case. `null`: there is no such header.
    #[serde(default)]
    headers: BTreeMap<String, Option<String>>,
    /// The kind of its stream's events; `null`: it has none.
    #[serde(default, deserialize_with = "super::name_or_none")]
    stream: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    body: Option<Value>,
    body_text: Option<String>,
    pub(super) body_base64: Option<String>,
}

impl Line {
    /// What is of a request's answer is in no other line.
    pub(super) fn check_http(&self, kind: Kind) -> Result<(), String> {
        let failed = self.code.is_some() || self.reason.is_some();
        if failed && self.fail.is_none() {
            return Err("`code` and `reason` are of a request that `fail`s".into());
        }
        let has_any = self.status.is_some()
            || self.headers.is_some()
            || self.attempts.is_some()
            || self.parts.is_some();
        if has_any && kind != Kind::Http {
            return Err("`status`, `headers`, `attempts` and `parts` are of the `answer` to a \
                        request, or of one that `fail`s"
                .into());
        }
        if kind == Kind::Http && self.from.is_some() {
            return Err("an answer comes `from` a session, or has a `status`".into());
        }
        Ok(())
    }

    /// What came of a request, as a line says it.
    ///
    /// # Errors
    /// What it says can't be.
    pub(super) fn http(&self) -> Result<HttpAnswer, String> {
        let id = self.answer.as_ref().or(self.fail.as_ref()).cloned().unwrap_or_default();
        id_problem(&id).map_or(Ok(()), Err)?;
        if self.headers.is_some() && self.status.is_none() {
            return Err("`headers` are of an answer with a `status`".into());
        }
        let response = match self.status {
            None => None,
            Some(status) if (100..=999).contains(&status) => {
                let headers = self.headers.iter().flatten();
                let lower = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
                Some(Response { status, headers: lower.collect() })
            }
            Some(status) => return Err(format!("{status} is no `status` of an answer")),
        };
        let is_success = response.as_ref().is_none_or(|it| (200..300).contains(&it.status));
        let outcome = match (&self.fail, response) {
            (None, None) => return Err("an answer to a request has a `status`".into()),
            (None, Some(response)) => Outcome::Response(response),
            (Some(_), response) => {
                let code = self.code.clone().ok_or("a request that `fail`s has a `code`")?;
                let reason = self.reason.clone().unwrap_or_else(|| "The script says so.".into());
                Outcome::Failure(Failure { code, reason, response })
            }
        };
        let is_failure = matches!(&outcome, Outcome::Failure(it) if it.response.is_none());
        let (content_type, body) = match super::body(self, Kind::Http)? {
            (_, body) if body.is_empty() && !self.has_body() => (None, None),
            _ if is_failure => {
                return Err("a request that `fail`s has a body with a `status` alone".into());
            }
            (content_type, body) => (Some(content_type.to_owned()), Some(body)),
        };
        let parts = match &self.parts {
            None => Vec::new(),
            Some(Parts::Once(parts)) => vec![parts.clone()],
            Some(Parts::Attempts(attempts)) => attempts.clone(),
        };
        let known = u32::try_from(parts.len()).unwrap_or(u32::MAX).max(1);
        let attempts = self.attempts.unwrap_or(known);
        if attempts < known {
            return Err("there are `parts` of more `attempts` than were made".into());
        }
        // What was shown last is of the attempt that was answered.
        if !is_success && parts.last().is_some_and(|last| !last.is_empty()) {
            return Err("`parts` are shown of an answer with a `status` of success alone".into());
        }
        let too_long = parts.iter().flatten().any(|it| it.len() > limits::STREAM_PART_BYTES);
        if too_long || parts.iter().flatten().any(String::is_empty) {
            return Err(format!("a part has 1 to {} bytes", limits::STREAM_PART_BYTES));
        }
        Ok(HttpAnswer {
            id,
            outcome,
            body,
            content_type: self.content_type.clone().or(content_type),
            attempts,
            attempt: self.attempt.unwrap_or(1),
            parts,
        })
    }

    fn has_body(&self) -> bool {
        self.body.is_some() || self.body_text.is_some() || self.body_base64.is_some()
    }
}

impl fmt::Display for HttpAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = self.body.as_deref().map(shown).unwrap_or_default();
        match &self.outcome {
            Outcome::Response(response) => {
                write!(f, "answer {:?}, {} {body}", self.id, response.status)
            }
            Outcome::Failure(failure) => write!(f, "failure {:?}, {}", self.id, failure.code),
        }
    }
}

impl ExpectedRequest {
    pub(super) fn content(&self) -> Content<'_> {
        Content {
            content_type: None,
            body: self.body.as_ref(),
            text: self.body_text.as_ref(),
            base64: self.body_base64.as_ref(),
        }
    }

    /// What can't be expected together.
    pub(super) fn check(&self) -> Result<(), String> {
        let bodies = self.content().bodies();
        let is_made = self.method.is_some()
            || self.url.is_some()
            || !self.headers.is_empty()
            || self.stream.is_some();
        if bodies > 1 || self.cancelled && (bodies > 0 || is_made) {
            return Err("a request is `cancelled`, or it has a `method`, `url`, `headers`, a \
                        `stream` and one body"
                .into());
        }
        Ok(())
    }
}

/// By their ids: the order in which a message makes them says nothing.
pub(super) fn compare(expected: &[ExpectedRequest], got: &[RequestChange], out: &mut Vec<String>) {
    for expected in expected {
        let path = format!("requests[{:?}]", expected.id);
        let change = got.iter().find(|change| change.id == expected.id);
        match change.map(|change| &change.made) {
            None => out.push(format!("{path}: it was neither made nor cancelled")),
            Some(None) if expected.cancelled => {}
            Some(None) => out.push(format!("{path}: it was cancelled")),
            Some(Some(made)) if expected.cancelled => {
                out.push(format!("{path}: it was made, {} {}", made.method, made.url));
            }
            Some(Some(made)) => one(&path, expected, made, out),
        }
    }
    let is_expected = |id: &String| expected.iter().any(|expected| expected.id == *id);
    for RequestChange { id, made } in got.iter().filter(|change| !is_expected(&change.id)) {
        let what = match made {
            Some(made) => format!("made, {} {}", made.method, made.url),
            None => "cancelled".into(),
        };
        out.push(format!("requests[{id:?}]: it was {what}, which was not expected"));
    }
}

fn one(path: &str, expected: &ExpectedRequest, got: &MadeRequest, out: &mut Vec<String>) {
    let texts = [("method", &expected.method, &got.method), ("url", &expected.url, &got.url)];
    for (what, expected, got) in texts {
        if let Some(expected) = expected.as_ref().filter(|expected| *expected != got) {
            out.push(format!("{path}.{what}: expected {expected:?}, got {got:?}"));
        }
    }
    for (name, expected) in &expected.headers {
        let mut values = got.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        let path = format!("{path}.headers[{name:?}]");
        match (expected, values.next()) {
            (None, None) => {}
            (None, Some((_, value))) => out.push(format!("{path}: expected none, got {value:?}")),
            (Some(expected), None) => out.push(format!("{path}: expected {expected:?}, got none")),
            (Some(expected), Some((_, value))) => {
                if value != expected && values.all(|(_, value)| value != expected) {
                    out.push(format!("{path}: expected {expected:?}, got {value:?}"));
                }
            }
        }
    }
    if let Some(expected) = &expected.stream {
        let got = got.stream.as_ref().map(|stream| &stream.kind);
        if expected.as_ref() != got {
            let shown = |kind: Option<&String>| kind.map_or("none".into(), |it| format!("{it:?}"));
            let (expected, got) = (shown(expected.as_ref()), shown(got));
            out.push(format!("{path}.stream: expected {expected}, got {got}"));
        }
    }
    content(path, &expected.content(), ("", &got.body), out);
}
