//! Messages that are lost, late, or answered with what is not so: each made to happen by a proxy
//! before a real server.

use super::{
    proxy::{Frame, Verdict},
    *,
};
use crate::log::conformance;
use std::future::Future;

/// What a leader says for no reason, or without a quorum.
const SPURIOUS: &str = r#"{"error":{"code":400,"err_code":10164,"description":"wrong last sequence"},"stream":"s","seq":0}"#;

struct Bench {
    /// Through the proxy.
    log: Arc<JetStreamLog>,
    proxy: Proxy,
    /// A node that nothing happens to.
    other: Arc<JetStreamLog>,
    _servers: Arc<Servers>,
}

impl Bench {
    async fn new() -> Self {
        let servers = Servers::shared().await;
        let options = servers.options();
        let (proxy, proxied) = servers.through_proxy(&options).await;
        let other = open(&options).await;
        Self { log: open(&proxied).await, proxy, other, _servers: servers }
    }

    /// Claims, and appends one batch under what `arrange` does to it: it must be stored, once, and
    /// the slot must go on.
    async fn stored_once(&self, slot: SlotId, arrange: impl FnOnce(&Proxy)) {
        let claim = self.log.claim(slot, "a").await.unwrap();
        arrange(&self.proxy);
        let appended = append(slot, claim, claim.position, 1);
        let batch = appended.batch.clone();
        let position = self.log.commit(appended).await.unwrap();
        self.proxy.pass_all();
        self.goes_on(slot, claim, position, batch).await;
    }

    /// The batch stands alone after its claim, as both nodes see it, and one more can follow.
    async fn goes_on(&self, slot: SlotId, claim: Claim, position: Position, batch: Bytes) {
        let next = append(slot, claim, position, 2);
        let expected = next.batch.clone();
        let last = self.log.commit(next).await.unwrap();
        let all = [(position, batch), (last, expected)];
        assert_log(&self.log, slot, claim.position, &all).await;
        assert_log(&self.other, slot, claim.position, &all).await;
    }
}

/// A lost acknowledgement must not become a second copy, nor a failure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_whose_answer_is_lost_is_settled_and_not_doubled() {
    let bench = Bench::new().await;
    bench.stored_once(0, |proxy| proxy.lose_answers_to_appends(1)).await;
    // It is told as the last sequence then, and that it is our own must be found out.
    bench
        .stored_once(1, |proxy| {
            proxy.lose_answers_to_appends(1);
            let mut lost = false;
            proxy.to_client(move |frame| {
                if !lost && frame.body().contains("stream_msg_get_response") {
                    lost = true;
                    return Verdict::Lose;
                }
                Verdict::Pass
            });
        })
        .await;
}

/// The publication itself is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_that_is_lost_is_published_again() {
    let bench = Bench::new().await;
    bench.stored_once(0, |proxy| proxy.to_appends(3, Verdict::Lose)).await;
}

/// JETSTREAM's 10164 says nothing: neither that the batch is stored nor that it is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spurious_conflict_is_survived() {
    let bench = Bench::new().await;
    let spurious = || SPURIOUS.to_owned();
    bench.stored_once(0, |proxy| proxy.to_appends(1, Verdict::Answer(spurious()))).await;
    bench.stored_once(1, |proxy| proxy.to_appends(5, Verdict::Answer(spurious()))).await;
    bench.stored_once(2, |proxy| proxy.to_appends(1, Verdict::PassAndAnswer(spurious()))).await;
    let odd = r#"{"error":{"code":503,"err_code":10077,"description":"no space left"}}"#;
    bench.stored_once(3, |proxy| proxy.to_appends(2, Verdict::Answer(odd.into()))).await;
    bench.stored_once(4, |proxy| proxy.to_appends(1, Verdict::Answer("garbage".into()))).await;
    // The same of a claim.
    bench.proxy.to_appends(1, Verdict::PassAndAnswer(spurious()));
    let claim = bench.log.claim(5, "a").await.unwrap();
    assert_eq!(claim.term, 1);
    bench.proxy.to_appends(1, Verdict::Answer(spurious()));
    assert_eq!(bench.log.claim(5, "a").await.unwrap().term, 2);
}

/// The connection breaks with the append on its way: settled by the next connection, soon.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_on_a_connection_that_breaks_is_settled() {
    let bench = Bench::new().await;
    bench.stored_once(0, |proxy| proxy.to_appends(1, Verdict::PassAndCut)).await;
    let connected = bench.log.shared.nats.connected.clone();
    assert!(*connected.borrow());
}

/// One way only: what we send arrives, and nothing comes back; then the other way round.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_way_loss_is_survived() {
    let bench = Bench::new().await;
    let claim = bench.log.claim(0, "a").await.unwrap();
    bench.proxy.to_client(|frame| match frame.verb.as_str() {
        "MSG" | "HMSG" => Verdict::Lose,
        _ => Verdict::Pass,
    });
    let appended = append(0, claim, claim.position, 1);
    let batch = appended.batch.clone();
    let mut pending = bench.log.commit(appended);
    // Stored, as the other node sees; and still undecided here.
    until(&mut pending, async {
        while bench.other.read(0, claim.position, 1).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    bench.proxy.pass_all();
    let position = pending.await.unwrap();
    bench.goes_on(0, claim, position, batch).await;
    bench
        .stored_once(1, |proxy| {
            let mut lost = 0;
            proxy.to_server(move |frame| {
                lost += usize::from(frame.verb.ends_with("PUB"));
                if frame.verb.ends_with("PUB") && lost < 4 { Verdict::Lose } else { Verdict::Pass }
            });
        })
        .await;
}

/// Drives `pending`, which must not end, until `condition` does.
async fn until<T: std::fmt::Debug>(
    pending: &mut BoxFuture<'static, T>,
    condition: impl Future<Output = ()>,
) {
    tokio::select! {
        ended = pending => panic!("ended: {ended:?}"),
        () = condition => {}
    }
}

/// The first of two publications of a batch comes after the second was stored. Two copies would
/// be two of everything in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_that_comes_late_is_refused() {
    let bench = Bench::new().await;
    bench.stored_once(0, |proxy| proxy.to_appends(1, Verdict::Hold)).await;
    let all = read_all(&*bench.other, 0, 0).await;
    for answer in bench.proxy.release().await {
        assert!(answer.contains("10071"), "{answer}");
    }
    assert_eq!(read_all(&*bench.other, 0, 0).await, all);
}

/// A writer gave up; what it sent arrives after the next owner's claim, and must not be stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abandoned_append_that_surfaces_late_is_excluded() {
    let bench = Bench::new().await;
    let old = bench.log.claim(0, "old").await.unwrap();
    bench.proxy.to_appends(usize::MAX, Verdict::Hold);
    let mut abandoned = bench.log.commit(append(0, old, old.position, 1));
    until(&mut abandoned, bench.proxy.held(1)).await;
    drop(abandoned);
    let new = bench.other.claim(0, "new").await.unwrap();
    assert!(bench.proxy.release().await.iter().all(|answer| answer.contains("10071")));
    let at = bench.other.commit(append(0, new, new.position, 2)).await.unwrap();
    let positions: Vec<_> =
        read_all(&*bench.other, 0, 0).await.iter().map(|logged| logged.position).collect();
    assert_eq!(positions, [old.position, new.position, at]);
    // And its writer can't go on as if it had not been sent.
    bench.proxy.pass_all();
    let again = bench.log.commit(append(0, old, old.position, 3)).await;
    assert!(matches!(again, Err(LogError::Fenced { term, .. }) if term == new.term), "{again:?}");
}

/// It arrives between the claimant's look at the log and its claim: the claim must come after it,
/// or the new owner would not replay it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abandoned_append_that_surfaces_before_the_claim_is_replayed() {
    let bench = Bench::new().await;
    let old = bench.other.claim(0, "old").await.unwrap();
    let abandoned = append(0, old, old.position, 1);
    let batch = abandoned.batch.clone();
    bench.proxy.to_appends(1, Verdict::Hold);
    let mut claim = bench.log.claim(0, "new");
    until(&mut claim, bench.proxy.held(1)).await;
    // The claim has read, and is on its way.
    let at = bench.other.commit(abandoned).await.unwrap();
    let answers = bench.proxy.release().await;
    assert!(answers.iter().all(|answer| answer.contains("10071")), "{answers:?}");
    let claim = claim.await.unwrap();
    assert_eq!(claim.term, old.term + 1);
    let all = read_all(&*bench.log, 0, old.position).await;
    assert_eq!(all[0], Logged { position: at, batch });
    assert_eq!(all[1].position, claim.position);
    assert_eq!(all.len(), 2);
}

/// No read is linearizable: the answer to a claim's look may be an old one. The term that it would
/// mint from it was given already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_on_a_stale_read_is_refused() {
    let bench = Bench::new().await;
    let first = bench.log.claim(0, "first").await.unwrap();
    // The answers of now, to be given again later.
    let recorded = Arc::new(Mutex::new(None));
    let of_now = recorded.clone();
    bench.proxy.to_client(move |frame| {
        if frame.body().contains("stream_msg_get_response") {
            of_now.lock().get_or_insert(frame.body());
        }
        Verdict::Pass
    });
    bench.log.shared.last(0).await.unwrap().unwrap();
    let second = bench.other.claim(0, "second").await.unwrap();
    let last = bench.other.commit(append(0, second, second.position, 1)).await.unwrap();
    let stale = recorded.lock().take().unwrap();
    let answer_stale = |times: usize| {
        let (stale, mut left) = (stale.clone(), times);
        move |frame: &Frame| {
            if left > 0 && frame.is_get() {
                left -= 1;
                return Verdict::Answer(stale.clone());
            }
            Verdict::Pass
        }
    };
    bench.proxy.to_server(answer_stale(1));
    match bench.log.claim(0, "third").await {
        Err(LogError::Fenced { term, position, .. }) => {
            assert_eq!((term, position), (second.term, second.position));
        }
        other => panic!("{other:?} on a read of term {}", first.term),
    }
    // The owner is not disturbed; and a claim that looks again wins.
    let last = bench.other.commit(append(0, second, last, 2)).await.unwrap();
    let third = bench.log.claim(0, "third").await.unwrap();
    assert!(third.term == second.term + 1 && third.position > last);
}

/// A log that lost what it acknowledged must not make its writers try for ever, nor go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_lost_acknowledged_batches_is_told_from_a_stale_leader() {
    let bench = Bench::new().await;
    let behind =
        r#"{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 1"}}"#;
    let other = bench.log.claim(2, "beside").await.unwrap();
    let claim = bench.log.claim(0, "a").await.unwrap();
    let at = bench.log.commit(append(0, claim, claim.position, 1)).await.unwrap();
    assert!(at > 2 && other.position > 0);
    // For a while: a server that was paused, and has not heard of its successor.
    bench.proxy.to_appends(3, Verdict::Answer(behind.into()));
    let at = bench.log.commit(append(0, claim, at, 2)).await.unwrap();
    // For good.
    bench.proxy.to_appends(usize::MAX, Verdict::Answer(behind.into()));
    let lost = bench.log.commit(append(0, claim, at, 3)).await;
    assert!(matches!(lost, Err(LogError::Corrupt(_))), "{lost:?}");
}

/// A server that lacks the newest batches may shorten a page; what this node has written itself it
/// must see, or it would replay less than it acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_here_is_read_here() {
    let bench = Bench::new().await;
    let claim = bench.log.claim(0, "a").await.unwrap();
    let at = bench.log.commit(append(0, claim, claim.position, 1)).await.unwrap();
    let empty = "";
    let mut left = 2;
    bench.proxy.to_server(move |frame| {
        if left > 0 && frame.subject.starts_with("$JS.API.DIRECT.GET.") {
            left -= 1;
            return Verdict::Answer(empty.into());
        }
        Verdict::Pass
    });
    let page = bench.log.read(0, claim.position, 1_000).await.unwrap();
    assert_eq!(page.iter().map(|logged| logged.position).collect::<Vec<_>>(), [at]);
}

/// The whole suite once more, on a network that loses publications and answers, and breaks the
/// connection now and then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_conforms_on_a_bad_network() {
    let bench = Bench::new().await;
    let mut sent = 0;
    bench.proxy.to_server(move |frame| {
        if !frame.verb.ends_with("PUB") {
            return Verdict::Pass;
        }
        sent += 1;
        match sent {
            n if n % 301 == 0 => Verdict::PassAndCut,
            n if n % 41 == 0 => Verdict::Lose,
            _ => Verdict::Pass,
        }
    });
    let mut answered = 0;
    bench.proxy.to_client(move |frame| {
        answered += usize::from(frame.verb.ends_with("MSG"));
        if frame.verb == "MSG" && answered % 37 == 0 { Verdict::Lose } else { Verdict::Pass }
    });
    conformance::between(bench.log.clone(), bench.other.clone(), 0).await;
}
