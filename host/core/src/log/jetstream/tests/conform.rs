//! What every log must do, on JetStream, by one node and by two.

use super::*;
use crate::log::conformance;

/// Slots run on this log as on the embedded one; both must fence alike, whichever node writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_on_jetstream_conforms() {
    let servers = Servers::shared().await;
    let options = servers.options();
    let one = open(&options).await;
    conformance::all(one.clone(), 0).await;
    let other = open(&options).await;
    conformance::between(one, other, 32).await;
}

/// Without it the new owner of a slot would read the log again for a claim that it wrote itself,
/// while nobody serves the slot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_says_whether_it_follows_what_was_told() {
    let servers = Servers::shared().await;
    let options = servers.options();
    let (log, other) = (open(&options).await, open(&options).await);
    let old = log.claim(3, "old").await.unwrap();
    let at = log.commit(super::append(3, old, old.position, 1)).await.unwrap();
    let stale = Last { term: old.term, position: old.position };
    let (second, follows) = other.claim_after(3, "second", stale).await.unwrap();
    assert!(second.position > at && !follows, "a batch stands between");
    let last = Last { term: second.term, position: second.position };
    let (third, follows) = log.claim_after(3, "third", last).await.unwrap();
    assert!(third.term == second.term + 1 && follows);
}

/// The largest batch that any configuration allows must go in, come back, and be found again
/// when its acknowledgement is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_batch_goes_in_and_comes_back() {
    let servers = Servers::shared().await;
    let options = servers.options();
    let (proxy, proxied) = servers.through_proxy(&options).await;
    let log = open(&proxied).await;
    let claim = log.claim(0, "a").await.unwrap();
    let batch = sized(0, claim.term, batch_bytes_max(limits::BODY_BYTES_MAX));
    proxy.lose_answers_to_appends(1);
    let append = Append { slot: 0, term: claim.term, after: claim.position, batch: batch.clone() };
    let position = log.commit(append).await.unwrap();
    assert_log(&log, 0, claim.position, &[(position, batch)]).await;
    // What is larger is refused before it is sent, and the slot goes on.
    let batch = sized(0, claim.term, limits::NATS_LOCAL_PAYLOAD_BYTES + 1_024);
    let append = Append { slot: 0, term: claim.term, after: position, batch };
    let refused = log.commit(append).await;
    assert!(matches!(refused, Err(LogError::Unavailable(_))), "{refused:?}");
    log.commit(super::append(0, claim, position, 3)).await.unwrap();
}

fn sized(slot: SlotId, term: Term, bytes: usize) -> Bytes {
    let records = vec![record::Record::Claim { node: "x".repeat(bytes - 64) }];
    record::Batch { slot, term, attempt: 7, records }.encode().unwrap()
}

/// Pages of a slot that shares its stream with others, at every size of page.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_any_size_join_without_a_gap() {
    let servers = Servers::shared().await;
    let log = open(&servers.options()).await;
    let mut written = Vec::new();
    let (own, other) = (log.claim(0, "a").await.unwrap(), log.claim(2, "a").await.unwrap());
    let (mut at, mut beside) = (own.position, other.position);
    for number in 0..40 {
        let append = append(0, own, at, number);
        let batch = append.batch.clone();
        at = log.commit(append).await.unwrap();
        written.push((at, batch));
        beside = log.commit(super::append(2, other, beside, number)).await.unwrap();
    }
    for bytes_max in [1, 50, 300, 100_000] {
        let (mut after, mut read) = (own.position, Vec::new());
        loop {
            let page = log.read(0, after, bytes_max).await.unwrap();
            let Some(last) = page.last() else { break };
            after = last.position;
            read.extend(page.into_iter().map(|logged| (logged.position, logged.batch)));
        }
        assert_eq!(read, written, "pages of {bytes_max} bytes");
    }
    let middle = log.read(0, written[3].0 - 1, 1).await;
    assert!(matches!(middle, Err(LogError::Corrupt(_))), "not a position of the slot: {middle:?}");
}
