//! Runs a handler natively, with the host's rules, so that `cargo test` needs no WebAssembly.
//!
//! What the host promises holds here too: a message is applied whole or not at all (a rejection, a
//! panic or a passed limit leaves no write and no event behind), the sequence number rises only on
//! success, a query can't change anything, a call sees its own writes, and a scan is in order of
//! the keys' bytes. Time is the test's: [`Harness::advance`] moves it on, has timers fire and the session expire. Other sessions
//! are the test's, too: [`Harness::sent`] is what was sent to them, [`Harness::deliver`] and
//! [`Harness::answer`] give what comes from them. So is the network: [`Harness::requests`] is what was asked for over
//! HTTP, [`Harness::respond`] and [`Harness::fail`] say what came of it; and so are subscribers
//! ([`Harness::presence`]). Who its clients are shown to be, [`Harness::set_client`] says. Not modelled: the deadline, the memory limit, the times of cron expressions, which services
//! may send to which, which hosts and secrets they may use, the timeouts and deadlines of requests, and what is on its
//! way for too long.

pub(crate) mod host;
mod http;
mod sends;
mod timers;

pub use self::{
    http::{AnswerTo, Requested},
    sends::{Delivery, Sent},
    timers::{Dead, Fired, SetTimer},
};

use self::host::{Host, Mode, Transaction, Trap};
use crate::{
    Client, Context, Level, MigrateContext, QueryContext, RawHandler, Rejection, Reply,
    context::Source, http::Answered, sends::Arrival, timers::Firing,
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    cell::{OnceCell, RefCell},
    collections::BTreeMap,
    fmt,
    marker::PhantomData,
    mem,
    panic::{self, AssertUnwindSafe},
    rc::Rc,
};

/// The host's limits, as its own defaults have them.
pub mod limits {
    pub const HOST_CALLS_MAX: u32 = 100_000;
    pub const STATE_KEY_BYTES_MAX: usize = 1_024;
    pub const STATE_VALUE_BYTES_MAX: usize = 1024 * 1024;
    pub const STATE_WRITE_BYTES_MAX: usize = 4 * 1024 * 1024;
    pub const STATE_SCAN_ENTRIES_MAX: u32 = 1_000;
    pub const REPLY_BYTES_MAX: usize = 1024 * 1024;
    pub const EVENTS_MAX: usize = 256;
    pub const EVENT_BYTES_MAX: usize = 1024 * 1024;
    pub const NOTIFIED_MAX: usize = 64;
    pub const NOTIFIED_BYTES_MAX: usize = 256 * 1024;
    pub const TIMERS_MAX: usize = 1_000;
    pub const TIMER_NAME_BYTES_MAX: usize = 128;
    pub const TIMER_BYTES_MAX: usize = 1024 * 1024;
    pub const TIMER_BODY_BYTES_MAX: usize = 64 * 1024;
    /// Timers that a message may set or cancel.
    pub const TIMER_CHANGES_MAX: usize = 256;
    pub const TIMER_PERIOD_MIN_MS: u64 = 100;
    /// The last time that a timer can be set for, or a session can expire at: the year 9000 or so.
    pub const TIMER_MS_MAX: u64 = 221_845_392_000_000;
    pub const TIMER_CRON_BYTES_MAX: usize = 128;
    /// How often a timer's message, the outcome of a message to another session, a request over HTTP, or its answer, is
    /// tried.
    pub const ATTEMPTS_MAX: u32 = 20;
    /// The longest that a timer's message waits after a failure.
    pub const TIMER_RETRY_MAX_MS: u64 = 5 * 60 * 1_000;
    /// Messages to other sessions that a message may send.
    pub const SENDS_MAX: usize = 256;
    pub const SEND_BODY_BYTES_MAX: usize = 256 * 1024;
    pub const SEND_NAME_BYTES_MAX: usize = 128;
    pub const SERVICE_NAME_BYTES_MAX: usize = 64;
    pub const SESSION_ID_BYTES_MAX: usize = 256;
    /// Requests over HTTP that a message may make.
    pub const REQUESTS_MAX: usize = 16;
    /// Requests of a session that are open.
    pub const REQUESTS_OPEN_MAX: usize = 100;
    /// Bytes of them.
    pub const REQUESTS_OPEN_BYTES_MAX: usize = 4 * 1024 * 1024;
    pub const REQUEST_BODY_BYTES_MAX: usize = 256 * 1024;
    pub const REQUEST_ID_BYTES_MAX: usize = 128;
    pub const REQUEST_METHOD_BYTES_MAX: usize = 32;
    /// Of its method, URL and headers.
    pub const REQUEST_HEAD_BYTES_MAX: usize = 32 * 1024;
    pub const REQUEST_HEADERS_MAX: usize = 64;
    pub const REQUEST_TIMEOUT_MAX_MS: u32 = 600_000;
    pub const REQUEST_DEADLINE_MAX_MS: u32 = 86_400_000;
    pub const REDIRECTS_MAX: u8 = 10;
    pub const ANSWER_BYTES_MAX: u32 = 1024 * 1024;
    /// Headers of an answer that are kept by name.
    pub const KEPT_HEADERS_MAX: usize = 16;
    pub const KEPT_HEADER_NAME_BYTES_MAX: usize = 64;
    pub const STREAM_PATH_BYTES_MAX: usize = 256;
    /// Messages of timers in one [`super::Harness::advance`]: the harness's own limit.
    pub const FIRED_MAX: usize = 100_000;
    pub const LOG_LINES_MAX: usize = 100;
    pub const LOG_LINE_BYTES_MAX: usize = 2_048;
}

/// An event that a message emitted, or sent in passing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The message's sequence number.
    pub seq: u64,
    pub kind: String,
    pub content_type: String,
    pub body: Vec<u8>,
}

impl Event {
    /// The body as JSON.
    ///
    /// # Errors
    /// When the body is not the JSON of a `T`.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }
}

/// A line that a call logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    pub level: Level,
    pub message: String,
}

/// How a call failed. Nothing it did was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The handler's own refusal.
    Rejected(Rejection),
    /// `migrate`'s own refusal: the session would stay on the version before.
    Refused(String),
    /// A panic, a passed limit, or something that is not allowed; the sentence says which.
    Trapped(String),
}

impl Failure {
    /// The rejection's code, if it is one.
    pub fn code(&self) -> Option<&str> {
        match self {
            Failure::Rejected(rejection) => Some(rejection.code()),
            _ => None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Rejected(rejection) => write!(f, "rejected: {rejection}"),
            Failure::Refused(reason) => write!(f, "refused to migrate: {reason}"),
            Failure::Trapped(reason) => write!(f, "trapped: {reason}"),
        }
    }
}
impl std::error::Error for Failure {}

/// A session: all that is left of it between two calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub name: String,
    /// The last message's sequence number.
    pub seq: u64,
    /// The clock, milliseconds since the Unix epoch. Set it as the test needs.
    pub time_ms: u64,
    pub state: BTreeMap<String, Vec<u8>>,
    pub events: Vec<Event>,
    /// What its messages sent in passing ([`Context::notify`]); a real session keeps nothing of it.
    pub notified: Vec<Event>,
    /// By name.
    pub timers: BTreeMap<String, SetTimer>,
    /// When it is deleted, if it is to be ([`Context::expire_at`]).
    pub expires_ms: Option<u64>,
    /// Messages of timers that were given up.
    pub dead: Vec<Dead>,
    /// Messages to other sessions.
    pub sent: Vec<Sent>,
    /// Requests over HTTP.
    pub requests: Vec<Requested>,
    /// It takes no more messages ([`Context::close`]).
    pub closed: bool,
    /// The handler is told of its subscribers ([`Context::watch_subscribers`]).
    pub watches: bool,
}

impl Default for Session {
    /// A new one, named `session`, at a fixed time.
    fn default() -> Self {
        Self {
            name: "session".into(),
            seq: 0,
            time_ms: 1_700_000_000_000,
            state: BTreeMap::new(),
            events: Vec::new(),
            notified: Vec::new(),
            timers: BTreeMap::new(),
            expires_ms: None,
            dead: Vec::new(),
            sent: Vec::new(),
            requests: Vec::new(),
            closed: false,
            watches: false,
        }
    }
}

impl Session {
    /// What ends with the message that closes it.
    fn close(&mut self) {
        self.closed = true;
        self.timers.clear();
        self.requests.iter_mut().for_each(|request| request.open = false);
        self.sent.iter_mut().for_each(|sent| sent.answered |= sent.reply_as.is_some());
        self.watches = false;
    }
}

/// One session under the handler `H`.
pub struct Harness<H> {
    session: Session,
    client: Option<Client>,
    log: Vec<LogLine>,
    handler: PhantomData<fn() -> H>,
}

impl<H: RawHandler> Default for Harness<H> {
    fn default() -> Self {
        Self::new()
    }
}

impl<H: RawHandler> Harness<H> {
    /// A new session, named `session`, at a fixed time.
    pub fn new() -> Self {
        Self::over(Session::default())
    }
    /// A session that is already there: another version's, say.
    pub fn over(session: Session) -> Self {
        Self { session, client: None, log: Vec::new(), handler: PhantomData }
    }
    /// Forgets the session and what was logged: a test begins as with [`Self::new`].
    pub fn reset(&mut self) {
        *self = Self::new();
    }
    pub fn session(&self) -> &Session {
        &self.session
    }
    /// To change its name, clock or state under the handler.
    pub fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }
    pub fn into_session(self) -> Session {
        self.session
    }

    /// Says who the client is shown to be that sends and asks from now on; `None`, as at first: nobody.
    pub fn set_client(&mut self, client: impl Into<Option<Client>>) {
        self.client = client.into();
    }

    /// Sends a message with a JSON body, from a client that gives `sender` as its name.
    ///
    /// # Errors
    /// A [`Failure`]; the session is then as it was.
    ///
    /// # Panics
    /// When `message` has no form in JSON.
    pub fn send<'a, T: Serialize + ?Sized>(
        &mut self,
        sender: impl Into<Option<&'a str>>,
        message: &T,
    ) -> Result<Reply, Failure> {
        self.send_bytes(sender, "application/json", to_json(message))
    }

    /// As [`Self::send`], with any body.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn send_bytes<'a>(
        &mut self,
        sender: impl Into<Option<&'a str>>,
        content_type: &str,
        body: impl Into<Vec<u8>>,
    ) -> Result<Reply, Failure> {
        let source = Source::Client(sender.into().map(str::to_owned));
        let came = Came { client: self.client.clone(), ..Came::default() };
        self.handle(source, came, content_type, body.into())
    }

    fn handle(
        &mut self,
        source: Source,
        came: Came,
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<Reply, Failure> {
        if self.session.closed {
            let closed = Rejection::new("session-closed", "The session is closed.");
            return Err(Failure::Rejected(closed));
        }
        let session = self.session.name.clone();
        let (seq, time_ms) = (self.session.seq + 1, self.session.time_ms);
        let (id, origin, content_type) = (None, OnceCell::new(), content_type.to_owned());
        let reply = self.call(Mode::Handle, seq, came, move |host| {
            let mut cx = Context { host, session, seq, time_ms, id, source, origin, content_type };
            checked(H::handle(&mut cx, body))
        })?;
        self.session.seq = seq;
        Ok(reply)
    }

    /// Asks a query with a JSON body.
    ///
    /// # Errors
    /// A [`Failure`].
    ///
    /// # Panics
    /// When `query` has no form in JSON.
    pub fn query<T: Serialize + ?Sized>(&mut self, query: &T) -> Result<Reply, Failure> {
        self.query_bytes("application/json", to_json(query))
    }

    /// As [`Self::query`], with any body.
    ///
    /// # Errors
    /// As [`Self::query`].
    pub fn query_bytes(
        &mut self,
        content_type: &str,
        body: impl Into<Vec<u8>>,
    ) -> Result<Reply, Failure> {
        let (session, body) = (self.session.name.clone(), body.into());
        let (seq, time_ms) = (self.session.seq, self.session.time_ms);
        let content_type = content_type.to_owned();
        let came = Came { client: self.client.clone(), ..Came::default() };
        self.call(Mode::Query, seq, came, move |host| {
            let cx = QueryContext { host, session, seq, time_ms, content_type };
            checked(H::query(&cx, body))
        })
    }

    /// Runs `H::migrate` over the session, as the host does before its first message under this
    /// version (and never for a session without a message).
    ///
    /// # Errors
    /// A [`Failure`]; the session is then as it was.
    pub fn migrate(&mut self, from: &str) -> Result<(), Failure> {
        self.call(Mode::Migrate, self.session.seq, Came::default(), |host| {
            H::migrate(&mut MigrateContext::new(host), from).map_err(Failure::Refused)
        })
    }

    /// The session under another handler, after that one's `migrate`.
    ///
    /// # Errors
    /// What `Next::migrate` failed with.
    pub fn swap<Next: RawHandler>(self, from: &str) -> Result<Harness<Next>, Failure> {
        let mut next = Harness::over(self.session);
        next.set_client(self.client);
        next.migrate(from)?;
        Ok(next)
    }

    /// The whole state.
    pub fn state(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.session.state
    }
    /// The value under `key`, from JSON; `None` if there is none.
    ///
    /// # Panics
    /// When the value is not the JSON of a `T`.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        let bytes = self.session.state.get(key)?;
        match serde_json::from_slice(bytes) {
            Ok(value) => Some(value),
            Err(error) => panic!("the value of {key:?} is not of that type: {error}"),
        }
    }
    /// The last message's sequence number.
    pub fn seq(&self) -> u64 {
        self.session.seq
    }
    /// Every event so far, in order.
    pub fn events(&self) -> &[Event] {
        &self.session.events
    }
    /// Every ephemeral event so far ([`Context::notify`]), in order.
    pub fn notified(&self) -> &[Event] {
        &self.session.notified
    }
    /// What was logged since the last look, by failed calls too.
    pub fn take_log(&mut self) -> Vec<LogLine> {
        mem::take(&mut self.log)
    }

    fn call<T>(
        &mut self,
        mode: Mode,
        seq: u64,
        came: Came,
        call: impl FnOnce(Host) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut tx = Transaction::new(mode, seq, self.session.time_ms, came);
        tx.state = mem::take(&mut self.session.state);
        tx.timers = mem::take(&mut self.session.timers);
        tx.expires_ms = self.session.expires_ms;
        tx.requests = self.session.requests.clone();
        tx.watches = self.session.watches;
        let tx = Rc::new(RefCell::new(tx));
        let host = Host(Rc::clone(&tx));
        // Nothing of the guest is used after an unwinding but the transaction, which is rolled back.
        let result = panic::catch_unwind(AssertUnwindSafe(move || call(host)))
            .unwrap_or_else(|payload| Err(Failure::Trapped(reason(&*payload))));
        let mut tx = tx.borrow_mut();
        if result.is_err() {
            tx.roll_back();
        } else {
            self.session.expires_ms = tx.expires_ms;
            self.session.requests = mem::take(&mut tx.requests);
            self.session.watches = tx.watches;
        }
        self.session.state = mem::take(&mut tx.state);
        self.session.timers = mem::take(&mut tx.timers);
        self.session.events.append(&mut tx.events);
        self.session.notified.append(&mut tx.notified);
        self.session.sent.append(&mut tx.sent);
        if result.is_ok() && tx.closes {
            self.session.close();
        }
        self.log.append(&mut tx.log);
        if let Err(Failure::Trapped(reason)) = &result {
            self.log.push(LogLine { level: Level::Error, message: reason.clone() });
        }
        result
    }
}

/// What a message comes from, if not from a client; and who that was shown to be.
#[derive(Default)]
struct Came {
    firing: Option<Firing>,
    arrival: Option<Arrival>,
    told: Option<Answered>,
    presence: Option<bool>,
    client: Option<Client>,
}

impl Came {
    fn from_timer(firing: Firing) -> Self {
        Self { firing: Some(firing), ..Self::default() }
    }
    fn from_session(arrival: Arrival) -> Self {
        Self { arrival: Some(arrival), ..Self::default() }
    }
}

fn to_json<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    match serde_json::to_vec(value) {
        Ok(bytes) => bytes,
        Err(error) => panic!("the test's own body cannot be written as JSON: {error}"),
    }
}

fn checked(result: Result<Reply, Rejection>) -> Result<Reply, Failure> {
    let bytes = match &result {
        Ok(reply) => reply.body.len(),
        Err(rejection) => rejection.message.len(),
    };
    if bytes > limits::REPLY_BYTES_MAX {
        return Err(Failure::Trapped(format!("limit: a reply of {bytes} bytes")));
    }
    result.map_err(Failure::Rejected)
}

fn reason(payload: &(dyn std::any::Any + Send)) -> String {
    if let Some(Trap(reason)) = payload.downcast_ref() {
        reason.clone()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        format!("panicked: {text}")
    } else if let Some(text) = payload.downcast_ref::<&str>() {
        format!("panicked: {text}")
    } else {
        "panicked".into()
    }
}
