//! The catalogue: the services of this node, and where they are stored.

pub use super::deployments::{Deployment, REMOVED, REMOVED_LABEL, Service};

use crate::{
    error::{Cause, Code, Error},
    log::record::DeploymentId,
    names::ServiceName,
};
use parking_lot::{Mutex, RwLock};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Where the catalogue is stored durably.
pub trait CatalogueStore: Send + Sync + 'static {
    fn load(&self) -> Result<Option<Vec<u8>>, String>;
    /// Durable when it returns.
    fn save(&self, catalogue: &[u8]) -> Result<(), String>;
}

/// The services of a node. Reads are cheap; changes are durable before they become visible.
pub struct Catalogue {
    services: RwLock<BTreeMap<ServiceName, Arc<Service>>>,
    /// Whether any service was ever removed: if not, slots need not check.
    has_removals: AtomicBool,
    /// One change at a time; readers don't wait for its write to disk.
    changing: Mutex<()>,
    /// `None` in a cluster: there the shared registry feeds [`Catalogue::learn`].
    store: Option<Box<dyn CatalogueStore>>,
}

impl Catalogue {
    /// # Errors
    /// Errors of the store, or that its content does not decode.
    pub fn open(store: Box<dyn CatalogueStore>) -> Result<Self, String> {
        let services = match store.load()? {
            Some(bytes) => serde_json::from_slice::<Vec<Service>>(&bytes)
                .map_err(|e| format!("the stored catalogue of services does not decode: {e}"))?,
            None => Vec::new(),
        };
        let has_removals = services.iter().any(|s| s.since > 0).into();
        let services = services.into_iter().map(|s| (s.name.clone(), Arc::new(s))).collect();
        let (services, store) = (RwLock::new(services), Some(store));
        Ok(Self { services, has_removals, changing: Mutex::new(()), store })
    }

    /// An empty catalogue, fed by [`Catalogue::learn`] with the cluster's services.
    pub fn of_cluster() -> Self {
        Self {
            services: RwLock::default(),
            has_removals: false.into(),
            changing: Mutex::new(()),
            store: None,
        }
    }

    /// Applies a service's record from the cluster. `false` if the known one is as new or newer: it
    /// never goes back.
    pub fn learn(&self, service: Service) -> bool {
        let mut services = self.services.write();
        let known = services.get(&service.name);
        if known.is_some_and(|known| known.generation >= service.generation) {
            return false;
        }
        if service.since > 0 {
            self.has_removals.store(true, Ordering::Release);
        }
        services.insert(service.name.clone(), Arc::new(service));
        true
    }

    /// Whether any service was ever removed.
    pub fn has_removals(&self) -> bool {
        self.has_removals.load(Ordering::Acquire)
    }

    /// A service, even a removed one.
    pub fn get(&self, name: &ServiceName) -> Option<Arc<Service>> {
        self.services.read().get(name).cloned()
    }

    /// # Errors
    /// `service-not-found`.
    pub fn require(&self, name: &ServiceName) -> Result<Arc<Service>, Error> {
        self.get(name).filter(|s| !s.is_removed()).ok_or_else(|| not_deployed(name))
    }

    /// Every service, including removed ones.
    pub fn all(&self) -> Vec<Arc<Service>> {
        self.services.read().values().cloned().collect()
    }

    pub fn deployment(&self, name: &ServiceName, id: DeploymentId) -> Option<Deployment> {
        self.services.read().get(name)?.deployment(id).cloned()
    }

    /// A deployment's label; a number if the catalogue does not know it.
    pub fn label(&self, name: &ServiceName, id: DeploymentId) -> Arc<str> {
        if id == REMOVED {
            return REMOVED_LABEL.into();
        }
        let services = self.services.read();
        let known = services.get(name).and_then(|s| s.deployment(id)).map(|d| d.label.clone());
        known.unwrap_or_else(|| format!("deployment-{id}").into())
    }

    /// Makes a service's new record durable, then visible. Blocks on the disk.
    ///
    /// # Errors
    /// `storage-unavailable`; nothing has changed then.
    pub fn put(&self, service: Service) -> Result<Arc<Service>, Error> {
        let _changing = self.changing.lock();
        self.put_alone(service)
    }

    /// Records that the sessions of a service removed in generation `since` are deleted. Blocks on
    /// the disk.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn put_purged(&self, service: &ServiceName, since: u64) -> Result<(), Error> {
        let _changing = self.changing.lock();
        let known = self.get(service).filter(|known| known.since == since && known.purged != since);
        let Some(known) = known else { return Ok(()) };
        self.put_alone(Service { purged: since, ..(*known).clone() }).map(drop)
    }

    /// The caller holds `changing`.
    fn put_alone(&self, service: Service) -> Result<Arc<Service>, Error> {
        let store = self.store.as_ref();
        let store =
            store.ok_or_else(|| Error::internal("a cluster's catalogue is its registry"))?;
        let mut next = self.services.read().clone();
        let service = Arc::new(service);
        next.insert(service.name.clone(), service.clone());
        let list: Vec<&Service> = next.values().map(|s| &**s).collect();
        let bytes = serde_json::to_vec(&list)
            .map_err(|e| Error::internal(format!("the catalogue does not encode: {e}")))?;
        store.save(&bytes).map_err(|why| {
            Error::new(Code::StorageUnavailable, format!("the catalogue was not saved: {why}"))
        })?;
        if service.since > 0 {
            self.has_removals.store(true, Ordering::Release);
        }
        *self.services.write() = next;
        Ok(service)
    }
}

pub fn not_deployed(name: &ServiceName) -> Error {
    Error::of(
        Cause::NoService,
        format!("no service {name:?} is deployed; deploy one with `slotd deploy {name} FILE`"),
    )
}
