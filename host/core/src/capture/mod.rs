//! A message of a session as a file: what its handler saw, and what came of it. It runs again anywhere, with no server
//! and on another component. The format is described in docs/capture.md; a file of an earlier version stays readable.
//!
//! - [`Capture`] is the file. [`Capture::parse`] reads one, [`Capture::text`] writes it.
//! - [`Captured`] is what one is made of: a [`crate::replay::Base`], a message, and what came of it.
//! - [`Redaction`] says what is left out of it. What came out is made anew then, of what is left.
//! - [`run`] runs one on a component, and [`compare`] says in what that differs.

mod content;
pub mod effects;
mod form;
mod make;
mod redact;
mod run;
#[cfg(test)]
mod tests;

pub use content::Content;
pub use form::{
    Because, Before, Capture, CausedForm, Component, EventForm, FORMAT, Kind, MessageForm,
    OutcomeForm, ReplyForm, Unreadable,
};
pub use make::Captured;
pub use redact::{Redaction, redact};
pub use run::{CantRun, Ran, Verdict, compare, run};
