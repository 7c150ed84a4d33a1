//! Tests of the whole crate, each file of one concept.

mod decisions;
mod docs;
mod hostile;
mod issuers;
mod jwt;
mod minted;
mod patterns;
mod policy;
mod tokens;

mod keys;
mod server;

use crate::{Access, Identity, Listener, MintingKey, Policy, Refused, Verb};
use std::path::Path;

/// 30 November 2025, noon.
pub(crate) const NOW_MS: u64 = 1_764_504_000_000;
pub(crate) const NOW: u64 = NOW_MS / 1000;

pub(crate) fn minting() -> MintingKey {
    MintingKey::new(&[7; 32], "cluster-1").unwrap()
}

pub(crate) fn parse(text: &str) -> Policy {
    Policy::parse(text, Path::new("/")).unwrap_or_else(|faults| panic!("{faults:?}\n{text}"))
}

/// Without static tokens.
pub(crate) fn access(policy: &str) -> Access {
    let access = Access::new(None, None, minting());
    access.set_policy(parse(policy));
    access
}

pub(crate) fn now(access: &Access, bearer: &str) -> Result<Identity, Refused> {
    access.identify_now(Listener::Api, bearer.as_bytes(), NOW_MS).expect("no key has to be fetched")
}

pub(crate) fn may(access: &Access, identity: &Identity, verb: Verb, on: &str) -> bool {
    access.allows(verb.listener(), identity, verb, crate::On::from_text(on)).is_ok()
}

pub(crate) fn someone(text: &str) -> Identity {
    claiming(text, serde_json::json!({}))
}

pub(crate) fn claiming(text: &str, claims: serde_json::Value) -> Identity {
    Identity::from_text(text, claims.as_object().unwrap()).unwrap()
}
