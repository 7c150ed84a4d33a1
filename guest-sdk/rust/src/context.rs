use crate::{
    Error, State, StateView, Timers, TimersView, encode::to_json, host::Host, timers::Firing,
};
use serde::Serialize;
use std::{cell::OnceCell, fmt};

/// Where a message comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Client {
        /// The name that it gave as its sender, if any.
        sender: Option<String>,
    },
    /// Another session, `service/session`. Does not occur so far.
    Session(String),
    /// A timer that this session set: see [`Context::timers`].
    Timer {
        name: String,
        /// The time that it was set for, milliseconds since the Unix epoch.
        due_ms: u64,
        /// How many later times of its period have passed, too, and have no message of their own.
        missed: u64,
        /// How often it is tried, this time included: 1 the first time.
        attempt: u32,
    },
    /// The answer to an outbound request, by its id. Does not occur so far.
    Http(String),
}

/// Where a message comes from, as the host gives it. Which time of a timer it is for has to be asked for,
/// and only a handler that wants to know it needs a host with timers.
#[derive(Clone, Debug)]
#[cfg_attr(not(target_arch = "wasm32"), allow(dead_code, reason = "the harness sends two of them"))]
pub(crate) enum Source {
    Client(Option<String>),
    Session(String),
    Timer(String),
    Http(String),
}

impl Source {
    fn origin(&self, host: &Host) -> Origin {
        match self {
            Self::Client(sender) => Origin::Client { sender: sender.clone() },
            Self::Session(session) => Origin::Session(session.clone()),
            Self::Http(request) => Origin::Http(request.clone()),
            Self::Timer(name) => {
                // Each message of a timer has one.
                let Firing { due_ms, missed, attempt } =
                    host.firing().unwrap_or(Firing { due_ms: 0, missed: 0, attempt: 1 });
                Origin::Timer { name: name.clone(), due_ms, missed, attempt }
            }
        }
    }
}

/// Levels of the node's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// The message being handled, and what its handler can do.
pub struct Context {
    pub(crate) host: Host,
    pub(crate) session: String,
    pub(crate) seq: u64,
    pub(crate) time_ms: u64,
    pub(crate) id: Option<String>,
    pub(crate) source: Source,
    pub(crate) origin: OnceCell<Origin>,
    pub(crate) content_type: String,
}

impl Context {
    /// The session's id within its service.
    pub fn session(&self) -> &str {
        &self.session
    }
    /// The sequence number that this message gets if it is not rejected: from 1, without a gap.
    pub fn seq(&self) -> u64 {
        self.seq
    }
    /// The time of the message, milliseconds since the Unix epoch; never goes back within a
    /// session. The only clock to use: it is the same when the message is replayed.
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }
    /// The sender's idempotency key, if it gave one.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }
    /// Where the message comes from: a client, or a timer that this session set.
    pub fn origin(&self) -> &Origin {
        self.origin.get_or_init(|| self.source.origin(&self.host))
    }
    /// The name that a client gave as its sender, if the message is from a client and it gave one.
    pub fn sender(&self) -> Option<&str> {
        match &self.source {
            Source::Client(sender) => sender.as_deref(),
            _ => None,
        }
    }
    /// The body's type, as the sender gave it.
    pub fn content_type(&self) -> &str {
        &self.content_type
    }
    /// The session's state, to read and to write.
    pub fn state(&mut self) -> State {
        State::new(self.host.clone())
    }
    /// The session's timers: messages that it sends itself later.
    pub fn timers(&mut self) -> Timers {
        Timers::new(self.host.clone())
    }
    /// Tells the session's subscribers, once the message is durable. `kind` is a short name
    /// without spaces, none that slotd itself uses (`error`, and all that begin with `slotd.`); the
    /// body is `value` as JSON. 256 events and 1 MiB of them a message.
    ///
    /// # Errors
    /// When `value` has no form in JSON that comes back as it was: see [`State::set`].
    pub fn emit<T: Serialize + ?Sized>(&mut self, kind: &str, value: &T) -> Result<(), Error> {
        let body = to_json(value)
            .map_err(|error| Error::Encode { what: format!("event {kind:?}"), error })?;
        self.emit_bytes(kind, "application/json", body);
        Ok(())
    }
    /// As [`Self::emit`], with any body.
    pub fn emit_bytes(&mut self, kind: &str, content_type: &str, body: impl Into<Vec<u8>>) {
        self.host.emit(kind, content_type, body.into());
    }
    /// Tells whoever is subscribed to the session at that moment, in passing: an ephemeral event. It is sent
    /// once the message is durable, after what the message emitted, and at most once. It has no place in the
    /// history: nobody gets it later, and a subscriber that is slow misses it. `kind` and the body are as for
    /// [`Self::emit`]; 64 of them and 256 KiB a message.
    ///
    /// # Errors
    /// As [`Self::emit`].
    pub fn notify<T: Serialize + ?Sized>(&mut self, kind: &str, value: &T) -> Result<(), Error> {
        let body = to_json(value)
            .map_err(|error| Error::Encode { what: format!("event {kind:?}"), error })?;
        self.notify_bytes(kind, "application/json", body);
        Ok(())
    }
    /// As [`Self::notify`], with any body.
    pub fn notify_bytes(&mut self, kind: &str, content_type: &str, body: impl Into<Vec<u8>>) {
        self.host.notify(kind, content_type, body.into());
    }
    /// Writes a line to the node's log; see also [`crate::log_info!`] and its like. 100 lines a
    /// call, 2,048 bytes each; the rest is dropped.
    pub fn log(&self, level: Level, message: impl fmt::Display) {
        self.host.log(level, &message.to_string());
    }
}

/// The query being answered.
pub struct QueryContext {
    pub(crate) host: Host,
    pub(crate) session: String,
    pub(crate) seq: u64,
    pub(crate) time_ms: u64,
    pub(crate) content_type: String,
}

impl QueryContext {
    /// The session's id within its service.
    pub fn session(&self) -> &str {
        &self.session
    }
    /// The sequence number of the last message that the state reflects; 0 before the first.
    pub fn seq(&self) -> u64 {
        self.seq
    }
    /// The time of the query, milliseconds since the Unix epoch.
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }
    /// The body's type, as the asker gave it.
    pub fn content_type(&self) -> &str {
        &self.content_type
    }
    /// The session's state, to read.
    pub fn state(&self) -> StateView {
        StateView::new(self.host.clone())
    }
    /// The session's timers, to read.
    pub fn timers(&self) -> TimersView {
        TimersView::new(self.host.clone())
    }
    /// As [`Context::log`].
    pub fn log(&self, level: Level, message: impl fmt::Display) {
        self.host.log(level, &message.to_string());
    }
    /// What the type system keeps a query from doing, for tests of the host's own guard.
    #[doc(hidden)]
    pub fn forbidden(&self) -> Context {
        Context {
            host: self.host.clone(),
            session: self.session.clone(),
            seq: self.seq,
            time_ms: self.time_ms,
            id: None,
            source: Source::Client(None),
            origin: OnceCell::new(),
            content_type: self.content_type.clone(),
        }
    }
}

/// A session's migration from another version: its state and nothing else.
pub struct MigrateContext {
    pub(crate) host: Host,
    /// The default of the trait ran: the handler has no `migrate` of its own.
    pub(crate) is_default: bool,
}

impl MigrateContext {
    pub(crate) fn new(host: Host) -> Self {
        Self { host, is_default: false }
    }
    /// The session's state, to read and to write.
    pub fn state(&mut self) -> State {
        State::new(self.host.clone())
    }
    /// As [`Context::log`].
    pub fn log(&self, level: Level, message: impl fmt::Display) {
        self.host.log(level, &message.to_string());
    }
    /// What the type system keeps a migration from doing, for tests of the host's own guard.
    #[doc(hidden)]
    pub fn forbidden(&self) -> Context {
        Context {
            host: self.host.clone(),
            session: String::new(),
            seq: 0,
            time_ms: 0,
            id: None,
            source: Source::Client(None),
            origin: OnceCell::new(),
            content_type: String::new(),
        }
    }
}
