//! A node's data directory: the embedded log and the state store over one database ([`crate::database`]).
//! Opening and checking it, coming back after a failure, and the background work.

pub(crate) mod datadir;
mod housekeeping;
pub(crate) mod log;
mod recovery;
mod reseal;
mod state;
#[cfg(test)]
mod tests;

pub use datadir::DataDir;
pub use reseal::Progress as ResealProgress;
