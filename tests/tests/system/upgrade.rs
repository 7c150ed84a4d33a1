//! A data directory of 25 November 2026: used by this version, given back, and raised.

use crate::common::say;
use anyhow::{Context, ensure};
use serde_json::{Value, json};
use slotd_tests::{
    api::Message,
    node::{NEWEST_LEVEL, Node, NodeOptions, eventually, old_slotd_or_skip, scenario},
    plugins,
};
use std::path::PathBuf;

/// What clients can see that both versions show.
async fn picture(node: &Node) -> anyhow::Result<Vec<String>> {
    let api = node.api();
    let mut all = Vec::new();
    for room in ["room-0", "room-1", "room-2"] {
        for entry in api.whole_history("chat", room).await? {
            all.push(format!("{room} {} {:?} {:?}", entry.seq, entry.body, entry.reply));
        }
        for query in ["who", "stats", "search"] {
            let answer = api.query("chat", room, &json!({"query": query})).await?;
            all.push(format!("{room} {query} {answer}"));
        }
    }
    let gone = api.client.get("/v1/services/counter/sessions/gone").await?;
    ensure!(gone.status == 404, "a deleted session is there: {gone:?}");
    Ok(all)
}

/// The earlier version neither knows what services store nor keeps it: it has to be counted after it.
async fn stored_is_counted(node: &Node) -> anyhow::Result<()> {
    for service in ["counter", "chat"] {
        let path = format!("/v1/services/{service}/sessions?limit=1000");
        let listed: Value = node.api().client.get(&path).await?.success()?.json()?;
        let sessions = listed["sessions"].as_array().context("no sessions")?.len();
        eventually("all sessions are counted", async || {
            let report = node.admin().client.get("/admin/v1/usage").await?.success()?;
            let report: Value = report.json()?;
            let stored = report["stored"].as_array().context("nothing is stored")?;
            let own = stored.iter().find(|stored| stored["service"] == service);
            let found = own.map(|own| (own["sessions"].as_u64(), own["bytes"].as_u64() > Some(0)));
            Ok((found == Some((Some(sessions as u64), true))).then_some(()))
        })
        .await?;
    }
    Ok(())
}

/// More of everything, under keys that are used again after each change of the program.
async fn use_it(node: &Node, round: u32) -> anyhow::Result<()> {
    let api = node.api();
    for number in 0..12 {
        let room = format!("room-{}", number % 3);
        let line =
            say("ann", &format!("line {number} of {round}")).key(format!("{round}-{number}"));
        api.send("chat", &room, line).await?;
        api.send("counter", &format!("c-{number}"), Message::bytes("x")).await?;
    }
    let large = say("bob", &"x".repeat(1_900));
    api.send("chat", "room-0", large).await?;
    api.send("counter", "gone", Message::bytes("x")).await?;
    api.delete("counter", "gone").await?;
    let again = say("ann", &format!("line 4 of {round}")).key(format!("{round}-4"));
    ensure!(api.send("chat", "room-1", again).await?.replayed, "a key is forgotten");
    Ok(())
}

async fn level(node: &Node) -> anyhow::Result<u64> {
    let info: Value = node.admin().client.get("/admin/v1/level").await?.success()?.json()?;
    info["level"].as_u64().context("no level")
}

/// Who can't go back when the new version disappoints does not upgrade; and an old version that reads
/// a log which it can't understand would drop or change what was acknowledged.
#[test]
fn a_data_directory_is_upgraded_and_can_be_taken_back_until_it_is_raised() {
    let Some(old) = old_slotd_or_skip("upgrades of a data directory") else { return };
    scenario(async {
        let program = Some(old.clone());
        let options = NodeOptions { program, ..NodeOptions::default() };
        let mut node = Node::start_with(options).await?;
        for (service, plugin) in [("counter", "counter"), ("chat", "chat-v1")] {
            node.admin().deploy(service, plugins::load(plugin)?).await?;
        }
        use_it(&node, 0).await?;
        let steps =
            [(None, true), (Some(old.clone()), false), (None, false), (Some(old.clone()), true)];
        let next = async |node: &mut Node, program: Option<PathBuf>, kill, round| {
            let before = picture(node).await?;
            // A log that is replayed, and one that is all in the store.
            match kill {
                true => node.kill()?,
                false => ensure!(node.terminate().await?.success()),
            }
            node.set_program(program);
            node.restart().await?;
            let after = picture(node).await?;
            ensure!(after == before, "round {round}: {after:#?} instead of {before:#?}");
            use_it(node, round).await
        };
        for (round, (program, kill)) in (1..).zip(steps) {
            next(&mut node, program, kill, round).await?;
        }
        next(&mut node, None, true, 5).await?;
        stored_is_counted(&node).await?;
        ensure!(level(&node).await? == 1, "raised unasked");
        let raised = node.run(&["level", "--raise"]).await?;
        ensure!(raised.status.success() && raised.stderr.contains("level 2"), "{raised:?}");
        use_it(&node, 6).await?;
        // Of both formats, in one log.
        next(&mut node, None, true, 7).await?;
        ensure!(level(&node).await? == 2, "the level is forgotten");
        stored_is_counted(&node).await?;
        let before = picture(&node).await?;
        node.kill()?;
        node.set_program(Some(old));
        let refused = node.restart().await.err().context("the old version took it")?;
        let text = format!("{refused:#}");
        ensure!(text.contains("has format 3"), "{text}");
        node.set_program(None);
        node.restart().await?;
        ensure!(picture(&node).await? == before, "the refused start changed something");
        Ok(())
    });
}

/// A fleet that nobody looks after would stay at the old level for ever.
#[test]
fn a_level_is_raised_by_itself_after_a_while() {
    let Some(old) = old_slotd_or_skip("a level that is raised by itself") else { return };
    scenario(async {
        let options = NodeOptions { program: Some(old), ..NodeOptions::default() };
        let mut node = Node::start_with(options).await?;
        node.admin().deploy("counter", plugins::load("counter")?).await?;
        node.api().send("counter", "a", Message::bytes("x")).await?;
        ensure!(node.terminate().await?.success());
        node.set_program(None);
        node.add_env("SLOTD_LEVEL_WAIT", "0s".into());
        node.restart().await?;
        // One level after the other, to the newest.
        let raised = async || Ok((level(&node).await? == NEWEST_LEVEL).then_some(()));
        eventually("the level is raised", raised).await?;
        let reply = node.api().send("counter", "a", Message::bytes("x")).await?;
        ensure!(reply.seq == 2, "{reply:?}");
        Ok(())
    });
}
