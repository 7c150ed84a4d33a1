//! The limits of this crate itself, each with its reason. Those of services are in [`policy`](crate::policy).

use std::time::Duration;

/// A node applies no more messages in a second, whatever it runs on; and one must cost whole nanoseconds of its rate.
pub const MESSAGES_PER_SECOND_MAX: u64 = 10_000_000;
/// Faster than any network that a node has.
pub const BYTES_PER_SECOND_MAX: u64 = 1 << 40;
/// More than all cores of a node use in a second.
pub const GUEST_SECONDS_PER_SECOND_MAX: u64 = 4_096;
/// What a rate lets through at once, as a time, where nothing is said.
pub const BURST_DEFAULT: Duration = Duration::from_secs(1);
/// Below this the pauses of threads look like bursts.
pub const BURST_MIN: Duration = Duration::from_millis(10);
/// Above this it is a quota of another period, not a burst.
pub const BURST_MAX: Duration = Duration::from_secs(3600);
/// What may be stored, or counted, at most: what fits into an integer of JavaScript.
pub const COUNT_MAX: u64 = 1 << 53;
/// Shares relative to others, as `cpu.weight` of control groups has them.
pub const WEIGHT_MAX: u32 = 10_000;
pub const WEIGHT_DEFAULT: u32 = 100;

/// Sessions of a service whose rates are known at a time: 512 KiB where all are in use. Beyond them the one that has
/// used least is forgotten.
pub const SESSIONS_KNOWN_MAX: usize = 16_384;
/// Subjects of a service, in the same way: 128 KiB.
pub const SUBJECTS_KNOWN_MAX: usize = 4_096;
/// Idempotency keys of messages that were let through: 1 MiB.
pub const REPEATS_KNOWN_MAX: usize = 65_536;
/// How long one may be repeated without drawing. A client repeats within seconds; what is let through in this time may pass a
/// second time at once.
pub const REPEAT_WITHIN: Duration = Duration::from_secs(60);
/// Entries that a name may be in: one of them is forgotten if all are in use.
pub const WAYS: usize = 8;
/// Locks of a table of names: threads that ask for different names rarely meet.
pub const TABLE_SHARDS: usize = 64;
/// Services that share the limits of `*`, each with rates of its own: 160 MiB where each of them has
/// [`SESSIONS_KNOWN_MAX`] sessions. Those beyond share one.
pub const REST_SERVICES_MAX: usize = 256;
/// Debt of guest time that is remembered: a call ends by its deadline, of minutes at most.
pub const GUEST_DEBT_MAX: Duration = Duration::from_secs(600);

/// Locks of gauges: one for each sixteenth of the services.
pub const COUNT_SHARDS: usize = 16;

/// Accounts that one part of the usage holds between two collections, with 16 parts: some 13 MiB. What comes beyond
/// is added to the service's other subjects.
pub const USAGE_PART_ACCOUNTS_MAX: usize = 4_096;
/// Parts of the usage, one for each thread in turn: a node with more threads has some share one.
pub const USAGE_PARTS: usize = 16;
/// Subjects of a service that have accounts of their own in a day; the rest is added up.
pub const USAGE_SUBJECTS_MAX: usize = 1_000;
/// Accounts of a day over all services: a file of 5 MB.
pub const USAGE_ACCOUNTS_MAX: usize = 20_000;
/// Bytes of a subject's name that are kept.
pub const USAGE_NAME_BYTES_MAX: usize = 256;
/// How often usage is written, and what of it a crash may lose.
pub const USAGE_WRITE_INTERVAL: Duration = Duration::from_secs(30);
/// Rows of an answer: some 4 MB.
pub const USAGE_ROWS_MAX: usize = 10_000;
/// Days that are kept.
pub const USAGE_DAYS_DEFAULT: u32 = 92;
/// Ten years: beyond, a file for each day is the wrong form.
pub const USAGE_DAYS_MAX: u32 = 3_660;
/// Bytes of all of them: the oldest go first.
pub const USAGE_BYTES_MAX: u64 = 64 << 20;
/// A file of usage that is read at most; beyond, it is none of ours.
pub const USAGE_FILE_BYTES_MAX: u64 = 32 << 20;

/// How often shares are computed. Some 20 ticks are the 100 to 200 ms within which they are right. As much work in front of
/// the processor is looked at without a tick.
pub const SHARES_TICK: Duration = Duration::from_millis(10);
/// Of the processor, what is given out while it is saturated: at all of it, the queue in front of it would not end.
pub const SHARES_TARGET: f64 = 0.97;
/// From so much use on, messages are looked at.
pub const SHARES_ENGAGE: f64 = 0.75;
/// Below so much, for [`SHARES_CALM_TICKS`], no more: one that sends bursts is not to be met unprepared each time.
pub const SHARES_DISENGAGE: f64 = 0.60;
pub const SHARES_CALM_TICKS: u32 = 200;
/// From so much use on, a delay on the threads that serve is their queue's.
pub const SHARES_DELAY_FROM: f64 = 0.90;
/// After so many ticks in which none of its messages ended, those of a service are taken to wait for something else than
/// the processor.
pub const SHARES_STILL_TICKS: u32 = 10;
/// So many more at most, where others have as much in front of the processor.
pub const SHARES_QUEUED_TICKS_MAX: u32 = 100;
/// What a service that did not use its share may use of it later, at once. It is what others may wait for it.
pub const SHARES_WINDOW: Duration = Duration::from_millis(20);
/// As long the processor may have work that nobody has a share for.
pub const SHARES_SPARE: Duration = Duration::from_millis(5);
/// Work in front of the processor that is as it should be: it does not idle between two messages.
pub const SHARES_QUEUE: Duration = Duration::from_millis(2);
/// In so long, what is beyond that is to be worked off: so much less is given out.
pub const SHARES_DRAIN: Duration = Duration::from_millis(50);
/// Of the processor, what is given out at least meanwhile.
pub const SHARES_TARGET_MIN: f64 = 0.40;
/// A service that has used more than its share pays it back for so long at most.
pub const SHARES_DEBT: Duration = Duration::from_secs(1);
/// What a message is taken to cost at most before it has run; the rest is charged as it is used.
pub const SHARES_ESTIMATE_MAX: Duration = Duration::from_millis(5);
/// Of one that nothing is known of: more than most cost, so that a flood of something new is met soon.
pub const SHARES_ESTIMATE_FIRST: Duration = Duration::from_micros(250);
/// Messages of a service in front of the processor below which nobody looks whether they are too many.
pub const SHARES_OPEN_FREE: u64 = 16;
/// After so long without a message a service is not among those that share.
pub const SHARES_ACTIVE: Duration = Duration::from_millis(100);
/// While no other was active for so long, one that has no limit of its own is kept waiting for nobody.
pub const SHARES_COMPANY: Duration = Duration::from_secs(2);
/// After so long it is forgotten.
pub const SHARES_KEPT: Duration = Duration::from_secs(10);
/// Services with shares of their own; those beyond share one.
pub const SHARES_SERVICES_MAX: usize = 1_024;
/// Waits are not shorter: a timer has no finer grain.
pub const SHARES_WAIT_MIN: Duration = Duration::from_micros(200);
/// Nor longer, then the service asks again: what it may use changes each tick.
pub const SHARES_WAIT_MAX: Duration = Duration::from_millis(50);

/// While other services write, one that writes more than the mean may have so much under way to the log as the log takes in
/// this time: others wait behind it.
pub const WRITES_UNDER_WAY: Duration = Duration::from_millis(20);
/// And so much at least: what a sync costs is not cheaper for less.
pub const WRITES_UNDER_WAY_MIN: u64 = 256 * 1024;
/// What a log takes in a second as long as nothing is known of it.
pub const WRITES_RATE_FIRST: f64 = 64e6;
/// What was written counts for about so long; and a service that has written within it counts as one that writes.
pub const WRITES_LATELY: Duration = Duration::from_secs(1);

/// Of a queue that is shared: one may hold so many times what is free.
pub const SHARE_OF_FREE: u64 = 2;
/// One part of so many is kept for the first of another.
pub const SHARE_RESERVE: u64 = 16;
/// For so long it counts that another has asked.
pub const SHARE_WANTED: Duration = Duration::from_secs(1);
/// Places for holders that an empty share keeps.
pub const SHARE_HOLDERS_KEPT: usize = 16;
