//! What is said to the model, and what it says: the chat-completions API, without the network.

use crate::conversation::{Call, Entry};
use serde::Deserialize;
use slotd_guest::{Value, json, serde_json};
use std::collections::BTreeMap;

/// Calls that one answer may ask for. More are refused, and the model is told.
pub(crate) const CALLS_MAX: usize = 16;
/// Of an error's text, which a server may make as long as it likes.
const REASON_BYTES_MAX: usize = 500;

/// A message in the API's form.
pub(crate) fn message(entry: &Entry, with_calls: bool) -> Value {
    let mut message = json!({ "role": entry.role, "content": entry.content });
    if with_calls && !entry.calls.is_empty() {
        let calls = entry.calls.iter().map(|call| {
            let function = json!({ "name": call.name, "arguments": call.arguments });
            json!({ "id": call.id, "type": "function", "function": function })
        });
        message["tool_calls"] = calls.collect();
    }
    if let Some(call) = &entry.call {
        message["tool_call_id"] = json!(call);
    }
    message
}

/// A window in the order that models take: the results of calls right behind the message that asks for them, no result
/// without its call, and no call without its result. Either may have left the window, or be pinned alone.
pub(crate) fn messages(system: &str, window: &[Entry]) -> Vec<Value> {
    let mut results: BTreeMap<&str, &Entry> = BTreeMap::new();
    for entry in window {
        results.extend(entry.call.as_deref().map(|call| (call, entry)));
    }
    let mut messages = Vec::new();
    if !system.is_empty() {
        messages.push(json!({ "role": "system", "content": system }));
    }
    for entry in window.iter().filter(|entry| entry.call.is_none()) {
        let found: Option<Vec<_>> =
            entry.calls.iter().map(|call| results.get(call.id.as_str())).collect();
        // Nothing but calls, and those are not shown: then there is nothing to show.
        if found.is_none() && entry.content.is_empty() {
            continue;
        }
        messages.push(message(entry, found.is_some()));
        messages.extend(found.into_iter().flatten().map(|result| message(result, true)));
    }
    messages
}

/// How the model's answer ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Completion {
    pub content: String,
    pub calls: Vec<Call>,
    /// `stop`, `length`, `tool_calls`, ...
    pub finish: Option<String>,
    /// Tokens of question and answer together, if the server counts them.
    pub tokens: Option<u64>,
}

/// Why an answer is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub code: String,
    pub reason: String,
}

impl Problem {
    pub(crate) fn new(code: impl Into<String>, reason: impl Into<String>) -> Self {
        let reason: String = reason.into();
        let end = reason.floor_char_boundary(REASON_BYTES_MAX);
        Self { code: code.into(), reason: reason[..end].to_owned() }
    }
    /// Of an answer with another status than that of success.
    pub(crate) fn of_status(status: u16, body: &str) -> Self {
        let said = serde_json::from_str(body).ok().and_then(|body| error_text(&body));
        Self::new(format!("http-{status}"), said.unwrap_or_else(|| body.to_owned()))
    }
}

fn error_text(body: &Value) -> Option<String> {
    let error = body.get("error")?;
    let text = error.get("message").unwrap_or(error);
    Some(text.as_str().map_or_else(|| text.to_string(), str::to_owned))
}

/// A piece of an answer, or, with `message`, all of it.
#[derive(Default, Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<Value>,
}

#[derive(Default, Deserialize)]
struct Choice {
    #[serde(alias = "message")]
    delta: Option<Delta>,
    finish_reason: Option<String>,
}

#[derive(Default, Deserialize)]
struct Delta {
    content: Option<String>,
    tool_calls: Option<Vec<CallDelta>>,
}

#[derive(Deserialize)]
struct CallDelta {
    /// Which call it belongs to. A whole answer does not say.
    index: Option<u64>,
    id: Option<String>,
    function: Option<FunctionDelta>,
}

#[derive(Deserialize)]
struct FunctionDelta {
    name: Option<String>,
    arguments: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    total_tokens: Option<u64>,
}

/// Reads an answer: server-sent events, or one object from a server that does not stream.
pub(crate) fn completion(body: &str) -> Result<Completion, Problem> {
    let mut completion = Completion::default();
    let mut calls: BTreeMap<u64, Call> = BTreeMap::new();
    let mut is_done = false;
    if body.trim_start().starts_with('{') {
        add(&mut completion, &mut calls, body)?;
        is_done = true;
    } else {
        for data in data(body) {
            if data.trim() == "[DONE]" {
                is_done = true;
                break;
            }
            add(&mut completion, &mut calls, &data)?;
        }
    }
    if !is_done && completion.finish.is_none() {
        return Err(Problem::new("cut-off", "The model's answer has no end."));
    }
    completion.calls = calls.into_values().filter(|call| !call.name.is_empty()).collect();
    Ok(completion)
}

/// The `data` of each event.
fn data(body: &str) -> impl Iterator<Item = String> {
    let mut data: Option<String> = None;
    let lines = body.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    let mut lines = lines.collect::<Vec<_>>().into_iter();
    std::iter::from_fn(move || {
        for line in lines.by_ref() {
            if line.is_empty() {
                if let Some(whole) = data.take() {
                    return Some(whole);
                }
            } else if let Some(more) = line.strip_prefix("data:") {
                let more = more.strip_prefix(' ').unwrap_or(more);
                match &mut data {
                    Some(data) => {
                        data.push('\n');
                        data.push_str(more);
                    }
                    None => data = Some(more.to_owned()),
                }
            }
        }
        None
    })
}

fn add(all: &mut Completion, calls: &mut BTreeMap<u64, Call>, data: &str) -> Result<(), Problem> {
    let chunk: Chunk = serde_json::from_str(data).map_err(|error| {
        Problem::new("bad-answer", format!("The model's answer is not understood: {error}"))
    })?;
    if let Some(error) = chunk.error.filter(|error| !error.is_null()) {
        let text = error_text(&json!({ "error": error })).unwrap_or_default();
        return Err(Problem::new("model-error", text));
    }
    all.tokens = chunk.usage.and_then(|usage| usage.total_tokens).or(all.tokens);
    let Some(Choice { delta, finish_reason }) = chunk.choices.into_iter().next() else {
        return Ok(());
    };
    all.finish = finish_reason.or(all.finish.take());
    let Delta { content, tool_calls } = delta.unwrap_or_default();
    all.content.push_str(&content.unwrap_or_default());
    for (nth, delta) in (0..).zip(tool_calls.unwrap_or_default()) {
        let empty = || Call { id: String::new(), name: String::new(), arguments: String::new() };
        let call = calls.entry(delta.index.unwrap_or(nth)).or_insert_with(empty);
        call.id.push_str(&delta.id.unwrap_or_default());
        if let Some(FunctionDelta { name, arguments }) = delta.function {
            call.name.push_str(&name.unwrap_or_default());
            call.arguments.push_str(&arguments.unwrap_or_default());
        }
    }
    Ok(())
}

/// Calls as the transcript has them: with ids of our own. Those of models are not always there, and not always another one
/// in the next answer.
pub(crate) fn with_ids(mut calls: Vec<Call>, turn: u64, round: u32) -> Vec<Call> {
    for (nth, call) in calls.iter_mut().enumerate() {
        call.id = format!("call-{turn}-{round}-{nth}");
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conversation::Role;

    fn events(data: &[Value]) -> String {
        let events = data.iter().map(|data| format!("data: {data}\n\n"));
        events.collect::<String>() + "data: [DONE]\n\n"
    }

    fn delta(delta: Value) -> Value {
        json!({ "choices": [{ "index": 0, "delta": delta, "finish_reason": null }] })
    }

    fn call(id: &str, name: &str, arguments: &str) -> Call {
        Call { id: id.into(), name: name.into(), arguments: arguments.into() }
    }

    #[test]
    fn an_answer_is_put_together_from_its_pieces() {
        let body = events(&[
            delta(json!({ "role": "assistant", "content": "" })),
            delta(json!({ "content": "Let me " })),
            delta(json!({ "content": "look.\n" })),
            delta(
                json!({ "tool_calls": [{ "index": 0, "id": "a", "type": "function", "function": { "name": "look", "arguments": "" } }] }),
            ),
            delta(
                json!({ "tool_calls": [{ "index": 0, "function": { "arguments": "{\"at\":" } }] }),
            ),
            delta(
                json!({ "tool_calls": [{ "index": 1, "id": "b", "function": { "name": "ask", "arguments": "{}" } }, { "index": 0, "function": { "arguments": "1}" } }] }),
            ),
            json!({ "choices": [{ "delta": {}, "finish_reason": "tool_calls" }] }),
            json!({ "choices": [], "usage": { "prompt_tokens": 7, "total_tokens": 12 } }),
        ]);
        let expected = Completion {
            content: "Let me look.\n".into(),
            calls: vec![call("a", "look", "{\"at\":1}"), call("b", "ask", "{}")],
            finish: Some("tool_calls".into()),
            tokens: Some(12),
        };
        assert_eq!(completion(&body), Ok(expected.clone()));
        let other_form = ": hello\n\nevent: x\nid: 1\n".to_owned() + &body.replace('\n', "\r\n");
        assert_eq!(completion(&other_form), Ok(expected));
    }

    /// A server that ignores `stream`.
    #[test]
    fn an_answer_that_was_not_streamed_is_one() {
        let call = |id: &str| json!({ "id": id, "type": "function", "function": { "name": "look", "arguments": "{}" } });
        let body = json!({
            "choices": [{ "message": { "role": "assistant", "content": null, "tool_calls": [call("a"), call("b")] }, "finish_reason": "stop" }],
            "usage": { "total_tokens": 5 },
        });
        let read = completion(&body.to_string()).unwrap();
        assert_eq!((read.calls.len(), read.content.as_str(), read.tokens), (2, "", Some(5)));
    }

    /// What was cut off taken for whole would put half a sentence into the transcript for good.
    #[test]
    fn what_is_no_answer_is_said_so() {
        let code = |body: &str| completion(body).unwrap_err().code;
        assert_eq!(code(""), "cut-off");
        assert_eq!(code(&format!("data: {}\n\n", delta(json!({ "content": "half" })))), "cut-off");
        assert_eq!(code("data: {\n\n"), "bad-answer");
        assert_eq!(
            code(&events(&[json!({ "error": { "message": "overloaded" } })])),
            "model-error"
        );
        let problem = Problem::of_status(401, "{\"error\":{\"message\":\"no such key\"}}");
        assert_eq!(problem, Problem { code: "http-401".into(), reason: "no such key".into() });
        assert_eq!(Problem::of_status(502, "<html>").reason, "<html>");
        assert_eq!(Problem::new("x", "ü".repeat(1_000)).reason.len(), 500);
    }

    /// Models refuse a result without its call, and a call without its result: the session could never ask again.
    #[test]
    fn calls_and_results_are_given_in_pairs() {
        let entry = |role, content: &str| Entry::new(role, content, 0);
        let asks = |ids: &[&str], content: &str| {
            let calls = ids.iter().map(|id| call(id, "look", "{}")).collect();
            Entry { calls, ..entry(Role::Assistant, content) }
        };
        let result = |id: &str| Entry { call: Some(id.into()), ..entry(Role::Tool, id) };
        let shape = |window: &[Entry]| -> Vec<String> {
            let messages = messages("", window);
            let shape = messages.iter().map(|it| {
                let calls = it["tool_calls"].as_array().map_or(0, Vec::len);
                format!(
                    "{}:{}:{calls}",
                    it["role"].as_str().unwrap(),
                    it["content"].as_str().unwrap()
                )
            });
            shape.collect()
        };
        let user = entry(Role::User, "and?");
        let whole = [asks(&["a", "b"], ""), result("b"), user.clone(), result("a")];
        assert_eq!(shape(&whole), ["assistant::2", "tool:a:0", "tool:b:0", "user:and?:0"]);
        assert_eq!(shape(&whole[1..]), ["user:and?:0"]);
        assert_eq!(shape(&whole[..3]), ["user:and?:0"]);
        assert_eq!(shape(&[asks(&["a"], "I look."), user]), ["assistant:I look.:0", "user:and?:0"]);
        // The application's own, as version 1 had them: it knows what it does.
        assert_eq!(shape(&[entry(Role::Tool, "sunny")]), ["tool:sunny:0"]);
    }
}
