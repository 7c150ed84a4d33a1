//! slotd: durable sessions by name; a WebAssembly plugin handles each message.
//!
//! Folders are concepts, in the order in which a message meets them; see `docs/architecture.md`.

pub mod buffers;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod discovery;
pub mod error;
mod files;
pub mod http;
pub mod level;
pub mod limits;
pub mod log;
mod mac;
pub mod membership;
pub mod names;
pub mod nats;
pub mod node;
mod node_types;
mod operator;
pub mod plugin;
mod position;
pub mod ring;
pub mod router;
pub mod rpc;
pub mod script;
pub mod service;
#[cfg(test)]
mod skipped;
pub mod slot;
pub mod state;
pub mod storage;
pub mod telemetry;
pub mod text;
pub mod watchdog;
