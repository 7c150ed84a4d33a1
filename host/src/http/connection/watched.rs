//! The bytes of a connection, counted and watched.

use super::{super::stats::Stats, ConnShared};
use crate::limits;
use memchr::memmem::{self, Finder};
use std::{
    io,
    pin::Pin,
    sync::{Arc, LazyLock, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// The connection's bytes, counted and watched.
pub(in super::super) struct Watched {
    stream: TcpStream,
    shared: Arc<ConnShared>,
    stats: Stats,
    lingered_bytes: usize,
    /// Bytes that the peer has read since it was last found to read nothing.
    progress: usize,
    upgraded: bool,
    /// How much of HTTP/2's preface the connection has begun with; `None`: it has begun with
    /// something else.
    preface: Option<usize>,
}

/// What an HTTP/2 client sends first if it assumes that the server supports it.
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Its first byte after the request line.
const BEHIND_HTTP2_LINE: usize = 18;

impl Watched {
    pub(in super::super) fn new(stream: TcpStream, shared: Arc<ConnShared>, stats: Stats) -> Self {
        Self {
            stream,
            shared,
            stats,
            lingered_bytes: 0,
            progress: 0,
            upgraded: false,
            preface: Some(0),
        }
    }
    /// hyper closes the connection on HTTP/2's preface without an answer. Not on one with a typo:
    /// that is a request of an unknown version, and gets 400.
    fn spoil_preface(&mut self, read: &mut [u8]) {
        let Some(seen) = self.preface else { return };
        let expected = &HTTP2_PREFACE[seen..];
        let len = read.len().min(expected.len());
        let matches = read[..len] == expected[..len];
        if matches && let Some(at) = BEHIND_HTTP2_LINE.checked_sub(seen).filter(|at| *at < len) {
            read[at] = b'-';
        }
        self.preface = (matches && len < expected.len()).then_some(seen + len);
    }
    /// It carries something else from now on, which does its own accounting.
    pub(in super::super) fn upgraded(mut self) -> Self {
        self.upgraded = true;
        self
    }
    /// Resolves when the peer has half-closed and all its input was read.
    pub(in super::super) fn poll_peers_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut byte = [0];
        match self.stream.poll_peek(cx, &mut ReadBuf::new(&mut byte)) {
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(()),
            // It sends data that nothing reads; writing will show its end.
            Poll::Ready(Ok(_)) | Poll::Pending => Poll::Pending,
        }
    }
    fn wrote(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let shared = &self.shared;
        match &written {
            Poll::Ready(Ok(n)) => {
                self.stats.bytes_out.increment(*n as u64);
                if shared.wrote(*n) {
                    cx.waker().wake_by_ref();
                }
                self.progress += n;
                if self.progress >= limits::WRITE_PROGRESS_BYTES {
                    shared.write_blocked.store(0, Relaxed);
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending if shared.write_blocked.load(Relaxed) == 0 => {
                let now = shared.moment(crate::clock::timer_now());
                shared.write_blocked.store(now, Relaxed);
                self.progress = 0;
            }
            Poll::Pending => {}
        }
        written
    }
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
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let read = &mut buf.filled_mut()[before..];
        self.stats.bytes_in.increment(read.len() as u64);
        if self.upgraded {
            return Poll::Ready(Ok(()));
        }
        if self.preface.is_some() {
            self.spoil_preface(read);
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
        self.shared.write_blocked.store(0, Relaxed);
        self.shared.unwritten.store(false, Relaxed);
        if self.shared.ends_with_peer.load(Relaxed) {
            let mut byte = [0];
            let peeked = self.stream.poll_peek(cx, &mut ReadBuf::new(&mut byte));
            if matches!(peeked, Poll::Ready(Ok(0))) {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    /// Closes our side, then reads until the peer closes its own. Closing with unread input would
    /// reset the connection, and a client that is still uploading would not see its answer.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.shared.lingering.load(Relaxed) == 0 {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            let now = self.shared.moment(crate::clock::timer_now());
            self.shared.lingering.store(now, Relaxed);
        }
        let mut dropped = [0u8; 8 * 1024];
        loop {
            let mut buf = ReadBuf::new(&mut dropped);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf)) {
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
