//! Tokens for one session.

use super::{
    NOW_MS, access, claiming,
    keys::{b64, hmac},
    may, minting, now, parse, someone,
};
use crate::{
    Access, Grant, Identity, Listener, MintingKey, Refused, RefusedKind, Scope, Tokens, Verb, hash,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

fn scope(session: &str, verbs: &[Verb]) -> Scope {
    Scope { service: "chat".into(), session: session.into(), verbs: verbs.to_vec() }
}

/// An access with a named token that may send, read and mint on rooms, and its identity.
fn with_backend(expires_ms: Option<u64>) -> (Access, Tokens, Identity) {
    let access = Access::new(Some(hash(b"root")), None, minting());
    let mut tokens = Tokens::default();
    let grant = Grant {
        allow: vec!["send".into(), "read".into(), "mint".into()],
        on: vec!["chat/room-*".into()],
        ..Grant::default()
    };
    let secret = tokens.create("backend", vec![grant], "root", NOW_MS, expires_ms).unwrap();
    access.set_tokens(tokens.clone());
    let backend = now(&access, secret.text()).unwrap();
    (access, tokens, backend)
}

fn mint(access: &Access, by: &Identity, scope: Scope) -> Result<(String, u64), Refused> {
    access.mint(by, scope, Some("ann"), &Map::new(), MINUTE, NOW_MS)
}

#[test]
fn a_minted_token_is_for_its_session_and_verbs_and_nothing_else() {
    let (access, _, backend) = with_backend(None);
    let claims = json!({"role": "guest", "level": 3, "groups": ["a", "b"]});
    let wanted = scope("room-1", &[Verb::Send, Verb::Send]);
    let (token, expires_ms) = access
        .mint(&backend, wanted, Some("ann"), claims.as_object().unwrap(), MINUTE, NOW_MS)
        .unwrap();
    assert_eq!(expires_ms, NOW_MS + 60_000);
    let ann = now(&access, &token).unwrap();
    assert_eq!((ann.to_string().as_str(), ann.expires_ms), ("session:ann", Some(expires_ms)));
    assert_eq!((ann.claims["groups"].as_str(), ann.claims["level"].as_str()), ("a,b", "3"));
    assert!(may(&access, &ann, Verb::Send, "chat/room-1"));
    for on in ["chat/room-2", "chat", "chat/room-1*", "chat/*", "other/room-1", "*"] {
        assert!(!may(&access, &ann, Verb::Send, on), "{on}");
    }
    assert!(!may(&access, &ann, Verb::Read, "chat/room-1"));
    // Also where everybody may do everything.
    access.set_static(Listener::Admin, None);
    assert!(!may(&access, &ann, Verb::Operate, "*"));
    let refused = access.identify_now(Listener::Admin, token.as_bytes(), NOW_MS).unwrap();
    assert_eq!(refused.unwrap_err().kind, RefusedKind::Unauthorized);
}

#[test]
fn nobody_mints_what_he_may_not_do() {
    let (access, _, backend) = with_backend(None);
    let refused = |by: &Identity, scope| mint(&access, by, scope).unwrap_err().kind;
    for verbs in [&[Verb::Delete][..], &[Verb::Send, Verb::Query], &[Verb::Deploy]] {
        assert_eq!(refused(&backend, scope("room-1", verbs)), RefusedKind::Forbidden, "{verbs:?}");
    }
    for verbs in [&[Verb::Mint][..], &[]] {
        assert_eq!(refused(&backend, scope("room-1", verbs)), RefusedKind::Invalid, "{verbs:?}");
    }
    assert_eq!(refused(&backend, scope("lobby", &[Verb::Send])), RefusedKind::Forbidden);
    assert_eq!(
        refused(&someone("anyone"), scope("room-1", &[Verb::Send])),
        RefusedKind::Unauthorized
    );
    // Not even the same again.
    let (token, _) = mint(&access, &backend, scope("room-1", &[Verb::Send])).unwrap();
    let ann = now(&access, &token).unwrap();
    assert_eq!(refused(&ann, scope("room-1", &[Verb::Send])), RefusedKind::Forbidden);
}

#[test]
fn a_minted_token_ends_with_the_named_token_that_minted_it() {
    let (access, mut tokens, backend) = with_backend(Some(NOW_MS + 5_500));
    let (token, expires_ms) = mint(&access, &backend, scope("room-1", &[Verb::Send])).unwrap();
    assert_eq!(expires_ms, NOW_MS + 5_000, "it ends no later, in whole seconds");
    let at = |now_ms| access.identify_now(Listener::Api, token.as_bytes(), now_ms).unwrap();
    assert!(at(NOW_MS + 4_999).is_ok());
    assert_eq!(at(NOW_MS + 5_000).unwrap_err().kind, RefusedKind::Expired);
    let late = access.mint(
        &backend,
        scope("room-1", &[Verb::Send]),
        None,
        &Map::new(),
        MINUTE,
        NOW_MS + 5_200,
    );
    assert_eq!(late.unwrap_err().kind, RefusedKind::Expired);

    // Revoked, and created again with the same name: that is another token.
    let grants = tokens.tokens[0].grants.clone();
    assert!(tokens.revoke("backend") && !tokens.revoke("backend"));
    access.set_tokens(tokens.clone());
    assert_eq!(at(NOW_MS).unwrap_err().kind, RefusedKind::Unauthorized);
    tokens.create("backend", grants, "root", NOW_MS, None).unwrap();
    access.set_tokens(tokens);
    assert_eq!(at(NOW_MS).unwrap_err().kind, RefusedKind::Unauthorized);
}

#[test]
fn what_the_static_token_has_minted_ends_with_it() {
    let (access, ..) = with_backend(None);
    let root = now(&access, "root").unwrap();
    let (token, _) = mint(&access, &root, scope("lobby", &[Verb::Delete])).unwrap();
    assert!(now(&access, &token).is_ok());
    access.set_static(Listener::Api, Some(hash(b"another")));
    assert_eq!(now(&access, &token).unwrap_err().kind, RefusedKind::Unauthorized);
}

/// Operators choose words as tokens. With a plain hash of it in what browsers get, they could be guessed there.
#[test]
fn the_fingerprint_of_a_static_token_is_of_no_use_without_the_key() {
    let (access, ..) = with_backend(None);
    let own = access.fingerprint_of_static(Listener::Api).unwrap();
    assert_ne!(own, crate::minted::fingerprint(&hash(b"root")));
    let key = |key| MintingKey::new(&[key; 32], "cluster-1").unwrap().fingerprint(&hash(b"root"));
    assert_eq!(own, key(7), "on every node, and after a restart");
    assert_ne!(own, key(8));
    assert_eq!(access.fingerprint_of_static(Listener::Admin), None);
}

#[test]
fn what_anybody_has_minted_on_an_open_listener_ends_when_it_is_closed() {
    let access = Access::new(None, None, minting());
    let (token, _) = mint(&access, &access.anyone(), scope("a", &[Verb::Send])).unwrap();
    assert!(now(&access, &token).is_ok());
    access.set_static(Listener::Api, Some(hash(b"root")));
    assert_eq!(now(&access, &token).unwrap_err().kind, RefusedKind::Unauthorized);
}

#[test]
fn what_users_of_an_issuer_have_minted_ends_with_the_issuer() {
    let policy = "[[issuer]]\nname = 'accounts'\nissuer = 'a'\naudience = 'slotd'\njwks = 'https://example.com/'\n\
        [[rule]]\nwho = 'accounts:*'\nallow = ['mint', 'send']\non = 'chat'";
    let access = access(policy);
    let (token, _) = mint(&access, &someone("accounts:ann"), scope("a", &[Verb::Send])).unwrap();
    assert!(now(&access, &token).is_ok());
    access.set_policy(crate::Policy::default());
    assert_eq!(now(&access, &token).unwrap_err().kind, RefusedKind::Unauthorized);
}

/// Rights that were taken from a backend or a user would live on in what it has minted, for a day.
#[test]
fn a_minted_token_gives_what_its_minter_may_give_now() {
    let issuer = "[[issuer]]\nname = 'accounts'\nissuer = 'a'\naudience = 'slotd'\njwks = 'https://example.com/'\n\
        claims = ['org', 'role']\n";
    let staff = "[[rule]]\nwho = 'accounts:*'\nallow = ['mint', 'read', 'send']\non = 'chat/{org}'\nwhen.role = 'staff'\n";
    let access = access(&format!("{issuer}{staff}"));
    let ann = claiming("accounts:ann", json!({"org": "acme", "role": ["staff", "guest"]}));
    let claims = json!({"org": "acme"});
    let wanted = scope("acme", &[Verb::Send, Verb::Read]);
    let claims = claims.as_object().unwrap();
    let (token, _) = access.mint(&ann, wanted, None, claims, MINUTE, NOW_MS).unwrap();
    let has = |verb| now(&access, &token).map(|it| may(&access, &it, verb, "chat/acme"));
    assert_eq!((has(Verb::Send), has(Verb::Read)), (Ok(true), Ok(true)));

    let read_only = staff.replace(", 'send'", "");
    access.set_policy(parse(&format!("{issuer}{read_only}")));
    assert_eq!((has(Verb::Send), has(Verb::Read)), (Ok(false), Ok(true)));
    let shown = now(&access, &token).unwrap();
    let on = crate::On::Session("chat", "acme");
    let why = access.explain(Listener::Api, &shown, Verb::Send, on).because;
    assert!(why.contains("accounts:ann, who minted its token, may not give it any more"), "{why}");
    // More than it was minted for it never has.
    access.set_policy(parse(&format!("{issuer}{}", staff.replace("'send'", "'*'"))));
    assert_eq!((has(Verb::Send), has(Verb::Delete)), (Ok(true), Ok(false)));

    for lost in [
        staff.replace("'mint', ", ""),
        staff.replace("'staff'", "'chief'"),
        staff.replace("{org}", "other"),
        staff.replace("accounts:*", "accounts:bob"),
    ] {
        access.set_policy(parse(&format!("{issuer}{lost}")));
        assert_eq!(has(Verb::Read).unwrap_err().kind, RefusedKind::Unauthorized, "{lost}");
    }
}

#[test]
fn a_token_of_another_cluster_or_key_or_that_was_altered_is_refused() {
    let (access, tokens, backend) = with_backend(None);
    let (token, _) = mint(&access, &backend, scope("room-1", &[Verb::Send])).unwrap();
    for key in [
        MintingKey::new(&[7; 32], "cluster-2").unwrap(),
        MintingKey::new(&[8; 32], "cluster-1").unwrap(),
        MintingKey::derive(&[7; 32], "cluster-1").unwrap(),
    ] {
        let other = Access::new(Some(hash(b"root")), None, key);
        other.set_tokens(tokens.clone());
        assert_eq!(now(&other, &token).unwrap_err().kind, RefusedKind::Unauthorized);
    }
    let parts: Vec<&str> = token.split('.').collect();
    let payload = URL_SAFE_NO_PAD.decode(parts[1]).unwrap();
    let mut payload: Value = serde_json::from_slice(&payload).unwrap();
    payload["slotd"]["session"] = json!("room-2");
    let altered = format!("{}.{}.{}", parts[0], b64(payload.to_string()), parts[2]);
    assert_eq!(now(&access, &altered).unwrap_err().kind, RefusedKind::Unauthorized);
    let none = format!("{}.{}.", b64(r#"{"alg":"none"}"#), b64(payload.to_string()));
    assert_eq!(now(&access, &none).unwrap_err().kind, RefusedKind::Unauthorized);
    for byte in 0..token.len() {
        let mut altered = token.clone().into_bytes();
        altered[byte] = if altered[byte] == b'A' { b'B' } else { b'A' };
        let refused = access.identify_now(Listener::Api, &altered, NOW_MS).unwrap();
        assert!(refused.is_err(), "byte {byte}");
    }
}

#[test]
fn a_signed_token_with_a_fault_is_refused_all_the_same() {
    let (access, ..) = with_backend(None);
    let good = json!({
        "iss": "slotd", "aud": "cluster-1", "sub": "ann", "iat": NOW_MS / 1000, "exp": NOW_MS / 1000 + 60,
        "slotd": {"service": "chat", "session": "a", "verbs": ["send"], "by": "root", "of": null},
    });
    let signed = |payload: &Value| hmac(r#"{"alg":"HS256"}"#, &payload.to_string(), &[7; 32]);
    let reads = |payload: &Value| minting().read(signed(payload).as_bytes(), NOW_MS).map(drop);
    assert!(reads(&good).is_ok());
    for (path, value) in [
        ("/iss", json!("other")),
        ("/aud", json!("cluster-2")),
        ("/aud", json!(["other"])),
        ("/exp", json!(null)),
        ("/exp", json!("99999999999")),
        ("/exp", json!(-1)),
        ("/iat", json!(NOW_MS / 1000 + 3600)),
        ("/sub", json!("a\nb")),
        ("/slotd/verbs", json!(["fly"])),
        ("/slotd", json!({})),
    ] {
        let mut payload = good.clone();
        *payload.pointer_mut(path).unwrap() = value;
        assert_eq!(reads(&payload).unwrap_err().kind, RefusedKind::Unauthorized, "{payload}");
    }
    let mut payload = good;
    payload["exp"] = json!(NOW_MS / 1000);
    assert_eq!(reads(&payload).unwrap_err().kind, RefusedKind::Expired);
    assert_eq!(now(&access, &signed(&payload)).unwrap_err().kind, RefusedKind::Expired);
}

#[test]
fn what_is_out_of_bounds_is_not_minted() {
    let (access, _, backend) = with_backend(None);
    let wanted = || scope("room-1", &[Verb::Send]);
    let mint = |subject: Option<&str>, claims: Value, ttl: Duration| {
        access
            .mint(&backend, wanted(), subject, claims.as_object().unwrap(), ttl, NOW_MS)
            .map(|(token, _)| token)
    };
    assert!(mint(None, json!({}), Duration::from_secs(1)).is_ok());
    assert!(mint(None, json!({}), Duration::from_secs(86_400)).is_ok());
    for ttl in
        [Duration::ZERO, Duration::from_millis(999), Duration::from_secs(86_401), Duration::MAX]
    {
        assert_eq!(mint(None, json!({}), ttl).unwrap_err().kind, RefusedKind::Invalid, "{ttl:?}");
    }
    for subject in ["", "a\nb", "a\u{7f}", &"x".repeat(257)] {
        assert!(mint(Some(subject), json!({}), MINUTE).is_err(), "{subject}");
    }
    let many: Map<String, Value> = (0..33).map(|index| (format!("c{index}"), json!(1))).collect();
    let wrong = [
        json!({"a": {}}),
        json!({"a": null}),
        json!({"a": [1]}),
        json!({"": 1}),
        json!({"sub": "root"}),
        json!({"a": "x".repeat(4096)}),
        Value::Object(many),
    ];
    for claims in wrong {
        assert!(mint(None, claims.clone(), MINUTE).is_err(), "{claims}");
    }
    let most = mint(Some(&"x".repeat(256)), json!({"a": "x".repeat(4095)}), MINUTE).unwrap();
    assert!(now(&access, &most).is_ok(), "what was minted can be shown");
}

#[test]
fn the_key_of_a_cluster_follows_from_its_secret() {
    let make = |secret: &[u8]| Access::new(None, None, MintingKey::derive(secret, "c").unwrap());
    let (one, same, other) = (make(b"secret"), make(b"secret"), make(b"secret2"));
    let (token, _) = mint(&one, &one.anyone(), scope("a", &[Verb::Send])).unwrap();
    assert!(now(&same, &token).is_ok());
    assert!(now(&other, &token).is_err());
    assert!(MintingKey::derive(b"", "c").is_err());
    assert!(MintingKey::new(&[0; 32], "c").is_err());
    assert_ne!(MintingKey::random().unwrap(), MintingKey::random().unwrap());
}

/// Whoever may mint could otherwise speak as anybody, and say what he likes of himself.
#[test]
fn only_who_is_trusted_with_a_token_says_whom_a_session_token_is_for() {
    let rules = r#"
        [[issuer]]
        name = "accounts"
        issuer = "https://accounts.example"
        audience = "slotd"
        jwks = "https://accounts.example/jwks"
        claims = ["role"]
        [[rule]]
        who = ["accounts:*", "anyone"]
        allow = ["mint", "send"]
        on = "chat"
    "#;
    let (access, _, backend) = with_backend(None);
    access.set_policy(parse(rules));
    let mint = |by: &Identity, subject: Option<&str>, claims: Value| {
        let wanted = scope("room-1", &[Verb::Send]);
        let claims = claims.as_object().unwrap();
        let minted = access.mint(by, wanted, subject, claims, MINUTE, NOW_MS)?;
        now(&access, &minted.0)
    };
    assert_eq!(
        &*mint(&backend, Some("ceo"), json!({"role": "x"})).unwrap().subject.unwrap(),
        "ceo"
    );
    let ann = claiming("accounts:ann", json!({"role": "guest"}));
    for (subject, claims) in [(None, json!({})), (Some("ann"), json!({"role": "guest"}))] {
        assert_eq!(&*mint(&ann, subject, claims).unwrap().subject.unwrap(), "ann");
    }
    let anyone = someone("anyone");
    assert!(mint(&anyone, None, json!({})).unwrap().subject.is_none());
    for (by, subject, claims) in [
        (&ann, Some("ceo"), json!({})),
        (&ann, None, json!({"role": "admin"})),
        (&ann, None, json!({"other": "guest"})),
        (&anyone, Some("ann"), json!({})),
        (&anyone, None, json!({"role": "guest"})),
    ] {
        let refused = mint(by, subject, claims.clone()).unwrap_err();
        assert_eq!(refused.kind, RefusedKind::Forbidden, "{by} {subject:?} {claims}");
    }
}

/// A revocation, of all things, would let everybody in; now or after the next start.
#[test]
fn the_end_of_the_last_token_opens_the_listener_to_nobody() {
    let access = Access::new(None, None, minting());
    let mut tokens = Tokens::default();
    let grant = Grant { allow: vec!["send".into()], on: vec!["chat".into()], ..Grant::default() };
    tokens.create("backend", vec![grant], "anyone", NOW_MS, None).unwrap();
    assert!(tokens.revoke("backend"));
    let stored = serde_json::to_string(&tokens).unwrap();
    access.set_tokens(serde_json::from_str(&stored).unwrap());
    assert!(!access.is_open(Listener::Api) && access.is_open(Listener::Admin));
}
