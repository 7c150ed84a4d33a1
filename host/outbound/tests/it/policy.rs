//! What must not be connected to, however it is asked for.

use crate::kit::{LOOPBACK, May, Names, Server, client, get, says};
use slotd_outbound::{Kind, Outbound};
use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, atomic::Ordering},
};

async fn kind(client: &Outbound, url: String) -> Option<Kind> {
    let outcome = client.attempt(&get(url), None).await;
    outcome.err().map(|failure| {
        assert!(!failure.may_retry, "{failure}");
        failure.kind
    })
}

#[tokio::test]
async fn what_no_rule_allows_is_not_connected_to() {
    let server = Server::http(|_| says(200, &[], "")).await;
    let port = server.port;
    let without = client(&[]);
    assert_eq!(kind(&without, server.url("a.test", "/")).await, Some(Kind::Refused));
    let others = client(&[
        "a.test",
        &format!("http://b.test:{port}!private"),
        &format!("a.test:{port}!private"),
        "http://a.test!private",
    ]);
    assert_eq!(kind(&others, server.url("a.test", "/")).await, Some(Kind::Refused));
    assert_eq!(server.connections(), 0);
    assert_eq!(kind(&client(&[&server.rule("a.test")]), server.url("a.test", "/")).await, None);
}

#[tokio::test]
async fn an_address_of_this_machine_is_not_connected_to_in_any_spelling() {
    let server = Server::http(|_| says(200, &[], "")).await;
    let port = server.port;
    let client = client(&["http://*:*", &format!("http://127.0.0.1:{port}")]);
    for host in [
        "127.0.0.1",
        "127.1",
        "0x7f.1",
        "0177.1",
        "2130706433",
        "127.0.0.1.",
        "%31%32%37.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "0.0.0.0",
        "0",
        "[::]",
        "127.0.0.2",
        "LOCALHOST",
        "localhost.",
    ] {
        assert_eq!(kind(&client, server.url(host, "/")).await, Some(Kind::Refused), "{host}");
    }
    assert_eq!(server.connections(), 0);
    let named = crate::kit::client(&[&server.rule("127.0.0.1")]);
    assert_eq!(kind(&named, server.url("0x7f.1", "/")).await, None);
}

#[tokio::test]
async fn a_name_with_an_address_that_is_not_public_is_not_connected_to() {
    let server = Server::http(|_| says(200, &[], "")).await;
    let mapped = IpAddr::V6(std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped());
    let public: IpAddr = "93.184.215.14".parse().expect("an address");
    let rule = format!("http://a.test:{}", server.port);
    for addresses in [
        vec![LOOPBACK],
        vec![Ipv6Addr::LOCALHOST.into()],
        vec![mapped],
        vec!["0.0.0.0".parse().expect("an address")],
        // With a public one before it, too.
        vec![public, LOOPBACK],
    ] {
        let names = Names::new({
            let addresses = addresses.clone();
            move |_, _| addresses.clone()
        });
        let client = May { rules: &[&rule, "http://*:*"], ..May::default() }.client(names);
        let kind = kind(&client, server.url("a.test", "/")).await;
        assert_eq!(kind, Some(Kind::Refused), "{addresses:?}");
    }
    // The flag is for private addresses, not for where clouds hand out credentials.
    let names = Names::new(|_, _| vec!["169.254.169.254".parse().expect("an address")]);
    let client = May { rules: &[&server.rule("a.test")], ..May::default() }.client(names);
    assert_eq!(kind(&client, server.url("a.test", "/")).await, Some(Kind::Refused));
    assert_eq!(server.connections(), 0);
}

/// The answer of DNS changes after it was looked at. Whoever asks again when it connects would be led to the second
/// one.
#[tokio::test]
async fn what_is_connected_to_is_what_was_checked() {
    let server = Server::http(|_| says(200, &[("connection", "close")], "x")).await;
    let names = Names::new(|_, asked| match asked {
        0 => vec![LOOPBACK],
        _ => vec!["169.254.169.254".parse().expect("an address")],
    });
    let asked = Arc::clone(&names.asked);
    let client = May { rules: &[&server.rule("a.test")], ..May::default() }.client(names);
    assert_eq!(kind(&client, server.url("a.test", "/")).await, None);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    // And a new connection is checked anew.
    assert_eq!(kind(&client, server.url("a.test", "/")).await, Some(Kind::Refused));
    assert_eq!((asked.load(Ordering::SeqCst), server.connections()), (2, 1));
}

/// A host that may be private lends its connections to nobody: the rule of the other port has no flag.
#[tokio::test]
async fn a_flag_is_for_the_port_of_its_rule() {
    let [one, other] =
        [Server::http(|_| says(200, &[], "")).await, Server::http(|_| says(200, &[], "")).await];
    let client = client(&[&one.rule("a.test"), &format!("http://a.test:{}", other.port)]);
    assert_eq!(kind(&client, one.url("a.test", "/")).await, None);
    assert_eq!(kind(&client, other.url("a.test", "/")).await, Some(Kind::Refused));
    assert_eq!((one.connections(), other.connections()), (1, 0));
}

/// With the system's resolver, which knows this name everywhere.
#[tokio::test]
async fn the_systems_names_are_held_to_the_same() {
    let server = Server::http(|_| says(200, &[], "")).await;
    let url = server.url("localhost", "/");
    let refused = May { rules: &["http://*:*"], ..May::default() }.client_of_the_system();
    assert_eq!(kind(&refused, url.clone()).await, Some(Kind::Refused));
    assert_eq!(server.connections(), 0);
    let allowed = May { rules: &[&server.rule("localhost")], ..May::default() };
    assert_eq!(kind(&allowed.client_of_the_system(), url).await, None);
}
