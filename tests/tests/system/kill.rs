//! SIGKILL at random moments, under writers that know what they were told.

use crate::common::say;
use anyhow::{Context, bail, ensure};
use slotd_tests::{
    api::{Api, Message, Reply},
    http::Client,
    load::Random,
    node::{Addresses, Node, NodeOptions, eventually, scenario},
    plugins,
    replayed::comes_out_again,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::sync::watch;

const WRITERS: u64 = 8;
/// Two writers share each session, so that their messages interleave.
const SESSIONS: u64 = 4;

/// Without it, an acknowledged message could be lost, doubled or reordered by a crash, or a repeat
/// answered with something else than the first time, and nobody would know.
///
/// `SLOTD_TEST_KILL_ROUNDS` (25) and `SLOTD_TEST_SEED` (random, printed) change it.
#[test]
fn what_was_acknowledged_survives_sigkill() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let rounds = number("SLOTD_TEST_KILL_ROUNDS").unwrap_or(25);
    let seed = number("SLOTD_TEST_SEED").unwrap_or_else(|| {
        std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64)
    });
    println!("SLOTD_TEST_SEED={seed} SLOTD_TEST_KILL_ROUNDS={rounds}");
    scenario(kill_rounds(rounds, seed));
}

struct Shared {
    addresses: watch::Receiver<Option<Addresses>>,
    acknowledged: AtomicU64,
    stop: AtomicBool,
}

/// What a writer was told, by idempotency key.
type Replies = BTreeMap<String, Reply>;

async fn kill_rounds(rounds: u64, seed: u64) -> anyhow::Result<()> {
    let mut random = Random::new(seed);
    let mut node = Node::start_with(NodeOptions::default()).await?;
    node.admin().deploy("counter", plugins::load("counter")?).await?;
    node.admin().deploy("chat", plugins::load("chat-v1")?).await?;
    let shared = Arc::new(Shared {
        addresses: node.addresses(),
        acknowledged: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    });
    let mut writers = Vec::new();
    for number in 0..WRITERS {
        writers.push(tokio::spawn(write(shared.clone(), number, random.bits())));
    }
    for round in 0..rounds {
        // A random amount of work, then at once: under way are then all kinds of things.
        let until = shared.acknowledged.load(SeqCst) + 1 + random.below(150);
        eventually("progress of the writers", async || {
            if let Some(failed) = writers.iter().position(|writer| writer.is_finished()) {
                bail!("writer {failed} ended in round {round}");
            }
            Ok((shared.acknowledged.load(SeqCst) >= until).then_some(()))
        })
        .await
        .or_else(|e| if writers.iter().any(|w| w.is_finished()) { Ok(()) } else { Err(e) })?;
        if writers.iter().any(|writer| writer.is_finished()) {
            break;
        }
        node.kill()?;
        if round % 5 == 4 {
            // And while it starts: recovery must survive being cut short.
            node.launch()?;
            tokio::time::sleep(Duration::from_micros(random.below(60_000))).await;
            node.kill()?;
        }
        node.restart().await?;
    }
    shared.stop.store(true, SeqCst);
    let mut replies: BTreeMap<u64, Replies> = BTreeMap::new();
    for (number, writer) in writers.into_iter().enumerate() {
        let mine = writer.await?.with_context(|| format!("writer {number}"))?;
        replies.insert(number as u64, mine);
    }
    node.kill()?;
    node.restart().await?;
    check(&node.api(), &replies).await?;
    // And what is stored is what the messages give.
    comes_out_again(&node, &["counter", "chat"]).await
}

fn session_of(writer: u64) -> (&'static str, String) {
    let number = writer % SESSIONS;
    (if number.is_multiple_of(2) { "counter" } else { "chat" }, format!("kill-{number}"))
}

fn message(service: &str, writer: u64, number: u64) -> (String, Message) {
    let key = format!("{writer}-{number}");
    let message = match service {
        "counter" => Message::bytes(key.clone()).typed("text/plain"),
        _ => say(&format!("writer-{writer}"), &key),
    };
    (key.clone(), message.key(key))
}

/// One writer: its messages one after the other, each until it is acknowledged.
async fn write(shared: Arc<Shared>, writer: u64, seed: u64) -> anyhow::Result<Replies> {
    let mut random = Random::new(seed);
    let (service, session) = session_of(writer);
    let mut replies = Replies::new();
    for number in 0.. {
        if shared.stop.load(SeqCst) {
            break;
        }
        let (key, message) = message(service, writer, number);
        let reply = until_decided(&shared, service, &session, message).await?;
        if let Some(earlier) = replies.insert(key.clone(), reply) {
            bail!("{key} was used twice: {earlier:?}");
        }
        shared.acknowledged.fetch_add(1, SeqCst);
        if random.below(8) == 0 {
            let (key, repeat) = self::message(service, writer, random.below(number + 1));
            let again = until_decided(&shared, service, &session, repeat).await?;
            check_repeat(&replies[&key], &again)?;
        }
    }
    Ok(replies)
}

/// Sends a message, again and again with its key, until the answer is a success. Every other
/// answer must be one that allows to try again.
async fn until_decided(
    shared: &Shared,
    service: &str,
    session: &str,
    message: Message,
) -> anyhow::Result<Reply> {
    let mut addresses = shared.addresses.clone();
    loop {
        let at = addresses.borrow_and_update().context("no node yet")?;
        let api = Api::new(Client::new(at.api));
        match api.post(service, session, message.clone()).await {
            Ok(answer) if answer.status == 200 => return Reply::of(answer),
            Ok(answer) => {
                let problem = answer.problem()?;
                ensure!([503, 504].contains(&problem.status), "{problem:?}");
            }
            // The node is down: anything may have become of the message.
            Err(_) => {}
        }
        // It comes back elsewhere, unless this was no kill.
        let _ = tokio::time::timeout(Duration::from_millis(20), addresses.changed()).await;
    }
}

fn check_repeat(first: &Reply, again: &Reply) -> anyhow::Result<()> {
    ensure!(again.replayed, "a repeat was applied again: {again:?}");
    let expected = Reply { replayed: true, ..first.clone() };
    ensure!(*again == expected, "a repeat got {again:?}, the first was {first:?}");
    Ok(())
}

async fn check(api: &Api, replies: &BTreeMap<u64, Replies>) -> anyhow::Result<()> {
    let acknowledged: usize = replies.values().map(Replies::len).sum();
    println!("{acknowledged} messages were acknowledged");
    for number in 0..SESSIONS {
        let (service, session) = session_of(number);
        let history = api.whole_history(service, &session).await?;
        let mut seen = BTreeSet::new();
        for (at, entry) in history.iter().enumerate() {
            ensure!(entry.seq == at as u64 + 1, "{session}: seq {} at {at}", entry.seq);
            let id = entry.id.clone().context("an entry without a key")?;
            ensure!(seen.insert(id.clone()), "{session}: {id} is there twice");
            let text = match service {
                "counter" => entry.body.clone(),
                _ => entry.body.as_ref().map(|body| body["text"].clone()),
            };
            ensure!(text.as_ref().and_then(|t| t.as_str()) == Some(&id), "{session}: {entry:?}");
            let events = if service == "chat" { 1 } else { 0 };
            ensure!(entry.events.len() == events, "{session}: {entry:?}");
        }
        let mut expected = BTreeSet::new();
        for (writer, replies) in
            replies.iter().filter(|(writer, _)| session_of(**writer).1 == session)
        {
            let mut before = 0;
            for number in 0..replies.len() as u64 {
                let (key, repeat) = message(service, *writer, number);
                let first = &replies[&key];
                // The state went along with the log: the plugin's own count is the number.
                let count = first.json()?;
                let count = if service == "counter" { count } else { count["n"].clone() };
                ensure!(count == first.seq, "{session}: {key} got {count} at {}", first.seq);
                ensure!(first.seq > before, "{session}: {key} is out of order");
                before = first.seq;
                let entry = history.get(first.seq as usize - 1).context("lost")?;
                ensure!(entry.id.as_ref() == Some(&key), "{session}: {key} is lost");
                check_repeat(first, &api.send(service, &session, repeat).await?)?;
                expected.insert(key);
            }
        }
        let unexpected: Vec<_> = seen.difference(&expected).collect();
        ensure!(unexpected.is_empty(), "{session}: nobody was told of {unexpected:?}");
        ensure!(seen.len() == expected.len(), "{session}: {} of {}", seen.len(), expected.len());
        ensure!(api.session(service, &session).await?.seq == seen.len() as u64, "{session}");
    }
    Ok(())
}
