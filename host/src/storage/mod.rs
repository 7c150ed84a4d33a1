//! The one database under the embedded log and the state store: opening and checking a data
//! directory, writing, failing and coming back, and the background work.
//!
//! One fjall database has one journal, so everything that is written is one sequence: a durable
//! group commit of the log makes every state change written before it durable too, and what a
//! crash leaves is a prefix of that sequence.

pub mod datadir;
pub mod engine;
mod housekeeping;
pub(crate) mod identity;
mod journal;
mod reclaim;
pub(crate) mod record;
mod recovery;
mod tables;
#[cfg(test)]
mod tests;

pub use datadir::{DataDir, StorageOptions};
pub use engine::Health;

use std::{io, path::Path};

/// Why a data directory cannot be opened. The message names the directory or the file.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("data directory {0} is in use by another slotd")]
    Locked(String),
    /// It was made with other settings than those asked for.
    #[error("data directory {0}")]
    Mismatch(String),
    /// A file is damaged. Nothing was changed.
    #[error("data file {file} is damaged: {detail}")]
    Corrupt { file: String, detail: String },
    /// The disk refused, or has no room; may work later.
    #[error("cannot open the data directory: {0}")]
    Unavailable(String),
}

impl OpenError {
    fn corrupt(file: &Path, detail: impl Into<String>) -> Self {
        Self::Corrupt { file: file.display().to_string(), detail: detail.into() }
    }
    fn io(file: &Path, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::corrupt(file, "it is missing"),
            io::ErrorKind::UnexpectedEof => Self::corrupt(file, "it ends early"),
            _ => Self::Unavailable(format!("{}: {error}", file.display())),
        }
    }
}
