//! Limits in a cluster: a node counts what the messages that it lets through use on other nodes.

use anyhow::{Context, ensure};
use hyper::Method;
use serde_json::{Value, json};
use slotd_tests::{
    api::Message,
    cluster::{Cluster, ClusterOptions},
    http::Answer,
    node::{eventually, scenario},
    plugins,
};
use std::fs;

fn deed(what: &str) -> Message {
    Message::json(&json!({"do": what}))
}

fn expect_refused(answer: &Answer) -> anyhow::Result<()> {
    let problem = answer.problem()?;
    ensure!(problem.status == 429 && problem.code == "rate-limited", "{problem:?}");
    ensure!(problem.detail.contains("session-guest-time"), "{problem:?}");
    Ok(())
}

/// A client whose session is elsewhere would have all of that node's processor: the node that lets its messages through has
/// to hear what they use, also of those that fail, and of queries.
#[test]
fn a_node_counts_what_its_messages_use_elsewhere() {
    scenario(async {
        let dir = tempfile::tempdir()?;
        let policy = dir.path().join("policy.toml");
        fs::write(
            &policy,
            "[service.hostile.limits.session]\nguest_time = \"100ms/h\"\nburst = \"1h\"\n",
        )?;
        let env = vec![
            ("SLOTD_NATS_REPLICAS".into(), "1".into()),
            ("SLOTD_ACCESS_FILE".into(), policy.display().to_string()),
            ("SLOTD_GUESTS_DEADLINE".into(), "300ms".into()),
        ];
        let options =
            ClusterOptions { nodes: 2, servers: 1, slots: 16, env, ..ClusterOptions::default() };
        let cluster = Cluster::start(options, None).await?;
        let (one, two) = (cluster.member(1)?, cluster.member(2)?);
        one.admin().deploy("hostile", plugins::load("hostile-v1")?).await?;
        eventually("the service at both nodes", async || {
            Ok(two.api().send("hostile", "first", deed("echo")).await.ok())
        })
        .await?;
        // Two sessions that are at the second node.
        let theirs = eventually("slots of the second node", async || {
            let mut theirs = Vec::new();
            for number in 0..32 {
                let session = format!("room-{number}");
                let answer = one.api().post("hostile", &session, deed("echo")).await?;
                let slot: Option<u16> = answer.header("slotd-slot").and_then(|it| it.parse().ok());
                let path = format!("/admin/v1/slots/{}", slot.context("no slot")?);
                let shown: Value = two.admin().client.get(&path).await?.success()?.json()?;
                let position = shown["position"].as_u64().unwrap_or_default();
                if shown["owner"] == two.name.as_str() && position > 0 {
                    theirs.push(session);
                }
            }
            Ok((theirs.len() >= 2).then_some(theirs))
        })
        .await?;
        let [message, query] = &theirs[..2] else { anyhow::bail!("too few sessions") };
        let late = one.api().post("hostile", message, deed("spin")).await?;
        ensure!(late.status == 504, "{}", late.text());
        expect_refused(&one.api().post("hostile", message, deed("echo")).await?)?;
        let path = slotd_tests::api::session_path("hostile", query) + "/query";
        let spin = async || {
            let headers = [("content-type", "application/json")];
            let body = json!({"do": "spin"}).to_string();
            one.api().client.request(Method::POST, &path, &headers, body).await
        };
        let late = spin().await?;
        ensure!(late.status == 504, "{}", late.text());
        expect_refused(&spin().await?)?;
        // The node where they ran has counted it, too; and other sessions go on.
        expect_refused(&two.api().post("hostile", message, deed("echo")).await?)?;
        one.api().send("hostile", "another", deed("echo")).await?;
        Ok(())
    });
}
