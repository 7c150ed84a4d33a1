//! What operators see of requests over HTTP, and do with them, by the command line.

use crate::common::{expect_problem, good, listed};
use anyhow::{Context, ensure};
use hyper::Method;
use serde_json::{Value, json};
use slotd_tests::{
    api::Message,
    node::{Node, NodeOptions, eventually, scenario},
    outside::Outside,
    plugins,
    requests::{self, RESTARTED, Request},
};
use std::fs;

const SERVICE: &str = "kitchen-sink";

async fn node(outside: &Outside) -> anyhow::Result<Node> {
    node_with(outside, &[]).await
}

/// A node whose sessions may ask a server.
async fn node_with(outside: &Outside, args: &[&str]) -> anyhow::Result<Node> {
    let rule = outside.rule(SERVICE);
    let args =
        ["--effects-http", rule.as_str()].iter().chain(args).map(ToString::to_string).collect();
    let node = Node::start_with(NodeOptions { args, ..NodeOptions::default() }).await?;
    node.admin().deploy(SERVICE, plugins::load(SERVICE)?).await?;
    Ok(node)
}

async fn open(node: &Node) -> anyhow::Result<Vec<Value>> {
    let outbox = listed(node, &["outbox", SERVICE]).await?;
    Ok(outbox["requests"].as_array().context("no requests")?.clone())
}

/// Entries of a history that no client sent, as the admin sees them; without what a copy has of its own.
async fn origins(node: &Node, session: &str) -> anyhow::Result<Vec<Value>> {
    let history = listed(node, &["history", SERVICE, session]).await?;
    let entries = history["entries"].as_array().context("no entries")?.clone();
    let of = |entry: Value| {
        let fields = ["origin", "http", "part", "presence", "seq", "body", "reply"];
        let kinds = entry["events"].as_array().into_iter().flatten();
        let kinds: Vec<_> = kinds.map(|event| event["kind"].clone()).collect();
        let mut found = json!({ "kinds": kinds });
        for field in fields {
            found[field] = entry[field].clone();
        }
        found
    };
    let mine = entries.into_iter().filter(|entry| entry["origin"] != "operator");
    Ok(mine.filter(|entry| entry["origin"].is_string()).map(of).collect())
}

/// Without it, a reader of the history would take an answer, a part of one or presence for a client's message, also in a
/// file.
#[test]
fn an_answer_says_what_it_is_wherever_it_is() {
    scenario(async {
        let outside = Outside::start().await?;
        let node = node(&outside).await?;
        let api = node.api();
        let url = outside.url("/drop?tokens=4&times=1&every_ms=60");
        let asked = [
            requests::ask(&api, SERVICE, "a", &Request::get("echo", outside.url("/echo"))).await?,
            requests::ask(
                &api,
                SERVICE,
                "a",
                &Request::get("slow", outside.url("/slow?ms=60000"))
                    .with("timeout_ms", 100)
                    .with("attempts", 1)
                    .that_may_fail(),
            )
            .await?,
            requests::ask(&api, SERVICE, "a", &Request::stream("llm", url, 4)).await?,
        ];
        requests::all_answered(&api, SERVICE, &asked, || outside.attempts()).await?;
        let watch = json!({"op": "watch", "wanted": true});
        api.send(SERVICE, "a", Message::json(&watch)).await?;
        let stream = api.events(SERVICE, "a", None, None).await?;
        eventually("the handler is told", async || {
            let history = api.whole_history(SERVICE, "a").await?;
            Ok(history.iter().any(|entry| entry.presence.is_some()).then_some(()))
        })
        .await?;
        api.send(SERVICE, "a", Message::json(&json!({"op": "watch", "wanted": false}))).await?;
        drop(stream);

        let shown = good(&node, &["history", SERVICE, "a"]).await?;
        // An answer may have come between two that asked.
        let [echo, slow, llm] = asked.each_ref().map(|it| it.seq);
        for part in [
            format!("request echo of #{echo}: answer 200"),
            format!("request slow of #{slow}: no answer, timeout: "),
            format!("part of the answer to request llm of #{llm}"),
            format!("request llm of #{llm}: answer 200, made 2 times"),
            "subscribers: present".to_owned(),
        ] {
            ensure!(shown.contains(&part), "{part}: {shown}");
        }
        let seen = origins(&node, "a").await?;
        let with = |origin: &'static str| seen.iter().filter(move |it| it["origin"] == origin);
        ensure!(with("http").count() == 3 && with("presence").count() == 1, "{seen:?}");
        ensure!(with("http-part").count() >= 2, "{seen:?}");
        let slow = with("http").find(|entry| entry["http"]["id"] == "slow").context("none")?;
        ensure!(slow["http"]["failure"] == "timeout" && slow["http"]["status"].is_null(), "{slow}");
        let again = with("http-part").filter(|entry| entry["kinds"][0] == RESTARTED);
        ensure!(again.count() == 1, "{seen:?}");

        let file = node.scratch().join("a.jsonl");
        let file = file.to_string_lossy();
        good(&node, &["session", "export", SERVICE, "a", &file]).await?;
        good(&node, &["session", "import", SERVICE, "copy", &file]).await?;
        ensure!(origins(&node, "copy").await? == seen, "{:?}", origins(&node, "copy").await?);

        // What no slot has written is not taken from a file.
        let text = fs::read_to_string(&*file)?;
        for (from, to) in [
            (r#""status":200"#, r#""status":7"#),
            (r#""failure":"timeout""#, r#""failure":"Time Out""#),
            (r#""attempt":1}"#, r#""attempt":0}"#),
        ] {
            ensure!(text.contains(from), "{from}");
            let bad = node.scratch().join("bad.jsonl");
            fs::write(&bad, text.replacen(from, to, 1))?;
            let bad = bad.to_string_lossy();
            let refused = node.run(&["session", "import", SERVICE, "bad", &bad]).await?;
            ensure!(!refused.status.success(), "{to}: {refused:?}");
            ensure!(refused.stderr.contains("line "), "{to}: {refused:?}");
        }
        Ok(())
    });
}

/// An answer that a handler with a fault has seen once would be lost, and was paid for.
#[test]
fn an_answer_that_its_handler_fails_comes_again_over_kills() {
    scenario(async {
        let outside = Outside::start().await?;
        let mut node = node(&outside).await?;
        let fail = json!({"op": "set", "key": "fail-answers", "value": true});
        node.api().send(SERVICE, "a", Message::json(&fail)).await?;
        let request = Request::get("echo", outside.url("/echo"));
        let asked = requests::ask(&node.api(), SERVICE, "a", &request).await?;
        eventually("the handler has failed it", async || {
            let outbox = node.run(&["--json", "outbox", SERVICE]).await?;
            Ok(outbox.stdout.contains("As told.").then_some(()))
        })
        .await?;
        node.kill()?;
        node.restart().await?;
        let open = node.api().query(SERVICE, "a", &json!({"op": "open-requests"})).await?;
        ensure!(open == json!(["echo"]), "{open}");
        let mend = json!({"op": "delete", "key": "fail-answers"});
        node.api().send(SERVICE, "a", Message::json(&mend)).await?;
        requests::all_answered(&node.api(), SERVICE, &[asked], || outside.attempts()).await?;
        let history = node.api().whole_history(SERVICE, "a").await?;
        let answer = history.iter().find_map(|entry| entry.http.as_ref()).context("no answer")?;
        ensure!(answer.attempt > 1 && answer.attempts == 1, "{answer:?}");
        // The server was not asked for it again.
        ensure!(outside.attempts().len() == 1, "{:?}", outside.attempts());
        Ok(())
    });
}

/// Who replaces a stolen key must not have to restart, and who makes a mistake in doing so has to be told.
#[test]
fn a_secret_that_is_replaced_is_sent_from_then_on() {
    scenario(async {
        let outside = Outside::start().await?;
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("secrets");
        fs::write(&file, "KEY=first-0123456789\n")?;
        let rule = outside.rule(SERVICE);
        let (_, host) = rule.split_once('>').context("no rule")?;
        let grant = format!("{SERVICE}>KEY>{host}");
        let file_name = file.display().to_string();
        let args = ["--effects-http-secrets", &*grant, "--effects-secrets-file", &*file_name];
        let node = node_with(&outside, &args).await?;
        let is_sent = async |key: &str| {
            let request = json!({"op": "request", "id": "ask", "method": "GET", "url": outside.url("/say"),
                "headers": [["authorization", "{{secret:KEY}}"]]});
            eventually("the secret is sent", async || {
                node.api().send(SERVICE, "a", Message::json(&request)).await?;
                let attempts = outside.attempts();
                let last = attempts.last().and_then(|it| it.headers.get("authorization"));
                Ok((last.map(String::as_str) == Some(key)).then_some(()))
            })
            .await
        };
        is_sent("first-0123456789").await?;
        fs::write(&file, "KEY=another-0123456789\n")?;
        is_sent("another-0123456789").await?;
        fs::write(&file, "no secret at all\n")?;
        eventually("the mistake is told", async || {
            Ok(node.log().contains("keeping the old secrets").then_some(()))
        })
        .await?;
        is_sent("another-0123456789").await
    });
}

/// Who looks for an answer that did not come has to see where it is; and what was meant by nobody must not be made for a day.
#[test]
fn an_operator_sees_what_is_open_cancels_it_and_retries_dead_answers() {
    scenario(async {
        let outside = Outside::start().await?;
        let mut node = node(&outside).await?;
        for (session, id) in [("a", "mistake"), ("b", "meant")] {
            let request = Request::get(id, outside.url("/hold"));
            requests::ask(&node.api(), SERVICE, session, &request).await?;
        }
        eventually(
            "both are under way",
            async || Ok((outside.attempts().len() == 2).then_some(())),
        )
        .await?;
        let both = open(&node).await?;
        ensure!(both.len() == 2, "{both:?}");
        let one = both.iter().find(|one| one["session"] == "a").context("not there")?;
        ensure!(one["state"] == "open" && one["id"] == "mistake", "{one}");
        ensure!(one["url"] == outside.url("/hold") && one["asked_by"] == 1, "{one}");
        let table = good(&node, &["outbox", SERVICE]).await?;
        ensure!(table.contains("mistake") && table.contains("POST http://127.0.0.1"), "{table}");

        good(&node, &["request", "cancel", SERVICE, "a", "mistake"]).await?;
        let again = node.run(&["request", "cancel", SERVICE, "a", "mistake"]).await?;
        ensure!(!again.status.success() && again.stderr.contains("no open request"), "{again:?}");

        // The version that gets the answer rejects it for good.
        let other = plugins::path("chat-v1").display().to_string();
        good(&node, &["deploy", SERVICE, &other, "--same-state", "--gate", "off", "--wait"])
            .await?;
        outside.release();
        let dead = eventually("the answer is dead", async || {
            let dead = listed(&node, &["dead", "list", SERVICE]).await?["dead"].take();
            Ok(dead.as_array().and_then(|dead| dead.first().cloned()))
        })
        .await?;
        ensure!(dead["kind"] == "answer" && dead["id"] == "meant", "{dead}");
        ensure!(dead["status"] == 200 && dead["time_ms"].is_u64(), "{dead}");
        ensure!(open(&node).await?.is_empty(), "something is open");
        node.kill()?;
        node.restart().await?;

        let own = plugins::path(SERVICE).display().to_string();
        let deployed =
            good(&node, &["deploy", SERVICE, &own, "--same-state", "--gate", "off", "--wait"])
                .await?;
        ensure!(
            deployed.contains("new effects: ") && deployed.contains("http.request"),
            "{deployed}"
        );
        good(&node, &["dead", "retry", SERVICE, "b", "meant"]).await?;
        eventually("the handler has it", async || {
            let history = listed(&node, &["history", SERVICE, "b"]).await?.to_string();
            Ok(history.contains("held").then_some(()))
        })
        .await?;
        let dead = listed(&node, &["dead", "list", SERVICE]).await?;
        ensure!(dead["dead"] == json!([]), "{dead}");
        // Neither was made again, and what was cancelled is not heard of.
        ensure!(outside.attempts().len() == 2, "{:?}", outside.attempts());
        ensure!(node.api().session(SERVICE, "a").await?.seq == 1, "it was answered");
        Ok(())
    });
}

/// An id that can't be found must not end in another's being dropped.
#[test]
fn ids_of_requests_are_checked() {
    scenario(async {
        let node = Node::start().await?;
        node.admin().deploy(SERVICE, plugins::load(SERVICE)?).await?;
        node.api().send(SERVICE, "a", Message::json(&json!({"op": "context"}))).await?;
        let admin = node.admin();
        let client = &admin.client;
        let requests = format!("/admin/v1/services/{SERVICE}/sessions/a/requests");
        for (method, rest, status, code) in [
            (Method::DELETE, "/ask", 404, "timer-not-found"),
            (Method::DELETE, "/a%01", 400, "name-invalid"),
            (Method::DELETE, "/ask/dead/17", 404, "timer-not-found"),
            (Method::POST, "/ask/dead/17/retry", 404, "timer-not-found"),
            (Method::DELETE, "/ask/dead/x", 400, "request-invalid"),
        ] {
            let answer = client.request(method, &format!("{requests}{rest}"), &[], "").await?;
            expect_problem(&answer, status, code).with_context(|| rest)?;
        }
        Ok(())
    });
}
