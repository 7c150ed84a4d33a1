//! Requests to slots and their answers, as the gateway, the router, links and slots pass them on.

mod gone;
mod live;
mod read;

pub use crate::client::Client;
pub use gone::{Purpose, gone};
pub use live::Queued;
pub(crate) use live::hold_backlog;
pub use live::{
    Ephemeral, Live, LiveReceiver, LiveSender, Origin, Published, Subscribed, live_channel,
};
pub use read::{History, PinInfo, Purged, Range, ReadBy, SessionInfo};

use crate::{
    error::Error,
    level::{HTTP_FROM, IDENTITY_FROM, Level},
    log::record::INTERNAL_KEY,
    names::{ServiceName, SlotId},
    position::Incarnation,
    telemetry::services,
    trace::Trace,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::{future::Future, pin::Pin, sync::Arc, time::Duration};
use tokio::sync::oneshot;

/// A message from the gateway, with sizes and names already checked.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// The idempotency key.
    pub id: Option<String>,
    pub sender: Option<String>,
    pub content_type: String,
    pub body: Bytes,
    /// What it is a part of. It is not kept with the message, but goes on to what that leads to.
    pub trace: Option<Trace>,
    /// Who its client was shown to be; `None`: nobody, or it is of no client. It is kept as the
    /// message's origin.
    pub client: Option<Arc<Client>>,
}

impl Incoming {
    /// Without what not every node knows at this feature level, nor may be kept at it.
    #[must_use]
    pub fn at_level(self, level: Level) -> Self {
        Self {
            trace: self.trace.filter(|_| level >= HTTP_FROM),
            client: self.client.filter(|_| level >= IDENTITY_FROM),
            ..self
        }
    }

    /// The idempotency key, unless a node of the cluster made it.
    pub fn client_key(&self) -> Option<&str> {
        self.id.as_deref().filter(|id| !id.starts_with(INTERNAL_KEY))
    }
}

/// The result for a sender once its message is durable.
#[derive(Clone, Debug)]
pub struct Sent {
    pub seq: u64,
    /// Of the session; `None`: its node runs a version that does not send it.
    pub incarnation: Option<Incarnation>,
    pub slot: SlotId,
    /// The plugin's label, `<version>+<short digest>`.
    pub plugin: Arc<str>,
    /// The first reply is returned again.
    pub replayed: bool,
    pub content_type: String,
    pub body: Bytes,
    /// What its handler has used. Of a repeat, nothing.
    pub guest_time: Duration,
}

/// A query's answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub slot: SlotId,
    pub plugin: Arc<str>,
    /// The last message that the answer reflects.
    pub seq: u64,
    pub content_type: String,
    pub body: Bytes,
    /// As a message's.
    pub guest_time: Duration,
}

/// A message that is in its slot's mailbox; resolves when it is durable, or failed.
pub struct Pending {
    way: Way,
    /// The service whose failures are counted.
    service: Option<ServiceName>,
}

enum Way {
    /// In a mailbox of this node.
    Here(oneshot::Receiver<Result<Sent, Error>>),
    /// Wherever its slot is.
    Around(BoxFuture<'static, Result<Sent, Error>>),
}

impl Pending {
    pub fn here(answer: oneshot::Receiver<Result<Sent, Error>>) -> Self {
        Self { way: Way::Here(answer), service: None }
    }
    pub fn on_its_way(answer: BoxFuture<'static, Result<Sent, Error>>) -> Self {
        Self { way: Way::Around(answer), service: None }
    }
    /// It is in a mailbox of this node, rather than on its way to wherever its slot is.
    pub fn is_here(&self) -> bool {
        matches!(self.way, Way::Here(_))
    }
    /// Counts its failure for the service.
    pub fn counted(self, service: ServiceName) -> Self {
        Self { service: Some(service), ..self }
    }
}

impl Future for Pending {
    type Output = Result<Sent, Error>;
    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        let answer = match &mut self.way {
            Way::Here(answer) => {
                Pin::new(answer).poll(cx).map(|r| r.unwrap_or_else(|_| Err(gone(Purpose::Message))))
            }
            Way::Around(answer) => answer.as_mut().poll(cx),
        };
        if let (std::task::Poll::Ready(Err(error)), Some(service)) = (&answer, &self.service) {
            services::failed(service, error.code);
        }
        answer
    }
}

/// Whether a read must reflect everything acknowledged before it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Consistency {
    #[default]
    Current,
    /// The answering node's current state, at once: it may be stale.
    Local,
}

impl Consistency {
    pub fn local(is_local: bool) -> Self {
        if is_local { Self::Local } else { Self::Current }
    }
    pub fn is_local(self) -> bool {
        self == Self::Local
    }
}
