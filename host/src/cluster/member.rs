//! What a node of a cluster says of itself, and the set of nodes that one node sees.

use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, sync::Arc};

/// A node as it introduces itself to its peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Unique within the cluster.
    pub name: Arc<str>,
    /// Where peers reach it: the same port over TCP (forwarding) and UDP (membership).
    pub peer: SocketAddr,
    /// Where its clients reach it, for people to see.
    pub api: SocketAddr,
    /// Counts the starts of this node on its data directory: the greater one is the newer.
    pub boot: u64,
    /// Random, made at start: tells two processes of one name apart.
    pub instance: u128,
    /// It gives its slots away and takes none: alive, but not on the ring.
    pub leaving: bool,
    /// The slotd version, for people to see.
    pub version: Arc<str>,
}

/// The nodes that one node believes to be alive, itself included. Numbered by that node alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// Rises with every change.
    pub number: u64,
    /// This node's name.
    pub own: Arc<str>,
    /// Sorted by name, without repeats; has `own`.
    pub alive: Arc<[Member]>,
}

impl Members {
    pub fn get(&self, name: &str) -> Option<&Member> {
        let at = self.alive.binary_search_by(|member| (*member.name).cmp(name)).ok()?;
        self.alive.get(at)
    }
    /// The names that stand on the ring.
    pub fn on_ring(&self) -> impl Iterator<Item = Arc<str>> {
        self.alive.iter().filter(|member| !member.leaving).map(|member| member.name.clone())
    }
}
