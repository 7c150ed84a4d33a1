//! The log engine's quorum, lost and found again while clients are at work.

use anyhow::{Context, ensure};
use slotd_tests::{
    api::{Api, Message, Reply},
    cluster::{Cluster, ClusterOptions},
    http::Client,
    node::{eventually, scenario},
    plugins,
    replayed::cluster_comes_out_again,
};
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    time::{Duration, Instant},
};

const SERVICE: &str = "counter";
const CLIENTS: usize = 12;
/// The requests' deadline, and as much as an answer may be late.
const ANSWERED_WITHIN: Duration = Duration::from_secs(15 + 3);
/// How long whether a node lives may take to say.
const HEALTHY_WITHIN: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(100);
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

/// Messages of each client that are answered well before, and after the outage.
const WELL: u64 = 6;

/// A message, by its number in its session, which is in its key, too.
type Number = u64;

fn key(number: Number) -> String {
    format!("k{number}")
}

/// What is seen of one client meanwhile.
#[derive(Default)]
struct Seen {
    acknowledged: AtomicU64,
    refused: AtomicU64,
}

/// What became of one client's messages.
#[derive(Default)]
struct Sent {
    session: String,
    /// Their `seq`.
    acknowledged: BTreeMap<Number, u64>,
    /// The codes of their refusals.
    refused: BTreeMap<Number, String>,
}

/// Sends one message after the other through all nodes in turn, and repeats none.
async fn client(
    session: String,
    apis: &[Api],
    seen: &Seen,
    over: &AtomicBool,
) -> anyhow::Result<Sent> {
    let mut sent = Sent { session, ..Sent::default() };
    for number in 0.. {
        if over.load(SeqCst) {
            break;
        }
        let api = &apis[number as usize % apis.len()];
        let message = Message::bytes("1").key(key(number));
        let answer = api.post(SERVICE, &sent.session, message);
        let answer = tokio::time::timeout(ANSWERED_WITHIN, answer).await;
        let answer = answer.with_context(|| format!("not answered in {ANSWERED_WITHIN:?}"))??;
        if answer.status == 200 {
            sent.acknowledged.insert(number, counted(Reply::of(answer)?)?.seq);
            seen.acknowledged.fetch_add(1, SeqCst);
            continue;
        }
        let problem = answer.problem()?;
        let status = match problem.code.as_str() {
            "storage-unavailable" | "unavailable" => 503,
            "outcome-unknown" => 504,
            _ => 0,
        };
        ensure!(problem.status == status, "refused with {problem:?}");
        sent.refused.insert(number, problem.code);
        seen.refused.fetch_add(1, SeqCst);
    }
    Ok(sent)
}

/// Each message counts one: one that was applied twice, or for nothing, shows in all that follow.
fn counted(reply: Reply) -> anyhow::Result<Reply> {
    ensure!(reply.body == reply.seq.to_string().as_bytes(), "{reply:?}");
    Ok(reply)
}

/// Takes two of three servers away for as long as it takes to refuse each client something.
async fn outage(cluster: &Cluster, seen: &[Seen]) -> anyhow::Result<()> {
    let acknowledged = || seen.iter().map(|one| one.acknowledged.load(SeqCst));
    let refused = || seen.iter().map(|one| one.refused.load(SeqCst));
    eventually("all clients are at work", async || {
        Ok(acknowledged().all(|count| count >= WELL).then_some(()))
    })
    .await?;
    ensure!(refused().all(|count| count == 0), "refused while all was well");
    cluster.engine.kill(1)?;
    cluster.engine.kill(2)?;
    let cut = Instant::now();
    let addresses: Vec<_> = cluster.members().iter().map(|member| member.addresses()).collect();
    let listeners = addresses.iter().flat_map(|at| [at.api, at.admin]).map(Client::new);
    let listeners: Vec<_> = listeners.collect();
    while refused().any(|count| count == 0) {
        for listener in &listeners {
            let answer = tokio::time::timeout(HEALTHY_WITHIN, listener.get("/healthz")).await;
            let answer = answer.with_context(|| format!("{} is silent", listener.address()))??;
            ensure!(answer.status == 200, "/healthz says {}", answer.status);
        }
        // Each has a request under way, or one soon.
        ensure!(cut.elapsed() < 2 * ANSWERED_WITHIN, "some are neither answered nor refused");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    println!("all clients were refused something within {:?}", cut.elapsed());
    let before: Vec<_> = acknowledged().collect();
    let healed = Instant::now();
    cluster.engine.launch(1)?;
    cluster.engine.launch(2)?;
    eventually("all clients are served again", async || {
        let again = acknowledged().zip(&before).all(|(now, before)| now >= before + WELL);
        Ok(again.then_some(()))
    })
    .await?;
    println!("all clients were served again {:?} after the servers' start", healed.elapsed());
    Ok(())
}

/// Repeats what was refused, twice each; gives the numbers.
async fn repeat(sent: &Sent, apis: &[Api]) -> anyhow::Result<BTreeMap<Number, u64>> {
    let mut decided = BTreeMap::new();
    for (&number, code) in &sent.refused {
        let message = || Message::bytes("1").key(key(number));
        let apis = [0, 1].map(|more| &apis[(number as usize + more) % apis.len()]);
        let first = counted(apis[0].send(SERVICE, &sent.session, message()).await?)?;
        // That code says that it was not.
        let was_kept = first.replayed && code == "storage-unavailable";
        ensure!(!was_kept, "{} of {} was kept all the same", key(number), sent.session);
        let again = counted(apis[1].send(SERVICE, &sent.session, message()).await?)?;
        let same = (again.seq, &again.body) == (first.seq, &first.body);
        ensure!(same && again.replayed, "first {first:?}, then {again:?}");
        decided.insert(number, first.seq);
    }
    Ok(decided)
}

/// Without it, a cluster whose engine has no quorum for a while might leave its clients without an
/// answer, or with one that is wrong, and might need help to go on.
#[test]
fn a_lost_quorum_is_answered_in_time_and_costs_nothing() {
    scenario(async {
        let cluster = Cluster::start(ClusterOptions::default(), None).await?;
        cluster.member(1)?.admin().deploy(SERVICE, plugins::load("counter")?).await?;
        cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
        let apis: Vec<Api> = cluster.members().iter().map(|member| member.api()).collect();
        let seen: Vec<Seen> = (0..CLIENTS).map(|_| Seen::default()).collect();
        let over = AtomicBool::new(false);
        let clients = seen.iter().enumerate().map(|(at, seen)| {
            let session = format!("q{at}");
            client(session, &apis, seen, &over)
        });
        let (all, ()) = tokio::try_join!(futures_util::future::try_join_all(clients), async {
            outage(&cluster, &seen).await?;
            over.store(true, SeqCst);
            anyhow::Ok(())
        })?;
        let refused: usize = all.iter().map(|sent| sent.refused.len()).sum();
        let repeats = all.iter().map(|sent| repeat(sent, &apis));
        let repeated = futures_util::future::try_join_all(repeats).await?;
        for (sent, decided) in all.iter().zip(repeated) {
            let history = apis[0].whole_history(SERVICE, &sent.session).await?;
            let kept: BTreeMap<String, u64> = history
                .iter()
                .map(|entry| Ok((entry.id.clone().context("without a key")?, entry.seq)))
                .collect::<anyhow::Result<_>>()?;
            let acknowledged = sent.acknowledged.iter().chain(&decided);
            let acknowledged: BTreeMap<String, u64> =
                acknowledged.map(|(n, seq)| (key(*n), *seq)).collect();
            ensure!(
                kept == acknowledged,
                "{}: {kept:?} is kept, told was {acknowledged:?}",
                sent.session
            );
            let seqs = history.iter().map(|entry| entry.seq);
            ensure!(seqs.eq(1..=history.len() as u64), "{} has a gap", sent.session);
            ensure!(history.len() == kept.len(), "{} has a message twice", sent.session);
        }
        println!("{refused} refused messages were repeated");
        cluster_comes_out_again(&cluster, &[SERVICE]).await
    });
}
