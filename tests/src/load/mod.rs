//! The load generator: messages over HTTP, WebSockets or to Redis, with minimal overhead, because
//! it shares the cores with the measured server.

mod http;
mod pipelined;
mod process;

pub use process::ended;

use crate::histogram::Histogram;
use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use std::{
    cell::Cell,
    net::SocketAddr,
    path::PathBuf,
    rc::Rc,
    time::{Duration, Instant},
};
use tokio::task::LocalSet;

/// What to send, and how much of it.
#[derive(Clone, Debug)]
pub struct Plan {
    pub address: SocketAddr,
    pub service: String,
    pub protocol: Protocol,
    pub connections: usize,
    /// Messages in flight on each connection; over HTTP/1.1 it is one.
    pub in_flight: usize,
    /// Number of sessions, by their [`session`] names. A WebSocket keeps to one: the nth to the
    /// nth.
    pub sessions: u64,
    pub body: Vec<u8>,
    pub seed: u64,
    pub extent: Extent,
    /// Over TLS, to a server with a certificate of this authority; with [`Protocol::Http`] only.
    pub ca: Option<PathBuf>,
    /// In a process of its own: it leaves the processor to others that want it.
    pub gives_way: bool,
}

/// How messages are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// One POST per message.
    Http,
    /// The same by HTTP/2, as many streams at a time as messages are in flight.
    Http2,
    /// Frames of a session's WebSocket.
    Socket,
    /// One XADD per message, to the stream of the session's name.
    Redis,
}

#[derive(Clone, Copy, Debug)]
pub enum Extent {
    /// Messages for a time, to random sessions; the warm-up is not counted.
    Timed { warm_up: Duration, measure: Duration },
    /// One message to each session, in order of their numbers.
    EachOnce,
}

/// The results.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Messages acknowledged (requests answered with 200) within the measured time.
    pub requests: u64,
    /// The same, warm-up included.
    pub requests_all: u64,
    /// Messages answered otherwise, warm-up included.
    pub failed: u64,
    /// The first failure, as status and body, or in the protocol's form.
    pub first_failure: Option<String>,
    pub seconds: f64,
    pub requests_per_second: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
}

/// Runs a plan on the calling thread.
///
/// # Errors
/// If a connection can't be made, breaks, or answers with something outside its protocol. A refused
/// message is counted, not an error.
pub fn run(plan: &Plan) -> anyhow::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, drive(plan))
}

#[derive(Default)]
struct Tally {
    latencies: Histogram,
    answered: u64,
    failed: u64,
    first_failure: Option<String>,
}

impl Tally {
    fn answered(&mut self, window: Window, sent: Instant, answered: Instant) {
        self.answered += 1;
        if window.holds(answered) {
            self.latencies.record(answered - sent);
        }
    }
    fn failed(&mut self, what: impl FnOnce() -> String) {
        self.failed += 1;
        self.first_failure.get_or_insert_with(what);
    }
}

/// The time in which an answer counts, whenever its message was sent: with many in flight, fewer
/// are sent and answered within it than answered. Without an end if one message goes to each
/// session.
#[derive(Clone, Copy)]
struct Window {
    from: Instant,
    until: Option<Instant>,
}

impl Window {
    fn of(extent: Extent, started: Instant) -> Self {
        match extent {
            Extent::Timed { warm_up, measure } => {
                Self { from: started + warm_up, until: Some(started + warm_up + measure) }
            }
            Extent::EachOnce => Self { from: started, until: None },
        }
    }

    fn holds(self, answered: Instant) -> bool {
        answered >= self.from && self.until.is_none_or(|until| answered <= until)
    }
}

async fn drive(plan: &Plan) -> anyhow::Result<Outcome> {
    ensure!(plan.sessions > 0 && plan.connections > 0, "there must be sessions and connections");
    let started = Instant::now();
    let next = Rc::new(Cell::new(0_u64));
    let mut tasks = Vec::with_capacity(plan.connections);
    for index in 0..plan.connections {
        let plan = plan.clone();
        let next = next.clone();
        tasks.push(tokio::task::spawn_local(async move {
            match plan.protocol {
                Protocol::Http => http::connection(plan, index as u64, started, next).await,
                _ => pipelined::connection(plan, index as u64, started).await,
            }
        }));
    }
    let mut all = Tally::default();
    for task in tasks {
        let one = task.await.context("a connection's task")??;
        all.latencies.merge(&one.latencies);
        all.answered += one.answered;
        all.failed += one.failed;
        all.first_failure = all.first_failure.or(one.first_failure);
    }
    let seconds = match plan.extent {
        Extent::Timed { measure, .. } => measure.as_secs_f64(),
        Extent::EachOnce => started.elapsed().as_secs_f64(),
    };
    let us = |d: Duration| d.as_secs_f64() * 1e6;
    let requests = all.latencies.count();
    Ok(Outcome {
        requests,
        requests_all: all.answered,
        failed: all.failed,
        first_failure: all.first_failure,
        seconds,
        requests_per_second: requests as f64 / seconds,
        p50_us: us(all.latencies.quantile(0.5)),
        p90_us: us(all.latencies.quantile(0.9)),
        p99_us: us(all.latencies.quantile(0.99)),
        p999_us: us(all.latencies.quantile(0.999)),
        max_us: us(all.latencies.max()),
    })
}

/// The name of a session of the load.
pub fn session(number: u64) -> String {
    format!("s-{number}")
}

/// SplitMix64: small, fast, the same on every machine.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// A number in `0..bound`; `bound` must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }
}
