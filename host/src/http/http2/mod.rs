//! HTTP/2: many requests at a time on one connection.
//!
//! | module | what is in it |
//! |---|---|
//! | here | the connection: accepts streams, ends those that abuse it |
//! | `exchange` | one request and its answer |
//! | `answer` | writes an answer as its reader takes it |
//! | `body` | a request's body |
//! | `share` | how many requests all connections of a listener may have |
//!
//! Each request runs on a task of its own, so that the streams of one connection are served as those
//! of many connections would be; but the connection's task carries out a request that is alone. The `h2` crate is used without hyper's server: that one hands an
//! answer's last part to `h2` and forgets it, and can't reset a single stream that is not read.
//! Here a stream sends what its reader has opened its window for and no more, and what `h2` holds is
//! charged until it is written.
//!
//! What `h2` bounds by itself: an answer to a PING or SETTINGS frame must be written before the next
//! frame is read, so a peer that floods with them and does not read stops itself; frames of a
//! header block, and its decoded size; empty and tiny DATA frames; streams that were reset before
//! they were accepted, and protocol errors of streams, after which it ends the connection.

mod answer;
mod body;
mod exchange;
mod share;

pub(super) use self::share::Share;
use self::{
    answer::Piece,
    exchange::{Ended, Exchange},
    share::Sharing,
};
use super::{
    connection::{ConnShared, Watched},
    server::App,
};
use crate::limits;
use futures_util::future::BoxFuture;
use h2::{
    Ping, PingPong, Reason, RecvStream,
    server::{self, SendResponse},
};
use http::Request;
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::{
    task::JoinSet,
    time::{Instant, Sleep},
};

/// A connection that speaks HTTP/2, until it is closed.
pub(super) struct Serving {
    app: App,
    connection: Arc<ConnShared>,
    state: State,
    /// The only request under way, until another one comes: it costs no task and no wake-ups between two.
    only: Option<BoxFuture<'static, Ended>>,
    exchanges: JoinSet<Ended>,
    resets: Resets,
    alive: Alive,
    no_more: bool,
    _sharing: Sharing,
}

enum State {
    Handshake(server::Handshake<Watched, Piece>),
    Open(server::Connection<Watched, Piece>),
}

impl Serving {
    pub(super) fn new(io: Watched, app: App, connection: Arc<ConnShared>) -> Self {
        let mut builder = server::Builder::new();
        builder
            .max_concurrent_streams(limits::HTTP2_STREAMS_MAX)
            .max_header_list_size(limits::HEAD_BYTES_MAX as u32)
            .max_frame_size(limits::HTTP2_FRAME_BYTES_MAX)
            .initial_window_size(limits::HTTP2_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(limits::HTTP2_CONNECTION_WINDOW_BYTES)
            .max_send_buffer_size(limits::HTTP2_SEND_BYTES_MAX)
            .max_pending_accept_reset_streams(limits::HTTP2_STREAMS_MAX as usize)
            .max_local_error_reset_streams(Some(limits::HTTP2_STREAM_ERRORS_MAX));
        let state = State::Handshake(builder.handshake(io));
        Self {
            _sharing: app.share().join(),
            app,
            connection,
            state,
            only: None,
            exchanges: JoinSet::new(),
            resets: Resets::new(crate::clock::timer_now()),
            alive: Alive::new(),
            no_more: false,
        }
    }

    /// Accepts no further request: the peer is told, and the connection ends with the last one.
    pub(super) fn no_more(&mut self) {
        self.no_more = true;
        if let State::Open(http) = &mut self.state {
            http.graceful_shutdown();
        }
    }

    fn begin(&mut self, request: Request<RecvStream>, mut respond: SendResponse<Piece>) {
        // `h2` counts streams. A request whose stream was reset may still be under way.
        if self.connection.in_flight() >= u64::from(limits::HTTP2_STREAMS_MAX) {
            respond.send_reset(Reason::REFUSED_STREAM);
            self.was_reset();
            return;
        }
        let exchange = Exchange::new(&self.app, &self.connection, respond).run(request);
        match self.only.take() {
            None if self.exchanges.is_empty() => self.only = Some(Box::pin(exchange)),
            first => {
                if let Some(first) = first {
                    crate::task::run_in(&mut self.exchanges, first);
                }
                crate::task::run_in(&mut self.exchanges, exchange);
            }
        }
    }

    /// Whether it has ended.
    fn poll_only(&mut self, cx: &mut Context<'_>) -> bool {
        let only = self.only.as_mut().map_or(Poll::Pending, |only| only.as_mut().poll(cx));
        let Poll::Ready(ended) = only else { return false };
        self.only = None;
        if ended == Ended::ResetAtOnce {
            self.was_reset();
        }
        true
    }

    fn was_reset(&mut self) {
        if !self.resets.admit(crate::clock::timer_now()) {
            self.end(Reason::ENHANCE_YOUR_CALM);
        }
    }

    fn end(&mut self, why: Reason) {
        if let State::Open(http) = &mut self.state {
            http.abrupt_shutdown(why);
        }
    }

    /// Requests that are over. A panic in one has ended the process.
    fn poll_ended(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(ended)) = self.exchanges.poll_join_next(cx) {
            if matches!(ended, Ok(Ended::ResetAtOnce)) {
                self.was_reset();
                // It may have ended the connection, whose last frame is written by the next turn.
                cx.waker().wake_by_ref();
            }
        }
    }
}

impl Future for Serving {
    type Output = ();
    /// An error is the peer's: it disconnected, or does not speak HTTP/2. `h2` has told it.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        loop {
            match &mut this.state {
                State::Handshake(handshake) => {
                    let Ok(mut http) = ready!(Pin::new(handshake).poll(cx)) else {
                        return Poll::Ready(());
                    };
                    this.alive.pings = http.ping_pong();
                    this.state = State::Open(http);
                    if this.no_more {
                        this.no_more();
                    }
                }
                State::Open(http) => match http.poll_accept(cx) {
                    Poll::Ready(Some(Ok((request, respond)))) => this.begin(request, respond),
                    Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
                    // What it has answered is written by the next turn.
                    Poll::Pending if this.poll_only(cx) => {}
                    Poll::Pending => break,
                },
            }
        }
        this.poll_ended(cx);
        if this.alive.poll(cx, &this.connection).is_ready() {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

/// How many of its requests a peer may give up at once: each costs what a request costs, and takes no
/// place of a stream for long (CVE-2023-44487).
struct Resets {
    left: f64,
    at: Instant,
}

impl Resets {
    fn new(now: Instant) -> Self {
        Self { left: limits::HTTP2_RESETS_MAX, at: now }
    }

    /// Whether it may be one more.
    fn admit(&mut self, now: Instant) -> bool {
        let more = (now - self.at).as_secs_f64() * limits::HTTP2_RESETS_PER_SECOND;
        self.at = now;
        self.left = (self.left + more).min(limits::HTTP2_RESETS_MAX) - 1.0;
        self.left >= 0.0
    }
}

/// Notices a peer that is gone: on a connection with an event stream, nothing else would for long.
struct Alive {
    pings: Option<PingPong>,
    timer: Pin<Box<Sleep>>,
    /// What had been received at the last look, and how long ago that had last changed.
    received: u64,
    silent: u32,
}

impl Alive {
    fn new() -> Self {
        let timer = Box::pin(tokio::time::sleep(limits::HTTP2_PING));
        Self { pings: None, timer, received: 0, silent: 0 }
    }

    /// Resolves when the peer has been silent for too long.
    fn poll(&mut self, cx: &mut Context<'_>, connection: &ConnShared) -> Poll<()> {
        while self.timer.as_mut().poll(cx).is_ready() {
            self.timer.as_mut().reset(crate::clock::timer_now() + limits::HTTP2_PING);
            let received = connection.received();
            self.silent = if received == self.received { self.silent + 1 } else { 0 };
            self.received = received;
            if self.silent > limits::HTTP2_PINGS_MAX {
                return Poll::Ready(());
            }
            // An idle connection is closed before long.
            if self.silent > 0
                && connection.in_flight() > 0
                && let Some(pings) = &mut self.pings
            {
                let _ = pings.poll_pong(cx);
                // In vain while the last one is not answered.
                let _ = pings.send_ping(Ping::opaque());
            }
        }
        Poll::Pending
    }
}
