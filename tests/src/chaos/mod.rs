//! Runs a cluster under load and faults, and checks what its clients saw, and what came of what its sessions asked for.

pub mod effects;
pub mod faults;
pub mod load;
pub mod probe;
pub mod record;
pub mod schedule;

use crate::{
    clock::WrongClock,
    cluster::{Cluster, ClusterOptions, Own, net::Net, settle::unsettled},
    history::{Report, check},
    notice::not_tested,
    outside::Outside,
    plugins,
    replayed::cluster_comes_out_again,
};
use anyhow::{Context, ensure};
use effects::Effects;
use faults::Scene;
use load::{Load, LoadShape};
use probe::Probes;
use schedule::{Fault, Schedule, Shape, Turn};
use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Nodes with wrong clocks, by number; more than any schedule has.
const NODES_EVER_MAX: u32 = 64;
/// Time for a healed cluster to serve every slot through every node.
const SETTLED_WITHIN: Duration = Duration::from_secs(90);
/// After this long without a refusal, the effect of a turn on the clients is over: most of them
/// wait no longer for an answer.
const CALM: Duration = load::ANSWER_TIMEOUT;

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub cluster: ClusterOptions,
    pub load: LoadShape,
    /// Turns of several faults after one of each kind.
    pub mixtures: usize,
    /// Begin with every kind of fault alone.
    pub in_turn: bool,
    /// Only these faults, by name, if any are given: to examine one more closely.
    pub only: Vec<String>,
    /// Sessions also send to each other, set timers and ask a server, on loopback. All clocks are right then: what waits for
    /// a time waits an hour longer where the next owner's clock is an hour behind.
    pub effects: bool,
}

/// Applies the faults of a seed's schedule under load and checks what the clients saw. Prints the
/// seed, each turn at its start and its result, and the verdict.
///
/// # Errors
/// If the cluster does not survive, does not settle after a turn, or shows something invalid.
pub async fn run(seed: u64, plan: Plan, net: Option<Arc<Net>>) -> anyhow::Result<Report> {
    println!("chaos seed {seed}");
    let delay = net.as_ref().is_some_and(|net| net.can_be_slow());
    let schedule = plan.schedule(seed, net.is_some(), delay);
    if net.is_some() && !delay {
        not_tested("chaos with a slow link: this machine has no netem");
    }
    let slots = plan.cluster.slots;
    // Removed when the last node is.
    let clock = (!plan.effects).then(WrongClock::build).transpose();
    let clock = clock.map_err(|e| not_tested(&format!("chaos with wrong clocks: {e:#}")));
    let outside = if plan.effects { Some(Outside::start().await?) } else { None };
    let mut options = plan.cluster.clone();
    options.env.extend(outside.iter().flat_map(effects::allowed));
    if let Ok(Some(clock)) = &clock {
        // Alternate hours: whichever node a slot moves to, its clock differs.
        options.own.extend((1..=NODES_EVER_MAX).map(|number| {
            let env = clock.env([0, 3_600, -3_600][number as usize % 3]).into();
            (number, Own { env, ..Own::default() })
        }));
    }
    let cluster = Cluster::start(options, net).await?;
    let first = cluster.member(1)?;
    for (service, plugin) in
        [("counter", "counter"), ("chat", "chat-v1"), (effects::SERVICE, effects::SERVICE)]
    {
        first.admin().deploy(service, plugins::load(plugin)?).await?;
    }
    let probes = Probes::find(&first.api(), slots).await?;
    probes.all_served(&cluster.members(), SETTLED_WITHIN).await?;
    let mut load = Load::start(seed, plan.load, cluster.targets());
    let effects = outside.map(|outside| Effects::start(seed, outside, cluster.targets()));
    let recorder = load.recorder().clone();
    let scene = Scene { cluster, probes, recorder, swaps: 0.into(), pauses: 0.into() };
    let (mut pauses, mut calm) = (0, true);
    for (at, turn) in schedule.turns.iter().enumerate() {
        let turn = plan.of_interest(turn);
        if !turn.faults.is_empty() {
            let done = scene.turn(at + 1, schedule.turns.len(), &turn, calm).await;
            done.with_context(|| format!("seed {seed}, turn {}: {turn}", at + 1))?;
            load.failed().await?;
            let paused = |&fault: &Fault| matches!(fault, Fault::Pause(_));
            pauses += turn.faults.iter().map(|planned| planned.fault).filter(paused).count() as u64;
            calm = turn.orderly();
        }
    }
    let (paused, swaps) = (scene.pauses.load(Relaxed), scene.swaps.load(Relaxed));
    ensure!(paused == pauses, "seed {seed}: {paused} of {pauses} nodes came back from a pause");
    // The load must own the recorder alone to take it apart.
    let Scene { cluster, recorder, .. } = scene;
    let deletes = recorder.deletes();
    drop(recorder);
    let report = check(&load.finish().await?);
    println!("seed {seed}: {report}; {deletes} deletes, {swaps} swaps, {pauses} pauses");
    if let Some(effects) = effects {
        let checked = effects.finish().await.with_context(|| format!("seed {seed}"))?;
        println!("seed {seed}: {checked}");
        ensure!(checked.replies > 0, "seed {seed}: no session has asked another");
        ensure!(checked.fired > 0, "seed {seed}: no timer has fired");
        ensure!(checked.answers > 0, "seed {seed}: no session has asked a server");
    }
    ensure!(deletes > 0, "seed {seed}: nothing was deleted");
    ensure!(report.good(), "seed {seed}: {report}");
    ensure!(report.acknowledged > 0, "seed {seed}: nothing was acknowledged");
    ensure!(report.reads > 0, "seed {seed}: nothing was read");
    ensure!(report.events > 0, "seed {seed}: no event was seen");
    let replayed = cluster_comes_out_again(&cluster, &["counter", "chat", effects::SERVICE]).await;
    replayed.with_context(|| format!("seed {seed}"))?;
    drop(cluster);
    Ok(report)
}

impl Plan {
    /// The schedule of a seed, on a network whose links can be cut or `delay`ed, or on loopback.
    pub fn schedule(&self, seed: u64, links: bool, delay: bool) -> Schedule {
        let shape = Shape {
            nodes: self.cluster.nodes,
            servers: self.cluster.servers as u32,
            mixtures: self.mixtures,
            slots: self.cluster.slots,
            links,
            delay,
            in_turn: self.in_turn,
        };
        Schedule::new(seed, shape)
    }

    fn of_interest(&self, turn: &Turn) -> Turn {
        let mut turn = turn.clone();
        // Joins and leaves are needed for the rest to make sense.
        turn.faults.retain(|planned| {
            self.only.is_empty()
                || matches!(planned.fault, Fault::Join(_) | Fault::Drain(_))
                || self.only.contains(&planned.fault.name())
        });
        turn
    }
}

impl Scene {
    async fn turn(&self, number: usize, of: usize, turn: &Turn, calm: bool) -> anyhow::Result<()> {
        println!("turn {number} of {of}: {turn}");
        if turn.orderly() && !calm {
            self.calm().await?;
        }
        let started = Instant::now();
        let acknowledged = self.recorder.acknowledged();
        self.recorder.take_failures();
        let befallen: BTreeSet<_> =
            turn.faults.iter().filter_map(|planned| planned.fault.node()).collect();
        let faults = turn.faults.iter().map(|&planned| self.inflict(planned, &befallen));
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
        let refused = failures.keys().any(|failure| record::is_refusal(failure));
        ensure!(!turn.orderly() || !refused, "nothing went wrong, and still: {failures:?}");
        Ok(())
    }

    /// Waits until the previous turn is over for clients and nodes alike: a server that was
    /// isolated may cause one more election when it is back, and slots are claimed from a node as
    /// long as it reports itself unfit.
    async fn calm(&self) -> anyhow::Result<()> {
        let until = Instant::now() + SETTLED_WITHIN;
        loop {
            self.recorder.take_failures();
            tokio::time::sleep(CALM).await;
            let failures = self.recorder.take_failures();
            let refused = failures.keys().any(|failure| record::is_refusal(failure));
            let unrest = self.unrest().await;
            if !refused && unrest.is_none() {
                return Ok(());
            }
            ensure!(
                Instant::now() < until,
                "no calm after the turn before: {unrest:?}, {failures:?}"
            );
        }
    }

    /// Why the nodes may still move slots by themselves, if they may.
    async fn unrest(&self) -> Option<String> {
        let nodes = self.cluster.members();
        let through = nodes.first()?;
        if let Some(why) = unsettled(through, &nodes, self.cluster.slots()).await {
            return Some(why);
        }
        match through.admin().nodes().await {
            Ok(views) => views.nodes.into_iter().find_map(|node| node.unfit),
            Err(why) => Some(format!("{why:#}")),
        }
    }
}
