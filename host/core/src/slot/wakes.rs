//! When slots have something to do next, by the clock of the day. One task of the node looks after it: slots
//! that nothing is due in cost nothing, and a slot that has stopped is woken, too.

use crate::{
    clock::milliseconds,
    effects::rows::{self, Due},
    error::StateError,
    limits,
    names::SlotId,
    slot::{SlotContext, shell::Shell},
    state::StateStore,
};
use parking_lot::{Mutex, MutexGuard};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::sync::Notify;

/// Which slots are to be woken, and when.
#[derive(Default)]
pub struct Wakes {
    inner: Mutex<Inner>,
    /// The first is earlier than it was.
    earlier: Notify,
}

#[derive(Default)]
struct Inner {
    by_slot: BTreeMap<SlotId, u64>,
    in_order: BTreeSet<(u64, SlotId)>,
}

impl Wakes {
    /// A slot is to be woken at `due_ms`, in milliseconds since the Unix epoch; `None`: not at all.
    pub fn set(&self, slot: SlotId, due_ms: Option<u64>) {
        self.set_in(self.inner.lock(), slot, due_ms);
    }

    fn set_in(&self, mut inner: MutexGuard<'_, Inner>, slot: SlotId, due_ms: Option<u64>) {
        let first = inner.in_order.first().map(|(due, _)| *due);
        if let Some(was) = inner.by_slot.remove(&slot) {
            inner.in_order.remove(&(was, slot));
        }
        let Some(due_ms) = due_ms else { return };
        inner.by_slot.insert(slot, due_ms);
        inner.in_order.insert((due_ms, slot));
        drop(inner);
        if first.is_none_or(|first| due_ms < first) {
            self.earlier.notify_one();
        }
    }

    /// As [`Wakes::set`], unless it is to be woken earlier.
    pub fn set_at_latest(&self, slot: SlotId, due_ms: u64) {
        let inner = self.inner.lock();
        if inner.by_slot.get(&slot).is_none_or(|known| due_ms < *known) {
            self.set_in(inner, slot, Some(due_ms));
        }
    }

    /// Takes the slots that are to be woken by `now_ms`.
    pub fn take(&self, now_ms: u64) -> Vec<SlotId> {
        let mut inner = self.inner.lock();
        let mut due = Vec::new();
        while let Some((at, slot)) = inner.in_order.first().copied().filter(|(at, _)| *at <= now_ms)
        {
            inner.in_order.remove(&(at, slot));
            inner.by_slot.remove(&slot);
            due.push(slot);
        }
        due
    }

    /// Waits until some slot may have to be woken, for `longest` at most: the clock of the day may jump.
    pub async fn wait(&self, now_ms: u64, longest: Duration) {
        let first = self.inner.lock().in_order.first().map(|(due, _)| *due);
        let left = first.map(|first| Duration::from_millis(first.saturating_sub(now_ms)));
        let wait = left.map_or(longest, |left| left.min(longest));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = self.earlier.notified() => {}
        }
    }

    /// How many slots are to be woken some time.
    pub fn len(&self) -> usize {
        self.inner.lock().by_slot.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// When something of a slot that nobody has is due first, in milliseconds since the Unix epoch.
///
/// # Errors
/// As any read.
pub fn first_due(store: &dyn StateStore, slot: SlotId) -> Result<Option<u64>, StateError> {
    // What is on its way is due at once.
    if !store.scan(slot, rows::OUTBOX, b"", None, 1, usize::MAX)?.is_empty() {
        return Ok(Some(0));
    }
    let rows = store.scan(slot, rows::DUE, b"", None, 1, usize::MAX)?;
    Ok(rows.first().and_then(|(key, _)| Due::of_key(key)).map(|due| due.due_ms))
}

/// Has a slot of a node that stands alone started again for what is due, some time after it has failed.
pub(super) fn wake_later(context: &SlotContext, slot: SlotId) {
    let pause = milliseconds(limits::EFFECT_HOLD_MAX);
    let soonest = crate::clock::now_ms().saturating_add(pause);
    let first = match first_due(&*context.store, slot) {
        Ok(first) => first,
        Err(_) => Some(soonest),
    };
    if let Some(first) = first {
        context.wakes.set_at_latest(slot, first.max(soonest));
    }
}

impl Shell {
    /// Has the slot's task look when something is due: by itself if it is now, else when the node wakes it.
    pub(super) fn ask_to_be_woken(&mut self) {
        if !self.core.due().has_changed() {
            return;
        }
        let (now_ms, now) = (crate::clock::now_ms(), crate::clock::now());
        let next = self.core.due().next_ms(now_ms, now);
        if next.is_some_and(|next| next <= now_ms) {
            self.attention = true;
            // Should the clock be put back before the task looks, it is woken all the same.
            let later = now_ms.saturating_add(limits::EFFECT_RETRY_MIN_MS);
            if self.registered.is_none_or(|at| at <= now_ms || at > later) {
                self.registered = Some(later);
                self.context.wakes.set(self.slot, Some(later));
            }
        } else if next != self.registered {
            self.registered = next;
            self.context.wakes.set(self.slot, next);
        }
    }

    /// The slot has ended. On a node that stands alone nobody else has it: the node starts it again for what
    /// is due, but not at once if it has failed.
    pub(super) fn leave_due(&mut self) {
        if self.shared.is_none() {
            return;
        }
        let (now_ms, now) = (crate::clock::now_ms(), crate::clock::now());
        // What was being carried out elsewhere ends with the slot, and is as due as before.
        let ends = self.core.due().is_under_way();
        let sends = !self.core.outbox().is_empty();
        let next = self.core.due().next_ms(now_ms, now);
        let next = if sends || ends { Some(now_ms) } else { next };
        let pause = milliseconds(limits::EFFECT_HOLD_MAX);
        let next = next.map(|next| match self.ended_in_order {
            true => next,
            false => next.max(now_ms.saturating_add(pause)),
        });
        self.context.wakes.set(self.slot, next.filter(|_| self.context.cluster.is_none()));
    }

    /// Whether something is due within so much time, or is on its way to another slot.
    pub(super) fn is_due_within(&mut self, time: Duration) -> bool {
        if !self.core.outbox().is_empty() {
            return true;
        }
        let (now_ms, now) = (crate::clock::now_ms(), crate::clock::now());
        let until = now_ms.saturating_add(milliseconds(time));
        self.core.due().next_ms(now_ms, now).is_some_and(|next| next <= until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A slot that is woken for what it no longer has costs a start; one that is forgotten fires nothing.
    #[tokio::test]
    async fn a_slot_is_woken_once_for_what_it_said_last() {
        let wakes = Wakes::default();
        wakes.set(1, Some(100));
        wakes.set(2, Some(50));
        wakes.set(1, Some(70));
        wakes.set(3, Some(60));
        wakes.set(3, None);
        wakes.set_at_latest(2, 90);
        assert!(wakes.take(49).is_empty());
        assert_eq!(wakes.take(70), [2, 1]);
        assert!(wakes.take(u64::MAX).is_empty() && wakes.is_empty());
        // Whoever waits for later hears of what is earlier.
        let hour = Duration::from_secs(3_600);
        let waits = wakes.wait(0, hour);
        wakes.set(5, Some(0));
        assert!(tokio::time::timeout(Duration::from_secs(10), waits).await.is_ok());
        assert_eq!(wakes.take(0), [5]);
    }
}
