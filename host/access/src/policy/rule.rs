//! A rule: who may do what, on what, and when.

use crate::{
    claim::Claim,
    identity::{Identity, Kind},
    pattern::{Glob, Pattern, PatternError},
    verb::{On, Verb, Verbs},
};
use std::fmt;

/// One `[[rule]]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rule {
    pub(crate) who: Vec<Who>,
    pub(crate) verbs: Verbs,
    pub(crate) on: Vec<Pattern>,
    /// All of them have to be so.
    pub(crate) when: Vec<(String, Claim)>,
    pub(crate) line: Option<usize>,
}

/// Whom a rule is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// Everybody, shown or not.
    Anyone,
    Named {
        kind: Box<str>,
        subject: Glob,
        text: Box<str>,
    },
}

/// What is wrong with a `who`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WhoError {
    #[error(
        "it is `anyone`, `token:NAME`, `ISSUER:SUBJECT` or `certificate:NAME`; the part after the `:` may have `*`"
    )]
    Form,
    #[error("`root` may do everything on its listener already")]
    Root,
    #[error("a token for a session may do what it says, and rules do not change that")]
    Session,
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

impl Who {
    pub(crate) fn parse(text: &str) -> Result<Self, WhoError> {
        let (kind, subject) = match (text, text.split_once(':')) {
            ("anyone", _) => return Ok(Self::Anyone),
            ("root", _) | (_, Some(("root", _))) => return Err(WhoError::Root),
            (_, Some(("session", _))) => return Err(WhoError::Session),
            (_, Some(("anyone", _))) | (_, None) => return Err(WhoError::Form),
            (_, Some(parts)) => parts,
        };
        if !crate::identity::is_name(kind) {
            return Err(WhoError::Form);
        }
        let subject = Glob::parse_plain(subject)?;
        Ok(Self::Named { kind: kind.into(), subject, text: text.into() })
    }

    fn is(&self, identity: &Identity) -> bool {
        match (self, &identity.kind, &identity.subject) {
            // Their rights are their own, and nobody's else.
            (_, Kind::Root | Kind::Minted { .. }, _) => false,
            (Self::Anyone, ..) => true,
            (Self::Named { kind, subject, .. }, is, Some(name)) => {
                **kind == *is.as_str() && subject.matches(name, identity)
            }
            (Self::Named { .. }, _, None) => false,
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Anyone => "anyone",
            Self::Named { text, .. } => text,
        })
    }
}

/// Why a rule or a grant does not allow something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unmatched {
    Who,
    Verb,
    /// The claim that is not as `when` has it.
    When(String),
    On,
}

impl fmt::Display for Unmatched {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Who => to.write_str("it is for others"),
            Self::Verb => to.write_str("it does not have this verb"),
            Self::When(claim) => write!(to, "the claim `{claim}` is not as `when` has it"),
            Self::On => to.write_str("no pattern of `on` covers it"),
        }
    }
}

impl Rule {
    /// Whether it allows this.
    /// Whether somebody of this identity has the verb on something.
    pub(crate) fn gives(&self, identity: &Identity, verb: Verb) -> bool {
        self.verbs.has(verb) && self.who.iter().any(|who| who.is(identity))
    }

    pub(crate) fn allows(
        &self,
        identity: &Identity,
        verb: Verb,
        on: On<'_>,
    ) -> Result<(), Unmatched> {
        if !self.verbs.has(verb) {
            return Err(Unmatched::Verb);
        }
        if !self.who.iter().any(|who| who.is(identity)) {
            return Err(Unmatched::Who);
        }
        let is_so = |(claim, wanted): &&(String, Claim)| {
            identity.typed.get(claim).is_some_and(|is| is.is(wanted))
        };
        if let Some((claim, _)) = self.when.iter().find(|wanted| !is_so(wanted)) {
            return Err(Unmatched::When(claim.clone()));
        }
        match covers(&self.on, identity, on) {
            true => Ok(()),
            false => Err(Unmatched::On),
        }
    }
}

pub(crate) fn covers(patterns: &[Pattern], identity: &Identity, on: On<'_>) -> bool {
    patterns.iter().any(|pattern| pattern.covers(on, identity))
}

/// In short, as `explain` shows it.
impl fmt::Display for Rule {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(to, "rule at line {line}: ")?;
        }
        write!(to, "{} may {} on {}", joined(&self.who), self.verbs, joined(&self.on))?;
        for (index, (claim, value)) in self.when.iter().enumerate() {
            let before = if index == 0 { "when" } else { "and" };
            write!(to, " {before} {claim} = {}", value.text())?;
        }
        Ok(())
    }
}

pub(crate) fn joined<T: fmt::Display>(all: &[T]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
