//! The public keys of issuers.

mod remote;

pub(crate) use remote::{Remote, RemoteKeys, is_fetchable};

use crate::{crypto, limits, minted, token::hash};
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;
use std::fmt;

/// The keys of a JWKS that can check signatures. The others (symmetric ones, those for encryption, curves that are not
/// known) are as if they were not there.
pub(crate) struct KeySet(Vec<Key>);

pub(crate) struct Key {
    id: Option<String>,
    /// Of what it is made of, whatever its name: what it has let in is tied to it.
    pub(crate) fingerprint: Box<str>,
    algorithms: Vec<Algorithm>,
    /// As it came: to see whether it is still there.
    jwk: Jwk,
    pub(crate) key: DecodingKey,
}

/// Why something is no JWKS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeysError {
    #[error("it is not a JWKS: JSON with a list `keys`")]
    Form,
    #[error("it has more than {} keys", limits::KEYS_MAX)]
    TooMany,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

impl KeySet {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, KeysError> {
        crypto::install();
        let set: Set = serde_json::from_slice(bytes).map_err(|_| KeysError::Form)?;
        if set.keys.len() > limits::KEYS_MAX {
            return Err(KeysError::TooMany);
        }
        Ok(Self(set.keys.into_iter().filter_map(Key::of).collect()))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys that a token's signature is tried with: those of this id, if it names one, that are for its algorithm.
    pub(crate) fn of<'a>(
        &'a self,
        id: Option<&'a str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &'a Key> {
        let fits = move |key: &&Key| {
            key.algorithms.contains(&algorithm) && id.is_none_or(|id| key.id.as_deref() == Some(id))
        };
        self.0.iter().filter(fits).take(limits::KEYS_TRIED_MAX)
    }

    /// Whether it has the key of this fingerprint.
    pub(crate) fn has(&self, fingerprint: &str) -> bool {
        self.0.iter().any(|key| *key.fingerprint == *fingerprint)
    }

    /// The names of its keys, for a person.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|key| key.id.as_deref().unwrap_or("(one without a name)"))
    }

    /// Whether this one lacks a key that the other one has.
    pub(crate) fn lacks_of(&self, other: &Self) -> bool {
        other.0.iter().any(|key| !self.0.iter().any(|it| it.jwk == key.jwk))
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_list().entries(self.0.iter().map(|key| &key.id)).finish()
    }
}

impl Key {
    fn of(value: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        let common = &jwk.common;
        let is_signing = common
            .public_key_use
            .as_ref()
            .is_none_or(|it| *it == PublicKeyUse::Signature)
            && common.key_operations.as_ref().is_none_or(|it| it.contains(&KeyOperations::Verify));
        let id = common.key_id.clone();
        if !is_signing || id.as_ref().is_some_and(|id| id.len() > limits::KEY_ID_BYTES_MAX) {
            return None;
        }
        let mut algorithms = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => vec![
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ],
            AlgorithmParameters::EllipticCurve(it) => match it.curve {
                EllipticCurve::P256 => vec![Algorithm::ES256],
                EllipticCurve::P384 => vec![Algorithm::ES384],
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(it) => match it.curve {
                EllipticCurve::Ed25519 => vec![Algorithm::EdDSA],
                _ => return None,
            },
            // Whoever can check what such a key signs can sign, too.
            _ => return None,
        };
        if let Some(only) = common.key_algorithm {
            algorithms.retain(|algorithm| KeyAlgorithm::from(*algorithm) == only);
        }
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        let made_of = serde_json::to_vec(&jwk.algorithm).ok()?;
        let fingerprint = minted::fingerprint(&hash(&made_of)).into();
        Some(Self { id, fingerprint, algorithms, key, jwk })
    }
}
