//! Bodies of messages, replies and events inside JSON answers: a JSON body stands inline, as the
//! bytes that were sent; a text as a string; anything else as base64.

use crate::limits;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use std::fmt;

/// A body as it appears in a JSON answer.
pub(super) enum Shown<'a> {
    Json(&'a RawValue),
    Text(&'a str),
    Binary(&'a [u8]),
}

/// Distinguishes a field that is present with the value `null` from a missing one.
pub(crate) fn present<'de, D: Deserializer<'de>>(d: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(d).map(Some)
}

/// Whether a body of this content type is JSON in UTF-8: `application/json`, `text/json` or
/// `...+json`.
pub(crate) fn is_json(content_type: &str) -> bool {
    // Nearly always.
    if content_type == "application/json" {
        return true;
    }
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let ends = |suffix: &str| {
        essence.len() >= suffix.len()
            && essence.as_bytes()[essence.len() - suffix.len()..]
                .eq_ignore_ascii_case(suffix.as_bytes())
    };
    let json = essence.eq_ignore_ascii_case("application/json")
        || essence.eq_ignore_ascii_case("text/json")
        || ends("+json");
    json && is_utf8(content_type)
}

/// Whether a body of this content type is text in UTF-8: `text/...`, and what `curl -d` sends by default.
pub(super) fn is_text(content_type: &str) -> bool {
    let starts = |prefix: &str| {
        content_type
            .as_bytes()
            .get(..prefix.len())
            .is_some_and(|b| b.eq_ignore_ascii_case(prefix.as_bytes()))
    };
    let text = starts("text/") || starts("application/x-www-form-urlencoded");
    text && is_utf8(content_type)
}

/// Whether the charset parameter of a content type can be decoded as UTF-8.
fn is_utf8(content_type: &str) -> bool {
    content_type.split(';').skip(1).all(|parameter| match parameter.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
            let charset = value.trim().trim_matches('"');
            ["utf-8", "utf8", "us-ascii"].iter().any(|known| charset.eq_ignore_ascii_case(known))
        }
        _ => true,
    })
}

impl<'a> Shown<'a> {
    pub(super) fn new(content_type: &str, body: &'a [u8]) -> Self {
        let json = is_json(content_type);
        if let Ok(utf8) = std::str::from_utf8(body) {
            if json && let Some(raw) = strict_json(utf8) {
                return Self::Json(raw);
            }
            if is_text(content_type) {
                return Self::Text(utf8);
            }
        }
        Self::Binary(body)
    }
    /// The value for a field such as `body`.
    pub(super) fn inline(&self) -> Option<Inline<'a>> {
        match self {
            Self::Json(raw) => Some(Inline::Json(raw)),
            Self::Text(text) => Some(Inline::Text(text)),
            Self::Binary(_) => None,
        }
    }
    /// The value for a field such as `body_base64`; there is exactly one of the two.
    pub(super) fn base64(&self) -> Option<String> {
        match self {
            Self::Binary(bytes) => Some(BASE64.encode(bytes)),
            _ => None,
        }
    }
}

#[derive(Clone, Copy)]
pub(super) enum Inline<'a> {
    Json(&'a RawValue),
    Text(&'a str),
}

impl Serialize for Inline<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Json(raw) => raw.serialize(s),
            Self::Text(text) => s.serialize_str(text),
        }
    }
}

pub(super) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text).ok()
}

/// JSON that any reader of the answer can parse: a value that is nested too deep or holds half a
/// surrogate pair would make the whole page unreadable to some.
fn strict_json(text: &str) -> Option<&RawValue> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    Check { depth: limits::JSON_DEPTH_MAX }.deserialize(&mut deserializer).ok()?;
    deserializer.end().ok()?;
    serde_json::from_str(text).ok()
}

/// Validates a JSON value without keeping it. Unlike `IgnoredAny` it looks into strings.
#[derive(Clone, Copy)]
struct Check {
    depth: usize,
}

impl Check {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        let depth = self.depth.checked_sub(1).ok_or_else(|| E::custom("nested too deep"))?;
        Ok(Self { depth })
    }
}

impl<'de> DeserializeSeed<'de> for Check {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Check {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while seq.next_element_seed(inner)?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while map.next_key_seed(inner)?.is_some() {
            map.next_value_seed(inner)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(content_type: &str, body: &[u8]) -> (Option<String>, Option<String>) {
        let shown = Shown::new(content_type, body);
        let inline = shown.inline().map(|i| serde_json::to_string(&i).expect("JSON"));
        (inline, shown.base64())
    }

    /// Without it a body would come back changed, or one message could make a page of history
    /// unreadable.
    #[test]
    fn bodies_are_shown_without_loss() {
        let inline = |s: &str| (Some(s.to_owned()), None);
        let big = "{\"n\": 12345678901234567890123, \"z\":1,\"a\":1.50}";
        assert_eq!(shown("application/json; charset=utf-8", big.as_bytes()), inline(big));
        assert_eq!(shown("application/ld+JSON", b"[1]"), inline("[1]"));
        assert_eq!(shown("text/plain", "ä\"".as_bytes()), inline("\"ä\\\"\""));
        assert_eq!(shown("TEXT/plain", b""), inline("\"\""));
        assert_eq!(shown("text/plain; Charset=\"UTF-8\"; x=y", b""), inline("\"\""));
        for (content_type, body) in [
            ("application/json", &b"{\"a\":"[..]),
            ("application/json", b"{} {}"),
            ("application/json", b""),
            ("application/json", b"\"\\ud800\""),
            ("application/json", b"\"\xff\""),
            ("application/json", b"1e999"),
            ("application/octet-stream", b"{}"),
            ("text/plain", b"\xff"),
            // UTF-8 as well, but declared as something else.
            ("text/plain; charset=ISO-8859-1", "ä".as_bytes()),
            ("application/json;charset=\"utf-16\"", b"{}"),
        ] {
            let (inline, base64) = shown(content_type, body);
            assert_eq!(inline, None, "{content_type} {body:?}");
            assert_eq!(base64.as_deref().and_then(decode_base64).as_deref(), Some(body));
        }
        let nested = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(shown("application/json", nested(limits::JSON_DEPTH_MAX).as_bytes()).0.is_some());
        assert!(
            shown("application/json", nested(limits::JSON_DEPTH_MAX + 1).as_bytes()).1.is_some()
        );
        assert!(shown("application/json", "[".repeat(100_000).as_bytes()).1.is_some());
    }
}
