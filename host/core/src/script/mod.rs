//! Scripted messages: JSON lines, each a call of a handler with what must come of it. What
//! `slotd plugin test --wasm` runs; the format is described in docs/plugins.md.

mod compare;
mod expect;
mod expiry;
mod holds;
mod json;
mod place;
mod requests;
mod run;
#[cfg(test)]
mod tests;

pub use compare::{Event, Fired, Observed, Outcome, Sent, SetTimer, TimerChange};
pub use expect::Expect;
pub use holds::{Condition, Holds, OfHistory};
pub use json::compare_numbers as numbers;
pub use place::{Found, Place, add};
pub use requests::{HttpAnswer, MadeRequest, RequestChange};
pub use run::{LastMessage, Runner, Standing, Waiting};

use expect::Rejection;

use crate::{
    effects::{Answered, Firing, Received, send::Refusal},
    message::Client,
    names::{ServiceName, SessionKey},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{Value, value::RawValue};
use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc};

/// The session of a line that names none.
pub const SESSION_DEFAULT: &str = "test";
/// How a client was shown to be somebody where a line does not say it.
pub const CLIENT_KIND_DEFAULT: &str = "token";
/// The time until a line sets another.
pub const TIME_MS_DEFAULT: u64 = 1_700_000_000_000;

/// One line.
#[derive(Debug)]
pub struct Step {
    /// From 1.
    pub line: usize,
    /// Of the session; `None`: the plugin's own.
    pub service: Option<String>,
    pub session: String,
    pub time_ms: u64,
    pub call: Call,
    /// Put into the session's state before.
    pub given: Vec<(String, Bytes)>,
    /// The node fails before what comes of it is kept, and it is done again.
    pub crash: bool,
    pub expect: Expect,
}

#[derive(Clone, Debug)]
pub enum Call {
    Message {
        sender: Option<String>,
        id: Option<String>,
        content_type: String,
        body: Bytes,
        client: Option<Arc<Client>>,
    },
    Query {
        content_type: String,
        body: Bytes,
        client: Option<Arc<Client>>,
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
    /// What came of a request over HTTP that the session has made.
    Http(HttpAnswer),
    /// The session's first subscriber has come, or the last one has gone.
    Presence {
        present: bool,
    },
    /// The clock goes on by so much, to the step's time, and what becomes due on the way is sent.
    Advance {
        by_ms: u64,
    },
    /// Sessions go on with this component, each from its next message on.
    Swap {
        component: PathBuf,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    kind: Option<Kind>,
    service: Option<String>,
    session: Option<String>,
    sender: Option<String>,
    /// Who the client was shown to be.
    client: Option<ClientOf>,
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
    /// The name of a message to another session, or the id of a request.
    answer: Option<String>,
    /// The id of a request that fails.
    fail: Option<String>,
    code: Option<String>,
    reason: Option<String>,
    status: Option<u16>,
    headers: Option<BTreeMap<String, String>>,
    attempts: Option<u32>,
    parts: Option<requests::Parts>,
    presence: Option<Presence>,
    refusal: Option<Rejection>,
    reply_wanted: Option<bool>,
    timer: Option<String>,
    due_ms: Option<u64>,
    missed: Option<u64>,
    attempt: Option<u32>,
    /// In milliseconds.
    #[serde(default, deserialize_with = "duration")]
    advance: Option<u64>,
    /// A component's file.
    swap: Option<PathBuf>,
    #[serde(default)]
    crash: bool,
    #[serde(default)]
    given: BTreeMap<String, Box<RawValue>>,
    #[serde(default)]
    expect: Expect,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientOf {
    kind: Option<String>,
    subject: Option<String>,
    #[serde(default)]
    claims: BTreeMap<String, String>,
}

impl ClientOf {
    fn client(self) -> Result<Arc<Client>, String> {
        let Self { kind, subject, claims } = self;
        let kind = kind.map_or_else(|| CLIENT_KIND_DEFAULT.into(), Into::into);
        let subject = subject.map(Into::into);
        let client = Client { kind, subject, claims: claims.into_iter().collect() };
        client.check()?;
        Ok(client.into())
    }
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
    #[serde(skip)]
    Http,
    #[serde(skip)]
    Presence,
    #[serde(skip)]
    Swap,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Presence {
    Present,
    Absent,
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

/// Reads one line of a script; `time_ms` is the clock before it, and then after it.
///
/// # Errors
/// What is wrong with it.
pub fn step(number: usize, text: &str, time_ms: &mut u64) -> Result<Step, String> {
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
    if line.client.is_some() && !matches!(kind, Kind::Message | Kind::Query) {
        return Err("`client` is of a client's message, and of a query".into());
    }
    if line.from.is_none() && matches!(kind, Kind::Migrate | Kind::Answer) {
        return Err("`migrate` needs the version that it comes `from`, and `answer` the session; \
                    or the `status` of an answer to a request"
            .into());
    }
    line.check_http(kind)?;
    if line.from.is_some() && !matches!(kind, Kind::Migrate | Kind::Answer | Kind::Delivery) {
        return Err("only a message, an answer and `migrate` come `from` something".into());
    }
    if (line.due_ms.is_some() || line.missed.is_some()) && kind != Kind::Timer {
        return Err("`due_ms` and `missed` are of a timer's message".into());
    }
    let is_tried = matches!(kind, Kind::Timer | Kind::Delivery | Kind::Answer | Kind::Http);
    if line.attempt.is_some() && !is_tried {
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
    let of_session = line.session.is_some() || line.service.is_some() || !line.given.is_empty();
    if matches!(kind, Kind::Advance | Kind::Swap) && of_session {
        return Err("`advance` and `swap` are for all sessions, and give them no state".into());
    }
    if kind == Kind::Swap && line.crash {
        return Err("a `crash` is of a line that calls the handler".into());
    }
    if let Some(service) = &line.service {
        ServiceName::parse(service).map_err(|error| error.detail)?;
    }
    if let Some(by) = line.advance {
        *time_ms = time_ms.checked_add(by).ok_or("the time is over")?;
    }
    let (of_type, body) = body(&line, kind)?;
    let content_type = line.content_type.clone().unwrap_or_else(|| of_type.into());
    let call = match kind {
        Kind::Message => {
            let client = line.client.map(ClientOf::client).transpose()?;
            Call::Message { sender: line.sender, id: line.id, content_type, body, client }
        }
        Kind::Query => {
            let client = line.client.map(ClientOf::client).transpose()?;
            Call::Query { content_type, body, client }
        }
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
        Kind::Http => Call::Http(line.http()?),
        Kind::Presence => Call::Presence { present: line.presence == Some(Presence::Present) },
        Kind::Advance => Call::Advance { by_ms: line.advance.unwrap_or(0) },
        Kind::Swap => Call::Swap { component: line.swap.unwrap_or_default() },
    };
    line.expect.check(kind)?;
    let given = line.given.into_iter();
    Ok(Step {
        line: number,
        service: line.service,
        session: line.session.unwrap_or_else(|| SESSION_DEFAULT.into()),
        time_ms: *time_ms,
        call,
        given: given.map(|(key, value)| (key, bytes_of(&value))).collect(),
        crash: line.crash,
        expect: line.expect,
    })
}

/// What a line is: `timer`, `advance`, `answer`, `fail`, `presence` and `swap` say it by themselves, and `from` of a message.
fn kind(line: &Line) -> Result<Kind, String> {
    let answer = match line.status {
        Some(_) => Kind::Http,
        None => Kind::Answer,
    };
    let says = [
        line.timer.as_ref().map(|_| Kind::Timer),
        line.advance.map(|_| Kind::Advance),
        line.answer.as_ref().map(|_| answer),
        line.fail.as_ref().map(|_| Kind::Http),
        line.presence.map(|_| Kind::Presence),
        line.swap.as_ref().map(|_| Kind::Swap),
    ];
    let mut says = says.into_iter().flatten();
    let said = says.next();
    if says.next().is_some() {
        return Err(
            "a line has a `timer`, an `advance`, an `answer`, a `fail`, a `presence` or a `swap`"
                .into(),
        );
    }
    match line.kind {
        // It may be said of both kinds of answers.
        Some(Kind::Answer) if said == Some(Kind::Http) => Ok(Kind::Http),
        Some(kind) if said.is_some_and(|said| said != kind) => Err(
            "`timer`, `advance`, `answer`, `fail`, `presence` and `swap` are lines of their own \
                 kind"
                .into(),
        ),
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
    let has_none = matches!(kind, Kind::Migrate | Kind::Advance | Kind::Presence | Kind::Swap);
    if (has_none || line.refusal.is_some()) && (has_body || line.content_type.is_some()) {
        return Err("`migrate`, `advance`, `presence`, `swap` and a refusal have no body".into());
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
            Call::Http(answer) => return write!(f, "{answer} to {session:?}"),
            Call::Presence { present } => {
                let what = if *present { "present" } else { "absent" };
                return write!(f, "presence to {session:?}: {what}");
            }
            Call::Advance { by_ms } => return write!(f, "advance by {by_ms} ms"),
            Call::Swap { component } => return write!(f, "swap to {}", component.display()),
        };
        write!(f, "{what} to {session:?}: {}", compare::shown(body))
    }
}
