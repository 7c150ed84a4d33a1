//! Who is asking.

use crate::{
    claim::{Claim, Claims},
    limits,
    refused::Refused,
    verb::{Verb, Verbs},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// Who is asking, as it was shown. Displayed as `KIND:SUBJECT`.
///
/// It is valid for one epoch of its [`Access`](crate::Access), and until `expires_ms`: whoever keeps one looks at both.
#[derive(Clone, Debug)]
pub struct Identity {
    pub kind: Kind,
    /// 1 to 256 bytes without control characters.
    pub subject: Option<Arc<str>>,
    /// What its issuer says of it besides, as text. Lists are joined by commas. At most 32, and 4 KiB.
    pub claims: Arc<BTreeMap<String, String>>,
    /// Milliseconds since 1970, an issuer's `skew` included. `None`: it does not end.
    pub expires_ms: Option<u64>,
    /// Of a minted token: all that it may do.
    pub scope: Option<Arc<Scope>>,
    /// Of a minted token: what its minter could give on its session in this epoch, whatever its scope has.
    pub(crate) given: Verbs,
    /// The key of its issuer that has signed for it.
    pub(crate) key: Option<Box<str>>,
    /// The claims by their types: a text with a comma is no list.
    pub(crate) typed: Arc<Claims>,
}

/// Who says who it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Nothing was shown.
    Anyone,
    /// The listener's static token.
    Root,
    /// A named token.
    Token(Arc<str>),
    /// A JWT of the issuer of this name.
    Issuer(Arc<str>),
    /// A token for one session.
    Minted {
        /// Who minted it, as an identity is displayed.
        by: Arc<str>,
    },
    /// A client's certificate.
    Certificate(Arc<str>),
}

impl Kind {
    /// What is before the `:`: `token`, `session`, an issuer's name.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Anyone => "anyone",
            Self::Root => "root",
            Self::Token(_) => "token",
            Self::Issuer(name) => name,
            Self::Minted { .. } => "session",
            Self::Certificate(_) => "certificate",
        }
    }
}

/// What issuers can't be named, since an identity would be taken for another one.
pub(crate) const RESERVED: [&str; 5] = ["anyone", "root", "token", "session", "certificate"];

/// What a minted token may do: these verbs on this session, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    pub service: String,
    pub session: String,
    pub verbs: Vec<Verb>,
}

impl Identity {
    pub(crate) fn new(kind: Kind, subject: Option<&str>) -> Self {
        Self {
            kind,
            subject: subject.map(Arc::from),
            claims: Arc::default(),
            expires_ms: None,
            scope: None,
            given: Verbs::default(),
            key: None,
            typed: Arc::default(),
        }
    }

    pub(crate) fn named(kind: fn(Arc<str>) -> Kind, name: &Arc<str>) -> Self {
        let mut identity = Self::new(kind(Arc::clone(name)), None);
        identity.subject = Some(Arc::clone(name));
        identity
    }

    pub(crate) fn with_claims(mut self, claims: Claims) -> Self {
        let text = |(name, claim): (&String, &Claim)| (name.clone(), claim.text());
        self.claims = Arc::new(claims.iter().map(text).collect());
        self.typed = Arc::new(claims);
        self
    }

    /// As it is displayed, to explain what somebody could do who is not here: `anyone`, `root`, `token:NAME`,
    /// `ISSUER:SUBJECT`, `certificate:NAME`, with these claims.
    ///
    /// # Errors
    /// [`Forbidden`](crate::RefusedKind::Forbidden) if the text or a claim is not one.
    pub fn from_text(
        text: &str,
        claims: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<Self, Refused> {
        let claims = crate::claim::given(claims).map_err(Refused::forbidden)?;
        let identity = match (text, text.split_once(':')) {
            ("anyone", _) => Self::new(Kind::Anyone, None),
            ("root", _) => Self::new(Kind::Root, None),
            (_, Some((kind, subject))) if is_subject(subject) => {
                let name: Arc<str> = subject.into();
                match kind {
                    "token" => Self::named(Kind::Token, &name),
                    "certificate" => Self::named(Kind::Certificate, &name),
                    kind if is_name(kind) && !RESERVED.contains(&kind) => {
                        Self::new(Kind::Issuer(kind.into()), Some(subject))
                    }
                    _ => {
                        return Err(Refused::forbidden(
                            "what such an identity may do is in its token only",
                        ));
                    }
                }
            }
            _ => {
                let what = "an identity is `anyone`, `root`, `token:NAME`, `ISSUER:SUBJECT` or `certificate:NAME`";
                return Err(Refused::forbidden(what));
            }
        };
        Ok(identity.with_claims(claims))
    }

    /// What `{name}` of a pattern stands for: text that is not empty. An empty one would make `{org}*` a `*`.
    pub(crate) fn text_of(&self, name: &str) -> Option<&str> {
        let text = match name {
            "sub" => self.subject.as_deref()?,
            name => match self.typed.get(name)? {
                Claim::Text(text) => text,
                Claim::Number(_) | Claim::Boolean(_) | Claim::List(_) => return None,
            },
        };
        (!text.is_empty()).then_some(text)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(self.kind.as_str())?;
        match &self.subject {
            Some(subject) => write!(to, ":{subject}"),
            None => Ok(()),
        }
    }
}

pub(crate) fn is_subject(text: &str) -> bool {
    (1..=limits::SUBJECT_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// Of tokens, issuers and keys: as those of services.
pub(crate) fn is_name(text: &str) -> bool {
    let is_part = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_'
    };
    (1..=limits::NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(is_part)
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
}

/// Of services: with dots, too.
pub(crate) fn is_service(text: &str) -> bool {
    text.len() <= limits::NAME_BYTES_MAX
        && is_name(&text.replace('.', "-"))
        && !text.starts_with('.')
}

/// What [`is_name`] asks for, as an error says it.
pub(crate) const NAME_RULE: &str =
    "1 to 64 of a-z, 0-9, - and _, beginning with a letter or a digit";
