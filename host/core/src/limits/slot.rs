//! Slots: mailboxes, batches, flushes, caches, and catching up with the log.

use std::time::Duration;

/// Default number of slots; fixed for the life of a data directory.
pub const SLOT_COUNT_DEFAULT: u16 = 512;
/// Slots cost a task each; more than this has no use on one cluster.
pub const SLOT_COUNT_MAX: u16 = 16_384;
/// Messages that wait for one slot; more get 503 `mailbox-full`.
pub const MAILBOX_MESSAGES_DEFAULT: usize = 1_024;
/// What waits in a slot's mailbox and is worth nothing later, ephemeral events of clients, may take this share of it:
/// while a call is long they would fill it, and messages be refused.
pub const MAILBOX_PASSING_SHARE: usize = 8;
/// Places that an empty mailbox keeps after a burst.
pub const MAILBOX_KEPT: usize = 64;
/// Control orders (swap, drain, flush) that wait for one slot; their senders wait, not refuse.
pub const CONTROL_ORDERS_MAX: usize = 16;
/// Messages in one batch of one slot: bounds what one commit failure refuses.
pub const BATCH_MESSAGES_MAX: usize = 256;
/// Answers that wait for one commit after which a slot takes no more mail: reads may join a batch
/// that is under way.
pub const HELD_ANSWERS_MAX: usize = 4 * BATCH_MESSAGES_MAX;
/// Bytes after which a batch takes no further message; one message more may pass it.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Messages that a slot takes in one turn before it checks its orders again.
pub const MAIL_PER_TURN_MAX: usize = 64;
/// How long a slot takes mail in one turn, for the same reason: some of it brings many messages.
pub const MAIL_TURN: std::time::Duration = std::time::Duration::from_millis(20);
/// How long a slot takes mail that came together, on the thread of its connection, which other connections wait for.
/// All that a socket may have in flight (`SOCKET_IN_FLIGHT_MAX`) fits in unless its handlers are slow.
pub const TAKE_READY_TIME_MAX: Duration = Duration::from_millis(1);
/// After so many messages that came together, what is applied of them is sent to the log: it has work while the rest is
/// applied.
pub const READY_UNCOMMITTED_MAX: usize = 4;
/// A slot without a message, subscriber or unflushed change for this long stops.
pub const SLOT_IDLE_DEFAULT: Duration = Duration::from_secs(300);
/// How often a slot's committed changes go to the state store: a session that is written several
/// times meanwhile costs one row. Bounds replay at start.
pub const FLUSH_INTERVAL: Duration = Duration::from_secs(3);
/// A slot that flushes to make room in its cache does so this often at most.
pub const FLUSH_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Sessions that a slot makes before it may forget which names had one that was deleted: until then
/// it doubts positions that do not name their session. A name takes some 20 bytes.
pub const DELETED_NAMES_SESSIONS: u64 = 16_384;
/// Turns into which the slots' flushes are spread over one interval.
pub const FLUSH_TICKS: u32 = 48;
/// Committed bytes of one slot that wait for the state store before it is written at once.
pub const UNFLUSHED_BYTES_MAX: usize = 256 * 1024;
/// As many of them after which a slot takes no more mail until its flush has caught up.
pub const BEHIND_BYTES_MAX: usize = 8 * UNFLUSHED_BYTES_MAX;
/// Slots that a node on its own opens again at a time, because their task ended before the store had all of
/// them: opening replays, and others are served meanwhile.
pub const UNFLUSHED_OPENED_MAX: usize = 8;
/// Memory for cached sessions over all slots of a node.
pub const SESSION_CACHE_BYTES_DEFAULT: usize = 48 * 1024 * 1024;
/// A cached slot keeps at least this much, so that one large session does not thrash.
pub const SESSION_CACHE_BYTES_PER_SLOT_MIN: usize = 32 * 1024;
/// Slots that are reset at a time.
pub const SLOTS_RESET_AT_A_TIME: usize = 64;
/// A slot that is ordered to stop takes what is in its mailbox for this long at least, or for as long as a
/// call may run; then what needs a handler or writes is refused. Well below
/// [`HANDOFF_DEADLINE`](super::HANDOFF_DEADLINE) and [`CONTROL_TIMEOUT`](super::CONTROL_TIMEOUT), within
/// which whoever waits for the slot gives up.
pub const STOP_DRAIN: Duration = Duration::from_secs(2);
/// Bytes of log that a recovery folds in memory before it writes them to the state store.
pub const REPLAY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of log that a slot which catches up reads at a time.
pub const CATCH_UP_BYTES_MAX: usize = 256 * 1024;
/// Such pieces that a node works on at a time for slots that it is to get: this takes the processor
/// from those who serve, and is in no hurry.
pub const CATCH_UPS_AT_A_TIME: usize = 1;
/// Bytes of log that are applied in one write. While one writes, the store lets nobody else do so,
/// and a slot whose move nobody is to notice may be behind it.
pub const REPLAY_WRITE_BYTES_MAX: usize = 64 * 1024;
/// Batches below which a page of the log is short; and so many short ones in a row after which a
/// slot that is to come has caught up, though more has come meanwhile: the rest is replayed with
/// the claim.
pub const CATCH_UP_BATCHES_LEFT_MAX: usize = 64;
pub const CATCH_UP_SHORT_PAGES: usize = 3;
/// Looks at the log's end after which a slot that is to come has caught up as far as it ever will:
/// one that is written to as fast as it is replayed has no short pages.
pub const CATCH_UP_LAST_PAGES_MAX: usize = 24;
/// Rows, and bytes of them, that a slot's state is loaded by, for the same reason.
pub const LOAD_WRITE_ROWS_MAX: usize = 512;
pub const LOAD_WRITE_BYTES_MAX: usize = 64 * 1024;
/// How often a slot with subscribers and nothing to commit confirms that it is still the owner.
pub const PROVE_INTERVAL: Duration = Duration::from_secs(2);
/// Between looks at a log whose server does not show yet what is known to be there.
pub const REPLAY_RETRY: Duration = Duration::from_millis(10);
/// Slots that a listing over all slots asks at a time.
pub const SLOTS_LISTED_AT_A_TIME: usize = 64;
