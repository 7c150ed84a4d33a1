//! What is asked for.

use crate::{limits, outcome::Failure};
use bytes::Bytes;
use reqwest::{
    Method,
    header::{self, HeaderName},
};
use std::time::Duration;

/// A request, as it is kept: URL and values of headers have `{{secret:NAME}}` where a secret goes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    /// The same for each attempt at this request, and for no other request.
    pub idempotency_key: String,
    pub options: Options,
}

/// How a request is to be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long an attempt takes at most, with its whole body. What is left of a total deadline
    /// is the caller's to look after.
    pub timeout: Duration,
    /// How many redirects are followed. With 0 one is an answer like any other.
    pub redirects: u8,
    /// Bytes of the answer's body, when it is decompressed. The rule set may allow less.
    pub answer_bytes_max: usize,
    /// Headers that the answer keeps beside [`KEPT_HEADERS`], by name or by `prefix*`.
    pub keep_headers: Vec<String>,
    pub stream: Stream,
}

impl Options {
    /// All that the limits allow.
    pub fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            redirects: limits::REDIRECTS_MAX,
            answer_bytes_max: limits::ANSWER_BODY_BYTES_MAX,
            keep_headers: Vec::new(),
            stream: Stream::No,
        }
    }

    pub(crate) fn keeps(&self, name: &str) -> bool {
        KEPT_HEADERS.contains(&name)
            || self.keep_headers.iter().any(|kept| match kept.strip_suffix('*') {
                Some(prefix) => {
                    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
                }
                None => name.eq_ignore_ascii_case(kept),
            })
    }
}

/// Whether the body is handed over as it comes. It is of a status of success only: an error is for who reads the whole
/// answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stream {
    #[default]
    No,
    /// As text.
    Text,
    /// As server-sent events, if it says that it is of those.
    Events,
}

/// A piece of a body that is handed over as it comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    Text(String),
    Event(crate::sse::Event),
}

/// Headers of an answer that are always kept.
pub const KEPT_HEADERS: [&str; 9] = [
    "content-language",
    "content-type",
    "date",
    "etag",
    "last-modified",
    "link",
    "location",
    "request-id",
    "retry-after",
];

/// Headers that this crate writes itself, or that concern one connection.
const NOT_THE_CALLERS: [&str; 13] = [
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "host",
    "idempotency-key",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Headers that go on to another origin. All others may tell it what is not its business.
const NO_CREDENTIALS: [HeaderName; 7] = [
    header::ACCEPT,
    header::ACCEPT_LANGUAGE,
    header::CONTENT_LANGUAGE,
    header::CONTENT_TYPE,
    header::RANGE,
    header::USER_AGENT,
    IDEMPOTENCY_KEY,
];

pub(crate) fn goes_to_another_origin(name: &HeaderName) -> bool {
    NO_CREDENTIALS.contains(name)
}

impl Request {
    /// The method, if all else is as it should be, too: sizes, counts, names. Nothing of policy or secrets.
    pub(crate) fn check(&self) -> Result<Method, Failure> {
        let too_long = |what: &str, max: usize| {
            Err(Failure::invalid(format!("{what} of the request has more than {max} bytes")))
        };
        if self.method.len() > limits::METHOD_BYTES_MAX {
            return too_long("the method", limits::METHOD_BYTES_MAX);
        }
        if self.url.len() > limits::URL_BYTES_MAX {
            return too_long("the URL", limits::URL_BYTES_MAX);
        }
        if self.headers.len() > limits::REQUEST_HEADERS_MAX {
            let max = limits::REQUEST_HEADERS_MAX;
            return Err(Failure::invalid(format!("the request has more than {max} headers")));
        }
        let key = &self.idempotency_key;
        if key.is_empty()
            || key.len() > limits::IDEMPOTENCY_KEY_BYTES_MAX
            || !key.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err(Failure::invalid(
                "the idempotency key must be 1 to 255 visible ASCII characters",
            ));
        }
        if self.options.keep_headers.len() > limits::ANSWER_HEADER_NAMES_MAX {
            let max = limits::ANSWER_HEADER_NAMES_MAX;
            return Err(Failure::invalid(format!("more than {max} headers are to be kept")));
        }
        let method = Method::from_bytes(self.method.as_bytes())
            .map_err(|_| Failure::invalid("invalid method"))?;
        if [Method::CONNECT, Method::TRACE].contains(&method) {
            return Err(Failure::invalid(format!("{method} is not for requests of handlers")));
        }
        Ok(method)
    }

    /// The name of a header, if it is the caller's to set.
    pub(crate) fn header_name(name: &str) -> Result<HeaderName, Failure> {
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| Failure::invalid("invalid header name"))?;
        if NOT_THE_CALLERS.contains(&name.as_str()) {
            return Err(Failure::invalid(format!("slotd sets the header {name} itself")));
        }
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_keeps_the_headers_that_were_asked_for() {
        let keep_headers = vec!["X-Ratelimit-*".to_owned(), "Set-Cookie".to_owned()];
        let none = Options::new(Duration::from_secs(1));
        let options = Options { keep_headers, ..none.clone() };
        for name in ["content-type", "x-ratelimit-remaining", "set-cookie", "retry-after"] {
            assert!(options.keeps(name), "{name}");
        }
        for name in ["server", "x-rate", "set-cookie2"] {
            assert!(!options.keeps(name), "{name}");
        }
        assert!(!none.keeps("set-cookie"));
    }

    #[test]
    fn headers_that_belong_to_a_connection_are_refused() {
        for name in ["Host", "content-length", "Transfer-Encoding", "a b", "", "Idempotency-Key"] {
            assert!(Request::header_name(name).is_err(), "{name}");
        }
        assert!(Request::header_name("X-Api-Key").is_ok());
    }
}
