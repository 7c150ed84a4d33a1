//! Whether requests over HTTP kept their word: each that was acknowledged has one answer that was handled once; its
//! attempts have one idempotency key that no other request has; and what was shown of an answer while it came is in
//! order, without a gap or a repeat, and says where it begins again.

use crate::{
    api::{Api, Entry, Message, Reply},
    node::eventually,
    outside::{Attempt, token},
};
use anyhow::ensure;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Of an event that says that what was shown before is void.
pub const RESTARTED: &str = "slotd.restarted";
/// Of the events of streams.
pub const TOKEN: &str = "token";
/// Says to the server whose request an attempt is of.
const LABEL: &str = "x-label";

/// A request that a message asked for, acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub session: String,
    pub id: String,
    /// The message that asked.
    pub seq: u64,
    /// Its answer is shown while it comes, and is of so many tokens.
    pub tokens: Option<u64>,
    /// Its answer may be another status than 200, or none.
    pub may_fail: bool,
}

impl Asked {
    fn label(&self) -> String {
        format!("{}.{}.{}", self.session, self.id, self.seq)
    }
}

/// How a session of the plugin `kitchen-sink` is to ask.
#[derive(Clone, Debug)]
pub struct Request {
    pub id: String,
    pub url: String,
    pub options: Value,
    pub tokens: Option<u64>,
    pub may_fail: bool,
}

impl Request {
    pub fn get(id: impl Into<String>, url: impl Into<String>) -> Self {
        let (id, url, options) = (id.into(), url.into(), json!({}));
        Self { id, url, options, tokens: None, may_fail: false }
    }

    /// Its answer may be another status than 200, or none.
    #[must_use]
    pub fn that_may_fail(self) -> Self {
        Self { may_fail: true, ..self }
    }

    /// One whose answer is a stream of so many tokens, shown while it comes.
    pub fn stream(id: impl Into<String>, url: impl Into<String>, tokens: u64) -> Self {
        let form = json!({"joined": "choices.0.delta.content"});
        let options = json!({"stream": {"kind": TOKEN, "form": form}});
        Self { options, tokens: Some(tokens), ..Self::get(id, url) }
    }

    #[must_use]
    pub fn with(mut self, option: &str, value: impl Into<Value>) -> Self {
        self.options[option] = value.into();
        self
    }

    /// The message that has it made. The server is told the label.
    pub fn message(&self, label: &str) -> Message {
        Message::json(&json!({
            "op": "request",
            "id": self.id,
            "method": "POST",
            "url": self.url,
            "headers": [["content-type", "application/json"], [LABEL, label]],
            "body": "{}",
            "options": self.options,
        }))
    }
}

/// Has a session ask; tries until that is acknowledged. A session uses each id once.
///
/// # Errors
/// When it is not.
pub async fn ask(
    api: &Api,
    service: &str,
    session: &str,
    request: &Request,
) -> anyhow::Result<Asked> {
    let message = message(session, request);
    let reply = eventually("a message that asks is acknowledged", async || {
        Ok(api.send(service, session, message.clone()).await.ok())
    })
    .await?;
    asked(session, request, &reply)
}

/// What has a session ask, once however often it comes.
pub fn message(session: &str, request: &Request) -> Message {
    let label = format!("{session}.{}", request.id);
    request.message(&label).key(format!("ask-{label}"))
}

/// What was asked for, by the reply.
///
/// # Errors
/// When the request was not made.
pub fn asked(session: &str, request: &Request, reply: &Reply) -> anyhow::Result<Asked> {
    let problem = reply.json()?;
    ensure!(problem.is_null(), "{session}: {} was not made: {problem}", request.id);
    let (session, id, tokens) = (session.to_owned(), request.id.clone(), request.tokens);
    Ok(Asked { session, id, seq: reply.seq, tokens, may_fail: request.may_fail })
}

/// Waits until all are answered, and checks all of it.
///
/// # Errors
/// When something is lost, or wrong.
pub async fn all_answered(
    api: &Api,
    service: &str,
    asked: &[Asked],
    attempts: impl Fn() -> Vec<Attempt>,
) -> anyhow::Result<()> {
    let sessions: BTreeSet<&str> = asked.iter().map(|it| &*it.session).collect();
    eventually("all requests are answered", async || {
        let mut histories = BTreeMap::new();
        for session in &sessions {
            histories.insert(*session, api.whole_history(service, session).await?);
        }
        let wrong = check(&histories, asked, &attempts()).into_iter();
        // What is late may still come; what is wrong stays so.
        let (late, wrong): (Vec<_>, Vec<_>) = wrong.partition(|it| it.contains("has not come"));
        ensure!(wrong.is_empty(), "{wrong:#?}");
        Ok(late.is_empty().then_some(()))
    })
    .await
}

/// What is wrong with the whole histories of sessions, given all that they have asked for and what the server has seen.
pub fn check(
    histories: &BTreeMap<&str, Vec<Entry>>,
    asked: &[Asked],
    attempts: &[Attempt],
) -> Vec<String> {
    let mut wrong = Vec::new();
    let none = Vec::new();
    for one in asked {
        let history = histories.get(&*one.session).unwrap_or(&none);
        of_one(one, history, &mut wrong);
    }
    for (session, history) in histories {
        for entry in history {
            let of = match (&entry.http, &entry.part) {
                (Some(http), _) => Some((&http.id, http.asked_by)),
                (None, Some(part)) => Some((&part.id, part.asked_by)),
                (None, None) => None,
            };
            let Some((id, seq)) = of else { continue };
            let is_its = |it: &&Asked| it.session == *session && it.id == *id && it.seq == seq;
            if !asked.iter().any(|it| is_its(&it)) {
                wrong.push(format!("{session}: {} is of {id}, which nobody asked for", entry.seq));
            }
        }
    }
    keys(histories, asked, attempts, &mut wrong);
    wrong
}

fn of_one(one: &Asked, history: &[Entry], wrong: &mut Vec<String>) {
    let what = one.label();
    let answers = history.iter().filter(|entry| {
        entry.http.as_ref().is_some_and(|it| it.id == one.id && it.asked_by == one.seq)
    });
    let answers: Vec<_> = answers.collect();
    let answer = match answers.as_slice() {
        [] => None,
        [answer] => Some(*answer),
        [answer, ..] => {
            wrong.push(format!("{what}: its answer was handled {} times", answers.len()));
            Some(*answer)
        }
    };
    if answer.is_none() {
        wrong.push(format!("{what}: its answer has not come"));
    }
    let parts = history.iter().filter(|entry| {
        entry.part.as_ref().is_some_and(|it| it.id == one.id && it.asked_by == one.seq)
    });
    let mut shown = Shown::default();
    for part in parts {
        if answer.is_some_and(|answer| answer.seq < part.seq) {
            wrong.push(format!("{what}: something was shown after its answer"));
        }
        shown.add(&what, part, wrong);
    }
    let came = answer.and_then(|answer| answer.http.as_ref());
    let is_whole = came.is_some_and(|it| it.failure.is_none() && it.status == Some(200));
    if let Some(it) = came
        && !is_whole
        && !one.may_fail
    {
        wrong.push(format!("{what}: {:?} {:?}", it.status, it.failure));
    }
    let Some(tokens) = one.tokens else {
        if shown.is_any {
            wrong.push(format!("{what}: something was shown, and nothing is to be"));
        }
        return;
    };
    let Some(answer) = answer else { return };
    if !is_whole {
        return;
    }
    let whole = (1..=tokens).map(token).collect::<String>();
    let body = answer.body.as_ref().and_then(Value::as_str).unwrap_or_default();
    if shown.text != whole {
        wrong.push(format!("{what}: of {tokens} tokens, {:?} was shown at last", shown.text));
    }
    if body != whole {
        wrong.push(format!("{what}: the whole answer is {body:?}"));
    }
}

/// What was shown of an answer, since it began or began again.
#[derive(Default)]
struct Shown {
    is_any: bool,
    attempt: u32,
    text: String,
}

impl Shown {
    fn add(&mut self, what: &str, entry: &Entry, wrong: &mut Vec<String>) {
        let Some(part) = &entry.part else { return };
        let begins_again = entry.events.first().is_some_and(|event| event.kind == RESTARTED);
        if self.is_any && part.attempt < self.attempt {
            wrong.push(format!("{what}: attempt {} after {}", part.attempt, self.attempt));
        }
        if self.is_any && part.attempt > self.attempt && !begins_again {
            wrong.push(format!("{what}: attempt {} begins without a word", part.attempt));
        }
        if begins_again && !self.is_any {
            wrong.push(format!("{what}: it begins again, and nothing was shown"));
        }
        (self.is_any, self.attempt) = (true, part.attempt);
        for (index, event) in entry.events.iter().enumerate() {
            if event.kind == RESTARTED {
                let said = event.body.clone().unwrap_or_default();
                if index > 0 || said != json!({"id": part.id, "attempt": part.attempt}) {
                    wrong.push(format!("{what}: it begins again with {said} as event {index}"));
                }
                self.text.clear();
                continue;
            }
            self.text += event.body.as_ref().and_then(Value::as_str).unwrap_or_default();
        }
        let is_only_a_word = begins_again && entry.events.len() == 1;
        if !starts(&self.text) || self.text.is_empty() && !is_only_a_word {
            wrong.push(format!("{what}: {:?} was shown, with a gap or a repeat", self.text));
        }
    }
}

/// Whether the tokens, from the first one on, begin so. The last one may be cut.
fn starts(text: &str) -> bool {
    let mut rest = text;
    for number in 1.. {
        let token = token(number);
        match rest.strip_prefix(&*token) {
            Some(after) => rest = after,
            None => return token.starts_with(rest),
        }
    }
    false
}

/// What the server has seen: a key is of one request, and a request has one key.
fn keys(
    histories: &BTreeMap<&str, Vec<Entry>>,
    asked: &[Asked],
    attempts: &[Attempt],
    wrong: &mut Vec<String>,
) {
    let mut keys: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut labels: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for attempt in attempts {
        let label = attempt.headers.get(LABEL).map(String::as_str).unwrap_or_default();
        if attempt.key.is_empty() {
            wrong.push(format!("{label}: an attempt has no idempotency key"));
        }
        keys.entry(label).or_default().insert(&attempt.key);
        labels.entry(&attempt.key).or_default().insert(label);
    }
    for (key, labels) in labels.iter().filter(|(_, labels)| labels.len() > 1) {
        wrong.push(format!("the key {key:?} is of several requests: {labels:?}"));
    }
    for (label, keys) in &keys {
        let known = asked.iter().find(|it| format!("{}.{}", it.session, it.id) == *label);
        let Some(one) = known else {
            wrong.push(format!("{label}: the server was asked, and nobody asked for it"));
            continue;
        };
        if keys.len() > 1 {
            wrong.push(format!("{}: its attempts have {} keys", one.label(), keys.len()));
        }
    }
    for one in asked {
        let history = histories.get(&*one.session).into_iter().flatten();
        let mut answers = history.filter_map(|entry| entry.http.as_ref());
        let is_answered =
            answers.any(|it| it.id == one.id && it.asked_by == one.seq && it.status.is_some());
        if is_answered && !keys.contains_key(&*format!("{}.{}", one.session, one.id)) {
            wrong.push(format!("{}: it is answered, and the server was not asked", one.label()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Event, HttpAnswered, HttpPart};

    fn entry(seq: u64) -> Entry {
        Entry { seq, time_ms: seq, ..Entry::default() }
    }

    fn answer(seq: u64, id: &str, asked_by: u64, body: &str) -> Entry {
        let http = HttpAnswered {
            id: id.into(),
            asked_by,
            status: Some(200),
            failure: None,
            reason: None,
            attempts: 1,
            attempt: 1,
        };
        Entry { http: Some(http), body: Some(body.into()), ..entry(seq) }
    }

    fn part(seq: u64, attempt: u32, events: &[(&str, Value)]) -> Entry {
        let event = |(index, (kind, body)): (usize, &(&str, Value))| Event {
            seq,
            index: index as u32,
            kind: (*kind).to_owned(),
            time_ms: seq,
            content_type: String::new(),
            body: Some(body.clone()),
            body_base64: None,
        };
        let events = events.iter().enumerate().map(event).collect();
        let part = HttpPart { id: "llm".into(), asked_by: 2, attempt };
        Entry { part: Some(part), events, ..entry(seq) }
    }

    fn restarted(attempt: u32) -> (&'static str, Value) {
        (RESTARTED, json!({"id": "llm", "attempt": attempt}))
    }

    fn attempt(label: &str, key: &str) -> Attempt {
        Attempt {
            method: "POST".into(),
            path: "/".into(),
            key: key.into(),
            headers: BTreeMap::from([(LABEL.to_owned(), label.to_owned())]),
            body: bytes::Bytes::new(),
        }
    }

    /// A request with an answer, and a stream that began again.
    fn history() -> Vec<Entry> {
        vec![
            entry(1),
            entry(2),
            part(3, 1, &[(TOKEN, "t1 ".into()), (TOKEN, "t2".into())]),
            answer(4, "plain", 1, "x"),
            part(5, 2, &[restarted(2), (TOKEN, "t1 t".into())]),
            part(6, 2, &[(TOKEN, "2 t3 ".into())]),
            answer(7, "llm", 2, "t1 t2 t3 "),
        ]
    }

    fn checked(history: Vec<Entry>, attempts: &[Attempt]) -> Vec<String> {
        let asked = [("plain", 1, None), ("llm", 2, Some(3))].map(|(id, seq, tokens)| Asked {
            session: "s".into(),
            id: id.into(),
            seq,
            tokens,
            may_fail: false,
        });
        check(&BTreeMap::from([("s", history)]), &asked, attempts)
    }

    fn attempts() -> Vec<Attempt> {
        vec![attempt("s.plain", "k1"), attempt("s.llm", "k2"), attempt("s.llm", "k2")]
    }

    /// A check that finds nothing proves nothing.
    #[test]
    fn what_is_lost_doubled_shown_wrongly_or_made_up_is_found() {
        assert_eq!(checked(history(), &attempts()), Vec::<String>::new());
        let finds = |change: &dyn Fn(&mut Vec<Entry>), what: &str| {
            let mut history = history();
            change(&mut history);
            let wrong = checked(history, &attempts());
            assert!(wrong.iter().any(|it| it.contains(what)), "{what}: {wrong:?}");
        };
        finds(&|all| drop(all.remove(3)), "s.plain.1: its answer has not come");
        finds(&|all| all[3].http.as_mut().unwrap().status = Some(503), "s.plain.1: Some(503)");
        finds(&|all| all.push(answer(8, "plain", 1, "x")), "was handled 2 times");
        finds(&|all| all.push(answer(8, "other", 1, "x")), "which nobody asked for");
        finds(&|all| all.push(answer(8, "llm", 1, "x")), "which nobody asked for");
        finds(&|all| all[2].part.as_mut().unwrap().asked_by = 1, "which nobody asked for");
        // A gap, a repeat, an end that is missing.
        finds(&|all| drop(all[2].events.remove(0)), "with a gap or a repeat");
        finds(&|all| all.insert(6, all[5].clone()), "with a gap or a repeat");
        finds(&|all| drop(all.remove(5)), "was shown at last");
        finds(&|all| all[6].body = Some("t1 ".into()), "the whole answer is");
        // A new beginning that nobody is told of, or that is none.
        finds(&|all| drop(all[4].events.remove(0)), "begins without a word");
        finds(&|all| all[4].events[0].body = Some(json!({"id": "x"})), "it begins again with");
        let begins = |all: &mut Vec<Entry>| {
            let word = all[4].events[0].clone();
            all[2].events.insert(0, word);
        };
        finds(&begins, "nothing was shown");
        finds(&|all| all[5].part.as_mut().unwrap().attempt = 1, "attempt 1 after 2");
        finds(&|all| all.push(part(8, 2, &[(TOKEN, "t4 ".into())])), "after its answer");

        let finds = |attempts: &[Attempt], what: &str| {
            let wrong = checked(history(), attempts);
            assert!(wrong.iter().any(|it| it.contains(what)), "{what}: {wrong:?}");
        };
        let with = |further: Attempt| [attempts(), vec![further]].concat();
        finds(&with(attempt("s.llm", "k3")), "its attempts have 2 keys");
        finds(&with(attempt("s.llm", "k1")), "is of several requests");
        finds(&with(attempt("s.llm", "")), "no idempotency key");
        finds(&with(attempt("s.other", "k4")), "nobody asked for it");
        finds(&attempts()[1..], "the server was not asked");
    }
}
