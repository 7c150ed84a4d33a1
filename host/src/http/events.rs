//! A session's events as server-sent events.

use super::{
    Api,
    access::{Who, standing::Standing},
    connection::ConnShared,
    feed::{Feed, Item},
    messages::reading,
    params::{self, Query, invalid},
    problem::{Failed, Problem},
    shutdown::Signal,
    stats::Open,
    views::{EphemeralView, EventView},
};
use crate::{
    buffers::Kind,
    error::Error,
    limits,
    message::Ephemeral,
    names::is_reserved_kind,
    node::{Cursor, Published},
    slot::request::RESTARTED,
};
use axum::{Extension, body::Body, extract::State};
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, future::BoxFuture, stream};
use http::{HeaderMap, HeaderValue, Response, Uri, header};
use std::{convert::Infallible, sync::Arc};

/// Streams a session's events
///
/// As server-sent events. `id:` is the event's position, `event:` the plugin's name for it, `data:`
/// one JSON object. An ephemeral event has no `id:` and no `seq`, but `ephemeral: true`. To resume a broken stream without gap or repeat, send its last id:
/// `Last-Event-ID` (which browsers send) takes precedence over `after`. Without either, the stream
/// starts with new events. The last event of a stream is one of slotd's own, without `seq` in its
/// data: `slotd.gap` if the reader was too slow (reconnect with the last id); `slotd.deleted` if the
/// session was deleted, or the position belongs to a deleted session (reconnect with this event's
/// id, `0`, for the next session of that name); `slotd.error`; or `error`, with a problem, if its token has ended
/// (`token-expired`) or it is no longer allowed (`forbidden`). `access_token` can replace the
/// `Authorization` header.
#[utoipa::path(
    get,
    operation_id = "events",
    path = "/v1/services/{service}/sessions/{session}/events",
    tag = "sessions",
    params(
        ("service" = String, Path, description = "The service"),
        ("session" = String, Path, description = "The session's id, percent-encoded"),
        ("after" = Option<String>, Query, description = "A position from slotd (such as an event's id), or a message's sequence number; 0: from the beginning"),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event received"),
    ),
    responses((status = 200, description = "A stream of events, and of ephemeral events", body = EventView, content_type = "text/event-stream"))
)]
pub(super) async fn get(
    State(api): State<Api>,
    uri: Uri,
    connection: Option<Extension<Arc<ConnShared>>>,
    Extension(who): Extension<Arc<Who>>,
    headers: HeaderMap,
) -> Result<Response<Body>, Failed> {
    let key = params::session_of(&uri)?;
    let query = Query::parse(&uri, &["after"])?;
    let after =
        query.get("after").map(|t| Cursor::parse(t, "query parameter \"after\"")).transpose()?;
    let cursor = last_event_id(&headers)?.or(after);
    api.buffers().check(Kind::Events, limits::SUBSCRIBER_BYTES_FREE)?;
    let standing = Standing::new(api.gate(), who, &key);
    let counted = api.limiter().open_socket(&key, standing.admitted().client.as_deref())?;
    let feed = reading(&api, Feed::open(api.backend().clone(), key, cursor)).await?;
    let open = api.0.stats.open_stream();
    let signalled = api.0.shutdown.signalled().boxed();
    let stream = EventStream {
        api,
        feed,
        standing,
        signalled,
        ended: false,
        started: false,
        _open: (open, counted),
    };
    let body = match connection {
        // The stream takes the connection over, unless it is one of several.
        Some(connection) if !connection.is_multiplexed() => {
            connection.offer_stream(stream);
            Body::empty()
        }
        _ => Body::from_stream(stream::unfold(stream, EventStream::step)),
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Asks nginx not to buffer events.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<Cursor>, Error> {
    // At most one: `strict` ensures that.
    match headers.get(&params::LAST_EVENT_ID).map(|v| v.to_str()) {
        None | Some(Ok("")) => Ok(None),
        Some(Ok(text)) => Cursor::parse(text, "header Last-Event-ID").map(Some),
        Some(Err(_)) => Err(invalid("header Last-Event-ID is not ASCII")),
    }
}

/// Prefix in `event:` for a kind that is reserved now and was not when the event was stored, so
/// that no reader mistakes it for one of slotd's or of its own `EventSource`.
const STORED_RESERVED: &str = "plugin.";

pub(super) struct EventStream {
    api: Api,
    feed: Feed,
    standing: Standing,
    signalled: BoxFuture<'static, Signal>,
    started: bool,
    ended: bool,
    _open: (Open, slotd_quota::counts::Open),
}

impl EventStream {
    async fn step(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        let chunk = self.next().await?;
        Some((Ok(chunk), self))
    }

    /// What to send next; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let mut out = BytesMut::new();
        if !self.started {
            // Sent at once, so that the client knows that it is subscribed.
            self.started = true;
            let retry = limits::EVENTS_RETRY.as_millis();
            out.extend_from_slice(format!("retry: {retry}\n\n").as_bytes());
            return Some(out.freeze());
        }
        while out.is_empty() {
            if self.standing.is_old(self.api.gate()) || self.standing.is_over() {
                let looked = Box::pin(self.standing.look(self.api.gate(), self.feed.key())).await;
                if let Err(error) = looked {
                    self.ended = write_last(&mut out, &error);
                    return Some(out.freeze());
                }
            }
            let keep_alive = crate::clock::timer_now() + limits::EVENTS_KEEP_ALIVE;
            let wake = self.standing.ends().map_or(keep_alive, |ends| ends.min(keep_alive));
            tokio::select! {
                biased;
                signal = &mut self.signalled => match signal {
                    Signal::Stop => return None,
                    Signal::Look => self.signalled = self.api.0.shutdown.signalled().boxed(),
                },
                item = self.feed.next() => {
                    self.count(&item);
                    self.ended = write(&mut out, item);
                }
                () = tokio::time::sleep_until(wake) => if wake == keep_alive {
                    out.extend_from_slice(b": keep-alive\n\n");
                }
            }
        }
        while !self.ended && out.len() < limits::EVENTS_CHUNK_BYTES {
            let Some(item) = self.feed.next().now_or_never() else { break };
            self.count(&item);
            self.ended = write(&mut out, item);
        }
        Some(out.freeze())
    }

    /// Counts the bodies of events that are sent.
    fn count(&self, item: &Item) {
        let bytes = match item {
            Item::Events { published, from, .. } => {
                published.events.iter().skip(*from).map(|event| event.body.len()).sum()
            }
            Item::Ephemeral { event, .. } => event.event.body.len(),
            Item::Gap { .. } | Item::Deleted | Item::Failed(_) => return,
        };
        let client = self.standing.client();
        self.api.backend().sent(&self.feed.key().service, client, bytes);
    }
}

/// Whether it was the last.
fn write(out: &mut BytesMut, item: Item) -> bool {
    match item {
        Item::Events { published, from, .. } => {
            write_events(out, &published, from);
            return false;
        }
        Item::Ephemeral { event, .. } => {
            write_ephemeral(out, &event);
            return false;
        }
        Item::Gap { after } => {
            field(out, "event", "slotd.gap");
            field(out, "data", &serde_json::json!({ "after": after.to_string() }).to_string());
        }
        Item::Deleted => {
            // A client that reconnects automatically, as browsers do, continues at the start of the
            // next session.
            field(out, "id", &Cursor::START.to_string());
            field(out, "event", "slotd.deleted");
            field(out, "data", "{}");
        }
        Item::Failed(error) => {
            let problem = serde_json::to_string(&Problem::from(&error)).unwrap_or_default();
            field(out, "event", "slotd.error");
            field(out, "data", &problem);
        }
    }
    out.extend_from_slice(b"\n");
    true
}

/// The stream's last event, when its reader may not have it open any more. It has the name that the standard's client
/// has for what ends a stream.
fn write_last(out: &mut BytesMut, error: &Error) -> bool {
    field(out, "event", "error");
    field(out, "data", &serde_json::to_string(&Problem::from(error)).unwrap_or_default());
    out.extend_from_slice(b"\n");
    true
}

fn write_events(out: &mut BytesMut, published: &Published, from: usize) {
    for (index, event) in published.events.iter().enumerate().skip(from) {
        let view = EventView::new(published.seq, index, published.time_ms, event);
        let data = serde_json::to_string(&view).unwrap_or_default();
        let cursor = Cursor::after_event(published.seq, view.index, published.incarnation);
        field(out, "id", &cursor.to_string());
        // Of the history, and slotd's own: no handler could ever emit it.
        if is_reserved_kind(&event.kind) && event.kind != RESTARTED {
            field(out, "event", &format!("{STORED_RESERVED}{}", event.kind));
        } else if !event.kind.is_empty() {
            field(out, "event", &event.kind);
        }
        field(out, "data", &data);
        out.extend_from_slice(b"\n");
    }
}

/// Without an id: readers resume after the last event that has a place.
fn write_ephemeral(out: &mut BytesMut, ephemeral: &Ephemeral) {
    let view = EphemeralView { ephemeral: Some(true), ..EphemeralView::new(ephemeral) };
    field(out, "event", &ephemeral.event.kind);
    field(out, "data", &serde_json::to_string(&view).unwrap_or_default());
    out.extend_from_slice(b"\n");
}

/// One line. A line break in the value becomes a space: in JSON it can only be between tokens, and
/// in an event's kind it would start a field of the guest's choice.
fn field(out: &mut BytesMut, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    let start = out.len();
    out.extend_from_slice(value.as_bytes());
    for byte in &mut out[start..] {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    out.extend_from_slice(b"\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{buffers::Held, log::record::Event, message::Origin, node::Incarnation};

    /// Without it a body with line breaks, or a guest's choice of names, would break the framing
    /// and with it the ids used to resume a stream.
    #[test]
    fn events_are_framed_whatever_they_hold() {
        let event = |kind: &str, content_type: &str, body: &'static [u8]| Event {
            kind: kind.into(),
            content_type: content_type.into(),
            body: Bytes::from_static(body),
        };
        let published = Published {
            seq: 17,
            incarnation: Some(Incarnation::from_wire(0xab)),
            time_ms: 5,
            events: vec![
                event("skipped", "text/plain", b""),
                event("line\nid: 99", "application/json", b"{\n  \"a\": \"x\\ny\"\r\n}"),
                event("", "text/plain", b"one\ntwo"),
            ]
            .into(),
        };
        let mut out = BytesMut::new();
        assert!(!write(&mut out, Item::Events { published, from: 1, held: Held::default() }));
        assert!(write(&mut out, Item::Gap { after: Cursor::after(17, None) }));
        let text = std::str::from_utf8(&out).expect("UTF-8");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "id: 17.1-0000000000ab");
        assert_eq!(lines[1], "event: line id: 99");
        let data: serde_json::Value =
            serde_json::from_str(lines[2].strip_prefix("data: ").expect("data")).expect("JSON");
        assert_eq!(data["body"]["a"], "x\ny");
        assert_eq!((lines[3], lines[4]), ("", "id: 17.2-0000000000ab"));
        assert!(lines[5].starts_with("data: ") && lines[5].contains("one\\ntwo"));
        assert_eq!(lines[6..], ["", "event: slotd.gap", "data: {\"after\":\"17\"}", ""]);
    }

    /// With an id, a browser would resume after an event that is nowhere.
    #[test]
    fn ephemeral_events_have_no_id() {
        let (content_type, body) = ("application/json".into(), Bytes::from_static(b"{\n}"));
        let event = Event { kind: "typing".into(), content_type, body };
        let event = Ephemeral { origin: Origin::Client(Some("zoe".into())), time_ms: 5, event };
        let mut out = BytesMut::new();
        assert!(!write(&mut out, Item::Ephemeral { event: event.into(), held: Held::default() }));
        let text = std::str::from_utf8(&out).expect("UTF-8");
        assert_eq!(
            text,
            "event: typing\ndata: {\"ephemeral\":true,\"kind\":\"typing\",\"origin\":\"client\",\
             \"sender\":\"zoe\",\"time_ms\":5,\"content_type\":\"application/json\",\
             \"body\":{ }}\n\n"
        );
    }

    /// Events stored before kinds were reserved must neither end a stream nor look to a browser
    /// like its connection's own events; and none of their data may be lost.
    #[test]
    fn stored_events_are_never_taken_for_slotds() {
        for kind in ["slotd.deleted", "slotd.gap", "slotd.error", "slotd.x", "error"] {
            let body = Bytes::from_static(b"{}");
            let event = Event { kind: kind.into(), content_type: "application/json".into(), body };
            let events = vec![event].into();
            let published = Published { seq: 1, incarnation: None, time_ms: 5, events };
            let mut out = BytesMut::new();
            assert!(
                !write(&mut out, Item::Events { published, from: 0, held: Held::default() }),
                "{kind} ends the stream"
            );
            let text = std::str::from_utf8(&out).expect("UTF-8");
            assert!(text.contains(&format!("\nevent: plugin.{kind}\n")), "{text}");
            assert!(text.contains(&format!("\"kind\":\"{kind}\"")), "{text}");
        }
        // What slotd itself says in the middle of a history goes under its name, with a place.
        let body = Bytes::from_static(b"{}");
        let restarted =
            Event { kind: RESTARTED.into(), content_type: "application/json".into(), body };
        let published =
            Published { seq: 1, incarnation: None, time_ms: 5, events: vec![restarted].into() };
        let mut out = BytesMut::new();
        assert!(!write(&mut out, Item::Events { published, from: 0, held: Held::default() }));
        let text = std::str::from_utf8(&out).expect("UTF-8");
        assert!(text.starts_with("id: ") && text.contains("\nevent: slotd.restarted\n"), "{text}");
        let mut out = BytesMut::new();
        assert!(write(&mut out, Item::Deleted));
        assert_eq!(&out[..], b"id: 0\nevent: slotd.deleted\ndata: {}\n\n");
    }
}
