//! What operators do to sessions, where it fails, and where a client's message comes in between.

use super::*;
use crate::{
    operation::Operate,
    operator::{Action, Entered, Import, Imported, Operation},
    position::{Cursor, Incarnation},
};

impl Fixture {
    /// Carries an operation out; its answer, once what it rests on is durable.
    async fn operate(&mut self, expected: Option<Cursor>, action: Action) -> Result<Sent, Error> {
        let (reply, mut answer) = oneshot::channel();
        let operation = Operation::new(None, "ann".into(), expected, action);
        let mail = Operate { key: key(), operation }.mail(reply);
        assert!(matches!(self.slot.mailbox().try_mail(mail, || {}), Ok(Ok(()))));
        loop {
            tokio::select! {
                answer = &mut answer => return answer.unwrap(),
                word = self.append() => word.send(Word::Pass).unwrap(),
            }
        }
    }

    async fn message(&mut self) -> Sent {
        let mut answer = self.send(b"sone");
        loop {
            tokio::select! {
                answer = &mut answer => return answer.unwrap().unwrap(),
                word = self.append() => word.send(Word::Pass).unwrap(),
            }
        }
    }

    /// The records of the slot's log that concern sessions: of deletes a 0.
    async fn history(&self) -> Vec<u64> {
        let after = self.data.state().slot(SLOT).unwrap().applied;
        let batches = self.data.log().read(SLOT, after, usize::MAX).await.unwrap();
        let records = batches.iter().flat_map(|b| Batch::decode(&b.batch).unwrap().records);
        let operations = records.filter_map(|record| match record {
            Record::Message(message) => Some(message.entry.seq),
            Record::Delete(_) => Some(0),
            _ => None,
        });
        operations.collect()
    }
}

fn part(replace: bool, after: u64, messages: u64, value: Option<&'static [u8]>) -> Action {
    let history = (0..messages).map(|number| Imported {
        id: None,
        is_operators: false,
        sender: None,
        time_ms: number + 1,
        content_type: "text/plain".into(),
        body: "then".into(),
        reply_content_type: String::new(),
        reply: Bytes::new(),
        deployment: 1,
        events: Vec::new(),
        origin: None,
    });
    let changes = |value| vec![("k".to_owned(), Some(Bytes::from_static(value)))];
    Action::Import(Import {
        replace,
        after,
        created_ms: 1,
        deployment: 1,
        history: history.collect(),
        entered: value.map(|value| Entered { changes: changes(value), note: "{}".into() }),
    })
}

fn at(sent: &Sent) -> Option<Cursor> {
    Some(Cursor::after(sent.seq, sent.incarnation))
}

/// Invariant 4: half of a part would be there under numbers that the operator was told are free, and
/// what a file was to replace would be gone for nothing.
#[tokio::test]
async fn a_part_of_an_import_that_fails_leaves_all_as_it_was() {
    let mut fixture = Fixture::new().await;
    let first = fixture.operate(None, part(false, 0, 2, None)).await.unwrap();
    assert_eq!(first.seq, 2);
    fixture.store_fails.store(true, Ordering::Relaxed);
    let failed = fixture.operate(None, part(false, 2, 3, Some(b"v"))).await.unwrap_err();
    assert_eq!(failed.code, Code::StorageUnavailable);
    assert_eq!(fixture.history().await, [1, 2], "a part of the part is in the log");
    fixture.store_fails.store(false, Ordering::Relaxed);
    let second = fixture.operate(None, part(false, 2, 3, Some(b"v"))).await.unwrap();
    assert_eq!((second.seq, second.incarnation), (6, first.incarnation));

    // A key that can't be is found when the rest of the part is there already.
    let Action::Import(mut bad) = part(true, 0, 1, Some(b"w")) else { unreachable!() };
    bad.entered.as_mut().unwrap().changes.push((String::new(), None));
    let refused = fixture.operate(None, Action::Import(bad)).await.unwrap_err();
    assert_eq!(refused.code, Code::RequestInvalid);
    assert_eq!(fixture.history().await, [1, 2, 3, 4, 5, 6], "what was to be replaced is gone");
    let sent = fixture.message().await;
    assert_eq!((sent.seq, sent.incarnation), (7, first.incarnation));

    // What is replaced need not be readable.
    fixture.store_fails.store(true, Ordering::Relaxed);
    let third = fixture.operate(None, part(true, 0, 1, Some(b"w"))).await.unwrap();
    assert_eq!(third.seq, 2);
    assert_ne!(third.incarnation, first.incarnation);
    assert_eq!(fixture.history().await, [1, 2, 3, 4, 5, 6, 7, 0, 1, 2]);
    assert_eq!(fixture.slot.stats.sessions.load(Ordering::Relaxed), 1);
}

/// Invariant 3: an import that comes to no good end would take a message with it that was
/// acknowledged meanwhile, or a session that was made under its name since.
#[tokio::test]
async fn only_what_is_exactly_as_it_was_left_is_discarded() {
    let mut fixture = Fixture::new().await;
    let sent = fixture.operate(None, part(false, 0, 1, Some(b"v"))).await.unwrap();
    let imported = at(&sent);
    // Not without saying which one.
    for vague in [None, Some(Cursor::after(2, None))] {
        let refused = fixture.operate(vague, Action::Discard).await.unwrap_err();
        assert_eq!(refused.code, Code::RequestInvalid);
    }
    assert_eq!(fixture.message().await.seq, 3);
    let refused = fixture.operate(imported, Action::Discard).await.unwrap_err();
    assert_eq!(refused.code, Code::SessionChanged, "an acknowledged message was deleted");

    let again = fixture.operate(None, part(true, 0, 1, Some(b"v"))).await.unwrap();
    assert_ne!(at(&again), imported);
    let refused = fixture.operate(imported, Action::Discard).await.unwrap_err();
    assert_eq!(refused.code, Code::SessionChanged, "another session of the name was deleted");
    // It is sent again when its answer is lost.
    for _ in 0..2 {
        let gone = fixture.operate(at(&again), Action::Discard).await.unwrap();
        assert_eq!((gone.seq, gone.incarnation), (0, Some(Incarnation::NONE)));
    }
    assert_eq!(fixture.history().await, [1, 2, 3, 0, 1, 2, 0]);
    assert_eq!(fixture.slot.stats.sessions.load(Ordering::Relaxed), 0);
    assert_eq!(fixture.message().await.seq, 1);
}

/// A part went into whatever session had the name by then, and mixed two states.
#[tokio::test]
async fn a_later_part_goes_behind_the_one_before_and_nowhere_else() {
    let mut fixture = Fixture::new().await;
    let first = fixture.operate(None, part(false, 0, 2, None)).await.unwrap();
    let other = fixture.operate(None, part(true, 0, 2, None)).await.unwrap();
    assert_eq!(first.seq, other.seq);
    let refused = fixture.operate(at(&first), part(false, 2, 0, Some(b"v"))).await.unwrap_err();
    assert_eq!(refused.code, Code::SessionChanged);
    // Its own goes on, and is told the same when its answer was lost.
    let on = fixture.operate(at(&other), part(true, 2, 1, None)).await.unwrap();
    assert_eq!((on.seq, on.incarnation), (3, other.incarnation));
    let again = fixture.operate(at(&other), part(true, 2, 1, None)).await.unwrap();
    assert_eq!((again.seq, again.incarnation), (3, other.incarnation));
    assert_eq!(fixture.history().await, [1, 2, 0, 1, 2, 3]);
}

/// A handler would see half a state, and its message would be in the middle of the file's.
#[tokio::test]
async fn a_session_is_kept_from_clients_until_its_last_part() {
    let mut fixture = Fixture::new().await;
    let first = fixture.operate(None, part(false, 0, 2, None)).await.unwrap();
    let refused = fixture.send(b"sone").await.unwrap().unwrap_err();
    assert!(refused.code == Code::Unavailable && refused.detail.contains("imported"), "{refused}");
    fixture.operate(at(&first), part(false, 2, 0, Some(b"v"))).await.unwrap();
    assert_eq!(fixture.message().await.seq, 4);
    // Nor for longer than there is one.
    let first = fixture.operate(None, part(true, 0, 2, None)).await.unwrap();
    fixture.operate(at(&first), Action::Discard).await.unwrap();
    assert_eq!(fixture.message().await.seq, 1);
}

/// A session would name a version that its service never has again, and answer 503 for ever.
#[tokio::test]
async fn a_part_whose_version_the_service_does_not_have_is_refused() {
    let mut fixture = Fixture::new().await;
    for of_state in [true, false] {
        let Action::Import(mut part) = part(false, 0, 2, Some(b"v")) else { unreachable!() };
        match of_state {
            true => part.deployment = 9,
            false => part.history[1].deployment = 9,
        }
        let refused = fixture.operate(None, Action::Import(part)).await.unwrap_err();
        assert!(refused.detail.contains("has no deployment 9"), "{refused}");
    }
    assert!(fixture.history().await.is_empty());
}
