//! All futures of one connection in one task.
//!
//! hyper spawns parts of an HTTP/2 connection (its driver, the pipe of each body) on an executor.
//! Here that executor is the connection's own task: an answer that comes in wakes one task and not
//! three, and when the task is dropped everything of the connection is gone with it.

use futures_util::{
    Stream as _,
    future::{BoxFuture, FutureExt as _, poll_fn},
    stream::FuturesUnordered,
};
use parking_lot::Mutex;
use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
};

/// Accepts futures for the task that runs [`LocalExecutor::drive`]. Only that task uses it.
#[derive(Clone, Default)]
pub(super) struct LocalExecutor(Arc<Mutex<Vec<BoxFuture<'static, ()>>>>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        self.0.lock().push(future.boxed());
    }
}

impl LocalExecutor {
    /// Runs `main`, and everything spawned on this executor, until `main` is done.
    pub async fn drive<T: Send>(self, main: impl Future<Output = T> + Send) -> T {
        let main = main.map(Some).boxed();
        let mut running = pin!(FuturesUnordered::<BoxFuture<'_, Option<T>>>::new());
        running.push(main);
        poll_fn(|cx| {
            loop {
                for more in std::mem::take(&mut *self.0.lock()) {
                    running.push(more.map(|()| None).boxed());
                }
                match Pin::new(&mut running).as_mut().poll_next(cx) {
                    Poll::Ready(Some(Some(done))) => return Poll::Ready(done),
                    Poll::Ready(_) => {}
                    Poll::Pending if self.0.lock().is_empty() => return Poll::Pending,
                    Poll::Pending => {}
                }
            }
        })
        .await
    }
}
