//! Why something is not allowed.

use std::fmt;

/// Why somebody may not do something. Nothing of a token is in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Refused {
    pub kind: RefusedKind,
    /// A sentence for whoever asked.
    pub detail: String,
}

/// What whoever was refused can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusedKind {
    /// Show a token that is valid (401).
    Unauthorized,
    /// Get a new token: this one has ended (401).
    Expired,
    /// Nothing: it is known who asks (403).
    Forbidden,
    /// Ask for something else: what was asked for can't be (400).
    Invalid,
    /// Try again: the issuer's keys can't be fetched now (503).
    Unavailable,
}

impl Refused {
    pub(crate) fn new(kind: RefusedKind, detail: impl fmt::Display) -> Self {
        Self { kind, detail: detail.to_string() }
    }

    pub(crate) fn unauthorized(detail: impl fmt::Display) -> Self {
        Self::new(RefusedKind::Unauthorized, detail)
    }

    pub(crate) fn expired() -> Self {
        Self::new(RefusedKind::Expired, "the token has expired")
    }

    pub(crate) fn forbidden(detail: impl fmt::Display) -> Self {
        Self::new(RefusedKind::Forbidden, detail)
    }

    pub(crate) fn invalid(detail: impl fmt::Display) -> Self {
        Self::new(RefusedKind::Invalid, detail)
    }

    pub(crate) fn unavailable(detail: impl fmt::Display) -> Self {
        Self::new(RefusedKind::Unavailable, detail)
    }
}
