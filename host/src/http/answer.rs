//! The body of an answer on its way to hyper, and what it holds until the peer has taken it.

use super::connection::{ConnShared, InFlight};
use crate::{error::Error, limits};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

/// An answer's body: what a message gets, or anything else with the guard of its request.
///
/// It is handed on in pieces, the next when the last is written: hyper takes what it is given into
/// a buffer, and keeps that as large as it ever was.
pub(super) struct ReplyBody {
    /// What has not been handed on.
    rest: Bytes,
    /// Where the rest comes from.
    more: Option<axum::body::Body>,
    /// Its bytes are charged as they come, not all at first.
    is_stream: bool,
    connection: Arc<ConnShared>,
    /// Of a request that is under way as long as its answer.
    _in_flight: Option<InFlight>,
}

impl ReplyBody {
    /// Charged whatever others hold: what it tells has happened.
    pub(super) fn whole(bytes: Bytes, connection: &Arc<ConnShared>) -> Self {
        connection.answers();
        let _ = connection.answer_waits(bytes.len());
        let connection = connection.clone();
        Self { rest: bytes, more: None, is_stream: false, connection, _in_flight: None }
    }

    /// The guard ends when the body does.
    ///
    /// # Errors
    /// `buffers-full` when its length is known and there is no room for it.
    pub(super) fn of(
        body: axum::body::Body,
        connection: &Arc<ConnShared>,
        in_flight: InFlight,
    ) -> Result<Self, Error> {
        connection.answers();
        let length = body.size_hint().exact().map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        if let Some(length) = length
            && let Err(full) = connection.answer_waits(length)
        {
            connection.answer_ends(length);
            return Err(full);
        }
        Ok(Self {
            rest: Bytes::new(),
            more: Some(body),
            is_stream: length.is_none(),
            connection: connection.clone(),
            _in_flight: Some(in_flight),
        })
    }

    /// The next piece of what is here.
    fn piece(&mut self) -> Bytes {
        let length = self.rest.len().min(limits::ANSWER_PIECE_BYTES);
        self.connection.hand(length);
        self.rest.split_to(length)
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = axum::Error;
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        if this.connection.is_handed_enough() {
            return Poll::Pending;
        }
        if this.rest.is_empty() {
            let Some(more) = &mut this.more else { return Poll::Ready(None) };
            match ready!(Pin::new(more).poll_frame(cx)).transpose()?.map(Frame::into_data) {
                Some(Ok(data)) => {
                    if this.is_stream {
                        let _ = this.connection.answer_waits(data.len());
                    }
                    this.rest = data;
                }
                // Trailers are of no use here.
                Some(Err(_)) => {}
                None => {
                    this.more = None;
                    return Poll::Ready(None);
                }
            }
        }
        Poll::Ready(Some(Ok(Frame::data(this.piece()))))
    }
    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.more.as_ref().is_none_or(Body::is_end_stream)
    }
    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let more = self.more.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint);
        match more.exact() {
            Some(more) => SizeHint::with_exact(rest + more),
            None => SizeHint::new(),
        }
    }
}

impl Drop for ReplyBody {
    fn drop(&mut self) {
        let left = match self.is_stream {
            true => self.rest.len() as u64,
            false => self.size_hint().lower(),
        };
        self.connection.answer_ends(usize::try_from(left).unwrap_or(usize::MAX));
    }
}
