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
pub mod writes;
