//! slotd's core: what is kept, and what a slot does. It has no listener, no peers and no command line.
//!
//! `slotd` above it has those. What is public here is what that crate uses; see
//! `docs/architecture.md`.
//!
//! A module names none that names it, by whatever way: `cargo xtask lint` looks. From below:
//! - what all name: `limits`, `level`, `text`, `error`, `names`, `loads`, `buffers`, `mac`, `memory`, `modes`, `random`,
//!   `seal`, `backoff`, `clock`, `thread`, `telemetry`, `task`;
//! - what is kept: `nats`, `client`, `effects`, `log`, `database`, `state`, `storage`;
//! - what a slot does: `position`, `message`, `quota`, `plugin`, `service`, `gate`, which says what a new version has to be, `registry`, `audit`, `operator`, `operation`,
//!   `slot`; `script`, which plays messages to one without a node; `sim`, which makes them; `replay`,
//!   which runs a history again; `capture`, which has one message of a history as a file.
//!
//! With the feature `testing` there is what the tests of both crates share: `testing`,
//! `plugin::testkit` and `telemetry::captured_log`.

// `clippy.toml` forbids what has one home in the crate; tests may use it.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod audit;
pub mod backoff;
pub mod buffers;
pub mod capture;
pub mod client;
pub mod clock;
pub mod database;
pub mod effects;
pub mod error;
pub mod gate;
pub mod level;
pub mod limits;
pub mod loads;
pub mod log;
pub mod mac;
pub mod memory;
pub mod message;
pub mod modes;
pub mod names;
pub mod nats;
pub mod operation;
pub mod operator;
pub mod plugin;
pub mod position;
pub mod quota;
pub mod random;
pub mod registry;
pub mod replay;
pub mod script;
pub mod seal;
pub mod service;
pub mod sim;
pub mod slot;
pub mod state;
pub mod storage;
pub mod task;
pub mod telemetry;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod text;
pub mod thread;
pub mod tls;
pub mod trace;
pub mod usage;
