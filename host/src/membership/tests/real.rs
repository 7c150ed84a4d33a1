//! Real sockets on loopback: many nodes in one process, each with its own socket and thread, and a
//! relay between them that can be cut.

use super::{
    super::{Fatal, Membership, Options, Terms, Timings, bind, refusal::Reason, task::Order},
    sim::options,
};
use crate::{discovery::Found, limits, peer::member::Members};
use parking_lot::Mutex;
use std::{
    collections::HashSet,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::watch, task::JoinSet};

const LONG: Duration = Duration::from_secs(30);

fn loopback() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

struct Node {
    name: String,
    peer: SocketAddr,
    membership: Membership,
    found: watch::Sender<Found>,
}

/// Binds first, so that all addresses are known before any node starts.
struct Bound {
    socket: UdpSocket,
    peer: SocketAddr,
}

fn socket() -> Bound {
    let socket = bind(loopback()).unwrap();
    let peer = socket.local_addr().unwrap();
    Bound { socket, peer }
}

fn node(name: &str, at: Bound, seeds: &[SocketAddr], change: impl FnOnce(&mut Options)) -> Node {
    let mut options = options(name, at.peer, 1, crate::random::id());
    change(&mut options);
    let addresses: Vec<_> = seeds.iter().copied().filter(|seed| *seed != at.peer).collect();
    let (found, seen) = watch::channel(Found { addresses: addresses.into(), answered: true });
    let membership = Membership::start(options, at.socket, seen).unwrap();
    Node { name: name.into(), peer: at.peer, membership, found }
}

fn cluster(count: usize) -> Vec<Node> {
    let bound: Vec<Bound> = (0..count).map(|_| socket()).collect();
    let seeds: Vec<SocketAddr> = bound.iter().map(|bound| bound.peer).collect();
    let start = |(n, bound)| node(&format!("n{n}"), bound, &seeds, |_| {});
    bound.into_iter().enumerate().map(start).collect()
}

async fn sees(node: &Node, so: impl FnMut(&Arc<Members>) -> bool) -> Arc<Members> {
    let mut members = node.membership.members();
    let seen = tokio::time::timeout(LONG, members.wait_for(so)).await;
    match seen {
        Ok(seen) => seen.unwrap().clone(),
        Err(_) => panic!("{} sees {:?}", node.name, node.membership.members().borrow()),
    }
}

/// All see exactly each other.
async fn agree(nodes: &[&Node]) {
    let mut names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
    names.sort_unstable();
    for node in nodes {
        sees(node, |members| {
            members.number > 0 && members.alive.iter().map(|m| &*m.name).eq(names.iter().copied())
        })
        .await;
    }
}

async fn fatal(node: &Node) -> Fatal {
    let mut fatal = node.membership.fatal();
    let told = tokio::time::timeout(LONG, fatal.wait_for(Option::is_some)).await;
    told.unwrap().unwrap().clone().unwrap()
}

async fn refused(node: &Node, reason: Reason, by_us: bool) -> String {
    let mut refusals = node.membership.refusals();
    let so = |all: &Arc<[_]>| {
        all.iter().any(|r: &super::super::Refusal| r.reason == reason && r.by_us == by_us)
    };
    let told = tokio::time::timeout(LONG, refusals.wait_for(so)).await.unwrap().unwrap().clone();
    let found = told.iter().find(|r| r.reason == reason && r.by_us == by_us);
    found.unwrap().to_string()
}

/// The whole life of a cluster, over a node's real sockets and threads.
#[tokio::test]
async fn nodes_join_leave_die_and_come_back() {
    let mut nodes = cluster(5);
    agree(&nodes.iter().collect::<Vec<_>>()).await;
    nodes[1].membership.set_leaving().await;
    assert!(nodes[1].membership.members().borrow().get("n1").unwrap().leaving);
    for node in &nodes {
        sees(node, |members| members.get("n1").is_some_and(|m| m.leaving)).await;
    }
    let left = nodes.remove(1);
    let start = Instant::now();
    left.membership.leave().await;
    agree(&nodes.iter().collect::<Vec<_>>()).await;
    println!("a leave is in all views after {:?}", start.elapsed());
    // Killed: its socket closes without notice.
    let killed = nodes.remove(2);
    let (start, peer) = (Instant::now(), killed.peer);
    drop(killed);
    agree(&nodes.iter().collect::<Vec<_>>()).await;
    println!("a death is in all views after {:?}", start.elapsed());
    // And restarted at the same address.
    let seeds: Vec<SocketAddr> = nodes.iter().map(|node| node.peer).collect();
    let again = loop {
        match bind(peer) {
            Ok(socket) => break Bound { socket, peer },
            Err(_) => tokio::task::yield_now().await,
        }
    };
    nodes.push(node("n3", again, &seeds, |options| options.member.boot = 2));
    agree(&nodes.iter().collect::<Vec<_>>()).await;
}

/// A process that is stopped (SIGSTOP, a debugger, a suspended machine) must be replaced in all
/// views, and rejoin.
#[tokio::test]
async fn a_stopped_node_is_missed_and_comes_back() {
    let nodes = cluster(3);
    let all: Vec<&Node> = nodes.iter().collect();
    agree(&all).await;
    let stop = Order::Stall(Duration::from_secs(6));
    assert!(nodes[2].membership.orders.send(stop).await.is_ok());
    let stopped = Instant::now();
    agree(&all[..2]).await;
    println!("a stop is in all views after {:?}", stopped.elapsed());
    agree(&all).await;
    println!("and the return after {:?}", stopped.elapsed());
    assert!(nodes.iter().all(|node| node.membership.fatal().borrow().is_none()));
}

/// Datagrams to a node pass through the relay's socket for it, which can be cut off from any other.
struct Relay {
    cut: Arc<Mutex<HashSet<(usize, usize)>>>,
    _tasks: JoinSet<()>,
}

/// Starts `count` nodes that know each other by the relay's addresses only.
async fn behind_a_relay(count: usize) -> (Vec<Node>, Relay) {
    let bound: Vec<Bound> = (0..count).map(|_| socket()).collect();
    let real: Arc<[SocketAddr]> = bound.iter().map(|bound| bound.peer).collect();
    let (cut, mut tasks): (Arc<Mutex<HashSet<_>>>, _) = (Arc::default(), JoinSet::new());
    let mut seeds = Vec::new();
    for to in 0..count {
        let relay = tokio::net::UdpSocket::bind(loopback()).await.unwrap();
        seeds.push(relay.local_addr().unwrap());
        let (real, cut) = (real.clone(), cut.clone());
        tasks.spawn(async move {
            let mut buffer = [0; 2_048];
            while let Ok((length, from)) = relay.recv_from(&mut buffer).await {
                let from = real.iter().position(|address| *address == from);
                if from.is_some_and(|from| !cut.lock().contains(&(from, to))) {
                    let _ = relay.send_to(&buffer[..length], real[to]).await;
                }
            }
        });
    }
    let start = |(n, bound): (usize, Bound)| {
        let advertised = seeds[n];
        node(&format!("n{n}"), bound, &seeds, |options| options.member.peer = advertised)
    };
    let nodes = bound.into_iter().enumerate().map(start).collect();
    (nodes, Relay { cut, _tasks: tasks })
}

/// Both sides of a partition continue alone, and merge when it heals. Each node greets itself too:
/// it does not recognize the relay's address as its own.
#[tokio::test]
async fn a_cut_network_parts_and_comes_together() {
    let (nodes, relay) = behind_a_relay(5).await;
    let all: Vec<&Node> = nodes.iter().collect();
    agree(&all).await;
    for one in 0..2 {
        for other in 2..5 {
            relay.cut.lock().extend([(one, other), (other, one)]);
        }
    }
    agree(&all[..2]).await;
    agree(&all[2..]).await;
    relay.cut.lock().clear();
    let start = Instant::now();
    agree(&all).await;
    println!("parted nodes agree {:?} after the cut is mended", start.elapsed());
}

/// Unauthenticated peers, replays and garbage at a real peer port.
#[tokio::test]
async fn who_does_not_fit_is_refused_and_the_rest_goes_on() {
    let nodes = cluster(2);
    let all: Vec<&Node> = nodes.iter().collect();
    agree(&all).await;
    let number = nodes[0].membership.members().borrow().number;
    let seeds: Vec<SocketAddr> = nodes.iter().map(|node| node.peer).collect();
    let secret = node("x", socket(), &seeds, |options| options.secret = b"wrong secret".to_vec());
    let slots = node("y", socket(), &seeds, |options| options.terms.slot_count = 64);
    let copy = node("n1", socket(), &seeds, |options| options.member.boot = 7);
    let noise = tokio::spawn(async move {
        let socket = tokio::net::UdpSocket::bind(loopback()).await.unwrap();
        for round in 0..2_000usize {
            let length = [0, 1, 60, 1_233, 9_000][round % 5];
            let mut bytes = b"slotd\x01\x04".to_vec();
            bytes.resize(length, round as u8);
            let _ = socket.send_to(&bytes, seeds[round % 2]).await;
            tokio::task::yield_now().await;
        }
    });
    assert!(refused(&nodes[0], Reason::Secret, true).await.contains("its secret differs"));
    assert!(
        refused(&secret, Reason::Secret, false)
            .await
            .contains("this node's secret or cluster name")
    );
    assert!(refused(&nodes[0], Reason::SlotCount, true).await.contains("64, this node's 512"));
    assert!(matches!(fatal(&slots).await, Fatal::Refused(r) if r.reason == Reason::SlotCount));
    assert!(matches!(fatal(&copy).await, Fatal::NameTaken { .. }));
    assert!(copy.membership.arrived().await.is_err());
    noise.await.unwrap();
    // A matching node is admitted meanwhile, and nothing else has changed.
    let more = node("z", socket(), &[nodes[0].peer], |_| {});
    more.membership.arrived().await.unwrap();
    agree(&[&nodes[0], &nodes[1], &more]).await;
    assert_eq!(nodes[0].membership.members().borrow().number, number + 1);
    assert_eq!(secret.membership.members().borrow().number, 0);
}

/// Later results of discovery are used, and a node alone does not wait for them.
#[tokio::test]
async fn addresses_that_are_found_later_are_used() {
    let (one, other) = (socket(), socket());
    let (first, second) = (one.peer, other.peer);
    let one = node("one", one, &[], |_| {});
    let other = node("other", other, &[], |_| {});
    one.membership.arrived().await.unwrap();
    other.membership.arrived().await.unwrap();
    let addresses = Arc::from([first, second]);
    one.found.send_replace(Found { addresses, answered: true });
    agree(&[&one, &other]).await;
}

/// Options for a node that nobody can join, or that anyone can, are refused at start.
#[tokio::test]
async fn options_of_no_use_are_refused() {
    let changes: [fn(&mut Options); 7] = [
        |o| o.secret = b"short".to_vec(),
        |o| o.secret = vec![1; limits::CLUSTER_SECRET_BYTES_MAX + 1],
        |o| o.terms = Terms::new("a b", 512, 1),
        |o| o.member.name = "".into(),
        |o| o.member.peer = "0.0.0.0:7000".parse().unwrap(),
        |o| o.member.version = "x".repeat(40).into(),
        |o| o.timings = Timings { probe_rtt: limits::PROBE_PERIOD, ..Timings::default() },
    ];
    for change in changes {
        let (at, (_, seen)) = (socket(), watch::channel(Found::default()));
        let mut options = options("n", at.peer, 1, 1);
        change(&mut options);
        assert!(Membership::start(options, at.socket, seen).is_err());
    }
}
