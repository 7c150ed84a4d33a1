//! The part that both versions share: people, topic, and the ring of lines.

use crate::{NICK_BYTES_MAX, PEOPLE_MAX, TEXT_BYTES_MAX, WINDOW};
use serde::{Deserialize, Serialize};
use slotd_guest::{Context, Error, Rejection, State, StateView, Value, serde_json::Map};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Say,
    Action,
    System,
    Topic,
}

/// What a client sends.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Message {
    pub kind: Kind,
    #[serde(default)]
    pub from: Option<String>,
    pub text: String,
    /// Whatever else is there: into the event, not into the state.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The reply to a message.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Said {
    pub n: u64,
}

/// A line, as the ring and the answers have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Line {
    /// From 1.
    pub n: u64,
    pub kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    pub text: String,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Version 2: whom it mentions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mentions: Vec<String>,
}

#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct LineEvent<'a> {
    n: u64,
    kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
    text: &'a str,
    at_ms: u64,
    #[serde(skip_serializing_if = "Map::is_empty")]
    extra: Map<String, Value>,
}

/// How much there is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Room {
    /// All lines so far: the last one's number.
    pub lines: u64,
    pub say: u64,
    pub action: u64,
    pub system: u64,
    pub topic: u64,
    /// Who has spoken: said, acted, or set a topic.
    pub people: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Person {
    pub say: u64,
    pub action: u64,
    /// Numbers of the first and last line.
    pub first: u64,
    pub last: u64,
    /// When the last line was, milliseconds since the Unix epoch.
    pub last_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Topic {
    pub text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    pub at_ms: u64,
}

pub(crate) const ROOM: &str = "room";
pub(crate) const TOPIC: &str = "topic";
pub(crate) const PEOPLE: &str = "person/";
pub(crate) const LINES: &str = "line/";

pub(crate) fn person_key(nick: &str) -> String {
    format!("{PEOPLE}{nick}")
}
pub(crate) fn line_key(n: u64) -> String {
    format!("{LINES}{:03}", n % WINDOW)
}
pub(crate) fn room(state: &StateView) -> Result<Room, Error> {
    Ok(state.get(ROOM)?.unwrap_or_default())
}

/// Checks a message, counts it, and tells the subscribers. The line is left to be kept.
pub(crate) fn take(cx: &mut Context, message: Message) -> Result<Line, Rejection> {
    let Message { kind, from, text, extra } = message;
    let from = match (from, kind) {
        (Some(from), _) => Some(from),
        (None, Kind::System) => None,
        (None, _) => cx.sender().map(str::to_owned),
    };
    if text.len() > TEXT_BYTES_MAX {
        let bytes = text.len();
        return Err(Rejection::new(
            "text-too-long",
            format!("a text has {TEXT_BYTES_MAX} bytes at most, this one {bytes}"),
        ));
    }
    if let Some(nick) = &from {
        check_nick(nick)?;
    } else if matches!(kind, Kind::Say | Kind::Action) {
        return Err(Rejection::new("no-sender", "say who it is: `from`, or a sender's name"));
    }

    let (at_ms, mut state) = (cx.time_ms(), cx.state());
    let mut room = room(&state)?;
    room.lines += 1;
    let n = room.lines;
    match kind {
        Kind::Say => room.say += 1,
        Kind::Action => room.action += 1,
        Kind::System => room.system += 1,
        Kind::Topic => room.topic += 1,
    }
    if let (Some(nick), Kind::Say | Kind::Action | Kind::Topic) = (&from, kind) {
        let key = person_key(nick);
        let mut person = match state.get(&key)? {
            Some(person) => person,
            None if room.people == PEOPLE_MAX => {
                let text = format!("{PEOPLE_MAX} people have spoken here, and that is the most");
                return Err(Rejection::new("room-full", text));
            }
            None => {
                room.people += 1;
                Person { say: 0, action: 0, first: n, last: n, last_ms: at_ms }
            }
        };
        person.say += u64::from(kind == Kind::Say);
        person.action += u64::from(kind == Kind::Action);
        (person.last, person.last_ms) = (n, at_ms);
        state.set(&key, &person)?;
    }
    if kind == Kind::Topic {
        state.set(TOPIC, &Topic { text: text.clone(), by: from.clone(), at_ms })?;
    }
    state.set(ROOM, &room)?;
    let event = LineEvent { n, kind, from: from.as_deref(), text: &text, at_ms, extra };
    cx.emit("line", &event)?;
    Ok(Line { n, kind, from, text, at_ms, mentions: Vec::new() })
}

/// Puts a line into the ring, over the one that leaves it.
pub(crate) fn keep(state: &mut State, line: &Line) -> Result<(), Error> {
    state.set(&line_key(line.n), line)
}

fn check_nick(nick: &str) -> Result<(), Rejection> {
    if nick.is_empty() || nick.len() > NICK_BYTES_MAX || nick.chars().any(char::is_control) {
        return Err(Rejection::new(
            "bad-nick",
            format!("a nick has 1 to {NICK_BYTES_MAX} bytes and no control character"),
        ));
    }
    Ok(())
}
