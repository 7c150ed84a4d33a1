//! What a session sends to others, and what comes from them.

use super::{Came, Failure, Harness, limits, to_json};
use crate::{Address, Error, RawHandler, Rejection, Reply, context::Source, sends::Arrival};
use serde::{Serialize, de::DeserializeOwned};

/// A message that a session has sent to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The number of the message that sent it.
    pub seq: u64,
    pub to: Address,
    pub content_type: String,
    pub body: Vec<u8>,
    /// The name that its outcome comes back under, if it does.
    pub reply_as: Option<String>,
    /// Whether that has come back and is done with: it was handled, or given up.
    pub answered: bool,
    /// How often the handler has failed it.
    pub failures: u32,
}

impl Sent {
    /// The body as JSON.
    ///
    /// # Errors
    /// When the body is not the JSON of a `T`.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }

    fn waits_as(&self, name: &str) -> bool {
        !self.answered && self.reply_as.as_deref() == Some(name)
    }
}

/// Why there can be no such address, if there can't.
pub(super) fn address_problem(Address { service, session }: &Address) -> Option<String> {
    let max = limits::SERVICE_NAME_BYTES_MAX;
    if service.is_empty() || service.len() > max {
        let bytes = service.len();
        return Some(format!("a service name must have 1 to {max} bytes; this one has {bytes}"));
    }
    let starts_well = service.as_bytes()[0].is_ascii_alphanumeric();
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
    if !starts_well || !service.bytes().all(allowed) {
        return Some(format!(
            "service name {service:?}: use a-z, 0-9, '-', '_' and '.', starting with a letter or digit"
        ));
    }
    let max = limits::SESSION_ID_BYTES_MAX;
    if session.is_empty() || session.len() > max {
        let bytes = session.len();
        return Some(format!("a session id must have 1 to {max} bytes; this one has {bytes}"));
    }
    let control = session.chars().any(char::is_control);
    control.then(|| format!("session id {session:?} has a control character"))
}

/// Why it can't be the name that a reply comes back under, if it can't.
pub(super) fn name_problem(name: &str) -> Option<String> {
    let max = limits::SEND_NAME_BYTES_MAX;
    if name.is_empty() || name.len() > max {
        let bytes = name.len();
        return Some(format!(
            "the name of a reply must have 1 to {max} bytes; this one has {bytes}"
        ));
    }
    let control = name.chars().any(char::is_control);
    control.then(|| format!("the name of a reply has no control characters, and {name:?} has"))
}

/// A message from another session that is being put together: see [`Harness::message_from`].
#[must_use = "nothing is delivered before `deliver` or `deliver_bytes`"]
pub struct Delivery<'a, H> {
    harness: &'a mut Harness<H>,
    sender: Address,
    attempt: u32,
    reply_wanted: bool,
}

impl<H: RawHandler> Delivery<'_, H> {
    /// The sender waits for a reply.
    pub fn reply_wanted(mut self) -> Self {
        self.reply_wanted = true;
        self
    }
    /// How often it is tried, this time included; 1 unless the test says otherwise.
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }
    /// Has the handler handle it, with a JSON body. The reply is what the sender gets, if it waits for one.
    ///
    /// # Errors
    /// A [`Failure`]; the session is then as it was.
    ///
    /// # Panics
    /// When `message` has no form in JSON.
    pub fn deliver<T: Serialize + ?Sized>(self, message: &T) -> Result<Reply, Failure> {
        self.deliver_bytes("application/json", to_json(message))
    }
    /// As [`Self::deliver`], with any body.
    ///
    /// # Errors
    /// As [`Self::deliver`].
    pub fn deliver_bytes(
        self,
        content_type: &str,
        body: impl Into<Vec<u8>>,
    ) -> Result<Reply, Failure> {
        let Self { harness, sender, attempt, reply_wanted } = self;
        let arrival = Arrival::Message { sender, attempt, reply_wanted };
        harness.handle(Source::Session, Came::from_session(arrival), content_type, body.into())
    }
}

impl<H: RawHandler> Harness<H> {
    /// Every message to another session so far ([`Context::send`](crate::Context::send)), in order. The harness
    /// takes them nowhere: what comes of them is the test's, by [`Self::answer`] and [`Self::refuse`].
    pub fn sent(&self) -> &[Sent] {
        &self.session.sent
    }

    /// Has the handler handle a message from a session, with a JSON body: `deliver("cart/c1", &message)`.
    ///
    /// # Errors
    /// A [`Failure`]; the session is then as it was.
    ///
    /// # Panics
    /// When `from` is no address, or `message` has no form in JSON.
    pub fn deliver<A, T>(&mut self, from: A, message: &T) -> Result<Reply, Failure>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
        T: Serialize + ?Sized,
    {
        self.message_from(from).deliver(message)
    }

    /// As [`Self::deliver`], piece by piece: `message_from("cart/c1").reply_wanted().deliver(&message)`.
    ///
    /// # Panics
    /// When `from` is no address.
    pub fn message_from<A>(&mut self, from: A) -> Delivery<'_, H>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        let sender = match from.try_into().map_err(Error::from) {
            Ok(sender) => sender,
            Err(error) => panic!("the test's own sender: {error}"),
        };
        if let Some(problem) = address_problem(&sender) {
            panic!("the test's own sender: {problem}");
        }
        Delivery { harness: self, sender, attempt: 1, reply_wanted: false }
    }

    /// Has the reply come back to a message that the session has sent with
    /// [`reply_as(name)`](crate::Outgoing::reply_as): to the first of that name that still waits. The reply is
    /// `reply` as JSON.
    ///
    /// A handler that fails it, unless by a rejection that is not retriable, gets it again as the next attempt
    /// when the test calls this again: 20 times in all.
    ///
    /// # Errors
    /// A [`Failure`]; the session is then as it was.
    ///
    /// # Panics
    /// When none of that name waits, or `reply` has no form in JSON.
    pub fn answer<T: Serialize + ?Sized>(
        &mut self,
        name: &str,
        reply: &T,
    ) -> Result<Reply, Failure> {
        self.answer_bytes(name, "application/json", to_json(reply))
    }

    /// As [`Self::answer`], with any reply.
    ///
    /// # Errors
    /// As [`Self::answer`].
    ///
    /// # Panics
    /// When none of that name waits.
    pub fn answer_bytes(
        &mut self,
        name: &str,
        content_type: &str,
        reply: impl Into<Vec<u8>>,
    ) -> Result<Reply, Failure> {
        self.come_back(name, None, content_type, reply.into())
    }

    /// As [`Self::answer`]: the message was not handled, and will not be. `code` and `message` are those of the
    /// other handler's rejection, or of an error of slotd's.
    ///
    /// # Errors
    /// As [`Self::answer`].
    ///
    /// # Panics
    /// When none of that name waits.
    pub fn refuse(&mut self, name: &str, code: &str, message: &str) -> Result<Reply, Failure> {
        let refusal = Rejection::new(code.to_owned(), message.to_owned());
        self.come_back(name, Some(refusal), "application/octet-stream", Vec::new())
    }

    fn come_back(
        &mut self,
        name: &str,
        refusal: Option<Rejection>,
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<Reply, Failure> {
        let Some(at) = self.session.sent.iter().position(|sent| sent.waits_as(name)) else {
            let waiting = self.session.sent.iter().filter(|sent| !sent.answered);
            let names: Vec<_> = waiting.filter_map(|sent| sent.reply_as.as_deref()).collect();
            panic!("no message that was sent waits for a reply as {name:?}; there are {names:?}")
        };
        let sent = &self.session.sent[at];
        let (sender, attempt) = (sent.to.clone(), sent.failures + 1);
        let arrival = Arrival::Answer { name: name.to_owned(), sender, attempt, refusal };
        let result = self.handle(Source::Session, Came::from_session(arrival), content_type, body);
        let sent = &mut self.session.sent[at];
        let is_final = match &result {
            Ok(_) => true,
            Err(failure) => {
                sent.failures = attempt;
                matches!(failure, Failure::Rejected(it) if !it.is_retriable())
            }
        };
        sent.answered = is_final || attempt >= limits::ATTEMPTS_MAX;
        result
    }
}
