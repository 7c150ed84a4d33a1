//! The file, field by field. Unknown fields are ignored, so that a later version may add some; an addition that must
//! not be ignored gets a new number.

use super::{
    content::Content,
    effects::{AnswerForm, ExpiryForm, RequestForm, TimerForm, WatchForm},
};
use crate::{effects::lines::OriginLines, plugin::Digest};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The format that is written, and the last one that is read.
pub const FORMAT: u32 = 1;

/// A capture.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Capture {
    /// The format's number.
    pub slotd_capture: u32,
    /// The version of slotd that wrote it.
    pub made_by: String,
    pub made_ms: u64,
    pub because: Because,
    pub service: String,
    pub session: String,
    /// What handled the message.
    pub component: Component,
    /// The version whose shape the state has, if that is not the component's: `migrate` runs first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migrates_from: Option<String>,
    pub before: Before,
    pub message: MessageForm,
    /// What came out.
    pub outcome: OutcomeForm,
    /// What should come out, where that is something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<OutcomeForm>,
    /// What was redacted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub redacted: Vec<String>,
}

/// Why there is one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Because {
    pub kind: Kind,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub what: String,
    /// What was redacted has taken it away: something else comes out now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Somebody asked for it.
    Asked,
    Trap,
    Deadline,
    /// A new version did something else.
    Gate,
    /// A simulation found it.
    Sim,
    /// Of a later version.
    #[serde(other)]
    Other,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Trap => "trap",
            Self::Deadline => "deadline",
            Self::Gate => "gate",
            Self::Sim => "sim",
            Self::Other => "other",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    pub digest: Digest,
    pub version: String,
    /// It was deployed as one that reads the state of any other version.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub same_state: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wasm_base64: Option<String>,
}

/// The session before the message.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Before {
    /// Its last message; 0: there was no session.
    pub seq: u64,
    #[serde(default)]
    pub created_ms: u64,
    #[serde(default)]
    pub updated_ms: u64,
    #[serde(default)]
    pub state: BTreeMap<String, Content>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timers: Vec<TimerForm>,
    /// Requests over HTTP that are open.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<RequestForm>,
    /// Answers that the handler failed, and that are tried again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<AnswerForm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<ExpiryForm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch: Option<WatchForm>,
    /// The message that closed the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_by: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MessageForm {
    pub seq: u64,
    /// The handler's clock. Its random bytes follow from service, session and number.
    pub time_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<String>,
    pub content_type: String,
    pub body: Content,
    /// What it comes from; none: a client of whom nothing is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<OriginLines>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutcomeForm {
    Reply(ReplyForm),
    Rejection {
        code: String,
        message: String,
        retriable: bool,
    },
    /// `kind`: `trap`, `deadline`, `limit`, `migrate`, or another that a call ends with.
    Failure {
        kind: String,
        why: String,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplyForm {
    pub content_type: String,
    pub body: Content,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<EventForm>,
    /// `None`: it is not known, as of a message that is in a history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<Vec<EventForm>>,
    /// What it has asked for; `None`: it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effects: Option<Vec<CausedForm>>,
    /// What it has written, `null` for a key that it deleted; `None`: it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writes: Option<BTreeMap<String, Option<Content>>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventForm {
    pub kind: String,
    pub content_type: String,
    pub body: Content,
}

/// One effect that a message has asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum CausedForm {
    Timer {
        name: String,
        due_ms: u64,
    },
    /// To `service/session`.
    Message {
        to: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reply_as: Option<String>,
    },
    Request {
        id: String,
    },
    Expiry {
        at_ms: u64,
    },
    Close,
    /// So many more.
    More {
        count: u32,
    },
}

/// Why a file can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("it is damaged, or no capture: {0}")]
    Damaged(String),
    #[error(
        "it has format {0}, of a later version of slotd; this one reads formats up to {FORMAT}"
    )]
    Newer(u32),
    #[error("it has no component and names {0}: give its file with --wasm")]
    NoComponent(Digest),
    #[error("its component has the digest {has}, and it names {named}: it is damaged")]
    OtherComponent { named: Digest, has: Digest },
}

/// What every format has.
#[derive(Deserialize)]
struct AnyFormat {
    slotd_capture: u32,
}

impl Capture {
    /// # Errors
    /// Why it can't be read.
    pub fn parse(text: &[u8]) -> Result<Self, Unreadable> {
        let damaged = |why: serde_json::Error| Unreadable::Damaged(why.to_string());
        let AnyFormat { slotd_capture } = serde_json::from_slice(text).map_err(damaged)?;
        match slotd_capture {
            0 => Err(Unreadable::Damaged("there is no format 0".into())),
            1..=FORMAT => serde_json::from_slice(text).map_err(damaged),
            newer => Err(Unreadable::Newer(newer)),
        }
    }

    /// The file.
    ///
    /// # Errors
    /// It can't be written: a bug.
    pub fn text(&self) -> Result<String, String> {
        let mut text = serde_json::to_string_pretty(self).map_err(|why| why.to_string())?;
        text.push('\n');
        Ok(text)
    }

    /// What a run is compared with.
    pub fn expects(&self) -> &OutcomeForm {
        self.expected.as_ref().unwrap_or(&self.outcome)
    }

    /// A name for its file.
    pub fn file_name(&self) -> String {
        let session: String = self.session.chars().take(40).collect();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let session: String = session.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
        format!("{}-{session}-{}.capture.json", self.service, self.message.seq)
    }
}
