//! slotd: durable sessions by name; a WebAssembly plugin handles each message.
//!
//! Folders are concepts, in the order in which a message meets them; see `docs/architecture.md`.
//!
//! What is kept and what a slot does is `slotd-core` (`core/`); its modules are named here as if they
//! were of this crate. This crate has the nodes, their listeners and the command line. It shows `cli`
//! alone, so that the compiler reports what nothing uses.
//!
//! A module names none that names it, by whatever way: `cargo xtask lint` looks. From below:
//! - what all name: `limits`, `files`, `tls`, `watchdog`, `requests`, `signing`;
//! - what nodes are and say to each other: `peer`, `ring`, `discovery`, `membership`, `rpc`;
//! - who may do what: `access`;
//! - what services may use of a node, and have used: `quota`;
//! - what runs histories again: `replay`, and on a new version: `gate`; and what keeps messages that failed: `captures`;
//! - who has which slot: `router`, `swap`, `cluster`;
//! - all of it put together: `node`, and what makes or asks one: `config`, `http`, `cli`.

// `clippy.toml` forbids what has one home in the crate; tests may use it.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

mod access;
mod captures;
pub mod cli;
mod cluster;
mod config;
mod discovery;
mod files;
// The commands that begin one are a change of their own.
mod gate;
mod http;
mod limits;
mod membership;
mod node;
mod peer;
mod quota;
mod replay;
mod requests;
mod ring;
mod router;
mod rpc;
mod signing;
mod swap;
mod tls;
mod watchdog;

/// What a gate is asked for and reports; `gate` here runs it.
pub(crate) use slotd_core::gate as gate_report;
/// Runs one session's history; `replay` here drives it.
pub(crate) use slotd_core::replay as replay_engine;
#[cfg(test)]
pub(crate) use slotd_core::testing;
pub(crate) use slotd_core::{
    audit, backoff, buffers, capture, clock, database, effects, error, level, loads, log, mac,
    memory, message, modes, names, nats, operation, operator, plugin, position, random, registry,
    script, seal, service, sim, slot, state, storage, task, telemetry, text, thread, trace, usage,
};
