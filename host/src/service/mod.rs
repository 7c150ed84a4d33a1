//! Services: which plugin each runs, which it ran, what its slots and sessions are to run, and what may
//! take over a session from which.

pub mod catalogue;
mod deployments;
pub mod kept;
pub mod takeover;
pub mod target;

pub use catalogue::Catalogue;
pub use deployments::{Change, Deployment};
pub use kept::KeptPlugins;
pub use target::Target;

use crate::{log::record::DeploymentId, plugin::Digest};
use serde::Serialize;
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
    /// It was deployed with `same_state`: it reads the state of every other version as it is. A deploy
    /// or rollback to the same version without `same_state` is another deployment.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub same_state: bool,
    /// Who deployed it, if the request had `Slotd-Sender`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}
