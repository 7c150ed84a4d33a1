//! What a slot counts, and for whom.

use super::*;
use crate::client::Client;
use slotd_quota::usage::{Amounts, Date, Usage, Who};

fn usage_of(fixture: &Fixture) -> Arc<Usage> {
    let folder = fixture._dir.path().join("usage");
    let usage = Arc::new(Usage::open(&folder, 1, 0).unwrap().usage);
    fixture.context.usage.start(usage.clone());
    usage
}

/// Of a client, or of nobody.
fn counted(usage: &Usage, client: Option<&str>) -> Amounts {
    let who = client.map_or(Who::Nobody, |client| Who::Subject(client.into()));
    let days = usage.days(Date::MIN, Date::MAX);
    let accounts = days.iter().flat_map(|day| &day.accounts);
    let own = accounts.filter(|account| account.who == who && &*account.service == "s");
    own.fold(Amounts::default(), |mut sum, account| {
        sum.add(&account.amounts);
        sum
    })
}

fn send_as(fixture: &Fixture, subject: &str, body: &'static [u8]) -> Answered {
    let (reply, answer) = oneshot::channel();
    let client = Client { kind: "token".into(), subject: Some(subject.into()), claims: Vec::new() };
    let message = Incoming {
        id: None,
        sender: None,
        content_type: "text/plain".into(),
        body: Bytes::from_static(body),
        trace: None,
        client: Some(Arc::new(client)),
    };
    let mail = Message::new(key(), message).mail(reply);
    assert!(matches!(fixture.slot.mailbox().try_mail(mail, || {}), Ok(Ok(()))));
    answer
}

type Answered = oneshot::Receiver<Result<Sent, Error>>;

/// A client would pay for what it was told was not kept, or for another's messages.
#[tokio::test]
async fn what_is_durable_is_counted_for_who_sent_it() {
    let mut fixture = Fixture::new().await;
    let usage = usage_of(&fixture);
    let refused = send_as(&fixture, "ann", b"sone");
    fixture.append().await.send(Word::Refuse).unwrap();
    assert!(refused.await.unwrap().is_err());
    drop(fixture.task_lock.lock().await);
    let ann = counted(&usage, Some("token:ann"));
    assert_eq!((ann.messages, ann.bytes_in), (0, 0));
    assert!(ann.guest_time_ns > 0, "it has run");
    fixture.slot = SlotHandle::spawn(SLOT, fixture.task_lock.clone(), fixture.context.clone());
    fixture.pass_all();
    for (subject, body) in [("ann", &b"sone"[..]), ("bob", b"stwo22"), ("ann", b"sthree")] {
        send_as(&fixture, subject, body).await.unwrap().unwrap();
    }
    fixture.send(b"sfour").await.unwrap().unwrap();
    let of = |client| {
        let Amounts { messages, bytes_in, guest_time_ns, .. } = counted(&usage, client);
        assert!(guest_time_ns > 0, "{client:?}");
        (messages, bytes_in)
    };
    assert_eq!(of(Some("token:ann")), (2, 10));
    assert_eq!(of(Some("token:bob")), (1, 6));
    assert_eq!(of(None), (1, 5));
}

/// What a service has stored would not be known before its next start.
#[tokio::test]
async fn a_flush_keeps_the_sums_of_what_is_stored() {
    let mut fixture = Fixture::new().await;
    fixture.pass_all();
    let stored = |fixture: &Fixture| {
        let stored = fixture.context.store.stored(SLOT).unwrap().unwrap_or_default();
        stored.get(&key().service).map(|of| of.all).unwrap_or_default()
    };
    assert_eq!(stored(&fixture).sessions, 0);
    let mut before = 0;
    for body in [&b"sone"[..], b"stwo"] {
        let sent = fixture.send(body).await.unwrap().unwrap();
        // As far as the message at least.
        while fixture.context.store.head(SLOT, &key()).unwrap().is_none_or(|h| h.seq < sent.seq) {
            fixture.slot.try_order(Order::Flush);
            tokio::task::yield_now().await;
        }
        let now = stored(&fixture);
        assert_eq!(now.sessions, 1);
        assert!(now.bytes > before + 8, "{now:?}");
        before = now.bytes;
    }
}
