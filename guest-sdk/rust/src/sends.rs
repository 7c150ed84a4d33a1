use crate::{Error, Rejection, Reply, encode::to_json, host::Host};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{convert::Infallible, fmt, str::FromStr};

/// A session of a service, `service/session` as text, which is its form in JSON too.
///
/// Where one is asked for, `"stock/widget"` will do as well, and so will `("stock", "widget")`. Whether the two
/// names can be is for the host to say: [`Context::send`](crate::Context::send) gives an error where they can't.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    pub service: String,
    /// It may have slashes of its own.
    pub session: String,
}

impl Address {
    pub fn new(service: impl Into<String>, session: impl Into<String>) -> Self {
        Self { service: service.into(), session: session.into() }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.session)
    }
}

impl FromStr for Address {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let why =
            || format!("{text:?} is no address of a session: it has the form service/session");
        let (service, session) = text.split_once('/').ok_or_else(|| Error::Send { why: why() })?;
        Ok(Self::new(service, session))
    }
}
impl TryFrom<&str> for Address {
    type Error = Error;
    fn try_from(text: &str) -> Result<Self, Error> {
        text.parse()
    }
}
impl TryFrom<&String> for Address {
    type Error = Error;
    fn try_from(text: &String) -> Result<Self, Error> {
        text.parse()
    }
}
impl TryFrom<String> for Address {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}
impl<A: Into<String>, B: Into<String>> From<(A, B)> for Address {
    fn from((service, session): (A, B)) -> Self {
        Self::new(service, session)
    }
}
impl From<&Address> for Address {
    fn from(address: &Address) -> Self {
        address.clone()
    }
}
impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}
/// So that an [`Address`] will do where a text that may be none does.
impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// A message to another session that is being put together: see [`Context::message_to`](crate::Context::message_to).
#[must_use = "nothing is sent before `send` or `send_bytes`"]
pub struct Outgoing {
    host: Host,
    to: Result<Address, Error>,
    reply_as: Option<String>,
}

impl Outgoing {
    pub(crate) fn new(host: Host, to: Result<Address, Error>) -> Self {
        Self { host, to, reply_as: None }
    }
    /// Has the outcome come back: as a message of this session, with this name, to
    /// [`Handler::answer`](crate::Handler::answer), and in a [`RawHandler`](crate::RawHandler) with
    /// [`Origin::Answer`](crate::Origin::Answer). 1 to 128 bytes without control characters. Several
    /// messages may have the same one.
    pub fn reply_as(mut self, name: impl Into<String>) -> Self {
        self.reply_as = Some(name.into());
        self
    }
    /// Sends it, with `body` as JSON.
    ///
    /// # Errors
    /// [`Error::Send`] where the address or the name can't be, which `?` turns into the rejection `bad-send`;
    /// and when `body` has no form in JSON that comes back as it was. Nothing is sent then.
    pub fn send<T: Serialize + ?Sized>(self, body: &T) -> Result<(), Error> {
        let body = to_json(body)
            .map_err(|error| Error::Encode { what: "a message to a session".into(), error })?;
        self.send_bytes("application/json", body)
    }
    /// As [`Self::send`], with any body.
    ///
    /// # Errors
    /// [`Error::Send`], as [`Self::send`].
    pub fn send_bytes(self, content_type: &str, body: impl Into<Vec<u8>>) -> Result<(), Error> {
        let sent = self.host.send(&self.to?, content_type, body.into(), self.reply_as.as_deref());
        sent.map_err(|why| Error::Send { why })
    }
}

/// What came of a message that this session has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The name that it was sent with: see [`Outgoing::reply_as`].
    pub name: String,
    /// The session that it was sent to.
    pub sender: Address,
    /// How often this is tried, this time included: 1 the first time.
    pub attempt: u32,
    /// What the other session's handler replied; or why the message was not handled, and will not be: the
    /// rejection of that handler, or one by slotd with the code of the error that a client would have got.
    pub result: Result<Reply, Rejection>,
}

impl Answer {
    /// The reply as JSON.
    ///
    /// # Errors
    /// The refusal, where it is one; and `bad-message`, when the reply is not the JSON of a `T`.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Rejection> {
        match &self.result {
            Ok(reply) => Ok(reply.parse()?),
            Err(refusal) => Err(refusal.clone()),
        }
    }
}

/// What the host says of a message that comes from a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    Message { sender: Address, attempt: u32, reply_wanted: bool },
    Answer { name: String, sender: Address, attempt: u32, refusal: Option<Rejection> },
}
