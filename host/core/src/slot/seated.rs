//! A slot's [`Seat`] as a node shares it: with the way to its task, and who waits for it to move.

use crate::{
    error::{Cause, Error},
    log::{Last, Term},
    names::SlotId,
    slot::{
        Ended, Mailbox, Reply, SlotContext, SlotHandle, TaskLock,
        seat::{Outcome, Place, Seat, SeatEvent, SeatPhase, TaskEnd, TaskId},
    },
};
use parking_lot::RwLock;
use std::sync::{Arc, Weak};
use tokio::sync::watch;

/// What a node knows of a slot. All changes go through [`SharedSeat::on`].
pub struct SharedSeat {
    inner: RwLock<Inner>,
    /// As the seat says it, for who waits.
    place: watch::Sender<Place>,
    /// Of the tasks that take the seat one after the other.
    task_lock: TaskLock,
    /// A slot of the node has another place.
    moved: Arc<watch::Sender<()>>,
}

struct Inner {
    seat: Seat,
    /// The way to the task that takes mail.
    handle: Option<SlotHandle>,
}

/// What a task says of itself to its seat. The node may be gone.
pub(super) struct Occupant {
    pub slot: SlotId,
    pub task: TaskId,
    pub seat: Weak<SharedSeat>,
    pub context: Arc<SlotContext>,
}

impl SharedSeat {
    /// `moved` is told of each change of the place.
    pub fn new(alone: bool, moved: Arc<watch::Sender<()>>) -> Self {
        let seat = Seat::new(alone);
        let place = watch::Sender::new(seat.place());
        let inner = RwLock::new(Inner { seat, handle: None });
        Self { inner, place, task_lock: TaskLock::default(), moved }
    }

    pub fn on(&self, event: SeatEvent<'_>) -> Outcome {
        let mut inner = self.inner.write();
        let outcome = inner.seat.on(event);
        if outcome == Outcome::Nothing {
            return outcome;
        }
        let place = inner.seat.place();
        let moved = self.place.send_if_modified(|shown| {
            let moved = *shown != place;
            *shown = place;
            moved
        });
        if moved {
            self.moved.send_replace(());
        }
        // A task that is to end sees that nobody has orders for it. Not dropped under the lock.
        let gone = match inner.seat.task() {
            None => inner.handle.take(),
            Some(_) => None,
        };
        drop(inner);
        drop(gone);
        outcome
    }

    /// Starts a task for the slot, if none is there. `reply` hears when it is open, or why it can't be.
    pub fn open(
        self: &Arc<Self>,
        slot: SlotId,
        context: &Arc<SlotContext>,
        last: Option<Last>,
        reply: Option<Reply<Term>>,
    ) -> Outcome {
        let mut inner = self.inner.write();
        let outcome = inner.seat.on(SeatEvent::Open);
        let Outcome::Spawn(task) = outcome else { return outcome };
        let seat = Arc::downgrade(self);
        let occupant = Occupant { slot, task, seat, context: context.clone() };
        let (handle, run) = SlotHandle::new(occupant, self.task_lock.clone(), last, reply);
        let gone = inner.handle.replace(handle);
        drop(inner);
        drop(gone);
        // Where the runtime has ended it is dropped at once, and says so to the seat.
        crate::task::spawn_contained("slot", run);
        outcome
    }

    /// The way of mail to the task that takes it.
    pub fn mailbox(&self) -> Option<(TaskId, Mailbox)> {
        let inner = self.inner.read();
        Some((inner.seat.task()?, inner.handle.as_ref()?.mailbox().clone()))
    }

    pub fn running(&self) -> Option<(TaskId, SlotHandle)> {
        let inner = self.inner.read();
        Some((inner.seat.task()?, inner.handle.clone()?))
    }

    pub fn phase(&self) -> SeatPhase {
        self.inner.read().seat.phase()
    }

    pub fn place(&self) -> Place {
        self.inner.read().seat.place()
    }

    pub fn serves(&self) -> Option<Term> {
        self.inner.read().seat.serves()
    }

    pub fn held(&self) -> Option<Term> {
        self.inner.read().seat.held()
    }

    pub fn rests(&self) -> bool {
        self.inner.read().seat.rests()
    }

    pub fn has_copy(&self) -> bool {
        self.inner.read().seat.has_copy()
    }

    pub fn watch(&self) -> watch::Receiver<Place> {
        self.place.subscribe()
    }

    pub fn task_lock(&self) -> &TaskLock {
        &self.task_lock
    }
}

impl Occupant {
    fn on(&self, event: SeatEvent<'_>) -> Outcome {
        self.seat.upgrade().map_or(Outcome::Nothing, |seat| seat.on(event))
    }

    /// # Errors
    /// `fenced`: another node has claimed the slot since; `unavailable`: this node wants it no more.
    pub fn opened(&self, term: Term) -> Result<(), Error> {
        match self.on(SeatEvent::Opened { task: self.task, term }) {
            Outcome::Overtaken(_) => {
                Err(Error::of(Cause::NotOwner, "another node claimed the slot while it was opened"))
            }
            Outcome::Nothing if self.seat.strong_count() > 0 => {
                Err(Error::of(Cause::Opening, "the slot was given up while it was opened"))
            }
            _ => Ok(()),
        }
    }

    /// Before the mailbox is closed, so that mail which comes back finds that the slot can be opened
    /// again.
    pub fn stopping(&self) {
        self.on(SeatEvent::Stopping { task: self.task });
    }

    pub fn ended_in_order(&self) {
        self.on(SeatEvent::Ended { task: self.task, end: TaskEnd::InOrder });
    }

    /// It has ended by itself; `None`: without a word. Says so once.
    pub fn failed(&self, error: Option<Error>) {
        let silent = error.as_ref().is_some_and(|error| error.is(Cause::Storage));
        let (slot, task) = (self.slot, self.task);
        let outcome = self.on(SeatEvent::Ended { task, end: TaskEnd::Failed { silent } });
        if outcome == Outcome::Failed
            && let Some(cluster) = &self.context.cluster
        {
            let _ = cluster.ended.send(Ended { slot, task, error });
        }
    }
}
