//! JWTs of issuers: each fault has its line.

use super::{
    NOW, NOW_MS,
    keys::{Key, b64, hmac, jwks},
    minting,
};
use crate::{Access, Identity, Listener, Policy, Refused, RefusedKind, Verb};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::LazyLock;

/// An issuer with keys of all kinds in a file.
struct Issuer {
    access: Access,
    rsa: Key,
    p256: Key,
    p384: Key,
    ed: Key,
    /// Its `alg` is RS256.
    only_rs256: Key,
    /// Its `use` is enc.
    encrypts: Key,
    stranger: Key,
}

const SECRET: &[u8] = b"a secret that everybody can read";

static ISSUER: LazyLock<Issuer> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let (rsa, p256, p384, ed) =
        (Key::rsa("rsa"), Key::p256("p256"), Key::p384("p384"), Key::ed("ed"));
    let (only_rs256, encrypts) = (Key::other_rsa("only-rs256"), Key::p256("encrypts"));
    let mut set = jwks([&rsa, &p256, &p384, &ed, &only_rs256, &encrypts]);
    let keys = set["keys"].as_array_mut().unwrap();
    keys[4]["alg"] = json!("RS256");
    keys[5]["use"] = json!("enc");
    keys.push(json!({"kty": "oct", "kid": "oct", "k": b64(SECRET)}));
    keys.push(json!({"kty": "future", "kid": "future"}));
    keys.push(json!("no key"));
    std::fs::write(folder.path().join("keys.json"), set.to_string()).unwrap();
    let policy = "[[issuer]]\nname = 'accounts'\nissuer = 'https://accounts.example.com'\n\
        audience = ['slotd', 'other']\njwks_file = 'keys.json'\nskew = '30s'\nclaims = ['role', 'groups', 'level', 'deep']\n\
        algorithms = ['RS256', 'PS256', 'ES256', 'ES384', 'EdDSA']\n";
    let access = Access::new(Some([1; 32]), None, minting());
    access.set_policy(Policy::parse(policy, folder.path()).unwrap());
    Issuer { access, rsa, p256, p384, ed, only_rs256, encrypts, stranger: Key::p256("p256") }
});

fn claims() -> Value {
    json!({"iss": "https://accounts.example.com", "aud": "slotd", "sub": "alice", "exp": NOW + 60})
}

/// With another value of a claim; `None`: without it.
fn but(claim: &str, value: impl Into<Option<Value>>) -> Value {
    let mut claims = claims();
    match value.into() {
        Some(value) => claims[claim] = value,
        None => drop(claims.as_object_mut().unwrap().remove(claim)),
    }
    claims
}

fn identify(token: impl AsRef<[u8]>) -> Result<Identity, Refused> {
    ISSUER
        .access
        .identify_now(Listener::Api, token.as_ref(), NOW_MS)
        .expect("the keys are in a file")
}

#[test]
fn a_token_of_each_algorithm_is_who_it_says() {
    let issuer = &*ISSUER;
    for key in [&issuer.rsa, &issuer.p256, &issuer.p384, &issuer.ed, &issuer.only_rs256] {
        let alice = identify(key.token(&claims())).unwrap();
        assert_eq!(alice.to_string(), "accounts:alice", "{}", key.id);
        assert_eq!(alice.expires_ms, Some((NOW + 60 + 30) * 1000), "with the issuer's skew");
    }
    let pss = issuer.rsa.raw(r#"{"alg":"PS256","kid":"rsa"}"#, &claims().to_string());
    assert!(identify(pss).is_ok());
}

#[test]
fn what_else_a_token_may_have() {
    let p256 = &ISSUER.p256;
    for (why, claims) in [
        ("one of several audiences", but("aud", json!(["x", "slotd"]))),
        ("another audience of the policy", but("aud", json!("other"))),
        ("a fraction of a second", but("exp", json!(NOW as f64 + 0.5))),
        ("it ended within the skew", but("exp", json!(NOW - 29))),
        ("it begins within the skew", but("nbf", json!(NOW + 30))),
        ("it was issued within the skew", but("iat", json!(NOW + 30))),
        ("claims that nobody asks for", but("email", json!({"a": [1]}))),
        ("claims of a type that is not taken", but("role", json!({"a": 1}))),
        ("a subject with what is special elsewhere", but("sub", json!("*/{sub}:é"))),
    ] {
        assert!(identify(p256.token(&claims)).is_ok(), "{why}");
    }
    // Without the name of a key, those that fit are tried.
    assert!(identify(p256.raw(r#"{"alg":"ES256"}"#, &claims().to_string())).is_ok());
    assert!(identify(ISSUER.only_rs256.raw(r#"{"alg":"RS256"}"#, &claims().to_string())).is_ok());
    let typed = p256
        .raw(r#"{"alg":"ES256","kid":"p256","typ":"at+jwt","x":{"y":1}}"#, &claims().to_string());
    assert!(identify(typed).is_ok());
}

#[test]
fn claims_that_the_policy_names_are_taken_and_no_others() {
    let mut claims = claims();
    for (name, value) in [
        ("role", json!("staff")),
        ("groups", json!(["a", "b"])),
        ("level", json!(3)),
        ("deep", json!({})),
    ] {
        claims[name] = value;
    }
    claims["email"] = json!("a@example.com");
    let alice = identify(ISSUER.ed.token(&claims)).unwrap();
    let taken: Vec<_> =
        alice.claims.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(taken, ["groups=a,b", "level=3", "role=staff"]);
}

#[test]
fn a_token_with_a_fault_is_refused() {
    let issuer = &*ISSUER;
    let (rsa, p256, text) = (&issuer.rsa, &issuer.p256, claims().to_string());
    let es = |claims: Value| p256.token(&claims);
    let es_raw = |header: &str| p256.raw(header, &text);
    let hs = |secret: &[u8], kid: &str| {
        hmac(&format!(r#"{{"alg":"HS256","kid":"{kid}"}}"#), &text, secret)
    };
    let good = es(claims());
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let payload = signed.split_once('.').unwrap().1;
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n", b64(rsa.public()));
    let twice = text.replacen('{', r#"{"sub":"root","#, 1);
    let twice_role = text.replacen('{', r#"{"role":"a","role":"b","#, 1);
    let deep = format!(r#"{{"role":{}{},{}"#, "[".repeat(2000), "]".repeat(2000), &text[1..]);
    let unsigned = |header: &str| format!("{}.{payload}.", b64(header));
    let stranger_jwk = json!({"alg": "ES256", "jwk": issuer.stranger.jwk()}).to_string();
    let unauthorized = RefusedKind::Unauthorized;
    let table: Vec<(&str, String, &str)> = vec![
        // Algorithms.
        ("alg none", unsigned(r#"{"alg":"none"}"#), "header"),
        ("alg None", unsigned(r#"{"alg":"None","kid":"p256"}"#), "header"),
        (
            "alg none with a signature",
            format!("{}.{payload}.{signature}", b64(r#"{"alg":"none"}"#)),
            "header",
        ),
        ("no alg", es_raw(r#"{"kid":"p256"}"#), "header"),
        ("alg twice", es_raw(r#"{"alg":"ES256","alg":"HS256","kid":"p256"}"#), "header"),
        ("alg that is not text", es_raw(r#"{"alg":["ES256"],"kid":"p256"}"#), "header"),
        ("HS256 with the public key of RSA", hs(&rsa.public(), "rsa"), "does not sign with HS256"),
        ("HS256 with the public key as PEM", hs(pem.as_bytes(), "rsa"), "does not sign with HS256"),
        (
            "HS256 with the public key of P-256",
            hs(&p256.public(), "p256"),
            "does not sign with HS256",
        ),
        ("HS256 with a symmetric key of the JWKS", hs(SECRET, "oct"), "does not sign with HS256"),
        ("HS256 with nothing", hs(b"", "p256"), "does not sign with HS256"),
        (
            "an algorithm that the policy does not have",
            rsa.raw(r#"{"alg":"RS512","kid":"rsa"}"#, &text),
            "does not sign with RS512",
        ),
        (
            "another algorithm than the key's kind",
            es_raw(r#"{"alg":"RS256","kid":"p256"}"#),
            "does not have",
        ),
        (
            "the key of another curve",
            p256.raw(r#"{"alg":"ES256","kid":"p384"}"#, &text),
            "does not have",
        ),
        (
            "another algorithm than the key's alg",
            issuer.only_rs256.raw(r#"{"alg":"PS256","kid":"only-rs256"}"#, &text),
            "does not have",
        ),
        ("a key for encryption", issuer.encrypts.token(&claims()), "does not have"),
        // Headers.
        ("an unknown kid", es_raw(r#"{"alg":"ES256","kid":"unknown"}"#), "does not have"),
        (
            "a huge kid",
            es_raw(&format!(r#"{{"alg":"ES256","kid":"{}"}}"#, "k".repeat(5000))),
            "does not have",
        ),
        ("a kid that is not text", es_raw(r#"{"alg":"ES256","kid":7}"#), "header"),
        ("crit", es_raw(r#"{"alg":"ES256","kid":"p256","crit":["exp"],"exp":1}"#), "crit"),
        ("crit that is empty", es_raw(r#"{"alg":"ES256","kid":"p256","crit":[]}"#), "crit"),
        (
            "crit of b64",
            es_raw(r#"{"alg":"ES256","kid":"p256","crit":["b64"],"b64":true}"#),
            "crit",
        ),
        ("b64 false", es_raw(r#"{"alg":"ES256","kid":"p256","b64":false}"#), "signature"),
        ("its own key in jwk", issuer.stranger.raw(&stranger_jwk, &text), "does not have"),
        (
            "its own keys in jku",
            issuer
                .stranger
                .raw(r#"{"alg":"ES256","kid":"p256","jku":"https://evil.example/"}"#, &text),
            "signature",
        ),
        ("a header that is no object", p256.raw("[]", &text), "header"),
        // Signatures.
        ("a stranger's key of the same kid", issuer.stranger.token(&claims()), "signature"),
        ("no signature", format!("{signed}."), "signature"),
        ("half a signature", format!("{signed}.{}", &signature[..40]), "signature"),
        ("a signature of zeros", format!("{signed}.{}", b64([0; 64])), "signature"),
        (
            "a signature of another payload",
            format!(
                "{}.{}.{signature}",
                signed.split_once('.').unwrap().0,
                b64(but("sub", json!("root")).to_string())
            ),
            "signature",
        ),
        (
            "a signature as DER",
            format!("{signed}.{}", b64([0x30, 0x06, 2, 1, 1, 2, 1, 1])),
            "signature",
        ),
        // Claims.
        ("a claim twice", p256.raw(r#"{"alg":"ES256","kid":"p256"}"#, &twice), "duplicates"),
        (
            "a claim of the policy twice",
            p256.raw(r#"{"alg":"ES256","kid":"p256"}"#, &twice_role),
            "duplicates",
        ),
        ("no exp", es(but("exp", None)), "has no `exp`"),
        ("exp in a string", es(but("exp", json!((NOW + 60).to_string()))), "`exp` is not a time"),
        ("exp null", es(but("exp", Value::Null)), "`exp` is not a time"),
        ("exp huge", es(but("exp", json!(1e300))), "`exp` is not a time"),
        ("exp u64::MAX", es(but("exp", json!(u64::MAX))), "`exp` is not a time"),
        ("exp negative", es(but("exp", json!(-1))), "`exp` is not a time"),
        ("exp true", es(but("exp", json!(true))), "`exp` is not a time"),
        ("exp in milliseconds", es(but("exp", json!(NOW_MS * 1000))), "`exp` is not a time"),
        ("nbf later", es(but("nbf", json!(NOW + 31))), "`nbf`"),
        ("nbf in a string", es(but("nbf", json!("0"))), "`nbf` is not a time"),
        ("nbf huge", es(but("nbf", json!(1e300))), "`nbf` is not a time"),
        ("iat later", es(but("iat", json!(NOW + 31))), "`iat`"),
        ("iat in a string", es(but("iat", json!("0"))), "`iat` is not a time"),
        ("no aud", es(but("aud", None)), "another audience"),
        ("another aud", es(but("aud", json!("Slotd"))), "another audience"),
        ("other auds", es(but("aud", json!(["x", "y"]))), "another audience"),
        ("an empty list of auds", es(but("aud", json!([]))), "another audience"),
        ("aud in a deeper list", es(but("aud", json!([["slotd"]]))), "`aud` is not"),
        ("aud beside what is no text", es(but("aud", json!(["slotd", 1]))), "`aud` is not"),
        ("aud a number", es(but("aud", json!(1))), "`aud` is not"),
        ("no iss", es(but("iss", None)), "not one that is valid here"),
        (
            "iss with a slash more",
            es(but("iss", json!("https://accounts.example.com/"))),
            "not one that is valid here",
        ),
        (
            "iss in capitals",
            es(but("iss", json!("https://ACCOUNTS.example.com"))),
            "not one that is valid here",
        ),
        (
            "iss in a list",
            es(but("iss", json!(["https://accounts.example.com"]))),
            "not one that is valid here",
        ),
        ("no sub", es(but("sub", None)), "`sub`"),
        ("sub empty", es(but("sub", json!(""))), "`sub`"),
        ("sub a number", es(but("sub", json!(7))), "`sub`"),
        ("sub with a control character", es(but("sub", json!("a\nb"))), "`sub`"),
        ("sub too long", es(but("sub", json!("x".repeat(257)))), "`sub`"),
        ("claims too large", es(but("role", json!("x".repeat(4097)))), "4096"),
        ("claims that are deep", p256.raw(r#"{"alg":"ES256","kid":"p256"}"#, &deep), "duplicates"),
        (
            "claims that are a list",
            p256.raw(r#"{"alg":"ES256","kid":"p256"}"#, "[]"),
            "not one that is valid here",
        ),
        (
            "claims that are no JSON",
            p256.raw(r#"{"alg":"ES256","kid":"p256"}"#, "{\"iss\":"),
            "not one that is valid here",
        ),
        // Forms.
        ("nothing", String::new(), "not one that is valid here"),
        ("dots", "..".into(), "not one that is valid here"),
        ("two parts", signed.into(), "not one that is valid here"),
        ("four parts", format!("{good}.x"), "not one that is valid here"),
        ("five parts, as of JWE", format!("{good}.x.y"), "not one that is valid here"),
        ("base64 with padding", format!("{signed}=.{signature}"), "not one that is valid here"),
        ("a space behind it", format!("{good} "), "signature"),
        ("a token of 100 KB", es(but("x", json!("x".repeat(100_000)))), "more than 8192 bytes"),
    ];
    assert!(identify(&good).is_ok());
    for (fault, token, detail) in table {
        let refused = identify(&token).expect_err(fault);
        assert_eq!(refused.kind, unauthorized, "{fault}");
        assert!(refused.detail.contains(detail), "{fault}: {}", refused.detail);
        for part in token.split('.').filter(|part| part.len() > 8) {
            assert!(!refused.detail.contains(part), "{fault}: a part of the token is shown");
        }
        assert!(refused.detail.len() < 300, "{fault}");
    }
    for (fault, claims) in
        [("ended", but("exp", json!(NOW - 30))), ("ended long ago", but("exp", json!(0)))]
    {
        assert_eq!(identify(es(claims)).unwrap_err().kind, RefusedKind::Expired, "{fault}");
    }
}

#[test]
fn a_token_is_not_seen_in_what_is_printed() {
    let identity = identify(ISSUER.ed.token(&claims())).unwrap();
    let printed = format!("{identity:?} {:?}", ISSUER.access);
    assert!(!printed.contains("eyJ"), "{printed}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[a-zA-Z0-9_.-]{0,200}") {
        prop_assert!(identify(&bytes).is_err());
        prop_assert!(identify(&text).is_err());
    }

    #[test]
    fn a_token_with_another_byte_is_refused(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut token = ISSUER.p256.token(&claims()).into_bytes();
        let at = at.index(token.len());
        prop_assume!(token[at] != byte);
        token[at] = byte;
        prop_assert!(identify(&token).is_err());
    }

    #[test]
    fn any_claims_that_are_signed_make_no_panic(name in "(exp|nbf|iat|aud|sub|role|groups)", value in "[-0-9eE.\"\\[\\]{}a-z:,]{0,12}") {
        let claims = claims().to_string().replacen('{', &format!("{{\"{name}\":{value},"), 1);
        let _ = identify(ISSUER.p256.raw(r#"{"alg":"ES256","kid":"p256"}"#, &claims));
    }
}

/// An issuer with its keys in a file, and more in its table.
fn accounts(key: &Key, more: &str) -> Access {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("keys.json"), jwks([key]).to_string()).unwrap();
    let issuer = "[[issuer]]\nname = 'accounts'\nissuer = 'https://accounts.example.com'\n\
        audience = 'slotd'\njwks_file = 'keys.json'\n";
    let policy = Policy::parse(&format!("{issuer}{more}"), folder.path());
    let access = Access::new(Some([1; 32]), None, minting());
    access.set_policy(policy.unwrap_or_else(|faults| panic!("{faults:?}")));
    access
}

/// Keycloak has roles within other claims, and names of others are URLs with dots.
#[test]
fn a_claim_within_others_is_named_by_the_way_to_it() {
    let key = Key::ed("ed");
    let access = accounts(
        &key,
        "claims = ['realm_access.roles', 'https://a.example/org', 'a.b.c']\n\
         [[rule]]\nwho = 'accounts:*'\nallow = 'send'\non = 'chat/{https://a.example/org}'\nwhen.realm_access.roles = 'staff'\n\
         [[rule]]\nwho = 'accounts:*'\nallow = 'read'\non = 'chat'\nwhen = { 'a.b.c' = 1 }",
    );
    let may = |more: &[(&str, Value)]| {
        let mut claims = claims();
        for (name, value) in more {
            claims[*name] = value.clone();
        }
        let token = key.token(&claims);
        let who = access.identify_now(Listener::Api, token.as_bytes(), NOW_MS).unwrap().unwrap();
        [Verb::Send, Verb::Read].map(|verb| super::may(&access, &who, verb, "chat/acme"))
    };
    let org = ("https://a.example/org", json!("acme"));
    let roles = |roles: Value| ("realm_access", json!({ "roles": roles }));
    assert_eq!(may(&[roles(json!(["guest", "staff"])), org.clone()]), [true, false]);
    assert_eq!(may(&[roles(json!(["guest"])), org.clone()]), [false, false]);
    assert_eq!(may(&[("realm_access", json!(["staff"])), org]), [false, false]);
    assert_eq!(may(&[("a", json!({"b": {"c": 1}}))]), [false, true]);
    assert_eq!(may(&[("a", json!({"b": 1}))]), [false, false]);
}

/// Subjects of some issuers are numbers that nobody can write a rule for.
#[test]
fn the_subject_is_the_claim_that_the_issuer_says() {
    let key = Key::ed("ed");
    let access = accounts(&key, "subject = 'email'");
    let who = |email: Value, verified: Option<Value>| {
        let mut claims = but("email", email);
        if let Some(verified) = verified {
            claims["email_verified"] = verified;
        }
        access.identify_now(Listener::Api, key.token(&claims).as_bytes(), NOW_MS).unwrap()
    };
    for verified in [None, Some(json!(true))] {
        let ann = who(json!("ann@example.com"), verified).unwrap();
        assert_eq!(ann.to_string(), "accounts:ann@example.com");
    }
    for verified in [json!(false), json!("true")] {
        let refused = who(json!("ann@example.com"), Some(verified)).unwrap_err();
        assert!(refused.detail.contains("not verified"), "{refused}");
    }
    for email in [json!(1), json!(["a"]), json!(""), json!(null)] {
        let refused = who(email, None).unwrap_err();
        assert!(refused.detail.contains("no `email` of 1 to"), "{refused}");
    }
    let nested = accounts(&key, "subject = 'user.name'");
    let token = key.token(&but("user", json!({"name": "ann"})));
    let ann = nested.identify_now(Listener::Api, token.as_bytes(), NOW_MS).unwrap().unwrap();
    assert_eq!(ann.subject.as_deref(), Some("ann"));
}

/// With "not valid" alone an operator looks for hours for a slash at the end of `iss`.
#[tokio::test]
async fn an_operator_is_told_what_a_token_has_and_what_would_be_taken() {
    let key = Key::ed("ed");
    let access = accounts(&key, "");
    let why = async |token: &str| {
        let refused = access.identify_aloud(Listener::Api, token.as_bytes(), NOW_MS).await;
        refused.unwrap_err().detail
    };
    for (token, wanted) in [
        (
            key.token(&but("iss", json!("https://accounts.example.com/"))),
            "it has `iss` \"https://accounts.example.com/\", `aud` \"slotd\", `alg` EdDSA, `kid` \"ed\"; the policy \
             has the issuers: https://accounts.example.com",
        ),
        (key.token(&but("aud", json!(["a", "b"]))), "takes the audiences slotd"),
        (Key::p384("x").token(&claims()), "the algorithms RS256, ES256, EdDSA"),
        (Key::ed("other").token(&claims()), "`kid` \"other\"; the issuer accounts"),
        (Key::ed("other").token(&claims()), "its keys are: ed"),
        ("nothing".to_owned(), "the token is not one that is valid here"),
    ] {
        let why = why(&token).await;
        assert!(why.contains(wanted), "{why}");
    }
    let long = why(&key.token(&but("iss", json!("x".repeat(2000))))).await;
    assert!(long.len() < 600, "{long}");
    assert!(
        access.identify_aloud(Listener::Api, key.token(&claims()).as_bytes(), NOW_MS).await.is_ok()
    );
}
