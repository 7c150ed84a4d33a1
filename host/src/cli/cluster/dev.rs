//! `slotd cluster dev`.

use super::{
    Dev, Folder, LOOK, PORT_DEFAULT,
    children::{Console, Node, Shown},
    plan::{self, Chosen, NodePlan, at},
    servers_json, servers_table, watch_servers,
};
use crate::{
    cli::{
        admin::read_component,
        client::{ADMIN, Client, encode},
        dev::ANY_MESSAGE,
        exit::{CliError, Exit},
        output::{self, Table, text},
        signals::Signals,
    },
    limits,
    names::ServiceName,
    nats::local::{LocalOptions, LocalServers},
    peer::secret,
    telemetry::sink,
    tls::ClientFiles,
};
use http::Method;
use serde_json::{Value, json};
use std::{
    ffi::OsString,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::time::sleep;

/// Retries of a node that can't start yet.
const STARTS_MAX: u32 = 5;

pub async fn dev(args: Dev, json: bool) -> Result<(), CliError> {
    // The nodes' lines pass through here: a paused terminal must not block them.
    sink::start();
    let mut signals = Signals::listen()?;
    let mut cluster = Cluster::new(&args);
    let report = tokio::select! {
        name = signals.stop_or_hangup() => {
            output::complain(&format!("{name}: stopping before everything was ready"));
            None
        }
        report = cluster.start(&args) => Some(report?),
    };
    if let Some(report) = &report {
        match json {
            true => output::line(&report.to_string())?,
            false => output::print(&tables(report, args.plugin.is_none()))?,
        }
        cluster.console.show(Shown::Warnings);
        if !args.exit_when_ready {
            tokio::select! {
                name = signals.stop_or_hangup() => output::complain(&format!("{name}: stopping")),
                () = cluster.watch() => output::complain("no node is running any more; stopping"),
            }
        }
    }
    cluster.console.show(Shown::Errors);
    tokio::select! {
        name = signals.stop_or_hangup() => {
            // Dropping it kills everything.
            Err(CliError::failure(format!("{name}: second signal; killed what was still running")))
        }
        stopped = cluster.stop() => stopped,
    }
}

/// Everything that runs. Fields are dropped in this order: the nodes before their log.
struct Cluster {
    console: Arc<Console>,
    nodes: Vec<Node>,
    plans: Vec<NodePlan>,
    servers: Option<LocalServers>,
    folder: Option<Folder>,
    ports: Option<Chosen>,
}

impl Cluster {
    fn new(args: &Dev) -> Self {
        let asked = |flag: &OsString| flag.to_string_lossy().starts_with("--log-filter");
        let all = args.serve.iter().any(asked);
        Self {
            console: Console::new(if all { Shown::All } else { Shown::Errors }),
            nodes: Vec::new(),
            plans: Vec::new(),
            servers: None,
            folder: None,
            ports: None,
        }
    }

    /// Starts everything and waits until it is ready. Returns the text to print.
    async fn start(&mut self, args: &Dev) -> Result<Value, CliError> {
        let started = crate::clock::timer_now();
        let plugin = plugin(args)?;
        let folder = Folder::open(&args.dir, args.nats_servers)?;
        let dir = folder.path.clone();
        let chosen = choose(args)?;
        self.plans = plan::nodes(&dir, &chosen.nodes, &args.serve);
        self.ports = Some(chosen);

        let nats_dir = nats_dir(&dir);
        let servers = LocalServers::start(LocalOptions::new(args.nats_servers, &nats_dir)).await?;
        let (urls, monitors) = (servers.urls(), servers.monitor_urls());
        let list = servers_json(&servers, &nats_dir);
        folder.note(args.nats_servers)?;
        self.servers = Some(servers);
        self.folder = Some(folder);

        make_secret(&plan::secret_file(&dir)).map_err(super::can_not("write", &dir))?;
        for node in &self.plans {
            std::fs::create_dir_all(&node.dir).map_err(super::can_not("make", &node.dir))?;
            let text = plan::configuration(&dir, node, &self.plans, &urls, &monitors);
            std::fs::write(node.config(), text).map_err(super::can_not("write", &node.config()))?;
            self.nodes.push(self.start_node(node)?);
        }
        self.ready().await?;
        let deployed = match plugin {
            Some((service, component)) => Some(self.deploy(&service, component).await?),
            None => None,
        };
        let nodes = self.plans.iter().zip(&self.nodes).map(|(plan, node)| {
            json!({
                "node": plan.name,
                "api": format!("http://{}", at(plan.ports.api)),
                "admin": format!("http://{}", at(plan.ports.admin)),
                "peer": at(plan.ports.peer),
                "pid": node.pid(),
                "data_dir": plan.data_dir(),
                "log": plan.log(),
                "config": plan.config(),
                "command": plan.command(),
            })
        });
        Ok(json!({
            "dir": dir,
            "nodes": nodes.collect::<Vec<_>>(),
            "servers": list,
            "secret_file": plan::secret_file(&dir),
            "deployed": deployed,
            "took_ms": started.elapsed().as_millis() as u64,
        }))
    }

    fn start_node(&self, node: &NodePlan) -> Result<Node, CliError> {
        let width = self.plans.iter().map(|node| node.name.len()).max().unwrap_or_default();
        let process = Node::start(node, width, &self.console);
        process.map_err(super::can_not("start a node with", &node.config()))
    }

    /// Waits until every node can take requests.
    async fn ready(&mut self) -> Result<(), CliError> {
        let until = crate::clock::timer_now() + limits::CLUSTER_DEV_READY;
        for index in 0..self.plans.len() {
            let admin = self.admin(index)?;
            let mut starts = 1;
            loop {
                let node = &mut self.nodes[index];
                if node.has_just_ended() {
                    let later = node.ended.and_then(|status| status.code());
                    if later == Some(Exit::CannotStart as i32) && starts < STARTS_MAX {
                        // It may work later: retry, as a service manager does.
                        starts += 1;
                        self.nodes[index] = self.start_node(&self.plans[index])?;
                        continue;
                    }
                    let (name, how) = (&node.name, node.how_it_ended());
                    let log = self.plans[index].log();
                    let message = format!(
                        "{name} {how} before it was ready; the reason is above, its log in {}",
                        log.display()
                    );
                    return Err(CliError::new(Exit::CannotStart, message));
                }
                let why = match admin.get("/readyz").await {
                    Ok(_) => break,
                    Err(error) => error.message,
                };
                if crate::clock::timer_now() > until {
                    let waited = limits::CLUSTER_DEV_READY.as_secs();
                    let message = format!("{} is not ready in {waited} s: {why}", node.name);
                    return Err(CliError::new(Exit::CannotStart, message));
                }
                sleep(LOOK).await;
            }
        }
        Ok(())
    }

    fn admin(&self, index: usize) -> Result<Client, CliError> {
        let url = format!("http://{}", at(self.plans[index].ports.admin));
        Client::new(&url, None, limits::CLIENT_DEPLOY_TIMEOUT, ADMIN, &ClientFiles::default())
    }

    async fn deploy(&self, service: &ServiceName, component: Vec<u8>) -> Result<Value, CliError> {
        let path = format!("/admin/v1/services/{}/deploy", encode(service.as_str()));
        let headers = [("content-type", "application/wasm")];
        let admin = self.admin(0)?;
        let answer =
            admin.request(Method::POST, &path, &headers, component.into()).await?.json()?;
        Ok(answer.into_value())
    }

    /// Reports nodes that exit; returns when no node is left.
    async fn watch(&mut self) {
        let (nodes, plans) = (&mut self.nodes, &self.plans);
        let watch_nodes = async {
            while nodes.iter().any(|node| node.ended.is_none()) {
                for (node, plan) in nodes.iter_mut().zip(plans) {
                    if node.has_just_ended() {
                        output::complain(&format!(
                            "{} {}; to restart it: {}",
                            node.name,
                            node.how_it_ended(),
                            plan.command()
                        ));
                    }
                }
                sleep(LOOK).await;
            }
        };
        let (Some(servers), Some(folder)) = (&self.servers, &self.folder) else { return };
        let dir = nats_dir(&folder.path);
        tokio::select! {
            () = watch_nodes => {}
            never = watch_servers(servers, &dir) => match never {},
        }
    }

    /// Stops the nodes gracefully, then the servers.
    async fn stop(&mut self) -> Result<(), CliError> {
        // Nodes that had exited before were already reported.
        let mut running: Vec<&mut Node> =
            self.nodes.iter_mut().filter(|node| node.ended.is_none()).collect();
        running.iter().for_each(|node| node.terminate());
        let until = crate::clock::timer_now() + limits::CLUSTER_DEV_STOP;
        let mut badly = Vec::new();
        while !running.is_empty() {
            running.retain_mut(|node| {
                if !node.has_just_ended() {
                    return true;
                }
                if !node.ended.is_some_and(|status| status.success()) {
                    badly.push(format!("{} {}", node.name, node.how_it_ended()));
                }
                false
            });
            if crate::clock::timer_now() > until {
                let names: Vec<_> = running.iter().map(|node| &*node.name).collect();
                badly.push(format!("did not stop in time, killed: {}", names.join(", ")));
                break;
            }
            sleep(LOOK).await;
        }
        match badly.is_empty() {
            true => Ok(()),
            false => Err(CliError::failure(badly.join("\n  "))),
        }
    }
}

fn choose(args: &Dev) -> Result<Chosen, CliError> {
    let taken = |why: String| {
        CliError::new(
            Exit::CannotStart,
            format!("can't use a port: {why}; choose others with --port"),
        )
    };
    let free = || Chosen::free(args.nodes).map_err(|e| taken(e.to_string()));
    match args.port {
        Some(0) => free(),
        Some(port) => Chosen::fixed(port, args.nodes).map_err(taken),
        None => Chosen::fixed(PORT_DEFAULT, args.nodes).or_else(|why| {
            output::complain(&format!("using free ports, because one is taken: {why}"));
            free()
        }),
    }
}

/// The component to deploy: the requested one, or the counter from this program's build.
fn plugin(args: &Dev) -> Result<Option<(ServiceName, Vec<u8>)>, CliError> {
    let Some(file) = args.plugin.clone().or_else(shipped) else {
        if args.service.is_some() {
            return Err(CliError::usage("--service needs --plugin"));
        }
        return Ok(None);
    };
    let service = args.service.clone().unwrap_or_else(|| plan::service_of(&file));
    Ok(Some((ServiceName::parse(&service)?, read_component(&file)?)))
}

/// The counter, where `cargo xtask` puts the included plugins: `target/plugins`.
fn shipped() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let folders = program.ancestors().skip(1).take(4);
    folders.map(|dir| dir.join("plugins/counter.wasm")).find(|file| file.is_file())
}

/// The NATS servers' folder.
fn nats_dir(dir: &Path) -> PathBuf {
    dir.join("nats")
}

/// Generates the cluster's secret if there is none yet.
fn make_secret(file: &Path) -> std::io::Result<()> {
    let mut open = std::fs::OpenOptions::new();
    match open.write(true).create_new(true).mode(0o600).open(file) {
        Ok(mut file) => file.write_all(format!("{}\n", secret::generate()).as_bytes()),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e),
    }
}

/// The table for people. `own`: the deployed component is the counter that comes with slotd.
fn tables(report: &Value, own: bool) -> String {
    let (nodes, servers) = (output::list(report, "nodes"), output::list(report, "servers"));
    let mut out = format!(
        "\n{} and {} are ready after {}, in {}\n\n",
        output::count(nodes.len(), "node"),
        output::count(servers.len(), "NATS server"),
        output::micros(output::number(report, "took_ms") * 1_000.0),
        text(report, "dir"),
    );
    let mut table = Table::new(&["NODE", "API", "ADMIN", "PEERS", ">PID", "DATA"]);
    for node in nodes {
        let row = ["node", "api", "admin", "peer", "pid", "data_dir"];
        table.row(row.map(|name| text(node, name)));
    }
    out += &table.render();
    out.push('\n');
    out += &servers_table(&report["servers"]);
    let first = nodes.first().unwrap_or(&Value::Null);
    let last = nodes.last().unwrap_or(&Value::Null);
    out += "\nTo try, in another terminal:\n";
    let mut tries: Vec<(String, &str)> = Vec::new();
    let elsewhere = text(first, "api") != format!("http://{}", at(PORT_DEFAULT));
    if elsewhere {
        let set = format!(
            "export SLOTD_URL={} SLOTD_ADMIN_URL={}",
            text(first, "api"),
            text(first, "admin")
        );
        tries.push((set, "client commands use the first node"));
    }
    match report["deployed"]["service"].as_str() {
        Some(service) => {
            let label = text(report, "deployed.current.label");
            let runs = format!("{service} runs {label} on every node\n");
            out.insert_str(out.find("\nTo try").map_or(0, |at| at + 1), &(runs + "\n"));
            let message = if own { "1".into() } else { format!("'{ANY_MESSAGE}'") };
            tries.push((
                format!("slotd send {service} alice {message}"),
                "send a message to a session",
            ));
        }
        None => {
            tries.push((
                "slotd plugin new hello && slotd plugin build hello".into(),
                "write and build a plugin",
            ));
            tries.push(("slotd deploy hello hello-0.1.0.wasm".into(), "deploy it"));
        }
    }
    tries.push(("slotd nodes".into(), "list the nodes and their slots"));
    tries.push((
        format!("slotd node drain {}", text(last, "node")),
        "move its slots to the others and stop it",
    ));
    tries.push((
        format!("kill -9 {}", text(last, "pid")),
        "or kill it: the others take over its slots",
    ));
    tries.push((text(last, "command"), "restart it"));
    let width = tries.iter().map(|(command, _)| command.len()).max().unwrap_or(0).min(60);
    for (command, what) in tries {
        out += &format!("  {command:width$}  # {what}\n");
    }
    out += &format!(
        "\nWarnings of the nodes appear here; their full logs are in {}/NODE/log.\n\
         Ctrl-C stops everything and keeps the data.\n\n",
        text(report, "dir")
    );
    output::harmless(&out, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(api: &str, deployed: Value) -> Value {
        json!({
            "dir": "/tmp/c", "took_ms": 2_900, "secret_file": "/tmp/c/secret",
            "nodes": [{
                "node": "node-1", "api": api, "admin": "http://127.0.0.1:7071",
                "peer": "127.0.0.1:7072", "pid": 41, "data_dir": "/tmp/c/node-1/data",
                "config": "/tmp/c/node-1/slotd.toml",
                "command": "slotd serve --config /tmp/c/node-1/slotd.toml",
            }],
            "servers": [{
                "name": "slotd-1", "url": "nats://127.0.0.1:4001", "port": 4001,
                "monitor": "http://127.0.0.1:4002", "pid": 42, "config": "/tmp/c/nats/slotd-1/nats.conf",
            }],
            "deployed": deployed,
        })
    }

    /// The first output that a new user sees: every command in it must be right for what runs.
    #[test]
    fn what_is_printed_can_be_followed() {
        let deployed = json!({"service": "counter", "current": {"label": "0.1.0+abc"}});
        let text = tables(&report("http://127.0.0.1:7070", deployed.clone()), true);
        for part in [
            "1 node and 1 NATS server are ready after 2.9 s, in /tmp/c\n",
            "node-1  http://127.0.0.1:7070  http://127.0.0.1:7071  127.0.0.1:7072   41  /tmp/c/node-1/data\n",
            "slotd-1  nats://127.0.0.1:4001  http://127.0.0.1:4002   42  /tmp/c/nats/slotd-1/nats.conf\n",
            "\n\ncounter runs 0.1.0+abc on every node\n\nTo try",
            "  slotd send counter alice 1 ",
            "  slotd node drain node-1 ",
            "  kill -9 41 ",
            "  slotd serve --config /tmp/c/node-1/slotd.toml ",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        assert!(!text.contains("export"), "client commands find the defaults by themselves");
        let text = tables(&report("http://127.0.0.1:7070", deployed), false);
        assert!(text.contains("slotd send counter alice '<a message"), "what does it read? {text}");
        let text = tables(&report("http://127.0.0.1:39999", Value::Null), true);
        let export =
            "export SLOTD_URL=http://127.0.0.1:39999 SLOTD_ADMIN_URL=http://127.0.0.1:7071";
        assert!(text.contains(export) && text.contains("slotd deploy hello"), "{text}");
    }

    /// A secret generated at each start would shut out a node that was started by hand.
    #[test]
    fn the_secret_is_made_once_and_for_the_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        make_secret(&file).unwrap();
        let first = std::fs::read_to_string(&file).unwrap();
        make_secret(&file).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), first);
        assert!(crate::config::Secret::parse(first.trim()).is_some());
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
