//! Memory of instances as the node has it in all: who gives some up when it is lacking, and what
//! operators see.

use super::*;
use futures_util::stream::FuturesUnordered;

/// Has the slots that were used least recently give up their instances whenever a slot waits for
/// memory, until nobody does.
pub(super) async fn shed_instances(
    node: std::sync::Weak<Node>,
    mut stopping: watch::Receiver<bool>,
) {
    let Some(budget) = node.upgrade().map(|node| node.context.plugins.budget().clone()) else {
        return;
    };
    // Slots that were asked and have not answered: they are in a long call.
    let mut asked = FuturesUnordered::new();
    let mut silent = BTreeSet::new();
    loop {
        tokio::select! {
            () = budget.lacks() => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        let Some(node) = node.upgrade() else { return };
        for (slot, handle) in chosen(&node.router, &silent, budget.bytes_lacking()) {
            let (reply, shed) = oneshot::channel();
            handle.try_order(Order::Shed { reply });
            silent.insert(slot);
            asked.push(shed.map(move |_| slot));
        }
        drop(node);
        let deadline = tokio::time::sleep(limits::SHED_PATIENCE);
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                Some(slot) = asked.next() => {
                    silent.remove(&slot);
                    if asked.is_empty() {
                        break;
                    }
                }
                () = &mut deadline => break,
            }
        }
    }
}

/// The slots whose instances hold `bytes` together, the least recently used first.
fn chosen(router: &Router, silent: &BTreeSet<SlotId>, bytes: usize) -> Vec<(SlotId, SlotHandle)> {
    let mut holders: Vec<_> = router
        .all_running()
        .into_iter()
        .filter(|(slot, handle)| !silent.contains(slot) && handle.stats.memory.bytes() > 0)
        .collect();
    holders.sort_by_key(|(_, handle)| handle.stats.last_mail.load(Ordering::Relaxed));
    let mut sum = 0;
    let enough = holders.iter().position(|(_, handle)| {
        sum += handle.stats.memory.bytes();
        sum >= bytes as u64
    });
    holders.truncate(enough.map_or(holders.len(), |last| last + 1));
    holders
}

impl Node {
    /// What a service's instances hold on this node.
    pub(super) fn service_memory(&self, service: &ServiceName) -> ServiceMemory {
        let usage = self.context.plugins.budget().service(service);
        let plugin = self.current.lock().get(service).cloned();
        ServiceMemory {
            instances: usage.instances(),
            bytes: usage.bytes(),
            code_bytes: plugin.map(|plugin| plugin.code_bytes() as u64),
        }
    }
}
