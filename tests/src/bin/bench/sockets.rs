//! Messages over WebSockets, as many in flight on each as slotd accepts.

use crate::{
    Args, SERVICE,
    ceiling::Ceiling,
    in_turn,
    report::{Spread, row},
    start,
};
use serde::Serialize;
use slotd_tests::load::{Outcome, Plan, Protocol};
use std::{net::SocketAddr, path::Path};

/// slotd reads no further than this.
pub const IN_FLIGHT: usize = 64;
/// Each with its own session.
pub const SOCKETS: usize = 64;

#[derive(Serialize)]
pub struct Sockets {
    in_flight: usize,
    one: Shape,
    many: Shape,
}

/// Number of sockets in each round.
#[derive(Serialize)]
struct Shape {
    sockets: usize,
    ceiling: Vec<Outcome>,
    slotd: Vec<Outcome>,
    /// slotd's messages per second over the ceiling's.
    ratio: Spread,
}

/// The load over this many sockets.
pub fn plan(args: &Args, address: SocketAddr, sockets: usize) -> Plan {
    Plan {
        protocol: Protocol::Socket,
        connections: sockets,
        in_flight: IN_FLIGHT,
        sessions: sockets as u64,
        ..Plan::timed(address, SERVICE, args.measure)
    }
}

pub async fn sockets(args: &Args, dir: &Path) -> anyhow::Result<Sockets> {
    println!(
        "\nWebSockets, each of a session of its own with {IN_FLIGHT} messages of 32 bytes under way, \
         plugin counter; ceiling and slotd in turn\n"
    );
    let node = start(dir.join("sockets")).await?;
    let ceiling = Ceiling::start(&dir.join("sockets-ceiling"))?;
    let api = node.api().client.address();
    let plans = [1, SOCKETS]
        .map(|sockets| [plan(args, ceiling.sockets, sockets), plan(args, api, sockets)]);
    let [[ceiling_one, slotd_one], [ceiling_many, slotd_many]] = plans;
    let plans = [ceiling_one, slotd_one, ceiling_many, slotd_many];
    println!("{:>5} | {:<46} | {SOCKETS} sockets", "round", "1 socket");
    let columns =
        format!("{:>10} {:>10} {:>6} {:>8} {:>8}", "ceiling/s", "slotd/s", "ratio", "p50", "p99");
    println!("{:>5} | {columns} | {columns}", "");
    let (mut one, mut many) = (Shape::of(1), Shape::of(SOCKETS));
    for round in 0..args.rounds {
        let [ceiling_one, slotd_one, ceiling_many, slotd_many] = in_turn(&plans, round).await?;
        let left = one.add(ceiling_one, slotd_one);
        println!("{:>5} | {left} | {}", round + 1, many.add(ceiling_many, slotd_many));
    }
    println!();
    one.show();
    many.show();
    Ok(Sockets { in_flight: IN_FLIGHT, one, many })
}

impl Shape {
    fn of(sockets: usize) -> Self {
        Self { sockets, ceiling: Vec::new(), slotd: Vec::new(), ratio: Spread::default() }
    }

    /// Adds a round, and prints it.
    fn add(&mut self, ceiling: Outcome, slotd: Outcome) -> String {
        let line = format!(
            "{:>10.0} {:>10.0} {:>6.2} {:>5.2} ms {:>5.2} ms",
            ceiling.requests_per_second,
            slotd.requests_per_second,
            slotd.requests_per_second / ceiling.requests_per_second,
            slotd.p50_us / 1e3,
            slotd.p99_us / 1e3,
        );
        self.ceiling.push(ceiling);
        self.slotd.push(slotd);
        line
    }

    fn show(&mut self) {
        let rate = |o: &Outcome| o.requests_per_second;
        self.ratio = Spread::over(&self.slotd, &self.ceiling, rate);
        let of = |what: &str| match self.sockets {
            1 => format!("1 socket, {what}"),
            sockets => format!("{sockets} sockets, {what}"),
        };
        row(&of("messages"), Spread::each(&self.slotd, rate).show_as("/s"), "");
        row("  of the ceiling's", self.ratio.show(), "");
        row("  p50", Spread::each(&self.slotd, |o| o.p50_us / 1e3).show_as("ms"), "");
        row("  p99", Spread::each(&self.slotd, |o| o.p99_us / 1e3).show_as("ms"), "");
        row(
            "  the ceiling's p50",
            Spread::each(&self.ceiling, |o| o.p50_us / 1e3).show_as("ms"),
            "",
        );
        row(
            "  the ceiling's p99",
            Spread::each(&self.ceiling, |o| o.p99_us / 1e3).show_as("ms"),
            "",
        );
    }
}
