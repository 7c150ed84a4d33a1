//! A cluster whose nodes seal what they keep.

use anyhow::{Context, ensure};
use slotd_tests::{
    api::Message,
    cluster::{Cluster, ClusterOptions, Own},
    disk::files_with,
    node::{run_slotd, scenario},
    plugins,
};
use std::{collections::BTreeMap, fs, path::Path};

/// Nobody says it by chance.
const WORDS: &str = "nobody-else-is-to-read-this";

async fn key(path: &Path) -> anyhow::Result<String> {
    let made = run_slotd(&["seal", "key"]).await?;
    ensure!(made.status.success(), "{made:?}");
    fs::write(path, &made.stdout)?;
    Ok(made.stdout)
}

/// Without it, whoever runs the log's servers, or has their disks, could read what clients have said; and a node with
/// another key would take slots that it can't open, or never get in again.
#[test]
fn a_cluster_seals_its_log_and_lets_nobody_in_without_its_key() {
    scenario(async {
        let folder = tempfile::tempdir()?;
        let (shared, own) = (folder.path().join("shared"), folder.path().join("own"));
        let good = key(&shared).await?;
        key(&own).await?;
        let of = |path: &Path| ("SLOTD_SEAL_KEY_FILE".to_owned(), path.display().to_string());
        let third = Own { env: vec![of(&own)], ..Own::default() };
        let options = ClusterOptions {
            nodes: 2,
            servers: 1,
            slots: 16,
            env: vec![("SLOTD_NATS_REPLICAS".into(), "1".into()), of(&shared)],
            own: BTreeMap::from([(3, third)]),
            ..ClusterOptions::default()
        };
        let cluster = Cluster::start(options, None).await?;
        let first = cluster.member(1)?;
        first.admin().deploy("chat", plugins::load("chat-v1")?).await?;
        for number in 0..40 {
            let line = serde_json::json!({"kind": "say", "from": "ann", "text": WORDS});
            let room = format!("room-{}", number % 8);
            first.api().send("chat", &room, Message::json(&line)).await?;
        }
        let mut folders = cluster.engine.folders();
        for member in cluster.members() {
            folders.push(member.node.lock().await.data_dir().to_owned());
        }
        for folder in &folders {
            let found = files_with(folder, WORDS)?;
            ensure!(found.is_empty(), "{found:?} can be read without the key");
        }

        let refused = cluster.join(3).await.err().context("it joins with another key")?;
        let member = cluster.member(3)?;
        let told = format!("{refused:#}\n{}", member.node.lock().await.log());
        ensure!(told.contains("sealed with the key"), "{told}");
        // Its own key has sealed nothing: it is not asked for.
        fs::write(&own, good)?;
        cluster.restart(&member).await?;
        for number in 0..8 {
            let history = member.api().whole_history("chat", &format!("room-{number}")).await?;
            ensure!(history.len() == 5, "room-{number} has {}", history.len());
        }
        Ok(())
    });
}
