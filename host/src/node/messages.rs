//! Requests of clients: messages, reads, subscriptions, listings.

use super::*;
use crate::{
    operation::{List, Message},
    telemetry::services,
};

/// Counts a failure with its service.
fn counted<T>(service: &ServiceName, result: Result<T, Error>) -> Result<T, Error> {
    result.inspect_err(|error| services::failed(service, error.code))
}

impl Node {
    /// Puts a message into its slot's mailbox, starting the slot if necessary. Messages of one task
    /// are applied in the order of its calls.
    ///
    /// # Errors
    /// `mailbox-full`, `unavailable`, `service-not-found`.
    pub async fn enqueue(&self, key: &SessionKey, message: Incoming) -> Result<Pending, Error> {
        let message = message.at_level(self.context.level.get());
        let pending = self.enqueue_uncounted(key, message).await;
        counted(&key.service, pending.map(|pending| pending.counted(key.service.clone())))
    }

    async fn enqueue_uncounted(
        &self,
        key: &SessionKey,
        message: Incoming,
    ) -> Result<Pending, Error> {
        if let Some(cluster) = &self.cluster {
            return cluster.forwarder.enqueue(key, message).await;
        }
        // Its handler may run right here: a socket with many frames yields to others in between.
        tokio::task::consume_budget().await;
        let (reply, pending) = oneshot::channel();
        let mail = Message::new(key.clone(), message).mail(reply);
        self.router.deliver(self.router.slot_of(key), mail)?;
        Ok(Pending::here(pending))
    }

    /// Has a slot of this node take messages that came together, as far as it can at once, and gives each
    /// one's answer. What is left is for [`Node::enqueue`].
    pub fn enqueue_ready(
        &self,
        key: &SessionKey,
        messages: &mut VecDeque<Incoming>,
        mut each: impl FnMut(Pending),
    ) {
        if self.cluster.is_some() {
            return;
        }
        let level = self.context.level.get();
        self.router.deliver_ready(self.router.slot_of(key), &key.service, || {
            let message = messages.pop_front()?.at_level(level);
            let (reply, pending) = oneshot::channel();
            each(Pending::here(pending).counted(key.service.clone()));
            Some(Message::new(key.clone(), message).mail(reply))
        });
    }

    /// Sends a message and waits until it is durable.
    ///
    /// # Errors
    /// As [`Node::enqueue`], and what became of the message.
    pub async fn send(&self, key: &SessionKey, message: Incoming) -> Result<Sent, Error> {
        let message = message.at_level(self.context.level.get());
        let sent = match &self.cluster {
            // Boxed: the futures of who waits have to be no larger for it.
            Some(cluster) => Box::pin(cluster.forwarder.send(key, message)).await,
            None => match self.enqueue_uncounted(key, message).await {
                Ok(pending) => pending.await,
                Err(error) => Err(error),
            },
        };
        counted(&key.service, sent)
    }

    /// Performs an operation for a client: here, or in a cluster on the slot's owner.
    ///
    /// # Errors
    /// The slot's error, or why the slot could not be reached.
    pub async fn call<O: Routed>(&self, operation: O) -> Result<O::Answer, Error> {
        let service = operation.service().cloned();
        let answer = self.ask(operation).await.and_then(O::accept);
        match service {
            Some(service) => counted(&service, answer),
            None => answer,
        }
    }

    /// A service's sessions over all slots, in order of their ids.
    pub async fn sessions(
        &self,
        service: &ServiceName,
        prefix: &str,
        after: Option<&SessionId>,
        limit: usize,
    ) -> Result<Vec<SessionInfo>, Error> {
        counted(service, self.list(service, prefix, after, limit, false).await)
    }

    /// Sessions that a newer plugin's `migrate` refused.
    pub async fn pinned(
        &self,
        service: &ServiceName,
        after: Option<&SessionId>,
        limit: usize,
    ) -> Result<Vec<SessionInfo>, Error> {
        self.list(service, "", after, limit, true).await
    }

    /// Whether there is such a service, as far as this node knows.
    pub fn has(&self, service: &ServiceName) -> bool {
        self.context.catalogue.require(service).is_ok()
    }

    /// As [`Node::call`], for internal callers.
    pub(super) async fn ask<O: Routed>(&self, operation: O) -> Result<O::Answer, Error> {
        let operation = operation.at_level(self.context.level.get());
        if let Some(cluster) = &self.cluster {
            return cluster.forwarder.call(operation).await;
        }
        let slot = operation.slot(self.router.slot_count());
        let (reply, answer) = oneshot::channel();
        self.router.deliver(slot, operation.mail(reply))?;
        answer.await.unwrap_or_else(|_| Err(gone(O::PURPOSE)))
    }

    /// Merges the slots' listings: a heap over one small page per slot, refilled as it is used up.
    async fn list(
        &self,
        service: &ServiceName,
        prefix: &str,
        after: Option<&SessionId>,
        limit: usize,
        pinned: bool,
    ) -> Result<Vec<SessionInfo>, Error> {
        self.context.catalogue.require(service)?;
        let slot_count = usize::from(self.router.slot_count());
        let page = (2 * limit / slot_count + 4).min(limit);
        let mut pages: Vec<VecDeque<SessionInfo>> = Vec::with_capacity(slot_count);
        let mut heap = BinaryHeap::new();
        let first = (0..self.router.slot_count())
            .map(|slot| self.list_slot(slot, service, prefix, after, page, pinned));
        let mut first = futures_util::stream::iter(first).buffered(limits::SLOTS_LISTED_AT_A_TIME);
        for slot in 0..self.router.slot_count() {
            let Some(entries) = first.next().await else { break };
            let entries = VecDeque::from(entries?);
            if let Some(first) = entries.front() {
                heap.push(Reverse((first.session.clone(), slot)));
            }
            pages.push(entries);
        }
        let mut listed = Vec::with_capacity(limit.min(limits::PAGE_ENTRIES_MAX));
        while listed.len() < limit {
            let Some(Reverse((_, slot))) = heap.pop() else { break };
            let entries = &mut pages[usize::from(slot)];
            let Some(info) = entries.pop_front() else { continue };
            if entries.is_empty() {
                let last = Some(&info.session);
                *entries = self.list_slot(slot, service, prefix, last, page, pinned).await?.into();
            }
            if let Some(next) = entries.front() {
                heap.push(Reverse((next.session.clone(), slot)));
            }
            listed.push(info);
        }
        Ok(listed)
    }

    /// A running slot answers itself; for one that does not run the store has everything.
    async fn list_slot(
        &self,
        slot: SlotId,
        service: &ServiceName,
        prefix: &str,
        after: Option<&SessionId>,
        limit: usize,
        pinned: bool,
    ) -> Result<Vec<SessionInfo>, Error> {
        // Sessions left by a removed service do not belong to the current one of that name: the
        // slot knows.
        let since = self.context.catalogue.get(service).map_or(0, |known| known.since);
        if !self.router.rests(slot)?
            || (since > 0 && self.may_have_sessions(service, slot, since)?)
        {
            let (service, prefix, after) = (service.clone(), prefix.to_owned(), after.cloned());
            return self.ask(List { slot, service, prefix, after, limit, pinned }).await;
        }
        let store = &*self.context.store;
        let found = read::stored(store, slot, service, prefix, after, limit, pinned)?;
        Ok(read::infos(&self.context.catalogue, slot, service, found.into_iter()))
    }
}
