//! The gate: what a new version does differently, seen before a slot runs it.
//!
//! What is here computes and starts nothing: what is asked for ([`GateSpec`]), what was found ([`GateReport`]), and how
//! the one follows from the other. Who runs sessions on two versions is above.

pub mod interface;
pub(crate) mod path;
pub mod record;
pub mod report;
pub mod spec;
pub mod verdict;

pub use record::{GateRecord, Phase, Remembered};
pub use report::{
    Cost, Example, GateReport, GateShare, Group, Kind, Reason, Spread, Stage, StageResult, Standing,
};
pub use spec::{GateSpec, Ignore, Mode, Want};
