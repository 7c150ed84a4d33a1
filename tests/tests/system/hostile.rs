//! A plugin that misbehaves in every way it can, beside others that must not notice.

use crate::common::{deed, expect_problem, node_with};
use anyhow::{Context, ensure};
use hyper::Method;
use serde_json::{Value, json};
use slotd_tests::{
    api::{Api, Message, Reply, session_path},
    http::{Answer, Client},
    node::{Node, NodeOptions, eventually, scenario},
    plugins,
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
};

/// What each deed gets. The label of the plugin is in every one of these.
const DEEDS: &[(&str, u16, &str)] = &[
    ("spin", 504, "plugin-deadline"),
    ("allocate", 500, "plugin-limit"),
    ("recurse", 500, "plugin-trapped"),
    ("trap", 500, "plugin-trapped"),
    ("panic", 500, "plugin-trapped"),
    ("huge-reply", 500, "plugin-limit"),
    ("huge-rejection", 500, "plugin-limit"),
    ("host-calls", 500, "plugin-limit"),
    ("write-then-trap", 500, "plugin-trapped"),
    ("huge-value", 500, "plugin-limit"),
    ("huge-key", 500, "plugin-limit"),
    ("many-events", 500, "plugin-limit"),
];

/// What each forbidden question gets.
const QUESTIONS: &[(&str, u16, &str)] = &[
    ("write", 500, "plugin-trapped"),
    ("delete", 500, "plugin-trapped"),
    ("emit", 500, "plugin-trapped"),
    ("spin", 504, "plugin-deadline"),
    ("trap", 500, "plugin-trapped"),
    ("huge-reply", 500, "plugin-limit"),
];

async fn ask(api: &Api, session: &str, what: &Value) -> anyhow::Result<Answer> {
    let path = session_path("hostile", session) + "/query";
    let headers = [("content-type", "application/json")];
    api.client.request(Method::POST, &path, &headers, what.to_string()).await
}

/// Without it, one bad plugin (or one bad message) could take others down, keep half of what it
/// wrote, or be reported as something else.
#[test]
fn each_misbehaviour_is_contained() {
    scenario(async {
        let node = node_with("hostile", "hostile-v1").await?;
        node.admin().deploy("counter", plugins::load("counter")?).await?;
        let (api, label) = (node.api(), node.admin().service("hostile").await?.current.label);
        let set = deed(&json!({"do": "set", "key": "kept", "value": 1}));
        api.send("hostile", "bad", set).await?;
        let mut bystanders = Bystanders::start(&node).await?;
        for (number, &(what, status, code)) in DEEDS.iter().enumerate() {
            let before = bystanders.count();
            let posted = api.post("hostile", "bad", deed(&json!({"do": what}))).await?;
            let problem = expect_problem(&posted, status, code).with_context(|| what.to_owned())?;
            ensure!(problem.more["plugin"] == label.as_str(), "{what}: {problem:?}");
            if what == "spin" {
                // All the while, the others went on.
                ensure!(bystanders.count() > before + 10, "a spinning plugin stopped the others");
            }
            // No number was used up, nothing was kept, and the next message finds a sound instance.
            let echo = api.send("hostile", "bad", deed(&json!({"do": "echo"}))).await?;
            ensure!(echo.seq == number as u64 + 2, "{what}: then came message {}", echo.seq);
            let keys = api.query("hostile", "bad", &json!({"do": "count"})).await?;
            ensure!(keys["keys"] == 1, "{what} left something behind: {keys}");
        }
        for &(what, status, code) in QUESTIONS {
            let answer = ask(&api, "bad", &json!({"do": what})).await?;
            expect_problem(&answer, status, code).with_context(|| format!("query {what}"))?;
            let keys = api.query("hostile", "bad", &json!({"do": "count"})).await?;
            ensure!(keys["keys"] == 1, "query {what} left something behind: {keys}");
        }
        // Ten thousand lines: the first hundred are written.
        api.send("hostile", "bad", deed(&json!({"do": "log-flood"}))).await?;
        let lines = node.log().lines().filter(|line| line.contains("slotd::guest")).count();
        ensure!((100..200).contains(&lines), "{lines} lines are in the log");
        let history = api.whole_history("hostile", "bad").await?;
        ensure!(history.len() == DEEDS.len() + 2, "{} messages were kept", history.len());
        ensure!(history.iter().all(|entry| entry.events.is_empty()), "an event leaked");
        bystanders.stop().await
    });
}

/// Sessions of other slots and of the same service that go on meanwhile: each message must
/// succeed, at once or nearly so.
struct Bystanders {
    tasks: Vec<tokio::task::JoinHandle<anyhow::Result<()>>>,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
}

impl Bystanders {
    async fn start(node: &Node) -> anyhow::Result<Self> {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let bad = node.api().session("hostile", "bad").await?.slot;
        let mut tasks = Vec::new();
        for number in 0..4 {
            let api = Api::new(Client::new(node.api().client.address()));
            let (stop, done) = (stop.clone(), done.clone());
            let service = if number % 2 == 0 { "counter" } else { "hostile" };
            let message = match service {
                "counter" => Message::bytes("one"),
                _ => deed(&json!({"do": "echo", "body": number})),
            };
            let session = format!("bystander-{number}");
            let first: Reply = api.send(service, &session, message.clone()).await?;
            ensure!(first.slot != bad, "{session} is in the bad session's slot: rename it");
            tasks.push(tokio::spawn(async move {
                let mut seq = first.seq;
                while !stop.load(SeqCst) {
                    let reply = api.send(service, &session, message.clone()).await?;
                    ensure!(reply.seq == seq + 1, "{session}: {} after {seq}", reply.seq);
                    seq = reply.seq;
                    done.fetch_add(1, SeqCst);
                }
                Ok(())
            }));
        }
        Ok(Self { tasks, stop, done })
    }

    fn count(&self) -> u64 {
        self.done.load(SeqCst)
    }

    async fn stop(&mut self) -> anyhow::Result<()> {
        self.stop.store(true, SeqCst);
        for task in self.tasks.drain(..) {
            task.await?.context("a bystander was harmed")?;
        }
        Ok(())
    }
}

/// Guests that compute for long must not take the threads that serve, however many slots they are in:
/// every message of every other service would wait for a slice of each.
#[test]
fn guests_that_spin_do_not_starve_others() {
    scenario(async {
        let node = node_with("hostile", "hostile-v1").await?;
        node.admin().deploy("counter", plugins::load("counter")?).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let spinners: Vec<_> = (0..200)
            .map(|number| {
                let (api, stop) = (node.api(), stop.clone());
                tokio::spawn(async move {
                    while !stop.load(SeqCst) {
                        let spin = deed(&json!({"do": "spin"}));
                        let answer = api.post("hostile", &format!("s-{number}"), spin).await?;
                        ensure!([503, 504].contains(&answer.status), "{answer:?}");
                    }
                    anyhow::Ok(())
                })
            })
            .collect();
        let admin = node.admin();
        eventually("a hundred slots to spin", async || {
            Ok((admin.metric("slotd_long_calls", "").await? > 100.0).then_some(()))
        })
        .await?;
        let (api, mut times) = (node.api(), Vec::new());
        for number in 0..60 {
            let started = std::time::Instant::now();
            api.send("counter", &format!("s-{number}"), Message::bytes("1")).await?;
            times.push(started.elapsed());
        }
        times.sort_unstable();
        // A slice of each of the others is two seconds. A few share their slot with one that spins.
        let median = times[times.len() / 2];
        ensure!(median < std::time::Duration::from_millis(300), "{median:?}: {times:?}");
        // Those that nobody waits for are ended, and what comes then has all of its time.
        spinners.iter().for_each(tokio::task::JoinHandle::abort);
        stop.store(true, SeqCst);
        eventually("the calls to end", async || {
            Ok((admin.metric("slotd_long_calls", "").await? == 0.0).then_some(()))
        })
        .await?;
        let alone = api.post("hostile", "alone", deed(&json!({"do": "spin"}))).await?;
        expect_problem(&alone, 504, "plugin-deadline").map(drop)
    });
}

/// Without it, a session in the same slot as a bad one would be refused, or answered by a broken
/// instance.
#[test]
fn the_slot_goes_on_after_a_trap() {
    scenario(async {
        // One slot: everything is a neighbour of everything.
        let options =
            NodeOptions { args: vec!["--slot-count".into(), "1".into()], ..NodeOptions::default() };
        let node = Node::start_with(options).await?;
        node.admin().deploy("hostile", plugins::load("hostile-v1")?).await?;
        let api = node.api();
        let remember = || deed(&json!({"do": "remember"}));
        for calls in 1..=3 {
            let kept = api.send("hostile", "good", remember()).await?.json()?;
            ensure!(kept["calls"] == calls, "the instance is not kept across messages: {kept}");
        }
        for what in ["trap", "allocate", "spin"] {
            let waiting = {
                let (api, bad) = (api.clone(), deed(&json!({"do": what})));
                tokio::spawn(async move { api.post("hostile", "bad", bad).await })
            };
            // It stands behind the bad one in the mailbox, or before it, and is answered.
            api.send("hostile", "good", deed(&json!({"do": "echo"}))).await?;
            ensure!(waiting.await??.status >= 500, "{what} succeeded");
            let fresh = api.send("hostile", "good", remember()).await?.json()?;
            ensure!(fresh["calls"] == 1, "after {what} the broken instance was used: {fresh}");
        }
        Ok(())
    });
}

/// Without it, a handler's own refusal could change something, or reach the client as something
/// else.
#[test]
fn a_rejection_is_the_clients_error_and_changes_nothing() {
    scenario(async {
        let node = node_with("hostile", "hostile-v1").await?;
        let api = node.api();
        let reject = |retriable: bool| {
            let what = json!({"do": "reject", "code": "too-late", "retriable": retriable});
            api.post("hostile", "a", deed(&what))
        };
        for retriable in [false, true] {
            let problem = expect_problem(&reject(retriable).await?, 422, "rejected")?;
            let expected =
                json!({"code": "too-late", "message": "as told", "retriable": retriable});
            ensure!(problem.more["rejection"] == expected, "{problem:?}");
        }
        let written = api.post("hostile", "a", deed(&json!({"do": "write-then-reject"}))).await?;
        expect_problem(&written, 422, "rejected")?;
        let gone = api.client.get(&session_path("hostile", "a")).await?;
        expect_problem(&gone, 404, "session-not-found")?;
        // Nor was the key used up: the same key with another body is not a conflict.
        let first = deed(&json!({"do": "reject", "code": "no"})).key("k");
        expect_problem(&api.post("hostile", "a", first).await?, 422, "rejected")?;
        let echo = api.send("hostile", "a", deed(&json!({"do": "echo"})).key("k")).await?;
        ensure!(echo.seq == 1 && !echo.replayed, "{echo:?}");
        Ok(())
    });
}

/// Without it, a version whose `migrate` fails would take sessions down, or leave them half
/// migrated.
#[test]
fn a_session_that_cant_be_migrated_stays_and_is_listed() {
    scenario(async {
        let mut node = node_with("hostile", "hostile-v1").await?;
        let (v1, v2) = (plugins::load("hostile-v1")?, plugins::load("hostile-v2")?);
        let api = node.api();
        let bad = ["trap", "refuse", "spin", "emit", "write-then-trap", "write-then-refuse"];
        for session in bad.iter().chain(&["willing"]) {
            let set = json!({"do": "set", "key": "migrate", "value": session});
            api.send("hostile", session, deed(&set)).await?;
        }
        let swapped = node.admin().deploy("hostile", v2).await?;
        let echo = || deed(&json!({"do": "echo"}));
        let check = async |api: &Api, count: u64| {
            for session in bad {
                let reply = api.send("hostile", session, echo()).await?;
                let version = reply.json()?["version"].clone();
                ensure!(version == 1, "{session}: version {version}");
                let half = json!({"do": "get", "key": "half-migrated"});
                let half = api.query("hostile", session, &half).await?;
                ensure!(half["value"].is_null(), "{session} was half migrated");
            }
            let reply = api.send("hostile", "willing", echo()).await?;
            ensure!(reply.plugin == swapped.current.label, "{reply:?}");
            ensure!(reply.json()?["version"] == 2 && reply.seq == count + 1, "{reply:?}");
            let from = json!({"do": "get", "key": "migrated-from"});
            let from = api.query("hostile", "willing", &from).await?;
            ensure!(from["value"].is_string(), "it was not migrated");
            anyhow::Ok(())
        };
        // A machine that is too busy passes deadlines too: only a second one counts.
        let late = api.post("hostile", "spin", echo()).await?;
        expect_problem(&late, 504, "plugin-deadline")?;
        ensure!(node.admin().pinned("hostile").await?.is_empty(), "pinned at the first deadline");
        check(&api, 1).await?;
        check(&api, 2).await?;
        let pinned = node.admin().pinned("hostile").await?;
        let mut listed: Vec<_> = pinned.iter().map(|session| session.session.as_str()).collect();
        listed.sort_unstable();
        let mut expected = bad.to_vec();
        expected.sort_unstable();
        ensure!(listed == expected, "{listed:?} are listed");
        for session in &pinned {
            let pin = session.pinned.as_ref().context("listed, but not pinned")?;
            ensure!(pin.against == swapped.current.label && !pin.reason.is_empty(), "{pin:?}");
        }
        // Pinned is what the log says, not what the process remembers.
        node.kill()?;
        node.restart().await?;
        check(&node.api(), 3).await?;
        // Once it is willing, it goes over; and back with everyone else.
        let api = node.api();
        let willing = json!({"do": "set", "key": "migrate", "value": "willing"});
        api.send("hostile", "refuse", deed(&willing)).await?;
        node.admin().deploy("hostile", plugins::variant(&v1, "back")).await?;
        let reply = api.send("hostile", "refuse", echo()).await?;
        ensure!(reply.json()?["version"] == 1, "{reply:?}");
        eventually("nobody is pinned against a version that is gone", async || {
            for session in bad.iter().filter(|session| **session != "refuse") {
                api.post("hostile", session, echo()).await?;
            }
            Ok(api.session("hostile", "refuse").await?.pinned.is_none().then_some(()))
        })
        .await
    });
}
