//! What services have at work on a node now: what the node's shares ([ADR 35]) go by.
//!
//! A message that is let through is *open* until its handler has ended, or has left the threads that serve. Its commit
//! is nothing that others wait for in front of the processor.
//!
//! [ADR 35]: ../../../../docs/adr/0035-limits-meters-and-fair-shares.md

use crate::{limits, names::ServiceName};
use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use slotd_quota::writes::Bound;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

/// What one service has at work.
#[derive(Debug, Default)]
pub struct Load {
    open: AtomicU64,
    done: AtomicU64,
    time_ns: AtomicU64,
    aside_ns: AtomicU64,
    /// Bytes that its messages have had written, and messages that have.
    wrote: AtomicU64,
    writes: AtomicU64,
    /// Of them, bytes whose commit has not ended.
    under_way: AtomicU64,
    /// Bytes that it may have under way, and one more; 0: there is no bound. And what a message is taken to write.
    most: AtomicU64,
    each: AtomicU64,
    /// Of the connections' buffers: what comes in, what goes out.
    buffers: [AtomicUsize; 2],
}

/// What it did since the node started, and has at work now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    pub open: u64,
    pub done: u64,
    /// Of its handlers on the threads that serve.
    pub time: Duration,
    /// Of its long calls, beside them.
    pub aside: Duration,
    /// What its messages had written, and how many they were.
    pub bytes: u64,
    pub writes: u64,
}

impl Load {
    pub fn open(&self) -> u64 {
        self.open.load(Relaxed)
    }

    /// A message is let through.
    pub fn let_in(self: &Arc<Self>) -> Admitted {
        self.open.fetch_add(1, Relaxed);
        Admitted(Some(self.clone()))
    }

    /// Something is let through that is over in a moment.
    pub fn passed(&self) {
        self.done.fetch_add(1, Relaxed);
    }

    /// Counts what a call took: on the threads that serve, and beside them.
    pub fn took(&self, time: Duration, aside: Duration) {
        self.time_ns.fetch_add(nanoseconds(time), Relaxed);
        if !aside.is_zero() {
            self.aside_ns.fetch_add(nanoseconds(aside), Relaxed);
        }
    }

    pub fn work(&self) -> Work {
        Work {
            open: self.open(),
            done: self.done.load(Relaxed),
            time: Duration::from_nanos(self.time_ns.load(Relaxed)),
            aside: Duration::from_nanos(self.aside_ns.load(Relaxed)),
            bytes: self.wrote.load(Relaxed),
            writes: self.writes.load(Relaxed),
        }
    }

    /// A message of it has so much written: until what comes back is dropped, it is under way.
    pub fn has_written(self: &Arc<Self>, bytes: u64) -> UnderWay {
        self.wrote.fetch_add(bytes, Relaxed);
        self.writes.fetch_add(1, Relaxed);
        self.under_way.fetch_add(bytes, Relaxed);
        UnderWay { load: self.clone(), bytes }
    }

    /// What it may have under way from now on.
    pub fn bound(&self, bound: Bound) {
        self.each.store(bound.each, Relaxed);
        let is_bound = bound.most < u64::MAX;
        self.most.store(if is_bound { bound.most + 1 } else { 0 }, Relaxed);
    }

    /// Whether a message of it that will write goes now.
    pub fn lets_write(&self) -> bool {
        let Some(most) = self.most.load(Relaxed).checked_sub(1) else { return true };
        let bound = Bound { most, each: self.each.load(Relaxed) };
        bound.lets(self.open(), self.under_way.load(Relaxed))
    }

    pub(crate) fn buffers(&self, outgoing: bool) -> &AtomicUsize {
        &self.buffers[usize::from(outgoing)]
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Bytes of a service on their way into the log, until that is decided.
#[derive(Debug)]
pub struct UnderWay {
    load: Arc<Load>,
    bytes: u64,
}

impl UnderWay {
    /// Takes another one in, if it is of the same service; else that comes back.
    pub fn join(&mut self, mut other: Self) -> Option<Self> {
        if !Arc::ptr_eq(&self.load, &other.load) {
            return Some(other);
        }
        self.bytes += std::mem::take(&mut other.bytes);
        None
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.load.under_way.fetch_sub(self.bytes, Relaxed);
    }
}

/// A message that was let through, until it is worked off. A copy of the message was not let through.
#[derive(Debug, Default)]
pub struct Admitted(Option<Arc<Load>>);

impl Admitted {
    /// Counts what its call took on the threads that serve. `false`: it was not let through.
    pub fn took(&self, time: Duration) -> bool {
        if let Some(load) = &self.0 {
            load.took(time, Duration::ZERO);
        }
        self.0.is_some()
    }
}

impl Clone for Admitted {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if let Some(load) = &self.0 {
            load.open.fetch_sub(1, Relaxed);
            load.done.fetch_add(1, Relaxed);
        }
    }
}

type ByService = HashMap<ServiceName, Arc<Load>, RandomState>;

/// Of all services of a node.
pub struct Loads {
    known: ArcSwap<ByService>,
    adding: Mutex<()>,
    is_deployed: Box<dyn Fn(&ServiceName) -> bool + Send + Sync>,
}

impl Loads {
    /// `is_deployed`: whether the node has a service. Others have no place: anyone may ask for any name.
    pub fn new(is_deployed: impl Fn(&ServiceName) -> bool + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            known: ArcSwap::default(),
            adding: Mutex::default(),
            is_deployed: Box::new(is_deployed),
        })
    }

    /// `None`: the node does not have it, or has too many.
    pub fn of(&self, service: &ServiceName) -> Option<Arc<Load>> {
        match self.known.load().get(service) {
            Some(load) => Some(load.clone()),
            None => self.add(service),
        }
    }

    /// Counts what a call of a service took.
    pub fn took(&self, service: &ServiceName, time: Duration, aside: Duration) {
        if let Some(load) = self.known.load().get(service) {
            load.took(time, aside);
        }
    }

    #[cold]
    fn add(&self, service: &ServiceName) -> Option<Arc<Load>> {
        if !(self.is_deployed)(service) {
            return None;
        }
        let _adding = self.adding.lock();
        let known = self.known.load();
        if let Some(load) = known.get(service) {
            return Some(load.clone());
        }
        let mut known = ByService::clone(&known);
        if known.len() >= limits::LOADS_MAX {
            known.retain(|service, _| (self.is_deployed)(service));
        }
        if known.len() >= limits::LOADS_MAX {
            return None;
        }
        let load = Arc::<Load>::default();
        known.insert(service.clone(), load.clone());
        self.known.store(Arc::new(known));
        Some(load)
    }

    pub fn all(&self) -> Vec<(ServiceName, Arc<Load>)> {
        let known = self.known.load();
        known.iter().map(|(service, load)| (service.clone(), load.clone())).collect()
    }
}

impl std::fmt::Debug for Loads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.known.load().iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ServiceName {
        ServiceName::parse(name).unwrap()
    }

    /// A message that is counted as open for ever would slow its service down for good.
    #[test]
    fn a_message_is_open_until_it_is_dropped_and_its_copies_never_are() {
        let loads = Loads::new(|_| true);
        let load = loads.of(&name("s")).unwrap();
        let first = load.let_in();
        let copy = first.clone();
        assert_eq!(load.open(), 1);
        drop((first, copy));
        loads.took(&name("s"), Duration::from_micros(3), Duration::ZERO);
        let work = Work { open: 0, done: 1, time: Duration::from_micros(3), ..Work::default() };
        assert_eq!(loads.of(&name("s")).unwrap().work(), work);
    }

    /// What is counted as under way for ever would keep its service from writing for good.
    #[test]
    fn what_is_under_way_is_bounded_until_it_is_decided() {
        let loads = Loads::new(|_| true);
        let load = loads.of(&name("s")).unwrap();
        load.bound(Bound { most: 1_000, each: 300 });
        let mut first = load.has_written(400);
        assert!(load.lets_write(), "700 with the next one");
        assert!(first.join(load.has_written(400)).is_none());
        assert!(!load.lets_write(), "1,100 with the next one");
        assert!(first.join(loads.of(&name("t")).unwrap().has_written(5)).is_some());
        let open = load.let_in();
        drop(first);
        assert!(load.lets_write());
        load.bound(Bound { most: 0, each: 300 });
        drop(open);
        assert!(!load.lets_write());
        load.bound(Bound::NONE);
        assert!(load.lets_write());
        assert_eq!((load.work().bytes, load.work().writes), (800, 2));
    }

    /// Anyone may send to any name, and services come and go.
    #[test]
    fn only_services_that_are_deployed_have_a_place() {
        let from = Arc::new(AtomicUsize::new(0));
        let first = from.clone();
        let number = |service: &ServiceName| service.as_str()[1..].parse::<usize>();
        let has =
            move |service: &ServiceName| number(service).is_ok_and(|n| n >= first.load(Relaxed));
        let loads = Loads::new(has);
        assert!(loads.of(&name("nobody")).is_none());
        for n in 0..limits::LOADS_MAX {
            assert!(loads.of(&name(&format!("s{n}"))).is_some());
        }
        from.store(1, Relaxed);
        assert_eq!(loads.all().len(), limits::LOADS_MAX);
        assert!(loads.of(&name(&format!("s{}", limits::LOADS_MAX))).is_some());
        assert_eq!(loads.all().len(), limits::LOADS_MAX, "the one that is gone has made room");
        assert!(loads.of(&name("s999999")).is_none(), "all are in use");
    }
}
