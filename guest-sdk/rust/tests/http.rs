//! Requests over HTTP in the harness, against what the interface promises of a node.

#![allow(clippy::unwrap_used)]

use serde::{Deserialize, Serialize};
use slotd_guest::{
    Context, Handler, MigrateContext, Origin, QueryContext, RawHandler, Rejection, Reply, Value,
    http::{self, Form},
    json,
    test::{Failure, Harness, limits},
};
use std::time::Duration;

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Message {
    /// A request with all that it can have.
    All,
    Get(String),
    Url(String, String),
    Header(String, String),
    Bytes(usize),
    Many(usize),
    Fill(usize),
    /// What of the options is wrong, if the host says so.
    Options(Options),
    Stream(String, String),
    Unwritable,
    AskThenPanic,
    AskThenReject,
    Cancel(String),
    Open,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct Options {
    timeout: Option<u64>,
    deadline: Option<u64>,
    attempts: Option<u32>,
    redirects: Option<u8>,
    bytes: Option<u32>,
    keep: Option<String>,
    stream: Option<(String, Option<String>)>,
}

struct Chat;

const URL: &str = "https://api.example.com/v1/chat";

impl Handler for Chat {
    type Message = Message;
    type Query = bool;

    fn handle(cx: &mut Context, message: Message) -> Result<impl Serialize, Rejection> {
        match message {
            Message::All => cx
                .http()
                .post(URL)
                .header("authorization", format!("Bearer {}", http::secret("API_KEY")))
                .json(&json!({"n": 1}))
                .timeout(Duration::from_secs(5))
                .deadline(Duration::from_micros(1_500))
                .attempts(2)
                .redirects(0)
                .answer_bytes(10)
                .keep_header("x-ratelimit-*")
                .stream("token", Form::joined("choices.0.delta.content"))
                .send("all")?,
            Message::Get(id) => cx.http().get(URL).send(&id)?,
            Message::Url(method, url) => cx.http().request(method, url).send("a")?,
            Message::Header(name, value) => cx.http().put(URL).header(name, value).send("a")?,
            Message::Bytes(bytes) => cx.http().patch(URL).body(vec![b'x'; bytes]).send("a")?,
            Message::Many(count) => {
                for i in 0..count {
                    cx.http().delete(URL).send(&format!("many/{i}"))?;
                }
            }
            Message::Fill(round) => {
                for i in 0..10 {
                    cx.http().get(URL).send(&format!("fill/{round}/{i}"))?;
                }
            }
            Message::Options(options) => {
                let mut request = cx.http().get(URL);
                if let Some(ms) = options.timeout {
                    request = request.timeout(Duration::from_millis(ms));
                }
                if let Some(ms) = options.deadline {
                    request = request.deadline(Duration::from_millis(ms));
                }
                if let Some(attempts) = options.attempts {
                    request = request.attempts(attempts);
                }
                if let Some(redirects) = options.redirects {
                    request = request.redirects(redirects);
                }
                if let Some(bytes) = options.bytes {
                    request = request.answer_bytes(bytes);
                }
                if let Some(name) = options.keep {
                    request = request.keep_header(name);
                }
                if let Some((kind, path)) = options.stream {
                    request = request.stream(kind, path.map_or(Form::Text, Form::Joined));
                }
                request.send("options")?;
            }
            Message::Stream(id, form) => {
                let form = if form == "data" { Form::Data } else { Form::Text };
                cx.http().get(URL).stream("token", form).send(&id)?;
            }
            Message::Unwritable => cx.http().post(URL).json(&f64::NAN).send("a")?,
            Message::AskThenPanic => {
                cx.http().get(URL).send("half")?;
                cx.http().cancel("all");
                panic!("as told");
            }
            Message::AskThenReject => {
                cx.http().get(URL).send("half")?;
                cx.http().cancel("all");
                return Err(Rejection::new("no", "No.").retriable());
            }
            Message::Cancel(id) => return Ok(json!(cx.http().cancel(&id))),
            Message::Open => return Ok(json!(cx.http().open())),
        }
        Ok(json!(null))
    }

    const REQUESTS: bool = true;

    fn http_answer(cx: &mut Context, answer: http::Answer) -> Result<impl Serialize, Rejection> {
        let what = match &answer.outcome {
            Ok(response) => json!([response.status, response.header("Retry-After")]),
            Err(failure) => json!([failure.code, failure.reason]),
        };
        if answer.text() == "later" && answer.attempt < 3 {
            return Err(Rejection::new("later", "Later.").retriable());
        }
        if answer.text() == "never" {
            return Err(Rejection::new("never", "Never."));
        }
        // It may ask under the same id again.
        if answer.text() == "again" {
            cx.http().get(URL).send(&answer.id)?;
        }
        assert_eq!(answer.is_success(), answer.status().is_some_and(|status| status < 300));
        let http::Answer { id, attempts, attempt, content_type, .. } = &answer;
        let told = json!([id, what, content_type, answer.text(), attempts, attempt]);
        cx.state().set("answer", &told)?;
        Ok(answer.parse::<Value>().unwrap_or(json!(null)))
    }

    fn query(cx: &QueryContext, what: bool) -> Result<impl Serialize, Rejection> {
        if what {
            return Ok(cx.http().open());
        }
        cx.forbidden().http().get(URL).send("a")?;
        Ok(Vec::new())
    }

    fn migrate(cx: &mut MigrateContext, from: &str) -> Result<(), String> {
        if from == "1.0.0" {
            cx.forbidden().http().cancel("a");
        }
        Ok(cx.forbidden().http().get(URL).send("a")?)
    }
}

fn stream(kind: &str, path: Option<&str>) -> Options {
    let stream = Some((kind.into(), path.map(str::to_owned)));
    Options { stream, ..Options::default() }
}

fn chat() -> Harness<Chat> {
    Harness::new()
}

fn answered(chat: &Harness<Chat>) -> Value {
    chat.get("answer").unwrap()
}

/// A test could not say what a handler has asked for, or would find what a node would not ask.
#[test]
fn what_was_asked_for_is_there_and_of_what_fails_nothing() {
    let mut chat = chat();
    chat.send(None, &Message::All).unwrap();
    chat.send(None, &Message::AskThenPanic).unwrap_err();
    chat.send(None, &Message::AskThenReject).unwrap_err();
    chat.send(None, &Message::Bytes(3)).unwrap();
    let [all, bytes] = chat.requests() else { panic!("{:?}", chat.requests()) };
    assert_eq!((all.seq, &*all.id, &*all.method, &*all.url), (1, "all", "POST", URL));
    assert_eq!(all.header("Authorization"), Some("Bearer {{secret:API_KEY}}"));
    assert_eq!(all.header("content-type"), Some("application/json"));
    assert_eq!(all.parse::<Value>().unwrap(), json!({"n": 1}));
    let options = http::Options {
        timeout_ms: Some(5_000),
        deadline_ms: Some(2),
        attempts: Some(2),
        redirects: Some(0),
        answer_bytes: Some(10),
        keep_headers: vec!["x-ratelimit-*".into()],
        stream: Some(("token".into(), Form::Joined("choices.0.delta.content".into()))),
    };
    assert_eq!(all.options, options);
    assert_eq!((all.open, all.attempts, all.failures), (true, 1, 0));
    assert_eq!((bytes.seq, &*bytes.method, &bytes.body[..]), (2, "PATCH", &b"xxx"[..]));
    assert_eq!((&bytes.headers[..], &bytes.options), (&[][..], &http::Options::default()));
}

/// A handler that passes in its tests would be stopped by a node.
#[test]
fn what_a_node_refuses_the_harness_refuses() {
    let mut chat = chat();
    let long = |bytes| "x".repeat(bytes);
    let url = |method: &str, url: &str| Message::Url(method.into(), url.into());
    let header = |name: &str, value: &str| Message::Header(name.into(), value.into());
    let keep = |name: &str| Options { keep: Some(name.into()), ..Options::default() };
    let trapped = |result: Result<Reply, Failure>, why: &str| match result {
        Err(Failure::Trapped(reason)) => assert!(reason.contains(why), "{reason}"),
        other => panic!("{why}: {other:?}"),
    };
    for (message, why) in [
        (url("GET", ""), "invalid URL"),
        (url("GET", "ftp://a"), "invalid URL"),
        (url("GET", "https:///a"), "invalid URL"),
        (url("GET", "https://a/b c"), "invalid URL"),
        (
            url("GET", &format!("https://{}", long(limits::REQUEST_HEAD_BYTES_MAX))),
            "limit: requests",
        ),
        (url("G T", URL), "invalid method"),
        (url("", URL), "invalid method"),
        (url("CONNECT", URL), "invalid method"),
        (header("a b", ""), "invalid header name"),
        (header("Host", "a"), "slotd sets the header"),
        (header("idempotency-key", "a"), "slotd sets the header"),
        (header("a", "b\r\nc: d"), "control character"),
        (header("a", &long(limits::REQUEST_HEAD_BYTES_MAX)), "limit: requests"),
        (Message::Bytes(limits::REQUEST_BODY_BYTES_MAX + 1), "limit: requests"),
        (Message::Many(limits::REQUESTS_MAX + 1), "limit: requests"),
        (Message::Options(keep(&long(65))), "limit: requests"),
        (Message::Options(stream("a b", None)), "one word"),
        (Message::Options(stream("", None)), "one word"),
        (Message::Options(stream("error", None)), "reserved"),
        (Message::Options(stream("slotd.a", None)), "reserved"),
    ] {
        trapped(chat.send(None, &message), why);
    }
    trapped(chat.query(&false), "only `handle`");
    for from in ["1.0.0", "2.0.0"] {
        assert!(matches!(chat.migrate(from), Err(Failure::Trapped(_))));
    }
    assert_eq!(chat.requests(), []);
    for message in [
        url("get", "http://[::1]:8080/a?b#c"),
        header("x", "ä\tb"),
        Message::Bytes(limits::REQUEST_BODY_BYTES_MAX),
        Message::Many(limits::REQUESTS_MAX),
        Message::Get(long(128)),
    ] {
        chat.send(None, &message).unwrap();
    }
    // 18 are open; with these 98.
    for round in 0..8 {
        chat.send(None, &Message::Fill(round)).unwrap();
    }
    trapped(chat.send(None, &Message::Fill(8)), "outbox-full");
    chat.send(None, &Message::Fill(0)).unwrap();
}

/// A handler could not see to what is wrong with its options, or would trap where it need not.
#[test]
fn options_that_cannot_be_are_errors() {
    let mut chat = chat();
    let none = Options::default;
    let bad = |refused: Result<Reply, Failure>, why: &str| {
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), Some("bad-request"), "{why}: {refused}");
        assert!(refused.to_string().contains(why), "{why}: {refused}");
    };
    for (options, why) in [
        (
            Options { timeout: Some(0), ..none() },
            "the timeout of an attempt, in milliseconds, is 1 to 600000, not 0",
        ),
        (Options { timeout: Some(600_001), ..none() }, "not 600001"),
        (Options { deadline: Some(1 << 40), ..none() }, "is 1 to 86400000, not 4294967295"),
        (Options { attempts: Some(0), ..none() }, "the number of attempts is 1 to 20, not 0"),
        (Options { attempts: Some(21), ..none() }, "not 21"),
        (Options { redirects: Some(11), ..none() }, "at most 10 redirects are followed"),
        (Options { bytes: Some(1 << 21), ..none() }, "answer's body is 1 to 1048576, not 2097152"),
        (stream("a", Some("")), "a path has keys and numbers"),
        (stream("a", Some("b..c")), "a path has keys and numbers"),
    ] {
        bad(chat.send(None, &Message::Options(options)), why);
    }
    for (id, why) in [
        (String::new(), "the id of a request must have 1 to 128 bytes; this one has 0"),
        ("x".repeat(129), "this one has 129"),
        ("a\u{85}b".into(), "no control characters"),
    ] {
        bad(chat.send(None, &Message::Get(id)), why);
    }
    assert_eq!(chat.send(None, &Message::Unwritable).unwrap_err().code(), Some("bad-value"));
    assert_eq!(chat.requests(), []);
    for options in [
        Options { timeout: Some(600_000), deadline: Some(86_400_000), ..none() },
        Options { attempts: Some(20), redirects: Some(10), bytes: Some(1 << 20), ..none() },
        Options { keep: Some("*".into()), ..stream("a", Some("b.0.c")) },
    ] {
        chat.send(None, &Message::Options(options)).unwrap();
    }
}

/// A handler would not see what is open, or would hear of what it has ended.
#[test]
fn requests_are_replaced_and_cancelled_by_id() {
    let mut chat = chat();
    let said = |reply: Result<Reply, Failure>| reply.unwrap().parse::<Value>().unwrap();
    for id in ["b", "a", "b"] {
        chat.send(None, &Message::Get(id.into())).unwrap();
    }
    let open: Vec<_> = chat.requests().iter().map(|it| it.open).collect();
    assert_eq!(open, [false, true, true]);
    assert_eq!(said(chat.send(None, &Message::Open)), json!(["a", "b"]));
    assert_eq!(said(chat.send(None, &Message::Cancel("a".into()))), json!(true));
    assert_eq!(said(chat.send(None, &Message::Cancel("a".into()))), json!(false));
    assert_eq!(said(chat.query(&true)), json!(["b"]));
    chat.respond("b", 200, &1).unwrap();
    assert_eq!(said(chat.query(&true)), json!([]));
}

#[test]
#[should_panic(expected = "no request \"a\" is open; there are [\"b\"]")]
fn an_answer_to_nothing_ends_the_test() {
    let mut chat = chat();
    for id in ["a", "b"] {
        chat.send(None, &Message::Get(id.into())).unwrap();
    }
    chat.send(None, &Message::Cancel("a".into())).unwrap();
    _ = chat.respond("a", 200, &1);
}

/// A test could not say what comes of an answer, or of a handler that fails it.
#[test]
fn an_answer_comes_once_or_as_often_as_its_handler_fails() {
    let mut chat = chat();
    let get = |chat: &mut Harness<Chat>| chat.send(None, &Message::Get("a".into())).unwrap();
    get(&mut chat);
    assert_eq!(chat.respond("a", 200, &json!({"n": 1})).unwrap().body, br#"{"n":1}"#);
    let json = "application/json";
    assert_eq!(answered(&chat), json!(["a", [200, null], json, "{\"n\":1}", 1, 1]));
    get(&mut chat);
    chat.answer_to("a").header("Retry-After", "5").respond_bytes(429, "a/b", "no").unwrap();
    assert_eq!(answered(&chat), json!(["a", [429, "5"], "a/b", "no", 1, 1]));
    get(&mut chat);
    chat.restart("a");
    chat.fail("a", "timeout", "It took too long.").unwrap();
    let octets = "application/octet-stream";
    let failed = json!(["timeout", "It took too long."]);
    assert_eq!(answered(&chat), json!(["a", failed, octets, "", 2, 1]));
    get(&mut chat);
    for failures in 1..3 {
        let later = chat.answer_to("a").respond_bytes(200, "a/b", "later");
        assert_eq!(later.unwrap_err().code(), Some("later"));
        let request = chat.requests().last().unwrap();
        assert_eq!((request.open, request.failures), (true, failures));
    }
    chat.answer_to("a").respond_bytes(200, "a/b", "later").unwrap();
    assert_eq!(answered(&chat)[5], json!(3));
    // For good: it is given up.
    get(&mut chat);
    let never = chat.answer_to("a").respond_bytes(200, "a/b", "never");
    assert_eq!(never.unwrap_err().code(), Some("never"));
    assert!(chat.requests().iter().all(|request| !request.open));
    // The handler asks under the same id, of which the request at hand is no longer.
    get(&mut chat);
    chat.answer_to("a").respond_bytes(200, "a/b", "again").unwrap();
    let open: Vec<_> = chat.requests().iter().rev().take(2).map(|it| it.open).collect();
    assert_eq!(open, [true, false]);
    assert_eq!(chat.seq(), 11);
}

/// A test could not say what subscribers see while an answer comes, nor what the handler gets of it.
#[test]
fn parts_are_events_with_numbers_of_their_own() {
    let mut chat = chat();
    chat.send(None, &Message::All).unwrap();
    chat.part("all", "Hel");
    chat.restart("all");
    chat.part("all", "Hal");
    chat.part("all", "lo");
    chat.end("all").unwrap();
    let text = "text/plain; charset=utf-8";
    let events: Vec<_> = chat
        .events()
        .iter()
        .map(|it| {
            (it.seq, &*it.kind, &*it.content_type, String::from_utf8(it.body.clone()).unwrap())
        })
        .collect();
    let restarted = json!({"attempt": 2, "id": "all"}).to_string();
    let expected = [
        (2, "token", text, "Hel".to_owned()),
        (3, "slotd.restarted", "application/json", restarted),
        (3, "token", text, "Hal".to_owned()),
        (4, "token", text, "lo".to_owned()),
    ];
    assert_eq!(events, expected);
    assert_eq!(answered(&chat), json!(["all", [200, null], text, "Hallo", 2, 1]));
    assert_eq!(chat.seq(), 5);

    chat.send(None, &Message::Stream("data".into(), "data".into())).unwrap();
    chat.part("data", "{\"a\":\n1}");
    chat.part("data", "[DONE]");
    chat.end("data").unwrap();
    let events = "data: {\"a\":\ndata: 1}\n\ndata: [DONE]\n\n";
    assert_eq!(answered(&chat)[3], json!(events));
    // An answer that breaks off: what has come of it was shown all the same.
    chat.send(None, &Message::Stream("text".into(), "text".into())).unwrap();
    chat.part("text", "Hel");
    chat.fail("text", "timeout", "It took too long.").unwrap();
    assert_eq!((answered(&chat)[1][0].clone(), chat.seq()), (json!("timeout"), 12));
}

#[test]
#[should_panic(expected = "has no stream")]
fn a_part_of_what_is_not_shown_ends_the_test() {
    let mut chat = chat();
    chat.send(None, &Message::Get("a".into())).unwrap();
    chat.part("a", "Hel");
}

/// Handlers with bytes, and those that expect no answer.
struct Raw;

impl RawHandler for Raw {
    fn handle(cx: &mut Context, body: Vec<u8>) -> Result<Reply, Rejection> {
        if let Some(answered) = cx.http_answer() {
            let http::Answered { id, outcome, attempts, attempt } = answered;
            assert_eq!(cx.origin(), &Origin::Http(id.clone()));
            let said = String::from_utf8_lossy(&body);
            let status = outcome.as_ref().map(|response| response.status);
            let status = status.map_err(|failure| &failure.code);
            return Ok(Reply::text(format!("{id} {status:?} {attempts} {attempt} {said}")));
        }
        cx.http().post(URL).body(body).send("raw")?;
        Ok(Reply::default())
    }
}

struct Plain;

impl Handler for Plain {
    type Message = Value;
    type Query = ();
    fn handle(cx: &mut Context, message: Value) -> Result<impl Serialize, Rejection> {
        Ok(cx.http().post(URL).json(&message).send("a")?)
    }
}

/// A handler of bytes would take an answer for a message, and one without `http_answer` for one that it has handled.
#[test]
fn answers_are_told_from_messages_in_every_kind_of_handler() {
    let mut raw = Harness::<Raw>::new();
    let text = |reply: Reply| String::from_utf8(reply.body).unwrap();
    raw.send_bytes(None, "a/b", [0, 255]).unwrap();
    assert_eq!(raw.requests()[0].body, [0, 255]);
    let said = raw.answer_to("raw").respond_bytes(204, "c/d", "yes").unwrap();
    assert_eq!(text(said), "raw Ok(204) 1 1 yes");
    raw.send_bytes(None, "a/b", [1]).unwrap();
    assert_eq!(text(raw.fail("raw", "dns", "No.").unwrap()), "raw Err(\"dns\") 1 1 ");

    let mut plain = Harness::<Plain>::new();
    plain.send(None, &1).unwrap();
    assert_eq!(plain.respond("a", 200, &2).unwrap_err().code(), Some("no-requests"));
}
