//! The data directory: disk space, caches, the single node's log, the state store.

use std::time::Duration;

/// How long closing a store waits for its memtables to be written to tables. What is left then is
/// replayed at the next start: nothing is lost by it.
pub const FLUSH_WAIT_MAX: Duration = Duration::from_secs(20);
/// How long a start waits for a data directory that another process has, and how often it looks.
pub const DATA_DIR_LOCK_WAIT: Duration = Duration::from_secs(2);
pub const DATA_DIR_LOCK_RETRY: Duration = Duration::from_millis(20);
/// Free space that writes leave on the disk: what flushes and compactions need to finish.
pub const DISK_RESERVE_BYTES_DEFAULT: u64 = 64 * 1024 * 1024;
/// The part of the reserve that is kept from everything: between it and the whole, messages are
/// refused while claims, flushes and the removal of what was deleted go on, so that every slot can
/// be opened and read. A quarter: a flush of every slot is a fraction of what one memtable takes.
pub const DISK_RESERVE_UPKEEP_SHARE: u64 = 4;
/// How old a look at the free space may be: one `statvfs` is cheap, one a commit is not needed.
pub const DISK_CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// Memory for blocks that were read from the store's tables.
pub const BLOCK_CACHE_BYTES_DEFAULT: u64 = 32 * 1024 * 1024;
/// Journals on disk beyond which memtables are written out; also bounds replay at start.
pub const JOURNAL_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// A group commit of one slot that is larger has its answers given by a worker, as those of several
/// slots are: the next one waits for the committer.
pub const ANSWER_HERE_BYTES_MAX: usize = 4 * 1024;
/// Bytes of one group commit; the rest goes to the next one. Bounds the time of one fsync.
pub const GROUP_COMMIT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Batches that go before larger ones where not all fit one group commit.
pub const SMALL_BATCH_BYTES_MAX: usize = 64 * 1024;
/// From so many bytes on, how long a commit takes says how fast the log is; and a commit takes as many at least.
pub const LARGE_COMMIT_BYTES: usize = 256 * 1024;
/// For so long after a small batch, commits are short: the next one would wait for them.
pub const SMALL_BATCHES_LATELY: Duration = Duration::from_millis(100);
/// Full memtables of a keyspace that wait to be written to tables from which on the store is behind. At four of them (fjall
/// 3.1.13) whoever writes to it sleeps, in steps of 100 ms: also the committer, and with it all slots.
pub const TABLES_BEHIND: usize = 2;
/// As many of the log after which large batches wait in front of the committer.
pub const LOG_TABLES_BEHIND: usize = 3;
/// How often they look, and for how long they wait at most: well below [`ENGINE_TIMEOUT`](super::ENGINE_TIMEOUT).
pub const LARGE_BATCH_LOOK: Duration = Duration::from_millis(1);
pub const LARGE_BATCH_HELD_MAX: Duration = Duration::from_secs(2);
/// How long a group commit waits for as many batches as the last one had, if that had several. About
/// what a sync takes on a fast disk: at 64 connections it makes the batches of a commit a third more
/// (`docs/benchmark.md`).
pub const COMMIT_GATHER_MAX: Duration = Duration::from_micros(150);
/// Appends and claims that wait for the committer, per slot and in all as many again. One append
/// of a slot is in flight at a time, so only claims that race could ever reach it.
pub const COMMIT_QUEUE_PER_SLOT_MAX: usize = 4;
/// Tables (in bytes) that are checked in full before a node opens; above it, in the background.
pub const VERIFY_AT_OPEN_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Entries and bytes of one stored piece of history.
pub const HISTORY_CHUNK_ENTRIES_MAX: usize = 256;
pub const HISTORY_CHUNK_BYTES_MAX: usize = 64 * 1024;
/// From this size on a piece of history lies apart from the others, where no merge writes it again;
/// reading it takes one more look at the disk.
pub const HISTORY_APART_BYTES_MIN: usize = 16 * 1024;
/// Disk space of removed rows below which it is not worth to merge tables for it.
pub const RECLAIM_BYTES_MIN: u64 = 16 * 1024 * 1024;
/// As a share of what the tables hold: a fifth, so that a byte that is given back costs five bytes
/// that are written at most.
pub const RECLAIM_SHARE: u64 = 5;
/// Removed rows after which they are written to tables as soon as no more are to be removed.
pub const RECLAIM_ROWS_MIN: usize = 4_096;
/// Rows of a deleted session that one background step removes: keeps the journal's lock short.
pub const GARBAGE_ROWS_PER_STEP: usize = 512;
/// Time that slots have to stop before a store that failed is opened again.
pub const REOPEN_GRACE: Duration = Duration::from_secs(10);
/// Back-off while it can't be.
pub const REOPEN_RETRY_MIN: Duration = Duration::from_millis(200);
pub const REOPEN_RETRY_MAX: Duration = Duration::from_secs(5);
/// How often the store's background thread looks for work.
pub const HOUSEKEEPING_INTERVAL: Duration = Duration::from_millis(200);

/// Keys that what is kept is sealed with: the one in use, and earlier ones.
pub const SEAL_KEYS_MAX: usize = 16;
/// Of the file that has them, or of what a command prints: some 45 bytes each, and comments.
pub const SEAL_KEYS_BYTES_MAX: u64 = 64 * 1024;
/// For a command that prints them: it may ask a service elsewhere, and nothing starts before it has answered.
pub const SEAL_COMMAND_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);
/// How long the store's background thread seals old rows anew each time: a quarter of its time, and of a core.
pub const RESEAL_TURN: Duration = Duration::from_millis(50);
/// Rows that are looked at, and bytes that are written anew, at once: while they are written no flush writes. A few
/// milliseconds.
pub const RESEAL_ROWS_MAX: usize = 4_096;
pub const RESEAL_BYTES_MAX: usize = 512 * 1024;
/// Tables of a keyspace up to which they are merged at once after its rows were sealed anew: a second or so, for which no
/// memtable is written to a table.
pub const RESEAL_MERGE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Steps of merging a larger keyspace's tables after its rows were sealed anew, each a few tables: some gigabytes. What is left is
/// merged as anything is.
pub const RESEAL_MERGES_MAX: usize = 64;
/// Times that the log's old tables are looked for before they are left to be dropped later: half a minute. A few suffice
/// unless slots can't be flushed.
pub const RESEAL_LOG_TRIES_MAX: usize = 150;
/// After how many of them a newer table is begun: longer than it takes slots to be flushed, since the last but one must be
/// flushed past before any is dropped.
pub const RESEAL_LOG_ROTATE_EVERY: usize = 25;
/// How often a node of a cluster looks which of its slots are still to be sealed anew, and, once all are, whether that has
/// changed: a start of a node with another key is seen so much later.
pub const RESEAL_LOOK: Duration = Duration::from_secs(1);
pub const RESEAL_LOOK_DONE: Duration = Duration::from_secs(20);
/// Slots of a node that are sealed anew at a time: half of what makes snapshots, so that those which are due get a turn.
pub const RESEAL_SLOTS_AT_A_TIME: usize = 2;
/// After which time a slot that was asked to is asked again: longer than most snapshots take. Asking for nothing costs little.
pub const RESEAL_ASK_AGAIN: Duration = Duration::from_secs(30);
/// Subjects of a service whose sessions are counted in a slot: some 30 KiB, which each flush of the slot writes. Sessions of those that
/// come later count as nobody's.
pub const STORED_SUBJECTS_MAX: usize = 1_024;
/// Subjects of all services whose sums a node has in memory, and tells others of every half minute: some 2 MB. A quarter more at times.
pub const STORED_SUBJECTS_SUMS_MAX: usize = 16_384;
/// How long a write of a slot waits for a count of what the slot stores, and how many rows a step of it writes at most.
pub const STORED_COUNT_STEP_TIME: Duration = Duration::from_millis(20);
pub const STORED_COUNT_STEP_ROWS: usize = 1_024;
/// How long a node counts at a time what slots store that were not counted yet, of each half minute: what was used has
/// to be written in between.
pub const STORED_COUNT_TIME: Duration = Duration::from_secs(15);
