//! `slotd dev`: what someone who writes a handler sees, with real builds and a real client.

use crate::common::SOON;
use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use slotd_tests::{
    api::{Api, Message},
    http::Client,
    node::{Finished, eventually, finish, run_slotd, scenario, slotd},
};
use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tempfile::TempDir;
use tokio::{sync::mpsc, time::timeout};

/// A first build compiles the SDK, on a machine that is busy with other tests.
const BUILT: Duration = Duration::from_secs(240);

/// A folder with a new plugin called `poll`.
struct Plugin {
    home: TempDir,
}

impl Plugin {
    /// `test` names a target folder of its own: cargo puts what it builds under the plugin's name, and
    /// each test has another plugin of the same.
    async fn new(test: &str) -> anyhow::Result<Self> {
        let home = tempfile::Builder::new().prefix("slotd-test-").tempdir()?;
        let plugin = Self { home };
        let dir = plugin.dir().to_string_lossy().into_owned();
        let made = run_slotd(&["plugin", "new", "poll", "--path", &dir]).await?;
        ensure!(made.status.success(), "{made:?}");
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        // As the workspace has them: a test is not to depend on what was published since.
        fs::copy(root.join("Cargo.lock"), plugin.dir().join("Cargo.lock"))?;
        let target = root.join("target/new-plugin").join(test).to_string_lossy().into_owned();
        fs::create_dir(plugin.dir().join(".cargo"))?;
        let config = format!("build.target-dir = {}\n", json!(target));
        fs::write(plugin.dir().join(".cargo/config.toml"), config)?;
        Ok(plugin)
    }

    fn dir(&self) -> PathBuf {
        self.home.path().join("poll")
    }

    /// Saves its source as editors do: beside it, then renamed over it.
    fn edit(&self, from: &str, to: &str) -> anyhow::Result<()> {
        let file = self.dir().join("src/lib.rs");
        let text = fs::read_to_string(&file)?;
        ensure!(text.contains(from), "no {from:?} to edit");
        let beside = file.with_file_name(".lib.rs.new");
        fs::write(&beside, text.replace(from, to))?;
        Ok(fs::rename(beside, file)?)
    }
}

/// `slotd` that builds into the target folder that [`Plugin::new`] has named: what the environment
/// says would come first, and put the plugins of all tests, which have one name, into one folder.
fn building() -> anyhow::Result<Command> {
    let mut command = slotd()?;
    command.env_remove("CARGO_TARGET_DIR");
    Ok(command)
}

/// `slotd dev --json` that runs until it is told to stop.
struct Dev {
    child: Child,
    events: mpsc::UnboundedReceiver<Value>,
    stderr: PathBuf,
    api: Api,
}

impl Dev {
    async fn start(plugin: &Plugin, args: &[&str]) -> anyhow::Result<Self> {
        let mut command = building()?;
        let stderr = plugin.home.path().join("stderr");
        command.arg("dev").arg(plugin.dir()).args(["--port", "0", "--json"]).args(args);
        command.stdout(Stdio::piped()).stderr(File::create(&stderr)?);
        let mut child = command.spawn()?;
        let (sender, events) = mpsc::unbounded_channel();
        let out = BufReader::new(child.stdout.take().context("no output")?);
        // Ends with the process.
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        let nowhere = Api::new(Client::new(([127, 0, 0, 1], 1).into()));
        let mut dev = Self { child, events, stderr, api: nowhere };
        let ready = dev.next("ready").await?;
        let api = ready["api"].as_str().and_then(|url| url.strip_prefix("http://"));
        dev.api = Api::new(Client::new(api.context("no address")?.parse()?));
        Ok(dev)
    }

    /// The next event, which must be of this kind.
    async fn next(&mut self, kind: &str) -> anyhow::Result<Value> {
        let event = timeout(BUILT, self.events.recv()).await;
        let event = event.with_context(|| format!("no {kind} in time:\n{}", self.stderr()))?;
        let event = event.with_context(|| format!("it ended before {kind}:\n{}", self.stderr()))?;
        ensure!(event["event"] == kind, "{event} instead of {kind}:\n{}", self.stderr());
        Ok(event)
    }

    fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    async fn vote(&self, session: &str) -> anyhow::Result<Value> {
        let vote = Message::json(&json!({"vote": "tea"})).from("ann");
        self.api.send("poll", session, vote).await?.json()
    }

    /// Ctrl-C, and how it ended.
    async fn interrupt(&mut self) -> anyhow::Result<ExitStatus> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?).context("no process")?;
        kill_process(pid, Signal::INT)?;
        eventually("the end of slotd dev", async || Ok(self.child.try_wait()?)).await
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends without a pause until told to stop; the first failure ends it.
async fn steadily(api: Api, stop: Arc<AtomicBool>) -> anyhow::Result<u64> {
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        let message = Message::json(&json!({"vote": "tea"})).from("bob");
        let session = format!("steady-{}", sent % 20);
        api.send("poll", &session, message).await.with_context(|| format!("message {sent}"))?;
        sent += 1;
    }
    Ok(sent)
}

/// The whole of it. Without it, a save might not arrive, a swap cost a client a request, a broken
/// build take down what served, or sessions be gone after the next start.
#[test]
fn a_handler_is_edited_while_it_serves() {
    scenario(async {
        let plugin = Plugin::new("edited").await?;
        let mut dev = Dev::start(&plugin, &[]).await?;
        let first = dev.next("deployed").await?;
        ensure!(first["service"] == "poll" && first["changed"] == true, "{first}");
        ensure!(dev.vote("a").await? == json!({"votes": 1}));

        let stop = Arc::new(AtomicBool::new(false));
        let steady = tokio::spawn(steadily(dev.api.clone(), stop.clone()));
        let reply = "Ok(Reply { votes })";
        let edited = r#"Ok(slotd_guest::json!({ "votes": votes, "edited": true }))"#;
        plugin.edit(reply, edited)?;
        let changed = dev.next("changed").await?;
        ensure!(changed["files"] == json!([plugin.dir().canonicalize()?.join("src/lib.rs")]));
        let second = dev.next("deployed").await?;
        ensure!(second["label"] != first["label"], "{second}");
        ensure!(second["swap"]["done"] == true && second["swap"]["moved"] != 0, "{second}");
        ensure!(dev.vote("a").await? == json!({"votes": 1, "edited": true}));

        // Does not compile: what rustc says is seen as it said it, and the version before goes on.
        plugin.edit(edited, "Ok(no_such_thing)")?;
        dev.next("changed").await?;
        let failed = dev.next("build-failed").await?;
        ensure!(failed["runs"] == second["label"], "{failed}");
        ensure!(dev.stderr().contains("cannot find value `no_such_thing`"), "{}", dev.stderr());
        ensure!(dev.vote("a").await? == json!({"votes": 1, "edited": true}));

        // Mended, it goes on from there.
        plugin.edit(
            "Ok(no_such_thing)",
            r#"Ok(slotd_guest::json!({ "votes": votes, "third": true }))"#,
        )?;
        dev.next("changed").await?;
        let third = dev.next("deployed").await?;
        ensure!(third["label"] != second["label"], "{third}");
        ensure!(dev.vote("a").await? == json!({"votes": 1, "third": true}));
        stop.store(true, Ordering::Relaxed);
        let sent = steady.await?.context("a request failed while a version was swapped")?;
        ensure!(sent > 0, "nobody sent anything");

        // The same source in another shape is the same component.
        plugin.edit("slotd_guest::export!(Poll);\n", "\nslotd_guest::export!(Poll);\n")?;
        dev.next("changed").await?;
        dev.next("same").await?;

        let status = dev.interrupt().await?;
        ensure!(status.code() == Some(0), "{status}:\n{}", dev.stderr());
        drop(dev);
        let mut dev = Dev::start(&plugin, &[]).await?;
        let again = dev.next("deployed").await?;
        ensure!(again["changed"] == false && again["label"] == third["label"], "{again}");
        let history = dev.api.whole_history("poll", "a").await?;
        ensure!(history.len() == 4, "{} messages", history.len());
        Ok(())
    });
}

/// A migrate that refuses must be seen by the one who wrote it, or the old behaviour of their
/// session is a riddle.
#[test]
fn a_refused_migration_is_shown() {
    scenario(async {
        let plugin = Plugin::new("refused").await?;
        let mut dev = Dev::start(&plugin, &["--service", "poll"]).await?;
        dev.next("deployed").await?;
        dev.vote("old").await?;
        plugin.edit("from.starts_with(\"0.1.\")", "from.is_empty()")?;
        dev.next("changed").await?;
        dev.next("deployed").await?;
        ensure!(dev.vote("old").await? == json!({"votes": 1}), "it goes on as before");
        eventually("the refusal in the stream", async || {
            Ok(dev.stderr().contains("can't read the state of 0.1.0").then_some(()))
        })
        .await
    });
}

/// What keeps it from starting, or from building, must be said with what to do about it.
#[test]
fn what_is_wrong_is_said() {
    scenario(async {
        let empty = tempfile::tempdir()?;
        let dir = empty.path().to_string_lossy().into_owned();
        let Finished { status, stderr, .. } = run_slotd(&["dev", &dir]).await?;
        ensure!(status.code() == Some(1) && stderr.contains("slotd plugin new"), "{stderr}");

        let plugin = Plugin::new("wrong").await?;
        let dir = plugin.dir().to_string_lossy().into_owned();
        let taken = TcpListener::bind("127.0.0.1:0")?;
        let port = taken.local_addr()?.port().to_string();
        let Finished { status, stderr, .. } = run_slotd(&["dev", &dir, "--port", &port]).await?;
        ensure!(status.code() == Some(6) && stderr.contains("--port 0"), "{stderr}");

        // No cargo: it says how to get one, and waits for a save rather than giving up.
        let mut command = slotd()?;
        command.args(["dev", &dir, "--port", "0", "--json"]);
        command.env("PATH", empty.path()).env_remove("CARGO");
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let out = BufReader::new(child.stdout.take().context("no output")?);
        let failed = tokio::task::spawn_blocking(move || {
            for line in out.lines() {
                let event: Value = serde_json::from_str(&line?)?;
                if event["event"] == "build-failed" {
                    return Ok(event);
                }
            }
            bail!("it ended")
        });
        let failed = timeout(SOON, failed).await;
        let still = child.try_wait();
        child.kill()?;
        child.wait()?;
        let failed = failed???;
        let error = failed["error"].as_str().unwrap_or_default();
        ensure!(error.contains("rustup") && failed["runs"].is_null(), "{failed}");
        ensure!(still?.is_none(), "it exited with code");
        Ok(())
    });
}

/// Without it, a compiler would go on by itself after Ctrl-C, or `dev` would wait for it.
#[test]
fn ctrl_c_ends_a_build_too() {
    scenario(async {
        let plugin = Plugin::new("stopped").await?;
        let pid_file = plugin.home.path().join("pid");
        let script = format!(
            "fn main() {{ std::fs::write({:?}, std::process::id().to_string()).unwrap(); \
             loop {{ std::thread::park() }} }}",
            pid_file.display().to_string()
        );
        fs::write(plugin.dir().join("build.rs"), script)?;
        let mut dev = Dev::start(&plugin, &[]).await?;
        let pid = eventually("the build script", async || {
            Ok(fs::read_to_string(&pid_file).ok().and_then(|pid| pid.parse::<u32>().ok()))
        })
        .await?;
        let status = dev.interrupt().await?;
        ensure!(status.code() == Some(0), "{status}:\n{}", dev.stderr());
        eventually("the build's end", async || {
            // One that has ended and is not waited for is a zombie.
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            Ok((stat.is_empty() || stat.contains(") Z ")).then_some(()))
        })
        .await
    });
}

/// `plugin new` must give something that works, and `plugin test` be what one would have typed.
#[test]
fn a_new_plugins_tests_are_run() {
    scenario(async {
        let plugin = Plugin::new("tested").await?;
        let dir = plugin.dir().to_string_lossy().into_owned();
        let mut command = building()?;
        command.args(["plugin", "test", &dir, "--", "nobody"]);
        let passed = finish(command).await?;
        ensure!(passed.status.success() && passed.stdout.contains("1 passed"), "{passed:?}");
        plugin.edit(r#"Some("no-sender")"#, r#"Some("other")"#)?;
        let mut command = building()?;
        command.args(["plugin", "test"]).current_dir(plugin.dir());
        let failed = finish(command).await?;
        ensure!(failed.status.code() == Some(101), "cargo's own exit code: {failed:?}");
        ensure!(failed.stdout.contains("nobody_cannot_vote"), "{failed:?}");
        Ok(())
    });
}
