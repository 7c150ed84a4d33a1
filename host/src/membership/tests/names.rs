//! Two processes with one name: restarts, copies, and zombies.

use super::{
    super::refusal::{Fatal, Reason},
    sim::{MS, S, Sim, address, options, seeds},
};
use crate::level::{ENCRYPTED, OLDEST};
use rand::RngExt;

fn known() -> Vec<std::net::SocketAddr> {
    (0..3).map(address).collect()
}

/// A node that restarts must not have to wait until the others have noticed that it was gone, and
/// no view may be without it meanwhile.
#[test]
fn a_restarted_node_replaces_itself_at_once() {
    for seed in seeds(40) {
        let mut sim = Sim::cluster(seed, 3);
        let before = sim.time();
        sim.kill(1);
        let down = sim.rng.random_range(0..300) * MS;
        sim.run(down);
        let again = sim.start(options("n1", address(1), 2, 99), known());
        let took = sim.run_until(3 * S, |sim| sim.agree(&[0, again, 2]));
        assert!(took < 500 * MS, "seed {seed}: {took:?}");
        sim.run(5 * S);
        for n in [0, 2] {
            let views = sim.views_since(n, before);
            assert!(views.len() == 1 && views[0].1.len() == 3, "seed {seed}: {views:#?}");
        }
    }
}

/// In Kubernetes a pod comes back with its name, under another address.
#[test]
fn a_restarted_node_may_have_moved() {
    for seed in seeds(40) {
        let mut sim = Sim::cluster(seed, 3);
        sim.kill(1);
        let again = sim.start(options("n1", address(7), 2, 99), known());
        let took = sim.run_until(3 * S, |sim| sim.agree(&[0, again, 2]));
        assert!(took < 1_500 * MS, "seed {seed}: {took:?}");
        assert!(sim.fatal(again).is_none());
    }
}

/// A node that lost its disk counts its starts from one again; it must still get its name.
#[test]
fn a_node_without_its_disk_gets_its_name_back() {
    for seed in seeds(60) {
        let mut sim = Sim::new(seed);
        for n in 0..3 {
            let instance = sim.rng.random();
            sim.start(options(&format!("n{n}"), address(n), 9, instance), known());
        }
        sim.run_until(5 * S, |sim| sim.agree(&[0, 1, 2]));
        sim.kill(1);
        // Before its death is noticed, during that, and long after.
        let down = [0, 200, 1_500, 2_000, 20_000][seed as usize % 5] * MS;
        sim.run(down);
        let at = address(if seed % 2 == 0 { 1 } else { 8 });
        let instance = sim.rng.random();
        let again = sim.start(options("n1", at, 1, instance), known());
        let took = sim.run_until(6 * S, |sim| sim.agree(&[0, again, 2]));
        assert!(took < 3 * S, "seed {seed}: {took:?}");
        sim.run(5 * S);
        assert!([0, again, 2].iter().all(|n| sim.fatal(*n).is_none()));
        assert!(sim.agree(&[0, again, 2]));
    }
}

/// The second of two processes with one name must end, whatever its boots, and the first continue
/// undisturbed: otherwise both would write under one name.
#[test]
fn a_newcomer_with_a_name_in_use_is_refused() {
    for seed in seeds(60) {
        let mut sim = Sim::cluster(seed, 3);
        let before = sim.time();
        let boot = [1, 2, 50][seed as usize % 3];
        let instance = sim.rng.random();
        let mut known = known();
        if seed % 2 == 0 {
            // It learns of its rival from the others.
            known.remove(1);
        }
        let copy = sim.start(options("n1", address(5), boot, instance), known);
        sim.run_until(3 * S, |sim| sim.fatal(copy).is_some());
        assert_eq!(
            sim.fatal(copy).unwrap(),
            Fatal::NameTaken { name: "n1".into(), holder: address(1) }
        );
        assert_eq!(sim.processes[copy].members.borrow().number, 0);
        sim.run(5 * S);
        for n in 0..3 {
            assert!(sim.fatal(n).is_none() && sim.views_since(n, before).is_empty());
        }
        let said = sim.refusals(1);
        assert!(said.iter().any(|r| r.reason == Reason::Name && r.by_us && r.peer == address(5)));
    }
}

/// Whoever recorded what a node has sent could keep it from ever starting again, or have it wait for
/// nobody.
#[test]
fn recordings_keep_no_node_from_starting() {
    for (seed, level) in seeds(20).flat_map(|seed| [(seed, OLDEST), (seed, ENCRYPTED)]) {
        let mut sim = Sim::new(seed);
        sim.level = level;
        sim.captured = Some(Vec::new());
        let (own, peer) = (address(0), address(1));
        let first = sim.options("a", own, 1, 10);
        let first = sim.start(first, vec![peer, address(9)]);
        let other = sim.options("b", peer, 1, 30);
        let other = sim.start(other, vec![own]);
        sim.run_until(5 * S, |sim| sim.agree(&[first, other]));
        sim.run(2 * S);
        let captured = sim.captured.take().unwrap();
        sim.kill(first);
        let boot = 1 + seed % 2;
        let again = sim.options("a", own, boot, 11);
        let again = sim.start(again, vec![peer, address(9)]);
        for (n, (from, _, datagram)) in captured.into_iter().enumerate() {
            let from = if n % 2 == 0 { from } else { address(8) };
            sim.inject(from, own, datagram);
        }
        // Its own hello, as somebody sees it on the way.
        sim.captured = Some(Vec::new());
        sim.run(MS);
        for (_, to, mut datagram) in sim.captured.take().unwrap() {
            if to == peer {
                datagram.truncate(60);
                sim.inject(address(8), own, datagram);
            }
        }
        sim.run_until(8 * S, |sim| sim.agree(&[again, other]));
        let alone = vec!["a".to_owned()];
        assert!(sim.processes[again].views.iter().all(|(_, names)| *names != alone), "seed {seed}");
        assert!([again, other].iter().all(|n| sim.fatal(*n).is_none()), "seed {seed}");
    }
}

/// Of two that start at the same time exactly one must remain.
#[test]
fn of_two_newcomers_with_one_name_one_stays() {
    for seed in seeds(60) {
        let mut sim = Sim::new(seed);
        let one = sim.start(options("a", address(1), 1, 10), vec![address(2), address(3)]);
        let pause = sim.rng.random_range(0..10) * MS;
        sim.run(pause);
        let two = sim.start(options("a", address(2), 1, 20), vec![address(1), address(3)]);
        let other = sim.start(options("b", address(3), 1, 30), vec![address(1), address(2)]);
        sim.run(10 * S);
        let left: Vec<usize> = [one, two].into_iter().filter(|p| sim.fatal(*p).is_none()).collect();
        assert_eq!(left.len(), 1, "seed {seed}: {:?}", [sim.fatal(one), sim.fatal(two)]);
        assert!(sim.agree(&[left[0], other]), "seed {seed}");
    }
}

/// A process that was paused while another took over its name must end when it resumes: it still
/// believes that it owns slots.
#[test]
fn a_zombie_whose_name_was_taken_over_ends() {
    for seed in seeds(60) {
        let mut sim = Sim::cluster(seed, 3);
        sim.freeze(1);
        let pause = [0, 500, 3_000, 20_000][seed as usize % 4] * MS;
        sim.run(pause);
        // A pod restarted elsewhere, with or without its disk.
        let boot = 1 + seed % 2;
        let instance = sim.rng.random();
        let new = sim.start(options("n1", address(6), boot, instance), known());
        sim.run_until(5 * S, |sim| sim.agree(&[0, new, 2]));
        let pause = sim.rng.random_range(0..5_000) * MS;
        sim.run(pause);
        sim.thaw(1);
        sim.run_until(5 * S, |sim| sim.fatal(1).is_some());
        let fatal = sim.fatal(1);
        assert!(matches!(fatal, Some(Fatal::Superseded { .. } | Fatal::NameTaken { .. })));
        sim.run(5 * S);
        sim.run_until(MS, |sim| sim.agree(&[0, new, 2]));
        assert!([0, new, 2].iter().all(|n| sim.fatal(*n).is_none()), "seed {seed}");
    }
}

/// Two clusters of one name meet, with a node of the same name in each: one of the two ends.
#[test]
fn a_name_on_both_sides_of_a_partition_is_settled() {
    for seed in seeds(40) {
        let mut sim = Sim::cluster(seed, 4);
        sim.part(&[0, 1, 8], &[2, 3]);
        sim.part(&[8], &[1]);
        sim.run_until(8 * S, |sim| sim.agree(&[0, 1]) && sim.agree(&[2, 3]));
        // n3 is believed dead on this side, and is started again there.
        let new = sim.start(options("n3", address(8), 2, 5), vec![address(0), address(3)]);
        sim.cut.remove(&(address(8), address(1)));
        sim.cut.remove(&(address(1), address(8)));
        sim.run_until(8 * S, |sim| sim.agree(&[0, 1, new]));
        sim.cut.clear();
        sim.run_until(15 * S, |sim| sim.agree(&[0, 1, 2, new]) && sim.fatal(3).is_some());
        assert!(matches!(sim.fatal(3), Some(Fatal::Superseded { .. } | Fatal::NameTaken { .. })));
        assert!([0, 1, 2, new].iter().all(|n| sim.fatal(*n).is_none()), "seed {seed}");
    }
}
