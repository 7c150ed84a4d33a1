//! The examples of the documentation.

use crate::{Policy, limits};
use std::fs;

const ACCESS: &str = include_str!("../../../../docs/access.md");

/// The blocks of this language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let begin = format!("```{language}\n");
    text.split(&begin).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

#[test]
fn each_policy_of_the_documentation_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let key = super::keys::Key::ed("k");
    fs::write(folder.path().join("keys.json"), super::keys::jwks([&key]).to_string()).unwrap();
    let policies = blocks(ACCESS, "toml");
    assert!(policies.len() >= 4, "recipes and a reference");
    for text in policies {
        let policy = Policy::parse(text, folder.path());
        assert!(policy.is_ok(), "{policy:?}\n{text}");
    }
}

#[test]
fn the_documentation_has_the_limits_of_the_crate() {
    for (limit, said) in [
        (limits::RULES_MAX == 1_000, "1,000 rules"),
        (limits::TOKENS_MAX == 1_000, "1,000 named tokens"),
        (limits::BEARER_BYTES_MAX == 8 * 1024, "8 KiB"),
        (limits::SUBJECT_BYTES_MAX == 256, "256 bytes"),
        (limits::CLAIMS_MAX == 32 && limits::CLAIMS_BYTES_MAX == 4096, "32 claims"),
        (limits::ISSUERS_MAX == 32, "32 issuers"),
    ] {
        assert!(limit && ACCESS.contains(said), "{said}");
    }
}
