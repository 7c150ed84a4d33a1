//! Captures that a node keeps: messages that handlers have failed, with the session as it was before. The format is the
//! core's ([`crate::capture`]).
//!
//! - `redactions` says what of a service is left out, as the policy has it.
//! - `store` has the files: so many of one component and kind, sealed if the data directory is.
//! - `keeper` takes what slots hand over, redacts it and has it written, on a thread of a low priority.

mod keeper;
mod redactions;
mod store;

pub use keeper::{Keeper, Parts};
pub use redactions::{Redactions, check};
pub use store::{CaptureInfo, Store};
