//! Issuers that are down, slow or hostile.

use super::{
    NOW_MS,
    issuers::{accessing, identify, token},
    keys::{Key, jwks},
    server::{Answer, Body, Server},
};
use crate::{Listener, RefusedKind, limits};
use serde_json::json;
use std::time::{Duration, Instant};

async fn refusal_of(answer: Answer) -> String {
    let server = Server::start(move |_| Some(answer.clone())).await;
    let refused =
        identify(&accessing(&server), &token(&Key::p256("one")), NOW_MS).await.unwrap_err();
    assert_eq!(refused.kind, RefusedKind::Unavailable, "{}", refused.detail);
    assert_eq!(server.asked().len(), 1, "one request is made, and no redirect followed");
    refused.detail
}

#[tokio::test]
async fn answers_that_are_no_keys_are_unavailable() {
    let many: Vec<_> = (0..=limits::KEYS_MAX).map(|_| json!({"kty": "future"})).collect();
    let mut endless = Answer::json("");
    endless.body = Body::Endless;
    for (answer, why) in [
        (Answer::status(500), "status 500"),
        (Answer::status(204), "status 204"),
        (Answer::status(302).with("Location", "/jwks"), "redirect"),
        (Answer::status(301).with("Location", "http://169.254.169.254/"), "redirect"),
        (Answer::json("garbage"), "not a JWKS"),
        (Answer::json(""), "not a JWKS"),
        (Answer::json(json!({"keys": {}})), "not a JWKS"),
        (Answer::json("[".repeat(100_000)), "not a JWKS"),
        (Answer::json(json!({"keys": many})), "more than 100 keys"),
        (Answer::json(" ".repeat(limits::KEYS_BYTES_MAX + 1)), "more than 256 KiB"),
        (endless, "more than 256 KiB"),
    ] {
        let detail = refusal_of(answer).await;
        assert!(detail.contains(why), "{why}: {detail}");
        assert!(detail.starts_with("the keys of the issuer accounts can't be fetched"), "{detail}");
    }
}

#[tokio::test]
async fn an_issuer_that_is_not_there_is_unavailable() {
    let server = Server::start(|_| None).await;
    let access = accessing(&server);
    drop(server);
    let token = token(&Key::p256("one"));
    let refused = identify(&access, &token, NOW_MS).await.unwrap_err();
    assert_eq!(refused.kind, RefusedKind::Unavailable);
    // The next one does not try again at once.
    let refused = access.identify_now(Listener::Api, token.as_bytes(), NOW_MS + 9_999).unwrap();
    assert_eq!(refused.unwrap_err().kind, RefusedKind::Unavailable);
    assert!(access.identify_now(Listener::Api, token.as_bytes(), NOW_MS + 10_000).is_none());
}

#[tokio::test]
async fn an_issuer_that_hangs_is_waited_for_five_seconds_and_not_by_each_request() {
    let mut stuck = Answer::json("");
    stuck.body = Body::Stuck;
    let silent = Server::start(|_| None).await;
    let stuck = Server::start(move |_| Some(stuck.clone())).await;
    let began = Instant::now();
    let wait = |server| {
        let access = accessing(server);
        async move {
            let token = token(&Key::p256("one"));
            let refused = identify(&access, &token, NOW_MS).await.unwrap_err();
            assert_eq!(refused.kind, RefusedKind::Unavailable);
            assert!(refused.detail.contains("no answer within 5 s"), "{}", refused.detail);
            // At once.
            assert!(
                access
                    .identify_now(Listener::Api, token.as_bytes(), NOW_MS + 5_000)
                    .unwrap()
                    .is_err()
            );
        }
    };
    tokio::join!(wait(&silent), wait(&stuck));
    assert!(began.elapsed() < 2 * limits::KEYS_FETCH_TIMEOUT + Duration::from_secs(5));
}

#[tokio::test]
async fn old_keys_stay_while_the_issuer_is_down() {
    let key = Key::p256("one");
    let keys = Answer::json(jwks([&key])).with("Cache-Control", "max-age=60");
    let server = Server::start(move |_| Some(keys.clone())).await;
    let (access, token) = (accessing(&server), token(&key));
    identify(&access, &token, NOW_MS).await.unwrap();
    server.answer(|_| Some(Answer::status(503)));
    let late = NOW_MS + 3_600_000;
    assert!(identify(&access, &token, late).await.is_ok());
    // From then on nobody waits, though it is asked for again.
    for seconds in 1..100 {
        let identity = access.identify_now(Listener::Api, token.as_bytes(), late + seconds * 1000);
        assert!(identity.unwrap().is_ok(), "after {seconds} s");
    }
    // Of a key that is not among them, nobody can say whether it is one by now.
    let unknown = super::issuers::token(&Key::p256("two"));
    let refused = identify(&access, &unknown, late + 200_000).await.unwrap_err();
    assert_eq!(refused.kind, RefusedKind::Unavailable);
    let keys = Answer::json(jwks([&key]));
    server.answer(move |_| Some(keys.clone()));
    let refused = identify(&access, &unknown, late + 300_000).await.unwrap_err();
    assert_eq!(refused.kind, RefusedKind::Unauthorized, "it is up again");
}

#[tokio::test]
async fn keys_that_can_not_check_signatures_are_as_if_they_were_not_there() {
    let (good, encrypts, signs) = (Key::p256("good"), Key::p256("encrypts"), Key::ed("signs"));
    let mut set = jwks([&encrypts, &signs, &good]);
    set["keys"][0]["use"] = json!("enc");
    set["keys"][1]["key_ops"] = json!(["sign"]);
    let all = set["keys"].as_array_mut().unwrap();
    all.push(json!({"kty": "oct", "kid": "secret", "k": "c2VjcmV0"}));
    all.push(json!({"kty": "EC", "crv": "P-521", "kid": "p521", "x": "AA", "y": "AA"}));
    all.push(json!({"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"}));
    all.push(json!({"kty": "RSA", "kid": "weak", "n": "AQAB", "e": "AQAB"}));
    all.push(json!(7));
    let server = Server::start(move |_| Some(Answer::json(&set))).await;
    let access = accessing(&server);
    assert!(identify(&access, &token(&good), NOW_MS).await.is_ok());
    for key in [&encrypts, &signs, &Key::rsa("broken"), &Key::rsa("weak")] {
        let refused = identify(&access, &token(key), NOW_MS).await.unwrap_err();
        assert_eq!(refused.kind, RefusedKind::Unauthorized, "{}", key.id);
    }
}

#[tokio::test]
async fn whoever_gives_up_waiting_does_not_end_the_fetch_of_others() {
    let key = Key::p256("one");
    let server = Server::start(|_| None).await;
    let (access, token) = (accessing(&server), token(&key));
    // The first one starts the fetch, and is dropped before there is an answer.
    {
        let mut first = Box::pin(identify(&access, &token, NOW_MS));
        tokio::select! {
            biased;
            _ = &mut first => panic!("there is no answer yet"),
            () = asked(&server) => {}
        }
    }
    let second = identify(&access, &token, NOW_MS + 10_000);
    tokio::pin!(second);
    tokio::select! {
        biased;
        _ = &mut second => panic!("it waits for the fetch that is under way"),
        () = tokio::task::yield_now() => {}
    }
    assert_eq!(server.asked().len(), 1);
    let keys = Answer::json(jwks([&key]));
    server.answer(move |_| Some(keys.clone()));
    // The first fetch gets no answer; the second request begins another one.
    assert!(second.await.is_ok());
    assert_eq!(server.asked().len(), 2);
}

async fn asked(server: &Server) {
    while server.asked().is_empty() {
        tokio::task::yield_now().await;
    }
}
