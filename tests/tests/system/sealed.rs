//! A node that seals what it keeps.

use crate::common::say;
use anyhow::{Context, ensure};
use slotd_tests::{
    disk::files_with,
    node::{Node, NodeOptions, run_slotd, scenario},
    plugins,
};
use std::fs;

/// Nobody says it by chance.
const WORDS: &str = "nobody-else-is-to-read-this";

/// Without it, whoever gets a disk could read what clients have said; or nobody could, after a restart.
#[test]
fn what_is_kept_is_sealed_and_opens_with_its_key_alone() {
    scenario(async {
        let made = run_slotd(&["seal", "key"]).await?;
        ensure!(made.status.success(), "{made:?}");
        let folder = tempfile::tempdir()?;
        let key = folder.path().join("key");
        fs::write(&key, &made.stdout)?;
        let path = key.to_str().context("a path")?.to_owned();
        let env = vec![("SLOTD_SEAL_KEY_FILE".to_owned(), path.clone())];
        let mut node = Node::start_with(NodeOptions { env, ..NodeOptions::default() }).await?;
        node.admin().deploy("chat", plugins::load("chat-v1")?).await?;
        for _ in 0..20 {
            node.api().send("chat", "room", say("ann", WORDS)).await?;
        }
        // Replayed from the log, then from what a clean stop has written.
        for clean in [false, true] {
            if clean {
                ensure!(node.terminate().await?.success());
            } else {
                node.kill()?;
            }
            let found = files_with(node.data_dir(), WORDS)?;
            ensure!(found.is_empty(), "{found:?} can be read without the key");
            node.restart().await?;
            let history = node.api().whole_history("chat", "room").await?;
            ensure!(history.len() == 20, "{}", history.len());
            ensure!(
                history
                    .iter()
                    .all(|entry| entry.body.as_ref().is_some_and(|body| body["text"] == WORDS))
            );
        }
        ensure!(node.terminate().await?.success());
        let other = run_slotd(&["seal", "key"]).await?;
        fs::write(&key, &other.stdout)?;
        let refused = node.restart().await.err().context("it starts with another key")?;
        let told = format!("{refused:#}\n{}", node.log());
        ensure!(told.contains("sealed with the key") && told.contains("seal.key_file"), "{told}");
        // The new key in front of the old one.
        fs::write(&key, [other.stdout.as_str(), made.stdout.as_str()].concat())?;
        node.restart().await?;
        node.api().send("chat", "room", say("ann", WORDS)).await?;
        ensure!(node.api().whole_history("chat", "room").await?.len() == 21);
        Ok(())
    });
}
