//! Snapshots of slots in an object store: what a node that never had a slot starts from, and what
//! the log may be trimmed behind.
//!
//! # What a snapshot is
//! A `format::Manifest` names all objects that a snapshot at one position of the slot's log
//! consists of: a *base* (the mutable rows: heads, keys, idempotency records), *deltas* (what
//! changed since, folded from the log's tail by the same [`crate::state::changes::Changes`] that
//! flushes and recoveries use; history included) and *history* segments, written once. An object
//! is never changed: it is named by its content and by the term that wrote it.
//!
//! # What it costs
//! A snapshot normally writes one delta. When the deltas are as large as the base, the base is
//! written anew and the deltas' history goes to segments; many small deltas are folded together;
//! when more entries of history belong to deleted sessions than to live ones, history is written
//! anew from the store. So a byte of changes is written once as a delta, once more when small
//! deltas are folded (1/4 more for those that stay small), once as history or up to twice in
//! bases, and once more for deletes: **7 bytes at most for each byte of changes**, whatever the
//! slot's size; beside that a manifest, some 60 bytes for each object, per snapshot. The slot as
//! stored is at most about three times what is live.
//!
//! # Why it is safe
//! The log decides who owns a slot, but an object store knows no fences: an owner that was paused
//! while another one claimed (a *zombie*) may still put and delete. That does no harm, because:
//!
//! 1. *Every manifest is true.* State is folded from committed batches only, and the log is one
//!    sequence; so a zombie's manifest too describes the slot at its position.
//! 2. *Positions order terms.* [`Snapshots::take`] refuses a store that has not applied its own
//!    term's claim. So a manifest of term t+1 is past the claim of t+1, which is past all that an
//!    owner of term t can have committed: the newest owner's manifests are the greatest.
//! 3. *No name is written twice with different bytes.* Names are by content; a put that was
//!    thought lost and lands late changes nothing, or leaves an object that no manifest needs.
//! 4. *A deleter knows what it deletes.* [`Snapshots::collect`] of term t deletes only objects
//!    that it listed, of terms up to t, that neither its newest manifest nor the one before needs,
//!    and only after its owner has had a commit accepted *after* that newest manifest was put. An
//!    owner of a later term therefore claimed after that put, found that manifest or a greater one
//!    in its listing ([`Objects::list`] is current), and builds on objects that one of
//!    these needs, and on its own, which have its own term. Neither can be in the zombie's list of
//!    what to delete. Within a term there is one process, which takes and collects in turns.
//! 5. *What may have been put counts as put.* While a manifest's put is undecided nothing is
//!    collected, and the next take repeats that very put first.
//! 6. *Trimming* by a zombie goes up to a position that a durable manifest has, and manifests that
//!    are deleted are always older than two that stay.
//!
//! Damage is found by checksums and reported with the object's name. A restore then goes back to an
//! older snapshot if the log still reaches from there; the owner of a slot whose newest snapshot
//! is incomplete takes the next one whole.

pub(crate) mod format;
mod nats;
pub(crate) mod objects;
mod restore;
mod take;
#[cfg(test)]
mod tests;

pub use objects::{Objects, Target};
pub use take::Taken;

use crate::{
    error::StateError,
    limits,
    log::{LogError, Position, Term},
    names::SlotId,
    telemetry::metrics,
};
use bytes::Bytes;
use format::Manifest;
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc};

#[derive(Clone, Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The object store or its network: may work later.
    #[error("object store unavailable: {0}")]
    Unavailable(String),
    /// It answers, and can't be used; or this node may not do that now.
    #[error("{0}")]
    Refused(String),
    /// An object is not what was put, or not there.
    #[error("snapshot object {object} is damaged: {why}")]
    Damaged { object: String, why: String },
    /// Nothing that is left leads to the slot's state. The message lists what was looked at.
    #[error("slot {slot} can't be restored: {why}")]
    Lost { slot: SlotId, why: String },
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Sizes; defaults in [`crate::limits`].
#[derive(Clone, Debug)]
pub struct SnapshotOptions {
    /// Bytes of log below which no new snapshot is taken.
    pub tail_bytes_min: usize,
    /// Bytes after which an object ends.
    pub piece_bytes: usize,
    pub deltas_bytes_min: u64,
    pub delta_small_bytes: u64,
    pub deltas_small_max: usize,
    pub dead_entries_slack: u64,
}

impl Default for SnapshotOptions {
    fn default() -> Self {
        Self {
            tail_bytes_min: limits::SNAPSHOT_TAIL_BYTES_MIN,
            piece_bytes: limits::SNAPSHOT_PIECE_BYTES,
            deltas_bytes_min: limits::SNAPSHOT_DELTAS_BYTES_MIN,
            delta_small_bytes: limits::SNAPSHOT_DELTA_SMALL_BYTES,
            deltas_small_max: limits::SNAPSHOT_DELTAS_SMALL_MAX,
            dead_entries_slack: limits::SNAPSHOT_DEAD_ENTRIES_SLACK,
        }
    }
}

/// Takes, restores and collects snapshots of all slots. Cheap to clone; one per process and
/// place: it remembers what it took.
#[derive(Clone)]
pub struct Snapshots {
    inner: Arc<Inner>,
}

struct Inner {
    objects: Objects,
    options: SnapshotOptions,
    slots: Arc<Mutex<HashMap<SlotId, Arc<Slot>>>>,
}

/// What is known of a slot's snapshots.
#[derive(Default)]
struct Slot {
    /// One piece of work of a slot at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
    known: Mutex<Known>,
}

/// Held by a piece of work and by its steps on other threads, which may outlive it.
type Turn = Arc<tokio::sync::OwnedMutexGuard<()>>;

#[derive(Clone, Default)]
struct Known {
    /// The term for which it was found out; 0: never.
    term: Term,
    /// What the next snapshot builds on; `None`: it is taken whole.
    last: Option<Arc<Manifest>>,
    before: Option<Arc<Manifest>>,
    /// A manifest that was put without a clear answer.
    undecided: Option<Undecided>,
}

#[derive(Clone)]
struct Undecided {
    name: String,
    bytes: Bytes,
    manifest: Arc<Manifest>,
}

impl Snapshots {
    pub fn new(objects: Objects, options: SnapshotOptions) -> Self {
        Self { inner: Arc::new(Inner { objects, options, slots: Arc::default() }) }
    }

    /// The same process's, over other objects.
    #[cfg(test)]
    fn with_objects(&self, objects: Objects) -> Self {
        let (options, slots) = (self.inner.options.clone(), self.inner.slots.clone());
        Self { inner: Arc::new(Inner { objects, options, slots }) }
    }

    fn slot(&self, slot: SlotId) -> Arc<Slot> {
        self.inner.slots.lock().entry(slot).or_default().clone()
    }

    async fn turn(&self, slot: &Slot) -> Turn {
        Arc::new(slot.turn.clone().lock_owned().await)
    }

    /// The position of the newest manifest that is listed, complete or not.
    ///
    /// # Errors
    /// [`SnapshotError::Unavailable`].
    pub async fn latest(&self, slot: SlotId) -> Result<Option<Position>, SnapshotError> {
        let listed = self.inner.objects.list(slot).await?;
        Ok(listed.iter().filter_map(|object| format::manifest_position(&object.name)).max())
    }

    /// Removes what no snapshot needs any more. For an owner that has had a commit accepted after
    /// its last [`Snapshots::take`] returned, under the same `term`; without a take in that term
    /// it does nothing. Gives the number of objects removed.
    ///
    /// # Errors
    /// [`SnapshotError::Unavailable`]; what is left goes the next time.
    pub async fn collect(&self, slot: SlotId, term: Term) -> Result<usize, SnapshotError> {
        let state = self.slot(slot);
        let _turn = self.turn(&state).await;
        let known = state.known.lock().clone();
        let Some(last) = known.last.filter(|last| known.term == term && last.term == term) else {
            return Ok(0);
        };
        if known.undecided.is_some() {
            return Ok(0);
        }
        let objects = &self.inner.objects;
        let listed = objects.list(slot).await?;
        let position = |name: &str| format::manifest_position(name);
        if listed.iter().any(|object| position(&object.name) > Some(last.position())) {
            // Another owner's: this one's time is over.
            return Ok(0);
        }
        let kept = [Some(&last), known.before.as_ref()].into_iter().flatten();
        let mut needed = std::collections::HashSet::new();
        for manifest in kept {
            needed.insert(manifest.encode()?.0);
            needed.extend(manifest.objects().map(format::ObjectRef::name));
        }
        let unneeded = listed.into_iter().filter(|object| !needed.contains(&object.name));
        let (manifests, rest): (Vec<_>, Vec<_>) =
            unneeded.partition(|object| position(&object.name).is_some());
        let own = |name: &str| format::term_of(name).is_some_and(|by| by <= term);
        let rest = rest.into_iter().filter(|object| own(&object.name));
        let mut removed = 0;
        // Manifests first: one without its objects would look damaged.
        for object in manifests.into_iter().chain(rest) {
            objects.delete(slot, &object.name).await?;
            removed += 1;
        }
        Ok(removed)
    }

    /// Whether all that the object store has of a slot was written in `term` or later.
    ///
    /// # Errors
    /// [`SnapshotError::Unavailable`].
    pub async fn is_all_since(&self, slot: SlotId, term: Term) -> Result<bool, SnapshotError> {
        let listed = self.inner.objects.list(slot).await?;
        Ok(listed.iter().filter_map(|it| format::written_by(&it.name)).all(|by| by >= term))
    }

    /// Reads all objects of the newest snapshot that `term` builds on and compares their
    /// checksums. When one is damaged, the next snapshot will be a full one.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] with the object's name; [`SnapshotError::Unavailable`].
    pub async fn verify(&self, slot: SlotId, term: Term) -> Result<(), SnapshotError> {
        let state = self.slot(slot);
        let _turn = self.turn(&state).await;
        let known = self.known(&state, slot, term).await?;
        let Some(last) = known.last else { return Ok(()) };
        for object in last.objects() {
            if let Err(error) = self.read(slot, object).await {
                if matches!(error, SnapshotError::Damaged { .. }) {
                    state.known.lock().last = None;
                    // Else the same content put again would be taken for there already.
                    self.inner.objects.delete(slot, &object.name()).await?;
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// What `term` builds on: found in the object store the first time.
    async fn known(&self, state: &Slot, slot: SlotId, term: Term) -> Result<Known, SnapshotError> {
        let known = state.known.lock().clone();
        if known.term == term {
            return Ok(known);
        }
        let listed = self.inner.objects.list(slot).await?;
        let mut known = Known { term, ..Known::default() };
        let names: Vec<_> = listed.iter().map(|object| object.name.as_str()).collect();
        let manifests = names.iter().filter(|name| format::manifest_position(name).is_some());
        for (i, name) in manifests.rev().take(2).enumerate() {
            let found = match self.read_manifest(slot, name).await {
                Ok(manifest) => self.complete(&manifest, &listed).map(|()| Arc::new(manifest)),
                Err(error) => Err(error),
            };
            match found {
                Ok(manifest) if i == 0 => known.last = Some(manifest),
                Ok(manifest) => known.before = Some(manifest),
                // The newest one is enough. One that comes late, from an owner of before, may be sealed with a key that is
                // not needed any more.
                Err(error @ SnapshotError::Refused(_)) if known.last.is_some() => {
                    tracing::warn!(slot, %error, "an older snapshot can't be used");
                }
                Err(error @ SnapshotError::Damaged { .. }) => {
                    tracing::error!(slot, %error, "the next snapshot will be a full one");
                }
                Err(error) => return Err(error),
            }
        }
        *state.known.lock() = known.clone();
        Ok(known)
    }

    /// Whether all that a manifest needs is listed, as long as it must be.
    fn complete(
        &self,
        manifest: &Manifest,
        listed: &[objects::Listed],
    ) -> Result<(), SnapshotError> {
        for object in manifest.objects() {
            let name = object.name();
            // Listings are sorted.
            let found = listed.binary_search_by(|listed| listed.name.as_str().cmp(&name));
            let why = match found.ok().and_then(|at| listed.get(at)) {
                None => "it is missing".to_owned(),
                Some(found) => match found.bytes {
                    Some(bytes) if bytes != object.bytes => {
                        format!("it has {bytes} bytes, not {}", object.bytes)
                    }
                    _ => continue,
                },
            };
            return Err(self.damaged(manifest.slot, &name, why));
        }
        Ok(())
    }

    async fn read_manifest(&self, slot: SlotId, name: &str) -> Result<Manifest, SnapshotError> {
        let bytes = self.bytes(slot, name).await?;
        format::read_manifest(slot, name, &bytes).map_err(|why| self.damaged(slot, name, why))
    }

    async fn read(
        &self,
        slot: SlotId,
        object: &format::ObjectRef,
    ) -> Result<crate::state::changes::Changes, SnapshotError> {
        let name = object.name();
        let bytes = self.bytes(slot, &name).await?;
        let object = object.clone();
        let read = blocking(None, move || Ok(format::read_object(slot, &object, &bytes))).await?;
        read.map_err(|why| self.damaged(slot, &name, why))
    }

    async fn bytes(&self, slot: SlotId, name: &str) -> Result<Bytes, SnapshotError> {
        let found = self.inner.objects.get(slot, name).await?;
        found.ok_or_else(|| self.damaged(slot, name, "it is missing".into()))
    }

    fn damaged(&self, slot: SlotId, name: &str, why: String) -> SnapshotError {
        metrics().snapshot_damage.increment(1);
        SnapshotError::Damaged { object: self.inner.objects.describe(slot, name), why }
    }
}

/// Runs work that blocks. It keeps the slot's turn until it ends, also when nobody waits for it.
async fn blocking<T: Send + 'static>(
    turn: Option<Turn>,
    work: impl FnOnce() -> Result<T, SnapshotError> + Send + 'static,
) -> Result<T, SnapshotError> {
    let work = move || {
        let done = work();
        drop(turn);
        done
    };
    crate::task::blocking(work)
        .await
        .unwrap_or_else(|e| Err(SnapshotError::Unavailable(format!("work did not end: {e}"))))
}
