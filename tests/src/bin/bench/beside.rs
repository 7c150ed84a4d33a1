//! A quiet service beside one that takes all it can get, with shares of a busy node and without.

use crate::{Args, SERVICE, report::row, start_in};
use anyhow::ensure;
use serde::Serialize;
use serde_json::{Value, json};
use slotd_tests::{
    api::{Api, Message, metric},
    histogram::Histogram,
    http::Client,
    load::{self, Plan, Protocol, ended},
    node::Node,
    plugins,
    slots::{apart, slot_of},
};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// The service that takes what it gets, with the plugin `counter`, and with one that does as told.
const FLOOD: &str = "flood";
const HOSTILE: &str = "hostile";
const QUIET_SESSIONS: u64 = 64;
/// Connections of the quiet service; each sends in its turn.
const QUIET_CONNECTIONS: usize = 16;
/// A message each so often.
const QUIET_EVERY: Duration = Duration::from_millis(5);
/// A client that is late by more than this counts from when it was to send: else those messages that would have waited
/// longest were not sent.
const LATE: Duration = Duration::from_millis(2);
/// Until whatever is beside it has begun.
const WARM_UP: Duration = Duration::from_secs(1);

#[derive(Serialize)]
pub struct Beside {
    off: Vec<Row>,
    on: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    beside: Neighbour,
    quiet: Quiet,
    /// Messages of the other service that were handled, a second.
    other_per_second: f64,
}

#[derive(Serialize)]
struct Quiet {
    sent: u64,
    refused: u64,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    /// From when a message came to its slot until its answer left, as slotd says it: without what the clients wait for the
    /// processor that they share with it.
    own_p50_ms: f64,
    own_p99_ms: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
pub enum Neighbour {
    Nobody,
    /// 512 connections that each send again when they have their answer.
    Flood,
    /// 32 WebSockets with 64 messages in flight each.
    Sockets,
    /// 128 connections whose handlers compute for some milliseconds.
    Work,
    /// 128 sessions whose handlers spin until they are stopped.
    Spin,
    /// 64 sessions whose handlers take 48 MiB and spin.
    Memory,
    /// 64 connections that write 200 keys of 1 KiB with each message.
    State,
    /// 64 connections whose messages have a body of 512 KiB.
    Bodies,
}

use Neighbour::{Bodies, Flood, Memory, Nobody, Sockets, Spin, State, Work};

const ALL: [(Neighbour, &str); 8] = [
    (Nobody, "alone"),
    (Flood, "beside a flood"),
    (Sockets, "beside a flood by sockets"),
    (Work, "beside one that computes"),
    (Spin, "beside one that spins"),
    (Memory, "beside one that fills memory"),
    (State, "beside one that fills its state"),
    (Bodies, "beside one with large bodies"),
];

pub async fn beside(args: &Args, dir: &Path) -> anyhow::Result<Beside> {
    println!(
        "\nA quiet service, a message each {QUIET_EVERY:?}, beside one that takes all it can get\n"
    );
    let is_wanted =
        |(it, _): &(Neighbour, _)| args.neighbours.is_empty() || args.neighbours.contains(it);
    let wanted: Vec<_> = ALL.into_iter().filter(is_wanted).collect();
    let (mut off, mut on) = (Vec::new(), Vec::new());
    for (neighbour, _) in &wanted {
        // In turns: what else the machine does changes within minutes.
        off.push(one(args, dir, *neighbour, false).await?);
        on.push(one(args, dir, *neighbour, true).await?);
    }
    for ((off, on), (_, name)) in off.iter().zip(&on).zip(wanted) {
        let value = format!("{:.2} ms, with shares {:.2} ms", off.quiet.p99_ms, on.quiet.p99_ms);
        row(&format!("p99 {name}"), value, "");
        let value = format!("{:.2} ms, with shares {:.2} ms", off.quiet.p50_ms, on.quiet.p50_ms);
        row("  p50", value, "");
        let own = |quiet: &Quiet| format!("{:.2} and {:.2} ms", quiet.own_p50_ms, quiet.own_p99_ms);
        row("  p50 and p99 in slotd", format!("{}, {}", own(&off.quiet), own(&on.quiet)), "");
        if off.quiet.refused + on.quiet.refused > 0 {
            let of = |quiet: &Quiet| format!("{} of {}", quiet.refused, quiet.sent);
            row("  refused", format!("{}, {}", of(&off.quiet), of(&on.quiet)), "");
        }
        if off.beside != Nobody {
            let value = format!("{:.0}/s, {:.0}/s", off.other_per_second, on.other_per_second);
            row("  messages of the other", value, "");
        }
    }
    Ok(Beside { off, on })
}

async fn one(args: &Args, dir: &Path, beside: Neighbour, shares: bool) -> anyhow::Result<Row> {
    // Each on a node of its own: what one has filled is not the next one's.
    let dir = dir.join(format!("beside-{beside:?}-{shares}"));
    let env = vec![("SLOTD_SHARES".to_owned(), shares.to_string())];
    let node = start_in(dir, "counter", env).await?;
    let admin = node.admin();
    admin.deploy(FLOOD, plugins::load("counter")?).await?;
    admin.deploy(HOSTILE, plugins::load("hostile-v1")?).await?;
    measure(args, &node, beside).await
}

async fn measure(args: &Args, node: &Node, beside: Neighbour) -> anyhow::Result<Row> {
    let measure = Duration::from_secs_f64(args.measure);
    let over = Arc::new(AtomicBool::new(false));
    let plan = |connections, in_flight, protocol| Plan {
        connections,
        in_flight,
        protocol,
        // It is slotd that is measured, not what the system makes of two programs that want all of the processor.
        gives_way: true,
        ..Plan::timed(node.api().client.address(), FLOOD, args.measure + 2.0)
    };
    let apart = match beside {
        Flood => Some(plan(512, 1, Protocol::Http).spawn()?),
        Sockets => Some(plan(32, 64, Protocol::Socket).spawn()?),
        _ => None,
    };
    let mut others = Others { tasks: JoinSet::new(), handled: Arc::default(), over: over.clone() };
    let random = |count: u64| (0..count).map(load::session).collect::<Vec<_>>();
    match beside {
        Nobody | Flood | Sockets => {}
        Work => others.start(node, random(128), &json!({"do": "work", "rounds": 2_000_000})),
        // In slots of their own: a slot has one writer.
        Spin => others.start(node, sessions_apart(node, 128).await?, &json!({"do": "spin"})),
        Memory => {
            let deed = json!({"do": "allocate", "mib": 48, "spin": true});
            others.start(node, sessions_apart(node, 64).await?, &deed);
        }
        State => {
            let deed = json!({"do": "grow-state", "keys": 200, "bytes": 1024});
            others.start(node, random(64), &deed);
        }
        Bodies => {
            let deed = json!({"do": "work", "rounds": 1, "with": "x".repeat(1 << 19)});
            others.start(node, random(64), &deed);
        }
    }
    tokio::time::sleep(WARM_UP).await;
    let before = handled(node, beside, &others).await?;
    let own = Own::of(node).await?;
    let quiet = quiet(node, measure).await;
    let own = Own::of(node).await?.since(&own);
    let other_per_second = (handled(node, beside, &others).await? - before) / args.measure;
    over.store(true, Relaxed);
    others.tasks.abort_all();
    if let Some(apart) = apart {
        ended(apart).await?;
    }
    let mut quiet = quiet?;
    (quiet.own_p50_ms, quiet.own_p99_ms) = (own.quantile(0.5), own.quantile(0.99));
    Ok(Row { beside, quiet, other_per_second })
}

/// The quiet service's histogram of slotd: up to so many seconds, so many messages.
struct Own(Vec<(f64, f64)>);

impl Own {
    async fn of(node: &Node) -> anyhow::Result<Self> {
        let text = node.admin().client.get("/metrics").await?.success()?.text();
        let start = format!("slotd_message_seconds_bucket{{service=\"{SERVICE}\",le=\"");
        let bucket = |line: &str| {
            let (bound, count) = line.strip_prefix(&start)?.split_once("\"} ")?;
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
            Some((bound, count.trim().parse().ok()?))
        };
        Ok(Self(text.lines().filter_map(bucket).collect()))
    }

    fn since(mut self, before: &Self) -> Self {
        for (bound, count) in &mut self.0 {
            let known = before.0.iter().find(|(known, _)| known == bound);
            *count -= known.map_or(0.0, |(_, count)| *count);
        }
        self
    }

    /// In milliseconds: between the bounds of its bucket. 0 where nothing is known.
    fn quantile(&self, part: f64) -> f64 {
        let wanted = self.0.last().map_or(0.0, |(_, all)| all * part);
        let mut below = (0.0, 0.0);
        for &(bound, count) in &self.0 {
            if count >= wanted && count > below.1 {
                let of = if bound.is_finite() { bound - below.0 } else { 0.0 };
                return 1e3 * (below.0 + of * (wanted - below.1) / (count - below.1));
            }
            below = (bound, count);
        }
        0.0
    }
}

/// Messages of the other service that were handled so far.
async fn handled(node: &Node, beside: Neighbour, others: &Others) -> anyhow::Result<f64> {
    if !matches!(beside, Flood | Sockets) {
        return Ok(others.handled.load(Relaxed) as f64);
    }
    let text = node.admin().client.get("/metrics").await?.success()?.text();
    Ok(metric(&text, "slotd_messages_total", &format!("service=\"{FLOOD}\"")))
}

/// Clients in this process that send again when they have their answer.
struct Others {
    tasks: JoinSet<()>,
    handled: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Others {
    fn start(&mut self, node: &Node, sessions: Vec<String>, deed: &Value) {
        let (address, message) = (node.api().client.address(), Message::json(deed));
        for session in sessions {
            let (handled, over, message) =
                (self.handled.clone(), self.over.clone(), message.clone());
            self.tasks.spawn(async move {
                let api = Api::new(Client::new(address));
                while !over.load(Relaxed) {
                    let Ok(answer) = api.post(HOSTILE, &session, message.clone()).await else {
                        return;
                    };
                    handled.fetch_add(u64::from(answer.status == 200), Relaxed);
                }
            });
        }
    }
}

/// Sends the quiet service's messages, each at its time.
async fn quiet(node: &Node, measure: Duration) -> anyhow::Result<Quiet> {
    let (address, start) = (node.api().client.address(), Instant::now());
    let count = (measure.as_secs_f64() / QUIET_EVERY.as_secs_f64()) as u32;
    let mut clients = JoinSet::new();
    for first in 0..QUIET_CONNECTIONS as u32 {
        clients.spawn(async move {
            let api = Api::new(Client::new(address));
            let (mut times, mut sent, mut refused) = (Histogram::default(), 0, 0);
            for number in (first..count).step_by(QUIET_CONNECTIONS) {
                let due = start + QUIET_EVERY * number;
                tokio::time::sleep_until(due.into()).await;
                let now = Instant::now();
                let from = if now - due > LATE { due } else { now };
                let session = load::session(u64::from(number) % QUIET_SESSIONS);
                let body = Message { body: "x".into(), ..Message::default() };
                let answer = api.post(SERVICE, &session, body).await?;
                times.record(from.elapsed());
                sent += 1;
                refused += u64::from(answer.status != 200);
            }
            anyhow::Ok((times, sent, refused))
        });
    }
    let (mut times, mut sent, mut refused) = (Histogram::default(), 0, 0);
    while let Some(client) = clients.join_next().await {
        let of = client??;
        times.merge(&of.0);
        sent += of.1;
        refused += of.2;
    }
    ensure!(sent > 0, "the quiet service has sent nothing");
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    Ok(Quiet {
        sent,
        refused,
        p50_ms: ms(times.quantile(0.5)),
        p99_ms: ms(times.quantile(0.99)),
        max_ms: ms(times.max()),
        own_p50_ms: 0.0,
        own_p99_ms: 0.0,
    })
}

/// Sessions in this many slots, none of them a slot of the quiet service's.
async fn sessions_apart(node: &Node, slots: usize) -> anyhow::Result<Vec<String>> {
    let slot_count = u16::try_from(node.admin().slots().await?.len())?;
    let quiet = (0..QUIET_SESSIONS)
        .map(|number| slot_of(SERVICE, &load::session(number), slot_count))
        .collect::<Result<_, _>>()?;
    apart(HOSTILE, "other", slots, slot_count, &quiet)
}
