//! Plugins at work: calls, host calls, instances and their memory.

use std::time::Duration;

/// Linear memory of one instance.
pub const GUEST_MEMORY_BYTES_DEFAULT: usize = 64 * 1024 * 1024;
/// Elements of all tables of one instance.
pub const GUEST_TABLE_ELEMENTS_MAX: usize = 100_000;
/// Running time of one call of a guest; what it waits for its turn is not in it.
pub const GUEST_DEADLINE_DEFAULT: Duration = Duration::from_secs(1);
/// Times its deadline that a call may take from slice to slice where it does not get to run: it waits for
/// a disk in its host calls, or for a processor.
pub const GUEST_DEADLINE_STRETCH: u32 = 2;
/// The most that a call's time can be configured to: a slot does nothing else meanwhile.
pub const GUEST_DEADLINE_MAX: Duration = Duration::from_secs(60);
/// Epochs: how often a running guest lets others run and looks at its deadline.
pub const GUEST_EPOCH: Duration = Duration::from_millis(10);
/// Running time after which a call has had its slice: looked at each epoch, so half of one more at
/// most on average. Short enough that a message which waits behind one does not notice.
pub const GUEST_SLICE: Duration = Duration::from_millis(5);
/// Epochs after which a call has had its slice whatever it used of it: what it waits for the disk, or
/// for its processor, is no running time.
pub const GUEST_SLICE_EPOCHS: u32 = 5;
/// Long-running calls on a node; more are refused. Each blocks a slot.
pub const LONG_CALLS_MAX: usize = 1_024;
/// How many deadlines a call may take in total, including waiting for its turns, while other
/// messages wait for its slot: they must not wait until their clients time out on a busy node.
pub const LONG_CALL_DEADLINES: u32 = 2;
/// How often to check whether messages wait for the slot of such a call.
pub const LONG_CALL_LOOK: Duration = Duration::from_millis(100);
/// A slot forgets that a service's call was long when it has not had another for this long: until then it
/// takes one mail a turn. Some request deadlines' worth of calls that come one after the other.
pub const LONG_CALL_REMEMBERED: Duration = Duration::from_secs(10);
/// Started calls of one service that take turns, or as many as there are threads for them: each
/// holds an instance, and the more there are, the longer each takes. The others wait.
pub const LONG_CALLS_BEGUN_MAX: usize = 4;
/// First slices that long calls of one service may use on the worker threads: at once, and per
/// second. Beyond that, its calls start on the threads for long calls.
pub const LONG_SLICES_MAX: f64 = 8.0;
pub const LONG_SLICES_PER_SECOND: f64 = 20.0;
/// How far these threads give way, as for nice(1): where every core is busy with serving, they have a
/// third of what a thread that serves has. At 10 it would be a tenth, and beside a queue of ten
/// processes a second of work took a minute.
pub const LONG_NICE: i32 = 5;
/// Threads for long calls: the most that can be configured.
pub const LONG_THREADS_MAX: usize = 64;
/// Host calls (state, effects, log) that one call of a guest may make.
pub const HOST_CALLS_MAX: u32 = 100_000;
/// Entries that one scan gives.
pub const STATE_SCAN_ENTRIES_MAX: u32 = 1_000;
/// Bytes after which a scan ends early; it has one pair at least. The guest goes on after the last.
pub const STATE_SCAN_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of a reply or of a rejection's message.
pub const REPLY_BYTES_MAX: usize = 1024 * 1024;
/// Events that one message may emit.
pub const EVENTS_MAX: usize = 256;
/// Bytes of all events of one message.
pub const EVENT_BYTES_MAX: usize = 1024 * 1024;
/// Ephemeral events that one message may send: well below what a reader may be behind
/// ([`EPHEMERAL_BEHIND_MAX`](super::EPHEMERAL_BEHIND_MAX)), so that one message's alone make nobody miss any.
pub const EPHEMERAL_EVENTS_MAX: usize = 64;
/// Bytes of all ephemeral events of one message: they wait in memory until it is durable.
pub const EPHEMERAL_BYTES_MAX: usize = 256 * 1024;
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
/// Bytes of a trap's reason.
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
/// What an instance counts for beside its memories: its stack, tables, and wasmtime's own records.
pub const INSTANCE_BYTES_BESIDE: usize = 64 * 1024;
/// Memory maps that an instance counts for, of which the system lets a process have so many
/// (vm.max_map_count): those of a memory (what is in use, what is reserved, its image), and those
/// beside (the call's stack, with its guard). A test holds them against what an instance has.
pub const MEMORY_MAPS: usize = 4;
pub const INSTANCE_MAPS_BESIDE: usize = 4;
/// One part in so many of the process's maps that instances leave to everything else.
pub const MAPS_BESIDE_SHARE: usize = 4;
/// How long a call waits for other instances to release memory; at most half of a call's deadline.
pub const INSTANCE_MEMORY_TIMEOUT: Duration = Duration::from_secs(2);
/// One part in so many of the memory of all instances that new ones leave to those that run, whose
/// calls may need some more before they can end.
pub const GUEST_MEMORY_RUNNING_SHARE: usize = 8;
/// Between two looks for idle instances to drop while someone waits for memory and there are none.
pub const SHED_INTERVAL: Duration = Duration::from_millis(10);
/// One part in so many of that memory that services which hold more than it leave to those that hold less.
pub const INSTANCES_RESERVE: usize = slotd_quota::limits::SHARE_RESERVE as usize;
/// Idle instances that one deployment keeps. As many are used as calls run at once, which is as many
/// as there are threads; with `guests.isolation = "session"`, as many as sessions were active.
pub const INSTANCES_IDLE_MAX: usize = 256;
/// As [`INSTANCE_IDLE_DEFAULT`], for versions that only pinned sessions run.
pub const INSTANCE_IDLE_SUPERSEDED: Duration = Duration::from_secs(5);
/// Turns of the housekeeping between two looks for idle instances: half a second.
pub const INSTANCE_SWEEP_TICKS: u32 = 8;
/// An instance that is idle for this long is dropped: creating it again takes less than a
/// millisecond, and a Python handler's holds megabytes.
pub const INSTANCE_IDLE_DEFAULT: Duration = Duration::from_secs(60);
/// The part of the machine's memory (or of what the container may have) that instances may take in
/// all: the rest is for the caches, for connections, and for the system's cache of files.
pub const GUEST_MEMORY_TOTAL_SHARE: u64 = 2;
