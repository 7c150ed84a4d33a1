//! What was used: exactly what clients sent and got, by whom, over restarts.

use crate::common::{good, listed, node_with};
use anyhow::{Context, ensure};
use hyper::Method;
use serde_json::{Value, json};
use slotd_tests::{
    api::{Api, Message, session_path},
    http::Client,
    node::{Node, eventually, scenario},
    plugins,
};
use std::{fs, path::PathBuf};

/// A client of the API that shows this token.
fn with(node: &Node, token: &str) -> Api {
    Api::new(Client::new(node.api().client.address()).with_token(token))
}

/// A token for a session, of a subject.
async fn mint(node: &Node, by: &str, session: &str, subject: &str) -> anyhow::Result<String> {
    let args = ["token", "mint", "counter", session, "--subject", subject, "--ttl", "10m"];
    Ok(good(node, &[&args[..], &["--token", by]].concat()).await?.trim().to_owned())
}

/// A field of the row of a subject; 0 where there is none.
fn of(report: &Value, subject: Option<&str>, field: &str) -> u64 {
    let rows = report["rows"].as_array().into_iter().flatten();
    let is = |row: &&Value| row["subject"].as_str() == subject && row["service"] == "counter";
    rows.filter(is).map(|row| row[field].as_u64().unwrap_or_default()).sum()
}

fn stored(report: &Value, service: &str) -> (u64, u64) {
    let services = report["stored"].as_array().into_iter().flatten();
    let mut found = services.filter(|stored| stored["service"] == service);
    let number = |stored: &Value, name: &str| stored[name].as_u64().unwrap_or_default();
    found.next().map_or((0, 0), |stored| (number(stored, "sessions"), number(stored, "bytes")))
}

async fn by_subject(node: &Node) -> anyhow::Result<Value> {
    listed(node, &["usage", "--by", "subject"]).await
}

/// What one client sent and got.
#[derive(Default)]
struct Sent {
    messages: u64,
    bytes_in: u64,
    bytes_sent: u64,
}

impl Sent {
    async fn send(&mut self, api: &Api, session: &str, message: Message) -> anyhow::Result<()> {
        self.messages += 1;
        self.bytes_in += message.body.len() as u64;
        self.bytes_sent += api.send("counter", session, message).await?.body.len() as u64;
        Ok(())
    }

    fn check(&self, report: &Value, subject: Option<&str>) -> anyhow::Result<()> {
        let is = |field: &str, expected: u64| {
            let found = of(report, subject, field);
            ensure!(found == expected, "{subject:?}: {found} {field}, not {expected}: {report}");
            Ok(())
        };
        is("messages", self.messages)?;
        is("bytes_in", self.bytes_in)?;
        is("bytes_sent", self.bytes_sent)
    }
}

/// Bills are made of it: whoever sent nothing must not pay, and nothing counts twice.
#[test]
fn usage_is_what_each_subject_sent_and_got() {
    scenario(async {
        let mut node = node_with("counter", "counter").await?;
        let backend = good(&node, &["token", "create", "backend", "--allow", "*", "--on", "*"]);
        let backend = backend.await?.trim().to_owned();
        let api = with(&node, &backend);
        let of_ann = with(&node, &mint(&node, &backend, "a", "ann").await?);
        let of_bob = with(&node, &mint(&node, &backend, "b", "bob").await?);
        let add = |n: u64| Message::json(&json!({ "add": n }));
        let (mut ann, mut bob, mut own) = (Sent::default(), Sent::default(), Sent::default());
        for n in 0..7 {
            ann.send(&of_ann, "a", add(10_u64.pow(n))).await?;
        }
        for n in 0..3 {
            bob.send(&of_bob, "b", add(n)).await?;
        }
        own.send(&api, "c", add(1).key("once")).await?;
        // A repeat is answered again, and not applied again.
        let again = api.send("counter", "c", add(1).key("once")).await?;
        ensure!(again.replayed);
        own.bytes_sent += again.body.len() as u64;
        // A query is no message.
        let query = json!({});
        let path = session_path("counter", "a") + "/query";
        let headers = [("content-type", "application/json")];
        let answer = api.client.request(Method::POST, &path, &headers, query.to_string()).await?;
        let answer = answer.success()?;
        own.bytes_in += query.to_string().len() as u64;
        own.bytes_sent += answer.body.len() as u64;
        // Nor is a page.
        let page = of_bob.client.get(&(session_path("counter", "b") + "/messages")).await?;
        bob.bytes_sent += page.success()?.body.len() as u64;

        let check = |report: &Value| {
            ann.check(report, Some("session:ann"))?;
            bob.check(report, Some("session:bob"))?;
            own.check(report, Some("token:backend"))?;
            for subject in ["session:ann", "session:bob", "token:backend"] {
                ensure!(of(report, Some(subject), "guest_time_ns") > 0, "{report}");
                ensure!(of(report, Some(subject), "refused") == 0, "{report}");
            }
            ensure!(of(report, None, "messages") == 0, "somebody else sent something: {report}");
            let (sessions, bytes) = stored(report, "counter");
            ensure!(sessions == 3, "{report}");
            ensure!(bytes > ann.bytes_in + bob.bytes_in + own.bytes_in, "{report}");
            anyhow::Ok(())
        };
        let report = by_subject(&node).await?;
        check(&report)?;
        let whole = listed(&node, &["usage", "counter"]).await?;
        ensure!(of(&whole, None, "messages") == 11, "{whole}");
        let days = listed(&node, &["usage", "--by", "day"]).await?;
        ensure!(of(&days, None, "messages") == 11, "{days}");
        ensure!(days["rows"][0]["day"] == days["until"], "{days}");
        let none = listed(&node, &["usage", "other"]).await?;
        ensure!(none["rows"] == json!([]), "{none}");
        let table = good(&node, &["usage", "--by", "subject"]).await?;
        ensure!(table.contains("session:ann") && table.contains("STORED NOW"), "{table}");

        // An orderly stop loses nothing, and a restart counts nothing again.
        node.terminate().await?;
        node.restart().await?;
        check(&by_subject(&node).await?)?;
        let api = with(&node, &backend);
        let before = stored(&by_subject(&node).await?, "counter");
        let deleted = api.delete("counter", "a").await?;
        ensure!(deleted.status == 204, "{deleted:?}");
        let after = stored(&by_subject(&node).await?, "counter");
        ensure!(after.0 == 2 && after.1 < before.1, "{before:?} {after:?}");
        Ok(())
    });
}

/// The one file of usage that there is.
fn file(node: &Node) -> anyhow::Result<Option<PathBuf>> {
    let Ok(entries) = fs::read_dir(node.data_dir().join("usage")) else { return Ok(None) };
    let paths: Vec<_> = entries.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    Ok(paths.into_iter().filter(|path| path.extension().is_some_and(|e| e == "jsonl")).max())
}

/// A crash would be free of charge.
#[test]
fn a_kill_loses_less_than_a_minute_of_usage() {
    scenario(async {
        let mut node = node_with("counter", "counter").await?;
        let api = node.api();
        for _ in 0..20 {
            api.send("counter", "a", Message::json(&json!({ "add": 1 }))).await?;
        }
        // It is written every half minute: `eventually` waits for a minute.
        eventually("usage on the disk", async || {
            let text = match file(&node)? {
                Some(path) => fs::read_to_string(path)?,
                None => return Ok(None),
            };
            let rows = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let mut messages = rows.filter_map(|row| row["messages"].as_u64());
            Ok(messages.any(|messages| messages == 20).then_some(()))
        })
        .await?;
        for _ in 0..5 {
            api.send("counter", "a", Message::json(&json!({ "add": 1 }))).await?;
        }
        node.kill()?;
        node.restart().await?;
        let report = listed(&node, &["usage"]).await?;
        let messages = of(&report, None, "messages");
        ensure!((20..=25).contains(&messages), "{report}");
        ensure!(stored(&report, "counter").0 == 1, "{report}");
        // And goes on from there.
        node.api().send("counter", "a", Message::json(&json!({ "add": 1 }))).await?;
        let report = listed(&node, &["usage"]).await?;
        ensure!(of(&report, None, "messages") == messages + 1, "{report}");
        Ok(())
    });
}

/// Operators see who stores what without asking each node, and limits rest on it.
#[test]
fn what_services_store_is_in_the_metrics() {
    scenario(async {
        let node = node_with("counter", "counter").await?;
        node.admin().deploy("other", plugins::load("counter")?).await?;
        for session in ["a", "b"] {
            let big = json!({ "add": 1, "note": "x".repeat(10_000) });
            node.api().send("counter", session, Message::json(&big)).await?;
        }
        let wrong = node.run(&["usage", "--since", "yesterday"]).await?;
        ensure!(wrong.stderr.contains("request-invalid"), "{wrong:?}");
        let admin = node.admin();
        eventually("stored bytes in the metrics", async || {
            let bytes = admin.metric("slotd_stored_bytes", "service=\"counter\"").await;
            Ok(bytes.ok().filter(|bytes| *bytes > 20_000.0).map(drop))
        })
        .await?;
        let sessions = admin.metric("slotd_stored_sessions", "service=\"counter\"").await?;
        ensure!((sessions - 2.0).abs() < 0.1, "{sessions}");
        let first = listed(&node, &["usage"]).await?;
        first["rows"].as_array().context("no rows")?;
        Ok(())
    });
}
