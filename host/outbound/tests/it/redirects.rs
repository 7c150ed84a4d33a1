//! Where redirects lead, and where they do not.

use crate::kit::{Server, client, get, post, says};
use slotd_outbound::{Kind, Options, Request};

/// A server that sends on to where its path says: `/STATUS/LOCATION`.
async fn sends_on() -> Server {
    Server::http(|seen| {
        let mut parts = seen.uri.splitn(3, '/').skip(1);
        match (parts.next().and_then(|status| status.parse().ok()), parts.next()) {
            (Some(status), Some(location)) => says(status, &[("location", location)], "moved"),
            _ => says(200, &[], "there"),
        }
    })
    .await
}

#[tokio::test]
async fn methods_and_bodies_follow_the_rules_of_http() {
    let server = sends_on().await;
    let client = client(&[&server.rule("a.test")]);
    for (status, method, becomes, body) in [
        (301, "POST", "GET", ""),
        (302, "POST", "GET", ""),
        (303, "POST", "GET", ""),
        (303, "PUT", "GET", ""),
        (301, "PUT", "PUT", "body"),
        (302, "DELETE", "DELETE", "body"),
        (307, "POST", "POST", "body"),
        (308, "POST", "POST", "body"),
        (303, "HEAD", "HEAD", "body"),
    ] {
        server.seen.lock().clear();
        let request = Request {
            method: method.into(),
            headers: vec![("content-type".into(), "text/x".into())],
            ..post(server.url("a.test", &format!("/{status}//end?x=1")), "body")
        };
        client.attempt(&request, None).await.expect("an answer");
        let seen = server.seen();
        let last = seen.last().expect("a request");
        assert_eq!(
            (seen.len(), &last.method[..], &last.uri[..], &last.body[..]),
            (2, becomes, "/end?x=1", body.as_bytes()),
            "{status} {method}"
        );
        assert_eq!(
            last.headers.contains_key("content-type"),
            !body.is_empty(),
            "{status} {method}"
        );
        assert_eq!(last.headers["idempotency-key"], "key-1");
    }
}

#[tokio::test]
async fn an_endless_redirect_ends() {
    let server = Server::http(|_| says(302, &[("location", "/again")], "")).await;
    let client = client(&[&server.rule("a.test")]);
    let request = get(server.url("a.test", "/"));
    for (redirects, seen) in [(3, 4), (u8::MAX, 4 + 11)] {
        let options = Options { redirects, ..request.options.clone() };
        let failure = client.attempt(&Request { options, ..request.clone() }, None).await;
        let failure = failure.expect_err("endless");
        assert_eq!((failure.kind, failure.may_retry), (Kind::Redirect, false));
        assert_eq!(server.seen().len(), seen);
    }
    // With none to follow it is an answer.
    let options = Options { redirects: 0, ..request.options.clone() };
    let answer = client.attempt(&Request { options, ..request }, None).await.expect("an answer");
    assert_eq!(answer.status, 302);
    assert!(answer.headers.contains(&("location".into(), "/again".into())));
}

#[tokio::test]
async fn another_origin_gets_no_headers_that_may_tell_it_something() {
    let [from, to] = [sends_on().await, sends_on().await];
    let client = client(&[&from.rule("a.test"), &to.rule("b.test"), &to.rule("a.test")]);
    let headers = ["authorization", "cookie", "x-api-key", "accept", "user-agent", "content-type"];
    let headers: Vec<_> =
        headers.into_iter().map(|name| (name.to_owned(), "v".to_owned())).collect();
    for host in ["b.test", "a.test"] {
        let url = from.url("a.test", &format!("/307/{}", to.url(host, "/")));
        let request = Request { headers: headers.clone(), ..post(url, "body") };
        client.attempt(&request, None).await.expect("an answer");
        let seen = to.seen().pop().expect("a request");
        for name in ["authorization", "cookie", "x-api-key"] {
            assert!(!seen.headers.contains_key(name), "{host} {name}");
        }
        for name in ["accept", "user-agent", "content-type"] {
            assert_eq!(seen.headers[name], "v", "{host}");
        }
        assert_eq!((&seen.body[..], &seen.headers["idempotency-key"][..]), (&b"body"[..], "key-1"));
    }
    // On the same origin they go along.
    let request = Request { headers, ..get(from.url("a.test", "/302//end")) };
    client.attempt(&request, None).await.expect("an answer");
    assert_eq!(from.seen().pop().expect("a request").headers["authorization"], "v");
}

#[tokio::test]
async fn a_redirect_leads_nowhere_that_a_request_could_not_go() {
    let (from, private) = (sends_on().await, sends_on().await);
    let client = client(&[&from.rule("a.test"), "http://*:*", "*:*"]);
    for host in
        ["127.0.0.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "localhost", "b.test", "0"]
    {
        let url = from.url("a.test", &format!("/302/{}", private.url(host, "/")));
        let failure = client.attempt(&get(url), None).await.expect_err(host);
        assert_eq!((failure.kind, failure.may_retry), (Kind::Refused, false), "{host} {failure}");
        // An address is refused before anything is sent on, a name when it is looked up.
        let is_name = host.ends_with(char::is_alphabetic);
        assert_eq!(failure.reason.contains("redirect was not followed"), !is_name, "{failure}");
    }
    for url in [
        "file:///etc/passwd",
        "http://169.254.169.254/latest/",
        "ftp://a.test/",
        "http://me:pw@a.test/",
        "http://",
    ] {
        let failure = client.attempt(&get(from.url("a.test", &format!("/302/{url}"))), None).await;
        let failure = failure.expect_err(url);
        assert!(
            [Kind::Refused, Kind::Redirect, Kind::Invalid].contains(&failure.kind),
            "{url} {failure}"
        );
    }
    assert_eq!(private.connections(), 0);
}
