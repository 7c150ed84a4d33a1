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
    chaos::{
        self, Plan,
        schedule::{Fault, Planned, Schedule, Turn},
    },
    cluster::net::{Net, net_or_skip},
    node::scenario_within,
    notice::say,
};
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

/// For one seed.
const RUN_WITHIN: Duration = Duration::from_secs(15 * 60);

/// What a test runs unless variables say otherwise.
#[derive(Clone, Copy)]
struct Run {
    test: &'static str,
    seed: u64,
    in_turn: bool,
    mixtures: usize,
    /// On a network whose links can be cut.
    links: bool,
    effects: bool,
}

const EACH_FAULT: Run = Run {
    test: "each_fault_by_itself",
    seed: 1,
    in_turn: true,
    mixtures: 0,
    links: true,
    effects: false,
};
const MIXTURE: Run =
    Run { test: "faults_in_mixture", seed: 31, in_turn: false, mixtures: 7, ..EACH_FAULT };
const LOOPBACK: Run = Run {
    test: "faults_on_loopback",
    seed: 39,
    mixtures: 3,
    links: false,
    effects: true,
    ..EACH_FAULT
};

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Run {
    fn plan(self) -> Plan {
        let Self { in_turn, mixtures, effects, .. } = self;
        Plan { in_turn, mixtures, effects, ..Plan::default() }
    }

    /// Runs the plan with the seed, or with each that is given.
    fn go(self) {
        let _alone = crate::alone();
        let number = |name: &str| variable(name).map(|value| value.parse::<u64>().expect(name));
        let mut plan = self.plan();
        if let Some(mixtures) = number("SLOTD_TEST_CHAOS_MIXTURES") {
            plan.mixtures = mixtures as usize;
        }
        plan.only = variable("SLOTD_TEST_CHAOS_ONLY")
            .map(|names| names.split(',').map(str::to_owned).collect())
            .unwrap_or_default();
        let given = variable("SLOTD_TEST_CHAOS_SEEDS");
        let mut seeds: Vec<u64> = given.map_or(vec![self.seed], |given| {
            given.split(',').map(|seed| seed.trim().parse().expect("a seed")).collect()
        });
        let minutes = number("SLOTD_TEST_CHAOS_MINUTES").unwrap_or(0);
        let until = Instant::now() + Duration::from_secs(60 * minutes);
        while let Some(seed) = seeds.first().copied() {
            seeds.remove(0);
            if self.links {
                let Some(net) = net_or_skip(self.test) else { return };
                let (_, client) = net.add().expect("a host for the clients");
                let plan = plan.clone();
                client.run(move || self.one(seed, plan, Some(Arc::new(net))));
            } else {
                self.one(seed, plan.clone(), None);
            }
            if seeds.is_empty() && Instant::now() < until {
                seeds.push(seed + 1);
            }
        }
    }

    fn one(self, seed: u64, plan: Plan, net: Option<Arc<Net>>) {
        let test = self.test;
        say(&format!("chaos: {test} with seed {seed}"));
        let started = Instant::now();
        scenario_within(RUN_WITHIN, async {
            let report = chaos::run(seed, plan, net).await;
            let took = started.elapsed().as_secs();
            match &report {
                Ok(report) => say(&format!("chaos: {test} with seed {seed}, {took} s: {report}")),
                Err(_) => say(&format!("chaos: {test} with seed {seed} failed after {took} s")),
            }
            report.map(drop)
        });
    }
}

/// Without it, nothing would show that a cluster keeps its promises under each single fault.
#[test]
fn each_fault_by_itself() {
    EACH_FAULT.go();
}

/// Without it, two faults at once might do together what neither does alone.
#[test]
fn faults_in_mixture() {
    MIXTURE.go();
}

/// Without it, a machine that does not allow network namespaces would show nothing at all.
#[test]
fn faults_on_loopback() {
    LOOPBACK.go();
}

/// The turns of one fault, and the mixtures.
fn parts(schedule: &Schedule, run: Run) -> (&[Turn], &[Turn]) {
    schedule.turns.split_at(schedule.turns.len() - run.mixtures)
}

fn names(turns: &[Turn]) -> BTreeSet<String> {
    turns.iter().flat_map(|turn| &turn.faults).map(|planned| planned.fault.name()).collect()
}

/// There is a fault of this name that falls into another while that goes on and is no operator's.
fn falls_into_another(name: &str, turns: &[Turn]) -> bool {
    let into = |one: &Planned, other: &Planned| {
        let end = other.begin_after_ms + other.hold_ms;
        one != other
            && !other.fault.orderly()
            && (other.begin_after_ms..end).contains(&one.begin_after_ms)
    };
    turns.iter().any(|turn| {
        let mut named = turn.faults.iter().filter(|one| one.fault.name() == name);
        named.any(|one| turn.faults.iter().any(|other| into(one, other) || into(other, one)))
    })
}

/// Without it, the few seeds that are run for every change might happen to leave a fault out, or
/// never let a swap or the death of a node fall into anything else.
#[test]
fn the_fixed_seeds_have_every_fault_and_mix_them() {
    for delay in [false, true] {
        for run in [EACH_FAULT, MIXTURE, LOOPBACK] {
            let schedule = run.plan().schedule(run.seed, run.links, delay && run.links);
            let (singles, mixtures) = parts(&schedule, run);
            let test = run.test;
            let can = |fault: &Fault| match fault {
                Fault::Slow(_) => delay && run.links,
                fault => run.links || !fault.cuts(),
            };
            let all: BTreeSet<_> = Fault::samples().filter(can).map(Fault::name).collect();
            if run.in_turn {
                assert_eq!(names(singles), all, "{test}: {singles:?}");
                let swapped = |turn: &Turn| turn.faults.iter().any(|p| p.fault == Fault::Swap);
                assert!(singles.iter().all(swapped), "{test}: {singles:?}");
            }
            if run.mixtures > 0 {
                assert_eq!(names(mixtures), all, "{test}: {mixtures:?}");
                for name in ["Kill", "Pause", "Swap"] {
                    assert!(falls_into_another(name, mixtures), "{test}, {name}: {mixtures:?}");
                }
            }
            assert_eq!(schedule, run.plan().schedule(run.seed, run.links, delay && run.links));
        }
    }
}
