//! An event stream that takes its connection over.
//!
//! hyper keeps two buffers of 8 KiB and more for each connection. No other request can follow an
//! event stream, so it takes the connection over: only the socket and the stream remain.

use super::{
    connection::{InFlight, Watched},
    events::EventStream,
};
use crate::{
    buffers::{Buffers, Charge, Kind},
    limits,
};
use http::{HeaderMap, Version, header};
use std::{future::poll_fn, io, pin::Pin, sync::Arc, task::Poll};
use tokio::io::AsyncWrite;

/// An answer that takes its connection over.
pub(super) struct Takeover {
    head: Vec<u8>,
    /// The body is chunked, so that its end differs from a broken connection. HTTP/1.0 has no
    /// chunks.
    chunked: bool,
    stream: EventStream,
    buffers: Arc<Buffers>,
    /// Keeps the request in flight for as long as the stream.
    _in_flight: InFlight,
}

impl Takeover {
    /// For a response of status 200 with these headers.
    pub(super) fn new(
        version: Version,
        headers: &HeaderMap,
        stream: EventStream,
        buffers: &Arc<Buffers>,
        in_flight: InFlight,
    ) -> Self {
        let chunked = version == Version::HTTP_11;
        let date = httpdate::fmt_http_date(crate::clock::wall());
        let mut head =
            format!("HTTP/1.1 200 OK\r\nconnection: close\r\ndate: {date}\r\n").into_bytes();
        // The router has measured a body that is not the stream.
        let framing = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION];
        for (name, value) in headers.iter().filter(|(name, _)| !framing.contains(name)) {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        if chunked {
            head.extend_from_slice(b"transfer-encoding: chunked\r\n");
        }
        head.extend_from_slice(b"\r\n");
        Self { head, chunked, stream, buffers: buffers.clone(), _in_flight: in_flight }
    }

    /// Until the stream, the peer or the connection has ended. The caller must cut a peer that
    /// reads nothing.
    pub(super) async fn run(self, mut io: Watched) {
        let Self { head, chunked, mut stream, buffers, _in_flight } = self;
        let mut charge = Charge::new(buffers, Kind::Answers);
        let mut out = head;
        loop {
            if write(&mut io, &out, out.capacity(), &mut charge).await.is_err() {
                return;
            }
            // Nothing is held while idle.
            out = Vec::new();
            let chunk = tokio::select! {
                biased;
                () = poll_fn(|cx| io.poll_peers_end(cx)) => return,
                chunk = stream.next() => chunk,
            };
            let Some(chunk) = chunk else { break };
            // Exact size: it may wait for long.
            out.reserve_exact(chunk.len() + CHUNK_FRAME_BYTES_MAX);
            if chunked {
                out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            }
            out.extend_from_slice(&chunk);
            if chunked {
                out.extend_from_slice(b"\r\n");
            }
        }
        let last: &[u8] = if chunked { b"0\r\n\r\n" } else { b"" };
        if write(&mut io, last, last.len(), &mut charge).await.is_ok() {
            let _ = poll_fn(|cx| Pin::new(&mut io).poll_shutdown(cx)).await;
        }
    }
}

/// Overhead of a chunk: its length in hexadecimal and two line ends.
const CHUNK_FRAME_BYTES_MAX: usize = 2 * size_of::<usize>() + 4;

/// Writes all of it, or until the peer has ended. All that it `holds` is charged while the peer
/// does not read it. When the budget is exhausted, a peer with more than
/// [`limits::SUBSCRIBER_BYTES_FREE`] is cut: it reconnects with the last id that it saw.
async fn write(
    io: &mut Watched,
    mut bytes: &[u8],
    holds: usize,
    charge: &mut Charge,
) -> io::Result<()> {
    poll_fn(|cx| {
        while !bytes.is_empty() {
            match Pin::new(&mut *io).poll_write(cx, bytes) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                Poll::Ready(Ok(n)) => bytes = &bytes[n..],
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    return match charge.set(holds) {
                        Err(_) if holds > limits::SUBSCRIBER_BYTES_FREE => {
                            Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()))
                        }
                        _ => Poll::Pending,
                    };
                }
            }
        }
        charge.hold(0);
        Pin::new(&mut *io).poll_flush(cx)
    })
    .await
}
