//! The clients of the demo: each replays conversations, and switches to another node when its own
//! is gone.

use crate::Killed;
use slotd_tests::{
    account::Sent,
    api::{Api, Message, Reply},
    cluster::settle::Pauses,
    conversations::Conversation,
    histogram::Histogram,
    http::Client,
};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::sync::{Notify, watch};

/// Per answer: more than a node's own deadline.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Per message, however often it is repeated; after that it has failed.
const GIVE_UP: Duration = Duration::from_secs(60);
/// Delay before a message is repeated: the death of a node takes a while to be noticed.
const BACK_OFF: Duration = Duration::from_millis(20);
/// Maximum number of rooms per client, if the changes never end.
const ROUNDS_MAX: usize = 100_000;
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// State shared by the clients.
pub struct Replay {
    talk: Arc<Vec<Conversation>>,
    targets: watch::Receiver<Arc<[SocketAddr]>>,
    pub sent: AtomicU64,
    pub acknowledged: AtomicU64,
    /// Messages that were answered with an error, even if a repeat was acknowledged, or that were
    /// never acknowledged.
    pub failed: AtomicU64,
    /// Repeats after a connection that broke or was refused.
    pub broken: AtomicU64,
    /// Start no further rooms.
    pub over: AtomicBool,
    /// Something was answered.
    moved: Notify,
    pub latencies: Mutex<Histogram>,
    pub versions: Mutex<BTreeMap<String, u64>>,
    pub first_failure: Mutex<Option<String>>,
    pub rooms: Mutex<BTreeMap<String, Sent>>,
    gaps: Mutex<Vec<Gap>>,
}

/// From one acknowledgement of a room to the next (at first, from sending its first message).
struct Gap {
    /// The client and its room.
    room: (usize, usize),
    slot: u16,
    from: Instant,
    to: Instant,
}

/// One client's connection.
struct Caller {
    replay: Arc<Replay>,
    /// Its index among the targets.
    target: usize,
    api: Option<Api>,
}

impl Replay {
    pub fn new(talk: Arc<Vec<Conversation>>, targets: watch::Receiver<Arc<[SocketAddr]>>) -> Self {
        Self {
            talk,
            targets,
            sent: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            broken: AtomicU64::new(0),
            over: AtomicBool::new(false),
            moved: Notify::new(),
            latencies: Mutex::default(),
            versions: Mutex::default(),
            first_failure: Mutex::default(),
            rooms: Mutex::default(),
            gaps: Mutex::default(),
        }
    }

    /// Waits until this many more messages are finished.
    pub async fn some_more(&self, count: u64) {
        let ended = || self.acknowledged.load(SeqCst) + self.failed.load(SeqCst);
        let until = ended() + count;
        while ended() < until {
            self.moved.notified().await;
        }
    }

    /// One client: replays a conversation into a new room, then again into another room at another
    /// node, until the end.
    pub async fn client(self: Arc<Self>, service: &'static str, client: usize, clients: usize) {
        let mut latencies = Histogram::default();
        let mut versions = BTreeMap::new();
        let mut caller = Caller { replay: self.clone(), target: client, api: None };
        for round in 0..ROUNDS_MAX {
            if round > 0 && self.over.load(SeqCst) {
                break;
            }
            caller.turn();
            let conversation = &self.talk[client % self.talk.len()];
            let copy = (round * clients + client) / self.talk.len();
            let room = match copy {
                0 => conversation.session.clone(),
                copy => format!("{}-{}", conversation.session, copy + 1),
            };
            let mut sent = Vec::with_capacity(conversation.lines.len());
            let mut gaps = Vec::with_capacity(conversation.lines.len());
            let mut from = Instant::now();
            for line in &conversation.lines {
                let body = serde_json::to_value(line).unwrap_or_default();
                let message = Message::json(&body).key(format!("{room}-{}", line.line));
                let at = Instant::now();
                self.sent.fetch_add(1, SeqCst);
                let reply = caller.send(service, &room, message).await;
                if let Some(reply) = &reply {
                    let to = Instant::now();
                    latencies.record(to - at);
                    gaps.push(Gap { room: (client, round), slot: reply.slot, from, to });
                    from = to;
                    *versions.entry(reply.plugin.clone()).or_insert(0) += 1;
                    self.acknowledged.fetch_add(1, SeqCst);
                }
                self.moved.notify_one();
                sent.push((body, reply.map(|reply| reply.seq)));
            }
            lock(&self.gaps).extend(gaps);
            lock(&self.rooms).insert(room, sent);
        }
        lock(&self.latencies).merge(&latencies);
        let mut all = lock(&self.versions);
        for (version, count) in versions {
            *all.entry(version).or_insert(0) += count;
        }
    }

    /// How long the slots of a killed node were not served, as seen by clients: per slot the
    /// longest time without an acknowledgement in a room that was active at the kill.
    pub fn gaps(&self, killed: &Killed) -> Pauses {
        let gaps = lock(&self.gaps);
        let at_work: BTreeMap<(usize, usize), u16> = gaps
            .iter()
            .filter(|gap| killed.slots.contains(&gap.slot))
            .filter(|gap| gap.from <= killed.at && gap.to > killed.at)
            .map(|gap| (gap.room, gap.slot))
            .collect();
        let mut longest: BTreeMap<u16, f64> = BTreeMap::new();
        let meanwhile = |gap: &&Gap| gap.to > killed.at && gap.from < killed.settled;
        for gap in gaps.iter().filter(meanwhile).filter(|gap| at_work.contains_key(&gap.room)) {
            let pause = longest.entry(gap.slot).or_default();
            *pause = pause.max((gap.to - gap.from).as_secs_f64() * 1e3);
        }
        Pauses::of(longest.into_values().collect())
    }

    pub async fn progress(self: Arc<Self>) {
        let mut tick = tokio::time::interval(PROGRESS_EVERY);
        loop {
            tick.tick().await;
            eprintln!("    {} acknowledged", self.acknowledged.load(SeqCst));
        }
    }
}

impl Caller {
    /// Switches to the next node.
    fn turn(&mut self) {
        self.target += 1;
        let targets = self.replay.targets.borrow();
        let at = targets.get(self.target % targets.len().max(1)).copied();
        self.api = at.map(|at| Api::new(Client::new(at)));
    }

    /// Sends a message until it is acknowledged: always with the same key, so that it is stored
    /// once. `None`: it was refused permanently, or never acknowledged.
    async fn send(&mut self, service: &str, room: &str, message: Message) -> Option<Reply> {
        let started = Instant::now();
        let mut failed = false;
        loop {
            let asked = match &self.api {
                Some(api) => {
                    let asked = api.post(service, room, message.clone());
                    tokio::time::timeout(ANSWER_WITHIN, asked).await
                }
                None => Ok(Err(anyhow::anyhow!("no node is left"))),
            };
            let (why, may_pass, answered) = match asked {
                Ok(Ok(answer)) => {
                    let may_pass = answer.status >= 500 || answer.status == 429;
                    match Reply::of(answer) {
                        Ok(reply) => return Some(reply),
                        Err(e) => (format!("{e:#}"), may_pass, true),
                    }
                }
                Ok(Err(e)) => (format!("{e:#}"), true, false),
                Err(_) => (format!("no answer within {ANSWER_WITHIN:?}"), true, false),
            };
            let give_up = !may_pass || started.elapsed() > GIVE_UP;
            if !answered {
                self.replay.broken.fetch_add(1, SeqCst);
            }
            if (answered || give_up) && !failed {
                failed = true;
                self.replay.failed.fetch_add(1, SeqCst);
                lock(&self.replay.first_failure).get_or_insert_with(|| format!("{room}: {why}"));
            }
            if give_up {
                return None;
            }
            tokio::time::sleep(BACK_OFF).await;
            self.turn();
        }
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
