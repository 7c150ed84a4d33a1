//! Upgrades of a cluster from the version of 25 November 2026, node by node under load, and back.

use anyhow::{Context, ensure};
use serde_json::Value;
use slotd_tests::{
    chaos::{
        load::{Load, LoadShape},
        probe::Probes,
    },
    cluster::{Cluster, ClusterOptions, Own},
    history::check,
    node::{NEWEST_LEVEL, eventually, old_slotd_or_skip, scenario_within},
    plugins,
    replayed::cluster_comes_out_again,
};
use std::{path::PathBuf, time::Duration};

const SETTLED_WITHIN: Duration = Duration::from_secs(90);
const RUN_WITHIN: Duration = Duration::from_secs(10 * 60);
const NODES: u32 = 3;
/// Messages that are acknowledged between two steps.
const BETWEEN: u64 = 40;

struct Upgrade {
    cluster: Cluster,
    probes: Probes,
    load: Load,
}

impl Upgrade {
    /// Stops a node in order and starts it again with another `slotd`; `None`: the one under test.
    async fn to(&mut self, number: u32, program: Option<PathBuf>) -> anyhow::Result<()> {
        let member = self.cluster.member(number)?;
        let before = self.load.recorder().acknowledged();
        {
            let mut node = member.node.lock().await;
            let status = node.terminate().await?;
            ensure!(status.success(), "node {number} ended with {status}");
            node.set_program(program);
        }
        self.cluster.restart(&member).await?;
        let members = self.cluster.members();
        self.cluster.settled(&members, SETTLED_WITHIN).await?;
        self.probes.all_served(&members, SETTLED_WITHIN).await?;
        eventually("messages are acknowledged", async || {
            let acknowledged = self.load.recorder().acknowledged();
            Ok((acknowledged >= before + BETWEEN).then_some(()))
        })
        .await?;
        self.load.failed().await
    }

    async fn level(&self, through: u32) -> anyhow::Result<u64> {
        let client = self.cluster.member(through)?.admin().client;
        let level: Value = client.get("/admin/v1/level").await?.success()?.json()?;
        level["level"].as_u64().context("no level")
    }
}

/// Who can't upgrade without a full stop, or can't go back when the new version disappoints, does not
/// upgrade. And a version that writes what another can't read loses what was acknowledged.
#[test]
fn a_cluster_is_upgraded_node_by_node_and_back() {
    let _alone = crate::alone();
    let Some(old) = old_slotd_or_skip("upgrades of a cluster") else { return };
    scenario_within(RUN_WITHIN, async {
        let own = |number| (number, Own { program: Some(old.clone()), ..Own::default() });
        let options = ClusterOptions {
            nodes: NODES,
            own: (1..=NODES).map(own).collect(),
            ..ClusterOptions::default()
        };
        let slots = options.slots;
        let cluster = Cluster::start(options, None).await?;
        let first = cluster.member(1)?;
        for (service, plugin) in [("counter", "counter"), ("chat", "chat-v1")] {
            first.admin().deploy(service, plugins::load(plugin)?).await?;
        }
        let probes = Probes::find(&first.api(), slots).await?;
        probes.all_served(&cluster.members(), SETTLED_WITHIN).await?;
        let load = Load::start(7, LoadShape::default(), cluster.targets());
        let mut upgrade = Upgrade { cluster, probes, load };

        upgrade.to(1, None).await.context("the first node is new")?;
        let admin = upgrade.cluster.member(1)?.admin().client;
        let refused = admin.post("/admin/v1/level?to=2", "").await?;
        ensure!(refused.status == 409, "raised beside nodes that can't read it: {refused:?}");
        let text = refused.text();
        ensure!(text.contains("node-2") && text.contains("node-3"), "{text}");
        upgrade.to(2, None).await.context("the second node is new")?;
        upgrade.to(1, Some(old.clone())).await.context("the first node goes back")?;
        upgrade.to(1, None).await.context("the first node is new again")?;
        for number in 1..=2 {
            ensure!(upgrade.level(number).await? == 1, "the level was raised unasked");
        }

        // The last old node does not run while the level is raised: nobody can ask it.
        let away = upgrade.cluster.member(3)?;
        away.node.lock().await.pause()?;
        let others = [upgrade.cluster.member(1)?, upgrade.cluster.member(2)?];
        upgrade.cluster.settled(&others, SETTLED_WITHIN).await?;
        admin.post("/admin/v1/level?to=2", "").await?.success()?;
        for number in 1..=2 {
            let raised = async || Ok((upgrade.level(number).await? == 2).then_some(()));
            eventually("all see the level", raised).await?;
        }
        {
            // It believes to be a member still, and is told otherwise.
            let mut node = away.node.lock().await;
            node.resume()?;
            let ended = async || node.try_wait();
            let status = eventually("the old node ends", ended).await?;
            ensure!(!status.success(), "it ended with {status}");
            node.set_program(None);
        }
        upgrade.cluster.restart(&away).await?;
        // Slots that others have written at the new level are taken over and handed back.
        upgrade.to(3, None).await.context("after the raise")?;

        // From 3 on the nodes encrypt what they send each other.
        for level in 3..=NEWEST_LEVEL {
            admin.post(&format!("/admin/v1/level?to={level}"), "").await?.success()?;
            for number in 1..=NODES {
                let raised = async || Ok((upgrade.level(number).await? == level).then_some(()));
                eventually("all see the level", raised).await?;
            }
        }
        let members = upgrade.cluster.members();
        upgrade.cluster.settled(&members, SETTLED_WITHIN).await?;
        upgrade.probes.all_served(&members, SETTLED_WITHIN).await?;
        upgrade.to(2, None).await.context("at the newest level")?;

        // An old node is refused, and takes nothing: by the registry, whoever else is there.
        let member = upgrade.cluster.member(3)?;
        {
            let mut node = member.node.lock().await;
            ensure!(node.terminate().await?.success());
            node.set_program(Some(old.clone()));
            let refused = node.restart().await.err().context("an old node was let in")?;
            let text = format!("{refused:#}");
            ensure!(text.contains("format 2"), "{text}");
            node.set_program(None);
        }
        upgrade.cluster.restart(&member).await?;
        let members = upgrade.cluster.members();
        upgrade.cluster.settled(&members, SETTLED_WITHIN).await?;

        let Upgrade { cluster, load, .. } = upgrade;
        let report = check(&load.finish().await?);
        println!("{report}");
        ensure!(report.good() && report.acknowledged > 0, "{report}");
        cluster_comes_out_again(&cluster, &["counter", "chat"]).await
    });
}
