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

use crate::{limits, names::ServiceName, telemetry::metrics};
use futures_util::future::BoxFuture;
use parking_lot::{Condvar, Mutex};
use std::{
    any::Any,
    collections::{BTreeMap, HashMap, VecDeque},
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
        };
        let _ = self.cut.compare_exchange(0, code, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(super) fn is_cut(&self) -> Option<Cut> {
        match self.cut.load(Ordering::Relaxed) {
            1 => Some(Cut::Gone),
            2 => Some(Cut::Full),
            3 => Some(Cut::Ending),
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
    /// In [`Queue::turns`].
    in_turn: bool,
}

struct Job {
    service: Owner,
    place: (Duration, u64),
    shared: Arc<Shared>,
    runtime: Option<Handle>,
    /// Changed under the queue's lock alone.
    status: Mutex<Status>,
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
                queue: Mutex::default(),
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
        let Some(known) = slices.get_mut(service) else { return true };
        known.refill();
        let (may, full) = (known.left >= 1.0, known.left >= limits::LONG_SLICES_MAX);
        if full {
            slices.remove(service);
            self.watched.store(slices.len(), Ordering::Relaxed);
        }
        may
    }

    fn used_a_slice(&self, service: &ServiceName) {
        let mut slices = self.slices.lock();
        let known = slices
            .entry(service.clone())
            .or_insert_with(|| Slices { left: limits::LONG_SLICES_MAX, at: Instant::now() });
        known.refill();
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
    /// short once `caller` says that nobody waits for it, or `ending` resolves.
    pub async fn run<T: Send + 'static>(
        &self,
        work: Work<'_, T>,
        caller: &mut Caller<'_>,
        ending: impl Future<Output = ()>,
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
                ending.as_mut().poll(cx).map(|()| Ok(Cut::Ending))
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
    fn refill(&mut self) {
        let now = Instant::now();
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
                give_way();
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
        let status = *job.status.lock();
        let Some(line) = queue.services.get_mut(&job.service) else { return };
        match status {
            Status::Waiting => {
                line.waiting.remove(&job.place);
                line.begun += 1;
            }
            Status::Ready => line.ready.retain(|other| !Arc::ptr_eq(other, job)),
            // It sees that by itself, or when it has memory.
            Status::Running { .. } | Status::Parked => return,
        }
        *job.status.lock() = Status::Ready;
        if !queue.urgent.iter().any(|other| Arc::ptr_eq(other, job)) {
            queue.urgent.push_back(job.clone());
        }
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
                let line = queue.services.entry(job.service.clone()).or_default();
                line.ready.push_back(job.clone());
            } else {
                *status = Status::Parked;
            }
            queue.line_up(&job.service);
        }
    }
}

impl Queue {
    /// Gives a service its turn, if it has something to run.
    fn line_up(&mut self, service: &Owner) {
        let Some(line) = self.services.get_mut(service) else { return };
        if line.in_turn {
            return;
        }
        if line.can_run() {
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
            let job = line.next_job();
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
    fn can_begin(&self) -> bool {
        self.begun < limits::LONG_CALLS_BEGUN_MAX && !self.waiting.is_empty()
    }

    fn can_run(&self) -> bool {
        !self.ready.is_empty() || self.can_begin()
    }

    /// New ones first: most end in their first slice here.
    fn next_job(&mut self) -> Option<Arc<Job>> {
        if self.can_begin()
            && let Some((_, job)) = self.waiting.pop_first()
        {
            self.begun += 1;
            return Some(job);
        }
        self.ready.pop_front()
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
                let line = queue.services.entry(self.service.clone()).or_default();
                line.ready.push_back(self.clone());
                queue.line_up(&self.service);
                drop(queue);
                self.shared.ready.notify_one();
            }
            Status::Waiting | Status::Ready => {}
        }
    }
}

/// Has the scheduler prefer the threads that serve.
fn give_way() {
    #[cfg(target_os = "linux")]
    // SAFETY: changes how the calling thread is scheduled and touches no memory of ours.
    #[allow(unsafe_code, reason = "libc has no safe interface for it")]
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, limits::LONG_NICE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::{Failure, State as _, testkit};

    fn service(name: &str) -> ServiceName {
        ServiceName::parse(name).unwrap()
    }

    /// Runs in the lane until it has had so many slices, and writes its name down at each.
    fn in_slices(
        lane: &Arc<Lane>,
        name: &str,
        slices: usize,
        log: &Arc<Mutex<Vec<String>>>,
    ) -> tokio::task::JoinHandle<()> {
        let (lane, service, log) = (lane.clone(), service(name), log.clone());
        let signal = Arc::<Signal>::default();
        let of_call = signal.clone();
        let future = Box::pin(async move {
            for _ in 0..slices {
                log.lock().push(service.to_string());
                of_call.clone().pause().await;
            }
        });
        let service = super::tests::service(name);
        tokio::spawn(async move {
            let begin = Begin::Lane { cost: Duration::ZERO };
            let work = Work { service: Some(&service), begin, signal: &signal, future };
            lane.run(work, &mut |_| Poll::Pending, std::future::pending()).await;
        })
    }

    /// One service's calls that never seem to end would have those of another wait for all of them.
    #[tokio::test]
    async fn services_take_turns() {
        let (lane, log) = (Arc::new(Lane::new(1)), Arc::default());
        let many: Vec<_> = (0..10).map(|_| in_slices(&lane, "many", 400, &log)).collect();
        while log.lock().len() < 40 {
            tokio::task::yield_now().await;
        }
        let before = log.lock().len();
        in_slices(&lane, "one", 5, &log).await.unwrap();
        let told = log.lock().clone();
        let last = told.iter().rposition(|name| name == "one").unwrap();
        let first = told.iter().position(|name| name == "one").unwrap();
        assert!(first >= before && last - first <= 2 * 5 + 2, "{first} to {last}");
        for call in many {
            call.await.unwrap();
        }
        // The thread that ended the last one forgets it a moment later.
        while !lane.shared.queue.lock().services.is_empty() {
            thread::yield_now();
        }
    }

    /// Calls that wait for their first turn must hold nothing, and a slot whose calls are short must
    /// not wait behind those whose calls take all they may.
    #[test]
    fn few_begin_and_the_cheap_go_first() {
        let lane = Lane::new(1);
        let push = |cost| {
            let future = Box::pin(async {
                for _ in 0..u64::MAX {
                    Arc::<Signal>::default().pause().await;
                }
            });
            let body = Typed::<()> { future, done: None, took: Duration::ZERO };
            let begin = Begin::Lane { cost: Duration::from_millis(cost) };
            assert!(lane.shared.push(Some(service("s")), begin, Box::new(body)).is_ok());
        };
        (0..40).for_each(|_| push(1_000));
        let begun = || lane.shared.queue.lock().services.get(&Some(service("s"))).map(|l| l.begun);
        while begun() != Some(limits::LONG_CALLS_BEGUN_MAX) {
            thread::yield_now();
        }
        push(20);
        let queue = lane.shared.queue.lock();
        let line = &queue.services[&Some(service("s"))];
        assert_eq!((line.begun, line.waiting.len()), (limits::LONG_CALLS_BEGUN_MAX, 25));
        let (next, _) = line.waiting.first_key_value().unwrap();
        assert_eq!(next.0, Duration::from_millis(20), "the cheap one is not the next");
    }

    /// Without a bound, calls that wait would be as many as clients want.
    #[tokio::test]
    async fn too_many_are_refused() {
        let lane = Arc::new(Lane::new(1));
        let (service, waiting) = (service("s"), Begin::Lane { cost: Duration::ZERO });
        for _ in 0..limits::LONG_CALLS_MAX {
            let body = Typed::<()> {
                future: Box::pin(std::future::pending()),
                done: None,
                took: Duration::ZERO,
            };
            assert!(lane.shared.push(Some(service.clone()), waiting, Box::new(body)).is_ok());
        }
        let signal = Arc::<Signal>::default();
        let of_call = signal.clone();
        let future = Box::pin(async move { of_call.is_cut() });
        let work = Work { service: Some(&service), begin: waiting, signal: &signal, future };
        let ran = lane.run(work, &mut |_| Poll::Pending, std::future::pending()).await;
        assert_eq!(ran.output, Some(Cut::Full));
    }

    /// A service whose calls are long may have a few first slices of the threads that serve, and again
    /// when some time has passed; another has all of its own.
    #[test]
    fn first_slices_are_rationed_by_service() {
        let lane = Lane::new(1);
        let (long, other) = (service("long"), service("other"));
        let mut used = 0;
        while lane.may_begin_here(&long) {
            lane.used_a_slice(&long);
            used += 1;
            assert!(used < 1_000, "there is no end to them");
        }
        assert!(used >= limits::LONG_SLICES_MAX as usize);
        assert!(lane.may_begin_here(&other));
        lane.slices.lock().get_mut(&long).unwrap().at -= Duration::from_secs(10);
        assert!(lane.may_begin_here(&long));
        assert_eq!(lane.watched.load(Ordering::Relaxed), 0, "it is watched for ever");
    }

    /// A guest in a loop must leave the thread that serves after its first slice, end at its running
    /// time, and give its session's state back.
    #[tokio::test(flavor = "current_thread")]
    async fn a_spinning_guest_leaves_the_thread() {
        let dir = tempfile::tempdir().unwrap();
        let deadline = Duration::from_millis(300);
        let options = crate::plugin::PluginOptions { deadline, ..testkit::options(dir.path()) };
        let host = crate::plugin::PluginHost::new(options).unwrap();
        let plugin = host.add(testkit::guest().into()).await.unwrap();
        let name = service("s");
        let guests = host.pool().add(&name, 1, "1".into(), plugin);
        let spin = |signal: &Arc<Signal>| {
            let mut call = testkit::call(testkit::message(b"l"));
            call.state.set("k", "kept".into()).unwrap();
            let signal = signal.clone();
            let thread = thread::current().id();
            let guests = guests.clone();
            Box::pin(async move {
                let outcome = guests.call(call, signal).await;
                (outcome, thread::current().id() == thread)
            })
        };
        let signal = Arc::<Signal>::default();
        let work = Work {
            service: Some(&name),
            begin: Begin::Here,
            signal: &signal,
            future: spin(&signal),
        };
        let ran = host.lane().run(work, &mut |_| Poll::Pending, std::future::pending()).await;
        let (outcome, here) = ran.output;
        assert!(!here && ran.lane.is_some(), "it ended on the thread that serves");
        assert!(matches!(outcome.result, Err(Failure::Deadline(d)) if d == deadline));
        assert_eq!(testkit::state_of(outcome).get("k").unwrap(), "kept");
        // One that nobody waits for ends at once, also before it begins.
        for begin in [Begin::Here, Begin::Lane { cost: Duration::ZERO }] {
            signal.reset();
            let work = Work { service: Some(&name), begin, signal: &signal, future: spin(&signal) };
            let gone = &mut |_: &mut Context<'_>| Poll::Ready(());
            let ran = host.lane().run(work, gone, std::future::pending()).await;
            assert!(matches!(ran.output.0.result, Err(Failure::Cut(Cut::Gone))));
            assert_eq!(testkit::state_of(ran.output.0).get("k").unwrap(), "kept");
        }
    }

    /// A bug in the host that shows under a long call must end its slot's task as it would there, not
    /// a thread of the lane, nor leave the slot waiting.
    #[tokio::test]
    async fn a_panic_goes_back_to_who_waits() {
        let lane = Arc::new(Lane::new(1));
        fn fails() {
            panic!("as the test wants it")
        }
        for _ in 0..3 {
            let lane = lane.clone();
            let waits = tokio::spawn(async move {
                let signal = Arc::<Signal>::default();
                let future = Box::pin(async { fails() });
                let begin = Begin::Lane { cost: Duration::ZERO };
                let work = Work::<()> { service: None, begin, signal: &signal, future };
                lane.run(work, &mut |_| Poll::Pending, std::future::pending()).await;
            });
            assert!(waits.await.is_err_and(|error| error.is_panic()));
        }
    }
}
