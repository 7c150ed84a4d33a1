//! nats-servers that this process starts for itself on loopback: for `slotd cluster dev` and tests.
//!
//! One server, or three that replicate. Every append is fsynced before it is acknowledged, as a
//! log needs it. The servers die with this process, however it ends (on Linux).

use super::{NatsError, find, monitor};
use crate::limits;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    os::unix::{fs::OpenOptionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};
use tokio::{net::TcpSocket, sync::oneshot};

/// Lines of a server's log that an error shows.
const LOG_LINES_SHOWN: usize = 12;
/// How often a starting server is polled.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What to start.
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// 1, or 3 as a cluster.
    pub servers: usize,
    /// Has a folder for each server: its store, its log, its configuration. Data from an earlier
    /// start with as many servers is reused.
    pub dir: PathBuf,
    /// The binary; searched for if not given.
    pub binary: Option<PathBuf>,
    /// Room for the streams of one server. Nothing is reserved.
    pub store_bytes_max: u64,
    /// fsync before each acknowledgement. Without it a power loss loses acknowledged data.
    pub sync_always: bool,
    /// Further lines of each server's configuration, for example users.
    pub config: String,
}

impl LocalOptions {
    pub fn new(servers: usize, dir: impl Into<PathBuf>) -> Self {
        Self {
            servers,
            dir: dir.into(),
            binary: None,
            store_bytes_max: limits::NATS_LOCAL_STORE_BYTES,
            sync_always: true,
            config: String::new(),
        }
    }
}

/// Servers that run as long as this value lives. Dropping it kills them; their folders stay.
pub struct LocalServers {
    servers: Vec<Server>,
    keeper: Keeper,
}

struct Server {
    name: String,
    binary: PathBuf,
    dir: PathBuf,
    client: SocketAddr,
    monitor: SocketAddr,
    process: Mutex<Option<Process>>,
    /// Keep the ports reserved while the server is down: bound, not listening, and shared with the
    /// server by SO_REUSEADDR. The kernel gives such a port to no other process.
    _reserved: Vec<TcpSocket>,
}

struct Process {
    child: Child,
    paused: bool,
}

impl LocalServers {
    /// Starts the servers and waits until they are [ready](Self::ready).
    ///
    /// # Errors
    /// [`NatsError::Refused`] if there is no nats-server that could be started, or it exits at
    /// once, with its output; [`NatsError::Unavailable`] if it isn't ready in time.
    pub async fn start(options: LocalOptions) -> Result<Self, NatsError> {
        if !matches!(options.servers, 1 | 3) {
            let message = format!("{} local servers; 1 or 3 can be started", options.servers);
            return Err(NatsError::Refused(message));
        }
        let keeper = Keeper::start().map_err(refused("starting a thread"))?;
        let binary = match &options.binary {
            Some(path) => path.clone(),
            None => {
                let found = crate::task::blocking(find::find).await;
                found.map_err(|e| NatsError::Unavailable(e.to_string()))??.path
            }
        };
        let mut tries = 0;
        loop {
            tries += 1;
            let servers = prepare(&options, &binary).map_err(refused("preparing nats-server"))?;
            let this = Self { servers, keeper: keeper.clone() };
            for index in 0..this.servers.len() {
                this.start_server(index).await?;
            }
            match this.ready().await {
                Ok(()) => return Ok(this),
                // Not observed so far, see `_reserved`; a retry costs nothing.
                Err(e)
                    if tries < limits::NATS_LOCAL_TRIES
                        && e.to_string().contains("address already in use") => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Client addresses, one URL per server.
    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(|server| format!("nats://{}", server.client)).collect()
    }

    /// The monitoring ports, one URL per server.
    pub fn monitor_urls(&self) -> Vec<String> {
        self.servers.iter().map(|server| format!("http://{}", server.monitor)).collect()
    }

    /// The servers' names, which JetStream uses for leaders and peers.
    pub fn names(&self) -> Vec<&str> {
        self.servers.iter().map(|server| server.name.as_str()).collect()
    }

    /// The running processes, with the server's index.
    pub fn pids(&self) -> Vec<(usize, u32)> {
        let pid = |server: &Server| server.process.lock().as_ref().map(|p| p.child.id());
        self.servers.iter().enumerate().filter_map(|(i, s)| Some((i, pid(s)?))).collect()
    }

    /// Starts a stopped server on the same ports and store; does not wait for it.
    ///
    /// # Errors
    /// When the program can't be started.
    pub async fn start_server(&self, index: usize) -> Result<(), NatsError> {
        let server = &self.servers[index];
        if server.process.lock().is_some() {
            return Ok(());
        }
        let log = fs::OpenOptions::new().create(true).append(true).open(server.log());
        let log = log.map_err(refused("opening nats-server's log"))?;
        let mut command = Command::new(&server.binary);
        command.arg("--config").arg(server.config());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = self.keeper.spawn(command).await;
        let child = child.map_err(refused(&format!("starting {}", server.binary.display())))?;
        *server.process.lock() = Some(Process { child, paused: false });
        Ok(())
    }

    /// Kills a server by SIGKILL and waits until it is gone.
    pub fn kill(&self, index: usize) {
        self.servers[index].kill();
    }

    /// Stops a server by SIGSTOP: it keeps its connections and answers nothing.
    pub fn pause(&self, index: usize) {
        self.servers[index].signal(Signal::STOP, true);
    }

    /// Resumes a paused server.
    pub fn resume(&self, index: usize) {
        self.servers[index].signal(Signal::CONT, false);
    }

    /// Waits until every server that runs and is not paused has recovered its streams and, in a
    /// cluster, knows a leader of JetStream and of each of its streams, and JetStream's leader
    /// knows all of them.
    ///
    /// # Errors
    /// If one exits, or none of this happens within [`limits::NATS_LOCAL_READY`].
    pub async fn ready(&self) -> Result<(), NatsError> {
        let started = crate::clock::now();
        loop {
            let not_yet = match self.look().await? {
                None => return Ok(()),
                Some(why) => why,
            };
            if started.elapsed() > limits::NATS_LOCAL_READY {
                let waited = limits::NATS_LOCAL_READY.as_secs();
                let message =
                    format!("the local nats-servers are not ready in {waited} s: {not_yet}");
                return Err(NatsError::Unavailable(message));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// `None`: ready.
    async fn look(&self) -> Result<Option<String>, NatsError> {
        let mut running = Vec::new();
        for server in &self.servers {
            if server.runs()? {
                running.push(server);
            }
        }
        for server in &running {
            let monitor = server.monitor.to_string();
            let asked = async {
                monitor::get(&monitor, "/healthz").await?;
                if self.servers.len() == 1 {
                    return Ok(());
                }
                let about = monitor::get(&monitor, "/jsz?accounts=1&streams=1").await?;
                let leads = |leader: &serde_json::Value| {
                    running.iter().any(|server| leader.as_str() == Some(&server.name))
                };
                let meta = &about["meta_cluster"];
                if !leads(&meta["leader"]) {
                    return Err("JetStream has no leader".to_owned());
                }
                // The leader knows which servers are available for streams.
                let missing = running.iter().find(|other| {
                    let others = meta["replicas"].as_array().into_iter().flatten();
                    let mut others = others.filter(|peer| peer["name"] == other.name.as_str());
                    other.name != server.name
                        && !others.any(|peer| peer["current"] == true && peer["offline"] != true)
                });
                if let (true, Some(missing)) = (meta["leader"] == server.name.as_str(), missing) {
                    return Err(format!("JetStream's leader misses {}", missing.name));
                }
                let accounts = about["account_details"].as_array().into_iter().flatten();
                let streams = accounts.flat_map(|account| account["stream_detail"].as_array());
                match streams.flatten().find(|stream| !leads(&stream["cluster"]["leader"])) {
                    Some(stream) => Err(format!("the stream {} has no leader", stream["name"])),
                    None => Ok(()),
                }
            };
            if let Err(why) = asked.await {
                return Ok(Some(format!("{}: {why}", server.name)));
            }
        }
        Ok(None)
    }
}

impl Server {
    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    fn config(&self) -> PathBuf {
        self.dir.join("nats.conf")
    }

    /// Whether it can be polled.
    fn runs(&self) -> Result<bool, NatsError> {
        let mut process = self.process.lock();
        let Some(running) = process.as_mut() else { return Ok(false) };
        if let Ok(Some(status)) = running.child.try_wait() {
            *process = None;
            let log = fs::read_to_string(self.log()).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n  ");
            let message = format!("{} ended with {status}; its log ends\n  {end}", self.name);
            return Err(NatsError::Refused(message));
        }
        Ok(!running.paused)
    }

    fn signal(&self, signal: Signal, paused: bool) {
        if let Some(process) = self.process.lock().as_mut()
            && let Some(pid) = i32::try_from(process.child.id()).ok().and_then(Pid::from_raw)
        {
            // The child has not been waited for: the id can't be another process's.
            let _ = kill_process(pid, signal);
            process.paused = paused;
        }
    }

    fn kill(&self) {
        if let Some(mut process) = self.process.lock().take() {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Folders, ports and configurations.
fn prepare(options: &LocalOptions, binary: &Path) -> std::io::Result<Vec<Server>> {
    let route_secret = crate::random::hex_id();
    let mut servers = Vec::new();
    let mut routes = Vec::new();
    for number in 1..=options.servers {
        let mut reserved = Vec::new();
        let mut addresses = Vec::new();
        for _ in 0..3 {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
            addresses.push(socket.local_addr()?);
            reserved.push(socket);
        }
        let name = format!("slotd-{number}");
        let dir = std::path::absolute(options.dir.join(&name))?;
        fs::create_dir_all(&dir)?;
        let server = Server {
            name,
            binary: binary.to_owned(),
            dir,
            client: addresses[0],
            monitor: addresses[1],
            process: Mutex::new(None),
            _reserved: reserved,
        };
        routes.push(addresses[2]);
        servers.push(server);
    }
    for (server, route) in servers.iter().zip(&routes) {
        let text = configuration(options, server, *route, &routes, &route_secret);
        // It contains the secret of the routes.
        let mut open = fs::OpenOptions::new();
        let open = open.create(true).write(true).truncate(true).mode(0o600);
        open.open(server.config())?.write_all(text.as_bytes())?;
    }
    Ok(servers)
}

fn configuration(
    options: &LocalOptions,
    server: &Server,
    route: SocketAddr,
    routes: &[SocketAddr],
    secret: &str,
) -> String {
    let Server { name, client, monitor, .. } = server;
    let store = json(&server.dir.join("store").display().to_string());
    let LocalOptions { store_bytes_max, sync_always, config, .. } = options;
    let payload = limits::NATS_LOCAL_PAYLOAD_BYTES;
    let sync = if *sync_always { "always" } else { "2m" };
    let mut out = format!(
        "# Written by slotd at each start; changes are lost.\n\
         server_name: {name}\n\
         listen: \"{client}\"\n\
         http: \"{monitor}\"\n\
         max_payload: {payload}\n\
         jetstream {{ store_dir: {store}, max_file_store: {store_bytes_max}, \
         max_memory_store: 67108864, sync_interval: {sync} }}\n{config}\n"
    );
    if routes.len() > 1 {
        let peers: Vec<_> =
            routes.iter().map(|route| format!("\"nats://slotd:{secret}@{route}\"")).collect();
        // Clients learn of all servers; one that is behind a proxy must stay there.
        let _ = write!(
            out,
            "cluster {{\n  name: slotd-local\n  listen: \"{route}\"\n  no_advertise: true\n  \
             authorization {{ user: slotd, password: \"{secret}\" }}\n  routes: [{}]\n}}\n",
            peers.join(", ")
        );
    }
    out
}

/// nats-server parses strings like JSON.
fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn refused(what: &str) -> impl Fn(std::io::Error) -> NatsError {
    move |e| NatsError::Refused(format!("{what}: {e}"))
}

/// A thread that starts processes. On Linux "dies with the parent" means the parent's *thread*, and
/// those of a runtime end while the process lives on.
#[derive(Clone)]
struct Keeper(mpsc::Sender<Order>);

type Order = (Command, oneshot::Sender<std::io::Result<Child>>);

impl Keeper {
    fn start() -> std::io::Result<Self> {
        let (sender, orders) = mpsc::channel::<Order>();
        crate::thread::start("nats-keeper", move || {
            while let Ok((mut command, reply)) = orders.recv() {
                if let Err(Ok(mut child)) = reply.send(command.spawn()) {
                    // The requester is gone.
                    let _ = child.kill();
                    let _ = child.wait();
                }
            }
        })?;
        Ok(Self(sender))
    }

    async fn spawn(&self, mut command: Command) -> std::io::Result<Child> {
        // A terminal's Ctrl-C is for us: we stop the servers when we are done.
        command.process_group(0);
        #[cfg(target_os = "linux")]
        // SAFETY: between fork and exec it only makes one system call.
        unsafe {
            command.pre_exec(|| {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                Ok(())
            });
        }
        let (reply, child) = oneshot::channel();
        let gone = || std::io::Error::other("the thread that starts processes has ended");
        self.0.send((command, reply)).map_err(|_| gone())?;
        child.await.map_err(|_| gone())?
    }
}

#[cfg(test)]
mod tests;
