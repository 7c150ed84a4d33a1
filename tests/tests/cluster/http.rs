//! Requests over HTTP, over kills, moves and swaps.

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use slotd_tests::{
    api::Event,
    cluster::{Cluster, ClusterOptions},
    node::{eventually, scenario},
    outside::{self, Outside},
    plugins,
    replayed::cluster_comes_out_again,
    requests::{self, RESTARTED, Request, TOKEN},
};
use std::time::Duration;

const SERVICE: &str = "kitchen-sink";
const SESSIONS: u64 = 16;
/// Requests that each session makes.
const EACH: u64 = 8;
const TOKENS: u64 = 60;
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// For something that must come.
const SOON: Duration = Duration::from_secs(60);

async fn cluster(outside: &Outside) -> anyhow::Result<Cluster> {
    let env = vec![("SLOTD_EFFECTS_HTTP".to_owned(), outside.rule(SERVICE))];
    let cluster = Cluster::start(ClusterOptions { env, ..ClusterOptions::default() }, None).await?;
    cluster.member(1)?.admin().deploy(SERVICE, plugins::load(SERVICE)?).await?;
    cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
    Ok(cluster)
}

/// A request that is lost with the owner of its session, or answered by the owner before and the one after it; a
/// stream that both write into.
#[test]
fn requests_are_answered_once_over_kills_moves_and_swaps() {
    scenario(async {
        let outside = Outside::start().await?;
        let cluster = cluster(&outside).await?;
        let first = cluster.member(1)?;
        let api = first.api();
        let asking = try_join_all((0..SESSIONS).map(|session| {
            let (api, outside) = (api.clone(), &outside);
            async move {
                let (session, mut asked) = (format!("s{session}"), Vec::new());
                for number in 0..EACH {
                    let id = format!("r{number}");
                    let request = match number % 4 {
                        0 => {
                            let path = format!("/stream?tokens={TOKENS}&every_ms=20");
                            Request::stream(id, outside.url(&path), TOKENS)
                        }
                        1 => Request::get(id, outside.url("/status/503-then-200?times=1")),
                        // Under way until all faults are over.
                        2 => Request::get(id, outside.url("/hold")),
                        _ => Request::get(id, outside.url("/echo")),
                    };
                    let request = request.with("attempts", 20);
                    asked.push(requests::ask(&api, SERVICE, &session, &request).await?);
                }
                anyhow::Ok(asked)
            }
        }));
        // Meanwhile their owners go and come, and the version changes.
        let faults = async {
            let held = || outside.attempts_at("/hold").len();
            eventually("requests are under way", async || {
                Ok((held() >= SESSIONS as usize / 2).then_some(()))
            })
            .await?;
            let second = cluster.member(2)?;
            second.node.lock().await.kill()?;
            first.admin().deploy_as(SERVICE, plugins::load(SERVICE)?, "9.9.9").await?;
            cluster.restart(&second).await?;
            cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
            cluster.drain(3).await?;
            outside.release();
            anyhow::Ok(())
        };
        let (asked, faults) = tokio::join!(asking, faults);
        faults?;
        let asked = asked?;
        let (held, times) = (asked.concat().len() / 4, outside.attempts_at("/hold").len());
        ensure!(times > held, "{held} requests were under way, and none was made again");
        requests::all_answered(&api, SERVICE, &asked.concat(), || outside.attempts()).await?;
        cluster_comes_out_again(&cluster, &[SERVICE]).await
    });
}

/// A reader at another node would miss what comes while the session's owner changes.
#[test]
fn a_reader_of_a_stream_misses_nothing_while_its_owner_leaves() {
    scenario(async {
        let outside = Outside::start().await?;
        let cluster = cluster(&outside).await?;
        let first = cluster.member(1)?;
        let api = first.api();
        // Of a session that another node has, which leaves.
        let slots = first.admin().slots().await?;
        let mut found = None;
        for number in 0.. {
            let session = format!("s{number}");
            let slot = api.send(SERVICE, &session, context()).await?.slot;
            let owner = slots.iter().find(|it| it.slot == slot).context("no such slot")?;
            let mut members = cluster.members().into_iter().filter(|it| it.number != 1);
            if let Some(member) = members.find(|it| owner.owner == it.name) {
                found = Some((session, member.number));
                break;
            }
            ensure!(number < 1_000, "one node has all sessions: {slots:?}");
        }
        let (session, owner) = found.context("no session of another node")?;
        let mut stream = api.events(SERVICE, &session, Some(0), None).await?;
        let path = format!("/stream?tokens={TOKENS}&every_ms=5&hold_after=20");
        let request = Request::stream("llm", outside.url(&path), TOKENS).with("attempts", 20);
        let asked = requests::ask(&api, SERVICE, &session, &request).await?;
        eventually("it is under way", async || Ok((outside.attempts().len() == 1).then_some(())))
            .await?;

        let (mut ids, mut text, mut restarts) = (Vec::new(), String::new(), 0);
        let mut left = false;
        loop {
            if !left && text == outside::text(20) {
                left = true;
                cluster.drain(owner).await?;
                eventually("the new owner asks again", async || {
                    Ok((outside.attempts().len() >= 2).then_some(()))
                })
                .await?;
                outside.release();
            }
            let next = tokio::time::timeout(SOON, stream.next()).await.context("no event")?;
            let Ok(Some(event)) = next else {
                // A move may end a stream; a client connects again.
                let last: Option<&String> = ids.last();
                let (after, last) = (last.is_none().then_some(0), last.map(String::as_str));
                stream = eventually("the stream goes on", async || {
                    Ok(api.events(SERVICE, &session, after, last).await.ok())
                })
                .await?;
                continue;
            };
            let Some(id) = event.id.clone() else { continue };
            ensure!(!ids.contains(&id), "{id} has come twice");
            ids.push(id);
            let body: Event = event.json()?;
            match body.kind.as_str() {
                TOKEN => text += body.body.as_ref().and_then(|it| it.as_str()).unwrap_or_default(),
                RESTARTED => (text, restarts) = (String::new(), restarts + 1),
                "answered" => break,
                other => anyhow::bail!("an event {other}"),
            }
        }
        ensure!(text == outside::text(TOKENS) && restarts >= 1, "{restarts} restarts: {text:?}");
        requests::all_answered(&api, SERVICE, &[asked], || outside.attempts()).await?;
        cluster_comes_out_again(&cluster, &[SERVICE]).await
    });
}

fn context() -> slotd_tests::api::Message {
    slotd_tests::api::Message::json(&serde_json::json!({"op": "context"}))
}
