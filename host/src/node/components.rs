//! Removes unneeded components from the disk.
//!
//! A deployment's record stays permanently. Its component is needed while it is current, a rollback
//! may return to it, a slot runs it, or a session's state has its format: such a session is
//! migrated at its next message, and runs on that component if it refuses. The last case is found
//! by a scan over the heads of stored sessions, which runs only if something could be removed, in
//! pages, off the serving threads. Unflushed data of slots is seconds old. So a component that is
//! unneeded in two scans in a row, an hour apart, is removed.
//!
//! In a cluster JetStream keeps every component, because no node knows all sessions. A node's
//! components are copies, and a missing one is fetched again.

use super::*;
use crate::{
    log::record::DeploymentId,
    plugin::{Digest, Needed},
};

/// Finds what is unneeded and removes it, until the node ends.
pub(super) async fn tidy(node: std::sync::Weak<Node>, mut stopping: watch::Receiver<bool>) {
    let mut suspects = HashSet::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(limits::COMPONENTS_TIDY_INTERVAL) => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        let Some(node) = node.upgrade() else { return };
        suspects = match node.remove_unneeded_components(suspects).await {
            Ok(suspects) => suspects,
            Err(error) => {
                tracing::warn!(%error, "can't remove unneeded components now; will try again");
                HashSet::new()
            }
        };
    }
}

impl Node {
    /// Removes what is unneeded now and was at the previous call (whose result is the argument),
    /// and compiled code that was not used for long. Components that a session may still need stay.
    ///
    /// # Errors
    /// Errors of the disk or the store.
    pub async fn remove_unneeded_components(
        &self,
        suspects: HashSet<Digest>,
    ) -> Result<HashSet<Digest>, Error> {
        let failed = |e: &dyn std::fmt::Display| {
            Error::new(Code::StorageUnavailable, format!("looking for unneeded components: {e}"))
        };
        // Sessions that can't be flushed for lack of room may refer to deployments that the disk
        // does not.
        if !matches!(&*self.health.borrow(), Health::Ready) || !self.context.store.is_writable() {
            return Ok(HashSet::new());
        }
        let (context, slots) = (self.context.clone(), self.router.slot_count());
        let alone = self.cluster.is_none();
        let look = crate::task::blocking(move || -> Result<_, String> {
            let stored = context.plugins.stored().map_err(|e| e.to_string())?;
            let services = context.catalogue.all();
            let mut needed = of_catalogue(&services);
            if alone && stored.iter().any(|digest| !needed.components.contains(digest)) {
                let named = of_sessions(&*context.store, slots, &services);
                needed.components.extend(named.map_err(|e| e.to_string())?);
            }
            let unneeded = stored.into_iter().filter(|digest| !needed.components.contains(digest));
            let (sure, fresh): (HashSet<_>, HashSet<_>) =
                unneeded.partition(|digest| suspects.contains(digest));
            needed.components.extend(&fresh);
            Ok((needed, sure, fresh))
        });
        let (needed, sure, fresh) =
            look.await.map_err(|e| failed(&e))?.map_err(|why| failed(&why))?;
        let removed = self.context.plugins.remove_unneeded(needed).await;
        let removed = removed.map_err(|e| failed(&e))?;
        if removed.files > 0 {
            tracing::info!(
                files = removed.files,
                bytes = removed.bytes,
                components = sure.len(),
                "removed unneeded components"
            );
        }
        Ok(fresh)
    }
}

/// The current deployments, and those that a rollback goes back to.
fn of_catalogue(services: &[Arc<Service>]) -> Needed {
    let mut needed = Needed::default();
    for service in services {
        let add = |ids: &[DeploymentId], into: &mut HashSet<Digest>| {
            into.extend(ids.iter().filter_map(|id| Some(service.deployment(*id)?.digest)));
        };
        needed.components.extend(service.target().components());
        add(&service.previous, &mut needed.components);
        // The code of the one before: a rollback should be quick.
        needed.compiled.extend(service.target().components());
        add(service.previous.last().map_or(&[], std::slice::from_ref), &mut needed.compiled);
    }
    needed
}

/// The deployments that slots run and sessions' state has the format of, as far as stored.
fn of_sessions(
    store: &dyn crate::state::StateStore,
    slots: u16,
    services: &[Arc<Service>],
) -> Result<HashSet<Digest>, crate::error::StateError> {
    let mut found = HashSet::new();
    for slot in 0..slots {
        let meta = store.slot(slot)?;
        for service in services {
            let mut named = HashSet::new();
            named.extend(meta.active.get(&service.name).map(|active| active.deployment));
            let mut after = None;
            loop {
                let page = limits::PAGE_ENTRIES_MAX;
                let heads = store.sessions(slot, &service.name, "", after.as_ref(), page)?;
                named.extend(heads.iter().map(|(_, head)| head.deployment));
                let Some((last, _)) = heads.last().filter(|_| heads.len() == page) else { break };
                after = Some(last.clone());
            }
            found.extend(named.iter().filter_map(|id| Some(service.deployment(*id)?.digest)));
        }
    }
    Ok(found)
}
