//! Versions of the interface that components are built against.

use crate::common::{expect_problem, next_event};
use anyhow::{Context, ensure};
use serde_json::{Value, json};
use slotd_tests::{
    api::{Event, Message},
    node::{Node, scenario},
    plugins,
};

/// Components that were built against version 1.0 of the interface are deployed for years.
#[test]
fn a_component_of_interface_1_0_runs_unchanged() {
    scenario(async {
        let component = plugins::load("counter-1-0")?;
        let node = Node::start().await?;
        let file = plugins::path("counter-1-0");
        let checked = node.run(&["plugin", "check", &file.to_string_lossy(), "--json"]).await?;
        let checked: Value = serde_json::from_str(&checked.stdout)?;
        ensure!(checked["problems"] == json!([]), "{checked}");
        ensure!(checked["effects"] == json!(["effects.emit"]), "{checked}");
        let imports = checked["imports"].as_array().context("no imports")?;
        ensure!(imports.contains(&json!("slotd:slot/effects@1.0.0")), "{checked}");
        node.admin().deploy("counter", component).await?;
        let api = node.api();
        let mut stream = api.events("counter", "a", Some(0), None).await?;
        for count in 1..=3_u64 {
            let message = Message::json(&json!({})).from("ann");
            let reply = api.send("counter", "a", message).await?;
            ensure!(reply.seq == count && reply.json()? == json!(count), "{reply:?}");
            let event = next_event(&mut stream).await?;
            let event: Event = event.json()?;
            ensure!((&*event.kind, event.body) == ("counted", Some(json!("ann"))));
        }
        let refused = api.post("counter", "a", Message::bytes("no")).await?;
        ensure!(expect_problem(&refused, 422, "rejected")?.more["rejection"]["code"] == "no");
        ensure!(api.query("counter", "a", &json!({})).await? == json!(3));
        Ok(())
    });
}
