//! A small HTTP/1.1 client: keeps connections, returns complete answers, never retries by itself.

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Method, Request, StatusCode,
    body::{Frame, Incoming},
    client::conn::http1::SendRequest,
    header::HeaderValue,
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::DeserializeOwned};
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::TlsConnector;

pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A client of one listener. Clones share their connections.
#[derive(Clone)]
pub struct Client {
    address: SocketAddr,
    token: Option<Arc<str>>,
    /// Per connection, in the kernel.
    receive_buffer_bytes: Option<u32>,
    /// Over TLS, to [`crate::tls::HOST`].
    tls: Option<TlsConnector>,
    idle: Arc<Mutex<Vec<SendRequest<Body>>>>,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// An `application/problem+json` answer.
#[derive(Clone, Debug, Deserialize)]
pub struct Problem {
    pub status: u16,
    pub code: String,
    #[serde(default)]
    pub detail: String,
    #[serde(flatten)]
    pub more: serde_json::Map<String, serde_json::Value>,
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, token: None, receive_buffer_bytes: None, tls: None, idle: Arc::default() }
    }

    /// Sends `Authorization: Bearer <token>` with every request.
    #[must_use]
    pub fn with_token(mut self, token: &str) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Limits how much the kernel buffers of what this client does not read.
    #[must_use]
    pub fn with_receive_buffer(mut self, bytes: u32) -> Self {
        self.receive_buffer_bytes = Some(bytes);
        self
    }

    /// Over TLS, with connections of its own.
    #[must_use]
    pub fn with_tls(self, tls: &TlsConnector) -> Self {
        Self { tls: Some(tls.clone()), idle: Arc::default(), ..self }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.request(Method::GET, path, &[], Bytes::new()).await
    }

    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> anyhow::Result<Answer> {
        self.request(Method::POST, path, &[], body).await
    }

    /// Sends one request and reads the whole answer, whatever its status.
    ///
    /// # Errors
    /// If no connection can be made or it breaks before the answer is complete: the outcome of the
    /// request is unknown then.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> anyhow::Result<Answer> {
        self.request_body(method, path, headers, Full::new(body.into()).boxed_unsync()).await
    }

    /// As [`Client::request`], with a body in chunks of unknown total length.
    pub async fn request_chunked<S>(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        chunks: S,
    ) -> anyhow::Result<Answer>
    where
        S: futures_util::Stream<Item = Bytes> + Send + 'static,
    {
        use futures_util::StreamExt;
        let frames = chunks.map(|chunk| Ok::<_, Infallible>(Frame::data(chunk)));
        self.request_body(method, path, headers, StreamBody::new(frames).boxed_unsync()).await
    }

    async fn request_body(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> anyhow::Result<Answer> {
        let pooled = || self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = loop {
            match pooled() {
                Some(connection) if connection.is_ready() => break connection,
                Some(_) => {}
                None => break self.connect().await?,
            }
        };
        let request = self.build(method, path, headers, body)?;
        let response = connection
            .send_request(request)
            .await
            .with_context(|| format!("sending to {}", self.address))?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.context("reading an answer")?.to_bytes();
        if connection.ready().await.is_ok() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }

    /// Sends one request on a separate connection and returns the answer's body as it arrives.
    ///
    /// # Errors
    /// As [`Client::request`], and when the status is not 200.
    pub async fn stream(&self, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<Incoming> {
        let body = Full::new(Bytes::new()).boxed_unsync();
        let request = self.build(Method::GET, path, headers, body)?;
        let mut connection = self.connect().await?;
        let response = connection.send_request(request).await?;
        let (head, body) = response.into_parts();
        if head.status != StatusCode::OK {
            let body = body.collect().await?.to_bytes();
            bail!("GET {path}: {}: {}", head.status, String::from_utf8_lossy(&body));
        }
        Ok(body)
    }

    fn build(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> anyhow::Result<Request<Body>> {
        let mut request =
            Request::builder().method(method).uri(path).header("host", self.address.to_string());
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for &(name, value) in headers {
            // Not from the text: names of other than ASCII characters are sent as UTF-8.
            request = request.header(name, HeaderValue::from_bytes(value.as_bytes())?);
        }
        Ok(request.body(body)?)
    }

    /// A separate connection.
    ///
    /// # Errors
    /// When it can't be made.
    pub async fn open(&self) -> anyhow::Result<TcpStream> {
        let socket = match self.address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        if let Some(bytes) = self.receive_buffer_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        let connecting = socket.connect(self.address).await;
        let stream = connecting.with_context(|| format!("connecting to {}", self.address))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Body>> {
        let stream = self.open().await?;
        match &self.tls {
            None => carry(stream).await,
            Some(tls) => carry(tls.connect(crate::tls::host()?, stream).await?).await,
        }
    }
}

async fn carry(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> anyhow::Result<SendRequest<Body>> {
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the connection; errors show in the request.
    tokio::spawn(connection);
    Ok(sender)
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// # Errors
    /// When the body is not JSON of that shape.
    pub fn json<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("{} with an unexpected body: {}", self.status, self.text()))
    }

    /// The answer itself when its status is 2xx.
    ///
    /// # Errors
    /// Otherwise: status and body.
    pub fn success(self) -> anyhow::Result<Self> {
        if !(200..300).contains(&self.status) {
            bail!("answered {}: {}", self.status, self.text());
        }
        Ok(self)
    }

    /// The problem that the answer describes.
    ///
    /// # Errors
    /// When it is not a well-formed `application/problem+json` whose status is the answer's.
    pub fn problem(&self) -> anyhow::Result<Problem> {
        let content_type = self.header("content-type").unwrap_or_default();
        if content_type != "application/problem+json" {
            bail!("{} with content type {content_type:?}: {}", self.status, self.text());
        }
        let problem: Problem = self.json()?;
        if problem.status != self.status {
            bail!("status {} in a problem of status {}", self.status, problem.status);
        }
        Ok(problem)
    }
}
