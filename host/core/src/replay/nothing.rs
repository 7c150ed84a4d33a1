//! A store with nothing in it: what a session in memory has is all that there is.

use crate::{
    error::StateError,
    log::record::{DeploymentId, Entry, Head},
    names::{ServiceName, SessionId, SessionKey, SlotId},
    state::{
        Remembered, SessionCount, SlotMeta, StateStore,
        changes::Changes,
        stored::{Maker, StoredByService},
    },
};
use bytes::Bytes;
use std::{collections::BTreeMap, sync::Arc, time::Instant};

pub(super) struct Nothing;

impl StateStore for Nothing {
    fn slot(&self, _: SlotId) -> Result<SlotMeta, StateError> {
        Ok(SlotMeta::default())
    }
    fn is_writable(&self) -> bool {
        false
    }
    fn has_room(&self) -> bool {
        false
    }
    fn head(&self, _: SlotId, _: &SessionKey) -> Result<Option<Head>, StateError> {
        Ok(None)
    }
    fn get(&self, _: SlotId, _: u64, _: &[u8]) -> Result<Option<Bytes>, StateError> {
        Ok(None)
    }
    fn scan(
        &self,
        _: SlotId,
        _: u64,
        _: &[u8],
        _: Option<&[u8]>,
        _: usize,
        _: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StateError> {
        Ok(Vec::new())
    }
    fn history(
        &self,
        _: SlotId,
        _: u64,
        _: u64,
        _: usize,
        _: usize,
    ) -> Result<Vec<Arc<Entry>>, StateError> {
        Ok(Vec::new())
    }
    fn history_back(
        &self,
        _: SlotId,
        _: u64,
        _: u64,
        _: usize,
        _: usize,
    ) -> Result<Vec<Arc<Entry>>, StateError> {
        Ok(Vec::new())
    }
    fn remembered(&self, _: SlotId, _: u64, _: &str) -> Result<Option<Remembered>, StateError> {
        Ok(None)
    }
    fn sessions(
        &self,
        _: SlotId,
        _: &ServiceName,
        _: &str,
        _: Option<&SessionId>,
        _: usize,
    ) -> Result<Vec<(SessionId, Head)>, StateError> {
        Ok(Vec::new())
    }
    fn pinned(
        &self,
        _: SlotId,
        _: &ServiceName,
        _: Option<&SessionId>,
        _: usize,
    ) -> Result<Vec<(SessionId, Head)>, StateError> {
        Ok(Vec::new())
    }
    fn count_sessions(
        &self,
        _: SlotId,
        _: &ServiceName,
    ) -> Result<BTreeMap<DeploymentId, SessionCount>, StateError> {
        Ok(BTreeMap::new())
    }
    fn stored(&self, _: SlotId) -> Result<Option<StoredByService>, StateError> {
        Ok(Some(StoredByService::new()))
    }
    fn maker(&self, _: SlotId, _: &SessionKey) -> Result<Option<Maker>, StateError> {
        Ok(None)
    }
    fn count_stored(&self, _: SlotId, _: Instant) -> Result<bool, StateError> {
        Ok(true)
    }
    fn apply(&self, _: SlotId, _: &Changes, _: &SlotMeta) -> Result<(), StateError> {
        Err(StateError::Unavailable("a bug: a replay is not stored".into()))
    }
}
