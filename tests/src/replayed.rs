//! The audit behind a test that kills, cuts or moves: what is stored is what the messages give, for every session.

use crate::{cluster::Cluster, node::Node};
use anyhow::{Context, ensure};
use serde_json::Value;
use std::time::{Duration, Instant};

/// For an audit that sees all. A slot that moves meanwhile is one that nobody has seen all of: then it is begun again.
const WITHIN: Duration = Duration::from_secs(180);
/// Between two of them.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Runs the histories of services again, on all nodes that `node` knows, and compares them with what is stored.
///
/// # Errors
/// What differs, or was not compared to its end.
pub async fn comes_out_again(node: &Node, services: &[&str]) -> anyhow::Result<()> {
    for service in services {
        let until = Instant::now() + WITHIN;
        let report = loop {
            let done = node.run(&["--json", "audit", service]).await?;
            let report: Value =
                serde_json::from_str(&done.stdout).with_context(|| format!("{done:?}"))?;
            ensure!(report["verdict"] != "differs", "{service}: {report:#}");
            // Not a matter of time.
            ensure!(report["partly"] == 0 || report["slots_unseen"] != 0, "{service}: {report:#}");
            if report["verdict"] == "same" {
                break report;
            }
            ensure!(Instant::now() < until, "{service}: not all was seen: {report:#}");
            tokio::time::sleep(AGAIN_AFTER).await;
        };
        let number = |name: &str| report[name].as_u64().unwrap_or_default();
        println!(
            "{service} comes out again: {} sessions, {} messages, {} ms",
            number("sessions"),
            number("messages"),
            number("elapsed_ms")
        );
    }
    Ok(())
}

/// As [`comes_out_again`], of a cluster that has settled.
///
/// # Errors
/// As that one.
pub async fn cluster_comes_out_again(cluster: &Cluster, services: &[&str]) -> anyhow::Result<()> {
    let member = cluster.members().into_iter().next().context("no node")?;
    comes_out_again(&*member.node.lock().await, services).await
}
