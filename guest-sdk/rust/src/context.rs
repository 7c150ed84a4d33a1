use crate::{
    Address, Client, Error, Outgoing, Rejection, State, StateView, Timers, TimersView,
    encode::to_json,
    host::Host,
    http::{self, Http, HttpView},
    sends::Arrival,
    timers::{Firing, millis},
};
use serde::Serialize;
use std::{cell::OnceCell, fmt, time::Duration};

/// Where a message comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Client {
        /// The name that it gave as its sender, if any.
        sender: Option<String>,
    },
    /// Another session, or this one: see [`Context::send`].
    Session {
        sender: Address,
        /// How often it is tried, this time included: 1 the first time.
        attempt: u32,
        /// The sender waits for what this call replies, or why it does not.
        reply_wanted: bool,
    },
    /// What came of a message that this session has sent, as the message asked for: see
    /// [`Outgoing::reply_as`]. The reply is the body. A [`crate::Handler`] has it in
    /// [`answer`](crate::Handler::answer).
    Answer {
        /// The name that it was sent with.
        name: String,
        /// The session that it was sent to.
        sender: Address,
        /// How often this is tried, this time included: 1 the first time.
        attempt: u32,
        /// Why the message was not handled, and will not be; the body is empty then. `None`: it was.
        refusal: Option<Rejection>,
    },
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
    /// What came of a request over HTTP that this session has made, by its id: see [`Context::http`]. The body and its
    /// type are the answer's, the rest is in [`Context::http_answer`]. A [`crate::Handler`] has all of it in
    /// [`http_answer`](crate::Handler::http_answer).
    Http(String),
    /// The session's subscribers: the first one has come, or the last one has been gone for some seconds, as
    /// [`Context::presence`] says. See [`Context::watch_subscribers`]. There is no body. A [`crate::Handler`] has it in
    /// [`presence`](crate::Handler::presence).
    Presence,
}

/// Where a message comes from, as the host gives it. Which time of a timer it is for, and what it is where it
/// comes from a session, has to be asked for, and only a handler that wants to know it needs a host that has them.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Client(Option<String>),
    /// Which one, [`Arrival`] says.
    Session,
    Timer(String),
    Http(String),
}

impl Source {
    fn origin(&self, host: &Host) -> Origin {
        match self {
            Self::Client(sender) => Origin::Client { sender: sender.clone() },
            Self::Session => host.arrival().map_or(Origin::Presence, Into::into),
            Self::Http(id) => Origin::Http(id.clone()),
            Self::Timer(name) => {
                // Each message of a timer has one.
                let Firing { due_ms, missed, attempt } =
                    host.firing().unwrap_or(Firing { due_ms: 0, missed: 0, attempt: 1 });
                Origin::Timer { name: name.clone(), due_ms, missed, attempt }
            }
        }
    }
}

impl From<Arrival> for Origin {
    fn from(arrival: Arrival) -> Self {
        match arrival {
            Arrival::Answer { name, sender, attempt, refusal } => {
                Self::Answer { name, sender, attempt, refusal }
            }
            Arrival::Message { sender, attempt, reply_wanted } => {
                Self::Session { sender, attempt, reply_wanted }
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
    /// The sequence number that this message gets if it is not rejected. From 1; parts of an answer that was shown while it
    /// came have numbers too.
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
    /// Where the message comes from: a client, another session, a timer that this session set, a request that it made,
    /// or its subscribers.
    pub fn origin(&self) -> &Origin {
        self.origin.get_or_init(|| self.source.origin(&self.host))
    }
    /// What has arrived, where it comes from a session: without asking for anything else, which the host may not have.
    pub(crate) fn arrival(&self) -> Option<Arrival> {
        let Source::Session = &self.source else { return None };
        let arrival = self.host.arrival()?;
        self.origin.get_or_init(|| arrival.clone().into());
        Some(arrival)
    }
    pub(crate) fn is_http_answer(&self) -> bool {
        matches!(self.source, Source::Http(_))
    }
    /// The name that a client gave as its sender, if the message is from a client and it gave one.
    pub fn sender(&self) -> Option<&str> {
        match &self.source {
            Source::Client(sender) => sender.as_deref(),
            _ => None,
        }
    }
    /// Who the client was shown to be that has sent the message: `cx.client()?.subject`. `None` where nobody was, and
    /// where the message is not from a client. What a client says of itself, as its sender, is checked by nobody; this
    /// was, by a token. It is kept with the message. The host is asked each time.
    pub fn client(&self) -> Option<Client> {
        self.host.client()
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
    /// Sends a message to another session, or to this one: `cx.send("stock/widget", &message)?`. It is kept
    /// with this message, or not at all, and handled exactly once, with [`Origin::Session`]; messages to one
    /// session arrive in the order in which they were sent. The session need not be there yet. The body is
    /// `body` as JSON; for another, and to get the reply, see [`Self::message_to`].
    ///
    /// 256 of them a message, 256 KiB a body. A service may send to those that its operator names in
    /// `effects.send`: to send to another ends the call.
    ///
    /// # Errors
    /// As [`Outgoing::send`].
    pub fn send<A, T>(&mut self, to: A, body: &T) -> Result<(), Error>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
        T: Serialize + ?Sized,
    {
        self.message_to(to).send(body)
    }
    /// As [`Self::send`], piece by piece: `cx.message_to("stock/widget").reply_as("reserve").send(&body)?`
    pub fn message_to<A>(&mut self, to: A) -> Outgoing
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        Outgoing::new(self.host.clone(), to.try_into().map_err(Error::from))
    }
    /// Requests over HTTP: `cx.http().post(url).json(&body).send("pay")?`. A request is kept with this message, or not at
    /// all, and made after that is durable, at least once: each attempt has the same header `idempotency-key`. What
    /// comes of it is a message of this session, under the request's id, to
    /// [`Handler::http_answer`](crate::Handler::http_answer); in a [`RawHandler`](crate::RawHandler) it has
    /// [`Origin::Http`].
    ///
    /// 16 of them a message, 256 KiB a body, 100 that are open. A service may reach the hosts that its operator names in
    /// `effects.http`: a request to another ends the call.
    pub fn http(&mut self) -> Http {
        Http::new(self.host.clone())
    }
    /// What came of a request, where the message is that ([`Origin::Http`]); its body and content type are the answer's.
    pub fn http_answer(&self) -> Option<http::Answered> {
        if self.is_http_answer() { self.host.http_answer() } else { None }
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
    /// Has the session deleted so long after this message's time, with all that it has: its state and history,
    /// timers, and messages that are on their way. What expires begins anew with its next message. A later message
    /// may put it off, or call it off with [`Self::keep`]; none does so by itself. It is said with this message, or
    /// not at all.
    ///
    /// # Errors
    /// [`Error::Moment`] when there can be no such time, which `?` turns into the rejection `bad-moment`; nothing
    /// has changed then.
    pub fn expire_after(&mut self, delay: Duration) -> Result<(), Error> {
        self.expire_at(self.time_ms.saturating_add(millis(delay)))
    }
    /// As [`Self::expire_after`], at a time in milliseconds since the Unix epoch; one that has passed is now, once
    /// the message is durable.
    ///
    /// # Errors
    /// As [`Self::expire_after`].
    pub fn expire_at(&mut self, time_ms: u64) -> Result<(), Error> {
        self.host.expire(Some(time_ms)).map_err(|why| Error::Moment { why })
    }
    /// The session does not expire: calls [`Self::expire_after`] and [`Self::expire_at`] off.
    pub fn keep(&mut self) {
        // There is no time that could be wrong.
        _ = self.host.expire(None);
    }
    /// Closes the session with this message: it takes no more messages, of whomever, and is still read and queried. Its
    /// timers and its requests over HTTP end, and outcomes of what it has sent are no longer heard of. What it has sent
    /// goes on its way, and it still expires when it was to.
    pub fn close(&mut self) {
        self.host.close();
    }
    /// Has the handler told when the session's first subscriber comes, and when the last one has been gone for some
    /// seconds; or not any more. It is a message of this session, to [`Handler::presence`](crate::Handler::presence); in a
    /// [`RawHandler`](crate::RawHandler) it has [`Origin::Presence`]. One that the handler fails is not tried again.
    pub fn watch_subscribers(&mut self, wanted: bool) {
        self.host.watch_subscribers(wanted);
    }
    /// Whether there is a subscriber, where the message says so ([`Origin::Presence`]): `true`, the first one has come;
    /// `false`, the last one has gone.
    pub fn presence(&self) -> Option<bool> {
        let Source::Session = &self.source else { return None };
        self.host.presence()
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
    /// As [`Context::client`], of the client that asks.
    pub fn client(&self) -> Option<Client> {
        self.host.client()
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
    /// The session's requests over HTTP, to read.
    pub fn http(&self) -> HttpView {
        HttpView::new(self.host.clone())
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
