//! Snapshots of slots in an object store.

use crate::{
    log::{Position, SlotLog},
    names::SlotId,
    state::{SlotMeta, StateStore},
};
use std::sync::Arc;

#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct SnapshotError(pub String);

pub struct Snapshots;

impl Snapshots {
    pub async fn take(
        &self,
        _slot: SlotId,
        _store: Arc<dyn StateStore>,
        _log: Arc<dyn SlotLog>,
    ) -> Result<Position, SnapshotError> {
        Err(SnapshotError("not built".into()))
    }
    pub async fn restore(
        &self,
        _slot: SlotId,
        _store: Arc<dyn StateStore>,
    ) -> Result<SlotMeta, SnapshotError> {
        Err(SnapshotError("not built".into()))
    }
    pub async fn collect(&self, _slot: SlotId) -> Result<(), SnapshotError> {
        Ok(())
    }
}
