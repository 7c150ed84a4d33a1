//! Detects when a cluster is at rest again after a change, and how long each slot paused.

use super::{Cluster, Member};
use crate::{
    api::{Admin, Move},
    histogram::micros,
};
use anyhow::{Context, bail};
use serde::Serialize;
use std::{
    collections::BTreeSet,
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Timeout of an answer from a node that asks all others.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// The maximum that the nodes show.
const MOVES_SHOWN: usize = 1_000;

/// A change that began now: later events are attributed to it.
pub struct Change {
    pub at: Instant,
    wall_ms: u64,
}

/// How long slots (or sessions) were not served, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Pauses {
    pub count: usize,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

impl Change {
    pub fn now() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { at: Instant::now(), wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX) }
    }

    /// Finished planned moves that began since. Clock skew does not matter: all nodes run on this
    /// machine.
    ///
    /// # Errors
    /// If the node does not answer.
    pub async fn handoffs(&self, admin: &Admin) -> anyhow::Result<Vec<Move>> {
        let mut moves = admin.moves(MOVES_SHOWN).await?;
        moves.retain(|one| one.started_ms >= self.wall_ms && one.state == "done");
        moves.retain(|one| one.from.is_some() && one.pause_ms.is_some());
        Ok(moves)
    }

    /// Pauses of the slots that were handed over since.
    ///
    /// # Errors
    /// If the node does not answer.
    pub async fn handoff_pauses(&self, admin: &Admin) -> anyhow::Result<Pauses> {
        let moves = self.handoffs(admin).await?;
        Ok(Pauses::of(moves.iter().filter_map(|one| one.pause_ms).collect()))
    }
}

impl Pauses {
    /// Of milliseconds; a quantile is the value of its rank, rounded up.
    pub fn of(mut all: Vec<f64>) -> Self {
        all.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let rank = ((share * all.len() as f64).ceil() as usize).max(1);
            all.get(rank - 1).copied().unwrap_or_default()
        };
        Self { count: all.len(), p50_ms: at(0.5), p99_ms: at(0.99), max_ms: at(1.0) }
    }
}

impl fmt::Display for Pauses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.count == 0 {
            return write!(f, "none");
        }
        let Self { p50_ms, p99_ms, max_ms, .. } = self;
        let [p50, p99, max] = [p50_ms, p99_ms, max_ms].map(|ms| micros(ms * 1e3));
        write!(f, "p50 {p50}, p99 {p99}, max {max}")
    }
}

/// What is missing for the cluster to be at rest: every node sees exactly these nodes and owns what
/// the ring proposes, and no slot moves. `None`: nothing.
pub async fn unsettled(through: &Member, nodes: &[Arc<Member>], slots: u16) -> Option<String> {
    let names: BTreeSet<&str> = nodes.iter().map(|member| member.name.as_str()).collect();
    let admin = through.admin();
    let info = match tokio::time::timeout(ANSWER_WITHIN, admin.nodes()).await {
        Ok(Ok(info)) => info,
        Ok(Err(why)) => return Some(format!("{why:#}")),
        Err(_) => return Some(format!("{} does not answer", through.name)),
    };
    let answered: BTreeSet<&str> = info.nodes.iter().map(|node| node.node.as_str()).collect();
    if answered != names || !info.silent.is_empty() {
        return Some(format!("{answered:?} answer, {} are silent", info.silent.len()));
    }
    for node in &info.nodes {
        let sees: BTreeSet<&str> = node.members.iter().map(String::as_str).collect();
        if sees != names || !node.leaving.is_empty() {
            return Some(format!("{} sees {sees:?}", node.node));
        }
        if node.owned != node.proposed || node.moving > 0 || node.not_ready.is_some() {
            let (owned, proposed, moving) = (node.owned, node.proposed, node.moving);
            return Some(format!(
                "{} has {owned} of {proposed} slots, {moving} under way",
                node.node
            ));
        }
    }
    let owned: u32 = info.nodes.iter().map(|node| node.owned).sum();
    (owned != u32::from(slots)).then(|| format!("{owned} of {slots} slots are owned"))
}

/// For whoever reads why a cluster did not come to rest.
async fn under_way(admin: &Admin) -> String {
    match tokio::time::timeout(ANSWER_WITHIN, admin.moves(MOVES_SHOWN)).await {
        Ok(Ok(mut moves)) => {
            moves.retain(|one| !["done", "failed", "cancelled"].contains(&&*one.state));
            format!("{moves:?}")
        }
        Ok(Err(why)) => format!("not known: {why:#}"),
        Err(_) => "not known: no answer".into(),
    }
}

impl Cluster {
    /// Waits until the cluster is at rest with exactly these nodes. Returns the time that it took.
    ///
    /// # Errors
    /// If it does not come to rest within `limit`; with what was missing.
    pub async fn settled(
        &self,
        nodes: &[Arc<Member>],
        limit: Duration,
    ) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let through = nodes.first().context("no node")?;
        while let Some(why) = unsettled(through, nodes, self.slots()).await {
            if started.elapsed() > limit {
                let moves = under_way(&through.admin()).await;
                bail!(
                    "the cluster is not settled within {limit:?}: {why}; moves under way: {moves}"
                );
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(started.elapsed())
    }

    pub fn slots(&self) -> u16 {
        self.options.slots
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If a rank were off by one, the worst of a hundred slots would not be the printed p99.
    #[test]
    fn pauses_are_ranks() {
        let pauses = Pauses::of((1..=200).rev().map(f64::from).collect());
        let expected = Pauses { count: 200, p50_ms: 100.0, p99_ms: 198.0, max_ms: 200.0 };
        assert_eq!(pauses, expected);
        assert_eq!(Pauses::of(vec![3.0]).p50_ms, 3.0);
        assert_eq!(Pauses::of(Vec::new()), Pauses::default());
    }
}
