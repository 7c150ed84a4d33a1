//! A deploy through the gate in a cluster: each node looks at the sessions of its own slots, and when the node that drives
//! is killed, another one goes on.

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use slotd_tests::{
    api::Message,
    cluster::{Cluster, ClusterOptions, Member},
    node::{eventually, scenario},
    plugins,
};
use std::{sync::Arc, time::Duration};

const SERVICE: &str = "hostile";
const SESSIONS: u64 = 96;
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

fn set(key: &str, value: &str) -> Message {
    Message::json(&json!({"do": "set", "key": key, "value": value}))
}

async fn with_sessions() -> anyhow::Result<Cluster> {
    let cluster = Cluster::start(ClusterOptions::default(), None).await?;
    let first = cluster.member(1)?;
    first.admin().deploy(SERVICE, plugins::load("hostile-v1")?).await?;
    cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
    let api = first.api();
    let sends = (0..SESSIONS).map(|number| {
        let (api, session) = (api.clone(), format!("session-{number}"));
        async move { api.send(SERVICE, &session, set("a", "b")).await }
    });
    try_join_all(sends).await?;
    Ok(cluster)
}

/// The gate, as this node sees it, once it is `verdict`.
async fn gate_is(member: &Arc<Member>, verdict: &str) -> anyhow::Result<Value> {
    eventually(&format!("the gate is {verdict}"), async || {
        let gate = member.admin().gate(SERVICE).await.unwrap_or_default();
        Ok((gate["verdict"] == verdict).then_some(gate))
    })
    .await
}

/// What is seen while a node is asked for a deploy that somebody has to confirm, and has not answered.
async fn while_deploying(
    driver: &Member,
    seen: impl Future<Output = anyhow::Result<Value>>,
) -> anyhow::Result<Value> {
    let (admin, v2) = (driver.admin(), plugins::load("hostile-v2")?);
    tokio::select! {
        seen = seen => seen,
        answer = admin.upload_with(SERVICE, v2, "?confirm=true") => {
            anyhow::bail!("it was not waited for: {:?}", answer?)
        }
    }
}

fn migrated(gate: &Value) -> anyhow::Result<&Value> {
    let stages = gate["stages"].as_array().context("no stages")?;
    stages.iter().find(|stage| stage["stage"] == "migrate").context("no migrate")
}

/// A session that can't be migrated, on a node that was not asked, would be found by its user.
#[test]
fn a_session_on_any_node_stops_a_deploy() {
    scenario(async {
        let cluster = with_sessions().await?;
        let first = cluster.member(1)?;
        for number in 0..9 {
            first.api().send(SERVICE, &format!("bad-{number}"), set("migrate", "refuse")).await?;
        }
        let v2 = plugins::load("hostile-v2")?;
        let answer = first.admin().upload_with(SERVICE, v2, "").await?;
        ensure!(answer.status == 409, "{}", answer.text());
        for member in cluster.members() {
            let gate = gate_is(&member, "stopped").await?;
            let migrated = migrated(&gate)?;
            ensure!(migrated["seen"] == SESSIONS + 9, "{gate:#}");
            let groups = migrated["groups"].as_array().context("no groups")?;
            let count = |group: &Value| group["count"].as_u64().unwrap_or_default();
            ensure!(groups.iter().map(count).sum::<u64>() == 9, "{gate:#}");
            ensure!(member.admin().service(SERVICE).await?.generation == 1);
        }
        Ok(())
    });
}

/// A deploy that hung for ever, or was done twice, when the node that it was sent to has gone.
#[test]
fn a_deploy_goes_on_when_its_node_is_killed() {
    scenario(async {
        let cluster = with_sessions().await?;
        let (driver, other) = (cluster.member(2)?, cluster.member(3)?);
        let waits = while_deploying(&driver, gate_is(&other, "confirming")).await?;
        ensure!(waits["driver"] == driver.name.as_str(), "{waits:#}");
        ensure!(migrated(&waits)?["seen"] == SESSIONS, "{waits:#}");
        driver.node.lock().await.kill()?;
        let taken = eventually("another node drives", async || {
            let gate = other.admin().gate(SERVICE).await?;
            Ok((gate["driver"] != driver.name.as_str()).then_some(gate))
        })
        .await?;
        ensure!(taken["gate"] == waits["gate"] && taken["verdict"] == "confirming", "{taken:#}");
        let confirmed = other.node.lock().await.run(&["gate", SERVICE, "--confirm"]).await?;
        ensure!(confirmed.status.success(), "{confirmed:?}");
        let gate = gate_is(&other, "deployed").await?;
        ensure!(gate["generation"] == 2, "{gate:#}");
        cluster.restart(&driver).await?;
        cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
        for member in cluster.members() {
            let service = member.admin().service(SERVICE).await?;
            ensure!(service.generation == 2, "{}: {service:?}", member.name);
        }
        let reply = other.api().send(SERVICE, "session-1", set("c", "d")).await?;
        ensure!(reply.seq == 2, "{reply:?}");
        Ok(())
    });
}

/// The node is killed while the stages run: what it had to do is given out again.
#[test]
fn a_gate_is_whole_when_a_node_is_killed_in_a_stage() {
    scenario(async {
        let cluster = with_sessions().await?;
        let (driver, other) = (cluster.member(2)?, cluster.member(3)?);
        let begun = eventually("a gate", async || Ok(other.admin().gate(SERVICE).await.ok()));
        while_deploying(&driver, begun).await?;
        driver.node.lock().await.kill()?;
        let gate = gate_is(&other, "confirming").await?;
        let migrated = migrated(&gate)?;
        ensure!(migrated["standing"] == "passed" && migrated["seen"] == SESSIONS, "{gate:#}");
        let cancelled = other.node.lock().await.run(&["gate", SERVICE, "--cancel"]).await?;
        ensure!(cancelled.status.success(), "{cancelled:?}");
        ensure!(other.admin().service(SERVICE).await?.generation == 1);
        Ok(())
    });
}
