//! Canaries on one node: forward by themselves, back by themselves, by hand, and across restarts.

use crate::common::{expect_problem, good};
use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use slotd_tests::{
    api::Message,
    canary::{
        self, SERVICE, Traffic, begin, change, deploy_first, running, status, until, until_step,
    },
    node::{Node, eventually, scenario},
    plugins,
};
use std::{net::SocketAddr, sync::Arc};
use tokio::sync::watch;

/// Short, so that it is over soon; with messages enough to mean something.
const QUICK: &str = "canary=100,500&pause=1&canary_messages=100";
/// It does not go on by itself while the test looks.
const SLOW: &str = "canary=100,500&pause=3600&canary_messages=100&gate=off";

/// The gate would find what is wrong before any slot had it.
fn past_the_gate() -> String {
    format!("{QUICK}&gate=off")
}

fn traffic(node: &Node, kills: bool) -> (Traffic, watch::Sender<Arc<[SocketAddr]>>) {
    let (targets, of) = watch::channel(Arc::from([node.api().client.address()]));
    (Traffic::start(of, kills), targets)
}

fn label(canary: &Value) -> anyhow::Result<String> {
    Ok(canary["deployment"]["label"].as_str().context("no label")?.to_owned())
}

/// Whoever deploys would have to watch, and push each step; or a message would fail while slots switch.
#[test]
fn a_good_canary_goes_to_all_slots_by_itself() {
    scenario(async {
        let node = Node::start().await?;
        let admin = node.admin();
        let first = deploy_first(&admin).await?;
        let (traffic, _targets) = traffic(&node, false);
        let began: Value = begin(&admin, canary::good()?, QUICK).await?.success()?.json()?;
        ensure!(began["current"]["label"] == *first && began["changed"] == true, "{began:#}");
        ensure!(began["canary"]["state"] == "running", "{began:#}");
        let second = label(&began["canary"])?;
        let shown = good(&node, &["services"]).await?;
        ensure!(shown.contains(&format!("canary {second}")), "{shown}");
        let shown = good(&node, &["swap", "status", SERVICE]).await?;
        ensure!(shown.contains("of 3 since") && shown.contains("so far"), "{shown}");
        let other = begin(&admin, plugins::load("hostile-v1")?, "").await?;
        expect_problem(&other, 409, "swap-in-progress")?;
        let done = until(&admin, "promoted").await?;
        let verdicts = done["verdicts"].as_array().context("no verdicts")?;
        ensure!(verdicts.len() == 3 && verdicts.iter().all(|v| v["good"] == true), "{done:#}");
        for verdict in verdicts {
            ensure!(verdict["canary"]["messages"].as_u64() >= Some(100), "{done:#}");
        }
        let service = admin.service(SERVICE).await?;
        ensure!(service.current.label == second, "{service:?}");
        let before = service.previous.context("nothing to roll back to")?;
        ensure!(before.label == first, "{before:?}");
        eventually("all slots on the new version", async || {
            Ok(running(&admin).await?.values().all(|runs| *runs == second).then_some(()))
        })
        .await?;
        let seen = traffic.end().await?;
        ensure!(seen.failures.is_empty(), "{:?}", seen.failures);
        ensure!(seen.handled.len() == 2, "{:?}", seen.handled);
        for (session, count) in &seen.counts {
            let answer = node.api().query(SERVICE, session, &Value::Null).await?;
            ensure!(answer == *count, "{session}: {answer} for {count}");
        }
        let log = good(&node, &["audit-log"]).await?;
        ensure!(log.contains("canary-step") && log.contains("canary-promoted"), "{log}");
        Ok(())
    });
}

/// What only live messages show would be everybody's fault, or stay; or sessions would stay on the version that failed.
#[test]
fn a_version_that_traps_on_live_messages_goes_back_by_itself() {
    scenario(async {
        let node = Node::start().await?;
        let admin = node.admin();
        let first = deploy_first(&admin).await?;
        let (traffic, _targets) = traffic(&node, false);
        let bad = plugins::load("hostile-v2")?;
        let began: Value = begin(&admin, bad, &past_the_gate()).await?.success()?.json()?;
        let second = label(&began["canary"])?;
        let done = until(&admin, "aborted").await?;
        let why = done["why"].as_str().context("no reason")?;
        ensure!(why.contains("traps: ") && why.contains("against 0 of"), "{done:#}");
        let verdict = done["verdicts"].as_array().and_then(|all| all.last()).context("none")?;
        ensure!(verdict["good"] == false && verdict["stays"].is_null(), "{done:#}");
        eventually("all slots on the version before", async || {
            Ok(running(&admin).await?.values().all(|runs| *runs == first).then_some(()))
        })
        .await?;
        let failed = traffic.seen().failures.len();
        let handled = traffic.seen().handled.get(&first).copied();
        eventually("traffic after it", async || {
            Ok((traffic.seen().handled.get(&first).copied() > handled.map(|n| n + 2_000))
                .then_some(()))
        })
        .await?;
        let seen = traffic.end().await?;
        // Those that were under way when it went back.
        ensure!(seen.failures.len() <= failed + 16, "{failed}, then {}", seen.failures.len());
        for failure in &seen.failures {
            let of_it = failure.plugin.as_deref() == Some(&*second);
            ensure!(of_it && failure.code == "plugin-trapped", "{failure:?}");
        }
        ensure!(!seen.failures.is_empty(), "nothing failed: what was tried?");
        // No session stays on it.
        let path = format!("/admin/v1/services/{SERVICE}/pinned");
        let pinned: Value = admin.client.get(&path).await?.success()?.json()?;
        ensure!(pinned["sessions"].as_array().is_some_and(Vec::is_empty), "{pinned:#}");
        let shown = good(&node, &["swap", "status", SERVICE]).await?;
        ensure!(shown.contains("went back") && shown.contains("traps: "), "{shown}");
        let metrics = admin.client.get("/metrics").await?.success()?.text();
        ensure!(metrics.contains("\nslotd_canary_returns_total 1"), "{metrics}");
        Ok(())
    });
}

/// Sessions that the new version refuses would be left behind, more of them with each step.
#[test]
fn a_version_that_refuses_sessions_goes_back_by_itself() {
    scenario(async {
        const SESSIONS: usize = 400;
        let node = Node::start().await?;
        let (admin, api) = (node.admin(), node.api());
        let first = admin.deploy_as(SERVICE, plugins::load("hostile-v1")?, "1.0.0").await?;
        let send = async |body: Value| {
            let sends = (0..SESSIONS).map(|number| {
                let message = Message::json(&body);
                let api = &api;
                async move { api.send(SERVICE, &format!("s{number}"), message).await }
            });
            try_join_all(sends).await
        };
        send(json!({"do": "set", "key": "migrate", "value": "refuse"})).await?;
        let second = plugins::load("hostile-v2")?;
        begin(&admin, second, "canary=250&pause=3600&gate=off").await?.success()?;
        // Each of them works on, wherever it is.
        for reply in send(json!({"do": "echo"})).await? {
            ensure!(reply.plugin == first.current.label, "{reply:?}");
        }
        let done = until(&admin, "aborted").await?;
        let why = done["why"].as_str().context("no reason")?;
        ensure!(why.contains("sessions were not taken over"), "{done:#}");
        // Before that, a slot would refuse them once more.
        eventually("all slots on the version before", async || {
            let runs = running(&admin).await?;
            Ok(runs.values().all(|runs| *runs == first.current.label).then_some(()))
        })
        .await?;
        for reply in send(json!({"do": "echo"})).await? {
            ensure!(reply.plugin == first.current.label, "{reply:?}");
        }
        let path = format!("/admin/v1/services/{SERVICE}/pinned");
        let pinned: Value = admin.client.get(&path).await?.success()?.json()?;
        ensure!(pinned["sessions"].as_array().is_some_and(Vec::is_empty), "{pinned:#}");
        Ok(())
    });
}

/// A step that was decided by hand would be undone by the next start, or slots would run another version after it.
#[test]
fn a_canary_that_is_held_stays_where_it_is_until_it_is_told_otherwise() {
    scenario(async {
        let mut node = Node::start().await?;
        let first = deploy_first(&node.admin()).await?;
        let (traffic, targets) = traffic(&node, true);
        begin(&node.admin(), canary::good()?, QUICK).await?.success()?;
        until_step(&node.admin(), 2).await?;
        let held = change(&node.admin(), "hold").await?;
        ensure!(held["state"] == "held" && held["step"] == 2, "{held:#}");
        let before = running(&node.admin()).await?;
        let second = label(&held)?;
        let tried = before.values().filter(|runs| **runs == second).count() as u64;
        ensure!(held["slots"] == tried && tried * 2 == before.len() as u64, "{tried} {held:#}");
        node.kill()?;
        node.restart().await?;
        targets.send_replace(Arc::from([node.api().client.address()]));
        let after = eventually("traffic after the restart", async || {
            let canary = status(&node.admin()).await?;
            Ok((canary["now"]["canary"]["messages"].as_u64() > Some(500)).then_some(canary))
        })
        .await?;
        ensure!(after["state"] == "held" && after["step"] == 2, "{after:#}");
        for (slot, runs) in running(&node.admin()).await? {
            ensure!(before.get(&slot) == Some(&runs), "slot {slot}: {runs}");
        }
        let on = good(&node, &["swap", SERVICE, "--resume"]).await?;
        ensure!(on.contains("running"), "{on}");
        until(&node.admin(), "promoted").await?;
        // And one by hand: to all at once, and to none.
        let hostile = plugins::load("hostile-v1")?;
        begin(&node.admin(), hostile, SLOW).await?.success()?;
        let done = good(&node, &["swap", SERVICE, "--abort"]).await?;
        ensure!(done.contains("went back to") && done.contains("aborted by hand"), "{done}");
        ensure!(node.admin().service(SERVICE).await?.current.label == second);
        let again = node.run(&["swap", SERVICE, "--promote"]).await?;
        ensure!(!again.status.success() && again.stderr.contains("has no canary"), "{again:?}");
        traffic.end().await?;
        begin(&node.admin(), plugins::load(SERVICE)?, SLOW).await?.success()?;
        let back = node.admin().rollback(SERVICE).await?;
        ensure!(back.changed && back.current.label == second, "{back:?}");
        begin(&node.admin(), plugins::load(SERVICE)?, SLOW).await?.success()?;
        let done = change(&node.admin(), "promote").await?;
        ensure!(done["state"] == "promoted" && done["why"] == "promoted by hand", "{done:#}");
        let service = node.admin().service(SERVICE).await?;
        ensure!(service.current.label != second && first.starts_with("1.0.0"), "{service:?}");
        Ok(())
    });
}

/// What can't be a canary would be deployed to all slots at once.
#[test]
fn what_can_not_be_tried_is_refused() {
    scenario(async {
        let node = Node::start().await?;
        let admin = node.admin();
        let first = begin(&admin, canary::good()?, QUICK).await?;
        expect_problem(&first, 400, "request-invalid")?;
        deploy_first(&admin).await?;
        for wrong in [
            "canary=0",
            "canary=1000",
            "canary=500,100",
            "canary=ten",
            "pause=5",
            "canary_messages=100",
            "canary=10&canary_messages=1",
            "canary=10&pause=99999999999",
        ] {
            let answer = begin(&admin, canary::good()?, wrong).await?;
            expect_problem(&answer, 400, "request-invalid").with_context(|| wrong.to_owned())?;
        }
        for (path, code) in [
            ("?canary=promote", "deployment-not-found"),
            ("?canary=stop", "request-invalid"),
            ("", "request-invalid"),
        ] {
            let path = format!("/admin/v1/services/{SERVICE}/swap{path}");
            let problem = admin.client.post(&path, "").await?.problem()?;
            ensure!(problem.code == code, "{path}: {problem:?}");
        }
        ensure!(status(&admin).await?.is_null());
        Ok(())
    });
}
