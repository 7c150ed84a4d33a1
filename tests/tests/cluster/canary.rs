//! A canary of a cluster: nothing of it depends on one node.

use anyhow::{Context, ensure};
use serde_json::Value;
use slotd_tests::{
    api::Message,
    canary::{self, Traffic, begin, change, deploy_first, running, until, until_step},
    cluster::{Cluster, ClusterOptions},
    node::{eventually, scenario},
    plugins,
};
use std::time::Duration;

const SETTLED_WITHIN: Duration = Duration::from_secs(60);
const OPTIONS: &str = "canary=100,500&pause=1&canary_messages=100";

/// The canary would end with the node that drives it, a slot that moves would run what its log does not say, or a node that
/// joins would run something else.
#[test]
fn a_canary_goes_on_through_kills_moves_and_joins() {
    scenario(async {
        let cluster = Cluster::start(ClusterOptions::default(), None).await?;
        let admin = cluster.member(1)?.admin();
        deploy_first(&admin).await?;
        cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
        let traffic = Traffic::start(cluster.targets(), true);
        let began: Value = begin(&admin, canary::good()?, OPTIONS).await?.success()?.json()?;
        let second = began["canary"]["deployment"]["label"].as_str().context("none")?.to_owned();
        until_step(&admin, 2).await?;
        change(&admin, "hold").await?;
        let before = running(&admin).await?;
        let tried = before.values().filter(|runs| **runs == second).count();
        ensure!(tried == usize::from(cluster.slots()) / 2, "{before:?}");

        // A slot moves, of each version one.
        for tries in [true, false] {
            let of = |(slot, runs): (&u16, &String)| ((*runs == second) == tries).then_some(*slot);
            let slot = before.iter().find_map(of).context("no such slot")?;
            let path = format!("/admin/v1/slots/{slot}/drain");
            admin.client.post(&path, "").await?.success()?;
        }
        let same = async || {
            let now = running(&admin).await?;
            for (slot, runs) in &now {
                ensure!(before.get(slot) == Some(runs), "slot {slot}: {runs}");
            }
            anyhow::Ok((now.len() == before.len()).then_some(()))
        };
        eventually("all slots as before, after moves", same).await?;
        // A node joins, and gets slots.
        cluster.join(4).await?;
        cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
        eventually("all slots as before, after a join", same).await?;

        // The driving node is killed.
        let mut driver = None;
        for member in cluster.members() {
            if member.node.lock().await.log().contains("canary-step") {
                driver = Some(member);
            }
        }
        let driver = driver.context("no node has driven it")?;
        let other = cluster.members().into_iter().find(|member| member.number != driver.number);
        let admin = other.context("no other node")?.admin();
        change(&admin, "resume").await?;
        driver.node.lock().await.kill()?;
        let done = until(&admin, "promoted").await?;
        ensure!(done["verdicts"].as_array().is_some_and(|all| all.len() == 3), "{done:#}");
        cluster.restart(&driver).await?;
        cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
        eventually("all slots on the new version", async || {
            let now = running(&driver.admin()).await?;
            let all = now.len() == before.len() && now.values().all(|runs| *runs == second);
            Ok(all.then_some(()))
        })
        .await?;
        let seen = traffic.end().await?;
        ensure!(seen.failures.is_empty(), "{:?}", seen.failures);
        for (session, count) in &seen.counts {
            let answer = driver.api().query(canary::SERVICE, session, &Value::Null).await?;
            ensure!(answer == *count, "{session}: {answer} for {count}");
        }
        Ok(())
    });
}

/// A fault that only live messages show would stay while a node is gone, or the sessions that were moved meanwhile would stay
/// on the version that failed.
#[test]
fn a_bad_canary_goes_back_while_a_node_is_killed() {
    scenario(async {
        let cluster = Cluster::start(ClusterOptions::default(), None).await?;
        let admin = cluster.member(1)?.admin();
        let first = deploy_first(&admin).await?;
        cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
        let traffic = Traffic::start(cluster.targets(), true);
        let bad = plugins::load("hostile-v2")?;
        let began: Value =
            begin(&admin, bad, &format!("{OPTIONS}&gate=off")).await?.success()?.json()?;
        let second = began["canary"]["deployment"]["label"].as_str().context("none")?.to_owned();
        let killed = cluster.member(3)?;
        killed.node.lock().await.kill()?;
        let done = until(&admin, "aborted").await?;
        ensure!(done["why"].as_str().is_some_and(|why| why.contains("traps: ")), "{done:#}");
        cluster.restart(&killed).await?;
        cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
        eventually("all slots on the version before", async || {
            let now = running(&admin).await?;
            let all = now.len() == usize::from(cluster.slots());
            Ok((all && now.values().all(|runs| *runs == first)).then_some(()))
        })
        .await?;
        let seen = traffic.end().await?;
        for failure in &seen.failures {
            let of_it = failure.plugin.as_deref() == Some(&*second);
            ensure!(of_it && failure.code == "plugin-trapped", "{failure:?}");
        }
        ensure!(!seen.failures.is_empty(), "nothing failed: what was tried?");
        for session in seen.counts.keys() {
            let reply = killed.api().send(canary::SERVICE, session, Message::bytes("x")).await?;
            ensure!(reply.plugin == first, "{session}: {reply:?}");
        }
        Ok(())
    });
}
