//! A session's events for a subscriber: first the stored ones, then the live end.

use crate::{
    buffers::{self, Charge, Held, Kind},
    error::Error,
    limits,
    loads::Load,
    log::record::Event,
    position::Incarnation,
    telemetry::metrics,
};
use serde::{Deserialize, Serialize};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};
use tokio::sync::mpsc;

/// The events of one committed message.
#[derive(Clone, Debug)]
pub struct Published {
    pub seq: u64,
    /// As in [`super::Sent`].
    pub incarnation: Option<Incarnation>,
    pub time_ms: u64,
    pub events: Arc<[Event]>,
}

/// An ephemeral event: for whoever is subscribed at that moment, without a place in the history.
///
/// Nodes send it to each other as it is: its fields are a part of the protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ephemeral {
    pub origin: Origin,
    pub time_ms: u64,
    pub event: Event,
}

/// Who sent an ephemeral event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// The session's handler.
    Handler,
    /// A client; the name that it gave as its sender, if any.
    Client(Option<String>),
}

impl Origin {
    pub fn sender(&self) -> Option<&str> {
        match self {
            Self::Handler => None,
            Self::Client(sender) => sender.as_deref(),
        }
    }
}

/// One step of a subscription: first the stored events (a page at a time), then the live end.
pub struct Subscribed {
    /// Messages after the cursor's `seq`, in order; those without events are included.
    pub backlog: Vec<Published>,
    /// `None`: there is more; subscribe again after the backlog's last.
    pub live: Option<LiveReceiver>,
    /// Of the session, [`Incarnation::NONE`] if there is none yet; `None` as in [`super::Sent`].
    pub incarnation: Option<Incarnation>,
    /// Memory of the backlog.
    pub held: Held,
}

impl Published {
    fn memory(&self) -> usize {
        size_of::<Self>() + self.events.iter().map(Event::memory).sum::<usize>()
    }
}

/// Charges a backlog. When the budget is exhausted, a small one is accepted all the same: a
/// subscriber that reads must be able to continue.
///
/// # Errors
/// `buffers-full`.
pub(crate) fn hold_backlog(backlog: &[Published]) -> Result<Held, Error> {
    let bytes = backlog.iter().map(Published::memory).sum();
    let mut charge = Charge::new(buffers::shared().clone(), Kind::Events);
    match charge.set(bytes) {
        Err(full) if bytes > limits::SUBSCRIBER_BYTES_FREE => Err(full),
        _ => Ok(charge.into()),
    }
}

/// The slot's end of a live subscription.
#[derive(Debug)]
pub struct LiveSender {
    channel: mpsc::Sender<Queued>,
    queue: Arc<Queue>,
}

/// The subscriber's end of a live subscription. When it closes, either the subscriber was too slow
/// ([`LiveReceiver::lagged`]) or the slot stopped: it then subscribes again after the last event it
/// saw.
#[derive(Debug)]
pub struct LiveReceiver {
    channel: mpsc::Receiver<Queued>,
    queue: Arc<Queue>,
}

/// The queue's state, shared by both ends. Ephemeral items have room of their own: they take none from
/// what must not be lost.
#[derive(Debug, Default)]
struct Queue {
    durable: Waiting,
    ephemeral: Waiting,
    lagged: AtomicBool,
}

/// What waits of one kind. The sender is the only one that adds.
#[derive(Debug, Default)]
struct Waiting {
    items: AtomicUsize,
    bytes: AtomicUsize,
}

impl Waiting {
    fn items(&self) -> usize {
        self.items.load(Ordering::Relaxed)
    }
    fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
    fn add(&self, bytes: usize) {
        self.items.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
    fn remove(&self, bytes: usize) {
        self.items.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Queue {
    fn of(&self, live: &Live) -> &Waiting {
        match live {
            Live::Ephemeral(_) => &self.ephemeral,
            Live::Published(_) | Live::Deleted => &self.durable,
        }
    }

    /// Whether the reader keeps up well enough for an ephemeral item.
    fn takes_ephemeral(&self, item: &Queued) -> bool {
        let Self { durable, ephemeral, .. } = self;
        let behind = durable.items() + ephemeral.items();
        let bytes = ephemeral.bytes() + item.bytes;
        item.fits
            && behind < limits::EPHEMERAL_BEHIND_MAX
            && bytes <= limits::EPHEMERAL_BEHIND_BYTES_MAX
    }

    /// Whether the reader is still waited for with an item that must not be lost.
    fn takes_durable(&self, item: &Queued) -> bool {
        let before = self.durable.bytes();
        // The first is accepted, however large. If memory is short, subscribers that hold most of
        // it are closed.
        let over = before > 0 && before + item.bytes > limits::SUBSCRIBER_BYTES_MAX;
        let too_much = over || (!item.fits && before > limits::SUBSCRIBER_BYTES_FREE);
        !too_much && self.durable.items() < limits::SUBSCRIBER_MESSAGES_MAX
    }
}

/// A queued item. Its memory is charged once for all queues that have it.
#[derive(Clone, Debug)]
pub struct Queued {
    live: Live,
    bytes: usize,
    /// It fitted into the connections' budget.
    fits: bool,
    held: Held,
}

impl Queued {
    /// For this many subscribers. Their memory is charged at once, and released when none holds it.
    pub fn new(live: Live, subscribers: usize, load: Option<Arc<Load>>) -> Self {
        let bytes = live.bytes();
        let mut charge = Charge::new(buffers::shared().clone(), Kind::Events).of(load);
        let fits = charge.set(bytes + subscribers * size_of::<Self>()).is_ok();
        Self { live, bytes, fits, held: charge.into() }
    }
}

/// A live subscription that holds [`limits::SUBSCRIBER_MESSAGES_MAX`] messages and
/// [`limits::SUBSCRIBER_BYTES_MAX`] bytes, and ephemeral events beside them.
pub fn live_channel() -> (LiveSender, LiveReceiver) {
    let room = limits::SUBSCRIBER_MESSAGES_MAX + limits::EPHEMERAL_BEHIND_MAX;
    let (sender, receiver) = mpsc::channel(room);
    let queue = Arc::new(Queue::default());
    (
        LiveSender { channel: sender, queue: queue.clone() },
        LiveReceiver { channel: receiver, queue },
    )
}

impl LiveSender {
    /// Passes an item to the subscriber without waiting. `false`: it is gone or too slow, drop the
    /// sender (`subscribers.retain(|s| s.offer(..))`). An ephemeral item for one that is slow is dropped, and
    /// counted; the subscriber stays.
    pub fn offer(&self, item: Live) -> bool {
        self.offer_queued(Queued::new(item, 1, None))
    }
    /// As [`LiveSender::offer`], for an item that others get too.
    pub(crate) fn offer_queued(&self, item: Queued) -> bool {
        let Queue { lagged, .. } = &*self.queue;
        let is_ephemeral = matches!(item.live, Live::Ephemeral(_));
        let takes = match is_ephemeral {
            true => self.queue.takes_ephemeral(&item),
            false => self.queue.takes_durable(&item),
        };
        if !takes {
            if is_ephemeral {
                metrics().ephemeral_dropped.increment(1);
                return !self.is_closed();
            }
            lagged.store(true, Ordering::Release);
            return false;
        }
        let (waiting, bytes) = (self.queue.of(&item.live), item.bytes);
        waiting.add(bytes);
        let sent = self.channel.try_send(item).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => true,
            mpsc::error::TrySendError::Closed(_) => false,
        });
        if let Err(too_slow) = sent {
            waiting.remove(bytes);
            lagged.fetch_or(too_slow, Ordering::Release);
        }
        sent.is_ok()
    }
    /// Marks the subscriber as too slow, when this is detected elsewhere.
    pub fn lag(&self) {
        self.queue.lagged.store(true, Ordering::Release);
    }
    /// The subscriber is gone.
    pub fn is_closed(&self) -> bool {
        self.channel.is_closed()
    }
}

impl LiveReceiver {
    /// The next item; `None` if the slot closed this subscription. Cancel-safe: loses nothing if
    /// dropped before it resolves.
    pub async fn recv(&mut self) -> Option<Live> {
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }
    /// As [`LiveReceiver::recv`], for a hand-written future.
    pub fn poll_recv(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Option<Live>> {
        self.poll_queued(cx).map(|item| item.map(|item| item.live))
    }
    /// As [`LiveReceiver::recv`], with the item's memory charge, held as long as the item.
    pub async fn recv_held(&mut self) -> Option<(Live, Held)> {
        let item = std::future::poll_fn(|cx| self.poll_queued(cx)).await?;
        Some((item.live, item.held))
    }
    fn poll_queued(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Option<Queued>> {
        self.channel.poll_recv(cx).map(|item| {
            let item = item?;
            self.queue.of(&item.live).remove(item.bytes);
            Some(item)
        })
    }
    /// Whether it was closed because it was too slow.
    pub fn lagged(&self) -> bool {
        self.queue.lagged.load(Ordering::Acquire)
    }
}

/// What a live subscriber receives.
#[derive(Clone, Debug)]
pub enum Live {
    Published(Published),
    Ephemeral(Arc<Ephemeral>),
    /// The session was deleted.
    Deleted,
}

impl Live {
    /// Memory that it holds.
    fn bytes(&self) -> usize {
        let events = match self {
            Self::Published(published) => published.events.iter().map(Event::memory).sum::<usize>(),
            Self::Ephemeral(ephemeral) => {
                let sender = ephemeral.origin.sender().map_or(0, str::len);
                size_of::<Ephemeral>() + sender + ephemeral.event.memory()
            }
            Self::Deleted => 0,
        };
        size_of::<Queued>() + events
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use futures_util::FutureExt as _;

    fn event(bytes: usize) -> Event {
        Event { kind: "k".into(), content_type: "t".into(), body: vec![0; bytes].into() }
    }
    fn ephemeral(bytes: usize) -> Live {
        Live::Ephemeral(Arc::new(Ephemeral {
            origin: Origin::Handler,
            time_ms: 1,
            event: event(bytes),
        }))
    }
    fn published(seq: u64) -> Live {
        Live::Published(Published { seq, incarnation: None, time_ms: 1, events: [event(1)].into() })
    }
    /// How many durable and ephemeral items a reader finds.
    fn read(reader: &mut LiveReceiver) -> (usize, usize) {
        let mut found = (0, 0);
        while let Some(Some(item)) = reader.recv().now_or_never() {
            match item {
                Live::Ephemeral(_) => found.1 += 1,
                _ => found.0 += 1,
            }
        }
        found
    }

    /// An ephemeral event that took the room of a message would cost a reader its stream.
    #[test]
    fn ephemeral_events_take_no_room_from_what_must_not_be_lost() {
        let (sender, mut reader) = live_channel();
        for _ in 0..4 * limits::EPHEMERAL_BEHIND_MAX {
            assert!(sender.offer(ephemeral(1)), "a slow reader is closed for an ephemeral event");
        }
        for seq in 0..limits::SUBSCRIBER_MESSAGES_MAX {
            assert!(sender.offer(published(seq as u64)), "no room for message {seq}");
            assert!(sender.offer(ephemeral(1)));
        }
        assert!(!reader.lagged());
        let full = (limits::SUBSCRIBER_MESSAGES_MAX, limits::EPHEMERAL_BEHIND_MAX);
        assert_eq!(read(&mut reader), full);
        // It has caught up: both come again.
        assert!(sender.offer(ephemeral(1)) && sender.offer(published(0)));
        assert_eq!(read(&mut reader), (1, 1));
    }

    /// What a reader is late with anyway would make it later.
    #[test]
    fn a_reader_that_is_behind_gets_no_ephemeral_events() {
        let (sender, mut reader) = live_channel();
        for seq in 0..limits::EPHEMERAL_BEHIND_MAX {
            assert!(sender.offer(published(seq as u64)));
        }
        assert!(sender.offer(ephemeral(1)));
        assert_eq!(read(&mut reader), (limits::EPHEMERAL_BEHIND_MAX, 0));
        let most = limits::EPHEMERAL_BYTES_MAX;
        assert!((0..3).all(|_| sender.offer(ephemeral(most))));
        assert_eq!(read(&mut reader), (0, 1), "the bytes are not counted");
    }

    /// The slot would keep a reader that has gone until its next message.
    #[test]
    fn a_reader_that_has_gone_is_found_out_by_an_ephemeral_event() {
        let (sender, reader) = live_channel();
        drop(reader);
        assert!(!sender.offer(ephemeral(1)));
    }
}
