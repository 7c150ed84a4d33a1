//! What goes into and comes out of a [`crate::node::Node`].

use crate::{
    buffers::{self, Charge, Held, Kind},
    error::Error,
    limits,
    log::{
        Position, Term,
        record::{DeploymentId, Entry, Event},
    },
    names::{ServiceName, SessionId, SessionKey, SlotId},
    plugin::Digest,
    position::Incarnation,
    slot::{Purpose, gone},
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
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
    /// Of the session; `None`: its node is of a version that does not say.
    pub incarnation: Option<Incarnation>,
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
pub struct Pending {
    way: Way,
    /// Whose failures are counted.
    service: Option<ServiceName>,
}

enum Way {
    /// In a mailbox of this node.
    Here(oneshot::Receiver<Result<Sent, Error>>),
    /// Wherever its slot is.
    Around(BoxFuture<'static, Result<Sent, Error>>),
}

impl Pending {
    pub(crate) fn here(answer: oneshot::Receiver<Result<Sent, Error>>) -> Self {
        Self { way: Way::Here(answer), service: None }
    }
    pub(crate) fn on_its_way(answer: BoxFuture<'static, Result<Sent, Error>>) -> Self {
        Self { way: Way::Around(answer), service: None }
    }
    /// Counts its failure as one of the service.
    pub(crate) fn counted(self, service: ServiceName) -> Self {
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
            crate::telemetry::services::failed(service, error.code);
        }
        answer
    }
}

/// Whether a read must reflect everything acknowledged before it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Consistency {
    #[default]
    Current,
    /// What the node that answers has, at once: it may be stale.
    Local,
}

/// Which part of a session's history.
#[derive(Clone, Copy, Debug)]
pub enum Range {
    /// Entries with a greater sequence number, up to `limit`.
    After { seq: u64, limit: usize },
    /// The last `limit` entries.
    Tail { limit: usize },
}

/// Who reads a page. What it takes is charged to what connections hold as long as it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadBy {
    /// Refused where connections hold all that they may.
    Client,
    /// Not to be kept out by what clients hold.
    Operator,
}

impl ReadBy {
    /// Whether a page may be read: before that is done, which costs more than to say no.
    ///
    /// # Errors
    /// `buffers-full`.
    pub(crate) fn check(self) -> Result<(), Error> {
        match self {
            Self::Client => buffers::shared().check(Kind::Answers, limits::PAGE_BYTES_MAX),
            Self::Operator => Ok(()),
        }
    }
    /// Charges a page of so many bytes, and the answer that is made of it while it is there: as
    /// base64 that has a third more.
    ///
    /// # Errors
    /// `buffers-full`.
    pub(crate) fn hold(self, bytes: usize) -> Result<Held, Error> {
        let mut charge = Charge::new(buffers::shared().clone(), Kind::Answers);
        let with_answer = bytes.saturating_add(bytes / 3 * 4);
        match (charge.set(with_answer), self) {
            (Err(full), Self::Client) => Err(full),
            _ => Ok(charge.into()),
        }
    }
}

/// A page of history.
#[derive(Clone, Debug)]
pub struct History {
    pub slot: SlotId,
    /// In order. Each with its plugin's label.
    pub entries: Vec<(Arc<Entry>, Arc<str>)>,
    /// The session's last sequence number as of this read.
    pub last_seq: u64,
    /// As in [`Sent`].
    pub incarnation: Option<Incarnation>,
    /// The slot remembers an earlier session of that name.
    pub made_again: bool,
    /// What the page takes, until it has become an answer.
    pub held: Held,
}

/// The events of one committed message.
#[derive(Clone, Debug)]
pub struct Published {
    pub seq: u64,
    /// As in [`Sent`].
    pub incarnation: Option<Incarnation>,
    pub time_ms: u64,
    pub events: Arc<[Event]>,
}

/// One step of a subscription: first what is already there (a page at a time), then the live end.
pub struct Subscribed {
    /// Messages after the cursor's `seq`, in order; those without events are included.
    pub backlog: Vec<Published>,
    /// `None`: there is more; subscribe again after the backlog's last.
    pub live: Option<LiveReceiver>,
    /// Of the session, [`Incarnation::NONE`] if there is none yet; `None` as in [`Sent`].
    pub incarnation: Option<Incarnation>,
    /// What the backlog takes.
    pub held: Held,
}

impl Published {
    fn memory(&self) -> usize {
        size_of::<Self>() + self.events.iter().map(Event::memory).sum::<usize>()
    }
}

/// Charges a backlog. Where connections hold all that they may, a small one is taken all the same:
/// a subscriber that reads must be able to go on.
///
/// # Errors
/// `buffers-full`.
pub(crate) fn hold_backlog(backlog: &[Published]) -> Result<Held, Error> {
    let bytes = backlog.iter().map(Published::memory).sum();
    let mut charge = Charge::new(buffers::shared().clone(), Kind::Events);
    match charge.set(bytes) {
        Err(full) if bytes > limits::SUBSCRIBER_BYTES_FREE => Err(full),
        _ => Ok(charge.into()),
    }
}

/// The slot's end of a live subscription.
#[derive(Debug)]
pub struct LiveSender {
    channel: mpsc::Sender<Queued>,
    queue: Arc<Queue>,
}

/// The subscriber's end of a live subscription. When it closes, either the subscriber was too
/// slow ([`LiveReceiver::lagged`]) or the slot stopped: then it subscribes again after the last
/// it saw.
#[derive(Debug)]
pub struct LiveReceiver {
    channel: mpsc::Receiver<Queued>,
    queue: Arc<Queue>,
}

/// What both ends know of what waits between them.
#[derive(Debug, Default)]
struct Queue {
    bytes: AtomicUsize,
    lagged: AtomicBool,
}

/// An item as it waits. Its memory is charged once for all queues that have it.
#[derive(Clone, Debug)]
pub struct Queued {
    live: Live,
    bytes: usize,
    /// There was room for it among what connections hold.
    fits: bool,
    held: Held,
}

impl Queued {
    /// For so many subscribers. What they hold is charged at once, and gone when none has it.
    pub(crate) fn new(live: Live, subscribers: usize) -> Self {
        let bytes = live.bytes();
        let mut charge = Charge::new(buffers::shared().clone(), Kind::Events);
        let fits = charge.set(bytes + subscribers * size_of::<Self>()).is_ok();
        Self { live, bytes, fits, held: charge.into() }
    }
}

/// A live subscription that holds [`limits::SUBSCRIBER_MESSAGES_MAX`] messages and
/// [`limits::SUBSCRIBER_BYTES_MAX`] bytes.
pub fn live_channel() -> (LiveSender, LiveReceiver) {
    let (sender, receiver) = mpsc::channel(limits::SUBSCRIBER_MESSAGES_MAX);
    let queue = Arc::new(Queue::default());
    (
        LiveSender { channel: sender, queue: queue.clone() },
        LiveReceiver { channel: receiver, queue },
    )
}

impl LiveSender {
    /// Gives an item to the subscriber without waiting. `false`: it is gone or too slow, drop the
    /// sender (`subscribers.retain(|s| s.offer(..))`).
    pub fn offer(&self, item: Live) -> bool {
        self.offer_queued(Queued::new(item, 1))
    }
    /// As [`LiveSender::offer`], for an item that others get, too.
    pub(crate) fn offer_queued(&self, item: Queued) -> bool {
        let Queue { bytes: waiting, lagged } = &*self.queue;
        let bytes = item.bytes;
        let before = waiting.fetch_add(bytes, Ordering::Relaxed);
        // The first is taken, however large. Where memory is short, those go that have most of it.
        let over = before > 0 && before + bytes > limits::SUBSCRIBER_BYTES_MAX;
        let too_much = over || (!item.fits && before > limits::SUBSCRIBER_BYTES_FREE);
        let sent = match too_much {
            true => Err(true),
            false => self.channel.try_send(item).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => true,
                mpsc::error::TrySendError::Closed(_) => false,
            }),
        };
        if let Err(too_slow) = sent {
            waiting.fetch_sub(bytes, Ordering::Relaxed);
            lagged.fetch_or(too_slow, Ordering::Release);
        }
        sent.is_ok()
    }
    /// Tells the subscriber that it was too slow, where that is known elsewhere.
    pub(crate) fn lag(&self) {
        self.queue.lagged.store(true, Ordering::Release);
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
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }
    /// As [`LiveReceiver::recv`], for a hand-written future.
    pub(crate) fn poll_recv(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Live>> {
        self.poll_queued(cx).map(|item| item.map(|item| item.live))
    }
    /// As [`LiveReceiver::recv`], with what the item takes, for as long as it is there.
    pub(crate) async fn recv_held(&mut self) -> Option<(Live, Held)> {
        let item = std::future::poll_fn(|cx| self.poll_queued(cx)).await?;
        Some((item.live, item.held))
    }
    fn poll_queued(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Option<Queued>> {
        self.channel.poll_recv(cx).map(|item| {
            let item = item?;
            self.queue.bytes.fetch_sub(item.bytes, Ordering::Relaxed);
            Some(item)
        })
    }
    /// Whether it was given up because it was too slow.
    pub fn lagged(&self) -> bool {
        self.queue.lagged.load(Ordering::Acquire)
    }
}

/// What a live subscriber receives.
#[derive(Clone, Debug)]
pub enum Live {
    Published(Published),
    /// The session was deleted.
    Deleted,
}

impl Live {
    /// Memory that it holds.
    fn bytes(&self) -> usize {
        let events = match self {
            Self::Published(published) => published.events.iter().map(Event::memory).sum::<usize>(),
            Self::Deleted => 0,
        };
        size_of::<Queued>() + events
    }
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
    /// The place behind its last message, in this session and no other of its name; not in
    /// listings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
    /// As in [`Sent`]; in listings not said.
    #[serde(skip)]
    pub incarnation: Option<Incarnation>,
    /// The slot remembers an earlier session of that name.
    #[serde(skip)]
    pub made_again: bool,
}

impl SessionInfo {
    pub fn key(&self) -> SessionKey {
        SessionKey { service: self.service.clone(), session: self.session.clone() }
    }
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
    /// The operator said of it that it reads the state of every other version as it is. Another deploy
    /// or rollback to that version for which this is not said is another deployment.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub same_state: bool,
    /// Who deployed it, if the request said so by `Slotd-Sender`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// A deployment with the sessions that it has.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DeploymentLine {
    #[serde(flatten)]
    pub deployment: DeploymentInfo,
    /// It is what the service runs.
    pub current: bool,
    /// What `rollback` goes back to if it is not told another.
    pub previous: bool,
    /// Sessions that it handled last; absent where they were not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u64>,
    /// Those of them that stay there because a later deployment did not take them over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pinned: Option<u64>,
}

/// The deploy or rollback that made a deployment current.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct SwitchedInfo {
    /// The label of what ran before, if anything did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Who asked for it, if the request said so by `Slotd-Sender`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// Every deployment of a service.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Deployments {
    #[schema(value_type = String)]
    pub service: ServiceName,
    pub generation: u64,
    /// What made the current one current; absent where that was before it was kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub switched: Option<SwitchedInfo>,
    /// The latest first.
    pub deployments: Vec<DeploymentLine>,
    /// Nodes that did not say what they have, with the reason: their sessions are not counted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<SilentNode>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ServiceInfo {
    #[schema(value_type = String)]
    pub service: ServiceName,
    pub current: DeploymentInfo,
    /// What `rollback` would go back to.
    pub previous: Option<DeploymentInfo>,
    pub generation: u64,
    pub memory: ServiceMemory,
    pub swap: Option<SwapInfo>,
}

/// What a service's instances hold on the node that answers.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct ServiceMemory {
    pub instances: u64,
    /// Their memories, and what each needs beside them.
    pub bytes: u64,
    /// Compiled code of the current version, which all instances share; absent while it is not
    /// loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code_bytes: Option<u64>,
}

/// A swap: the move of every slot to another deployment.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
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

/// Sessions that run on one deployment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionCount {
    pub sessions: u64,
    /// Those of them that stay there because a later deployment did not take them over.
    pub pinned: u64,
}

impl SessionCount {
    pub(crate) fn add(&mut self, other: Self) {
        self.sessions += other.sessions;
        self.pinned += other.pinned;
    }
}

/// What a slot has done of a purge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    pub deleted: u64,
    /// There are more.
    pub left: bool,
}

/// What one node has deleted of a removed service.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct PurgeShare {
    /// The generation in which it was removed.
    pub since: u64,
    pub deleted: u64,
    pub done: bool,
}

/// How far the removal of a service is.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ServiceRemoved {
    #[schema(value_type = String)]
    pub service: ServiceName,
    /// Sessions that were deleted since the nodes started.
    pub deleted: u64,
    /// Nothing of it is left. While it is false the rest is being deleted; ask again to see how far
    /// that is.
    pub done: bool,
}

impl ServiceRemoved {
    pub(crate) fn new(service: ServiceName) -> Self {
        Self { service, deleted: 0, done: true }
    }

    /// Adds what one node has done; `None`: it did not say, or has not begun.
    pub(crate) fn add(&mut self, share: Option<PurgeShare>, since: u64) {
        match share.filter(|share| share.since >= since) {
            Some(share) => {
                self.deleted += share.deleted;
                self.done &= share.done;
            }
            None => self.done = false,
        }
    }
}

/// What becomes of the sessions of one deployment when another one is to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct SessionsOutlook {
    /// The label of the version that they run on.
    pub from: String,
    pub sessions: u64,
    /// Why they stay there. Absent: they go to the version that is to run, or its `migrate` says of
    /// each whether it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stays: Option<String>,
}

/// What a deploy or rollback did.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Deployed {
    #[schema(value_type = String)]
    pub service: ServiceName,
    pub current: DeploymentInfo,
    /// False: that digest was already what runs, nothing was done.
    pub changed: bool,
    /// Where the version that runs now is no later than all before: the sessions that ran on
    /// others, and what becomes of them at their next message.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sessions: Vec<SessionsOutlook>,
    pub swap: Option<SwapInfo>,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SlotInfo {
    pub slot: SlotId,
    /// The node that owns it (or would, by the ring, if it is not started).
    pub owner: String,
    /// `running`, `stopped` (starts at its next message), `opening`, `draining`; `unknown`: its
    /// owner did not say, the rest is of the copy that the asked node has.
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

impl SlotInfo {
    pub(crate) const UNKNOWN: &str = "unknown";
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Drained {
    pub slot: SlotId,
    pub term: Term,
    pub position: Position,
    /// Where it went. On a resettable node it starts again there, at its next message.
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

/// A node as `slotd nodes` shows it: what it believes.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NodeView {
    pub node: String,
    pub version: String,
    /// Where its peers and its clients reach it.
    pub peer: String,
    pub api: String,
    /// Its view's number, counted by itself.
    pub view: u64,
    /// Whom it believes to be alive.
    pub members: Vec<String>,
    /// Those of them that give their slots away.
    pub leaving: Vec<String>,
    /// Slots that it owns, and that the ring of its view gives it.
    pub owned: u32,
    pub proposed: u32,
    /// Moves that it has under way.
    pub moving: u32,
    /// Why it is not ready, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub not_ready: Option<String>,
    /// Why it can't serve slots now, if it can't: the others leave it out of their rings.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub unfit: Option<String>,
    /// Links with other nodes that are missing, if any are.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub links: Option<String>,
}

/// The nodes of a cluster.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NodesInfo {
    /// The node that was asked.
    pub own: String,
    pub nodes: Vec<NodeView>,
    /// Members that did not answer, with the reason.
    pub silent: Vec<SilentNode>,
}

/// The feature level: what nodes may write while earlier versions have to read it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LevelInfo {
    /// The one in force.
    pub level: u16,
    /// The next one, if everything that has to read it can: it is raised by itself after `level_wait`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub may_rise_to: Option<u16>,
    /// What each node that is alive can read.
    pub nodes: Vec<LevelOf>,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LevelOf {
    pub node: String,
    /// The newest level that it reads.
    pub reads: u16,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SilentNode {
    pub node: String,
    pub why: String,
}

/// How far a move of a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MoveState {
    /// The new owner loads plugins and state while the old one serves.
    Preparing,
    /// The old owner finishes what it has and holds what comes.
    Sealing,
    /// The new owner claims the slot.
    Claiming,
    Done,
    Failed,
    Cancelled,
}

/// A move of a slot to the node that tells of it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct MoveInfo {
    /// Unique on the node `to`.
    pub id: u64,
    pub slot: SlotId,
    /// `None`: nobody had it, or its owner is gone.
    pub from: Option<String>,
    pub to: String,
    pub state: MoveState,
    /// Why it failed, or what the last try met.
    pub error: Option<String>,
    pub started_ms: u64,
    pub elapsed_ms: f64,
    /// How long nobody served the slot, of a planned move that is done.
    pub pause_ms: Option<f64>,
}

/// The moves of slots that the nodes know of.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct MovesInfo {
    /// Of all that the nodes remember, shown or not.
    pub counts: MoveCounts,
    /// Those under way by slot, then those that have ended, the latest first.
    pub moves: Vec<MoveInfo>,
    /// Nodes that did not answer, with the reason.
    pub silent: Vec<SilentNode>,
}

/// Moves by their state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MoveCounts {
    pub preparing: u32,
    pub sealing: u32,
    pub claiming: u32,
    pub done: u32,
    pub failed: u32,
    pub cancelled: u32,
}

impl MovesInfo {
    /// Orders and counts what the nodes told; shows at most `ended_max` of those that have ended.
    pub fn new(mut moves: Vec<MoveInfo>, silent: Vec<SilentNode>, ended_max: usize) -> Self {
        let mut counts = MoveCounts::default();
        for info in &moves {
            *match info.state {
                MoveState::Preparing => &mut counts.preparing,
                MoveState::Sealing => &mut counts.sealing,
                MoveState::Claiming => &mut counts.claiming,
                MoveState::Done => &mut counts.done,
                MoveState::Failed => &mut counts.failed,
                MoveState::Cancelled => &mut counts.cancelled,
            } += 1;
        }
        moves.sort_by_cached_key(|info| {
            let ended = info.state.has_ended().then(|| info.started_ms + info.elapsed_ms as u64);
            (ended.is_some(), std::cmp::Reverse(ended), info.slot, info.to.clone(), info.id)
        });
        moves.truncate(counts.running() + ended_max);
        Self { counts, moves, silent }
    }
}

impl MoveCounts {
    pub fn running(self) -> usize {
        (self.preparing + self.sealing + self.claiming) as usize
    }
}

impl MoveState {
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

/// A move that was cancelled; its slot stays where it was until the view changes, or somebody asks
/// for a move of it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MoveCancelled {
    /// Where the slot would have gone.
    pub node: String,
    pub id: u64,
}

/// A node that has begun to give its slots away; it ends when it has none.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct NodeDraining {
    pub node: String,
    /// Slots that it has to give away, as far as the node that was asked knows.
    pub slots: u32,
    /// The nodes that take them.
    pub takers: Vec<String>,
}

/// The value that a `share` of the sorted `values` does not exceed; 0 where there are none.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * share).ceil() as usize).copied().unwrap_or(0.0)
}

impl SwapShare {
    /// What all nodes did of one swap, as one.
    pub fn sum(shares: Vec<SwapShare>) -> Option<SwapInfo> {
        let mut pauses: Vec<f64> =
            shares.iter().flat_map(|s| s.pauses_us.iter().copied()).collect();
        pauses.sort_by(f64::total_cmp);
        let at = |share: f64| quantile(&pauses, share);
        let (p50, p99, max) = (at(0.5), at(0.99), at(1.0));
        let sum = shares.into_iter().map(|share| share.info).reduce(|a, b| SwapInfo {
            from: a.from.or(b.from),
            slots: a.slots + b.slots,
            moved: a.moved + b.moved,
            done: a.done && b.done,
            error: a.error.or(b.error),
            started_ms: a.started_ms.min(b.started_ms),
            elapsed_ms: a.elapsed_ms.max(b.elapsed_ms),
            ..a
        })?;
        Some(SwapInfo { pause_p50_us: p50, pause_p99_us: p99, pause_max_us: max, ..sum })
    }
}

/// What one node did of a swap.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SwapShare {
    pub info: SwapInfo,
    pub pauses_us: Vec<f64>,
}
