//! The memory of all instances of a node: who holds how much, and the bound that none may pass.
//!
//! Memory is counted in pages, and the system's memory maps with it, of which a process may have only
//! so many: without one it can do nothing more, and ends. Both are counted before they are
//! allocated, so the total never exceeds the bound. A request that finds no memory waits briefly;
//! holders of idle instances are asked to release the shortfall. New instances leave a part of the
//! memory to running ones: if calls that each need one more page used all of it, none could finish.
//!
//! On a node with shares ([`Budget::share_out`]), services leave each other some: one that holds little goes before those who
//! wait and may use the last sixteenth, which others leave free; and one that holds half gets no more while others wait. What
//! it has can't be taken back but from idle instances, those of large holders first.

use super::no_memory::NoMemory;
use crate::{limits, names::ServiceName};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
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
    /// Of services that hold little: they wait for nobody else.
    small: Queue,
    /// Of services that hold half of all while others wait: nobody waits for them.
    over: Queue,
    wanted: Notify,
    /// On whose behalf someone waits, for each who does.
    waiting: Mutex<Vec<usize>>,
    /// Services leave each other some.
    shared_out: AtomicBool,
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
            small: Queue::default(),
            over: Queue::default(),
            waiting: Mutex::default(),
            shared_out: AtomicBool::new(false),
            wanted: Notify::new(),
            services: Mutex::default(),
        })
    }

    /// From now on services leave each other some.
    pub fn share_out(&self) {
        self.shared_out.store(true, Ordering::Relaxed);
    }

    /// Where the services' share of it begins to count.
    fn rank(&self, account: &Account, need: Need, max: usize) -> Rank {
        if !self.shared_out.load(Ordering::Relaxed) {
            return Rank::Any;
        }
        let pages = account.pages().saturating_add(need.pages);
        if pages <= max / limits::INSTANCES_RESERVE {
            return Rank::Small;
        }
        let others_wait = || self.waiting.lock().iter().any(|waiting| *waiting != account.id());
        match pages > max / 2 && others_wait() {
            true => Rank::Over,
            false => Rank::Large,
        }
    }

    /// Whether a service holds so much that its idle instances go first where others need memory.
    pub(super) fn is_large(&self, account: &Account) -> bool {
        self.rank(account, Need::default(), self.pages_max) != Rank::Small
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
        let of = |queue: &Queue| queue.pages_wanted.load(Ordering::Relaxed);
        let running = of(&self.running);
        let others = of(&self.starting) + of(&self.small) + of(&self.over);
        let max = match (others, running) {
            // Nobody waits: there is room, or they have given up.
            (0, 0) => return 0,
            (0, _) => self.pages_max,
            _ => self.pages_open_max,
        };
        let max = match self.shared_out.load(Ordering::Relaxed) {
            true => max - max / limits::INSTANCES_RESERVE,
            false => max,
        };
        let wanted = self.used.lock().pages.saturating_add(others + running);
        wanted.saturating_sub(max).saturating_mul(PAGE_BYTES)
    }

    /// Memory maps that those who wait lack.
    pub fn maps_lacking(&self) -> usize {
        let queues = [&self.starting, &self.running, &self.small, &self.over];
        let wanted = queues.map(|queue| queue.maps_wanted.load(Ordering::Relaxed));
        match wanted.into_iter().sum() {
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

    /// Takes what is needed if that leaves no more than `max` pages in use, less what services of that rank leave to
    /// others.
    fn try_take(&self, account: &Account, need: Need, max: usize) -> bool {
        let max = match self.rank(account, need, max) {
            Rank::Any | Rank::Small => max,
            Rank::Large => max - max / limits::INSTANCES_RESERVE,
            Rank::Over => 0,
        };
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
        account: &Account,
        need: Need,
        starts: bool,
        timeout: Duration,
    ) -> Result<Duration, NoMemory> {
        if need.is_nothing() {
            // There is always room for nothing, also where others have passed the bound for those
            // that start: nobody would give anything up for it.
            return Ok(Duration::ZERO);
        }
        let max = if starts { self.pages_open_max } else { self.pages_max };
        // Who comes now does not go before those who wait.
        let queue = self.queue_of(self.rank(account, need, max), starts);
        if !queue.is_wanted() && self.try_take(account, need, max) {
            return Ok(Duration::ZERO);
        }
        if need.pages > max || need.maps > self.maps_max || timeout.is_zero() {
            // More than there can ever be; or nobody is to give anything up for it.
            return Err(self.no_memory(need));
        }
        let begun = crate::clock::now();
        let wait = self.wait(account, need, starts, max);
        tokio::time::timeout(timeout, wait).await.map_err(|_| self.no_memory(need))?;
        Ok(begun.elapsed())
    }

    async fn wait(&self, account: &Account, need: Need, starts: bool, max: usize) {
        loop {
            let rank = self.rank(account, need, max);
            let queue = self.queue_of(rank, starts);
            let _wanted = Wanted::new(self, queue, account, need);
            let _turn = queue.turn.lock().await;
            loop {
                let freed = queue.freed.notified();
                if self.try_take(account, need, max) {
                    return;
                }
                if self.rank(account, need, max) != rank {
                    // Those behind it need not wait for it any more, or it no longer for all others.
                    break;
                }
                // A call that runs may have taken what there was room for when this began to
                // wait: holders of idle instances were not asked then.
                self.wanted.notify_one();
                freed.await;
            }
        }
    }

    fn queue_of(&self, rank: Rank, starts: bool) -> &Queue {
        match (rank, starts) {
            (Rank::Small, _) => &self.small,
            (Rank::Over, _) => &self.over,
            (Rank::Any | Rank::Large, true) => &self.starting,
            (Rank::Any | Rank::Large, false) => &self.running,
        }
    }

    /// Has those whose turn it is look again.
    fn look_again(&self) {
        for queue in [&self.small, &self.running, &self.starting, &self.over] {
            if queue.is_wanted() {
                queue.freed.notify_one();
            }
        }
    }

    fn give_back(&self, held: Need) {
        let mut used = self.used.lock();
        *used = Need {
            pages: used.pages.saturating_sub(held.pages),
            maps: used.maps.saturating_sub(held.maps),
        };
        drop(used);
        self.look_again();
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
        let waited = self.budget.take(&self.account, need, self.starts, self.left).await?;
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

/// What a service's holdings mean for what it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rank {
    /// There are no shares.
    Any,
    Small,
    Large,
    Over,
}

impl Account {
    fn pages(&self) -> usize {
        usize::try_from(self.0.bytes()).unwrap_or(usize::MAX) / PAGE_BYTES
    }
    fn id(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }
}

/// Pages that someone waits for, as long as it does.
struct Wanted<'a> {
    budget: &'a Budget,
    queue: &'a Queue,
    account: usize,
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
    fn new(budget: &'a Budget, queue: &'a Queue, account: &Account, need: Need) -> Self {
        budget.waiting.lock().push(account.id());
        if budget.shared_out.load(Ordering::Relaxed) {
            // Others may hold too much now.
            budget.look_again();
        }
        queue.pages_wanted.fetch_add(need.pages, Ordering::Relaxed);
        queue.maps_wanted.fetch_add(need.maps, Ordering::Relaxed);
        budget.wanted.notify_one();
        Self { budget, queue, account: account.id(), need }
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        let mut waiting = self.budget.waiting.lock();
        if let Some(at) = waiting.iter().position(|waiting| *waiting == self.account) {
            waiting.swap_remove(at);
        }
        drop(waiting);
        self.queue.pages_wanted.fetch_sub(self.need.pages, Ordering::Relaxed);
        self.queue.maps_wanted.fetch_sub(self.need.maps, Ordering::Relaxed);
        if self.budget.shared_out.load(Ordering::Relaxed) {
            self.budget.look_again();
        }
    }
}

#[cfg(test)]
mod tests;
