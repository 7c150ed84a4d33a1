//! HTTP/2: a client for tests, and frames by hand for those that no client sends, and for the load
//! generator, which has no time for a client.

use crate::http::Answer;
use anyhow::{Context, ensure};
use bytes::Bytes;
use h2::{
    RecvStream, SendStream,
    client::{Builder, ResponseFuture, SendRequest},
};
use http::Request;
use std::net::SocketAddr;
use tokio::{net::TcpStream, task::JoinHandle};

/// One connection, with as many streams as the server allows.
pub struct Http2 {
    send: SendRequest<Bytes>,
    authority: String,
    /// Ends with the connection.
    pub task: JoinHandle<Result<(), h2::Error>>,
}

/// A request under way.
pub struct Stream {
    pub answer: ResponseFuture,
    pub body: SendStream<Bytes>,
}

impl Http2 {
    /// # Errors
    /// When no connection can be made.
    pub async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        Self::connect_with(address, &Builder::new()).await
    }

    /// With the settings of the client.
    ///
    /// # Errors
    /// As [`Http2::connect`].
    pub async fn connect_with(address: SocketAddr, builder: &Builder) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (send, connection) = builder.handshake(stream).await?;
        let task = tokio::spawn(connection);
        Ok(Self { send, authority: address.to_string(), task })
    }

    /// Begins a request; with `ends`, one without a body.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn begin(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        ends: bool,
    ) -> anyhow::Result<Stream> {
        let uri = format!("http://{}{path}", self.authority);
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut send = self.send.clone().ready().await?;
        let (answer, body) = send.send_request(request.body(())?, ends)?;
        Ok(Stream { answer, body })
    }

    /// Sends a request, and does not wait for its answer.
    ///
    /// # Errors
    /// As [`Http2::begin`].
    pub async fn ask(&self, method: &str, path: &str, body: &str) -> anyhow::Result<Stream> {
        let json: &[_] = &[("content-type", "application/json")];
        let headers = if body.is_empty() { &[] } else { json };
        let mut stream = self.begin(method, path, headers, body.is_empty()).await?;
        if !body.is_empty() {
            stream.body.send_data(Bytes::from(body.to_owned()), true)?;
        }
        Ok(stream)
    }

    /// Sends a request and reads the answer.
    ///
    /// # Errors
    /// When the connection or the stream ends before that.
    pub async fn call(&self, method: &str, path: &str, body: &str) -> anyhow::Result<Answer> {
        self.ask(method, path, body).await?.answer().await
    }
}

impl Stream {
    /// The whole answer.
    ///
    /// # Errors
    /// When the connection or the stream ends before that.
    pub async fn answer(self) -> anyhow::Result<Answer> {
        let (head, mut body) = self.answer.await?.into_parts();
        let mut bytes = Vec::new();
        while let Some(data) = next(&mut body).await? {
            bytes.extend_from_slice(&data);
        }
        let (status, headers) = (head.status.as_u16(), head.headers);
        Ok(Answer { status, headers, body: bytes.into() })
    }
}

/// The next part of an answer, which the server may send more for.
///
/// # Errors
/// When the connection or the stream has ended.
pub async fn next(body: &mut RecvStream) -> anyhow::Result<Option<Bytes>> {
    let Some(data) = body.data().await else { return Ok(None) };
    let data = data?;
    body.flow_control().release_capacity(data.len())?;
    Ok(Some(data))
}

/// Types and flags of frames (RFC 9113, 6).
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
/// Of SETTINGS and PING.
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
/// What a client sends first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A block of an answer with status 200 begins with this.
pub const STATUS_200: u8 = 0x88;

/// Adds a frame to the output.
pub fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Adds a field to a header block, without compression.
///
/// # Errors
/// When the name or value is too long for that.
pub fn field(block: &mut Vec<u8>, name: &str, value: &str) -> anyhow::Result<()> {
    block.push(0);
    for text in [name, value] {
        ensure!(text.len() < 127, "{text:?} is too long");
        block.push(text.len() as u8);
        block.extend_from_slice(text.as_bytes());
    }
    Ok(())
}

/// A frame that was read.
pub struct Frame<'a> {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: &'a [u8],
}

/// The first frame of the input, and its length; `None` while it is incomplete.
pub fn first(read: &[u8]) -> Option<(usize, Frame<'_>)> {
    let (head, rest) = read.split_at_checked(9)?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let payload = rest.get(..length)?;
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Some((9 + length, Frame { kind: head[3], flags: head[4], stream, payload }))
}

/// The reason in a RST_STREAM or GOAWAY frame.
///
/// # Errors
/// When it has none.
pub fn reason(frame: &Frame<'_>) -> anyhow::Result<u32> {
    let at = if frame.kind == GOAWAY { 4 } else { 0 };
    let bytes = frame.payload.get(at..at + 4).context("a frame without a reason")?;
    Ok(u32::from_be_bytes(bytes.try_into()?))
}
