use std::{borrow::Cow, fmt};

/// A refusal: it becomes the sender's error (422, with this code) and changes nothing.
///
/// In a handler, `?` turns errors of `serde_json` into `bad-message` and [`Error`]s into
/// `bad-state`, `bad-value`, `bad-moment`, `bad-send` or `bad-request`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub(crate) code: Cow<'static, str>,
    pub(crate) message: Cow<'static, str>,
    pub(crate) retriable: bool,
}

impl Rejection {
    /// `code` in kebab-case, for programs; `message` one sentence, for people. The same message
    /// will be refused again, unless [`Self::retriable`].
    pub fn new(code: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code: code.into(), message: message.into(), retriable: false }
    }
    /// Says that the same message may succeed later.
    #[must_use]
    pub fn retriable(mut self) -> Self {
        self.retriable = true;
        self
    }
    pub fn code(&self) -> &str {
        &self.code
    }
    pub fn message(&self) -> &str {
        &self.message
    }
    pub fn is_retriable(&self) -> bool {
        self.retriable
    }
    pub(crate) fn bad_query(error: &serde_json::Error) -> Self {
        Self::new("bad-query", format!("the query is not understood: {error}"))
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}
impl std::error::Error for Rejection {}

impl From<serde_json::Error> for Rejection {
    fn from(error: serde_json::Error) -> Self {
        Self::new("bad-message", format!("the message is not understood: {error}"))
    }
}
impl From<Error> for Rejection {
    fn from(error: Error) -> Self {
        let code = match error {
            Error::Decode { .. } => "bad-state",
            Error::Encode { .. } => "bad-value",
            Error::Moment { .. } => "bad-moment",
            Error::Send { .. } => "bad-send",
            Error::Request { .. } => "bad-request",
        };
        Self::new(code, error.to_string())
    }
}
/// For `?` in `migrate`.
impl From<Rejection> for String {
    fn from(rejection: Rejection) -> Self {
        rejection.to_string()
    }
}

/// A value that could not be turned into JSON or back, a time that a timer can't be set for or a session can't expire
/// at, an address that nothing can be sent to, or a request over HTTP that can't be made as it says.
#[derive(Debug)]
pub enum Error {
    /// The value under `key` is not the JSON that was asked for.
    Decode { key: String, error: serde_json::Error },
    /// A value for `what` (a key, an event, a timer, a message, a request, a reply) has no form in JSON.
    Encode { what: String, error: serde_json::Error },
    /// What is wrong with the time that a timer was to be set for, or the session to expire at. It is not set.
    Moment { why: String },
    /// What is wrong with the address that a message was to be sent to, or with the name for its reply. It is not
    /// sent.
    Send { why: String },
    /// What is wrong with the id or the options of a request over HTTP. It is not made.
    Request { why: String },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Decode { key, error } => {
                write!(f, "the state under {key:?} is not what this plugin expects: {error}")
            }
            Error::Encode { what, error } => write!(f, "{what} cannot be written as JSON: {error}"),
            Error::Moment { why } | Error::Send { why } | Error::Request { why } => {
                f.write_str(why)
            }
        }
    }
}
impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Decode { error, .. } | Error::Encode { error, .. } => Some(error),
            Error::Moment { .. } | Error::Send { .. } | Error::Request { .. } => None,
        }
    }
}
/// For `?` in `migrate`.
impl From<Error> for String {
    fn from(error: Error) -> Self {
        error.to_string()
    }
}
