//! A conversation and its window, as they lie in a session's state.
//!
//! The window is all pinned messages, and the newest others from `first` on. Appending moves `first` forward as far as
//! the budget wants: each message leaves once, so that an append costs the same however long the conversation is.
//!
//! | key | value |
//! |---|---|
//! | `config` | the budget and the system prompt |
//! | `window` | where the window begins, and what is in it |
//! | `message/<id>` | a message; ids have twelve digits, so that they sort as numbers do |
//! | `pin/<id>` | what a pinned message takes |
//!
//! Version 1, in TypeScript, wrote the same.

use crate::tokens::{cut, estimate};
use serde::{Deserialize, Serialize};
use slotd_guest::{Error, Rejection, State, StateView, Value, json, serde_json};
use std::collections::BTreeSet;

const CONFIG: &str = "config";
const WINDOW: &str = "window";
const MESSAGES: &str = "message/";
const PINS: &str = "pin/";

/// More, with their marks of JSON, would not fit into one reply of slotd's.
pub(crate) const BUDGET_MAX: u64 = 200_000;
/// A window must fit into one request, which has 256 KiB, beside the system prompt and the tools.
pub(crate) const WINDOW_BYTES_MAX: u64 = 160 * 1024;
pub(crate) const SYSTEM_BYTES_MAX: u64 = 32 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    User,
    Assistant,
    Tool,
}

/// What the model wants done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Call {
    /// The model's name for it.
    pub id: String,
    pub name: String,
    /// JSON, if the model got it right.
    pub arguments: String,
}

/// One message of the conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub id: u64,
    pub role: Role,
    pub content: String,
    pub tokens: u64,
    /// When it was appended, milliseconds since the Unix epoch.
    pub at: u64,
    /// Of the assistant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<Call>,
    /// Of a tool: the call that this is the result of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
}

impl Entry {
    pub(crate) fn new(role: Role, content: impl Into<String>, at: u64) -> Self {
        let content = content.into();
        let tokens = estimate(&content);
        Self { id: 0, role, content, tokens, at, calls: Vec::new(), call: None }
    }
    /// About what it takes in a reply, or a request.
    pub(crate) fn bytes(&self) -> u64 {
        let calls = if self.calls.is_empty() { 0 } else { json_bytes(&self.calls) };
        json_bytes(&self.content) + calls + 96
    }
}

/// A text always has a form in JSON.
pub(crate) fn json_bytes<T: Serialize + ?Sized>(value: &T) -> u64 {
    serde_json::to_vec(value).map_or(u64::MAX / 4, |bytes| bytes.len() as u64)
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Config {
    /// Tokens of the system prompt and of the window.
    pub budget: u64,
    /// How many messages that are not pinned the window may have; none: as the budget allows.
    pub last: Option<u64>,
    pub system: String,
    pub system_tokens: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { budget: 4096, last: None, system: String::new(), system_tokens: 0 }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Window {
    /// The oldest message in the window that is there because it is new.
    pub first: u64,
    /// The id of the next message.
    pub next: u64,
    /// Of the messages in the window, without the system prompt.
    pub tokens: u64,
    pub bytes: u64,
    /// Messages of the window that are not pinned.
    pub unpinned: u64,
    /// Tokens of the whole conversation.
    pub total: u64,
}

impl Default for Window {
    fn default() -> Self {
        Self { first: 1, next: 1, tokens: 0, bytes: 0, unpinned: 0, total: 0 }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Pin {
    tokens: u64,
    bytes: u64,
}

fn key(prefix: &str, id: u64) -> String {
    format!("{prefix}{id:012}")
}

pub(crate) struct Conversation {
    view: StateView,
    pub config: Config,
    pub window: Window,
}

impl Conversation {
    pub(crate) fn load(view: &StateView) -> Result<Self, Error> {
        let config = view.get(CONFIG)?.unwrap_or_default();
        let window = view.get(WINDOW)?.unwrap_or_default();
        Ok(Self { view: view.clone(), config, window })
    }
    pub(crate) fn save(&self, state: &mut State) -> Result<(), Error> {
        state.set(CONFIG, &self.config)?;
        state.set(WINDOW, &self.window)
    }

    pub(crate) fn get(&self, id: u64) -> Result<Option<Entry>, Error> {
        self.view.get(&key(MESSAGES, id))
    }
    pub(crate) fn is_pinned(&self, id: u64) -> bool {
        self.view.get_bytes(&key(PINS, id)).is_some()
    }
    pub(crate) fn pins(&self) -> Result<BTreeSet<u64>, Error> {
        // The keys are this module's own.
        let id = |key: String| key[PINS.len()..].parse().unwrap_or(0);
        self.view.scan::<Pin>(PINS).map(|pair| Ok(id(pair?.0))).collect()
    }
    /// Messages behind `after`, the oldest first.
    pub(crate) fn messages(&self, after: u64) -> impl Iterator<Item = Result<Entry, Error>> {
        let entries = self.view.scan(MESSAGES).after(key(MESSAGES, after));
        entries.map(|pair| pair.map(|(_, entry)| entry))
    }
    /// The messages of the window, the oldest first.
    pub(crate) fn in_window(&self) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        for id in self.pins()?.range(..self.window.first) {
            entries.extend(self.get(*id)?);
        }
        for entry in self.messages(self.window.first - 1) {
            entries.push(entry?);
        }
        Ok(entries)
    }
    /// What the window takes of the budget, with the system prompt.
    pub(crate) fn used(&self) -> u64 {
        self.config.system_tokens + self.window.tokens
    }
    pub(crate) fn fits(&self) -> bool {
        self.used() <= self.config.budget
            && self.window.bytes <= WINDOW_BYTES_MAX
            && self.config.last.is_none_or(|last| self.window.unpinned <= last)
    }
    /// Moves the window's begin forward without writing. The ids of what has left.
    pub(crate) fn fit(&mut self) -> Result<Vec<u64>, Error> {
        let mut left = Vec::new();
        let newest = self.window.next - 1;
        while self.window.first <= newest {
            let first = self.window.first;
            let entry = if self.is_pinned(first) { None } else { self.get(first)? };
            // A tool's answer without the question before it is refused by most models.
            let is_tool = entry.as_ref().is_some_and(|entry| entry.role == Role::Tool);
            let is_orphan = is_tool && first < newest && first > 1;
            if self.fits() && !is_orphan {
                break;
            }
            if let Some(entry) = entry {
                self.take_out(&entry);
                left.push(first);
            }
            self.window.first += 1;
        }
        Ok(left)
    }
    /// Takes back in what fits now, after the budget has grown or a pin has gone.
    pub(crate) fn grow(&mut self) -> Result<(), Error> {
        while self.window.first > 1 {
            let before = self.window.first - 1;
            let entry = if self.is_pinned(before) { None } else { self.get(before)? };
            if let Some(entry) = entry {
                self.take_in(&entry);
                if !self.fits() {
                    self.take_out(&entry);
                    break;
                }
            }
            self.window.first = before;
        }
        self.fit().map(drop)
    }
    fn take_in(&mut self, entry: &Entry) {
        self.window.tokens += entry.tokens;
        self.window.bytes += entry.bytes();
        self.window.unpinned += 1;
    }
    fn take_out(&mut self, entry: &Entry) {
        self.window.tokens -= entry.tokens;
        self.window.bytes -= entry.bytes();
        self.window.unpinned -= 1;
    }

    /// Appends a message, which gets its id. Whether it fits is for [`Self::check`] to say before.
    pub(crate) fn append(
        &mut self,
        state: &mut State,
        mut entry: Entry,
        pin: bool,
    ) -> Result<Entry, Error> {
        entry.id = self.window.next;
        state.set(&key(MESSAGES, entry.id), &entry)?;
        self.window.next += 1;
        self.window.total += entry.tokens;
        self.take_in(&entry);
        if pin {
            self.window.unpinned -= 1;
            self.write_pin(state, &entry)?;
        }
        Ok(entry)
    }
    pub(crate) fn pin(&mut self, state: &mut State, entry: &Entry) -> Result<(), Error> {
        if self.is_pinned(entry.id) {
            return Ok(());
        }
        self.write_pin(state, entry)?;
        if entry.id >= self.window.first {
            self.window.unpinned -= 1;
        } else {
            self.window.tokens += entry.tokens;
            self.window.bytes += entry.bytes();
        }
        Ok(())
    }
    pub(crate) fn unpin(&mut self, state: &mut State, entry: &Entry) {
        if !self.is_pinned(entry.id) {
            return;
        }
        state.delete(&key(PINS, entry.id));
        if entry.id >= self.window.first {
            self.window.unpinned += 1;
        } else {
            self.window.tokens -= entry.tokens;
            self.window.bytes -= entry.bytes();
        }
    }
    fn write_pin(&self, state: &mut State, entry: &Entry) -> Result<(), Error> {
        let pin = Pin { tokens: entry.tokens, bytes: entry.bytes() };
        state.set(&key(PINS, entry.id), &pin)
    }

    /// What can't leave the window: tokens with the system prompt's, and bytes.
    fn fixed(&self) -> Result<(u64, u64), Error> {
        let mut fixed = (self.config.system_tokens, 0);
        for pair in self.view.scan::<Pin>(PINS) {
            let (_, pin) = pair?;
            fixed = (fixed.0 + pin.tokens, fixed.1 + pin.bytes);
        }
        Ok(fixed)
    }
    /// Whether what can't leave the window fits into the budget, beside `more`.
    pub(crate) fn check(&self, more: Option<&Entry>) -> Result<(), Rejection> {
        let (tokens, bytes) = self.fixed()?;
        let (more_tokens, more_bytes) = more.map_or((0, 0), |it| (it.tokens, it.bytes()));
        if tokens + more_tokens <= self.config.budget && bytes + more_bytes <= WINDOW_BYTES_MAX {
            return Ok(());
        }
        let what = match more {
            Some(_) => "The message, with the system prompt and the pinned messages,",
            None => "The system prompt and the pinned messages",
        };
        let text = format!("{what} would not fit into the budget.");
        Err(Rejection::new("over-budget", text))
    }
    /// Shortens a text that nobody can be asked to say again, so that it fits.
    pub(crate) fn shortened(&self, text: &str, tokens_max: u64) -> Result<String, Error> {
        let (tokens, bytes) = self.fixed()?;
        // In JSON a byte takes six at most.
        let room = WINDOW_BYTES_MAX.saturating_sub(bytes).saturating_sub(1_024) / 6;
        let end = text.floor_char_boundary(usize::try_from(room).unwrap_or(usize::MAX));
        let left = self.config.budget.saturating_sub(tokens);
        Ok(cut(&text[..end], left.min(tokens_max)))
    }

    /// What to give the model, and the id of each.
    pub(crate) fn shown(&self) -> Result<Value, Error> {
        let mut messages = Vec::new();
        let mut ids: Vec<Option<u64>> = Vec::new();
        if !self.config.system.is_empty() {
            messages.push(json!({ "role": "system", "content": self.config.system }));
            ids.push(None);
        }
        for entry in self.in_window()? {
            messages.push(crate::model::message(&entry, true));
            ids.push(Some(entry.id));
        }
        let (used, budget) = (self.used(), self.config.budget);
        Ok(json!({ "messages": messages, "ids": ids, "used": used, "budget": budget }))
    }
}
