//! Messages between sessions: each arrives once, in order, whatever is lost on the way.

use super::*;
use crate::{
    effects::{
        Effect, Origin, Outgoing,
        rows::{self, Name, Value as _},
        send::{Content, Number, Refusal},
    },
    limits,
    log::record::Entry,
    message::{Range, ReadBy},
    operation::{
        ChangeEffect, Deliver, Delivered, Delivery, EffectAction, ListEffects, ReadHistory,
        Refused, Which,
    },
};
use std::{collections::HashMap, sync::Weak};

mod operations;

/// Slots of a context of tests.
pub(super) const SLOTS: u16 = 4;

/// Slots with sessions that send to each other, over the real log and store.
struct Slots {
    context: Arc<SlotContext>,
    slots: Mutex<HashMap<SlotId, (SlotHandle, TaskLock)>>,
    /// Decides what is lost.
    loses: Arc<dyn Fn() -> Lost + Send + Sync>,
    /// Pieces that come once more.
    late: Mutex<tokio::task::JoinSet<()>>,
    _fixture: Fixture,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Lost {
    Nothing,
    Request,
    Answer,
    /// It comes once more, later.
    Twice,
    /// The slot that it is for ends before it answers.
    Slot,
}

struct Carrier(Weak<Slots>);

impl Courier for Carrier {
    fn deliver(&self, piece: Deliver) -> BoxFuture<'static, Result<Delivered, Error>> {
        let slots = self.0.clone();
        async move {
            let gone = || Error::of(Cause::Unreachable, "says the test");
            let slots = slots.upgrade().ok_or_else(gone)?;
            let lost = (slots.loses)();
            if lost == Lost::Request {
                return Err(gone());
            }
            let (to, mut piece) = (piece.to, piece);
            if let Some(refused) = refuse(&mut piece) {
                return Ok(refused);
            }
            if lost == Lost::Twice {
                let (late, piece) = (slots.clone(), piece.clone());
                slots.late.lock().spawn(async move {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    let _ = late.ask(to, piece).await;
                });
            }
            let answer = slots.ask(to, piece);
            if lost == Lost::Slot {
                slots.kill(to);
            }
            let answer = answer.await;
            if lost == Lost::Answer { Err(gone()) } else { answer }
        }
        .boxed()
    }
}

/// What a slot would answer that refuses the message `eno` the first time.
fn refuse(piece: &mut Deliver) -> Option<Delivered> {
    let is_it = |delivery: &Delivery| {
        let outgoing = Outgoing::decode(&delivery.outgoing).unwrap();
        outgoing.failures == 0 && &outgoing.body[..] == b"eno"
    };
    match piece.messages.iter().position(is_it)? {
        0 => {
            let number = piece.messages[0].number;
            let reason = "says the test".into();
            let refusal = Refusal { code: "c".into(), reason, retriable: true };
            let refused = Some(Refused { number, refusal, counts: true });
            Some(Delivered { last: Number::default(), refused })
        }
        at => {
            piece.messages.truncate(at);
            None
        }
    }
}

impl Slots {
    async fn new() -> Arc<Self> {
        Self::losing(|| Lost::Nothing).await
    }

    async fn losing(loses: impl Fn() -> Lost + Send + Sync + 'static) -> Arc<Self> {
        Self::with(loses, SendRules::default()).await
    }

    /// Where messages stay in order between these services.
    async fn in_order(rules: SendRules) -> Arc<Self> {
        Self::with(|| Lost::Nothing, rules).await
    }

    async fn with(
        loses: impl Fn() -> Lost + Send + Sync + 'static,
        in_order: SendRules,
    ) -> Arc<Self> {
        let dir = tempfile::tempdir().unwrap();
        let plugins = testkit::host_with_memory(&dir.path().join("plugins"), 1 << 30);
        let plugin = plugins.add(testkit::sending_guest().into()).await.unwrap();
        let fixture = Fixture::over(dir, plugins, plugin.digest(), crate::limits::ENGINE_TIMEOUT);
        let level = Arc::new(FeatureLevel::new(level::NEWEST));
        let context = fixture.context_over(fixture.data.log(), level);
        let options = SlotOptions { in_order: in_order.into(), ..context.options.clone() };
        let context = Arc::new(SlotContext { options, ..context });
        let slots = Arc::new(Self {
            context: context.clone(),
            slots: Mutex::default(),
            loses: Arc::new(loses),
            late: Mutex::default(),
            _fixture: fixture,
        });
        assert!(context.courier.set(Arc::new(Carrier(Arc::downgrade(&slots)))).is_ok());
        slots
    }

    fn slot(&self, slot: SlotId) -> SlotHandle {
        let mut slots = self.slots.lock();
        let lock = slots.get(&slot).map(|(_, lock)| lock.clone()).unwrap_or_default();
        let open = || (SlotHandle::spawn(slot, lock.clone(), self.context.clone()), lock.clone());
        let (handle, _) = slots.entry(slot).or_insert_with(open);
        if handle.is_closed() {
            *handle = SlotHandle::spawn(slot, lock, self.context.clone());
        }
        handle.clone()
    }

    /// Ends a slot as another owner would.
    fn kill(&self, slot: SlotId) {
        self.slot(slot).try_order(Order::Abandon { term: u64::MAX });
    }

    fn ask<O: Mailed>(
        &self,
        slot: SlotId,
        operation: O,
    ) -> BoxFuture<'static, Result<O::Answer, Error>> {
        let (reply, answer) = oneshot::channel();
        let put = self.slot(slot).mailbox().try_mail(operation.mail(reply), || {});
        async move {
            let gone = || Error::of(Cause::Opening, "the slot has ended");
            match put {
                Ok(put) => put?,
                Err(_) => return Err(gone()),
            }
            answer.await.unwrap_or_else(|_| Err(gone()))
        }
        .boxed()
    }

    /// Says something to a session until it has it.
    async fn say(&self, session: &str, id: &str, body: &[u8]) -> Sent {
        let key = SessionKey::parse("s", session).unwrap();
        let until = Instant::now() + TEST_TIMEOUT;
        loop {
            let message = Incoming {
                id: Some(id.into()),
                sender: None,
                content_type: "text/plain".into(),
                body: Bytes::copy_from_slice(body),
                trace: None,
                client: None,
            };
            match self.ask(key.slot(SLOTS), Message::new(key.clone(), message)).await {
                Ok(sent) => return sent,
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
            tokio::task::yield_now().await;
        }
    }

    /// Messages of a session that come from others, once there are so many.
    async fn received(&self, session: &str, count: usize) -> Vec<Arc<Entry>> {
        let key = SessionKey::parse("s", session).unwrap();
        let until = Instant::now() + TEST_TIMEOUT;
        loop {
            let read = ReadHistory {
                key: key.clone(),
                range: Range::After { seq: 0, limit: 10_000 },
                reader: ReadBy::Operator,
                consistency: Consistency::Current,
            };
            let history = self.ask(key.slot(SLOTS), read).await;
            let entries = history.map(|history| history.entries).unwrap_or_default();
            let entries = entries.into_iter().map(|(entry, _)| entry);
            let entries: Vec<_> = entries.filter(|entry| entry.origin.is_some()).collect();
            if entries.len() >= count {
                return entries;
            }
            assert!(Instant::now() < until, "{session} has {} of {count}", entries.len());
            // As a node does with slots that have ended and have something on its way.
            for slot in 0..SLOTS {
                self.slot(slot).try_order(Order::Due);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until nothing is on its way, by what the store has: a slot that has ended counts nothing.
    async fn quiet(&self) {
        let until = Instant::now() + TEST_TIMEOUT;
        while self.rows(rows::OUTBOX).await > 0 {
            assert!(Instant::now() < until, "something is on its way for ever");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(self.context.outbox.load(Ordering::Relaxed), 0);
    }

    /// Waits until all that comes late has come.
    async fn late(&self) {
        let mut late = std::mem::take(&mut *self.late.lock());
        while late.join_next().await.is_some() {}
    }

    /// Rows of all slots under a number, once the store has all.
    async fn rows(&self, number: u64) -> usize {
        let until = Instant::now() + TEST_TIMEOUT;
        let mut rows = 0;
        for slot in 0..SLOTS {
            let at = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            // It may end meanwhile.
            while let handle = self.slot(slot)
                && at(&handle.stats.applied) < at(&handle.stats.position)
            {
                assert!(Instant::now() < until, "it is not flushed");
                handle.try_order(Order::Flush);
                tokio::task::yield_now().await;
            }
            let store = &self.context.store;
            rows += store.scan(slot, number, b"", None, 10_000, 1 << 20).unwrap().len();
        }
        rows
    }
}

fn sender(entry: &Entry) -> &str {
    match entry.origin.as_deref() {
        Some(Origin::Session(received)) => received.from.session.as_str(),
        other => panic!("{other:?}"),
    }
}

/// A message that is lost, or that says nothing of who has sent it.
#[tokio::test]
async fn a_message_arrives_at_another_session() {
    let slots = Slots::new().await;
    assert_eq!(&slots.say("a", "1", b"Pb-ehello").await.body[..], [1]);
    let received = slots.received("b", 1).await;
    let [entry] = &received[..] else { panic!("{received:?}") };
    assert_eq!((&entry.body[..], &entry.reply[..]), (&b"ehello"[..], &b"hello"[..]));
    let Some(Origin::Session(origin)) = entry.origin.as_deref() else { panic!("{entry:?}") };
    assert_eq!((origin.from.to_string(), origin.sent_by), ("s/a".into(), 1));
    assert_eq!((origin.attempt, origin.hops, origin.reply), (1, 1, false));
    slots.quiet().await;
    assert_eq!(slots.rows(rows::RECEIVED).await, 1);
    // To itself, and on from there.
    slots.say("a", "2", b"Pa-Pc-elast").await;
    let received = slots.received("c", 1).await;
    let Some(Origin::Session(origin)) = received[0].origin.as_deref() else { panic!() };
    assert_eq!((origin.from.to_string(), origin.sent_by, origin.hops), ("s/a".into(), 3, 2));
}

/// Who asks would wait for ever, or be told twice.
#[tokio::test]
async fn an_outcome_comes_back_once() {
    let slots = Slots::new().await;
    slots.say("a", "1", b"Pb?eehello").await;
    let answers = slots.received("a", 1).await;
    let Some(Origin::Answer(answer)) = answers[0].origin.as_deref() else { panic!("{answers:?}") };
    assert_eq!((answer.of.to_string(), &*answer.name, answer.sent_by), ("s/b".into(), "r", 1));
    assert_eq!((&answer.refusal, answer.attempt, &answers[0].body[..]), (&None, 1, &b"ehello"[..]));
    slots.quiet().await;
    assert_eq!(slots.received("a", 1).await.len(), 1);
    assert_eq!(slots.received("b", 1).await.len(), 1);
}

/// Effects of a session, by name.
async fn effects(slots: &Slots, session: &str) -> Vec<(Name, Effect)> {
    let key = SessionKey::parse("s", session).unwrap();
    let slot = key.slot(SLOTS);
    let list = ListEffects { slot, which: Which::Session(key), limit: 100 };
    let page = slots.ask(slot, list).await.unwrap();
    page.found.into_iter().map(|found| (found.name, found.effect)).collect()
}

/// The effects of a session, once they are as many as are wanted and nothing is on its way.
async fn settled(slots: &Slots, session: &str, count: usize) -> Vec<(Name, Effect)> {
    let until = Instant::now() + TEST_TIMEOUT;
    loop {
        let effects = effects(slots, session).await;
        let under_way = effects.iter().any(|(name, _)| matches!(name, Name::Outgoing(_)));
        if !under_way && effects.len() == count {
            return effects;
        }
        assert!(Instant::now() < until, "{session} has {effects:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A message that can't be handled would block those behind it, be lost, or be handled by halves.
#[tokio::test]
async fn what_is_refused_blocks_nobody_and_is_not_lost() {
    let slots = Slots::new().await;
    // It traps: it is tried again, and what comes behind it goes on.
    slots.say("a", "1", b"Pb-tno").await;
    slots.say("a", "2", b"Pb-eyes").await;
    assert_eq!(slots.received("b", 1).await[0].body, "eyes");
    let waiting = settled(&slots, "a", 1).await;
    let [(Name::Waiting(_), Effect::Outgoing(waits))] = &waiting[..] else { panic!("{waiting:?}") };
    assert_eq!((waits.failures, &waits.body[..]), (1, &b"tno"[..]));
    assert!(
        waits.next_ms > crate::clock::now_ms() && waits.reason.contains("trapped"),
        "{waits:?}"
    );
    // It is rejected for good: dead, as nobody has asked for a reply.
    slots.say("c", "1", b"Pb-xno").await;
    let dead = settled(&slots, "c", 1).await;
    let [(Name::DeadOutgoing(place), Effect::DeadOutgoing(given_up))] = &dead[..] else {
        panic!("{dead:?}")
    };
    assert_eq!((&*given_up.code, &given_up.what.body[..]), ("bad-luck", &b"xno"[..]));
    // An operator has it tried again, with the same end; and drops it.
    let key = SessionKey::parse("s", "c").unwrap();
    let change = |action: EffectAction| {
        let slot = key.slot(SLOTS);
        slots.ask(slot, ChangeEffect { key: key.clone(), action })
    };
    change(EffectAction::RetryDeadSend(*place)).await.unwrap();
    slots.slot(key.slot(SLOTS)).try_order(Order::Due);
    let again = settled(&slots, "c", 1).await;
    let [(Name::DeadOutgoing(again), Effect::DeadOutgoing(_))] = &again[..] else {
        panic!("{again:?}")
    };
    assert!(again > place, "it has an older number than what went after it");
    change(EffectAction::DropDeadSend(*again)).await.unwrap();
    assert!(effects(&slots, "c").await.is_empty());
    assert_eq!(
        change(EffectAction::DropDeadSend(*again)).await.unwrap_err().code,
        Code::TimerNotFound
    );
    // Who has asked is told.
    slots.say("d", "1", b"Pb?xno").await;
    let told = slots.received("d", 1).await;
    let Some(Origin::Answer(answer)) = told[0].origin.as_deref() else { panic!("{told:?}") };
    let refusal = answer.refusal.as_ref().unwrap();
    assert_eq!((&*refusal.code, refusal.retriable, told[0].body.len()), ("bad-luck", false, 0));
    assert_eq!(slots.received("b", 1).await.len(), 1, "nothing else left a trace there");
}

/// A piece of one message to a session, as the slot of `s/a` would send it.
fn piece(round: (u64, u64), index: u64, to: &str, body: &[u8]) -> Deliver {
    let (from, to) = (SessionKey::parse("s", "a").unwrap(), SessionKey::parse(to, "b").unwrap());
    let number = |(term, index)| Number { term, index };
    let outgoing = Outgoing {
        to: to.clone(),
        content: Content::Message { reply: None },
        content_type: "text/plain".into(),
        body: Bytes::copy_from_slice(body),
        hops: 1,
        failures: 0,
        held: 0,
        next_ms: 0,
        reason: String::new(),
        sent_by: 1,
        trace: None,
    };
    let message = Delivery {
        number: number((1, index)),
        from: from.clone(),
        session_number: 1,
        outgoing: outgoing.encode().unwrap(),
    };
    let (from, to) = (from.slot(SLOTS), to.slot(SLOTS));
    Deliver { from, to, round: number(round), messages: vec![message] }
}

/// What comes twice or late would be handled after it was taken back; what is nonsense, at all; and what can't be handled
/// would block what is behind it.
#[tokio::test]
async fn a_slot_takes_only_what_is_new_and_goes_on_after_what_it_refuses() {
    let slots = Slots::new().await;
    let give = async |piece: Deliver| slots.ask(piece.to, piece).await;
    let last = |delivered: &Delivered| delivered.last.index;
    let first = give(piece((1, 1), 1, "s", b"e1")).await.unwrap();
    assert_eq!((last(&first), &first.refused), (1, &None));
    // The piece comes twice, with something else in it; or an earlier one.
    for late in [piece((1, 1), 2, "s", b"elate"), piece((0, 9), 2, "s", b"elate")] {
        if let Ok(delivered) = give(late).await {
            assert_eq!(delivered, first);
        }
    }
    // Refused: the mark does not pass it, but no earlier piece brings it any more.
    let refused = give(piece((1, 3), 2, "s", b"xno")).await.unwrap();
    let refusal = refused.refused.unwrap();
    assert_eq!((refused.last, &*refusal.refusal.code), (first.last, "bad-luck"));
    assert_eq!(give(piece((1, 2), 2, "s", b"enow")).await.unwrap(), first);
    // An empty piece does the same to those before it.
    let empty = Deliver { messages: Vec::new(), ..piece((1, 5), 2, "s", b"") };
    assert_eq!(give(empty).await.unwrap(), first);
    assert_eq!(give(piece((1, 4), 2, "s", b"enow")).await.unwrap(), first);
    // And so does one that has nothing new.
    assert_eq!(give(piece((1, 52), 1, "s", b"e1")).await.unwrap(), first);
    assert_eq!(give(piece((1, 51), 2, "s", b"enow")).await.unwrap(), first);
    // What no node knows yet may be deployed; what can't be read never becomes readable.
    let unknown = piece((1, 56), 2, "other", b"e");
    let unknown = Deliver { to: key_of("b").slot(SLOTS), ..unknown };
    let other = SessionKey::parse("other", "b").unwrap().slot(SLOTS) == unknown.to;
    let unknown = give(unknown).await.unwrap().refused.unwrap();
    assert_eq!(unknown.refusal.retriable, other, "{unknown:?}");
    let mut broken = piece((1, 57), 2, "s", b"e");
    broken.messages[0].outgoing = Bytes::from_static(b"\x09nonsense");
    let broken = give(broken).await.unwrap().refused.unwrap();
    assert!(!broken.refusal.retriable && broken.counts, "{broken:?}");
    // Nonsense: of another slot, or of a term that is yet to come.
    let from = (piece((1, 58), 2, "s", b"e").from + 1) % SLOTS;
    for wrong in [
        Deliver { from, ..piece((1, 58), 2, "s", b"e") },
        Deliver { from: SLOTS, messages: Vec::new(), ..piece((1, 58), 2, "s", b"e") },
        piece((0, 58), 2, "s", b"e"),
    ] {
        assert_eq!(give(wrong).await.unwrap_err().code, Code::RequestInvalid);
    }
    let after = give(piece((1, 59), 3, "s", b"e3")).await.unwrap();
    assert_eq!((last(&after), after.refused), (3, None));
    let bodies = slots.received("b", 2).await;
    let bodies: Vec<_> = bodies.iter().map(|entry| entry.body.clone()).collect();
    assert_eq!(bodies, ["e1", "e3"]);
}

fn key_of(session: &str) -> SessionKey {
    SessionKey::parse("s", session).unwrap()
}

/// A service that needs its messages in order would get them out of it.
#[tokio::test]
async fn where_order_counts_what_is_behind_a_refused_message_waits() {
    let slots = Slots::in_order(SendRules::parse("s>s").unwrap()).await;
    slots.say("a", "1", b"Pb-e1").await;
    // The first time it is refused.
    slots.say("a", "2", b"Pb-eno").await;
    for n in 3..8 {
        slots.say("a", &n.to_string(), format!("Pb-e{n}").as_bytes()).await;
    }
    slots.say("a", "8", b"Pc-eother").await;
    slots.received("c", 1).await;
    let received = slots.received("b", 7).await;
    let bodies: Vec<_> = received.iter().map(|entry| entry.body.clone()).collect();
    assert_eq!(bodies, ["e1", "eno", "e3", "e4", "e5", "e6", "e7"]);
    assert!(settled(&slots, "a", 0).await.is_empty());
    let told = received.iter().filter(|entry| &entry.body[..] == b"eno");
    let attempts = told.map(|entry| match entry.origin.as_deref() {
        Some(Origin::Session(received)) => received.attempt,
        other => panic!("{other:?}"),
    });
    assert_eq!(attempts.collect::<Vec<_>>(), [2]);
    // Elsewhere the others go on.
    let slots = Slots::new().await;
    slots.say("a", "1", b"Pb-eno").await;
    slots.say("a", "2", b"Pb-e2").await;
    let received = slots.received("b", 2).await;
    let bodies: Vec<_> = received.iter().map(|entry| entry.body.clone()).collect();
    assert_eq!(bodies, ["e2", "eno"]);
}

/// A service would write to others' sessions, or more than a record may have.
#[tokio::test]
async fn sends_have_rules_and_limits() {
    let slots = Slots::new().await;
    let other = SessionKey::parse("s", "a").unwrap();
    let say = async |body: &[u8]| {
        let message = Incoming {
            id: None,
            sender: None,
            content_type: "text/plain".into(),
            body: Bytes::copy_from_slice(body),
            trace: None,
            client: None,
        };
        slots.ask(other.slot(SLOTS), Message::new(other.clone(), message)).await
    };
    // An address that can't be is the handler's to see.
    assert_eq!(&say(b"P\x01-e").await.unwrap().body[..], [0]);
    let large = [&b"Pb-e"[..], &vec![b'x'; limits::SEND_BODY_BYTES_MAX]].concat();
    assert_eq!(say(&large).await.unwrap_err().code, Code::PluginLimit);
    let options = SlotOptions { sends: Arc::default(), ..slots.context.options.clone() };
    let context = Arc::new(SlotContext {
        options,
        ..slots
            ._fixture
            .context_over(slots._fixture.data.log(), Arc::new(FeatureLevel::new(level::NEWEST)))
    });
    slots.kill(other.slot(SLOTS));
    let lock = slots.slots.lock().get(&other.slot(SLOTS)).unwrap().1.clone();
    let slot = SlotHandle::spawn(other.slot(SLOTS), lock, context);
    let (mail, answer) = message_under(None, &other, &b"Pb-e"[..]);
    assert!(matches!(slot.mailbox().try_mail(mail, || {}), Ok(Ok(()))));
    let error = answer.await.unwrap().unwrap_err();
    assert!(error.code == Code::SendRefused && error.detail.contains("effects.send"), "{error}");
}

/// An outcome that its own handler rejects for good would be tried again and again; and one that it fails, be lost.
#[tokio::test]
async fn an_outcome_that_is_rejected_for_good_is_dead_at_once() {
    let slots = Slots::new().await;
    // The reply is what follows the first `e`: the asker rejects that, or traps at it.
    slots.say("a", "1", b"Pb?exno").await;
    let dead = settled(&slots, "a", 1).await;
    let [(Name::DeadOutcome(_), Effect::DeadOutcome(dead))] = &dead[..] else { panic!("{dead:?}") };
    assert_eq!(
        (dead.what.failures, &*dead.code, &dead.what.body[..]),
        (1, "bad-luck", &b"xno"[..])
    );
    slots.say("c", "1", b"Pb?etno").await;
    let failed = settled(&slots, "c", 1).await;
    let [(Name::Outcome(_), Effect::Outcome(failed))] = &failed[..] else { panic!("{failed:?}") };
    assert_eq!((failed.failures, &failed.body[..]), (1, &b"tno"[..]));
    assert!(failed.next_ms > crate::clock::now_ms(), "{failed:?}");
}

/// Before all can read it, nothing of sends is written.
#[tokio::test]
async fn sends_need_their_level() {
    let slots = Slots::new().await;
    let level = Arc::new(FeatureLevel::new(level::SENDS_FROM - 1));
    let context = slots._fixture.context_over(slots._fixture.data.log(), level.clone());
    let slot = SlotHandle::spawn(SLOT, TaskLock::default(), Arc::new(context));
    let say = async || {
        let (mail, answer) = message_under(None, &key(), &b"Pb-e"[..]);
        assert!(matches!(slot.mailbox().try_mail(mail, || {}), Ok(Ok(()))));
        answer.await.unwrap()
    };
    let error = say().await.unwrap_err();
    assert_eq!(error.code, Code::PluginUnavailable);
    assert!(error.detail.contains("feature level 5"), "{error}");
    level.raise(level::SENDS_FROM);
    say().await.unwrap();
}

/// A deleted session would send on, or be made again by an answer.
#[tokio::test]
async fn what_a_session_sends_goes_with_it() {
    let lost = Arc::new(AtomicBool::new(true));
    let loses = lost.clone();
    let slots = Slots::losing(move || match loses.load(Ordering::Relaxed) {
        true => Lost::Request,
        false => Lost::Nothing,
    })
    .await;
    slots.say("a", "1", b"Pb-egone").await;
    let key = SessionKey::parse("s", "a").unwrap();
    slots.ask(key.slot(SLOTS), crate::operation::Delete { key: key.clone() }).await.unwrap();
    lost.store(false, Ordering::Relaxed);
    slots.quiet().await;
    slots.say("c", "1", b"Pb-eafter").await;
    assert_eq!(slots.received("b", 1).await[0].body, "eafter");
}

/// What was acknowledged would be lost, doubled or turned round by a lost answer, a slot that moves, or a piece that comes late.
#[tokio::test]
async fn whatever_is_lost_each_message_arrives_once_and_in_order() {
    const EACH: usize = 40;
    let turn = AtomicU64::new(0);
    let slots = Slots::losing(move || match turn.fetch_add(1, Ordering::Relaxed) % 9 {
        1 => Lost::Request,
        3 => Lost::Answer,
        4 | 5 => Lost::Twice,
        7 => Lost::Slot,
        _ => Lost::Nothing,
    })
    .await;
    let names = ["a", "b", "c", "d", "e"];
    for n in 0..EACH {
        for (at, from) in names.iter().enumerate() {
            let to = names[(at + n) % names.len()];
            slots.say(from, &n.to_string(), format!("P{to}-e{n:03}").as_bytes()).await;
        }
        if n % 7 == 3 {
            slots.kill((n % usize::from(SLOTS)) as u16);
        }
    }
    // What comes twice has come, too.
    for to in names {
        slots.received(to, EACH).await;
    }
    slots.quiet().await;
    slots.late().await;
    let mut all = 0;
    for to in names {
        let received = slots.received(to, EACH).await;
        assert_eq!(received.len(), EACH, "{to} has some twice");
        for from in names {
            let of = received.iter().filter(|entry| sender(entry) == from);
            let bodies: Vec<_> = of.map(|entry| entry.body.clone()).collect();
            assert!(bodies.is_sorted_by(|a, b| a < b), "{from} to {to}: {bodies:?}");
            all += bodies.len();
        }
    }
    assert_eq!(all, EACH * names.len());
    slots.quiet().await;
    assert!(slots.rows(rows::RECEIVED).await > 0);
}
