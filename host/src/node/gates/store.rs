//! Where gates are kept: in a cluster in its registry, on a node that stands alone in its data directory.

use crate::{
    error::{Code, Error},
    gate_report::GateRecord,
    names::ServiceName,
    registry::{GatePut, KeptGate, Registry},
    storage::DataDir,
};
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::watch;

/// The last gate of each service.
pub enum GateStore {
    Own(OwnGates),
    Cluster(Registry),
}

/// Of a node that stands alone.
pub struct OwnGates {
    data_dir: Arc<DataDir>,
    /// One change at a time; readers do not wait for its write to disk.
    changing: Arc<tokio::sync::Mutex<()>>,
    known: Mutex<BTreeMap<ServiceName, KeptGate>>,
    changed: watch::Sender<u64>,
}

fn key(service: &ServiceName) -> String {
    format!("gate.{service}")
}

/// Of the reports of a service's deploys.
fn reports_key(service: &ServiceName) -> String {
    format!("gate-reports.{service}")
}

impl OwnGates {
    fn new(data_dir: Arc<DataDir>) -> Self {
        Self {
            data_dir,
            changing: Arc::default(),
            known: Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }

    async fn put(&self, record: &GateRecord, expected: u64) -> Result<GatePut, Error> {
        let _turn = self.changing.lock().await;
        let known = self.known.lock().get(&record.service).cloned();
        if known.as_ref().map_or(0, |known| known.revision) != expected {
            return Ok(GatePut::Lost(known));
        }
        let bytes = serde_json::to_vec(record)
            .map_err(|e| Error::internal(format!("a gate does not encode: {e}")))?;
        self.save(key(&record.service), bytes).await?;
        let kept = KeptGate { revision: expected + 1, record: Arc::new(record.clone()) };
        self.known.lock().insert(record.service.clone(), kept.clone());
        self.changed.send_modify(|count| *count += 1);
        Ok(GatePut::Won(kept))
    }

    async fn save(&self, key: String, bytes: Vec<u8>) -> Result<(), Error> {
        let data_dir = self.data_dir.clone();
        let saved = move || data_dir.meta_put_durable(&key, &bytes);
        let saved = crate::task::blocking(saved).await;
        let saved = saved.map_err(|e| Error::internal(format!("saving a gate failed: {e}")))?;
        saved.map_err(|why| {
            Error::new(Code::StorageUnavailable, format!("the gate was not saved: {why}"))
        })
    }
}

impl GateStore {
    /// `services`: those that may have one.
    ///
    /// # Errors
    /// The store can't be read.
    pub fn open(
        data_dir: &Arc<DataDir>,
        registry: Option<&Registry>,
        services: impl Iterator<Item = ServiceName>,
    ) -> Result<Self, Error> {
        if let Some(registry) = registry {
            return Ok(Self::Cluster(registry.clone()));
        }
        let own = OwnGates::new(data_dir.clone());
        for service in services {
            let Some(bytes) = data_dir.meta_get(&key(&service))? else { continue };
            match serde_json::from_slice::<GateRecord>(&bytes) {
                Ok(record) => {
                    let kept = KeptGate { revision: 1, record: record.into() };
                    own.known.lock().insert(service, kept);
                }
                // What it was of can be deployed again; that is no reason not to start.
                Err(error) => tracing::warn!(%service, %error, "the last gate can't be read"),
            }
        }
        Ok(Self::Own(own))
    }

    pub fn get(&self, service: &ServiceName) -> Option<KeptGate> {
        match self {
            Self::Own(own) => own.known.lock().get(service).cloned(),
            Self::Cluster(registry) => registry.gate(service),
        }
    }

    pub fn all(&self) -> Vec<KeptGate> {
        match self {
            Self::Own(own) => own.known.lock().values().cloned().collect(),
            Self::Cluster(registry) => registry.gates(),
        }
    }

    /// Stores a gate if it is at revision `expected`; 0: there was none.
    ///
    /// # Errors
    /// `storage-unavailable`, `outcome-unknown`.
    pub async fn put(&self, record: &GateRecord, expected: u64) -> Result<GatePut, Error> {
        match self {
            Self::Own(own) => own.put(record, expected).await,
            Self::Cluster(registry) => registry.put_gate(record, expected).await,
        }
    }

    /// Waits until a gate is what `is_it` looks for, or for any change if it never is; ends with the store.
    pub async fn until<T>(&self, mut is_it: impl FnMut(&Self) -> Option<T>) -> Option<T> {
        match self {
            Self::Own(own) => {
                let mut changed = own.changed.subscribe();
                loop {
                    if let Some(found) = is_it(self) {
                        return Some(found);
                    }
                    changed.changed().await.ok()?;
                }
            }
            Self::Cluster(registry) => {
                let mut changed = registry.watch_gates();
                loop {
                    if let Some(found) = is_it(self) {
                        return Some(found);
                    }
                    changed.changed().await.ok()?;
                }
            }
        }
    }

    /// The gates of a service's deployments that are kept, the latest last.
    ///
    /// # Errors
    /// `storage-unavailable`; what is stored can't be read.
    pub async fn reports(&self, service: &ServiceName) -> Result<Vec<GateRecord>, Error> {
        match self {
            Self::Own(own) => {
                let (data_dir, key) = (own.data_dir.clone(), reports_key(service));
                let read = crate::task::blocking(move || data_dir.meta_get(&key)).await;
                let read = read.map_err(|e| Error::internal(format!("reading failed: {e}")))??;
                let Some(bytes) = read else { return Ok(Vec::new()) };
                serde_json::from_slice(&bytes)
                    .map_err(|e| Error::internal(format!("the kept reports can't be read: {e}")))
            }
            Self::Cluster(registry) => registry.gate_reports(service).await,
        }
    }

    /// Keeps the report of a deployment.
    ///
    /// # Errors
    /// As [`Self::reports`].
    pub async fn keep_report(&self, record: &GateRecord) -> Result<(), Error> {
        match self {
            Self::Own(own) => {
                let _turn = own.changing.lock().await;
                let mut reports = self.reports(&record.service).await.unwrap_or_default();
                GateRecord::keep_among(&mut reports, record);
                let bytes = serde_json::to_vec(&reports)
                    .map_err(|e| Error::internal(format!("a report does not encode: {e}")))?;
                own.save(reports_key(&record.service), bytes).await
            }
            Self::Cluster(registry) => registry.keep_gate_report(record).await,
        }
    }
}
