//! The way of a request in a cluster: to the slot's task when the slot is here, to the node that
//! owns it when it is away, and around again when it has moved meanwhile.
//!
//! Retries back off exponentially with jitter and end with the request's deadline. A message that
//! leaves this node carries an idempotency key, of this node's making where the client gave none,
//! so that sending it again is safe whatever became of the first time.

mod pause;

use self::pause::{Seen, backoff, pause};
use super::{
    Place, Routed, Router,
    lane::{Lane, Refused, Ticket, To},
};
use crate::{
    backoff::Backoff,
    error::{Cause, Code, Error},
    limits,
    log::record::INTERNAL_KEY,
    message::{Incoming, Pending, Purpose, Sent, gone},
    names::{SessionKey, SlotId},
    operation::Message,
    rpc::{PeerError, Peers, Request, Response},
    slot::{Mailed, seat::SeatEvent},
    telemetry::metrics,
};
use futures_util::future::BoxFuture;
use parking_lot::RwLock;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{sync::oneshot, time::Instant};

/// Sends requests to where their slot is.
pub struct Forwarder {
    router: Arc<Router>,
    peers: Arc<dyn Peers>,
    name: Arc<str>,
    lanes: Box<[Arc<Lane>]>,
    /// Reads that wait for a slot to be somewhere.
    waiting_reads: AtomicUsize,
    refused: Refused,
    /// Whom the ring proposes, for slots of which nothing is known.
    proposed: RwLock<Vec<Option<Arc<str>>>>,
    keys: KeySource,
    deadline: Duration,
    held_max: usize,
}

/// Keys for messages whose client gave none.
struct KeySource {
    /// Of this process.
    random: u128,
    next: AtomicU64,
}

/// Where an attempt went.
enum Sending {
    Here(oneshot::Receiver<Result<Sent, Error>>),
    Away { peer: Arc<str>, answer: BoxFuture<'static, Result<Response, PeerError>> },
}

/// What is known of a request that has to go around again.
struct Trouble {
    error: Error,
    /// It may have been carried out.
    doubtful: bool,
    /// Whoever was asked named another owner: look there at once.
    moved: bool,
}

impl Forwarder {
    pub fn new(
        router: Arc<Router>,
        peers: Arc<dyn Peers>,
        name: Arc<str>,
        deadline: Duration,
        held_max: usize,
        instance: u128,
    ) -> Self {
        let lanes = (0..router.slot_count()).map(|_| Arc::default()).collect();
        let proposed = RwLock::new(vec![None; usize::from(router.slot_count())]);
        Self {
            router,
            peers,
            name,
            lanes,
            waiting_reads: AtomicUsize::new(0),
            refused: Refused::default(),
            proposed,
            keys: KeySource { random: instance, next: AtomicU64::new(0) },
            deadline,
            held_max,
        }
    }

    /// Whom to ask for slots of which nothing is known yet.
    pub fn propose(&self, owners: Vec<Option<Arc<str>>>) {
        *self.proposed.write() = owners;
    }

    pub fn peers(&self) -> &Arc<dyn Peers> {
        &self.peers
    }

    pub fn refused(&self) -> &Refused {
        &self.refused
    }

    // ---- messages ------------------------------------------------------------------------------

    /// Sends a message on its way, waiting while its slot is nowhere; the order of calls by one
    /// task is the order of the messages.
    ///
    /// # Errors
    /// `mailbox-full` when too many wait for the slot; `unavailable` past the deadline.
    pub async fn enqueue(
        self: &Arc<Self>,
        key: &SessionKey,
        message: Incoming,
    ) -> Result<Pending, Error> {
        // Its handler may run right here: a socket that has many frames lets others run between.
        tokio::task::consume_budget().await;
        let (journey, first) = self.begin(key, message).await?;
        // On its own, so that whoever does not look at its answer holds up nobody behind it.
        let arrived = crate::task::run(journey.arrive(first));
        Ok(Pending::on_its_way(Box::pin(async move {
            arrived.await.unwrap_or_else(|_| {
                Err(Error::internal("a forwarding task ended without a result"))
            })
        })))
    }

    /// Sends a message and waits for its answer. Whoever calls this polls it to its end, or drops
    /// it: as long as it does neither, messages behind this one may wait.
    ///
    /// # Errors
    /// As [`Forwarder::enqueue`], and what became of the message.
    pub async fn send(
        self: &Arc<Self>,
        key: &SessionKey,
        message: Incoming,
    ) -> Result<Sent, Error> {
        let (journey, first) = self.begin(key, message).await?;
        journey.arrive(first).await
    }

    /// Sends a message for the first time.
    async fn begin(
        self: &Arc<Self>,
        key: &SessionKey,
        message: Incoming,
    ) -> Result<(Journey, Sending), Error> {
        let slot = self.router.slot_of(key);
        let deadline = crate::clock::timer_now() + self.deadline;
        let ticket = self.lane(slot)?.enter(self.held_max).ok_or_else(|| {
            Error::of(
                Cause::Full,
                format!("{} messages are already waiting for this slot; slow down", self.held_max),
            )
        })?;
        let mut journey = Journey {
            forwarder: self.clone(),
            slot,
            key: key.clone(),
            message,
            ticket,
            attempt: 0,
            deadline,
            backoff: backoff(),
            seen: Seen::of(Place::UNKNOWN),
            doubtful: false,
            followed: false,
        };
        let first = journey.depart(None).await?;
        Ok((journey, first))
    }

    fn lane(&self, slot: SlotId) -> Result<&Arc<Lane>, Error> {
        let unknown = || Error::new(Code::SlotNotFound, format!("there is no slot {slot}"));
        self.lanes.get(usize::from(slot)).ok_or_else(unknown)
    }

    /// The peer to ask for a slot that is not here.
    fn owner(&self, slot: SlotId, known: Option<Arc<str>>) -> Option<Arc<str>> {
        let proposed = || self.proposed.read().get(usize::from(slot)).cloned().flatten();
        known.or_else(proposed).filter(|owner| *owner != self.name)
    }

    /// `peer` has answered that it does not own a slot, and perhaps who does.
    fn not_owner(&self, slot: SlotId, peer: &Arc<str>, owner: Option<Arc<str>>, term: u64) {
        // Its own name would send the request in a circle.
        let owner = owner.as_ref().filter(|owner| **owner != self.name);
        self.router.on(slot, SeatEvent::Denied { by: peer, owner, term });
    }

    // ---- everything else -----------------------------------------------------------------------

    /// Asks a slot, wherever it is; several times if need be.
    ///
    /// # Errors
    /// The slot's own, or `unavailable` when it could not be asked before the deadline.
    pub async fn call<O: Routed>(&self, operation: O) -> Result<O::Answer, Error> {
        let (slot, asked) = (operation.slot(self.router.slot_count()), O::PURPOSE);
        let mail = |reply| operation.clone().mail(reply);
        let request = || operation.clone().request();
        // What may have been kept by an attempt whose answer is lost: a later one may be refused for
        // reasons that do not apply to the first.
        let mut doubtful = false;
        let deadline = crate::clock::timer_now() + self.deadline;
        let mut backoff = backoff();
        loop {
            let place = self.router.place(slot);
            let mut seen = Seen::of(place.clone());
            if matches!(place, Place::Away { owner: None, .. }) {
                let (reply, answer) = oneshot::channel();
                if self.router.read_copy(slot, || mail(reply)) {
                    return answer.await.unwrap_or_else(|_| Err(gone(asked)));
                }
            }
            let trouble = match place {
                Place::Here => {
                    let (reply, answer) = oneshot::channel();
                    match self.router.try_deliver(slot, mail(reply))? {
                        Ok(Ok(())) => match answer.await {
                            Ok(Err(error)) if is_elsewhere(&error) => error,
                            Ok(Err(error)) if may_ask_again(asked, &error) => {
                                doubtful = true;
                                error
                            }
                            Ok(answer) => return answer,
                            // One that is done twice could take a session that was made anew.
                            Err(_) if asked == Purpose::Delete => return Err(gone(asked)),
                            Err(_) => {
                                doubtful |= asked == Purpose::Operation;
                                gone(asked)
                            }
                        },
                        Ok(Err(full)) if doubtful => full,
                        Ok(Err(full)) => return Err(full),
                        Err(_) => stopped(),
                    }
                }
                Place::Moving => being_moved(slot),
                Place::Away { owner, .. } => match self.owner(slot, owner) {
                    None => nobody(slot),
                    Some(peer) => match self
                        .ask(&operation, slot, &peer, request(), &mut seen)
                        .await
                    {
                        Ok(response) => {
                            return O::answer(response).ok_or_else(|| {
                                Error::internal(format!("node {peer} sent an unexpected answer"))
                            });
                        }
                        Err(PeerError::Refused(error)) if may_ask_again(asked, &error) => {
                            doubtful = true;
                            error
                        }
                        Err(PeerError::Refused(full)) if doubtful && full.is(Cause::Full) => full,
                        Err(PeerError::Refused(error)) if !is_elsewhere(&error) => {
                            return Err(error);
                        }
                        // As above.
                        Err(error @ PeerError::Broken { .. }) if asked == Purpose::Delete => {
                            return Err(Error::of(Cause::Undecided, error.to_string()));
                        }
                        Err(error) => {
                            let broke = matches!(error, PeerError::Broken { .. });
                            doubtful |= broke && asked == Purpose::Operation;
                            Error::of(Cause::Unreachable, error.to_string())
                        }
                    },
                },
            };
            let undecided = doubtful.then(|| {
                Error::of(
                    Cause::Undecided,
                    format!(
                        "it is not known whether this was done; check the session's history: {}",
                        trouble.detail
                    ),
                )
            });
            let waited = self.wait(slot, &seen, &mut backoff, deadline, trouble).await;
            waited.map_err(|given_up| undecided.unwrap_or(given_up))?;
        }
    }

    /// As [`Self::forward`], and counts what a handler has used on the other node.
    async fn ask<O: Routed>(
        &self,
        operation: &O,
        slot: SlotId,
        peer: &Arc<str>,
        request: Request,
        seen: &mut Seen,
    ) -> Result<Response, PeerError> {
        let answered = self.forward(slot, peer, request, seen).await;
        let used = match &answered {
            Ok(Response::Answer(answer)) => answer.guest_time,
            Err(PeerError::Refused(error)) => error.guest_time,
            _ => Duration::ZERO,
        };
        if !used.is_zero()
            && let Some((key, client)) = operation.asker()
        {
            self.router.context().quota.spent(&key, client.as_deref(), used);
        }
        answered
    }

    /// `seen` learns the slot's place after the peer's answer.
    async fn forward(
        &self,
        slot: SlotId,
        peer: &Arc<str>,
        request: Request,
        seen: &mut Seen,
    ) -> Result<Response, PeerError> {
        metrics().forwards.increment(1);
        match self.peers.call(peer, request)?.await? {
            Response::NotOwner { owner, term, .. } => {
                self.not_owner(slot, peer, owner, term);
                seen.then(self.router.place(slot));
                Err(PeerError::Refused(Error::of(
                    Cause::NotOwner,
                    format!("node {peer} does not own slot {slot}"),
                )))
            }
            response => Ok(response),
        }
    }

    /// As [`Self::pause`], for at most [`limits::WAITING_READS_MAX`] requests.
    async fn wait(
        &self,
        slot: SlotId,
        seen: &Seen,
        backoff: &mut Backoff,
        deadline: Instant,
        trouble: Error,
    ) -> Result<(), Error> {
        let waiting = self.waiting_reads.fetch_add(1, Ordering::Relaxed);
        let _left = Leave(&self.waiting_reads);
        if waiting >= limits::WAITING_READS_MAX {
            return Err(Error::of(
                Cause::Full,
                format!("{waiting} reads are already waiting for slots of this node; slow down"),
            ));
        }
        self.pause(slot, seen, backoff, deadline, trouble).await
    }

    /// Waits until another try is worth it ([`pause`]).
    async fn pause(
        &self,
        slot: SlotId,
        seen: &Seen,
        backoff: &mut Backoff,
        deadline: Instant,
        trouble: Error,
    ) -> Result<(), Error> {
        metrics().forward_retries.increment(1);
        pause(self.router.watch_place(slot)?, seen, backoff, deadline, trouble).await
    }
}

/// One message until it is answered.
struct Journey {
    forwarder: Arc<Forwarder>,
    slot: SlotId,
    key: SessionKey,
    message: Incoming,
    ticket: Ticket,
    attempt: u64,
    deadline: Instant,
    backoff: Backoff,
    seen: Seen,
    /// An earlier attempt may have been carried out.
    doubtful: bool,
    /// It went at once to the owner that a peer named.
    followed: bool,
}

impl Journey {
    /// Sends the message to where its slot is, once it is somewhere.
    async fn depart(&mut self, mut trouble: Option<Error>) -> Result<Sending, Error> {
        let mut waited = false;
        loop {
            self.ticket.turn().await;
            let forwarder = self.forwarder.clone();
            self.attempt = forwarder.lane(self.slot)?.attempt();
            let place = forwarder.router.place(self.slot);
            self.seen = Seen::of(place.clone());
            let to = match &place {
                Place::Here => Some(To::Here),
                Place::Moving => None,
                Place::Away { owner, .. } => {
                    forwarder.owner(self.slot, owner.clone()).map(To::Peer)
                }
            };
            // Not for ever: a node that is gone without a word answers none of them.
            if let Some(to) = to.as_ref().filter(|to| !waited && !self.ticket.follows(to)) {
                waited = true;
                let _ = tokio::time::timeout(limits::LANE_TIMEOUT, self.ticket.follow(to)).await;
                continue;
            }
            let now = match place {
                Place::Here => match self.deliver()? {
                    Some(sending) => return Ok(sending),
                    None => stopped(),
                },
                Place::Moving => being_moved(self.slot),
                Place::Away { .. } => match to {
                    None | Some(To::Here) => nobody(self.slot),
                    Some(To::Peer(peer)) => {
                        let id = self.message.id.get_or_insert_with(|| forwarder.keys.next());
                        debug_assert!(!id.is_empty());
                        let request = Request::Message {
                            key: self.key.clone(),
                            message: self.message.clone(),
                            lane: self.attempt,
                        };
                        metrics().forwards.increment(1);
                        match forwarder.peers.call(&peer, request) {
                            Ok(answer) => {
                                self.ticket.sent(self.attempt, To::Peer(peer.clone()));
                                return Ok(Sending::Away { peer, answer });
                            }
                            Err(error) => Error::of(Cause::Unreachable, error.to_string()),
                        }
                    }
                },
            };
            let error = trouble.take().filter(|_| self.doubtful).unwrap_or(now);
            let (deadline, backoff) = (self.deadline, &mut self.backoff);
            let reported = error.clone();
            forwarder.pause(self.slot, &self.seen, backoff, deadline, reported).await?;
            trouble = Some(error);
        }
    }

    /// To the slot: taken at once, or into its mailbox. `None`: the slot's task has ended.
    fn deliver(&self) -> Result<Option<Sending>, Error> {
        let (reply, answer) = oneshot::channel();
        let (key, message) = (self.key.clone(), self.message.clone());
        let mail = Message::new(key, message).mail(reply);
        // What is behind this one in its lane need not wait for its handler.
        let placed = || self.ticket.sent(self.attempt, To::Here);
        match self.forwarder.router.try_deliver_then(self.slot, mail, placed)? {
            Ok(Ok(())) => Ok(Some(Sending::Here(answer))),
            // Too many wait, but an earlier attempt may have got through: not a plain no.
            Ok(Err(_)) if self.doubtful => Ok(None),
            Ok(Err(full)) => Err(full),
            Err(_) => Ok(None),
        }
    }

    async fn arrive(mut self, mut sending: Sending) -> Result<Sent, Error> {
        loop {
            let trouble = match self.outcome(sending).await {
                Ok(Ok(mut sent)) => {
                    // To its sender a message is no repeat because this node sent it twice.
                    let own = |id: &String| id.starts_with(INTERNAL_KEY);
                    sent.replayed &= !self.message.id.as_ref().is_some_and(own);
                    return Ok(sent);
                }
                // An earlier attempt may have been kept: a plain no would be wrong of it, unless the
                // slot has looked for the key before it answered.
                Ok(Err(error)) if self.doubtful && !is_of_handler(&error) => {
                    Trouble { error, doubtful: true, moved: false }
                }
                Ok(refused) => return refused,
                Err(trouble) => trouble,
            };
            self.ticket.returned(self.attempt);
            self.doubtful |= trouble.doubtful;
            let reported = match self.doubtful {
                // Its own text says so.
                true if trouble.error.is(Cause::Undecided) => trouble.error,
                true => Error::of(
                    Cause::Undecided,
                    format!(
                        "it is not known whether the message was kept; repeat it with the same \
                         idempotency key to find out: {}",
                        trouble.error.detail
                    ),
                ),
                false => trouble.error,
            };
            // Once only: two nodes that name each other would pass it to and fro without a pause.
            let follows = trouble.moved && !std::mem::replace(&mut self.followed, true);
            if !follows || self.forwarder.router.place(self.slot) == Place::Here {
                let (slot, deadline) = (self.slot, self.deadline);
                let forwarder = self.forwarder.clone();
                forwarder
                    .pause(slot, &self.seen, &mut self.backoff, deadline, reported.clone())
                    .await?;
            }
            sending = self.depart(Some(reported)).await?;
        }
    }

    /// How an attempt ended: for good, or in a way that another one may mend.
    async fn outcome(&mut self, sending: Sending) -> Result<Result<Sent, Error>, Trouble> {
        let has_key = self.message.id.is_some();
        match sending {
            Sending::Here(answer) => match answer.await {
                Ok(Err(error)) => self.classify(error),
                Ok(sent) => Ok(sent),
                Err(_) => {
                    let error = gone(Purpose::Message);
                    match has_key {
                        true => Err(Trouble { error, doubtful: true, moved: false }),
                        false => Ok(Err(error)),
                    }
                }
            },
            Sending::Away { peer, answer } => match answer.await {
                Ok(Response::Sent(sent)) => {
                    self.spent(sent.guest_time);
                    Ok(Ok(sent))
                }
                Ok(Response::NotOwner { owner, term, .. }) => {
                    let moved = owner.as_ref().is_some_and(|owner| *owner != peer);
                    self.forwarder.not_owner(self.slot, &peer, owner, term);
                    self.seen.then(self.forwarder.router.place(self.slot));
                    let why = format!("node {peer} no longer owns slot {}", self.slot);
                    let error = Error::of(Cause::Moved, why);
                    Err(Trouble { error, doubtful: false, moved })
                }
                Ok(_) => Ok(Err(Error::internal(format!("node {peer} sent an unexpected answer")))),
                Err(PeerError::Refused(error)) => {
                    self.spent(error.guest_time);
                    self.classify(error)
                }
                Err(error @ PeerError::Unreachable { .. }) => {
                    let error = Error::of(Cause::Unreachable, error.to_string());
                    Err(Trouble { error, doubtful: false, moved: false })
                }
                Err(error @ PeerError::Broken { .. }) => {
                    let error = Error::of(Cause::Unreachable, error.to_string());
                    Err(Trouble { error, doubtful: true, moved: false })
                }
            },
        }
    }

    /// Its handler has used so much on another node, which this one let it through to.
    fn spent(&self, time: Duration) {
        self.forwarder.router.context().quota.spent(
            &self.key,
            self.message.client.as_deref(),
            time,
        );
    }

    fn classify(&self, error: Error) -> Result<Result<Sent, Error>, Trouble> {
        if is_elsewhere(&error) {
            return Err(Trouble { error, doubtful: false, moved: false });
        }
        if error.is(Cause::Undecided) && self.message.id.is_some() {
            return Err(Trouble { error, doubtful: true, moved: false });
        }
        Ok(Err(error))
    }
}

/// The slot has left, or is leaving: another try may find it.
fn is_elsewhere(error: &Error) -> bool {
    error.cause.is_some_and(Cause::may_be_elsewhere)
}

/// Returned after the slot has looked for the message's idempotency key.
fn is_of_handler(error: &Error) -> bool {
    error.cause.is_some_and(Cause::follows_look_up)
}

/// It may have been kept, and is carried out once however often it comes.
fn may_ask_again(asked: Purpose, error: &Error) -> bool {
    asked == Purpose::Operation && error.is(Cause::Undecided)
}
fn stopped() -> Error {
    Error::of(Cause::Opening, "the slot is being opened")
}
fn being_moved(slot: SlotId) -> Error {
    Error::of(Cause::Moving, format!("slot {slot} is being moved"))
}
fn nobody(slot: SlotId) -> Error {
    Error::of(Cause::NoOwner, format!("no known node owns slot {slot}"))
}

struct Leave<'a>(&'a AtomicUsize);
impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl KeySource {
    fn next(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{INTERNAL_KEY}{:032x}-{number:x}", self.random)
    }
}
