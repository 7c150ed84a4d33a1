//! Starting and stopping: what a node refuses to start with, and how it ends.

use crate::common::{SOON, deed, node_with, say};
use anyhow::{Context, ensure};
use serde_json::json;
use slotd_tests::{
    api::Message,
    node::{Finished, Node, NodeOptions, eventually, finish, run_slotd, scenario, slotd},
    plugins,
    socket::Received,
};
use std::{collections::BTreeMap, fs, path::Path};

/// Exit codes that scripts rely on.
const USAGE: i32 = 2;
const CANNOT_START: i32 = 6;
const DAMAGED: i32 = 7;

/// Runs `slotd serve`, which must not start.
async fn serve(args: &[&str], env: &[(&str, &str)]) -> anyhow::Result<Finished> {
    let mut command = slotd()?;
    command.args(["serve", "--api-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    command.args(args).envs(env.iter().copied());
    tokio::time::timeout(SOON, finish(command)).await.context("it started")?
}

fn expect_refusal(finished: &Finished, exit: i32, says: &[&str]) -> anyhow::Result<()> {
    ensure!(finished.status.code() == Some(exit), "{finished:?} instead of exit {exit}");
    for word in says {
        ensure!(finished.stderr.contains(word), "nothing of {word:?} in {}", finished.stderr);
    }
    ensure!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    Ok(())
}

/// Without it, two processes could write one directory.
#[test]
fn a_second_process_on_the_same_data_is_refused() {
    scenario(async {
        let node = node_with("counter", "counter").await?;
        let dir = node.data_dir().to_string_lossy().into_owned();
        let second = serve(&["--data-dir", &dir], &[]).await?;
        expect_refusal(&second, CANNOT_START, &[&dir])?;
        let reply = node.api().send("counter", "a", Message::bytes("x")).await?;
        ensure!(reply.seq == 1, "the first one suffered");
        Ok(())
    });
}

/// Without it, every session would be looked for in the wrong slot.
#[test]
fn another_slot_count_is_refused() {
    scenario(async {
        let mut node = Node::start_with(NodeOptions {
            args: vec!["--slot-count".into(), "64".into()],
            ..NodeOptions::default()
        })
        .await?;
        node.admin().deploy("counter", plugins::load("counter")?).await?;
        ensure!(node.admin().slots().await?.len() == 64);
        node.api().send("counter", "a", Message::bytes("x")).await?;
        ensure!(node.terminate().await?.success());
        let dir = node.data_dir().to_string_lossy().into_owned();
        let other = serve(&["--data-dir", &dir, "--slot-count", "128"], &[]).await?;
        expect_refusal(&other, DAMAGED, &[&dir, "64", "128"])?;
        node.restart().await?;
        ensure!(node.api().session("counter", "a").await?.seq == 1);
        Ok(())
    });
}

/// Without it, a misspelt key would be silently without effect.
#[test]
fn a_wrong_configuration_names_key_value_source_and_what_is_allowed() {
    scenario(async {
        let dir = tempfile::tempdir()?;
        let data = dir.path().join("data").to_string_lossy().into_owned();
        let file = dir.path().join("slotd.toml");
        let path = file.to_string_lossy().into_owned();
        let with_file = ["--data-dir", data.as_str(), "--config", path.as_str()];
        for (text, says) in [
            ("slot_cuont = 3\n", &["slot_cuont", "slot_count", &*path][..]),
            ("slot_count = 0\n", &["slot_count", "0", "16384", &path]),
            ("slot_count = \"many\"\n", &["slot_count", "many", &path]),
            ("[api]\nlisten = \"nowhere\"\n", &["api.listen", "nowhere", &path]),
            ("[nothing]\nx = 1\n", &["nothing", &path]),
            ("slot_count = \n", &[&path]),
        ] {
            fs::write(&file, text)?;
            let refused = serve(&with_file, &[]).await?;
            expect_refusal(&refused, USAGE, says).with_context(|| text.to_owned())?;
        }
        let bare = ["--data-dir", data.as_str()];
        for (name, value, says) in [
            ("SLOTD_SLOT_COUNT", "x", &["SLOTD_SLOT_COUNT", "\"x\""][..]),
            ("SLOTD_SLOT_CUONT", "3", &["SLOTD_SLOT_CUONT"]),
            ("SLOTD_GUESTS_MEMORY", "1 parsec", &["SLOTD_GUESTS_MEMORY", "parsec"]),
        ] {
            let refused = serve(&bare, &[(name, value)]).await?;
            expect_refusal(&refused, USAGE, says).with_context(|| name.to_owned())?;
        }
        let refused = serve(&[&bare[..], &["--slot-count", "99999"]].concat(), &[]).await?;
        expect_refusal(&refused, USAGE, &["--slot-count", "99999", "16384"])?;
        let missing = serve(&["--data-dir", &data, "--config", "/nowhere/x.toml"], &[]).await?;
        expect_refusal(&missing, USAGE, &["/nowhere/x.toml"])?;
        ensure!(!Path::new(&data).exists(), "a refused start left a data directory");
        let checked = run_slotd(&["config", "check", "--config", &path]).await?;
        ensure!(checked.status.code() == Some(USAGE), "{checked:?}");
        Ok(())
    });
}

/// Without it, what is wrong with the secrets would be found only when a node is to start with them.
#[test]
fn secrets_are_checked_with_the_configuration() {
    scenario(async {
        let dir = tempfile::tempdir()?;
        let secrets = dir.path().join("secrets");
        let path = secrets.to_string_lossy();
        let check = ["config", "check", "--effects-secrets-file", &*path];
        expect_refusal(&run_slotd(&check).await?, USAGE, &["secrets"])?;
        fs::write(&secrets, "API_KEY=short\n")?;
        expect_refusal(&run_slotd(&check).await?, USAGE, &["line 1", "8 to 4,096 bytes"])?;
        fs::write(&secrets, "API_KEY=long enough\n")?;
        let checked = run_slotd(&check).await?;
        ensure!(checked.status.success(), "{checked:?}");
        ensure!(checked.stdout.contains("secrets: API_KEY)"), "{checked:?}");
        Ok(())
    });
}

/// Without it, a node could be open to a network by mistake.
#[test]
fn off_loopback_a_token_is_required() {
    scenario(async {
        let dir = tempfile::tempdir()?;
        let data = dir.path().join("data").to_string_lossy().into_owned();
        for flag in ["--api-listen", "--admin-listen"] {
            let refused = serve_on(&[flag, "0.0.0.0:0", "--data-dir", &data]).await?;
            expect_refusal(&refused, USAGE, &["token", "insecure"])?;
        }
        Ok(())
    });
}

/// As [`serve`], without the kit's own listeners.
async fn serve_on(args: &[&str]) -> anyhow::Result<Finished> {
    let all: Vec<&str> = std::iter::once("serve").chain(args.iter().copied()).collect();
    tokio::time::timeout(SOON, run_slotd(&all)).await.context("it started")?
}

/// Without it, a deploy of slotd itself would cost messages that were under way, or leave clients
/// waiting on dead sockets.
#[test]
fn sigterm_finishes_what_is_under_way_and_closes_properly() {
    scenario(async {
        let mut node = Node::start_with(NodeOptions {
            // So that there is time to look while the call is under way.
            args: ["--guests-deadline", "10s"].map(String::from).into(),
            ..NodeOptions::default()
        })
        .await?;
        node.admin().deploy("hostile", plugins::load("hostile-v1")?).await?;
        node.admin().deploy("chat", plugins::load("chat-v1")?).await?;
        let api = node.api();
        api.send("chat", "a", say("ann", "hello")).await?;
        let mut socket = api.socket("chat", "a", Some(1)).await?;
        let mut stream = api.events("chat", "a", Some(1), None).await?;
        let (admin, api_address) = (node.admin(), api.client.address());
        let begun = std::time::Instant::now();
        let working = {
            let work = deed(&json!({"do": "work", "rounds": 1_500_000_000_u64}));
            let api = api.clone();
            tokio::spawn(async move { api.post("hostile", "slow", work).await })
        };
        eventually("the call to be under way", async || {
            Ok((admin.metric("slotd_long_calls", "").await? > 0.0).then_some(()))
        })
        .await?;
        node.signal_terminate()?;
        eventually("the listener to be closed", async || {
            Ok(tokio::net::TcpStream::connect(api_address).await.is_err().then_some(()))
        })
        .await?;
        ensure!(!working.is_finished(), "it listened until the call had ended");
        let answer = working.await??;
        ensure!([200, 503, 504].contains(&answer.status), "under way, then: {answer:?}");
        if answer.status == 503 {
            // On a machine that gives it no running time it is cut, but had all that a call may have.
            ensure!(answer.text().contains("\"unavailable\""), "{answer:?}");
            ensure!(begun.elapsed().as_secs() >= 10, "not waited for: {answer:?}");
        }
        match socket.next().await? {
            Received::Closed(1012, _) => {}
            other => anyhow::bail!("the socket got {other:?}"),
        }
        ensure!(stream.next().await?.is_none(), "the stream did not end");
        let status = node.wait_exit().await?;
        ensure!(status.code() == Some(0), "ended with {status}");
        node.restart().await?;
        let kept = node.api().session("hostile", "slow").await;
        ensure!(kept.is_ok() == (answer.status == 200), "answered {}, {kept:?}", answer.status);
        Ok(())
    });
}

/// Without it, a node would serve what a failing disk made of its data.
#[test]
fn a_damaged_file_is_named_and_nothing_is_served() {
    scenario(async {
        let mut node = node_with("chat", "chat-v1").await?;
        for number in 0..60 {
            let line = say("ann", &format!("line {number} {}", "x".repeat(500)));
            node.api().send("chat", &format!("room-{}", number % 5), line).await?;
        }
        ensure!(node.terminate().await?.success());
        let data_dir = node.data_dir().to_owned();
        let files = files_of(&data_dir)?;
        let mut refused = 0;
        for (path, original) in files.iter().filter(|(_, bytes)| !bytes.is_empty()) {
            let written = original.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            let mut damaged = original.clone();
            let middle = written / 2;
            let until = (middle + 16).min(damaged.len());
            damaged[middle..until].iter_mut().for_each(|byte| *byte ^= 0x5a);
            fs::write(path, &damaged)?;
            let dir = data_dir.to_string_lossy();
            let mut fresh = Node::prepare(NodeOptions {
                data_dir: Some(data_dir.clone()),
                ..NodeOptions::default()
            })?;
            fresh.launch()?;
            let finished = exit_or_ready(&mut fresh).await?;
            let name = path.to_string_lossy();
            match finished {
                Some(code) => {
                    ensure!(code == DAMAGED, "{name}: exit {code}\n{}", fresh.log());
                    let log = fresh.log();
                    ensure!(log.contains(&*dir), "{name} is not named in: {log}");
                    ensure!(!log.contains("panicked"), "{name}: {log}");
                    ensure!(!is_component(path) || log.contains(&*name), "{name}: {log}");
                    refused += 1;
                }
                // Some bytes mean nothing: then nothing is different.
                None => {
                    ensure!(!is_component(path), "{name} went unnoticed");
                    same_as_written(&fresh).await.with_context(|| name.into_owned())?;
                }
            }
            drop(fresh);
            // Whatever the damaged start did, the next one begins with what was there.
            restore(&data_dir, &files)?;
        }
        ensure!(refused > 0, "no damage was noticed in {} files", files.len());
        node.restart().await?;
        same_as_written(&node).await
    });
}

/// What the service runs.
fn is_component(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "wasm")
}

/// The exit code, or `None` when the node listens.
async fn exit_or_ready(node: &mut Node) -> anyhow::Result<Option<i32>> {
    let addresses = node.scratch().join("addresses.json");
    let code = eventually("an end or a beginning", async || {
        if let Some(status) = node.try_wait()? {
            return Ok(Some(status.code()));
        }
        Ok(addresses.exists().then_some(None))
    })
    .await?;
    if code.is_none() {
        node.attach()?;
    }
    Ok(code)
}

async fn same_as_written(node: &Node) -> anyhow::Result<()> {
    for room in 0..5 {
        let history = node.api().whole_history("chat", &format!("room-{room}")).await?;
        ensure!(history.len() == 12, "room {room} has {} lines", history.len());
        for (at, entry) in history.iter().enumerate() {
            let text = format!("line {} {}", at * 5 + room, "x".repeat(500));
            let found = entry.body.as_ref().map(|body| &body["text"]);
            ensure!(found == Some(&json!(text)), "room {room}, {at}: {found:?}");
        }
    }
    Ok(())
}

fn files_of(dir: &Path) -> anyhow::Result<BTreeMap<std::path::PathBuf, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.extend(files_of(&entry.path())?);
        } else {
            files.insert(entry.path(), fs::read(entry.path())?);
        }
    }
    Ok(files)
}

fn restore(dir: &Path, files: &BTreeMap<std::path::PathBuf, Vec<u8>>) -> anyhow::Result<()> {
    for path in files_of(dir)?.keys().filter(|path| !files.contains_key(*path)) {
        fs::remove_file(path)?;
    }
    for (path, bytes) in files {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, bytes)?;
    }
    Ok(())
}
