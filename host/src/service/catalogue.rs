//! The catalogue: every deployment of every service of this node, and which one is current.

use crate::{
    error::{Code, Error},
    limits,
    log::record::{Activate, DeploymentId},
    names::ServiceName,
    node_types::DeploymentInfo,
    plugin::Digest,
};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// One deployment: a plugin under a version. Never changes, never goes away, because sessions and
/// log records name it by its number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// From 1 up, within the service.
    pub id: DeploymentId,
    pub version: String,
    pub digest: Digest,
    /// `<version>+<short digest>`.
    pub label: Arc<str>,
    pub deployed_ms: u64,
}

/// A service as the catalogue has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub name: ServiceName,
    /// Rises with each deploy and rollback: what slots are moved to.
    pub generation: u64,
    pub current: DeploymentId,
    /// What rollback goes back to, the latest last.
    pub previous: Vec<DeploymentId>,
    /// `deployments[id - 1]`.
    pub deployments: Vec<Deployment>,
}

/// Where the catalogue is kept durably.
pub trait CatalogueStore: Send + Sync + 'static {
    fn load(&self) -> Result<Option<Vec<u8>>, String>;
    /// Durable when it returns.
    fn save(&self, catalogue: &[u8]) -> Result<(), String>;
}

/// The services of a node. Reads are cheap; changes are durable before they show.
pub struct Catalogue {
    services: RwLock<BTreeMap<ServiceName, Arc<Service>>>,
    /// One change at a time; readers don't wait for its write to disk.
    changing: Mutex<()>,
    /// `None` in a cluster: there [`Catalogue::learn`] is fed by what all nodes share.
    store: Option<Box<dyn CatalogueStore>>,
}

impl Service {
    pub fn deployment(&self, id: DeploymentId) -> Option<&Deployment> {
        self.deployments.get(usize::try_from(id).ok()?.checked_sub(1)?)
    }

    /// The record that moves a slot to what is current.
    pub fn activate(&self) -> Activate {
        Activate {
            service: self.name.clone(),
            generation: self.generation,
            deployment: self.current,
        }
    }

    /// The service after a deployment of `digest`; `None`: that is what runs already.
    ///
    /// # Errors
    /// `request-invalid` when the service has had too many deployments.
    pub fn deployed(
        existing: Option<&Service>,
        name: &ServiceName,
        version: Option<&str>,
        digest: Digest,
        now_ms: u64,
    ) -> Result<Option<Service>, Error> {
        let mut service = existing.cloned().unwrap_or_else(|| Service {
            name: name.clone(),
            generation: 0,
            current: 0,
            previous: Vec::new(),
            deployments: Vec::new(),
        });
        if service.deployment(service.current).is_some_and(|current| current.digest == digest) {
            return Ok(None);
        }
        let same = |d: &&Deployment| d.digest == digest && version.is_none_or(|v| v == d.version);
        let id = match service.deployments.iter().rfind(same) {
            Some(known) => known.id,
            None => {
                if service.deployments.len() >= limits::DEPLOYMENTS_PER_SERVICE_MAX {
                    return Err(Error::new(
                        Code::RequestInvalid,
                        format!(
                            "{name} has had {} different deployments, the most that are kept apart",
                            service.deployments.len()
                        ),
                    ));
                }
                let id = service.deployments.len() as DeploymentId + 1;
                let version = version.unwrap_or("0.0.0").to_owned();
                let label = format!("{version}+{}", digest.short()).into();
                let deployed_ms = now_ms;
                service.deployments.push(Deployment { id, version, digest, label, deployed_ms });
                id
            }
        };
        if service.current != 0 {
            service.previous.push(service.current);
            let extra = service.previous.len().saturating_sub(limits::ROLLBACK_STEPS_MAX);
            service.previous.drain(..extra);
        }
        service.current = id;
        service.generation += 1;
        Ok(Some(service))
    }

    /// The service after a rollback.
    ///
    /// # Errors
    /// `nothing-to-roll-back`.
    pub fn rolled_back(&self) -> Result<Service, Error> {
        let mut service = self.clone();
        service.current = service.previous.pop().ok_or_else(|| {
            Error::new(
                Code::NothingToRollBack,
                format!("{} has no version before the one that runs", self.name),
            )
        })?;
        service.generation += 1;
        Ok(service)
    }

    pub fn info(&self, id: DeploymentId) -> Option<DeploymentInfo> {
        self.deployment(id).map(|d| DeploymentInfo {
            deployment: d.id,
            version: d.version.clone(),
            digest: d.digest,
            label: d.label.to_string(),
            deployed_ms: d.deployed_ms,
        })
    }
}

impl Catalogue {
    /// # Errors
    /// What the store says, or that what it holds does not decode.
    pub fn open(store: Box<dyn CatalogueStore>) -> Result<Self, String> {
        let services = match store.load()? {
            Some(bytes) => serde_json::from_slice::<Vec<Service>>(&bytes)
                .map_err(|e| format!("the stored catalogue of services does not decode: {e}"))?,
            None => Vec::new(),
        };
        let services = services.into_iter().map(|s| (s.name.clone(), Arc::new(s))).collect();
        let store = Some(store);
        Ok(Self { services: RwLock::new(services), changing: Mutex::new(()), store })
    }

    /// An empty catalogue that is told by [`Catalogue::learn`] what the cluster has.
    pub fn of_cluster() -> Self {
        Self { services: RwLock::default(), changing: Mutex::new(()), store: None }
    }

    /// Shows a service as the cluster has it. `false` when what is known is as new or newer: it
    /// never goes back.
    pub fn learn(&self, service: Service) -> bool {
        let mut services = self.services.write();
        let known = services.get(&service.name);
        if known.is_some_and(|known| known.generation >= service.generation) {
            return false;
        }
        services.insert(service.name.clone(), Arc::new(service));
        true
    }

    pub fn get(&self, name: &ServiceName) -> Option<Arc<Service>> {
        self.services.read().get(name).cloned()
    }

    /// # Errors
    /// `service-not-found`.
    pub fn require(&self, name: &ServiceName) -> Result<Arc<Service>, Error> {
        self.get(name).ok_or_else(|| not_deployed(name))
    }

    pub fn all(&self) -> Vec<Arc<Service>> {
        self.services.read().values().cloned().collect()
    }

    pub fn deployment(&self, name: &ServiceName, id: DeploymentId) -> Option<Deployment> {
        self.services.read().get(name)?.deployment(id).cloned()
    }

    /// A deployment's label; a number where the catalogue does not know it.
    pub fn label(&self, name: &ServiceName, id: DeploymentId) -> Arc<str> {
        let services = self.services.read();
        let known = services.get(name).and_then(|s| s.deployment(id)).map(|d| d.label.clone());
        known.unwrap_or_else(|| format!("deployment-{id}").into())
    }

    /// Makes a service's new form durable, then shows it. Blocks on the disk.
    ///
    /// # Errors
    /// `storage-unavailable`; then nothing has changed.
    pub fn put(&self, service: Service) -> Result<Arc<Service>, Error> {
        let store = self.store.as_ref();
        let store =
            store.ok_or_else(|| Error::internal("a cluster's catalogue is its registry"))?;
        let _changing = self.changing.lock();
        let mut next = self.services.read().clone();
        let service = Arc::new(service);
        next.insert(service.name.clone(), service.clone());
        let list: Vec<&Service> = next.values().map(|s| &**s).collect();
        let bytes = serde_json::to_vec(&list)
            .map_err(|e| Error::internal(format!("the catalogue does not encode: {e}")))?;
        store.save(&bytes).map_err(|why| {
            Error::new(Code::StorageUnavailable, format!("the catalogue was not saved: {why}"))
        })?;
        *self.services.write() = next;
        Ok(service)
    }
}

pub fn not_deployed(name: &ServiceName) -> Error {
    Error::new(
        Code::ServiceNotFound,
        format!("no service {name:?} is deployed; deploy one with `slotd deploy {name} FILE`"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> Digest {
        Digest([n; 32])
    }

    /// Rollback must undo exactly one deploy, and to-and-fro must not grow the catalogue.
    #[test]
    fn deploys_and_rollbacks_walk_back_in_order() -> Result<(), Error> {
        let name = ServiceName::parse("chat")?;
        let deploy =
            |s: Option<&Service>, n| Service::deployed(s, &name, Some("1.0.0"), digest(n), 0);
        let v1 = deploy(None, 1)?.ok_or_else(|| Error::internal("no change"))?;
        assert!(deploy(Some(&v1), 1)?.is_none(), "the same digest again is no change");
        let v2 = deploy(Some(&v1), 2)?.ok_or_else(|| Error::internal("no change"))?;
        let v3 = deploy(Some(&v2), 3)?.ok_or_else(|| Error::internal("no change"))?;
        let back = v3.rolled_back()?;
        assert_eq!((back.current, back.generation), (2, 4));
        let back = back.rolled_back()?;
        assert_eq!((back.current, back.generation), (1, 5));
        assert_eq!(back.rolled_back().map_err(|e| e.code), Err(Code::NothingToRollBack));
        let again = deploy(Some(&back), 2)?.ok_or_else(|| Error::internal("no change"))?;
        assert_eq!((again.current, again.deployments.len(), again.generation), (2, 3, 6));
        Ok(())
    }
}
