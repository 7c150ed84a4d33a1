//! What TLS costs: messages over it and beside it without, in turn, to the same node.

use crate::{
    Args, CONNECTIONS, SERVICE, SESSIONS,
    report::{Spread, row},
};
use anyhow::Context;
use serde::Serialize;
use slotd_tests::{
    load::{Outcome, Plan},
    node::{Node, NodeOptions, cpu_time},
    plugins,
    tls::Certificates,
};
use std::path::Path;

#[derive(Default, Serialize)]
pub struct Tls {
    rounds: Vec<Round>,
    /// Requests per second over those without it.
    ratio: Spread,
    /// The node's processor time for a message over that without it.
    cpu_ratio: Spread,
}

#[derive(Serialize)]
struct Round {
    clear: Measured,
    tls: Measured,
}

#[derive(Serialize)]
struct Measured {
    outcome: Outcome,
    /// The node's processor time.
    cpu_us_per_message: f64,
}

pub async fn tls(args: &Args, dir: &Path) -> anyhow::Result<Tls> {
    println!(
        "\nPOST over {CONNECTIONS} connections, 32-byte body, {SESSIONS} sessions, plugin counter; in \
         clear and over TLS 1.3 in turn, to two nodes\n"
    );
    let certificates = Certificates::make(&[]).await?;
    let clear = start(dir.join("tls-clear"), Vec::new()).await?;
    let tls = start(dir.join("tls"), certificates.api_args()).await?;
    println!(
        "{:>5} | {:>10} {:>10} {:>6} | {:>11} {:>11} {:>6} | p99",
        "round", "clear/s", "TLS/s", "ratio", "clear CPU", "TLS CPU", "ratio"
    );
    let mut result = Tls::default();
    for round in 0..args.rounds {
        let load = async |node: &Node, ca: Option<std::path::PathBuf>| {
            let plan = Plan {
                connections: CONNECTIONS,
                sessions: SESSIONS,
                seed: round as u64,
                ca,
                ..Plan::timed(node.api().client.address(), SERVICE, args.measure)
            };
            let pid = node.pid().context("the node is not running")?;
            let before = cpu_time(pid, false)?;
            let outcome = plan.run_apart().await?;
            let cpu = cpu_time(pid, false)?.saturating_sub(before);
            let cpu_us_per_message = cpu.as_secs_f64() * 1e6 / outcome.requests_all as f64;
            anyhow::Ok(Measured { outcome, cpu_us_per_message })
        };
        let authority = || Some(certificates.authority());
        // The second one finds the machine as the first left it: alternate the order.
        let (clear, tls) = if round % 2 == 0 {
            let clear = load(&clear, None).await?;
            (clear, load(&tls, authority()).await?)
        } else {
            let tls = load(&tls, authority()).await?;
            (load(&clear, None).await?, tls)
        };
        println!(
            "{:>5} | {:>10.0} {:>10.0} {:>6.2} | {:>8.1} µs {:>8.1} µs {:>6.2} | {:.2} and {:.2} ms",
            round + 1,
            clear.outcome.requests_per_second,
            tls.outcome.requests_per_second,
            tls.outcome.requests_per_second / clear.outcome.requests_per_second,
            clear.cpu_us_per_message,
            tls.cpu_us_per_message,
            tls.cpu_us_per_message / clear.cpu_us_per_message,
            clear.outcome.p99_us / 1e3,
            tls.outcome.p99_us / 1e3,
        );
        result.rounds.push(Round { clear, tls });
    }
    let spread = |f: &dyn Fn(&Round) -> f64| Spread::of(result.rounds.iter().map(f).collect());
    let rate = |measured: &Measured| measured.outcome.requests_per_second;
    result.ratio = spread(&|r| rate(&r.tls) / rate(&r.clear));
    result.cpu_ratio = spread(&|r| r.tls.cpu_us_per_message / r.clear.cpu_us_per_message);
    println!();
    row("throughput over TLS, of that in clear", result.ratio.show(), "");
    row("processor time a message, over that in clear", result.cpu_ratio.show(), "");
    Ok(result)
}

async fn start(data_dir: std::path::PathBuf, args: Vec<String>) -> anyhow::Result<Node> {
    let options = NodeOptions { data_dir: Some(data_dir), args, ..NodeOptions::default() };
    let node = Node::start_with(options).await?;
    node.admin().deploy(SERVICE, plugins::load("counter")?).await?;
    Ok(node)
}
