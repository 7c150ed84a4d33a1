//! The slot's task: the single writer of its sessions.
//!
//! A message is applied where it comes in if nobody works on the slot just then (see [`shared`](super::shared));
//! the task looks after orders, commits, flushes and what waits, in that order. A message changes the
//! cached session at once and goes into the batch that fills; the batch is appended when none is in
//! flight. Answers leave when their batch is durable. When a commit fails, everything
//! in memory is dropped and the next task opens the slot again from the log: failure, fencing and
//! restart are one path.

use crate::{
    error::{Cause, Error, StateError},
    limits,
    log::{
        Claim, Position, Term,
        record::{Activate, Batch, Record},
    },
    names::{ServiceName, SessionKey, SlotId},
    plugin::Signal,
    random,
    service::{Target, catalogue::REMOVED},
    slot::{
        Activation, LastUse, Loaded, Mail, Order, Reply, SlotContext, SlotStats,
        batch::Building,
        commits::{InFlight, decided},
        flush::{Flushed, Flushing},
        long::LongCalls,
        relaxed_store,
        session::Session,
        shared::{Decided, Shared, Turn},
        subscribers::Subscribers,
    },
    state::SlotMeta,
    telemetry::services,
};
use futures_util::FutureExt as _;
use std::{
    collections::{BTreeMap, HashMap},
    future::poll_fn,
    panic::resume_unwind,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::{
    sync::{OwnedMutexGuard, mpsc},
    task::JoinHandle,
};

/// Why the loop ended.
pub(super) enum End {
    Stop { release: bool, reply: Option<Reply<(Term, Position)>> },
    Failed(Error),
}

/// What the slot's task does next.
enum Next {
    Failed,
    Order(Option<Order>),
    Decided(Decided),
    Flushed(Result<Flushed, StateError>),
    Snapshot(Result<Position, String>),
    Mail,
}

pub(super) struct Task {
    pub(super) slot: SlotId,
    pub(super) context: Arc<SlotContext>,
    /// Also held by a flush that runs: the next task opens the slot when both have ended.
    pub(super) owner: Arc<OwnedMutexGuard<()>>,
    pub(super) stats: Arc<SlotStats>,
    pub(super) term: Term,
    pub(super) position: Position,
    /// What the state store has.
    pub(super) meta: SlotMeta,
    /// What the slot runs, uncommitted activations included.
    pub(super) active: BTreeMap<ServiceName, Activate>,
    pub(super) next_session: u64,
    pub(super) live_sessions: u64,
    /// Sessions of which parts were imported, until when they are kept from clients.
    pub(super) held_back: HashMap<SessionKey, Instant>,
    /// Names whose deletion the store does not know yet, each with the batch that it is in.
    pub(super) deleted: HashMap<[u8; 8], u64>,
    pub(super) cache: HashMap<SessionKey, Box<Session>>,
    pub(super) cache_bytes: usize,
    /// Counts uses of sessions, for eviction.
    pub(super) uses: u64,
    pub(super) building: Building,
    pub(super) in_flight: Option<InFlight>,
    /// The last batch that is durable.
    pub(super) committed_batch: u64,
    /// Durable batches that the state store does not have.
    pub(super) unflushed: Vec<(Position, Batch)>,
    pub(super) unflushed_bytes: usize,
    pub(super) flushed_batch: u64,
    pub(super) flushing: Option<Flushing>,
    pub(super) last_flush: Instant,
    /// What went into the log since the last snapshot was begun.
    pub(super) log_bytes: usize,
    pub(super) snapshotting: Option<JoinHandle<Result<Position, String>>>,
    /// A snapshot reaches to this position; trim once this batch is durable.
    pub(super) trim_after: Option<(Position, u64)>,
    /// Where the slot counts what it does for each service.
    pub(super) services: services::Known,
    pub(super) subscribers: Subscribers,
    /// Where this is kept while nobody works on it; `None`: nobody else ever does.
    pub(super) shared: Option<Arc<Shared>>,
    /// Something was begun that the slot's task has to look after.
    pub(super) attention: bool,
    /// Of the call that runs.
    pub(super) signal: Arc<Signal>,
    pub(super) long: LongCalls,
    last_use: LastUse,
    pub(super) last_commit: Instant,
    pub(super) failed: Option<Error>,
}

impl Task {
    pub(super) fn new(
        slot: SlotId,
        context: Arc<SlotContext>,
        stats: Arc<SlotStats>,
        owner: Arc<OwnedMutexGuard<()>>,
        claim: Claim,
        meta: SlotMeta,
    ) -> Self {
        Self {
            slot,
            owner,
            stats,
            term: claim.term,
            position: claim.position,
            active: meta.active.clone(),
            // 0 is never given: a default head must not look like a session's.
            next_session: meta.next_session.max(1),
            live_sessions: meta.sessions,
            held_back: HashMap::new(),
            deleted: HashMap::new(),
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
            last_flush: crate::clock::now(),
            // What earlier owners wrote since their last snapshot is not known. A guess, so that
            // slots that open together do not all make one at once.
            log_bytes: random::below(limits::SNAPSHOT_LOG_BYTES),
            snapshotting: None,
            trim_after: None,
            services: services::Known::default(),
            subscribers: Subscribers::default(),
            shared: None,
            attention: false,
            signal: Arc::default(),
            long: LongCalls::default(),
            last_use: LastUse::now(),
            last_commit: crate::clock::now(),
            failed: None,
        }
    }

    /// Whether mail can be taken where it comes in. Calls that tend to be long belong to the slot's task.
    pub(super) fn may_take_at_once(&mut self) -> bool {
        self.failed.is_none() && self.has_room() && !self.long.are_likely()
    }

    /// Whether there is something that only the slot's task does.
    pub(super) fn needs_its_task(&self) -> bool {
        self.failed.is_some() || self.attention
    }

    /// What there is to do, most urgent first. Asks to be woken when there is something.
    fn next(
        &mut self,
        has_mail: bool,
        orders: &mut mpsc::Receiver<Order>,
        cx: &mut Context<'_>,
    ) -> Option<Next> {
        self.attention = false;
        if self.failed.is_some() {
            return Some(Next::Failed);
        }
        if let Poll::Ready(order) = orders.poll_recv(cx) {
            return Some(Next::Order(order));
        }
        if let Some(Poll::Ready(decided)) = self.in_flight.as_mut().map(|it| it.poll(cx)) {
            return Some(Next::Decided(decided));
        }
        if let Some(Poll::Ready(result)) = self.flushing.as_mut().map(|it| it.poll(cx)) {
            return Some(Next::Flushed(result));
        }
        if let Some(Poll::Ready(taken)) = self.snapshotting.as_mut().map(|it| it.poll_unpin(cx)) {
            return Some(Next::Snapshot(taken.unwrap_or_else(|e| Err(e.to_string()))));
        }
        (has_mail && self.has_room()).then_some(Next::Mail)
    }

    /// Serves until the slot has to end.
    pub(super) async fn serve(
        self: Box<Self>,
        shared: &Arc<Shared>,
        orders: &mut mpsc::Receiver<Order>,
    ) -> (Box<Self>, End) {
        shared.give_back(self);
        loop {
            let mut next = None;
            let turn = shared.turn(|task, has_mail, cx| {
                next = task.next(has_mail, orders, cx);
                next.is_some()
            });
            let mut task = match turn.await {
                Turn::Free(task) => task,
                Turn::Begun(begun) => begun.await,
                Turn::Panicked => resume_unwind(Box::new("handling a message panicked")),
            };
            if let Some(next) = next
                && let Some(end) = task.go_on(next, shared).await
            {
                return (task, end);
            }
            shared.give_back(task);
            // What follows may always be ready.
            tokio::task::consume_budget().await;
        }
    }

    async fn go_on(&mut self, next: Next, shared: &Shared) -> Option<End> {
        match next {
            Next::Failed => {
                let error = self.failed.take()?;
                return Some(self.fail(error));
            }
            Next::Decided(decided) => self.on_committed(decided),
            Next::Flushed(result) => self.on_flushed(result),
            Next::Snapshot(taken) => self.on_snapshot(taken),
            Next::Mail => self.take_ready(shared).await,
            Next::Order(Some(order)) => return self.order(order, shared),
            // The node is gone.
            Next::Order(None) => return Some(End::Stop { release: false, reply: None }),
        }
        None
    }

    fn order(&mut self, order: Order, shared: &Shared) -> Option<End> {
        match order {
            Order::Activate { activation, reply } => {
                self.stats.taken();
                self.activate(activation, reply);
            }
            Order::Flush => self.start_flush(),
            Order::StopIfIdle { idle } => {
                self.check_patience();
                if self.is_idle(idle) && shared.mailbox_depth() == 0 {
                    if self.context.cluster.is_none() {
                        return Some(End::Stop { release: false, reply: None });
                    }
                    self.rest();
                }
            }
            Order::Prove => {
                if !self.subscribers.is_empty()
                    && self.last_commit.elapsed() >= limits::PROVE_INTERVAL
                {
                    self.building.barrier = true;
                }
            }
            Order::Abandon { term } => {
                self.stats.taken();
                if term > self.term {
                    self.give_up(Error::of(Cause::NotOwner, "the slot has another owner now"));
                }
            }
            Order::Stop { release, loaded, reply } => {
                if let Some(error) = loaded.and_then(|loaded| self.not_loaded(&loaded)) {
                    self.stats.taken();
                    let _ = reply.send(Err(error));
                    return None;
                }
                return Some(End::Stop { release, reply: Some(reply) });
            }
        }
        None
    }

    /// Gives back what an idle slot has no use for.
    fn rest(&mut self) {
        self.long.forget_old();
        if !self.cache.is_empty() {
            self.forget_clean();
            relaxed_store(&self.stats.cached, self.cache.len() as u64);
            relaxed_store(&self.stats.cache_bytes, self.cache_bytes as u64);
        }
    }

    /// Takes what waits, but not for ever: orders and commits come first.
    async fn take_ready(&mut self, shared: &Shared) {
        for _ in 0..limits::MAIL_PER_TURN_MAX {
            let Some(next) = shared.next_mail() else { return };
            self.take(next).await;
            // Where calls tend to be long, neither an order nor what is decided must wait for several.
            if self.failed.is_some() || !self.has_room() || self.long.are_likely() {
                return;
            }
            if self.in_flight.is_some()
                && let Poll::Ready(decided) =
                    poll_once(decided(&mut self.in_flight, &self.shared)).await
            {
                self.on_committed(decided);
            }
        }
    }

    pub(super) fn has_room(&self) -> bool {
        // A flush that can't keep up with the commits holds new mail back.
        let held = self.in_flight.as_ref().map_or(0, |in_flight| in_flight.gate.len());
        self.building.has_room()
            && held < limits::HELD_ANSWERS_MAX
            && (!self.is_behind() || !self.context.store.is_writable())
    }

    /// More waits for the state store than should.
    fn is_behind(&self) -> bool {
        self.unflushed_bytes >= limits::BEHIND_BYTES_MAX
    }

    /// Whether mail that has come to the state is to be served.
    ///
    /// # Errors
    /// Why it is refused; `None`: its asker has gone.
    pub(super) fn admit(&mut self, mail: &Mail) -> Result<(), Option<Error>> {
        if mail.is_abandoned() {
            return Err(None);
        }
        self.last_use.touch();
        let taken = self.context.mail_taken.fetch_add(1, Ordering::Relaxed);
        relaxed_store(&self.stats.last_mail, taken);
        if mail.writes() && self.is_behind() && !self.context.store.is_writable() {
            // Nothing makes room as long as the store takes nothing; reads go on.
            return Err(Some(Error::of(
                Cause::Storage,
                "this node's state store refuses writes, and too much is already waiting for it",
            )));
        }
        self.removed(mail).map_or(Ok(()), |error| Err(Some(error)))
    }

    // ---- orders --------------------------------------------------------------------------------

    /// Goes over to a deployment. Between two messages by construction.
    fn activate(&mut self, Activation { target }: Activation, reply: Reply<Duration>) {
        let started = crate::clock::now();
        let current = self.active.get(target.service()).map(|active| active.generation);
        if !target.is_ahead_of(current) {
            return self.hold_for_all(reply, Ok(Duration::ZERO));
        }
        // Sessions of a removed service of the same name are deleted first.
        let since = self.since(target.service());
        if let Err(error) = self.check_purged(target.service(), since) {
            let _ = reply.send(Err(error));
            return;
        }
        self.switch_to(&target);
        self.building.hold(reply, Ok(started.elapsed()));
    }

    /// Runs `target` from here on, as the batch that fills says.
    pub(super) fn switch_to(&mut self, target: &Target) -> Activate {
        let record = target.record();
        self.active.insert(record.service.clone(), record.clone());
        self.building.push(Record::Activate(record.clone()));
        record
    }

    /// Why a node that has `loaded` so much can't run the slot yet, if it can't.
    fn not_loaded(&self, loaded: &Loaded) -> Option<Error> {
        let is_ahead = |active: &&Activate| {
            loaded.get(&active.service).is_none_or(|&generation| generation < active.generation)
        };
        let mut running = self.active.values().filter(|active| active.deployment != REMOVED);
        let ahead = running.find(is_ahead)?;
        Some(Error::of(
            Cause::NotLoaded,
            format!(
                "slot {} runs generation {} of {}, which its next owner has not loaded yet",
                self.slot, ahead.generation, ahead.service
            ),
        ))
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
}

/// Looks at a future without waiting for it.
async fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

impl Drop for Task {
    fn drop(&mut self) {
        self.context.cached_bytes.fetch_sub(self.cache_bytes, Ordering::Relaxed);
    }
}
