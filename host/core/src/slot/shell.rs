//! The shell of a slot's [`Core`]: the single writer of its sessions, and the slot's task.
//!
//! A message is applied where it comes in if nobody works on the slot just then (see [`shared`](super::shared));
//! the task looks after orders, commits, flushes and what waits, in that order. What any of it leads to is the
//! core's decision: the shell reports what has happened ([`Shell::on`]) and does what follows. When a commit
//! fails, everything in memory is dropped and the next task opens the slot again from the log: failure,
//! fencing and restart are one path.

use crate::{
    error::{Cause, Error, StateError},
    limits,
    loads::Admitted,
    log::{
        Claim, Position,
        record::{Activate, Batch, Record},
    },
    names::{ServiceName, SessionKey, SlotId},
    plugin::Signal,
    random,
    service::Target,
    slot::{
        Activation, Mail, Order, Reply, SlotContext, SlotStats,
        answers::{self, Held},
        commits::{Commit, decided},
        core::{Core, Effect, Event, Options},
        finish::StopReply,
        flush::{Flushed, Flushing, Snapshotted, Snapshotting},
        long::LongCalls,
        outbox::{Sending, Sent},
        relaxed_store,
        request::{Requested, Requesting},
        session::Session,
        shared::{Decided, Shared, Turn},
        subscribers::Subscribers,
    },
    state::{SlotMeta, hash::Map},
    telemetry::services,
    usage::Tally,
};
use std::{
    collections::HashMap,
    future::poll_fn,
    panic::resume_unwind,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::{
    sync::{OwnedMutexGuard, mpsc},
    task::JoinSet,
};

/// Why the loop ended.
pub(super) enum Served {
    /// The slot is stopping.
    Stop,
    Failed(Error),
}

/// What the slot's task does next.
enum Next {
    Failed,
    Order(Option<Order>),
    Decided(Decided),
    Flushed(Result<Flushed, StateError>),
    Snapshot(Result<Snapshotted, String>),
    Mail,
    Sent(Sent),
    Outbox,
    Requested(Requested),
    Due,
}

pub(super) struct Shell {
    pub(super) slot: SlotId,
    pub(super) context: Arc<SlotContext>,
    /// Also held by a flush that runs: the next task opens the slot when both have ended.
    pub(super) lock: Arc<OwnedMutexGuard<()>>,
    pub(super) stats: Arc<SlotStats>,
    pub(super) core: Core<Held, StopReply>,
    /// What the state store has.
    pub(super) meta: SlotMeta,
    /// Sessions of which parts were imported, until when they are kept from clients.
    pub(super) held_back: HashMap<SessionKey, Instant>,
    /// Names whose deletion the store does not know yet, each with the batch that it is in.
    pub(super) deleted: HashMap<[u8; 8], u64>,
    pub(super) cache: Map<SessionKey, Box<Session>>,
    pub(super) cache_bytes: usize,
    /// Counts uses of sessions, for eviction.
    pub(super) uses: u64,
    pub(super) commit: Commit,
    pub(super) flushing: Option<Flushing>,
    pub(super) snapshotting: Option<Snapshotting>,
    /// The next snapshot is to need nothing from before this term: in which round.
    pub(super) anew_wanted: Option<u64>,
    /// The last one that does, with its round: it is not known yet whether all that is older is gone.
    pub(super) anew: Option<(u64, Position)>,
    /// Trimming and collecting behind a snapshot: one of each for a snapshot.
    pub(super) chores: JoinSet<()>,
    /// Where the slot counts what it does for each service.
    pub(super) services: services::Known,
    /// What was used and is not counted yet.
    pub(super) used: Tally,
    pub(super) subscribers: Subscribers,
    /// Where this is kept while nobody works on it; `None`: nobody else ever does.
    pub(super) shared: Option<Arc<Shared>>,
    /// Something was begun that the slot's task has to look after.
    pub(super) attention: bool,
    /// Something is due that could not be carried out when the task looked.
    pub(super) due_waits: bool,
    /// The slot has ended, and the store has all of it.
    pub(super) ended_in_order: bool,
    /// When the node is to wake the slot, as it was told last.
    pub(super) registered: Option<u64>,
    /// Services of which something due waits for others on a busy node, and how often it was put off.
    pub(super) put_off: HashMap<ServiceName, u32>,
    /// What is worked on, until it leaves this thread.
    pub(super) admitted: Admitted,
    /// Of the call that runs.
    pub(super) signal: Arc<Signal>,
    pub(super) long: LongCalls,
    /// What the calls for the mail at hand have used.
    pub(super) guest_time: Duration,
    /// The last message that was sent to another session in this term, from 1.
    pub(super) sent: u64,
    pub(super) sending: Sending,
    pub(super) requesting: Requesting,
    /// Since when what comes of requests is handled before all else.
    pub(super) requested_since: Option<Instant>,
    /// Since when sessions are without a subscriber whose handler thinks that they have one, by number.
    pub(super) absent_since: HashMap<u64, Instant>,
}

impl Shell {
    pub(super) fn new(
        slot: SlotId,
        context: Arc<SlotContext>,
        stats: Arc<SlotStats>,
        lock: Arc<OwnedMutexGuard<()>>,
        claim: Claim,
        meta: SlotMeta,
        unflushed: Vec<(Position, Batch)>,
    ) -> Self {
        let options = Options {
            cluster: context.cluster.is_some(),
            engine_timeout: context.options.engine_timeout,
            // What earlier owners wrote since their last snapshot is not known. A guess, so that
            // slots that open together do not all make one at once.
            log_bytes: random::below(limits::SNAPSHOT_LOG_BYTES),
        };
        Self {
            slot,
            lock,
            stats,
            core: Core::new(slot, claim, &meta, unflushed, options, crate::clock::now()),
            held_back: HashMap::new(),
            deleted: HashMap::new(),
            meta,
            cache: Map::default(),
            cache_bytes: 0,
            uses: 0,
            commit: None,
            flushing: None,
            snapshotting: None,
            anew_wanted: None,
            anew: None,
            chores: JoinSet::new(),
            services: services::Known::default(),
            used: Tally::default(),
            subscribers: Subscribers::new(context.loads.clone()),
            context,
            shared: None,
            attention: false,
            due_waits: false,
            ended_in_order: false,
            registered: None,
            put_off: HashMap::new(),
            admitted: Admitted::default(),
            signal: Arc::default(),
            long: LongCalls::default(),
            guest_time: Duration::ZERO,
            sent: 0,
            sending: Sending::default(),
            requesting: Requesting::default(),
            requested_since: None,
            absent_since: HashMap::new(),
        }
    }

    /// Reports an event to the core, and does what follows.
    pub(super) fn on(&mut self, event: Event<StopReply>) {
        match self.core.on(event, crate::clock::now()) {
            // That the slot stops is seen by who reported it.
            Effect::Nothing | Effect::Close => {}
            Effect::Durable(durable) => self.on_durable(durable),
            Effect::Refuse(held, error) => answers::refuse(held, &error),
            Effect::Stored(stored) => self.on_stored(stored),
            Effect::Rest => self.rest(),
            Effect::Refused(asked, error) => {
                self.stats.taken();
                let _ = asked.send(Err(error));
            }
        }
    }

    pub(super) fn takes_mail(&self) -> bool {
        self.core.takes_mail(|| self.context.store.is_writable())
    }

    /// Whether mail can be taken where it comes in. Calls that tend to be long belong to the slot's task.
    pub(super) fn may_take_at_once(&mut self) -> bool {
        self.takes_mail() && !self.long.are_likely()
    }

    /// Whether there is something that only the slot's task does.
    pub(super) fn needs_its_task(&self) -> bool {
        let due = || self.due_waits && self.core.fires(|| self.context.store.is_writable());
        self.core.is_broken() || self.attention || due()
    }

    /// What there is to do, most urgent first. Asks to be woken when there is something.
    fn next(
        &mut self,
        has_mail: bool,
        orders: &mut mpsc::Receiver<Order>,
        cx: &mut Context<'_>,
    ) -> Option<Next> {
        self.attention = false;
        if self.core.is_broken() {
            return Some(Next::Failed);
        }
        if let Poll::Ready(order) = orders.poll_recv(cx) {
            return Some(Next::Order(order));
        }
        if let Some(Poll::Ready(decided)) = self.commit.as_mut().map(|it| it.as_mut().poll(cx)) {
            return Some(Next::Decided(decided));
        }
        if let Some(Poll::Ready(result)) = self.flushing.as_mut().map(|it| it.poll(cx)) {
            return Some(Next::Flushed(result));
        }
        if let Some(Poll::Ready(taken)) = self.snapshotting.as_mut().map(|it| it.poll(cx)) {
            return Some(Next::Snapshot(taken));
        }
        // A batch takes so much. More of it is looked for when that has gone.
        if self.core.batch_has_room()
            && let Poll::Ready(sent) = self.sending.poll(cx)
        {
            return Some(Next::Sent(sent));
        }
        // What comes of requests takes turns with all else.
        if self.requested_since.is_some_and(|since| since.elapsed() >= limits::DUE_TURN) {
            self.requested_since = None;
            if has_mail && self.takes_mail() {
                return Some(Next::Mail);
            }
            if self.core.sends_out() {
                return Some(Next::Outbox);
            }
            if self.is_due() {
                return Some(Next::Due);
            }
        }
        if self.core.batch_has_room()
            && self.core.fires(|| self.context.store.is_writable())
            && let Poll::Ready(requested) = self.requesting.poll(cx)
        {
            return Some(Next::Requested(requested));
        }
        if has_mail && self.takes_mail() {
            return Some(Next::Mail);
        }
        if self.core.sends_out() {
            return Some(Next::Outbox);
        }
        self.is_due().then_some(Next::Due)
    }

    /// Serves until the slot has to end.
    pub(super) async fn serve(
        self: Box<Self>,
        shared: &Arc<Shared>,
        orders: &mut mpsc::Receiver<Order>,
    ) -> (Box<Self>, Served) {
        shared.give_back(self);
        loop {
            let mut next = None;
            let turn = shared.turn(|shell, has_mail, cx| {
                next = shell.next(has_mail, orders, cx);
                next.is_some()
            });
            let mut shell = match turn.await {
                Turn::Free(shell) => shell,
                Turn::Begun(begun) => begun.await,
                Turn::Panicked => resume_unwind(Box::new("handling a message panicked")),
            };
            if let Some(next) = next
                && let Some(end) = shell.go_on(next, shared).await
            {
                return (shell, end);
            }
            shared.give_back(shell);
            // What follows may always be ready.
            tokio::task::consume_budget().await;
        }
    }

    async fn go_on(&mut self, next: Next, shared: &Shared) -> Option<Served> {
        match next {
            Next::Failed => return self.end().map(Served::Failed),
            Next::Decided(decided) => self.on_committed(decided),
            Next::Flushed(result) => self.on_flushed(result),
            Next::Snapshot(taken) => self.on_snapshot(taken),
            Next::Sent(sent) => self.on_sent(sent),
            Next::Outbox => self.send_out(),
            Next::Requested(requested) => {
                self.requested_since.get_or_insert_with(crate::clock::now);
                self.on_requested(requested).await;
            }
            Next::Mail => {
                self.requested_since = None;
                self.take_ready(shared).await;
                if self.core.sends_out() {
                    self.send_out();
                }
                if self.is_due() {
                    self.fire_due().await;
                }
            }
            Next::Due => self.fire_due().await,
            Next::Order(Some(order)) => self.order(order, shared),
            // The node is gone.
            Next::Order(None) => self.on(Event::Stop { release: None, loaded: None, asked: None }),
        }
        self.core.is_stopping().then_some(Served::Stop)
    }

    fn order(&mut self, order: Order, shared: &Shared) {
        let event = match order {
            Order::Activate { activation, reply } => {
                self.stats.taken();
                return self.activate(activation, reply);
            }
            Order::Flush => return self.start_flush(),
            // Seen when nothing more urgent is left.
            Order::Due => {
                self.registered = None;
                return self.core.due().look();
            }
            Order::StopIfIdle { idle } => {
                // Swept each time: those who left a quiet session would stay while the slot is busy.
                let watched = self.subscribers.sweep();
                let waiting = shared.mailbox_depth() > 0;
                let due = self.is_due_within(idle) || !self.requesting.is_empty();
                Event::IfIdle { idle, watched, waiting, due }
            }
            Order::Reseal { round } => {
                self.anew_wanted = Some(round);
                return self.start_snapshot();
            }
            Order::Prove => Event::Prove { watched: !self.subscribers.is_empty() },
            Order::Abandon { term } => {
                self.stats.taken();
                Event::Abandon { term }
            }
            Order::Stop { release, loaded, reply } => {
                let release = release.then(|| Record::Release { node: self.context.node.clone() });
                Event::Stop { release, loaded, asked: Some(reply) }
            }
        };
        self.on(event);
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
        let begun = crate::clock::now();
        for taken in 0..limits::MAIL_PER_TURN_MAX {
            if taken > 0 && begun.elapsed() >= limits::MAIL_TURN {
                return;
            }
            let Some(next) = shared.next_mail() else { return };
            self.take(next).await;
            self.see_commits().await;
            // What is in memory may rest on a commit that failed. And where calls tend to be long, an
            // order must not wait for several.
            if !self.may_take_at_once() {
                return;
            }
        }
    }

    /// Sees whether the commit in flight has ended meanwhile.
    pub(super) async fn see_commits(&mut self) {
        if self.core.is_in_flight()
            && let Poll::Ready(decided) = poll_once(decided(&mut self.commit, &self.shared)).await
        {
            self.on_committed(decided);
        }
    }

    /// Whether mail that has come to the state is to be served.
    ///
    /// # Errors
    /// Why it is refused; `None`: its asker has gone.
    pub(super) fn admit(&mut self, mail: &Mail) -> Result<(), Option<Error>> {
        if mail.is_abandoned() {
            return Err(None);
        }
        let taken = self.context.mail_taken.fetch_add(1, Ordering::Relaxed);
        relaxed_store(&self.stats.last_mail, taken);
        let writable = || self.context.store.is_writable();
        if !self.core.admits(mail.writes(), writable, crate::clock::now()) {
            return Err(Some(Error::of(
                Cause::Storage,
                "this node's state store refuses writes, and too much is already waiting for it",
            )));
        }
        self.removed(mail).map_or(Ok(()), |error| Err(Some(error)))
    }

    // ---- switches ------------------------------------------------------------------------------

    /// Switches to a deployment. Between two messages by construction.
    fn activate(&mut self, Activation { target }: Activation, reply: Reply<Duration>) {
        let started = crate::clock::now();
        if !target.is_ahead_of(self.core.running().generation(target.service())) {
            return self.hold_for_all(reply, Ok(Duration::ZERO));
        }
        // Sessions of a removed service of the same name are deleted first.
        let since = self.since(target.service());
        if let Err(error) = self.check_purged(target.service(), since) {
            let _ = reply.send(Err(error));
            return;
        }
        self.switch_to(&target);
        self.hold_new(reply, Ok(started.elapsed()));
    }

    /// Runs `target` from here on, as the batch that fills says.
    pub(super) fn switch_to(&mut self, target: &Target) -> Activate {
        let record = target.record(self.slot);
        self.core.switch(record.clone());
        record
    }
}

/// Looks at a future without waiting for it.
async fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.leave_due();
        self.leave_outbox();
        self.context.cached_bytes.fetch_sub(self.cache_bytes, Ordering::Relaxed);
    }
}
