//! Deploys that are on their way through the gate: `gate.<service>`, changed by compare-and-swap and watched, so that every
//! node knows of them and any can go on with one.

use super::{
    Inner, Registry, Shared,
    bucket::{self, BucketError, Swapped},
};
use crate::{
    error::{Code, Error},
    gate::GateRecord,
    limits,
    names::ServiceName,
};
use std::sync::Arc;
use tokio::sync::watch as signal;

pub(super) const GATE: &str = "gate.";
/// Of the reports of a service's deployments: read when they are asked for.
const REPORTS: &str = "gate-reports.";

/// A gate as it is stored.
#[derive(Clone, Debug)]
pub struct KeptGate {
    /// Of the value: what a change of it names.
    pub revision: u64,
    pub record: Arc<GateRecord>,
}

/// What became of a change.
pub enum GatePut {
    Won(KeptGate),
    /// Somebody else has changed it: this is it.
    Lost(Option<KeptGate>),
}

impl Shared {
    pub(super) fn learn_gate(&self, name: &str, revision: u64, value: &[u8]) -> Result<(), String> {
        let record = bucket::decode::<GateRecord>(value)?;
        if record.service.as_str() == name {
            let kept = KeptGate { revision, record: record.into() };
            self.gates.send_modify(|gates| {
                gates.insert(kept.record.service.clone(), kept);
            });
        }
        Ok(())
    }
}

impl Registry {
    /// A service's last gate, as this node sees it.
    pub fn gate(&self, service: &ServiceName) -> Option<KeptGate> {
        self.inner.shared.gates.borrow().get(service).cloned()
    }

    /// The last gates of all services.
    pub fn gates(&self) -> Vec<KeptGate> {
        self.inner.shared.gates.borrow().values().cloned().collect()
    }

    /// Wakes whenever one changes.
    pub fn watch_gates(&self) -> signal::Receiver<super::Gates> {
        self.inner.shared.gates.subscribe()
    }

    /// Stores a gate if it is at revision `expected` (0: there was none).
    ///
    /// # Errors
    /// `outcome-unknown` if that is undecided; `request-invalid` if it has more than fits one NATS message.
    pub async fn put_gate(&self, record: &GateRecord, expected: u64) -> Result<GatePut, Error> {
        let Inner { bucket, shared, .. } = &*self.inner;
        let key = format!("{GATE}{}", record.service);
        Ok(match bucket.swap(&key, record, expected).await? {
            Swapped::Won { revision, value } => {
                shared.learn(&key, revision, &value);
                GatePut::Won(KeptGate { revision, record: Arc::new(record.clone()) })
            }
            Swapped::Lost { revision, value } => {
                shared.learn(&key, revision, &value);
                GatePut::Lost(self.gate(&record.service))
            }
        })
    }

    /// The gates of a service's deployments that are kept, the latest last.
    ///
    /// # Errors
    /// `storage-unavailable`.
    pub async fn gate_reports(&self, service: &ServiceName) -> Result<Vec<GateRecord>, Error> {
        let found = self.inner.bucket.read(&format!("{REPORTS}{service}")).await?;
        let Some((_, value)) = found else { return Ok(Vec::new()) };
        Ok(bucket::decode(&value).map_err(BucketError::from)?)
    }

    /// Keeps the report of a deployment.
    ///
    /// # Errors
    /// `storage-unavailable`, `outcome-unknown`.
    pub async fn keep_gate_report(&self, record: &GateRecord) -> Result<(), Error> {
        let bucket = &self.inner.bucket;
        let key = format!("{REPORTS}{}", record.service);
        let mut current = bucket.read(&key).await?;
        for _ in 0..limits::REGISTRY_SWAP_TRIES {
            let (revision, mut reports) = match &current {
                // What can't be read is not kept for that.
                Some((revision, value)) => (*revision, bucket::decode(value).unwrap_or_default()),
                None => (0, Vec::new()),
            };
            GateRecord::keep_among(&mut reports, record);
            match bucket.swap(&key, &reports, revision).await? {
                Swapped::Won { .. } => return Ok(()),
                Swapped::Lost { revision, value } => current = Some((revision, value)),
            }
        }
        Err(Error::new(Code::StorageUnavailable, "too many concurrent changes of the reports"))
    }
}
