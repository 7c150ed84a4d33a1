//! slotd: a WebAssembly-pluggable sharding host.
//!
//! Folders are concepts, in the order in which a message meets them; see `docs/architecture.md`.

pub mod cli;
pub mod config;
pub mod error;
pub mod http;
pub mod limits;
pub mod log;
pub mod memory;
pub mod names;
pub mod node;
mod node_types;
pub mod plugin;
pub mod ring;
pub mod router;
pub mod service;
pub mod slot;
pub mod state;
pub mod storage;
pub mod telemetry;
