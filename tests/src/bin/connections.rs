//! What idle connections cost: resident memory of a node with so many WebSockets, and with so many
//! event streams, before, while and after they are there. Prints; judges nothing.
//!
//!     cargo run --release -p slotd-tests --bin connections -- --count 8000

use anyhow::Context;
use clap::Parser;
use slotd_tests::{
    api::{Message, session_path},
    http::Client,
    node::Node,
    plugins,
};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

#[derive(Parser)]
struct Options {
    /// Connections of each kind; both processes need as many file descriptors.
    #[arg(long, default_value_t = 8_000)]
    count: usize,
    /// Sessions that they are spread over.
    #[arg(long, default_value_t = 100)]
    sessions: usize,
    /// Seconds that the allocator has to give memory back.
    #[arg(long, default_value_t = 20)]
    settle: u64,
}

const SOCKET: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                      Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let node = Node::start().await?;
    node.admin().deploy("counter", plugins::load("counter")?).await?;
    let api = node.api();
    for session in 0..options.sessions {
        api.send("counter", &session.to_string(), Message::bytes("x")).await?;
    }
    let settle = Duration::from_secs(options.settle);
    // The first requests leave what the later ones use.
    drop(open(&api.client, "events", "", 200, options.sessions).await?);
    drop(open(&api.client, "socket", SOCKET, 200, options.sessions).await?);
    tokio::time::sleep(settle).await;
    for (kind, path, headers) in [
        ("WebSocket", "socket", SOCKET),
        ("event stream", "events", ""),
        ("WebSocket", "socket", SOCKET),
    ] {
        let before = node.resident_bytes()?;
        let connections = open(&api.client, path, headers, options.count, options.sessions).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let there = node.resident_bytes()?;
        drop(connections);
        tokio::time::sleep(settle).await;
        let after = node.resident_bytes()?;
        println!(
            "{} x {kind}: {:.1} KB each; resident {:.1} MB before, {:.1} with them, {:.1} after ({:+.0} %)",
            options.count,
            (there as f64 - before as f64) / options.count as f64 / 1e3,
            before as f64 / 1e6,
            there as f64 / 1e6,
            after as f64 / 1e6,
            (after as f64 / before as f64 - 1.0) * 100.0,
        );
    }
    Ok(())
}

async fn open(
    client: &Client,
    path: &str,
    headers: &str,
    count: usize,
    sessions: usize,
) -> anyhow::Result<Vec<TcpStream>> {
    let mut open = Vec::with_capacity(count);
    for at in 0..count {
        let session = session_path("counter", &(at % sessions).to_string());
        let request = format!("GET {session}/{path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        let stream = TcpStream::connect(client.address()).await;
        let mut stream = stream.with_context(|| format!("connection {at}"))?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = [0; 1_024];
        let read = stream.read(&mut answer).await?;
        anyhow::ensure!(
            answer[..read].starts_with(b"HTTP/1.1 101")
                || answer[..read].starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&answer[..read])
        );
        open.push(stream);
    }
    Ok(open)
}
