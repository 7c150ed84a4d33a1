//! Clusters: feature levels, forwarding, moves of slots, fitness, joining.

use std::time::Duration;

/// How long every node must have been able to read the next feature level before it is raised by
/// itself: until then an upgrade can be taken back.
pub const LEVEL_WAIT_DEFAULT: Duration = Duration::from_secs(60 * 60);
/// How often a node looks whether it may be raised.
pub const LEVEL_LOOK: Duration = Duration::from_secs(1);
/// How often a node writes anew what it can read, and looks whose record is old.
pub const NODE_RECORD_REFRESH: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the record of a node that does not write it any more is kept, and the level does not rise past
/// it by itself: longer than a machine is away for repairs or over holidays. Nodes that are named after
/// their addresses leave one for each.
pub const NODE_RECORD_KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Processes that can't read the level in force and are ordered to exit: far more than a cluster has nodes.
pub const EXPELLED_MAX: usize = 1024;
/// How long a member must have seemed too old for the level before it is ordered to exit.
pub const EXPEL_AFTER: Duration = Duration::from_secs(5);
/// Back-off of a request whose slot was not on the node that it was sent to.
pub const FORWARD_RETRY_MIN: Duration = Duration::from_millis(2);
pub const FORWARD_RETRY_MAX: Duration = Duration::from_millis(250);
/// How long a message waits for earlier ones still in flight to the previous owner: as long as a
/// live node takes to return them.
pub const LANE_TIMEOUT: Duration = Duration::from_millis(500);
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
/// How long `slot drain` waits for the slot to be elsewhere.
pub const SLOT_DRAIN_WAIT: Duration = Duration::from_secs(20);
/// How long a node waits for the log engine at its start.
pub const ENGINE_BOOT_WAIT_DEFAULT: Duration = Duration::from_secs(60);
/// How long a start may take before the API refuses clients instead of letting them wait.
pub const BOOT_DELAY_MAX: Duration = Duration::from_secs(2);
/// How long a node that finds no peer waits before it takes slots.
pub const JOIN_WAIT_DEFAULT: Duration = Duration::from_secs(3);
/// The part of the shutdown grace in which a node may move its slots away before it stops serving.
pub const DRAIN_SHARE: f64 = 0.6;
