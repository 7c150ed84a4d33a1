//! Scripted messages: JSON lines, each a call of a handler with what must come of it. What
//! `slotd plugin test --wasm` runs; the format is described in docs/plugins.md.

mod compare;
mod json;
mod run;
#[cfg(test)]
mod tests;

pub use compare::{Event, Observed, Outcome};
pub use run::Runner;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, value::RawValue};
use std::{collections::BTreeMap, fmt};

/// The session of a line that names none.
pub const SESSION_DEFAULT: &str = "test";
/// The time until a line sets another.
pub const TIME_MS_DEFAULT: u64 = 1_700_000_000_000;

/// One line.
#[derive(Debug)]
pub struct Step {
    /// From 1.
    pub line: usize,
    pub session: String,
    pub time_ms: u64,
    pub call: Call,
    /// Put into the session's state before.
    pub given: Vec<(String, Bytes)>,
    pub expect: Expect,
}

#[derive(Clone, Debug)]
pub enum Call {
    Message { sender: Option<String>, id: Option<String>, content_type: String, body: Bytes },
    Query { content_type: String, body: Bytes },
    Migrate { from: String },
}

/// The expected result of a call. What is not given is not compared, but a call must succeed unless
/// a failure is given.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    #[serde(default, deserialize_with = "present")]
    reply: Option<Value>,
    reply_text: Option<String>,
    reply_base64: Option<String>,
    content_type: Option<String>,
    /// Of the session, after the call.
    seq: Option<u64>,
    rejection: Option<Rejection>,
    /// `migrate`'s sentence.
    refused: Option<String>,
    trap: Option<Reason>,
    limit: Option<Reason>,
    #[serde(default)]
    deadline: bool,
    /// All that the message emitted.
    events: Option<Vec<ExpectedEvent>>,
    /// All ephemeral events that it sent.
    notified: Option<Vec<ExpectedEvent>>,
    /// Some of the state, after the call; `null`: there is no such key.
    #[serde(default)]
    state: BTreeMap<String, Value>,
    #[serde(default)]
    state_base64: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rejection {
    code: String,
    message: Option<String>,
    retriable: Option<bool>,
}

/// `true`, or a part of the reason's text.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Reason {
    Any(bool),
    Part(String),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedEvent {
    kind: String,
    content_type: Option<String>,
    #[serde(default, deserialize_with = "present")]
    body: Option<Value>,
    body_text: Option<String>,
    body_base64: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default)]
    kind: Kind,
    session: Option<String>,
    sender: Option<String>,
    id: Option<String>,
    content_type: Option<String>,
    time_ms: Option<u64>,
    /// Kept as it is written.
    #[serde(default, deserialize_with = "as_written")]
    body: Option<Box<RawValue>>,
    body_text: Option<String>,
    body_base64: Option<String>,
    from: Option<String>,
    #[serde(default)]
    given: BTreeMap<String, Box<RawValue>>,
    #[serde(default)]
    expect: Expect,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    #[default]
    Message,
    Query,
    Migrate,
}

/// `null` that is written is a value.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// As [`present`].
fn as_written<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(d).map(Some)
}

/// Reads a script. Empty lines and those that begin with `//` are skipped.
///
/// # Errors
/// The first invalid line, with its number.
pub fn parse(text: &str) -> Result<Vec<Step>, String> {
    let mut time_ms = TIME_MS_DEFAULT;
    let mut steps = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with("//") {
            continue;
        }
        let step = step(index + 1, line, &mut time_ms);
        steps.push(step.map_err(|why| format!("line {}: {why}", index + 1))?);
    }
    Ok(steps)
}

fn step(number: usize, text: &str, time_ms: &mut u64) -> Result<Step, String> {
    let line: Line = serde_json::from_str(text).map_err(|error| {
        // The place in the line; its number comes from us.
        error.to_string().replace(" at line 1 column ", " at column ")
    })?;
    if let Some(given) = line.time_ms {
        *time_ms = given;
    }
    let for_message = line.sender.is_some() || line.id.is_some();
    if for_message && line.kind != Kind::Message {
        return Err("`sender` and `id` are a message's".into());
    }
    if line.from.is_some() != (line.kind == Kind::Migrate) {
        return Err("`from` is what `migrate` comes from, which needs it".into());
    }
    let (of_type, body) = body(&line)?;
    let content_type = line.content_type.unwrap_or_else(|| of_type.into());
    let call = match (line.kind, line.from) {
        (Kind::Message, _) => {
            Call::Message { sender: line.sender, id: line.id, content_type, body }
        }
        (Kind::Query, _) => Call::Query { content_type, body },
        (Kind::Migrate, from) => Call::Migrate { from: from.unwrap_or_default() },
    };
    line.expect.check(line.kind)?;
    let given = line.given.into_iter();
    Ok(Step {
        line: number,
        session: line.session.unwrap_or_else(|| SESSION_DEFAULT.into()),
        time_ms: *time_ms,
        call,
        given: given.map(|(key, value)| (key, bytes_of(&value))).collect(),
        expect: line.expect,
    })
}

fn bytes_of(value: &RawValue) -> Bytes {
    Bytes::copy_from_slice(value.get().as_bytes())
}

/// The body, and the content type of a body that is written so.
fn body(line: &Line) -> Result<(&'static str, Bytes), String> {
    let bodies = (&line.body, &line.body_text, &line.body_base64);
    let has_body = !matches!(bodies, (None, None, None));
    if line.kind == Kind::Migrate && (has_body || line.content_type.is_some()) {
        return Err("`migrate` has no body".into());
    }
    match bodies {
        (Some(json), None, None) => Ok(("application/json", bytes_of(json))),
        (None, Some(text), None) => Ok(("text/plain; charset=utf-8", text.clone().into())),
        (None, None, Some(base64)) => Ok(("application/octet-stream", decode(base64)?.into())),
        (None, None, None) => Ok(("application/octet-stream", Bytes::new())),
        _ => Err("one body: `body`, `body_text` or `body_base64`".into()),
    }
}

fn decode(base64: &str) -> Result<Vec<u8>, String> {
    STANDARD.decode(base64).map_err(|error| format!("{base64:?} is no base64: {error}"))
}

/// What is called, for a person.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let session = &self.session;
        let (what, body) = match &self.call {
            Call::Message { body, .. } => ("message", body),
            Call::Query { body, .. } => ("query", body),
            Call::Migrate { from } => return write!(f, "migrate {session:?} from {from}"),
        };
        write!(f, "{what} to {session:?}: {}", compare::shown(body))
    }
}

impl Expect {
    /// What can't be expected together, or of such a call.
    fn check(&self, kind: Kind) -> Result<(), String> {
        let replies =
            [self.reply.is_some(), self.reply_text.is_some(), self.reply_base64.is_some()];
        let failures = [
            self.rejection.is_some(),
            self.refused.is_some(),
            self.trap.is_some(),
            self.limit.is_some(),
            self.deadline,
        ];
        let count = |of: &[bool]| of.iter().filter(|each| **each).count();
        if count(&replies) > 1 {
            return Err("one reply: `reply`, `reply_text` or `reply_base64`".into());
        }
        if count(&failures) > 1 || count(&failures) == 1 && count(&replies) == 1 {
            return Err(
                "a call ends in one way: a reply, `rejection`, `refused`, `trap`, `limit` \
                        or `deadline`"
                    .into(),
            );
        }
        let no_reply = count(&replies) == 0 && self.content_type.is_none();
        if kind == Kind::Migrate && !(no_reply && self.rejection.is_none()) {
            return Err(
                "`migrate` has no reply and no rejection: it goes well, or is `refused`".into()
            );
        }
        if kind != Kind::Migrate && self.refused.is_some() {
            return Err("only `migrate` is `refused`; a handler gives a `rejection`".into());
        }
        let wanted = [&self.trap, &self.limit];
        if wanted.iter().any(|reason| matches!(reason, Some(Reason::Any(false)))) {
            return Err("`trap` and `limit` are true, or a part of the reason".into());
        }
        let events = self.events.iter().chain(&self.notified).flatten();
        let events = events.filter_map(|event| event.body_base64.as_ref());
        let texts = self.reply_base64.iter().chain(self.state_base64.values()).chain(events);
        texts.map(|text| decode(text)).find(Result::is_err).map_or(Ok(()), |bad| bad.map(drop))
    }

    /// Whether ephemeral events are asked for.
    pub fn is_notified(&self) -> bool {
        self.notified.is_some()
    }

    /// The keys of the state that are asked for.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.state.keys().chain(self.state_base64.keys()).map(String::as_str)
    }
}
