//! The command line against a real node: what a person types, and what a script reads.

use crate::common::{SOON, deed, node_with, say};
use anyhow::{Context, ensure};
use serde_json::{Value, json};
use slotd_tests::{
    api::Message,
    node::{Finished, Node, scenario, slotd},
    plugins,
};
use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

/// A command that must work; gives what it printed.
async fn good(node: &Node, args: &[&str]) -> anyhow::Result<String> {
    let Finished { status, stdout, stderr } = node.run(args).await?;
    ensure!(status.success(), "slotd {}: {status}\n{stdout}{stderr}", args.join(" "));
    Ok(stdout)
}

/// The same with `--json`: one JSON value.
async fn value(node: &Node, args: &[&str]) -> anyhow::Result<Value> {
    let text = good(node, &[args, &["--json"]].concat()).await?;
    serde_json::from_str(&text).with_context(|| format!("{args:?} printed {text}"))
}

/// Without it, a command could be broken in a way that only shows with a node behind it.
#[test]
fn a_service_is_run_from_the_command_line() {
    scenario(async {
        let node = Node::start().await?;
        let path = |name| plugins::path(name).to_string_lossy().into_owned();
        let (v1, v2) = (path("chat-v1"), path("chat-v2"));
        plugins::load("chat-v1")?;
        let checked = value(&node, &["plugin", "check", &v1]).await?;
        ensure!(checked["problems"] == json!([]) && checked["version"] == "1.0.0", "{checked}");
        good(&node, &["deploy", "chat", &v1, "--wait"]).await?;
        let hello = r#"{"kind": "say", "text": "hello"}"#;
        let reply = good(&node, &["send", "chat", "a", hello, "--sender", "ann"]).await?;
        ensure!(serde_json::from_str::<Value>(&reply)? == json!({"n": 1}), "{reply}");
        let again = ["send", "chat", "a", hello, "--sender", "bob", "--id", "k"];
        for _ in 0..2 {
            let reply = good(&node, &again).await?;
            ensure!(serde_json::from_str::<Value>(&reply)? == json!({"n": 2}), "{reply}");
        }
        let top = r#"{"query": "top"}"#;
        let answer: Value =
            serde_json::from_str(&good(&node, &["query", "chat", "a", top]).await?)?;
        ensure!(answer["total"] == 2, "{answer}");

        let deployed = value(&node, &["deploy", "chat", &v2, "--wait"]).await?;
        ensure!(deployed["changed"] == true, "{deployed}");
        let services = value(&node, &["services"]).await?;
        ensure!(services["services"][0]["current"]["version"] == "2.0.0", "{services}");
        ensure!(value(&node, &["swap", "chat"]).await?["swap"]["done"] == true);
        let back = value(&node, &["rollback", "chat"]).await?;
        ensure!(back["current"]["version"] == "1.0.0", "{back}");

        let history = value(&node, &["history", "chat", "a"]).await?;
        ensure!(history["entries"].as_array().is_some_and(|all| all.len() == 2), "{history}");
        let sessions = value(&node, &["sessions", "chat"]).await?;
        ensure!(sessions["sessions"][0]["session"] == "a", "{sessions}");
        let number = sessions["sessions"][0]["slot"].clone();
        let slot = number.to_string();
        let shown = value(&node, &["session", "show", "chat", "a"]).await?;
        ensure!(shown["seq"] == 2, "{shown}");
        let alone = node.run(&["slot", "drain", &slot]).await?;
        ensure!(alone.status.code() == Some(4), "nobody is there to take it: {alone:?}");
        ensure!(alone.stderr.contains("no-other-node"), "{alone:?}");
        ensure!(value(&node, &["slot", "show", &slot]).await?["slot"] == number);
        ensure!(value(&node, &["slots", "--all"]).await?["slots"].is_array());
        ensure!(value(&node, &["ring"]).await?["slot_count"] == 512);
        ensure!(value(&node, &["rebalance"]).await?["moves"] == 0);
        let nodes = value(&node, &["nodes"]).await?;
        ensure!(nodes["nodes"][0]["owned"] == 512, "{nodes}");
        ensure!(value(&node, &["moves"]).await?["moves"].is_array());
        let own = nodes["own"].as_str().context("no name")?;
        let refused = node.run(&["node", "drain", own]).await?;
        ensure!(refused.status.code() == Some(4), "nobody is there to take its slots: {refused:?}");
        // The tables say the same to a person.
        for (args, words) in [
            (&["services"][..], &["chat", "1.0.0"][..]),
            (&["sessions", "chat"], &["a"]),
            (&["slots"], &["running", "chat=1.0.0"]),
            (&["history", "chat", "a"], &["hello"]),
            (&["tail", "chat", "a"], &["hello"]),
            (&["ring"], &["512"]),
            (&["nodes"], &["ready", "512"]),
            (&["ready"], &["ready"]),
            (&["ready", "--live"], &["ok"]),
            (&["config", "print"], &["slot_count"]),
            (&["openapi"], &["/v1/services/{service}/sessions"]),
        ] {
            let text = good(&node, args).await?;
            ensure!(words.iter().all(|word| text.contains(word)), "{args:?} printed\n{text}");
        }
        good(&node, &["session", "delete", "chat", "a"]).await?;
        let gone = node.run(&["session", "show", "chat", "a"]).await?;
        ensure!(gone.status.code() == Some(4), "{gone:?}");
        Ok(())
    });
}

/// Without it, what a session holds would be shown as something else, and a correction copied from
/// what was shown would change it.
#[test]
fn what_is_stored_is_shown_byte_for_byte() {
    scenario(async {
        let node = node_with("counter", "counter").await?;
        let stored = r#"{"z": 1.10, "a": 12345678901234567890123, "e": 1E5, "n": null}"#;
        let sent = good(&node, &["send", "counter", "a", stored, "--json"]).await?;
        ensure!(sent.lines().count() == 1 && value_of(&sent)?["body"] == 1, "{sent}");
        let history = ["history", "counter", "a"];
        for text in [
            good(&node, &history).await?,
            good(&node, &[&history[..], &["--json"]].concat()).await?,
        ] {
            ensure!(text.contains(stored), "{text}");
        }
        good(&node, &["session", "set", "counter", "a", "k", stored]).await?;
        let state = ["session", "state", "counter", "a"];
        ensure!(good(&node, &[&state[..], &["k"]].concat()).await?.trim_end() == stored);
        for more in [&[][..], &["--json"], &["k", "--json"]] {
            let text = good(&node, &[&state[..], more].concat()).await?;
            ensure!(text.contains(stored), "{more:?}: {text}");
        }
        // What is not there is not summed up from what is, nor deleted.
        let none = node.run(&["session", "state", "counter", "a", "--prefix", "zz"]).await?;
        ensure!(none.stdout.is_empty() && none.stderr.contains("no keys that begin with \"zz\""));
        let none = node.run(&["session", "set", "counter", "a", "zz", "--delete"]).await?;
        ensure!(
            none.status.code() == Some(4) && none.stderr.contains("nothing was done"),
            "{none:?}"
        );
        Ok(())
    });
}

fn value_of(text: &str) -> anyhow::Result<Value> {
    serde_json::from_str(text).with_context(|| text.to_owned())
}

/// Without it, a user would have to guess which flag, which port or which file was meant.
#[test]
fn errors_name_what_to_change() {
    scenario(async {
        let node = node_with("counter", "counter").await?;
        good(&node, &["send", "counter", "a", "1"]).await?;
        let file = node.scratch().join("a.jsonl").to_string_lossy().into_owned();
        good(&node, &["session", "export", "counter", "a", &file]).await?;
        let api = format!("http://{}", node.api().client.address());
        let none = node.scratch().join("none/a.jsonl").to_string_lossy().into_owned();
        let component = plugins::path("counter").to_string_lossy().into_owned();
        for (args, code, says) in [
            (&["send", "counter", "a", "1", "--id", "a\nb"][..], 2, "--id"),
            (&["send", "counter", "a", "1", "--sender", ""], 2, "--sender"),
            (&["deploy", "counter", &component, "--by", ""], 2, "--by"),
            (&["rollback", "counter", "--by", "a\tb"], 2, "--by"),
            (&["session", "import", "counter", "a", &file], 4, "--replace"),
            (&["session", "delete", "counter"], 2, "--prefix"),
            (&["session", "export", "counter", "a", &none], 1, "there is no folder"),
            (&["services", "--admin-url", &api], 4, "Is this the node's API?"),
            (&["deploy", "counter", "/dev/zero"], 1, "not a regular file"),
            (&["plugin", "check", "/dev/zero"], 1, "not a regular file"),
            (&["session", "import", "counter", "a", "/dev/zero"], 1, "not a regular file"),
        ] {
            let finished = node.run(args).await?;
            ensure!(finished.status.code() == Some(code), "{args:?}: {finished:?}");
            ensure!(finished.stderr.contains(says), "{args:?}: {finished:?}");
        }
        good(&node, &["plugin", "setup", "--lang", "ts"]).await?;
        Ok(())
    });
}

/// Without it, a script could not tell a refusal from a failure from a node that is not there.
#[test]
fn exit_codes_say_what_went_wrong() {
    scenario(async {
        let node = node_with("hostile", "hostile-v1").await?;
        let junk = node.scratch().join("junk.wasm");
        std::fs::write(&junk, b"no component")?;
        let junk = junk.to_string_lossy().into_owned();
        for (args, code) in [
            (&["send", "hostile", "a", r#"{"do": "echo"}"#][..], 0),
            (&["send", "none", "a", "x"], 4),
            (&["send", "hostile", "a", r#"{"do": "reject", "code": "no"}"#], 4),
            (&["send", "hostile", "a", r#"{"do": "trap"}"#], 5),
            (&["rollback", "hostile"], 4),
            (&["deploy", "hostile", &junk], 4),
            (&["deploy", "hostile", "/nowhere.wasm"], 1),
            (&["plugin", "check", &junk], 1),
            (&["send", "hostile"], 2),
            (&["dance"], 2),
            (&["services", "--admin-url", "http://127.0.0.1:9"], 3),
        ] {
            let finished = node.run(args).await?;
            ensure!(finished.status.code() == Some(code), "{args:?}: {finished:?}");
            ensure!(code == 0 || !finished.stderr.is_empty(), "{args:?} said nothing");
        }
        let trapped = node.run(&["send", "hostile", "a", r#"{"do": "trap"}"#, "--json"]).await?;
        let error: Value = serde_json::from_str(&trapped.stderr)?;
        ensure!(error["problem"]["code"] == "plugin-trapped" && error["exit"] == 5, "{error}");
        Ok(())
    });
}

/// Without it, `tail` would leave out events where messages are large, or begin again at the first
/// event of a message, and an empty answer would not say why it is one.
#[test]
fn tail_shows_all_that_it_is_asked_for() {
    scenario(async {
        let node = node_with("hostile", "hostile-v1").await?;
        let api = node.api();
        for number in 1..=6 {
            // Most of it is no event's: a page of messages ends long before six of them.
            let body = json!({
                "do": "emit", "kind": format!("kind-{number}"), "body": number,
                "beside": "x".repeat(250_000),
            });
            api.send("hostile", "large", Message::json(&body)).await?;
        }
        let all = ["1.0", "2.0", "3.0", "4.0", "5.0", "6.0"];
        for (args, expected) in [
            (&[][..], &all[..]),
            (&["-n", "6"], &all),
            (&["-n", "5000"], &all),
            (&["-n", "5"], &all[1..]),
            (&["-n", "1"], &all[5..]),
            (&["-n", "0"], &[]),
            (&["--after", "0"], &all),
            (&["--after", "2"], &all[2..]),
            (&["--after", "2.0"], &all[2..]),
            (&["--after", "6"], &[]),
        ] {
            let args = [&["tail", "hostile", "large", "--json"], args].concat();
            let lines = good(&node, &args).await?;
            let events: Vec<Value> =
                lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
            let ids: Vec<_> =
                events.iter().map(|e| format!("{}.{}", e["seq"], e["index"])).collect();
            ensure!(ids == expected, "{args:?}: {ids:?}");
            // Whoever reads them can go on behind any of them.
            if let Some(event) = events.iter().rev().nth(1) {
                let position = event["position"].as_str().context("no position")?;
                let rest = ["tail", "hostile", "large", "--json", "--after", position];
                ensure!(good(&node, &rest).await?.lines().count() == 1, "after {position}");
            }
        }

        // Several events of one message: the place is within it.
        api.send("hostile", "many", deed(&json!({"do": "many-events", "count": 3, "bytes": 1})))
            .await?;
        for (after, expected) in [("0", 3), ("1.0", 2), ("1.1", 1), ("1.2", 0), ("1", 0)] {
            let args = ["tail", "hostile", "many", "--after", after];
            let finished = node.run(&args).await?;
            ensure!(finished.status.success(), "{finished:?}");
            ensure!(finished.stdout.lines().count() == expected, "--after {after}: {finished:?}");
            let says = finished.stderr.contains("the session's last message is 1");
            ensure!(says == (expected == 0), "--after {after}: {finished:?}");
        }
        for args in [
            ["tail", "hostile", "many", "--after", "9"],
            ["history", "hostile", "many", "--after", "9"],
        ] {
            let finished = node.run(&args).await?;
            let says = "nothing after 9: the session's last message is 1";
            ensure!(finished.status.success() && finished.stderr.contains(says), "{finished:?}");
        }
        let short = node.run(&["history", "hostile", "large", "-n", "6"]).await?;
        ensure!(
            short.stderr.contains("fit on one page; for the earlier ones: --after 0"),
            "{}",
            short.stderr
        );
        for args in [
            ["tail", "hostile", "many", "--after", "1.x"],
            ["history", "hostile", "many", "-n", "5000"],
        ] {
            let refused = node.run(&args).await?;
            ensure!(refused.status.code() == Some(2), "{args:?}: {refused:?}");
        }
        Ok(())
    });
}

/// Without it, `tail --follow` could miss what comes while it runs, or while the node restarts.
#[test]
fn tail_follows_over_a_restart() {
    scenario(async {
        let mut node = node_with("chat", "chat-v1").await?;
        let api = node.api();
        // Where it listens must outlive the restart.
        let address = api.client.address();
        api.send("chat", "a", say("ann", "line 1")).await?;
        let mut tail = slotd()?;
        tail.args(["tail", "chat", "a", "--follow", "--after", "0", "--json"]);
        tail.args(["--url", &format!("http://{address}")]).stdout(Stdio::piped());
        let mut tail = tail.spawn()?;
        let (sender, mut lines) = tokio::sync::mpsc::unbounded_channel();
        let out = BufReader::new(tail.stdout.take().context("no output")?);
        let reading = std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let followed = async {
            for number in 1..=6_u64 {
                if number > 1 {
                    node.api().send("chat", "a", say("ann", &format!("line {number}"))).await?;
                }
                let line = tokio::time::timeout(SOON, lines.recv()).await.context("no line")?;
                let line = line.context("tail ended")?;
                let event: Value = serde_json::from_str(&line)?;
                ensure!(event["seq"] == number, "line {number}: {line}");
                if number == 3 {
                    node.kill()?;
                    node.restart_on(address).await?;
                }
            }
            anyhow::Ok(())
        };
        let followed = followed.await;
        tail.kill()?;
        tail.wait()?;
        drop(lines);
        // Its end of the pipe is closed now.
        let _ = reading.join();
        followed
    });
}
