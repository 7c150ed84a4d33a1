//! Who a client was shown to be, in its slot: kept with the message, seen by the handler, and asked for of a repeat.

use super::*;
use crate::{
    level::{IDENTITY_FROM, Level, OWN_KEYS_FROM},
    log::record::Entry,
    message::{Answer, Client, History, Range, ReadBy},
    operation::{Query, ReadHistory},
};

/// A slot whose plugin says who its client is, at a level that the test raises.
struct Asking {
    slot: SlotHandle,
    level: Arc<FeatureLevel>,
    lock: TaskLock,
    context: Arc<SlotContext>,
    fixture: Fixture,
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
        Self { slot, level, lock, context, fixture }
    }

    /// The message that the store remembers for a key.
    fn remembered(&self, key: &str) -> Option<u64> {
        let store = &self.context.store;
        let head = store.head(SLOT, &self::key()).unwrap().unwrap();
        store.remembered(SLOT, head.session_number, key).unwrap().map(|it| it.seq)
    }

    /// As [`Self::again`], by a node that knows of another level.
    async fn at_level(&mut self, level: Level) {
        self.level = Arc::new(FeatureLevel::new(level));
        let context = self.fixture.context_over(self.fixture.data.log(), self.level.clone());
        self.context = Arc::new(context);
        self.again().await;
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
        self.entries().await.iter().map(|entry| entry.client().cloned()).collect()
    }

    async fn entries(&self) -> Vec<Arc<Entry>> {
        let (range, reader) = (Range::After { seq: 0, limit: 100 }, ReadBy::Operator);
        let consistency = Consistency::Current;
        let read = ReadHistory { key: key(), range, reader, consistency };
        let History { entries, .. } = self.ask(read).await.unwrap();
        entries.into_iter().map(|(entry, _)| entry).collect()
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
    let asking = Asking::at(OWN_KEYS_FROM).await;
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
    let mut asking = Asking::at(OWN_KEYS_FROM).await;
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
    assert_eq!(conflict(&asking, ann()).await, Some(Code::IdempotencyConflict));
    // With another body it is not that message again, and nobody's key is used up.
    asking.level.raise(OWN_KEYS_FROM);
    assert_eq!(asking.send("k", ann()).await.unwrap_err().code, Code::IdempotencyConflict);
    assert_eq!(conflict(&asking, ann()).await, None);
}

async fn conflict(asking: &Asking, by: Option<Arc<Client>>) -> Option<Code> {
    let sent = asking.send_body("k", by, b"Ic").await;
    sent.map_or_else(|error| Some(error.code), |sent| sent.replayed.then_some(Code::Internal))
}

/// A node of the version before looks for the key as the client gave it, in rows and in the log. It would not find it, and
/// apply the client's repeat when it takes the slot over; and one that has no keys of clients must not use up another's row.
#[tokio::test]
async fn below_their_level_keys_are_kept_as_the_version_before_reads_them() {
    let mut asking = Asking::at(OWN_KEYS_FROM - 1).await;
    asking.send("k", ann()).await.unwrap();
    let bob = || client("accounts", Some("bob"), "");
    // As that version answers it.
    assert_eq!(asking.send("k", bob()).await.unwrap_err().code, Code::IdempotencyConflict);
    assert_eq!(asking.entries().await[0].id.as_deref(), Some("k"));
    asking.again().await;
    assert_eq!(asking.remembered("k"), Some(1));
    // From then on bob has a key of his own, and ann's of before stays hers.
    asking.level.raise(OWN_KEYS_FROM);
    for replayed in [false, true] {
        assert_eq!(asking.send("k", bob()).await.unwrap().replayed, replayed);
        assert!(asking.send("k", ann()).await.unwrap().replayed);
    }
    asking.again().await;
    for (who, seq) in [(ann(), 1), (bob(), 2)] {
        let sent = asking.send("k", who).await.unwrap();
        assert!(sent.replayed && sent.seq == seq);
    }
    assert_eq!(asking.remembered("k"), Some(1));
}

/// Whoever folds the log must remember the same, whatever level it knows of by then; and clients know their keys as they gave them.
#[tokio::test]
async fn from_their_level_on_a_message_says_what_its_key_is_remembered_by() {
    let mut asking = Asking::at(OWN_KEYS_FROM).await;
    asking.send("k", ann()).await.unwrap();
    asking.send("k", None).await.unwrap();
    // As a node gives one to a message that it sends on.
    asking.send("\u{1}made", ann()).await.unwrap();
    asking.again().await;
    let entries = asking.entries().await;
    let shown: Vec<_> = entries.iter().map(|entry| entry.client_key()).collect();
    assert_eq!(shown, [Some("k"), Some("k"), None]);
    let kept: Vec<_> = entries.iter().map(|entry| entry.id.clone().unwrap()).collect();
    assert_eq!(kept[0], format!("\u{2}{:032x}k", ann().unwrap().scope()));
    assert_eq!(kept[1..], ["k", "\u{1}made"]);
    for (key, seq) in kept.iter().zip(1..) {
        assert_eq!(asking.remembered(key), Some(seq));
    }
    assert!(asking.send("\u{1}made", ann()).await.unwrap().replayed);
}

/// A node that was not told yet of the level would apply a repeat that it is given with the slot.
#[tokio::test]
async fn a_node_that_is_behind_its_level_finds_the_keys_of_clients() {
    let mut asking = Asking::at(OWN_KEYS_FROM).await;
    asking.send("k", ann()).await.unwrap();
    asking.at_level(OWN_KEYS_FROM - 1).await;
    assert!(asking.send("k", ann()).await.unwrap().replayed);
}
