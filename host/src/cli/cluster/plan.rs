//! The plan of `slotd cluster dev` before anything runs: ports, configurations, names. It starts no
//! process, and opens sockets only to check which ports are free.

use std::{
    ffi::OsString,
    fmt::Write as _,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
};
use tokio::net::TcpSocket;

/// The distance between two nodes' ports.
const STEP: u16 = 10;
/// Attempts to find ports that are free over TCP and UDP.
const TRIES: usize = 32;

/// The addresses of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub api: u16,
    pub admin: u16,
    /// Over TCP and UDP.
    pub peer: u16,
}

/// Chosen ports. The sockets keep free ones from being given to others: bound, not listening, and
/// shared with the node by SO_REUSEADDR.
pub struct Chosen {
    pub nodes: Vec<Ports>,
    _reserved: Vec<TcpSocket>,
}

pub fn at(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// The ports from `first` on; `None` if they exceed the highest port.
pub fn ports_from(first: u16, nodes: u16) -> Option<Vec<Ports>> {
    let node = |n: u16| {
        let api = first.checked_add(n.checked_mul(STEP)?)?;
        Some(Ports { api, admin: api.checked_add(1)?, peer: api.checked_add(2)? })
    };
    (0..nodes).map(node).collect()
}

impl Chosen {
    /// The ports from `first` on.
    ///
    /// # Errors
    /// The address that is in use, or that there are no such ports.
    pub fn fixed(first: u16, nodes: u16) -> Result<Self, String> {
        let ports = ports_from(first, nodes).ok_or_else(|| {
            format!("{nodes} nodes need more ports than are available after {first}")
        })?;
        for node in &ports {
            for port in [node.api, node.admin, node.peer] {
                TcpListener::bind(at(port)).map_err(|e| format!("{}: {e}", at(port)))?;
            }
            UdpSocket::bind(at(node.peer)).map_err(|e| format!("{} (UDP): {e}", at(node.peer)))?;
        }
        Ok(Self { nodes: ports, _reserved: Vec::new() })
    }

    /// Ports that nobody uses.
    ///
    /// # Errors
    /// There are none.
    pub fn free(nodes: u16) -> io::Result<Self> {
        let mut reserved = Vec::new();
        let mut one = |and_udp: bool| {
            let mut tries = 0;
            loop {
                tries += 1;
                let socket = TcpSocket::new_v4()?;
                socket.set_reuseaddr(true)?;
                socket.bind(at(0))?;
                let port = socket.local_addr()?.port();
                // Kept even if it is not used, so that the next attempt gets another one.
                reserved.push(socket);
                match and_udp.then(|| UdpSocket::bind(at(port))) {
                    Some(Err(e)) if tries >= TRIES => return Err(e),
                    Some(Err(_)) => {}
                    None | Some(Ok(_)) => return Ok(port),
                }
            }
        };
        let ports = (0..nodes)
            .map(|_| Ok(Ports { api: one(false)?, admin: one(false)?, peer: one(true)? }))
            .collect::<io::Result<_>>()?;
        Ok(Self { nodes: ports, _reserved: reserved })
    }
}

/// A node's configuration, before it runs.
#[derive(Clone, Debug)]
pub struct NodePlan {
    pub name: String,
    pub ports: Ports,
    /// Contains all of the node's files.
    pub dir: PathBuf,
    /// Flags in addition to its configuration file.
    pub further: Vec<OsString>,
}

impl NodePlan {
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }
    /// Its log file.
    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }
    pub fn config(&self) -> PathBuf {
        self.dir.join("slotd.toml")
    }
    /// The arguments of `slotd` to run it.
    pub fn arguments(&self) -> Vec<OsString> {
        let own = ["serve".into(), "--config".into(), self.config().into_os_string()];
        own.into_iter().chain(self.further.iter().cloned()).collect()
    }
    /// The same as a command for people.
    pub fn command(&self) -> String {
        let quoted = |word: OsString| {
            let word = word.to_string_lossy();
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./=,:@%+".contains(&b);
            match word.bytes().all(plain) && !word.is_empty() {
                true => word.into_owned(),
                false => format!("'{}'", word.replace('\'', "'\\''")),
            }
        };
        let words = self.arguments().into_iter().map(quoted);
        ["slotd".to_owned()].into_iter().chain(words).collect::<Vec<_>>().join(" ")
    }
}

/// `further` are flags for each node.
pub fn nodes(dir: &Path, ports: &[Ports], further: &[OsString]) -> Vec<NodePlan> {
    let node = |(index, ports): (usize, &Ports)| {
        let name = format!("node-{}", index + 1);
        NodePlan { dir: dir.join(&name), name, ports: *ports, further: further.to_vec() }
    };
    ports.iter().enumerate().map(node).collect()
}

/// The shared secret's file.
pub fn secret_file(dir: &Path) -> PathBuf {
    dir.join("secret")
}

/// A node's configuration, as a file that `slotd serve --config` takes.
pub fn configuration(
    dir: &Path,
    node: &NodePlan,
    all: &[NodePlan],
    nats: &[String],
    monitors: &[String],
) -> String {
    let text = |value: &str| toml::Value::from(value).to_string();
    let path = |path: &Path| text(&path.display().to_string());
    let seeds: Vec<String> = all.iter().map(|node| at(node.ports.peer).to_string()).collect();
    let Ports { api, admin, peer } = node.ports;
    let mut out = format!(
        "# Written by `slotd cluster dev` at each start; changes are lost.\n\
         node = {}\n\
         data_dir = {}\n",
        text(&node.name),
        path(&node.data_dir()),
    );
    for (table, keys) in [
        ("api", vec![("listen", text(&at(api).to_string()))]),
        ("admin", vec![("listen", text(&at(admin).to_string()))]),
        (
            "nats",
            // As many as there are: one server can't keep three replicas.
            vec![
                ("servers", text(&nats.join(","))),
                ("monitor", text(&monitors.join(","))),
                ("replicas", nats.len().to_string()),
            ],
        ),
        (
            "cluster",
            vec![
                ("listen", text(&at(peer).to_string())),
                ("seeds", text(&seeds.join(","))),
                ("secret_file", path(&secret_file(dir))),
            ],
        ),
    ] {
        let _ = writeln!(out, "\n[{table}]");
        for (key, value) in keys {
            let _ = writeln!(out, "{key} = {value}");
        }
    }
    out
}

/// The service that a component is deployed as: `cart-0.1.0.wasm` and `cart-v2.wasm` are `cart`.
pub fn service_of(component: &Path) -> String {
    let stem = component.file_stem().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let is_version = |part: &str| {
        let digits = part.strip_prefix('v').unwrap_or(part);
        digits.starts_with(|c: char| c.is_ascii_digit())
    };
    let end = stem.match_indices('-').find(|(at, _)| is_version(&stem[at + 1..])).map(|(at, _)| at);
    stem[..end.unwrap_or(stem.len())].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};
    use std::collections::BTreeSet;

    /// The written configuration must be valid for `slotd serve`, also with unusual folders.
    #[test]
    fn configurations_are_what_serve_reads() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("a \"quoted\" folder");
        let nodes = nodes(&dir, &ports_from(7070, 3).unwrap(), &[]);
        std::fs::create_dir_all(&nodes[1].dir).unwrap();
        std::fs::write(secret_file(&dir), "5f0c1b7e9a3d42688d1f60b2c4e7a931\n").unwrap();
        let nats = ["nats://127.0.0.1:4222".to_owned(), "nats://127.0.0.1:4223".to_owned()];
        let nats = [&nats[..], &nats[..1]].concat();
        let monitors = ["http://127.0.0.1:8222".to_owned()];
        let text = configuration(&dir, &nodes[1], &nodes, &nats, &monitors);
        std::fs::write(nodes[1].config(), text).unwrap();
        let sources = Sources { file: Some(nodes[1].config()), ..Sources::default() };
        let config = load(&sources).unwrap().config;
        assert_eq!((&*config.node, config.data_dir), ("node-2", dir.join("node-2/data")));
        assert_eq!([config.api.listen, config.admin.listen], [at(7080), at(7081)]);
        assert_eq!(config.cluster.listen, at(7082));
        let seeds = "127.0.0.1:7072,127.0.0.1:7082,127.0.0.1:7092";
        assert_eq!(config.cluster.seeds.as_deref(), Some(seeds));
        assert_eq!(config.cluster.secret.unwrap().reveal(), "5f0c1b7e9a3d42688d1f60b2c4e7a931");
        assert_eq!(config.nats.replicas, 3);
        // Without it, nothing would check whether its servers sync.
        assert_eq!(config.nats.monitor.as_deref(), Some("http://127.0.0.1:8222"));
        let servers = config.nats.servers.unwrap();
        assert_eq!(servers.split(',').count(), 3, "{servers}");
    }

    /// The first node must be where client commands look by default.
    #[test]
    fn the_first_node_has_the_default_ports() {
        let config = crate::config::Config::default();
        let listens = [config.api.listen, config.admin.listen, config.cluster.listen];
        let ports = ports_from(super::super::PORT_DEFAULT, 2).unwrap();
        assert_eq!([ports[0].api, ports[0].admin, ports[0].peer].map(at), listens);
        assert!(ports_from(65_520, 3).is_none(), "there are no such ports");
    }

    /// Two clusters, or parallel tests, must not get each other's ports.
    #[tokio::test]
    async fn free_ports_are_free_and_different() {
        let [one, other] = [Chosen::free(3).unwrap(), Chosen::free(3).unwrap()];
        let both = one.nodes.iter().chain(&other.nodes);
        let all: BTreeSet<u16> = both.flat_map(|p| [p.api, p.admin, p.peer]).collect();
        assert_eq!(all.len(), 18);
        for port in &all {
            // As a node does, while they are reserved for it.
            tokio::net::TcpListener::bind(at(*port)).await.unwrap();
        }
        let taken = TcpListener::bind(at(0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        if port < u16::MAX - 2 {
            let refused = Chosen::fixed(port, 1).err().unwrap();
            assert!(refused.contains(&port.to_string()), "{refused}");
        }
    }

    /// Without it, a node restarted with the printed command would differ from the original.
    #[test]
    fn commands_can_be_typed() {
        let further = ["--slot-count".into(), "64".into()];
        let ports = ports_from(7070, 1).unwrap();
        let plain = &nodes(Path::new("/tmp/c"), &ports, &further)[0];
        let command = "slotd serve --config /tmp/c/node-1/slotd.toml --slot-count 64";
        assert_eq!(plain.command(), command);
        let odd = &nodes(Path::new("/tmp/it's mine"), &ports, &[])[0];
        let command = r"slotd serve --config '/tmp/it'\''s mine/node-1/slotd.toml'";
        assert_eq!(odd.command(), command);
    }

    #[test]
    fn a_version_is_no_part_of_the_service() {
        for (file, service) in [
            ("target/plugins/chat-v1.wasm", "chat"),
            ("cart-0.1.0.wasm", "cart"),
            ("Counter.wasm", "counter"),
            ("my-great-plugin.wasm", "my-great-plugin"),
        ] {
            assert_eq!(service_of(Path::new(file)), service);
        }
    }
}
