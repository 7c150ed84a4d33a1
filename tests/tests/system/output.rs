//! A node whose standard output and error nobody reads.

use crate::common::{SOON, deed};
use anyhow::{Context, ensure};
use serde_json::json;
use slotd_tests::{
    api::Message,
    node::{Node, NodeOptions, eventually, scenario},
    plugins,
};
use std::time::Instant;

/// Of 200 kB each: more than a pipe holds, and than waits for it to be read.
const FLOODS_MAX: usize = 500;
/// Calls that fail, and lines that may say so in one interval.
const CALLS: usize = 60;
const LINES_MAX: usize = 5;

/// Without it, a log driver that stalls (or a terminal that is paused) stopped the node: the first
/// thread that logged hung, then all others, the probes' and SIGTERM's among them.
#[test]
fn a_node_whose_output_nobody_reads_serves_and_stops() {
    scenario(async {
        let unread = NodeOptions { unread: true, ..NodeOptions::default() };
        let mut node = Node::start_with(unread).await?;
        let (api, admin) = (node.api(), node.admin());
        admin.deploy("hostile", plugins::load("hostile-v1")?).await?;
        admin.deploy("counter", plugins::load("counter")?).await?;
        let flood = json!({"do": "log-flood", "lines": 100, "bytes": 2_000});
        for number in 0.. {
            let session = format!("loud-{number}");
            let sent = api.send("hostile", &session, deed(&flood));
            tokio::time::timeout(SOON, sent).await.context("the plugin that logs hangs")??;
            let sent = api.send("counter", "a", Message::bytes("1"));
            tokio::time::timeout(SOON, sent).await.context("another service hangs")??;
            if admin.metric("slotd_log_lines_dropped_total", "").await? > 0.0 {
                break;
            }
            ensure!(number < FLOODS_MAX, "no line was dropped");
        }
        for listener in [&api.client, &admin.client] {
            listener.get("/healthz").await?.success()?;
        }
        let stopped = Instant::now();
        let status = node.terminate().await?;
        ensure!(status.success(), "it ended with {status} after {:?}", stopped.elapsed());
        Ok(())
    });
}

/// Without it, one client whose calls fail filled the disk with the node's log, and whoever read it
/// saw 300 lines of the host's own frames for each.
#[test]
fn failing_calls_cost_a_few_lines() {
    scenario(async {
        let node = Node::start_with(NodeOptions {
            env: vec![("RUST_BACKTRACE".into(), "1".into())],
            args: vec!["--log-filter".into(), "info,slotd::guest=debug".into()],
            ..NodeOptions::default()
        })
        .await?;
        node.admin().deploy("hostile", plugins::load("hostile-v1")?).await?;
        let text = "a\u{202e}b\u{2028}c";
        for number in 0..CALLS {
            let session = format!("bad-{}", number % 3);
            let message = deed(&json!({"do": "panic", "message": text}));
            let answer = node.api().post("hostile", &session, message).await?;
            ensure!(answer.status == 500, "{answer:?}");
        }
        let suppressed = eventually("what was suppressed", async || {
            let log = node.log();
            let line =
                log.lines().find(|line| line.contains("similar lines suppressed: a call failed"));
            Ok(line.map(ToOwned::to_owned))
        })
        .await?;
        ensure!(suppressed.contains("hostile trap"), "{suppressed}");
        let log = node.log();
        let failed = log.lines().filter(|line| line.contains("replacing its instance")).count();
        ensure!((1..=2 * LINES_MAX).contains(&failed), "{failed} lines of {CALLS} calls");
        ensure!(log.contains("a\\u{202e}b\\u{2028}c"), "the guest's message is not there");
        ensure!(!log.contains(['\u{202e}', '\u{2028}']), "characters that drive a terminal");
        ensure!(log.contains("frames=\""), "the guest's own frames are not there");
        for host in ["wasmtime::runtime", "tokio::runtime", "stack backtrace"] {
            ensure!(!log.contains(host), "frames of the host: {host}");
        }
        Ok(())
    });
}
