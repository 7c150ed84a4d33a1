//! Parsing of paths, query strings and headers; errors name the invalid part.

use crate::{
    effects::send::Place,
    error::{Code, Error},
    limits,
    names::{ServiceName, SessionKey},
    node::Consistency,
    trace::{TRACEPARENT, Trace},
};
use http::{HeaderMap, HeaderName, Uri, header};
use percent_encoding::percent_decode_str;
use std::borrow::Cow;

pub(super) static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub(super) static SENDER: HeaderName = HeaderName::from_static("slotd-sender");
pub(super) static SIGNATURE: HeaderName = HeaderName::from_static("slotd-signature");
pub(super) static LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Headers that slotd defines or reads, each allowed at most once.
pub(super) static ONCE: [HeaderName; 4] = [
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("slotd-sender"),
    HeaderName::from_static("slotd-signature"),
    HeaderName::from_static("last-event-id"),
];
/// The content type of a body without one.
pub(super) const OCTET_STREAM: &str = "application/octet-stream";

/// What a message is a part of. What is none is ignored, as the standard says.
pub(super) fn trace(headers: &HeaderMap) -> Option<Trace> {
    Trace::parse(headers.get(TRACEPARENT)?.to_str().ok()?)
}

pub(super) fn invalid(detail: impl Into<Cow<'static, str>>) -> Error {
    Error::new(Code::RequestInvalid, detail)
}

/// A segment of the path as received, decoded.
///
/// # Errors
/// `request-invalid` if it is not UTF-8 or has a `%` that is not followed by two hex digits.
pub(super) fn decode<'a>(raw: &'a str, what: &str) -> Result<Cow<'a, str>, Error> {
    if !raw.contains('%') {
        return Ok(raw.into());
    }
    if !escapes_are_whole(raw) {
        return Err(invalid(format!(
            "the {what} in the path has a '%' that two hex digits do not follow"
        )));
    }
    percent_decode_str(raw)
        .decode_utf8()
        .map_err(|_| invalid(format!("the {what} in the path is not UTF-8 once decoded")))
}

fn escapes_are_whole(raw: &str) -> bool {
    raw.split('%')
        .skip(1)
        .all(|rest| rest.len() >= 2 && rest.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit))
}

/// The session that a path names; both names as received.
pub(super) fn session_key(service: &str, session: &str) -> Result<SessionKey, Error> {
    SessionKey::parse(&decode(service, "service name")?, &decode(session, "session id")?)
}

pub(super) fn service_name(raw: &str) -> Result<ServiceName, Error> {
    ServiceName::parse(&decode(raw, "service name")?)
}

/// A raw segment of a path.
pub(super) fn segment(uri: &Uri, index: usize) -> &str {
    uri.path().split('/').nth(index).unwrap_or_default()
}

/// The session of `/v1/services/{service}/sessions/{session}/...`. The router's own decoding is not
/// used: its error texts differ, and it allocates.
pub(super) fn session_of(uri: &Uri) -> Result<SessionKey, Error> {
    session_key(segment(uri, 3), segment(uri, 5))
}

/// The service of `/v1/services/{service}/...`.
pub(super) fn service_of(uri: &Uri) -> Result<ServiceName, Error> {
    service_name(segment(uri, 3))
}

/// The service of `/admin/v1/services/{service}/...`.
pub(super) fn admin_service_of(uri: &Uri) -> Result<ServiceName, Error> {
    service_name(segment(uri, 4))
}

/// The session of `/admin/v1/services/{service}/sessions/{session}/...`.
pub(super) fn admin_session_of(uri: &Uri) -> Result<SessionKey, Error> {
    session_key(segment(uri, 4), segment(uri, 6))
}

/// The timer of `/admin/v1/services/{service}/sessions/{session}/timers/{timer}`, or of `.../dead/{timer}/{due_ms}`.
pub(super) fn timer_of(uri: &Uri) -> Result<String, Error> {
    Ok(decode(segment(uri, 8), "timer's name")?.into_owned())
}

/// The time of `.../dead/{timer}/{due_ms}`.
pub(super) fn due_of(uri: &Uri) -> Result<u64, Error> {
    milliseconds(segment(uri, 9))
}

fn milliseconds(raw: &str) -> Result<u64, Error> {
    raw.parse().map_err(|_| invalid(format!("{raw:?} in the path is no time in milliseconds")))
}

/// The request of `/admin/v1/services/{service}/sessions/{session}/requests/{request}`.
pub(super) fn request_of(uri: &Uri) -> Result<String, Error> {
    Ok(decode(segment(uri, 8), "request's id")?.into_owned())
}

/// The time of `.../requests/{request}/dead/{time_ms}`.
pub(super) fn time_of(uri: &Uri) -> Result<u64, Error> {
    milliseconds(segment(uri, 10))
}

/// The message of `.../dead/{message}`.
pub(super) fn place_of(uri: &Uri) -> Result<Place, Error> {
    decode(segment(uri, 8), "message's id")?.parse().map_err(invalid)
}

/// The slot of `/admin/v1/slots/{slot}/...`.
pub(super) fn slot_of(uri: &Uri) -> Result<crate::names::SlotId, Error> {
    let raw = segment(uri, 4);
    raw.parse().map_err(|_| Error::new(Code::SlotNotFound, format!("{raw:?} is not a slot number")))
}

/// The node of `/admin/v1/nodes/{node}/...` and `/admin/v1/moves/{node}/...`.
pub(super) fn node_of(uri: &Uri) -> Result<String, Error> {
    Ok(decode(segment(uri, 4), "node's name")?.into_owned())
}

/// The move of `/admin/v1/moves/{node}/{id}`.
pub(super) fn move_of(uri: &Uri) -> Result<u64, Error> {
    let raw = segment(uri, 5);
    raw.parse().map_err(|_| Error::new(Code::MoveNotFound, format!("{raw:?} is not a move number")))
}

/// The first value of a query parameter, decoded; where errors don't matter.
pub(super) fn first(uri: &Uri, name: &str) -> Option<String> {
    pairs(uri.query()?).find_map(|(k, v)| (k == name).then(|| decode_query(v).ok()).flatten())
}

fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').filter(|p| !p.is_empty()).map(|p| p.split_once('=').unwrap_or((p, "")))
}

fn decode_query(raw: &str) -> Result<String, ()> {
    if !escapes_are_whole(raw) {
        return Err(());
    }
    let spaced = raw.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().map(Cow::into_owned).map_err(|_| ())
}

/// A request's query parameters: each known, and present at most once.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(&'static str, String)>);

impl Query {
    /// # Errors
    /// `request-invalid` for a parameter that is unknown, repeated or does not decode.
    /// `access_token` is allowed everywhere and ignored.
    pub(super) fn parse(uri: &Uri, known: &[&'static str]) -> Result<Self, Error> {
        let mut found = Vec::new();
        let mut token = false;
        for (raw, value) in pairs(uri.query().unwrap_or_default()) {
            if raw == "access_token" {
                if std::mem::replace(&mut token, true) {
                    return Err(invalid("query parameter \"access_token\" is given twice"));
                }
                continue;
            }
            let Some(&name) = known.iter().find(|k| **k == raw) else {
                return Err(invalid(match known {
                    [] => format!("unknown query parameter {raw:?}: this route takes none"),
                    _ => format!(
                        "unknown query parameter {raw:?}: this route takes {}",
                        known.join(", ")
                    ),
                }));
            };
            if found.iter().any(|(n, _)| *n == name) {
                return Err(invalid(format!("query parameter {name:?} is given twice")));
            }
            let value = decode_query(value).map_err(|()| {
                invalid(format!("query parameter {name:?} is not percent-encoded UTF-8"))
            })?;
            found.push((name, value));
        }
        Ok(Self(found))
    }
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str())
    }
    pub(super) fn u64(&self, name: &str) -> Result<Option<u64>, Error> {
        self.get(name)
            .map(|v| {
                v.parse().map_err(|_| {
                    invalid(format!("query parameter {name:?} is {v:?}; it must be a whole number"))
                })
            })
            .transpose()
    }
    pub(super) fn bool(&self, name: &str) -> Result<Option<bool>, Error> {
        match self.get(name) {
            None => Ok(None),
            Some("true" | "1") => Ok(Some(true)),
            Some("false" | "0") => Ok(Some(false)),
            Some(v) => {
                Err(invalid(format!("query parameter {name:?} is {v:?}; it must be true or false")))
            }
        }
    }
    /// Whether a stale answer is acceptable; `current` by default.
    pub(super) fn consistency(&self) -> Result<Consistency, Error> {
        match self.get("consistency") {
            None | Some("current") => Ok(Consistency::Current),
            Some("local") => Ok(Consistency::Local),
            Some(v) => Err(invalid(format!(
                "query parameter \"consistency\" is {v:?}; it must be current or local"
            ))),
        }
    }
    /// The message behind which something is looked at; `None`: behind the last one.
    pub(super) fn at(&self) -> Result<Option<u64>, Error> {
        match self.u64("at")? {
            Some(0) => Err(invalid("query parameter \"at\" is 0; messages are numbered from 1")),
            Some(_) if self.get("consistency").is_some() => {
                Err(invalid("query parameter \"at\" excludes \"consistency\""))
            }
            at => Ok(at),
        }
    }
    /// A page's size: 1 to [`limits::PAGE_ENTRIES_MAX`].
    pub(super) fn page_size(&self, name: &str) -> Result<Option<usize>, Error> {
        match self.u64(name)? {
            None => Ok(None),
            Some(n) if (1..=limits::PAGE_ENTRIES_MAX as u64).contains(&n) => Ok(Some(n as usize)),
            Some(n) => Err(invalid(format!(
                "query parameter {name:?} is {n}; it must be 1 to {}",
                limits::PAGE_ENTRIES_MAX
            ))),
        }
    }
    pub(super) fn limit(&self) -> Result<usize, Error> {
        Ok(self.page_size("limit")?.unwrap_or(limits::PAGE_ENTRIES_DEFAULT))
    }
}

/// For routes without parameters.
pub(super) fn no_query(uri: &Uri) -> Result<(), Error> {
    match uri.query() {
        None => Ok(()),
        Some(_) => Query::parse(uri, &[]).map(drop),
    }
}

/// The single value of a header, as text.
pub(super) fn text<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'h str>, Error> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    if headers.get_all(name).iter().nth(1).is_some() {
        return Err(invalid(format!("header {name} is given twice")));
    }
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(invalid(format!("header {name} is not UTF-8"))),
    }
}

/// A name that a client sends for itself or its message.
pub(super) fn check_name(what: &str, name: &str, bytes_max: usize) -> Result<(), Error> {
    if name.is_empty() || name.len() > bytes_max {
        return Err(Error::name_invalid(format!(
            "{what} has {} bytes; it must have 1 to {bytes_max}",
            name.len()
        )));
    }
    if name.chars().any(char::is_control) {
        return Err(Error::name_invalid(format!("{what} has a control character")));
    }
    Ok(())
}

pub(super) fn check_idempotency_key(key: &str) -> Result<(), Error> {
    check_name("the idempotency key", key, limits::IDEMPOTENCY_KEY_BYTES_MAX)
}
pub(super) fn check_sender(sender: &str) -> Result<(), Error> {
    check_name("the sender", sender, limits::SENDER_BYTES_MAX)
}

/// Content types are returned in headers and JSON: visible ASCII and spaces.
pub(super) fn check_content_type(content_type: &str) -> Result<(), Error> {
    let good = |b: u8| b.is_ascii_graphic() || b == b' ';
    if content_type.is_empty() || content_type.len() > limits::CONTENT_TYPE_BYTES_MAX {
        return Err(invalid(format!(
            "the content type has {} bytes; it must have 1 to {}",
            content_type.len(),
            limits::CONTENT_TYPE_BYTES_MAX
        )));
    }
    if !content_type.bytes().all(good) {
        return Err(invalid("the content type has a character that is not visible ASCII"));
    }
    Ok(())
}

pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let Some(key) = text(headers, &IDEMPOTENCY_KEY)? else { return Ok(None) };
    check_idempotency_key(key)?;
    Ok(Some(key.to_owned()))
}
pub(super) fn sender(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let Some(sender) = text(headers, &SENDER)? else { return Ok(None) };
    check_sender(sender)?;
    Ok(Some(sender.to_owned()))
}
pub(super) fn content_type(headers: &HeaderMap) -> Result<String, Error> {
    match text(headers, &header::CONTENT_TYPE)? {
        None | Some("") => Ok(OCTET_STREAM.to_owned()),
        Some(value) => {
            check_content_type(value)?;
            Ok(value.to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn uri(path: &str) -> Uri {
        path.parse().expect("a URI")
    }

    /// Without it a session with a slash or an umlaut in its id would be unreachable, or bad bytes
    /// would address another session.
    #[test]
    fn names_in_paths_are_decoded_strictly() {
        let key = session_of(&uri("/v1/services/chat/sessions/r%C3%A4um%2F1/messages"));
        assert_eq!(key.expect("a key").session.as_str(), "räum/1");
        for (path, code) in [
            ("/v1/services/chat/sessions/%ff/messages", Code::RequestInvalid),
            ("/v1/services/chat/sessions/%4/messages", Code::RequestInvalid),
            ("/v1/services/chat/sessions/%zz/messages", Code::RequestInvalid),
            ("/v1/services/chat/sessions//messages", Code::NameInvalid),
            ("/v1/services/chat/sessions/a%00b/messages", Code::NameInvalid),
            ("/v1/services/Chat/sessions/a/messages", Code::NameInvalid),
        ] {
            assert_eq!(session_of(&uri(path)).map_err(|e| e.code), Err(code), "{path}");
        }
        assert!(slot_of(&uri("/admin/v1/slots/65536")).is_err());
        assert_eq!(slot_of(&uri("/admin/v1/slots/511/drain")).ok(), Some(511));
    }

    /// Without it a typo in a parameter would be ignored and the wrong page returned.
    #[test]
    fn bad_query_parameters_are_named() {
        let known = &["after", "limit"];
        let query = Query::parse(&uri("/x?after=3&limit=10&access_token=s"), known).expect("good");
        assert_eq!((query.u64("after").ok(), query.limit().ok()), (Some(Some(3)), Some(10)));
        for (bad, named) in [
            ("/x?aftr=3", "aftr"),
            ("/x?after=1&after=2", "after"),
            ("/x?access_token=a&access_token=b", "access_token"),
            ("/x?after=%ff", "after"),
            ("/x?after=-1", "after"),
            ("/x?after=", "after"),
            ("/x?limit=0", "limit"),
            ("/x?limit=1001", "limit"),
            ("/x?limit=1e3", "limit"),
        ] {
            let error = Query::parse(&uri(bad), known)
                .and_then(|q| q.u64("after").and(q.limit()).map(drop))
                .expect_err(bad);
            assert_eq!(error.code, Code::RequestInvalid, "{bad}");
            assert!(error.detail.contains(named), "{bad}: {}", error.detail);
        }
    }

    /// Without it header values that can't be stored or shown would be kept with a message.
    #[test]
    fn headers_of_a_message_are_checked() {
        let with = |name: &HeaderName, value: &[u8]| {
            let mut map = HeaderMap::new();
            map.insert(name, HeaderValue::from_bytes(value).expect("a value"));
            map
        };
        let long = "k".repeat(limits::IDEMPOTENCY_KEY_BYTES_MAX + 1);
        assert!(idempotency_key(&with(&IDEMPOTENCY_KEY, long.as_bytes())).is_err());
        assert!(idempotency_key(&with(&IDEMPOTENCY_KEY, b"")).is_err());
        assert!(idempotency_key(&with(&IDEMPOTENCY_KEY, b"a\tb")).is_err());
        assert!(sender(&with(&SENDER, &[0xff])).is_err());
        assert_eq!(sender(&with(&SENDER, "Zoë".as_bytes())).ok().flatten().as_deref(), Some("Zoë"));
        assert!(content_type(&with(&header::CONTENT_TYPE, "text/ä".as_bytes())).is_err());
        assert_eq!(content_type(&HeaderMap::new()).ok().as_deref(), Some(OCTET_STREAM));
        let mut twice = with(&SENDER, b"a");
        twice.append(&SENDER, HeaderValue::from_static("b"));
        assert!(sender(&twice).is_err());
    }
}
