//! Watches from outside whether the worker threads make progress.
//!
//! A process whose worker threads are all blocked looks alive: its connections stay open, its other
//! threads answer. So a task on the serving runtime beats ([`Heartbeat::beat`]), and a thread
//! outside of every runtime checks that it does. If there was no beat for
//! [`limits::SERVING_STALL`],
//! - `/healthz` and `/readyz` of the admin listener, which has its own runtime, fail;
//! - membership (also on its own thread) stops sending to the other nodes, which take the slots as
//!   those of a dead node. The log fences anything that this node may still write to them;
//! - and if it lasts for `stall_limit`, the process exits with [`panics::EXIT_CODE`].
//!
//! Time in which this thread did not run does not count either: a process that was stopped, a
//! machine that slept, or one so busy that no thread gets its turn, is not stalled.

use crate::{
    limits,
    telemetry::{metrics, panics, repeats, sink},
};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    fs, io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

/// What the serving threads and the watchdog share. Cheap to clone. One that nobody watches is never
/// stalled.
#[derive(Clone, Debug, Default)]
pub struct Heartbeat(Arc<State>);

#[derive(Debug, Default)]
struct State {
    beats: AtomicU64,
    /// Milliseconds since the last beat, as of the watchdog's last look.
    still_ms: AtomicU64,
}

impl Heartbeat {
    /// Beats as long as it is polled: a task for the serving runtime.
    pub async fn beat(self) {
        loop {
            let due = crate::clock::timer_now() + limits::HEARTBEAT_INTERVAL;
            tokio::time::sleep_until(due).await;
            metrics().serving_delay_seconds.record(due.elapsed());
            self.0.beats.fetch_add(1, Relaxed);
        }
    }

    /// How long the serving threads have not moved, once that is too long.
    pub fn stalled_for(&self) -> Option<Duration> {
        let still = Duration::from_millis(self.0.still_ms.load(Relaxed));
        (still >= limits::SERVING_STALL).then_some(still)
    }

    /// As [`Self::stalled_for`], in words for a person.
    pub fn complaint(&self) -> Option<String> {
        let seconds = self.stalled_for()?.as_secs();
        Some(format!("the worker threads have been stalled for {seconds} s"))
    }

    /// Resolves once the serving threads have not moved for too long. Await it elsewhere.
    pub async fn stalled(&self) {
        while self.stalled_for().is_none() {
            tokio::time::sleep(limits::HEARTBEAT_INTERVAL).await;
        }
    }
}

/// The thread that looks. It lives as long as the process.
#[derive(Clone)]
pub struct Watchdog(Arc<Mutex<Option<Ending>>>);

/// The process must be gone by then.
struct Ending {
    left: Duration,
    /// The exit code.
    code: u8,
}

impl Watchdog {
    /// Looks after the heartbeat from now on, and ends the process when it stands still for `limit`.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(heartbeat: Heartbeat, limit: Duration) -> io::Result<Self> {
        let this = Self(Arc::default());
        let ending = this.clone();
        crate::thread::start("slotd-watchdog", move || {
            let mut swept = Duration::ZERO;
            let mut look = Look { beats: heartbeat.0.beats.load(Relaxed), still: Duration::ZERO };
            loop {
                let before = crate::clock::now();
                thread::sleep(limits::WATCHDOG_INTERVAL);
                let since = counted(before.elapsed());
                ending.count(since);
                let was = look.still;
                let still = look.look(heartbeat.0.beats.load(Relaxed), since);
                heartbeat.0.still_ms.store(still.as_millis() as u64, Relaxed);
                report(was, still, limit);
                swept += since;
                if swept >= limits::REPEATS_SWEEP {
                    swept = Duration::ZERO;
                    repeats::sweep();
                }
            }
        })?;
        Ok(this)
    }

    /// Ends the process after this time, whatever else it still does.
    pub fn end_after(&self, left: Duration, code: u8) {
        *self.0.lock() = Some(Ending { left, code });
    }

    fn count(&self, since: Duration) {
        let mut ending = self.0.lock();
        let Some(Ending { left, code }) = &mut *ending else { return };
        *left = left.saturating_sub(since);
        if left.is_zero() {
            tracing::error!("did not stop in time: exiting now; nothing acknowledged is lost");
            end(*code);
        }
    }
}

/// Of the time between two looks, what counts: no more than there should be.
fn counted(since: Duration) -> Duration {
    since.min(2 * limits::WATCHDOG_INTERVAL)
}

/// What was seen at the last look.
struct Look {
    beats: u64,
    still: Duration,
}

impl Look {
    /// Gives how long there was no beat, when `since` is the time that counts since the last look.
    fn look(&mut self, beats: u64, since: Duration) -> Duration {
        let still = if beats == self.beats { self.still + since } else { Duration::ZERO };
        *self = Self { beats, still };
        still
    }
}

fn report(was: Duration, still: Duration, limit: Duration) {
    if was < limits::SERVING_STALL && still >= limits::SERVING_STALL {
        tracing::error!(
            threads = threads(),
            "the worker threads have been stalled for {still:.1?}: this node can't serve, its \
             peers take its slots, and it exits after {limit:?} (stall_limit)"
        );
    }
    if still >= limit {
        tracing::error!(
            threads = threads(),
            "the worker threads have been stalled for {still:.1?}: this node exits. Acknowledged \
             messages are safe; start it again"
        );
        end(panics::EXIT_CODE);
    }
    if was >= limits::SERVING_STALL && still.is_zero() {
        tracing::warn!("the worker threads run again, after {was:.1?}");
    }
}

/// What the serving threads do, as the kernel has it: how many are in which state, and where.
fn threads() -> String {
    let read = |path: std::path::PathBuf| fs::read_to_string(path).unwrap_or_default();
    let mut seen = BTreeMap::<String, u32>::new();
    for task in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        if read(task.path().join("comm")).trim() != "slotd-worker" {
            continue;
        }
        let stat = read(task.path().join("stat"));
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.get(..1)).unwrap_or("?");
        let place = read(task.path().join("wchan"));
        *seen.entry(format!("{state} {place}")).or_default() += 1;
    }
    let each = seen.into_iter().map(|(what, count)| format!("{count}x {}", what.trim()));
    each.collect::<Vec<_>>().join(", ")
}

/// Ends the process without a word to its other threads: they may hold what an orderly end needs.
fn end(code: u8) -> ! {
    sink::flush(limits::LOG_FLUSH_WAIT);
    // SAFETY: ends the process. What others have half done then is what a crash leaves.
    #[allow(unsafe_code, reason = "std has no way to end without running what others registered")]
    unsafe {
        libc::_exit(i32::from(code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = limits::WATCHDOG_INTERVAL;

    /// A process that is stopped for an hour and goes on, or a machine that sleeps, must not find
    /// itself stuck: it would end, or lose its slots, each time.
    #[test]
    fn a_pause_of_the_whole_process_is_no_stall() {
        let mut look = Look { beats: 7, still: Duration::ZERO };
        let still = look.look(7, counted(Duration::from_secs(3_600)));
        assert!(still < limits::SERVING_STALL, "{still:?}");
        assert_eq!(look.look(8, counted(STEP)), Duration::ZERO);
    }

    /// Without it a node that serves nobody would keep its slots.
    #[test]
    fn threads_that_do_not_move_are_noticed_and_so_is_that_they_do_again() {
        let mut look = Look { beats: 7, still: Duration::ZERO };
        let looks = (1..).find(|_| look.look(7, counted(STEP)) >= limits::SERVING_STALL);
        assert_eq!(looks.map(|looks| looks * STEP), Some(limits::SERVING_STALL));
        assert_eq!(look.look(8, counted(STEP)), Duration::ZERO);
    }

    /// A heartbeat that nobody watches belongs to a test or a program that has slotd as its library.
    #[test]
    fn what_nobody_watches_is_not_stalled() {
        assert_eq!(Heartbeat::default().complaint(), None);
    }
}
