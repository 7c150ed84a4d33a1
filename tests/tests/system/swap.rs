//! Swaps while everybody talks and listens.

use crate::common::say;
use anyhow::{Context, bail, ensure};
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use slotd_tests::{
    api::{Api, Entry, Event, Message, Reply},
    http::Client,
    node::{Node, eventually, scenario},
    plugins,
    socket::Socket,
    sse::Sse,
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
};
use tokio::sync::watch;

const WRITERS: usize = 64;
const SOCKETS: usize = 100;
const SWAPS: usize = 20;
const ROOMS: usize = 16;
/// Messages acknowledged between two swaps, at least.
const BETWEEN: u64 = 64;

/// Without it, a swap could fail a request, close a socket, lose or repeat an event, run a version
/// that its log does not say, or migrate a session to something else than the new version builds.
#[test]
fn nobody_notices_a_swap() {
    scenario(swap_under_load());
}

/// What runs when: the label of each swap's target, from what was first deployed on.
#[derive(Default)]
struct Timeline {
    labels: Mutex<Vec<String>>,
    /// Swaps that have begun, and that every slot has completed.
    begun: AtomicUsize,
    ended: AtomicUsize,
}

impl Timeline {
    fn label(&self, swap: usize) -> Option<String> {
        self.labels.lock().unwrap_or_else(PoisonError::into_inner).get(swap).cloned()
    }
}

/// A reply, and the swaps that it may have met.
struct Observed {
    reply: Reply,
    swaps: std::ops::RangeInclusive<usize>,
}

async fn swap_under_load() -> anyhow::Result<()> {
    let node = Node::start().await?;
    let versions = [plugins::load("chat-v1")?, plugins::load("chat-v2")?];
    let timeline = Arc::new(Timeline::default());
    let first = node.admin().deploy("chat", versions[0].clone()).await?;
    timeline.labels.lock().unwrap_or_else(PoisonError::into_inner).push(first.current.label);

    let (last_seqs, target) = watch::channel(None::<BTreeMap<String, u64>>);
    let mut listeners = Vec::new();
    for number in 0..SOCKETS {
        let (api, room) = (api(&node), room(number));
        let target = target.clone();
        listeners.push(tokio::spawn(async move {
            let listener = match number % 2 {
                0 => listen_socket(&api, &room, target).await,
                _ => listen_sse(&api, &room, target).await,
            };
            listener.with_context(|| format!("listener {number} of {room}"))
        }));
    }
    let observed = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for number in 0..WRITERS {
        let writing = write(api(&node), number, timeline.clone(), observed.clone(), stop.clone());
        writers.push(tokio::spawn(writing));
    }

    for swap in 1..=SWAPS {
        let until = observed.load(SeqCst) + BETWEEN;
        eventually("talk between two swaps", async || {
            ensure!(!writers.iter().any(|w| w.is_finished()), "a writer ended early");
            Ok((observed.load(SeqCst) >= until).then_some(()))
        })
        .await?;
        timeline.begun.store(swap, SeqCst);
        // Back by a deploy, or by a rollback: to a client it must be the same.
        let deployed = match swap % 4 {
            2 => node.admin().rollback("chat").await?,
            _ => node.admin().deploy("chat", versions[swap % 2].clone()).await?,
        };
        ensure!(deployed.changed, "swap {swap} did nothing");
        let moved = deployed.swap.context("no swap")?;
        ensure!(moved.moved == moved.slots && moved.done, "{moved:?}");
        timeline.labels.lock().unwrap_or_else(PoisonError::into_inner).push(deployed.current.label);
        timeline.ended.store(swap, SeqCst);
    }
    stop.store(true, SeqCst);
    let mut all = Vec::new();
    for writer in writers {
        all.push(writer.await??);
    }

    let api = api(&node);
    let mut ends = BTreeMap::new();
    for number in 0..ROOMS {
        let room = room(number);
        let history = api.whole_history("chat", &room).await?;
        check_versions(&history, &timeline).with_context(|| room.clone())?;
        ends.insert(room, history.len() as u64);
    }
    for observed in all.iter().flatten() {
        check_version(observed, &timeline)?;
    }
    let total: u64 = ends.values().sum();
    let acknowledged: usize = all.iter().map(Vec::len).sum();
    ensure!(total == acknowledged as u64, "{acknowledged} acknowledged, {total} in history");
    println!("{total} messages over {SWAPS} swaps");
    last_seqs.send_replace(Some(ends));
    for listener in listeners {
        listener.await??;
    }
    node.admin().deploy("chat", versions[1].clone()).await?;
    try_join_all((0..ROOMS).map(|number| check_migrated(api.clone(), room(number)))).await?;
    Ok(())
}

/// A client with connections of its own.
fn api(node: &Node) -> Api {
    Api::new(Client::new(node.api().client.address()))
}

fn room(number: usize) -> String {
    format!("room-{}", number % ROOMS)
}

async fn write(
    api: Api,
    number: usize,
    timeline: Arc<Timeline>,
    observed: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<Vec<Observed>> {
    let (room, nick) = (room(number), format!("w{number}"));
    let mut all: Vec<Observed> = Vec::new();
    while !stop.load(SeqCst) {
        let line = all.len();
        let neighbour = (number + ROOMS) % WRITERS;
        let message = say(&nick, &format!("w{neighbour}: this is line {line}"));
        let ended = timeline.ended.load(SeqCst);
        let reply = api.send("chat", &room, message.key(format!("{nick}-{line}"))).await?;
        let begun = timeline.begun.load(SeqCst);
        ensure!(!reply.replayed, "{nick}-{line} was said only once");
        ensure!(all.last().is_none_or(|before| before.reply.seq < reply.seq), "out of order");
        all.push(Observed { reply, swaps: ended..=begun });
        observed.fetch_add(1, SeqCst);
    }
    Ok(all)
}

/// The reply's version is one that could run while its message was under way.
fn check_version(observed: &Observed, timeline: &Timeline) -> anyhow::Result<()> {
    let possible: Vec<_> = observed.swaps.clone().filter_map(|swap| timeline.label(swap)).collect();
    ensure!(
        possible.contains(&observed.reply.plugin),
        "message {} ran {} where {possible:?} could",
        observed.reply.seq,
        observed.reply.plugin
    );
    Ok(())
}

/// A session's versions follow the order of the swaps.
fn check_versions(history: &[Entry], timeline: &Timeline) -> anyhow::Result<()> {
    let mut swap = 0;
    for entry in history {
        while timeline.label(swap).context("a version of no swap")? != entry.plugin {
            swap += 1;
        }
    }
    Ok(())
}

/// Where a listener has come to: every message has one event, and none is missing.
fn follow(seen: &mut u64, event: &Event) -> anyhow::Result<()> {
    ensure!(
        (event.seq, event.index) == (*seen + 1, 0),
        "event {}.{} came after message {seen}",
        event.seq,
        event.index
    );
    *seen = event.seq;
    Ok(())
}

type Target = watch::Receiver<Option<BTreeMap<String, u64>>>;

/// The room's end, once it is known.
fn end_of(target: &Target, room: &str) -> Option<u64> {
    target.borrow().as_ref().and_then(|ends| ends.get(room).copied())
}

async fn listen_socket(api: &Api, room: &str, mut target: Target) -> anyhow::Result<()> {
    let mut socket: Socket = api.socket("chat", room, Some(0)).await?;
    let mut seen = 0;
    while end_of(&target, room).is_none_or(|end| seen < end) {
        tokio::select! {
            changed = target.changed(), if target.borrow().is_none() => changed?,
            frame = socket.frame() => {
                let frame = frame?;
                ensure!(frame["type"] == "event", "{frame}");
                follow(&mut seen, &serde_json::from_value(frame)?)?;
            }
        }
    }
    Ok(())
}

async fn listen_sse(api: &Api, room: &str, mut target: Target) -> anyhow::Result<()> {
    let mut stream: Sse = api.events("chat", room, Some(0), None).await?;
    let mut seen = 0;
    while end_of(&target, room).is_none_or(|end| seen < end) {
        tokio::select! {
            changed = target.changed(), if target.borrow().is_none() => changed?,
            event = stream.next() => match event? {
                Some(event) => follow(&mut seen, &event.json()?)?,
                None => bail!("the stream ended after message {seen}"),
            }
        }
    }
    Ok(())
}

/// A room that went through all swaps answers as one that never knew another version than 2.
async fn check_migrated(api: Api, room: String) -> anyhow::Result<()> {
    // Its first message under version 2, whatever it was on.
    api.send("chat", &room, say("late", "w0: and w1, good night")).await?;
    let twin = format!("{room}-twin");
    for entry in api.whole_history("chat", &room).await? {
        let body = entry.body.context("a line without a body")?;
        api.send("chat", &twin, Message::json(&body)).await?;
    }
    let mut questions = vec![
        json!({"query": "who", "limit": 1000}),
        json!({"query": "top", "limit": 1000}),
        json!({"query": "search", "text": "", "limit": 1000}),
        json!({"query": "search", "text": "LINE 7", "limit": 1000}),
        json!({"query": "topic"}),
        json!({"query": "stats"}),
    ];
    let nicks = (0..WRITERS).map(|number| format!("w{number}"));
    questions.extend(nicks.map(|of| json!({"query": "mentions", "of": of, "limit": 1000})));
    let mut mentions = 0;
    for question in &questions {
        let migrated = timeless(api.query("chat", &room, question).await?);
        let built = timeless(api.query("chat", &twin, question).await?);
        ensure!(migrated == built, "{room}, {question}: {migrated} instead of {built}");
        if question["query"] == "mentions" {
            mentions += built["lines"].as_array().map_or(0, Vec::len);
        }
    }
    ensure!(mentions > 0, "{room}: nobody was mentioned, so nothing was compared");
    let (migrated, built) = (api.session("chat", &room).await?, api.session("chat", &twin).await?);
    ensure!(migrated.plugin == built.plugin, "{migrated:?}, {built:?}");
    let size = |session: &slotd_tests::api::Session| (session.state_keys, session.state_bytes);
    ensure!(size(&migrated) == size(&built), "{migrated:?} instead of {built:?}");
    Ok(())
}

/// Without the times at which things were said.
fn timeless(mut value: Value) -> Value {
    match &mut value {
        Value::Object(map) => {
            map.retain(|name, _| !name.ends_with("_ms"));
            map.values_mut().for_each(|value| *value = timeless(value.take()));
        }
        Value::Array(list) => list.iter_mut().for_each(|value| *value = timeless(value.take())),
        _ => {}
    }
    value
}
