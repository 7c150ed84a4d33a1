//! Clusters of real processes: log engine and nodes, on loopback or on a network of namespaces in
//! which links can be cut.

pub mod engine;
pub mod nats;
pub mod net;
pub mod place;
