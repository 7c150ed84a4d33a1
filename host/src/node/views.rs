//! A node's reports on its services, except those that lower modules of this crate define.

use super::{canary::CanaryInfo, gates::GateView};
use crate::{
    cluster::reports::{PurgeShare, SilentNode},
    log::record::DeploymentId,
    names::ServiceName,
    plugin::Digest,
    service::{Deployment, catalogue::Service},
    swap::SwapInfo,
    telemetry,
};
use serde::Serialize;
use std::collections::BTreeSet;
use utoipa::ToSchema;

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DeploymentInfo {
    pub deployment: DeploymentId,
    pub version: String,
    #[schema(value_type = String)]
    pub digest: Digest,
    /// `<version>+<short digest>`, as in `Slotd-Plugin`.
    pub label: String,
    pub deployed_ms: u64,
    /// The operator said of it that it reads the state of every other version as it is. Another deploy
    /// or rollback to that version for which this is not said is another deployment.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub same_state: bool,
    /// Who deployed it, as the request said by `Slotd-Sender`. Nobody has checked it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Who that was shown to be: `token:NAME`, `ISSUER:SUBJECT`, `certificate:NAME`, or `root` for the listener's own token;
    /// absent if nothing was shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// The name of the key that had signed it, if the policy wanted one to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed_by: Option<String>,
}

impl From<&Deployment> for DeploymentInfo {
    fn from(d: &Deployment) -> Self {
        Self {
            deployment: d.id,
            version: d.version.clone(),
            digest: d.digest,
            label: d.label.to_string(),
            deployed_ms: d.deployed_ms,
            same_state: d.same_state,
            by: d.by.as_deref().map(Into::into),
            identity: d.identity.as_deref().map(Into::into),
            signed_by: d.signer.as_ref().map(|signer| signer.key.as_ref().into()),
        }
    }
}

impl DeploymentInfo {
    pub(crate) fn of(service: &Service, id: DeploymentId) -> Option<Self> {
        service.deployment(id).map(Self::from)
    }
}

/// A service's instances on the answering node.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ServiceMemory {
    pub instances: u64,
    /// Their memories, and the overhead per instance.
    pub bytes: u64,
    /// Compiled code of the current version, which all instances share; absent while it is not
    /// loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code_bytes: Option<u64>,
}

impl From<telemetry::ServiceMemory> for ServiceMemory {
    fn from(memory: telemetry::ServiceMemory) -> Self {
        let telemetry::ServiceMemory { instances, bytes, code_bytes } = memory;
        Self { instances, bytes, code_bytes }
    }
}

/// A deployment with the sessions that it has.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DeploymentLine {
    #[serde(flatten)]
    pub deployment: DeploymentInfo,
    /// It is what the service runs.
    pub current: bool,
    /// What `rollback` switches to by default.
    pub previous: bool,
    /// Sessions that it handled last; absent where they were not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u64>,
    /// Those of them that stay there because a later deployment did not take them over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pinned: Option<u64>,
}

/// The deploy or rollback that made a deployment current.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct SwitchedInfo {
    /// The label of what ran before, if anything did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Who requested it, as the request said by `Slotd-Sender`. Nobody has checked it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Who that was shown to be; absent if nothing was shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
}

/// Every deployment of a service.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Deployments {
    #[schema(value_type = String)]
    pub service: ServiceName,
    pub generation: u64,
    /// What made the current one current; absent if that was before slotd recorded it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub switched: Option<SwitchedInfo>,
    /// The latest first.
    pub deployments: Vec<DeploymentLine>,
    /// Nodes that did not report, with the reason: their sessions are not counted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<SilentNode>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ServiceInfo {
    #[schema(value_type = String)]
    pub service: ServiceName,
    pub current: DeploymentInfo,
    /// What `rollback` would switch to.
    pub previous: Option<DeploymentInfo>,
    pub generation: u64,
    pub memory: ServiceMemory,
    /// A version that runs in some slots first, or what became of the last one; absent if there was none since the last
    /// deploy or rollback.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryInfo>,
    pub swap: Option<SwapInfo>,
}

/// What a service's current version says of the types of its messages.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ServiceTypes {
    #[schema(value_type = String)]
    pub service: ServiceName,
    pub version: String,
    /// As in `Slotd-Plugin`.
    pub label: String,
    /// The document in the component's section `slotd:types`; null if it has none, or one of a later
    /// format.
    #[schema(value_type = Option<serde_json::Value>)]
    pub types: Option<serde_json::Value>,
}

/// The progress of a service's removal.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ServiceRemoved {
    #[schema(value_type = String)]
    pub service: ServiceName,
    /// Sessions that were deleted since the nodes started.
    pub deleted: u64,
    /// Whether everything is deleted. While false, deletion continues; repeat the request to see its
    /// progress.
    pub done: bool,
}

impl ServiceRemoved {
    pub(crate) fn new(service: ServiceName) -> Self {
        Self { service, deleted: 0, done: true }
    }

    /// Adds what one node has done; `None`: it did not report, or has not begun.
    pub(crate) fn add(&mut self, share: Option<PurgeShare>, since: u64) {
        match share.filter(|share| share.since >= since) {
            Some(share) => {
                self.deleted += share.deleted;
                self.done &= share.done;
            }
            None => self.done = false,
        }
    }
}

/// What becomes of the sessions of one deployment when another one is to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct SessionsOutlook {
    /// The label of the version that they run on.
    pub from: String,
    pub sessions: u64,
    /// Why they stay there. Absent: they switch to the version that is to run, or its `migrate`
    /// decides for each of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stays: Option<String>,
}

/// What a deploy or rollback did.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Deployed {
    #[schema(value_type = String)]
    pub service: ServiceName,
    pub current: DeploymentInfo,
    /// False: that version was already running, nothing was done.
    pub changed: bool,
    /// Set if the version that runs now is not later than all before: the sessions that ran on
    /// others, and what happens to them at their next message.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sessions: Vec<SessionsOutlook>,
    /// What the version that runs now can do outside of its sessions' state, as `http.request`, and the version before could
    /// not. Of the first version all of it.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub new_effects: BTreeSet<String>,
    /// Set if the version runs in some slots first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryInfo>,
    pub swap: Option<SwapInfo>,
    /// What came of the gate, if it went through one. While its `verdict` is `running` or `confirming`, nothing has
    /// changed yet: ask for it until it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<GateView>,
}
