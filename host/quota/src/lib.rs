//! Limits, metering and fair shares of slotd's services: what keeps one service, tenant or session from starving another.
//!
//! All of it is pure: whoever calls says what time it is, and nothing here knows slots, HTTP or a runtime. The times are
//! [`Duration`](std::time::Duration)s since any start that stays the same while the process lives.
//!
//! | module | what it decides |
//! |---|---|
//! | [`policy`] | the limits as the policy file has them: `[service.NAME.limits]`, `.subject`, `.session` |
//! | [`buckets`] | whether a message is within its rates: messages, bytes and guest time, by service, subject and session |
//! | [`headers`] | what clients are told of that: `RateLimit-Policy`, `RateLimit`, `Retry-After` |
//! | [`counts`] | how many sockets a service, a subject and a session may have, by guards |
//! | [`usage`] | what was used, by service, subject and day, kept on disk |
//! | [`shares`] | under saturation, which service's message goes now, and how long the others wait |
//! | [`share`] | how much of a bounded queue, or of memory, one service may hold |
//! | [`limits`] | the bounds of all that, with their reasons |
//!
//! The decisions are in ADR 35 (`docs/adr/0035-limits-meters-and-fair-shares.md`).
//!
//! # Where it is to be wired
//!
//! Limits are wired: `host/core/src/quota.rs`, `host/src/quota/limits.rs` (`docs/limits.md`). So is usage: `host/core/src/usage.rs`,
//! `host/src/quota/usage.rs`. Of the rest, these are the places.
//!
//! **Shares.** Ask where a message is about to take a slot's state or a place in its mailbox, on the node that has the
//! slot: `node/messages.rs` (`enqueue_uncounted`, `enqueue_ready`: a batch ends where a message has to wait), `cluster/handler.rs`,
//! `node/courier.rs` and `core/src/slot/fire.rs` for messages of effects. One line of bounded length for each service, first come
//! first served, so the order of a session's messages stays; only its first one asks, at the time that it was told or at the
//! next tick. A line that is full is `mailbox-full`. A task that wakes lines belongs beside `node/wakes.rs`.
//!
//! - `open` and `done`: an atomic by service in `telemetry/services.rs` (`ServiceMetrics`), up when a message is let through, down
//!   when its handler has ended or has left for the offload pool (`Shell::call`). Not until its commit.
//! - `time`: `elapsed` of calls, and of long ones the slices as they run.
//! - `busy`: the clock of the process's processor time, less the compilers' (`plugin/compile`, which have a nice value of
//!   their own). `idle`: what tokio's workers were parked (`RuntimeMetrics::worker_total_busy_duration`), and no more than cores
//!   times wall time less `busy`.
//! - The tick must come on time when the workers are busy: from a thread of its own, as `watchdog.rs` has one.
//!
//! **Shared queues.** `core/src/slot/shared.rs`: `Inner.mailbox` beside a [`share::Share`] by service, asked in `push`, given back in
//! `next_mail` and `end`; `MAILBOX_PASSING_SHARE` stays. `core/src/buffers.rs`: `Charge` needs to know its service, `fits` asks.
//! `core/src/plugin/budget.rs`: `try_take` asks for pages by `Account`.

pub mod buckets;
pub mod counts;
pub mod decision;
pub mod headers;
pub mod limits;
pub mod policy;
pub mod rate;
mod repeats;
pub mod share;
pub mod shares;
mod table;
pub mod usage;
