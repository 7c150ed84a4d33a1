use super::*;
use crate::error::Rejection as Refusal;
use serde_json::json;

fn reply(body: &Value) -> Observed {
    let content_type = "application/json".to_owned();
    let outcome = Outcome::Reply { content_type, body: body.to_string().into() };
    Observed {
        outcome,
        seq: 1,
        events: Vec::new(),
        notified: Vec::new(),
        timers: Vec::new(),
        fired: Vec::new(),
        state: BTreeMap::new(),
    }
}

fn differences(expect: &Value, got: &Observed) -> Vec<String> {
    let line = json!({"body": null, "expect": expect}).to_string();
    parse(&line).unwrap()[0].expect.differences(got)
}

/// A misspelt or contradictory line that is passed over would be a test that can't fail.
#[test]
fn a_bad_line_is_refused_with_its_number() {
    for (line, part) in [
        ("{", "EOF"),
        (r#"{"bdy": 1}"#, "unknown field `bdy`"),
        (r#"{"expect": {"repyl": 1}}"#, "unknown field `repyl`"),
        (r#"{"body": 1, "body_text": ""}"#, "one body"),
        (r#"{"body_base64": "?"}"#, "no base64"),
        (r#"{"kind": "ask"}"#, "unknown variant `ask`"),
        (r#"{"kind": "query", "sender": "a"}"#, "a message's"),
        (r#"{"kind": "migrate"}"#, "`from`"),
        (r#"{"from": "1"}"#, "`from`"),
        (r#"{"kind": "migrate", "from": "1", "body": 1}"#, "no body"),
        (r#"{"kind": "timer"}"#, "needs its `timer`"),
        (r#"{"kind": "advance"}"#, "by how much"),
        (r#"{"kind": "query", "timer": "t"}"#, "own kind"),
        (r#"{"timer": "t", "advance": "1s"}"#, "a `timer` or an `advance`"),
        (r#"{"timer": "t", "sender": "ann"}"#, "a message's"),
        (r#"{"timer": "t", "attempt": 0}"#, "is 1"),
        (r#"{"missed": 1}"#, "of a timer's message"),
        (r#"{"advance": "1 mile"}"#, "no duration"),
        (r#"{"advance": "-1s"}"#, "no duration"),
        (r#"{"advance": 1}"#, "expected a string"),
        (r#"{"advance": "1s", "body": 1}"#, "no body"),
        (r#"{"advance": "1s", "session": "s"}"#, "all sessions"),
        (r#"{"advance": "1s", "expect": {"seq": 1}}"#, "only `fired`"),
        (r#"{"advance": "1s", "expect": {"fired": [{"tmer": "t"}]}}"#, "unknown field `tmer`"),
        (r#"{"expect": {"fired": []}}"#, "only `advance`"),
        (r#"{"expect": {"timers": [{"name": "t", "cancelled": true, "body": 1}]}}"#, "`cancelled`"),
        (r#"{"expect": {"timers": [{"name": "t", "due_ms": 1, "after": "1s"}]}}"#, "`after`"),
        (r#"{"kind": "migrate", "from": "1", "expect": {"reply": 1}}"#, "no reply"),
        (r#"{"expect": {"refused": "no"}}"#, "only `migrate`"),
        (r#"{"expect": {"reply": 1, "trap": true}}"#, "one way"),
        (r#"{"expect": {"reply": 1, "reply_text": ""}}"#, "one reply"),
        (r#"{"expect": {"trap": false}}"#, "true"),
        (r#"{"expect": {"state_base64": {"k": "?"}}}"#, "no base64"),
    ] {
        let why = parse(&format!("// a comment\n\n{line}\n")).unwrap_err();
        assert!(why.starts_with("line 3: ") && why.contains(part), "{line}: {why}");
    }
}

/// What a script says must reach the handler as it is written: a number that is read and written
/// again may be another one.
#[test]
fn a_line_says_what_is_sent() {
    let steps = parse(concat!(
        r#"{"sender": "ann", "id": "1", "body": {"b": 1.50, "a": "\u00e4"}}"#,
        "\n",
        r#"{"kind": "query", "session": "s", "time_ms": 7, "body_base64": "AP8="}"#,
        "\n",
        r#"{"kind": "migrate", "from": "0.1.0", "given": {"k": [1]}}"#,
        "\n",
    ))
    .unwrap();
    let Call::Message { sender, id, content_type, body } = &steps[0].call else { panic!() };
    assert_eq!((sender.as_deref(), id.as_deref()), (Some("ann"), Some("1")));
    assert_eq!(content_type, "application/json");
    assert_eq!(&body[..], br#"{"b": 1.50, "a": "\u00e4"}"#);
    assert_eq!((steps[0].session.as_str(), steps[0].time_ms), (SESSION_DEFAULT, TIME_MS_DEFAULT));
    let Call::Query { content_type, body } = &steps[1].call else { panic!() };
    assert_eq!((content_type.as_str(), &body[..]), ("application/octet-stream", &[0, 255][..]));
    assert_eq!((steps[1].session.as_str(), steps[2].time_ms, steps[2].line), ("s", 7, 3));
    assert_eq!(steps[2].given, [("k".to_owned(), Bytes::from_static(b"[1]"))]);
}

/// The clock is the script's: a timer's message at another time than the handler's would be another test.
#[test]
fn the_clock_goes_on_as_a_line_says() {
    let steps = parse(concat!(
        r#"{"timer": "t", "time_ms": 5, "body": 1}"#,
        "\n",
        r#"{"advance": "1h 30m"}"#,
        "\n",
        r#"{"kind": "timer", "timer": "t", "due_ms": 9, "missed": 2, "attempt": 3}"#,
        "\n",
        r#"{"advance": "2d"}"#,
        "\n",
    ))
    .unwrap();
    let firing = |step: &Step| match &step.call {
        Call::Timer { firing, .. } => firing.clone(),
        call => panic!("{call:?}"),
    };
    let first = Firing { name: "t".into(), due_ms: 5, missed: 0, attempt: 1 };
    assert_eq!(firing(&steps[0]), first);
    assert_eq!(firing(&steps[2]), Firing { due_ms: 9, missed: 2, attempt: 3, ..first });
    let minute = 60_000;
    assert!(matches!(steps[1].call, Call::Advance { by_ms } if by_ms == 90 * minute));
    let times: Vec<_> = steps.iter().map(|step| step.time_ms).collect();
    let later = 5 + 90 * minute;
    assert_eq!(times, [5, later, later, later + 2 * 24 * 60 * minute]);
}

/// As for events: of a timer that nobody looked at, nothing would be tested.
#[test]
fn timers_and_what_was_due_are_compared() {
    let body = Bytes::from_static(b"1");
    let set = |name: &str| TimerChange {
        name: name.to_owned(),
        set: Some(SetTimer {
            due_ms: 3_000,
            time_ms: 1_000,
            content_type: "application/json".into(),
            body: body.clone(),
        }),
    };
    let cancelled = TimerChange { name: "c".into(), set: None };
    let got = Observed { timers: vec![set("a"), cancelled], ..reply(&Value::Null) };
    let same = json!({"timers": [
        {"name": "c", "cancelled": true},
        {"name": "a", "after": "2s", "content_type": "application/json", "body": 1},
    ]});
    assert_eq!(differences(&same, &got), [""; 0]);
    assert_eq!(differences(&json!({"timers": [{"name": "a", "due_ms": 3_000}]}), &got).len(), 1);
    let other = json!({"timers": [
        {"name": "a", "after": "3s", "content_type": "text/plain", "body": 2},
        {"name": "b"},
        {"name": "c", "after": "2s"},
    ]});
    assert_eq!(
        differences(&other, &got),
        [
            "timers[\"a\"].after: expected 3000 ms, got 2000 ms",
            "timers[\"a\"].content_type: expected \"text/plain\", got \"application/json\"",
            "timers[\"a\"].body: expected 2, got 1",
            "timers[\"b\"]: it was neither set nor cancelled",
            "timers[\"c\"]: it was cancelled",
        ]
    );

    let firing = Firing { name: "t".into(), due_ms: 5, missed: 1, attempt: 2 };
    let fired = |outcome, dead| Fired {
        session: SESSION_DEFAULT.into(),
        firing: firing.clone(),
        dead,
        observed: Observed { outcome, ..reply(&Value::Null) },
    };
    let good = reply(&json!(7)).outcome;
    let bad = Outcome::Trapped("unreachable".into());
    let got = Observed { fired: vec![fired(good, false), fired(bad, true)], ..reply(&Value::Null) };
    let differences = |expect: &Value| {
        let line = json!({"advance": "1s", "expect": expect}).to_string();
        parse(&line).unwrap()[0].expect.differences(&got)
    };
    let same = json!({"fired": [
        {"timer": "t", "due_ms": 5, "missed": 1, "attempt": 2, "expect": {"reply": 7}},
        {"timer": "t", "session": SESSION_DEFAULT, "dead": true, "expect": {"trap": "reach"}},
    ]});
    assert_eq!(differences(&same), [""; 0]);
    assert_eq!(
        differences(&json!({})),
        ["fired[1].expected success, got a trap: unreachable"],
        "a failure that nobody expects"
    );
    let other = json!({"fired": [
        {"timer": "u", "session": "s", "due_ms": 6, "missed": 2, "attempt": 1, "dead": true,
            "expect": {"reply": 8}},
    ]});
    assert_eq!(
        differences(&other),
        [
            "fired[0].timer: expected \"u\", got \"t\"",
            "fired[0].session: expected \"s\", got \"test\"",
            "fired[0].due_ms: expected 6, got 5",
            "fired[0].missed: expected 2, got 1",
            "fired[0].attempt: expected 1, got 2",
            "fired[0].dead: expected true, got false",
            "fired[0].reply: expected 8, got 7",
            "fired[1]: \"t\" of \"test\" was not expected",
        ]
    );
    let more = json!({"timer": "t"});
    let more = json!({"fired": [more, {"timer": "t", "expect": {"trap": true}}, more]});
    assert_eq!(differences(&more), ["fired[2]: expected \"t\", it is missing"]);
}

/// A difference that is not seen is a test that can't fail; one that is not there, a test that
/// nobody believes.
#[test]
fn differences_are_told_by_their_place() {
    let got = reply(&json!({"a": [1, 2.0], "b": {"x y": u64::MAX}, "c": null}));
    let same = json!({"reply": {"a": [1.0, 2], "b": {"x y": u64::MAX}, "c": null}, "seq": 1});
    assert_eq!(differences(&same, &got), [""; 0]);
    let other = json!({"reply": {"a": [1, 3, 4], "b": {"x y": u64::MAX - 1}, "d": 1}, "seq": 2});
    assert_eq!(
        differences(&other, &got),
        [
            "reply.a[1]: expected 3, got 2.0",
            "reply.a[2]: expected 4, it is missing",
            "reply.b[\"x y\"]: expected 18446744073709551614, got 18446744073709551615",
            "reply.d: expected 1, it is missing",
            "reply.c: null was not expected",
            "seq: expected 2, got 1",
        ]
    );
    assert_eq!(differences(&json!({"reply": null}), &got).len(), 1);
    assert_eq!(differences(&json!({"reply_text": "x"}), &got).len(), 1);
    assert_eq!(differences(&json!({"content_type": "text/plain"}), &got).len(), 1);
}

/// A call that fails must not pass for one that was not looked at.
#[test]
fn a_failure_that_is_not_expected_is_a_difference() {
    let refusal = Refusal { code: "late".into(), message: "Too late.".into(), retriable: true };
    let failed = |outcome| Observed { outcome, ..reply(&Value::Null) };
    let rejected = failed(Outcome::Rejected(refusal));
    assert_eq!(
        differences(&json!({}), &rejected),
        ["expected success, got the rejection \"late\": Too late."]
    );
    let exact = json!({"rejection": {"code": "late", "message": "Too late.", "retriable": true}});
    assert_eq!(differences(&exact, &rejected), [""; 0]);
    assert_eq!(differences(&json!({"rejection": {"code": "late"}}), &rejected), [""; 0]);
    let wrong = json!({"rejection": {"code": "early", "message": "m", "retriable": false}});
    assert_eq!(differences(&wrong, &rejected).len(), 3);
    assert_eq!(differences(&json!({"trap": true}), &rejected).len(), 1);
    let trapped = failed(Outcome::Trapped("unreachable".into()));
    assert_eq!(differences(&json!({"trap": "reach"}), &trapped), [""; 0]);
    assert_eq!(differences(&json!({"trap": "memory"}), &trapped).len(), 1);
    assert_eq!(differences(&json!({"deadline": true}), &trapped).len(), 1);
}

#[test]
fn events_and_state_are_compared() {
    let event = Event {
        kind: "voted".into(),
        content_type: "application/json".into(),
        body: Bytes::from_static(b"{\"n\":1}"),
    };
    let state = BTreeMap::from([
        ("k".to_owned(), Some(Bytes::from_static(b"[1]"))),
        ("gone".to_owned(), None),
    ]);
    let got = Observed { events: vec![event], state, ..reply(&Value::Null) };
    let same = json!({
        "events": [{"kind": "voted", "body": {"n": 1}}],
        "state": {"k": [1], "gone": null},
        "state_base64": {"k": "WzFd"},
    });
    assert_eq!(differences(&same, &got), [""; 0]);
    let other = json!({
        "events": [{"kind": "x", "content_type": "text/plain", "body": {"n": 2}}, {"kind": "y"}],
        "state": {"k": null, "gone": 1},
        "state_base64": {"k": "WzJd"},
    });
    assert_eq!(
        differences(&other, &got),
        [
            "events[0].kind: expected \"x\", got \"voted\"",
            "events[0].content_type: expected \"text/plain\", got \"application/json\"",
            "events[0].body.n: expected 2, got 1",
            "events[1]: expected \"y\", it is missing",
            "state[\"gone\"]: expected 1, there is no such key",
            "state[\"k\"]: expected no such key, it is [1]",
            "state[\"k\"]: expected 3 bytes, got 3; they differ from byte 1 on",
        ]
    );
    assert_eq!(differences(&json!({"events": []}), &got).len(), 1);
}
