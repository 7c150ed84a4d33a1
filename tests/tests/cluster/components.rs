//! Nodes that can't have a plugin, and nodes that die while one is exchanged.

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use slotd_tests::{
    api::{Deployed, Message, NodeView, Swap},
    chaos::probe::Probes,
    cluster::{Cluster, ClusterOptions, Member, nats::Requests},
    node::{eventually, scenario},
    plugins,
};
use std::{sync::Arc, time::Duration};

const SERVICE: &str = "counter";
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
const SERVED_WITHIN: Duration = Duration::from_secs(14);
/// Moves to the node without the component that have failed: more than it is to have slots, so that
/// it has tried some again.
const TRIED: f64 = 12.0;
/// Swaps in the middle of which a node is killed, and so many tries to do so.
const CUT_SHORT: usize = 2;
const TRIES: usize = 5;

fn options(nodes: u32) -> ClusterOptions {
    let env = vec![("SLOTD_NATS_REPLICAS".into(), "1".into())];
    ClusterOptions { nodes, servers: 1, slots: 16, env, ..ClusterOptions::default() }
}

/// Empties the object store that has the cluster's components.
async fn lose_components(cluster: &Cluster) -> anyhow::Result<()> {
    let url = cluster.engine.urls().remove(0);
    let mut requests = Requests::connect(url.trim_start_matches("nats://").parse()?).await?;
    let names = requests.request("$JS.API.STREAM.NAMES", "").await?;
    let names = names["streams"].as_array().context("no stream")?;
    let of_components = |name: &&str| name.starts_with("OBJ_slotd-") && name.ends_with("-plugins");
    let name = names.iter().filter_map(Value::as_str).find(of_components).context("no store")?;
    let purged = requests.request(&format!("$JS.API.STREAM.PURGE.{name}"), "").await?;
    ensure!(purged["success"] == true && purged["purged"].as_u64() > Some(0), "{purged}");
    Ok(())
}

async fn view(member: &Member) -> anyhow::Result<NodeView> {
    let nodes = member.admin().nodes().await?.nodes;
    nodes.into_iter().find(|node| node.node == member.name).context("it does not show itself")
}

/// Sends to sessions of all slots, through each node.
async fn serve(members: &[Arc<Member>]) -> anyhow::Result<()> {
    for member in members {
        let api = member.api();
        for number in 0..48 {
            api.send(SERVICE, &format!("s{number}"), Message::bytes("1")).await?;
        }
    }
    Ok(())
}

/// Without it, a node that can't have a plugin would take slots that nobody could then use.
#[test]
fn a_node_without_the_component_owns_nothing() {
    scenario(async {
        let cluster = Cluster::start(options(2), None).await?;
        let counter = plugins::load("counter")?;
        let first = cluster.member(1)?;
        first.admin().deploy(SERVICE, counter.clone()).await?;
        serve(&cluster.members()).await?;
        lose_components(&cluster).await?;
        let without = async {
            let member = eventually("node 3 is prepared", async || Ok(cluster.member(3).ok()));
            let member = member.await?;
            let admin = member.admin();
            let metric = async |name| admin.metric(name, "").await;
            eventually("it has tried again and again", async || {
                // It may not listen yet.
                let failed = metric("slotd_moves_failed_total").await.unwrap_or_default();
                Ok((failed >= TRIED).then_some(()))
            })
            .await?;
            let seen = first.admin().nodes().await?.nodes;
            ensure!(seen.iter().all(|node| node.members.len() == 3), "{seen:?}");
            let own = view(&member).await?;
            ensure!(own.proposed > 0 && own.owned == 0, "{own:?}");
            ensure!(own.not_ready.is_some(), "it says that it is ready: {own:?}");
            serve(&cluster.members()).await?;
            let claims = metric("slotd_claims_total").await?;
            ensure!(claims == 0.0, "it has claimed {claims} slots");
            Ok(member)
        };
        let member = tokio::select! {
            joined = cluster.join(3) => bail!("it has joined: {:?}", joined.map(drop)),
            member = without => member?,
        };
        // With one that it can have, it takes its share of the slots.
        let other = plugins::variant(&counter, "can be had");
        let deployed = first.admin().deploy(SERVICE, other).await?;
        cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
        ensure!(view(&member).await?.owned > 0, "it has nothing");
        serve(&cluster.members()).await?;
        all_run(&first, &deployed.current.label, &cluster.members()).await
    });
}

/// Waits until every slot is at one of the nodes, and runs a deployment.
async fn all_run(through: &Member, label: &str, nodes: &[Arc<Member>]) -> anyhow::Result<()> {
    eventually(&format!("all slots run {label}"), async || {
        let slots = through.admin().slots().await?;
        let all = slots.iter().all(|slot| {
            let owned = nodes.iter().any(|node| node.name == slot.owner);
            owned
                && slot.state == "running"
                && slot.plugins.get(SERVICE).is_some_and(|p| p == label)
        });
        Ok(all.then_some(()))
    })
    .await
}

/// The part of a node in the swap to a generation, if it knows of that.
async fn share(member: &Member, generation: u64) -> anyhow::Result<Option<Swap>> {
    let service = member.admin().service(SERVICE).await?;
    let knows = service.generation == generation;
    Ok(service.swap.filter(|swap| knows && swap.generation == generation))
}

/// Without it, a node that dies while it exchanges a plugin could leave slots that nobody serves, or
/// that go on with the old version.
#[test]
fn a_node_that_dies_in_a_swap_leaves_nothing_behind() {
    scenario(async {
        let cluster = Cluster::start(options(3), None).await?;
        let counter = plugins::load("counter")?;
        let (first, dies) = (cluster.member(1)?, cluster.member(3)?);
        first.admin().deploy(SERVICE, counter.clone()).await?;
        let probes = Probes::find(&first.api(), cluster.slots()).await?;
        cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
        let (mut cut_short, mut tries) = (0, 0);
        while cut_short < CUT_SHORT {
            tries += 1;
            ensure!(tries <= TRIES, "{cut_short} of {TRIES} swaps were cut short");
            let other = plugins::variant(&counter, &format!("version {tries}"));
            let generation = first.admin().service(SERVICE).await?.generation + 1;
            let admin = first.admin();
            let deploying =
                tokio::spawn(async move { admin.upload(SERVICE, other).await?.success() });
            // The first time as soon as it knows what is to come, then when it has begun.
            eventually("its swap", async || {
                let begun = share(&dies, generation).await?.is_some_and(|swap| swap.moved > 0);
                let known = dies.admin().service(SERVICE).await?.generation == generation;
                Ok((begun || (known && cut_short == 0)).then_some(()))
            })
            .await?;
            dies.node.lock().await.kill()?;
            cut_short += usize::from(!deploying.is_finished());
            let deployed: Deployed = deploying.await??.json()?;
            ensure!(deployed.changed, "{deployed:?}");
            let left = [first.clone(), cluster.member(2)?];
            probes.all_served(&left, SERVED_WITHIN).await?;
            all_run(&first, &deployed.current.label, &left).await?;
            cluster.restart(&dies).await?;
            cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
            probes.all_served(&cluster.members(), SERVED_WITHIN).await?;
            all_run(&first, &deployed.current.label, &cluster.members()).await?;
        }
        serve(&cluster.members()).await
    });
}

/// Without it, a node that did not hear of a removal, or takes a slot in the middle of it, would
/// keep sessions for a service of the same name to find.
#[test]
fn a_removed_service_is_gone_on_every_node() {
    scenario(async {
        let cluster = Cluster::start(options(3), None).await?;
        let counter = plugins::load("counter")?;
        let (first, last) = (cluster.member(1)?, cluster.member(3)?);
        for service in [SERVICE, "kept"] {
            first.admin().deploy(service, counter.clone()).await?;
        }
        serve(&cluster.members()).await?;
        last.api().send("kept", "x", Message::bytes("1")).await?;
        let path = format!("/admin/v1/services/{SERVICE}");
        // Any node does it, and asks again what the others have done.
        eventually("the service is removed", async || {
            let answer = last.admin().client.request(hyper::Method::DELETE, &path, &[], "").await?;
            let removed: Value = answer.success()?.json()?;
            Ok((removed["done"] == true).then_some(()))
        })
        .await?;
        for member in cluster.members() {
            let sent = member.api().post(SERVICE, "s1", Message::bytes("1")).await?;
            ensure!(sent.status == 404, "{}: {}", member.name, sent.status);
            let slots = member.admin().slots().await?;
            let left: u64 = slots.iter().map(|slot| slot.sessions).sum();
            ensure!(left == 1, "{}: {left} sessions are left", member.name);
        }
        let again = last.admin().deploy(SERVICE, counter).await?;
        all_run(&first, &again.current.label, &cluster.members()).await?;
        for member in cluster.members() {
            let sent = member.api().send(SERVICE, &member.name, Message::bytes("1")).await?;
            ensure!(sent.seq == 1, "{sent:?}");
        }
        ensure!(first.api().send("kept", "x", Message::bytes("1")).await?.seq == 2);
        Ok(())
    });
}
