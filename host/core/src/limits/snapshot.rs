//! Snapshots of slots.

use std::time::Duration;

/// Bytes that a slot's log grows before the slot makes a snapshot: what a take-over replays.
pub const SNAPSHOT_LOG_BYTES: usize = 1024 * 1024;
/// Snapshots that one node makes at a time.
pub const SNAPSHOTS_AT_A_TIME: usize = 4;
/// Bytes of log after a snapshot below which the next one is not worth its manifest. Also what an
/// idle slot leaves in the log.
pub const SNAPSHOT_TAIL_BYTES_MIN: usize = 256 * 1024;
/// Bytes after which an object of a snapshot ends: what taking and restoring hold in memory, a
/// few times over.
pub const SNAPSHOT_PIECE_BYTES: usize = 4 * 1024 * 1024;
/// The largest object that is read back: a piece, and the largest batch behind it.
pub const SNAPSHOT_OBJECT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Deltas below which a slot's mutable rows are not copied again, however few they are.
pub const SNAPSHOT_DELTAS_BYTES_MIN: u64 = 4 * 1024 * 1024;
/// A delta smaller than this is folded together with its neighbours...
pub const SNAPSHOT_DELTA_SMALL_BYTES: u64 = 2 * 1024 * 1024;
/// ...once there are so many: bounds a manifest, and what a restore has to ask for.
pub const SNAPSHOT_DELTAS_SMALL_MAX: usize = 64;
/// Entries of deleted sessions that history may hold beside as many as are live.
pub const SNAPSHOT_DEAD_ENTRIES_SLACK: u64 = 1_000;
/// Sessions that are looked at for each delete, to count what is live: bounds what deletes cost.
pub const SNAPSHOT_HEADS_PER_DELETE: u64 = 1_000;
/// Objects that a restore reads ahead of what it writes.
pub const SNAPSHOT_READ_AHEAD: usize = 2;
/// Times that a restore starts over because its snapshot was collected under it.
pub const SNAPSHOT_RESTORE_TRIES: usize = 3;
/// Time for one request to the object store, repeats included: longer than the engine's election.
pub const SNAPSHOT_OBJECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Back-off between repeats.
pub const SNAPSHOT_RETRY_MIN: Duration = Duration::from_millis(20);
pub const SNAPSHOT_RETRY_MAX: Duration = Duration::from_secs(2);
/// A message of NATS that holds part of an object; half of what servers allow by default.
pub const SNAPSHOT_PART_BYTES: usize = 512 * 1024;
/// Such messages on their way at a time, for one object.
pub const SNAPSHOT_PARTS_IN_FLIGHT: usize = 8;
/// Times that the engine must answer "not found" before it counts.
pub const SNAPSHOT_MISSES: u32 = 4;
/// Marks of unfinished listings that may lie about in a slot.
pub const SNAPSHOT_MARKS_MAX: usize = 16;
