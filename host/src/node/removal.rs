//! Removes a service: refuses requests at once, and deletes its sessions a few at a time in each
//! slot, on the slot's node.
//!
//! The first durable step is the service without a deployment, in a new generation. This entry
//! stays in the catalogue: generations and deployments of a later service of the same name continue
//! its numbers, so that no record of the old service is mistaken for one of the new.

use super::*;
use std::{collections::BTreeSet, sync::atomic::AtomicBool};

/// Progress of deleting a removed service's sessions, in the slots of this node.
#[derive(Default)]
pub(super) struct Purge {
    /// The generation in which it was removed.
    since: u64,
    deleted: AtomicU64,
    runs: AtomicBool,
    /// Slots without a session of it, each with the term in which that was established.
    clean: Mutex<Slots>,
    done: AtomicBool,
}

/// Slots of this node that may have sessions of a removed service, each with its term: a slot that
/// moves here during a purge has another term.
pub(super) type Slots = BTreeSet<(SlotId, u64)>;

impl Purge {
    pub fn share(&self) -> PurgeShare {
        PurgeShare {
            since: self.since,
            deleted: self.deleted.load(Ordering::Relaxed),
            done: self.done.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
impl Purge {
    pub fn runs(&self) -> bool {
        self.runs.load(Ordering::Acquire)
    }
    pub fn forget_slot(&self, slot: SlotId) {
        self.clean.lock().retain(|(known, _)| *known != slot);
    }
    pub fn has_seen(&self, slot: SlotId) -> bool {
        self.clean.lock().iter().any(|(known, _)| *known == slot)
    }
}

impl Node {
    /// Removes a service with all its sessions. Returns when they are gone, or after
    /// [`limits::SWAP_WAIT`] with `done` false; a repeated call returns the progress. The rest is
    /// deleted in the background, also after a restart.
    ///
    /// # Errors
    /// `service-not-found` if there never was one; `swap-in-progress` while a deploy is being
    /// prepared; `storage-unavailable`.
    pub async fn remove_service(
        self: &Arc<Self>,
        service: &ServiceName,
        by: Author,
    ) -> Result<ServiceRemoved, Error> {
        let turn = self.turn(service).await?;
        let known = self.context.catalogue.get(service).ok_or_else(|| not_deployed(service))?;
        let removed = match known.is_removed() {
            false => {
                let next = known.removed(&Change { by, now_ms: now_ms(), ..Change::default() });
                tracing::info!(%service, generation = next.generation, "removing a service");
                self.make_durable(next).await?
            }
            true => known,
        };
        drop(turn);
        self.follow_removal(&removed);
        let until = crate::clock::now() + limits::SWAP_WAIT;
        loop {
            let removed = self.purged(&removed).await;
            if removed.done || crate::clock::now() > until {
                return Ok(removed);
            }
            tokio::time::sleep(limits::SWAP_POLL).await;
        }
    }

    /// What all nodes have deleted of a removed service.
    async fn purged(&self, service: &Service) -> ServiceRemoved {
        let mut removed = ServiceRemoved::new(service.name.clone());
        let own = || self.purges.lock().get(&service.name).map(|purge| purge.share());
        let Some(cluster) = &self.cluster else {
            removed.add(own(), service.since);
            return removed;
        };
        let shares = async {
            removed.add(own(), service.since);
            let ask = ControlRequest::Purge { service: service.name.clone() };
            for (_, answer) in cluster.ask_all(&ask).await {
                let share = match answer {
                    Ok(ControlResponse::Purge(share)) => share,
                    _ => None,
                };
                removed.add(share, service.since);
            }
        };
        let ((), is_whole) = cluster.over_all_slots(shares).await;
        removed.done &= is_whole;
        removed
    }

    /// Drops this process's data of a removed service, and starts deleting its sessions.
    pub(super) fn follow_removal(self: &Arc<Self>, service: &Arc<Service>) {
        if service.since > 0 {
            self.follow_removal_in(service, &self.purgeable());
        }
    }

    /// As [`Self::follow_removal_in`] at a start, when most of it was done long ago.
    pub(super) fn resume_removal(self: &Arc<Self>, service: &Arc<Service>, slots: &Slots) {
        if service.since > 0 && service.purged == service.since {
            let done = Purge {
                since: service.since,
                clean: Mutex::new(slots.clone()),
                done: AtomicBool::new(true),
                ..Purge::default()
            };
            self.purges.lock().insert(service.name.clone(), Arc::new(done));
        }
        self.follow_removal_in(service, slots);
    }

    /// As [`Self::follow_removal`], with the node's current slots. It is called repeatedly for
    /// every service that was ever removed: if nothing has changed, it does nothing.
    pub(super) fn follow_removal_in(self: &Arc<Self>, service: &Arc<Service>, slots: &Slots) {
        if service.since == 0 {
            return;
        }
        let (purge, is_new) = {
            let mut purges = self.purges.lock();
            let known = purges.entry(service.name.clone()).or_default();
            let is_new = known.since < service.since;
            if is_new {
                *known = Arc::new(Purge { since: service.since, ..Purge::default() });
            }
            (known.clone(), is_new)
        };
        if service.is_removed() {
            if let Some(swap) = self.swaps.lock().remove(&service.name) {
                swap.supersede(service.generation);
            }
            self.context.kept.keep(&service.target(), Vec::new());
            self.past_swaps.forget(&service.name);
            if is_new {
                let (plugins, name) = (self.context.plugins.clone(), service.name.clone());
                crate::task::blocking(move || plugins.pool().supersede(&name, &[REMOVED]));
            }
        }
        if purge.done.load(Ordering::Acquire) && *purge.clean.lock() == *slots {
            return;
        }
        if !purge.runs.swap(true, Ordering::AcqRel) {
            let (node, service) = (self.clone(), service.name.clone());
            crate::task::spawn("purge", async move {
                node.purge(&service, &purge).await;
                purge.runs.store(false, Ordering::Release);
            });
        }
    }

    /// Deletes the service's sessions in the slots of this node until none is left.
    async fn purge(&self, service: &ServiceName, purge: &Purge) {
        let mut backoff = Backoff::new(limits::SWAP_RETRY_MIN, limits::SWAP_RETRY_MAX);
        let mut stopping = self.stopping.subscribe();
        loop {
            let todo = self.unpurged(purge);
            if todo.is_empty() {
                if !purge.done.swap(true, Ordering::AcqRel) {
                    let deleted = purge.deleted.load(Ordering::Relaxed);
                    tracing::info!(%service, deleted, "a removed service's sessions are deleted");
                    self.keep_purged(service, purge.since).await;
                }
                return;
            }
            purge.done.store(false, Ordering::Release);
            let failed = AtomicBool::new(false);
            let one = |(slot, term)| {
                let failed = &failed;
                async move {
                    match self.purge_slot(service, slot, purge).await {
                        Ok(()) => _ = purge.clean.lock().insert((slot, term)),
                        Err(error) => {
                            tracing::debug!(slot, %error, "deleting a removed service's sessions \
                                failed; trying again");
                            failed.store(true, Ordering::Relaxed);
                        }
                    }
                }
            };
            let slots = futures_util::stream::iter(todo)
                .for_each_concurrent(limits::SLOTS_PURGED_AT_A_TIME, one);
            tokio::select! {
                () = slots => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
            if failed.into_inner() {
                tokio::select! {
                    () = tokio::time::sleep(backoff.next()) => {}
                    _ = stopping.wait_for(|stopping| *stopping) => return,
                }
            }
        }
    }

    /// So that later starts do not search for the sessions again.
    async fn keep_purged(&self, service: &ServiceName, since: u64) {
        if self.cluster.is_some() {
            return;
        }
        let (context, name) = (self.context.clone(), service.clone());
        let kept = move || context.catalogue.put_purged(&name, since);
        match crate::task::blocking(kept).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%service, %error, "a removed service's sessions could not all be \
                    deleted; the next start tries again")
            }
            // The process is ending.
            Err(_) => {}
        }
    }

    /// The slots of this node that may have sessions of a removed service.
    pub(super) fn purgeable(&self) -> Slots {
        match &self.cluster {
            Some(_) => self.router.here().into_iter().collect(),
            // No other node has them, so clean slots stay clean.
            None => (0..self.router.slot_count()).map(|slot| (slot, 0)).collect(),
        }
    }

    /// Those of them that are not known to have none.
    fn unpurged(&self, purge: &Purge) -> Vec<(SlotId, u64)> {
        let slots = self.purgeable();
        let mut clean = purge.clean.lock();
        clean.retain(|known| slots.contains(known));
        slots.difference(&clean).copied().collect()
    }

    async fn purge_slot(
        &self,
        service: &ServiceName,
        slot: SlotId,
        purge: &Purge,
    ) -> Result<(), Error> {
        // Checking takes no turn of its own on an idle slot, and there are as many slots as
        // services.
        tokio::task::yield_now().await;
        while self.may_have_sessions(service, slot, purge.since)? {
            let (reply, purged) = oneshot::channel();
            let (service, since) = (service.clone(), purge.since);
            let mail = operation::Purge { service, since }.mail(reply);
            if self.cluster.is_none() {
                self.router.deliver(slot, mail)?;
            } else if !self.router.mail_here(slot, mail)? {
                return Ok(());
            }
            let purged = purged.await.unwrap_or_else(|_| Err(gone(Purpose::Step)))?;
            purge.deleted.fetch_add(purged.deleted, Ordering::Relaxed);
            if !purged.left {
                return Ok(());
            }
            // Deleted data stays in memory until it is flushed.
            if let Some(running) = self.router.running(slot)? {
                running.try_order(Order::Flush);
            }
        }
        Ok(())
    }

    /// Whether a slot may have sessions of a service that was removed in generation `since`. Reads
    /// the store if the slot does not run, so that it need not be started for nothing.
    pub(super) fn may_have_sessions(
        &self,
        service: &ServiceName,
        slot: SlotId,
        since: u64,
    ) -> Result<bool, Error> {
        if !self.router.rests(slot)? {
            return Ok(true);
        }
        let store = &self.context.store;
        let meta = store.slot(slot)?;
        let removal = Target::removal(service.clone(), since);
        Ok(match meta.active.get(service) {
            Some(active) if removal.is_ahead_of(Some(active.generation)) => true,
            Some(active) if active.deployment == REMOVED => {
                !store.sessions(slot, service, "", None, 1)?.is_empty()
            }
            Some(_) | None => false,
        })
    }
}
