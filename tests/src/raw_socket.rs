//! A WebSocket at the byte level, for frames that no library sends.

use crate::http::Client;
use anyhow::{Context, bail, ensure};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, tcp::OwnedWriteHalf},
};

/// The first byte of a complete text frame; of a close, a ping and a pong.
pub const TEXT: u8 = 0x81;
pub const CLOSE: u8 = 0x88;
pub const PING: u8 = 0x89;
pub const PONG: u8 = 0x8a;

/// An open WebSocket. Masks with zeros, so that payloads are sent unchanged.
pub struct RawSocket<S = TcpStream> {
    pub stream: S,
    read: Vec<u8>,
}

/// A client's frame: `first` contains the final bit, the reserved ones and the opcode.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = head(first, payload.len());
    frame.extend_from_slice(payload);
    frame
}

/// The head of such a frame.
pub fn head(first: u8, length: usize) -> Vec<u8> {
    let mut head = vec![first];
    match length {
        0..=125 => head.push(0x80 | length as u8),
        126..=0xffff => {
            head.push(0x80 | 126);
            head.extend((length as u16).to_be_bytes());
        }
        _ => {
            head.push(0x80 | 127);
            head.extend((length as u64).to_be_bytes());
        }
    }
    head.extend([0; 4]);
    head
}

/// A close frame's payload.
pub fn close(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes()[..], reason.as_bytes()].concat()
}

impl RawSocket {
    /// # Errors
    /// When the connection fails or the server refuses the upgrade.
    pub async fn open(client: &Client, path: &str) -> anyhow::Result<Self> {
        let mut stream = client.open().await?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut read = Vec::new();
        let end = loop {
            if let Some(end) = read.windows(4).position(|w| w == b"\r\n\r\n") {
                break end + 4;
            }
            ensure!(stream.read_buf(&mut read).await? > 0, "no answer to the upgrade");
        };
        ensure!(read.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&read));
        read.drain(..end);
        Ok(Self { stream, read })
    }

    /// The connection, and the unprocessed input.
    pub fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.stream, self.read)
    }

    /// # Errors
    /// When the connection is broken.
    pub async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(bytes).await.context("sending bytes")
    }

    /// As [`RawSocket::until_closed`], while `writing` writes.
    ///
    /// # Errors
    /// When the connection ends without a close frame.
    pub async fn until_closed_while(
        self,
        writing: impl AsyncFnOnce(&mut OwnedWriteHalf),
    ) -> anyhow::Result<(Vec<String>, u16, String)> {
        let (read, mut write) = self.stream.into_split();
        let mut reader = RawSocket { stream: read, read: self.read };
        tokio::select! {
            closed = reader.until_closed() => closed,
            () = writing(&mut write) => bail!("the writer ended"),
        }
    }
}

impl<S: AsyncRead + Unpin> RawSocket<S> {
    /// The server's next frame: its first byte and payload; `None` at the connection's end.
    ///
    /// # Errors
    /// When the connection is broken, or ends inside a frame.
    pub async fn next(&mut self) -> anyhow::Result<Option<(u8, Vec<u8>)>> {
        loop {
            if let Some((start, end)) = bounds(&self.read)? {
                let first = self.read[0];
                let payload = self.read[start..end].to_vec();
                self.read.drain(..end);
                return Ok(Some((first, payload)));
            }
            if self.stream.read_buf(&mut self.read).await.context("reading")? == 0 {
                ensure!(self.read.is_empty(), "the connection ended inside a frame");
                return Ok(None);
            }
        }
    }

    /// Reads up to the server's close frame: the text frames before it, its code and reason.
    ///
    /// # Errors
    /// When the connection ends without one.
    pub async fn until_closed(&mut self) -> anyhow::Result<(Vec<String>, u16, String)> {
        let mut texts = Vec::new();
        loop {
            match self.next().await?.context("the end, and no close frame before it")? {
                (TEXT, payload) => texts.push(String::from_utf8(payload)?),
                (CLOSE, payload) if payload.is_empty() => return Ok((texts, 1005, String::new())),
                (CLOSE, payload) => {
                    let (code, reason) =
                        payload.split_first_chunk().context("a truncated close code")?;
                    let reason = std::str::from_utf8(reason)?.to_owned();
                    return Ok((texts, u16::from_be_bytes(*code), reason));
                }
                (PING | PONG, _) => {}
                (first, _) => bail!("a frame that begins with {first:#x}"),
            }
        }
    }
}

/// The start and end of the first frame's payload, if it is complete.
pub(crate) fn bounds(read: &[u8]) -> anyhow::Result<Option<(usize, usize)>> {
    let &[_, length, ..] = read else { return Ok(None) };
    ensure!(length & 0x80 == 0, "a server's frame is masked");
    let (start, length) = match length {
        126 => match read[2..].first_chunk() {
            Some(length) => (4, u16::from_be_bytes(*length) as usize),
            None => return Ok(None),
        },
        127 => match read[2..].first_chunk() {
            Some(length) => (10, usize::try_from(u64::from_be_bytes(*length))?),
            None => return Ok(None),
        },
        short => (2, short as usize),
    };
    Ok((read.len() >= start + length).then_some((start, start + length)))
}
