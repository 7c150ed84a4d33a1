//! Uploads of components, limited in number, total bytes, and by a minimal rate.

use super::messages::{Deadline, read_body};
use crate::{
    buffers::{Buffers, Charge, Kind},
    error::{Code, Error},
    limits,
};
use bytes::Bytes;
use http_body::{Body, Frame};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::{sync::Semaphore, time::Sleep};

pub(super) struct Uploads {
    places: Semaphore,
    buffers: Arc<Buffers>,
}

/// An uploaded component. Its bytes are charged until it is dropped, including while it waits to be
/// compiled.
pub(super) struct Upload {
    pub(super) component: Bytes,
    _room: Charge,
}

impl Uploads {
    pub(super) fn new() -> Self {
        Self {
            places: Semaphore::new(limits::UPLOADS_MAX),
            // Uploads may use three quarters.
            buffers: Arc::new(Buffers::new(limits::UPLOADS_BYTES_MAX.div_ceil(3) * 4)),
        }
    }

    /// Receives a component.
    ///
    /// # Errors
    /// `limit-reached` if others use all places or bytes; `body-too-large`; `request-timeout` if it
    /// arrives too slowly.
    pub(super) async fn receive<B>(&self, body: B) -> Result<Upload, Error>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let _place = self.places.try_acquire().map_err(|_| {
            let max = limits::UPLOADS_MAX;
            Error::new(
                Code::LimitReached,
                format!("{max} components are already being uploaded; try again"),
            )
        })?;
        let mut room = Charge::new(self.buffers.clone(), Kind::Bodies);
        let mut paced = Paced::new(body);
        let deadline = Deadline::after(limits::UPLOAD_DEADLINE);
        let read = read_body(&mut paced, limits::COMPONENT_BYTES_MAX, &mut room);
        let read = deadline.limit(std::pin::pin!(read)).await;
        match read {
            Some(Ok(component)) => Ok(Upload { component, _room: room }),
            Some(Err(error)) if error.code == Code::BuffersFull => Err(Error::new(
                Code::LimitReached,
                format!(
                    "components being uploaded and deployed use all {} bytes reserved for them; \
                     try again",
                    limits::UPLOADS_BYTES_MAX
                ),
            )),
            Some(Err(_)) if paced.slow => Err(Error::new(
                Code::RequestTimeout,
                format!(
                    "less than {} bytes of the component arrived within {:?}",
                    limits::UPLOAD_WINDOW_BYTES_MIN,
                    limits::UPLOAD_WINDOW
                ),
            )),
            Some(Err(error)) => Err(error),
            None => Err(Error::new(
                Code::RequestTimeout,
                "the component did not arrive before the deadline",
            )),
        }
    }
}

/// A body that ends with an error if it arrives too slowly.
struct Paced<B> {
    body: B,
    window: Pin<Box<Sleep>>,
    /// Bytes that arrived in this window.
    bytes: usize,
    slow: bool,
}

#[derive(Debug)]
struct Slow;

impl<B> Paced<B> {
    fn new(body: B) -> Self {
        let window = Box::pin(tokio::time::sleep(limits::UPLOAD_WINDOW));
        Self { body, window, bytes: 0, slow: false }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Paced<B> {
    type Data = Bytes;
    type Error = Slow;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Slow>>> {
        while self.window.as_mut().poll(cx).is_ready() {
            if self.bytes < limits::UPLOAD_WINDOW_BYTES_MIN {
                self.slow = true;
                return Poll::Ready(Some(Err(Slow)));
            }
            self.bytes = 0;
            self.window.set(tokio::time::sleep(limits::UPLOAD_WINDOW));
        }
        Pin::new(&mut self.body).poll_frame(cx).map(|frame| {
            let frame = frame?.map_err(|_| Slow);
            self.bytes += frame.as_ref().map_or(0, |f| f.data_ref().map_or(0, Bytes::len));
            Some(frame)
        })
    }
    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{poll, stream};
    use http_body_util::{BodyExt, Full, StreamBody};
    use std::{convert::Infallible, time::Duration};

    const SECOND: Duration = Duration::from_secs(1);

    /// A body of so many pieces, one each second.
    fn dribble(pieces: usize, bytes: usize) -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
        let pieces = stream::unfold(pieces, move |left| async move {
            tokio::time::sleep(SECOND).await;
            let piece = Bytes::from(vec![b'x'; bytes]);
            (left > 0).then(|| (Ok::<_, Infallible>(Frame::data(piece)), left - 1))
        });
        StreamBody::new(Box::pin(pieces)).boxed_unsync()
    }

    /// Without it two stalled uploads block every other deploy.
    #[tokio::test(start_paused = true)]
    async fn uploads_that_stand_still_hold_nobody_up() {
        let uploads = Uploads::new();
        let mut stalled: Vec<_> =
            (1..limits::UPLOADS_MAX).map(|_| Box::pin(uploads.receive(dribble(999, 1)))).collect();
        for upload in &mut stalled {
            assert!(poll!(upload).is_pending());
        }
        let small = || Full::new(Bytes::from_static(b"component"));
        assert_eq!(uploads.receive(small()).await.unwrap().component.len(), 9);
        stalled.push(Box::pin(uploads.receive(dribble(999, 1))));
        assert!(poll!(stalled.last_mut().unwrap()).is_pending());
        let refused = uploads.receive(small()).await.err().map(|error| error.code);
        assert_eq!(refused, Some(Code::LimitReached));
        for upload in stalled {
            let error = tokio::time::timeout(2 * limits::UPLOAD_WINDOW, upload).await.unwrap();
            let error = error.err().expect("it is given up");
            assert_eq!(error.code, Code::RequestTimeout, "{error}");
        }
        assert_eq!(uploads.buffers.held(Kind::Bodies), 0);
        let steady = dribble(30, limits::UPLOAD_WINDOW_BYTES_MIN / 5);
        assert!(uploads.receive(steady).await.is_ok(), "slow, but not too slow");
    }

    /// Without it a few uploads of the maximum size exhaust a node's memory.
    #[tokio::test]
    async fn their_bytes_are_bounded_together_until_they_are_deployed() {
        let uploads = Uploads::new();
        let large = || Full::new(Bytes::from(vec![0; limits::COMPONENT_BYTES_MAX]));
        let mut held = Vec::new();
        let refused = loop {
            match uploads.receive(large()).await {
                Ok(upload) => held.push(upload),
                Err(error) => break error.code,
            }
        };
        let most = limits::UPLOADS_BYTES_MAX / limits::COMPONENT_BYTES_MAX;
        assert_eq!((refused, held.len()), (Code::LimitReached, most));
        held.pop();
        assert!(uploads.receive(large()).await.is_ok());
    }
}
