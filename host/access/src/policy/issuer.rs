//! Who issues JWTs, and where its keys are.

use crate::keys::{KeySet, Remote};
use jsonwebtoken::Algorithm;
use std::sync::Arc;

/// One `[[issuer]]`.
#[derive(Debug)]
pub(crate) struct Issuer {
    pub(crate) name: Arc<str>,
    /// Compared exactly with `iss`.
    pub(crate) issuer: String,
    pub(crate) audience: Vec<String>,
    pub(crate) algorithms: Vec<Algorithm>,
    pub(crate) skew_ms: u64,
    /// The claim that identities have their subject from: `sub`, unless the table says otherwise.
    pub(crate) subject: Box<str>,
    /// Those that identities have besides.
    pub(crate) claims: Vec<String>,
    pub(crate) keys: KeySource,
}

/// Where an issuer's keys come from.
#[derive(Debug)]
pub(crate) enum KeySource {
    /// A file, which was read with the policy.
    File(Arc<KeySet>),
    Url(Arc<Remote>),
}

/// What tokens may be signed with. Never `none`, and never an HMAC: whoever can check such a token can make one.
pub(super) const ALGORITHMS: [(&str, Algorithm); 9] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

/// Unless the table says otherwise.
pub(super) const ALGORITHMS_DEFAULT: [Algorithm; 3] =
    [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

impl Issuer {
    /// Whether it still has the key of this fingerprint, as far as that is known.
    pub(crate) fn may_have(&self, key: &str, now_ms: u64) -> bool {
        match &self.keys {
            KeySource::File(set) => set.has(key),
            KeySource::Url(remote) => remote.may_have(key, now_ms),
        }
    }

    /// The same one with keys that are there already.
    pub(crate) fn with_keys(&self, keys: Arc<Remote>) -> Self {
        Self {
            name: Arc::clone(&self.name),
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
            algorithms: self.algorithms.clone(),
            skew_ms: self.skew_ms,
            subject: self.subject.clone(),
            claims: self.claims.clone(),
            keys: KeySource::Url(keys),
        }
    }
}
