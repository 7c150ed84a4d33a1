//! The side that peers call: takes connections, learns who they are, and gives their requests to
//! the node.

use super::{
    Handler,
    executor::LocalExecutor,
    handshake::{HandshakeError, Introduced, Own, Reason, Refusal, clean},
    outbox::{Frames, Outbox},
    proto::{self, Codec, Frame, Trust},
    serving::{End, Serving},
    waiting::{Cut, Place, Progress, Waiting},
};
use crate::{
    limits,
    telemetry::{metrics, repeats},
};
use futures_util::{StreamExt as _, future::ready, stream::Map};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    convert::Infallible,
    net::IpAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout, timeout_at},
};
use tonic::{Status, Streaming, server::Grpc};

/// How every HTTP/2 connection begins (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const NOT_HTTP1: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\n\
    connection: close\r\n\r\nThis port is for the nodes of a slotd cluster. The API is on another \
    port.\n";

/// A node's name and instance.
type Process = (Arc<str>, u128);
/// The number of a process's link, and what ends it when it is dropped.
type Current = (u64, oneshot::Sender<Infallible>);

/// The link of each process that has one.
#[derive(Default)]
pub(super) struct Inbound(Mutex<HashMap<Process, Current>>);

impl Inbound {
    /// Whether a process of a peer has a link to this node.
    pub fn has(&self, name: &Arc<str>, instance: u128) -> bool {
        self.0.lock().contains_key(&(name.clone(), instance))
    }
}

pub(super) struct Server {
    own: Arc<Own>,
    handler: Arc<dyn Handler>,
    links: Arc<Inbound>,
    number: AtomicU64,
}

impl Server {
    pub fn new(own: Arc<Own>, handler: Arc<dyn Handler>, links: Arc<Inbound>) -> Self {
        Self { own, handler, links, number: AtomicU64::new(0) }
    }

    /// Serves until `stop` is set (or its sender is gone), then finishes the requests in progress
    /// for at most [`limits::PEER_STOP_GRACE`].
    pub async fn run(self, listener: TcpListener, mut stop: watch::Receiver<bool>) {
        let server = Arc::new(self);
        let waiting = Arc::new(Waiting::default());
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, from)) => {
                        let from = from.ip().to_canonical();
                        let (place, cut) = waiting.enter(from, server.own.is_known(from));
                        let (server, stop) = (server.clone(), stop.clone());
                        crate::task::run_in(&mut connections, connection(server, stream, from, place, cut, stop));
                    }
                    Err(e) => {
                        if repeats::admit("can't accept connections from peers", "peers") {
                            tracing::warn!("can't accept a peer's connection: {e}");
                        }
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
        self.links.0.lock().insert(key.clone(), (number, sender));
        metrics().peer_links_in.increment(1.0);
        (Entered { server: self.clone(), key, number }, replaced)
    }
}

/// A link's entry among the server's.
struct Entered {
    server: Arc<Server>,
    key: Process,
    number: u64,
}

impl Drop for Entered {
    fn drop(&mut self) {
        metrics().peer_links_in.decrement(1.0);
        let mut links = self.server.links.0.lock();
        if links.get(&self.key).is_some_and(|(number, _)| *number == self.number) {
            links.remove(&self.key);
        }
    }
}

/// One connection, from its start to its end, or until it must give way to others.
async fn connection(
    server: Arc<Server>,
    stream: TcpStream,
    from: IpAddr,
    place: Place,
    cut: Cut,
    stop: watch::Receiver<bool>,
) {
    tokio::select! {
        Ok(()) = cut => {
            let what = "not authenticated yet when other connections needed its place";
            server.own.refused(from, "a connection", &Refusal::new(Reason::Crowded, what));
        }
        () = converse(&server, stream, from, place, stop) => {}
    }
}

async fn converse(
    server: &Arc<Server>,
    mut stream: TcpStream,
    from: IpAddr,
    place: Place,
    stop: watch::Receiver<bool>,
) {
    let own = &server.own;
    let until = crate::clock::timer_now() + limits::PEER_HANDSHAKE_TIMEOUT;
    let _ = stream.set_nodelay(true);
    match timeout(limits::PEER_SILENT_TIMEOUT, begins_well(&mut stream)).await {
        Ok(Ok(true)) => place.reached(Progress::Speaks),
        // Someone looked whether the port is open.
        Ok(Ok(false)) => return,
        Ok(Err(refusal)) => return own.refused(from, "a connection", &refusal),
        Err(_) => return own.refused(from, "a connection", &late(limits::PEER_SILENT_TIMEOUT)),
    }
    let mut place = Some(place);
    let executor = LocalExecutor::default();
    let exec = executor.clone();
    executor
        .drive(async {
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
            let caller = Caller { from, until, place: &mut place, known: &mut peer };
            let session = session(server, frames, &outbox, caller, stop);
            let ended = tokio::select! {
                biased;
                ended = connection.as_mut() => Err(ended),
                refused = session => Ok(refused),
            };
            match (ended, &peer) {
                (Err(Err(e)), None) => {
                    let refusal = Refusal::malformed(format!("not a slotd peer: {}", deep(&e)));
                    own.refused(from, "a connection", &refusal);
                }
                (Err(ended), Some(name)) => {
                    let why = ended.err().map_or_else(|| "it closed the link".into(), |e| deep(&e));
                    tracing::info!(peer = %name, "a peer's link to this node ended: {why}");
                }
                (Err(Ok(())), None) => {}
                (Ok(refusal), _) => {
                    if let Some(refusal) = refusal {
                        outbox.urgent(refusal.go_away());
                    }
                    outbox.close();
                    connection.as_mut().graceful_shutdown();
                    let _ = timeout(limits::PEER_STOP_GRACE, connection).await;
                }
            }
        })
        .await;
}

fn late(within: Duration) -> Refusal {
    let secs = within.as_secs();
    Refusal::new(Reason::Timeout, format!("no handshake within {secs} s"))
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

/// Peeks at the first bytes. `false`: the connection sent none. A client that speaks HTTP/1 by
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
        return Err(Refusal::malformed("it speaks HTTP/1; the API is on another port"));
    }
    Err(Refusal::malformed("it does not speak HTTP/2"))
}

type Given = (Streaming<Frame>, Trust);
type Give = (oneshot::Sender<Given>, Arc<Outbox>);
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
        return Ok(Status::resource_exhausted("a connection can carry only one link").into_http());
    };
    let (codec, trust) = Codec::new();
    let mut give = Some((give, trust));
    let service = tower::service_fn(move |request: tonic::Request<Streaming<Frame>>| {
        if let Some((give, trust)) = give.take() {
            let _ = give.send((request.into_inner(), trust));
        }
        let frames: Written = outbox.stream().map(Ok);
        ready(Ok::<_, Status>(tonic::Response::new(frames)))
    });
    let mut grpc = Grpc::new(codec)
        .max_decoding_message_size(limits::PEER_FRAME_BYTES_MAX)
        .max_encoding_message_size(limits::PEER_FRAME_BYTES_MAX);
    Ok(grpc.streaming(service, request).await)
}

/// Whoever made a connection.
struct Caller<'a> {
    from: IpAddr,
    /// When it must have introduced itself.
    until: Instant,
    /// Until it has: its place among those that have not.
    place: &'a mut Option<Place>,
    /// Its name from then on.
    known: &'a mut Option<Arc<str>>,
}

/// Authenticates the peer and serves it. Returns the refusal to send it at the end, if any.
async fn session(
    server: &Arc<Server>,
    frames: oneshot::Receiver<Given>,
    outbox: &Arc<Outbox>,
    caller: Caller<'_>,
    stop: watch::Receiver<bool>,
) -> Option<Refusal> {
    let own = &server.own;
    let Caller { from, until, place, known } = caller;
    let introduced = timeout_at(until, async {
        let what = "it did not request the peer stream";
        let (mut frames, trust) = frames.await.map_err(|_| Refusal::malformed(what))?;
        let named = || place.iter().for_each(|place| place.reached(Progress::Named));
        let peer = own.receive(&mut frames, outbox, named).await?;
        trust.grant();
        Ok((frames, peer))
    });
    let late = |_| Err(HandshakeError::Ours(late(limits::PEER_HANDSHAKE_TIMEOUT)));
    let (frames, peer) = match introduced.await.unwrap_or_else(late) {
        Ok(introduced) => introduced,
        Err(HandshakeError::Ours(refusal)) => {
            own.refused(from, "a peer's link", &refusal);
            return Some(refusal);
        }
        Err(HandshakeError::Theirs(refusal)) => {
            own.refused(from, "this node's answer to a link", &refusal);
            return None;
        }
        Err(HandshakeError::Closed(_)) => return None,
    };
    // It is authenticated now.
    *place = None;
    *known = Some(peer.name.clone());
    tracing::info!(peer = %peer.name, %from, "a peer linked to this node");
    let (_entered, replaced) = server.enter(&peer);
    let level = server.own.options.level.clone();
    let serving = Serving::new(peer.name.clone(), server.handler.clone(), outbox, level);
    let ended = serving.run(frames, replaced, stop).await;
    tracing::info!(peer = %peer.name, "a peer's link to this node ended: {ended}");
    match ended {
        End::Ours(refusal) => {
            own.refused(from, "a peer's link", &refusal);
            Some(refusal)
        }
        End::Theirs(refusal) => {
            own.refused(from, "this node's answer to a link", &refusal);
            None
        }
        End::Gone(_) => None,
    }
}
