//! One session's events to many WebSockets.

use crate::{
    Args, SERVICE,
    report::{Spread, row},
    start_with,
};
use anyhow::{Context, bail, ensure};
use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize};
use slotd_tests::{
    api::{Api, Message, session_path},
    histogram::Histogram,
    node::{Node, cpu_time},
    raw_socket::{PING, PONG, RawSocket, TEXT, frame},
};
use std::{
    path::Path,
    time::{Duration, Instant},
};
use tokio::{sync::mpsc, task::JoinSet};

const SESSION: &str = "all";
const EVERY: Duration = Duration::from_millis(500);
/// From a round's last message until everyone must have it.
const ARRIVED_WITHIN: Duration = Duration::from_secs(30);
/// File descriptors of this process for anything but subscribers; the node keeps as many.
const FILES_BESIDE: u64 = 512;

#[derive(Serialize)]
pub struct FanOut {
    subscribers: usize,
    rounds: Vec<Round>,
}

#[derive(Serialize)]
struct Round {
    events: usize,
    /// From sending the message to the event's arrival at a socket.
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    /// From sending the message until the last socket has the event: the median of the events.
    last_ms: f64,
    /// Processor time of the node.
    cpu_ms_per_event: f64,
    cpu_share_of_a_core: f64,
}

/// An event at a socket: which, and when, since the beginning.
pub(super) struct Arrival {
    pub(super) event: usize,
    pub(super) at: Duration,
}

pub async fn fan_out(args: &Args, dir: &Path) -> anyhow::Result<FanOut> {
    let subscribers = args.subscribers;
    ensure!(subscribers > 0, "there must be subscribers");
    let files = getrlimit(Resource::Nofile).current;
    ensure!(
        files.is_none_or(|files| files >= subscribers as u64 + FILES_BESIDE),
        "{subscribers} subscribers need more file descriptors than the {files:?} of `ulimit -Hn`: \
         see --subscribers"
    );
    println!(
        "\nAn event every {} ms to {subscribers} WebSockets of one session; they are read by this \
         process, on the same cores\n",
        EVERY.as_millis()
    );
    let node = start_with(dir.join("fan-out"), "kitchen-sink").await?;
    let begun = Instant::now();
    let (mut listeners, mut arrivals) =
        listen_all(&node, SESSION, subscribers, "event", begun).await?;
    println!(
        "{:>5} | {:>6} {:>10} {:>10} {:>10} {:>10} | node's processor time",
        "round", "events", "p50", "p99", "max", "all have it"
    );
    let mut rounds = Vec::new();
    // The first finds nothing warm, and is not counted.
    for round in 0..=args.rounds {
        let seconds = if round == 0 { 1.0 } else { args.measure };
        let events = (seconds / EVERY.as_secs_f64()).ceil() as usize;
        let measured = tokio::select! {
            measured = measure(&node, events, subscribers, begun, &mut arrivals) => measured?,
            Some(ended) = listeners.join_next() => bail!("a subscriber has ended: {:?}", ended?),
        };
        if round == 0 {
            continue;
        }
        let Round { p50_ms, p99_ms, max_ms, last_ms, .. } = measured;
        println!(
            "{round:>5} | {events:>6} {p50_ms:>7.1} ms {p99_ms:>7.1} ms {max_ms:>7.1} ms {last_ms:>8.1} ms | \
             {:.0} ms an event, {:.0} % of a core",
            measured.cpu_ms_per_event,
            measured.cpu_share_of_a_core * 100.0,
        );
        rounds.push(measured);
    }
    println!();
    let spread = |of: fn(&Round) -> f64| Spread::of(rounds.iter().map(of).collect());
    row("send to arrival, p50", spread(|r| r.p50_ms).show_as("ms"), "");
    row("  p99", spread(|r| r.p99_ms).show_as("ms"), "");
    row("  until all have it", spread(|r| r.last_ms).show_as("ms"), "");
    row("node's processor time, an event", spread(|r| r.cpu_ms_per_event).show_as("ms"), "");
    let each = spread(|r| r.cpu_ms_per_event).scaled(1e3 / subscribers as f64);
    row("  a delivery", each.show_as("µs"), "");
    Ok(FanOut { subscribers, rounds })
}

/// So many events, and their arrival everywhere.
async fn measure(
    node: &Node,
    events: usize,
    subscribers: usize,
    begun: Instant,
    arrivals: &mut mpsc::UnboundedReceiver<Arrival>,
) -> anyhow::Result<Round> {
    let pid = node.pid().context("the node does not run")?;
    let (cpu, started) = (cpu_time(pid, false)?, Instant::now());
    let mut ticks = tokio::time::interval(EVERY);
    let mut sent = Vec::with_capacity(events);
    for event in 0..events {
        ticks.tick().await;
        sent.push(begun.elapsed());
        emit(&node.api(), event).await?;
    }
    // The last event's time is the round's, too.
    ticks.tick().await;
    let (mut latencies, mut last) = (Histogram::default(), vec![Duration::ZERO; events]);
    let collect = async {
        for _ in 0..events * subscribers {
            let Arrival { event, at } = arrivals.recv().await.context("no subscriber is left")?;
            let after = at.saturating_sub(*sent.get(event).context("an event that is not sent")?);
            latencies.record(after);
            last[event] = last[event].max(after);
        }
        anyhow::Ok(())
    };
    let collected = tokio::time::timeout(ARRIVED_WITHIN, collect).await;
    ensure!(collected.is_ok(), "{} of {} events arrived", latencies.count(), events * subscribers);
    collected??;
    let (cpu, elapsed) = (cpu_time(pid, false)?.saturating_sub(cpu), started.elapsed());
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    Ok(Round {
        events,
        p50_ms: ms(latencies.quantile(0.5)),
        p99_ms: ms(latencies.quantile(0.99)),
        max_ms: ms(latencies.max()),
        last_ms: Spread::of(last.into_iter().map(ms).collect()).median,
        cpu_ms_per_event: ms(cpu) / events as f64,
        cpu_share_of_a_core: cpu.as_secs_f64() / elapsed.as_secs_f64(),
    })
}

/// Has the session emit an event that carries its number.
async fn emit(api: &Api, event: usize) -> anyhow::Result<()> {
    let emit = serde_json::json!({"op": "emit", "kind": "tick", "value": event, "times": 1});
    api.send(SERVICE, SESSION, Message::json(&emit)).await?;
    Ok(())
}

#[derive(Deserialize)]
struct Event<'a> {
    r#type: &'a str,
    body: usize,
}

/// Opens sockets of a session, each read by a task of its own, which ends only when something is wrong; and gives
/// what comes to all of them.
pub(super) async fn listen_all(
    node: &Node,
    session: &str,
    sockets: usize,
    kind: &'static str,
    begun: Instant,
) -> anyhow::Result<(JoinSet<anyhow::Result<()>>, mpsc::UnboundedReceiver<Arrival>)> {
    let (arrived, arrivals) = mpsc::unbounded_channel();
    let mut listeners = JoinSet::new();
    let path = session_path(SERVICE, session) + "/socket";
    for number in 0..sockets {
        let socket = RawSocket::open(&node.api().client, &path).await;
        let socket = socket.with_context(|| format!("reader {number}"))?;
        listeners.spawn(listen(socket, kind, begun, arrived.clone()));
    }
    Ok((listeners, arrivals))
}

/// Reads one socket, to which such events come; ends only when something is wrong.
async fn listen(
    mut socket: RawSocket,
    kind: &'static str,
    begun: Instant,
    arrived: mpsc::UnboundedSender<Arrival>,
) -> anyhow::Result<()> {
    loop {
        match socket.next().await?.context("the node closed the connection")? {
            (TEXT, payload) => {
                let at = begun.elapsed();
                let text = || String::from_utf8_lossy(&payload).into_owned();
                let event: Event = serde_json::from_slice(&payload).with_context(text)?;
                ensure!(event.r#type == kind, "{}", text());
                // Who does not look any more needs none.
                let _ = arrived.send(Arrival { event: event.body, at });
            }
            (PING, payload) => socket.send(&frame(PONG, &payload)).await?,
            (first, payload) => {
                bail!("a frame {first:#x}: {}", String::from_utf8_lossy(&payload))
            }
        }
    }
}
