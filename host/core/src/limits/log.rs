//! The log of slots, in a cluster on JetStream.

use std::time::Duration;

/// One batch of one slot, encoded: the largest message with all that it may write, twice over.
pub const LOG_BATCH_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How long a slot waits for the log before it fails the waiting requests. Longer than the log
/// engine takes to elect another leader (4 to 9 s), so that they are answered late instead of
/// refused; shorter than a request's deadline.
pub const ENGINE_TIMEOUT: Duration = Duration::from_secs(14);
/// Streams that the slots' logs of a new cluster are spread over: enough for their leaders to be on
/// three servers, and few, since a server syncs each stream's appends by themselves (ADR 14).
pub const LOG_STREAMS_DEFAULT: u16 = 3;
/// An append without an answer for this long is undecided, and is looked after.
pub const LOG_APPEND_TIMEOUT: Duration = Duration::from_secs(2);
/// Back-off between two tries of an undecided append.
pub const LOG_UNDECIDED_RETRY_MIN: Duration = Duration::from_millis(2);
pub const LOG_UNDECIDED_RETRY_MAX: Duration = Duration::from_secs(2);
/// Answers of one undecided append that wait to be looked at; the rest adds nothing.
pub const LOG_ANSWERS_MAX: usize = 8;
/// A batch that is undecided for this long is logged, once.
pub const LOG_UNDECIDED_WARN: Duration = Duration::from_secs(5);
/// Time that a claim's first look, a read or a trim tries for: longer than an election (9 s).
pub const LOG_WAIT: Duration = Duration::from_secs(12);
/// A log that ends before an acknowledged batch, by every answer for this long, has lost it.
/// Longer than the time that a server which was paused may take itself for the leader.
pub const LOG_BEHIND_MAX: Duration = Duration::from_secs(30);
/// Claims between the appends of an owner that lives before the harder way is tried.
pub const LOG_CLAIM_TRIES: u32 = 3;
/// An owner that is silent for this long leaves time for the simple way.
pub const LOG_CHASE_SILENCE: Duration = Duration::from_millis(50);
/// Batches of one page that is read.
pub const LOG_PAGE_BATCHES_MAX: usize = 1_024;
/// What a batch may have beside the bodies, writes, replies and events of its messages: names,
/// heads, headers.
pub const LOG_BATCH_BYTES_BESIDE: usize = 256 * 1024;
