//! A disk that is full.

use crate::common::{expect_problem, say};
use anyhow::{Context, ensure};
use slotd_tests::{
    api::{History, session_path},
    disk::SmallDisk,
    node::{Node, NodeOptions, eventually, fill_up, scenario},
    plugins,
};

/// Without it, a full disk could lose what was acknowledged, acknowledge what it can't keep, or
/// need a restart to go on.
#[test]
fn a_full_disk_refuses_and_recovers() {
    let mounted = SmallDisk::mount_or_skip("a_full_disk_refuses_and_recovers", 192);
    let Some(disk) = mounted.expect("a place for it") else { return };
    // The file system stays until the node on it is gone.
    scenario(full_disk(disk.path().to_owned()));
    drop(disk);
}

async fn full_disk(disk: std::path::PathBuf) -> anyhow::Result<()> {
    let mut node = Node::start_with(NodeOptions {
        data_dir: Some(disk.join("data")),
        args: ["--store-disk-reserve", "16MiB"].map(String::from).to_vec(),
        ..NodeOptions::default()
    })
    .await?;
    node.admin().deploy("chat", plugins::load("chat-v1")?).await?;
    let api = node.api();
    let line = |number: u64| say("ann", &format!("line {number}")).key(format!("k{number}"));
    let mut acknowledged = 0;
    for number in 0..100 {
        api.send("chat", "a", line(number)).await?;
        acknowledged += 1;
    }
    for round in 0..3 {
        let ballast = disk.join("ballast");
        fill_up(&ballast)?;
        let mut number = acknowledged;
        eventually("a refusal", async || {
            let answer = api.post("chat", "a", line(number)).await?;
            if answer.status == 200 {
                // What little room there was; what is acknowledged must be kept.
                number += 1;
                return Ok(None);
            }
            let problem = answer.problem()?;
            let codes = ["storage-unavailable", "outcome-unknown"];
            ensure!(codes.contains(&&*problem.code), "{problem:?}");
            Ok(Some(()))
        })
        .await?;
        acknowledged = number;
        // Where not a byte is free the store itself may fail: reads go on, or say why not; they
        // never give less than there is.
        let read = api.client.get(&(session_path("chat", "a") + "/messages?limit=10")).await?;
        match read.status {
            200 => ensure!(read.json::<History>()?.entries.len() == 10, "{read:?}"),
            _ => drop(expect_problem(&read, 503, "storage-unavailable")?),
        }
        std::fs::remove_file(&ballast)?;
        eventually("room again", async || {
            let answer = api.post("chat", "a", line(number)).await?;
            if answer.status != 200 {
                ensure!([503, 504].contains(&answer.status), "{answer:?}");
                return Ok(None);
            }
            Ok(Some(()))
        })
        .await
        .with_context(|| format!("round {round}"))?;
        acknowledged += 1;
        check(&node, acknowledged).await?;
    }
    // With the disk full, a crash must not change what is there.
    let ballast = disk.join("ballast");
    fill_up(&ballast)?;
    node.kill()?;
    std::fs::remove_file(&ballast)?;
    node.restart().await?;
    // Less than the reserve is free: every slot can be opened and read, nothing can be sent, and what
    // was sent before is answered again.
    leave(&disk, 12 * 1024 * 1024)?;
    let mut number = 0;
    eventually("a refusal", async || {
        // The node looks at the disk now and then, and a repeat would be answered again for ever.
        number += 1;
        let answer = node.api().post("chat", "other", line(number)).await?;
        if answer.status == 200 {
            return Ok(None);
        }
        expect_problem(&answer, 503, "storage-unavailable")?;
        Ok(Some(()))
    })
    .await?;
    read_ten(&node).await?;
    ensure!(node.api().send("chat", "a", line(0)).await?.seq == 1, "a repeat is a read");
    std::fs::remove_file(&ballast)?;
    check(&node, acknowledged).await
}

async fn read_ten(node: &Node) -> anyhow::Result<()> {
    let read = node.api().client.get(&(session_path("chat", "a") + "/messages?limit=10")).await?;
    ensure!(read.status == 200 && read.json::<History>()?.entries.len() == 10, "{read:?}");
    Ok(())
}

/// Fills the disk but for so many bytes.
fn leave(disk: &std::path::Path, bytes: u64) -> anyhow::Result<()> {
    let stat = rustix::fs::statvfs(disk)?;
    let size = (stat.f_bavail * stat.f_frsize).saturating_sub(bytes);
    Ok(std::fs::write(disk.join("ballast"), vec![1; usize::try_from(size)?])?)
}

/// Every acknowledged line once, in order, and no other.
async fn check(node: &Node, acknowledged: u64) -> anyhow::Result<()> {
    let history = node.api().whole_history("chat", "a").await?;
    ensure!(history.len() as u64 == acknowledged, "{} of {acknowledged}", history.len());
    for (number, entry) in history.iter().enumerate() {
        ensure!(entry.id.as_deref() == Some(&format!("k{number}")), "{number}: {entry:?}");
    }
    Ok(())
}
