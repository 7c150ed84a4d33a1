//! What the model says, and when it fails: a pure function of the request, so that a checker can say what had to be shown.

use serde::Deserialize;
use serde_json::{Value, json};

/// The pieces of an answer: numbered, so that one that is missing, doubled or misplaced is seen by anybody.
const WORDS: [&str; 24] = [
    "amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "islet", "jetty",
    "kayak", "larch", "maple", "north", "otter", "plume", "quail", "river", "stone", "tidal",
    "umber", "vivid", "willow", "yarrow",
];
const WORDS_MIN: u64 = 20;
const WORDS_MAX: u64 = 60;
/// Attempts at a request that may fail: each one comes to an end.
const TROUBLED_ATTEMPTS: u32 = 3;

/// What a model is asked, as far as this one reads it.
#[derive(Debug, Deserialize)]
pub struct Question {
    #[serde(default)]
    pub model: String,
    pub messages: Vec<Said>,
    #[serde(default)]
    pub tools: Vec<Tool>,
    #[serde(default)]
    pub stream: bool,
    pub stream_options: Option<StreamOptions>,
}

#[derive(Debug, Deserialize)]
pub struct Said {
    pub role: String,
    pub content: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct Tool {
    pub function: Function,
}

#[derive(Debug, Deserialize)]
pub struct Function {
    pub name: String,
}

#[derive(Debug, Deserialize)]
pub struct StreamOptions {
    #[serde(default)]
    pub include_usage: bool,
}

/// What goes wrong with an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// 500.
    Error,
    /// 429, with `retry-after`.
    Busy,
    /// The connection breaks after so many words.
    Cut(usize),
}

/// The words that answer the request with this idempotency key, whatever it asks.
pub fn words(key: &str) -> Vec<String> {
    let count = WORDS_MIN + hash(key, "count") % (WORDS_MAX - WORDS_MIN + 1);
    let word = |n: u64| WORDS[(hash(key, &n.to_string()) % WORDS.len() as u64) as usize];
    (1..=count).map(|n| format!("{}-{n} ", word(n))).collect()
}

/// Whether this attempt (from 1) at a request fails.
pub fn trouble(key: &str, attempt: u32) -> Option<Trouble> {
    if attempt > TROUBLED_ATTEMPTS {
        return None;
    }
    match hash(key, &format!("attempt {attempt}")) % 100 {
        0..4 => Some(Trouble::Error),
        4..8 => Some(Trouble::Busy),
        8..16 => {
            let count = words(key).len() as u64;
            Some(Trouble::Cut((hash(key, &format!("cut {attempt}")) % count) as usize))
        }
        _ => None,
    }
}

/// Whether the model thinks for a while before a word.
pub fn pauses(key: &str, word: usize) -> bool {
    hash(key, &format!("pause {word}")).is_multiple_of(40)
}

/// The calls that the model asks for after its words: of a tool that the last message of a person names with `use NAME`, or a
/// question to the person where it says `ask me`. Where there are results already it has done so.
pub fn calls(question: &Question) -> Vec<Value> {
    let Some(last) = question.messages.last().filter(|last| last.role == "user") else {
        return Vec::new();
    };
    let text = last.content.as_deref().unwrap_or_default();
    let call = |name: &str, arguments: Value| {
        let function = json!({ "name": name, "arguments": arguments.to_string() });
        json!({ "id": format!("call_{name}"), "type": "function", "function": function })
    };
    let wanted = question.tools.iter().filter_map(|tool| match tool.function.name.as_str() {
        "ask_human" if text.contains("ask me") => {
            Some(call("ask_human", json!({ "question": "Which one do you want?" })))
        }
        name if text.contains(&format!("use {name}")) => Some(call(name, json!({ "add": 1 }))),
        _ => None,
    });
    wanted.collect()
}

/// FNV-1a with a finish: the same in every build.
fn hash(key: &str, what: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in key.bytes().chain([0]).chain(what.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 33;
    hash.wrapping_mul(0xff51_afd7_ed55_8ccd) >> 16
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// A checker works it out anew: were it not the same each time, it would find what is not there.
    #[test]
    fn an_answer_follows_from_the_key() {
        assert_eq!(words("a"), words("a"));
        assert_ne!(words("a"), words("b"));
        let lengths: BTreeSet<_> = (0..200).map(|n| words(&n.to_string()).len()).collect();
        assert!(lengths.len() > 30, "{lengths:?}");
        assert!(lengths.iter().all(|n| (20..=60).contains(n)), "{lengths:?}");
    }

    /// A model that never fails would show nothing; one that fails for ever would end the demo.
    #[test]
    fn every_trouble_comes_and_passes() {
        let all: Vec<_> = (0..300).flat_map(|n| trouble(&n.to_string(), 1)).collect();
        assert!((20..90).contains(&all.len()), "{}", all.len());
        assert!(all.contains(&Trouble::Error) && all.contains(&Trouble::Busy));
        assert!(all.iter().any(|it| matches!(it, Trouble::Cut(n) if *n > 0)));
        assert!((0..300).all(|n| trouble(&n.to_string(), 4).is_none()));
    }

    #[test]
    fn tools_are_called_when_they_are_asked_for() {
        let question = |messages: Value| -> Question {
            let tools = ["count", "ask_human"].map(|name| json!({ "function": { "name": name } }));
            serde_json::from_value(json!({ "messages": messages, "tools": tools })).expect("one")
        };
        let names = |messages: Value| -> Vec<String> {
            let calls = calls(&question(messages)).into_iter();
            calls.map(|call| call["function"]["name"].as_str().unwrap_or_default().into()).collect()
        };
        let said = |text: &str| json!({ "role": "user", "content": text });
        assert_eq!(names(json!([said("hello")])), [""; 0]);
        assert_eq!(names(json!([said("use count and ask me")])), ["count", "ask_human"]);
        let result = json!({ "role": "tool", "content": "1" });
        assert_eq!(names(json!([said("use count"), result])), [""; 0]);
    }
}
