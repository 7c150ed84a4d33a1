//! A cluster of nodes: who is in it, who owns which slot, and how slots move.
//!
//! Membership is a hint for liveness and the ring proposes; the slot's log decides who owns it.

pub mod member;
#[cfg(test)]
pub(crate) mod nats_for_tests;
pub mod registry;
