//! A node: everything that one process runs, and the calls that the gateway and the CLI make.

pub use crate::node_types::*;

use crate::{
    error::Error,
    names::{ServiceName, SessionId, SessionKey, SlotId},
};
use bytes::Bytes;

/// One running node. Shared behind an `Arc`.
pub struct Node {}

impl Node {
    /// Puts a message into its slot's mailbox (starting the slot if need be). The order of calls
    /// by one task is the order of the messages.
    pub async fn enqueue(&self, _key: &SessionKey, _message: Incoming) -> Result<Pending, Error> {
        unimplemented!()
    }
    /// Sends a message and waits until it is durable.
    pub async fn send(&self, key: &SessionKey, message: Incoming) -> Result<Sent, Error> {
        self.enqueue(key, message).await?.await
    }
    pub async fn query(
        &self,
        _key: &SessionKey,
        _content_type: String,
        _body: Bytes,
    ) -> Result<Answer, Error> {
        unimplemented!()
    }
    pub async fn history(&self, _key: &SessionKey, _range: Range) -> Result<History, Error> {
        unimplemented!()
    }
    pub async fn session(&self, _key: &SessionKey) -> Result<SessionInfo, Error> {
        unimplemented!()
    }
    /// Deletes a session with all it has. Its subscribers are told.
    pub async fn delete(&self, _key: &SessionKey) -> Result<(), Error> {
        unimplemented!()
    }
    /// Sessions of a service over all slots, in order of their ids.
    pub async fn sessions(
        &self,
        _service: &ServiceName,
        _prefix: &str,
        _after: Option<&SessionId>,
        _limit: usize,
    ) -> Result<Vec<SessionInfo>, Error> {
        unimplemented!()
    }
    /// Sessions that a newer plugin's `migrate` refused.
    pub async fn pinned(
        &self,
        _service: &ServiceName,
        _after: Option<&SessionId>,
        _limit: usize,
    ) -> Result<Vec<SessionInfo>, Error> {
        unimplemented!()
    }
    /// One step of a subscription to a session's events. See [`Subscribed`]. A session need not
    /// exist yet; the service must.
    pub async fn subscribe(&self, _key: &SessionKey, _after: u64) -> Result<Subscribed, Error> {
        unimplemented!()
    }

    // ---- admin ---------------------------------------------------------------------------------

    pub fn services(&self) -> Vec<ServiceInfo> {
        unimplemented!()
    }
    pub fn service(&self, _service: &ServiceName) -> Result<ServiceInfo, Error> {
        unimplemented!()
    }
    /// Stores, checks and compiles a component and moves every slot to it; returns when all have
    /// moved, or with the swap still under way when that takes longer than the request deadline.
    pub async fn deploy(
        &self,
        _service: &ServiceName,
        _version: Option<String>,
        _component: Bytes,
    ) -> Result<Deployed, Error> {
        unimplemented!()
    }
    pub async fn rollback(&self, _service: &ServiceName) -> Result<Deployed, Error> {
        unimplemented!()
    }
    pub async fn slots(&self) -> Result<Vec<SlotInfo>, Error> {
        unimplemented!()
    }
    pub async fn slot(&self, _slot: SlotId) -> Result<SlotInfo, Error> {
        unimplemented!()
    }
    pub async fn drain_slot(&self, _slot: SlotId) -> Result<Drained, Error> {
        unimplemented!()
    }
    pub async fn rebalance(&self) -> Result<Rebalanced, Error> {
        unimplemented!()
    }
    pub fn ring(&self) -> RingInfo {
        unimplemented!()
    }
    /// `Ok` when requests can be served; else why not.
    pub fn ready(&self) -> Result<(), Error> {
        unimplemented!()
    }
}
