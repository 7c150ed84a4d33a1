//! Node to node: one stream per peer, over which requests are forwarded and answered.

use crate::{
    error::Error,
    log::{Position, Term},
    names::{ServiceName, SessionId, SessionKey, SlotId},
    node_types::{Answer, History, Incoming, Range, Sent, SessionInfo, SlotInfo, Subscribed},
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::sync::Arc;

/// What a node asks of a peer.
pub enum Request {
    Message {
        key: SessionKey,
        message: Incoming,
        lane: u64,
    },
    Query {
        key: SessionKey,
        content_type: String,
        body: Bytes,
        local: bool,
    },
    History {
        key: SessionKey,
        range: Range,
        local: bool,
    },
    Session {
        key: SessionKey,
        local: bool,
    },
    Delete {
        key: SessionKey,
    },
    Sessions {
        slots: Vec<SlotId>,
        service: ServiceName,
        prefix: String,
        after: Option<SessionId>,
        limit: usize,
        pinned: bool,
    },
    Subscribe {
        key: SessionKey,
        after: u64,
    },
    /// Of the slots that the peer has.
    Slots,
    /// An encoded request of `cluster`: moves, drains, what a node believes.
    Control(Bytes),
}

/// What a peer answers, one for each [`Request`].
pub enum Response {
    Sent(Sent),
    Answer(Answer),
    History(History),
    Session(Box<SessionInfo>),
    Deleted,
    Sessions(Vec<SessionInfo>),
    /// Its live end is fed over the stream, within its bound.
    Subscribed(Subscribed),
    Slots(Vec<SlotInfo>),
    Control(Bytes),
    /// The peer does not own the slot; `owner` does, as far as it knows.
    NotOwner {
        owner: Option<Arc<str>>,
        term: Term,
        position: Position,
    },
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
    /// returns: so the order of one peer's messages is kept.
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
}
