//! Takes messages between sessions to the slots that they are for.

use super::*;
use crate::{
    operation::{Deliver, Delivered},
    slot::Courier,
};
use std::sync::Weak;

/// The node's way to all slots.
pub(super) struct OfNode {
    node: Weak<Node>,
    /// Pieces that are on their way at a time.
    turns: Arc<Semaphore>,
}

impl OfNode {
    pub(super) fn new(node: &Arc<Node>) -> Self {
        let turns = Arc::new(Semaphore::new(limits::DELIVERIES_MAX));
        Self { node: Arc::downgrade(node), turns }
    }
}

impl Courier for OfNode {
    fn deliver(&self, piece: Deliver) -> BoxFuture<'static, Result<Delivered, Error>> {
        let (node, turns) = (self.node.clone(), self.turns.clone());
        async move {
            let stopping = || Error::of(Cause::Stopping, "the node is stopping");
            let sender = piece.messages.first().map(|message| &message.from.service);
            if let (Some(node), Some(service)) = (node.upgrade(), sender)
                && let Some(shares) = node.shares.clone()
            {
                // Before it takes a turn, which others need.
                drop(node);
                shares.turn(service).await?;
            }
            let _turn = turns.acquire_owned().await.map_err(|_| stopping())?;
            let node = node.upgrade().ok_or_else(stopping)?;
            node.call(piece).await
        }
        .boxed()
    }
}
