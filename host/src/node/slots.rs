//! Slots as operators see them.

use super::*;

impl Node {
    pub async fn slots(&self) -> Result<Vec<SlotInfo>, Error> {
        let Some(cluster) = &self.cluster else {
            return (0..self.router.slot_count()).map(|slot| self.slot_info(slot)).collect();
        };
        let mut slots: BTreeMap<SlotId, SlotInfo> = cluster.slots_of_peers().await;
        for slot in 0..self.router.slot_count() {
            // The greater term is the owner, whoever believes what.
            let own = self.slot_info(slot)?;
            let newer = slots.get(&slot).is_none_or(|other| own.term > other.term);
            if newer {
                slots.insert(slot, own);
            }
        }
        Ok(slots.into_values().collect())
    }

    /// # Errors
    /// `slot-not-found`.
    pub async fn slot(&self, slot: SlotId) -> Result<SlotInfo, Error> {
        let own = self.slot_info(slot)?;
        let Some(cluster) = self.cluster.as_ref().filter(|_| own.state != "running") else {
            return Ok(own);
        };
        Ok(cluster.slots_of_peers().await.remove(&slot).unwrap_or(own))
    }

    pub(super) fn slot_info(&self, slot: SlotId) -> Result<SlotInfo, Error> {
        let owner = match &self.cluster {
            Some(cluster) => cluster.owner(slot).unwrap_or_default(),
            None => self.name.clone(),
        };
        if let Some(running) = self.router.running(slot)? {
            let stats = &running.stats;
            let stopping = stats.stopping.load(Ordering::Relaxed);
            let active = stats.active.lock();
            let plugins = active.iter().map(|(s, (_, l))| (s.to_string(), l.to_string())).collect();
            return Ok(SlotInfo {
                slot,
                owner,
                state: if stopping { "draining" } else { "running" }.into(),
                term: stats.term.load(Ordering::Relaxed),
                position: stats.position.load(Ordering::Relaxed),
                applied: stats.applied.load(Ordering::Relaxed),
                mailbox: running.mailbox_depth(),
                sessions: stats.sessions.load(Ordering::Relaxed),
                plugins,
            });
        }
        let meta = self.context.store.slot(slot);
        let meta = meta.map_err(|e| Error::new(Code::StorageUnavailable, e.to_string()))?;
        let catalogue = &self.context.catalogue;
        let label = |a: &crate::log::record::Activate| catalogue.label(&a.service, a.deployment);
        let active = meta.active.values();
        Ok(SlotInfo {
            slot,
            owner,
            state: "stopped".into(),
            term: meta.term,
            position: meta.applied,
            applied: meta.applied,
            mailbox: 0,
            sessions: meta.sessions,
            plugins: active.map(|a| (a.service.to_string(), label(a).to_string())).collect(),
        })
    }

    /// Drains a slot: finishes what it has, writes a release record, stops its task. Mail that
    /// comes meanwhile is held for the next task, not refused.
    ///
    /// # Errors
    /// `slot-not-found`, or why the last commit failed.
    pub async fn drain_slot(&self, slot: SlotId) -> Result<Drained, Error> {
        if let Some(cluster) = &self.cluster {
            return cluster.drain_slot(slot).await;
        }
        let (reply, drained) = oneshot::channel();
        self.router.order(slot, Order::Stop { release: true, reply }).await?;
        let (term, position) = drained.await.unwrap_or_else(|_| {
            Err(Error::new(Code::Unavailable, "the slot stopped while it drained"))
        })?;
        Ok(Drained { slot, term, position, to: self.name.clone() })
    }

    /// Has the ring's proposal carried out, slots that were drained by hand included. On a node
    /// that stands alone there is nowhere to move to.
    ///
    /// # Errors
    /// `storage-unavailable` when the cluster's settings can't be written.
    pub async fn rebalance(&self) -> Result<Rebalanced, Error> {
        match &self.cluster {
            Some(cluster) => cluster.rebalance().await,
            None => Ok(Rebalanced {
                view: self.table.view().number,
                moves: 0,
                detail: format!("{} is the only node: every slot is its own", self.name),
            }),
        }
    }

    pub fn ring(&self) -> RingInfo {
        self.cluster.as_ref().map_or_else(|| self.table.info(), |cluster| cluster.table().info())
    }
}
