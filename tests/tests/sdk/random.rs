//! Time and randomness are the message's.

use crate::suite::{self, SINK, Suite, options};
use anyhow::{Context, ensure};
use serde_json::{Value, json};
use slotd_tests::{
    api::{Api, Message},
    node::Node,
    plugins,
};
use std::collections::BTreeSet;

/// Without it, a handler could read the machine's clock, and compute something else when it is run
/// again.
pub async fn clock(suite: &Suite) -> anyhow::Result<()> {
    let api = suite.node.api();
    for _ in 0..2 {
        let reply = api.send(SINK, "clock", Message::json(&json!({"op": "clock"}))).await?;
        let answer = reply.json()?;
        let entry = api.history(SINK, "clock", reply.seq - 1, 1).await?.entries;
        let time_ms = entry.first().context("no entry")?.time_ms;
        ensure!(answer == json!({"time_ms": time_ms, "native_ms": time_ms}), "{answer}, {time_ms}");
        let asked = api.query(SINK, "clock", &json!({"op": "clock"})).await?;
        ensure!(asked["time_ms"] == asked["native_ms"], "in a query: {asked}");
        ensure!(asked["time_ms"].as_u64() >= Some(time_ms), "in a query: {asked}");
    }
    Ok(())
}

/// What a session's messages get. Others come between them.
async fn stream(api: &Api, session: &str, others: &[&str]) -> anyhow::Result<Vec<Value>> {
    let random = || Message::json(&json!({"op": "random"}));
    let mut all = Vec::new();
    for number in 0..4 {
        for other in others.iter().take(number) {
            api.send(SINK, other, random()).await?;
        }
        let reply = api.send(SINK, session, random()).await?;
        let answer = reply.json()?;
        let whole = answer["hex"].as_str().is_some_and(|hex| hex.len() == 32)
            && answer["native"].as_str().is_some_and(|native| !native.is_empty());
        ensure!(whole, "message {}: {answer}", reply.seq);
        all.push(answer);
    }
    Ok(all)
}

/// The bytes of the host are made of service, session, sequence number and kind of call. So the
/// same messages on another node, at another time, on an instance with another past, get the same;
/// and no other message does.
///
/// Without it, a language's own generator, seeded when its component was built or by whichever
/// message an instance saw first, would give all sessions the same numbers, or one session's to
/// another.
pub async fn random(suite: &Suite) -> anyhow::Result<()> {
    let api = suite.node.api();
    let first = stream(&api, "random", &["b", "c", "ä"]).await?;
    let twin = Node::start_with(options(suite::ISOLATIONS[0])).await?;
    twin.admin().deploy(SINK, plugins::load(&suite.lang.of(SINK))?).await?;
    let again = stream(&twin.api(), "random", &[]).await?;
    ensure!(first == again, "two runs: {first:?}, {again:?}");
    let other = stream(&twin.api(), "other", &["random"]).await?;
    let asked = twin.api().query(SINK, "random", &json!({"op": "random"})).await?;
    for field in ["hex", "native"] {
        let all: Vec<_> = first.iter().chain(&other).chain([&asked]).collect();
        let different: BTreeSet<_> = all.iter().map(|answer| answer[field].to_string()).collect();
        ensure!(different.len() == all.len(), "messages got the same {field}: {all:?}");
    }
    Ok(())
}
