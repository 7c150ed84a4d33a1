//! A session's events in order, without gap or repeat, across everything that may happen to the
//! slot beneath: the common part of event streams and sockets.

use super::{backend::Backend, params};
use crate::{
    error::{Code, Error},
    limits,
    names::SessionKey,
    node::{Consistency, Cursor, Live, LiveReceiver, Published, Subscribed},
    telemetry::metrics,
};
use futures_util::future::BoxFuture;
use std::{collections::VecDeque, time::Duration};

/// What a subscriber gets next.
#[derive(Debug)]
pub(super) enum Item {
    /// Events of one message, the first of which has index `from`. There is at least one.
    Events { published: Published, from: usize },
    /// The reader was too slow: what comes after `after` was not kept for it. The last item.
    Gap { after: Cursor },
    /// The session was deleted. The last item.
    Deleted,
    /// The subscription can't go on. The last item.
    Failed(Error),
}

/// A subscription. Its reader calls [`Feed::next`] until one of the last items comes.
pub(super) struct Feed {
    backend: Backend,
    key: SessionKey,
    /// Everything up to here was given.
    cursor: Cursor,
    step: Step,
    /// Subscriptions in a row that gave nothing.
    tries: u32,
}

enum Step {
    Subscribing(BoxFuture<'static, Result<Subscribed, Error>>),
    /// Pages of what is already there; then the live end, or the next page.
    Backlog(VecDeque<Published>, Option<LiveReceiver>),
    Live(LiveReceiver),
    Done,
}

/// Parses `seq` or `seq.index`: everything up to message `seq`, or up to one of its events.
pub(super) fn parse_cursor(text: &str, what: &str) -> Result<Cursor, Error> {
    let number = |t: &str| t.bytes().all(|b| b.is_ascii_digit()).then(|| t.parse().ok()).flatten();
    let (seq, index) = match text.split_once('.') {
        None => (number(text), None),
        Some((seq, index)) => (number(seq), Some(number(index))),
    };
    match (seq, index) {
        (Some(seq), None) => Ok(Cursor { seq, index: None }),
        (Some(seq), Some(Some(index))) if seq > 0 => match u32::try_from(index) {
            Ok(index) => Ok(Cursor { seq, index: Some(index) }),
            Err(_) => Err(bad_cursor(text, what)),
        },
        _ => Err(bad_cursor(text, what)),
    }
}

fn bad_cursor(text: &str, what: &str) -> Error {
    params::invalid(format!(
        "{what} is {text:?}: give a sequence number, or `seq.index` as an event's id has it"
    ))
}

/// `seq`, or `seq.index`.
pub(super) fn format_cursor(cursor: Cursor) -> String {
    match cursor.index {
        None => cursor.seq.to_string(),
        Some(index) => format!("{}.{index}", cursor.seq),
    }
}

impl Feed {
    /// Starts after `cursor`, or with `None` at what comes from now on.
    ///
    /// # Errors
    /// What the first step of the subscription says, so that it can still be the answer to the
    /// request; `request-invalid` when the cursor is past the session's end: it can only come
    /// from a session of this name that was deleted.
    pub(super) async fn open(
        backend: Backend,
        key: SessionKey,
        cursor: Option<Cursor>,
    ) -> Result<Self, Error> {
        let last = last_seq(&backend, &key).await?;
        let cursor = match cursor {
            Some(cursor) if cursor.seq > last => {
                return Err(params::invalid(format!(
                    "{} is past message {last}, the session's last; was the session deleted?",
                    format_cursor(cursor)
                )));
            }
            Some(cursor) => cursor,
            None => Cursor { seq: last, index: None },
        };
        let mut feed = Self { backend, key, cursor, step: Step::Done, tries: 0 };
        let first = feed.backend.subscribe(&feed.key, feed.subscribe_after()).await?;
        feed.step = Step::Backlog(first.backlog.into(), first.live);
        Ok(feed)
    }

    /// The next item. Loses nothing when dropped before it resolves.
    pub(super) async fn next(&mut self) -> Item {
        loop {
            match &mut self.step {
                Step::Subscribing(call) => match call.await {
                    Ok(next) => self.step = Step::Backlog(next.backlog.into(), next.live),
                    Err(error) if error.code == Code::SessionNotFound => {
                        return self.end(Item::Deleted);
                    }
                    Err(error) if !error.code.retriable() => return self.end(Item::Failed(error)),
                    Err(error) if self.tries >= limits::RESUBSCRIBE_TRIES_MAX => {
                        return self.end(Item::Failed(error));
                    }
                    Err(_) => self.subscribe(),
                },
                Step::Backlog(messages, live) => match messages.pop_front() {
                    Some(published) => {
                        if let Some(item) = self.take(published) {
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
                Step::Live(live) => match live.recv().await {
                    Some(Live::Published(published)) => {
                        if let Some(item) = self.take(published) {
                            return item;
                        }
                    }
                    Some(Live::Deleted) => return self.end(Item::Deleted),
                    None if live.lagged() => {
                        let after = self.cursor;
                        metrics().subscriber_gaps.increment(1);
                        return self.end(Item::Gap { after });
                    }
                    None => self.subscribe(),
                },
                // Nothing comes after a last item.
                Step::Done => std::future::pending().await,
            }
        }
    }

    fn end(&mut self, item: Item) -> Item {
        self.step = Step::Done;
        item
    }

    /// What of a message was not given yet, if that is anything.
    fn take(&mut self, published: Published) -> Option<Item> {
        let from = match self.cursor {
            Cursor { seq, .. } if published.seq < seq => return None,
            Cursor { seq, index: None } if published.seq == seq => return None,
            Cursor { seq, index: Some(index) } if published.seq == seq => index as usize + 1,
            _ => 0,
        };
        self.tries = 0;
        self.cursor = Cursor { seq: published.seq, index: None };
        (from < published.events.len()).then_some(Item::Events { published, from })
    }

    fn subscribe_after(&self) -> u64 {
        match self.cursor.index {
            None => self.cursor.seq,
            // The rest of that message's events is still to be given.
            Some(_) => self.cursor.seq - 1,
        }
    }

    /// Subscribes after what was given, with a growing pause while nothing comes of it.
    fn subscribe(&mut self) {
        let pause = pause(self.tries);
        self.tries += 1;
        let (backend, key) = (self.backend.clone(), self.key.clone());
        let (given, after) = (self.cursor.seq, self.subscribe_after());
        self.step = Step::Subscribing(Box::pin(async move {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            // The session may have been deleted, and made again, in between.
            if last_seq(&backend, &key).await? < given {
                return Err(Error::new(Code::SessionNotFound, "the session was deleted"));
            }
            backend.subscribe(&key, after).await
        }));
    }
}

fn pause(tries: u32) -> Duration {
    match tries {
        0 => Duration::ZERO,
        n => (limits::RESUBSCRIBE_MIN * 2u32.saturating_pow(n - 1).min(1 << 16))
            .min(limits::RESUBSCRIBE_MAX),
    }
}

/// The session's last message, 0 when it has none yet.
async fn last_seq(backend: &Backend, key: &SessionKey) -> Result<u64, Error> {
    match backend.session(key, Consistency::Current).await {
        Ok(info) => Ok(info.seq),
        Err(error) if error.code == Code::SessionNotFound => Ok(0),
        Err(error) => Err(error),
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
        let message = Incoming { id: None, sender: None, content_type, body };
        backend.enqueue(key, message).await.expect("enqueued").await.expect("sent");
    }
    fn cursor(text: &str) -> Option<Cursor> {
        Some(parse_cursor(text, "after").expect("a cursor"))
    }
    /// The next `n` events as `seq.index`.
    async fn take(feed: &mut Feed, n: usize) -> Vec<String> {
        let mut got = Vec::new();
        while got.len() < n {
            match feed.next().await {
                Item::Events { published, from } => got.extend(
                    (from..published.events.len()).map(|i| format!("{}.{i}", published.seq)),
                ),
                other => panic!("{other:?} after {got:?}"),
            }
        }
        got
    }

    /// Without it an event id could be read as another place than the one it was written for.
    #[test]
    fn cursors_are_read_as_they_are_written() {
        for text in ["0", "17", "17.0", "18446744073709551615.4294967295"] {
            assert_eq!(format_cursor(parse_cursor(text, "after").expect(text)), text);
        }
        for bad in ["", "-1", "+1", "1.", ".1", "1.2.3", "0.0", "1.4294967296", "x", "1 "] {
            assert!(parse_cursor(bad, "after").is_err(), "{bad:?}");
        }
    }

    /// Without it a client that comes back would miss events or see some twice; in particular
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

    /// Without it a restart of a slot would cost its subscribers events, or give some twice.
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
        // As after many tries: the test need not wait for each.
        feed.tries = limits::RESUBSCRIBE_TRIES_MAX;
        fake.restart_slot();
        assert!(matches!(feed.next().await, Item::Failed(e) if e.code == Code::Unavailable));
    }

    /// Without it a reader that does not read would be buffered for without end, or lose events
    /// without a word.
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
            matches!(feed.next().await, Item::Gap { after } if after == Cursor { seq, index: None })
        );
    }

    /// Without it a subscriber of a deleted session would wait for ever, or get the events of a
    /// new session of that name as if they were the old one's.
    #[tokio::test]
    async fn a_deleted_session_ends_the_feed() {
        let (fake, backend, key) = setup();
        send(&backend, &key, 1).await;
        let mut told = Feed::open(backend.clone(), key.clone(), None).await.expect("open");
        fake.delete(&key).await.expect("deleted");
        assert!(matches!(told.next().await, Item::Deleted));

        send(&backend, &key, 1).await;
        send(&backend, &key, 1).await;
        let mut missed = Feed::open(backend.clone(), key.clone(), None).await.expect("open");
        fake.restart_slot();
        fake.delete(&key).await.expect("deleted");
        send(&backend, &key, 1).await;
        assert!(matches!(missed.next().await, Item::Deleted));
    }
}
