//! Starts tasks; [`crate::thread`] starts threads. Nothing else in the crate does, but for what
//! belongs to one runtime, or ends with a set of tasks.

#![expect(clippy::disallowed_methods, reason = "this is their home")]

use crate::telemetry::panics::{self, Panicked};
use tokio::task::JoinHandle;

/// Starts a task that runs by itself, for long or now and then. Its panic is fatal (see [`panics`]),
/// and is reported with its name.
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(panics::named(name, future))
}

/// Starts a task whose panic ends nothing but itself: see [`panics::contain`].
pub fn spawn_contained<F>(name: &'static str, future: F) -> JoinHandle<Result<F::Output, Panicked>>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(panics::contain(name, future))
}

/// Runs the work of one request, or of one connection, on its own. There are many: they have no
/// names, which would cost each of their polls. A panic is fatal.
pub fn run<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(future)
}

/// Runs what blocks on one of the runtime's threads for that. A panic is fatal.
pub fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    tokio::task::spawn_blocking(work)
}
