//! Clients that record their requests and the answers.

use crate::{
    api::{Api, Entry, Event, Message, session_path},
    history::{History, Kept, MessageId, Nanos, Outcome, Read, Seen, Send, SessionId, Stream},
    http::{Answer, Client, Problem},
};
use anyhow::Context;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// The services of the sessions: they alternate between counters and chats with events.
pub const SERVICES: [&str; 2] = ["counter", "chat"];

/// Prefix of a failure whose attempt began before failures were last taken: later events may not be
/// the cause.
const EARLIER: &str = "earlier: ";
pub(super) const BROKEN: &str = "connection";

/// Answers other than successes.
pub type Failures = BTreeMap<String, Failure>;

/// How often something failed, and the first message.
#[derive(Default)]
pub struct Failure {
    count: u64,
    first: String,
}

/// Everything recorded, by all clients on one clock.
pub struct Recorder {
    epoch: Instant,
    sessions: u32,
    next_message: AtomicU64,
    history: Mutex<History>,
    failures: Mutex<Failures>,
    failures_taken: AtomicU64,
    acknowledged: AtomicU64,
    deletes: AtomicU64,
}

/// One client with its connections.
pub struct Caller<'a> {
    recorder: &'a Recorder,
    apis: HashMap<SocketAddr, Api>,
    /// How long it waits for an answer.
    pub answer_timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadKind {
    /// The last few messages.
    Tail,
    /// The session's description.
    Describe,
    /// The plugin's own count; of chats, a description.
    Query,
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.count)?;
        if self.first.is_empty() { Ok(()) } else { write!(f, " ({})", self.first) }
    }
}

impl Recorder {
    /// For sessions without a message yet.
    pub fn new(sessions: u32) -> Self {
        let history = History { kept: vec![Vec::new(); sessions as usize], ..History::default() };
        Self {
            epoch: Instant::now(),
            sessions,
            next_message: AtomicU64::new(1),
            history: Mutex::new(history),
            failures: Mutex::default(),
            failures_taken: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            deletes: AtomicU64::new(0),
        }
    }

    pub fn now(&self) -> Nanos {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    pub fn sessions(&self) -> u32 {
        self.sessions
    }

    /// How many messages were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Relaxed)
    }

    /// Deletes of sessions that were seen to be gone.
    pub fn deletes(&self) -> u64 {
        self.deletes.load(Relaxed)
    }

    /// The expected data is present, after a delete or another message.
    pub(super) fn deleted(&self, it_was_one: bool) {
        self.deletes.fetch_add(u64::from(it_was_one), Relaxed);
    }

    /// Answers since the last call, other than successes.
    pub fn take_failures(&self) -> Failures {
        let mut failures = lock(&self.failures);
        self.failures_taken.store(self.now(), Relaxed);
        std::mem::take(&mut *failures)
    }

    pub fn new_message(&self) -> MessageId {
        self.next_message.fetch_add(1, Relaxed)
    }

    /// What a subscriber has seen at its end.
    pub fn stream(&self, stream: Stream) {
        lock(&self.history).streams.push(stream);
    }

    /// Everything, with a final reading of every session.
    ///
    /// # Errors
    /// If a session can't be read, or contains something that nobody sent.
    pub async fn finish(self, api: &Api) -> anyhow::Result<History> {
        let mut history = self.history.into_inner().unwrap_or_else(PoisonError::into_inner);
        for session in 0..self.sessions {
            let (service, name) = session_name(session);
            history.kept[session as usize] = kept(api, service, &name).await?;
        }
        Ok(history)
    }

    pub(super) fn failed(&self, begun: Nanos, what: &str, detail: &str) {
        let mut failures = lock(&self.failures);
        let earlier = if begun < self.failures_taken.load(Relaxed) { EARLIER } else { "" };
        let failure = failures.entry(format!("{earlier}{what}")).or_default();
        if failure.count == 0 {
            detail.clone_into(&mut failure.first);
        }
        failure.count += 1;
    }
}

/// Whether a client saw more than a broken connection, in an attempt that is not from before.
pub(super) fn is_refusal(failure: &str) -> bool {
    !failure.starts_with(EARLIER) && !failure.ends_with(BROKEN)
}

/// The messages of a session in its history; none if there is no such session.
///
/// # Errors
/// If it can't be read, or contains something that nobody sent.
pub async fn kept(api: &Api, service: &str, name: &str) -> anyhow::Result<Vec<Kept>> {
    if api.client.get(&session_path(service, name)).await?.status == 404 {
        return Ok(Vec::new());
    }
    let entries = api.whole_history(service, name).await?;
    let kept = |entry: &Entry| {
        let message = message_of(entry.body.as_ref()).context("a foreign message")?;
        let reply = hash(entry.reply.as_ref().context("a reply that is not JSON")?);
        Ok(Kept { seq: entry.seq, message, reply, events: entry.events.len() as u32 })
    };
    entries.iter().map(kept).collect()
}

/// The service and the name of a session.
pub fn session_name(session: SessionId) -> (&'static str, String) {
    (SERVICES[session as usize % SERVICES.len()], format!("judged-{session}"))
}

pub(super) fn message(service: &str, id: MessageId) -> Message {
    match service {
        "chat" => {
            let from = format!("client-{}", id % 10);
            Message::json(&json!({"kind": "say", "from": from, "text": id.to_string()}))
        }
        _ => Message::bytes(id.to_string()).typed("text/plain"),
    }
}

/// The message in a body or an event, as built by [`message`].
pub fn message_of(body: Option<&Value>) -> Option<MessageId> {
    let text = body?.as_str().or_else(|| body?.get("text")?.as_str())?;
    text.parse().ok()
}

fn hash(reply: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    reply.to_string().hash(&mut hasher);
    hasher.finish()
}

impl<'a> Caller<'a> {
    pub fn new(recorder: &'a Recorder, answer_timeout: Duration) -> Self {
        Self { recorder, apis: HashMap::new(), answer_timeout }
    }

    fn api(&mut self, at: SocketAddr) -> Api {
        self.apis.entry(at).or_insert_with(|| Api::new(Client::new(at))).clone()
    }

    /// Sends a message once. Returns whether its outcome is known.
    pub async fn send(
        &mut self,
        at: SocketAddr,
        session: SessionId,
        message: MessageId,
        keyed: bool,
    ) -> Outcome {
        let (service, name) = session_name(session);
        let mut body = self::message(service, message);
        if keyed {
            body = body.key(format!("key-{message}"));
        }
        let api = self.api(at);
        let begun = self.recorder.now();
        let answer =
            tokio::time::timeout(self.answer_timeout, api.post(service, &name, body)).await;
        let ended = self.recorder.now();
        let outcome = match answer {
            Ok(Ok(answer)) => self.outcome(begun, &answer),
            Ok(Err(_)) => self.open(begun, BROKEN),
            Err(_) => self.open(begun, "timeout"),
        };
        let send = Send { session, message, begun, ended, outcome };
        lock(&self.recorder.history).sends.push(send);
        if matches!(outcome, Outcome::Acknowledged { .. }) {
            self.recorder.acknowledged.fetch_add(1, Relaxed);
        }
        outcome
    }

    fn open(&self, begun: Nanos, why: &str) -> Outcome {
        self.recorder.failed(begun, why, "");
        Outcome::Unknown
    }

    fn outcome(&self, begun: Nanos, answer: &Answer) -> Outcome {
        let acknowledged = || {
            let reply = crate::api::Reply::of(answer.clone()).ok()?;
            let value = reply.json().ok()?;
            let counted = value.as_u64().or_else(|| value["n"].as_u64());
            let (seq, replayed) = (reply.seq, reply.replayed);
            Some(Outcome::Acknowledged { seq, replayed, reply: hash(&value), counted })
        };
        if let Some(outcome) = acknowledged() {
            return outcome;
        }
        match answer.problem() {
            Ok(problem) => {
                self.recorder.failed(begun, &problem.code, &problem.detail);
                // Every other code means that this attempt was not stored.
                match problem.code.as_str() {
                    "outcome-unknown" | "internal" => Outcome::Unknown,
                    _ => Outcome::Refused,
                }
            }
            Err(_) => self.open(begun, "malformed"),
        }
    }

    /// Sends a new message, with or without a key; with a key as often as necessary, each time to
    /// the next target.
    pub async fn say(
        &mut self,
        mut target: impl FnMut() -> Option<SocketAddr>,
        session: SessionId,
        keyed: bool,
        attempts_max: u32,
    ) {
        let message = self.recorder.new_message();
        for _ in 0..if keyed { attempts_max } else { 1 } {
            let Some(at) = target() else { return };
            if let Outcome::Acknowledged { .. } = self.send(at, session, message, keyed).await {
                return;
            }
            // Do not loop as fast as refusals arrive.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Reads once; failures are not recorded but counted.
    pub async fn read(
        &mut self,
        at: SocketAddr,
        session: SessionId,
        kind: ReadKind,
        stale_allowed: bool,
    ) {
        let api = self.api(at);
        let begun = self.recorder.now();
        let asked = ask(&api, session, kind, stale_allowed);
        let answer = tokio::time::timeout(self.answer_timeout, asked).await;
        let ended = self.recorder.now();
        match answer {
            Ok(Ok(Ok((last_seq, entries)))) => {
                let read = Read { session, begun, ended, stale_allowed, last_seq, entries };
                lock(&self.recorder.history).reads.push(read);
            }
            Ok(Ok(Err(problem))) => {
                self.recorder.failed(begun, &format!("read: {}", problem.code), &problem.detail);
            }
            Ok(Err(_)) => self.recorder.failed(begun, &format!("read: {BROKEN}"), ""),
            Err(_) => self.recorder.failed(begun, "read: timeout", ""),
        }
    }
}

type Page = (u64, Vec<(u64, MessageId)>);

/// The result of a read, or its refusal.
async fn ask(
    api: &Api,
    session: SessionId,
    kind: ReadKind,
    stale_allowed: bool,
) -> anyhow::Result<Result<Page, Problem>> {
    let (service, name) = session_name(session);
    let path = session_path(service, &name);
    let local =
        |sign: &str| if stale_allowed { format!("{sign}consistency=local") } else { "".into() };
    let answer = match kind {
        ReadKind::Tail => api.client.get(&format!("{path}/messages?tail=10{}", local("&"))).await?,
        ReadKind::Query if service == "counter" => {
            api.client.post(&format!("{path}/query{}", local("?")), "").await?
        }
        _ => api.client.get(&format!("{path}{}", local("?"))).await?,
    };
    if answer.status != 200 {
        let problem = answer.problem()?;
        // A session without a message does not exist.
        let none = problem.code == "session-not-found";
        return Ok(if none { Ok((0, Vec::new())) } else { Err(problem) });
    }
    let value: Value = answer.json()?;
    if let Some(count) = value.as_u64() {
        return Ok(Ok((count, Vec::new())));
    }
    if let Some(seq) = value["seq"].as_u64() {
        return Ok(Ok((seq, Vec::new())));
    }
    let page: crate::api::History = answer.json()?;
    let entry = |entry: &Entry| Some((entry.seq, message_of(entry.body.as_ref())?));
    let entries: Option<Vec<_>> = page.entries.iter().map(entry).collect();
    Ok(Ok((page.last_seq, entries.context("a foreign message")?)))
}

/// An event in the checker's form.
///
/// # Errors
/// If it is of no message that a client sends.
pub fn seen(at: Nanos, event: &Event) -> anyhow::Result<Seen> {
    let message = message_of(event.body.as_ref()).context("a foreign event")?;
    Ok(Seen { at, seq: event.seq, index: event.index, message })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
