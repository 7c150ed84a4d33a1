//! Every limit of slotd, in one place, each with its reason. Those that an operator may want to
//! change have a key in the configuration (`config/keys.rs`), whose default stands here.

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
/// What an error says: a few sentences; what it names of others is cut to fit.
pub const ERROR_DETAIL_BYTES_MAX: usize = 8 * 1024;
/// Items that a text names before it says how many more there are, and the bytes of each.
pub const LISTED_MAX: usize = 16;
pub const LISTED_BYTES_MAX: usize = 1024;
/// A plugin's human version, shown in headers and tables.
pub const PLUGIN_VERSION_BYTES_MAX: usize = 64;

// --- slots ------------------------------------------------------------------------------------

/// Slots that a node on its own opens again at a time, because their task ended before the store had all of
/// them: opening replays, and others are served meanwhile.
pub const UNFLUSHED_OPENED_MAX: usize = 8;

/// Default number of slots; fixed for the life of a data directory.
pub const SLOT_COUNT_DEFAULT: u16 = 512;
/// Slots cost a task each; more than this has no use on one cluster.
pub const SLOT_COUNT_MAX: u16 = 16_384;
/// Messages that wait for one slot; more get 503 `mailbox-full`.
pub const MAILBOX_MESSAGES_DEFAULT: usize = 1_024;
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
/// A slot without a message, subscriber or unflushed change for this long stops.
pub const SLOT_IDLE_DEFAULT: Duration = Duration::from_secs(300);
/// How often a slot's committed changes go to the state store: a session that is written several
/// times meanwhile costs one row. Bounds replay at start.
pub const FLUSH_INTERVAL: Duration = Duration::from_secs(3);
/// A slot that flushes to make room in its cache does so this often at most.
pub const FLUSH_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Sessions that a slot makes before it may forget which names had one that was deleted: until then
/// it doubts positions that do not say of which session they are. A name takes some 20 bytes.
pub const DELETED_NAMES_SESSIONS: u64 = 16_384;
/// Turns into which the slots' flushes are spread over one interval.
pub const FLUSH_TICKS: u32 = 48;
/// Committed bytes of one slot that wait for the state store before it is written at once.
pub const UNFLUSHED_BYTES_MAX: usize = 256 * 1024;
/// As many of them after which a slot takes no more mail until its flush has caught up.
pub const BEHIND_BYTES_MAX: usize = 8 * UNFLUSHED_BYTES_MAX;
/// Memory for cached sessions over all slots of a node.
pub const SESSION_CACHE_BYTES_DEFAULT: usize = 48 * 1024 * 1024;
/// A cached slot keeps at least this much, so that one large session does not thrash.
pub const SESSION_CACHE_BYTES_PER_SLOT_MIN: usize = 32 * 1024;

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

/// A correction of a session's state, as JSON: keys and values of [`STATE_WRITE_BYTES_MAX`], which
/// grow by a third in base64.
pub const CORRECTION_BYTES_MAX: usize = 6 * 1024 * 1024;
/// Why a session's state is corrected, for its history.
pub const REASON_BYTES_MAX: usize = 4 * 1024;
/// Keys that a correction's entry in the history names; of more, it has the number. An entry is read
/// by clients, a page at a time.
pub const NOTE_KEYS_BYTES_MAX: usize = 32 * 1024;
/// An operator's entry that is imported: a part of a file with it fits one batch of the log.
pub const NOTE_BYTES_MAX: usize = STATE_WRITE_BYTES_MAX;
/// How far ahead of this node's clock the time of an imported message may be. A session's times never
/// go back, so those of all later messages would be as late.
pub const IMPORT_AHEAD_MAX: Duration = Duration::from_secs(5 * 60);
/// How long a session of which parts were imported, and not the last, is kept from clients: longer than
/// a file may stall ([`IMPORT_STALL`]).
pub const IMPORT_PART_HOLD: Duration = Duration::from_secs(60);
/// What a key and its value take beside their bytes while a part of a file waits for its end.
pub const IMPORT_PAIR_BYTES: usize = 96;
/// Sessions that are imported at a time: each holds a part of a file in memory.
pub const IMPORTS_MAX: usize = 2;
/// How long a file that is imported is waited for until so much more of it has come: who sends a
/// byte now and then would keep others from importing.
pub const IMPORT_STALL: Duration = Duration::from_secs(30);
pub const IMPORT_STALL_BYTES_MIN: usize = 16 * 1024;
/// A line of a session's file: a message with its reply and events in base64.
pub const IMPORT_LINE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The largest file that `slotd session import` sends: it is read into memory.
pub const IMPORT_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Sessions of one request that are deleted at a time.
pub const DELETES_AT_A_TIME: usize = 64;
/// Slots that are reset at a time.
pub const SLOTS_RESET_AT_A_TIME: usize = 64;

// --- services ---------------------------------------------------------------------------------

/// Deployments that a service's catalogue tells apart; each is some hundred bytes, kept for good.
pub const DEPLOYMENTS_PER_SERVICE_MAX: usize = 10_000;
/// How far back `rollback` can go.
pub const ROLLBACK_STEPS_MAX: usize = 100;
/// Slots that a swap moves at a time.
pub const SWAP_CONCURRENCY_MAX: usize = 64;
/// Back-off of a swap with a slot that can't be moved now.
pub const SWAP_RETRY_MIN: Duration = Duration::from_millis(20);
pub const SWAP_RETRY_MAX: Duration = Duration::from_secs(2);
/// How long a deploy or rollback waits for another one of the same service to be durable, and for
/// its own slots to move before it answers with the swap still under way.
pub const SWAP_WAIT: Duration = Duration::from_secs(30);
/// Sessions of a removed service that a slot deletes at a time, between messages.
pub const PURGED_AT_A_TIME: usize = 256;
/// Slots of a node that delete such sessions at a time: more would take the disk from what serves.
pub const SLOTS_PURGED_AT_A_TIME: usize = 8;
/// How long another node may take to count its sessions: some two seconds a million, and more on a
/// slow disk.
pub const SESSIONS_COUNT_WAIT: Duration = Duration::from_secs(30);
/// How long a count waits for the state store to have what was acknowledged before it; what it does
/// not have by then (its disk is full, say) is not counted.
pub const SESSIONS_FLUSH_WAIT: Duration = Duration::from_secs(2);
pub const SESSIONS_FLUSH_POLL: Duration = Duration::from_millis(5);
/// Between looks at how far the other nodes are with a swap.
pub const SWAP_POLL: Duration = Duration::from_millis(20);
/// Services with series of their own in `/metrics`; each has some 20, and 25 more for each way in
/// which its plugin is called.
pub const METRIC_SERVICES_MAX: usize = 50;

// --- guests -----------------------------------------------------------------------------------

/// A component that is uploaded: Python's are 18 MB.
pub const COMPONENT_BYTES_MAX: usize = 64 * 1024 * 1024;
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
/// A slot that is told to stop takes what is in its mailbox for this long at least, or for as long as a call
/// may run; then what needs a handler or writes is refused. Well below [`HANDOFF_DEADLINE`] and
/// [`CONTROL_TIMEOUT`], within which whoever waits for the slot gives up.
pub const STOP_DRAIN: Duration = Duration::from_secs(2);
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
/// Bytes of a key of a session's state.
pub const STATE_KEY_BYTES_MAX: usize = 1_024;
/// Bytes of a value of a session's state.
pub const STATE_VALUE_BYTES_MAX: usize = 1024 * 1024;
/// Keys and values that one message may write.
pub const STATE_WRITE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// All keys and values of one session: a session lives in one slot's memory when it is busy.
pub const SESSION_STATE_BYTES_MAX: u64 = 256 * 1024 * 1024;
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
pub const INSTANCE_PATIENCE: Duration = Duration::from_secs(2);
/// One part in so many of the memory of all instances that new ones leave to those that run, whose
/// calls may need some more before they can end.
pub const GUEST_MEMORY_RUNNING_SHARE: usize = 8;
/// Between two looks for idle instances to drop while someone waits for memory and there are none.
pub const SHED_INTERVAL: Duration = Duration::from_millis(10);
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
/// Deploys whose components are compiled at the same time, each in a process of its own. One more is
/// kept for what a node must load to serve.
pub const COMPILES_MAX: usize = 2;
/// Deploys that wait for one of these places; more get 503 `unavailable`.
pub const COMPILES_WAITING_MAX: usize = 16;
/// Bytes of all components that deploys hold, from their arrival until they are stored or refused:
/// four of the largest. Past it 503 `unavailable`.
pub const DEPLOYS_BYTES_MAX: usize = 4 * COMPONENT_BYTES_MAX;
/// Time to check and compile one component, and as much processor time for each thread. Python's
/// take 13 s on two cores that do nothing else. Also how long a deploy waits for a place.
pub const COMPILE_DEADLINE_DEFAULT: Duration = Duration::from_secs(120);
/// The most that it can be configured to.
pub const COMPILE_DEADLINE_MAX: Duration = Duration::from_secs(3_600);
/// Address space of the process that compiles one component: its program, its threads' stacks, and
/// what the compiler allocates.
pub const COMPILE_MEMORY_BYTES_DEFAULT: u64 = 2 * 1024 * 1024 * 1024;
/// Below this the process does not start.
pub const COMPILE_MEMORY_BYTES_MIN: u64 = 256 * 1024 * 1024;
/// One part in so many of the machine's memory (or of what the container may have) that it takes at
/// most by default.
pub const COMPILE_MEMORY_SHARE: u64 = 2;
/// Threads that compile one component: more make a deploy little faster, and each has memory of its
/// own.
pub const COMPILE_THREADS_MAX: usize = 4;
/// Threads that hash and store components, at the same priority.
pub const COMPONENT_THREADS: usize = 2;
/// How far they, and deploys that are compiled, give way to others, as for nice(1). A thread that
/// serves and wakes up runs at once; where every core is busy with serving, compiling gets a tenth of
/// them. At 19 it would be a hundredth: two seconds of work took 75 on a machine with a queue of
/// twenty.
pub const COMPILE_NICE: i32 = 10;
/// The same for a component without which the node serves no slot, or keeps a deploy of the whole
/// cluster waiting: a quarter.
pub const COMPILE_NICE_LOAD: i32 = 5;
/// Native code of one component: Python's has 40 MB.
pub const COMPILED_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// File descriptors of the process that compiles: its three, and what the runtime opens for a moment.
pub const COMPILE_FILES_MAX: u64 = 32;
/// How often its end is looked for where the system can't tell of it.
pub const COMPILE_LOOK: Duration = Duration::from_millis(20);
/// What that process may say: its report, or why it crashed.
pub const COMPILE_REPORT_BYTES_MAX: usize = 256 * 1024;
/// A component that was refused, or took too much, is not tried again by itself for this long; after
/// another failure, for the shorter time.
pub const COMPILE_RETRY: Duration = Duration::from_secs(600);
pub const COMPILE_RETRY_SOON: Duration = Duration::from_secs(2);
/// Such components that are remembered.
pub const COMPILE_FAILURES_MAX: usize = 256;
/// Bytes of what is told of a component that does not fit: of one reason, and of all.
pub const COMPONENT_PROBLEM_BYTES_MAX: usize = 1_024;
pub const COMPONENT_PROBLEMS_BYTES_MAX: usize = 8 * 1_024;
/// How often a node looks for components that nothing needs. What is one at two looks is removed.
pub const COMPONENTS_TIDY_INTERVAL: Duration = Duration::from_secs(3_600);
/// Code of a deployment that is not current, nor the one before, is removed when nothing has used it
/// for this long: it can be compiled again.
pub const COMPILED_UNUSED: Duration = Duration::from_secs(24 * 3_600);
/// Names of imports and of exports that `plugin check` lists, each up to
/// [`COMPONENT_PROBLEM_BYTES_MAX`].
pub const COMPONENT_NAMES_LISTED_MAX: usize = 200;

// What a component may be made of, counted before it is validated: what validating and compiling
// take more than linear time or memory for. In brackets what the largest of the plugins that ship
// has, in Rust, C, JavaScript (QuickJS) and Python (CPython with its libraries, 18 MB).

/// Levels of components and modules in each other [3].
pub const COMPONENT_DEPTH_MAX: u64 = 8;
/// Components in a component, at all levels [3]: each takes memory of all around it.
pub const COMPONENT_COMPONENTS_MAX: u64 = 256;
/// Core modules [14].
pub const COMPONENT_MODULES_MAX: u64 = 256;
/// Instances of components and modules [68].
pub const COMPONENT_INSTANCES_MAX: u64 = 1_000;
/// Types [1,235], those in other types not counted: their bytes [17 KB] are bounded too.
pub const COMPONENT_TYPES_MAX: u64 = 20_000;
pub const COMPONENT_TYPE_BYTES_MAX: u64 = 1024 * 1024;
/// Imports [2,313] and exports [4,218] of a component and of all its modules: a dynamic library of
/// C exports everything.
pub const COMPONENT_IMPORTS_MAX: u64 = 25_000;
pub const COMPONENT_EXPORTS_MAX: u64 = 50_000;
/// Aliases [1,356]: a component that links dynamic libraries has one for each name.
pub const COMPONENT_ALIASES_MAX: u64 = 20_000;
/// Functions that are lifted or lowered [130].
pub const COMPONENT_CANONICALS_MAX: u64 = 5_000;
/// Functions of modules [13,367].
pub const COMPONENT_FUNCTIONS_MAX: u64 = 200_000;
/// Globals of modules [874].
pub const COMPONENT_GLOBALS_MAX: u64 = 20_000;
/// Tags of exceptions [0].
pub const COMPONENT_TAGS_MAX: u64 = 1_000;
/// Element segments [8], and as many data segments [10,004]: a snapshot of memory has many.
pub const COMPONENT_SEGMENTS_MAX: u64 = 100_000;
/// Bytes of a name of an import or export [162]: C++ puts types into names.
pub const COMPONENT_NAME_BYTES_MAX: u64 = 16 * 1024;
/// Code of all functions [6.6 MB].
pub const COMPONENT_CODE_BYTES_MAX: u64 = 48 * 1024 * 1024;
/// Code of one function [427 KB]: interpreters have large ones. The compiler takes one at a time.
pub const FUNCTION_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Local variables of one function [271]: the compiler keeps each over every branch.
pub const FUNCTION_LOCALS_MAX: u64 = 10_000;
/// Of all functions [47,790].
pub const COMPONENT_LOCALS_MAX: u64 = 1_000_000;
/// Targets of the `br_table`s of one function: an edge each, over which all locals are kept. An
/// interpreter has one a byte code, some hundreds.
pub const FUNCTION_BRANCH_TARGETS_MAX: u64 = 16_384;
/// Of all functions.
pub const COMPONENT_BRANCH_TARGETS_MAX: u64 = 1_000_000;
/// Of a component, or its code, that is written to the disk before the next sync.
pub const DISK_PIECE_BYTES: usize = 1024 * 1024;

// --- configuration ----------------------------------------------------------------------------

/// How long every node must have been able to read the next feature level before it is raised by
/// itself: until then an upgrade can be taken back.
pub const LEVEL_WAIT_DEFAULT: Duration = Duration::from_secs(60 * 60);
/// Processes that can't read the level in force and are told to end: far more than a cluster has nodes.
pub const EXPELLED_MAX: usize = 1024;
/// How long a member must have seemed too old for the level before it is told to end.
pub const EXPEL_AFTER: Duration = Duration::from_secs(5);
/// How often a node looks whether it may be raised.
pub const LEVEL_LOOK: Duration = Duration::from_secs(1);
/// A node's name is part of claims, tables and the ring.
pub const NODE_NAME_BYTES_MAX: usize = 64;
/// A shorter bearer token is guessed too soon.
pub const TOKEN_BYTES_MIN: usize = 8;
/// A bearer token is part of every request.
pub const TOKEN_BYTES_MAX: usize = 512;
/// A configuration file or token file; more is a mistake.
pub const CONFIG_FILE_BYTES_MAX: u64 = 1024 * 1024;

// --- the process --------------------------------------------------------------------------------

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
/// Threads that serve and have not moved for this long are stalled: the node says nothing to its
/// peers any more, and they take its slots. Longer than what any load delays them by.
pub const SERVING_STALL: Duration = Duration::from_secs(5);
/// A stall of this length is not waited out: the process ends, to be started again.
pub const STALL_LIMIT_DEFAULT: Duration = Duration::from_secs(30);
/// How often membership looks whether the threads that serve move again.
pub const STALL_LOOK: Duration = Duration::from_millis(50);
/// Time beyond the grace and [`SHUTDOWN_OVERTIME`] after which a process that was told to stop ends,
/// wherever it hangs.
pub const SHUTDOWN_HANG: Duration = Duration::from_secs(3);
/// The part of what is left of the grace that connections may take to end. The rest is the slots': a
/// client that does not read must not keep them from finishing.
pub const CONNECTIONS_SHARE: f64 = 0.4;
/// How long a request to the admin API that is under way when the node stops has to be answered.
pub const STOPPING_ANSWER: Duration = Duration::from_secs(1);

// --- standard output and error ------------------------------------------------------------------

/// Bytes of log lines that wait to be written; past it lines are dropped and counted. Some thousand
/// lines: a reader that pauses for a moment loses none.
pub const LOG_WAITING_BYTES_MAX: usize = 1024 * 1024;
/// How long SIGHUP waits for the configuration's files: one may be a pipe that nobody writes to.
pub const RELOAD_WAIT: Duration = Duration::from_secs(5);
/// How long the end of the process waits for what it has said to be written: nobody may be reading.
pub const LOG_FLUSH_WAIT: Duration = Duration::from_secs(1);
/// Of log lines that are alike, so many are logged in each [`REPEATS_INTERVAL`]; the rest is counted.
pub const REPEATS_LOGGED_MAX: u32 = 5;
pub const REPEATS_INTERVAL: Duration = Duration::from_secs(10);
/// Kinds of lines that are told apart at a time.
pub const REPEATS_KEPT_MAX: usize = 512;
/// How often what was suppressed is looked at, to be said.
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

// --- command line -----------------------------------------------------------------------------

/// An answer that the command line reads whole: a page of history with its JSON around it.
pub const CLIENT_ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// An answer that says that something failed: a sentence or two.
pub const CLIENT_PROBLEM_BYTES_MAX: usize = 256 * 1024;
/// One line or event of an event stream that `slotd tail` reads.
pub const CLIENT_EVENT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Time to connect.
pub const CLIENT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for one request of the command line, but a deploy.
pub const CLIENT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// Time for a deploy: to upload, to wait for others that are compiled, to compile
/// ([`COMPILE_DEADLINE_DEFAULT`] each), and for the slots to move.
pub const CLIENT_DEPLOY_TIMEOUT: Duration = Duration::from_secs(360);
/// `slotd tail --follow` ends when the stream was silent (keep-alives too) for this long and
/// begins again.
pub const CLIENT_STREAM_SILENCE: Duration = Duration::from_secs(60);
/// The longest wait before `slotd tail --follow` connects again.
pub const CLIENT_RECONNECT_MAX: Duration = Duration::from_secs(10);

// --- connections ------------------------------------------------------------------------------

/// Committed messages that wait for one subscriber before it is told of a gap.
pub const SUBSCRIBER_MESSAGES_MAX: usize = 256;
/// Bytes of their events, after which it is told of a gap, too: more than the largest message's,
/// and than what is on its way to a peer ([`PEER_CREDIT`]).
pub const SUBSCRIBER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What a subscriber may be behind where connections hold all that they may (`api.buffers`).
pub const SUBSCRIBER_BYTES_FREE: usize = 64 * 1024;
/// Subscribers of one session.
pub const SUBSCRIBERS_PER_SESSION_MAX: usize = 10_000;
/// Messages of one WebSocket that are under way; past it the socket is not read.
pub const SOCKET_IN_FLIGHT_MAX: usize = 64;
/// File descriptors that are kept from connections: the store's tables and journals, components,
/// links to NATS and to peers. Half of all where there are fewer than twice as many.
pub const FILES_BESIDE_CONNECTIONS: u64 = 512;
/// After the grace: time for the store's last write before the process ends all the same.
pub const SHUTDOWN_OVERTIME: Duration = Duration::from_secs(10);
/// How long closing a store waits for its memtables to be written to tables. What is left then is
/// replayed at the next start: nothing is lost by it.
pub const FLUSH_WAIT_MAX: Duration = Duration::from_secs(20);
/// Time to finish what is in flight after SIGTERM.
pub const SHUTDOWN_GRACE_DEFAULT: Duration = Duration::from_secs(20);
/// Connections of the API listener, sockets included; past it idle ones make room, or new ones are
/// refused.
/// Each costs a file descriptor and, while idle, up to 20 KiB: a WebSocket 14, an event stream 5
/// (`cargo run -p slotd-tests --bin connections` measures it).
pub const CONNECTIONS_DEFAULT: usize = 10_000;
/// Connections of the admin listener: people, scrapers and deploys.
pub const ADMIN_CONNECTIONS_MAX: usize = 256;
/// Connections of a full listener beside its own: probes are answered on them, others told that
/// it is full.
pub const PROBE_CONNECTIONS_MAX: usize = 32;
/// A connection of these sends its request by then.
pub const PROBE_CONNECTION_IDLE: Duration = Duration::from_secs(2);
/// Connections that were ended for others and are not gone yet; past it others are refused.
pub const ENDING_CONNECTIONS_MAX: usize = 64;
/// An idle connection that a full listener ends has been so for this long: its client is not just
/// about to send the next request.
pub const IDLE_ENDED_AFTER: Duration = Duration::from_secs(1);
/// How often a full listener looks for such ones: each look is at all connections.
pub const IDLE_LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Between two log lines about a full listener.
pub const FULL_LOG_INTERVAL: Duration = Duration::from_secs(10);
/// A request's head, and what is read ahead of a connection that does not take its answers.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// From a connection's last answer (or its start) until the whole head of its next request: an
/// idle connection ends, and so does one that sends its head a byte at a time.
pub const CONNECTION_IDLE: Duration = Duration::from_secs(75);
/// A connection whose peer takes no byte for this long while there is something to write ends.
pub const WRITE_STALL: Duration = Duration::from_secs(30);
/// What it must take in that time, or all that there is: a byte now and then does not count.
pub const WRITE_PROGRESS_BYTES: usize = 16 * 1024;
/// After its last answer a connection reads and drops what still comes, so that a client which is
/// still uploading sees the answer and not a reset.
pub const LINGER: Duration = Duration::from_secs(2);
/// Bytes that it drops at most while it does so.
pub const LINGER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bodies up to this size are copied out of the connection's buffer: cheaper than a new buffer a
/// request, and 32 bytes in a cache do not keep 8 KiB alive.
pub const BODY_COPY_BYTES_MAX: usize = 4 * 1024;
/// Memory for what connections hold: bodies and frames that arrive, answers and events that wait
/// for their readers. Counts alone don't bound it: a thousand messages wait in a mailbox, and
/// there are hundreds of these.
pub const BUFFERS_BYTES_DEFAULT: usize = 256 * 1024 * 1024;
/// The same for the admin listener, which has its own: what clients hold must not keep operators out.
pub const ADMIN_BUFFERS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What a connection may hold of heads, and of answers, without being charged: about what its
/// buffers take in any case, so that small messages cost no shared counter.
pub const CONNECTION_BYTES_FREE: usize = 8 * 1024;
/// An answer's body is handed to the connection in pieces of this size, the next when the last is
/// written: what it is given it keeps room for. The allocator's largest size that it has no pages
/// beside for: of 16 KiB it makes 20.
pub const ANSWER_PIECE_BYTES: usize = 14 * 1024;
/// After it an export asks another node again whose connections hold all that they may.
pub const EXPORT_RETRY: Duration = Duration::from_secs(1);
/// The least that it can be configured to: some of the largest messages and answers.
pub const BUFFERS_BYTES_MIN: usize = 32 * 1024 * 1024;
/// Components that are uploaded at the same time; more are refused.
pub const UPLOADS_MAX: usize = 16;
/// Bytes of components that are being uploaded, or were and are not deployed yet.
pub const UPLOADS_BYTES_MAX: usize = 4 * COMPONENT_BYTES_MAX;
/// Time for the upload of a component: Python's 18 MB take this long at 60 KB/s.
pub const UPLOAD_DEADLINE: Duration = Duration::from_secs(300);
/// An upload that brings less within such a time (16 KiB a second) is given up.
pub const UPLOAD_WINDOW: Duration = Duration::from_secs(10);
pub const UPLOAD_WINDOW_BYTES_MIN: usize = 160 * 1024;
/// Nesting up to which a JSON body is shown inline in history and events (deeper: as base64);
/// common parsers stop at 128, and an answer adds a few levels of its own.
pub const JSON_DEPTH_MAX: usize = 64;
/// An event stream that has nothing to say sends a comment this often, so that proxies keep it.
pub const EVENTS_KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Bytes of events after which an event stream hands on what is ready rather than gather more.
pub const EVENTS_CHUNK_BYTES: usize = 32 * 1024;
/// What a WebSocket frame may have beside its message's body: its JSON, ids and names.
pub const SOCKET_FRAME_OVERHEAD_BYTES: usize = 16 * 1024;
/// What a client is asked to wait before it repeats what may succeed then (`Retry-After`).
pub const RETRY_AFTER: Duration = Duration::from_secs(1);
/// After a connection could not be accepted, for want of file descriptors most likely: others must
/// close first.
pub const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// When an event stream ends, its client waits this long before it comes back.
pub const EVENTS_RETRY: Duration = Duration::from_secs(1);
/// How often a WebSocket that is silent is pinged.
pub const SOCKET_PING: Duration = Duration::from_secs(20);
/// A WebSocket from which nothing came for this long, not even a pong, ends.
pub const SOCKET_SILENCE: Duration = Duration::from_secs(60);
/// What is read of a WebSocket at a time, on the stack: an idle one holds no buffer.
pub const SOCKET_READ_BYTES: usize = 16 * 1024;
/// Bytes toward one WebSocket that wait for its peer; past it nothing more is produced for it.
pub const SOCKET_WRITE_BYTES: usize = 64 * 1024;
/// A subscription that breaks is tried again after this long at first, then twice that, and so on.
pub const RESUBSCRIBE_MIN: Duration = Duration::from_millis(5);
/// The longest wait between two such tries.
pub const RESUBSCRIBE_MAX: Duration = Duration::from_secs(1);
/// Tries in a row without success after which the stream or socket ends with an error.
pub const RESUBSCRIBE_TRIES_MAX: u32 = 40;

// --- storage ----------------------------------------------------------------------------------

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
/// One batch of one slot, encoded: the largest message with all that it may write, twice over.
pub const LOG_BATCH_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Appends and claims that wait for the committer, per slot and in all as many again. One append
/// of a slot is in flight at a time, so only claims that race could ever reach it.
pub const COMMIT_QUEUE_PER_SLOT_MAX: usize = 4;
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

// --- clusters ---------------------------------------------------------------------------------

/// How long a slot waits for the log before it fails the waiting requests. Longer than the log
/// engine takes to elect another leader (4 to 9 s), so that they are answered late instead of
/// refused; shorter than a request's deadline.
pub const ENGINE_PATIENCE: Duration = Duration::from_secs(14);
/// How often a slot with subscribers and nothing to commit confirms that it is still the owner.
pub const PROVE_INTERVAL: Duration = Duration::from_secs(2);
/// Bytes that a slot's log grows before the slot makes a snapshot: what a take-over replays.
pub const SNAPSHOT_LOG_BYTES: usize = 1024 * 1024;
/// Between looks at a log whose server does not show yet what is known to be there.
pub const REPLAY_RETRY: Duration = Duration::from_millis(10);
/// Back-off of a request whose slot was not on the node that it was sent to.
pub const FORWARD_RETRY_MIN: Duration = Duration::from_millis(2);
pub const FORWARD_RETRY_MAX: Duration = Duration::from_millis(250);
/// How long a message waits for earlier ones still in flight to the previous owner: as long as a
/// live node takes to return them.
pub const LANE_PATIENCE: Duration = Duration::from_millis(500);
/// How long a node remembers what it returned to a peer that is no longer a member: longer than any
/// request of that peer can be in flight.
pub const REFUSED_KEPT: Duration = Duration::from_secs(600);
/// Reads of a node that wait for slots without an owner.
pub const WAITING_READS_MAX: usize = 4_096;
/// Concurrent handoffs to one node. Each needs little more than two commits; more at a time would
/// make each wait for the others.
pub const HANDOFFS_MAX: usize = 8;
/// Concurrent takeovers by one node, of slots whose owner is gone.
pub const TAKEOVERS_MAX: usize = 32;
/// A released slot that the new owner does not claim within this time returns to the old one.
pub const HANDOFF_DEADLINE: Duration = Duration::from_secs(5);
/// The whole of one move, with all of its preparation.
pub const MOVE_DEADLINE: Duration = Duration::from_secs(120);
/// Back-off of a move that failed.
pub const MOVE_RETRY_MIN: Duration = Duration::from_millis(500);
pub const MOVE_RETRY_MAX: Duration = Duration::from_secs(30);
/// A slot that was lost to another node in this time is claimed again only after a back-off:
/// views that differ must not make two nodes claim it in turns.
pub const CLAIM_DAMPING: Duration = Duration::from_secs(60);
/// How often a node compares its slots with the ring's assignment when nothing happens.
pub const RECONCILE_INTERVAL: Duration = Duration::from_millis(250);
/// A node that found itself paused for longer than this does not trust its view at once.
pub const PAUSE_SUSPECT: Duration = Duration::from_secs(1);
/// For how long: membership distinguishes live and dead nodes again within that time.
pub const PAUSE_DISTRUST: Duration = Duration::from_secs(4);
/// How often a node checks that the log engine answers it and its disk accepts writes, and how long
/// it waits for an answer.
pub const FITNESS_INTERVAL: Duration = Duration::from_secs(1);
/// Failed checks in a row after which a node reports that it can't serve. More than one lost
/// answer; and few enough that, after the claims of its successors, requests are answered within
/// their deadline.
pub const FITNESS_MISSES: u32 = 4;
/// Failed checks after which peers' reports are ignored, since the outage may be cluster-wide.
/// Half, because two nodes do not check at the same time.
pub const FITNESS_DOUBTS: u32 = 2;
/// Time without failures before it reports that it can serve again, doubled with each relapse.
pub const FITNESS_PROBATION: Duration = Duration::from_secs(5);
pub const FITNESS_PROBATION_MAX: Duration = Duration::from_secs(60);
/// Being unfit again after less than this is a relapse.
pub const FITNESS_RELAPSE: Duration = Duration::from_secs(600);
/// How long a node waits for a peer's list of owned slots before it relies on the log alone.
pub const OWNED_WAIT: Duration = Duration::from_secs(2);
/// How often a node repeats its list of owned slots, for peers that it could not reach.
pub const OWNED_REPEAT: Duration = Duration::from_secs(3);
/// Timeout of one control request between nodes.
pub const CONTROL_TIMEOUT: Duration = Duration::from_secs(5);
/// Finished moves that a node remembers, for `slotd moves`.
pub const MOVES_KEPT: usize = 1_000;
/// Snapshots that one node makes at a time.
pub const SNAPSHOTS_AT_A_TIME: usize = 4;
/// Slots that a listing over all slots asks at a time.
pub const SLOTS_LISTED_AT_A_TIME: usize = 64;
/// How long `slot drain` waits for the slot to be elsewhere.
pub const SLOT_DRAIN_WAIT: Duration = Duration::from_secs(20);
/// Streams that the slots' logs of a new cluster are spread over: enough for their leaders to be on
/// three servers, and few, since a server syncs each stream's appends by themselves (ADR 14).
pub const LOG_STREAMS_DEFAULT: u16 = 3;
/// How long a node waits for the log engine at its start.
pub const ENGINE_BOOT_WAIT_DEFAULT: Duration = Duration::from_secs(60);
/// How long a start may take before the API refuses clients instead of letting them wait.
pub const BOOT_DELAY_MAX: Duration = Duration::from_secs(2);
/// How long a node that finds no peer waits before it takes slots.
pub const JOIN_WAIT_DEFAULT: Duration = Duration::from_secs(3);

// --- snapshots --------------------------------------------------------------------------------

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
/// Times that the engine must say "not found" before that is believed.
pub const SNAPSHOT_MISSES: u32 = 4;
/// Marks of unfinished listings that may lie about in a slot.
pub const SNAPSHOT_MARKS_MAX: usize = 16;

// --- NATS -------------------------------------------------------------------------------------

/// Room for the streams of one nats-server that slotd starts for itself.
pub const NATS_LOCAL_STORE_BYTES: u64 = 16 * 1024 * 1024 * 1024;
/// `max_payload` of such a server: the largest batch that any configuration allows, and room.
pub const NATS_LOCAL_PAYLOAD_BYTES: usize = 16 * 1024 * 1024;
/// Time until such servers are ready: an election takes up to 9 s, a busy machine as much again.
pub const NATS_LOCAL_READY: Duration = Duration::from_secs(60);
/// Tries to start such servers when another process takes one of their ports.
pub const NATS_LOCAL_TRIES: u32 = 5;
/// One answer of a server's monitoring port.
pub const NATS_MONITOR_TIMEOUT: Duration = Duration::from_secs(5);
pub const NATS_MONITOR_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Time to connect to one server.
pub const NATS_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A server that answers nothing, not even pings, is left after three of these.
pub const NATS_PING_INTERVAL: Duration = Duration::from_secs(2);
/// Back-off of a connection that was lost: exponential, over all servers in turn.
pub const NATS_RECONNECT_MIN: Duration = Duration::from_millis(10);
pub const NATS_RECONNECT_MAX: Duration = Duration::from_secs(2);
/// Back-off of a start that waits for the servers.
pub const NATS_BOOT_RETRY_MIN: Duration = Duration::from_millis(100);
pub const NATS_BOOT_RETRY_MAX: Duration = Duration::from_secs(5);
/// A server's first line: its addresses make the most of it.
pub const NATS_INFO_BYTES_MAX: u64 = 64 * 1024;
/// One request to JetStream.
pub const NATS_REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// Questions in a row that a server leaves without an answer before another one is tried: longer
/// than most elections, so that a whole cluster does not connect anew for each.
pub const NATS_SILENT_MAX: u32 = 6;
/// Streams that slots are spread over: each is a Raft group of its own on its servers.
pub const NATS_STREAMS_MAX: u16 = 256;

// --- the log on JetStream ---------------------------------------------------------------------

/// An append without an answer for this long is undecided, and is looked after.
pub const LOG_APPEND_TIMEOUT: Duration = Duration::from_secs(2);
/// Back-off between two tries of an undecided append.
pub const LOG_UNDECIDED_RETRY_MIN: Duration = Duration::from_millis(2);
pub const LOG_UNDECIDED_RETRY_MAX: Duration = Duration::from_secs(2);
/// Answers of one undecided append that wait to be looked at; the rest says nothing new.
pub const LOG_ANSWERS_MAX: usize = 8;
/// A batch that is undecided for this long is logged, once.
pub const LOG_UNDECIDED_SAID: Duration = Duration::from_secs(5);
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

// --- discovery and membership -----------------------------------------------------------------

/// Names that are asked for in one look (seeds; DNS): each costs two questions.
pub const DISCOVERY_NAMES_MAX: usize = 32;
/// Addresses of peers that a node keeps; a name server that lies can't make it write to thousands.
pub const DISCOVERY_ADDRESSES_MAX: usize = 256;
/// Time between two looks at the DNS.
pub const DNS_POLL_INTERVAL_DEFAULT: Duration = Duration::from_millis(5_000);
/// More often is a load on the name server, more seldom leaves new nodes alone for too long.
pub const DNS_POLL_INTERVAL_MIN: Duration = Duration::from_millis(50);
pub const DNS_POLL_INTERVAL_MAX: Duration = Duration::from_secs(3_600);
/// `basename@ip` is no longer than a node's name: an IPv6 address has 39 bytes.
pub const DNS_BASENAME_BYTES_MAX: usize = 24;
/// For one try of one question; there are two.
pub const DNS_TIMEOUT: Duration = Duration::from_secs(2);
/// For one question with its tries and the change to TCP.
pub const DNS_QUESTION_DEADLINE: Duration = Duration::from_secs(6);
/// For one name with all that the search list makes of it.
pub const DNS_NAME_DEADLINE: Duration = Duration::from_secs(15);
/// What a search list makes of one name; resolv.conf(5) has six entries at most.
pub const DNS_CANDIDATES_MAX: usize = 7;

// --- operators' commands ----------------------------------------------------------------------

/// How long `slotd node drain --wait` waits: the largest grace that makes sense, and the leave.
pub const CLIENT_DRAIN_TIMEOUT: Duration = Duration::from_secs(180);
/// Between two looks at something that a command waits for.
pub const CLIENT_LOOK: Duration = Duration::from_millis(100);

/// Time until all nodes of a development cluster are ready, the NATS servers being so already.
pub const CLUSTER_DEV_READY: Duration = Duration::from_secs(90);
/// What a node of a development cluster has logged, on disk: then the file begins anew, and the one
/// before is kept.
pub const CLUSTER_DEV_LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Time that they have to stop in an orderly way: their grace, what a store's close may take
/// beyond it, and a little.
pub const CLUSTER_DEV_STOP: Duration = Duration::from_secs(40);

// --- joining ----------------------------------------------------------------------------------

/// Free ports that are tried until one is free over TCP and UDP.
pub const PEER_PORT_TRIES: u32 = 32;

// --- registry ---------------------------------------------------------------------------------

/// Time for one change or read of the registry, repeats included: longer than the engine's
/// election.
pub const REGISTRY_TIMEOUT: Duration = Duration::from_secs(20);
/// Back-off between repeats.
pub const REGISTRY_RETRY_MIN: Duration = Duration::from_millis(20);
pub const REGISTRY_RETRY_MAX: Duration = Duration::from_secs(1);
/// Times that a change of the placement starts from what another node wrote meanwhile.
pub const REGISTRY_SWAP_TRIES: usize = 32;
/// Time for one try to move a component: 64 MiB take 1.5 s on loopback.
pub const COMPONENT_TRY_TIMEOUT: Duration = Duration::from_secs(15);
/// Time to store or fetch a component in all.
pub const COMPONENT_TRANSFER_TIMEOUT: Duration = Duration::from_secs(60);
/// Times that the engine must say "not found" before that is believed.
pub const COMPONENT_MISSES: u32 = 5;
/// How often pieces of broken uploads are looked for. What is one at two looks is removed, so an
/// upload may take this long.
pub const COMPONENTS_SWEEP_INTERVAL: Duration = Duration::from_secs(3_600);

// --- between nodes ----------------------------------------------------------------------------

/// What a frame is filled up to with requests, small answers and live items: large enough for a
/// thousand small ones, small enough that the next frame is not far.
pub const PEER_FRAME_BYTES: usize = 64 * 1024;
/// A larger body goes in pieces of this size.
pub const PEER_PIECE_BYTES: usize = 64 * 1024;
/// A frame that is larger ends the link: more than twice what this side ever packs into one.
pub const PEER_FRAME_BYTES_MAX: usize = 512 * 1024;

/// A frame of an unauthenticated peer.
pub const PEER_HELLO_BYTES_MAX: usize = 4 * 1024;
/// Body of one request or answer: a page of history that one large entry ends, twice over.
pub const PEER_ITEM_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Large answers of one link that are sent in turns; the peer holds what it has of each.
pub const PEER_PIECED_MAX: usize = 8;
/// Requests that wait to be written to one peer, and their bytes; more are refused.
pub const PEER_QUEUE_ITEMS_MAX: usize = 8_192;
pub const PEER_QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Requests to one peer that have no answer yet.
pub const PEER_IN_FLIGHT_MAX: usize = 16_384;
/// Their bytes, which the peer holds until it answers.
pub const PEER_IN_FLIGHT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Requests of one peer that are worked on: as many again, for those that it gave up.
pub const PEER_SERVED_MAX: usize = 2 * PEER_IN_FLIGHT_MAX;
/// Bytes of answers and live items that wait to be written to one peer; past it no further answer
/// is fetched.
pub const PEER_ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Subscriptions of one peer: every connection of a node could be one to the same other node.
pub const PEER_SUBSCRIPTIONS_MAX: usize = 20_000;
/// Credit of one subscription: live items that are on their way, a large one counting once more
/// for each [`PEER_CREDIT_BYTES`]. As many as the subscriber's own end holds.
pub const PEER_CREDIT: u64 = SUBSCRIBER_MESSAGES_MAX as u64;
pub const PEER_CREDIT_BYTES: usize = 16 * 1024;
/// Answers that one turn of a connection takes before it looks at what came in.
pub const PEER_ANSWERS_PER_TURN_MAX: usize = 256;
/// HTTP/2's windows. Flow control is by items and credit; this is for links with a long way.
pub const PEER_STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Time to connect to a peer and for both to prove who they are.
pub const PEER_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// Time for the first bytes of a connection to the peer port: a peer sends them with its first
/// packet.
pub const PEER_SILENT_TIMEOUT: Duration = Duration::from_secs(1);
/// Unauthenticated peer connections: so many from addresses of members or from discovery, and as
/// many from all others. When there are more, the one that has sent least, and of those the oldest,
/// is closed.
pub const PEER_UNPROVEN_MAX: usize = 64;
/// Such connections from one unknown address: each takes a round trip.
pub const PEER_UNPROVEN_PER_ADDRESS_MAX: usize = 8;
/// How often a node looks which links with its peers are missing.
pub const PEER_LINK_LOOK: Duration = Duration::from_millis(250);
/// How long a link may be missing before a node reports it: a dead peer leaves the view well
/// before, and a lost link is tried again ten times.
pub const PEER_LINK_GRACE: Duration = Duration::from_secs(10);
/// Reasons and addresses of refused connections that are kept, so that lines about them stay few.
pub const PEER_LOG_KEYS_MAX: usize = 64;
/// Back-off for reopening a lost link: doubles from this.
pub const PEER_RETRY_MIN: Duration = Duration::from_millis(10);
pub const PEER_RETRY_MAX: Duration = Duration::from_secs(1);
/// How often a peer is pinged.
pub const PEER_PING_INTERVAL: Duration = Duration::from_millis(500);
/// Pings in a row without a sign of life after which a link is given up: 3 s. Counted in pings and
/// not by the clock, so that a node that was itself paused does not blame its peers.
pub const PEER_SILENT_PINGS_MAX: u32 = 6;
/// The same when there are signs of life but no answers to pings: a slow way with a long queue,
/// or one that is cut in one direction.
pub const PEER_UNANSWERED_PINGS_MAX: u32 = 18;
/// Time for what is being answered when a node stops.
pub const PEER_STOP_GRACE: Duration = Duration::from_millis(500);
/// Pause before connections are accepted again after that failed, as for want of file descriptors.
pub const PEER_ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Bytes of an unauthenticated peer's self-description that go into a log line.
pub const PEER_TEXT_BYTES_MAX: usize = 256;
/// One log line a while for each reason and address from which connections are refused.
pub const PEER_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// One datagram of the peer port, with its start and its tag: fits IPv6's smallest MTU (1280)
/// behind both headers, so that nothing is ever fragmented.
pub const PEER_DATAGRAM_BYTES_MAX: usize = 1_232;
/// A cluster's name is part of streams' names and of every hello.
pub const CLUSTER_NAME_BYTES_MAX: usize = 64;
/// A cluster's secret is configured, and bounded, as a bearer token is.
pub const CLUSTER_SECRET_BYTES_MIN: usize = TOKEN_BYTES_MIN;
pub const CLUSTER_SECRET_BYTES_MAX: usize = TOKEN_BYTES_MAX;
/// The least apparent strength of a cluster's secret: out of reach for offline guessing against a
/// captured message. See `peer::secret`.
pub const CLUSTER_SECRET_BITS_MIN: u32 = 128;
/// A node's version travels with its identity.
pub const NODE_VERSION_BYTES_MAX: usize = 32;
/// What a refusal says of the refusing side.
pub const REFUSAL_TEXT_BYTES_MAX: usize = 96;
/// Refusals that a node remembers for people to see.
pub const REFUSALS_KEPT_MAX: usize = 32;
/// Answers to unauthenticated senders: one per address in this time, and for so many addresses.
pub const REFUSAL_INTERVAL: Duration = Duration::from_millis(100);
pub const REFUSAL_ADDRESSES_MAX: usize = 64;
/// Log lines about one address and reason: one in this time, and so many addresses.
pub const REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(30);
pub const REFUSAL_LOG_KEYS_MAX: usize = 64;
/// Starts of nodes whose datagrams are told from replays.
pub const PEER_WINDOWS_MAX: usize = 4_096;
/// Orders that wait for the task of membership; it takes one in microseconds.
pub const MEMBERSHIP_ORDERS_MAX: usize = 16;
/// Datagrams that are read before timers have their turn.
pub const DATAGRAMS_PER_TURN_MAX: usize = 512;
/// Times in a row that the peer port may fail to be read, a little pause between two.
pub const SOCKET_FAILURES_MAX: u32 = 200;
pub const SOCKET_FAILURE_PAUSE: Duration = Duration::from_millis(20);
/// A node is probed by each of its peers in turn; in a cluster of n one of them does so about this
/// often. See `membership::Timings` for how the four hang together.
pub const PROBE_PERIOD: Duration = Duration::from_millis(250);
/// A probe that is not answered by then is sent through others too.
pub const PROBE_RTT: Duration = Duration::from_millis(100);
/// From suspicion to death.
pub const SUSPICION: Duration = Duration::from_millis(1_250);
/// News travel in datagrams of their own this often, while there are any.
pub const GOSSIP_PERIOD: Duration = Duration::from_millis(100);
/// Changes become a view when so much time passed without another one, at most so much later.
pub const VIEW_QUIET: Duration = Duration::from_millis(100);
pub const VIEW_DELAY_MAX: Duration = Duration::from_millis(250);
/// How often addresses that are not known as members are greeted, on the way in and afterwards.
pub const GREETING_INTERVAL_JOINING: Duration = Duration::from_millis(200);
pub const GREETING_INTERVAL: Duration = Duration::from_secs(1);
/// Hellos in one turn; the rest has the next one.
pub const GREETINGS_PER_TURN_MAX: usize = 64;
/// Hellos that wait for their answer, and how long.
pub const GREETINGS_PENDING_MAX: usize = 512;
pub const GREETING_WAIT: Duration = Duration::from_secs(2);
/// A node that greets its peers waits this long for discovery to have an answer at all.
pub const DISCOVERY_WAIT: Duration = Duration::from_secs(15);
/// A refusal that is older than this has no part in what a node does next.
pub const REFUSAL_FRESH: Duration = Duration::from_secs(5);
/// How often, and how far apart, another process with this node's name is challenged before it
/// counts as gone.
pub const CHALLENGE_TRIES: u32 = 3;
pub const CHALLENGE_INTERVAL: Duration = Duration::from_millis(200);
/// How long dead nodes are remembered, and greeted.
pub const DEAD_REMEMBERED: Duration = Duration::from_secs(600);
pub const DEAD_REMEMBERED_MAX: usize = 256;
/// How often a leaving node announces it, and how far apart.
pub const LEAVE_NOTICES: u32 = 5;
pub const LEAVE_NOTICE_INTERVAL: Duration = Duration::from_millis(30);
/// If timers are later than this, the process was paused: that time does not count.
pub const TIMER_GRACE: Duration = Duration::from_millis(50);
/// The part of the shutdown grace in which a node may move its slots away before it stops serving.
pub const DRAIN_SHARE: f64 = 0.6;
/// How long a leaving node waits until its notices are sent and its links have ended.
pub const LEAVE_WAIT: Duration = Duration::from_secs(3);
