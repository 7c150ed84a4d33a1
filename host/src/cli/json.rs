//! A node's JSON, unchanged. It contains data that users stored, which is shown byte for byte:
//! parsing it into values and writing it again would sort keys and round numbers.

use super::{
    exit::{CliError, Exit},
    output,
};
use crate::http::{is_json, present};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use std::{borrow::Cow, collections::BTreeMap, fmt, ops::Deref};

/// An answer: parsed as a [`Value`], shown as its original text.
#[derive(Clone, Debug)]
pub struct Json {
    text: String,
    value: Value,
}

impl Json {
    /// # Errors
    /// It is not JSON, so not from slotd.
    pub fn parse(bytes: &[u8]) -> Result<Self, CliError> {
        let text = std::str::from_utf8(bytes).map_err(|error| no_json(&error))?;
        let value = serde_json::from_str(text).map_err(|error| no_json(&error))?;
        Ok(Self { text: text.to_owned(), value })
    }
    /// A part of it, with stored values in their original text.
    ///
    /// # Errors
    /// It has another structure.
    pub fn read<'a, T: Deserialize<'a>>(&'a self) -> Result<T, CliError> {
        read(&self.text)
    }
    pub fn into_value(self) -> Value {
        self.value
    }
}

impl From<Value> for Json {
    fn from(value: Value) -> Self {
        Self { text: value.to_string(), value }
    }
}

impl Deref for Json {
    type Target = Value;
    fn deref(&self) -> &Value {
        &self.value
    }
}

/// On one line.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&one_line(&self.text))
    }
}

fn no_json(error: &dyn fmt::Display) -> CliError {
    CliError::new(
        Exit::Server,
        format!("the answer is not slotd's JSON ({error}); is it a slotd node?"),
    )
}

/// # Errors
/// It has another structure.
pub fn read<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, CliError> {
    serde_json::from_str(json).map_err(|error| no_json(&error))
}

/// JSON without line breaks: they occur only between tokens, where a space is equivalent.
pub fn one_line(json: &str) -> Cow<'_, str> {
    match json.contains(['\n', '\r']) {
        true => json.trim().replace(['\n', '\r'], " ").into(),
        false => json.into(),
    }
}

/// A page of a session's history. A node of an earlier version omits some fields.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Page<'a> {
    #[serde(borrow)]
    pub entries: Vec<Entry<'a>>,
    pub last_seq: u64,
    pub next_after: Option<u64>,
    pub position: Option<String>,
}

/// A message with its reply and events.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Entry<'a> {
    pub seq: u64,
    pub sender: Option<String>,
    /// Who its client was shown to be.
    pub client: Option<Client>,
    pub time_ms: u64,
    pub plugin: String,
    /// Of a message that a timer of the session sent.
    pub timer: Option<Firing>,
    /// Of a message that a session sent.
    pub delivery: Option<Delivery>,
    /// Of the outcome of a message that the session has sent.
    pub answer: Option<Answer>,
    /// Of the answer to a request over HTTP that the session has made.
    pub http: Option<HttpAnswer>,
    /// Of a part of one.
    pub part: Option<HttpPart>,
    /// Of what subscribers did.
    pub presence: Option<Presence>,
    content_type: String,
    #[serde(borrow, deserialize_with = "present")]
    body: Option<&'a RawValue>,
    body_base64: Option<String>,
    reply_content_type: String,
    #[serde(borrow, deserialize_with = "present")]
    reply: Option<&'a RawValue>,
    reply_base64: Option<String>,
    /// Each as [`Event`].
    #[serde(borrow)]
    pub events: Vec<&'a RawValue>,
    /// What it has led to.
    pub caused: Vec<Caused>,
}

/// One effect that a message has asked for.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Caused {
    kind: String,
    name: Option<String>,
    due_ms: Option<u64>,
    to: Option<String>,
    count: Option<u64>,
}

impl fmt::Display for Caused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, due_ms, to, count } = self;
        if let Some(count) = count {
            return write!(f, "{count} more");
        }
        f.write_str(kind)?;
        if let Some(to) = to {
            write!(f, " to {to}")?;
        }
        match (name, to) {
            (Some(name), Some(_)) => write!(f, ", outcome as {name}")?,
            (Some(name), None) => write!(f, " {name}")?,
            (None, _) => {}
        }
        due_ms.map_or(Ok(()), |due_ms| write!(f, " for {}", output::format_time(due_ms)))
    }
}

/// Who a client was shown to be.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Client {
    kind: String,
    subject: Option<String>,
    claims: BTreeMap<String, String>,
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, subject, claims } = self;
        f.write_str(kind)?;
        if let Some(subject) = subject {
            write!(f, ":{subject}")?;
        }
        for (at, (name, value)) in claims.iter().enumerate() {
            write!(f, "{}{name}={value}", if at == 0 { " (" } else { ", " })?;
        }
        f.write_str(if claims.is_empty() { "" } else { ")" })
    }
}

/// Which of a timer's times a message is for.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Firing {
    name: String,
    due_ms: u64,
    missed: u64,
    attempt: u32,
}

impl fmt::Display for Firing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, due_ms, missed, attempt } = self;
        write!(f, "timer {name} for {}", output::format_time(*due_ms))?;
        if *missed > 0 {
            write!(f, ", {missed} missed")?;
        }
        if *attempt > 1 {
            write!(f, ", attempt {attempt}")?;
        }
        Ok(())
    }
}

/// Which session has sent a message.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Delivery {
    sender: String,
    sent_by: u64,
    attempt: u32,
    reply_wanted: bool,
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sender, sent_by, attempt, reply_wanted } = self;
        write!(f, "from {sender} #{sent_by}")?;
        if *reply_wanted {
            write!(f, ", which waits for a reply")?;
        }
        if *attempt > 1 {
            write!(f, ", attempt {attempt}")?;
        }
        Ok(())
    }
}

/// Which message of the session's own has this outcome.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Answer {
    name: String,
    sender: String,
    sent_by: u64,
    attempt: u32,
    refusal: Option<Refusal>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    code: String,
    message: String,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, sender, sent_by, attempt, refusal } = self;
        write!(f, "{name} of #{sent_by}: ")?;
        match refusal {
            Some(Refusal { code, message }) => write!(f, "refused by {sender}, {code}: {message}")?,
            None => write!(f, "reply of {sender}")?,
        }
        if *attempt > 1 {
            write!(f, ", attempt {attempt}")?;
        }
        Ok(())
    }
}

/// Which request of the session this is the answer to.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct HttpAnswer {
    id: String,
    asked_by: u64,
    status: Option<u16>,
    failure: Option<String>,
    reason: String,
    attempts: u32,
    attempt: u32,
}

impl fmt::Display for HttpAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, asked_by, status, failure, reason, attempts, attempt } = self;
        write!(f, "request {id} of #{asked_by}: ")?;
        match (failure, status) {
            (Some(code), None) => write!(f, "no answer, {code}: {reason}")?,
            (Some(code), Some(status)) => {
                write!(f, "answer {status} that broke off, {code}: {reason}")?;
            }
            (None, status) => write!(f, "answer {}", status.unwrap_or_default())?,
        }
        if *attempts != 1 {
            write!(f, ", made {attempts} times")?;
        }
        if *attempt > 1 {
            write!(f, ", attempt {attempt}")?;
        }
        Ok(())
    }
}

/// Which request of the session this is a part of the answer to.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct HttpPart {
    id: String,
    asked_by: u64,
    attempt: u32,
}

impl fmt::Display for HttpPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, asked_by, attempt } = self;
        write!(f, "part of the answer to request {id} of #{asked_by}")?;
        if *attempt > 1 {
            write!(f, ", attempt {attempt}")?;
        }
        Ok(())
    }
}

/// Whether there are subscribers.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Presence {
    present: bool,
}

impl fmt::Display for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.present { "subscribers: present" } else { "subscribers: absent" })
    }
}

impl Entry<'_> {
    /// What it comes from: the client that gave its name, or that was shown to be somebody, or what is no client.
    pub fn from(&self) -> Option<String> {
        let timer = self.timer.as_ref().map(Firing::to_string);
        let delivery = self.delivery.as_ref().map(Delivery::to_string);
        let answer = self.answer.as_ref().map(Answer::to_string);
        let http = self.http.as_ref().map(HttpAnswer::to_string);
        let part = self.part.as_ref().map(HttpPart::to_string);
        let presence = self.presence.as_ref().map(Presence::to_string);
        let sessions = timer.or(delivery).or(answer);
        let client = self.client.as_ref().map(Client::to_string);
        let client = match (&self.sender, client) {
            (Some(sender), Some(client)) => Some(format!("{sender}, {client}")),
            (sender, client) => sender.clone().or(client),
        };
        client.or(sessions).or(http).or(part).or(presence)
    }
    /// What it has led to, if anything.
    pub fn led_to(&self) -> Option<String> {
        let all: Vec<_> = self.caused.iter().map(Caused::to_string).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
    pub fn body(&self) -> String {
        shown(&self.content_type, self.body, self.body_base64.as_deref())
    }
    pub fn reply(&self) -> String {
        shown(&self.reply_content_type, self.reply, self.reply_base64.as_deref())
    }
}

/// An event, of a page or of a stream. Events of the node itself have no `seq`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Event<'a> {
    pub seq: Option<u64>,
    pub index: Option<u64>,
    pub time_ms: Option<u64>,
    pub kind: Option<String>,
    pub position: Option<String>,
    content_type: String,
    #[serde(borrow, deserialize_with = "present")]
    body: Option<&'a RawValue>,
    body_base64: Option<String>,
}

impl Event<'_> {
    pub fn body(&self) -> String {
        shown(&self.content_type, self.body, self.body_base64.as_deref())
    }
}

/// A page of a session's state, each entry as [`StateEntry`].
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct StatePage<'a> {
    #[serde(borrow)]
    pub entries: Vec<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct StateEntry<'a> {
    pub key: String,
    #[serde(borrow, deserialize_with = "present")]
    pub value: Option<&'a RawValue>,
    pub value_base64: Option<String>,
}

impl StateEntry<'_> {
    /// On one line.
    pub fn shown(&self) -> String {
        shown("application/json", self.value, self.value_base64.as_deref())
    }
}

/// A stored value, on one line for people: JSON unchanged, a text as plain text.
fn shown(content_type: &str, inline: Option<&RawValue>, base64: Option<&str>) -> String {
    match (inline.map(RawValue::get), base64) {
        (None, Some("") | None) => "(empty)".into(),
        (None, Some(base64)) => format!("(base64) {}", output::harmless(base64, false)),
        (Some(json), _) => match serde_json::from_str::<String>(json) {
            Ok(text) if !is_json(content_type) => match text.is_empty() {
                true => "(empty)".into(),
                false => output::harmless(&text, false),
            },
            _ => output::harmless(&one_line(json), false),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader of the history would take a message that no client sent for a client's.
    #[test]
    fn a_message_says_what_it_comes_from() {
        for (text, expected) in [
            (
                r#"{"seq": 3, "origin": "timer",
                    "timer": {"name": "tick", "due_ms": 1000, "missed": 2, "attempt": 3}}"#,
                Some("timer tick for 1970-01-01 00:00:01Z, 2 missed, attempt 3"),
            ),
            (
                r#"{"origin": "session", "delivery": {"sender": "cart/ann", "sent_by": 4,
                    "attempt": 2, "reply_wanted": true}}"#,
                Some("from cart/ann #4, which waits for a reply, attempt 2"),
            ),
            (
                r#"{"origin": "answer", "answer": {"name": "hold", "sender": "stock/x",
                    "sent_by": 4, "attempt": 1}}"#,
                Some("hold of #4: reply of stock/x"),
            ),
            (
                r#"{"origin": "answer", "answer": {"name": "hold", "sender": "stock/x",
                    "sent_by": 4, "attempt": 3, "refusal": {"code": "sold-out", "message": "None.",
                    "retriable": false}}}"#,
                Some("hold of #4: refused by stock/x, sold-out: None., attempt 3"),
            ),
            (
                r#"{"origin": "http", "http": {"id": "llm", "asked_by": 4, "status": 200,
                    "attempts": 1, "attempt": 1}}"#,
                Some("request llm of #4: answer 200"),
            ),
            (
                r#"{"origin": "http", "http": {"id": "llm", "asked_by": 4, "failure": "timeout",
                    "reason": "Too slow.", "attempts": 5, "attempt": 2}}"#,
                Some("request llm of #4: no answer, timeout: Too slow., made 5 times, attempt 2"),
            ),
            (
                r#"{"origin": "http", "http": {"id": "llm", "asked_by": 4, "status": 200,
                    "failure": "too-large", "reason": "Too much.", "attempts": 1, "attempt": 1}}"#,
                Some("request llm of #4: answer 200 that broke off, too-large: Too much."),
            ),
            (
                r#"{"origin": "http-part", "part": {"id": "llm", "asked_by": 4, "attempt": 2}}"#,
                Some("part of the answer to request llm of #4, attempt 2"),
            ),
            (
                r#"{"origin": "presence", "presence": {"present": false}}"#,
                Some("subscribers: absent"),
            ),
            (r#"{"seq": 3, "sender": "ann"}"#, Some("ann")),
            (
                r#"{"sender": "ann", "client": {"kind": "accounts", "subject": "u-7",
                    "claims": {"org": "a,b", "role": "staff"}}}"#,
                Some("ann, accounts:u-7 (org=a,b, role=staff)"),
            ),
            (r#"{"client": {"kind": "root"}}"#, Some("root")),
            (r#"{"seq": 3}"#, None),
        ] {
            assert_eq!(read::<Entry<'_>>(text).unwrap().from().as_deref(), expected);
        }
    }

    /// A reader of the history would not find what a message has led to.
    #[test]
    fn a_message_says_what_it_has_led_to() {
        let text = r#"{"seq": 3, "caused": [{"kind": "timer", "name": "tick", "due_ms": 1000},
            {"kind": "message", "to": "stock/tea", "name": "hold"}, {"kind": "message", "to": "a/b"},
            {"kind": "request", "name": "llm"}, {"kind": "close"}, {"kind": "more", "count": 2}]}"#;
        let expected = "timer tick for 1970-01-01 00:00:01Z; message to stock/tea, outcome as hold; \
                        message to a/b; request llm; close; 2 more";
        assert_eq!(read::<Entry<'_>>(text).unwrap().led_to().as_deref(), Some(expected));
        assert_eq!(read::<Entry<'_>>(r#"{"seq": 3}"#).unwrap().led_to(), None);
    }

    /// Without it, a session's values would be shown changed: 1.10 as 1.1, a number of twenty
    /// digits rounded, keys in another order.
    #[test]
    fn what_was_stored_is_shown_as_it_is() {
        let stored = "{\"z\": 1.10, \"a\": 12345678901234567890123,\n \"e\": 1E5, \"z\": null}";
        let line = stored.replace('\n', " ");
        let page = format!(
            r#"{{"last_seq": 9, "entries": [{{"seq": 9, "content_type": "application/json",
                "body": {stored}, "reply_content_type": "text/plain", "reply": "a\u001bb",
                "events": [{{"seq": 9, "index": 0, "content_type": "application/json", "body": null}}]}}]}}"#
        );
        let json = Json::parse(page.as_bytes()).unwrap();
        assert!(json.to_string().contains(&line) && !json.to_string().contains('\n'), "{json}");
        let page: Page<'_> = json.read().unwrap();
        let entry = &page.entries[0];
        assert_eq!((entry.body(), entry.reply()), (line, "a\\u{1b}b".into()));
        let event: Event<'_> = read(entry.events[0].get()).unwrap();
        assert_eq!((event.index, event.body()), (Some(0), "null".into()));
        assert!(Json::parse(b"{\"cut").is_err());
    }

    #[test]
    fn texts_and_bytes_are_told_from_json() {
        let raw = |json: &'static str| Some(serde_json::from_str::<&RawValue>(json).unwrap());
        for (content_type, inline, base64, expected) in [
            ("text/plain", raw(r#""tea""#), None, "tea"),
            ("application/json", raw(r#""tea""#), None, r#""tea""#),
            ("text/plain", raw(r#""""#), None, "(empty)"),
            ("application/octet-stream", None, Some("AAE="), "(base64) AAE="),
            ("application/octet-stream", None, Some(""), "(empty)"),
            ("", None, None, "(empty)"),
        ] {
            assert_eq!(shown(content_type, inline, base64), expected, "{content_type}");
        }
    }
}
