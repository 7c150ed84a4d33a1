//! Who a client was shown to be, in its slot: kept with the message, seen by the handler, and asked for of a repeat.

use super::*;
use crate::{
    level::{IDENTITY_FROM, Level},
    message::{Answer, Client, History, Range, ReadBy},
    operation::{Query, ReadHistory},
};

/// A slot whose plugin says who its client is, at a level that the test raises.
struct Asking {
    slot: SlotHandle,
    level: Arc<FeatureLevel>,
    lock: TaskLock,
    context: Arc<SlotContext>,
    _fixture: Fixture,
}

fn client(kind: &str, subject: Option<&str>, role: &str) -> Option<Arc<Client>> {
    let claims = vec![("role".into(), role.into())];
    Some(Arc::new(Client { kind: kind.into(), subject: subject.map(Into::into), claims }))
}

fn ann() -> Option<Arc<Client>> {
    client("accounts", Some("ann"), "staff")
}

impl Asking {
    async fn at(level: Level) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let plugins = testkit::host_with_memory(&dir.path().join("plugins"), 1 << 30);
        let plugin = plugins.add(testkit::asking_guest().into()).await.unwrap();
        let fixture = Fixture::over(dir, plugins, plugin.digest(), crate::limits::ENGINE_TIMEOUT);
        let level = Arc::new(FeatureLevel::new(level));
        let context = fixture.context_over(fixture.data.log(), level.clone());
        let (lock, context) = (TaskLock::default(), Arc::new(context));
        let slot = SlotHandle::spawn(SLOT, lock.clone(), context.clone());
        Self { slot, level, lock, context, _fixture: fixture }
    }

    /// The slot stops, and another one of it starts from what is kept.
    async fn again(&mut self) {
        let (reply, stopped) = oneshot::channel();
        assert!(self.slot.try_order(Order::Stop { release: false, loaded: None, reply }));
        stopped.await.unwrap().unwrap();
        drop(self.lock.lock().await);
        self.slot = SlotHandle::spawn(SLOT, self.lock.clone(), self.context.clone());
    }

    async fn ask<O: Mailed>(&self, operation: O) -> Result<O::Answer, Error> {
        let (reply, answer) = oneshot::channel();
        let put = self.slot.mailbox().try_mail(operation.mail(reply), || {});
        assert!(matches!(put, Ok(Ok(()))));
        answer.await.unwrap()
    }

    async fn send(&self, id: &str, client: Option<Arc<Client>>) -> Result<Sent, Error> {
        self.send_body(id, client, b"Is").await
    }

    async fn send_body(
        &self,
        id: &str,
        client: Option<Arc<Client>>,
        body: &'static [u8],
    ) -> Result<Sent, Error> {
        let message = Incoming {
            id: Some(id.into()),
            sender: None,
            content_type: "text/plain".into(),
            body: Bytes::from_static(body),
            trace: None,
            client,
        };
        self.ask(Message::new(key(), message)).await
    }

    async fn query(&self, client: Option<Arc<Client>>) -> Bytes {
        let (content_type, body) = ("text/plain".into(), Bytes::from_static(b"Ic"));
        let consistency = Consistency::Current;
        let query = Query { key: key(), content_type, body, consistency, client };
        let Answer { body, .. } = self.ask(query).await.unwrap();
        body
    }

    async fn clients(&self) -> Vec<Option<Arc<Client>>> {
        let (range, reader) = (Range::After { seq: 0, limit: 100 }, ReadBy::Operator);
        let consistency = Consistency::Current;
        let read = ReadHistory { key: key(), range, reader, consistency };
        let History { entries, .. } = self.ask(read).await.unwrap();
        entries.iter().map(|(entry, _)| entry.client().cloned()).collect()
    }
}

/// A handler would not know whom it answers, or a history not say who it was. Before all can read it, nothing of it is
/// written; and what is not written no handler sees: a message that is handled again must have the same.
#[tokio::test]
async fn an_identity_is_kept_and_seen_from_its_level_on() {
    let asking = Asking::at(IDENTITY_FROM - 1).await;
    assert_eq!(asking.send("1", ann()).await.unwrap().body, "");
    assert_eq!(asking.query(ann()).await, "");
    asking.level.raise(IDENTITY_FROM);
    assert_eq!(asking.send("2", ann()).await.unwrap().body, "ann");
    assert_eq!(asking.send("3", None).await.unwrap().body, "");
    assert_eq!(asking.query(ann()).await, "staff");
    assert_eq!(asking.query(None).await, "");
    assert_eq!(asking.clients().await, [None, ann(), None]);
}

/// Whoever guesses another's key would be given the reply to its message; or, with it, keep the other's message out.
#[tokio::test]
async fn a_key_is_its_clients_own() {
    let asking = Asking::at(IDENTITY_FROM).await;
    assert_eq!(asking.send("k", ann()).await.unwrap().body, "ann");
    let others = [
        client("accounts", Some("bob"), "staff"),
        client("token", Some("ann"), "staff"),
        client("accounts", None, "staff"),
        None,
    ];
    for other in &others {
        assert!(!asking.send("k", other.clone()).await.unwrap().replayed, "{other:?}");
        assert!(asking.send("k", other.clone()).await.unwrap().replayed, "{other:?}");
    }
    // Its claims are those of the token that it has now.
    let again = asking.send("k", client("accounts", Some("ann"), "boss")).await.unwrap();
    assert!(again.replayed && again.body == "ann");
    assert_eq!(asking.clients().await, [&[ann()][..], &others].concat());
    // With another body it still is a mistake of his own, and of nobody else.
    for (who, expected) in [(ann(), true), (client("accounts", Some("cid"), ""), false)] {
        let sent = asking.send_body("k", who, b"Ic").await;
        let is_conflict = sent.is_err_and(|error| error.code == Code::IdempotencyConflict);
        assert_eq!(is_conflict, expected);
    }
}

/// After the flush, and in another process, keys come from rows, and these from the log: a key of one client that were
/// remembered as everybody's would be a message that is applied twice.
#[tokio::test]
async fn keys_of_clients_are_found_in_what_is_stored() {
    let mut asking = Asking::at(IDENTITY_FROM).await;
    asking.send("k", ann()).await.unwrap();
    asking.send("k", None).await.unwrap();
    asking.again().await;
    for who in [ann(), None] {
        assert!(asking.send("k", who).await.unwrap().replayed);
    }
    let bob = client("accounts", Some("bob"), "");
    assert!(!asking.send_body("k", bob, b"Ic").await.unwrap().replayed);
}

/// With the update a client that sends a message again, as it has had no answer, would be told that somebody else has.
#[tokio::test]
async fn what_was_sent_before_identities_were_kept_can_be_repeated() {
    let asking = Asking::at(IDENTITY_FROM - 1).await;
    let root = || client("root", None, "");
    asking.send("k", root()).await.unwrap();
    asking.level.raise(IDENTITY_FROM);
    assert!(asking.send("k", root()).await.unwrap().replayed);
    assert!(asking.send("k", None).await.unwrap().replayed);
    // It may have been anybody's.
    assert_eq!(asking.send("k", ann()).await.unwrap_err().code, Code::IdempotencyConflict);
    // With another body it is not that message again, and nobody's key is used up.
    assert!(!asking.send_body("k", ann(), b"Ic").await.unwrap().replayed);
}
