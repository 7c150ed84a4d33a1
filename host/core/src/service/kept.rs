//! Keeps what slots are to run loaded, also while no slot has an instance of it.

use super::target::Target;
use crate::{
    error::Error,
    names::ServiceName,
    plugin::{Plugin, PluginHost},
};
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};

/// The plugins of a node's current targets.
#[derive(Default)]
pub struct KeptPlugins(Mutex<BTreeMap<ServiceName, Kept>>);

/// Of one service.
struct Kept {
    generation: u64,
    /// `None`: it was removed, which takes nothing.
    plugin: Option<Arc<Plugin>>,
}

impl KeptPlugins {
    /// Keeps the plugin of `target`, which is durable, unless that of a later generation is kept.
    pub fn keep(&self, target: &Target, plugin: Option<Arc<Plugin>>) {
        let generation = target.generation();
        let mut kept = self.0.lock();
        if kept.get(target.service()).is_none_or(|kept| kept.generation <= generation) {
            kept.insert(target.service().clone(), Kept { generation, plugin });
        }
    }

    /// Loads what `target`, which is durable, needs, and keeps it.
    ///
    /// # Errors
    /// `plugin-unavailable`.
    pub async fn load(&self, plugins: &PluginHost, target: &Target) -> Result<(), Error> {
        let plugin = match (target.is_removal(), self.get_for(target)) {
            (true, _) => None,
            (false, Some(kept)) => Some(kept),
            (false, None) => Some(target.load(plugins).await?),
        };
        self.keep(target, plugin);
        Ok(())
    }

    /// The kept plugin, if it is the one that `target` runs.
    fn get_for(&self, target: &Target) -> Option<Arc<Plugin>> {
        let kept = self.get(target.service())?;
        target.components().all(|digest| digest == kept.digest()).then_some(kept)
    }

    pub fn get(&self, service: &ServiceName) -> Option<Arc<Plugin>> {
        self.0.lock().get(service)?.plugin.clone()
    }

    /// The generation of each service up to which this node has loaded what it runs.
    pub fn loaded(&self) -> BTreeMap<ServiceName, u64> {
        let kept = self.0.lock();
        kept.iter().map(|(service, kept)| (service.clone(), kept.generation)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A slow load of an earlier version would drop the one that runs, and report that it is loaded.
    #[test]
    fn what_is_late_replaces_nothing() -> Result<(), Error> {
        let kept = KeptPlugins::default();
        let name = ServiceName::parse("cart")?;
        for (generation, then) in [(2, 2), (1, 2), (3, 3)] {
            kept.keep(&Target::removal(name.clone(), generation), None);
            assert_eq!(kept.loaded().get(&name), Some(&then));
        }
        assert!(kept.get(&name).is_none());
        Ok(())
    }
}
