//! What operators do to sessions beside their handlers.

use crate::common::{deed, expect_problem, ids, next_event, node_with};
use anyhow::{Context, ensure};
use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};
use slotd_tests::{
    api::{Message, session_path},
    http::Answer,
    node::{Node, NodeOptions, eventually, scenario},
    plugins,
};

fn admin_path(service: &str, session: &str, rest: &str) -> String {
    format!("/admin{}{rest}", session_path(service, session))
}

async fn good(node: &Node, args: &[&str]) -> anyhow::Result<String> {
    let done = node.run(args).await?;
    ensure!(done.status.success(), "slotd {}: {done:?}", args.join(" "));
    Ok(done.stdout)
}

async fn correct(node: &Node, session: &str, body: &Value, id: &str) -> anyhow::Result<Answer> {
    let headers =
        [("content-type", "application/json"), ("slotd-operator", "ann"), ("idempotency-key", id)];
    let path = admin_path("counter", session, "/state");
    node.admin().client.request(Method::POST, &path, &headers, body.to_string()).await
}

async fn counted(node: &Node, session: &str) -> anyhow::Result<Value> {
    node.api().send("counter", session, Message::bytes("x")).await?.json()
}

/// Without it, a session whose state its handler can't read would be lost with all it has: there
/// would be no way to see what is wrong, nor to mend it, nor to know later who did.
#[test]
fn an_operator_mends_what_a_handler_cannot_read() {
    scenario(async {
        let mut node = node_with("counter", "counter").await?;
        for expected in 1..=3 {
            ensure!(counted(&node, "a").await? == expected);
        }
        let broken = json!({
            "changes": [{"key": "count", "value": null}, {"key": "junk", "value_base64": "AP8="}],
        });
        correct(&node, "a", &broken, "break").await?.success()?;
        let answer = node.api().post("counter", "a", Message::bytes("x")).await?;
        ensure!(answer.status >= 400, "the handler reads null as a number: {answer:?}");

        let shown = good(&node, &["session", "state", "counter", "a"]).await?;
        ensure!(shown.contains("count") && shown.contains("null") && shown.contains("AP8="));
        let state = node.admin().client.get(&admin_path("counter", "a", "/state")).await?;
        let state: Value = state.success()?.json()?;
        ensure!(state["session"]["seq"] == 4 && state["session"]["state_keys"] == 2, "{state}");
        let position = state["session"]["position"].as_str().context("no position")?.to_owned();

        // Only where it is as it was seen.
        let late = json!({"changes": [{"key": "count", "value": 7}], "position": "3"});
        expect_problem(&correct(&node, "a", &late, "late").await?, 409, "session-changed")?;
        let mend = [
            "session",
            "set",
            "counter",
            "a",
            "count",
            "41",
            "--reason",
            "was null",
            "--as",
            "bob",
            "--if-position",
            &position,
        ];
        good(&node, &mend).await?;
        good(&node, &["session", "set", "counter", "a", "junk", "--delete"]).await?;
        ensure!(counted(&node, "a").await? == 42);

        // In the history stands who did it, and no number is missing.
        let history = node.api().whole_history("counter", "a").await?;
        let numbers: Vec<_> = history.iter().map(|entry| entry.seq).collect();
        ensure!(numbers == [1, 2, 3, 4, 5, 6, 7], "{numbers:?}");
        ensure!(history[4].sender.as_deref() == Some("bob"), "{:?}", history[4]);
        let body = history[4].body.as_ref().context("no body")?;
        ensure!(body["reason"] == "was null" && body["changes"][0]["key"] == "count", "{body}");
        let page = session_path("counter", "a") + "/messages?after=0";
        let page: Value = node.api().client.get(&page).await?.success()?.json()?;
        ensure!(page["entries"][4]["origin"] == "operator", "{page}");
        ensure!(page["entries"][4]["id"].is_null() && page["entries"][0]["origin"].is_null());

        // Repeated, it is applied once; a restart loses nothing of it.
        let set = json!({"changes": [{"key": "count", "value": 100}]});
        let first: Value = correct(&node, "a", &set, "k").await?.success()?.json()?;
        ensure!(counted(&node, "a").await? == 101);
        node.kill()?;
        node.restart().await?;
        let again: Value = correct(&node, "a", &set, "k").await?.success()?.json()?;
        ensure!(again["seq"] == first["seq"] && again["replayed"] == true, "{first} {again}");
        ensure!(counted(&node, "a").await? == 102);
        // What is not there is not made by a correction; what is malformed changes nothing.
        expect_problem(&correct(&node, "none", &set, "n").await?, 404, "session-not-found")?;
        for bad in [
            json!({"changes": []}),
            json!({"changes": [{"key": "a"}]}),
            json!({"changes": [{"key": "", "value": 1}]}),
            json!({"changes": [{"key": "a", "value": 1}, {"key": "a", "value": 2}]}),
            json!({"changes": [{"key": "a", "value": 1, "delete": true}]}),
        ] {
            expect_problem(&correct(&node, "a", &bad, "b").await?, 400, "request-invalid")?;
        }
        Ok(())
    });
}

/// Without it, a session could not be brought elsewhere, or would arrive as another one.
#[test]
fn a_session_is_the_same_after_its_way_through_a_file() {
    scenario(async {
        let node = node_with("hostile", "hostile-v1").await?;
        let api = node.api();
        let set = json!({"do": "set", "key": "k", "value": {"deep": [1, "ü"]}});
        api.send("hostile", "a", deed(&set).key("first")).await?;
        for count in [2, 0, 3] {
            let many = json!({"do": "many-events", "count": count, "bytes": 10});
            api.send("hostile", "a", deed(&many)).await?;
        }
        let before = api.whole_history("hostile", "a").await?;
        let file = node.scratch().join("a.jsonl");
        let name = file.to_str().context("a path")?;
        good(&node, &["session", "export", "hostile", "a", name]).await?;

        let import = ["session", "import", "hostile", "a", name];
        let refused = node.run(&import).await?;
        ensure!(refused.stderr.contains("session-exists"), "{refused:?}");
        api.delete("hostile", "a").await?.success()?;
        good(&node, &import).await?;
        let mut after = api.whole_history("hostile", "a").await?;
        let note = after.pop().context("no history")?;
        ensure!(note.seq == 5 && note.body.as_ref().is_some_and(|b| b["action"] == "import"));
        ensure!(before == after, "{before:?}\n{after:?}");
        // Its state, and which messages it has had.
        let get = json!({"do": "get", "key": "k"});
        ensure!(api.query("hostile", "a", &get).await?["value"] == json!({"deep": [1, "ü"]}));
        let again = api.send("hostile", "a", deed(&set).key("first")).await?;
        ensure!(again.seq == 1 && again.replayed, "{again:?}");
        let mut stream = api.events("hostile", "a", Some(0), None).await?;
        ensure!(ids(&mut stream, 5).await? == ["2.0", "2.1", "4.0", "4.1", "4.2"]);

        // What no handler could have done is not brought in: it would break the streams' framing.
        let whole = std::fs::read_to_string(&file)?;
        for (field, bad) in [("kind", json!("a\nid: 9")), ("content_type", json!("a\r\nb: c"))] {
            let lines = whole.lines().map(|line| {
                let mut line: Value = serde_json::from_str(line)?;
                if let Some(event) = line.pointer_mut("/message/events/0") {
                    event[field] = bad.clone();
                }
                Ok(line.to_string())
            });
            let lines: Vec<String> = lines.collect::<anyhow::Result<_>>()?;
            let path = admin_path("hostile", "c", "/import");
            let answer = node.admin().client.post(&path, lines.join("\n")).await?;
            expect_problem(&answer, 400, "request-invalid")?;
        }

        // Under another name, in place of what is there, and without its history.
        api.send("hostile", "b", deed(&set)).await?;
        let replace = ["session", "import", "hostile", "b", name, "--replace"];
        good(&node, &replace).await?;
        ensure!(api.session("hostile", "b").await?.seq == 5);
        good(&node, &["session", "export", "hostile", "a", name, "--no-history"]).await?;
        good(&node, &replace).await?;
        ensure!(api.session("hostile", "b").await?.seq == 1);
        ensure!(api.query("hostile", "b", &get).await?["value"] == json!({"deep": [1, "ü"]}));

        // A file that was cut takes nothing away and leaves nothing.
        let whole = std::fs::read_to_string(&file)?;
        let lines: Vec<_> = whole.lines().collect();
        let path = admin_path("hostile", "b", "/import?replace=true");
        for cut in 0..lines.len() {
            let answer = node.admin().client.post(&path, lines[..cut].join("\n")).await?;
            expect_problem(&answer, 400, "request-invalid")?;
        }
        ensure!(api.session("hostile", "b").await?.seq == 1);
        Ok(())
    });
}

/// Without it, a session that does not fit one part would be brought in by half, or not at all.
#[test]
fn a_large_session_is_imported_in_parts() {
    scenario(async {
        let node = node_with("counter", "counter").await?;
        counted(&node, "a").await?;
        let shown = good(&node, &["session", "export", "counter", "a", "-"]).await?;
        let head = shown.lines().next().context("no head")?;
        // Half a MiB of sevens.
        let value = "Nzc3".repeat(170_000);
        let keys = 12;
        let mut file = format!("{head}\n");
        let message = shown.lines().nth(1).context("no message")?;
        file += &format!("{message}\n");
        for key in 0..keys {
            file += &format!(
                "{}\n",
                json!({"state": {"key": format!("k{key}"), "value_base64": value}})
            );
        }
        let path = admin_path("counter", "big", "/import");
        // Its end is not there: what came before it goes again.
        let answer = node.admin().client.post(&path, file.clone()).await?;
        expect_problem(&answer, 400, "request-invalid")?;
        expect_problem(
            &node.api().client.get(&session_path("counter", "big")).await?,
            404,
            "session-not-found",
        )?;
        file += &format!("{}\n", json!({"end": {"messages": 1, "keys": keys}}));
        let done: Value = node.admin().client.post(&path, file).await?.success()?.json()?;
        ensure!(done["keys"] == keys && done["messages"] == 1, "{done}");
        let info = node.api().session("counter", "big").await?;
        ensure!(info.state_keys == keys && info.seq > 2, "{info:?}");
        ensure!(counted(&node, "big").await? == 1);
        Ok(())
    });
}

/// Invariant 3: what clients are told is kept would go with the rest of a file that turns out to be
/// broken. So a session that comes in by parts takes no message before its last one.
#[test]
fn a_broken_import_takes_no_message_with_it() {
    scenario(async {
        let node = node_with("counter", "counter").await?;
        counted(&node, "a").await?;
        let shown = good(&node, &["session", "export", "counter", "a", "-"]).await?;
        let mut start: String = shown.lines().take(2).flat_map(|line| [line, "\n"]).collect();
        let value = "Nzc3".repeat(170_000);
        for key in 0..5 {
            let state = json!({"state": {"key": format!("k{key}"), "value_base64": value}});
            start += &format!("{state}\n");
        }
        let (chunks, sent) = tokio::sync::mpsc::unbounded_channel();
        let body = futures_util::stream::unfold(sent, async |mut sent| {
            let chunk: String = sent.recv().await?;
            Some((Bytes::from(chunk), sent))
        });
        let client = node.admin().client;
        let path = admin_path("counter", "big", "/import");
        let importing = tokio::spawn(async move {
            client.request_chunked(Method::POST, &path, &[], Box::pin(body)).await
        });
        chunks.send(start)?;
        eventually("its first part is there", async || {
            let answer = node.api().client.get(&session_path("counter", "big")).await?;
            Ok((answer.status == 200).then_some(()))
        })
        .await?;
        let early =
            node.api().client.post(&(session_path("counter", "big") + "/messages"), "x").await?;
        let problem = expect_problem(&early, 503, "unavailable")?;
        ensure!(problem.detail.contains("is being imported"), "{}", problem.detail);
        chunks.send("this is no line of it\n".into())?;
        expect_problem(&importing.await??, 400, "request-invalid")?;
        let gone = node.api().client.get(&session_path("counter", "big")).await?;
        expect_problem(&gone, 404, "session-not-found")?;
        ensure!(counted(&node, "big").await? == 1);
        Ok(())
    });
}

/// What a file says is checked where it is read: a session's times never go back, its keys are keys, and
/// what stands in its history is small enough to be read, and to be exported again.
#[test]
fn a_file_that_no_node_wrote_is_refused() {
    scenario(async {
        let node = node_with("counter", "counter").await?;
        counted(&node, "a").await?;
        counted(&node, "a").await?;
        let shown = good(&node, &["session", "export", "counter", "a", "-"]).await?;
        let lines: Vec<Value> =
            shown.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let import = async |change: &dyn Fn(&mut Vec<Value>)| {
            let mut lines = lines.clone();
            change(&mut lines);
            let file: String =
                lines.iter().flat_map(|line| [line.to_string(), "\n".into()]).collect();
            let client = node.admin().client;
            client.post(&admin_path("counter", "b", "/import"), file).await
        };
        let state = lines.iter().position(|line| line.get("state").is_some()).context("a key")?;
        type Change<'a> = (&'a dyn Fn(&mut Vec<Value>), &'a str);
        let changes: [Change<'_>; 5] = [
            (&|lines| lines[2]["message"]["time_ms"] = 1.into(), "before the previous message"),
            (&|lines| lines[2]["message"]["time_ms"] = u64::MAX.into(), "this node's clock"),
            (&|lines| lines[state]["state"]["key"] = "".into(), "a key must have 1 to"),
            (&|lines| lines[0]["session"] = "x".repeat(100_000).into(), "a session id must have"),
            (&|lines| lines[0]["version"] = "1".repeat(1_000).into(), "the version has"),
        ];
        for (change, why) in changes {
            let answer = import(change).await?;
            let detail = answer.problem()?.detail;
            ensure!(answer.status == 400 && detail.contains(why), "{}: {detail}", answer.status);
        }
        ensure!(import(&|_| ()).await?.status == 200);
        // A correction says why in some words, and names as many keys as can be read.
        let set = |count: usize, reason: usize| {
            let changes = (0..count).map(|n| json!({"key": format!("{n:0>500}"), "value": 1}));
            json!({"changes": changes.collect::<Vec<_>>(), "reason": "r".repeat(reason)})
        };
        let refused = correct(&node, "b", &set(1, 5_000), "long").await?;
        expect_problem(&refused, 400, "request-invalid")?;
        ensure!(correct(&node, "b", &set(1_000, 4_000), "many").await?.status == 200);
        let page = node
            .api()
            .client
            .get(&((session_path("counter", "b") + "/messages") + "?tail=1"))
            .await?;
        ensure!(page.body.len() < 100_000, "{} bytes", page.body.len());
        // What was imported takes no operator's key, and what was corrected can be imported again.
        ensure!(correct(&node, "b", &set(1, 10), "3").await?.status == 200);
        let again = good(&node, &["session", "export", "counter", "b", "-"]).await?;
        let client = node.admin().client;
        let answer = client.post(&admin_path("counter", "c", "/import"), again).await?;
        ensure!(answer.status == 200, "{answer:?}");
        ensure!(correct(&node, "c", &set(1, 10), "4").await?.status == 200);
        Ok(())
    });
}

/// Without it, thousands of sessions could only be deleted one by one, or a slip would take more
/// than was meant.
#[test]
fn sessions_are_deleted_by_their_prefix() {
    scenario(async {
        let node = node_with("counter", "counter").await?;
        for number in 0..230 {
            counted(&node, &format!("room-{number}")).await?;
        }
        counted(&node, "rook").await?;
        let many = ["session", "delete", "counter", "--prefix", "room-"];
        let asked = node.run(&many).await?;
        ensure!(
            asked.status.code() == Some(2) && asked.stderr.contains("230 sessions"),
            "{asked:?}"
        );
        let counted_only = good(&node, &[&many[..], &["--dry-run"]].concat()).await?;
        ensure!(counted_only.contains("230 sessions"), "{counted_only}");
        ensure!(node.api().session("counter", "room-7").await?.seq == 1);
        let done = good(&node, &[&many[..], &["--yes"]].concat()).await?;
        ensure!(done.contains("deleted 230 sessions"), "{done}");
        let left = good(&node, &["sessions", "counter", "--json"]).await?;
        let left: Value = serde_json::from_str(&left)?;
        ensure!(left["sessions"].as_array().is_some_and(|all| all.len() == 1), "{left}");
        // The prefix is never forgotten.
        let all = "/admin/v1/services/counter/sessions";
        let answer = node.admin().client.request(Method::DELETE, all, &[], "").await?;
        expect_problem(&answer, 400, "request-invalid")?;
        Ok(())
    });
}

/// Without it, each test of a suite would need a node of its own, or meet what others left.
#[test]
fn a_resettable_node_forgets_every_session() {
    scenario(async {
        let node = Node::start_with(NodeOptions {
            args: vec!["--resettable".into()],
            ..NodeOptions::default()
        })
        .await?;
        let (api, admin) = (node.api(), node.admin());
        admin.deploy("counter", plugins::load("counter")?).await?;
        admin.deploy("hostile", plugins::load("hostile-v1")?).await?;
        let emit = json!({"do": "emit", "kind": "k", "body": 1});
        let mut term = 0;
        for round in 0..3 {
            for session in ["a", "b", "c"] {
                let sent = api.send("counter", session, Message::bytes("x").key("same")).await?;
                ensure!(sent.seq == 1 && !sent.replayed, "round {round}: {sent:?}");
            }
            let slot = api.send("hostile", "e", deed(&emit)).await?.slot;
            api.send("hostile", "e", deed(&emit)).await?;
            // A number is in no doubt: nothing is remembered of the rounds before.
            let mut stream = api.events("hostile", "e", Some(1), None).await?;
            ensure!(ids(&mut stream, 1).await? == ["2.0"]);
            if round == 1 {
                admin.client.post(&format!("/admin/v1/slots/{slot}/drain"), "").await?.success()?;
            }
            let reset: Value = admin.client.post("/admin/v1/reset", "").await?.success()?.json()?;
            ensure!(reset["sessions"] == 4, "{reset}");
            let event = next_event(&mut stream).await?;
            ensure!(event.event.as_deref() == Some("slotd.deleted"), "{event:?}");
            for service in ["counter", "hostile"] {
                let listed = good(&node, &["sessions", service, "--json"]).await?;
                ensure!(listed.contains("\"sessions\":[]"), "{listed}");
            }
            let slot = api.send("counter", "z", Message::bytes("x")).await?.slot;
            let info: Value =
                admin.client.get(&format!("/admin/v1/slots/{slot}")).await?.success()?.json()?;
            let now = info["term"].as_u64().context("no term")?;
            ensure!(now >= term, "the term went back from {term} to {now}");
            term = now;
            node.reset().await?;
        }
        Ok(())
    });
}

/// Without it, one request could delete all that a node in production has.
#[test]
fn other_nodes_refuse_to_be_reset() {
    scenario(async {
        let node = node_with("counter", "counter").await?;
        counted(&node, "a").await?;
        let answer = node.admin().client.post("/admin/v1/reset", "").await?;
        let problem = expect_problem(&answer, 403, "reset-refused")?;
        ensure!(problem.detail.contains("--resettable"), "{}", problem.detail);
        eventually("the session is there", async || {
            Ok((node.api().session("counter", "a").await?.seq == 1).then_some(()))
        })
        .await
    });
}
