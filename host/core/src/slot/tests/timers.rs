//! Timers: what is due is sent once, whatever happens meanwhile.

use super::*;
use crate::{
    effects::{Effect, Origin, rows},
    log::record::Entry,
    operation::Delete,
};

impl Fixture {
    /// A slot whose plugin sets timers; its appends pass, and it is woken for what is due.
    async fn timing() -> Self {
        let mut fixture = Self::timing_held().await;
        fixture.pass_all();
        fixture
    }

    /// As [`Fixture::timing`], with a hand on its appends.
    async fn timing_held() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let plugins = testkit::host_with_memory(&dir.path().join("plugins"), 1 << 30);
        let plugin = plugins.add(testkit::timing_guest().into()).await.unwrap();
        let mut fixture = Self::over(dir, plugins, plugin.digest(), crate::limits::ENGINE_TIMEOUT);
        fixture.wake();
        fixture
    }

    /// Wakes the slot as it is now for what is due, as its node does.
    pub(super) fn wake(&mut self) {
        let (slot, context) = (self.slot.clone(), Arc::downgrade(&self.context));
        tokio::spawn(async move {
            while let Some(context) = context.upgrade()
                && !slot.is_closed()
            {
                let now_ms = crate::clock::now_ms();
                if !context.wakes.take(now_ms).is_empty() {
                    slot.try_order(Order::Due);
                }
                context.wakes.wait(now_ms, Duration::from_millis(50)).await;
            }
        });
    }

    pub(super) fn again(&mut self) {
        self.slot = SlotHandle::spawn(SLOT, self.task_lock.clone(), self.context.clone());
        self.wake();
    }

    pub(super) async fn stop(&self) {
        let (reply, stopped) = oneshot::channel();
        assert!(self.slot.try_order(Order::Stop { release: false, loaded: None, reply }));
        stopped.await.unwrap().unwrap();
        drop(self.task_lock.lock().await);
    }

    pub(super) fn say(&self, body: &[u8]) -> oneshot::Receiver<Result<Sent, Error>> {
        let (mail, answer) = message_under(None, &key(), body.to_vec());
        assert!(matches!(self.slot.mailbox().try_mail(mail, || {}), Ok(Ok(()))));
        answer
    }

    /// Sets a timer, and waits until that is durable.
    async fn set(&self, name: char, how: char, number: u64, body: &str) {
        let sent = self.say(&setting(name, how, number, body)).await.unwrap().unwrap();
        assert_eq!(&sent.body[..], [1]);
    }

    /// The session's messages from `after` on, once there are so many.
    pub(super) async fn entries(&self, after: u64, count: usize) -> Vec<Arc<Entry>> {
        let until = Instant::now() + TEST_TIMEOUT;
        loop {
            let (reply, answer) = oneshot::channel();
            let mail = Subscribe { key: key(), after }.mail(reply);
            if matches!(self.slot.mailbox().try_mail(mail, || {}), Ok(Ok(())))
                && let Ok(Ok(subscribed)) = answer.await
                && subscribed.backlog.len() >= count
            {
                let store = self.data.state();
                self.flush().await;
                let head = store.head(SLOT, &key()).unwrap().unwrap();
                return store.history(SLOT, head.session_number, after, 1_000, 1 << 20).unwrap();
            }
            assert!(Instant::now() < until, "it has no {count} messages after {after}");
            tokio::task::yield_now().await;
        }
    }

    /// Has the slot carry out what is due, and waits until it has looked for that.
    pub(super) async fn look_for_due(&self) {
        assert!(self.slot.try_order(Order::Due));
        // One that there is not waits for nothing to be durable. The order comes before the first one; what is due is
        // carried out before the second.
        let key = SessionKey::parse("s", "none").unwrap();
        for _ in 0..2 {
            let (reply, answer) = oneshot::channel();
            let mail = Describe { key: key.clone(), consistency: Consistency::Local }.mail(reply);
            assert!(matches!(self.slot.mailbox().try_queue(mail), Ok(Ok(()))));
            assert!(answer.await.unwrap().is_err());
        }
    }

    /// Has the store get all that is durable.
    pub(super) async fn flush(&self) {
        let until = Instant::now() + TEST_TIMEOUT;
        let at = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        let mail = Describe { key: key(), consistency: Consistency::Local }.mail(reply);
        assert!(matches!(self.slot.mailbox().try_mail(mail, || {}), Ok(Ok(()))));
        let _ = answer.await;
        while at(&self.slot.stats.applied) < at(&self.slot.stats.position) {
            assert!(Instant::now() < until, "it is not flushed");
            self.slot.try_order(Order::Flush);
            tokio::task::yield_now().await;
        }
    }

    /// Rows of what is due that the store has.
    pub(super) fn due_rows(&self) -> usize {
        self.data.state().scan(SLOT, rows::DUE, b"", None, 100, 1 << 20).unwrap().len()
    }
}

fn setting(name: char, how: char, number: u64, body: &str) -> Vec<u8> {
    let mut message = format!("S{name}{how}").into_bytes();
    message.extend_from_slice(&number.to_le_bytes());
    message.extend_from_slice(body.as_bytes());
    message
}

/// What a message comes from: the timer, and which of its times it is.
fn fired(entry: &Entry) -> Option<(&str, u64, u64, u32)> {
    let Some(Origin::Timer(firing)) = entry.origin.as_deref() else { return None };
    Some((&firing.name, firing.due_ms, firing.missed, firing.attempt))
}

/// A timer that is lost, early, or sent twice.
#[tokio::test]
async fn a_timer_is_a_message_of_its_session_once() {
    let fixture = Fixture::timing().await;
    let before = crate::clock::now_ms();
    fixture.set('a', '+', 30, "edone").await;
    let history = fixture.entries(1, 1).await;
    let [entry] = &history[..] else { panic!("{history:?}") };
    let (name, due_ms, missed, attempt) = fired(entry).unwrap();
    assert_eq!((name, missed, attempt), ("a", 0, 1));
    assert!(due_ms >= before + 30 && entry.time_ms >= due_ms, "{entry:?} is early");
    assert_eq!((&entry.body[..], &entry.reply[..]), (&b"edone"[..], &b"done"[..]));
    assert_eq!((&entry.id, &entry.sender, fixture.due_rows()), (&None, &None, 0));
    // One that is replaced, or cancelled, is not sent, and another one of the same name is.
    fixture.set('b', '+', 60_000, "eold").await;
    fixture.set('c', '+', 0, "elast").await;
    fixture.set('b', '@', 1, "enew").await;
    fixture.set('d', '+', 20, "enever").await;
    assert_eq!(&fixture.say(b"Cd").await.unwrap().unwrap().body[..], [1]);
    assert_eq!(&fixture.say(b"Cd").await.unwrap().unwrap().body[..], [0], "it is cancelled");
    fixture.set('z', '+', 40, "eend").await;
    let history = fixture.entries(2, 10).await;
    let mut names: Vec<_> = history.iter().filter_map(|entry| Some(fired(entry)?.0)).collect();
    names.sort_unstable();
    assert_eq!(names, ["b", "c", "z"]);
    assert_eq!(fixture.due_rows(), 0);
}

/// Invariant 3, for timers: the message and the end of the timer are one commit. A commit that fails leaves
/// the timer, and one that nobody knows of is not sent again if it is there.
#[tokio::test]
async fn a_commit_that_fails_leaves_the_timer() {
    for word in [Word::Refuse, Word::Lose] {
        let mut fixture = Fixture::timing_held().await;
        // Later than its own batch.
        let set = fixture.say(&setting('a', '+', 50, "edone"));
        fixture.append().await.send(Word::Pass).unwrap();
        set.await.unwrap().unwrap();
        fixture.append().await.send(word).unwrap();
        drop(fixture.task_lock.lock().await);
        assert!(fixture.slot.is_closed());
        fixture.again();
        fixture.pass_all();
        let history = fixture.entries(0, 2).await;
        assert_eq!(history.iter().filter(|entry| fired(entry).is_some()).count(), 1);
        assert_eq!((history.len(), fixture.due_rows()), (2, 0));
    }
}

/// A slot that stops with its timers, or is taken over, would never send them.
#[tokio::test]
async fn what_is_due_outlives_its_slot() {
    let mut fixture = Fixture::timing().await;
    fixture.set('a', '+', 60_000, "elate").await;
    fixture.set('b', '+', 150, "esoon").await;
    fixture.stop().await;
    assert_eq!(fixture.due_rows(), 2);
    let first = wakes::first_due(&*fixture.context.store, SLOT).unwrap().unwrap();
    // Who starts it knows when.
    assert!(fixture.context.wakes.take(first - 1).is_empty());
    assert_eq!(fixture.context.wakes.take(first), [SLOT]);
    fixture.again();
    fixture.pass_all();
    let history = fixture.entries(2, 1).await;
    assert_eq!(fired(&history[0]).unwrap().0, "b");
    assert_eq!(fixture.due_rows(), 1);
}

/// A period that ends with its first time, drifts, or sends all that nobody served.
#[tokio::test]
async fn a_period_goes_on_and_counts_what_it_missed() {
    let fixture = Fixture::timing().await;
    fixture.set('p', '*', 100, "etick").await;
    let history = fixture.entries(1, 3).await;
    let mut due = None::<u64>;
    for (_, due_ms, missed, _) in history.iter().filter_map(|entry| fired(entry)) {
        assert!(due.is_none_or(|due| due == due_ms), "it drifts");
        due = Some(due_ms + (1 + missed) * 100);
    }
    assert!(due.is_some());
    assert_eq!(&fixture.say(b"Cp").await.unwrap().unwrap().body[..], [1]);
    fixture.flush().await;
    assert_eq!(fixture.due_rows(), 0);
}

/// A session would be stuck behind a timer whose handler fails, or the timer be lost.
#[tokio::test]
async fn a_timer_that_fails_is_tried_again_and_holds_nobody_up() {
    let mut fixture = Fixture::timing().await;
    fixture.set('t', '+', 0, "twrong").await;
    let number = fixture.data.state().head(SLOT, &key());
    assert!(number.is_ok());
    // Others go on, and the failure is in the log: it outlives the slot.
    fixture.set('o', '+', 1, "eother").await;
    let history = fixture.entries(2, 1).await;
    assert_eq!(fired(&history[0]).unwrap().0, "o");
    fixture.flush().await;
    let effects = |fixture: &Fixture| {
        let store = fixture.data.state();
        let head = store.head(SLOT, &key()).unwrap().unwrap();
        effects::Effects::load(&*store, SLOT, head.session_number).unwrap()
    };
    let name = rows::Name::Timer("t".into());
    let failures = |fixture: &Fixture| match effects(fixture).get(&name) {
        Some(Effect::Timer(timer)) => timer.failures,
        _ => 0,
    };
    assert_eq!(failures(&fixture), 1);
    fixture.stop().await;
    fixture.again();
    fixture.pass_all();
    let until = Instant::now() + TEST_TIMEOUT;
    while failures(&fixture) < 2 {
        assert!(Instant::now() < until, "it is not tried again");
        fixture.flush().await;
        tokio::task::yield_now().await;
    }
    // The next handler, or the next message, can mend it.
    fixture.set('t', '+', 0, "eright").await;
    let history = fixture.entries(3, 2).await;
    let last = history.iter().find_map(|entry| fired(entry)).unwrap();
    assert_eq!((last.0, last.3), ("t", 1));
}

/// A timer that sets itself again, for a time of long ago, would come before all others of its slot for ever.
#[tokio::test]
async fn a_timer_that_sets_itself_again_lets_others_have_their_turn() {
    let fixture = Fixture::timing().await;
    let mut body = b"eend".to_vec();
    for _ in 0..50 {
        let mut again = setting('a', '@', 0, "");
        again.append(&mut body);
        body = again;
    }
    let sent = fixture.say(&body).await.unwrap().unwrap();
    assert_eq!(&sent.body[..], [1]);
    fixture.set('b', '+', 1, "eother").await;
    let history = fixture.entries(2, 3).await;
    let names: Vec<_> = history.iter().filter_map(|entry| Some(fired(entry)?.0)).collect();
    let others = names.iter().position(|name| *name == "b").unwrap();
    assert!(others <= 2, "{names:?}");
}

/// A deleted session's timers would make it anew.
#[tokio::test]
async fn timers_go_with_their_session() {
    let fixture = Fixture::timing().await;
    fixture.set('a', '+', 60_000, "ea").await;
    fixture.set('b', '*', 60_000, "eb").await;
    fixture.flush().await;
    assert_eq!(fixture.due_rows(), 2);
    let (reply, deleted) = oneshot::channel();
    let mail = Delete { key: key() }.mail(reply);
    assert!(matches!(fixture.slot.mailbox().try_mail(mail, || {}), Ok(Ok(()))));
    deleted.await.unwrap().unwrap();
    fixture.set('c', '+', 60_000, "ec").await;
    fixture.flush().await;
    assert_eq!(fixture.due_rows(), 1);
    assert_eq!(&fixture.say(b"Ca").await.unwrap().unwrap().body[..], [0]);
}

/// A session that is to go would stay, or one that is still used would be lost with all that it has.
#[tokio::test]
async fn a_session_expires_unless_a_later_message_says_otherwise() {
    let fixture = Fixture::timing().await;
    let expire = async |at: u64| {
        let message = [b"E", &at.to_le_bytes()[..]].concat();
        assert_eq!(&fixture.say(&message).await.unwrap().unwrap().body[..], [1]);
    };
    let now = crate::clock::now_ms();
    fixture.set('a', '+', 60_000, "ealone").await;
    expire(now + 60_000).await;
    assert_eq!(
        fixture.say(b"E\xff\xff\xff\xff\xff\xff\xff\x7f").await.unwrap().unwrap().body[0],
        0
    );
    fixture.flush().await;
    assert_eq!(fixture.due_rows(), 2);
    // It is put off, called off, and set again.
    expire(now + 70_000).await;
    expire(0).await;
    fixture.flush().await;
    assert_eq!(fixture.due_rows(), 1);
    expire(1).await;
    let until = Instant::now() + TEST_TIMEOUT;
    while fixture.describe().await.unwrap().is_ok() {
        assert!(Instant::now() < until, "it is still there");
        tokio::task::yield_now().await;
    }
    let sent = fixture.say(b"enew").await.unwrap().unwrap();
    assert_eq!(sent.seq, 1, "it is another session");
    fixture.flush().await;
    assert_eq!(fixture.due_rows(), 0, "its timer is still there");
}

/// Before all can read it, nothing of timers is written; after that the same handler works.
#[tokio::test]
async fn timers_need_their_level() {
    let fixture = Fixture::timing().await;
    let old = Arc::new(FeatureLevel::new(level::EFFECTS_FROM - 1));
    let context = Arc::new(fixture.context_over(fixture.data.log(), old.clone()));
    let slot = SlotHandle::spawn(SLOT + 1, TaskLock::default(), context);
    let set = async || {
        let (mail, answer) = message_under(None, &key(), setting('a', '+', 60_000, "e"));
        assert!(matches!(slot.mailbox().try_mail(mail, || {}), Ok(Ok(()))));
        answer.await.unwrap()
    };
    let error = set().await.unwrap_err();
    assert_eq!(error.code, Code::PluginUnavailable);
    assert!(error.detail.contains("feature level 4"), "{error}");
    old.raise(level::EFFECTS_FROM);
    set().await.unwrap();
}
