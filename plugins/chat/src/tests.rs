use crate::{
    Kind, Line, Message, Query, TEXT_BYTES_MAX, V1, V2, WINDOW,
    query::Answer,
    room::{LineEvent, Said},
};
use proptest::prelude::*;
use slotd_guest::{
    RawHandler, Value, json,
    test::{Harness, Session},
    types::Types,
};

/// Clients would be written for what the room was.
#[test]
fn clients_are_told_what_the_room_takes_and_gives() {
    Types::new()
        .message::<Message>()
        .reply::<Said>()
        .query::<Query>()
        .answer::<Answer>()
        .event::<LineEvent>("line")
        .check("types.json");
}

fn say(from: &str, text: &str) -> Value {
    json!({"kind": "say", "from": from, "text": text})
}

fn ask<H: RawHandler>(room: &mut Harness<H>, query: Value) -> Value {
    room.query(&query).unwrap().parse().unwrap()
}

fn numbers(answer: &Value) -> Vec<u64> {
    let lines = answer["lines"].as_array().unwrap();
    lines.iter().map(|line| line["n"].as_u64().unwrap()).collect()
}

/// Lines as real archives have them, with fields of their own, must go in and come out whole.
#[test]
fn takes_real_lines() {
    let mut room = Harness::<V1>::new();
    for (i, line) in [
        r##"{"session":"u","line":0,"time":"12:18","kind":"say","from":"|trey|","text":"usual  :)"}"##,
        r##"{"session":"u","line":1,"time":null,"kind":"system","from":null,"text":"=== X has left #u []"}"##,
        r##"{"session":"u","line":2,"time":"12:20","kind":"action","from":"s3[mn] rain","text":"waves"}"##,
    ]
    .iter()
    .enumerate()
    {
        let reply = room.send_bytes("replayer", "application/json", *line).unwrap();
        assert_eq!(reply.parse::<Value>().unwrap(), json!({"n": i + 1}));
    }
    let event: Value = room.events()[0].parse().unwrap();
    assert_eq!(
        event,
        json!({"n": 1, "kind": "say", "from": "|trey|", "text": "usual  :)",
               "at_ms": room.session().time_ms,
               "extra": {"session": "u", "line": 0, "time": "12:18"}})
    );
    assert!(room.events().iter().all(|e| e.kind == "line"));
    let who = ask(&mut room, json!({"query": "who"}));
    assert_eq!((who["total"].as_u64(), who["people"].as_array().unwrap().len()), (Some(2), 2));
}

/// The counts are what a person checks a replay against.
#[test]
fn counts_people_and_lines() {
    let mut room = Harness::<V1>::new();
    room.send(None, &say("bob", "hi")).unwrap();
    room.send("ann", &json!({"kind": "say", "text": "hi"})).unwrap();
    room.send(None, &json!({"kind": "action", "from": "ann", "text": "waves"})).unwrap();
    room.send("bob", &json!({"kind": "topic", "text": "greetings"})).unwrap();
    room.send("bot", &json!({"kind": "system", "text": "maintenance"})).unwrap();
    let top = ask(&mut room, json!({"query": "top", "limit": 1}));
    assert_eq!(
        (&top["total"], &top["people"][0]["nick"], &top["people"][0]["action"]),
        (&json!(2), &json!("ann"), &json!(1))
    );
    let topic = ask(&mut room, json!({"query": "topic"}));
    assert_eq!(
        (&topic["topic"]["text"], &topic["topic"]["by"]),
        (&json!("greetings"), &json!("bob"))
    );
    assert_eq!(
        ask(&mut room, json!({"query": "stats"})),
        json!({"lines": 5, "say": 2, "action": 1, "system": 1, "topic": 1, "people": 2,
               "window": WINDOW})
    );
    let rest = ask(&mut room, json!({"query": "who", "after": "ann"}));
    assert_eq!(rest["people"][0]["nick"], "bob");
}

/// A refused line must leave the room as it was, and say what is wrong.
#[test]
fn refuses_what_it_cannot_keep() {
    let mut room = Harness::<V2>::new();
    room.send(None, &say("ann", "hi")).unwrap();
    let before = room.session().clone();
    for (message, code) in [
        (json!({"kind": "say", "text": "who am I?"}), "no-sender"),
        (say("", "hi"), "bad-nick"),
        (say("a\tb", "hi"), "bad-nick"),
        (say(&"x".repeat(65), "hi"), "bad-nick"),
        (say("ann", &"x".repeat(TEXT_BYTES_MAX + 1)), "text-too-long"),
        (json!({"kind": "shout", "from": "ann", "text": "hi"}), "bad-message"),
        (json!({"kind": "say", "from": "ann"}), "bad-message"),
        (json!("hi"), "bad-message"),
    ] {
        assert_eq!(room.send(None, &message).unwrap_err().code(), Some(code), "{message}");
    }
    assert_eq!(room.session(), &before);
    assert_eq!(room.query(&json!({"query": "when"})).unwrap_err().code(), Some("bad-query"));
    let mut v1 = Harness::<V1>::new();
    let mentions = json!({"query": "mentions", "of": "ann"});
    assert_eq!(v1.query(&mentions).unwrap_err().code(), Some("bad-query"));
}

/// Search must see the last lines and no others, or the state would grow without end.
#[test]
fn keeps_the_last_lines() {
    let mut room = Harness::<V1>::new();
    for i in 1..=WINDOW + 3 {
        room.send(None, &say("ann", &format!("Line {i}"))).unwrap();
    }
    let all = ask(&mut room, json!({"query": "search", "limit": 1000}));
    assert_eq!(numbers(&all), (4..=WINDOW + 3).rev().collect::<Vec<_>>());
    assert_eq!(numbers(&ask(&mut room, json!({"query": "search", "text": "LINE 3"}))).len(), 10);
    assert_eq!(numbers(&ask(&mut room, json!({"query": "search", "text": "line 203"}))), [203]);
}

/// Who is mentioned, and who is not: strangers, oneself, those who came later, lines gone.
#[test]
fn indexes_mentions() {
    let mut room = Harness::<V2>::new();
    for (from, text) in [
        ("ann", "is bob here?"),        // bob has not spoken yet
        ("bob", "ann: yes, bob is"),    // ann; not oneself
        ("cat", "ann, bob: hello ann"), // both, once each
        ("ann", "banana"),              // nobody
    ] {
        room.send(None, &say(from, text)).unwrap();
    }
    let of = |room: &mut _, nick: &str| {
        numbers(&ask(room, json!({"query": "mentions", "of": nick, "limit": 1000})))
    };
    assert_eq!((of(&mut room, "ann"), of(&mut room, "bob")), (vec![3, 2], vec![3]));
    assert!(of(&mut room, "nobody").is_empty());
    for _ in 0..WINDOW - 2 {
        room.send(None, &say("cat", "nothing")).unwrap();
    }
    assert_eq!(of(&mut room, "ann"), [3]);
    room.send(None, &say("cat", "bob?")).unwrap();
    assert_eq!((of(&mut room, "ann"), of(&mut room, "bob")), (vec![], vec![WINDOW + 3]));
}

/// A version that guesses at a shape it doesn't know would corrupt the session.
#[test]
fn migrates_from_known_versions_only() {
    for from in ["0.9.0", "3.0.0", "", "f00d"] {
        assert!(Harness::<V1>::new().migrate(from).is_err(), "v1 from {from}");
        assert!(Harness::<V2>::new().migrate(from).is_err(), "v2 from {from}");
    }
    assert!(Harness::<V1>::new().migrate("2.4.0").is_ok());
    assert!(Harness::<V2>::new().migrate("1.0.0").is_ok());
}

/// The worst room there can be still migrates within the limits of one transaction.
#[test]
fn migrates_the_fullest_window() {
    let mut room = Harness::<V1>::new();
    let nicks: Vec<String> = (0..32).map(|i| format!("{i:0>64}")).collect();
    for nick in &nicks {
        room.send(None, &say(nick, "hi")).unwrap();
    }
    let sixteen: String = nicks[..17].iter().map(|nick| format!("{nick} ")).collect();
    let text = format!("{sixteen}{}", "\u{1}".repeat(TEXT_BYTES_MAX - sixteen.len()));
    for _ in 0..WINDOW {
        room.send(None, &say(&nicks[31], &text)).unwrap();
    }
    let room = room.swap::<V2>("1.0.0").unwrap();
    assert_eq!(room.get::<Line>("line/007").unwrap().mentions.len(), 16);
    room.swap::<V1>("2.0.0").unwrap();
}

/// Nicks that are part of each other, of words, and with characters that nicks have.
const NICKS: [&str; 7] = ["an", "ann", "ann_", "[an]", "bob", "s3 rain", "a/b"];

fn any_line() -> impl Strategy<Value = (Kind, Option<&'static str>, String)> {
    let kind = prop_oneof![
        8 => Just(Kind::Say),
        1 => Just(Kind::Action),
        1 => Just(Kind::System),
        1 => Just(Kind::Topic),
    ];
    let word = prop_oneof![
        proptest::sample::select(&NICKS[..]).prop_map(str::to_owned),
        proptest::sample::select(vec!["banana", "hello", "x"]).prop_map(str::to_owned),
        "\\PC{0,6}",
    ];
    let mark = proptest::sample::select(vec![" ", ": ", ", ", "? ", "! ", "", ":"]);
    let text = proptest::collection::vec((word, mark), 0..5)
        .prop_map(|parts| parts.into_iter().flat_map(|(w, m)| [w, m.to_owned()]).collect());
    (kind, proptest::sample::select(&NICKS[..]), text)
        .prop_map(|(kind, nick, text)| (kind, (kind != Kind::System).then_some(nick), text))
}

fn play<H: RawHandler>(mut room: Harness<H>, lines: &[(Kind, Option<&str>, String)]) -> Harness<H> {
    for (kind, from, text) in lines {
        room.session_mut().time_ms += 1;
        room.send(None, &json!({"kind": kind, "from": from, "text": text})).unwrap();
    }
    room
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A swap at any line, there, back and there again, must leave exactly the state (and the
    /// events) that the last version would have made of all lines itself.
    #[test]
    fn a_migrated_room_is_the_room_that_would_have_been(
        lines in proptest::collection::vec(any_line(), 0..2 * WINDOW as usize),
        mut cuts in proptest::array::uniform3(0.0..1.0f64),
    ) {
        cuts.sort_by(f64::total_cmp);
        let cut = |i: usize| (cuts[i] * lines.len() as f64) as usize;
        let (a, b, c) = (cut(0), cut(1), cut(2));

        let v1: Session = play(Harness::<V1>::new(), &lines).into_session();
        let v2: Session = play(Harness::<V2>::new(), &lines).into_session();

        let room = play(Harness::<V1>::new(), &lines[..a]);
        let room = play(room.swap::<V2>("1.0.0").unwrap(), &lines[a..b]);
        let room = play(room.swap::<V1>("2.0.0").unwrap(), &lines[b..c]);
        let room = play(room.swap::<V2>("1.0.0").unwrap(), &lines[c..]);
        prop_assert_eq!(room.session(), &v2);
        let room = room.swap::<V1>("2.0.0").unwrap();
        prop_assert_eq!(room.session(), &v1);
    }

    /// The index says what a search of the window with the definition itself says.
    #[test]
    fn the_index_is_the_definition(
        lines in proptest::collection::vec(any_line(), 0..2 * WINDOW as usize),
    ) {
        let mut room = play(Harness::<V2>::new(), &lines);
        for nick in NICKS {
            let first = lines.iter().position(|(_, from, _)| *from == Some(nick));
            let expected: Vec<u64> = lines
                .iter()
                .enumerate()
                .skip(lines.len().saturating_sub(WINDOW as usize))
                .filter(|(i, (_, from, text))| {
                    *from != Some(nick)
                        && first.is_some_and(|first| first < *i)
                        && crate::words(text).contains(&nick)
                })
                .map(|(i, _)| i as u64 + 1)
                .rev()
                .collect();
            let answer = ask(&mut room, json!({"query": "mentions", "of": nick, "limit": 1000}));
            prop_assert_eq!(numbers(&answer), expected);
        }
    }
}
