//! A node that is simulated: cores, one queue in front of them, threads for long calls, and services with arrivals of
//! their own. Once as it is without shares, once with.

use super::{Admission, Controller, State, Terms, Tick, Used};
use crate::limits;
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::Duration,
};

const US: u64 = 1_000;
pub const MS: u64 = 1_000 * US;
pub const SECOND: u64 = 1_000 * MS;
/// After which a call leaves the threads that serve.
const SLICE: u64 = 10 * MS;
/// After which a thread for long calls gives way to one that serves: its priority is lower.
const LONG_SLICE: u64 = MS;
/// What a service has in its queue at most, as a node has it: more is refused.
const QUEUE_MAX: usize = 4_000;

#[derive(Clone, Copy, Debug)]
pub enum Arrivals {
    /// At random, so many a second, whatever becomes of them.
    Poisson(f64),
    /// So many clients, each of which sends again when it is answered.
    Closed(usize),
    /// So many together, so often.
    Bursts(usize, u64),
}

#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub arrivals: Arrivals,
    /// Processor time of a message.
    pub cost: u64,
    pub from: u64,
    pub to: u64,
    pub terms: Terms,
}

impl Load {
    pub fn new(arrivals: Arrivals, cost_us: u64) -> Self {
        Self { arrivals, cost: cost_us * US, from: 0, to: u64::MAX, terms: Terms::default() }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Machine {
    pub cores: usize,
    pub shares: bool,
    pub until: u64,
    /// Of each message, what is not the handler's and nobody is charged for: in percent of its cost.
    pub unknown: u64,
}

/// What became of a service.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Of each message, when it came and how long it took.
    pub times: Vec<(u64, u64)>,
    pub refused: u64,
    pub used: u64,
    /// By 100 ms: processor time.
    pub used_by: Vec<u64>,
    pub delayed: u64,
    /// When the last of those came.
    pub last_delayed: u64,
}

impl Outcome {
    /// The time that so many of all messages, which came in these times, don't exceed.
    pub fn percentile(&self, part: f64, from: u64, to: u64) -> u64 {
        let came = self.times.iter().filter(|(at, _)| (from..to).contains(at));
        let mut times: Vec<_> = came.map(|(_, took)| *took).collect();
        times.sort_unstable();
        let at = ((times.len() as f64 * part).ceil() as usize).max(1) - 1;
        times.get(at).copied().unwrap_or(0)
    }
}

#[derive(Clone, Copy, Debug)]
struct Job {
    service: usize,
    came: u64,
    left: u64,
    cost: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives(usize),
    Slice(usize),
    Asks(usize),
    Tick,
}

/// First slices that a service may use on the threads that serve, as a node has it: at once, and a second.
const SLICES: (f64, f64) = (8.0, 20.0);

struct Core {
    job: Option<Job>,
    since: u64,
    long: bool,
}

struct Sim<'a> {
    machine: Machine,
    loads: &'a [Load],
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    number: u64,
    cores: Vec<Core>,
    queue: VecDeque<Job>,
    long: VecDeque<Job>,
    lines: Vec<VecDeque<u64>>,
    asking: Vec<bool>,
    names: Vec<String>,
    used: Vec<(u64, u64)>,
    /// First slices that are left to a service, and since when.
    slices: Vec<(f64, u64)>,
    open: Vec<u64>,
    busy: u64,
    outcomes: Vec<Outcome>,
    controller: Controller,
    random: u64,
    states: Vec<State>,
    now: u64,
}

/// Runs it; also what the ticks found.
pub fn run(machine: Machine, loads: &[Load]) -> (Vec<Outcome>, Vec<State>) {
    let names: Vec<_> = (0..loads.len()).map(|n| format!("service-{n}")).collect();
    let mut controller = Controller::new(machine.cores as f64, Duration::ZERO);
    controller.set_terms(names.iter().zip(loads).map(|(n, load)| (n.as_str().into(), load.terms)));
    let mut sim = Sim {
        machine,
        loads,
        events: BinaryHeap::new(),
        number: 0,
        cores: (0..machine.cores).map(|_| Core { job: None, since: 0, long: false }).collect(),
        queue: VecDeque::new(),
        long: VecDeque::new(),
        lines: vec![VecDeque::new(); loads.len()],
        asking: vec![false; loads.len()],
        names,
        used: vec![(0, 0); loads.len()],
        slices: vec![(SLICES.0, 0); loads.len()],
        open: vec![0; loads.len()],
        busy: 0,
        outcomes: vec![Outcome::default(); loads.len()],
        controller,
        random: 0x9e37_79b9_7f4a_7c15,
        states: Vec::new(),
        now: 0,
    };
    for (service, load) in loads.iter().enumerate() {
        match load.arrivals {
            Arrivals::Closed(clients) => {
                for _ in 0..clients {
                    sim.at(load.from, Event::Arrives(service));
                }
            }
            _ => sim.at(load.from, Event::Arrives(service)),
        }
    }
    sim.at(limits::SHARES_TICK.as_nanos() as u64, Event::Tick);
    while let Some(Reverse((now, _, event))) = sim.events.pop() {
        if now >= machine.until {
            break;
        }
        sim.now = now;
        sim.on(event);
    }
    (sim.outcomes, sim.states)
}

impl Sim<'_> {
    fn at(&mut self, at: u64, event: Event) {
        self.number += 1;
        self.events.push(Reverse((at, self.number, event)));
    }

    fn uniform(&mut self) -> f64 {
        // xorshift: the same run each time.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        ((self.random >> 11) as f64 + 1.0) / (1u64 << 53) as f64
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Arrives(service) => self.arrives(service),
            Event::Asks(service) => {
                self.asking[service] = false;
                self.ask(service);
            }
            Event::Slice(core) => self.slice(core),
            Event::Tick => self.tick(),
        }
        self.schedule();
    }

    fn arrives(&mut self, service: usize) {
        let load = self.loads[service];
        if self.now >= load.to {
            return;
        }
        let (count, again) = match load.arrivals {
            Arrivals::Poisson(rate) => (1, Some((-self.uniform().ln() / rate * 1e9) as u64)),
            Arrivals::Closed(_) => (1, None),
            Arrivals::Bursts(count, every) => (count, Some(every)),
        };
        for _ in 0..count {
            match self.lines[service].len() + (self.open[service] as usize) < QUEUE_MAX {
                true => self.lines[service].push_back(self.now),
                false => self.outcomes[service].refused += 1,
            }
        }
        self.ask(service);
        if let Some(again) = again {
            self.at(self.now + again.max(1), Event::Arrives(service));
        }
    }

    /// Has what is first in a service's line go, if it may.
    fn ask(&mut self, service: usize) {
        if self.asking[service] {
            return;
        }
        while let Some(came) = self.lines[service].front().copied() {
            if self.machine.shares {
                let now = Duration::from_nanos(self.now);
                match self.controller.admit(&self.names[service], self.open[service], now) {
                    Admission::Go => {}
                    Admission::Wait(until) => {
                        self.asking[service] = true;
                        self.at(until.as_nanos() as u64, Event::Asks(service));
                        return;
                    }
                }
            }
            self.lines[service].pop_front();
            if came < self.now {
                self.outcomes[service].delayed += 1;
                self.outcomes[service].last_delayed = came;
            }
            self.open[service] += 1;
            let cost = self.loads[service].cost;
            let job = Job { service, came, left: cost, cost };
            self.queue.push_back(job);
        }
    }

    /// The next message, unless its call begins in the pool: its service has used up its slices.
    fn next(&mut self) -> Option<Job> {
        while let Some(job) = self.queue.pop_front() {
            let service = job.service;
            let (left, since) = &mut self.slices[service];
            *left = (*left + (self.now - *since) as f64 / 1e9 * SLICES.1).min(SLICES.0);
            *since = self.now;
            if *left >= 1.0 || job.cost <= SLICE {
                return Some(job);
            }
            self.open[service] -= 1;
            self.used[service].1 += 1;
            self.long.push_back(job);
        }
        None
    }

    fn schedule(&mut self) {
        let long_max = (self.machine.cores / 2).max(1);
        for core in 0..self.cores.len() {
            if self.cores[core].job.is_some() {
                continue;
            }
            let runs_long = self.cores.iter().filter(|core| core.long).count();
            let job = match self.next() {
                Some(job) => (job, false),
                None if runs_long < long_max => match self.long.pop_front() {
                    Some(job) => (job, true),
                    None => return,
                },
                None => return,
            };
            self.cores[core] = Core { job: Some(job.0), since: self.now, long: job.1 };
            let slice = if job.1 { LONG_SLICE } else { SLICE };
            self.at(self.now + job.0.left.min(slice), Event::Slice(core));
        }
    }

    /// Charges what a core has used until now.
    fn account(&mut self, core: usize) {
        let Core { job, since, .. } = &mut self.cores[core];
        let Some(job) = job else { return };
        let used = self.now - std::mem::replace(since, self.now);
        job.left -= used.min(job.left);
        self.busy += used;
        self.used[job.service].0 += used;
        let outcome = &mut self.outcomes[job.service];
        outcome.used += used;
        let part = (self.now.saturating_sub(1) / (100 * MS)) as usize;
        if outcome.used_by.len() <= part {
            outcome.used_by.resize(part + 1, 0);
        }
        outcome.used_by[part] += used;
    }

    fn slice(&mut self, core: usize) {
        self.account(core);
        let Some(job) = self.cores[core].job.take() else { return };
        let was_long = std::mem::take(&mut self.cores[core].long);
        let service = job.service;
        if was_long {
            if job.left > 0 {
                return self.long.push_back(job);
            }
        } else {
            // It leaves the threads that serve.
            self.used[service].1 += 1;
            self.open[service] -= 1;
            if job.left > 0 {
                self.slices[service].0 -= 1.0;
                return self.long.push_back(job);
            }
        }
        self.outcomes[service].times.push((job.came, self.now - job.came));
        debug_assert!(job.cost > 0);
        if let Arrivals::Closed(_) = self.loads[service].arrivals {
            self.at(self.now, Event::Arrives(service));
        }
    }

    fn tick(&mut self) {
        for core in 0..self.cores.len() {
            self.account(core);
        }
        let tick = limits::SHARES_TICK.as_nanos() as u64;
        let all = tick * self.cores.len() as u64;
        let (known, busy) = (100 - self.machine.unknown, std::mem::take(&mut self.busy).min(all));
        let used: Vec<_> = self
            .used
            .iter_mut()
            .enumerate()
            .filter(|(service, used)| used.0 + used.1 + self.open[*service] > 0)
            .map(|(service, used)| {
                let (time, done) = std::mem::take(used);
                let time = Duration::from_nanos(time * known / 100);
                Used {
                    service: &self.names[service],
                    time,
                    aside: Duration::ZERO,
                    done,
                    open: self.open[service],
                }
            })
            .collect();
        if self.machine.shares {
            let state = self.controller.on(&Tick {
                now: Duration::from_nanos(self.now),
                busy: Duration::from_nanos(busy),
                idle: Duration::from_nanos(all - busy),
                delay: Duration::ZERO,
                services: &used,
            });
            self.states.push(state);
            drop(used);
            for service in 0..self.lines.len() {
                // At a tick it asks, also if it was to wait for longer.
                if std::mem::take(&mut self.asking[service]) {
                    self.ask(service);
                }
            }
        }
        self.at(self.now + tick, Event::Tick);
    }
}
