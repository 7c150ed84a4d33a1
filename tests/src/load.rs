//! The load generator's engine: HTTP/1.1 over keep-alive connections with as little of its own
//! work as possible, because it shares the cores with the server that it measures.

use crate::histogram::Histogram;
use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use std::{
    cell::Cell,
    io::Write as _,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::LocalSet,
};

/// What to send, and how much of it.
#[derive(Clone, Debug)]
pub struct Plan {
    pub address: SocketAddr,
    pub service: String,
    /// Connections, each with one request under way.
    pub connections: usize,
    /// How many sessions, by their [`session`] names.
    pub sessions: u64,
    pub body: Vec<u8>,
    pub seed: u64,
    pub extent: Extent,
}

#[derive(Clone, Copy, Debug)]
pub enum Extent {
    /// Sessions drawn at random, for a time; what happens in the warm-up is not counted.
    Timed { warm_up: Duration, measure: Duration },
    /// One message to each session, in order of their numbers.
    EachOnce,
}

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Requests answered with 200 within the measured time.
    pub requests: u64,
    /// Requests answered with 200, warm-up included.
    pub requests_all: u64,
    /// Requests answered otherwise, warm-up included.
    pub failed: u64,
    /// The first failure, as status and body.
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
/// When a connection can't be made, breaks, or answers with something that is not HTTP/1.1 with
/// a content length. An answer other than 200 is counted, not an error.
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

async fn drive(plan: &Plan) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let next = Rc::new(Cell::new(0_u64));
    let mut tasks = Vec::with_capacity(plan.connections);
    for index in 0..plan.connections {
        let plan = plan.clone();
        let next = next.clone();
        tasks.push(tokio::task::spawn_local(connection(plan, index as u64, started, next)));
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

/// One connection: sends, waits, sends again.
async fn connection(
    plan: Plan,
    index: u64,
    started: Instant,
    next: Rc<Cell<u64>>,
) -> anyhow::Result<Tally> {
    let mut wire = Wire::connect(plan.address).await?;
    let mut random = Random::new(plan.seed ^ (index << 32));
    let mut tally = Tally::default();
    let (from, until) = match plan.extent {
        Extent::Timed { warm_up, measure } => {
            (started + warm_up, Some(started + warm_up + measure))
        }
        Extent::EachOnce => (started, None),
    };
    loop {
        let session = match plan.extent {
            Extent::Timed { .. } => random.below(plan.sessions),
            Extent::EachOnce => {
                let n = next.replace(next.get() + 1);
                if n >= plan.sessions {
                    return Ok(tally);
                }
                n
            }
        };
        wire.prepare(&plan.service, session, &plan.body)?;
        let sent = Instant::now();
        let status = wire.exchange().await?;
        let answered = Instant::now();
        if status == 200 {
            tally.answered += 1;
            if sent >= from && until.is_none_or(|until| answered <= until) {
                tally.latencies.record(answered - sent);
            }
        } else {
            tally.failed += 1;
            tally.first_failure.get_or_insert_with(|| {
                format!("{status}: {}", String::from_utf8_lossy(wire.body()))
            });
        }
        if until.is_some_and(|until| answered >= until) {
            return Ok(tally);
        }
    }
}

/// The name of a session of the load.
pub fn session(number: u64) -> String {
    format!("s-{number}")
}

/// A connection with its buffers.
struct Wire {
    stream: TcpStream,
    request: Vec<u8>,
    response: Vec<u8>,
    filled: usize,
    body: (usize, usize),
}

/// More than any answer of the benchmark has.
const RESPONSE_BYTES_MAX: usize = 16 * 1024;

impl Wire {
    async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        let response = vec![0; RESPONSE_BYTES_MAX];
        Ok(Self { stream, request: Vec::with_capacity(512), response, filled: 0, body: (0, 0) })
    }

    fn prepare(&mut self, service: &str, number: u64, body: &[u8]) -> std::io::Result<()> {
        let session = session(number);
        self.request.clear();
        write!(
            self.request,
            "POST /v1/services/{service}/sessions/{session}/messages HTTP/1.1\r\n\
             host: slotd\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )?;
        self.request.extend_from_slice(body);
        Ok(())
    }

    /// Sends what was prepared and reads one answer; gives its status.
    async fn exchange(&mut self) -> anyhow::Result<u16> {
        self.stream.write_all(&self.request).await.context("sending a request")?;
        self.filled = 0;
        loop {
            ensure!(self.filled < self.response.len(), "an answer over {RESPONSE_BYTES_MAX} bytes");
            let read = self.stream.read(&mut self.response[self.filled..]).await?;
            ensure!(read > 0, "the server closed the connection in an answer");
            self.filled += read;
            if let Some((status, start, length)) = parse(&self.response[..self.filled])? {
                self.body = (start, start + length);
                if self.filled >= start + length {
                    ensure!(self.filled == start + length, "bytes after an answer");
                    return Ok(status);
                }
            }
        }
    }

    fn body(&self) -> &[u8] {
        &self.response[self.body.0..self.body.1]
    }
}

/// Status, where the body starts and how long it is; `None` while the head is not whole.
fn parse(bytes: &[u8]) -> anyhow::Result<Option<(u16, usize, usize)>> {
    let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { return Ok(None) };
    let head = &bytes[..end];
    ensure!(head.starts_with(b"HTTP/1.1 ") && head.len() >= 12, "not an HTTP/1.1 answer");
    let status = head[9..12].iter().fold(0_u16, |n, b| n * 10 + u16::from(b.wrapping_sub(b'0')));
    const NAME: &[u8] = b"content-length:";
    for line in head.split(|&b| b == b'\n') {
        if line.len() > NAME.len() && line[..NAME.len()].eq_ignore_ascii_case(NAME) {
            let value = std::str::from_utf8(&line[NAME.len()..])?.trim();
            return Ok(Some((status, end + 4, value.parse()?)));
        }
    }
    bail!("an answer without a content length: {}", String::from_utf8_lossy(head))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A parser that takes half an answer for a whole one would measure nonsense.
    #[test]
    fn an_answer_is_whole_only_with_its_body() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nx: y\r\n\r\nok";
        assert_eq!(parse(whole).ok().flatten(), Some((200, whole.len() - 2, 2)));
        assert_eq!(parse(&whole[..40]).ok().flatten(), None);
        assert!(parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
        assert!(parse(b"SSH-2.0-x\r\n\r\n").is_err());
    }
}
