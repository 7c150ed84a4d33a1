//! Keys that are fetched: kept, fetched again, rotated, withdrawn.

use super::{
    NOW, NOW_MS,
    keys::{Key, jwks},
    minting, parse,
    server::{Answer, Server},
};
use crate::{Access, Identity, Listener, Policy, Refused, RefusedKind, Scope, Verb, limits};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::{Map, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::task::JoinSet;

pub(super) fn policy(server: &Server) -> Policy {
    let url = &server.url;
    parse(&format!(
        "[[issuer]]\nname = 'accounts'\nissuer = 'https://accounts.example.com'\naudience = 'slotd'\njwks = '{url}/jwks'"
    ))
}

pub(super) fn accessing(server: &Server) -> Access {
    let access = Access::new(Some([1; 32]), None, minting());
    access.set_policy(policy(server));
    access
}

/// A token that is valid for a day.
pub(super) fn token(key: &Key) -> String {
    key.token(&json!({
        "iss": "https://accounts.example.com", "aud": "slotd", "sub": "alice", "exp": NOW + 86_400,
    }))
}

pub(super) async fn identify(
    access: &Access,
    token: &str,
    now_ms: u64,
) -> Result<Identity, Refused> {
    access.identify(Listener::Api, token.as_bytes(), now_ms).await
}

fn publish(keys: &[&Key]) -> Answer {
    Answer::json(jwks(keys.iter().copied())).with("Cache-Control", "max-age=600")
}

#[tokio::test]
async fn keys_are_fetched_once_and_kept_for_as_long_as_the_issuer_says() {
    let key = Key::p256("one");
    let keys = publish(&[&key]);
    let server = Server::start(move |_| Some(keys.clone())).await;
    let (access, token) = (accessing(&server), token(&key));
    assert!(
        access.identify_now(Listener::Api, token.as_bytes(), NOW_MS).is_none(),
        "it has to be fetched"
    );
    assert_eq!(identify(&access, &token, NOW_MS).await.unwrap().to_string(), "accounts:alice");
    let at = |seconds: u64| {
        access.identify_now(Listener::Api, token.as_bytes(), NOW_MS + seconds * 1000)
    };
    assert!(at(0).unwrap().is_ok() && at(479).unwrap().is_ok());
    assert_eq!(server.asked(), ["/jwks"]);
    assert!(at(600).is_none(), "it has to be fetched again");
    assert!(identify(&access, &token, NOW_MS + 600_000).await.is_ok());
    assert_eq!(server.asked().len(), 2);
    // Other requests may have a time that is a little earlier. A clock that was set back makes keys old, too.
    assert!(at(599).unwrap().is_ok() && at(540).unwrap().is_ok());
    assert!(at(539).is_none());
}

#[tokio::test]
async fn keys_are_fetched_meanwhile_before_they_are_stale() {
    let key = Key::p256("one");
    let keys = publish(&[&key]);
    let server = Server::start(move |_| Some(keys.clone())).await;
    let (access, token) = (accessing(&server), token(&key));
    identify(&access, &token, NOW_MS).await.unwrap();
    let old = NOW_MS + 480_000;
    assert!(access.identify_now(Listener::Api, token.as_bytes(), old).unwrap().is_ok());
    // Nobody waits for it. When it is done, keys are good for longer than the first ones were.
    let later = NOW_MS + 601_000;
    let kept = async {
        while access.identify_now(Listener::Api, token.as_bytes(), later).is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), kept).await.unwrap();
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn how_long_keys_are_kept_is_bounded() {
    let key = Key::p256("one");
    for (said, kept_s) in [
        (None, 600),
        (Some("max-age=0"), 60),
        (Some("no-store"), 60),
        (Some("public, Max-Age=7200"), 7200),
        (Some("max-age=99999999999999999999999"), 86_400),
        (Some("max-age=-1, max-age=x, max-age="), 600),
    ] {
        let mut keys = Answer::json(jwks([&key]));
        if let Some(said) = said {
            keys = keys.with("Cache-Control", said);
        }
        let server = Server::start(move |_| Some(keys.clone())).await;
        let access = accessing(&server);
        let token = key.token(&json!({
            "iss": "https://accounts.example.com", "aud": "slotd", "sub": "alice", "exp": NOW + 200_000,
        }));
        identify(&access, &token, NOW_MS).await.unwrap();
        let at = |seconds: u64| {
            access.identify_now(Listener::Api, token.as_bytes(), NOW_MS + seconds * 1000)
        };
        assert!(at(kept_s).is_none(), "{said:?}");
        // Last, since keys that are old are fetched meanwhile.
        assert!(at(kept_s - 1).is_some(), "{said:?}");
    }
}

#[tokio::test]
async fn a_hundred_requests_at_once_make_one_fetch() {
    let key = Key::p256("one");
    let keys = publish(&[&key]);
    let server = Server::start(move |_| Some(keys.clone())).await;
    let (access, token) = (accessing(&server), token(&key));
    let mut asking = JoinSet::new();
    for _ in 0..100 {
        let (access, token) = (access.clone(), token.clone());
        asking.spawn(async move { identify(&access, &token, NOW_MS).await.is_ok() });
    }
    assert!(asking.join_all().await.into_iter().all(|is_ok| is_ok));
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn tokens_of_unknown_keys_ask_for_keys_once_in_ten_seconds() {
    let (key, unknown) = (Key::p256("one"), Key::p256("unknown"));
    let keys = publish(&[&key]);
    let server = Server::start(move |_| Some(keys.clone())).await;
    let access = accessing(&server);
    identify(&access, &token(&key), NOW_MS).await.unwrap();
    for second in 1..=40 {
        let refused = identify(&access, &token(&unknown), NOW_MS + second * 1000).await;
        assert_eq!(refused.unwrap_err().kind, RefusedKind::Unauthorized);
    }
    assert_eq!(server.asked().len(), 1 + 4);
}

#[tokio::test]
async fn a_token_without_the_name_of_its_key_has_new_keys_fetched() {
    let (before, after) = (Key::p256("one"), Key::p256("two"));
    let keys = publish(&[&before]);
    let server = Server::start(move |_| Some(keys.clone())).await;
    let access = accessing(&server);
    let nameless = |key: &Key| {
        let claims = json!({"iss": "https://accounts.example.com", "aud": "slotd", "sub": "a", "exp": NOW + 600});
        key.raw(r#"{"alg":"ES256"}"#, &claims.to_string())
    };
    assert!(identify(&access, &nameless(&before), NOW_MS).await.is_ok());
    let keys = publish(&[&after]);
    server.answer(move |_| Some(keys.clone()));
    assert!(identify(&access, &nameless(&after), NOW_MS + 10_000).await.is_ok());
}

#[tokio::test]
async fn keys_that_are_withdrawn_raise_the_epoch_and_new_ones_do_not() {
    let (one, two) = (Key::p256("one"), Key::ed("two"));
    let keys = publish(&[&one]);
    let server = Server::start(move |_| Some(keys.clone())).await;
    let access = accessing(&server);
    let told = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&told);
    access.on_withdrawn(move || {
        count.fetch_add(1, SeqCst);
    });
    identify(&access, &token(&one), NOW_MS).await.unwrap();
    let first = access.epoch();

    let keys = publish(&[&one, &two]);
    server.answer(move |_| Some(keys.clone()));
    identify(&access, &token(&two), NOW_MS + 10_000).await.unwrap();
    assert_eq!((first, 0), (access.epoch(), told.load(SeqCst)));

    let keys = publish(&[&two]);
    server.answer(move |_| Some(keys.clone()));
    identify(&access, &token(&Key::p256("unknown")), NOW_MS + 20_000).await.unwrap_err();
    assert!(access.epoch() > first, "whoever holds an identity looks again");
    assert_eq!(told.load(SeqCst), 1, "and hears of it");
    let refused = identify(&access, &token(&one), NOW_MS + 20_000).await;
    assert_eq!(refused.unwrap_err().kind, RefusedKind::Unauthorized);
}

/// Withdrawing a key is what is left when it was stolen: what was minted with it would live on for a day.
#[tokio::test]
async fn what_was_minted_ends_with_the_key_that_let_its_minter_in() {
    let (one, two) = (Key::p256("one"), Key::ed("two"));
    let keys = publish(&[&one, &two]);
    let server = Server::start(move |_| Some(keys.clone())).await;
    let url = &server.url;
    let policy = format!(
        "[[issuer]]\nname = 'accounts'\nissuer = 'https://accounts.example.com'\naudience = 'slotd'\n\
         jwks = '{url}/jwks'\n[[rule]]\nwho = 'accounts:*'\nallow = ['mint', 'send']\non = 'chat'"
    );
    let start = || {
        let access = Access::new(Some([1; 32]), None, minting());
        access.set_policy(parse(&policy));
        access
    };
    let access = start();
    let alice = identify(&access, &token(&one), NOW_MS).await.unwrap();
    let scope = Scope { service: "chat".into(), session: "a".into(), verbs: vec![Verb::Send] };
    let ttl = Duration::from_secs(600);
    let (minted, _) = access.mint(&alice, scope, None, &Map::new(), ttl, NOW_MS).unwrap();
    assert!(identify(&access, &minted, NOW_MS).await.is_ok());

    let keys = publish(&[&two]);
    server.answer(move |_| Some(keys.clone()));
    // Another node, which has asked for no keys yet: it must not refuse everybody while the issuer is down.
    let other = start();
    let (told, mut hears) = tokio::sync::watch::channel(());
    other.on_withdrawn(move || {
        let _ = told.send(());
    });
    let before = other.epoch();
    assert!(identify(&other, &minted, NOW_MS).await.is_ok());
    hears.changed().await.unwrap();
    assert!(other.epoch() > before);
    for access in [&other, &access] {
        // The one that has the old keys learns of it by a token of an unknown key.
        let _ = identify(access, &token(&Key::p256("unknown")), NOW_MS + 10_000).await;
        let refused = identify(access, &minted, NOW_MS + 10_000).await;
        assert_eq!(refused.unwrap_err().kind, RefusedKind::Unauthorized);
    }
}

#[tokio::test]
async fn a_new_policy_keeps_the_keys_that_come_from_the_same_place() {
    let key = Key::p256("one");
    let keys = publish(&[&key]);
    let server = Server::start(move |_| Some(keys.clone())).await;
    let (access, token) = (accessing(&server), token(&key));
    identify(&access, &token, NOW_MS).await.unwrap();
    server.answer(|_| Some(Answer::status(500)));
    access.set_policy(policy(&server));
    assert!(access.identify_now(Listener::Api, token.as_bytes(), NOW_MS).unwrap().is_ok());
    access.set_policy(Policy::default());
    let refused = identify(&access, &token, NOW_MS).await;
    assert_eq!(refused.unwrap_err().kind, RefusedKind::Unauthorized);
}

#[tokio::test]
async fn discovery_says_where_the_keys_are() {
    let key = Key::rsa("one");
    let server = Server::start(|_| None).await;
    let issuer = format!("{}/tenant", server.url);
    let (document, keys) = (
        Answer::json(json!({"issuer": issuer, "jwks_uri": format!("{}/keys", server.url), "x": 1})),
        publish(&[&key]),
    );
    server.answer(move |path| match path {
        "/tenant/.well-known/openid-configuration" => Some(document.clone()),
        "/keys" => Some(keys.clone()),
        _ => Some(Answer::status(404)),
    });
    let access = Access::new(Some([1; 32]), None, minting());
    let text = format!("[[issuer]]\nname = 'accounts'\nissuer = '{issuer}'\naudience = 'slotd'");
    access.set_policy(parse(&text));
    let token = key.token(&json!({"iss": issuer, "aud": "slotd", "sub": "alice", "exp": NOW + 60}));
    assert!(identify(&access, &token, NOW_MS).await.is_ok());
    assert_eq!(server.asked(), ["/tenant/.well-known/openid-configuration", "/keys"]);
}

#[tokio::test]
async fn a_discovery_document_of_another_issuer_or_with_a_plain_url_is_refused() {
    let server = Server::start(|_| None).await;
    for (issuer, jwks_uri) in [
        (format!("{}/", server.url), format!("{}/keys", server.url)),
        (server.url.clone(), "http://example.com/keys".into()),
        (server.url.clone(), "file:///etc/passwd".into()),
    ] {
        let document = Answer::json(json!({"issuer": issuer, "jwks_uri": jwks_uri}));
        server.answer(move |_| Some(document.clone()));
        let access = Access::new(Some([1; 32]), None, minting());
        let text =
            format!("[[issuer]]\nname = 'accounts'\nissuer = '{}'\naudience = 'slotd'", server.url);
        access.set_policy(parse(&text));
        let claims = json!({"iss": server.url, "aud": "slotd", "sub": "alice", "exp": NOW + 60});
        let refused = identify(&access, &Key::ed("one").token(&claims), NOW_MS).await.unwrap_err();
        assert_eq!(refused.kind, RefusedKind::Unavailable);
        assert!(refused.detail.contains("discovery document"), "{}", refused.detail);
    }
}

#[tokio::test]
async fn keys_come_by_tls_with_a_root_of_the_policy() {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let pair = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".into()]).unwrap();
    let certificate = params.signed_by(&pair, &ca).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from(certificate.der().to_vec())],
            PrivatePkcs8KeyDer::from(pair.serialize_der()).into(),
        )
        .unwrap();
    let key = Key::ed("one");
    let keys = publish(&[&key]);
    let server = Server::start_tls(tls, move |_| Some(keys.clone())).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), ca.pem()).unwrap();
    let with = |rest: &str| {
        let text = format!(
            "[[issuer]]\nname = 'accounts'\nissuer = 'https://accounts.example.com'\naudience = 'slotd'\n\
             jwks = '{}/jwks'\n{rest}",
            server.url
        );
        let access = Access::new(Some([1; 32]), None, minting());
        access.set_policy(Policy::parse(&text, folder.path()).unwrap());
        access
    };
    assert!(identify(&with("ca_file = 'ca.pem'"), &token(&key), NOW_MS).await.is_ok());
    let refused = identify(&with(""), &token(&key), NOW_MS).await.unwrap_err();
    assert_eq!(refused.kind, RefusedKind::Unavailable);
    assert!(refused.detail.contains("certificate"), "{}", refused.detail);
}

/// The issuer publishes a key, signs with it a while later, and withdraws the one before when nobody uses it any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_keys_rotate_no_request_is_refused() {
    const ROTATIONS: u64 = 20;
    const CLIENTS: usize = 8;
    let keys: Vec<Key> = (0..=ROTATIONS).map(|index| Key::p256(&index.to_string())).collect();
    let tokens: Arc<Vec<String>> = Arc::new(keys.iter().map(token).collect());
    let first = publish(&[&keys[0]]);
    let server = Server::start(move |_| Some(first.clone())).await;
    let access = accessing(&server);
    let clock = Arc::new(AtomicU64::new(NOW_MS));
    // Which token clients use now, and up to which one each of them has been let in.
    let current = Arc::new(AtomicU64::new(0));
    let done: Arc<Vec<AtomicU64>> = Arc::new((0..CLIENTS).map(|_| AtomicU64::new(0)).collect());
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (access, clock, current) = (access.clone(), Arc::clone(&clock), Arc::clone(&current));
        let (done, tokens) = (Arc::clone(&done), Arc::clone(&tokens));
        clients.spawn(async move {
            while done[client].load(SeqCst) <= ROTATIONS {
                let index = current.load(SeqCst);
                let token = &tokens[usize::try_from(index).unwrap()];
                let identity = identify(&access, token, clock.load(SeqCst)).await;
                assert!(identity.is_ok(), "rotation {index}: {identity:?}");
                done[client].store(index + 1, SeqCst);
                tokio::task::yield_now().await;
            }
        });
    }
    let rotating = async {
        for (before, after) in keys.iter().zip(&keys[1..]) {
            let index = current.load(SeqCst);
            while done.iter().any(|done| done.load(SeqCst) <= index) {
                tokio::task::yield_now().await;
            }
            let both = publish(&[before, after]);
            server.answer(move |_| Some(both.clone()));
            clock.fetch_add(u64::try_from(limits::KEYS_FETCH_PAUSE.as_millis()).unwrap(), SeqCst);
            current.store(index + 1, SeqCst);
        }
        while let Some(client) = clients.join_next().await {
            client.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(120), rotating).await.unwrap();
    // One for each key: keys are kept for longer than all of this takes.
    assert_eq!(server.asked().len(), keys.len());
}
