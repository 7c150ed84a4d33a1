//! The demo of agents: sessions that ask a language model, have a tool called and ask back, while the node that owns a third of them is
//! killed and their plugin is swapped; then accounts for each token that was shown.

mod agents;

use agents::{AGENT, People, Person, TOOL, TURNS, lock};
use anyhow::{Context, ensure};
use clap::Parser;
use serde_json::{Value, json};
use slotd_tests::{
    agents::{Reader, Tokens},
    api::{Api, Swap, session_path},
    cluster::{Cluster, ClusterOptions, Member},
    ending::{Ending, run_demo, shown},
    histogram::Histogram,
    model_server::{Ledger, ModelOptions, ModelServer, plan},
    page::{self, PageServer},
    plugins,
};
use std::{
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

const NODES: u32 = 3;
const KILLED: u32 = 2;
const SETTLED_WITHIN: Duration = Duration::from_secs(120);
/// Generous, for a debug build on a busy machine.
const TALKED_WITHIN: Duration = Duration::from_secs(15 * 60);
const PROGRESS_EVERY: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Words that are shown between two changes, for each agent.
const BETWEEN: u64 = 25;
const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

#[derive(Parser)]
struct Args {
    /// Stop after the report instead of serving until Ctrl-C
    #[arg(long)]
    exit: bool,
    /// Sessions with an agent
    #[arg(long, value_name = "N", default_value_t = 200)]
    agents: usize,
    /// Slots of the cluster
    #[arg(long, value_name = "N", default_value_t = 128)]
    slots: u16,
    /// Requests that the model takes at once
    #[arg(long, value_name = "N", default_value_t = 160)]
    at_once: usize,
    /// Milliseconds between two tokens
    #[arg(long, value_name = "MS", default_value_t = 60)]
    pace: u64,
}

fn main() -> ExitCode {
    run_demo(demo(Args::parse()))
}

/// All that the demo has started; it ends with this.
struct Started {
    _cluster: Cluster,
    _model: ModelServer,
    _page: PageServer,
}

/// Whether every token is accounted for.
async fn demo(args: Args) -> anyhow::Result<bool> {
    let mut ending = Ending::listen()?;
    let (_started, good) = shown(&mut ending, show(&args), "every token", args.exit).await?;
    Ok(good)
}

async fn show(args: &Args) -> anyhow::Result<(Started, bool)> {
    let pace = Duration::from_millis(args.pace);
    let options = ModelOptions { at_once: args.at_once, pace, ..ModelOptions::default() };
    let model = ModelServer::start(ANY_PORT, options).await?;
    say(&format!("a model server answers at {}, {} requests at once", model.url(), args.at_once));
    say(&format!("starting 3 nats-servers and {NODES} nodes with {} slots", args.slots));
    let allowed = format!("{AGENT}>http://{}!private", model.address);
    let env = vec![
        ("SLOTD_EFFECTS_HTTP".to_owned(), allowed),
        ("SLOTD_EFFECTS_SEND".to_owned(), format!("{AGENT}>{TOOL}")),
    ];
    let options =
        ClusterOptions { nodes: NODES, slots: args.slots, env, ..ClusterOptions::default() };
    let cluster = Cluster::start(options, None).await?;
    let members = cluster.members();
    let admin = members.first().context("no node")?.admin();
    let deployed = admin.deploy(AGENT, plugins::load("context-window")?).await?;
    admin.deploy(TOOL, plugins::load("counter")?).await?;
    cluster.settled(&members, SETTLED_WITHIN).await?;
    let page = PageServer::start(ANY_PORT, page::example("agent"), cluster.targets()).await?;
    say(&format!("{NODES} nodes serve {AGENT} {}", deployed.current.label));
    say(&format!("an agent to look at: http://{}/?session=agent-0", page.address));

    let people = Arc::new(People {
        nodes: cluster.targets(),
        model_url: model.url(),
        shown: AtomicU64::new(0),
        done: AtomicU64::new(0),
        resumed: AtomicU64::new(0),
        first_word: Mutex::new(Histogram::default()),
        times: Mutex::default(),
    });
    say(&format!("{} people talk to an agent each, {} turns", args.agents, TURNS.len()));
    let started = Instant::now();
    let tasks: Vec<_> = (0..args.agents)
        .map(|number| tokio::spawn(Person::new(people.clone(), number).talk()))
        .collect();
    let progress = tokio::spawn(progress(people.clone()));
    let changed = changes(&cluster, &people, args.agents as u64).await;
    let talked = tokio::time::timeout(TALKED_WITHIN, futures_util::future::join_all(tasks)).await;
    progress.abort();
    let talked = talked.context("the agents have not come to an end")?;
    let changes = changed?;
    let mut all = Vec::new();
    for person in talked {
        all.push(person??);
    }
    let elapsed = started.elapsed();

    say("reading everything again, from the beginning, through the nodes that are left");
    let left: Vec<_> = cluster.members().into_iter().filter(|m| m.number != KILLED).collect();
    let apis: Vec<Api> = left.iter().map(|member| member.api()).collect();
    let account = Account::read(&apis, &all).await?;
    let good = print(&people, &account, &model.ledger(), &changes, elapsed, args.agents);
    if !args.exit {
        print_addresses(&page, &left);
    }
    Ok((Started { _cluster: cluster, _model: model, _page: page }, good))
}

async fn progress(people: Arc<People>) {
    let mut tick = tokio::time::interval(PROGRESS_EVERY);
    loop {
        tick.tick().await;
        let (shown, done) = (people.shown.load(SeqCst), people.done.load(SeqCst));
        eprintln!("    {shown} tokens, {done} agents have ended");
    }
}

/// What was done to the cluster while tokens flowed.
struct Changes {
    killed: Instant,
    settled: Duration,
    /// Slots of the killed node.
    slots: usize,
    swap: Swap,
}

/// Waits for so many more words; an error when nobody talks any more.
async fn some_more(people: &People, words: u64, agents: u64) -> anyhow::Result<()> {
    let until = people.shown.load(SeqCst) + words;
    while people.shown.load(SeqCst) < until {
        ensure!(people.done.load(SeqCst) < agents, "all agents ended before the changes did");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

async fn changes(cluster: &Cluster, people: &People, agents: u64) -> anyhow::Result<Changes> {
    some_more(people, agents * BETWEEN, agents).await?;
    let victim = cluster.member(KILLED)?;
    let left: Vec<_> = cluster.members().into_iter().filter(|m| m.number != KILLED).collect();
    let admin = left.first().context("no node is left")?.admin();
    let slots = admin.slots().await?.iter().filter(|slot| slot.owner == victim.name).count();
    say(&format!("{} gets SIGKILL; it owns {slots} slots", victim.name));
    let killed = Instant::now();
    victim.node.lock().await.kill()?;
    cluster.settled(&left, SETTLED_WITHIN).await?;
    let settled = killed.elapsed();
    some_more(people, agents * BETWEEN, agents).await?;
    say("the plugin is swapped");
    let other = plugins::variant(&plugins::load("context-window")?, "another build");
    let deployed = admin.deploy(AGENT, other).await?;
    let swap = deployed.swap.context("the deploy moved no slot")?;
    some_more(people, agents, agents).await?;
    Ok(Changes { killed, settled, slots, swap })
}

/// What was shown to everybody, and what it comes to.
#[derive(Default)]
struct Account {
    requests: u64,
    turns: u64,
    tokens: Tokens,
    failed: Vec<String>,
    /// Sessions that show something else to who reads them from the beginning.
    differ: Vec<String>,
    /// Tools' calls, and how many of them the tool has counted.
    calls: u64,
    counted: u64,
    questions: u64,
    /// Answers in transcripts that are not what the model has said.
    wrong: u64,
    keys: Vec<String>,
}

impl Account {
    async fn read(apis: &[Api], people: &[Person]) -> anyhow::Result<Self> {
        let mut account = Self::default();
        for (person, api) in people.iter().zip(apis.iter().cycle()) {
            let Person { session, reader, .. } = person;
            account.requests += reader.answers.len() as u64;
            account.turns += reader.answered;
            account.calls += reader.calls;
            account.questions += reader.questions;
            account.tokens += reader.tokens();
            account.failed.extend(reader.failed.iter().map(|why| format!("{session}: {why}")));
            account.keys.extend(reader.answers.values().filter_map(|answer| answer.key.clone()));
            let until = reader.last_id.as_deref().context("nothing was shown")?;
            let again = Reader::again(api, AGENT, session, until).await;
            if again.with_context(|| format!("reading {session} again"))? != *reader {
                account.differ.push(session.clone());
            }
            account.counted += api.query(TOOL, session, &Value::Null).await?.as_u64().unwrap_or(0);
            account.wrong += wrong(api, person).await?;
        }
        Ok(account)
    }

    fn good(&self, agents: usize) -> bool {
        let turns = (agents * TURNS.len()) as u64;
        self.tokens.good()
            && self.failed.is_empty()
            && self.differ.is_empty()
            && self.turns == turns
            && self.calls == self.counted
            && self.calls == agents as u64
            && self.questions == agents as u64
            && self.wrong == 0
    }
}

/// Answers in the transcript that are not word for word what the model has said.
async fn wrong(api: &Api, person: &Person) -> anyhow::Result<u64> {
    let messages = api.query(AGENT, &person.session, &json!({ "what": "messages" })).await?;
    let messages = messages["messages"].as_array().cloned().unwrap_or_default();
    let kept = messages.iter().filter(|message| message["role"] == "assistant");
    let kept: Vec<_> =
        kept.map(|message| message["content"].as_str().unwrap_or_default()).collect();
    let said = person.reader.answers.values().filter_map(|answer| answer.key.as_deref());
    let said: Vec<String> = said.map(|key| plan::words(key).concat()).collect();
    let same = kept.iter().zip(&said).filter(|(kept, said)| *kept == said).count();
    Ok((kept.len().max(said.len()) - same) as u64)
}

/// Prints the account; returns whether all is well.
fn print(
    people: &People,
    account: &Account,
    ledger: &Ledger,
    changes: &Changes,
    elapsed: Duration,
    agents: usize,
) -> bool {
    let row = |name: &str, value: String| println!("  {name:<24} {value}");
    let Account { tokens, .. } = account;
    let attempts: u64 = ledger.requests.values().map(|asked| u64::from(asked.attempts)).sum();
    let unknown = account.keys.iter().filter(|key| !ledger.requests.contains_key(*key)).count();
    println!();
    row("agents, turns", format!("{agents}, {}", account.turns));
    row("requests to the model", account.requests.to_string());
    row("  attempts at them", attempts.to_string());
    row("  answered with 500", ledger.errors.to_string());
    row(
        "  answered with 429",
        format!("{} ({} over the limit)", ledger.busy + ledger.over_limit, ledger.over_limit),
    );
    row("  cut by the model", ledger.cut.to_string());
    row("  left by a dead node", ledger.abandoned.to_string());
    row("tools called", account.calls.to_string());
    row("  counted by the tool", account.counted.to_string());
    row("questions answered", account.questions.to_string());
    row("tokens shown", tokens.shown.to_string());
    row("lost", tokens.lost.to_string());
    row("doubled", tokens.doubled.to_string());
    row("out of order", tokens.out_of_order.to_string());
    row("not the model's", tokens.strange.to_string());
    row("void after a restart", format!("{} in {} restarts", tokens.void, tokens.restarts));
    row("streams resumed", people.resumed.load(SeqCst).to_string());
    row("other after a reload", account.differ.len().to_string());
    row("wrong in a transcript", account.wrong.to_string());
    row("failed turns", account.failed.len().to_string());
    if let Some(first) = account.failed.first() {
        row("  the first", first.clone());
    }
    let first_word = lock(&people.first_word);
    let ms = |share: f64| first_word.quantile(share).as_secs_f64() * 1e3;
    row("first token", format!("p50 {:.0} ms, p99 {:.0} ms", ms(0.5), ms(0.99)));
    row("throughput", format!("{:.0} tokens/s", tokens.shown as f64 / elapsed.as_secs_f64()));
    println!("\n  a node is killed (SIGKILL)");
    row("  slots", changes.slots.to_string());
    row("  settled after", format!("{:.2} s", changes.settled.as_secs_f64()));
    let meanwhile = lock(&people.times);
    let meanwhile = meanwhile.iter().filter(|at| {
        at.checked_duration_since(changes.killed).is_some_and(|since| since < changes.settled)
    });
    row("  meanwhile", format!("{} tokens shown", meanwhile.count()));
    let Swap { from, to, moved, slots, elapsed_ms, .. } = &changes.swap;
    println!("\n  {} -> {to}", from.as_deref().unwrap_or("nothing"));
    row("  slots", format!("{moved} of {slots} slots swapped in {elapsed_ms:.0} ms"));
    let good = account.good(agents) && unknown == 0;
    if !good {
        println!("\n  NOT every token is accounted for. {}", account.differ.join(" "));
    }
    good
}

fn print_addresses(page: &PageServer, members: &[Arc<Member>]) {
    println!("\n  the page   http://{}/?session=agent-0", page.address);
    for member in members {
        let at = member.addresses();
        println!("  {}     api http://{}  admin http://{}", member.name, at.api, at.admin);
        let session = format!("http://{}{}", at.api, session_path(AGENT, "agent-0"));
        println!("             curl -N '{session}/events?after=0'");
    }
}

fn say(what: &str) {
    eprintln!("==> {what}");
}
