//! Timers over kills, moves and swaps.

use anyhow::{Context, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use slotd_tests::{
    api::{Api, Message},
    cluster::{Cluster, ClusterOptions},
    node::{eventually, scenario},
    plugins,
    timers::{Set, check},
};
use std::time::{Duration, SystemTime};

const SERVICE: &str = "kitchen-sink";
const SESSIONS: usize = 48;
/// The timers of a session that fire once, and how far they are apart.
const ONCE: u64 = 8;
const APART_MS: u64 = 1_000;
const PERIOD_MS: u64 = 400;
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

/// Sets a session's timers.
async fn set(api: &Api, session: &str) -> anyhow::Result<Vec<Set>> {
    let mut timers = Vec::new();
    let once = (1..=ONCE).map(|n| (format!("once-{n}"), "after", n * APART_MS, None));
    let period = ("tick".to_owned(), "every", PERIOD_MS, Some(PERIOD_MS));
    for (name, how, number, period_ms) in once.chain([period]) {
        let body = json!({"op": "echo", "value": name});
        let timer = json!({"op": "timer", "name": name, how: number, "body": body});
        let message = Message::json(&timer).key(format!("set-{name}"));
        let reply = api.send(SERVICE, session, message).await?.json()?;
        let due_ms = reply["due"].as_u64().with_context(|| format!("{reply}"))?;
        timers.push(Set { name, due_ms, period_ms });
    }
    Ok(timers)
}

/// A timer that is lost with its owner, or sent by the owner before and the one after it.
#[test]
fn timers_are_sent_once_over_kills_moves_and_swaps() {
    scenario(async {
        let cluster = Cluster::start(ClusterOptions::default(), None).await?;
        let first = cluster.member(1)?;
        let component = plugins::load(SERVICE)?;
        first.admin().deploy(SERVICE, component.clone()).await?;
        cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
        let api = first.api();
        let sessions = stream::iter((0..SESSIONS).map(|n| format!("s{n}")));
        let set = sessions.map(|session| {
            let api = api.clone();
            async move { anyhow::Ok((set(&api, &session).await?, session)) }
        });
        let sessions: Vec<(Vec<Set>, String)> = set.buffer_unordered(8).try_collect().await?;
        let all = sessions.iter().flat_map(|(timers, _)| timers);
        let last = all.map(|timer| timer.due_ms).max().context("no timer")?;

        // While they fire, their owners go and come, and the version changes.
        let second = cluster.member(2)?;
        second.node.lock().await.kill()?;
        first.admin().deploy_as(SERVICE, component, "9.9.9").await?;
        cluster.restart(&second).await?;
        cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
        cluster.drain(3).await?;

        eventually("all that was due is sent", async || {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
            if now < Duration::from_millis(last) {
                return Ok(None);
            }
            let mut lost = 0;
            for (timers, session) in &sessions {
                let history = api.whole_history(SERVICE, session).await?;
                let wrong = check(&history, timers, last);
                // What is late may still come; what is wrong stays so.
                let (late, wrong): (Vec<_>, Vec<_>) =
                    wrong.into_iter().partition(|it| it.contains("has no message"));
                ensure!(wrong.is_empty(), "{session}: {wrong:#?}");
                lost += late.len();
            }
            Ok((lost == 0).then_some(()))
        })
        .await
    });
}
