//! Services: deployments, swaps, removal, counts.

use std::time::Duration;

/// Deployments in a service's catalogue; each is some hundred bytes, kept for good.
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

/// How long a step of a canary takes, where nobody says: long enough for a look at graphs.
pub const CANARY_PAUSE_DEFAULT: Duration = Duration::from_secs(5 * 60);
pub const CANARY_PAUSE_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);
/// How many messages and queries a step waits for, where nobody says: of a fault in one of fifty, the version before having
/// none, 500 show it nine times in ten.
pub const CANARY_MESSAGES_DEFAULT: u64 = 500;
pub const CANARY_MESSAGES_MIN: u64 = 20;
pub const CANARY_MESSAGES_MAX: u64 = 1_000_000_000;
pub const CANARY_STEPS_MAX: usize = 20;
/// Verdicts kept in a service's record: one for each step.
pub const CANARY_VERDICTS_MAX: usize = CANARY_STEPS_MAX + 1;
/// Bytes of a text in such a record.
pub const CANARY_TEXT_BYTES_MAX: usize = 512;
/// How long a step waits for messages, after its pause, before the canary is held for somebody to decide.
pub const CANARY_PATIENCE: Duration = Duration::from_secs(24 * 3_600);
/// Between looks at how a canary does.
pub const CANARY_LOOK: Duration = Duration::from_secs(1);
/// How long a canary that goes back may look for how many sessions stay: those who fail meanwhile wait.
pub const CANARY_LEFT_WAIT: Duration = Duration::from_secs(1);
/// Sessions that a fault is remembered of: enough to say that it is not one alone.
pub const CANARY_SESSIONS_NOTED: usize = 8;
/// Of how many sessions a fault is the version's, and not the session's.
pub const CANARY_SESSIONS_MIN: usize = 3;
/// Chance that a good version is sent back, in one step, by one of the tests.
pub const CANARY_ALPHA: f64 = 1e-3;
/// How much more often something must go wrong to be of interest: of millions of messages, any difference shows.
pub const CANARY_RATE_RATIO: f64 = 1.25;
/// The share of its sessions that a version may refuse to take over.
pub const CANARY_PINS_SHARE: f64 = 0.01;
/// How much longer calls may take, and how much more memory an instance may have.
pub const CANARY_COST_RATIO: f64 = 2.0;
/// Calls of the canary before their time is judged: the first ones of new instances are slow.
pub const CANARY_TIME_MESSAGES_MIN: u64 = 500;
/// What is quicker than this is never too slow.
pub const CANARY_TIME_FLOOR: Duration = Duration::from_micros(250);
/// What has less memory than this never has too much.
pub const CANARY_MEMORY_FLOOR: u64 = 16 * 1024 * 1024;
