//! How fast a history is run again: messages a second of one thread, by an audit of what was sent before.

use crate::{Args, CONNECTIONS, SERVICE, SESSIONS, report::row, run_load, start_with};
use anyhow::{Context, ensure};
use serde::Serialize;
use serde_json::{Value, json};
use slotd_tests::{
    api::{Api, Message},
    conversations::{self, Conversation},
    node::Node,
};
use std::path::Path;
use tokio::task::JoinSet;

/// Messages of chat that are run; a quick one has a tenth.
const CHAT_MESSAGES: usize = 100_000;

#[derive(Serialize)]
pub struct Replays {
    counter: Replay,
    chat: Replay,
}

#[derive(Serialize)]
struct Replay {
    sessions: u64,
    messages: u64,
    messages_per_second: f64,
}

pub async fn replays(args: &Args, dir: &Path) -> anyhow::Result<Replays> {
    println!("\nReplay: an audit with one thread, on a node that does nothing else\n");
    let counter = {
        let node = start_with(dir.join("replay-counter"), "counter").await?;
        run_load(node.api().client.address(), CONNECTIONS, SESSIONS, 1, args.measure).await?;
        audit(&node).await?
    };
    counter.show("counter", "200,000/s or more");
    let chat = {
        let node = start_with(dir.join("replay-chat"), "chat-v2").await?;
        let wanted = if args.quick { CHAT_MESSAGES / 10 } else { CHAT_MESSAGES };
        talk(&node, wanted).await?;
        audit(&node).await?
    };
    chat.show("chat, conversations", "50,000/s or more");
    Ok(Replays { counter, chat })
}

/// Sends the sample's conversations, each as many sessions as it takes.
async fn talk(node: &Node, wanted: usize) -> anyhow::Result<()> {
    let sample = conversations::load(&conversations::sample())?;
    let lines: usize = sample.iter().map(|conversation| conversation.lines.len()).sum();
    let mut talking = JoinSet::new();
    for copy in 0..wanted.div_ceil(lines.max(1)) {
        for conversation in &sample {
            talking.spawn(say_all(node.api(), copy, conversation.clone()));
            if talking.len() >= CONNECTIONS
                && let Some(done) = talking.join_next().await
            {
                done??;
            }
        }
    }
    while let Some(done) = talking.join_next().await {
        done??;
    }
    Ok(())
}

async fn say_all(api: Api, copy: usize, conversation: Conversation) -> anyhow::Result<()> {
    let session = format!("{}-{copy}", conversation.session);
    for line in &conversation.lines {
        let from = line.from.as_deref().unwrap_or("system");
        let body = json!({"kind": "say", "from": from, "text": line.text});
        api.send(SERVICE, &session, Message::json(&body)).await?;
    }
    Ok(())
}

async fn audit(node: &Node) -> anyhow::Result<Replay> {
    let done = node.run(&["--json", "audit", SERVICE, "--threads", "1"]).await?;
    let report: Value = serde_json::from_str(&done.stdout).with_context(|| format!("{done:?}"))?;
    ensure!(report["verdict"] == "same", "{report:#}");
    let number = |name: &str| report[name].as_u64().with_context(|| format!("no {name}"));
    Ok(Replay {
        sessions: number("sessions")?,
        messages: number("messages")?,
        messages_per_second: number("messages_per_second")? as f64,
    })
}

impl Replay {
    fn show(&self, what: &str, reach: &str) {
        let Self { sessions, messages, messages_per_second } = self;
        let shown = format!("{messages_per_second:.0}/s ({messages} of {sessions} sessions)");
        row(what, shown, reach);
    }
}
