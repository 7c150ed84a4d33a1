//! A cluster whose nodes seal what they keep.

use anyhow::{Context, ensure};
use slotd_tests::{
    api::Message,
    cluster::{Cluster, ClusterOptions, Own},
    disk::{files_with, files_with_bytes},
    node::{eventually, run_slotd, scenario, scenario_within},
    plugins,
};
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

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

/// Whoever changes a cluster's key could never delete the old one, or would lose slots with it.
#[test]
fn the_key_of_a_cluster_is_changed_while_it_serves_and_the_old_one_deleted() {
    scenario_within(Duration::from_secs(600), async {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("keys");
        let [old, new] = [key(&file).await?, key(&folder.path().join("new")).await?];
        let id = |made: &str| -> anyhow::Result<String> {
            let id = made.lines().next().and_then(|line| line.strip_prefix("# "));
            Ok(id.context("no id")?.to_owned())
        };
        let (old_id, new_id) = (id(&old)?, id(&new)?);
        let env = ("SLOTD_SEAL_KEY_FILE".to_owned(), file.display().to_string());
        let options = ClusterOptions {
            nodes: 3,
            servers: 1,
            slots: 16,
            env: vec![("SLOTD_NATS_REPLICAS".into(), "1".into()), env],
            ..ClusterOptions::default()
        };
        fs::write(&file, &old)?;
        let cluster = Arc::new(Cluster::start(options, None).await?);
        let first = cluster.member(1)?;
        first.admin().deploy("chat", plugins::load("chat-v1")?).await?;
        for number in 0..64 {
            say(&cluster, 1, number % 8, number / 8).await?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let writing = {
            let (cluster, stop) = (cluster.clone(), stop.clone());
            tokio::spawn(async move {
                // Rooms of its own: each line is sent until it was acknowledged.
                let (mut line, mut tries) = (0_u32, 0_u32);
                while !stop.load(SeqCst) {
                    let sent = say(&cluster, 1 + tries % 3, 8 + line % 4, line / 4).await;
                    tries += 1;
                    line += u32::from(sent.is_ok());
                }
                line
            })
        };
        // Everyone opens with the new key, everyone seals with it.
        let only_opens = format!("{old}open:{}", new.lines().last().context("no key")?);
        for keys in [only_opens, format!("{new}{old}")] {
            fs::write(&file, keys)?;
            for member in cluster.members() {
                ensure!(member.node.lock().await.terminate().await?.success());
                cluster.restart(&member).await?;
            }
        }
        for member in cluster.members() {
            eventually("a key that nothing needs", async || {
                let node = member.node.lock().await;
                let status = node.run(&["--json", "seal", "status"]).await?;
                // While JetStream moves, it may not be known.
                if !status.status.success() {
                    return Ok(None);
                }
                let status: serde_json::Value = serde_json::from_str(&status.stdout)?;
                let keys = status["keys"].as_array().context("no keys")?;
                let old = keys.iter().find(|key| key["id"] == *old_id).context("not there")?;
                let by = old["needed_by"].as_array().context("needed by whom?")?;
                Ok(by.is_empty().then_some(()))
            })
            .await
            .with_context(|| member.name.clone())?;
        }
        stop.store(true, SeqCst);
        let lines = writing.await?;
        fs::write(&file, &new)?;
        for member in cluster.members() {
            let mut node = member.node.lock().await;
            ensure!(node.terminate().await?.success());
            let found = files_with_bytes(node.data_dir(), &id_bytes(&old_id)?)?;
            ensure!(found.is_empty(), "{found:?} are sealed with a key that is deleted");
            drop(node);
            cluster.restart(&member).await?;
        }
        // One that has nothing of its own reads it all from the log and from snapshots.
        let fourth = cluster.join(4).await?;
        for number in 1..4 {
            cluster.drain(number).await?;
        }
        for room in 0..12 {
            let history = fourth.api().whole_history("chat", &format!("room-{room}")).await?;
            let expected = match room {
                0..8 => 8,
                room => (lines + 11 - room) / 4,
            };
            let found = history.len() as u32;
            // The last one may be there although nobody was told.
            let last = u32::from(room >= 8);
            ensure!((expected..=expected + last).contains(&found), "room-{room}: {found}");
        }
        ensure!(fourth.node.lock().await.log().contains(&format!("seals_with={new_id}")));
        Ok(())
    });
}

fn id_bytes(id: &str) -> anyhow::Result<[u8; 4]> {
    Ok(u32::from_str_radix(id, 16)?.to_be_bytes())
}

/// A line that is said once, however often it is sent.
async fn say(cluster: &Cluster, to: u32, room: u32, line: u32) -> anyhow::Result<()> {
    let room = format!("room-{room}");
    let said = serde_json::json!({"kind": "say", "from": "ann", "text": WORDS});
    let message = Message::json(&said).key(format!("{room}-{line}"));
    cluster.member(to)?.api().send("chat", &room, message).await.map(drop)
}
