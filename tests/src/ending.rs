//! The signals that end a program on a terminal.

use anyhow::{Context, bail};
use std::{io, process::ExitCode};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Ctrl-C and SIGTERM, which no longer end the process once this exists.
pub struct Ending {
    interrupt: Signal,
    terminate: Signal,
}

impl Ending {
    /// # Errors
    /// If the handlers can't be installed.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next one.
    pub async fn signalled(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Runs a demo, which says whether all is accounted for, as a program.
pub fn run_demo(demo: impl Future<Output = anyhow::Result<bool>>) -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().context("starting");
    match runtime.and_then(|runtime| runtime.block_on(demo)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("demo: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Shows a demo, and then serves until a signal unless it is to `exit`: what was started, and whether all is accounted
/// for. `what` is accounted for.
///
/// # Errors
/// When it can't be shown, or a signal comes before it was; what was started has ended then.
pub async fn shown<T>(
    ending: &mut Ending,
    show: impl Future<Output = anyhow::Result<(T, bool)>>,
    what: &str,
    exit: bool,
) -> anyhow::Result<(T, bool)> {
    let shown = tokio::select! {
        shown = show => shown?,
        () = ending.signalled() => bail!("ended before it had accounted for {what}"),
    };
    if !exit {
        println!("\nServing until Ctrl-C.");
        ending.signalled().await;
    }
    Ok(shown)
}
