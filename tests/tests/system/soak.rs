//! A short round of `cargo xtask soak` on one node.

use anyhow::ensure;
use slotd_tests::{
    node::scenario,
    soak::{Plan, run},
};
use std::time::Duration;

/// Each kind of wear has a test of its own; together they share what a node has for all of them.
#[test]
fn everything_hostile_at_once_costs_no_message() {
    scenario(async {
        let plan = Plan { length: Duration::from_secs(30), nodes: 1, seed: 1, strict: false };
        let account = run(&plan).await?;
        println!("{account}");
        ensure!(account.kept_its_word(), "{account}");
        Ok(())
    });
}
