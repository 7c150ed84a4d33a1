//! What a slot runs of each service, uncommitted switches included.

use crate::{
    error::{Cause, Error},
    log::record::Activate,
    names::{ServiceName, SlotId},
    service::catalogue::REMOVED,
    slot::Loaded,
};
use std::collections::BTreeMap;

pub struct Running(BTreeMap<ServiceName, Activate>);

impl Running {
    pub fn new(active: BTreeMap<ServiceName, Activate>) -> Self {
        Self(active)
    }

    pub fn get(&self, service: &ServiceName) -> Option<&Activate> {
        self.0.get(service)
    }

    pub fn generation(&self, service: &ServiceName) -> Option<u64> {
        self.get(service).map(|active| active.generation)
    }

    pub fn all(&self) -> impl Iterator<Item = &Activate> {
        self.0.values()
    }

    pub(super) fn switch(&mut self, to: Activate) {
        self.0.insert(to.service.clone(), to);
    }

    /// Whether the slot has sessions of `service` from before it was removed, in generation
    /// `since`, or may have.
    pub fn is_stale(&self, service: &ServiceName, since: u64) -> bool {
        let active = self.get(service);
        active.is_some_and(|at| at.deployment == REMOVED || at.generation < since)
    }

    /// Why a node that has `loaded` so much can't run the slot yet, if it can't.
    pub(super) fn not_loaded(&self, slot: SlotId, loaded: &Loaded) -> Option<Error> {
        let is_ahead = |active: &&Activate| {
            loaded.get(&active.service).is_none_or(|&generation| generation < active.generation)
        };
        let mut running = self.all().filter(|active| active.deployment != REMOVED);
        let ahead = running.find(is_ahead)?;
        Some(Error::of(
            Cause::NotLoaded,
            format!(
                "slot {slot} runs generation {} of {}, which its next owner has not loaded yet",
                ahead.generation, ahead.service
            ),
        ))
    }
}
