//! A request's body.

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, header};
use http_body::{Body, Frame, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

/// As it arrives. The peer may send more of it once what is here was taken, which whoever takes it
/// charges.
pub(super) struct Received {
    stream: RecvStream,
    /// What is left of it, if that was announced. `h2` sees to it that it is true.
    left: Option<u64>,
    ended: bool,
}

impl Received {
    pub(super) fn new(stream: RecvStream, headers: &HeaderMap) -> Self {
        let announced = headers.get(header::CONTENT_LENGTH);
        let announced = announced.and_then(|value| value.to_str().ok()?.parse().ok());
        let left = if stream.is_end_stream() { Some(0) } else { announced };
        Self { stream, left, ended: left == Some(0) }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = h2::Error;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        // Trailers are not used here.
        let Some(data) = ready!(self.stream.poll_data(cx)) else {
            self.ended = true;
            return Poll::Ready(None);
        };
        let data = data?;
        // It fails if the stream is gone, as the next piece then says.
        let _ = self.stream.flow_control().release_capacity(data.len());
        self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
    fn is_end_stream(&self) -> bool {
        self.ended || self.stream.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}
