//! The cost of an idle connection.

use crate::{
    Args,
    report::{Spread, row},
    start,
};
use serde::Serialize;
use slotd_tests::connections::{Cost, Kind, cost, prepare};
use std::{path::Path, time::Duration};

/// Each takes half a minute, and differs little from the one before.
const ROUNDS_MAX: usize = 2;

#[derive(Serialize)]
pub struct Idle {
    kind: &'static str,
    count: usize,
    /// Resident memory before they came, with them and after they went.
    rounds: Vec<[u64; 3]>,
    bytes_each: Spread,
}

pub async fn connections(args: &Args, dir: &Path) -> anyhow::Result<Vec<Idle>> {
    println!(
        "\nIdle connections, {} of each kind in turn; resident memory of the node\n",
        args.idle
    );
    let node = start(dir.join("connections")).await?;
    prepare(&node).await?;
    let every = Duration::from_secs(if args.quick { 1 } else { 5 });
    println!("{:>5} | {:<14} {:>9} {:>9} {:>9} | each", "round", "kind", "before", "with", "after");
    let mut costs: Vec<(Kind, Cost)> = Vec::new();
    for round in 0..args.rounds.min(ROUNDS_MAX) {
        for kind in Kind::ALL {
            let cost = cost(&node, kind, args.idle, every).await?;
            let mb = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
            println!(
                "{:>5} | {:<14} {:>9} {:>9} {:>9} | {:.1} KB",
                round + 1,
                kind.name(),
                mb(cost.before),
                mb(cost.there),
                mb(cost.after),
                cost.each(args.idle) / 1e3,
            );
            costs.push((kind, cost));
        }
    }
    println!();
    let mut all = Vec::new();
    for kind in Kind::ALL {
        let costs = || costs.iter().filter(|(of, _)| *of == kind).map(|(_, cost)| cost);
        let each = Spread::of(costs().map(|cost| cost.each(args.idle)).collect());
        row(&format!("an idle {}", kind.name()), each.scaled(1e-3).show_as("KB"), "");
        all.push(Idle {
            kind: kind.name(),
            count: args.idle,
            rounds: costs().map(|cost| [cost.before, cost.there, cost.after]).collect(),
            bytes_each: each,
        });
    }
    Ok(all)
}
