//! What services may use and what they have used: the node's part. The decisions are `slotd-quota`'s.

mod limits;
pub mod shares;
pub mod usage;

pub use self::limits::{Limiter, Told};
pub use slotd_core::quota::Quota;
