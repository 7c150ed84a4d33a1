//! A body that is made in pieces, each freed as soon as it is sent, so only the unsent part waits
//! for a slow reader.

use crate::limits;
use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    pin::Pin,
    task::{Context, Poll},
};

/// The output so far.
#[derive(Default)]
pub(super) struct Pieces {
    whole: VecDeque<Bytes>,
    /// It is complete at [`limits::ANSWER_PIECE_BYTES`].
    last: Vec<u8>,
    length: u64,
}

impl Pieces {
    /// Copies as much as fits into the last piece, and returns how much that is.
    fn put(&mut self, bytes: &[u8]) -> usize {
        const PIECE: usize = limits::ANSWER_PIECE_BYTES;
        let taken = bytes.len().min(PIECE - self.last.len());
        let needed = self.last.len() + taken;
        if needed > self.last.capacity() {
            // Most answers are small; larger ones consist of full pieces.
            let room = match self.whole.is_empty() {
                true => needed.max(2 * self.last.capacity()).clamp(128, PIECE),
                false => PIECE,
            };
            self.last.reserve_exact(room - self.last.len());
        }
        self.last.extend_from_slice(&bytes[..taken]);
        if self.last.len() == PIECE {
            self.whole.push_back(Bytes::from(std::mem::take(&mut self.last)));
        }
        self.length += taken as u64;
        taken
    }

    /// As the body of an answer, with known length.
    pub(super) fn into_body(mut self) -> Body {
        self.last.shrink_to_fit();
        let last = Bytes::from(std::mem::take(&mut self.last));
        if self.whole.is_empty() {
            return last.into();
        }
        if !last.is_empty() {
            self.whole.push_back(last);
        }
        Body::new(Rest { pieces: self.whole, length: self.length })
    }
}

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.put(bytes))
    }
    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            bytes = &bytes[self.put(bytes)..];
        }
        Ok(())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Pieces that are not sent yet.
struct Rest {
    pieces: VecDeque<Bytes>,
    length: u64,
}

impl http_body::Body for Rest {
    type Data = Bytes;
    type Error = Infallible;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.pieces.pop_front();
        self.length -= piece.as_ref().map_or(0, Bytes::len) as u64;
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }
    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }
    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body::Body as _;
    use std::io::Write as _;

    /// Without it an answer would hold more than it accounts for until its last byte is read, or
    /// differ from what was written.
    #[tokio::test]
    async fn a_body_is_made_of_full_pieces_that_hold_no_more_than_they_say() {
        const PIECE: usize = limits::ANSWER_PIECE_BYTES;
        for length in [0, 1, 127, 5_000, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 10 * PIECE + 77] {
            for step in [1, 7, 4_096, PIECE, 5 * PIECE] {
                let written: Vec<u8> = (0..length).map(|at| (at * 31 % 251) as u8).collect();
                let mut pieces = Pieces::default();
                for part in written.chunks(step) {
                    pieces.write_all(part).expect("written");
                }
                let held = pieces.whole.len() * PIECE + pieces.last.capacity();
                assert!(held <= 2 * length.max(64), "{held} bytes for {length} by {step}");
                let body = pieces.into_body();
                assert_eq!(body.size_hint().exact(), Some(length as u64));
                let mut data = body.into_data_stream();
                let mut read = Vec::new();
                while let Some(piece) = futures_util::StreamExt::next(&mut data).await {
                    let piece = piece.expect("a piece");
                    assert!(piece.len() <= PIECE);
                    read.extend_from_slice(&piece);
                }
                assert_eq!(read, written);
            }
        }
    }
}
