//! Nodes that lose what they need: the engine, or room on their disk.

use anyhow::{Context, ensure};
use slotd_tests::{
    api::{Message, NodeView},
    chaos::probe::Probes,
    cluster::{Cluster, ClusterOptions, Own, net::net_or_skip},
    disk::SmallDisk,
    node::{eventually, fill_up, scenario},
    plugins,
    replayed::cluster_comes_out_again,
};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

/// For others to serve what a node can't, from the cut on; asked are the requests' 15 s.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(14);
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

async fn started(cluster: &Cluster) -> anyhow::Result<Probes> {
    let first = cluster.member(1)?;
    first.admin().deploy("counter", plugins::load("counter")?).await?;
    let probes = Probes::find(&first.api(), cluster.slots()).await?;
    cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
    Ok(probes)
}

/// What a node believes of itself.
async fn view(cluster: &Cluster, number: u32) -> anyhow::Result<NodeView> {
    let member = cluster.member(number)?;
    let nodes = member.admin().nodes().await?.nodes;
    nodes.into_iter().find(|node| node.node == member.name).context("it does not show itself")
}

/// Waits until nodes say of themselves that they can serve, or that they can't.
async fn all_say(cluster: &Cluster, numbers: &[u32], fit: bool) -> anyhow::Result<()> {
    eventually(&format!("nodes {numbers:?} say that they are fit: {fit}"), async || {
        for &number in numbers {
            if view(cluster, number).await?.unfit.is_none() != fit {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await
}

/// Loses all ways between some nodes and the engine, or heals them.
fn part(cluster: &Cluster, numbers: &[u32], cut: bool) -> anyhow::Result<()> {
    let net = cluster.net.as_deref().context("a network")?;
    for &number in numbers {
        let node = cluster.member(number)?.host.context("a host")?;
        for server in cluster.engine.hosts() {
            for (from, to) in [(node, server), (server, node)] {
                if cut { net.cut(from, to)? } else { net.heal(from, to)? }
            }
        }
    }
    Ok(())
}

/// Runs a scenario on a cluster whose links can be cut, where the machine allows that.
fn with_links<F>(test: &str, run: fn(Cluster, Probes) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>> + 'static,
{
    let Some(net) = net_or_skip(test) else { return Ok(()) };
    let (_, client) = net.add()?;
    client.run(move || {
        scenario(async {
            let cluster = Cluster::start(ClusterOptions::default(), Some(Arc::new(net))).await?;
            let probes = started(&cluster).await?;
            run(cluster, probes).await
        });
    });
    Ok(())
}

/// Moves that any node has begun until now.
async fn moves(cluster: &Cluster) -> anyhow::Result<usize> {
    Ok(cluster.member(1)?.admin().moves(1_000).await?.len())
}

/// Without it, a node that can't reach the engine, and is well as its peers see it, would keep its
/// slots from everybody.
#[test]
fn a_node_without_the_engine_gives_way_and_comes_back() -> anyhow::Result<()> {
    with_links("a_node_without_the_engine_gives_way_and_comes_back", one_without_the_engine)
}

async fn one_without_the_engine(cluster: Cluster, probes: Probes) -> anyhow::Result<()> {
    let before = view(&cluster, 2).await?.owned;
    ensure!(before > 0, "node 2 has no slot");
    let cut = Instant::now();
    part(&cluster, &[2], true)?;
    // Sent at once, to every node and slot: answered late, and not refused.
    let api = cluster.member(2)?.api();
    let sends = (0..64).map(|number| {
        let (api, name) = (api.clone(), format!("late-{number}"));
        async move {
            let message = Message::bytes("1").key(format!("k{number}"));
            api.send("counter", &name, message).await
        }
    });
    let answered = futures_util::future::try_join_all(sends).await?;
    ensure!(answered.iter().all(|reply| reply.seq == 1), "{answered:?}");
    probes.all_served(&cluster.members(), TAKEN_OVER_WITHIN).await?;
    println!("all served, through the node without the engine too, after {:?}", cut.elapsed());
    let lost = view(&cluster, 2).await?;
    ensure!(lost.unfit.is_some_and(|why| why.contains("engine")), "it does not say so");
    ensure!((lost.owned, lost.proposed) == (0, 0), "{} of {}", lost.owned, lost.proposed);
    part(&cluster, &[2], false)?;
    // Until it says so itself, all is settled without it.
    all_say(&cluster, &[2], true).await?;
    cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
    let back = view(&cluster, 2).await?;
    ensure!(back.owned == before && back.unfit.is_none(), "{back:?}");
    cluster_comes_out_again(&cluster, &["counter"]).await
}

/// Without it, all slots would move when the engine is gone for everybody, and again when it comes
/// back: a short trouble would become a long one.
#[test]
fn nothing_moves_when_all_nodes_lose_the_engine() -> anyhow::Result<()> {
    with_links("nothing_moves_when_all_nodes_lose_the_engine", all_without_the_engine)
}

async fn all_without_the_engine(cluster: Cluster, probes: Probes) -> anyhow::Result<()> {
    let before = moves(&cluster).await?;
    part(&cluster, &[1, 2, 3], true)?;
    all_say(&cluster, &[1, 2, 3], false).await?;
    part(&cluster, &[1, 2, 3], false)?;
    let took = probes.all_served(&cluster.members(), SETTLED_WITHIN).await?;
    println!("all served again {took:?} after it was healed");
    all_say(&cluster, &[1, 2, 3], true).await?;
    cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
    let after = moves(&cluster).await?;
    ensure!(after == before, "{} moves for nothing", after - before);
    cluster_comes_out_again(&cluster, &["counter"]).await
}

/// Without it, a node whose disk is full would keep slots that others could serve, and take as many
/// messages for them as it has memory.
#[test]
fn a_node_without_room_gives_its_slots_away() -> anyhow::Result<()> {
    let mounted = SmallDisk::mount_or_skip("a_node_without_room_gives_its_slots_away", 192)?;
    let Some(disk) = mounted else { return Ok(()) };
    // The file system stays until the node on it is gone.
    scenario(without_room(disk.path().to_owned()));
    drop(disk);
    Ok(())
}

async fn without_room(disk: PathBuf) -> anyhow::Result<()> {
    let own = Own {
        env: vec![("SLOTD_STORE_DISK_RESERVE".into(), "16MiB".into())],
        data_dir: Some(disk.join("data")),
        ..Own::default()
    };
    let options = ClusterOptions {
        nodes: 2,
        servers: 1,
        env: vec![("SLOTD_NATS_REPLICAS".into(), "1".into())],
        own: BTreeMap::from([(2, own)]),
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(options, None).await?;
    let probes = started(&cluster).await?;
    let before = view(&cluster, 2).await?.owned;
    ensure!(before > 0, "node 2 has no slot");
    fill_up(&disk.join("filler"))?;
    eventually("node 2 has no slot", async || {
        let view = view(&cluster, 2).await?;
        Ok((view.owned == 0 && view.unfit.is_some()).then_some(()))
    })
    .await?;
    probes.all_served(&cluster.members(), TAKEN_OVER_WITHIN).await?;
    for number in 0..64 {
        let message = Message::bytes("1");
        cluster.member(2)?.api().send("counter", &format!("x{number}"), message).await?;
    }
    std::fs::remove_file(disk.join("filler"))?;
    cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
    eventually("node 2 has its slots again", async || {
        let view = view(&cluster, 2).await?;
        Ok((view.owned == before && view.unfit.is_none()).then_some(()))
    })
    .await?;
    probes.all_served(&cluster.members(), TAKEN_OVER_WITHIN).await?;
    cluster_comes_out_again(&cluster, &["counter"]).await
}
