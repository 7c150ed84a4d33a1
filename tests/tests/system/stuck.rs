//! Threads that hang, and clients that do not read.

use crate::common::{SOON, deed, node_with};
use anyhow::{Context, ensure};
use serde_json::json;
use slotd_tests::{
    api::Message,
    node::{Node, NodeOptions, eventually, scenario},
    plugins,
    stuck::Stuck,
};
use std::{io::Write as _, net::TcpStream, time::Instant};

/// Without it, a node that serves nobody would look well to whoever supervises it, and SIGTERM would
/// not end it.
#[test]
fn hung_threads_are_told_by_the_probe_and_end_at_sigterm() {
    scenario(async {
        let mut node = node_with("counter", "counter").await?;
        node.api().send("counter", "a", Message::bytes("1")).await?;
        let probe = node.admin().client;
        let pid = node.pid().context("it does not run")?;
        for last in [false, true] {
            let stuck = Stuck::threads(pid, "slotd-worker")?;
            eventually("a probe that fails", async || {
                Ok((probe.get("/healthz").await?.status == 503).then_some(()))
            })
            .await?;
            ensure!(probe.get("/readyz").await?.status == 503);
            // What needs the threads is answered all the same.
            let slots = tokio::time::timeout(SOON, probe.get("/admin/v1/slots")).await??;
            ensure!(slots.status == 503, "{}", slots.text());
            if last {
                let stopped = Instant::now();
                let status = node.terminate().await?;
                ensure!(status.code() == Some(70), "{status} after {:?}", stopped.elapsed());
                ensure!(node.log().contains("stalled"), "it does not say why");
                return Ok(());
            }
            drop(stuck);
            eventually("a probe that is well again", async || {
                Ok((probe.get("/healthz").await?.status == 200).then_some(()))
            })
            .await?;
            node.api().send("counter", "a", Message::bytes("1")).await?;
        }
        Ok(())
    });
}

/// Without it, a client that asks for much and reads none of it took the whole grace: slots had no
/// time to finish, and the node ended with an error.
#[test]
fn a_client_that_does_not_read_leaves_the_slots_their_grace() {
    scenario(async {
        let mut node = Node::start_with(NodeOptions {
            args: vec!["--shutdown-grace".into(), "10s".into()],
            ..NodeOptions::default()
        })
        .await?;
        node.admin().deploy("hostile", plugins::load("hostile-v1")?).await?;
        let body = "x".repeat(200_000);
        for _ in 0..5 {
            let echo = deed(&json!({"do": "echo", "body": body}));
            node.api().send("hostile", "a", echo).await?;
        }
        let mut silent = TcpStream::connect(node.api().client.address())?;
        let ask =
            "GET /v1/services/hostile/sessions/a/messages HTTP/1.1\r\nhost: localhost\r\n\r\n";
        // More than the kernel takes of the answers.
        silent.write_all(ask.repeat(100).as_bytes())?;
        let all = node.api().history("hostile", "a", 0, 100).await?;
        ensure!(!all.entries.is_empty(), "{all:?}");
        // Until the kernel takes no more of them: what the node holds then stays.
        let held = async || node.admin().metric("slotd_buffers_bytes", "kind=\"answers\"").await;
        let mut before = 0.0;
        eventually("answers that nobody takes", async || {
            let now = held().await?;
            let settled = now > 0.0 && now == before;
            before = now;
            Ok(settled.then_some(()))
        })
        .await?;
        let stopped = Instant::now();
        let status = node.terminate().await?;
        ensure!(status.success(), "{status} after {:?}", stopped.elapsed());
        ensure!(!node.log().contains("did not finish within"), "slots had no time");
        drop(silent);
        Ok(())
    });
}
