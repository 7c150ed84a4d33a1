//! What is stored comes out again, and what does not is named: over kills and swaps, with the plugins that ship.

use crate::common::{deed, node_with, say};
use anyhow::{Context, ensure};
use serde_json::{Value, json};
use slotd_tests::{
    api::Message,
    conversations,
    node::{Node, eventually, scenario},
    plugins, timers,
};

/// The exit code of an audit, and its report.
async fn audit(node: &Node, args: &[&str]) -> anyhow::Result<(Option<i32>, Value)> {
    let done = node.run(&[&["--json", "audit"], args].concat()).await?;
    let report = serde_json::from_str(&done.stdout).with_context(|| format!("{done:?}"))?;
    Ok((done.status.code(), report))
}

async fn is_same(node: &Node, service: &str) -> anyhow::Result<Value> {
    let (exit, report) = audit(node, &[service]).await?;
    ensure!(exit == Some(0) && report["verdict"] == "same", "{service}: {report:#}");
    Ok(report)
}

/// Chat's real conversations, half of them on each version, with kills in between: recovery that doubled a message,
/// lost a write or ran one on the wrong version would show.
#[test]
fn conversations_come_out_again_after_kills_and_a_swap() {
    scenario(async {
        let mut node = node_with("chat", "chat-v1").await?;
        let conversations = conversations::load(&conversations::sample())?;
        let mut sent = 0;
        for part in 0..3 {
            if part == 1 {
                node.admin().deploy("chat", plugins::load("chat-v2")?).await?;
            }
            let api = node.api();
            for conversation in &conversations {
                let lines = conversation.lines.iter().skip(part * 40).take(40);
                for line in lines {
                    let from = line.from.as_deref().unwrap_or("system");
                    let key = format!("{}-{}", conversation.session, line.line);
                    let message = say(from, &line.text).key(key);
                    api.send("chat", &conversation.session, message).await?;
                    sent += 1;
                }
            }
            node.kill()?;
            node.restart().await?;
        }
        let report = is_same(&node, "chat").await?;
        ensure!(report["messages"] == sent, "{sent} were sent: {report:#}");
        ensure!(report["same"] == conversations.len(), "{report:#}");
        // While messages come, and on a sample.
        let name = &conversations[0].session;
        node.api().send("chat", name, say("ann", "once more")).await?;
        let (exit, one) = audit(&node, &["chat", name]).await?;
        ensure!(exit == Some(0) && one["sessions"] == 1, "{one:#}");
        let (exit, some) = audit(&node, &["chat", "--sample", "1", "--seed", "7"]).await?;
        ensure!(exit == Some(0) && some["sessions"] == 1 && some["seed"] == 7, "{some:#}");
        Ok(())
    });
}

/// Everything that a handler can see: its clock, random bytes, timers that fire, what other sessions send.
#[test]
fn all_that_a_handler_sees_comes_again() {
    scenario(async {
        let mut node = node_with("kitchen-sink", "kitchen-sink").await?;
        let ops = [
            json!({"op": "random"}),
            json!({"op": "clock"}),
            json!({"op": "context"}),
            json!({"op": "set", "key": "k", "value": {"a": [1, 2]}}),
            json!({"op": "emit", "kind": "e", "value": 1, "times": 3}),
            json!({"op": "scan-all", "prefix": ""}),
            json!({"op": "timers"}),
            json!({"op": "cancel-timer", "name": "never"}),
            json!({"op": "expire", "after": 86_400_000}),
        ];
        let mut sessions = Vec::new();
        for number in 0..6 {
            let (api, session) = (node.api(), format!("session-{number}"));
            let service = "kitchen-sink";
            timers::set(&api, service, &session, "once", ("after", 50)).await?;
            timers::set(&api, service, &session, "each", ("every", 1_000)).await?;
            for op in &ops {
                api.send("kitchen-sink", &session, Message::json(op)).await?;
            }
            sessions.push(session);
        }
        eventually("timers have fired", async || {
            let mut fired = true;
            for session in &sessions {
                let history = node.api().whole_history("kitchen-sink", session).await?;
                fired &= history.iter().filter(|entry| entry.timer.is_some()).count() >= 3;
            }
            Ok(fired.then_some(()))
        })
        .await?;
        node.kill()?;
        node.restart().await?;
        let report = is_same(&node, "kitchen-sink").await?;
        ensure!(report["sessions"] == sessions.len() && report["partly"] == 0, "{report:#}");
        Ok(())
    });
}

/// A plugin that keeps something between calls answers differently after each restart: it must be told from damage,
/// which somebody would restore a backup for.
#[test]
fn a_plugin_that_keeps_memory_is_named() {
    scenario(async {
        let mut node = node_with("hostile", "hostile-v1").await?;
        let api = node.api();
        for session in ["a", "b", "c"] {
            api.send("hostile", session, deed(&json!({"do": "set", "key": "k", "value": 1})))
                .await?;
            api.send("hostile", session, deed(&json!({"do": "remember"}))).await?;
        }
        let (exit, report) = audit(&node, &["hostile"]).await?;
        ensure!(exit == Some(1) && report["verdict"] == "differs", "{report:#}");
        let findings = report["findings"].as_array().context("no findings")?;
        ensure!(!findings.is_empty());
        for finding in findings {
            ensure!(finding["looks_like"] == "keeps-memory" && finding["seq"] == 2, "{finding:#}");
        }
        let shown = node.run(&["audit", "hostile"]).await?;
        ensure!(shown.status.code() == Some(1), "{shown:?}");
        ensure!(shown.stdout.contains("keeps something in memory between calls"), "{shown:?}");
        // It is not the node that has changed.
        node.kill()?;
        node.restart().await?;
        let (_, again) = audit(&node, &["hostile"]).await?;
        ensure!(again["verdict"] == "differs", "{again:#}");
        Ok(())
    });
}

/// An audit that is asked for in vain must say so, and one of a session of no service too.
#[test]
fn what_can_not_be_audited_is_refused() {
    scenario(async {
        let node = node_with("counter", "counter").await?;
        for (args, code) in [
            (vec!["audit", "nothing"], "service-not-found"),
            (vec!["audit", "counter", "nobody"], "session-not-found"),
        ] {
            let done = node.run(&args).await?;
            ensure!(done.status.code() == Some(4) && done.stderr.contains(code), "{done:?}");
        }
        let done = node.run(&["audit", "counter", "--from", "3"]).await?;
        ensure!(done.status.code() == Some(2), "{done:?}");
        // Nothing there is the same as nothing.
        is_same(&node, "counter").await?;
        Ok(())
    });
}
