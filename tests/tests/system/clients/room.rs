//! A chat room on a node behind a network, and clients that write to it and follow it.

use crate::common::SOON;
use anyhow::{Context, ensure};
use serde_json::{Value, json};
use slotd_tests::{
    clients::{Driver, Lang, proxy::Proxy},
    node::{Node, NodeOptions, eventually, scenario_within},
    plugins,
};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::watch;

pub const CHAT: &str = "chat";
pub const ROOM: &str = "room/17 ü";
/// Both ways in which events come.
pub const TRANSPORTS: [&str; 2] = ["websocket", "sse"];
/// Between two messages of one client: a scenario has some hundred of them.
const EVERY: Duration = Duration::from_millis(15);

pub struct Stage {
    pub node: Node,
    pub proxy: Proxy,
    pub driver: Arc<Driver>,
    _upstream: tokio::task::JoinHandle<()>,
}

/// Runs a scenario on a node with a chat room, where the language can be tested.
pub fn stage(lang: Lang, work: impl AsyncFnOnce(&mut Stage) -> anyhow::Result<()>) {
    scenario_within(2 * SOON, async {
        let test = format!("the client library for {lang:?}");
        let Some(driver) = Driver::start_or_skip(lang, &test)? else { return Ok(()) };
        let args = vec!["--api-notify".into(), CHAT.into()];
        let node = Node::start_with(NodeOptions { args, ..NodeOptions::default() }).await?;
        node.admin().deploy(CHAT, plugins::load("chat-v1")?).await?;
        let mut addresses = node.addresses();
        let (here, upstream) = watch::channel(None::<SocketAddr>);
        let _upstream = tokio::spawn(async move {
            loop {
                here.send_replace(addresses.borrow_and_update().map(|addresses| addresses.api));
                if addresses.changed().await.is_err() {
                    return;
                }
            }
        });
        let mut reached = upstream.clone();
        reached.wait_for(Option::is_some).await?;
        let proxy = Proxy::start(upstream).await?;
        let mut stage = Stage { node, proxy, driver: Arc::new(driver), _upstream };
        work(&mut stage).await
    });
}

/// What became of a message: its text, and its reply.
type Sent = Arc<Mutex<Vec<(String, Value)>>>;

/// Clients that write until they are told to stop.
pub struct Writers {
    stop: Arc<AtomicBool>,
    sent: Sent,
    tasks: Vec<tokio::task::JoinHandle<anyhow::Result<()>>>,
}

impl Stage {
    /// A client of each transport, with short pauses, so that a test is short; each follows the room from its beginning.
    pub async fn connect(&self) -> anyhow::Result<()> {
        for transport in TRANSPORTS {
            self.client(transport, json!({ "transport": transport })).await?;
            self.follow(transport, transport, ROOM, json!({ "after": "0" })).await?;
        }
        for transport in TRANSPORTS {
            self.until(transport, "open", |seen| seen["status"] == "open").await?;
        }
        Ok(())
    }

    pub async fn client(&self, name: &str, more: Value) -> anyhow::Result<()> {
        let mut options = json!({
            "client": name, "url": self.proxy.url(), "sender": name,
            "backoff_base_ms": 20, "backoff_max_ms": 300, "attempt_timeout_ms": 2000, "heartbeat_ms": 700,
        });
        merge(&mut options, more);
        self.driver.call("connect", options).await.map(drop)
    }

    /// A session object, without a listener yet.
    pub async fn session(
        &self,
        client: &str,
        name: &str,
        room: &str,
        more: Value,
    ) -> anyhow::Result<()> {
        let mut options =
            json!({ "client": client, "session": name, "service": CHAT, "name": room });
        merge(&mut options, more);
        self.driver.call("session", options).await.map(drop)
    }

    pub async fn follow(
        &self,
        client: &str,
        name: &str,
        room: &str,
        more: Value,
    ) -> anyhow::Result<()> {
        self.session(client, name, room, more).await?;
        self.driver.call("on", json!({ "session": name, "kind": "*" })).await.map(drop)
    }

    pub async fn seen(&self, session: &str) -> anyhow::Result<Value> {
        self.driver.call("events", json!({ "session": session })).await
    }

    pub async fn until(
        &self,
        session: &str,
        what: &str,
        is_so: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        let mut last = Value::Null;
        let seen = eventually(what, async || {
            let seen = self.seen(session).await?;
            let found = is_so(&seen).then(|| seen.clone());
            last = seen;
            Ok(found)
        });
        let seen = seen.await;
        seen.with_context(|| format!("{session}: {}", short(&last)))
    }

    /// Each client writes to the room from now on.
    pub fn write(&self) -> Writers {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Sent::default();
        let tasks = TRANSPORTS.map(|name| {
            let (driver, stop, sent) =
                (Arc::clone(&self.driver), Arc::clone(&stop), Arc::clone(&sent));
            tokio::spawn(async move {
                let mut waiting = Vec::new();
                for number in 0_u32.. {
                    if stop.load(Relaxed) {
                        break;
                    }
                    let text = format!("{name}-{number}");
                    let message = json!({ "session": name, "key": text, "body": say(&text) });
                    waiting.push((text, driver.ask("send", message)));
                    // The pace of the writer; nothing is waited for.
                    tokio::time::sleep(EVERY).await;
                }
                for (text, outcome) in waiting {
                    let outcome = tokio::time::timeout(SOON, outcome).await;
                    let reply = outcome.with_context(|| format!("{text} is not decided"))??;
                    let reply = reply.map_err(|error| anyhow::anyhow!("{text}: {error}"))?;
                    sent.lock().unwrap_or_else(PoisonError::into_inner).push((text, reply));
                }
                Ok(())
            })
        });
        Writers { stop, sent, tasks: tasks.into() }
    }

    /// Ends the writing, and holds what the clients were told against what the node has.
    pub async fn check(&self, writers: Writers) -> anyhow::Result<()> {
        writers.stop.store(true, Relaxed);
        for task in writers.tasks {
            task.await??;
        }
        let sent = writers.sent.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let history = self.node.api().whole_history(CHAT, ROOM).await?;
        ensure!(sent.len() > 20, "only {} messages", sent.len());
        ensure!(history.len() == sent.len(), "{} sent, {} applied", sent.len(), history.len());
        for (text, reply) in &sent {
            let seq = reply["seq"].as_u64().context("no number")?;
            let entry = seq.checked_sub(1).and_then(|at| history.get(at as usize));
            let entry = entry.with_context(|| format!("{text} has no entry {seq}"))?;
            ensure!(entry.id.as_deref() == Some(text), "{text} is not entry {seq}: {entry:?}");
            ensure!(reply["body"] == *entry.reply.as_ref().context("no reply")?, "{reply}");
        }
        for name in TRANSPORTS {
            let texts = history.iter().filter_map(|entry| entry.id.as_deref());
            let own: Vec<_> = texts.filter_map(|key| key.strip_prefix(name)).collect();
            let expected: Vec<_> = (0..own.len()).map(|number| format!("-{number}")).collect();
            ensure!(own == expected, "{name}'s messages are out of order: {own:?}");
            self.sees_all(name).await?;
        }
        Ok(())
    }

    /// A follower has been given every event of the room, once and in order.
    pub async fn sees_all(&self, session: &str) -> anyhow::Result<()> {
        let history = self.node.api().whole_history(CHAT, ROOM).await?;
        let events = history.iter().flat_map(|entry| &entry.events);
        let expected: Vec<_> =
            events.map(|event| (event.seq, event.index, event.body.clone())).collect();
        let enough = |seen: &Value| list(seen).len() >= expected.len();
        let seen = self.until(session, "all events", enough).await?;
        let got: Vec<_> = list(&seen)
            .iter()
            .map(|event| {
                let number = |name: &str| event[name].as_u64().unwrap_or_default();
                (number("seq"), number("index") as u32, Some(event["body"].clone()))
            })
            .collect();
        let first = got.iter().zip(&expected).position(|(got, expected)| got != expected);
        ensure!(
            got == expected,
            "{session} was given {} events, not {}; the first other one is at {first:?}",
            got.len(),
            expected.len()
        );
        Ok(())
    }
}

pub fn say(text: &str) -> Value {
    json!({ "kind": "say", "text": text })
}

/// The events so far.
pub fn list(seen: &Value) -> &[Value] {
    seen["events"].as_array().map_or(&[], Vec::as_slice)
}

/// Without the events, which are many.
fn short(seen: &Value) -> Value {
    let mut short = seen.clone();
    short["events"] = json!(list(seen).len());
    short
}

fn merge(into: &mut Value, more: Value) {
    if let (Some(into), Value::Object(more)) = (into.as_object_mut(), more) {
        into.extend(more);
    }
}
