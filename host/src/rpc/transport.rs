//! A connection between two nodes as the rest of a link sees it, whatever carries it: frames that
//! come in, and something that writes what is in the outbox. Encrypted links make it in [`super::tls`],
//! those of nodes from before feature level 3 in [`super::grpc`].

use super::{handshake::clean, proto::Frame};
use crate::limits;
use futures_util::{
    future::{BoxFuture, Fuse},
    stream::BoxStream,
};
use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::time::timeout;

/// How nodes talk over a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Frames in TLS 1.3, which both sides have authenticated.
    Tls,
    /// Frames in a stream of gRPC, unencrypted: with nodes from before feature level 3.
    Grpc,
}

impl Form {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Grpc => "unencrypted",
        }
    }
}

/// A connection.
pub(super) struct Transport {
    pub frames: FramesIn,
    /// Writes what is in the outbox for as long as it is polled. It ends when the outbox is closed and
    /// all is written, or with the reason why nothing more can be.
    pub pump: Pump,
    /// Must be granted once it is known who is at the other end.
    pub trust: Trust,
    /// The nodes that the other side's certificate is for; empty: any.
    pub certified: Vec<String>,
}

/// What the other side sends, until it closes the connection.
pub(super) type FramesIn = BoxStream<'static, Result<Frame, FrameError>>;
pub(super) type Pump = Fuse<BoxFuture<'static, Result<(), String>>>;

/// Why no more frames come.
#[derive(Debug)]
pub(super) enum FrameError {
    /// The other side broke the rules.
    Malformed(String),
    /// It does not accept this node's certificate. (In TLS 1.3 the caller learns that after the
    /// handshake.)
    Untrusted(String),
    /// The connection ended.
    Closed(String),
}

impl FrameError {
    pub fn into_text(self) -> String {
        match self {
            Self::Malformed(why) | Self::Untrusted(why) | Self::Closed(why) => why,
        }
    }
}

/// How large a frame may be: [`limits::PEER_HELLO_BYTES_MAX`] until it is known who sends it, because
/// one could become much larger in memory, [`limits::PEER_FRAME_BYTES_MAX`] from then on.
#[derive(Clone, Default)]
pub(super) struct Trust(Arc<Granted>);

#[derive(Default)]
struct Granted {
    known: AtomicBool,
    over: AtomicBool,
}

impl Trust {
    /// It is known who sends.
    pub fn grant(&self) {
        self.0.known.store(true, Ordering::Release);
    }

    /// What comes from now on is thrown away.
    pub fn end(&self) {
        self.0.over.store(true, Ordering::Release);
    }

    pub fn is_over(&self) -> bool {
        self.0.over.load(Ordering::Acquire)
    }

    /// # Errors
    /// A frame of this size must not be read.
    pub fn admits(&self, size: usize) -> Result<(), String> {
        let (most, whose) = match self.0.known.load(Ordering::Acquire) {
            true => (limits::PEER_FRAME_BYTES_MAX, "any peer"),
            false => (limits::PEER_HELLO_BYTES_MAX, "an unauthenticated peer"),
        };
        if size <= most {
            return Ok(());
        }
        Err(format!("a frame of {size} bytes is too large for {whose}"))
    }
}

/// Does `work` while what is in the outbox is written. If nothing more can be written, the other side
/// may have said why: there is a moment left to read that.
///
/// # Errors
/// Why nothing more can be written.
pub(super) async fn pumped<T>(pump: &mut Pump, work: impl Future<Output = T>) -> Result<T, String> {
    let mut work = pin!(work);
    let ended = tokio::select! {
        biased;
        ended = pump => ended,
        done = &mut work => return Ok(done),
    };
    match ended {
        Ok(()) => Ok(work.await),
        Err(why) => timeout(limits::PEER_STOP_GRACE, work).await.map_err(|_| why),
    }
}

/// An error with its causes, fit for a log line.
pub(super) fn deep(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    clean(&text)
}
