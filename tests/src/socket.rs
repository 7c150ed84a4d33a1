//! A client of a session's WebSocket.

use crate::http::Client;
use anyhow::{Context, bail};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

/// An open WebSocket.
pub struct Socket {
    stream: WebSocketStream<TcpStream>,
}

/// Input from the socket.
#[derive(Clone, Debug, PartialEq)]
pub enum Received {
    Frame(Value),
    /// The server closed it, with this code and reason.
    Closed(u16, String),
}

impl Socket {
    /// # Errors
    /// When the connection fails or the server refuses the upgrade.
    pub async fn open(client: &Client, path: &str) -> anyhow::Result<Self> {
        let stream = client.open().await?;
        let url = format!("ws://{}{path}", client.address());
        let (stream, _) =
            client_async(url, stream).await.with_context(|| format!("upgrading {path}"))?;
        Ok(Self { stream })
    }

    pub async fn send(&mut self, frame: &Value) -> anyhow::Result<()> {
        self.stream.send(Message::text(frame.to_string())).await.context("sending a frame")
    }

    /// The next frame, or how the socket was closed. Cancel-safe.
    ///
    /// # Errors
    /// When the connection broke without a close frame, or a frame is not JSON text.
    pub async fn next(&mut self) -> anyhow::Result<Received> {
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Text(text))) => {
                    return Ok(Received::Frame(serde_json::from_str(&text)?));
                }
                Some(Ok(Message::Close(frame))) => {
                    let (code, reason) = frame
                        .map_or((1005, String::new()), |f| (f.code.into(), f.reason.to_string()));
                    return Ok(Received::Closed(code, reason));
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Binary(_))) => bail!("a binary frame"),
                Some(Err(e)) => return Err(e).context("reading a frame"),
                None => bail!("the socket ended without a close frame"),
            }
        }
    }

    /// Sends a message in JSON under an id, and returns the acknowledgement; events that arrive
    /// before it are pushed to `events`.
    ///
    /// # Errors
    /// If it is refused, or the socket ends.
    pub async fn say(
        &mut self,
        id: &str,
        body: &Value,
        events: &mut Vec<Value>,
    ) -> anyhow::Result<Value> {
        self.send(&serde_json::json!({"type": "send", "id": id, "body": body})).await?;
        loop {
            let frame = self.frame().await?;
            match frame["type"].as_str() {
                Some("event") => events.push(frame),
                Some("ack") if frame["id"] == id => return Ok(frame),
                _ => bail!("expected the acknowledgement of {id}, got {frame}"),
            }
        }
    }

    /// The next frame.
    ///
    /// # Errors
    /// As [`Socket::next`], and when the server closed the socket.
    pub async fn frame(&mut self) -> anyhow::Result<Value> {
        match self.next().await? {
            Received::Frame(frame) => Ok(frame),
            Received::Closed(code, reason) => bail!("closed with {code} {reason:?}"),
        }
    }
}
