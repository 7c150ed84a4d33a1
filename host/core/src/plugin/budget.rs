//! The memory of all instances of a node: who holds how much, and the bound that none may pass.
//!
//! Memory is counted in pages, and the system's memory maps with it, of which a process may have only
//! so many: without one it can do nothing more, and ends. Both are counted before they are
//! allocated, so the total never exceeds the bound. A request that finds no memory waits briefly;
//! holders of idle instances are asked to release the shortfall. New instances leave a part of the
//! memory to running ones: if calls that each need one more page used all of it, none could finish.

use super::no_memory::NoMemory;
use crate::{limits, names::ServiceName};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::Notify;

/// A page of WebAssembly: memories grow by whole ones.
const PAGE_BYTES: usize = 64 * 1024;

/// What the instances of a service hold.
#[derive(Debug, Default)]
pub struct Usage {
    instances: AtomicU64,
    bytes: AtomicU64,
}

/// On whose behalf an instance is made.
#[derive(Clone, Debug, Default)]
pub struct Account(Arc<Usage>);

/// The memory of a node's instances.
#[derive(Debug)]
pub struct Budget {
    maps_max: usize,
    /// What the system lets the process have in all.
    maps_of_process: usize,
    pages_max: usize,
    /// Up to which new instances are made.
    pages_open_max: usize,
    /// What all instances hold: both at once, so that whoever is refused for the one never holds the
    /// other meanwhile.
    used: Mutex<Need>,
    starting: Queue,
    running: Queue,
    wanted: Notify,
    services: Mutex<BTreeMap<ServiceName, Arc<Usage>>>,
}

/// Those who wait for memory, in order of arrival.
#[derive(Debug, Default)]
struct Queue {
    pages_wanted: AtomicUsize,
    maps_wanted: AtomicUsize,
    /// Held by the one whose turn it is.
    turn: tokio::sync::Mutex<()>,
    /// For that one.
    freed: Notify,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Default)]
struct Need {
    pages: usize,
    maps: usize,
}

impl Need {
    fn is_nothing(self) -> bool {
        self.pages == 0 && self.maps == 0
    }
}

impl Usage {
    pub fn instances(&self) -> u64 {
        self.instances.load(Ordering::Relaxed)
    }
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Budget {
    pub(super) fn new(bytes_max: usize) -> Arc<Self> {
        let read = std::fs::read_to_string("/proc/sys/vm/max_map_count");
        let process = read.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(usize::MAX);
        Self::with_maps(bytes_max, process)
    }

    fn with_maps(bytes_max: usize, maps_of_process: usize) -> Arc<Self> {
        let maps_max = maps_of_process - maps_of_process / limits::MAPS_BESIDE_SHARE;
        let pages_max = bytes_max / PAGE_BYTES;
        Arc::new(Self {
            maps_max,
            maps_of_process,
            pages_max,
            pages_open_max: pages_max - pages_max / limits::GUEST_MEMORY_RUNNING_SHARE,
            used: Mutex::default(),
            starting: Queue::default(),
            running: Queue::default(),
            wanted: Notify::new(),
            services: Mutex::default(),
        })
    }

    /// The account of a service's instances.
    pub fn account(&self, service: &ServiceName) -> Account {
        Account(self.services.lock().entry(service.clone()).or_default().clone())
    }

    /// What the instances of a service hold.
    pub fn service(&self, service: &ServiceName) -> Arc<Usage> {
        self.services.lock().get(service).cloned().unwrap_or_default()
    }

    /// Forgets services on whose behalf nobody can make an instance any more.
    pub(super) fn forget_unused(&self) {
        self.services.lock().retain(|_, usage| Arc::strong_count(usage) > 1);
    }

    pub fn services(&self) -> Vec<(ServiceName, Arc<Usage>)> {
        let services = self.services.lock();
        services.iter().map(|(name, usage)| (name.clone(), usage.clone())).collect()
    }

    pub fn bytes_max(&self) -> usize {
        self.pages_max * PAGE_BYTES
    }

    pub fn bytes_used(&self) -> usize {
        self.used.lock().pages * PAGE_BYTES
    }

    /// What those who wait lack.
    pub fn bytes_lacking(&self) -> usize {
        let starting = self.starting.pages_wanted.load(Ordering::Relaxed);
        let running = self.running.pages_wanted.load(Ordering::Relaxed);
        let max = match (starting, running) {
            // Nobody waits: there is room, or they have given up.
            (0, 0) => return 0,
            (0, _) => self.pages_max,
            _ => self.pages_open_max,
        };
        let wanted = self.used.lock().pages.saturating_add(starting + running);
        wanted.saturating_sub(max).saturating_mul(PAGE_BYTES)
    }

    /// Memory maps that those who wait lack.
    pub fn maps_lacking(&self) -> usize {
        let [starting, running] =
            [&self.starting, &self.running].map(|queue| queue.maps_wanted.load(Ordering::Relaxed));
        match starting + running {
            0 => 0,
            wanted => (self.used.lock().maps + wanted).saturating_sub(self.maps_max),
        }
    }

    pub fn is_lacking(&self) -> bool {
        self.bytes_lacking() > 0 || self.maps_lacking() > 0
    }

    /// Resolves when someone waits for memory. For one task.
    pub async fn lacks(&self) {
        while !self.is_lacking() {
            self.wanted.notified().await;
        }
    }

    fn no_memory(&self, need: Need) -> NoMemory {
        let maps = self.used.lock().maps.saturating_add(need.maps);
        match maps > self.maps_max {
            true => NoMemory::Maps { max: self.maps_max, process: self.maps_of_process },
            false => NoMemory::InUse { bytes_max: self.bytes_max() },
        }
    }

    /// Takes what is needed if that leaves no more than `max` pages in use.
    fn try_take(&self, need: Need, max: usize) -> bool {
        let mut used = self.used.lock();
        let after = Need {
            pages: used.pages.saturating_add(need.pages),
            maps: used.maps.saturating_add(need.maps),
        };
        // Those that run may have passed the bound for those that start: who asks for no pages is not
        // concerned.
        let has_pages = need.pages == 0 || after.pages <= max;
        let has_all = has_pages && after.maps <= self.maps_max;
        if has_all {
            *used = after;
        }
        has_all
    }

    /// Gives the time that it waited.
    async fn take(
        &self,
        need: Need,
        starts: bool,
        timeout: Duration,
    ) -> Result<Duration, NoMemory> {
        if need.is_nothing() {
            // There is always room for nothing, also where others have passed the bound for those
            // that start: nobody would give anything up for it.
            return Ok(Duration::ZERO);
        }
        let (max, queue) = match starts {
            true => (self.pages_open_max, &self.starting),
            false => (self.pages_max, &self.running),
        };
        // Who comes now does not go before those who wait.
        if !queue.is_wanted() && self.try_take(need, max) {
            return Ok(Duration::ZERO);
        }
        if need.pages > max || need.maps > self.maps_max || timeout.is_zero() {
            // More than there can ever be; or nobody is to give anything up for it.
            return Err(self.no_memory(need));
        }
        let (begun, _wanted) = (crate::clock::now(), Wanted::new(self, queue, need));
        let wait = async {
            let _turn = queue.turn.lock().await;
            loop {
                let freed = queue.freed.notified();
                if self.try_take(need, max) {
                    return;
                }
                // A call that runs may have taken what there was room for when this began to
                // wait: holders of idle instances were not asked then.
                self.wanted.notify_one();
                freed.await;
            }
        };
        tokio::time::timeout(timeout, wait).await.map_err(|_| self.no_memory(need))?;
        Ok(begun.elapsed())
    }

    fn give_back(&self, held: Need) {
        let mut used = self.used.lock();
        *used = Need {
            pages: used.pages.saturating_sub(held.pages),
            maps: used.maps.saturating_sub(held.maps),
        };
        drop(used);
        for queue in [&self.running, &self.starting] {
            if queue.is_wanted() {
                queue.freed.notify_one();
            }
        }
    }
}

/// What one instance holds; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    budget: Arc<Budget>,
    account: Account,
    pages: usize,
    maps: usize,
    /// It is being made still.
    starts: bool,
    /// What a call of it may wait in all.
    timeout: Duration,
    /// What this one may wait still.
    left: Duration,
    /// It waited since this was asked last.
    waited: bool,
}

impl Lease {
    /// Counts an instance that is about to be made.
    pub(super) fn open(budget: &Arc<Budget>, account: Account, timeout: Duration) -> Self {
        account.0.instances.fetch_add(1, Ordering::Relaxed);
        let budget = budget.clone();
        Self {
            budget,
            account,
            pages: 0,
            maps: 0,
            starts: true,
            timeout,
            left: timeout,
            waited: false,
        }
    }

    /// The instance is made. From now on it waits for `timeout`, where that is more.
    pub(super) async fn started(&mut self, timeout: Duration) -> Result<(), NoMemory> {
        // One without a memory needs what there is beside it too.
        self.grow(0, 0).await?;
        self.starts = false;
        self.timeout = self.timeout.max(timeout);
        self.left = self.timeout;
        Ok(())
    }

    /// A call begins.
    pub(super) fn renew(&mut self) {
        self.left = self.timeout;
    }

    /// Whether it waited since this was asked last: others ran meanwhile.
    pub(super) fn take_waited(&mut self) -> bool {
        std::mem::take(&mut self.waited)
    }

    /// Takes `bytes` more, waiting for others to give some up where there is none left. The first
    /// time, what an instance needs beside its memories too: both or nothing, so that those who
    /// wait for memory hold none.
    pub(super) async fn grow(&mut self, bytes: usize, maps: usize) -> Result<(), NoMemory> {
        let (beside, maps_beside) = match self.pages {
            0 => (limits::INSTANCE_BYTES_BESIDE, limits::INSTANCE_MAPS_BESIDE),
            _ => (0, 0),
        };
        let pages = bytes.saturating_add(beside).div_ceil(PAGE_BYTES);
        let need = Need { pages, maps: maps + maps_beside };
        let waited = self.budget.take(need, self.starts, self.left).await?;
        self.left = self.left.saturating_sub(waited);
        self.waited |= !waited.is_zero();
        self.pages += pages;
        self.maps += need.maps;
        self.account.0.bytes.fetch_add((pages * PAGE_BYTES) as u64, Ordering::Relaxed);
        Ok(())
    }

    /// What the instance holds in all.
    pub(super) fn bytes(&self) -> usize {
        self.pages * PAGE_BYTES
    }
    pub(super) fn maps(&self) -> usize {
        self.maps
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.account.0.instances.fetch_sub(1, Ordering::Relaxed);
        self.account.0.bytes.fetch_sub(self.bytes() as u64, Ordering::Relaxed);
        self.budget.give_back(Need { pages: self.pages, maps: self.maps });
    }
}

/// Pages that someone waits for, as long as it does.
struct Wanted<'a> {
    queue: &'a Queue,
    need: Need,
}

impl Queue {
    /// Someone waits.
    fn is_wanted(&self) -> bool {
        self.pages_wanted.load(Ordering::Relaxed) > 0
            || self.maps_wanted.load(Ordering::Relaxed) > 0
    }
}

impl<'a> Wanted<'a> {
    fn new(budget: &'a Budget, queue: &'a Queue, need: Need) -> Self {
        queue.pages_wanted.fetch_add(need.pages, Ordering::Relaxed);
        queue.maps_wanted.fetch_add(need.maps, Ordering::Relaxed);
        budget.wanted.notify_one();
        Self { queue, need }
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.queue.pages_wanted.fetch_sub(self.need.pages, Ordering::Relaxed);
        self.queue.maps_wanted.fetch_sub(self.need.maps, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(20);
    const PAGE: usize = PAGE_BYTES;

    async fn lease(budget: &Arc<Budget>, account: &Account) -> Lease {
        let mut lease = Lease::open(budget, account.clone(), TIMEOUT);
        lease.started(TIMEOUT).await.unwrap();
        lease
    }

    /// What an operator reads must be what is held, and nothing once it is given back.
    #[tokio::test]
    async fn what_is_taken_is_counted_and_given_back() {
        let budget = Budget::new(100 * PAGE);
        let (a, b) = (ServiceName::parse("a").unwrap(), ServiceName::parse("b").unwrap());
        let (of_a, of_b) = (budget.account(&a), budget.account(&b));
        let beside = limits::INSTANCE_BYTES_BESIDE;
        let mut one = lease(&budget, &of_a).await;
        let two = lease(&budget, &of_b).await;
        one.grow(3 * PAGE - 1, 0).await.unwrap();
        assert_eq!(one.bytes(), beside + 3 * PAGE);
        assert_eq!((budget.service(&a).instances(), budget.service(&b).instances()), (1, 1));
        assert_eq!(budget.service(&a).bytes(), (beside + 3 * PAGE) as u64);
        assert_eq!(budget.service(&b).bytes(), beside as u64);
        assert_eq!(budget.bytes_used(), 2 * beside + 3 * PAGE);
        drop(one);
        assert_eq!((budget.service(&a).bytes(), budget.service(&a).instances()), (0, 0));
        drop(two);
        assert_eq!((budget.bytes_used(), budget.service(&b).instances()), (0, 0));
    }

    /// Memory must never pass the bound; who waits gets what others give up, and is known to wait.
    #[tokio::test]
    async fn who_finds_none_waits_for_others_to_give_up() {
        let beside = limits::INSTANCE_BYTES_BESIDE;
        let budget = Budget::new(10 * PAGE + 2 * beside);
        let account = Account::default();
        let mut held = lease(&budget, &account).await;
        let mut other = lease(&budget, &account).await;
        held.grow(8 * PAGE, 0).await.unwrap();
        assert_eq!(budget.bytes_lacking(), 0);
        let waits = tokio::spawn(async move { other.grow(5 * PAGE, 0).await.map(|()| other) });
        budget.lacks().await;
        assert_eq!(budget.bytes_lacking(), 3 * PAGE);
        assert!(!waits.is_finished());
        drop(held);
        let other = waits.await.unwrap().unwrap();
        assert_eq!((budget.bytes_lacking(), budget.bytes_used()), (0, beside + 5 * PAGE));
        drop(other);
    }

    /// What there was room for may go to a call that runs, under those who wait for their turn.
    /// Holders of idle instances must be notified then, or they wait in vain.
    #[tokio::test]
    async fn what_is_lacking_later_is_told_too() {
        let beside = limits::INSTANCE_BYTES_BESIDE;
        let budget = Budget::new(64 * PAGE);
        let account = Account::default();
        let mut runs = lease(&budget, &account).await;
        runs.grow((budget.pages_open_max - 2) * PAGE - beside, 0).await.unwrap();
        // One whose turn it is, and one behind it: for both of them there is room.
        let turn = budget.starting.turn.lock().await;
        let before = Wanted::new(&budget, &budget.starting, Need { pages: 1, maps: 0 });
        let waits = tokio::spawn({
            let mut behind = Lease::open(&budget, account.clone(), TIMEOUT);
            async move { behind.started(TIMEOUT).await.map(|()| behind) }
        });
        while budget.starting.pages_wanted.load(Ordering::Relaxed) < 2 {
            tokio::task::yield_now().await;
        }
        let asked = budget.lacks();
        tokio::pin!(asked);
        assert!(futures_util::poll!(&mut asked).is_pending());
        runs.grow(2 * PAGE, 0).await.unwrap();
        drop(turn);
        tokio::time::timeout(TIMEOUT, asked).await.expect("nobody is asked to release memory");
        drop((before, runs));
        waits.await.unwrap().unwrap();
    }

    /// Maps are a resource of their own: where they are used up, idle instances must give way, and a
    /// call without one must get that as its error, rather than that the plugin is at fault; the
    /// process must keep some, or it ends.
    #[tokio::test]
    async fn memory_maps_are_counted_and_named() {
        let budget = Budget::with_maps(1 << 30, 100);
        let account = Account::default();
        let mut held = Vec::new();
        let refused = loop {
            let mut one = Lease::open(&budget, account.clone(), Duration::from_millis(1));
            match one.grow(0, limits::MEMORY_MAPS).await {
                Ok(()) => held.push(one),
                Err(refused) => break refused,
            }
        };
        let each = limits::INSTANCE_MAPS_BESIDE + limits::MEMORY_MAPS;
        assert_eq!(held.len(), 75 / each, "a quarter is the process's own");
        assert!(refused.to_string().contains("vm.max_map_count"), "{refused}");
        assert_eq!((held[0].maps(), budget.is_lacking()), (each, false));
        let waits = tokio::spawn({
            let mut one = Lease::open(&budget, account.clone(), TIMEOUT);
            async move { one.grow(0, limits::MEMORY_MAPS).await.map(|()| one) }
        });
        budget.lacks().await;
        assert!(budget.maps_lacking() > 0);
        held.pop();
        let last = waits.await.unwrap().unwrap();
        drop((last, held));
        assert_eq!(budget.used.lock().maps, 0);
    }

    /// A wait has an end, and leaves nothing behind that says that someone still waits.
    #[tokio::test]
    async fn who_waits_in_vain_is_refused() {
        let beside = limits::INSTANCE_BYTES_BESIDE;
        let budget = Budget::new(4 * PAGE + beside);
        let mut lease = lease(&budget, &Account::default()).await;
        lease.left = Duration::from_millis(1);
        lease.grow(3 * PAGE, 0).await.unwrap();
        let refused = lease.grow(2 * PAGE, 0).await.unwrap_err();
        assert!(refused.to_string().contains("guests.memory_total"), "{refused}");
        // More than the node has at all: no use to wait.
        lease.left = Duration::from_secs(3_600);
        assert!(lease.grow(5 * PAGE + beside, 0).await.is_err());
        assert_eq!((budget.bytes_lacking(), lease.bytes()), (0, beside + 3 * PAGE));
        lease.grow(PAGE, 0).await.unwrap();
    }

    /// Were new instances to take the last page, calls that need one more would all wait for each
    /// other.
    #[tokio::test]
    async fn new_instances_leave_some_to_those_that_run() {
        let budget = Budget::new(64 * PAGE);
        let account = Account::default();
        let mut first = lease(&budget, &account).await;
        let mut new = Lease::open(&budget, account.clone(), Duration::from_millis(1));
        assert!(new.grow(58 * PAGE, 0).await.is_err());
        assert_eq!(new.bytes(), 0, "who was refused holds something");
        new.grow(50 * PAGE, 0).await.unwrap();
        first.left = Duration::ZERO;
        first.grow(12 * PAGE, 0).await.unwrap();
        assert_eq!(budget.bytes_used(), 64 * PAGE);
    }

    /// An instance that has all it needs would wait for others to give up nothing, in vain.
    #[tokio::test]
    async fn who_needs_no_more_does_not_wait() {
        let budget = Budget::new(64 * PAGE);
        let account = Account::default();
        let mut runs = lease(&budget, &account).await;
        let mut new = Lease::open(&budget, account.clone(), Duration::ZERO);
        new.grow(PAGE, 0).await.unwrap();
        runs.grow(59 * PAGE, 0).await.unwrap();
        assert!(budget.bytes_used() > budget.pages_open_max * PAGE);
        new.started(TIMEOUT).await.unwrap();
    }

    /// Nobody who waits may be forgotten when several are served in turn.
    #[tokio::test]
    async fn all_who_wait_are_served() {
        let budget = Budget::new(64 * PAGE);
        let account = Account::default();
        let mut all = lease(&budget, &account).await;
        all.grow(55 * PAGE, 0).await.unwrap();
        let waiting: Vec<_> = (0..20)
            .map(|_| {
                let mut one = Lease::open(&budget, account.clone(), TIMEOUT);
                tokio::spawn(async move { one.started(Duration::ZERO).await.map(|()| one) })
            })
            .collect();
        budget.lacks().await;
        tokio::task::yield_now().await;
        drop(all);
        for one in waiting {
            // Kept, so that each needs memory of its own.
            std::mem::forget(one.await.unwrap().unwrap());
        }
        assert_eq!(budget.bytes_lacking(), 0);
    }
}
