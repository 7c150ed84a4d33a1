//! What a client says of its messages, and of errors.

use super::room::{CHAT, ROOM, TRANSPORTS, list, say, stage};
use anyhow::{Context, ensure};
use hyper::Method;
use serde_json::{Value, json};
use slotd_tests::{
    api::session_path,
    clients::{Lang, proxy::Weather},
    http::Client,
    node::{Node, NodeOptions, eventually},
    plugins,
};

fn code(error: &Value) -> &str {
    error["code"].as_str().unwrap_or_default()
}

pub fn decides(lang: Lang) {
    stage(lang, async |stage| {
        let more = json!({ "queue_messages": 5, "attempt_timeout_ms": 400 });
        stage.client("c", more).await?;
        stage.session("c", "r", ROOM, json!({})).await?;
        let send = |text: &str, more: Value| {
            let mut message = json!({ "session": "r", "key": text, "body": say(text) });
            if let (Some(message), Value::Object(more)) = (message.as_object_mut(), more) {
                message.extend(more);
            }
            stage.driver.ask("send", message)
        };
        send("before", json!({})).await?.map_err(|error| anyhow::anyhow!("{error}"))?;
        // Swallowed: it may have arrived.
        stage.proxy.set(Weather::BlackHole);
        let (first, second) = (
            send("one", json!({ "deadline_ms": 1500 })),
            send("two", json!({ "deadline_ms": 1000 })),
        );
        let second = second.await?.err().context("it was decided")?;
        ensure!(code(&second) == "not-sent" && second["retriable"] == true, "{second}");
        let first = first.await?.err().context("it was decided")?;
        ensure!(code(&first) == "undecided" && first["retriable"] == true, "{first}");
        // No network: what is sent waits, in its order, as much as there is room for.
        stage.proxy.set(Weather::Refused);
        stage.proxy.cut();
        let texts = ["one", "two", "three", "four", "five"];
        let waiting: Vec<_> = texts.map(|text| send(text, json!({}))).into();
        let full = send("six", json!({})).await?.err().context("it was taken")?;
        ensure!(code(&full) == "queue-full", "{full}");
        stage.proxy.set(Weather::Clear);
        let mut numbers = Vec::new();
        for outcome in waiting {
            let reply = outcome.await?.map_err(|error| anyhow::anyhow!("{error}"))?;
            numbers.push(reply["seq"].as_u64().context("no number")?);
        }
        ensure!(numbers.is_sorted(), "{numbers:?}");
        let again = send("one", json!({})).await?.map_err(|error| anyhow::anyhow!("{error}"))?;
        ensure!(again["replayed"] == true && again["seq"] == numbers[0], "{again}");
        // Each once, and nothing of what was refused.
        let history = stage.node.api().whole_history(CHAT, ROOM).await?;
        let keys: Vec<_> = history.iter().filter_map(|entry| entry.id.as_deref()).collect();
        ensure!(keys == ["before", "one", "two", "three", "four", "five"], "{keys:?}");
        let read =
            stage.driver.call("history", json!({ "session": "r", "after": 1, "limit": 3 })).await?;
        let read = read["entries"].as_array().context("no entries")?;
        let keys: Vec<_> = read.iter().map(|entry| entry["key"].clone()).collect();
        ensure!(keys == ["one", "two", "three"], "{keys:?}");
        Ok(())
    });
}

pub fn errors(lang: Lang) {
    stage(lang, async |stage| {
        stage.connect().await?;
        let ask = |name: &str, arguments: Value| stage.driver.ask(name, arguments);
        let rejected =
            ask("send", json!({ "session": "sse", "body": { "kind": "shout" } })).await?;
        let rejected = rejected.err().context("it was taken")?;
        ensure!(code(&rejected) == "rejected" && rejected["status"] == 422, "{rejected}");
        ensure!(rejected["rejection"].is_string(), "{rejected}");
        for transport in TRANSPORTS {
            let name = format!("none-{transport}");
            stage
                .driver
                .call(
                    "session",
                    json!({ "client": transport, "session": name, "service": "none", "name": "x" }),
                )
                .await?;
            let missing = ask("send", json!({ "session": name, "body": 1 })).await?;
            ensure!(missing.as_ref().err().map(code) == Some("service-not-found"), "{missing:?}");
            stage.driver.call("on", json!({ "session": name, "kind": "*" })).await?;
            let is_closed =
                |seen: &Value| seen["status"] == "closed" && seen["reason"] == "service-not-found";
            stage.until(&name, "closed for good", is_closed).await?;
        }
        // A query's answer, an ephemeral event, what is known of the session.
        ask("send", json!({ "session": "sse", "body": say("hi") }))
            .await?
            .map_err(|e| anyhow::anyhow!("{e}"))?;
        let query = json!({ "session": "sse", "body": { "query": "who" } });
        let answer = stage.driver.call("query", query).await?;
        ensure!(answer["body"].to_string().contains("sse"), "{answer}");
        ensure!(stage.driver.call("describe", json!({ "session": "sse" })).await?["seq"] == 1);
        eventually("the notification", async || {
            stage
                .driver
                .call("notify", json!({ "session": "sse", "kind": "typing", "body": true }))
                .await?;
            let mut all = true;
            for session in TRANSPORTS {
                let seen = stage.seen(session).await?;
                ensure!(list(&seen).len() <= 1, "{seen}");
                let heard = &seen["notifications"][0];
                all &=
                    heard["kind"] == "typing" && heard["sender"] == "sse" && heard["body"] == true;
            }
            Ok(all.then_some(()))
        })
        .await?;
        // The last listener that goes closes the connection, and the next one goes on behind what was given.
        stage.driver.call("off", json!({ "session": "sse" })).await?;
        stage.until("sse", "closed", |seen| seen["status"] == "closed").await?;
        let meanwhile = json!({ "session": "sse", "body": say("meanwhile") });
        ask("send", meanwhile).await?.map_err(|e| anyhow::anyhow!("{e}"))?;
        stage.driver.call("on", json!({ "session": "sse", "kind": "*" })).await?;
        stage.sees_all("sse").await?;
        // A token: the right one, a wrong one, and one that is asked for again.
        let options =
            NodeOptions { api_token: Some("the-right-one".into()), ..NodeOptions::default() };
        let node = Node::start_with(options).await?;
        node.admin().deploy(CHAT, plugins::load("chat-v1")?).await?;
        let url = format!("http://{}", node.api().client.address());
        for (name, tokens, is_good) in [
            ("right", json!({ "token": "the-right-one" }), true),
            ("wrong", json!({ "token": "another-one" }), false),
            ("renewed", json!({ "tokens": ["another-one", "the-right-one"] }), true),
            ("never", json!({ "tokens": ["another-one", "a-third-one"] }), false),
        ] {
            for transport in TRANSPORTS {
                let name = format!("{name}-{transport}");
                let mut more = json!({ "url": url, "transport": transport });
                if let (Some(more), Some(tokens)) = (more.as_object_mut(), tokens.as_object()) {
                    more.extend(tokens.clone());
                }
                stage.client(&name, more).await?;
                stage.follow(&name, &name, ROOM, json!({})).await?;
                let outcome = ask("send", json!({ "session": name, "body": say(&name) })).await?;
                ensure!(outcome.is_ok() == is_good, "{name}: {outcome:?}");
                let (status, reason) = match is_good {
                    true => ("open", Value::Null),
                    false => ("closed", json!("unauthorized")),
                };
                let is_so = |seen: &Value| seen["status"] == status && seen["reason"] == reason;
                stage.until(&name, status, is_so).await?;
                if let Err(error) = outcome {
                    ensure!(code(&error) == "unauthorized" && error["status"] == 401, "{error}");
                }
            }
        }
        Ok(())
    });
}

const JSON: (&str, &str) = ("content-type", "application/json");

/// A token for the room, from whoever this client is.
async fn mint(client: &Client, ttl: &str) -> anyhow::Result<Value> {
    let wanted = json!({ "verbs": ["send", "read", "subscribe"], "subject": "ann", "ttl": ttl });
    let path = session_path(CHAT, ROOM) + "/token";
    let minted = client.request(Method::POST, &path, &[JSON], wanted.to_string()).await?;
    let mut minted: Value = minted.success()?.json()?;
    Ok(minted["token"].take())
}

pub fn tokens(lang: Lang) {
    stage(lang, async |stage| {
        let options =
            NodeOptions { api_token: Some("the-right-one".into()), ..NodeOptions::default() };
        let node = Node::start_with(options).await?;
        node.admin().deploy(CHAT, plugins::load("chat-v1")?).await?;
        let api = node.api();
        let url = format!("http://{}", api.client.address());
        for transport in TRANSPORTS {
            let mut tokens = Vec::new();
            for ttl in ["2s", "4s", "10m"] {
                tokens.push(mint(&api.client, ttl).await?);
            }
            let more = json!({ "url": url, "transport": transport, "tokens": tokens });
            stage.client(transport, more).await?;
            stage.follow(transport, transport, ROOM, json!({ "after": "0" })).await?;
        }
        // The stream of events ends with each of its tokens, and the socket gets another one before.
        let mut sent = 0;
        eventually("the tokens were renewed", async || {
            let outcome =
                stage.driver.ask("send", json!({ "session": "websocket", "body": say("hi") }));
            outcome.await?.map_err(|error| anyhow::anyhow!("{error}"))?;
            sent += 1;
            Ok((stage.seen("sse").await?["opened"].as_u64() >= Some(3)).then_some(()))
        })
        .await?;
        for transport in TRANSPORTS {
            let seen =
                stage.until(transport, "all events", |seen| list(seen).len() >= sent).await?;
            let numbers: Vec<_> =
                list(&seen).iter().filter_map(|event| event["seq"].as_u64()).collect();
            ensure!(numbers == (1..=sent as u64).collect::<Vec<_>>(), "{transport}: {numbers:?}");
        }
        let socket = stage.seen("websocket").await?;
        ensure!(socket["opened"] == 1 && socket["status"] == "open", "it was closed: {socket}");
        // What a token has minted ends with it.
        let admin = node.admin().client;
        let wanted = json!({ "name": "backend", "allow": ["*"], "on": [CHAT] }).to_string();
        let created = admin.request(Method::POST, "/admin/v1/tokens", &[JSON], wanted).await?;
        let created: Value = created.success()?.json()?;
        let token = created["token"].as_str().context("no token")?;
        let backend = Client::new(api.client.address()).with_token(token);
        for transport in TRANSPORTS {
            let name = format!("revoked-{transport}");
            let token = mint(&backend, "10m").await?;
            let more = json!({ "url": url, "transport": transport, "token": token });
            stage.client(&name, more).await?;
            stage.follow(&name, &name, ROOM, json!({})).await?;
            stage.until(&name, "open", |seen| seen["status"] == "open").await?;
        }
        let path = "/admin/v1/tokens/backend";
        admin.request(Method::DELETE, path, &[], "").await?.success()?;
        for transport in TRANSPORTS {
            let name = format!("revoked-{transport}");
            let is_over = |seen: &Value| seen["status"] == "closed" && seen["reason"].is_string();
            let seen = stage.until(&name, "closed for good", is_over).await?;
            ensure!(seen["reason"] == "forbidden", "{seen}");
        }
        Ok(())
    });
}
