//! Ephemeral events: of a message, and of a client.

use super::*;
use crate::{log::record::Event, operation::Notify};

impl Fixture {
    /// A slot whose plugin sends ephemeral events.
    async fn notifying() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let plugins = testkit::host_with_memory(&dir.path().join("plugins"), 1 << 30);
        let plugin = plugins.add(testkit::notifying_guest().into()).await.unwrap();
        Self::over(dir, plugins, plugin.digest(), crate::limits::ENGINE_TIMEOUT)
    }

    /// A client's ephemeral event.
    fn notify(&self, kind: &str) -> oneshot::Receiver<Result<(), Error>> {
        let (reply, answer) = oneshot::channel();
        let (kind, content_type) = (kind.to_owned(), "t".to_owned());
        let event = Event { kind, content_type, body: "b".into() };
        let mail = Notify { key: key(), sender: Some("ann".into()), event }.mail(reply);
        assert!(matches!(self.slot.mailbox().try_mail(mail, || {}), Ok(Ok(()))));
        answer
    }
}

/// Invariant 2, for what leaves in passing; and a repeat, which changes nothing, must tell nobody anything.
#[tokio::test]
async fn ephemeral_events_leave_with_their_batch_once() {
    let mut fixture = Fixture::notifying().await;
    let mut live = fixture.subscribe().await.unwrap().unwrap().live.unwrap();
    let first = fixture.send_under(Some("one"), b"mhello");
    let word = fixture.append().await;
    fixture.taken(2).await;
    assert!(live.recv().now_or_never().is_none());
    // A client's waits for nothing.
    fixture.notify("typing").await.unwrap().unwrap();
    let seen = |live| match live {
        Some(Live::Ephemeral(it)) => format!("{} {:?}", it.event.kind, it.origin),
        Some(Live::Published(it)) => format!("message {}, {} events", it.seq, it.events.len()),
        other => format!("{other:?}"),
    };
    let typing = "typing Client(Some(\"ann\"))";
    assert_eq!(seen(live.recv().now_or_never().unwrap()), typing);
    word.send(Word::Pass).unwrap();
    assert_eq!(first.await.unwrap().unwrap().seq, 1);
    assert_eq!(seen(live.recv().await), "message 1, 0 events");
    assert_eq!(seen(live.recv().await), "note Handler");
    assert!(fixture.send_under(Some("one"), b"mhello").await.unwrap().unwrap().replayed);
    // What is not kept is not sent either.
    let refused = fixture.send(b"magain");
    fixture.append().await.send(Word::Refuse).unwrap();
    assert!(refused.await.unwrap().is_err());
    assert!(live.recv().await.is_none());
}

/// While a call is long, ephemeral events would fill the mailbox, and messages be refused.
#[tokio::test]
async fn ephemeral_events_leave_the_mailbox_to_messages() {
    let fixture = Fixture::notifying().await;
    let mut answers = Vec::new();
    // The slot's task runs when this one waits.
    let queued = |mail| matches!(fixture.slot.mailbox().try_queue(mail), Ok(Ok(())));
    let mut notified = 0;
    for _ in 0..16 {
        let (reply, answer) = oneshot::channel();
        let event = Event { kind: "k".into(), content_type: "t".into(), body: "b".into() };
        notified += usize::from(queued(Notify { key: key(), sender: None, event }.mail(reply)));
        answers.push(answer);
    }
    assert_eq!(notified, 16 / crate::limits::MAILBOX_PASSING_SHARE);
    let mut sent = 0;
    let mut waiting = Vec::new();
    for _ in 0..16 {
        let (reply, answer) = oneshot::channel();
        let message = Incoming {
            id: None,
            sender: None,
            content_type: "t".into(),
            body: "m".into(),
            trace: None,
            client: None,
        };
        sent += usize::from(queued(Message::new(key(), message).mail(reply)));
        waiting.push(answer);
    }
    assert_eq!(sent, 16 - notified);
}
