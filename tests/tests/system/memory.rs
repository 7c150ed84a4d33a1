//! Memory of plugins' instances: counted, bounded, given back; and code that is compiled once.

use crate::common::{deed, expect_problem};
use anyhow::{Context, ensure};
use futures_util::{StreamExt, stream};
use serde_json::json;
use slotd_tests::{
    api::{Message, metric},
    node::{Node, NodeOptions, eventually, scenario},
    plugins,
};
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

const MIB: f64 = 1024.0 * 1024.0;
const USED: &str = "slotd_instance_memory_bytes";
const MAX: &str = "slotd_instance_memory_max_bytes";

async fn node(args: &[&str]) -> anyhow::Result<Node> {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    Node::start_with(NodeOptions { args, ..NodeOptions::default() }).await
}

/// Sends a message to each of so many new sessions, fewer at a time than there is memory for; gives the slots they fell into.
async fn send_to(node: &Node, service: &str, from: usize, to: usize) -> anyhow::Result<Vec<u16>> {
    let api = node.api();
    let replies = stream::iter(from..to).map(|number| {
        let api = api.clone();
        async move { api.send(service, &format!("s-{number}"), Message::bytes("1")).await }
    });
    let replies: Vec<_> = replies.buffer_unordered(12).collect().await;
    replies.into_iter().map(|reply| Ok(reply?.slot)).collect()
}

/// Memory of instances must follow what runs at once, not how many slots there are, be a number that
/// the operator sees, and go down again when nobody asks any more; else it is found out by the
/// kernel.
#[test]
fn a_few_instances_serve_all_slots_and_go_when_idle() {
    scenario(async {
        let node = node(&["--guests-idle", "20s"]).await?;
        let admin = node.admin();
        admin.deploy("counter", plugins::load("counter")?).await?;
        let fresh = admin.service("counter").await?.memory;
        ensure!(fresh.instances == 1, "one is ready for the first message: {fresh:?}");
        ensure!(fresh.code_bytes.is_some_and(|code| code > 10_000), "{fresh:?}");
        let (mut slots, mut sent) = (BTreeSet::new(), 0);
        while slots.len() < 512 {
            slots.extend(send_to(&node, "counter", sent, sent + 256).await?);
            sent += 256;
        }
        let service = admin.service("counter").await?.memory;
        let text = admin.client.get("/metrics").await?.success()?.text();
        // As many as there are threads, and some that came when one was late.
        ensure!((1..=32).contains(&service.instances), "{service:?}");
        let counted = service.instances as f64;
        ensure!(service.bytes as f64 > counted * 64.0 * 1024.0, "{service:?}");
        let of_service = "service=\"counter\"";
        for (name, label, expected) in [
            (USED, "", service.bytes as f64),
            ("slotd_instances", "", counted),
            ("slotd_service_instances", of_service, counted),
            ("slotd_service_memory_bytes", of_service, service.bytes as f64),
        ] {
            let shown = metric(&text, name, label);
            ensure!(shown == expected, "{name}: {shown} instead of {expected}");
        }
        let listed = node.run(&["services"]).await?;
        ensure!(listed.stdout.contains("MiB"), "{listed:?}");

        // A swap makes one, and those of the version before are dropped.
        let next = plugins::variant(&plugins::load("counter")?, "next");
        admin.deploy("counter", next).await?;
        eventually("the old instances to go", async || {
            Ok((admin.service("counter").await?.memory.instances == 1).then_some(()))
        })
        .await?;

        eventually("idle instances to go", async || {
            Ok((admin.service("counter").await?.memory.instances == 0).then_some(()))
        })
        .await?;
        let text = admin.client.get("/metrics").await?.success()?.text();
        ensure!(metric(&text, USED, "") == 0.0, "instances are gone, their memory is not");
        ensure!(metric(&text, "slotd_slots_running", "") == 512.0, "the slots went with them");
        let again = node.api().send("counter", "s-0", Message::bytes("1")).await?;
        ensure!((again.seq, &again.body[..]) == (2, b"2"), "{again:?}");
        let again = admin.service("counter").await?.memory;
        ensure!(again.instances == 1 && again.bytes > 0, "its memory is not counted again");
        Ok(())
    });
}

/// With room for some twenty instances, forty services must all be served, one giving way to the
/// other, and never hold more than there is.
#[test]
fn idle_instances_give_way_to_those_that_are_asked() {
    scenario(async {
        let limits = ["--guests-memory", "8MiB", "--guests-memory-total", "24MiB"];
        // Who waits for memory waits for half a deadline at most, here on a busy machine.
        let node = node(&[&limits[..], &["--guests-deadline", "6s"]].concat()).await?;
        let admin = node.admin();
        let services: Vec<String> = (0..40).map(|number| format!("counter-{number}")).collect();
        for service in &services {
            admin.deploy(service, plugins::load("counter")?).await?;
        }
        let done = Arc::new(AtomicBool::new(false));
        let watching = tokio::spawn({
            let (admin, done) = (admin.clone(), done.clone());
            async move {
                let mut looks = 0;
                while !done.load(SeqCst) {
                    let text = admin.client.get("/metrics").await?.success()?.text();
                    let (used, max) = (metric(&text, USED, ""), metric(&text, MAX, ""));
                    ensure!(used <= max && max == 24.0 * MIB, "{used} of {max} bytes are in use");
                    looks += 1;
                }
                anyhow::Ok(looks)
            }
        });
        for round in 0..4 {
            for service in &services {
                send_to(&node, service, 8 * round, 8 * round + 8).await?;
            }
        }
        done.store(true, SeqCst);
        ensure!(watching.await?? > 0, "nobody looked");
        let dropped = admin.metric("slotd_instances_dropped_total", "why=\"memory\"").await?;
        let made = admin.metric("slotd_instantiations_total", "").await?;
        ensure!(dropped > 40.0 && made > dropped, "{made} made, {dropped} dropped");
        // A session whose service lost its instances goes on where it was.
        let again = node.api().send(&services[0], "s-0", Message::bytes("1")).await?;
        ensure!((again.seq, &again.body[..]) == (2, b"2"), "{again:?}");
        Ok(())
    });
}

/// When all memory is in use by calls that run, the next must be refused in a way that a client
/// can act on, keep nothing, and succeed once there is room.
#[test]
fn who_finds_no_memory_is_told_so() {
    scenario(async {
        let limits = ["--guests-memory", "48MiB", "--guests-memory-total", "64MiB"];
        let node = node(&[&limits[..], &["--guests-deadline", "6s"]].concat()).await?;
        let (api, admin) = (node.api(), node.admin());
        for service in ["greedy", "hostile"] {
            admin.deploy(service, plugins::load("hostile-v1")?).await?;
        }
        let set = deed(&json!({"do": "set", "key": "kept", "value": 1}));
        api.send("hostile", "late", set).await?;
        let greedy = tokio::spawn({
            let api = api.clone();
            let hold = deed(&json!({"do": "allocate", "mib": 40, "spin": true}));
            async move { api.post("greedy", "first", hold).await }
        });
        eventually("a call that holds 40 MiB", async || {
            let held = admin.metric("slotd_service_memory_bytes", "service=\"greedy\"").await?;
            Ok((held > 40.0 * MIB).then_some(()))
        })
        .await?;
        let large = || deed(&json!({"do": "allocate", "mib": 40}));
        let refused = api.post("hostile", "late", large()).await?;
        let problem = expect_problem(&refused, 503, "memory-full")?;
        ensure!(problem.detail.contains("guests.memory_total"), "{}", problem.detail);
        ensure!(
            problem.more["retriable"] == true && refused.header("retry-after").is_some(),
            "{refused:?}"
        );
        // Others that need little go on all the while.
        let small = api.send("hostile", "other", deed(&json!({"do": "echo"}))).await?;
        ensure!(small.seq == 1 && !greedy.is_finished(), "nobody held the memory any more");
        expect_problem(&greedy.await??, 504, "plugin-deadline")?;
        let served = api.send("hostile", "late", large()).await?;
        ensure!(served.seq == 2, "the refused message used a number up: {served:?}");
        Ok(())
    });
}

/// A swap at the memory's limit can't have an instance of both versions: it must end all the same,
/// and refuse nobody.
#[test]
fn a_swap_needs_no_room_for_two() {
    scenario(async {
        let limits = ["--guests-memory", "2MiB", "--guests-memory-total", "2MiB"];
        let args = ["--slot-count", "16", "--guests-deadline", "6s"];
        let node = node(&[&limits[..], &args[..]].concat()).await?;
        let (admin, counter) = (node.admin(), plugins::load("counter")?);
        admin.deploy("counter", counter.clone()).await?;
        send_to(&node, "counter", 0, 1).await?;
        let held = admin.service("counter").await?.memory;
        ensure!(2.0 * held.bytes as f64 > 2.0 * MIB, "there is room for two: {held:?}");
        let done = Arc::new(AtomicBool::new(false));
        let talking = tokio::spawn({
            let (api, done) = (node.api(), done.clone());
            async move {
                for number in 0.. {
                    let session = format!("t-{}", number % 64);
                    api.send("counter", &session, Message::bytes("1")).await?;
                    if done.load(SeqCst) {
                        break;
                    }
                }
                anyhow::Ok(())
            }
        });
        for note in ["a", "b", "c"] {
            let deployed = admin.deploy("counter", plugins::variant(&counter, note)).await?;
            let swap = deployed.swap.context("no swap")?;
            ensure!(swap.done && swap.moved == 16, "{swap:?}");
        }
        done.store(true, SeqCst);
        talking.await??;
        send_to(&node, "counter", 0, 64).await?;
        Ok(())
    });
}

/// Compiling a large component takes seconds: a start must find what an earlier one has compiled,
/// and make it again when it is lost.
#[test]
fn a_restart_compiles_nothing() {
    scenario(async {
        let mut node = node(&[]).await?;
        node.admin().deploy("counter", plugins::load("counter")?).await?;
        node.api().send("counter", "one", Message::bytes("1")).await?;
        let compiled = "slotd_compile_seconds_count";
        ensure!(node.admin().metric(compiled, "").await? == 1.0, "not compiled once");
        for (lost, expected) in [(false, 0.0), (true, 1.0)] {
            node.terminate().await?;
            if lost {
                std::fs::remove_dir_all(node.data_dir().join("plugins/compiled"))?;
            }
            node.restart().await?;
            let reply = node.api().send("counter", "one", Message::bytes("1")).await?;
            ensure!(reply.seq == if lost { 3 } else { 2 }, "{reply:?}");
            let times = node.admin().metric(compiled, "").await?;
            ensure!(times == expected, "compiled {times} times, code lost: {lost}");
        }
        Ok(())
    });
}
