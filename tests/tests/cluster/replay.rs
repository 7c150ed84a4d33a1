//! An audit of a cluster: each node runs the sessions of its own slots.

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use serde_json::Value;
use slotd_tests::{
    api::Message,
    cluster::{Cluster, ClusterOptions},
    node::{eventually, scenario},
    plugins,
};
use std::time::Duration;

const SERVICE: &str = "counter";
const SESSIONS: u64 = 96;
const EACH: u64 = 3;
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

/// A slot whose new owner had another history, or a session that no node looks at, would go unseen.
#[test]
fn all_nodes_together_see_every_session_again_after_a_kill() {
    scenario(async {
        let cluster = Cluster::start(ClusterOptions::default(), None).await?;
        let first = cluster.member(1)?;
        first.admin().deploy(SERVICE, plugins::load(SERVICE)?).await?;
        cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
        let api = first.api();
        let send_all = async || {
            let sends = (0..SESSIONS).map(|number| {
                let (api, session) = (api.clone(), format!("session-{number}"));
                async move {
                    for _ in 0..EACH {
                        api.send(SERVICE, &session, Message::bytes("x")).await?;
                    }
                    anyhow::Ok(())
                }
            });
            try_join_all(sends).await
        };
        send_all().await?;
        let second = cluster.member(2)?;
        second.node.lock().await.kill()?;
        send_all().await?;
        cluster.restart(&second).await?;
        cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
        // A slot that moves meanwhile is one that nobody has seen: asked again when all stand still.
        let report = eventually("an audit that has seen all", async || {
            let done = first.node.lock().await.run(&["--json", "audit", SERVICE]).await?;
            let report: Value =
                serde_json::from_str(&done.stdout).with_context(|| format!("{done:?}"))?;
            ensure!(report["verdict"] != "differs", "{report:#}");
            Ok((report["verdict"] == "same").then_some(report))
        })
        .await?;
        ensure!(report["sessions"] == SESSIONS && report["slots_unseen"] == 0, "{report:#}");
        ensure!(report["messages"] == SESSIONS * EACH * 2, "{report:#}");
        let nodes = report["nodes"].as_array().context("no nodes")?;
        let busy = nodes.iter().filter(|node| node["sessions"].as_u64() > Some(0)).count();
        ensure!(nodes.len() == 3 && busy == 3, "{report:#}");
        Ok(())
    });
}
