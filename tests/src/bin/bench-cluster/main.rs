//! Measures a cluster of three nodes and three NATS servers on this machine: compared with bare
//! appends in the same run, and while slots move and processes die. Prints a table; `--json FILE`
//! writes it.

mod changes;
mod raw;
mod speed;
mod steady;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use serde::Serialize;
use slotd_tests::{
    api::Api,
    cluster::{Cluster, ClusterOptions, Member},
    node::slotd_binary,
    plugins,
};
use std::{path::PathBuf, sync::Arc, time::Duration};

const SERVICE: &str = "counter";
const NODES: u32 = 3;
const SERVERS: usize = 3;
/// Per change; the targets are far lower.
const SETTLED_WITHIN: Duration = Duration::from_secs(120);

#[derive(Parser)]
struct Args {
    /// Rounds of slotd and bare appends in turn
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds that one load is measured for
    #[arg(long, default_value_t = 5.0)]
    measure: f64,
    /// Slots of the cluster
    #[arg(long, default_value_t = 512)]
    slots: u16,
    /// Sessions in each slot that is handed over in the part `handoff`
    #[arg(long, default_value_t = 10_000)]
    slot_sessions: u64,
    /// Seconds instead of minutes, on fewer slots: to check that it works
    #[arg(long)]
    quick: bool,
    /// Parts to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Part::value_variants().to_vec())]
    parts: Vec<Part>,
    /// Write the figures as JSON too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Part {
    /// Messages per second, compared with bare appends
    Throughput,
    /// The cost of forwarding, at one connection
    Forwarding,
    /// The pause of slots with many sessions during a handoff
    Handoff,
    /// A node that hands over its slots under load
    Drain,
    /// A node that is killed under load
    NodeKill,
    /// A NATS server that is killed under load
    ServerKill,
}

/// A target.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Asked {
    AtLeast(f64),
    AtMost(f64),
}

/// One row of the table.
#[derive(Serialize)]
struct Figure {
    part: Part,
    name: String,
    unit: &'static str,
    measured: f64,
    asked: Option<Asked>,
    reached: Option<bool>,
}

/// Rows, printed as they come.
struct Report {
    part: Part,
    figures: Vec<Figure>,
}

fn main() -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(bench(Args::parse()))
}

async fn bench(mut args: Args) -> anyhow::Result<()> {
    if args.quick {
        args.rounds = args.rounds.min(1);
        args.measure = args.measure.min(1.0);
        args.slots = args.slots.min(48);
        args.slot_sessions = args.slot_sessions.min(100);
    }
    let cores = std::thread::available_parallelism()?.get();
    println!(
        "{cores} cores, {SERVERS} always-fsync servers, {NODES} nodes and all clients on them"
    );
    println!("measuring {}", slotd_binary()?.display());
    let has = |part| args.parts.contains(&part);
    let mut report = Report { part: Part::Throughput, figures: Vec::new() };
    let of_many_slots =
        [Part::Throughput, Part::Forwarding, Part::Drain, Part::NodeKill, Part::ServerKill];
    if of_many_slots.into_iter().any(has) {
        let cluster = start(args.slots).await?;
        if has(Part::Throughput) {
            report.begin(Part::Throughput, "Messages a second, beside bare appends");
            speed::throughput(&args, &cluster, &mut report).await?;
        }
        if has(Part::Forwarding) {
            report.begin(Part::Forwarding, "One connection: local and forwarded");
            speed::forwarding(&args, &cluster, &mut report).await?;
        }
        if has(Part::ServerKill) {
            report.begin(Part::ServerKill, "A NATS server is killed under load");
            changes::server_kill(&cluster, &mut report).await?;
        }
        if has(Part::NodeKill) {
            report.begin(Part::NodeKill, "A node is killed under load");
            changes::node_kill(&cluster, &mut report).await?;
        }
        if has(Part::Drain) {
            report.begin(Part::Drain, "A node gives its slots away under load");
            changes::drain(&cluster, &mut report).await?;
        }
    }
    if has(Part::Handoff) {
        let title = format!("Planned moves of slots of {} sessions", args.slot_sessions);
        report.begin(Part::Handoff, &title);
        changes::handoff(&args, &mut report).await?;
    }
    report.table();
    if let Some(path) = args.json {
        let json = serde_json::json!({"cores": cores, "figures": report.figures});
        std::fs::write(&path, serde_json::to_vec_pretty(&json)?)
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// A cluster at rest with the counter on it.
async fn start(slots: u16) -> anyhow::Result<Cluster> {
    start_with(ClusterOptions { slots, ..options() }).await
}

fn options() -> ClusterOptions {
    ClusterOptions { nodes: NODES, servers: SERVERS, ..ClusterOptions::default() }
}

async fn start_with(options: ClusterOptions) -> anyhow::Result<Cluster> {
    let cluster = Cluster::start(options, None).await?;
    let members = cluster.members();
    let first = members.first().context("no node")?;
    first.admin().deploy(SERVICE, plugins::load("counter")?).await?;
    cluster.settled(&members, SETTLED_WITHIN).await?;
    Ok(cluster)
}

fn apis(members: &[Arc<Member>]) -> Vec<Api> {
    members.iter().map(|member| member.api()).collect()
}

impl Report {
    fn begin(&mut self, part: Part, title: &str) {
        self.part = part;
        println!("\n{title}\n");
    }

    fn figure(&mut self, name: &str, measured: f64, unit: &'static str, asked: Option<Asked>) {
        let reached = asked.map(|asked| asked.reached(measured));
        let (part, name) = (self.part, name.to_owned());
        let figure = Figure { part, name, unit, measured, asked, reached };
        figure.print();
        self.figures.push(figure);
    }

    /// All targets, once more and together.
    fn table(&self) {
        println!("\n  {:<48} {:>16} {:>16}\n", "figure", "asked", "measured");
        self.figures.iter().filter(|figure| figure.asked.is_some()).for_each(Figure::print);
    }
}

impl Figure {
    fn print(&self) {
        let asked = match self.asked {
            Some(Asked::AtLeast(least)) => format!(">= {least} {}", self.unit),
            Some(Asked::AtMost(most)) => format!("<= {most} {}", self.unit),
            None => String::new(),
        };
        let measured = match self.unit {
            "" | "/s" if self.measured.fract() == 0.0 || self.measured >= 100.0 => {
                format!("{:.0} {}", self.measured, self.unit)
            }
            unit => format!("{:.2} {unit}", self.measured),
        };
        let reached = match self.reached {
            Some(true) => "reached",
            Some(false) => "NOT reached",
            None => "",
        };
        println!("  {:<48} {:>16} {:>16}  {reached}", self.name, asked.trim_end(), measured.trim());
    }
}

impl Asked {
    fn reached(self, measured: f64) -> bool {
        match self {
            Self::AtLeast(least) => measured >= least,
            Self::AtMost(most) => measured <= most,
        }
    }
}
