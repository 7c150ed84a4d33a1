//! Named tokens.

use super::{NOW_MS, minting, now};
use crate::{Access, Grant, Listener, RefusedKind, Secret, TokenError, Tokens, hash, limits};
use serde_json::json;

fn grant() -> Vec<Grant> {
    vec![Grant { allow: vec!["send".into()], on: vec!["chat".into()], ..Grant::default() }]
}

#[test]
fn a_secret_is_random_and_is_not_shown_by_debug() {
    let (one, other) = (Secret::generate().unwrap(), Secret::generate().unwrap());
    assert_ne!(one.text(), other.text());
    assert_eq!(one.text().len(), "slotd_".len() + 43);
    assert_eq!(hash(one.text().as_bytes()), one.hash());
    assert!(!format!("{one:?}").contains(&one.text()[6..]));
}

#[test]
fn a_token_is_stored_as_its_hash_and_what_a_later_version_adds_is_kept() {
    let mut tokens = Tokens::default();
    let secret = tokens.create("backend", grant(), "root", NOW_MS, Some(NOW_MS + 1)).unwrap();
    let mut stored = serde_json::to_value(&tokens).unwrap();
    let text = stored.to_string();
    assert!(!text.contains(&secret.text()[6..]));
    assert_eq!(stored["tokens"][0]["hash"].as_str().unwrap().len(), 64);
    stored["later"] = json!(1);
    stored["tokens"][0]["later"] = json!({"a": [1]});
    stored["tokens"][0]["grants"][0]["later"] = json!("x");
    let read: Tokens = serde_json::from_value(stored.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), stored);
    assert_eq!(read.tokens[0].hash, secret.hash());
}

/// What the first version stores. Later ones have to read it.
#[test]
fn what_the_first_version_has_stored_can_be_read() {
    let stored = format!(
        r#"{{"tokens":[{{"name":"a","hash":"{}","created_ms":1,"expires_ms":2,
        "grants":[{{"allow":["send"],"on":["chat"]}}],"by":"root"}},
        {{"name":"b","hash":"{}","created_ms":1,"grants":[],"by":"root"}}]}}"#,
        "0a".repeat(32),
        "FF".repeat(32),
    );
    let tokens: Tokens = serde_json::from_str(&stored).unwrap();
    assert_eq!(tokens.tokens[0].hash, [10; 32]);
    assert_eq!((tokens.tokens[0].expires_ms, tokens.tokens[1].expires_ms), (Some(2), None));
    assert_eq!(tokens.tokens[1].hash, [255; 32]);
    for hash in ["", "0a", &"zz".repeat(32), &"é".repeat(32), &"0a".repeat(33)] {
        let stored = json!({"tokens": [{"name": "a", "hash": hash, "created_ms": 1}]});
        assert!(serde_json::from_value::<Tokens>(stored).is_err(), "{hash}");
    }
}

#[test]
fn a_token_of_a_later_version_has_the_rights_that_this_one_knows() {
    let mut tokens = Tokens::default();
    let secret = tokens.create("a", grant(), "root", NOW_MS, None).unwrap();
    tokens.tokens[0].grants[0].allow.push("teleport".into());
    tokens.tokens[0].grants[0].on.push("a/{".into());
    let access = Access::new(None, None, minting());
    access.set_tokens(tokens);
    let identity = now(&access, secret.text()).unwrap();
    assert!(super::may(&access, &identity, crate::Verb::Send, "chat/x"));
    assert!(!super::may(&access, &identity, crate::Verb::Read, "chat/x"));
}

#[test]
fn a_token_with_a_fault_is_not_created() {
    let mut tokens = Tokens::default();
    tokens.create("taken", grant(), "root", NOW_MS, None).unwrap();
    let with = |allow: &[&str], on: &[&str]| {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        vec![Grant { allow: owned(allow), on: owned(on), ..Grant::default() }]
    };
    let mut create =
        |name: &str, grants: Vec<Grant>| tokens.create(name, grants, "root", NOW_MS, None).err();
    for name in ["", "A", "a b", "-a", "a:b", "ä", &"a".repeat(65)] {
        assert_eq!(create(name, grant()), Some(TokenError::Name), "{name}");
    }
    assert_eq!(create("taken", grant()), Some(TokenError::Exists));
    assert_eq!(create("a", Vec::new()), Some(TokenError::Grants));
    assert_eq!(create("a", with(&[], &["chat"])), Some(TokenError::Empty));
    assert_eq!(create("a", with(&["send"], &[])), Some(TokenError::Empty));
    assert_eq!(create("a", with(&["fly"], &["a"])), Some(TokenError::Verb { given: "fly".into() }));
    assert!(matches!(create("a", with(&["send"], &["a/"])), Some(TokenError::Pattern(..))));
    assert!(matches!(create("a", with(&["send"], &["a/{role}"])), Some(TokenError::Pattern(..))));
    assert_eq!(create("a", with(&["deploy"], &["a/b"])), Some(TokenError::AdminOnSession));
    assert_eq!(tokens.tokens.len(), 1);
}

#[test]
fn there_are_no_more_than_a_thousand_tokens() {
    let mut tokens = Tokens::default();
    for index in 0..limits::TOKENS_MAX {
        tokens.create(&format!("t{index}"), grant(), "root", NOW_MS, None).unwrap();
    }
    let one_more = tokens.create("more", grant(), "root", NOW_MS, None);
    assert_eq!(one_more.unwrap_err(), TokenError::TooMany);
}

#[test]
fn a_named_token_ends_when_it_says() {
    let mut tokens = Tokens::default();
    let secret = tokens.create("a", grant(), "root", NOW_MS - 10, Some(NOW_MS + 1)).unwrap();
    let access = Access::new(None, None, minting());
    access.set_tokens(tokens);
    let at = |now_ms| access.identify_now(Listener::Api, secret.text().as_bytes(), now_ms).unwrap();
    assert_eq!(at(NOW_MS).unwrap().expires_ms, Some(NOW_MS + 1));
    assert_eq!(at(NOW_MS + 1).unwrap_err().kind, RefusedKind::Expired);
}
