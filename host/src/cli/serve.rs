//! `slotd serve`: runs a node, from its configuration to its clean stop.

use super::{
    args::{ConfigArgs, Serve},
    assemble::start,
    exit::{CliError, Exit},
    join, output,
    reload::{AccessParts, Certificates, Reload},
    serving::Serving,
    signals::{SignalAction, Signals},
};
use crate::{
    audit::Audit,
    config::{Config, Loaded},
    limits,
    telemetry::{self, panics},
    watchdog::Watchdog,
};
use futures_util::future::BoxFuture;
use std::{
    fs::Permissions, net::SocketAddr, os::unix::fs::PermissionsExt as _, path::Path, time::Duration,
};
use tokio::time::timeout;

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
    /// Who may do what; what is replaced in a clone is replaced for the listeners.
    pub access: AccessParts,
    /// The listeners with TLS.
    pub tls: Certificates,
    /// Where changes by a signal are written; `None` only in tests.
    pub(super) audit: Option<Audit>,
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

/// The OpenAPI document, from the code.
pub(super) fn openapi_document() -> Option<String> {
    String::from_utf8(crate::http::document_json().to_vec()).ok()
}

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

    let Running { stop, mut failed, mut drained, access, tls, audit, .. } = running;
    let mut reload = Reload::new(sources, config.clone(), access, tls, audit, loaded.warnings);
    let failure = loop {
        tokio::select! {
            signal = signals.next() => match signal {
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
            let Certificates { api, admin } = &running.tls;
            let scheme = |tls: &Option<_>| if tls.is_some() { "https" } else { "http" };
            format!(
                "slotd is ready: API {}://{}, admin {}://{}",
                scheme(api),
                running.api,
                scheme(admin),
                running.admin
            )
        }
    };
    // There may be no reader; the node serves all the same.
    let _ = output::line(&line);
    Ok(())
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
            access: AccessParts {
                decider: crate::access::Decider::new(crate::access::of_test(None, None), || {}),
                policy: None,
            },
            tls: Certificates::default(),
            audit: None,
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
