//! `slotd serve`: runs a node, from its configuration to its clean stop.

use super::{
    args::{ConfigArgs, Serve},
    boot::Booting,
    descriptors,
    exit::{CliError, Exit},
    join::{self, Joined, PeerPort, Presence},
    output,
    reload::{Reload, Tokens},
    serving::Serving,
};
use crate::{
    buffers,
    config::{Config, Listener, Loaded},
    database::{OpenError, StorageOptions},
    http::{Admin, Api, App, Doing, HttpOptions, Server, Shutdown, Token},
    limits,
    node::{Foundation, Node, NodeOptions},
    plugin::{CompileOptions, ComponentSource, PluginHost, PluginOptions},
    storage::DataDir,
    telemetry::{self, panics},
    watchdog::Watchdog,
};
use futures_util::future::BoxFuture;
use std::{
    fs::Permissions, net::SocketAddr, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc,
    time::Duration,
};
use tokio::{
    runtime::Handle,
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};

/// Stops a node within a grace period.
pub type Stop = Box<dyn FnOnce(Duration) -> BoxFuture<'static, Result<(), String>> + Send>;

/// A running node.
pub struct Running {
    pub api: SocketAddr,
    pub admin: SocketAddr,
    /// Stops accepting, finishes requests in flight within the grace period, closes sockets,
    /// flushes and closes the store. An error names what did not finish; no acknowledged message is
    /// lost by it.
    pub stop: Stop,
    /// The listeners' tokens; replacing one in a clone replaces it in the listener.
    pub tokens: Tokens,
    /// Resolves, with the reason, when an essential part has ended.
    pub failed: BoxFuture<'static, String>,
    /// Resolves when an operator has ordered, through any node, that this one hand over everything
    /// and end.
    pub drained: BoxFuture<'static, ()>,
}

/// Why a node does not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// An address is in use, the data directory is in use, the disk is full: may work later.
    #[error("{0}")]
    Unavailable(String),
    /// The data directory is damaged, or was created with another slot count. A restart will not
    /// help.
    #[error("{0}")]
    Damaged(String),
    /// The engine can't be used, or the cluster refuses this node. A restart will not help.
    #[error("{0}")]
    Refused(String),
}

impl StartError {
    /// An address that can't be bound.
    pub fn listen(name: &str, address: SocketAddr, error: &std::io::Error) -> Self {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                format!(
                    "; another program is listening there: choose another address with \
                     --{name}-listen"
                )
            }
            std::io::ErrorKind::AddrNotAvailable => "; this machine does not have that \
                address"
                .into(),
            _ => String::new(),
        };
        Self::Unavailable(format!("can't listen on {address} ({name}.listen): {error}{hint}"))
    }
}

impl From<StartError> for CliError {
    fn from(error: StartError) -> Self {
        let exit = match error {
            StartError::Unavailable(_) => Exit::CannotStart,
            StartError::Damaged(_) | StartError::Refused(_) => Exit::Damaged,
        };
        Self::new(exit, format!("the node can't start: {error}"))
    }
}

// ---- the wiring --------------------------------------------------------------------------------

/// Opens the node and binds its listeners. Call it on the runtime that answers probes and
/// operators; everything else runs on the serving one.
///
/// # Errors
/// A part is not available. Dropping it early cancels the start.
pub(super) async fn start(config: &Config, serving: &Serving) -> Result<Running, StartError> {
    let (config, own, control) = (config.clone(), serving.clone(), Handle::current());
    let (wanted, given_up) = oneshot::channel::<()>();
    // On a separate thread: a start reads and compiles, and must not block a serving thread.
    let started = serving.runtime.spawn_blocking(move || {
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
    let descriptors = descriptors::divide(config.connections_max, config.connections_per_address);
    // Bound first, served last: an address in use is found before the data directory is touched.
    let api = listen("api", config.api.clone()).await?;
    // A listener belongs to the runtime on which it is bound.
    let admin = control.spawn(listen("admin", config.admin.clone())).await;
    let admin = admin.map_err(|e| StartError::Unavailable(e.to_string()))??;
    let peers = match config.is_cluster() {
        true => Some(PeerPort::bind(config.cluster.listen).await?),
        false => None,
    };
    let (path, storage) = (config.data_dir.clone(), storage_options(config));
    let opened = crate::task::blocking(move || DataDir::open(&path, storage)).await;
    let data_dir = opened.map_err(|e| StartError::Unavailable(e.to_string()))??;
    let data_dir = Arc::new(data_dir);
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
    let plugins = PluginHost::new(PluginOptions {
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
    });
    let plugins = Arc::new(plugins.map_err(|e| StartError::Unavailable(e.to_string()))?);
    let options = NodeOptions {
        name: config.node.clone(),
        slot_count: config.slot_count,
        mailbox_messages: config.mailbox_messages,
        slot_idle: config.slot_idle,
        instance_idle: config.guest_idle,
        session_cache_bytes: config.session_cache_bytes,
        resettable: config.resettable,
        level_wait: config.level_wait,
    };
    let joined = match (engine, peers) {
        (Some(engine), Some(port)) => {
            let heartbeat = serving.heartbeat.clone();
            Some(join::join(config, engine, port, &data_dir, api_address, &doing, heartbeat).await?)
        }
        _ => None,
    };
    let (shared, cluster) = joined.map(Joined::split).unzip();
    let foundation = Foundation { data_dir: data_dir.clone(), plugins, shared };
    let node = Node::start(options, foundation);
    let node = node.map_err(|e| StartError::Damaged(e.to_string()))?;

    buffers::shared().set_limit(config.buffers_bytes);
    let http = HttpOptions {
        body_bytes_max: config.body_bytes_max,
        buffers: buffers::shared().clone(),
        request_deadline: config.request_deadline,
        connections: descriptors.api,
        admin_connections: descriptors.admin,
        api_token: token(&config.api)?,
        admin_token: token(&config.admin)?,
    };
    let tokens = Tokens { api: http.api_token.clone(), admin: http.admin_token.clone() };
    let shutdown = Shutdown::new();
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
        control.spawn(admin.serve(App::admin(admin_inside), grace)),
    );
    let watched = node.clone();
    let runtime = serving.runtime.clone();
    let excluded = cluster.as_ref().map(|cluster| cluster.membership.fatal());
    let drained = Box::pin(node.drained());
    let parts = Parts { node, shutdown, servers, cluster, data_dir, scrape };
    Ok(Running {
        api: api_address,
        admin: admin_address,
        tokens,
        drained,
        stop: Box::new(move |grace| {
            let stopping = stop(parts, grace);
            let stopped = runtime.spawn(stopping);
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

async fn listen(name: &'static str, listener: Listener) -> Result<Server, StartError> {
    let bound = Server::bind(listener.listen).await;
    bound.map_err(|error| StartError::listen(name, listener.listen, &error))
}

fn token(listener: &Listener) -> Result<Option<Token>, StartError> {
    let token = listener.token.as_ref().map(|token| Token::new(token.reveal()));
    token.transpose().map_err(StartError::Unavailable)
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

/// The OpenAPI document, from the code.
pub(super) fn openapi_document() -> Option<String> {
    String::from_utf8(crate::http::document_json().to_vec()).ok()
}

// ---- the rest ----------------------------------------------------------------------------------

/// Runs a node until it is ordered to stop.
///
/// # Errors
/// It does not start, does not finish in time, or hits a bug.
pub async fn serve(args: Serve, json: bool, serving: Serving) -> Result<(), CliError> {
    telemetry::sink::start();
    let Serve { config, addresses_file, resettable } = args;
    let sources = config.clone();
    let mut loaded = config.load()?;
    if resettable && loaded.config.is_cluster() {
        return Err(CliError::usage("--resettable is for a single node: unset nats.servers"));
    }
    loaded.config.resettable = resettable;
    join::name_by_dns(&mut loaded).map_err(CliError::usage)?;
    let Config { log_format, log_filter, .. } = &loaded.config;
    telemetry::init_log(*log_format, log_filter).map_err(CliError::usage)?;
    panics::install_hook();
    telemetry::metrics();
    let watchdog = serving.watch(loaded.config.stall_limit)?;
    // A node's files are private, including those that its store creates by itself.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    or_a_bug(run(loaded, sources, addresses_file.as_deref(), json, &serving, &watchdog)).await
}

/// Serves, until a bug ends it.
///
/// # Errors
/// As `serving`, or that a bug ended it.
pub(super) async fn or_a_bug(
    serving: impl Future<Output = Result<(), CliError>>,
) -> Result<(), CliError> {
    tokio::select! {
        biased;
        // Crash-only: with a part in an unknown state there is no orderly way to continue, and
        // acknowledged messages are in the log.
        cause = panics::fatal() => Err(CliError::new(
            Exit::Bug,
            format!("a bug stopped this node: {cause}\n  Acknowledged messages are safe; start it again."),
        )),
        result = serving => result,
    }
}

async fn run(
    loaded: Loaded,
    sources: ConfigArgs,
    addresses_file: Option<&Path>,
    json: bool,
    serving: &Serving,
    watchdog: &Watchdog,
) -> Result<(), CliError> {
    let config = &loaded.config;
    let file = loaded.file.as_ref().map_or_else(|| "none".into(), |f| f.display().to_string());
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        node = config.node,
        data_dir = %config.data_dir.display(),
        slot_count = config.slot_count,
        config_file = file,
        "starting"
    );
    for note in &loaded.notes {
        tracing::info!("{note}");
    }
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    // From before the start, so that an order to stop in the middle of it is handled gracefully
    // too.
    let mut signals = Signals::listen()?;
    let running = tokio::select! {
        name = signals.stop() => {
            tracing::info!(signal = name, "stopped before it was ready");
            return Ok(());
        }
        running = start(config, serving) => running?,
    };
    announce(&running, addresses_file, json)?;

    let Running { stop, mut failed, mut drained, tokens, .. } = running;
    let mut reload = Reload::new(sources, config.clone(), tokens);
    let failure = loop {
        tokio::select! {
            told = signals.next() => match told {
                SignalAction::Stop(name) => {
                    tracing::info!(signal = name, grace = ?config.shutdown_grace, "stopping");
                    break None;
                }
                SignalAction::Reload => reload.reload().await,
            },
            () = &mut drained => {
                tracing::info!(grace = ?config.shutdown_grace, "drained by an operator; stopping");
                break None;
            }
            reason = &mut failed => {
                tracing::error!(reason, "a part of the node failed; stopping");
                break Some(reason);
            }
        }
    };
    let stopped = end(stop, config.shutdown_grace, &mut signals, serving, watchdog).await;
    match failure {
        Some(reason) => {
            Err(CliError::new(Exit::Bug, format!("a part of the node failed: {reason}")))
        }
        None => stopped.inspect(|()| tracing::info!("stopped")),
    }
}

/// Stops a node gracefully, or immediately on a second signal.
///
/// # Errors
/// Not everything finished; no acknowledged message is lost.
pub(super) async fn end(
    stop: Stop,
    grace: Duration,
    signals: &mut Signals,
    serving: &Serving,
    watchdog: &Watchdog,
) -> Result<(), CliError> {
    let most = grace + limits::SHUTDOWN_OVERTIME;
    watchdog.end_after(most + limits::SHUTDOWN_HANG, Exit::Failure as u8);
    let stopped = tokio::select! {
        name = signals.stop() => {
            tracing::warn!(signal = name, "second signal: exiting immediately");
            return Err(CliError::failure("stopped before everything in flight was finished"));
        }
        () = serving.heartbeat.stalled() => {
            return Err(CliError::new(
                Exit::Bug,
                "exited without a clean stop, because the worker threads are stalled; nothing \
                 acknowledged is lost",
            ));
        }
        // Work under the grace period ends with it; the rest is the store's last write.
        stopped = timeout(most, stop(grace)) => stopped,
    };
    match stopped {
        Ok(Ok(())) => Ok(()),
        Ok(Err(left)) => {
            Err(CliError::failure(format!("stopped, but some work was not finished: {left}")))
        }
        Err(_) => Err(CliError::failure("did not stop in time; nothing acknowledged is lost")),
    }
}

/// One line on standard output for people and scripts; a file for users who let the system choose
/// the ports.
fn announce(running: &Running, addresses_file: Option<&Path>, json: bool) -> Result<(), CliError> {
    let addresses = serde_json::json!({"api": running.api, "admin": running.admin});
    if let Some(file) = addresses_file {
        let part = file.with_extension("part");
        std::fs::write(&part, addresses.to_string())
            // It is for others; the umask protects only the node's own files.
            .and_then(|()| std::fs::set_permissions(&part, Permissions::from_mode(0o644)))
            .and_then(|()| std::fs::rename(&part, file))
            .map_err(|e| CliError::failure(format!("can't write {}: {e}", file.display())))?;
    }
    tracing::info!(api = %running.api, admin = %running.admin, "ready");
    let line = match json {
        true => addresses.to_string(),
        false => {
            format!("slotd is ready: API http://{}, admin http://{}", running.api, running.admin)
        }
    };
    // There may be no reader; the node serves all the same.
    let _ = output::line(&line);
    Ok(())
}

/// Signals that make a serving command stop, or reload its configuration.
///
/// A signal that the parent process has set to ignored (`nohup`; a background job of a script)
/// stays ignored. SIGTERM always counts.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Option<Signal>,
    hangup: Option<Signal>,
}

impl Signals {
    pub(super) fn listen() -> Result<Self, CliError> {
        let on = |kind| {
            signal(kind).map_err(|e| CliError::failure(format!("can't listen for signals: {e}")))
        };
        let unless_ignored = |kind| match is_ignored(kind) {
            true => Ok(None),
            false => on(kind).map(Some),
        };
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: unless_ignored(SignalKind::interrupt())?,
            hangup: unless_ignored(SignalKind::hangup())?,
        })
    }

    /// The next one.
    async fn next(&mut self) -> SignalAction {
        tokio::select! {
            _ = self.terminate.recv() => SignalAction::Stop("SIGTERM"),
            () = next(&mut self.interrupt) => SignalAction::Stop("SIGINT"),
            () = next(&mut self.hangup) => SignalAction::Reload,
        }
    }

    /// The name of the next one that means "stop".
    pub(super) async fn stop(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            () = next(&mut self.interrupt) => "SIGINT",
        }
    }

    /// As [`Self::stop`], where closing the terminal means the same.
    pub(super) async fn stop_or_hangup(&mut self) -> &'static str {
        match self.next().await {
            SignalAction::Stop(name) => name,
            SignalAction::Reload => "SIGHUP",
        }
    }
}

/// The meaning of a signal.
enum SignalAction {
    Stop(&'static str),
    /// Read the configuration again.
    Reload,
}

async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether this process ignores a signal.
fn is_ignored(kind: SignalKind) -> bool {
    // SAFETY: reads the signal's disposition and changes nothing; all zeros are a valid value of
    // the type.
    #[allow(unsafe_code, reason = "libc has no safe interface for it")]
    unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        let asked = libc::sigaction(kind.as_raw_value(), std::ptr::null(), &raw mut now);
        asked == 0 && now.sa_sigaction == libc::SIG_IGN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scripts read it as soon as it exists: half a file would be a wrong address.
    #[test]
    fn addresses_are_written_in_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("addresses.json");
        let running = Running {
            api: "127.0.0.1:5".parse().unwrap(),
            admin: "[::1]:6".parse().unwrap(),
            stop: Box::new(|_| Box::pin(async { Ok(()) })),
            tokens: Tokens::default(),
            failed: Box::pin(std::future::pending()),
            drained: Box::pin(std::future::pending()),
        };
        announce(&running, Some(&file), true).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text, r#"{"admin":"[::1]:6","api":"127.0.0.1:5"}"#);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_address_that_is_taken_says_what_to_do() {
        let address = "127.0.0.1:7070".parse().unwrap();
        let error = std::io::Error::from(std::io::ErrorKind::AddrInUse);
        let error = CliError::from(StartError::listen("api", address, &error));
        assert_eq!(error.exit, Exit::CannotStart);
        assert!(error.message.contains("127.0.0.1:7070 (api.listen)"), "{}", error.message);
        assert!(error.message.contains("--api-listen"), "{}", error.message);
    }
}
