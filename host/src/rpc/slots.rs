//! What a node tells of a slot, to its peers and to clients.

use crate::{
    log::{Position, Term},
    names::SlotId,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SlotInfo {
    pub slot: SlotId,
    /// The node that owns it (or would, by the ring, if it is not started).
    pub owner: String,
    /// `running`, `stopped` (starts at its next message), `opening`, `draining`; `unknown`: its
    /// owner did not say, the rest is of the copy that the asked node has.
    pub state: String,
    pub term: Term,
    pub position: Position,
    /// Up to where the state store has it.
    pub applied: Position,
    pub mailbox: usize,
    pub sessions: u64,
    /// Label per service.
    pub plugins: std::collections::BTreeMap<String, String>,
}

impl SlotInfo {
    pub(crate) const UNKNOWN: &str = "unknown";
}
