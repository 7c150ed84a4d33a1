//! Nodes that find each other by DNS alone, each a process of its own.

use anyhow::{Context, ensure};
use serde_json::Value;
use slotd_tests::{
    api::Message,
    cluster::{SECRET, engine::Engine},
    node::{Node, NodeOptions, eventually, finish, scenario, slotd},
    plugins,
};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};
use tokio::{
    net::{TcpSocket, UdpSocket},
    task::JoinHandle,
};

/// The name, and as questions have it.
const NAME: &str = "nodes.slotd.test";
const ENCODED: &[u8] = b"\x05nodes\x05slotd\x04test\x00";
const BASENAME: &str = "tests";
/// Two hosts, as far as a node can tell.
const HOSTS: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3)];
/// An address of the name at which there is no node.
const NOBODY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 4);

/// A name server that knows one name. It ends with its owner.
struct NameServer {
    address: SocketAddr,
    says: Arc<Mutex<Vec<Ipv4Addr>>>,
    /// Questions for addresses.
    asked: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl NameServer {
    async fn start() -> anyhow::Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        let address = socket.local_addr()?;
        let (says, asked) = (Arc::<Mutex<Vec<_>>>::default(), Arc::new(AtomicU64::new(0)));
        let (known, count) = (says.clone(), asked.clone());
        let task = tokio::spawn(async move {
            let mut buffer = [0; 1_500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let list = known.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if let Some((answer, has_addresses)) = answer(&buffer[..length], &list) {
                    count.fetch_add(u64::from(has_addresses), SeqCst);
                    // Who does not hear it asks again.
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
        Ok(Self { address, says, asked, task })
    }

    fn say(&self, list: &[Ipv4Addr]) {
        *self.says.lock().unwrap_or_else(PoisonError::into_inner) = list.to_vec();
    }

    /// Waits until it was asked for addresses so often more.
    async fn asked(&self, more: u64) -> anyhow::Result<()> {
        let enough = self.asked.load(SeqCst) + more;
        eventually("questions", async || Ok((self.asked.load(SeqCst) >= enough).then_some(())))
            .await
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The answer to a question (RFC 1035), and whether it was one for the name's addresses.
fn answer(question: &[u8], list: &[Ipv4Addr]) -> Option<(Vec<u8>, bool)> {
    const HEADER: usize = 12;
    let (id, rest) = (question.get(..2)?, question.get(HEADER..)?);
    let name = rest.iter().position(|&byte| byte == 0)? + 1;
    let (asked, kind) = (rest.get(..name + 4)?, rest.get(name..name + 2)?);
    let is_ours = asked[..name].eq_ignore_ascii_case(ENCODED);
    let has_addresses = is_ours && kind == [0, 1];
    let list = if has_addresses { list } else { &[] };
    let mut out = id.to_vec();
    // An answer of one who knows; no such name, if it is another one.
    out.extend([0x85, if is_ours { 0x80 } else { 0x83 }]);
    out.extend([0, 1, 0, list.len() as u8, 0, 0, 0, 0]);
    out.extend(asked);
    for address in list {
        // The name as above, A, IN, for a minute, four bytes.
        out.extend([0xc0, HEADER as u8, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        out.extend(address.octets());
    }
    Some((out, has_addresses))
}

/// A port that both hosts have free: peers found by DNS are asked at the own one's. As a
/// `ReservedPort`, nobody else is given it as long as the sockets are there.
fn shared_port() -> io::Result<(u16, [TcpSocket; 2])> {
    let bound = |host, port| {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind((host, port).into())?;
        io::Result::Ok(socket)
    };
    let first = bound(HOSTS[0], 0)?;
    let port = first.local_addr()?.port();
    Ok((port, [first, bound(HOSTS[1], port)?]))
}

fn node(number: usize, port: u16, engine: &Engine, names: &NameServer) -> anyhow::Result<Node> {
    let env = [
        ("SLOTD_SLOT_COUNT", "16".to_owned()),
        ("SLOTD_NATS_SERVERS", engine.urls().join(",")),
        ("SLOTD_NATS_REPLICAS", "1".into()),
        ("SLOTD_CLUSTER_SECRET", SECRET.into()),
        ("SLOTD_CLUSTER_LISTEN", SocketAddr::from((HOSTS[number], port)).to_string()),
        ("DNS_CLUSTER_QUERY", NAME.into()),
        ("DNS_CLUSTER_NODE_BASENAME", BASENAME.into()),
        ("DNS_POLL_INTERVAL_MS", "100".into()),
        ("DNS_CLUSTER_SERVER", names.address.to_string()),
    ];
    let env = env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Node::prepare(NodeOptions { env, ..NodeOptions::default() })
}

/// Without it, nodes that are told of each other by DNS alone, as in Kubernetes, might never meet,
/// or bear names that others bear, too.
#[test]
fn nodes_find_each_other_by_dns_alone() {
    scenario(async {
        let engine = Engine::start(1, None).await?;
        let names = NameServer::start().await?;
        let (port, _reserved) = shared_port()?;
        names.say(&HOSTS[..1]);
        let mut first = node(0, port, &engine, &names)?;
        first.restart().await?;
        first.admin().deploy("counter", plugins::load("counter")?).await?;
        let alone = first.admin().nodes().await?;
        ensure!(alone.nodes.len() == 1, "{alone:?}");
        // It goes on to ask; and one that is not there is of no matter.
        names.asked(3).await?;
        names.say(&[NOBODY, HOSTS[0], HOSTS[1]]);
        let mut second = node(1, port, &engine, &names)?;
        second.restart().await?;
        let expected = HOSTS.map(|host| format!("{BASENAME}@{host}"));
        for one in [&first, &second] {
            eventually("both see both, and each has its share", async || {
                let seen = one.admin().nodes().await?;
                let all = seen.nodes.iter().map(|node| &node.node).eq(&expected);
                let each = seen.nodes.iter().all(|node| {
                    node.members == expected && node.owned > 0 && node.owned == node.proposed
                });
                Ok((all && each && seen.silent.is_empty()).then_some(()))
            })
            .await?;
        }
        // Through each node, to slots of both.
        for number in 0..32 {
            for (at, one) in [&first, &second].into_iter().enumerate() {
                let name = format!("s{number}");
                let reply = one.api().send("counter", &name, Message::bytes("1")).await?;
                ensure!(reply.seq == at as u64 + 1, "{name}: {reply:?}");
            }
        }
        let status = second.terminate().await?;
        ensure!(status.success(), "{status}");
        // Its name went with its address: the feature level does not wait for it.
        let admin = first.admin().client;
        eventually("the second is forgotten", async || {
            let level: Value = admin.get("/admin/v1/level").await?.success()?.json()?;
            let nodes = level["nodes"].as_array().context("no nodes")?;
            Ok((nodes.len() == 1 && nodes[0]["node"] == expected[0]).then_some(()))
        })
        .await?;
        let status = first.terminate().await?;
        ensure!(status.success(), "{status}");
        Ok(())
    });
}

/// Without it, a node with a typing error would look for its peers in the wrong place, or stand
/// alone, and nobody would be told.
#[test]
fn a_variable_of_dns_that_is_wrong_ends_the_start() {
    scenario(async {
        let scratch = tempfile::tempdir()?;
        let data = scratch.path().join("data");
        for (name, value) in [
            ("DNS_POLL_INTERVAL_MS", "5s"),
            ("DNS_CLUSTER_QUERY", "nodes.slotd.test:4000"),
            ("DNS_CLUSTER_NODE_BASENAME", "a@b"),
            ("DNS_CLUSTER_SERVER", "ns.slotd.test"),
        ] {
            // On any node: without the name to ask for, too, and without NATS.
            let mut command = slotd()?;
            command.arg("serve").arg("--data-dir").arg(&data);
            command.args(["--api-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
            command.env(name, value);
            let finished = finish(command).await?;
            let says = [name, value].iter().all(|word| finished.stderr.contains(word));
            let code = finished.status.code().context("killed")?;
            ensure!(code == 2 && says, "{name}={value}: {code}\n{}", finished.stderr);
            ensure!(!data.exists(), "{name}={value}: it has begun all the same");
        }
        Ok(())
    });
}
