//! What came of a call, held against what was expected.

use super::{
    SESSION_DEFAULT, decode,
    expect::{Content, Expect, ExpectedEvent, ExpectedFiring, ExpectedSend, ExpectedTimer, Reason},
    json::differences,
    requests::{self, RequestChange},
};
use crate::{effects::Firing, error::Rejection, names::SessionKey, text};
use bytes::Bytes;
use serde_json::Value;
use std::collections::BTreeMap;

/// The most differences that are shown of one call.
const DIFFERENCES_MAX: usize = 20;
/// The most bytes that are shown of a value.
const SHOWN_BYTES_MAX: usize = 400;

/// What came of a call.
#[derive(Debug)]
pub struct Observed {
    pub outcome: Outcome,
    /// The session's, after the call.
    pub seq: u64,
    /// When the session is to expire, after the call.
    pub expires_ms: Option<u64>,
    /// Of the call.
    pub time_ms: u64,
    pub events: Vec<Event>,
    /// The ephemeral ones.
    pub notified: Vec<Event>,
    /// The timers that it set and cancelled.
    pub timers: Vec<TimerChange>,
    /// The messages to other sessions that it sent.
    pub sent: Vec<Sent>,
    /// The requests over HTTP that it made and cancelled.
    pub requests: Vec<RequestChange>,
    /// Whether the session is closed, after the call.
    pub closed: bool,
    /// The messages of timers that were due.
    pub fired: Vec<Fired>,
    /// What is under the keys that were asked for.
    pub state: BTreeMap<String, Option<Bytes>>,
    /// What came out otherwise when it was done again by a new instance, from the same state.
    pub unlike: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Reply {
        content_type: String,
        body: Bytes,
    },
    Rejected(Rejection),
    /// By `migrate`.
    Refused(String),
    Trapped(String),
    Limit(String),
    Deadline,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub kind: String,
    pub content_type: String,
    pub body: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimerChange {
    pub name: String,
    /// `None`: it was cancelled.
    pub set: Option<SetTimer>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetTimer {
    pub due_ms: u64,
    /// Of the message that set it.
    pub time_ms: u64,
    pub content_type: String,
    pub body: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub to: SessionKey,
    pub reply_as: Option<String>,
    pub content_type: String,
    pub body: Bytes,
}

/// A timer's message, and what came of it.
#[derive(Debug)]
pub struct Fired {
    /// In its plugin's own service, else with the service.
    pub session: String,
    pub key: SessionKey,
    pub firing: Firing,
    /// It failed, and is not tried again.
    pub dead: bool,
    pub observed: Observed,
}

impl Outcome {
    pub fn describe(&self) -> String {
        match self {
            Outcome::Reply { body, .. } => format!("the reply {}", shown(body)),
            Outcome::Rejected(Rejection { code, message, .. }) => {
                format!("the rejection {code:?}: {message}")
            }
            Outcome::Refused(why) => format!("a refusal to migrate: {why}"),
            Outcome::Trapped(why) => format!("a trap: {why}"),
            Outcome::Limit(why) => format!("a passed limit: {why}"),
            Outcome::Deadline => "a passed deadline".into(),
        }
    }
}

impl Expect {
    /// Each thing that is not as expected, in a line of its own; none: all is as expected.
    pub fn differences(&self, got: &Observed) -> Vec<String> {
        let mut out = got.unlike.clone();
        self.outcome(&got.outcome, &mut out);
        if let Some(seq) = self.seq.filter(|seq| *seq != got.seq) {
            out.push(format!("seq: expected {seq}, got {}", got.seq));
        }
        if let Some(expected) = self.expires {
            expected.compare(got, &mut out);
        }
        if let Some(expected) = &self.events {
            events("events", expected, &got.events, &mut out);
        }
        if let Some(expected) = &self.notified {
            events("notified", expected, &got.notified, &mut out);
        }
        if let Some(expected) = &self.timers {
            timers(expected, &got.timers, &mut out);
        }
        if let Some(expected) = &self.sent {
            sent(expected, &got.sent, &mut out);
        }
        if let Some(expected) = &self.requests {
            requests::compare(expected, &got.requests, &mut out);
        }
        if let Some(closed) = self.closed.filter(|closed| *closed != got.closed) {
            out.push(format!("closed: expected {closed}, got {}", got.closed));
        }
        fired(self.fired.as_deref(), &got.fired, &mut out);
        let value_of = |key: &str| got.state.get(key).and_then(Option::as_ref);
        for (key, expected) in &self.state {
            let path = format!("state[{key:?}]");
            match value_of(key) {
                None if expected.is_null() => {}
                None => out.push(format!("{path}: expected {expected}, there is no such key")),
                Some(value) if expected.is_null() => {
                    out.push(format!("{path}: expected no such key, it is {}", shown(value)));
                }
                Some(value) => json(&path, expected, value, &mut out),
            }
        }
        for (key, expected) in &self.state_base64 {
            let path = format!("state[{key:?}]");
            match value_of(key) {
                None => out.push(format!("{path}: there is no such key")),
                Some(value) => base64(&path, expected, value, &mut out),
            }
        }
        if out.len() > DIFFERENCES_MAX {
            let more = out.len() - DIFFERENCES_MAX;
            out.truncate(DIFFERENCES_MAX);
            out.push(format!("and {more} differences more"));
        }
        out
    }

    fn outcome(&self, got: &Outcome, out: &mut Vec<String>) {
        let mut reason = |kind: &str, wanted: &Reason, why: &str| match wanted {
            Reason::Part(part) if !why.contains(part) => {
                out.push(format!("{kind}: expected {part:?} in its reason, which is: {why}"));
            }
            _ => {}
        };
        match (self.failure(), got) {
            (None, Outcome::Reply { content_type, body }) => self.reply(content_type, body, out),
            (Some("rejection"), Outcome::Rejected(rejection)) => self.rejected(rejection, out),
            (Some("refused"), Outcome::Refused(why)) => {
                let expected = self.refused.as_deref().unwrap_or_default();
                if expected != why {
                    out.push(format!("refused: expected {expected:?}, got {why:?}"));
                }
            }
            (Some("trap"), Outcome::Trapped(why)) => {
                self.trap.iter().for_each(|wanted| reason("trap", wanted, why));
            }
            (Some("limit"), Outcome::Limit(why)) => {
                self.limit.iter().for_each(|wanted| reason("limit", wanted, why));
            }
            (Some("deadline"), Outcome::Deadline) => {}
            (expected, got) => {
                let expected = match expected {
                    None => "success".to_owned(),
                    Some("rejection") => {
                        let code = self.rejection.as_ref().map(|r| r.code.as_str());
                        format!("the rejection {:?}", code.unwrap_or_default())
                    }
                    Some("refused") => "a refusal to migrate".into(),
                    Some(other) => format!("a {other}"),
                };
                out.push(format!("expected {expected}, got {}", got.describe()));
            }
        }
    }

    fn failure(&self) -> Option<&'static str> {
        let ways = [
            ("rejection", self.rejection.is_some()),
            ("refused", self.refused.is_some()),
            ("trap", self.trap.is_some()),
            ("limit", self.limit.is_some()),
            ("deadline", self.deadline),
        ];
        ways.into_iter().find_map(|(way, holds)| holds.then_some(way))
    }

    fn reply(&self, content_type: &str, body: &[u8], out: &mut Vec<String>) {
        if let Some(expected) = &self.reply {
            json("reply", expected, body, out);
        }
        if let Some(expected) = &self.reply_text {
            text("reply", expected, body, out);
        }
        if let Some(expected) = &self.reply_base64 {
            base64("reply", expected, body, out);
        }
        if let Some(holds) = &self.holds {
            out.extend(holds.differences(body));
        }
        if let Some(expected) = self.content_type.as_deref().filter(|ty| *ty != content_type) {
            out.push(format!("content_type: expected {expected:?}, got {content_type:?}"));
        }
    }

    fn rejected(&self, got: &Rejection, out: &mut Vec<String>) {
        let Some(expected) = &self.rejection else { return };
        if expected.code != got.code {
            out.push(format!(
                "rejection.code: expected {:?}, got {:?}: {}",
                expected.code, got.code, got.message
            ));
        }
        if let Some(message) = expected.message.as_ref().filter(|m| **m != got.message) {
            out.push(format!("rejection.message: expected {message:?}, got {:?}", got.message));
        }
        if let Some(retriable) = expected.retriable.filter(|r| *r != got.retriable) {
            out.push(format!("rejection.retriable: expected {retriable}, got {}", got.retriable));
        }
    }
}

fn events(what: &str, expected: &[ExpectedEvent], got: &[Event], out: &mut Vec<String>) {
    for (i, (expected, got)) in expected.iter().zip(got).enumerate() {
        let path = format!("{what}[{i}]");
        if expected.kind != got.kind {
            out.push(format!("{path}.kind: expected {:?}, got {:?}", expected.kind, got.kind));
        }
        content(&path, &expected.content(), (&got.content_type, &got.body), out);
    }
    for (i, event) in expected.iter().enumerate().skip(got.len()) {
        out.push(format!("{what}[{i}]: expected {:?}, it is missing", event.kind));
    }
    for (i, event) in got.iter().enumerate().skip(expected.len()) {
        let body = shown(&event.body);
        out.push(format!("{what}[{i}]: {:?} {body} was not expected", event.kind));
    }
}

fn timers(expected: &[ExpectedTimer], got: &[TimerChange], out: &mut Vec<String>) {
    for expected in expected {
        let path = format!("timers[{:?}]", expected.name);
        let change = got.iter().find(|change| change.name == expected.name);
        match change.map(|change| &change.set) {
            None => out.push(format!("{path}: it was neither set nor cancelled")),
            Some(None) if expected.cancelled => {}
            Some(None) => out.push(format!("{path}: it was cancelled")),
            Some(Some(set)) if expected.cancelled => {
                out.push(format!("{path}: it was set, for {}", set.due_ms));
            }
            Some(Some(set)) => set_timer(&path, expected, set, out),
        }
    }
    let is_expected = |name: &String| expected.iter().any(|expected| expected.name == *name);
    for TimerChange { name, set } in got.iter().filter(|change| !is_expected(&change.name)) {
        let what = match set {
            Some(set) => format!("set, for {}", set.due_ms),
            None => "cancelled".into(),
        };
        out.push(format!("timers[{name:?}]: it was {what}, which was not expected"));
    }
}

fn set_timer(path: &str, expected: &ExpectedTimer, set: &SetTimer, out: &mut Vec<String>) {
    if let Some(due_ms) = expected.due_ms.filter(|due_ms| *due_ms != set.due_ms) {
        out.push(format!("{path}.due_ms: expected {due_ms}, got {}", set.due_ms));
    }
    let after = i128::from(set.due_ms) - i128::from(set.time_ms);
    if let Some(expected) = expected.after.filter(|expected| i128::from(*expected) != after) {
        out.push(format!("{path}.after: expected {expected} ms, got {after} ms"));
    }
    content(path, &expected.content(), (&set.content_type, &set.body), out);
}

fn sent(expected: &[ExpectedSend], got: &[Sent], out: &mut Vec<String>) {
    for (i, (expected, got)) in expected.iter().zip(got).enumerate() {
        let path = format!("sent[{i}]");
        let to = got.to.to_string();
        if expected.to != to {
            out.push(format!("{path}.to: expected {:?}, got {to:?}", expected.to));
        }
        if let Some(name) = expected.reply_as.as_ref().filter(|name| **name != got.reply_as) {
            let shown = |name: &Option<String>| match name {
                Some(name) => format!("{name:?}"),
                None => "none".into(),
            };
            let (name, got) = (shown(name), shown(&got.reply_as));
            out.push(format!("{path}.reply_as: expected {name}, got {got}"));
        }
        content(&path, &expected.content(), (&got.content_type, &got.body), out);
    }
    for (i, missing) in expected.iter().enumerate().skip(got.len()) {
        out.push(format!("sent[{i}]: expected one to {:?}, it is missing", missing.to));
    }
    for (i, other) in got.iter().enumerate().skip(expected.len()) {
        let body = shown(&other.body);
        out.push(format!("sent[{i}]: {body} to {:?} was not expected", other.to.to_string()));
    }
}

/// `None`: all of them must succeed.
fn fired(expected: Option<&[ExpectedFiring]>, got: &[Fired], out: &mut Vec<String>) {
    let default = Expect::default();
    for (i, got) in got.iter().enumerate() {
        let path = format!("fired[{i}]");
        let firing = match expected {
            None => None,
            Some(all) if i < all.len() => Some(&all[i]),
            Some(_) => {
                let name = &got.firing.name;
                out.push(format!("{path}: {name:?} of {:?} was not expected", got.session));
                continue;
            }
        };
        let expect = firing.map_or(&default, |firing| {
            which_firing(&path, firing, got, out);
            &firing.expect
        });
        let found = expect.differences(&got.observed);
        out.extend(found.iter().map(|it| format!("{path}.{it}")));
    }
    for (i, firing) in expected.unwrap_or_default().iter().enumerate().skip(got.len()) {
        out.push(format!("fired[{i}]: expected {:?}, it is missing", firing.timer));
    }
}

fn which_firing(path: &str, expected: &ExpectedFiring, got: &Fired, out: &mut Vec<String>) {
    let Firing { name, due_ms, missed, attempt } = &got.firing;
    let session = expected.session.as_deref().unwrap_or(SESSION_DEFAULT);
    let mut compare = |what: &str, expected: Option<String>, got: String| {
        if let Some(expected) = expected.filter(|expected| *expected != got) {
            out.push(format!("{path}.{what}: expected {expected}, got {got}"));
        }
    };
    compare("timer", Some(format!("{:?}", expected.timer)), format!("{name:?}"));
    compare("session", Some(format!("{session:?}")), format!("{:?}", got.session));
    compare("due_ms", expected.due_ms.map(|it| it.to_string()), due_ms.to_string());
    compare("missed", expected.missed.map(|it| it.to_string()), missed.to_string());
    compare("attempt", expected.attempt.map(|it| it.to_string()), attempt.to_string());
    compare("dead", expected.dead.map(|it| it.to_string()), got.dead.to_string());
}

pub(super) fn content(
    path: &str,
    expected: &Content<'_>,
    (content_type, body): (&str, &[u8]),
    out: &mut Vec<String>,
) {
    if let Some(ty) = expected.content_type.filter(|ty| **ty != content_type) {
        out.push(format!("{path}.content_type: expected {ty:?}, got {content_type:?}"));
    }
    let path = format!("{path}.body");
    if let Some(expected) = expected.body {
        json(&path, expected, body, out);
    }
    if let Some(expected) = expected.text {
        text(&path, expected, body, out);
    }
    if let Some(expected) = expected.base64 {
        base64(&path, expected, body, out);
    }
}

fn json(path: &str, expected: &Value, got: &[u8], out: &mut Vec<String>) {
    match serde_json::from_slice::<Value>(got) {
        Ok(value) => {
            let mut found = Vec::new();
            differences(path, expected, &value, &mut found);
            out.extend(found.iter().map(|line| cut(line)));
        }
        Err(_) => out.push(format!(
            "{path}: expected the JSON {}, got {}",
            cut(&expected.to_string()),
            shown(got)
        )),
    }
}

fn text(path: &str, expected: &str, got: &[u8], out: &mut Vec<String>) {
    if expected.as_bytes() != got {
        let expected = shown(expected.as_bytes());
        out.push(format!("{path}: expected {expected}, got {}", shown(got)));
    }
}

fn base64(path: &str, expected: &str, got: &[u8], out: &mut Vec<String>) {
    // It was checked when the script was read.
    let expected = decode(expected).unwrap_or_default();
    if expected != got {
        let at = expected.iter().zip(got).position(|(a, b)| a != b);
        let at = at.unwrap_or_else(|| expected.len().min(got.len()));
        out.push(format!(
            "{path}: expected {} bytes, got {}; they differ from byte {at} on",
            expected.len(),
            got.len()
        ));
    }
}

/// Bytes for a person: text as it is where it is text.
pub(super) fn shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok("") => "nothing".into(),
        Ok(text) => cut(&text.escape_debug().to_string().replace("\\\"", "\"")),
        Err(_) => format!("{} bytes that are no text", bytes.len()),
    }
}

fn cut(value: &str) -> String {
    let kept = text::cut(value, SHOWN_BYTES_MAX);
    if kept.len() == value.len() { value.to_owned() } else { format!("{kept}…") }
}
