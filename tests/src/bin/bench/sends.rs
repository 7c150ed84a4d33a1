//! Messages between sessions of a node, beside messages of clients in the same round.

use crate::{
    Args, CONNECTIONS, SERVICE, SESSIONS,
    report::{Spread, row},
    run_load,
};
use anyhow::Context;
use serde::Serialize;
use serde_json::json;
use slotd_tests::{
    api::{Api, Message, metric},
    load::session,
    node::{Node, NodeOptions, cpu_time, eventually},
    plugins,
};
use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Messages that one message of a client has its session send, each to a session of another slot.
const AT_ONCE: u64 = 100;
/// Clients that have sessions send.
const SENDERS: u64 = 16;

#[derive(Serialize)]
pub struct Sends {
    rounds: Vec<Round>,
    ratio: Spread,
}

#[derive(Serialize)]
struct Round {
    /// Messages of clients a second, over HTTP.
    clients: f64,
    /// Messages between sessions a second, from the first that is asked for to the last that is handled.
    sends: f64,
    /// Processor time of the node for one, its share of the client's message included.
    cpu_us: f64,
    refused: u64,
}

pub async fn sends(args: &Args, dir: &Path) -> anyhow::Result<Sends> {
    println!(
        "\nMessages between sessions of kitchen-sink, {AT_ONCE} from one message of a client\n"
    );
    let options = NodeOptions {
        data_dir: Some(dir.join("sends")),
        env: vec![("SLOTD_EFFECTS_SEND".into(), "*>*".into())],
        ..NodeOptions::default()
    };
    let node = Node::start_with(options).await?;
    node.admin().deploy(SERVICE, plugins::load("kitchen-sink")?).await?;
    let mut rounds = Vec::new();
    for round in 0..args.rounds {
        let clients = clients(args, &node, round).await?;
        let round = send(args, &node, clients).await?;
        row("  clients' messages", format!("{:.0}/s", round.clients), "");
        row("  messages between sessions", format!("{:.0}/s", round.sends), "");
        row("    node's processor time of one", format!("{:.1} µs", round.cpu_us), "");
        row("    refused", round.refused.to_string(), "0");
        rounds.push(round);
    }
    let ratio = Spread::of(rounds.iter().map(|it| it.sends / it.clients).collect());
    row("  ratio", ratio.show(), "at least 0.5");
    Ok(Sends { rounds, ratio })
}

async fn clients(args: &Args, node: &Node, round: usize) -> anyhow::Result<f64> {
    let address = node.api().client.address();
    let load = run_load(address, CONNECTIONS, SESSIONS, round as u64, args.measure).await?;
    Ok(load.requests_per_second)
}

struct Counts {
    received: f64,
    refused: f64,
    waiting: f64,
    cpu: Duration,
}

async fn counts(node: &Node) -> anyhow::Result<Counts> {
    let text = node.admin().client.get("/metrics").await?.success()?.text();
    Ok(Counts {
        received: metric(&text, "slotd_sends_received_total", ""),
        refused: metric(&text, "slotd_sends_total", "refused"),
        waiting: metric(&text, "slotd_outbox_messages", ""),
        cpu: cpu_time(node.pid().context("the node does not run")?, false)?,
    })
}

async fn send(args: &Args, node: &Node, clients: f64) -> anyhow::Result<Round> {
    let before = counts(node).await?;
    let (begun, asked) = (Instant::now(), AtomicU64::new(0));
    let until = begun + Duration::from_secs_f64(args.measure);
    let sender = async |number: u64| {
        let mut at = number;
        while Instant::now() < until {
            at += SENDERS;
            // What is behind waits for room.
            if ask(&node.api(), at % SESSIONS, (at * 7) % SESSIONS).await? {
                asked.fetch_add(AT_ONCE, Relaxed);
            }
        }
        anyhow::Ok(())
    };
    futures_util::future::try_join_all((0..SENDERS).map(sender)).await?;
    let asked = asked.into_inner() as f64;
    let after = eventually("all that was sent is handled", async || {
        let now = counts(node).await?;
        let done = now.received - before.received >= asked && now.waiting == 0.0;
        Ok(done.then_some(now))
    })
    .await?;
    let took = begun.elapsed().as_secs_f64();
    Ok(Round {
        clients,
        sends: asked / took,
        cpu_us: (after.cpu.saturating_sub(before.cpu)).as_secs_f64() * 1e6 / asked,
        refused: (after.refused - before.refused) as u64,
    })
}

/// Has a session send; `false`: too much is on its way.
async fn ask(api: &Api, from: u64, to: u64) -> anyhow::Result<bool> {
    let to = format!("{SERVICE}/{}", session(to));
    let message = json!({"op": "send", "to": to, "hex": "00", "times": AT_ONCE});
    let answer = api.post(SERVICE, &session(from), Message::json(&message)).await?;
    match answer.status {
        503 => {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(false)
        }
        _ => answer.success().map(|_| true),
    }
}
