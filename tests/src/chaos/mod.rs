//! Runs a cluster under load while things go wrong, and judges what its clients saw.

pub mod faults;
pub mod load;
pub mod probe;
pub mod record;
pub mod schedule;

use crate::{
    clock::WrongClock,
    cluster::{Cluster, ClusterOptions, Own, net::Net},
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

/// Nodes whose clocks are wrong, by number; more than any schedule has.
const NODES_EVER_MAX: u32 = 64;
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
        slots: plan.cluster.slots,
        links: net.is_some(),
        delay: net.as_ref().is_some_and(|net| net.can_be_slow()),
        in_turn: plan.in_turn,
    };
    let schedule = Schedule::new(seed, shape);
    if shape.links && !shape.delay {
        println!("SKIPPED: no link is slowed down: this machine has no netem");
    }
    let slots = plan.cluster.slots;
    // Gone when the last node is.
    let clock = WrongClock::build().map_err(|e| println!("SKIPPED: no clock is wrong: {e:#}"));
    let mut options = plan.cluster.clone();
    if let Ok(clock) = &clock {
        // Every other hour: whichever node a slot goes to, its clock is another.
        options.own.extend((1..=NODES_EVER_MAX).map(|number| {
            let env = clock.env([0, 3_600, -3_600][number as usize % 3]).into();
            (number, Own { env, data_dir: None })
        }));
    }
    let cluster = Cluster::start(options, net).await?;
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
    let deletes = recorder.deletes();
    drop(recorder);
    let report = check(&load.finish().await?);
    println!("seed {seed}: {report}; {deletes} deletes");
    ensure!(deletes > 0, "seed {seed}: nothing was deleted");
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
