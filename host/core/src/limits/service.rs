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
