//! What servers that are killed, paused and restarted do to the log. Each test has its own three.

use super::*;
use crate::nats::monitor;
use async_nats::jetstream::stream::Info;
use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};
use tokio::task::JoinSet;

const WRITERS: SlotId = 16;

/// What one writer had acknowledged: positions and batches.
type Acknowledged = Vec<(Position, Bytes)>;

/// Writers that append to a slot each, one batch after the other, until they are told to stop.
struct Writers {
    tasks: JoinSet<(SlotId, Claim, Acknowledged)>,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    /// Trims behind the writers: `every` so many batches of a slot.
    trimmed: Arc<AtomicU64>,
}

impl Writers {
    async fn start(log: &Arc<JetStreamLog>, trim_every: Option<u64>) -> Self {
        let mut this = Self {
            tasks: JoinSet::new(),
            stop: Arc::default(),
            count: Arc::default(),
            trimmed: Arc::default(),
        };
        for slot in 0..WRITERS {
            let claim = log.claim(slot, "writer").await.unwrap();
            let (log, stop) = (log.clone(), this.stop.clone());
            let (count, trimmed) = (this.count.clone(), this.trimmed.clone());
            this.tasks.spawn(async move {
                let mut acknowledged: Acknowledged = Vec::new();
                let mut after = claim.position;
                let mut trims = JoinSet::new();
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let append = append(slot, claim, after, number);
                    let batch = append.batch.clone();
                    after = log.commit(append).await.unwrap();
                    acknowledged.push((after, batch));
                    count.fetch_add(1, Ordering::Relaxed);
                    if trim_every.is_some_and(|every| number % every == every - 1) {
                        // Beside the next appends, as a slot does; it may fail, and then the next
                        // one does its work.
                        trims.spawn(log.trim(slot, after));
                    }
                }
                let done = trims.join_all().await.into_iter().filter(Result::is_ok).count();
                trimmed.fetch_add(done as u64, Ordering::Relaxed);
                (slot, claim, acknowledged)
            });
        }
        this
    }

    /// Waits until so many more batches are acknowledged.
    async fn more(&self, batches: u64) {
        let goal = self.count.load(Ordering::Relaxed) + batches;
        while self.count.load(Ordering::Relaxed) < goal {
            assert!(!self.tasks.is_empty());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn stop(mut self) -> Vec<(SlotId, Claim, Acknowledged)> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        while let Some(ended) = self.tasks.join_next().await {
            all.push(ended.unwrap());
        }
        all
    }
}

async fn info(log: &JetStreamLog, group: u16) -> Info {
    let name = format!("slotd-{}-log-{group}", log.shared.nats.options.cluster);
    loop {
        // Without a leader there is no answer.
        if let Ok(stream) = log.shared.nats.jetstream.get_stream(&name).await {
            return stream.cached_info().clone();
        }
    }
}

/// The server that leads a stream.
async fn leader(servers: &Servers, log: &JetStreamLog, group: u16) -> usize {
    loop {
        let leader = info(log, group).await.cluster.and_then(|cluster| cluster.leader);
        let names = servers.local.names();
        if let Some(at) = leader.and_then(|leader| names.iter().position(|name| *name == leader)) {
            return at;
        }
    }
}

async fn restart(servers: &Servers, indexes: &[usize]) {
    for &index in indexes {
        servers.local.start_server(index).await.unwrap();
    }
    servers.local.ready().await.unwrap();
}

/// The state that each server has of each stream, until all agree.
async fn assert_replicas_agree(servers: &Servers) {
    loop {
        let mut seen: HashMap<String, Vec<String>> = HashMap::new();
        for url in servers.local.monitor_urls() {
            let url = url.trim_start_matches("http://").to_owned();
            // One that has only just started may answer nothing, or leave streams out.
            let about = monitor::get(&url, "/jsz?accounts=1&streams=1").await.unwrap_or_default();
            for account in about["account_details"].as_array().into_iter().flatten() {
                for stream in account["stream_detail"].as_array().into_iter().flatten() {
                    let state = &stream["state"];
                    let of = |key| state[key].to_string();
                    let state = ["messages", "bytes", "first_seq", "last_seq", "num_subjects"];
                    let state = state.map(of).join("/");
                    seen.entry(stream["name"].to_string()).or_default().push(state);
                }
            }
        }
        let same =
            |states: &Vec<String>| states.len() == 3 && states.iter().all(|s| *s == states[0]);
        if !seen.is_empty() && seen.values().all(same) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Nothing acknowledged may be lost, doubled or moved when a leader dies under load, nor when all
/// servers do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_batches_survive_killed_servers() {
    let servers = Servers::start().await;
    let log = open(&servers.options()).await;
    let writers = Writers::start(&log, None).await;
    writers.more(500).await;
    let first = leader(&servers, &log, 0).await;
    servers.local.kill(first);
    writers.more(500).await;
    restart(&servers, &[first]).await;
    // The zombie: it takes itself for the leader when it comes back.
    let second = leader(&servers, &log, 1).await;
    servers.local.pause(second);
    writers.more(500).await;
    servers.local.resume(second);
    writers.more(500).await;
    (0..3).for_each(|index| servers.local.kill(index));
    restart(&servers, &[0, 1, 2]).await;
    writers.more(500).await;
    for (slot, claim, acknowledged) in writers.stop().await {
        assert_log(&log, slot, claim.position, &acknowledged).await;
    }
    assert_replicas_agree(&servers).await;
}

/// Trimming removes what is before, and nothing else, whatever happens to the servers meanwhile:
/// the last batch, the term and the expectation stay, on every server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trimming_survives_killed_servers() {
    let servers = Servers::start().await;
    let log = open(&servers.options()).await;
    let writers = Writers::start(&log, Some(7)).await;
    writers.more(500).await;
    for round in 0..2 {
        let leader = leader(&servers, &log, round).await;
        servers.local.kill(leader);
        writers.more(500).await;
        restart(&servers, &[leader]).await;
        writers.more(200).await;
    }
    let trimmed = writers.trimmed.clone();
    let all = writers.stop().await;
    assert!(trimmed.load(Ordering::Relaxed) > 10);
    // A replica that is behind answers reads with what it has: also what is trimmed.
    assert_replicas_agree(&servers).await;
    let mut kept = 0;
    for (slot, claim, acknowledged) in &all {
        let (slot, last) = (*slot, acknowledged.last().unwrap());
        let trimmed = log.read(slot, claim.position, 1_000).await;
        assert!(matches!(trimmed, Err(LogError::Trimmed { .. })), "{trimmed:?}");
        // Some end of what was acknowledged is left, whole; a read from before it says so.
        let mut whole = true;
        for (i, (position, _)) in acknowledged.iter().enumerate().rev().take(20) {
            match log.read(slot, *position, 1).await {
                Ok(_) if whole => assert_log(&log, slot, *position, &acknowledged[i + 1..]).await,
                Err(LogError::Trimmed { .. }) => whole = false,
                other => panic!("slot {slot}: {other:?}"),
            }
        }
        log.trim(slot, last.0).await.unwrap();
        kept += 1;
    }
    assert_replicas_agree(&servers).await;
    let left = info(&log, 0).await.state.messages + info(&log, 1).await.state.messages;
    assert_eq!(left, kept, "one batch of each slot stays");
    // Everything stops; the expectations are rebuilt from what is left.
    (0..3).for_each(|index| servers.local.kill(index));
    restart(&servers, &[0, 1, 2]).await;
    for (slot, claim, acknowledged) in all {
        let last = acknowledged.last().unwrap().0;
        let wrong = append(slot, claim, claim.position, 999);
        assert!(matches!(log.commit(wrong).await, Err(LogError::Fenced { .. })));
        let at = log.commit(append(slot, claim, last, 1_000)).await.unwrap();
        assert_eq!(log.read(slot, last, 1).await.unwrap()[0].position, at);
        assert_eq!(log.claim(slot, "next").await.unwrap().term, claim.term + 1);
    }
}

/// Appends that wait for a stream without a quorum must not hold up slots of other streams. Streams
/// of one copy: what they need is one server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_without_a_quorum_holds_up_no_other() {
    let servers = Servers::start().await;
    let options = NatsOptions { replicas: 1, streams: 8, ..servers.options() };
    let log = open(&options).await;
    let mut on: HashMap<usize, SlotId> = HashMap::new();
    for group in 0..8 {
        on.insert(leader(&servers, &log, group).await, group);
    }
    assert!(on.len() > 1, "the servers share the streams");
    let (&dead, &stuck) = on.iter().next().unwrap();
    let (_, &free) = on.iter().find(|(server, _)| **server != dead).unwrap();
    let stuck: Vec<SlotId> = (0..8).map(|n| stuck + 8 * n).collect();
    let mut claims = Vec::new();
    for &slot in &stuck {
        claims.push(log.claim(slot, "a").await.unwrap());
    }
    let claim = log.claim(free, "a").await.unwrap();
    servers.local.kill(dead);
    let pending: JoinSet<_> = stuck
        .iter()
        .zip(&claims)
        .map(|(&slot, claim)| log.commit(append(slot, *claim, claim.position, 1)))
        .collect();
    let mut after = claim.position;
    for number in 0..200 {
        after = log.commit(append(free, claim, after, number)).await.unwrap();
    }
    restart(&servers, &[dead]).await;
    // Late rather than refused.
    for stored in pending.join_all().await {
        stored.unwrap();
    }
}
