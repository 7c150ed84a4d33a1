//! Real nodes: `slotd serve` in its own process, on free ports, with its own directory.
//!
//! Dropping a [`Node`] kills it and removes its directory; when a test fails, the end of its log
//! is printed first.

use crate::{
    api::{Admin, Api},
    cluster::place::Place,
    http::Client,
    notice::not_tested,
};
use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use std::{
    cell::RefCell,
    fs::{self, File, OpenOptions},
    io::{PipeReader, pipe},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::sync::watch;

/// Generous: a debug build on a busy two-core machine.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// More than the grace period that a node gives itself.
const EXIT_WITHIN: Duration = Duration::from_secs(60);
/// How often a condition outside of this process is polled.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// So that a hanging test reports it, with its nodes' logs.
const SCENARIO_WITHIN: Duration = Duration::from_secs(300);
/// Lines of a node's log that a failing test prints.
const LOG_LINES_SHOWN: usize = 80;

/// How to start a node.
#[derive(Clone, Debug, Default)]
pub struct NodeOptions {
    /// Further arguments of `slotd serve`.
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Listen here instead of on free ports.
    pub listen: Option<Addresses>,
    /// Put the data directory here instead of into a new temporary directory.
    pub data_dir: Option<PathBuf>,
    pub api_token: Option<String>,
    pub admin_token: Option<String>,
    /// Limit of file descriptors, instead of this process's.
    pub files_max: Option<u32>,
    /// Start it there instead of from the calling thread.
    pub place: Option<Arc<Place>>,
    /// Its standard output and error are one pipe that is never read.
    pub unread: bool,
    /// It is started with SIGHUP ignored, as by `nohup`.
    pub hangup_ignored: bool,
    /// Another `slotd` than the one under test.
    pub program: Option<PathBuf>,
}

/// The newest feature level of the slotd under test.
pub const NEWEST_LEVEL: u64 = 8;

/// Where a running node listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Addresses {
    pub api: SocketAddr,
    pub admin: SocketAddr,
}

/// A node's process and what belongs to it.
pub struct Node {
    options: NodeOptions,
    /// Holds the log, the addresses and (unless told otherwise) the data.
    scratch: TempDir,
    data_dir: PathBuf,
    child: Option<Child>,
    /// The pipe that is never read.
    unread: Option<PipeReader>,
    addresses: watch::Sender<Option<Addresses>>,
    api: Option<Client>,
    admin: Option<Client>,
}

/// How a `slotd` command exited.
#[derive(Clone, Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// The `slotd` binary: `SLOTD_TEST_BIN`, else the one of this program's own build.
///
/// # Errors
/// When there is none; the message says how to build it.
pub fn slotd_binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("SLOTD_TEST_BIN") {
        return Ok(path.into());
    }
    sibling("slotd").context("build it with `cargo build -p slotd`, or run `cargo xtask test`")
}

/// The `slotd` of 25 November 2026, which `cargo xtask test` builds from its commit
/// (`SLOTD_TEST_OLD_BIN`); `None`, with a notice, if it could not.
pub fn old_slotd_or_skip(test: &str) -> Option<PathBuf> {
    let old = std::env::var_os("SLOTD_TEST_OLD_BIN").filter(|path| !path.is_empty());
    if old.is_none() {
        not_tested(&format!("{test}: SLOTD_TEST_OLD_BIN does not name an earlier slotd"));
    }
    old.map(Into::into)
}

/// A program of the same build as this one.
///
/// # Errors
/// When it is not there.
pub fn sibling(name: &str) -> anyhow::Result<PathBuf> {
    let this = std::env::current_exe()?;
    let here = this.parent().context("this program has no directory")?;
    // Tests are in `deps`, one level below the programs.
    let dir = if here.ends_with("deps") { here.parent().unwrap_or(here) } else { here };
    let path = dir.join(name);
    ensure!(path.exists(), "{} is not there", path.display());
    Ok(path)
}

/// A `slotd` command without this process's slotd environment.
///
/// # Errors
/// As [`slotd_binary`].
pub fn slotd() -> anyhow::Result<Command> {
    Ok(clean(Command::new(slotd_binary()?)))
}

/// A program with a limit of file descriptors.
fn limited(program: PathBuf, files_max: u32) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit -n {files_max}; exec \"$0\" \"$@\"")]).arg(program);
    clean(shell)
}

fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SLOTD_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// A command with SIGHUP ignored from its start on.
fn ignoring_hangup(command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(command.get_program());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.stdin(Stdio::null());
    shell
}

/// Runs a `slotd` command to its end.
///
/// # Errors
/// When it can't be started.
pub async fn run_slotd<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> anyhow::Result<Finished> {
    let mut command = slotd()?;
    command.args(args);
    finish(command).await
}

/// Runs a command to its end.
///
/// # Errors
/// When it can't be started.
pub async fn finish(mut command: Command) -> anyhow::Result<Finished> {
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    Ok(Finished {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

impl Node {
    /// Starts a node with the defaults and waits until it is ready.
    ///
    /// # Errors
    /// When it can't be started, exits, or is not ready in time; with its log.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(NodeOptions::default()).await
    }

    /// # Errors
    /// As [`Node::start`].
    pub async fn start_with(options: NodeOptions) -> anyhow::Result<Self> {
        let mut node = Self::prepare(options)?;
        node.restart().await?;
        Ok(node)
    }

    /// A node that is not running yet.
    ///
    /// # Errors
    /// When no directory can be made for it.
    pub fn prepare(options: NodeOptions) -> anyhow::Result<Self> {
        let scratch = tempfile::Builder::new().prefix("slotd-test-").tempdir()?;
        let data_dir = options.data_dir.clone().unwrap_or_else(|| scratch.path().join("data"));
        let addresses = watch::channel(None).0;
        Ok(Self {
            options,
            scratch,
            data_dir,
            child: None,
            unread: None,
            addresses,
            api: None,
            admin: None,
        })
    }

    /// Changes a variable from the next start on.
    pub fn set_env(&mut self, name: &str, value: String) {
        if let Some((_, now)) = self.options.env.iter_mut().find(|(known, _)| known == name) {
            *now = value;
        }
    }

    /// Adds a variable from the next start on.
    pub fn add_env(&mut self, name: &str, value: String) {
        self.options.env.push((name.to_owned(), value));
    }

    /// Uses another `slotd` from the next start on; `None`: the one under test.
    pub fn set_program(&mut self, program: Option<PathBuf>) {
        self.options.program = program;
    }

    /// Starts the process, on the same data if it ran before, and waits until it is ready.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.spawn().await?;
        let admin = self.admin().client;
        let until = Instant::now() + READY_WITHIN;
        while admin.get("/readyz").await.map(|answer| answer.status).ok() != Some(200) {
            self.check_alive(until, "ready")?;
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// As [`Node::restart`], with the API at its previous address.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub async fn restart_on(&mut self, api: SocketAddr) -> anyhow::Result<()> {
        let before = self.options.listen;
        let admin = SocketAddr::from(([127, 0, 0, 1], 0));
        self.options.listen = Some(Addresses { api, admin });
        let restarted = self.restart().await;
        self.options.listen = before;
        restarted
    }

    /// Starts the process without waiting. Returns the file that will contain its addresses.
    ///
    /// # Errors
    /// When it can't be started, or runs already.
    pub fn launch(&mut self) -> anyhow::Result<PathBuf> {
        ensure!(self.child.is_none(), "the node is running");
        let addresses_file = self.addresses_file();
        match fs::remove_file(&addresses_file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        let log = OpenOptions::new().create(true).append(true).open(self.log_file())?;
        let listen = self.options.listen;
        let text = |address: Option<SocketAddr>| {
            address.map_or_else(|| "127.0.0.1:0".to_owned(), |address| address.to_string())
        };
        let (api, admin) = (text(listen.map(|l| l.api)), text(listen.map(|l| l.admin)));
        let program = self.options.program.clone().map_or_else(slotd_binary, Ok)?;
        let mut command = match (self.options.files_max, self.options.hangup_ignored) {
            (Some(files_max), _) => limited(program, files_max),
            (None, true) => ignoring_hangup(&clean(Command::new(program))),
            (None, false) => clean(Command::new(program)),
        };
        command
            .arg("serve")
            .arg("--data-dir")
            .arg(&self.data_dir)
            .args(["--api-listen", &api, "--admin-listen", &admin])
            .arg("--addresses-file")
            .arg(&addresses_file)
            .args(&self.options.args)
            .envs(self.options.env.iter().cloned());
        if self.options.unread {
            let (reader, writer) = pipe()?;
            self.unread = Some(reader);
            command.stdout(writer.try_clone()?).stderr(writer);
        } else {
            command.stdout(log.try_clone()?).stderr(log);
        }
        if let Some(token) = &self.options.api_token {
            command.env("SLOTD_API_TOKEN", token);
        }
        if let Some(token) = &self.options.admin_token {
            command.env("SLOTD_ADMIN_TOKEN", token);
        }
        let child = match &self.options.place {
            Some(place) => place.spawn(command),
            None => Place::lasting()?.spawn(command),
        };
        self.child = Some(child.context("starting slotd")?);
        Ok(addresses_file)
    }

    /// Starts the process and waits until it reports its addresses.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub async fn spawn(&mut self) -> anyhow::Result<()> {
        let addresses_file = self.launch()?;
        let until = Instant::now() + READY_WITHIN;
        while !addresses_file.exists() {
            self.check_alive(until, "listening")?;
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.attach()
    }

    /// Reads the addresses that the process has reported; after [`Node::launch`].
    ///
    /// # Errors
    /// If it has not reported them yet.
    pub fn attach(&mut self) -> anyhow::Result<()> {
        // The file appears atomically.
        let addresses: Addresses = serde_json::from_slice(&fs::read(self.addresses_file())?)?;
        let client = |address, token: &Option<String>| {
            let client = Client::new(address);
            token.as_deref().map_or(client.clone(), |token| client.with_token(token))
        };
        self.api = Some(client(addresses.api, &self.options.api_token));
        self.admin = Some(client(addresses.admin, &self.options.admin_token));
        self.addresses.send_replace(Some(addresses));
        Ok(())
    }

    fn check_alive(&mut self, until: Instant, what: &str) -> anyhow::Result<()> {
        if let Some(status) = self.try_wait()? {
            bail!("slotd ended with {status} before it was {what}:\n{}", self.log_tail());
        }
        ensure!(Instant::now() < until, "slotd is not {what} in time:\n{}", self.log_tail());
        Ok(())
    }

    /// The API, with the API's token. Connects anew after a restart.
    pub fn api(&self) -> Api {
        Api::new(self.client(&self.api))
    }

    /// Deletes every session, so that a test begins as on a new node, which must have been started
    /// with `--resettable`. Deployments stay.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn reset(&self) -> anyhow::Result<()> {
        self.admin().client.post("/admin/v1/reset", "").await?.success()?;
        Ok(())
    }

    /// The admin API, with the admin API's token.
    pub fn admin(&self) -> Admin {
        Admin::new(self.client(&self.admin))
    }

    fn client(&self, of: &Option<Client>) -> Client {
        // A node that never started refuses connections, like a stopped one.
        of.clone().unwrap_or_else(|| Client::new(SocketAddr::from(([127, 0, 0, 1], 1))))
    }

    /// The node's addresses, now and after each restart; `None` before the first start.
    pub fn addresses(&self) -> watch::Receiver<Option<Addresses>> {
        self.addresses.subscribe()
    }

    /// A `slotd` command for this node.
    ///
    /// # Errors
    /// As [`slotd_binary`].
    pub fn command(&self) -> anyhow::Result<Command> {
        let mut command = slotd()?;
        let url = |client: Client| format!("http://{}", client.address());
        command.env("SLOTD_URL", url(self.api().client));
        command.env("SLOTD_ADMIN_URL", url(self.admin().client));
        Ok(command)
    }

    /// Runs a `slotd` command for this node.
    ///
    /// # Errors
    /// When it can't be started.
    pub async fn run(&self, args: &[&str]) -> anyhow::Result<Finished> {
        let mut command = self.command()?;
        command.args(args);
        finish(command).await
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The node's own scratch directory, removed with it.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    fn addresses_file(&self) -> PathBuf {
        self.scratch.path().join("addresses.json")
    }

    /// The exit status, if the process has exited.
    ///
    /// # Errors
    /// When it was not started.
    pub fn try_wait(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let child = self.child.as_mut().context("the node is not running")?;
        let status = child.try_wait()?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    fn log_file(&self) -> PathBuf {
        self.scratch.path().join("slotd.log")
    }

    /// Everything that the node has logged, over its restarts.
    pub fn log(&self) -> String {
        fs::read(self.log_file())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Its last lines.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }

    /// The process, for `/proc`; `None` when it does not run.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Resident memory.
    ///
    /// # Errors
    /// When the node does not run.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        let pid = self.pid().context("the node is not running")?;
        resident_bytes(pid)
    }

    /// SIGKILL; returns when the process is gone.
    ///
    /// # Errors
    /// When it did not run.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("the node is not running")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Sends SIGTERM without waiting.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal_terminate(&self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)
    }

    /// SIGSTOP: it does nothing, and its connections stay, until [`Node::resume`].
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Sends a signal without waiting.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.pid().context("the node is not running")?;
        let pid = Pid::from_raw(pid as i32).context("pid 0")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Waits until the process ends.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn wait_exit(&mut self) -> anyhow::Result<ExitStatus> {
        let until = Instant::now() + EXIT_WITHIN;
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < until, "slotd does not end:\n{}", self.log_tail());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// As [`Node::signal_terminate`] and [`Node::wait_exit`].
    pub async fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        self.signal_terminate()?;
        self.wait_exit().await
    }
}

thread_local! {
    /// The ends of the logs of this thread's nodes, for a scenario that fails after they are gone.
    static LOGS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.child.is_some() {
            // Nothing can be done about a process that can't be killed.
            let _ = self.kill();
        }
        let log = format!("---- end of the node's log ----\n{}\n----", self.log_tail());
        if std::thread::panicking() {
            eprintln!("{log}");
        } else {
            LOGS.with_borrow_mut(|logs| logs.push(log));
        }
    }
}

/// Runs a test's scenario; when it fails, prints its nodes' logs and panics.
///
/// # Panics
/// When the scenario fails, or takes longer than [`SCENARIO_WITHIN`].
pub fn scenario(work: impl Future<Output = anyhow::Result<()>>) {
    scenario_within(SCENARIO_WITHIN, work);
}

/// As [`scenario`], with another time limit.
///
/// # Panics
/// When the scenario fails, or takes longer.
pub fn scenario_within(limit: Duration, work: impl Future<Output = anyhow::Result<()>>) {
    LOGS.with_borrow_mut(Vec::clear);
    let result = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting a runtime")
        .and_then(|runtime| {
            runtime.block_on(async {
                let limited = tokio::time::timeout(limit, work).await;
                limited.unwrap_or_else(|_| bail!("not done within {limit:?}"))
            })
        });
    if let Err(e) = result {
        LOGS.with_borrow(|logs| logs.iter().for_each(|log| eprintln!("{log}")));
        panic!("{e:#}");
    }
}

/// Resident memory of a process.
///
/// # Errors
/// When there is no such process.
pub fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    status_bytes(pid, "VmRSS:")
}

/// A size of a process's memory, by its name in `/proc`.
///
/// # Errors
/// When there is no such process, or no such name.
pub fn status_bytes(pid: u32, name: &str) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).context("not there")?;
    Ok(kib.trim().parse::<u64>()? * 1024)
}

/// CPU time that a process has used, with or without that of its finished children.
///
/// # Errors
/// When there is no such process.
pub fn cpu_time(pid: u32, with_children: bool) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may contain anything; after it come state, parent, ...
    let (_, fields) = stat.rsplit_once(')').context("no name")?;
    let ticks = fields.split_whitespace().skip(11).take(if with_children { 4 } else { 2 });
    let ticks = ticks.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    // The unit of `/proc`, on every Linux.
    Ok(Duration::from_millis(ticks * 10))
}

/// Waits until `condition` returns a value.
///
/// # Errors
/// If it does not within a minute; with `what` was waited for.
pub async fn eventually<T>(
    what: &str,
    mut condition: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let until = Instant::now() + READY_WITHIN;
    loop {
        if let Some(value) = condition().await? {
            return Ok(value);
        }
        ensure!(Instant::now() < until, "waited in vain for: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Writes a file of `bytes` bytes under a directory, to fill a file system.
///
/// # Errors
/// Errors of the file system, other than being full.
pub fn fill_up(path: &Path) -> anyhow::Result<()> {
    use std::io::Write;
    let mut file = File::create(path)?;
    let block = vec![0_u8; 64 * 1024];
    let mut size = block.len();
    while size > 0 {
        match file.write(&block[..size]) {
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::StorageFull => size /= 2,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}
