//! Descriptions of nodes before they communicate: identity, supported versions, the cluster's shared
//! secret, and what follows from it: keys, certificates.

pub mod authority;
pub mod identity;
pub mod keys;
pub mod member;
pub mod protocol;
pub mod secret;
