//! The structs of JSON answers, also used for the OpenAPI document.

mod answers;
mod audit;
mod caused;
mod client;
mod requests;
mod sends;
mod timers;
mod usage;

pub use answers::{HttpAnswerView, HttpPartView, PresenceView};
pub use audit::{AuditLines, AuditPage};
pub use caused::CausedView;
pub use client::ClientView;
pub use sends::{AnswerView, DeliveryView, OutboxPage};
pub use timers::{DeadPage, EffectChanged, TimersPage};
pub use usage::UsageView;

use super::{
    body::{Inline, Shown},
    pieces::Pieces,
};
use crate::{
    effects::{self, Firing},
    log::record::{Entry, Event},
    message::{self, Ephemeral, Origin},
    names::{ServiceName, SessionId, SlotId},
    node::{CanaryInfo, Cursor, History, ServiceInfo, SlotInfo, SwapInfo},
};
use http::{HeaderValue, Response, header};
use serde::Serialize;
use utoipa::ToSchema;

/// A page of a session's history.
#[derive(Serialize, ToSchema)]
pub struct HistoryPage<'a> {
    /// In order.
    pub entries: Vec<EntryView<'a>>,
    /// The session's last sequence number.
    pub last_seq: u64,
    /// The first message that there is, where those before have gone: the session was forked off one that was deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub begins: Option<u64>,
    /// The last message of this page; absent on the last page. Prefer `position`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_after: Option<u64>,
    /// The position after this page, valid only for this session, not for a later one of the same
    /// name. Pass it as `after` for the next page, or to follow the events from there.
    pub position: String,
}

/// A message with its reply and events.
#[derive(Serialize, ToSchema)]
pub struct EntryView<'a> {
    /// From 1, without a gap, within the session.
    pub seq: u64,
    /// The idempotency key, if the client gave one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sender: Option<&'a str>,
    /// Who its client was shown to be; absent: nobody, or it is no client's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientView<'a>>,
    /// `operator`: not a message, but an operator's action; the body describes it. `timer`: the session's own timer
    /// sent it. `session`: another session sent it, or this one. `answer`: the outcome of a message that this session has
    /// sent. `http`: the answer to a request that this session has made, or why there is none. `http-part`: not a message,
    /// but a part of such an answer, shown while it came. `presence`: the session's first subscriber has come, or the last
    /// one has gone. Absent: a client's message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<&'static str>,
    /// Of a timer's message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timer: Option<FiringView<'a>>,
    /// Of a message that a session sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<DeliveryView>,
    /// Of an outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<AnswerView<'a>>,
    /// Of an answer to a request over HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpAnswerView<'a>>,
    /// Of a part of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<HttpPartView<'a>>,
    /// Of what subscribers did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence: Option<PresenceView>,
    /// Milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// `<version>+<short digest>` of the plugin that handled it.
    pub plugin: &'a str,
    pub content_type: &'a str,
    /// The value itself if the content type is JSON, a string if it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = serde_json::Value)]
    pub body: Option<Inline<'a>>,
    /// Every other body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
    pub reply_content_type: &'a str,
    /// As `body`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = serde_json::Value)]
    pub reply: Option<Inline<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_base64: Option<String>,
    pub events: Vec<EventView<'a>>,
    /// What it has led to; left out where that is nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub caused: Vec<CausedView<'a>>,
}

/// Which of a timer's times a message is for.
#[derive(Serialize, ToSchema)]
pub struct FiringView<'a> {
    /// The timer's name.
    pub name: &'a str,
    /// The time that it was set for, in milliseconds since the Unix epoch.
    pub due_ms: u64,
    /// Later times of its period that had passed too, and have no message of their own.
    pub missed: u64,
    /// From 1: how often the message was tried.
    pub attempt: u32,
}

impl<'a> FiringView<'a> {
    pub(super) fn new(firing: &'a Firing) -> Self {
        let Firing { name, due_ms, missed, attempt } = firing;
        Self { name, due_ms: *due_ms, missed: *missed, attempt: *attempt }
    }
}

/// An event that a handler emitted.
#[derive(Serialize, ToSchema)]
pub struct EventView<'a> {
    /// The message that it belongs to.
    pub seq: u64,
    /// Which of its events it is, from 0.
    pub index: u32,
    /// On a socket: pass it as `after` to continue after this event. An event stream has it as the
    /// event's `id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
    /// The event's name, chosen by the plugin.
    pub kind: &'a str,
    /// Milliseconds since the Unix epoch.
    pub time_ms: u64,
    pub content_type: &'a str,
    /// As an entry's `body`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = serde_json::Value)]
    pub body: Option<Inline<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
}

impl<'a> EventView<'a> {
    pub(super) fn new(seq: u64, index: usize, time_ms: u64, event: &'a Event) -> Self {
        let body = Shown::new(&event.content_type, &event.body);
        Self {
            seq,
            // At most `limits::EVENTS_MAX`.
            index: index as u32,
            position: None,
            kind: &event.kind,
            time_ms,
            content_type: &event.content_type,
            body: body.inline(),
            body_base64: body.base64(),
        }
    }
}

/// An ephemeral event: it has no place in the history. On a stream of events, `ephemeral` is `true`.
#[derive(Serialize, ToSchema)]
pub struct EphemeralView<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<bool>,
    /// The event's name, chosen by who sent it.
    pub kind: &'a str,
    /// Who sent it: `handler` or `client`.
    pub origin: &'static str,
    /// Of a client, if it gave one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sender: Option<&'a str>,
    /// Milliseconds since the Unix epoch.
    pub time_ms: u64,
    pub content_type: &'a str,
    /// As an entry's `body`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = serde_json::Value)]
    pub body: Option<Inline<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
}

impl<'a> EphemeralView<'a> {
    pub(super) fn new(ephemeral: &'a Ephemeral) -> Self {
        let Ephemeral { origin, time_ms, event } = ephemeral;
        let body = Shown::new(&event.content_type, &event.body);
        Self {
            ephemeral: None,
            kind: &event.kind,
            origin: match origin {
                Origin::Handler => "handler",
                Origin::Client(_) => "client",
            },
            sender: origin.sender(),
            time_ms: *time_ms,
            content_type: &event.content_type,
            body: body.inline(),
            body_base64: body.base64(),
        }
    }
}

impl<'a> EntryView<'a> {
    fn new(entry: &'a Entry, plugin: &'a str) -> Self {
        let body = Shown::new(&entry.content_type, &entry.body);
        let reply = Shown::new(&entry.reply_content_type, &entry.reply);
        let event = |(i, e)| EventView::new(entry.seq, i, entry.time_ms, e);
        let (mut timer, mut delivery, mut answer) = (None, None, None);
        let (mut http, mut part, mut presence) = (None, None, None);
        let mut client = None;
        let origin = entry.origin.as_deref().and_then(effects::Origin::shown);
        let origin = origin.and_then(|origin| match origin {
            effects::Origin::Client(of) => {
                client = Some(ClientView::new(of));
                None
            }
            effects::Origin::Timer(firing) => {
                timer = Some(FiringView::new(firing));
                Some("timer")
            }
            effects::Origin::Session(received) => {
                delivery = Some(DeliveryView::new(received));
                Some("session")
            }
            effects::Origin::Answer(answered) => {
                answer = Some(AnswerView::new(answered));
                Some("answer")
            }
            effects::Origin::Http(answered) => {
                http = Some(HttpAnswerView::new(answered));
                Some("http")
            }
            effects::Origin::Part(of) => {
                part = Some(HttpPartView::new(of));
                Some("http-part")
            }
            // It is one anyway, and says with its body what it has done.
            effects::Origin::Operator(_) | effects::Origin::Inherited(_) => None,
            effects::Origin::Presence(present) => {
                presence = Some(PresenceView { present: *present });
                Some("presence")
            }
        });
        let operator = entry.is_operators().then_some("operator");
        Self {
            seq: entry.seq,
            id: entry.client_key(),
            sender: entry.sender.as_deref(),
            client,
            origin: operator.or(origin),
            timer,
            delivery,
            answer,
            http,
            part,
            presence,
            time_ms: entry.time_ms,
            plugin,
            content_type: &entry.content_type,
            body: body.inline(),
            body_base64: body.base64(),
            reply_content_type: &entry.reply_content_type,
            reply: reply.inline(),
            reply_base64: reply.base64(),
            events: entry.events.iter().enumerate().map(event).collect(),
            caused: entry.caused.iter().map(CausedView::new).collect(),
        }
    }
}

impl<'a> HistoryPage<'a> {
    /// What `history` has after message `after`.
    pub(super) fn new(history: &'a History, after: u64) -> Self {
        let entries: Vec<_> = history.entries.iter().map(|(e, p)| EntryView::new(e, p)).collect();
        let next_after = entries.last().map(|e| e.seq).filter(|seq| *seq < history.last_seq);
        let reached = entries.last().map_or(after, |e| e.seq);
        let position = Cursor::after(reached, history.incarnation).to_string();
        let (last_seq, begins) = (history.last_seq, history.begins);
        Self { entries, last_seq, begins, next_after, position }
    }
}

#[derive(Serialize, ToSchema)]
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
    /// Its handler has closed it: it takes no more messages. Left out where it is not; not in listings.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub closed: bool,
    /// The session that it was forked off, and the last message that it has of that; not in listings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forked: Option<ForkedView>,
    /// The place behind its last message, in this session and no other of its name; not in
    /// listings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
}

/// Where a session comes from.
#[derive(Serialize, ToSchema)]
pub struct ForkedView {
    #[schema(value_type = String)]
    pub session: SessionId,
    /// The last message of that session that it has.
    pub at: u64,
}

impl ForkedView {
    pub(super) fn new(forked: &effects::Forked) -> Self {
        Self { session: forked.from.clone(), at: forked.at }
    }
}

#[derive(Serialize, ToSchema)]
pub struct PinInfo {
    /// The label of the plugin whose `migrate` refused the session.
    pub against: String,
    pub reason: String,
}

impl From<message::SessionInfo> for SessionInfo {
    fn from(info: message::SessionInfo) -> Self {
        let pinned = info.pinned;
        Self {
            service: info.service,
            session: info.session,
            slot: info.slot,
            seq: info.seq,
            created_ms: info.created_ms,
            updated_ms: info.updated_ms,
            plugin: info.plugin,
            state_keys: info.state_keys,
            state_bytes: info.state_bytes,
            pinned: pinned.map(|pin| PinInfo { against: pin.against, reason: pin.reason }),
            closed: info.closed,
            forked: info.forked.as_deref().map(ForkedView::new),
            position: None,
        }
    }
}

impl SessionInfo {
    /// With the place to follow the session from.
    pub(super) fn with_position(info: message::SessionInfo) -> Self {
        let position = Cursor::after(info.seq, info.incarnation).to_string();
        Self { position: Some(position), ..info.into() }
    }
}

/// A page of sessions.
#[derive(Serialize, ToSchema)]
pub struct SessionsPage {
    /// In order of their ids.
    pub sessions: Vec<SessionInfo>,
    /// Give it as `after` for the next page; absent when this is the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_after: Option<String>,
}

impl SessionsPage {
    /// Of up to `limit` sessions and one more, which is there when this page is not the last.
    pub(super) fn new(mut sessions: Vec<message::SessionInfo>, limit: usize) -> Self {
        let more = sessions.len() > limit;
        sessions.truncate(limit);
        let next_after = sessions.last().filter(|_| more).map(|s| s.session.to_string());
        let sessions = sessions.into_iter().map(SessionInfo::from).collect();
        Self { sessions, next_after }
    }
}

/// The services that are deployed.
#[derive(Serialize, ToSchema)]
pub struct Services {
    pub services: Vec<ServiceInfo>,
}

/// The progress of a service's last swap.
#[derive(Serialize, ToSchema)]
pub struct SwapStatus {
    #[schema(value_type = String)]
    pub service: ServiceName,
    /// Rises with each deploy or rollback.
    pub generation: u64,
    /// A version that runs in some slots first, or what became of the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryInfo>,
    /// Absent if none is known: it ended before slotd recorded swaps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap: Option<SwapInfo>,
}

/// Every slot.
#[derive(Serialize, ToSchema)]
pub struct Slots {
    pub slots: Vec<SlotInfo>,
}

/// The state of the process.
#[derive(Serialize, ToSchema)]
pub struct Health {
    /// `ok` or `ready`.
    pub status: &'static str,
    /// What is wrong although the node serves: missing links to other nodes, a full disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A page of a session's state.
#[derive(Serialize, ToSchema)]
pub struct StateView {
    pub session: SessionInfo,
    /// In order of the keys.
    pub entries: Vec<StateEntry>,
    /// Give it as `after` for the next page; absent when this is the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_after: Option<String>,
}

/// A key of a session's state.
#[derive(Serialize, ToSchema)]
pub struct StateEntry {
    pub key: String,
    /// The value, if it is JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub value: Option<Box<serde_json::value::RawValue>>,
    /// Every other value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
}

impl StateEntry {
    pub(super) fn new(key: &str, value: &[u8]) -> Self {
        let shown = Shown::new("application/json", value);
        let json = match &shown {
            Shown::Json(raw) => Some((*raw).to_owned()),
            _ => None,
        };
        Self { key: key.to_owned(), value: json, value_base64: shown.base64() }
    }
}

/// A correction that is durable.
#[derive(Serialize, ToSchema)]
pub struct StateChanged {
    /// Its number in the session's history.
    pub seq: u64,
    /// The position after it.
    pub position: String,
    pub slot: u16,
    /// It was applied before, under the same idempotency key.
    pub replayed: bool,
}

/// A session that was imported.
#[derive(Serialize, ToSchema)]
pub struct SessionImported {
    /// The session's last sequence number: that of the entry that records the import.
    pub seq: u64,
    /// The position after it.
    pub position: String,
    pub slot: u16,
    /// Messages of the history and keys of the state that were in the file.
    pub messages: u64,
    pub keys: u64,
}

/// The sessions that a delete by prefix removed.
#[derive(Serialize, ToSchema)]
pub struct SessionsDeleted {
    /// How many were deleted or, with `dry_run`, counted.
    pub sessions: usize,
    pub dry_run: bool,
    /// Pass it as `after` to continue; absent if there are no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_after: Option<String>,
}

/// Every session is deleted.
#[derive(Serialize, ToSchema)]
pub struct ResetDone {
    /// Slots that ran, or had sessions.
    pub slots: u32,
    /// The sessions that they had when the reset began.
    pub sessions: u64,
}

/// Bytes, as they are.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "it stands in the document alone")]
pub(super) struct Binary(Vec<u8>);

/// An answer in JSON.
/// Bytes of the body of an answer that [`json`] made.
pub(super) fn page_bytes(page: &Response<axum::body::Body>) -> usize {
    let bytes = http_body::Body::size_hint(page.body()).exact();
    bytes.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or_default()
}

pub(super) fn json<T: Serialize>(value: &T) -> Response<axum::body::Body> {
    let mut body = Pieces::default();
    if serde_json::to_writer(&mut body, value).is_err() {
        // The values above always have a JSON form.
        body = Pieces::default();
    }
    let mut response = Response::new(body.into_body());
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
