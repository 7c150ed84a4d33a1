//! What a cluster reports of its nodes, and of the moves of slots.

use crate::{
    log::{Position, Term},
    names::SlotId,
    service::canary::counts::Counts,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What one node has deleted of a removed service.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct PurgeShare {
    /// The generation in which it was removed.
    pub since: u64,
    pub deleted: u64,
    pub done: bool,
}

/// What one node has counted of a step of a service's canary.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CanaryShare {
    /// Of the version before.
    pub before: Counts,
    pub canary: Counts,
    /// Whether a slot of its has not switched to the step yet.
    pub behind: bool,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Drained {
    pub slot: SlotId,
    pub term: Term,
    pub position: Position,
    /// The node that has it now. A resettable node keeps it and starts it again at its next message.
    pub to: String,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Rebalanced {
    pub view: u64,
    /// Slots that move.
    pub moves: u32,
    pub detail: String,
}

/// A node as `slotd nodes` shows it: what it sees.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NodeView {
    pub node: String,
    pub version: String,
    /// The addresses at which its peers and its clients reach it.
    pub peer: String,
    pub api: String,
    /// Its view's number, counted by itself.
    pub view: u64,
    /// The nodes that it considers alive.
    pub members: Vec<String>,
    /// Those of them that hand over their slots and leave.
    pub leaving: Vec<String>,
    /// Slots that it owns, and that the ring of its view gives it.
    pub owned: u32,
    pub proposed: u32,
    /// Moves in progress to it.
    pub moving: u32,
    /// Why it is not ready, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub not_ready: Option<String>,
    /// Why it can't serve slots now, if it can't: the others leave it out of their rings.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub unfit: Option<String>,
    /// Missing links to other nodes, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub links: Option<String>,
}

/// The nodes of a cluster.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NodesInfo {
    /// The node that was asked.
    pub own: String,
    pub nodes: Vec<NodeView>,
    /// Members that did not answer, with the reason.
    pub silent: Vec<SilentNode>,
}

/// The feature level: what nodes may write while earlier versions have to read it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LevelInfo {
    /// The one in force.
    pub level: u16,
    /// The next one, if every node can read it: it is raised automatically after `level_wait`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub may_rise_to: Option<u16>,
    /// What each node can read: those that are alive, and those that are away and may come back.
    pub nodes: Vec<LevelOf>,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LevelOf {
    pub node: String,
    /// The newest level that it reads.
    pub reads: u16,
    /// It is not alive as far as the node that was asked sees; this is what it read when it was.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub away: bool,
}

/// A node whose record is removed.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct NodeForgotten {
    pub node: String,
    /// The newest level that it read.
    pub reads: u16,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SilentNode {
    pub node: String,
    pub why: String,
}

/// A node that has begun to hand over its slots; it exits when it has none.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct NodeDraining {
    pub node: String,
    /// Slots that it has to hand over, as far as the node that was asked knows.
    pub slots: u32,
    /// The nodes that take them over.
    pub takers: Vec<String>,
}

/// The state of a move of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MoveState {
    /// The new owner loads plugins and state while the old one serves.
    Preparing,
    /// The old owner finishes the messages that it has and holds new ones.
    Sealing,
    /// The new owner claims the slot.
    Claiming,
    Done,
    Failed,
    Cancelled,
}

/// A move of a slot, as the node that it moves to reports it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct MoveInfo {
    /// Unique on the node `to`.
    pub id: u64,
    pub slot: SlotId,
    /// `None`: nobody had it, or its owner is gone.
    pub from: Option<String>,
    pub to: String,
    pub state: MoveState,
    /// Why it, or the last try, failed.
    pub error: Option<String>,
    pub started_ms: u64,
    pub elapsed_ms: f64,
    /// How long no node served the slot; only for a planned move that is done.
    pub pause_ms: Option<f64>,
}

/// The moves of slots that the nodes know of.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct MovesInfo {
    /// Counts of all moves that the nodes remember, shown or not.
    pub counts: MoveCounts,
    /// Those in progress by slot, then the ended ones, the latest first.
    pub moves: Vec<MoveInfo>,
    /// Nodes that did not answer, with the reason.
    pub silent: Vec<SilentNode>,
}

/// Moves by their state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MoveCounts {
    pub preparing: u32,
    pub sealing: u32,
    pub claiming: u32,
    pub done: u32,
    pub failed: u32,
    pub cancelled: u32,
}

impl MovesInfo {
    /// Sorts and counts what the nodes reported; shows at most `ended_max` of the ended ones.
    pub fn new(mut moves: Vec<MoveInfo>, silent: Vec<SilentNode>, ended_max: usize) -> Self {
        let mut counts = MoveCounts::default();
        for info in &moves {
            *match info.state {
                MoveState::Preparing => &mut counts.preparing,
                MoveState::Sealing => &mut counts.sealing,
                MoveState::Claiming => &mut counts.claiming,
                MoveState::Done => &mut counts.done,
                MoveState::Failed => &mut counts.failed,
                MoveState::Cancelled => &mut counts.cancelled,
            } += 1;
        }
        moves.sort_by_cached_key(|info| {
            let ended = info.state.has_ended().then(|| info.started_ms + info.elapsed_ms as u64);
            (ended.is_some(), std::cmp::Reverse(ended), info.slot, info.to.clone(), info.id)
        });
        moves.truncate(counts.running() + ended_max);
        Self { counts, moves, silent }
    }
}

impl MoveCounts {
    pub fn running(self) -> usize {
        (self.preparing + self.sealing + self.claiming) as usize
    }
}

impl MoveState {
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

/// A cancelled move; the slot stays where it was until the view changes, or it is drained or
/// rebalanced.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MoveCancelled {
    /// Where the slot would have gone.
    pub node: String,
    pub id: u64,
}
