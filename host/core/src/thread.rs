//! Starts threads. [`crate::task`] starts tasks.

#![expect(clippy::disallowed_methods, reason = "this is their home")]

use std::{
    io,
    thread::{Builder, JoinHandle, available_parallelism},
};

/// Processors that this process may use, as far as the system says; else 1.
#[must_use]
pub fn processors() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// Starts a thread. Its panic is fatal, as [`crate::telemetry::panics`] says.
///
/// # Errors
/// The system has no room for one more.
pub fn start<T: Send + 'static>(
    name: impl Into<String>,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.into()).spawn(work)
}
