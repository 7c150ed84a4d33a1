//! Limits, where a slot has a part in them: guest time is told to who counts it, and what may not be kept is refused.

use super::*;
use crate::{
    client::Client,
    quota::Quota,
    state::stored::{Stored, StoredNow},
};
use parking_lot::Mutex;
use slotd_quota::{decision::Decision, policy::Limits};

#[derive(Default)]
struct Says(Mutex<StoredNow>);

impl Stored for Says {
    fn of(&self, _: &ServiceName) -> StoredNow {
        *self.0.lock()
    }

    fn of_subject(&self, _: &ServiceName, subject: &str) -> StoredNow {
        match subject {
            "accounts:ann" => *self.0.lock(),
            _ => StoredNow::default(),
        }
    }
}

impl Fixture {
    fn limit(&self, set: impl FnOnce(&mut Limits)) {
        let mut limits = Limits::default();
        set(&mut limits);
        self.context.quota.set([("s", &limits)]);
    }

    /// The slot stops, and another one of it starts from what is kept.
    async fn slot_again(&mut self) {
        let (reply, stopped) = oneshot::channel();
        let stop = Order::Stop { release: false, loaded: None, reply };
        assert!(self.slot.order(stop).await.is_ok());
        stopped.await.unwrap().unwrap();
        drop(self.task_lock.lock().await);
        self.slot = SlotHandle::spawn(SLOT, self.task_lock.clone(), self.context.clone());
    }

    async fn sent_by(&self, who: &str, id: &str, session: &str) -> Result<Sent, Error> {
        let client = Client { kind: "accounts".into(), subject: Some(who.into()), claims: vec![] };
        let message = Incoming {
            id: Some(id.into()),
            sender: None,
            content_type: "text/plain".into(),
            body: Bytes::from_static(b"sone"),
            trace: None,
            client: Some(client.into()),
        };
        let (reply, answer) = oneshot::channel();
        let mail = Message::new(SessionKey::parse("s", session).unwrap(), message).mail(reply);
        assert!(matches!(self.slot.mailbox().try_mail(mail, || {}), Ok(Ok(()))));
        timeout(TEST_TIMEOUT, answer).await.unwrap().unwrap()
    }

    async fn sent_to(&self, id: &str, session: &str, body: &'static [u8]) -> Result<Sent, Error> {
        let key = SessionKey::parse("s", session).unwrap();
        let (mail, answer) = message_under(Some(id), &key, body);
        assert!(matches!(self.slot.mailbox().try_mail(mail, || {}), Ok(Ok(()))));
        timeout(TEST_TIMEOUT, answer).await.unwrap().unwrap()
    }
}

fn passes(quota: &Quota) -> bool {
    matches!(quota.check(&key(), None, 0, None, || true), Decision::Allowed(_))
}

/// Who spins would have all of a processor, message by message: the limit would see none of it, or only what goes well.
#[tokio::test]
async fn what_a_handler_has_used_is_counted_and_goes_with_its_answer() {
    let mut fixture = Fixture::with_deadline(Duration::from_millis(50)).await;
    fixture.pass_all();
    let quota = fixture.context.quota.clone();
    fixture.limit(|limits| {
        limits.guest_time = slotd_quota::rate::Rate::parse("1ms/h");
        limits.burst = Some(slotd_quota::policy::Burst(Duration::from_secs(3600)));
    });
    let sent = fixture.sent_to("1", "x", b"ehello").await.unwrap();
    assert!(sent.guest_time > Duration::ZERO);
    assert_eq!(fixture.sent_to("1", "x", b"ehello").await.unwrap().guest_time, Duration::ZERO);
    let late = fixture.sent_to("2", "x", b"l").await.unwrap_err();
    assert_eq!(late.code, Code::PluginDeadline);
    assert!(late.guest_time >= Duration::from_millis(25), "{:?}", late.guest_time);
    assert!(!passes(&quota), "it is not overdrawn");
    // Of another service nothing is drawn.
    let other = SessionKey::parse("other", "x").unwrap();
    assert!(matches!(quota.check(&other, None, 0, None, || true), Decision::Allowed(None)));
}

/// A service would fill the disk of all, and one that is full could not tell its clients what became of their messages.
#[tokio::test]
async fn a_service_that_stores_as_much_as_it_may_keeps_no_more() {
    let mut fixture = Fixture::new().await;
    fixture.pass_all();
    let says = Arc::<Says>::default();
    fixture.context.quota.follow_stored(says.clone());
    fixture.sent_to("1", "x", b"sone").await.unwrap();
    fixture.limit(|limits| limits.sessions = Some(slotd_quota::policy::Count(1)));
    fixture.sent_to("1", "y", b"sone").await.unwrap();
    *says.0.lock() = StoredNow { sessions: 1, bytes: 100 };
    let full = fixture.sent_to("1", "z", b"sone").await.unwrap_err();
    assert_eq!((full.code, full.code.status()), (Code::QuotaExceeded, 429));
    assert!(!full.code.retriable() && full.retry_after.is_none());
    assert!(full.detail.contains("may have 1"), "{full}");
    // Those that there are go on.
    fixture.sent_to("2", "y", b"stwo").await.unwrap();
    fixture.limit(|limits| limits.stored = Some(slotd_quota::policy::Size(100)));
    let full = fixture.sent_to("3", "y", b"sthree").await.unwrap_err();
    assert_eq!(full.code, Code::QuotaExceeded);
    assert!(fixture.sent_to("2", "y", b"stwo").await.unwrap().replayed);
    *says.0.lock() = StoredNow { sessions: 1, bytes: 99 };
    fixture.sent_to("3", "y", b"sthree").await.unwrap();
}

/// A session could have all that its service may store; and one that is at its limit could not be made smaller.
#[tokio::test]
async fn a_session_that_has_as_much_state_as_it_may_only_shrinks() {
    let mut fixture = Fixture::new().await;
    fixture.pass_all();
    // A key of one byte, and a value.
    fixture.sent_to("1", "x", b"s123456789").await.unwrap();
    fixture.limit(|limits| {
        let session = limits.session.get_or_insert_default();
        session.stored = Some(slotd_quota::policy::Size(8));
    });
    let larger = fixture.sent_to("2", "x", b"s1234567890").await.unwrap_err();
    assert_eq!(larger.code, Code::QuotaExceeded);
    assert!(larger.detail.contains("11 bytes") && larger.detail.contains("may have 8"), "{larger}");
    // As large as before, smaller, and no larger than it may be.
    for (id, body) in [("3", &b"s987654321"[..]), ("4", b"s12"), ("5", b"s1234567")] {
        fixture.sent_to(id, "x", body).await.unwrap();
    }
    let larger = fixture.sent_to("6", "x", b"s12345678").await.unwrap_err();
    assert_eq!(larger.code, Code::QuotaExceeded);
    assert_eq!(fixture.sent_to("7", "x", b"g").await.unwrap().body, "1234567");
}

/// One tenant would make all the sessions that a service may have, or fill its disk, and shut the others out; or a tenant be shut out by
/// what others have made.
#[tokio::test]
async fn a_subject_makes_as_many_sessions_and_stores_as_much_as_it_may() {
    let mut fixture = Fixture::new().await;
    fixture.pass_all();
    let says = Arc::<Says>::default();
    fixture.context.quota.follow_stored(says.clone());
    fixture.limit(|limits| {
        let subject = limits.subject.get_or_insert_default();
        subject.sessions = Some(slotd_quota::policy::Count(2));
        subject.stored = Some(slotd_quota::policy::Size(100));
    });
    fixture.sent_by("ann", "1", "hers").await.unwrap();
    fixture.sent_by("bob", "1", "his").await.unwrap();
    *says.0.lock() = StoredNow { sessions: 2, bytes: 99 };
    let full = fixture.sent_by("ann", "2", "another").await.unwrap_err();
    assert_eq!((full.code, full.code.status()), (Code::QuotaExceeded, 429));
    assert!(full.detail.contains("may have 2") && !full.detail.contains("ann"), "{full}");
    // Her session goes on; so do those of others, and whoever is nobody.
    fixture.sent_by("ann", "2", "hers").await.unwrap();
    fixture.sent_by("bob", "2", "bobs").await.unwrap();
    fixture.sent_to("1", "nobodys", b"sone").await.unwrap();
    *says.0.lock() = StoredNow { sessions: 1, bytes: 100 };
    // What is hers counts for her, whoever sends to it; and she may send to what is another's.
    for (who, id) in [("ann", "3"), ("bob", "3")] {
        let full = fixture.sent_by(who, id, "hers").await.unwrap_err();
        assert_eq!(full.code, Code::QuotaExceeded, "{who}");
        assert!(full.detail.contains("subject.stored") && !full.detail.contains("ann"), "{full}");
    }
    fixture.sent_by("ann", "1", "his").await.unwrap();
    fixture.sent_by("ann", "2", "nobodys").await.unwrap();
    assert!(fixture.sent_by("ann", "2", "hers").await.unwrap().replayed);
    // By what the store says, when it has it.
    fixture.slot_again().await;
    assert_eq!(fixture.sent_by("bob", "3", "hers").await.unwrap_err().code, Code::QuotaExceeded);
    fixture.sent_by("ann", "2", "his").await.unwrap();
}
