//! Who may do what: every route with every verb, the fast path of messages, sockets and streams, and other origins.

use super::{
    super::{
        access::{Need, Part, Rights},
        route::{admin_routes, api_routes},
    },
    *,
};
use crate::{access::Decider, error::Code};
use axum::Router;
use slotd_access::{Access, Grant, Listener, Policy, Tokens, Verb};
use std::path::Path;

/// Access of which everything that is open hears when it changes.
struct Deciding {
    access: Access,
    shutdown: Shutdown,
    tokens: Tokens,
}

impl Deciding {
    fn new() -> Self {
        Self { access: of_test(None, None), shutdown: Shutdown::new(), tokens: Tokens::default() }
    }
    fn grant(&mut self, name: &str, allow: &[&str], on: &[&str]) -> String {
        let texts = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect();
        let grant = Grant { allow: texts(allow), on: texts(on), ..Grant::default() };
        let made = self.tokens.create(name, vec![grant], "root", 1, None).expect("a token");
        self.tell();
        made.text().to_owned()
    }
    fn revoke(&mut self, name: &str) {
        assert!(self.tokens.revoke(name));
        self.tell();
    }
    fn tell(&self) {
        self.access.set_tokens(self.tokens.clone());
        self.shutdown.look();
    }
    fn policy(&self, text: &str) {
        let policy = Policy::parse(text, Path::new("."));
        self.access.set_policy(policy.unwrap_or_else(|faults| panic!("{faults:?}")));
        self.shutdown.look();
    }
    async fn start(&self) -> Running {
        let options =
            HttpOptions { access: self.access.clone(), notify: Notifiers::parse("*"), ..options() };
        start_with(options, self.shutdown.clone()).await
    }
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// A path of the route, with names in the place of its parameters.
fn path_of(route: &str) -> String {
    let mut path = String::new();
    for part in route.split('/').skip(1) {
        let part = match part {
            "{service}" => "chat",
            "{session}" => "room",
            "{slot}" | "{due_ms}" | "{time_ms}" | "{id}" => "1",
            "{message}" => "1-1-1",
            part if part.starts_with('{') => "x",
            part => part,
        };
        path += "/";
        path += part;
    }
    path
}

/// The code that a request gets, if it fails.
async fn code_of(
    router: &Router,
    method: &http::Method,
    path: &str,
    token: Option<&str>,
) -> (u16, String) {
    let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(Body::empty()).expect("a request");
    let answer = router.clone().oneshot(request).await.expect("an answer");
    let status = answer.status().as_u16();
    if status < 400 {
        return (status, String::new());
    }
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    let problem: Value = serde_json::from_slice(&body).expect("a problem");
    (status, problem["code"].as_str().unwrap_or_default().to_owned())
}

/// Each route with exactly each verb, and with all but it.
async fn walk(router: Router, rights: &Rights, of_admin: bool, access: &mut Deciding) -> usize {
    let verbs = Verb::ALL.into_iter().filter(|verb| verb.is_admin() == of_admin);
    let verbs: Vec<Verb> = verbs.collect();
    let mut tokens = Vec::new();
    for verb in &verbs {
        let others = verbs.iter().filter(|it| *it != verb).map(|it| it.as_str());
        let only = access.grant(&format!("only-{verb}"), &[verb.as_str()], &["*"]);
        let all_but = access.grant(&format!("all-but-{verb}"), &others.collect::<Vec<_>>(), &["*"]);
        tokens.push((*verb, only, all_but));
    }
    let mut walked = 0;
    for (method, route, need) in rights.all() {
        let path = path_of(&route);
        match need {
            Need::Unknown => panic!("{method} {route} has no row"),
            Need::Public => {
                let (status, _) = code_of(&router, &method, &path, None).await;
                assert!(![401, 403].contains(&status), "{method} {route}: {status}");
            }
            Need::Right(needed, _) => {
                assert_eq!(needed.is_admin(), of_admin, "{method} {route}");
                let nobody = code_of(&router, &method, &path, None).await;
                assert_eq!(nobody, (401, "unauthorized".into()), "{method} {route}");
                for (verb, only, all_but) in &tokens {
                    let with_it = code_of(&router, &method, &path, Some(only)).await;
                    let without = code_of(&router, &method, &path, Some(all_but)).await;
                    let (allowed, refused) = match *verb == needed {
                        true => (with_it, without),
                        false => (without, with_it),
                    };
                    assert_eq!(refused, (403, "forbidden".into()), "{method} {route}, {verb}");
                    let is_refusal = ["forbidden", "unauthorized"].contains(&&*allowed.1);
                    assert!(!is_refusal, "{method} {route}, {verb}: {allowed:?}");
                    walked += 1;
                }
            }
        }
    }
    walked
}

/// Without it a route would be open to whoever has any token, or locked to who has the right one. A new one has to say
/// what it needs.
#[tokio::test]
async fn every_route_needs_its_verb_and_no_other() {
    let mut access = Deciding::new();
    let options = || HttpOptions { access: access.access.clone(), ..options() };
    let fake = Arc::new(FakeNode::default());
    let api = Api::over(Backend::Fake(fake), options(), Shutdown::new());
    let admin = Admin::over(None, options(), Shutdown::new(), Arc::new(String::new));
    let (api, admin) = (api_router(api), admin_router(admin));
    let (_, _, rights) = api_routes().split();
    let walked = walk(api, &rights, false, &mut access).await;
    assert!(walked >= 8 * 10, "{walked}");
    let (_, _, rights) = admin_routes().split();
    let walked = walk(admin, &rights, true, &mut access).await;
    assert!(walked >= 3 * 45, "{walked}");
}

/// What a route's right has to be on, by its path alone.
fn part_of(route: &str, of_admin: bool) -> Part {
    match (route.contains("{service}"), route.contains("{session}")) {
        (false, _) => Part::Nothing,
        (true, true) if !of_admin => Part::Session,
        (true, false) if !of_admin => Part::Prefix,
        // Admin verbs are on services.
        (true, _) => Part::Service,
    }
}

/// A right on another thing than the path names would let in who may do it elsewhere: with `deploy` on one service,
/// one could deploy all.
#[tokio::test]
async fn every_right_is_on_what_its_path_names_and_on_nothing_less() {
    let mut access = Deciding::new();
    let options = || HttpOptions { access: access.access.clone(), ..options() };
    let fake = Arc::new(FakeNode::default());
    let api = api_router(Api::over(Backend::Fake(fake), options(), Shutdown::new()));
    let admin = admin_router(Admin::over(None, options(), Shutdown::new(), Arc::new(String::new)));
    let (_, _, of_api) = api_routes().split();
    let (_, _, of_admin) = admin_routes().split();
    let mut tokens = HashMap::new();
    let mut walked = 0;
    for (router, rights, is_admin) in [(api, of_api, false), (admin, of_admin, true)] {
        for (method, route, need) in rights.all() {
            let Need::Right(verb, part) = need else { continue };
            assert_eq!(part, part_of(&route, is_admin), "{method} {route}");
            let (enough, less): (&[&str], &[&str]) = match part {
                Part::Session => (&["chat/room", "chat/r*", "chat"], &["chat/other", "other/room"]),
                Part::Prefix => (&["chat", "chat/*"], &["chat/room", "chat/r*", "other"]),
                Part::Service => (&["chat", "*"], &["other", "chat-2"]),
                Part::Nothing => (&["*"], &["chat", "c*"]),
            };
            for (on, is_enough) in
                enough.iter().map(|on| (on, true)).chain(less.iter().map(|on| (on, false)))
            {
                let count = tokens.len();
                let token = tokens
                    .entry((verb, *on))
                    .or_insert_with(|| access.grant(&format!("t{count}"), &[verb.as_str()], &[on]));
                let (status, code) = code_of(&router, &method, &path_of(&route), Some(token)).await;
                let is_refused = status == 403 && code == "forbidden";
                assert_eq!(is_refused, !is_enough, "{method} {route} with {verb} on {on}: {code}");
                walked += 1;
            }
        }
    }
    assert!(walked > 4 * 50, "{walked}");
}

/// A row of a method that there is not would be one that somebody has mistyped.
#[test]
fn rows_are_of_methods_that_there_are() {
    let mut described = Vec::new();
    let mut rows = Vec::new();
    for (document, rights) in [
        {
            let (_, document, rights) = api_routes().split();
            (document, rights)
        },
        {
            let (_, document, rights) = admin_routes().split();
            (document, rights)
        },
    ] {
        let document = serde_json::to_value(document).expect("JSON");
        for (path, item) in document["paths"].as_object().expect("paths") {
            for method in item.as_object().expect("operations").keys() {
                described.push(format!("{} {path}", method.to_uppercase()));
            }
        }
        rows.extend(rights.all().into_iter().map(|(method, path, _)| format!("{method} {path}")));
    }
    described.sort();
    rows.sort();
    assert_eq!(rows, described);
}

/// A listing must not show sessions that its reader may not know of.
#[tokio::test]
async fn a_right_is_on_what_its_pattern_covers() {
    let mut access = Deciding::new();
    let own = access.grant("own", &["*"], &["chat/a-*", "board"]);
    let node = access.start().await;
    let get = async |path: &str| {
        let answer =
            call(node.address, &format!("GET /v1/services/{path}"), &bearer(&own), "").await;
        answer.status
    };
    assert_eq!(get("chat/sessions?prefix=a-").await, 200);
    assert_eq!(get("chat/sessions?prefix=a-1").await, 200);
    assert_eq!(get("board/sessions").await, 404, "it is not deployed");
    assert_eq!(get("chat/sessions").await, 403);
    assert_eq!(get("chat/sessions?prefix=a").await, 403);
    assert_eq!(get("chat/sessions/a-1").await, 404);
    assert_eq!(get("chat/sessions/a%2D1").await, 404);
    assert_eq!(get("chat/sessions/b-1").await, 403);
    // What is of no pattern is not said to be wrong to who may not ask.
    assert_eq!(get("other/sessions").await, 403);
}

/// A connection over which requests go one after the other.
struct Kept(TcpStream);

impl Kept {
    async fn open(node: &Running) -> Self {
        Self(TcpStream::connect(node.address).await.expect("connected"))
    }
    async fn post(&mut self, session: &str, headers: &str) -> u16 {
        let request = format!(
            "POST /v1/services/chat/sessions/{session}/messages HTTP/1.1\r\nHost: localhost\r\n\
             Content-Length: 2\r\n{headers}\r\n{{}}"
        );
        self.0.write_all(request.as_bytes()).await.expect("written");
        let mut raw = Vec::new();
        loop {
            if let Some(end) = raw.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = std::str::from_utf8(&raw[..end]).expect("UTF-8").to_lowercase();
                let length = head.split("content-length: ").nth(1).expect("a length");
                let length: usize =
                    length.split("\r\n").next().unwrap_or_default().parse().expect("a number");
                if raw.len() >= end + 4 + length {
                    return head[9..12].parse().expect("a status");
                }
            }
            assert!(self.0.read_buf(&mut raw).await.expect("read") > 0, "the end");
        }
    }
}

/// What a connection keeps of who asks must not outlive the token, nor be used for another one or another session.
#[tokio::test]
async fn a_kept_connection_asks_anew_whatever_changes() {
    let mut access = Deciding::new();
    let (one, two) =
        (access.grant("one", &["send"], &["chat/a"]), access.grant("two", &["send"], &["chat/b"]));
    let node = access.start().await;
    let mut kept = Kept::open(&node).await;
    let (one, two) = (bearer(&one), bearer(&two));
    for _ in 0..3 {
        assert_eq!(kept.post("a", &one).await, 200);
        assert_eq!(kept.post("b", &one).await, 403);
        assert_eq!(kept.post("a", &two).await, 403);
        assert_eq!(kept.post("b", &two).await, 200);
        assert_eq!(kept.post("a", "").await, 401);
        assert_eq!(kept.post("a", &bearer("nothing")).await, 401);
    }
    assert_eq!(kept.post("a", &one).await, 200);
    access.revoke("one");
    assert_eq!(kept.post("a", &one).await, 401);
    assert_eq!(kept.post("b", &two).await, 200);
    access.policy("[[rule]]\nwho = 'anyone'\nallow = 'send'\non = 'chat/a'");
    assert_eq!(kept.post("a", "").await, 200);
    assert_eq!(kept.post("b", "").await, 401);
    access.policy("");
    assert_eq!(kept.post("a", "").await, 401);
}

/// Else anybody could speak in the name of anybody.
#[tokio::test]
async fn messages_are_in_the_name_of_the_subject() {
    let mut access = Deciding::new();
    access.policy("[service.chat]\nsender = 'subject'");
    let node = access.start().await;
    let mut kept = Kept::open(&node).await;
    // The listener is open: there is nobody in whose name it could be.
    assert_eq!(kept.post("a", "").await, 403);
    let ann = bearer(&access.grant("ann", &["*"], &["*"]));
    assert_eq!(kept.post("a", &ann).await, 200);
    assert_eq!(kept.post("a", &format!("{ann}Slotd-Sender: ann\r\n")).await, 200);
    assert_eq!(kept.post("a", &format!("{ann}Slotd-Sender: bob\r\n")).await, 403);
    assert_eq!(kept.post("a", &ann).await, 200);
    let page =
        call(node.address, "GET /v1/services/chat/sessions/a/messages", &ann, "").await.json();
    let senders: Vec<_> =
        page["entries"].as_array().expect("entries").iter().map(|it| &it["sender"]).collect();
    assert_eq!(senders, ["ann", "ann", "ann"]);
    let notify = "POST /v1/services/chat/sessions/a/notify?kind=typing";
    let other = format!("{ann}Slotd-Sender: bob\r\n");
    assert_eq!(call(node.address, notify, &other, "").await.code(), (403, "forbidden".into()));
    assert_eq!(call(node.address, notify, &ann, "").await.status, 202);
    let token = ann.trim_end().strip_prefix("Authorization: Bearer ").expect("a token");
    let mut ws = socket(&node, &format!("?access_token={token}")).await;
    say(&mut ws, json!({"type": "send", "id": "1", "body": 1, "sender": "bob"})).await;
    assert_eq!(frame(&mut ws).await["code"], "forbidden");
    say(&mut ws, json!({"type": "notify", "id": "2", "kind": "k", "sender": "bob"})).await;
    assert_eq!(frame(&mut ws).await["code"], "forbidden");
}

/// A socket is opened once, and has to end when what allowed it does; thousands of idle ones have to hear of it without
/// asking all the time.
#[tokio::test]
async fn what_is_open_ends_with_its_rights() {
    let mut access = Deciding::new();
    let reader = access.grant("reader", &["subscribe"], &["chat"]);
    let writer = access.grant("writer", &["subscribe", "send"], &["chat"]);
    let node = access.start().await;
    let query = |token: &str| format!("?access_token={token}");
    let mut reading = socket(&node, &query(&reader)).await;
    let mut writing = socket(&node, &format!("{}&subscribe=false", query(&writer))).await;
    let mut stream = Events::open(&node, &query(&reader), "").await;
    assert!(stream.next().await.is_some_and(|line| line.starts_with("retry: ")));
    say(&mut reading, json!({"type": "send", "id": "1", "body": 1})).await;
    let refused = frame(&mut reading).await;
    assert_eq!((&refused["id"], &refused["code"]), (&json!("1"), &json!("forbidden")));
    say(&mut reading, json!({"type": "notify", "id": "n", "kind": "typing"})).await;
    assert_eq!(frame(&mut reading).await["code"], "forbidden");
    say(&mut writing, json!({"type": "send", "id": "1", "body": 1})).await;
    assert_eq!(frame(&mut writing).await["type"], "ack");
    assert_eq!(frame(&mut reading).await["type"], "event");
    assert!(stream.next().await.is_some_and(|line| line.starts_with("id: 1.0")));
    while !stream.next().await.expect("its data").starts_with("data: ") {}

    access.revoke("reader");
    assert_eq!(close_code(&mut reading).await, 4403);
    assert_eq!(stream.next().await.as_deref(), Some("event: error"));
    let problem = stream.next().await.expect("data");
    let problem: Value =
        serde_json::from_str(problem.strip_prefix("data: ").expect("data")).expect("JSON");
    assert_eq!(problem["code"], "forbidden");
    assert_eq!(stream.next().await, None);
    // Of others nothing is felt.
    say(&mut writing, json!({"type": "send", "id": "2", "body": 1})).await;
    assert_eq!(frame(&mut writing).await["type"], "ack");
}

/// A listener's token is replaced because it has leaked: whoever has opened a socket with it would read on for days.
#[tokio::test]
async fn what_the_listeners_own_token_has_opened_ends_when_it_is_replaced() {
    let mut access = Deciding::new();
    let decider = {
        let told = access.shutdown.clone();
        Decider::new(access.access.clone(), move || told.look())
    };
    let hash = |token: &str| Some(slotd_access::hash(token.as_bytes()));
    decider.set_static(Listener::Api, hash("before"));
    let reader = access.grant("reader", &["subscribe"], &["chat"]);
    let node = access.start().await;
    let open = async |token: &str| {
        let query = format!("?access_token={token}");
        let mut stream = Events::open(&node, &query, "").await;
        assert!(stream.next().await.is_some_and(|line| line.starts_with("retry: ")));
        (socket(&node, &query).await, stream)
    };
    let (mut other, _stream) = open(&reader).await;
    let (mut ws, mut stream) = open("before").await;
    // Another change is none of it.
    access.policy("[service.chat]\nsender = 'client'");
    say(&mut ws, json!({"type": "send", "id": "1", "body": 1})).await;
    let mut types = [frame(&mut ws).await, frame(&mut ws).await].map(|it| it["type"].to_string());
    types.sort();
    assert_eq!(types, ["\"ack\"", "\"event\""]);
    decider.set_static(Listener::Api, hash("after"));
    assert_eq!(close_code(&mut ws).await, 4401);
    while stream.next().await.expect("an error") != "event: error" {}
    let problem = stream.next().await.expect("data");
    assert!(problem.contains("token-expired"), "{problem}");
    assert_eq!(frame(&mut other).await["type"], "event", "of others nothing is felt");
    drop(open("after").await);
}

/// A page that stays open gets a new token in time; another user's must not take its socket over.
#[tokio::test]
async fn a_socket_goes_on_with_another_token_of_the_same_subject() {
    let mut access = Deciding::new();
    let backend = access.grant("backend", &["*"], &["chat"]);
    let weak = access.grant("weak", &["send"], &["chat"]);
    let node = access.start().await;
    let mint = async |subject: &str, ttl: &str| {
        let body =
            json!({"verbs": ["send", "subscribe"], "subject": subject, "ttl": ttl}).to_string();
        let headers = format!("{JSON}{}", bearer(&backend));
        let minted = call(node.address, &format!("POST {ROOM}/token"), &headers, &body).await;
        assert_eq!(minted.status, 200, "{:?}", String::from_utf8_lossy(&minted.body));
        minted.json()["token"].as_str().expect("a token").to_owned()
    };
    let (bob, next) = (mint("bob", "10m").await, mint("ann", "10m").await);
    let first = mint("ann", "1m").await;
    let mut ws = socket(&node, &format!("?subscribe=false&access_token={first}")).await;
    for (token, code) in
        [(bob, "forbidden"), (weak.clone(), "forbidden"), ("nothing".to_owned(), "unauthorized")]
    {
        say(&mut ws, json!({"type": "auth", "id": "x", "token": token})).await;
        let refused = frame(&mut ws).await;
        assert_eq!((&refused["type"], &refused["code"]), (&json!("error"), &json!(code)));
    }
    say(&mut ws, json!({"type": "auth", "token": next})).await;
    let renewed = frame(&mut ws).await;
    assert_eq!(renewed["type"], "auth");
    assert!(renewed["expires_ms"].as_u64().is_some_and(|at| at > crate::clock::now_ms() + 300_000));
    say(&mut ws, json!({"type": "send", "id": "1", "body": 1})).await;
    assert_eq!(frame(&mut ws).await["type"], "ack");
    // What it was minted with has ended, and so it has. The end of the last token opens the listener to nobody.
    access.revoke("weak");
    access.revoke("backend");
    assert!(!access.access.is_open(slotd_access::Listener::Api));
    assert_eq!(close_code(&mut ws).await, 4403);
}

/// A token's end is the end of what was opened with it.
#[tokio::test]
async fn what_is_open_ends_with_its_token() {
    let mut access = Deciding::new();
    let backend = access.grant("backend", &["*"], &["chat"]);
    let node = access.start().await;
    let body = json!({"verbs": ["subscribe"], "ttl": "6s"}).to_string();
    let headers = format!("{JSON}{}", bearer(&backend));
    let minted = call(node.address, &format!("POST {ROOM}/token"), &headers, &body).await.json();
    let token = minted["token"].as_str().expect("a token");
    let mut ws = socket(&node, &format!("?access_token={token}")).await;
    let mut stream = Events::open(&node, &format!("?access_token={token}"), "").await;
    assert_eq!(close_code(&mut ws).await, 4401);
    assert!(stream.next().await.is_some_and(|line| line.starts_with("retry: ")));
    assert_eq!(stream.next().await.as_deref(), Some("event: error"));
    assert!(stream.next().await.is_some_and(|line| line.contains("token-expired")));
    assert_eq!(stream.next().await, None);
    let late = call(node.address, &format!("GET {ROOM}/events?access_token={token}"), "", "").await;
    assert_eq!(late.code(), (401, "token-expired".into()));
}

/// Without it a page could use a service that its operator did not mean it to, or not read why it was refused.
#[tokio::test]
async fn pages_of_named_origins_may_use_a_service() {
    let mut access = Deciding::new();
    access.policy(
        "[service.chat]\norigins = ['https://app.example']\ncredentials = true\n\
         [service.open]\norigins = ['*']",
    );
    let node = access.start().await;
    let app = "Origin: https://app.example\r\n";
    let ask =
        "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n";
    let path = "/v1/services/chat/sessions/a/messages";
    for _ in 0..2 {
        let preflight =
            call(node.address, &format!("OPTIONS {path}"), &format!("{app}{ask}"), "").await;
        assert_eq!((preflight.status, preflight.body.len()), (204, 0));
        for (name, value) in [
            ("access-control-allow-origin", "https://app.example"),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-methods", "GET, POST, DELETE"),
            ("access-control-max-age", "600"),
            ("vary", "origin"),
        ] {
            assert_eq!(preflight.header(name), Some(value), "{name}");
        }
        let headers = preflight.header("access-control-allow-headers").unwrap_or_default();
        assert!(
            headers.contains("authorization") && headers.contains("idempotency-key"),
            "{headers}"
        );
        // Once more on a listener that asks for tokens.
        access.grant(&format!("t{}", access.tokens.tokens.len()), &["read"], &["chat"]);
    }
    for line in [
        format!("POST {path}"),
        format!("GET {path}"),
        "GET /v1/services/chat/sessions/a/events".to_owned(),
        "GET /v1/services/chat/sessions/a/nothing".to_owned(),
    ] {
        let refused = call(node.address, &line, app, "").await;
        assert_eq!(refused.status, 401, "{line}");
        assert_eq!(
            refused.header("access-control-allow-origin"),
            Some("https://app.example"),
            "{line}"
        );
        let exposed = refused.header("access-control-expose-headers").unwrap_or_default();
        assert!(exposed.contains("Slotd-Position"), "{exposed}");
    }
    // What is refused before it is known what it is for.
    let malformed =
        call(node.address, &format!("POST {path}"), &format!("{app}Content-Encoding: br\r\n"), "x")
            .await;
    assert_eq!(malformed.status, 415);
    assert_eq!(malformed.header("access-control-allow-origin"), Some("https://app.example"));

    let all = call(
        node.address,
        "OPTIONS /v1/services/open/sessions/a/query",
        &format!("Origin: null\r\n{ask}"),
        "",
    )
    .await;
    assert_eq!((all.status, all.header("access-control-allow-origin")), (204, Some("*")));
    assert_eq!((all.header("access-control-allow-credentials"), all.header("vary")), (None, None));

    for origin in ["https://evil.example", "null", "https://app.example.evil", "http://app.example"]
    {
        let other = format!("Origin: {origin}\r\n");
        let preflight =
            call(node.address, &format!("OPTIONS {path}"), &format!("{other}{ask}"), "").await;
        assert_eq!(preflight.header("access-control-allow-origin"), None, "{origin}");
        assert!([401, 403].contains(&preflight.status), "{origin}");
        let token = access.grant(
            &format!("o{}", access.tokens.tokens.len()),
            &["read", "subscribe"],
            &["chat"],
        );
        let got =
            call(node.address, &format!("GET {path}"), &format!("{other}{}", bearer(&token)), "")
                .await;
        // The token is good; the browser keeps the answer from the page.
        assert_eq!(
            (got.header("access-control-allow-origin"), got.header("vary")),
            (None, Some("origin"))
        );
        assert_ne!(got.status, 403, "{origin}");
        let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n";
        let socket = format!("GET /v1/services/chat/sessions/a/socket?access_token={token}");
        let refused = call(node.address, &socket, &format!("{upgrade}{other}"), "").await;
        assert_eq!(refused.code(), (403, Code::OriginRefused.as_str().into()), "{origin}");
    }
}

/// On loopback every page that its user visits could otherwise reach the listener.
#[tokio::test]
async fn an_open_listener_is_for_its_own_pages_and_named_ones() {
    let access = Deciding::new();
    access.policy("[service.chat]\norigins = ['https://app.example']");
    let node = access.start().await;
    let post = format!("POST {ROOM}/messages");
    let code = async |line: &str, origin: &str| {
        let answer = call(node.address, line, &format!("{JSON}Origin: {origin}\r\n"), "{}").await;
        answer.status
    };
    let own = format!("http://{}", node.address);
    assert_eq!(code(&post, &own).await, 200);
    assert_eq!(code(&post, "https://app.example").await, 200);
    assert_eq!(code(&post, "https://evil.example").await, 403);
    let other = "POST /v1/services/other/sessions/a/messages";
    assert_eq!(code(other, "https://app.example").await, 403);
    assert_eq!(code(other, &own).await, 404, "it is not deployed");
}

/// A listener that is reached from elsewhere must not be open to all because its last token was revoked.
#[tokio::test]
async fn a_listener_that_others_reach_is_closed_by_nothing_being_said() {
    let mut access = Deciding::new();
    let token = access.grant("last", &["*"], &["*"]);
    access.access.never_open(slotd_access::Listener::Api);
    let exposed = HttpOptions { access: access.access.clone(), ..options() };
    let node = start_with(exposed, access.shutdown.clone()).await;
    let mut kept = Kept::open(&node).await;
    assert_eq!(kept.post("a", &bearer(&token)).await, 200);
    access.revoke("last");
    for headers in ["", &bearer(&token)] {
        assert_eq!(kept.post("a", headers).await, 401, "{headers}");
        let get = call(node.address, &format!("GET {ROOM}"), headers, "").await;
        assert_eq!(get.status, 401, "{headers}");
    }
}

/// Who may create tokens could otherwise create one that may do everything.
#[tokio::test]
async fn nobody_grants_what_he_may_not() {
    let mut access = Deciding::new();
    let operator = access.grant("operator", &["operate"], &["*"]);
    let dir = tempfile::tempdir().expect("a directory");
    let decider = Decider::new(access.access.clone(), || {});
    let tokens = crate::access::TokenStore::of_data_dir(dir.path(), decider).expect("a store");
    access.tell();
    let options = HttpOptions { access: access.access.clone(), tokens, ..options() };
    let admin = Admin::over(None, options, Shutdown::new(), Arc::new(String::new));
    let router = admin_router(admin);
    let create = async |name: &str, allow: &str| {
        let body = json!({"name": name, "allow": [allow], "on": ["*"]}).to_string();
        let request = Request::builder().method("POST").uri("/admin/v1/tokens");
        let request = request.header("authorization", format!("Bearer {operator}"));
        let request = request.body(Body::from(body)).expect("a request");
        router.clone().oneshot(request).await.expect("an answer").status().as_u16()
    };
    for allow in ["deploy", "admin-read", "admin-*"] {
        assert_eq!(create("more", allow).await, 403, "{allow}");
    }
    // A rule is about a name: whoever may choose it would have what the rule gives.
    let rule = "[[rule]]\nwho = \"token:pipeline\"\nallow = [\"deploy\"]\non = \"chat\"\n";
    access.access.set_policy(Policy::parse(rule, dir.path()).expect("a policy"));
    assert_eq!(create("pipeline", "read").await, 403);
    assert_eq!(create("more", "operate").await, 200);
}

#[test]
fn every_part_of_a_path_is_found() {
    for (part, path, expected) in [
        (Part::Session, "/v1/services/chat/sessions/a%2Fb/messages", "chat/a/b"),
        (Part::Service, "/admin/v1/services/chat/sessions/x/state", "chat"),
        (Part::Prefix, "/v1/services/chat/sessions?prefix=a%2A", "chat/a**"),
        (Part::Prefix, "/v1/services/chat/sessions", "chat/*"),
        (Part::Nothing, "/admin/v1/slots/3", "*"),
    ] {
        let uri = path.parse().expect("a URI");
        let target = super::super::access::Target::of(part, &uri).expect("a target");
        assert_eq!(target.on().to_string(), expected, "{path}");
    }
}
