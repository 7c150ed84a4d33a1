//! A peer that is served: its requests go to the node, answers and live items to its outbox.

use super::{
    Handler, Request, Response,
    handshake::Refusal,
    link::live_cost,
    outbox::{Assembler, Outbox},
    proto::{Frame, Item, kind},
    transport::{FrameError, FramesIn},
    wire::{self, Parts},
};
use crate::{
    error::{Code, Error},
    level::{self, FeatureLevel},
    limits,
    message::{Live, LiveReceiver},
    telemetry::{metrics, repeats},
};
use bytes::Bytes;
use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, poll_fn},
    stream::FuturesUnordered,
};
use std::{
    collections::HashMap,
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::{
    sync::{oneshot, watch},
    task::{AbortHandle, JoinHandle},
    time::{MissedTickBehavior, interval},
};

/// A peer that is served.
pub(super) struct Serving<'a> {
    name: Arc<str>,
    handler: Arc<dyn Handler>,
    outbox: &'a Arc<Outbox>,
    level: Arc<FeatureLevel>,
    pieces: Assembler,
    work: FuturesUnordered<Work>,
    /// Requests among `work`.
    served: usize,
    /// Those that the peer can still give up.
    reads: HashMap<u64, AbortHandle>,
    subscriptions: HashMap<u64, Subscription>,
    /// Ticks since the peer's last sign of life.
    silent: u32,
    stopping: bool,
}

/// How a link ended.
pub(super) enum End {
    /// The peer broke the rules.
    Ours(Refusal),
    /// The peer found that this node is not the one that it called, or that something else does not
    /// fit.
    Theirs(Refusal),
    /// The connection ended, or had to.
    Gone(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ours(refusal) => refusal.fmt(f),
            Self::Theirs(refusal) => write!(f, "it closed the link: {refusal}"),
            Self::Gone(why) => f.write_str(why),
        }
    }
}

struct Subscription {
    /// What may still be sent; the last item may have passed it.
    credit: i64,
    /// While there is no credit.
    parked: Option<Pump>,
    /// Ends the pump when it is dropped.
    _cancel: oneshot::Sender<Infallible>,
}

impl<'a> Serving<'a> {
    pub fn new(
        name: Arc<str>,
        handler: Arc<dyn Handler>,
        outbox: &'a Arc<Outbox>,
        level: Arc<FeatureLevel>,
    ) -> Self {
        Self {
            name,
            handler,
            outbox,
            level,
            pieces: Assembler::default(),
            work: FuturesUnordered::new(),
            served: 0,
            reads: HashMap::new(),
            subscriptions: HashMap::new(),
            silent: 0,
            stopping: false,
        }
    }

    /// Serves until the link ends.
    pub async fn run(
        mut self,
        frames: &mut FramesIn,
        mut replaced: oneshot::Receiver<Infallible>,
        mut stop: watch::Receiver<bool>,
    ) -> End {
        let outbox = self.outbox;
        let mut ticks = interval(limits::PEER_PING_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut room = true;
        loop {
            tokio::select! {
                frame = frames.next() => match frame {
                    Some(Ok(frame)) => {
                        if let Err(end) = self.frame(frame) {
                            return end;
                        }
                    }
                    None => return End::Gone("it closed the link".into()),
                    Some(Err(FrameError::Malformed(why))) => {
                        return End::Ours(Refusal::malformed(why));
                    }
                    Some(Err(error)) => return End::Gone(error.into_text()),
                },
                Some(done) = self.work.next(), if room && !self.work.is_empty() => {
                    self.done(done);
                    for _ in 1..limits::PEER_ANSWERS_PER_TURN_MAX {
                        let Some(Some(done)) = self.work.next().now_or_never() else { break };
                        self.done(done);
                    }
                }
                () = poll_fn(|cx| outbox.poll_room(cx)), if !room => {}
                _ = ticks.tick() => {
                    // The peer pings this often, and finds out sooner that a link is dead.
                    self.silent += 1;
                    if self.silent > limits::PEER_SILENT_PINGS_MAX + 2 {
                        return End::Gone("the peer sends nothing".into());
                    }
                }
                _ = &mut replaced => return End::Gone("the peer made another link".into()),
                _ = stop.changed(), if !self.stopping => self.stopping = true,
            }
            if self.stopping && self.served == 0 {
                return End::Gone("this node stops".into());
            }
            room = outbox.has_room();
        }
    }

    fn frame(&mut self, frame: Frame) -> Result<(), End> {
        self.silent = 0;
        let metrics = metrics();
        metrics.peer_frames_in.increment(1);
        let bytes: usize = frame.items.iter().map(Item::cost).sum();
        metrics.peer_bytes_in.increment(bytes as u64);
        for item in frame.items {
            let malformed = |what| End::Ours(Refusal::malformed(what));
            let Some(item) = self.pieces.take(item).map_err(malformed)? else { continue };
            let id = item.id;
            match item.kind {
                kind::REQUEST => self.request(id, Parts { head: item.head, body: item.body }),
                kind::PING => self.outbox.urgent(Item::new(kind::PONG, id)),
                kind::CREDIT => self.credit(id, item.total),
                kind::CANCEL => {
                    self.subscriptions.remove(&id);
                    if let Some(read) = self.reads.remove(&id) {
                        read.abort();
                    }
                }
                kind::GO_AWAY => {
                    return Err(End::Theirs(Refusal::read(&item)));
                }
                kind => {
                    let what = format!("the peer sent an item of unknown kind {kind}");
                    return Err(End::Ours(Refusal::malformed(what)));
                }
            }
        }
        Ok(())
    }

    fn request(&mut self, id: u64, parts: Parts) {
        metrics().peer_served.increment(1);
        if self.stopping {
            let error = Error::new(Code::Unavailable, "the node is stopping");
            return self.answer(id, Err(error));
        }
        if self.served >= limits::PEER_SERVED_MAX {
            let error = Error::new(Code::Unavailable, "the node has too many requests of a peer");
            return self.answer(id, Err(error));
        }
        let request = match wire::decode_request(parts) {
            Ok(request) => request,
            Err(why) => {
                if repeats::admit("can't decode a peer's request", &self.name) {
                    tracing::warn!(peer = %self.name, "can't decode a peer's request: {why}");
                }
                return self.answer(id, Err(super::undecoded(&why)));
            }
        };
        self.served += 1;
        let (read, message) = (request.is_read(), matches!(request, Request::Message { .. }));
        let future = self.handler.handle(&self.name, request);
        if message {
            // It only waits for its slot.
            return self.work.push(Work::Answer { id, future });
        }
        // May take long, or the thread: must not hold up the link.
        let task = crate::task::run(future);
        if read {
            self.reads.insert(id, task.abort_handle());
        }
        self.work.push(Work::Task { id, task, read });
    }

    fn credit(&mut self, id: u64, credit: u64) {
        let Some(subscription) = self.subscriptions.get_mut(&id) else { return };
        let most = limits::PEER_CREDIT as i64;
        let more = i64::try_from(credit).unwrap_or(i64::MAX);
        subscription.credit = subscription.credit.saturating_add(more).min(most);
        if subscription.credit > 0
            && let Some(mut pump) = subscription.parked.take()
        {
            pump.credit = subscription.credit as u64;
            self.work.push(Work::Live(Some(pump)));
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Answered(id, answer) => {
                self.served -= 1;
                self.reads.remove(&id);
                self.answer(id, answer);
            }
            Done::Aborted(id) => {
                self.served -= 1;
                self.reads.remove(&id);
            }
            Done::Live(pump, Batch { items, spent, ended }) => self.live(pump, items, spent, ended),
            Done::Cancelled => {}
        }
    }

    fn answer(&mut self, id: u64, mut answer: Result<Response, Error>) {
        let live = match &mut answer {
            Ok(Response::Subscribed(subscribed)) => subscribed.live.take(),
            _ => None,
        };
        if live.is_some() && self.subscriptions.len() >= limits::PEER_SUBSCRIPTIONS_MAX {
            let detail = "the node has too many subscriptions of a peer";
            answer = Err(Error::new(Code::Unavailable, detail));
        }
        let Parts { mut head, mut body } = encode(answer);
        if !wire::fits(&head, &body) {
            let error = Error::internal(format!(
                "an answer of {} bytes is larger than the limit between nodes, {}",
                body.len(),
                limits::PEER_ITEM_BYTES_MAX
            ));
            Parts { head, body } = encode(Err(error));
        }
        let large = body.len() > limits::PEER_PIECE_BYTES;
        let item = |kind| Item { head, body, ..Item::new(kind, id) };
        match live {
            // In order with the live items that follow it.
            Some(live) if self.subscriptions.len() < limits::PEER_SUBSCRIPTIONS_MAX => {
                self.outbox.ordered(item(kind::RESPONSE_LIVE));
                let (_cancel, cancelled) = oneshot::channel();
                let credit = limits::PEER_CREDIT;
                let subscription = Subscription { credit: credit as i64, parked: None, _cancel };
                self.subscriptions.insert(id, subscription);
                let level = self.level.clone();
                self.work.push(Work::Live(Some(Pump { id, live, cancelled, credit, level })));
            }
            _ if large => self.outbox.bulk(item(kind::RESPONSE)),
            _ => self.outbox.ordered(item(kind::RESPONSE)),
        }
    }

    fn live(&mut self, mut pump: Pump, items: Vec<Parts>, spent: u64, ended: bool) {
        let id = pump.id;
        let Some(subscription) = self.subscriptions.get_mut(&id) else { return };
        for Parts { head, body } in items {
            self.outbox.ordered(Item { head, body, ..Item::new(kind::LIVE, id) });
        }
        if ended {
            let total = u64::from(pump.live.lagged());
            self.outbox.ordered(Item { total, ..Item::new(kind::LIVE_END, id) });
            self.subscriptions.remove(&id);
            return;
        }
        subscription.credit -= spent as i64;
        if subscription.credit > 0 {
            pump.credit = subscription.credit as u64;
            self.work.push(Work::Live(Some(pump)));
        } else {
            subscription.parked = Some(pump);
        }
    }
}

/// An answer, or why it has no form. Where that has none either the caller gets an empty head, which
/// it can't take for an answer.
fn encode(answer: Result<Response, Error>) -> Parts {
    wire::encode_response(answer).or_else(|error| wire::encode_response(Err(error))).unwrap_or_else(
        |error| {
            tracing::error!(%error, "can't answer a peer");
            Parts { head: Bytes::new(), body: Bytes::new() }
        },
    )
}

/// What a served peer waits for.
enum Work {
    Answer {
        id: u64,
        future: BoxFuture<'static, Result<Response, Error>>,
    },
    /// A read ends with the link; everything else runs to its end.
    Task {
        id: u64,
        task: JoinHandle<Result<Response, Error>>,
        read: bool,
    },
    Live(Option<Pump>),
}

/// The live end of a subscription, on its way to the peer.
struct Pump {
    id: u64,
    live: LiveReceiver,
    cancelled: oneshot::Receiver<Infallible>,
    credit: u64,
    level: Arc<FeatureLevel>,
}

enum Done {
    Answered(u64, Result<Response, Error>),
    Aborted(u64),
    Live(Pump, Batch),
    Cancelled,
}

/// What a pump took out of its subscription in one go.
#[derive(Default)]
struct Batch {
    items: Vec<Parts>,
    spent: u64,
    ended: bool,
}

impl Future for Work {
    type Output = Done;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Done> {
        match &mut *self {
            Self::Answer { id, future } => {
                future.as_mut().poll(cx).map(|answer| Done::Answered(*id, answer))
            }
            Self::Task { id, task, .. } => Pin::new(task).poll(cx).map(|ended| match ended {
                Ok(answer) => Done::Answered(*id, answer),
                Err(e) if e.is_cancelled() => Done::Aborted(*id),
                Err(_) => Done::Answered(*id, Err(Error::internal("the request ended in a panic"))),
            }),
            Self::Live(slot) => {
                let Some(pump) = slot else { return Poll::Ready(Done::Cancelled) };
                if Pin::new(&mut pump.cancelled).poll(cx).is_ready() {
                    *slot = None;
                    return Poll::Ready(Done::Cancelled);
                }
                let batch = pump.take(cx);
                if batch.items.is_empty() && !batch.ended {
                    return Poll::Pending;
                }
                match slot.take() {
                    Some(pump) => Poll::Ready(Done::Live(pump, batch)),
                    None => Poll::Ready(Done::Cancelled),
                }
            }
        }
    }
}

impl Pump {
    /// What is there, within the credit.
    fn take(&mut self, cx: &mut Context<'_>) -> Batch {
        let mut batch = Batch::default();
        while batch.spent < self.credit {
            match self.live.poll_recv(cx) {
                Poll::Ready(Some(Live::Ephemeral(_))) if !self.takes_ephemeral(batch.spent) => {
                    metrics().ephemeral_dropped.increment(1);
                }
                Poll::Ready(Some(item)) => {
                    let parts = match wire::encode_live(item) {
                        Ok(parts) => parts,
                        Err(error) => {
                            tracing::error!(%error, "a subscription of a peer ends");
                            batch.ended = true;
                            break;
                        }
                    };
                    batch.spent += live_cost(&parts);
                    batch.items.push(parts);
                }
                Poll::Ready(None) => {
                    batch.ended = true;
                    break;
                }
                Poll::Pending => break,
            }
        }
        batch
    }

    /// Whether the peer knows ephemeral events, and keeps up: half of the credit is for what must not be
    /// lost.
    fn takes_ephemeral(&self, spent: u64) -> bool {
        let left = self.credit.saturating_sub(spent);
        self.level.get() >= level::EPHEMERAL_FROM && left > limits::PEER_CREDIT / 2
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Self::Task { task, read: true, .. } = self {
            task.abort();
        }
    }
}
