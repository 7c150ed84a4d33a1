//! Version 2's index: which lines of the ring mention a person.

use crate::{
    MENTIONS_PER_LINE_MAX, WINDOW,
    mentions::words,
    room::{LINES, Line, PEOPLE, Person, line_key, person_key},
};
use slotd_guest::{Error, State};
use std::collections::HashMap;

const MENTIONS: &str = "mention/";

/// Nicks have no control characters, so a tab ends one.
pub(crate) fn prefix(nick: &str) -> String {
    format!("{MENTIONS}{nick}\t")
}
fn key(nick: &str, n: u64) -> String {
    format!("{}{n:020}", prefix(nick))
}
/// The line's number in a key of the index.
pub(crate) fn number(key: &str) -> Option<u64> {
    key.rsplit_once('\t')?.1.parse().ok()
}

/// Finds whom a new line mentions and notes it; forgets the mentions of the line that leaves.
pub(crate) fn keep(state: &mut State, line: &mut Line) -> Result<(), Error> {
    if line.n > WINDOW
        && let Some(old) = state.get::<Line>(&line_key(line.n))?
    {
        for nick in &old.mentions {
            state.delete(&key(nick, old.n));
        }
    }
    let mentions = mentioned(line, |nick| {
        let person = state.get::<Person>(&person_key(nick))?;
        Ok(person.map(|person| person.first))
    })?;
    note(state, line, mentions);
    Ok(())
}

/// Builds the index from the ring and the people, as [`keep`] would have, line by line.
pub(crate) fn build(state: &mut State) -> Result<(), Error> {
    clear(state)?;
    let mut first = HashMap::new();
    for person in state.scan::<Person>(PEOPLE) {
        let (key, person) = person?;
        first.insert(key[PEOPLE.len()..].to_owned(), person.first);
    }
    for line in state.scan::<Line>(LINES) {
        let (slot, mut line) = line?;
        let mentions = mentioned(&line, |nick| Ok(first.get(nick).copied()))?;
        if !mentions.is_empty() {
            note(state, &mut line, mentions);
            state.set(&slot, &line)?;
        }
    }
    Ok(())
}

/// Takes the index away, so that the state is what version 1 would have.
pub(crate) fn clear(state: &mut State) -> Result<(), Error> {
    for (key, _) in state.scan_bytes(MENTIONS) {
        state.delete(&key);
    }
    for line in state.scan::<Line>(LINES) {
        let (slot, mut line) = line?;
        if !line.mentions.is_empty() {
            line.mentions.clear();
            state.set(&slot, &line)?;
        }
    }
    Ok(())
}

fn note(state: &mut State, line: &mut Line, mentions: Vec<String>) {
    for nick in &mentions {
        state.set_bytes(&key(nick, line.n), b"");
    }
    line.mentions = mentions;
}

/// Whom a line mentions; `first` gives the number of a person's first line.
fn mentioned(
    line: &Line,
    first: impl Fn(&str) -> Result<Option<u64>, Error>,
) -> Result<Vec<String>, Error> {
    let mut mentioned = Vec::new();
    for word in words(&line.text) {
        if mentioned.len() == MENTIONS_PER_LINE_MAX {
            break;
        }
        if line.from.as_deref() != Some(word) && first(word)?.is_some_and(|first| first < line.n) {
            mentioned.push(word.to_owned());
        }
    }
    Ok(mentioned)
}
