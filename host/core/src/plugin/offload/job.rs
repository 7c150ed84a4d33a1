//! One call on its way through the pool.

use super::{super::signal::thread_time, Shared, queue::Owner};
use crate::telemetry::panics;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};
use tokio::{runtime::Handle, sync::oneshot};

pub(super) struct Job {
    pub(super) service: Owner,
    pub(super) place: (Duration, u64),
    pub(super) shared: Arc<Shared>,
    pub(super) runtime: Option<Handle>,
    /// Changed under the queue's lock alone, which is taken first.
    pub(super) status: Mutex<Status>,
    /// It was cut short: it goes before all others when it can go on. As `status`.
    pub(super) hurried: AtomicBool,
    pub(super) body: Mutex<Option<Box<dyn Body>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// In `waiting`.
    Waiting,
    /// In `ready` or `urgent`.
    Ready,
    Running {
        woken: bool,
    },
    /// Waits for memory.
    Parked,
}

/// A call without its type.
pub(super) trait Body: Send {
    /// Runs a slice; returns whether it was the last.
    fn run(&mut self, cx: &mut Context<'_>) -> bool;
}

pub(super) type Outcome<T> = Result<T, Box<dyn Any + Send>>;

pub(super) struct Typed<T> {
    pub(super) future: BoxFuture<'static, T>,
    pub(super) done: Option<oneshot::Sender<(Outcome<T>, Duration)>>,
    pub(super) took: Duration,
    /// A panic ends only the task that waits for the call.
    pub(super) contained: bool,
}

impl<T: Send> Body for Typed<T> {
    fn run(&mut self, cx: &mut Context<'_>) -> bool {
        let begun = thread_time();
        let future = &mut self.future;
        let polled = panics::catch("a long call", self.contained, || future.as_mut().poll(cx));
        self.took += thread_time().saturating_sub(begun);
        let outcome = match polled {
            Ok(Poll::Pending) => return false,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(panic) => Err(panic),
        };
        if let Some(done) = self.done.take() {
            // Its slot may be gone.
            let _ = done.send((outcome, self.took));
        }
        true
    }
}

impl Job {
    /// Runs a slice; returns whether it was the last.
    pub(super) fn run(self: &Arc<Self>) -> bool {
        let mut body = self.body.lock();
        let Some(running) = &mut *body else { return true };
        let waker = Waker::from(self.clone());
        let mut cx = Context::from_waker(&waker);
        // For timers, where it waits for memory.
        let _runtime = self.runtime.as_ref().map(Handle::enter);
        let begun = thread_time();
        let ended = running.run(&mut cx);
        let used = thread_time().saturating_sub(begun).as_nanos();
        self.shared.used_ns.fetch_add(u64::try_from(used).unwrap_or(0), Relaxed);
        if ended {
            // With all that it holds; a waker may outlive it.
            let over = body.take();
            drop(body);
            drop_contained(over);
        }
        ended
    }
}

/// What a call leaves may panic when it is dropped; no thread of the pool may end by that.
fn drop_contained(body: Option<Box<dyn Body>>) {
    // The hook has reported it.
    let _ = panics::contain_sync("the end of a long call", || drop(body));
}

impl Wake for Job {
    fn wake(self: Arc<Self>) {
        let mut queue = self.shared.queue.lock();
        let mut status = self.status.lock();
        match *status {
            Status::Running { .. } => *status = Status::Running { woken: true },
            Status::Parked => {
                *status = Status::Ready;
                drop(status);
                queue.goes_on(&self);
                drop(queue);
                self.shared.ready.notify_one();
            }
            Status::Waiting | Status::Ready => {}
        }
    }
}
