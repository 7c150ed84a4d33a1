//! Wakes slots when something of them is due, by the clock of the day.

use super::*;
use crate::telemetry::metrics;

/// Wakes slots until the node stops.
pub(super) async fn wake(node: std::sync::Weak<Node>, mut stopping: watch::Receiver<bool>) {
    {
        let Some(node) = node.upgrade() else { return };
        // In a cluster whoever has a slot has opened it.
        if node.cluster.is_none() {
            learn(&node).await;
        }
    }
    loop {
        let Some(alive) = node.upgrade() else { return };
        let context = alive.context.clone();
        let now = now_ms();
        for slot in context.wakes.take(now) {
            alive.wake_slot(slot, now);
        }
        metrics().slots_to_wake.set(context.wakes.len() as f64);
        drop(alive);
        tokio::select! {
            () = context.wakes.wait(now, limits::WAKE_LOOK) => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
}

/// What is due first in each slot, as the store has it: nobody has opened them yet.
async fn learn(node: &Arc<Node>) {
    let (context, slots) = (node.context.clone(), node.router.slot_count());
    let learnt = crate::task::blocking(move || {
        for slot in 0..slots {
            match crate::slot::wakes::first_due(&*context.store, slot) {
                Ok(Some(due_ms)) => context.wakes.set_at_latest(slot, due_ms),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(slot, %error, "can't read which timers of the slot are due");
                    // It says so again when it is started.
                    context.wakes.set_at_latest(slot, now_ms());
                }
            }
        }
    });
    if let Err(error) = learnt.await {
        tracing::error!(%error, "can't read which timers are due");
    }
}

impl Node {
    /// Has a slot look at what is due.
    fn wake_slot(&self, slot: SlotId, now: u64) {
        let running = self.router.running(slot).ok().flatten();
        let woken = match &running {
            Some(handle) => handle.try_order(Order::Due),
            // It looks when it is open.
            None if self.cluster.is_none() => self.router.start(slot).is_ok(),
            // Its owner looks after it; one that is just opening says when.
            None => true,
        };
        if !woken && !*self.stopping.borrow() {
            let later = now.saturating_add(limits::EFFECT_RETRY_MIN_MS);
            self.context.wakes.set_at_latest(slot, later);
        }
    }
}
