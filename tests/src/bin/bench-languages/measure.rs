//! One language: its own node, and everything that is measured on it.

use super::{
    Args,
    others::{Latency, Others},
};
use anyhow::{Context, ensure};
use bytes::Bytes;
use serde::Serialize;
use slotd_tests::{
    api::{Swap, metric},
    load::{Extent, Plan, ended},
    node::{Node, NodeOptions, eventually, finish, slotd},
    plugins,
};
use std::{
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

/// The measured service, and the other one, which always runs Rust's counter.
const SERVICE: &str = "counter";
const OTHERS: &str = "others";
/// Enough sessions that each of 512 slots has some.
const SESSIONS_FOR_ALL_SLOTS: u64 = 8_192;
/// Messages after which every slot has had some: in 3 of 100 runs one of 512 is missed.
const BUSY_CALLS: f64 = 5_000.0;
/// Allow all instances at once: none must be dropped while memory is measured.
const ARGS: [&str; 2] = ["--guests-idle", "1h"];

#[derive(Default, Serialize)]
pub struct Figures {
    pub language: String,
    pub component_bytes: u64,
    pub code_bytes: u64,
    /// `None` if its sources are not among the plugins.
    pub build_seconds: Option<f64>,
    pub compile_seconds: f64,
    /// Upload, checks, compilation, trial, and the switch of every slot.
    pub deploy_seconds: f64,
    /// After a restart, from ready to the first answer.
    pub load_seconds: f64,
    pub instantiate_us: f64,
    /// Number that serve all slots.
    pub instances: u64,
    /// Memory per instance as counted by slotd.
    pub counted_bytes: f64,
    /// Growth of the process's resident memory, with shared pages counted proportionally.
    pub resident_bytes: f64,
    pub guest_us: f64,
    pub messages_per_second: f64,
    pub swap_to: Pauses,
    pub swap_from: Pauses,
    pub swap_failed: u64,
    pub others_before: Latency,
    pub others_during: Latency,
}

/// Over some swaps: the median of their p50, the worst of the rest.
#[derive(Default, Serialize)]
pub struct Pauses {
    pub pause_p50_us: f64,
    pub pause_p99_us: f64,
    pub pause_max_us: f64,
    pub all_moved_ms: f64,
}

pub async fn language(args: &Args, language: &str, file: &Path) -> anyhow::Result<Figures> {
    let component = Bytes::from(fs::read(file).with_context(|| file.display().to_string())?);
    // Different bytes than the other service, which is compiled already.
    let component = plugins::variant(&component, language);
    let mut figures = Figures {
        language: language.to_owned(),
        component_bytes: component.len() as u64,
        ..Figures::default()
    };
    let started = Instant::now();
    let done = |what: &str| println!("  {what} ({:.0} s)", started.elapsed().as_secs_f64());
    figures.build_seconds = build(file).await?;
    done("built");
    let mut node = start(args).await?;
    deploy(args, &node, &component, &mut figures).await?;
    done("deployed");
    memory(&node, &mut figures).await?;
    done("an instance in every slot");
    speed(args, &node, &mut figures).await?;
    done("under load");
    swaps(args, &node, &component, &mut figures).await?;
    done("swapped");
    figures.load_seconds = load_seconds(&mut node).await?;
    Ok(figures)
}

async fn start(args: &Args) -> anyhow::Result<Node> {
    let scratch = args.dir.as_ref().map(tempfile::tempdir_in).transpose()?;
    let options = NodeOptions {
        args: ARGS.map(String::from).into(),
        data_dir: scratch.map(|dir| dir.keep().join("data")),
        ..NodeOptions::default()
    };
    let node = Node::start_with(options).await?;
    node.admin().deploy(OTHERS, plugins::load("counter")?).await?;
    Ok(node)
}

// ---- build and deploy -----------------------------------------------------------------------------

/// Builds the plugin of that name once to fetch everything, and again after a change.
async fn build(component: &Path) -> anyhow::Result<Option<f64>> {
    let name = component.file_stem().unwrap_or_default();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins").join(name);
    if !sources.is_dir() {
        return Ok(None);
    }
    let scratch = tempfile::tempdir()?;
    let build = async || {
        let mut command = slotd()?;
        command.args(["plugin", "build"]).arg(&sources);
        command.arg("--out").arg(scratch.path().join("out.wasm"));
        // Fetched files stay out of the plugin's folder.
        if let Some(tools) = std::env::var_os("SLOTD_TEST_TOOLS") {
            command.env("SLOTD_TOOLS_DIR", tools);
        }
        let finished = finish(command).await?;
        ensure!(finished.status.success(), "{}{}", finished.stdout, finished.stderr);
        anyhow::Ok(())
    };
    build().await?;
    touch(&sources, 3)?;
    let started = Instant::now();
    build().await?;
    Ok(Some(started.elapsed().as_secs_f64()))
}

/// Makes sources look changed.
fn touch(folder: &Path, depth: usize) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let hidden = name.starts_with('.') || name == "target" || name == "node_modules";
        let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !hidden && depth > 0 {
            touch(&path, depth - 1)?;
        } else if ["rs", "js", "ts", "py", "c"].contains(&&*extension) {
            fs::File::options().append(true).open(&path)?.set_modified(SystemTime::now())?;
        }
    }
    Ok(())
}

/// Deploys it while others send messages to the node.
async fn deploy(
    args: &Args,
    node: &Node,
    component: &Bytes,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let (api, admin) = (node.api(), node.admin());
    // The first messages start slots and create instances.
    let warm = Others::start(&api, OTHERS);
    tokio::time::sleep(Duration::from_secs(1)).await;
    warm.stop().await?;
    let others = Others::start(&api, OTHERS);
    tokio::time::sleep(Duration::from_secs_f64(args.measure)).await;
    figures.others_before = others.stop().await?;
    let before = admin.metric("slotd_compile_seconds_sum", "").await?;
    let names = ["slotd_instantiate_seconds_sum", "slotd_instantiate_seconds_count"];
    let read = async || {
        let text = admin.client.get("/metrics").await?.success()?.text();
        anyhow::Ok(names.map(|name| metric(&text, name, "")))
    };
    let made_before = read().await?;
    let others = Others::start(&api, OTHERS);
    let started = Instant::now();
    let deployed = admin.deploy(SERVICE, component.clone()).await?;
    figures.deploy_seconds = started.elapsed().as_secs_f64();
    figures.others_during = others.stop().await?;
    ensure!(deployed.changed, "nothing was deployed");
    figures.compile_seconds = admin.metric("slotd_compile_seconds_sum", "").await? - before;
    // The trial one, and for the first message.
    let made = read().await?;
    ensure!(made[1] > made_before[1], "no instance was made");
    figures.instantiate_us = (made[0] - made_before[0]) * 1e6 / (made[1] - made_before[1]);
    let memory = admin.service(SERVICE).await?.memory;
    figures.code_bytes = memory.code_bytes.context("no compiled code")?;
    Ok(())
}

/// Restarts the node: compiled code is mapped, not compiled again.
async fn load_seconds(node: &mut Node) -> anyhow::Result<f64> {
    let compiled = node.data_dir().join("plugins/compiled");
    ensure!(compiled.is_dir(), "no cache of compiled code");
    node.terminate().await?;
    let started = Instant::now();
    node.restart().await?;
    let ready = started.elapsed();
    let answer = node.api().send(SERVICE, "s-0", slotd_tests::api::Message::bytes("1")).await?;
    ensure!(answer.seq > 1, "the session was lost");
    let times = node.admin().metric("slotd_compile_seconds_count", "").await?;
    ensure!(times == 0.0, "a restart compiled {times} times");
    Ok((started.elapsed() - ready).as_secs_f64())
}

// ---- instances ------------------------------------------------------------------------------------

/// The service in every slot, each called several times.
async fn memory(node: &Node, figures: &mut Figures) -> anyhow::Result<()> {
    let (admin, api) = (node.admin(), node.api().client.address());
    // Memory of slots, sessions and connections is allocated before: the other service uses them
    // all.
    each_once(api, OTHERS).await?;
    each_once(api, OTHERS).await?;
    let resident = proportional_bytes(node)?;
    each_once(api, SERVICE).await?;
    let grown = proportional_bytes(node)?.saturating_sub(resident);
    let memory = admin.service(SERVICE).await?.memory;
    ensure!(memory.instances > 0, "{memory:?}");
    figures.instances = memory.instances;
    figures.counted_bytes = memory.bytes as f64 / memory.instances as f64;
    figures.resident_bytes = grown as f64;
    Ok(())
}

/// The process's resident memory; a page that is mapped several times counts once.
fn proportional_bytes(node: &Node) -> anyhow::Result<u64> {
    let pid = node.pid().context("not running")?;
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
    let kib = line.trim().strip_suffix(" kB").context("not in kB")?;
    Ok(kib.trim().parse::<u64>()? * 1024)
}

async fn speed(args: &Args, node: &Node, figures: &mut Figures) -> anyhow::Result<()> {
    let (api, admin) = (node.api().client.address(), node.admin());
    let names = ["slotd_guest_call_seconds_sum", "slotd_guest_call_seconds_count"];
    let read = async || {
        let text = admin.client.get("/metrics").await?.success()?.text();
        anyhow::Ok(names.map(|name| metric(&text, name, "call=\"handle\"")))
    };
    let before = read().await?;
    let load = Plan::timed(api, SERVICE, args.measure);
    Plan { connections: 1, ..load.clone() }.run_apart().await?;
    let after = read().await?;
    figures.guest_us = (after[0] - before[0]) * 1e6 / (after[1] - before[1]);
    figures.messages_per_second = load.run_apart().await?.requests_per_second;
    Ok(())
}

// ---- swaps ----------------------------------------------------------------------------------------

/// Swaps to Rust's counter and back under load, on all slots.
async fn swaps(
    args: &Args,
    node: &Node,
    component: &Bytes,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let (admin, api) = (node.admin(), node.api().client.address());
    let rust = plugins::variant(&plugins::load("counter")?, "swap");
    // Compiled before, so that the load need not last for that.
    admin.deploy(SERVICE, rust.clone()).await?;
    let (mut from, mut to) = (Vec::new(), Vec::new());
    let mut failed = 0;
    for _ in 0..args.swaps {
        for (target, swaps) in [(component, &mut to), (&rust, &mut from)] {
            // Long enough for every slot to be busy, plus a swap.
            let seconds = 3.0 + BUSY_CALLS / figures.messages_per_second;
            let measure = Duration::from_secs_f64(seconds);
            let extent = Extent::Timed { warm_up: Duration::ZERO, measure };
            let load = Plan { extent, ..Plan::timed(api, SERVICE, seconds) };
            let before = calls(node).await?;
            let mut load = load.spawn()?;
            eventually("load on every slot", async || {
                Ok((calls(node).await? > before + BUSY_CALLS).then_some(()))
            })
            .await?;
            let deployed = admin.deploy(SERVICE, target.clone()).await?;
            ensure!(load.try_wait()?.is_none(), "the load ended before the swap");
            let swap = deployed.swap.context("the deploy moved nothing")?;
            ensure!(swap.done, "{swap:?}");
            swaps.push(swap);
            failed += ended(load).await?.failed;
        }
    }
    figures.swap_to = Pauses::of(&to);
    figures.swap_from = Pauses::of(&from);
    figures.swap_failed = failed;
    Ok(())
}

async fn calls(node: &Node) -> anyhow::Result<f64> {
    node.admin().metric("slotd_guest_call_seconds_count", "call=\"handle\"").await
}

impl Pauses {
    fn of(swaps: &[Swap]) -> Self {
        let sorted = |of: fn(&Swap) -> f64| {
            let mut values: Vec<f64> = swaps.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let worst = |of| sorted(of).last().copied().unwrap_or(f64::NAN);
        let p50 = sorted(|swap| swap.pause_p50_us);
        Self {
            pause_p50_us: p50.get(p50.len() / 2).copied().unwrap_or(f64::NAN),
            pause_p99_us: worst(|swap| swap.pause_p99_us),
            pause_max_us: worst(|swap| swap.pause_max_us),
            all_moved_ms: worst(|swap| swap.elapsed_ms),
        }
    }
}

// ---- load -----------------------------------------------------------------------------------------

/// One message to each of enough sessions that every slot has some.
async fn each_once(api: SocketAddr, service: &str) -> anyhow::Result<()> {
    Plan::each_once(api, service, SESSIONS_FOR_ALL_SLOTS).run_apart().await?;
    Ok(())
}
