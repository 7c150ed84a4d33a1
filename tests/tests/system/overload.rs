//! More than a node takes: refused clearly, and nothing else suffers.

use crate::common::{deed, expect_problem};
use anyhow::ensure;
use futures_util::future::join_all;
use serde_json::json;
use slotd_tests::{
    api::Message,
    node::{Node, NodeOptions, eventually, scenario},
    plugins,
};

/// Without it, a slot that is slower than its clients would gather messages without end, or drop
/// them without a word.
#[test]
fn a_full_mailbox_says_when_to_come_back() {
    scenario(async {
        let args = ["--slot-count", "1", "--slots-mailbox", "4"].map(String::from).to_vec();
        let node = Node::start_with(NodeOptions { args, ..NodeOptions::default() }).await?;
        node.admin().deploy("hostile", plugins::load("hostile-v1")?).await?;
        node.admin().deploy("counter", plugins::load("counter")?).await?;
        let api = node.api();
        api.send("hostile", "warm", deed(&json!({"do": "echo"}))).await?;
        // One that takes as long as it may, and behind it more than there is room for.
        let spinning = {
            let api = api.clone();
            tokio::spawn(async move {
                loop {
                    let answer = api.post("hostile", "a", deed(&json!({"do": "spin"}))).await?;
                    // The others may be there first.
                    if answer.status != 503 {
                        return anyhow::Ok(answer);
                    }
                }
            })
        };
        let mut refused = 0;
        let mut accepted = Vec::new();
        eventually("a refusal", async || {
            let burst = (0..40).map(|_| api.post("counter", "a", Message::bytes("x")));
            for answer in join_all(burst).await {
                let answer = answer?;
                if answer.status == 200 {
                    accepted.push(answer.json::<u64>()?);
                    continue;
                }
                expect_problem(&answer, 503, "mailbox-full")?;
                let after = answer.header("retry-after").unwrap_or_default();
                ensure!(after.parse::<u64>().is_ok_and(|s| s >= 1), "Retry-After: {after:?}");
                refused += 1;
            }
            Ok((refused > 0).then_some(()))
        })
        .await?;
        expect_problem(&spinning.await??, 504, "plugin-deadline")?;
        // Those that were taken were kept, the others were not.
        accepted.sort_unstable();
        let count = accepted.len() as u64;
        ensure!(accepted == (1..=count).collect::<Vec<_>>(), "{accepted:?}");
        if count > 0 {
            ensure!(api.session("counter", "a").await?.seq == count);
        }
        let next = api.send("counter", "a", Message::bytes("x")).await?;
        ensure!(next.seq == count + 1, "{next:?}");
        Ok(())
    });
}
