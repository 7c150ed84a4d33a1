//! `slotd serve`: a node from its configuration to its orderly end.

use super::{
    args::Serve,
    boot::Booting,
    exit::{CliError, Exit},
    join::{self, Joined, PeerPort},
    output,
};
use crate::{
    buffers,
    config::{Config, Listener, Loaded},
    http::{Admin, Api, App, Doing, HttpOptions, Server, Shutdown, Token},
    limits,
    node::{Foundation, Node, NodeOptions},
    plugin::{ComponentSource, PluginHost, PluginOptions},
    storage::{DataDir, OpenError, StorageOptions},
    telemetry::{self, panics},
};
use futures_util::future::BoxFuture;
use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::timeout,
};

/// Stops a node within a grace.
pub type Stop = Box<dyn FnOnce(Duration) -> BoxFuture<'static, Result<(), String>> + Send>;

/// A node that serves.
pub struct Running {
    pub api: SocketAddr,
    pub admin: SocketAddr,
    /// Stops accepting, finishes what is in flight within the grace, closes sockets, flushes and
    /// closes the store. An error says what did not finish; nothing acknowledged is lost by it.
    pub stop: Stop,
    /// Resolves, with the reason, when a part that must not end has ended.
    pub failed: BoxFuture<'static, String>,
    /// Resolves when an operator has asked, through any node, that this one give everything away
    /// and end.
    pub drained: BoxFuture<'static, ()>,
}

/// Why a node does not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// An address is taken, the data directory is in use, the disk is full: may work later.
    #[error("{0}")]
    Unavailable(String),
    /// The data directory is damaged, or was made with another slot count. Starting again will
    /// not help.
    #[error("{0}")]
    Damaged(String),
    /// The engine can't be used, or the cluster does not take this node. Starting again will not
    /// help.
    #[error("{0}")]
    Refused(String),
}

impl StartError {
    /// An address that can't be bound.
    pub fn listen(name: &str, address: SocketAddr, error: &std::io::Error) -> Self {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                format!(
                    "; another program listens there, or another slotd: choose with --{name}-listen"
                )
            }
            std::io::ErrorKind::AddrNotAvailable => "; this machine does not have it".into(),
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
        Self::new(exit, format!("the node does not start: {error}"))
    }
}

// ---- the wiring --------------------------------------------------------------------------------

/// Opens the node and binds its listeners: the one place where the parts are put together.
pub(super) async fn start(config: &Config) -> Result<Running, StartError> {
    // Bound first, served last: a taken address is found before the data directory is touched.
    let api = listen("api", &config.api).await?;
    let admin = listen("admin", &config.admin).await?;
    let peers = match config.is_cluster() {
        true => Some(PeerPort::bind(config.cluster.listen).await?),
        false => None,
    };
    let (path, storage) = (config.data_dir.clone(), storage_options(config));
    let opened = tokio::task::spawn_blocking(move || DataDir::open(&path, storage)).await;
    let data_dir = opened.map_err(|e| StartError::Unavailable(e.to_string()))??;
    let data_dir = Arc::new(data_dir);
    let (api_address, admin_address) = (api.local_addr(), admin.local_addr());
    let listeners = match &peers {
        // Only a node of a cluster may have to wait for others.
        Some(_) => Listeners::Booting(Booting::start(api, admin)),
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
    };
    let joined = match (engine, peers) {
        (Some(engine), Some(port)) => {
            Some(join::join(config, engine, port, &data_dir, api_address, &doing).await?)
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
        connections_max: config.connections_max,
        api_token: token(&config.api)?,
        admin_token: token(&config.admin)?,
    };
    let shutdown = Shutdown::new();
    let render = Arc::new(|| telemetry::metrics().render());
    let api_inside = Api::new(node.clone(), http.clone(), shutdown.clone());
    let scrape = scrape_source(&node);
    let api_app = App::api(api_inside);
    let admin_app = App::admin(Admin::new(node.clone(), http, shutdown.clone(), render));
    let (api, admin) = listeners.take().await?;
    let grace = config.shutdown_grace;
    let servers = tokio::spawn(async move {
        tokio::join!(api.serve(api_app, grace), admin.serve(admin_app, grace))
    });
    let watched = node.clone();
    let excluded = cluster.as_ref().map(|cluster| cluster.membership.fatal());
    Ok(Running {
        api: api_address,
        admin: admin_address,
        drained: Box::pin(node.drained()),
        stop: Box::new(move |grace| {
            Box::pin(async move {
                let started = Instant::now();
                // Clients are served until the slots are elsewhere.
                node.give_away(grace.mul_f64(limits::DRAIN_SHARE)).await;
                shutdown.trigger();
                // They end within their own grace.
                let _ = servers.await;
                let late = node.stop(grace.saturating_sub(started.elapsed())).await;
                if let Some(cluster) = cluster {
                    cluster.leave().await;
                }
                let closed = tokio::task::spawn_blocking(move || data_dir.close()).await;
                drop(scrape);
                closed.map_err(|e| format!("the store was not closed: {e}"))?;
                match late {
                    0 => Ok(()),
                    late => Err(format!("{late} slots did not finish within {grace:?}")),
                }
            })
        }),
        failed: Box::pin(async move {
            tokio::select! {
                why = watched.fatal() => why,
                why = join::excluded(excluded) => why,
            }
        }),
    })
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
                let gone = || StartError::Unavailable("a listener has ended".into());
                booting.done().await.ok_or_else(gone)
            }
        }
    }
}

async fn listen(name: &str, listener: &Listener) -> Result<Server, StartError> {
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

/// Runs a node until it is told to stop.
///
/// # Errors
/// It does not start, does not finish in time, or meets a bug.
pub async fn serve(args: Serve, json: bool) -> Result<(), CliError> {
    let Serve { config, addresses_file } = args;
    let mut loaded = config.load()?;
    join::name_by_dns(&mut loaded).map_err(CliError::usage)?;
    let Config { log_format, log_filter, .. } = &loaded.config;
    telemetry::init_log(*log_format, log_filter).map_err(CliError::usage)?;
    panics::install_hook();
    telemetry::metrics();
    or_a_bug(run(loaded, addresses_file.as_deref(), json)).await
}

/// What serves, until a bug ends it.
///
/// # Errors
/// As `serving` does, or that a bug ended it.
pub(super) async fn or_a_bug(
    serving: impl Future<Output = Result<(), CliError>>,
) -> Result<(), CliError> {
    tokio::select! {
        biased;
        // Crash-only: with a part in an unknown shape there is no orderly way to go on, and what
        // was acknowledged is in the log.
        cause = panics::fatal() => Err(CliError::new(
            Exit::Bug,
            format!("a bug ended this node: {cause}\n  What it acknowledged is safe; start it again."),
        )),
        result = serving => result,
    }
}

async fn run(loaded: Loaded, addresses_file: Option<&Path>, json: bool) -> Result<(), CliError> {
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
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    raise_file_limit(config.connections_max);
    // From before the start, so that being told to stop in the middle of it is orderly too.
    let mut signals = Signals::listen()?;
    let running = tokio::select! {
        name = signals.next() => {
            tracing::info!(signal = name, "stopped before it was ready");
            return Ok(());
        }
        running = start(config) => running?,
    };
    announce(&running, addresses_file, json)?;

    let Running { stop, mut failed, drained, .. } = running;
    let failure = tokio::select! {
        name = signals.next() => {
            tracing::info!(signal = name, grace = ?config.shutdown_grace, "stopping");
            None
        }
        () = drained => {
            tracing::info!(grace = ?config.shutdown_grace, "drained by an operator; stopping");
            None
        }
        reason = &mut failed => {
            tracing::error!(reason, "a part of the node has ended; stopping");
            Some(reason)
        }
    };
    let stopped = end(stop, config.shutdown_grace, &mut signals).await;
    match failure {
        Some(reason) => {
            Err(CliError::new(Exit::Bug, format!("a part of the node has ended: {reason}")))
        }
        None => stopped.inspect(|()| tracing::info!("stopped")),
    }
}

/// Stops a node in an orderly way, or at once when told a second time.
///
/// # Errors
/// Not all was finished; nothing acknowledged is lost.
pub(super) async fn end(
    stop: Stop,
    grace: Duration,
    signals: &mut Signals,
) -> Result<(), CliError> {
    let stopped = tokio::select! {
        name = signals.next() => {
            tracing::warn!(signal = name, "told twice: ending at once");
            return Err(CliError::failure("ended before everything in flight was finished"));
        }
        // What runs under the grace ends with it; the rest is the store's last write.
        stopped = timeout(grace + limits::SHUTDOWN_OVERTIME, stop(grace)) => stopped,
    };
    match stopped {
        Ok(Ok(())) => Ok(()),
        Ok(Err(left)) => {
            Err(CliError::failure(format!("stopped, but not all was finished: {left}")))
        }
        Err(_) => Err(CliError::failure("did not stop in time; nothing acknowledged is lost")),
    }
}

/// One line on standard output for people and scripts; a file for those who let the system choose
/// the ports.
fn announce(running: &Running, addresses_file: Option<&Path>, json: bool) -> Result<(), CliError> {
    let addresses = serde_json::json!({"api": running.api, "admin": running.admin});
    if let Some(file) = addresses_file {
        let part = file.with_extension("part");
        std::fs::write(&part, addresses.to_string())
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
    // Nobody may be reading; the node serves all the same.
    let _ = output::line(&line);
    Ok(())
}

/// What tells a command that serves to stop.
pub(super) struct Signals([(&'static str, Signal); 3]);

impl Signals {
    pub(super) fn listen() -> Result<Self, CliError> {
        let on = |kind| {
            signal(kind).map_err(|e| CliError::failure(format!("can't listen for signals: {e}")))
        };
        Ok(Self([
            ("SIGTERM", on(SignalKind::terminate())?),
            ("SIGINT", on(SignalKind::interrupt())?),
            ("SIGHUP", on(SignalKind::hangup())?),
        ]))
    }
    /// The next one's name.
    pub(super) async fn next(&mut self) -> &'static str {
        let [term, int, hup] = &mut self.0;
        tokio::select! {
            _ = term.1.recv() => term.0,
            _ = int.1.recv() => int.0,
            _ = hup.1.recv() => hup.0,
        }
    }
}

/// Connections, tables and journals each need a descriptor; many systems give 1,024 unless asked.
pub(super) fn raise_file_limit(connections: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: now.maximum, maximum: now.maximum };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => now.maximum,
        Err(_) => now.current,
    };
    let needed = connections as u64 + limits::FILES_BESIDE_CONNECTIONS;
    if current.is_some_and(|current| current < needed) {
        tracing::warn!(
            limit = current,
            needed,
            "fewer file descriptors than api.connections needs; raise the limit (ulimit -n) or lower the key"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scripts read it as soon as it is there: half a file would be a wrong address.
    #[test]
    fn addresses_are_written_in_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("addresses.json");
        let running = Running {
            api: "127.0.0.1:5".parse().unwrap(),
            admin: "[::1]:6".parse().unwrap(),
            stop: Box::new(|_| Box::pin(async { Ok(()) })),
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
