//! Does what its message says, once with every part of the SDK: the plugin that all SDKs are held
//! against. There is one of it in each language, and they answer alike.
//!
//! A body of the content type `application/json` is `{"op": ..}`: one of [`Op`]'s names in
//! kebab-case with its fields, or of [`Question`]'s in a query. Any other body is echoed with its
//! content type. What is not understood is rejected: `bad-message`, in a query `bad-query`.
//!
//! A timer's message emits `fired`, with what it says of itself, and replies with that. Where its body is
//! an `{"op": ..}`, that is done before; where it has `{"fails": N}`, N attempts are rejected for now.
//!
//! A message of another session emits `received`, with what it says of itself, and replies with that; its body may
//! have `op` and `fails` as a timer's has. The outcome of a message that was sent emits `answered`, in the same way;
//! they may be in `answer` of what was sent then, which the other kitchen sink's reply has in its `body`.
//!
//! What came of a request over HTTP is added to the list under `answers` in the state, and emits `answered`; under the key
//! `fail-answers` there may be anything that has it rejected for now instead. Whether there are subscribers is added to
//! the list under `presence`, and emits `presence`.
//!
//! `migrate` refuses to come from 0.0.9, panics when it comes from 0.0.8, and writes `migrated`
//! otherwise.

mod native;

use serde::{Deserialize, Deserializer, de::IgnoredAny};
use slotd_guest::{
    Client, Context, Error, Level, MigrateContext, Origin, QueryContext, RawHandler, Rejection,
    Reply, StateView, Timer, Value, When,
    http::{self, Form},
    json, serde_json,
};
use std::{fmt::Write as _, hint::black_box, time::Duration};

pub struct KitchenSink;

const JSON: &str = "application/json";

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
enum Op {
    Echo {
        value: Value,
    },
    /// What the message's context says.
    Context,
    /// Who the client was shown to be: `{"kind", "subject", "claims"}`, or null.
    Client,
    Get {
        key: String,
    },
    Set {
        key: String,
        value: Value,
    },
    Delete {
        key: String,
    },
    GetBytes {
        key: String,
    },
    SetBytes {
        key: String,
        hex: String,
    },
    /// One page of the host's.
    Scan {
        prefix: String,
        after: Option<String>,
        limit: u32,
    },
    /// The SDK's own scan, over all pages.
    ScanAll {
        prefix: String,
    },
    /// Writes `count` values of `bytes` letters.
    Fill {
        prefix: String,
        count: u32,
        bytes: usize,
    },
    Emit {
        kind: String,
        value: Value,
        times: u32,
    },
    /// As `Emit`, in passing.
    Notify {
        kind: String,
        value: Value,
        times: u32,
    },
    Timer(SetTimer),
    CancelTimer {
        name: String,
    },
    Timers,
    Expire(Expire),
    Keep,
    Send(Send),
    Request(Request),
    CancelRequest {
        id: String,
    },
    OpenRequests,
    Close,
    Watch {
        wanted: bool,
    },
    Log {
        level: String,
        text: String,
    },
    /// Prints by the language's own means.
    Print {
        text: String,
    },
    /// Adds to a u64, which is kept as JSON.
    Add64 {
        key: String,
        n: String,
    },
    Clock,
    Random,
    Reject(Refusal),
    Throw(Throw),
    /// Calls itself so many times.
    Deep {
        depth: u64,
    },
    Spin,
    Allocate,
    /// Replies with so many letters.
    Big {
        bytes: usize,
    },
}

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
enum Question {
    Echo { value: Value },
    Context,
    Client,
    Get { key: String },
    GetBytes { key: String },
    Scan { prefix: String, after: Option<String>, limit: u32 },
    ScanAll { prefix: String },
    Clock,
    Random,
    Reject(Refusal),
    Throw(Throw),
    OpenRequests,
    // What a query may not do, but for `Timers`.
    Set { key: String, value: Value },
    Delete { key: String },
    Emit { kind: String, value: Value },
    Notify { kind: String, value: Value },
    Timer(SetTimer),
    CancelTimer { name: String },
    Timers,
    Expire(Expire),
    Keep,
    Send(Send),
    Request(Request),
    CancelRequest { id: String },
    Close,
    Watch { wanted: bool },
}

/// One of the four says when; in milliseconds.
#[derive(Deserialize)]
struct SetTimer {
    name: String,
    after: Option<u64>,
    at: Option<u64>,
    every: Option<u64>,
    /// An expression and a zone.
    cron: Option<(String, String)>,
    body: Value,
}

/// One of the two says when; in milliseconds.
#[derive(Deserialize)]
struct Expire {
    after: Option<u64>,
    at: Option<u64>,
}

/// With a `body` or, as bytes, `hex`.
#[derive(Deserialize)]
struct Send {
    /// `service/session`.
    to: String,
    #[serde(default, deserialize_with = "present")]
    body: Option<Value>,
    hex: Option<String>,
    /// The name that the outcome comes back under.
    reply: Option<String>,
    /// 1, if there is none.
    times: Option<u32>,
}

#[derive(Deserialize)]
struct Request {
    id: String,
    method: String,
    url: String,
    #[serde(default)]
    headers: Vec<(String, String)>,
    #[serde(default)]
    body: String,
    #[serde(default)]
    options: Options,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Options {
    timeout_ms: Option<u32>,
    deadline_ms: Option<u32>,
    attempts: Option<u32>,
    redirects: Option<u8>,
    answer_bytes: Option<u32>,
    keep_headers: Vec<String>,
    stream: Option<Stream>,
}

#[derive(Deserialize)]
struct Stream {
    kind: String,
    form: StreamForm,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StreamForm {
    Text,
    Data,
    Joined(String),
}

/// `null` that is written is a value.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
struct Refusal {
    code: String,
    message: String,
    retriable: bool,
    /// A key to write before.
    set: Option<String>,
}

#[derive(Deserialize)]
struct Throw {
    message: String,
    /// A key to write before.
    set: Option<String>,
}

impl RawHandler for KitchenSink {
    fn handle(cx: &mut Context, body: Vec<u8>) -> Result<Reply, Rejection> {
        let is_json = cx.content_type() == JSON;
        let origin = cx.origin().clone();
        let (kind, told) = match origin {
            Origin::Answer { name, sender, attempt, refusal } => {
                let body = match &refusal {
                    Some(_) => Value::Null,
                    None if is_json => serde_json::from_slice(&body)?,
                    None => to_hex(&body).into(),
                };
                if let Some(told) = body.pointer("/body/answer") {
                    obey(cx, told, attempt)?;
                }
                let refusal = refusal.map(|it| {
                    json!({"code": it.code(), "message": it.message(), "retriable": it.is_retriable()})
                });
                let told = json!({
                    "name": name, "from": sender, "attempt": attempt, "refusal": refusal, "body": body,
                });
                ("answered", told)
            }
            Origin::Http(_) => {
                let answered = cx.http_answer();
                let answered =
                    answered.ok_or_else(|| bad_message("it says nothing of its request"))?;
                let http::Answered { id, outcome, attempts, attempt } = answered;
                if cx.state().get_bytes("fail-answers").is_some() {
                    return Err(told_to());
                }
                let (key, what) = match outcome {
                    Ok(response) => ("status", json!(response.status)),
                    Err(http::Failure { code, .. }) => ("failure", json!(code)),
                };
                let body = String::from_utf8_lossy(&body);
                let told = json!({
                    "id": id, key: what, "body": body, "attempts": attempts, "attempt": attempt,
                });
                add(cx, "answers", &told)?;
                ("answered", told)
            }
            Origin::Presence => {
                let present = cx.presence();
                let present =
                    present.ok_or_else(|| bad_message("it says nothing of subscribers"))?;
                add(cx, "presence", &present.into())?;
                ("presence", present.into())
            }
            _ if !is_json => {
                return Ok(Reply { content_type: cx.content_type().to_owned(), body });
            }
            Origin::Timer { name, due_ms, missed, attempt } => {
                let body = serde_json::from_slice(&body)?;
                obey(cx, &body, attempt)?;
                let told = json!({
                    "name": name, "due": due_ms, "missed": missed, "attempt": attempt, "body": body,
                });
                ("fired", told)
            }
            Origin::Session { sender, attempt, reply_wanted } => {
                let body = serde_json::from_slice(&body)?;
                obey(cx, &body, attempt)?;
                let told = json!({
                    "from": sender, "attempt": attempt, "reply": reply_wanted, "body": body,
                });
                ("received", told)
            }
            Origin::Client { .. } => {
                return Ok(Reply::json(&handle(cx, serde_json::from_slice(&body)?)?)?);
            }
        };
        cx.emit(kind, &told)?;
        Ok(Reply::json(&told)?)
    }

    fn query(cx: &QueryContext, body: Vec<u8>) -> Result<Reply, Rejection> {
        if cx.content_type() != JSON {
            return Ok(Reply { content_type: cx.content_type().to_owned(), body });
        }
        let question = serde_json::from_slice(&body).map_err(|error| {
            Rejection::new("bad-query", format!("the query is not understood: {error}"))
        })?;
        Ok(Reply::json(&query(cx, question)?)?)
    }

    fn migrate(cx: &mut MigrateContext, from: &str) -> Result<(), String> {
        match from {
            "0.0.9" => Err("no way from 0.0.9".into()),
            "0.0.8" => panic!("thrown by migrate"),
            _ => Ok(cx.state().set("migrated", &json!({ "from": from }))?),
        }
    }
}

fn shown_client(client: Option<Client>) -> Value {
    let shown = |Client { kind, subject, claims }| json!({"kind": kind, "subject": subject, "claims": claims});
    client.map_or(Value::Null, shown)
}

fn told_to() -> Rejection {
    Rejection::new("told-to", "As told.").retriable()
}

/// Adds to the list under a key of the state.
fn add(cx: &mut Context, key: &str, value: &Value) -> Result<(), Rejection> {
    let mut all = cx.state().get::<Vec<Value>>(key)?.unwrap_or_default();
    all.push(value.clone());
    Ok(cx.state().set(key, &all)?)
}

/// Does what the body of a message says that is from no client: fails, or an op.
fn obey(cx: &mut Context, body: &Value, attempt: u32) -> Result<(), Rejection> {
    if body["fails"].as_u64().is_some_and(|fails| u64::from(attempt) <= fails) {
        return Err(told_to());
    }
    if body.get("op").is_some() {
        handle(cx, serde_json::from_value(body.clone())?)?;
    }
    Ok(())
}

fn handle(cx: &mut Context, op: Op) -> Result<Value, Rejection> {
    match op {
        Op::Echo { value } => return Ok(json!({ "value": value })),
        Op::Context => {
            return Ok(json!({
                "session": cx.session(), "seq": cx.seq(), "id": cx.id(), "sender": cx.sender(),
                "content_type": cx.content_type(),
            }));
        }
        Op::Client => return Ok(shown_client(cx.client())),
        Op::Get { key } => return get(&cx.state(), &key),
        Op::Set { key, value } => cx.state().set(&key, &value)?,
        Op::Delete { key } => cx.state().delete(&key),
        Op::GetBytes { key } => return Ok(get_bytes(&cx.state(), &key)),
        Op::SetBytes { key, hex } => cx.state().set_bytes(&key, &from_hex(&hex)?),
        Op::Scan { prefix, after, limit } => {
            return scan(&cx.state(), &prefix, after.as_deref(), limit);
        }
        Op::ScanAll { prefix } => return scan_all(&cx.state(), &prefix),
        Op::Fill { prefix, count, bytes } => {
            let value = "x".repeat(bytes);
            for i in 0..count {
                cx.state().set(&format!("{prefix}{i:05}"), &value)?;
            }
        }
        Op::Emit { kind, value, times } => {
            for _ in 0..times {
                cx.emit(&kind, &value)?;
            }
        }
        Op::Notify { kind, value, times } => {
            for _ in 0..times {
                cx.notify(&kind, &value)?;
            }
        }
        Op::Timer(timer) => return set_timer(cx, timer),
        Op::CancelTimer { name } => return Ok(json!({ "was": cx.timers().cancel(&name) })),
        Op::Timers => return Ok(shown(cx.timers().list())),
        Op::Expire(when) => expire(cx, &when)?,
        Op::Keep => cx.keep(),
        Op::Send(told) => send(cx, &told)?,
        Op::Request(told) => return request(cx, told),
        Op::CancelRequest { id } => return Ok(json!(cx.http().cancel(&id))),
        Op::OpenRequests => return Ok(json!(cx.http().open())),
        Op::Close => cx.close(),
        Op::Watch { wanted } => cx.watch_subscribers(wanted),
        Op::Log { level, text } => cx.log(level_of(&level)?, text),
        Op::Print { text } => native::print(cx, &text),
        Op::Add64 { key, n } => {
            let n: u64 = n.parse().map_err(|_| bad_message("`n` is no u64"))?;
            let sum = cx.state().get::<u64>(&key)?.unwrap_or(0).wrapping_add(n);
            cx.state().set(&key, &sum)?;
            return Ok(json!({ "sum": sum.to_string() }));
        }
        Op::Clock => return Ok(clock(cx.time_ms())),
        Op::Random => return Ok(random()),
        Op::Reject(refusal) => {
            if let Some(key) = &refusal.set {
                cx.state().set(key, &"written")?;
            }
            return Err(refusal.into());
        }
        Op::Throw(Throw { message, set }) => {
            if let Some(key) = set {
                cx.state().set(&key, &"written")?;
            }
            panic!("{message}");
        }
        Op::Deep { depth } => _ = black_box(deep(depth)),
        Op::Spin => loop {
            black_box(());
        },
        Op::Allocate => loop {
            // Touched, so that it is really there; leaked, so that it stays.
            black_box(Vec::leak(vec![1_u8; 1024 * 1024]));
        },
        Op::Big { bytes } => return Ok(json!({ "text": "x".repeat(bytes) })),
    }
    Ok(json!({}))
}

fn query(cx: &QueryContext, question: Question) -> Result<Value, Rejection> {
    match question {
        Question::Echo { value } => return Ok(json!({ "value": value })),
        Question::Context => {
            return Ok(json!({
                "session": cx.session(), "seq": cx.seq(), "content_type": cx.content_type(),
            }));
        }
        Question::Client => return Ok(shown_client(cx.client())),
        Question::Get { key } => return get(&cx.state(), &key),
        Question::GetBytes { key } => return Ok(get_bytes(&cx.state(), &key)),
        Question::Scan { prefix, after, limit } => {
            return scan(&cx.state(), &prefix, after.as_deref(), limit);
        }
        Question::ScanAll { prefix } => return scan_all(&cx.state(), &prefix),
        Question::Clock => return Ok(clock(cx.time_ms())),
        Question::Random => return Ok(random()),
        Question::Reject(refusal) => return Err(refusal.into()),
        Question::Throw(Throw { message, .. }) => panic!("{message}"),
        Question::Set { key, value } => cx.forbidden().state().set(&key, &value)?,
        Question::Delete { key } => cx.forbidden().state().delete(&key),
        Question::Emit { kind, value } => cx.forbidden().emit(&kind, &value)?,
        Question::Notify { kind, value } => cx.forbidden().notify(&kind, &value)?,
        Question::Timer(timer) => return set_timer(&mut cx.forbidden(), timer),
        Question::CancelTimer { name } => _ = cx.forbidden().timers().cancel(&name),
        Question::Expire(when) => expire(&mut cx.forbidden(), &when)?,
        Question::Keep => cx.forbidden().keep(),
        Question::Send(told) => send(&mut cx.forbidden(), &told)?,
        Question::Request(told) => return request(&mut cx.forbidden(), told),
        Question::CancelRequest { id } => _ = cx.forbidden().http().cancel(&id),
        Question::OpenRequests => return Ok(json!(cx.http().open())),
        Question::Close => cx.forbidden().close(),
        Question::Watch { wanted } => cx.forbidden().watch_subscribers(wanted),
        Question::Timers => return Ok(shown(cx.timers().list())),
    }
    Ok(json!({}))
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        let rejection = Rejection::new(refusal.code, refusal.message);
        if refusal.retriable { rejection.retriable() } else { rejection }
    }
}

fn set_timer(cx: &mut Context, timer: SetTimer) -> Result<Value, Rejection> {
    let SetTimer { name, after, at, every, cron, body } = timer;
    let cron = cron.map(|(expression, zone)| When::Cron { expression, zone });
    let mut when = after
        .map(|ms| When::After(Duration::from_millis(ms)))
        .into_iter()
        .chain(at.map(When::At))
        .chain(every.map(|ms| When::Every(Duration::from_millis(ms))))
        .chain(cron);
    match (when.next(), when.next()) {
        (Some(when), None) => Ok(json!({ "due": cx.timers().set(&name, when, &body)? })),
        _ => Err(bad_message("it takes one of `after`, `at`, `every` and `cron`")),
    }
}

fn expire(cx: &mut Context, when: &Expire) -> Result<(), Rejection> {
    match (when.after, when.at) {
        (Some(ms), None) => Ok(cx.expire_after(Duration::from_millis(ms))?),
        (None, Some(time_ms)) => Ok(cx.expire_at(time_ms)?),
        _ => Err(bad_message("it takes one of `after` and `at`")),
    }
}

fn send(cx: &mut Context, told: &Send) -> Result<(), Rejection> {
    let bytes = told.hex.as_deref().map(from_hex).transpose()?;
    for _ in 0..told.times.unwrap_or(1) {
        let mut message = cx.message_to(&told.to);
        if let Some(name) = &told.reply {
            message = message.reply_as(name);
        }
        match (&told.body, &bytes) {
            (Some(body), None) => message.send(body)?,
            (None, Some(bytes)) => {
                message.send_bytes("application/octet-stream", bytes.as_slice())?;
            }
            _ => return Err(bad_message("it takes one of `body` and `hex`")),
        }
    }
    Ok(())
}

fn request(cx: &mut Context, told: Request) -> Result<Value, Rejection> {
    let Request { id, method, url, headers, body, options } = told;
    let mut request = cx.http().request(method, url).body(body);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    if let Some(ms) = options.timeout_ms {
        request = request.timeout(Duration::from_millis(ms.into()));
    }
    if let Some(ms) = options.deadline_ms {
        request = request.deadline(Duration::from_millis(ms.into()));
    }
    if let Some(attempts) = options.attempts {
        request = request.attempts(attempts);
    }
    if let Some(redirects) = options.redirects {
        request = request.redirects(redirects);
    }
    if let Some(bytes) = options.answer_bytes {
        request = request.answer_bytes(bytes);
    }
    for name in options.keep_headers {
        request = request.keep_header(name);
    }
    if let Some(Stream { kind, form }) = options.stream {
        let form = match form {
            StreamForm::Text => Form::Text,
            StreamForm::Data => Form::Data,
            StreamForm::Joined(path) => Form::Joined(path),
        };
        request = request.stream(kind, form);
    }
    match request.send(&id) {
        Ok(()) => Ok(Value::Null),
        Err(Error::Request { why }) => Ok(json!({ "problem": why })),
        Err(error) => Err(error.into()),
    }
}

fn shown(timers: Vec<Timer>) -> Value {
    let shown = timers.into_iter().map(
        |timer| json!({ "name": timer.name, "due": timer.due_ms, "failures": timer.failures }),
    );
    shown.collect()
}

fn bad_message(why: &'static str) -> Rejection {
    Rejection::new("bad-message", why)
}

fn get(state: &StateView, key: &str) -> Result<Value, Rejection> {
    Ok(json!({ "value": state.get::<Value>(key)? }))
}

fn get_bytes(state: &StateView, key: &str) -> Value {
    json!({ "hex": state.get_bytes(key).map(|bytes| to_hex(&bytes)) })
}

fn scan(
    state: &StateView,
    prefix: &str,
    after: Option<&str>,
    limit: u32,
) -> Result<Value, Rejection> {
    let mut pairs = Vec::new();
    for (key, bytes) in state.page(prefix, after, limit) {
        let value: Value = serde_json::from_slice(&bytes)
            .map_err(|error| Rejection::new("bad-state", format!("{key:?}: {error}")))?;
        pairs.push((key, value));
    }
    Ok(json!({ "pairs": pairs }))
}

fn scan_all(state: &StateView, prefix: &str) -> Result<Value, Rejection> {
    let (mut count, mut first, mut last) = (0, None, None);
    for pair in state.scan::<IgnoredAny>(prefix) {
        let (key, _) = pair?;
        count += 1;
        first.get_or_insert_with(|| key.clone());
        last = Some(key);
    }
    Ok(json!({ "count": count, "first": first, "last": last }))
}

fn clock(time_ms: u64) -> Value {
    json!({ "time_ms": time_ms, "native_ms": native::now_ms().unwrap_or(time_ms) })
}

fn random() -> Value {
    json!({ "hex": to_hex(&native::random_bytes(16)), "native": native::random_u64().to_string() })
}

fn level_of(name: &str) -> Result<Level, Rejection> {
    Ok(match name {
        "trace" => Level::Trace,
        "debug" => Level::Debug,
        "info" => Level::Info,
        "warn" => Level::Warn,
        "error" => Level::Error,
        _ => return Err(bad_message("no such level")),
    })
}

/// What a call leaves on the stack keeps it from becoming a loop.
#[inline(never)]
fn deep(depth: u64) -> u64 {
    let frame = black_box([depth; 16]);
    if depth == 0 { 0 } else { deep(depth - 1).wrapping_add(black_box(&frame)[3]) }
}

fn to_hex(bytes: &[u8]) -> String {
    let mut hex = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a String can't fail.
        _ = write!(hex, "{byte:02x}");
    }
    hex
}

fn from_hex(hex: &str) -> Result<Vec<u8>, Rejection> {
    let digits = hex.as_bytes().chunks(2).map(|pair| {
        let text = std::str::from_utf8(pair).ok().filter(|text| text.len() == 2)?;
        let digits = text.bytes().all(|b| b.is_ascii_hexdigit());
        digits.then(|| u8::from_str_radix(text, 16).ok())?
    });
    digits.collect::<Option<_>>().ok_or_else(|| bad_message("`hex` is not hexadecimal"))
}

slotd_guest::export!(KitchenSink);

#[cfg(test)]
mod tests;
