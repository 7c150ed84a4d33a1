//! The conversation and its window: what version 1 did.

use super::*;
use proptest::prelude::*;
use slotd_guest::test;
use std::collections::BTreeSet;

fn append(session: &mut Session, content: &str, more: Value) -> Value {
    let mut message = json!({ "do": "append", "role": "user", "content": content, "tokens": 10 });
    message.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    send(session, message)
}

fn seen(session: &mut Session) -> Vec<String> {
    let window = query(session, json!({ "what": "window" }));
    contents(&window).into_iter().map(str::to_owned).collect()
}

/// What it is for: the newest that fit, and what must never go.
#[test]
fn the_system_prompt_the_pinned_and_the_newest_stay() {
    let mut session = conversation(45, json!({ "system": "Be brief.", "system_tokens": 10 }));
    append(&mut session, "my name is Ann", json!({ "pin": true }));
    append(&mut session, "one", json!({}));
    append(&mut session, "two", json!({}));
    let expected = json!({
        "id": 4,
        "tokens": 10,
        "messages": [
            { "role": "system", "content": "Be brief." },
            { "role": "user", "content": "my name is Ann" },
            { "role": "user", "content": "two" },
            { "role": "user", "content": "three" },
        ],
        "ids": [null, 1, 3, 4],
        "used": 40,
        "budget": 45,
    });
    assert_eq!(append(&mut session, "three", json!({})), expected);
    assert_eq!(last(&session, "left"), json!({ "first": 2, "last": 2, "count": 1 }));
}

/// The whole conversation stays, whatever the window has.
#[test]
fn what_left_the_window_can_be_read_and_comes_back() {
    let mut session = conversation(20, json!({}));
    for text in ["a", "b", "c", "d"] {
        append(&mut session, text, json!({}));
    }
    assert_eq!(seen(&mut session), ["c", "d"]);
    let all = query(&mut session, json!({ "what": "messages", "after": 1, "limit": 2 }));
    let all = all["messages"].as_array().unwrap().iter();
    let all: Vec<_> = all.map(|it| (it["id"].clone(), it["content"].clone())).collect();
    assert_eq!(all, [(json!(2), json!("b")), (json!(3), json!("c"))]);
    let wide = query(&mut session, json!({ "what": "window", "budget": 1000 }));
    assert_eq!(contents(&wide), ["a", "b", "c", "d"]);
    assert_eq!(seen(&mut session), ["c", "d"]);
    send(&mut session, json!({ "do": "pin", "id": 1 }));
    assert_eq!(seen(&mut session), ["a", "d"]);
    send(&mut session, json!({ "do": "unpin", "id": 1 }));
    assert_eq!(seen(&mut session), ["c", "d"]);
    send(&mut session, json!({ "do": "configure", "budget": 35 }));
    assert_eq!(seen(&mut session), ["b", "c", "d"]);
    send(&mut session, json!({ "do": "configure", "last": 1 }));
    assert_eq!(seen(&mut session), ["d"]);
    let stats = json!({
        "messages": 4, "tokens": 40, "pinned": 0, "budget": 35, "last": 1, "system_tokens": 0,
        "used": 10, "first": 4,
    });
    assert_eq!(query(&mut session, json!({ "what": "stats" })), stats);
    send(&mut session, json!({ "do": "configure", "last": null }));
    assert_eq!(seen(&mut session), ["b", "c", "d"]);
}

/// Most models refuse a tool's answer whose question they don't see.
#[test]
fn a_window_does_not_begin_with_a_tools_answer() {
    let mut session = conversation(30, json!({}));
    append(&mut session, "what is the weather?", json!({}));
    append(&mut session, "", json!({ "role": "assistant" }));
    append(&mut session, "sunny", json!({ "role": "tool" }));
    append(&mut session, "It is sunny.", json!({ "role": "assistant" }));
    append(&mut session, "thanks", json!({}));
    assert_eq!(seen(&mut session), ["It is sunny.", "thanks"]);
}

/// A message that can't be given to the model must be refused, not dropped in silence.
#[test]
fn what_can_not_fit_is_refused_and_changes_nothing() {
    let mut session = conversation(30, json!({}));
    append(&mut session, "pinned", json!({ "pin": true }));
    append(&mut session, "new", json!({}));
    let long = json!({ "do": "append", "role": "user", "content": "long", "tokens": 21 });
    assert_eq!(code(session.send("app", &long)), "over-budget");
    assert_eq!(
        code(session.send("app", &json!({ "do": "configure", "budget": 9 }))),
        "over-budget"
    );
    assert_eq!(code(session.query(&json!({ "what": "window", "budget": 5 }))), "over-budget");
    assert_eq!(code(session.send("app", &json!({ "do": "pin", "id": 7 }))), "no-message");
    for bad in [
        json!(null),
        json!([]),
        json!({}),
        json!({ "do": "x" }),
        json!({ "do": "append", "role": "me", "content": "" }),
        json!({ "do": "append", "role": "user", "content": "", "tokens": -1 }),
        json!({ "do": "pin", "id": 0 }),
        json!({ "do": "configure", "budget": 0 }),
        json!({ "do": "configure", "last": 0 }),
        json!({ "do": "configure", "system": "x".repeat(40_000) }),
    ] {
        assert_eq!(code(session.send("app", &bad)), "bad-message", "{bad}");
    }
    assert_eq!(code(session.query(&json!({ "what": "x" }))), "bad-query");
    assert_eq!(code(session.query(&json!({ "what": "messages", "limit": 101 }))), "bad-query");
    assert_eq!(seen(&mut session), ["pinned", "new"]);
    assert_eq!(session.seq(), 3);
}

/// Tokens that are said to be none must not make a window that no request can hold.
#[test]
fn a_window_fits_into_a_request() {
    let mut session = conversation(1_000, json!({}));
    for _ in 0..8 {
        append(&mut session, &"\u{1}".repeat(8_000), json!({ "tokens": 0 }));
    }
    let window = query(&mut session, json!({ "what": "window" }));
    let messages = window["messages"].as_array().unwrap().len();
    assert!((3..8).contains(&messages), "{messages}");
    assert!(window.to_string().len() < 200 * 1024);
}

/// What version 1.0.0 wrote, in TypeScript.
#[test]
fn a_conversation_of_version_1_goes_on() {
    let mut old = test::Session { seq: 3, ..test::Session::default() };
    for (key, value) in [
        ("config", r#"{"budget":25,"last":null,"system":"Be brief.","system_tokens":5}"#),
        ("window", r#"{"first":1,"next":3,"tokens":20,"bytes":203,"unpinned":1,"total":20}"#),
        ("message/000000000001", r#"{"id":1,"role":"user","content":"Ann","tokens":10,"at":1}"#),
        ("message/000000000002", r#"{"id":2,"role":"tool","content":"ok","tokens":10,"at":2}"#),
        ("pin/000000000001", r#"{"tokens":10,"bytes":102}"#),
    ] {
        old.state.insert(key.into(), value.into());
    }
    let mut session = Session::over(old);
    session.migrate("1.0.0").unwrap();
    assert_eq!(seen(&mut session), ["Be brief.", "Ann", "ok"]);
    append(&mut session, "next", json!({}));
    assert_eq!(seen(&mut session), ["Be brief.", "Ann", "next"]);
    send(&mut session, json!({ "do": "unpin", "id": 1 }));
    assert_eq!(query(&mut session, json!({ "what": "stats" }))["used"], 15);
    session.migrate("2.0.0").unwrap();
    assert!(session.migrate("3.0.0").is_err());
}

#[derive(Clone, Debug)]
enum Step {
    Append(bool, u64),
    Pin(u64),
    Unpin(u64),
    Configure(u64, Option<u64>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (any::<bool>(), 0..25_u64).prop_map(|(user, tokens)| Step::Append(user, tokens)),
        1 => (1..40_u64).prop_map(Step::Pin),
        1 => (1..40_u64).prop_map(Step::Unpin),
        1 => (40..120_u64, prop::option::of(1..7_u64))
            .prop_map(|(budget, last)| Step::Configure(budget, last)),
    ]
}

proptest! {
    /// The window is kept up step by step; here it is worked out from the whole each time.
    #[test]
    fn the_window_is_what_one_would_work_out(
        budget in 60..120_u64,
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut session = conversation(budget, json!({}));
        let (mut budget, mut last_max) = (budget, None::<u64>);
        let mut entries: Vec<(u64, u64)> = Vec::new();
        let mut pins = BTreeSet::new();
        for step in steps {
            let message = match &step {
                Step::Append(user, tokens) => {
                    let role = if *user { "user" } else { "assistant" };
                    json!({ "do": "append", "role": role, "content": "x", "tokens": tokens })
                }
                Step::Pin(id) => json!({ "do": "pin", "id": id }),
                Step::Unpin(id) => json!({ "do": "unpin", "id": id }),
                Step::Configure(budget, last) => {
                    json!({ "do": "configure", "budget": budget, "last": last })
                }
            };
            match session.send("app", &message) {
                Ok(_) => match step {
                    Step::Append(_, tokens) => entries.push((entries.len() as u64 + 1, tokens)),
                    Step::Pin(id) => drop(pins.insert(id)),
                    Step::Unpin(id) => drop(pins.remove(&id)),
                    Step::Configure(new, last) => (budget, last_max) = (new, last),
                },
                refused => {
                    let code = code(refused);
                    prop_assert!(code == "over-budget" || code == "no-message", "{}", code);
                }
            }
            let pinned = entries.iter().filter(|(id, _)| pins.contains(id));
            let mut expected: Vec<u64> = pinned.clone().map(|(id, _)| *id).collect();
            let mut used: u64 = pinned.map(|(_, tokens)| tokens).sum();
            let unpinned = entries.iter().rev().filter(|(id, _)| !pins.contains(id));
            for ((id, tokens), nth) in unpinned.zip(1..) {
                used += tokens;
                if used > budget || last_max.is_some_and(|last| nth > last) {
                    used -= tokens;
                    break;
                }
                expected.push(*id);
            }
            expected.sort_unstable();
            let window = query(&mut session, json!({ "what": "window" }));
            prop_assert_eq!(&window["ids"], &json!(expected));
            prop_assert_eq!(&window["used"], &json!(used));
        }
    }
}
