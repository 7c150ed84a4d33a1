//! Limits: what they refuse, what an answer says of them, and what is drawn.

use super::{
    http2::{Client, until},
    *,
};
use crate::quota::Quota;
use slotd_access::{Grant, Policy, Tokens};
use std::path::Path;

fn set(quota: &Quota, policy: &str) {
    let policy = Policy::parse(policy, Path::new("."));
    quota.set(policy.unwrap_or_else(|faults| panic!("{faults:?}")).limits());
}

async fn limited(policy: &str) -> (Running, Quota) {
    let quota = Quota::default();
    set(&quota, policy);
    let options = HttpOptions { quota: quota.clone(), notify: Notifiers::parse("*"), ..options() };
    (start(options).await, quota)
}

async fn send(node: &Running, session: &str, headers: &str, body: &str) -> Answer {
    let line = format!("POST /v1/services/chat/sessions/{session}/messages");
    call(node.address, &line, &format!("{JSON}{headers}"), body).await
}

/// Seconds of `Retry-After`.
fn retry_after(answer: &Answer) -> u64 {
    answer.header("retry-after").expect("Retry-After").parse().expect("seconds")
}

/// A client that is not told could only guess how fast it may be, and when to come back.
#[tokio::test]
async fn a_message_over_a_limit_is_refused_with_when_it_passes() {
    let (node, quota) = limited("[service.chat.limits]\nmessages = '2/m'\nburst = '60s'\n").await;
    let policy = Some("\"service-messages\";q=2;w=60");
    let first = send(&node, "one", "", "{}").await;
    assert_eq!((first.status, first.header("ratelimit-policy")), (200, policy));
    assert_eq!(first.header("ratelimit"), Some("\"service-messages\";r=1;t=30"));
    assert_eq!(first.header("retry-after"), None);
    assert_eq!(send(&node, "two", "", "{}").await.status, 200);
    for session in ["one", "three"] {
        let refused = send(&node, session, "", "{}").await;
        assert_eq!(refused.code(), (429, "rate-limited".into()));
        assert!((10..=30).contains(&retry_after(&refused)), "{}", retry_after(&refused));
        assert_eq!(refused.header("ratelimit-policy"), policy);
        let told = refused.header("ratelimit").expect("RateLimit");
        assert!(told.starts_with("\"service-messages\";r=0;t="), "{told}");
        let problem = refused.json();
        assert_eq!(problem["retriable"], true);
        let detail = problem["detail"].as_str().expect("a detail");
        assert!(detail.starts_with("over the limit service-messages; retry after"), "{detail}");
    }
    // By HTTP/2, too.
    let client = Client::connect(&node).await;
    let got = client.call(&format!("POST {ROOM}/messages"), &[], "{}").await.answer;
    assert_eq!(got.code(), (429, "rate-limited".into()));
    assert!(retry_after(&got) >= 10 && got.header("ratelimit").is_some());
    assert_eq!(quota.refused(), 3);
    // Nothing of it has come to the node.
    let three = call(node.address, "GET /v1/services/chat/sessions/three", "", "").await;
    assert_eq!(three.code(), (404, "session-not-found".into()));
}

/// What draws from no limit could be sent as often as anyone likes; what draws from one that is refused by another would
/// use up what others may have.
#[tokio::test]
async fn queries_and_ephemeral_events_draw_as_messages_do() {
    let policy = "[service.chat.limits]\nmessages = '4/h'\nburst = '1h'\n\
                  [service.chat.limits.session]\nbytes = '10/h'\nburst = '1h'\n";
    let (node, quota) = limited(policy).await;
    let query = "POST /v1/services/chat/sessions/one/query";
    let notify = "POST /v1/services/chat/sessions/one/notify";
    assert_eq!(send(&node, "one", "", "{\"a\":1}").await.status, 200);
    for line in [query.to_owned(), format!("{notify}?kind=typing")] {
        let refused = call(node.address, &line, JSON, "{\"b\":22}").await;
        assert_eq!(refused.code(), (429, "rate-limited".into()), "{line}");
        let told = refused.header("ratelimit").expect("RateLimit");
        assert!(told.starts_with("\"session-bytes\";r=0;"), "{told}");
    }
    let asked = call(node.address, query, JSON, "{}").await;
    assert_eq!(asked.status, 200);
    let left = asked.header("ratelimit").expect("RateLimit");
    assert!(left.starts_with("\"session-bytes\";r=1;t=32"), "{left}");
    let sent = call(node.address, &format!("{notify}?kind=typing"), JSON, "0").await;
    assert_eq!((sent.status, sent.header("ratelimit-policy").is_some()), (202, true));
    // What is wrong, or not allowed, draws nothing either: one message is left.
    let wrong = call(node.address, &format!("{notify}?kind=two%20words"), JSON, "").await;
    assert_eq!(wrong.code(), (400, "name-invalid".into()));
    assert_eq!(send(&node, "two", "", "{}").await.status, 200);
    assert_eq!(send(&node, "three", "", "{}").await.code().0, 429);
    assert_eq!(quota.refused(), 3);
}

/// One tenant would use up another's rate, or be slowed for it.
#[tokio::test]
async fn each_subject_has_a_limit_of_its_own() {
    let access = of_test(Some("root"), None);
    let mut tokens = Tokens::default();
    let [ann, bob] = ["ann", "bob"].map(|name| {
        let grant = Grant { allow: vec!["*".into()], on: vec!["*".into()], ..Grant::default() };
        let secret = tokens.create(name, vec![grant], "root", 1, None).expect("a token");
        format!("Authorization: Bearer {}\r\n", secret.text())
    });
    access.set_tokens(tokens);
    let quota = Quota::default();
    set(&quota, "[service.chat.limits.subject]\nmessages = '1/h'\nburst = '1h'\nsockets = 1\n");
    let node = start(HttpOptions { quota: quota.clone(), access, ..options() }).await;
    assert_eq!(send(&node, "one", &ann, "{}").await.status, 200);
    let refused = send(&node, "two", &ann, "{}").await;
    assert_eq!(refused.code(), (429, "rate-limited".into()));
    assert!(refused.header("ratelimit").expect("RateLimit").starts_with("\"subject-messages\""));
    assert_eq!(send(&node, "one", &bob, "{}").await.status, 200);
    // The listener's own token is of nobody in particular.
    for _ in 0..3 {
        assert_eq!(send(&node, "one", "Authorization: Bearer root\r\n", "{}").await.status, 200);
    }
    let _stream = Events::open(&node, "", &ann).await;
    let refused = call(node.address, &format!("GET {ROOM}/events"), &ann, "").await;
    assert_eq!(refused.code(), (429, "rate-limited".into()));
    let _other = Events::open(&node, "", &bob).await;
}

/// A client whose answer was lost would not find out what became of its message; and one that repeats for ever would
/// not be limited.
#[tokio::test]
async fn a_repeat_of_what_was_decided_is_answered_once_more() {
    let (node, _) = limited("[service.chat.limits]\nmessages = '1/h'\nburst = '1h'\n").await;
    let key = "Idempotency-Key: k1\r\n";
    assert_eq!(send(&node, "one", key, "{}").await.status, 200);
    assert_eq!(send(&node, "one", "Idempotency-Key: k2\r\n", "{}").await.code().0, 429);
    let again = send(&node, "one", key, "{}").await;
    assert_eq!((again.status, again.header("slotd-replayed")), (200, Some("true")));
    assert_eq!(send(&node, "one", key, "{}").await.code(), (429, "rate-limited".into()));
}

/// Each edit of the file would be a burst for all; and an operator who has a client out of hand has to be heard at once.
#[tokio::test]
async fn another_policy_holds_at_once_and_fills_no_bucket() {
    let (node, quota) = limited("").await;
    let unlimited = send(&node, "one", "", "{}").await;
    assert_eq!((unlimited.status, unlimited.header("ratelimit-policy")), (200, None));
    let table = "[service.chat.limits]\nburst = '1h'\n";
    set(&quota, &format!("{table}messages = '1/h'\n"));
    assert_eq!(send(&node, "one", "", "{}").await.status, 200);
    assert_eq!(send(&node, "one", "", "{}").await.code().0, 429);
    set(&quota, &format!("{table}messages = '1/h'\nbytes = '1KiB/h'\n"));
    assert_eq!(send(&node, "one", "", "{}").await.code().0, 429);
    set(&quota, "[service.chat.limits]\n[service.'*'.limits]\nmessages = '1/h'\n");
    assert_eq!(
        send(&node, "one", "", "{}").await.status,
        200,
        "it has none of its own, nor others'"
    );
    // A service that is none draws from no bucket, however many are named.
    for service in ["board", "board"] {
        let line = format!("POST /v1/services/{service}/sessions/one/messages");
        let unknown = call(node.address, &line, JSON, "{}").await;
        assert_eq!(unknown.code(), (404, "service-not-found".into()));
    }
}

/// A page that is told nothing would take a refused message for one that is under way.
#[tokio::test]
async fn a_frame_over_a_limit_has_an_error_frame_and_the_socket_goes_on() {
    let (node, quota) = limited("[service.chat.limits]\nmessages = '3/h'\nburst = '1h'\n").await;
    let mut ws = socket(&node, "?subscribe=false").await;
    // Of frames that come together, those that are let through are answered as ever.
    for i in 0..5 {
        say(&mut ws, json!({"type": "send", "id": format!("m{i}"), "body": {}})).await;
    }
    let mut answers = HashMap::new();
    for _ in 0..5 {
        let frame = frame(&mut ws).await;
        answers.insert(frame["id"].as_str().expect("an id").to_owned(), frame);
    }
    for id in ["m0", "m1", "m2"] {
        assert_eq!(answers[id]["type"], "ack", "{}", answers[id]);
    }
    for id in ["m3", "m4"] {
        let refused = &answers[id];
        assert_eq!((&refused["type"], &refused["code"]), (&json!("error"), &json!("rate-limited")));
        assert_eq!((&refused["status"], &refused["retriable"]), (&json!(429), &json!(true)));
        let after = refused["retry_after_ms"].as_u64().expect("a time");
        assert!((1_100_000..=1_200_000).contains(&after), "{after}");
    }
    say(&mut ws, json!({"type": "notify", "id": "n", "kind": "typing"})).await;
    let refused = frame(&mut ws).await;
    assert_eq!((&refused["id"], &refused["code"]), (&json!("n"), &json!("rate-limited")));
    assert_eq!(quota.refused(), 3);
    // What was decided can be repeated.
    say(&mut ws, json!({"type": "send", "id": "m0", "body": {}})).await;
    let again = frame(&mut ws).await;
    assert_eq!((&again["type"], &again["replayed"]), (&json!("ack"), &json!(true)));
    say(&mut ws, json!({"type": "ping", "id": "p"})).await;
    assert_eq!(frame(&mut ws).await["type"], "pong");
}

/// Whoever opens sockets would take every connection that there may be.
#[tokio::test]
async fn sockets_and_event_streams_are_counted_while_they_are_open() {
    let policy = "[service.chat.limits]\nsockets = 3\n[service.chat.limits.session]\nsockets = 2\n";
    let (node, quota) = limited(policy).await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let refused = async |path: &str, headers: &str, whose: &str| {
        let mut stream = TcpStream::connect(node.address).await.expect("connected");
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut raw = Vec::new();
        while !raw.ends_with(b"}") {
            assert!(stream.read_buf(&mut raw).await.expect("read") > 0);
        }
        let answer = Answer::parse(&raw);
        assert_eq!(answer.code(), (429, "rate-limited".into()), "{path}");
        assert_eq!(retry_after(&answer), limits::SOCKETS_RETRY_AFTER.as_secs());
        let detail = answer.json()["detail"].to_string();
        assert!(detail.contains(&format!("the limit of the {whose} is reached")), "{detail}");
    };
    let mut ws = socket(&node, "").await;
    let stream = Events::open(&node, "", "").await;
    assert_eq!(quota.sockets("chat"), 2);
    refused(&format!("{ROOM}/socket"), upgrade, "session").await;
    refused(&format!("{ROOM}/events"), "", "session").await;
    let other = "/v1/services/chat/sessions/other";
    let url = format!("ws://{}{other}/socket", node.address);
    let (third, _) = tokio_tungstenite::connect_async(url).await.expect("a socket");
    refused(&format!("{other}/socket"), upgrade, "service").await;
    refused(&format!("{other}/events"), "", "service").await;
    // A refused one is counted nowhere, and what has ended is not counted any more.
    drop((stream, third));
    until("the two are gone", || quota.sockets("chat") == 1).await;
    let _again = Events::open(&node, "", "").await;
    ws.close(None).await.expect("closed");
    until("the socket is gone", || quota.sockets("chat") == 1).await;
}

/// Handlers that compute for long would have all of a processor, however few messages they are sent.
#[tokio::test]
async fn no_message_passes_while_guest_time_is_overdrawn() {
    let policy = "[service.chat.limits.session]\nguest_time = '10ms/s'\nburst = '100ms'\n";
    let (node, quota) = limited(policy).await;
    let key = SessionKey::parse("chat", "one").expect("a key");
    let first = send(&node, "one", "", "{}").await;
    assert_eq!((first.status, first.header("ratelimit-policy")), (200, None), "there is no unit");
    quota.spent(&key, None, Duration::from_millis(601));
    let refused = send(&node, "one", "", "{}").await;
    assert_eq!(refused.code(), (429, "rate-limited".into()));
    assert!((1..=60).contains(&retry_after(&refused)) && refused.header("ratelimit").is_none());
    assert!(refused.json()["detail"].to_string().contains("session-guest-time"));
    assert_eq!(send(&node, "two", "", "{}").await.status, 200);
}
