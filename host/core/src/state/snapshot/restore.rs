//! Restoring a slot from its newest snapshot into a store that lacks it.

use super::{
    SnapshotError, Snapshots, Turn, blocking,
    format::{self, Kind, Manifest, ObjectRef},
    objects::Listed,
};
use crate::{
    limits,
    log::{LogError, Position, SlotLog},
    names::SlotId,
    state::{
        SlotMeta,
        changes::Changes,
        rows::{Rows, WholeSlots, Wiping},
    },
    telemetry::metrics,
};
use futures_util::{StreamExt, TryStreamExt, stream};
use std::sync::Arc;

impl Snapshots {
    /// Brings a slot that the store lacks, or has at a position that the log no longer reaches, to
    /// the newest snapshot that is complete. Where the log reaches the store's own position it
    /// does nothing. Call it before a slot's log is replayed, when nothing uses the slot here.
    /// Gives what the slot is at; at position 0 the log has everything.
    ///
    /// When it fails or is cut short, the slot is as it was or at nothing (position 0), and this
    /// must be called again before the slot is used.
    ///
    /// # Errors
    /// [`SnapshotError::Lost`] when no complete snapshot connects to the log: it names the objects
    /// that are damaged. Others may pass by themselves.
    pub async fn restore(
        &self,
        slot: SlotId,
        log: &dyn SlotLog,
        store: &Arc<dyn WholeSlots>,
    ) -> Result<SlotMeta, SnapshotError> {
        let state = self.slot(slot);
        let turn = self.turn(&state).await;
        let own = {
            let store = store.clone();
            blocking(Some(turn.clone()), move || Ok(store.slot(slot)?)).await?
        };
        if own.applied > 0 && reaches(log, slot, own.applied).await? {
            return Ok(own);
        }
        for _ in 1..limits::SNAPSHOT_RESTORE_TRIES {
            match self.restore_now(slot, log, store, &turn).await {
                // Collected while it was read, and the log trimmed behind a newer one.
                Err(SnapshotError::Lost { why, .. }) => {
                    tracing::warn!(slot, why, "can't list the snapshots; trying again");
                }
                done => return done,
            }
        }
        self.restore_now(slot, log, store, &turn).await
    }

    /// Removes what a restore that was cut short has left of a slot that is at nothing. A log that is
    /// replayed from its beginning, as a server that lags still shows it, must not meet that.
    ///
    /// # Errors
    /// As any write to the store.
    pub async fn clear(
        &self,
        slot: SlotId,
        store: &Arc<dyn WholeSlots>,
    ) -> Result<(), SnapshotError> {
        let state = self.slot(slot);
        let turn = self.turn(&state).await;
        self.wipe(slot, store, &turn).await
    }

    async fn restore_now(
        &self,
        slot: SlotId,
        log: &dyn SlotLog,
        store: &Arc<dyn WholeSlots>,
        turn: &Turn,
    ) -> Result<SlotMeta, SnapshotError> {
        let listed = self.inner.objects.list(slot).await?;
        let manifests = listed.iter().filter_map(|object| {
            format::manifest_position(&object.name).map(|position| (position, &object.name))
        });
        let mut manifests: Vec<_> = manifests.collect();
        manifests.sort_unstable();
        let mut problems = Vec::new();
        for (position, name) in manifests.into_iter().rev() {
            if !reaches(log, slot, position).await? {
                problems.push(format!("the log was trimmed past the snapshot at {position}"));
                break;
            }
            let loaded = self.load(slot, name, &listed, store, turn).await;
            match loaded {
                Ok(meta) => {
                    for problem in problems {
                        tracing::error!(slot, position, problem, "restored an older snapshot");
                    }
                    return Ok(meta);
                }
                Err(error @ SnapshotError::Damaged { .. }) => problems.push(error.to_string()),
                Err(error) => return Err(error),
            }
        }
        if reaches(log, slot, 0).await? {
            for problem in problems {
                tracing::error!(slot, problem, "replaying the slot from the beginning of its log");
            }
            self.wipe(slot, store, turn).await?;
            return Ok(SlotMeta::default());
        }
        problems.push("the beginning of the log was trimmed".into());
        Err(SnapshotError::Lost { slot, why: problems.join("; ") })
    }

    /// Loads one snapshot.
    async fn load(
        &self,
        slot: SlotId,
        name: &str,
        listed: &[Listed],
        store: &Arc<dyn WholeSlots>,
        turn: &Turn,
    ) -> Result<SlotMeta, SnapshotError> {
        let manifest = self.read_manifest(slot, name).await?;
        self.complete(&manifest, listed)?;
        let started = crate::clock::now();
        self.wipe(slot, store, turn).await?;
        // Sessions come and go in this order; what is deleted in it is collected afterwards.
        let mutable: Vec<_> = manifest.base.iter().chain(&manifest.deltas).cloned().collect();
        self.apply_all(slot, mutable, store, turn, None).await?;
        // History may have entries of sessions that are gone: nothing would ever remove them.
        let live = self.live_sessions(slot, store, turn).await?;
        self.apply_all(slot, manifest.history.clone(), store, turn, Some(live)).await?;
        let Manifest { meta, .. } = manifest;
        let (store, last) = (store.clone(), meta.clone());
        let finish = move || Ok(store.apply(slot, &Changes::default(), &last)?);
        blocking(Some(turn.clone()), finish).await?;
        metrics().restore_seconds.record(started.elapsed());
        tracing::info!(slot, position = meta.applied, "restored a slot from its snapshot");
        Ok(meta)
    }

    async fn apply_all(
        &self,
        slot: SlotId,
        objects: Vec<ObjectRef>,
        store: &Arc<dyn WholeSlots>,
        turn: &Turn,
        live: Option<Arc<[u64]>>,
    ) -> Result<(), SnapshotError> {
        let reads = stream::iter(objects).map(|object| {
            let this = self.clone();
            async move { this.read(slot, &object).await.map(|changes| (object.kind, changes)) }
        });
        let mut reads = reads.buffered(limits::SNAPSHOT_READ_AHEAD);
        while let Some((kind, mut changes)) = reads.try_next().await? {
            if let (Kind::History, Some(live)) = (kind, &live) {
                changes.sessions.retain(|number, _| live.binary_search(number).is_ok());
            }
            let store = store.clone();
            let load = move || Ok(store.load(slot, &changes)?);
            blocking(Some(turn.clone()), load).await?;
        }
        Ok(())
    }

    /// The numbers of the sessions that the store has, sorted.
    async fn live_sessions(
        &self,
        slot: SlotId,
        store: &Arc<dyn WholeSlots>,
        turn: &Turn,
    ) -> Result<Arc<[u64]>, SnapshotError> {
        let store = store.clone();
        let bytes = self.inner.options.piece_bytes;
        let list = move || {
            let view = store.view(slot)?;
            let (mut numbers, mut after) = (Vec::new(), None);
            loop {
                let page = view.page(Rows::Heads, after, bytes)?;
                let heads = page.rows.heads.values().flatten();
                numbers.extend(heads.map(|head| head.session_number));
                after = page.next;
                if after.is_none() {
                    numbers.sort_unstable();
                    return Ok(numbers.into());
                }
            }
        };
        blocking(Some(turn.clone()), list).await
    }

    async fn wipe(
        &self,
        slot: SlotId,
        store: &Arc<dyn WholeSlots>,
        turn: &Turn,
    ) -> Result<(), SnapshotError> {
        let mut wiping = Some(Wiping::default());
        while let Some(from) = wiping {
            let store = store.clone();
            let step = move || Ok(store.wipe(slot, from)?);
            wiping = blocking(Some(turn.clone()), step).await?;
        }
        Ok(())
    }
}

/// Whether the log has all that follows `position`.
async fn reaches(
    log: &dyn SlotLog,
    slot: SlotId,
    position: Position,
) -> Result<bool, SnapshotError> {
    match log.read(slot, position, 1).await {
        Ok(_) => Ok(true),
        Err(LogError::Trimmed { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
