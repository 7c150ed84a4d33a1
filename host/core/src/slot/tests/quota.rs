//! Limits, where a slot has a part in them: guest time is told to who counts it, and what may not be kept is refused.

use super::*;
use crate::{
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
}

impl Fixture {
    fn limit(&self, set: impl FnOnce(&mut Limits)) {
        let mut limits = Limits::default();
        set(&mut limits);
        self.context.quota.set([("s", &limits)]);
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
