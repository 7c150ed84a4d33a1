//! What time it is.

#![expect(clippy::disallowed_methods, reason = "this is their home")]

use std::time::SystemTime;
use tokio::time::Instant;

/// The time by which tokio's timers go. A test can stop it.
pub fn now() -> Instant {
    Instant::now()
}

/// The time of day: for what servers say of it.
pub fn wall() -> SystemTime {
    SystemTime::now()
}
