//! The interface that the handlers call: a node, or its test double in this folder's tests.

#[cfg(test)]
use super::fake::FakeNode;
use crate::{
    error::Error,
    loads::Load,
    message::Client,
    names::{ServiceName, SessionId, SessionKey},
    node::{Answer, ForkAsk, ForkDone, History, Incoming, Node, Pending, Sent, SessionInfo},
    operation::{Query, ReadHistory},
    quota::usage::Amounts,
    router::Routed,
};
use std::{collections::VecDeque, sync::Arc};

/// An enum rather than a trait: no boxed future in the path of a message.
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
    /// As [`Node::enqueue_ready`].
    pub(super) fn enqueue_ready(
        &self,
        key: &SessionKey,
        messages: &mut VecDeque<Incoming>,
        each: impl FnMut(Pending),
    ) {
        delegate!(self, node => node.enqueue_ready(key, messages, each));
    }
    /// As [`Node::load`].
    pub(super) fn load(&self, service: &ServiceName) -> Option<Arc<Load>> {
        match self {
            Self::Node(node) => node.load(service),
            #[cfg(test)]
            Self::Fake(_) => None,
        }
    }
    /// To be polled to its end, or dropped.
    pub(super) async fn send(&self, key: &SessionKey, message: Incoming) -> Result<Sent, Error> {
        delegate!(self, node => node.send(key, message).await)
    }
    /// Every operation on one slot except messages.
    pub(super) async fn call<O: Routed>(&self, operation: O) -> Result<O::Answer, Error> {
        match self {
            Self::Node(node) => node.call(operation).await,
            #[cfg(test)]
            Self::Fake(node) => {
                let (reply, answer) = tokio::sync::oneshot::channel();
                node.take(operation.mail(reply)).await;
                answer.await.unwrap_or_else(|_| Err(Error::internal("no answer")))
            }
        }
    }
    /// As [`Node::session_at`].
    pub(super) async fn session_at(&self, key: &SessionKey, at: u64) -> Result<SessionInfo, Error> {
        match self {
            Self::Node(node) => node.session_at(key, at).await,
            #[cfg(test)]
            Self::Fake(_) => Err(Error::internal("the stand-in runs no history")),
        }
    }
    /// As [`Node::history`].
    pub(super) async fn history(&self, read: ReadHistory) -> Result<History, Error> {
        match self {
            Self::Node(node) => node.history(read).await,
            #[cfg(test)]
            Self::Fake(_) => self.call(read).await,
        }
    }
    /// As [`Node::fork`].
    pub(super) async fn fork(&self, ask: ForkAsk) -> Result<ForkDone, Error> {
        match self {
            Self::Node(node) => {
                let node = node.clone();
                // Once begun it is carried out, whoever waits for it.
                let forking = crate::task::run(async move { node.fork(ask).await });
                forking.await.map_err(|error| Error::internal(error.to_string()))?
            }
            #[cfg(test)]
            Self::Fake(_) => Err(Error::internal("the stand-in forks nothing")),
        }
    }
    /// As [`Node::query_at`].
    pub(super) async fn query_at(&self, query: Query, at: u64) -> Result<Answer, Error> {
        match self {
            Self::Node(node) => node.query_at(query, at).await,
            #[cfg(test)]
            Self::Fake(_) => Err(Error::internal("the stand-in runs no history")),
        }
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
    /// Whether there is such a service, as far as is known here.
    pub(super) fn has(&self, service: &ServiceName) -> bool {
        delegate!(self, node => node.has(service))
    }
    /// Counts bytes that were sent to a client, of those who have an account here.
    pub(super) fn sent(&self, service: &ServiceName, client: Option<&Arc<Client>>, bytes: usize) {
        self.count(service, client.map(|client| &**client), |sum| sum.bytes_sent += bytes as u64);
    }
    /// Counts what a limit has refused.
    pub(super) fn refused(&self, service: &ServiceName, client: Option<&Client>) {
        self.count(service, client, |sum| sum.refused += 1);
    }
    /// Counts bytes of a query that was answered, which no slot keeps.
    pub(super) fn asked(&self, service: &ServiceName, client: Option<&Arc<Client>>, bytes: usize) {
        self.count(service, client.map(|client| &**client), |sum| sum.bytes_in += bytes as u64);
    }
    fn count(
        &self,
        service: &ServiceName,
        client: Option<&Client>,
        add: impl FnOnce(&mut Amounts),
    ) {
        match self {
            Self::Node(node) => node.metered().add(service, client, add),
            #[cfg(test)]
            Self::Fake(_) => {}
        }
    }
    pub(super) fn ready(&self) -> Result<Option<String>, Error> {
        delegate!(self, node => node.ready())
    }
}
