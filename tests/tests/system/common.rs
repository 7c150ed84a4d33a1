//! What several scenarios use.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use slotd_tests::{
    api::{Event, Message},
    http::{Answer, Problem},
    node::{Node, NodeOptions},
    plugins,
    sse::{Sse, SseEvent},
};
use std::time::Duration;

/// For something that must come: long enough for a busy machine, short enough to see a hang.
pub const SOON: Duration = Duration::from_secs(60);

/// A node with one service on it.
pub async fn node_with(service: &str, plugin: &str) -> anyhow::Result<Node> {
    let node = Node::start().await?;
    node.admin().deploy(service, plugins::load(plugin)?).await?;
    Ok(node)
}

/// A node with one service on it, for test suites: a slot of it that is drained starts again there.
pub async fn resettable_node_with(service: &str, plugin: &str) -> anyhow::Result<Node> {
    let args = vec!["--resettable".into()];
    let node = Node::start_with(NodeOptions { args, ..NodeOptions::default() }).await?;
    node.admin().deploy(service, plugins::load(plugin)?).await?;
    Ok(node)
}

/// What a command of `slotd` prints, which must succeed.
pub async fn good(node: &Node, args: &[&str]) -> anyhow::Result<String> {
    let done = node.run(args).await?;
    ensure!(done.status.success(), "slotd {}: {done:?}", args.join(" "));
    Ok(done.stdout)
}

/// What one prints with `--json`.
pub async fn listed(node: &Node, args: &[&str]) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&good(node, &[&["--json"], args].concat()).await?)?)
}

/// A line of chat.
pub fn say(from: &str, text: &str) -> Message {
    Message::json(&json!({"kind": "say", "from": from, "text": text}))
}

/// A deed of the plugin `hostile`.
pub fn deed(value: &Value) -> Message {
    Message::json(value)
}

/// The answer must be this problem.
pub fn expect_problem(answer: &Answer, status: u16, code: &str) -> anyhow::Result<Problem> {
    let problem = answer.problem().with_context(|| format!("expected {status} {code}"))?;
    ensure!(
        problem.status == status && problem.code == code,
        "expected {status} {code}, got {} {}: {}",
        problem.status,
        problem.code,
        problem.detail
    );
    ensure!(!problem.detail.is_empty(), "{code} without a sentence for a person");
    Ok(problem)
}

/// The next event, which must come, and soon.
pub async fn next_event(stream: &mut Sse) -> anyhow::Result<SseEvent> {
    let next = tokio::time::timeout(SOON, stream.next()).await.context("no event in time")??;
    next.context("the stream ended")
}

/// The next `count` events as `seq.index`: what their ids begin with.
pub async fn ids(stream: &mut Sse, count: usize) -> anyhow::Result<Vec<String>> {
    let mut ids = Vec::with_capacity(count);
    for _ in 0..count {
        let event = next_event(stream).await?;
        let body: Event = event.json()?;
        let place = event.place().context("an event without an id")?;
        ensure!(place == format!("{}.{}", body.seq, body.index), "{event:?}");
        ids.push(place.to_owned());
    }
    Ok(ids)
}
