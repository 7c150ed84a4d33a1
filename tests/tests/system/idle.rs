//! What a slot does when nothing happens.

use crate::common::next_event;
use anyhow::{Context, ensure};
use serde_json::json;
use slotd_tests::{
    api::{Admin, Message, Slot},
    node::{Node, NodeOptions, eventually, scenario},
    plugins,
};

async fn slot(admin: &Admin, number: u16) -> anyhow::Result<Slot> {
    admin.client.get(&format!("/admin/v1/slots/{number}")).await?.success()?.json()
}

/// Without it, slots that nobody uses would be kept for ever, or one that stops would lose its place
/// in a session; and a subscriber of a quiet session would be cut off.
#[test]
fn an_idle_slot_stops_and_goes_on_where_it_was() {
    scenario(async {
        let node = Node::start_with(NodeOptions {
            args: ["--slots-idle", "1s"].map(String::from).into(),
            ..NodeOptions::default()
        })
        .await?;
        let (api, admin) = (node.api(), node.admin());
        admin.deploy("counter", plugins::load("counter")?).await?;
        admin.deploy("hostile", plugins::load("hostile-v1")?).await?;
        let emit = || Message::json(&json!({"do": "emit", "kind": "k", "body": 1}));
        let watched = api.send("hostile", "watched", emit()).await?.slot;
        let mut stream = api.events("hostile", "watched", Some(1), None).await?;
        let before = slot(&admin, watched).await?;
        for count in 1..=3 {
            let reply = api.send("counter", "quiet", Message::bytes("x")).await?;
            ensure!(reply.json()? == count, "{reply:?}");
        }
        let quiet = api.session("counter", "quiet").await?.slot;
        ensure!(quiet != watched, "both are in slot {quiet}: rename a session");
        let first = slot(&admin, quiet).await?;
        ensure!(first.state == "running", "{first:?}");
        eventually("the idle slot's stop", async || {
            Ok((slot(&admin, quiet).await?.state == "stopped").then_some(()))
        })
        .await?;

        // The other one did nothing for longer, but has a reader.
        let still = slot(&admin, watched).await?;
        ensure!(still.state == "running" && still.term == before.term, "{still:?}");
        api.send("hostile", "watched", emit()).await?;
        let event = next_event(&mut stream).await?;
        ensure!(event.place() == Some("2.0"), "{event:?}");
        ensure!(slot(&admin, watched).await?.term == before.term, "it was restarted");

        let next = api.send("counter", "quiet", Message::bytes("x")).await?;
        ensure!(next.seq == 4 && next.json()? == 4, "{next:?}");
        let again = slot(&admin, quiet).await?;
        ensure!(again.state == "running" && again.term > first.term, "{first:?}, then {again:?}");

        drop(stream);
        eventually("the stop of the slot that nobody reads any more", async || {
            Ok((slot(&admin, watched).await?.state == "stopped").then_some(()))
        })
        .await
        .context("after its reader went")
    });
}
