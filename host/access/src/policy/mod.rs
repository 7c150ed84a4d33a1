//! The policy: a file that says who may do what.

mod build;
mod issuer;
mod rule;
mod table;

pub(crate) use issuer::{Issuer, KeySource};
pub(crate) use rule::{Rule, Unmatched, covers, joined};

use crate::{signing::PublicKey, verb::Listener};
use slotd_quota::{buckets::REST, policy::Limits};
use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Who may do what, and how services treat those who ask. An empty one says nothing.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    pub(crate) issuers: Vec<Arc<Issuer>>,
    pub(crate) rules: Vec<Rule>,
    services: BTreeMap<String, ServicePolicy>,
    /// `[service."*"]`.
    others: ServicePolicy,
    keys: Vec<SigningKey>,
    files: Vec<PathBuf>,
}

/// Something that is wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// From 1.
    pub line: Option<usize>,
    /// What is wrong, and what would be right.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(to, "line {line}: ")?;
        }
        to.write_str(&self.what)
    }
}

/// How a service treats those who ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePolicy {
    pub sender: Sender,
    /// Which pages of other origins may use it.
    pub origins: Origins,
    /// Whether such pages may send cookies and the like.
    pub credentials: bool,
    /// Names of keys: only what one of them has signed may be deployed. Empty: anything.
    pub deploy_keys: Vec<String>,
    /// What it, each of its subjects and each of its sessions may use. `None`: its table does not say.
    pub limits: Option<Box<Limits>>,
    /// What is left out of captures. `None`: its table does not say.
    pub redact: Option<Vec<String>>,
    /// What its deploys go through before anything moves, as the table has it. `None`: its table does not say.
    pub gate: Option<Gate>,
}

/// The table `gate` of a service. What it means is for the server to say: here it is a value, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    pub value: serde_json::Value,
    /// From 1.
    pub line: usize,
}

/// Who a message is said to be from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sender {
    /// Whom the client names.
    #[default]
    Client,
    /// The subject of the identity, and nobody else.
    Subject,
}

/// Origins of web pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// All.
    Any,
    /// These: `scheme://host` with a port if it is not the scheme's.
    Only(Vec<String>),
}

impl Default for Origins {
    fn default() -> Self {
        Self::Only(Vec::new())
    }
}

impl Origins {
    /// Whether a page of this origin, as its `Origin` header has it, may use the service.
    pub fn allows(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Only(origins) => origins.iter().any(|it| it == origin),
        }
    }
}

/// A key that signs components.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningKey {
    pub name: String,
    pub public: PublicKey,
}

impl Policy {
    /// Reads the text of a policy. Files that it names are read, too, from `base_dir` if they are not absolute: not for a
    /// thread that serves.
    ///
    /// # Errors
    /// All that is wrong, up to a hundred; never empty.
    pub fn parse(text: &str, base_dir: &Path) -> Result<Self, Vec<Fault>> {
        build::build(text, base_dir)
    }

    /// How a service treats those who ask: its table, else that of `*`, else the defaults. A table that does not say
    /// `deploy_keys` or `gate` has those of `*`.
    pub fn service(&self, name: &str) -> &ServicePolicy {
        self.services.get(name).unwrap_or(&self.others)
    }

    /// The limits of all services whose tables have some; [`REST`] is those of all others.
    pub fn limits(&self) -> impl Iterator<Item = (&str, &Limits)> {
        let services = self.services.iter().map(|(name, service)| (name.as_str(), service));
        let all = services.chain([(REST, &self.others)]);
        all.filter_map(|(name, service)| Some((name, service.limits.as_deref()?)))
    }

    /// The tables `gate` of services, by their names.
    pub fn gates(&self) -> impl Iterator<Item = (&str, &Gate)> {
        let services = self.services.iter().map(|(name, service)| (name.as_str(), service));
        let all = services.chain([(REST, &self.others)]);
        all.filter_map(|(name, service)| Some((name, service.gate.as_ref()?)))
    }

    /// What is left out of the captures of services whose tables say it; [`REST`] is that of all others.
    pub fn redactions(&self) -> impl Iterator<Item = (&str, &[String])> {
        let services = self.services.iter().map(|(name, service)| (name.as_str(), service));
        let all = services.chain([(REST, &self.others)]);
        all.filter_map(|(name, service)| Some((name, service.redact.as_deref()?)))
    }

    /// Keys that sign components.
    pub fn keys(&self) -> &[SigningKey] {
        &self.keys
    }

    /// Files that it was made of besides its own. If one changes, it has to be parsed again.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Whether a rule has a verb of this listener.
    pub fn speaks_of(&self, listener: Listener) -> bool {
        self.rules.iter().any(|rule| rule.verbs.has_of(listener))
    }
}
