//! Services: which plugin each runs, which it ran, what its slots and sessions are to run, and what may
//! take over a session from which.

pub mod canary;
pub mod catalogue;
pub mod compatibility;
mod deployments;
pub(crate) mod kept;
pub(crate) mod target;

pub use catalogue::Catalogue;
pub use deployments::{Author, Change, Deployment, Signer};
pub use kept::KeptPlugins;
pub use target::Target;
