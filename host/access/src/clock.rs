//! Timers, and tasks of the runtime. The time of day is always the caller's.

#![expect(clippy::disallowed_methods, reason = "this is their home")]

use std::{future::Future, time::Duration};
use tokio::{
    runtime::Handle,
    time::{self, error::Elapsed},
};

pub(crate) async fn within<F: Future>(limit: Duration, future: F) -> Result<F::Output, Elapsed> {
    time::timeout(limit, future).await
}

/// The runtime that this is called on, if it is.
pub(crate) fn runtime() -> Option<Handle> {
    Handle::try_current().ok()
}

/// Starts a task that ends by itself.
pub(crate) fn start(runtime: &Handle, task: impl Future<Output = ()> + Send + 'static) {
    runtime.spawn(task);
}
