//! Who is asking, and what they may do.
//!
//! Listeners hold an [`Access`] and ask it: it knows nothing of HTTP, of slots, or of where its parts are stored.
//!
//! ```text
//!   a bearer    ──> Access::identify   who is asking: an Identity, valid for one epoch
//!   a request   ──> Access::allows     may this identity do this verb on this
//!   POST token  ──> Access::mint       a token for one session
//!   an operator ──> Access::explain    why, rule by rule
//! ```
//!
//! # What it is made of
//!
//! 1. **Identities** (`identity`): the listener's static token, a named token, a JWT of an issuer, a token for one session
//!    that was minted here, a client's certificate, or nothing.
//! 2. **The policy** ([`Policy`]): a TOML file with issuers, rules, and settings of services. All that is wrong with it is
//!    said at once, by line.
//! 3. **Named tokens** ([`Tokens`]): what an operator creates for a backend, with grants of its own. Kept as hashes.
//! 4. **Decisions** (`state`): something is allowed if a grant or a rule says so. Nothing denies: the order of rules
//!    does not matter, and a rule more never takes anything away.
//! 5. **Keys of issuers** (`keys`): from a file, a URL, or a discovery document. Kept for a while, fetched by one at a
//!    time, and kept on while the issuer is down.
//!
//! # What holds
//!
//! - What claims are replaced by in patterns is literal: a `*` in a subject matches a `*`.
//! - A minted token has at most the rights of whoever minted it, for one session, and ends no later.
//! - Tokens that expire do not open a listener that their grants have closed.
//! - Whatever an issuer answers, or a client sends, what is kept of it and how long it is waited for are bounded
//!   ([`limits`]).
//! - Nothing of a token is in an error, a log, or a `Debug`.
//!
//! # Example
//!
//! ```
//! # fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use slotd_access::{Access, Grant, Listener, MintingKey, On, Policy, Scope, Tokens, Verb};
//! use std::{path::Path, time::Duration};
//!
//! let access = Access::new(None, None, MintingKey::derive(b"the cluster's secret", "cluster-1")?);
//! access.set_policy(Policy::parse(
//!     "[[rule]]\nwho = 'token:backend'\nallow = ['*']\non = 'chat'",
//!     Path::new("/etc/slotd"),
//! ).map_err(|faults| faults[0].to_string())?);
//!
//! let now_ms = 1_764_500_000_000;
//! let grant = Grant { allow: vec!["read".into()], on: vec!["carts".into()], ..Grant::default() };
//! let mut tokens = Tokens::default();
//! let secret = tokens.create("backend", vec![grant], "root", now_ms, None)?;
//! access.set_tokens(tokens);
//!
//! let backend = access.identify_now(Listener::Api, secret.text().as_bytes(), now_ms)
//!     .ok_or("a key has to be fetched")??;
//! access.allows(Listener::Api, &backend, Verb::Send, On::Session("chat", "room-1"))?;
//!
//! let scope = Scope { service: "chat".into(), session: "room-1".into(), verbs: vec![Verb::Send] };
//! let ttl = Duration::from_secs(600);
//! let (token, _expires_ms) =
//!     access.mint(&backend, scope, Some("ann"), &serde_json::Map::new(), ttl, now_ms)?;
//! let ann = access.identify_now(Listener::Api, token.as_bytes(), now_ms).ok_or("")??;
//! assert_eq!(ann.to_string(), "session:ann");
//! assert!(access.allows(Listener::Api, &ann, Verb::Send, On::Session("chat", "room-2")).is_err());
//! # Ok(())
//! # }
//! # example().unwrap();
//! ```

#![cfg_attr(test, allow(clippy::disallowed_methods))]
#![forbid(unsafe_code)]

mod access;
mod claim;
mod clock;
mod crypto;
pub mod duration;
mod explain;
mod identity;
mod jwt;
mod keys;
pub mod limits;
mod minted;
mod pattern;
mod policy;
mod refused;
pub mod signing;
mod state;
mod token;
mod verb;

#[cfg(test)]
mod tests;

pub use access::Access;
pub use explain::{Considered, Explanation};
pub use identity::{Identity, Kind, Scope};
pub use minted::{MintingKey, NoKey};
pub use policy::{Fault, Gate, Origins, Policy, Sender, ServicePolicy, SigningKey};
pub use refused::{Refused, RefusedKind};
pub use signing::PublicKey;
pub use token::{Grant, Hash, NamedToken, NoRandomness, Secret, TokenError, Tokens, hash};
pub use verb::{Listener, NoVerb, On, Verb};
