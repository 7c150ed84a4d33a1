//! Named tokens: what an operator creates for a backend.

use crate::{
    identity::{NAME_RULE, is_name},
    limits,
    pattern::Pattern,
    verb::{Listener, Verb, Verbs},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    digest,
    rand::{SecureRandom as _, SystemRandom},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use std::{collections::BTreeSet, fmt};

/// The SHA-256 of a token. Tokens are kept and compared as such: they have 256 bits of randomness, so that no slow
/// function is needed, and how long a comparison takes says nothing of the token.
pub type Hash = [u8; 32];

/// The [`Hash`] of a token.
pub fn hash(token: &[u8]) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, token).as_ref());
    hash
}

/// The text of a token that was made just now. It is shown once; what is kept is its hash.
pub struct Secret {
    text: String,
    hash: Hash,
}

impl Secret {
    /// `slotd_` and 43 characters: 32 random bytes.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn generate() -> Result<Self, NoRandomness> {
        let mut bytes = [0; 32];
        SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandomness)?;
        let text = format!("slotd_{}", URL_SAFE_NO_PAD.encode(bytes));
        Ok(Self { hash: hash(text.as_bytes()), text })
    }

    /// The token itself: for whoever asked for it, and nobody else.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn hash(&self) -> Hash {
        self.hash
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("Secret(<redacted>)")
    }
}

/// The system has no randomness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system has no randomness")]
pub struct NoRandomness;

/// A token with a name, as it is stored. What a later version adds is kept.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct NamedToken {
    /// 1 to 64 of a-z, 0-9, `-` and `_`.
    pub name: String,
    #[serde(serialize_with = "to_hex", deserialize_with = "from_hex")]
    pub hash: Hash,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    /// Milliseconds since 1970. `None`: until it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    #[serde(default)]
    pub grants: Vec<Grant>,
    /// Who created it, as an identity is displayed.
    #[serde(default)]
    pub by: String,
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// What a named token may do. Verbs and patterns that this version does not know allow nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    /// Verbs; `*` for all of the API, `admin-*` for all of the admin API.
    pub allow: Vec<String>,
    /// Patterns, as in a rule of the policy.
    pub on: Vec<String>,
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// All named tokens, as they are stored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tokens {
    #[serde(default)]
    pub tokens: Vec<NamedToken>,
    /// Listeners (`api`, `admin`) of which a token has had a verb: they stay closed when it is revoked.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub closed: BTreeSet<String>,
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// Why a token is not created.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the name of a token has to be {NAME_RULE}")]
    Name,
    #[error("there is a token of this name; revoke it first")]
    Exists,
    #[error("there are {} tokens already, the most that there can be", limits::TOKENS_MAX)]
    TooMany,
    #[error("a token needs a grant, and may have {}", limits::GRANTS_MAX)]
    Grants,
    #[error("a grant needs verbs in `allow`, and 1 to {} patterns in `on`", limits::PATTERNS_MAX)]
    Empty,
    #[error("`{given}` is not a verb; there are: *, admin-*, {}", Verb::listed())]
    Verb { given: String },
    #[error("the pattern `{0}` is wrong: {1}")]
    Pattern(String, String),
    #[error("admin verbs are on services, and every pattern names sessions")]
    AdminOnSession,
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

impl Tokens {
    /// Adds a token, whose text is returned and nowhere else.
    ///
    /// # Errors
    /// If its name is not one or is taken, if a verb or pattern is wrong, or if there are 1,000 already. Nothing has
    /// changed then.
    pub fn create(
        &mut self,
        name: &str,
        grants: Vec<Grant>,
        by: &str,
        now_ms: u64,
        expires_ms: Option<u64>,
    ) -> Result<Secret, TokenError> {
        if !is_name(name) {
            return Err(TokenError::Name);
        }
        if self.tokens.iter().any(|token| token.name == name) {
            return Err(TokenError::Exists);
        }
        if self.tokens.len() >= limits::TOKENS_MAX {
            return Err(TokenError::TooMany);
        }
        if !(1..=limits::GRANTS_MAX).contains(&grants.len()) {
            return Err(TokenError::Grants);
        }
        grants.iter().try_for_each(Grant::check)?;
        let secret = Secret::generate()?;
        for listener in grants.iter().flat_map(Grant::verbs).map(Verb::listener) {
            self.closed.insert(listener.key().to_owned());
        }
        self.tokens.push(NamedToken {
            name: name.to_owned(),
            hash: secret.hash(),
            created_ms: now_ms,
            expires_ms,
            grants,
            by: by.to_owned(),
            unknown: Map::new(),
        });
        Ok(secret)
    }

    /// Whether one of them has a verb of a listener, or one that was revoked had: then it is closed to all others.
    pub fn speak_of(&self, listener: Listener) -> bool {
        let mut granted = self.tokens.iter().flat_map(|token| &token.grants).flat_map(Grant::verbs);
        self.closed.contains(listener.key()) || granted.any(|verb| verb.listener() == listener)
    }

    /// Takes a token away. Returns whether there was one.
    pub fn revoke(&mut self, name: &str) -> bool {
        let before = self.tokens.len();
        self.tokens.retain(|token| token.name != name);
        self.tokens.len() < before
    }
}

impl Grant {
    /// What it allows, as far as this version knows it.
    pub fn verbs(&self) -> impl Iterator<Item = Verb> {
        self.compile().verbs.iter()
    }

    /// Whether this version knows all of it.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), TokenError> {
        let most = Verb::ALL.len() + 2;
        if !(1..=most).contains(&self.allow.len())
            || !(1..=limits::PATTERNS_MAX).contains(&self.on.len())
        {
            return Err(TokenError::Empty);
        }
        let mut verbs = Verbs::default();
        for verb in &self.allow {
            verbs.add(Verbs::named(verb).ok_or_else(|| TokenError::Verb { given: verb.clone() })?);
        }
        let mut is_of_services = false;
        for pattern in &self.on {
            let parsed = Pattern::parse(pattern)
                .map_err(|error| TokenError::Pattern(pattern.clone(), error.to_string()))?;
            if let Some(claim) = parsed.claims().find(|claim| *claim != "sub") {
                let what = format!("a token has no claim `{claim}`");
                return Err(TokenError::Pattern(pattern.clone(), what));
            }
            is_of_services |= parsed.has_all_sessions();
        }
        if verbs.has_of(Listener::Admin) && !is_of_services {
            return Err(TokenError::AdminOnSession);
        }
        Ok(())
    }

    /// As decisions read it.
    pub(crate) fn compile(&self) -> CompiledGrant {
        let mut verbs = Verbs::default();
        let known = self.allow.iter().filter_map(|verb| Verbs::named(verb));
        known.for_each(|known| verbs.add(known));
        let on = self.on.iter().filter_map(|pattern| Pattern::parse(pattern).ok()).collect();
        CompiledGrant { verbs, on }
    }
}

pub(crate) struct CompiledGrant {
    pub(crate) verbs: Verbs,
    pub(crate) on: Vec<Pattern>,
}

/// The hash is no secret, but nobody needs it in a log.
impl fmt::Debug for NamedToken {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = to.debug_struct("NamedToken");
        debug.field("name", &self.name).field("grants", &self.grants);
        debug.field("expires_ms", &self.expires_ms).finish_non_exhaustive()
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn to_hex<S: Serializer>(hash: &Hash, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&hex(hash))
}

fn from_hex<'de, D: Deserializer<'de>>(from: D) -> Result<Hash, D::Error> {
    let text = String::deserialize(from)?;
    unhex(&text).ok_or_else(|| serde::de::Error::custom("not a SHA-256 in hexadecimal digits"))
}

fn unhex(text: &str) -> Option<Hash> {
    let digits = text.as_bytes();
    let mut hash = [0; 32];
    if digits.len() != 2 * hash.len() {
        return None;
    }
    let digit = |at: usize| char::from(digits[at]).to_digit(16);
    for (index, byte) in hash.iter_mut().enumerate() {
        *byte = u8::try_from(digit(2 * index)? << 4 | digit(2 * index + 1)?).ok()?;
    }
    Some(hash)
}
