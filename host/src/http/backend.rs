//! The interface that the handlers call: a node, or a stand-in for one in this folder's tests.

#[cfg(test)]
use super::fake::FakeNode;
use crate::{
    error::Error,
    names::{ServiceName, SessionId, SessionKey},
    node::{
        Answer, Consistency, History, Incoming, Node, Pending, Range, ReadBy, Sent, SessionInfo,
        Subscribed,
    },
};
use bytes::Bytes;
use std::sync::Arc;

/// An enum rather than a trait: no boxed future on the way of a message.
#[derive(Clone)]
pub(super) enum Backend {
    Node(Arc<Node>),
    #[cfg(test)]
    Fake(Arc<FakeNode>),
}

macro_rules! delegate {
    ($self:ident, $node:ident => $call:expr) => {
        match $self {
            Backend::Node($node) => $call,
            #[cfg(test)]
            Backend::Fake($node) => $call,
        }
    };
}

impl Backend {
    pub(super) async fn enqueue(
        &self,
        key: &SessionKey,
        message: Incoming,
    ) -> Result<Pending, Error> {
        delegate!(self, node => node.enqueue(key, message).await)
    }
    /// To be polled to its end, or dropped.
    pub(super) async fn send(&self, key: &SessionKey, message: Incoming) -> Result<Sent, Error> {
        delegate!(self, node => node.send(key, message).await)
    }
    pub(super) async fn query(
        &self,
        key: &SessionKey,
        content_type: String,
        body: Bytes,
        consistency: Consistency,
    ) -> Result<Answer, Error> {
        delegate!(self, node => node.query(key, content_type, body, consistency).await)
    }
    pub(super) async fn history(
        &self,
        key: &SessionKey,
        range: Range,
        consistency: Consistency,
    ) -> Result<History, Error> {
        delegate!(self, node => node.history(key, range, ReadBy::Client, consistency).await)
    }
    pub(super) async fn session(
        &self,
        key: &SessionKey,
        consistency: Consistency,
    ) -> Result<SessionInfo, Error> {
        delegate!(self, node => node.session(key, consistency).await)
    }
    pub(super) async fn delete(&self, key: &SessionKey) -> Result<(), Error> {
        delegate!(self, node => node.delete(key).await)
    }
    pub(super) async fn sessions(
        &self,
        service: &ServiceName,
        prefix: &str,
        after: Option<&SessionId>,
        limit: usize,
    ) -> Result<Vec<SessionInfo>, Error> {
        delegate!(self, node => node.sessions(service, prefix, after, limit).await)
    }
    pub(super) async fn subscribe(
        &self,
        key: &SessionKey,
        after: u64,
    ) -> Result<Subscribed, Error> {
        delegate!(self, node => node.subscribe(key, after).await)
    }
    pub(super) fn ready(&self) -> Result<Option<String>, Error> {
        delegate!(self, node => node.ready())
    }
}
