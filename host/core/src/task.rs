//! Starts tasks; [`crate::thread`] starts threads. Nothing else in the crate does.

#![expect(clippy::disallowed_methods, reason = "this is their home")]

use crate::telemetry::panics::{self, Panicked};
use tokio::{
    runtime::Handle,
    task::{AbortHandle, JoinHandle, JoinSet},
};

/// Starts a task that runs by itself, for long or now and then. Its panic is fatal (see [`panics`]),
/// and is reported with its name.
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(panics::named(name, future))
}

/// As [`spawn`], on another runtime than the caller's.
pub fn spawn_on<F>(runtime: &Handle, name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    runtime.spawn(panics::named(name, future))
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

/// As [`run`], on another runtime than the caller's.
pub fn run_on<F>(runtime: &Handle, future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    runtime.spawn(future)
}

/// As [`run`], for work that ends with its set.
pub fn run_in<T: Send + 'static>(
    set: &mut JoinSet<T>,
    future: impl Future<Output = T> + Send + 'static,
) -> AbortHandle {
    set.spawn(future)
}

/// As [`run_in`], on another runtime than the caller's.
pub fn run_in_on<T: Send + 'static>(
    set: &mut JoinSet<T>,
    runtime: &Handle,
    future: impl Future<Output = T> + Send + 'static,
) {
    set.spawn_on(future, runtime);
}

/// Runs what blocks on one of the runtime's threads for that. A panic is fatal.
pub fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    tokio::task::spawn_blocking(work)
}

/// As [`blocking`], on another runtime than the caller's.
pub fn blocking_on<T: Send + 'static>(
    runtime: &Handle,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    runtime.spawn_blocking(work)
}
