//! A deploy through the gate: what is good goes through by itself, and what is not is stopped before a slot moves.

use crate::common::{deed, expect_problem, good, node_with, say};
use anyhow::{Context, ensure};
use serde_json::{Value, json};
use slotd_tests::{
    node::{Node, eventually, scenario},
    plugins,
};

fn file(plugin: &str) -> String {
    plugins::path(plugin).display().to_string()
}

/// The exit code of a deploy, and what it has printed as JSON: the answer, or the report of what stopped it.
async fn deploy(node: &Node, args: &[&str]) -> anyhow::Result<(Option<i32>, Value)> {
    let done = node.run(&[&["--json", "deploy"], args].concat()).await?;
    let shown = serde_json::from_str(&done.stdout).with_context(|| format!("{done:?}"))?;
    Ok((done.status.code(), shown))
}

fn stage<'a>(gate: &'a Value, name: &str) -> anyhow::Result<&'a Value> {
    let stages = gate["stages"].as_array().context("no stages")?;
    stages.iter().find(|stage| stage["stage"] == name).with_context(|| format!("{gate:#}"))
}

async fn generation(node: &Node, service: &str) -> anyhow::Result<u64> {
    Ok(node.admin().service(service).await?.generation)
}

/// A gate that had to be talked into a good version would be switched off by everybody.
#[test]
fn a_good_version_goes_through_by_itself() {
    scenario(async {
        let node = node_with("chat", "chat-v1").await?;
        let api = node.api();
        for room in 0..20 {
            for line in 0..3 {
                let text = format!("hello {line}");
                api.send("chat", &format!("room-{room}"), say("ann", &text)).await?;
            }
        }
        let v2 = file("chat-v2");
        let (exit, answer) = deploy(&node, &["chat", &v2, "--wait"]).await?;
        ensure!(exit == Some(0) && answer["changed"] == true, "{answer:#}");
        let gate = &answer["gate"];
        ensure!(gate["verdict"] == "deployed" && gate["generation"] == 2, "{gate:#}");
        ensure!(stage(gate, "migrate")?["seen"] == 20, "{gate:#}");
        ensure!(stage(gate, "migrate")?["of"] == 20, "{gate:#}");
        ensure!(generation(&node, "chat").await? == 2);
        // The report is kept, by the deployment.
        let kept: Value = serde_json::from_str(
            &good(&node, &["--json", "gate", "chat", "--deployment", "2"]).await?,
        )?;
        ensure!(kept["gate"] == gate["gate"] && kept["verdict"] == "deployed", "{kept:#}");
        // The same again is no deploy, and has no gate.
        let (exit, again) = deploy(&node, &["chat", &v2, "--wait"]).await?;
        ensure!(
            exit == Some(0) && again["changed"] == false && again["gate"].is_null(),
            "{again:#}"
        );
        let page = node.scratch().join("gate.html");
        good(&node, &["gate", "chat", "--html", &page.display().to_string()]).await?;
        let page = std::fs::read_to_string(page)?;
        ensure!(page.starts_with("<!doctype html>") && !page.contains("href="), "{page}");
        Ok(())
    });
}

/// One session of many that can't be migrated would be found by its user.
#[test]
fn a_migrate_that_refuses_a_session_stops_it_before_a_slot_moves() {
    scenario(async {
        let node = node_with("hostile", "hostile-v1").await?;
        let api = node.api();
        let set = |value| deed(&json!({"do": "set", "key": "migrate", "value": value}));
        for number in 0..30 {
            api.send("hostile", &format!("good-{number}"), set("")).await?;
        }
        for (session, value) in [("refuses", "refuse"), ("traps", "trap")] {
            api.send("hostile", session, set(value)).await?;
        }
        let v2 = file("hostile-v2");
        let (exit, gate) = deploy(&node, &["hostile", &v2, "--wait"]).await?;
        ensure!(exit == Some(9) && gate["verdict"] == "stopped", "{gate:#}");
        ensure!(gate["stage"] == "migrate", "{gate:#}");
        let groups = stage(&gate, "migrate")?["groups"].as_array().context("no groups")?;
        let examples: Vec<_> = groups.iter().map(|group| &group["example"]["session"]).collect();
        for session in ["refuses", "traps"] {
            ensure!(examples.iter().any(|example| *example == session), "{gate:#}");
        }
        ensure!(generation(&node, "hostile").await? == 1, "it has moved");
        let answer = node.admin().upload_with("hostile", plugins::load("hostile-v2")?, "").await?;
        let problem = expect_problem(&answer, 409, "gate-stopped")?;
        ensure!(problem.detail.contains("migrate"), "{}", problem.detail);
        let shown = node.run(&["gate", "hostile"]).await?;
        ensure!(shown.status.code() == Some(9), "{shown:?}");
        ensure!(shown.stdout.contains("stopped by migrate"), "{shown:?}");
        // Each session answers as before.
        let reply = api.send("hostile", "refuses", set("refuse")).await?;
        ensure!(reply.seq == 2);
        // Without the gate it is deployed, and the two stay where they are.
        let (exit, off) = deploy(&node, &["hostile", &v2, "--gate", "off", "--wait"]).await?;
        ensure!(exit == Some(0) && off["changed"] == true && off["gate"].is_null(), "{off:#}");
        Ok(())
    });
}

/// A component of another service: it rejects, or traps on, what the one before has answered.
#[test]
fn a_version_that_does_not_answer_what_was_answered_is_stopped() {
    scenario(async {
        let node = node_with("chat", "chat-v1").await?;
        for room in 0..5 {
            node.api().send("chat", &format!("room-{room}"), say("ann", "hello")).await?;
        }
        let other = file("hostile-v2");
        let accepts = ["--version", "9.0.0", "--accept", "effect:*", "--accept", "memory"];
        let (exit, gate) = deploy(&node, &[&["chat", &other], &accepts[..]].concat()).await?;
        ensure!(exit == Some(9) && gate["verdict"] == "stopped", "{gate:#}");
        ensure!(gate["stage"] == "replay", "{gate:#}");
        ensure!(generation(&node, "chat").await? == 1, "it has moved");
        // What has stopped it is looked at first in the next one, which is of something else.
        let (exit, answer) = deploy(&node, &["chat", &file("chat-v2"), "--wait"]).await?;
        ensure!(exit == Some(0) && answer["gate"]["verdict"] == "deployed", "{answer:#}");
        Ok(())
    });
}

/// Who asks what would happen must not make it happen.
#[test]
fn a_dry_run_moves_nothing() {
    scenario(async {
        let node = node_with("chat", "chat-v1").await?;
        node.api().send("chat", "room", say("ann", "hello")).await?;
        let v2 = file("chat-v2");
        let (exit, answer) = deploy(&node, &["chat", &v2, "--dry-run"]).await?;
        ensure!(exit == Some(0) && answer["changed"] == false, "{answer:#}");
        ensure!(answer["gate"]["verdict"] == "passed", "{answer:#}");
        ensure!(generation(&node, "chat").await? == 1, "it has moved");
        for (args, word) in [
            (vec!["deploy", "chat", &v2, "--dry-run", "--gate", "off"], "dry run"),
            (vec!["deploy", "nothing", &v2, "--dry-run"], "nothing to compare"),
        ] {
            let done = node.run(&args).await?;
            ensure!(done.status.code() == Some(4) && done.stderr.contains(word), "{done:?}");
        }
        Ok(())
    });
}

/// What differs waits for a person, whatever becomes of who asked: over a restart of the node, too.
#[test]
fn what_differs_waits_to_be_confirmed_over_a_restart() {
    scenario(async {
        let mut node = node_with("hostile", "hostile-v1").await?;
        let set = deed(&json!({"do": "set", "key": "a", "value": 1}));
        node.api().send("hostile", "s", set).await?;
        let v2 = plugins::load("hostile-v2")?;
        // The versions reply with their numbers. The answer comes when the gate has ended, or after a time.
        let admin = node.admin();
        let upload = admin.upload_with("hostile", v2.clone(), "?confirm=true");
        let waits = eventually("it waits to be confirmed", async || {
            let gate = node.admin().gate("hostile").await.unwrap_or_default();
            Ok((gate["verdict"] == "confirming").then_some(gate))
        });
        let waits = tokio::select! {
            gate = waits => gate?,
            answer = upload => anyhow::bail!("it was not waited for: {:?}", answer?),
        };
        ensure!(waits["stages"].as_array().is_some_and(|stages| !stages.is_empty()));
        node.kill()?;
        node.restart().await?;
        let again = eventually("it is gone on with", async || {
            let gate = node.admin().gate("hostile").await?;
            Ok((gate["verdict"] == "confirming").then_some(gate))
        })
        .await?;
        ensure!(again["gate"] == waits["gate"] && generation(&node, "hostile").await? == 1);
        good(&node, &["gate", "hostile", "--confirm"]).await?;
        eventually("it is deployed", async || {
            let gate = node.admin().gate("hostile").await?;
            Ok((gate["verdict"] == "deployed").then_some(()))
        })
        .await?;
        ensure!(generation(&node, "hostile").await? == 2);
        let done = node.run(&["gate", "hostile", "--cancel"]).await?;
        ensure!(done.status.code() == Some(4), "it is over: {done:?}");
        Ok(())
    });
}

/// A rollback, or a deploy that goes past the gate, must neither wait for it nor be undone by it.
#[test]
fn a_change_of_the_service_ends_a_gate() {
    scenario(async {
        let node = node_with("hostile", "hostile-v1").await?;
        let set = deed(&json!({"do": "set", "key": "a", "value": 1}));
        node.api().send("hostile", "s", set).await?;
        let admin = node.admin();
        let upload = admin.upload_with("hostile", plugins::load("hostile-v2")?, "?confirm=true");
        let confirming = eventually("it waits to be confirmed", async || {
            let gate = node.admin().gate("hostile").await.unwrap_or_default();
            Ok((gate["verdict"] == "confirming").then_some(()))
        });
        tokio::select! {
            waits = confirming => waits?,
            answer = upload => anyhow::bail!("it was not waited for: {:?}", answer?),
        };
        node.admin().deploy("hostile", plugins::load("chat-v1")?).await?;
        let gate = eventually("it is ended", async || {
            let gate = node.admin().gate("hostile").await?;
            Ok((gate["verdict"] == "aborted").then_some(gate))
        })
        .await?;
        ensure!(gate["why"].as_str().is_some_and(|why| why.contains("changed")), "{gate:#}");
        ensure!(generation(&node, "hostile").await? == 2);
        Ok(())
    });
}
