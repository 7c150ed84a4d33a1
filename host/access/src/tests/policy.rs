//! Policies, and what is wrong with them.

use super::{
    keys::{Key, jwks},
    parse,
};
use crate::{Origins, Policy, Sender, limits};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use proptest::prelude::*;
use std::{fs, path::Path};

fn faults(text: &str) -> Vec<String> {
    let faults = Policy::parse(text, Path::new("/nowhere")).expect_err(text);
    faults.iter().map(ToString::to_string).collect()
}

#[test]
fn an_empty_policy_says_nothing() {
    let policy = parse("");
    assert!(policy.keys().is_empty() && policy.files().is_empty());
    assert_eq!(*policy.service("chat"), crate::ServicePolicy::default());
    assert_eq!(policy.service("chat").sender, Sender::Client);
    assert!(!policy.service("chat").origins.allows("https://example.com"));
}

#[test]
fn a_service_has_its_own_table_or_that_of_all_others() {
    let policy = parse(
        "[service.chat]\nsender = 'subject'\norigins = ['https://app.example.com', 'http://localhost:8080']\n\
         credentials = true\ndeploy_keys = ['ci']\n[service.'*']\norigins = ['*']\n\
         [[key]]\nname = 'ci'\npublic = 'ed25519:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA='\n",
    );
    let chat = policy.service("chat");
    assert_eq!(chat.sender, Sender::Subject);
    assert!(chat.credentials);
    assert_eq!(chat.deploy_keys, ["ci"]);
    assert!(
        chat.origins.allows("https://app.example.com")
            && chat.origins.allows("http://localhost:8080")
    );
    for other in [
        "https://app.example.com:443",
        "http://app.example.com",
        "https://app.example.com.evil",
        "null",
        "",
    ] {
        assert!(!chat.origins.allows(other), "{other}");
    }
    assert_eq!(policy.service("carts").origins, Origins::Any);
    assert_eq!(policy.keys()[0].name, "ci");
}

/// Whoever adds a table for a page would lift the limits of a service; and one that is to have none could not say so.
#[test]
fn a_service_without_limits_of_its_own_has_those_of_all_others() {
    let policy = parse(
        "[service.chat.limits]\nmessages = '10/s'\n[service.chat.limits.subject]\nsockets = 2\n\
         [service.carts]\norigins = '*'\n[service.free.limits]\n[service.'*'.limits]\nmessages = '5/s'\n",
    );
    let all: Vec<_> = policy.limits().collect();
    let names: Vec<_> = all.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["chat", "free", "*"]);
    assert_eq!(all[0].1.messages.unwrap().to_string(), "10/s");
    assert_eq!(all[0].1.subject.as_ref().unwrap().sockets.unwrap().0, 2);
    assert!(all[1].1.messages.is_none());
    assert!(parse("").limits().next().is_none());
}

#[test]
fn wrong_limits_are_said_with_their_line() {
    let text = "[service.chat.limits]\nmessages = 'fast'\n\n[service.a.limits]\nspeed = 1\n\
                [service.b.limits]\nburst = '1s'\n[service.c]\nlimits = 5\n";
    let faults = faults(text);
    assert_eq!(faults.len(), 4, "{faults:?}");
    assert!(
        faults[0].starts_with("line 2: [service.chat]: limits: must be messages"),
        "{faults:?}"
    );
    assert!(faults[1].starts_with("line 5: [service.a]: limits: unknown field"), "{faults:?}");
    assert!(faults[2].contains("[service.b]: limits: burst needs"), "{faults:?}");
    assert!(faults[3].starts_with("line 9: [service.c]: `limits` is a table"), "{faults:?}");
}

#[test]
fn all_that_is_wrong_is_said_at_once_with_its_line() {
    let text = "\
[[issuer]]
name = 'token'
issuer = 'slotd'
jwks = 'http://example.com/keys'
algorithms = ['RS256', 'HS256', 'none']
skew = '6m'
claims = ['sub', 'role']
extra = 1

[[issuer]]
name = 'accounts'
issuer = 'https://accounts.example.com'
audience = 'slotd'

[[rule]]
who = ['accounts:*', 'users:*', 'root', 'session:a', 'ann', '*']
allow = ['send', 'fly']
on = ['chat/', 'a/{role}']
when = { role = ['a'], org = 'x' }

[[rule]]
who = 'token:a'
allow = 'deploy'
on = 'chat/a'

[[rule]]
wo = 'token:a'

[service.chat]
sender = 'nobody'
origins = ['https://app.example.com/', 'app', '*']
credentials = true
deploy_keys = 'ci'

[service.'a b']

[[key]]
name = 'x'
public = 'ed25519:AAAA'

[other]
";
    let expected = [
        "line 1: an issuer can't be named `token`: slotd's own identities are",
        "line 1: [[issuer]] token has no `audience`",
        "line 3: `issuer = \"slotd\"` is what slotd's own tokens have",
        "line 4: `jwks` is fetched, so it has to be a URL of https, or of http on a loopback address",
        "line 5: `HS256` can't be named; there are: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA",
        "line 5: `none` can't be named; there are: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA",
        "line 6: `skew` is a time up to 5m, such as 30s",
        "line 7: `sub` is no claim that can be named",
        "line 8: [[issuer]] token has no key `extra`; there are: algorithms, audience, ca_file, claims, \
         issuer, jwks, jwks_file, name, skew",
        "line 16: `users:*`: no [[issuer]] is named `users`",
        "line 16: `root`: `root` may do everything on its listener already",
        "line 16: `session:a`: a token for a session may do what it says, and rules do not change that",
        "line 16: `ann`: it is `anyone`, `token:NAME`, `ISSUER:SUBJECT` or `certificate:NAME`; \
         the part after the `:` may have `*`",
        "line 16: `*`: it is `anyone`, `token:NAME`, `ISSUER:SUBJECT` or `certificate:NAME`; \
         the part after the `:` may have `*`",
        "line 17: `fly` is not a verb; there are: *, admin-*, send, query, read, subscribe, notify, delete, \
         fork, mint, admin-read, deploy, operate",
        "line 18: the pattern `chat/` is wrong: a part of it is empty",
        "line 18: nobody in `who` has the claim `role`: an issuer's `claims` has to name it",
        "line 19: a claim of `when` is a text, a number, true or false",
        "line 19: nobody in `who` has the claim `org`: an issuer's `claims` has to name it",
        "line 21: admin verbs are on services, and every pattern of `on` names sessions",
        "line 26: [[rule]] has no `who`",
        "line 26: [[rule]] has no `allow`",
        "line 26: [[rule]] has no `on`",
        "line 27: [[rule]] has no key `wo`; there are: allow, on, when, who",
        "line 29: `credentials` with the origin `*` would let every page act as its visitor",
        "line 30: `sender` is client or subject",
        "line 31: `https://app.example.com/` is not an origin; https://app.example.com is",
        "line 31: `app` is not an origin, such as https://app.example.com, or *",
        "line 33: no [[key]] is named `ci`",
        "line 35: `a b` is no service: their names are 1 to 64 of a-z, 0-9, - and _, beginning with a letter \
         or a digit; they may have dots",
        "line 39: ",
        "line 41: the policy has no key `other`; there are: issuer, key, rule, service",
    ];
    let found = faults(text);
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\nexpected: {expected}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn what_is_no_toml_is_said_with_all_its_lines() {
    let found = faults("[[rule]\nwho = 'a'\nallow = = 1\n");
    assert!(found.len() >= 2, "{found:?}");
    assert!(
        found[0].starts_with("line 1: ") && found.last().unwrap().starts_with("line 3: "),
        "{found:?}"
    );
}

#[test]
fn values_of_the_wrong_type_are_faults() {
    for text in [
        "issuer = 1",
        "issuer = [1]",
        "rule = 'a'",
        "service = 1",
        "service.chat = 1",
        "[issuer]\nname = 'a'",
        "[[key]]\nname = 1",
        "[service.a]\ncredentials = 'yes'",
        "[service.a]\norigins = 1",
        "[[rule]]\nwho = [1]\nallow = 'send'\non = 'a'",
        "[[rule]]\nwho = 'anyone'\nallow = []\non = 'a'",
        "[[rule]]\nwho = 'anyone'\nallow = 'send'\non = 'a'\nwhen = 1",
    ] {
        assert!(!faults(text).is_empty(), "{text}");
    }
}

#[test]
fn names_are_taken_once() {
    let issuer =
        "[[issuer]]\nname = 'a'\nissuer = 'b'\naudience = 'c'\njwks = 'https://example.com/'\n";
    let found = faults(&format!("{issuer}{issuer}"));
    assert_eq!(
        found,
        ["line 7: the name `a` is taken", "line 8: another issuer has `issuer = \"b\"`, too"]
    );
    let key =
        "[[key]]\nname = 'a'\npublic = 'ed25519:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA='\n";
    assert_eq!(faults(&format!("{key}{key}")), ["line 5: the name `a` is taken"]);
}

#[test]
fn none_of_slotds_own_identities_can_be_an_issuer() {
    for name in ["token", "session", "root", "certificate", "anyone"] {
        let text = format!(
            "[[issuer]]\nname = '{name}'\nissuer = 'b'\naudience = 'c'\njwks = 'https://a.example/'"
        );
        assert_eq!(faults(&text).len(), 1, "{name}");
    }
}

#[test]
fn keys_are_fetched_by_https_or_from_this_machine() {
    let with = |url: &str| {
        let text = format!("[[issuer]]\nname = 'a'\nissuer = 'b'\naudience = 'c'\njwks = '{url}'");
        Policy::parse(&text, Path::new("/")).is_ok()
    };
    for url in [
        "https://example.com/k",
        "http://127.0.0.1:1/k",
        "http://localhost/k",
        "http://[::1]:2/k",
        "http://127.9.9.9/",
    ] {
        assert!(with(url), "{url}");
    }
    for url in [
        "http://example.com/k",
        "http://10.0.0.1/k",
        "http://localhost.example.com/",
        "file:///etc/passwd",
        "ftp://localhost/",
        "https://user:secret@example.com/",
        "https://",
        "keys.json",
        "",
    ] {
        assert!(!with(url), "{url}");
    }
    // Without `jwks`, the issuer says where.
    let discovered = |issuer: &str| {
        let text = format!("[[issuer]]\nname = 'a'\nissuer = '{issuer}'\naudience = 'c'");
        Policy::parse(&text, Path::new("/")).is_ok()
    };
    assert!(discovered("https://example.com") && discovered("https://example.com/tenant/"));
    assert!(!discovered("http://example.com") && !discovered("example"));
}

#[test]
fn files_that_it_names_are_read_and_listed() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    let key = Key::ed("k");
    write("keys.json", jwks([&key]).to_string().as_bytes());
    write("empty.json", br#"{"keys": [{"kty": "oct", "k": "AAAA"}]}"#);
    write("large.json", &vec![b' '; limits::KEYS_BYTES_MAX + 1]);
    let der = [
        &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00][..],
        &key.public(),
    ]
    .concat();
    let pem =
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der));
    write("ci.pub.pem", pem.as_bytes());
    let issuer =
        |rest: &str| format!("[[issuer]]\nname = 'a'\nissuer = 'b'\naudience = 'c'\n{rest}\n");
    let read = |text: &str| Policy::parse(text, folder.path());

    let text = issuer("jwks_file = 'keys.json'") + "[[key]]\nname = 'ci'\nfile = 'ci.pub.pem'";
    let policy = read(&text).unwrap();
    assert_eq!(policy.keys()[0].name, "ci");
    assert_eq!(policy.files(), [folder.path().join("keys.json"), folder.path().join("ci.pub.pem")]);

    for (rest, expected) in [
        ("jwks_file = 'none.json'", "No such file"),
        ("jwks_file = 'ci.pub.pem'", "not a JWKS"),
        ("jwks_file = 'empty.json'", "no key that checks signatures"),
        ("jwks_file = 'large.json'", "more than 262144 bytes"),
        ("jwks_file = 'keys.json'\njwks = 'https://a.example/'", "only one of them"),
        ("jwks_file = 'keys.json'\nca_file = 'ci.pub.pem'", "for keys that are fetched"),
        ("jwks = 'https://a.example/'\nca_file = 'keys.json'", "no certificate"),
    ] {
        let faults = read(&issuer(rest)).unwrap_err();
        assert!(faults.iter().any(|fault| fault.what.contains(expected)), "{rest}: {faults:?}");
    }
    let wrong = read("[[key]]\nname = 'ci'\nfile = 'keys.json'").unwrap_err();
    assert_eq!(wrong.len(), 1, "{wrong:?}");
}

#[test]
fn what_is_too_much_is_refused() {
    let rule = "[[rule]]\nwho = 'anyone'\nallow = 'read'\non = 'a'\n";
    assert!(Policy::parse(&rule.repeat(limits::RULES_MAX), Path::new("/")).is_ok());
    assert!(faults(&rule.repeat(limits::RULES_MAX + 1))[0].contains("more than 1000"));
    assert!(faults(&" ".repeat(limits::POLICY_BYTES_MAX + 1))[0].contains("longer"));
    assert_eq!(faults(&"[[rule]]\n".repeat(200)).len(), limits::FAULTS_MAX);
    let nested = format!("when = {}1{}", "[".repeat(5000), "]".repeat(5000));
    assert!(!faults(&nested).is_empty());
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in any::<String>()) {
        let _ = Policy::parse(&text, Path::new("/nowhere"));
    }

    /// Pieces of policies in any order get farther than any text does.
    #[test]
    fn no_mixture_of_what_policies_have_makes_the_parser_panic(
        lines in prop::collection::vec(prop::sample::select(vec![
            "[[issuer]]", "[[rule]]", "[[key]]", "[service.a]", "[service.'*']", "name = 'a'", "issuer = 'x'",
            "issuer = 'https://example.com'", "audience = ['b']", "jwks_file = 'none'", "who = ['anyone', 'a:*', ':']",
            "who = 1", "allow = '*'", "allow = ['send', 1]", "on = ['{sub}/*', '{x', 'a']", "on = '*'",
            "when = { a = 1, b = 1.5, c = true, d = 1979-05-27 }", "when.x = inf", "public = 'ed25519:'",
            "sender = 'subject'", "origins = ['https://é.example', 'x:']", "credentials = true", "skew = '99999999999999999999d'",
            "skew = 'é'", "claims = ['']", "a.b.c = 1", "= ", "'", "]]", "\u{feff}", "\r",
        ]), 0..20),
    ) {
        let _ = Policy::parse(&lines.join("\n"), Path::new("/nowhere"));
    }
}
