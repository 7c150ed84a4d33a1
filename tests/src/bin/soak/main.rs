//! `cargo xtask soak`: hostile load of all kinds at once, for minutes or hours, with a report.

use anyhow::{Context, ensure};
use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use slotd_tests::soak::{Plan, run};
use std::{process::ExitCode, time::Duration};

/// Runs hostile load against one node, or with --cluster three, next to honest clients whose history is checked. Prints the results; exit code 1 if a check failed.
#[derive(Parser)]
struct Args {
    /// Minutes under pressure
    #[arg(long, default_value_t = 2.0, conflicts_with = "hours")]
    minutes: f64,
    /// Hours under pressure
    #[arg(long)]
    hours: Option<f64>,
    /// Three nodes with three NATS servers instead of one node
    #[arg(long)]
    cluster: bool,
    /// Seed of the honest clients
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Check the targets for an otherwise idle machine: p99 of the quiet service at most twice its
    /// value alone and 10 ms, probes within 50 ms
    #[arg(long)]
    strict: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let minutes = args.hours.map_or(args.minutes, |hours| hours * 60.0);
    ensure!(minutes.is_finite() && minutes > 0.0, "a soak takes some time");
    let plan = Plan {
        length: Duration::from_secs_f64(minutes * 60.0),
        nodes: if args.cluster { 3 } else { 1 },
        seed: args.seed,
        strict: args.strict,
    };
    // The clients need more connections than a shell's default limit.
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files })?;
    let runtime = tokio::runtime::Runtime::new().context("starting a runtime")?;
    let account = runtime.block_on(async {
        // So that nodes and disks are gone when it ends.
        tokio::select! {
            account = run(&plan) => account.map(Some),
            _ = tokio::signal::ctrl_c() => Ok(None),
        }
    })?;
    let Some(account) = account else { return Ok(ExitCode::from(130)) };
    println!("\n{account}");
    Ok(ExitCode::from(u8::from(!account.held())))
}
