//! Requests per second and latency compared with the ceiling's.

use crate::{
    Args, CONNECTIONS, SESSIONS,
    ceiling::Ceiling,
    counters,
    report::{Spread, row},
    run_load,
};
use serde::Serialize;
use slotd_tests::{load::Outcome, node::Node};
use std::{net::SocketAddr, path::Path};

#[derive(Default, Serialize)]
pub struct Throughput {
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
pub struct Round {
    ceiling: Outcome,
    slotd: Outcome,
    ceiling_alone: Outcome,
    slotd_alone: Outcome,
}

pub async fn throughput(args: &Args, dir: &Path, node: &Node) -> anyhow::Result<Throughput> {
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
        // The second one finds the machine as the first left it: alternate the order.
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
