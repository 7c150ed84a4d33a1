//! Throughput compared with bare appends of the same batches, and the cost of forwarding.

use crate::{Args, Asked, Report, SERVICE, apis, raw::Raw, steady::Probes};
use anyhow::{Context, ensure};
use slotd_tests::{
    api::{Message, metric},
    cluster::{Cluster, engine::Engine, nats::Requests},
    histogram::Histogram,
    load::{Outcome, Plan},
    node::cpu_time,
};
use std::time::{Duration, Instant};

const CONNECTIONS_PER_NODE: usize = 64;
/// Number of sessions that the load chooses from.
const SESSIONS: u64 = 10_000;
const BODY_BYTES: usize = 32;
const WARM_UP: Duration = Duration::from_secs(1);
/// Of no round.
const OPENING_SEED: u64 = 1 << 20;

/// A stream of slotd's log, as a server reports it.
pub struct LogStream {
    pub name: String,
    pub leader: Option<String>,
    messages: f64,
    bytes: f64,
}

/// # Errors
/// When no server answers.
pub async fn log_streams(engine: &Engine) -> anyhow::Result<Vec<LogStream>> {
    let url = engine.urls().into_iter().next().context("no server")?;
    let mut requests = Requests::connect(url.trim_start_matches("nats://").parse()?).await?;
    let names = requests.request("$JS.API.STREAM.NAMES", "").await?;
    let names = names["streams"].as_array().context("no streams")?;
    let names = names.iter().filter_map(|name| name.as_str());
    let mut streams = Vec::new();
    for name in names.filter(|name| name.starts_with("slotd-") && name.contains("-log-")) {
        let info = requests.request(&format!("$JS.API.STREAM.INFO.{name}"), "").await?;
        let state = |field: &str| info["state"][field].as_f64().context("no state");
        streams.push(LogStream {
            name: name.to_owned(),
            leader: info["cluster"]["leader"].as_str().map(str::to_owned),
            messages: state("messages")?,
            bytes: state("bytes")?,
        });
    }
    ensure!(!streams.is_empty(), "slotd has no streams");
    Ok(streams)
}

/// What slotd has written so far.
struct Written {
    batches: f64,
    messages: f64,
    /// According to the streams.
    stored: f64,
    stored_bytes: f64,
}

async fn written(cluster: &Cluster) -> anyhow::Result<Written> {
    let streams = log_streams(&cluster.engine).await?;
    let mut written = Written {
        batches: 0.0,
        messages: 0.0,
        stored: streams.iter().map(|stream| stream.messages).sum(),
        stored_bytes: streams.iter().map(|stream| stream.bytes).sum(),
    };
    for member in cluster.members() {
        let text = member.admin().client.get("/metrics").await?.success()?.text();
        written.batches += metric(&text, "slotd_batch_messages_count", "");
        written.messages += metric(&text, "slotd_batch_messages_sum", "");
    }
    Ok(written)
}

/// CPU time of all participants.
#[derive(Clone, Copy)]
struct Spent {
    nodes: Duration,
    servers: Duration,
    /// The load generators that have ended, or the bare appends, which run in this process.
    clients: Duration,
}

impl Spent {
    async fn now(cluster: &Cluster) -> anyhow::Result<Self> {
        let mut nodes = Duration::ZERO;
        for member in cluster.members() {
            let pid = member.node.lock().await.pid().context("a node does not run")?;
            nodes += cpu_time(pid, false)?;
        }
        let servers = cluster.engine.pids().into_iter().map(|pid| cpu_time(pid, false));
        let servers = servers.sum::<anyhow::Result<Duration>>()?;
        Ok(Self { nodes, servers, clients: cpu_time(std::process::id(), true)? })
    }

    /// Microseconds of each since `before`, per message: nodes, servers, clients.
    fn each(self, before: Self, count: u64) -> [f64; 3] {
        let us = |now: Duration, before: Duration| {
            (now - before).as_secs_f64() * 1e6 / count.max(1) as f64
        };
        [
            us(self.nodes, before.nodes),
            us(self.servers, before.servers),
            us(self.clients, before.clients),
        ]
    }
}

pub async fn throughput(args: &Args, cluster: &Cluster, report: &mut Report) -> anyhow::Result<()> {
    let streams = u16::try_from(log_streams(&cluster.engine).await?.len())?;
    let mut raw = Raw::start(&cluster.engine, streams, args.slots).await?;
    let overhead = raw.overhead().await? as f64;
    let measure = Duration::from_secs_f64(args.measure);
    let connections = CONNECTIONS_PER_NODE * cluster.members().len();
    let in_flight = connections.min(usize::from(args.slots));
    let (mut slotd_rates, mut ratios, mut wide_ratios) = (Vec::new(), Vec::new(), Vec::new());
    let (mut raw_rates, mut sizes, mut latencies) = (Vec::new(), Vec::new(), Vec::new());
    let mut payloads = Vec::new();
    let (mut own_cpu, mut raw_cpu) = (Vec::new(), Vec::new());
    // Opens every slot, with a claim and an instance for each: done in advance, not in the measured
    // time.
    loads(cluster, OPENING_SEED, WARM_UP.as_secs_f64()).await?;
    for round in 0..args.rounds.max(1) {
        let before = written(cluster).await?;
        let idle = Spent::now(cluster).await?;
        let outcomes = loads(cluster, round as u64, args.measure).await?;
        let spent = Spent::now(cluster).await?;
        let after = written(cluster).await?;
        let rate: f64 = outcomes.iter().map(|outcome| outcome.requests_per_second).sum();
        let size = (after.messages - before.messages) / (after.batches - before.batches);
        let stored = (after.stored_bytes - before.stored_bytes) / (after.stored - before.stored);
        ensure!(size >= 1.0 && stored > overhead, "{size} messages, {stored} bytes a batch");
        let payload = (stored - overhead) as usize;
        let requests = outcomes.iter().map(|outcome| outcome.requests_all).sum();
        own_cpu.push(spent.each(idle, requests));
        let idle = Spent::now(cluster).await?;
        let (appends, all) = raw.run(in_flight, payload, WARM_UP, measure).await?;
        raw_cpu.push(Spent::now(cluster).await?.each(idle, all));
        let (wide, _) = raw.run(usize::from(args.slots), payload, WARM_UP, measure).await?;
        println!(
            "  round {}: slotd {rate:.0}/s in batches of {size:.2} messages and {payload} bytes; \
             bare appends {appends:.0}/s with {in_flight} in flight, {wide:.0}/s with {}",
            round + 1,
            args.slots
        );
        slotd_rates.push(rate);
        raw_rates.push(appends * size);
        ratios.push(rate / (appends * size));
        wide_ratios.push(rate / (wide * size));
        sizes.push(size);
        payloads.push(payload as f64);
        latencies.push(outcomes.iter().map(|outcome| outcome.p99_us / 1e3).fold(0.0, f64::max));
    }
    raw.remove().await?;
    println!();
    report.figure("messages a batch", median(sizes), "", None);
    report.figure("bytes a batch", median(payloads), "", None);
    report.figure(&format!("slotd at {connections} connections"), median(slotd_rates), "/s", None);
    report.figure("bare appends, as messages", median(raw_rates), "/s", None);
    let asked = Some(Asked::AtLeast(0.6));
    report.figure("of bare appends, as many in flight", median(ratios), "", asked);
    report.figure("of bare appends, one for each slot", median(wide_ratios), "", asked);
    report.figure("p99 of the slowest node", median(latencies), "ms", None);
    for (of, cpu) in [("a message", own_cpu), ("a bare append", raw_cpu)] {
        for (who, which) in ["nodes", "servers", "clients"].into_iter().zip(0..) {
            let each = median(cpu.iter().map(|cpu: &[f64; 3]| cpu[which]).collect());
            report.figure(&format!("processor time of {of}, {who}"), each, "us", None);
        }
    }
    Ok(())
}

/// The load generator, one process per node.
async fn loads(cluster: &Cluster, seed: u64, measure: f64) -> anyhow::Result<Vec<Outcome>> {
    let mut plans = Vec::new();
    for (number, member) in cluster.members().iter().enumerate() {
        plans.push(Plan {
            connections: CONNECTIONS_PER_NODE,
            sessions: SESSIONS,
            body: vec![b'x'; BODY_BYTES],
            seed: seed * 16 + number as u64,
            ..Plan::timed(member.addresses().api, SERVICE, measure)
        });
    }
    futures_util::future::try_join_all(plans.iter().map(Plan::run_apart)).await
}

/// The same sessions through their owner and through another node, in turn.
pub async fn forwarding(args: &Args, cluster: &Cluster, report: &mut Report) -> anyhow::Result<()> {
    let members = cluster.members();
    let (owner, other) = (&members[0], &members[1]);
    let apis = apis(&members);
    let probes = Probes::find(&apis[0], args.slots).await?;
    let slots = owner.admin().slots().await?;
    let own = slots.iter().filter(|slot| slot.owner == owner.name);
    let sessions: Vec<&str> = own.map(|slot| probes.of(slot.slot)).collect::<Result<_, _>>()?;
    let (mut local, mut forwarded) = (Histogram::default(), Histogram::default());
    let body = vec![b'x'; BODY_BYTES];
    let from = Instant::now() + WARM_UP;
    let until = from + Duration::from_secs_f64(args.measure * 2.0);
    for session in sessions.into_iter().cycle() {
        for (api, into) in [(&apis[0], &mut local), (&apis[1], &mut forwarded)] {
            let at = Instant::now();
            let message = Message::bytes(body.clone()).typed("text/plain");
            api.send(SERVICE, session, message).await?;
            if at >= from {
                into.record(at.elapsed());
            }
        }
        if Instant::now() > until {
            break;
        }
    }
    ensure!(local.count() > 0, "{} and {} answered nothing", owner.name, other.name);
    let ms = |histogram: &Histogram| histogram.quantile(0.5).as_secs_f64() * 1e3;
    report.figure("p50, local", ms(&local), "ms", None);
    report.figure("p50, forwarded", ms(&forwarded), "ms", None);
    let cost = ms(&forwarded) - ms(&local);
    report.figure("p50, what forwarding adds", cost, "ms", Some(Asked::AtMost(0.5)));
    Ok(())
}

pub fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    let at = |index: usize| all.get(index).copied().unwrap_or(f64::NAN);
    let middle = all.len() / 2;
    if all.len().is_multiple_of(2) {
        f64::midpoint(at(middle.wrapping_sub(1)), at(middle))
    } else {
        at(middle)
    }
}
