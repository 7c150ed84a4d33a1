//! Who may do what.

use super::{NOW_MS, access, claiming, may, minting, now, someone};
use crate::{
    Access, Grant, Identity, Listener, On, Policy, RefusedKind, Tokens, Verb, hash, limits,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::Path;

const ISSUER: &str = "[[issuer]]\nname = 'accounts'\nissuer = 'a'\naudience = 'slotd'\n\
    jwks = 'https://example.com/'\nclaims = ['role']\n";

fn grant(allow: &[&str], on: &[&str]) -> Grant {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    Grant { allow: owned(allow), on: owned(on), ..Grant::default() }
}

fn tokens(grants: &[(&str, Grant)]) -> Tokens {
    let mut tokens = Tokens::default();
    for (name, grant) in grants {
        tokens.create(name, vec![grant.clone()], "root", NOW_MS, None).unwrap();
    }
    tokens
}

#[test]
fn a_listener_is_open_until_something_is_said_of_it() {
    let access = Access::new(None, None, minting());
    let anyone = access.anyone();
    assert!(access.is_open(Listener::Api) && access.is_open(Listener::Admin));
    assert!(may(&access, &anyone, Verb::Send, "chat/a"));
    assert!(may(&access, &anyone, Verb::Operate, "*"));

    // A rule of the API closes the API, and does not lock anybody out of the admin listener.
    access.set_policy(super::parse("[[rule]]\nwho = 'token:a'\nallow = 'send'\non = 'chat'"));
    assert!(!access.is_open(Listener::Api) && access.is_open(Listener::Admin));
    let refused = access.allows(Listener::Api, &anyone, Verb::Send, On::Session("chat", "a"));
    assert_eq!(refused.unwrap_err().kind, RefusedKind::Unauthorized);
    assert!(may(&access, &anyone, Verb::Operate, "*"));

    access.set_policy(Policy::default());
    access.set_tokens(tokens(&[("ops", grant(&["admin-read"], &["*"]))]));
    assert!(access.is_open(Listener::Api) && !access.is_open(Listener::Admin));

    access.set_tokens(Tokens::default());
    access.set_static(Listener::Admin, Some(hash(b"secret")));
    assert!(access.is_open(Listener::Api) && !access.is_open(Listener::Admin));
}

#[test]
fn a_token_that_has_expired_does_not_open_its_listener() {
    let access = Access::new(None, None, minting());
    let mut tokens = Tokens::default();
    let grants = vec![grant(&["send"], &["chat"])];
    tokens.create("backend", grants, "root", NOW_MS - 2, Some(NOW_MS - 1)).unwrap();
    access.set_tokens(tokens);
    assert!(!access.is_open(Listener::Api));
    assert!(!may(&access, &access.anyone(), Verb::Send, "chat/a"));
}

#[test]
fn the_static_token_may_do_everything_on_its_listener_and_nothing_on_the_other() {
    let access = Access::new(Some(hash(b"api")), Some(hash(b"admin")), minting());
    let root = access.identify_now(Listener::Api, b"api", NOW_MS).unwrap().unwrap();
    assert_eq!(root.to_string(), "root");
    assert!(access.allows(Listener::Api, &root, Verb::Delete, On::Session("a", "b")).is_ok());
    assert!(access.allows(Listener::Api, &root, Verb::Deploy, On::Service("a")).is_err());
    let refused = access.identify_now(Listener::Admin, b"api", NOW_MS).unwrap();
    assert_eq!(refused.unwrap_err().kind, RefusedKind::Unauthorized);
    assert!(access.identify_now(Listener::Admin, b"admin", NOW_MS).unwrap().is_ok());
}

#[test]
fn a_certificate_may_do_everything_until_a_rule_has_an_admin_verb() {
    let access = Access::new(None, Some(hash(b"admin")), minting());
    let ops = access.certificate("ops").unwrap();
    assert_eq!(ops.to_string(), "certificate:ops");
    assert!(may(&access, &ops, Verb::Operate, "*"));
    assert!(!may(&access, &someone("token:ops"), Verb::Operate, "*"));
    access.set_policy(super::parse(
        "[[rule]]\nwho = 'certificate:ops'\nallow = 'admin-read'\non = '*'",
    ));
    assert!(may(&access, &ops, Verb::AdminRead, "*"));
    assert!(!may(&access, &ops, Verb::Operate, "*"));
    assert!(!may(&access, &access.certificate("other").unwrap(), Verb::AdminRead, "*"));
    for name in ["", "a\nb", &"x".repeat(limits::SUBJECT_BYTES_MAX + 1)] {
        assert!(access.certificate(name).is_err());
    }
}

#[test]
fn a_named_token_has_its_grants_and_the_rules_for_it() {
    let access = access("[[rule]]\nwho = 'token:back*'\nallow = 'query'\non = 'chat'");
    let mut tokens = Tokens::default();
    let grants = vec![grant(&["send", "read"], &["chat/room-*", "agent/{sub}"])];
    let secret = tokens.create("backend", grants, "root", NOW_MS, None).unwrap();
    access.set_tokens(tokens.clone());
    let backend = now(&access, secret.text()).unwrap();
    assert_eq!(backend.to_string(), "token:backend");
    assert!(may(&access, &backend, Verb::Send, "chat/room-1"));
    assert!(may(&access, &backend, Verb::Read, "agent/backend"));
    assert!(may(&access, &backend, Verb::Query, "chat/any"));
    assert!(!may(&access, &backend, Verb::Send, "chat/other"));
    assert!(!may(&access, &backend, Verb::Delete, "chat/room-1"));

    // Revoked: at once, also for whoever still holds the identity.
    tokens.revoke("backend");
    access.set_tokens(tokens);
    assert_eq!(now(&access, secret.text()).unwrap_err().kind, RefusedKind::Unauthorized);
    assert!(!may(&access, &backend, Verb::Send, "chat/room-1"));
}

#[test]
fn a_rule_for_anyone_is_for_those_who_show_something_too() {
    let access = access(&format!("{ISSUER}[[rule]]\nwho = 'anyone'\nallow = 'read'\non = 'news'"));
    access.set_tokens(tokens(&[("a", grant(&["query"], &["chat"]))]));
    for identity in [someone("anyone"), someone("accounts:ann"), someone("token:a")] {
        assert!(may(&access, &identity, Verb::Read, "news/today"), "{identity}");
        assert!(!may(&access, &identity, Verb::Send, "news/today"), "{identity}");
    }
}

#[test]
fn a_list_claim_has_to_contain_what_when_asks_for_and_a_text_to_be_it() {
    let rule = "[[rule]]\nwho = 'accounts:*'\nallow = 'read'\non = '*'\nwhen = { role = 'staff' }";
    let access = access(&format!("{ISSUER}{rule}"));
    let has = |role: Value| {
        may(&access, &claiming("accounts:a", json!({ "role": role })), Verb::Read, "a/b")
    };
    assert!(has(json!("staff")));
    assert!(has(json!(["guest", "staff"])));
    // As handlers see it, these are alike.
    assert!(!has(json!("guest,staff")));
    assert!(!has(json!(["guest,staff"])));
    assert!(!has(json!(["Staff"])));
    assert!(!has(json!(true)));
    assert!(!may(&access, &someone("accounts:a"), Verb::Read, "a/b"));
}

#[test]
fn numbers_and_booleans_of_when_are_compared_as_such() {
    for (wanted, is, matches) in [
        ("3", json!(3), true),
        ("3", json!(3.0), true),
        ("3", json!("3"), false),
        ("0x10", json!(16), true),
        ("1.5", json!(1.5), true),
        ("true", json!(true), true),
        ("true", json!("true"), false),
        ("9007199254740993", json!(9_007_199_254_740_992_u64), false),
    ] {
        let rule =
            format!("[[rule]]\nwho = 'accounts:*'\nallow = 'read'\non = '*'\nwhen.role = {wanted}");
        let access = access(&format!("{ISSUER}{rule}"));
        let identity = claiming("accounts:a", json!({ "role": is }));
        assert_eq!(may(&access, &identity, Verb::Read, "a/b"), matches, "{wanted} and {is}");
    }
}

#[test]
fn the_epoch_goes_up_with_each_change() {
    let access = Access::new(None, None, minting());
    let before = access.epoch();
    access.set_policy(Policy::default());
    access.set_tokens(Tokens::default());
    access.set_static(Listener::Api, Some(hash(b"api")));
    assert_eq!(access.epoch(), before + 3);
}

#[test]
fn an_explanation_has_each_rule_and_why_it_does_not_match() {
    let access = access(&format!(
        "{ISSUER}[[rule]]\nwho = 'token:a'\nallow = 'send'\non = 'chat'\n\
         [[rule]]\nwho = 'accounts:*'\nallow = ['send']\non = 'agent/{{sub}}-*'\nwhen.role = 'staff'\n"
    ));
    let ann = claiming("accounts:ann", json!({"role": "guest"}));
    let no = access.explain(Listener::Api, &ann, Verb::Send, On::Session("agent", "ann-1"));
    assert_eq!(
        no.to_string(),
        "accounts:ann may not send on agent/ann-1: no grant or rule allows it\n  \
         no   rule at line 7: token:a may send on chat: it is for others\n  \
         no   rule at line 11: accounts:* may send on agent/{sub}-* when role = staff: \
         the claim `role` is not as `when` has it"
    );
    let staff = claiming("accounts:ann", json!({"role": "staff"}));
    let yes = access.explain(Listener::Api, &staff, Verb::Send, On::Session("agent", "ann-1"));
    assert!(yes.allowed);
    assert_eq!(
        yes.because,
        "rule at line 11: accounts:* may send on agent/{sub}-* when role = staff"
    );
    let other = access.explain(Listener::Api, &staff, Verb::Send, On::Session("agent", "bob-1"));
    assert_eq!(other.rules[1].why.as_deref(), Some("no pattern of `on` covers it"));
    let json = serde_json::to_value(&no).unwrap();
    assert_eq!(json["allowed"], json!(false));
    assert_eq!(json["rules"][1]["line"], json!(11));
}

/// A rule as it is written, and as the reference reads it.
#[derive(Clone, Debug)]
struct Written {
    who: Vec<&'static str>,
    allow: Vec<&'static str>,
    on: Vec<(&'static str, Option<Vec<&'static str>>)>,
    when: Option<&'static str>,
}

impl Written {
    fn text(&self) -> String {
        let on: Vec<String> = self
            .on
            .iter()
            .map(|(service, session)| match session {
                Some(session) => format!("{service}/{}", session.concat()),
                None => (*service).to_owned(),
            })
            .collect();
        let when =
            self.when.map(|role| format!("when = {{ role = '{role}' }}\n")).unwrap_or_default();
        format!("[[rule]]\nwho = {:?}\nallow = {:?}\non = {on:?}\n{when}", self.who, self.allow)
    }

    /// By definition, without anything of the crate.
    fn allows(&self, asked: &Asked) -> bool {
        let is_who = self.who.iter().any(|who| match *who {
            "anyone" => true,
            "accounts:*" => asked.kind == "accounts",
            "token:*" => asked.kind == "token",
            who => format!("{}:{}", asked.kind, asked.subject) == who,
        });
        let is_verb = self.allow.iter().any(|allow| match *allow {
            "*" => !asked.verb.is_admin(),
            "admin-*" => asked.verb.is_admin(),
            verb => verb == asked.verb.to_string(),
        });
        let is_so = match (&self.when, &asked.role) {
            (None, _) => true,
            (Some(wanted), Value::String(role)) => role == wanted,
            (Some(wanted), Value::Array(roles)) => roles.iter().any(|role| role == wanted),
            (Some(_), _) => false,
        };
        let is_on = self.on.iter().any(|(service, session)| {
            let part = |pieces: &[&str], text: &str| {
                let mut literal = Vec::new();
                for piece in pieces {
                    literal.push(match *piece {
                        "{sub}" if asked.kind == "anyone" => return false,
                        "{sub}" => (asked.subject.to_owned(), true),
                        "{role}" => match &asked.role {
                            Value::String(role) => (role.clone(), true),
                            _ => return false,
                        },
                        piece => (piece.to_owned(), piece != "*"),
                    });
                }
                matches(&literal, text)
            };
            part(&[service], asked.service)
                && session.as_ref().is_none_or(|session| part(session, &asked.session))
        });
        is_who && is_verb && is_so && is_on
    }
}

/// Pieces, and whether they are literal.
fn matches(pieces: &[(String, bool)], text: &str) -> bool {
    match pieces.split_first() {
        None => text.is_empty(),
        Some(((_, false), rest)) => (0..=text.len()).any(|taken| matches(rest, &text[taken..])),
        Some(((piece, true), rest)) => {
            text.strip_prefix(piece.as_str()).is_some_and(|text| matches(rest, text))
        }
    }
}

#[derive(Clone, Debug)]
struct Asked {
    kind: &'static str,
    subject: &'static str,
    role: Value,
    verb: Verb,
    service: &'static str,
    session: String,
}

fn written() -> impl Strategy<Value = Written> {
    use prop::{collection::vec, option, sample::select};
    let who = vec(select(vec!["anyone", "accounts:*", "accounts:x", "token:*", "token:y"]), 1..3);
    let allow = vec(select(vec!["*", "admin-*", "send", "read", "deploy"]), 1..3);
    let session = vec(select(vec!["x", "y", "*", "{sub}", "{role}"]), 1..4);
    let on = vec((select(vec!["a", "b", "*", "{sub}"]), option::of(session)), 1..3);
    let when = option::of(select(vec!["x", "*", "y"]));
    (who, allow, on, when).prop_map(|(mut who, allow, mut on, when)| {
        // A rule that nobody can meet is refused when it is parsed.
        who.push("accounts:y");
        on.push(("c", None));
        Written { who, allow, on, when }
    })
}

fn asked() -> impl Strategy<Value = Asked> {
    use prop::sample::select;
    let role =
        select(vec![json!("x"), json!("*"), json!("y"), json!(["x", "y"]), json!(1), Value::Null]);
    (
        select(vec!["anyone", "accounts", "token"]),
        select(vec!["x", "y", "*", "xy"]),
        role,
        select(vec![Verb::Send, Verb::Read, Verb::Delete]),
        select(vec!["a", "b", "x", "*"]),
        "[xy*]{1,4}",
    )
        .prop_map(|(kind, subject, role, verb, service, session)| {
            let subject = if kind == "anyone" { "" } else { subject };
            let role = if kind == "accounts" { role } else { Value::Null };
            Asked { kind, subject, role, verb, service, session }
        })
}

proptest! {
    #[test]
    fn a_decision_is_what_its_rules_say_one_by_one(
        rules in prop::collection::vec(written(), 1..4),
        asked in prop::collection::vec(asked(), 1..20),
    ) {
        let text: String = rules.iter().map(Written::text).collect();
        let policy = Policy::parse(&format!("{ISSUER}{text}"), Path::new("/"));
        let policy = policy.map_err(|faults| TestCaseError::fail(format!("{faults:?}\n{text}")))?;
        // Closed, whatever the rules have.
        let access = Access::new(Some(hash(b"root")), None, minting());
        access.set_policy(policy);
        // With a grant that is never asked for. Names with a `*` can't be created, so that they are stored as such.
        let mut stored = tokens(&[("x", grant(&["fork"], &["none"])), ("y", grant(&["fork"], &["none"]))]);
        for name in ["*", "xy"] {
            let mut token = stored.tokens[0].clone();
            (token.name, token.hash) = (name.into(), hash(name.as_bytes()));
            stored.tokens.push(token);
        }
        access.set_tokens(stored);
        for asked in &asked {
            let claims = if asked.role.is_null() { json!({}) } else { json!({"role": asked.role}) };
            let name = match asked.kind {
                "anyone" => "anyone".to_owned(),
                kind => format!("{kind}:{}", asked.subject),
            };
            let identity = Identity::from_text(&name, claims.as_object().unwrap()).unwrap();
            let on = On::Session(asked.service, &asked.session);
            let allowed = access.allows(Listener::Api, &identity, asked.verb, on).is_ok();
            let expected = rules.iter().any(|rule| rule.allows(asked));
            prop_assert_eq!(allowed, expected, "{:?} by\n{}", asked, text);
            let explained = access.explain(Listener::Api, &identity, asked.verb, on);
            prop_assert_eq!(explained.allowed, expected);
            prop_assert_eq!(explained.rules.iter().any(|rule| rule.matches), expected);
        }
    }
}

#[test]
fn a_token_that_nobody_knows_is_as_nothing_on_an_open_listener_and_refused_on_a_closed_one() {
    let access = Access::new(None, Some(hash(b"admin")), minting());
    let shown = access.identify_now(Listener::Api, b"of somebody else", NOW_MS).unwrap();
    assert_eq!(shown.unwrap().to_string(), "anyone");
    let shown = access.identify_now(Listener::Admin, b"of somebody else", NOW_MS).unwrap();
    assert_eq!(shown.unwrap_err().kind, RefusedKind::Unauthorized);
}

#[test]
fn a_token_that_is_not_there_has_no_rights_whatever_rules_say() {
    let access = access("[[rule]]\nwho = 'token:*'\nallow = 'read'\non = 'chat'");
    let gone = someone("token:gone");
    let refused = access.allows(Listener::Api, &gone, Verb::Read, On::Session("chat", "a"));
    assert_eq!(refused.unwrap_err().kind, RefusedKind::Unauthorized);
    let explained = access.explain(Listener::Api, &gone, Verb::Read, On::Session("chat", "a"));
    assert_eq!(
        (explained.allowed, explained.because.as_str()),
        (false, "there is no token of this name any more")
    );
}
