//! The router: from a session to its slot, and from a slot to whoever runs it.
//!
//! The table is an array index, never the ring. On one node every slot runs here, started by its
//! first mail.

use crate::{
    error::{Code, Error},
    names::{SessionKey, SlotId},
    slot::{Mail, Order, Ownership, SlotContext, SlotHandle},
};
use parking_lot::RwLock;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// The slots of a node.
pub struct Router {
    slots: Box<[Place]>,
    context: Arc<SlotContext>,
    closed: AtomicBool,
}

/// Where a slot's task is, if it runs.
#[derive(Default)]
struct Place {
    handle: RwLock<Option<SlotHandle>>,
    ownership: Ownership,
}

impl Router {
    pub fn new(slot_count: u16, context: Arc<SlotContext>) -> Self {
        let slots = (0..slot_count).map(|_| Place::default()).collect();
        Self { slots, context, closed: AtomicBool::new(false) }
    }

    pub fn slot_count(&self) -> u16 {
        self.slots.len() as u16
    }

    pub fn slot_of(&self, key: &SessionKey) -> SlotId {
        key.slot(self.slot_count())
    }

    /// Puts mail into a slot's mailbox, starting the slot if need be. Does not wait.
    ///
    /// # Errors
    /// `mailbox-full`; `unavailable` while the node stops; `slot-not-found`.
    pub fn deliver(&self, slot: SlotId, mut mail: Mail) -> Result<(), Error> {
        loop {
            let handle = self.place(slot)?.handle.read();
            if let Some(handle) = &*handle {
                match handle.try_mail(mail) {
                    Ok(result) => return result,
                    Err(back) => mail = back,
                }
            }
            drop(handle);
            self.start(slot)?;
        }
    }

    /// Gives a slot an order, starting the slot if need be. Waits for room.
    ///
    /// # Errors
    /// As [`Router::deliver`].
    pub async fn order(&self, slot: SlotId, mut order: Order) -> Result<(), Error> {
        loop {
            let handle = self.running(slot)?;
            if let Some(handle) = handle {
                match handle.order(order).await {
                    Ok(()) => return Ok(()),
                    Err(back) => order = back,
                }
            }
            self.start(slot)?;
        }
    }

    /// The slot's handle if it runs.
    ///
    /// # Errors
    /// `slot-not-found`.
    pub fn running(&self, slot: SlotId) -> Result<Option<SlotHandle>, Error> {
        let handle = self.place(slot)?.handle.read();
        Ok(handle.as_ref().filter(|handle| !handle.is_closed()).cloned())
    }

    /// No task has the slot, and the store has all of it.
    ///
    /// # Errors
    /// `slot-not-found`.
    pub fn rests(&self, slot: SlotId) -> Result<bool, Error> {
        let handle = self.place(slot)?.handle.read();
        Ok(handle.as_ref().is_none_or(|handle| {
            handle.is_closed() && handle.stats.flushed.load(Ordering::Acquire)
        }))
    }

    /// Waits until no slot has a task, nor a flush of one.
    pub async fn settled(&self) {
        for place in &self.slots {
            drop(place.ownership.lock().await);
        }
    }

    /// Every slot that runs.
    pub fn all_running(&self) -> Vec<(SlotId, SlotHandle)> {
        let slots = (0..self.slot_count()).filter_map(|slot| {
            let handle = self.running(slot).ok().flatten()?;
            Some((slot, handle))
        });
        slots.collect()
    }

    /// Starts no slot any more.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    fn place(&self, slot: SlotId) -> Result<&Place, Error> {
        self.slots.get(usize::from(slot)).ok_or_else(|| {
            Error::new(
                Code::SlotNotFound,
                format!("there is no slot {slot}: slots go from 0 to {}", self.slots.len() - 1),
            )
        })
    }

    /// Spawns the slot's task unless one runs. Whoever comes second finds the first one's.
    fn start(&self, slot: SlotId) -> Result<(), Error> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::new(Code::Unavailable, "the node is stopping"));
        }
        let place = self.place(slot)?;
        let mut handle = place.handle.write();
        if handle.as_ref().is_none_or(SlotHandle::is_closed) {
            *handle = Some(SlotHandle::spawn(slot, place.ownership.clone(), self.context.clone()));
        }
        Ok(())
    }
}
