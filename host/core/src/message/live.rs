//! A session's events for a subscriber: first the stored ones, then the live end.

use crate::{
    buffers::{self, Charge, Held, Kind},
    error::Error,
    limits,
    log::record::Event,
    position::Incarnation,
};
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

/// The queue's state, shared by both ends.
#[derive(Debug, Default)]
struct Queue {
    bytes: AtomicUsize,
    lagged: AtomicBool,
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
    pub fn new(live: Live, subscribers: usize) -> Self {
        let bytes = live.bytes();
        let mut charge = Charge::new(buffers::shared().clone(), Kind::Events);
        let fits = charge.set(bytes + subscribers * size_of::<Self>()).is_ok();
        Self { live, bytes, fits, held: charge.into() }
    }
}

/// A live subscription that holds [`limits::SUBSCRIBER_MESSAGES_MAX`] messages and
/// [`limits::SUBSCRIBER_BYTES_MAX`] bytes.
pub fn live_channel() -> (LiveSender, LiveReceiver) {
    let (sender, receiver) = mpsc::channel(limits::SUBSCRIBER_MESSAGES_MAX);
    let queue = Arc::new(Queue::default());
    (
        LiveSender { channel: sender, queue: queue.clone() },
        LiveReceiver { channel: receiver, queue },
    )
}

impl LiveSender {
    /// Passes an item to the subscriber without waiting. `false`: it is gone or too slow, drop the
    /// sender (`subscribers.retain(|s| s.offer(..))`).
    pub fn offer(&self, item: Live) -> bool {
        self.offer_queued(Queued::new(item, 1))
    }
    /// As [`LiveSender::offer`], for an item that others get too.
    pub(crate) fn offer_queued(&self, item: Queued) -> bool {
        let Queue { bytes: waiting, lagged } = &*self.queue;
        let bytes = item.bytes;
        let before = waiting.fetch_add(bytes, Ordering::Relaxed);
        // The first is accepted, however large. If memory is short, subscribers that hold most of
        // it are closed.
        let over = before > 0 && before + bytes > limits::SUBSCRIBER_BYTES_MAX;
        let too_much = over || (!item.fits && before > limits::SUBSCRIBER_BYTES_FREE);
        let sent = match too_much {
            true => Err(true),
            false => self.channel.try_send(item).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => true,
                mpsc::error::TrySendError::Closed(_) => false,
            }),
        };
        if let Err(too_slow) = sent {
            waiting.fetch_sub(bytes, Ordering::Relaxed);
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
            self.queue.bytes.fetch_sub(item.bytes, Ordering::Relaxed);
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
    /// The session was deleted.
    Deleted,
}

impl Live {
    /// Memory that it holds.
    fn bytes(&self) -> usize {
        let events = match self {
            Self::Published(published) => published.events.iter().map(Event::memory).sum::<usize>(),
            Self::Deleted => 0,
        };
        size_of::<Queued>() + events
    }
}
