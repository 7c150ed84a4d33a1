//! The side that peers call: takes connections, learns who they are, and gives their requests to
//! the node.

use super::{
    Handler,
    grpc::{self, PREFACE, proof},
    handshake::{HandshakeError, Introduced, Own, Reason, Refusal},
    outbox::Outbox,
    serving::{End, Serving},
    tls,
    transport::{Form, FramesIn, Transport, Trust},
    waiting::{Cut, Place, Progress, Waiting},
};
use crate::{
    level, limits,
    telemetry::{metrics, repeats},
};
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    convert::Infallible,
    net::IpAddr,
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
    let form = match timeout(limits::PEER_SILENT_TIMEOUT, begins(own, &mut stream)).await {
        Ok(Ok(Some(form))) => form,
        // Someone looked whether the port is open.
        Ok(Ok(None)) => return,
        Ok(Err(refusal)) => return own.refused(from, "a connection", &refusal),
        Err(_) => return own.refused(from, "a connection", &late(limits::PEER_SILENT_TIMEOUT)),
    };
    place.reached(Progress::Speaks);
    let outbox = Outbox::new();
    let transport = match form {
        Form::Grpc => grpc::accept(stream, &outbox),
        Form::Tls => {
            let knocked = || place.reached(Progress::Named);
            let accepted = timeout_at(until, tls::accept(own, stream, &outbox, knocked)).await;
            match accepted.unwrap_or_else(|_| Err(late(limits::PEER_HANDSHAKE_TIMEOUT).into())) {
                Ok(transport) => transport,
                Err(HandshakeError::Ours(why)) => return own.refused(from, "a connection", &why),
                Err(HandshakeError::Theirs(why)) => {
                    return own.refused(from, "this node's answer to a connection", &why);
                }
                Err(HandshakeError::Closed(_)) => return,
            }
        }
    };
    let Transport { mut frames, mut pump, trust, certified } = transport;
    let mut place = Some(place);
    let mut peer = None;
    let caller = Caller { form, from, until, certified, place: &mut place, known: &mut peer };
    let session = session(server, &mut frames, &trust, &outbox, caller, stop);
    let ended = tokio::select! {
        biased;
        ended = &mut pump => Err(ended),
        refused = session => Ok(refused),
    };
    match (ended, &peer) {
        (Err(Err(why)), None) if form == Form::Grpc => {
            let refusal = Refusal::malformed(format!("not a slotd peer: {why}"));
            own.refused(from, "a connection", &refusal);
        }
        (Err(ended), Some(name)) => {
            let why = ended.err().unwrap_or_else(|| "it closed the link".into());
            tracing::info!(peer = %name, "a peer's link to this node ended: {why}");
        }
        (Err(_), None) => {}
        (Ok(None), _) => {
            outbox.close();
            let _ = timeout(limits::PEER_STOP_GRACE, pump).await;
        }
        (Ok(Some(refusal)), _) => {
            outbox.urgent(refusal.go_away());
            outbox.close();
            trust.end();
            let said = async {
                let _ = pump.await;
                // What it still sends has to be read, or it sees a reset and not the refusal. After
                // an error, one end is not the end.
                for _ in 0..2 {
                    while frames.next().await.is_some() {}
                }
            };
            let _ = timeout(limits::PEER_STOP_GRACE, said).await;
        }
    }
}

fn late(within: Duration) -> Refusal {
    let secs = within.as_secs();
    Refusal::new(Reason::Timeout, format!("no handshake within {secs} s"))
}

/// Peeks at the first bytes. `None`: the connection sent none. A client that speaks HTTP/1 by
/// mistake gets an answer that it understands.
async fn begins(own: &Own, stream: &mut TcpStream) -> Result<Option<Form>, Refusal> {
    let mut start = [0; PREFACE.len()];
    let Ok(got) = stream.peek(&mut start).await else { return Ok(None) };
    let start = &start[..got];
    let encrypts = own.options.newest >= level::ENCRYPTED;
    match start.first() {
        None => return Ok(None),
        Some(&tls::FIRST_BYTE) if encrypts => return Ok(Some(Form::Tls)),
        Some(_) if PREFACE.starts_with(start) => return Ok(Some(Form::Grpc)),
        Some(_) => {}
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
    Err(Refusal::malformed("it speaks neither TLS nor HTTP/2"))
}

/// Whoever made a connection.
struct Caller<'a> {
    form: Form,
    from: IpAddr,
    /// The nodes that its certificate is for; empty: any.
    certified: Vec<String>,
    /// When it must have introduced itself.
    until: Instant,
    /// Until it has: its place among those that have not.
    place: &'a mut Option<Place>,
    /// Its name from then on.
    known: &'a mut Option<Arc<str>>,
}

/// Learns who the peer is and serves it. Returns the refusal to send it at the end, if any.
async fn session(
    server: &Arc<Server>,
    frames: &mut FramesIn,
    trust: &Trust,
    outbox: &Arc<Outbox>,
    caller: Caller<'_>,
    stop: watch::Receiver<bool>,
) -> Option<Refusal> {
    let own = &server.own;
    let Caller { form, from, until, certified, place, known } = caller;
    let introduced = timeout_at(until, async {
        match form {
            Form::Tls => own.receive(frames, outbox, &certified).await,
            Form::Grpc => {
                let named = || place.iter().for_each(|place| place.reached(Progress::Named));
                proof::receive(own, frames, outbox, named).await
            }
        }
    });
    let late = |_| Err(HandshakeError::Ours(late(limits::PEER_HANDSHAKE_TIMEOUT)));
    let peer = match introduced.await.unwrap_or_else(late) {
        Ok(peer) => peer,
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
    trust.grant();
    // Who can encrypt is not served without. It knows from the handshake that this node can, and
    // connects anew.
    if form == Form::Grpc && peer.encrypts() && own.options.newest >= level::ENCRYPTED {
        return None;
    }
    *known = Some(peer.name.clone());
    tracing::info!(peer = %peer.name, %from, form = form.as_str(), "a peer linked to this node");
    let (_entered, replaced) = server.enter(&peer);
    let serving =
        Serving::new(peer.name.clone(), server.handler.clone(), outbox, own.options.level.clone());
    let ended = tokio::select! {
        ended = serving.run(frames, replaced, stop) => ended,
        level = own.options.level.above(peer.newest) => {
            let newest = peer.newest;
            let detail = format!("the cluster is at feature level {level}, and it reads up to {newest}");
            End::Ours(Refusal::new(Reason::Protocol, detail))
        }
    };
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
