//! The cost of idle connections on a node: resident memory before, while and after they exist.

use crate::{
    api::{Message, session_path},
    http::Client,
    node::Node,
    plugins,
};
use anyhow::{Context, ensure};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const SERVICE: &str = "counter";
/// Number of sessions that connections are spread over.
const SESSIONS: usize = 100;
/// Together less than the minute after which a silent socket is closed.
const LOOKS: u32 = 8;
const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Socket,
    Events,
}

/// Resident memory, once the node had settled.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    pub before: u64,
    pub there: u64,
    pub after: u64,
}

impl Cost {
    /// Bytes per connection.
    pub fn each(&self, count: usize) -> f64 {
        (self.there as f64 - self.before as f64) / count as f64
    }
}

impl Kind {
    pub const ALL: [Self; 2] = [Self::Socket, Self::Events];

    pub fn name(self) -> &'static str {
        match self {
            Self::Socket => "WebSocket",
            Self::Events => "event stream",
        }
    }

    /// Opens this many connections that stay idle.
    async fn open(self, client: &Client, count: usize) -> anyhow::Result<Vec<TcpStream>> {
        let (path, headers) = match self {
            Self::Socket => ("socket", UPGRADE),
            Self::Events => ("events", ""),
        };
        let mut open = Vec::with_capacity(count);
        for at in 0..count {
            let session = session_path(SERVICE, &(at % SESSIONS).to_string());
            let request =
                format!("GET {session}/{path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
            let stream = TcpStream::connect(client.address()).await;
            let mut stream = stream.with_context(|| format!("connection {at}"))?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = [0; 1_024];
            let read = stream.read(&mut answer).await?;
            ensure!(
                answer[..read].starts_with(b"HTTP/1.1 101")
                    || answer[..read].starts_with(b"HTTP/1.1 200"),
                "{}",
                String::from_utf8_lossy(&answer[..read])
            );
            open.push(stream);
        }
        Ok(open)
    }
}

/// Creates the sessions, and what the first connections leave for later ones to reuse.
///
/// # Errors
/// When the node refuses.
pub async fn prepare(node: &Node) -> anyhow::Result<()> {
    node.admin().deploy(SERVICE, plugins::load("counter")?).await?;
    let api = node.api();
    for session in 0..SESSIONS {
        api.send(SERVICE, &session.to_string(), Message::bytes("x")).await?;
    }
    for kind in Kind::ALL {
        drop(kind.open(&api.client, 200).await?);
    }
    Ok(())
}

/// The memory that connections of a kind cost a prepared node, sampled at interval `every`.
///
/// # Errors
/// If the node refuses one, or has closed one during the measurement.
pub async fn cost(node: &Node, kind: Kind, count: usize, every: Duration) -> anyhow::Result<Cost> {
    let before = settled_bytes(node, every).await?;
    let connections = kind.open(&node.api().client, count).await?;
    let there = settled_bytes(node, every).await?;
    for connection in &connections {
        // Pings and comments may have arrived; the end must not.
        let ended = matches!(connection.try_read(&mut [0; 1_024]), Ok(0));
        ensure!(!ended, "the node has closed a {}", kind.name());
    }
    drop(connections);
    let after = settled_bytes(node, every).await?;
    Ok(Cost { before, there, after })
}

/// Resident memory once the node is idle: what it keeps, not what the load before needed. Idle
/// means that two samples, `every` apart, differ by less than 1 %.
///
/// # Errors
/// If the node does not run.
pub async fn settled_bytes(node: &Node, every: Duration) -> anyhow::Result<u64> {
    let mut before = node.resident_bytes()?;
    for _ in 0..LOOKS {
        tokio::time::sleep(every).await;
        let now = node.resident_bytes()?;
        if now.abs_diff(before) < before / 100 {
            return Ok(now);
        }
        before = now;
    }
    Ok(before)
}
