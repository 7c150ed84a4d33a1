//! A quiet service next to guests that never end by themselves.

use crate::{Args, SERVICE, report::row, run_load, start};
use anyhow::ensure;
use serde::Serialize;
use slotd_tests::{
    api::{Api, Message},
    http::Client,
    load::{self, Outcome},
    node::Node,
    plugins,
    slots::{apart, slot_of},
};
use std::{
    path::Path,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

#[derive(Serialize)]
pub struct Starve {
    alone: Outcome,
    /// With this many spinning slots.
    beside: Vec<(usize, Outcome, Probes)>,
}

/// Times of `/healthz`, in milliseconds.
#[derive(Serialize)]
pub struct Probes {
    p50_ms: f64,
    max_ms: f64,
}

const SPINNING: &str = "spinning";
/// Clients of the quiet service, and its sessions. The other slots spin: a slot has one writer, so
/// a session of a spinning slot waits for the guest's deadline by design.
const QUIET_CONNECTIONS: usize = 4;
const QUIET_SESSIONS: u64 = 64;
const PROBE_EVERY: Duration = Duration::from_millis(20);

pub async fn starve(args: &Args, dir: &Path) -> anyhow::Result<Starve> {
    let node = start(dir.join("starve")).await?;
    node.admin().deploy(SPINNING, plugins::load("hostile-v1")?).await?;
    let address = node.api().client.address();
    let load = || run_load(address, QUIET_CONNECTIONS, QUIET_SESSIONS, 1, args.measure);
    println!("\nA quiet service beside slots whose guests spin\n");
    let alone = load().await?;
    row("p99 alone", format!("{:.2} ms", alone.p99_us / 1e3), "");
    let mut beside = Vec::new();
    for slots in [1, 8, 400] {
        let (outcome, probes) = spin_beside(&node, slots, load()).await?;
        let reach = format!("{:.1} ms or less", 2.0 * alone.p99_us / 1e3 + 10.0);
        row(&format!("p99 beside {slots}"), format!("{:.2} ms", outcome.p99_us / 1e3), &reach);
        row("  p50", format!("{:.2} ms", outcome.p50_us / 1e3), "");
        row("  requests", format!("{:.0}/s", outcome.requests_per_second), "");
        row("  /healthz, longest", format!("{:.1} ms", probes.max_ms), "50 ms or less");
        beside.push((slots, outcome, probes));
    }
    Ok(Starve { alone, beside })
}

/// Makes slots spin, each again as soon as it has answered, while a load runs.
async fn spin_beside(
    node: &Node,
    slots: usize,
    load: impl Future<Output = anyhow::Result<Outcome>>,
) -> anyhow::Result<(Outcome, Probes)> {
    let (api, admin) = (node.api().client.address(), node.admin());
    let mut spinners = JoinSet::new();
    for session in spinning_sessions(node, slots).await? {
        spinners.spawn(async move {
            let api = Api::new(Client::new(api));
            let spin = || Message::json(&serde_json::json!({"do": "spin"}));
            while api.post(SPINNING, &session, spin()).await.is_ok() {}
        });
    }
    let mut times = Vec::new();
    let probe = async {
        loop {
            let started = Instant::now();
            admin.client.get("/healthz").await?;
            times.push(started.elapsed().as_secs_f64() * 1e3);
            tokio::time::sleep(PROBE_EVERY).await;
        }
    };
    let outcome = tokio::select! {
        outcome = load => outcome?,
        failed = probe => return failed,
    };
    ensure!(spinners.try_join_next().is_none(), "a client of a guest that spins has ended");
    times.sort_by(f64::total_cmp);
    let probes = Probes {
        p50_ms: times.get(times.len() / 2).copied().unwrap_or_default(),
        max_ms: times.last().copied().unwrap_or_default(),
    };
    Ok((outcome, probes))
}

/// Sessions in this many slots, none of them a slot of the quiet service's.
async fn spinning_sessions(node: &Node, slots: usize) -> anyhow::Result<Vec<String>> {
    let slot_count = u16::try_from(node.admin().slots().await?.len())?;
    let quiet = (0..QUIET_SESSIONS)
        .map(|number| slot_of(SERVICE, &load::session(number), slot_count))
        .collect::<Result<_, _>>()?;
    apart(SPINNING, "spin", slots, slot_count, &quiet)
}
