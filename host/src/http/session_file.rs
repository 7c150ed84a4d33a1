//! A session as a file: JSON lines that one node writes and another reads, possibly of another
//! cluster or version.
//!
//! | line | what |
//! |---|---|
//! | `{"slotd_session": 1, ...}` | the head: the format's version, the session, whose shape its state has |
//! | `{"message": {...}}` | an entry of its history, from number 1 up, without a gap |
//! | `{"state": {...}}` | a key with its value |
//! | `{"end": {...}}` | how many of both there were; without it the file is not whole |
//!
//! The session's timers are not in it, nor its open requests, nor what it has sent and is not done with, nor what is
//! dead: both would do it. Nor does it say that the session is closed, or is told of subscribers: the copy begins open.
//!
//! Unknown fields are ignored, so that a later version may add some; an addition that must not be
//! ignored gets a new format number. Bytes are in base64.

mod export;
mod import;
mod origin;

pub(super) use export::Export;
pub(super) use import::{Reader, Reading};

use crate::{effects::lines::OriginLines, plugin::Digest};
use serde::{Deserialize, Serialize};

/// The version of the file's format.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
enum Line {
    #[serde(rename = "message")]
    Message(Box<MessageLine>),
    #[serde(rename = "state")]
    State(StateLine),
    #[serde(rename = "end")]
    End(EndLine),
    /// The export failed midway.
    #[serde(rename = "failed")]
    Failed(String),
}

#[derive(Clone, Serialize, Deserialize)]
struct HeadLine {
    slotd_session: u32,
    service: String,
    session: String,
    /// Its last message.
    seq: u64,
    created_ms: u64,
    exported_ms: u64,
    /// The version whose state format it has.
    version: String,
    digest: Option<Digest>,
    /// Whether the file has the history.
    history: bool,
}

#[derive(Serialize, Deserialize)]
struct MessageLine {
    seq: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    operator: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sender: Option<String>,
    time_ms: u64,
    content_type: String,
    body_base64: String,
    reply_content_type: String,
    reply_base64: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
    #[serde(default)]
    events: Vec<EventLine>,
    #[serde(flatten)]
    origin: OriginLines,
}

#[derive(Serialize, Deserialize)]
struct EventLine {
    kind: String,
    content_type: String,
    body_base64: String,
}

#[derive(Serialize, Deserialize)]
struct StateLine {
    key: String,
    value_base64: String,
}

#[derive(Serialize, Deserialize, PartialEq, Eq, Debug)]
struct EndLine {
    messages: u64,
    keys: u64,
}
