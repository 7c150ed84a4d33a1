//! TLS, and the versions of HTTP that are agreed on in it.

use crate::kit::{Authority, Server, authority, client, get, says};
use hyper::Version;
use rustls::ServerConfig;
use slotd_outbound::{Failure, Kind};

fn good(alpn: &[&str]) -> ServerConfig {
    authority().server("a.test", alpn, |_| {})
}

async fn ask(tls: ServerConfig) -> Result<Version, Failure> {
    let server = Server::https(tls, |_| says(200, &[], "x")).await;
    let client = client(&[&format!("a.test:{}!private", server.port)]);
    // Twice: the second time on the connection that is there.
    for _ in 0..2 {
        let answer = client.attempt(&get(format!("https://a.test:{}/", server.port)), None).await?;
        assert_eq!(answer.status, 200);
    }
    assert_eq!(server.connections(), 1);
    Ok(server.seen()[1].version)
}

#[tokio::test]
async fn the_best_version_that_both_speak_is_spoken() {
    assert_eq!(ask(good(&["h2", "http/1.1"])).await, Ok(Version::HTTP_2));
    assert_eq!(ask(good(&["http/1.1"])).await, Ok(Version::HTTP_11));
    assert_eq!(ask(good(&[])).await, Ok(Version::HTTP_11));
}

#[tokio::test]
async fn a_server_that_is_not_who_it_should_be_is_not_asked() {
    let failed = async |tls| {
        let failure: Failure = ask(tls).await.expect_err("no trust");
        assert_eq!(failure.kind, Kind::Tls, "{failure}");
        failure.may_retry
    };
    assert!(!failed(authority().server("b.test", &[], |_| {})).await);
    assert!(!failed(Authority::new().server("a.test", &[], |_| {})).await);
    // A certificate is renewed one day.
    let old = authority().server("a.test", &[], |params| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    assert!(failed(old).await);
}

#[tokio::test]
async fn a_server_without_tls_is_no_server_of_https() {
    let server = Server::http(|_| says(200, &[], "x")).await;
    let client = client(&[&format!("a.test:{}!private", server.port)]);
    let failure = client.attempt(&get(format!("https://a.test:{}/", server.port)), None).await;
    let failure = failure.expect_err("no TLS");
    assert_eq!((failure.kind, failure.may_retry), (Kind::Tls, true), "{failure}");
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn headers_of_http_2_are_bounded_too() {
    for (bytes, kinds) in
        [(40_000, &[Kind::TooLarge][..]), (1_000_000, &[Kind::TooLarge, Kind::Protocol])]
    {
        let value = "y".repeat(bytes);
        let server = Server::https(good(&["h2"]), move |_| says(200, &[("x", &value)], "x")).await;
        let client = client(&[&format!("a.test:{}!private", server.port)]);
        let failure = client.attempt(&get(format!("https://a.test:{}/", server.port)), None).await;
        let failure = failure.expect_err("too large");
        assert!(kinds.contains(&failure.kind), "{bytes} {failure}");
    }
}
