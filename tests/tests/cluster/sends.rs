//! Messages between sessions over kills, moves and swaps.

use futures_util::future::try_join_all;
use slotd_tests::{
    cluster::{Cluster, ClusterOptions},
    node::scenario,
    plugins,
    replayed::cluster_comes_out_again,
    sends::{self, Sent},
};
use std::time::Duration;

const SERVICE: &str = "kitchen-sink";
const SESSIONS: u64 = 16;
/// Messages that each session sends.
const EACH: u64 = 60;
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

/// A message that is lost with the owner of its sender, or of its receiver, or handled by the owner before and the
/// one after it; or turned round.
#[test]
fn messages_arrive_once_and_in_order_over_kills_moves_and_swaps() {
    scenario(async {
        // In order whatever becomes of one: a new owner may refuse some while it loads the version.
        let pair = format!("{SERVICE}>{SERVICE}");
        let rules = ["SLOTD_EFFECTS_SEND", "SLOTD_EFFECTS_IN_ORDER"];
        let env = rules.map(|name| (name.to_owned(), pair.clone())).into();
        let cluster =
            Cluster::start(ClusterOptions { env, ..ClusterOptions::default() }, None).await?;
        let first = cluster.member(1)?;
        let component = plugins::load(SERVICE)?;
        first.admin().deploy(SERVICE, component.clone()).await?;
        cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;

        let api = first.api();
        let sending = try_join_all((0..SESSIONS).map(|from| {
            let api = api.clone();
            async move {
                let mut sent = Vec::new();
                for number in 1..=EACH {
                    let to = (from + number * number) % SESSIONS;
                    let (from, to) = (format!("s{from}"), format!("s{to}"));
                    let one = Sent { from, to, number, reply: number % 4 == 0 };
                    sends::send(&api, SERVICE, &one).await?;
                    sent.push(one);
                }
                anyhow::Ok(sent)
            }
        }));
        // Meanwhile their owners go and come, and the version changes.
        let faults = async {
            let second = cluster.member(2)?;
            second.node.lock().await.kill()?;
            first.admin().deploy_as(SERVICE, component, "9.9.9").await?;
            cluster.restart(&second).await?;
            cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
            cluster.drain(3).await
        };
        let (sent, faults) = tokio::join!(sending, faults);
        faults?;
        sends::all_arrived(&api, SERVICE, &sent?.concat()).await?;
        cluster_comes_out_again(&cluster, &[SERVICE]).await
    });
}
