//! What came before a call that has to be waited for.

use super::*;

impl Fixture {
    /// Leaves a message to the slot's task.
    fn queue(&self, body: &'static [u8]) -> oneshot::Receiver<Result<Sent, Error>> {
        let (mail, answer) = message_under(None, &key(), body);
        assert!(matches!(self.slot.mailbox().try_queue(mail), Ok(Ok(()))));
        answer
    }
}

/// The answer of a message that takes a millisecond would come after somebody else's call: after the time that a
/// call may take.
#[tokio::test]
async fn what_was_applied_before_a_long_call_does_not_wait_for_it() {
    let mut fixture = Fixture::warm().await;
    let taken = fixture.context.mail_taken.load(Ordering::Relaxed);
    // One turn of the slot's task.
    let (quick, mut long) = (fixture.queue(b"stwo"), fixture.queue(b"lthree"));
    fixture.taken(taken + 2).await;
    fixture.append().await.send(Word::Pass).unwrap();
    assert_eq!(quick.await.unwrap().unwrap().seq, 2);
    assert!(long.try_recv().is_err(), "it has ended");
    // What nobody waits for ends, and leaves nothing to be sent.
    drop(long);
    let next = fixture.queue(b"sfour");
    fixture.append().await.send(Word::Pass).unwrap();
    assert_eq!(next.await.unwrap().unwrap().seq, 3);
    assert_eq!(fixture.logged().await, [1, 2, 3]);
}

/// As above, while a commit is under way: what filled behind it follows when it has ended.
#[tokio::test]
async fn what_was_applied_behind_a_commit_does_not_wait_for_a_long_call() {
    let mut fixture = Fixture::warm().await;
    let before = fixture.send(b"stwo");
    let word = fixture.append().await;
    let taken = fixture.context.mail_taken.load(Ordering::Relaxed);
    let (quick, mut long) = (fixture.queue(b"sthree"), fixture.queue(b"lfour"));
    fixture.taken(taken + 2).await;
    word.send(Word::Pass).unwrap();
    assert_eq!(before.await.unwrap().unwrap().seq, 2);
    fixture.append().await.send(Word::Pass).unwrap();
    assert_eq!(quick.await.unwrap().unwrap().seq, 3);
    assert!(long.try_recv().is_err(), "it has ended");
}

/// Each message of a burst would take a commit of its own, and each of them an `fdatasync`.
#[tokio::test]
async fn messages_of_one_turn_share_a_commit() {
    let mut fixture = Fixture::warm().await;
    let answers = [b"stwo", b"ssix", b"sten"].map(|body| fixture.queue(body));
    fixture.append().await.send(Word::Pass).unwrap();
    for (answer, seq) in answers.into_iter().zip(2..) {
        assert_eq!(answer.await.unwrap().unwrap().seq, seq);
    }
    assert!(fixture.appends.try_recv().is_err());
}

/// The deployment that the first message switches its slot to would take a commit before the message's.
#[tokio::test]
async fn a_message_that_waits_for_its_plugin_takes_one_commit() {
    let (mut fixture, source) = Fixture::over_source(Duration::from_secs(20));
    let first = fixture.send(b"sone");
    while source.asked.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    assert!(fixture.appends.try_recv().is_err(), "nobody came before it");
    source.given.send_replace(Some(Ok(testkit::guest().into())));
    fixture.append().await.send(Word::Pass).unwrap();
    assert_eq!(timeout(TEST_TIMEOUT, first).await.unwrap().unwrap().unwrap().seq, 1);
    assert!(fixture.appends.try_recv().is_err());
}
