//! What carries the bytes of a connection: TCP, or TLS over it.

use crate::{
    buffers::{Buffers, Charge, Kind},
    limits,
};
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncBufRead as _, AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

/// A connection's bytes in clear, whatever carries them.
pub(in super::super) enum Stream {
    Plain(TcpStream),
    /// Boxed: a connection without TLS must not be as large as one with it.
    Tls(Box<Tls>),
}

/// TLS, with what it holds.
pub(in super::super) struct Tls {
    stream: TlsStream<Counted>,
    /// Bytes that came since it last gave any: of a record that is not whole, or that nobody reads.
    held: usize,
    reading: Charge,
    writing: Charge,
}

/// TCP, with a count of the bytes that were read.
pub(in super::super) struct Counted {
    stream: TcpStream,
    read: usize,
    /// During the handshake, of which all that came may be held.
    handshake: Option<Charge>,
}

impl Counted {
    pub(in super::super) fn of_handshake(stream: TcpStream, buffers: &Arc<Buffers>) -> Self {
        let charge = Charge::new(buffers.clone(), Kind::Frames);
        Self { stream, read: 0, handshake: Some(charge) }
    }
    pub(in super::super) fn into_inner(self) -> TcpStream {
        self.stream
    }
    /// # Errors
    /// It is a handshake that is too large, or the budget is exhausted.
    fn came(&mut self, bytes: usize) -> io::Result<()> {
        self.read += bytes;
        let Some(charge) = &mut self.handshake else { return Ok(()) };
        let fits = self.read <= limits::TLS_HANDSHAKE_BYTES_MAX
            && (self.read <= limits::CONNECTION_BYTES_FREE || charge.set(self.read).is_ok());
        match fits {
            true => Ok(()),
            false => Err(io::ErrorKind::OutOfMemory.into()),
        }
    }
}

impl Tls {
    pub(in super::super) fn new(
        mut stream: TlsStream<Counted>,
        buffers: &Arc<Buffers>,
    ) -> Box<Self> {
        let (io, session) = stream.get_mut();
        (io.read, io.handshake) = (0, None);
        session.set_buffer_limit(Some(limits::TLS_WRITE_BYTES));
        Box::new(Self {
            stream,
            held: 0,
            reading: Charge::new(buffers.clone(), Kind::Frames),
            writing: Charge::new(buffers.clone(), Kind::Answers),
        })
    }

    /// Charges what came and was not given on.
    ///
    /// # Errors
    /// The budget is exhausted.
    fn came(&mut self, gave: bool) -> io::Result<()> {
        let read = std::mem::take(&mut self.stream.get_mut().0.read);
        if gave {
            // Of the next record at most one read's.
            self.held = 0;
        } else if read > 0 {
            self.held = (self.held + read).min(limits::TLS_RECORD_BYTES_MAX);
        }
        if self.held > limits::CONNECTION_BYTES_FREE {
            return match self.reading.set(self.held) {
                Ok(()) => Ok(()),
                Err(_) => Err(io::ErrorKind::OutOfMemory.into()),
            };
        }
        self.reading.hold(0);
        Ok(())
    }

    /// Charges what was taken, and is not the kernel's yet. It can't be refused any more.
    fn took(&mut self) {
        let waits = self.stream.get_ref().1.wants_write();
        self.writing.hold(if waits { limits::TLS_WRITE_BYTES } else { 0 });
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.came(buf.filled().len() > before)?;
        match read {
            // The end of TCP alone, without TLS's own. What HTTP and WebSockets carry says where
            // it ends, so nothing can be cut short unnoticed.
            Poll::Ready(Err(error)) if is_end(&error) => Poll::Ready(Ok(())),
            read => read,
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let ended = match Pin::new(&mut self.stream).poll_fill_buf(cx) {
            Poll::Ready(Ok(bytes)) => Poll::Ready(Ok(bytes.is_empty())),
            Poll::Ready(Err(error)) if is_end(&error) => Poll::Ready(Ok(true)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        };
        self.came(false)?;
        ended
    }
}

fn is_end(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
}

impl Stream {
    /// Whether the peer has half-closed, and all its input was read. TLS has nothing like TCP's
    /// peek: it takes one record at most, which the next read gives, and none while there is one.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        match self {
            Self::Plain(stream) => {
                let mut byte = [0];
                stream.poll_peek(cx, &mut ReadBuf::new(&mut byte)).map_ok(|len| len == 0)
            }
            Self::Tls(tls) => tls.poll_end(cx),
        }
    }

    /// Reads what still comes after the last answer, to drop it: as it is, without decrypting it.
    pub(super) fn poll_rest(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(&mut tls.stream.get_mut().0.stream).poll_read(cx, buf),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(tls) => tls.poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    /// What TLS takes may still wait for the peer: it is written once it is flushed.
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(tls) => {
                let written = Pin::new(&mut tls.stream).poll_write(cx, buf);
                tls.took();
                written
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(tls) => {
                let written = Pin::new(&mut tls.stream).poll_write_vectored(cx, bufs);
                tls.took();
                written
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(tls) => tls.stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(tls) => {
                let flushed = Pin::new(&mut tls.stream).poll_flush(cx);
                tls.took();
                flushed
            }
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(tls) => {
                let shut = Pin::new(&mut tls.stream).poll_shutdown(cx);
                tls.took();
                shut
            }
        }
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let came = buf.filled().len() - before;
        Poll::Ready(self.came(came))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
