//! Long-running calls.
//!
//! A call starts on the worker thread of its message. If it has not ended after its first slice, it
//! continues here: on a few low-priority threads, slice by slice, with services taking turns, and
//! the slots of a service taking turns. So a quiet service never waits for more than first slices.
//! A service has only a few first slices per second: one that has used them up, and a slot whose
//! last call was long, start their calls here.
//!
//! The queue is bounded. A call that waits for its first turn holds no instance yet. It is charged
//! for its own running time only. It is ended early when its client has gone, or when its slot has
//! to do something else.

mod job;
mod queue;
mod ration;
#[cfg(test)]
mod tests;

use self::{
    job::{Body, Job, Outcome, Status, Typed},
    queue::{Owner, Queue},
    ration::Ration,
};
use super::{
    signal::{Cut, Signal},
    workers::give_way,
};
use crate::{
    limits,
    names::ServiceName,
    telemetry::{metrics, panics},
};
use futures_util::future::BoxFuture;
use parking_lot::{Condvar, Mutex};
use std::{
    future::poll_fn,
    panic::resume_unwind,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{runtime::Handle, sync::oneshot};

/// Where a call begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    Here,
    /// In the pool, behind those of its service that cost less lately.
    Offloaded {
        cost: Duration,
    },
}

/// Resolves when nobody waits for an answer any more.
pub type Caller<'a> = dyn FnMut(&mut Context<'_>) -> Poll<()> + Send + 'a;

/// A call that is to be run.
pub struct Work<'a, T> {
    /// `None`: the node's own, such as a trial.
    pub service: Option<&'a ServiceName>,
    pub begin: Begin,
    pub signal: &'a Arc<Signal>,
    pub future: BoxFuture<'static, T>,
}

/// What came of a call, and the time that it took in the pool, if it came there.
pub struct Ran<T> {
    pub output: T,
    pub offloaded: Option<Duration>,
}

/// The threads for long calls, and what waits for them. Threads are started as they are needed.
pub struct OffloadPool {
    shared: Arc<Shared>,
    ration: Ration,
}

struct Shared {
    queue: Mutex<Queue>,
    ready: Condvar,
    threads_max: usize,
    /// Processor time that its threads have used.
    used_ns: AtomicU64,
}

impl OffloadPool {
    pub fn new(threads_max: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                queue: Mutex::new(Queue {
                    begun_max: limits::LONG_CALLS_BEGUN_MAX.max(threads_max),
                    ..Queue::default()
                }),
                ready: Condvar::new(),
                threads_max: threads_max.max(1),
                used_ns: AtomicU64::new(0),
            }),
            ration: Ration::default(),
        }
    }

    /// Processor time that its threads have used, which give way to those that serve.
    pub fn used(&self) -> Duration {
        Duration::from_nanos(self.shared.used_ns.load(Ordering::Relaxed))
    }

    /// Whether a call of a service may begin on a thread that serves.
    pub fn may_begin_here(&self, service: &ServiceName) -> bool {
        self.ration.may_begin_here(service)
    }

    /// As [`OffloadPool::run`], for what a node does for itself.
    pub(super) async fn run_own<T: Send + 'static>(
        &self,
        signal: &Arc<Signal>,
        service: Option<&ServiceName>,
        future: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let future = Box::pin(future);
        let work = Work { service, begin: Begin::Here, signal, future };
        self.run(work, &mut |_| Poll::Pending, || Box::pin(std::future::pending())).await.output
    }

    /// Runs a call to its end: where it begins for its first slice, here for the rest. It is cut
    /// short once `caller` reports that nobody waits for it, or what `ending` makes why it can't be
    /// waited for.
    pub async fn run<T: Send + 'static>(
        &self,
        mut work: Work<'_, T>,
        caller: &mut Caller<'_>,
        ending: impl FnOnce() -> BoxFuture<'static, Cut>,
    ) -> Ran<T> {
        if work.begin == Begin::Here {
            let first = poll_fn(|cx| match work.future.as_mut().poll(cx) {
                Poll::Ready(output) => Poll::Ready(Some(output)),
                Poll::Pending if work.signal.is_paused() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            });
            if let Some(output) = first.await {
                return Ran { output, offloaded: None };
            }
            if let Some(service) = work.service {
                self.ration.used_a_slice(service);
            }
        }
        // Boxed: it is rare, and large.
        Box::pin(self.run_long(work, caller, ending())).await
    }

    /// As [`OffloadPool::run`], here from where it is.
    async fn run_long<T: Send + 'static>(
        &self,
        work: Work<'_, T>,
        caller: &mut Caller<'_>,
        mut ending: BoxFuture<'static, Cut>,
    ) -> Ran<T> {
        let Work { service, begin, signal, future } = work;
        metrics().long_calls.increment(1);
        let (done, mut result) = oneshot::channel();
        let contained = panics::is_contained();
        let body = Typed { future, done: Some(done), took: Duration::ZERO, contained };
        let job = match self.shared.push(service.cloned(), begin, Box::new(body)) {
            Ok(job) => job,
            Err(mut body) => {
                // It ends as soon as it goes on.
                cut(signal, Cut::Full);
                while !poll_fn(|cx| Poll::Ready(body.run(cx))).await {
                    tokio::task::yield_now().await;
                }
                let (outcome, took) = ended(result.await);
                return Ran { output: outcome, offloaded: Some(took) };
            }
        };
        let (outcome, took) = loop {
            let why = poll_fn(|cx| {
                if let Poll::Ready(result) = Pin::new(&mut result).poll(cx) {
                    return Poll::Ready(Err(result));
                }
                if signal.is_cut().is_some() {
                    return Poll::Pending;
                }
                if caller(cx).is_ready() {
                    return Poll::Ready(Ok(Cut::Gone));
                }
                ending.as_mut().poll(cx).map(Ok)
            });
            match why.await {
                Ok(why) => {
                    cut(signal, why);
                    self.shared.hurry(&job);
                }
                Err(result) => break ended(result),
            }
        };
        Ran { output: outcome, offloaded: Some(took) }
    }
}

fn cut(signal: &Signal, why: Cut) {
    signal.cut(why);
    match why {
        Cut::Gone => metrics().long_calls_gone.increment(1),
        Cut::Full => metrics().long_calls_full.increment(1),
        Cut::Ending => metrics().long_calls_ending.increment(1),
        Cut::Crowded => metrics().long_calls_crowded.increment(1),
    }
}

/// A panic goes on in the task of the slot, as if the call had run there.
fn ended<T>(result: Result<(Outcome<T>, Duration), oneshot::error::RecvError>) -> (T, Duration) {
    match result {
        Ok((Ok(output), took)) => (output, took),
        Ok((Err(panic), _)) => resume_unwind(panic),
        // The pool is gone, and with it the node.
        Err(gone) => resume_unwind(Box::new(gone.to_string())),
    }
}

impl Drop for OffloadPool {
    fn drop(&mut self) {
        let mut queue = self.shared.queue.lock();
        // What is left refers to the pool, and the pool to it.
        let left = std::mem::take(&mut *queue);
        (queue.closed, queue.threads, queue.idle) = (true, left.threads, left.idle);
        drop(queue);
        self.shared.ready.notify_all();
        drop(left);
    }
}

impl Shared {
    /// # Errors
    /// The call itself, when there are too many already.
    fn push(
        self: &Arc<Self>,
        service: Owner,
        begin: Begin,
        body: Box<dyn Body>,
    ) -> Result<Arc<Job>, Box<dyn Body>> {
        let mut queue = self.queue.lock();
        if queue.calls >= limits::LONG_CALLS_MAX || !self.has_thread(&mut queue) {
            return Err(body);
        }
        queue.calls += 1;
        queue.next += 1;
        let (cost, status) = match begin {
            Begin::Here => (Duration::ZERO, Status::Ready),
            Begin::Offloaded { cost } => (cost, Status::Waiting),
        };
        let job = Arc::new(Job {
            service: service.clone(),
            place: (cost, queue.next),
            shared: self.clone(),
            runtime: Handle::try_current().ok(),
            status: Mutex::new(status),
            hurried: AtomicBool::new(false),
            body: Mutex::new(Some(body)),
        });
        let line = queue.services.entry(service).or_default();
        match begin {
            Begin::Here => {
                line.begun += 1;
                line.ready.push_back(job.clone());
            }
            Begin::Offloaded { .. } => {
                line.waiting.insert(job.place, job.clone());
            }
        }
        queue.line_up(&job.service);
        metrics().long_calls_now.set(queue.calls as f64);
        drop(queue);
        self.ready.notify_one();
        Ok(job)
    }

    /// Starts a thread if all are busy and there may be more.
    fn has_thread(self: &Arc<Self>, queue: &mut Queue) -> bool {
        if queue.idle == 0 && queue.threads < self.threads_max {
            let shared = self.clone();
            let name = format!("slotd-long-{}", queue.threads);
            let started = crate::thread::start(name, move || {
                give_way(limits::LONG_NICE);
                shared.work();
            });
            match started {
                Ok(_) => queue.threads += 1,
                Err(error) => tracing::warn!(%error, "can't start a thread for long-running calls"),
            }
        }
        queue.threads > 0
    }

    /// Has a call that was cut short go on before all others.
    fn hurry(&self, job: &Arc<Job>) {
        let mut queue = self.queue.lock();
        if job.hurried.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut status = job.status.lock();
        let Some(line) = queue.services.get_mut(&job.service) else { return };
        match *status {
            Status::Waiting => {
                line.waiting.remove(&job.place);
                line.begun += 1;
            }
            Status::Ready => line.ready.retain(|other| !Arc::ptr_eq(other, job)),
            // It sees that by itself, or when it goes on.
            Status::Running { .. } | Status::Parked => return,
        }
        *status = Status::Ready;
        drop(status);
        queue.urgent.push_back(job.clone());
        drop(queue);
        self.ready.notify_one();
    }

    /// A thread's life.
    fn work(&self) {
        loop {
            let job = {
                let mut queue = self.queue.lock();
                loop {
                    if queue.closed {
                        return;
                    }
                    if let Some(job) = queue.next_job() {
                        break job;
                    }
                    queue.idle += 1;
                    self.ready.wait(&mut queue);
                    queue.idle -= 1;
                }
            };
            let ended = job.run();
            let mut queue = self.queue.lock();
            if queue.closed {
                return;
            }
            let mut status = job.status.lock();
            let woken = *status == Status::Running { woken: true };
            if ended {
                queue.calls -= 1;
                metrics().long_calls_now.set(queue.calls as f64);
                if let Some(line) = queue.services.get_mut(&job.service) {
                    line.begun = line.begun.saturating_sub(1);
                }
            } else if woken {
                *status = Status::Ready;
                queue.goes_on(&job);
            } else {
                *status = Status::Parked;
            }
            queue.line_up(&job.service);
        }
    }
}
