//! Timers over kills, moves and swaps.

use futures_util::{StreamExt, TryStreamExt, stream};
use slotd_tests::{
    api::Api,
    cluster::{Cluster, ClusterOptions},
    node::scenario,
    plugins,
    replayed::cluster_comes_out_again,
    timers::{self, Set},
};
use std::time::Duration;

const SERVICE: &str = "kitchen-sink";
const SESSIONS: usize = 48;
/// The timers of a session that fire once, and how far they are apart.
const ONCE: u64 = 8;
const APART_MS: u64 = 1_000;
const PERIOD_MS: u64 = 400;
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

/// Sets a session's timers.
async fn set(api: &Api, session: &str) -> anyhow::Result<Vec<Set>> {
    let mut set = Vec::new();
    for n in 1..=ONCE {
        let after = ("after", n * APART_MS);
        set.push(timers::set(api, SERVICE, session, &format!("once-{n}"), after).await?);
    }
    set.push(timers::set(api, SERVICE, session, "tick", ("every", PERIOD_MS)).await?);
    Ok(set)
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
            async move { anyhow::Ok((session.clone(), set(&api, &session).await?)) }
        });
        let sessions: Vec<(String, Vec<Set>)> = set.buffer_unordered(8).try_collect().await?;

        // While they fire, their owners go and come, and the version changes.
        let second = cluster.member(2)?;
        second.node.lock().await.kill()?;
        first.admin().deploy_as(SERVICE, component, "9.9.9").await?;
        cluster.restart(&second).await?;
        cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
        cluster.drain(3).await?;

        timers::all_sent(&api, SERVICE, &sessions).await?;
        cluster_comes_out_again(&cluster, &[SERVICE]).await
    });
}
