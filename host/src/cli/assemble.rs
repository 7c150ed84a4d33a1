//! Puts a node together from its configuration: listeners, store, engine, plugins, node; and takes it
//! apart again.

use super::{
    boot::Booting,
    descriptors::{self, Descriptors},
    join::{self, Joined, PeerPort, Presence},
    reload::{AccessParts, Certificates},
    serve::{Running, StartError},
    serving::Serving,
    started,
};
use crate::{
    access::{self, Decider, PolicyFile, TokenStore, policy::gate_spec},
    audit, buffers,
    captures::Redactions,
    config::{Config, Listener},
    database::{OpenError, StorageOptions},
    effects::rules::SendRules,
    http::{Admin, Api, App, Doing, HttpOptions, Notifiers, Server, Shutdown},
    limits, modes,
    node::{Foundation, HttpRequester, Node, NodeOptions, RequestOptions},
    plugin::{CompileOptions, ComponentSource, PluginHost, PluginOptions},
    quota::Quota,
    registry::Registry,
    requests::{Grants, Rules},
    signing,
    storage::DataDir,
    telemetry,
    tls::{ListenerFiles, ListenerTls},
};
use slotd_access::{
    Access, Hash,
    Listener::{Admin as AdminListener, Api as ApiListener},
};
use slotd_outbound::Pace;
use std::{sync::Arc, time::Duration};
use tokio::{runtime::Handle, sync::oneshot, task::JoinHandle, time::timeout};

/// Folders of a data directory whose files nobody else should read. Those with data have no secrets of
/// the node's, and are as open as their folder.
const PRIVATE: [(&str, &str); 2] = [(audit::FOLDER, "the audit log"), ("access", "tokens or keys")];

/// Opens the node and binds its listeners. Call it on the runtime that answers probes and
/// operators; everything else runs on the serving one.
///
/// # Errors
/// A part is not available. Dropping it early cancels the start.
pub(super) async fn start(config: &Config, serving: &Serving) -> Result<Running, StartError> {
    let (config, own, control) = (config.clone(), serving.clone(), Handle::current());
    let (wanted, given_up) = oneshot::channel::<()>();
    // On a separate thread: a start reads and compiles, and must not block a serving thread.
    let started = crate::task::blocking_on(&serving.runtime, move || {
        let runtime = own.runtime.clone();
        runtime.block_on(async {
            tokio::select! {
                started = assemble(&config, &own, &control) => started,
                _ = given_up => Err(StartError::Unavailable("timed out".into())),
            }
        })
    });
    let started = started.await;
    drop(wanted);
    started.map_err(|e| StartError::Unavailable(e.to_string()))?
}

/// The one place where the parts are put together.
async fn assemble(
    config: &Config,
    serving: &Serving,
    control: &Handle,
) -> Result<Running, StartError> {
    let outbound =
        config.http_rules.as_ref().map_or(0, |_| slotd_outbound::limits::ALL_AT_ONCE_MAX);
    let descriptors =
        descriptors::divide(config.connections_max, config.connections_per_address, outbound);
    // Bound first, served last: an address in use is found before the data directory is touched.
    let tls = certificates(config).await?;
    let (api, admin, peers) = bind(config, control, &tls).await?;
    tls.follow();
    let (path, storage, sealing) =
        (config.data_dir.clone(), storage_options(config), config.clone());
    let opened = crate::task::blocking(move || {
        let keys = super::seal::keyring(&sealing).map_err(StartError::Refused)?;
        Ok::<_, StartError>(DataDir::open(&path, StorageOptions { keys, ..storage })?)
    });
    let data_dir = opened.await.map_err(|e| StartError::Unavailable(e.to_string()))??;
    let data_dir = Arc::new(data_dir);
    tell_sealing(&data_dir, peers.is_some());
    for warning in modes::readable_in(data_dir.path(), &PRIVATE) {
        tracing::warn!("{warning}");
    }
    let (api_address, admin_address) = (api.local_addr(), admin.local_addr());
    let listeners = match &peers {
        // Only a cluster node may have to wait for others.
        Some(_) => Listeners::Booting(Booting::start(api, admin, control)),
        None => Listeners::Idle(api, admin),
    };
    let doing = listeners.doing();
    let engine = match &peers {
        Some(_) => Some(join::engine(config, &doing).await?),
        None => None,
    };
    let source = engine.as_ref().map(|engine| {
        let source: Arc<dyn ComponentSource> = Arc::new(engine.registry.components().clone());
        source
    });
    let plugins = PluginHost::new(plugin_options(config, source));
    let plugins = Arc::new(plugins.map_err(|e| StartError::Unavailable(e.to_string()))?);
    let joined = match (engine, peers) {
        (Some(engine), Some(port)) => {
            let heartbeat = serving.heartbeat.clone();
            Some(join::join(config, engine, port, &data_dir, api_address, &doing, heartbeat).await?)
        }
        _ => None,
    };
    let (shared, cluster) = joined.map(Joined::split).unzip();
    let shutdown = Shutdown::new();
    let registry = shared.as_ref().and_then(|shared| shared.registry.clone());
    let (quota, redactions) = (Quota::default(), Redactions::default());
    let policed = (quota.clone(), redactions.clone());
    let (access_parts, tokens) =
        open_access(config, &data_dir, registry, &shutdown, policed).await?;
    let requests = request_options(config);
    let requester = crate::task::blocking(move || HttpRequester::open(requests)).await;
    let requester = requester.map_err(|e| StartError::Unavailable(e.to_string()))?;
    let requester = Some(Arc::new(requester.map_err(StartError::Unavailable)?));
    let foundation = Foundation {
        data_dir: data_dir.clone(),
        plugins,
        shared,
        requester,
        quota: quota.clone(),
        redactions,
    };
    let node = Node::start(node_options(config), foundation);
    let node = node.map_err(|e| StartError::Damaged(e.to_string()))?;

    buffers::shared().set_limit(config.buffers_bytes);
    let audit = node.audit().clone();
    started::note(&audit, config, &access_parts, &tokens).await;
    let http = http_options(config, &descriptors, &access_parts.decider, tokens, quota);
    if let Some(policy) = access_parts.policy.clone() {
        let access = access_parts.decider.access().clone();
        node.set_deploy_keys(Arc::new(move |service| {
            signing::deploy_keys(&access.policy(), service)
        }));
        let access = access_parts.decider.access().clone();
        node.set_gate_specs(Arc::new(move |service| {
            // What can't be read is not in force.
            access.policy().service(service).gate.as_ref().and_then(|gate| gate_spec(gate).ok())
        }));
        crate::task::spawn("policy", policy.follow(audit.clone(), node.stopping()));
    }
    let render = Arc::new(|| telemetry::metrics().render());
    let api_inside = Api::new(node.clone(), http.clone(), shutdown.clone());
    let scrape = scrape_source(&node);
    let api_app = App::api(api_inside);
    let admin_inside = Admin::new(
        node.clone(),
        http,
        shutdown.clone(),
        render,
        serving.runtime.clone(),
        serving.heartbeat.clone(),
    );
    let (api, admin) = listeners.take().await?;
    let grace = config.shutdown_grace;
    let servers = (
        crate::task::spawn("API", api.serve(api_app, grace)),
        crate::task::spawn_on(control, "admin API", admin.serve(App::admin(admin_inside), grace)),
    );
    let watched = node.clone();
    let runtime = serving.runtime.clone();
    let excluded = cluster.as_ref().map(|cluster| cluster.membership.fatal());
    let drained = Box::pin(node.drained());
    let parts = Parts { node, shutdown, servers, cluster, data_dir, scrape };
    Ok(Running {
        api: api_address,
        admin: admin_address,
        access: access_parts,
        tls,
        audit: Some(audit),
        drained,
        stop: Box::new(move |grace| {
            let stopping = stop(parts, grace);
            let stopped = crate::task::spawn_on(&runtime, "stop", stopping);
            Box::pin(async move { stopped.await.unwrap_or_else(|e| Err(e.to_string())) })
        }),
        failed: Box::pin(async move {
            tokio::select! {
                why = watched.fatal() => why,
                why = join::excluded(excluded) => why,
            }
        }),
    })
}

/// Says what is sealed with which key.
fn tell_sealing(data_dir: &DataDir, clustered: bool) {
    let keys = data_dir.keys();
    if keys.is_empty() {
        return;
    }
    let what = match clustered {
        true => "the data directory, the slots' logs and snapshots",
        false => "the data directory",
    };
    let opens: Vec<_> = keys.ids().map(|id| id.to_string()).collect();
    let opens = opens.join(" ");
    match keys.sealing() {
        Some(id) => tracing::info!(what, seals_with = %id, opens, "what is kept is sealed"),
        None => tracing::info!(
            what,
            opens,
            "what is kept is opened, and not sealed: all keys are `open:`"
        ),
    }
}

/// The listeners, and the peer port of a cluster node.
async fn bind(
    config: &Config,
    control: &Handle,
    tls: &Certificates,
) -> Result<(Server, Server, Option<PeerPort>), StartError> {
    let api = listen("api", config.api.clone()).await?.with_tls(tls.api.clone());
    // A listener belongs to the runtime on which it is bound.
    let admin = crate::task::run_on(control, listen("admin", config.admin.clone())).await;
    let admin = admin.map_err(|e| StartError::Unavailable(e.to_string()))??;
    let admin = admin.with_tls(tls.admin.clone());
    let peers = match config.is_cluster() {
        true => Some(PeerPort::bind(config.cluster.listen).await?),
        false => None,
    };
    Ok((api, admin, peers))
}

/// The parts of a running node, to shut down.
struct Parts {
    node: Arc<Node>,
    shutdown: Shutdown,
    /// API and admin.
    servers: (JoinHandle<()>, JoinHandle<()>),
    cluster: Option<Presence>,
    data_dir: Arc<DataDir>,
    scrape: telemetry::SourceGuard,
}

/// Shuts a node down within its grace period. Each step gets a share of what the ones before have
/// left, so that none uses it all: handing over slots in a cluster, clients, then the slots.
///
/// # Errors
/// What did not finish.
async fn stop(parts: Parts, grace: Duration) -> Result<(), String> {
    let Parts { node, shutdown, servers, cluster, data_dir, scrape } = parts;
    let started = crate::clock::now();
    let left = || grace.saturating_sub(started.elapsed());
    // A deploy that is still compiling must not use up the slots' grace period.
    node.stop_compiling();
    // Clients are served until the slots are elsewhere.
    node.give_away(grace.mul_f64(limits::DRAIN_SHARE)).await;
    shutdown.trigger_within(left());
    let mut ended = std::pin::pin!(async { tokio::join!(servers.0, servers.1) });
    let clients = left().mul_f64(limits::CONNECTIONS_SHARE);
    let waiting = timeout(clients, &mut ended).await.is_err();
    if waiting {
        tracing::warn!(after = ?clients, "some clients have not finished; stopping the slots \
            meanwhile");
    }
    let late = node.stop(left()).await;
    // Some waited for their slots, and are answered now; clients that do not read are cut.
    if waiting && timeout(limits::LINGER, ended).await.is_err() {
        tracing::warn!("disconnecting clients that do not read");
    }
    if let Some(cluster) = cluster {
        cluster.leave().await;
    }
    let closed = crate::task::blocking(move || data_dir.close()).await;
    drop(scrape);
    closed.map_err(|e| format!("the store was not closed: {e}"))?;
    match late {
        0 => Ok(()),
        late => Err(format!("{late} slots did not finish within {grace:?} (shutdown_grace)")),
    }
}

/// API and admin, before there is a node.
enum Listeners {
    Idle(Server, Server),
    Booting(Booting),
}

impl Listeners {
    fn doing(&self) -> Doing {
        match self {
            Self::Idle(..) => Doing::default(),
            Self::Booting(booting) => booting.doing.clone(),
        }
    }

    async fn take(self) -> Result<(Server, Server), StartError> {
        match self {
            Self::Idle(api, admin) => Ok((api, admin)),
            Self::Booting(booting) => {
                let gone = || StartError::Unavailable("a listener failed".into());
                booting.done().await.ok_or_else(gone)
            }
        }
    }
}

/// The listeners' certificates, from their files.
async fn certificates(config: &Config) -> Result<Certificates, StartError> {
    let (api, admin) = (config.api.tls(), config.admin.tls());
    let open = |name: &'static str, files: Option<ListenerFiles>| {
        files.map(|files| ListenerTls::open(name, files)).transpose()
    };
    let opened = crate::task::blocking(move || -> Result<_, String> {
        Ok(Certificates { api: open("api", api)?, admin: open("admin", admin)? })
    });
    let opened = opened.await.map_err(|e| StartError::Unavailable(e.to_string()))?;
    opened.map_err(StartError::Unavailable)
}

async fn listen(name: &'static str, listener: Listener) -> Result<Server, StartError> {
    let bound = Server::bind(listener.listen).await;
    bound.map_err(|error| StartError::listen(name, listener.listen, &error))
}

/// What decides who may do what, and where the named tokens are.
///
/// # Errors
/// The policy is wrong, or what is stored of tokens and keys can't be read.
async fn open_access(
    config: &Config,
    data_dir: &DataDir,
    registry: Option<Registry>,
    shutdown: &Shutdown,
    (quota, redactions): (Quota, Redactions),
) -> Result<(AccessParts, TokenStore), StartError> {
    let (api, admin) = (token(&config.api)?, token(&config.admin)?);
    let secret = config.cluster.secret.clone().filter(|_| registry.is_some());
    let audience = registry.as_ref().map_or(data_dir.node_id(), Registry::cluster_id).to_owned();
    let (path, file) = (data_dir.path().to_owned(), config.access_file.clone());
    let told = shutdown.clone();
    let never_open = [(ApiListener, &config.api), (AdminListener, &config.admin)]
        .map(|(listener, at)| (listener, is_never_open(config, at)));
    let opened = crate::task::blocking(move || {
        let secret = secret.as_ref().map(|secret| secret.reveal().as_bytes());
        let key = access::minting_key(secret, &path, &audience).map_err(StartError::Damaged)?;
        let access = Access::new(api, admin, key);
        for (listener, is_never_open) in never_open {
            if is_never_open {
                access.never_open(listener);
            }
        }
        let decider = Decider::new(access, move || told.look());
        let decider = decider.with_quota(quota).with_redactions(redactions);
        let tokens = match registry {
            Some(_) => None,
            None => {
                let tokens = TokenStore::of_data_dir(&path, decider.clone());
                Some(tokens.map_err(StartError::Damaged)?)
            }
        };
        let policy = file.map(|file| PolicyFile::open(file.into(), decider.clone())).transpose();
        Ok((decider, tokens, registry, policy.map_err(StartError::Refused)?))
    });
    let opened: Result<_, StartError> =
        opened.await.map_err(|e| StartError::Unavailable(e.to_string()))?;
    let (decider, tokens, registry, policy) = opened?;
    let tokens = match (tokens, registry) {
        (Some(tokens), _) => tokens,
        // Its watch is a task of this runtime.
        (None, Some(registry)) => {
            TokenStore::of_cluster(registry, decider.clone()).map_err(StartError::Damaged)?
        }
        (None, None) => TokenStore::none(),
    };
    Ok((AccessParts { decider, policy }, tokens))
}

fn token(listener: &Listener) -> Result<Option<Hash>, StartError> {
    let token = listener.token.as_ref().map(|token| access::static_token(token.reveal()));
    token.transpose().map_err(StartError::Unavailable)
}

/// Others than this machine reach it, and its operator has not said that anyone may; or certificates are accepted
/// there, which then are needed.
fn is_never_open(config: &Config, listener: &Listener) -> bool {
    let exposed = listener.is_exposed() && !config.insecure;
    exposed || listener.tls_client_authority.is_some()
}

fn storage_options(config: &Config) -> StorageOptions {
    StorageOptions {
        slot_count: config.slot_count,
        clustered: config.is_cluster(),
        block_cache_bytes: config.store_cache_bytes,
        reserve_bytes: config.disk_reserve_bytes,
        ..StorageOptions::default()
    }
}

fn plugin_options(config: &Config, source: Option<Arc<dyn ComponentSource>>) -> PluginOptions {
    PluginOptions {
        dir: config.data_dir.join("plugins"),
        memory_bytes: config.guest_memory_bytes,
        memory_total_bytes: usize::try_from(config.guest_memory_total_bytes).unwrap_or(usize::MAX),
        deadline: config.guest_deadline,
        host_calls: config.guest_host_calls,
        compile: CompileOptions {
            memory_bytes: config.guest_compile_memory_bytes,
            deadline: config.guest_compile_deadline,
        },
        isolation: config.guest_isolation,
        long_threads: config.guest_long_threads,
        source,
    }
}

fn node_options(config: &Config) -> NodeOptions {
    NodeOptions {
        name: config.node.clone(),
        slot_count: config.slot_count,
        mailbox_messages: config.mailbox_messages,
        slot_idle: config.slot_idle,
        instance_idle: config.guest_idle,
        session_cache_bytes: config.session_cache_bytes,
        resettable: config.resettable,
        shares: config.shares,
        level_wait: config.level_wait,
        sends: rules(config.sends.as_deref()),
        in_order: rules(config.in_order.as_deref()),
    }
}

/// They were checked as they were read.
fn rules(text: Option<&str>) -> Arc<SendRules> {
    text.and_then(|text| SendRules::parse(text).ok()).unwrap_or_default().into()
}

fn request_options(config: &Config) -> RequestOptions {
    // They were checked as they were read.
    let rules = config.http_rules.as_deref().and_then(|text| Rules::parse(text).ok());
    let grants = config.http_secrets.as_deref().and_then(|text| Grants::parse(text).ok());
    RequestOptions {
        rules: rules.unwrap_or_default(),
        grants: grants.unwrap_or_default(),
        pace: Pace { at_once: config.http_at_once, per_second: config.http_per_second },
        secrets_file: config.secrets_file.as_deref().map(Into::into),
        secrets_prefix: config.secrets_env.clone(),
    }
}

fn http_options(
    config: &Config,
    descriptors: &Descriptors,
    decider: &Decider,
    tokens: TokenStore,
    quota: Quota,
) -> HttpOptions {
    HttpOptions {
        body_bytes_max: config.body_bytes_max,
        buffers: buffers::shared().clone(),
        request_deadline: config.request_deadline,
        connections: descriptors.api,
        admin_connections: descriptors.admin,
        access: decider.access().clone(),
        tokens,
        notify: config.notify.as_deref().map(Notifiers::parse).unwrap_or_default(),
        quota,
        client_certificates: config.admin.tls_client_authority.is_some(),
    }
}

impl From<OpenError> for StartError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Locked(_) | OpenError::Unavailable(_) => {
                Self::Unavailable(error.to_string())
            }
            OpenError::Mismatch(_) | OpenError::Corrupt { .. } => Self::Damaged(error.to_string()),
        }
    }
}

fn scrape_source(node: &Arc<Node>) -> telemetry::SourceGuard {
    let node = Arc::downgrade(node);
    telemetry::on_scrape(move || node.upgrade().map(|node| node.snapshot()).unwrap_or_default())
}
