//! NATS servers, each a process that can be killed and restarted.

use super::{
    nats,
    net::{HostId, Net, address},
    place::{Place, ReservedPort},
};
use crate::{http::Client, node::eventually};
use anyhow::{Context, bail, ensure};
use std::{
    fmt::Write as _,
    fs::{self, OpenOptions},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
};
use tempfile::TempDir;

/// Configured like the host's local servers: a batch must fit into one message.
const PAYLOAD_BYTES_MAX: u32 = 8 * 1024 * 1024;
const LOG_LINES_SHOWN: usize = 30;

/// Certificates of the servers for their clients, which have to show one, too.
#[derive(Clone, Debug)]
pub struct ServerTls {
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// The servers. Dropping them kills them and removes their data.
pub struct Engine {
    servers: Vec<Server>,
    speaks_tls: bool,
}

struct Server {
    place: Arc<Place>,
    host: Option<HostId>,
    client: SocketAddr,
    monitor: SocketAddr,
    dir: PathBuf,
    child: Mutex<Option<Child>>,
    /// So that the ports are still free after a kill.
    _reserved: Vec<ReservedPort>,
    /// Shared by all servers; the last one removes it.
    _scratch: Arc<TempDir>,
}

/// The `nats-server` binary: `SLOTD_NATS_SERVER`, else from the `PATH`, else what `cargo xtask
/// test` has put into `target/tools`.
///
/// # Errors
/// When there is none.
pub fn nats_server_binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("SLOTD_NATS_SERVER").filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools");
    let folders = std::env::split_paths(&path).chain([tools]);
    let mut files = folders.map(|folder| folder.join("nats-server"));
    files.find(|file| file.is_file()).context("no nats-server: run `cargo xtask test`")
}

impl Engine {
    /// Starts servers that replicate among themselves and waits until they are ready: on a network,
    /// each on its own host, or else on loopback.
    ///
    /// # Errors
    /// When they can't be started or are not ready in time.
    pub async fn start(count: usize, net: Option<&Net>) -> anyhow::Result<Self> {
        Self::start_with(count, net, None).await
    }

    /// As [`Engine::start`], with servers that speak to clients over TLS.
    ///
    /// # Errors
    /// As [`Engine::start`].
    pub async fn start_with(
        count: usize,
        net: Option<&Net>,
        tls: Option<&ServerTls>,
    ) -> anyhow::Result<Self> {
        let scratch = Arc::new(tempfile::Builder::new().prefix("slotd-nats-").tempdir()?);
        let mut servers = Vec::new();
        let mut routes = Vec::new();
        let here = Arc::new(Place::here()?);
        for number in 0..count {
            let dir = scratch.path().join(number.to_string());
            fs::create_dir(&dir)?;
            let mut reserved = Vec::new();
            let mut reserve = || -> anyhow::Result<SocketAddr> {
                let port = ReservedPort::new()?;
                let address = port.address;
                reserved.push(port);
                Ok(address)
            };
            let (host, place, [client, route, monitor]) = match net {
                Some(net) => {
                    let (host, place) = net.add()?;
                    let at = |port| SocketAddr::from((address(host), port));
                    (Some(host), place, [at(4222), at(6222), at(8222)])
                }
                None => (None, here.clone(), [reserve()?, reserve()?, reserve()?]),
            };
            routes.push(route);
            let (child, _scratch) = (Mutex::default(), scratch.clone());
            let _reserved = reserved;
            servers.push(Server { place, host, client, monitor, dir, child, _reserved, _scratch });
        }
        for (number, server) in servers.iter().enumerate() {
            fs::write(server.dir.join("server.conf"), config(number, server, &routes, tls)?)?;
        }
        let engine = Self { servers, speaks_tls: tls.is_some() };
        for number in 0..count {
            engine.launch(number)?;
        }
        for number in 0..count {
            engine.ready(number).await?;
        }
        Ok(engine)
    }

    pub fn count(&self) -> usize {
        self.servers.len()
    }

    /// The processes of the running servers.
    pub fn pids(&self) -> Vec<u32> {
        self.servers.iter().filter_map(|server| server.lock().as_ref().map(Child::id)).collect()
    }

    /// The servers' folders, with all that they keep.
    pub fn folders(&self) -> Vec<PathBuf> {
        self.servers.iter().map(|server| server.dir.clone()).collect()
    }

    /// Of each server, for `nats.servers`.
    pub fn urls(&self) -> Vec<String> {
        let scheme = if self.speaks_tls { "tls" } else { "nats" };
        self.servers.iter().map(|server| format!("{scheme}://{}", server.client)).collect()
    }

    /// The servers' monitoring ports.
    pub fn monitors(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(|server| server.monitor).collect()
    }

    /// SIGHUP: a server reads its certificates again.
    ///
    /// # Errors
    /// When it does not run.
    pub fn reload(&self, number: usize) -> anyhow::Result<()> {
        self.servers[number].signal(rustix::process::Signal::HUP)
    }

    /// Ends a server in order: its clients and leaders go elsewhere first.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn leave(&self, number: usize) -> anyhow::Result<()> {
        let server = &self.servers[number];
        server.signal(rustix::process::Signal::USR2)?;
        eventually("a nats-server that ends", async || {
            let ended = server.lock().as_mut().map_or(Ok(None), Child::try_wait)?;
            Ok(ended.map(|_| ()))
        })
        .await?;
        server.lock().take();
        Ok(())
    }

    /// The hosts of the servers on the network; none on loopback.
    pub fn hosts(&self) -> Vec<HostId> {
        self.servers.iter().filter_map(|server| server.host).collect()
    }

    /// Starts a server without waiting.
    ///
    /// # Errors
    /// If it can't be started, or runs already.
    pub fn launch(&self, number: usize) -> anyhow::Result<()> {
        let server = &self.servers[number];
        let mut child = server.lock();
        ensure!(child.is_none(), "nats-server {number} is running");
        let log = OpenOptions::new().create(true).append(true).open(server.log_file())?;
        let mut command = Command::new(nats_server_binary()?);
        command
            .arg("--config")
            .arg(server.dir.join("server.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        *child = Some(server.place.spawn(command).context("starting nats-server")?);
        Ok(())
    }

    /// Waits until a server reports that it is healthy and up to date.
    ///
    /// # Errors
    /// If it exits, or is not ready in time; with the end of its log.
    pub async fn ready(&self, number: usize) -> anyhow::Result<()> {
        let server = &self.servers[number];
        let client = Client::new(server.monitor);
        let ready = eventually("a healthy nats-server", async || {
            let ended = server.lock().as_mut().map_or(Ok(None), Child::try_wait)?;
            if let Some(status) = ended {
                bail!("nats-server {number} ended with {status}");
            }
            Ok(client.get("/healthz").await.ok().filter(|a| a.status == 200).map(|_| ()))
        });
        ready.await.with_context(|| server.log_tail())
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&self, number: usize) -> anyhow::Result<()> {
        let mut child = self.servers[number].lock().take().context("it does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Restarts a server that was killed and waits until it is up to date.
    ///
    /// # Errors
    /// As [`Engine::launch`] and [`Engine::ready`].
    pub async fn restart(&self, number: usize) -> anyhow::Result<()> {
        self.launch(number)?;
        self.ready(number).await
    }

    /// Moves the leader of every stream whose name begins with `prefix` to another server; returns
    /// how many moved.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn move_leaders(&self, prefix: &str) -> anyhow::Result<usize> {
        let mut last = None;
        for server in self.servers.iter().filter(|server| server.lock().is_some()) {
            match nats::move_leaders(server.client, prefix).await {
                Ok(moved) => return Ok(moved),
                // It may just be starting.
                Err(e) => last = Some(e),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("no server runs")))
    }
}

impl Server {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn signal(&self, signal: rustix::process::Signal) -> anyhow::Result<()> {
        let pid = self.lock().as_ref().map(Child::id).context("it does not run")?;
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid)?).context("a process's id")?;
        Ok(rustix::process::kill_process(pid, signal)?)
    }
    fn log_file(&self) -> PathBuf {
        self.dir.join("server.log")
    }
    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.lock().take() {
            // Nothing can be done about a process that can't be killed.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn config(
    number: usize,
    server: &Server,
    routes: &[SocketAddr],
    tls: Option<&ServerTls>,
) -> anyhow::Result<String> {
    let mut out = String::new();
    writeln!(out, "server_name: \"server-{number}\"")?;
    writeln!(out, "listen: \"{}\"", server.client)?;
    writeln!(out, "http: \"{}\"", server.monitor)?;
    writeln!(out, "max_payload: {PAYLOAD_BYTES_MAX}")?;
    // Its clients are told to leave it at once, and within a second have.
    writeln!(out, "lame_duck_grace_period: 1s\nlame_duck_duration: 30s")?;
    if let Some(ServerTls { authority, certificate, key }) = tls {
        writeln!(
            out,
            "tls {{ ca_file: {authority:?}, cert_file: {certificate:?}, key_file: {key:?}, verify: true }}"
        )?;
    }
    let store = server.dir.join("store");
    writeln!(out, "jetstream {{ store_dir: \"{}\", sync_interval: always }}", store.display())?;
    if routes.len() > 1 {
        let others: Vec<String> =
            routes.iter().map(|route| format!("\"nats-route://{route}\"")).collect();
        writeln!(out, "cluster {{")?;
        writeln!(out, "  name: slotd")?;
        writeln!(out, "  listen: \"{}\"", routes[number])?;
        writeln!(out, "  routes: [{}]", others.join(", "))?;
        writeln!(out, "}}")?;
    }
    Ok(out)
}
