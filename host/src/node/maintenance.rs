//! Background work of a node: flushes, idle slots, recovery of a failed store.

use super::*;

/// Makes dirty slots flush and idle ones stop, a share of them per tick so that they don't all
/// write at once.
pub(super) async fn maintain(node: std::sync::Weak<Node>, mut stopping: watch::Receiver<bool>) {
    let ticks = limits::FLUSH_TICKS;
    let mut tick = tokio::time::interval(limits::FLUSH_INTERVAL / ticks);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for turn in (0..ticks).cycle() {
        tokio::select! {
            _ = tick.tick() => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        let Some(node) = node.upgrade() else { return };
        if turn == 0 {
            node.bring_stragglers();
            if node.cluster.is_none() {
                node.router.open_unflushed(limits::UNFLUSHED_OPENED_MAX);
            }
        }
        if turn % limits::INSTANCE_SWEEP_TICKS == 0 {
            let (plugins, idle) = (node.context.plugins.clone(), node.options.instance_idle);
            crate::task::blocking(move || plugins.pool().sweep(idle));
        }
        for (slot, handle) in node.router.all_running() {
            if u32::from(slot) % ticks != turn {
                continue;
            }
            if handle.stats.dirty.load(Ordering::Relaxed) {
                handle.try_order(Order::Flush);
            }
            handle.try_order(Order::StopIfIdle { idle: node.options.slot_idle });
            if node.cluster.is_some() {
                handle.try_order(Order::Prove);
            }
        }
    }
}

/// Reopens the store after a failed write, and ends the node when its data is damaged.
pub(super) async fn watch_storage(
    node: std::sync::Weak<Node>,
    data_dir: Arc<DataDir>,
    mut stopping: watch::Receiver<bool>,
) {
    let mut health = data_dir.health();
    let mut backoff = Backoff::new(limits::REOPEN_RETRY_MIN, limits::REOPEN_RETRY_MAX);
    loop {
        let now = health.borrow_and_update().clone();
        let Some(node) = node.upgrade() else { return };
        match now {
            Health::Ready | Health::Full(_) => {
                backoff.reset();
                drop(node);
                tokio::select! {
                    changed = health.changed() => if changed.is_err() { return },
                    _ = stopping.wait_for(|stopping| *stopping) => return,
                }
            }
            Health::Failed(_) => {
                // What the slots have in memory may differ from the reopened store.
                node.stop_slots(limits::REOPEN_GRACE).await;
                let dir = data_dir.clone();
                let reopened = crate::task::blocking(move || dir.reopen()).await;
                if let Ok(Err(error)) = reopened {
                    let wait = backoff.next();
                    tracing::warn!(
                        %error, backoff = ?wait, "can't reopen the store yet; will try again"
                    );
                    drop(node);
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        _ = stopping.wait_for(|stopping| *stopping) => return,
                    }
                }
            }
            Health::Corrupt(why) => {
                node.fatal.send_replace(Some(why));
                return;
            }
        }
    }
}
