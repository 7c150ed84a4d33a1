//! Moving a slot from one node to another.
//!
//! The new owner prepares (compiles plugins, catches up the state) while the old one serves. Then
//! it asks the old owner to release the slot, and reports what it has loaded; an owner that runs
//! something newer refuses, and keeps serving. Otherwise the old owner accepts no more messages for the
//! slot, commits what is in flight, and appends a release record; new messages wait. The new owner
//! claims the slot and notifies the old one. Then what waits goes there, or, if a peer sent it, back
//! to the peer with the new owner's name. If no claim follows in time, the old owner claims the slot
//! again; if both claim, the log decides.

use super::{
    Cluster,
    control::{ControlRequest, ControlResponse},
    moves::Job,
};
use crate::{
    cluster::reports::MoveState,
    error::{Cause, Error},
    limits,
    log::{Last, Position, Term},
    names::SlotId,
    router::Place,
    service::catalogue::REMOVED,
    slot::{
        Activation, Loaded, Order,
        flush::{CatchUp, catch_up_alone},
        seat::{Outcome, SealId, SeatEvent},
    },
};
use std::{sync::Arc, time::Duration};
use tokio::sync::oneshot;

impl Cluster {
    /// Moves a slot here. Returns how long nobody served it, where that is known.
    pub(super) async fn carry_out(
        &self,
        job: &Job,
        from: Option<Arc<str>>,
    ) -> Result<Option<Duration>, Error> {
        let slot = job.slot;
        if !self.context.store.is_writable() || !self.context.store.has_room() {
            return Err(Error::of(
                Cause::Storage,
                "this node's disk refuses writes, so it can't open a slot",
            ));
        }
        // Nobody knows of a preparation: one that is given up ends its replay, and the copy that it
        // leaves is only further than it was.
        let mut closed = self.closed.subscribe();
        tokio::select! {
            biased;
            // Nothing is written any more to a store that is about to be closed.
            _ = closed.wait_for(|closed| *closed) => {}
            prepared = self.prepare(slot, from.is_some()) => prepared?,
            () = job.cancelled() => {}
            () = self.gone(from.as_deref()) => {
                return Err(Error::of(Cause::ViewsDiffer, "the node that owned the slot is gone"));
            }
        }
        self.check_open()?;
        let Some(from) = from else {
            self.check_unowned(slot)?;
            self.next(job, MoveState::Claiming)?;
            self.claim(slot, None).await?;
            return Ok(None);
        };
        self.next(job, MoveState::Sealing)?;
        let loaded = Some(self.context.kept.loaded());
        let release = ControlRequest::Release { slot, to: self.own.clone(), loaded };
        let asked = crate::clock::now();
        let last = match self.ask(&from, &release).await {
            Ok(ControlResponse::Released { term, position }) => Last { term, position },
            Ok(_) => return Err(Error::internal(format!("node {from} sent an unexpected answer"))),
            Err(error) => {
                if error.is(Cause::NotOwner) {
                    // It is not the owner any more; who is will be found out.
                    self.router.on(slot, SeatEvent::Denied { by: &from, owner: None, term: 0 });
                }
                return Err(error);
            }
        };
        let released = asked.elapsed();
        self.next(job, MoveState::Claiming)?;
        let term = self.claim(slot, Some(last)).await?;
        let claimed = asked.elapsed();
        let pause = match self.ask(&from, &ControlRequest::Taken { slot, term }).await {
            Ok(ControlResponse::Taken { pause_us }) => Some(Duration::from_micros(pause_us)),
            // It finds out by itself; the slot is here all the same.
            _ => None,
        };
        let took = asked.elapsed();
        tracing::debug!(slot, %from, ?pause, ?released, ?claimed, ?took, "slot handed over");
        Ok(pause)
    }

    /// All that is done while the slot is served elsewhere, if it is.
    async fn prepare(&self, slot: SlotId, is_handoff: bool) -> Result<(), Error> {
        self.load_plugins().await?;
        if !is_handoff {
            return Ok(());
        }
        // The second time is over what came during the first, and short.
        for _ in 0..2 {
            let alone = Arc::new(self.router.hold(slot).await?);
            let meta = catch_up_alone(slot, self.context.clone(), CatchUp::Now, alone).await?;
            // Its services may have been swapped since, also by a change that has not reached this node.
            if let Some(registry) = self.context.registry() {
                for active in meta.active.values().filter(|active| active.deployment != REMOVED) {
                    registry.ensure_generation(&active.service, active.generation).await?;
                }
            }
            self.load_plugins().await?;
        }
        Ok(())
    }

    /// Resolves when a node is no member any more: its slots are taken over, not prepared for.
    async fn gone(&self, name: Option<&str>) {
        let Some(name) = name else { return std::future::pending().await };
        let mut members = self.members.clone();
        // An error: the node is stopping.
        let _ = members.wait_for(|members| members.get(name).is_none()).await;
    }

    /// A claim would take the slot from whoever has it: a node that is alive is asked instead.
    ///
    /// # Errors
    /// Its owner has turned up since it was decided to take it over.
    fn check_unowned(&self, slot: SlotId) -> Result<(), Error> {
        let Place::Away { owner: Some(owner), .. } = self.router.place(slot) else { return Ok(()) };
        if owner != self.own && self.can_be_asked(&self.members(), &owner) {
            return Err(Error::of(Cause::ViewsDiffer, format!("{owner} owns slot {slot}")));
        }
        Ok(())
    }

    fn next(&self, job: &Job, state: MoveState) -> Result<(), Error> {
        job.step(state).map_err(|why| Error::of(Cause::GivenUp, why))
    }

    /// A node that can't run what a slot's services run must not own it.
    async fn load_plugins(&self) -> Result<(), Error> {
        for service in self.context.catalogue.all() {
            self.context.kept.load(&self.context.plugins, &service.target()).await?;
        }
        Ok(())
    }

    async fn claim(&self, slot: SlotId, last: Option<Last>) -> Result<Term, Error> {
        let term = self.router.open(slot, last).await?;
        self.backoffs.opened(slot);
        crate::telemetry::metrics().claims.increment(1);
        *self.claims.lock().entry(slot).or_default() += 1;
        self.gained.lock().push((slot, term));
        self.nudge();
        self.bring_current(slot).await;
        Ok(term)
    }

    /// A deploy may have counted this node's slots just before this one was here.
    async fn bring_current(&self, slot: SlotId) {
        for service in self.context.catalogue.all() {
            let Ok(Some(running)) = self.router.running(slot) else { return };
            let active = running.stats.active.lock().get(&service.name).map(|(at, _)| *at);
            let target = service.target();
            if target.is_removal() || !target.is_ahead_of(active) {
                continue;
            }
            if self.context.kept.load(&self.context.plugins, &target).await.is_err() {
                continue;
            }
            let (reply, _) = oneshot::channel();
            let activation = Activation { target };
            running.try_order(Order::Activate { activation, reply });
        }
    }

    // ---- the old owner -------------------------------------------------------------------------

    /// Gives a slot to `to`, if this node's view wants that too.
    ///
    /// # Errors
    /// `fenced` when the slot is not here, `unavailable` when the views differ or when the slot runs
    /// what `to` has not loaded; then it goes on here.
    pub(super) async fn release(
        &self,
        slot: SlotId,
        to: &Arc<str>,
        loaded: Option<Loaded>,
    ) -> Result<(Term, Position), Error> {
        let table = self.table();
        if table.owner(slot) != Some(to) {
            let number = table.view().number;
            return Err(Error::of(
                Cause::ViewsDiffer,
                format!("view {number} of {} does not give slot {slot} to {to}", self.own),
            ));
        }
        let sealed = crate::clock::now();
        let Outcome::Sealed(seal) = self.router.on(slot, SeatEvent::Seal) else {
            return Err(Error::of(
                Cause::NotOwner,
                format!("{} does not own slot {slot}", self.own),
            ));
        };
        self.sealed.lock().insert(slot, sealed);
        if let Some(this) = self.me.upgrade() {
            crate::task::spawn("handoff", this.take_back_unless_taken(slot, seal));
        }
        let (reply, released) = oneshot::channel();
        let stop = Order::Stop { release: true, loaded, reply };
        let ordered = match self.router.running(slot)? {
            Some(running) => running.order(stop).await.is_ok(),
            None => false,
        };
        let gone = || Err(Error::of(Cause::NotOwner, "the slot stopped by itself"));
        let released = match ordered {
            true => released.await.unwrap_or_else(|_| gone()),
            false => gone(),
        };
        if let Err(error) = &released {
            self.sealed.lock().remove(&slot);
            // One that refuses goes on here, unless it has stopped all the same.
            let refused = error.is(Cause::NotLoaded);
            let refused = refused.then(|| self.router.on(slot, SeatEvent::SealRefused { seal }));
            if refused != Some(Outcome::Changed) {
                self.router.on(slot, SeatEvent::Unseal { seal });
            }
        }
        released
    }

    /// The new owner has claimed the slot: what was held goes there.
    pub(super) fn taken(&self, slot: SlotId, by: &Arc<str>, term: Term) -> Duration {
        let sealed = self.sealed.lock().remove(&slot);
        self.learn(by, &[(slot, term)]);
        sealed.map_or(Duration::ZERO, |sealed| sealed.elapsed())
    }

    async fn take_back_unless_taken(self: Arc<Self>, slot: SlotId, seal: SealId) {
        let Ok(mut place) = self.router.watch_place(slot) else { return };
        loop {
            let moved = place.wait_for(|place| *place != Place::Moving);
            if tokio::time::timeout(limits::HANDOFF_DEADLINE, moved).await.is_ok() {
                return;
            }
            // It may have been taken while this process was paused; its new owner reports so soon.
            if self.trust.is_good(crate::clock::now()) {
                break;
            }
        }
        if self.router.on(slot, SeatEvent::Unseal { seal }) == Outcome::Changed {
            self.sealed.lock().remove(&slot);
            tracing::warn!(slot, "a released slot was not claimed in time; taking it back");
            self.begin_move(slot, None);
        }
    }
}
