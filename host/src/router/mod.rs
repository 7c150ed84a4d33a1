//! The router: from a session to its slot, and from a slot to whoever runs it.
//!
//! The table is an array index, never the ring. On a node that stands alone every slot runs here,
//! started by its first mail. In a cluster each slot has a place: here, away, or moving; a slot is
//! opened by the coordinator only, and [`forward`] finds the way of a request to wherever it is. What
//! is known of a slot, and how that changes, is its [`seat`](crate::slot::seat).

pub mod forward;
mod lane;

pub use crate::slot::seat::Place;

use crate::{
    error::{Cause, Code, Error},
    log::{Last, Term},
    names::{ServiceName, SessionKey, SlotId},
    quota::shares::Shares,
    rpc,
    slot::{
        Mail, Mailbox, Mailed, Order, SlotContext, SlotHandle, open,
        seat::{Outcome, SeatEvent, SeatPhase, TaskId},
        seated::SharedSeat,
    },
};
use parking_lot::RwLock;
use std::sync::Arc;
use tokio::sync::{oneshot, watch};

/// Mail is in a mailbox, or there is no room for it; or it comes back, as its slot does not run.
type Put = Result<Result<(), Error>, Mail>;

/// An operation that has a way to its slot, wherever that is.
pub trait Routed: rpc::Callable + Mailed {}

impl<T: rpc::Callable + Mailed> Routed for T {}

/// The slots of a node.
pub struct Router {
    slots: Box<[Arc<SharedSeat>]>,
    context: Arc<SlotContext>,
    /// Of the processor; `None`: whoever comes first.
    shares: Option<Arc<Shares>>,
    /// Read while a slot's task is started: none is once this was written.
    closed: RwLock<bool>,
    /// A slot has another place.
    moved: Arc<watch::Sender<()>>,
}

impl Router {
    pub fn new(slot_count: u16, context: Arc<SlotContext>, shares: Option<Arc<Shares>>) -> Self {
        let (alone, moved) = (context.cluster.is_none(), Arc::new(watch::Sender::new(())));
        let seat = |_| Arc::new(SharedSeat::new(alone, moved.clone()));
        let slots = (0..slot_count).map(seat).collect();
        Self { slots, context, shares, closed: RwLock::new(false), moved }
    }

    pub fn slot_count(&self) -> u16 {
        self.slots.len() as u16
    }

    pub fn slot_of(&self, key: &SessionKey) -> SlotId {
        key.slot(self.slot_count())
    }

    pub fn context(&self) -> &Arc<SlotContext> {
        &self.context
    }

    /// Puts mail into a slot's mailbox, starting the slot if need be. Does not wait.
    ///
    /// # Errors
    /// `mailbox-full`; `unavailable` while the node stops; `slot-not-found`.
    pub fn deliver(&self, slot: SlotId, mut mail: Mail) -> Result<(), Error> {
        loop {
            match self.try_deliver(slot, mail)? {
                Ok(result) => return result,
                Err(back) => mail = back,
            }
            self.start(slot)?;
        }
    }

    /// Has a slot that runs here take mail at once, if nobody works on it, for as long as there is a next one
    /// and it can. Their handlers run before this comes back.
    pub fn deliver_ready(
        &self,
        slot: SlotId,
        service: &ServiceName,
        mut next: impl FnMut() -> Option<Mail>,
    ) {
        let Ok(seat) = self.seat(slot) else { return };
        let Some((_, mailbox)) = seat.mailbox() else { return };
        let Some(shares) = &self.shares else { return mailbox.take_ready(next) };
        mailbox.take_ready(|| {
            // What has to wait does so in its line.
            let mut mail = shares.goes_now(service).then(&mut next).flatten()?;
            shares.let_in(&mut mail);
            Some(mail)
        });
    }

    /// Lets mail in on a busy node: `None`: it waits for its service's share.
    fn admit(&self, mailbox: &Mailbox, mail: Mail) -> Result<Option<Mail>, Error> {
        match &self.shares {
            Some(shares) => shares.admit(mailbox, mail),
            None => Ok(Some(mail)),
        }
    }

    /// Puts mail into the mailbox of a slot that runs here. A handler may run before this comes back.
    ///
    /// # Errors
    /// `slot-not-found`. The mail comes back when the slot does not run.
    fn try_deliver(&self, slot: SlotId, mail: Mail) -> Result<Put, Error> {
        self.try_deliver_then(slot, mail, || {})
    }

    /// As [`Router::try_deliver`]; `placed` is called before the handler runs, once the mail has its place in
    /// the slot's order.
    fn try_deliver_then(
        &self,
        slot: SlotId,
        mail: Mail,
        placed: impl FnOnce(),
    ) -> Result<Put, Error> {
        let seat = self.seat(slot)?;
        let Some((task, mailbox)) = seat.mailbox() else { return Ok(Err(mail)) };
        let mail = match self.admit(&mailbox, mail) {
            Ok(Some(mail)) => mail,
            Ok(None) => {
                placed();
                return Ok(Ok(Ok(())));
            }
            Err(full) => return Ok(Ok(Err(full))),
        };
        Ok(put(seat, task, mailbox.try_mail(mail, placed)))
    }

    /// Puts mail into the mailbox of a slot that runs here; `false`: it does not run. No handler runs
    /// meanwhile: a link between nodes has mail of many slots, and who waits for its place behind this one
    /// is not to wait for a handler.
    ///
    /// # Errors
    /// `mailbox-full`, `slot-not-found`.
    pub fn mail_here(&self, slot: SlotId, mail: Mail) -> Result<bool, Error> {
        let seat = self.seat(slot)?;
        let Some((task, mailbox)) = seat.mailbox() else { return Ok(false) };
        let Some(mail) = self.admit(&mailbox, mail)? else { return Ok(true) };
        match put(seat, task, mailbox.try_queue(mail)) {
            Ok(result) => result.map(|()| true),
            Err(_) => Ok(false),
        }
    }

    /// Gives a slot an order, starting the slot if need be. Waits for room.
    ///
    /// # Errors
    /// As [`Router::deliver`].
    pub async fn order(&self, slot: SlotId, mut order: Order) -> Result<(), Error> {
        loop {
            let seat = self.seat(slot)?;
            if let Some((task, handle)) = seat.running() {
                match handle.order(order).await {
                    Ok(()) => return Ok(()),
                    Err(back) => order = back,
                }
                seat.on(SeatEvent::Stopping { task });
            }
            self.start(slot)?;
        }
    }

    /// The slot's handle if it runs.
    ///
    /// # Errors
    /// `slot-not-found`.
    pub fn running(&self, slot: SlotId) -> Result<Option<SlotHandle>, Error> {
        Ok(self.seat(slot)?.running().map(|(_, handle)| handle))
    }

    /// # Errors
    /// `slot-not-found`.
    pub fn phase(&self, slot: SlotId) -> Result<SeatPhase, Error> {
        Ok(self.seat(slot)?.phase())
    }

    /// Something has happened to a slot. Beyond the last slot: nothing.
    pub fn on(&self, slot: SlotId, event: SeatEvent<'_>) -> Outcome {
        self.seat(slot).map_or(Outcome::Nothing, |seat| seat.on(event))
    }

    /// The term under which this node has the slot, also while it gives it away.
    pub fn held(&self, slot: SlotId) -> Option<Term> {
        self.seat(slot).ok()?.held()
    }

    /// On a node that stands alone: opens again slots whose task ended before the store had all of them, and
    /// that nobody asks for. What is not in the store holds up the log of all slots.
    pub fn open_unflushed(&self, at_most: usize) {
        let is_unflushed =
            |slot: &SlotId| matches!(self.phase(*slot), Ok(SeatPhase::Vacant { flushed: false }));
        for slot in (0..self.slot_count()).filter(is_unflushed).take(at_most) {
            // The node stops.
            let _ = self.start(slot);
        }
    }

    /// No task has the slot, and the store has all of it. Never so in a cluster, where the store
    /// may not have what another node wrote.
    ///
    /// # Errors
    /// `slot-not-found`.
    pub fn rests(&self, slot: SlotId) -> Result<bool, Error> {
        Ok(self.seat(slot)?.rests())
    }

    /// Waits until no slot has a task, nor a flush of one.
    pub async fn settled(&self) {
        for seat in &self.slots {
            drop(seat.task_lock().lock().await);
        }
    }

    /// Every slot that runs.
    pub fn all_running(&self) -> Vec<(SlotId, SlotHandle)> {
        let slots = (0..self.slot_count()).filter_map(|slot| {
            let handle = self.running(slot).ok().flatten()?;
            Some((slot, handle))
        });
        slots.collect()
    }

    /// When this returns, no slot is started any more.
    pub fn close(&self) {
        *self.closed.write() = true;
        if let Some(shares) = &self.shares {
            shares.close();
        }
    }

    fn seat(&self, slot: SlotId) -> Result<&Arc<SharedSeat>, Error> {
        self.slots.get(usize::from(slot)).ok_or_else(|| {
            Error::new(
                Code::SlotNotFound,
                format!("there is no slot {slot}: slots go from 0 to {}", self.slots.len() - 1),
            )
        })
    }

    /// Spawns the slot's task unless one runs. Whoever comes second finds the first one's.
    ///
    /// # Errors
    /// `slot-not-found`; `unavailable` while the node stops, and in a cluster.
    pub fn start(&self, slot: SlotId) -> Result<(), Error> {
        let seat = self.seat(slot)?;
        if self.context.cluster.is_some() {
            // A claim takes the slot from whoever has it: never for the sake of one request.
            return Err(Error::of(Cause::Opening, "the slot is not open on this node"));
        }
        self.unless_closed(|| seat.open(slot, &self.context, None, None)).map(drop)
    }

    /// # Errors
    /// `unavailable`: the node stops.
    fn unless_closed(&self, open: impl FnOnce() -> Outcome) -> Result<Outcome, Error> {
        let closed = self.closed.read();
        match *closed {
            true => Err(Error::of(Cause::Stopping, "the node is stopping")),
            false => Ok(open()),
        }
    }

    // ---- in a cluster --------------------------------------------------------------------------

    /// Claims a slot and opens it; the slot is here once that has worked. `last` is where the owner
    /// before has released it.
    ///
    /// # Errors
    /// Why it can't be opened; it stays where it is.
    pub async fn open(&self, slot: SlotId, last: Option<Last>) -> Result<Term, Error> {
        let seat = self.seat(slot)?;
        let (reply, opened) = oneshot::channel();
        match self.unless_closed(|| seat.open(slot, &self.context, last, Some(reply)))? {
            Outcome::Here(term) => return Ok(term),
            Outcome::Opening => {
                let why = "a cancelled open of this slot has not finished";
                return Err(Error::of(Cause::Opening, why));
            }
            Outcome::Moving => {
                let why = "this node is handing the slot over to another node";
                return Err(Error::of(Cause::Moving, why));
            }
            _ => {}
        }
        let gone = || Err(Error::of(Cause::Opening, "the slot stopped while it was opening"));
        opened.await.unwrap_or_else(|_| gone())
    }

    /// Answers a read that may be stale from this node's copy of a slot which was here until its
    /// log fell silent, and that no node has reported since. `false`: it is another read, or the
    /// slot another's; the mail is dropped.
    pub fn read_copy(&self, slot: SlotId, mail: impl FnOnce() -> Mail) -> bool {
        if !self.seat(slot).is_ok_and(|seat| seat.has_copy()) {
            return false;
        }
        let mail = mail();
        let is_stale = mail.may_be_stale();
        if is_stale {
            let read = open::read_copy(slot, self.context.clone(), mail);
            crate::task::spawn_contained("copy", read);
        }
        is_stale
    }

    /// Where a slot is. Beyond the last slot: nowhere.
    pub fn place(&self, slot: SlotId) -> Place {
        self.seat(slot).map_or(Place::UNKNOWN, |seat| seat.place())
    }

    /// # Errors
    /// `slot-not-found`.
    pub fn watch_place(&self, slot: SlotId) -> Result<watch::Receiver<Place>, Error> {
        Ok(self.seat(slot)?.watch())
    }

    /// Changes when any slot has another place.
    pub fn watch_moved(&self) -> watch::Receiver<()> {
        self.moved.subscribe()
    }

    /// Waits until a slot has no task, and keeps one from starting as long as it is held.
    ///
    /// # Errors
    /// `slot-not-found`.
    pub async fn hold(&self, slot: SlotId) -> Result<tokio::sync::OwnedMutexGuard<()>, Error> {
        Ok(self.seat(slot)?.task_lock().lock().await)
    }

    /// The slots that are here, with their terms.
    pub fn here(&self) -> Vec<(SlotId, Term)> {
        (0..).zip(&self.slots).filter_map(|(slot, seat)| Some((slot, seat.serves()?))).collect()
    }
}

#[expect(clippy::result_large_err, reason = "it comes back in the same place, rarely")]
fn put(seat: &SharedSeat, task: TaskId, put: Put) -> Put {
    if put.is_err() {
        // It is ending, and may not have reported it yet.
        seat.on(SeatEvent::Stopping { task });
    }
    put
}
