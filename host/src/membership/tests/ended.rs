//! Peers that refuse connections: those whose process has ended, and those that something else refuses.

use super::sim::{MS, S, Sim, seeds};
use crate::limits;
use rand::RngExt;
use std::time::{Duration, Instant};

/// For as long as `time`, connections of some nodes to a process are refused, as often as their links try.
fn refuse(sim: &mut Sim, by: &[usize], process: usize, time: Duration) {
    let instance = sim.processes[process].core.own.member.instance;
    let end = sim.now + time;
    let mut tries: Vec<(Instant, Duration)> =
        by.iter().map(|_| (sim.now, limits::PEER_RETRY_MIN)).collect();
    let wait = |sim: &mut Sim, (at, pause): &mut (Instant, Duration)| {
        *at += pause.mul_f64(sim.rng.random_range(0.5..1.0));
        *pause = (*pause * 2).min(limits::PEER_RETRY_MAX);
    };
    tries.iter_mut().for_each(|one| wait(sim, one));
    loop {
        let earliest = (0..tries.len()).min_by_key(|one| tries[*one].0);
        let Some(one) = earliest.filter(|one| tries[*one].0 <= end) else { break };
        let pause = tries[one].0.saturating_duration_since(sim.now);
        sim.run(pause);
        sim.with(by[one], |core, now| core.connection_refused(now, instance));
        wait(sim, &mut tries[one]);
    }
    let rest = end - sim.now;
    sim.run(rest);
}

fn without(count: usize, one: usize) -> Vec<usize> {
    (0..count).filter(|n| *n != one).collect()
}

/// The time to notice a death is most of the time in which its slots are not served.
#[test]
fn a_process_that_has_ended_is_missed_in_three_quarters_of_a_second() {
    for count in [2, 3, 5, 8] {
        let mut all = Vec::new();
        for seed in seeds(60) {
            let mut sim = Sim::cluster(seed, count);
            sim.loss = sim.rng.random_range(0.0..0.1);
            let (killed, left) = (sim.time(), without(count, 1));
            sim.kill(1);
            refuse(&mut sim, &left, 1, S);
            assert!(sim.agree(&left), "seed {seed}");
            for n in left {
                let views = sim.views_since(n, killed);
                assert_eq!(views.len(), 1, "seed {seed}: {views:?}");
                all.push(views[0].0 - killed);
            }
        }
        all.sort();
        let (median, max) = (all[all.len() / 2], all[all.len() - 1]);
        println!("{count} nodes: an end is in all views after {median:?}, at most {max:?}");
        assert!(median < 550 * MS && max < 750 * MS, "{median:?}, {max:?}");
    }
}

/// A proxy or a firewall between nodes that are well would have their slots moved.
#[test]
fn who_is_well_stays_whoever_refuses_in_its_place() {
    for seed in seeds(60) {
        let count = 2 + seed as usize % 4;
        let mut sim = Sim::cluster(seed, count);
        sim.loss = sim.rng.random_range(0.0..0.05);
        let slow = sim.rng.random_range(0..50) * MS;
        sim.slow.insert(sim.processes[1].address, slow);
        let before = sim.time();
        refuse(&mut sim, &without(count, 1), 1, 15 * S);
        for n in 0..count {
            assert!(sim.views_since(n, before).is_empty(), "seed {seed}: node {n}");
        }
    }
}

/// Gossip may come too late: what a node suspects must not depend on it alone.
#[test]
fn who_is_well_answers_although_no_third_node_runs() {
    for seed in seeds(60) {
        let mut sim = Sim::cluster(seed, 8);
        let before = sim.time();
        (2..8).for_each(|n| sim.freeze(n));
        refuse(&mut sim, &[0], 1, 600 * MS);
        (2..8).for_each(|n| sim.thaw(n));
        sim.run(5 * S);
        for n in 0..8 {
            assert!(sim.views_since(n, before).is_empty(), "seed {seed}: node {n}");
        }
    }
}

/// Two nodes between which everything is refused, and which others reach, would declare each other dead to
/// those others.
#[test]
fn who_reaches_others_stays_although_one_reaches_it_in_no_way() {
    for seed in seeds(60) {
        let count = 3 + seed as usize % 3;
        let mut sim = Sim::cluster(seed, count);
        sim.part(&[0], &[1]);
        let before = sim.time();
        refuse(&mut sim, &[0], 1, 30 * S);
        for n in 0..count {
            assert!(sim.views_since(n, before).is_empty(), "seed {seed}: node {n}");
        }
    }
}

/// Its slots would move twice, though it serves them again before others could.
#[test]
fn who_is_restarted_at_once_is_never_missed() {
    for seed in seeds(60) {
        let mut sim = Sim::cluster(seed, 3);
        let before = sim.time();
        sim.kill(1);
        refuse(&mut sim, &[0, 2], 1, 200 * MS);
        let (peer, instance) = (sim.processes[1].address, sim.rng.random());
        let options = sim.options("n1", peer, 2, instance);
        let seeds = [0, 2].map(|n| sim.processes[n].address).to_vec();
        let again = sim.start(options, seeds);
        sim.run_until(2 * S, |sim| sim.agree(&[0, 2, again]));
        sim.run(2 * S);
        for n in [0, 2] {
            let views = sim.views_since(n, before);
            assert!(views.iter().all(|(_, names)| names.len() == 3), "seed {seed}: {views:?}");
        }
    }
}

/// A node that did not run for a while would take the refusals before and after that for those of a peer
/// that was silent all the time.
#[test]
fn time_in_which_a_node_did_not_run_is_no_silence_of_its_peer() {
    for seed in seeds(60) {
        let mut sim = Sim::cluster(seed, 2);
        let (before, instance) = (sim.time(), sim.processes[1].core.own.member.instance);
        // What it is greeted with is lost, and later answers come after the view that would lack it.
        sim.slow.insert(sim.processes[1].address, 150 * MS);
        sim.part(&[0], &[1]);
        sim.with(0, |core, now| core.connection_refused(now, instance));
        let runs = sim.rng.random_range(1..50) * MS;
        sim.run(runs);
        sim.freeze(0);
        sim.run(450 * MS);
        sim.cut.clear();
        sim.thaw(0);
        sim.with(0, |core, now| core.connection_refused(now, instance));
        sim.run(10 * S);
        for n in 0..2 {
            assert!(sim.views_since(n, before).is_empty(), "seed {seed}: node {n}");
        }
    }
}
