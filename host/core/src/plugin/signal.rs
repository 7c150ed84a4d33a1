//! Signals between a call and its runner: where it yields, and why it is ended early.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::Duration,
};

/// Why a call was ended that did nothing wrong. Nothing of it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nobody waits for its answer any more.
    Gone,
    /// Too many calls compute for long.
    Full,
    /// Its slot stops, or switches to another version.
    Ending,
    /// Others wait for its slot, and it takes too long to get its turns.
    Crowded,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cut::Gone => "no client is waiting for it any more",
            Cut::Full => "too many long-running calls on this node",
            Cut::Ending => "the slot must stop or switch its version",
            Cut::Crowded => "others are waiting for its slot",
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
    pub(super) fn cut(&self, why: Cut) {
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
