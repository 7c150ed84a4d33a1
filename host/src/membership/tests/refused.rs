//! Who does not fit is never let in, and both sides can say why.

use super::{
    super::{
        Options, Terms,
        refusal::{Fatal, Reason},
        wire::{Kind, Sealer, Start},
    },
    sim::{MS, S, Sim, address, options, seeds},
};
use crate::{
    discovery::Found,
    level::{self, Level},
};
use rand::RngExt;

/// A node of another cluster, or of a build with another ring, would move slots around; an operator
/// without an explanation would search for hours.
#[test]
fn strangers_stay_outside_and_both_sides_say_why() {
    let newest = level::NEWEST;
    for level in [level::OLDEST, newest] {
        strangers_stay_outside(level, &format!("{level} to {newest}"));
    }
}

fn strangers_stay_outside(level: Level, own: &str) {
    type Change = fn(&mut Options);
    let changes: [(Change, Reason, &str, &str); 6] = [
        (
            |o| o.terms.cluster = "other".into(),
            Reason::Cluster,
            "its cluster is \"other\", this node's \"cluster\"",
            "its cluster is not this node's",
        ),
        (
            |o| o.secret = b"another secret".to_vec(),
            Reason::Secret,
            "its secret differs from this node's",
            "this node's secret or cluster name \"cluster\" differs from its own",
        ),
        (
            |o| o.terms.slot_count = 256,
            Reason::SlotCount,
            "its slot count is 256, this node's 512",
            "its slot count is 512, this node's 256",
        ),
        (
            |o| o.terms.ring_scheme = "r2".into(),
            Reason::RingScheme,
            "its ring scheme is \"r2\", this node's",
            "its ring scheme is \"hashring-",
        ),
        (
            |o| (o.terms.protocol, o.terms.protocol_oldest) = (0, 0),
            Reason::Protocol,
            "it speaks protocol 0 to 0, this node OWN",
            "it speaks protocol OWN, this node 0 to 0",
        ),
        (
            |o| (o.terms.protocol, o.terms.protocol_oldest) = (99, 98),
            Reason::Protocol,
            "it speaks protocol 98 to 99, this node OWN",
            "it speaks protocol OWN, this node 98 to 99",
        ),
    ];
    for (n, (change, reason, ours, theirs)) in changes.into_iter().enumerate() {
        let (ours, theirs) = (ours.replace("OWN", own), theirs.replace("OWN", own));
        let mut sim = Sim::cluster_at(level, n as u64, 3);
        let before = sim.time();
        let mut strange = sim.options("stranger", address(9), 1, 1);
        change(&mut strange);
        let stranger = sim.start(strange, (0..3).map(address).collect());
        sim.run(30 * S);
        // Not even alone: with another secret it might still reach the same log.
        assert_eq!(sim.processes[stranger].members.borrow().number, 0, "{reason:?}");
        // A node that is refused because the others are too old for its cluster is right: it waits
        // for them to leave.
        let waits = theirs.ends_with("this node 98 to 99");
        let certain = !waits && !matches!(reason, Reason::Cluster | Reason::Secret);
        match sim.fatal(stranger) {
            Some(Fatal::Refused(refusal)) => assert!(certain && refusal.reason == reason),
            other => assert!(!certain && other.is_none(), "{reason:?}: {other:?}"),
        }
        for n in 0..3 {
            assert!(sim.views_since(n, before).is_empty());
            let said = sim.refusals(n);
            let here = said.iter().find(|r| r.reason == reason && r.by_us && r.peer == address(9));
            let text = here.unwrap_or_else(|| panic!("{said:?}")).to_string();
            assert!(text.contains(&ours), "{text}");
        }
        let said = sim.refusals(stranger);
        let there = said.iter().find(|r| r.reason == reason && !r.by_us && r.peer == address(0));
        let text = there.unwrap_or_else(|| panic!("{said:?}")).to_string();
        assert!(text.starts_with("refused by 10.0.0.0:7000: ") && text.contains(&theirs), "{text}");
    }
}

/// A node that advertises an unreachable address would believe that it is alone, and take all
/// slots.
#[test]
fn a_node_with_a_wrong_address_is_told() {
    let mut sim = Sim::cluster(4, 3);
    let before = sim.time();
    let addresses = (0..3).map(address).collect();
    let found = Found { addresses, answered: true };
    let lost = sim.start_at(address(9), options("n9", address(77), 1, 1), found);
    sim.run(5 * S);
    match sim.fatal(lost) {
        Some(Fatal::Refused(refusal)) => {
            assert_eq!(refusal.reason, Reason::Address);
            assert!(refusal.text.contains("answers to 10.0.0.77:7000 ("), "{refusal}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(sim.processes[lost].members.borrow().number, 0);
    assert!((0..3).all(|n| sim.views_since(n, before).is_empty()));
}

/// A corrected secret must admit the node without a restart on the other side.
#[test]
fn a_mended_node_is_let_in() {
    let mut sim = Sim::cluster(1, 3);
    let mut strange = options("n9", address(9), 1, 1);
    strange.secret = b"another secret".to_vec();
    sim.start(strange, (0..3).map(address).collect());
    sim.run(10 * S);
    let mended = sim.start(options("n9", address(9), 2, 2), (0..3).map(address).collect());
    sim.run_until(2 * S, |sim| sim.agree(&[0, 1, 2, mended]));
}

/// Anyone can send "you are refused": only nodes that were greeted may say so, and only those with
/// its secret can end it.
#[test]
fn forged_refusals_do_nothing() {
    let mut sim = Sim::cluster(2, 3);
    sim.captured = Some(Vec::new());
    let mut strange = options("stranger", address(9), 1, 1);
    strange.secret = b"another secret".to_vec();
    strange.terms.slot_count = 256;
    sim.start(strange, vec![address(0)]);
    sim.run(2 * S);
    let captured = sim.captured.take().unwrap();
    let refusals: Vec<_> = captured.into_iter().filter(|(_, to, _)| *to == address(9)).collect();
    assert!(!refusals.is_empty());
    let fresh = sim.start(options("n5", address(5), 1, 1), (0..3).map(address).collect());
    for _ in 0..100 {
        for (from, _, datagram) in &refusals {
            sim.inject(*from, address(5), datagram.clone());
            // With every reason.
            for code in 0..=9 {
                let mut forged = datagram.clone();
                forged[39] = code;
                sim.inject(*from, address(1), forged.clone());
                sim.inject(*from, address(5), forged);
            }
        }
        sim.run(10 * MS);
    }
    sim.run_until(3 * S, |sim| sim.agree(&[0, 1, 2, fresh]));
    assert!(
        (0..3)
            .chain([fresh])
            .all(|n| sim.fatal(n).is_none() && sim.refusals(n).iter().all(|r| r.by_us))
    );
}

/// A future build has bodies that this one can't read; its header says so.
#[test]
fn a_hello_of_another_format_is_refused_by_name() {
    let mut sim = Sim::cluster(3, 2);
    sim.captured = Some(Vec::new());
    let mut strange = options("old", address(9), 1, 1);
    strange.terms.cluster = "x".into();
    sim.start(strange, vec![address(0)]);
    sim.run(10 * MS);
    let captured = sim.captured.take().unwrap();
    let mut hello = captured.into_iter().find(|(from, ..)| *from == address(9)).unwrap().2;
    hello[5] = 7;
    sim.captured = Some(Vec::new());
    sim.inject(address(8), address(0), hello.clone());
    sim.run(10 * MS);
    let said = sim.refusals(0);
    assert!(
        said.iter().any(
            |r| r.reason == Reason::Protocol && r.text == "it uses format 7, this node 1 and 2"
        )
    );
    let captured = sim.captured.take().unwrap();
    let answer = captured.iter().find(|(_, to, _)| *to == address(8)).unwrap();
    let start = Start::read(&answer.2).unwrap();
    assert!(answer.2.len() <= hello.len() && start.kind.is_some());
}

/// Whatever arrives at the peer port, the cluster must not be affected, and answers stay rare.
#[test]
fn garbage_on_the_peer_port_is_ignored() {
    for seed in seeds(10) {
        let mut sim = Sim::cluster(seed, 3);
        let before = sim.time();
        sim.captured = Some(Vec::new());
        sim.run(2 * S);
        let real = sim.captured.replace(Vec::new()).unwrap();
        for round in 0..3_000 {
            let mut bytes: Vec<u8> = match round % 3 {
                0 => (0..sim.rng.random_range(0..1_300)).map(|_| sim.rng.random()).collect(),
                // Real ones, modified or truncated.
                _ => real[sim.rng.random_range(0..real.len())].2.clone(),
            };
            if round % 3 == 1 {
                let at = sim.rng.random_range(0..bytes.len());
                bytes[at] ^= sim.rng.random_range(1..=255u8);
            } else if round % 3 == 2 {
                bytes.truncate(sim.rng.random_range(0..bytes.len()));
            }
            let to = address(sim.rng.random_range(0..3));
            sim.inject(address(100), to, bytes);
            sim.run(MS);
        }
        sim.run(3 * S);
        assert!((0..3).all(|n| sim.views_since(n, before).is_empty() && sim.fatal(n).is_none()));
        let answers = sim.captured.take().unwrap();
        assert!(answers.iter().filter(|(_, to, _)| *to == address(100)).count() <= 3 * 30);
    }
}

/// An unauthenticated peer could test secrets offline against anything derived from the key, and an
/// answer that depends on the cluster's name would reveal it. So unauthenticated peers always get
/// the same answer, and none of it is derived from the key.
#[test]
fn who_has_not_shown_the_key_learns_nothing_that_depends_on_it() {
    // What is encrypted does not show which cluster it is for.
    let tagged = [Reason::Secret, Reason::Cluster, Reason::Protocol];
    let sealed = [Reason::Secret, Reason::Protocol];
    let answers = [(level::OLDEST, &tagged[..]), (level::NEWEST, &sealed)]
        .map(|(level, reasons)| answers_depend_on_nothing(level, reasons));
    assert_eq!(answers[0], answers[1]);
}

fn answers_depend_on_nothing(level: Level, expected: &[Reason]) -> Vec<u8> {
    let mut sim = Sim::cluster_at(level, 5, 2);
    let mut answers = Vec::new();
    type Change = fn(&mut Options);
    let strangers: [(Change, Option<u8>, bool); 6] = [
        (|_| {}, None, true),
        (|o| o.terms.cluster = "other".into(), None, true),
        (|o| o.terms.slot_count = 7, None, true),
        (|o| o.terms.ring_scheme = "other".into(), None, true),
        (|_| {}, Some(7), true),
        (|o| o.secret = b"a guess of the secret".to_vec(), None, false),
    ];
    for (n, (change, format, zero)) in strangers.into_iter().enumerate() {
        let from = address(20 + n);
        let mut options = sim.options("n0", from, 1, 1);
        change(&mut options);
        let mut hello = hello(&mut sim, options);
        hello[5] = format.unwrap_or(hello[5]);
        if zero {
            let tag = hello.len() - 32;
            hello[tag..].fill(0);
        }
        sim.captured = Some(Vec::new());
        sim.inject(from, address(0), hello.clone());
        sim.run(500 * MS);
        let captured = sim.captured.take().unwrap();
        let sent: Vec<_> = captured.iter().filter(|(_, to, _)| *to == from).collect();
        let [(_, _, answer)] = &sent[..] else { panic!("{} answers", sent.len()) };
        for cluster in ["cluster", "other"] {
            let ours = Sealer::new(b"a shared secret", &Terms::new(cluster, 512, level), 0, 0);
            for kind in [Kind::Refusal, Kind::Gossip] {
                let opened = ours.open(kind, Start::read(answer).unwrap(), answer);
                assert!(opened.is_none_or(|opened| !opened.authentic));
            }
        }
        assert!(answer.ends_with(&[0; 32]), "a tag of some kind");
        // Except for the numbers of its sender and of the answered datagram.
        let said = [&answer[..7], &answer[39..]].concat();
        answers.push(said);
    }
    assert!(answers.windows(2).all(|two| two[0] == two[1]), "{answers:?}");
    // The operator still sees the reason.
    let reasons: Vec<_> = sim.refusals(0).iter().map(|refusal| refusal.reason).collect();
    for reason in expected {
        assert!(reasons.contains(reason), "{reason:?}: {reasons:?}");
    }
    answers.remove(0)
}

/// A first greeting of a node that does not exist.
fn hello(sim: &mut Sim, options: Options) -> Vec<u8> {
    let from = options.member.peer;
    sim.captured = Some(Vec::new());
    let other = sim.start(options, vec![address(200)]);
    sim.run(10 * MS);
    sim.kill(other);
    let captured = sim.captured.take().unwrap();
    captured.into_iter().find(|(sender, ..)| *sender == from).unwrap().2
}

/// A node with the right secret and the wrong cluster name has proved the key: it is told which of
/// the two is wrong. It does not end because of that: clusters with one secret may meet under one
/// DNS name.
#[test]
fn another_cluster_with_the_same_secret_is_told_so() {
    let mut sim = Sim::cluster(6, 2);
    let mut other = options("blue", address(9), 1, 1);
    other.terms.cluster = "other".into();
    let stranger = sim.start(other, vec![address(0)]);
    sim.run(20 * S);
    let refusals = sim.refusals(stranger);
    assert!(refusals.iter().all(|refusal| refusal.reason == Reason::Cluster));
    assert!(!refusals.is_empty() && sim.fatal(stranger).is_none());
    assert_eq!(sim.processes[stranger].members.borrow().number, 0);
}
