//! One connection: what watches over it, so that none stays for ever and none costs a timer a
//! request.
//!
//! Everything of a connection runs in one task. It keeps one lazy timer: armed for whatever is
//! due first when it was armed, and looked at again when it fires, so that a busy connection
//! touches the timer once in [`limits::REQUEST_DEADLINE_DEFAULT`] or so.

use super::stats::{Open, Stats};
use crate::limits;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep},
};

/// Milliseconds since the connection began, plus one; 0 is "not now".
type Moment = u64;

/// What a connection's parts know of each other. Also held by the socket that it becomes.
pub(super) struct ConnShared {
    began: Instant,
    /// As of the timer's last look.
    now: AtomicU64,
    /// Requests whose answer's body is not gone yet.
    in_flight: AtomicU64,
    /// When the request that is being handled must be answered.
    deadline: AtomicU64,
    /// Since when there is no request.
    idle_since: AtomicU64,
    /// Since when the peer takes nothing.
    write_blocked: AtomicU64,
    /// Since when nothing more is written, and what comes is dropped.
    lingering: AtomicU64,
    /// The request under way is given up when the peer ends its side.
    ends_with_peer: AtomicBool,
    stopping: AtomicBool,
    killed: AtomicBool,
    /// Of the connection's task, for the orders from outside.
    waker: Mutex<Option<Waker>>,
    /// Only requests to a local host are taken ([`super::auth::check_local_host`]).
    pub(super) local_only: bool,
    _permit: Option<OwnedSemaphorePermit>,
    _open: Open,
}

impl ConnShared {
    pub(super) fn new(local_only: bool, permit: Option<OwnedSemaphorePermit>, open: Open) -> Self {
        Self {
            began: Instant::now(),
            now: 0.into(),
            in_flight: 0.into(),
            deadline: 0.into(),
            idle_since: 1.into(),
            write_blocked: 0.into(),
            lingering: 0.into(),
            ends_with_peer: false.into(),
            stopping: false.into(),
            killed: false.into(),
            waker: Mutex::new(None),
            local_only,
            _permit: permit,
            _open: open,
        }
    }
    fn moment(&self, at: Instant) -> Moment {
        at.duration_since(self.began).as_millis() as u64 + 1
    }
    fn instant(&self, moment: Moment) -> Instant {
        self.began + Duration::from_millis(moment)
    }
    /// Counts a request until the guard goes.
    pub(super) fn request(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Relaxed);
        InFlight(self.clone())
    }
    /// Until [`ConnShared::request_done`], the task is woken when this is due.
    pub(super) fn request_began(&self, at: Instant, deadline: Duration) {
        self.deadline.store(self.moment(at + deadline), Relaxed);
    }
    pub(super) fn request_done(&self, at: Instant) {
        self.deadline.store(0, Relaxed);
        self.idle_since.store(self.moment(at), Relaxed);
    }
    pub(super) fn deadline_passed(&self) -> bool {
        let deadline = self.deadline.load(Relaxed);
        deadline != 0 && deadline <= self.now.load(Relaxed)
    }
    /// No further request; then it ends.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Relaxed);
        self.wake();
    }
    /// It ends now.
    pub(super) fn kill(&self) {
        self.killed.store(true, Relaxed);
        self.wake();
    }
    fn wake(&self) {
        if let Some(waker) = &*self.waker.lock() {
            waker.wake_by_ref();
        }
    }

    /// Looks at the clock, and says whether the connection must end.
    fn look(&self) -> bool {
        let now = self.moment(Instant::now());
        self.now.store(now, Relaxed);
        let since = |what: &AtomicU64, max: Duration| {
            let at = what.load(Relaxed);
            at != 0 && now >= at + max.as_millis() as u64
        };
        if self.in_flight.load(Relaxed) == 0 && since(&self.idle_since, limits::CONNECTION_IDLE) {
            self.stopping.store(true, Relaxed);
        }
        since(&self.write_blocked, limits::WRITE_STALL)
            || since(&self.lingering, limits::LINGER)
            // A head that does not end, after it was told to: hyper waits for its rest.
            || (self.in_flight.load(Relaxed) == 0
                && since(&self.idle_since, limits::CONNECTION_IDLE + limits::LINGER))
    }

    /// When to look at the clock next.
    fn due(&self) -> Option<Moment> {
        let after = |what: &AtomicU64, max: Duration| match what.load(Relaxed) {
            0 => None,
            at => Some(at + max.as_millis() as u64),
        };
        let idle = || {
            let patience = match self.stopping.load(Relaxed) {
                false => limits::CONNECTION_IDLE,
                true => limits::CONNECTION_IDLE + limits::LINGER,
            };
            match self.in_flight.load(Relaxed) {
                0 => after(&self.idle_since, patience),
                _ => None,
            }
        };
        let deadline = match self.deadline.load(Relaxed) {
            0 => None,
            // One that has passed was told; it is not due again.
            at if at <= self.now.load(Relaxed) => None,
            at => Some(at),
        };
        [
            deadline,
            idle(),
            after(&self.write_blocked, limits::WRITE_STALL),
            after(&self.lingering, limits::LINGER),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

/// One request, until its answer's body is written or dropped.
pub(super) struct InFlight(Arc<ConnShared>);

impl InFlight {
    /// Gives the request up when the peer ends its side: nobody reads a stream that has no end of
    /// its own. A message that was sent is answered all the same.
    pub(super) fn end_with_peer(&self) {
        self.0.ends_with_peer.store(true, Relaxed);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.ends_with_peer.store(false, Relaxed);
        if self.0.in_flight.fetch_sub(1, Relaxed) == 1 {
            self.0.request_done(Instant::now());
        }
    }
}

/// An answer's body: what a message gets, or anything else with the guard of its request.
pub(super) enum ReplyBody {
    Full(Option<bytes::Bytes>),
    /// The guard ends when the body does.
    Other(axum::body::Body, #[expect(dead_code, reason = "held for its drop")] InFlight),
}

impl Body for ReplyBody {
    type Data = bytes::Bytes;
    type Error = axum::Error;
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, axum::Error>>> {
        match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Other(body, _) => Pin::new(body).poll_frame(cx),
        }
    }
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.as_ref().is_none_or(|b| b.is_empty()),
            Self::Other(body, _) => body.is_end_stream(),
        }
    }
    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Other(body, _) => body.size_hint(),
        }
    }
}

/// The connection's bytes, counted and watched.
pub(super) struct Watched {
    stream: TcpStream,
    shared: Arc<ConnShared>,
    stats: Stats,
    lingered_bytes: usize,
}

impl Watched {
    pub(super) fn new(stream: TcpStream, shared: Arc<ConnShared>, stats: Stats) -> Self {
        Self { stream, shared, stats, lingered_bytes: 0 }
    }
    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(n)) => {
                self.stats.bytes_out.increment(*n as u64);
                self.shared.write_blocked.store(0, Relaxed);
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending if self.shared.write_blocked.load(Relaxed) == 0 => {
                let now = self.shared.moment(Instant::now());
                self.shared.write_blocked.store(now, Relaxed);
            }
            Poll::Pending => {}
        }
        written
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.stats.bytes_in.increment((buf.filled().len() - before) as u64);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(written)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(written)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    /// hyper flushes whenever it was woken, so that this is where the peer's end is seen.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.shared.ends_with_peer.load(Relaxed) {
            let mut byte = [0];
            let peeked = self.stream.poll_peek(cx, &mut ReadBuf::new(&mut byte));
            if matches!(peeked, Poll::Ready(Ok(0))) {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    /// Ends our side, then reads on until the peer ends its own. Closing with unread bytes would
    /// reset the connection, and a client that is still uploading would not see its answer.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.shared.lingering.load(Relaxed) == 0 {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            let now = self.shared.moment(Instant::now());
            self.shared.lingering.store(now, Relaxed);
        }
        let mut dropped = [0u8; 8 * 1024];
        loop {
            let mut buf = ReadBuf::new(&mut dropped);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => self.lingered_bytes += buf.filled().len(),
                _ => return Poll::Ready(Ok(())),
            }
            if self.lingered_bytes > limits::LINGER_BYTES_MAX {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

/// The connection's task.
pub(super) struct Connection<C> {
    http: Pin<Box<C>>,
    /// Tells hyper's connection to take no further request.
    graceful: fn(Pin<&mut C>),
    shared: Arc<ConnShared>,
    timer: Pin<Box<Sleep>>,
    /// What the timer is armed for.
    armed: Option<Moment>,
    started: bool,
    told: bool,
}

impl<C: Future> Connection<C> {
    pub(super) fn new(http: C, shared: Arc<ConnShared>, graceful: fn(Pin<&mut C>)) -> Self {
        let timer = Box::pin(tokio::time::sleep(Duration::ZERO));
        Self {
            http: Box::pin(http),
            graceful,
            shared,
            timer,
            armed: None,
            started: false,
            told: false,
        }
    }
}

impl<C: Future> Future for Connection<C> {
    type Output = ();
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if !this.started {
            this.started = true;
            // A task's waker is the same for all its life.
            *this.shared.waker.lock() = Some(cx.waker().clone());
        }
        if this.armed.is_some() && this.timer.as_mut().poll(cx).is_ready() {
            this.armed = None;
            if this.shared.look() {
                return Poll::Ready(());
            }
        }
        if this.shared.killed.load(Relaxed) {
            return Poll::Ready(());
        }
        if !this.told && this.shared.stopping.load(Relaxed) {
            this.told = true;
            (this.graceful)(this.http.as_mut());
        }
        // An error here is the peer's: it broke off, or does not speak HTTP.
        ready_or(this.http.as_mut().poll(cx).map(drop), || {
            if let Some(due) = this.shared.due()
                && this.armed.is_none_or(|armed| due < armed)
            {
                this.armed = Some(due);
                this.timer.as_mut().reset(this.shared.instant(due));
                if this.timer.as_mut().poll(cx).is_ready() {
                    cx.waker().wake_by_ref();
                }
            }
        })
    }
}

fn ready_or(poll: Poll<()>, pending: impl FnOnce()) -> Poll<()> {
    if poll.is_pending() {
        pending();
    }
    poll
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection that began `ago`.
    fn connection(ago: Duration) -> Option<Arc<ConnShared>> {
        let mut shared = ConnShared::new(false, None, Stats::new().open_connection());
        shared.began = shared.began.checked_sub(ago)?;
        Some(Arc::new(shared))
    }
    fn stopping(shared: &ConnShared) -> bool {
        shared.stopping.load(Relaxed)
    }
    const SECOND: Duration = Duration::from_secs(1);

    /// Without it a client could hold connections for ever, by silence or a byte at a time.
    #[test]
    fn an_idle_connection_is_told_to_stop_and_then_cut() -> Result<(), &'static str> {
        const YOUNG: &str = "the machine's clock is younger than the test needs";
        let fresh = connection(limits::CONNECTION_IDLE - SECOND).ok_or(YOUNG)?;
        assert!(!fresh.look() && !stopping(&fresh));
        let idle = connection(limits::CONNECTION_IDLE + SECOND / 2).ok_or(YOUNG)?;
        assert!(!idle.look() && stopping(&idle));
        let stuck = connection(limits::CONNECTION_IDLE + limits::LINGER + SECOND).ok_or(YOUNG)?;
        assert!(stuck.look());

        let busy = connection(limits::CONNECTION_IDLE * 2).ok_or(YOUNG)?;
        let request = busy.request();
        assert!(!busy.look() && !stopping(&busy));
        drop(request);
        assert!(!busy.look() && !stopping(&busy), "it is idle from now on only");
        Ok(())
    }

    /// Without it a peer that takes nothing would hold what is written to it for ever.
    #[test]
    fn a_peer_that_takes_nothing_is_cut() -> Result<(), &'static str> {
        let shared = connection(limits::WRITE_STALL * 2).ok_or("a young clock")?;
        let _request = shared.request();
        shared.write_blocked.store(shared.moment(Instant::now()), Relaxed);
        assert!(!shared.look());
        assert_eq!(
            shared.due(),
            Some(shared.write_blocked.load(Relaxed) + limits::WRITE_STALL.as_millis() as u64)
        );
        shared.write_blocked.store(1, Relaxed);
        assert!(shared.look());
        Ok(())
    }

    /// Without it the task would not be woken for the deadline, or spin after it.
    #[test]
    fn a_deadline_is_due_once() {
        let shared = connection(Duration::ZERO).expect("now");
        let _request = shared.request();
        assert_eq!(shared.due(), None);
        shared.request_began(Instant::now(), 5 * SECOND);
        assert!(shared.due().is_some_and(|due| due > 4_000) && !shared.deadline_passed());
        shared.request_began(Instant::now(), Duration::ZERO);
        assert!(!shared.look());
        assert!(shared.deadline_passed());
        assert_eq!(shared.due(), None);
    }
}
