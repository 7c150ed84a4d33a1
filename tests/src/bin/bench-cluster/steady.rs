//! Clients that keep a cluster busy during changes and account for their messages; and probes that
//! detect when a slot is served.

use anyhow::{Context, ensure};
use slotd_tests::{
    api::{Api, Message, Reply, session_path},
    http::Client,
    node::eventually,
};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::{sync::watch, task::JoinSet};

use crate::SERVICE;

/// Per answer: more than a node's own deadline.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Per message, however often it is repeated.
const GIVE_UP: Duration = Duration::from_secs(60);
const BACK_OFF: Duration = Duration::from_millis(10);
/// Per client, so that its messages go to many slots.
const SESSIONS_PER_CLIENT: u64 = 64;
/// Sessions tried per slot.
const TRIES_PER_SLOT: u64 = 64;
/// Probes searched concurrently.
const FINDERS: u64 = 32;

/// Running clients. Each writes its own sessions, one message at a time, with idempotency keys;
/// when its connection breaks it continues at another node.
pub struct Steady {
    shared: Arc<Shared>,
    tasks: JoinSet<BTreeMap<String, u64>>,
    targets: watch::Receiver<Arc<[SocketAddr]>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    acknowledged: AtomicU64,
    errors: AtomicU64,
    given_up: AtomicU64,
    slowest_us: AtomicU64,
}

/// The results of the clients' messages.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Tally {
    pub acknowledged: u64,
    /// Acknowledged, but missing afterwards.
    pub lost: u64,
    /// Stored more often than sent.
    pub doubled: u64,
    /// Error answers, and messages that were never answered.
    pub failed: u64,
    pub slowest_ms: f64,
}

impl Steady {
    /// Starts clients, each with `think` between an answer and its next message, and waits until
    /// each has sent something, on average.
    ///
    /// # Errors
    /// If nothing is answered.
    pub async fn start(
        name: &str,
        clients: u64,
        think: Duration,
        targets: watch::Receiver<Arc<[SocketAddr]>>,
    ) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut tasks = JoinSet::new();
        for client in 0..clients {
            let name = format!("{name}-{client}");
            tasks.spawn(one(shared.clone(), name, client as usize, think, targets.clone()));
        }
        let enough = clients * 4;
        eventually("load", async || Ok((shared.acknowledged.load(SeqCst) > enough).then_some(())))
            .await?;
        Ok(Self { shared, tasks, targets })
    }

    /// Stops, and counts what is stored.
    ///
    /// # Errors
    /// When a session can't be read.
    pub async fn finish(mut self, reader: &Api) -> anyhow::Result<Tally> {
        self.shared.stop.store(true, SeqCst);
        let mut sent = BTreeMap::new();
        while let Some(ended) = self.tasks.join_next().await {
            sent.extend(ended?);
        }
        drop(self.targets);
        let load = |n: &AtomicU64| n.load(SeqCst);
        let given_up = load(&self.shared.given_up);
        let mut tally = Tally {
            acknowledged: load(&self.shared.acknowledged),
            failed: load(&self.shared.errors) + given_up,
            slowest_ms: load(&self.shared.slowest_us) as f64 / 1e3,
            ..Tally::default()
        };
        for (session, acknowledged) in sent {
            let there = reader.session(SERVICE, &session).await?.seq;
            tally.lost += acknowledged.saturating_sub(there);
            tally.doubled += there.saturating_sub(acknowledged);
        }
        // A cancelled message may have been stored all the same.
        tally.doubled = tally.doubled.saturating_sub(given_up);
        Ok(tally)
    }
}

/// One client, until it is stopped: how many messages of each session were acknowledged.
async fn one(
    shared: Arc<Shared>,
    name: String,
    first_target: usize,
    think: Duration,
    targets: watch::Receiver<Arc<[SocketAddr]>>,
) -> BTreeMap<String, u64> {
    let mut sent = BTreeMap::new();
    let mut target = first_target;
    let api_at = |target: usize| {
        let targets = targets.borrow();
        targets.get(target % targets.len().max(1)).map(|&at| Api::new(Client::new(at)))
    };
    let mut api = api_at(target);
    for number in 0_u64.. {
        if shared.stop.load(SeqCst) {
            break;
        }
        if !think.is_zero() {
            tokio::time::sleep(think).await;
        }
        let session = format!("{name}-{}", number % SESSIONS_PER_CLIENT);
        let message = Message::bytes("x").typed("text/plain").key(format!("{name}-{number}"));
        let started = Instant::now();
        loop {
            let asked = async {
                let api = api.as_ref().context("no node is left")?;
                api.post(SERVICE, &session, message.clone()).await
            };
            if let Ok(Ok(answer)) = tokio::time::timeout(ANSWER_WITHIN, asked).await {
                if Reply::of(answer).is_ok() {
                    shared.acknowledged.fetch_add(1, SeqCst);
                    let took = started.elapsed().as_micros();
                    shared.slowest_us.fetch_max(u64::try_from(took).unwrap_or(u64::MAX), SeqCst);
                    *sent.entry(session).or_insert(0) += 1;
                    break;
                }
                shared.errors.fetch_add(1, SeqCst);
            }
            if started.elapsed() > GIVE_UP {
                shared.given_up.fetch_add(1, SeqCst);
                break;
            }
            tokio::time::sleep(BACK_OFF).await;
            target += 1;
            api = api_at(target);
        }
    }
    sent
}

/// A session of every slot.
pub struct Probes(BTreeMap<u16, String>);

impl Probes {
    /// Finds them through a healthy cluster.
    ///
    /// # Errors
    /// If it does not answer, or a slot is not found.
    pub async fn find(api: &Api, slots: u16) -> anyhow::Result<Self> {
        let mut found = BTreeMap::new();
        let mut tried = 0;
        while found.len() < usize::from(slots) {
            ensure!(tried < u64::from(slots) * TRIES_PER_SLOT, "found {} slots", found.len());
            let mut finders = JoinSet::new();
            for number in tried..tried + FINDERS {
                let api = api.clone();
                finders.spawn(async move {
                    let name = format!("probe-{number}");
                    let message = Message::bytes("x").typed("text/plain");
                    let reply = api.send(SERVICE, &name, message).await?;
                    anyhow::Ok((reply.slot, name))
                });
            }
            tried += FINDERS;
            while let Some(one) = finders.join_next().await {
                let (slot, name) = one??;
                found.entry(slot).or_insert(name);
            }
        }
        Ok(Self(found))
    }

    pub fn of(&self, slot: u16) -> anyhow::Result<&str> {
        self.0.get(&slot).map(String::as_str).context("no probe of that slot")
    }

    /// Waits until each of the slots has answered a current read, which needs a commit. Returns for
    /// each how long that took after `since`, in milliseconds.
    ///
    /// # Errors
    /// If one does not within `limit`.
    pub async fn served(
        &self,
        through: &[Api],
        slots: impl IntoIterator<Item = u16>,
        since: Instant,
        limit: Duration,
    ) -> anyhow::Result<Vec<f64>> {
        let mut tasks = JoinSet::new();
        for slot in slots {
            let path = session_path(SERVICE, self.of(slot)?) + "/query";
            let api = through.get(usize::from(slot) % through.len().max(1)).context("no node")?;
            let client = Client::new(api.client.address());
            tasks.spawn(async move {
                loop {
                    let asked = tokio::time::timeout(ANSWER_WITHIN, client.post(&path, "")).await;
                    let why = match asked.context("no answer").flatten() {
                        Ok(answer) if answer.status == 200 => {
                            return Ok(since.elapsed().as_secs_f64() * 1e3);
                        }
                        Ok(answer) => answer.text(),
                        Err(e) => format!("{e:#}"),
                    };
                    let late = since.elapsed() > limit;
                    ensure!(!late, "slot {slot} is not served within {limit:?}: {why}");
                    tokio::time::sleep(BACK_OFF).await;
                }
            });
        }
        let mut all = Vec::new();
        while let Some(one) = tasks.join_next().await {
            all.push(one??);
        }
        Ok(all)
    }
}
