//! A chat room: one session is one room.
//!
//! # Messages
//!
//! `{"kind": "say" | "action" | "system" | "topic", "from": "nick", "text": "..."}`. Without `from`
//! the sender's name counts; a `system` line and a topic need neither. Other fields are no error:
//! they go into the line's event under `extra`. The reply is `{"n": 17}`, the line's number, from 1.
//!
//! Every line is an event `line`: `{"n", "kind", "from", "text", "at_ms", "extra"}`.
//!
//! # Queries
//!
//! - `{"query": "who", "limit": 100, "after": "nick"}`: who has spoken, in order of nicks.
//! - `{"query": "top", "limit": 10}`: who has spoken most.
//! - `{"query": "search", "text": "...", "limit": 20}`: of the last [`WINDOW`] lines those that
//!   contain the text, in any case, the newest first. An empty text finds them all.
//! - `{"query": "topic"}`, `{"query": "stats"}`.
//! - Version 2: `{"query": "mentions", "of": "nick", "limit": 20}`: of the last [`WINDOW`] lines
//!   those that mention the person, the newest first.
//!
//! # State
//!
//! | key | value |
//! |---|---|
//! | `room` | how many lines of each kind and how many people; rewritten for each line, so small |
//! | `topic` | the topic, by whom, since when |
//! | `person/<nick>` | counts and first and last line of who has spoken |
//! | `line/<n mod WINDOW>` | the last [`WINDOW`] lines, a ring |
//! | `mention/<nick>⇥<n>` | version 2: line `n` of the ring mentions the person; no value |
//!
//! # What a mention is
//!
//! Line `n` mentions a person if their nick stands in its text as a word ([`mentions::words`]), they
//! had spoken before line `n`, and the line is not their own; the first [`MENTIONS_PER_LINE_MAX`]
//! count. All of that is still known for each line of the ring, so an index built later over version
//! 1's state is the index that version 2 would have kept all along.

mod index;
mod mentions;
mod query;
mod room;
#[cfg(test)]
mod tests;

pub use mentions::words;
pub use query::Query;
pub use room::{Kind, Line, Message, Person, Room, Topic};

use slotd_guest::{Context, Handler, MigrateContext, QueryContext, Rejection};

/// Lines that are kept for search and mentions.
pub const WINDOW: u64 = 200;
/// Bytes of a text. 200 lines of it, with room for JSON's escapes, are migrated in one transaction
/// of 4 MiB.
pub const TEXT_BYTES_MAX: usize = 2_000;
/// Bytes of a nick.
pub const NICK_BYTES_MAX: usize = 64;
/// People who are counted in one room: `top` reads them all.
pub const PEOPLE_MAX: u64 = 10_000;
/// Mentions that one line can make: its keys are written with the line.
pub const MENTIONS_PER_LINE_MAX: usize = 16;

/// Version 1: lines, people, topic, search.
pub struct V1;

/// Version 2: and an index of mentions.
pub struct V2;

impl Handler for V1 {
    type Message = Message;
    type Query = Query;

    fn handle(cx: &mut Context, message: Message) -> Result<impl serde::Serialize, Rejection> {
        let line = room::take(cx, message)?;
        room::keep(&mut cx.state(), &line)?;
        Ok(room::Said { n: line.n })
    }

    fn query(cx: &QueryContext, query: Query) -> Result<impl serde::Serialize, Rejection> {
        query::answer(&cx.state(), query)
    }

    fn migrate(cx: &mut MigrateContext, from: &str) -> Result<(), String> {
        match major(from) {
            Some("1") => Ok(()),
            Some("2") => Ok(index::clear(&mut cx.state())?),
            _ => Err(format!("chat 1 knows no way from version {from}")),
        }
    }
}

impl Handler for V2 {
    type Message = Message;
    type Query = Query;

    fn handle(cx: &mut Context, message: Message) -> Result<impl serde::Serialize, Rejection> {
        let mut line = room::take(cx, message)?;
        index::keep(&mut cx.state(), &mut line)?;
        room::keep(&mut cx.state(), &line)?;
        Ok(room::Said { n: line.n })
    }

    fn query(cx: &QueryContext, query: Query) -> Result<impl serde::Serialize, Rejection> {
        match query {
            Query::Mentions { of, limit } => query::mentions(&cx.state(), &of, limit),
            query => query::answer(&cx.state(), query),
        }
    }

    fn migrate(cx: &mut MigrateContext, from: &str) -> Result<(), String> {
        match major(from) {
            Some("1") => Ok(index::build(&mut cx.state())?),
            Some("2") => Ok(()),
            _ => Err(format!("chat 2 knows no way from version {from}")),
        }
    }
}

fn major(version: &str) -> Option<&str> {
    version.split_once('.').map(|(major, _)| major)
}
