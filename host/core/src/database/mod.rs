//! The one database under the embedded log and the state store: what is in it, checking it before it
//! is opened, writing, failing and coming back, and giving the space of removed rows back.
//!
//! One fjall database has one journal, so everything that is written is one sequence: a durable
//! group commit of the log makes every state change written before it durable too, and what a
//! crash leaves is a prefix of that sequence.

pub(crate) mod db;
pub(crate) mod engine;
pub(crate) mod identity;
pub(crate) mod journal;
pub(crate) mod reclaim;
pub(crate) mod record;
pub(crate) mod rows;
pub(crate) mod tables;
#[cfg(test)]
mod tests;

pub use engine::Health;

use crate::{limits, seal::Keyring};
use std::{io, path::Path};

/// What an operator may set.
#[derive(Clone, Debug)]
pub struct StorageOptions {
    /// Slots; fixed for the life of a data directory.
    pub slot_count: u16,
    /// The log is a cluster's, and only the state is here; fixed like the slots.
    pub clustered: bool,
    /// Memory for blocks read from tables.
    pub block_cache_bytes: u64,
    /// Free bytes on the disk below which writes are refused.
    pub reserve_bytes: u64,
    /// Bytes of tables up to which all of them are checked before the directory is served.
    pub verify_bytes_max: u64,
    /// What is written is sealed, if there are any.
    pub keys: Keyring,
}

impl Default for StorageOptions {
    fn default() -> Self {
        Self {
            slot_count: limits::SLOT_COUNT_DEFAULT,
            clustered: false,
            block_cache_bytes: limits::BLOCK_CACHE_BYTES_DEFAULT,
            reserve_bytes: limits::DISK_RESERVE_BYTES_DEFAULT,
            verify_bytes_max: limits::VERIFY_AT_OPEN_BYTES_MAX,
            keys: Keyring::default(),
        }
    }
}

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
    pub(crate) fn corrupt(file: &Path, detail: impl Into<String>) -> Self {
        Self::Corrupt { file: file.display().to_string(), detail: detail.into() }
    }
    pub(crate) fn io(file: &Path, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::corrupt(file, "it is missing"),
            io::ErrorKind::UnexpectedEof => Self::corrupt(file, "it ends early"),
            _ => Self::Unavailable(format!("{}: {error}", file.display())),
        }
    }
}
