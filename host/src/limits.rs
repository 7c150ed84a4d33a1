//! Every limit of slotd, in one place, each with its reason. Those that an operator may want to
//! change have a key in the configuration (`config.rs`), whose default stands here.

use std::time::Duration;

// --- names ------------------------------------------------------------------------------------

/// A service name is part of every key and metric label.
pub const SERVICE_NAME_BYTES_MAX: usize = 64;
/// Long enough for a UUID with prefixes or an e-mail address; part of one key a session.
pub const SESSION_ID_BYTES_MAX: usize = 256;
/// An idempotency key is stored with each message.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 128;
/// A sender's name is stored with each message.
pub const SENDER_BYTES_MAX: usize = 256;
/// A content type is stored with each message.
pub const CONTENT_TYPE_BYTES_MAX: usize = 128;
/// A plugin's human version, shown in headers and tables.
pub const PLUGIN_VERSION_BYTES_MAX: usize = 64;

// --- slots ------------------------------------------------------------------------------------

/// Default number of slots; fixed for the life of a data directory.
pub const SLOT_COUNT_DEFAULT: u16 = 512;
/// Slots cost a task and an instance each; more than this has no use on one cluster.
pub const SLOT_COUNT_MAX: u16 = 16_384;
/// Messages that wait for one slot; past it the caller gets 503 `mailbox-full`.
pub const MAILBOX_MESSAGES_DEFAULT: usize = 1_024;
/// Control orders (swap, drain, flush) that wait for one slot; their senders wait, not refuse.
pub const CONTROL_ORDERS_MAX: usize = 16;
/// Messages in one batch of one slot: bounds what one commit failure refuses.
pub const BATCH_MESSAGES_MAX: usize = 256;
/// Bytes after which a batch takes no further message; one message more may pass it.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// A slot without a message, subscriber or unflushed change for this long stops.
pub const SLOT_IDLE_DEFAULT: Duration = Duration::from_secs(300);
/// How often a slot's committed changes go to the state store; bounds replay at start.
pub const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
/// Committed bytes of one slot that wait for the state store before it is written at once.
pub const UNFLUSHED_BYTES_MAX: usize = 1024 * 1024;
/// Memory for cached sessions over all slots of a node.
pub const SESSION_CACHE_BYTES_DEFAULT: usize = 64 * 1024 * 1024;
/// A cached slot keeps at least this much, so that one large session does not thrash.
pub const SESSION_CACHE_BYTES_PER_SLOT_MIN: usize = 64 * 1024;
/// Instances that one slot keeps (services x versions); the least recently used goes first.
pub const INSTANCES_PER_SLOT_MAX: usize = 8;

// --- messages ---------------------------------------------------------------------------------

/// A message's or query's body.
pub const BODY_BYTES_DEFAULT: usize = 256 * 1024;
/// The most that the body limit can be configured to: a batch must fit one log record.
pub const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Time from a request's arrival to its answer; past it the caller gets 504 `outcome-unknown`.
pub const REQUEST_DEADLINE_DEFAULT: Duration = Duration::from_secs(15);
/// Entries in one page of history or of a listing.
pub const PAGE_ENTRIES_MAX: usize = 1_000;
pub const PAGE_ENTRIES_DEFAULT: usize = 100;
/// Bytes after which a page ends early (it always has one entry at least).
pub const PAGE_BYTES_MAX: usize = 1024 * 1024;

// --- guests -----------------------------------------------------------------------------------

/// A component that is uploaded: Python's are 18 MB.
pub const COMPONENT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Linear memory of one instance.
pub const GUEST_MEMORY_BYTES_DEFAULT: usize = 64 * 1024 * 1024;
/// Elements of all tables of one instance.
pub const GUEST_TABLE_ELEMENTS_MAX: usize = 100_000;
/// Time that one call of a guest may take.
pub const GUEST_DEADLINE_DEFAULT: Duration = Duration::from_secs(1);
/// The most that a call's time can be configured to; no request waits nearly as long.
pub const GUEST_DEADLINE_MAX: Duration = Duration::from_secs(3_600);
/// Epochs: how often a running guest lets others run and looks at its deadline.
pub const GUEST_EPOCH: Duration = Duration::from_millis(10);
/// Host calls (state, effects, log) that one call of a guest may make.
pub const HOST_CALLS_MAX: u32 = 100_000;
/// Bytes of a key of a session's state.
pub const STATE_KEY_BYTES_MAX: usize = 1_024;
/// Bytes of a value of a session's state.
pub const STATE_VALUE_BYTES_MAX: usize = 1024 * 1024;
/// Keys and values that one message may write.
pub const STATE_WRITE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Entries that one scan gives.
pub const STATE_SCAN_ENTRIES_MAX: u32 = 1_000;
/// Bytes of a reply or of a rejection's message.
pub const REPLY_BYTES_MAX: usize = 1024 * 1024;
/// Events that one message may emit.
pub const EVENTS_MAX: usize = 256;
/// Bytes of all events of one message.
pub const EVENT_BYTES_MAX: usize = 1024 * 1024;
/// Lines that one call may log; the rest is counted and dropped.
pub const LOG_LINES_MAX: u32 = 100;
/// Bytes of one log line; the rest is cut.
pub const LOG_LINE_BYTES_MAX: usize = 2_048;
/// Lines a second that all instances of one plugin may log: a line a message would drown the rest.
pub const PLUGIN_LOG_LINES_PER_SECOND_MAX: u32 = 1_000;
/// Bytes that one host call may carry from the guest, or one reply: a value, an event or a reply
/// with its names. Checked before the host copies anything.
pub const HOST_CALL_BYTES_MAX: usize = 1024 * 1024 + 64 * 1024;
/// Bytes of an event's kind: it is a name.
pub const EVENT_KIND_BYTES_MAX: usize = 64;
/// Bytes of a rejection's code: it is a name.
pub const REJECTION_CODE_BYTES_MAX: usize = 64;
/// Bytes of a rejection's message: one sentence for people.
pub const REJECTION_MESSAGE_BYTES_MAX: usize = 4_096;
/// Bytes of what is told of a trap.
pub const TRAP_TEXT_BYTES_MAX: usize = 512;
/// Stack of a guest. Deep recursion ends here; what it touched stays with the instance.
pub const GUEST_STACK_BYTES: usize = 512 * 1024;
/// Stack below the guest's, for host functions: a state read goes down into the store.
pub const GUEST_HOST_STACK_BYTES: usize = 1024 * 1024;
/// Core instances, memories and tables of one component instance; Python's needs a dozen.
pub const GUEST_CORE_INSTANCES_MAX: usize = 128;
pub const GUEST_MEMORIES_MAX: usize = 8;
pub const GUEST_TABLES_MAX: usize = 64;
/// WASI handles (streams, pollables) that one instance may hold.
pub const GUEST_HANDLES_MAX: usize = 1_000;
/// Random bytes that one WASI call gives.
pub const GUEST_RANDOM_BYTES_MAX: usize = 64 * 1024;
/// Components that are compiled at the same time: each may use every core and much memory.
pub const COMPILES_MAX: usize = 2;

// --- connections ------------------------------------------------------------------------------

/// Committed messages that wait for one subscriber before it is told of a gap.
pub const SUBSCRIBER_MESSAGES_MAX: usize = 256;
/// Subscribers of one session.
pub const SUBSCRIBERS_PER_SESSION_MAX: usize = 10_000;
/// Messages of one WebSocket that are under way; past it the socket is not read.
pub const SOCKET_IN_FLIGHT_MAX: usize = 64;
/// Time to finish what is in flight after SIGTERM.
pub const SHUTDOWN_GRACE_DEFAULT: Duration = Duration::from_secs(20);
