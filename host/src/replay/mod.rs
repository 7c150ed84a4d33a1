//! Runs histories again, beside what a node serves: the audit of what is stored, so far.
//!
//! The engine is the core's ([`crate::replay_engine`]): one session, in memory. Here is what drives it:
//!
//! - `choice` says which sessions; it is pure, and a seed gives the same sample again.
//! - `stored` reads one session as a snapshot of the store has it, and `versions` the components.
//! - `check` runs one session and compares it, and `cause` runs one that differs again, in several ways, to see what that
//!   looks like.
//! - `captured` runs one up to a message, and makes a capture of that.
//! - `job` has an audit's threads: of their own, at a low priority, within a budget of threads, memory and time. No slot
//!   knows of it: it reads what the slots have flushed.
//! - `report` is what a node says of its part; [`crate::node`] puts the parts together.

mod captured;
mod cause;
mod check;
mod choice;
mod job;
pub mod report;
mod stored;
mod versions;

pub use captured::captured;
pub use check::Progress;
pub use choice::AuditSpec;
pub use job::{Job, Parts};
pub use report::{AuditShare, Finding, Reason, Standing, add_reason};
pub use versions::Versions;
