//! Writes an answer as its reader takes it.
//!
//! A stream hands to `h2` what its reader has opened its window for and no more: that leaves as soon
//! as the connection's socket takes it. What `h2` has is charged until it is written, or dropped
//! with its stream.

use super::{
    super::{Shutdown, connection::ConnShared},
    exchange::Ended,
};
use crate::{error::Error, limits};
use axum::body::Body as RouteBody;
use bytes::{Buf, Bytes};
use futures_util::future::BoxFuture;
use h2::{Reason, SendStream};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use std::{future::poll_fn, pin::Pin, sync::Arc};
use tokio::time::Sleep;

/// Bytes of an answer that `h2` has.
pub(super) struct Piece {
    bytes: Bytes,
    /// All that `bytes` are a part of, and therefore hold.
    _whole: Option<Arc<Whole>>,
}

/// Bytes that are held as one, charged until the last piece of them is gone.
struct Whole {
    connection: Arc<ConnShared>,
    bytes: usize,
}

impl Drop for Whole {
    fn drop(&mut self) {
        self.connection.answer_ends(self.bytes);
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }
    fn chunk(&self) -> &[u8] {
        &self.bytes
    }
    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

/// An answer's body.
pub(super) struct Answer {
    first: Bytes,
    rest: Option<RouteBody>,
    connection: Arc<ConnShared>,
    /// Charged, and not here yet.
    expected: usize,
    /// Its length is known.
    is_charged: bool,
}

impl Answer {
    /// Charged even above the limit: the answer reports what has already happened.
    pub(super) fn whole(bytes: Bytes, connection: &Arc<ConnShared>) -> Self {
        let expected = bytes.len();
        let _ = connection.answer_waits(expected);
        let connection = connection.clone();
        Self { first: bytes, rest: None, connection, expected, is_charged: true }
    }

    /// # Errors
    /// `buffers-full` if its length is known and there is no room for it.
    pub(super) fn of(body: RouteBody, connection: &Arc<ConnShared>) -> Result<Self, Error> {
        let length = body.size_hint().exact().map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        let expected = length.unwrap_or(0);
        if let Err(full) = connection.answer_waits(expected) {
            connection.answer_ends(expected);
            return Err(full);
        }
        let rest = (!body.is_end_stream()).then_some(body);
        let (first, connection) = (Bytes::new(), connection.clone());
        Ok(Self { first, rest, connection, expected, is_charged: length.is_some() })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_empty() && self.rest.is_none()
    }

    pub(super) fn length(&self) -> Option<usize> {
        self.is_charged.then_some(self.expected)
    }

    /// The next part, and whether there was room for it; `None` at the end.
    async fn next(&mut self) -> Option<Result<(Bytes, bool), axum::Error>> {
        if !self.first.is_empty() {
            return Some(Ok((std::mem::take(&mut self.first), true)));
        }
        loop {
            let frame = self.rest.as_mut()?.frame().await;
            let Some(frame) = frame else {
                self.rest = None;
                return None;
            };
            // Trailers are not used here.
            match frame.map(http_body::Frame::into_data) {
                Ok(Ok(bytes)) if bytes.is_empty() => {}
                Ok(Err(_trailers)) => {}
                Ok(Ok(bytes)) => {
                    let fits = self.is_charged || self.connection.answer_waits(bytes.len()).is_ok();
                    return Some(Ok((bytes, fits)));
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// What `next` has returned is held by its pieces from now on.
    fn hold(&mut self, bytes: usize) -> Arc<Whole> {
        if self.is_charged {
            self.expected = self.expected.saturating_sub(bytes);
        }
        Arc::new(Whole { connection: self.connection.clone(), bytes })
    }

    fn is_last(&self) -> bool {
        self.rest.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    /// Sends all of it.
    pub(super) async fn send(
        mut self,
        mut stream: SendStream<Piece>,
        shutdown: &Shutdown,
    ) -> Ended {
        let mut stall = Stall::default();
        loop {
            let next = tokio::select! {
                biased;
                next = self.next() => next,
                _ = poll_fn(|cx| stream.poll_reset(cx)) => return Ended::Reset,
            };
            let (mut bytes, fits) = match next {
                Some(Ok(next)) => next,
                // The reader must not take it for the whole.
                Some(Err(_)) => {
                    stream.send_reset(Reason::INTERNAL_ERROR);
                    return Ended::Answered;
                }
                None => {
                    let nothing = Piece { bytes: Bytes::new(), _whole: None };
                    return stream.send_data(nothing, true).into();
                }
            };
            let whole = self.hold(bytes.len());
            while !bytes.is_empty() {
                stream.reserve_capacity(bytes.len().min(limits::HTTP2_SEND_BYTES_MAX));
                let room = match stream.capacity() {
                    0 if !fits && bytes.len() > limits::SUBSCRIBER_BYTES_FREE => {
                        // Its reader comes back with the last id that it saw.
                        stream.send_reset(Reason::ENHANCE_YOUR_CALM);
                        return Ended::Answered;
                    }
                    0 => match stall.room(&mut stream, &self.connection, shutdown).await {
                        Ok(room) => room,
                        Err(ended) => return ended,
                    },
                    room => room,
                };
                let piece = bytes.split_to(room.min(bytes.len()));
                stall.sent(piece.len());
                self.connection.stream_sends();
                let piece = Piece { bytes: piece, _whole: Some(whole.clone()) };
                let last = bytes.is_empty() && self.is_last();
                if stream.send_data(piece, last).is_err() {
                    return Ended::Reset;
                }
                if last {
                    return Ended::Answered;
                }
            }
            if !self.is_charged {
                // It has taken all that there is.
                stall = Stall::default();
            }
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if self.is_charged {
            self.connection.answer_ends(self.expected);
        }
    }
}

/// A reader that takes nothing of one stream.
#[derive(Default)]
struct Stall {
    /// Since it was last found to take nothing.
    blocked: Option<Blocked>,
    taken: usize,
}

struct Blocked {
    timer: Pin<Box<Sleep>>,
    /// What the connection's streams had sent by then.
    sent: u64,
    stopping: Option<BoxFuture<'static, ()>>,
}

impl Stall {
    fn sent(&mut self, bytes: usize) {
        self.taken += bytes;
        if self.taken >= limits::WRITE_PROGRESS_BYTES {
            *self = Self::default();
        }
    }

    /// Waits until the reader has room. One that has none for [`limits::WRITE_STALL`] loses the
    /// stream, and its connection if it takes nothing of the other streams either.
    async fn room(
        &mut self,
        stream: &mut SendStream<Piece>,
        connection: &ConnShared,
        shutdown: &Shutdown,
    ) -> Result<usize, Ended> {
        if self.blocked.is_none() {
            self.taken = 0;
        }
        let blocked = self.blocked.get_or_insert_with(|| Blocked {
            timer: Box::pin(tokio::time::sleep(limits::WRITE_STALL)),
            sent: connection.sent(),
            stopping: Some(Box::pin(shutdown.triggered())),
        });
        loop {
            let Blocked { timer, sent, stopping } = blocked;
            let is_running = stopping.is_some();
            tokio::select! {
                biased;
                room = poll_fn(|cx| stream.poll_capacity(cx)) => match room {
                    Some(Ok(0)) => {}
                    Some(Ok(room)) => return Ok(room),
                    Some(Err(_)) | None => return Err(Ended::Reset),
                },
                () = timer.as_mut() => {
                    match connection.sent() == *sent {
                        true => connection.kill(),
                        false => stream.send_reset(Reason::CANCEL),
                    }
                    return Err(Ended::Answered);
                }
                // A stopping node keeps its time for peers that read.
                () = async { if let Some(stopping) = stopping { stopping.await } }, if is_running => {
                    *stopping = None;
                    timer.as_mut().reset(crate::clock::timer_now() + limits::LINGER);
                }
            }
        }
    }
}
