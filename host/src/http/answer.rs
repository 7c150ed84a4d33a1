//! The body of an answer, and the memory that it uses until the peer has read it.

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
/// It is passed on in pieces, each once the previous one is written: hyper copies what it gets into
/// a buffer, and never shrinks it.
pub(super) struct ReplyBody {
    /// Not passed on yet.
    rest: Bytes,
    /// Where the rest comes from.
    more: Option<axum::body::Body>,
    /// Bytes are charged as they arrive, not all in advance.
    is_stream: bool,
    /// Bytes that were passed on but are still held, as part of the rest.
    kept: usize,
    connection: Arc<ConnShared>,
    /// Keeps the request in flight for as long as its answer.
    _in_flight: Option<InFlight>,
}

impl ReplyBody {
    /// Charged even above the limit: the answer reports what has already happened.
    pub(super) fn whole(bytes: Bytes, connection: &Arc<ConnShared>) -> Self {
        connection.answers();
        let _ = connection.answer_waits(bytes.len());
        let connection = connection.clone();
        Self { rest: bytes, more: None, is_stream: false, kept: 0, connection, _in_flight: None }
    }

    /// The guard ends when the body does.
    ///
    /// # Errors
    /// `buffers-full` if its length is known and there is no room for it.
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
            kept: 0,
            connection: connection.clone(),
            _in_flight: Some(in_flight),
        })
    }

    /// The next piece of what is here.
    fn piece(&mut self) -> Bytes {
        let length = self.rest.len().min(limits::ANSWER_PIECE_BYTES);
        self.connection.hand(length);
        let piece = self.rest.split_to(length);
        if !self.rest.is_empty() {
            self.kept += length;
            let _ = self.connection.answer_waits(length);
        } else if self.kept > 0 {
            self.connection.answer_ends(std::mem::take(&mut self.kept));
        }
        piece
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
                // Trailers are not used here.
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
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        self.connection.answer_ends(left.saturating_add(self.kept));
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{pieces::Pieces, stats::Stats},
        *,
    };
    use crate::buffers::{Buffers, Kind};
    use std::{io::Write as _, task::Waker};

    const PIECE: usize = limits::ANSWER_PIECE_BYTES;

    fn connection() -> (Arc<Buffers>, Arc<ConnShared>) {
        let buffers = Arc::new(Buffers::new(1 << 30));
        let connection = ConnShared::new(false, &buffers, None, Stats::new().open_connection());
        (buffers, connection)
    }
    fn next(body: &mut ReplyBody) -> Option<usize> {
        match Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(Ok(frame))) => frame.into_data().ok().map(|piece| piece.len()),
            _ => None,
        }
    }

    /// Without it a reader that takes nearly all of an answer, and stops, would hold all of it and
    /// be charged for almost nothing.
    #[test]
    fn an_answer_in_one_piece_counts_whole_until_its_last_byte_is_on_its_way() {
        let (buffers, connection) = connection();
        let mut body = ReplyBody::whole(vec![1; 10 * PIECE].into(), &connection);
        for _ in 1..10 {
            assert_eq!(next(&mut body), Some(PIECE));
            assert_eq!(next(&mut body), None, "one at a time");
            assert_eq!(buffers.held(Kind::Answers), 11 * PIECE);
            connection.wrote(PIECE);
            assert_eq!(buffers.held(Kind::Answers), 10 * PIECE);
        }
        assert_eq!(next(&mut body), Some(PIECE));
        assert_eq!(buffers.held(Kind::Answers), PIECE);
        connection.wrote(PIECE);
        assert_eq!(buffers.held(Kind::Answers), 0);

        let mut body = ReplyBody::whole(vec![1; 10 * PIECE].into(), &connection);
        assert_eq!(next(&mut body), Some(PIECE));
        connection.wrote(PIECE);
        drop(body);
        assert_eq!(buffers.held(Kind::Answers), 0, "it is not sent after all");
    }

    /// Without it a page would be charged for bytes that are already freed.
    #[test]
    fn an_answer_in_pieces_counts_what_is_left_of_it() {
        let (buffers, connection) = connection();
        let mut pieces = Pieces::default();
        pieces.write_all(&vec![1; 9 * PIECE + 5]).expect("written");
        let body = ReplyBody::of(pieces.into_body(), &connection, connection.request());
        let mut body = body.expect("there is room");
        for left in (1..10).rev() {
            assert_eq!(buffers.held(Kind::Answers), left * PIECE + 5);
            assert_eq!(next(&mut body), Some(PIECE));
            connection.wrote(PIECE);
        }
        assert_eq!(next(&mut body), Some(5));
        drop(body);
        connection.wrote(5);
        assert_eq!(buffers.held(Kind::Answers), 0);
    }
}
