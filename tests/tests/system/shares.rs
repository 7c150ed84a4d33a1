//! A node with more to do than it has time for: services get shares of it.

use crate::common::deed;
use anyhow::ensure;
use serde_json::json;
use slotd_tests::{
    api::{Api, Message, metric},
    http::Client,
    node::{Node, NodeOptions, eventually, scenario},
    plugins,
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};
use tokio::task::JoinSet;

/// A quiet service's messages would wait behind all that another brings.
#[test]
fn a_quiet_service_does_not_wait_while_another_floods() {
    scenario(async {
        let args = ["--shares=true"].map(String::from).to_vec();
        let node = Node::start_with(NodeOptions { args, ..NodeOptions::default() }).await?;
        node.admin().deploy("flood", plugins::load("hostile-v1")?).await?;
        node.admin().deploy("quiet", plugins::load("counter")?).await?;
        let (api, over) = (node.api(), Arc::new(AtomicBool::new(false)));
        api.send("quiet", "warm", Message::bytes("x")).await?;
        let mut clients = JoinSet::new();
        // More than all cores can do.
        let cores = std::thread::available_parallelism()?.get();
        for number in 0..50 + 8 * cores {
            let (address, over) = (api.client.address(), over.clone());
            clients.spawn(async move {
                let (api, session) = (Api::new(Client::new(address)), format!("s-{number}"));
                let work = json!({"do": "work", "rounds": 2_000_000});
                let mut before = 0;
                while !over.load(Relaxed) {
                    // In order, and none is lost by its wait.
                    let seq = api.send("flood", &session, deed(&work)).await?.seq;
                    ensure!(seq == before + 1, "{session}: {seq} after {before}");
                    before = seq;
                }
                anyhow::Ok(())
            });
        }
        let read = async |name: &str, labels: &str| {
            let text = node.admin().client.get("/metrics").await?.success()?.text();
            anyhow::Ok(metric(&text, name, labels))
        };
        for session in 0..50 {
            eventually("messages of the flood wait", async || {
                let waiting = read("slotd_shares_waiting", "").await?;
                Ok((waiting > 0.0).then_some(()))
            })
            .await?;
            api.send("quiet", &format!("q-{session}"), Message::bytes("x")).await?;
        }
        let waited = read("slotd_shares_waited_total", "service=\"flood\"").await?;
        ensure!(waited > 0.0, "nothing of the flood has waited");
        over.store(true, Relaxed);
        while let Some(client) = clients.join_next().await {
            client??;
        }
        Ok(())
    });
}
