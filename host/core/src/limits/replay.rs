//! Histories that are run again, beside what a node serves.

use std::time::Duration;

/// Versions of which one thread keeps an instance: a session has seen one or two, and its neighbours others.
pub const REPLAY_INSTANCES_MAX: usize = 4;
/// Memory of one session that is run again. A session's state may have 256 MiB; what its handler has looked at and
/// what was deleted counts too.
pub const REPLAY_SESSION_BYTES_MAX: usize = 320 * 1024 * 1024;
/// Threads that may be asked for.
pub const REPLAY_THREADS_MAX: usize = 64;

/// Threads of a node that run histories, whatever asks for them and however many: half of its processors. Each may hold a
/// session, three times while a difference is looked at, and some instances.
#[must_use]
pub fn replay_threads(processors: usize) -> usize {
    (processors / 2).clamp(1, REPLAY_THREADS_MAX)
}

/// How often what waits for such a thread looks whether its time is over.
pub const REPLAY_THREAD_LOOK: Duration = Duration::from_millis(100);
/// How many of them one audit has unless it asks for more: the node serves beside it.
pub const AUDIT_THREADS_DEFAULT: usize = 1;
/// How far these threads give way, as for nice(1). Messages that wait are worth more than a report.
pub const REPLAY_NICE: i32 = 10;
/// How long an audit runs at most, unless it asks for more or less.
pub const AUDIT_TIME_DEFAULT: Duration = Duration::from_secs(10 * 60);
/// The longest that can be asked for: what is stored at its begin is kept from being given back meanwhile.
pub const AUDIT_TIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// How long one session may take: others are to have their turn. A session of a million messages takes some
/// ten seconds.
pub const AUDIT_SESSION_TIME: Duration = Duration::from_secs(5 * 60);
/// How long a snapshot of the store serves for one session after the other: what was deleted or overwritten since
/// can't be given back while it is there.
pub const REPLAY_VIEW_TIME: Duration = Duration::from_secs(10);
/// A page of a history that is read to be run.
pub const REPLAY_PAGE_BYTES: usize = 512 * 1024;
pub const REPLAY_PAGE_ENTRIES: usize = 4_096;
/// Sessions of a sample: their names are in memory while it runs.
pub const AUDIT_SAMPLE_MAX: u64 = 100_000;
/// Differing messages of one session that are looked for: what comes behind the first mostly follows from it.
pub const AUDIT_DIFFERENCES_PER_SESSION: usize = 8;
/// Differing sessions that a node's report has with what differs. The rest is counted.
pub const AUDIT_FINDINGS_MAX: usize = 50;
/// Differing sessions of which a node finds out what it looks like: each is run several times.
pub const AUDIT_DIAGNOSED_MAX: u64 = 1_000;
/// Kinds of reasons for which sessions were not compared, each with an example.
pub const AUDIT_REASONS_MAX: usize = 32;
/// Messages before a difference that are run with a new instance each, to see whether the component keeps something.
pub const REPLAY_FRESH_MESSAGES_MAX: u64 = 2_000;
/// Bytes of a value that a difference shows, about the first place where it differs.
pub const DIFFERENCE_SHOWN_BYTES: usize = 400;
/// Audits that a node knows, under way or over.
pub const AUDITS_KEPT_MAX: usize = 32;
/// How long the other nodes are waited for when an audit is begun or asked for.
pub const AUDIT_WAIT: Duration = Duration::from_secs(10);
/// How often a command looks how far an audit is.
pub const AUDIT_LOOK: Duration = Duration::from_millis(250);

/// Sessions that a node shows as they were, at a time: each has a thread of its own. Of the others as many wait as
/// [`PAST_WAITING_MAX`] says. An audit does not take their turns, as it may last for hours.
#[must_use]
pub fn past_threads(processors: usize) -> usize {
    replay_threads(processors)
}

/// Those that run or wait: what comes then is refused.
pub const PAST_WAITING_MAX: usize = 64;
/// How long one is run. A session of a million messages takes some ten seconds, and nobody waits for longer than a
/// request may take.
pub const PAST_TIME: Duration = Duration::from_secs(15);
/// Pages of a history that are read ahead of the one that is run.
pub const PAST_PAGES_AHEAD: usize = 1;
