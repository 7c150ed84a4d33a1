//! Tests of real clusters: several nodes and log engines, each in a process of its own.
//!
//! They need what the system tests need, and a nats-server. Those that cut links make a network of
//! their own and need to be root for that; where they may not, they say so and pass.

mod access;
mod audit;
mod canary;
mod chaos;
mod components;
mod demo;
mod dns;
mod engine;
mod follow;
mod gate;
mod http;
mod judged;
mod killed;
mod limits;
mod lost;
mod network;
mod quorum;
mod refused;
mod replay;
mod sealed;
mod sends;
mod stopped;
mod tapped;
mod timers;
mod tls;
mod upgrade;
mod usage;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// For clusters that take all the machine has: two at once would only be slow, and slow is a fault
/// of its own.
fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}
