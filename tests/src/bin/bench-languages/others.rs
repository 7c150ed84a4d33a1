//! Clients of another service on the same node, at a low rate, to measure the effect on them.

use anyhow::Context;
use serde::Serialize;
use slotd_tests::{
    api::{Api, Message},
    histogram::Histogram,
    http::Client,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

const CLIENTS: usize = 8;
/// Pause between an answer and the client's next message.
const PAUSE: Duration = Duration::from_millis(4);

/// Latencies of some messages.
#[derive(Clone, Copy, Default, Serialize)]
pub struct Latency {
    pub messages: u64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
}

/// Clients that send messages until they are stopped.
pub struct Others {
    clients: Vec<JoinHandle<anyhow::Result<Histogram>>>,
    stop: Arc<AtomicBool>,
}

impl Others {
    /// Starts clients with a connection each, over many sessions and slots.
    pub fn start(api: &Api, service: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |number: usize| {
            let api = Api::new(Client::new(api.client.address()));
            let stop = stop.clone();
            tokio::spawn(async move {
                let mut latencies = Histogram::default();
                for turn in 0.. {
                    if stop.load(SeqCst) {
                        break;
                    }
                    let session = format!("others-{number}-{}", turn % 100);
                    let sent = Instant::now();
                    api.send(service, &session, Message::bytes("1")).await?;
                    latencies.record(sent.elapsed());
                    tokio::time::sleep(PAUSE).await;
                }
                Ok(latencies)
            })
        };
        Self { clients: (0..CLIENTS).map(client).collect(), stop }
    }

    /// # Errors
    /// If one of their messages failed.
    pub async fn stop(self) -> anyhow::Result<Latency> {
        self.stop.store(true, SeqCst);
        let mut all = Histogram::default();
        for client in self.clients {
            all.merge(&client.await?.context("a client of the other service")?);
        }
        let us = |d: Duration| d.as_secs_f64() * 1e6;
        Ok(Latency {
            messages: all.count(),
            p50_us: us(all.quantile(0.5)),
            p99_us: us(all.quantile(0.99)),
            max_us: us(all.max()),
        })
    }
}
