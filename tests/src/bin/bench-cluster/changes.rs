//! The effect on clients while slots move and processes die.

use crate::{
    Args, Asked, NODES, Report, SERVERS, SERVICE, SETTLED_WITHIN, apis, options,
    speed::log_streams,
    start, start_with,
    steady::{Probes, Steady, Tally},
};
use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use serde_json::json;
use slotd_tests::{
    api::Message,
    cluster::{
        Cluster, ClusterOptions, Member,
        settle::{Change, Pauses},
    },
    load::Plan,
    node::eventually,
    outside::Outside,
    plugins,
    slots::slot_of,
};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// Clients during a change, through all nodes.
const CLIENTS: u64 = 48;
/// The targets are far lower.
const SERVED_WITHIN: Duration = Duration::from_secs(60);
/// The part `handoff`: few slots, so that the sessions of all of them can be created.
const HANDOFF_SLOTS: u16 = 8;
/// How often each of them is moved.
const HANDOFF_ROUNDS: usize = 16;
/// Clients meanwhile: busy slots on a machine that is not saturated.
const HANDOFF_CLIENTS: u64 = 12;
/// Pause between an answer and a client's next message, for a steady load: at most 300 messages a
/// second.
const HANDOFF_THINK: Duration = Duration::from_millis(40);
/// Surplus of sessions, so that each slot gets the requested number despite randomness.
const FILL_MARGIN: f64 = 1.04;

/// The rows common to every change under load.
fn account(report: &mut Report, tally: &Tally) {
    report.figure("  acknowledged meanwhile", tally.acknowledged as f64, "", None);
    report.figure("  requests lost", tally.lost as f64, "", Some(Asked::AtMost(0.0)));
    report.figure("  requests doubled", tally.doubled as f64, "", Some(Asked::AtMost(0.0)));
    report.figure("  requests failed", tally.failed as f64, "", Some(Asked::AtMost(0.0)));
    report.figure("  slowest request", tally.slowest_ms, "ms", None);
}

fn seconds(pauses: &Pauses) -> (f64, f64) {
    (pauses.p50_ms / 1e3, pauses.max_ms / 1e3)
}

/// The slots of a node, according to another.
async fn slots_of(through: &Member, owner: &str) -> anyhow::Result<Vec<u16>> {
    let slots = through.admin().slots().await?;
    Ok(slots.iter().filter(|slot| slot.owner == owner).map(|slot| slot.slot).collect())
}

/// From SIGTERM until the process has ended and the others are at rest with all slots.
pub async fn drain(cluster: &Cluster, report: &mut Report) -> anyhow::Result<()> {
    let members = cluster.members();
    let (leaves, stays) = members.split_first().context("no node")?;
    let through = stays.first().context("no other node")?;
    let slots = slots_of(through, &leaves.name).await?.len();
    let load = Steady::start("drain", CLIENTS, Duration::ZERO, cluster.targets()).await?;
    let change = Change::now();
    cluster.drain(leaves.number).await?;
    let ended = change.at.elapsed();
    cluster.settled(stays, SETTLED_WITHIN).await?;
    let settled = change.at.elapsed();
    let pauses = change.handoff_pauses(&through.admin()).await?;
    let tally = load.finish(&through.api()).await?;
    report.figure("slots of the node", slots as f64, "", None);
    let asked = Some(Asked::AtMost(10.0));
    report.figure("until the node has ended", ended.as_secs_f64(), "s", None);
    report.figure("until all its slots are elsewhere", settled.as_secs_f64(), "s", asked);
    report.figure("  pause per slot, p50", pauses.p50_ms, "ms", None);
    report.figure("  pause per slot, p99", pauses.p99_ms, "ms", None);
    report.figure("  pause per slot, max", pauses.max_ms, "ms", None);
    account(report, &tally);
    let next = NODES + leaves.number;
    cluster.join(next).await?;
    cluster.settled(&cluster.members(), SETTLED_WITHIN).await.map(drop)
}

/// From SIGKILL until each of its slots has answered a current read through another node.
pub async fn node_kill(cluster: &Cluster, report: &mut Report) -> anyhow::Result<()> {
    let members = cluster.members();
    let (victim, others) = members.split_last().context("no node")?;
    let through = others.first().context("no other node")?;
    let probes = Probes::find(&through.api(), cluster.slots()).await?;
    let slots = slots_of(through, &victim.name).await?;
    let count = slots.len();
    let load = Steady::start("node-kill", CLIENTS, Duration::ZERO, cluster.targets()).await?;
    let killed = Instant::now();
    victim.node.lock().await.kill()?;
    let served = probes.served(&apis(others), slots, killed, SERVED_WITHIN).await?;
    cluster.settled(others, SETTLED_WITHIN).await?;
    let settled = killed.elapsed();
    let tally = load.finish(&through.api()).await?;
    let (p50, max) = seconds(&Pauses::of(served));
    report.figure("slots of the node", count as f64, "", None);
    report.figure("until a slot is served again, p50", p50, "s", None);
    report.figure("until all are served again", max, "s", Some(Asked::AtMost(1.5)));
    report.figure("until all is at rest", settled.as_secs_f64(), "s", None);
    account(report, &tally);
    cluster.restart(victim).await?;
    cluster.settled(&members, SETTLED_WITHIN).await.map(drop)
}

/// From the SIGKILL of the server that leads most streams until each slot in them has answered a
/// current read.
pub async fn server_kill(cluster: &Cluster, report: &mut Report) -> anyhow::Result<()> {
    let members = cluster.members();
    let apis = apis(&members);
    let probes = Probes::find(&apis[0], cluster.slots()).await?;
    let streams = log_streams(&cluster.engine).await?;
    let mut led: BTreeMap<&str, Vec<u16>> = BTreeMap::new();
    for stream in &streams {
        let group = stream.name.rsplit('-').next().unwrap_or_default().parse()?;
        led.entry(stream.leader.as_deref().context("no leader")?).or_default().push(group);
    }
    let (leader, groups) = led.iter().max_by_key(|(_, groups)| groups.len()).context("no one")?;
    let number: usize = leader.trim_start_matches("server-").parse()?;
    ensure!(number < SERVERS, "{leader} is none of the servers");
    let count = u16::try_from(streams.len())?;
    let (hit, spared): (Vec<u16>, Vec<u16>) =
        (0..cluster.slots()).partition(|slot| groups.contains(&(slot % count)));
    let slots = hit.len();
    let load = Steady::start("server-kill", CLIENTS, Duration::ZERO, cluster.targets()).await?;
    let killed = Instant::now();
    cluster.engine.kill(number)?;
    let (hit, spared) = tokio::try_join!(
        probes.served(&apis, hit, killed, SERVED_WITHIN),
        probes.served(&apis, spared, killed, SERVED_WITHIN)
    )?;
    let tally = load.finish(&apis[0]).await?;
    let (p50, max) = seconds(&Pauses::of(hit));
    let (_, spared_max) = seconds(&Pauses::of(spared));
    report.figure("slots whose stream it led", slots as f64, "", None);
    report.figure("until a slot is served again, p50", p50, "s", None);
    report.figure("until all are served again", max, "s", Some(Asked::AtMost(12.0)));
    report.figure("until all others have answered", spared_max, "s", None);
    account(report, &tally);
    cluster.engine.restart(number).await?;
    cluster.settled(&members, SETTLED_WITHIN).await.map(drop)
}

/// Moves slots with many sessions while clients write to them: some hundred messages a second, and
/// as many as the machine can take. Each on a separate cluster, whose nodes get most slots for the
/// first time.
pub async fn handoff(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    for (load, think) in [("steady load", HANDOFF_THINK), ("full load", Duration::ZERO)] {
        handoffs(args, load, think, report).await?;
    }
    acting(args, report).await
}

/// The service whose sessions have effects.
const ACTING: &str = "acting";
/// Of the slot that is moved.
const ACTING_SESSIONS: usize = 100;
const TIMERS: usize = 10_000;
const REQUESTS: usize = 1_000;

/// Moves a slot whose sessions have timers that are set and requests under way.
async fn acting(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    let (slots, part) = (HANDOFF_SLOTS, if args.quick { 20 } else { 1 });
    let outside = Outside::start().await?;
    let env = vec![
        ("SLOTD_EFFECTS_HTTP".to_owned(), outside.rule(ACTING)),
        ("SLOTD_EFFECTS_HTTP_AT_ONCE".to_owned(), "1024".to_owned()),
    ];
    let cluster = start_with(ClusterOptions { slots, env, ..options() }).await?;
    let members = cluster.members();
    let first = members.first().context("no node")?;
    let (admin, api) = (first.admin(), first.api());
    admin.deploy(ACTING, plugins::load("kitchen-sink")?).await?;
    cluster.settled(&members, SETTLED_WITHIN).await?;
    let (timers, requests) = (TIMERS / part, REQUESTS / part);
    let moved = slot_of(ACTING, "0", slots)?;
    let mut sessions = Vec::new();
    for number in 0.. {
        if sessions.len() == ACTING_SESSIONS {
            break;
        }
        let session = number.to_string();
        if slot_of(ACTING, &session, slots)? == moved {
            sessions.push(session);
        }
    }
    let asking = sessions.iter().map(|session| {
        let (api, hold) = (&api, outside.url("/hold"));
        async move {
            for number in 0..timers / ACTING_SESSIONS {
                let (name, body) = (number.to_string(), json!({"op": "echo", "value": 1}));
                let timer = json!({"op": "timer", "name": name, "after": 86_400_000, "body": body});
                api.send(ACTING, session, Message::json(&timer)).await?;
            }
            for number in 0..requests / ACTING_SESSIONS {
                let options = json!({"timeout_ms": 600_000, "deadline_ms": 86_400_000});
                let request = json!({
                    "op": "request", "id": number.to_string(), "method": "GET", "url": hold,
                    "headers": [], "body": "", "options": options
                });
                api.send(ACTING, session, Message::json(&request)).await?;
            }
            anyhow::Ok(())
        }
    });
    try_join_all(asking).await?;
    let under_way = || outside.attempts_at("/hold").len();
    eventually("the requests", async || Ok((under_way() >= requests).then_some(()))).await?;
    let load = Steady::start("acting", HANDOFF_CLIENTS, HANDOFF_THINK, cluster.targets()).await?;
    let change = Change::now();
    let rounds = if args.quick { 2 } else { HANDOFF_ROUNDS };
    for _ in 0..rounds {
        let before = under_way();
        let path = format!("/admin/v1/slots/{moved}/drain");
        admin.client.post(&path, "").await?.success()?;
        // The next owner has made them again.
        eventually("the requests", async || Ok((under_way() >= before + requests).then_some(())))
            .await?;
    }
    let moves = change.handoffs(&admin).await?;
    let pauses = moves.iter().filter(|one| one.slot == moved).filter_map(|one| one.pause_ms);
    let pauses = Pauses::of(pauses.collect());
    let tally = load.finish(&api).await?;
    report.figure("timers of the slot", timers as f64, "", None);
    report.figure("requests under way of the slot", requests as f64, "", None);
    report.figure("moves", pauses.count as f64, "", None);
    report.figure("pause with effects, p50", pauses.p50_ms, "ms", None);
    report.figure("pause with effects, max", pauses.max_ms, "ms", Some(Asked::AtMost(50.0)));
    account(report, &tally);
    Ok(())
}

async fn handoffs(
    args: &Args,
    load_name: &str,
    think: Duration,
    report: &mut Report,
) -> anyhow::Result<()> {
    let slots = if args.quick { 4 } else { HANDOFF_SLOTS };
    let rounds = if args.quick { 2 } else { HANDOFF_ROUNDS };
    let cluster = start(slots).await?;
    let members = cluster.members();
    let wanted = args.slot_sessions as f64 * f64::from(slots) * FILL_MARGIN;
    fill(&members[0], wanted as u64).await?;
    let admin = members[0].admin();
    let load = Steady::start("handoff", HANDOFF_CLIENTS, think, cluster.targets()).await?;
    let change = Change::now();
    let (mut least, mut moved) = (u64::MAX, 0);
    for _ in 0..rounds {
        for slot in 0..slots {
            let before = admin.slots().await?;
            let before = before.iter().find(|one| one.slot == slot).context("no such slot")?;
            // A slot that is just opening does not report its count.
            if before.sessions > 0 {
                least = least.min(before.sessions);
            }
            let path = format!("/admin/v1/slots/{slot}/drain");
            admin.client.post(&path, "").await?.success()?;
            moved += 1;
        }
    }
    let moves = change.handoffs(&admin).await?;
    ensure!(moves.len() >= moved, "{} of {moved} moves are known", moves.len());
    let pauses = Pauses::of(moves.iter().filter_map(|one| one.pause_ms).collect());
    let tally = load.finish(&members[0].api()).await?;
    report.figure("sessions in a slot, at least", least as f64, "", None);
    report.figure("moves", pauses.count as f64, "", None);
    let row = |what: &str| format!("pause per slot, {load_name}, {what}");
    report.figure(&row("p50"), pauses.p50_ms, "ms", None);
    report.figure(&row("p99"), pauses.p99_ms, "ms", Some(Asked::AtMost(50.0)));
    report.figure(&row("max"), pauses.max_ms, "ms", None);
    account(report, &tally);
    Ok(())
}

/// One message to each of this many sessions.
async fn fill(through: &Arc<Member>, sessions: u64) -> anyhow::Result<()> {
    Plan::each_once(through.addresses().api, SERVICE, sessions).run_apart().await?;
    Ok(())
}
