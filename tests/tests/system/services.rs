//! Services as operators have them: back to an earlier version, and what becomes of sessions.

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use hyper::Method;
use serde_json::Value;
use slotd_tests::{
    api::Message,
    node::{Finished, Node, NodeOptions, eventually, scenario},
    plugins,
};

const SERVICE: &str = "count";

/// Without it, a rollback over a version that has no migrate would mix two shapes of state without
/// a word; or the operator would have no way back at all.
#[test]
fn a_rollback_leaves_no_session_behind_unasked() {
    scenario(async {
        let node = Node::start().await?;
        let (api, admin) = (node.api(), node.admin());
        let add = || Message::bytes("1");
        let counter = plugins::load("counter")?;
        let first = admin.deploy_as(SERVICE, counter.clone(), "0.1.0").await?.current;
        api.send(SERVICE, "old", add()).await?;
        let second = admin.deploy_as(SERVICE, plugins::variant(&counter, "2"), "0.2.0").await?;
        for session in ["a", "b"] {
            ensure!(api.send(SERVICE, session, add()).await?.plugin == second.current.label);
        }

        let Finished { status, stderr, .. } = node.run(&["rollback", SERVICE]).await?;
        ensure!(status.code() == Some(4), "{status}: {stderr}");
        for says in ["2 sessions of count would stay", "0.2.0 is later", "--force", "--same-state"]
        {
            ensure!(stderr.contains(says), "{says:?} is not in {stderr}");
        }
        ensure!(admin.service(SERVICE).await?.current.label == second.current.label);

        let forced = node.run(&["rollback", SERVICE, "--force", "--wait"]).await?;
        ensure!(forced.status.success(), "{forced:?}");
        let line = format!("2 sessions of {}: they stay on that version", second.current.label);
        ensure!(forced.stdout.contains(&line), "{}", forced.stdout);
        let sent = api.send(SERVICE, "a", add()).await?;
        ensure!(sent.plugin == second.current.label && sent.seq == 2, "it works on: {sent:?}");
        ensure!(api.send(SERVICE, "old", add()).await?.plugin == first.label);
        let pinned = admin.pinned(SERVICE).await?;
        ensure!(pinned.len() == 1 && pinned[0].session == "a", "{pinned:?}");
        let reason = pinned[0].pinned.as_ref().map(|pin| pin.reason.as_str());
        ensure!(reason.is_some_and(|why| why.contains("does not implement migrate")), "{reason:?}");

        let same = node.run(&["rollback", SERVICE, "--to", "0.1.0", "--same-state"]).await?;
        ensure!(same.status.success(), "{same:?}");
        for (session, seq) in [("a", 3), ("b", 2)] {
            let sent = api.send(SERVICE, session, add()).await?;
            ensure!(sent.plugin == first.label && sent.seq == seq, "{session}: {sent:?}");
        }
        ensure!(admin.pinned(SERVICE).await?.is_empty());

        // It was said of that rollback, and shows; the next one has to say it again.
        ensure!(same.stdout.contains("same state"), "{}", same.stdout);
        let listed = node.run(&["deployments", SERVICE]).await?.stdout;
        ensure!(listed.lines().any(|line| line.contains("current") && line.contains("same state")));
        let forward = node.run(&["rollback", SERVICE, "--to", "0.2.0", "--wait"]).await?;
        ensure!(forward.status.success(), "{forward:?}");
        ensure!(api.send(SERVICE, "a", add()).await?.plugin == second.current.label);
        let asked = node.run(&["rollback", SERVICE, "--to", "0.1.0"]).await?;
        ensure!(asked.stderr.contains("sessions-would-stay"), "{asked:?}");
        let digest = first.label.split_once('+').context("no digest")?.1;
        let by = ["rollback", SERVICE, "--to", digest, "--force", "--wait", "--by", "bea"];
        let forced = node.run(&by).await?;
        ensure!(forced.status.success() && !forced.stdout.contains("same state"), "{forced:?}");
        ensure!(api.send(SERVICE, "a", add()).await?.plugin == second.current.label);
        let listed = node.run(&["deployments", SERVICE]).await?.stdout;
        ensure!(listed.lines().any(|l| l.contains("current since") && l.contains("by \"bea\"")));
        Ok(())
    });
}

/// Without it, an operator would look for what runs where in logs; and a restart would take the
/// answer to "did it go through?" with it.
#[test]
fn deployments_are_listed_and_a_swaps_status_outlives_the_process() {
    scenario(async {
        let mut node = Node::start().await?;
        let (api, admin) = (node.api(), node.admin());
        let counter = plugins::load("counter")?;
        let first = admin.deploy_as(SERVICE, counter.clone(), "0.1.0").await?.current;
        for session in ["a", "b", "c"] {
            api.send(SERVICE, session, Message::bytes("1")).await?;
        }
        let path = node.scratch().join("counter-2.wasm");
        std::fs::write(&path, plugins::variant(&counter, "2"))?;
        let file = path.to_string_lossy().into_owned();
        let deploy = ["deploy", SERVICE, &file, "--version", "0.2.0", "--by", "ann", "--wait"];
        let deployed = node.run(&deploy).await?;
        ensure!(deployed.status.success(), "{deployed:?}");
        api.send(SERVICE, "a", Message::bytes("1")).await?;

        let listed = node.run(&["deployments", SERVICE, "--json"]).await?;
        let listed: Value = serde_json::from_str(&listed.stdout)?;
        let lines = listed["deployments"].as_array().context("no deployments")?;
        let shown = |line: &Value| {
            let text = |name: &str| line[name].as_str().unwrap_or("-").to_owned();
            (text("version"), text("by"), line["sessions"].clone(), line["current"] == true)
        };
        let expected = [
            ("0.2.0".to_owned(), "ann".to_owned(), Value::from(1), true),
            ("0.1.0".to_owned(), "-".to_owned(), Value::from(2), false),
        ];
        ensure!(lines.iter().map(shown).collect::<Vec<_>>() == expected, "{listed}");
        let table = node.run(&["deployments", SERVICE]).await?.stdout;
        for word in ["0.2.0+", "ann", "current", "rollback goes here", &first.label] {
            ensure!(table.contains(word), "{word:?} is not in\n{table}");
        }

        let swap = admin.service(SERVICE).await?.swap.context("no swap")?;
        node.kill()?;
        node.restart().await?;
        let status = node.run(&["swap", "status", SERVICE, "--json"]).await?;
        let status: Value = serde_json::from_str(&status.stdout)?;
        ensure!(status["swap"]["done"] == true, "{status}");
        ensure!(status["swap"]["from"] == first.label.as_str(), "{status}");
        ensure!(status["swap"]["generation"] == swap.generation, "{status}");
        // The old form does it too, and says what it is called now.
        let old = node.run(&["swap", SERVICE]).await?;
        ensure!(old.status.success() && old.stdout.contains("swapped"), "{old:?}");
        ensure!(old.stderr.contains("slotd swap status count"), "{old:?}");
        Ok(())
    });
}

const SESSIONS: usize = 3_000;

/// Without it, a kill in the middle of a removal would leave sessions that nobody can reach, for a
/// service of the same name to find.
#[test]
fn a_removal_goes_on_after_a_kill_and_leaves_nothing() {
    scenario(async {
        let args = ["--slot-count", "4"].map(String::from).to_vec();
        let mut node = Node::start_with(NodeOptions { args, ..NodeOptions::default() }).await?;
        let (api, admin) = (node.api(), node.admin());
        let counter = plugins::load("counter")?;
        for service in [SERVICE, "kept"] {
            admin.deploy(service, counter.clone()).await?;
        }
        api.send("kept", "x", Message::bytes("1")).await?;
        let names: Vec<String> = (0..SESSIONS).map(|n| format!("session-{n}")).collect();
        for some in names.chunks(100) {
            let sent =
                some.iter().map(|name| api.send(SERVICE, name, Message::bytes("1").key("k")));
            try_join_all(sent).await?;
        }

        let asked = node.run(&["service", "rm", SERVICE]).await?;
        ensure!(asked.status.code() == Some(2), "{asked:?}");
        ensure!(asked.stderr.contains("3,000 sessions") || asked.stderr.contains("3000 sessions"));
        ensure!(admin.service(SERVICE).await?.generation == 1, "nothing is removed unasked");

        let client = admin.client.clone();
        let path = format!("/admin/v1/services/{SERVICE}");
        let removing = {
            let path = path.clone();
            tokio::spawn(async move { client.request(Method::DELETE, &path, &[], "").await })
        };
        // It is gone at once, while its sessions are on their way.
        eventually("the removal's begin", async || {
            let answer = admin.client.get(&path).await?;
            Ok((answer.status == 404).then_some(()))
        })
        .await?;
        node.kill()?;
        // An answer, an error: both are possible, and neither is needed.
        let _ = removing.await?;
        node.restart().await?;
        let (api, admin) = (node.api(), node.admin());
        let again = node.run(&["service", "rm", SERVICE, "--yes", "--json"]).await?;
        ensure!(again.status.success(), "{again:?}");
        let again: Value = serde_json::from_str(&again.stdout)?;
        ensure!(again["done"] == true, "{again}");
        let slots = admin.slots().await?;
        let left: u64 = slots.iter().map(|slot| slot.sessions).sum();
        ensure!(left == 1, "{left} sessions are there, and one of another service should be");

        admin.deploy(SERVICE, counter).await?;
        let listed = api.client.get(&format!("/v1/services/{SERVICE}/sessions")).await?;
        let listed: Value = listed.success()?.json()?;
        ensure!(listed["sessions"].as_array().is_some_and(Vec::is_empty), "{listed}");
        let sent = api.send(SERVICE, &names[0], Message::bytes("1").key("k")).await?;
        ensure!(sent.seq == 1 && !sent.replayed, "{sent:?}");
        ensure!(api.send("kept", "x", Message::bytes("1")).await?.seq == 2);
        Ok(())
    });
}
