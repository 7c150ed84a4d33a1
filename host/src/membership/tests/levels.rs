//! What nodes send each other before and after feature level 3, and while it is raised.

use super::{
    super::{
        refusal::{Fatal, Reason},
        wire::{FORMAT_SEALED, FORMAT_TAGGED},
    },
    sim::{MS, S, Sim, address, seeds},
};
use crate::level;
use rand::RngExt;

fn formats(sim: &mut Sim) -> Vec<u8> {
    sim.captured.take().unwrap().iter().map(|(.., datagram)| datagram[5]).collect()
}

/// Whoever is on the way between nodes read who they are, and from where to where slots would go.
#[test]
fn what_nodes_send_can_not_be_read() {
    for (level, format, readable) in
        [(level::OLDEST, FORMAT_TAGGED, true), (level::ENCRYPTED, FORMAT_SEALED, false)]
    {
        let mut sim = Sim::new(3);
        sim.level = level;
        sim.captured = Some(Vec::new());
        let names = ["the-first-node", "the-second-node"];
        for (n, name) in names.into_iter().enumerate() {
            let options = sim.options(name, address(n), 1, 7 + n as u128);
            sim.start(options, (0..2).filter(|seed| *seed != n).map(address).collect());
        }
        sim.run_until(10 * S, |sim| sim.agree(&[0, 1]));
        sim.run(2 * S);
        let captured = sim.captured.take().unwrap();
        assert!(captured.iter().all(|(.., datagram)| datagram[5] == format));
        let has = |what: &str| {
            let what = what.as_bytes();
            captured.iter().any(|(.., it)| it.windows(what.len()).any(|part| part == what))
        };
        assert_eq!(names.map(has), [readable; 2]);
        assert_eq!((has("cluster"), has("hashring")), (readable, readable));
    }
}

/// A raise reaches nodes one after the other. None may be taken for dead meanwhile, and after that
/// nothing may be in clear.
#[test]
fn a_raise_loses_nobody_and_ends_what_is_in_clear() {
    for seed in seeds(30) {
        let count = [2, 3, 5][seed as usize % 3];
        let mut sim = Sim::cluster_at(level::OLDEST, seed, count);
        let before = sim.time();
        for n in 0..count {
            sim.with(n, |core, _| core.set_level(level::ENCRYPTED));
            let wait = sim.rng.random_range(0..2_000) * MS;
            sim.run(wait);
        }
        sim.run(S);
        sim.captured = Some(Vec::new());
        sim.run(3 * S);
        assert!(formats(&mut sim).iter().all(|format| *format == FORMAT_SEALED));
        assert!((0..count).all(|n| sim.views_since(n, before).is_empty()), "seed {seed}");
    }
}

/// A node that can't learn of the raise, because the log engine does not answer it, learns it from the
/// others; and a new one finds its cluster while it is the only one that knows.
#[test]
fn a_node_that_is_behind_learns_it_from_the_others() {
    for seed in seeds(10) {
        let mut sim = Sim::cluster_at(level::OLDEST, seed, 3);
        let before = sim.time();
        sim.level = level::ENCRYPTED;
        let new = sim.spawn(3, 3);
        sim.run_until(5 * S, |sim| sim.agree(&[0, 1, 2, new]));
        sim.run(2 * S);
        sim.captured = Some(Vec::new());
        sim.run(2 * S);
        assert!(formats(&mut sim).iter().all(|format| *format == FORMAT_SEALED));
        let views = |n| sim.views_since(n, before).len();
        assert!((0..3).all(|n| views(n) == 1), "seed {seed}: only the new one came");
    }
}

/// A node from before level 3 works with the others below it. One that was away while it was raised
/// must not go on alone: it is ordered to exit, in the form that it can read.
#[test]
fn an_old_node_is_told_that_the_level_was_raised() {
    for seed in seeds(10) {
        let mut sim = Sim::cluster_at(level::OLDEST, seed, 2);
        let mut options = sim.options("old", address(2), 1, 5);
        options.terms.protocol = level::ENCRYPTED - 1;
        sim.old.insert(address(2));
        let old = sim.start(options, vec![address(0), address(1)]);
        sim.run_until(5 * S, |sim| sim.agree(&[0, 1, old]));
        sim.freeze(old);
        sim.run_until(5 * S, |sim| sim.agree(&[0, 1]));
        for n in 0..2 {
            sim.with(n, |core, _| core.set_level(level::ENCRYPTED));
        }
        sim.run(S);
        let before = sim.time();
        sim.thaw(old);
        sim.run_until(15 * S, |sim| sim.fatal(old).is_some());
        assert!(matches!(sim.fatal(old), Some(Fatal::Superseded { .. })), "{:?}", sim.fatal(old));
        let refused = sim.refusals(0).into_iter().chain(sim.refusals(1));
        assert!(refused.map(|refusal| refusal.reason).any(|it| it == Reason::Superseded));
        assert!((0..2).all(|n| sim.views_since(n, before).is_empty()));
    }
}

/// An old node that is started after the raise is refused with the reason, and takes nothing.
#[test]
fn an_old_node_is_refused_at_level_3() {
    let mut sim = Sim::cluster(1, 2);
    let mut options = sim.options("old", address(2), 1, 5);
    (options.terms.protocol, options.terms.protocol_oldest) = (level::ENCRYPTED - 1, 1);
    sim.old.insert(address(2));
    let old = sim.start(options, vec![address(0), address(1)]);
    sim.run(20 * S);
    assert_eq!(sim.processes[old].members.borrow().number, 0);
    let told = sim.refusals(old);
    let told = told.iter().find(|refusal| refusal.reason == Reason::Protocol).unwrap();
    let newest = level::NEWEST;
    let says = format!("it speaks protocol {newest} to {newest}, this node 1 to 2");
    assert!(told.text.contains(&says), "{told}");
    assert!(
        sim.refusals(0).iter().any(|refusal| refusal.text.contains("it speaks protocol 1 to 2"))
    );
}
