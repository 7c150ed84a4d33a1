//! What can be allowed, and on what.

use serde::{Deserialize, Serialize};
use std::{borrow::Cow, fmt, str::FromStr};

/// Which of the two listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Listener {
    Api,
    Admin,
}

impl Listener {
    pub const ALL: [Self; 2] = [Self::Api, Self::Admin];

    pub(crate) fn index(self) -> usize {
        self as usize
    }

    /// As [`Tokens`](crate::Tokens) names it.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Api => "API",
            Self::Admin => "admin API",
        })
    }
}

/// What somebody asks to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// Send a message to a session.
    Send,
    /// Have a session answer without changing it.
    Query,
    /// Read a session, its history, and lists of sessions.
    Read,
    /// Receive the events of a session.
    Subscribe,
    /// Notify those who are subscribed.
    Notify,
    /// Delete a session.
    Delete,
    /// Begin a session as the copy of another one.
    Fork,
    /// Issue a token for one session.
    Mint,
    /// Read through the admin API, metrics included.
    AdminRead,
    /// Change what a service runs.
    Deploy,
    /// Change anything else through the admin API.
    Operate,
}

impl Verb {
    pub const ALL: [Self; 11] = [
        Self::Send,
        Self::Query,
        Self::Read,
        Self::Subscribe,
        Self::Notify,
        Self::Delete,
        Self::Fork,
        Self::Mint,
        Self::AdminRead,
        Self::Deploy,
        Self::Operate,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Query => "query",
            Self::Read => "read",
            Self::Subscribe => "subscribe",
            Self::Notify => "notify",
            Self::Delete => "delete",
            Self::Fork => "fork",
            Self::Mint => "mint",
            Self::AdminRead => "admin-read",
            Self::Deploy => "deploy",
            Self::Operate => "operate",
        }
    }

    /// Whether it is of the admin listener.
    pub fn is_admin(self) -> bool {
        matches!(self, Self::AdminRead | Self::Deploy | Self::Operate)
    }

    /// The listener that it is asked of.
    pub fn listener(self) -> Listener {
        if self.is_admin() { Listener::Admin } else { Listener::Api }
    }

    /// All verbs, as an error lists them.
    pub(crate) fn listed() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(self.as_str())
    }
}

/// It is no verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a verb")]
pub struct NoVerb;

impl FromStr for Verb {
    type Err = NoVerb;

    fn from_str(text: &str) -> Result<Self, NoVerb> {
        Self::ALL.into_iter().find(|verb| verb.as_str() == text).ok_or(NoVerb)
    }
}

/// Some of the verbs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verbs(u16);

impl Verbs {
    /// As `allow` has it: a verb, `*` for all of the API, or `admin-*` for all of the admin API.
    pub(crate) fn named(text: &str) -> Option<Self> {
        let of = |listener| Verb::ALL.into_iter().filter(move |verb| verb.listener() == listener);
        match text {
            "*" => Some(of(Listener::Api).collect()),
            "admin-*" => Some(of(Listener::Admin).collect()),
            verb => verb.parse().ok().map(|verb: Verb| [verb].into_iter().collect()),
        }
    }

    pub(crate) fn has(self, verb: Verb) -> bool {
        self.0 & (1 << verb as u16) != 0
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Verb> {
        Verb::ALL.into_iter().filter(move |verb| self.has(*verb))
    }

    pub(crate) fn has_of(self, listener: Listener) -> bool {
        self.iter().any(|verb| verb.listener() == listener)
    }

    pub(crate) fn add(&mut self, others: Self) {
        self.0 |= others.0;
    }
}

impl FromIterator<Verb> for Verbs {
    fn from_iter<I: IntoIterator<Item = Verb>>(verbs: I) -> Self {
        Self(verbs.into_iter().fold(0, |bits, verb| bits | 1 << verb as u16))
    }
}

impl fmt::Display for Verbs {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, verb) in self.iter().enumerate() {
            write!(to, "{}{verb}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// What something is asked of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum On<'a> {
    /// A session, by its service and its id.
    Session(&'a str, &'a str),
    /// All sessions of a service whose ids begin so.
    Prefix(&'a str, &'a str),
    /// A service with all of its sessions.
    Service(&'a str),
    /// Nothing of a service: the node, the cluster.
    Nothing,
}

impl<'a> On<'a> {
    /// As it is written: `*` for nothing, `SERVICE`, `SERVICE/SESSION`, or `SERVICE/PREFIX*`.
    pub fn from_text(text: &'a str) -> Self {
        match text.split_once('/') {
            None if text == "*" => Self::Nothing,
            None => Self::Service(text),
            Some((service, session)) => match session.strip_suffix('*') {
                Some(prefix) => Self::Prefix(service, prefix),
                None => Self::Session(service, session),
            },
        }
    }
}

/// As [`On::from_text`] reads it.
impl fmt::Display for On<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session(service, session) => write!(to, "{service}/{session}"),
            Self::Prefix(service, prefix) => write!(to, "{service}/{prefix}*"),
            Self::Service(service) => to.write_str(service),
            Self::Nothing => to.write_str("*"),
        }
    }
}

/// For an answer that owns it.
impl From<On<'_>> for Cow<'static, str> {
    fn from(on: On<'_>) -> Self {
        Cow::Owned(on.to_string())
    }
}
