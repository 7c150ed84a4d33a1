//! `slotd cluster`: clusters and NATS servers on this machine, for development and experiments.

mod children;
mod dev;
mod plan;

use super::{
    exit::{CliError, Exit},
    output::{self, Table, text},
    signals::Signals,
};
use crate::{
    nats::{
        NatsError,
        local::{LocalOptions, LocalServers},
    },
    peer::secret,
};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::{
    ffi::OsString,
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

/// The first node's API, if the port is free: client commands look there by default.
pub const PORT_DEFAULT: u16 = 7070;
/// The maximum number of nodes on one machine.
const NODES_MAX: i64 = 9;
/// Interval between checks of what runs.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, Subcommand)]
pub enum ClusterCmd {
    /// Run a whole cluster on this machine: nodes, NATS servers and a plugin
    ///
    /// Starts NATS servers and nodes on loopback, deploys a plugin, prints the addresses, and shows
    /// the nodes' warnings, each line with its node's name. A node's full log is in the file `log`
    /// in its folder; to see more on the terminal, pass for example `-- --log-filter info`. Ctrl-C
    /// stops everything. All data is in one folder, which the next start uses again.
    Dev(Dev),
    /// Run NATS servers with JetStream on this machine, as a cluster's log engine
    ///
    /// They replicate and sync every write to the disk, and listen on free loopback ports. Ctrl-C
    /// stops them and keeps the data in the folder.
    Nats(Nats),
    /// Make a secret for a cluster, and print it
    ///
    /// Prints 256 random bits, for `cluster.secret_file` or SLOTD_CLUSTER_SECRET of all nodes. It
    /// is not stored: redirect it to a file that only slotd can read.
    Secret,
}

#[derive(Debug, Args)]
pub struct Dev {
    /// The number of nodes
    #[arg(long, value_name = "N", default_value_t = 3)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=NODES_MAX))]
    pub nodes: u16,
    /// The number of NATS servers: 3, or 1 for a smaller setup
    #[arg(long, value_name = "N", default_value = "3", value_parser = servers)]
    pub nats_servers: usize,
    /// The folder for all data
    #[arg(long, value_name = "DIR", default_value = "slotd-cluster")]
    pub dir: PathBuf,
    /// The first node's API port. Its admin and peer ports come next; each further node's are ten
    /// higher. 0: any free ports [default: 7070, or free ports if one is taken]
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Deploy this component [default: plugins/counter.wasm beside this program's build]
    #[arg(long, value_name = "FILE")]
    pub plugin: Option<PathBuf>,
    /// Deploy it as this service [default: the file's name without its version]
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Stop once everything is ready and printed
    #[arg(long)]
    pub exit_when_ready: bool,
    /// More flags for each node's `slotd serve`
    #[arg(last = true, value_name = "FLAGS")]
    pub serve: Vec<OsString>,
}

#[derive(Debug, Args)]
pub struct Nats {
    /// The number of servers: 1, or 3 that replicate
    #[arg(long, value_name = "N", default_value = "3", value_parser = servers)]
    pub servers: usize,
    /// The folder for their data and logs
    #[arg(long, value_name = "DIR", default_value = "slotd-nats")]
    pub dir: PathBuf,
}

fn servers(raw: &str) -> Result<usize, String> {
    match raw {
        "1" => Ok(1),
        "3" => Ok(3),
        _ => Err("it must be 1 or 3".into()),
    }
}

pub async fn run(command: ClusterCmd, json: bool) -> Result<(), CliError> {
    match command {
        ClusterCmd::Dev(args) => dev::dev(args, json).await,
        ClusterCmd::Nats(args) => nats(args, json).await,
        ClusterCmd::Secret => {
            let secret = secret::generate();
            output::line(&if json { json!({"secret": secret}).to_string() } else { secret })
        }
    }
}

impl From<NatsError> for CliError {
    fn from(error: NatsError) -> Self {
        Self::new(Exit::CannotStart, error.to_string())
    }
}

fn can_not(what: &str, path: &Path) -> impl Fn(std::io::Error) -> CliError {
    let what = format!("can't {what} {}", path.display());
    move |e| CliError::new(Exit::CannotStart, format!("{what}: {e}"))
}

/// A folder that one process at a time uses, with the number of servers that it is for.
struct Folder {
    path: PathBuf,
    noted: PathBuf,
    _lock: File,
}

impl Folder {
    fn open(path: &Path, servers: usize) -> Result<Self, CliError> {
        let path = std::path::absolute(path).map_err(can_not("use", path))?;
        std::fs::create_dir_all(&path).map_err(can_not("make", &path))?;
        let lock = path.join("lock");
        let lock = File::create(&lock).map_err(can_not("make", &lock))?;
        if lock.try_lock().is_err() {
            let message = format!("another `slotd cluster` is running in {}", path.display());
            return Err(CliError::new(Exit::CannotStart, message));
        }
        // Replicating servers store each other's names: one of three does not work alone.
        let noted = path.join("nats-servers");
        match std::fs::read_to_string(&noted) {
            Ok(before) if before.trim() != servers.to_string() => Err(CliError::usage(format!(
                "{} was created with another number of NATS servers ({}): start as many, or use \
                 another folder",
                path.display(),
                before.trim()
            ))),
            _ => Ok(Self { path, noted, _lock: lock }),
        }
    }

    /// To be called once the servers have started.
    fn note(&self, servers: usize) -> Result<(), CliError> {
        std::fs::write(&self.noted, format!("{servers}\n")).map_err(can_not("write", &self.noted))
    }
}

/// The servers, for `--json` and the tables.
fn servers_json(servers: &LocalServers, dir: &Path) -> Value {
    let pids = servers.pids();
    let urls = servers.urls();
    let both = urls.iter().zip(servers.monitor_urls());
    let each = both.zip(servers.names()).enumerate().map(|(index, ((url, monitor), name))| {
        json!({
            "name": name,
            "url": url,
            "port": url.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok()),
            "monitor": monitor,
            "pid": pids.iter().find(|(i, _)| *i == index).map(|(_, pid)| pid),
            "config": dir.join(name).join("nats.conf"),
        })
    });
    each.collect()
}

fn servers_table(servers: &Value) -> String {
    let mut table = Table::new(&["NATS", "CLIENTS", "MONITOR", ">PID", "CONFIGURATION"]);
    for server in servers.as_array().into_iter().flatten() {
        table.row(["name", "url", "monitor", "pid", "config"].map(|name| text(server, name)));
    }
    table.render()
}

async fn nats(args: Nats, json: bool) -> Result<(), CliError> {
    let mut signals = Signals::listen()?;
    let folder = Folder::open(&args.dir, args.servers)?;
    let start = LocalServers::start(LocalOptions::new(args.servers, &folder.path));
    let servers = tokio::select! {
        // The started processes end with the future.
        _ = signals.stop_or_hangup() => return Ok(()),
        servers = start => servers?,
    };
    folder.note(args.servers)?;
    let list = servers_json(&servers, &folder.path);
    if json {
        output::line(&json!({"dir": folder.path, "servers": list}).to_string())?;
    } else {
        output::line(&format!(
            "{} with JetStream, syncing every write, in {}\n",
            output::count(args.servers, "NATS server"),
            folder.path.display()
        ))?;
        output::print(&servers_table(&list))?;
        let urls = servers.urls().join(",");
        output::line(&format!(
            "\nStart a node that uses them:\n  SLOTD_CLUSTER_SECRET={} slotd serve --nats-servers \
             {urls}{}\n\n\
             Ctrl-C stops them and keeps the data.",
            secret::generate(),
            if args.servers == 1 { " --nats-replicas 1" } else { "" }
        ))?;
    }
    tokio::select! {
        _ = signals.stop_or_hangup() => Ok(()),
        never = watch_servers(&servers, &folder.path) => match never {},
    }
}

/// Reports a server that has exited by itself, and how to restart it.
async fn watch_servers(servers: &LocalServers, dir: &Path) -> std::convert::Infallible {
    let mut running = servers.pids().len();
    loop {
        tokio::time::sleep(LOOK * 10).await;
        let Err(error) = servers.ready().await else { continue };
        output::complain(&error.to_string());
        let pids = servers.pids();
        if pids.len() == running {
            continue;
        }
        running = pids.len();
        for (index, name) in servers.names().into_iter().enumerate() {
            if !pids.iter().any(|(i, _)| *i == index) {
                let config = dir.join(name).join("nats.conf");
                let back = format!("nats-server --config {}", config.display());
                output::complain(&format!("to restart {name}: {back}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two processes on one store would destroy it; one server can't run a store of three.
    #[test]
    fn a_folder_is_for_one_process_and_as_many_servers() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("new/folder");
        // A failed start leaves nothing that another number could damage.
        drop(Folder::open(&dir, 1).unwrap());
        let folder = Folder::open(&dir, 3).unwrap();
        folder.note(3).unwrap();
        let error = Folder::open(&dir, 3).err().unwrap();
        assert_eq!(error.exit, Exit::CannotStart);
        assert!(
            error.message.contains("another `slotd cluster` is running in"),
            "{}",
            error.message
        );
        drop(folder);
        let error = Folder::open(&dir, 1).err().unwrap();
        assert!(error.message.contains("another number of NATS servers (3)"), "{}", error.message);
        assert!(Folder::open(&dir, 3).is_ok());
    }

    /// Scripts read these fields; people need all of them in one table.
    #[test]
    fn servers_are_told_with_all_that_is_needed() {
        let list = json!([
            {"name": "slotd-1", "url": "nats://127.0.0.1:4001", "port": 4001,
             "monitor": "http://127.0.0.1:4002", "pid": 77, "config": "/d/slotd-1/nats.conf"},
            {"name": "slotd-2", "url": "nats://127.0.0.1:4003", "port": 4003,
             "monitor": "http://127.0.0.1:4004", "pid": null, "config": "/d/slotd-2/nats.conf"},
        ]);
        assert_eq!(
            servers_table(&list),
            "NATS     CLIENTS                MONITOR                PID  CONFIGURATION\n\
             slotd-1  nats://127.0.0.1:4001  http://127.0.0.1:4002   77  /d/slotd-1/nats.conf\n\
             slotd-2  nats://127.0.0.1:4003  http://127.0.0.1:4004    -  /d/slotd-2/nats.conf\n"
        );
    }
}
