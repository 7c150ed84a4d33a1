//! What a rule is on: `SERVICE/SESSION` with wildcards and claims.

use crate::{claim, identity::Identity, limits, verb::On};
use std::fmt;

/// `SERVICE/SESSION`. In each part `*` stands for any number of characters, `{sub}` for the identity's subject, and
/// `{claim}` for a claim of it. Without a `/` it is a service with all of its sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    text: Box<str>,
    service: Glob,
    /// `None`: all of them.
    session: Option<Glob>,
}

/// What is wrong with a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PatternError {
    #[error("longer than {} bytes", limits::PATTERN_BYTES_MAX)]
    TooLong,
    #[error("a part of it is empty")]
    Empty,
    #[error("a `{{` without its `}}`, or the other way round")]
    Brace,
    #[error("the name in braces is not one of a claim")]
    Claim,
}

impl Pattern {
    pub(crate) fn parse(text: &str) -> Result<Self, PatternError> {
        if text.len() > limits::PATTERN_BYTES_MAX {
            return Err(PatternError::TooLong);
        }
        let (service, session) = match split(text) {
            Some((service, session)) => (service, Some(Glob::parse(session)?)),
            None => (text, None),
        };
        Ok(Self { text: text.into(), service: Glob::parse(service)?, session })
    }

    /// Whether it covers all of `on` for this identity.
    pub(crate) fn covers(&self, on: On<'_>, identity: &Identity) -> bool {
        // Also where the claim's part need not be looked at: a claim that is absent matches nothing.
        if !self.claims().all(|claim| identity.text_of(claim).is_some()) {
            return false;
        }
        let (service, session) = (&self.service, self.session.as_ref());
        match on {
            On::Session(name, id) => {
                service.matches(name, identity) && session.is_none_or(|it| it.matches(id, identity))
            }
            On::Prefix(name, prefix) => {
                service.matches(name, identity)
                    && session.is_none_or(|it| it.matches_all_from(prefix, identity))
            }
            On::Service(name) => service.matches(name, identity) && self.has_all_sessions(),
            On::Nothing => service.is_all() && self.has_all_sessions(),
        }
    }

    /// Whether it is of whole services.
    pub(crate) fn has_all_sessions(&self) -> bool {
        self.session.as_ref().is_none_or(Glob::is_all)
    }

    /// The claims that it names, `sub` among them.
    pub(crate) fn claims(&self) -> impl Iterator<Item = &str> {
        let pieces = self.session.iter().flat_map(|session| &session.0).chain(&self.service.0);
        pieces.filter_map(|piece| match piece {
            Piece::Claim(name) => Some(&**name),
            Piece::Text(_) | Piece::Any => None,
        })
    }
}

/// At the first `/` that is not within braces: names of claims may be URLs.
fn split(text: &str) -> Option<(&str, &str)> {
    let mut is_within = false;
    let at = text.find(|character| {
        match character {
            '{' => is_within = true,
            '}' => is_within = false,
            _ => {}
        }
        character == '/' && !is_within
    })?;
    Some((&text[..at], &text[at + 1..]))
}

impl fmt::Display for Pattern {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.text)
    }
}

/// One part of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Glob(Box<[Piece]>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Box<str>),
    Any,
    Claim(Box<str>),
}

impl Glob {
    fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('*') {
                // Two in a row are one.
                if pieces.last() != Some(&Piece::Any) {
                    pieces.push(Piece::Any);
                }
                rest = after;
            } else if let Some(after) = rest.strip_prefix('{') {
                let (name, after) = after.split_once('}').ok_or(PatternError::Brace)?;
                if name != "sub" && !claim::is_name(name) {
                    return Err(PatternError::Claim);
                }
                pieces.push(Piece::Claim(name.into()));
                rest = after;
            } else {
                let end = rest.find(['*', '{']).unwrap_or(rest.len());
                let (text, after) = rest.split_at(end);
                if text.contains('}') {
                    return Err(PatternError::Brace);
                }
                pieces.push(Piece::Text(text.into()));
                rest = after;
            }
        }
        Ok(Self(pieces.into()))
    }

    /// A glob without claims, as those of `who` are.
    pub(crate) fn parse_plain(text: &str) -> Result<Self, PatternError> {
        let glob = Self::parse(text)?;
        match glob.0.iter().any(|piece| matches!(piece, Piece::Claim(_))) {
            true => Err(PatternError::Brace),
            false => Ok(glob),
        }
    }

    fn is_all(&self) -> bool {
        matches!(*self.0, [Piece::Any])
    }

    /// What a claim is replaced by is taken literally.
    pub(crate) fn matches(&self, text: &str, identity: &Identity) -> bool {
        let text = text.as_bytes();
        let (mut piece, mut at) = (0, 0);
        // The piece after the last `*`, and where it was tried. It never has to be an earlier `*` that takes more:
        // what the last one can't mend, they can't.
        let mut again: Option<(usize, usize)> = None;
        loop {
            let literal = match self.0.get(piece) {
                None if at == text.len() => return true,
                None => None,
                Some(Piece::Any) => {
                    piece += 1;
                    again = Some((piece, at));
                    continue;
                }
                Some(Piece::Text(literal)) => Some(&**literal),
                Some(Piece::Claim(name)) => match identity.text_of(name) {
                    Some(literal) => Some(literal),
                    None => return false,
                },
            };
            match literal {
                Some(literal) if text[at..].starts_with(literal.as_bytes()) => {
                    piece += 1;
                    at += literal.len();
                }
                _ => match &mut again {
                    Some((after, tried)) if *tried < text.len() => {
                        *tried += 1;
                        (piece, at) = (*after, *tried);
                    }
                    _ => return false,
                },
            }
        }
    }

    /// Whether it matches every text that begins so. If it does, it matches the prefix itself and has a `*` at its
    /// end: else there is a text that ends otherwise. And then it does, since that `*` takes what follows.
    fn matches_all_from(&self, prefix: &str, identity: &Identity) -> bool {
        self.0.last() == Some(&Piece::Any) && self.matches(prefix, identity)
    }
}
