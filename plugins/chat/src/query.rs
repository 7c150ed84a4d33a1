//! What can be asked of a room.

use crate::{
    WINDOW, index,
    room::{LINES, Line, PEOPLE, Person, Room, TOPIC, Topic, line_key, room},
};
use serde::{Deserialize, Serialize};
use slotd_guest::{Error, Rejection, StateView};

/// The most that one answer lists.
const LIMIT_MAX: usize = 1_000;

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "query", rename_all = "kebab-case")]
pub enum Query {
    Who {
        limit: Option<usize>,
        #[serde(default)]
        after: Option<String>,
    },
    Top {
        limit: Option<usize>,
    },
    Search {
        #[serde(default)]
        text: String,
        limit: Option<usize>,
    },
    Topic,
    Stats,
    /// Version 2.
    Mentions {
        of: String,
        limit: Option<usize>,
    },
}

#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct PersonEntry {
    nick: String,
    #[serde(flatten)]
    person: Person,
}

#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub(crate) enum Answer {
    People { total: u64, people: Vec<PersonEntry> },
    Lines { lines: Vec<Line> },
    Topic { topic: Option<Topic> },
    Stats(Stats),
}

#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Stats {
    #[serde(flatten)]
    room: Room,
    /// Lines that search and mentions look at, at most.
    window: u64,
}

/// Answers what both versions can.
pub(crate) fn answer(state: &StateView, query: Query) -> Result<Answer, Rejection> {
    Ok(match query {
        Query::Who { limit, after } => {
            let mut people = state.scan::<Person>(PEOPLE);
            if let Some(nick) = after {
                people = people.after(format!("{PEOPLE}{nick}"));
            }
            let people = people.map(entry).take(at_most(limit, 100)).collect::<Result<_, _>>()?;
            Answer::People { total: room(state)?.people, people }
        }
        Query::Top { limit } => {
            let mut people =
                state.scan::<Person>(PEOPLE).map(entry).collect::<Result<Vec<_>, _>>()?;
            // A stable sort over nicks in order: those with as many lines stay in order of nicks.
            people.sort_by_key(|e| std::cmp::Reverse(e.person.say + e.person.action));
            people.truncate(at_most(limit, 10));
            Answer::People { total: room(state)?.people, people }
        }
        Query::Search { text, limit } => {
            let text = text.to_lowercase();
            let mut lines = Vec::new();
            for line in state.scan::<Line>(LINES) {
                let (_, line) = line?;
                if line.text.to_lowercase().contains(&text) {
                    lines.push(line);
                }
            }
            lines.sort_by_key(|line| std::cmp::Reverse(line.n));
            lines.truncate(at_most(limit, 20));
            Answer::Lines { lines }
        }
        Query::Topic => Answer::Topic { topic: state.get(TOPIC)? },
        Query::Stats => Answer::Stats(Stats { room: room(state)?, window: WINDOW }),
        Query::Mentions { .. } => {
            return Err(Rejection::new("bad-query", "this version keeps no mentions"));
        }
    })
}

pub(crate) fn mentions(
    state: &StateView,
    of: &str,
    limit: Option<usize>,
) -> Result<Answer, Rejection> {
    let keys = state.scan_bytes(&index::prefix(of));
    let mut numbers: Vec<u64> = keys.filter_map(|(key, _)| index::number(&key)).collect();
    numbers.reverse();
    numbers.truncate(at_most(limit, 20));
    let lines = numbers.into_iter().filter_map(|n| state.get(&line_key(n)).transpose());
    Ok(Answer::Lines { lines: lines.collect::<Result<_, _>>()? })
}

fn entry(pair: Result<(String, Person), Error>) -> Result<PersonEntry, Error> {
    let (key, person) = pair?;
    Ok(PersonEntry { nick: key[PEOPLE.len()..].to_owned(), person })
}

fn at_most(limit: Option<usize>, default: usize) -> usize {
    limit.unwrap_or(default).min(LIMIT_MAX)
}
