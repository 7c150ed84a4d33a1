//! Who wants to hear of a session's events: fed with committed messages only.

use crate::{
    error::{Code, Error},
    limits,
    log::record::{Entry, Record},
    message::{Live, LiveReceiver, LiveSender, Published, Queued, live_channel},
    names::SessionKey,
    position::Incarnation,
    state::deleted,
};
use std::collections::HashMap;

/// A place in the order of what a slot's task applied: batch number, index in the batch.
pub type Place = (u64, usize);

struct Subscriber {
    /// Records before this place are in the backlog that the subscriber has.
    from: Place,
    sender: LiveSender,
}

/// The subscribers of one slot's sessions.
#[derive(Default)]
pub struct Subscribers {
    by_session: HashMap<SessionKey, Vec<Subscriber>>,
    count: usize,
}

impl Subscribers {
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// # Errors
    /// `limit-reached` when the session has too many subscribers.
    pub fn add(&mut self, key: &SessionKey, from: Place) -> Result<LiveReceiver, Error> {
        let (sender, receiver) = live_channel();
        let list = self.by_session.entry(key.clone()).or_default();
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

    /// Forgets those that have gone away, and says whether any are left.
    pub fn sweep(&mut self) -> bool {
        self.by_session.retain(|_, list| {
            list.retain(|subscriber| !subscriber.sender.is_closed());
            !list.is_empty()
        });
        self.count = self.by_session.values().map(Vec::len).sum();
        !self.is_empty()
    }

    /// Tells the subscribers of a committed batch. One that is too slow is dropped, and
    /// can tell that from a slot's restart.
    pub fn publish(&mut self, batch: u64, records: &[Record]) {
        if self.is_empty() {
            return;
        }
        for (index, record) in records.iter().enumerate() {
            let (key, live) = match record {
                Record::Message(message) => {
                    if !self.by_session.contains_key(&message.key) {
                        continue;
                    }
                    {
                        let of = Incarnation::of(&message.head);
                        (&message.key, Live::Published(published(&message.entry, of)))
                    }
                }
                Record::Delete(delete) if deleted::is_of_names(delete) => continue,
                Record::Delete(delete) => (&delete.key, Live::Deleted),
                _ => continue,
            };
            self.tell(key, (batch, index), live);
        }
    }

    fn tell(&mut self, key: &SessionKey, place: Place, live: Live) {
        let Some(list) = self.by_session.get_mut(key) else { return };
        let before = list.len();
        let item = Queued::new(live, before);
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
}
