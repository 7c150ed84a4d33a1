//! What nodes are to each other, before one says anything: who a node is, in which versions it speaks,
//! and the secret that all of a cluster know.

pub mod member;
pub mod protocol;
pub mod secret;
