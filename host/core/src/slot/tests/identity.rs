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
        let slot = SlotHandle::spawn(SLOT, TaskLock::default(), Arc::new(context));
        Self { slot, level, _fixture: fixture }
    }

    async fn ask<O: Mailed>(&self, operation: O) -> Result<O::Answer, Error> {
        let (reply, answer) = oneshot::channel();
        let put = self.slot.mailbox().try_mail(operation.mail(reply), || {});
        assert!(matches!(put, Ok(Ok(()))));
        answer.await.unwrap()
    }

    async fn send(&self, id: &str, client: Option<Arc<Client>>) -> Result<Sent, Error> {
        let message = Incoming {
            id: Some(id.into()),
            sender: None,
            content_type: "text/plain".into(),
            body: Bytes::from_static(b"Is"),
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

/// Whoever guesses another's key would be given the reply to its message, and have its own taken for sent.
#[tokio::test]
async fn a_key_is_its_clients_own() {
    let asking = Asking::at(IDENTITY_FROM).await;
    assert_eq!(asking.send("k", ann()).await.unwrap().body, "ann");
    let others = [
        None,
        client("accounts", Some("bob"), "staff"),
        client("token", Some("ann"), "staff"),
        client("accounts", None, "staff"),
    ];
    for other in others {
        let error = asking.send("k", other).await.unwrap_err();
        assert_eq!(error.code, Code::IdempotencyConflict, "{error}");
        assert!(!error.detail.contains("ann"), "{error}");
    }
    // Its claims are those of the token that it has now.
    let again = asking.send("k", client("accounts", Some("ann"), "boss")).await.unwrap();
    assert!(again.replayed && again.body == "ann");
    assert_eq!(asking.clients().await, [ann()]);
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
    asking.send("l", root()).await.unwrap();
    assert_eq!(asking.send("l", None).await.unwrap_err().code, Code::IdempotencyConflict);
}
