//! Taking a snapshot: a delta from the log's tail, a new base, or all of a slot.

use super::{
    Known, SnapshotError, SnapshotOptions, Snapshots, Turn, Undecided, blocking,
    format::{self, Kind, Manifest, ObjectRef},
};
use crate::{
    backoff::Backoff,
    limits,
    log::{LogError, Position, SlotLog, Term, record::Batch},
    names::SlotId,
    state::{
        SlotMeta,
        changes::{Changes, SessionChanges},
        rows::{Rows, SlotView, WholeSlots},
    },
    telemetry::metrics,
};
use bytes::Bytes;
use std::{collections::VecDeque, sync::Arc, time::Duration};

/// What the object store has of a slot after a take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The newest snapshot's position: the log is no longer needed up to here, strictly.
    pub position: Position,
    /// The position of the snapshot before it; 0: there is none. To trim only up to here keeps a
    /// way back for the case that an object of the newest snapshot is lost.
    pub before: Position,
    /// Whether this take made it.
    pub new: bool,
}

/// What a take writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    /// What the log's tail folds to.
    Delta,
    /// The mutable rows anew; history from the deltas and the tail.
    Base,
    /// Mutable rows and history from the store.
    Whole,
}

fn plan(last: Option<&Manifest>, options: &SnapshotOptions) -> Plan {
    let Some(last) = last else { return Plan::Whole };
    let sum = |objects: &[ObjectRef]| objects.iter().map(|object| object.bytes).sum::<u64>();
    if sum(&last.deltas) >= sum(&last.base).max(options.deltas_bytes_min) {
        Plan::Base
    } else {
        Plan::Delta
    }
}

/// Whether history has more entries of deleted sessions than it should.
fn is_mostly_dead(entries: u64, live: u64, options: &SnapshotOptions) -> bool {
    entries.saturating_sub(live) > live + options.dead_entries_slack
}

/// One take under way.
struct Take<'a> {
    snapshots: &'a Snapshots,
    options: &'a SnapshotOptions,
    slot: SlotId,
    term: Term,
    log: &'a dyn SlotLog,
    view: Arc<dyn SlotView>,
    turn: Turn,
}

impl Snapshots {
    /// Makes all that `store` has applied of `slot` durable in the object store. For the owner
    /// with `term`, whose claim the store must have applied. Nothing is written when less than
    /// [`limits::SNAPSHOT_TAIL_BYTES_MIN`] of log follow the newest snapshot.
    ///
    /// The log may be trimmed behind [`Taken::before`] (or [`Taken::position`]), and
    /// [`Snapshots::collect`] be called, once the owner has had a commit accepted that it sent
    /// after this returned: that shows that it still was the owner.
    ///
    /// # Errors
    /// [`SnapshotError`]. What was written is used by the next take, or collected.
    pub async fn take(
        &self,
        slot: SlotId,
        term: Term,
        log: &dyn SlotLog,
        store: &Arc<dyn WholeSlots>,
    ) -> Result<Taken, SnapshotError> {
        self.take_as(slot, term, log, store, false).await
    }

    /// As [`Snapshots::take`], due or not, and all of it written in this term; it is read back. Nothing from before is needed
    /// any more then: the log may be trimmed behind the position that is returned, and [`Snapshots::collect`] removes
    /// all else, under the same condition. So everything of the slot has been sealed by this process.
    ///
    /// # Errors
    /// As [`Snapshots::take`].
    pub async fn take_anew(
        &self,
        slot: SlotId,
        term: Term,
        log: &dyn SlotLog,
        store: &Arc<dyn WholeSlots>,
    ) -> Result<Position, SnapshotError> {
        let taken = self.take_as(slot, term, log, store, true).await?;
        let state = self.slot(slot);
        if state.known.lock().before.is_some() {
            self.verify(slot, term).await?;
            // Work on a slot is done in turns, and this is the owner's.
            state.known.lock().before = None;
        }
        Ok(taken.position)
    }

    async fn take_as(
        &self,
        slot: SlotId,
        term: Term,
        log: &dyn SlotLog,
        store: &Arc<dyn WholeSlots>,
        anew: bool,
    ) -> Result<Taken, SnapshotError> {
        let state = self.slot(slot);
        let turn = self.turn(&state).await;
        let store = store.clone();
        let view = blocking(Some(turn.clone()), move || Ok(store.view(slot)?)).await?;
        let applied = view.meta().applied;
        if view.meta().term != term {
            return Err(SnapshotError::Refused(format!(
                "slot {slot}: no snapshot of term {term} yet, the store has term {} at {applied}",
                view.meta().term
            )));
        }
        let mut known = self.known(&state, slot, term).await?;
        if let Some(Undecided { name, bytes, manifest }) = known.undecided.take() {
            self.inner.objects.put(slot, &name, bytes).await?;
            known = known.with(manifest);
            *state.known.lock() = known.clone();
        }
        let taken = |known: &Known, new| Taken {
            position: known.last.as_ref().map_or(0, |manifest| manifest.position()),
            before: known.before.as_ref().map_or(0, |manifest| manifest.position()),
            new,
        };
        let newest = known.last.as_ref().map_or(0, |manifest| manifest.position());
        if newest > applied {
            return Err(SnapshotError::Refused(format!(
                "slot {slot} has a snapshot at {newest}, and the store is at {applied}: another \
                 node owns it"
            )));
        }
        let view = Arc::from(view);
        let options = &self.inner.options;
        let take = Take { snapshots: self, options, slot, term, log, view, turn };
        let is_own =
            |last: &Manifest| last.term == term && last.objects().all(|it| it.term == term);
        let last = match anew {
            true if known.last.as_deref().is_some_and(is_own) => return Ok(taken(&known, false)),
            true => None,
            false if newest == applied || known.last.is_some() && !take.is_due(newest).await? => {
                return Ok(taken(&known, false));
            }
            false => known.last.as_deref(),
        };
        let started = crate::clock::now();
        let manifest = Arc::new(take.run(last).await?);
        let (name, bytes) = manifest.encode()?;
        // Until it is certain, also when this future is dropped.
        let undecided = Undecided { name: name.clone(), bytes: bytes.clone(), manifest };
        state.known.lock().undecided = Some(undecided.clone());
        self.inner.objects.put(slot, &name, bytes).await?;
        known = known.with(undecided.manifest);
        *state.known.lock() = known.clone();
        metrics().snapshots.increment(1);
        metrics().snapshot_seconds.record(started.elapsed());
        Ok(taken(&known, true))
    }
}

impl Known {
    /// After `manifest` was put.
    fn with(self, manifest: Arc<Manifest>) -> Self {
        Self { term: self.term, last: Some(manifest), before: self.last, undecided: None }
    }
}

impl Take<'_> {
    /// Whether enough follows the newest snapshot.
    async fn is_due(&self, newest: Position) -> Result<bool, SnapshotError> {
        let mut tail = self.tail(newest);
        let mut bytes = 0;
        while bytes < self.options.tail_bytes_min {
            match tail.next().await {
                Ok(Some((_, _, len))) => bytes += len,
                Ok(None) => return Ok(false),
                Err(LogError::Trimmed { .. }) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    async fn run(&self, last: Option<&Manifest>) -> Result<Manifest, SnapshotError> {
        let built = match (plan(last, self.options), last) {
            (Plan::Delta, Some(last)) => self.delta(last).await,
            (Plan::Base, Some(last)) => self.base(last).await,
            _ => Ok(None),
        };
        match built {
            Ok(Some(manifest)) => return Ok(manifest),
            Ok(None) => {}
            Err(
                error @ (SnapshotError::Damaged { .. }
                | SnapshotError::Log(LogError::Trimmed { .. })),
            ) => {
                tracing::error!(slot = self.slot, %error, "taking a full snapshot");
            }
            Err(error) => return Err(error),
        }
        let (base, _) = self.mutable_rows().await?;
        let mut history = Writer::new(self, Kind::History);
        self.rows(Rows::History, &mut history).await?;
        let history = history.finish().await?;
        Ok(self.manifest(base, Vec::new(), history, 0))
    }

    /// The last snapshot and one or more deltas; `None` when all is to be written anew.
    async fn delta(&self, last: &Manifest) -> Result<Option<Manifest>, SnapshotError> {
        let mut writer = Writer::new(self, Kind::Delta);
        let deletes = last.deletes + self.fold_tail(last, &mut writer, false).await?;
        let mut deltas = last.deltas.clone();
        deltas.extend(writer.finish().await?);
        let small = |object: &ObjectRef| object.bytes < self.options.delta_small_bytes;
        if deltas.iter().filter(|object| small(object)).count() > self.options.deltas_small_max {
            deltas = self.folded(deltas).await?;
        }
        let base = last.base.clone();
        let mut manifest = self.manifest(base, deltas, last.history.clone(), deletes);
        let counting = deletes.saturating_mul(limits::SNAPSHOT_HEADS_PER_DELETE);
        if deletes > 0 && counting >= manifest.meta.sessions {
            let live = self.live_entries().await?;
            if is_mostly_dead(manifest.entries(), live, self.options) {
                return Ok(None);
            }
            manifest.deletes = 0;
        }
        Ok(Some(manifest))
    }

    /// Folds small deltas that stand side by side together, up to a piece's size.
    async fn folded(&self, deltas: Vec<ObjectRef>) -> Result<Vec<ObjectRef>, SnapshotError> {
        let mut out = Vec::new();
        let mut deltas = VecDeque::from(deltas);
        while let Some(first) = deltas.pop_front() {
            let mut bytes = first.bytes;
            let mut group = vec![first];
            while let Some(next) = deltas.pop_front_if(|next| {
                let all_small = bytes < self.options.delta_small_bytes
                    && next.bytes < self.options.delta_small_bytes;
                all_small && bytes + next.bytes <= self.options.piece_bytes as u64
            }) {
                bytes += next.bytes;
                group.push(next);
            }
            if group.len() == 1 {
                out.append(&mut group);
                continue;
            }
            let mut all = Changes::default();
            for object in &group {
                all.then(self.snapshots.read(self.slot, object).await?);
            }
            out.push(self.put(Kind::Delta, all).await?);
        }
        Ok(out)
    }

    /// A new base, and history that was in deltas in segments; `None` when all is to be written
    /// anew.
    async fn base(&self, last: &Manifest) -> Result<Option<Manifest>, SnapshotError> {
        let (base, live) = self.mutable_rows().await?;
        let mut writer = Writer::new(self, Kind::History);
        for object in &last.deltas {
            let changes = self.snapshots.read(self.slot, object).await?;
            writer.add(only_history(changes), object.bytes as usize).await?;
        }
        self.fold_tail(last, &mut writer, true).await?;
        let mut history = last.history.clone();
        history.extend(writer.finish().await?);
        let manifest = self.manifest(base, Vec::new(), history, 0);
        Ok((!is_mostly_dead(manifest.entries(), live, self.options)).then_some(manifest))
    }

    fn manifest(
        &self,
        base: Vec<ObjectRef>,
        deltas: Vec<ObjectRef>,
        history: Vec<ObjectRef>,
        deletes: u64,
    ) -> Manifest {
        let (slot, term, meta) = (self.slot, self.term, self.view.meta().clone());
        Manifest { slot, term, meta, base, deltas, history, deletes }
    }

    /// Writes a base. Gives the number of live entries of history too.
    async fn mutable_rows(&self) -> Result<(Vec<ObjectRef>, u64), SnapshotError> {
        let mut writer = Writer::new(self, Kind::Base);
        let live = self.rows(Rows::Heads, &mut writer).await?;
        self.rows(Rows::State, &mut writer).await?;
        self.rows(Rows::Remembered, &mut writer).await?;
        Ok((writer.finish().await?, live))
    }

    /// Writes all rows of a kind. Gives the sum of the heads' sequence numbers.
    async fn rows(&self, rows: Rows, writer: &mut Writer<'_>) -> Result<u64, SnapshotError> {
        let (mut live, mut after) = (0, None);
        loop {
            let (page, bytes) = self.page(rows, after).await?;
            live += page.rows.heads.values().flatten().map(|head| head.seq).sum::<u64>();
            writer.add(page.rows, bytes).await?;
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(live),
            }
        }
    }

    async fn live_entries(&self) -> Result<u64, SnapshotError> {
        let (mut live, mut after) = (0, None);
        loop {
            let (page, _) = self.page(Rows::Heads, after).await?;
            live += page.rows.heads.values().flatten().map(|head| head.seq).sum::<u64>();
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(live),
            }
        }
    }

    /// Rows, and how many bytes they have.
    async fn page(
        &self,
        rows: Rows,
        after: Option<Vec<u8>>,
    ) -> Result<(crate::state::rows::Page, usize), SnapshotError> {
        let view = self.view.clone();
        let bytes = self.options.piece_bytes / 4;
        let turn = Some(self.turn.clone());
        let page = blocking(turn, move || Ok(view.page(rows, after, bytes)?)).await?;
        let bytes = page.bytes;
        Ok((page, bytes))
    }

    fn tail(&self, after: Position) -> Tail<'_> {
        let to = self.view.meta().applied;
        Tail { log: self.log, slot: self.slot, after, to, read: VecDeque::new() }
    }

    /// Folds the log from the last snapshot on. Gives the number of deletes.
    async fn fold_tail(
        &self,
        last: &Manifest,
        writer: &mut Writer<'_>,
        history_only: bool,
    ) -> Result<u64, SnapshotError> {
        let mut meta = last.meta.clone();
        let mut tail = self.tail(last.position());
        let (mut changes, mut bytes, mut deletes) = (Changes::default(), 0, 0);
        loop {
            let next = tail.next().await?;
            let end = next.is_none();
            if let Some((position, batch, len)) = next {
                changes.fold(&mut meta, position, batch);
                bytes += len;
            }
            if end || bytes >= self.options.piece_bytes {
                deletes += changes.deleted.len() as u64;
                let folded = std::mem::take(&mut changes);
                let folded = if history_only { only_history(folded) } else { folded };
                writer.add(folded, bytes).await?;
                bytes = 0;
            }
            if end {
                break;
            }
        }
        // Session numbers may have been given to messages that are not committed yet.
        let found = self.view.meta();
        let same = |meta: &SlotMeta| (meta.applied, meta.term, meta.sessions, meta.active.clone());
        if same(&meta) == same(found) {
            return Ok(deletes);
        }
        Err(SnapshotError::Refused(format!(
            "slot {}: the state store does not match the log: {found:?}, not {meta:?}",
            self.slot
        )))
    }

    async fn put(&self, kind: Kind, changes: Changes) -> Result<ObjectRef, SnapshotError> {
        let (slot, term) = (self.slot, self.term);
        let encode = move || format::object(kind, slot, term, changes);
        let (reference, bytes): (ObjectRef, Bytes) = blocking(None, encode).await?;
        metrics().snapshot_bytes.increment(reference.bytes);
        self.snapshots.inner.objects.put(slot, &reference.name(), bytes).await?;
        Ok(reference)
    }
}

/// What goes to history segments: the rest is in the base.
fn only_history(changes: Changes) -> Changes {
    let sessions = changes.sessions.into_iter().filter(|(_, session)| !session.history.is_empty());
    let sessions = sessions.map(|(number, session)| {
        (number, SessionChanges { history: session.history, ..SessionChanges::default() })
    });
    Changes { sessions: sessions.collect(), ..Changes::default() }
}

/// Gathers changes into objects of a piece's size.
struct Writer<'a> {
    take: &'a Take<'a>,
    kind: Kind,
    changes: Changes,
    bytes: usize,
    written: Vec<ObjectRef>,
}

impl<'a> Writer<'a> {
    fn new(take: &'a Take<'a>, kind: Kind) -> Self {
        Self { take, kind, changes: Changes::default(), bytes: 0, written: Vec::new() }
    }

    /// Adds what comes after all that was added before, about `bytes` long.
    async fn add(&mut self, changes: Changes, bytes: usize) -> Result<(), SnapshotError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.changes.then(changes);
        self.bytes += bytes;
        if self.bytes >= self.take.options.piece_bytes {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), SnapshotError> {
        self.bytes = 0;
        let changes = std::mem::take(&mut self.changes);
        self.written.push(self.take.put(self.kind, changes).await?);
        Ok(())
    }

    async fn finish(mut self) -> Result<Vec<ObjectRef>, SnapshotError> {
        if !self.changes.is_empty() {
            self.flush().await?;
        }
        Ok(self.written)
    }
}

/// The log of a slot, from after a position up to another.
struct Tail<'a> {
    log: &'a dyn SlotLog,
    slot: SlotId,
    after: Position,
    to: Position,
    read: VecDeque<crate::log::Logged>,
}

impl Tail<'_> {
    /// The next batch with its position and its encoded length; `None` at the end.
    async fn next(&mut self) -> Result<Option<(Position, Batch, usize)>, LogError> {
        let mut backoff = Backoff::new(limits::SNAPSHOT_RETRY_MIN, limits::SNAPSHOT_RETRY_MAX);
        let mut waited = Duration::ZERO;
        while self.read.is_empty() && self.after < self.to {
            let page = limits::SNAPSHOT_PIECE_BYTES;
            self.read = self.log.read(self.slot, self.after, page).await?.into();
            if !self.read.is_empty() {
                break;
            }
            // A server that lags: the end is known to be there.
            if waited >= limits::SNAPSHOT_OBJECT_TIMEOUT {
                return Err(LogError::Unavailable(format!(
                    "the log of slot {} does not show position {}",
                    self.slot, self.to
                )));
            }
            let wait = backoff.next();
            tokio::time::sleep(wait).await;
            waited += wait;
        }
        let Some(logged) = self.read.pop_front_if(|logged| logged.position <= self.to) else {
            return Ok(None);
        };
        self.after = logged.position;
        Ok(Some((logged.position, Batch::decode(&logged.batch)?, logged.batch.len())))
    }
}
