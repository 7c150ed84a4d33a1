//! Discovery against a real name server on loopback.
#![allow(clippy::unwrap_used)]

mod server;

use super::*;
use server::{Say, Server, addresses};

const NAME: &str = "nodes.example";
const PORT: u16 = 7_600;

fn options(server: &Server) -> Options {
    let own = "10.1.1.1:7600".parse().unwrap();
    let dns = DnsOptions {
        names: vec![NAME.into()],
        basename: "slotd".into(),
        interval: limits::DNS_POLL_INTERVAL_MIN,
        server: Some(server.address),
    };
    let timeout = Duration::from_millis(100);
    Options { dns: Some(dns), timeout, ..Options::new(Own { advertised: own, bound: own }) }
}

fn at(list: &[&str]) -> Vec<SocketAddr> {
    addresses(list).into_iter().map(|ip| SocketAddr::new(ip, PORT)).collect()
}

async fn becomes(found: &mut watch::Receiver<Found>, wanted: &[&str]) {
    let wanted = at(wanted);
    let wait = found.wait_for(|found| found.answered && *found.addresses == *wanted);
    let waited =
        tokio::time::timeout(Duration::from_secs(20), wait).await.map(|found| found.is_ok());
    assert_eq!(waited, Ok(true), "{:?}, not {wanted:?}", found.borrow());
}

/// Without it a node would keep the peers of its first minute: it must follow DNS for both address
/// families and all names, and never include its own addresses.
#[tokio::test]
async fn answers_are_followed_as_they_change_and_vanish() {
    let server = Server::start().await;
    server.say(NAME, Say::Addresses(addresses(&["10.0.0.2", "10.0.0.1", "10.1.1.1", "10.0.0.1"])));
    server.say("more.example", Say::NoRecords);
    let mut options = options(&server);
    options.dns.as_mut().unwrap().names.push("more.example".into());
    let mut found = Discovery::start(options);
    becomes(&mut found, &["10.0.0.1", "10.0.0.2"]).await;
    server.say(NAME, Say::Addresses(addresses(&["10.0.0.3", "2001:db8::5"])));
    becomes(&mut found, &["10.0.0.3", "2001:db8::5"]).await;
    server.say("more.example", Say::Addresses(addresses(&["10.0.0.9"])));
    becomes(&mut found, &["10.0.0.3", "10.0.0.9", "2001:db8::5"]).await;
    server.say(NAME, Say::NoSuchName);
    becomes(&mut found, &["10.0.0.9"]).await;
    server.say("more.example", Say::NoRecords);
    becomes(&mut found, &[]).await;
    server.say(NAME, Say::OnlyA(addresses(&["10.0.0.4"])));
    becomes(&mut found, &["10.0.0.4"]).await;
}

/// A name server that fails, is silent or is forged must not remove a node's peers, and the node
/// must recover by itself.
#[tokio::test]
async fn failures_keep_the_last_answer_and_heal() {
    let forged = || addresses(&["10.6.6.6"]);
    let failures = [
        Say::Nothing,
        Say::ServerFailure,
        Say::Refused,
        Say::Garbage,
        Say::WrongId(forged()),
        Say::WrongQuestion(forged()),
    ];
    let tests = failures.into_iter().map(|failure| async move {
        let server = Server::start().await;
        server.say(NAME, Say::Addresses(addresses(&["10.0.0.1"])));
        let mut found = Discovery::start(options(&server));
        becomes(&mut found, &["10.0.0.1"]).await;
        let failures = || -> u64 {
            let text = metrics().render_counters();
            let line = text.lines().find(|l| l.starts_with("slotd_discovery_failures_total "));
            line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
        };
        let before = failures();
        server.say(NAME, failure.clone());
        server.asked(8).await;
        while failures() == before {
            server.asked(1).await;
        }
        assert!(!found.has_changed().unwrap(), "{failure:?}: {:?}", found.borrow());
        server.say(NAME, Say::Addresses(addresses(&["10.0.0.1", "::ffff:10.0.0.2", "::2"])));
        becomes(&mut found, &["10.0.0.1", "10.0.0.2", "::2"]).await;
    });
    futures_util::future::join_all(tests).await;
}

/// At the start nothing is known; a node that took this for "I am alone" would take all slots.
#[tokio::test]
async fn before_the_first_answer_nobody_is_said_to_be_alone() {
    let server = Server::start().await;
    server.say(NAME, Say::ServerFailure);
    let mut found = Discovery::start(options(&server));
    server.asked(6).await;
    assert_eq!(*found.borrow(), Found::default());
    server.say(NAME, Say::NoSuchName);
    becomes(&mut found, &[]).await;
}

/// A name server's answers go into datagrams: they must be bounded and valid.
#[tokio::test]
async fn lies_are_left_out() {
    let server = Server::start().await;
    let impossible = ["0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1", "fe80::1"];
    let list: Vec<&str> = impossible.into_iter().chain(["192.168.0.1", "127.0.0.9"]).collect();
    server.say(NAME, Say::Addresses(addresses(&list)));
    let mut found = Discovery::start(options(&server));
    becomes(&mut found, &["127.0.0.9", "192.168.0.1"]).await;
    server.say(NAME, Say::OtherRecords);
    becomes(&mut found, &[]).await;
    // Too long for a datagram: uses TCP.
    let thousand = (0..1_000u32).map(|n| Ipv4Addr::from(0x0a02_0000 + n).into()).collect();
    server.say(NAME, Say::Addresses(thousand));
    let wait = found.wait_for(|found| found.addresses.len() == limits::DISCOVERY_ADDRESSES_MAX);
    assert!(tokio::time::timeout(Duration::from_secs(20), wait).await.is_ok_and(|f| f.is_ok()));
    assert!(server.tcp_connections() > 0);
}

/// Seeds by name must follow their names, literal ones must work without any name server, and own
/// addresses must be excluded, by port too: nodes of one machine share their addresses.
#[tokio::test]
async fn seeds_by_name_and_by_address() {
    let server = Server::start().await;
    server.say("b.example", Say::Addresses(addresses(&["10.0.0.7", "127.0.0.1"])));
    let mut all = options(&server);
    all.dns.as_mut().unwrap().names.clear();
    all.own =
        Own { advertised: "10.0.0.7:1".parse().unwrap(), bound: "0.0.0.0:7600".parse().unwrap() };
    all.seeds =
        Seed::parse_list("s", "10.0.0.7:7600, b.example:1, 127.0.0.1:7600, [::1]:7601").unwrap();
    let mut found = Discovery::start(all);
    let literal: Vec<SocketAddr> =
        vec!["10.0.0.7:7600".parse().unwrap(), "[::1]:7601".parse().unwrap()];
    assert_eq!((*found.borrow().addresses).to_vec(), literal);
    let waited = found.wait_for(|found| found.answered).await.unwrap().clone();
    // 127.0.0.1:1 is another node's port; this node advertises 10.0.0.7:1.
    let wanted: Vec<SocketAddr> =
        ["10.0.0.7:7600", "127.0.0.1:1", "[::1]:7601"].map(|a| a.parse().unwrap()).to_vec();
    assert_eq!((*waited.addresses).to_vec(), wanted);
}

/// Without any source, a node must know at once that it is alone.
#[tokio::test]
async fn without_names_there_is_nobody() {
    let own = "127.0.0.1:7600".parse().unwrap();
    let found = Discovery::start(Options::new(Own { advertised: own, bound: own }));
    assert_eq!(*found.borrow(), Found { addresses: [].into(), answered: true });
}
