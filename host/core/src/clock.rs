//! What time it is. Whoever plans does not ask, but is told.

#![expect(clippy::disallowed_methods, reason = "this is their home")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The time that only goes on, as the system has it: for what is measured.
#[inline]
pub fn now() -> Instant {
    Instant::now()
}

/// The time by which tokio's timers go: for when a wait is to end. A test can stop it.
#[inline]
pub fn timer_now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

/// Processor time of all threads of the process.
pub fn process_time() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes to `now` and nothing else; where it fails, the time is none.
    #[allow(unsafe_code, reason = "libc has no safe interface for it")]
    unsafe {
        libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut now)
    };
    Duration::new(now.tv_sec.try_into().unwrap_or(0), now.tv_nsec.try_into().unwrap_or(0))
}

/// The time of day, which may jump: for people, files and other machines.
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// Since the Unix epoch.
pub fn since_epoch() -> Duration {
    wall().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    milliseconds(since_epoch())
}

/// Whole milliseconds of a time; of one that is longer than that can say, as many as it can.
pub fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
