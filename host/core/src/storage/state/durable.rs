//! What the store has durably of each slot.
//!
//! A slot's changes are written without a sync. They are durable when the database has synced
//! anything that was written after them.

use crate::{log::Position, names::SlotId};
use parking_lot::Mutex;

pub struct Durable {
    slots: Vec<Mutex<Slot>>,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    /// The opening of the database that the rest is about.
    opened: u64,
    durable: Position,
    /// The oldest write of the slot that is not known to be durable, and its newest: those between
    /// count as the newest. By the database's count of writes, with the position that it reached.
    oldest: Option<(u64, Position)>,
    newest: Option<(u64, Position)>,
}

impl Durable {
    pub fn new(slots: u16) -> Self {
        Self { slots: (0..slots).map(|_| Mutex::default()).collect() }
    }

    /// A slot was brought to `position` by one of the database's first `written` writes.
    pub fn wrote(&self, slot: SlotId, opened: u64, written: u64, position: Position) {
        let Some(slot) = self.slots.get(usize::from(slot)) else { return };
        let mut slot = slot.lock();
        slot.start(opened);
        let write = Some((written, position));
        match slot.oldest {
            None => slot.oldest = write,
            Some(_) => slot.newest = write,
        }
    }

    /// What is durable of a slot when the database's first `synced` writes are.
    pub fn up_to(&self, slot: SlotId, opened: u64, synced: u64) -> Position {
        let Some(slot) = self.slots.get(usize::from(slot)) else { return 0 };
        let mut slot = slot.lock();
        slot.start(opened);
        while let Some((_, position)) = slot.oldest.filter(|(written, _)| *written <= synced) {
            slot.durable = position;
            slot.oldest = slot.newest.take();
        }
        slot.durable
    }

    /// The slot is removed.
    pub fn forget(&self, slot: SlotId) {
        if let Some(slot) = self.slots.get(usize::from(slot)) {
            let mut slot = slot.lock();
            *slot = Slot { opened: slot.opened, ..Slot::default() };
        }
    }
}

impl Slot {
    /// Nothing is known of what an earlier opening wrote: it may have failed.
    fn start(&mut self, opened: u64) {
        if self.opened != opened {
            *self = Self { opened, ..Self::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A position that is given too early lets the log drop what a crash needs; one that never
    /// comes keeps the log for ever.
    #[test]
    fn a_position_is_durable_when_a_later_write_is_synced() {
        let durable = Durable::new(2);
        assert_eq!(durable.up_to(0, 0, 9), 0);
        durable.wrote(0, 0, 10, 100);
        assert_eq!((durable.up_to(0, 0, 9), durable.up_to(1, 0, 99)), (0, 0));
        durable.wrote(0, 0, 20, 200);
        durable.wrote(0, 0, 30, 300);
        assert_eq!(durable.up_to(0, 0, 10), 100);
        assert_eq!(durable.up_to(0, 0, 29), 100, "200 is not kept apart");
        assert_eq!(durable.up_to(0, 0, 30), 300);
        durable.wrote(0, 0, 40, 400);
        durable.wrote(0, 0, 50, 500);
        assert_eq!(durable.up_to(0, 0, 60), 500, "both at once");
        durable.wrote(0, 0, 70, 700);
        assert_eq!(durable.up_to(0, 1, 80), 0, "another opening counts anew");
        durable.wrote(0, 1, 1, 700);
        durable.forget(0);
        assert_eq!(durable.up_to(0, 1, 9), 0);
        assert_eq!(durable.up_to(7, 1, 9), 0, "no such slot");
    }
}
