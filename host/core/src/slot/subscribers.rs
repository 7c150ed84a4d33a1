//! Who wants to hear of a session's events: fed with committed messages only.

use crate::{
    error::{Code, Error},
    limits,
    loads::Loads,
    log::record::{Entry, Event, Record},
    message::{Ephemeral, Live, LiveReceiver, LiveSender, Origin, Published, Queued, live_channel},
    names::SessionKey,
    position::Incarnation,
    state::deleted,
    telemetry::metrics,
};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

/// A place in the order of what a slot's task applied: batch number, index in the batch.
pub type Place = (u64, usize);

struct Subscriber {
    /// Records before this place are in the backlog that the subscriber has.
    from: Place,
    sender: LiveSender,
}

/// Those of one session.
#[derive(Default)]
struct Watched {
    list: Vec<Subscriber>,
    allowance: Allowance,
}

/// Deliveries that clients may still cause: refilled with time.
struct Allowance {
    left: f64,
    /// `None`: none were caused yet.
    at: Option<Instant>,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { left: limits::NOTIFY_DELIVERIES_MAX, at: None }
    }
}

impl Allowance {
    /// Takes an event's deliveries, if they are left.
    fn take(&mut self, subscribers: usize, now: Instant) -> bool {
        let passed = self.at.map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        let refilled = self.left + passed * limits::NOTIFY_DELIVERIES_PER_SECOND;
        (self.left, self.at) = (refilled.min(limits::NOTIFY_DELIVERIES_MAX), Some(now));
        let takes = subscribers.max(limits::NOTIFY_DELIVERIES_MIN) as f64;
        let is_left = self.left >= takes;
        if is_left {
            self.left -= takes;
        }
        is_left
    }
}

/// Ephemeral events of a message whose batch is not durable yet.
struct Waiting {
    place: Place,
    key: SessionKey,
    time_ms: u64,
    events: Vec<Event>,
}

/// The subscribers of one slot's sessions.
#[derive(Default)]
pub struct Subscribers {
    /// Whose part of the connections' buffers their events are.
    loads: Option<Arc<Loads>>,
    by_session: HashMap<SessionKey, Watched>,
    count: usize,
    /// In the order of their places.
    waiting: VecDeque<Waiting>,
}

impl Subscribers {
    pub fn new(loads: Option<Arc<Loads>>) -> Self {
        Self { loads, ..Self::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// # Errors
    /// `limit-reached` when the session has too many subscribers.
    pub fn add(&mut self, key: &SessionKey, from: Place) -> Result<LiveReceiver, Error> {
        let (sender, receiver) = live_channel();
        let Watched { list, .. } = self.by_session.entry(key.clone()).or_default();
        if list.len() >= limits::SUBSCRIBERS_PER_SESSION_MAX {
            let before = list.len();
            list.retain(|subscriber| !subscriber.sender.is_closed());
            self.count -= before - list.len();
        }
        if list.len() >= limits::SUBSCRIBERS_PER_SESSION_MAX {
            return Err(Error::new(
                Code::LimitReached,
                format!("{key} already has {} subscribers", limits::SUBSCRIBERS_PER_SESSION_MAX),
            ));
        }
        list.push(Subscriber { from, sender });
        self.count += 1;
        Ok(receiver)
    }

    /// Whether a session has a subscriber.
    pub fn has(&mut self, key: &SessionKey) -> bool {
        let Some(Watched { list, .. }) = self.by_session.get_mut(key) else { return false };
        let before = list.len();
        list.retain(|subscriber| !subscriber.sender.is_closed());
        self.count -= before - list.len();
        let has = !list.is_empty();
        if !has {
            self.by_session.remove(key);
        }
        has
    }

    /// Forgets those that have gone away, and says whether any are left.
    pub fn sweep(&mut self) -> bool {
        self.by_session.retain(|_, Watched { list, .. }| {
            list.retain(|subscriber| !subscriber.sender.is_closed());
            !list.is_empty()
        });
        self.count = self.by_session.values().map(|watched| watched.list.len()).sum();
        !self.is_empty()
    }

    /// Keeps the ephemeral events of a message until its batch is durable, which [`Self::publish`] says. If it
    /// never is, they are dropped with the slot's memory.
    pub fn keep(&mut self, place: Place, key: &SessionKey, time_ms: u64, events: Vec<Event>) {
        if !events.is_empty() {
            self.waiting.push_back(Waiting { place, key: key.clone(), time_ms, events });
        }
    }

    /// Tells the subscribers of a committed batch: of each message its events, then its ephemeral ones. One
    /// that is too slow is dropped, and can tell that from a slot's restart.
    pub fn publish(&mut self, batch: u64, records: &[Record]) {
        if self.is_empty() {
            self.waiting.retain(|waiting| waiting.place.0 > batch);
            return;
        }
        for (index, record) in records.iter().enumerate() {
            let place = (batch, index);
            if let Some((key, live)) = self.live_item(record) {
                self.tell(key, place, live);
            }
            while let Some(waiting) = self.waiting.pop_front_if(|waiting| waiting.place <= place) {
                self.pass_on(waiting);
            }
        }
    }

    /// What the subscribers of a record's session get, if there are any.
    fn live_item<'a>(&self, record: &'a Record) -> Option<(&'a SessionKey, Live)> {
        match record {
            Record::Message(message) => {
                if !self.by_session.contains_key(&message.key) {
                    return None;
                }
                let of = Incarnation::of(&message.head);
                Some((&message.key, Live::Published(published(&message.entry, of))))
            }
            Record::Delete(delete) if deleted::is_of_names(delete) => None,
            Record::Delete(delete) => Some((&delete.key, Live::Deleted)),
            _ => None,
        }
    }

    fn pass_on(&mut self, waiting: Waiting) {
        let Waiting { place: _, key, time_ms, events } = waiting;
        for event in events {
            self.send_now(&key, Ephemeral { origin: Origin::Handler, time_ms, event });
        }
    }

    /// Passes a client's ephemeral event on at once.
    ///
    /// # Errors
    /// `limit-reached` when clients send too many.
    pub fn notify(
        &mut self,
        key: &SessionKey,
        sender: Option<String>,
        event: Event,
    ) -> Result<(), Error> {
        let Some(Watched { list, allowance }) = self.by_session.get_mut(key) else { return Ok(()) };
        if !allowance.take(list.len(), crate::clock::now()) {
            let why = format!(
                "clients send more ephemeral events to {key} than its {} subscribers can be told of",
                list.len()
            );
            return Err(Error::new(Code::LimitReached, why));
        }
        let (origin, time_ms) = (Origin::Client(sender), crate::clock::now_ms());
        self.send_now(key, Ephemeral { origin, time_ms, event });
        Ok(())
    }

    /// Whoever is there gets it, however much of the history it has read.
    fn send_now(&mut self, key: &SessionKey, ephemeral: Ephemeral) {
        if !self.by_session.contains_key(key) {
            return;
        }
        match ephemeral.origin {
            Origin::Handler => metrics().ephemeral_handlers.increment(1),
            Origin::Client(_) => metrics().ephemeral_clients.increment(1),
        }
        self.tell(key, (u64::MAX, 0), Live::Ephemeral(Arc::new(ephemeral)));
    }

    fn tell(&mut self, key: &SessionKey, place: Place, live: Live) {
        let Some(Watched { list, .. }) = self.by_session.get_mut(key) else { return };
        let before = list.len();
        let load = self.loads.as_ref().and_then(|loads| loads.of(&key.service));
        let item = Queued::new(live, before, load);
        list.retain(|subscriber| {
            place < subscriber.from || subscriber.sender.offer_queued(item.clone())
        });
        self.count -= before - list.len();
        if list.is_empty() {
            self.by_session.remove(key);
        }
    }
}

/// The events of a message of the session `of`.
pub fn published(entry: &Entry, of: Incarnation) -> Published {
    let events = entry.events.clone().into();
    Published { seq: entry.seq, incarnation: Some(of), time_ms: entry.time_ms, events }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use futures_util::FutureExt as _;

    /// Refused as a slot that moves is, a node that forwards would look for the slot elsewhere until its
    /// deadline.
    #[test]
    fn too_many_subscribers_are_not_told_that_the_slot_moved() {
        let (key, other) = (SessionKey::parse("s", "x"), SessionKey::parse("s", "y"));
        let (key, other) = (key.unwrap(), other.unwrap());
        let mut subscribers = Subscribers::default();
        let add = |subscribers: &mut Subscribers, key| subscribers.add(key, Place::default());
        let all = (0..limits::SUBSCRIBERS_PER_SESSION_MAX).map(|_| add(&mut subscribers, &key));
        let mut all: Vec<_> = all.map(Result::unwrap).collect();
        let refused = add(&mut subscribers, &key).err().unwrap();
        assert_eq!((refused.code, refused.code.status()), (Code::LimitReached, 503));
        assert!(add(&mut subscribers, &other).is_ok(), "it is this session's limit");
        all.pop();
        assert!(add(&mut subscribers, &key).is_ok(), "one that has gone makes room");
    }

    fn event(kind: &str) -> Event {
        Event { kind: kind.into(), content_type: "t".into(), body: "b".into() }
    }

    /// What was not committed must not be seen; and what is dropped with nobody there must not come later.
    #[test]
    fn ephemeral_events_wait_for_their_batch_and_for_no_subscriber() {
        let key = SessionKey::parse("s", "x").unwrap();
        let mut subscribers = Subscribers::default();
        let mut reader = subscribers.add(&key, (1, 0)).unwrap();
        subscribers.keep((2, 0), &key, 7, vec![event("a"), event("b")]);
        subscribers.publish(1, &[Record::Release { node: "n".into() }]);
        assert!(reader.recv().now_or_never().is_none(), "before its batch");
        subscribers.publish(2, &[Record::Release { node: "n".into() }]);
        for kind in ["a", "b"] {
            match reader.recv().now_or_never() {
                Some(Some(Live::Ephemeral(ephemeral))) => {
                    let is = (&ephemeral.origin, ephemeral.time_ms, &*ephemeral.event.kind);
                    assert_eq!(is, (&Origin::Handler, 7, kind));
                }
                other => panic!("{other:?}"),
            }
        }
        drop(reader);
        subscribers.sweep();
        subscribers.keep((3, 0), &key, 7, vec![event("c")]);
        subscribers.publish(3, &[]);
        let mut late = subscribers.add(&key, (4, 0)).unwrap();
        subscribers.publish(4, &[Record::Release { node: "n".into() }]);
        assert!(late.recv().now_or_never().is_none(), "to whoever was subscribed then");
    }

    /// One client could keep a slot busy with its readers.
    #[test]
    fn clients_cause_so_many_deliveries_and_no_more() {
        let (mut allowance, now) = (Allowance::default(), Instant::now());
        let at = |after_ms| now + std::time::Duration::from_millis(after_ms);
        let most = (limits::NOTIFY_DELIVERIES_MAX / 1_000.0) as usize;
        assert_eq!((0..2 * most).filter(|_| allowance.take(1_000, now)).count(), most);
        // A tenth of a second later.
        let later = (limits::NOTIFY_DELIVERIES_PER_SECOND / 10.0 / 1_000.0) as usize;
        assert_eq!((0..2 * most).filter(|_| allowance.take(1_000, at(100))).count(), later);
        // The first look at the clock is no reason for more than there may be.
        let mut allowance = Allowance::default();
        assert!(allowance.take(1, now) && allowance.take(1, at(3_600_000)));
        let few = limits::NOTIFY_DELIVERIES_MAX as usize / limits::NOTIFY_DELIVERIES_MIN;
        assert!((0..2 * few).filter(|_| allowance.take(1, at(3_600_000))).count() <= few);
    }
}
