//! The load generator: one process, one thread. Prints its results as one line of JSON.

use clap::Parser;
use slotd_tests::load::{Extent, Plan, Protocol, run};
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// Sends messages to a slotd (or the benchmark's ceiling, or a Redis) and prints the results.
#[derive(Parser)]
struct Args {
    /// Where to send messages.
    #[arg(long)]
    address: SocketAddr,
    #[arg(long, default_value = "counter")]
    service: String,
    #[arg(long, value_enum, default_value = "http")]
    protocol: Protocol,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Messages in flight on each connection; over HTTP/1.1 it is one.
    #[arg(long, default_value_t = 1)]
    in_flight: usize,
    #[arg(long, default_value_t = 10_000)]
    sessions: u64,
    #[arg(long, default_value_t = 32)]
    body_bytes: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seconds of warm-up.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 5.0)]
    measure: f64,
    /// Over TLS, to a server with a certificate of this authority.
    #[arg(long)]
    ca: Option<PathBuf>,
    /// Send one message to each session instead, then stop.
    #[arg(long)]
    each_once: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let extent = if args.each_once {
        Extent::EachOnce
    } else {
        Extent::Timed {
            warm_up: Duration::from_secs_f64(args.warm_up),
            measure: Duration::from_secs_f64(args.measure),
        }
    };
    let outcome = run(&Plan {
        address: args.address,
        service: args.service,
        protocol: args.protocol,
        connections: args.connections,
        in_flight: args.in_flight,
        sessions: args.sessions,
        body: vec![b'x'; args.body_bytes],
        seed: args.seed,
        extent,
        ca: args.ca,
        // Whoever has started this process has seen to it.
        gives_way: false,
    })?;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}
