//! The demo: replays conversations from many clients at once, swaps the plugin meanwhile, reads
//! everything back, and accounts for every message.

use anyhow::{Context, bail, ensure};
use clap::Parser;
use slotd_tests::{
    account::{Account, Sent},
    api::{Admin, Api, Deployed, Message, Swap, session_path},
    conversations::{self, Conversation},
    ending::{Ending, run_demo, shown},
    histogram::{Histogram, micros},
    node::{Addresses, Node, NodeOptions},
    plugins,
};
use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::sync::Notify;

const SERVICE: &str = "chat";
/// The node's addresses, if they are free.
const ADDRESSES: Addresses = Addresses {
    api: SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 7070),
    admin: SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 7071),
};
/// Number of clients by default; at least one per conversation.
const CLIENTS: usize = 16;
/// Maximum number of rounds while waiting for a swap to end.
const ROUNDS_MAX: usize = 1_000;

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
    /// Take free ports instead of the usual ones
    #[arg(long, hide = true)]
    any_port: bool,
}

fn main() -> ExitCode {
    run_demo(demo(Args::parse()))
}

/// Whether every message is accounted for. If it is ordered to end before that, everything that it
/// started ends with it.
async fn demo(args: Args) -> anyhow::Result<bool> {
    let mut ending = Ending::listen()?;
    let (mut node, good) = shown(&mut ending, show(&args), "every message", args.exit).await?;
    let status = tokio::select! {
        status = node.terminate() => status?,
        () = ending.signalled() => bail!("second signal: exiting immediately"),
    };
    ensure!(status.success(), "the node ended with {status}");
    Ok(good)
}

/// Replays, swaps and accounts; returns the node, and whether every message is accounted for.
async fn show(args: &Args) -> anyhow::Result<(Node, bool)> {
    let folder = args.conversations.clone().unwrap_or_else(conversations::sample);
    let talk = Arc::new(conversations::load(&folder)?);
    let node = Node::start_with(NodeOptions {
        listen: (!args.any_port && both_free(ADDRESSES)).then_some(ADDRESSES),
        ..NodeOptions::default()
    })
    .await?;
    let (api, admin) = (node.api(), node.admin());
    let first = admin.deploy(SERVICE, plugins::load("chat-v1")?).await?;
    say(&format!("a node serves {SERVICE} {} on {}", first.current.label, api.client.address()));

    let replay = Arc::new(Replay::new(talk.clone()));
    let clients = args.clients.unwrap_or(CLIENTS).div_ceil(talk.len()) * talk.len();
    let lines: usize = talk.iter().map(|c| c.lines.len()).sum();
    let first_round = (lines * clients / talk.len()) as u64;
    say(&format!(
        "{clients} clients replay {} conversations ({lines} lines) from {}",
        talk.len(),
        folder.display()
    ));
    let started = Instant::now();
    let mut tasks = Vec::new();
    for client in 0..clients {
        // A separate client: connections are not shared.
        let api = node_api(&node);
        tasks.push(tokio::spawn(replay.clone().client(api, client, clients)));
    }
    let progress = tokio::spawn(replay.clone().progress(first_round));
    let swap = swap(&admin, &replay, first_round).await?;
    let mut rooms = BTreeMap::new();
    for task in tasks {
        for (room, sent) in task.await? {
            rooms.insert(room, sent);
        }
    }
    let elapsed = started.elapsed();
    progress.abort();
    eprintln!();
    say("reading everything back");
    let account = Account::read(&[api], SERVICE, &rooms).await?;
    let good = print(&replay, &account, elapsed, &swap, clients, rooms.len());
    if !args.exit {
        print_addresses(&node, &rooms);
    }
    Ok((node, good))
}

fn both_free(addresses: Addresses) -> bool {
    let free = |address: SocketAddr| TcpListener::bind(address).is_ok();
    free(addresses.api) && free(addresses.admin)
}

fn node_api(node: &Node) -> Api {
    Api::new(slotd_tests::http::Client::new(node.api().client.address()))
}

/// Swaps to the next version once a third of the lines is acknowledged.
async fn swap(admin: &Admin, replay: &Replay, first_round: u64) -> anyhow::Result<Swapped> {
    while replay.acknowledged.load(SeqCst) + replay.failed.load(SeqCst) < first_round / 3 {
        replay.moved.notified().await;
    }
    let before = replay.acknowledged.load(SeqCst);
    let deployed = admin.deploy(SERVICE, plugins::load("chat-v2")?).await;
    let during = replay.acknowledged.load(SeqCst) - before;
    // Whatever the result, the clients must end.
    replay.swapped.store(true, SeqCst);
    let deployed = deployed?;
    let swap = deployed.swap.clone().context("the deploy moved no slot")?;
    Ok(Swapped { deployed, swap, during })
}

struct Swapped {
    deployed: Deployed,
    swap: Swap,
    /// Messages acknowledged from the upload to the last slot's switch.
    during: u64,
}

/// State shared by the clients.
struct Replay {
    talk: Arc<Vec<Conversation>>,
    sent: AtomicU64,
    acknowledged: AtomicU64,
    failed: AtomicU64,
    swapped: AtomicBool,
    /// Something was answered.
    moved: Notify,
    latencies: Mutex<Histogram>,
    versions: Mutex<BTreeMap<String, u64>>,
    first_failure: Mutex<Option<String>>,
}

impl Replay {
    fn new(talk: Arc<Vec<Conversation>>) -> Self {
        Self {
            talk,
            sent: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            swapped: AtomicBool::new(false),
            moved: Notify::new(),
            latencies: Mutex::default(),
            versions: Mutex::default(),
            first_failure: Mutex::default(),
        }
    }

    /// One client: replays a conversation into a new room, then again into another room while the
    /// swap is in progress.
    async fn client(
        self: Arc<Self>,
        api: Api,
        client: usize,
        clients: usize,
    ) -> Vec<(String, Sent)> {
        let mut rooms = Vec::new();
        let mut latencies = Histogram::default();
        let mut versions = BTreeMap::new();
        for round in 0..ROUNDS_MAX {
            if round > 0 && self.swapped.load(SeqCst) {
                break;
            }
            let conversation = &self.talk[client % self.talk.len()];
            let copy = (round * clients + client) / self.talk.len();
            let room = match copy {
                0 => conversation.session.clone(),
                copy => format!("{}-{}", conversation.session, copy + 1),
            };
            let mut sent = Vec::with_capacity(conversation.lines.len());
            for line in &conversation.lines {
                let body = serde_json::to_value(line).unwrap_or_default();
                let message = Message::json(&body).key(format!("{room}-{}", line.line));
                let at = Instant::now();
                self.sent.fetch_add(1, SeqCst);
                let seq = match api.send(SERVICE, &room, message).await {
                    Ok(reply) => {
                        latencies.record(at.elapsed());
                        *versions.entry(reply.plugin).or_insert(0) += 1;
                        self.acknowledged.fetch_add(1, SeqCst);
                        Some(reply.seq)
                    }
                    Err(e) => {
                        self.failed.fetch_add(1, SeqCst);
                        lock(&self.first_failure).get_or_insert_with(|| format!("{e:#}"));
                        None
                    }
                };
                self.moved.notify_one();
                sent.push((body, seq));
            }
            rooms.push((room, sent));
        }
        lock(&self.latencies).merge(&latencies);
        let mut all = lock(&self.versions);
        for (version, count) in versions {
            *all.entry(version).or_insert(0) += count;
        }
        rooms
    }

    async fn progress(self: Arc<Self>, first_round: u64) {
        let terminal = std::io::stderr().is_terminal();
        let mut tick =
            tokio::time::interval(Duration::from_millis(if terminal { 100 } else { 2_000 }));
        loop {
            tick.tick().await;
            let done = self.acknowledged.load(SeqCst);
            let line = match self.swapped.load(SeqCst) {
                true => format!("    replaying: {done} acknowledged, the plugin is swapped"),
                // More than there are lines: clients continue until the swap is over.
                false if done >= first_round => {
                    format!("    replaying: {done} acknowledged, waiting for the swap")
                }
                false => format!("    replaying: {done} of {first_round} acknowledged"),
            };
            let mut err = std::io::stderr();
            // Progress that can't be printed is no reason to stop.
            let _ = if terminal { write!(err, "\r{line:<60}") } else { writeln!(err, "{line}") };
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints the account; returns whether all is well.
fn print(
    replay: &Replay,
    account: &Account,
    elapsed: Duration,
    swapped: &Swapped,
    clients: usize,
    rooms: usize,
) -> bool {
    let load = |n: &AtomicU64| n.load(SeqCst);
    let (sent, acknowledged, failed) =
        (load(&replay.sent), load(&replay.acknowledged), load(&replay.failed));
    let latencies = lock(&replay.latencies);
    let row = |name: &str, value: String| println!("  {name:<22} {value}");
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
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
    row("throughput", format!("{:.0} messages/s", acknowledged as f64 / elapsed.as_secs_f64()));
    row(
        "latency",
        format!(
            "p50 {:.2} ms, p99 {:.2} ms",
            ms(latencies.quantile(0.5)),
            ms(latencies.quantile(0.99))
        ),
    );
    let swap = &swapped.swap;
    row("swap", format!("{} -> {}", swap.from.as_deref().unwrap_or("nothing"), swap.to));
    row(
        "  pause per slot",
        format!(
            "p50 {}, p99 {}, max {}",
            micros(swap.pause_p50_us),
            micros(swap.pause_p99_us),
            micros(swap.pause_max_us)
        ),
    );
    row("  slots moved", format!("{} of {} in {:.1} ms", swap.moved, swap.slots, swap.elapsed_ms));
    row("  meanwhile", format!("{} messages acknowledged", swapped.during));
    for (version, count) in lock(&replay.versions).iter() {
        row("  handled by", format!("{version}: {count}"));
    }
    let good = failed == 0
        && account.good()
        && sent == acknowledged
        && account.read_back == acknowledged
        && swapped.deployed.changed
        && swap.moved == swap.slots;
    if !good {
        println!("\n  NOT every message is accounted for.");
    }
    good
}

fn print_addresses(node: &Node, rooms: &BTreeMap<String, Sent>) {
    let (api, admin) = (node.api().client.address(), node.admin().client.address());
    let room = rooms.keys().next().map_or("lobby", String::as_str);
    let session = format!("http://{api}{}", session_path(SERVICE, room));
    println!("\n  api    http://{api}\n  admin  http://{admin}\n\nTry by hand:\n");
    let json = "-H 'content-type: application/json'";
    println!("  curl {session}/messages?tail=3");
    println!(
        "  curl {session}/messages {json} -H 'slotd-sender: you' -d '{{\"kind\":\"say\",\"text\":\"hello\"}}'"
    );
    println!("  curl {session}/query {json} -d '{{\"query\":\"top\",\"limit\":3}}'");
    println!("  curl -N '{session}/events?after=0'   # all that was said, and what you say next");
    println!("  curl http://{admin}/admin/v1/services");
}

fn say(what: &str) {
    eprintln!("==> {what}");
}
