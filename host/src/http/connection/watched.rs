//! The bytes of a connection, counted and watched.

use super::{super::stats::Stats, ConnShared, Stream};
use crate::limits;
use memchr::memmem::{self, Finder};
use std::{
    io,
    pin::Pin,
    sync::{Arc, LazyLock, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The connection's bytes, counted and watched.
pub(in super::super) struct Watched {
    stream: Stream,
    shared: Arc<ConnShared>,
    stats: Stats,
    lingered_bytes: usize,
    /// Bytes that the peer has read since it was last found to read nothing.
    progress: usize,
    upgraded: bool,
    /// It carries HTTP/2.
    multiplexed: bool,
    /// What was read to learn the protocol, and belongs to whoever reads next.
    replay: Replay,
}

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Protocol {
    /// Also whatever is neither: hyper answers it.
    Http1,
    Http2,
}

#[derive(Default)]
struct Replay {
    bytes: [u8; HTTP2_PREFACE.len()],
    read: usize,
    given: usize,
}

/// What an HTTP/2 client sends first (RFC 9113, 3.4).
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl Watched {
    pub(in super::super) fn new(stream: Stream, shared: Arc<ConnShared>, stats: Stats) -> Self {
        Self {
            stream,
            shared,
            stats,
            lingered_bytes: 0,
            progress: 0,
            upgraded: false,
            multiplexed: false,
            replay: Replay::default(),
        }
    }
    /// Reads until it is clear what the peer speaks; what was read is read again.
    pub(in super::super) fn poll_protocol(&mut self, cx: &mut Context<'_>) -> Poll<Protocol> {
        loop {
            let Replay { bytes, read, .. } = &mut self.replay;
            if bytes[..*read] != HTTP2_PREFACE[..*read] {
                if is_tls(&bytes[..*read]) && matches!(self.stream, Stream::Plain(_)) {
                    self.shared.spoke_tls();
                }
                return Poll::Ready(Protocol::Http1);
            }
            if *read == HTTP2_PREFACE.len() {
                return Poll::Ready(Protocol::Http2);
            }
            let mut buf = ReadBuf::new(&mut bytes[*read..]);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => *read += buf.filled().len(),
                // It has ended, which hyper finds for itself.
                _ => return Poll::Ready(Protocol::Http1),
            }
        }
    }
    /// Whether the peer has sent a part of something.
    pub(super) fn has_begun(&self) -> bool {
        self.replay.read > 0
    }
    /// It carries HTTP/2 from now on, whose streams do their own accounting.
    pub(in super::super) fn multiplexed(mut self) -> Self {
        self.multiplexed = true;
        self.shared.multiplex();
        self
    }
    /// It carries something else from now on, which does its own accounting.
    pub(in super::super) fn upgraded(mut self) -> Self {
        self.upgraded = true;
        self
    }
    /// Resolves when the peer has half-closed and all its input was read.
    pub(in super::super) fn poll_peers_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.stream.poll_end(cx) {
            Poll::Ready(Ok(true) | Err(_)) => Poll::Ready(()),
            // It sends data that nothing reads; writing will show its end.
            Poll::Ready(Ok(false)) | Poll::Pending => Poll::Pending,
        }
    }
    /// The peer has something to read, and does not read it.
    fn blocked(&mut self) {
        if self.shared.write_blocked.load(Relaxed) == 0 {
            let now = self.shared.moment(crate::clock::timer_now());
            self.shared.write_blocked.store(now, Relaxed);
            self.progress = 0;
        }
    }
    fn wrote(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(n)) => {
                self.stats.bytes_out.increment(*n as u64);
                if !self.multiplexed && self.shared.wrote(*n) {
                    cx.waker().wake_by_ref();
                }
                self.progress += n;
                if self.progress >= limits::WRITE_PROGRESS_BYTES {
                    self.shared.write_blocked.store(0, Relaxed);
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.blocked(),
        }
        written
    }
}

impl Replay {
    fn give(&mut self, buf: &mut ReadBuf<'_>) {
        let left = &self.bytes[self.given..self.read];
        if left.is_empty() {
            return;
        }
        let len = left.len().min(buf.remaining());
        buf.put_slice(&left[..len]);
        self.given += len;
    }
}

/// The begin of a TLS connection: a record of its handshake (RFC 8446, 5.1).
fn is_tls(bytes: &[u8]) -> bool {
    matches!(bytes, [0x16, 3, ..])
}

/// The two lengths that fit 64 bits and that hyper reserves: it would answer that the head is too
/// large. With the neighbouring length, the request is refused like any other with a body that is
/// too large.
fn shorten_length(read: &mut [u8]) {
    static START: LazyLock<Finder> = LazyLock::new(|| Finder::new("1844674407370955161"));
    let Some(at) = START.find(read) else { return };
    let (head, number) = read.split_at(at);
    let line = head.rsplit(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii_end();
    let is_length = line.eq_ignore_ascii_case(b"content-length:");
    if !is_length
        || memmem::find(head, b"\r\n\r\n").is_some()
        || memmem::find(head, b"\n\n").is_some()
    {
        return;
    }
    let last = START.needle().len();
    let ends = number.get(last + 1).is_some_and(|byte| !byte.is_ascii_digit());
    if ends && matches!(number[last], b'4' | b'5') {
        read[at + last] = b'3';
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        self.replay.give(buf);
        // With what follows, so that a head is seen as it was sent.
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() == before {
            ready!(read)?;
        }
        let read = &mut buf.filled_mut()[before..];
        self.stats.bytes_in.increment(read.len() as u64);
        if self.multiplexed {
            self.shared.receives(read.len());
            return Poll::Ready(Ok(()));
        }
        if self.upgraded {
            return Poll::Ready(Ok(()));
        }
        // Then it is a head, or belongs to no request: a request's body is read while it is in
        // flight.
        if self.shared.in_flight.load(Relaxed) == 0 {
            shorten_length(read);
        }
        Poll::Ready(self.shared.heard(read.len()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(cx, written)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(cx, written)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    /// hyper flushes whenever it was woken and has written everything, so the peer's end is
    /// detected here.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Poll::Ready(flushed) = Pin::new(&mut self.stream).poll_flush(cx) else {
            self.blocked();
            return Poll::Pending;
        };
        flushed?;
        self.shared.write_blocked.store(0, Relaxed);
        self.shared.unwritten.store(false, Relaxed);
        if self.shared.ends_with_peer.load(Relaxed)
            && !self.upgraded
            && matches!(self.stream.poll_end(cx), Poll::Ready(Ok(true)))
        {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Poll::Ready(Ok(()))
    }
    /// Closes our side, then reads until the peer closes its own. Closing with unread input would
    /// reset the connection, and a client that is still uploading would not see its answer.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.shared.lingering.load(Relaxed) == 0 {
            let Poll::Ready(shut) = Pin::new(&mut self.stream).poll_shutdown(cx) else {
                self.blocked();
                return Poll::Pending;
            };
            shut?;
            let now = self.shared.moment(crate::clock::timer_now());
            self.shared.lingering.store(now, Relaxed);
        }
        let mut dropped = [0u8; 8 * 1024];
        loop {
            let mut buf = ReadBuf::new(&mut dropped);
            match ready!(self.stream.poll_rest(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => self.lingered_bytes += buf.filled().len(),
                _ => return Poll::Ready(Ok(())),
            }
            if self.lingered_bytes > limits::LINGER_BYTES_MAX {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without it a body would be changed, or another length than the two intended ones.
    #[test]
    fn only_a_length_that_no_body_has_is_shortened() {
        let shortened = |text: &str| {
            let mut bytes = text.as_bytes().to_vec();
            shorten_length(&mut bytes);
            String::from_utf8(bytes).expect("UTF-8")
        };
        let head = |field: &str| format!("POST / HTTP/1.1\r\nHost: x\r\n{field}\r\n\r\n");
        for last in ["14", "15"] {
            let field = format!("Content-LENGTH:  184467440737095516{last}");
            let expected = "Content-LENGTH:  18446744073709551613";
            assert_eq!(shortened(&head(&field)), head(expected));
        }
        for field in [
            "Content-Length: 18446744073709551613",
            "Content-Length: 18446744073709551616",
            "Content-Length: 184467440737095516140",
            "Content-Length: 118446744073709551614",
            "X-Content-Length: 18446744073709551614",
            "Content-Length: 1, 18446744073709551614",
        ] {
            assert_eq!(shortened(&head(field)), head(field));
        }
        let body = head("Content-Length: 99") + "\r\nContent-Length: 18446744073709551614\r\n";
        assert_eq!(shortened(&body), body);
        let cut = "POST / HTTP/1.1\r\nContent-Length: 1844674407370955161";
        assert_eq!(shortened(cut), cut);
    }
}
