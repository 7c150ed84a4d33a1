//! Where calls go on that compute for long.
//!
//! A call begins on the thread that serves its message. One that has not ended after its first slice
//! goes on here: on a few threads of low priority, slice by slice, services in turn, and the slots of
//! a service in turn. So a quiet service never waits for more than first slices, and of those a
//! service has only a few a second: one that used them up, and a slot whose last call was long, begin
//! their calls here.
//!
//! What waits here is bounded. A call that waits for its first turn holds no instance yet. It is
//! charged for the time in which it ran, not for that of others; it is cut short when whoever asked
//! has gone, or when its slot has to do something else.

use super::workers::give_way;
use crate::{limits, names::ServiceName, telemetry::metrics};
use futures_util::future::BoxFuture;
use parking_lot::{Condvar, Mutex};
use std::{
    any::Any,
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::{Duration, Instant},
};
use tokio::{runtime::Handle, sync::oneshot};

/// Why a call was ended that did nothing wrong. Nothing of it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nobody waits for its answer any more.
    Gone,
    /// Too many calls compute for long.
    Full,
    /// Its slot stops, or goes over to another version.
    Ending,
    /// Others wait for its slot, and it takes too long to get its turns.
    Crowded,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cut::Gone => "nobody waits for it any more",
            Cut::Full => "too many calls compute for long on this node",
            Cut::Ending => "the slot has to stop or change its version",
            Cut::Crowded => "others wait for its slot",
        })
    }
}

/// Between a call and those who run it. One for a slot: it has one call at a time.
#[derive(Debug, Default)]
pub struct Signal {
    /// The call has let others run at the end of a slice, and has not gone on yet.
    paused: AtomicBool,
    cut: AtomicU8,
}

impl Signal {
    /// Before a call.
    pub fn reset(&self) {
        self.paused.store(false, Ordering::Relaxed);
        self.cut.store(0, Ordering::Relaxed);
    }

    /// Has the call end when it next comes to an epoch. The first reason counts.
    fn cut(&self, why: Cut) {
        let code = match why {
            Cut::Gone => 1,
            Cut::Full => 2,
            Cut::Ending => 3,
            Cut::Crowded => 4,
        };
        let _ = self.cut.compare_exchange(0, code, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(super) fn is_cut(&self) -> Option<Cut> {
        match self.cut.load(Ordering::Relaxed) {
            1 => Some(Cut::Gone),
            2 => Some(Cut::Full),
            3 => Some(Cut::Ending),
            4 => Some(Cut::Crowded),
            _ => None,
        }
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// The end of a slice: ready when the call is polled again. Through tokio, so that where it serves,
    /// its driver runs too, and not only the tasks that are ready.
    pub(super) async fn pause(self: Arc<Self>) {
        self.paused.store(true, Ordering::Relaxed);
        tokio::task::yield_now().await;
        self.paused.store(false, Ordering::Relaxed);
    }
}

/// Running time of the calling thread: what others do meanwhile is not in it.
pub(super) fn thread_time() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes to `now` and nothing else; where it fails, the time is none.
    #[allow(unsafe_code, reason = "libc has no safe interface for it")]
    unsafe {
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut now)
    };
    Duration::new(now.tv_sec.try_into().unwrap_or(0), now.tv_nsec.try_into().unwrap_or(0))
}

/// Where a call begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    Here,
    /// In the lane, behind those of its service that cost less lately.
    Lane {
        cost: Duration,
    },
}

/// Says when nobody waits for an answer any more.
pub type Caller<'a> = dyn FnMut(&mut Context<'_>) -> Poll<()> + Send + 'a;

/// A call that is to be run.
pub struct Work<'a, T> {
    /// `None`: the node's own, such as a trial.
    pub service: Option<&'a ServiceName>,
    pub begin: Begin,
    pub signal: &'a Arc<Signal>,
    pub future: BoxFuture<'static, T>,
}

/// What came of a call, and the time that it took in the lane, if it came there.
pub struct Ran<T> {
    pub output: T,
    pub lane: Option<Duration>,
}

/// The threads for long calls, and what waits for them. Threads are started as they are needed.
pub struct Lane {
    shared: Arc<Shared>,
    /// Services that lately had calls which were long.
    slices: Mutex<HashMap<ServiceName, Slices>>,
    /// How many there are: none, nearly always.
    watched: AtomicUsize,
}

/// First slices that a service may still use up on the threads that serve.
struct Slices {
    left: f64,
    at: Instant,
}

/// Whose calls take turns with those of others.
type Owner = Option<ServiceName>;

struct Shared {
    queue: Mutex<Queue>,
    ready: Condvar,
    threads_max: usize,
}

#[derive(Default)]
struct Queue {
    /// Calls of one service that go on in turn.
    begun_max: usize,
    services: HashMap<Owner, Line>,
    /// Services that have something to run, in turn.
    turns: VecDeque<Owner>,
    /// What has to end: takes no time.
    urgent: VecDeque<Arc<Job>>,
    calls: usize,
    next: u64,
    threads: usize,
    idle: usize,
    closed: bool,
}

/// The calls of one service.
#[derive(Default)]
struct Line {
    /// Begun, and ready to go on, in turn.
    ready: VecDeque<Arc<Job>>,
    /// Not begun, by cost and arrival.
    waiting: BTreeMap<(Duration, u64), Arc<Job>>,
    begun: usize,
    /// The last one that ran was new.
    began: bool,
    /// In [`Queue::turns`].
    in_turn: bool,
}

struct Job {
    service: Owner,
    place: (Duration, u64),
    shared: Arc<Shared>,
    runtime: Option<Handle>,
    /// Changed under the queue's lock alone, which is taken first.
    status: Mutex<Status>,
    /// It was cut short: it goes before all others when it can go on. As `status`.
    hurried: AtomicBool,
    body: Mutex<Option<Box<dyn Body>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
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
trait Body: Send {
    /// Runs a slice; says whether it was the last.
    fn run(&mut self, cx: &mut Context<'_>) -> bool;
}

type Outcome<T> = Result<T, Box<dyn Any + Send>>;

struct Typed<T> {
    future: BoxFuture<'static, T>,
    done: Option<oneshot::Sender<(Outcome<T>, Duration)>>,
    took: Duration,
}

impl<T: Send> Body for Typed<T> {
    fn run(&mut self, cx: &mut Context<'_>) -> bool {
        let begun = thread_time();
        let future = &mut self.future;
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)));
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

impl Lane {
    pub fn new(threads_max: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                queue: Mutex::new(Queue {
                    begun_max: limits::LONG_CALLS_BEGUN_MAX.max(threads_max),
                    ..Queue::default()
                }),
                ready: Condvar::new(),
                threads_max: threads_max.max(1),
            }),
            slices: Mutex::default(),
            watched: AtomicUsize::new(0),
        }
    }

    /// Whether a call of a service may begin on a thread that serves.
    pub fn may_begin_here(&self, service: &ServiceName) -> bool {
        if self.watched.load(Ordering::Relaxed) == 0 {
            return true;
        }
        let mut slices = self.slices.lock();
        // Those of all services: one that is not called again would have all the others come here for good.
        let now = Instant::now();
        slices.retain(|_, known| {
            known.refill(now);
            known.left < limits::LONG_SLICES_MAX
        });
        self.watched.store(slices.len(), Ordering::Relaxed);
        slices.get(service).is_none_or(|known| known.left >= 1.0)
    }

    fn used_a_slice(&self, service: &ServiceName) {
        let (mut slices, now) = (self.slices.lock(), Instant::now());
        let known = slices
            .entry(service.clone())
            .or_insert_with(|| Slices { left: limits::LONG_SLICES_MAX, at: now });
        known.refill(now);
        known.left = (known.left - 1.0).max(0.0);
        self.watched.store(slices.len(), Ordering::Relaxed);
    }

    /// As [`Lane::run`], for what a node does for itself.
    pub(super) async fn run_own<T: Send + 'static>(
        &self,
        signal: &Arc<Signal>,
        service: Option<&ServiceName>,
        future: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let future = Box::pin(future);
        let work = Work { service, begin: Begin::Here, signal, future };
        self.run(work, &mut |_| Poll::Pending, std::future::pending()).await.output
    }

    /// Runs a call to its end: where it begins for its first slice, here for the rest. It is cut
    /// short once `caller` says that nobody waits for it, or `ending` says why it can't be waited for.
    pub async fn run<T: Send + 'static>(
        &self,
        work: Work<'_, T>,
        caller: &mut Caller<'_>,
        ending: impl Future<Output = Cut>,
    ) -> Ran<T> {
        let Work { service, begin, signal, mut future } = work;
        if begin == Begin::Here {
            let first = poll_fn(|cx| match future.as_mut().poll(cx) {
                Poll::Ready(output) => Poll::Ready(Some(output)),
                Poll::Pending if signal.is_paused() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            });
            if let Some(output) = first.await {
                return Ran { output, lane: None };
            }
            if let Some(service) = service {
                self.used_a_slice(service);
            }
        }
        metrics().long_calls.increment(1);
        let (done, mut result) = oneshot::channel();
        let body = Typed { future, done: Some(done), took: Duration::ZERO };
        let job = match self.shared.push(service.cloned(), begin, Box::new(body)) {
            Ok(job) => job,
            Err(mut body) => {
                // It ends as soon as it goes on.
                cut(signal, Cut::Full);
                while !poll_fn(|cx| Poll::Ready(body.run(cx))).await {
                    tokio::task::yield_now().await;
                }
                let (outcome, took) = ended(result.await);
                return Ran { output: outcome, lane: Some(took) };
            }
        };
        let mut ending = std::pin::pin!(ending);
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
        Ran { output: outcome, lane: Some(took) }
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
        // The lane is gone, and with it the node.
        Err(gone) => resume_unwind(Box::new(gone.to_string())),
    }
}

impl Slices {
    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left =
            (self.left + passed * limits::LONG_SLICES_PER_SECOND).min(limits::LONG_SLICES_MAX);
        self.at = now;
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let mut queue = self.shared.queue.lock();
        // What is left refers to the lane, and the lane to it.
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
            Begin::Lane { cost } => (cost, Status::Waiting),
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
            Begin::Lane { .. } => {
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
            let started = thread::Builder::new().name(name).spawn(move || {
                give_way(limits::LONG_NICE);
                shared.work();
            });
            match started {
                Ok(_) => queue.threads += 1,
                Err(error) => tracing::warn!(%error, "no thread for calls that compute for long"),
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

impl Queue {
    /// A call that has begun can go on: in its turn, or at once to its end.
    fn goes_on(&mut self, job: &Arc<Job>) {
        if job.hurried.load(Ordering::Relaxed) {
            self.urgent.push_back(job.clone());
            return;
        }
        let line = self.services.entry(job.service.clone()).or_default();
        line.ready.push_back(job.clone());
        self.line_up(&job.service);
    }

    /// Gives a service its turn, if it has something to run.
    fn line_up(&mut self, service: &Owner) {
        let Some(line) = self.services.get_mut(service) else { return };
        if line.in_turn {
            return;
        }
        if line.can_run(self.begun_max) {
            line.in_turn = true;
            self.turns.push_back(service.clone());
        } else if line.begun == 0 && line.waiting.is_empty() {
            self.services.remove(service);
        }
    }

    fn next_job(&mut self) -> Option<Arc<Job>> {
        if let Some(job) = self.urgent.pop_front() {
            *job.status.lock() = Status::Running { woken: false };
            return Some(job);
        }
        while let Some(service) = self.turns.pop_front() {
            let Some(line) = self.services.get_mut(&service) else { continue };
            line.in_turn = false;
            let job = line.next_job(self.begun_max);
            self.line_up(&service);
            if let Some(job) = job {
                *job.status.lock() = Status::Running { woken: false };
                return Some(job);
            }
        }
        None
    }
}

impl Line {
    fn can_begin(&self, begun_max: usize) -> bool {
        self.begun < begun_max && !self.waiting.is_empty()
    }

    fn can_run(&self, begun_max: usize) -> bool {
        !self.ready.is_empty() || self.can_begin(begun_max)
    }

    /// New ones first, as most end in their first slice here; every second turn is for those that go
    /// on, or new ones could keep them from it for ever.
    fn next_job(&mut self, begun_max: usize) -> Option<Arc<Job>> {
        let is_theirs = self.began && !self.ready.is_empty();
        self.began = self.can_begin(begun_max) && !is_theirs;
        if !self.began {
            return self.ready.pop_front();
        }
        let (_, job) = self.waiting.pop_first()?;
        self.begun += 1;
        Some(job)
    }
}

impl Job {
    /// Runs a slice; says whether it was the last.
    fn run(self: &Arc<Self>) -> bool {
        let mut body = self.body.lock();
        let Some(running) = &mut *body else { return true };
        let waker = Waker::from(self.clone());
        let mut cx = Context::from_waker(&waker);
        // For timers, where it waits for memory.
        let _runtime = self.runtime.as_ref().map(Handle::enter);
        let ended = running.run(&mut cx);
        if ended {
            // With all that it holds; a waker may outlive it.
            let over = body.take();
            drop(body);
            drop_contained(over);
        }
        ended
    }
}

/// What a call leaves may panic when it is dropped; no thread of the lane may end by that.
fn drop_contained(body: Option<Box<dyn Body>>) {
    if catch_unwind(AssertUnwindSafe(|| drop(body))).is_err() {
        tracing::error!("a call panicked when it was dropped");
    }
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

#[cfg(test)]
mod tests;
