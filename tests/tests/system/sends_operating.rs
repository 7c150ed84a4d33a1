//! What operators see of messages between sessions, and do with them: by the command line, over processes that are
//! killed.

use crate::common::{expect_problem, good, listed};
use anyhow::{Context, ensure};
use hyper::Method;
use serde_json::{Value, json};
use slotd_tests::{
    api::Message,
    node::{Node, NodeOptions, eventually, scenario},
    plugins,
};

const SERVICE: &str = "kitchen-sink";

/// A node whose services may send to each other.
async fn node() -> anyhow::Result<Node> {
    let args = vec!["--effects-send".into(), "*>*".into()];
    let node = Node::start_with(NodeOptions { args, ..NodeOptions::default() }).await?;
    node.admin().deploy(SERVICE, plugins::load(SERVICE)?).await?;
    Ok(node)
}

async fn send(
    node: &Node,
    from: &str,
    to: &str,
    body: Value,
    reply: Option<&str>,
) -> anyhow::Result<()> {
    let mut send = json!({"op": "send", "to": to, "body": body});
    if let Some(reply) = reply {
        send["reply"] = reply.into();
    }
    node.api().send(SERVICE, from, Message::json(&send)).await?;
    Ok(())
}

/// What the handler rejects for good.
fn rejected() -> Value {
    json!({"op": "reject", "code": "sold-out", "message": "None left.", "retriable": false})
}

/// Those of a list with this value in a field.
fn with<'a>(list: &'a Value, field: &str, value: &str) -> Vec<&'a Value> {
    let all = list.as_array().map_or(&[][..], Vec::as_slice);
    all.iter().filter(|one| one[field] == value).collect()
}

async fn dead(node: &Node) -> anyhow::Result<Value> {
    Ok(listed(node, &["dead", "list", SERVICE]).await?["dead"].take())
}

async fn outbox(node: &Node) -> anyhow::Result<Value> {
    Ok(listed(node, &["outbox", SERVICE]).await?["messages"].take())
}

/// Without it, nobody would know where a message is that did not arrive, nor could have it sent again.
#[test]
fn an_operator_sees_what_is_on_its_way_and_retries_what_is_dead() {
    scenario(async {
        let mut node = node().await?;
        // To a service that is not there; to a handler that rejects it; and two whose reply the sender's own handler
        // fails, for now and for good.
        send(&node, "a", "later/x/1", json!({"hello": 1}), Some("greeting")).await?;
        send(&node, "a", "kitchen-sink/b", rejected(), None).await?;
        send(&node, "a", "kitchen-sink/c", json!({"answer": {"fails": 1_000}}), Some("slow"))
            .await?;
        send(&node, "e", "kitchen-sink/c", json!({"answer": rejected()}), Some("never")).await?;
        eventually("all have failed", async || {
            let (outbox, dead) = (outbox(&node).await?, dead(&node).await?);
            let are_all = with(&outbox, "state", "waiting").len() == 1
                && with(&outbox, "state", "outcome").len() == 1
                && dead.as_array().is_some_and(|dead| dead.len() == 2);
            Ok(are_all.then_some(()))
        })
        .await?;
        node.kill()?;
        node.restart().await?;

        let outbox_now = eventually("they are there again", async || {
            let outbox = outbox(&node).await?;
            Ok((outbox.as_array().map_or(0, Vec::len) == 2).then_some(outbox))
        })
        .await?;
        let waiting = *with(&outbox_now, "to", "later/x/1").first().context("not waiting")?;
        ensure!(waiting["session"] == "a" && waiting["reply"] == "greeting", "{waiting}");
        ensure!(waiting["reason"].is_string() && waiting["body"].is_null(), "{waiting}");
        ensure!(waiting["sent_by"] == 1 && waiting["body_bytes"] == 11, "{waiting}");
        let outcome = *with(&outbox_now, "to", "kitchen-sink/c").first().context("no outcome")?;
        ensure!(outcome["reply"] == "slow" && outcome["attempts"].as_u64() > Some(0), "{outcome}");
        let table = good(&node, &["outbox", SERVICE]).await?;
        ensure!(table.contains("later/x/1") && table.contains("greeting"), "{table}");
        let own = listed(&node, &["outbox", SERVICE, "a"]).await?;
        let own = with(&own["messages"], "to", "later/x/1").into_iter().next().cloned();
        ensure!(own.as_ref().is_some_and(|it| it["body"] == json!({"hello": 1})), "{own:?}");

        let dead_now = dead(&node).await?;
        let sent = *with(&dead_now, "kind", "send").first().context("no dead message")?;
        ensure!(sent["to"] == "kitchen-sink/b" && sent["code"] == "sold-out", "{sent}");
        ensure!(sent["timer"].is_null() && sent["due_ms"].is_null(), "{sent}");
        let answer = *with(&dead_now, "kind", "outcome").first().context("no dead outcome")?;
        ensure!(answer["session"] == "e" && answer["reply"] == "never", "{answer}");
        let table = good(&node, &["dead", "list", SERVICE]).await?;
        ensure!(table.contains("dead since") && table.contains("kitchen-sink/b"), "{table}");

        // Tried again, it is rejected again: dead later than before.
        let id = sent["id"].as_str().context("no id")?;
        good(&node, &["dead", "retry", SERVICE, "a", id]).await?;
        let again = eventually("it was tried again", async || {
            let dead = dead(&node).await?;
            let later = with(&dead, "kind", "send").into_iter().find(|it| it["id"] != id).cloned();
            Ok(later.filter(|it| it["died_ms"].as_u64() > sent["died_ms"].as_u64()))
        })
        .await?;
        let gone = node.run(&["dead", "retry", SERVICE, "a", id]).await?;
        ensure!(!gone.status.success() && gone.stderr.contains("no dead message"), "{gone:?}");
        let id = again["id"].as_str().context("no id")?;
        good(&node, &["dead", "drop", SERVICE, "a", id]).await?;
        good(&node, &["dead", "drop", SERVICE, "e", "--all"]).await?;

        // Once its service is there, what waits arrives, and its reply comes back.
        node.admin().deploy("later", plugins::load(SERVICE)?).await?;
        eventually("it has arrived, and its reply", async || {
            let history = node.api().whole_history(SERVICE, "a").await?;
            let names = history.iter().filter_map(|entry| Some(&*entry.answer.as_ref()?.name));
            Ok(names.into_iter().any(|name| name == "greeting").then_some(()))
        })
        .await?;
        node.kill()?;
        node.restart().await?;
        ensure!(dead(&node).await? == json!([]), "what was dropped is back");
        let left = outbox(&node).await?;
        ensure!(with(&left, "to", "later/x/1").is_empty(), "{left}");
        Ok(())
    });
}

/// Without it, a reader of the history would take what a session sent for a client's, also in a file.
#[test]
fn a_message_between_sessions_says_whose_it_is_wherever_it_is() {
    scenario(async {
        let node = node().await?;
        for (body, reply, seq) in [(json!({"n": 1}), "count", 2), (rejected(), "refused", 4)] {
            send(&node, "a", "kitchen-sink/b", body, Some(reply)).await?;
            eventually("it is answered", async || {
                Ok((node.api().session(SERVICE, "a").await?.seq == seq).then_some(()))
            })
            .await?;
        }
        let shown = good(&node, &["history", SERVICE, "b"]).await?;
        ensure!(shown.contains("from kitchen-sink/a #1, which waits for a reply"), "{shown}");
        let shown = good(&node, &["history", SERVICE, "a"]).await?;
        ensure!(shown.contains("count of #1: reply of kitchen-sink/b"), "{shown}");
        ensure!(shown.contains("refused of #3: refused by kitchen-sink/b, sold-out"), "{shown}");
        for session in ["a", "b"] {
            let file = node.scratch().join(format!("{session}.jsonl"));
            let (file, copy) = (file.to_string_lossy(), format!("copy-{session}"));
            good(&node, &["session", "export", SERVICE, session, &file]).await?;
            good(&node, &["session", "import", SERVICE, &copy, &file]).await?;
            let (mut seen, mut origins) = (Vec::new(), Vec::new());
            for session in [session, &copy] {
                let history = listed(&node, &["history", SERVICE, session]).await?;
                let entries = history["entries"].as_array().context("no entries")?;
                let mine = entries.iter().filter(|entry| entry["origin"] != "operator");
                for entry in mine.filter(|entry| entry["origin"].is_string()) {
                    origins.push(entry["origin"].clone());
                    seen.push((entry["delivery"].clone(), entry["answer"].clone()));
                }
            }
            let half = seen.len() / 2;
            ensure!(half > 0 && seen[..half] == seen[half..], "{seen:?}");
            let expected = if session == "a" { "answer" } else { "session" };
            ensure!(origins.iter().all(|origin| origin == expected), "{origins:?}");
        }
        Ok(())
    });
}

/// A message that can't be found must not end in another's being dropped.
#[test]
fn ids_of_messages_are_checked() {
    scenario(async {
        let node = node().await?;
        node.api().send(SERVICE, "a", Message::json(&json!({"op": "context"}))).await?;
        let admin = node.admin();
        let client = &admin.client;
        let dead = format!("/admin/v1/services/{SERVICE}/sessions/a/dead");
        for (id, status, code) in [
            ("7-1-3", 404, "timer-not-found"),
            ("7-1", 400, "request-invalid"),
            ("x", 400, "request-invalid"),
        ] {
            let retry =
                client.request(Method::POST, &format!("{dead}/{id}/retry"), &[], "").await?;
            expect_problem(&retry, status, code)?;
            let drop = client.request(Method::DELETE, &format!("{dead}/{id}"), &[], "").await?;
            expect_problem(&drop, status, code)?;
        }
        // Those of timers are where they were.
        let timers = client.request(Method::DELETE, &format!("{dead}/tick/5"), &[], "").await?;
        expect_problem(&timers, 404, "timer-not-found")?;
        let retry = client.request(Method::POST, &format!("{dead}/tick/5/retry"), &[], "").await?;
        expect_problem(&retry, 404, "timer-not-found")?;
        Ok(())
    });
}
