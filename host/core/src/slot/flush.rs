//! The way of committed batches into the state store, beside the slot's loop.

use crate::{
    error::{Cause, Error, StateError},
    limits,
    log::{LogError, Logged, Position, record::Batch},
    names::{SessionKey, SlotId},
    slot::{
        SlotContext,
        commits::commit_error,
        core::{Event, Stored},
        relaxed_store,
        shell::Shell,
    },
    state::{SlotMeta, StateStore, changes::Changes},
    telemetry::{metrics, repeats},
};
use futures_util::FutureExt as _;
use std::{
    future::poll_fn,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};
use tokio::{
    sync::{OwnedMutexGuard, oneshot},
    task::JoinHandle,
};

/// What a flush wrote.
pub(super) struct Flushed {
    meta: SlotMeta,
    /// The last flushed message of each session that changed: key, session number, seq.
    sessions: Vec<(SessionKey, u64, u64)>,
}

/// A flush that runs.
pub(super) struct Flushing(JoinHandle<Result<Flushed, StateError>>);

impl Flushing {
    /// What it came to.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Flushed, StateError>> {
        let failed = |e| Err(StateError::Unavailable(format!("the flush failed: {e}")));
        self.0.poll_unpin(cx).map(|result| result.unwrap_or_else(failed))
    }
}

/// A snapshot that is being made. Given up when this is dropped, but for a step that runs on a thread of
/// its own, which reads a page or writes an object. What was put is used by the next one, or collected.
pub(super) struct Snapshotting(JoinHandle<Result<Snapshotted, String>>);

/// A snapshot that was made.
pub(super) struct Snapshotted {
    /// Up to where the log can be trimmed.
    trim: Position,
    /// It needs nothing from before this term, as was asked for in this round.
    anew: Option<u64>,
}

impl Snapshotting {
    /// What it came to.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Snapshotted, String>> {
        self.0.poll_unpin(cx).map(|taken| taken.unwrap_or_else(|e| Err(e.to_string())))
    }
}

impl Drop for Snapshotting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Shell {
    pub(super) fn start_flush(&mut self) {
        relaxed_store(&self.stats.cached, self.cache.len() as u64);
        relaxed_store(&self.stats.cache_bytes, self.cache_bytes as u64);
        // Kept for later rather than failed: a full disk must not end reads.
        if !self.core.is_dirty() || !self.context.store.is_writable() {
            return;
        }
        let Some(batches) = self.core.flush(crate::clock::now()) else { return };
        self.stats.dirty.store(false, Ordering::Relaxed);
        let (slot, store, meta) = (self.slot, self.context.store.clone(), self.meta.clone());
        let messages = batches.iter().map(|(_, batch)| batch.records.len()).sum::<usize>();
        // Most of what changed is cached still.
        let sessions = messages.min(self.cache.len());
        let lock = self.lock.clone();
        let handle = crate::task::blocking(move || {
            let _lock = lock;
            let mut changes = Changes::with_capacity(sessions);
            let mut meta = meta;
            for (position, batch) in batches {
                changes.fold(&mut meta, position, batch);
            }
            let started = crate::clock::now();
            store.apply(slot, &changes, &meta)?;
            metrics().flush_seconds.record(started.elapsed());
            let heads = changes.heads.into_iter();
            let sessions =
                heads.filter_map(|(key, head)| head.map(|h| (key, h.session_number, h.seq)));
            Ok(Flushed { meta, sessions: sessions.collect() })
        });
        self.flushing = Some(Flushing(handle));
        self.attention = true;
    }

    pub(super) fn on_flushed(&mut self, result: Result<Flushed, StateError>) {
        self.flushing = None;
        let flushed = match result {
            Ok(flushed) => flushed,
            Err(error) => return self.on(Event::Flushed(Err(error.into()))),
        };
        for (key, number, seq) in flushed.sessions {
            if let Some(session) = self.cache.get_mut(&key)
                && session.head.session_number == number
            {
                session.flushed_to(seq);
            }
        }
        self.meta = flushed.meta;
        relaxed_store(&self.stats.applied, self.meta.applied);
        self.on(Event::Flushed(Ok(())));
    }

    pub(super) fn on_stored(&mut self, stored: Stored) {
        self.deleted.retain(|_, batch| *batch > stored.up_to);
        if stored.snapshot {
            self.start_snapshot();
        }
        self.evict();
        if stored.flush {
            self.start_flush();
        }
    }
}

impl Shell {
    fn trim(&mut self, up_to: Position) {
        let trim = self.context.log.trim(self.slot, up_to);
        let slot = self.slot;
        self.do_beside(async move {
            if let Err(error) = trim.await
                && repeats::admit("logs were not trimmed", "slots")
            {
                tracing::warn!(slot, %error, "the log was not trimmed");
            }
        });
    }

    /// Has something done that nobody waits for; what is not done when the slot ends is given up.
    fn do_beside(&mut self, chore: impl Future<Output = ()> + Send + 'static) {
        while self.chores.try_join_next().is_some() {}
        crate::task::run_in(&mut self.chores, chore);
    }

    // ---- snapshots -----------------------------------------------------------------------------

    /// Starts a snapshot: the store is on this disk only, and the log is needed until one has it. A log on
    /// the store's own disk trims itself.
    pub(super) fn start_snapshot(&mut self) {
        let Some(cluster) = &self.context.cluster else { return };
        if self.snapshotting.is_some() {
            return;
        }
        let anew = self.anew_wanted.take();
        let (snapshots, turns) = (cluster.snapshots.clone(), cluster.snapshot_turns.clone());
        let (slot, term, log) = (self.slot, self.core.term(), self.context.log.clone());
        let store = cluster.store.clone();
        self.attention = true;
        let snapshot = crate::task::spawn("snapshot", async move {
            let _turn = turns.acquire_owned().await.map_err(|e| e.to_string())?;
            let taken = match anew {
                Some(_) => snapshots.take_anew(slot, term, &*log, &store).await,
                // The one before is kept reachable, in case an object of the newest is lost.
                None => snapshots.take(slot, term, &*log, &store).await.map(|taken| taken.before),
            };
            taken.map(|trim| Snapshotted { trim, anew }).map_err(|e| e.to_string())
        });
        self.snapshotting = Some(Snapshotting(snapshot));
    }

    pub(super) fn on_snapshot(&mut self, taken: Result<Snapshotted, String>) {
        self.snapshotting = None;
        if let Err(error) = &taken
            && repeats::admit("no snapshot was made", "slots")
        {
            tracing::warn!(slot = self.slot, error, "no snapshot was made");
        }
        if let Ok(Snapshotted { trim, anew: Some(round) }) = &taken {
            self.anew = Some((*round, *trim));
        }
        self.on(Event::Snapshot(taken.ok().map(|taken| taken.trim)));
        if self.anew_wanted.is_some() {
            self.start_snapshot();
        }
    }

    /// Trims what a snapshot has.
    pub(super) fn trim_behind_snapshot(&mut self, position: Position) {
        let Some(cluster) = &self.context.cluster else { return self.trim(position) };
        let (snapshots, slot, term) = (cluster.snapshots.clone(), self.slot, self.core.term());
        let trim = self.context.log.trim(slot, position);
        let stats = self.stats.clone();
        let anew = self.anew.take_if(|(_, at)| *at <= position);
        self.do_beside(async move {
            let trimmed = trim.await;
            if let Err(error) = &trimmed
                && repeats::admit("logs were not trimmed", "slots")
            {
                tracing::warn!(slot, %error, "the log was not trimmed");
            }
            let collected = match snapshots.collect(slot, term).await {
                Ok(_) if anew.is_some() && trimmed.is_ok() => {
                    snapshots.is_all_since(slot, term).await
                }
                Ok(_) => Ok(false),
                Err(error) => Err(error),
            };
            match collected {
                Ok(true) => *stats.all_since.lock() = anew.map(|(round, _)| (round, term)),
                Ok(false) => {}
                Err(error) if repeats::admit("old snapshots were not removed", "slots") => {
                    tracing::warn!(slot, %error, "old snapshots were not removed");
                }
                Err(_) => {}
            }
        });
    }
}

pub(super) async fn flushed(flushing: &mut Option<Flushing>) -> Result<Flushed, StateError> {
    match flushing {
        Some(flushing) => poll_fn(|cx| flushing.poll(cx)).await,
        None => std::future::pending().await,
    }
}

/// As [`catch_up`], by the one that has the slot, which is kept until what was begun is written: it
/// must not meet what the next task writes. Up to a claim it goes on when no client is waiting for
/// it any more.
pub async fn catch_up_alone(
    slot: SlotId,
    context: Arc<SlotContext>,
    until: CatchUp,
    lock: Arc<OwnedMutexGuard<()>>,
) -> Result<SlotMeta, Error> {
    let (_waits, waiter) = oneshot::channel();
    let caught_up = crate::task::run(async move {
        let _lock = lock;
        catch_up(slot, &context, until, waiter).await
    });
    caught_up.await.unwrap_or_else(|e| Err(Error::internal(format!("the replay failed: {e}"))))
}

/// Replays the log's tail, up to `until`, into the state store; what the log has trimmed comes
/// from a snapshot.
async fn catch_up(
    slot: SlotId,
    context: &SlotContext,
    until: CatchUp,
    mut waiter: oneshot::Receiver<()>,
) -> Result<SlotMeta, Error> {
    let mut meta = context.store.slot(slot)?;
    let prepares = matches!(until, CatchUp::Now);
    let mut restored = false;
    let (mut short_pages, mut last_pages) = (0, 0);
    if let Some(cluster) = context.cluster.as_ref().filter(|_| meta.applied == 0) {
        let cleared = cluster.snapshots.clear(slot, &cluster.store).await;
        cleared.map_err(|e| Error::of(Cause::Storage, e.to_string()))?;
    }
    let started = crate::clock::now();
    loop {
        if let CatchUp::To(claimed) = until
            && meta.applied >= claimed
        {
            return Ok(meta);
        }
        let read = context.log.read(slot, meta.applied, limits::CATCH_UP_BYTES_MAX);
        let read = tokio::select! {
            biased;
            // The sender is only ever dropped.
            _ = &mut waiter, if prepares => return Ok(meta),
            read = read => read,
        };
        let tail = match read {
            Ok(tail) => tail,
            Err(error @ LogError::Trimmed { .. }) => {
                let Some(cluster) = context.cluster.as_ref().filter(|_| !restored) else {
                    return Err(commit_error(&error));
                };
                restored = true;
                let restore = cluster.snapshots.restore(slot, &*context.log, &cluster.store);
                meta = restore
                    .await
                    .map_err(|e| Error::of(Cause::Storage, format!("{error}, and {e}")))?;
                continue;
            }
            Err(error) => return Err(commit_error(&error)),
        };
        if tail.is_empty() {
            let CatchUp::To(claimed) = until else { return Ok(meta) };
            // A server that lags may not show it yet.
            if started.elapsed() >= limits::ENGINE_TIMEOUT || context.cluster.is_none() {
                return Err(Error::internal(format!(
                    "the log of slot {slot} ends at {} before its claim at {claimed}",
                    meta.applied
                )));
            }
            tokio::time::sleep(limits::REPLAY_RETRY).await;
            continue;
        }
        // Who prepares a move is in no hurry, and must not take the processor from those who serve.
        let turn = match &context.cluster {
            Some(cluster) if prepares => tokio::select! {
                biased;
                _ = &mut waiter => return Ok(meta),
                turn = cluster.catch_up_turns.acquire() => turn.ok(),
            },
            _ => None,
        };
        let bytes = tail.iter().map(|logged| logged.batch.len()).sum::<usize>();
        let is_short = tail.len() < limits::CATCH_UP_BATCHES_LEFT_MAX
            && bytes < limits::REPLAY_WRITE_BYTES_MAX;
        let is_last = bytes < limits::CATCH_UP_BYTES_MAX / 2;
        let store = context.store.clone();
        meta = crate::task::blocking(move || replay(slot, &*store, meta, tail))
            .await
            .map_err(|e| Error::internal(format!("the replay failed: {e}")))??;
        drop(turn);
        // A slot that is written to all the time never has nothing left.
        short_pages = if is_short { short_pages + 1 } else { 0 };
        last_pages += usize::from(is_last);
        let enough = short_pages == limits::CATCH_UP_SHORT_PAGES
            || last_pages == limits::CATCH_UP_LAST_PAGES_MAX;
        if prepares && enough {
            return Ok(meta);
        }
    }
}

/// Applies a part of the log to the store.
fn replay(
    slot: SlotId,
    store: &dyn StateStore,
    mut meta: SlotMeta,
    part: Vec<Logged>,
) -> Result<SlotMeta, Error> {
    let mut part = part.into_iter().peekable();
    while part.peek().is_some() {
        let (mut changes, mut bytes) = (Changes::default(), 0);
        while let Some(logged) = part.next_if(|_| bytes < limits::REPLAY_WRITE_BYTES_MAX) {
            bytes += logged.batch.len().max(1);
            let batch = Batch::decode(&logged.batch).map_err(|e| commit_error(&e))?;
            changes.fold(&mut meta, logged.position, batch);
        }
        store.apply(slot, &changes, &meta)?;
    }
    Ok(meta)
}

/// How far to replay.
#[derive(Clone, Copy)]
pub enum CatchUp {
    /// To a position that the log has for sure.
    To(Position),
    /// To what is there now, but for the little that comes meanwhile; not further when nobody
    /// waits for it.
    Now,
}
