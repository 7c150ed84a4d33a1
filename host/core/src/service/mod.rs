//! Services: which plugin each runs, which it ran, what its slots and sessions are to run, and what may
//! take over a session from which.

pub mod catalogue;
pub(crate) mod kept;
pub mod takeover;
pub(crate) mod target;

pub use catalogue::{Catalogue, Change, Deployment};
pub use kept::KeptPlugins;
pub use target::Target;
