//! What it costs to seal log and state with a key: a node that does, and one that does not, in turns.

use crate::{
    Args, CONNECTIONS, SERVICE, SESSIONS, in_turn,
    report::{Spread, row},
    start_in,
};
use anyhow::{Context, ensure};
use serde::Serialize;
use slotd_tests::{
    load::{Outcome, Plan},
    node::{Node, cpu_time, run_slotd},
};
use std::{path::Path, time::Duration};

#[derive(Default, Serialize)]
pub struct Sealed {
    rounds: Vec<Round>,
    /// Messages a second of the node that seals, over the other's.
    throughput: Spread,
    /// Processor time of a message, as above.
    processor: Spread,
}

#[derive(Serialize)]
struct Round {
    plain: Outcome,
    sealed: Outcome,
    plain_us: f64,
    sealed_us: f64,
}

pub async fn sealed(args: &Args, dir: &Path) -> anyhow::Result<Sealed> {
    println!(
        "\nPOST, 32-byte body, {SESSIONS} sessions, plugin counter; without and with a key to seal with, in turn\n"
    );
    let made = run_slotd(&["seal", "key"]).await?;
    ensure!(made.status.success(), "{made:?}");
    let key = dir.join("seal-key");
    std::fs::write(&key, &made.stdout)?;
    let env = vec![("SLOTD_SEAL_KEY_FILE".to_owned(), key.display().to_string())];
    let plain = start_in(dir.join("not-sealed"), "counter", Vec::new()).await?;
    let sealing = start_in(dir.join("sealed"), "counter", env).await?;
    let nodes = [&plain, &sealing];
    let mut result = Sealed::default();
    for round in 0..args.rounds {
        let plan = |node: &Node| Plan {
            connections: CONNECTIONS,
            sessions: SESSIONS,
            ..Plan::timed(node.api().client.address(), SERVICE, args.measure)
        };
        let before = times(nodes)?;
        let [without, with] = in_turn(&[plan(&plain), plan(&sealing)], round).await?;
        let after = times(nodes)?;
        let each = |at: usize, outcome: &Outcome| {
            (after[at] - before[at]).as_secs_f64() * 1e6 / outcome.requests_all.max(1) as f64
        };
        let (plain_us, sealed_us) = (each(0, &without), each(1, &with));
        result.rounds.push(Round { plain: without, sealed: with, plain_us, sealed_us });
    }
    let spread = |of: &dyn Fn(&Round) -> f64| Spread::of(result.rounds.iter().map(of).collect());
    result.throughput = spread(&|it| it.sealed.requests_per_second / it.plain.requests_per_second);
    result.processor = spread(&|it| it.sealed_us / it.plain_us);
    row("messages a second, of those without", result.throughput.show(), "");
    row("processor time of one, of that without", result.processor.show(), "");
    Ok(result)
}

fn times(nodes: [&Node; 2]) -> anyhow::Result<[Duration; 2]> {
    let of = |node: &Node| cpu_time(node.pid().context("it runs")?, false);
    Ok([of(nodes[0])?, of(nodes[1])?])
}
