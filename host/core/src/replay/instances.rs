//! Which component runs, and the instances of it that a thread has.

use crate::{
    limits,
    log::record::DeploymentId,
    plugin::{Account, Digest, Instance, Isolation, Plugin, PluginError},
};
use std::sync::Arc;

/// A deployment that can be run, or what is to be one.
#[derive(Clone, Debug)]
pub struct Version {
    pub id: DeploymentId,
    pub plugin: Arc<Plugin>,
    /// As `migrate` of another one is told it.
    pub version: String,
    pub label: Arc<str>,
    /// As [`crate::service::Deployment::same_state`].
    pub same_state: bool,
}

/// The instances of one thread, which are its own: nothing of a node's other calls gets into them.
#[derive(Debug)]
pub struct Instances {
    isolation: Isolation,
    idle: Vec<(Digest, Instance)>,
    /// What they log is logged: nobody has heard it before.
    is_heard: bool,
}

impl Instances {
    /// [`Isolation::Shared`]: one of a version is used for all calls. [`Isolation::Call`]: each has a new one.
    pub fn new(isolation: Isolation) -> Self {
        Self { isolation, idle: Vec::new(), is_heard: false }
    }

    /// Has what they log be logged, as it was when the messages were handled.
    #[must_use]
    pub fn heard(self) -> Self {
        Self { is_heard: true, ..self }
    }

    pub(super) async fn take(&mut self, version: &Version) -> Result<Instance, PluginError> {
        let digest = version.plugin.digest();
        if let Some(at) = self.idle.iter().rposition(|(of, _)| *of == digest) {
            return Ok(self.idle.remove(at).1);
        }
        let timeout = limits::INSTANCE_MEMORY_TIMEOUT;
        let instance = version.plugin.instantiate(Account::default(), timeout).await?;
        Ok(if self.is_heard { instance } else { instance.muted() })
    }

    /// Bytes of linear memory that the instances of a version have.
    pub fn memory_bytes(&self, version: &Version) -> usize {
        let digest = version.plugin.digest();
        let own = self.idle.iter().filter(|(of, _)| *of == digest);
        own.map(|(_, instance)| instance.memory_bytes()).max().unwrap_or(0)
    }

    pub(super) fn keep(&mut self, version: &Version, instance: Instance) {
        if self.isolation == Isolation::Call {
            return;
        }
        if self.idle.len() >= limits::REPLAY_INSTANCES_MAX {
            self.idle.remove(0);
        }
        self.idle.push((version.plugin.digest(), instance));
    }
}
