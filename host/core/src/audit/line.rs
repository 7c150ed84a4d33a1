//! A line of the audit log, and its format.
//!
//! A line is one object of JSON without line breaks. Fields are only added; whoever reads a line
//! ignores those that it does not know. [`FORMAT`] rises when that is not enough.

use crate::{limits, plugin::Digest, text};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Of each line.
pub const FORMAT: u32 = 1;

/// What a line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A change is about to be made.
    Intent,
    /// What came of a change, or that it was refused.
    Outcome,
    /// Something changed without a request.
    Event,
}

/// A change: who asked for what, and what it made of what.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The same in an intent and its outcome; set by the log.
    #[serde(default)]
    pub id: String,
    /// The text of an identity; `slotd` for what happens by itself.
    pub who: String,
    /// The address that the request came from. Behind a proxy it is the proxy's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// What kind of right it takes: `deploy`, `operate`; `slotd` for what happens by itself.
    pub verb: String,
    /// The method and the route (`POST /admin/v1/rebalance`), or the name of an event.
    pub action: String,
    /// The path as it came; without the query, which may have a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What the path names: service, session, slot, node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub subject: BTreeMap<String, String>,
    /// What was asked for, as far as it counts.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub asked: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub before: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub after: Map<String, Value>,
    /// The answer's HTTP status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The answer's error code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Refused requests before this one that are not in the log.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub missed: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Change {
    /// Something that happens without a request.
    pub fn event(action: &str) -> Self {
        Self { who: "slotd".into(), verb: "slotd".into(), action: action.into(), ..Self::default() }
    }

    /// Cuts what is too long, so that a line never exceeds [`limits::AUDIT_LINE_BYTES_MAX`].
    pub(super) fn bound(&mut self) {
        let text_max = limits::AUDIT_TEXT_BYTES_MAX;
        let cut = |text: &mut String| {
            if text.len() > text_max {
                *text = text::clip(std::mem::take(text).into(), text_max).into_owned();
            }
        };
        for text in [&mut self.id, &mut self.who, &mut self.verb, &mut self.action] {
            cut(text);
        }
        self.from.iter_mut().chain(&mut self.path).chain(&mut self.code).for_each(cut);
        self.subject.values_mut().for_each(cut);
        for part in [&mut self.asked, &mut self.before, &mut self.after] {
            let bytes = serde_json::to_vec(part).map_or(usize::MAX, |bytes| bytes.len());
            if bytes > limits::AUDIT_PART_BYTES_MAX {
                *part = Map::from_iter([("left_out_bytes".to_owned(), json!(bytes))]);
            }
        }
    }
}

/// A line as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    pub format: u32,
    /// In files: the line's number. In a stream it has the stream's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// The process that wrote it, and none before or after it.
    pub writer: String,
    /// The SHA-256 of the line before: in files, of any; in a stream, of the same writer. Absent in a
    /// first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Digest>,
    /// Milliseconds since the Unix epoch, by the node's clock.
    pub at_ms: u64,
    pub node: String,
    pub kind: Kind,
    #[serde(flatten)]
    pub change: Change,
}

impl Line {
    /// Without a line break.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        let bytes = serde_json::to_vec(self).map_err(|e| e.to_string())?;
        match bytes.len() > limits::AUDIT_LINE_BYTES_MAX {
            true => Err(format!("a line of {} bytes is too long", bytes.len())),
            false => Ok(bytes),
        }
    }

    /// # Errors
    /// Why it is no such line.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let Format { format } = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if format != FORMAT {
            return Err(format!("it has format {format}; this slotd reads {FORMAT}"));
        }
        serde_json::from_slice(bytes).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without it a later version could not read, or not verify, what this one has written.
    #[test]
    fn a_line_keeps_its_bytes() {
        let change = Change {
            id: "0c".into(),
            who: "token:ci".into(),
            from: Some("127.0.0.1".into()),
            verb: "deploy".into(),
            action: "POST /admin/v1/services/{service}/deploy".into(),
            path: Some("/admin/v1/services/chat/deploy".into()),
            subject: [("service".to_owned(), "chat".to_owned())].into(),
            asked: Map::from_iter([("force".to_owned(), json!(true))]),
            before: Map::from_iter([("version".to_owned(), json!("1.0.0"))]),
            after: Map::from_iter([("version".to_owned(), json!("2.0.0"))]),
            status: Some(200),
            code: None,
            missed: 0,
        };
        let line = Line {
            format: FORMAT,
            number: Some(7),
            writer: "0a".into(),
            previous: Some(Digest([1; 32])),
            at_ms: 1_790_000_000_123,
            node: "n1".into(),
            kind: Kind::Outcome,
            change,
        };
        let bytes = concat!(
            r#"{"format":1,"number":7,"writer":"0a","previous":"#,
            r#""0101010101010101010101010101010101010101010101010101010101010101","#,
            r#""at_ms":1790000000123,"node":"n1","kind":"outcome","id":"0c","who":"token:ci","#,
            r#""from":"127.0.0.1","verb":"deploy","action":"POST /admin/v1/services/{service}/deploy","#,
            r#""path":"/admin/v1/services/chat/deploy","subject":{"service":"chat"},"#,
            r#""asked":{"force":true},"before":{"version":"1.0.0"},"after":{"version":"2.0.0"},"#,
            r#""status":200}"#
        );
        assert_eq!(String::from_utf8(line.encode().unwrap()).unwrap(), bytes);
        assert_eq!(Line::decode(bytes.as_bytes()).unwrap(), line);
        // A later version's fields are ignored, a later format is not.
        let later = bytes.replace(r#""status":200"#, r#""status":200,"more":[1]"#);
        assert_eq!(Line::decode(later.as_bytes()).unwrap(), line);
        let later = bytes.replace(r#""format":1"#, r#""format":2"#);
        assert!(Line::decode(later.as_bytes()).unwrap_err().contains("format 2"));
    }

    /// Without it a client could choose how large a line gets, and then none could be written.
    #[test]
    fn whatever_comes_a_line_fits() {
        let long = "\u{1}\"é".repeat(100_000);
        let part = Map::from_iter([("x".to_owned(), json!(long))]);
        let subject = (0..8).map(|n| (n.to_string(), long.clone())).collect();
        let mut change = Change {
            id: long.clone(),
            who: long.clone(),
            from: Some(long.clone()),
            verb: long.clone(),
            action: long.clone(),
            path: Some(long.clone()),
            subject,
            asked: part.clone(),
            before: part.clone(),
            after: part,
            status: Some(200),
            code: Some(long),
            missed: u64::MAX,
        };
        change.bound();
        let line = Line {
            format: FORMAT,
            number: Some(u64::MAX),
            writer: "f".repeat(32),
            previous: Some(Digest([255; 32])),
            at_ms: u64::MAX,
            node: "n".repeat(limits::NODE_NAME_BYTES_MAX),
            kind: Kind::Outcome,
            change,
        };
        let bytes = line.encode().unwrap();
        assert!(bytes.len() <= limits::AUDIT_LINE_BYTES_MAX, "{}", bytes.len());
        assert!(!bytes.contains(&b'\n'));
    }
}
