use super::*;
use crate::error::Rejection as Refusal;
use serde_json::json;

fn reply(body: &Value) -> Observed {
    let content_type = "application/json".to_owned();
    let outcome = Outcome::Reply { content_type, body: body.to_string().into() };
    Observed { outcome, seq: 1, events: Vec::new(), notified: Vec::new(), state: BTreeMap::new() }
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
