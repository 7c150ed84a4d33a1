//! The demo, as a new user runs it.

use crate::common::next_event;
use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use slotd_tests::{
    cluster::place::Place,
    http::Client,
    node::{Finished, eventually, finish, scenario, sibling},
    plugins,
    sse::Sse,
};
use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
};

/// Without it, the first thing that a new user types could be broken.
#[test]
fn the_demo_accounts_for_every_message() {
    scenario(async {
        let mut demo = Command::new(sibling("demo")?);
        demo.args(["--exit", "--any-port"]).env("SLOTD_TEST_PLUGINS", plugins::folder());
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
        for words in ["throughput", "p50", "p99", "pause per slot"] {
            ensure!(text.contains(words), "nothing of {words:?} in\n{text}");
        }
        // The node has ended: what to try with it would fail.
        ensure!(!text.contains("curl") && !text.contains(" 0 µs"), "{text}");
        Ok(())
    });
}

/// Without it, Ctrl-C at the demo's end would be answered with an error, since the node hears it
/// too; and Ctrl-C before would leave what the demo has made.
#[test]
fn ctrl_c_ends_the_demo_and_leaves_nothing() {
    scenario(async {
        for (told_at, expected) in [("clients replay", 1), ("Serving until Ctrl-C.", 0)] {
            let scratch = tempfile::Builder::new().prefix("slotd-test-").tempdir()?;
            let made = scratch.path().join("made");
            fs::create_dir(&made)?;
            let out = scratch.path().join("said");
            let output = File::create(&out)?;
            let mut demo = Command::new(sibling("demo")?);
            demo.arg("--any-port").env("SLOTD_TEST_PLUGINS", plugins::folder());
            demo.env("TMPDIR", &made).stdin(Stdio::null());
            demo.stdout(output.try_clone()?).stderr(output);
            // In a group of its own, as a shell starts it.
            let mut demo = Place::lasting()?.spawn(demo)?;
            let output = || fs::read_to_string(&out).unwrap_or_default();
            let reached = eventually(told_at, async || {
                ensure!(demo.try_wait()?.is_none(), "it ended before");
                Ok(output().contains(told_at).then_some(()))
            });
            reached.await.with_context(output)?;
            ensure!(!running_in(&made)?.is_empty(), "no node is running");
            if told_at.starts_with("Serving") {
                shows_the_past(&output()).await?;
            }
            let group = Pid::from_raw(demo.id() as i32).context("pid 0")?;
            kill_process_group(group, Signal::INT)?;
            let status = eventually("the demo's end", async || Ok(demo.try_wait()?)).await;
            let status = status.with_context(output)?;
            ensure!(status.code() == Some(expected), "at {told_at:?}: {status}\n{}", output());
            let left: Vec<_> = fs::read_dir(&made)?.flatten().map(|entry| entry.path()).collect();
            ensure!(left.is_empty(), "at {told_at:?} it left {left:?}");
            let running = running_in(&made)?;
            ensure!(running.is_empty(), "at {told_at:?} it left processes: {running:?}");
        }
        Ok(())
    });
}

/// The line about events that a new user copies must show something.
async fn shows_the_past(output: &str) -> anyhow::Result<()> {
    let line = output.lines().find(|line| line.contains("/events"));
    let url = line.and_then(|line| line.split('\'').nth(1)).context("no line about events")?;
    let rest = url.strip_prefix("http://").context("no URL")?;
    let (address, path) = rest.split_at(rest.find('/').context("no path")?);
    let client = Client::new(address.parse()?);
    let mut stream = Sse::open(&client, path, None).await?;
    next_event(&mut stream).await.map(drop)
}

/// The command lines of processes that name a folder.
fn running_in(folder: &Path) -> anyhow::Result<Vec<String>> {
    let folder = folder.to_str().context("no text")?;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        // Processes may end while we look.
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        found.extend(line.contains(folder).then_some(line));
    }
    Ok(found)
}
