//! Swaps of all slots under load.

use crate::{
    Args, SERVICE, SESSIONS, counters,
    report::{Spread, row},
};
use anyhow::{Context, ensure};
use bytes::Bytes;
use serde::Serialize;
use slotd_tests::{
    api::Swap,
    load::{self, Plan},
    node::{Node, eventually},
    plugins,
};

#[derive(Serialize)]
pub struct Swaps {
    /// One per swap under load; microseconds and milliseconds.
    swaps: Vec<SwapTimes>,
    load_failed: u64,
}

#[derive(Serialize)]
pub struct SwapTimes {
    slots: u32,
    pause_p50_us: f64,
    pause_p99_us: f64,
    pause_max_us: f64,
    all_moved_ms: f64,
}

pub async fn swaps(args: &Args, node: &Node) -> anyhow::Result<Swaps> {
    let (admin, counter) = (node.admin(), plugins::load("counter")?);
    let address = node.api().client.address();
    let mut load = Plan::timed(address, SERVICE, args.measure.max(2.0) * 2.0).spawn()?;
    // Busy means: every slot has received messages of this load.
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
    let outcome = load::ended(load).await?;
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
