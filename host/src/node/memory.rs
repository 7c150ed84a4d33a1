//! The node's total memory of instances: dropping idle ones when memory is short, and the numbers
//! for operators.

use super::*;

/// Drops the least recently used instances whenever a call waits for memory, until none does.
pub(super) async fn shed_instances(plugins: Arc<PluginHost>, mut stopping: watch::Receiver<bool>) {
    let budget = plugins.budget().clone();
    loop {
        tokio::select! {
            () = budget.lacks() => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        let shed = {
            let plugins = plugins.clone();
            let budget = budget.clone();
            move || plugins.pool().shed(budget.bytes_lacking(), budget.maps_lacking())
        };
        let shed = crate::task::blocking(shed).await.unwrap_or(0);
        if shed == 0 {
            // All are in calls, which release theirs when they end.
            tokio::time::sleep(limits::SHED_INTERVAL).await;
        }
    }
}

impl Node {
    /// Memory of a service's instances on this node.
    pub(super) fn service_memory(&self, service: &ServiceName) -> crate::telemetry::ServiceMemory {
        let usage = self.context.plugins.budget().service(service);
        let plugin = self.context.kept.get(service);
        crate::telemetry::ServiceMemory {
            instances: usage.instances(),
            bytes: usage.bytes(),
            code_bytes: plugin.map(|plugin| plugin.code_bytes() as u64),
        }
    }
}
