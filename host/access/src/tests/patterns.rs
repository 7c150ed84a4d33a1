//! What patterns cover.

use super::{claiming, someone};
use crate::{Identity, On, pattern::Pattern};
use proptest::prelude::*;
use serde_json::json;

fn covers(pattern: &str, on: &str, identity: &Identity) -> bool {
    Pattern::parse(pattern).unwrap().covers(On::from_text(on), identity)
}

#[test]
fn a_pattern_covers_what_it_says() {
    let ann = claiming(
        "accounts:ann",
        json!({"org": "acme", "level": 3, "groups": ["a", "b"], "empty": ""}),
    );
    let covered = [
        ("chat/room-1", "chat/room-1"),
        ("chat/room-*", "chat/room-"),
        ("chat/*-1", "chat/a-b-1"),
        ("chat/*a*b", "chat/aab"),
        ("chat/*", "chat/any/thing"),
        ("chat", "chat/room-1"),
        ("chat", "chat"),
        ("chat", "chat/*"),
        ("*/room", "chat/room"),
        ("c*t", "chat/x"),
        ("agent/{sub}-*", "agent/ann-1"),
        ("{org}/{sub}", "acme/ann"),
        ("{org}", "acme"),
        ("*", "*"),
        ("*/*", "*"),
        ("**", "*"),
        ("chat/room-*", "chat/room-*"),
        ("chat/room-*", "chat/room-1*"),
        ("chat/*room-*", "chat/room-1*"),
    ];
    for (pattern, on) in covered {
        assert!(covers(pattern, on, &ann), "{pattern} covers {on}");
    }
    let not_covered = [
        ("chat/room-1", "chat/room-12"),
        ("chat/room-*", "chat/xroom-1"),
        ("chat/room-*", "chat/room*"),
        ("chat/room-*", "chat/*"),
        ("chat/room-*", "chat"),
        ("chat/room-1", "chat/room-1*"),
        ("chat/*-1", "chat/a-1*"),
        // A `*` stays on its side of the `/`.
        ("ch*m", "chat/room"),
        ("c*/x", "c/y/x"),
        ("chat", "chatter/x"),
        ("chat", "*"),
        ("*/room", "*"),
        ("agent/{sub}-*", "agent/bob-1"),
        ("agent/{sub}-*", "agent/{sub}-1"),
        // A claim that is not text, or that is absent or empty, matches nothing.
        ("chat/{level}", "chat/3"),
        ("chat/{groups}", "chat/a,b"),
        ("chat/{other}*", "chat/x"),
        ("chat/{empty}*", "chat/x"),
        ("chat/{empty}*", "chat/"),
    ];
    for (pattern, on) in not_covered {
        assert!(!covers(pattern, on, &ann), "{pattern} does not cover {on}");
    }
}

#[test]
fn a_wildcard_in_a_subject_or_a_claim_is_no_wildcard() {
    for subject in ["*", "a*", "{role}", "*/*"] {
        let identity = claiming(&format!("accounts:{subject}"), json!({"role": "*"}));
        assert!(!covers("agent/{sub}", "agent/other", &identity));
        assert!(!covers("agent/{sub}", "agent/*", &identity), "a prefix of {subject}");
        assert!(!covers("agent/x-{role}", "agent/x-y", &identity));
        assert!(
            Pattern::parse("agent/{sub}").unwrap().covers(On::Session("agent", subject), &identity)
        );
        assert!(!covers("{role}", "chat", &identity));
        assert!(!covers("{role}", "*", &identity));
    }
}

#[test]
fn who_has_no_subject_matches_no_pattern_with_one() {
    assert!(!covers("agent/{sub}*", "agent/x", &someone("anyone")));
}

#[test]
fn what_is_no_pattern_is_refused() {
    for pattern in
        ["", "/", "chat/", "/x", "a{", "a}", "{a", "a/{", "a/}{", "{}", "a/{b{c}", &"x".repeat(513)]
    {
        assert!(Pattern::parse(pattern).is_err(), "{pattern}");
    }
    for pattern in ["*", "a/b/c", "{sub}", "{https://example.com/role}/x", "a/**", "ä/ö"] {
        assert!(Pattern::parse(pattern).is_ok(), "{pattern}");
    }
}

/// A pattern's part by definition: each `*` is tried with every length.
fn reference(pattern: &[String], text: &str) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((first, rest)) if first == "*" => (0..=text.len())
            .any(|taken| text.get(taken..).is_some_and(|text| reference(rest, text))),
        Some((first, rest)) => {
            text.strip_prefix(first.as_str()).is_some_and(|text| reference(rest, text))
        }
    }
}

/// All texts of these letters with at most so many.
fn texts(letters: &[&str], max: usize) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut last = all.clone();
    for _ in 0..max {
        last = last
            .iter()
            .flat_map(|text| letters.iter().map(move |it| format!("{text}{it}")))
            .collect();
        all.extend(last.clone());
    }
    all
}

proptest! {
    #[test]
    fn a_pattern_matches_as_if_each_length_were_tried(
        pieces in prop::collection::vec(prop::sample::select(vec!["x", "y", "*", "xy", "ä"]), 1..7),
        text in "[xyä]{0,8}",
    ) {
        let pattern = format!("s/{}", pieces.concat());
        let pieces: Vec<String> = pieces.into_iter().map(str::to_owned).collect();
        let matches = Pattern::parse(&pattern).unwrap().covers(On::Session("s", &text), &someone("accounts:a"));
        prop_assert_eq!(matches, reference(&pieces, &text));
    }

    /// The letter `z` is in no pattern, as there always is a character that is in none.
    #[test]
    fn a_prefix_is_covered_exactly_if_all_ids_with_it_are(
        pieces in prop::collection::vec(prop::sample::select(vec!["x", "y", "*"]), 1..5),
        prefix in "[xy]{0,3}",
    ) {
        let identity = someone("accounts:a");
        let pattern = Pattern::parse(&format!("s/{}", pieces.concat())).unwrap();
        let all = texts(&["x", "y", "z"], 5).into_iter();
        let covered = all.map(|rest| format!("{prefix}{rest}"))
            .all(|id| pattern.covers(On::Session("s", &id), &identity));
        prop_assert_eq!(pattern.covers(On::Prefix("s", &prefix), &identity), covered);
    }

    #[test]
    fn a_claim_never_covers_more_than_its_text(
        before in "[x*]{0,2}", after in "[x*]{0,2}", subject in "[x*{}]{1,4}", id in "[xy*{}]{0,7}",
    ) {
        let pattern = Pattern::parse(&format!("s/{before}{{sub}}{after}")).unwrap();
        let mut pieces: Vec<String> = before.chars().map(String::from).collect();
        let identity = someone(&format!("accounts:{subject}"));
        // What `*` would be is the reference's wildcard, so the subject is given as one that it is not.
        let literal = |text: &str| text.replace('*', "#");
        pieces.push(literal(&subject));
        pieces.extend(after.chars().map(String::from));
        let matches = pattern.covers(On::Session("s", &id), &identity);
        prop_assert_eq!(matches, reference(&pieces, &literal(&id)));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in any::<String>(), id in any::<String>()) {
        if let Ok(pattern) = Pattern::parse(&text) {
            pattern.covers(On::Session("s", &id), &someone("accounts:a"));
            pattern.covers(On::from_text(&id), &someone("anyone"));
            prop_assert_eq!(pattern.to_string(), text);
        }
    }
}
