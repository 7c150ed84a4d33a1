//! An audit of a cluster: each node runs the sessions of its own slots.

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use hyper::Method;
use serde_json::{Value, json};
use slotd_tests::{
    api::{Message, session_path},
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

/// A fork is mostly in another node's slot than what it is made of, and any node may be asked for it.
#[test]
fn forks_are_made_and_read_over_nodes_and_a_kill() {
    scenario(async {
        let cluster = Cluster::start(ClusterOptions::default(), None).await?;
        let first = cluster.member(1)?;
        first.admin().deploy(SERVICE, plugins::load(SERVICE)?).await?;
        cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
        let (api, other) = (first.api(), cluster.member(3)?.api());
        for _ in 0..5 {
            api.send(SERVICE, "x", Message::bytes("x")).await?;
        }
        let path = session_path(SERVICE, "x") + "/fork";
        let content_type = [("content-type", "application/json")];
        let fork = async |number: u64| {
            let body = json!({"to": format!("fork-{number}"), "at": 1 + number % 5}).to_string();
            let api = if number.is_multiple_of(2) { &api } else { &other };
            api.client.request(Method::POST, &path, &content_type, body).await
        };
        let mut made = Vec::new();
        for number in 0..12 {
            let answer = fork(number).await?;
            ensure!(answer.status == 200, "{answer:?}");
            made.push(answer.body);
        }
        let parents = api.whole_history(SERVICE, "x").await?;
        let second = cluster.member(2)?;
        second.node.lock().await.kill()?;
        for number in 0..12_u64 {
            let (session, at) = (format!("fork-{number}"), 1 + number as usize % 5);
            let reply = api.send(SERVICE, &session, Message::bytes("x")).await?;
            ensure!(reply.seq == at as u64 + 1, "{session}: {reply:?}");
            let history = other.whole_history(SERVICE, &session).await?;
            ensure!(history[..at] == parents[..at] && history.len() == at + 1, "{history:?}");
            let then = other.client.get(&(session_path(SERVICE, &session) + "?at=1")).await?;
            ensure!(then.status == 200, "{session}: {then:?}");
            let again = fork(number).await?;
            ensure!(again.body == made[number as usize], "{session}: {again:?}");
        }
        cluster.restart(&second).await?;
        cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
        eventually("an audit that has seen all", async || {
            let done = first.node.lock().await.run(&["--json", "audit", SERVICE]).await?;
            let report: Value =
                serde_json::from_str(&done.stdout).with_context(|| format!("{done:?}"))?;
            ensure!(report["verdict"] != "differs", "{report:#}");
            Ok((report["verdict"] == "same").then_some(()))
        })
        .await?;
        Ok(())
    });
}
