//! Data shared by all nodes of a cluster besides the slots' logs: deployments, settings, placement
//! and components, kept in JetStream.
//!
//! The key-value bucket `slotd-<cluster>-registry` has
//! - `settings`: what every node must agree on, written by the first one;
//! - `node.<name>`: what each node can read, for the feature level in the settings (`readers`);
//! - `service.<name>`: a [`Service`] of the catalogue, changed by compare-and-swap, so that of two
//!   concurrent deploys one wins and the other gets an error;
//! - `gate.<service>`: the last deploy of a service that went through the gate, or is on its way (`gates`);
//! - `placement`: slots that were drained from a node;
//! - `tokens`: the named tokens, whose form is the server's (`slotd-access`): here it is a JSON value;
//! - `sealed`: which keys the slots' logs and snapshots may be sealed with, if any, and how far all of it is sealed with
//!   the one in use (`sealing`).
//!
//! A task watches the bucket, feeds the node's [`Catalogue`] and wakes waiters. It may be behind,
//! never ahead, and never goes back: revisions lower than the known one are dropped.
//! [`Registry::ensure`] is for callers that must not be behind.

mod bucket;
mod components;
mod gates;
mod readers;
mod sealing;
#[cfg(test)]
mod tests;
mod tokens;
mod watch;

pub use components::Components;
pub use gates::{GatePut, KeptGate};
pub use readers::{Reader, too_old};
pub use sealing::{Sealing, SealingNode};
pub use tokens::TokensValue;

use crate::{
    error::{Code, Error},
    level::{self, FeatureLevel, Level, Unknown},
    limits,
    log::record::DeploymentId,
    names::{ServiceName, SlotId},
    nats::{Nats, NatsError},
    service::{Catalogue, catalogue::Service},
};
use bucket::{Bucket, BucketError, Swapped};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};
use tokio::{sync::watch as signal, task::JoinHandle};

/// Settings that every node of a cluster must share; fixed by the first one that starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    pub slot_count: u16,
    /// `ring::RING_SCHEME`.
    pub ring_scheme: String,
    /// Streams that the slots are spread over.
    pub streams: u16,
    /// Generated at random by each node; the first one's is kept. Distinguishes a cluster from one
    /// of the same name whose JetStream was emptied.
    pub id: String,
    /// What the nodes may write. The only setting that changes: it rises.
    #[serde(default = "level::oldest")]
    pub level: Level,
    /// Fields of later versions, preserved when this one changes the level.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Restrictions on placement besides the ring.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// A node that a slot was drained from. The ring's next choice takes the slot; if that node
    /// fails, the one after it. One name per slot: a slot that is drained from the next node too
    /// may come back to the first.
    pub avoid: BTreeMap<SlotId, Arc<str>>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// The cluster's registry. Cheap to clone; the watch ends with the last clone.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    bucket: Bucket,
    components: Components,
    shared: Arc<Shared>,
    /// One JetStream read shared by everyone who misses something.
    ensuring: tokio::sync::Mutex<()>,
    task: JoinHandle<()>,
}

/// The watch's state.
struct Shared {
    catalogue: Arc<Catalogue>,
    /// The last seen revision of each key.
    revisions: Mutex<HashMap<String, u64>>,
    placement: signal::Sender<Arc<Placement>>,
    tokens: signal::Sender<TokensValue>,
    gates: signal::Sender<Gates>,
    level: Arc<FeatureLevel>,
    /// What the nodes can read, by their keys.
    readers: Mutex<HashMap<String, readers::Record>>,
    /// Counts changes of the catalogue.
    changed: signal::Sender<u64>,
}

/// The last gate of each service.
pub type Gates = BTreeMap<ServiceName, KeptGate>;

/// Reports services that changed. See [`Registry::changes`].
pub struct Changes {
    shared: Arc<Shared>,
    changed: signal::Receiver<u64>,
    reported: HashMap<ServiceName, u64>,
}

const SETTINGS: &str = "settings";
const PLACEMENT: &str = "placement";
const SERVICE: &str = "service.";

impl Drop for Inner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    /// Applies a key's value at a revision. Values older than the known one are dropped.
    fn learn(&self, key: &str, revision: u64, value: &[u8]) {
        // Held to the end: a revision and its value change together.
        let mut revisions = self.revisions.lock();
        let known = revisions.entry(key.to_owned()).or_default();
        if *known >= revision {
            return;
        }
        *known = revision;
        let read = if let Some(name) = key.strip_prefix(SERVICE) {
            bucket::decode::<Service>(value).map(|service| {
                if service.name.as_str() == name && self.catalogue.learn(service) {
                    self.changed.send_modify(|count| *count += 1);
                }
            })
        } else if key == PLACEMENT {
            bucket::decode::<Placement>(value).map(|placement| {
                self.placement.send_replace(placement.into());
            })
        } else if key == tokens::KEY {
            self.learn_tokens(value)
        } else if key == SETTINGS {
            self.learn_settings(value)
        } else if key.starts_with(readers::NODE) {
            self.learn_reader(key, revision, value)
        } else if let Some(name) = key.strip_prefix(gates::GATE) {
            self.learn_gate(name, revision, value)
        } else {
            // Of a later version.
            Ok(())
        };
        if let Err(why) = read {
            tracing::error!(key, revision, why, "can't read a value of the registry");
        }
        // Of names that are removed nothing is kept.
        if value.is_empty() && key.starts_with(readers::NODE) {
            revisions.remove(key);
        }
    }

    /// The revision and the generation of a service, combined.
    fn at(&self, key: &str, service: &ServiceName) -> (u64, u64) {
        let revisions = self.revisions.lock();
        let known = self.catalogue.get(service);
        let generation = known.map_or(0, |known| known.generation);
        (revisions.get(key).copied().unwrap_or_default(), generation)
    }
}

impl Registry {
    /// Opens or creates the registry; checks `settings` against it, the number of streams only if
    /// it is `given`; reads it completely into `catalogue` and watches it from then on.
    ///
    /// # Errors
    /// [`NatsError::Refused`] if the cluster was created with other settings, or a bucket is
    /// configured differently; [`NatsError::Unavailable`].
    pub async fn open(
        nats: &Nats,
        settings: &Settings,
        given: Option<u16>,
        catalogue: Arc<Catalogue>,
    ) -> Result<Self, NatsError> {
        let bucket =
            Bucket::open(nats, &format!("slotd-{}-registry", nats.options.cluster)).await?;
        let name = &nats.options.cluster;
        let settings = check_settings(&bucket, name, settings, given).await?;
        let components = Components::open(nats).await?;
        let shared = Arc::new(Shared {
            catalogue,
            revisions: Mutex::default(),
            placement: signal::Sender::new(Arc::default()),
            tokens: signal::Sender::new(None),
            gates: signal::Sender::new(Gates::new()),
            level: Arc::new(FeatureLevel::new(settings.level)),
            readers: Mutex::default(),
            changed: signal::Sender::new(0),
        });
        let (current, mut is_current) = signal::channel(false);
        let task = watch::run(bucket.clone(), components.clone(), shared.clone(), current);
        let task = crate::task::spawn("registry", task);
        let ensuring = tokio::sync::Mutex::default();
        let this = Inner { settings, bucket, components, shared, ensuring, task };
        let this = Self { inner: Arc::new(this) };
        let wait = is_current.wait_for(|current| *current);
        let waited = tokio::time::timeout(limits::REGISTRY_TIMEOUT, wait).await;
        match waited {
            Ok(Ok(_)) => Ok(this),
            _ => Err(NatsError::Unavailable("the registry could not be read in time".into())),
        }
    }

    /// The cluster's id, which distinguishes it from every other, whatever its name.
    pub fn cluster_id(&self) -> &str {
        &self.inner.settings.id
    }

    /// The settings of the cluster's first node.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    pub fn components(&self) -> &Components {
        &self.inner.components
    }

    /// Makes a service's new record durable for the whole cluster, then applies it here; the others
    /// get it from their watch. `next` is what [`Service::deployed`] or [`Service::rolled_back`]
    /// made of the catalogue's. Store its component first.
    ///
    /// # Errors
    /// `swap-in-progress` if another node was first: nothing has changed then, and the catalogue
    /// has the other's. `outcome-unknown` if it is undecided. `request-invalid` if the service has
    /// had more deployments than fit one NATS message.
    pub async fn put(&self, next: Service) -> Result<Arc<Service>, Error> {
        let Inner { bucket, shared, .. } = &*self.inner;
        let key = format!("{SERVICE}{}", next.name);
        let (expected, generation) = shared.at(&key, &next.name);
        let raced = |found: u64| {
            Error::new(
                Code::SwapInProgress,
                format!(
                    "another node has just deployed {} (generation {found}); check it, then try \
                     again",
                    next.name
                ),
            )
        };
        if generation + 1 != next.generation {
            return Err(raced(generation));
        }
        match bucket.swap(&key, &next, expected).await {
            Ok(Swapped::Won { revision, value }) => {
                shared.learn(&key, revision, &value);
                Ok(shared.catalogue.get(&next.name).unwrap_or_else(|| Arc::new(next)))
            }
            Ok(Swapped::Lost { revision, value }) => {
                shared.learn(&key, revision, &value);
                let found = shared.catalogue.get(&next.name);
                Err(raced(found.map_or(0, |found| found.generation)))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A deployment that a log record refers to: from the catalogue, or from JetStream if the watch
    /// is behind.
    ///
    /// # Errors
    /// `plugin-unavailable` if it is not in the registry or the registry can't be reached.
    pub async fn ensure(
        &self,
        service: &ServiceName,
        deployment: DeploymentId,
    ) -> Result<Arc<Service>, Error> {
        let what = format!("deployment {deployment} of {service}");
        self.ensure_that(service, &what, |known| known.deployment(deployment).is_some()).await
    }

    /// As [`Registry::ensure`], for a generation that a log record refers to: of deployments that are
    /// known, a rollback may have made another one current.
    ///
    /// # Errors
    /// As [`Registry::ensure`].
    pub async fn ensure_generation(
        &self,
        service: &ServiceName,
        generation: u64,
    ) -> Result<Arc<Service>, Error> {
        let what = format!("generation {generation} of {service}");
        self.ensure_that(service, &what, |known| known.generation >= generation).await
    }

    async fn ensure_that(
        &self,
        service: &ServiceName,
        what: &str,
        is_it: impl Fn(&Service) -> bool,
    ) -> Result<Arc<Service>, Error> {
        let Inner { bucket, shared, ensuring, .. } = &*self.inner;
        let known = || shared.catalogue.get(service).filter(|known| is_it(known));
        if let Some(known) = known() {
            return Ok(known);
        }
        let _turn = ensuring.lock().await;
        let key = format!("{SERVICE}{service}");
        let mut retry = bucket::retry();
        loop {
            if let Some(known) = known() {
                return Ok(known);
            }
            let why = match bucket.read(&key).await {
                Ok(Some((revision, value))) => {
                    shared.learn(&key, revision, &value);
                    if let Some(known) = known() {
                        return Ok(known);
                    }
                    "it is not in the registry".to_owned()
                }
                Ok(None) => "the service is not in the registry".to_owned(),
                Err(error) => error.to_string(),
            };
            // The record was committed after the deployment was stored: a read without it is stale.
            if !retry.again().await {
                return Err(Error::new(Code::PluginUnavailable, format!("{what}: {why}")));
            }
        }
    }

    /// Reports changed services, each with its latest record; the first time, all of them.
    pub fn changes(&self) -> Changes {
        let mut changed = self.inner.shared.changed.subscribe();
        changed.mark_changed();
        Changes { shared: self.inner.shared.clone(), changed, reported: HashMap::new() }
    }

    /// The placement as this node sees it, and its changes.
    pub fn placement(&self) -> signal::Receiver<Arc<Placement>> {
        self.inner.shared.placement.subscribe()
    }

    /// Changes the placement, even with concurrent changes. `change` may be called repeatedly.
    ///
    /// # Errors
    /// `storage-unavailable`, `outcome-unknown`.
    pub async fn change_placement(
        &self,
        change: impl Fn(&mut Placement),
    ) -> Result<Arc<Placement>, Error> {
        let Inner { bucket, shared, .. } = &*self.inner;
        let mut current = bucket.read(PLACEMENT).await?;
        for _ in 0..limits::REGISTRY_SWAP_TRIES {
            let (revision, before) = match &current {
                Some((revision, value)) => {
                    (*revision, bucket::decode(value).map_err(BucketError::from)?)
                }
                None => (0, Placement::default()),
            };
            let mut after = before.clone();
            change(&mut after);
            if after == before {
                return Ok(after.into());
            }
            match bucket.swap(PLACEMENT, &after, revision).await? {
                Swapped::Won { revision, value } => {
                    shared.learn(PLACEMENT, revision, &value);
                    return Ok(after.into());
                }
                Swapped::Lost { revision, value } => current = Some((revision, value)),
            }
        }
        Err(Error::new(
            Code::StorageUnavailable,
            "too many concurrent changes of the placement; try again",
        ))
    }
}

impl Changes {
    /// Waits for services whose generation is greater than at the last call. `None`: the registry
    /// is closed.
    pub async fn next(&mut self) -> Option<Vec<Arc<Service>>> {
        loop {
            self.changed.changed().await.ok()?;
            self.changed.mark_unchanged();
            let all = self.shared.catalogue.all();
            let newer = |service: &Arc<Service>| {
                self.reported
                    .get(&service.name)
                    .is_none_or(|reported| *reported < service.generation)
            };
            let newer: Vec<_> = all.into_iter().filter(newer).collect();
            for service in &newer {
                self.reported.insert(service.name.clone(), service.generation);
            }
            if !newer.is_empty() {
                return Some(newer);
            }
        }
    }
}

/// Writes the settings, or compares them with the cluster's. Returns the latter.
async fn check_settings(
    bucket: &Bucket,
    cluster: &str,
    settings: &Settings,
    streams: Option<u16>,
) -> Result<Settings, NatsError> {
    let found = match bucket.swap_as(settings.format(), SETTINGS, settings, 0).await? {
        Swapped::Won { .. } => return Ok(settings.clone()),
        Swapped::Lost { value, .. } => Settings::decode(&value)
            .map_err(|why| NatsError::Refused(format!("the settings of the cluster: {why}")))?,
    };
    readers::check_level(found.level)?;
    let streams = streams.unwrap_or(found.streams);
    let differences = [
        ("slot_count", settings.slot_count.to_string(), found.slot_count.to_string()),
        ("ring scheme", settings.ring_scheme.clone(), found.ring_scheme.clone()),
        ("streams", streams.to_string(), found.streams.to_string()),
    ];
    let differences = differences.into_iter().filter(|(_, own, theirs)| own != theirs);
    let differences = differences.map(|(what, own, theirs)| {
        format!("{what} is {theirs} in the cluster and {own} on this node")
    });
    let differences: Vec<_> = differences.collect();
    if differences.is_empty() {
        return Ok(found);
    }
    Err(NatsError::Refused(format!(
        "this node's settings differ from cluster {cluster:?}: {}. They were fixed when the \
         cluster's first node started and can't be changed",
        differences.join(", ")
    )))
}

impl From<BucketError> for Error {
    fn from(error: BucketError) -> Self {
        let code = match &error {
            BucketError::Undecided(_) => Code::OutcomeUnknown,
            BucketError::Unavailable(_) => Code::StorageUnavailable,
            BucketError::TooLarge(_) => Code::RequestInvalid,
            BucketError::Unreadable(_) => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}
impl From<BucketError> for NatsError {
    fn from(error: BucketError) -> Self {
        match error {
            BucketError::Undecided(_) | BucketError::Unavailable(_) => {
                Self::Unavailable(error.to_string())
            }
            BucketError::TooLarge(_) | BucketError::Unreadable(_) => {
                Self::Refused(error.to_string())
            }
        }
    }
}
