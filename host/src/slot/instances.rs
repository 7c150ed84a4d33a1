//! The instances that a slot keeps: one per service and deployment in use, the least recently
//! used dropped first.

use crate::{
    limits,
    log::record::DeploymentId,
    names::ServiceName,
    plugin::{Instance, Plugin},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// A deployment's instance in one slot.
pub struct Running {
    pub service: ServiceName,
    pub deployment: DeploymentId,
    pub plugin: Arc<Plugin>,
    /// The plugin's label, for answers.
    pub label: Arc<str>,
    pub instance: Instance,
    /// When a sweep first found it unused since its last call; no clock is read for a message.
    pub idle_since: Option<Instant>,
}

/// In order of use, the latest last. A handful: a linear search beats a map.
#[derive(Default)]
pub struct Instances(Vec<Running>);

impl Instances {
    /// Takes an instance out for a call; [`Instances::put`] it back unless it failed.
    pub fn take(&mut self, service: &ServiceName, deployment: DeploymentId) -> Option<Running> {
        let at = self.0.iter().rposition(|running| running.is(service, deployment))?;
        Some(self.0.remove(at))
    }

    pub fn put(&mut self, mut running: Running) {
        running.idle_since = None;
        if self.0.len() >= limits::INSTANCES_PER_SLOT_MAX {
            self.0.remove(0);
        }
        self.0.push(running);
    }

    /// Takes out what a service ran before `deployment`; a pinned session makes its own again.
    pub fn retire(&mut self, service: &ServiceName, deployment: DeploymentId) -> Vec<Running> {
        let old =
            |running: &mut Running| running.service == *service && running.deployment != deployment;
        self.0.extract_if(.., old).collect()
    }

    /// Takes out what did nothing for `idle`, as far as sweeps have seen.
    pub fn sweep(&mut self, idle: Duration) -> Vec<Running> {
        let is_idle = |running: &mut Running| match running.idle_since {
            Some(since) => since.elapsed() >= idle,
            None => {
                running.idle_since = Some(Instant::now());
                false
            }
        };
        self.0.extract_if(.., is_idle).collect()
    }

    pub fn take_all(&mut self) -> Vec<Running> {
        std::mem::take(&mut self.0)
    }

    pub fn has_service(&self, service: &ServiceName) -> bool {
        self.0.iter().any(|running| running.service == *service)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Running {
    fn is(&self, service: &ServiceName, deployment: DeploymentId) -> bool {
        self.deployment == deployment && self.service == *service
    }
}
