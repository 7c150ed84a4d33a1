//! Requests of operators on sessions.

use super::*;
use crate::{
    operation::{Operate, ReadState, Reset},
    operator::{Operation, StatePage, StateRange},
    rpc::or_too_old,
    service::catalogue::Service,
};

impl Node {
    /// A part of a session's state, from its slot.
    ///
    /// # Errors
    /// `session-not-found`, `service-not-found`, and any error of a read.
    pub async fn session_state(
        &self,
        key: &SessionKey,
        range: StateRange,
    ) -> Result<StatePage, Error> {
        self.ask(ReadState { key: key.clone(), range }).await.map_err(or_too_old)
    }

    /// Performs an operator's change to a session; once, however often it is forwarded.
    ///
    /// # Errors
    /// The slot's error; `outcome-unknown` if it is not known whether it was done.
    pub async fn operate(&self, key: &SessionKey, operation: Operation) -> Result<Sent, Error> {
        let who = operation.who.clone();
        let done = self.ask(Operate { key: key.clone(), operation });
        let sent = done.await.map_err(or_too_old)?;
        tracing::info!(session = %key, seq = sent.seq, %who, "an operator changed a session");
        Ok(sent)
    }

    /// A service with all its deployments.
    ///
    /// # Errors
    /// `service-not-found`.
    pub fn catalogued(&self, service: &ServiceName) -> Result<Arc<Service>, Error> {
        self.context.catalogue.require(service)
    }

    /// Deletes every session of every service; returns the number of slots.
    ///
    /// # Errors
    /// `reset-refused` unless the node is standalone and was started with `--resettable`.
    pub async fn reset(&self) -> Result<(u32, u64), Error> {
        let refused = |why: &'static str| Err(Error::new(Code::ResetRefused, why));
        if self.cluster.is_some() {
            return refused(
                "a node of a cluster can't reset: the other nodes have the sessions too",
            );
        }
        if !self.options.resettable {
            return refused("this node can't reset: it was not started with --resettable");
        }
        let slots = (0..self.router.slot_count()).map(|slot| self.reset_slot(slot));
        let mut slots =
            futures_util::stream::iter(slots).buffer_unordered(limits::SLOTS_RESET_AT_A_TIME);
        let (mut reset, mut sessions) = (0, 0);
        while let Some(done) = slots.next().await {
            if let Some(had) = done? {
                reset += 1;
                sessions += had;
            }
        }
        Ok((reset, sessions))
    }

    /// How many sessions it had; `None`: there was nothing to reset.
    async fn reset_slot(&self, slot: SlotId) -> Result<Option<u64>, Error> {
        if self.router.rests(slot)? && self.context.store.slot(slot)?.sessions == 0 {
            return Ok(None);
        }
        let mut sessions = 0;
        loop {
            let (reply, done) = oneshot::channel();
            self.router.deliver(slot, Reset.mail(reply))?;
            let done = done.await.unwrap_or_else(|_| Err(gone(Purpose::Step)))?;
            sessions += done.deleted;
            if !done.left {
                return Ok(Some(sessions));
            }
        }
    }
}
