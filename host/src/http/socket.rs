//! A session's WebSocket: messages in, their acknowledgements and the session's events out.

mod rights;
mod sending;

use super::{
    Api,
    access::{Who, standing::Standing},
    connection::{ConnShared, Watched},
    feed::{Feed, Item},
    frames::{self, Frame, NotifyFrame, Refused},
    in_flight::{Decided, InFlight},
    messages::reading,
    notify::Notifying,
    params::{self, Query},
    problem::Failed,
    shutdown::Signal,
    views::{EphemeralView, EventView},
    websocket::{Fault, Heard, Message, PING, PONG, TEXT, Upgrade, Wire, code},
};
use crate::{
    buffers::Kind,
    error::{Code, Error},
    limits,
    names::SessionKey,
    node::{Consistency, Cursor, Sent},
    operation::Describe,
};
use axum::{
    Extension,
    body::Body,
    extract::{Request, State},
};
use futures_util::{FutureExt, future::BoxFuture};
use http::Response;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
};
use tokio::time::{Instant, Sleep};

/// Opens a WebSocket to a session
///
/// JSON text frames: `send`, `notify`, `auth` and `ping` in; `ack`, `error`, `event`, `notify`, `auth`, `pong`, `gap` and `deleted`
/// out.
/// The protocol is in docs/websocket.md. Events begin after `after`; without it, only new events are sent.
/// `access_token` can replace the `Authorization` header.
#[utoipa::path(
    get,
    operation_id = "socket",
    path = "/v1/services/{service}/sessions/{session}/socket",
    tag = "sessions",
    params(
        ("service" = String, Path, description = "The service"),
        ("session" = String, Path, description = "The session's id, percent-encoded"),
        ("after" = Option<String>, Query, description = "A position from slotd (`position` of an event or acknowledgement); 0: from the beginning"),
        ("subscribe" = Option<bool>, Query, description = "`false`: send no events; default true"),
        ("sender" = Option<String>, Query, description = "The sender of messages without one"),
    ),
    responses((status = 101, description = "The connection switches to WebSocket"))
)]
pub(super) async fn get(
    State(api): State<Api>,
    connection: Option<Extension<Arc<ConnShared>>>,
    Extension(who): Extension<Arc<Who>>,
    request: Request,
) -> Result<Response<Body>, Failed> {
    let (mut head, _) = request.into_parts();
    let key = params::session_of(&head.uri)?;
    let query = Query::parse(&head.uri, &["after", "subscribe", "sender"])?;
    let cursor =
        query.get("after").map(|t| Cursor::parse(t, "query parameter \"after\"")).transpose()?;
    let sender = query.get("sender").map(str::to_owned);
    if let Some(sender) = &sender {
        params::check_sender(sender)?;
    }
    let standing = Standing::new(api.gate(), who, &key);
    if sender.is_some() {
        standing.admitted().sender(sender.clone())?;
    }
    let upgrade = Upgrade::of(&mut head)?;
    let counted = api.limiter().open_socket(&key, standing.admitted().client.as_deref())?;
    api.buffers().check(Kind::Events, limits::SUBSCRIBER_BYTES_FREE)?;
    let feed = match query.bool("subscribe")?.unwrap_or(true) {
        true => Some(reading(&api, Feed::open(api.backend().clone(), key.clone(), cursor)).await?),
        false => {
            // Reports at once that there is no such service.
            let describe = Describe { key: key.clone(), consistency: Consistency::Current };
            reading(&api, api.backend().call(describe)).await.map(drop).or_else(missing_is_fine)?;
            None
        }
    };
    let (response, upgrading) = upgrade.accept();
    if let Some(connection) = &connection {
        connection.forget();
    }
    crate::task::run(async move {
        // It fails if the peer disconnected before the answer was written.
        if let Some(wire) = connect(&api, upgrading).await {
            let _open = api.0.stats.open_socket();
            Session::new(api, key, sender, standing, wire, feed).run().await;
        }
        // Until here it counts as one of the listener's connections, and of its service's sockets.
        drop((connection, counted));
    });
    Ok(response)
}

fn missing_is_fine(error: Error) -> Result<(), Error> {
    match error.code {
        Code::SessionNotFound => Ok(()),
        _ => Err(error),
    }
}

async fn connect(api: &Api, upgrading: OnUpgrade) -> Option<Wire<Watched>> {
    let upgraded = upgrading.await.ok()?;
    let parts = upgraded.downcast::<TokioIo<Watched>>().ok()?;
    // A body grows by a third in base64; one that is slightly too large gets an error frame.
    let bytes_max = 2 * api.options().body_bytes_max + limits::SOCKET_FRAME_OVERHEAD_BYTES;
    Some(Wire::new(parts.io.into_inner().upgraded(), parts.read_buf, bytes_max, api.buffers()))
}

struct Session {
    api: Api,
    key: SessionKey,
    sender: Option<String>,
    standing: Standing,
    wire: Wire<Watched>,
    feed: Option<Feed>,
    /// Messages in flight.
    pending: InFlight,
    /// Ephemeral events on their way. Nobody waits for them.
    notifying: Notifying,
    /// When the first of them is late, at the earliest.
    late_at: Option<Instant>,
    signalled: BoxFuture<'static, Signal>,
    timer: Pin<Box<Sleep>>,
    /// When the timer fires, at the latest.
    armed: Instant,
    ping_at: Instant,
    heard: Instant,
    /// The peer reads nothing more: nothing is written any more.
    mute: bool,
    /// It is ending: the results of messages still undecided can't be reliably delivered in a
    /// frame.
    ending: bool,
    undecided: usize,
}

enum Step {
    Stop,
    /// At whether it may still be open.
    Look,
    Decided(String, Result<Sent, Error>),
    NotNotified(Option<String>, Error),
    Events(Item),
    Heard(Heard),
    Time,
    Flush,
}

/// How a socket ends.
enum End {
    /// This side closes it.
    Close(u16, &'static str),
    /// The peer sent something that ends it; nothing more is read.
    Fault(Fault),
    /// The peer closed it, with this code.
    Closed(Option<u16>),
    /// The peer half-closed without a close frame, possibly within a frame.
    Ended { inside: bool },
    /// The peer reads nothing.
    Deaf,
    /// The connection is broken.
    Broken,
}

impl Session {
    fn new(
        api: Api,
        key: SessionKey,
        sender: Option<String>,
        standing: Standing,
        wire: Wire<Watched>,
        feed: Option<Feed>,
    ) -> Self {
        let now = crate::clock::timer_now();
        let ping_at = now + limits::SOCKET_PING;
        let armed = standing.ends().map_or(ping_at, |ends| ends.min(ping_at));
        Self {
            signalled: api.0.shutdown.signalled().boxed(),
            api,
            key,
            sender,
            standing,
            wire,
            feed,
            pending: InFlight::default(),
            notifying: Notifying::default(),
            late_at: None,
            timer: Box::pin(tokio::time::sleep_until(armed)),
            armed,
            ping_at,
            heard: now,
            mute: false,
            ending: false,
            undecided: 0,
        }
    }

    async fn run(mut self) {
        let end = self.serve().await;
        self.ending = true;
        self.feed = None;
        let end = self.take_what_came(end).await;
        // A slot skips messages that nobody waits for. Messages that were read are decided, even if
        // the connection is gone.
        while let Some((id, result)) = self.next_decided().await {
            let _ = self.decided(&id, result).await;
        }
        self.part(end).await;
    }

    async fn serve(&mut self) -> End {
        // What changed before it could be told.
        if let Err(end) = self.look().await {
            return end;
        }
        let mut dirty = false;
        let mut turn = 0;
        loop {
            turn = (turn + 1) % 3;
            let written = match self.step(turn, dirty).await {
                Step::Stop => return End::Close(code::RESTART, "the node is stopping; reconnect"),
                Step::Look => {
                    self.signalled = self.api.0.shutdown.signalled().boxed();
                    self.look().await
                }
                Step::Decided(id, result) => self.decided(&id, result).await,
                Step::NotNotified(id, error) => self.refuse(id.as_deref(), &error).await,
                Step::Events(item) => self.events(item).await,
                Step::Heard(heard) => self.heard(heard).await,
                Step::Time => match self.look().await {
                    Ok(()) => self.time(),
                    Err(end) => Err(end),
                },
                Step::Flush => {
                    dirty = false;
                    match self.flush().await {
                        Ok(()) => continue,
                        Err(end) => return end,
                    }
                }
            };
            match written {
                Ok(()) => dirty = true,
                Err(end) => return end,
            }
        }
    }

    /// What to do next. All sources take turns, so that none starves.
    async fn step(&mut self, turn: usize, dirty: bool) -> Step {
        let deadline = self.api.options().request_deadline;
        let Self { wire, feed, pending, notifying, late_at, signalled, timer, armed, .. } = self;
        let mut item = pin!(async {
            match feed {
                Some(feed) => feed.next().await,
                None => std::future::pending().await,
            }
        });
        let room = pending.len() < limits::SOCKET_IN_FLIGHT_MAX;
        poll_fn(|cx| {
            if let Poll::Ready(signal) = signalled.poll_unpin(cx) {
                return Poll::Ready(match signal {
                    Signal::Stop => Step::Stop,
                    Signal::Look => Step::Look,
                });
            }
            // Also while there is always something else to do.
            if turn == 0 {
                let now = crate::clock::timer_now();
                if *armed <= now || late_at.is_some_and(|at| at <= now) {
                    return Poll::Ready(Step::Time);
                }
            }
            if let Some((id, error)) = notifying.failed(cx) {
                return Poll::Ready(Step::NotNotified(id, error));
            }
            for source in 0..3 {
                let step = match (source + turn) % 3 {
                    0 => match pending.poll_next(cx) {
                        Poll::Ready(Some((id, result))) => Some(Step::Decided(id, result)),
                        _ => None,
                    },
                    1 => match item.as_mut().poll(cx) {
                        Poll::Ready(item) => Some(Step::Events(item)),
                        Poll::Pending => None,
                    },
                    _ if room => match wire.poll_next(cx) {
                        Poll::Ready(heard) => Some(Step::Heard(heard)),
                        Poll::Pending => None,
                    },
                    _ => None,
                };
                if let Some(step) = step {
                    return Poll::Ready(step);
                }
            }
            let unfinished = wire.unfinished_since().map(|since| since + deadline);
            if let Some(due) = unfinished.into_iter().chain(*late_at).min()
                && due < *armed
            {
                *armed = due;
                timer.as_mut().reset(*armed);
            }
            match timer.poll_unpin(cx) {
                Poll::Ready(()) => Poll::Ready(Step::Time),
                // Only once nothing more is ready: one write for all of it.
                Poll::Pending if dirty => Poll::Ready(Step::Flush),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// The timer has fired: a message takes too long, or a ping is due.
    fn time(&mut self) -> Result<(), End> {
        let now = crate::clock::timer_now();
        if self.late_at.is_some_and(|at| at <= now) {
            self.give_up_late(now);
        }
        if self.pending.len() >= limits::SOCKET_IN_FLIGHT_MAX {
            // Not the peer's fault: nothing is read now.
            self.wire.not_read_until(now);
            self.heard = now;
        }
        let deadline = self.api.options().request_deadline;
        let due = self.wire.unfinished_since().map(|since| since + deadline);
        if due.is_some_and(|due| due <= now) {
            return Err(End::Close(code::POLICY, "a message did not arrive completely in time"));
        }
        if now.duration_since(self.heard) > limits::SOCKET_SILENCE {
            return Err(End::Close(code::POLICY, "no frame from the client for too long"));
        }
        if self.ping_at <= now {
            self.ping_at = now + limits::SOCKET_PING;
            self.write(PING, &[]);
        }
        self.arm(due.into_iter().chain(self.late_at).min());
        Ok(())
    }

    /// Gives up the messages whose time is over.
    fn give_up_late(&mut self, now: Instant) {
        self.late_at = self.pending.give_up_late(now);
    }

    /// The next message that is decided, or late; `None`: there are no more.
    async fn next_decided(&mut self) -> Option<Decided> {
        loop {
            let next = poll_fn(|cx| self.pending.poll_next(cx));
            match self.late_at {
                Some(at) => match tokio::time::timeout_at(at, next).await {
                    Ok(decided) => return decided,
                    Err(_) => self.give_up_late(crate::clock::timer_now()),
                },
                None => return next.await,
            }
        }
    }

    async fn heard(&mut self, heard: Heard) -> Result<(), End> {
        let message = match heard {
            Heard::Message(message) => message,
            Heard::Fault(fault) => return Err(End::Fault(fault)),
            Heard::End { inside } => return Err(End::Ended { inside }),
            Heard::Broken => return Err(End::Broken),
        };
        self.heard = crate::clock::timer_now();
        match message {
            Message::Text(text) => return self.frame(&text).await,
            Message::Binary => {
                let error = params::invalid("this protocol uses text frames only");
                self.write(TEXT, frames::error(None, &error).as_bytes());
            }
            Message::Ping(payload) => self.write(PONG, &payload),
            Message::Pong => {}
            Message::Close(code) => return Err(End::Closed(code)),
        }
        self.drain().await
    }

    async fn frame(&mut self, frame: &str) -> Result<(), End> {
        self.look().await?;
        match self.parse(frame) {
            // Boxed: an idle socket has no room for it.
            Ok(Frame::Send(frame)) => Box::pin(self.send(frame)).await,
            Ok(Frame::Notify(frame)) => self.notify(frame).await,
            Ok(Frame::Auth(frame)) => Box::pin(self.renew(frame)).await,
            Ok(Frame::Ping(id)) => {
                self.write(TEXT, frames::pong(id.as_deref()).as_bytes());
                self.drain().await
            }
            Err(Refused { id, error }) => self.refuse(id.as_deref(), &error).await,
        }
    }

    fn parse(&self, frame: &str) -> Result<Frame, Refused> {
        let body_bytes_max = self.api.options().body_bytes_max;
        self.admit(frames::parse(frame, self.sender.as_deref(), body_bytes_max)?)
    }

    async fn refuse(&mut self, id: Option<&str>, error: &Error) -> Result<(), End> {
        self.write(TEXT, frames::error(id, error).as_bytes());
        self.drain().await
    }

    async fn notify(&mut self, frame: NotifyFrame) -> Result<(), End> {
        // Many frames may have been read at once, and each may have its answer at once.
        tokio::task::consume_budget().await;
        let client = self.standing.admitted().client;
        match self.notifying.send(&self.api, &self.key, client.as_deref(), frame) {
            Some((id, error)) => self.refuse(id.as_deref(), &error).await,
            None => Ok(()),
        }
    }

    async fn decided(&mut self, id: &str, result: Result<Sent, Error>) -> Result<(), End> {
        match result {
            Ok(_) if self.mute => {}
            Ok(sent) => {
                self.count(sent.body.len());
                self.wire.write_with(TEXT, |out| frames::ack(out, id, &sent));
            }
            Err(error) => {
                self.undecided += usize::from(self.ending && error.code.retriable());
                self.write(TEXT, frames::error(Some(id), &error).as_bytes());
            }
        }
        self.drain().await
    }

    async fn events(&mut self, item: Item) -> Result<(), End> {
        match item {
            Item::Events { published, from, held: _held } => {
                let events = published.events.iter().skip(from);
                self.count(events.map(|event| event.body.len()).sum());
                for (index, event) in published.events.iter().enumerate().skip(from) {
                    let mut view = EventView::new(published.seq, index, published.time_ms, event);
                    let of = published.incarnation;
                    let place = Cursor::after_event(published.seq, view.index, of);
                    view.position = Some(place.to_string());
                    self.write(TEXT, frames::event(view).as_bytes());
                    self.drain().await?;
                }
                Ok(())
            }
            Item::Ephemeral { event, held: _held } => {
                self.count(event.event.body.len());
                let frame = frames::notified(EphemeralView::new(&event));
                self.write(TEXT, frame.as_bytes());
                self.drain().await
            }
            Item::Gap { after } => {
                self.write(TEXT, frames::gap(after).as_bytes());
                let why = "too slow; reconnect after the gap's cursor";
                Err(End::Close(code::TRY_AGAIN_LATER, why))
            }
            Item::Deleted => {
                self.write(TEXT, frames::deleted().as_bytes());
                Err(End::Close(code::NORMAL, "the session was deleted"))
            }
            Item::Failed(error) => {
                self.write(TEXT, frames::error(None, &error).as_bytes());
                Err(End::Close(code::TRY_AGAIN_LATER, "events are not available now"))
            }
        }
    }

    /// If this side ends it, or can't write: messages that arrived before are still accepted, as
    /// they would have been a moment earlier.
    async fn take_what_came(&mut self, end: End) -> End {
        let came = matches!(end, End::Close(..) | End::Deaf) && !end.is_of_rights();
        let until = crate::clock::timer_now() + limits::LINGER;
        while came && crate::clock::timer_now() < until {
            if self.pending.len() >= limits::SOCKET_IN_FLIGHT_MAX
                && let Some((id, result)) = self.next_decided().await
            {
                let _ = self.decided(&id, result).await;
            }
            // What is here now; an exhausted turn must not look like the end of it.
            let next = poll_fn(|cx| self.wire.poll_next(cx));
            match tokio::task::unconstrained(next).now_or_never() {
                Some(Heard::Message(Message::Text(text))) => drop(self.frame(&text).await),
                Some(Heard::Message(Message::Close(code))) => return End::Closed(code),
                Some(Heard::Message(_)) => {}
                Some(Heard::End { .. } | Heard::Fault(_) | Heard::Broken) | None => break,
            }
        }
        end
    }

    /// Closes the connection, and reports how many messages were not decided.
    async fn part(&mut self, end: End) {
        let of_rights = end.is_of_rights();
        let (code, mut reason) = match end {
            End::Close(code, reason) => (Some(code), reason.to_owned()),
            End::Fault(fault) => {
                let (code, reason) = fault.close();
                (Some(code), reason.to_owned())
            }
            End::Closed(code) => (code, String::new()),
            End::Ended { inside: true } => {
                (Some(code::PROTOCOL), "the connection ended inside a frame".to_owned())
            }
            End::Ended { inside: false } => (Some(code::NORMAL), String::new()),
            End::Deaf | End::Broken => return,
        };
        let code = match (self.undecided, code) {
            (0, code) => code,
            (n, code) => {
                let also = if reason.is_empty() { "" } else { "; " };
                reason += &format!("{also}undecided: {n}; send them again with the same ids");
                let clean = matches!(code, None | Some(code::NORMAL | 3000..=4999));
                let clean = clean && !of_rights;
                if clean { Some(code::TRY_AGAIN_LATER) } else { code }
            }
        };
        if self.mute {
            return;
        }
        self.wire.write_close(code, &reason);
        if self.flush().await.is_ok() {
            // Further input is dropped, up to the peer's own end.
            let shut = poll_fn(|cx| self.wire.poll_shutdown(cx));
            let _ = tokio::time::timeout(limits::LINGER, shut).await;
        }
    }

    /// Counts bytes of bodies that are sent.
    fn count(&self, bytes: usize) {
        self.api.backend().sent(&self.key.service, self.standing.client(), bytes);
    }

    /// Queues a frame. [`Session::drain`] or [`Session::flush`] follows.
    fn write(&mut self, opcode: u8, payload: &[u8]) {
        if !self.mute {
            self.wire.write(opcode, payload);
        }
    }

    /// Waits while too much output is queued: then nothing else is read or produced for this peer.
    async fn drain(&mut self) -> Result<(), End> {
        match self.wire.waiting() > limits::SOCKET_WRITE_BYTES {
            true => self.flush().await,
            false => Ok(()),
        }
    }

    /// Writes the queued output, with a timeout if the peer does not read it.
    async fn flush(&mut self) -> Result<(), End> {
        while !self.mute && self.wire.waiting() > 0 {
            let enough = self.wire.waiting().saturating_sub(limits::WRITE_PROGRESS_BYTES);
            let wire = &mut self.wire;
            let mut work = pin!(poll_fn(|cx| match wire.poll_flush(cx) {
                Poll::Pending if wire.waiting() <= enough => Poll::Ready(Ok(())),
                written => written,
            }));
            // Without a timer if it need not wait, which is nearly always.
            let done = match work.as_mut().now_or_never() {
                Some(done) => Some(done),
                None => {
                    // A stopping node has less time.
                    let limit = match self.ending {
                        true => limits::LINGER,
                        false => limits::WRITE_STALL,
                    };
                    let stop = stopped_for_a_while(&self.api, self.ending);
                    tokio::select! {
                        done = tokio::time::timeout(limit, work.as_mut()) => done.ok(),
                        () = stop => None,
                    }
                }
            };
            if !matches!(done, Some(Ok(()))) {
                self.mute = true;
                return Err(End::Deaf);
            }
        }
        Ok(())
    }
}

/// Some time after the order to stop, the node no longer waits for a peer that reads nothing.
async fn stopped_for_a_while(api: &Api, ending: bool) {
    if ending {
        return std::future::pending().await;
    }
    api.0.shutdown.triggered().await;
    tokio::time::sleep(limits::LINGER).await;
}
