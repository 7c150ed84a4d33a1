//! A node's identity in SWIM.

use crate::{limits, peer::member::Member};
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};

/// A member, and which of the claims to its name this is. SWIM tracks the *name*; of two identities
/// with one name the greater `(epoch, instance)` is the valid one, everywhere.
///
/// An epoch's upper half is the node's boot, so that a restarted node replaces its old entry at
/// once. The lower half counts identities within the boot: a node that was declared dead rejoins
/// under the next one (in SWIM a death is final), and a node announces that it is leaving with one.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Id {
    pub member: Member,
    pub epoch: u64,
}

impl Id {
    pub fn new(member: Member) -> Self {
        let epoch = member.boot.min(u64::from(u32::MAX)) << 32;
        Self { member, epoch }
    }
    /// The same node under its next identity.
    pub fn next(&self) -> Self {
        Self { member: self.member.clone(), epoch: self.epoch.saturating_add(1) }
    }
    /// The same node, above all identities that the process with `rival` can reach by itself. For a
    /// node whose boots started from zero (its disk was lost) while the previous process of this
    /// name is gone.
    pub fn above(&self, rival: &Self) -> Self {
        let epoch = (rival.epoch >> 32).saturating_add(1).min(u64::from(u32::MAX)) << 32;
        Self { member: self.member.clone(), epoch: epoch.max(self.epoch) }
    }
    pub fn wins(&self, other: &Self) -> bool {
        (self.epoch, self.member.instance) > (other.epoch, other.member.instance)
    }
    /// Wins, whatever identities either process takes later.
    pub fn outranks(&self, other: &Self) -> bool {
        self.epoch >> 32 > other.epoch >> 32
    }
    /// Another process with the same name.
    pub fn rivals(&self, other: &Self) -> bool {
        self.member.name == other.member.name && self.member.instance != other.member.instance
    }
    /// Whether it can be a member at all. Peers are trusted to be well-meaning, not to be free of
    /// bugs.
    pub fn is_sound(&self) -> bool {
        let printable = |text: &str, max| {
            (1..=max).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
        };
        let peer = self.member.peer;
        printable(&self.member.name, limits::NODE_NAME_BYTES_MAX)
            && printable(&self.member.version, limits::NODE_VERSION_BYTES_MAX)
            && peer.port() != 0
            && !peer.ip().is_unspecified()
            && !peer.ip().is_multicast()
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}#{:x}", self.member.name, self.member.peer, self.epoch)
    }
}

impl foca::Identity for Id {
    type Addr = Arc<str>;

    fn renew(&self) -> Option<Self> {
        Some(self.next())
    }
    fn addr(&self) -> Arc<str> {
        self.member.name.clone()
    }
    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.wins(adversary)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All nodes must agree which claim to a name is valid: a later boot beats all identities of an
    /// earlier one, and a node without its disk can get above the one that it replaces.
    #[test]
    fn a_later_boot_wins_and_a_lost_disk_can_be_made_up_for() {
        let id = |boot, instance| {
            Id::new(Member {
                name: "a".into(),
                peer: "127.0.0.1:1".parse().unwrap(),
                api: "127.0.0.1:2".parse().unwrap(),
                boot,
                instance,
                leaving: false,
                unfit: None,
                version: "1".into(),
            })
        };
        let mut old = id(7, 9);
        for _ in 0..1_000 {
            assert!(old.next().wins(&old));
            old = old.next();
        }
        assert!(id(8, 1).wins(&old) && !old.wins(&id(8, 1)));
        let blank = id(1, 1).above(&old);
        assert!(blank.wins(&old) && blank.wins(&old.next().next()));
        assert!(id(5, 2).wins(&id(5, 1)) && !id(5, 1).wins(&id(5, 1)));
    }
}
