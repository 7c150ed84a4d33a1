//! Runs histories again, beside what a node serves: the audit of what is stored, and sessions as they were. [`crate::gate`]
//! runs them on a new version, by parts of this.
//!
//! The engine is the core's ([`crate::replay_engine`]): one session, in memory. Here is what drives it:
//!
//! - `choice` says which sessions; it is pure, and a seed gives the same sample again.
//! - `slots` gives snapshots of the store, `stored` reads one session as such a one has it, and `versions` the components.
//! - `aside` has the threads: of their own, at a low priority, within a budget of them.
//! - `check` runs one session and compares it, and `cause` runs one that differs again, in several ways, to see what that
//!   looks like.
//! - `captured` runs one up to a message, and makes a capture of that.
//! - `job` is an audit, within a budget of threads, memory and time. No slot knows of it: it reads what the slots have
//!   flushed.
//! - `past` runs one session up to a message, of a history that it is given, to show what it was.
//! - `report` is what a node says of its part; [`crate::node`] puts the parts together.

pub mod aside;
mod captured;
mod cause;
pub mod check;
pub mod choice;
mod job;
pub mod past;
pub mod report;
pub mod slots;
pub mod stored;
pub mod versions;

pub use captured::captured;
pub use check::Progress;
pub use choice::AuditSpec;
pub use job::{Job, Parts};
pub use past::PastRuns;
pub use report::{AuditShare, Finding, Reason, Standing, add_reason};
pub use versions::Versions;
