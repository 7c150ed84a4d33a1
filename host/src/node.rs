//! A node: everything that one process runs, and the calls that the gateway and the CLI make.

pub use crate::node_types::*;

use crate::{
    error::{Code, Error},
    limits,
    names::{ServiceName, SessionId, SessionKey, SlotId},
    plugin::{Plugin, PluginError, PluginHost},
    ring,
    router::Router,
    service::{
        Catalogue,
        catalogue::{CatalogueStore, Service},
        swap::Swap,
    },
    slot::{Activation, Mail, Order, SlotContext, SlotOptions, now_ms, read},
    storage::{DataDir, Health},
    telemetry::Snapshot,
};
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::{oneshot, watch};

/// One running node. Shared behind an `Arc`.
pub struct Node {
    name: String,
    options: NodeOptions,
    router: Arc<Router>,
    context: Arc<SlotContext>,
    /// What the ring proposes for the view that the node has.
    table: ring::Table,
    /// The latest swap of each service.
    swaps: Mutex<HashMap<ServiceName, Arc<Swap>>>,
    /// Keeps what is current compiled, also while no slot has an instance of it.
    current: Mutex<HashMap<ServiceName, Arc<Plugin>>>,
    /// One deploy or rollback of a service at a time.
    deploying: Mutex<HashMap<ServiceName, Arc<tokio::sync::Mutex<()>>>>,
    stopping: watch::Sender<bool>,
    health: watch::Receiver<Health>,
    /// Why the node must end, once it must.
    fatal: watch::Sender<Option<String>>,
}

#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Written into claims, shown in tables.
    pub name: String,
    pub slot_count: u16,
    pub mailbox_messages: usize,
    /// A slot without use for this long stops.
    pub slot_idle: Duration,
    /// Memory for cached sessions over all slots.
    pub session_cache_bytes: usize,
}

/// What a node stands on: opened before, so that a node starts complete or not at all.
pub struct Foundation {
    pub data_dir: Arc<DataDir>,
    pub plugins: Arc<PluginHost>,
}

/// The catalogue's key among the data directory's own values.
const CATALOGUE: &str = "catalogue";

impl CatalogueStore for Arc<DataDir> {
    fn load(&self) -> Result<Option<Vec<u8>>, String> {
        let stored = self.meta_get(CATALOGUE).map_err(|e| e.to_string())?;
        Ok(stored.map(Into::into))
    }
    fn save(&self, catalogue: &[u8]) -> Result<(), String> {
        self.meta_put_durable(CATALOGUE, catalogue).map_err(|e| e.to_string())
    }
}

impl Node {
    /// Starts a node: brings every slot to what its service runs (a swap that a crash cut short
    /// goes on) and keeps house from then on.
    ///
    /// # Errors
    /// The stored catalogue does not decode, or the store can't be read.
    pub fn start(options: NodeOptions, foundation: Foundation) -> Result<Arc<Self>, Error> {
        let Foundation { data_dir, plugins } = foundation;
        let catalogue = Catalogue::open(Box::new(data_dir.clone())).map_err(Error::internal)?;
        let context = Arc::new(SlotContext {
            node: options.name.clone(),
            log: data_dir.log(),
            store: data_dir.state(),
            plugins,
            catalogue: Arc::new(catalogue),
            cached_bytes: AtomicUsize::new(0),
            mail_taken: AtomicU64::new(0),
            options: SlotOptions {
                mailbox_messages: options.mailbox_messages,
                cache_bytes: options.session_cache_bytes,
            },
        });
        let view = ring::View::new(1, [options.name.clone()]);
        let node = Arc::new(Self {
            name: options.name.clone(),
            router: Arc::new(Router::new(options.slot_count, context.clone())),
            table: ring::Table::new(&view, options.slot_count),
            context,
            options,
            swaps: Mutex::default(),
            current: Mutex::default(),
            deploying: Mutex::default(),
            stopping: watch::Sender::new(false),
            health: data_dir.health(),
            fatal: watch::Sender::new(None),
        });
        node.resume_swaps()?;
        tokio::spawn(keep_house(Arc::downgrade(&node), node.stopping.subscribe()));
        tokio::spawn(watch_storage(Arc::downgrade(&node), data_dir, node.stopping.subscribe()));
        Ok(node)
    }

    // ---- messages ------------------------------------------------------------------------------

    /// Puts a message into its slot's mailbox (starting the slot if need be). The order of calls
    /// by one task is the order of the messages.
    ///
    /// # Errors
    /// `mailbox-full`, `unavailable`, `service-not-found`.
    pub async fn enqueue(&self, key: &SessionKey, message: Incoming) -> Result<Pending, Error> {
        let (reply, pending) = oneshot::channel();
        let mail = Mail::Message { key: key.clone(), message, reply };
        self.router.deliver(self.router.slot_of(key), mail)?;
        Ok(Pending(pending))
    }

    /// Sends a message and waits until it is durable.
    ///
    /// # Errors
    /// As [`Node::enqueue`], and what became of the message.
    pub async fn send(&self, key: &SessionKey, message: Incoming) -> Result<Sent, Error> {
        self.enqueue(key, message).await?.await
    }

    pub async fn query(
        &self,
        key: &SessionKey,
        content_type: String,
        body: Bytes,
    ) -> Result<Answer, Error> {
        let slot = self.router.slot_of(key);
        let key = key.clone();
        self.ask(slot, |reply| Mail::Query { key, content_type, body, reply }).await
    }

    pub async fn history(&self, key: &SessionKey, range: Range) -> Result<History, Error> {
        let slot = self.router.slot_of(key);
        let key = key.clone();
        self.ask(slot, |reply| Mail::History { key, range, reply }).await
    }

    pub async fn session(&self, key: &SessionKey) -> Result<SessionInfo, Error> {
        let slot = self.router.slot_of(key);
        let key = key.clone();
        self.ask(slot, |reply| Mail::Session { key, reply }).await
    }

    /// Deletes a session with all it has. Its subscribers are told.
    pub async fn delete(&self, key: &SessionKey) -> Result<(), Error> {
        let slot = self.router.slot_of(key);
        let key = key.clone();
        self.ask(slot, |reply| Mail::Delete { key, reply }).await
    }

    /// One step of a subscription to a session's events. See [`Subscribed`]. A session need not
    /// exist yet; the service must.
    pub async fn subscribe(&self, key: &SessionKey, after: u64) -> Result<Subscribed, Error> {
        let slot = self.router.slot_of(key);
        let key = key.clone();
        self.ask(slot, |reply| Mail::Subscribe { key, after, reply }).await
    }

    /// Sessions of a service over all slots, in order of their ids.
    pub async fn sessions(
        &self,
        service: &ServiceName,
        prefix: &str,
        after: Option<&SessionId>,
        limit: usize,
    ) -> Result<Vec<SessionInfo>, Error> {
        self.list(service, prefix, after, limit, false).await
    }

    /// Sessions that a newer plugin's `migrate` refused.
    pub async fn pinned(
        &self,
        service: &ServiceName,
        after: Option<&SessionId>,
        limit: usize,
    ) -> Result<Vec<SessionInfo>, Error> {
        self.list(service, "", after, limit, true).await
    }

    async fn ask<T>(
        &self,
        slot: SlotId,
        mail: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Mail,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.router.deliver(slot, mail(reply))?;
        answer.await.unwrap_or_else(|_| {
            Err(Error::new(Code::Unavailable, "the slot stopped before it answered"))
        })
    }

    /// Merges the slots' listings: a heap over one small page a slot, refilled as it is used up.
    async fn list(
        &self,
        service: &ServiceName,
        prefix: &str,
        after: Option<&SessionId>,
        limit: usize,
        pinned: bool,
    ) -> Result<Vec<SessionInfo>, Error> {
        self.context.catalogue.require(service)?;
        let slot_count = usize::from(self.router.slot_count());
        let page = (2 * limit / slot_count + 4).min(limit);
        let mut pages: Vec<VecDeque<SessionInfo>> = Vec::with_capacity(slot_count);
        let mut heap = BinaryHeap::new();
        for slot in 0..self.router.slot_count() {
            let entries = self.list_slot(slot, service, prefix, after, page, pinned).await?;
            let entries = VecDeque::from(entries);
            if let Some(first) = entries.front() {
                heap.push(Reverse((first.session.clone(), slot)));
            }
            pages.push(entries);
        }
        let mut listed = Vec::with_capacity(limit.min(limits::PAGE_ENTRIES_MAX));
        while listed.len() < limit {
            let Some(Reverse((_, slot))) = heap.pop() else { break };
            let entries = &mut pages[usize::from(slot)];
            let Some(info) = entries.pop_front() else { continue };
            if entries.is_empty() {
                let last = Some(&info.session);
                *entries = self.list_slot(slot, service, prefix, last, page, pinned).await?.into();
            }
            if let Some(next) = entries.front() {
                heap.push(Reverse((next.session.clone(), slot)));
            }
            listed.push(info);
        }
        Ok(listed)
    }

    /// A running slot answers for itself; of one that does not run the store has everything.
    async fn list_slot(
        &self,
        slot: SlotId,
        service: &ServiceName,
        prefix: &str,
        after: Option<&SessionId>,
        limit: usize,
        pinned: bool,
    ) -> Result<Vec<SessionInfo>, Error> {
        if !self.router.rests(slot)? {
            let (service, prefix) = (service.clone(), prefix.to_owned());
            let after = after.cloned();
            return self
                .ask(slot, |reply| Mail::Sessions { service, prefix, after, limit, pinned, reply })
                .await;
        }
        let store = &self.context.store;
        let found = match pinned {
            true => store.pinned(slot, service, after, limit),
            false => store.sessions(slot, service, prefix, after, limit),
        };
        let found = found.map_err(|e| Error::new(Code::StorageUnavailable, e.to_string()))?;
        let infos = found.into_iter().map(|(session, head)| {
            let key = SessionKey { service: service.clone(), session };
            read::info(&self.context.catalogue, slot, &key, &head)
        });
        Ok(infos.collect())
    }

    // ---- services ------------------------------------------------------------------------------

    pub fn services(&self) -> Vec<ServiceInfo> {
        self.context.catalogue.all().iter().filter_map(|s| self.service_info(s)).collect()
    }

    /// # Errors
    /// `service-not-found`.
    pub fn service(&self, service: &ServiceName) -> Result<ServiceInfo, Error> {
        let known = self.context.catalogue.require(service)?;
        self.service_info(&known).ok_or_else(|| Error::internal("a service without a deployment"))
    }

    fn service_info(&self, service: &Service) -> Option<ServiceInfo> {
        Some(ServiceInfo {
            service: service.name.clone(),
            current: service.info(service.current)?,
            previous: service.previous.last().and_then(|id| service.info(*id)),
            generation: service.generation,
            swap: self.swaps.lock().get(&service.name).map(|swap| swap.info()),
        })
    }

    /// Stores, checks and compiles a component and moves every slot to it; returns when all have
    /// moved, or with the swap still under way after [`limits::SWAP_WAIT`].
    ///
    /// # Errors
    /// `plugin-refused` with every reason; `swap-in-progress`; `storage-unavailable`. Then
    /// nothing has changed.
    pub async fn deploy(
        &self,
        service: &ServiceName,
        version: Option<String>,
        component: Bytes,
    ) -> Result<Deployed, Error> {
        if let Some(version) = &version {
            check_version(version)?;
        }
        let _turn = self.turn(service).await?;
        let plugin = self.context.plugins.add(component).await.map_err(|error| match error {
            PluginError::Refused(why) => Error::new(Code::PluginRefused, why),
            PluginError::Missing(_) | PluginError::Failed(_) => {
                Error::new(Code::StorageUnavailable, error.to_string())
            }
        })?;
        let version = version.or_else(|| {
            plugin.version().filter(|v| check_version(v).is_ok()).map(ToOwned::to_owned)
        });
        let existing = self.context.catalogue.get(service);
        let existing = existing.as_deref();
        let next =
            Service::deployed(existing, service, version.as_deref(), plugin.digest(), now_ms())?;
        self.swap_to(service, next).await
    }

    /// Moves every slot back to the version before.
    ///
    /// # Errors
    /// `nothing-to-roll-back`, and as [`Node::deploy`].
    pub async fn rollback(&self, service: &ServiceName) -> Result<Deployed, Error> {
        let _turn = self.turn(service).await?;
        let next = self.context.catalogue.require(service)?.rolled_back()?;
        self.swap_to(service, Some(next)).await
    }

    async fn swap_to(
        &self,
        service: &ServiceName,
        next: Option<Service>,
    ) -> Result<Deployed, Error> {
        let changed = next.is_some();
        if let Some(next) = next {
            let from = self.context.catalogue.get(service);
            let from = from.map(|s| self.context.catalogue.label(service, s.current));
            // A plugin that can't be had must not become current.
            let activation = self.activation(&next).await?;
            let context = self.context.clone();
            let saved = tokio::task::spawn_blocking(move || context.catalogue.put(next)).await;
            saved.map_err(|e| Error::internal(format!("saving the catalogue failed: {e}")))??;
            let swap = self.start_swap(activation, from);
            swap.wait(limits::SWAP_WAIT).await;
        }
        let info = self.service(service)?;
        Ok(Deployed { service: service.clone(), current: info.current, changed, swap: info.swap })
    }

    /// The order that moves a slot to what is current in `service`.
    async fn activation(&self, service: &Service) -> Result<Activation, Error> {
        let missing = || Error::internal(format!("{} has no current deployment", service.name));
        let current = service.deployment(service.current).ok_or_else(missing)?;
        let plugin = self.context.plugins.load(current.digest).await.map_err(|why| {
            Error::new(Code::PluginUnavailable, why.to_string()).with_plugin(&*current.label)
        })?;
        self.current.lock().insert(service.name.clone(), plugin.clone());
        Ok(Activation { record: service.activate(), plugin })
    }

    fn start_swap(&self, activation: Activation, from: Option<Arc<str>>) -> Arc<Swap> {
        let record = &activation.record;
        let to = self.context.catalogue.label(&record.service, record.deployment);
        let swap = Swap::new(record.generation, from, to, self.router.slot_count());
        let swap = Arc::new(swap);
        self.swaps.lock().insert(record.service.clone(), swap.clone());
        let stopping = self.stopping.subscribe();
        tokio::spawn(swap.clone().run(self.router.clone(), activation, stopping));
        swap
    }

    /// Waits for other deploys and rollbacks of the service, and for the swap under way.
    async fn turn(&self, service: &ServiceName) -> Result<tokio::sync::OwnedMutexGuard<()>, Error> {
        let turn = self.deploying.lock().entry(service.clone()).or_default().clone();
        let busy = || {
            Error::new(
                Code::SwapInProgress,
                format!("another swap of {service} is under way: see `slotd swap {service}`"),
            )
        };
        let wait = tokio::time::timeout(limits::SWAP_WAIT, turn.lock_owned());
        let turn = wait.await.map_err(|_| busy())?;
        let under_way = self.swaps.lock().get(service).cloned();
        if let Some(swap) = under_way {
            swap.wait(limits::SWAP_WAIT).await;
            if !swap.is_done() {
                return Err(busy());
            }
        }
        Ok(turn)
    }

    /// A swap that ended with the process goes on: slots whose log says an older generation.
    fn resume_swaps(self: &Arc<Self>) -> Result<(), Error> {
        let services = self.context.catalogue.all();
        if services.is_empty() {
            return Ok(());
        }
        let mut behind: HashMap<ServiceName, u32> = HashMap::new();
        for slot in 0..self.router.slot_count() {
            let meta = self.context.store.slot(slot);
            let meta = meta.map_err(|e| Error::internal(e.to_string()))?;
            for service in &services {
                let current = meta.active.get(&service.name);
                if current.is_none_or(|active| active.generation < service.generation) {
                    *behind.entry(service.name.clone()).or_default() += 1;
                }
            }
        }
        for service in services {
            let slots = behind.get(&service.name).copied().unwrap_or(0);
            let node = self.clone();
            tokio::spawn(async move {
                // After a deploy that came first, there is nothing left to resume.
                let Ok(_turn) = node.turn(&service.name).await else { return };
                let Some(service) = node.context.catalogue.get(&service.name) else { return };
                match node.activation(&service).await {
                    Ok(activation) if slots > 0 => {
                        tracing::info!(service = %service.name, slots, "resuming a swap");
                        node.start_swap(activation, None);
                    }
                    Ok(_) => {}
                    Err(error) => tracing::error!(
                        service = %service.name, %error, "the current plugin can't be loaded"
                    ),
                }
            });
        }
        Ok(())
    }

    // ---- slots ---------------------------------------------------------------------------------

    pub async fn slots(&self) -> Result<Vec<SlotInfo>, Error> {
        (0..self.router.slot_count()).map(|slot| self.slot_info(slot)).collect()
    }

    /// # Errors
    /// `slot-not-found`.
    pub async fn slot(&self, slot: SlotId) -> Result<SlotInfo, Error> {
        self.slot_info(slot)
    }

    fn slot_info(&self, slot: SlotId) -> Result<SlotInfo, Error> {
        let owner = self.table.owner(slot).map_or(&*self.name, |owner| owner).to_owned();
        if let Some(running) = self.router.running(slot)? {
            let stats = &running.stats;
            let stopping = stats.stopping.load(Ordering::Relaxed);
            let active = stats.active.lock();
            let plugins = active.iter().map(|(s, (_, l))| (s.to_string(), l.to_string())).collect();
            return Ok(SlotInfo {
                slot,
                owner,
                state: if stopping { "draining" } else { "running" }.into(),
                term: stats.term.load(Ordering::Relaxed),
                position: stats.position.load(Ordering::Relaxed),
                applied: stats.applied.load(Ordering::Relaxed),
                mailbox: running.mailbox_depth(),
                sessions: stats.sessions.load(Ordering::Relaxed),
                plugins,
            });
        }
        let meta = self.context.store.slot(slot);
        let meta = meta.map_err(|e| Error::new(Code::StorageUnavailable, e.to_string()))?;
        let catalogue = &self.context.catalogue;
        let label = |a: &crate::log::record::Activate| catalogue.label(&a.service, a.deployment);
        let active = meta.active.values();
        Ok(SlotInfo {
            slot,
            owner,
            state: "stopped".into(),
            term: meta.term,
            position: meta.applied,
            applied: meta.applied,
            mailbox: 0,
            sessions: meta.sessions,
            plugins: active.map(|a| (a.service.to_string(), label(a).to_string())).collect(),
        })
    }

    /// Drains a slot: finishes what it has, writes a release record, stops its task. Mail that
    /// comes meanwhile is held for the next task, not refused.
    ///
    /// # Errors
    /// `slot-not-found`, or why the last commit failed.
    pub async fn drain_slot(&self, slot: SlotId) -> Result<Drained, Error> {
        let (reply, drained) = oneshot::channel();
        self.router.order(slot, Order::Stop { release: true, reply }).await?;
        let (term, position) = drained.await.unwrap_or_else(|_| {
            Err(Error::new(Code::Unavailable, "the slot stopped while it drained"))
        })?;
        Ok(Drained { slot, term, position, to: self.name.clone() })
    }

    /// Compares what the ring proposes with who owns what. With one node in the view there is
    /// nowhere to move to.
    pub async fn rebalance(&self) -> Result<Rebalanced, Error> {
        let view = self.table.view();
        let proposed = ring::Table::new(view, self.router.slot_count());
        let moves = ring::plan_moves(&self.table, &proposed);
        let moves = moves.map_err(|e| Error::internal(e.to_string()))?.len() as u32;
        Ok(Rebalanced {
            view: view.number,
            moves,
            detail: match view.nodes().len() {
                1 => format!("{} is the only node of the view: every slot is its own", self.name),
                nodes => format!("{moves} slots move between {nodes} nodes"),
            },
        })
    }

    pub fn ring(&self) -> RingInfo {
        self.table.info()
    }

    // ---- life ----------------------------------------------------------------------------------

    /// `Ok` when requests can be served; else why not.
    ///
    /// # Errors
    /// `unavailable` while the node stops, `storage-unavailable` while it can't write.
    pub fn ready(&self) -> Result<(), Error> {
        if *self.stopping.borrow() {
            return Err(Error::new(Code::Unavailable, "the node is stopping"));
        }
        match &*self.health.borrow() {
            Health::Ready => Ok(()),
            Health::Full(why) | Health::Failed(why) | Health::Corrupt(why) => {
                Err(Error::new(Code::StorageUnavailable, why.clone()))
            }
        }
    }

    /// Resolves with the reason when the node must end rather than serve wrong data.
    pub async fn fatal(&self) -> String {
        let mut fatal = self.fatal.subscribe();
        match fatal.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => "the node is gone".into(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn slot_count(&self) -> u16 {
        self.router.slot_count()
    }

    /// What `/metrics` shows of the slots.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot { ready: self.ready().is_ok(), ..Snapshot::default() };
        for (slot, handle) in self.router.all_running() {
            let stats = &handle.stats;
            snapshot.mailboxes.push((slot, handle.mailbox_depth()));
            snapshot.instances += stats.instances.load(Ordering::Relaxed);
            snapshot.sessions_cached += stats.cached.load(Ordering::Relaxed);
            snapshot.session_cache_bytes += stats.cache_bytes.load(Ordering::Relaxed);
        }
        snapshot
    }

    /// Stops every slot in an orderly way: what is in flight is finished and flushed. Returns how
    /// many did not manage within `grace`.
    pub async fn stop(&self, grace: Duration) -> usize {
        self.stopping.send_replace(true);
        self.router.close();
        self.stop_slots(grace).await
    }

    async fn stop_slots(&self, grace: Duration) -> usize {
        let running = self.router.all_running();
        let stops = running.into_iter().map(|(slot, handle)| async move {
            let (reply, stopped) = oneshot::channel();
            if handle.order(Order::Stop { release: false, reply }).await.is_err() {
                return true;
            }
            match stopped.await {
                Ok(Err(error)) => {
                    tracing::warn!(slot, %error, "a slot did not stop in order");
                    false
                }
                _ => true,
            }
        });
        let stops: Vec<_> = stops.map(tokio::spawn).collect();
        let late = stops.len();
        let mut stopped = 0;
        let all = async {
            for stop in stops {
                stopped += usize::from(stop.await.unwrap_or(false));
            }
            // Those that were ending already count too: nothing may be written after this.
            self.router.settled().await;
        };
        let _ = tokio::time::timeout(grace, all).await;
        late - stopped
    }
}

fn check_version(version: &str) -> Result<(), Error> {
    let allowed = |b: u8| b.is_ascii_graphic() && !b"\"\\,;/".contains(&b);
    if version.is_empty()
        || version.len() > limits::PLUGIN_VERSION_BYTES_MAX
        || !version.bytes().all(allowed)
    {
        return Err(Error::name_invalid(format!(
            "version {version:?}: use 1 to {} printable ASCII characters without spaces, quotes, \
             '\\', ',', ';' and '/'",
            limits::PLUGIN_VERSION_BYTES_MAX
        )));
    }
    Ok(())
}

/// Has dirty slots flush and idle ones stop, a share of them at each tick so that they don't all
/// write at once.
async fn keep_house(node: std::sync::Weak<Node>, mut stopping: watch::Receiver<bool>) {
    let ticks = limits::FLUSH_TICKS;
    let mut tick = tokio::time::interval(limits::FLUSH_INTERVAL / ticks);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut counted, mut given_back) = (0, 0);
    for turn in (0..ticks).cycle() {
        tokio::select! {
            _ = tick.tick() => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        let Some(node) = node.upgrade() else { return };
        // Once a round: if a round passed without mail since the last that had some.
        if turn == 0 {
            let now = node.context.mail_taken.load(Ordering::Relaxed);
            if now == counted && now != given_back {
                given_back = now;
                tokio::task::spawn_blocking(crate::memory::give_back);
            }
            counted = now;
        }
        for (slot, handle) in node.router.all_running() {
            if u32::from(slot) % ticks != turn {
                continue;
            }
            if handle.stats.dirty.load(Ordering::Relaxed) {
                handle.try_order(Order::Flush);
            }
            handle.try_order(Order::StopIfIdle { idle: node.options.slot_idle });
        }
    }
}

/// Brings the store back after a failed write, and ends the node when its data are damaged.
async fn watch_storage(
    node: std::sync::Weak<Node>,
    data_dir: Arc<DataDir>,
    mut stopping: watch::Receiver<bool>,
) {
    let mut health = data_dir.health();
    let mut backoff = limits::REOPEN_RETRY_MIN;
    loop {
        let now = health.borrow_and_update().clone();
        let Some(node) = node.upgrade() else { return };
        match now {
            Health::Ready | Health::Full(_) => {
                backoff = limits::REOPEN_RETRY_MIN;
                drop(node);
                tokio::select! {
                    changed = health.changed() => if changed.is_err() { return },
                    _ = stopping.wait_for(|stopping| *stopping) => return,
                }
            }
            Health::Failed(_) => {
                // What the slots have in memory may not be what the store comes back with.
                node.stop_slots(limits::REOPEN_GRACE).await;
                let dir = data_dir.clone();
                let reopened = tokio::task::spawn_blocking(move || dir.reopen()).await;
                if let Ok(Err(error)) = reopened {
                    tracing::warn!(%error, ?backoff, "the store can't be opened again yet");
                    drop(node);
                    tokio::select! {
                        () = tokio::time::sleep(backoff) => {}
                        _ = stopping.wait_for(|stopping| *stopping) => return,
                    }
                    backoff = (backoff * 2).min(limits::REOPEN_RETRY_MAX);
                }
            }
            Health::Corrupt(why) => {
                node.fatal.send_replace(Some(why));
                return;
            }
        }
    }
}
