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
        Claim, Last, LogError, Position, Term,
        record::{Activate, Batch, Record},
    },
    names::{ServiceName, SessionKey, SlotId},
    plugin::Signal,
    slot::{
        Activation, Ended, LastUse, Mail, Order, Ownership, Reply, SlotContext, SlotStats,
        batch::{Building, commit_error},
        commits::{InFlight, committed},
        flush::{CatchUp, Flushing, catch_up_alone, flushed, snapshotted, store_error},
        long::LongCalls,
        relaxed_store,
        session::Session,
        subscribers::Subscribers,
    },
    state::SlotMeta,
    telemetry::{metrics, repeats, services},
};
use futures_util::FutureExt;
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

/// Why the loop ended.
pub(super) enum End {
    Stop { release: bool, reply: Option<Reply<(Term, Position)>> },
    Failed(Error),
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
    /// For whether mail waits; `None`: it has none.
    pub(super) mailbox: Option<mpsc::WeakSender<Mail>>,
    /// Of the call that runs.
    pub(super) signal: Arc<Signal>,
    pub(super) long: LongCalls,
    last_use: LastUse,
    pub(super) last_commit: Instant,
    pub(super) failed: Option<Error>,
}

/// What a task needs to open its slot.
pub(super) struct Open {
    pub slot: SlotId,
    pub ownership: Ownership,
    pub context: Arc<SlotContext>,
    /// Where the owner before has released it.
    pub last: Option<Last>,
    /// Is told when the slot is open, or why it can't be.
    pub told: Option<Reply<Term>>,
}

/// Opens the slot, serves it and ends; mail that can't be served is answered with the reason.
pub(super) async fn run(
    open: Open,
    mut mail: mpsc::Receiver<Mail>,
    mut orders: mpsc::Receiver<Order>,
    stats: Arc<SlotStats>,
    mailbox: mpsc::WeakSender<Mail>,
) {
    let (slot, context, asked) = (open.slot, open.context.clone(), open.told.is_some());
    let mut opened = open_while_wanted(open, stats.clone()).await;
    if let Ok(task) = &mut opened {
        task.mailbox = Some(mailbox);
    }
    let was_open = opened.is_ok();
    let error = match opened {
        Ok(mut task) => match task.serve(&mut mail, &mut orders).await {
            End::Stop { release, mut reply } => {
                match task.finish(&mut mail, release, &mut reply).await {
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
                }
            }
            End::Failed(error) => error,
        },
        Err(error) => error,
    };
    metrics().slot_failures.increment(1);
    if repeats::admit("slots stopped", error.code.as_str()) {
        tracing::warn!(slot, %error, "slot stopped");
    }
    orders.close();
    mail.close();
    let readable = !was_open && has_whole_copy(slot, &context, &error).await;
    while let Some(mail) = mail.recv().await {
        match readable && mail.is_read() {
            true => read_copy(slot, context.clone(), mail).await,
            false => mail.refuse(error.clone()),
        }
    }
    // Whoever asked for a slot that could not be opened has been told.
    if let Some(cluster) = context.cluster.as_ref().filter(|_| was_open || !asked) {
        let _ = cluster.ended.send(Ended { slot, error });
    }
}

/// Whether reads can be answered although the slot can't be opened, for want of room to write the
/// claim: nobody else writes to a slot of a node that stands alone, and the store has all of it.
async fn has_whole_copy(slot: SlotId, context: &SlotContext, error: &Error) -> bool {
    if context.cluster.is_some() || error.code != Code::StorageUnavailable {
        return false;
    }
    let Ok(meta) = context.store.slot(slot) else { return false };
    let tail = context.log.read(slot, meta.applied, limits::CATCH_UP_BYTES_MAX).await;
    tail.is_ok_and(|tail| {
        tail.iter().all(|logged| {
            Batch::decode(&logged.batch).is_ok_and(|batch| {
                batch.records.iter().all(|record| matches!(record, Record::Claim { .. }))
            })
        })
    })
}

/// Takes one mail, a read, without having the slot: from what the store has.
pub async fn read_copy(slot: SlotId, context: Arc<SlotContext>, mail: Mail) {
    let meta = match context.store.slot(slot) {
        Ok(meta) => meta,
        Err(error) => return mail.refuse(store_error(error)),
    };
    // Its own, which nobody waits for: nothing is written.
    let owner = Arc::new(Ownership::default().lock().await);
    let claim = Claim { term: meta.term, position: meta.applied };
    let mut task = Task::new(slot, context, Arc::default(), owner, claim, meta);
    task.take(mail).await;
}

/// Opens the slot, and says so. When nobody waits for that any more, nobody would ever know of the
/// task, which would keep its successors out.
async fn open_while_wanted(open: Open, stats: Arc<SlotStats>) -> Result<Task, Error> {
    let Open { slot, ownership, context, last, told } = open;
    let open = async {
        let owner = Arc::new(ownership.lock().await);
        Task::open(slot, context, stats, owner, last).await
    };
    let Some(mut told) = told else { return open.await };
    let given_up = || Error::new(Code::Unavailable, "the slot was not wanted any more");
    let opened = tokio::select! {
        biased;
        () = told.closed() => return Err(given_up()),
        opened = open => opened,
    };
    let term = opened.as_ref().map(|task| task.term).map_err(Clone::clone);
    if told.send(term).is_err() && opened.is_ok() {
        return Err(given_up());
    }
    opened
}

impl Task {
    /// Claims the slot and brings the state store up to the claim. Where the owner before has said
    /// what it wrote last, what came before the claim is read while the claim is on its way.
    async fn open(
        slot: SlotId,
        context: Arc<SlotContext>,
        stats: Arc<SlotStats>,
        owner: Arc<OwnedMutexGuard<()>>,
        last: Option<Last>,
    ) -> Result<Self, Error> {
        let claim = match last {
            Some(last) => context.log.claim_after(slot, &context.node, last),
            None => {
                let claim = context.log.claim(slot, &context.node);
                async move { Ok((claim.await?, false)) }.boxed()
            }
        };
        let claim = tokio::time::timeout(context.options.patience, claim);
        let behind = async {
            match last {
                Some(last) => {
                    let until = CatchUp::To(last.position);
                    catch_up_alone(slot, context.clone(), until, owner.clone()).await.ok()
                }
                None => None,
            }
        };
        let (claim, caught_up) = tokio::join!(claim, behind);
        let claim = claim.unwrap_or_else(|_| Err(LogError::Undecided("no answer".into())));
        let (claim, follows) = claim.map_err(|e| match e {
            LogError::Undecided(why) | LogError::Unavailable(why) => {
                Error::new(Code::StorageUnavailable, format!("the slot can't be claimed: {why}"))
            }
            other => commit_error(&other),
        })?;
        let at = last.map(|last| last.position);
        let caught_up = caught_up.filter(|meta| follows && Some(meta.applied) == at);
        let (meta, unflushed) = match caught_up {
            // All that is missing is the claim itself, which is in nobody's way.
            Some(meta) => {
                let records = vec![Record::Claim { node: context.node.clone() }];
                let batch = Batch { slot, term: claim.term, attempt: 0, records };
                (meta, vec![(claim.position, batch)])
            }
            None => {
                let until = CatchUp::To(claim.position);
                (catch_up_alone(slot, context.clone(), until, owner.clone()).await?, Vec::new())
            }
        };
        // All of it is in the store: a slot that is only read must not pin the node's log.
        if context.cluster.is_none()
            && let Err(error) = context.log.trim(slot, meta.applied).await
            && repeats::admit("logs were not trimmed", "slots")
        {
            tracing::warn!(slot, %error, "the log was not trimmed");
        }
        relaxed_store(&stats.term, claim.term);
        relaxed_store(&stats.position, claim.position);
        relaxed_store(&stats.applied, meta.applied);
        relaxed_store(&stats.sessions, meta.sessions);
        stats.show_active(&context.catalogue, &meta.active);
        metrics().slot_starts.increment(1);
        tracing::debug!(slot, term = claim.term, position = claim.position, "slot opened");
        let mut task = Self::new(slot, context, stats, owner, claim, meta);
        task.unflushed = unflushed;
        task.stats.dirty.store(!task.unflushed.is_empty(), Ordering::Relaxed);
        if task.context.cluster.is_some() {
            task.go_over_to_current();
        }
        task.stats.serving.store(true, Ordering::Release);
        Ok(task)
    }

    fn new(
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
            last_flush: Instant::now(),
            // What earlier owners wrote since their last snapshot is not known. A guess, so that
            // slots that open together do not all make one at once.
            log_bytes: rand::random_range(0..limits::SNAPSHOT_LOG_BYTES),
            snapshotting: None,
            trim_after: None,
            services: services::Known::default(),
            subscribers: Subscribers::default(),
            mailbox: None,
            signal: Arc::default(),
            long: LongCalls::default(),
            last_use: LastUse::now(),
            last_commit: Instant::now(),
            failed: None,
        }
    }

    /// Another node may have had the slot while its service was swapped, or in the middle of it.
    fn go_over_to_current(&mut self) {
        for service in self.context.catalogue.all() {
            let current = self.active.get(&service.name);
            let is_behind = current.is_none_or(|active| active.generation < service.generation);
            // Sessions of a removed service of the same name are deleted first.
            let waits =
                !service.is_removed() && self.check_purged(&service.name, service.since).is_err();
            // A slot that never ran the service has nothing to stop.
            let is_new = current.is_none() && service.is_removed();
            if is_behind && !waits && !is_new {
                let record = service.activate();
                self.active.insert(service.name.clone(), record.clone());
                self.building.push(Record::Activate(record));
            }
        }
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
                    Some(Order::Activate { activation, reply }) => {
                        self.stats.taken();
                        self.activate(activation, reply);
                    }
                    Some(Order::Flush) => self.start_flush(),
                    Some(Order::StopIfIdle { idle }) => {
                        self.check_patience();
                        if self.is_idle(idle) && mail.is_empty() {
                            if self.context.cluster.is_none() {
                                return End::Stop { release: false, reply: None };
                            }
                            self.rest();
                        }
                    }
                    Some(Order::Prove) => {
                        if !self.subscribers.is_empty()
                            && self.last_commit.elapsed() >= limits::PROVE_INTERVAL
                        {
                            self.building.barrier = true;
                        }
                    }
                    Some(Order::Abandon { term }) => {
                        self.stats.taken();
                        if term > self.term {
                            self.give_up(Error::new(Code::Fenced, "the slot has another owner now"));
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
                taken = snapshotted(&mut self.snapshotting), if self.snapshotting.is_some() => {
                    self.on_snapshot(taken);
                }
                first = mail.recv(), if has_room => match first {
                    Some(first) => self.take_ready(first, mail).await,
                    None => return End::Stop { release: false, reply: None },
                },
            }
        }
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

    /// Takes one mail and what else is there, but not for ever: orders and commits come first.
    async fn take_ready(&mut self, first: Mail, mail: &mut mpsc::Receiver<Mail>) {
        self.take(first).await;
        for _ in 1..limits::MAIL_PER_TURN_MAX {
            // Where calls tend to be long, neither an order nor what is decided must wait for several.
            if self.failed.is_some() || !self.has_room() || self.long.are_likely() {
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
            && held < limits::HELD_ANSWERS_MAX
            && (!self.is_behind() || !self.context.store.is_writable())
    }

    /// More waits for the state store than should.
    fn is_behind(&self) -> bool {
        self.unflushed_bytes >= limits::BEHIND_BYTES_MAX
    }

    async fn take(&mut self, mail: Mail) {
        if mail.is_abandoned() {
            return;
        }
        self.last_use.touch();
        let taken = self.context.mail_taken.fetch_add(1, Ordering::Relaxed);
        relaxed_store(&self.stats.last_mail, taken);
        let writes = matches!(
            mail,
            Mail::Message { .. } | Mail::Delete { .. } | Mail::Operate { .. } | Mail::Reset { .. }
        );
        if writes && self.is_behind() && !self.context.store.is_writable() {
            // Nothing makes room as long as the store takes nothing; reads go on.
            return mail.refuse(Error::new(
                Code::StorageUnavailable,
                "this node's state store takes no writes now, and too much waits for it already",
            ));
        }
        if let Some(error) = self.removed(&mail) {
            return mail.refuse(error);
        }
        match mail {
            Mail::Message { key, message, reply } => self.message(key, message, reply).await,
            Mail::Query { key, content_type, body, consistency, reply } => {
                self.query(key, content_type, body, consistency, reply).await;
            }
            Mail::Delete { key, reply } => self.delete(&key, reply),
            Mail::History { key, range, reader, consistency, reply } => {
                self.history(&key, range, reader, consistency, reply);
            }
            Mail::Session { key, consistency, reply } => self.describe(&key, consistency, reply),
            Mail::Sessions { service, prefix, after, limit, pinned, reply } => {
                self.list(&service, &prefix, after.as_ref(), limit, pinned, reply);
            }
            Mail::Subscribe { key, after, reply } => self.subscribe(&key, after, reply),
            Mail::State { key, range, reply } => self.state(&key, range, reply),
            Mail::Operate { key, operation, reply } => self.operate(&key, operation, reply),
            Mail::Reset { reply } => self.reset(reply),
            Mail::Purge { service, since, reply } => self.purge(&service, since, reply),
        }
    }

    // ---- orders --------------------------------------------------------------------------------

    /// Goes over to a deployment. Between two messages by construction.
    fn activate(&mut self, Activation { record }: Activation, reply: Reply<Duration>) {
        let started = Instant::now();
        let current = self.active.get(&record.service);
        if current.is_some_and(|current| current.generation >= record.generation) {
            return self.hold_for_all(reply, Ok(Duration::ZERO));
        }
        // Sessions of a removed service of the same name are deleted first.
        let since = self.since(&record.service);
        if let Err(error) = self.check_purged(&record.service, since) {
            let _ = reply.send(Err(error));
            return;
        }
        self.active.insert(record.service.clone(), record.clone());
        self.building.push(Record::Activate(record));
        self.building.hold(reply, Ok(started.elapsed()));
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

    // ---- the end -------------------------------------------------------------------------------

    /// Takes no more mail, finishes what is there, and leaves nothing unflushed.
    async fn finish(
        &mut self,
        mail: &mut mpsc::Receiver<Mail>,
        release: bool,
        reply: &mut Option<Reply<(Term, Position)>>,
    ) -> Result<(Term, Position), Error> {
        self.stats.stopping.store(true, Ordering::Relaxed);
        // Whoever waits for the slot waits for its calls too.
        self.stats.asked();
        mail.close();
        let asked = self.stats.asked_since().unwrap_or_else(Instant::now);
        let until = asked + self.context.plugins.deadline().max(limits::STOP_DRAIN);
        let mut drained = false;
        let mut released = !release;
        loop {
            // In one batch with what came last, also behind a commit in flight: the next owner waits
            // for it.
            if drained && !released {
                released = true;
                self.building.push(Record::Release { node: self.context.node.clone() });
            }
            self.submit();
            if let Some(error) = self.failed.take() {
                let End::Failed(error) = self.fail(error) else { continue };
                return Err(error);
            }
            let committed_all = self.in_flight.is_none() && !self.building.is_due();
            if drained && committed_all {
                // The next owner need not wait for what this node writes for itself.
                if release && let Some(reply) = reply.take() {
                    let _ = reply.send(Ok((self.term, self.position)));
                }
            }
            if drained && committed_all && self.flushing.is_none() {
                if self.unflushed.is_empty() {
                    return Ok((self.term, self.position));
                }
                self.start_flush();
                // In a cluster the store is a copy: whoever opens the slot next has the log.
                if self.flushing.is_none() && self.context.cluster.is_some() {
                    return Ok((self.term, self.position));
                }
                if self.flushing.is_none() {
                    return Err(Error::new(
                        Code::StorageUnavailable,
                        "the state store takes no writes now; what was acknowledged is in the log",
                    ));
                }
            }
            let since = self.in_flight.as_ref().map_or_else(Instant::now, |commit| commit.started);
            let impatient = since + self.context.options.patience;
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
                // Nobody looks after a slot that ends as the house does after one that serves.
                () = tokio::time::sleep_until(impatient.into()), if self.in_flight.is_some() => {
                    self.check_patience();
                }
                next = mail.recv(), if has_room && !drained => match next {
                    Some(next) if next.takes_time() && Instant::now() >= until => {
                        next.refuse(Error::new(
                            Code::Unavailable,
                            "the slot moves or stops, and there was no time left for what waited; \
                             nothing was kept",
                        ));
                    }
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
