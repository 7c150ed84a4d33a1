//! The side that peers call: takes connections, learns who they are, and gives their requests to
//! the node.

use super::{
    Handler, Request, Response,
    crew::Crew,
    handshake::{Introduced, Own, Parted, Reason, Refusal, clean},
    link::live_cost,
    outbox::{Assembler, Frames, Outbox},
    proto::{self, Frame, Item, codec, kind},
    wire::{self, Parts},
};
use crate::{
    error::{Code, Error},
    limits,
    node_types::LiveReceiver,
    telemetry::metrics,
};
use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, poll_fn, ready},
    stream::{FuturesUnordered, Map},
};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    net::IpAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch},
    task::{AbortHandle, JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tonic::{Status, Streaming, server::Grpc};

/// How every HTTP/2 connection begins (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const NOT_HTTP1: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\n\
    connection: close\r\n\r\nThis port is for the nodes of a slotd cluster. The API has another.\n";

pub(super) struct Server {
    own: Arc<Own>,
    handler: Arc<dyn Handler>,
    /// The link of each process that has one. What replaces it ends it.
    links: Mutex<HashMap<(Arc<str>, u128), (u64, oneshot::Sender<Infallible>)>>,
    number: AtomicU64,
}

impl Server {
    pub fn new(own: Arc<Own>, handler: Arc<dyn Handler>) -> Self {
        Self { own, handler, links: Mutex::default(), number: AtomicU64::new(0) }
    }

    /// Serves until `stop` says so (or its sender is gone), and then until what is being answered
    /// is, for [`limits::PEER_STOP_GRACE`] at most.
    pub async fn run(self, listener: TcpListener, mut stop: watch::Receiver<bool>) {
        let server = Arc::new(self);
        let strangers = Arc::new(Semaphore::new(limits::PEER_STRANGERS_MAX));
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, from)) => match strangers.clone().try_acquire_owned() {
                        Ok(permit) => {
                            let stop = stop.clone();
                            connections.spawn(connection(server.clone(), stream, from.ip(), permit, stop));
                        }
                        Err(_) => {
                            let refusal = Refusal::new(Reason::Crowded, "too many strangers");
                            server.own.refused(from.ip(), "a connection", &refusal);
                        }
                    },
                    Err(e) => {
                        tracing::warn!("can't accept a peer's connection: {e}");
                        sleep(limits::PEER_ACCEPT_RETRY).await;
                    }
                },
                Some(_) = connections.join_next() => {}
                _ = stop.changed() => break,
            }
        }
        drop(listener);
        let all = async { while connections.join_next().await.is_some() {} };
        // Once for what is being answered, once for the answers' way out.
        let _ = timeout(2 * limits::PEER_STOP_GRACE, all).await;
        connections.shutdown().await;
    }

    /// Enters a link; resolves the receiver of the one that it replaces.
    fn enter(self: &Arc<Self>, peer: &Introduced) -> (Entered, oneshot::Receiver<Infallible>) {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let (sender, replaced) = oneshot::channel();
        let key = (peer.name.clone(), peer.instance);
        self.links.lock().insert(key.clone(), (number, sender));
        metrics().peer_links_in.increment(1.0);
        (Entered { server: self.clone(), key, number }, replaced)
    }
}

/// A link's entry among the server's.
struct Entered {
    server: Arc<Server>,
    key: (Arc<str>, u128),
    number: u64,
}

impl Drop for Entered {
    fn drop(&mut self) {
        metrics().peer_links_in.decrement(1.0);
        let mut links = self.server.links.lock();
        if links.get(&self.key).is_some_and(|(number, _)| *number == self.number) {
            links.remove(&self.key);
        }
    }
}

/// One connection, from its start to its end.
async fn connection(
    server: Arc<Server>,
    mut stream: TcpStream,
    from: IpAddr,
    permit: OwnedSemaphorePermit,
    stop: watch::Receiver<bool>,
) {
    let own = &server.own;
    let _ = stream.set_nodelay(true);
    match timeout(limits::PEER_HANDSHAKE_TIMEOUT, begins_well(&mut stream)).await {
        Ok(Ok(true)) => {}
        // Someone looked whether the port is open.
        Ok(Ok(false)) => return,
        Ok(Err(refusal)) => return own.refused(from, "a connection", &refusal),
        Err(_) => return own.refused(from, "a connection", &late()),
    }
    let crew = Crew::default();
    let exec = crew.clone();
    crew.drive(async {
        let outbox = Outbox::new();
        let (give, frames) = oneshot::channel();
        let give = Mutex::new(Some((give, outbox.clone())));
        let service = service_fn(move |request| respond(request, give.lock().take()));
        let mut connection = pin!(
            http2::Builder::new(exec)
                .timer(TokioTimer::new())
                .initial_stream_window_size(limits::PEER_STREAM_WINDOW_BYTES)
                .initial_connection_window_size(2 * limits::PEER_STREAM_WINDOW_BYTES)
                .max_send_buf_size(limits::PEER_FRAME_BYTES_MAX)
                .max_concurrent_streams(1)
                .serve_connection(TokioIo::new(stream), service)
        );
        let mut peer = None;
        let session = session(&server, frames, &outbox, from, permit, stop, &mut peer);
        let ended = tokio::select! {
            biased;
            ended = connection.as_mut() => Err(ended),
            refused = session => Ok(refused),
        };
        match (ended, &peer) {
            (Err(Err(e)), None) => {
                let refusal = Refusal::malformed(format!("it is no slotd peer: {}", deep(&e)));
                own.refused(from, "a connection", &refusal);
            }
            (Err(ended), Some(name)) => {
                let why = ended.err().map_or_else(|| "it closed the link".into(), |e| deep(&e));
                tracing::info!(peer = %name, "a peer's link to this node ended: {why}");
            }
            (Err(Ok(())), None) => {}
            (Ok(refusal), _) => {
                if let Some(refusal) = refusal {
                    outbox.urgent(refusal.farewell());
                }
                outbox.close();
                connection.as_mut().graceful_shutdown();
                let _ = timeout(limits::PEER_STOP_GRACE, connection).await;
            }
        }
    })
    .await;
}

fn late() -> Refusal {
    let secs = limits::PEER_HANDSHAKE_TIMEOUT.as_secs();
    Refusal::new(Reason::Timeout, format!("it did not introduce itself within {secs} s"))
}

/// An error with its causes, fit for a log line.
fn deep(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    clean(&text)
}

/// Looks at the first bytes without taking them. `false`: there are none. Who speaks HTTP/1 by
/// mistake gets an answer that it understands.
async fn begins_well(stream: &mut TcpStream) -> Result<bool, Refusal> {
    let mut start = [0; PREFACE.len()];
    let Ok(got) = stream.peek(&mut start).await else { return Ok(false) };
    let start = &start[..got];
    if PREFACE.starts_with(start) {
        return Ok(got > 0);
    }
    let methods = [&b"GET "[..], b"POST ", b"HEAD ", b"PUT ", b"DELETE ", b"OPTIONS "];
    if methods.iter().any(|method| start.starts_with(method)) {
        // The kernel's buffer of a new connection has room for it.
        let _ = stream.try_write(NOT_HTTP1);
        let _ = stream.shutdown().await;
        // What it sent has to be read, or it sees a reset and not the answer.
        let mut rest = [0; 4096];
        let _ = timeout(limits::PEER_STOP_GRACE, stream.readable()).await;
        let _ = stream.try_read(&mut rest);
        return Err(Refusal::malformed("it speaks HTTP/1: the API has another port"));
    }
    Err(Refusal::malformed("it does not speak HTTP/2"))
}

type Give = (oneshot::Sender<Streaming<Frame>>, Arc<Outbox>);
type Written = Map<Frames, fn(Frame) -> Result<Frame, Status>>;

/// Answers the one request of a connection: its stream goes to the session.
async fn respond(
    request: http::Request<Incoming>,
    give: Option<Give>,
) -> Result<http::Response<tonic::body::Body>, Infallible> {
    if request.uri().path() != proto::PATH {
        let status = Status::unimplemented("this port is for the nodes of a slotd cluster");
        return Ok(status.into_http());
    }
    let Some((give, outbox)) = give else {
        return Ok(Status::resource_exhausted("one link a connection").into_http());
    };
    let mut give = Some(give);
    let service = tower::service_fn(move |request: tonic::Request<Streaming<Frame>>| {
        if let Some(give) = give.take() {
            let _ = give.send(request.into_inner());
        }
        let frames: Written = outbox.stream().map(Ok);
        ready(Ok::<_, Status>(tonic::Response::new(frames)))
    });
    let mut grpc = Grpc::new(codec())
        .max_decoding_message_size(limits::PEER_FRAME_BYTES_MAX)
        .max_encoding_message_size(limits::PEER_FRAME_BYTES_MAX);
    Ok(grpc.streaming(service, request).await)
}

/// Learns who the peer is and serves it. Gives what it is to be told at the end.
async fn session(
    server: &Arc<Server>,
    frames: oneshot::Receiver<Streaming<Frame>>,
    outbox: &Arc<Outbox>,
    from: IpAddr,
    permit: OwnedSemaphorePermit,
    stop: watch::Receiver<bool>,
    known: &mut Option<Arc<str>>,
) -> Option<Refusal> {
    let own = &server.own;
    let introduced = timeout(limits::PEER_HANDSHAKE_TIMEOUT, async {
        let what = "it did not ask for the peers' stream";
        let mut frames = frames.await.map_err(|_| Refusal::malformed(what))?;
        let peer = own.receive(&mut frames, outbox).await?;
        Ok((frames, peer))
    });
    let (frames, peer) = match introduced.await.unwrap_or_else(|_| Err(Parted::Ours(late()))) {
        Ok(introduced) => introduced,
        Err(Parted::Ours(refusal)) => {
            own.refused(from, "a peer's link", &refusal);
            return Some(refusal);
        }
        Err(Parted::Theirs(refusal)) => {
            own.refused(from, "this node's answer to a link", &refusal);
            return None;
        }
        Err(Parted::Closed(_)) => return None,
    };
    drop(permit);
    *known = Some(peer.name.clone());
    tracing::info!(peer = %peer.name, %from, "a peer linked to this node");
    let (_entered, replaced) = server.enter(&peer);
    let serving = Serving {
        name: peer.name.clone(),
        handler: server.handler.clone(),
        outbox,
        pieces: Assembler::default(),
        work: FuturesUnordered::new(),
        served: 0,
        reads: HashMap::new(),
        subscriptions: HashMap::new(),
        silent: 0,
        stopping: false,
    };
    let ended = serving.run(frames, replaced, stop).await;
    let why = ended.as_ref().map_or_else(|end| end.clone(), ToString::to_string);
    tracing::info!(peer = %peer.name, "a peer's link to this node ended: {why}");
    if let Ok(refusal) = &ended {
        own.refused(from, "a peer's link", refusal);
    }
    ended.ok()
}

/// A peer that is served.
struct Serving<'a> {
    name: Arc<str>,
    handler: Arc<dyn Handler>,
    outbox: &'a Arc<Outbox>,
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

struct Subscription {
    /// What may still be sent; the last item may have passed it.
    credit: i64,
    /// While there is no credit.
    parked: Option<Pump>,
    /// Ends the pump when it is dropped.
    _cancel: oneshot::Sender<Infallible>,
}

impl Serving<'_> {
    /// Serves until the link ends. `Ok`: the peer broke the rules. `Err`: another reason.
    async fn run(
        mut self,
        mut frames: Streaming<Frame>,
        mut replaced: oneshot::Receiver<Infallible>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<Refusal, String> {
        let outbox = self.outbox;
        let mut ticks = interval(limits::PEER_PING_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut room = true;
        loop {
            tokio::select! {
                frame = frames.message() => match frame {
                    Ok(Some(frame)) => {
                        if let Err(broken) = self.frame(frame) {
                            return broken;
                        }
                    }
                    Ok(None) => return Err("it closed the link".into()),
                    Err(status) if status.code() == tonic::Code::OutOfRange => {
                        return Ok(Refusal::malformed(clean(status.message())));
                    }
                    Err(status) => return Err(clean(status.message())),
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
                        return Err("the peer is silent".into());
                    }
                }
                _ = &mut replaced => return Err("the peer made another link".into()),
                _ = stop.changed(), if !self.stopping => self.stopping = true,
            }
            if self.stopping && self.served == 0 {
                return Err("this node stops".into());
            }
            room = outbox.has_room();
        }
    }

    fn frame(&mut self, frame: Frame) -> Result<(), Result<Refusal, String>> {
        self.silent = 0;
        let metrics = metrics();
        metrics.peer_frames_in.increment(1);
        let bytes: usize = frame.items.iter().map(Item::cost).sum();
        metrics.peer_bytes_in.increment(bytes as u64);
        for item in frame.items {
            let malformed = |what| Ok(Refusal::malformed(what));
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
                kind::FAREWELL => {
                    return Err(Err(format!("it closed the link: {}", Refusal::read(&item))));
                }
                kind => {
                    let what = format!("the peer sent an item of unknown kind {kind}");
                    return Err(Ok(Refusal::malformed(what)));
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
                tracing::warn!(peer = %self.name, "a peer's request does not decode: {why}");
                let error = Error::internal(format!("the request does not decode: {why}"));
                return self.answer(id, Err(error));
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
        let task = tokio::spawn(future);
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
        let Parts { mut head, mut body } = wire::encode_response(answer);
        if body.len() > limits::PEER_ITEM_BYTES_MAX {
            let error = Error::internal(format!(
                "an answer of {} bytes is more than nodes send each other, {}",
                body.len(),
                limits::PEER_ITEM_BYTES_MAX
            ));
            Parts { head, body } = wire::encode_response(Err(error));
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
                self.work.push(Work::Live(Some(Pump { id, live, cancelled, credit })));
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
                Poll::Ready(Some(item)) => {
                    let parts = wire::encode_live(item);
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
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Self::Task { task, read: true, .. } = self {
            task.abort();
        }
    }
}
