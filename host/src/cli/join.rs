//! Joining a cluster: opening the engine and the data in it, and finding the peers.

use super::serve::StartError;
use crate::{
    audit::AuditStream,
    backoff::Backoff,
    cluster::{ChangeAvoid, ClusterOptions, LateHandler, ReportUnfit},
    config::{Config, Loaded},
    discovery::{self, Discovery, DnsOptions, Seed},
    http::Doing,
    level::{self, FeatureLevel},
    limits,
    log::{
        SlotLog,
        jetstream::{self, JetStreamLog},
        sealed::SealedLog,
    },
    membership::{self, Fatal, Membership, Terms},
    nats::{Nats, NatsError, NatsOptions},
    node::{LevelDuties, Shared},
    peer::{identity::Identity, member::Member},
    random,
    registry::{Reader, Registry, Settings},
    ring::RING_SCHEME,
    rpc::{self, PeerLinks, RpcOptions},
    seal::Keyring,
    service::Catalogue,
    state::snapshot::{Objects, SnapshotError, SnapshotOptions, Snapshots, Target},
    storage::DataDir,
    watchdog::Heartbeat,
};
use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
};
use tokio::{net::TcpListener, sync::watch};

/// What a cluster node has in addition to a standalone node.
pub(super) struct Joined {
    shared: Shared,
    member: Presence,
}

/// This node's presence among its peers.
pub(super) struct Presence {
    pub membership: Membership,
    links: Arc<PeerLinks>,
    /// The node is named after its address: once it has left, nothing of that name comes back.
    passing: Option<(Registry, Reader)>,
}

impl Joined {
    pub fn split(self) -> (Shared, Presence) {
        (self.shared, self.member)
    }
}

impl Presence {
    /// Notifies the peers that it leaves, once all slots are elsewhere, and closes the links.
    pub async fn leave(self) {
        let leave = async {
            self.membership.leave().await;
            self.links.stop().await;
            if let Some((registry, own)) = self.passing
                && let Err(error) = registry.retire(&own).await
            {
                tracing::debug!(%error, "this node's record stays in the registry");
            }
        };
        let _ = tokio::time::timeout(limits::LEAVE_WAIT, leave).await;
    }
}

/// Resolves when the cluster has removed this node; never on a standalone node.
pub(super) async fn excluded(fatal: Option<watch::Receiver<Option<Fatal>>>) -> String {
    if let Some(mut fatal) = fatal
        && let Ok(why) = fatal.wait_for(Option::is_some).await
        && let Some(why) = &*why
    {
        return why.to_string();
    }
    std::future::pending().await
}

/// The peer port, bound before the data directory is touched.
pub(super) struct PeerPort {
    tcp: TcpListener,
    udp: UdpSocket,
}

impl PeerPort {
    /// TCP and UDP on one port. With port 0, one that is free for both.
    ///
    /// # Errors
    /// The address is in use, or not this machine's.
    pub async fn bind(listen: SocketAddr) -> Result<Self, StartError> {
        let failed = |e: std::io::Error| StartError::listen("cluster", listen, &e);
        let mut tries = 0;
        loop {
            let tcp = TcpListener::bind(listen).await.map_err(failed)?;
            let bound = tcp.local_addr().map_err(failed)?;
            match membership::bind(bound) {
                Ok(udp) => return Ok(Self { tcp, udp }),
                Err(_) if listen.port() == 0 && tries < limits::PEER_PORT_TRIES => tries += 1,
                Err(error) => return Err(failed(error)),
            }
        }
    }
}

/// The DNS settings in the environment.
///
/// # Errors
/// An invalid variable; the message names it.
fn dns() -> Result<Option<DnsOptions>, String> {
    DnsOptions::from_vars(|name| std::env::var(name).ok()).map_err(|e| e.to_string())
}

/// A node that finds its peers by DNS is named after its address, unless it has a name.
///
/// # Errors
/// As [`dns`], on any node: a typing error must not make a node standalone.
pub(super) fn name_by_dns(loaded: &mut Loaded) -> Result<(), String> {
    let dns = dns()?;
    let config = &mut loaded.config;
    if let Some(dns) = dns.filter(|_| config.is_cluster() && !loaded.origins.contains_key("node")) {
        config.node = dns.node(address(config));
    }
    Ok(())
}

fn address(config: &Config) -> IpAddr {
    config.cluster.advertise.unwrap_or(config.cluster.listen).ip()
}

/// Whether a node has the name that [`name_by_dns`] gives it.
fn is_named_by_dns(config: &Config) -> bool {
    dns().is_ok_and(|dns| dns.is_some_and(|dns| dns.node(address(config)) == config.node))
}

/// The open log engine, and the cluster's data in it.
pub(super) struct Engine {
    pub nats: Nats,
    pub registry: Registry,
    pub catalogue: Arc<Catalogue>,
}

/// Opens the log engine.
///
/// # Errors
/// The engine is not available in time, or must not be used.
pub(super) async fn engine(config: &Config, doing: &Doing) -> Result<Engine, StartError> {
    doing.step("waiting for NATS");
    let servers = config.nats.servers.as_deref().unwrap_or_default();
    let given = config.nats.streams;
    let streams = given.unwrap_or(limits::LOG_STREAMS_DEFAULT);
    let options = NatsOptions {
        servers: servers.split(',').map(ToOwned::to_owned).collect(),
        credentials: config.nats.credentials.as_ref().map(Into::into),
        tls: config.nats.tls(),
        cluster: config.cluster.name.clone(),
        replicas: config.nats.replicas,
        streams,
        boot_wait: config.nats.boot_wait,
    };
    let nats = Nats::connect_reporting(options, |why| doing.failed(why)).await?;
    check_sync(config).await?;
    let catalogue = Arc::new(Catalogue::of_cluster());
    let settings = Settings {
        slot_count: config.slot_count,
        ring_scheme: RING_SCHEME.into(),
        streams,
        id: random::hex_id(),
        level: level::NEWEST,
        unknown: Default::default(),
    };
    let open = || Registry::open(&nats, &settings, given, catalogue.clone());
    let registry = retrying(config, doing, "the registry", open).await?;
    let nats = nats.over_streams(registry.settings().streams);
    Ok(Engine { nats, registry, catalogue })
}

/// A server that acknowledges before it syncs loses acknowledged messages in a power failure.
async fn check_sync(config: &Config) -> Result<(), StartError> {
    let Some(monitors) = &config.nats.monitor else {
        tracing::warn!(
            "can't check that the NATS servers sync before they acknowledge: make sure they have \
             `sync_interval: always`, and set nats.monitor to have slotd check it"
        );
        return Ok(());
    };
    let tls = config.nats.tls();
    for monitor in monitors.split(',') {
        match Nats::check_sync(&[monitor.to_owned()], &tls).await {
            // It may be down; the others are checked all the same.
            Err(NatsError::Unavailable(why)) => tracing::warn!(
                why,
                "can't check whether a NATS server syncs before it acknowledges"
            ),
            checked => checked?,
        }
    }
    Ok(())
}

/// Joins the cluster; returns when the node has met it, or knows that no other node exists.
///
/// # Errors
/// A part is not available, or the others refuse this node.
pub(super) async fn join(
    config: &Config,
    engine: Engine,
    port: PeerPort,
    data_dir: &DataDir,
    api: SocketAddr,
    doing: &Doing,
    heartbeat: Heartbeat,
) -> Result<Joined, StartError> {
    let secret = config.cluster.secret.as_ref();
    let secret =
        secret.ok_or_else(|| StartError::Unavailable("cluster.secret is not set".into()))?;
    let secret: Arc<[u8]> = secret.reveal().as_bytes().into();
    let identity =
        Identity::new(config.node.as_str(), &secret, config.cluster.certificates().as_ref());
    let identity = Arc::new(identity.map_err(StartError::Refused)?);
    let Engine { nats, registry, catalogue } = engine;
    belong(data_dir, registry.cluster_id())?;
    let keys = data_dir.keys();
    let instance = random::id();
    let shown = random::hex(instance);
    let (own, needs) = ((config.node.as_str(), &*shown), data_dir.reseal_progress().sealed_with);
    retrying(config, doing, "the registry", || registry.seal_with(keys, own, &needs)).await?;
    data_dir.seal().map_err(|e| StartError::Unavailable(e.to_string()))?;
    let (log, snapshots) = open_data(config, &nats, keys, doing).await?;
    let audit = retrying(config, doing, "the audit log", || AuditStream::open(&nats)).await?;
    let bound = port.tcp.local_addr().map_err(|e| StartError::Unavailable(e.to_string()))?;
    let mut advertised = config.cluster.advertise.unwrap_or(bound);
    if advertised.port() == 0 {
        advertised.set_port(bound.port());
    }
    let boot = count_boot(data_dir)?;
    let version: Arc<str> = env!("CARGO_PKG_VERSION").into();
    let name: Arc<str> = config.node.as_str().into();
    let newest = level::NEWEST;
    let reader = Reader { name, newest, instance: shown, version: version.clone() };
    retrying(config, doing, "the registry", || registry.introduce(&reader)).await?;
    let level = registry.level();
    let member = Member {
        name: config.node.as_str().into(),
        peer: advertised,
        api,
        boot,
        instance,
        leaving: false,
        unfit: None,
        version,
    };
    let found = discover(config, discovery::Own { advertised, bound })?;
    let timings = membership::Timings { join_wait: config.cluster.join_wait, ..Default::default() };
    let membership = Membership::start(
        membership::Options {
            member: member.clone(),
            secret: secret.to_vec(),
            terms: Terms::new(&config.cluster.name, config.slot_count, level.get()),
            timings,
            heartbeat,
        },
        port.udp,
        found.clone(),
    );
    let membership = membership.map_err(|e| StartError::Unavailable(e.to_string()))?;
    let handler = Arc::new(LateHandler::default());
    let links = rpc::start(
        RpcOptions {
            cluster: config.cluster.name.as_str().into(),
            secret,
            identity,
            member,
            ring_scheme: RING_SCHEME.into(),
            slot_count: config.slot_count,
            level: level.clone(),
            newest,
            refused: refused(membership.clone()),
        },
        port.tcp,
        membership.members(),
        found,
        handler.clone(),
    );
    let links = Arc::new(links);
    crate::task::spawn("feature level", follow_level(membership.clone(), level));
    doing.step("looking for the cluster's nodes");
    membership.arrived().await.map_err(|fatal| StartError::Refused(fatal.to_string()))?;
    let passing = is_named_by_dns(config).then(|| (registry.clone(), reader.clone()));
    let placement = registry.placement();
    let shared = Shared {
        log,
        snapshots: Arc::new(snapshots),
        catalogue,
        peers: links.clone(),
        handler,
        members: membership.members(),
        placement,
        change_placement: change_placement(registry.clone()),
        audit: Some(audit),
        registry: Some(registry),
        leave: leave(membership.clone()),
        level: Some(LevelDuties { reader, expel: expel(membership.clone()) }),
        report_unfit: report_unfit(membership.clone()),
        engine: Box::new(move || {
            let nats = nats.clone();
            Box::pin(async move { nats.answers(limits::FITNESS_INTERVAL).await })
        }),
        options: ClusterOptions {
            request_deadline: config.request_deadline,
            held_max: config.mailbox_messages,
            instance,
        },
    };
    Ok(Joined { shared, member: Presence { membership, links, passing } })
}

/// The slots' logs and snapshots.
async fn open_data(
    config: &Config,
    nats: &Nats,
    keys: &Keyring,
    doing: &Doing,
) -> Result<(Arc<dyn SlotLog>, Snapshots), StartError> {
    let batch_bytes = jetstream::batch_bytes_max(config.body_bytes_max);
    let log = retrying(config, doing, "the log", || {
        JetStreamLog::open(nats.clone(), config.slot_count, batch_bytes)
    });
    let log = log.await?;
    let target: Target = config.snapshots.parse().map_err(StartError::Unavailable)?;
    let objects = retrying(config, doing, "the snapshots", || {
        Objects::open(&target, &config.cluster.name, Some(nats))
    });
    let snapshots = Snapshots::new(objects.await?.sealed(keys), SnapshotOptions::default());
    Ok((SealedLog::over(Arc::new(log), keys), snapshots))
}

/// Looks for peers among the seeds and in the DNS.
fn discover(
    config: &Config,
    own: discovery::Own,
) -> Result<watch::Receiver<discovery::Found>, StartError> {
    let mut look = discovery::Options::new(own);
    if let Some(seeds) = &config.cluster.seeds {
        let seeds = Seed::parse_list("cluster.seeds", seeds);
        look.seeds = seeds.map_err(|e| StartError::Unavailable(e.to_string()))?;
    }
    look.dns = dns().map_err(StartError::Unavailable)?;
    Ok(Discovery::start(look))
}

// ---- what the node reports to its cluster ------------------------------------------------------

fn change_placement(registry: Registry) -> Box<ChangeAvoid> {
    Box::new(move |change| {
        let registry = registry.clone();
        Box::pin(async move {
            registry.change_placement(|placement| change(&mut placement.avoid)).await.map(drop)
        })
    })
}

fn leave(membership: Membership) -> Box<dyn Fn() + Send + Sync> {
    Box::new(move || {
        let membership = membership.clone();
        crate::task::spawn("leaving", async move { membership.set_leaving().await });
    })
}

fn refused(membership: Membership) -> Arc<dyn Fn(&Member) + Send + Sync> {
    Arc::new(move |peer| membership.connection_refused(peer.instance))
}

fn expel(membership: Membership) -> Box<dyn Fn(u128) + Send + Sync> {
    Box::new(move |instance| {
        let membership = membership.clone();
        crate::task::spawn("expelling", async move { membership.expel(instance).await });
    })
}

fn report_unfit(membership: Membership) -> Box<ReportUnfit> {
    Box::new(move |unfit| {
        let membership = membership.clone();
        crate::task::spawn("fitness", async move { membership.set_unfit(unfit).await });
    })
}

/// Retries until the timeout what the engine can't do yet, for example because its servers have
/// just been started.
async fn retrying<T, E: Into<StartError>>(
    config: &Config,
    doing: &Doing,
    what: &str,
    mut open: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T, StartError> {
    doing.step(format!("waiting for {what}"));
    let started = crate::clock::now();
    let mut backoff = Backoff::new(limits::NATS_BOOT_RETRY_MIN, limits::NATS_BOOT_RETRY_MAX);
    loop {
        let why = match open().await.map_err(Into::into) {
            Err(StartError::Unavailable(why)) => why,
            done => return done,
        };
        let Some(pause) = backoff.next_within(config.nats.boot_wait, started.elapsed()) else {
            return Err(StartError::Unavailable(why));
        };
        tracing::warn!(why, next_try_ms = pause.as_millis(), "can't open {what} yet; retrying");
        doing.failed(&why);
        tokio::time::sleep(pause).await;
    }
}

/// Refuses nodes that are too old from the moment when the level is raised.
async fn follow_level(membership: Membership, level: Arc<FeatureLevel>) {
    let mut level = level.watch();
    // It may have been raised since membership began.
    level.mark_changed();
    while level.changed().await.is_ok() {
        let now = *level.borrow_and_update();
        membership.set_level(now).await;
    }
}

/// The directory has copies of one cluster's state, which are useless in another, where the same
/// positions mean other batches.
fn belong(data_dir: &DataDir, cluster: &str) -> Result<(), StartError> {
    const CLUSTER: &str = "cluster";
    let unavailable = |e: String| StartError::Unavailable(format!("the data directory: {e}"));
    let known = data_dir.meta_get(CLUSTER).map_err(|e| unavailable(e.to_string()))?;
    match known {
        Some(known) if known == cluster.as_bytes() => Ok(()),
        Some(_) => Err(StartError::Refused(format!(
            "the data directory {} belongs to another cluster, or the cluster's NATS data was \
             deleted. It holds only a copy: use an empty directory",
            data_dir.path().display()
        ))),
        None => {
            let put = data_dir.meta_put_durable(CLUSTER, cluster.as_bytes());
            put.map_err(|e| unavailable(e.to_string()))
        }
    }
}

/// The number of this start on this data directory.
fn count_boot(data_dir: &DataDir) -> Result<u64, StartError> {
    const BOOTS: &str = "boots";
    let unavailable = |e: String| StartError::Unavailable(format!("the data directory: {e}"));
    let last = data_dir.meta_get(BOOTS).map_err(|e| unavailable(e.to_string()))?;
    let last = match last {
        Some(bytes) => u64::from_le_bytes(bytes[..].try_into().map_err(|_| {
            // If it counted as missing, this start would look older than those before.
            unavailable(format!("its count of starts has {} bytes, not 8", bytes.len()))
        })?),
        None => 0,
    };
    let boot = last.saturating_add(1);
    let put = data_dir.meta_put_durable(BOOTS, &boot.to_le_bytes());
    put.map_err(|e| unavailable(e.to_string()))?;
    Ok(boot)
}

impl From<NatsError> for StartError {
    fn from(error: NatsError) -> Self {
        match error {
            NatsError::Unavailable(why) => Self::Unavailable(why),
            NatsError::Refused(why) => Self::Refused(why),
        }
    }
}

impl From<SnapshotError> for StartError {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::Refused(why) => Self::Refused(format!("snapshots.url: {why}")),
            other => Self::Unavailable(format!("snapshots.url: {other}")),
        }
    }
}
