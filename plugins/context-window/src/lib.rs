//! An agent: a conversation with a language model, kept within the model's budget, that asks the model, has tools called
//! and asks people. `README.md` says how to use it.

mod agent;
mod conversation;
mod model;
#[cfg(test)]
mod tests;
mod tokens;

use agent::{Change, Run};
use conversation::{BUDGET_MAX, Conversation, Entry, Role, SYSTEM_BYTES_MAX, json_bytes};
use serde::{Deserialize, Deserializer, Serialize};
use slotd_guest::{
    Answer, Context, Error, Handler, MigrateContext, Origin, QueryContext, Rejection, Value, http,
    json,
};
use std::borrow::Cow;

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
enum Message {
    Configure {
        #[serde(skip_serializing_if = "Option::is_none")]
        budget: Option<u64>,
        #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
        last: Option<Option<u64>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        system: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        system_tokens: Option<u64>,
        #[serde(flatten)]
        agent: Box<Change>,
    },
    Append {
        role: Role,
        content: String,
        tokens: Option<u64>,
        #[serde(default)]
        pin: bool,
        #[serde(default = "yes")]
        window: bool,
    },
    Pin {
        id: u64,
    },
    Unpin {
        id: u64,
    },

    /// Has the model asked.
    Ask {
        content: String,
        tokens: Option<u64>,
    },
    /// Answers a question of the agent's.
    Answer {
        call: String,
        content: String,
    },
    Cancel,
    Retry,
    Close,

    /// Of a timer: nobody has answered.
    Unanswered {
        call: String,
    },
}

#[derive(Debug, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
enum Query {
    Window {
        budget: Option<u64>,
    },
    Messages {
        #[serde(default)]
        after: u64,
        #[serde(default = "page")]
        limit: u64,
    },
    Stats,
    Agent,
}

fn yes() -> bool {
    true
}
const PAGE: u64 = 100;
fn page() -> u64 {
    PAGE
}
/// A page of the whole conversation must fit into one reply.
const PAGE_BYTES: u64 = 512 * 1024;

/// Tells `null` from what is not given.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

pub(crate) fn bad(why: impl Into<Cow<'static, str>>) -> Rejection {
    Rejection::new("bad-message", why)
}

fn in_range(name: &str, value: u64, min: u64, max: u64) -> Result<u64, String> {
    match value {
        value if (min..=max).contains(&value) => Ok(value),
        _ => Err(format!("`{name}` is a whole number from {min} to {max}")),
    }
}

struct ContextWindow;

impl Handler for ContextWindow {
    type Message = Message;
    type Query = Query;
    const ANSWERS: bool = true;
    const REQUESTS: bool = true;

    fn handle(cx: &mut Context, message: Message) -> Result<impl Serialize, Rejection> {
        if matches!(message, Message::Unanswered { .. })
            && !matches!(cx.origin(), Origin::Timer { .. })
        {
            return Err(Rejection::new("not-yours", "Only the agent's own timer says that."));
        }
        let mut run = Run::load(cx)?;
        let reply = match message {
            Message::Configure { budget, last, system, system_tokens, agent } => {
                let (conversation, cx) = run.conversation();
                configure(cx, conversation, budget, last, system, system_tokens)?;
                run.configure(*agent)?;
                run.conversation().0.shown()?
            }
            Message::Append { role, content, tokens, pin, window } => {
                run.check_idle()?;
                let (conversation, cx) = run.conversation();
                append(cx, conversation, (role, content, tokens), pin, window)?
            }
            Message::Pin { id } => {
                let (conversation, cx) = run.conversation();
                pin(cx, conversation, id, true)?
            }
            Message::Unpin { id } => {
                let (conversation, cx) = run.conversation();
                pin(cx, conversation, id, false)?
            }
            Message::Ask { content, tokens } => {
                let tokens = tokens.map(|it| in_range("tokens", it, 0, BUDGET_MAX)).transpose();
                run.ask(content, tokens.map_err(bad)?)?
            }
            Message::Answer { call, content } => run.reply(&call, &content)?,
            Message::Cancel => run.cancel()?,
            Message::Retry => run.retry()?,
            Message::Close => run.close()?,
            Message::Unanswered { call } => run.unanswered(&call).map(|()| Value::Null)?,
        };
        run.save()?;
        Ok(reply)
    }

    fn answer(cx: &mut Context, answer: Answer) -> Result<impl Serialize, Rejection> {
        let mut run = Run::load(cx)?;
        run.came(&answer)?;
        run.save()
    }

    fn http_answer(cx: &mut Context, answer: http::Answer) -> Result<impl Serialize, Rejection> {
        let mut run = Run::load(cx)?;
        run.answered(&answer)?;
        run.save()
    }

    fn query(cx: &QueryContext, query: Query) -> Result<impl Serialize, Rejection> {
        let bad_query = |why: String| Rejection::new("bad-query", why);
        let state = cx.state();
        let mut conversation = Conversation::load(&state)?;
        match query {
            Query::Window { budget } => {
                if let Some(budget) = budget {
                    // Nothing of this is kept: what the window would be under another budget.
                    conversation.config.budget =
                        in_range("budget", budget, 1, BUDGET_MAX).map_err(bad_query)?;
                    conversation.grow()?;
                    if !conversation.fits() {
                        conversation.check(None)?;
                    }
                }
                Ok(conversation.shown()?)
            }
            Query::Messages { after, limit } => {
                let limit = in_range("limit", limit, 1, PAGE).map_err(bad_query)?;
                let (mut messages, mut bytes) = (Vec::<Entry>::new(), 0);
                for entry in conversation.messages(after) {
                    let entry = entry?;
                    bytes += entry.bytes();
                    let is_full = messages.len() as u64 == limit;
                    if is_full || (bytes > PAGE_BYTES && !messages.is_empty()) {
                        break;
                    }
                    messages.push(entry);
                }
                Ok(json!({ "messages": messages }))
            }
            Query::Stats => {
                let (config, window) = (&conversation.config, &conversation.window);
                Ok(json!({
                    "messages": window.next - 1,
                    "tokens": window.total,
                    "pinned": conversation.pins()?.len(),
                    "budget": config.budget,
                    "last": config.last,
                    "system_tokens": config.system_tokens,
                    "used": conversation.used(),
                    "first": window.first,
                }))
            }
            Query::Agent => Ok(agent::view(&state)?),
        }
    }

    /// Version 1 kept conversations as this one does, and had no agents.
    fn migrate(_: &mut MigrateContext, from: &str) -> Result<(), String> {
        if from.starts_with("1.") || from.starts_with("2.") {
            return Ok(());
        }
        Err(format!("context-window 2 knows no way from {from}"))
    }
}

slotd_guest::export!(ContextWindow);

fn configure(
    cx: &mut Context,
    conversation: &mut Conversation,
    budget: Option<u64>,
    last: Option<Option<u64>>,
    system: Option<String>,
    system_tokens: Option<u64>,
) -> Result<(), Rejection> {
    let config = &mut conversation.config;
    if let Some(budget) = budget {
        config.budget = in_range("budget", budget, 1, BUDGET_MAX).map_err(bad)?;
    }
    if let Some(last) = last {
        let last = last.map(|last| in_range("last", last, 1, 100_000)).transpose();
        config.last = last.map_err(bad)?;
    }
    if let Some(system) = system {
        if json_bytes(&system) > SYSTEM_BYTES_MAX {
            return Err(bad(format!("`system` has {SYSTEM_BYTES_MAX} bytes at most")));
        }
        let tokens = system_tokens.map(|it| in_range("system_tokens", it, 0, BUDGET_MAX));
        config.system_tokens = match tokens.transpose().map_err(bad)? {
            Some(tokens) => tokens,
            None if system.is_empty() => 0,
            None => tokens::estimate(&system),
        };
        config.system = system;
    }
    conversation.check(None)?;
    tell_left(cx, &conversation.fit()?)?;
    Ok(conversation.grow()?)
}

fn append(
    cx: &mut Context,
    conversation: &mut Conversation,
    (role, content, tokens): (Role, String, Option<u64>),
    pin: bool,
    window: bool,
) -> Result<Value, Rejection> {
    let mut entry = Entry::new(role, content, cx.time_ms());
    if let Some(tokens) = tokens {
        entry.tokens = in_range("tokens", tokens, 0, BUDGET_MAX).map_err(bad)?;
    }
    conversation.check(Some(&entry))?;
    let entry = conversation.append(&mut cx.state(), entry, pin)?;
    tell_left(cx, &conversation.fit()?)?;
    let Entry { id, tokens, content, .. } = &entry;
    let event = json!({ "id": id, "role": role, "tokens": tokens, "content": content });
    cx.emit("appended", &event)?;
    let mut reply = json!({ "id": id, "tokens": tokens });
    if window
        && let (Some(reply), Value::Object(shown)) = (reply.as_object_mut(), conversation.shown()?)
    {
        reply.extend(shown);
    }
    Ok(reply)
}

fn pin(
    cx: &mut Context,
    conversation: &mut Conversation,
    id: u64,
    wanted: bool,
) -> Result<Value, Rejection> {
    if id == 0 {
        return Err(bad("`id` is a whole number from 1"));
    }
    let Some(entry) = conversation.get(id)? else {
        return Err(Rejection::new("no-message", format!("there is no message {id}")));
    };
    if wanted {
        conversation.pin(&mut cx.state(), &entry)?;
        conversation.check(None)?;
    } else {
        conversation.unpin(&mut cx.state(), &entry);
    }
    // Either way it may need room among the newest, or leave some.
    tell_left(cx, &conversation.fit()?)?;
    conversation.grow()?;
    Ok(conversation.shown()?)
}

/// For whoever makes a summary of what the model does not see any more.
pub(crate) fn tell_left(cx: &mut Context, ids: &[u64]) -> Result<(), Error> {
    if let [first, ..] = ids {
        let last = ids.last().unwrap_or(first);
        cx.emit("left", &json!({ "first": first, "last": last, "count": ids.len() }))?;
    }
    Ok(())
}
