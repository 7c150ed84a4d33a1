//! A network that is made up: every node's [`Core`], virtual time, and the faults that a test wants.
//! The same seed gives the same run.

use super::super::{
    Options, Terms, Timings,
    core::{Core, Outlets},
    refusal::{Fatal, Refusal},
    wire::FORMAT_SEALED,
};
use crate::{
    discovery::Found,
    level::{self, Level},
    peer::member::{Member, Members},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;

pub const MS: Duration = Duration::from_millis(1);
pub const S: Duration = Duration::from_secs(1);

/// Seeds of a test's runs: this many by default, `SLOTD_SIM_SEEDS` for a long search. A failure
/// prints its seed.
pub fn seeds(default: u64) -> std::ops::Range<u64> {
    0..std::env::var("SLOTD_SIM_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// One process.
pub struct Process {
    pub core: Core,
    pub address: SocketAddr,
    pub members: watch::Receiver<Arc<Members>>,
    pub refusals: watch::Receiver<Arc<[Refusal]>>,
    pub fatal: watch::Receiver<Option<Fatal>>,
    /// When each view was published, and its names.
    pub views: Vec<(Duration, Vec<String>)>,
    dead: bool,
    frozen: bool,
    waiting: Vec<(SocketAddr, Vec<u8>)>,
}

pub struct Sim {
    pub seed: u64,
    start: Instant,
    pub now: Instant,
    pub rng: StdRng,
    pub processes: Vec<Process>,
    flying: BTreeMap<(Instant, u64), (SocketAddr, SocketAddr, Vec<u8>)>,
    sent: u64,
    /// Something that a test may wait for has changed.
    changed: bool,
    /// Datagrams from the first to the second are lost.
    pub cut: HashSet<(SocketAddr, SocketAddr)>,
    /// The fraction of all datagrams that is lost.
    pub loss: f64,
    /// The feature level that processes start with.
    pub level: Level,
    /// Addresses of processes from before level 3: to them, encrypted datagrams are noise.
    pub old: HashSet<SocketAddr>,
    /// What each datagram from an address takes longer.
    pub slow: HashMap<SocketAddr, Duration>,
    /// All datagrams that were sent, if a test records them.
    pub captured: Option<Vec<(SocketAddr, SocketAddr, Vec<u8>)>>,
}

pub fn address(n: usize) -> SocketAddr {
    SocketAddr::new([10, 0, (n >> 8) as u8, n as u8].into(), 7_000)
}

pub fn options(name: &str, peer: SocketAddr, boot: u64, instance: u128) -> Options {
    Options {
        member: Member {
            name: name.into(),
            peer,
            api: SocketAddr::new(peer.ip(), 80),
            boot,
            instance,
            leaving: false,
            unfit: None,
            version: "1.2.3".into(),
        },
        secret: b"a shared secret".to_vec(),
        terms: Terms::new("cluster", 512, level::NEWEST),
        timings: Timings::default(),
        heartbeat: Default::default(),
    }
}

impl Sim {
    pub fn new(seed: u64) -> Self {
        let start = Instant::now();
        Self {
            seed,
            start,
            now: start,
            rng: StdRng::seed_from_u64(seed),
            processes: Vec::new(),
            flying: BTreeMap::new(),
            sent: 0,
            changed: true,
            cut: HashSet::new(),
            loss: 0.0,
            level: level::NEWEST,
            old: HashSet::new(),
            slow: HashMap::new(),
            captured: None,
        }
    }

    /// `count` nodes `n0`, `n1`, ... that know each other's addresses, settled.
    pub fn cluster(seed: u64, count: usize) -> Self {
        Self::cluster_at(level::NEWEST, seed, count)
    }

    pub fn cluster_at(level: Level, seed: u64, count: usize) -> Self {
        let mut sim = Self::new(seed);
        sim.level = level;
        for n in 0..count {
            sim.spawn(n, count);
        }
        sim.run_until(10 * S, |sim| sim.agree(&(0..count).collect::<Vec<_>>()));
        let settle = S + sim.rng.random_range(0..500) * MS;
        sim.run(settle);
        sim
    }

    /// Options of a process at this network's level.
    pub fn options(&self, name: &str, peer: SocketAddr, boot: u64, instance: u128) -> Options {
        let terms = Terms::new("cluster", 512, self.level);
        Options { terms, ..options(name, peer, boot, instance) }
    }

    /// Starts node `n` at its address, with the addresses of the first `seeds` nodes.
    pub fn spawn(&mut self, n: usize, seeds: usize) -> usize {
        let instance = self.rng.random();
        let options = self.options(&format!("n{n}"), address(n), 1, instance);
        self.start(options, (0..seeds).filter(|s| *s != n).map(address).collect())
    }

    /// Starts a process; it replaces the one at its address. Its number is its index in
    /// `processes`.
    pub fn start(&mut self, options: Options, seeds: Vec<SocketAddr>) -> usize {
        self.start_found(options, Found { addresses: seeds.into(), answered: true })
    }

    pub fn start_found(&mut self, options: Options, found: Found) -> usize {
        let at = options.member.peer;
        self.start_at(at, options, found)
    }

    /// Starts a process that may advertise another address.
    pub fn start_at(&mut self, at: SocketAddr, options: Options, found: Found) -> usize {
        let own = options.member.clone();
        let first = Members { number: 0, own: own.name.clone(), alive: [own.clone()].into() };
        let (members, members_seen) = watch::channel(Arc::new(first));
        let (refusals, refusals_seen) = watch::channel(Arc::from([]));
        let (fatal, fatal_seen) = watch::channel(None);
        let outlets = Outlets { members, refusals, fatal };
        let mut core = Core::new(options, outlets, self.now, self.rng.random());
        core.found(self.now, found);
        if let Some(old) = self.at(at) {
            self.processes[old].dead = true;
        }
        self.processes.push(Process {
            core,
            address: at,
            members: members_seen,
            refusals: refusals_seen,
            fatal: fatal_seen,
            views: Vec::new(),
            dead: false,
            frozen: false,
            waiting: Vec::new(),
        });
        self.flush(self.processes.len() - 1);
        self.processes.len() - 1
    }

    fn at(&self, address: SocketAddr) -> Option<usize> {
        self.processes.iter().position(|p| !p.dead && p.address == address)
    }

    pub fn time(&self) -> Duration {
        self.now - self.start
    }
    pub fn kill(&mut self, process: usize) {
        self.processes[process].dead = true;
    }
    pub fn freeze(&mut self, process: usize) {
        self.processes[process].frozen = true;
    }
    pub fn thaw(&mut self, process: usize) {
        self.processes[process].frozen = false;
        for (from, datagram) in std::mem::take(&mut self.processes[process].waiting) {
            self.processes[process].core.datagram(self.now, from, &datagram);
        }
        self.step(process);
    }
    /// Cuts all links between the two groups of nodes, in both directions.
    pub fn part(&mut self, one: &[usize], other: &[usize]) {
        for a in one {
            for b in other {
                self.cut.insert((address(*a), address(*b)));
                self.cut.insert((address(*b), address(*a)));
            }
        }
    }
    /// Passes an order to a process, as its task does.
    pub fn with(&mut self, process: usize, act: impl FnOnce(&mut Core, Instant)) {
        act(&mut self.processes[process].core, self.now);
        self.step(process);
    }
    /// Sends arbitrary bytes.
    pub fn inject(&mut self, from: SocketAddr, to: SocketAddr, datagram: Vec<u8>) {
        self.sent += 1;
        self.flying.insert((self.now + MS, self.sent), (from, to, datagram));
    }

    fn step(&mut self, process: usize) {
        self.processes[process].core.tick(self.now);
        self.flush(process);
    }

    fn flush(&mut self, process: usize) {
        let time = self.time();
        let p = &mut self.processes[process];
        if p.members.has_changed().unwrap_or(false) {
            let names =
                p.members.borrow_and_update().alive.iter().map(|m| m.name.to_string()).collect();
            p.views.push((time, names));
            self.changed = true;
        }
        self.changed |= p.core.is_over();
        let from = p.address;
        for (to, datagram) in std::mem::take(&mut p.core.outbox) {
            if let Some(captured) = &mut self.captured {
                captured.push((from, to, datagram.clone()));
            }
            if self.cut.contains(&(from, to)) || self.rng.random_bool(self.loss) {
                continue;
            }
            self.sent += 1;
            let delay = Duration::from_micros(self.rng.random_range(100..3_000));
            let delay = delay + self.slow.get(&from).copied().unwrap_or_default();
            self.flying.insert((self.now + delay, self.sent), (from, to, datagram));
        }
    }

    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.run_to(end, |_| false);
    }

    /// Runs until the condition holds; returns how long that took. Panics after `most`.
    pub fn run_until(&mut self, most: Duration, so: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now;
        let reached = self.run_to(start + most, so);
        assert!(reached, "seed {}: not within {most:?}:\n{}", self.seed, self.describe());
        self.now - start
    }

    fn run_to(&mut self, end: Instant, so: impl Fn(&Self) -> bool) -> bool {
        self.changed = true;
        loop {
            if std::mem::take(&mut self.changed) && so(self) {
                return true;
            }
            let alive = |p: &&Process| !p.dead && !p.frozen;
            let timers = self.processes.iter().filter(alive).filter_map(|p| p.core.deadline());
            let next = timers.chain(self.flying.first_key_value().map(|((at, _), _)| *at)).min();
            let Some(next) = next.filter(|next| *next <= end) else {
                self.now = end;
                return so(self);
            };
            self.now = next.max(self.now);
            while let Some(entry) = self.flying.first_entry().filter(|e| e.key().0 <= self.now) {
                let (from, to, datagram) = entry.remove();
                let Some(process) = self.at(to) else { continue };
                if self.old.contains(&to) && datagram.get(5) == Some(&FORMAT_SEALED) {
                    continue;
                }
                let p = &mut self.processes[process];
                if p.frozen {
                    p.waiting.push((from, datagram));
                    continue;
                }
                p.core.datagram(self.now, from, &datagram);
                self.step(process);
            }
            for process in 0..self.processes.len() {
                let p = &self.processes[process];
                if !p.dead && !p.frozen && p.core.deadline().is_some_and(|at| at <= self.now) {
                    self.step(process);
                }
            }
        }
    }

    pub fn sees(&self, process: usize) -> Vec<String> {
        let members = self.processes[process].members.borrow();
        if members.number == 0 {
            return Vec::new();
        }
        members.alive.iter().map(|member| member.name.to_string()).collect()
    }
    /// Whether these processes have joined and see exactly each other, with identical data.
    pub fn agree(&self, processes: &[usize]) -> bool {
        let said = |p: &usize| self.processes[*p].core.own.member.clone();
        let mut wanted: Vec<Member> = processes.iter().map(said).collect();
        wanted.sort_by(|a, b| a.name.cmp(&b.name));
        processes.iter().all(|p| {
            let members = self.processes[*p].members.borrow();
            members.number > 0 && *members.alive == *wanted
        })
    }
    pub fn lives(&self, process: usize) -> bool {
        !self.processes[process].dead
    }
    pub fn fatal(&self, process: usize) -> Option<Fatal> {
        self.processes[process].fatal.borrow().clone()
    }
    pub fn refusals(&self, process: usize) -> Vec<Refusal> {
        self.processes[process].refusals.borrow().to_vec()
    }
    /// The views of a process since `time`.
    pub fn views_since(&self, process: usize, time: Duration) -> &[(Duration, Vec<String>)] {
        let views = &self.processes[process].views;
        &views[views.partition_point(|(at, _)| *at <= time)..]
    }
    fn describe(&self) -> String {
        let line = |(n, p): (usize, &Process)| {
            let state = if p.dead {
                "dead"
            } else if p.frozen {
                "frozen"
            } else {
                ""
            };
            let fatal = p.fatal.borrow().clone();
            format!("{n} {:?} {state} sees {:?} {:?}\n", p.core.own, self.sees(n), fatal)
        };
        self.processes.iter().enumerate().map(line).collect()
    }
}
