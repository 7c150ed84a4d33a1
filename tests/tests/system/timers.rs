//! What operators see of timers, and do with them: by the command line, over processes that are killed.

use crate::common::{good, listed, node_with};
use anyhow::ensure;
use serde_json::{Value, json};
use slotd_tests::{
    api::Message,
    node::{Node, eventually, scenario},
    replayed::comes_out_again,
    timers,
};

const SERVICE: &str = "kitchen-sink";

async fn set(node: &Node, session: &str, timer: Value) -> anyhow::Result<()> {
    node.api().send(SERVICE, session, Message::json(&timer)).await?;
    Ok(())
}

async fn is_dead(node: &Node) -> anyhow::Result<bool> {
    let dead = listed(node, &["dead", "list", SERVICE]).await?;
    Ok(dead["dead"][0]["died_ms"].is_u64())
}

/// Without it, nobody would know what fires when, and a message that its handler rejected would be lost.
#[test]
fn an_operator_cancels_what_is_set_and_retries_what_is_dead() {
    scenario(async {
        let mut node = node_with(SERVICE, SERVICE).await?;
        let reject = json!({"op": "reject", "code": "no", "message": "never", "retriable": false});
        let hour = 60 * 60 * 1_000;
        for (session, timer) in [
            ("b", json!({"op": "timer", "name": "t/1", "after": 2 * hour, "body": 1})),
            ("a", json!({"op": "timer", "name": "t 2", "every": hour, "body": {"x": 1.10}})),
            ("a", json!({"op": "timer", "name": "bad", "after": 1, "body": reject})),
        ] {
            set(&node, session, timer).await?;
        }
        eventually("the message is dead", async || Ok(is_dead(&node).await?.then_some(()))).await?;
        node.kill()?;
        node.restart().await?;

        // Of slots that have not begun: what the store has.
        let table = good(&node, &["timers", SERVICE]).await?;
        let lines: Vec<&str> = table.lines().collect();
        ensure!(lines.len() == 3 && lines[1].contains("every"), "the first is first: {table}");
        ensure!(lines[2].starts_with("b ") && lines[2].contains("t/1"), "{table}");
        let own = listed(&node, &["timers", SERVICE, "a"]).await?;
        ensure!(own["timers"][0]["body"]["x"] == 1.10 && own["timers"][1].is_null(), "{own}");
        good(&node, &["timer", "cancel", SERVICE, "b", "t/1"]).await?;
        let again = node.run(&["timer", "cancel", SERVICE, "b", "t/1"]).await?;
        ensure!(again.stderr.contains("timer-not-found"), "{again:?}");

        let dead = good(&node, &["dead", "list", SERVICE]).await?;
        ensure!(dead.contains("bad") && dead.contains("dead since"), "{dead}");
        let died = listed(&node, &["dead", "list", SERVICE, "a"]).await?;
        good(&node, &["dead", "retry", SERVICE, "a", "bad"]).await?;
        let later = |dead: &Value| dead["dead"][0]["died_ms"].as_u64();
        eventually("it was tried again", async || {
            let now = listed(&node, &["dead", "list", SERVICE, "a"]).await?;
            Ok((later(&now) > later(&died)).then_some(()))
        })
        .await?;
        good(&node, &["dead", "drop", SERVICE, "a", "--all"]).await?;
        node.kill()?;
        node.restart().await?;
        let dead = listed(&node, &["dead", "list", SERVICE]).await?;
        ensure!(dead["dead"].as_array().is_some_and(Vec::is_empty), "{dead}");
        let left = listed(&node, &["timers", SERVICE]).await?;
        ensure!(left["timers"][0]["name"] == "t 2" && left["timers"][1].is_null(), "{left}");
        Ok(())
    });
}

/// A timer that a killed node forgets, or has sent and sends again, or that is early on a node that comes back.
#[test]
fn timers_are_sent_once_over_kills() {
    scenario(async {
        let mut node = node_with(SERVICE, SERVICE).await?;
        let mut sessions = Vec::new();
        for number in 0..24_u64 {
            let (session, mut set) = (format!("s{number}"), Vec::new());
            for n in 1..=5 {
                let after = ("after", 400 * n + number);
                set.push(
                    timers::set(&node.api(), SERVICE, &session, &format!("once-{n}"), after)
                        .await?,
                );
            }
            set.push(timers::set(&node.api(), SERVICE, &session, "tick", ("every", 250)).await?);
            sessions.push((session, set));
        }
        // In the middle of it, and when all is late.
        for _ in 0..3 {
            let fired = async || {
                Ok((node.admin().metric("slotd_timers_total", "outcome=\"fired\"").await? > 20.0)
                    .then_some(()))
            };
            eventually("some have fired", fired).await?;
            node.kill()?;
            node.restart().await?;
        }
        timers::all_sent(&node.api(), SERVICE, &sessions).await?;
        comes_out_again(&node, &[SERVICE]).await
    });
}

/// Without it, a reader of the history would take a timer's message for a client's, also in a file.
#[test]
fn a_timers_message_is_named_as_such_wherever_it_is() {
    scenario(async {
        let node = node_with(SERVICE, SERVICE).await?;
        let timer = json!({"op": "timer", "name": "soon", "after": 1, "body": {"hello": 1}});
        set(&node, "a", timer).await?;
        eventually("it has fired", async || {
            Ok((node.api().session(SERVICE, "a").await?.seq == 2).then_some(()))
        })
        .await?;
        let file = node.scratch().join("a.jsonl");
        let file = file.to_string_lossy();
        good(&node, &["session", "export", SERVICE, "a", &file]).await?;
        good(&node, &["session", "import", SERVICE, "copy", &file]).await?;
        let mut seen = Vec::new();
        for session in ["a", "copy"] {
            let history = listed(&node, &["history", SERVICE, session, "--after", "1"]).await?;
            let entry = &history["entries"][0];
            ensure!(entry["origin"] == "timer" && entry["timer"]["name"] == "soon", "{entry}");
            seen.push(entry["timer"].clone());
        }
        ensure!(seen[0] == seen[1] && seen[0]["attempt"] == 1, "{seen:?}");
        Ok(())
    });
}
