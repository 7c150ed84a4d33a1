//! All futures of one connection in one task.
//!
//! hyper spawns parts of an HTTP/2 connection (its driver, the pipe of each body) on an executor.
//! Here that executor is the connection's own task: an answer that comes in wakes one task and not
//! three, and when the task is dropped everything of the connection is gone with it.

use futures_util::{
    StreamExt as _,
    future::{BoxFuture, FutureExt as _, poll_fn},
    stream::FuturesUnordered,
};
use parking_lot::Mutex;
use std::{future::Future, pin::pin, sync::Arc, task::Poll};

/// Accepts futures for the task that runs [`Driver::drive`]. Only that task uses it.
#[derive(Clone, Default)]
pub(super) struct LocalExecutor(Arc<Mutex<Vec<BoxFuture<'static, ()>>>>);

/// Runs what its executor accepted.
#[derive(Default)]
pub(super) struct Driver {
    executor: LocalExecutor,
    running: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        self.0.lock().push(future.boxed());
    }
}

impl Driver {
    pub fn executor(&self) -> LocalExecutor {
        self.executor.clone()
    }

    /// Runs `main`, and everything spawned on the executor, until `main` is done. The rest goes on
    /// with the next call.
    pub async fn drive<T>(&mut self, main: impl Future<Output = T>) -> T {
        let mut main = pin!(main);
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(done) = main.as_mut().poll(cx) {
                    return Poll::Ready(done);
                }
                self.running.extend(std::mem::take(&mut *self.executor.0.lock()));
                while let Poll::Ready(Some(())) = self.running.poll_next_unpin(cx) {}
                if self.executor.0.lock().is_empty() {
                    return Poll::Pending;
                }
            }
        })
        .await
    }
}
