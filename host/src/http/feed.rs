//! A session's events in order, without gap or repeat, across restarts and moves of its slot:
//! shared by event streams and sockets.

use super::{backend::Backend, params};
use crate::{
    backoff,
    buffers::Held,
    error::{Code, Error},
    limits,
    message::Ephemeral,
    names::SessionKey,
    node::{Consistency, Cursor, Incarnation, Live, LiveReceiver, Published, Subscribed},
    operation::{Describe, Subscribe},
    telemetry::metrics,
};
use futures_util::future::BoxFuture;
use std::{collections::VecDeque, sync::Arc, time::Duration};

/// What a subscriber gets next.
#[derive(Debug)]
pub(super) enum Item {
    /// Events of one message, the first of which has index `from`. There is at least one. They are
    /// charged until `held` is dropped, or with their page.
    Events { published: Published, from: usize, held: Held },
    /// It has no place: the cursor stays.
    Ephemeral { event: Arc<Ephemeral>, held: Held },
    /// The reader was too slow: events after `after` were dropped for it. The last item.
    Gap { after: Cursor },
    /// The session was deleted. The last item.
    Deleted,
    /// The subscription can't continue. The last item.
    Failed(Error),
}

/// A subscription. Its reader calls [`Feed::next`] until it returns one of the last items.
pub(super) struct Feed {
    backend: Backend,
    key: SessionKey,
    /// Everything up to here was returned. It belongs to the session that the feed began with, once
    /// that is known: events of another session of the same name are not returned as its own.
    cursor: Cursor,
    step: Step,
    /// Consecutive subscriptions that returned nothing.
    tries: u32,
}

enum Step {
    Subscribing(BoxFuture<'static, Result<Subscribed, Error>>),
    /// Pages of stored events; then the live end, or the next page.
    Backlog(
        VecDeque<Published>,
        Option<LiveReceiver>,
        #[expect(dead_code, reason = "held for its drop")] Held,
    ),
    Live(LiveReceiver),
    /// The start position is in a session that was deleted.
    Deleted,
    Done,
}

impl Feed {
    /// Starts after `cursor`, or with `None` at new events.
    ///
    /// # Errors
    /// The result of the subscription's first step, so that it can still be the answer to the
    /// request; `request-invalid` if the cursor is past the session's end and does not name its
    /// session.
    pub(super) async fn open(
        backend: Backend,
        key: SessionKey,
        cursor: Option<Cursor>,
    ) -> Result<Self, Error> {
        let now = Now::of(&backend, &key).await?;
        let mut feed = Self { backend, key, cursor: Cursor::START, step: Step::Deleted, tries: 0 };
        match cursor {
            Some(cursor) if !cursor.belongs_to(now.incarnation, now.made_again) => return Ok(feed),
            Some(cursor) if cursor.seq > now.last => {
                return Err(params::invalid(format!(
                    "{cursor} is beyond message {}, the session's last; was the session deleted?",
                    now.last
                )));
            }
            Some(cursor) => feed.cursor = Cursor { of: cursor.of.or(now.existing()), ..cursor },
            None => feed.cursor = Cursor { of: now.existing(), ..Cursor::after(now.last, None) },
        }
        let first = Subscribe { key: feed.key.clone(), after: feed.cursor.after_message() };
        let first = feed.backend.call(first).await?;
        feed.subscribed(first);
        Ok(feed)
    }

    /// Handles a step of the subscription, from the session that it began with or another.
    fn subscribed(&mut self, next: Subscribed) {
        self.step = match self.is_same(next.incarnation) {
            true => Step::Backlog(next.backlog.into(), next.live, next.held),
            false => Step::Deleted,
        };
    }

    /// Whether this is still the session that the feed began with. One without messages becomes the
    /// one that its first message creates.
    fn is_same(&mut self, incarnation: Option<Incarnation>) -> bool {
        match (self.cursor.of, incarnation) {
            // A node of an earlier version does not send it.
            (_, None) => true,
            (Some(own), Some(now)) => own == now,
            (None, Some(Incarnation::NONE)) => true,
            (None, now) => {
                self.cursor.of = now;
                true
            }
        }
    }

    pub(super) fn key(&self) -> &SessionKey {
        &self.key
    }

    /// The next item. Cancel-safe: loses nothing if dropped before it resolves.
    pub(super) async fn next(&mut self) -> Item {
        loop {
            match &mut self.step {
                Step::Subscribing(call) => match call.await {
                    Ok(next) => self.subscribed(next),
                    Err(error) if error.code == Code::SessionNotFound => {
                        return self.end(Item::Deleted);
                    }
                    Err(error) if !error.code.retriable() => return self.end(Item::Failed(error)),
                    Err(error) if self.tries >= limits::RESUBSCRIBE_TRIES_MAX => {
                        return self.end(Item::Failed(error));
                    }
                    Err(_) => self.subscribe(),
                },
                Step::Backlog(messages, live, _) => match messages.pop_front() {
                    Some(published) => {
                        if let Some(item) = self.take(published, Held::default()) {
                            return item;
                        }
                    }
                    None => match live.take() {
                        Some(live) => {
                            self.tries = 0;
                            self.step = Step::Live(live);
                        }
                        None => self.subscribe(),
                    },
                },
                Step::Live(live) => match live.recv_held().await {
                    Some((Live::Published(published), held)) => {
                        if !self.is_same(published.incarnation) {
                            return self.end(Item::Deleted);
                        }
                        if let Some(item) = self.take(published, held) {
                            return item;
                        }
                    }
                    Some((Live::Ephemeral(event), held)) => return Item::Ephemeral { event, held },
                    Some((Live::Deleted, _)) => return self.end(Item::Deleted),
                    None if live.lagged() => {
                        let after = self.cursor;
                        metrics().subscriber_gaps.increment(1);
                        return self.end(Item::Gap { after });
                    }
                    None => self.subscribe(),
                },
                Step::Deleted => return self.end(Item::Deleted),
                // Nothing follows a last item.
                Step::Done => std::future::pending().await,
            }
        }
    }

    fn end(&mut self, item: Item) -> Item {
        self.step = Step::Done;
        item
    }

    /// The part of a message that was not returned yet, if any.
    fn take(&mut self, published: Published, held: Held) -> Option<Item> {
        let from = match self.cursor {
            Cursor { seq, .. } if published.seq < seq => return None,
            Cursor { seq, index: None, .. } if published.seq == seq => return None,
            Cursor { seq, index: Some(index), .. } if published.seq == seq => index as usize + 1,
            _ => 0,
        };
        self.tries = 0;
        self.cursor = Cursor { seq: published.seq, index: None, ..self.cursor };
        (from < published.events.len()).then_some(Item::Events { published, from, held })
    }

    /// Subscribes after what was returned, with a growing pause while that gives nothing.
    fn subscribe(&mut self) {
        let pause = pause(self.tries);
        self.tries += 1;
        let (backend, key) = (self.backend.clone(), self.key.clone());
        let (given, after) = (self.cursor.seq, self.cursor.after_message());
        self.step = Step::Subscribing(Box::pin(async move {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            // The session may have been deleted in between. Nodes of an earlier version don't
            // report which session their answer belongs to.
            if Now::of(&backend, &key).await?.last < given {
                return Err(Error::new(Code::SessionNotFound, "the session was deleted"));
            }
            backend.call(Subscribe { key, after }).await
        }));
    }
}

fn pause(tries: u32) -> Duration {
    match tries {
        0 => Duration::ZERO,
        n => backoff::step(limits::RESUBSCRIBE_MIN, limits::RESUBSCRIBE_MAX, n - 1),
    }
}

/// The current extent of a session.
struct Now {
    /// Its last message, 0 if it has none yet.
    last: u64,
    incarnation: Option<Incarnation>,
    made_again: bool,
}

impl Now {
    async fn of(backend: &Backend, key: &SessionKey) -> Result<Self, Error> {
        let describe = Describe { key: key.clone(), consistency: Consistency::Current };
        match backend.call(describe).await {
            Ok(info) => Ok(Self {
                last: info.seq,
                incarnation: info.incarnation,
                made_again: info.made_again,
            }),
            Err(error) if error.code == Code::SessionNotFound => {
                Ok(Self { last: 0, incarnation: Some(Incarnation::NONE), made_again: false })
            }
            Err(error) => Err(error),
        }
    }

    fn existing(&self) -> Option<Incarnation> {
        self.incarnation.filter(|of| *of != Incarnation::NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::fake::FakeNode, *};
    use crate::node::Incoming;
    use std::sync::Arc;

    fn setup() -> (Arc<FakeNode>, Backend, SessionKey) {
        let fake = Arc::new(FakeNode::default());
        let key = SessionKey::parse("chat", "a").expect("a key");
        (fake.clone(), Backend::Fake(fake), key)
    }
    async fn send(backend: &Backend, key: &SessionKey, events: usize) {
        let body = format!("{{\"events\":{events}}}").into();
        let content_type = "application/json".into();
        let message =
            Incoming { id: None, sender: None, content_type, body, trace: None, client: None };
        backend.enqueue(key, message).await.expect("enqueued").await.expect("sent");
    }
    fn cursor(text: &str) -> Option<Cursor> {
        Some(Cursor::parse(text, "after").expect("a cursor"))
    }
    /// The next `n` events as `seq.index`.
    async fn take(feed: &mut Feed, n: usize) -> Vec<String> {
        let mut got = Vec::new();
        while got.len() < n {
            match feed.next().await {
                Item::Events { published, from, .. } => got.extend(
                    (from..published.events.len()).map(|i| format!("{}.{i}", published.seq)),
                ),
                other => panic!("{other:?} after {got:?}"),
            }
        }
        got
    }

    /// Without it a client that reconnects would miss events or see some twice; in particular
    /// within a message that had several.
    #[tokio::test]
    async fn every_place_can_be_resumed_from() {
        let (_fake, backend, key) = setup();
        for events in [1, 3, 0, 2, 1, 0, 0, 1] {
            send(&backend, &key, events).await;
        }
        let all = ["1.0", "2.0", "2.1", "2.2", "4.0", "4.1", "5.0", "8.0"];
        for (i, place) in all.iter().enumerate() {
            let mut feed =
                Feed::open(backend.clone(), key.clone(), cursor(place)).await.expect("open");
            assert_eq!(take(&mut feed, all.len() - i - 1).await, all[i + 1..], "after {place}");
            send(&backend, &key, 1).await;
            let seq = 9 + i;
            let mut live = take(&mut feed, i + 1).await;
            assert_eq!(live.pop(), Some(format!("{seq}.0")));
        }
        for (place, rest) in [("0", 0), ("1", 1), ("2", 4), ("3", 4), ("4", 6)] {
            let mut feed =
                Feed::open(backend.clone(), key.clone(), cursor(place)).await.expect("open");
            assert_eq!(take(&mut feed, all.len() - rest).await, all[rest..], "after {place}");
        }
        assert!(Feed::open(backend, key, cursor("17")).await.is_err());
    }

    /// Without it a restart of a slot would lose events for its subscribers, or repeat some.
    #[tokio::test]
    async fn a_restarted_slot_goes_unnoticed() {
        let (fake, backend, key) = setup();
        let mut feed = Feed::open(backend.clone(), key.clone(), None).await.expect("open");
        for seq in 1..=20u64 {
            send(&backend, &key, 2).await;
            if seq % 3 == 0 {
                fake.restart_slot();
                *fake.refuse_subscriptions.lock() = 2;
            }
            if seq % 4 == 0 {
                let got = take(&mut feed, 8).await;
                let want: Vec<_> =
                    (seq - 3..=seq).flat_map(|s| [format!("{s}.0"), format!("{s}.1")]).collect();
                assert_eq!(got, want);
            }
        }
        *fake.refuse_subscriptions.lock() = u32::MAX;
        // As after many retries: the test need not wait for each.
        feed.tries = limits::RESUBSCRIBE_TRIES_MAX;
        fake.restart_slot();
        assert!(matches!(feed.next().await, Item::Failed(e) if e.code == Code::Unavailable));
    }

    /// Without it slotd would buffer without limit for a reader that does not read, or drop events
    /// silently.
    #[tokio::test]
    async fn a_slow_reader_is_told_of_the_gap() {
        let (fake, backend, key) = setup();
        let mut feed = Feed::open(backend.clone(), key.clone(), None).await.expect("open");
        let held = limits::SUBSCRIBER_MESSAGES_MAX;
        for _ in 0..held {
            send(&backend, &key, 1).await;
        }
        assert_eq!(fake.subscribers(&key), 1);
        send(&backend, &key, 1).await;
        assert_eq!(fake.subscribers(&key), 0);
        assert_eq!(take(&mut feed, held).await.len(), held);
        let seq = held as u64;
        assert!(
            matches!(feed.next().await, Item::Gap { after } if (after.seq, after.index) == (seq, None))
        );
    }

    /// Without it a subscriber of a deleted session would wait forever, or get the events of a new
    /// session of that name as if they were the old one's.
    #[tokio::test]
    async fn a_deleted_session_ends_the_feed() {
        let (fake, backend, key) = setup();
        send(&backend, &key, 1).await;
        let mut deleted = Feed::open(backend.clone(), key.clone(), None).await.expect("open");
        fake.delete(&key).await.expect("deleted");
        assert!(matches!(deleted.next().await, Item::Deleted));

        send(&backend, &key, 1).await;
        send(&backend, &key, 1).await;
        let mut missed = Feed::open(backend.clone(), key.clone(), None).await.expect("open");
        fake.restart_slot();
        fake.delete(&key).await.expect("deleted");
        send(&backend, &key, 1).await;
        assert!(matches!(missed.next().await, Item::Deleted));

        // Also when the new one has as many messages by then.
        let mut again = Feed::open(backend.clone(), key.clone(), None).await.expect("open");
        fake.restart_slot();
        fake.delete(&key).await.expect("deleted");
        for _ in 0..5 {
            send(&backend, &key, 1).await;
        }
        assert!(matches!(again.next().await, Item::Deleted));
    }

    /// Without it a reader that was away while its session was deleted and created again would
    /// silently get a gap.
    #[tokio::test]
    async fn a_place_in_a_deleted_session_is_none_in_its_successor() {
        let (fake, backend, key) = setup();
        let mut old = Feed::open(backend.clone(), key.clone(), cursor("0")).await.expect("open");
        for _ in 0..3 {
            send(&backend, &key, 1).await;
        }
        take(&mut old, 3).await;
        let place = old.cursor;
        assert!(place.of.is_some(), "the place does not say whose it is");
        fake.delete(&key).await.expect("deleted");
        let open = |cursor| Feed::open(backend.clone(), key.clone(), Some(cursor));
        // Before there is another one.
        assert!(matches!(open(place).await.expect("open").next().await, Item::Deleted));
        for _ in 0..5 {
            send(&backend, &key, 1).await;
        }
        assert!(matches!(open(place).await.expect("open").next().await, Item::Deleted));
        // Numbers alone may belong to either.
        let numbers = Cursor { of: None, ..place };
        assert!(matches!(open(numbers).await.expect("open").next().await, Item::Deleted));
        let mut new = open(Cursor::START).await.expect("open");
        assert_eq!(take(&mut new, 5).await[0], "1.0");
        let mut back = open(Cursor { seq: 2, index: None, of: new.cursor.of }).await.expect("open");
        assert_eq!(take(&mut back, 3).await, ["3.0", "4.0", "5.0"]);
    }
}
