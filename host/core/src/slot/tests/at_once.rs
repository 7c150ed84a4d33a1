//! Mail that is taken where it comes in, and what several do who bring some at the same time.

use super::*;
use crate::slot::shared::Put;
use std::collections::VecDeque;

/// A slot over the real log, which says itself how commits end.
fn over_the_log(fixture: &Fixture, slot: SlotId) -> SlotHandle {
    let context = fixture.context_over(fixture.data.log(), fixture.context.level.clone());
    SlotHandle::spawn(slot, TaskLock::default(), Arc::new(context))
}

type Answer = oneshot::Receiver<Result<Sent, Error>>;

fn message(session: &SessionKey, body: impl Into<Bytes>) -> (Mail, Answer) {
    message_under(None, session, body)
}

/// What all of this is for: a message would wake the slot's task, wait for it, and be answered
/// by it.
#[tokio::test]
async fn a_message_is_applied_where_it_comes_in() {
    let mut fixture = Fixture::new().await;
    // Opened, and with its plugin loaded.
    let first = fixture.send(b"sone");
    fixture.append().await.send(Word::Pass).unwrap();
    first.await.unwrap().unwrap();
    fixture.describe().await.unwrap().unwrap();
    // Nothing is waited for between these two.
    let second = fixture.send(b"stwo");
    let word = fixture.appends.try_recv().expect("it is on its way to the log");
    word.send(Word::Pass).unwrap();
    assert_eq!(second.await.unwrap().unwrap().seq, 2);
}

/// A wake-up is a switch to another thread, and most of what a mailbox costs: on a free slot its task is woken
/// neither for a message nor for its commit.
#[tokio::test]
async fn a_message_on_a_free_slot_does_not_wake_the_slots_task() {
    let mut fixture = Fixture::new().await;
    fixture.pass_all();
    fixture.send(b"sone").await.unwrap().unwrap();
    // Until it has nothing left to do.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let turns = |fixture: &Fixture| fixture.slot.stats.turns.load(Ordering::Relaxed);
    let before = turns(&fixture);
    for _ in 0..10 {
        fixture.send(b"stwo").await.unwrap().unwrap();
    }
    assert_eq!(turns(&fixture), before);
    let (mail, answer) = message(&key(), "sthree");
    assert!(matches!(fixture.slot.mailbox().try_queue(mail), Ok(Ok(()))));
    assert_eq!(answer.await.unwrap().unwrap().seq, 12);
    assert!(turns(&fixture) > before, "one that is queued is the task's");
}

/// Has a slot take what it can of this mail at once, however slow the machine is; gives the answers of what it took.
fn put_ready(mailbox: &Mailbox, mail: &mut VecDeque<&str>) -> Vec<Answer> {
    let mut answers = Vec::new();
    mailbox.0.put_ready(Instant::now() + TEST_TIMEOUT, || {
        let (mail, answer) = message(&key(), mail.pop_front()?.to_owned());
        answers.push(answer);
        Some(mail)
    });
    answers
}

/// A client that sends many at once would wait for a commit of the first alone, and pay for each what is
/// around a handler.
#[tokio::test]
async fn messages_that_come_together_share_a_commit() {
    let mut fixture = Fixture::warm().await;
    let mut mail = VecDeque::from(["stwo", "sthree", "sfour"]);
    let answers = put_ready(fixture.slot.mailbox(), &mut mail);
    assert_eq!((answers.len(), mail.len()), (3, 0));
    let word = fixture.appends.try_recv().expect("they are on their way to the log");
    word.send(Word::Pass).unwrap();
    for (answer, seq) in answers.into_iter().zip(2..) {
        assert_eq!(answer.await.unwrap().unwrap().seq, seq);
    }
    assert!(fixture.appends.try_recv().is_err());
    assert_eq!(fixture.logged().await, [1, 2, 3, 4]);
}

/// The log would have nothing to do until the last of many is applied.
#[tokio::test]
async fn the_first_of_many_messages_do_not_wait_for_the_last() {
    let mut fixture = Fixture::warm().await;
    let mut mail: VecDeque<_> = std::iter::repeat_n("smany", 40).collect();
    let mut answers = put_ready(fixture.slot.mailbox(), &mut mail);
    assert_eq!((answers.len(), mail.len()), (40, 0));
    let mut last = answers.pop().unwrap();
    let mut answers = answers.into_iter().zip(2..);
    fixture.append().await.send(Word::Pass).unwrap();
    let (first, seq) = answers.next().unwrap();
    assert_eq!(first.await.unwrap().unwrap().seq, seq);
    assert!(last.try_recv().is_err(), "it was in the same batch");
    fixture.pass_all();
    for (answer, seq) in answers {
        assert_eq!(answer.await.unwrap().unwrap().seq, seq);
    }
    assert_eq!(last.await.unwrap().unwrap().seq, 41);
}

/// Those behind would have the thread of other connections, however long their handlers take.
#[tokio::test]
async fn messages_that_come_together_leave_the_thread_after_a_while() {
    let mut fixture = Fixture::warm().await;
    let mut answers = Vec::new();
    fixture.slot.mailbox().0.put_ready(Instant::now(), || {
        let (mail, answer) = message(&key(), "sslow");
        answers.push(answer);
        Some(mail)
    });
    assert_eq!(answers.len(), 1);
    fixture.pass_all();
    answers.pop().unwrap().await.unwrap().unwrap();
}

/// Whoever has sent nothing but one message would wait for all of somebody else's.
#[tokio::test]
async fn whoever_waits_comes_before_the_rest_of_what_came_together() {
    let mut fixture = Fixture::warm().await;
    let mut mail = VecDeque::from(["stwo", "sfour", "sfive"]);
    let (mailbox, mut other, mut answers) = (fixture.slot.mailbox(), None, Vec::new());
    mailbox.0.put_ready(Instant::now() + TEST_TIMEOUT, || {
        if other.is_none() {
            let (mail, answer) = message(&key(), "sthree");
            assert!(matches!(mailbox.try_mail(mail, || {}), Ok(Ok(()))));
            other = Some(answer);
        }
        let (mail, answer) = message(&key(), mail.pop_front()?);
        answers.push(answer);
        Some(mail)
    });
    assert_eq!((answers.len(), mail.len()), (1, 2));
    assert!(put_ready(mailbox, &mut mail).is_empty(), "it is the slot's task's turn");
    fixture.pass_all();
    assert_eq!(answers.pop().unwrap().await.unwrap().unwrap().seq, 2);
    assert_eq!(other.unwrap().await.unwrap().unwrap().seq, 3);
}

/// The quick ones before a long call would be answered after it.
#[tokio::test]
async fn messages_that_come_together_do_not_wait_for_a_long_one_among_them() {
    let mut fixture = Fixture::warm().await;
    let mut mail = VecDeque::from(["stwo", "lthree", "sfour"]);
    let mut answers = put_ready(fixture.slot.mailbox(), &mut mail);
    assert_eq!((answers.len(), mail.len()), (2, 1));
    let word = fixture.appends.try_recv().expect("it is on its way to the log");
    let mut long = answers.pop().unwrap();
    word.send(Word::Pass).unwrap();
    assert_eq!(answers.pop().unwrap().await.unwrap().unwrap().seq, 2);
    assert!(long.try_recv().is_err(), "it has ended");
}

/// Those behind it would be applied before one that has to wait, or take the state from who has it.
#[tokio::test]
async fn messages_that_come_together_stop_at_one_that_waits() {
    let (fixture, source) = Fixture::over_source(Duration::from_secs(20));
    let slot = over_the_log(&fixture, SLOT + 1);
    let (mail, opened) = {
        let (reply, answer) = oneshot::channel();
        (Describe { key: key(), consistency: Consistency::Local }.mail(reply), answer)
    };
    assert!(matches!(slot.mailbox().0.put(mail, || {}), Put::Done));
    drop(timeout(TEST_TIMEOUT, opened).await.unwrap());
    // Until the task has given the state back.
    let mut mail = VecDeque::from(["sone", "stwo"]);
    let mut answers = Vec::new();
    while answers.is_empty() {
        tokio::task::yield_now().await;
        answers = put_ready(slot.mailbox(), &mut mail);
    }
    assert_eq!((answers.len(), mail.len()), (1, 1), "the plugin of the first has to be fetched");
    assert!(put_ready(slot.mailbox(), &mut mail).is_empty(), "somebody has the slot");
    let (second, after) = message(&key(), "stwo");
    assert!(matches!(slot.mailbox().0.put(second, || {}), Put::Done));
    source.given.send_replace(Some(Ok(testkit::guest().into())));
    answers.push(after);
    for (answer, seq) in answers.into_iter().zip(1..) {
        let sent = timeout(TEST_TIMEOUT, answer).await.unwrap().unwrap().unwrap();
        assert_eq!(sent.seq, seq);
    }
}

/// One that overtakes another of its sender, is applied twice or not at all would be seen as lost or out
/// of order; so would a slot that nobody looks after any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn messages_of_each_sender_keep_their_order() {
    const SENDERS: u64 = 8;
    const MESSAGES: u64 = 200;
    let fixture = Fixture::new().await;
    let slot = over_the_log(&fixture, SLOT + 1);
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..SENDERS {
        let mailbox = slot.mailbox().clone();
        senders.spawn(async move {
            let session = SessionKey::parse("s", &format!("of-{}", sender % 2)).unwrap();
            let mut answers = Vec::new();
            let mut numbers = (0..MESSAGES).peekable();
            while let Some(n) = numbers.next() {
                // Half of them bring several at once, as far as the slot takes them.
                let mut burst = if sender < SENDERS / 2 { 0..5 } else { 0..0 };
                mailbox.take_ready(|| {
                    burst.next()?;
                    let n = numbers.next_if(|next| *next < MESSAGES - 1)?;
                    let (mail, answer) = message(&session, format!("m{sender}-{n}"));
                    answers.push(answer);
                    Some(mail)
                });
                loop {
                    let (mail, answer) = message(&session, format!("m{sender}-{n}"));
                    match mailbox.0.put(mail, || {}) {
                        Put::Done => break answers.push(answer),
                        Put::Full(_) => tokio::task::yield_now().await,
                        Put::Closed(_) => panic!("the slot ended"),
                    }
                }
            }
            let mut seqs = Vec::new();
            for answer in answers {
                seqs.push(answer.await.unwrap().unwrap().seq);
            }
            assert!(seqs.is_sorted(), "{seqs:?}");
            (sender % 2, seqs)
        });
    }
    let mut all = [Vec::new(), Vec::new()];
    let ended = async {
        while let Some(sent) = senders.join_next().await {
            let (session, seqs) = sent.unwrap();
            all[session as usize].extend(seqs);
        }
    };
    timeout(Duration::from_secs(60), ended).await.expect("somebody waits for ever");
    for mut seqs in all {
        seqs.sort_unstable();
        assert!(seqs.into_iter().eq(1..=MESSAGES * SENDERS / 2), "one is missing or doubled");
    }
    assert_eq!(slot.mailbox_depth(), 0);
}

/// Who goes away while a handler computes would take the slot's state with it.
#[tokio::test]
async fn a_sender_that_goes_away_leaves_the_slot_whole() {
    let (fixture, source) = Fixture::over_source(Duration::from_secs(20));
    let slot = over_the_log(&fixture, SLOT + 1);
    let (mail, answer) = message(&key(), "sone");
    assert!(matches!(slot.mailbox().0.put(mail, || {}), Put::Done));
    while source.asked.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    drop(answer);
    source.given.send_replace(Some(Ok(testkit::guest().into())));
    let (mail, answer) = message(&key(), "stwo");
    assert!(matches!(slot.mailbox().0.put(mail, || {}), Put::Done));
    let sent = timeout(TEST_TIMEOUT, answer).await.unwrap().unwrap().unwrap();
    assert_eq!(sent.seq, 1, "nothing is kept of what nobody waited for");
}

/// A panic on a connection's task must end the slot, which begins again from its log, and nothing
/// else: half of what it did may stand in the state.
#[tokio::test]
async fn a_panic_where_a_message_comes_in_ends_the_slot() {
    let mut fixture = Fixture::new().await;
    let first = fixture.send(b"sone");
    fixture.append().await.send(Word::Pass).unwrap();
    first.await.unwrap().unwrap();
    let session = SessionKey::parse("s", faulty::PANICS).unwrap();
    let (mail, answer) = message(&session, "sone");
    assert!(matches!(fixture.slot.mailbox().0.put(mail, || {}), Put::Done));
    assert!(answer.await.is_err(), "no server answers");
    drop(timeout(TEST_TIMEOUT, fixture.task_lock.lock()).await.expect("the state is still there"));
    assert!(fixture.slot.is_closed());
    fixture.slot = SlotHandle::spawn(SLOT, fixture.task_lock.clone(), fixture.context.clone());
    let again = fixture.send(b"stwo");
    fixture.append().await.send(Word::Pass).unwrap();
    assert_eq!(again.await.unwrap().unwrap().seq, 2);
}

/// The session's cached state has a message whose commit failed a moment ago, in the middle of what the slot's
/// task takes in one go: a repeat of it would be acknowledged, and is in no log.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_repeat_behind_a_failed_commit_is_refused() {
    let mut fixture = Fixture::new().await;
    let first = fixture.send(b"sone");
    fixture.append().await.send(Word::Pass).unwrap();
    first.await.unwrap().unwrap();
    let lost = fixture.send_under(Some("k"), b"stwo");
    let word = fixture.append().await;
    let (ended, mailbox) = (fixture.ended.clone(), fixture.slot.mailbox().clone());
    *fixture.at_read.lock() = Some(Box::new(move || {
        // What this worker had next, the append among it, is done by another.
        tokio::task::block_in_place(|| {
            let until = Instant::now() + TEST_TIMEOUT;
            while mailbox.0.mailbox_depth() == 0 && Instant::now() < until {
                std::thread::yield_now();
            }
            // From another thread: what this one wakes may have to wait for it.
            std::thread::spawn(move || word.send(Word::Refuse)).join().unwrap().unwrap();
            while ended.load(Ordering::Acquire) < 2 && Instant::now() < until {
                std::thread::yield_now();
            }
        });
    }));
    let waits = SessionKey::parse("s", faulty::WAITS).unwrap();
    let (mail, before) = message(&waits, "sone");
    assert!(matches!(fixture.slot.mailbox().try_queue(mail), Ok(Ok(()))));
    let (mail, repeat) = message_under(Some("k"), &key(), "stwo");
    assert!(matches!(fixture.slot.mailbox().try_queue(mail), Ok(Ok(()))));
    assert!(timeout(TEST_TIMEOUT, lost).await.unwrap().unwrap().is_err());
    // In the mailbox when the slot ended: the next task may have it.
    assert!(!matches!(timeout(TEST_TIMEOUT, repeat).await.unwrap(), Ok(Ok(_))));
    assert!(!matches!(timeout(TEST_TIMEOUT, before).await.unwrap(), Ok(Ok(_))));
}
