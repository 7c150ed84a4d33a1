use super::*;
use crate::{
    effects::{http, send},
    error::Rejection as Refusal,
};
use serde_json::json;

fn reply(body: &Value) -> Observed {
    let content_type = "application/json".to_owned();
    let outcome = Outcome::Reply { content_type, body: body.to_string().into() };
    Observed {
        outcome,
        seq: 1,
        expires_ms: None,
        time_ms: TIME_MS_DEFAULT,
        events: Vec::new(),
        notified: Vec::new(),
        timers: Vec::new(),
        sent: Vec::new(),
        requests: Vec::new(),
        closed: false,
        fired: Vec::new(),
        state: BTreeMap::new(),
        unlike: Vec::new(),
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
        (r#"{"kind": "query", "sender": "a"}"#, "a client's"),
        (r#"{"kind": "migrate"}"#, "`from`"),
        (r#"{"from": "1"}"#, "no session"),
        (r#"{"from": "Stock/a"}"#, "no session"),
        (r#"{"from": "stock/a", "sender": "ann"}"#, "a client's"),
        (r#"{"kind": "query", "from": "stock/a"}"#, "`from`"),
        (r#"{"timer": "t", "from": "stock/a"}"#, "`from`"),
        (r#"{"from": "stock/a", "attempt": 0}"#, "is 1"),
        (r#"{"body": 1, "attempt": 1}"#, "`attempt`"),
        (r#"{"body": 1, "reply_wanted": true}"#, "`reply_wanted`"),
        (r#"{"from": "stock/a", "refusal": {"code": "c"}}"#, "of an answer"),
        (r#"{"answer": "n"}"#, "`from`"),
        (r#"{"kind": "answer", "from": "stock/a"}"#, "the name"),
        (r#"{"answer": "n", "from": "stock/a", "sender": "ann"}"#, "a client's"),
        (r#"{"answer": "n", "from": "stock/a", "body": 1, "refusal": {"code": "c"}}"#, "no body"),
        (r#"{"answer": "n", "from": "stock/a", "refusal": {}}"#, "missing field `code`"),
        (r#"{"expect": {"sent": [{"body": 1}]}}"#, "missing field `to`"),
        (r#"{"expect": {"sent": [{"to": "a/b", "body": 1, "body_text": "1"}]}}"#, "one body"),
        (r#"{"expect": {"sent": [{"to": "a/b", "body_base64": "?"}]}}"#, "no base64"),
        (r#"{"advance": "1s", "expect": {"sent": []}}"#, "only `fired`"),
        (r#"{"answer": "a", "status": 99}"#, "no `status`"),
        (r#"{"answer": "", "status": 200}"#, "the id of a request"),
        (r#"{"answer": "a", "status": 200, "from": "stock/a"}"#, "or has a `status`"),
        (r#"{"answer": "a", "status": 200, "code": "timeout"}"#, "that `fail`s"),
        (r#"{"answer": "a", "status": 200, "sender": "ann"}"#, "a client's"),
        (r#"{"answer": "a", "fail": "a", "code": "dns"}"#, "a `fail`"),
        (r#"{"fail": "a"}"#, "has a `code`"),
        (r#"{"fail": "a", "code": "dns", "body": 1}"#, "with a `status` alone"),
        (r#"{"fail": "a", "code": "dns", "headers": {}}"#, "with a `status`"),
        (r#"{"fail": "a", "code": "dns", "attempt": 0}"#, "is 1"),
        (r#"{"answer": "a", "status": 500, "parts": ["x"]}"#, "of success"),
        (r#"{"answer": "a", "status": 200, "parts": [""]}"#, "a part has"),
        (r#"{"answer": "a", "status": 200, "parts": [["x"], ["y"]], "attempts": 1}"#, "`attempts`"),
        (r#"{"body": 1, "status": 200}"#, "of the `answer` to a request"),
        (r#"{"timer": "t", "parts": []}"#, "of the `answer` to a request"),
        (r#"{"swap": "v2.wasm", "crash": true}"#, "calls the handler"),
        (r#"{"swap": "v2.wasm", "session": "s"}"#, "all sessions"),
        (r#"{"swap": "v2.wasm", "body": 1}"#, "no body"),
        (r#"{"swap": "v2.wasm", "expect": {"seq": 1}}"#, "nothing can be expected"),
        (r#"{"service": "No", "body": 1}"#, "service name"),
        (r#"{"body": 1, "expect": {"holds": {"a": {"equals": 1}}}}"#, "it begins with $"),
        (r#"{"body": 1, "expect": {"holds": {"$": {"never_falls": true}}}}"#, "a simulation"),
        (r#"{"body": 1, "expect": {"holds": {}, "trap": true}}"#, "ends in one way"),
        (r#"{"presence": "here"}"#, "unknown variant `here`"),
        (r#"{"presence": "present", "body": 1}"#, "no body"),
        (r#"{"presence": "present", "sender": "ann"}"#, "a client's"),
        (r#"{"kind": "query", "presence": "present"}"#, "own kind"),
        (r#"{"expect": {"requests": [{"url": "http://a"}]}}"#, "missing field `id`"),
        (
            r#"{"expect": {"requests": [{"id": "a", "cancelled": true, "url": "u"}]}}"#,
            "`cancelled`",
        ),
        (r#"{"expect": {"requests": [{"id": "a", "body": 1, "body_text": "1"}]}}"#, "one body"),
        (r#"{"expect": {"requests": [{"id": "a", "body_base64": "?"}]}}"#, "no base64"),
        (r#"{"advance": "1s", "expect": {"closed": true}}"#, "only `fired`"),
        (r#"{"kind": "migrate", "from": "1", "body": 1}"#, "no body"),
        (r#"{"kind": "timer"}"#, "needs its `timer`"),
        (r#"{"kind": "advance"}"#, "by how much"),
        (r#"{"kind": "query", "timer": "t"}"#, "own kind"),
        (r#"{"timer": "t", "advance": "1s"}"#, "a `timer`, an `advance`"),
        (r#"{"timer": "t", "sender": "ann"}"#, "a client's"),
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
        (r#"{"advance": "1s", "expect": {"expires": null}}"#, "only `fired`"),
        (r#"{"expect": {"expires": "soon"}}"#, "no duration"),
        (r#"{"expect": {"expires": -1}}"#, "no time at which a session"),
        (r#"{"expect": {"expires": {"after": "1s"}}}"#, "no time at which a session"),
        (r#"{"expect": {"timers": [{"name": "t", "cancelled": true, "body": 1}]}}"#, "`cancelled`"),
        (r#"{"expect": {"timers": [{"name": "t", "due_ms": 1, "after": "1s"}]}}"#, "`after`"),
        (r#"{"kind": "migrate", "from": "1", "expect": {"reply": 1}}"#, "no reply"),
        (r#"{"expect": {"refused": "no"}}"#, "only `migrate`"),
        (r#"{"timer": "t", "client": {"subject": "ann"}}"#, "`client` is of a client's message"),
        (r#"{"client": {"name": "ann"}}"#, "unknown field `name`"),
        (r#"{"client": {"kind": ""}}"#, "an identity has a kind"),
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
        r#"{"sender": "ann", "id": "1", "body": {"b": 1.50, "a": "\u00e4"}, "client": {"kind": "accounts", "subject": "u-7", "claims": {"role": "x", "org": "y"}}}"#,
        "\n",
        r#"{"kind": "query", "session": "s", "time_ms": 7, "body_base64": "AP8=", "client": {"subject": "bot"}}"#,
        "\n",
        r#"{"kind": "migrate", "from": "0.1.0", "given": {"k": [1]}}"#,
        "\n",
    ))
    .unwrap();
    let Call::Message { sender, id, content_type, body, client } = &steps[0].call else { panic!() };
    assert_eq!((sender.as_deref(), id.as_deref()), (Some("ann"), Some("1")));
    let client = client.as_deref().unwrap();
    assert_eq!((&*client.kind, client.subject.as_deref()), ("accounts", Some("u-7")));
    let claims = [("org", "y"), ("role", "x")].map(|(name, value)| (name.into(), value.into()));
    assert_eq!(client.claims, claims, "a node has them in order");
    assert_eq!(content_type, "application/json");
    assert_eq!(&body[..], br#"{"b": 1.50, "a": "\u00e4"}"#);
    assert_eq!((steps[0].session.as_str(), steps[0].time_ms), (SESSION_DEFAULT, TIME_MS_DEFAULT));
    let Call::Query { content_type, body, client: asks } = &steps[1].call else { panic!() };
    assert_eq!((content_type.as_str(), &body[..]), ("application/octet-stream", &[0, 255][..]));
    assert_eq!(
        asks.as_deref().map(|it| (&*it.kind, it.subject.as_deref())),
        Some(("token", Some("bot")))
    );
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

/// A handler that is told of another sender, or of a message where it is an answer, is tested for something else.
#[test]
fn a_line_says_which_session_a_message_comes_from() {
    let steps = parse(concat!(
        r#"{"session": "w", "from": "cart/c/1", "body": 1}"#,
        "\n",
        r#"{"kind": "message", "from": "cart/c", "attempt": 2, "reply_wanted": true, "body_text": "t"}"#,
        "\n",
        r#"{"answer": "n", "from": "stock/w", "attempt": 3, "body": [1]}"#,
        "\n",
        r#"{"answer": "n", "from": "stock/w", "refusal": {"code": "c", "message": "m", "retriable": true}}"#,
        "\n",
    ))
    .unwrap();
    let delivery = |step: &Step| match &step.call {
        Call::Delivery { received, content_type, .. } => {
            let Received { from, attempt, reply, .. } = received.clone();
            (from.to_string(), attempt, reply, content_type.clone())
        }
        call => panic!("{call:?}"),
    };
    assert_eq!(delivery(&steps[0]), ("cart/c/1".into(), 1, false, "application/json".into()));
    let text = "text/plain; charset=utf-8".to_owned();
    assert_eq!(delivery(&steps[1]), ("cart/c".into(), 2, true, text));
    let answer = |step: &Step| match &step.call {
        Call::Answer { answered, content_type, body } => {
            let Answered { of, name, attempt, refusal, .. } = answered.clone();
            (of.to_string(), name, attempt, refusal, content_type.clone(), body.clone())
        }
        call => panic!("{call:?}"),
    };
    let (of, name) = ("stock/w".to_owned(), "n".to_owned());
    let replied = (of, name, 3, None, "application/json".into(), Bytes::from_static(b"[1]"));
    assert_eq!(answer(&steps[2]), replied);
    let refusal = send::Refusal { code: "c".into(), reason: "m".into(), retriable: true };
    let (of, name, ..) = replied;
    assert_eq!(
        answer(&steps[3]),
        (of, name, 1, Some(refusal), "application/octet-stream".to_owned(), Bytes::new())
    );
    let shown: Vec<_> = steps.iter().map(ToString::to_string).collect();
    assert_eq!(shown[0], r#"message of cart/c/1 to "w": 1"#);
    assert_eq!(shown[3], r#"answer "n" of stock/w to "test": the refusal "c""#);
}

/// A handler that is told of another answer is tested for something else.
#[test]
fn a_line_says_what_comes_of_a_request() {
    let steps = parse(concat!(
        r#"{"answer": "llm", "status": 201, "headers": {"ETag": "x"}, "body": {"n": 1.50}}"#,
        "\n",
        r#"{"kind": "answer", "answer": "llm", "status": 200, "parts": [["a"], ["b", "c"]], "attempt": 2}"#,
        "\n",
        r#"{"fail": "llm", "code": "timeout", "reason": "Too slow.", "attempts": 5}"#,
        "\n",
        r#"{"fail": "llm", "code": "too-large", "status": 200, "body_text": "abc"}"#,
        "\n",
        r#"{"presence": "absent"}"#,
        "\n",
    ))
    .unwrap();
    let answer = |step: &Step| match &step.call {
        Call::Http(answer) => answer.clone(),
        call => panic!("{call:?}"),
    };
    let HttpAnswer { id, outcome, body, content_type, attempts, attempt, parts } =
        answer(&steps[0]);
    let headers = vec![("etag".to_owned(), "x".to_owned())];
    assert_eq!(outcome, http::Outcome::Response(http::Response { status: 201, headers }));
    assert_eq!((id.as_str(), attempts, attempt, parts.len()), ("llm", 1, 1, 0));
    assert_eq!(body.as_deref(), Some(&br#"{"n": 1.50}"#[..]));
    assert_eq!(content_type.as_deref(), Some("application/json"));
    let shown = answer(&steps[1]);
    assert_eq!((shown.attempts, shown.attempt, shown.body), (2, 2, None));
    assert_eq!(shown.parts, [vec!["a"], vec!["b", "c"]]);
    let failure = |step: &Step| match answer(step).outcome {
        http::Outcome::Failure(failure) => (failure.code, failure.reason, failure.response),
        outcome => panic!("{outcome:?}"),
    };
    assert_eq!(failure(&steps[2]), ("timeout".into(), "Too slow.".into(), None));
    assert_eq!(answer(&steps[2]).attempts, 5);
    let (code, _, response) = failure(&steps[3]);
    assert_eq!((code.as_str(), response.map(|it| it.status)), ("too-large", Some(200)));
    assert!(matches!(steps[4].call, Call::Presence { present: false }));
    let shown: Vec<_> = steps.iter().map(ToString::to_string).collect();
    assert_eq!(shown[0], r#"answer "llm", 201 {"n": 1.50} to "test""#);
    assert_eq!(shown[2], r#"failure "llm", timeout to "test""#);
    assert_eq!(shown[4], r#"presence to "test": absent"#);
}

/// A request that nobody looked at would be tested by nothing; so would an end that does not come.
#[test]
fn requests_and_a_close_are_compared() {
    let made = |id: &str| RequestChange {
        id: id.into(),
        made: Some(MadeRequest {
            method: "POST".into(),
            url: "https://a/b".into(),
            headers: vec![("Accept".into(), "text/plain".into()), ("x".into(), "1".into())],
            body: Bytes::from_static(b"{\"n\":1}"),
            stream: None,
        }),
    };
    let cancelled = RequestChange { id: "c".into(), made: None };
    let requests = vec![made("a"), made("b"), cancelled];
    let got = Observed { requests, closed: true, ..reply(&Value::Null) };
    let same = json!({"closed": true, "requests": [
        {"id": "c", "cancelled": true},
        {"id": "b"},
        {"id": "a", "method": "POST", "url": "https://a/b", "body": {"n": 1}, "stream": null,
            "headers": {"accept": "text/plain", "X": "1", "authorization": null}},
    ]});
    assert_eq!(differences(&same, &got), [""; 0]);
    let other = json!({"closed": false, "requests": [
        {"id": "a", "method": "GET", "url": "https://a/c", "body": {"n": 2}, "stream": "token",
            "headers": {"accept": "a", "x": null, "y": "1"}},
        {"id": "b", "cancelled": true},
        {"id": "d"},
    ]});
    assert_eq!(
        differences(&other, &got),
        [
            "requests[\"a\"].method: expected \"GET\", got \"POST\"",
            "requests[\"a\"].url: expected \"https://a/c\", got \"https://a/b\"",
            "requests[\"a\"].headers[\"accept\"]: expected \"a\", got \"text/plain\"",
            "requests[\"a\"].headers[\"x\"]: expected none, got \"1\"",
            "requests[\"a\"].headers[\"y\"]: expected \"1\", got none",
            "requests[\"a\"].stream: expected \"token\", got none",
            "requests[\"a\"].body.n: expected 2, got 1",
            "requests[\"b\"]: it was made, POST https://a/b",
            "requests[\"d\"]: it was neither made nor cancelled",
            "requests[\"c\"]: it was cancelled, which was not expected",
            "closed: expected false, got true",
        ]
    );
}

/// As for events, and in another order it would be another conversation.
#[test]
fn what_was_sent_is_compared_in_order() {
    let sent = |session: &str, reply_as: Option<&str>| Sent {
        to: SessionKey::parse("stock", session).unwrap(),
        reply_as: reply_as.map(str::to_owned),
        content_type: "application/json".into(),
        body: Bytes::from_static(b"1"),
    };
    let got =
        Observed { sent: vec![sent("a/b", None), sent("c", Some("n"))], ..reply(&Value::Null) };
    let same = json!({"sent": [
        {"to": "stock/a/b", "reply_as": null, "body": 1},
        {"to": "stock/c", "reply_as": "n", "content_type": "application/json", "body_text": "1"},
    ]});
    assert_eq!(differences(&same, &got), [""; 0]);
    let less = json!({"sent": [{"to": "stock/a/b"}, {"to": "stock/c"}]});
    assert_eq!(differences(&less, &got), [""; 0]);
    let other = json!({"sent": [
        {"to": "stock/c", "reply_as": "n", "content_type": "text/plain", "body": 2},
        {"to": "stock/c", "reply_as": null},
        {"to": "stock/d"},
    ]});
    assert_eq!(
        differences(&other, &got),
        [
            "sent[0].to: expected \"stock/c\", got \"stock/a/b\"",
            "sent[0].reply_as: expected \"n\", got none",
            "sent[0].content_type: expected \"text/plain\", got \"application/json\"",
            "sent[0].body: expected 2, got 1",
            "sent[1].reply_as: expected none, got \"n\"",
            "sent[2]: expected one to \"stock/d\", it is missing",
        ]
    );
    assert_eq!(
        differences(&json!({"sent": [{"to": "stock/a/b"}]}), &got),
        ["sent[1]: 1 to \"stock/c\" was not expected"]
    );
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
        key: SessionKey::parse("s", SESSION_DEFAULT).unwrap(),
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

/// A session that is never deleted, or too soon, must be seen; a script that does not ask does not care.
#[test]
fn the_time_at_which_a_session_expires_is_compared() {
    let now = TIME_MS_DEFAULT;
    let got = |expires_ms| Observed { expires_ms, ..reply(&Value::Null) };
    for same in [json!({}), json!({"expires": "1m"}), json!({"expires": now + 60_000})] {
        assert_eq!(differences(&same, &got(Some(now + 60_000))), [""; 0]);
    }
    for same in [json!({}), json!({"expires": null})] {
        assert_eq!(differences(&same, &got(None)), [""; 0]);
    }
    for (other, got, difference) in [
        (json!("1m"), Some(now + 1), "expected 60000 ms after the call, got 1 ms".to_owned()),
        (json!("1m"), None, "expected 60000 ms after the call, got none".to_owned()),
        (json!(5), Some(6), "expected 5, got 6".to_owned()),
        (json!(5), None, "expected 5, got none".to_owned()),
        (json!(null), Some(6), "expected none, got 6".to_owned()),
    ] {
        let got = Observed { expires_ms: got, ..reply(&Value::Null) };
        let found = differences(&json!({"expires": other}), &got);
        assert_eq!(found, [format!("expires: {difference}")]);
    }
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
