//! The cluster demo: replays conversations from many clients through all nodes, while a node joins,
//! one leaves, one is killed and the plugin is swapped; then accounts for every message.

mod clients;

use anyhow::Context;
use clap::Parser;
use clients::{Replay, lock};
use slotd_tests::{
    account::Account,
    api::{Api, Swap, session_path},
    cluster::{
        Cluster, ClusterOptions, Member,
        settle::{Change, Pauses},
    },
    conversations,
    ending::{Ending, run_demo, shown},
    plugins,
};
use std::{
    collections::BTreeSet,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};

const SERVICE: &str = "chat";
/// Number of clients by default; at least one per conversation.
const CLIENTS: usize = 96;
/// Initial nodes; one more joins.
const NODES: u32 = 3;
/// Who leaves, who is killed.
const LEAVES: u32 = 1;
const KILLED: u32 = 2;
/// Per change: generous, for a debug build on a busy machine.
const SETTLED_WITHIN: Duration = Duration::from_secs(120);
/// Acknowledged messages per client, on average, between two changes.
const BETWEEN: u64 = 10;

#[derive(Parser)]
struct Args {
    /// Stop after the report instead of serving until Ctrl-C
    #[arg(long)]
    exit: bool,
    /// A folder of JSONL conversations
    #[arg(long, value_name = "DIR")]
    conversations: Option<PathBuf>,
    /// Concurrent clients, at least one per conversation
    #[arg(long, value_name = "N")]
    clients: Option<usize>,
    /// Slots of the cluster
    #[arg(long, value_name = "N", default_value_t = 512)]
    slots: u16,
}

fn main() -> ExitCode {
    run_demo(demo(Args::parse()))
}

/// The effect of one change of the cluster.
struct Event {
    name: String,
    pauses: Pauses,
    /// What the pauses are measured over.
    of: String,
    settled: Duration,
    /// Messages acknowledged until then.
    during: u64,
}

/// Whether every message is accounted for. Everything that it started ends with it.
async fn demo(args: Args) -> anyhow::Result<bool> {
    let mut ending = Ending::listen()?;
    let (_cluster, good) = shown(&mut ending, show(&args), "every message", args.exit).await?;
    Ok(good)
}

/// Replays, changes the cluster and accounts; returns the cluster, and whether every message is
/// accounted for.
async fn show(args: &Args) -> anyhow::Result<(Cluster, bool)> {
    let folder = args.conversations.clone().unwrap_or_else(conversations::sample);
    let talk = Arc::new(conversations::load(&folder)?);
    say(&format!("starting 3 nats-servers and {NODES} nodes with {} slots", args.slots));
    let options = ClusterOptions { nodes: NODES, slots: args.slots, ..ClusterOptions::default() };
    let cluster = Cluster::start(options, None).await?;
    let members = cluster.members();
    let first = members.first().context("no node")?;
    let deployed = first.admin().deploy(SERVICE, plugins::load("chat-v1")?).await?;
    cluster.settled(&members, SETTLED_WITHIN).await?;
    say(&format!("{} nodes serve {SERVICE} {}", members.len(), deployed.current.label));

    let replay = Arc::new(Replay::new(talk.clone(), cluster.targets()));
    let clients = args.clients.unwrap_or(CLIENTS).div_ceil(talk.len()) * talk.len();
    let lines: usize = talk.iter().map(|c| c.lines.len()).sum();
    say(&format!(
        "{clients} clients replay {} conversations ({lines} lines) from {}, through all nodes",
        talk.len(),
        folder.display()
    ));
    let started = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|client| tokio::spawn(replay.clone().client(SERVICE, client, clients)))
        .collect();
    let progress = tokio::spawn(replay.clone().progress());
    let events = events(&cluster, &replay, clients as u64 * BETWEEN).await;
    // Whatever the result, the clients must end.
    replay.over.store(true, SeqCst);
    for task in tasks {
        task.await?;
    }
    let elapsed = started.elapsed();
    progress.abort();
    let (mut events, killed) = events?;
    events[2].pauses = replay.gaps(&killed);
    events[2].of = format!(
        "{} of its {} slots had a session at work",
        events[2].pauses.count,
        killed.slots.len()
    );
    say("reading everything back, through all nodes in turn");
    let members: Vec<_> = cluster.members().into_iter().filter(|m| m.number != KILLED).collect();
    let apis: Vec<Api> = members.iter().map(|member| member.api()).collect();
    let rooms = std::mem::take(&mut *lock(&replay.rooms));
    let account = Account::read(&apis, SERVICE, &rooms).await?;
    let good = print(&replay, &account, &events, elapsed, (clients, rooms.len()));
    if !args.exit {
        print_addresses(&cluster, &members, rooms.keys().next().map_or("lobby", String::as_str));
    }
    Ok((cluster, good))
}

/// The killed node: when, until when it mattered, and the slots that it had.
pub struct Killed {
    at: Instant,
    settled: Instant,
    slots: BTreeSet<u16>,
}

/// Joins, leaves, kills, swaps; after each, waits until the cluster is at rest.
async fn events(
    cluster: &Cluster,
    replay: &Replay,
    between: u64,
) -> anyhow::Result<(Vec<Event>, Killed)> {
    let mut events = Vec::new();
    let left = |gone: &[u32]| -> Vec<Arc<Member>> {
        cluster.members().into_iter().filter(|m| !gone.contains(&m.number)).collect()
    };
    let acknowledged = || replay.acknowledged.load(SeqCst);

    replay.some_more(between).await;
    let number = NODES + 1;
    say(&format!("node-{number} joins"));
    let (change, before) = (Change::now(), acknowledged());
    let joined = cluster.join(number).await?;
    cluster.settled(&left(&[]), SETTLED_WITHIN).await?;
    let settled = change.at.elapsed();
    let pauses = change.handoff_pauses(&joined.admin()).await?;
    let of = format!("{} slots moved", pauses.count);
    let name = format!("node-{number} joins");
    events.push(Event { name, pauses, of, settled, during: acknowledged() - before });

    replay.some_more(between).await;
    say(&format!("node-{LEAVES} gets SIGTERM"));
    let (change, before) = (Change::now(), acknowledged());
    cluster.drain(LEAVES).await?;
    cluster.settled(&left(&[]), SETTLED_WITHIN).await?;
    let settled = change.at.elapsed();
    let pauses = change.handoff_pauses(&joined.admin()).await?;
    let of = format!("{} slots moved", pauses.count);
    let name = format!("node-{LEAVES} leaves (SIGTERM)");
    events.push(Event { name, pauses, of, settled, during: acknowledged() - before });

    replay.some_more(between).await;
    let victim = cluster.member(KILLED)?;
    let slots = joined.admin().slots().await?.into_iter();
    let slots = slots.filter(|slot| slot.owner == victim.name).map(|slot| slot.slot).collect();
    say(&format!("{} gets SIGKILL", victim.name));
    let (at, before) = (Instant::now(), acknowledged());
    victim.node.lock().await.kill()?;
    cluster.settled(&left(&[KILLED]), SETTLED_WITHIN).await?;
    let name = format!("{} is killed (SIGKILL)", victim.name);
    let (settled, of) = (at.elapsed(), String::new());
    let during = acknowledged() - before;
    events.push(Event { name, pauses: Pauses::default(), of, settled, during });

    replay.some_more(between).await;
    let killed = Killed { at, settled: Instant::now(), slots };
    say("the plugin is swapped");
    let (change, before) = (Change::now(), acknowledged());
    let deployed = joined.admin().deploy(SERVICE, plugins::load("chat-v2")?).await?;
    cluster.settled(&left(&[KILLED]), SETTLED_WITHIN).await?;
    let settled = change.at.elapsed();
    let swap: Swap = deployed.swap.context("the deploy moved no slot")?;
    let pauses = Pauses {
        count: swap.moved as usize,
        p50_ms: swap.pause_p50_us / 1e3,
        p99_ms: swap.pause_p99_us / 1e3,
        max_ms: swap.pause_max_us / 1e3,
    };
    let name = format!("{} -> {}", swap.from.as_deref().unwrap_or("nothing"), swap.to);
    let of = format!("{} of {} slots swapped in {:.0} ms", swap.moved, swap.slots, swap.elapsed_ms);
    events.push(Event { name, pauses, of, settled, during: acknowledged() - before });

    replay.some_more(between).await;
    Ok((events, killed))
}

/// Prints the account; returns whether all is well.
fn print(
    replay: &Replay,
    account: &Account,
    events: &[Event],
    elapsed: Duration,
    (clients, rooms): (usize, usize),
) -> bool {
    let row = |name: &str, value: String| println!("  {name:<22} {value}");
    let (sent, acknowledged, failed) =
        (replay.sent.load(SeqCst), replay.acknowledged.load(SeqCst), replay.failed.load(SeqCst));
    let latencies = lock(&replay.latencies);
    let ms = |share: f64| latencies.quantile(share).as_secs_f64() * 1e3;
    println!();
    row("clients, rooms", format!("{clients}, {rooms}"));
    row("messages sent", sent.to_string());
    row("acknowledged", acknowledged.to_string());
    row("read back", account.read_back.to_string());
    row("lost", account.lost.to_string());
    row("duplicated", account.duplicated.to_string());
    row("out of order", account.out_of_order.to_string());
    row("failed", failed.to_string());
    if let Some(failure) = lock(&replay.first_failure).as_ref() {
        row("  the first", failure.clone());
    }
    let broken = replay.broken.load(SeqCst);
    row("sent again elsewhere", format!("{broken}, after a connection broke or was refused"));
    row("throughput", format!("{:.0} messages/s", acknowledged as f64 / elapsed.as_secs_f64()));
    row("latency", format!("p50 {:.2} ms, p99 {:.2} ms", ms(0.5), ms(0.99)));
    for event in events {
        println!("\n  {}", event.name);
        row("  pause per slot", event.pauses.to_string());
        row("  slots", event.of.clone());
        row("  settled after", format!("{:.2} s", event.settled.as_secs_f64()));
        row("  meanwhile", format!("{} messages acknowledged", event.during));
    }
    println!();
    for (version, count) in lock(&replay.versions).iter() {
        row("handled by", format!("{version}: {count}"));
    }
    // A cancelled message with unknown outcome may be stored all the same; then it is read back,
    // too.
    let good =
        failed == 0 && account.good() && sent == acknowledged && account.read_back == acknowledged;
    if !good {
        println!("\n  NOT every message is accounted for.");
    }
    good
}

fn print_addresses(cluster: &Cluster, members: &[Arc<Member>], room: &str) {
    println!();
    for member in members {
        let at = member.addresses();
        println!("  {}  api http://{}  admin http://{}", member.name, at.api, at.admin);
    }
    println!("  nats    {}\n\nTry by hand, through any node:\n", cluster.engine.urls().join(" "));
    let json = "-H 'content-type: application/json'";
    for (number, member) in members.iter().enumerate() {
        let at = member.addresses();
        let session = format!("http://{}{}", at.api, session_path(SERVICE, room));
        if number == 0 {
            println!("  curl {session}/messages?tail=3");
            println!(
                "  curl {session}/messages {json} -H 'slotd-sender: you' -d '{{\"kind\":\"say\",\"text\":\"hello\"}}'"
            );
            println!("  curl -N '{session}/events?after=0'");
        } else {
            println!("  curl {session}/messages?tail=1");
            println!("  curl http://{}/admin/v1/nodes", at.admin);
            println!("  curl http://{}/admin/v1/moves?limit=5", at.admin);
        }
    }
}

fn say(what: &str) {
    eprintln!("==> {what}");
}
