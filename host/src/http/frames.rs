//! The socket's protocol: the content of its text frames. Pure; `socket` sends and receives them.

use super::{
    body::{Inline, Shown, decode_base64, is_json, is_text},
    notify,
    params::{self, OCTET_STREAM, invalid},
    problem::{Problem, RejectionView},
    views::{EphemeralView, EventView},
};
use crate::{
    error::{Code, Error},
    limits,
    log::record::Event,
    node::{Cursor, Incoming, Sent},
};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use std::{borrow::Cow, fmt};

/// What a client sends.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientFrame<'a> {
    #[serde(rename = "type", borrow)]
    frame: Cow<'a, str>,
    #[serde(borrow)]
    id: Option<Text<'a>>,
    kind: Option<String>,
    #[serde(borrow)]
    sender: Option<Text<'a>>,
    #[serde(borrow)]
    content_type: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "present")]
    body: Option<&'a RawValue>,
    #[serde(borrow)]
    body_base64: Option<Text<'a>>,
    #[serde(borrow)]
    token: Option<Text<'a>>,
}

/// A string that is not copied unless something in it is escaped. (An `Option<Cow>` always is.)
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Text<'_> {
    fn owned(text: &Option<Self>) -> Option<String> {
        text.as_ref().map(|text| text.0.as_ref().to_owned())
    }
}

/// Distinguishes a body of `null` from a missing one.
fn present<'de, D: Deserializer<'de>>(d: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(d).map(Some)
}

/// What can still be read from an invalid frame.
#[derive(Deserialize)]
struct Named {
    id: Option<String>,
}

/// What a client's frame asks for.
#[derive(Debug)]
pub(super) enum Frame {
    Send(SendFrame),
    Notify(NotifyFrame),
    Auth(AuthFrame),
    /// With the id that the answer has.
    Ping(Option<String>),
}

/// A token in place of the one that the socket was opened with.
pub(super) struct AuthFrame {
    /// For an error.
    pub(super) id: Option<String>,
    pub(super) token: String,
}

impl fmt::Debug for AuthFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthFrame(***)")
    }
}

/// A message that a socket sends, with its id.
#[derive(Debug)]
pub(super) struct SendFrame {
    pub(super) id: String,
    pub(super) message: Incoming,
}

/// An ephemeral event that a socket sends.
#[derive(Debug)]
pub(super) struct NotifyFrame {
    /// For an error.
    pub(super) id: Option<String>,
    pub(super) sender: Option<String>,
    pub(super) event: Event,
}

/// A frame that was refused, with its id if it has one.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) id: Option<String>,
    pub(super) error: Error,
}

/// Reads a client's frame. `sender` is the socket's own, for frames without one.
pub(super) fn parse(
    text: &str,
    sender: Option<&str>,
    body_bytes_max: usize,
) -> Result<Frame, Refused> {
    let frame: ClientFrame<'_> = serde_json::from_str(text).map_err(|e| Refused {
        id: serde_json::from_str::<Named>(text).ok().and_then(|n| n.id),
        error: invalid(format!("not a frame of this protocol: {e}")),
    })?;
    if frame.token.is_some() && frame.frame != "auth" {
        let error = invalid("only an \"auth\" has a token");
        return Err(Refused { id: Text::owned(&frame.id), error });
    }
    let read = match &*frame.frame {
        "auth" => auth(&frame).map(Frame::Auth),
        "send" => send(&frame, sender, body_bytes_max).map(Frame::Send),
        "notify" => notification(&frame, sender, body_bytes_max).map(Frame::Notify),
        "ping" => ping(&frame).map(Frame::Ping),
        other => Err(invalid(format!(
            "type is {other:?}; clients send frames of type \"send\", \"notify\", \"auth\" and \"ping\""
        ))),
    };
    read.map_err(|error| Refused { id: Text::owned(&frame.id), error })
}

fn send(
    frame: &ClientFrame<'_>,
    sender: Option<&str>,
    body_bytes_max: usize,
) -> Result<SendFrame, Error> {
    if frame.kind.is_some() {
        return Err(invalid("a \"send\" has no kind: a message's handler names its events"));
    }
    let id = Text::owned(&frame.id).ok_or_else(|| {
        invalid(
            "a \"send\" needs an id: its acknowledgement carries it, and a repeated id is applied \
             once",
        )
    })?;
    params::check_idempotency_key(&id)?;
    let sender = sender_of(frame, sender)?;
    let read = content(frame, body_bytes_max)?;
    let (content_type, body) =
        read.ok_or_else(|| invalid("a \"send\" needs a body or a body_base64"))?;
    Ok(SendFrame {
        id: id.clone(),
        message: Incoming { id: Some(id), sender, content_type, body, trace: None, client: None },
    })
}

/// Whether it has what only messages and ephemeral events have.
fn has_content(frame: &ClientFrame<'_>) -> bool {
    let ClientFrame { kind, sender, content_type, body, body_base64, .. } = frame;
    kind.is_some()
        || sender.is_some()
        || content_type.is_some()
        || body.is_some()
        || body_base64.is_some()
}

fn ping(frame: &ClientFrame<'_>) -> Result<Option<String>, Error> {
    if has_content(frame) {
        return Err(invalid("a \"ping\" has an id, and nothing else"));
    }
    let id = Text::owned(&frame.id);
    // It goes back as it is.
    id.as_deref().map(params::check_idempotency_key).transpose()?;
    Ok(id)
}

fn auth(frame: &ClientFrame<'_>) -> Result<AuthFrame, Error> {
    if has_content(frame) {
        return Err(invalid("an \"auth\" has a token, and nothing else but an id"));
    }
    let token = Text::owned(&frame.token).ok_or_else(|| invalid("an \"auth\" needs a token"))?;
    Ok(AuthFrame { id: Text::owned(&frame.id), token })
}

fn notification(
    frame: &ClientFrame<'_>,
    sender: Option<&str>,
    body_bytes_max: usize,
) -> Result<NotifyFrame, Error> {
    let id = Text::owned(&frame.id);
    if let Some(id) = &id {
        params::check_idempotency_key(id)?;
    }
    let kind = frame.kind.clone().ok_or_else(|| invalid("a \"notify\" needs a kind"))?;
    notify::check_kind(&kind)?;
    let sender = sender_of(frame, sender)?;
    let read = content(frame, body_bytes_max.min(limits::NOTIFY_BODY_BYTES_MAX))?;
    // That somebody types says it all.
    let nothing = || ("application/json".to_owned(), Bytes::from_static(b"null"));
    let (content_type, body) = read.unwrap_or_else(nothing);
    Ok(NotifyFrame { id, sender, event: Event { kind, content_type, body } })
}

fn sender_of(frame: &ClientFrame<'_>, own: Option<&str>) -> Result<Option<String>, Error> {
    let sender = frame.sender.as_ref().map(|sender| sender.0.as_ref()).or(own);
    sender.map(params::check_sender).transpose()?;
    Ok(sender.map(str::to_owned))
}

/// A frame's content type and body, if it has one.
fn content(
    frame: &ClientFrame<'_>,
    body_bytes_max: usize,
) -> Result<Option<(String, Bytes)>, Error> {
    if let Some(content_type) = &frame.content_type {
        params::check_content_type(&content_type.0)?;
    }
    let content_type =
        |default: &str| Text::owned(&frame.content_type).unwrap_or_else(|| default.to_owned());
    let (content_type, body) = match (frame.body, &frame.body_base64) {
        (Some(body), None) => {
            let content_type = content_type("application/json");
            let body = inline_body(&content_type, body)?;
            (content_type, body)
        }
        (None, Some(base64)) => {
            let body = decode_base64(&base64.0)
                .ok_or_else(|| invalid("body_base64 is not base64 (RFC 4648, with padding)"))?;
            (content_type(OCTET_STREAM), body.into())
        }
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            return Err(invalid("a frame takes body or body_base64, not both"));
        }
    };
    if body.len() > body_bytes_max {
        return Err(Error::new(
            Code::BodyTooLarge,
            format!("the body is over the limit of {body_bytes_max} bytes"),
        ));
    }
    Ok(Some((content_type, body)))
}

/// A JSON body is kept byte by byte as the client wrote it.
fn inline_body(content_type: &str, body: &RawValue) -> Result<Bytes, Error> {
    if is_json(content_type) {
        return Ok(Bytes::copy_from_slice(body.get().as_bytes()));
    }
    if is_text(content_type) {
        let text: String = serde_json::from_str(body.get())
            .map_err(|_| invalid("with a text content type the body must be a string"))?;
        return Ok(text.into());
    }
    Err(invalid("body takes JSON and text; send other content types in body_base64"))
}

/// What the server sends.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum ServerFrame<'a> {
    Ack(Ack<'a>),
    Error(ErrorFrame<'a>),
    Event(EventView<'a>),
    Notify(EphemeralView<'a>),
    Gap { after: String },
    Deleted,
    Auth { expires_ms: Option<u64> },
    Pong { id: Option<&'a str> },
}

#[derive(Serialize)]
struct Ack<'a> {
    id: &'a str,
    seq: u64,
    #[serde(serialize_with = "shown")]
    position: Cursor,
    slot: u16,
    replayed: bool,
    plugin: &'a str,
    content_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply: Option<Inline<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_base64: Option<String>,
}

#[derive(Serialize)]
struct ErrorFrame<'a> {
    id: Option<&'a str>,
    status: u16,
    code: &'static str,
    detail: String,
    retriable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    plugin: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rejection: Option<RejectionView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

fn shown<S: Serializer>(cursor: &Cursor, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(cursor)
}

fn write(frame: &ServerFrame<'_>) -> String {
    // Every frame above has a JSON form.
    serde_json::to_string(frame).unwrap_or_default()
}

/// Appends an acknowledgement, which is most of what a socket writes.
pub(super) fn ack(out: &mut Vec<u8>, id: &str, sent: &Sent) {
    let reply = Shown::new(&sent.content_type, &sent.body);
    let frame = ServerFrame::Ack(Ack {
        id,
        seq: sent.seq,
        position: Cursor::after(sent.seq, sent.incarnation),
        slot: sent.slot,
        replayed: sent.replayed,
        plugin: &sent.plugin,
        content_type: &sent.content_type,
        reply: reply.inline(),
        reply_base64: reply.base64(),
    });
    // A vector takes everything.
    let _ = serde_json::to_writer(out, &frame);
}

pub(super) fn error(id: Option<&str>, error: &Error) -> String {
    crate::telemetry::metrics().error(error.code);
    let problem = Problem::from(error);
    write(&ServerFrame::Error(ErrorFrame {
        id,
        status: problem.status,
        code: problem.code,
        detail: problem.detail,
        retriable: problem.retriable,
        plugin: problem.plugin,
        rejection: problem.rejection,
        retry_after_ms: error.retry_after.map(|d| d.as_millis() as u64),
    }))
}

/// The socket goes on with another token.
pub(super) fn pong(id: Option<&str>) -> String {
    write(&ServerFrame::Pong { id })
}
pub(super) fn renewed(expires_ms: Option<u64>) -> String {
    write(&ServerFrame::Auth { expires_ms })
}
pub(super) fn event(view: EventView<'_>) -> String {
    write(&ServerFrame::Event(view))
}
pub(super) fn notified(view: EphemeralView<'_>) -> String {
    write(&ServerFrame::Notify(view))
}
pub(super) fn gap(after: Cursor) -> String {
    write(&ServerFrame::Gap { after: after.to_string() })
}
pub(super) fn deleted() -> String {
    write(&ServerFrame::Deleted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        message::{Ephemeral, Origin},
        node::Incarnation,
    };
    use serde_json::{Value, json};
    use std::time::Duration;

    /// Without it a frame could be mistaken for another message, or be refused without the sender
    /// knowing which.
    #[test]
    fn frames_are_read_strictly() {
        let read = |text: &str| match parse(text, Some("zoe"), 100) {
            Ok(Frame::Send(frame)) => Some(frame),
            _ => None,
        };
        let sent = read(r#"{"type":"send","id":"m1","body":{"b": 1,"a":1.0e2}}"#).expect("good");
        assert_eq!(sent.id, "m1");
        assert_eq!(sent.message.id.as_deref(), Some("m1"));
        assert_eq!(sent.message.sender.as_deref(), Some("zoe"));
        assert_eq!(sent.message.content_type, "application/json");
        assert_eq!(&sent.message.body[..], br#"{"b": 1,"a":1.0e2}"#);

        let null = read(r#"{"type":"send","id":"m1","body":null,"sender":"al"}"#).expect("good");
        assert_eq!(
            (&null.message.body[..], null.message.sender.as_deref()),
            (&b"null"[..], Some("al"))
        );
        let text = read(r#"{"type":"send","id":"m","content_type":"text/plain","body":"h\u00e4"}"#);
        assert_eq!(&text.expect("good").message.body[..], "hä".as_bytes());
        let bytes = read(r#"{"type":"send","id":"m","body_base64":"AP8="}"#).expect("good").message;
        assert_eq!((&bytes.body[..], bytes.content_type.as_str()), (&[0u8, 255][..], OCTET_STREAM));

        let ping = parse(r#"{"type":"ping","id":"p"}"#, None, 100);
        assert!(matches!(ping, Ok(Frame::Ping(Some(id))) if id == "p"));
        let long = format!(r#"{{"type":"send","id":"m2","body":"{}"}}"#, "x".repeat(100));
        for (text, id, code) in [
            (r#"{"type":"send","id":"m2","body":1,"bdy":2}"#, Some("m2"), Code::RequestInvalid),
            (r#"{"type":"send","id":"m2"}"#, Some("m2"), Code::RequestInvalid),
            (
                r#"{"type":"send","id":"m2","body":1,"body_base64":""}"#,
                Some("m2"),
                Code::RequestInvalid,
            ),
            (r#"{"type":"send","id":"m2","body_base64":"%"}"#, Some("m2"), Code::RequestInvalid),
            (
                r#"{"type":"send","id":"m2","body":1,"content_type":"text/plain"}"#,
                Some("m2"),
                Code::RequestInvalid,
            ),
            (
                r#"{"type":"send","id":"m2","body":1,"content_type":"image/png"}"#,
                Some("m2"),
                Code::RequestInvalid,
            ),
            (r#"{"type":"subscribe","id":"m2"}"#, Some("m2"), Code::RequestInvalid),
            (r#"{"type":"send","id":"","body":1}"#, Some(""), Code::NameInvalid),
            (
                r#"{"type":"send","id":"m2","body":1,"sender":"a\nb"}"#,
                Some("m2"),
                Code::NameInvalid,
            ),
            (r#"{"type":"send","body":1}"#, None, Code::RequestInvalid),
            (r#"{"type":"send","id":"m2","body":1,"kind":"k"}"#, Some("m2"), Code::RequestInvalid),
            (r#"{"type":"notify","body":1}"#, None, Code::RequestInvalid),
            (r#"{"type":"notify","id":"n1","kind":""}"#, Some("n1"), Code::NameInvalid),
            (r#"{"type":"notify","kind":"slotd.gap"}"#, None, Code::NameInvalid),
            (r#"{"type":"notify","kind":"error"}"#, None, Code::NameInvalid),
            (r#"{"type":"notify","kind":"a\nb"}"#, None, Code::NameInvalid),
            (r#"{"type":"notify","kind":"k","sender":""}"#, None, Code::NameInvalid),
            (r#"{"type":"notify","kind":"k","after":1}"#, None, Code::RequestInvalid),
            (r#"{"type":"auth","id":"a1"}"#, Some("a1"), Code::RequestInvalid),
            (r#"{"type":"auth","token":"t","body":1}"#, None, Code::RequestInvalid),
            (r#"{"type":"ping","id":"p","body":1}"#, Some("p"), Code::RequestInvalid),
            (r#"{"type":"ping","id":""}"#, Some(""), Code::NameInvalid),
            (r#"{"type":"send","id":"m2","body":1,"token":"t"}"#, Some("m2"), Code::RequestInvalid),
            ("{", None, Code::RequestInvalid),
            ("", None, Code::RequestInvalid),
            (&long, Some("m2"), Code::BodyTooLarge),
        ] {
            let refused = parse(text, None, 100).expect_err(text);
            assert_eq!((refused.id.as_deref(), refused.error.code), (id, code), "{text}");
        }
    }

    /// Without it an event could come under another's name, or be refused where the body says nothing.
    #[test]
    fn ephemeral_events_are_read_as_they_are_meant() {
        let read = |text: &str| match parse(text, Some("zoe"), 100) {
            Ok(Frame::Notify(frame)) => frame,
            other => panic!("{text}: {other:?}"),
        };
        let typing = read(r#"{"type":"notify","kind":"typing"}"#);
        assert_eq!((typing.id, typing.sender.as_deref()), (None, Some("zoe")));
        assert_eq!((&*typing.event.kind, &typing.event.body[..]), ("typing", &b"null"[..]));
        let at = r#"{"type":"notify","id":"n","kind":"at","sender":"al","body":{"x": 1.0}}"#;
        let at = read(at);
        assert_eq!((at.id.as_deref(), at.sender.as_deref()), (Some("n"), Some("al")));
        assert_eq!(&at.event.body[..], br#"{"x": 1.0}"#);
        let bytes = read(r#"{"type":"notify","kind":"k","body_base64":"AP8="}"#).event;
        assert_eq!((&bytes.body[..], &*bytes.content_type), (&[0u8, 255][..], OCTET_STREAM));
        let long = "x".repeat(limits::NOTIFY_BODY_BYTES_MAX);
        let long = format!(r#"{{"type":"notify","kind":"k","body":"{long}"}}"#);
        let refused = parse(&long, None, 1 << 20).expect_err("over the limit");
        assert_eq!(refused.error.code, Code::BodyTooLarge);
    }

    /// Without it clients that follow docs/websocket.md would not understand the server.
    #[test]
    fn frames_are_written_as_documented() {
        let value = |text: String| serde_json::from_str::<Value>(&text).expect("JSON");
        let acked = |id: &str, sent: &Sent| {
            let mut out = Vec::new();
            ack(&mut out, id, sent);
            value(String::from_utf8(out).expect("UTF-8"))
        };
        let sent = Sent {
            seq: 17,
            incarnation: Some(Incarnation::from_wire(0xab)),
            slot: 3,
            plugin: "1+a".into(),
            replayed: false,
            content_type: "application/json".into(),
            body: Bytes::from_static(b"{\"n\":1}"),
            guest_time: Duration::ZERO,
        };
        assert_eq!(
            acked("m1", &sent),
            json!({"type": "ack", "id": "m1", "seq": 17, "position": "17-0000000000ab",
                   "slot": 3, "replayed": false,
                   "plugin": "1+a", "content_type": "application/json", "reply": {"n": 1}})
        );
        assert_eq!(
            value(error(None, &invalid("no"))),
            json!({"type": "error", "id": null, "status": 400, "code": "request-invalid",
                   "detail": "no", "retriable": false})
        );
        let line = crate::log::record::Event {
            kind: "line".into(),
            content_type: "text/plain".into(),
            body: Bytes::from_static(b"hi"),
        };
        assert_eq!(
            value(event(EventView::new(17, 0, 5, &line))),
            json!({"type": "event", "seq": 17, "index": 0, "kind": "line", "time_ms": 5,
                   "content_type": "text/plain", "body": "hi"})
        );
        let (origin, time_ms) = (Origin::Client(Some("zoe".into())), 5);
        let typing = Ephemeral { origin, time_ms, event: line };
        assert_eq!(
            value(notified(EphemeralView::new(&typing))),
            json!({"type": "notify", "kind": "line", "origin": "client", "sender": "zoe",
                   "time_ms": 5, "content_type": "text/plain", "body": "hi"})
        );
        let told = Ephemeral { origin: Origin::Handler, ..typing };
        assert_eq!(
            value(notified(EphemeralView::new(&told))),
            json!({"type": "notify", "kind": "line", "origin": "handler", "time_ms": 5,
                   "content_type": "text/plain", "body": "hi"})
        );
        assert_eq!(value(gap(Cursor::after(17, None))), json!({"type": "gap", "after": "17"}));
        assert_eq!(value(deleted()), json!({"type": "deleted"}));
        assert_eq!(value(renewed(Some(5))), json!({"type": "auth", "expires_ms": 5}));
        assert_eq!(value(renewed(None)), json!({"type": "auth", "expires_ms": null}));
        assert_eq!(value(pong(Some("p"))), json!({"type": "pong", "id": "p"}));
    }
}
