//! Node to node: one stream per peer, over which requests are forwarded and answered.
//!
//! Each node makes one link to each peer in its view: a TCP connection with TLS, in which frames
//! carry many requests one way and many answers the other. So between two nodes there are two links,
//! one for each's requests.
//!
//! | file | what |
//! |---|---|
//! | `proto` | frames and items as they are on the wire |
//! | `request` | what is asked and answered |
//! | `wire` | requests and answers as the content of items |
//! | `slots` | what a node tells of a slot |
//! | `handshake` | who is who, and who belongs to this cluster |
//! | `outbox` | what waits to be written, packed into frames |
//! | `transport` | a connection, whatever carries the frames |
//! | `tls` | what carries them: TLS, and who knows the secret |
//! | `grpc` | what carried them before feature level 3, unencrypted |
//! | `dial`, `link` | the caller's side, until both know each other, and from then on |
//! | `server` | the other side, until both know each other |
//! | `waiting` | who may wait there, and who gives way |
//! | `serving` | and from then on |

mod dial;
mod grpc;
mod handshake;
mod link;
mod outbox;
mod proto;
mod request;
mod server;
mod serving;
mod slots;
#[cfg(test)]
mod tests;
mod tls;
mod transport;
mod waiting;
mod wire;

#[cfg(test)]
use link::LinkStatus;
pub use request::{Callable, Request, Response};
pub use slots::SlotInfo;

use crate::{
    discovery::Found,
    error::{Code, Error},
    level::{FeatureLevel, Level},
    peer::{
        identity::Identity,
        member::{Member, Members},
    },
};
use futures_util::future::BoxFuture;
use handshake::Own;
use link::Link;
use parking_lot::{Mutex, RwLock};
use std::{collections::HashMap, sync::Arc};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

/// The prefix of the error of a node that can't decode a request. Never change it: a later version
/// recognizes a node of an earlier one by it ([`is_undecoded`]).
const UNDECODED: &str = "the request does not decode";

/// The answer to a request that does not decode.
pub(crate) fn undecoded(why: &str) -> Error {
    Error::internal(format!("{UNDECODED}: {why}"))
}

/// Whether a peer could not read the request: it is of a version that does not know such requests.
pub fn is_undecoded(error: &Error) -> bool {
    error.code == Code::Internal && error.detail.starts_with(UNDECODED)
}

/// A node that owns the session's slot, and can't read what it was asked.
pub fn or_too_old(error: Error) -> Error {
    match is_undecoded(&error) {
        true => Error::new(
            Code::Unavailable,
            "the session is on a node with an older slotd that can't do this; upgrade that node",
        ),
        false => error,
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PeerError {
    /// Nothing was sent: there is no connection, or its queue is full.
    #[error("node {peer} can't be reached: {why}")]
    Unreachable { peer: Arc<str>, why: String },
    /// The connection broke after the request was queued: it may have been carried out.
    #[error("the connection to node {peer} broke: {why}")]
    Broken { peer: Arc<str>, why: String },
    /// The peer's own refusal.
    #[error(transparent)]
    Refused(#[from] Error),
}

/// What a node does with its peers' requests.
pub trait Handler: Send + Sync + 'static {
    /// Called in the order in which `from` sent the requests, and does its queueing before it
    /// returns: so the order of one peer's messages is kept. It must return soon: everything of
    /// that peer waits meanwhile.
    ///
    /// The future of a message is polled by the link's own task, so it should only wait; those of
    /// all other requests run in tasks of their own. When the link breaks, or the caller gives up,
    /// that of a read is dropped; that of a message only when the link breaks; those of `Delete`,
    /// `Operate` and `Control` run to their end.
    fn handle(
        &self,
        from: &Arc<str>,
        request: Request,
    ) -> BoxFuture<'static, Result<Response, Error>>;
}

/// The way to the peers.
pub trait Peers: Send + Sync + 'static {
    /// Sends a request. It is queued, in order, when this returns; the future is its answer.
    ///
    /// # Errors
    /// [`PeerError::Unreachable`] at once when there is no connection or no room.
    fn call(
        &self,
        peer: &str,
        request: Request,
    ) -> Result<BoxFuture<'static, Result<Response, PeerError>>, PeerError>;

    /// The links with `peer` in both directions; `None` where nothing is known of links.
    fn reach(&self, _peer: &Member) -> Option<Reach> {
        None
    }
}

/// Whether a peer can be reached, and reaches this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// This node's link to it; `Err`: why it is down.
    pub to: Result<(), String>,
    /// Its link to this node.
    pub from: bool,
}

/// What this node is to its peers.
#[derive(Clone)]
pub struct RpcOptions {
    /// The cluster's name; peers of another are refused.
    pub cluster: Arc<str>,
    /// What all nodes of the cluster know.
    pub secret: Arc<[u8]>,
    /// What this node proves itself with on encrypted links.
    pub identity: Arc<Identity>,
    /// This node.
    pub member: Member,
    /// [`crate::ring::RING_SCHEME`].
    pub ring_scheme: Arc<str>,
    pub slot_count: u16,
    /// The cluster's: who does not know it is refused.
    pub level: Arc<FeatureLevel>,
    /// [`crate::level::NEWEST`]; tests have older nodes, too.
    pub newest: Level,
    /// Is told whenever a connection to a peer is refused: nothing listens on its port any more.
    pub refused: Arc<dyn Fn(&Member) + Send + Sync>,
}

/// The links of a node with its peers.
pub struct PeerLinks {
    links: Arc<Links>,
    #[cfg(test)]
    own: Arc<Own>,
    inbound: Arc<server::Inbound>,
    /// Everything stops also when this is dropped.
    stop: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// The links that this node made, by the peer's name.
#[derive(Default)]
struct Links(RwLock<HashMap<Arc<str>, Arc<Link>>>);

/// Serves peers on `listener`, and keeps a link to each peer in `members`. Connections from the
/// addresses of members, and from those `found`, have a quota of their own during the handshake.
pub fn start(
    options: RpcOptions,
    listener: TcpListener,
    members: watch::Receiver<Arc<Members>>,
    found: watch::Receiver<Found>,
    handler: Arc<dyn Handler>,
) -> PeerLinks {
    let links = Arc::new(Links::default());
    let own = Arc::new(Own::new(options, members.clone(), found));
    let (stop, stopped) = watch::channel(false);
    let inbound = Arc::new(server::Inbound::default());
    let server = server::Server::new(own.clone(), handler, inbound.clone());
    let tasks = vec![
        crate::task::spawn("listener of peers", server.run(listener, stopped.clone())),
        crate::task::spawn("links", keep_links(links.clone(), own.clone(), members, stopped)),
    ];
    PeerLinks {
        links,
        #[cfg(test)]
        own,
        inbound,
        stop,
        tasks: Mutex::new(tasks),
    }
}

impl PeerLinks {
    /// Ends all links: requests of this node fail, those of peers that are being answered have
    /// [`crate::limits::PEER_STOP_GRACE`] left. Returns when nothing of it runs any more.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            let _ = task.await;
        }
    }

    /// The links to the peers in this node's view, by name.
    #[cfg(test)]
    pub fn status(&self) -> Vec<LinkStatus> {
        let mut all: Vec<_> = self.links.0.read().values().map(|link| link.status()).collect();
        all.sort_by(|a, b| a.peer.cmp(&b.peer));
        all
    }
}

impl Peers for PeerLinks {
    fn call(
        &self,
        peer: &str,
        request: Request,
    ) -> Result<BoxFuture<'static, Result<Response, PeerError>>, PeerError> {
        let link = self.links.0.read().get(peer).cloned();
        let link = link.ok_or_else(|| PeerError::Unreachable {
            peer: peer.into(),
            why: "this node does not see it".into(),
        })?;
        link.call(request)
    }

    fn reach(&self, peer: &Member) -> Option<Reach> {
        let link = self.links.0.read().get(&peer.name).cloned();
        let to = match link {
            Some(link) => link.status().connected.map(drop),
            None => Err("not connected yet".into()),
        };
        Some(Reach { to, from: self.inbound.has(&peer.name, peer.instance) })
    }
}

/// A link with the task that keeps it.
struct Kept {
    link: Arc<Link>,
    target: watch::Sender<Member>,
    task: JoinHandle<()>,
}

impl Kept {
    async fn end(self, why: &str) {
        self.task.abort();
        let _ = self.task.await;
        self.link.broke(why);
    }
}

/// Has a link for each peer in view.
async fn keep_links(
    links: Arc<Links>,
    own: Arc<Own>,
    mut members: watch::Receiver<Arc<Members>>,
    mut stop: watch::Receiver<bool>,
) {
    let mut kept: HashMap<Arc<str>, Kept> = HashMap::new();
    loop {
        let view = members.borrow_and_update().clone();
        let gone: Vec<_> = kept.keys().filter(|name| view.get(name).is_none()).cloned().collect();
        for name in gone {
            links.0.write().remove(&name);
            if let Some(kept) = kept.remove(&name) {
                kept.end("the node is gone").await;
            }
        }
        for member in view.alive.iter().filter(|m| m.name != own.options.member.name) {
            match kept.get(&member.name) {
                Some(kept) => {
                    kept.target.send_if_modified(|known| {
                        let differs = known != member;
                        *known = member.clone();
                        differs
                    });
                }
                None => {
                    let link = Link::new(member.name.clone());
                    let (target, targets) = watch::channel(member.clone());
                    let task =
                        crate::task::spawn("link", link::run(link.clone(), own.clone(), targets));
                    links.0.write().insert(member.name.clone(), link.clone());
                    kept.insert(member.name.clone(), Kept { link, target, task });
                }
            }
        }
        tokio::select! {
            changed = members.changed() => if changed.is_err() {
                // Nothing more will be known of the members; what there is goes on.
                let _ = stop.changed().await;
                break;
            },
            _ = stop.changed() => break,
        }
    }
    links.0.write().clear();
    for (_, kept) in kept {
        kept.end("this node stops").await;
    }
}
