//! What comes of a request: an answer, or what went wrong, as data.

use crate::limits;
use bytes::Bytes;
use std::{fmt, time::Duration};

/// What a server has answered, whatever its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Those that are kept, by their names in small letters.
    pub headers: Vec<(String, String)>,
    /// Decompressed.
    pub body: Bytes,
    /// How long the server asks to be left alone.
    pub retry_after: Option<Duration>,
}

/// What comes of an attempt.
pub type Outcome = Result<Answer, Failure>;

/// What went wrong. A request has no other end than an [`Answer`] or this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub kind: Kind,
    /// A sentence for people: without secrets, and short enough to be kept.
    pub reason: String,
    /// Whether another attempt may help.
    pub may_retry: bool,
    /// How long the one who refused asks to be left alone.
    pub retry_after: Option<Duration>,
    /// What had come of the answer, if any of it had.
    pub so_far: Option<Box<Answer>>,
}

/// How a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The policy does not let this request, or its redirect, go there.
    Refused,
    /// The request itself is wrong.
    Invalid,
    /// It names a secret that there is not.
    SecretUnknown,
    /// Too many requests at once, or a second.
    Busy,
    /// The name has no address, or nobody said which.
    Dns,
    Connect,
    Tls,
    Timeout,
    /// The request's body, or what came, is larger than allowed.
    TooLarge,
    /// A redirect that can't be followed.
    Redirect,
    /// The server does not speak HTTP as it should, or the connection broke.
    Protocol,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Refused,
        Self::Invalid,
        Self::SecretUnknown,
        Self::Busy,
        Self::Dns,
        Self::Connect,
        Self::Tls,
        Self::Timeout,
        Self::TooLarge,
        Self::Redirect,
        Self::Protocol,
    ];

    /// Its name for handlers, rows and metrics. It does not change.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Invalid => "invalid",
            Self::SecretUnknown => "secret-unknown",
            Self::Busy => "busy",
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::TooLarge => "too-large",
            Self::Redirect => "redirect",
            Self::Protocol => "protocol",
        }
    }

    /// Whether another attempt commonly helps: what the world does may change, what the request and the policy say
    /// does not.
    const fn may_retry(self) -> bool {
        match self {
            Self::Busy | Self::Dns | Self::Connect | Self::Tls | Self::Timeout | Self::Protocol => {
                true
            }
            Self::Refused
            | Self::Invalid
            | Self::SecretUnknown
            | Self::TooLarge
            | Self::Redirect => false,
        }
    }
}

impl Failure {
    pub fn new(kind: Kind, reason: impl Into<String>) -> Self {
        let may_retry = kind.may_retry();
        Self { kind, reason: reason.into(), may_retry, retry_after: None, so_far: None }
    }

    pub(crate) fn refused(reason: impl Into<String>) -> Self {
        Self::new(Kind::Refused, reason)
    }

    pub(crate) fn invalid(reason: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, reason)
    }

    /// As short as it has to be to be kept.
    pub(crate) fn shortened(mut self) -> Self {
        let end = self.reason.floor_char_boundary(limits::REASON_BYTES_MAX);
        self.reason.truncate(end);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}: {}", self.kind.code(), self.reason)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_code_of_its_own() {
        let codes: std::collections::BTreeSet<_> = Kind::ALL.map(Kind::code).into();
        assert_eq!(codes.len(), Kind::ALL.len());
    }

    #[test]
    fn a_reason_is_cut_between_characters() {
        let long = Failure::invalid("ä".repeat(limits::REASON_BYTES_MAX)).shortened();
        assert_eq!(long.reason.len(), limits::REASON_BYTES_MAX);
        let odd = Failure::invalid(format!("a{}", "ä".repeat(limits::REASON_BYTES_MAX)));
        assert_eq!(odd.shortened().reason.len(), limits::REASON_BYTES_MAX - 1);
    }
}
