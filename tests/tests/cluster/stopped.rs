//! A node that stands still, and the others' messages.

use anyhow::{Context, ensure};
use slotd_tests::{
    api::{Api, Message},
    cluster::{Cluster, ClusterOptions, Own},
    node::scenario,
    plugins,
    replayed::cluster_comes_out_again,
    stuck::Stuck,
};
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    time::{Duration, Instant},
};

const SERVICE: &str = "counter";
const SESSIONS: usize = 96;
/// For messages that the stopped node has no part in.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);
/// Such messages that are answered before the others know that it is stopped, and how many at a
/// time.
const UNNOTICED: usize = 24;
const AT_A_TIME: usize = 4;
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

/// A session and how many messages of it are acknowledged.
struct Session {
    name: String,
    acknowledged: AtomicU64,
}

impl Session {
    /// Sends a message, which must be answered and be the next one: none is lost, none doubled.
    async fn send(&self, api: &Api) -> anyhow::Result<()> {
        let reply = api.send(SERVICE, &self.name, Message::bytes("1")).await?;
        let expected = self.acknowledged.fetch_add(1, SeqCst) + 1;
        ensure!(reply.seq == expected, "{} is at {}, not {expected}", self.name, reply.seq);
        ensure!(reply.body == expected.to_string().as_bytes(), "{reply:?}");
        Ok(())
    }
}

/// Sessions by the node that has their slots.
async fn sessions(cluster: &Cluster) -> anyhow::Result<BTreeMap<String, Vec<Session>>> {
    let first = cluster.member(1)?;
    let slots = first.admin().slots().await?;
    let owners: BTreeMap<u16, String> =
        slots.into_iter().map(|slot| (slot.slot, slot.owner)).collect();
    let mut sessions: BTreeMap<String, Vec<Session>> = BTreeMap::new();
    for number in 0..SESSIONS {
        let name = format!("s{number}");
        let slot = first.api().send(SERVICE, &name, Message::bytes("1")).await?.slot;
        let owner = owners.get(&slot).context("a slot without an owner")?;
        let session = Session { name, acknowledged: AtomicU64::new(1) };
        sessions.entry(owner.clone()).or_default().push(session);
    }
    Ok(sessions)
}

/// Sends messages to some sessions in turn, each of which must be answered soon, as long as `more`
/// says so.
async fn send_while(
    api: &Api,
    sessions: &[&Session],
    more: impl Fn(usize) -> bool,
) -> anyhow::Result<Duration> {
    let mut slowest = Duration::ZERO;
    for number in (0..).take_while(|&number| more(number)) {
        let session = sessions[number % sessions.len()];
        let asked = Instant::now();
        let sent = tokio::time::timeout(ANSWERED_WITHIN, session.send(api)).await;
        sent.with_context(|| format!("{} is not answered", session.name))??;
        slowest = slowest.max(asked.elapsed());
    }
    Ok(slowest)
}

/// As [`send_while`], some at a time, each to sessions of its own.
async fn all_send_while(
    api: &Api,
    sessions: &[&Session],
    more: impl Fn(usize) -> bool,
) -> anyhow::Result<Duration> {
    let shares = sessions.chunks(sessions.len().div_ceil(AT_A_TIME));
    let sends = shares.map(|share| send_while(api, share, &more));
    let slowest = futures_util::future::try_join_all(sends).await?;
    Ok(slowest.into_iter().max().unwrap_or_default())
}

/// Without it, one node that stands still could hold up the messages of all others: those that come
/// in at a node which has forwarded something to it, or those that come while it is given up.
#[test]
fn a_node_that_stands_still_holds_up_nobody_else() {
    scenario(async {
        let cluster = Cluster::start(ClusterOptions::default(), None).await?;
        let (through, stopped) = (cluster.member(1)?, cluster.member(3)?);
        through.admin().deploy(SERVICE, plugins::load("counter")?).await?;
        cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
        let mut sessions = sessions(&cluster).await?;
        let its = sessions.remove(&stopped.name).context("node 3 has no session")?;
        let others: Vec<&Session> = sessions.values().flatten().collect();
        ensure!(sessions.len() == 2, "a node has no session");
        let api = through.api();

        stopped.node.lock().await.pause()?;
        let since = Instant::now();
        let answered = AtomicUsize::new(0);
        // All at once: what waits for it is many, and in its link's queue.
        let waiting = its.iter().map(async |session| {
            session.send(&api).await?;
            answered.fetch_add(1, SeqCst);
            anyhow::Ok(())
        });
        let unharmed = async {
            let share = UNNOTICED / AT_A_TIME;
            let slowest = all_send_while(&api, &others, |number| number < share).await?;
            let (took, answered_yet) = (since.elapsed(), answered.load(SeqCst));
            let lost = through.admin().metric("slotd_nodes_lost_total", "").await?;
            ensure!(lost == 0.0, "too slow: it is missed before {UNNOTICED} are sent ({took:?})");
            ensure!(answered_yet == 0, "a node that is stopped has answered {answered_yet}");
            println!("{UNNOTICED} others are answered in {took:?}, the slowest in {slowest:?}");
            // And while its slots are taken over.
            let slowest =
                all_send_while(&api, &others, |_| answered.load(SeqCst) < its.len()).await?;
            println!("its own are answered after {:?}, others in {slowest:?}", since.elapsed());
            anyhow::Ok(())
        };
        tokio::try_join!(futures_util::future::try_join_all(waiting), unharmed)?;

        stopped.node.lock().await.resume()?;
        cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
        all_go_on(&cluster, &its, &others).await
    });
}

/// Without it, a node whose serving threads hang (on a log that nobody reads, a disk that does not
/// answer) would stay a member, and keep slots that nobody can reach.
#[test]
fn a_node_whose_serving_threads_hang_loses_its_slots_and_ends() {
    scenario(async {
        let stall = Own { env: vec![("SLOTD_STALL_LIMIT".into(), "20s".into())], ..Own::default() };
        let own = BTreeMap::from([(3, stall)]);
        let cluster =
            Cluster::start(ClusterOptions { own, ..ClusterOptions::default() }, None).await?;
        let (through, hung) = (cluster.member(1)?, cluster.member(3)?);
        through.admin().deploy(SERVICE, plugins::load("counter")?).await?;
        cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
        let mut sessions = sessions(&cluster).await?;
        let its = sessions.remove(&hung.name).context("node 3 has no session")?;
        let others: Vec<&Session> = sessions.values().flatten().collect();
        let api = through.api();

        let pid = hung.node.lock().await.pid().context("node 3 does not run")?;
        let stuck = Stuck::threads(pid, "slotd-worker")?;
        let since = Instant::now();
        let waiting = its.iter().map(|session| session.send(&api));
        futures_util::future::try_join_all(waiting).await?;
        println!("its own are answered after {:?}", since.elapsed());
        // Its probe has threads of its own, and tells the truth about the others.
        let probe = hung.admin().client.get("/healthz").await?;
        ensure!(probe.status == 503, "the probe says {}", probe.status);
        ensure!(probe.text().contains("stalled"), "{}", probe.text());
        let status = hung.node.lock().await.wait_exit().await?;
        ensure!(status.code() == Some(70), "it ended with {status}");
        println!("it ended itself after {:?}", since.elapsed());
        drop(stuck);

        hung.node.lock().await.restart().await?;
        cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
        all_go_on(&cluster, &its, &others).await
    });
}

/// Without it, what waits for a node that stands still for a moment, and that nobody has missed,
/// could be lost or be carried out twice when it goes on.
#[test]
fn what_waits_for_a_short_pause_is_answered_after_it() {
    scenario(async {
        let cluster = Cluster::start(ClusterOptions::default(), None).await?;
        let (through, stopped) = (cluster.member(1)?, cluster.member(3)?);
        through.admin().deploy(SERVICE, plugins::load("counter")?).await?;
        cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
        let mut sessions = sessions(&cluster).await?;
        let its = sessions.remove(&stopped.name).context("node 3 has no session")?;
        let others: Vec<&Session> = sessions.values().flatten().collect();
        let api = through.api();
        for _ in 0..3 {
            stopped.node.lock().await.pause()?;
            let answered = AtomicUsize::new(0);
            let waiting = its.iter().map(async |session| {
                session.send(&api).await?;
                answered.fetch_add(1, SeqCst);
                anyhow::Ok(())
            });
            let meanwhile = async {
                all_send_while(&api, &others, |number| number < 5).await?;
                ensure!(answered.load(SeqCst) == 0, "a node that is stopped has answered");
                stopped.node.lock().await.resume()
            };
            tokio::try_join!(futures_util::future::try_join_all(waiting), meanwhile)?;
        }
        cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
        all_go_on(&cluster, &its, &others).await
    });
}

/// Every session goes on where it was, through every node, and is what its messages give.
async fn all_go_on(cluster: &Cluster, its: &[Session], others: &[&Session]) -> anyhow::Result<()> {
    for member in cluster.members() {
        for session in its.iter().chain(others.iter().copied()) {
            session.send(&member.api()).await?;
        }
    }
    cluster_comes_out_again(cluster, &[SERVICE]).await
}
