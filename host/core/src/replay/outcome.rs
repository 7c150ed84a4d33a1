//! What came of a message, and in what it differs from another outcome.

use crate::{
    effects::{Caused, Change},
    error::Rejection,
    limits,
    log::record::{Entry, Event, Write},
    text::{self, Keep},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use xxhash_rust::xxh3::Xxh3Default;

/// What came of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Replied(Replied),
    Rejected(Rejection),
    /// `kind` as [`crate::plugin::Failure::kind`], or `migrate`: that has refused the session.
    Failed {
        kind: &'static str,
        why: String,
    },
}

/// What a handler gave and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replied {
    pub content_type: String,
    pub body: Bytes,
    pub events: Vec<Event>,
    /// They are not in a history.
    pub ephemeral: Vec<Event>,
    /// As a history has it.
    pub caused: Vec<Caused>,
    /// The rows that it changed, whole.
    pub effects: Vec<Change>,
    pub writes: Vec<Write>,
}

impl Outcome {
    /// Equal of outcomes that are equal in everything, what no history has included.
    pub fn digest(&self) -> u128 {
        let mut hash = Xxh3Default::new();
        let mut part = |bytes: &[u8]| {
            hash.update(&bytes.len().to_le_bytes());
            hash.update(bytes);
        };
        match self {
            Self::Replied(it) => {
                part(b"replied");
                part(it.content_type.as_bytes());
                part(&it.body);
                for (of, events) in [("kept", &it.events), ("ephemeral", &it.ephemeral)] {
                    for event in events {
                        part(of.as_bytes());
                        part(event.kind.as_bytes());
                        part(event.content_type.as_bytes());
                        part(&event.body);
                    }
                }
                for change in &it.effects {
                    part(&change.row);
                    part(change.value.as_deref().unwrap_or_default());
                }
                for write in &it.writes {
                    part(&write.key);
                    part(if write.value.is_some() { b"set" } else { b"deleted" });
                    part(write.value.as_deref().unwrap_or_default());
                }
            }
            Self::Rejected(rejection) => {
                part(b"rejected");
                part(rejection.code.as_bytes());
                part(rejection.message.as_bytes());
            }
            Self::Failed { kind, why } => {
                part(kind.as_bytes());
                part(why.as_bytes());
            }
        }
        hash.digest128()
    }
}

/// What of an outcome can be compared.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    result: Result<(&'a str, &'a Bytes), &'a Outcome>,
    events: &'a [Event],
    /// `None`: it is not known.
    caused: Option<&'a [Caused]>,
}

impl<'a> Seen<'a> {
    /// What a history has. `has_caused`: an entry without effects says that there were none; those of feature levels
    /// before [`crate::level::HTTP_FROM`] say nothing.
    pub fn stored(entry: &'a Entry, has_caused: bool) -> Self {
        Self {
            result: Ok((&entry.reply_content_type, &entry.reply)),
            events: &entry.events,
            caused: (has_caused || !entry.caused.is_empty()).then_some(&entry.caused),
        }
    }
}

impl<'a> From<&'a Outcome> for Seen<'a> {
    fn from(outcome: &'a Outcome) -> Self {
        match outcome {
            Outcome::Replied(it) => Self {
                result: Ok((&it.content_type, &it.body)),
                events: &it.events,
                caused: Some(&it.caused),
            },
            Outcome::Rejected(_) | Outcome::Failed { .. } => {
                Self { result: Err(outcome), events: &[], caused: None }
            }
        }
    }
}

/// In what two outcomes differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum What {
    Reply,
    ContentType,
    Events,
    Effects,
    /// One is a reply, the other a rejection, a trap, or another failure; or they are two of these.
    Result,
    /// The state behind the last message.
    State,
    /// The history itself: it has a gap, or can't be read.
    History,
}

impl What {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reply => "reply",
            Self::ContentType => "content-type",
            Self::Events => "events",
            Self::Effects => "effects",
            Self::Result => "result",
            Self::State => "state",
            Self::History => "history",
        }
    }
}

/// One thing in which two outcomes differ, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    pub what: What,
    pub stored: String,
    pub came: String,
}

/// In what two outcomes differ; the first is what was stored, or what the earlier version gave.
pub fn differences(stored: Seen<'_>, came: Seen<'_>) -> Vec<Difference> {
    let mut found = Vec::new();
    match (stored.result, came.result) {
        (Ok((stored_type, stored)), Ok((came_type, came))) => {
            if stored_type != came_type {
                found.push(of_text(What::ContentType, stored_type, came_type));
            }
            if stored != came {
                found.push(of_bytes(What::Reply, stored, came));
            }
        }
        (Err(stored), Err(came)) if stored == came => {}
        (stored, came) => {
            let (stored, came) = (result(stored), result(came));
            return vec![Difference { what: What::Result, stored, came }];
        }
    }
    if stored.events != came.events {
        found.push(of_text(What::Events, &events(stored.events), &events(came.events)));
    }
    if let (Some(stored), Some(came)) = (stored.caused, came.caused)
        && stored != came
    {
        found.push(of_text(What::Effects, &effects(stored), &effects(came)));
    }
    found
}

impl Difference {
    /// Of a value of the state; `None`: there is none.
    pub fn of_state(key: &str, stored: Option<&[u8]>, came: Option<&[u8]>) -> Self {
        let key = text::cut(key, limits::DIFFERENCE_SHOWN_BYTES);
        let all = |value: Option<&[u8]>| value.map_or_else(|| "nothing".into(), shown);
        let (stored, came) = match (stored, came) {
            (Some(stored), Some(came)) => about(stored, came),
            (stored, came) => (all(stored), all(came)),
        };
        let of = |shown| format!("{key:?}: {shown}");
        Self { what: What::State, stored: of(stored), came: of(came) }
    }
}

pub(crate) fn of_bytes(what: What, stored: &[u8], came: &[u8]) -> Difference {
    let (stored, came) = about(stored, came);
    Difference { what, stored, came }
}

pub(crate) fn of_text(what: What, stored: &str, came: &str) -> Difference {
    of_bytes(what, stored.as_bytes(), came.as_bytes())
}

fn result(result: Result<(&str, &Bytes), &Outcome>) -> String {
    match result {
        Ok((_, body)) => format!("a reply: {}", shown(body)),
        Err(Outcome::Rejected(it)) => {
            format!("rejected with {}: {}", it.code, shown(it.message.as_bytes()))
        }
        Err(Outcome::Failed { kind, why }) => format!("{kind}: {}", shown(why.as_bytes())),
        Err(Outcome::Replied(it)) => format!("a reply: {}", shown(&it.body)),
    }
}

fn events(events: &[Event]) -> String {
    let mut out = format!("{} events", events.len());
    for event in events {
        let _ = write!(out, "; {} ({}) ", event.kind, event.content_type);
        out.push_str(&String::from_utf8_lossy(&event.body));
    }
    out
}

fn effects(caused: &[Caused]) -> String {
    let mut out = format!("{} effects", caused.len());
    for one in caused {
        let _ = match one {
            Caused::Timer { name, due_ms } => write!(out, "; timer {name:?} for {due_ms}"),
            Caused::Sent { to, reply: None } => write!(out, "; message to {to}"),
            Caused::Sent { to, reply: Some(name) } => {
                write!(out, "; message to {to}, reply as {name:?}")
            }
            Caused::Request { id } => write!(out, "; request {id:?}"),
            Caused::Expires { at_ms } => write!(out, "; expires at {at_ms}"),
            Caused::Closed => write!(out, "; closed"),
            Caused::More(more) => write!(out, "; {more} more"),
        };
    }
    out
}

/// Two values, each from a little before the first byte in which they differ.
fn about(one: &[u8], other: &[u8]) -> (String, String) {
    let same = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    let longest = one.len().max(other.len());
    if longest <= limits::DIFFERENCE_SHOWN_BYTES {
        return (shown(one), shown(other));
    }
    let begin = same.saturating_sub(limits::DIFFERENCE_SHOWN_BYTES / 4);
    let from = |bytes: &[u8]| match bytes.get(begin..) {
        Some(rest) if begin > 0 => {
            format!("{} bytes, from byte {begin} on: {}", bytes.len(), shown(rest))
        }
        _ => format!("{} bytes: {}", bytes.len(), shown(bytes)),
    };
    (from(one), from(other))
}

/// Bytes for people: as text, as far as it goes.
pub fn shown(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "nothing".into();
    }
    let cut = bytes.len() > limits::DIFFERENCE_SHOWN_BYTES;
    let shown = &bytes[..bytes.len().min(limits::DIFFERENCE_SHOWN_BYTES)];
    // A cut may be in the middle of a character.
    let valid = match std::str::from_utf8(shown) {
        Ok(text) => Some(text),
        Err(e) if cut && e.error_len().is_none() => {
            std::str::from_utf8(&shown[..e.valid_up_to()]).ok()
        }
        Err(_) => None,
    };
    let mut out = match valid {
        Some(valid) => text::printable(valid, Keep::Tabs).into_owned(),
        None => {
            let mut hex = format!("{} bytes, in hex: ", bytes.len());
            for byte in &shown[..shown.len().min(limits::DIFFERENCE_SHOWN_BYTES / 4)] {
                let _ = write!(hex, "{byte:02x}");
            }
            hex
        }
    };
    if cut {
        out.push('…');
    }
    out
}
