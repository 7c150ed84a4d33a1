//! Why a node is refused, in words that both sides log.

use crate::telemetry::metrics::metrics;
use std::{fmt, net::SocketAddr, sync::Arc};

/// Why a node is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It is in a cluster of another name.
    Cluster,
    /// It has another secret.
    Secret,
    /// The two speak no common protocol version.
    Protocol,
    /// It computes the ring differently.
    RingScheme,
    /// It spreads sessions over another number of slots.
    SlotCount,
    /// Another process has its name and is alive.
    Name,
    /// Another process has taken its name over.
    Superseded,
    /// It can't be reached at the address that it advertises.
    Address,
}

impl Reason {
    pub const ALL: [Self; 8] = [
        Self::Cluster,
        Self::Secret,
        Self::Protocol,
        Self::RingScheme,
        Self::SlotCount,
        Self::Name,
        Self::Superseded,
        Self::Address,
    ];
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Secret => "secret",
            Self::Protocol => "protocol",
            Self::RingScheme => "ring-scheme",
            Self::SlotCount => "slot-count",
            Self::Name => "name",
            Self::Superseded => "superseded",
            Self::Address => "address",
        }
    }
    pub(super) fn code(self) -> u8 {
        self as u8 + 1
    }
    pub(super) fn of(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }
    pub(super) fn count(self) {
        let m = metrics();
        let counter = match self {
            Self::Cluster => &m.refused_cluster,
            Self::Secret => &m.refused_secret,
            Self::Protocol => &m.refused_protocol,
            Self::RingScheme => &m.refused_ring_scheme,
            Self::SlotCount => &m.refused_slot_count,
            Self::Name => &m.refused_name,
            Self::Superseded => &m.refused_superseded,
            Self::Address => &m.refused_address,
        };
        counter.increment(1);
    }
}

/// One node that was refused, or refused this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The other side's address.
    pub peer: SocketAddr,
    /// Its name, if that is certain.
    pub name: Option<Arc<str>>,
    pub reason: Reason,
    /// This node refused the other; otherwise the other refused this one.
    pub by_us: bool,
    /// The difference, in a sentence.
    pub text: String,
    /// How often.
    pub times: u64,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.by_us { "refused" } else { "refused by" };
        match &self.name {
            Some(name) => write!(f, "{side} node {name} at {}: {}", self.peer, self.text),
            None => write!(f, "{side} {}: {}", self.peer, self.text),
        }
    }
}

/// Why this node can't stay in its cluster. It must stop serving: it does not match its
/// configuration, or another process replaced it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fatal {
    #[error("another node named {name} is alive at {holder}: rename this node, or stop that one")]
    NameTaken { name: Arc<str>, holder: SocketAddr },
    #[error(
        "another process ({by}) has taken over the name {name}, because this one was declared dead"
    )]
    Superseded { name: Arc<str>, by: String },
    #[error("this node can't join the cluster: {0}")]
    Refused(Refusal),
    #[error("can't read from the peer port: {0}")]
    Socket(String),
}
