//! The task that compares this node's slots with the ring's assignment, and starts moves.

use super::{
    ChangeAvoid, Cluster, EngineProbe, ReportUnfit,
    control::{ControlRequest, ControlResponse},
    fitness, links,
    plan::{self, Action, SlotState},
    trust::Trust,
};
use crate::{
    backoff::Backoff,
    error::{Cause, Error},
    limits,
    names::SlotId,
    peer::member::{Member, Members, Unfit},
    registry::Placement,
    ring::{Table, View},
    router::{Place, Router, forward::Forwarder},
    rpc::Peers,
    slot::{
        Ended, Order,
        seat::{Outcome, SeatEvent, SeatPhase},
    },
    telemetry::metrics,
};
use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::sync::{mpsc, watch};

#[derive(Clone, Debug)]
pub struct ClusterOptions {
    pub request_deadline: Duration,
    /// Messages that may wait for a slot that moves.
    pub held_max: usize,
    /// Chosen at start: distinguishes this process from another of the same name.
    pub instance: u128,
}

/// What a cluster stands on.
pub struct ClusterParts {
    pub own: Arc<str>,
    pub router: Arc<Router>,
    pub peers: Arc<dyn Peers>,
    pub members: watch::Receiver<Arc<Members>>,
    pub placement: watch::Receiver<Arc<Placement>>,
    /// Fed by the slots' tasks.
    pub ended: mpsc::UnboundedReceiver<Ended>,
    /// Announces to the others that this node hands over its slots.
    pub leave: Box<dyn Fn() + Send + Sync>,
    /// Reports to the others that this node can't serve, or that it can again.
    pub report_unfit: Box<ReportUnfit>,
    pub engine: Box<EngineProbe>,
    pub change_avoid: Box<ChangeAvoid>,
}

impl Cluster {
    pub fn start(options: ClusterOptions, parts: ClusterParts) -> Arc<Self> {
        let ClusterParts { own, router, peers, members, placement, ended, .. } = parts;
        let ClusterParts { leave, report_unfit, engine, change_avoid, .. } = parts;
        let forwarder = Forwarder::new(
            router.clone(),
            peers,
            own.clone(),
            options.request_deadline,
            options.held_max,
            options.instance,
        );
        let empty = Table::new(&View::default(), router.slot_count());
        let cluster = Arc::new_cyclic(|me| Self {
            me: me.clone(),
            own,
            context: router.context().clone(),
            router,
            forwarder: Arc::new(forwarder),
            moves: Default::default(),
            members,
            placement,
            table: parking_lot::RwLock::new(Arc::new(empty)),
            backoffs: Default::default(),
            trust: Trust::new(crate::clock::now()),
            steady: watch::Sender::new(true),
            reported: Default::default(),
            sealed: Default::default(),
            gained: Default::default(),
            claims: Default::default(),
            nudge: Default::default(),
            links: Default::default(),
            settled: Default::default(),
            joined: Default::default(),
            closed: watch::Sender::new(false),
            leave,
            report_unfit,
            engine,
            change_avoid,
        });
        crate::task::spawn("coordinator", run(Arc::downgrade(&cluster), ended));
        crate::task::spawn("fitness", fitness::watch(Arc::downgrade(&cluster)));
        crate::task::spawn("links", links::watch(Arc::downgrade(&cluster)));
        cluster
    }

    /// The view, the slots to avoid, or whether peers' reports count has changed: computes the table,
    /// and which nodes have not reported yet what they own.
    fn look_around(&self) {
        let members = self.members.borrow().clone();
        let placement = self.placement.borrow().clone();
        let view = View::new(members.number, members.on_ring(*self.steady.borrow()));
        let table = Table::new(&view, self.router.slot_count()).avoiding(&placement.avoid);
        let owners = (0..table.slot_count()).map(|slot| table.owner(slot).cloned()).collect();
        self.forwarder.propose(owners);
        // Who refused a move may agree to it now.
        self.backoffs.reset_failures();
        metrics().view_number.set(members.number as f64);
        metrics().view_members.set(members.alive.len() as f64);
        *self.table.write() = Arc::new(table);
        self.forwarder.refused().sweep(|name| members.get(name).is_some());
        let mut reported = self.reported.lock();
        let alive: HashSet<u128> = members.alive.iter().map(|member| member.instance).collect();
        reported.retain(|instance| alive.contains(instance));
        reported.extend(members.get(&self.own).map(|own| own.instance));
        for member in members.alive.iter().filter(|member| !reported.contains(&member.instance)) {
            self.forwarder.refused().forget(&member.name);
            let Some(this) = self.me.upgrade() else { return };
            crate::task::spawn("owned slots", this.learn_owned(member.clone()));
        }
    }

    /// Asks a peer what it owns, until it answers or had its time.
    async fn learn_owned(self: Arc<Self>, member: Member) {
        let until = crate::clock::now() + limits::OWNED_WAIT;
        let mut wait = Backoff::new(limits::FORWARD_RETRY_MIN, limits::FORWARD_RETRY_MAX);
        loop {
            match self.ask(&member.name, &ControlRequest::Owned).await {
                Ok(ControlResponse::Owned(slots)) => {
                    self.learn(&member.name, &slots);
                    break;
                }
                _ if crate::clock::now() >= until => break,
                _ => {}
            }
            tokio::time::sleep(wait.next()).await;
        }
        self.reported.lock().insert(member.instance);
        self.nudge();
    }

    /// A peer has reported that it owns slots.
    pub(super) fn learn(&self, peer: &Arc<str>, slots: &[(SlotId, u64)]) {
        for &(slot, term) in slots {
            if self.router.on(slot, SeatEvent::Owns { peer, term }) == Outcome::Abandon
                && let Ok(Some(running)) = self.router.running(slot)
            {
                running.try_order(Order::Abandon { term });
            }
        }
    }

    /// A slot's task has ended by itself: it is not here any more. It is left alone for a while, and
    /// may be opened again then.
    fn on_ended(&self, ended: &Ended) {
        let Ended { slot, task, error } = ended;
        // Its successor may have been opened before this event arrived.
        if self.router.phase(*slot).ok() != Some(SeatPhase::Failed { task: *task }) {
            return;
        }
        match error {
            Some(error) => {
                self.back_off(*slot, error);
                if error.is(Cause::NotOwner) {
                    metrics().fences.increment(1);
                }
                tracing::info!(slot, %error, "a slot is no longer on this node");
            }
            None => {
                self.backoffs.failed(*slot, crate::clock::now());
                tracing::warn!(
                    slot,
                    "a slot's task ended unexpectedly (an earlier line has its panic or its \
                     store's error); claiming the slot again"
                );
            }
        }
        self.router.on(*slot, SeatEvent::Noted { task: *task });
    }

    fn back_off(&self, slot: SlotId, error: &Error) {
        let now = crate::clock::now();
        match error.cause {
            Some(Cause::NotOwner) => self.backoffs.lost(slot, now),
            _ => self.backoffs.failed(slot, now),
        }
    }

    /// A slot is here no more, and it is not decided yet when to try it again.
    fn is_ending(&self, slot: SlotId) -> bool {
        matches!(self.router.phase(slot), Ok(SeatPhase::Stopping { .. } | SeatPhase::Failed { .. }))
    }

    /// Whether a node is alive, and could release a slot.
    pub(super) fn can_be_asked(&self, members: &Members, name: &str) -> bool {
        let steady = *self.steady.borrow();
        // A node that can't commit can't release a slot either.
        let can_release = |member: &Member| !steady || member.unfit != Some(Unfit::Engine);
        members.get(name).is_some_and(can_release)
    }

    /// Begins what is to be done now.
    pub(super) fn reconcile(&self) {
        let table = self.table();
        let members = self.members.borrow().clone();
        let reported = self.reported.lock();
        let all_reported = members.alive.iter().all(|member| reported.contains(&member.instance));
        drop(reported);
        let (takeovers, handoffs) = self.moves.running();
        let input = plan::Input {
            own: &self.own,
            table: &table,
            can_be_asked: &|name| self.can_be_asked(&members, name),
            all_reported,
            takeovers: limits::TAKEOVERS_MAX.saturating_sub(takeovers),
            handoffs: limits::HANDOFFS_MAX.saturating_sub(handoffs),
        };
        let now = crate::clock::now();
        let slots = (0..self.router.slot_count()).map(|slot| SlotState {
            place: self.router.place(slot),
            busy: self.moves.is_running(slot) || self.is_ending(slot),
            not_before: self.backoffs.wait(slot, now),
            kept_at: self.moves.kept(slot, members.number),
        });
        let actions = plan::actions(&input, slots);
        for action in actions {
            let (slot, from) = match action {
                Action::HandOff { slot, from } => (slot, Some(from)),
                Action::TakeOver { slot } => (slot, None),
            };
            self.begin_move(slot, from);
        }
        let missing = table.slots_of(&self.own).into_iter();
        let missing = missing.filter(|&slot| match self.router.place(slot) {
            Place::Here => false,
            // It stays away by an operator's word.
            Place::Away { owner: Some(owner), .. } => {
                self.moves.kept(slot, members.number) != Some(owner)
            }
            _ => true,
        });
        let missing = missing.count();
        let settled = missing == 0 && all_reported;
        self.settled.store(settled, Ordering::Relaxed);
        if settled {
            self.joined.store(true, Ordering::Relaxed);
        }
        metrics().slots_owned.set(self.router.here().len() as f64);
    }

    pub(super) fn begin_move(&self, slot: SlotId, from: Option<Arc<str>>) {
        if self.check_open().is_err() {
            return;
        }
        let Some(this) = self.me.upgrade() else { return };
        let Some(job) = self.moves.begin(slot, from.as_deref(), &self.own) else { return };
        let owner = from.clone();
        crate::task::spawn("move", async move {
            let moved = this.carry_out(&job, from);
            let moved = tokio::time::timeout(limits::MOVE_DEADLINE, moved).await;
            let moved = moved.unwrap_or_else(|_| Err(Error::of(Cause::GivenUp, "timed out")));
            if let Err(error) = &moved {
                let from = owner.as_deref();
                tracing::warn!(slot, from, to = %this.own, %error, "moving a slot failed");
                // Whoever asks for the move of a slot that was kept where it is wants it now; and one
                // whose owner is gone is to be taken over at once.
                let is_gone = |owner: &Arc<str>| this.members.borrow().get(owner).is_none();
                let anew = owner.is_some_and(|owner| job.is_cancelled() || is_gone(&owner));
                if !anew {
                    this.back_off(slot, error);
                }
            }
            this.moves.end(&job, &moved.map_err(|error| error.detail.into_owned()));
            this.nudge();
        });
    }

    /// Reports to the others which slots this node has gained.
    fn announce(&self) {
        let gained = std::mem::take(&mut *self.gained.lock());
        if gained.is_empty() {
            return;
        }
        let ask = Arc::new(ControlRequest::Own(gained));
        let members = self.members.borrow().clone();
        for member in members.alive.iter().filter(|member| member.name != self.own) {
            let (Some(this), name, ask) = (self.me.upgrade(), member.name.clone(), ask.clone())
            else {
                return;
            };
            crate::task::run(async move {
                // A node that misses it learns it when it asks the wrong node.
                let _ = this.ask(&name, &ask).await;
            });
        }
    }
}

async fn run(cluster: std::sync::Weak<Cluster>, mut ended: mpsc::UnboundedReceiver<Ended>) {
    let Some(this) = cluster.upgrade() else { return };
    let (mut members, mut placement) = (this.members.clone(), this.placement.clone());
    let mut steady = this.steady.subscribe();
    drop(this);
    members.mark_changed();
    let mut last_announced = crate::clock::now();
    let mut tick = tokio::time::interval(limits::RECONCILE_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let Some(this) = cluster.upgrade() else { return };
        tokio::select! {
            changed = members.changed() => {
                if changed.is_err() {
                    return;
                }
                this.look_around();
            }
            changed = placement.changed() => {
                if changed.is_err() {
                    return;
                }
                this.look_around();
            }
            // Its sender is `this`.
            _ = steady.changed() => this.look_around(),
            task = ended.recv() => match task {
                Some(task) => this.on_ended(&task),
                None => return,
            },
            () = this.nudge.notified() => {}
            _ = tick.tick() => {}
        }
        // A process that was stopped finds everyone dead that did not answer it meanwhile.
        if let Some(paused) = this.trust.turn(crate::clock::now()) {
            tracing::warn!(
                ?paused,
                "this process was paused; waiting for membership to settle before acting on it"
            );
        }
        // Number 0: it has not met its cluster yet, nor found that there is none.
        let joining = this.members.borrow().number == 0;
        if !joining && this.trust.is_good(crate::clock::now()) {
            this.reconcile();
        }
        if last_announced.elapsed() >= limits::OWNED_REPEAT {
            // A node that was cut off has missed earlier reports.
            last_announced = crate::clock::now();
            *this.gained.lock() = this.router.here();
        }
        this.announce();
    }
}
