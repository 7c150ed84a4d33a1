//! The quiet service and the probes: how long each answer takes.

use crate::{
    api::{Api, Message},
    histogram::Histogram,
    http::Client,
    node::Addresses,
    slots::apart,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::{sync::watch, task::JoinSet};

pub(super) const QUIET: &str = "quiet";
/// Its clients, each with its own session.
const CLIENTS: usize = 4;
const PAUSE: Duration = Duration::from_millis(20);
const PROBE_EVERY: Duration = Duration::from_millis(100);
/// A later answer counts as none.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Measured times.
#[derive(Clone, Default)]
pub(super) struct Taken {
    messages: Histogram,
    probes: Histogram,
    /// By the failed answer.
    failed: BTreeMap<String, u64>,
    probes_failed: BTreeMap<String, u64>,
}

impl Taken {
    pub(super) fn p99(&self) -> Duration {
        self.messages.quantile(0.99)
    }

    pub(super) fn probe_worst(&self) -> Duration {
        self.probes.max()
    }

    pub(super) fn probes_failed(&self) -> Option<String> {
        let failed = &self.probes_failed;
        (!failed.is_empty()).then(|| format!("probes were not answered: {failed:?}"))
    }

    fn add(&mut self, other: Self) {
        self.messages.merge(&other.messages);
        self.probes.merge(&other.probes);
        for (of, to) in
            [(other.failed, &mut self.failed), (other.probes_failed, &mut self.probes_failed)]
        {
            for (what, count) in of {
                *to.entry(what).or_default() += count;
            }
        }
    }
}

impl fmt::Debug for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Taken({self})")
    }
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { messages, probes, failed, .. } = self;
        write!(
            f,
            "{} messages, p50 {:.1?}, p99 {:.1?}, longest {:.1?}, not acknowledged {failed:?}; {} \
             probes, p99 {:.1?}, worst {:.1?}",
            messages.count(),
            messages.quantile(0.5),
            self.p99(),
            messages.max(),
            probes.count(),
            probes.quantile(0.99),
            probes.max()
        )
    }
}

/// A session for each client, in slots that are not in `spinning`.
pub(super) fn sessions(spinning: &BTreeSet<u16>, slots: u16) -> anyhow::Result<Vec<String>> {
    apart(QUIET, "quiet", CLIENTS, slots, spinning)
}

/// Clients that measure times.
pub(super) struct Watch {
    stop: watch::Sender<bool>,
    tasks: JoinSet<Taken>,
}

impl Watch {
    pub(super) fn start(nodes: &[Addresses], sessions: &[String]) -> Self {
        let (stop, mut tasks) = (watch::channel(false).0, JoinSet::new());
        for (node, session) in nodes.iter().cycle().zip(sessions) {
            tasks.spawn(talk(node.api, session.clone(), stop.subscribe()));
        }
        for node in nodes {
            tasks.spawn(probe(node.admin, stop.subscribe()));
        }
        Self { stop, tasks }
    }

    pub(super) async fn finish(mut self) -> Taken {
        self.stop.send_replace(true);
        let mut taken = Taken::default();
        while let Some(ended) = self.tasks.join_next().await {
            if let Ok(one) = ended {
                taken.add(one);
            }
        }
        taken
    }
}

async fn talk(api: SocketAddr, session: String, stop: watch::Receiver<bool>) -> Taken {
    let (mut taken, api) = (Taken::default(), Api::new(Client::new(api)));
    while !*stop.borrow() {
        let started = Instant::now();
        let posted =
            tokio::time::timeout(ANSWER_TIMEOUT, api.post(QUIET, &session, Message::bytes("1")));
        let failed = match posted.await {
            Ok(Ok(answer)) if answer.status == 200 => None,
            Ok(Ok(answer)) => Some(answer.problem().map_or("malformed".into(), |p| p.code)),
            Ok(Err(_)) => Some("broken".to_owned()),
            Err(_) => Some("timeout".to_owned()),
        };
        match failed {
            None => taken.messages.record(started.elapsed()),
            Some(what) => *taken.failed.entry(what).or_default() += 1,
        }
        tokio::time::sleep(PAUSE).await;
    }
    taken
}

async fn probe(admin: SocketAddr, stop: watch::Receiver<bool>) -> Taken {
    let mut taken = Taken::default();
    while !*stop.borrow() {
        // One connection each, as an orchestrator's probes use.
        let client = Client::new(admin);
        let started = Instant::now();
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, client.get("/healthz")).await;
        taken.probes.record(started.elapsed());
        let failed = match asked {
            Ok(Ok(answer)) if answer.status == 200 => None,
            Ok(Ok(answer)) => Some(answer.status.to_string()),
            Ok(Err(_)) => Some("broken".to_owned()),
            Err(_) => Some("timeout".to_owned()),
        };
        if let Some(what) = failed {
            *taken.probes_failed.entry(what).or_default() += 1;
        }
        tokio::time::sleep(PROBE_EVERY).await;
    }
    taken
}
