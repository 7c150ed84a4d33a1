//! Sessions as they were, and sessions that are made of others: over HTTP and the command line, and over kills.

use crate::common::node_with;
use anyhow::{Context, ensure};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use slotd_tests::{
    api::{Api, Message, Reply, session_path},
    http::Answer,
    node::scenario,
};
use std::time::{Duration, Instant};

const SERVICE: &str = "kitchen-sink";

async fn fork(api: &Api, session: &str, body: &Value) -> anyhow::Result<Answer> {
    let path = session_path(SERVICE, session) + "/fork";
    let content_type = [("content-type", "application/json")];
    api.client.request(hyper::Method::POST, &path, &content_type, body.to_string()).await
}

async fn send(api: &Api, session: &str, op: &Value) -> anyhow::Result<Reply> {
    api.send(SERVICE, session, Message::json(op)).await
}

/// The same messages on the same deployment give the same replies, random bytes and all: else two branches could not be
/// compared. And what reads gave then, they give again.
#[test]
fn a_fork_answers_as_its_session_did_over_kills() {
    scenario(async {
        let mut node = node_with(SERVICE, "kitchen-sink").await?;
        let ops = [
            json!({"op": "random"}),
            json!({"op": "set", "key": "k", "value": {"a": [1, 2]}}),
            json!({"op": "random"}),
            json!({"op": "emit", "kind": "e", "value": 1, "times": 3}),
            json!({"op": "scan-all", "prefix": ""}),
        ];
        let api = node.api();
        let before = json!({"op": "set", "key": "before", "value": 7});
        send(&api, "first", &json!({"op": "random"})).await?;
        send(&api, "first", &before).await?;
        let mut replies = Vec::new();
        for op in &ops {
            replies.push(send(&api, "first", op).await?.body);
        }
        let made = fork(&api, "first", &json!({"to": "branch", "at": 2})).await?;
        ensure!(made.status == 200, "{made:?}");
        let made: Value = serde_json::from_slice(&made.body)?;
        ensure!(
            made["seq"] == 2 && made["forked"] == json!({"session": "first", "at": 2}),
            "{made:#}"
        );
        node.kill()?;
        node.restart().await?;
        let api = node.api();
        // Whoever had no answer.
        let again = fork(&api, "first", &json!({"to": "branch", "at": 2})).await?;
        ensure!(serde_json::from_slice::<Value>(&again.body)? == made, "{again:?}");
        for (op, reply) in ops.iter().zip(&replies) {
            let came = send(&api, "branch", op).await?.body;
            ensure!(came == *reply, "{op}: {came:?} instead of {reply:?}");
        }
        let other = fork(&api, "first", &json!({"to": "branch", "at": 3})).await?;
        ensure!(other.status == 409, "{other:?}");
        let done = node.run(&["session", "fork", SERVICE, "branch", "twig", "--at", "6"]).await?;
        ensure!(done.status.success(), "{done:?}");
        let (first, branch) = (
            api.whole_history(SERVICE, "first").await?,
            api.whole_history(SERVICE, "branch").await?,
        );
        ensure!(branch[..2] == first[..2] && branch.len() == first.len(), "{branch:?}");
        node.kill()?;
        node.restart().await?;
        let shown = node.run(&["--json", "session", "show", SERVICE, "twig", "--at", "2"]).await?;
        let shown: Value =
            serde_json::from_str(&shown.stdout).with_context(|| format!("{shown:?}"))?;
        ensure!(shown["seq"] == 2 && shown["state_keys"] == 1, "{shown:#}");
        let late = node.run(&["session", "show", SERVICE, "twig", "--at", "7"]).await?;
        ensure!(!late.status.success() && late.stderr.contains("has none of number 7"), "{late:?}");
        let audited = node.run(&["--json", "audit", SERVICE]).await?;
        let report: Value = serde_json::from_str(&audited.stdout)?;
        ensure!(report["verdict"] == "same" && report["same"] == 3, "{report:#}");
        Ok(())
    });
}

/// Ten thousand messages are not copied for a branch.
#[test]
fn a_fork_of_a_long_session_is_quick() {
    scenario(async {
        let node = node_with("counter", "counter").await?;
        let api = node.api();
        let sends = (0..10_000).map(|_| api.send("counter", "long", Message::bytes("x")));
        let mut sends = futures_util::stream::iter(sends).buffer_unordered(64);
        while let Some(sent) = sends.next().await {
            sent?;
        }
        let path = session_path("counter", "long");
        let mut forks = Vec::new();
        for n in 0..20 {
            let begun = Instant::now();
            let body = json!({"to": format!("fork-{n}")}).to_string();
            let json = [("content-type", "application/json")];
            let url = format!("{path}/fork");
            let made = api.client.request(hyper::Method::POST, &url, &json, body).await?;
            ensure!(made.status == 200, "{made:?}");
            forks.push(begun.elapsed());
        }
        forks.sort();
        let begun = Instant::now();
        let then = api.client.get(&format!("{path}?at=9999")).await?;
        ensure!(then.status == 200, "{then:?}");
        println!("a fork: {:?}; a session as it was: {:?}", forks[10], begun.elapsed());
        // Of a build without optimization, on a busy machine. `cargo xtask bench` measures.
        ensure!(forks[10] < Duration::from_millis(250), "{forks:?}");
        let one = api.send("counter", "fork-0", Message::bytes("x")).await?;
        ensure!(one.seq == 10_001, "{one:?}");
        Ok(())
    });
}
