//! Log lines, standard output and error.

use std::time::Duration;

/// Bytes of log lines that wait to be written; past it lines are dropped and counted. Some thousand
/// lines: a reader that pauses for a moment loses none.
pub const LOG_WAITING_BYTES_MAX: usize = 1024 * 1024;
/// How long the end of the process waits for its last lines to be written: nobody may be reading.
pub const LOG_FLUSH_WAIT: Duration = Duration::from_secs(1);
/// Of log lines that are alike, so many are logged in each [`REPEATS_INTERVAL`]; the rest is counted.
pub const REPEATS_LOGGED_MAX: u32 = 5;
pub const REPEATS_INTERVAL: Duration = Duration::from_secs(10);
/// Kinds of lines that are distinguished at a time.
pub const REPEATS_KEPT_MAX: usize = 512;
/// How often suppressed lines are counted in a line of their own.
pub const REPEATS_SWEEP: Duration = Duration::from_secs(1);
/// Frames of a guest's own that are logged of a trap, and bytes of each one's name.
pub const TRAP_FRAMES_MAX: usize = 16;
pub const TRAP_FRAME_BYTES_MAX: usize = 128;
/// Lines of a panic's backtrace that are logged.
pub const BACKTRACE_LINES_MAX: usize = 200;
/// Between two tries to write to a stream that another process has made non-blocking.
pub const LOG_RETRY: Duration = Duration::from_millis(10);
/// Pause after lines that could not be written, as on a full disk.
pub const LOG_FAILED_PAUSE: Duration = Duration::from_millis(250);
