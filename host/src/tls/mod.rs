//! TLS of the listeners: certificates in files, which are read again when they change.
//!
//! Links between nodes have certificates of their own (`peer`).

pub mod authority;
pub mod certificate;
mod listener;

pub use slotd_core::tls::{ClientFiles, pem};

pub use listener::{Certified, ListenerFiles, ListenerTls};
