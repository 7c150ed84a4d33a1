//! Descriptions of nodes before they communicate: identity, supported versions, and the cluster's
//! shared secret.

pub mod member;
pub mod protocol;
pub mod secret;
