//! Scripted messages: JSON lines, each a call of a handler with what must come of it. What
//! `slotd plugin test --wasm` runs; the format is described in docs/plugins.md.

mod compare;
mod expiry;
mod json;
mod run;
#[cfg(test)]
mod tests;

pub use compare::{Event, Fired, Observed, Outcome, Sent, SetTimer, TimerChange};
pub use run::Runner;

use crate::{
    effects::{Answered, Firing, Received, send::Refusal},
    names::SessionKey,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, de::Error as _};
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
    Message {
        sender: Option<String>,
        id: Option<String>,
        content_type: String,
        body: Bytes,
    },
    Query {
        content_type: String,
        body: Bytes,
    },
    Migrate {
        from: String,
    },
    /// A timer's message, whether that is set or not; where it is, this is its next time.
    Timer {
        firing: Firing,
        content_type: String,
        body: Bytes,
    },
    /// A message of another session, or of the same.
    Delivery {
        received: Received,
        content_type: String,
        body: Bytes,
    },
    /// What came of a message that the session has sent, whether it has or not.
    Answer {
        answered: Answered,
        content_type: String,
        body: Bytes,
    },
    /// The clock goes on by so much, to the step's time, and what becomes due on the way is sent.
    Advance {
        by_ms: u64,
    },
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
    /// When the session is to expire, after the call.
    #[serde(default, deserialize_with = "expiry::Expected::given")]
    expires: Option<expiry::Expected>,
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
    /// All timers that it set or cancelled.
    timers: Option<Vec<ExpectedTimer>>,
    /// All messages to other sessions that it sent, in order.
    sent: Option<Vec<ExpectedSend>>,
    /// All messages of timers that were due, in order.
    fired: Option<Vec<ExpectedFiring>>,
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedTimer {
    name: String,
    #[serde(default)]
    cancelled: bool,
    due_ms: Option<u64>,
    /// After the call's time; in milliseconds.
    #[serde(default, deserialize_with = "duration")]
    after: Option<u64>,
    content_type: Option<String>,
    #[serde(default, deserialize_with = "present")]
    body: Option<Value>,
    body_text: Option<String>,
    body_base64: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedSend {
    /// `service/session`.
    to: String,
    /// `null`: no outcome comes back.
    #[serde(default, deserialize_with = "name_or_none")]
    reply_as: Option<Option<String>>,
    content_type: Option<String>,
    #[serde(default, deserialize_with = "present")]
    body: Option<Value>,
    body_text: Option<String>,
    body_base64: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedFiring {
    timer: String,
    session: Option<String>,
    due_ms: Option<u64>,
    missed: Option<u64>,
    attempt: Option<u32>,
    /// Whether it is not tried again.
    dead: Option<bool>,
    #[serde(default)]
    expect: Expect,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    kind: Option<Kind>,
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
    /// A version, or a session.
    from: Option<String>,
    answer: Option<String>,
    refusal: Option<Rejection>,
    reply_wanted: Option<bool>,
    timer: Option<String>,
    due_ms: Option<u64>,
    missed: Option<u64>,
    attempt: Option<u32>,
    /// In milliseconds.
    #[serde(default, deserialize_with = "duration")]
    advance: Option<u64>,
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
    Timer,
    Advance,
    #[serde(skip)]
    Delivery,
    Answer,
}

/// `null` that is written is a value.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// As [`present`].
fn name_or_none<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(d).map(Some)
}

/// As [`present`].
fn as_written<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(d).map(Some)
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    duration_of(&String::deserialize(deserializer)?).map(Some).map_err(D::Error::custom)
}

/// A duration as people write it (`90s`, `1h 30m`, `7d`), in milliseconds.
fn duration_of(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no duration; an example is \"10m\"");
    let span: jiff::Span = text.parse().map_err(|_| wrong())?;
    let duration = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours());
    let ms = duration.map_err(|_| wrong())?.as_millis();
    u64::try_from(ms).map_err(|_| wrong())
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
    let kind = kind(&line)?;
    let for_message = line.sender.is_some() || line.id.is_some();
    if for_message && kind != Kind::Message {
        return Err("`sender` and `id` are of a client's message".into());
    }
    if line.from.is_none() && matches!(kind, Kind::Migrate | Kind::Answer) {
        return Err(
            "`migrate` needs the version that it comes `from`, and `answer` the session".into()
        );
    }
    if line.from.is_some() && !matches!(kind, Kind::Migrate | Kind::Answer | Kind::Delivery) {
        return Err("only a message, an answer and `migrate` come `from` something".into());
    }
    if (line.due_ms.is_some() || line.missed.is_some()) && kind != Kind::Timer {
        return Err("`due_ms` and `missed` are of a timer's message".into());
    }
    if line.attempt.is_some() && !matches!(kind, Kind::Timer | Kind::Delivery | Kind::Answer) {
        return Err("`attempt` is of a message of a timer or a session, and of an answer".into());
    }
    if line.reply_wanted.is_some() && kind != Kind::Delivery {
        return Err("`reply_wanted` is of a message of a session".into());
    }
    if line.refusal.is_some() && kind != Kind::Answer {
        return Err("`refusal` is of an answer".into());
    }
    if line.attempt == Some(0) {
        return Err("the first `attempt` is 1".into());
    }
    if kind == Kind::Advance && (line.session.is_some() || !line.given.is_empty()) {
        return Err("`advance` is for all sessions, and gives them no state".into());
    }
    if let Some(by) = line.advance {
        *time_ms = time_ms.checked_add(by).ok_or("the time is over")?;
    }
    let (of_type, body) = body(&line, kind)?;
    let content_type = line.content_type.unwrap_or_else(|| of_type.into());
    let call = match kind {
        Kind::Message => Call::Message { sender: line.sender, id: line.id, content_type, body },
        Kind::Query => Call::Query { content_type, body },
        Kind::Migrate => Call::Migrate { from: line.from.unwrap_or_default() },
        Kind::Timer => {
            let firing = Firing {
                name: line.timer.unwrap_or_default(),
                due_ms: line.due_ms.unwrap_or(*time_ms),
                missed: line.missed.unwrap_or(0),
                attempt: line.attempt.unwrap_or(1),
            };
            Call::Timer { firing, content_type, body }
        }
        Kind::Delivery => {
            let received = Received {
                from: session_of(line.from.as_deref().unwrap_or_default())?,
                sent_by: 1,
                attempt: line.attempt.unwrap_or(1),
                hops: 1,
                reply: line.reply_wanted.unwrap_or(false),
            };
            Call::Delivery { received, content_type, body }
        }
        Kind::Answer => {
            let refusal = line.refusal.map(|it| Refusal {
                code: it.code,
                reason: it.message.unwrap_or_default(),
                retriable: it.retriable.unwrap_or(false),
            });
            let answered = Answered {
                of: session_of(line.from.as_deref().unwrap_or_default())?,
                name: line.answer.unwrap_or_default(),
                sent_by: 1,
                attempt: line.attempt.unwrap_or(1),
                hops: 2,
                refusal,
            };
            Call::Answer { answered, content_type, body }
        }
        Kind::Advance => Call::Advance { by_ms: line.advance.unwrap_or(0) },
    };
    line.expect.check(kind)?;
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

/// What a line is: `timer`, `advance` and `answer` say it by themselves, and `from` of a message.
fn kind(line: &Line) -> Result<Kind, String> {
    let said = match (&line.timer, &line.advance, &line.answer) {
        (Some(_), None, None) => Some(Kind::Timer),
        (None, Some(_), None) => Some(Kind::Advance),
        (None, None, Some(_)) => Some(Kind::Answer),
        (None, None, None) => None,
        _ => return Err("a line has a `timer`, an `advance` or an `answer`".into()),
    };
    match line.kind {
        Some(kind) if said.is_some_and(|said| said != kind) => {
            Err("`timer`, `advance` and `answer` are lines of their own kind".into())
        }
        None | Some(Kind::Message) if said.is_none() && line.from.is_some() => Ok(Kind::Delivery),
        Some(Kind::Timer) if said.is_none() => Err("a timer's message needs its `timer`".into()),
        Some(Kind::Answer) if said.is_none() => {
            Err("an answer needs the name of its `answer`".into())
        }
        Some(Kind::Advance) if said.is_none() => {
            Err("`advance` says by how much the clock goes on".into())
        }
        kind => Ok(kind.or(said).unwrap_or_default()),
    }
}

/// `service/session`.
fn session_of(text: &str) -> Result<SessionKey, String> {
    let wrong = |why: &str| format!("{text:?} is no session: {why}");
    let Some((service, session)) = text.split_once('/') else {
        return Err(wrong("it has the form service/session"));
    };
    SessionKey::parse(service, session).map_err(|error| wrong(&error.detail))
}

fn bytes_of(value: &RawValue) -> Bytes {
    Bytes::copy_from_slice(value.get().as_bytes())
}

/// The body, and the content type of a body that is written so.
fn body(line: &Line, kind: Kind) -> Result<(&'static str, Bytes), String> {
    let bodies = (&line.body, &line.body_text, &line.body_base64);
    let has_body = !matches!(bodies, (None, None, None));
    let has_none = matches!(kind, Kind::Migrate | Kind::Advance) || line.refusal.is_some();
    if has_none && (has_body || line.content_type.is_some()) {
        return Err("`migrate`, `advance` and a refusal have no body".into());
    }
    if line.refusal.is_some() {
        return Ok(("application/octet-stream", Bytes::new()));
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
            Call::Timer { firing, body, .. } => {
                let body = compare::shown(body);
                return write!(f, "timer {:?} to {session:?}: {body}", firing.name);
            }
            Call::Delivery { received, body, .. } => {
                let body = compare::shown(body);
                return write!(f, "message of {} to {session:?}: {body}", received.from);
            }
            Call::Answer { answered, body, .. } => {
                let what = answered.refusal.as_ref().map_or_else(
                    || compare::shown(body),
                    |refusal| format!("the refusal {:?}", refusal.code),
                );
                let (name, of) = (&answered.name, &answered.of);
                return write!(f, "answer {name:?} of {of} to {session:?}: {what}");
            }
            Call::Advance { by_ms } => return write!(f, "advance by {by_ms} ms"),
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
        match &self.fired {
            Some(_) if kind != Kind::Advance => return Err("only `advance` has `fired`".into()),
            Some(fired) => fired.iter().try_for_each(|each| each.expect.check(Kind::Timer))?,
            None => {}
        }
        let others = [
            !no_reply || count(&failures) > 0 || self.seq.is_some() || self.expires.is_some(),
            self.events.is_some() || self.notified.is_some(),
            self.timers.is_some() || self.sent.is_some(),
            !self.state.is_empty() || !self.state_base64.is_empty(),
        ];
        if kind == Kind::Advance && count(&others) > 0 {
            return Err("of `advance`, only `fired` can be expected; each of them has an \
                        `expect` of its own"
                .into());
        }
        let mut timers = self.timers.iter().flatten();
        if timers.any(|timer| timer.is_contradictory()) {
            return Err(
                "a timer is `cancelled`, or it has a `due_ms` or `after`, and a body".into()
            );
        }
        if self.sent.iter().flatten().any(|sent| sent.content().bodies() > 1) {
            return Err("what is sent has one body: `body`, `body_text` or `body_base64`".into());
        }
        let wanted = [&self.trap, &self.limit];
        if wanted.iter().any(|reason| matches!(reason, Some(Reason::Any(false)))) {
            return Err("`trap` and `limit` are true, or a part of the reason".into());
        }
        let events = self.events.iter().chain(&self.notified).flatten();
        let events = events.filter_map(|event| event.body_base64.as_ref());
        let timers = self.timers.iter().flatten().filter_map(|timer| timer.body_base64.as_ref());
        let texts = self.reply_base64.iter().chain(self.state_base64.values());
        let sent = self.sent.iter().flatten().filter_map(|sent| sent.body_base64.as_ref());
        let texts = texts.chain(events).chain(timers).chain(sent);
        texts.map(|text| decode(text)).find(Result::is_err).map_or(Ok(()), |bad| bad.map(drop))
    }

    /// Whether ephemeral events are asked for.
    pub fn is_notified(&self) -> bool {
        self.notified.is_some()
    }

    /// Whether timers are asked for.
    pub fn sets_timers(&self) -> bool {
        self.timers.is_some()
    }

    /// Whether messages to other sessions are asked for.
    pub fn sends(&self) -> bool {
        self.sent.is_some()
    }

    /// Whether it is asked for when the session expires.
    pub fn expires(&self) -> bool {
        self.expires.is_some()
    }

    /// What is expected of the timer's message that is the `number`th to be due, from 0.
    fn firing(&self, number: usize) -> Option<&Expect> {
        self.fired.as_ref()?.get(number).map(|firing| &firing.expect)
    }

    /// The keys of the state that are asked for.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.state.keys().chain(self.state_base64.keys()).map(String::as_str)
    }
}

/// What is expected of a content type and a body.
struct Content<'a> {
    content_type: Option<&'a String>,
    body: Option<&'a Value>,
    text: Option<&'a String>,
    base64: Option<&'a String>,
}

impl Content<'_> {
    /// How many bodies are expected: one makes sense.
    fn bodies(&self) -> usize {
        [self.body.is_some(), self.text.is_some(), self.base64.is_some()]
            .map(usize::from)
            .iter()
            .sum()
    }
}

macro_rules! contents {
    ($($Expected:ident)*) => {
        $(impl $Expected {
            fn content(&self) -> Content<'_> {
                Content {
                    content_type: self.content_type.as_ref(),
                    body: self.body.as_ref(),
                    text: self.body_text.as_ref(),
                    base64: self.body_base64.as_ref(),
                }
            }
        })*
    };
}
contents!(ExpectedEvent ExpectedTimer ExpectedSend);

impl ExpectedTimer {
    fn is_contradictory(&self) -> bool {
        let bodies = self.content().bodies();
        let times = usize::from(self.due_ms.is_some()) + usize::from(self.after.is_some());
        let is_set = bodies + times > 0 || self.content_type.is_some();
        bodies > 1 || times > 1 || self.cancelled && is_set
    }
}
