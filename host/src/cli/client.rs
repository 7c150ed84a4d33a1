//! A small HTTP client for one node: one connection per request, every wait bounded, every failure
//! with a helpful message.

use super::{
    exit::{CliError, Exit},
    https::{self, Tls},
    json::Json,
};
use crate::{limits, text::clip, tls::ClientFiles};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::{fmt::Write as _, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, timeout_at},
};

/// One node's API or admin API.
#[derive(Clone, Debug)]
pub struct Client {
    /// As given, for messages.
    url: String,
    host: String,
    port: u16,
    /// Prefix of paths, without a trailing slash.
    prefix: String,
    /// `None`: plain HTTP.
    tls: Option<Tls>,
    token: Option<String>,
    timeout: Duration,
    /// How to set another node and the token: differs between the two APIs.
    hints: Hints,
}

#[derive(Clone, Copy, Debug)]
pub struct Hints {
    pub url: &'static str,
    pub token: &'static str,
    /// The likely cause if the node does not know the route.
    pub other: &'static str,
}

pub const API: Hints = Hints {
    url: "--url or $SLOTD_URL",
    token: "--token or $SLOTD_API_TOKEN",
    other: "Is this the node's admin API? Give the API's URL with --url or $SLOTD_URL.",
};
pub const ADMIN: Hints = Hints {
    url: "--admin-url or $SLOTD_ADMIN_URL",
    token: "--admin-token or $SLOTD_ADMIN_TOKEN",
    other: "Is this the node's API? Its admin API has its own port; give its URL with --admin-url \
        or $SLOTD_ADMIN_URL.",
};

/// How a listener with TLS answers a request in clear.
const SPEAKS_TLS: &[u8] = b"This port speaks TLS";

/// A successful answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
    /// # Errors
    /// The answer is not JSON, so not from slotd.
    pub fn json(&self) -> Result<Json, CliError> {
        Json::parse(&self.body)
    }
}

impl Client {
    /// Reads `files` if the URL is of https.
    ///
    /// # Errors
    /// Invalid URL, or files that can't be used.
    pub fn new(
        url: &str,
        token: Option<String>,
        timeout: Duration,
        hints: Hints,
        files: &ClientFiles,
    ) -> Result<Self, CliError> {
        let bad = |why: &str| {
            CliError::usage(format!(
                "{url:?} is not a node's URL: {why} (give http://HOST:PORT or https://HOST:PORT with {})",
                hints.url
            ))
        };
        let uri: Uri = url.parse().map_err(|_| bad("it can't be parsed"))?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad("it does not start with http:// or https://")),
        };
        if uri.query().is_some() || url.contains('@') {
            return Err(bad("it has more than a host, a port and a path"));
        }
        let host =
            uri.host().filter(|host| !host.is_empty()).ok_or_else(|| bad("it has no host"))?;
        let tls = secure.then(|| Tls::new(host, files)).transpose().map_err(CliError::usage)?;
        Ok(Self {
            url: url.trim_end_matches('/').into(),
            host: host.into(),
            port: uri.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            prefix: uri.path().trim_end_matches('/').into(),
            tls,
            token,
            timeout,
            hints,
        })
    }

    pub fn url(&self) -> &str {
        &self.url
    }
    /// How long one request may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// # Errors
    /// The node can't be reached, or answers with an error.
    pub async fn get(&self, path: &str) -> Result<Answer, CliError> {
        self.request(Method::GET, path, &[], Bytes::new()).await
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer, CliError> {
        let until = crate::clock::timer_now() + self.timeout;
        let (head, body) = self.start(method, path, headers, body, until).await?;
        let body = self.collect(head.status, body, until).await?;
        let answer = Answer { headers: head.headers, body };
        match head.status.is_success() {
            true => Ok(answer),
            false => Err(self.refused(head.status.as_u16(), &answer)),
        }
    }

    /// Sends a request with an endless answer; only its head has a timeout.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn stream(&self, path: &str, headers: &[(&str, &str)]) -> Result<Incoming, CliError> {
        let until = crate::clock::timer_now() + self.timeout;
        let (head, body) = self.start(Method::GET, path, headers, Bytes::new(), until).await?;
        if head.status.is_success() {
            return Ok(body);
        }
        let body = self.collect(head.status, body, until).await?;
        Err(self.refused(head.status.as_u16(), &Answer { headers: head.headers, body }))
    }

    /// An answer's whole body; error bodies are small.
    async fn collect(
        &self,
        status: StatusCode,
        body: Incoming,
        until: Instant,
    ) -> Result<Bytes, CliError> {
        let bytes_max = match status.is_success() {
            true => limits::CLIENT_ANSWER_BYTES_MAX,
            false => limits::CLIENT_PROBLEM_BYTES_MAX,
        };
        let body = Limited::new(body, bytes_max).collect();
        let body = timeout_at(until, body).await.map_err(|_| self.late())?;
        let body = body.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
            Some(_) => CliError::failure(format!(
                "the answer (status {}) is larger than {bytes_max} bytes",
                status.as_u16()
            )),
            None => self.broken(&*error),
        })?;
        Ok(body.to_bytes())
    }

    async fn start(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
        until: Instant,
    ) -> Result<(http::response::Parts, Incoming), CliError> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.prefix))
            .header(header::HOST, format!("{}:{}", self.host, self.port))
            .header(header::USER_AGENT, concat!("slotd/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = &self.token {
            let mut value =
                http::HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| {
                    CliError::usage("the token has characters that are not allowed in a header")
                })?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        for (name, value) in headers {
            // Flag values are validated where the flag is known.
            let value = http::HeaderValue::try_from(*value).map_err(|_| {
                CliError::usage(format!(
                    "{value:?} can't be sent: header {name} must have no control characters"
                ))
            })?;
            request = request.header(*name, value);
        }
        let request = request
            .body(Full::new(body))
            .map_err(|error| CliError::usage(format!("the request can't be sent: {error}")))?;

        let connect_until = until.min(crate::clock::timer_now() + limits::CLIENT_CONNECT_TIMEOUT);
        let address = format!("{}:{}", self.host, self.port);
        let stream = timeout_at(connect_until, TcpStream::connect(address))
            .await
            .map_err(|_| self.unreachable("connecting timed out"))?
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::ConnectionRefused => self.unreachable("connection refused"),
                _ => self.unreachable(&error.to_string()),
            })?;
        // Small requests must not wait for more to send.
        let _ = stream.set_nodelay(true);
        let mut sender = match &self.tls {
            None => self.carry(stream).await?,
            Some(tls) => {
                let connected = timeout_at(connect_until, tls.connect(stream)).await;
                let connected = connected.map_err(|_| self.unreachable("TLS timed out"))?;
                self.carry(connected.map_err(|error| self.distrusted(&error))?).await?
            }
        };
        let answer = timeout_at(until, sender.send_request(request))
            .await
            .map_err(|_| self.late())?
            .map_err(|error| self.broken(&error))?;
        Ok(answer.into_parts())
    }

    /// Speaks HTTP over a connection.
    async fn carry(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<SendRequest<Full<Bytes>>, CliError> {
        let connected = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (sender, connection) = connected.await.map_err(|error| self.broken(&error))?;
        // Ends with the answer's body, or when the sender and body are dropped.
        crate::task::run(connection);
        Ok(sender)
    }

    /// The handshake of TLS has failed: nothing was sent.
    fn distrusted(&self, error: &std::io::Error) -> CliError {
        let why = https::explain(error).unwrap_or_else(|| format!("TLS failed: {error}"));
        CliError::new(Exit::Unreachable, format!("can't use {}: {why}", self.url))
    }

    fn unreachable(&self, why: &str) -> CliError {
        CliError::new(
            Exit::Unreachable,
            format!(
                "can't reach {}: {why}\n  Is slotd running? Start it with `slotd serve`, or choose another node with {}.",
                self.url, self.hints.url
            ),
        )
    }
    fn late(&self) -> CliError {
        CliError::new(
            Exit::Unreachable,
            format!(
                "{} did not answer within {:?} (--timeout); the request may have been carried out",
                self.url, self.timeout
            ),
        )
    }
    fn broken(&self, error: &(dyn std::error::Error + 'static)) -> CliError {
        if let Some(why) = https::explain(error) {
            return CliError::new(Exit::Unreachable, format!("can't use {}: {why}", self.url));
        }
        CliError::new(
            Exit::Unreachable,
            format!(
                "lost the connection to {} before the answer: {error}; the request may have been carried out",
                self.url
            ),
        )
    }

    /// The error in an answer other than 2xx.
    fn refused(&self, status: u16, answer: &Answer) -> CliError {
        let exit = if status >= 500 { Exit::Server } else { Exit::Refused };
        if status == 400 && self.tls.is_none() && answer.body.starts_with(SPEAKS_TLS) {
            return CliError::new(
                exit,
                format!("{} speaks TLS: begin the URL with https://", self.url),
            );
        }
        let problem: Option<Value> = serde_json::from_slice(&answer.body).ok();
        let Some(problem) = problem.filter(|p| p.get("code").is_some_and(Value::is_string)) else {
            return CliError::new(
                exit,
                format!(
                    "{} answered {status}, but not in slotd's format; is it a slotd node?",
                    self.url
                ),
            );
        };
        let field = |path: &str| {
            let value = path.split('.').try_fold(&problem, |v, key| v.get(key))?;
            let text: String = value.as_str().map_or_else(|| value.to_string(), Into::into);
            let text = clip(text.into(), limits::ERROR_DETAIL_BYTES_MAX);
            (!value.is_null()).then(|| super::output::harmless(&text, true))
        };
        let code = field("code").unwrap_or_default();
        let mut message = format!("{code} ({status})");
        // The detail of a rejection repeats its message.
        if let (Some(code), Some(text)) = (field("rejection.code"), field("rejection.message")) {
            let _ = write!(message, ": {code}: {text}");
            if field("rejection.retriable").as_deref() == Some("true") {
                message.push_str(" (retriable)");
            }
        } else if let Some(detail) = field("detail").filter(|detail| !detail.is_empty()) {
            let _ = write!(message, ": {detail}");
        }
        if let Some(plugin) = field("plugin") {
            let _ = write!(message, "\n  plugin: {plugin}");
        }
        if let Some(after) = answer.header("retry-after") {
            let _ = write!(message, "\n  Try again in {after} s.");
        }
        if code == "route-not-found" {
            let _ = write!(message, "\n  {}", self.hints.other);
        }
        if status == 401 {
            let _ = write!(message, "\n  Pass the token with {}.", self.hints.token);
        }
        CliError { exit, message, problem: Some(problem) }
    }
}

/// Validates a flag's value that becomes a header.
///
/// # Errors
/// It is not a valid header, or the node would refuse it.
pub fn plain<'a>(flag: &str, value: &'a str, bytes_max: usize) -> Result<&'a str, CliError> {
    let fits = !value.is_empty() && value.len() <= bytes_max;
    match fits && !value.chars().any(char::is_control) {
        true => Ok(value),
        false => Err(CliError::usage(format!(
            "{flag} {:?}: it must have 1 to {bytes_max} bytes and no control characters",
            clip(value.into(), limits::LISTED_BYTES_MAX)
        ))),
    }
}

/// The acting user, for the record: from the flag, or the user of this process.
///
/// # Errors
/// The flag's value can't be sent.
pub fn operator(flag: &str, given: Option<&str>) -> Result<String, CliError> {
    if let Some(given) = given {
        return plain(flag, given, limits::SENDER_BYTES_MAX).map(str::to_owned);
    }
    let named = ["USER", "LOGNAME"].into_iter().filter_map(|name| std::env::var(name).ok());
    let mut fit = named.filter(|name| plain(flag, name, limits::SENDER_BYTES_MAX).is_ok());
    Ok(fit.next().unwrap_or_else(|| "operator".into()))
}

/// Percent-encodes everything but unreserved characters: valid in a path segment and in a query
/// value.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

/// `?a=b&c=d` of the parameters that are set; empty for none.
pub fn query(parameters: &[(&str, Option<String>)]) -> String {
    let mut out = String::new();
    for (name, value) in parameters {
        if let Some(value) = value {
            let _ =
                write!(out, "{}{name}={}", if out.is_empty() { '?' } else { '&' }, encode(value));
        }
    }
    out
}
