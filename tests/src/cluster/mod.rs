//! Clusters of real processes: NATS servers and nodes, on loopback or on a network of namespaces in
//! which links can be cut.

pub mod engine;
pub mod nats;
pub mod net;
pub mod place;
pub mod settle;
pub mod tap;

use crate::{
    api::{Admin, Api},
    http::Client,
    node::{Addresses, Node, NodeOptions},
};
use anyhow::{Context, ensure};
use engine::Engine;
use net::{HostId, Net, address};
use place::{Place, ReservedPort};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::sync::watch;

/// The nodes' own.
pub const SECRET: &str = "slotd-vN0b7Qx2Wc9Rk4Zt8Yd1Lf6Hj3";

/// How to start a cluster.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Initially, numbered from 1.
    pub nodes: u32,
    pub servers: usize,
    pub slots: u16,
    /// Further variables of every node.
    pub env: Vec<(String, String)>,
    /// Further variables of single nodes, by number.
    pub own: BTreeMap<u32, Own>,
    /// File descriptors that each node may have.
    pub files_max: Option<u32>,
    /// The servers speak TLS to their clients; the nodes' own is in `env`.
    pub tls: Option<Box<engine::ServerTls>>,
}

/// Settings of one node that others do not have.
#[derive(Clone, Debug, Default)]
pub struct Own {
    pub env: Vec<(String, String)>,
    pub data_dir: Option<PathBuf>,
    /// Another `slotd` than the one under test.
    pub program: Option<PathBuf>,
}

/// A running cluster. Dropping it kills all of it and removes its data.
pub struct Cluster {
    options: ClusterOptions,
    /// Of the cluster.
    name: String,
    pub engine: Engine,
    pub net: Option<Arc<Net>>,
    here: Arc<Place>,
    members: Mutex<BTreeMap<u32, Arc<Member>>>,
    /// Addresses for clients: every node that is not permanently gone.
    targets: watch::Sender<Arc<[SocketAddr]>>,
}

/// One node of it.
pub struct Member {
    pub number: u32,
    pub name: String,
    pub node: tokio::sync::Mutex<Node>,
    pub host: Option<HostId>,
    addresses: Addresses,
    peer: SocketAddr,
    /// So that its ports are still free after a kill.
    _reserved: Vec<ReservedPort>,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            nodes: 3,
            servers: 3,
            slots: 32,
            env: Vec::new(),
            own: BTreeMap::new(),
            files_max: None,
            tls: None,
        }
    }
}

impl Cluster {
    /// Starts NATS and nodes, and waits until all nodes are ready.
    ///
    /// # Errors
    /// When a part of it can't be started, or is not ready in time.
    pub async fn start(options: ClusterOptions, net: Option<Arc<Net>>) -> anyhow::Result<Self> {
        static CLUSTERS: AtomicU64 = AtomicU64::new(0);
        let name = format!("test-{}-{}", std::process::id(), CLUSTERS.fetch_add(1, Relaxed));
        let engine =
            Engine::start_with(options.servers, net.as_deref(), options.tls.as_deref()).await?;
        let here = Arc::new(Place::here()?);
        let (members, targets) = (Mutex::default(), watch::channel(Arc::from([])).0);
        let nodes = options.nodes;
        let cluster = Self { options, name, engine, net, here, members, targets };
        for number in 1..=nodes {
            cluster.prepare(number)?;
        }
        // All at once: each is a seed of the others.
        let members = cluster.members();
        let started = members.iter().map(|member| cluster.restart(member));
        futures_util::future::try_join_all(started).await?;
        Ok(cluster)
    }

    /// Adds a node and waits until it is ready.
    ///
    /// # Errors
    /// When it can't be started, or is not ready in time.
    pub async fn join(&self, number: u32) -> anyhow::Result<Arc<Member>> {
        let member = self.prepare(number)?;
        self.restart(&member).await?;
        Ok(member)
    }

    /// Starts a node that does not run, and waits until it is ready.
    ///
    /// # Errors
    /// When it can't be started, or is not ready in time.
    pub async fn restart(&self, member: &Member) -> anyhow::Result<()> {
        let mut node = member.node.lock().await;
        // Later nodes are seeds too: a node that knows of no other takes itself for the whole
        // cluster, and claims the others' slots.
        node.set_env("SLOTD_CLUSTER_SEEDS", self.seeds(&[]));
        let started = node.restart().await;
        started.with_context(|| format!("starting {}", member.name))?;
        self.tell_clients();
        Ok(())
    }

    /// SIGTERM: the node hands over its slots and leaves permanently.
    ///
    /// # Errors
    /// If it does not end in time, or with an error.
    pub async fn drain(&self, number: u32) -> anyhow::Result<()> {
        let member = self.member(number)?;
        let status = member.node.lock().await.terminate().await?;
        self.lock().remove(&number);
        self.tell_clients();
        ensure!(status.success(), "{} ended with {status}", member.name);
        Ok(())
    }

    /// The nodes that are not permanently gone, by number.
    pub fn members(&self) -> Vec<Arc<Member>> {
        self.lock().values().cloned().collect()
    }

    /// # Errors
    /// If it never joined, or is permanently gone.
    pub fn member(&self, number: u32) -> anyhow::Result<Arc<Member>> {
        self.lock().get(&number).cloned().with_context(|| format!("no node {number}"))
    }

    /// The variables that make a node part of this cluster, except its own. It looks for its peers
    /// at the nodes' addresses, and at `further`.
    pub fn env(&self, further: &[SocketAddr]) -> Vec<(String, String)> {
        let shared = [
            ("SLOTD_SLOT_COUNT", self.options.slots.to_string()),
            ("SLOTD_INSECURE", "true".into()),
            ("SLOTD_NATS_SERVERS", self.engine.urls().join(",")),
            ("SLOTD_CLUSTER_NAME", self.name.clone()),
            ("SLOTD_CLUSTER_SECRET", SECRET.into()),
            ("SLOTD_CLUSTER_SEEDS", self.seeds(further)),
        ];
        let shared = shared.map(|(name, value)| (name.to_owned(), value));
        shared.into_iter().chain(self.options.env.iter().cloned()).collect()
    }

    fn seeds(&self, further: &[SocketAddr]) -> String {
        let nodes: Vec<_> = self.lock().values().map(|member| member.peer).collect();
        let seeds: Vec<_> = nodes.iter().chain(further).map(ToString::to_string).collect();
        seeds.join(",")
    }

    /// The addresses for clients, now and later.
    pub fn targets(&self) -> watch::Receiver<Arc<[SocketAddr]>> {
        self.targets.subscribe()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u32, Arc<Member>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_clients(&self) {
        let all: Vec<_> = self.lock().values().map(|member| member.addresses.api).collect();
        self.targets.send_replace(all.into());
    }

    fn prepare(&self, number: u32) -> anyhow::Result<Arc<Member>> {
        let mut reserved = Vec::new();
        let (host, place, [api, admin, peer]) = match &self.net {
            Some(net) => {
                let (host, place) = net.add()?;
                let at = |port| SocketAddr::from((address(host), port));
                (Some(host), place, [at(7070), at(7071), at(7072)])
            }
            None => {
                for _ in 0..3 {
                    reserved.push(ReservedPort::new()?);
                }
                let at = |n: usize| reserved[n].address;
                (None, self.here.clone(), [at(0), at(1), at(2)])
            }
        };
        let name = format!("node-{number}");
        let mut env = self.env(&[peer]);
        env.push(("SLOTD_NODE".into(), name.clone()));
        env.push(("SLOTD_CLUSTER_LISTEN".into(), peer.to_string()));
        let Own { env: own, data_dir, program } =
            self.options.own.get(&number).cloned().unwrap_or_default();
        env.extend(own);
        let addresses = Addresses { api, admin };
        let (listen, place) = (Some(addresses), Some(place));
        let files_max = self.options.files_max;
        let options = NodeOptions {
            env,
            listen,
            place,
            data_dir,
            files_max,
            program,
            ..NodeOptions::default()
        };
        let node = tokio::sync::Mutex::new(Node::prepare(options)?);
        let _reserved = reserved;
        let member = Member { number, name, node, host, addresses, peer, _reserved };
        let member = Arc::new(member);
        ensure!(self.lock().insert(number, member.clone()).is_none(), "node {number} twice");
        Ok(member)
    }
}

impl Member {
    /// Its API, whether it runs or not.
    pub fn api(&self) -> Api {
        Api::new(Client::new(self.addresses.api))
    }
    pub fn admin(&self) -> Admin {
        Admin::new(Client::new(self.addresses.admin))
    }
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }
    /// Where its peers reach it, over TCP and UDP.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }
}
