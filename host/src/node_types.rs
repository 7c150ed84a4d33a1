//! What goes into and comes out of a [`crate::node::Node`].

use crate::{
    error::Error,
    log::{
        Position, Term,
        record::{DeploymentId, Entry, Event},
    },
    names::{ServiceName, SessionId, SessionKey, SlotId},
    plugin::Digest,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::{mpsc, oneshot};
use utoipa::ToSchema;

/// A message as the gateway made it; sizes and names are checked by then.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// The idempotency key.
    pub id: Option<String>,
    pub sender: Option<String>,
    pub content_type: String,
    pub body: Bytes,
}

/// What a sender is told once its message is durable.
#[derive(Clone, Debug)]
pub struct Sent {
    pub seq: u64,
    pub slot: SlotId,
    /// The plugin's label, `<version>+<short digest>`.
    pub plugin: Arc<str>,
    /// The reply of the first time is given again.
    pub replayed: bool,
    pub content_type: String,
    pub body: Bytes,
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
}

/// A message that is in its slot's mailbox; resolves when it is durable, or failed.
pub struct Pending(pub(crate) oneshot::Receiver<Result<Sent, Error>>);

impl Future for Pending {
    type Output = Result<Sent, Error>;
    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|r| {
            r.unwrap_or_else(|_| Err(Error::new(
                crate::error::Code::OutcomeUnknown,
                "the slot stopped before the message was decided; repeat it with the same idempotency key",
            )))
        })
    }
}

/// Which part of a session's history.
#[derive(Clone, Copy, Debug)]
pub enum Range {
    /// Entries with a greater sequence number, up to `limit`.
    After { seq: u64, limit: usize },
    /// The last `limit` entries.
    Tail { limit: usize },
}

/// A page of history.
#[derive(Clone, Debug)]
pub struct History {
    pub slot: SlotId,
    /// In order. Each with its plugin's label.
    pub entries: Vec<(Arc<Entry>, Arc<str>)>,
    /// The session's last sequence number as of this read.
    pub last_seq: u64,
}

/// A place in a session's events: after event `index` (from 0) of message `seq`; `index: None`
/// means after all events of `seq`. `seq: 0` is the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub seq: u64,
    pub index: Option<u32>,
}

/// The events of one committed message.
#[derive(Clone, Debug)]
pub struct Published {
    pub seq: u64,
    pub time_ms: u64,
    pub events: Arc<[Event]>,
}

/// One step of a subscription: first what is already there (a page at a time), then the live end.
pub struct Subscribed {
    /// Messages after the cursor's `seq`, in order; those without events are included.
    pub backlog: Vec<Published>,
    /// `None`: there is more; subscribe again after the backlog's last.
    pub live: Option<LiveReceiver>,
}

/// The slot's end of a live subscription.
#[derive(Debug)]
pub struct LiveSender {
    channel: mpsc::Sender<Live>,
    lagged: Arc<AtomicBool>,
}

/// The subscriber's end of a live subscription. When it closes, either the subscriber was too
/// slow ([`LiveReceiver::lagged`]) or the slot stopped: then it subscribes again after the last
/// it saw.
#[derive(Debug)]
pub struct LiveReceiver {
    channel: mpsc::Receiver<Live>,
    lagged: Arc<AtomicBool>,
}

/// A live subscription that holds [`crate::limits::SUBSCRIBER_MESSAGES_MAX`] messages.
pub fn live_channel() -> (LiveSender, LiveReceiver) {
    let (sender, receiver) = mpsc::channel(crate::limits::SUBSCRIBER_MESSAGES_MAX);
    let lagged = Arc::new(AtomicBool::new(false));
    (
        LiveSender { channel: sender, lagged: lagged.clone() },
        LiveReceiver { channel: receiver, lagged },
    )
}

impl LiveSender {
    /// Gives an item to the subscriber without waiting. `false`: it is gone or too slow, drop the
    /// sender (`subscribers.retain(|s| s.offer(..))`).
    pub fn offer(&self, item: Live) -> bool {
        match self.channel.try_send(item) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.lagged.store(true, Ordering::Release);
                false
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }
    /// Tells the subscriber that it was too slow, where that is known elsewhere.
    pub(crate) fn lag(&self) {
        self.lagged.store(true, Ordering::Release);
    }
    /// The subscriber went away.
    pub fn is_closed(&self) -> bool {
        self.channel.is_closed()
    }
}

impl LiveReceiver {
    /// The next item; `None` when the slot gave this subscriber up. Loses nothing when dropped
    /// before it resolves.
    pub async fn recv(&mut self) -> Option<Live> {
        self.channel.recv().await
    }
    /// As [`LiveReceiver::recv`], for a hand-written future.
    pub(crate) fn poll_recv(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Live>> {
        self.channel.poll_recv(cx)
    }
    /// Whether it was given up because it was too slow.
    pub fn lagged(&self) -> bool {
        self.lagged.load(Ordering::Acquire)
    }
}

/// What a live subscriber receives.
#[derive(Clone, Debug)]
pub enum Live {
    Published(Published),
    /// The session was deleted.
    Deleted,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SessionInfo {
    #[schema(value_type = String)]
    pub service: ServiceName,
    #[schema(value_type = String)]
    pub session: SessionId,
    pub slot: SlotId,
    /// The last message's sequence number.
    pub seq: u64,
    /// Milliseconds since the Unix epoch.
    pub created_ms: u64,
    pub updated_ms: u64,
    /// The label of the plugin whose shape the state has.
    pub plugin: String,
    /// Keys of the session's state, and bytes of keys and values.
    pub state_keys: u64,
    pub state_bytes: u64,
    /// Why the session stays on an older plugin, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pinned: Option<PinInfo>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PinInfo {
    /// The label of the plugin whose `migrate` refused the session.
    pub against: String,
    pub reason: String,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DeploymentInfo {
    pub deployment: DeploymentId,
    pub version: String,
    #[schema(value_type = String)]
    pub digest: Digest,
    /// `<version>+<short digest>`, as in `Slotd-Plugin`.
    pub label: String,
    pub deployed_ms: u64,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ServiceInfo {
    #[schema(value_type = String)]
    pub service: ServiceName,
    pub current: DeploymentInfo,
    /// What `rollback` would go back to.
    pub previous: Option<DeploymentInfo>,
    pub generation: u64,
    pub swap: Option<SwapInfo>,
}

/// A swap: the move of every slot to another deployment.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SwapInfo {
    pub generation: u64,
    /// Labels.
    pub from: Option<String>,
    pub to: String,
    pub slots: u32,
    pub moved: u32,
    pub done: bool,
    /// Why it does not proceed, if it does not.
    pub error: Option<String>,
    pub started_ms: u64,
    /// From the start until the last slot had moved (or until now).
    pub elapsed_ms: f64,
    /// How long a slot took no message, over the slots moved so far.
    pub pause_p50_us: f64,
    pub pause_p99_us: f64,
    pub pause_max_us: f64,
}

/// What a deploy or rollback did.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Deployed {
    #[schema(value_type = String)]
    pub service: ServiceName,
    pub current: DeploymentInfo,
    /// False: that digest was already what runs, nothing was done.
    pub changed: bool,
    pub swap: Option<SwapInfo>,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SlotInfo {
    pub slot: SlotId,
    /// The node that owns it (or would, by the ring, if it is not started).
    pub owner: String,
    /// `running`, `stopped` (starts at its next message), `draining`, `failed`.
    pub state: String,
    pub term: Term,
    pub position: Position,
    /// Up to where the state store has it.
    pub applied: Position,
    pub mailbox: usize,
    pub sessions: u64,
    /// Label per service.
    pub plugins: std::collections::BTreeMap<String, String>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Drained {
    pub slot: SlotId,
    pub term: Term,
    pub position: Position,
    /// Where it went; on one node it starts again here, at its next message.
    pub to: String,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Rebalanced {
    pub view: u64,
    /// Slots that move.
    pub moves: u32,
    pub detail: String,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RingInfo {
    pub scheme: String,
    /// The view's number.
    pub view: u64,
    pub slot_count: u16,
    pub virtual_nodes: u32,
    /// The most slots that a node may have.
    pub cap: u32,
    pub nodes: Vec<RingNode>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RingNode {
    pub node: String,
    pub slots: u32,
    /// As ranges, `0-511`.
    pub ranges: String,
}

/// A session and where it lives.
pub type Address = (SessionKey, SlotId);
