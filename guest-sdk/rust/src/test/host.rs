//! The host's side of a call, natively: one session's state with an undo log.

use super::{
    Came, Event, LogLine, Requested, Sent, http, limits, sends,
    timers::{SetTimer, name_problem},
};
use crate::{
    Address, Client, Level, Timer, When,
    http::{Answered, Parts},
    sends::Arrival,
    timers::Firing,
};
use std::{cell::RefCell, collections::BTreeMap, ops::Bound, panic, rc::Rc};

/// What a guest is stopped with: carried by an unwinding panic that the harness catches.
pub(super) struct Trap(pub String);

fn trap(reason: impl Into<String>) -> ! {
    // No panic hook: this is no bug of the harness, and the test that expects it stays quiet.
    panic::resume_unwind(Box::new(Trap(reason.into())))
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Handle,
    Query,
    Migrate,
}

/// One call's transaction.
pub(super) struct Transaction {
    pub mode: Mode,
    pub seq: u64,
    time_ms: u64,
    came: Came,
    pub state: BTreeMap<String, Vec<u8>>,
    /// What each write replaced, in order.
    undo: Vec<(String, Option<Vec<u8>>)>,
    pub timers: BTreeMap<String, SetTimer>,
    /// What each change of a timer replaced, in order.
    timers_undo: Vec<(String, Option<SetTimer>)>,
    pub expires_ms: Option<u64>,
    pub events: Vec<Event>,
    pub notified: Vec<Event>,
    pub sent: Vec<Sent>,
    pub requests: Vec<Requested>,
    requested: usize,
    pub closes: bool,
    pub watches: bool,
    pub log: Vec<LogLine>,
    event_bytes: usize,
    notified_bytes: usize,
    written_bytes: usize,
    calls: u32,
}

impl Transaction {
    pub fn new(mode: Mode, seq: u64, time_ms: u64, came: Came) -> Self {
        Self {
            mode,
            seq,
            time_ms,
            came,
            state: BTreeMap::new(),
            undo: Vec::new(),
            timers: BTreeMap::new(),
            timers_undo: Vec::new(),
            expires_ms: None,
            events: Vec::new(),
            notified: Vec::new(),
            sent: Vec::new(),
            requests: Vec::new(),
            requested: 0,
            closes: false,
            watches: false,
            log: Vec::new(),
            event_bytes: 0,
            notified_bytes: 0,
            written_bytes: 0,
            calls: 0,
        }
    }
    pub fn roll_back(&mut self) {
        for (key, value) in self.undo.drain(..).rev() {
            match value {
                Some(value) => self.state.insert(key, value),
                None => self.state.remove(&key),
            };
        }
        for (name, timer) in self.timers_undo.drain(..).rev() {
            match timer {
                Some(timer) => self.timers.insert(name, timer),
                None => self.timers.remove(&name),
            };
        }
        self.events.clear();
        self.notified.clear();
        self.sent.clear();
    }
    /// Before a timer is set or cancelled.
    fn change_timer(&mut self, what: &str, name: &str) {
        self.count();
        if self.mode != Mode::Handle {
            trap(format!("only `handle` may {what} timers"));
        }
        if let Some(problem) = name_problem(name) {
            trap(problem);
        }
        if self.timers_undo.len() == limits::TIMER_CHANGES_MAX {
            trap(format!("limit: more than {} timers set or cancelled", limits::TIMER_CHANGES_MAX));
        }
    }
    /// Whether one was open.
    fn end_request(&mut self, id: &str) -> bool {
        let mut open = self.requests.iter_mut().filter(|request| request.open);
        let found = open.find(|request| request.id == id);
        found.map(|request| request.open = false).is_some()
    }
    /// Checks an event of either kind.
    fn event(&mut self, what: &str, kind: &str, content_type: &str, body: Vec<u8>) -> Event {
        self.count();
        if self.mode != Mode::Handle {
            trap(format!("only `handle` may {what}"));
        }
        if let Some(problem) = kind_problem(kind) {
            trap(problem);
        }
        let (kind, content_type) = (kind.to_owned(), content_type.to_owned());
        Event { seq: self.seq, kind, content_type, body }
    }
    fn count(&mut self) {
        self.calls += 1;
        if self.calls > limits::HOST_CALLS_MAX {
            trap(format!("limit: more than {} host calls", limits::HOST_CALLS_MAX));
        }
    }
    fn write(&mut self, key: &str, value: Option<&[u8]>) {
        self.count();
        if self.mode == Mode::Query {
            trap("a query may not write state");
        }
        check_key(key);
        let bytes = value.map_or(0, <[u8]>::len);
        if bytes > limits::STATE_VALUE_BYTES_MAX {
            trap(format!("limit: a value of {bytes} bytes"));
        }
        self.written_bytes += key.len() + bytes;
        if self.written_bytes > limits::STATE_WRITE_BYTES_MAX {
            trap(format!("limit: more than {} bytes written", limits::STATE_WRITE_BYTES_MAX));
        }
        let before = match value {
            Some(value) => self.state.insert(key.to_owned(), value.to_vec()),
            None => self.state.remove(key),
        };
        self.undo.push((key.to_owned(), before));
    }
}

/// Why it can't be the kind of an event, if it can't.
pub(super) fn kind_problem(kind: &str) -> Option<String> {
    if kind.is_empty() || kind.contains(char::is_whitespace) {
        return Some(format!("{kind:?} is no kind of event: one word"));
    }
    let is_reserved = kind == "error" || kind.starts_with("slotd.");
    is_reserved.then(|| format!("the event kind {kind:?} is reserved: slotd uses it itself"))
}

fn check_key(key: &str) {
    if key.len() > limits::STATE_KEY_BYTES_MAX {
        trap(format!("limit: a key of {} bytes", key.len()));
    }
}

fn bytes_of(event: &Event) -> usize {
    event.kind.len() + event.content_type.len() + event.body.len()
}

#[derive(Clone)]
pub(crate) struct Host(pub(super) Rc<RefCell<Transaction>>);

impl Host {
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let mut tx = self.0.borrow_mut();
        tx.count();
        check_key(key);
        tx.state.get(key).cloned()
    }
    pub fn set(&self, key: &str, value: &[u8]) {
        self.0.borrow_mut().write(key, Some(value));
    }
    pub fn delete(&self, key: &str) {
        self.0.borrow_mut().write(key, None);
    }
    pub fn scan(&self, prefix: &str, after: Option<&str>, limit: u32) -> Vec<(String, Vec<u8>)> {
        let mut tx = self.0.borrow_mut();
        tx.count();
        if limit > limits::STATE_SCAN_ENTRIES_MAX {
            trap(format!("limit: a scan of {limit} entries"));
        }
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        tx.state
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(limit as usize)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }
    pub fn emit(&self, kind: &str, content_type: &str, body: Vec<u8>) {
        let mut tx = self.0.borrow_mut();
        let event = tx.event("emit events", kind, content_type, body);
        tx.event_bytes += bytes_of(&event);
        if tx.events.len() == limits::EVENTS_MAX || tx.event_bytes > limits::EVENT_BYTES_MAX {
            trap(format!(
                "limit: more than {} events or {} bytes of them",
                limits::EVENTS_MAX,
                limits::EVENT_BYTES_MAX
            ));
        }
        tx.events.push(event);
    }
    pub fn notify(&self, kind: &str, content_type: &str, body: Vec<u8>) {
        let mut tx = self.0.borrow_mut();
        let event = tx.event("send ephemeral events", kind, content_type, body);
        tx.notified_bytes += bytes_of(&event);
        if tx.notified.len() == limits::NOTIFIED_MAX
            || tx.notified_bytes > limits::NOTIFIED_BYTES_MAX
        {
            trap(format!(
                "limit: more than {} ephemeral events or {} bytes of them",
                limits::NOTIFIED_MAX,
                limits::NOTIFIED_BYTES_MAX
            ));
        }
        tx.notified.push(event);
    }
    pub fn expire(&self, at: Option<u64>) -> Result<(), String> {
        let mut tx = self.0.borrow_mut();
        tx.count();
        if tx.mode != Mode::Handle {
            trap("only `handle` may have the session expire");
        }
        if let Some(at_ms) = at.filter(|at_ms| *at_ms > limits::TIMER_MS_MAX) {
            return Err(format!(
                "{at_ms} is no time at which a session can expire: the last is {} ms since the Unix \
                 epoch",
                limits::TIMER_MS_MAX
            ));
        }
        tx.expires_ms = at.map(|at_ms| at_ms.max(tx.time_ms));
        Ok(())
    }
    pub fn schedule(
        &self,
        name: &str,
        when: When,
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<u64, String> {
        let mut tx = self.0.borrow_mut();
        tx.change_timer("set", name);
        if body.len() > limits::TIMER_BODY_BYTES_MAX {
            trap(format!(
                "limit: timers: a body may have {} bytes; this one has {}",
                limits::TIMER_BODY_BYTES_MAX,
                body.len()
            ));
        }
        // A timer that sets itself again is a period, however it does it.
        let wait = tx.came.firing.map_or(0, |_| limits::TIMER_PERIOD_MIN_MS);
        let earliest = tx.time_ms.saturating_add(wait);
        let timer = SetTimer::new(when, tx.time_ms, earliest, content_type, body)?;
        let due_ms = timer.due_ms;
        let before = tx.timers.insert(name.to_owned(), timer);
        tx.timers_undo.push((name.to_owned(), before));
        let bytes: usize = tx.timers.iter().map(|(name, timer)| timer.bytes(name)).sum();
        if tx.timers.len() > limits::TIMERS_MAX || bytes > limits::TIMER_BYTES_MAX {
            trap(format!(
                "limit: more than {} timers or {} bytes of them",
                limits::TIMERS_MAX,
                limits::TIMER_BYTES_MAX
            ));
        }
        Ok(due_ms)
    }
    pub fn cancel(&self, name: &str) -> bool {
        let mut tx = self.0.borrow_mut();
        tx.change_timer("cancel", name);
        let before = tx.timers.remove(name);
        let was_there = before.is_some();
        tx.timers_undo.push((name.to_owned(), before));
        was_there
    }
    pub fn timer(&self, name: &str) -> Option<Timer> {
        let mut tx = self.0.borrow_mut();
        tx.count();
        tx.timers.get(name).map(|timer| timer.shown(name))
    }
    pub fn timers(&self, after: Option<&str>, limit: u32) -> Vec<Timer> {
        let mut tx = self.0.borrow_mut();
        tx.count();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let all = tx.timers.range::<str, _>((from, Bound::Unbounded));
        all.take(limit as usize).map(|(name, timer)| timer.shown(name)).collect()
    }
    pub fn firing(&self) -> Option<Firing> {
        let mut tx = self.0.borrow_mut();
        tx.count();
        tx.came.firing
    }
    pub fn send(
        &self,
        to: &Address,
        content_type: &str,
        body: Vec<u8>,
        reply_as: Option<&str>,
    ) -> Result<(), String> {
        let mut tx = self.0.borrow_mut();
        tx.count();
        if tx.mode != Mode::Handle {
            trap("only `handle` may send messages to other sessions");
        }
        if body.len() > limits::SEND_BODY_BYTES_MAX {
            trap(format!(
                "limit: sends: a body may have {} bytes; this one has {}",
                limits::SEND_BODY_BYTES_MAX,
                body.len()
            ));
        }
        let problem = sends::address_problem(to);
        if let Some(problem) = problem.or_else(|| reply_as.and_then(sends::name_problem)) {
            return Err(problem);
        }
        if tx.sent.len() == limits::SENDS_MAX {
            trap(format!("limit: sends: a message may send at most {}", limits::SENDS_MAX));
        }
        let sent = Sent {
            seq: tx.seq,
            to: to.clone(),
            content_type: content_type.to_owned(),
            body,
            reply_as: reply_as.map(str::to_owned),
            answered: false,
            failures: 0,
        };
        tx.sent.push(sent);
        Ok(())
    }
    pub fn arrival(&self) -> Option<Arrival> {
        let mut tx = self.0.borrow_mut();
        tx.count();
        tx.came.arrival.clone()
    }
    pub fn request(&self, id: &str, parts: Parts) -> Result<(), String> {
        let mut tx = self.0.borrow_mut();
        tx.count();
        if tx.mode != Mode::Handle {
            trap("only `handle` may make requests over HTTP");
        }
        if let Some(problem) = http::request_problem(&parts) {
            trap(problem);
        }
        let problem = http::id_problem(id).or_else(|| http::options_problem(&parts.options));
        if let Some(problem) = problem {
            return Err(problem);
        }
        if tx.requested == limits::REQUESTS_MAX {
            let max = limits::REQUESTS_MAX;
            trap(format!("limit: requests: a message may make at most {max}"));
        }
        tx.requested += 1;
        tx.end_request(id);
        let request = Requested::new(tx.seq, id, parts);
        tx.requests.push(request);
        let open = || tx.requests.iter().filter(|request| request.open);
        let bytes: usize = open().map(Requested::bytes).sum();
        if open().count() > limits::REQUESTS_OPEN_MAX || bytes > limits::REQUESTS_OPEN_BYTES_MAX {
            trap(format!(
                "outbox-full: more than {} requests are open, or {} bytes of them",
                limits::REQUESTS_OPEN_MAX,
                limits::REQUESTS_OPEN_BYTES_MAX
            ));
        }
        Ok(())
    }
    pub fn cancel_request(&self, id: &str) -> bool {
        let mut tx = self.0.borrow_mut();
        tx.count();
        if tx.mode != Mode::Handle {
            trap("only `handle` may cancel requests");
        }
        tx.end_request(id)
    }
    pub fn open_requests(&self) -> Vec<String> {
        let mut tx = self.0.borrow_mut();
        tx.count();
        let open = tx.requests.iter().filter(|request| request.open);
        let mut ids: Vec<_> = open.map(|request| request.id.clone()).collect();
        ids.sort_unstable();
        ids
    }
    pub fn http_answer(&self) -> Option<Answered> {
        let mut tx = self.0.borrow_mut();
        tx.count();
        tx.came.told.clone()
    }
    pub fn close(&self) {
        let mut tx = self.0.borrow_mut();
        tx.count();
        if tx.mode != Mode::Handle {
            trap("only `handle` may close the session");
        }
        tx.closes = true;
    }
    pub fn watch_subscribers(&self, wanted: bool) {
        let mut tx = self.0.borrow_mut();
        tx.count();
        if tx.mode != Mode::Handle {
            trap("only `handle` may watch the session's subscribers");
        }
        tx.watches = wanted;
    }
    pub fn presence(&self) -> Option<bool> {
        let mut tx = self.0.borrow_mut();
        tx.count();
        tx.came.presence
    }
    pub fn client(&self) -> Option<Client> {
        let mut tx = self.0.borrow_mut();
        tx.count();
        tx.came.client.clone()
    }
    pub fn log(&self, level: Level, message: &str) {
        let mut tx = self.0.borrow_mut();
        tx.count();
        if tx.log.len() < limits::LOG_LINES_MAX {
            let end = message.floor_char_boundary(limits::LOG_LINE_BYTES_MAX);
            tx.log.push(LogLine { level, message: message[..end].to_owned() });
        }
    }
}
