//! The link to one peer: the calls that wait for its answers, and the task that keeps the
//! connection.

use super::{
    PeerError, Request, Response,
    dial::{Opened, open},
    handshake::{Own, Refusal, word},
    outbox::{Assembler, Outbox},
    proto::{Frame, Item, kind},
    transport::{Form, FramesIn, pumped},
    wire::{self, Parts},
};
use crate::{
    backoff::Backoff,
    buffers::{self, Charge, Held, Kind},
    error::{Code, Error},
    limits,
    message::{LiveReceiver, LiveSender, live_channel},
    peer::member::Member,
    telemetry::metrics,
};
use futures_util::{StreamExt as _, future::BoxFuture};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

/// What callers and the link's task share.
pub(super) struct Link {
    peer: Arc<str>,
    state: Mutex<State>,
}

struct State {
    /// `Err`: there is no connection, for this reason.
    up: Result<Up, String>,
    /// Never used again, also not over another connection.
    next_id: u64,
    calls: HashMap<u64, Call>,
    /// Of the requests of `calls`.
    bytes: usize,
    /// A process of the peer that takes encrypted links: it is never called without.
    encrypts: Option<u128>,
}

impl State {
    fn take(&mut self, id: u64) -> Option<Call> {
        let call = self.calls.remove(&id)?;
        self.bytes -= call.bytes;
        Some(call)
    }
}

struct Up {
    outbox: Arc<Outbox>,
    instance: u128,
    address: SocketAddr,
    form: Form,
    _counted: Counted,
}

/// One of the links that the metrics count.
struct Counted;

impl Counted {
    fn new() -> Self {
        metrics().peer_links_out.increment(1.0);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics().peer_links_out.decrement(1.0);
    }
}

/// A request without an answer yet.
struct Call {
    answer: oneshot::Sender<Result<Reply, PeerError>>,
    since: Instant,
    /// The peer can stop working on it.
    read: bool,
    bytes: usize,
}

struct Reply {
    parts: Parts,
    live: Option<LiveReceiver>,
    /// What it takes, until its caller has it.
    held: Held,
}

impl Reply {
    fn new(parts: Parts, live: Option<LiveReceiver>) -> Self {
        let mut held = Held::default();
        if parts.body.len() > limits::CONNECTION_BYTES_FREE {
            let mut charge = Charge::new(buffers::shared().clone(), Kind::Answers);
            charge.hold(parts.body.len());
            held = charge.into();
        }
        Self { parts, live, held }
    }
}

/// What a link looks like from outside.
#[derive(Clone, Debug)]
#[allow(dead_code, reason = "tests look at all of it")]
pub struct LinkStatus {
    pub peer: Arc<str>,
    /// `Err`: why there is no connection.
    pub connected: Result<SocketAddr, String>,
    /// Requests without an answer, those included that wait to be written.
    pub in_flight: usize,
    /// Requests that wait to be written.
    pub queued: usize,
    pub(super) form: Option<Form>,
    /// Over this connection, what was written: items, and the frames that they were packed into.
    pub items: u64,
    pub frames: u64,
}

impl Link {
    pub fn new(peer: Arc<str>) -> Arc<Self> {
        let state = State {
            up: Err("not connected yet".into()),
            next_id: 1,
            calls: HashMap::new(),
            bytes: 0,
            encrypts: None,
        };
        Arc::new(Self { peer, state: Mutex::new(state) })
    }

    /// Queues a request.
    ///
    /// # Errors
    /// [`PeerError::Unreachable`] without a connection or room; [`PeerError::Refused`] when it is
    /// larger than [`limits::PEER_ITEM_BYTES_MAX`] or can't be encoded.
    pub fn call(
        self: &Arc<Self>,
        request: Request,
    ) -> Result<BoxFuture<'static, Result<Response, PeerError>>, PeerError> {
        let read = request.is_read();
        let Parts { head, body } = wire::encode_request(request).map_err(PeerError::Refused)?;
        if !wire::fits(&head, &body) {
            return Err(PeerError::Refused(Error::new(
                Code::BodyTooLarge,
                format!("a request to a peer has at most {} bytes", limits::PEER_ITEM_BYTES_MAX),
            )));
        }
        let (sender, receiver) = oneshot::channel();
        let id = {
            let state = &mut *self.state.lock();
            let up = state.up.as_ref().map_err(|why| self.unreachable(why))?;
            if state.calls.len() >= limits::PEER_IN_FLIGHT_MAX {
                return Err(self.full("too many requests are waiting for an answer"));
            }
            let bytes = head.len() + body.len();
            if state.bytes.saturating_add(bytes) > limits::PEER_IN_FLIGHT_BYTES_MAX {
                return Err(self.full("requests with too many bytes are waiting for an answer"));
            }
            let id = state.next_id;
            let item = Item { head, body, ..Item::new(kind::REQUEST, id) };
            up.outbox.offer(item).map_err(|why| self.full(why))?;
            state.next_id += 1;
            state.bytes += bytes;
            state
                .calls
                .insert(id, Call { answer: sender, since: crate::clock::timer_now(), read, bytes });
            id
        };
        metrics().peer_requests.increment(1);
        Ok(Box::pin(Answer { link: self.clone(), id, receiver, done: false }))
    }

    fn full(&self, why: &str) -> PeerError {
        metrics().peer_full.increment(1);
        PeerError::Unreachable { peer: self.peer.clone(), why: why.into() }
    }

    fn unreachable(&self, why: &str) -> PeerError {
        metrics().peer_unreachable.increment(1);
        PeerError::Unreachable { peer: self.peer.clone(), why: why.into() }
    }

    /// The connection is there: requests are taken from now on.
    fn connected(&self, up: Up) {
        self.state.lock().up = Ok(up);
    }

    /// The connection is gone: every request fails with whether the peer may have received it.
    pub fn broke(&self, why: &str) {
        let (calls, written) = {
            let mut state = self.state.lock();
            let was = std::mem::replace(&mut state.up, Err(why.into()));
            let written = was.map_or(0, |up| {
                up.outbox.close();
                up.outbox.written()
            });
            state.bytes = 0;
            (std::mem::take(&mut state.calls), written)
        };
        for (id, call) in calls {
            let error = if id <= written {
                metrics().peer_broken.increment(1);
                PeerError::Broken { peer: self.peer.clone(), why: why.into() }
            } else {
                self.unreachable(why)
            };
            let _ = call.answer.send(Err(error));
        }
    }

    /// Whether there is a connection to `member`, as it now is.
    fn is_to(&self, member: &Member) -> bool {
        let state = self.state.lock();
        state
            .up
            .as_ref()
            .is_ok_and(|up| up.instance == member.instance && up.address == member.peer)
    }

    /// The caller does not wait any longer.
    fn abandon(&self, id: u64) {
        let state = &mut *self.state.lock();
        let Some(call) = state.take(id) else { return };
        let Ok(up) = &state.up else { return };
        if !up.outbox.withdraw(id) && call.read {
            up.outbox.urgent(Item::new(kind::CANCEL, id));
        }
    }

    pub fn status(&self) -> LinkStatus {
        let state = self.state.lock();
        let counts = state.up.as_ref().map(|up| up.outbox.counts()).unwrap_or_default();
        LinkStatus {
            peer: self.peer.clone(),
            connected: state.up.as_ref().map(|up| up.address).map_err(Clone::clone),
            form: state.up.as_ref().ok().map(|up| up.form),
            in_flight: state.calls.len(),
            queued: counts.waiting,
            items: counts.items,
            frames: counts.frames,
        }
    }
}

/// The answer to come. Its caller decodes it: pages of one caller do not hold up the others.
struct Answer {
    link: Arc<Link>,
    id: u64,
    receiver: oneshot::Receiver<Result<Reply, PeerError>>,
    done: bool,
}

impl Future for Answer {
    type Output = Result<Response, PeerError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Poll::Ready(answer) = Pin::new(&mut self.receiver).poll(cx) else {
            return Poll::Pending;
        };
        self.done = true;
        let broken = |why: String| PeerError::Broken { peer: self.link.peer.clone(), why };
        let Reply { parts, live, held } =
            answer.unwrap_or_else(|_| Err(broken("the link was closed".into())))?;
        let mut response = wire::decode_response(parts)
            .map_err(|e| broken(format!("can't decode its answer: {e}")))?;
        match &mut response {
            Ok(Response::Subscribed(subscribed)) => {
                subscribed.live = live;
                subscribed.held = held;
            }
            Ok(Response::History(history)) => history.held = held,
            _ => {}
        }
        Poll::Ready(response.map_err(PeerError::Refused))
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.done {
            self.link.abandon(self.id);
        }
    }
}

/// Keeps the connection to the peer for as long as it runs.
pub(super) async fn run(link: Arc<Link>, own: Arc<Own>, mut target: watch::Receiver<Member>) {
    let mut wait = Backoff::new(limits::PEER_RETRY_MIN, limits::PEER_RETRY_MAX).spread(0.5..1.0);
    // What was logged last, so that a peer that stays away is one line in the log.
    let mut said = String::new();
    loop {
        let member = target.borrow_and_update().clone();
        let began = crate::clock::timer_now();
        let why = tokio::select! {
            why = connection(&link, &own, &member) => why,
            () = moved(&link, &mut target, &member) => {
                wait.reset();
                "it was restarted".into()
            }
        };
        let was_up = link.state.lock().up.is_ok();
        link.broke(&why);
        if was_up {
            tracing::warn!(peer = %link.peer, "lost the link to a peer: {why}");
        } else if said != why {
            tracing::info!(peer = %link.peer, address = %member.peer, "no link to a peer: {why}");
        }
        said = why;
        // A link that breaks as soon as it is there is no reason to hurry.
        if was_up && began.elapsed() >= limits::PEER_RETRY_MAX {
            wait.reset();
        }
        tokio::select! {
            () = sleep(wait.next()) => {}
            changed = target.changed() => {
                if changed.is_err() {
                    return;
                }
                wait.reset();
            }
        }
    }
}

/// Resolves when the peer is another process than the one that is, or is being, connected.
async fn moved(link: &Link, target: &mut watch::Receiver<Member>, member: &Member) {
    loop {
        if target.changed().await.is_err() {
            // The link is taken down from outside.
            std::future::pending::<()>().await;
        }
        let now = target.borrow_and_update();
        let same = now.peer == member.peer && now.instance == member.instance;
        if !same && !link.is_to(&now) {
            return;
        }
    }
}

/// One connection, from its start to its end. Gives the reason of the end.
async fn connection(link: &Link, own: &Own, member: &Member) -> String {
    let known = link.state.lock().encrypts == Some(member.instance);
    let encrypts = |instance| link.state.lock().encrypts = Some(instance);
    let opening = open(own, &link.peer, member, known, encrypts);
    let opened = timeout(limits::PEER_HANDSHAKE_TIMEOUT, opening).await;
    let opened = opened.unwrap_or_else(|_| {
        let secs = limits::PEER_HANDSHAKE_TIMEOUT.as_secs();
        Err(format!("no link within {secs} s"))
    });
    let Opened { outbox, frames, mut pump, peer, form } = match opened {
        Ok(opened) => opened,
        Err(why) => return why,
    };
    let (instance, address, _counted) = (peer.instance, member.peer, Counted::new());
    link.connected(Up { outbox: outbox.clone(), instance, address, form, _counted });
    metrics().peer_connects.increment(1);
    tracing::info!(peer = %link.peer, %address, form = form.as_str(), "linked to a peer");
    let session = Session::new(link, outbox, frames);
    tokio::select! {
        ended = pumped(&mut pump, session.run()) => ended.unwrap_or_else(|why| why),
        level = own.options.level.above(peer.newest) => {
            format!("the cluster is at feature level {level}, and it reads up to {}", peer.newest)
        }
    }
}

/// A connection at work.
struct Session<'a> {
    link: &'a Link,
    outbox: Arc<Outbox>,
    frames: FramesIn,
    pieces: Assembler,
    subscriptions: HashMap<u64, Subscription>,
    /// The number of the last ping, and of the last one that was answered.
    pinged: u64,
    answered: u64,
    /// Pings since the last sign of life.
    silent: u32,
}

struct Subscription {
    sender: LiveSender,
    /// Items taken, and not yet credited to the peer.
    taken: u64,
}

impl<'a> Session<'a> {
    fn new(link: &'a Link, outbox: Arc<Outbox>, frames: FramesIn) -> Self {
        Self {
            link,
            outbox,
            frames,
            pieces: Assembler::default(),
            subscriptions: HashMap::new(),
            pinged: 0,
            answered: 0,
            silent: 0,
        }
    }

    async fn run(mut self) -> String {
        let mut ticks = interval(limits::PEER_PING_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let ended = tokio::select! {
                frame = self.frames.next() => match frame {
                    Some(Ok(frame)) => self.frame(frame),
                    None => Err("the peer closed it".to_owned()),
                    Some(Err(error)) => Err(error.into_text()),
                },
                _ = ticks.tick() => self.tick(),
            };
            if let Err(why) = ended {
                return why;
            }
        }
    }

    fn tick(&mut self) -> Result<(), String> {
        let unanswered = self.pinged - self.answered;
        if self.silent >= limits::PEER_SILENT_PINGS_MAX
            || unanswered >= u64::from(limits::PEER_UNANSWERED_PINGS_MAX)
        {
            return Err("the peer does not answer".into());
        }
        self.silent += 1;
        self.pinged += 1;
        self.outbox.urgent(Item::new(kind::PING, self.pinged));
        // Those whose reader went away, without an event that would have shown it.
        let outbox = &self.outbox;
        self.subscriptions.retain(|id, subscription| {
            let gone = subscription.sender.is_closed();
            if gone {
                outbox.urgent(Item::new(kind::CANCEL, *id));
            }
            !gone
        });
        Ok(())
    }

    fn frame(&mut self, frame: Frame) -> Result<(), String> {
        self.silent = 0;
        let metrics = metrics();
        metrics.peer_frames_in.increment(1);
        let bytes: usize = frame.items.iter().map(Item::cost).sum();
        metrics.peer_bytes_in.increment(bytes as u64);
        for item in frame.items {
            if let Some(item) = self.pieces.take(item)? {
                self.item(item)?;
            }
        }
        Ok(())
    }

    fn item(&mut self, item: Item) -> Result<(), String> {
        let Item { id, kind, head, body, total } = item;
        match kind {
            kind::RESPONSE => self.answer(id, Reply::new(Parts { head, body }, None)),
            kind::RESPONSE_LIVE => {
                let (sender, live) = live_channel();
                self.subscriptions.insert(id, Subscription { sender, taken: 0 });
                self.answer(id, Reply::new(Parts { head, body }, Some(live)));
            }
            kind::LIVE => self.live(id, &Parts { head, body })?,
            kind::LIVE_END => {
                if let Some(subscription) = self.subscriptions.remove(&id)
                    && total == 1
                {
                    subscription.sender.lag();
                }
            }
            kind::PONG => self.answered = self.answered.max(id.min(self.pinged)),
            kind::GO_AWAY => {
                let refusal = Refusal::read(&word(kind, &head));
                return Err(format!("the peer closed it: {refusal}"));
            }
            kind => return Err(format!("the peer sent an item of unknown kind {kind}")),
        }
        Ok(())
    }

    fn answer(&self, id: u64, reply: Reply) {
        // None: its caller gave it up.
        let Some(call) = self.link.state.lock().take(id) else { return };
        metrics().peer_request_seconds.record(call.since.elapsed().as_secs_f64());
        let _ = call.answer.send(Ok(reply));
    }

    fn live(&mut self, id: u64, parts: &Parts) -> Result<(), String> {
        // None: it was cancelled, and this was on its way.
        let Some(subscription) = self.subscriptions.get_mut(&id) else { return Ok(()) };
        let item =
            wire::decode_live(parts).map_err(|e| format!("a live item does not decode: {e}"))?;
        if !subscription.sender.offer(item) {
            self.subscriptions.remove(&id);
            self.outbox.urgent(Item::new(kind::CANCEL, id));
            return Ok(());
        }
        subscription.taken += live_cost(parts);
        if subscription.taken >= limits::PEER_CREDIT / limits::PEER_CREDIT_SHARE {
            let total = std::mem::take(&mut subscription.taken);
            self.outbox.urgent(Item { total, ..Item::new(kind::CREDIT, id) });
        }
        Ok(())
    }
}

/// What a live item takes of its subscription's credit. Both sides count alike.
pub(super) fn live_cost(parts: &Parts) -> u64 {
    1 + (parts.body.len() / limits::PEER_CREDIT_BYTES) as u64
}
