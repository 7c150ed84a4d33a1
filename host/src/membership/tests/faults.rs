//! Pauses, partitions, one-way loss, replays, and all of them at random.

use super::{
    super::{
        id::Id,
        wire::{Kind, Sealer, Start},
    },
    sim::{MS, S, Sim, address, options, seeds},
};
use crate::{
    level::{self, Level},
    limits,
};
use foca::{Codec, Header, Message, PostcardCodec};
use rand::{RngExt, seq::IndexedRandom};

fn all(count: usize) -> Vec<usize> {
    (0..count).collect()
}

/// A scheduler that starves one node for a second must not cost it its slots.
#[test]
fn a_pause_of_a_second_is_no_death() {
    let mut views = 0;
    for seed in seeds(100) {
        let count = [2, 3, 5][seed as usize % 3];
        let mut sim = Sim::cluster(seed, count);
        let before = sim.time();
        for _ in 0..3 {
            let paused = sim.rng.random_range(0..count);
            sim.freeze(paused);
            sim.run(S);
            sim.thaw(paused);
            let rest = sim.rng.random_range(1_000..3_000) * MS;
            sim.run(rest);
        }
        views += (0..count).map(|n| sim.views_since(n, before).len()).sum::<usize>();
    }
    assert_eq!(views, 0);
}

/// A node that probes and was itself paused must not declare everyone dead when it resumes.
#[test]
fn who_was_stopped_does_not_blame_the_others() {
    for seed in seeds(40) {
        let mut sim = Sim::cluster(seed, 4);
        // All stop together, as when the machine does: no other clock advanced.
        let before = sim.time();
        all(4).into_iter().for_each(|n| sim.freeze(n));
        sim.run(30 * S);
        let mut order = all(4);
        while !order.is_empty() {
            let n = order.swap_remove(sim.rng.random_range(0..order.len()));
            sim.thaw(n);
            let pause = sim.rng.random_range(0..300) * MS;
            sim.run(pause);
        }
        sim.run(5 * S);
        assert!(all(4).iter().all(|n| sim.views_since(*n, before).is_empty()));
    }
}

/// A node that was paused for long must leave all views, and be back in all soon after.
#[test]
fn a_long_pause_is_a_death_and_a_return() {
    for seed in seeds(40) {
        let mut sim = Sim::cluster(seed, [2, 3, 5][seed as usize % 3]);
        let count = sim.processes.len();
        sim.freeze(0);
        let others: Vec<usize> = (1..count).collect();
        sim.run_until(4 * S, |sim| sim.agree(&others));
        let pause = sim.rng.random_range(0..30) * S;
        sim.run(pause);
        sim.thaw(0);
        let took = sim.run_until(10 * S, |sim| sim.agree(&all(count)));
        assert!(took < 4 * S, "seed {seed}: {took:?}");
        assert!(all(count).iter().all(|n| sim.fatal(*n).is_none()));
    }
}

/// Two sides that never find each other again stay two clusters on one log, permanently.
#[test]
fn both_sides_of_a_partition_meet_again() {
    for seed in seeds(40) {
        let (count, split) = [(2, 1), (3, 1), (5, 2), (6, 3)][seed as usize % 4];
        let mut sim = Sim::cluster(seed, count);
        let (one, other): (Vec<usize>, Vec<usize>) = (0..count).partition(|n| *n < split);
        sim.part(&one, &other);
        sim.run_until(8 * S, |sim| sim.agree(&one) && sim.agree(&other));
        // Short ones, and one that outlasts the memory of dead nodes: discovery finds them then.
        let short = sim.rng.random_range(0..20) * S;
        let long = limits::DEAD_REMEMBERED + 60 * S;
        sim.run(if seed < 2 { long } else { short });
        sim.cut.clear();
        let took = sim.run_until(15 * S, |sim| sim.agree(&all(count)));
        assert!(took < 5 * S, "seed {seed}: {took:?}");
    }
}

/// Partitions end without discovery too: dead nodes are greeted at their old addresses.
#[test]
fn the_dead_are_looked_for_where_they_were() {
    let mut sim = Sim::new(3);
    let first = sim.start(options("a", address(0), 1, 1), vec![]);
    let second = sim.start(options("b", address(1), 1, 2), vec![address(0)]);
    sim.run_until(3 * S, |sim| sim.agree(&[first, second]));
    sim.part(&[0], &[1]);
    sim.run_until(5 * S, |sim| sim.agree(&[first]) && sim.agree(&[second]));
    sim.with(second, |core, now| core.found(now, Default::default()));
    sim.run(60 * S);
    sim.cut.clear();
    sim.run_until(5 * S, |sim| sim.agree(&[first, second]));
}

/// One node that receives nothing must not convince all others that nodes died: SWIM believes its
/// reports.
#[test]
fn a_deaf_node_takes_only_itself_out() {
    for seed in seeds(40) {
        let count = [3, 5][seed as usize % 2];
        let mut sim = Sim::cluster(seed, count);
        let before = sim.time();
        for n in 1..count {
            sim.cut.insert((address(n), address(0)));
        }
        let others: Vec<usize> = (1..count).collect();
        sim.run_until(6 * S, |sim| sim.agree(&others) && sim.agree(&[0]));
        sim.run(10 * S);
        sim.cut.clear();
        let healed = sim.time();
        sim.run_until(10 * S, |sim| sim.agree(&all(count)));
        sim.run(5 * S);
        for n in others {
            let views = sim.views_since(n, before);
            let lost = |names: &Vec<String>| (1..count).any(|n| !names.contains(&format!("n{n}")));
            assert!(!views.iter().any(|(_, names)| lost(names)), "seed {seed}: {views:#?}");
            assert!(sim.views_since(n, healed).len() <= 2, "seed {seed}: {views:#?}");
        }
    }
}

/// A node that only can't send leaves the others' views, and returns when it can.
#[test]
fn a_mute_node_is_out_until_it_speaks() {
    for seed in seeds(20) {
        let mut sim = Sim::cluster(seed, 4);
        for n in 1..4 {
            sim.cut.insert((address(0), address(n)));
        }
        sim.run_until(6 * S, |sim| sim.agree(&[1, 2, 3]));
        sim.run(10 * S);
        sim.cut.clear();
        sim.run_until(10 * S, |sim| sim.agree(&all(4)));
    }
}

/// An attacker who recorded a dead node's datagrams could keep it alive with them, and its slots
/// without an owner indefinitely. SWIM numbers its probes by a byte, so after a minute the attacker
/// has an answer to each.
#[test]
fn replays_keep_nobody_alive_and_bring_nobody_back() {
    for level in [level::OLDEST, level::NEWEST] {
        replays_do_nothing(level);
    }
}

fn replays_do_nothing(level: Level) {
    let mut sim = Sim::cluster_at(level, 1, 2);
    let options = sim.options("n1", address(1), 1, 1);
    let sealer = Sealer::new(&options.secret, &options.terms, 0, 0);
    sim.captured = Some(Vec::new());
    sim.run(70 * S);
    let captured = sim.captured.take().unwrap();
    let old: Vec<_> = captured.into_iter().filter(|(from, ..)| *from == address(1)).collect();
    let is_ack = |datagram: &[u8]| {
        let opened = sealer.open(Kind::Gossip, Start::read(datagram).unwrap(), datagram).unwrap();
        let header = PostcardCodec.decode_header(&opened.body[..]);
        matches!(header, Ok(Header::<Id> { message: Message::Ack(_), .. }))
    };
    let acks: Vec<_> = old.iter().filter(|(.., datagram)| is_ack(datagram)).cloned().collect();
    assert!(acks.len() > 256);
    sim.kill(1);
    let killed = sim.now;
    while !sim.agree(&[0]) {
        for (from, to, datagram) in acks.clone() {
            sim.inject(from, to, datagram);
        }
        sim.run(100 * MS);
        assert!(sim.now - killed < 3 * S);
    }
    let before = sim.time();
    for _ in 0..100 {
        let some: Vec<_> = old.sample(&mut sim.rng, 50).cloned().collect();
        for (from, to, datagram) in some {
            sim.inject(from, to, datagram);
        }
        sim.run(20 * MS);
    }
    assert!(sim.views_since(0, before).is_empty());
}

/// Cases that no other test covers: after any mixture of faults, the remaining nodes agree.
#[test]
fn after_any_faults_the_living_agree() {
    for seed in seeds(60) {
        let count = 5;
        let mut sim = Sim::cluster(seed, count);
        let (mut process, mut boots) = (all(count), vec![1; count]);
        let mut frozen = vec![false; count];
        for _ in 0..30 {
            let n = sim.rng.random_range(0..count);
            match sim.rng.random_range(0..7) {
                0 => sim.kill(process[n]),
                1 => {
                    boots[n] += 1;
                    let instance = sim.rng.random();
                    let options = options(&format!("n{n}"), address(n), boots[n], instance);
                    let seeds = all(count).into_iter().filter(|s| *s != n).map(address);
                    process[n] = sim.start(options, seeds.collect());
                    frozen[n] = false;
                }
                2 if !frozen[n] => {
                    sim.freeze(process[n]);
                    frozen[n] = true;
                }
                3 if frozen[n] => {
                    sim.thaw(process[n]);
                    frozen[n] = false;
                }
                4 => {
                    let split = sim.rng.random_range(1..count);
                    sim.part(&all(split), &(split..count).collect::<Vec<_>>());
                }
                5 => {
                    let to = sim.rng.random_range(0..count);
                    sim.cut.insert((address(n), address(to)));
                }
                _ => sim.cut.clear(),
            }
            let pause = sim.rng.random_range(0..3_000) * MS;
            sim.run(pause);
        }
        sim.cut.clear();
        for n in all(count).into_iter().filter(|n| frozen[*n]) {
            sim.thaw(process[n]);
        }
        let living: Vec<usize> = process.iter().copied().filter(|p| sim.lives(*p)).collect();
        let took = sim.run_until(30 * S, |sim| sim.agree(&living));
        assert!(took < 10 * S, "seed {seed}: {took:?}");
        assert!(living.iter().all(|p| sim.fatal(*p).is_none()), "seed {seed}");
    }
}
