//! The gate: what a new version is run on before it is deployed.

use std::time::Duration;

/// Sessions whose history is run, of all nodes together. Enough that what one in three hundred shows is seen; a few
/// seconds of one thread for conversations of a hundred messages.
pub const GATE_SESSIONS_DEFAULT: u64 = 1_000;
/// The last messages of a session that are run on the new version. Those before are run too, on the versions that
/// have handled them.
pub const GATE_MESSAGES_DEFAULT: u64 = 1_000;
/// How long a stage runs at most, unless more or less is asked for. A million small sessions are migrated in ten seconds.
pub const GATE_TIME_DEFAULT: Duration = Duration::from_secs(2 * 60);
/// Threads of each node: it serves beside it.
pub const GATE_THREADS_DEFAULT: usize = 1;
/// How many times as much a message may cost, on the average of its kind.
pub const GATE_COST_RATIO_DEFAULT: f64 = 2.0;
/// What is accepted or ignored, each: lists that people write.
pub const GATE_LISTED_MAX: usize = 256;
/// Bytes of one of these, of a reason, or of a group's path.
pub const GATE_TEXT_BYTES_MAX: usize = 512;
/// Groups of what was found, of a stage. The rest is counted by kind.
pub const GATE_GROUPS_MAX: usize = 100;
/// Reasons for what was not seen, each with an example.
pub const GATE_REASONS_MAX: usize = 32;
/// Kinds of messages whose cost is counted on its own.
pub const GATE_KINDS_MAX: usize = 64;
/// Fuel by which a message costs more, on the average of its kind, before that counts: less than a microsecond. The
/// smallest handlers have some thousands.
pub const GATE_COST_RISE_MIN: u64 = 1_000;
/// Bytes by which an instance takes more memory before that counts: an allocator may round as much.
pub const GATE_MEMORY_RISE_MIN: u64 = 4 * 1024 * 1024;
/// Instances that may be in memory while fuel is counted: a few of each thread.
pub const METERED_INSTANCES_MAX: usize = 16;
/// Places of one reply, event, effect or value that are looked at; where more differ, the whole does.
pub const GATE_PLACES_MAX: usize = 16;
/// Messages of one session that fail before no more are run: what comes behind so many follows from them.
pub const GATE_FAILURES_PER_SESSION: u32 = 16;
/// Last messages of a session that are run on new instances too, to see whether the version keeps something.
pub const GATE_FRESH_MESSAGES: u64 = 16;
/// How long a part runs messages on new instances, in all: an instance takes from some microseconds to some milliseconds.
pub const GATE_FRESH_TIME: Duration = Duration::from_secs(5);
/// Fewer messages say nothing of what a version costs, and would be counted for longer than they are run.
pub const GATE_COST_MESSAGES_MIN: u64 = 10;
/// Bytes of the name of a kind of messages.
pub const GATE_KIND_BYTES_MAX: usize = 64;
/// Failed sessions of an earlier gate that are run first.
pub const GATE_FIRST_MAX: usize = 256;
/// Hosts and secrets of a version's requests that are remembered.
pub const GATE_WANTED_MAX: usize = 1_000;

/// How long a node that drives a gate may be silent before another one goes on with it: longer than the engine
/// needs to find a new leader.
pub const GATE_LEASE: Duration = Duration::from_secs(15);
/// The same for one that the others do not count as alive.
pub const GATE_LEASE_GONE: Duration = Duration::from_secs(1);
/// How often it writes how far it is: each time is a write to the registry.
pub const GATE_BEAT: Duration = Duration::from_secs(2);
/// How often it asks the nodes how far they are: soon at first, as the gate of a small service is over at once.
pub const GATE_POLL_MIN: Duration = Duration::from_millis(2);
pub const GATE_POLL_MAX: Duration = Duration::from_millis(250);
/// How long one node may take to say how far it is.
pub const GATE_ASK_WAIT: Duration = Duration::from_secs(3);
/// How long a node that is alive may not answer before its slots are given out again.
pub const GATE_SILENT_MAX: Duration = Duration::from_secs(20);
/// How often a stage is given out, as slots move or nodes leave: what nobody has seen then, the report names.
pub const GATE_ROUNDS_MAX: u32 = 5;
/// How long what differs waits for somebody to confirm it.
pub const GATE_CONFIRM_WAIT: Duration = Duration::from_secs(30 * 60);
/// How often a node looks for gates whose driver is gone.
pub const GATE_LOOK: Duration = Duration::from_secs(1);
/// What stopped gates before that the next one looks at first.
pub const GATE_REMEMBERED_MAX: usize = 64;
/// Reports that are kept of a service's deploys: each has up to some hundred kilobytes.
pub const GATE_REPORTS_MAX: usize = 8;
/// Bytes of them, together: they are one value in the registry.
pub const GATE_REPORTS_BYTES_MAX: usize = 512 * 1024;
