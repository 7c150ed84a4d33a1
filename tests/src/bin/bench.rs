//! Measures slotd beside the bare ceiling, in one run on one machine, and what it needs: time for
//! a swap, memory, time to start. Prints a report; `--json FILE` keeps it.

use anyhow::{Context, ensure};
use bytes::Bytes;
use clap::Parser;
use serde::Serialize;
use slotd_tests::{
    api::{Api, Message, Swap, metric},
    http::Client,
    load::{self, Outcome},
    node::{Node, NodeOptions, eventually, resident_bytes, sibling, slotd_binary},
    plugins,
    slots::{apart, slot_of},
};
use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

const SERVICE: &str = "counter";
/// Sessions that the keys are drawn from.
const SESSIONS: u64 = 10_000;
const CONNECTIONS: usize = 64;
/// So many sessions that every one of 512 slots has some.
const SESSIONS_FOR_ALL_SLOTS: u64 = 8_192;
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
    /// Seconds instead of minutes: two short rounds, fewer sessions
    #[arg(long)]
    quick: bool,
    /// Parts to measure
    #[arg(long, value_delimiter = ',', default_values = ["throughput", "swap", "starve", "memory"])]
    parts: Vec<Part>,
    /// Where both servers write [default: beside the programs]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Write the report as JSON too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Throughput,
    Swap,
    Starve,
    Memory,
}

#[derive(Default, Serialize)]
struct Report {
    cores: usize,
    throughput: Option<Throughput>,
    swap: Option<Swaps>,
    starve: Option<Starve>,
    memory: Option<Memory>,
}

#[derive(Default, Serialize)]
struct Throughput {
    connections: usize,
    rounds: Vec<Round>,
    /// slotd's requests per second over the ceiling's.
    ratio: Spread,
    /// slotd's p50 over the ceiling's, at one connection.
    p50_ratio: Spread,
    ceiling_syncs_per_request: f64,
    slotd_syncs_per_request: f64,
    guest_call_us: f64,
}

#[derive(Serialize)]
struct Round {
    ceiling: Outcome,
    slotd: Outcome,
    ceiling_alone: Outcome,
    slotd_alone: Outcome,
}

#[derive(Clone, Copy, Default, Serialize)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

#[derive(Serialize)]
struct Swaps {
    /// One for each swap under load; microseconds and milliseconds.
    swaps: Vec<SwapTimes>,
    load_failed: u64,
}

#[derive(Serialize)]
struct SwapTimes {
    slots: u32,
    pause_p50_us: f64,
    pause_p99_us: f64,
    pause_max_us: f64,
    all_moved_ms: f64,
}

/// A quiet service beside guests that never end by themselves.
#[derive(Serialize)]
struct Starve {
    alone: Outcome,
    /// With so many slots that spin.
    beside: Vec<(usize, Outcome, Probes)>,
}

/// Times of `/healthz`, in milliseconds.
#[derive(Serialize)]
struct Probes {
    p50_ms: f64,
    max_ms: f64,
}

#[derive(Serialize)]
struct Memory {
    idle_bytes: u64,
    slots_running: usize,
    sessions: u64,
    with_sessions_bytes: u64,
    with_sessions_peak_bytes: u64,
    fill_requests_per_second: f64,
    ready_after_stop_ms: f64,
    ready_after_kill_ms: f64,
    after_restart_bytes: u64,
}

fn main() -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(bench(Args::parse()))
}

async fn bench(mut args: Args) -> anyhow::Result<()> {
    if args.quick {
        args.rounds = 2;
        args.measure = 1.0;
        args.sessions = args.sessions.min(20_000);
    }
    let beside = sibling("load")?.parent().context("no folder")?.to_owned();
    let dir =
        tempfile::Builder::new().prefix("bench-").tempdir_in(args.dir.clone().unwrap_or(beside))?;
    let cores = std::thread::available_parallelism()?.get();
    let mut report = Report { cores, ..Report::default() };
    let has = |part| args.parts.contains(&part);
    println!("{cores} cores, load generator on the same; writing under {}", dir.path().display());
    println!("measuring {}", slotd_binary()?.display());
    if has(Part::Throughput) || has(Part::Swap) {
        let node = start(dir.path().join("slotd")).await?;
        if has(Part::Throughput) {
            report.throughput = Some(throughput(&args, dir.path(), &node).await?);
        }
        if has(Part::Swap) {
            report.swap = Some(swaps(&args, &node).await?);
        }
    }
    if has(Part::Starve) {
        report.starve = Some(starve(&args, dir.path()).await?);
    }
    if has(Part::Memory) {
        report.memory = Some(memory(&args, dir.path()).await?);
    }
    if let Some(path) = args.json {
        std::fs::write(&path, serde_json::to_vec_pretty(&report)?)
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// A node with the counter on it.
async fn start(data_dir: PathBuf) -> anyhow::Result<Node> {
    let options = NodeOptions { data_dir: Some(data_dir), ..NodeOptions::default() };
    let node = Node::start_with(options).await?;
    node.admin().deploy(SERVICE, plugins::load("counter")?).await?;
    Ok(node)
}

// ---- throughput -----------------------------------------------------------------------------------

async fn throughput(args: &Args, dir: &Path, node: &Node) -> anyhow::Result<Throughput> {
    println!(
        "\nPOST, 32-byte body, {SESSIONS} sessions, plugin counter; ceiling and slotd in turn\n"
    );
    let ceiling = Ceiling::start(&dir.join("ceiling"))?;
    let api = node.api().client.address();
    let mut result = Throughput { connections: CONNECTIONS, ..Throughput::default() };
    let (ceiling_before, slotd_before) = (ceiling.stats().await?, counters(node).await?);
    println!(
        "{:>5} | {:>12} {:>12} {:>6} | {:>12} {:>12} {:>6} | slotd p99 at {CONNECTIONS}",
        "round", "ceiling/s", "slotd/s", "ratio", "ceiling p50", "slotd p50", "ratio"
    );
    for round in 0..args.rounds {
        let load = |address: SocketAddr, connections: usize| {
            run_load(address, connections, SESSIONS, round as u64, args.measure)
        };
        // Whoever goes second finds the machine as the first left it: take turns in that too.
        let (c, s, c1, s1) = if round % 2 == 0 {
            let c = load(ceiling.address, CONNECTIONS).await?;
            let s = load(api, CONNECTIONS).await?;
            let c1 = load(ceiling.address, 1).await?;
            (c, s, c1, load(api, 1).await?)
        } else {
            let s = load(api, CONNECTIONS).await?;
            let c = load(ceiling.address, CONNECTIONS).await?;
            let s1 = load(api, 1).await?;
            (c, s, load(ceiling.address, 1).await?, s1)
        };
        println!(
            "{:>5} | {:>12.0} {:>12.0} {:>6.2} | {:>9.0} µs {:>9.0} µs {:>6.2} | {:.2} ms",
            round + 1,
            c.requests_per_second,
            s.requests_per_second,
            s.requests_per_second / c.requests_per_second,
            c1.p50_us,
            s1.p50_us,
            s1.p50_us / c1.p50_us,
            s.p99_us / 1e3,
        );
        result.rounds.push(Round { ceiling: c, slotd: s, ceiling_alone: c1, slotd_alone: s1 });
    }
    let (ceiling_after, slotd_after) = (ceiling.stats().await?, counters(node).await?);
    let requests: u64 =
        result.rounds.iter().map(|r| r.slotd.requests_all + r.slotd_alone.requests_all).sum();
    let spread = |f: &dyn Fn(&Round) -> f64| Spread::of(result.rounds.iter().map(f).collect());
    result.ratio = spread(&|r| r.slotd.requests_per_second / r.ceiling.requests_per_second);
    result.p50_ratio = spread(&|r| r.slotd_alone.p50_us / r.ceiling_alone.p50_us);
    result.ceiling_syncs_per_request = (ceiling_after.syncs - ceiling_before.syncs)
        / (ceiling_after.messages - ceiling_before.messages);
    result.slotd_syncs_per_request = (slotd_after.syncs - slotd_before.syncs) / requests as f64;
    result.guest_call_us = (slotd_after.guest_seconds - slotd_before.guest_seconds) * 1e6
        / (slotd_after.guest_calls - slotd_before.guest_calls);
    println!();
    row("throughput, of the ceiling's", result.ratio.show(), "0.50 or more");
    row("p50 at 1 connection, over it", result.p50_ratio.show(), "1.50 or less");
    row(
        "syncs per request",
        format!(
            "{:.3} (ceiling {:.3})",
            result.slotd_syncs_per_request, result.ceiling_syncs_per_request
        ),
        "",
    );
    row("guest call, counter", format!("{:.2} µs", result.guest_call_us), "");
    Ok(result)
}

/// Runs the load generator as a process of its own.
async fn run_load(
    address: SocketAddr,
    connections: usize,
    sessions: u64,
    seed: u64,
    measure: f64,
) -> anyhow::Result<Outcome> {
    let mut command = load_command(address)?;
    command.args(["--connections", &connections.to_string(), "--seed", &seed.to_string()]);
    command.args(["--sessions", &sessions.to_string(), "--measure", &measure.to_string()]);
    let outcome = finish(command.spawn()?).await?;
    ensure!(outcome.failed == 0, "{} failed, first {:?}", outcome.failed, outcome.first_failure);
    Ok(outcome)
}

fn load_command(address: SocketAddr) -> anyhow::Result<Command> {
    let mut command = Command::new(sibling("load")?);
    command.args(["--address", &address.to_string(), "--service", SERVICE]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    Ok(command)
}

async fn finish(load: Child) -> anyhow::Result<Outcome> {
    let output = tokio::task::spawn_blocking(move || load.wait_with_output()).await??;
    ensure!(output.status.success(), "the load generator ended with {}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
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

/// The ceiling's process.
struct Ceiling {
    child: Child,
    address: SocketAddr,
}

#[derive(serde::Deserialize)]
struct CeilingStats {
    messages: f64,
    syncs: f64,
}

impl Ceiling {
    fn start(file: &Path) -> anyhow::Result<Self> {
        let mut child = Command::new(sibling("ceiling")?)
            .arg("--file")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
        let address = line.trim().strip_prefix("listening on ").context("no address")?.parse()?;
        Ok(Self { child, address })
    }

    async fn stats(&self) -> anyhow::Result<CeilingStats> {
        Client::new(self.address).get("/stats").await?.success()?.json()
    }
}

impl Drop for Ceiling {
    fn drop(&mut self) {
        // It keeps nothing that is worth an orderly end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// ---- swap -----------------------------------------------------------------------------------------

async fn swaps(args: &Args, node: &Node) -> anyhow::Result<Swaps> {
    let (admin, counter) = (node.admin(), plugins::load("counter")?);
    let mut command = load_command(node.api().client.address())?;
    let seconds = args.measure.max(2.0) * 2.0;
    command.args(["--sessions", &SESSIONS.to_string(), "--measure", &seconds.to_string()]);
    let mut load = command.spawn()?;
    // Busy means: every slot has taken messages of this load.
    let before = counters(node).await?.guest_calls;
    eventually("load on every slot", async || {
        Ok((counters(node).await?.guest_calls > before + SESSIONS as f64).then_some(()))
    })
    .await?;
    let mut swaps = Vec::new();
    for number in 0..if args.quick { 2 } else { 5 } {
        let component: Bytes = plugins::variant(&counter, &number.to_string());
        let deployed = admin.deploy(SERVICE, component).await?;
        ensure!(load.try_wait()?.is_none(), "the load ended before the swaps");
        let swap: Swap = deployed.swap.context("the deploy moved nothing")?;
        swaps.push(SwapTimes {
            slots: swap.moved,
            pause_p50_us: swap.pause_p50_us,
            pause_p99_us: swap.pause_p99_us,
            pause_max_us: swap.pause_max_us,
            all_moved_ms: swap.elapsed_ms,
        });
    }
    let outcome = finish(load).await?;
    println!("\nSwap of 512 busy slots, {} times\n", swaps.len());
    let spread = |f: &dyn Fn(&SwapTimes) -> f64| Spread::of(swaps.iter().map(f).collect());
    row("pause p50", spread(&|s| s.pause_p50_us / 1e3).show_as("ms"), "");
    row("pause p99", spread(&|s| s.pause_p99_us / 1e3).show_as("ms"), "1 ms or less");
    row("pause max", spread(&|s| s.pause_max_us / 1e3).show_as("ms"), "");
    row("until all have moved", spread(&|s| s.all_moved_ms).show_as("ms"), "1000 ms or less");
    row("requests meanwhile", format!("{:.0}/s", outcome.requests_per_second), "");
    row("failed meanwhile", outcome.failed.to_string(), "0");
    Ok(Swaps { swaps, load_failed: outcome.failed })
}

// ---- guests that spin -----------------------------------------------------------------------------

const SPINNING: &str = "spinning";
/// Clients of the quiet service, and its sessions. The other slots spin: a slot has one writer, so
/// a session of a slot that spins waits for the guest's deadline by design.
const QUIET_CONNECTIONS: usize = 4;
const QUIET_SESSIONS: u64 = 64;
const PROBE_EVERY: Duration = Duration::from_millis(20);

async fn starve(args: &Args, dir: &Path) -> anyhow::Result<Starve> {
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

/// Has so many slots spin, each again as soon as it has answered, while a load runs.
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

/// Sessions in so many slots, none of them a slot of the quiet service's.
async fn spinning_sessions(node: &Node, slots: usize) -> anyhow::Result<Vec<String>> {
    let slot_count = u16::try_from(node.admin().slots().await?.len())?;
    let quiet = (0..QUIET_SESSIONS)
        .map(|number| slot_of(SERVICE, &load::session(number), slot_count))
        .collect::<Result<_, _>>()?;
    apart(SPINNING, "spin", slots, slot_count, &quiet)
}

// ---- memory and start -----------------------------------------------------------------------------

async fn memory(args: &Args, dir: &Path) -> anyhow::Result<Memory> {
    println!("\nMemory and start-up\n");
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    let (idle_bytes, slots_running) = {
        let node = start(dir.join("idle")).await?;
        fill(&node, SESSIONS_FOR_ALL_SLOTS).await?;
        let slots = node.admin().slots().await?;
        let running = slots.iter().filter(|slot| slot.state == "running").count();
        (settled_bytes(&node).await?, running)
    };
    row(&format!("idle, {slots_running} slots started"), mib(idle_bytes), "");
    let mut node = start(dir.join("many")).await?;
    let outcome = fill(&node, args.sessions).await?;
    let with_sessions_bytes = settled_bytes(&node).await?;
    let with_sessions_peak_bytes = peak_bytes(node.pid().context("not running")?)?;
    row(&format!("with {} sessions", args.sessions), mib(with_sessions_bytes), "256 MiB or less");
    row("  at its peak", mib(with_sessions_peak_bytes), "");
    row("  filled at", format!("{:.0}/s", outcome.requests_per_second), "");
    let status = node.terminate().await?;
    ensure!(status.success(), "the node ended with {status}");
    let ready_after_stop_ms = time_to_ready(&mut node).await?;
    row("ready after a stop", format!("{ready_after_stop_ms:.0} ms"), "2000 ms or less");
    let after_restart_bytes = resident_bytes(node.pid().context("not running")?)?;
    row("  memory then", mib(after_restart_bytes), "");
    // Something for it to recover.
    run_load(node.api().client.address(), CONNECTIONS, SESSIONS, 0, 1.0).await?;
    node.kill()?;
    let ready_after_kill_ms = time_to_ready(&mut node).await?;
    row("ready after a kill under way", format!("{ready_after_kill_ms:.0} ms"), "2000 ms or less");
    Ok(Memory {
        idle_bytes,
        slots_running,
        sessions: args.sessions,
        with_sessions_bytes,
        with_sessions_peak_bytes,
        fill_requests_per_second: outcome.requests_per_second,
        ready_after_stop_ms,
        ready_after_kill_ms,
        after_restart_bytes,
    })
}

async fn fill(node: &Node, sessions: u64) -> anyhow::Result<Outcome> {
    let mut command = load_command(node.api().client.address())?;
    command.args(["--each-once", "--sessions", &sessions.to_string()]);
    let outcome = finish(command.spawn()?).await?;
    ensure!(outcome.failed == 0, "{} failed, first {:?}", outcome.failed, outcome.first_failure);
    Ok(outcome)
}

async fn time_to_ready(node: &mut Node) -> anyhow::Result<f64> {
    let started = Instant::now();
    node.restart().await?;
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

/// Resident memory once the node is idle: what it keeps, not what the load before needed. Idle is
/// when two looks some seconds apart differ by less than a hundredth.
async fn settled_bytes(node: &Node) -> anyhow::Result<u64> {
    let mut before = node.resident_bytes()?;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let now = node.resident_bytes()?;
        if now.abs_diff(before) < before / 100 {
            return Ok(now);
        }
        before = now;
    }
    Ok(before)
}

fn peak_bytes(pid: u32) -> anyhow::Result<u64> {
    slotd_tests::node::status_bytes(pid, "VmHWM:")
}

// ---- report ---------------------------------------------------------------------------------------

fn row(name: &str, value: String, reach: &str) {
    let reach = if reach.is_empty() { String::new() } else { format!("   reach: {reach}") };
    println!("  {name:<32} {value:<40}{reach}");
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            (at(middle.wrapping_sub(1)) + at(middle)) / 2.0
        } else {
            at(middle)
        };
        Self { median, min: at(0), max: at(values.len().wrapping_sub(1)) }
    }
    fn show(self) -> String {
        format!("median {:.2} ({:.2} to {:.2})", self.median, self.min, self.max)
    }
    fn show_as(self, unit: &str) -> String {
        let digits = if self.max < 10.0 { 3 } else { 0 };
        let Self { median, min, max } = self;
        format!("median {median:.digits$} {unit} ({min:.digits$} to {max:.digits$})")
    }
}
