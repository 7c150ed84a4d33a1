//! What comes before HTTP on a listener with TLS: the handshake.
//!
//! A connection in its handshake has its place, a bounded time, and of the memory of connections what
//! it sent. It computes only while it has one of a few permits, and never waits for its peer with
//! one: a peer that is slow or silent holds up nobody.

use super::{
    connection::{ConnShared, Counted, Stream, Tls, Watched},
    stats::Stats,
};
use crate::{
    buffers::Buffers,
    limits,
    telemetry::{metrics, repeats},
    tls::{
        Certified, ListenerTls,
        certificate::{self, Validity},
    },
};
use std::{future::poll_fn, io, pin::Pin, sync::Arc, task::Poll};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, sync::Semaphore, time::timeout};
use tokio_rustls::TlsAcceptor;

/// The first byte of a TLS connection: a record of its handshake (RFC 8446, 5.1).
const FIRST_BYTE: u8 = 0x16;

/// The answer to a request in clear. Its sender reads it, and nothing after it is read.
const SPEAKS_TLS: &str = "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\n\
    content-length: 48\r\nconnection: close\r\n\r\n\
    This port speaks TLS: use https://, not http://\n";

/// The connection once its handshake is done; `None` if it has ended. Its first bytes show what was agreed
/// on, as they do in clear.
pub(super) async fn handshake(
    tls: &ListenerTls,
    stream: TcpStream,
    shared: &Arc<ConnShared>,
    buffers: &Arc<Buffers>,
    stats: &Stats,
) -> Option<Stream> {
    let time = match shared.is_for_probes() {
        true => limits::PROBE_CONNECTION_IDLE,
        false => limits::TLS_HANDSHAKE_TIMEOUT,
    };
    let shook = tokio::select! {
        biased;
        () = poll_fn(|cx| shared.poll_ordered_to_end(cx)) => return None,
        shook = timeout(time, shake(tls, stream, shared, buffers)) => shook,
    };
    let (outcome, left) = match shook {
        Ok(Ok(done)) => {
            metrics().handshake(tls.listener(), "done");
            return Some(done);
        }
        Ok(Err(Failed::Clear(mut stream))) => {
            let _ = stream.write_all(SPEAKS_TLS.as_bytes()).await;
            ("clear", Some(stream))
        }
        Ok(Err(Failed::Tls(error, stream))) => {
            if repeats::admit("TLS handshakes failed", tls.listener()) {
                tracing::info!(listener = tls.listener(), %error, "a TLS handshake failed");
            }
            ("failed", Some(stream))
        }
        Ok(Err(Failed::Closed)) => ("closed", None),
        Err(_) => ("timeout", None),
    };
    metrics().handshake(tls.listener(), outcome);
    if let Some(stream) = left {
        // With input unread the peer would see a reset, and not why.
        let mut io = Watched::new(Stream::Plain(stream), shared.clone(), stats.clone());
        let _ = timeout(limits::LINGER, io.shutdown()).await;
    }
    None
}

enum Failed {
    /// The peer has ended the connection.
    Closed,
    /// It is a request in clear.
    Clear(TcpStream),
    Tls(io::Error, TcpStream),
}

async fn shake(
    tls: &ListenerTls,
    stream: TcpStream,
    shared: &ConnShared,
    buffers: &Arc<Buffers>,
) -> Result<Stream, Failed> {
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(1..) if first[0] == FIRST_BYTE || !first[0].is_ascii_uppercase() => {}
        Ok(1..) => return Err(Failed::Clear(stream)),
        Ok(0) | Err(_) => return Err(Failed::Closed),
    }
    let io = Counted::of_handshake(stream, buffers);
    let (config, authority) = tls.config_and_authority();
    let accepting = TlsAcceptor::from(config).accept(io).into_fallible();
    let stream = match computed(tls.computing(), accepting).await {
        Ok(stream) => stream,
        Err((error, _)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(Failed::Closed);
        }
        Err((error, io)) => return Err(Failed::Tls(error, io.into_inner())),
    };
    let (_, session) = stream.get_ref();
    // It was verified in the handshake.
    let chain = session.peer_certificates().unwrap_or_default();
    if let Some(name) = chain.first().and_then(certificate::name)
        && let Ok(Validity { until, .. }) = Validity::of(chain)
    {
        shared.certified(Certified { name, until, authority, tls: tls.clone() });
    }
    Ok(Stream::Tls(Tls::new(stream, buffers)))
}

/// Polls it with a permit each time, and waits without one.
async fn computed<F: Future + Unpin>(permits: &Semaphore, mut work: F) -> F::Output {
    loop {
        // It is never closed.
        let permit = permits.acquire().await;
        let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut work).poll(cx))).await;
        drop(permit);
        if let Poll::Ready(done) = polled {
            return done;
        }
        // It has the waker of this task.
        let mut woken = false;
        poll_fn(|_| match std::mem::replace(&mut woken, true) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client would wait for the rest, or take the next answer for a part of it.
    #[test]
    fn the_answer_in_clear_is_as_long_as_it_says() {
        let (head, body) = SPEAKS_TLS.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
    }
}
