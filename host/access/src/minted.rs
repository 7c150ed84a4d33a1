//! Tokens that slotd mints: for one session, for a short while.

use crate::{
    claim::{self, Claims},
    crypto,
    identity::{Identity, Kind, Scope, is_subject},
    limits,
    refused::Refused,
    token::{Hash, NoRandomness},
};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use ring::{
    digest, hkdf, hmac,
    rand::{SecureRandom as _, SystemRandom},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::{fmt, sync::Arc, time::Duration};

/// `iss` of what slotd mints. No issuer of a policy can have it.
pub(crate) const ISSUER: &str = "slotd";

/// What minted tokens are signed with, and for whom: the id of the cluster, or of a lone node's data directory.
pub struct MintingKey {
    sign: EncodingKey,
    verify: DecodingKey,
    /// For fingerprints of tokens that operators have chosen, which might be guessed by a plain hash.
    tie: hmac::Key,
    audience: String,
}

impl MintingKey {
    /// Of a random key, as a lone node keeps one in its data directory.
    ///
    /// # Errors
    /// [`NoKey`] if it is all zeros: that is a file that was never written.
    pub fn new(key: &[u8; 32], audience: impl Into<String>) -> Result<Self, NoKey> {
        crypto::install();
        if *key == [0; 32] {
            return Err(NoKey);
        }
        let verify = DecodingKey::from_secret(key).map_err(|_| NoKey)?;
        let sign = EncodingKey::from_secret(key).map_err(|_| NoKey)?;
        let tie =
            digest::digest(&digest::SHA256, &[b"slotd fingerprints\n".as_slice(), key].concat());
        let tie = hmac::Key::new(hmac::HMAC_SHA256, tie.as_ref());
        Ok(Self { sign, verify, tie, audience: audience.into() })
    }

    /// Of a cluster's secret: all of its nodes have the same, and nobody learns the secret from it.
    ///
    /// # Errors
    /// [`NoKey`] if the secret is empty.
    pub fn derive(secret: &[u8], audience: impl Into<String>) -> Result<Self, NoKey> {
        if secret.is_empty() {
            return Err(NoKey);
        }
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"slotd access");
        let mut key = [0; 32];
        salt.extract(secret)
            .expand(&[b"minted tokens v1"], hkdf::HKDF_SHA256)
            .and_then(|made| made.fill(&mut key))
            .map_err(|_| NoKey)?;
        Self::new(&key, audience)
    }

    /// What tells one static token from another one, and nothing to who has not this key: browsers see what is in the
    /// tokens that they get.
    pub(crate) fn fingerprint(&self, of: &Hash) -> String {
        crate::token::hex(&hmac::sign(&self.tie, of).as_ref()[..8])
    }

    /// 32 random bytes, for [`MintingKey::new`].
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn random() -> Result<[u8; 32], NoRandomness> {
        let mut key = [0; 32];
        SystemRandom::new().fill(&mut key).map_err(|_| NoRandomness)?;
        Ok(key)
    }
}

impl fmt::Debug for MintingKey {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("MintingKey").field("audience", &self.audience).finish_non_exhaustive()
    }
}

/// There is nothing to sign with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key that minted tokens are signed with is empty")]
pub struct NoKey;

#[derive(Serialize, Deserialize)]
struct Payload {
    iss: String,
    aud: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sub: Option<String>,
    iat: u64,
    exp: u64,
    slotd: Grant,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    claims: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct Grant {
    #[serde(flatten)]
    scope: Scope,
    by: String,
    /// Which token of this name: one that is created again is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    of: Option<String>,
    /// Claims of the minter that the token itself does not have: rules look at them again whenever it is shown.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    minter: Map<String, Value>,
}

/// A minted token that is of this cluster, not altered and not expired.
pub(crate) struct Minted {
    pub(crate) identity: Identity,
    /// Who minted it, as an identity is displayed.
    pub(crate) by: Arc<str>,
    pub(crate) of: Option<String>,
    /// What the minter's issuer said of him when he minted it.
    pub(crate) by_claims: Claims,
}

/// A part of a token's hash: enough to tell tokens apart.
pub(crate) fn fingerprint(hash: &Hash) -> String {
    crate::token::hex(&crate::token::hash(hash)[..8])
}

/// What is minted, when whoever asks for it may.
pub(crate) struct Order<'a> {
    pub(crate) by: &'a Identity,
    pub(crate) of: Option<String>,
    pub(crate) scope: Scope,
    pub(crate) subject: Option<&'a str>,
    pub(crate) claims: &'a Map<String, Value>,
    pub(crate) ttl: Duration,
    pub(crate) now_ms: u64,
}

impl MintingKey {
    /// The token, and when it ends.
    pub(crate) fn mint(&self, order: Order<'_>) -> Result<(String, u64), Refused> {
        let Order { by, of, scope, subject, claims, ttl, now_ms } = order;
        if !(limits::MINTED_TTL_MIN..=limits::MINTED_TTL_MAX).contains(&ttl) {
            return Err(Refused::invalid("a token for a session lives 1 second to 1 day"));
        }
        if subject.is_some_and(|subject| !is_subject(subject)) {
            let max = limits::SUBJECT_BYTES_MAX;
            return Err(Refused::invalid(format_args!(
                "a subject has 1 to {max} bytes and no control characters"
            )));
        }
        claim::given(claims).map_err(Refused::invalid)?;
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let ends_ms = now_ms.saturating_add(ttl_ms).min(by.expires_ms.unwrap_or(u64::MAX));
        // In whole seconds, and never after the minter's own end.
        let exp = ends_ms / 1000;
        if exp * 1000 <= now_ms {
            return Err(Refused::expired());
        }
        let payload = Payload {
            iss: ISSUER.to_owned(),
            aud: self.audience.clone(),
            sub: subject.map(str::to_owned),
            iat: now_ms / 1000,
            exp,
            slotd: Grant { scope, by: by.to_string(), of, minter: beyond(by, claims) },
            claims: claims.clone(),
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &payload, &self.sign)
            .map_err(|_| Refused::invalid("the token can't be made"))?;
        if token.len() > limits::BEARER_BYTES_MAX {
            return Err(Refused::invalid("the token would be too long: it has too many claims"));
        }
        Ok((token, exp * 1000))
    }

    /// # Errors
    /// If it is not of this cluster, was altered, or has expired.
    pub(crate) fn read(&self, token: &[u8], now_ms: u64) -> Result<Minted, Refused> {
        let mut validation = Validation::new(Algorithm::HS256);
        // Looked at below, by the caller's clock.
        validation.validate_exp = false;
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[&self.audience]);
        validation.set_required_spec_claims(&["iss", "aud", "exp"]);
        let payload = jsonwebtoken::decode::<Payload>(token, &self.verify, &validation)
            .map_err(|_| Refused::unauthorized("the token is not one that was minted here"))?
            .claims;
        let skew_ms = u64::try_from(limits::MINTED_SKEW.as_millis()).unwrap_or(u64::MAX);
        if payload.iat.saturating_mul(1000) > now_ms.saturating_add(skew_ms) {
            return Err(Refused::unauthorized("the token was minted in the future"));
        }
        let expires_ms = payload.exp.saturating_mul(1000);
        if expires_ms <= now_ms {
            return Err(Refused::expired());
        }
        let wrong = || Refused::unauthorized("the token was minted by another version");
        if payload.sub.as_deref().is_some_and(|subject| !is_subject(subject)) {
            return Err(wrong());
        }
        let claims: Claims = claim::given(&payload.claims).map_err(|_| wrong())?;
        let mut by_claims = claim::given(&payload.slotd.minter).map_err(|_| wrong())?;
        by_claims.extend(claims.clone());
        let by: Arc<str> = payload.slotd.by.into();
        let kind = Kind::Minted { by: Arc::clone(&by) };
        let mut identity = Identity::new(kind, payload.sub.as_deref()).with_claims(claims);
        identity.expires_ms = Some(expires_ms);
        identity.scope = Some(Arc::new(payload.slotd.scope));
        Ok(Minted { identity, by, of: payload.slotd.of, by_claims })
    }
}

/// The claims of a minter that the token does not have. Whoever says claims as he likes has none of his own.
fn beyond(by: &Identity, claims: &Map<String, Value>) -> Map<String, Value> {
    let own = by.typed.iter().filter(|(name, _)| !claims.contains_key(*name));
    own.map(|(name, claim)| (name.clone(), claim.value())).collect()
}
