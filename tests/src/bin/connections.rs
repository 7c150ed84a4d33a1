//! The cost of idle connections: resident memory of a node before, while and after it has a number
//! of WebSockets, then event streams. Prints figures, without checks.
//!
//!     cargo run --release -p slotd-tests --bin connections -- --count 8000

use clap::Parser;
use slotd_tests::{
    connections::{Kind, cost, prepare},
    node::Node,
};
use std::time::Duration;

#[derive(Parser)]
struct Options {
    /// Connections of each kind; both processes need as many file descriptors.
    #[arg(long, default_value_t = 8_000)]
    count: usize,
    /// Seconds between two looks at the memory, until they differ by less than a hundredth.
    #[arg(long, default_value_t = 5)]
    settle: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Options { count, settle } = Options::parse();
    let node = Node::start().await?;
    prepare(&node).await?;
    for kind in [Kind::Socket, Kind::Events, Kind::Socket] {
        let cost = cost(&node, kind, count, Duration::from_secs(settle)).await?;
        println!(
            "{count} x {}: {:.1} KB each; resident {:.1} MB before, {:.1} with them, {:.1} after ({:+.0} %)",
            kind.name(),
            cost.each(count) / 1e3,
            cost.before as f64 / 1e6,
            cost.there as f64 / 1e6,
            cost.after as f64 / 1e6,
            (cost.after as f64 / cost.before as f64 - 1.0) * 100.0,
        );
    }
    Ok(())
}
