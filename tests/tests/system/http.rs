//! Requests over HTTP, closed sessions and presence, on one node and over processes that are killed.

use crate::common::{SOON, expect_problem, good, next_event};
use anyhow::{Context, ensure};
use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};
use slotd_tests::{
    api::{Entry, Event, Message, session_path},
    node::{Node, NodeOptions, eventually, scenario},
    outside::{self, Outside},
    plugins,
    replayed::comes_out_again,
    requests::{self, RESTARTED, Request, TOKEN},
    sse::SseEvent,
};
use std::{fs, path::Path};

const SERVICE: &str = "kitchen-sink";

/// A node whose services may make requests by these rules.
async fn node_with(env: &[(&str, &str)]) -> anyhow::Result<Node> {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let options = NodeOptions { env: env.collect(), ..NodeOptions::default() };
    let node = Node::start_with(options).await?;
    node.admin().deploy(SERVICE, plugins::load(SERVICE)?).await?;
    Ok(node)
}

async fn node(outside: &Outside) -> anyhow::Result<Node> {
    node_with(&[("SLOTD_EFFECTS_HTTP", &outside.rule(SERVICE))]).await
}

fn op(op: &str) -> Message {
    Message::json(&json!({"op": op}))
}

/// The answer to a request, once its handler has handled it.
async fn answered(node: &Node, session: &str, id: &str) -> anyhow::Result<Entry> {
    eventually("the request is answered", async || {
        let history = node.api().whole_history(SERVICE, session).await?;
        let is_its = |entry: &Entry| entry.http.as_ref().is_some_and(|http| http.id == id);
        Ok(history.into_iter().find(is_its))
    })
    .await
}

/// Asks, and waits for what comes of it: as the handler was told.
async fn ask(node: &Node, session: &str, request: &Request) -> anyhow::Result<Value> {
    requests::ask(&node.api(), SERVICE, session, request).await?;
    let entry = answered(node, session, &request.id).await?;
    let http = entry.http.as_ref().context("no answer")?;
    let told = entry.reply.clone().context("no reply")?;
    // The history says the same.
    ensure!(told["failure"] == json!(http.failure), "{told} {http:?}");
    ensure!(told["attempts"] == json!(http.attempts), "{told} {http:?}");
    ensure!(told["failure"].is_string() || told["status"] == json!(http.status), "{told} {http:?}");
    Ok(told)
}

/// What a handler is not told of, it can't act on; what it is told wrongly, it acts on wrongly.
#[test]
fn an_answer_comes_back_and_so_does_why_there_is_none() {
    scenario(async {
        let outside = Outside::start().await?;
        let closed = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        let nobody = format!("http://{}", closed.local_addr()?);
        drop(closed);
        let rules = format!("{}, {SERVICE}>{nobody}!private", outside.rule(SERVICE));
        let node = node_with(&[("SLOTD_EFFECTS_HTTP", &rules)]).await?;
        let get = |id: &str, path: &str| Request::get(id, outside.url(path));

        let told = ask(&node, "a", &get("echo", "/echo?x=1")).await?;
        ensure!(told["status"] == 200 && told["attempts"] == 1 && told["attempt"] == 1, "{told}");
        let echo: Value = serde_json::from_str(told["body"].as_str().context("no body")?)?;
        ensure!(echo["method"] == "POST" && echo["path"] == "/echo?x=1", "{echo}");
        ensure!(echo["body"] == "{}", "{echo}");
        let told = ask(&node, "a", &get("gzip", "/gzip")).await?;
        ensure!(told["body"] == r#"{"packed":true}"#, "{told}");
        // A failure that another attempt would not mend is an answer.
        let told = ask(&node, "a", &get("404", "/status/404")).await?;
        ensure!(told["status"] == 404 && told["attempts"] == 1, "{told}");
        let told = ask(&node, "a", &get("redirect", "/redirect?to=/status/201")).await?;
        ensure!(told["status"] == 201, "{told}");
        let told = ask(&node, "a", &get("307", "/redirect").with("redirects", 0)).await?;
        ensure!(told["status"] == 307, "{told}");

        let slow = get("slow", "/slow?ms=60000").with("timeout_ms", 200).with("attempts", 1);
        let told = ask(&node, "a", &slow).await?;
        ensure!(told["failure"] == "timeout" && told["attempts"] == 1, "{told}");
        let told = ask(&node, "a", &get("large", "/echo").with("answer_bytes", 5)).await?;
        ensure!(told["failure"] == "too-large", "{told}");
        let request = Request::get("nobody", format!("{nobody}/")).with("attempts", 2);
        let told = ask(&node, "a", &request).await?;
        ensure!(told["failure"] == "connect" && told["attempts"] == 2, "{told}");
        let late = get("late", "/status/503").with("deadline_ms", 1_500);
        let told = ask(&node, "a", &late).await?;
        // The last answer, or that the time was over: what comes first.
        ensure!(told["failure"] == "deadline" || told["status"] == 503, "{told}");

        let get = json!({"op": "get", "key": "answers"});
        let answers = node.api().query(SERVICE, "a", &get).await?;
        ensure!(answers["value"].as_array().is_some_and(|all| all.len() == 9), "{answers}");
        let open = node.api().query(SERVICE, "a", &json!({"op": "open-requests"})).await?;
        ensure!(open == json!([]), "{open}");
        Ok(())
    });
}

/// A server that has done what it was asked would do it again for another key.
#[test]
fn a_request_is_made_again_with_the_same_key() {
    scenario(async {
        let outside = Outside::start().await?;
        let node = node(&outside).await?;
        for (id, path, attempts) in [
            ("503", "/status/503-then-200?times=2", 3),
            ("later", "/retry-after?times=1&seconds=1", 2),
            ("drop", "/drop?times=1&tokens=3", 2),
        ] {
            let told = ask(&node, "a", &Request::get(id, outside.url(path))).await?;
            ensure!(told["status"] == 200 && told["attempts"] == attempts, "{told}");
            let made = outside.attempts_at(path);
            ensure!(made.len() == attempts, "{made:?}");
            ensure!(made.iter().all(|it| it.key == made[0].key && !it.key.is_empty()), "{made:?}");
        }
        // What does not get better is the answer at last.
        let request = Request::get("bad", outside.url("/status/500")).with("attempts", 2);
        let told = ask(&node, "a", &request).await?;
        ensure!(told["status"] == 500 && told["attempts"] == 2, "{told}");
        let all = outside.attempts();
        let keys: std::collections::BTreeSet<_> = all.iter().map(|it| &it.key).collect();
        ensure!(keys.len() == 4, "{all:?}");
        Ok(())
    });
}

/// A request would wait for the next message to a session of its slot, for days maybe.
#[test]
fn requests_of_a_slot_that_stops_are_made_again_without_a_message() {
    scenario(async {
        let outside = Outside::start().await?;
        // A node that stands alone stops a slot so only.
        let args = vec!["--resettable".into(), "--effects-http".into(), outside.rule(SERVICE)];
        let node = Node::start_with(NodeOptions { args, ..NodeOptions::default() }).await?;
        node.admin().deploy(SERVICE, plugins::load(SERVICE)?).await?;
        let request = Request::get("held", outside.url("/hold"));
        let asked = requests::ask(&node.api(), SERVICE, "a", &request).await?;
        let made = async |times: usize| {
            eventually("it is under way", async || {
                Ok((outside.attempts().len() == times).then_some(()))
            })
            .await
        };
        made(1).await?;
        let slot = node.api().send(SERVICE, "a", op("context")).await?.slot;
        let path = format!("/admin/v1/slots/{slot}/drain");
        node.admin().client.post(&path, "").await?.success()?;
        made(2).await?;
        outside.release();
        requests::all_answered(&node.api(), SERVICE, &[asked], || outside.attempts()).await
    });
}

/// A request that is lost with the process that made it, or made by the next one as another.
#[test]
fn requests_in_the_middle_of_which_the_process_is_killed_are_made_again() {
    scenario(async {
        let outside = Outside::start().await?;
        let mut node = node(&outside).await?;
        let mut asked = Vec::new();
        for number in 0..24 {
            let session = format!("s{}", number % 8);
            let request = Request::get(format!("r{number}"), outside.url("/hold"));
            asked.push(requests::ask(&node.api(), SERVICE, &session, &request).await?);
        }
        for processes in 1..=2 {
            eventually("all are under way", async || {
                Ok((outside.attempts().len() >= processes * asked.len()).then_some(()))
            })
            .await?;
            node.kill()?;
            node.restart().await?;
        }
        outside.release();
        requests::all_answered(&node.api(), SERVICE, &asked, || outside.attempts()).await?;
        // Once more, and what was answered is not asked for again.
        let made = outside.attempts().len();
        node.kill()?;
        node.restart().await?;
        let last = Request::get("last", outside.url("/echo"));
        asked.push(requests::ask(&node.api(), SERVICE, "s0", &last).await?);
        requests::all_answered(&node.api(), SERVICE, &asked, || outside.attempts()).await?;
        ensure!(outside.attempts().len() == made + 1, "{:?}", outside.attempts());
        comes_out_again(&node, &[SERVICE]).await
    });
}

/// What a subscriber has of an answer, by its events.
#[derive(Default)]
struct Reader {
    ids: Vec<String>,
    text: String,
    restarts: u64,
}

impl Reader {
    /// Whether the answer's own message has come.
    fn take(&mut self, event: &SseEvent) -> anyhow::Result<bool> {
        let id = event.id.clone().context("an event without an id")?;
        ensure!(!self.ids.contains(&id), "{id} has come twice");
        self.ids.push(id);
        let body: Event = event.json()?;
        match body.kind.as_str() {
            TOKEN => {
                ensure!(body.content_type == "text/plain; charset=utf-8", "{body:?}");
                self.text += body.body.as_ref().and_then(Value::as_str).context("no text")?;
            }
            RESTARTED => {
                ensure!(body.content_type == "application/json", "{body:?}");
                ensure!(body.body.as_ref().is_some_and(|it| it["id"] == "llm"), "{body:?}");
                self.text.clear();
                self.restarts += 1;
            }
            "answered" => return Ok(true),
            other => anyhow::bail!("an event {other}"),
        }
        Ok(false)
    }
}

/// A reader of a model's answer would miss a piece of it, or read one twice, or take two answers for one.
#[test]
fn a_reader_of_a_stream_misses_nothing_and_sees_nothing_twice_over_a_kill() {
    scenario(async {
        const TOKENS: u64 = 30;
        let outside = Outside::start().await?;
        let mut node = node(&outside).await?;
        node.api().send(SERVICE, "a", op("context")).await?;
        let mut stream = node.api().events(SERVICE, "a", Some(0), None).await?;
        let url = outside.url(&format!("/stream?tokens={TOKENS}&every_ms=5&hold_after=10"));
        let request = Request::stream("llm", url, TOKENS);
        let asked = requests::ask(&node.api(), SERVICE, "a", &request).await?;
        let mut reader = Reader::default();
        while reader.text != outside::text(10) {
            ensure!(!reader.take(&next_event(&mut stream).await?)?, "it is answered");
        }
        node.kill()?;
        node.restart().await?;
        eventually("it is made again", async || Ok((outside.attempts().len() == 2).then_some(())))
            .await?;
        outside.release();
        let last = reader.ids.last().context("no event")?.clone();
        let mut stream = node.api().events(SERVICE, "a", None, Some(&last)).await?;
        while !reader.take(&next_event(&mut stream).await?)? {}
        ensure!(reader.text == outside::text(TOKENS), "{:?}", reader.text);
        ensure!(reader.restarts == 1, "{} restarts", reader.restarts);
        requests::all_answered(&node.api(), SERVICE, &[asked], || outside.attempts()).await?;

        // Who comes later reads the same.
        let mut again = Reader::default();
        let mut stream = node.api().events(SERVICE, "a", Some(0), None).await?;
        while !again.take(&next_event(&mut stream).await?)? {}
        ensure!(again.ids == reader.ids && again.text == reader.text, "{:?}", again.ids);
        Ok(())
    });
}

/// Each form of a stream shows other things, and a connection that breaks begins it again.
#[test]
fn a_stream_is_shown_in_each_form_and_again_when_it_breaks() {
    scenario(async {
        let outside = Outside::start().await?;
        let node = node(&outside).await?;
        let path = "/drop?tokens=5&times=1&every_ms=60";
        let broken = Request::stream("llm", outside.url(path), 5);
        let asked = requests::ask(&node.api(), SERVICE, "drop", &broken).await?;
        requests::all_answered(&node.api(), SERVICE, &[asked], || outside.attempts()).await?;
        let history = node.api().whole_history(SERVICE, "drop").await?;
        let events = history.iter().flat_map(|entry| &entry.events);
        let restarts = events.filter(|event| event.kind == RESTARTED).count();
        ensure!(restarts == 1, "{history:?}");

        let shown = async |session: &str, path: &str, form: Value| {
            let request = Request::get("llm", outside.url(path))
                .with("stream", json!({"kind": TOKEN, "form": form}));
            requests::ask(&node.api(), SERVICE, session, &request).await?;
            let answer = answered(&node, session, "llm").await?;
            let history = node.api().whole_history(SERVICE, session).await?;
            let parts = history.into_iter().filter(|entry| entry.part.is_some());
            let events: Vec<_> = parts.flat_map(|entry| entry.events).collect();
            ensure!(events.iter().all(|event| event.kind == TOKEN), "{events:?}");
            let texts = events.iter().filter_map(|event| event.body.as_ref()?.as_str());
            let texts: Vec<_> = texts.map(str::to_owned).collect();
            let told = answer.reply.context("no reply")?;
            anyhow::Ok((texts, told["body"].as_str().context("no body")?.to_owned()))
        };
        let (texts, body) = shown("text", "/text?tokens=9&every_ms=30", "text".into()).await?;
        ensure!(texts.concat() == outside::text(9) && body == outside::text(9), "{texts:?} {body}");
        ensure!(texts.len() > 1, "it came over 240 ms: {texts:?}");
        let (texts, body) = shown("data", "/stream?tokens=9&every_ms=10", "data".into()).await?;
        ensure!(texts.len() >= 9 && texts[8].contains("\"t9 \""), "one a datum: {texts:?}");
        ensure!(body.contains("data: [DONE]"), "{body}");
        // What is no success is nothing to show.
        let (texts, body) = shown("no", "/status/404", "text".into()).await?;
        ensure!(texts.is_empty() && body == "status 404", "{texts:?} {body}");
        Ok(())
    });
}

/// A session that has gone on would be told of what it no longer waits for.
#[test]
fn what_is_cancelled_closed_or_deleted_in_between_is_not_answered() {
    scenario(async {
        let outside = Outside::start().await?;
        let mut node = node(&outside).await?;
        let held = Request::get("held", outside.url("/hold"));
        for session in ["cancelled", "closed", "deleted", "replaced"] {
            requests::ask(&node.api(), SERVICE, session, &held).await?;
        }
        eventually("all are under way", async || Ok((outside.attempts().len() == 4).then_some(())))
            .await?;
        let cancel = json!({"op": "cancel-request", "id": "held"});
        let was = node.api().send(SERVICE, "cancelled", Message::json(&cancel)).await?.json()?;
        ensure!(was == true, "{was}");
        node.api().send(SERVICE, "closed", op("close")).await?;
        node.api().delete(SERVICE, "deleted").await?.success()?;
        let other = Request::get("held", outside.url("/echo?other"));
        let message = other.message("replaced.other");
        node.api().send(SERVICE, "replaced", message).await?;
        outside.release();
        // The same over a process that is killed: it has to be durable.
        node.kill()?;
        node.restart().await?;
        let marker = Request::get("marker", outside.url("/echo"));
        for session in ["cancelled", "deleted", "replaced"] {
            ask(&node, session, &marker).await?;
        }
        let ids = async |session: &str| {
            let history = node.api().whole_history(SERVICE, session).await?;
            let ids = history.into_iter().filter_map(|entry| Some(entry.http?.id));
            anyhow::Ok(ids.collect::<Vec<_>>())
        };
        ensure!(ids("cancelled").await? == ["marker"], "{:?}", ids("cancelled").await?);
        ensure!(ids("deleted").await? == ["marker"], "{:?}", ids("deleted").await?);
        ensure!(ids("closed").await?.is_empty(), "{:?}", ids("closed").await?);
        let replaced = answered(&node, "replaced", "held").await?;
        let told = replaced.reply.context("no reply")?;
        ensure!(told["body"].as_str().is_some_and(|body| body.contains("/echo?other")), "{told}");
        let times = ids("replaced").await?.iter().filter(|id| *id == "held").count();
        ensure!(times == 1, "{:?}", ids("replaced").await?);
        // Nobody makes them again either.
        ensure!(outside.attempts_at("/hold").len() == 4, "{:?}", outside.attempts_at("/hold"));
        Ok(())
    });
}

/// A plugin that anybody wrote would reach what only this machine can.
#[test]
fn who_is_not_allowed_reaches_nobody() {
    scenario(async {
        let outside = Outside::start().await?;
        let port = outside.address().port();
        let other = outside.rule("cart");
        for rules in [None, Some(&*other), Some("kitchen-sink>api.example.com")] {
            let env: Vec<_> = rules.into_iter().map(|it| ("SLOTD_EFFECTS_HTTP", it)).collect();
            let node = node_with(&env).await?;
            let message = Request::get("a", outside.url("/echo")).message("a.a");
            let refused = node.api().post(SERVICE, "a", message).await?;
            expect_problem(&refused, 403, "request-refused")?;
            ensure!(refused.text().contains("effects.http"), "{refused:?}");
            // Nothing of the call is kept.
            let session = node.api().client.get(&session_path(SERVICE, "a")).await?;
            ensure!(session.status == 404, "{session:?}");
        }
        // The name is allowed, and what it stands for is not.
        let rule = format!("{SERVICE}>http://localhost:{port}");
        let node = node_with(&[("SLOTD_EFFECTS_HTTP", &rule)]).await?;
        let request = Request::get("a", format!("http://localhost:{port}/echo"));
        let told = ask(&node, "a", &request).await?;
        ensure!(told["failure"] == "refused", "{told}");
        let secret = Message::json(&json!({"op": "request", "id": "b", "method": "GET",
            "url": format!("http://localhost:{port}/"), "headers": [["x", "{{secret:API_KEY}}"]]}));
        let refused = node.api().post(SERVICE, "a", secret).await?;
        expect_problem(&refused, 403, "request-refused")?;
        ensure!(outside.attempts().is_empty(), "{:?}", outside.attempts());
        Ok(())
    });
}

/// Whether any file of a folder has these bytes.
fn is_in_files(folder: &Path, bytes: &[u8]) -> anyhow::Result<bool> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            if is_in_files(&path, bytes)? {
                return Ok(true);
            }
        } else if let Ok(text) = fs::read(&path)
            && text.windows(bytes.len()).any(|window| window == bytes)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// An operator's key would be in the history, which clients read, or in a backup.
#[test]
fn a_secret_is_sent_and_is_nowhere_to_be_seen() {
    scenario(async {
        const SECRET: &str = "sk/7f3e91c2b04d48aa";
        let outside = Outside::start().await?;
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("secrets");
        fs::write(&file, format!("API_KEY={SECRET}\n"))?;
        // slotd takes no file that others can read.
        let mine = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&file, mine)?;
        let rule = outside.rule(SERVICE);
        let (_, host) = rule.split_once('>').context("no rule")?;
        let grant = format!("{SERVICE}>API_KEY>{host}");
        let file = file.to_string_lossy();
        let mut node = node_with(&[
            ("SLOTD_EFFECTS_HTTP", &rule),
            ("SLOTD_EFFECTS_HTTP_SECRETS", &grant),
            ("SLOTD_EFFECTS_SECRETS_FILE", &file),
        ])
        .await?;
        // The server says it again; one that fails says why; one is shown while it comes.
        for (id, path, options) in [
            ("echo", "/echo", json!({})),
            ("url", "/status/404?key={{secret:API_KEY}}", json!({})),
            (
                "fails",
                "/slow?ms=60000&key={{secret:API_KEY}}",
                json!({"timeout_ms": 100, "attempts": 1}),
            ),
            ("large", "/echo", json!({"answer_bytes": 5})),
            ("shown", "/echo", json!({"stream": {"kind": TOKEN, "form": "text"}})),
            (
                "said",
                "/say",
                json!({"keep_headers": ["x-echo"], "stream": {"kind": TOKEN, "form": "text"}}),
            ),
        ] {
            let message = json!({"op": "request", "id": id, "method": "POST", "url": outside.url(path),
                "headers": [["authorization", "Bearer {{secret:API_KEY}}"]], "body": "x", "options": options});
            let problem = node.api().send(SERVICE, "a", Message::json(&message)).await?.json()?;
            ensure!(problem.is_null(), "{problem}");
            answered(&node, "a", id).await?;
        }
        let made = outside.attempts();
        let sent = format!("Bearer {SECRET}");
        ensure!(made.iter().all(|it| it.headers.get("authorization") == Some(&sent)), "{made:?}");
        let in_url = SECRET.replace('/', "%2F");
        ensure!(made.iter().any(|it| it.query("key") == Some(in_url.as_str())), "{made:?}");
        // Another secret, and another host, are refused at once.
        for url in [outside.url("/{{secret:OTHER}}"), "https://example.com/".into()] {
            let message = json!({"op": "request", "id": "no", "method": "GET", "url": url});
            let refused = node.api().post(SERVICE, "a", Message::json(&message)).await?;
            let problem = expect_problem(&refused, 403, "request-refused")?;
            ensure!(!problem.detail.contains(SECRET), "{problem:?}");
        }

        let path = session_path(SERVICE, "a") + "/messages?limit=100";
        let history = node.api().client.get(&path).await?.success()?.text();
        let metrics = node.admin().client.get("/metrics").await?.text();
        // In the part that was shown, in the answer, and in what the handler says of it.
        let shown = history.matches("you said Bearer [secret API_KEY]").count();
        ensure!(shown >= 3, "{history}");
        let count = "slotd_outbound_requests_total{outcome=\"answered\"}";
        ensure!(metrics.contains(count), "{metrics}");
        let exported = node.scratch().join("a.jsonl");
        let to = exported.to_string_lossy();
        good(&node, &["session", "export", SERVICE, "a", &to]).await?;
        let exported = fs::read_to_string(&exported)?;
        node.terminate().await?;
        ensure!(is_in_files(node.data_dir(), b"API_KEY")?, "the request is in the data, by name");
        let told = [
            ("the history", history),
            ("the metrics", metrics),
            ("a file of the session", exported),
            ("the log", node.log()),
        ];
        for secret in [SECRET, in_url.as_str()] {
            for (what, text) in &told {
                ensure!(!text.is_empty() && !text.contains(secret), "{what}: {text}");
            }
            ensure!(!is_in_files(node.data_dir(), secret.as_bytes())?, "{secret} is in the data");
        }
        Ok(())
    });
}

/// A conversation that has ended would go on, or could not be read.
#[test]
fn a_closed_session_takes_no_messages_and_is_still_read() {
    scenario(async {
        let outside = Outside::start().await?;
        let mut node = node(&outside).await?;
        let set = json!({"op": "set", "key": "k", "value": 1});
        node.api().send(SERVICE, "a", Message::json(&set)).await?;
        let close = op("close").key("close");
        let closed = node.api().send(SERVICE, "a", close.clone()).await?;
        for _ in 0..2 {
            let refused = node.api().post(SERVICE, "a", Message::json(&set)).await?;
            let problem = expect_problem(&refused, 409, "session-closed")?;
            ensure!(problem.detail.contains("kitchen-sink/a"), "{problem:?}");
            // The message that closed it was acknowledged.
            let again = node.api().send(SERVICE, "a", close.clone()).await?;
            ensure!(again.replayed && again.seq == closed.seq, "{again:?}");
            let value = node.api().query(SERVICE, "a", &json!({"op": "get", "key": "k"})).await?;
            ensure!(value["value"] == 1, "{value}");
            ensure!(node.api().whole_history(SERVICE, "a").await?.len() == 2, "its history");
            node.kill()?;
            node.restart().await?;
        }
        // Another of that name is open.
        node.api().delete(SERVICE, "a").await?.success()?;
        let begun = node.api().send(SERVICE, "a", Message::json(&set)).await?;
        ensure!(begun.seq == 1, "{begun:?}");
        Ok(())
    });
}

/// A sender would wait for ever for a session that takes nothing any more.
#[test]
fn what_is_sent_to_a_closed_session_is_refused_for_good() {
    scenario(async {
        let node = node_with(&[("SLOTD_EFFECTS_SEND", "*>*")]).await?;
        node.api().send(SERVICE, "closed", op("close")).await?;
        let send = json!({"op": "send", "to": "kitchen-sink/closed", "body": 1, "reply": "r"});
        node.api().send(SERVICE, "a", Message::json(&send)).await?;
        let refusal = eventually("the outcome has come", async || {
            let history = node.api().whole_history(SERVICE, "a").await?;
            Ok(history.into_iter().find_map(|entry| entry.answer?.refusal))
        })
        .await?;
        ensure!(refusal["code"] == "session-closed", "{refusal}");
        ensure!(refusal["retriable"] == false, "{refusal}");
        Ok(())
    });
}

/// A handler would work for a reader that has gone, or leave one without what it waits for.
#[test]
fn a_handler_hears_when_subscribers_come_and_go() {
    scenario(async {
        let mut node = node_with(&[]).await?;
        let watch = json!({"op": "watch", "wanted": true});
        node.api().send(SERVICE, "a", Message::json(&watch)).await?;
        let told = async |node: &Node, count: usize| {
            eventually("the handler is told", async || {
                let history = node.api().whole_history(SERVICE, "a").await?;
                let told = history.into_iter().filter_map(|entry| {
                    let present = entry.presence?.present;
                    Some((present, entry.reply))
                });
                let told: Vec<_> = told.collect();
                Ok((told.len() >= count).then_some(told))
            })
            .await
        };
        let first = node.api().events(SERVICE, "a", None, None).await?;
        told(&node, 1).await?;
        // Who comes second, or comes again at once, is nothing new.
        let second = node.api().events(SERVICE, "a", None, None).await?;
        drop(first);
        let third = node.api().events(SERVICE, "a", None, None).await?;
        drop((second, third));
        let heard = told(&node, 2).await?;
        let expected = [(true, Some(json!(true))), (false, Some(json!(false)))];
        ensure!(heard == expected, "{heard:?}");
        // It is durable that it is to be told.
        node.kill()?;
        node.restart().await?;
        let mut stream = node.api().events(SERVICE, "a", None, None).await?;
        ensure!(told(&node, 3).await?[2].0, "after a kill");
        let event = tokio::time::timeout(SOON, stream.next()).await??.context("the end")?;
        ensure!(event.event.as_deref() == Some("presence"), "{event:?}");
        let stop = json!({"op": "watch", "wanted": false});
        node.api().send(SERVICE, "a", Message::json(&stop)).await?;
        drop(stream);
        Ok(())
    });
}

/// A client could make a handler believe in a reader, or in an answer, of which there is none.
#[test]
fn a_client_can_not_pretend_to_be_an_answer() {
    scenario(async {
        let node = node_with(&[]).await?;
        let path = session_path(SERVICE, "a") + "/messages";
        let headers = [("content-type", "application/json"), ("slotd-origin", "http")];
        let body = Bytes::from(r#"{"op": "context"}"#);
        let answer = node.api().client.request(Method::POST, &path, &headers, body).await?;
        answer.success()?;
        let history = node.api().whole_history(SERVICE, "a").await?;
        ensure!(
            history.iter().all(|entry| entry.http.is_none() && entry.part.is_none()),
            "{history:?}"
        );
        Ok(())
    });
}
