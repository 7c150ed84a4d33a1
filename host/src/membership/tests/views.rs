//! Joining, leaving and dying, as the views show it.

use super::sim::{MS, S, Sim, address, options, seeds};
use crate::{discovery::Found, limits, peer::member::Unfit};
use rand::RngExt;
use std::time::Duration;

/// Nodes that see different sets propose different owners, for as long as that lasts.
#[test]
fn all_views_become_the_same_whatever_is_lost() {
    for seed in seeds(40) {
        let mut sim = Sim::new(seed);
        sim.loss = sim.rng.random_range(0.0..0.25);
        let count = sim.rng.random_range(2..12);
        let seeds = sim.rng.random_range(1..=count);
        for n in 0..count {
            sim.spawn(n, seeds);
            let pause = sim.rng.random_range(0..400) * MS;
            sim.run(pause);
        }
        sim.loss = sim.loss.min(0.05);
        let all: Vec<usize> = (0..count).collect();
        sim.run_until(30 * S, |sim| sim.agree(&all));
    }
}

/// Forty nodes do not fit into one datagram: they must learn of each other all the same.
#[test]
fn a_large_cluster_comes_together() {
    let mut sim = Sim::new(1);
    for n in 0..40 {
        sim.spawn(n, 3);
        sim.run(20 * MS);
    }
    let all: Vec<usize> = (0..40).collect();
    let took = sim.run_until(60 * S, |sim| sim.agree(&all));
    println!("40 nodes agree {took:?} after the last one started");
}

/// A view for each of ten joining nodes would make every node plan and move slots ten times.
#[test]
fn ten_that_join_at_once_make_one_view_or_two() {
    for seed in seeds(20) {
        let mut sim = Sim::cluster(seed, 3);
        let before = sim.time();
        let joined: Vec<usize> = (3..13).map(|n| sim.spawn(n, 3)).collect();
        sim.run_until(5 * S, |sim| sim.agree(&(0..13).collect::<Vec<_>>()));
        sim.run(3 * S);
        for n in 0..3 {
            let views = sim.views_since(n, before);
            assert!(views.len() <= 2, "seed {seed}: {views:#?}");
        }
        for n in joined {
            // A new node's first view must be the cluster's, not of itself alone.
            let views = sim.views_since(n, before);
            assert!(views.len() <= 3 && views[0].1.len() > 1, "seed {seed}: {views:#?}");
        }
    }
}

/// The time to notice a death is most of the time in which its slots are not served.
#[test]
fn a_silent_node_is_noticed_within_two_and_a_half_seconds() {
    for count in [2, 3, 5, 8] {
        let mut all = Vec::new();
        for seed in seeds(60) {
            let mut sim = Sim::cluster(seed, count);
            sim.kill(1);
            let left: Vec<usize> = (0..count).filter(|n| *n != 1).collect();
            all.push(sim.run_until(4 * S, |sim| sim.agree(&left)));
        }
        all.sort();
        let (median, max) = (all[all.len() / 2], all[all.len() - 1]);
        println!("{count} nodes: a death is in all views after {median:?}, at most {max:?}");
        assert!(
            max < 2_600 * MS && all.iter().filter(|d| **d > 2_500 * MS).count() <= 1,
            "{all:?}"
        );
    }
}

/// A node that announces its leave must be gone from all views before its absence would be noticed.
#[test]
fn a_node_that_leaves_is_gone_at_once() {
    for seed in seeds(40) {
        let mut sim = Sim::cluster(seed, 7);
        sim.loss = 0.1;
        sim.with(3, |core, now| core.leave(now));
        let took = sim.run_until(S, |sim| sim.agree(&[0, 1, 2, 4, 5, 6]));
        assert!(took < 800 * MS, "{took:?}");
        sim.loss = 0.0;
        sim.run(200 * MS);
        assert!(sim.processes[3].core.is_over());
        sim.kill(3);
        let before = sim.time();
        sim.run(5 * S);
        for n in [0, 1, 2, 4, 5, 6] {
            assert!(
                sim.views_since(n, before).is_empty(),
                "{seed} {before:?} {:#?}",
                sim.views_since(n, Default::default())
            );
        }
    }
}

/// `leaving` must reach all views, and the node must never be missing from one meanwhile.
#[test]
fn a_node_that_sets_out_to_leave_stays_in_all_views() {
    for seed in seeds(40) {
        let mut sim = Sim::cluster(seed, 5);
        let before = sim.time();
        sim.run(MS);
        sim.with(2, |core, now| core.set_leaving(now));
        let own = sim.processes[2].members.borrow().clone();
        assert!(own.get("n2").unwrap().leaving && own.on_ring(true).len() == 4);
        let took = sim.run_until(S, |sim| sim.agree(&[0, 1, 2, 3, 4]));
        assert!(took < 600 * MS, "{took:?}");
        sim.run(5 * S);
        for n in 0..5 {
            assert!(sim.views_since(n, before).iter().all(|(_, names)| names.len() == 5));
            assert_eq!(sim.views_since(n, before).len(), 1);
        }
    }
}

/// All must know of a node that can't serve, and again when it can: it is not enough that the
/// report arrives, the later one must win.
#[test]
fn a_node_that_says_that_it_is_unfit_stays_in_all_views() {
    for seed in seeds(40) {
        let mut sim = Sim::cluster(seed, 5);
        let before = sim.time();
        sim.run(MS);
        for unfit in [Some(Unfit::Engine), Some(Unfit::Disk), None] {
            sim.with(2, |core, now| core.set_unfit(now, unfit));
            sim.with(2, |core, now| core.set_unfit(now, unfit));
            let took = sim.run_until(S, |sim| {
                let views = sim.processes.iter().map(|process| process.members.borrow().clone());
                views.into_iter().all(|view| view.get("n2").is_some_and(|n2| n2.unfit == unfit))
            });
            assert!(took < 600 * MS, "{took:?}");
        }
        sim.run(5 * S);
        for n in 0..5 {
            let views = sim.views_since(n, before);
            assert!(views.iter().all(|(_, names)| names.len() == 5) && views.len() >= 3);
        }
    }
}

/// A leaving node whose peers all die at that moment must notice it: a new identity stops SWIM's
/// probes, and no peer is left to restart them.
#[test]
fn deaths_are_noticed_behind_a_new_identity() {
    let mut sim = Sim::cluster(5, 3);
    sim.kill(0);
    sim.kill(1);
    sim.with(2, |core, now| core.set_leaving(now));
    sim.run_until(5 * S, |sim| sim.agree(&[2]));
}

/// A node alone must serve soon; one that only believes so would take everyone's slots.
#[test]
fn a_node_without_peers_waits_as_long_as_it_must() {
    let none = Found { addresses: [].into(), answered: true };
    let mut sim = Sim::new(1);
    let alone = sim.start_found(options("a", address(1), 1, 1), none.clone());
    assert!(sim.agree(&[alone]));
    // Named peers that are silent.
    let mut sim = Sim::new(2);
    let first = sim.spawn(0, 3);
    let took = sim.run_until(5 * S, |sim| sim.agree(&[first]));
    assert!(
        took >= limits::JOIN_WAIT_DEFAULT && took < limits::JOIN_WAIT_DEFAULT + 300 * MS,
        "{took:?}"
    );
    // Discovery without an answer yet, and then with one.
    let mut sim = Sim::new(3);
    let waits = sim.start_found(options("a", address(1), 1, 1), Found::default());
    sim.run(limits::DISCOVERY_WAIT - S);
    assert_eq!(sim.processes[waits].members.borrow().number, 0);
    let mut other = Sim::new(3);
    std::mem::swap(&mut sim, &mut other);
    let late = sim.start_found(options("a", address(1), 1, 1), Found::default());
    sim.run(S);
    sim.with(late, |core, now| core.found(now, none));
    assert!(sim.agree(&[late]));
    other.run_until(2 * S, |sim| sim.agree(&[waits]));
}

/// Later results of discovery must be used, and its wrong addresses must do no harm.
#[test]
fn late_addresses_and_own_ones_are_coped_with() {
    let mut sim = Sim::new(4);
    let a = sim.start(options("a", address(1), 1, 1), vec![]);
    let b = sim.start(options("b", address(2), 1, 2), vec![]);
    assert!(sim.agree(&[a]) && sim.agree(&[b]));
    let found = Found { addresses: [address(1), address(2), address(9)].into(), answered: true };
    sim.with(a, |core, now| core.found(now, found));
    // The one that is silent is not waited for without end.
    sim.run_until(limits::FIRST_VIEW_WAIT + 300 * MS, |sim| sim.agree(&[a, b]));
}

/// A node claims the slots of those that its view lacks. One that started took them from a live node
/// that it saw 140 ms later; and one that waited for the dead would not start.
#[test]
fn a_first_view_has_all_that_answer_in_time_and_comes_in_time() {
    for seed in seeds(100) {
        let mut sim = Sim::new(seed);
        let living = sim.rng.random_range(2..6);
        let dead = sim.rng.random_range(0..3);
        let strangers = sim.rng.random_range(0..2);
        for n in 0..strangers {
            let mut stranger = options(&format!("s{n}"), address(50 + n), 1, 1);
            stranger.secret = b"another secret".to_vec();
            sim.start(stranger, vec![]);
        }
        let addresses: Vec<_> =
            (0..living).chain(50..50 + strangers).chain(60..60 + dead).map(address).collect();
        let mut started = Vec::new();
        for n in 0..living {
            let slow = sim.rng.random_range(0..200) * MS;
            sim.slow.insert(address(n), slow);
            started.push((sim.time(), slow));
            let found = Found { addresses: addresses.clone().into(), answered: true };
            let instance = sim.rng.random();
            sim.start_found(options(&format!("n{n}"), address(n), 1, instance), found);
            let pause = sim.rng.random_range(0..100) * MS;
            sim.run(pause);
        }
        sim.run(10 * S);
        for n in 0..living {
            let (at, first) = &sim.processes[strangers + n].views[0];
            let (began, slow) = started[n];
            let (mut most, mut first_met) = (Duration::ZERO, Duration::MAX);
            for (other, (other_began, other_slow)) in started.iter().enumerate() {
                // A hello, a welcome, the wish to join, and what is known there.
                let takes = 2 * (slow + *other_slow) + 20 * MS;
                let met = other_began.saturating_sub(began) + takes;
                if other != n {
                    (most, first_met) = (most.max(met), first_met.min(met));
                }
            }
            if most < limits::FIRST_VIEW_WAIT {
                let wanted: Vec<_> = (0..living).map(|n| format!("n{n}")).collect();
                assert_eq!(*first, wanted, "seed {seed}, n{n} at {at:?}");
            }
            let latest = first_met + limits::FIRST_VIEW_WAIT + limits::VIEW_DELAY_MAX;
            assert!(*at - began <= latest, "seed {seed}: n{n} first saw {first:?} at {at:?}");
        }
    }
}

/// Those that were apart come back one by one: the first of them does not bring along the others,
/// and their slots would be claimed as those of the dead.
#[test]
fn who_was_alone_sees_all_at_once_that_come_back() {
    for seed in seeds(60) {
        let mut sim = Sim::new(seed);
        let none = Found { addresses: [].into(), answered: true };
        for n in 0..3 {
            let slow = sim.rng.random_range(0..200) * MS;
            sim.slow.insert(address(n), slow);
            let instance = sim.rng.random();
            sim.start_found(options(&format!("n{n}"), address(n), 1, instance), none.clone());
        }
        let apart = sim.rng.random_range(0..3_000) * MS;
        sim.run(apart);
        for n in 0..3 {
            let addresses = (0..3).map(address).collect();
            let found = Found { addresses, answered: true };
            sim.with(n, |core, now| core.found(now, found));
        }
        sim.run(2 * S);
        for n in 0..3 {
            let views = &sim.processes[n].views;
            let sizes: Vec<_> = views.iter().take(2).map(|(_, names)| names.len()).collect();
            assert_eq!(sizes, [1, 3], "seed {seed}");
        }
    }
}

/// Time in which a node does not run is no silence of the others: it would wake up to find its wait
/// over, with their answers unread, and claim all slots.
#[test]
fn who_is_stopped_while_it_joins_does_not_think_that_it_is_alone() {
    for seed in seeds(40) {
        let mut sim = Sim::cluster(seed, 3);
        let joins = sim.spawn(3, 3);
        let runs = sim.rng.random_range(0..5) * MS;
        sim.run(runs);
        sim.freeze(joins);
        sim.run(limits::JOIN_WAIT_DEFAULT + 2 * S);
        sim.thaw(joins);
        sim.run_until(5 * S, |sim| sim.agree(&[0, 1, 2, joins]));
        assert_eq!(sim.processes[joins].views[0].1.len(), 4, "seed {seed}");
    }
}

/// A peer that is heard of in the last moment is not a member yet when the wait is over.
#[test]
fn who_is_met_in_the_last_moment_is_not_left_out() {
    for seed in seeds(100) {
        let mut sim = Sim::new(seed);
        let first = sim.spawn(0, 2);
        let slow = sim.rng.random_range(10..100) * MS;
        sim.slow.insert(address(1), slow);
        let starts = limits::JOIN_WAIT_DEFAULT - slow - sim.rng.random_range(10..100) * MS;
        sim.run(starts);
        let second = sim.spawn(1, 2);
        sim.run_until(5 * S, |sim| sim.agree(&[first, second]));
        assert_eq!(sim.processes[first].views[0].1.len(), 2, "seed {seed}");
    }
}
