//! TLS from files in PEM: certificates, keys, and what a client of TLS makes of them.
//!
//! The provider of cryptography is named wherever a configuration is made: the process has no default
//! that all libraries would agree on.

mod client;
pub mod pem;

pub use client::ClientFiles;
