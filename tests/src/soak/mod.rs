//! One node or three under hostile and careless use at once: guests that spin, trap and flood the
//! log, sockets that idle, stall and never read, uploads that stop, components that cost too much,
//! unauthenticated connections on every port, and little memory, disk and few descriptors. At the
//! same time honest clients, whose history is checked, and a quiet service, whose latency is
//! measured alone and under pressure.

mod pressure;
mod watch;

use crate::{
    chaos::load::{Load, LoadShape},
    cluster::{Cluster, ClusterOptions, Own},
    disk::SmallDisk,
    history::{Kind, Report, check},
    node::{Addresses, Node, NodeOptions, resident_bytes},
    plugins,
};
use anyhow::{Context, ensure};
use pressure::Pressure;
use std::{
    fmt, fs,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use watch::{QUIET, Taken, Watch};

/// The configuration of each node.
const ENV: &[(&str, &str)] = &[
    ("SLOTD_GUESTS_MEMORY_TOTAL", "192MiB"),
    ("SLOTD_GUESTS_IDLE", "5s"),
    ("SLOTD_GUESTS_COMPILE_DEADLINE", "5s"),
    ("SLOTD_GUESTS_COMPILE_MEMORY", "512MiB"),
    ("SLOTD_STORE_DISK_RESERVE", "16MiB"),
    ("SLOTD_SLOTS_CACHE", "16MiB"),
];
/// Descriptors of each node.
const FILES_MAX: u32 = 1_536;
/// Of each node.
const DISK_MIB: u32 = 512;
/// Of which spinning guests have few.
const SLOTS: u16 = 256;
/// Time to release what the pressure used: idle instances, closed connections, the allocator's
/// memory.
const REST_WITHIN: Duration = Duration::from_secs(45);

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub length: Duration,
    /// One, or a cluster of this many.
    pub nodes: u32,
    pub seed: u64,
    /// Check the targets for an otherwise idle machine rather than those for any machine.
    pub strict: bool,
}

/// The results.
#[derive(Debug)]
pub struct Account {
    report: Report,
    alone: Taken,
    beside: Taken,
    pressures: Vec<(&'static str, u64, u64)>,
    nodes: Vec<NodeAccount>,
    /// What failed.
    broken: Vec<String>,
}

#[derive(Debug, Default)]
struct NodeAccount {
    rss: [u64; 3],
    files: [u64; 3],
    exit: Option<i32>,
    stopped_within: Duration,
}

impl Account {
    pub fn held(&self) -> bool {
        self.broken.is_empty()
    }

    /// Whether no message was lost or doubled, and every node stopped gracefully: what holds even
    /// on a busy machine.
    pub fn kept_its_word(&self) -> bool {
        self.report.good()
            && self.report.acknowledged > 0
            && self.nodes.iter().all(|node| node.exit == Some(0))
    }
}

/// The running system.
enum System {
    One(Box<Node>),
    Many(Cluster),
}

/// Runs it and checks.
///
/// # Errors
/// If it can't be started, or a client observed something invalid.
pub async fn run(plan: &Plan) -> anyhow::Result<Account> {
    let disks: Vec<_> = (0..plan.nodes)
        .map(|_| SmallDisk::mount_or_skip("a soak on a small disk", DISK_MIB))
        .collect::<Result<_, _>>()?;
    let folders: Vec<Option<PathBuf>> =
        disks.iter().map(|disk| Some(disk.as_ref()?.path().join("data"))).collect();
    let mut system = System::start(plan, &folders).await?;
    let nodes = system.addresses().await?;
    let first = nodes.first().context("no node is running")?;
    let admin = crate::api::Admin::new(crate::http::Client::new(first.admin));
    for (service, plugin) in
        [("counter", "counter"), ("chat", "chat-v1"), (QUIET, "counter"), ("hostile", "hostile-v1")]
    {
        let component = plugins::variant(&plugins::load(plugin)?, service);
        admin.deploy(service, component).await?;
    }
    let mut broken = Vec::new();
    let mut accounts: Vec<NodeAccount> = nodes.iter().map(|_| NodeAccount::default()).collect();

    let alone_for = (plan.length / 5).clamp(Duration::from_secs(4), Duration::from_secs(30));
    println!("alone for {alone_for:?}");
    let quiet = watch::sessions(&pressure::spinning_slots(SLOTS)?, SLOTS)?;
    let watch = Watch::start(&nodes, &quiet);
    tokio::time::sleep(alone_for).await;
    let alone = watch.finish().await;

    println!("under pressure for {:?}", plan.length);
    let shape = LoadShape {
        sessions: 16,
        writers: 4,
        readers: 2,
        deleters: 1,
        think: Duration::from_millis(40),
    };
    let targets: Arc<[SocketAddr]> = nodes.iter().map(|node| node.api).collect();
    let mut load = Load::start(plan.seed, shape, tokio::sync::watch::channel(targets).1);
    tokio::time::sleep(Duration::from_secs(2)).await;
    system.measure(0, &mut accounts).await?;
    let watch = Watch::start(&nodes, &quiet);
    let peers = system.peers();
    let pressure = Pressure::start(&nodes, &peers, &folders)?;
    let until = Instant::now() + plan.length;
    let mut reported = Instant::now();
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(500)).await;
        load.failed().await?;
        system.alive().await?;
        system.peak(&mut accounts).await?;
        if reported.elapsed() > Duration::from_secs(30) {
            reported = Instant::now();
            let failures = load.recorder().take_failures();
            println!("  {} acknowledged; not: {failures:?}", load.recorder().acknowledged());
        }
    }
    let beside = watch.finish().await;
    let pressures = pressure.finish().await;
    println!("not acknowledged: {:?}", load.recorder().take_failures());
    println!("at rest");
    system.rest(&mut accounts).await?;
    let report = check(&load.finish().await?);
    system.stop(&mut accounts, &mut broken).await?;
    let mut account = Account { report, alone, beside, pressures, nodes: accounts, broken };
    account.judge(plan.strict);
    Ok(account)
}

impl System {
    async fn start(plan: &Plan, folders: &[Option<PathBuf>]) -> anyhow::Result<Self> {
        let mut env: Vec<_> =
            ENV.iter().map(|&(name, value)| (name.into(), value.into())).collect();
        if plan.nodes == 1 {
            env.push(("SLOTD_SLOT_COUNT".into(), SLOTS.to_string()));
            let data_dir = folders.first().cloned().flatten();
            let options =
                NodeOptions { env, data_dir, files_max: Some(FILES_MAX), ..NodeOptions::default() };
            return Ok(Self::One(Box::new(Node::start_with(options).await?)));
        }
        let own = (1..)
            .zip(folders)
            .map(|(number, folder)| (number, Own { data_dir: folder.clone(), ..Own::default() }));
        let options = ClusterOptions {
            nodes: plan.nodes,
            slots: SLOTS,
            env,
            own: own.collect(),
            files_max: Some(FILES_MAX),
            ..ClusterOptions::default()
        };
        Ok(Self::Many(Cluster::start(options, None).await?))
    }

    async fn addresses(&self) -> anyhow::Result<Vec<Addresses>> {
        Ok(match self {
            Self::One(node) => vec![node.addresses().borrow().context("it runs")?],
            Self::Many(cluster) => cluster.members().iter().map(|m| m.addresses()).collect(),
        })
    }

    fn peers(&self) -> Vec<SocketAddr> {
        match self {
            Self::One(_) => Vec::new(),
            Self::Many(cluster) => cluster.members().iter().map(|member| member.peer()).collect(),
        }
    }

    async fn pids(&self) -> anyhow::Result<Vec<u32>> {
        let mut pids = Vec::new();
        match self {
            Self::One(node) => pids.extend(node.pid()),
            Self::Many(cluster) => {
                for member in cluster.members() {
                    pids.extend(member.node.lock().await.pid());
                }
            }
        }
        Ok(pids)
    }

    /// No node may have exited by itself.
    async fn alive(&mut self) -> anyhow::Result<()> {
        match self {
            Self::One(node) => {
                let ended = node.try_wait()?;
                ensure!(ended.is_none(), "the node ended: {ended:?}\n{}", node.log_tail());
            }
            Self::Many(cluster) => {
                for member in cluster.members() {
                    let mut node = member.node.lock().await;
                    let ended = node.try_wait()?;
                    let log = node.log_tail();
                    ensure!(ended.is_none(), "{} ended: {ended:?}\n{log}", member.name);
                }
            }
        }
        Ok(())
    }

    async fn measure(&self, at: usize, accounts: &mut [NodeAccount]) -> anyhow::Result<()> {
        for (pid, account) in self.pids().await?.into_iter().zip(accounts) {
            account.rss[at] = resident_bytes(pid)?;
            account.files[at] = files(pid)?;
        }
        Ok(())
    }

    async fn peak(&self, accounts: &mut [NodeAccount]) -> anyhow::Result<()> {
        for (pid, account) in self.pids().await?.into_iter().zip(accounts) {
            account.rss[1] = account.rss[1].max(resident_bytes(pid)?);
            account.files[1] = account.files[1].max(files(pid)?);
        }
        Ok(())
    }

    /// Waits until memory and descriptors are back at their earlier level, up to a time limit.
    async fn rest(&self, accounts: &mut [NodeAccount]) -> anyhow::Result<()> {
        let until = Instant::now() + REST_WITHIN;
        loop {
            self.measure(2, accounts).await?;
            let is_calm = accounts.iter().all(|account| account.excess().is_none());
            if is_calm || Instant::now() > until {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn stop(
        &mut self,
        accounts: &mut [NodeAccount],
        broken: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        match self {
            Self::One(node) => accounts[0].stop(node, broken).await,
            Self::Many(cluster) => {
                for (member, account) in cluster.members().iter().zip(accounts) {
                    account.stop(&mut *member.node.lock().await, broken).await?;
                }
                Ok(())
            }
        }
    }
}

/// Open descriptors of a process.
fn files(pid: u32) -> anyhow::Result<u64> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64)
}

impl NodeAccount {
    async fn stop(&mut self, node: &mut Node, broken: &mut Vec<String>) -> anyhow::Result<()> {
        let started = Instant::now();
        self.exit = node.terminate().await?.code();
        self.stopped_within = started.elapsed();
        if self.exit != Some(0) {
            broken.push(format!("a node ended with {:?}:\n{}", self.exit, node.log_tail()));
        }
        Ok(())
    }

    /// What remained of the memory used under pressure.
    fn excess(&self) -> Option<String> {
        let ([before, _, after], [files_before, _, files_after]) = (self.rss, self.files);
        // A node that has just started has not used its caches yet.
        if after > before + before / 5 + (64 << 20) {
            return Some(format!("{} MiB resident, {} before", after >> 20, before >> 20));
        }
        (files_after > files_before + 64)
            .then(|| format!("{files_after} descriptors, {files_before} before"))
    }
}

impl Account {
    fn judge(&mut self, strict: bool) {
        let Self { report, alone, beside, nodes, broken, .. } = self;
        if !report.good() {
            broken.push(format!("the history has violations: {report}"));
        }
        if report.acknowledged == 0 || report.reads == 0 {
            broken.push("the honest clients had no answers".to_owned());
        }
        broken.extend(nodes.iter().filter_map(NodeAccount::excess));
        let (p99, probe) = match strict {
            true => (2 * alone.p99() + Duration::from_millis(10), Duration::from_millis(50)),
            false => (10 * alone.p99() + Duration::from_millis(500), Duration::from_secs(2)),
        };
        if beside.p99() > p99 {
            broken.push(format!("the quiet service's p99 is {:?}, over {p99:?}", beside.p99()));
        }
        if beside.probe_worst() > probe {
            let worst = beside.probe_worst();
            broken.push(format!("a probe was answered after {worst:?}, over {probe:?}"));
        }
        broken.extend(beside.probes_failed());
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let violations = |kinds: &[Kind]| {
            let of = |violation: &&crate::history::Violation| kinds.contains(&violation.kind);
            self.report.violations.iter().filter(of).count()
        };
        writeln!(f, "honest clients   {}", self.report)?;
        writeln!(
            f,
            "                 lost {}, doubled {}",
            violations(&[Kind::Lost]),
            violations(&[Kind::Doubled, Kind::AppliedTwice])
        )?;
        writeln!(f, "quiet service    alone  {}", self.alone)?;
        writeln!(f, "                 beside {}", self.beside)?;
        for (number, node) in (1..).zip(&self.nodes) {
            let [before, most, after] = node.rss.map(|bytes| bytes >> 20);
            let files = node.files;
            writeln!(
                f,
                "node {number}           {before} MiB resident before, {most} at most, {after} \
                 after; {} descriptors before, {} at most, {} after; exit code {:?} after {:.1} s",
                files[0],
                files[1],
                files[2],
                node.exit,
                node.stopped_within.as_secs_f64()
            )?;
        }
        for (what, done, failed) in &self.pressures {
            writeln!(f, "pressure         {what}: {done} done, {failed} not")?;
        }
        match self.broken.as_slice() {
            [] => write!(f, "everything held"),
            broken => write!(f, "DID NOT HOLD:\n  {}", broken.join("\n  ")),
        }
    }
}
