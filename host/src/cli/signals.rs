//! The signals that make a serving command stop, or reload its configuration.

use super::exit::CliError;
use tokio::signal::unix::{Signal, SignalKind, signal};

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
    pub(super) async fn next(&mut self) -> SignalAction {
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
pub(super) enum SignalAction {
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
