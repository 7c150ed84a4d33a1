//! slotd: durable sessions by name; a WebAssembly plugin handles each message.
//!
//! Folders are concepts, in the order in which a message meets them; see `docs/architecture.md`.
//!
//! A module names none that names it, by whatever way: `cargo xtask lint` looks. From below:
//! - what all name: `limits`, `level`, `text`, `error`, `names`, `buffers`, `files`, `mac`, `memory`,
//!   `random`, `backoff`, `clock`, `thread`, `telemetry`, `task`, `watchdog`;
//! - what is kept: `nats`, `log`, `database`, `state`, `storage`;
//! - what a slot does: `position`, `message`, `plugin`, `service`, `registry`, `operator`, `operation`,
//!   `slot`;
//! - what nodes are and say to each other: `peer`, `ring`, `discovery`, `membership`, `rpc`;
//! - who has which slot: `router`, `swap`, `cluster`;
//! - all of it put together: `node`, and what makes or asks one: `config`, `http`, `script`, `cli`.

// `clippy.toml` forbids what has one home in the crate; tests may use it.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

mod backoff;
pub mod buffers;
pub mod cli;
mod clock;
pub mod cluster;
pub mod config;
pub mod database;
pub mod discovery;
pub mod error;
mod files;
pub mod http;
pub mod level;
pub mod limits;
pub mod log;
mod mac;
pub mod membership;
mod memory;
pub mod message;
pub mod names;
pub mod nats;
pub mod node;
mod operation;
mod operator;
pub mod peer;
pub mod plugin;
mod position;
mod random;
pub mod registry;
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
pub mod swap;
mod task;
pub mod telemetry;
pub mod text;
mod thread;
pub mod watchdog;
