//! Clusters under load while everything goes wrong that may; afterwards a checker judges what the
//! clients saw.
//!
//! | variable | |
//! |---|---|
//! | `SLOTD_TEST_CHAOS_SEEDS` | seeds instead of the fixed ones, separated by commas |
//! | `SLOTD_TEST_CHAOS_MINUTES` | go on with the seeds that follow until so many minutes are over |
//! | `SLOTD_TEST_CHAOS_MIXTURES` | turns of several faults in each run |
//! | `SLOTD_TEST_CHAOS_ONLY` | only these faults, by name, as in the printed schedule |

use slotd_tests::{
    chaos::{self, Plan},
    cluster::net::net_or_skip,
    node::scenario_within,
};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// For one seed.
const RUN_WITHIN: Duration = Duration::from_secs(15 * 60);

/// One cluster at a time: several at once would only be slow, and slow is a fault of its own.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Runs the plan with each seed, on a network whose links can be cut if `links`.
fn run(test: &str, seeds: &[u64], mut plan: Plan, links: bool) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let number = |name: &str| variable(name).map(|value| value.parse::<u64>().expect(name));
    if let Some(mixtures) = number("SLOTD_TEST_CHAOS_MIXTURES") {
        plan.mixtures = mixtures as usize;
    }
    plan.only = variable("SLOTD_TEST_CHAOS_ONLY")
        .map(|names| names.split(',').map(str::to_owned).collect())
        .unwrap_or_default();
    let mut seeds: Vec<u64> = variable("SLOTD_TEST_CHAOS_SEEDS").map_or(seeds.to_vec(), |given| {
        given.split(',').map(|seed| seed.trim().parse().expect("a seed")).collect()
    });
    let minutes = number("SLOTD_TEST_CHAOS_MINUTES").unwrap_or(0);
    let until = Instant::now() + Duration::from_secs(60 * minutes);
    while let Some(seed) = seeds.first().copied() {
        seeds.remove(0);
        if links {
            let Some(net) = net_or_skip(test) else { return };
            let (_, client) = net.add().expect("a host for the clients");
            let plan = plan.clone();
            client.run(move || one(seed, plan, Some(Arc::new(net))));
        } else {
            one(seed, plan.clone(), None);
        }
        if seeds.is_empty() && Instant::now() < until {
            seeds.push(seed + 1);
        }
    }
}

fn one(seed: u64, plan: Plan, net: Option<Arc<slotd_tests::cluster::net::Net>>) {
    scenario_within(RUN_WITHIN, async { chaos::run(seed, plan, net).await.map(drop) });
}

/// Without it, nothing would show that a cluster keeps its promises under each single fault.
#[test]
fn each_fault_by_itself() {
    let plan = Plan { in_turn: true, ..Plan::default() };
    run("each_fault_by_itself", &[1], plan, true);
}

/// Without it, two faults at once might do together what neither does alone.
#[test]
fn faults_in_mixture() {
    let plan = Plan { mixtures: 6, ..Plan::default() };
    run("faults_in_mixture", &[11], plan, true);
}

/// Without it, a machine that does not allow network namespaces would show nothing at all.
#[test]
fn faults_on_loopback() {
    let plan = Plan { mixtures: 4, ..Plan::default() };
    run("faults_on_loopback", &[21], plan, false);
}
