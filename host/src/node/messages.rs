//! Requests of clients: messages, reads, subscriptions, listings.

use super::*;
use crate::{
    buffers::{self, Kind},
    telemetry::services,
};

/// Counts a failure with its service.
fn counted<T>(service: &ServiceName, result: Result<T, Error>) -> Result<T, Error> {
    result.inspect_err(|error| services::failed(service, error.code))
}

impl Node {
    /// Puts a message into its slot's mailbox (starting the slot if need be). The order of calls
    /// by one task is the order of the messages.
    ///
    /// # Errors
    /// `mailbox-full`, `unavailable`, `service-not-found`.
    pub async fn enqueue(&self, key: &SessionKey, message: Incoming) -> Result<Pending, Error> {
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
        // Its handler may run right here: a socket that has many frames lets others run between.
        tokio::task::consume_budget().await;
        let (reply, pending) = oneshot::channel();
        let mail = Mail::Message { key: key.clone(), message, reply };
        self.router.deliver(self.router.slot_of(key), mail)?;
        Ok(Pending::here(pending))
    }

    /// Sends a message and waits until it is durable.
    ///
    /// # Errors
    /// As [`Node::enqueue`], and what became of the message.
    pub async fn send(&self, key: &SessionKey, message: Incoming) -> Result<Sent, Error> {
        let sent = match &self.cluster {
            Some(cluster) => cluster.forwarder.send(key, message).await,
            None => match self.enqueue_uncounted(key, message).await {
                Ok(pending) => pending.await,
                Err(error) => Err(error),
            },
        };
        counted(&key.service, sent)
    }

    pub async fn query(
        &self,
        key: &SessionKey,
        content_type: String,
        body: Bytes,
        consistency: Consistency,
    ) -> Result<Answer, Error> {
        let mail = |reply| Mail::Query {
            key: key.clone(),
            content_type: content_type.clone(),
            body: body.clone(),
            consistency,
            reply,
        };
        let request = || Request::Query {
            key: key.clone(),
            content_type: content_type.clone(),
            body: body.clone(),
            local: consistency == Consistency::Local,
        };
        let pick = |response| match response {
            Response::Answer(answer) => Some(answer),
            _ => None,
        };
        counted(&key.service, self.ask(self.router.slot_of(key), mail, request, pick).await)
    }

    pub async fn history(
        &self,
        key: &SessionKey,
        range: Range,
        reader: ReadBy,
        consistency: Consistency,
    ) -> Result<History, Error> {
        let local = consistency == Consistency::Local;
        let pick = |response| match response {
            Response::History(history) => Some(history),
            _ => None,
        };
        let answer = self.ask(
            self.router.slot_of(key),
            |reply| Mail::History { key: key.clone(), range, reader, consistency, reply },
            || Request::History { key: key.clone(), range, local },
            pick,
        );
        counted(&key.service, answer.await)
    }

    pub async fn session(
        &self,
        key: &SessionKey,
        consistency: Consistency,
    ) -> Result<SessionInfo, Error> {
        let local = consistency == Consistency::Local;
        let pick = |response| match response {
            Response::Session(info) => Some(*info),
            _ => None,
        };
        let answer = self.ask(
            self.router.slot_of(key),
            |reply| Mail::Session { key: key.clone(), consistency, reply },
            || Request::Session { key: key.clone(), local },
            pick,
        );
        counted(&key.service, answer.await)
    }

    /// Deletes a session with all it has. Its subscribers are told.
    pub async fn delete(&self, key: &SessionKey) -> Result<(), Error> {
        let answer = self.ask(
            self.router.slot_of(key),
            |reply| Mail::Delete { key: key.clone(), reply },
            || Request::Delete { key: key.clone() },
            |response| matches!(response, Response::Deleted).then_some(()),
        );
        counted(&key.service, answer.await)
    }

    /// One step of a subscription to a session's events. See [`Subscribed`]. A session need not
    /// exist yet; the service must.
    pub async fn subscribe(&self, key: &SessionKey, after: u64) -> Result<Subscribed, Error> {
        let pick = |response| match response {
            Response::Subscribed(subscribed) => Some(subscribed),
            _ => None,
        };
        let answer = self.ask(
            self.router.slot_of(key),
            |reply| Mail::Subscribe { key: key.clone(), after, reply },
            || Request::Subscribe { key: key.clone(), after },
            pick,
        );
        let answer = answer.await.and_then(|subscribed| {
            // Here is not where it was read, where that is another node.
            if subscribed.held.bytes() > limits::SUBSCRIBER_BYTES_FREE {
                buffers::shared().check(Kind::Events, 0)?;
            }
            Ok(subscribed)
        });
        counted(&key.service, answer)
    }

    /// Sessions of a service over all slots, in order of their ids.
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

    /// Asks a slot: here, or in a cluster wherever it is.
    pub(super) async fn ask<T>(
        &self,
        slot: SlotId,
        mail: impl Fn(oneshot::Sender<Result<T, Error>>) -> Mail,
        request: impl Fn() -> Request,
        pick: impl Fn(Response) -> Option<T>,
    ) -> Result<T, Error> {
        if let Some(cluster) = &self.cluster {
            return cluster.forwarder.ask(slot, mail, request, pick).await;
        }
        let (reply, answer) = oneshot::channel();
        self.router.deliver(slot, mail(reply))?;
        answer.await.unwrap_or_else(|_| Err(gone(Purpose::by(&request()))))
    }

    /// Merges the slots' listings: a heap over one small page a slot, refilled as it is used up.
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

    /// A running slot answers for itself; of one that does not run the store has everything.
    async fn list_slot(
        &self,
        slot: SlotId,
        service: &ServiceName,
        prefix: &str,
        after: Option<&SessionId>,
        limit: usize,
        pinned: bool,
    ) -> Result<Vec<SessionInfo>, Error> {
        // What a removed service left is not the one's that has its name now: the slot knows.
        let since = self.context.catalogue.get(service).map_or(0, |known| known.since);
        if !self.router.rests(slot)?
            || (since > 0 && self.may_have_sessions(service, slot, since)?)
        {
            let (prefix, after) = (prefix.to_owned(), after.cloned());
            let mail = |reply| Mail::Sessions {
                service: service.clone(),
                prefix: prefix.clone(),
                after: after.clone(),
                limit,
                pinned,
                reply,
            };
            let request = || Request::Sessions {
                slots: vec![slot],
                service: service.clone(),
                prefix: prefix.clone(),
                after: after.clone(),
                limit,
                pinned,
            };
            let pick = |response| match response {
                Response::Sessions(sessions) => Some(sessions),
                _ => None,
            };
            return self.ask(slot, mail, request, pick).await;
        }
        let store = &*self.context.store;
        let found = read::stored(store, slot, service, prefix, after, limit, pinned)?;
        Ok(read::infos(&self.context.catalogue, slot, service, found.into_iter()))
    }
}
