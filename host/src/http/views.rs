//! What JSON answers look like. The structs are written and, in the OpenAPI document, described.

use super::body::{Inline, Shown};
use crate::{
    log::record::{Entry, Event},
    node::{History, ServiceInfo, SessionInfo, SlotInfo, SwapInfo},
};
use bytes::Bytes;
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
    /// Give it as `after` for the next page; absent when this is the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_after: Option<u64>,
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
    /// Milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// `<version>+<short digest>` of the plugin that handled it.
    pub plugin: &'a str,
    pub content_type: &'a str,
    /// The value itself when the content type is JSON, a string when it is text.
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
}

/// An event that a handler emitted.
#[derive(Serialize, ToSchema)]
pub struct EventView<'a> {
    /// The message that it belongs to.
    pub seq: u64,
    /// Which of its events it is, from 0.
    pub index: u32,
    /// The plugin's name for it.
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
            kind: &event.kind,
            time_ms,
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
        Self {
            seq: entry.seq,
            id: entry.client_key(),
            sender: entry.sender.as_deref(),
            time_ms: entry.time_ms,
            plugin,
            content_type: &entry.content_type,
            body: body.inline(),
            body_base64: body.base64(),
            reply_content_type: &entry.reply_content_type,
            reply: reply.inline(),
            reply_base64: reply.base64(),
            events: entry.events.iter().enumerate().map(event).collect(),
        }
    }
}

impl<'a> HistoryPage<'a> {
    pub(super) fn new(history: &'a History) -> Self {
        let entries: Vec<_> = history.entries.iter().map(|(e, p)| EntryView::new(e, p)).collect();
        let next_after = entries.last().map(|e| e.seq).filter(|seq| *seq < history.last_seq);
        Self { entries, last_seq: history.last_seq, next_after }
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
    pub(super) fn new(mut sessions: Vec<SessionInfo>, limit: usize) -> Self {
        let more = sessions.len() > limit;
        sessions.truncate(limit);
        let next_after = sessions.last().filter(|_| more).map(|s| s.session.to_string());
        Self { sessions, next_after }
    }
}

/// The services that are deployed.
#[derive(Serialize, ToSchema)]
pub struct Services {
    pub services: Vec<ServiceInfo>,
}

/// Where a service's last swap is.
#[derive(Serialize, ToSchema)]
pub struct SwapStatus {
    #[schema(value_type = String)]
    pub service: crate::names::ServiceName,
    /// Rises with each deploy or rollback.
    pub generation: u64,
    /// Absent when none is known: what ended before slotd kept that.
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
    /// What is wrong though the node serves: links with other nodes that are missing, a full disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Bytes, as they are.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "it stands in the document alone")]
pub(super) struct Binary(Vec<u8>);

/// An answer in JSON.
pub(super) fn json<T: Serialize>(value: &T) -> Response<axum::body::Body> {
    // The values above always have a JSON form.
    let mut body = serde_json::to_vec(value).unwrap_or_default();
    // It waits for its reader: what it grew by is not to wait with it.
    body.shrink_to_fit();
    let mut response = Response::new(Bytes::from(body).into());
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
