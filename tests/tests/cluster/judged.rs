//! The clients and the checker that judge clusters, on one node without an engine.

use anyhow::{Context, ensure};
use slotd_tests::{
    chaos::{
        load::{Load, LoadShape},
        record::session_name,
    },
    history::{Kind, Report, check},
    node::{Node, eventually, scenario},
    plugins,
    replayed::comes_out_again,
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::sync::watch;

const SHAPE: LoadShape =
    LoadShape { sessions: 8, writers: 8, readers: 4, deleters: 2, think: Duration::from_millis(2) };
/// Messages before and after each kill.
const SOME: u64 = 150;

async fn node() -> anyhow::Result<(Node, SocketAddr, Load)> {
    let node = Node::start().await?;
    for (service, plugin) in [("counter", "counter"), ("chat", "chat-v1")] {
        node.admin().deploy(service, plugins::load(plugin)?).await?;
    }
    let address = node.addresses().borrow().context("it runs")?.api;
    let targets = watch::channel(Arc::from([address])).1;
    let load = Load::start(7, SHAPE, targets);
    some_progress(&load).await?;
    Ok((node, address, load))
}

async fn some_progress(load: &Load) -> anyhow::Result<()> {
    let until = load.recorder().acknowledged() + SOME;
    eventually("progress of the clients", async || {
        Ok((load.recorder().acknowledged() >= until).then_some(()))
    })
    .await
}

fn found(report: &Report, kind: Kind) -> bool {
    report.violations.iter().any(|violation| violation.kind == kind)
}

/// Without it, clients that record wrongly would accuse a cluster that is right.
#[test]
fn a_node_that_is_killed_is_judged_good() {
    scenario(async {
        let (mut node, address, mut load) = node().await?;
        for _ in 0..4 {
            node.kill()?;
            node.restart_on(address).await?;
            some_progress(&load).await?;
            load.failed().await?;
        }
        let report = check(&load.finish().await?);
        println!("{report}");
        ensure!(report.good(), "{report}");
        ensure!(report.reads > 0 && report.events > 0, "{report}");
        comes_out_again(&node, &["counter", "chat"]).await
    });
}

/// Without it, nothing would show that what the clients record is enough to see a loss.
#[test]
fn a_session_that_is_lost_is_missed() {
    scenario(async {
        let (node, _, load) = node().await?;
        let (service, name) = session_name(0);
        node.api().delete(service, &name).await?.success()?;
        some_progress(&load).await?;
        let report = check(&load.finish().await?);
        ensure!(found(&report, Kind::Lost) || found(&report, Kind::Moved), "{report}");
        Ok(())
    });
}
