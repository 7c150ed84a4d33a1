//! HTTP/1.1 requests over keep-alive connections, one in flight on each.

use super::{Extent, Plan, Random, Tally, Window, session};
use crate::tls;
use anyhow::{Context, bail, ensure};
use std::{cell::Cell, io::Write as _, net::SocketAddr, path::Path, rc::Rc, time::Instant};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

/// One connection: sends, waits, sends again.
pub(super) async fn connection(
    plan: Plan,
    index: u64,
    started: Instant,
    next: Rc<Cell<u64>>,
) -> anyhow::Result<Tally> {
    let mut wire = Wire::connect(plan.address, plan.ca.as_deref()).await?;
    let mut random = Random::new(plan.seed ^ (index << 32));
    let mut tally = Tally::default();
    let window = Window::of(plan.extent, started);
    loop {
        let session = match plan.extent {
            Extent::Timed { .. } => random.below(plan.sessions),
            Extent::EachOnce => {
                let n = next.replace(next.get() + 1);
                if n >= plan.sessions {
                    return Ok(tally);
                }
                n
            }
        };
        wire.prepare(&plan.service, session, &plan.body)?;
        let sent = Instant::now();
        let status = wire.exchange().await?;
        let answered = Instant::now();
        if status == 200 {
            tally.answered(window, sent, answered);
        } else {
            tally.failed(|| format!("{status}: {}", String::from_utf8_lossy(wire.body())));
        }
        if window.until.is_some_and(|until| answered >= until) {
            return Ok(tally);
        }
    }
}

/// A connection with its buffers.
struct Wire {
    stream: Stream,
    request: Vec<u8>,
    response: Vec<u8>,
    filled: usize,
    body: (usize, usize),
}

enum Stream {
    Clear(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    async fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Clear(stream) => stream.write_all(bytes).await,
            Self::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }
    async fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Clear(stream) => stream.read(bytes).await,
            Self::Tls(stream) => stream.read(bytes).await,
        }
    }
}

/// More than any answer in the benchmark has.
const RESPONSE_BYTES_MAX: usize = 16 * 1024;

impl Wire {
    async fn connect(address: SocketAddr, ca: Option<&Path>) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        let stream = match ca {
            None => Stream::Clear(stream),
            Some(ca) => {
                let connected = tls::connector(ca)?.connect(tls::host()?, stream).await?;
                Stream::Tls(Box::new(connected))
            }
        };
        let response = vec![0; RESPONSE_BYTES_MAX];
        Ok(Self { stream, request: Vec::with_capacity(512), response, filled: 0, body: (0, 0) })
    }

    fn prepare(&mut self, service: &str, number: u64, body: &[u8]) -> std::io::Result<()> {
        let session = session(number);
        self.request.clear();
        write!(
            self.request,
            "POST /v1/services/{service}/sessions/{session}/messages HTTP/1.1\r\n\
             host: slotd\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )?;
        self.request.extend_from_slice(body);
        Ok(())
    }

    /// Sends the prepared request and reads one answer; returns its status.
    async fn exchange(&mut self) -> anyhow::Result<u16> {
        self.stream.write_all(&self.request).await.context("sending a request")?;
        self.filled = 0;
        loop {
            ensure!(self.filled < self.response.len(), "an answer over {RESPONSE_BYTES_MAX} bytes");
            let read = self.stream.read(&mut self.response[self.filled..]).await?;
            ensure!(read > 0, "the server closed the connection in an answer");
            self.filled += read;
            if let Some((status, start, length)) = parse(&self.response[..self.filled])? {
                self.body = (start, start + length);
                if self.filled >= start + length {
                    ensure!(self.filled == start + length, "bytes after an answer");
                    return Ok(status);
                }
            }
        }
    }

    fn body(&self) -> &[u8] {
        &self.response[self.body.0..self.body.1]
    }
}

/// Status, start of the body and its length; `None` while the head is incomplete.
fn parse(bytes: &[u8]) -> anyhow::Result<Option<(u16, usize, usize)>> {
    let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { return Ok(None) };
    let head = &bytes[..end];
    ensure!(head.starts_with(b"HTTP/1.1 ") && head.len() >= 12, "not an HTTP/1.1 answer");
    let status = head[9..12].iter().fold(0_u16, |n, b| n * 10 + u16::from(b.wrapping_sub(b'0')));
    const NAME: &[u8] = b"content-length:";
    for line in head.split(|&b| b == b'\n') {
        if line.len() > NAME.len() && line[..NAME.len()].eq_ignore_ascii_case(NAME) {
            let value = std::str::from_utf8(&line[NAME.len()..])?.trim();
            return Ok(Some((status, end + 4, value.parse()?)));
        }
    }
    bail!("an answer without a content length: {}", String::from_utf8_lossy(head))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A parser that takes half an answer for a complete one would measure nonsense.
    #[test]
    fn an_answer_is_whole_only_with_its_body() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nx: y\r\n\r\nok";
        assert_eq!(parse(whole).ok().flatten(), Some((200, whole.len() - 2, 2)));
        assert_eq!(parse(&whole[..40]).ok().flatten(), None);
        assert!(parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
        assert!(parse(b"SSH-2.0-x\r\n\r\n").is_err());
    }
}
