//! Reads what sessions of `plugins/context-window` show, and accounts for each token of the model server's.

use crate::{
    api::{Api, Event},
    model_server::plan,
    requests::RESTARTED,
    sse::{Sse, SseEvent},
};
use anyhow::{Context, ensure};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::AddAssign,
};

/// What a reader has seen of the answer to one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The request's idempotency key, which the model server's answer names.
    pub key: Option<String>,
    /// The words since the request was last made again.
    pub words: Vec<String>,
    /// Words that were void, since the request was made again.
    pub void: u64,
    pub restarts: u64,
    /// It came to its end.
    pub is_whole: bool,
}

/// All that one reader of a session has seen, from its events alone, as the page in `examples/agent` reads them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reader {
    /// By request, as the agent names it.
    pub answers: BTreeMap<String, Answer>,
    current: String,
    /// The places of all events, in the order in which they came.
    pub places: Vec<(u64, u32)>,
    pub calls: u64,
    pub results: u64,
    pub questions: u64,
    pub answered: u64,
    pub failed: Vec<String>,
    /// The last event's id.
    pub last_id: Option<String>,
}

/// What an event was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Words of the model's.
    Words,
    /// The call that somebody has to answer.
    Question(String),
    /// The turn has ended: with an answer or not.
    Ended(bool),
    Other,
}

impl Reader {
    /// # Errors
    /// When the event is none that an agent's session has.
    pub fn take(&mut self, event: &SseEvent) -> anyhow::Result<Seen> {
        // Without an id it is none of the history: slotd says why the stream ends.
        let Some(id) = &event.id else { return Ok(Seen::Other) };
        let event: Event = event.json()?;
        self.last_id = Some(id.clone());
        self.places.push((event.seq, event.index));
        let body = event.body.unwrap_or_default();
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        match event.kind.as_str() {
            "thinking" => {
                self.current = text("request");
                self.answers.entry(self.current.clone()).or_default();
            }
            "delta" => return self.delta(body.as_str().context("a delta that is no text")?),
            RESTARTED => {
                let answer = self.answers.entry(text("id")).or_default();
                answer.void += answer.words.len() as u64;
                answer.restarts += 1;
                answer.words.clear();
            }
            "appended" if body["request"].is_string() => {
                self.answers.entry(text("request")).or_default().is_whole = true;
            }
            "appended" if body["role"] == "tool" => self.results += 1,
            "calling" => self.calls += 1,
            "question" => {
                self.questions += 1;
                return Ok(Seen::Question(text("call")));
            }
            "answered" => {
                self.answered += 1;
                return Ok(Seen::Ended(true));
            }
            "failed" => {
                self.failed.push(format!("{}: {}", text("code"), text("reason")));
                return Ok(Seen::Ended(false));
            }
            _ => {}
        }
        Ok(Seen::Other)
    }

    fn delta(&mut self, data: &str) -> anyhow::Result<Seen> {
        if data == "[DONE]" {
            return Ok(Seen::Other);
        }
        let chunk: Value = serde_json::from_str(data)?;
        let answer = self.answers.entry(self.current.clone()).or_default();
        let key = chunk["id"].as_str().and_then(|id| id.strip_prefix("chatcmpl-"));
        let key = key.context("a chunk without the request's key")?;
        ensure!(answer.key.as_deref().is_none_or(|known| known == key), "two keys of one request");
        answer.key = Some(key.to_owned());
        match chunk["choices"][0]["delta"]["content"].as_str() {
            Some(word) if !word.is_empty() => {
                answer.words.push(word.to_owned());
                Ok(Seen::Words)
            }
            _ => Ok(Seen::Other),
        }
    }

    /// What of the model's answers was shown, and how.
    pub fn tokens(&self) -> Tokens {
        let mut all = Tokens::default();
        for answer in self.answers.values().filter(|answer| answer.is_whole) {
            let expected = answer.key.as_deref().map(plan::words).unwrap_or_default();
            all += Tokens::of(&expected, &answer.words);
            all.void += answer.void;
            all.restarts += answer.restarts;
        }
        // An event that comes twice, or before its time, is one of these whatever it shows.
        let mut seen = BTreeSet::new();
        let mut last = (0, 0);
        for place in &self.places {
            if !seen.insert(*place) {
                all.doubled += 1;
            } else if *place < last {
                all.out_of_order += 1;
            }
            last = last.max(*place);
        }
        all
    }

    /// Reads a session anew, from its beginning to the event with this id: as a page does that is loaded again.
    ///
    /// # Errors
    /// When it can't be read, or ends before.
    pub async fn again(
        api: &Api,
        service: &str,
        session: &str,
        until: &str,
    ) -> anyhow::Result<Self> {
        let mut reader = Self::default();
        let mut events: Sse = api.events(service, session, Some(0), None).await?;
        while reader.last_id.as_deref() != Some(until) {
            let event = events.next().await?.context("the stream ended before its last event")?;
            reader.take(&event)?;
        }
        Ok(reader)
    }
}

/// How words were shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Those that stand.
    pub shown: u64,
    pub lost: u64,
    pub doubled: u64,
    pub out_of_order: u64,
    /// Nobody has said them.
    pub strange: u64,
    /// Shown, and then void.
    pub void: u64,
    pub restarts: u64,
}

impl Tokens {
    /// Compares words, each of which is there once, with what was shown.
    pub fn of(expected: &[String], shown: &[String]) -> Self {
        let places: BTreeMap<&String, usize> = expected.iter().zip(0..).collect();
        let mut tokens = Self::default();
        let mut seen = BTreeSet::new();
        let mut last = 0;
        for word in shown {
            let Some(place) = places.get(word) else {
                tokens.strange += 1;
                continue;
            };
            if !seen.insert(*place) {
                tokens.doubled += 1;
                continue;
            }
            if *place < last {
                tokens.out_of_order += 1;
            }
            last = last.max(*place);
        }
        tokens.shown = seen.len() as u64;
        tokens.lost = (expected.len() - seen.len()) as u64;
        tokens
    }

    /// Whether each was shown once, and in order.
    pub fn good(&self) -> bool {
        self.lost + self.doubled + self.out_of_order + self.strange == 0
    }
}

impl AddAssign for Tokens {
    fn add_assign(&mut self, other: Self) {
        self.shown += other.shown;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.out_of_order += other.out_of_order;
        self.strange += other.strange;
        self.void += other.void;
        self.restarts += other.restarts;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// An account that can't find a fault would say 0 of everything.
    #[test]
    fn each_fault_is_counted() {
        let of = |shown: &str| {
            let tokens = Tokens::of(&words("a b c d"), &words(shown));
            let Tokens { shown, lost, doubled, out_of_order, strange, .. } = tokens;
            assert_eq!(tokens.good(), lost + doubled + out_of_order + strange == 0);
            [shown, lost, doubled, out_of_order, strange]
        };
        assert_eq!(of("a b c d"), [4, 0, 0, 0, 0]);
        assert_eq!(of("a b d"), [3, 1, 0, 0, 0]);
        assert_eq!(of("a b b c d"), [4, 0, 1, 0, 0]);
        assert_eq!(of("a c b d"), [4, 0, 0, 1, 0]);
        assert_eq!(of("a b x c d"), [4, 0, 0, 0, 1]);
        assert_eq!(of(""), [0, 4, 0, 0, 0]);
    }

    fn event(seq: u64, kind: &str, body: Value) -> SseEvent {
        let data = json!({ "seq": seq, "index": 0, "kind": kind, "time_ms": 1, "content_type": "", "body": body });
        let id = Some(format!("{seq}.0-1"));
        SseEvent { id, event: Some(kind.into()), data: data.to_string() }
    }

    fn delta(seq: u64, word: &str) -> SseEvent {
        let chunk = json!({ "id": "chatcmpl-k", "choices": [{ "delta": { "content": word } }] });
        event(seq, "delta", json!(chunk.to_string()))
    }

    /// What is void would be doubled, and an event that comes twice would hide in what follows.
    #[test]
    fn what_was_shown_before_a_restart_is_void() {
        let words = plan::words("k");
        let mut reader = Reader::default();
        let mut seq = 0;
        let mut take = |reader: &mut Reader, make: &dyn Fn(u64) -> SseEvent| {
            seq += 1;
            reader.take(&make(seq)).expect("an event")
        };
        take(&mut reader, &|seq| event(seq, "thinking", json!({ "request": "turn/1/1" })));
        for word in &words[..5] {
            assert_eq!(take(&mut reader, &|seq| delta(seq, word)), Seen::Words);
        }
        take(&mut reader, &|seq| event(seq, RESTARTED, json!({ "id": "turn/1/1", "attempt": 2 })));
        for word in &words {
            take(&mut reader, &|seq| delta(seq, word));
        }
        take(&mut reader, &|seq| {
            event(seq, "appended", json!({ "role": "assistant", "request": "turn/1/1" }))
        });
        let ended = take(&mut reader, &|seq| event(seq, "answered", json!({})));
        assert_eq!(ended, Seen::Ended(true));
        let expected =
            Tokens { shown: words.len() as u64, void: 5, restarts: 1, ..Tokens::default() };
        assert_eq!(reader.tokens(), expected);
        let mut twice = reader.clone();
        twice.take(&event(3, "left", json!({}))).expect("an event");
        assert_eq!(twice.tokens().doubled, 1);
    }
}
