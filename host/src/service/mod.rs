//! Services: which plugin each runs, and the move of every slot from one to the next.

pub mod catalogue;
pub mod swap;
pub mod takeover;

pub use catalogue::{Catalogue, Change, Deployment};
