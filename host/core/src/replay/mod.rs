//! Runs a session's history again: in memory, away from slots and from what is stored.
//!
//! What a handler computes follows from its session's state, the message and its component. A session's history has
//! the messages, with their times, their origins and the deployments that handled them; random bytes come from names
//! and sequence numbers. So what was stored comes out again, and whatever else comes out is a difference.
//!
//! - [`Replay`] is one session in memory. [`Replay::step`] runs one entry of a history on a [`Version`] and gives what
//!   came out, an [`Outcome`]; which version that is, is for the caller to say.
//! - A replay begins at nothing, or at a [`Base`]: a state at a place of a history.
//! - [`Instances`] are those of one thread. Whether they are used again shows whether a component keeps something.
//! - [`Replay::query`] asks the session as it is there, and [`Replay::place`] describes it.
//! - [`Seen`] is what can be compared, of an entry or of an outcome; [`compare`] says in what the outcomes of two versions
//!   differ, as the [gate](crate::gate) groups it.
//!
//! It plans nothing and starts nothing: who runs it chooses sessions, reads their history, and keeps to a budget.

mod ask;
pub mod compare;
mod instances;
mod nothing;
mod outcome;
mod session;
#[cfg(test)]
mod tests;

pub use ask::{Place, Question};
pub use instances::{Instances, Version};
pub use outcome::{Difference, Outcome, Replied, Seen, What, differences, shown};
pub(crate) use outcome::{of_bytes, of_text};
pub use session::{Base, Handled, Refused, Replay, Runs, Step, Unable};
