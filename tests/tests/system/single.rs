//! A node that stands alone has nothing of a cluster.

use anyhow::{Context, ensure};
use serde_json::json;
use slotd_tests::node::{Node, scenario};
use std::{
    collections::{BTreeSet, HashSet},
    fs,
    net::{TcpListener, TcpStream, UdpSocket},
};

use crate::common::{next_event, node_with, say};

/// `st` of a TCP socket that listens.
const LISTENS: &str = "0A";

/// An IP socket of a process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct IpSocket {
    udp: bool,
    port: u16,
    listens: bool,
}

/// All that a process has open, IPv4 and IPv6.
fn sockets(pid: u32) -> anyhow::Result<BTreeSet<IpSocket>> {
    let mut inodes = HashSet::new();
    for file in fs::read_dir(format!("/proc/{pid}/fd"))? {
        // One that was closed meanwhile is none.
        let Ok(link) = fs::read_link(file?.path()) else { continue };
        let link = link.to_string_lossy();
        let inode = link.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        inodes.extend(inode.map(ToOwned::to_owned));
    }
    let mut found = BTreeSet::new();
    for table in ["tcp", "tcp6", "udp", "udp6"] {
        let path = format!("/proc/{pid}/net/{table}");
        // A machine without IPv6 has no such table.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for line in text.lines().skip(1) {
            // Number, own address, peer's address, state, ...
            let words: Vec<&str> = line.split_whitespace().collect();
            let [_, local, _, state, .., _] = words[..] else { continue };
            if words.get(9).is_some_and(|inode| inodes.contains(*inode)) {
                let (_, port) = local.rsplit_once(':').context("no port")?;
                let port = u16::from_str_radix(port, 16)?;
                let udp = table.starts_with("udp");
                found.insert(IpSocket { udp, port, listens: !udp && state == LISTENS });
            }
        }
    }
    Ok(found)
}

/// Two listeners, what they have accepted, and nothing else.
fn look(node: &Node) -> anyhow::Result<()> {
    let at = node.addresses().borrow().context("it listens nowhere")?;
    let all = sockets(node.pid().context("it does not run")?)?;
    let listeners: BTreeSet<u16> =
        all.iter().filter(|socket| socket.listens).map(|socket| socket.port).collect();
    ensure!(listeners == BTreeSet::from([at.api.port(), at.admin.port()]), "{listeners:?}");
    // A connection that the node has made is from a port of its own.
    let others = all.iter().filter(|socket| socket.udp || !listeners.contains(&socket.port));
    let others: Vec<_> = others.collect();
    ensure!(others.is_empty(), "beside its listeners {listeners:?} it has {others:?}");
    Ok(())
}

/// Without it, a node that nobody made one of a cluster might look for NATS or for peers, or open a
/// port that nobody has asked for.
#[test]
fn a_node_that_stands_alone_has_nothing_of_a_cluster() {
    scenario(async {
        let node = node_with("chat", "chat-v1").await?;
        look(&node)?;
        let api = node.api();
        let mut stream = api.events("chat", "a", Some(0), None).await?;
        let mut socket = api.socket("chat", "a", Some(0)).await?;
        for number in 0..20 {
            let text = number.to_string();
            api.send("chat", "a", say("ann", &text)).await?;
            next_event(&mut stream).await?;
            look(&node)?;
        }
        let body = json!({"kind": "say", "from": "ann", "text": "over the socket"});
        socket.say("m", &body, &mut Vec::new()).await?;
        look(&node)?;
        let metrics = node.admin().client.get("/metrics").await?.success()?.text();
        ensure!(
            metrics.lines().any(|line| line == "slotd_messages_total{service=\"chat\"} 21"),
            "{metrics}"
        );
        let foreign = ["slotd_nats_", "slotd_view", "slotd_membership"];
        let line = metrics.lines().find(|line| foreign.iter().any(|of| line.contains(of)));
        ensure!(line.is_none(), "it is of a cluster: {line:?}");
        Ok(())
    });
}

/// Were this look blind, the test above would show nothing.
#[test]
fn sockets_of_a_process_are_seen() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let udp = UdpSocket::bind("127.0.0.1:0")?;
    let made = TcpStream::connect(listener.local_addr()?)?;
    let all = sockets(std::process::id())?;
    for expected in [
        IpSocket { udp: false, port: listener.local_addr()?.port(), listens: true },
        IpSocket { udp: false, port: made.local_addr()?.port(), listens: false },
        IpSocket { udp: true, port: udp.local_addr()?.port(), listens: false },
    ] {
        ensure!(all.contains(&expected), "no {expected:?} in {all:?}");
    }
    Ok(())
}
