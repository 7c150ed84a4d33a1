//! One connection, with its time limits: none stays open forever, and none costs a timer per
//! request.
//!
//! A single task runs a connection. It has one lazy timer: armed for the earliest deadline at that
//! time, and checked again when it fires, so that a busy connection touches the timer about once
//! per [`limits::REQUEST_DEADLINE_DEFAULT`].

mod held;
mod stream;
mod streams;
mod task;
mod watched;

use self::held::Held;
pub(super) use self::{
    stream::{Counted, Stream, Tls},
    task::Connection,
    watched::{Protocol, Watched},
};
use super::{
    access::Known,
    events::EventStream,
    places::{self, Place},
    stats::Open,
    streaming::Takeover,
};
use crate::{
    buffers::{Buffers, Kind},
    error::Error,
    limits,
    telemetry::repeats,
    tls::Certified,
};
use parking_lot::Mutex;
use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::time::Instant;

/// Milliseconds since the connection began, plus one; 0 is "not now".
type Moment = u64;

/// State shared by a connection's parts, and by the socket that it becomes.
pub(super) struct ConnShared {
    began: Instant,
    /// As of the timer's last look.
    now: AtomicU64,
    /// Requests whose answer's body has not been written or dropped yet.
    in_flight: AtomicU64,
    /// The deadline of the request that is being handled.
    deadline: AtomicU64,
    /// Since when there is no request.
    idle_since: AtomicU64,
    /// Since when the peer reads nothing.
    write_blocked: AtomicU64,
    /// Since when nothing more is written, and input is dropped.
    lingering: AtomicU64,
    /// The request in flight is cancelled when the peer half-closes.
    ends_with_peer: AtomicBool,
    stopping: AtomicBool,
    killed: AtomicBool,
    /// The connection task's waker, for orders from outside.
    waker: Mutex<Option<Waker>>,
    /// It has sent no request yet.
    silent: AtomicBool,
    /// Its task has ended: it is a socket now, or closed.
    handed_on: AtomicBool,
    /// While its listener is open, only requests to a local host are accepted
    /// ([`super::auth::check_local_host`]).
    pub(super) local_only: bool,
    /// Who has sent the last request. Its lock is this connection's own.
    pub(super) known: Mutex<Option<Box<Known>>>,
    /// Bytes of answers that the peer has not read.
    answers: Held,
    /// Bytes of incomplete heads; with HTTP/2 also of those of requests that are being handled.
    heads: Held,
    /// Bytes of answers that hyper has.
    handed: AtomicUsize,
    /// A body waits until hyper has written its buffer.
    body_waits: AtomicBool,
    /// It speaks HTTP/2. Then it has no deadline of its own, does not end with the peer's half, and
    /// neither hyper nor a stream ever has it.
    multiplexed: AtomicBool,
    /// Bytes that the peer has sent, and pieces of answers that streams could send: HTTP/2 only.
    received: AtomicU64,
    sent: AtomicU64,
    /// An event stream that takes the connection over, with the head of its answer.
    stream: Mutex<Option<Box<EventStream>>>,
    takeover: Mutex<Option<Takeover>>,
    /// Answers that hyper may not have written.
    unwritten: AtomicBool,
    /// The name in the client certificate that was shown and verified.
    certificate: OnceLock<Box<Certified>>,
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
            began: crate::clock::timer_now(),
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
            known: Mutex::new(None),
            answers: Held::new(buffers, Kind::Answers),
            heads: Held::new(buffers, Kind::Frames),
            handed: 0.into(),
            body_waits: false.into(),
            multiplexed: false.into(),
            received: 0.into(),
            sent: 0.into(),
            stream: Mutex::new(None),
            takeover: Mutex::new(None),
            unwritten: false.into(),
            certificate: OnceLock::new(),
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
    /// Counts a request until the guard is dropped.
    pub(super) fn request(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Relaxed);
        if !self.is_multiplexed() {
            self.heads.clear();
        }
        if self.silent.load(Relaxed) && self.silent.swap(false, Relaxed) {
            self.place.iter().for_each(Place::heard);
        }
        InFlight(self.clone())
    }
    /// A handler has created a stream, which takes the connection over.
    pub(super) fn offer_stream(&self, stream: EventStream) {
        *self.stream.lock() = Some(Box::new(stream));
    }
    pub(super) fn offered_stream(&self) -> Option<Box<EventStream>> {
        self.stream.lock().take()
    }
    /// The connection's task hands it over once hyper has written its buffer. Its request is not
    /// answered in another way.
    pub(super) fn take_over(&self, takeover: Takeover) {
        *self.takeover.lock() = Some(takeover);
        self.wake();
    }
    /// An answer waits until the peer reads it. The free amount per connection is not charged.
    ///
    /// # Errors
    /// `buffers-full`. The bytes are charged all the same: an answer that can no longer be refused
    /// is sent.
    pub(super) fn answer_waits(&self, bytes: usize) -> Result<(), Error> {
        self.answers.add(bytes)
    }
    /// hyper gets an answer: only its next flush shows that everything is written.
    pub(super) fn answers(&self) {
        self.unwritten.store(true, Relaxed);
    }
    /// Whether hyper's buffer is full. If so, the connection's task is woken when it has room.
    pub(super) fn is_handed_enough(&self) -> bool {
        let enough = self.handed.load(Relaxed) >= limits::ANSWER_PIECE_BYTES;
        self.body_waits.store(enough, Relaxed);
        enough
    }
    /// hyper gets this many bytes of an answer.
    pub(super) fn hand(&self, bytes: usize) {
        self.handed.fetch_add(bytes, Relaxed);
    }
    /// This many bytes were written. Returns whether a body was waiting for that.
    pub(super) fn wrote(&self, bytes: usize) -> bool {
        self.answer_ends(bytes);
        let handed = self.handed.load(Relaxed).saturating_sub(bytes);
        self.handed.store(handed, Relaxed);
        handed < limits::ANSWER_PIECE_BYTES && self.body_waits.swap(false, Relaxed)
    }
    /// This many bytes of answers were written, or will not be sent after all.
    pub(super) fn answer_ends(&self, bytes: usize) {
        self.answers.sub(bytes);
    }
    /// Bytes were read. Once a request has begun, only its body arrives, which is charged
    /// elsewhere.
    fn heard(&self, bytes: usize) -> io::Result<()> {
        if self.in_flight.load(Relaxed) > 0 {
            return Ok(());
        }
        self.heads.add(bytes).map_err(|_| io::ErrorKind::OutOfMemory.into())
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
    /// It is one of those above a full listener's limit: only probes are answered, once.
    pub(super) fn is_for_probes(&self) -> bool {
        self.place.as_ref().is_some_and(|place| place.kind == places::Kind::Probe)
    }
    /// Where it comes from.
    pub(super) fn peer(&self) -> Option<std::net::IpAddr> {
        self.place.as_ref().map(|place| place.peer.to_canonical())
    }
    /// How long it has been waiting for another request; `None` if it is not idle, or is a socket.
    pub(super) fn idle(&self, now: Instant) -> Option<Duration> {
        let waits = !self.silent.load(Relaxed)
            && !self.handed_on.load(Relaxed)
            && self.in_flight.load(Relaxed) == 0
            && self.write_blocked.load(Relaxed) == 0;
        waits.then(|| now.saturating_duration_since(self.instant(self.idle_since.load(Relaxed))))
    }
    /// The name in the client certificate that was shown and verified, while it is good.
    pub(super) fn certificate(&self) -> Option<&Arc<str>> {
        self.certificate.get()?.name()
    }
    pub(super) fn certified(&self, certified: Certified) {
        let _ = self.certificate.set(Box::new(certified));
    }
    /// TLS came to a listener without it. Its client learns only that the answer is no TLS.
    fn spoke_tls(&self) {
        let listener = self.place.as_ref().map_or("", Place::listener);
        if repeats::admit("TLS on a port without it", listener) {
            tracing::warn!(
                listener,
                "a client speaks TLS, and this listener does not: its URL begins with http://, \
                 or the listener needs a certificate (tls_certificate, tls_key)"
            );
        }
    }
    /// While it is not HTTP yet: resolves when it has to end.
    pub(super) fn poll_ordered_to_end(&self, cx: &Context<'_>) -> Poll<()> {
        // Also for the connection's own task: it is the same.
        *self.waker.lock() = Some(cx.waker().clone());
        match self.killed.load(Relaxed) || self.stopping.load(Relaxed) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
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
    /// Accepts no further request, then ends.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Relaxed);
        self.wake();
    }
    /// Ends now.
    pub(super) fn kill(&self) {
        self.killed.store(true, Relaxed);
        self.wake();
    }
    fn wake(&self) {
        if let Some(waker) = &*self.waker.lock() {
            waker.wake_by_ref();
        }
    }

    /// Checks the clock and returns whether the connection must end.
    fn look(&self) -> bool {
        let now = self.moment(crate::clock::timer_now());
        self.now.store(now, Relaxed);
        let since = |what: &AtomicU64, max: Duration| {
            let at = what.load(Relaxed);
            at != 0 && now >= at + max.as_millis() as u64
        };
        if self.in_flight.load(Relaxed) == 0 && since(&self.idle_since, self.idle_max()) {
            self.stopping.store(true, Relaxed);
        }
        since(&self.write_blocked, self.write_timeout())
            || since(&self.lingering, limits::LINGER)
            // An unfinished head, after the order to stop: hyper waits for the rest.
            || (self.in_flight.load(Relaxed) == 0
                && since(&self.idle_since, self.idle_max() + limits::LINGER))
    }

    /// How long a peer may read nothing. A stopping node keeps its time for peers that do.
    fn write_timeout(&self) -> Duration {
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
            let timeout = match self.stopping.load(Relaxed) {
                false => self.idle_max(),
                true => self.idle_max() + limits::LINGER,
            };
            match self.in_flight.load(Relaxed) {
                0 => after(&self.idle_since, timeout),
                _ => None,
            }
        };
        let deadline = match self.deadline.load(Relaxed) {
            0 => None,
            // An expired one was reported; it is not due again.
            at if at <= self.now.load(Relaxed) => None,
            at => Some(at),
        };
        [
            deadline,
            idle(),
            after(&self.write_blocked, self.write_timeout()),
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
    /// Cancels the request when the peer half-closes: nobody reads an endless stream then. A
    /// message that was sent is answered all the same.
    pub(super) fn end_with_peer(&self) {
        self.0.ends_with_peer.store(true, Relaxed);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.ends_with_peer.store(false, Relaxed);
        if self.0.in_flight.fetch_sub(1, Relaxed) == 1 {
            self.0.request_done(crate::clock::timer_now());
        }
    }
}
#[cfg(test)]
mod tests {
    use super::{super::stats::Stats, *};

    /// A connection that began `ago` in the past.
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

    /// Without it a client could hold connections forever, by silence or a byte at a time.
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

    /// Without it a peer that reads nothing would hold its output forever.
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
