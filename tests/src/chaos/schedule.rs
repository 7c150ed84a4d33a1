//! Which faults happen, and when: generated from a seed alone, so that a run can be reproduced.
//!
//! A schedule is a list of *turns*. In a turn some faults overlap; at its end all is healed and the
//! cluster settles before the next one begins. Faults *in turn* are turns of one fault, with a swap
//! in the middle; a *mixture* has two or three in each.

use crate::load::Random;
use std::{collections::BTreeSet, fmt};

/// A node of the schedule, numbered from 1 in the order of joining; never reused.
pub type NodeNumber = u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL; restarted later.
    Kill(NodeNumber),
    /// SIGSTOP until the others serve everything; then, with requests queued, SIGCONT.
    Pause(NodeNumber),
    /// Traffic is lost in both directions between this node and all other nodes.
    CutFromPeers(NodeNumber),
    CutFromEngine(NodeNumber),
    CutFromBoth(NodeNumber),
    /// Traffic to the other nodes is lost; traffic from them arrives.
    PeersDontHear(NodeNumber),
    /// Traffic from the other nodes is lost; traffic to them arrives.
    DoesntHearPeers(NodeNumber),
    /// Traffic to NATS is lost: appends never arrive.
    EngineDoesntHear(NodeNumber),
    /// Traffic from NATS is lost: appends arrive, but no acknowledgement does.
    DoesntHearEngine(NodeNumber),
    /// Its traffic arrives late, with jitter.
    Slow(NodeNumber),
    /// SIGKILL of one NATS server, by its number from 0.
    KillServer(u32),
    /// Traffic is lost in both directions between this server and the other servers. All nodes
    /// reach all of them.
    CutServer(u32),
    MoveLeaders,
    /// A node joins.
    Join(NodeNumber),
    /// A node hands over its slots and leaves.
    Drain(NodeNumber),
    /// A slot is moved off its node by hand; at the end all are where they belong.
    DrainSlot(u16),
    /// Every node is restarted with SIGTERM, one after the other.
    RollingRestart,
    /// Another version of the plugins.
    Swap,
}

/// One fault within a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    pub fault: Fault,
    /// From the start of the turn.
    pub begin_after_ms: u64,
    /// How long it lasts at least; 0: it ends by itself.
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

/// What a schedule is generated for.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Initially, numbered from 1.
    pub nodes: u32,
    pub servers: u32,
    /// Turns of several faults, after one of each kind.
    pub mixtures: usize,
    pub slots: u16,
    /// Links can be cut.
    pub links: bool,
    /// Links can be slowed down.
    pub delay: bool,
    /// Begin with every kind of fault alone.
    pub in_turn: bool,
}

/// Maximum number of nodes at once.
const NODES_MAX: usize = 5;
/// With fewer, any fault would affect all of them.
const NODES_MIN: usize = 2;
/// Maximum delay between the starts of two faults of a mixture.
const STAGGER_MS: u64 = 2_000;
/// The same after one that ends by itself, which may be soon.
const STAGGER_BRIEF_MS: u64 = 300;

/// The kinds of faults, without their targets.
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
    /// The node that it affects, or creates.
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

    /// Its name in a printed schedule.
    pub fn name(self) -> String {
        let name = format!("{self:?}");
        name.split('(').next().unwrap_or_default().to_owned()
    }

    /// One of each kind, whatever its target.
    pub fn samples() -> impl Iterator<Item = Self> {
        KINDS.iter().map(|make| make(0))
    }

    /// The minimum and maximum duration, long enough to have an effect: a dead node is noticed
    /// after 2 s, one without NATS reports it after at most 5 s, and a server without the others
    /// knows it after some 10 s. `None`: it ends by itself.
    fn hold_ms(self) -> Option<(u64, u64)> {
        match self {
            Self::Kill(_) | Self::Pause(_) | Self::Slow(_) | Self::KillServer(_) => {
                Some((1_000, 5_000))
            }
            Self::DrainSlot(_) => Some((1_000, 3_000)),
            Self::CutFromPeers(_) | Self::PeersDontHear(_) | Self::DoesntHearPeers(_) => {
                Some((4_000, 6_000))
            }
            Self::CutFromEngine(_)
            | Self::CutFromBoth(_)
            | Self::EngineDoesntHear(_)
            | Self::DoesntHearEngine(_) => Some((8_000, 9_000)),
            Self::CutServer(_) => Some((10_000, 11_000)),
            Self::MoveLeaders
            | Self::Join(_)
            | Self::Drain(_)
            | Self::RollingRestart
            | Self::Swap => None,
        }
    }

    /// It separates a NATS server from the others.
    fn disturbs_engine(self) -> bool {
        matches!(self, Self::KillServer(_) | Self::CutServer(_))
    }

    /// An operator's action: it must not cause any refusal.
    pub fn orderly(self) -> bool {
        matches!(
            self,
            Self::Join(_) | Self::Drain(_) | Self::DrainSlot(_) | Self::RollingRestart | Self::Swap
        )
    }

    /// Stops a node from serving for a while, or permanently.
    fn disturbs_node(self) -> bool {
        self.node().is_some() && !matches!(self, Self::Join(_))
    }
}

impl Turn {
    /// It breaks nothing.
    pub fn orderly(&self) -> bool {
        self.faults.iter().all(|planned| planned.fault.orderly())
    }
}

/// The planner's knowledge of the cluster.
struct Planner {
    random: Random,
    shape: Shape,
    nodes: BTreeSet<NodeNumber>,
    next_node: NodeNumber,
    /// Kinds still to come in mixtures before any repeats; the last is the next.
    deck: Vec<usize>,
}

impl Schedule {
    /// The schedule of a seed: always the same.
    pub fn new(seed: u64, shape: Shape) -> Self {
        let mut planner = Planner {
            random: Random::new(seed),
            shape,
            nodes: (1..=shape.nodes).collect(),
            next_node: shape.nodes + 1,
            deck: Vec::new(),
        };
        let mut turns = Vec::new();
        if shape.in_turn {
            let mut kinds: Vec<usize> = (0..KINDS.len()).collect();
            planner.shuffle(&mut kinds);
            turns.extend(kinds.into_iter().filter_map(|kind| planner.single(kind)));
        }
        turns.extend((0..shape.mixtures).map(|_| planner.mixture()));
        Self { seed, turns }
    }
}

impl Planner {
    /// A turn of one kind, with a swap in the middle of it; `None` if this cluster can't have it.
    fn single(&mut self, kind: usize) -> Option<Turn> {
        let mut faults = Vec::new();
        let fault = self.add(&mut faults, kind).then(|| faults[0])?;
        let mut turn = self.turn(faults);
        if fault != Fault::Swap {
            let begin_after_ms = match turn.faults[0].hold_ms {
                0 => self.random.below(STAGGER_BRIEF_MS),
                hold_ms => hold_ms / 2,
            };
            turn.faults.push(Planned { fault: Fault::Swap, begin_after_ms, hold_ms: 0 });
        }
        Some(turn)
    }

    /// A turn of two or three kinds: each comes once before any repeats, as far as they are
    /// compatible.
    fn mixture(&mut self) -> Turn {
        let count = 2 + self.random.below(2) as usize;
        let (mut faults, mut later) = (Vec::new(), Vec::new());
        let mut refilled = false;
        while faults.len() < count {
            let Some(kind) = self.deck.pop() else {
                if std::mem::replace(&mut refilled, true) {
                    break;
                }
                let mut all: Vec<usize> = (0..KINDS.len()).filter(|k| !later.contains(k)).collect();
                self.shuffle(&mut all);
                self.deck = all;
                continue;
            };
            if !self.add(&mut faults, kind) {
                later.push(kind);
            }
        }
        self.deck.extend(later.into_iter().rev());
        self.turn(faults)
    }

    /// Adds a fault of this kind to the others of its turn, if compatible.
    fn add(&mut self, faults: &mut Vec<Fault>, kind: usize) -> bool {
        let Some(fault) = self.fault(kind, faults) else { return false };
        match fault {
            Fault::Join(_) => self.next_node += 1,
            Fault::Drain(node) => _ = self.nodes.remove(&node),
            _ => {}
        }
        faults.push(fault);
        true
    }

    /// When each fault of a turn begins, and how long it lasts. Those that last come first, so that
    /// the others overlap them.
    fn turn(&mut self, mut faults: Vec<Fault>) -> Turn {
        faults.sort_by_key(|fault| fault.hold_ms().is_none());
        let mut turn = Turn { faults: Vec::new() };
        for fault in faults {
            if let Fault::Join(node) = fault {
                self.nodes.insert(node);
            }
            let hold_ms =
                fault.hold_ms().map_or(0, |(least, most)| least + self.random.below(most - least));
            let begin_after_ms = match turn.faults.first() {
                None => 0,
                Some(Planned { hold_ms: 0, .. }) => self.random.below(STAGGER_BRIEF_MS),
                Some(first) => self.random.below(first.hold_ms.min(STAGGER_MS)),
            };
            turn.faults.push(Planned { fault, begin_after_ms, hold_ms });
        }
        turn
    }

    fn fault(&mut self, kind: usize, others: &[Fault]) -> Option<Fault> {
        let make = KINDS[kind];
        let sample = make(0);
        let others = || others.iter().copied();
        let same =
            others().any(|other| std::mem::discriminant(&other) == std::mem::discriminant(&sample));
        let disturbed = others().filter(|other| other.disturbs_node()).count();
        let restart = others().any(|other| other == Fault::RollingRestart);
        match sample {
            _ if sample.cuts() && !self.shape.links => None,
            Fault::Slow(_) if !self.shape.delay => None,
            // Only nodes can be affected twice at once; and a majority of the NATS servers must
            // stay.
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
                // At least one node is left alone.
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
            write!(f, "{comma}{fault:?} at {begin_after_ms} ms")?;
            if *hold_ms > 0 {
                write!(f, " for {hold_ms} ms")?;
            }
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

        /// Without it, a failed run could not be reproduced.
        #[test]
        fn the_same_seed_gives_the_same_schedule(seed: u64) {
            let schedule = Schedule::new(seed, SHAPE);
            prop_assert_eq!(&schedule, &Schedule::new(seed, SHAPE));
            prop_assert_ne!(schedule.turns, Schedule::new(seed ^ 1, SHAPE).turns);
        }

        /// Without it, a schedule could demand what no cluster survives, and fail for no reason.
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

    /// The names of all kinds; does not compile if one is missing.
    macro_rules! names {
        ($($kind:ident),+ $(,)?) => {{
            fn _all(fault: Fault) {
                match fault { $(Fault::$kind { .. })|+ => {} }
            }
            [$(stringify!($kind)),+]
        }};
    }

    fn names(turns: &[Turn]) -> BTreeSet<String> {
        let faults = turns.iter().flat_map(|turn| &turn.faults);
        faults.map(|planned| planned.fault.name()).collect()
    }

    /// Without it, a fault of the list might never be tried.
    #[test]
    fn every_kind_has_its_turn() {
        let all = names![
            Kill,
            Pause,
            CutFromPeers,
            CutFromEngine,
            CutFromBoth,
            PeersDontHear,
            DoesntHearPeers,
            EngineDoesntHear,
            DoesntHearEngine,
            Slow,
            KillServer,
            CutServer,
            MoveLeaders,
            Join,
            Drain,
            DrainSlot,
            RollingRestart,
            Swap,
        ];
        let all = BTreeSet::from(all.map(str::to_owned));
        assert_eq!(Fault::samples().map(Fault::name).collect::<BTreeSet<_>>(), all);
        for seed in 0..50 {
            let schedule = Schedule::new(seed, Shape { mixtures: 0, ..SHAPE });
            assert_eq!(names(&schedule.turns), all, "{schedule:?}");
            let turns = &schedule.turns;
            assert_eq!(turns.len(), all.len(), "{schedule:?}");
            let swapped = |turn: &Turn| turn.faults.iter().any(|one| one.fault == Fault::Swap);
            assert!(turns.iter().all(swapped), "{schedule:?}");
        }
    }

    /// Without it, faults might never overlap, or always the same ones.
    #[test]
    fn mixtures_overlap() {
        for seed in 0..50 {
            let turns = Schedule::new(seed, Shape { in_turn: false, ..SHAPE }).turns;
            let several = turns.iter().filter(|turn| turn.faults.len() > 1).count();
            assert!(several > turns.len() * 3 / 4, "{several} of {}: {turns:?}", turns.len());
            // Two or three in each; some have to wait for compatible others.
            let soon = names(&turns[..10]);
            assert!(soon.len() >= KINDS.len() - 2, "seed {seed}: {soon:?}");
            for turn in turns {
                let first = turn.faults[0];
                let falls_into = |one: &Planned| one.begin_after_ms < first.hold_ms;
                let lasts = first.hold_ms > 0;
                assert!(!lasts || turn.faults.iter().all(falls_into), "{turn}");
            }
        }
    }
}
