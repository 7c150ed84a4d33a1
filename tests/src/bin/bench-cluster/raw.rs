//! The ceiling: compare-and-swap appends with only async-nats, to streams like slotd's.

use anyhow::{Context, bail, ensure};
use async_nats::{
    Client, HeaderMap, Request,
    header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE,
    jetstream::{
        self,
        stream::{Config, DiscardPolicy, StorageType},
    },
};
use bytes::Bytes;
use serde::Deserialize;
use slotd_tests::{cluster::engine::Engine, load::Random};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Appends that measure what a stream adds to a payload.
const SAMPLES: u64 = 64;
const SAMPLE_BYTES: usize = 256;
/// JetStream's inconclusive "wrong last sequence" (an append is in flight): retry.
const CONFLICT: u64 = 10_164;
const CONFLICTS_IN_A_ROW_MAX: u32 = 100;

/// Streams, and one client per server.
pub struct Raw {
    clients: Vec<Client>,
    subjects: Vec<Subject>,
    streams: u16,
}

struct Subject {
    name: String,
    /// Its last sequence number.
    last: u64,
}

#[derive(Deserialize)]
struct Ack {
    #[serde(default)]
    seq: u64,
    error: Option<AckError>,
}

#[derive(Deserialize)]
struct AckError {
    err_code: u64,
    description: String,
}

fn stream_name(group: u16) -> String {
    format!("bench-raw-{group}")
}

impl Raw {
    /// As many streams and subjects as slotd has, configured in the same way.
    ///
    /// # Errors
    /// If they can't be created.
    pub async fn start(engine: &Engine, streams: u16, subjects: u16) -> anyhow::Result<Self> {
        let mut clients = Vec::new();
        for url in engine.urls() {
            clients.push(async_nats::connect(url).await?);
        }
        let first = clients.first().context("no server")?;
        let context = jetstream::new(first.clone());
        for group in 0..streams {
            let config = Config {
                name: stream_name(group),
                subjects: vec![format!("bench.raw.{group}.*")],
                storage: StorageType::File,
                num_replicas: engine.count(),
                discard: DiscardPolicy::New,
                deny_delete: true,
                allow_direct: true,
                ..Config::default()
            };
            context.create_stream(config).await?;
        }
        let subject =
            |number| Subject { name: format!("bench.raw.{}.{number}", number % streams), last: 0 };
        Ok(Self { clients, subjects: (0..subjects).map(subject).collect(), streams })
    }

    /// Bytes that a stream stores in addition to the payload, per message. Must be measured before
    /// anything else is appended.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn overhead(&mut self) -> anyhow::Result<u64> {
        let client = self.clients.first().context("no server")?.clone();
        let subject = self.subjects.first_mut().context("no subject")?;
        let payload = Bytes::from(vec![b'x'; SAMPLE_BYTES]);
        for _ in 0..SAMPLES {
            subject.append(&client, &payload).await?;
        }
        let stream = jetstream::new(client).get_stream(stream_name(0)).await?;
        let state = &stream.cached_info().state;
        ensure!(state.messages == SAMPLES, "{} of {SAMPLES} are there", state.messages);
        Ok((state.bytes / SAMPLES).saturating_sub(SAMPLE_BYTES as u64))
    }

    /// Appends for a time; returns appends per second, and the total including warm-up. At most
    /// `in_flight` at once, and at most one per subject.
    ///
    /// # Errors
    /// When an append fails.
    pub async fn run(
        &mut self,
        in_flight: usize,
        payload_bytes: usize,
        warm_up: Duration,
        measure: Duration,
    ) -> anyhow::Result<(f64, u64)> {
        let payload = Bytes::from(vec![b'x'; payload_bytes]);
        let mut shares: Vec<Vec<Subject>> = (0..in_flight).map(|_| Vec::new()).collect();
        for (number, subject) in self.subjects.drain(..).enumerate() {
            shares[number % in_flight].push(subject);
        }
        shares.retain(|share| !share.is_empty());
        let from = Instant::now() + warm_up;
        let until = from + measure;
        let mut tasks = JoinSet::new();
        for (number, mut share) in shares.into_iter().enumerate() {
            let client = self.clients[number % self.clients.len()].clone();
            let payload = payload.clone();
            tasks.spawn(async move {
                let mut random = Random::new(number as u64);
                let (mut count, mut all) = (0_u64, 0_u64);
                while Instant::now() < until {
                    let chosen = random.below(share.len() as u64) as usize;
                    let begun = Instant::now();
                    share[chosen].append(&client, &payload).await?;
                    count += u64::from(begun >= from && Instant::now() <= until);
                    all += 1;
                }
                anyhow::Ok((count, all, share))
            });
        }
        let (mut appends, mut all_appends) = (0, 0);
        while let Some(ended) = tasks.join_next().await {
            let (count, all, share) = ended??;
            appends += count;
            all_appends += all;
            self.subjects.extend(share);
        }
        Ok((appends as f64 / measure.as_secs_f64(), all_appends))
    }

    /// Removes the streams.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn remove(self) -> anyhow::Result<()> {
        let context = jetstream::new(self.clients.first().context("no server")?.clone());
        for group in 0..self.streams {
            context.delete_stream(stream_name(group)).await?;
        }
        Ok(())
    }
}

impl Subject {
    async fn append(&mut self, client: &Client, payload: &Bytes) -> anyhow::Result<()> {
        for _ in 0..CONFLICTS_IN_A_ROW_MAX {
            let mut headers = HeaderMap::new();
            headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, self.last.to_string());
            let request = Request::new()
                .headers(headers)
                .payload(payload.clone())
                .timeout(Some(ANSWER_WITHIN));
            let answer = client.send_request(self.name.clone(), request).await?;
            let ack: Ack = serde_json::from_slice(&answer.payload)?;
            match ack.error {
                None => {
                    self.last = ack.seq;
                    return Ok(());
                }
                Some(error) if error.err_code == CONFLICT => {}
                Some(error) => bail!("{}: {}", self.name, error.description),
            }
        }
        bail!("{}: only conflicts", self.name)
    }
}
