//! The process: configuration files, threads, the watchdog, start and stop.

use std::time::Duration;

/// A shorter bearer token is guessed too soon.
pub const TOKEN_BYTES_MIN: usize = 8;
/// A bearer token is part of every request.
pub const TOKEN_BYTES_MAX: usize = 512;
/// A configuration file or token file; more is a mistake.
pub const CONFIG_FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Threads that serve, also on a machine with one core: one that waits for its disk must not hold
/// up all others.
pub const SERVING_THREADS_MIN: usize = 2;
/// Threads that answer probes and operators and take signals: two, so that one who reads a long list
/// does not hold up a probe.
pub const CONTROL_THREADS: usize = 2;
/// How often the threads that serve show that they move.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(100);
/// How often that is looked at.
pub const WATCHDOG_INTERVAL: Duration = Duration::from_millis(100);
/// Threads that serve and have not moved for this long are stalled: the node sends nothing to its
/// peers any more, and they take its slots. Longer than what any load delays them by.
pub const SERVING_STALL: Duration = Duration::from_secs(5);
/// A stall of this length is not waited out: the process ends, to be started again.
pub const STALL_LIMIT_DEFAULT: Duration = Duration::from_secs(30);
/// How often membership looks whether the threads that serve move again.
pub const STALL_LOOK: Duration = Duration::from_millis(50);
/// Time to finish what is in flight after SIGTERM.
pub const SHUTDOWN_GRACE_DEFAULT: Duration = Duration::from_secs(20);
/// After the grace: time for the store's last write before the process ends all the same.
pub const SHUTDOWN_OVERTIME: Duration = Duration::from_secs(10);
/// Time beyond the grace and [`SHUTDOWN_OVERTIME`] after which a process that was ordered to stop ends,
/// wherever it hangs.
pub const SHUTDOWN_HANG: Duration = Duration::from_secs(3);
/// The part of what is left of the grace that connections may take to end. The rest is the slots': a
/// client that does not read must not keep them from finishing.
pub const CONNECTIONS_SHARE: f64 = 0.4;
/// How long a request to the admin API that is under way when the node stops has to be answered.
pub const STOPPING_ANSWER: Duration = Duration::from_secs(1);
/// How long SIGHUP waits for the configuration's files: one may be a pipe that nobody writes to.
pub const RELOAD_WAIT: Duration = Duration::from_secs(5);
