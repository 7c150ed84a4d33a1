//! A connection's task: runs what the connection carries, and ends it when it is due.

use super::{super::http2::Serving, ConnShared, Moment, Protocol, Watched};
use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::Sleep;

/// The connection's task.
pub(in super::super) struct Connection<C> {
    carries: Carries<C>,
    /// Makes hyper's connection accept no further request.
    graceful: fn(Pin<&mut C>),
    /// Takes the socket out of hyper's connection.
    release: fn(C) -> Option<Watched>,
    shared: Arc<ConnShared>,
    timer: Pin<Box<Sleep>>,
    /// What the timer is armed for.
    armed: Option<Moment>,
    started: bool,
    stopping: bool,
}

/// What a connection carries.
enum Carries<C> {
    /// Nothing yet: the first bytes show which protocol it speaks.
    New(Box<New<C>>),
    Requests(Box<C>),
    /// Requests by HTTP/2.
    Streams(Box<Serving>),
    /// One stream of events.
    Stream(Pin<Box<dyn Future<Output = ()> + Send>>),
    Nothing,
}

struct New<C> {
    io: Watched,
    http1: Start<C>,
    http2: Start<Serving>,
}

/// Serves a connection from its first byte.
pub(in super::super) type Start<S> = Box<dyn FnOnce(Watched) -> S + Send>;

impl<C: Future + Unpin> Connection<C> {
    pub(in super::super) fn new(
        io: Watched,
        http1: Start<C>,
        http2: Start<Serving>,
        shared: Arc<ConnShared>,
        graceful: fn(Pin<&mut C>),
        release: fn(C) -> Option<Watched>,
    ) -> Self {
        let timer = Box::pin(tokio::time::sleep(Duration::ZERO));
        Self {
            carries: Carries::New(Box::new(New { io, http1, http2 })),
            graceful,
            release,
            shared,
            timer,
            armed: None,
            started: false,
            stopping: false,
        }
    }

    fn begin(&mut self, protocol: Protocol) {
        let Carries::New(new) = std::mem::replace(&mut self.carries, Carries::Nothing) else {
            return;
        };
        let New { io, http1, http2 } = *new;
        self.carries = match protocol {
            Protocol::Http1 => Carries::Requests(Box::new(http1(io))),
            Protocol::Http2 => Carries::Streams(Box::new(http2(io.multiplexed()))),
        };
        if self.stopping {
            self.no_more();
        }
    }

    /// No further request is accepted.
    fn no_more(&mut self) {
        match &mut self.carries {
            Carries::Requests(http) => (self.graceful)(Pin::new(&mut **http)),
            Carries::Streams(serving) => serving.no_more(),
            Carries::New(_) | Carries::Stream(_) | Carries::Nothing => {}
        }
    }

    /// An error here is the peer's: it disconnected, or does not speak HTTP.
    fn poll_carried(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut self.carries {
                Carries::New(new) => {
                    if self.stopping && !new.io.has_begun() {
                        return Poll::Ready(());
                    }
                    let protocol = ready!(new.io.poll_protocol(cx));
                    self.begin(protocol);
                }
                Carries::Streams(serving) => return Pin::new(&mut **serving).poll(cx),
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
            // A task's waker never changes.
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
        if !this.stopping && this.shared.stopping.load(Relaxed) {
            this.stopping = true;
            this.no_more();
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
