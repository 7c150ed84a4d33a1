//! A node: everything that one process runs, and the calls that the gateway and the CLI make.

mod audit_report;
mod audits;
mod canary;
mod captures;
mod components;
mod courier;
mod effects;
mod fork;
mod gates;
mod level;
mod maintenance;
mod memory;
mod messages;
mod operate;
mod past;
mod past_swaps;
mod removal;
mod requester;
mod reseal;
mod services;
mod session_check;
mod signatures;
mod slots;
#[cfg(test)]
mod tests;
mod turns;
mod usage;
mod views;
mod wakes;

pub use crate::{
    cluster::reports::*,
    message::{
        Answer, Consistency, History, Incoming, Live, LiveReceiver, Pending, Published, Range,
        ReadBy, Sent, SessionInfo, Subscribed,
    },
    position::{Cursor, Incarnation},
    ring::RingInfo,
    rpc::SlotInfo,
    state::SessionCounts,
    swap::{SwapInfo, SwapShare},
};
pub use audit_report::AuditReport;
pub use canary::{CanaryChange, CanaryInfo};
pub use captures::CaptureSpec;
pub use effects::EffectKind;
pub use fork::{ForkAsk, ForkDone};
pub use gates::GateView;
pub use level::LevelDuties;
pub use requester::{OfNode as HttpRequester, RequestOptions};
pub use reseal::SealInfo;
pub use session_check::{DeployOptions, GateOptions};
pub use usage::UsageReport;
pub use views::*;

use self::turns::Turns;
use crate::{
    audit::{Audit, AuditStream},
    backoff::Backoff,
    captures::Redactions,
    clock::now_ms,
    cluster::{
        ChangeAvoid, Cluster, ClusterOptions, ClusterParts, EngineProbe, LateHandler, LocalNode,
        ReportUnfit,
        control::{
            AuditAsk, CapturesAsk, CapturesGiven, ControlRequest, ControlResponse, GateAsk, GateJob,
        },
    },
    database::Health,
    effects::rules::SendRules,
    error::{Cause, Code, Error},
    gate_report::GateShare,
    limits,
    loads::{Load, Loads},
    log::{SlotLog, sealed::SealedLog},
    message::{Purpose, gone},
    names::{ServiceName, SessionId, SessionKey, SlotId},
    operation,
    peer::member::Members,
    plugin::{Guests, Plugin, PluginError, PluginHost},
    quota::{
        self, Quota,
        shares::Shares,
        usage::{Ask, NodeUsage, UsageShare},
    },
    registry::{Changes, Placement, Registry},
    replay::{AuditShare, AuditSpec, PastRuns},
    ring,
    router::{Routed, Router},
    rpc::Peers,
    service::{
        Author, Catalogue, Change, Deployment, KeptPlugins, Target,
        catalogue::{CatalogueStore, REMOVED, REMOVED_LABEL, Service, not_deployed},
    },
    signing::DeployKeys,
    slot::{Activation, ClusterContext, Mailed, Order, SlotContext, SlotOptions, read},
    state::{snapshot::Snapshots, stored::StoredByService},
    storage::DataDir,
    swap::Swap,
    telemetry::Snapshot,
    usage::Meter,
};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future::BoxFuture};
use parking_lot::{Mutex, RwLock};
use past_swaps::PastSwaps;
use removal::Purge;
use slotd_quota::shares::Terms;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet, VecDeque},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

/// One running node. Shared behind an `Arc`.
pub struct Node {
    name: String,
    audit: Audit,
    usage: Arc<NodeUsage>,
    /// Who may sign what is deployed; `None`: nothing has to be signed.
    deploy_keys: RwLock<Option<Arc<DeployKeys>>>,
    options: NodeOptions,
    router: Arc<Router>,
    context: Arc<SlotContext>,
    /// What the ring proposes for the node's current view.
    table: ring::Table,
    /// The latest swap of each service.
    swaps: Mutex<HashMap<ServiceName, Arc<Swap>>>,
    past_swaps: Arc<PastSwaps>,
    /// Removals of services, by this or another node.
    purges: Mutex<HashMap<ServiceName, Arc<Purge>>>,
    /// Slots that missed their service's latest swap and are catching up.
    stragglers: Mutex<HashMap<ServiceName, Arc<Swap>>>,
    /// Histories that are run again.
    audits: Arc<audits::Audits>,
    /// Sessions that are shown as they were.
    past: PastRuns,
    captures: captures::Captures,
    /// Deploys that are seen before they move anything.
    gates: gates::Gates,
    /// One deploy or rollback of a service at a time, until it is durable.
    deploying: Turns,
    stopping: watch::Sender<bool>,
    health: watch::Receiver<Health>,
    /// Why the node must end, if it must.
    fatal: watch::Sender<Option<String>>,
    /// A peer, or an operator, requests that this node hand over everything and end.
    drained: watch::Sender<bool>,
    /// Set once, at start, on a node of a cluster.
    cluster: Option<Arc<Cluster>>,
    registry: Option<Registry>,
    data_dir: Arc<DataDir>,
    shares: Option<Arc<Shares>>,
}

#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Written into claims, shown in tables.
    pub name: String,
    pub slot_count: u16,
    pub mailbox_messages: usize,
    /// A slot that was unused for this long stops.
    pub slot_idle: Duration,
    /// An instance that was unused for this long is dropped.
    pub instance_idle: Duration,
    /// Memory for cached sessions over all slots.
    pub session_cache_bytes: usize,
    /// Which services' handlers may send messages to which.
    pub sends: Arc<SendRules>,
    /// As [`SlotOptions::in_order`].
    pub in_order: Arc<SendRules>,
    /// How long everything must have been able to read the next feature level before it is raised.
    pub level_wait: Duration,
    /// For test suites: [`Node::reset`] deletes every session.
    pub resettable: bool,
    /// A busy node is divided between its services.
    pub shares: bool,
}

/// A node's dependencies, opened before, so that a node starts completely or not at all.
pub struct Foundation {
    pub data_dir: Arc<DataDir>,
    pub plugins: Arc<PluginHost>,
    /// What a cluster node shares with the others.
    pub shared: Option<Shared>,
    /// Makes requests over HTTP; `None`: there are none.
    pub requester: Option<Arc<HttpRequester>>,
    /// The limits of services; as the policy says them.
    pub quota: Quota,
    /// What of services is left out of captures; as the policy says it.
    pub redactions: Redactions,
}

/// A cluster node's dependencies besides its own disk.
pub struct Shared {
    pub log: Arc<dyn SlotLog>,
    pub snapshots: Arc<Snapshots>,
    pub catalogue: Arc<Catalogue>,
    pub peers: Arc<dyn Peers>,
    /// Answers peers once the node exists.
    pub handler: Arc<LateHandler>,
    pub members: watch::Receiver<Arc<Members>>,
    /// `None` only in tests.
    pub registry: Option<Registry>,
    pub placement: watch::Receiver<Arc<Placement>>,
    /// Announces that this node hands over its slots.
    pub leave: Box<dyn Fn() + Send + Sync>,
    /// `None` only in tests.
    pub level: Option<LevelDuties>,
    /// Announces that this node can't serve, or that it can again.
    pub report_unfit: Box<ReportUnfit>,
    /// Whether JetStream answers.
    pub engine: Box<EngineProbe>,
    pub change_placement: Box<ChangeAvoid>,
    /// The cluster's audit log. `None` only in tests.
    pub audit: Option<AuditStream>,
    pub options: ClusterOptions,
}

/// The catalogue's key among the data directory's own values.
const CATALOGUE: &str = "catalogue";

/// The catalogue in the data directory.
struct Stored(Arc<DataDir>);

impl CatalogueStore for Stored {
    fn load(&self) -> Result<Option<Vec<u8>>, String> {
        let stored = self.0.meta_get(CATALOGUE).map_err(|e| e.to_string())?;
        Ok(stored.map(Into::into))
    }
    fn save(&self, catalogue: &[u8]) -> Result<(), String> {
        self.0.meta_put_durable(CATALOGUE, catalogue).map_err(|e| e.to_string())
    }
}

impl Node {
    /// Starts a node: switches every slot to its service's current deployment (resuming a swap that
    /// a crash interrupted) and starts the maintenance tasks.
    ///
    /// # Errors
    /// The stored catalogue does not decode, a current component is damaged, or the store can't be
    /// read.
    pub fn start(options: NodeOptions, foundation: Foundation) -> Result<Arc<Self>, Error> {
        let Foundation { data_dir, plugins, shared, requester, quota, redactions } = foundation;
        let stream = shared.as_ref().and_then(|shared| shared.audit.clone());
        let audit = match stream {
            Some(stream) => Audit::in_stream(stream, &options.name),
            None => Audit::in_folder(data_dir.path(), &options.name),
        };
        let usage = NodeUsage::open(data_dir.path(), now_ms());
        let usage = usage.map_err(|e| Error::of(Cause::Storage, format!("usage: {e}")))?;
        let meter = Meter::default();
        meter.start(usage.counted().clone());
        let usage = Arc::new(usage);
        quota.follow_stored(usage.clone());
        let (log, catalogue): (Arc<dyn SlotLog>, _) = match &shared {
            Some(shared) => (shared.log.clone(), shared.catalogue.clone()),
            None => {
                let catalogue = Catalogue::open(Box::new(Stored(data_dir.clone())));
                let catalogue = catalogue.map_err(Error::internal)?;
                services::verify_components(&catalogue, &plugins)?;
                (SealedLog::over(data_dir.log(), data_dir.keys()), Arc::new(catalogue))
            }
        };
        let (ended, slots_ended) = mpsc::unbounded_channel();
        let loads = options.shares.then(|| {
            let known = catalogue.clone();
            Loads::new(move |service| known.get(service).is_some())
        });
        let context = Arc::new(SlotContext {
            node: options.name.clone(),
            log,
            store: data_dir.state(),
            plugins,
            catalogue,
            kept: KeptPlugins::default(),
            cached_bytes: AtomicUsize::new(0),
            mail_taken: AtomicU64::new(0),
            wakes: crate::slot::wakes::Wakes::default(),
            courier: OnceLock::new(),
            requester: OnceLock::new(),
            failures: OnceLock::new(),
            outbox: AtomicUsize::new(0),
            trials: crate::service::canary::counts::Trials::default(),
            quota,
            usage: meter,
            loads: loads.clone(),
            turns: OnceLock::new(),
            options: SlotOptions {
                mailbox_messages: options.mailbox_messages,
                cache_bytes: options.session_cache_bytes,
                engine_timeout: limits::ENGINE_TIMEOUT,
                slot_count: options.slot_count,
                sends: options.sends.clone(),
                in_order: options.in_order.clone(),
            },
            level: match shared.as_ref().and_then(|shared| shared.registry.as_ref()) {
                Some(registry) => registry.level(),
                None => data_dir.level(),
            },
            cluster: shared.as_ref().map(|shared| ClusterContext {
                snapshots: shared.snapshots.clone(),
                registry: shared.registry.clone(),
                store: data_dir.state(),
                snapshot_turns: Arc::new(Semaphore::new(limits::SNAPSHOTS_AT_A_TIME)),
                catch_up_turns: Semaphore::new(limits::CATCH_UPS_AT_A_TIME),
                ended,
            }),
        });
        let (audits, stopping) = (Arc::<audits::Audits>::default(), watch::Sender::new(false));
        let threads = audits.threads();
        let captures = captures::Captures::start(
            &data_dir,
            &context,
            redactions,
            threads,
            stopping.subscribe(),
        )?;
        let view = ring::View::new(1, [options.name.clone()]);
        let cores = crate::thread::processors();
        if loads.is_some() {
            context.plugins.budget().share_out();
        }
        let shares = loads.map(|loads| Shares::new(loads, cores));
        let router = Arc::new(Router::new(options.slot_count, context.clone(), shares.clone()));
        if let Some(shares) = &shares {
            let _ = context.turns.set(shares.clone());
            let told = Arc::downgrade(shares);
            context.quota.follow(move |limits| {
                if let Some(shares) = told.upgrade() {
                    shares.set_terms(limits.map(|(of, limits)| (of.into(), Terms::of(limits))));
                }
            });
            let (plugins, of) = (context.plugins.clone(), data_dir.clone());
            let started = quota::shares::start(shares, plugins, cores, move || of.disk());
            started.map_err(|e| Error::internal(format!("can't start a thread: {e}")))?;
        }
        let (mut handler, mut cluster, mut registry) = (None, None, None);
        let mut duties = None;
        if let Some(shared) = shared {
            duties = shared.level;
            registry = shared.registry;
            handler = Some(shared.handler);
            let parts = ClusterParts {
                own: options.name.as_str().into(),
                router: router.clone(),
                peers: shared.peers,
                members: shared.members,
                placement: shared.placement,
                ended: slots_ended,
                leave: shared.leave,
                report_unfit: shared.report_unfit,
                engine: shared.engine,
                change_avoid: shared.change_placement,
            };
            cluster = Some(Cluster::start(shared.options, parts));
        }
        let gates = gates::Gates::open(&data_dir, registry.as_ref(), &context.catalogue)?;
        let node = Arc::new(Self {
            name: options.name.clone(),
            audit,
            usage,
            deploy_keys: RwLock::default(),
            router,
            cluster,
            registry,
            data_dir: data_dir.clone(),
            table: ring::Table::new(&view, options.slot_count),
            context,
            options,
            swaps: Mutex::default(),
            purges: Mutex::default(),
            shares,
            past_swaps: Arc::new(PastSwaps::open(data_dir.clone())),
            stragglers: Mutex::default(),
            audits,
            captures,
            past: PastRuns::default(),
            gates,
            deploying: Turns::default(),
            stopping,
            health: data_dir.health(),
            fatal: watch::Sender::new(None),
            drained: watch::Sender::new(false),
        });
        match (&node.cluster, handler) {
            (Some(cluster), Some(handler)) => handler.set(cluster.clone(), node.clone()),
            // In a cluster a slot switches to the current deployment when it is opened, and follows
            // the registry from then on.
            _ => node.resume_swaps()?,
        }
        // Slots that are open already send from their next commit on.
        let _ = node.context.courier.set(Arc::new(courier::OfNode::new(&node)));
        if let Some(requester) = requester {
            let (every, stopping) = (limits::SECRETS_LOOK, node.stopping.subscribe());
            crate::task::spawn(
                "secrets",
                requester::follow_secrets(requester.clone(), every, stopping),
            );
            let _ = node.context.requester.set(requester);
        }
        Self::spawn_maintenance(&node, duties);
        Ok(node)
    }

    /// Starts the tasks that run as long as the node does.
    fn spawn_maintenance(node: &Arc<Self>, duties: Option<LevelDuties>) {
        if let Some(registry) = &node.registry {
            crate::task::spawn(
                "registry changes",
                Self::follow_registry(Arc::downgrade(node), registry.changes()),
            );
        }
        if let Some(duties) = duties.as_ref().filter(|_| node.registry.is_some()) {
            let instance = duties.reader.instance.clone();
            let keep = reseal::keep(Arc::downgrade(node), instance, node.stopping.subscribe());
            crate::task::spawn("sealing", keep);
        }
        crate::task::spawn(
            "housekeeping",
            maintenance::maintain(Arc::downgrade(node), node.stopping.subscribe()),
        );
        crate::task::spawn("gates", gates::keep(Arc::downgrade(node), node.stopping.subscribe()));
        crate::task::spawn("wakes", wakes::wake(Arc::downgrade(node), node.stopping.subscribe()));
        crate::task::spawn(
            "feature level",
            level::keep(Arc::downgrade(node), duties, node.stopping.subscribe()),
        );
        let drive = canary::drive(Arc::downgrade(node), node.stopping.subscribe());
        crate::task::spawn("canaries", drive);
        crate::task::spawn("usage", usage::keep(Arc::downgrade(node), node.stopping.subscribe()));
        crate::task::spawn(
            "components",
            components::tidy(Arc::downgrade(node), node.stopping.subscribe()),
        );
        let (plugins, stopping) = (node.context.plugins.clone(), node.stopping.subscribe());
        crate::task::spawn("instances", memory::shed_instances(plugins, stopping));
        crate::task::spawn(
            "storage",
            maintenance::watch_storage(
                Arc::downgrade(node),
                node.data_dir.clone(),
                node.stopping.subscribe(),
            ),
        );
    }

    /// The log of changes by operators.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// What is used of this node, to count and to ask.
    pub fn metered(&self) -> &Arc<NodeUsage> {
        &self.usage
    }

    /// `Ok` if requests can be served, with a warning if something is wrong; else the reason.
    ///
    /// # Errors
    /// `unavailable` while the node stops or reaches too few of the others, `storage-unavailable`
    /// while it can't write (on a node that stands alone: while the store can't be used at all).
    pub fn ready(&self) -> Result<Option<String>, Error> {
        if *self.stopping.borrow() {
            return Err(Error::new(Code::Unavailable, "the node is stopping"));
        }
        if let Some(cluster) = &self.cluster
            && !cluster.was_settled()
        {
            return Err(Error::new(Code::Unavailable, "the node has not joined its cluster yet"));
        }
        let linked = self.cluster.as_ref().map_or(Ok(None), |cluster| cluster.linked());
        let linked = linked.map_err(|why| Error::new(Code::Unavailable, why))?;
        match &*self.health.borrow() {
            Health::Ready => Ok(linked),
            // Messages get their own errors; reads continue, as no other node could answer them.
            Health::Full(why) if self.cluster.is_none() => Ok(Some(why.clone())),
            Health::Full(why) | Health::Failed(why) | Health::Corrupt(why) => {
                Err(Error::new(Code::StorageUnavailable, why.clone()))
            }
        }
    }

    /// What a service has at work here, on a node with shares.
    pub fn load(&self, service: &ServiceName) -> Option<Arc<Load>> {
        self.context.loads.as_ref()?.of(service)
    }

    /// Becomes true when the node stops.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// Resolves with the reason when the node must end rather than serve wrong data.
    pub async fn fatal(&self) -> String {
        let mut fatal = self.fatal.subscribe();
        match fatal.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => "the node is gone".into(),
        }
    }

    /// The node's part in its cluster; `None` on a standalone node.
    #[cfg(test)]
    pub fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.cluster.as_ref()
    }

    /// Slot metrics for `/metrics`.
    pub fn snapshot(&self) -> Snapshot {
        let known = self.context.catalogue.all();
        let deployed = known.iter().filter(|service| !service.is_removed());
        let mut snapshot = Snapshot {
            ready: self.ready().is_ok(),
            deployed: deployed.map(|service| service.name.clone()).collect(),
            clustered: self.cluster.is_some(),
            outbox: self.context.outbox.load(Ordering::Relaxed) as u64,
            ..Snapshot::default()
        };
        for (slot, handle) in self.router.all_running() {
            let stats = &handle.stats;
            snapshot.mailboxes.push((slot, handle.mailbox_depth()));
            snapshot.sessions_cached += stats.cached.load(Ordering::Relaxed);
            snapshot.session_cache_bytes += stats.cache_bytes.load(Ordering::Relaxed);
        }
        if let Some(cluster) = &self.cluster {
            snapshot.claims = cluster.claims();
        }
        let budget = self.context.plugins.budget();
        snapshot.memory_used = budget.bytes_used() as u64;
        snapshot.memory_max = budget.bytes_max() as u64;
        // A service that was just removed may have instances in calls.
        let holding = budget.services().into_iter().map(|(service, _)| service);
        let all: BTreeSet<_> = snapshot.deployed.iter().cloned().chain(holding).collect();
        for service in all {
            let memory = self.service_memory(&service);
            snapshot.instances += memory.instances;
            snapshot.services.push((service, memory));
        }
        snapshot.usage = self.usage.shown();
        snapshot
    }

    /// Hands every slot to the other nodes of the cluster, if there are any; serves meanwhile.
    pub async fn give_away(&self, wait: Duration) {
        let Some(cluster) = &self.cluster else { return };
        let started = crate::clock::now();
        let left = cluster.drain(wait).await;
        tracing::info!(left, took = ?started.elapsed(), "gave its slots away");
    }

    /// Ends running compilations: deploys that are not durable yet are refused.
    pub fn stop_compiling(&self) {
        self.context.plugins.stop_compiling();
    }

    /// Stops every slot gracefully: calls in flight finish and state is flushed. Returns how many
    /// did not finish within `grace`.
    pub async fn stop(&self, grace: Duration) -> usize {
        self.stopping.send_replace(true);
        self.stop_compiling();
        self.audits.stop();
        self.gates.stop();
        if let Some(cluster) = &self.cluster {
            cluster.close();
        }
        self.router.close();
        let late = self.stop_slots(grace).await;
        // With what they have committed last.
        self.write_usage().await;
        late
    }

    async fn stop_slots(&self, grace: Duration) -> usize {
        let running = self.router.all_running();
        let stops = running.into_iter().map(|(slot, handle)| async move {
            let (reply, stopped) = oneshot::channel();
            if handle.order(Order::Stop { release: false, loaded: None, reply }).await.is_err() {
                return true;
            }
            match stopped.await {
                Ok(Err(error)) => {
                    tracing::warn!(slot, %error, "a slot did not stop cleanly");
                    false
                }
                _ => true,
            }
        });
        let stops: Vec<_> = stops.map(crate::task::run).collect();
        let late = stops.len();
        let mut stopped = 0;
        let all = async {
            for stop in stops {
                stopped += usize::from(stop.await.unwrap_or(false));
            }
            // Slots that were already ending count too: nothing may be written after this.
            self.router.settled().await;
        };
        let _ = tokio::time::timeout(grace, all).await;
        late - stopped
    }
}

impl LocalNode for Node {
    fn slots(&self) -> Vec<SlotInfo> {
        let here = self.cluster.iter().flat_map(|cluster| cluster.here());
        here.filter_map(|slot| self.slot_info(slot).ok()).collect()
    }
    fn swap(&self, service: &ServiceName) -> Option<SwapShare> {
        self.last_swap(service)
    }
    fn sessions(&self, service: ServiceName) -> BoxFuture<'static, Result<SessionCounts, Error>> {
        self.count_here(service).boxed()
    }
    fn usage(&self, ask: Ask) -> BoxFuture<'static, Result<UsageShare, Error>> {
        self.usage_here(ask).boxed()
    }
    fn stored(&self) -> BoxFuture<'static, Result<StoredByService, Error>> {
        let stored = self.stored_here(usage::Look::Known);
        async move { Ok(stored.await?.0) }.boxed()
    }
    fn purge(&self, service: &ServiceName) -> Option<PurgeShare> {
        self.purges.lock().get(service).map(|purge| purge.share())
    }
    fn start_audit(
        &self,
        ask: AuditAsk,
        spec: AuditSpec,
        sessions_of_all: u64,
    ) -> BoxFuture<'static, Result<Option<AuditShare>, Error>> {
        self.begin_audit(ask, spec, sessions_of_all).boxed()
    }
    fn audit(&self, ask: &AuditAsk, cancel: bool) -> Option<AuditShare> {
        self.own_audit(ask, cancel)
    }
    fn canary(&self, service: &ServiceName, trial: (u64, u8)) -> Option<CanaryShare> {
        self.canary_here(service, trial)
    }

    fn captures(&self, asked: CapturesAsk) -> BoxFuture<'static, Result<CapturesGiven, Error>> {
        self.captures_here(asked).boxed()
    }

    fn gate(&self, ask: &GateAsk, job: Option<GateJob>) -> Option<GateShare> {
        self.gate_part(ask, job)
    }
    fn not_ready(&self) -> Option<String> {
        self.ready().err().map(|error| error.detail.into_owned())
    }
    fn drain(&self) {
        self.drained.send_replace(true);
    }
}
