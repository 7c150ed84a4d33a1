//! What a node makes of signals, of its umask, and of what others put into its environment.

use crate::common::node_with;
use anyhow::{Context, ensure};
use rustix::process::Signal;
use slotd_tests::{
    api::Message,
    http::Client,
    node::{Node, NodeOptions, eventually, scenario},
};
use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

/// Without it, a token that was leaked would stay good until a restart, and SIGHUP would stop the
/// node.
#[test]
fn sighup_reads_the_configuration_again() {
    scenario(async {
        let dir = tempfile::tempdir()?;
        let (token, file) = (dir.path().join("token"), dir.path().join("slotd.toml"));
        fs::write(&token, "the-first-token\n")?;
        let config = |more: &str| format!("{more}[api]\ntoken_file = {:?}\n", token.display());
        fs::write(&file, config(""))?;
        let node = Node::start_with(NodeOptions {
            args: vec!["--config".into(), file.display().to_string()],
            ..NodeOptions::default()
        })
        .await?;
        let open = Client::new(node.api().client.address());
        let status = async |token: &str| -> anyhow::Result<u16> {
            let answer = open.clone().with_token(token).get("/v1/services/x/sessions").await?;
            Ok(answer.status)
        };
        ensure!(status("the-first-token").await? != 401);

        fs::write(&token, "the-second-token\n")?;
        fs::write(&file, config("node = \"other\"\n") + "[log]\nfilter = \"debug\"\n")?;
        node.signal(Signal::HUP)?;
        eventually("the new token", async || {
            Ok((status("the-second-token").await? != 401).then_some(()))
        })
        .await?;
        ensure!(status("the-first-token").await? == 401, "the old token is still good");
        eventually("what changed", async || {
            let log = node.log();
            let line = log.lines().find(|line| line.contains("reloaded the configuration"));
            Ok(line.map(ToOwned::to_owned))
        })
        .await
        .and_then(|line| {
            ensure!(line.contains("api.token") && line.contains("log.filter"), "{line}");
            ensure!(line.contains("changes_at_the_next_start=\"node\""), "{line}");
            Ok(())
        })?;

        // One that is wrong changes nothing.
        fs::write(&file, config("nodd = 1\n"))?;
        node.signal(Signal::HUP)?;
        eventually("the complaint", async || {
            Ok(node.log().contains("did you mean node?").then_some(()))
        })
        .await?;
        ensure!(status("the-second-token").await? != 401);
        Ok(())
    });
}

/// Without it, `nohup slotd serve &` would end with the terminal all the same.
#[test]
fn a_signal_that_was_ignored_stays_ignored() {
    scenario(async {
        let options = NodeOptions { hangup_ignored: true, ..NodeOptions::default() };
        let mut node = Node::start_with(options).await?;
        ignores_hangup(node.pid().context("it does not run")?)?;
        node.signal(Signal::HUP)?;
        node.admin().client.get("/healthz").await?.success()?;
        let status = node.terminate().await?;
        ensure!(status.success(), "{status}");
        ensure!(!node.log().contains("SIGHUP"), "{}", node.log());
        Ok(())
    });
}

fn ignores_hangup(pid: u32) -> anyhow::Result<()> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = u64::from_str_radix(ignored.context("no SigIgn")?.trim(), 16)?;
    ensure!(ignored & 1 == 1, "SIGHUP is not ignored any more: {ignored:x}");
    Ok(())
}

/// Without it, every user of the machine could read every message.
#[test]
fn what_a_node_keeps_is_its_users_own() {
    scenario(async {
        let mut node = node_with("counter", "counter").await?;
        node.api().send("counter", "a", Message::bytes("1")).await?;
        only_the_users(node.data_dir())?;
        ensure!(!node.log().contains("every user of this machine"), "{}", node.log());
        node.terminate().await?;
        only_the_users(node.data_dir())?;
        // As it was before, or as something else has made it.
        fs::set_permissions(node.data_dir(), fs::Permissions::from_mode(0o755))?;
        node.restart().await?;
        let says = format!("chmod -R o-rwx {}", node.data_dir().display());
        ensure!(node.log().contains(&says), "{}", node.log());
        Ok(())
    });
}

fn only_the_users(path: &Path) -> anyhow::Result<()> {
    let mode = fs::metadata(path)?.permissions().mode();
    ensure!(mode & 0o077 == 0, "{} has mode {mode:o}", path.display());
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            only_the_users(&entry?.path())?;
        }
    }
    Ok(())
}
