//! What a node counts of a canary's step: of its version, and of the one that it is compared with. Only while a service
//! has a canary; a call costs one look at a flag otherwise.

use super::{Service, verdict::Seen};
use crate::{
    limits,
    log::record::DeploymentId,
    names::{ServiceName, SessionId},
    plugin::{Failure, PluginError},
};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use xxhash_rust::xxh3::xxh3_64;

/// What can go wrong with a call that says something of its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    Trap,
    Deadline,
    Rejection,
    /// Of a limit, or of what it may send and request.
    Limit,
    /// A session that it did not take over.
    Pin,
}

impl Fault {
    pub const ALL: [Self; 5] =
        [Self::Trap, Self::Deadline, Self::Rejection, Self::Limit, Self::Pin];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trap => "traps",
            Self::Deadline => "deadlines",
            Self::Rejection => "rejections",
            Self::Limit => "limits",
            Self::Pin => "pins",
        }
    }

    /// # Errors
    /// The call has not shown anything of its version.
    fn of(result: Result<(), &Failure>) -> Result<Option<Self>, ()> {
        match result {
            Ok(()) => Ok(None),
            Err(Failure::Rejected(_)) => Ok(Some(Self::Rejection)),
            Err(Failure::Trapped(_)) => Ok(Some(Self::Trap)),
            Err(Failure::NoInstance(PluginError::Refused(_) | PluginError::Failed(_))) => {
                Ok(Some(Self::Trap))
            }
            Err(Failure::Deadline(_)) => Ok(Some(Self::Deadline)),
            Err(Failure::Limit(_) | Failure::Forbidden(_) | Failure::RequestForbidden(_)) => {
                Ok(Some(Self::Limit))
            }
            Err(_) => Err(()),
        }
    }
}

/// Times are counted by steps of a quarter of an octave, from a microsecond on: a ratio of two is four of them.
const PER_OCTAVE: f64 = 4.0;
/// Up to half a minute.
const TIMES: usize = 100;

fn bucket(took: Duration) -> usize {
    let micros = took.as_secs_f64() * 1e6;
    if micros <= 1.0 {
        return 0;
    }
    ((micros.log2() * PER_OCTAVE) as usize + 1).min(TIMES - 1)
}

/// What a bucket's times do not exceed, in microseconds.
fn upper(bucket: usize) -> f64 {
    (bucket as f64 / PER_OCTAVE).exp2()
}

/// What was counted of one version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Messages and queries that it was called for.
    pub messages: u64,
    /// Sessions that it was to take over.
    pub migrations: u64,
    pub faults: BTreeMap<Fault, Faults>,
    /// By bucket.
    pub(super) times: Vec<u64>,
    /// Bytes of its largest instance.
    pub memory: u64,
}

/// How often something went wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Faults {
    pub count: u64,
    /// The hashes of a few of their sessions.
    sessions: Vec<u64>,
}

impl Faults {
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    fn note(&mut self, session: u64) {
        if self.sessions.len() < limits::CANARY_SESSIONS_NOTED && !self.sessions.contains(&session)
        {
            self.sessions.push(session);
        }
    }
}

impl Counts {
    /// Adds what another node has counted.
    pub fn add(&mut self, other: &Counts) {
        self.messages = self.messages.saturating_add(other.messages);
        self.migrations = self.migrations.saturating_add(other.migrations);
        self.memory = self.memory.max(other.memory);
        for (fault, theirs) in &other.faults {
            let own = self.faults.entry(*fault).or_default();
            own.count = own.count.saturating_add(theirs.count);
            theirs.sessions.iter().for_each(|session| own.note(*session));
        }
        // A peer may say anything.
        let theirs = other.times.iter().take(TIMES);
        if self.times.len() < theirs.len() {
            self.times.resize(theirs.len(), 0);
        }
        for (own, theirs) in self.times.iter_mut().zip(theirs) {
            *own = own.saturating_add(*theirs);
        }
    }

    fn count_of(&self, fault: Fault) -> u64 {
        self.faults.get(&fault).map_or(0, |faults| faults.count)
    }

    /// In short: what is kept of it.
    pub fn seen(&self) -> Seen {
        let total: u64 = self.times.iter().sum();
        let [low, middle, high] = super::verdict::ranks(total, 0.99);
        let at = |rank: Option<u64>| {
            let rank = rank?;
            let mut so_far = 0;
            self.times.iter().position(|count| {
                so_far += count;
                so_far >= rank
            })
        };
        // The bucket's lower bound, where it is to be no more than that.
        let below = |bucket: usize| bucket.checked_sub(1).map_or(0.0, upper);
        Seen {
            messages: self.messages,
            migrations: self.migrations,
            traps: self.count_of(Fault::Trap),
            deadlines: self.count_of(Fault::Deadline),
            rejections: self.count_of(Fault::Rejection),
            limits: self.count_of(Fault::Limit),
            pins: self.count_of(Fault::Pin),
            p99_us: at(middle).map_or(0, |bucket| upper(bucket).round() as u64),
            p99_low_us: at(low).map_or(0, |bucket| below(bucket).floor() as u64),
            p99_high_us: at(high).map(|bucket| upper(bucket).ceil() as u64),
            memory: self.memory,
        }
    }

    #[cfg(test)]
    pub(super) fn took(&mut self, took: Duration, times: u64) {
        self.times.resize(TIMES, 0);
        self.times[bucket(took)] += times;
    }

    #[cfg(test)]
    pub(super) fn went_wrong(&mut self, fault: Fault, session: u64) {
        let faults = self.faults.entry(fault).or_default();
        faults.count += 1;
        faults.note(session);
    }
}

/// Counts one version.
struct Side {
    deployment: DeploymentId,
    messages: AtomicU64,
    migrations: AtomicU64,
    times: [AtomicU64; TIMES],
    faults: Mutex<BTreeMap<Fault, Faults>>,
}

impl Side {
    fn new(deployment: DeploymentId) -> Self {
        Self {
            deployment,
            messages: AtomicU64::new(0),
            migrations: AtomicU64::new(0),
            times: [(); TIMES].map(|()| AtomicU64::new(0)),
            faults: Mutex::default(),
        }
    }

    fn fault(&self, fault: Fault, session: &SessionId) {
        let mut faults = self.faults.lock();
        let faults = faults.entry(fault).or_default();
        faults.count += 1;
        faults.note(xxh3_64(session.as_str().as_bytes()));
    }

    fn counts(&self) -> Counts {
        Counts {
            messages: self.messages.load(Relaxed),
            migrations: self.migrations.load(Relaxed),
            faults: self.faults.lock().clone(),
            times: self.times.iter().map(|count| count.load(Relaxed)).collect(),
            memory: 0,
        }
    }
}

/// Counts a step of a canary.
pub struct Trial {
    /// [`super::Canary::trial`].
    key: (u64, u8),
    before: Side,
    canary: Side,
}

impl Trial {
    fn side(&self, deployment: DeploymentId) -> Option<&Side> {
        [&self.canary, &self.before].into_iter().find(|side| side.deployment == deployment)
    }

    /// Counts a call for a message or a query.
    pub fn called(
        &self,
        deployment: DeploymentId,
        session: &SessionId,
        took: Option<Duration>,
        result: Result<(), &Failure>,
    ) {
        let Some(side) = self.side(deployment) else { return };
        let Ok(fault) = Fault::of(result) else { return };
        side.messages.fetch_add(1, Relaxed);
        if let Some(took) = took {
            side.times[bucket(took)].fetch_add(1, Relaxed);
        }
        if let Some(fault) = fault {
            side.fault(fault, session);
        }
    }

    /// Counts a session that a version was to take over.
    pub fn migrated(&self, deployment: DeploymentId, session: &SessionId, taken: bool) {
        let Some(side) = self.side(deployment) else { return };
        side.migrations.fetch_add(1, Relaxed);
        if !taken {
            side.fault(Fault::Pin, session);
        }
    }

    /// Of the version before, and of the canary's.
    pub fn counts(&self) -> [Counts; 2] {
        [self.before.counts(), self.canary.counts()]
    }

    pub fn deployments(&self) -> [DeploymentId; 2] {
        [self.before.deployment, self.canary.deployment]
    }
}

/// What a node counts of canaries.
#[derive(Default)]
pub struct Trials {
    any: AtomicBool,
    of: RwLock<BTreeMap<ServiceName, Arc<Trial>>>,
}

impl Trials {
    /// Counts what the service's canary is at, from zero where that is another step than before.
    pub fn follow(&self, service: &Service) {
        let canary = service.live_canary();
        let wanted = canary.map(|canary| canary.trial());
        if self.of.read().get(&service.name).map(|trial| trial.key) == wanted {
            return;
        }
        let mut of = self.of.write();
        match canary {
            // What is late does not bring back what is over.
            Some(canary) if of.get(&service.name).is_some_and(|t| t.key > canary.trial()) => {}
            Some(canary) => {
                let trial = Trial {
                    key: canary.trial(),
                    before: Side::new(canary.before),
                    canary: Side::new(canary.deployment),
                };
                of.insert(service.name.clone(), Arc::new(trial));
            }
            None => _ = of.remove(&service.name),
        }
        self.any.store(!of.is_empty(), Relaxed);
    }

    pub fn of(&self, service: &ServiceName) -> Option<Arc<Trial>> {
        if !self.any.load(Relaxed) {
            return None;
        }
        self.of.read().get(service).cloned()
    }

    /// The step that is asked for, if it is the one that is counted.
    pub fn at(&self, service: &ServiceName, key: (u64, u8)) -> Option<Arc<Trial>> {
        self.of(service).filter(|trial| trial.key == key)
    }
}
