//! Appends a second of the log on JetStream beside those of a bare async-nats program, on three
//! servers that this starts: `cargo run --release -p slotd-core --example log_figures [seconds]`.
//!
//! Both append batches of the same bytes to the same number of subjects, one after the other each,
//! with the same expectation header. They take turns, so that a machine that is busy is for both.

// Its tasks are its own, not the library's.
#![allow(clippy::disallowed_methods)]

use anyhow::Context;
use async_nats::{
    HeaderMap, HeaderValue,
    header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE,
    jetstream::{self, context::PublishErrorKind},
};
use bytes::Bytes;
use slotd_core::{
    log::{
        Append, SlotLog,
        jetstream::{JetStreamLog, batch_bytes_max},
        record::{Batch, Record},
    },
    nats::{
        Nats, NatsOptions,
        local::{LocalOptions, LocalServers},
    },
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

const SLOTS: u16 = 64;
const STREAMS: u16 = 4;
const ROUNDS: usize = 3;
/// About a message of 256 bytes with what is stored of it; and twenty of them.
const BATCH_BYTES: [usize; 2] = [400, 8_000];

fn main() -> anyhow::Result<()> {
    let seconds = std::env::args().nth(1).map_or(Ok(4), |arg| arg.parse()).context("seconds")?;
    tokio::runtime::Runtime::new()?.block_on(run(Duration::from_secs(seconds)))
}

async fn run(time: Duration) -> anyhow::Result<()> {
    let dir = std::env::temp_dir().join(format!("log-figures-{}", std::process::id()));
    let servers = LocalServers::start(LocalOptions::new(3, &dir)).await?;
    let options = NatsOptions {
        servers: servers.urls(),
        credentials: None,
        tls: Default::default(),
        cluster: "figures".into(),
        replicas: 3,
        streams: STREAMS,
        boot_wait: Duration::from_secs(60),
    };
    let nats = Nats::connect(options.clone()).await?;
    let log = Arc::new(JetStreamLog::open(nats.clone(), SLOTS, batch_bytes_max(1 << 20)).await?);
    for group in 0..STREAMS {
        let config = jetstream::stream::Config {
            name: format!("bare-{group}"),
            subjects: vec![format!("bare.{group}.*")],
            num_replicas: 3,
            ..Default::default()
        };
        nats.jetstream.get_or_create_stream(config).await?;
    }
    println!("| slots | bytes | by | appends/s | p50 ms | p99 ms |\n|---|---|---|---|---|---|");
    for slots in [1, SLOTS] {
        for bytes in BATCH_BYTES {
            let (mut bare, mut own) = (Figures::default(), Figures::default());
            for _ in 0..ROUNDS {
                bare.add(
                    appends(slots, time, |slot| bare_writer(options.clone(), slot, bytes)).await?,
                );
                own.add(appends(slots, time, |slot| own_writer(log.clone(), slot, bytes)).await?);
            }
            let (ratio, seconds) = (own.rate(time) / bare.rate(time), time);
            bare.print(slots, bytes, "bare async-nats", seconds);
            own.print(slots, bytes, &format!("slotd's log ({ratio:.2})"), seconds);
        }
    }
    drop(servers);
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

#[derive(Default)]
struct Figures {
    rounds: u32,
    latencies: Vec<Duration>,
}

impl Figures {
    fn add(&mut self, latencies: Vec<Duration>) {
        self.rounds += 1;
        self.latencies.extend(latencies);
    }

    fn rate(&self, time: Duration) -> f64 {
        self.latencies.len() as f64 / (time * self.rounds).as_secs_f64()
    }

    fn print(&mut self, slots: u16, bytes: usize, by: &str, time: Duration) {
        self.latencies.sort_unstable();
        let at = |part: f64| {
            let index = (self.latencies.len() as f64 * part) as usize;
            self.latencies.get(index).map_or(f64::NAN, |l| l.as_secs_f64() * 1e3)
        };
        let (rate, p50, p99) = (self.rate(time), at(0.5), at(0.99));
        println!("| {slots} | {bytes} | {by} | {rate:.0} | {p50:.2} | {p99:.2} |");
    }
}

/// One append after the other: each call appends once and says how long it took.
type Writer = Box<dyn AsyncAppend>;

trait AsyncAppend: Send {
    fn append(&mut self) -> futures_util::future::BoxFuture<'_, anyhow::Result<()>>;
}

async fn appends<F: Future<Output = anyhow::Result<Writer>>>(
    slots: u16,
    time: Duration,
    writer: impl Fn(u16) -> F,
) -> anyhow::Result<Vec<Duration>> {
    let mut tasks = JoinSet::new();
    let mut writers = Vec::new();
    for slot in 0..slots {
        writers.push(writer(slot).await?);
    }
    let end = Instant::now() + time;
    for mut writer in writers {
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            while Instant::now() < end {
                let started = Instant::now();
                writer.append().await?;
                latencies.push(started.elapsed());
            }
            anyhow::Ok(latencies)
        });
    }
    let mut all = Vec::new();
    while let Some(latencies) = tasks.join_next().await {
        all.extend(latencies??);
    }
    Ok(all)
}

struct Bare {
    jetstream: jetstream::Context,
    subject: String,
    after: u64,
    batch: Bytes,
}

async fn bare_writer(options: NatsOptions, slot: u16, bytes: usize) -> anyhow::Result<Writer> {
    // One connection for all, as in slotd.
    static CLIENT: tokio::sync::OnceCell<async_nats::Client> = tokio::sync::OnceCell::const_new();
    let client = CLIENT.get_or_try_init(|| async_nats::connect(options.servers)).await?;
    let jetstream = jetstream::new(client.clone());
    let subject = format!("bare.{}.{slot}", slot % STREAMS);
    let stream = jetstream.get_stream_no_info(format!("bare-{}", slot % STREAMS)).await?;
    let last = stream.get_last_raw_message_by_subject(&subject).await;
    let after = last.map_or(0, |message| message.sequence);
    Ok(Box::new(Bare { jetstream, subject, after, batch: batch(slot, 1, bytes)? }))
}

impl AsyncAppend for Bare {
    fn append(&mut self) -> futures_util::future::BoxFuture<'_, anyhow::Result<()>> {
        Box::pin(async {
            loop {
                let mut headers = HeaderMap::new();
                let after = HeaderValue::from(self.after);
                headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, after);
                let (subject, batch) = (self.subject.clone(), self.batch.clone());
                let sent = self.jetstream.publish_with_headers(subject, headers, batch).await?;
                match sent.await {
                    Ok(ack) => {
                        self.after = ack.sequence;
                        return Ok(());
                    }
                    // Spurious under load. Good enough where nobody counts what is stored.
                    Err(e) if e.kind() == PublishErrorKind::Other => {}
                    Err(e) => return Err(e.into()),
                }
            }
        })
    }
}

struct Own {
    log: Arc<JetStreamLog>,
    append: Append,
}

async fn own_writer(log: Arc<JetStreamLog>, slot: u16, bytes: usize) -> anyhow::Result<Writer> {
    let claim = log.claim(slot, "figures").await?;
    let batch = batch(slot, claim.term, bytes)?;
    let append = Append { slot, term: claim.term, after: claim.position, batch };
    Ok(Box::new(Own { log, append }))
}

impl AsyncAppend for Own {
    fn append(&mut self) -> futures_util::future::BoxFuture<'_, anyhow::Result<()>> {
        Box::pin(async {
            self.append.after = self.log.commit(self.append.clone()).await?;
            Ok(())
        })
    }
}

fn batch(slot: u16, term: u64, bytes: usize) -> anyhow::Result<Bytes> {
    let records = vec![Record::Release { node: "x".repeat(bytes) }];
    Ok(Batch { slot, term, attempt: 1, records }.encode()?)
}
