//! The runtimes of a serving process: one for requests of clients and peers, and a small one that
//! answers probes, handles signals and stops the other, however busy or stalled that is.

use super::{RUNTIME_END, exit::CliError};
use crate::{
    limits,
    watchdog::{Heartbeat, Watchdog},
};
use std::{thread::available_parallelism, time::Duration};
use tokio::runtime::{Builder, Handle, Runtime};

/// The serving runtime, and whether it makes progress. Cheap to clone.
#[derive(Clone)]
pub(super) struct Serving {
    pub runtime: Handle,
    pub heartbeat: Heartbeat,
}

impl Serving {
    /// Makes a thread outside of both runtimes check whether the serving one makes progress.
    ///
    /// # Errors
    /// The thread can't be started.
    pub fn watch(&self, limit: Duration) -> Result<Watchdog, CliError> {
        let watchdog = Watchdog::start(self.heartbeat.clone(), limit);
        watchdog.map_err(|error| CliError::failure(format!("can't start: {error}")))
    }
}

/// Runs a command on the small runtime, with access to the other one. Ends both.
///
/// # Errors
/// The command's own, or that a runtime can't be created.
pub(super) fn run<F: Future<Output = Result<(), CliError>>>(
    command: impl FnOnce(Serving) -> F,
) -> Result<(), CliError> {
    let mut builder = Builder::new_multi_thread();
    if available_parallelism().is_ok_and(|cores| cores.get() < limits::SERVING_THREADS_MIN) {
        builder.worker_threads(limits::SERVING_THREADS_MIN);
    }
    let serving = build(&mut builder, "slotd-worker")?;
    let mut builder = Builder::new_multi_thread();
    let control = build(builder.worker_threads(limits::CONTROL_THREADS), "slotd-control")?;
    let heartbeat = Heartbeat::default();
    crate::task::spawn_on(serving.handle(), "heartbeat", heartbeat.clone().beat());
    let result =
        control.block_on(command(Serving { runtime: serving.handle().clone(), heartbeat }));
    serving.shutdown_timeout(RUNTIME_END);
    control.shutdown_timeout(RUNTIME_END);
    result
}

fn build(builder: &mut Builder, thread: &str) -> Result<Runtime, CliError> {
    let built = builder.enable_all().thread_name(thread).build();
    built.map_err(|error| CliError::failure(format!("can't start: {error}")))
}
