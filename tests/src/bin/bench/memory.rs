//! A node's memory and start time.

use crate::{Args, CONNECTIONS, SERVICE, SESSIONS, report::row, run_load, start};
use anyhow::{Context, ensure};
use serde::Serialize;
use slotd_tests::{
    connections::settled_bytes,
    load::{Outcome, Plan},
    node::{Node, resident_bytes, status_bytes},
};
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// Enough sessions that each of 512 slots has some.
const SESSIONS_FOR_ALL_SLOTS: u64 = 8_192;
const SETTLE_EVERY: Duration = Duration::from_secs(5);

#[derive(Serialize)]
pub struct Memory {
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

pub async fn memory(args: &Args, dir: &Path) -> anyhow::Result<Memory> {
    println!("\nMemory and start-up\n");
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    let (idle_bytes, slots_running) = {
        let node = start(dir.join("idle")).await?;
        fill(&node, SESSIONS_FOR_ALL_SLOTS).await?;
        let slots = node.admin().slots().await?;
        let running = slots.iter().filter(|slot| slot.state == "running").count();
        (settled_bytes(&node, SETTLE_EVERY).await?, running)
    };
    row(&format!("idle, {slots_running} slots started"), mib(idle_bytes), "");
    let mut node = start(dir.join("many")).await?;
    let outcome = fill(&node, args.sessions).await?;
    let with_sessions_bytes = settled_bytes(&node, SETTLE_EVERY).await?;
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
    // Something to recover.
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
    Plan::each_once(node.api().client.address(), SERVICE, sessions).run_apart().await
}

async fn time_to_ready(node: &mut Node) -> anyhow::Result<f64> {
    let started = Instant::now();
    node.restart().await?;
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

fn peak_bytes(pid: u32) -> anyhow::Result<u64> {
    status_bytes(pid, "VmHWM:")
}
