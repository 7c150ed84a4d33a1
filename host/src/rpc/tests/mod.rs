//! Nodes of one process with real sockets between them.
#![allow(clippy::unwrap_used)]

mod calls;
mod encrypted;
mod grpc;
mod live;
mod proxy;
mod trouble;
mod unauthenticated;

use super::{
    handshake::Refusal,
    outbox::Outbox,
    proto::{Frame, kind},
    transport::FramesIn,
    *,
};
use crate::{
    error::Code,
    level,
    message::{
        Answer, Consistency, Incoming, LiveReceiver, LiveSender, Sent, Subscribed, live_channel,
    },
    names::SessionKey,
    operation::{Query, Subscribe},
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use std::{
    future::Future,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout};

/// Far more than anything here takes on a machine that is busy with other tests.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A node's end of the tests: does what the request itself asks for.
pub(super) struct Script {
    /// The lanes of messages, as they came.
    order: Mutex<Vec<u64>>,
    /// Messages of type `wait` are answered once it is `true`.
    gate: watch::Sender<bool>,
    /// The slot's ends of the subscriptions.
    live: Mutex<Vec<LiveSender>>,
    /// Queries of type `hang` that are being worked on.
    hanging: Arc<AtomicUsize>,
}

struct Hanging(Arc<AtomicUsize>);

impl Drop for Hanging {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn subscribe() -> Request {
    Subscribe { key: key(), after: 0 }.request()
}

fn answer(body: Bytes) -> Response {
    let content_type = "text/plain".into();
    let (plugin, guest_time) = ("p".into(), Duration::ZERO);
    Response::Answer(Answer { slot: 1, plugin, seq: 1, content_type, body, guest_time })
}

impl Handler for Script {
    fn handle(
        &self,
        from: &Arc<str>,
        request: Request,
    ) -> BoxFuture<'static, Result<Response, Error>> {
        let from = from.clone();
        match request {
            Request::Message { message, lane, .. } => {
                let seq = {
                    let mut order = self.order.lock();
                    order.push(lane);
                    order.len() as u64
                };
                let mut gate = self.gate.subscribe();
                Box::pin(async move {
                    if message.content_type == "wait" {
                        gate.wait_for(|open| *open).await.unwrap();
                    }
                    Ok(Response::Sent(Sent {
                        seq,
                        incarnation: None,
                        slot: 1,
                        plugin: from,
                        replayed: false,
                        content_type: message.content_type,
                        body: message.body,
                        guest_time: Duration::ZERO,
                    }))
                })
            }
            Request::Query(Query { content_type, body, .. }) => match &*content_type {
                // As many bytes as the body says.
                "size" => {
                    let size = std::str::from_utf8(&body).unwrap().parse().unwrap();
                    Box::pin(async move { Ok(answer(vec![7; size].into())) })
                }
                "hang" => {
                    self.hanging.fetch_add(1, Ordering::SeqCst);
                    let hanging = Hanging(self.hanging.clone());
                    Box::pin(async move {
                        let _hanging = hanging;
                        std::future::pending().await
                    })
                }
                "panic" => Box::pin(async { panic!("a bug, for the test") }),
                _ => Box::pin(async { Ok(answer(body)) }),
            },
            Request::Subscribe(_) => {
                let (sender, live) = live_channel();
                self.live.lock().push(sender);
                Box::pin(async {
                    let backlog = vec![published(1, 10)];
                    let live = Some(live);
                    Ok(Response::Subscribed(Subscribed {
                        backlog,
                        live,
                        incarnation: None,
                        held: crate::buffers::Held::default(),
                    }))
                })
            }
            _ => Box::pin(async { Err(Error::new(Code::MailboxFull, "slow down")) }),
        }
    }
}

fn published(seq: u64, bytes: usize) -> crate::message::Published {
    let body = vec![0; bytes].into();
    let event = crate::log::record::Event { kind: "k".into(), content_type: "t".into(), body };
    let events = [event].into();
    crate::message::Published { seq, incarnation: None, time_ms: 1, events }
}

pub(super) struct Node {
    links: PeerLinks,
    script: Arc<Script>,
    members: watch::Sender<Arc<Members>>,
    found: watch::Sender<Found>,
    options: RpcOptions,
}

/// Makes a node one that has another secret.
fn with_secret(options: &mut RpcOptions, secret: &[u8]) {
    options.secret = secret.into();
    options.identity = Arc::new(Identity::new("n", secret, None).unwrap());
}

/// Makes a node one of a cluster whose level is not raised yet.
fn below(options: &mut RpcOptions) {
    options.level = Arc::new(FeatureLevel::new(level::OLDEST));
}

/// Makes a node one of a version from before links were encrypted.
fn old(options: &mut RpcOptions) {
    below(options);
    options.newest = level::ENCRYPTED - 1;
}

/// The next frame of a client that can send arbitrary ones.
async fn next(frames: &mut FramesIn) -> Frame {
    within(frames.next()).await.unwrap().unwrap()
}

/// The go-away item that arrives at last.
async fn go_away(frames: &mut FramesIn) -> Option<Refusal> {
    loop {
        let frame = within(frames.next()).await?.ok()?;
        if let Some(item) = frame.items.iter().find(|item| item.kind == kind::GO_AWAY) {
            return Some(Refusal::read(item));
        }
    }
}

/// A node that listens and sees nobody.
async fn node(name: &str) -> Node {
    node_with(name, |_| {}).await
}

async fn node_with(name: &str, change: impl FnOnce(&mut RpcOptions)) -> Node {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let member = Member {
        name: name.into(),
        peer: listener.local_addr().unwrap(),
        api: "127.0.0.1:1".parse().unwrap(),
        boot: 1,
        instance: crate::random::id(),
        leaving: false,
        unfit: None,
        version: "0.0.0".into(),
    };
    let secret = b"a secret of the test";
    let mut options = RpcOptions {
        cluster: "test".into(),
        secret: secret.as_slice().into(),
        identity: Arc::new(Identity::new("n", secret, None).unwrap()),
        member,
        ring_scheme: crate::ring::RING_SCHEME.into(),
        slot_count: 512,
        level: Arc::new(FeatureLevel::new(level::NEWEST)),
        newest: level::NEWEST,
        refused: Arc::new(|_| {}),
    };
    change(&mut options);
    let own = options.member.clone();
    let view = Members { number: 1, own: own.name.clone(), alive: [own].into() };
    let (members, watched) = watch::channel(Arc::new(view));
    let script = Arc::new(Script {
        order: Mutex::default(),
        gate: watch::channel(false).0,
        live: Mutex::default(),
        hanging: Arc::default(),
    });
    let (found, addresses) = watch::channel(Found::default());
    let links = start(options.clone(), listener, watched, addresses, script.clone());
    Node { links, script, members, found, options }
}

impl Node {
    /// What it sees from now on, beside itself.
    fn see(&self, peers: &[&Member]) {
        let mut alive: Vec<Member> = peers.iter().map(|member| (*member).clone()).collect();
        alive.push(self.options.member.clone());
        alive.sort_by(|a, b| a.name.cmp(&b.name));
        self.members.send_modify(|view| {
            let (number, own) = (view.number + 1, view.own.clone());
            *view = Arc::new(Members { number, own, alive: alive.into() });
        });
    }
    fn member(&self) -> &Member {
        &self.options.member
    }
    fn status(&self, peer: &str) -> LinkStatus {
        self.links.status().into_iter().find(|link| &*link.peer == peer).unwrap()
    }
    async fn linked(&self, peer: &str) {
        eventually("a link", || {
            self.links.status().iter().any(|link| &*link.peer == peer && link.connected.is_ok())
        })
        .await;
    }
    /// Waits until the link to `peer` is down for a reason that has `part` in it.
    async fn refused(&self, peer: &str, part: &str) {
        eventually(part, || {
            self.links.status().iter().any(|link| {
                &*link.peer == peer && link.connected.as_ref().is_err_and(|why| why.contains(part))
            })
        })
        .await;
    }
    fn in_flight(&self) -> usize {
        self.links.status().iter().map(|link| link.in_flight).sum()
    }
    fn message(
        &self,
        peer: &str,
        lane: u64,
        content_type: &str,
        body: impl Into<Bytes>,
    ) -> Result<BoxFuture<'static, Result<Response, PeerError>>, PeerError> {
        let content_type = content_type.to_owned();
        let message = Incoming {
            id: None,
            sender: None,
            content_type,
            body: body.into(),
            trace: None,
            client: None,
        };
        self.links.call(peer, Request::Message { key: key(), message, lane })
    }
    /// A message and its answer.
    async fn echo(&self, peer: &str) {
        let answer = self.message(peer, 0, "echo", "hello").unwrap().await;
        assert!(matches!(answer, Ok(Response::Sent(sent)) if sent.body == "hello"));
    }
    fn query(
        &self,
        peer: &str,
        content_type: &str,
        body: String,
    ) -> BoxFuture<'static, Result<Response, PeerError>> {
        let content_type = content_type.to_owned();
        let (body, consistency) = (body.into(), Consistency::Current);
        let query = Query { key: key(), content_type, body, consistency, client: None };
        self.links.call(peer, query.request()).unwrap()
    }
    async fn subscribe(&self, peer: &str) -> LiveReceiver {
        let answer = self.links.call(peer, subscribe()).unwrap();
        match answer.await {
            Ok(Response::Subscribed(subscribed)) => {
                assert_eq!(subscribed.backlog.len(), 1);
                subscribed.live.unwrap()
            }
            _ => panic!("no subscription"),
        }
    }
}

/// `a` has links to the others.
async fn linked<const N: usize>(a: &Node, others: [&Node; N]) {
    a.see(&others.map(Node::member));
    for other in others {
        a.linked(&other.member().name).await;
    }
}

fn key() -> SessionKey {
    SessionKey::parse("chat", "room").unwrap()
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < TIMEOUT, "never: {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(TIMEOUT, future).await.expect("it takes for ever")
}

/// It would be told for a bug of this node, and nobody would upgrade the other.
#[test]
fn a_node_that_can_not_read_what_it_was_asked_is_told_for_too_old() {
    // As nodes of all versions say it.
    let said = Error::internal("the request does not decode: no such variant");
    let own = undecoded("no such variant");
    assert_eq!((own.code, &own.detail), (said.code, &said.detail));
    let told = or_too_old(said);
    assert!(told.code == Code::Unavailable && told.detail.contains("upgrade"), "{told}");
    assert_eq!(or_too_old(Error::internal("another")).code, Code::Internal);
}
