//! Events of a session as they reach a subscriber: what is there already, then the live end.

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

/// One step of a subscription: first what is already there (a page at a time), then the live end.
pub struct Subscribed {
    /// Messages after the cursor's `seq`, in order; those without events are included.
    pub backlog: Vec<Published>,
    /// `None`: there is more; subscribe again after the backlog's last.
    pub live: Option<LiveReceiver>,
    /// Of the session, [`Incarnation::NONE`] if there is none yet; `None` as in [`super::Sent`].
    pub incarnation: Option<Incarnation>,
    /// What the backlog takes.
    pub held: Held,
}

impl Published {
    fn memory(&self) -> usize {
        size_of::<Self>() + self.events.iter().map(Event::memory).sum::<usize>()
    }
}

/// Charges a backlog. Where connections hold all that they may, a small one is taken all the same:
/// a subscriber that reads must be able to go on.
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

/// The subscriber's end of a live subscription. When it closes, either the subscriber was too
/// slow ([`LiveReceiver::lagged`]) or the slot stopped: then it subscribes again after the last
/// it saw.
#[derive(Debug)]
pub struct LiveReceiver {
    channel: mpsc::Receiver<Queued>,
    queue: Arc<Queue>,
}

/// What both ends know of what waits between them.
#[derive(Debug, Default)]
struct Queue {
    bytes: AtomicUsize,
    lagged: AtomicBool,
}

/// An item as it waits. Its memory is charged once for all queues that have it.
#[derive(Clone, Debug)]
pub struct Queued {
    live: Live,
    bytes: usize,
    /// There was room for it among what connections hold.
    fits: bool,
    held: Held,
}

impl Queued {
    /// For so many subscribers. What they hold is charged at once, and gone when none has it.
    pub(crate) fn new(live: Live, subscribers: usize) -> Self {
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
    /// Gives an item to the subscriber without waiting. `false`: it is gone or too slow, drop the
    /// sender (`subscribers.retain(|s| s.offer(..))`).
    pub fn offer(&self, item: Live) -> bool {
        self.offer_queued(Queued::new(item, 1))
    }
    /// As [`LiveSender::offer`], for an item that others get, too.
    pub(crate) fn offer_queued(&self, item: Queued) -> bool {
        let Queue { bytes: waiting, lagged } = &*self.queue;
        let bytes = item.bytes;
        let before = waiting.fetch_add(bytes, Ordering::Relaxed);
        // The first is taken, however large. Where memory is short, those go that have most of it.
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
    /// Tells the subscriber that it was too slow, where that is known elsewhere.
    pub(crate) fn lag(&self) {
        self.queue.lagged.store(true, Ordering::Release);
    }
    /// The subscriber went away.
    pub fn is_closed(&self) -> bool {
        self.channel.is_closed()
    }
}

impl LiveReceiver {
    /// The next item; `None` when the slot gave this subscriber up. Loses nothing when dropped
    /// before it resolves.
    pub async fn recv(&mut self) -> Option<Live> {
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }
    /// As [`LiveReceiver::recv`], for a hand-written future.
    pub(crate) fn poll_recv(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Live>> {
        self.poll_queued(cx).map(|item| item.map(|item| item.live))
    }
    /// As [`LiveReceiver::recv`], with what the item takes, for as long as it is there.
    pub(crate) async fn recv_held(&mut self) -> Option<(Live, Held)> {
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
    /// Whether it was given up because it was too slow.
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
