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
    since_epoch().as_millis() as u64
}
