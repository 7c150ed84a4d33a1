//! What goes wrong, and when: made from a seed alone, so that a run can be made again.
//!
//! A schedule is a list of *turns*. In a turn some faults overlap; at its end all is healed and the
//! cluster settles before the next one begins. Faults *in turn* are turns of one fault; a *mixture*
//! has two or three in each.

use crate::load::Random;
use std::{collections::BTreeSet, fmt};

/// A node of the schedule, from 1 up in the order in which they join; never used again.
pub type NodeNumber = u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL; started again later.
    Kill(NodeNumber),
    /// SIGSTOP until the others serve everything; then, with requests waiting at it, SIGCONT.
    Pause(NodeNumber),
    /// Neither hears the other: this node and all other nodes.
    CutFromPeers(NodeNumber),
    CutFromEngine(NodeNumber),
    CutFromBoth(NodeNumber),
    /// What it sends to the other nodes is lost; what they send arrives.
    PeersDontHear(NodeNumber),
    /// What the other nodes send to it is lost; what it sends arrives.
    DoesntHearPeers(NodeNumber),
    /// What it sends to the engine is lost: appends never arrive.
    EngineDoesntHear(NodeNumber),
    /// What the engine sends to it is lost: appends arrive, and nobody hears of it.
    DoesntHearEngine(NodeNumber),
    /// What it sends arrives late, and not evenly so.
    Slow(NodeNumber),
    /// SIGKILL of one server of the engine, by its number from 0 up.
    KillServer(u32),
    /// Neither hears the other: this server and the other servers. All nodes reach all of them.
    CutServer(u32),
    MoveLeaders,
    /// A node joins.
    Join(NodeNumber),
    /// A node gives its slots away and leaves.
    Drain(NodeNumber),
    /// A slot is moved off its node by hand; at the end all are where they belong.
    DrainSlot(u16),
    /// Every node is stopped by SIGTERM and started again, one after the other.
    RollingRestart,
    /// Another version of the plugins.
    Swap,
}

/// One fault within a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    pub fault: Fault,
    /// From the turn's beginning.
    pub begin_after_ms: u64,
    /// How long it lasts at least; nothing to those that are over by themselves.
    pub hold_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    pub faults: Vec<Planned>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    pub seed: u64,
    pub turns: Vec<Turn>,
}

/// What a schedule is made for.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// At the beginning, numbered from 1.
    pub nodes: u32,
    pub servers: u32,
    /// Turns of several faults, after one of each kind.
    pub mixtures: usize,
    pub slots: u16,
    /// Links can be cut.
    pub links: bool,
    /// Links can be slowed down.
    pub delay: bool,
    /// Begin with every kind of fault by itself.
    pub in_turn: bool,
}

/// Nodes at most at once.
const NODES_MAX: usize = 5;
/// With fewer, nothing could be disturbed without all being so.
const NODES_MIN: usize = 2;
/// Long enough for membership to see that a node is gone.
const HOLD_MS: (u64, u64) = (1_000, 6_000);
const STAGGER_MS: u64 = 2_000;

/// The kinds of faults, without what they befall.
const KINDS: [fn(u32) -> Fault; 18] = [
    Fault::Kill,
    Fault::Pause,
    Fault::CutFromPeers,
    Fault::CutFromEngine,
    Fault::CutFromBoth,
    Fault::PeersDontHear,
    Fault::DoesntHearPeers,
    Fault::EngineDoesntHear,
    Fault::DoesntHearEngine,
    Fault::Slow,
    Fault::KillServer,
    Fault::CutServer,
    |_| Fault::MoveLeaders,
    Fault::Join,
    Fault::Drain,
    |slot| Fault::DrainSlot(slot as u16),
    |_| Fault::RollingRestart,
    |_| Fault::Swap,
];

impl Fault {
    /// The node that it befalls, or makes.
    pub fn node(self) -> Option<NodeNumber> {
        match self {
            Self::Kill(node)
            | Self::Pause(node)
            | Self::CutFromPeers(node)
            | Self::CutFromEngine(node)
            | Self::CutFromBoth(node)
            | Self::PeersDontHear(node)
            | Self::DoesntHearPeers(node)
            | Self::EngineDoesntHear(node)
            | Self::DoesntHearEngine(node)
            | Self::Slow(node)
            | Self::Join(node)
            | Self::Drain(node) => Some(node),
            Self::KillServer(_)
            | Self::CutServer(_)
            | Self::MoveLeaders
            | Self::DrainSlot(_)
            | Self::RollingRestart
            | Self::Swap => None,
        }
    }

    /// It needs a network whose links can be cut.
    pub fn cuts(self) -> bool {
        matches!(
            self,
            Self::CutFromPeers(_)
                | Self::CutFromEngine(_)
                | Self::CutFromBoth(_)
                | Self::PeersDontHear(_)
                | Self::DoesntHearPeers(_)
                | Self::EngineDoesntHear(_)
                | Self::DoesntHearEngine(_)
                | Self::CutServer(_)
        )
    }

    /// It takes a server of the engine away from the others.
    fn disturbs_engine(self) -> bool {
        matches!(self, Self::KillServer(_) | Self::CutServer(_))
    }

    /// An operator's own doing: nobody may be refused anything because of it.
    pub fn orderly(self) -> bool {
        matches!(
            self,
            Self::Join(_) | Self::Drain(_) | Self::DrainSlot(_) | Self::RollingRestart | Self::Swap
        )
    }

    /// Takes a node's part in serving away for a while, or for good.
    fn disturbs_node(self) -> bool {
        self.node().is_some() && !matches!(self, Self::Join(_))
    }
}

/// What the planner knows of the cluster.
struct Planner {
    random: Random,
    shape: Shape,
    nodes: BTreeSet<NodeNumber>,
    next_node: NodeNumber,
}

impl Schedule {
    /// The schedule of a seed: always the same.
    pub fn new(seed: u64, shape: Shape) -> Self {
        let mut planner = Planner {
            random: Random::new(seed),
            shape,
            nodes: (1..=shape.nodes).collect(),
            next_node: shape.nodes + 1,
        };
        let mut turns = Vec::new();
        if shape.in_turn {
            let mut kinds: Vec<usize> = (0..KINDS.len()).collect();
            planner.shuffle(&mut kinds);
            turns.extend(kinds.into_iter().filter_map(|kind| planner.turn(&[kind])));
        }
        let singles = turns.len();
        while turns.len() < singles + shape.mixtures {
            let count = 2 + planner.random.below(2) as usize;
            let kinds: Vec<usize> =
                (0..count).map(|_| planner.random.below(KINDS.len() as u64) as usize).collect();
            turns.extend(planner.turn(&kinds));
        }
        Self { seed, turns }
    }
}

impl Planner {
    /// A turn of faults of these kinds, without those that don't go with the ones before; `None`
    /// when nothing is left.
    fn turn(&mut self, kinds: &[usize]) -> Option<Turn> {
        let mut faults: Vec<Planned> = Vec::new();
        for &kind in kinds {
            let Some(fault) = self.fault(kind, &faults) else { continue };
            match fault {
                Fault::Join(_) => self.next_node += 1,
                Fault::Drain(node) => _ = self.nodes.remove(&node),
                _ => {}
            }
            let stagger = if faults.is_empty() { 0 } else { self.random.below(STAGGER_MS) };
            let hold_ms = HOLD_MS.0 + self.random.below(HOLD_MS.1 - HOLD_MS.0);
            faults.push(Planned { fault, begin_after_ms: stagger, hold_ms });
        }
        let joined = faults.iter().filter_map(|planned| match planned.fault {
            Fault::Join(node) => Some(node),
            _ => None,
        });
        self.nodes.extend(joined);
        (!faults.is_empty()).then_some(Turn { faults })
    }

    fn fault(&mut self, kind: usize, others: &[Planned]) -> Option<Fault> {
        let make = KINDS[kind];
        let sample = make(0);
        let others = || others.iter().map(|planned| planned.fault);
        let same =
            others().any(|other| std::mem::discriminant(&other) == std::mem::discriminant(&sample));
        let disturbed = others().filter(|other| other.disturbs_node()).count();
        let restart = others().any(|other| other == Fault::RollingRestart);
        match sample {
            _ if sample.cuts() && !self.shape.links => None,
            Fault::Slow(_) if !self.shape.delay => None,
            // Only nodes can be befallen twice at once; and a majority of the engine must stay.
            _ if same && !sample.disturbs_node() => None,
            _ if sample.disturbs_engine() => {
                let alone = self.shape.servers >= 3 && !others().any(Fault::disturbs_engine);
                alone.then(|| make(self.random.below(u64::from(self.shape.servers)) as u32))
            }
            Fault::DrainSlot(_) => {
                Some(make(self.random.below(u64::from(self.shape.slots)) as u32))
            }
            Fault::Join(_) if self.nodes.len() >= NODES_MAX => None,
            Fault::Join(_) => Some(make(self.next_node)),
            Fault::RollingRestart if disturbed > 0 => None,
            _ if sample.disturbs_node() => {
                let taken: BTreeSet<_> = others().filter_map(Fault::node).collect();
                let free: Vec<_> = self.nodes.difference(&taken).copied().collect();
                // One node at least is left alone.
                let enough = free.len() > 1
                    && (!matches!(sample, Fault::Drain(_)) || self.nodes.len() > NODES_MIN);
                (enough && !restart)
                    .then(|| make(free[self.random.below(free.len() as u64) as usize]))
            }
            _ => Some(sample),
        }
    }

    fn shuffle(&mut self, items: &mut [usize]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.random.below(at as u64 + 1) as usize);
        }
    }
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, planned) in self.faults.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            let Planned { fault, begin_after_ms, hold_ms } = planned;
            write!(f, "{comma}{fault:?} at {begin_after_ms} ms for {hold_ms} ms")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHAPE: Shape = Shape {
        nodes: 3,
        servers: 3,
        slots: 32,
        mixtures: 30,
        links: true,
        delay: true,
        in_turn: true,
    };

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Without it, a run that failed could not be made again.
        #[test]
        fn the_same_seed_gives_the_same_schedule(seed: u64) {
            let schedule = Schedule::new(seed, SHAPE);
            prop_assert_eq!(&schedule, &Schedule::new(seed, SHAPE));
            prop_assert_ne!(schedule.turns, Schedule::new(seed ^ 1, SHAPE).turns);
        }

        /// Without it, a schedule could ask for what no cluster survives, and fail for nothing.
        #[test]
        fn a_schedule_can_be_survived(seed: u64, nodes in 2_u32..6, links: bool) {
            let shape = Shape { nodes, links, ..SHAPE };
            let mut alive: BTreeSet<NodeNumber> = (1..=nodes).collect();
            for turn in Schedule::new(seed, shape).turns {
                let faults: Vec<Fault> = turn.faults.iter().map(|planned| planned.fault).collect();
                let befallen: BTreeSet<_> =
                    faults.iter().filter(|f| f.disturbs_node()).filter_map(|f| f.node()).collect();
                prop_assert!(befallen.is_subset(&alive), "{turn} with {alive:?}");
                prop_assert!(befallen.len() < alive.len(), "{turn} with {alive:?}");
                let count = faults.iter().filter(|fault| fault.node().is_some()).count();
                let different: BTreeSet<_> = faults.iter().filter_map(|fault| fault.node()).collect();
                prop_assert_eq!(count, different.len(), "{}", turn);
                let servers = faults.iter().filter(|f| f.disturbs_engine()).count();
                prop_assert!(servers <= 1 && (links || !faults.iter().any(|f| f.cuts())));
                for fault in faults {
                    match fault {
                        Fault::Join(node) => prop_assert!(alive.insert(node)),
                        Fault::Drain(node) => _ = alive.remove(&node),
                        _ => {}
                    }
                }
                prop_assert!((NODES_MIN..=NODES_MAX).contains(&alive.len()));
            }
        }
    }

    /// Without it, a fault of the list might never be tried.
    #[test]
    fn every_kind_has_its_turn() {
        for seed in 0..50 {
            let schedule = Schedule::new(seed, Shape { mixtures: 0, ..SHAPE });
            let kinds: std::collections::HashSet<_> = schedule
                .turns
                .iter()
                .flat_map(|turn| &turn.faults)
                .map(|planned| std::mem::discriminant(&planned.fault))
                .collect();
            assert_eq!(kinds.len(), KINDS.len(), "{schedule:?}");
        }
    }

    /// Without it, faults might never overlap.
    #[test]
    fn mixtures_overlap() {
        let schedule = Schedule::new(1, Shape { in_turn: false, ..SHAPE });
        let several = schedule.turns.iter().filter(|turn| turn.faults.len() > 1).count();
        assert!(several > schedule.turns.len() / 2, "{several} of {}", schedule.turns.len());
    }
}
