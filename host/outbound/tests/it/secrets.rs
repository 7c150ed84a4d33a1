//! Where secrets go, and where they do not.

use crate::kit::{May, Names, Server, authority, get, network, post, says};
use parking_lot::Mutex;
use slotd_outbound::{Kind, Outbound, Policy, Request, Secrets, Source, Stream, chunks};
use std::sync::Arc;

const SECRETS: &str = "KEY=the+secret/value\nOTHER=another-secret\n";

fn client(rules: &[&str], grants: &[&str]) -> Outbound {
    May { rules, grants, secrets: SECRETS, ..May::default() }.client(Names::loopback())
}

fn grant(server: &Server) -> String {
    format!("KEY>http://a.test:{}", server.port)
}

fn with_header(url: String) -> Request {
    Request { headers: vec![("x-key".into(), "Bearer {{secret:KEY}}".into())], ..get(url) }
}

#[tokio::test]
async fn a_secret_is_put_into_headers_and_urls_of_hosts_that_it_is_granted_to() {
    let server = Server::http(|_| says(200, &[], "")).await;
    let client = client(&[&server.rule("a.test"), &server.rule("b.test")], &[&grant(&server)]);
    let url = |host| server.url(host, "/bot{{secret:KEY}}/x?k={{secret:KEY}}");
    client.attempt(&with_header(url("a.test")), None).await.expect("an answer");
    let seen = server.seen().pop().expect("a request");
    assert_eq!(seen.headers["x-key"], "Bearer the+secret/value");
    assert_eq!(seen.uri, "/botthe%2Bsecret%2Fvalue/x?k=the%2Bsecret%2Fvalue");
    // A body is sent as it is: it may be anybody's text.
    client
        .attempt(&post(server.url("a.test", "/"), "{{secret:KEY}}"), None)
        .await
        .expect("an answer");
    assert_eq!(&server.seen().pop().expect("a request").body[..], b"{{secret:KEY}}");

    let count = server.seen().len();
    for (kind, request) in [
        (Kind::Refused, with_header(server.url("b.test", "/"))),
        (Kind::Refused, get(url("b.test"))),
        // Not granted, and not there: it is not said which.
        (Kind::Refused, get(server.url("a.test", "/{{secret:OTHER}}"))),
        (Kind::Refused, get(server.url("a.test", "/{{secret:NONE}}"))),
        (Kind::Invalid, get("http://{{secret:KEY}}.test/")),
        (Kind::Invalid, get(format!("http://{{{{secret:KEY}}}}@a.test:{}/", server.port))),
        (Kind::Invalid, get(server.url("a.test", "/{{secret:}}"))),
    ] {
        let failure = client.attempt(&request, None).await.expect_err("refused");
        assert_eq!((failure.kind, failure.may_retry), (kind, false), "{failure}");
    }
    assert_eq!(server.seen().len(), count);
}

#[tokio::test]
async fn a_secret_that_there_is_not_is_said() {
    let server = Server::http(|_| says(200, &[], "")).await;
    let grant = format!("NONE>http://a.test:{}", server.port);
    let client = client(&[&server.rule("a.test")], &[&grant]);
    let failure = client.attempt(&get(server.url("a.test", "/{{secret:NONE}}")), None).await;
    assert_eq!(failure.expect_err("unknown").kind, Kind::SecretUnknown);
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_redirect_takes_no_secret_to_another_host() {
    let other = Server::http(|_| says(200, &[], "")).await;
    let to = [
        other.url("b.test", "/"),
        other.url("b.test", "/?k=the%2Bsecret%2Fvalue"),
        other.url("b.test", "/the+secret/value"),
        // Not one that this request has, but one that the server knows.
        other.url("b.test", "/another-secret"),
    ];
    let server = Server::http(move |seen| {
        let index: usize = seen.uri.trim_start_matches('/').parse().expect("a number");
        says(307, &[("location", &to[index])], "")
    })
    .await;
    let rules = [&server.rule("a.test")[..], &other.rule("b.test")];
    let client =
        client(&rules, &[&grant(&server), &format!("OTHER>http://a.test:{}", server.port)]);
    let mut request = with_header(server.url("a.test", "/0"));
    // One that would go along without a secret.
    request.headers.push(("accept".into(), "{{secret:KEY}}".into()));
    client.attempt(&request, None).await.expect("an answer");
    let [seen] = &other.seen()[..] else { panic!("one request") };
    assert!(!format!("{seen:?}").contains("secret"), "{seen:?}");
    for path in ["/1", "/2", "/3"] {
        let failure = client.attempt(&with_header(server.url("a.test", path)), None).await;
        let failure = failure.expect_err("refused");
        assert_eq!(failure.kind, Kind::Refused, "{path} {failure}");
        assert!(
            !failure.reason.contains("value") && !failure.reason.contains("another-"),
            "{failure}"
        );
    }
    assert_eq!(other.seen().len(), 1);
}

#[tokio::test]
async fn what_a_server_says_again_comes_back_without_secrets() {
    let server = Server::http(|seen| {
        let key = &seen.headers["x-key"];
        let body = format!("you said {key}, not another-secret, {}", seen.uri);
        says(200, &[("link", key), ("content-type", "text/plain")], body)
    })
    .await;
    let client = client(&[&server.rule("a.test")], &[&grant(&server)]);
    let mut request = with_header(server.url("a.test", "/{{secret:KEY}}"));
    request.options.stream = Stream::Text;
    let (sender, mut receiver) = chunks();
    let answer = client.attempt(&request, Some(sender)).await.expect("an answer");
    let expected = "you said Bearer [secret KEY], not [secret OTHER], /[secret KEY]";
    assert_eq!(&answer.body[..], expected.as_bytes());
    assert!(answer.headers.contains(&("link".into(), "Bearer [secret KEY]".into())));
    let mut streamed = String::new();
    while let Some(chunk) = receiver.recv().await {
        streamed.push_str(&format!("{chunk:?}"));
    }
    assert!(streamed.contains("[secret KEY]") && !streamed.contains("the+secret"), "{streamed}");
    for shown in [format!("{client:?}"), format!("{request:?}"), format!("{answer:?}")] {
        assert!(!shown.contains("the+secret") && !shown.contains("the%2B"), "{shown}");
    }
}

/// What came before a failure is returned, too.
#[tokio::test]
async fn what_came_before_a_failure_has_no_secrets_either() {
    let server = Server::says(|mut stream| async move {
        let text = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nyour key: the+secret/value";
        let _gone = tokio::io::AsyncWriteExt::write_all(&mut stream, text).await;
    })
    .await;
    let client = client(&[&server.rule("a.test")], &[&grant(&server)]);
    let failure = client.attempt(&with_header(server.url("a.test", "/")), None).await;
    let failure = failure.expect_err("it broke off");
    assert_eq!((failure.kind, failure.may_retry), (Kind::Protocol, true), "{failure}");
    let so_far = failure.so_far.expect("what came");
    assert_eq!((so_far.status, &so_far.body[..]), (200, &b"your key: [secret KEY]"[..]));
}

#[tokio::test]
async fn secrets_that_are_read_again_are_in_the_next_attempt() {
    let server = Server::http(|seen| says(200, &[], seen.headers["x-key"].clone())).await;
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "KEY=the first one").expect("a file");
    let source = Source { file: Some(file.path().to_owned()), prefix: None };
    let secrets = Secrets::open(source).expect("secrets");
    let policy = Policy::parse(&[server.rule("a.test")], &[grant(&server)]).expect("rules");
    let network = network().with_resolver(Names::loopback());
    let client = Outbound::new(policy, secrets.clone(), &network).expect("a client");
    let request = with_header(server.url("a.test", "/"));
    for value in ["the first one", "the other one"] {
        std::fs::write(file.path(), format!("KEY={value}")).expect("a file");
        secrets.reload().expect("secrets");
        let answer = client.attempt(&request, None).await.expect("an answer");
        let seen = server.seen().pop().expect("a request");
        assert_eq!(seen.headers["x-key"], format!("Bearer {value}"));
        assert_eq!(&answer.body[..], b"Bearer [secret KEY]");
    }
}

/// A server that knows a secret can say it in its certificate, which the error of TLS repeats.
#[tokio::test]
async fn the_text_of_an_error_has_no_secrets() {
    let tls = authority().server("another-secret.test", &[], |_| {});
    let server = Server::https(tls, |_| says(200, &[], "")).await;
    let client = client(&[&format!("a.test:{}!private", server.port)], &[]);
    let request = get(format!("https://a.test:{}/", server.port));
    let failure = client.attempt(&request, None).await.expect_err("another's certificate");
    assert_eq!(failure.kind, Kind::Tls);
    let shown = format!("{failure} {failure:?}");
    assert!(shown.contains("[secret OTHER]") && !shown.contains("another-secret"), "{shown}");
}

/// Neither this crate nor what it stands on: with everything that can be logged, in one thread.
#[tokio::test]
async fn nothing_that_is_logged_has_a_secret() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _logged = tracing_subscriber::util::SubscriberInitExt::set_default(subscriber);
    let tls = authority().server("a.test", &["h2"], |_| {});
    // In a thread of its own: what a server logs is not at issue.
    let server = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let server = runtime.block_on(Server::https(tls, |_| says(200, &[], "x")));
        (runtime, server)
    });
    let (runtime, server) = server.join().expect("a server");
    let rules = [&format!("a.test:{}!private", server.port)[..]];
    let client = client(&rules, &[&format!("KEY>a.test:{}", server.port)]);
    let url = format!("https://a.test:{}/{{{{secret:KEY}}}}", server.port);
    client.attempt(&with_header(url), None).await.expect("an answer");
    let seen = server.seen().pop().expect("a request");
    assert_eq!(seen.headers["x-key"], "Bearer the+secret/value");
    drop(server);
    runtime.shutdown_background();
    let text = String::from_utf8_lossy(&log.0.lock()).into_owned();
    assert!(text.contains("h2"), "nothing was logged at all");
    for form in ["the+secret", "the%2Bsecret"] {
        assert!(!text.contains(form), "{text}");
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
