//! Fair shares of the processor between the services of a node.
//!
//! While the processor has time to spare, every message goes at once. When it is saturated, each service that is active
//! has a **grant**, its max-min fair share by weight: what services ask for less than their share is divided between the
//! others. A service that is within its grant goes at once, one that is beyond it waits until its grant has caught up.
//! What is given out is a little less than the whole ([`limits::SHARES_TARGET`]), so that the queue in front of
//! the processor stays short; with one queue for all, that is what a quiet service waits in.
//!
//! It is a token bucket for each service, filled by its grant, under one for the node, filled by the target. A message goes
//! if either has something left. What a service has left may be [`limits::SHARES_WINDOW`] of its grant, and that bounds
//! what others may wait for it. A message is drawn as what messages of its service cost lately; each tick the real use is
//! known, and the difference is drawn or given back. So a handler that spins pays for it while it does.
//!
//! [`Controller`] has no clock and no lock. [`Shares`] is it for many threads: while the processor is far from saturated,
//! a message costs one relaxed load there.

mod fill;

use crate::limits;
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

/// What was used since the last tick.
#[derive(Clone, Copy, Debug)]
pub struct Tick<'a> {
    pub now: Duration,
    /// Processor time of the process, without that of threads which give way to those that serve.
    pub busy: Duration,
    /// Processor time that they could have used: of the cores of this node, what they were parked for. Not what other
    /// processes took: so what is there follows the machine.
    pub idle: Duration,
    /// How long something waits for its turn on the threads that serve, where that is known: there is more in front of the
    /// processor than messages that were let through.
    pub delay: Duration,
    pub services: &'a [Used<'a>],
}

/// What a service has used since the last tick.
#[derive(Clone, Copy, Debug)]
pub struct Used<'a> {
    pub service: &'a str,
    /// Processor time that is known to be its own: of its handlers, also of calls that have not ended. What nobody is
    /// charged for is divided by `done`.
    pub time: Duration,
    /// What its long calls used on threads that give way to those that serve: nobody waits for them, so it counts for
    /// its cap alone.
    pub aside: Duration,
    /// Messages that left the threads which serve: handled, or gone on as a long call.
    pub done: u64,
    /// Messages that were let through and did not leave them yet. Not those that only wait for their commit.
    pub open: u64,
}

/// What a policy says of a service.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    /// Relative to the others'.
    pub weight: u32,
    /// What its handlers may use, in processors: `guest_time` of its limits. Also while there is time to spare.
    pub cap: Option<f64>,
}

impl Default for Terms {
    fn default() -> Self {
        Self { weight: limits::WEIGHT_DEFAULT, cap: None }
    }
}

impl Terms {
    pub fn of(policy: &crate::policy::Limits) -> Self {
        Self {
            weight: policy.weight.map_or(limits::WEIGHT_DEFAULT, |weight| weight.0),
            cap: policy.guest_time.map(|rate| rate.per_second() / 1e9),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Now. It is drawn.
    Go,
    /// Its service waits, with all that is behind this message. At that time it asks again, or at the next tick if that
    /// comes first; nothing is drawn.
    Wait(Duration),
}

/// What a tick found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Messages are looked at.
    pub engaged: bool,
    /// Of the processor time that there was, what was used.
    pub utilization: f64,
    /// What there was, in processors.
    pub processors: f64,
    pub services: Vec<ServiceState>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ServiceState {
    pub service: Box<str>,
    /// What it may use of them, in processors.
    pub grant: f64,
    /// What it used lately.
    pub used: f64,
    /// A message of it waited since the tick before.
    pub waited: bool,
}

/// The controller.
#[derive(Debug)]
pub struct Controller {
    terms: HashMap<Box<str>, Terms>,
    services: HashMap<Box<str>, Service, RandomState>,
    /// Of the whole node.
    node: Level,
    /// What there is, in processors, lately.
    processors: f64,
    /// Work that was let through and has not run, at the last tick.
    backlog: f64,
    /// What the costliest message of it is taken to cost.
    largest: f64,
    engaged: bool,
    /// Ticks in a row in which nothing was short.
    calm: u32,
    /// The only service that was active lately: nobody would have what it is kept from.
    alone: Option<Box<str>>,
    last: Duration,
}

/// What is left: nanoseconds of processor time.
#[derive(Clone, Copy, Debug, Default)]
struct Level {
    left: f64,
    filled: Duration,
}

impl Level {
    fn fill(&mut self, now: Duration, processors: f64, most: Duration) {
        self.left += ns(now.saturating_sub(self.filled)) * processors;
        self.filled = self.filled.max(now);
        self.left = self.left.min(ns(most) * processors);
    }
}

#[derive(Debug)]
struct Service {
    terms: Terms,
    /// What its messages cost lately: time and messages, which fade.
    cost_time: f64,
    cost_done: f64,
    own: Level,
    /// Of its cap.
    cap: Level,
    /// What was drawn from it since the last tick.
    cap_drawn: f64,
    grant: f64,
    /// What it used lately, in processors.
    used: f64,
    /// Drawn for messages that have not ended.
    reserved: f64,
    /// Messages that were let through and had not ended at the last tick.
    open: u64,
    /// Ticks in a row in which it had some of them and none ended; and after how many of them what they wait for is not
    /// the processor.
    still: u32,
    patience: u32,
    active: Duration,
    /// It has waited for its share since the last tick; and ticks since it has.
    waits: bool,
    since_waited: u32,
    capped: bool,
    /// This tick says something of it.
    told: bool,
}

/// How much of what was used lately one tick is.
const LATELY: f64 = 0.3;

/// Stands for all for whom there is no place.
const BEYOND: &str = "";

fn ns(time: Duration) -> f64 {
    time.as_nanos() as f64
}

impl Service {
    fn new(terms: Terms, now: Duration) -> Self {
        Self {
            terms,
            cost_time: 0.0,
            cost_done: 0.0,
            own: Level { left: 0.0, filled: now },
            cap: Level { left: 0.0, filled: now },
            cap_drawn: 0.0,
            grant: 0.0,
            used: 0.0,
            reserved: 0.0,
            open: 0,
            still: 0,
            patience: limits::SHARES_STILL_TICKS,
            active: now,
            waits: false,
            since_waited: u32::MAX,
            capped: false,
            told: false,
        }
    }

    /// What a message of it is taken to cost.
    fn estimate(&self) -> f64 {
        let cost = match self.cost_time {
            0.0 => ns(limits::SHARES_ESTIMATE_FIRST),
            time => time / self.cost_done.max(1.0),
        };
        cost.min(ns(limits::SHARES_ESTIMATE_MAX))
    }

    /// It wants more than it has.
    fn is_short(&self) -> bool {
        self.since_waited <= 1
    }

    /// Messages of it are in front of the processor, and none has run that would say what they cost.
    fn is_unknown(&self) -> bool {
        self.cost_time <= 0.0 && self.reserved > 0.0 && self.still < self.patience
    }

    fn fill(&mut self, now: Duration) {
        // What is drawn for those is a guess: as long as nobody knows better, they are all that it has.
        match self.is_unknown() {
            true => self.own.filled = self.own.filled.max(now),
            false => self.own.fill(now, self.grant, limits::SHARES_WINDOW),
        }
        if let Some(cap) = self.terms.cap {
            self.cap.fill(now, cap, limits::SHARES_WINDOW);
        }
    }

    /// Begins with all that it may have.
    fn begin(&mut self, now: Duration, grant: f64) {
        self.grant = grant;
        self.own = Level { left: ns(limits::SHARES_WINDOW) * grant, filled: now };
        let cap = self.terms.cap.unwrap_or(0.0);
        self.cap = Level { left: ns(limits::SHARES_WINDOW) * cap, filled: now };
    }
}

impl Controller {
    /// Of a node with so many processors, as far as is known.
    pub fn new(processors: f64, now: Duration) -> Self {
        Self {
            terms: HashMap::new(),
            services: HashMap::default(),
            node: Level { left: 0.0, filled: now },
            processors,
            backlog: 0.0,
            largest: 0.0,
            engaged: false,
            calm: 0,
            alone: None,
            last: now,
        }
    }

    /// What the policy says, by service; `*`: of those that it does not name.
    pub fn set_terms(&mut self, terms: impl IntoIterator<Item = (Box<str>, Terms)>) {
        self.terms = terms.into_iter().collect();
        for (name, service) in &mut self.services {
            service.terms = terms_of(&self.terms, name);
        }
    }

    pub fn is_engaged(&self) -> bool {
        self.engaged
    }

    /// Whether a message goes now, of a service that has let so many through which did not leave the threads that serve.
    pub fn admit(&mut self, service: &str, open: u64, now: Duration) -> Admission {
        let name = self.name(service);
        if !self.engaged && !self.piles_up(name, open, now) {
            return Admission::Go;
        }
        let target = self.target();
        self.node.fill(now, target, limits::SHARES_SPARE);
        if !self.services.contains_key(name) {
            let mut new = Service::new(terms_of(&self.terms, name), now);
            let weights = self.active_weight(now) + f64::from(new.terms.weight);
            new.begin(now, target * f64::from(new.terms.weight) / weights);
            self.services.insert(name.into(), new);
        }
        let alone = self.alone.as_deref() == Some(name);
        if !alone {
            self.alone = None;
        }
        let Some(service) = self.services.get_mut(name) else { return Admission::Go };
        service.active = service.active.max(now);
        service.fill(now);
        if let Some(cap) = service.terms.cap.filter(|_| service.cap.left <= 0.0) {
            service.capped = true;
            return wait(now, -service.cap.left / cap);
        }
        let estimate = service.estimate();
        let is_capped = service.terms.cap.is_some();
        if service.own.left > 0.0 {
            service.own.left -= estimate;
        } else if (self.node.left <= 0.0 || service.is_unknown()) && !alone {
            service.waits = true;
            return wait(now, -service.own.left / service.grant.max(1e-6));
        }
        if is_capped {
            // Until the next tick says what it was.
            service.cap.left -= estimate;
            service.cap_drawn += estimate;
        }
        // What nobody has a share for is nobody's debt.
        service.reserved += estimate;
        self.node.left -= estimate;
        Admission::Go
    }

    /// Time has passed, some [`limits::SHARES_TICK`].
    pub fn on(&mut self, tick: &Tick<'_>) -> State {
        let now = tick.now;
        let passed = ns(now.saturating_sub(std::mem::replace(&mut self.last, now))).max(1.0);
        let there = ns(tick.busy) + ns(tick.idle);
        let utilization = if there > 0.0 { ns(tick.busy) / there } else { 0.0 };
        self.processors += (there / passed - self.processors) * 0.2;
        let known: f64 = tick.services.iter().map(|used| ns(used.time)).sum();
        let done: u64 = tick.services.iter().map(|used| used.done).sum();
        let shared = if done > 0 { (ns(tick.busy) - known).max(0.0) / done as f64 } else { 0.0 };
        let mut released = 0.0;
        for service in self.services.values_mut() {
            (service.open, service.told) = (0, false);
        }
        for used in tick.services {
            let name = self.name(used.service).to_owned();
            let terms = terms_of(&self.terms, &name);
            let service = self.services.entry(name.into());
            let service = service.or_insert_with(|| Service::new(terms, now));
            service.patience = patience(self.backlog - service.backlog(), self.processors);
            service.fill(now);
            released += service.charge(used, shared * used.done as f64, passed, now);
        }
        for service in self.services.values_mut().filter(|service| !service.told) {
            // It has used nothing.
            service.used *= 1.0 - LATELY;
        }
        for service in self.services.values_mut().filter(|service| service.open == 0) {
            // What is drawn for nothing is given back.
            released += service.reserved;
            service.own.left += std::mem::take(&mut service.reserved);
        }
        self.node.fill(now, self.target(), limits::SHARES_SPARE);
        self.node.left -= ns(tick.busy) - released;
        let floor = -ns(limits::SHARES_DEBT) * self.processors;
        self.node.left = self.node.left.max(floor);
        self.look_at_queue();
        if utilization < limits::SHARES_DISENGAGE {
            // There was time for them: they wait for something else.
            self.backlog = 0.0;
        } else if utilization >= limits::SHARES_DELAY_FROM {
            // Else the delay is that of the machine, whose processors others have.
            self.backlog = self.backlog.max(ns(tick.delay) * self.processors);
        }
        // What lay idle, with no queue: a debt is no reason for it. Who waits may have as much.
        let idle = ns(tick.idle) - there * (1.0 - limits::SHARES_TARGET);
        if self.backlog <= self.right_queue() {
            self.node.left = self.node.left.max(idle);
        }
        self.forget(now);
        self.grant(now);
        self.look_for_company(now);
        self.engage(utilization, now);
        let state = self.state(utilization);
        for service in self.services.values_mut() {
            service.since_waited = match service.waits {
                true => 0,
                false => service.since_waited.saturating_add(1),
            };
            (service.waits, service.capped) = (false, false);
        }
        state
    }

    /// What is given out, in processors: less than there is while there is a queue that others wait in.
    fn target(&self) -> f64 {
        let beyond = (self.backlog - self.right_queue()).max(0.0);
        let target = self.processors * limits::SHARES_TARGET - beyond / ns(limits::SHARES_DRAIN);
        target.max(self.processors * limits::SHARES_TARGET_MIN)
    }

    /// Looks at messages from now on if a service has too many in front of the processor.
    fn piles_up(&mut self, name: &str, open: u64, now: Duration) -> bool {
        let known = self.services.get(name);
        let estimate = known.map_or(ns(limits::SHARES_ESTIMATE_FIRST), Service::estimate);
        if open as f64 * estimate <= ns(limits::SHARES_TICK) * self.processors.max(0.1) {
            return false;
        }
        let terms = terms_of(&self.terms, name);
        let service = self.services.entry(name.into());
        let service = service.or_insert_with(|| Service::new(terms, now));
        (service.open, service.active) = (open, now);
        self.look_at_queue();
        self.grant(now);
        self.begin(now);
        true
    }

    /// From now on messages are looked at: what services have let through before is their debt.
    fn begin(&mut self, now: Duration) {
        (self.engaged, self.calm) = (true, 0);
        self.node = Level { left: 0.0, filled: now };
        for service in self.services.values_mut() {
            service.begin_with_debt(now);
            self.node.left -= service.reserved;
        }
    }

    fn name<'a>(&self, service: &'a str) -> &'a str {
        let full = self.services.len() >= limits::SHARES_SERVICES_MAX;
        if full && !self.services.contains_key(service) { BEYOND } else { service }
    }

    /// Work in front of the processor that is as it should be.
    fn right_queue(&self) -> f64 {
        ns(limits::SHARES_QUEUE) * self.processors + 2.0 * self.largest
    }

    fn look_at_queue(&mut self) {
        self.backlog = self.services.values().map(Service::backlog).sum();
        let waits = self.services.values().filter(|service| service.open > 0);
        self.largest = waits.map(Service::estimate).fold(0.0, f64::max);
    }

    fn active_weight(&self, now: Duration) -> f64 {
        let active = self.services.values().filter(|service| service.is_active(now));
        active.map(|service| f64::from(service.terms.weight)).sum()
    }

    /// Whether one service is the only one. It waits for nobody, and what it has is no debt but for what is in front of the
    /// processor, which whoever comes next waits for.
    fn look_for_company(&mut self, now: Duration) {
        let lately =
            |service: &Service| now.saturating_sub(service.active) <= limits::SHARES_COMPANY;
        let mut active = self.services.iter_mut().filter(|(_, service)| lately(service));
        let alone = match (active.next(), active.next()) {
            // It stands for many.
            (Some((name, _)), _) if &**name == BEYOND => None,
            (Some((name, service)), None) => {
                service.own.left = service.own.left.max(-service.reserved);
                self.node.left = self.node.left.max(-service.reserved);
                Some(name)
            }
            _ => None,
        };
        if self.alone.as_deref() != alone.map(|name| &**name) {
            self.alone = alone.cloned();
        }
    }

    /// Drops services that have been quiet for long: by then they owe nothing.
    fn forget(&mut self, now: Duration) {
        self.services
            .retain(|_, service| now.saturating_sub(service.active) <= limits::SHARES_KEPT);
    }

    fn grant(&mut self, now: Duration) {
        let target = self.target();
        let mut active: Vec<_> =
            self.services.values_mut().filter(|service| service.is_active(now)).collect();
        let asks = active.iter().map(|service| fill::Asks {
            weight: f64::from(service.terms.weight),
            wants: service.wants(),
        });
        let grants = fill::fill(target, &asks.collect::<Vec<_>>());
        for (service, grant) in active.iter_mut().zip(grants) {
            let cap = service.terms.cap.unwrap_or(f64::INFINITY);
            service.grant = grant.min(cap.max(service.used));
            let floor = -ns(limits::SHARES_DEBT) * service.grant;
            service.own.left = service.own.left.max(floor);
        }
    }

    /// Decides whether messages are looked at from now on.
    fn engage(&mut self, utilization: f64, now: Duration) {
        let piles_up = self.backlog > ns(limits::SHARES_TICK) * self.processors.max(0.1);
        let waits = self.services.values().any(|service| service.waits || service.capped);
        let is_capped = |service: &Service| {
            service.terms.cap.is_some_and(|cap| service.used > cap * limits::SHARES_ENGAGE)
                || service.terms.cap.is_some() && service.cap.left <= 0.0
        };
        let capped = self.services.values().any(is_capped);
        let short = utilization >= limits::SHARES_ENGAGE || piles_up || capped;
        if self.engaged {
            let calm = utilization < limits::SHARES_DISENGAGE && !piles_up && !waits && !capped;
            self.calm = if calm { self.calm + 1 } else { 0 };
            self.engaged = self.calm < limits::SHARES_CALM_TICKS;
        } else if short {
            self.begin(now);
        }
    }

    fn state(&self, utilization: f64) -> State {
        let of = |name: &str, service: &Service| ServiceState {
            service: name.into(),
            grant: service.grant,
            used: service.used,
            waited: service.waits || service.capped,
        };
        State {
            engaged: self.engaged,
            utilization,
            processors: self.processors,
            services: self.services.iter().map(|(name, service)| of(name, service)).collect(),
        }
    }
}

fn terms_of(terms: &HashMap<Box<str>, Terms>, name: &str) -> Terms {
    terms.get(name).or_else(|| terms.get("*")).copied().unwrap_or_default()
}

/// After how many ticks in which none of a service's messages ended they wait for something else than the processor: not
/// while what others have in front of it is before them.
fn patience(others: f64, processors: f64) -> u32 {
    let ticks = others.max(0.0) / (ns(limits::SHARES_TICK) * processors.max(0.1));
    limits::SHARES_STILL_TICKS + (ticks as u32).min(limits::SHARES_QUEUED_TICKS_MAX)
}

fn wait(now: Duration, ns: f64) -> Admission {
    // Not a number, or without an end: as long as may be.
    let bounds = (limits::SHARES_WAIT_MIN, limits::SHARES_WAIT_MAX);
    let most = bounds.1.as_nanos() as f64;
    let wait = if ns < most { Duration::from_nanos(ns.max(0.0) as u64) } else { bounds.1 };
    Admission::Wait(now + wait.max(bounds.0))
}

impl Service {
    fn is_active(&self, now: Duration) -> bool {
        now.saturating_sub(self.active) <= limits::SHARES_ACTIVE
    }

    /// In processors. One that waits wants all that it can get.
    fn wants(&self) -> f64 {
        let wants = match self.is_short() || self.waits {
            true => f64::INFINITY,
            // Room to grow into: the next tick sees more.
            false => self.used * 1.25,
        };
        wants.min(self.terms.cap.unwrap_or(f64::INFINITY).max(self.used))
    }

    /// What is let through and has not run, as far as is known.
    fn backlog(&self) -> f64 {
        // What waits for something else, such as a slot with a long call, does not wait for the processor.
        if self.still >= self.patience { 0.0 } else { self.open as f64 * self.estimate() }
    }

    /// Takes what it has used; gives back what was drawn for messages that ended.
    fn charge(&mut self, used: &Used<'_>, shared: f64, passed: f64, now: Duration) -> f64 {
        let charge = ns(used.time) + shared;
        let estimate = self.estimate();
        if charge > 0.0 || used.done > 0 {
            // A pause does not make it cheaper.
            self.cost_time = self.cost_time * 0.9 + charge;
            self.cost_done = self.cost_done * 0.9 + used.done as f64;
        }
        self.used += (charge / passed - self.used) * LATELY;
        self.told = true;
        self.open += used.open;
        self.still = match used.open > 0 && used.done == 0 {
            true => self.still.saturating_add(1),
            false => 0,
        };
        if used.done > 0 || used.open > 0 || charge > 0.0 {
            self.active = now;
        }
        let all = (used.done + used.open) as f64;
        let released = match used.open {
            0 => self.reserved,
            _ => (self.reserved * used.done as f64 / all).min(self.reserved),
        };
        // Never more than those that are open can be drawn for: else what was lost would be owed for ever.
        let most = used.open as f64 * estimate.max(self.estimate());
        let kept = (self.reserved - released).min(most);
        let released = self.reserved - kept;
        self.reserved = kept;
        self.own.left -= charge - released;
        self.cap.left += std::mem::take(&mut self.cap_drawn) - ns(used.time) - ns(used.aside);
        let floor = -ns(limits::SHARES_DEBT) * self.terms.cap.unwrap_or(0.0);
        self.cap.left = self.cap.left.max(floor);
        released
    }

    fn begin_with_debt(&mut self, now: Duration) {
        self.reserved = self.backlog();
        // Of its window, what it did not use.
        let unused = (self.grant - self.used).max(0.0) * ns(limits::SHARES_WINDOW);
        self.own = Level { left: unused - self.reserved, filled: now };
    }
}

/// The controller of a node, for all of its threads.
#[derive(Debug)]
pub struct Shares {
    engaged: AtomicBool,
    controller: Mutex<Controller>,
}

impl Shares {
    pub fn new(processors: f64, now: Duration) -> Self {
        let controller = Mutex::new(Controller::new(processors, now));
        Self { engaged: AtomicBool::new(false), controller }
    }

    pub fn set_terms(&self, terms: impl IntoIterator<Item = (Box<str>, Terms)>) {
        self.controller.lock().set_terms(terms);
    }

    pub fn weight(&self, service: &str) -> u32 {
        terms_of(&self.controller.lock().terms, service).weight
    }

    /// Whether messages are looked at.
    pub fn is_engaged(&self) -> bool {
        self.engaged.load(Relaxed)
    }

    /// As [`Controller::admit`].
    pub fn admit(&self, service: &str, open: u64, now: impl FnOnce() -> Duration) -> Admission {
        if !self.engaged.load(Relaxed) && open <= limits::SHARES_OPEN_FREE {
            return Admission::Go;
        }
        let mut controller = self.controller.lock();
        let admission = controller.admit(service, open, now());
        if controller.is_engaged() && !self.engaged.load(Relaxed) {
            self.engaged.store(true, Relaxed);
        }
        admission
    }

    /// As [`Controller::on`].
    pub fn on(&self, tick: &Tick<'_>) -> State {
        let mut controller = self.controller.lock();
        let state = controller.on(tick);
        self.engaged.store(state.engaged, Relaxed);
        state
    }
}

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
