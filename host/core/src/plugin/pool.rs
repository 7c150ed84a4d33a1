//! The instances of a node; a deployment's instances serve every slot. A handler keeps nothing
//! between calls, so any instance will do; there are as many as calls run at once.
//!
//! An instance is taken for a call and put back after it. One whose call failed is dropped, and so
//! is one that nobody used for a while, that runs a version nobody should run any more, or whose
//! memory others need.

use super::{Account, Budget, Call, Failure, Instance, Outcome, Plugin, PluginError, Signal};
use crate::{
    limits,
    log::record::DeploymentId,
    names::{ServiceName, SessionKey},
    telemetry::metrics,
};
use futures_util::FutureExt as _;
use parking_lot::{Mutex, RwLock};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// What an instance may be used for after its first call. It makes no difference to a handler that
/// keeps nothing in memory between calls, and shows one that does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// Any call of its deployment.
    #[default]
    Shared,
    /// Calls for the same session.
    Session,
    /// Nothing: each call has a new one.
    Call,
}

impl Isolation {
    pub const NAMES: &[&str] = &["shared", "session", "call"];

    pub fn as_str(self) -> &'static str {
        match self {
            Isolation::Shared => "shared",
            Isolation::Session => "session",
            Isolation::Call => "call",
        }
    }

    /// One of [`Isolation::NAMES`].
    pub fn parse(name: &str) -> Option<Self> {
        [Isolation::Shared, Isolation::Session, Isolation::Call]
            .into_iter()
            .find(|isolation| isolation.as_str() == name)
    }
}

/// The instances of all deployments of a node.
#[derive(Debug)]
pub struct Pool {
    isolation: Isolation,
    budget: Arc<Budget>,
    services: RwLock<HashMap<ServiceName, BTreeMap<DeploymentId, Arc<Guests>>>>,
    /// Counts uses of instances: which was used least recently.
    uses: Arc<AtomicU64>,
}

/// The instances of one deployment of a service.
#[derive(Debug)]
pub struct Guests {
    pub service: ServiceName,
    pub deployment: DeploymentId,
    /// The plugin's label, for answers.
    pub label: Arc<str>,
    plugin: Arc<Plugin>,
    isolation: Isolation,
    account: Account,
    budget: Arc<Budget>,
    uses: Arc<AtomicU64>,
    /// In order of use, the latest last: it is the one whose memory is in the processor's caches.
    idle: Mutex<Vec<Idle>>,
    /// The service runs another deployment now; only pinned sessions use this one.
    superseded: AtomicBool,
}

/// A session, and the slot's task that has it, by its signal. Where a slot had another owner in between,
/// another session may have the name.
#[derive(Clone, Debug)]
struct Owner {
    session: SessionKey,
    task: Arc<Signal>,
}

impl Owner {
    fn is(&self, session: &SessionKey, task: &Arc<Signal>) -> bool {
        self.session == *session && Arc::ptr_eq(&self.task, task)
    }
}

#[derive(Debug)]
struct Idle {
    instance: Instance,
    /// Whose calls it has run, where that matters.
    session: Option<Owner>,
    used: u64,
    /// When a sweep first found it unused since its last call; no clock is read for a message.
    since: Option<Instant>,
}

impl Pool {
    pub(super) fn new(isolation: Isolation, budget: Arc<Budget>) -> Self {
        Self { isolation, budget, services: RwLock::default(), uses: Arc::default() }
    }

    /// A deployment whose plugin is loaded here.
    pub fn get(&self, service: &ServiceName, deployment: DeploymentId) -> Option<Arc<Guests>> {
        self.services.read().get(service)?.get(&deployment).cloned()
    }

    /// A deployment that has no place: slots don't find it before it is given one. What is to become a
    /// deployment and does not, leaves its number to another.
    pub fn apart(
        &self,
        service: &ServiceName,
        deployment: DeploymentId,
        label: Arc<str>,
        plugin: Arc<Plugin>,
    ) -> Arc<Guests> {
        let known = self.get(service, deployment);
        if let Some(known) = known.filter(|known| known.plugin.digest() == plugin.digest()) {
            return known;
        }
        Arc::new(Guests {
            service: service.clone(),
            deployment,
            label,
            plugin,
            isolation: self.isolation,
            account: self.budget.account(service),
            budget: self.budget.clone(),
            uses: self.uses.clone(),
            idle: Mutex::default(),
            superseded: AtomicBool::new(false),
        })
    }

    /// Gives a deployment its place, unless it has one; from now on slots find it.
    pub fn place(&self, guests: Arc<Guests>) -> Arc<Guests> {
        let mut services = self.services.write();
        let deployments = services.entry(guests.service.clone()).or_default();
        let placed = deployments.entry(guests.deployment).or_insert_with(|| guests.clone());
        if placed.plugin.digest() != guests.plugin.digest() {
            *placed = guests;
        }
        placed.clone()
    }

    /// As both: of a deployment that is durable.
    pub fn add(
        &self,
        service: &ServiceName,
        deployment: DeploymentId,
        label: Arc<str>,
        plugin: Arc<Plugin>,
    ) -> Arc<Guests> {
        self.place(self.apart(service, deployment, label, plugin))
    }

    /// `current` are what the service runs from now on: idle instances of its other deployments go,
    /// and what pinned sessions make of them does not stay for long.
    pub fn supersede(&self, service: &ServiceName, current: &[DeploymentId]) {
        let mut dropped = Vec::new();
        for guests in self.services.read().get(service).into_iter().flat_map(BTreeMap::values) {
            let superseded = !current.contains(&guests.deployment);
            guests.superseded.store(superseded, Ordering::Relaxed);
            if superseded {
                dropped.append(&mut guests.idle.lock());
            }
        }
        drop(dropped);
    }

    /// Drops what did nothing for `idle`, as far as sweeps have seen, and forgets deployments that
    /// nobody uses, and services without any. Unmapping takes time: not for a thread that serves.
    pub fn sweep(&self, idle: Duration) {
        let mut dropped = Vec::new();
        let mut services = self.services.write();
        for guests in services.values().flat_map(BTreeMap::values) {
            let idle = match guests.superseded.load(Ordering::Relaxed) {
                true => idle.min(limits::INSTANCE_IDLE_SUPERSEDED),
                false => idle,
            };
            let is_idle = |one: &mut Idle| match one.since {
                Some(since) => since.elapsed() >= idle,
                None => {
                    one.since = Some(crate::clock::now());
                    false
                }
            };
            dropped.extend(guests.idle.lock().extract_if(.., is_idle));
        }
        services.retain(|_, deployments| {
            deployments.retain(|_, guests| {
                Arc::strong_count(guests) > 1 || !guests.idle.lock().is_empty()
            });
            !deployments.is_empty()
        });
        drop(services);
        metrics().instances_idle.increment(dropped.len() as u64);
        drop(dropped);
        self.budget.forget_unused();
    }

    /// Drops idle instances that hold `bytes` and `maps` together, the least recently used first; fewer
    /// where there are not as many. Gives how many.
    pub fn shed(&self, bytes: usize, maps: usize) -> usize {
        let all: Vec<Arc<Guests>> = {
            let services = self.services.read();
            services.values().flat_map(BTreeMap::values).cloned().collect()
        };
        let mut candidates = Vec::new();
        for guests in &all {
            // Those of services that hold little would not help others much, and be missed by their own.
            let is_small = !self.budget.is_large(&guests.account);
            let idle = guests.idle.lock();
            candidates.extend(idle.iter().map(|one| ((is_small, one.used), guests)));
        }
        candidates.sort_by_key(|(order, _)| *order);
        let (mut freed, mut freed_maps, mut count) = (0, 0, 0);
        for ((_, used), guests) in candidates {
            if freed >= bytes && freed_maps >= maps {
                break;
            }
            let mut idle = guests.idle.lock();
            // It may have been taken meanwhile.
            if let Some(at) = idle.iter().position(|one| one.used == used) {
                let gone = idle.remove(at);
                drop(idle);
                freed += gone.instance.counted_bytes();
                freed_maps += gone.instance.counted_maps();
                count += 1;
            }
        }
        metrics().instances_shed.increment(count as u64);
        count
    }

    /// Drops what was kept for a session, which has been deleted: one that is made anew under its
    /// name is another.
    pub fn forget(&self, key: &SessionKey) {
        if self.isolation != Isolation::Session {
            return;
        }
        let mut dropped = Vec::new();
        let services = self.services.read();
        for guests in services.get(&key.service).into_iter().flat_map(BTreeMap::values) {
            let of_session =
                |one: &mut Idle| one.session.as_ref().is_some_and(|o| o.session == *key);
            dropped.extend(guests.idle.lock().extract_if(.., of_session));
        }
    }
}

impl Guests {
    pub fn plugin(&self) -> &Arc<Plugin> {
        &self.plugin
    }

    /// Bytes of the largest instance that no call uses.
    pub fn largest(&self) -> u64 {
        let idle = self.idle.lock();
        idle.iter().map(|one| one.instance.counted_bytes() as u64).max().unwrap_or_default()
    }

    /// Instances that no call uses.
    #[cfg(any(test, feature = "testing"))]
    pub fn idle(&self) -> usize {
        self.idle.lock().len()
    }

    /// Runs a call on an instance that is there and may run it, else on a new one, which waits up to
    /// [`limits::INSTANCE_MEMORY_TIMEOUT`] where the node has no memory left.
    pub async fn call(self: Arc<Self>, call: Call, signal: Arc<Signal>) -> Outcome {
        if let Some(why) = signal.is_cut() {
            return Outcome::without_a_call(call.state, Failure::Cut(why));
        }
        let mut instance = match self.take(&call.session, &signal) {
            Some(instance) => instance,
            // Boxed: it is rare, and large.
            None => {
                match self.make(limits::INSTANCE_MEMORY_TIMEOUT, signal.clone()).boxed().await {
                    Ok(instance) => instance,
                    Err(why) => {
                        let failure = match why {
                            PluginError::Cut(why) => Failure::Cut(why),
                            why => Failure::NoInstance(why),
                        };
                        return Outcome::without_a_call(call.state, failure);
                    }
                }
            }
        };
        let session = (self.isolation == Isolation::Session)
            .then(|| Owner { session: call.session.clone(), task: signal.clone() });
        let outcome = instance.call_under(call, signal).await;
        let is_sound = outcome.result.as_ref().err().is_none_or(|failure| !failure.is_fatal());
        if is_sound && self.isolation != Isolation::Call {
            self.keep(instance, session);
        }
        outcome
    }

    fn take(&self, session: &SessionKey, task: &Arc<Signal>) -> Option<Instance> {
        let mut idle = self.idle.lock();
        let at = match self.isolation {
            Isolation::Shared => return idle.pop().map(|one| one.instance),
            Isolation::Session => {
                let is_its = |one: &Idle| one.session.as_ref().is_some_and(|o| o.is(session, task));
                idle.iter().rposition(is_its)?
            }
            Isolation::Call => return None,
        };
        Some(idle.remove(at).instance)
    }

    async fn make(&self, timeout: Duration, signal: Arc<Signal>) -> Result<Instance, PluginError> {
        self.plugin.instantiate_under(self.account.clone(), timeout, signal).await
    }

    /// Makes sure that an instance can be made: by having one ready, or by making one. A node
    /// without memory for it proves nothing about the plugin.
    ///
    /// # Errors
    /// [`PluginError::Refused`].
    pub async fn try_one(self: Arc<Self>, signal: Arc<Signal>) -> Result<(), PluginError> {
        if !self.idle.lock().is_empty() {
            return Ok(());
        }
        match self.make(Duration::ZERO, signal).await {
            Ok(instance) if self.isolation == Isolation::Shared => self.keep(instance, None),
            Ok(_) | Err(PluginError::NoMemory(_)) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Keeps an instance for the next call.
    fn keep(&self, instance: Instance, session: Option<Owner>) {
        if self.budget.is_lacking() {
            // Somebody waits for its memory.
            metrics().instances_shed.increment(1);
            return;
        }
        let used = self.uses.fetch_add(1, Ordering::Relaxed);
        let one = Idle { instance, session, used, since: None };
        let mut idle = self.idle.lock();
        let oldest = (idle.len() >= limits::INSTANCES_IDLE_MAX).then(|| idle.remove(0));
        idle.push(one);
        drop(idle);
        drop(oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::{
        PluginHost, PluginOptions,
        testkit::{self, GUEST_BYTES},
    };

    struct Fixture {
        host: PluginHost,
        guests: Arc<Guests>,
        /// Of the slot's task that calls.
        task: Arc<Signal>,
        _dir: tempfile::TempDir,
    }

    fn service(name: &str) -> ServiceName {
        ServiceName::parse(name).unwrap()
    }

    fn session(name: &str) -> SessionKey {
        SessionKey::parse("s", name).unwrap()
    }

    impl Fixture {
        async fn new(isolation: Isolation) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let options = PluginOptions { isolation, ..testkit::options(dir.path()) };
            let host = PluginHost::new(options).unwrap();
            host.add(testkit::guest().into()).await.unwrap();
            let guests = Self::deployment(&host, "s", 1).await;
            Self { host, guests, task: Arc::default(), _dir: dir }
        }

        async fn deployment(
            host: &PluginHost,
            name: &str,
            deployment: DeploymentId,
        ) -> Arc<Guests> {
            let digest = crate::plugin::Digest::of(&testkit::guest());
            let plugin = host.load(digest).await.unwrap();
            host.pool().add(&service(name), deployment, "1".into(), plugin)
        }

        /// A call of a session, as a slot makes it: how many its instance has run.
        async fn count(&self, name: &str) -> u32 {
            let call = Call { session: session(name), ..testkit::call(testkit::message(b"w")) };
            let outcome = self.guests.clone().call(call, self.task.clone()).await;
            u32::from_le_bytes(outcome.result.unwrap().body[..].try_into().unwrap())
        }

        fn instances(&self) -> u64 {
            self.host.budget().service(&service("s")).instances()
        }
    }

    /// Five hundred slots that have an instance each have five hundred that are cold, and a Python
    /// handler's takes 13 MiB.
    #[tokio::test]
    async fn one_instance_serves_all_who_call_in_turn() {
        let fixture = Fixture::new(Isolation::Shared).await;
        for number in 1..=100 {
            assert_eq!(fixture.count(&format!("session-{number}")).await, number);
        }
        assert_eq!((fixture.instances(), fixture.guests.idle()), (1, 1));
    }

    /// The option must do what it says: nothing of one session's calls is there in another's, nor in
    /// those of one that has its name later.
    #[tokio::test]
    async fn an_instance_of_a_session_is_no_others() {
        let mut fixture = Fixture::new(Isolation::Session).await;
        fixture.guests.clone().try_one(Arc::default()).await.unwrap();
        for calls in 1..=3 {
            for name in ["ann", "bob"] {
                assert_eq!(fixture.count(name).await, calls, "{name}");
            }
        }
        assert_eq!(fixture.instances(), 2);
        fixture.host.pool().forget(&session("ann"));
        assert_eq!((fixture.count("ann").await, fixture.count("bob").await), (1, 4));
        // There are as many as are kept, however many sessions there are.
        for number in 0..limits::INSTANCES_IDLE_MAX {
            fixture.count(&format!("session-{number}")).await;
        }
        assert_eq!(fixture.instances(), limits::INSTANCES_IDLE_MAX as u64);
        assert_eq!(fixture.count("bob").await, 1, "the oldest was kept");
        assert_eq!(fixture.count("bob").await, 2);
        // The slot was elsewhere: what has the name now may be another.
        fixture.task = Arc::default();
        assert_eq!(fixture.count("bob").await, 1);
    }

    /// As above: nothing of a call is there in the next.
    #[tokio::test]
    async fn each_call_has_an_instance_of_its_own() {
        let fixture = Fixture::new(Isolation::Call).await;
        for _ in 0..3 {
            assert_eq!(fixture.count("ann").await, 1);
        }
        assert_eq!(fixture.instances(), 0);
    }

    /// Instances that nobody uses must go, and places of deployments with them, or every deploy
    /// would leave some behind.
    #[tokio::test]
    async fn what_is_idle_or_superseded_goes() {
        let fixture = Fixture::new(Isolation::Shared).await;
        let (pool, idle) = (fixture.host.pool(), Duration::from_millis(1));
        fixture.count("ann").await;
        pool.sweep(idle);
        assert_eq!(fixture.instances(), 1, "it was used a moment ago");
        std::thread::sleep(idle);
        // Used in between: its time begins anew.
        fixture.count("ann").await;
        pool.sweep(idle);
        assert_eq!(fixture.instances(), 1);
        std::thread::sleep(idle);
        pool.sweep(idle);
        assert_eq!(fixture.instances(), 0);

        fixture.count("ann").await;
        let next = Fixture::deployment(&fixture.host, "s", 2).await;
        next.clone().try_one(Arc::default()).await.unwrap();
        pool.supersede(&service("s"), &[2]);
        assert_eq!((fixture.guests.idle(), next.idle()), (0, 1));
        let Fixture { host, guests, .. } = &fixture;
        assert!(host.pool().get(&service("s"), 1).is_some_and(|known| Arc::ptr_eq(&known, guests)));
        drop(fixture.guests);
        pool.sweep(Duration::from_secs(60));
        assert!(pool.get(&service("s"), 1).is_none() && pool.get(&service("s"), 2).is_some());
    }

    /// A deploy that fails after its trial leaves its number to the next one, which must not run the
    /// other's code.
    #[tokio::test]
    async fn what_was_only_tried_is_not_found() {
        let fixture = Fixture::new(Isolation::Shared).await;
        let other = testkit::guest_with("bad-luck", "badluck2");
        let other = fixture.host.add(other.into()).await.unwrap();
        let (pool, name) = (fixture.host.pool(), service("s"));
        let tried = pool.apart(&name, 2, "2".into(), other.clone());
        tried.clone().try_one(Arc::default()).await.unwrap();
        assert!(pool.get(&name, 2).is_none());
        let next = pool.add(&name, 2, "2".into(), fixture.guests.plugin().clone());
        assert_eq!(next.plugin().digest(), fixture.guests.plugin().digest());
        // Whatever has its place wrongly loses it, and its instances.
        let placed = pool.add(&name, 2, "2".into(), other.clone());
        assert_eq!(placed.plugin().digest(), other.digest());
        assert!(pool.get(&name, 2).is_some_and(|known| Arc::ptr_eq(&known, &placed)));
        drop((tried, next));
        assert_eq!(fixture.instances(), 0);
    }

    /// Memory that is lacking comes from what was used least recently, of whatever service, and no
    /// more of it than is needed.
    #[tokio::test]
    async fn the_least_recently_used_gives_way() {
        let fixture = Fixture::new(Isolation::Shared).await;
        let other = Fixture::deployment(&fixture.host, "other", 1).await;
        other.clone().try_one(Arc::default()).await.unwrap();
        fixture.count("ann").await;
        assert_eq!(fixture.host.pool().shed(GUEST_BYTES, 0), 1);
        assert_eq!((other.idle(), fixture.guests.idle()), (0, 1));
        assert_eq!(fixture.host.pool().shed(10 * GUEST_BYTES, 0), 1);
        assert_eq!(fixture.host.pool().shed(1, 0), 0);
        assert_eq!(fixture.host.budget().bytes_used(), 0);
    }
}
