//! The demo of a cluster, as a new user runs it.

use anyhow::{Context, ensure};
use slotd_tests::{
    node::{Finished, finish, scenario, sibling},
    plugins,
};
use std::process::Command;

/// Without it, the first thing that a new user of a cluster types could be broken.
#[test]
fn the_demo_of_a_cluster_accounts_for_every_message() {
    let _alone = crate::alone();
    scenario(async {
        let mut demo = Command::new(sibling("demo-cluster")?);
        demo.args(["--exit", "--slots", "64", "--clients", "24"]);
        demo.env("SLOTD_TEST_PLUGINS", plugins::folder());
        let Finished { status, stdout: text, stderr } = finish(demo).await?;
        ensure!(status.success(), "{status}\n{text}\n{stderr}");
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
            line.and_then(|rest| rest.trim().parse::<u64>().ok())
                .with_context(|| format!("no {name:?} in\n{text}"))
        };
        let sent = value("messages sent")?;
        ensure!(sent > 1_000, "{sent} sent");
        ensure!(value("acknowledged")? == sent && value("read back")? == sent, "{text}");
        for name in ["lost", "duplicated", "out of order", "failed"] {
            ensure!(value(name)? == 0, "{text}");
        }
        for words in ["throughput", "p99", "64 of 64 slots swapped"] {
            ensure!(text.contains(words), "nothing of {words:?} in\n{text}");
        }
        // The nodes have ended: what to try with them would fail.
        ensure!(!text.contains("curl") && !text.contains(" 0.0 ms"), "{text}");
        for changes in ["pause per slot", "settled after"] {
            ensure!(
                text.matches(changes).count() == 4,
                "{changes:?} is not there of each:\n{text}"
            );
        }
        Ok(())
    });
}

/// Without it, the demo of agents could be broken, or say that nothing is lost whatever is.
#[test]
fn the_demo_of_agents_accounts_for_every_token() {
    let _alone = crate::alone();
    scenario(async {
        let mut demo = Command::new(sibling("demo-agent")?);
        demo.args(["--exit", "--slots", "32", "--agents", "24", "--at-once", "16", "--pace", "40"]);
        demo.env("SLOTD_TEST_PLUGINS", plugins::folder());
        let Finished { status, stdout: text, stderr } = finish(demo).await?;
        ensure!(status.success(), "{status}\n{text}\n{stderr}");
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
            line.and_then(|rest| rest.trim().parse::<u64>().ok())
                .with_context(|| format!("no {name:?} in\n{text}"))
        };
        ensure!(value("requests to the model")? == 24 * 5, "{text}");
        ensure!(value("tokens shown")? > 24 * 5 * 20, "{text}");
        ensure!(value("tools called")? == 24 && value("questions answered")? == 24, "{text}");
        for name in ["lost", "doubled", "out of order", "failed turns", "other after a reload"] {
            ensure!(value(name)? == 0, "{text}");
        }
        // It was killed while it wrote, or nothing was shown.
        ensure!(value("left by a dead node")? > 0, "{text}");
        ensure!(text.contains("32 of 32 slots swapped"), "{text}");
        ensure!(!text.contains("curl"), "{text}");
        Ok(())
    });
}
