//! What is left out of a capture. Values keep their kinds, so that a handler still reads what is left: a text becomes
//! `redacted-1`, the same text the same, a number 0.

use super::{content::Content, form::Capture};
use crate::{limits, script::Place};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;
use std::{collections::HashMap, fmt, str::FromStr};

/// Something that is left out: `$.card` of all that is JSON, `state.$.card` of the state's values, `$..card` wherever it
/// is, `message` as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redaction {
    text: String,
    /// `None`: of the message, the state and the effects.
    part: Option<Part>,
    /// `None`: all of the part.
    path: Option<Path>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The body of the message.
    Message,
    /// The values of the state.
    State,
    /// The bodies of timers, requests and answers.
    Effects,
    Sender,
    /// The idempotency key.
    Id,
    Client,
}

const PARTS: [(&str, Part); 6] = [
    ("message", Part::Message),
    ("state", Part::State),
    ("effects", Part::Effects),
    ("sender", Part::Sender),
    ("id", Part::Id),
    ("client", Part::Client),
];

#[derive(Clone, Debug, PartialEq, Eq)]
struct Path {
    /// At any depth.
    is_deep: bool,
    place: Place,
}

impl FromStr for Redaction {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!(
                "{text:?} is nothing that can be redacted: {why}; examples are \"$.card\", \
                 \"$..card\", \"state.$.card\" and \"sender\""
            )
        };
        if text.len() > limits::CAPTURE_REDACTION_BYTES_MAX {
            let most = limits::CAPTURE_REDACTION_BYTES_MAX;
            return Err(format!("what is redacted is said in {most} bytes at most"));
        }
        let (part, path) = match text.find('$') {
            None => (Some(text), None),
            Some(0) => (None, Some(text)),
            Some(at) => {
                let part = text[..at].strip_suffix('.').ok_or_else(|| wrong("a . is missing"))?;
                (Some(part), Some(&text[at..]))
            }
        };
        let part = match part {
            None => None,
            Some(name) => {
                let known = PARTS.iter().find(|(known, _)| *known == name);
                let known = known.ok_or_else(|| {
                    wrong("it begins with $, message, state, effects, sender, id or client")
                })?;
                Some(known.1)
            }
        };
        if path.is_some() && matches!(part, Some(Part::Sender | Part::Id | Part::Client)) {
            return Err(wrong("sender, id and client are redacted as a whole"));
        }
        let path = match path {
            None => None,
            Some(path) => {
                let deep = path.strip_prefix("$..");
                let place: Place = match deep {
                    Some(rest) if rest.starts_with('[') => format!("${rest}").parse()?,
                    Some(rest) => format!("$.{rest}").parse()?,
                    None => path.parse()?,
                };
                if place.is_sum() {
                    return Err(wrong("it is a sum"));
                }
                Some(Path { is_deep: deep.is_some(), place })
            }
        };
        Ok(Self { text: text.to_owned(), part, path })
    }
}

impl fmt::Display for Redaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Redaction {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Redacts what the handler is given. What came out has to be made anew.
pub fn redact(capture: &mut Capture, all: &[Redaction]) {
    let mut names = Names::default();
    for redaction in all {
        redaction.apply(capture, &mut names);
    }
    if !all.is_empty() {
        leave_words_out(capture);
    }
    capture.redacted = all.iter().map(ToString::to_string).collect();
}

/// What handlers and servers have said is free text: anything may be in it.
fn leave_words_out(capture: &mut Capture) {
    let before = &mut capture.before;
    let timers = before.timers.iter_mut().map(|it| &mut it.reason);
    let requests = before.requests.iter_mut().map(|it| &mut it.reason);
    let tried = before.answers.iter_mut().flat_map(|it| [&mut it.reason, &mut it.http.reason]);
    let origin = capture.message.origin.iter_mut().flat_map(|origin| {
        let answer = origin.answer.as_mut().and_then(|it| it.refusal.as_mut());
        let http = origin.http.as_mut().map(|it| &mut it.reason);
        answer.map(|it| &mut it.message).into_iter().chain(http)
    });
    let all = timers.chain(requests).chain(tried).chain(origin);
    for words in all.filter(|words| !words.is_empty()) {
        WORDS.clone_into(words);
    }
}

/// In the place of such a text.
const WORDS: &str = "redacted";

/// The names that texts get: so it is still seen which were the same.
#[derive(Default)]
struct Names(HashMap<String, usize>);

impl Names {
    fn of(&mut self, text: &str) -> String {
        let next = self.0.len() + 1;
        let n = *self.0.entry(text.to_owned()).or_insert(next);
        format!("redacted-{n}")
    }

    fn redact(&mut self, value: &mut Value) {
        match value {
            Value::Null => {}
            Value::Bool(it) => *it = false,
            Value::Number(it) => *it = 0.into(),
            Value::String(it) => *it = self.of(it),
            Value::Array(all) => all.iter_mut().for_each(|each| self.redact(each)),
            Value::Object(all) => all.values_mut().for_each(|each| self.redact(each)),
        }
    }
}

impl Redaction {
    fn apply(&self, capture: &mut Capture, names: &mut Names) {
        let is_of = |part: Part| self.part.is_none_or(|of| of == part);
        let (message, before) = (&mut capture.message, &mut capture.before);
        if is_of(Part::Message) {
            self.content(&mut message.body, names);
        }
        if is_of(Part::State) {
            match &self.path {
                None => before.state.clear(),
                Some(_) => before.state.values_mut().for_each(|it| self.content(it, names)),
            }
        }
        if is_of(Part::Effects) {
            before.timers.iter_mut().for_each(|it| self.content(&mut it.body, names));
            before.requests.iter_mut().for_each(|it| self.content(&mut it.body, names));
            before.answers.iter_mut().for_each(|it| self.content(&mut it.body, names));
        }
        match self.part {
            Some(Part::Sender) => {
                message.sender = message.sender.take().map(|it| names.of(&it));
            }
            Some(Part::Id) => message.id = message.id.take().map(|it| names.of(&it)),
            Some(Part::Client) => {
                let client = message.origin.as_mut().and_then(|origin| origin.client.as_mut());
                if let Some(client) = client {
                    client.subject = client.subject.take().map(|it| names.of(&it));
                    client.claims.values_mut().for_each(|it| *it = names.of(it));
                }
            }
            None | Some(Part::Message | Part::State | Part::Effects) => {}
        }
    }

    fn content(&self, content: &mut Content, names: &mut Names) {
        let Some(Path { is_deep, place }) = &self.path else {
            *content = Content::of(b"");
            return;
        };
        let Ok(bytes) = content.bytes() else { return };
        let mut value: Value = match serde_json::from_slice(&bytes) {
            Ok(value) => value,
            // Deeper than it is looked at: nobody knows what is in it.
            Err(_) if matches!(content, Content::Json(_)) => {
                *content = Content::of(b"null");
                return;
            }
            Err(_) => return,
        };
        if *is_deep {
            deep(place, &mut value, names);
        } else {
            place.change(&mut value, &mut |found| names.redact(found));
        }
        // Also if nothing was found: a member that is there twice is looked at once, and its other value goes with this.
        *content = Content::of(value.to_string().as_bytes());
    }
}

fn deep(place: &Place, value: &mut Value, names: &mut Names) {
    place.change(value, &mut |found| names.redact(found));
    match value {
        Value::Array(all) => all.iter_mut().for_each(|each| deep(place, each, names)),
        Value::Object(all) => all.values_mut().for_each(|each| deep(place, each, names)),
        _ => {}
    }
}
