//! Runs a cluster under load while things go wrong, and judges what its clients saw.

pub mod faults;
pub mod load;
pub mod probe;
pub mod record;
pub mod schedule;

use crate::{
    cluster::{Cluster, ClusterOptions, net::Net},
    history::{Report, check},
    plugins,
};
use anyhow::{Context, ensure};
use faults::Scene;
use load::{Load, LoadShape};
use probe::Probes;
use schedule::{Fault, Schedule, Shape, Turn};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// For a healed cluster to serve every slot through every node.
const SETTLED_WITHIN: Duration = Duration::from_secs(90);

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub cluster: ClusterOptions,
    pub load: LoadShape,
    /// Turns of several faults after one of each kind.
    pub mixtures: usize,
    /// Begin with every kind of fault by itself.
    pub in_turn: bool,
    /// No other faults than these, by name, if any are given: to look at one more closely.
    pub only: Vec<String>,
}

/// Makes the faults of a seed's schedule under load and judges what the clients saw. Prints the
/// seed, each turn as it begins and what became of it, and the judgement.
///
/// # Errors
/// When the cluster does not survive, does not settle after a turn, or shows what must not be.
pub async fn run(seed: u64, plan: Plan, net: Option<Arc<Net>>) -> anyhow::Result<Report> {
    println!("chaos seed {seed}");
    let shape = Shape {
        nodes: plan.cluster.nodes,
        servers: u32::try_from(plan.cluster.servers)?,
        mixtures: plan.mixtures,
        links: net.is_some(),
        in_turn: plan.in_turn,
    };
    let schedule = Schedule::new(seed, shape);
    let slots = plan.cluster.slots;
    let cluster = Cluster::start(plan.cluster.clone(), net).await?;
    let first = cluster.member(1)?;
    for (service, plugin) in [("counter", "counter"), ("chat", "chat-v1")] {
        first.admin().deploy(service, plugins::load(plugin)?).await?;
    }
    let probes = Probes::find(&first.api(), slots).await?;
    probes.all_served(&cluster.members(), SETTLED_WITHIN).await?;
    let mut load = Load::start(seed, plan.load, cluster.targets());
    let recorder = load.recorder().clone();
    let scene = Scene { cluster, probes, recorder, swaps: 0.into() };
    for (at, turn) in schedule.turns.iter().enumerate() {
        let turn = plan.of_interest(turn);
        if !turn.faults.is_empty() {
            let done = scene.turn(at + 1, schedule.turns.len(), &turn).await;
            done.with_context(|| format!("seed {seed}, turn {}: {turn}", at + 1))?;
            load.failed().await?;
        }
    }
    // The recorder must be the load's alone to be taken apart.
    let Scene { cluster, recorder, .. } = scene;
    drop(recorder);
    let report = check(&load.finish().await?);
    println!("seed {seed}: {report}");
    ensure!(report.good(), "seed {seed}: {report}");
    ensure!(report.acknowledged > 0, "seed {seed}: nothing was acknowledged");
    drop(cluster);
    Ok(report)
}

impl Plan {
    fn of_interest(&self, turn: &Turn) -> Turn {
        let name = |fault: Fault| {
            let name = format!("{fault:?}");
            name.split('(').next().unwrap_or_default().to_owned()
        };
        let mut turn = turn.clone();
        // Who joins and who leaves is needed for the rest to make sense.
        turn.faults.retain(|planned| {
            self.only.is_empty()
                || matches!(planned.fault, Fault::Join(_) | Fault::Drain(_))
                || self.only.contains(&name(planned.fault))
        });
        turn
    }
}

impl Scene {
    async fn turn(&self, number: usize, of: usize, turn: &Turn) -> anyhow::Result<()> {
        println!("turn {number} of {of}: {turn}");
        let started = Instant::now();
        let acknowledged = self.recorder.acknowledged();
        self.recorder.take_failures();
        let faults = turn.faults.iter().map(|&planned| self.inflict(planned));
        futures_util::future::try_join_all(faults).await?;
        let took = started.elapsed();
        let settled = self.probes.all_served(&self.cluster.members(), SETTLED_WITHIN).await?;
        let acknowledged = self.recorder.acknowledged() - acknowledged;
        let failures = self.recorder.take_failures();
        println!(
            "  {:.1} s, settled after {:.1} s; {acknowledged} acknowledged, not: {failures:?}",
            took.as_secs_f64(),
            settled.as_secs_f64()
        );
        ensure!(acknowledged > 0, "nothing was acknowledged meanwhile");
        Ok(())
    }
}
