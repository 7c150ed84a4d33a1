//! Every limit of slotd: those of the core and what it serves ([`slotd_core::limits`]), and those of the
//! command line.

mod cli;

pub use cli::*;
pub use slotd_core::limits::*;
