//! A session's WebSocket: messages in, their acknowledgements and the session's events out.

use super::{
    Api,
    connection::ConnShared,
    feed::{Feed, Item, parse_cursor},
    frames::{self, Refused, SendFrame},
    messages::{outcome_unknown, reading},
    params::{self, Query, invalid},
    room::Room,
    views::EventView,
};
use crate::{
    error::Error,
    limits,
    names::SessionKey,
    node::{Consistency, Sent},
};
use axum::{
    Extension,
    body::Body,
    extract::{
        State, WebSocketUpgrade,
        ws::{CloseFrame, Message, WebSocket, close_code, rejection::WebSocketUpgradeRejection},
    },
};
use bytes::Bytes;
use futures_util::{
    FutureExt, SinkExt, StreamExt,
    future::BoxFuture,
    stream::{FuturesUnordered, poll_fn as stream_fn},
};
use http::{Response, Uri};
use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll, time::Duration};
use tokio::time::{Instant, MissedTickBehavior};

/// The peer may not take as long as a reconnect to notice that the node goes away.
const RESTART: u16 = 1012;
const TRY_AGAIN_LATER: u16 = 1013;

/// Opens a WebSocket to a session
///
/// JSON text frames: `send` in; `ack`, `error`, `event`, `gap` and `deleted` out. The protocol is
/// in docs/websocket.md. Events begin after `after`, or without it with what comes from now on.
/// `access_token` may stand in for the `Authorization` header.
#[utoipa::path(
    get,
    path = "/v1/services/{service}/sessions/{session}/socket",
    tag = "sessions",
    params(
        ("service" = String, Path, description = "The service"),
        ("session" = String, Path, description = "The session's id, percent-encoded"),
        ("after" = Option<String>, Query, description = "A message's sequence number (0: from the beginning), or an event's `seq.index`"),
        ("subscribe" = Option<bool>, Query, description = "`false`: no events; default true"),
        ("sender" = Option<String>, Query, description = "The sender of messages that do not name one"),
    ),
    responses((status = 101, description = "The connection is a WebSocket from here on"))
)]
pub(super) async fn get(
    State(api): State<Api>,
    uri: Uri,
    connection: Option<Extension<Arc<ConnShared>>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response<Body>, Error> {
    let key = params::session_of(&uri)?;
    let query = Query::parse(&uri, &["after", "subscribe", "sender"])?;
    let cursor =
        query.get("after").map(|t| parse_cursor(t, "query parameter \"after\"")).transpose()?;
    let sender = query.get("sender").map(str::to_owned);
    if let Some(sender) = &sender {
        params::check_sender(sender)?;
    }
    let upgrade =
        upgrade.map_err(|e| invalid(format!("this route opens a WebSocket: {}", e.body_text())))?;
    let feed = match query.bool("subscribe")?.unwrap_or(true) {
        true => Some(reading(&api, Feed::open(api.backend().clone(), key.clone(), cursor)).await?),
        false => {
            // Says at once that there is no such service.
            reading(&api, api.backend().session(&key, Consistency::Current))
                .await
                .map(drop)
                .or_else(missing_is_fine)?;
            None
        }
    };
    // A body grows by a third in base64; one that is a little too large is told so in a frame.
    let frame_bytes_max = 2 * api.options().body_bytes_max + limits::SOCKET_FRAME_OVERHEAD_BYTES;
    let upgrade = upgrade
        .max_frame_size(frame_bytes_max)
        .max_message_size(frame_bytes_max)
        .write_buffer_size(limits::SOCKET_WRITE_BYTES);
    Ok(upgrade.on_upgrade(move |socket| async move {
        let _open = api.0.stats.open_socket();
        let stopping = api.0.shutdown.triggered().boxed();
        let deadline = api.options().request_deadline;
        let mut ping = tokio::time::interval(limits::SOCKET_PING);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ping.reset();
        let pending = FuturesUnordered::new();
        Session { api, key, sender, socket, feed, pending, deadline, stopping, ping }.run().await;
        // Until here it counts as one of the listener's connections.
        drop(connection);
    }))
}

fn missing_is_fine(error: Error) -> Result<(), Error> {
    match error.code {
        crate::error::Code::SessionNotFound => Ok(()),
        _ => Err(error),
    }
}

struct Session {
    api: Api,
    key: SessionKey,
    sender: Option<String>,
    socket: WebSocket,
    feed: Option<Feed>,
    /// Messages that are under way.
    pending: FuturesUnordered<BoxFuture<'static, (String, Result<Sent, Error>)>>,
    deadline: Duration,
    stopping: BoxFuture<'static, ()>,
    ping: tokio::time::Interval,
}

enum Step {
    Stop,
    Decided(String, Result<Sent, Error>),
    Events(Item),
    Heard(Option<Result<Message, axum::Error>>),
    Ping,
    Flush,
}

/// How a socket ends.
enum End {
    /// With this code and reason.
    Close(u16, &'static str),
    /// The peer is gone, or takes nothing.
    Gone,
}

impl Session {
    async fn run(mut self) {
        let (code, reason) = match self.serve().await {
            End::Close(code, reason) => (code, reason),
            End::Gone => return,
        };
        let frame = CloseFrame { code, reason: reason.into() };
        let finish = async {
            if self.socket.send(Message::Close(Some(frame))).await.is_ok() {
                // What still comes is dropped, up to the peer's own close.
                while let Some(Ok(_)) = self.socket.recv().await {}
            }
        };
        let _ = tokio::time::timeout(limits::LINGER, finish).await;
    }

    async fn serve(&mut self) -> End {
        let mut heard = Instant::now();
        let mut dirty = false;
        let mut turn = 0;
        loop {
            turn = (turn + 1) % 3;
            let step = self.step(turn, dirty).await;
            let written = match step {
                Step::Stop => return self.finish().await,
                Step::Decided(id, result) => self.decided(&id, result).await,
                Step::Events(item) => self.events(item).await,
                Step::Heard(Some(Ok(message))) => {
                    heard = Instant::now();
                    self.heard(message).await
                }
                Step::Heard(Some(Err(error))) => Err(broken(&error)),
                Step::Heard(None) => Err(End::Gone),
                Step::Ping => {
                    let reading = self.pending.len() < limits::SOCKET_IN_FLIGHT_MAX;
                    if reading && heard.elapsed() > limits::SOCKET_SILENCE {
                        return End::Close(close_code::POLICY, "nothing heard for too long");
                    }
                    self.write(Message::Ping(Bytes::new())).await
                }
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

    /// What is to be done next. Nothing goes short for another's sake: they take turns.
    async fn step(&mut self, turn: usize, dirty: bool) -> Step {
        let Self { socket, feed, pending, stopping, ping, .. } = self;
        let mut item = pin!(async {
            match feed {
                Some(feed) => feed.next().await,
                None => std::future::pending().await,
            }
        });
        let room = pending.len() < limits::SOCKET_IN_FLIGHT_MAX;
        poll_fn(|cx| {
            if stopping.poll_unpin(cx).is_ready() {
                return Poll::Ready(Step::Stop);
            }
            for source in 0..3 {
                let step = match (source + turn) % 3 {
                    0 => match pending.poll_next_unpin(cx) {
                        Poll::Ready(Some((id, result))) => Some(Step::Decided(id, result)),
                        _ => None,
                    },
                    1 => match item.as_mut().poll(cx) {
                        Poll::Ready(item) => Some(Step::Events(item)),
                        Poll::Pending => None,
                    },
                    _ if room => match socket.poll_next_unpin(cx) {
                        Poll::Ready(message) => Some(Step::Heard(message)),
                        Poll::Pending => None,
                    },
                    _ => None,
                };
                if let Some(step) = step {
                    return Poll::Ready(step);
                }
            }
            match ping.poll_tick(cx) {
                Poll::Ready(_) => Poll::Ready(Step::Ping),
                // Only now that nothing more is ready: one write for all of it.
                Poll::Pending if dirty => Poll::Ready(Step::Flush),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    async fn heard(&mut self, message: Message) -> Result<(), End> {
        match message {
            Message::Text(text) => self.send(text.as_str()).await,
            Message::Binary(_) => {
                let error = invalid("this protocol has text frames only");
                self.write(text(frames::error(None, &error))).await
            }
            // Pongs are sent by the socket itself.
            Message::Ping(_) | Message::Pong(_) => Ok(()),
            Message::Close(_) => {
                // Its answer is on its way out; see it off.
                let _ = tokio::time::timeout(limits::LINGER, async {
                    while let Some(Ok(_)) = self.socket.recv().await {}
                })
                .await;
                Err(End::Gone)
            }
        }
    }

    /// Puts a message into its slot's mailbox before the next frame is read: so the order of the
    /// frames is the order of the messages.
    async fn send(&mut self, frame: &str) -> Result<(), End> {
        let bytes_max = self.api.options().body_bytes_max;
        let SendFrame { id, message } =
            match frames::parse(frame, self.sender.as_deref(), bytes_max) {
                Ok(frame) => frame,
                Err(Refused { id, error }) => {
                    return self.write(text(frames::error(id.as_deref(), &error))).await;
                }
            };
        let mut room = Room::new(self.api.bodies().clone());
        if let Err(full) = room.take(message.body.len()) {
            return self.decided(&id, Err(full)).await;
        }
        let until = Instant::now() + self.deadline;
        let queued =
            tokio::time::timeout_at(until, self.api.backend().enqueue(&self.key, message)).await;
        match queued {
            Ok(Ok(pending)) => {
                let decided = async move {
                    let result = tokio::time::timeout_at(until, pending).await;
                    drop(room);
                    (id, result.unwrap_or_else(|_| Err(outcome_unknown())))
                };
                self.pending.push(decided.boxed());
                Ok(())
            }
            Ok(Err(error)) => self.decided(&id, Err(error)).await,
            Err(_) => self.decided(&id, Err(outcome_unknown())).await,
        }
    }

    async fn decided(&mut self, id: &str, result: Result<Sent, Error>) -> Result<(), End> {
        let frame = match result {
            Ok(sent) => frames::ack(id, &sent),
            Err(error) => frames::error(Some(id), &error),
        };
        self.write(text(frame)).await
    }

    async fn events(&mut self, item: Item) -> Result<(), End> {
        match item {
            Item::Events { published, from } => {
                for (index, event) in published.events.iter().enumerate().skip(from) {
                    let view = EventView::new(published.seq, index, published.time_ms, event);
                    self.write(text(frames::event(view))).await?;
                }
                Ok(())
            }
            Item::Gap { after } => {
                self.write(text(frames::gap(after))).await?;
                Err(End::Close(TRY_AGAIN_LATER, "too slow: come back after the gap's cursor"))
            }
            Item::Deleted => {
                self.write(text(frames::deleted())).await?;
                Err(End::Close(close_code::NORMAL, "the session was deleted"))
            }
            Item::Failed(error) => {
                self.write(text(frames::error(None, &error))).await?;
                Err(End::Close(TRY_AGAIN_LATER, "events are not available now"))
            }
        }
    }

    /// The node stops: what is under way is decided and told, nothing new is read.
    async fn finish(&mut self) -> End {
        let mut decided = std::mem::take(&mut self.pending);
        let tell = async {
            let mut rest = stream_fn(|cx| decided.poll_next_unpin(cx));
            while let Some((id, result)) = rest.next().await {
                self.decided(&id, result).await?;
            }
            Ok::<_, End>(())
        };
        match tell.await {
            Ok(()) => End::Close(RESTART, "the node is stopping: come back"),
            Err(end) => end,
        }
    }

    /// Hands a frame to the socket's buffer. Waits only when that is full, and not for ever: then
    /// nothing else is read or produced for this peer.
    async fn write(&mut self, message: Message) -> Result<(), End> {
        let work = self.socket.feed(message);
        settle(work).await
    }
    async fn flush(&mut self) -> Result<(), End> {
        let work = self.socket.flush();
        settle(work).await
    }
}

/// Awaits a write without a timer where it need not wait, which is nearly always.
async fn settle(work: impl Future<Output = Result<(), axum::Error>>) -> Result<(), End> {
    let mut work = pin!(work);
    let done = match work.as_mut().now_or_never() {
        Some(done) => Some(done),
        None => tokio::time::timeout(limits::WRITE_STALL, work).await.ok(),
    };
    match done {
        Some(Ok(())) => Ok(()),
        _ => Err(End::Gone),
    }
}

fn text(frame: String) -> Message {
    Message::Text(frame.into())
}

/// What to say about a frame that the socket itself refuses.
fn broken(error: &axum::Error) -> End {
    let said = error.to_string();
    if said.contains("too long") || said.contains("too large") {
        return End::Close(close_code::SIZE, "the frame is over the limit");
    }
    if said.contains("UTF-8") || said.contains("utf-8") {
        return End::Close(close_code::INVALID, "a text frame is not UTF-8");
    }
    End::Gone
}
