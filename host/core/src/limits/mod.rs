//! Every limit of slotd but those of its command line (`host/src/limits/`), each with its reason and
//! unit. Those that an operator may want to change have a key in the configuration (`config/keys.rs`),
//! whose default stands here. Code uses them as `limits::X`; they are grouped by what they limit:
//!
//! | file | limits of |
//! |---|---|
//! | `name.rs` | names, and what texts may quote |
//! | `session.rs` | messages and sessions: bodies, pages, state, corrections, imports, deletes |
//! | `effects.rs` | effects of handlers: timers, messages that fail |
//! | `shares.rs` | shares of a busy node |
//! | `slot.rs` | slots: mailboxes, batches, flushes, caches, and catching up with the log |
//! | `service.rs` | services: deployments, swaps, removal, counts |
//! | `plugin.rs` | plugins at work: calls, host calls, instances and their memory |
//! | `component.rs` | components: uploads, compiling, and what one may be made of |
//! | `access.rs` | who may do what: tokens, the policy |
//! | `http.rs` | the listeners: connections, uploads, event streams, WebSockets |
//! | `store.rs` | the data directory: disk space, caches, the single node's log, the state store |
//! | `log.rs` | the log of slots, in a cluster on JetStream |
//! | `snapshot.rs` | snapshots of slots |
//! | `cluster.rs` | clusters: feature levels, forwarding, moves of slots, fitness, joining |
//! | `membership.rs` | discovery and membership: DNS, datagrams, probes, greetings, leaving |
//! | `peer.rs` | links between nodes, and the cluster's secret |
//! | `replay.rs` | histories that are run again: threads, memory, time, what a report has |
//! | `gate.rs` | the gate: samples, time, what its report has |
//! | `capture.rs` | messages that are kept as files: sizes, and how many |
//! | `registry.rs` | the registry of a cluster: catalogue, placement, components |
//! | `nats.rs` | connections to NATS servers, and those that slotd starts |
//! | `audit.rs` | the audit log: lines, files, what is kept |
//! | `script.rs` | scripts and simulations for authors of plugins |
//! | `node.rs` | the process: configuration files, threads, the watchdog, start and stop |
//! | `output.rs` | log lines, standard output and error |

mod access;
mod audit;
mod capture;
mod cluster;
mod component;
mod effects;
mod gate;
mod http;
mod log;
mod membership;
mod name;
mod nats;
mod node;
mod output;
mod peer;
mod plugin;
mod registry;
mod replay;
mod script;
mod service;
mod session;
mod shares;
mod slot;
mod snapshot;
mod store;

pub use access::*;
pub use audit::*;
pub use capture::*;
pub use cluster::*;
pub use component::*;
pub use effects::*;
pub use gate::*;
pub use http::*;
pub use log::*;
pub use membership::*;
pub use name::*;
pub use nats::*;
pub use node::*;
pub use output::*;
pub use peer::*;
pub use plugin::*;
pub use registry::*;
pub use replay::*;
pub use script::*;
pub use service::*;
pub use session::*;
pub use shares::*;
pub use slot::*;
pub use snapshot::*;
pub use store::*;
