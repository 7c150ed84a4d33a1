//! The slots of a node, looked at one moment after the other.

use crate::{
    error::StateError,
    log::Position,
    names::{ServiceName, SlotId},
    state::rows::{SlotView, WholeSlots},
};
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc};

/// Gives snapshots of slots, as far as they are whole.
pub struct Slots {
    store: Arc<dyn WholeSlots>,
    service: ServiceName,
    /// How far each slot was when it was last looked at.
    seen: Mutex<HashMap<SlotId, Position>>,
}

impl Slots {
    pub fn new(store: Arc<dyn WholeSlots>, service: ServiceName) -> Self {
        Self { store, service, seen: Mutex::default() }
    }

    /// The slot as it is now.
    ///
    /// # Errors
    /// Of the store; that the slot has gone and is loaded anew, of which the parts do not fit together.
    pub fn view(&self, slot: SlotId) -> Result<Box<dyn SlotView>, StateError> {
        let view = self.store.look(slot)?;
        let applied = view.meta().applied;
        let before = self.seen.lock().insert(slot, applied);
        let is_half = || Ok::<_, StateError>(!view.heads(&self.service, None, 1)?.is_empty());
        if before.is_some_and(|before| applied < before) || (applied == 0 && is_half()?) {
            return Err(StateError::Unavailable("it has moved, and is loaded anew".into()));
        }
        Ok(view)
    }
}
