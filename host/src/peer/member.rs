//! A node's description of itself, and the set of nodes that one node sees.

use serde::{Deserialize, Serialize};
use std::{fmt, net::SocketAddr, sync::Arc};

/// A node as it presents itself to its peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Unique within the cluster.
    pub name: Arc<str>,
    /// Where peers reach it: the same port over TCP (forwarding) and UDP (membership).
    pub peer: SocketAddr,
    /// Where its clients reach it, shown to people.
    pub api: SocketAddr,
    /// Counts the starts of this node on its data directory: the greater one is newer.
    pub boot: u64,
    /// Random, generated at start: distinguishes two processes of one name.
    pub instance: u128,
    /// It hands over its slots and accepts none: alive, but not on the ring.
    pub leaving: bool,
    /// It can't serve now, and why: alive, but not on the ring while others can.
    pub unfit: Option<Unfit>,
    /// The slotd version, for people to see.
    pub version: Arc<str>,
}

/// Why a node can't serve; a worse reason is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Unfit {
    /// Its disk accepts no writes: it can hand over its slots gracefully.
    Disk,
    /// The log engine does not answer: it can commit nothing, not even a release.
    Engine,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disk => "its disk refuses writes",
            Self::Engine => "the log engine does not answer this node",
        })
    }
}

/// The nodes that one node believes to be alive, including itself. Numbered by that node alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// Rises with every change.
    pub number: u64,
    /// This node's name.
    pub own: Arc<str>,
    /// Sorted by name, without duplicates; contains `own`.
    pub alive: Arc<[Member]>,
}

impl Members {
    pub fn get(&self, name: &str) -> Option<&Member> {
        let at = self.alive.binary_search_by(|member| (*member.name).cmp(name)).ok()?;
        self.alive.get(at)
    }

    /// Those that are not leaving.
    pub fn staying(&self) -> impl Iterator<Item = &Member> {
        self.alive.iter().filter(|member| !member.leaving)
    }

    /// The names on the ring: the fittest of those that stay. What others report about their
    /// fitness counts only for a node that is `steady`; what this node knows of itself counts if
    /// another one is fitter.
    pub fn on_ring(&self, steady: bool) -> Vec<Arc<str>> {
        let own = self.get(&self.own).and_then(|own| own.unfit);
        let fitter = self.staying().any(|member| member.unfit < own);
        let rank = |member: &Member| match member.name == self.own {
            true => member.unfit.filter(|_| steady || fitter),
            false => member.unfit.filter(|_| steady),
        };
        let best = self.staying().map(rank).min().flatten();
        let best = self.staying().filter(|member| rank(member) <= best);
        best.map(|member| member.name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(steady: bool, unfit: [Option<Unfit>; 3]) -> Vec<usize> {
        let member = |(number, unfit)| Member {
            name: format!("n{number}").into(),
            peer: "127.0.0.1:1".parse().unwrap(),
            api: "127.0.0.1:2".parse().unwrap(),
            boot: 1,
            instance: 1,
            leaving: number == 3,
            unfit,
            version: "1".into(),
        };
        let [a, b, c] = unfit;
        let alive: Vec<_> = (0..).zip([a, b, c, None]).map(member).collect();
        let members = Members { number: 1, own: "n0".into(), alive: alive.into() };
        let names = members.on_ring(steady);
        names.iter().map(|name| name[1..].parse().unwrap()).collect()
    }

    /// A node that can't serve must not keep its slots, and a problem that all have must not move
    /// any: each line is a case of one or the other.
    #[test]
    fn the_fittest_are_on_the_ring() {
        const ENGINE: Option<Unfit> = Some(Unfit::Engine);
        const DISK: Option<Unfit> = Some(Unfit::Disk);
        assert_eq!(ring(true, [None, None, None]), [0, 1, 2], "one leaves");
        assert_eq!(ring(true, [None, ENGINE, None]), [0, 2]);
        assert_eq!(ring(false, [None, ENGINE, None]), [0, 1, 2], "not believed");
        assert_eq!(ring(true, [None, DISK, ENGINE]), [0]);
        assert_eq!(ring(true, [ENGINE, DISK, ENGINE]), [1], "better than none");
        // This node's own problem.
        assert_eq!(ring(false, [ENGINE, None, None]), [1, 2]);
        assert_eq!(ring(false, [ENGINE, None, ENGINE]), [1, 2]);
        assert_eq!(ring(false, [ENGINE, ENGINE, ENGINE]), [0, 1, 2], "everybody's");
        assert_eq!(ring(true, [DISK, DISK, DISK]), [0, 1, 2]);
    }
}
