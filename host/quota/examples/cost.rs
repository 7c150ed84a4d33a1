//! What the calls on a message's path cost: `cargo run --release -p slotd-quota --example cost`.

#![allow(clippy::disallowed_methods)]

use slotd_quota::{
    buckets::{Asks, Buckets},
    limits,
    policy::Limits,
    share::Share,
    shares::{Shares, Tick, Used},
    usage::Usage,
};
use std::{
    hint::black_box,
    time::{Duration, Instant},
};

const CALLS: u32 = 2_000_000;

/// The best of five, by call: what a call costs, not what the machine does beside it.
fn measure(threads: usize, call: impl Fn(usize, u32) + Sync) -> f64 {
    let once = || {
        let started = Instant::now();
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let call = &call;
                scope.spawn(move || (0..CALLS).for_each(|n| call(thread, n)));
            }
        });
        started.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
    };
    (0..5).map(|_| once()).fold(f64::INFINITY, f64::min)
}

fn row(name: &str, call: impl Fn(usize, u32) + Sync) {
    let [one, two] = [1, 2].map(|threads| measure(threads, &call));
    println!("{name:<64} {one:>7.1} ns {two:>7.1} ns");
}

fn limits_of(text: &str) -> Limits {
    toml::from_str(text).expect("it is right")
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("{:<64} {:>10} {:>10}", "a message", "1 thread", "2 threads");
    let sessions: Vec<_> = (0..10_000).map(|n| format!("room-{n}")).collect();
    let subjects = ["ann", "bob"];
    let start = Instant::now();
    let one = "messages = \"9000000/s\"";
    let three = format!(
        "{one}\nbytes = \"1TiB/s\"\n[subject]\n{one}\nbytes = \"1TiB/s\"\n[session]\n{one}\nbytes = \"1TiB/s\""
    );
    let policies: [(&str, &[(&str, &str)]); 4] = [
        ("no limits anywhere", &[]),
        ("limits, of another service", &[("other", one)]),
        ("1 limit: the service's messages", &[("chat", one)]),
        ("3 levels of 2 limits: service, subject, session", &[("chat", three.as_str())]),
    ];
    for (name, policy) in policies {
        let buckets = Buckets::default();
        let parsed: Vec<_> = policy.iter().map(|(name, text)| (*name, limits_of(text))).collect();
        buckets.set(parsed.iter().map(|(name, limits)| (*name, limits)), Duration::ZERO);
        // One clock for all: it is the caller's, and not measured.
        let now = start.elapsed() + Duration::from_secs(1);
        row(name, |thread, n| {
            let session = &sessions[(n as usize * 7 + thread * 3) % sessions.len()];
            let subject = Some(subjects[thread % subjects.len()]);
            let asks = Asks { service: "chat", subject, session, bytes: 256, key: None };
            let now = now + Duration::from_nanos(u64::from(n) * 1_000);
            black_box(buckets.check(black_box(&asks), now));
        });
    }
    let dir = std::env::temp_dir().join(format!("slotd-quota-cost-{}", std::process::id()));
    let usage = Usage::open(&dir, 1, 0)?.usage;
    row("usage: one account for all", |_, _| {
        usage.add("chat", Some("ann"), |amounts| amounts.messages += 1);
    });
    row("usage: 1,000 subjects", |thread, n| {
        let subject = &sessions[(n as usize * 7 + thread * 3) % 1_000];
        usage.add("chat", Some(subject), |amounts| amounts.messages += 1);
    });
    std::fs::remove_dir_all(dir)?;
    let shares = Shares::new(2.0, Duration::ZERO);
    row("shares: the processor has time to spare", |_, _| {
        black_box(shares.admit("chat", 4, || Duration::ZERO));
    });
    let used = ["chat", "other"].map(|service| Used {
        service,
        time: limits::SHARES_TICK,
        aside: Duration::ZERO,
        done: 1_000,
        open: 10,
    });
    for n in 1..10 {
        let (now, busy) = (n * limits::SHARES_TICK, 2 * limits::SHARES_TICK);
        shares.on(&Tick {
            now,
            busy,
            idle: Duration::ZERO,
            delay: Duration::ZERO,
            services: &used,
        });
    }
    row("shares: it is saturated", |_, n| {
        let now = Duration::from_secs(1) + Duration::from_nanos(u64::from(n) * 1_000);
        black_box(shares.admit("chat", 4, || now));
    });
    let mailbox = parking_lot::Mutex::new(Share::new(1_024));
    row("share: taken and given back, in a mailbox's lock", |thread, n| {
        let mut mailbox = mailbox.lock();
        if mailbox.take(&thread, 1, Duration::from_nanos(n.into())) {
            mailbox.give_back(&thread, 1);
        }
    });
    Ok(())
}
