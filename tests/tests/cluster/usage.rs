//! The usage of a cluster: the sum of all nodes, whichever is asked, wherever slots have gone.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use slotd_tests::{
    api::Message,
    cluster::{Cluster, ClusterOptions, Member},
    node::{eventually, scenario},
    plugins,
};
use std::collections::BTreeSet;

async fn usage(member: &Member) -> anyhow::Result<Value> {
    member.admin().client.get("/admin/v1/usage?service=counter").await?.success()?.json()
}

fn counted(report: &Value) -> (u64, u64) {
    let sum = |list: &str, field: &str| {
        let rows = report[list].as_array().into_iter().flatten();
        rows.filter(|row| row["service"] == "counter").filter_map(|row| row[field].as_u64()).sum()
    };
    (sum("rows", "messages"), sum("stored", "sessions"))
}

/// A message that is forwarded, or a slot that moves, would be paid for twice.
#[test]
fn what_moves_is_counted_once() {
    scenario(async {
        let env = vec![("SLOTD_NATS_REPLICAS".into(), "1".into())];
        let options = ClusterOptions { nodes: 3, servers: 1, slots: 16, env, ..Default::default() };
        let cluster = Cluster::start(options, None).await?;
        let members = cluster.members();
        members[0].admin().deploy("counter", plugins::load("counter")?).await?;
        let mut slots = BTreeSet::new();
        let mut sent = 0;
        for round in 0..3 {
            for session in 0..20 {
                // Most go to a slot of another node.
                let api = members[(round + session) % 3].api();
                let message = Message::json(&json!({ "add": 1 }));
                let reply = api.send("counter", &format!("s-{session}"), message).await?;
                slots.insert(reply.slot);
                sent += 1;
            }
            for member in &members {
                let report = usage(member).await?;
                ensure!(counted(&report).0 == sent, "{sent} sent: {report}");
            }
            let first = *slots.first().context("no slot")?;
            let path = format!("/admin/v1/slots/{first}/drain");
            members[round % 3].admin().client.post(&path, "").await?.success()?;
        }
        // A slot that has just moved is of nobody, and then has to be counted.
        eventually("each session once", async || {
            for member in &members {
                let report = usage(member).await?;
                ensure!(counted(&report).0 == sent, "{sent} sent: {report}");
                if counted(&report).1 != 20 {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .await?;
        // One that does not answer is named.
        members[2].node.lock().await.pause()?;
        eventually("a node that is silent", async || {
            let report = usage(&members[0]).await?;
            let silent = report["silent"].as_array().into_iter().flatten();
            let names: Vec<_> = silent.filter_map(|silent| silent["node"].as_str()).collect();
            Ok(names.contains(&&*members[2].name).then_some(()))
        })
        .await?;
        members[2].node.lock().await.resume()?;
        Ok(())
    });
}
