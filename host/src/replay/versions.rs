//! The components of a service's deployments, loaded as they are needed.

use crate::{
    log::record::DeploymentId, names::ServiceName, plugin::PluginHost, replay_engine::Version,
    service::Catalogue,
};
use std::{collections::HashMap, sync::Arc};
use tokio::sync::Mutex;

/// A version, or why it can't be run.
type Found = Result<Arc<Version>, Arc<str>>;

/// Shared by the threads of a job: what is not there is looked for once.
pub struct Versions {
    service: ServiceName,
    catalogue: Arc<Catalogue>,
    plugins: Arc<PluginHost>,
    known: Mutex<HashMap<DeploymentId, Found>>,
}

impl Versions {
    pub fn new(service: ServiceName, catalogue: Arc<Catalogue>, plugins: Arc<PluginHost>) -> Self {
        Self { service, catalogue, plugins, known: Mutex::default() }
    }

    /// # Errors
    /// Why it can't be run.
    pub async fn get(&self, id: DeploymentId) -> Found {
        let mut known = self.known.lock().await;
        if let Some(version) = known.get(&id) {
            return version.clone();
        }
        let version = self.load(id).await.map_err(Arc::from);
        known.insert(id, version.clone());
        version
    }

    async fn load(&self, id: DeploymentId) -> Result<Arc<Version>, String> {
        let Some(deployment) = self.catalogue.deployment(&self.service, id) else {
            return Err(format!("deployment {id} is not in the catalogue"));
        };
        let plugin = self.plugins.load(deployment.digest).await;
        let plugin = plugin.map_err(|why| format!("{} can't be run: {why}", deployment.label))?;
        Ok(Arc::new(Version {
            id,
            plugin,
            version: deployment.version,
            label: deployment.label,
            same_state: deployment.same_state,
        }))
    }

    /// The version of a deployment, as `migrate` is told it.
    pub fn version_of(&self, id: DeploymentId) -> Option<String> {
        self.catalogue.deployment(&self.service, id).map(|deployment| deployment.version)
    }

    pub fn label(&self, id: DeploymentId) -> Arc<str> {
        self.catalogue.label(&self.service, id)
    }
}
