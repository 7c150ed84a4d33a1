//! Ephemeral events to some readers of one session: how late they are, and how many are lost.

use crate::{
    Args, SERVICE,
    fan_out::{Arrival, listen_all},
    report::{Spread, row},
};
use anyhow::{Context, bail};
use futures_util::FutureExt as _;
use serde::Serialize;
use slotd_tests::{
    api::session_path,
    histogram::Histogram,
    node::{Node, NodeOptions, cpu_time},
    plugins,
    socket::Socket,
};
use std::{
    path::Path,
    time::{Duration, Instant},
};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, timeout},
};

const SESSION: &str = "cursors";
const READERS: usize = 100;
const PER_SECOND: u32 = 1_000;
/// What has not arrived so long after the last was sent is lost.
const ARRIVED_WITHIN: Duration = Duration::from_secs(2);

#[derive(Serialize)]
pub struct Ephemeral {
    readers: usize,
    per_second: u32,
    from_a_client: Vec<Round>,
    from_a_handler: Vec<Round>,
}

#[derive(Serialize)]
struct Round {
    events: usize,
    /// From sending the event, or the message whose handler sends it, to its arrival at a socket.
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    lost: usize,
    cpu_share_of_a_core: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Client,
    Handler,
}

pub async fn ephemeral(args: &Args, dir: &Path) -> anyhow::Result<Ephemeral> {
    println!(
        "\n{PER_SECOND} ephemeral events a second to {READERS} WebSockets of one session; they are read \
         by this process, on the same cores\n"
    );
    let options = NodeOptions {
        data_dir: Some(dir.join("ephemeral")),
        args: vec!["--api-notify".to_owned(), SERVICE.to_owned()],
        ..NodeOptions::default()
    };
    let node = Node::start_with(options).await?;
    node.admin().deploy(SERVICE, plugins::load("kitchen-sink")?).await?;
    let begun = Instant::now();
    let (mut listeners, mut arrivals) =
        listen_all(&node, SESSION, READERS, "notify", begun).await?;
    println!(
        "{:>5} {:<12} | {:>6} {:>10} {:>10} {:>10} {:>8} | node's processor time",
        "round", "sent by", "events", "p50", "p99", "max", "lost"
    );
    let (mut from_a_client, mut from_a_handler) = (Vec::new(), Vec::new());
    // The first finds nothing warm, and is not counted.
    for round in 0..=args.rounds {
        let seconds = if round == 0 { 1.0 } else { args.measure };
        for source in [Source::Client, Source::Handler] {
            let measuring = measure(&node, source, seconds, begun, &mut arrivals);
            let measured = tokio::select! {
                measured = measuring => measured?,
                Some(ended) = listeners.join_next() => bail!("a reader has ended: {:?}", ended?),
            };
            if round == 0 {
                continue;
            }
            let Round { events, p50_ms, p99_ms, max_ms, lost, cpu_share_of_a_core } = measured;
            println!(
                "{round:>5} {:<12} | {events:>6} {p50_ms:>7.1} ms {p99_ms:>7.1} ms {max_ms:>7.1} ms {lost:>8} | \
                 {:.0} % of a core",
                format!("{source:?}").to_lowercase(),
                cpu_share_of_a_core * 100.0,
            );
            match source {
                Source::Client => from_a_client.push(measured),
                Source::Handler => from_a_handler.push(measured),
            }
        }
    }
    println!();
    for (name, rounds) in [("a client's", &from_a_client), ("a handler's", &from_a_handler)] {
        let spread = |of: fn(&Round) -> f64| Spread::of(rounds.iter().map(of).collect());
        row(&format!("{name}, p50"), spread(|r| r.p50_ms).show_as("ms"), "");
        row("  p99", spread(|r| r.p99_ms).show_as("ms"), "at most 10 ms");
        row("  lost", spread(|r| r.lost as f64).show_as("deliveries"), "");
    }
    Ok(Ephemeral { readers: READERS, per_second: PER_SECOND, from_a_client, from_a_handler })
}

async fn measure(
    node: &Node,
    source: Source,
    seconds: f64,
    begun: Instant,
    arrivals: &mut mpsc::UnboundedReceiver<Arrival>,
) -> anyhow::Result<Round> {
    let pid = node.pid().context("the node does not run")?;
    let (cpu, started) = (cpu_time(pid, false)?, Instant::now());
    let events = (seconds * f64::from(PER_SECOND)).ceil() as usize;
    let path = session_path(SERVICE, SESSION) + "/socket?subscribe=false";
    let mut socket = Socket::open(&node.api().client, &path).await?;
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / PER_SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut sent = Vec::with_capacity(events);
    for event in 0..events {
        ticks.tick().await;
        sent.push(begun.elapsed());
        let frame = match source {
            Source::Client => {
                serde_json::json!({"type": "notify", "kind": "at", "body": event})
            }
            Source::Handler => serde_json::json!({
                "type": "send", "id": format!("{}-{event}", started.elapsed().as_nanos()),
                "body": {"op": "notify", "kind": "at", "value": event, "times": 1},
            }),
        };
        socket.send(&frame).await?;
        // Acknowledgements, or what is wrong.
        while let Some(frame) = socket.frame().now_or_never() {
            let frame = frame?;
            anyhow::ensure!(frame["type"] == "ack", "{frame}");
        }
    }
    let (mut latencies, mut missing) = (Histogram::default(), events * READERS);
    while missing > 0 {
        let Ok(arrival) = timeout(ARRIVED_WITHIN, arrivals.recv()).await else { break };
        let Arrival { event, at } = arrival.context("no reader is left")?;
        latencies.record(at.saturating_sub(*sent.get(event).context("an event of another round")?));
        missing -= 1;
    }
    let (cpu, elapsed) = (cpu_time(pid, false)?.saturating_sub(cpu), started.elapsed());
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    Ok(Round {
        events,
        p50_ms: ms(latencies.quantile(0.5)),
        p99_ms: ms(latencies.quantile(0.99)),
        max_ms: ms(latencies.max()),
        lost: missing,
        cpu_share_of_a_core: cpu.as_secs_f64() / elapsed.as_secs_f64(),
    })
}
