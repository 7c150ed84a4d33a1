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
    /// What it runs, its own first. None: it was removed, which takes nothing.
    plugins: Vec<Arc<Plugin>>,
}

impl KeptPlugins {
    /// Keeps the plugins of `target`, which is durable, unless those of a later generation are kept.
    pub fn keep(&self, target: &Target, plugins: Vec<Arc<Plugin>>) {
        let generation = target.generation();
        let mut kept = self.0.lock();
        if kept.get(target.service()).is_none_or(|kept| kept.generation <= generation) {
            kept.insert(target.service().clone(), Kept { generation, plugins });
        }
    }

    /// Loads what `target`, which is durable, needs, and keeps it.
    ///
    /// # Errors
    /// `plugin-unavailable`.
    pub async fn load(&self, plugins: &PluginHost, target: &Target) -> Result<(), Error> {
        let kept = match target.is_removal() {
            true => Vec::new(),
            false => match self.get_for(target) {
                Some(kept) => kept,
                None => target.load(plugins).await?,
            },
        };
        self.keep(target, kept);
        Ok(())
    }

    /// The kept plugins, if they are those that `target` runs.
    fn get_for(&self, target: &Target) -> Option<Vec<Arc<Plugin>>> {
        let kept = self.0.lock().get(target.service())?.plugins.clone();
        let same = target.components().eq(kept.iter().map(|plugin| plugin.digest()));
        same.then_some(kept)
    }

    /// The service's own.
    pub fn get(&self, service: &ServiceName) -> Option<Arc<Plugin>> {
        self.0.lock().get(service)?.plugins.first().cloned()
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
            kept.keep(&Target::removal(name.clone(), generation), Vec::new());
            assert_eq!(kept.loaded().get(&name), Some(&then));
        }
        assert!(kept.get(&name).is_none());
        Ok(())
    }
}
