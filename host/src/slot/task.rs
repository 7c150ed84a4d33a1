//! The slot's task: the single writer of its sessions.
//!
//! It waits for orders, for the commit in flight and for mail, in that order. A message is applied
//! to the cached session at once and goes into the batch that fills; the batch is appended when
//! none is in flight. Answers leave when their batch is durable. When a commit fails, everything
//! in memory is dropped and the next task opens the slot again from the log: failure, fencing and
//! restart are one path.

use crate::{
    error::{Code, Error},
    limits,
    log::{
        Append, LogError, Position, Term,
        record::{Activate, Batch, Record},
    },
    names::{ServiceName, SessionKey, SlotId},
    slot::{
        Activation, LastUse, Mail, Order, Ownership, Prepared, Reply, SlotContext, SlotStats,
        batch::{Building, Gate, commit_error},
        instances::Instances,
        relaxed_store,
        session::Session,
        subscribers::Subscribers,
    },
    state::{SlotMeta, StateError, changes::Changes},
    telemetry::metrics,
};
use futures_util::future::BoxFuture;
use std::{
    collections::{BTreeMap, HashMap},
    future::poll_fn,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::{Duration, Instant},
};
use tokio::{
    sync::{OwnedMutexGuard, mpsc},
    task::JoinHandle,
};

/// A batch that is on its way into the log.
struct InFlight {
    number: u64,
    commit: BoxFuture<'static, Result<Position, LogError>>,
    started: Instant,
    batch: Batch,
    bytes: usize,
    gate: Gate,
}

/// What a flush wrote.
struct Flushed {
    meta: SlotMeta,
    /// The last flushed message of each session that changed: key, session number, seq.
    sessions: Vec<(SessionKey, u64, u64)>,
}

struct Flushing {
    /// The last batch that it covers.
    up_to_batch: u64,
    bytes: usize,
    handle: JoinHandle<Result<Flushed, StateError>>,
}

/// Why the loop ended.
enum End {
    Stop { release: bool, reply: Option<Reply<(Term, Position)>> },
    Failed(Error),
}

pub(super) struct Task {
    pub(super) slot: SlotId,
    pub(super) context: Arc<SlotContext>,
    /// Also held by a flush that runs: the next task opens the slot when both have ended.
    owner: Arc<OwnedMutexGuard<()>>,
    pub(super) stats: Arc<SlotStats>,
    pub(super) term: Term,
    position: Position,
    /// What the state store has.
    meta: SlotMeta,
    /// What the slot runs, uncommitted activations included.
    pub(super) active: BTreeMap<ServiceName, Activate>,
    pub(super) next_session: u64,
    live_sessions: u64,
    pub(super) cache: HashMap<SessionKey, Box<Session>>,
    cache_bytes: usize,
    /// Counts uses of sessions, for eviction.
    uses: u64,
    pub(super) building: Building,
    in_flight: Option<InFlight>,
    /// The last batch that is durable.
    committed_batch: u64,
    /// Durable batches that the state store does not have.
    unflushed: Vec<(Position, Batch)>,
    unflushed_bytes: usize,
    flushed_batch: u64,
    flushing: Option<Flushing>,
    last_flush: Instant,
    pub(super) instances: Instances,
    pub(super) subscribers: Subscribers,
    last_use: LastUse,
    failed: Option<Error>,
}

/// Opens the slot, serves it and ends; mail that can't be served is answered with the reason.
pub(super) async fn run(
    slot: SlotId,
    ownership: Ownership,
    context: Arc<SlotContext>,
    mut mail: mpsc::Receiver<Mail>,
    mut orders: mpsc::Receiver<Order>,
    stats: Arc<SlotStats>,
) {
    let owner = Arc::new(ownership.lock().await);
    let opened = Task::open(slot, context, stats.clone(), owner).await;
    let error = match opened {
        Ok(mut task) => match task.serve(&mut mail, &mut orders).await {
            End::Stop { release, reply } => match task.finish(&mut mail, release).await {
                Ok(at) => {
                    stats.flushed.store(true, Ordering::Release);
                    if let Some(reply) = reply {
                        let _ = reply.send(Ok(at));
                    }
                    return;
                }
                Err(error) => {
                    if let Some(reply) = reply {
                        let _ = reply.send(Err(error.clone()));
                    }
                    error
                }
            },
            End::Failed(error) => error,
        },
        Err(error) => error,
    };
    metrics().slot_failures.increment(1);
    tracing::warn!(slot, %error, "slot stopped");
    orders.close();
    mail.close();
    while let Some(mail) = mail.recv().await {
        mail.refuse(error.clone());
    }
}

impl Task {
    /// Claims the slot and brings the state store up to the claim.
    async fn open(
        slot: SlotId,
        context: Arc<SlotContext>,
        stats: Arc<SlotStats>,
        owner: Arc<OwnedMutexGuard<()>>,
    ) -> Result<Self, Error> {
        let claim = context.log.claim(slot, &context.node).await.map_err(|e| match e {
            LogError::Undecided(why) | LogError::Unavailable(why) => {
                Error::new(Code::StorageUnavailable, format!("the slot can't be claimed: {why}"))
            }
            other => commit_error(&other),
        })?;
        let meta = catch_up(slot, &context, claim.position).await?;
        // All of it is in the store: a slot that is only read must not pin the node's log.
        if let Err(error) = context.log.trim(slot, meta.applied).await {
            tracing::warn!(slot, %error, "the log was not trimmed");
        }
        relaxed_store(&stats.term, claim.term);
        relaxed_store(&stats.position, claim.position);
        relaxed_store(&stats.applied, meta.applied);
        relaxed_store(&stats.sessions, meta.sessions);
        stats.show_active(&context.catalogue, &meta.active);
        metrics().slot_starts.increment(1);
        tracing::debug!(slot, term = claim.term, position = claim.position, "slot opened");
        Ok(Self {
            slot,
            owner,
            stats,
            term: claim.term,
            position: claim.position,
            active: meta.active.clone(),
            // 0 is never given: a default head must not look like a session's.
            next_session: meta.next_session.max(1),
            live_sessions: meta.sessions,
            meta,
            context,
            cache: HashMap::new(),
            cache_bytes: 0,
            uses: 0,
            building: Building::new(1),
            in_flight: None,
            committed_batch: 0,
            unflushed: Vec::new(),
            unflushed_bytes: 0,
            flushed_batch: 0,
            flushing: None,
            last_flush: Instant::now(),
            instances: Instances::default(),
            subscribers: Subscribers::default(),
            last_use: LastUse::now(),
            failed: None,
        })
    }

    async fn serve(
        &mut self,
        mail: &mut mpsc::Receiver<Mail>,
        orders: &mut mpsc::Receiver<Order>,
    ) -> End {
        loop {
            self.submit();
            if let Some(error) = self.failed.take() {
                return self.fail(error);
            }
            let has_room = self.has_room();
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(Order::Activate { activation, prepared, reply }) => {
                        self.activate(activation, prepared, reply).await;
                    }
                    Some(Order::Flush) => self.start_flush(),
                    Some(Order::StopIfIdle { idle }) => {
                        if self.is_idle(idle) && mail.is_empty() {
                            return End::Stop { release: false, reply: None };
                        }
                    }
                    Some(Order::Stop { release, reply }) => {
                        return End::Stop { release, reply: Some(reply) };
                    }
                    // The node is gone.
                    None => return End::Stop { release: false, reply: None },
                },
                result = committed(&mut self.in_flight), if self.in_flight.is_some() => {
                    self.on_committed(result);
                }
                result = flushed(&mut self.flushing), if self.flushing.is_some() => {
                    self.on_flushed(result);
                }
                first = mail.recv(), if has_room => match first {
                    Some(first) => self.take_ready(first, mail).await,
                    None => return End::Stop { release: false, reply: None },
                },
            }
        }
    }

    /// Takes one mail and what else is there, but not for ever: orders and commits come first.
    async fn take_ready(&mut self, first: Mail, mail: &mut mpsc::Receiver<Mail>) {
        self.take(first).await;
        for _ in 1..limits::MAIL_PER_TURN_MAX {
            if self.failed.is_some() || !self.has_room() {
                return;
            }
            let Ok(next) = mail.try_recv() else { return };
            self.take(next).await;
            if let Some(in_flight) = &mut self.in_flight
                && let Poll::Ready(result) = poll_once(&mut in_flight.commit).await
            {
                self.on_committed(result);
            }
        }
    }

    fn has_room(&self) -> bool {
        // A flush that can't keep up with the commits holds new mail back.
        let held = self.in_flight.as_ref().map_or(0, |in_flight| in_flight.gate.len());
        self.building.has_room()
            && held < 4 * limits::BATCH_MESSAGES_MAX
            && self.unflushed_bytes < 8 * limits::UNFLUSHED_BYTES_MAX
    }

    async fn take(&mut self, mail: Mail) {
        if mail.is_abandoned() {
            return;
        }
        self.last_use.touch();
        self.context.mail_taken.fetch_add(1, Ordering::Relaxed);
        match mail {
            Mail::Message { key, message, reply } => self.message(key, message, reply).await,
            Mail::Query { key, content_type, body, reply } => {
                self.query(key, content_type, body, reply).await;
            }
            Mail::Delete { key, reply } => self.delete(&key, reply),
            Mail::History { key, range, reply } => self.history(&key, range, reply),
            Mail::Session { key, reply } => self.describe(&key, reply),
            Mail::Sessions { service, prefix, after, limit, pinned, reply } => {
                self.list(&service, &prefix, after.as_ref(), limit, pinned, reply);
            }
            Mail::Subscribe { key, after, reply } => self.subscribe(&key, after, reply),
        }
    }

    // ---- commits -------------------------------------------------------------------------------

    /// Appends the batch that filled, unless one is in flight.
    fn submit(&mut self) {
        // What filled after a failed commit rests on it: it must never reach the log.
        if self.failed.is_some() || self.in_flight.is_some() || !self.building.has_records() {
            return;
        }
        let next = Building::new(self.building.number + 1);
        let mut building = std::mem::replace(&mut self.building, next);
        let gate = building.take_held();
        let batch = Batch {
            slot: self.slot,
            term: self.term,
            attempt: rand_u128(),
            records: building.records,
        };
        let append = Append {
            slot: self.slot,
            term: self.term,
            after: self.position,
            batch: batch.encode(),
        };
        self.in_flight = Some(InFlight {
            number: building.number,
            bytes: append.batch.len(),
            commit: self.context.log.commit(append),
            started: Instant::now(),
            batch,
            gate,
        });
    }

    /// The commit in flight has ended: answers and events leave, or everyone is told.
    pub(super) fn on_committed(&mut self, result: Result<Position, LogError>) {
        let Some(in_flight) = self.in_flight.take() else { return };
        match result {
            Ok(position) => {
                self.position = position;
                self.committed_batch = in_flight.number;
                relaxed_store(&self.stats.position, position);
                relaxed_store(&self.stats.sessions, self.live_sessions);
                in_flight.gate.open();
                self.subscribers.publish(in_flight.number, &in_flight.batch.records);
                self.on_durable(&in_flight.batch.records, in_flight.started.elapsed());
                self.unflushed.push((position, in_flight.batch));
                self.unflushed_bytes += in_flight.bytes;
                self.stats.dirty.store(true, Ordering::Relaxed);
                if self.unflushed_bytes >= limits::UNFLUSHED_BYTES_MAX {
                    self.start_flush();
                }
                self.submit();
            }
            Err(error) => {
                let error = commit_error(&error);
                in_flight.gate.refuse(&error);
                self.failed = Some(error);
            }
        }
    }

    fn on_durable(&self, records: &[Record], took: Duration) {
        let mut messages = 0;
        for record in records {
            match record {
                Record::Message(_) => messages += 1,
                Record::Activate(_) => {
                    self.stats.show_active(&self.context.catalogue, &self.active);
                }
                _ => {}
            }
        }
        metrics().append_seconds.record(took);
        metrics().messages.increment(messages);
        metrics().batch_messages.record(messages as f64);
    }

    /// Ends the task after the mail at hand; the next one opens the slot from its log.
    pub(super) fn give_up(&mut self, error: Error) {
        self.failed.get_or_insert(error);
    }

    /// What filled since the failed commit was never sent to the log.
    fn fail(&mut self, error: Error) -> End {
        let kept_out = match error.code {
            Code::Fenced => error.clone(),
            _ => Error::new(
                Code::StorageUnavailable,
                format!("the slot stopped before the message was written: {}", error.detail),
            ),
        };
        if let Some(in_flight) = self.in_flight.take() {
            in_flight.gate.refuse(&Error::new(
                Code::OutcomeUnknown,
                "the slot stopped while the message was written; \
                 repeat it with the same idempotency key",
            ));
        }
        self.building.take_held().refuse(&kept_out);
        End::Failed(kept_out)
    }

    /// Sends an answer once all that it rests on is durable: the batches up to `changed_in`.
    pub(super) fn hold<T: Send + 'static>(
        &mut self,
        changed_in: u64,
        reply: Reply<T>,
        answer: Result<T, Error>,
    ) {
        if changed_in <= self.committed_batch {
            let _ = reply.send(answer);
            return;
        }
        match &mut self.in_flight {
            Some(in_flight) if changed_in <= in_flight.number => {
                let mut late = Building::default();
                late.hold(reply, answer);
                in_flight.gate.extend(late.take_held());
            }
            _ => self.building.hold(reply, answer),
        }
    }

    /// As [`Self::hold`], for an answer that rests on everything that the slot has.
    pub(super) fn hold_for_all<T: Send + 'static>(
        &mut self,
        reply: Reply<T>,
        answer: Result<T, Error>,
    ) {
        let last = match (&self.in_flight, self.building.has_records()) {
            (_, true) => self.building.number,
            (Some(in_flight), false) => in_flight.number,
            (None, false) => 0,
        };
        self.hold(last, reply, answer);
    }

    // ---- sessions ------------------------------------------------------------------------------

    /// Takes a session out of the cache, or from the store; put it back after.
    pub(super) fn take_session(&mut self, key: &SessionKey) -> Result<Box<Session>, Error> {
        if let Some(session) = self.cache.remove(key) {
            self.uncount(session.footprint());
            return Ok(session);
        }
        let head = self.context.store.head(self.slot, key).map_err(store_error)?;
        Ok(Box::new(Session::new(key.clone(), head.unwrap_or_default())))
    }

    pub(super) fn put_session(&mut self, mut session: Box<Session>) {
        self.uses += 1;
        session.used = self.uses;
        let footprint = session.footprint();
        self.cache_bytes += footprint;
        self.context.cached_bytes.fetch_add(footprint, Ordering::Relaxed);
        self.cache.insert(session.key.clone(), session);
        if self.cache_is_full() {
            match self.unflushed.is_empty() {
                true => self.evict(),
                false if self.last_flush.elapsed() >= limits::FLUSH_INTERVAL_MIN => {
                    self.start_flush();
                }
                false => {}
            }
        }
    }

    fn uncount(&mut self, footprint: usize) {
        self.cache_bytes -= footprint;
        self.context.cached_bytes.fetch_sub(footprint, Ordering::Relaxed);
    }

    /// The node's cache is over its budget and this slot has more than its least share.
    fn cache_is_full(&self) -> bool {
        self.cache_bytes > limits::SESSION_CACHE_BYTES_PER_SLOT_MIN
            && self.context.cached_bytes.load(Ordering::Relaxed) > self.context.options.cache_bytes
    }

    /// Drops the least recently used sessions that the store has in full.
    fn evict(&mut self) {
        if !self.cache_is_full() {
            return;
        }
        let flushed = self.flushed_batch;
        let clean = self.cache.values().filter(|session| session.changed_in <= flushed);
        let mut by_use: Vec<_> = clean.map(|s| (s.used, s.footprint(), s.key.clone())).collect();
        by_use.sort_unstable_by_key(|(used, ..)| *used);
        // A quarter at a time, so that a full cache does not sort itself for each message.
        let target = self.cache_bytes / 4 * 3;
        for (_, footprint, key) in by_use {
            if self.cache_bytes <= target {
                break;
            }
            self.cache.remove(&key);
            self.uncount(footprint);
        }
    }

    pub(super) fn count_session(&mut self, by: i64) {
        self.live_sessions = self.live_sessions.saturating_add_signed(by);
    }

    // ---- orders --------------------------------------------------------------------------------

    /// Goes over to a deployment. Between two messages by construction.
    async fn activate(
        &mut self,
        activation: Activation,
        prepared: Prepared,
        reply: Reply<Duration>,
    ) {
        let started = Instant::now();
        let Activation { record, plugin } = activation;
        let current = self.active.get(&record.service);
        if current.is_some_and(|current| current.generation >= record.generation) {
            self.hold_for_all(reply, Ok(Duration::ZERO));
            return;
        }
        // The new instance comes first: if it can't be had, the old one goes on.
        if self.instances.has_service(&record.service)
            && let Err(error) =
                self.prepare_instance(&record.service, record.deployment, plugin, prepared).await
        {
            let _ = reply.send(Err(error));
            return;
        }
        self.active.insert(record.service.clone(), record.clone());
        self.building.push(Record::Activate(record.clone()));
        let retired = self.instances.retire(&record.service, record.deployment);
        let pause = started.elapsed();
        self.building.hold(reply, Ok(pause));
        // Giving their memory back takes longer than all of the above: not between two messages.
        if !retired.is_empty() {
            tokio::task::spawn_blocking(move || drop(retired));
        }
    }

    fn is_idle(&mut self, idle: Duration) -> bool {
        // Swept each time: those who left a quiet session would stay while the slot is busy.
        let watched = self.subscribers.sweep();
        self.last_use.is_older_than(idle)
            && !watched
            && self.in_flight.is_none()
            && !self.building.has_records()
            && self.flushing.is_none()
    }

    // ---- flush ---------------------------------------------------------------------------------

    /// Starts to bring the state store up to the last durable batch, beside the loop.
    fn start_flush(&mut self) {
        self.stats.instances.store(self.instances.len() as u64, Ordering::Relaxed);
        relaxed_store(&self.stats.cached, self.cache.len() as u64);
        relaxed_store(&self.stats.cache_bytes, self.cache_bytes as u64);
        // Kept for later rather than failed: a full disk must not end reads.
        if self.flushing.is_some() || self.unflushed.is_empty() || !self.context.store.is_writable()
        {
            return;
        }
        self.last_flush = Instant::now();
        let batches = std::mem::take(&mut self.unflushed);
        self.stats.dirty.store(false, Ordering::Relaxed);
        let (slot, store, meta) = (self.slot, self.context.store.clone(), self.meta.clone());
        let bytes = self.unflushed_bytes;
        let owner = self.owner.clone();
        let handle = tokio::task::spawn_blocking(move || {
            let _owner = owner;
            let mut changes = Changes::default();
            let mut meta = meta;
            for (position, batch) in batches {
                changes.fold(&mut meta, position, batch);
            }
            let heads = changes.heads.iter();
            let sessions = heads
                .filter_map(|(key, head)| {
                    head.as_ref().map(|h| (key.clone(), h.session_number, h.seq))
                })
                .collect();
            let started = Instant::now();
            store.apply(slot, changes, &meta)?;
            metrics().flush_seconds.record(started.elapsed());
            Ok(Flushed { meta, sessions })
        });
        let up_to_batch = self.committed_batch;
        self.flushing = Some(Flushing { up_to_batch, bytes, handle });
    }

    fn on_flushed(&mut self, result: Result<Flushed, StateError>) {
        let Some(flushing) = self.flushing.take() else { return };
        let flushed = match result {
            Ok(flushed) => flushed,
            Err(error) => {
                // The batches are in the log: the next task replays them from there.
                self.failed = Some(store_error(error));
                return;
            }
        };
        self.flushed_batch = flushing.up_to_batch;
        self.unflushed_bytes = self.unflushed_bytes.saturating_sub(flushing.bytes);
        for (key, number, seq) in flushed.sessions {
            if let Some(session) = self.cache.get_mut(&key)
                && session.head.session_number == number
            {
                session.flushed_to(seq);
            }
        }
        self.meta = flushed.meta;
        relaxed_store(&self.stats.applied, self.meta.applied);
        let trim = self.context.log.trim(self.slot, self.meta.applied);
        let slot = self.slot;
        tokio::spawn(async move {
            if let Err(error) = trim.await {
                tracing::warn!(slot, %error, "the log was not trimmed");
            }
        });
        self.evict();
        // What came meanwhile may be more than `has_room` allows: nobody else would start it.
        if self.unflushed_bytes >= limits::UNFLUSHED_BYTES_MAX {
            self.start_flush();
        }
    }

    // ---- the end -------------------------------------------------------------------------------

    /// Takes no more mail, finishes what is there, and leaves nothing unflushed.
    async fn finish(
        &mut self,
        mail: &mut mpsc::Receiver<Mail>,
        release: bool,
    ) -> Result<(Term, Position), Error> {
        self.stats.stopping.store(true, Ordering::Relaxed);
        mail.close();
        let mut drained = false;
        let mut released = !release;
        loop {
            self.submit();
            if let Some(error) = self.failed.take() {
                let End::Failed(error) = self.fail(error) else { continue };
                return Err(error);
            }
            let idle = self.in_flight.is_none() && self.flushing.is_none();
            if drained && idle {
                if !released {
                    released = true;
                    self.building.push(Record::Release { node: self.context.node.clone() });
                    continue;
                }
                if self.unflushed.is_empty() {
                    return Ok((self.term, self.position));
                }
                self.start_flush();
                if self.flushing.is_none() {
                    return Err(Error::new(
                        Code::StorageUnavailable,
                        "the state store takes no writes now; what was acknowledged is in the log",
                    ));
                }
            }
            // Without a commit or a flush under way nothing else would make room.
            let has_room = self.has_room() || (self.in_flight.is_none() && self.flushing.is_none());
            tokio::select! {
                biased;
                result = committed(&mut self.in_flight), if self.in_flight.is_some() => {
                    self.on_committed(result);
                }
                result = flushed(&mut self.flushing), if self.flushing.is_some() => {
                    self.on_flushed(result);
                }
                next = mail.recv(), if has_room && !drained => match next {
                    Some(next) => self.take(next).await,
                    None => drained = true,
                },
            }
        }
    }

    /// Runs a guest's call while the commit in flight goes on.
    pub(super) async fn beside_commits<T>(&mut self, call: impl Future<Output = T>) -> T {
        tokio::pin!(call);
        loop {
            tokio::select! {
                biased;
                output = &mut call => return output,
                result = committed(&mut self.in_flight), if self.in_flight.is_some() => {
                    self.on_committed(result);
                }
            }
        }
    }
}

/// Looks at a future without waiting for it.
async fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx))).await
}

impl Drop for Task {
    fn drop(&mut self) {
        self.context.cached_bytes.fetch_sub(self.cache_bytes, Ordering::Relaxed);
    }
}

async fn committed(in_flight: &mut Option<InFlight>) -> Result<Position, LogError> {
    match in_flight {
        Some(in_flight) => (&mut in_flight.commit).await,
        None => std::future::pending().await,
    }
}

async fn flushed(flushing: &mut Option<Flushing>) -> Result<Flushed, StateError> {
    match flushing {
        Some(flushing) => (&mut flushing.handle)
            .await
            .unwrap_or_else(|e| Err(StateError::Unavailable(format!("the flush failed: {e}")))),
        None => std::future::pending().await,
    }
}

/// Replays the log's tail, up to the claim, into the state store.
async fn catch_up(
    slot: SlotId,
    context: &SlotContext,
    claimed: Position,
) -> Result<SlotMeta, Error> {
    let mut meta = context.store.slot(slot).map_err(store_error)?;
    while meta.applied < claimed {
        let tail = context.log.read(slot, meta.applied, limits::REPLAY_BYTES_MAX).await;
        let tail = tail.map_err(|e| commit_error(&e))?;
        if tail.is_empty() {
            return Err(Error::internal(format!(
                "the log of slot {slot} ends at {} before its claim at {claimed}",
                meta.applied
            )));
        }
        let mut changes = Changes::default();
        for logged in tail {
            let batch = Batch::decode(&logged.batch).map_err(|e| commit_error(&e))?;
            changes.fold(&mut meta, logged.position, batch);
        }
        let (store, applied) = (context.store.clone(), meta.clone());
        tokio::task::spawn_blocking(move || store.apply(slot, changes, &applied))
            .await
            .map_err(|e| Error::internal(format!("the replay failed: {e}")))?
            .map_err(store_error)?;
    }
    Ok(meta)
}

pub(super) fn store_error(error: StateError) -> Error {
    match error {
        StateError::Unavailable(why) => {
            Error::new(Code::StorageUnavailable, format!("the state store failed: {why}"))
        }
        StateError::Corrupt(why) => Error::internal(format!("the state store is damaged: {why}")),
    }
}

/// A batch's attempt id: unique, not secret.
fn rand_u128() -> u128 {
    use std::hash::{BuildHasher, RandomState};
    use std::sync::{LazyLock, atomic::AtomicU64};
    static NODE: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0));
    static NEXT: AtomicU64 = AtomicU64::new(0);
    (u128::from(*NODE) << 64) | u128::from(NEXT.fetch_add(1, Ordering::Relaxed))
}
