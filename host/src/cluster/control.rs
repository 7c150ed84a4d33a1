//! Control messages between nodes about slots. JSON, because they are small and infrequent.

use crate::{
    captures::CaptureInfo,
    cluster::reports::{CanaryShare, MoveInfo, NodeView, PurgeShare},
    error::Error,
    gate_report::{GateShare, GateSpec, Remembered, Stage},
    log::{Position, Term, record::DeploymentId},
    names::{ServiceName, SlotId},
    quota::usage::{Ask, UsageShare},
    replay::{AuditShare, AuditSpec},
    service::Deployment,
    slot::Loaded,
    state::{SessionCount, stored::StoredByService},
    swap::SwapShare,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, sync::Arc};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ControlRequest {
    /// Which slots do you own?
    Owned,
    /// I own these now.
    Own(Vec<(SlotId, Term)>),
    /// Give `slot` to `to`: seal it, commit what is in flight, and hold what comes.
    Release {
        slot: SlotId,
        to: Arc<str>,
        /// What `to` can run; `None`: it is of a version that does not report it.
        #[serde(default)]
        loaded: Option<Loaded>,
    },
    /// I have taken the slot that you released.
    Taken {
        slot: SlotId,
        term: Term,
    },
    Moves,
    CancelMove {
        id: u64,
    },
    /// An operator wants moves of a slot (`None`: of all) that were cancelled before.
    Retry {
        slot: Option<SlotId>,
    },
    /// Give all your slots away, then leave.
    Drain,
    View,
    Swap {
        service: ServiceName,
    },
    /// How many sessions of a service do you have, by deployment?
    Sessions {
        service: ServiceName,
    },
    /// What was used of you?
    Usage(Ask),
    /// What do services store in your slots?
    Stored,
    /// Run the histories of your slots again.
    StartAudit {
        ask: AuditAsk,
        spec: AuditSpec,
        /// Of the service, on all nodes.
        sessions_of_all: u64,
    },
    /// How far are you with that?
    Audit {
        ask: AuditAsk,
    },
    CancelAudit {
        ask: AuditAsk,
    },
    /// How far are you with your part of a gate? If you don't know it and there is a job: begin.
    Gate {
        ask: GateAsk,
        job: Option<Box<GateJob>>,
    },
    /// What have you counted of a step of a service's canary?
    Canary {
        service: ServiceName,
        /// The generation in which it began, and the step.
        trial: (u64, u8),
    },
    /// Of the captures that you have made by yourself.
    Captures(CapturesAsk),
    /// How far have you deleted the sessions of a removed service?
    Purge {
        service: ServiceName,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ControlResponse {
    Owned(Vec<(SlotId, Term)>),
    Done,
    Released {
        term: Term,
        position: Position,
    },
    /// How long nobody served the slot, in microseconds.
    Taken {
        pause_us: u64,
    },
    Moves(Vec<MoveInfo>),
    Cancelled(bool),
    View(Box<NodeView>),
    Swap(Option<SwapShare>),
    Sessions(BTreeMap<DeploymentId, SessionCount>),
    Purge(Option<PurgeShare>),
    Usage(Box<UsageShare>),
    Stored(StoredByService),
    /// `None`: it is not known here.
    Audit(Option<Box<AuditShare>>),
    /// `None`: it is not known here.
    Gate(Option<Box<GateShare>>),
    /// `None`: it is at another step.
    Canary(Option<Box<CanaryShare>>),
    Captures(Box<CapturesGiven>),
}

/// What is wanted of a node's captures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum CapturesAsk {
    /// Of a service, or of all.
    List {
        service: Option<ServiceName>,
    },
    Get {
        name: String,
    },
    Remove {
        name: String,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum CapturesGiven {
    List(Vec<CaptureInfo>),
    /// The file.
    Text(String),
    Removed,
    /// It is not here.
    None,
}

/// Which audit.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuditAsk {
    pub id: String,
    pub service: ServiceName,
}

/// Which part of a gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateAsk {
    pub id: String,
    pub service: ServiceName,
    pub stage: Stage,
    pub round: u32,
}

/// What is to be done for a stage of a gate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GateJob {
    /// What runs.
    pub current: DeploymentId,
    pub candidate: Deployment,
    pub spec: GateSpec,
    /// Slots that need not be looked at again, in their order.
    pub done: Vec<SlotId>,
    /// Of the service, on all nodes.
    pub sessions_of_all: u64,
    /// What stopped gates before.
    pub remembered: Vec<Remembered>,
}

/// # Errors
/// `internal`: a bug.
pub fn encode<T: Serialize>(value: &T) -> Result<Bytes, Error> {
    let encoded = serde_json::to_vec(value);
    encoded
        .map(Into::into)
        .map_err(|e| Error::internal(format!("a control request can't be encoded: {e}")))
}

/// # Errors
/// `internal`: the peer speaks otherwise.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes)
        .map_err(|e| Error::internal(format!("a peer's control message can't be decoded: {e}")))
}
