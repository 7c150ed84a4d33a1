//! The router: from a session to its slot, and from a slot to whoever runs it.
//!
//! The table is an array index, never the ring. On a node that stands alone every slot runs here,
//! started by its first mail. In a cluster each slot has a place: here, away, or moving; a slot is
//! opened by the coordinator only, and [`forward`] finds the way of a request to wherever it is.

pub mod forward;
mod lane;

use crate::{
    error::{Cause, Code, Error},
    log::{Last, Term},
    names::{SessionKey, SlotId},
    rpc,
    slot::{Mail, Mailbox, Mailed, Order, Ownership, SlotContext, SlotHandle, open},
};
use parking_lot::RwLock;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::sync::{oneshot, watch};

/// Mail is in a mailbox, or there is no room for it; or it comes back, as its slot does not run.
type Put = Result<Result<(), Error>, Mail>;

/// An operation that has a way to its slot, wherever that is.
pub trait Routed: rpc::Callable + Mailed {}

impl<T: rpc::Callable + Mailed> Routed for T {}

/// The slots of a node.
pub struct Router {
    slots: Box<[Seat]>,
    context: Arc<SlotContext>,
    closed: AtomicBool,
}

/// Where a slot's task is, if it runs, and where the slot is.
struct Seat {
    handle: RwLock<Option<SlotHandle>>,
    ownership: Ownership,
    place: watch::Sender<Place>,
    /// It was here last, and its log fell silent: the store has all that was acknowledged then.
    silenced: AtomicBool,
}

/// Where a slot is, as far as this node knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// This node owns it, as far as the log has told it.
    Here,
    /// It is being given away: requests wait.
    Moving,
    /// Another node's. Who that is and under what term may not be known.
    Away { owner: Option<Arc<str>>, term: Term },
}

impl Place {
    pub const UNKNOWN: Self = Self::Away { owner: None, term: 0 };
}

impl Router {
    pub fn new(slot_count: u16, context: Arc<SlotContext>) -> Self {
        let place = match context.cluster {
            Some(_) => Place::UNKNOWN,
            None => Place::Here,
        };
        let seat = |_| Seat {
            handle: RwLock::default(),
            ownership: Ownership::default(),
            place: watch::Sender::new(place.clone()),
            silenced: AtomicBool::new(false),
        };
        Self { slots: (0..slot_count).map(seat).collect(), context, closed: false.into() }
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

    /// Puts mail into the mailbox of a slot that runs here. A handler may run before this comes back.
    ///
    /// # Errors
    /// `slot-not-found`. The mail comes back when the slot does not run.
    fn try_deliver(&self, slot: SlotId, mail: Mail) -> Result<Put, Error> {
        self.put(slot, mail, Mailbox::try_mail)
    }

    /// With no lock held: a handler may run.
    fn put(
        &self,
        slot: SlotId,
        mail: Mail,
        put: impl FnOnce(&Mailbox, Mail) -> Put,
    ) -> Result<Put, Error> {
        Ok(match self.mailbox(slot)? {
            Some(mailbox) => put(&mailbox, mail),
            None => Err(mail),
        })
    }

    fn mailbox(&self, slot: SlotId) -> Result<Option<Mailbox>, Error> {
        Ok(self.seat(slot)?.handle.read().as_ref().map(|it| it.mailbox().clone()))
    }

    /// Puts mail into the mailbox of a slot that runs here; `false`: it does not run. No handler runs
    /// meanwhile: a link between nodes has mail of many slots, and who waits for its place behind this one
    /// is not to wait for a handler.
    ///
    /// # Errors
    /// `mailbox-full`, `slot-not-found`.
    pub fn mail_here(&self, slot: SlotId, mail: Mail) -> Result<bool, Error> {
        match self.try_queue(slot, mail)? {
            Ok(result) => result.map(|()| true),
            Err(_) => Ok(false),
        }
    }

    /// As [`Router::mail_here`].
    ///
    /// # Errors
    /// `slot-not-found`. The mail comes back when the slot does not run.
    pub fn try_queue(&self, slot: SlotId, mail: Mail) -> Result<Put, Error> {
        self.put(slot, mail, Mailbox::try_queue)
    }

    /// Gives a slot an order, starting the slot if need be. Waits for room.
    ///
    /// # Errors
    /// As [`Router::deliver`].
    pub async fn order(&self, slot: SlotId, mut order: Order) -> Result<(), Error> {
        loop {
            if let Some(handle) = self.running(slot)? {
                match handle.order(order).await {
                    Ok(()) => return Ok(()),
                    Err(back) => order = back,
                }
            }
            self.start(slot)?;
        }
    }

    /// The slot's handle if it runs.
    ///
    /// # Errors
    /// `slot-not-found`.
    pub fn running(&self, slot: SlotId) -> Result<Option<SlotHandle>, Error> {
        let handle = self.seat(slot)?.handle.read();
        Ok(handle.as_ref().filter(|handle| !handle.is_closed()).cloned())
    }

    /// No task has the slot, and the store has all of it. Never so in a cluster, where the store
    /// may not have what another node wrote.
    ///
    /// # Errors
    /// `slot-not-found`.
    pub fn rests(&self, slot: SlotId) -> Result<bool, Error> {
        let handle = self.seat(slot)?.handle.read();
        let flushed = handle.as_ref().is_none_or(|handle| {
            handle.is_closed() && handle.stats.flushed.load(Ordering::Acquire)
        });
        Ok(flushed && self.context.cluster.is_none())
    }

    /// Waits until no slot has a task, nor a flush of one.
    pub async fn settled(&self) {
        for seat in &self.slots {
            drop(seat.ownership.lock().await);
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

    /// Starts no slot any more.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    fn seat(&self, slot: SlotId) -> Result<&Seat, Error> {
        self.slots.get(usize::from(slot)).ok_or_else(|| {
            Error::new(
                Code::SlotNotFound,
                format!("there is no slot {slot}: slots go from 0 to {}", self.slots.len() - 1),
            )
        })
    }

    /// Spawns the slot's task unless one runs. Whoever comes second finds the first one's.
    fn start(&self, slot: SlotId) -> Result<(), Error> {
        let seat = self.seat(slot)?;
        if self.context.cluster.is_some() {
            // A claim takes the slot from whoever has it: never for the sake of one request.
            return Err(Error::of(Cause::Opening, "the slot is not open on this node"));
        }
        self.check_open()?;
        let mut handle = seat.handle.write();
        if handle.as_ref().is_none_or(SlotHandle::is_closed) {
            *handle = Some(SlotHandle::spawn(slot, seat.ownership.clone(), self.context.clone()));
        }
        Ok(())
    }

    fn check_open(&self) -> Result<(), Error> {
        match self.closed.load(Ordering::Acquire) {
            true => Err(Error::of(Cause::Stopping, "the node is stopping")),
            false => Ok(()),
        }
    }

    // ---- in a cluster --------------------------------------------------------------------------

    /// Claims a slot and opens it; the slot is here once that has worked. `last` is where the owner
    /// before has released it.
    ///
    /// # Errors
    /// Why it can't be opened; it stays where it is.
    pub async fn open(&self, slot: SlotId, last: Option<Last>) -> Result<Term, Error> {
        self.check_open()?;
        let seat = self.seat(slot)?;
        let (told, opened) = oneshot::channel();
        {
            let mut handle = seat.handle.write();
            if let Some(running) = handle.as_ref().filter(|handle| !handle.is_closed()) {
                if !running.stats.serving.load(Ordering::Acquire) {
                    let why = "a cancelled open of this slot has not finished";
                    return Err(Error::of(Cause::Opening, why));
                }
                seat.place.send_replace(Place::Here);
                return Ok(running.stats.term.load(Ordering::Relaxed));
            }
            let (ownership, context) = (seat.ownership.clone(), self.context.clone());
            *handle = Some(SlotHandle::spawn_telling(slot, ownership, context, last, Some(told)));
        }
        let gone = || Err(Error::of(Cause::Opening, "the slot stopped while it was opening"));
        let term = opened.await.unwrap_or_else(|_| gone())?;
        seat.silenced.store(false, Ordering::Release);
        seat.place.send_replace(Place::Here);
        Ok(term)
    }

    /// A slot that was here has ended: whether because its log gave no answer.
    pub fn set_silenced(&self, slot: SlotId, silenced: bool) {
        if let Ok(seat) = self.seat(slot) {
            seat.silenced.store(silenced, Ordering::Release);
        }
    }

    /// Answers a read that may be stale from this node's copy of a slot which was here until its
    /// log fell silent, and of which nothing was heard since. `false`: it is another read, or the
    /// slot another's; the mail is dropped.
    pub fn read_copy(&self, slot: SlotId, mail: impl FnOnce() -> Mail) -> bool {
        let silenced = |seat: &Seat| {
            seat.silenced.load(Ordering::Acquire) && *seat.place.borrow() == Place::UNKNOWN
        };
        if !self.seat(slot).is_ok_and(silenced) {
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
        self.seat(slot).map_or(Place::UNKNOWN, |seat| seat.place.borrow().clone())
    }

    /// # Errors
    /// `slot-not-found`.
    pub fn watch_place(&self, slot: SlotId) -> Result<watch::Receiver<Place>, Error> {
        Ok(self.seat(slot)?.place.subscribe())
    }

    /// Changes where a slot is, if `change` makes something else of it.
    pub fn set_place(&self, slot: SlotId, change: impl FnOnce(&Place) -> Option<Place>) -> bool {
        let Ok(seat) = self.seat(slot) else { return false };
        seat.place.send_if_modified(|place| match change(place) {
            Some(next) if next != *place => {
                *place = next;
                true
            }
            _ => false,
        })
    }

    /// Changes where a slot is, if it is at `from`.
    pub fn replace_place(&self, slot: SlotId, from: &Place, to: Place) -> bool {
        self.set_place(slot, |place| (place == from).then_some(to))
    }

    /// Waits until a slot has no task, and keeps one from starting as long as it is held.
    ///
    /// # Errors
    /// `slot-not-found`.
    pub async fn hold(&self, slot: SlotId) -> Result<tokio::sync::OwnedMutexGuard<()>, Error> {
        Ok(self.seat(slot)?.ownership.lock().await)
    }

    /// The slots that are here, with their terms.
    pub fn here(&self) -> Vec<(SlotId, Term)> {
        let here = (0..self.slot_count()).filter(|&slot| self.place(slot) == Place::Here);
        let with_term = here.map(|slot| {
            let running = self.running(slot).ok().flatten();
            (slot, running.map_or(0, |handle| handle.stats.term.load(Ordering::Relaxed)))
        });
        with_term.collect()
    }
}
