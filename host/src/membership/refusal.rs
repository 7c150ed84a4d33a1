//! Why a node is refused, in words that both sides log.

use super::wire::Refused;
use crate::{peer::protocol::Protocols, telemetry::metrics::metrics};
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

impl Refused {
    /// What the refusing node speaks, if that is why it refuses. The layout of a refusal is the same for
    /// all versions, a code and a text, so here the text is the encoding: that of [`Protocols`], which is
    /// therefore fixed too.
    pub(super) fn protocols(&self) -> Option<Protocols> {
        if self.reason != Reason::Protocol {
            return None;
        }
        let (oldest, newest) = self.text.split_once(" to ")?;
        Some(Protocols { oldest: oldest.parse().ok()?, newest: newest.parse().ok()? })
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

#[cfg(test)]
mod tests {
    use super::{super::wire::FORMAT_TAGGED, *};
    use crate::level;

    /// A node of a cluster that was raised would end because a node is too old for it, or would wait
    /// without end for one that is newer.
    #[test]
    fn what_a_refusing_node_speaks_is_read_from_its_text() {
        // As the version of 25 November 2026 writes it, behind the header: the refused sender and
        // number, the code of the reason, its protocol.
        let old = b"\x01\x02\x03\x04\x05\x06\x07\x08\0\0\0\0\0\0\0\x09\x031 to 1";
        let refused = Refused::read(FORMAT_TAGGED, old).unwrap();
        assert_eq!((refused.to, refused.reason), ((0x0102_0304_0506_0708, 9), Reason::Protocol));
        assert_eq!(refused.protocols(), Some(Protocols { oldest: 1, newest: 1 }));
        // As this one does.
        let (to, format, reason) = (refused.to, refused.format, Reason::Protocol);
        let own = Protocols::at(level::NEWEST);
        let refused = Refused { to, format, reason, text: own.to_string() };
        assert_eq!(refused.protocols(), Some(own));
        for (reason, text) in [
            (Reason::Protocol, ""),
            (Reason::Protocol, "1"),
            (Reason::Protocol, "1 to"),
            (Reason::Protocol, "protocol 1 to 2"),
            (Reason::Protocol, "1 to 70000"),
            (Reason::SlotCount, "1 to 2"),
        ] {
            let refused = Refused { to, format, reason, text: text.into() };
            assert_eq!(refused.protocols(), None, "{text:?}");
        }
    }
}
