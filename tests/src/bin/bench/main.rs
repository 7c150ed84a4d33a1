//! Measures slotd against the ceiling, in one run on one machine, and its swap time, memory and
//! start time. Prints a report; `--json FILE` writes it.

mod beside;
mod ceiling;
mod connections;
mod ephemeral;
mod fan_out;
mod http2;
mod languages;
mod memory;
mod peers;
mod replay;
mod report;
mod requests;
mod sealed;
mod sends;
mod sockets;
mod starve;
mod swap;
mod throughput;
mod timers;
mod tls;

use anyhow::{Context, ensure};
use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use slotd_tests::{
    api::metric,
    load::{Outcome, Plan},
    node::{Node, NodeOptions, sibling, slotd_binary},
    plugins,
};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

const SERVICE: &str = "counter";
/// Sessions that the keys are drawn from.
const SESSIONS: u64 = 10_000;
const CONNECTIONS: usize = 64;
/// Counters of slotd that the report is made of.
mod names {
    pub const SYNCS: &str = "slotd_fsyncs_total";
    pub const GUEST_SECONDS: &str = "slotd_guest_call_seconds_sum";
    pub const GUEST_CALLS: &str = "slotd_guest_call_seconds_count";
}

#[derive(Parser)]
struct Args {
    /// Rounds of ceiling and slotd in turn
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds that one load is measured for
    #[arg(long, default_value_t = 5.0)]
    measure: f64,
    /// Sessions of the memory and start-up measurements
    #[arg(long, default_value_t = 1_000_000)]
    sessions: u64,
    /// WebSockets that an event fans out to
    #[arg(long, default_value_t = 5_000)]
    subscribers: usize,
    /// Idle connections of each kind
    #[arg(long, default_value_t = 2_000)]
    idle: usize,
    /// Timers that are due within a minute
    #[arg(long, default_value_t = 1_000_000)]
    timers: u64,
    /// Sessions that have a stream at once
    #[arg(long, default_value_t = 1_000)]
    streams: u64,
    /// Seconds instead of minutes: two short rounds, fewer sessions, connections and timers
    #[arg(long)]
    quick: bool,
    /// Parts to measure [default: all]
    #[arg(long, value_delimiter = ',')]
    parts: Vec<Part>,
    /// What is beside the quiet service in `beside` [default: all in turn]
    #[arg(long, value_delimiter = ',')]
    neighbours: Vec<beside::Neighbour>,
    /// Where all servers write [default: beside the programs]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Write the report as JSON too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Throughput,
    Http2,
    Swap,
    Starve,
    /// The second half of `starve` alone.
    Beside,
    Memory,
    Sockets,
    FanOut,
    Ephemeral,
    Timers,
    Sends,
    Requests,
    Connections,
    Languages,
    Peers,
    Tls,
    Sealed,
    Replay,
}

#[derive(Default, Serialize)]
struct Report {
    cores: usize,
    throughput: Option<throughput::Throughput>,
    http2: Option<http2::Http2>,
    swap: Option<swap::Swaps>,
    starve: Option<starve::Starve>,
    beside: Option<beside::Beside>,
    memory: Option<memory::Memory>,
    sockets: Option<sockets::Sockets>,
    fan_out: Option<fan_out::FanOut>,
    ephemeral: Option<ephemeral::Ephemeral>,
    timers: Option<timers::Timers>,
    sends: Option<sends::Sends>,
    requests: Option<requests::Requests>,
    connections: Option<Vec<connections::Idle>>,
    languages: Option<languages::Languages>,
    peers: Option<peers::Peers>,
    tls: Option<tls::Tls>,
    sealed: Option<sealed::Sealed>,
    replay: Option<replay::Replays>,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    // Subscribers and idle connections need more than a shell's default limit.
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files })?;
    tokio::runtime::Runtime::new()?.block_on(async {
        // So that servers and folders are removed when it ends.
        tokio::select! {
            done = bench(args) => done.map(|()| ExitCode::SUCCESS),
            _ = tokio::signal::ctrl_c() => Ok(ExitCode::from(130)),
        }
    })
}

async fn bench(mut args: Args) -> anyhow::Result<()> {
    if args.quick {
        args.rounds = 2;
        args.measure = 1.0;
        args.sessions = args.sessions.min(20_000);
        args.subscribers = args.subscribers.min(500);
        args.idle = args.idle.min(500);
        args.timers = args.timers.min(20_000);
        args.streams = args.streams.min(100);
    }
    ensure!(args.rounds > 0, "there must be rounds");
    let beside = sibling("load")?.parent().context("no folder")?.to_owned();
    let dir =
        tempfile::Builder::new().prefix("bench-").tempdir_in(args.dir.clone().unwrap_or(beside))?;
    let cores = std::thread::available_parallelism()?.get();
    let mut report = Report { cores, ..Report::default() };
    println!("{cores} cores, load generator on the same; writing under {}", dir.path().display());
    println!("measuring {}", slotd_binary()?.display());
    measure(&args, dir.path(), &mut report).await?;
    if let Some(path) = args.json {
        std::fs::write(&path, serde_json::to_vec_pretty(&report)?)
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

async fn measure(args: &Args, dir: &Path, report: &mut Report) -> anyhow::Result<()> {
    let has = |part| args.parts.is_empty() || args.parts.contains(&part);
    if has(Part::Throughput) || has(Part::Swap) {
        let node = start(dir.join("slotd")).await?;
        if has(Part::Throughput) {
            report.throughput = Some(throughput::throughput(args, dir, &node).await?);
        }
        if has(Part::Swap) {
            report.swap = Some(swap::swaps(args, &node).await?);
        }
    }
    if has(Part::Http2) {
        report.http2 = Some(http2::http2(args, dir).await?);
    }
    if has(Part::Starve) {
        report.starve = Some(starve::starve(args, dir).await?);
    }
    if has(Part::Starve) || has(Part::Beside) {
        report.beside = Some(beside::beside(args, dir).await?);
    }
    if has(Part::Memory) {
        report.memory = Some(memory::memory(args, dir).await?);
    }
    if has(Part::Sockets) {
        report.sockets = Some(sockets::sockets(args, dir).await?);
    }
    if has(Part::FanOut) {
        report.fan_out = Some(fan_out::fan_out(args, dir).await?);
    }
    if has(Part::Ephemeral) {
        report.ephemeral = Some(ephemeral::ephemeral(args, dir).await?);
    }
    if has(Part::Timers) {
        report.timers = Some(timers::timers(args, dir).await?);
    }
    if has(Part::Sends) {
        report.sends = Some(sends::sends(args, dir).await?);
    }
    if has(Part::Requests) {
        report.requests = Some(requests::requests(args, dir).await?);
    }
    if has(Part::Connections) {
        report.connections = Some(connections::connections(args, dir).await?);
    }
    if has(Part::Languages) {
        report.languages = Some(languages::languages(args, dir).await?);
    }
    if has(Part::Peers) {
        report.peers = peers::peers(args, dir).await?;
    }
    if has(Part::Tls) {
        report.tls = Some(tls::tls(args, dir).await?);
    }
    if has(Part::Sealed) {
        report.sealed = Some(sealed::sealed(args, dir).await?);
    }
    if has(Part::Replay) {
        report.replay = Some(replay::replays(args, dir).await?);
    }
    Ok(())
}

/// A node with the counter on it.
async fn start(data_dir: PathBuf) -> anyhow::Result<Node> {
    start_with(data_dir, "counter").await
}

/// A node with that plugin as the service.
async fn start_with(data_dir: PathBuf, plugin: &str) -> anyhow::Result<Node> {
    start_in(data_dir, plugin, Vec::new()).await
}

/// As [`start_with`], with further variables.
async fn start_in(
    data_dir: PathBuf,
    plugin: &str,
    env: Vec<(String, String)>,
) -> anyhow::Result<Node> {
    let component = plugins::load(plugin)?;
    let options = NodeOptions { data_dir: Some(data_dir), env, ..NodeOptions::default() };
    let node = Node::start_with(options).await?;
    node.admin().deploy(SERVICE, component).await?;
    Ok(node)
}

/// Runs the load generator as a separate process.
async fn run_load(
    address: SocketAddr,
    connections: usize,
    sessions: u64,
    seed: u64,
    measure: f64,
) -> anyhow::Result<Outcome> {
    Plan { connections, sessions, seed, ..Plan::timed(address, SERVICE, measure) }.run_apart().await
}

/// The loads of a round, one after the other. The second one finds the machine as the first left
/// it, so each round begins with a different one.
async fn in_turn<const N: usize>(plans: &[Plan; N], round: usize) -> anyhow::Result<[Outcome; N]> {
    let mut outcomes = [const { None }; N];
    for at in (0..N).map(|at| (at + round) % N) {
        let plan = Plan { seed: round as u64, ..plans[at].clone() };
        outcomes[at] = Some(plan.run_apart().await?);
    }
    let outcomes: Vec<Outcome> = outcomes.into_iter().flatten().collect();
    outcomes.try_into().ok().context("a load without an outcome")
}

struct Counters {
    syncs: f64,
    guest_seconds: f64,
    guest_calls: f64,
}

async fn counters(node: &Node) -> anyhow::Result<Counters> {
    let text = node.admin().client.get("/metrics").await?.success()?.text();
    let read = |name| metric(&text, name, "");
    Ok(Counters {
        syncs: read(names::SYNCS),
        guest_seconds: read(names::GUEST_SECONDS),
        guest_calls: read(names::GUEST_CALLS),
    })
}
