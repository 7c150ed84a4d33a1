//! Requests over HTTP on a node: what is asked for is made, and what came of it comes to the handler. Scripts have what can
//! be said without a server.

use crate::{
    suite::{SINK, Suite},
    watched::Watched,
    web::TOKENS,
};
use anyhow::{Context, ensure};
use serde_json::{Value, json};
use slotd_tests::{api::Message, node::eventually};

impl Watched {
    /// Asks for a request; `more` has what else it has.
    async fn ask(&self, id: &str, url: &str, more: Value) -> anyhow::Result<()> {
        let mut op = json!({"op": "request", "id": id, "method": "GET", "url": url});
        for (name, value) in more.as_object().into_iter().flatten() {
            op[name] = value.clone();
        }
        let reply = self.tell(&op).await?;
        ensure!(reply == Value::Null, "{op}: {reply}");
        Ok(())
    }

    /// What came of a request, which is the next event.
    async fn came(&mut self) -> anyhow::Result<Value> {
        Ok(self.next("answered").await?.1)
    }

    async fn open(&self) -> anyhow::Result<Value> {
        self.api.query(SINK, self.session, &json!({"op": "open-requests"})).await
    }
}

/// Without it, a handler would not hear what came of a request, or hear something else.
pub async fn answers(suite: &Suite) -> anyhow::Result<()> {
    let mut asks = Watched::new(suite, "http-answers").await?;
    let asked = json!({
        "method": "PUT", "headers": [["x-a", "b c"], ["content-type", "text/x"]], "body": "größe 😀",
        "options": {"timeout_ms": 30_000, "deadline_ms": 60_000, "attempts": 2, "redirects": 0,
            "answer_bytes": 10_000, "keep_headers": ["x-*"]},
    });
    asks.ask("größe 😀", &suite.web.url("/echo?a=b"), asked).await?;
    let came = asks.came().await?;
    let echo = json!({"method": "PUT", "a": "b c", "type": "text/x", "body": "größe 😀"});
    let body: Value = serde_json::from_str(came["body"].as_str().context("no body")?)?;
    ensure!(body == echo, "{body}");
    let first = json!({
        "id": "größe 😀", "status": 200, "body": came["body"], "attempts": 1, "attempt": 1,
    });
    ensure!(came == first, "{came}");

    // An answer is one, whatever its status.
    asks.ask("no", &suite.web.url("/status/404"), json!({})).await?;
    let second = json!({
        "id": "no", "status": 404, "body": "so it is", "attempts": 1, "attempt": 1,
    });
    let came = asks.came().await?;
    ensure!(came == second, "{came}");
    let answers = json!({"op": "get", "key": "answers"});
    let value = asks.api.query(SINK, asks.session, &answers).await?;
    ensure!(value == json!({"value": [first, second]}), "{value}");

    // Too large an answer is none.
    let small = json!({"options": {"answer_bytes": 3}});
    asks.ask("large", &suite.web.url("/status/200"), small).await?;
    let came = asks.came().await?;
    ensure!(came["failure"] == json!("too-large"), "{came}");
    let open = asks.open().await?;
    ensure!(open == json!([]), "{open}");
    Ok(())
}

/// Without it, a request would be lost when its server, or its handler, fails once.
pub async fn failing(suite: &Suite) -> anyhow::Result<()> {
    let mut asks = Watched::new(suite, "http-fails").await?;
    let path = format!("/flaky/{}", suite.lang.name());
    asks.ask("flaky", &suite.web.url(&path), json!({})).await?;
    let expected = json!({
        "id": "flaky", "status": 200, "body": "at last", "attempts": 2, "attempt": 1,
    });
    let came = asks.came().await?;
    ensure!(came == expected, "{came}");
    let keys = suite.web.keys(&path);
    ensure!(keys.len() == 2 && keys[0] == keys[1] && !keys[0].is_empty(), "{keys:?}");

    let mut delay = 250;
    loop {
        asks.tell(&json!({"op": "set", "key": "fail-answers", "value": true})).await?;
        asks.ask("again", &suite.web.url("/status/200"), json!({})).await?;
        let heal = json!({"op": "delete", "key": "fail-answers"});
        asks.tell(&json!({"op": "timer", "name": "heal", "after": delay, "body": heal})).await?;
        asks.next("fired").await?;
        let came = asks.came().await?;
        if came["attempt"].as_u64() > Some(1) {
            ensure!(came["status"] == json!(200) && came["attempts"] == json!(1), "{came}");
            break;
        }
        // It came after the handler could.
        delay *= 2;
    }
    Ok(())
}

/// Without it, subscribers would see something else than the handler, or miss it.
pub async fn shown(suite: &Suite) -> anyhow::Result<()> {
    let mut asks = Watched::new(suite, "http-shown").await?;
    let all = TOKENS.concat();
    let form = json!({"joined": "choices.0.text"});
    let stream = json!({"method": "POST", "options": {"stream": {"kind": "token", "form": form}}});
    asks.ask("joined", &suite.web.url("/tokens"), stream).await?;
    let (mut seen, mut last) = (String::new(), 0);
    while seen != all {
        let (seq, part) = asks.next("token").await?;
        ensure!(seq >= last && all.starts_with(&seen), "{seq} after {last}: {part}, {seen:?}");
        seen += part.as_str().context("no text")?;
        last = seq;
    }
    let (seq, came) = asks.next("answered").await?;
    let expected = json!({"id": "joined", "status": 200, "body": all, "attempts": 1, "attempt": 1});
    ensure!(came == expected && seq > last, "{seq} after {last}: {came}");

    let stream = json!({"options": {"stream": {"kind": "event", "form": "data"}}});
    asks.ask("data", &suite.web.url("/tokens"), stream).await?;
    for token in TOKENS {
        let (_, data) = asks.next("event").await?;
        let data: Value = serde_json::from_str(data.as_str().context("no text")?)?;
        ensure!(data == json!({"choices": [{"text": token}]}), "{data}");
    }
    let (_, done) = asks.next("event").await?;
    ensure!(done == json!("[DONE]"), "{done}");
    let came = asks.came().await?;
    let raw = came["body"].as_str().context("no body")?;
    ensure!(raw.starts_with("data: {") && raw.ends_with("data: [DONE]\n\n"), "{came}");

    let stream = json!({"options": {"stream": {"kind": "text", "form": "text"}}});
    asks.ask("text", &suite.web.url("/status/200"), stream).await?;
    let (_, text) = asks.next("text").await?;
    ensure!(text == json!("so it is"), "{text}");
    asks.came().await?;
    Ok(())
}

/// Without it, a handler would hear of what it has ended, or leave something of what failed.
pub async fn ended(suite: &Suite) -> anyhow::Result<()> {
    let mut asks = Watched::new(suite, "http-ended").await?;
    let never = suite.web.url("/never");
    for id in ["b", "a", "b"] {
        asks.ask(id, &never, json!({})).await?;
    }
    let open = asks.open().await?;
    ensure!(open == json!(["a", "b"]), "{open}");
    for was in [true, false] {
        let said = asks.tell(&json!({"op": "cancel-request", "id": "a"})).await?;
        ensure!(said == json!(was), "{said}");
    }
    // In its place, and with an answer.
    asks.ask("b", &suite.web.url("/echo"), json!({})).await?;
    let came = asks.came().await?;
    ensure!(came["id"] == json!("b") && came["status"] == json!(200), "{came}");
    let open = asks.open().await?;
    ensure!(open == json!([]), "{open}");

    // Nobody has allowed this one.
    let op = json!({"op": "request", "id": "c", "method": "GET", "url": "https://example.invalid"});
    let answer = asks.api.post(SINK, asks.session, Message::json(&op)).await?;
    let problem = answer.problem()?;
    ensure!((problem.status, problem.code.as_str()) == (403, "request-refused"), "{problem:?}");
    let open = asks.open().await?;
    ensure!(open == json!([]), "{open}");
    Ok(())
}

/// Without it, a session that is closed would go on, or could not be read.
pub async fn closed(suite: &Suite) -> anyhow::Result<()> {
    let asks = Watched::new(suite, "http-closed").await?;
    asks.ask("never", &suite.web.url("/never"), json!({})).await?;
    asks.tell(&json!({"op": "timer", "name": "t", "after": 3_600_000, "body": 1})).await?;
    let said = asks.tell(&json!({"op": "close"})).await?;
    ensure!(said == json!({}), "{said}");
    let op = Message::json(&json!({"op": "echo", "value": 1}));
    let problem = asks.api.post(SINK, asks.session, op).await?.problem()?;
    ensure!((problem.status, problem.code.as_str()) == (409, "session-closed"), "{problem:?}");
    let open = asks.open().await?;
    let timers = asks.api.query(SINK, asks.session, &json!({"op": "timers"})).await?;
    ensure!(open == json!([]) && timers == json!([]), "{open} {timers}");
    Ok(())
}

/// Without it, a handler would not know whether anyone is there.
pub async fn presence(suite: &Suite) -> anyhow::Result<()> {
    let mut watched = Watched::new(suite, "http-presence").await?;
    watched.tell(&json!({"op": "watch", "wanted": true})).await?;
    let (_, present) = watched.next("presence").await?;
    ensure!(present == json!(true), "{present}");
    let (api, session) = (suite.node.api(), watched.session);
    drop(watched);
    let told = json!({"op": "get", "key": "presence"});
    eventually("the handler is told that nobody is there", async || {
        let value = api.query(SINK, session, &told).await?;
        Ok((value == json!({"value": [true, false]})).then_some(()))
    })
    .await?;
    let said = api.send(SINK, session, Message::json(&json!({"op": "watch", "wanted": false})));
    ensure!(said.await?.json()? == json!({}), "it can't be called off");
    Ok(())
}
