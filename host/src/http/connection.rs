//! One connection: what watches over it, so that none stays for ever and none costs a timer a
//! request.
//!
//! Everything of a connection runs in one task. It keeps one lazy timer: armed for whatever is
//! due first when it was armed, and looked at again when it fires, so that a busy connection
//! touches the timer once in [`limits::REQUEST_DEADLINE_DEFAULT`] or so.

use super::{
    events::EventStream,
    places::{self, Place},
    stats::{Open, Stats},
    streaming::Takeover,
};
use crate::{
    buffers::{Buffers, Charge, Kind},
    error::Error,
    limits,
};
use memchr::memmem::{self, Finder};
use parking_lot::Mutex;
use std::{
    io,
    pin::Pin,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
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
    /// It has sent no request yet.
    silent: AtomicBool,
    /// Its task is over: it is a socket now, or gone.
    handed_on: AtomicBool,
    /// Only requests to a local host are taken ([`super::auth::check_local_host`]).
    pub(super) local_only: bool,
    /// Bytes of answers that the peer has not taken.
    unread: AtomicUsize,
    /// Those of them that hyper has.
    handed: AtomicUsize,
    /// A body waits until hyper has written what it has.
    body_waits: AtomicBool,
    /// Bytes of a head that is not whole.
    head: AtomicUsize,
    /// An event stream that is to have the connection, then with the head of its answer.
    stream: Mutex<Option<Box<EventStream>>>,
    takeover: Mutex<Option<Takeover>>,
    /// Answers that hyper may not have written.
    unwritten: AtomicBool,
    answers: Mutex<Charge>,
    heads: Mutex<Charge>,
    /// `None` in tests alone.
    place: Option<Place>,
    _open: Open,
}

impl ConnShared {
    pub(super) fn new(
        local_only: bool,
        buffers: &Arc<Buffers>,
        place: Option<Place>,
        open: Open,
    ) -> Arc<Self> {
        let shared = Arc::new(Self::of(local_only, buffers, place, open));
        if let Some(place) = &shared.place {
            place.took(&shared);
        }
        shared
    }
    fn of(local_only: bool, buffers: &Arc<Buffers>, place: Option<Place>, open: Open) -> Self {
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
            silent: true.into(),
            handed_on: false.into(),
            local_only,
            unread: 0.into(),
            handed: 0.into(),
            body_waits: false.into(),
            head: 0.into(),
            stream: Mutex::new(None),
            takeover: Mutex::new(None),
            unwritten: false.into(),
            answers: Mutex::new(Charge::new(buffers.clone(), Kind::Answers)),
            heads: Mutex::new(Charge::new(buffers.clone(), Kind::Frames)),
            place,
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
        if self.head.swap(0, Relaxed) > limits::CONNECTION_BYTES_FREE {
            self.heads.lock().hold(0);
        }
        if self.silent.load(Relaxed) && self.silent.swap(false, Relaxed) {
            self.place.iter().for_each(Place::heard);
        }
        InFlight(self.clone())
    }
    /// A handler has made a stream, which is to have the connection to itself.
    pub(super) fn offer_stream(&self, stream: EventStream) {
        *self.stream.lock() = Some(Box::new(stream));
    }
    pub(super) fn offered_stream(&self) -> Option<Box<EventStream>> {
        self.stream.lock().take()
    }
    /// The connection's task gives it over once hyper has written what it has. Its request is not
    /// answered in another way.
    pub(super) fn take_over(&self, takeover: Takeover) {
        *self.takeover.lock() = Some(takeover);
        self.wake();
    }
    /// An answer waits until the peer takes it. What every connection may hold is not charged.
    ///
    /// # Errors
    /// `buffers-full`. It is charged all the same: what can't be refused any more is sent.
    pub(super) fn answer_waits(&self, bytes: usize) -> Result<(), Error> {
        let unread = self.unread.fetch_add(bytes, Relaxed) + bytes;
        match unread > limits::CONNECTION_BYTES_FREE {
            true => self.answers.lock().set(unread),
            false => Ok(()),
        }
    }
    /// hyper is given an answer: it has written all only once it flushes again.
    pub(super) fn answers(&self) {
        self.unwritten.store(true, Relaxed);
    }
    /// Whether hyper has as much of an answer as it is to have. Then the connection's task is woken
    /// when it has less.
    pub(super) fn is_handed_enough(&self) -> bool {
        let enough = self.handed.load(Relaxed) >= limits::ANSWER_PIECE_BYTES;
        self.body_waits.store(enough, Relaxed);
        enough
    }
    /// hyper is given so many bytes of an answer.
    pub(super) fn hand(&self, bytes: usize) {
        self.handed.fetch_add(bytes, Relaxed);
    }
    /// So many bytes of answers were written, or are not sent after all.
    pub(super) fn answer_ends(&self, bytes: usize) {
        let before = self.unread.load(Relaxed);
        if before == 0 {
            return;
        }
        let unread = before.saturating_sub(bytes);
        self.unread.store(unread, Relaxed);
        if before > limits::CONNECTION_BYTES_FREE {
            let charged = if unread > limits::CONNECTION_BYTES_FREE { unread } else { 0 };
            self.answers.lock().hold(charged);
        }
    }
    /// Bytes were read. Of requests that have begun only their bodies come, charged elsewhere.
    fn heard(&self, bytes: usize) -> io::Result<()> {
        if self.in_flight.load(Relaxed) > 0 {
            return Ok(());
        }
        let head = self.head.fetch_add(bytes, Relaxed) + bytes;
        if head > limits::CONNECTION_BYTES_FREE && self.heads.lock().set(head).is_err() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        Ok(())
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
    /// It is one of those of a full listener: probes alone are answered, once.
    pub(super) fn is_for_probes(&self) -> bool {
        self.place.as_ref().is_some_and(|place| place.kind == places::Kind::Probe)
    }
    /// How long it has been waiting for another request; `None`: it does not, or is a socket.
    pub(super) fn idle(&self, now: Instant) -> Option<Duration> {
        let waits = !self.silent.load(Relaxed)
            && !self.handed_on.load(Relaxed)
            && self.in_flight.load(Relaxed) == 0
            && self.write_blocked.load(Relaxed) == 0;
        waits.then(|| now.saturating_duration_since(self.instant(self.idle_since.load(Relaxed))))
    }
    /// Its task is over.
    pub(super) fn hand_on(&self) {
        self.handed_on.store(true, Relaxed);
    }
    #[cfg(test)]
    pub(super) fn is_killed(&self) -> bool {
        self.killed.load(Relaxed)
    }
    /// How long it may wait for a request.
    fn idle_max(&self) -> Duration {
        match self.is_for_probes() {
            true => limits::PROBE_CONNECTION_IDLE,
            false => limits::CONNECTION_IDLE,
        }
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
        if self.in_flight.load(Relaxed) == 0 && since(&self.idle_since, self.idle_max()) {
            self.stopping.store(true, Relaxed);
        }
        since(&self.write_blocked, self.write_patience())
            || since(&self.lingering, limits::LINGER)
            // A head that does not end, after it was told to: hyper waits for its rest.
            || (self.in_flight.load(Relaxed) == 0
                && since(&self.idle_since, self.idle_max() + limits::LINGER))
    }

    /// How long a peer may take nothing. A node that stops has its time for those who do.
    fn write_patience(&self) -> Duration {
        match self.stopping.load(Relaxed) {
            true => limits::LINGER,
            false => limits::WRITE_STALL,
        }
    }

    /// When to look at the clock next.
    fn due(&self) -> Option<Moment> {
        let after = |what: &AtomicU64, max: Duration| match what.load(Relaxed) {
            0 => None,
            at => Some(at + max.as_millis() as u64),
        };
        let idle = || {
            let patience = match self.stopping.load(Relaxed) {
                false => self.idle_max(),
                true => self.idle_max() + limits::LINGER,
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
            after(&self.write_blocked, self.write_patience()),
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

/// The connection's bytes, counted and watched.
pub(super) struct Watched {
    stream: TcpStream,
    shared: Arc<ConnShared>,
    stats: Stats,
    lingered_bytes: usize,
    /// Bytes that the peer has taken since it was last found to take none.
    progress: usize,
    upgraded: bool,
    /// How much of HTTP/2's preface the connection has begun with; `None`: it has not.
    preface: Option<usize>,
}

/// What a client of HTTP/2 sends first when it takes for granted that the server speaks it.
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Its first byte behind the request line.
const BEHIND_HTTP2_LINE: usize = 18;

impl Watched {
    pub(super) fn new(stream: TcpStream, shared: Arc<ConnShared>, stats: Stats) -> Self {
        Self {
            stream,
            shared,
            stats,
            lingered_bytes: 0,
            progress: 0,
            upgraded: false,
            preface: Some(0),
        }
    }
    /// hyper hangs up on HTTP/2's preface without a word. Not on one with a slip in it: that is a
    /// request of a version that it does not know, and gets its 400.
    fn spoil_preface(&mut self, read: &mut [u8]) {
        let Some(seen) = self.preface else { return };
        let expected = &HTTP2_PREFACE[seen..];
        let len = read.len().min(expected.len());
        let matches = read[..len] == expected[..len];
        if matches && let Some(at) = BEHIND_HTTP2_LINE.checked_sub(seen).filter(|at| *at < len) {
            read[at] = b'-';
        }
        self.preface = (matches && len < expected.len()).then_some(seen + len);
    }
    /// It carries something else from now on, which accounts for itself.
    pub(super) fn upgraded(mut self) -> Self {
        self.upgraded = true;
        self
    }
    /// Resolves when the peer has ended its side and all that it sent was read.
    pub(super) fn poll_peers_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut byte = [0];
        match self.stream.poll_peek(cx, &mut ReadBuf::new(&mut byte)) {
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(()),
            // It sends what nobody reads: its end will be seen by writing.
            Poll::Ready(Ok(_)) | Poll::Pending => Poll::Pending,
        }
    }
    fn wrote(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let shared = &self.shared;
        match &written {
            Poll::Ready(Ok(n)) => {
                self.stats.bytes_out.increment(*n as u64);
                shared.answer_ends(*n);
                let handed = shared.handed.load(Relaxed).saturating_sub(*n);
                shared.handed.store(handed, Relaxed);
                if handed < limits::ANSWER_PIECE_BYTES && shared.body_waits.swap(false, Relaxed) {
                    cx.waker().wake_by_ref();
                }
                self.progress += n;
                if self.progress >= limits::WRITE_PROGRESS_BYTES {
                    shared.write_blocked.store(0, Relaxed);
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending if shared.write_blocked.load(Relaxed) == 0 => {
                let now = shared.moment(Instant::now());
                shared.write_blocked.store(now, Relaxed);
                self.progress = 0;
            }
            Poll::Pending => {}
        }
        written
    }
}

/// The two lengths that fit 64 bits and that hyper keeps for itself: it would answer that the head
/// is too large. With the length next to them the request goes on to be refused as any other whose
/// body is.
fn shorten_length(read: &mut [u8]) {
    static START: LazyLock<Finder> = LazyLock::new(|| Finder::new("1844674407370955161"));
    let Some(at) = START.find(read) else { return };
    let (head, number) = read.split_at(at);
    let line = head.rsplit(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii_end();
    let is_length = line.eq_ignore_ascii_case(b"content-length:");
    if !is_length
        || memmem::find(head, b"\r\n\r\n").is_some()
        || memmem::find(head, b"\n\n").is_some()
    {
        return;
    }
    let last = START.needle().len();
    let ends = number.get(last + 1).is_some_and(|byte| !byte.is_ascii_digit());
    if ends && matches!(number[last], b'4' | b'5') {
        read[at + last] = b'3';
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
        let read = &mut buf.filled_mut()[before..];
        self.stats.bytes_in.increment(read.len() as u64);
        if self.upgraded {
            return Poll::Ready(Ok(()));
        }
        if self.preface.is_some() {
            self.spoil_preface(read);
        }
        // Then it is a head, or nobody's: a request's body is read while it is in flight.
        if self.shared.in_flight.load(Relaxed) == 0 {
            shorten_length(read);
        }
        Poll::Ready(self.shared.heard(read.len()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(cx, written)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(cx, written)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    /// hyper flushes whenever it was woken and has written all, so that this is where the peer's
    /// end is seen.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.write_blocked.store(0, Relaxed);
        self.shared.unwritten.store(false, Relaxed);
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
    carries: Carries<C>,
    /// Tells hyper's connection to take no further request.
    graceful: fn(Pin<&mut C>),
    /// Takes the socket out of hyper's connection.
    release: fn(C) -> Option<Watched>,
    shared: Arc<ConnShared>,
    timer: Pin<Box<Sleep>>,
    /// What the timer is armed for.
    armed: Option<Moment>,
    started: bool,
    told: bool,
}

/// What a connection carries.
enum Carries<C> {
    Requests(Box<C>),
    /// One stream of events.
    Stream(Pin<Box<dyn Future<Output = ()> + Send>>),
    Nothing,
}

impl<C: Future + Unpin> Connection<C> {
    pub(super) fn new(
        http: C,
        shared: Arc<ConnShared>,
        graceful: fn(Pin<&mut C>),
        release: fn(C) -> Option<Watched>,
    ) -> Self {
        let timer = Box::pin(tokio::time::sleep(Duration::ZERO));
        Self {
            carries: Carries::Requests(Box::new(http)),
            graceful,
            release,
            shared,
            timer,
            armed: None,
            started: false,
            told: false,
        }
    }

    /// An error in here is the peer's: it broke off, or does not speak HTTP.
    fn poll_carried(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut self.carries {
                Carries::Requests(http) => {
                    if Pin::new(&mut **http).poll(cx).is_ready() {
                        return Poll::Ready(());
                    }
                    if self.shared.unwritten.load(Relaxed) {
                        return Poll::Pending;
                    }
                    let Some(takeover) = self.shared.takeover.lock().take() else {
                        return Poll::Pending;
                    };
                    if let Carries::Requests(http) =
                        std::mem::replace(&mut self.carries, Carries::Nothing)
                        && let Some(io) = (self.release)(*http)
                    {
                        self.carries = Carries::Stream(Box::pin(takeover.run(io)));
                    }
                }
                Carries::Stream(stream) => return stream.as_mut().poll(cx),
                Carries::Nothing => return Poll::Ready(()),
            }
        }
    }
}

impl<C: Future + Unpin> Future for Connection<C> {
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
            if let Carries::Requests(http) = &mut this.carries {
                (this.graceful)(Pin::new(&mut **http));
            }
        }
        ready_or(this.poll_carried(cx), || {
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
        let mut shared =
            ConnShared::of(false, crate::buffers::shared(), None, Stats::new().open_connection());
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

    /// Without it a body would be changed, or another length than the two that are meant.
    #[test]
    fn only_a_length_that_no_body_has_is_shortened() {
        let shortened = |text: &str| {
            let mut bytes = text.as_bytes().to_vec();
            shorten_length(&mut bytes);
            String::from_utf8(bytes).expect("UTF-8")
        };
        let head = |field: &str| format!("POST / HTTP/1.1\r\nHost: x\r\n{field}\r\n\r\n");
        for last in ["14", "15"] {
            let field = format!("Content-LENGTH:  184467440737095516{last}");
            let expected = "Content-LENGTH:  18446744073709551613";
            assert_eq!(shortened(&head(&field)), head(expected));
        }
        for field in [
            "Content-Length: 18446744073709551613",
            "Content-Length: 18446744073709551616",
            "Content-Length: 184467440737095516140",
            "Content-Length: 118446744073709551614",
            "X-Content-Length: 18446744073709551614",
            "Content-Length: 1, 18446744073709551614",
        ] {
            assert_eq!(shortened(&head(field)), head(field));
        }
        let body = head("Content-Length: 99") + "\r\nContent-Length: 18446744073709551614\r\n";
        assert_eq!(shortened(&body), body);
        let cut = "POST / HTTP/1.1\r\nContent-Length: 1844674407370955161";
        assert_eq!(shortened(cut), cut);
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
