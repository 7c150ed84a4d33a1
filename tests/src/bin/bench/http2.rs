//! Messages by HTTP/2 beside the same by HTTP/1.1: one at a time on each of many connections, and as
//! many at a time on few.

use crate::{
    Args, CONNECTIONS, SERVICE, SESSIONS,
    report::{Spread, row},
    start,
};
use anyhow::Context;
use serde::Serialize;
use slotd_tests::{
    load::{Outcome, Plan, Protocol},
    node::{Node, cpu_time},
};
use std::path::Path;

/// Connections and streams on each, as many messages at a time as with HTTP/1.1.
const FEW: usize = 2;

#[derive(Serialize)]
pub struct Http2 {
    http1: Vec<Measured>,
    /// As many connections, with one stream each.
    many: Vec<Measured>,
    few: Vec<Measured>,
}

#[derive(Serialize)]
struct Measured {
    outcome: Outcome,
    /// Of the node, for each message.
    cpu_us: f64,
}

async fn measure(node: &Node, plan: &Plan) -> anyhow::Result<Measured> {
    let pid = node.pid().context("the node does not run")?;
    let before = cpu_time(pid, false)?;
    let outcome = plan.run_apart().await?;
    let cpu = cpu_time(pid, false)? - before;
    let cpu_us = cpu.as_secs_f64() * 1e6 / outcome.requests_all as f64;
    Ok(Measured { outcome, cpu_us })
}

pub async fn http2(args: &Args, dir: &Path) -> anyhow::Result<Http2> {
    println!(
        "\nPOST by HTTP/1.1 and HTTP/2 in turn, {CONNECTIONS} messages of 32 bytes at a time, \
         {SESSIONS} sessions, plugin counter\n"
    );
    let node = start(dir.join("http2")).await?;
    let address = node.api().client.address();
    let plan = |protocol, connections| Plan {
        protocol,
        connections,
        in_flight: CONNECTIONS / connections,
        sessions: SESSIONS,
        ..Plan::timed(address, SERVICE, args.measure)
    };
    let plans = [
        plan(Protocol::Http, CONNECTIONS),
        plan(Protocol::Http2, CONNECTIONS),
        plan(Protocol::Http2, FEW),
    ];
    let mut measured = [const { Vec::new() }; 3];
    println!(
        "{:>5} | {:>22} | {:>22} | {:>22}",
        "round",
        "HTTP/1.1",
        format!("HTTP/2, {CONNECTIONS} conn."),
        format!("HTTP/2, {FEW} conn.")
    );
    for round in 0..args.rounds {
        // Each round begins with a different one.
        for at in (0..plans.len()).map(|at| (at + round) % plans.len()) {
            let plan = Plan { seed: round as u64, ..plans[at].clone() };
            measured[at].push(measure(&node, &plan).await?);
        }
        let last = |of: &Vec<Measured>| match of.last() {
            Some(m) => format!("{:.0}/s {:>7.1} µs", m.outcome.requests_per_second, m.cpu_us),
            None => String::new(),
        };
        let [http1, many, few] = &measured;
        println!("{:>5} | {:>22} | {:>22} | {:>22}", round + 1, last(http1), last(many), last(few));
    }
    let [http1, many, few] = measured;
    println!();
    let of = |these: &[Measured], figure: &dyn Fn(&Measured) -> f64| {
        Spread::of(these.iter().map(figure).collect())
    };
    let over = |these: &[Measured], figure: &dyn Fn(&Measured) -> f64| {
        Spread::of(these.iter().zip(&http1).map(|(a, b)| figure(a) / figure(b)).collect())
    };
    let all = [
        ("HTTP/1.1".to_owned(), &http1),
        (format!("HTTP/2, {CONNECTIONS} connections"), &many),
        (format!("HTTP/2, {FEW} connections"), &few),
    ];
    for (name, these) in all {
        row(&name, of(these, &|m| m.outcome.requests_per_second).show_as("/s"), "");
        row("  over HTTP/1.1", over(these, &|m| m.outcome.requests_per_second).show(), "");
        row("  p50", of(these, &|m| m.outcome.p50_us / 1e3).show_as("ms"), "");
        row("  p99", of(these, &|m| m.outcome.p99_us / 1e3).show_as("ms"), "");
        row("  node's processor time of one", of(these, &|m| m.cpu_us).show_as("µs"), "");
        row("  over HTTP/1.1", over(these, &|m| m.cpu_us).show(), "");
    }
    Ok(Http2 { http1, many, few })
}
