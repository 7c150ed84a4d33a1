//! Against servers on loopback.

use super::*;
use crate::telemetry::captured_log::CapturedLog;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

/// Much longer than anything takes that works.
const LONG: Duration = Duration::from_secs(60);

/// A server that says one thing on each connection, by the request's head and body. It ends when it is dropped.
struct Server {
    port: u16,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn new(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer = Arc::new(answer);
        let task = tokio::spawn(async move {
            let mut tasks = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                tasks.spawn(say(stream, answer.clone()));
            }
        });
        Self { port, task }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    fn rule(&self) -> String {
        format!("http://127.0.0.1:{}!private", self.port)
    }

    /// That the service `chat` may ask, with the secret `KEY`.
    fn options(&self, secrets_file: Option<PathBuf>) -> RequestOptions {
        let rule = self.rule();
        RequestOptions {
            rules: Rules::parse(&format!("chat>{rule}")).unwrap(),
            grants: Grants::parse(&format!("chat>KEY>{rule}")).unwrap(),
            secrets_file,
            ..RequestOptions::default()
        }
    }
}

async fn say(mut stream: TcpStream, answer: Arc<impl Fn(&str) -> String>) {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte.into());
    }
    let _ = stream.write_all(answer(&head).as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// An answer, until the connection ends.
fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}connection: close\r\n\r\n{body}")
}

fn request(url: String) -> Request {
    Request {
        method: "GET".into(),
        url,
        headers: Vec::new(),
        body: Bytes::new(),
        timeout_ms: 30_000,
        deadline_ms: 0,
        attempts_max: 3,
        redirects: 0,
        answer_bytes_max: 1 << 20,
        keep_headers: Vec::new(),
        stream: None,
        asked_by: 1,
        asked_ms: 0,
        failures: 0,
        shown: 0,
        next_ms: 0,
        reason: String::new(),
        trace: None,
    }
}

fn streamed(url: String, form: Form) -> Request {
    Request { stream: Some(Stream { kind: "text".into(), form }), ..request(url) }
}

async fn attempt_within(of: &OfNode, request: Request, left: Duration) -> Attempted {
    let from = SessionKey::parse("chat", "room").unwrap();
    let (request, idempotency_key) = (Arc::new(request), "the-key".to_owned());
    of.attempt(Attempt { from, request, idempotency_key, left }, None).await
}

async fn attempt(of: &OfNode, request: Request) -> Attempted {
    attempt_within(of, request, LONG).await
}

/// An attempt, and what was shown of its answer.
async fn shown(of: &OfNode, request: Request) -> (Attempted, Vec<String>) {
    let (sender, mut chunks) = mpsc::channel(1);
    let from = SessionKey::parse("chat", "room").unwrap();
    let (request, idempotency_key) = (Arc::new(request), "the-key".to_owned());
    let attempt = Attempt { from, request, idempotency_key, left: LONG };
    let all = async {
        let mut all = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            all.push(chunk);
        }
        all
    };
    tokio::join!(of.attempt(attempt, Some(sender)), all)
}

fn status(attempted: &Attempted) -> u16 {
    match &attempted.got.outcome {
        Outcome::Response(response) => response.status,
        Outcome::Failure(failure) => panic!("{failure:?}"),
    }
}

fn code(attempted: &Attempted) -> &str {
    match &attempted.got.outcome {
        Outcome::Response(response) => panic!("{response:?}"),
        Outcome::Failure(failure) => &failure.code,
    }
}

/// What may be otherwise the next time is tried again, within the request's attempts and time. All else is the answer: a
/// handler has to hear of a 404 at once, and of a server that is down in the end.
#[tokio::test]
async fn an_attempt_is_made_again_while_that_may_help_and_there_is_time() {
    let server = Server::new(|head| {
        assert!(head.contains("idempotency-key: the-key"), "{head}");
        match head.split(' ').nth(1) {
            Some("/404") => answer("404 Not Found", "content-type: a/b\r\nx: y\r\n", "no such"),
            _ => answer("503 Unavailable", "retry-after: 7\r\n", ""),
        }
    });
    let server = server.await;
    let of = OfNode::open(server.options(None)).unwrap();
    let found = attempt(&of, request(server.url("/404"))).await;
    assert_eq!((status(&found), found.again), (404, None));
    assert_eq!((&*found.got.content_type, &*found.got.body), ("a/b", &b"no such"[..]));
    let busy = attempt(&of, request(server.url("/503"))).await;
    let again = busy.again.unwrap();
    assert!(again.counts && again.wait >= Duration::from_secs(7), "{again:?}");
    let last = Request { failures: 2, ..request(server.url("/503")) };
    let last = attempt(&of, last).await;
    assert_eq!((status(&last), last.again), (503, None));
    assert_eq!(last.got.content_type, NO_TYPE);
    let late = attempt_within(&of, request(server.url("/503")), Duration::from_secs(5)).await;
    assert_eq!((status(&late), late.again), (503, None));
    let url = server.url("/");
    drop(server);
    let gone = attempt(&of, request(url)).await;
    assert_eq!((code(&gone), gone.again.map(|again| again.counts)), ("connect", Some(true)));
}

/// Subscribers and the handler have to get the same text.
#[tokio::test]
async fn what_is_shown_of_a_stream_is_what_the_handler_gets() {
    const EVENTS: &str = "data: {\"d\":{\"t\":\"Hel\"}}\n\ndata: {\"d\":{}}\n\n\
                          data: {\"d\":{\"t\":\"lo\"}}\n\ndata: [DONE]\n\n";
    let server = Server::new(|head| match head.split(' ').nth(1) {
        Some("/events") => answer("200 OK", "content-type: text/event-stream\r\n", EVENTS),
        Some("/error") => {
            answer("400 Bad Request", "content-type: application/json\r\n", "{\"error\":1}")
        }
        _ => answer("200 OK", "content-type: text/plain\r\n", "all of it"),
    });
    let server = server.await;
    let of = OfNode::open(server.options(None)).unwrap();
    let joined = || Form::Joined("d.t".into());
    let (events, error, plain) = (server.url("/events"), server.url("/error"), server.url("/"));
    let (had, chunks) = shown(&of, streamed(events.clone(), joined())).await;
    assert_eq!(chunks, ["Hel", "lo"]);
    assert_eq!((&*had.got.content_type, &*had.got.body), (TEXT_TYPE, &b"Hello"[..]));
    let (had, chunks) = shown(&of, streamed(events, Form::Data)).await;
    assert_eq!(
        chunks,
        ["{\"d\":{\"t\":\"Hel\"}}", "{\"d\":{}}", "{\"d\":{\"t\":\"lo\"}}", "[DONE]"]
    );
    assert_eq!(had.got.body, EVENTS);
    let (had, chunks) = shown(&of, streamed(plain.clone(), Form::Text)).await;
    assert_eq!((chunks.concat().as_str(), &*had.got.body), ("all of it", &b"all of it"[..]));
    // Neither is a stream of events: nothing is shown, and the handler has to see what it is.
    for (url, status_is, body) in [(error, 400, "{\"error\":1}"), (plain, 200, "all of it")] {
        let (had, chunks) = shown(&of, streamed(url, joined())).await;
        assert!(chunks.is_empty(), "{chunks:?}");
        assert_eq!((status(&had), &*had.got.body), (status_is, body.as_bytes()));
    }
}

/// A handler that asks a slow host must not stop requests of others. What holds the memory of an answer holds its place.
#[tokio::test]
async fn a_place_is_held_until_the_answer_is_written_down_and_is_one_hosts_only() {
    let server = Server::new(|_| answer("200 OK", "", "x")).await;
    let other = Server::new(|_| answer("200 OK", "", "x")).await;
    let rules = format!("*>{}, *>{}", server.rule(), other.rule());
    let of = OfNode::open(RequestOptions {
        rules: Rules::parse(&rules).unwrap(),
        pace: Pace { at_once: 1, ..Pace::default() },
        ..RequestOptions::default()
    });
    let of = of.unwrap();
    let held = attempt(&of, request(server.url("/"))).await;
    assert_eq!(status(&held), 200);
    let left = Duration::from_millis(50);
    let late = attempt_within(&of, request(server.url("/")), left).await;
    assert_eq!((code(&late), late.again), ("deadline", None));
    assert_eq!(status(&attempt(&of, request(other.url("/"))).await), 200);
    drop(held);
    assert_eq!(status(&attempt(&of, request(server.url("/"))).await), 200);
}

/// Who waits in vain for its turn has made no attempt: it would run out of them without a request.
#[tokio::test]
async fn what_has_no_turn_is_no_attempt() {
    let server = Server::new(|_| answer("200 OK", "", "x")).await;
    let options =
        RequestOptions { pace: Pace { at_once: 1, ..Pace::default() }, ..server.options(None) };
    let of = OfNode::open(options).unwrap();
    let held = attempt(&of, request(server.url("/"))).await;
    assert_eq!(status(&held), 200);
    let last = || Request { failures: 2, ..request(server.url("/")) };
    let mut waiting: Vec<_> =
        (0..slotd_outbound::limits::WAITING_MAX).map(|_| Box::pin(attempt(&of, last()))).collect();
    for wait in &mut waiting {
        assert!(wait.as_mut().now_or_never().is_none());
    }
    let busy = attempt(&of, last()).await;
    let again = busy.again.unwrap();
    assert!(!again.counts && again.wait >= slotd_outbound::limits::BUSY_WAIT, "{again:?}");
    assert_eq!(code(&busy), "busy");
}

/// What a request may not do has to be known when it is asked for, and why.
#[tokio::test]
async fn what_is_not_allowed_is_refused_when_it_is_asked_for() {
    let server = Server::new(|_| answer("200 OK", "", "x")).await;
    let of = OfNode::open(server.options(None)).unwrap();
    let chat = ServiceName::parse("chat").unwrap();
    let good = request(server.url("/"));
    assert_eq!(of.check(&chat, &good), Ok(()));
    let board = ServiceName::parse("board").unwrap();
    let forbidden = |checked: Result<(), NotMade>, part: &str| match checked {
        Err(NotMade::Forbidden(why)) => assert!(why.contains(part), "{why}"),
        other => panic!("{other:?}"),
    };
    forbidden(of.check(&board, &good), "for service board");
    forbidden(of.check(&chat, &request("https://a.example/".into())), "https://a.example:443");
    forbidden(of.check(&chat, &request(server.url("/{{secret:OTHER}}"))), "OTHER");
    // It is granted, and there is none of that name.
    forbidden(of.check(&chat, &request(server.url("/{{secret:KEY}}"))), "KEY");
    for wrong in [
        Request { method: "A B".into(), ..good.clone() },
        Request { headers: vec![("host".into(), "a".into())], ..good.clone() },
        streamed(server.url("/"), Form::Joined("a.".repeat(40))),
    ] {
        let checked = of.check(&chat, &wrong);
        assert!(matches!(checked, Err(NotMade::Invalid(_))), "{checked:?}");
    }
    // A node without rules makes none at all.
    let none = OfNode::open(RequestOptions::default()).unwrap();
    forbidden(none.check(&chat, &good), "effects.http");
    let refused = attempt(&none, good).await;
    assert_eq!((code(&refused), refused.again), ("refused", None));
}

/// A key that was stolen is replaced while the node runs, and a mistake in the file must not stop all requests. Its value
/// is nowhere but at the server.
#[tokio::test]
async fn secrets_are_read_again_and_are_nowhere_to_be_seen() {
    let captured = CapturedLog::default();
    let _listening = captured.listen();
    let server = Server::new(|head| {
        let key = head.lines().find_map(|line| line.strip_prefix("authorization: "));
        let key = key.unwrap_or("none").to_owned();
        // It tells what it was sent, and its length, which is no secret here.
        let shown = format!("x-key: {key}\r\nx-length: {}\r\n", key.len());
        answer("200 OK", &shown, &key)
    });
    let server = server.await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secrets");
    std::fs::write(&file, "KEY=first-secret-value\n").unwrap();
    let of = Arc::new(OfNode::open(server.options(Some(file.clone()))).unwrap());
    let (stop, stopping) = watch::channel(false);
    let follow = follow_secrets(of.clone(), Duration::from_millis(1), stopping);
    let asked = || Request {
        headers: vec![("authorization".into(), "Bearer {{secret:KEY}}".into())],
        keep_headers: vec!["x-*".into()],
        ..request(server.url("/"))
    };
    let used = async || {
        let had = attempt(&of, asked()).await;
        let Outcome::Response(response) = &had.got.outcome else { panic!("{:?}", had.got) };
        let shown = format!("{:?} {:?}", had.got.body, response.headers);
        assert!(shown.contains("Bearer [secret KEY]"), "{shown}");
        assert!(!shown.contains("-secret-value"), "{shown}");
        let length = response.headers.iter().find(|(name, _)| name == "x-length");
        length.unwrap().1.parse::<usize>().unwrap()
    };
    // As an operator's tools do it: whoever reads it while it is written must not see a half.
    let write = |text: &str| {
        let fresh = dir.path().join("fresh");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(&fresh, &file).unwrap();
    };
    let until = async |what: &dyn Fn(&str) -> bool| {
        while !what(&captured.text()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let replaced = async {
        assert_eq!(used().await, "Bearer first-secret-value".len());
        write("KEY=2nd-secret-value\n");
        while used().await != "Bearer 2nd-secret-value".len() {}
        write("KEY=a third-secret-value\nKEY=a third-secret-value\n");
        until(&|log| log.contains("keeping the old secrets")).await;
        assert_eq!(used().await, "Bearer 2nd-secret-value".len());
        std::fs::remove_file(&file).unwrap();
        until(&|log| log.matches("keeping the old secrets").count() >= 2).await;
        write("OTHER=of-no-use-to-anybody\n");
        until(&|log| log.contains("names secrets that do not exist")).await;
        let gone = attempt(&of, asked()).await;
        assert_eq!((code(&gone), gone.again), ("secret-unknown", None));
        stop.send_replace(true);
    };
    let both = async { tokio::join!(follow, replaced) };
    tokio::time::timeout(LONG, both).await.unwrap();
    let log = captured.text();
    assert!(log.contains("line 2 of the secrets"), "{log}");
    assert!(!log.contains("-secret-value"), "{log}");
    let metrics = metrics().render_counters();
    assert!(!metrics.contains("-secret-value"), "{metrics}");
}

/// A start with a file that is not as it should be would make requests without their keys.
#[test]
fn a_wrong_file_of_secrets_is_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secrets");
    let options = RequestOptions { secrets_file: Some(file.clone()), ..RequestOptions::default() };
    let missing = OfNode::open(options.clone()).err().unwrap();
    assert!(missing.contains("secrets"), "{missing}");
    std::fs::write(&file, "KEY=0123456789\nhidden-value\n").unwrap();
    let wrong = OfNode::open(options).err().unwrap();
    assert!(wrong.contains("line 2") && !wrong.contains("hidden"), "{wrong}");
}
