//! People with an agent each: say something, read what it writes, answer its questions, and say the next thing.

use anyhow::{Context, bail};
use serde_json::{Value, json};
use slotd_tests::{
    agents::{Reader, Seen},
    api::{Api, Message, Reply},
    histogram::Histogram,
    http::Client,
    sse::Sse,
};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;

pub const AGENT: &str = "agent";
pub const TOOL: &str = "tool";
/// What each person says, turn by turn: an answer alone, a tool, a question back.
pub const TURNS: [&str; 3] = ["Tell me something.", "Please use count.", "Please ask me first."];

const BACK_OFF: Duration = Duration::from_millis(100);
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// Of one message, and of one turn: more than a takeover, and all attempts at the model.
const GIVE_UP: Duration = Duration::from_secs(120);

/// Shared by all.
pub struct People {
    pub nodes: watch::Receiver<Arc<[SocketAddr]>>,
    pub model_url: String,
    pub shown: AtomicU64,
    pub done: AtomicU64,
    /// Streams that broke and went on.
    pub resumed: AtomicU64,
    /// From a message to the first word of its answer.
    pub first_word: Mutex<Histogram>,
    /// When each word came, of all.
    pub times: Mutex<Vec<Instant>>,
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One person.
pub struct Person {
    people: Arc<People>,
    pub session: String,
    target: usize,
    pub reader: Reader,
}

impl Person {
    pub fn new(people: Arc<People>, number: usize) -> Self {
        Self {
            people,
            session: format!("agent-{number}"),
            target: number,
            reader: Reader::default(),
        }
    }

    fn api(&self) -> anyhow::Result<Api> {
        let nodes = self.people.nodes.borrow();
        let at = nodes.get(self.target % nodes.len().max(1)).copied();
        Ok(Api::new(Client::new(at.context("no node is left")?)))
    }

    /// Sends a message until it is acknowledged: always with the same key, so that it is handled once.
    async fn send(&mut self, key: &str, body: &Value) -> anyhow::Result<Reply> {
        let started = Instant::now();
        loop {
            let message = Message::json(body).key(format!("{}/{key}", self.session));
            let api = self.api()?;
            let sent = api.post(AGENT, &self.session, message);
            let why = match tokio::time::timeout(ANSWER_WITHIN, sent).await {
                Ok(Ok(answer)) if answer.status < 500 && answer.status != 429 => {
                    return Reply::of(answer).with_context(|| format!("{key} of {}", self.session));
                }
                Ok(Ok(answer)) => answer.text(),
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => "no answer".into(),
            };
            if started.elapsed() > GIVE_UP {
                bail!("{key} of {} was not taken: {why}", self.session);
            }
            tokio::time::sleep(BACK_OFF).await;
            self.target += 1;
        }
    }

    /// Talks to the end. Returns what was seen.
    pub async fn talk(mut self) -> anyhow::Result<Self> {
        let tools = json!([{ "name": "count", "description": "Counts.", "to": format!("{TOOL}/{{session}}") }]);
        let url = self.people.model_url.clone();
        let configure =
            json!({ "do": "configure", "url": url, "model": "demo", "tools": tools, "rounds": 4 });
        self.send("configure", &configure).await?;
        let mut events = self.open().await?;
        for (number, text) in TURNS.iter().enumerate() {
            let asked = Instant::now();
            self.send(&format!("turn-{number}"), &json!({ "do": "ask", "content": text })).await?;
            let read = tokio::time::timeout(GIVE_UP, self.turn(&mut events, asked)).await;
            let status = || format!("turn {number} of {}: {:?}", self.session, self.reader.failed);
            read.with_context(status)??;
        }
        self.people.done.fetch_add(1, SeqCst);
        Ok(self)
    }

    /// Reads to the end of a turn.
    async fn turn(&mut self, events: &mut Sse, asked: Instant) -> anyhow::Result<()> {
        let mut is_first = true;
        loop {
            let event = match events.next().await {
                Ok(Some(event)) => event,
                // The node is gone, or going: another one goes on behind the last event.
                Ok(None) | Err(_) => {
                    self.people.resumed.fetch_add(1, SeqCst);
                    *events = self.open().await?;
                    continue;
                }
            };
            match self.reader.take(&event)? {
                Seen::Words => {
                    self.people.shown.fetch_add(1, SeqCst);
                    let now = Instant::now();
                    lock(&self.people.times).push(now);
                    if std::mem::take(&mut is_first) {
                        lock(&self.people.first_word).record(now - asked);
                    }
                }
                Seen::Question(call) => {
                    let key = format!("answer-{call}");
                    let message =
                        json!({ "do": "answer", "call": call, "content": "The second one." });
                    self.send(&key, &message).await?;
                }
                Seen::Ended(_) => return Ok(()),
                Seen::Other => {}
            }
        }
    }

    /// Opens the session's events behind what was read, at whichever node has them.
    async fn open(&mut self) -> anyhow::Result<Sse> {
        let started = Instant::now();
        loop {
            let (api, last) = (self.api()?, self.reader.last_id.clone());
            let after = last.is_none().then_some(0);
            let opened = api.events(AGENT, &self.session, after, last.as_deref());
            let why = match tokio::time::timeout(ANSWER_WITHIN, opened).await {
                Ok(Ok(events)) => return Ok(events),
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => "no answer".into(),
            };
            if started.elapsed() > GIVE_UP {
                bail!("the events of {} can't be read: {why}", self.session);
            }
            tokio::time::sleep(BACK_OFF).await;
            self.target += 1;
        }
    }
}
