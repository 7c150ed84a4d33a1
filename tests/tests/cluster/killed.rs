//! A node that is killed, and how its peers find out.

use anyhow::{Context, ensure};
use slotd_tests::{
    api::Message,
    cluster::{Cluster, ClusterOptions},
    node::{eventually, scenario},
    plugins,
    replayed::cluster_comes_out_again,
};
use std::time::{Duration, Instant};

const SERVICE: &str = "counter";
const SESSIONS: usize = 96;
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// What the nodes log about it.
const ENDED: &str = "its process has ended";

/// Without it, the slots of a process that was killed would wait for as long as those of a machine that
/// lost its power; or one that only stands still would be taken for killed.
#[test]
fn a_killed_process_is_told_from_one_that_stands_still() {
    scenario(async {
        let cluster = Cluster::start(ClusterOptions::default(), None).await?;
        let first = cluster.member(1)?;
        first.admin().deploy(SERVICE, plugins::load("counter")?).await?;
        let members = cluster.members();
        cluster.settled(&members, SETTLED_WITHIN).await?;
        let (victim, others) = members.split_last().context("no node")?;
        let log = async |number: u32| anyhow::Ok(cluster.member(number)?.node.lock().await.log());
        let api = first.api();
        for number in 0..SESSIONS {
            api.send(SERVICE, &format!("s{number}"), Message::bytes("1")).await?;
        }

        // It stands still until the others have its slots.
        victim.node.lock().await.pause()?;
        cluster.settled(others, SETTLED_WITHIN).await?;
        for other in others {
            ensure!(
                !log(other.number).await?.contains(ENDED),
                "{} takes it for killed",
                other.name
            );
        }
        victim.node.lock().await.resume()?;
        cluster.settled(&members, SETTLED_WITHIN).await?;

        let killed = Instant::now();
        victim.node.lock().await.kill()?;
        let answered = (0..SESSIONS).map(async |number| {
            let reply = api.send(SERVICE, &format!("s{number}"), Message::bytes("1")).await?;
            ensure!(reply.seq == 2, "s{number} is at {}", reply.seq);
            Ok(())
        });
        futures_util::future::try_join_all(answered).await?;
        println!("all sessions are answered {:?} after the kill", killed.elapsed());
        cluster.settled(others, SETTLED_WITHIN).await?;
        // One of them is first, and the others may hear of it from that one.
        eventually("a node notices that the process has ended", async || {
            for other in others {
                if log(other.number).await?.contains(ENDED) {
                    return Ok(Some(()));
                }
            }
            Ok(None)
        })
        .await?;
        cluster.restart(victim).await?;
        cluster.settled(&members, SETTLED_WITHIN).await?;
        for member in &members {
            let lost = member.admin().metric("slotd_declared_down_total", "").await?;
            ensure!(member.name == victim.name || lost == 0.0, "{} was missed", member.name);
        }
        cluster_comes_out_again(&cluster, &[SERVICE]).await
    });
}
